//! The daemon: how `start` makes it, and what it does to itself before it serves.

#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use runtime::{Error, Kind, Result, sys};
use rustix::fs::OFlags;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};

use super::flags::Flags;
use super::handshake::Caller;
use super::socket::{self, Address, Claim};
use super::{host, log};
use crate::service::{self, Args};

/// Starts the daemon in a process group of its own. The listening socket is its standard input, which needs no agreement on
/// a number; standard error is the bundle's log from its first instruction on.
pub fn spawn(flags: &Flags, caller: &Caller, listener: &OwnedFd) -> Result<Child> {
    let binary = runtime::exe::out_of_reach("containerd-shim-mini-v2")?;
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
    for name in sys::NOT_FOR_THE_DAEMON.split(|byte| b"=\0".contains(byte)).filter(|name| !name.is_empty()) {
        command.env_remove(OsStr::from_bytes(name));
    }
    // It has been obeyed; in the other way that is still to be done when the environment is handed down.
    command.env_remove("SCHED_CORE");
    command.env("TTRPC_ADDRESS", &caller.ttrpc_address);
    if let Some((name, value)) = sys::MALLOC.to_str().ok().and_then(|word| word.split_once('='))
        && std::env::var_os(name).is_none()
    {
        command.env(name, value);
    }
    // What our caller left open by mistake is not carried along for the life of a pod.
    sys::close_on_exec_from(3).map_err(|e| Error::sys("close_range", "descriptors from 3 on", e))?;
    command
        .stdin(listener)
        .stdout(Stdio::null())
        .stderr(bundle_log()?.map_or_else(Stdio::null, Stdio::from))
        .process_group(0);
    command.spawn().map_err(|e| Error::io("execve", "the daemon", &e))
}

/// The other way to the daemon: we are in its file already, and in the place of `start`. Makes this process what [`spawn`] makes of
/// another, gives `reply`, and lets the parent go. Nothing fails after the reply but that the parent is gone.
pub fn turn_into(flags: &Flags, caller: &Caller, reply: &[u8], parent: &OwnedFd) -> Result<()> {
    rustix::process::setpgid(None, None).map_err(|e| Error::sys("setpgid", "ourselves", e))?;
    host::inherit(&caller.shim_cgroup)?;
    own()?;
    let (null, log) = (null()?, bundle_log()?);
    super::print(reply)?;
    let failed = |e| Error::sys("dup2", "standard streams", e);
    rustix::stdio::dup2_stdin(&null).and_then(|()| rustix::stdio::dup2_stdout(&null)).map_err(failed)?;
    rustix::stdio::dup2_stderr(log.as_ref().unwrap_or(&null)).map_err(failed)?;
    release(parent, true)?;
    log::to_standard_error(&flags.namespace, &flags.id, caller.debug);
    Ok(())
}

/// Tells the waiting parent that all is well: that we live on without it, or that we end at once.
pub fn release(parent: &OwnedFd, serving: bool) -> Result<()> {
    let failed = |e| Error::sys("write", "the process that waits", e);
    if serving {
        rustix::process::set_parent_process_death_signal(None).map_err(failed)?;
    }
    let word = if serving { sys::SERVES } else { sys::ENDS };
    rustix::io::retry_on_intr(|| rustix::io::write(parent, &[word])).map(drop).map_err(failed)
}

/// The fifo `log` that containerd reads. Opened for reading too, which nobody does: so it can be opened and written while
/// containerd is away, and writing never ends in SIGPIPE. Non-blocking: what does not fit is lost, see [`log`].
///
/// `None`: started by something that has no log for us.
fn bundle_log() -> Result<Option<OwnedFd>> {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    match std::fs::OpenOptions::new().read(true).write(true).custom_flags(flags.bits().cast_signed()).open("log") {
        Ok(file) if is_fifo(&file) => Ok(Some(file.into())),
        Ok(_) => Err(Error::new(Kind::Invalid, "open", "log", "is not a fifo")),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io("open", "log", &e)),
    }
}

fn is_fifo(file: &File) -> bool {
    file.metadata().is_ok_and(|m| m.file_type().is_fifo())
}

/// What the daemon does first: it takes its socket, becomes unreadable for other processes of its user, and opens the log.
pub fn settle(flags: &Flags, signals: OwnedFd) -> Result<Args> {
    flags.need_container()?;
    own()?;
    let listener = listener(flags)?;
    rustix::stdio::dup2_stdin(null()?).map_err(|e| Error::sys("dup2", "standard input", e))?;
    log::to_standard_error(&flags.namespace, &flags.id, flags.debug);
    Ok(args(flags, listener, signals, std::env::var("TTRPC_ADDRESS").unwrap_or_default()))
}

/// What the daemon serves with.
pub fn args(flags: &Flags, listener: OwnedFd, signals: OwnedFd, ttrpc_address: String) -> Args {
    Args { namespace: flags.namespace.clone(), id: flags.id.clone(), listener, ttrpc_address, signals }
}

/// The daemon's signals, held back from its first moment; its children are waited for, whatever its caller ignored.
pub fn signals() -> Result<OwnedFd> {
    sys::heed_children();
    service::signals().map_err(|e| Error::sys("signalfd", "signals", e))
}

fn own() -> Result<()> {
    // An exec holds nine descriptors or so; containers keep to what containerd runs with.
    runtime::own::raise_files();
    // Inherited by children until their execve, and so the answer to a container's ptrace and /proc/PID/* of them, too.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(|e| Error::sys("prctl", "PR_SET_DUMPABLE", e))?;
    // Executed by a number, the kernel would call us by it.
    rustix::thread::set_name(c"containerd-shim").map_err(|e| Error::sys("prctl", "PR_SET_NAME", e))
}

fn null() -> Result<OwnedFd> {
    let opened = File::options().read(true).write(true).open("/dev/null");
    opened.map(OwnedFd::from).map_err(|e| Error::io("open", "/dev/null", &e))
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
