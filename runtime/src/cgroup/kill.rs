//! Signalling every process of a group.

use std::os::fd::AsFd;
use std::path::Path;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::Version;
use super::file::{self, fault};
use super::freeze;
use crate::error::{Error, Kind, Result};
use crate::sys::signal_pidfd;

/// Kills at once all of a version 2 group and below, also what is frozen and what is being forked.
/// `Ok(false)`: the kernel (before 5.14) has no `cgroup.kill`.
pub(super) fn at_once(dir: &Path) -> Result<bool> {
    let path = dir.join("cgroup.kill");
    match file::put(&path, "1") {
        Ok(()) => Ok(true),
        Err(Errno::NOENT) if dir.exists() => Ok(false),
        Err(Errno::OPNOTSUPP) => Ok(false), // a threaded group
        Err(e) => Err(fault("write", &path, e)),
    }
}

/// Kills all that `pids` names, as often as needed until it names nobody new: what forks faster than we read is held
/// still by the freezer meanwhile. Thaws at the end in any case, for on version 1 a frozen process does not die.
pub(super) fn held_still(freezer: Option<(&Path, Version)>, pids: &dyn Fn() -> Result<Vec<u32>>) -> Result<()> {
    // An empty group cannot fork. To freeze one costs more than all else of a removal: on version 1 the first frozen group
    // of the machine patches the kernel's code and stops every core for it (freezer_apply_state, static keys).
    if pids()?.is_empty() {
        return Ok(());
    }
    let mut killed: Vec<u32> = Vec::new();
    for _ in 0..100 {
        if let Some((dir, version)) = freezer {
            // Not being able to freeze makes it a race, not a failure.
            let _raced = freeze::freeze(dir, version);
        }
        let round = pids().and_then(|now| {
            let new: Vec<u32> = now.into_iter().filter(|pid| !killed.contains(pid)).collect();
            signal(&new, libc::SIGKILL, pids)?;
            Ok(new)
        });
        let thawed = freezer.map_or(Ok(()), |(dir, version)| freeze::thaw(dir, version));
        let new = round?;
        match thawed {
            Err(e) if e.kind != Kind::NotFound => return Err(e),
            _ => {}
        }
        if new.is_empty() {
            return Ok(());
        }
        killed.extend(new);
    }
    Err(Error::new(Kind::State, "kill", "", "processes keep appearing"))
}

/// Sends a signal to processes of a group. A number may be taken by a stranger between reading and sending: a pidfd
/// holds the process, and a second look at the group says that it is the one meant.
pub(super) fn signal(pids: &[u32], signal: i32, group: &dyn Fn() -> Result<Vec<u32>>) -> Result<()> {
    let mut first = Ok(());
    for chunk in pids.chunks(64) {
        let held: Vec<_> = chunk
            .iter()
            .filter_map(|&n| Some((n, pidfd_open(Pid::from_raw(n.cast_signed())?, PidfdFlags::empty()))))
            .collect();
        let still = group()?;
        for (number, fd) in held {
            let sent = match fd {
                Ok(fd) if still.contains(&number) => signal_pidfd(fd.as_fd(), signal),
                Ok(_) => Ok(()),
                // By now the number is that of a thread: the process is gone. Newer kernels say ENOENT.
                Err(Errno::INVAL | Errno::NOENT) => Ok(()),
                Err(e) => Err(e),
            };
            match sent {
                Ok(()) | Err(Errno::SRCH) => {}
                Err(e) if first.is_ok() => first = Err(Error::sys("kill", number.to_string(), e)),
                Err(_) => {}
            }
        }
    }
    first
}
