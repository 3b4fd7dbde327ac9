//! A bundle on disk with a tiny root file system, and containers made from it on the real kernel.
//!
//! The payload is the static busybox that `scripts/testbed` installs; a machine without it has not been set up.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use runtime::cgroup::{Cgroup, Layout};
use runtime::container::groups;
use runtime::plan::{Plan, compile};
use runtime::spec::{Process, Spec};
use runtime::{Child, Container, Create, Exec, Host, Result, StartBy, Stdio, reap};
use serde_json::{Value, json};

/// Where the busybox of the test bed is.
fn busybox() -> PathBuf {
    let cache = std::env::var_os("MINI_TESTBED").unwrap_or_else(|| "/var/cache/mini-testbed".into());
    let path = Path::new(&cache).join("tools/bin/busybox");
    assert!(path.exists(), "{} is not there: scripts/testbed installs it", path.display());
    path
}

/// The facts of this machine, but for those that would make a plan differ between machines.
pub fn host() -> Host {
    Host { kcore: false, ..Host::read().unwrap() }
}

/// A bundle that goes away, and a place for its groups that goes away too.
pub struct Bundle {
    _temp: tempfile::TempDir,
    /// Its directory.
    pub dir: PathBuf,
    /// The group below which all groups of its containers are.
    pub group: String,
    original: Vec<PathBuf>,
}

impl Bundle {
    /// A bundle whose files belong to `owner`: the host's id of the container's root.
    pub fn new(name: &str, owner: u32) -> Self {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().canonicalize().unwrap();
        // A user namespace has to get through to its root file system.
        std::fs::set_permissions(&dir, PermissionsExt::from_mode(0o711)).unwrap();
        let root = dir.join("rootfs");
        for made in ["", "bin", "dev", "etc", "proc", "root", "run", "sys", "tmp", "seed"] {
            std::fs::create_dir(root.join(made)).unwrap();
        }
        std::fs::copy(busybox(), root.join("bin/busybox")).unwrap();
        for applet in ["sh", "cat", "id", "ls", "sleep", "true", "env", "pwd", "stty", "grep"] {
            symlink("busybox", root.join("bin").join(applet)).unwrap();
        }
        std::fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:\n")
            .unwrap();
        std::fs::write(root.join("seed/file"), "seed\n").unwrap();
        std::fs::create_dir(dir.join("volume")).unwrap();
        std::fs::write(dir.join("volume/file"), "volume\n").unwrap();
        give(&dir.join("rootfs"), owner);
        let group = format!("/mini-test-{}-{name}", std::process::id());
        let listed = ["", "etc", "run"].map(|d| std::fs::read_dir(root.join(d)).unwrap());
        let original = listed.into_iter().flatten().map(|e| e.unwrap().path()).collect();
        Self { _temp: temp, dir, group, original }
    }

    /// A small spec changed by a merge patch (RFC 7396).
    pub fn spec(&self, patch: &Value) -> Spec {
        let spec = self.json(patch);
        let parsed = Spec::parse(spec.to_string().as_bytes());
        parsed.unwrap_or_else(|e| panic!("{e}\n{spec}"))
    }

    /// The same as config.json has it.
    pub fn json(&self, patch: &Value) -> Value {
        let mut spec = json!({
            "ociVersion": "1.3.0",
            "root": {"path": "rootfs"},
            "process": {
                "args": ["sh", "-c", "exit 7"],
                "cwd": "/",
                "env": ["PATH=/sbin:/bin"],
            },
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
            ],
            "linux": {
                "cgroupsPath": format!("{}/c", self.group),
                "namespaces": [{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "network"}],
            },
        });
        merge(&mut spec, patch);
        spec
    }

    /// Takes away what containers have left in the root file system: their mount points.
    pub fn restore(&self) {
        for dir in ["", "etc", "run"] {
            for entry in std::fs::read_dir(self.dir.join("rootfs").join(dir)).unwrap() {
                let path = entry.unwrap().path();
                if !self.original.contains(&path) {
                    let gone = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
                    gone.unwrap();
                }
            }
        }
    }

    /// What a create asks for, without streams.
    pub fn create<'a>(&'a self, spec: &'a Spec) -> Create<'a> {
        Create {
            id: "c",
            bundle: &self.dir,
            spec,
            stdio: Stdio::default(),
            no_pivot: false,
            no_new_keyring: false,
            preserve_fds: 0,
            systemd_cgroup: false,
            start_by: StartBy::Us,
            cancel: None,
            fault: None,
        }
    }

    /// The plan that such a create carries out.
    pub fn plan(&self, host: &Host, request: &Create<'_>, visible: Option<&[PathBuf]>) -> Plan {
        let spec = request.spec;
        let cgroup = Cgroup::create(&host.cgroup, &spec.linux.cgroups_path, request.id).unwrap();
        let tasks: Vec<String> = cgroup.attach().unwrap().tasks.iter().map(|task| task.0.clone()).collect();
        let plan = compile::init(&compile::Init {
            spec,
            host,
            id: request.id,
            bundle: request.bundle,
            groups: &groups(&cgroup.record()),
            tasks: &tasks,
            stdio: [false; 3],
            no_pivot: visible,
            no_new_keyring: request.no_new_keyring,
            preserve_fds: request.preserve_fds,
            started_by_others: false,
        });
        cgroup.remove().unwrap();
        plan.unwrap()
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let layout = Layout::read().unwrap();
        for mount in layout.v1.iter().map(|h| &h.mount).chain(layout.unified.iter().map(|u| &u.mount)) {
            // It is there only where a container has been.
            let _ = std::fs::remove_dir(mount.join(&self.group[1..]));
        }
    }
}

fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    for (key, value) in patch {
        merge(&mut target[key], value);
    }
}

fn give(path: &Path, owner: u32) {
    std::os::unix::fs::lchown(path, Some(owner), Some(owner)).unwrap();
    if path.is_dir() && !path.is_symlink() {
        for entry in std::fs::read_dir(path).unwrap() {
            give(&entry.unwrap().path(), owner);
        }
    }
}

/// Blocks until the process has ended, reaps it and gives its exit status.
pub fn ended(pidfd: &OwnedFd) -> i32 {
    let mut poll = [rustix::event::PollFd::new(pidfd, rustix::event::PollFlags::IN)];
    while rustix::event::poll(&mut poll, None) == Err(rustix::io::Errno::INTR) {}
    reap::exit_status(pidfd).unwrap().unwrap()
}

/// Creates, starts, waits and deletes. Gives the exit status of the payload.
pub fn run(host: &Host, request: Create<'_>) -> Result<i32> {
    let (container, child) = Container::create(host, request)?;
    let started = container.start().inspect_err(|_| {
        // Refused before anything happened, init still waits.
        let _ = container.signal(libc::SIGKILL);
    });
    let status = ended(&child.pidfd);
    container.delete()?;
    started.map(|()| status)
}

#[allow(dead_code, reason = "only one of the programs that share this file reads output")]
/// Runs a payload and gives its exit status and what it wrote to standard output and error.
pub fn output(host: &Host, bundle: &Bundle, patch: &Value) -> Result<(i32, String)> {
    let spec = bundle.spec(patch);
    let (mut reader, writer) = std::io::pipe().unwrap();
    let stdio = Stdio {
        own: [false; 3],
        stdin: None,
        stdout: Some(writer.try_clone().unwrap().into()),
        stderr: Some(writer.into()),
    };
    let status = run(host, Create { stdio, ..bundle.create(&spec) })?;
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    Ok((status, text))
}

/// A container that runs until it is dropped.
pub struct Running {
    /// It.
    pub container: Container,
    /// Its first process.
    pub child: Child,
}

impl Running {
    /// Creates and starts it.
    pub fn new(host: &Host, bundle: &Bundle, patch: &Value) -> Self {
        let mut spec = bundle.spec(patch);
        spec.process.as_mut().unwrap().args = ["sleep", "1000"].map(String::from).into();
        let (container, child) = Container::create(host, bundle.create(&spec)).unwrap();
        container.start().unwrap();
        Self { container, child }
    }

    /// What an exec asks for, without streams.
    pub fn exec<'a>(process: &'a Process) -> Exec<'a> {
        Exec { process, stdio: Stdio::default(), no_new_keyring: false, preserve_fds: 0, cgroup: &[], fault: None }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.container.signal(libc::SIGKILL).unwrap();
        ended(&self.child.pidfd);
        self.container.delete().unwrap();
    }
}
