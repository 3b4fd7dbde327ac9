//! The daemon: how `start` makes it, and what it does to itself before it serves.

#![forbid(unsafe_code)]

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use runtime::{Error, Kind, Result};
use rustix::fs::OFlags;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};

use super::flags::Flags;
use super::handshake::Caller;
use super::socket::{self, Address, Claim};
use super::{log, seal};
use crate::service::{self, Args};

/// containerd's words to `start` (GOMAXPROCS and MAX_SHIM_VERSION), what systemd said to containerd alone, and what has
/// become a flag. The rest of containerd's environment stays for helper programs; containers get nothing of it.
const NOT_FOR_THE_DAEMON: [&str; 8] = [
    "GOMAXPROCS",
    "MAX_SHIM_VERSION",
    "SCHED_CORE",
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
    "LISTEN_PID",
    "LISTEN_FDS",
];

/// How much freed memory glibc's malloc keeps for its thread: of each size up to 1 KiB two pieces, not seven. They lie all over the heap,
/// and each holds a page that malloc_trim(3) could give back. It is read at the start of a program only ("The GNU C Library
/// Reference Manual", 39.2 Memory Allocation Tunables).
const MALLOC: (&str, &str) = ("GLIBC_TUNABLES", "glibc.malloc.tcache_count=2");

/// Starts the daemon in a process group of its own. The listening socket is its standard input, which needs no agreement on
/// a number; standard error is the bundle's log from its first instruction on.
pub fn spawn(flags: &Flags, caller: &Caller, listener: &OwnedFd) -> Result<Child> {
    let binary = seal::own_binary()?;
    let listener = listener.try_clone().map_err(|e| Error::io("dup", "listener", &e))?;
    // Opened by the new process before its execve closes the descriptor.
    let mut command = Command::new(format!("/proc/self/fd/{}", binary.as_raw_fd()));
    if let Some(name) = std::env::args_os().next() {
        command.arg0(name);
    }
    command.args(["-namespace", &flags.namespace, "-id", &flags.id, "-address", &flags.address]);
    if caller.debug {
        command.arg("-debug");
    }
    for name in NOT_FOR_THE_DAEMON {
        command.env_remove(name);
    }
    command.env("TTRPC_ADDRESS", &caller.ttrpc_address);
    if std::env::var_os(MALLOC.0).is_none() {
        command.env(MALLOC.0, MALLOC.1);
    }
    // What our caller left open by mistake is not carried along for the life of a pod.
    runtime::sys::close_on_exec_from(3).map_err(|e| Error::sys("close_range", "descriptors from 3 on", e))?;
    command.stdin(listener).stdout(Stdio::null()).stderr(bundle_log()?).process_group(0);
    command.spawn().map_err(|e| Error::io("execve", "the daemon", &e))
}

/// The fifo `log` that containerd reads. Opened for reading too, which nobody does: so it can be opened and written while
/// containerd is away, and writing never ends in SIGPIPE. Non-blocking: what does not fit is lost, see [`log`].
fn bundle_log() -> Result<Stdio> {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    match std::fs::OpenOptions::new().read(true).write(true).custom_flags(flags.bits().cast_signed()).open("log") {
        Ok(file) if is_fifo(&file) => Ok(file.into()),
        Ok(_) => Err(Error::new(Kind::Invalid, "open", "log", "is not a fifo")),
        // Started by something that has no log for us.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Stdio::null()),
        Err(e) => Err(Error::io("open", "log", &e)),
    }
}

fn is_fifo(file: &File) -> bool {
    file.metadata().is_ok_and(|m| m.file_type().is_fifo())
}

/// What the daemon does first: it takes its socket, becomes unreadable for other processes of its user, and opens the log.
///
/// The limit of open files is left as it is: children inherit it, and what containers get is decided by their config.json
/// or by what containerd runs with, not by our needs.
pub fn settle(flags: &Flags) -> Result<Args> {
    flags.need_container()?;
    let signals = service::signals().map_err(|e| Error::sys("signalfd", "signals", e))?;
    // Inherited by children until their execve, and so the answer to a container's ptrace and /proc/PID/* of them, too.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(|e| Error::sys("prctl", "PR_SET_DUMPABLE", e))?;
    // Executed by a number, the kernel would call us by it.
    rustix::thread::set_name(c"containerd-shim").map_err(|e| Error::sys("prctl", "PR_SET_NAME", e))?;
    let listener = listener(flags)?;
    let null =
        File::options().read(true).write(true).open("/dev/null").map_err(|e| Error::io("open", "/dev/null", &e))?;
    rustix::stdio::dup2_stdin(&null).map_err(|e| Error::sys("dup2", "standard input", e))?;
    log::to_standard_error(&flags.namespace, &flags.id, flags.debug);
    Ok(Args {
        namespace: flags.namespace.clone(),
        id: flags.id.clone(),
        listener,
        ttrpc_address: std::env::var("TTRPC_ADDRESS").unwrap_or_default(),
        signals,
    })
}

/// Standard input, if it is a listening socket as `start` makes it, or the path of `-socket`.
fn listener(flags: &Flags) -> Result<OwnedFd> {
    if !flags.socket.is_empty() {
        let path = flags.socket.strip_prefix("unix://").unwrap_or(&flags.socket);
        let address = Address::recorded(&format!("unix://{path}")).filter(|a| a.path().is_absolute());
        let address = address.ok_or_else(|| Error::new(Kind::Invalid, "-socket", path, "is not an absolute path"))?;
        return match socket::claim(&address)? {
            Claim::Ours(listener) => Ok(listener),
            Claim::Served => Err(Error::new(Kind::Exists, "-socket", path, "somebody listens there")),
        };
    }
    let stdin = std::io::stdin();
    if !rustix::net::sockopt::socket_acceptconn(stdin.as_fd()).unwrap_or(false) {
        let reason = "is not a listening socket; the daemon is started by `start`, see -h";
        return Err(Error::new(Kind::Invalid, "serve", "standard input", reason));
    }
    stdin.as_fd().try_clone_to_owned().map_err(|e| Error::io("dup", "standard input", &e))
}
