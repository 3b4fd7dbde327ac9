//! The pages of docs/ are run: each block marked `sh`, and what the block after it says has to come out.

use integration::containerd::{IMAGE, LIMIT, testbed};
use integration::pty::Pty;
use integration::{Bed, Outcome, bin_dir, cases, ensure, nerdctl, page, suite};
use std::sync::{Mutex, PoisonError};

/// The image that pages speak of.
const BUSYBOX: &str = "docker.io/library/busybox:latest";

/// Runs a page on the containerd's host with its programs first in PATH.
fn run(bed: &Bed, page: &str) -> Outcome {
    bed.ctr(&["images", "tag", "--force", IMAGE, BUSYBOX])?.ok()?;
    let bin = bed.directory("bin")?;
    let bed_of = |path: &str| testbed().join(path);
    for (name, program) in
        [("ctr", bed_of(&format!("c{}/bin/ctr", bed.version()))), ("nerdctl", bed_of("nerdctl/bin/nerdctl"))]
    {
        std::os::unix::fs::symlink(program, bin.join(name))?;
    }
    let toml = bin.join("nerdctl.toml");
    let place = bed.directory("nerdctl")?;
    std::fs::write(&toml, nerdctl::configuration(&bed.containerd.namespace, &place))?;
    let path = format!("{}:{}", bin.display(), std::env::var("PATH")?);
    let toml = toml.display().to_string();
    let env = [
        ("PATH", path.as_str()),
        ("CONTAINERD_ADDRESS", "/run/containerd/containerd.sock"),
        ("CONTAINERD_NAMESPACE", &bed.containerd.namespace),
        ("NERDCTL_TOML", &toml),
    ];
    page::run(&bed.containerd.host, &env, &bed.directory("page")?.display().to_string(), page)?;
    bed.ctr(&["images", "rm", BUSYBOX])?.ok()?;
    Ok(())
}

fn ctr(bed: &Bed) -> Outcome {
    run(bed, include_str!("../../docs/ctr.md"))
}

fn nerdctl(bed: &Bed) -> Outcome {
    run(bed, include_str!("../../docs/nerdctl.md"))
}

/// The README's block without containerd, typed on a terminal beside a built tree; what it leaves stays in mounts of its own.
fn readme(bed: &Bed) -> Outcome {
    // Its container's group has the same name for all of them.
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let script = page::script(include_str!("../../README.md"))?;
    let at = bed.directory("readme")?;
    std::fs::create_dir(at.join("target"))?;
    std::os::unix::fs::symlink(bin_dir()?.join(".."), at.join("target/some-target"))?;
    let (upper, work) = (bed.directory("local")?, bed.directory("local-work")?);
    let cover = format!("lowerdir=/usr/local,upperdir={},workdir={}", upper.display(), work.display());
    let whole = format!(
        "set -euo pipefail; mount -t tmpfs tmpfs /run; mount -t overlay -o {cover} overlay /usr/local; cd {:?}\n{script}",
        at.display()
    );
    let path = format!("{}:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", testbed().join("tools/bin").display());
    let argv = ["unshare", "--mount", "bash", "-c", &whole];
    let command = bed.containerd.host.command(Some(LIMIT), &[("PATH", &path)], &argv);
    let mut terminal = Pty::start(&command, 40, 100)?;
    // The container's shell asks for a command once the block is at its end.
    if terminal.wait_for("/ # ", LIMIT).is_ok() {
        terminal.send("echo and $((6 * 7)); ls /bin/true; exit 3\n")?;
    }
    let code = terminal.wait(LIMIT)?;
    let screen = terminal.screen();
    ensure!(code == 3 && screen.contains("\nand 42\n/bin/true\n"), "code {code}: {screen}");
    Ok(())
}

fn main() {
    suite::run_with("docs", &[], cases![ctr, nerdctl, readme]);
}
