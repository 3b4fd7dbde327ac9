//! A host of its own for each containerd: private mount, network and pid namespaces with an empty `/run`.
//!
//! Why not the machine's: what is left behind can then be counted exactly, whatever else runs on the machine, and the
//! end of the pid namespace ends containerd, shims and containers even when a test is killed by its time limit.
//! Mount propagation is shared inside, as systemd makes it on a real host, so that wrong propagation shows.

use crate::{Outcome, ensure};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

/// Pid 1 inside: prepares the host, says so, and lives until the harness closes its stdin. bash reaps orphans meanwhile.
const INIT: &str = r#"
set -e
mount --make-rshared /
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/mount # where mount(8) keeps notes; it makes the directory on its first call
mkdir -p /var/lib/cni # where CNI plugins keep the addresses they gave away
mount -t tmpfs tmpfs /var/lib/cni
ip link set lo up
echo ready
while read -r _; do :; done
"#;

/// A running set of namespaces.
pub struct Host {
    unshare: Mutex<Child>,
    /// Pid 1 of the host as the machine counts it.
    init: u32,
    // Its end of file is what ends pid 1.
    _stdin: ChildStdin,
}

impl Host {
    /// Makes the namespaces and waits until they are ready.
    pub fn start() -> Outcome<Host> {
        let mut unshare = Command::new("unshare")
            .args(["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-c", INIT])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdin = unshare.stdin.take().ok_or("no stdin")?;
        let mut line = String::new();
        BufReader::new(unshare.stdout.take().ok_or("no stdout")?).read_line(&mut line)?;
        ensure!(line == "ready\n", "the test host did not come up: unshare, mount and ip need root");
        let init = children(unshare.id())?.first().copied().ok_or("unshare has no child")?;
        Ok(Host { unshare: Mutex::new(unshare), init, _stdin: stdin })
    }

    /// A path of the host, as the machine sees it.
    pub fn path(&self, inside: impl AsRef<Path>) -> PathBuf {
        let inside = inside.as_ref();
        Path::new("/proc").join(self.init.to_string()).join("root").join(inside.strip_prefix("/").unwrap_or(inside))
    }

    /// A command that runs inside, with the variables given, and is killed inside when `limit` is over.
    pub fn command(&self, limit: Option<Duration>, env: &[(&str, &str)], argv: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.init.to_string(), "--mount", "--net", "--pid", "--", "env"]);
        command.args(env.iter().map(|(name, value)| format!("{name}={value}")));
        if let Some(limit) = limit {
            // The foreground form leaves the process group alone: a terminal's signals must reach the client.
            command.args(["timeout", "--foreground", "--kill-after=2", &limit.as_secs().to_string()]);
        }
        command.args(argv);
        command
    }

    /// Sends a signal to a process of the host by its number there.
    pub fn kill(&self, pid: u32, signal: &str) -> Outcome {
        let status =
            self.command(None, &[], &["bash", "-c", "kill -s \"$0\" \"$1\"", signal, &pid.to_string()]).status()?;
        ensure!(status.success(), "kill -s {signal} {pid} failed");
        Ok(())
    }

    /// Every process of the host: its number there and its command line.
    pub fn processes(&self) -> Outcome<Vec<(u32, Vec<String>)>> {
        let mut found = Vec::new();
        for entry in self.path("/proc").read_dir()? {
            let entry = entry?;
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            // A process that is gone meanwhile is not there; a zombie has an empty command line and is.
            let Ok(words) = std::fs::read(entry.path().join("cmdline")) else { continue };
            let Ok(comm) = std::fs::read_to_string(entry.path().join("comm")) else { continue };
            let mut argv: Vec<String> = words
                .split(|byte| *byte == 0)
                .filter(|word| !word.is_empty())
                .map(|word| String::from_utf8_lossy(word).into_owned())
                .collect();
            if argv.is_empty() {
                argv.push(format!("[{}]", comm.trim()));
            }
            found.push((pid, argv));
        }
        Ok(found)
    }

    /// The parent of a process; of a container's init it is the shim, whatever the shim's command line says.
    pub fn parent(&self, pid: u32) -> Outcome<u32> {
        let status = std::fs::read_to_string(self.path(format!("/proc/{pid}/status")))?;
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).ok_or("no parent")?;
        Ok(parent.trim().parse()?)
    }

    /// Whether a process is there.
    pub fn lives(&self, pid: u32) -> bool {
        self.path(format!("/proc/{pid}")).exists()
    }
}

impl Host {
    /// Ends everything on it.
    pub fn stop(&self) {
        // --kill-child takes pid 1 along, and that everything in the pid namespace.
        let mut unshare = self.unshare.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let _ = unshare.kill();
        let _ = unshare.wait();
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The children of a process, without the kernel option that lists them.
fn children(parent: u32) -> Outcome<Vec<u32>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let Ok(status) = std::fs::read_to_string(entry.path().join("status")) else { continue };
        if status.lines().any(|line| line.strip_prefix("PPid:").is_some_and(|rest| rest.trim() == parent.to_string())) {
            found.push(pid);
        }
    }
    Ok(found)
}
