//! Children of this process: whose exit belongs to whom.
//!
//! A child that was made here has an owner who holds its pidfd and takes its exit from it. Everybody else who turns up
//! (a subreaper inherits the orphans of its descendants) is reaped by the sweep and forgotten. The two are told apart by
//! a set of pids; while a child is being made that is not in it yet, the sweep takes nobody.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::{Error, Result};
use crate::sys;

/// What is known of our children. A lock because they are made on worker threads; it is held for a waitid, never for longer: a
/// clone waits for cgroup_mutex, a spawn until a program has been read from a disk that may stand still.
static CHILDREN: Mutex<Children> = Mutex::new(Children { owned: BTreeSet::new(), births: 0 });

struct Children {
    /// Pids of those that somebody waits for by pidfd.
    owned: BTreeSet<u32>,
    /// How many are being made.
    births: usize,
}

fn children() -> MutexGuard<'static, Children> {
    // Both are valid between any two of their operations.
    CHILDREN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How a process ended, as waitid(2) tells it. A shell whose child was killed by signal 9 *exits* with 137: the status
/// alone cannot tell the two apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// By exit(2), with this code.
    Exited(i32),
    /// By a signal.
    Killed {
        /// Its number.
        signal: i32,
        /// It left a core dump.
        core: bool,
    },
}

impl std::fmt::Display for End {
    /// As std's `ExitStatus` says it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let raw = match *self {
            End::Exited(code) => (code & 0xff) << 8,
            End::Killed { signal, core } => signal | if core { 0x80 } else { 0 },
        };
        std::process::ExitStatus::from_raw(raw).fmt(f)
    }
}

impl End {
    /// What clients call the exit status: the code, or 128 + signal.
    pub fn status(self) -> i32 {
        match self {
            End::Exited(code) => code,
            End::Killed { signal, .. } => 128 + signal,
        }
    }
}

/// Makes a child and registers it as having an owner. `make` answers its pid first.
pub fn born<T, E>(make: impl FnOnce() -> std::result::Result<(u32, T), E>) -> std::result::Result<T, E> {
    children().births += 1;
    let made = make();
    let mut children = children();
    children.births -= 1;
    let (pid, child) = made?;
    children.owned.insert(pid);
    Ok(child)
}

/// The child with this pid has been reaped by other means (std's `Child::wait`): it is nobody's any more.
pub fn forget(pid: u32) {
    children().owned.remove(&pid);
}

/// [`ended`] as an exit status, or 128 + signal.
pub fn exit_status(pidfd: impl AsFd) -> Result<Option<i32>> {
    Ok(ended(pidfd)?.map(End::status))
}

/// How the child behind a pidfd ended, without blocking; `None` while it runs.
///
/// Reaps it, so this answers once. Errors: ECHILD if it was reaped already or is no child of ours.
pub fn ended(pidfd: impl AsFd) -> Result<Option<End>> {
    let mut children = children();
    match sys::ended_child(Some(pidfd.as_fd()), true) {
        Ok(Some((pid, end))) => {
            children.owned.remove(&pid);
            Ok(Some(end))
        }
        Ok(None) => Ok(None),
        Err(errno) => Err(Error::sys("waitid", "pidfd", errno)),
    }
}

/// What a sweep came upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Swept {
    /// No zombie is left.
    Clean,
    /// A zombie of this pid has an owner who has not come for it yet, or may be one that is being made. It hides those behind it (waitid always shows the
    /// first one), so sweep again when it is gone.
    Hidden(u32),
}

/// Reaps all ended children that nobody owns. Never blocks.
pub fn sweep() -> Result<Swept> {
    let children = children();
    loop {
        match sys::ended_child(None, false) {
            Ok(Some((pid, _))) if children.births > 0 || children.owned.contains(&pid) => {
                return Ok(Swept::Hidden(pid));
            }
            Ok(Some((pid, _))) => reap_orphan(pid)?,
            Ok(None) | Err(rustix::io::Errno::CHILD) => return Ok(Swept::Clean),
            Err(errno) => return Err(Error::sys("waitid", "all children", errno)),
        }
    }
}

/// Takes the zombie that was just seen. The lock is held and nobody else waits for unowned pids, so it is still there.
fn reap_orphan(pid: u32) -> Result<()> {
    let target = rustix::process::Pid::from_raw(pid.cast_signed());
    match rustix::process::waitpid(target, rustix::process::WaitOptions::NOHANG) {
        Ok(_) => Ok(()),
        Err(errno) => Err(Error::sys("waitpid", pid.to_string(), errno)),
    }
}

/// Sends any signal number, 0 included, to the process behind a pidfd. NotFound when it has ended.
pub fn signal(pidfd: impl AsFd, signal: i32) -> Result<()> {
    sys::signal_pidfd(pidfd.as_fd(), signal).map_err(|errno| {
        let mut error = Error::sys("pidfd_send_signal", signal.to_string(), errno);
        if errno == rustix::io::Errno::SRCH {
            error.kind = crate::error::Kind::NotFound;
        }
        error
    })
}
