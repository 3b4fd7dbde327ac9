//! A runtime to be tried: its own state directory, a bundle with busybox, and the removal of both.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Where `scripts/testbed` has put things.
pub fn testbed() -> PathBuf {
    std::env::var_os("MINI_TESTBED").map_or_else(|| PathBuf::from("/var/cache/mini-testbed"), PathBuf::from)
}

pub struct Bench {
    program: PathBuf,
    dir: tempfile::TempDir,
    name: &'static str,
}

/// What a command said.
pub struct Said {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Bench {
    pub fn new(program: &Path, name: &'static str) -> Self {
        let dir = tempfile::Builder::new().prefix("mini-cli-").tempdir().unwrap();
        let bench = Self { program: program.to_owned(), dir, name };
        std::fs::create_dir(bench.root()).unwrap();
        let bin = bench.bundle().join("rootfs/bin");
        std::fs::create_dir_all(&bin).unwrap();
        for dir in ["dev", "proc", "sys", "tmp", "etc"] {
            std::fs::create_dir(bench.bundle().join("rootfs").join(dir)).unwrap();
        }
        let busybox = testbed().join("tools/bin/busybox");
        let copied = std::fs::copy(&busybox, bin.join("busybox"));
        copied.unwrap_or_else(|e| panic!("run scripts/testbed first: {}: {e}", busybox.display()));
        for applet in ["sh", "cat", "echo", "id", "sleep", "stty", "true", "false", "kill", "pwd", "env", "tty", "grep"]
        {
            std::os::unix::fs::symlink("busybox", bin.join(applet)).unwrap();
        }
        std::fs::write(bench.bundle().join("rootfs/etc/plain"), "not a program").unwrap();
        bench.spec(&["sh"], |_| {});
        bench
    }

    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn bundle(&self) -> PathBuf {
        self.path("bundle")
    }

    pub fn root(&self) -> PathBuf {
        self.path("root")
    }

    pub fn is_mini(&self) -> bool {
        self.program == Path::new(env!("CARGO_BIN_EXE_mini"))
    }

    /// An id that no other test uses: groups are named after it.
    pub fn id(&self, tail: &str) -> String {
        let kind = if self.is_mini() { "mini" } else { "runc" };
        format!("{kind}-cli-{}-{}-{tail}", std::process::id(), self.name)
    }

    /// Writes the bundle's config.json: `args` without a terminal, and what `change` does to it.
    pub fn spec(&self, args: &[&str], change: impl FnOnce(&mut Value)) {
        let caps = ["CAP_KILL", "CAP_SETUID", "CAP_SETGID", "CAP_CHOWN"];
        let mut spec = json!({
            "ociVersion": "1.2.0",
            "root": {"path": "rootfs"},
            "process": {
                "args": args, "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0},
                "capabilities": {"bounding": caps, "effective": caps, "permitted": caps}
            },
            "hostname": "box",
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]},
                {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                 "options": ["newinstance", "ptmxmode=0666", "mode=0620"]}
            ],
            "linux": {
                "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "uts"}, {"type": "ipc"}, {"type": "network"}]
            }
        });
        change(&mut spec);
        std::fs::write(self.bundle().join("config.json"), spec.to_string()).unwrap();
    }

    /// The runtime with its state directory, in the bundle.
    pub fn command<S: AsRef<OsStr>>(&self, args: &[S]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--root").arg(self.root()).args(args).current_dir(self.bundle()).stdin(Stdio::null());
        command
    }

    pub fn say<S: AsRef<OsStr>>(&self, args: &[S]) -> Said {
        finish(self.command(args))
    }

    /// A command that must succeed.
    pub fn fine<S: AsRef<OsStr>>(&self, args: &[S]) -> String {
        let said = self.say(args);
        let shown: Vec<_> = args.iter().map(|a| a.as_ref().to_string_lossy().into_owned()).collect();
        assert_eq!(said.code, 0, "{shown:?}: {}{}", said.out, said.err);
        said.out
    }

    /// A command that must fail and say so.
    pub fn fails<S: AsRef<OsStr>>(&self, args: &[S], words: &str) {
        let said = self.say(args);
        let shown: Vec<_> = args.iter().map(|a| a.as_ref().to_string_lossy().into_owned()).collect();
        assert_ne!(said.code, 0, "{shown:?} succeeded: {}", said.out);
        let plain = said.err.replace("\\\"", "\"");
        assert!(plain.contains(words), "{shown:?}: {plain}\n  lacks {words}");
    }

    /// A container whose process sleeps. Its streams are no pipes of ours, which would keep us waiting.
    pub fn sleeper(&self, id: &str) {
        self.spec(&["sleep", "1000"], |_| {});
        self.detached(&["run", "-d", id]);
    }

    /// A command whose process outlives it.
    pub fn detached(&self, args: &[&str]) {
        let err = std::fs::File::create(self.path("detached.err")).unwrap();
        let status = self.command(args).stdout(Stdio::null()).stderr(err).status().unwrap();
        assert!(status.success(), "{args:?}: {}", std::fs::read_to_string(self.path("detached.err")).unwrap());
    }

    pub fn state(&self, id: &str) -> Value {
        serde_json::from_str(&self.fine(&["state", id])).unwrap()
    }

    pub fn status(&self, id: &str) -> String {
        self.state(id)["status"].as_str().unwrap().to_owned()
    }

    pub fn wait_for(&self, id: &str, status: &str) {
        until(&format!("{id} to be {status}"), || self.status(id) == status);
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        for id in self.say(&["list", "-q"]).out.lines() {
            self.say(&["delete", "-f", id]);
        }
    }
}

/// Runs a command to its end, but not for ever.
pub fn finish(mut command: Command) -> Said {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = rustix::process::Pid::from_child(&child);
    let (done, ended) = std::sync::mpsc::channel::<()>();
    let watchdog = std::thread::spawn(move || {
        if ended.recv_timeout(Duration::from_secs(120)) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    });
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    drop(done);
    watchdog.join().unwrap();
    Said {
        code: status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&stdout).into_owned(),
        err: String::from_utf8_lossy(&stderr).into_owned(),
    }
}

/// Waits for what comes by itself.
pub fn until(what: &str, mut there: impl FnMut() -> bool) {
    let start = Instant::now();
    while !there() {
        assert!(start.elapsed() < Duration::from_secs(60), "waited for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
