//! What all peers are given: the same root file system and the config.json that `ctr run` 2.1 writes.

use serde_json::{Value, json};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::Outcome;

/// What `ctr run` and `ctr run --seccomp` write, recorded from containerd 2.1.
const PLAIN: &str = include_str!("../../runtime/tests/fixtures/specs/ctr-2.1-default.json");
const FILTERED: &str = include_str!("../../runtime/tests/fixtures/specs/ctr-2.1-seccomp.json");

/// A directory with the root file system and bundles.
pub struct Bundles {
    /// Where it is.
    pub dir: PathBuf,
}

/// What is asked of a bundle.
#[derive(Clone, Default)]
pub struct Wish<'a> {
    /// The words to run.
    pub args: &'a [&'a str],
    /// With containerd's default seccomp profile.
    pub seccomp: bool,
    /// The group path.
    pub cgroup: &'a str,
    /// The pod it belongs to.
    pub pod: Option<&'a str>,
}

impl Bundles {
    /// Unpacks the root file system.
    pub fn new(dir: &Path) -> Outcome<Bundles> {
        let bin = dir.join("lower/bin");
        std::fs::create_dir_all(&bin)?;
        for name in ["dev", "proc", "sys", "tmp", "etc", "run"] {
            std::fs::create_dir_all(dir.join("lower").join(name))?;
        }
        std::fs::copy(crate::testbed().join("tools/bin/busybox"), bin.join("busybox"))?;
        for applet in ["sh", "cat", "sleep", "true", "dd", "head", "echo", "yes", "kill", "ls"] {
            std::os::unix::fs::symlink("busybox", bin.join(applet))?;
        }
        Ok(Bundles { dir: dir.to_owned() })
    }

    /// A bundle as containerd makes it: config.json, an empty rootfs, the log's fifo.
    pub fn make(&self, id: &str, wish: &Wish) -> Outcome<Bundle> {
        let dir = self.dir.join(id);
        for name in ["rootfs", "upper", "work"] {
            std::fs::create_dir_all(dir.join(name))?;
        }
        std::fs::write(dir.join("config.json"), spec(wish)?.to_string())?;
        let fifo = dir.join("log");
        let mode = rustix::fs::Mode::from_raw_mode(0o700);
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0)?;
        let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
        let log = std::fs::File::options().read(true).write(true).custom_flags(flags).open(&fifo)?;
        Ok(Bundle { dir, lower: self.dir.join("lower"), log })
    }
}

/// One container's directory; removed when dropped.
pub struct Bundle {
    /// Its path.
    pub dir: PathBuf,
    lower: PathBuf,
    log: std::fs::File,
}

impl Bundle {
    /// The options of its overlay mount.
    pub fn overlay(&self) -> Vec<String> {
        let dir = |name: &str| self.dir.join(name).display().to_string();
        vec![
            format!("workdir={}", dir("work")),
            format!("upperdir={}", dir("upper")),
            format!("lowerdir={}", self.lower.display()),
        ]
    }

    /// Reads what the shim has logged, as containerd does: the Rust shim stops when nobody reads, and says more in a hundred
    /// requests than a pipe holds.
    pub fn read_log(&self) {
        let mut buffer = [0; 1 << 14];
        while (&self.log).read(&mut buffer).is_ok_and(|count| count > 0) {}
    }

    /// Mounts it, for a runtime without a shim.
    pub fn mount(&self) -> Outcome {
        let options = std::ffi::CString::new(self.overlay().join(","))?;
        let flags = rustix::mount::MountFlags::empty();
        Ok(rustix::mount::mount(c"overlay", self.dir.join("rootfs"), c"overlay", flags, Some(&*options))?)
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let _none = rustix::mount::unmount(self.dir.join("rootfs"), rustix::mount::UnmountFlags::DETACH);
        let _gone = std::fs::remove_dir_all(&self.dir);
    }
}

fn spec(wish: &Wish) -> Outcome<Value> {
    let mut spec: Value = serde_json::from_str(if wish.seccomp { FILTERED } else { PLAIN })?;
    spec["process"]["args"] = json!(wish.args);
    spec["linux"]["cgroupsPath"] = json!(wish.cgroup);
    spec["root"] = json!({ "path": "rootfs" });
    if let Some(pod) = wish.pod {
        spec["annotations"] = json!({ "io.kubernetes.cri.sandbox-id": pod });
    }
    Ok(spec)
}

/// The payload of an exec: the container's own process with other words.
pub fn process(seccomp: bool, args: &[&str]) -> Outcome<Value> {
    let mut process = spec(&Wish { args, seccomp, ..Wish::default() })?["process"].take();
    process["terminal"] = json!(false);
    Ok(process)
}

/// containerd's default profile as recorded.
pub fn profile() -> Outcome<Value> {
    let mut spec: Value = serde_json::from_str(FILTERED)?;
    Ok(spec["linux"]["seccomp"].take())
}
