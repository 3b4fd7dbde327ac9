//! Through ctr and containerd: one containerd 2.1 per peer, with what the peer needs in its PATH.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::bed::{Bed, program};
use crate::group::Group;
use crate::life::{WIDTHS, at_once, kept};
use crate::report::Report;
use crate::shim::Peer;
use crate::{Outcome, number};

const IMAGE: &str = "docker.io/library/mini-busybox:latest";

/// A containerd, ended when dropped.
struct Containerd<'a> {
    peer: &'a Peer,
    group: &'a Group,
    child: Child,
    socket: PathBuf,
    data: PathBuf,
}

impl<'a> Containerd<'a> {
    fn start(bed: &Bed, peer: &'a Peer, group: &'a Group) -> Outcome<Containerd<'a>> {
        let dir = bed.dir.join(format!("containerd-{}", number()));
        let bin = dir.join("bin");
        std::fs::create_dir_all(&bin)?;
        // The Rust shim executes `runc`, whatever it is told.
        for (name, target) in [(runtime(peer).1, Some(&peer.binary)), ("runc", peer.runtime.as_ref())] {
            if let Some(target) = target {
                std::os::unix::fs::symlink(target, bin.join(name))?;
            }
        }
        // An overlay's upper directory on a tmpfs is no snapshotter's normal place: data lies on the disk.
        let data = PathBuf::from("/var/tmp").join(group.path.replace('/', "-"));
        let socket = dir.join("c.sock");
        let config = format!(
            r#"version = 3
root = "{}"
state = "{}"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime",
  "io.containerd.nri.v1.nri", "io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.blockfile",
  "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.erofs",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.internal.v1.tracing", "io.containerd.tracing.processor.v1.otlp"]
[grpc]
address = "{}"
"#,
            data.display(),
            dir.join("state").display(),
            socket.display(),
        );
        std::fs::write(dir.join("config.toml"), config)?;
        let log = std::fs::File::create(dir.join("log"))?;
        let mut command = Command::new(program("c2.1/bin/containerd")?);
        command.arg("--config").arg(dir.join("config.toml")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        command.env("PATH", format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", bin.display()));
        let child = group.within(|| Ok(command.spawn()?))?;
        let containerd = Containerd { peer, group, child, socket, data };
        let end = Instant::now() + Duration::from_secs(60);
        while let Err(error) = containerd.ctr(&["version"]) {
            if Instant::now() > end {
                return Err(error);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let image = crate::testbed().join("image/busybox.tar");
        containerd.ctr(&["images", "import", "--snapshotter", "overlayfs", &image.display().to_string()])?;
        Ok(containerd)
    }

    fn ctr(&self, words: &[&str]) -> Outcome {
        let mut command = Command::new("timeout");
        command.arg("120").arg(program("c2.1/bin/ctr")?).arg("--address").arg(&self.socket);
        command.args(["--namespace", "bench"]).args(words);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let child = self.group.within(|| Ok(command.spawn()?))?;
        let output = child.wait_with_output()?;
        if output.status.success() {
            return Ok(());
        }
        Err(format!("{}: ctr {}: {}", self.peer.name, words.join(" "), String::from_utf8_lossy(&output.stderr)).into())
    }

    /// `ctr run --rm … true`.
    fn run(&self) -> Outcome {
        let id = format!("ctr-{}", number());
        let group = format!("{}/{id}", self.group.path);
        let (name, _) = runtime(self.peer);
        let mut words = vec!["run", "--rm", "--null-io", "--runtime", name, "--cgroup", &group];
        if self.peer.name.starts_with("go+") {
            words.extend(["--runc-binary", "runc"]);
        }
        words.extend([IMAGE, &id, "true"]);
        self.ctr(&words)
    }
}

impl Drop for Containerd<'_> {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
        remove(&self.data);
    }
}

fn remove(data: &Path) {
    let _gone = std::fs::remove_dir_all(data);
}

/// What ctr calls it, and the name of the binary that makes.
fn runtime(peer: &Peer) -> (&'static str, &'static str) {
    match peer.name {
        "mini" => ("io.containerd.mini.v2", "containerd-shim-mini-v2"),
        name if name.starts_with("go+") => ("io.containerd.runc.v2", "containerd-shim-runc-v2"),
        _ => ("io.containerd.runcrs.v2", "containerd-shim-runcrs-v2"),
    }
}

fn all<'a>(bed: &'a Bed) -> Outcome<Vec<Containerd<'a>>> {
    bed.rotated(0).map(|(peer, group)| Containerd::start(bed, peer, group)).collect()
}

/// Case `ctr-run`.
pub fn run(bed: &Bed, report: &mut Report) -> Outcome {
    let all = all(bed)?;
    for round in bed.turns(1, 15, 80) {
        for n in (0..all.len()).map(|n| (n + round) % all.len()) {
            let one = &all[n];
            let (before, started) = (one.group.cpu()?, Instant::now());
            one.run()?;
            let took = started.elapsed();
            // The shim's end and containerd's `delete` come after ctr's.
            std::thread::sleep(Duration::from_millis(100));
            if round > 0 {
                report.add("ctr-run", "wall", "ms", one.peer.name, took.as_secs_f64() * 1e3);
                report.add("ctr-run", "CPU", "ms", one.peer.name, (one.group.cpu()? - before) as f64 / 1e6);
            }
        }
    }
    Ok(())
}

/// Many of them, some at a time.
pub fn parallel(bed: &Bed, report: &mut Report) -> Outcome {
    let count = bed.pick(4, 50, 200);
    let all = all(bed)?;
    for round in bed.turns(0, 2, 100) {
        for n in (0..all.len()).map(|n| (n + round) % all.len()) {
            let one = &all[n];
            let mut rates = Vec::new();
            for width in WIDTHS {
                let rate = at_once(count, width, || one.run())?;
                report.add("ctr-parallel", format!("{width} at a time"), "runs/s", one.peer.name, rate);
                rates.push(rate);
            }
            let unit = "of the best narrower";
            report.add("ctr-parallel", "rate kept as parallelism grows", unit, one.peer.name, kept(&rates));
        }
    }
    Ok(())
}
