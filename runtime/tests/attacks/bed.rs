//! What an attack needs: a runtime, a bundle of its own, host files that must not change, and racers.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A runtime under attack. All of them have runc's command line.
#[derive(Debug)]
pub struct Runtime {
    /// For people and for the table of expectations.
    pub name: &'static str,
    /// Its file; every bed uses a copy.
    pub program: PathBuf,
    /// Options before the command.
    pub options: &'static [&'static str],
    /// It refuses to work where it sees a cgroup2 tree beside version 1.
    pub pure_v1: bool,
}

/// Where scripts/testbed has put the reference runtimes and busybox.
pub fn testbed() -> PathBuf {
    std::env::var_os("MINI_TESTBED").map_or_else(|| "/var/cache/mini-testbed".into(), PathBuf::from)
}

/// The control group below which all groups of this run are.
pub fn group() -> String {
    format!("/mini-test-{}", std::process::id())
}

/// Where one attack takes place: a copy of the runtime, a bundle and canaries in a directory that goes away.
pub struct Bed<'a> {
    pub runtime: &'a Runtime,
    pub spec: Value,
    dir: TempDir,
}

/// How a command ended.
#[derive(Debug)]
pub struct Ended {
    /// `None`: it had to be killed.
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
    pub took: Duration,
}

/// What has not ended by then hangs, also on a busy machine that is emulated.
const LIMIT: Duration = Duration::from_secs(60);

static NUMBER: AtomicU32 = AtomicU32::new(0);

impl<'a> Bed<'a> {
    pub fn new(runtime: &'a Runtime) -> Self {
        let dir = tempfile::Builder::new().prefix("mini-attack-").tempdir().unwrap();
        // Containers in a user namespace have to reach their rootfs.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711)).unwrap();
        fs::copy(&runtime.program, dir.path().join("runtime")).unwrap();
        let bed = Self { runtime, spec: spec(), dir };
        rootfs(&bed.rootfs());
        fs::create_dir(bed.path("host")).unwrap();
        fs::write(bed.path("host/secret"), "of the host").unwrap();
        bed
    }

    /// A path of the host's side of this attack.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The bundle's rootfs.
    pub fn rootfs(&self) -> PathBuf {
        self.path("bundle/rootfs")
    }

    /// The copy of the runtime that is attacked.
    pub fn program(&self) -> PathBuf {
        self.path("runtime")
    }

    /// Directory of files that stand for the host's; its path is the same inside a container that has escaped.
    pub fn host(&self) -> PathBuf {
        self.path("host")
    }

    /// Everything in [`Bed::host`].
    pub fn canary(&self) -> BTreeMap<PathBuf, String> {
        let mut found = BTreeMap::new();
        picture(&self.host(), &mut found);
        found
    }

    /// The payload becomes this shell script.
    pub fn script(&mut self, script: &str) {
        self.spec["process"]["args"] = json!(["sh", "-c", script]);
    }

    /// Puts this test's own binary into the rootfs and makes it the payload: `/attacker <mode> <args>`.
    pub fn attacker(&mut self, args: &[&str]) {
        fs::copy(std::env::current_exe().unwrap(), self.rootfs().join("attacker")).unwrap();
        let all: Vec<&str> = ["/attacker", crate::payload::WORD].into_iter().chain(args.iter().copied()).collect();
        self.spec["process"]["args"] = json!(all);
    }

    /// Adds an entry to /mounts.
    pub fn mount(&mut self, destination: &str, kind: &str, source: &str, options: &[&str]) {
        let mount = json!({"destination": destination, "type": kind, "source": source, "options": options});
        self.spec["mounts"].as_array_mut().unwrap().push(mount);
    }

    /// Takes an entry out of /mounts.
    pub fn no_mount(&mut self, destination: &str) {
        self.spec["mounts"].as_array_mut().unwrap().retain(|m| m["destination"] != destination);
    }

    /// Takes a whole /dev out of /mounts: the image's is used.
    pub fn no_dev_mounts(&mut self) {
        let below = |m: &Value| m["destination"].as_str().is_some_and(|d| d.starts_with("/dev"));
        self.spec["mounts"].as_array_mut().unwrap().retain(|m| !below(m));
    }

    /// A user namespace with the usual maps.
    pub fn user_namespace(&mut self) {
        let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
        self.spec["linux"]["uidMappings"] = map.clone();
        self.spec["linux"]["gidMappings"] = map;
        self.spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
        own(&self.rootfs(), 100_000);
    }

    /// The runtime with its state below the bed.
    pub fn command(&self, args: &[&str]) -> Command {
        self.command_of(&self.program(), args)
    }

    fn command_of(&self, program: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(self.runtime.options).arg("--root").arg(self.path("state")).args(args);
        // crun 1.8.1 gives its streams to the user namespace's root, and an exec's to its user; /dev/null is the machine's.
        let gives = self.spec["linux"]["uidMappings"].is_array() || args.first() == Some(&"exec");
        command.stdin(if gives { File::create(self.path("stdin")).unwrap().into() } else { Stdio::null() });
        if self.runtime.pure_v1 {
            without_unified(&mut command);
        }
        command
    }

    /// Writes config.json.
    pub fn save(&self) {
        fs::write(self.path("bundle/config.json"), serde_json::to_vec(&self.spec).unwrap()).unwrap();
    }

    /// A new id, unique on this machine.
    pub fn id(&mut self) -> String {
        let id = format!("attack-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        self.spec["linux"]["cgroupsPath"] = json!(format!("{}/{id}", group()));
        id
    }

    /// `run` in the foreground.
    pub fn run(&mut self) -> Ended {
        self.run_as(|_| {})
    }

    /// `run` with a change to the command.
    pub fn run_as(&mut self, change: impl FnOnce(&mut Command)) -> Ended {
        let id = self.id();
        self.save();
        let mut command = self.command(&["run", "--bundle"]);
        command.arg(self.path("bundle")).arg(&id);
        change(&mut command);
        let ended = self.wait(command, LIMIT);
        self.delete(&id);
        ended
    }

    /// `run --detach`; gone when the value is.
    pub fn hold(&mut self) -> Held<'_, 'a> {
        let id = self.id();
        self.save();
        let mut command = self.command(&["run", "--detach", "--bundle"]);
        command.arg(self.path("bundle")).arg(&id);
        let ended = self.wait(command, LIMIT);
        assert_eq!(ended.code, Some(0), "{}: {ended:?}", self.runtime.name);
        Held { bed: self, id }
    }

    /// Runs a command with its output in files, because a detached container keeps it open.
    pub fn wait(&self, mut command: Command, limit: Duration) -> Ended {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let (out, err) = (self.path(&format!("out{number}")), self.path(&format!("err{number}")));
        command.stdout(File::create(&out).unwrap()).stderr(File::create(&err).unwrap());
        let began = Instant::now();
        let code = wait(spawn(&mut command), limit);
        let text = |path: &Path| {
            let text = String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned();
            fs::remove_file(path).unwrap();
            text
        };
        Ended { code, out: text(&out), err: text(&err), took: began.elapsed() }
    }

    fn delete(&self, id: &str) {
        // Not with the copy, which may be damaged by now.
        let command = self.command_of(&self.runtime.program, &["delete", "--force", id]);
        // Mostly there is nothing left, and that is an error for some.
        let _ = self.wait(command, LIMIT);
    }
}

/// A running container.
pub struct Held<'b, 'a> {
    pub bed: &'b Bed<'a>,
    id: String,
}

impl Held<'_, '_> {
    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// `exec` of a shell script.
    pub fn exec(&self, script: &str) -> Ended {
        self.exec_with(&[], &["sh", "-c", script])
    }

    /// `exec` with options.
    pub fn exec_with(&self, options: &[&str], args: &[&str]) -> Ended {
        let mut command = self.bed.command(&["exec"]);
        command.args(options).arg(&self.id).args(args);
        self.bed.wait(command, LIMIT)
    }
}

impl Drop for Held<'_, '_> {
    fn drop(&mut self) {
        self.bed.delete(&self.id);
    }
}

/// A copy that was just made can be busy for a moment: another thread has forked while it was open for writing.
fn spawn(command: &mut Command) -> Child {
    loop {
        match command.spawn() {
            Err(e) if e.kind() == std::io::ErrorKind::ExecutableFileBusy => std::thread::yield_now(),
            outcome => break outcome.unwrap(),
        }
    }
}

fn wait(mut child: Child, limit: Duration) -> Option<i32> {
    let began = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status.code().unwrap_or(128));
        }
        if began.elapsed() > limit {
            child.kill().unwrap();
            child.wait().unwrap();
            return None;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// A thread that exchanges two names, or does anything else, over and over: the co-tenant with the same volume.
pub struct Racer(Arc<AtomicBool>, Option<std::thread::JoinHandle<()>>);

impl Racer {
    pub fn new(step: impl Fn() + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let theirs = stop.clone();
        let thread = std::thread::spawn(move || {
            while !theirs.load(Ordering::Relaxed) {
                step();
            }
        });
        Self(stop, Some(thread))
    }

    /// Exchanges each pair in turn.
    pub fn exchange(pairs: Vec<(PathBuf, PathBuf)>) -> Self {
        Self::new(move || {
            for (a, b) in &pairs {
                // One of them may be missing or busy for a moment.
                let _ = renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE);
            }
        })
    }
}

impl Drop for Racer {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        let _ = self.1.take().map(std::thread::JoinHandle::join);
    }
}

/// Hides the cgroup2 tree of a hybrid host from a command, in a mount namespace of its own.
fn without_unified(command: &mut Command) {
    // SAFETY: three system calls on constants.
    unsafe {
        command.pre_exec(|| {
            let none = std::ptr::null();
            let flags = libc::MS_REC | libc::MS_SLAVE;
            if libc::unshare(libc::CLONE_NEWNS) < 0
                || libc::mount(c"none".as_ptr(), c"/".as_ptr(), none, flags, none.cast()) < 0
            {
                return Err(std::io::Error::last_os_error());
            }
            // Not there on a host that is not hybrid.
            let _ = libc::umount2(c"/sys/fs/cgroup/unified".as_ptr(), libc::MNT_DETACH);
            Ok(())
        });
    }
}

/// Supplementary groups for a command.
pub fn with_groups(command: &mut Command, groups: &'static [u32]) {
    // SAFETY: setgroups(2) of libc is a system call and a loop over threads, of which the child of a fork has one.
    unsafe {
        command.pre_exec(|| match libc::setgroups(groups.len(), groups.as_ptr()) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
}

fn picture(path: &Path, found: &mut BTreeMap<PathBuf, String>) {
    let meta = fs::symlink_metadata(path).unwrap();
    let content = if meta.is_file() { fs::read_to_string(path).unwrap_or_default() } else { String::new() };
    let said = format!("{:o} {}:{} {:x} {content:?}", meta.mode(), meta.uid(), meta.gid(), meta.rdev());
    found.insert(path.to_owned(), said);
    if meta.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            picture(&entry.unwrap().path(), found);
        }
    }
}

fn own(path: &Path, id: u32) {
    std::os::unix::fs::lchown(path, Some(id), Some(id)).unwrap();
    if fs::symlink_metadata(path).unwrap().is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            own(&entry.unwrap().path(), id);
        }
    }
}

fn rootfs(root: &Path) {
    for dir in ["bin", "dev", "etc", "proc", "sys", "tmp"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    let busybox = testbed().join("tools/bin/busybox");
    assert!(busybox.exists(), "{} is missing: scripts/testbed makes it", busybox.display());
    fs::copy(busybox, root.join("bin/busybox")).unwrap();
    for name in ["sh", "cat", "ls", "id", "env", "sleep", "true", "readlink", "grep", "mkdir", "echo", "test"] {
        symlink("busybox", root.join("bin").join(name)).unwrap();
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n").unwrap();
    fs::write(root.join("etc/marker"), "marker").unwrap();
}

/// What engines write for a plain container.
fn spec() -> Value {
    let caps = json!([
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_FSETID",
        "CAP_FOWNER",
        "CAP_MKNOD",
        "CAP_NET_RAW",
        "CAP_SETGID",
        "CAP_SETUID",
        "CAP_SETFCAP",
        "CAP_SETPCAP",
        "CAP_NET_BIND_SERVICE",
        "CAP_SYS_CHROOT",
        "CAP_KILL",
        "CAP_AUDIT_WRITE"
    ]);
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0}, "args": ["true"], "cwd": "/", "env": ["PATH=/bin", "HOME=/"],
            "capabilities": {"bounding": caps, "effective": caps, "permitted": caps},
            "noNewPrivileges": true,
        },
        "root": {"path": "rootfs"},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
        ],
        "linux": {
            "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}, {"type": "network"}],
            "maskedPaths": ["/proc/kcore", "/proc/timer_list", "/proc/scsi", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
            "resources": {"devices": [{"allow": false, "access": "rwm"},
                {"allow": true, "type": "c", "access": "m"}, {"allow": true, "type": "b", "access": "m"},
                {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm"},
                {"allow": true, "type": "c", "major": 1, "minor": 5, "access": "rwm"},
                {"allow": true, "type": "c", "major": 5, "minor": 0, "access": "rwm"},
                {"allow": true, "type": "c", "major": 5, "minor": 2, "access": "rwm"},
                {"allow": true, "type": "c", "major": 136, "access": "rwm"}]},
        },
    })
}
