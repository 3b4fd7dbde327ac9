//! The pages of docs/ are run: each block marked `sh`, and what the block after it says has to come out.

use integration::containerd::{IMAGE, testbed};
use integration::{Bed, Outcome, cases, nerdctl, page, suite};

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

fn main() {
    suite::run_with("docs", &[], cases![ctr, nerdctl]);
}
