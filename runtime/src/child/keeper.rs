//! A process that does nothing, so that a group has somebody in it: systemd makes no scope without a process, and takes
//! an empty one away.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use super::call;
use super::clone::{CLEAR_SIGHAND, Masked};
use crate::error::{Error, Result};
use crate::reap;
use crate::sys;

/// A child of ours that waits. It ends with this value, or with us: then nobody holds the other end of its pipe.
#[derive(Debug)]
pub struct Keeper {
    pid: u32,
    pidfd: OwnedFd,
    _pipe: OwnedFd,
}

impl Keeper {
    /// Makes one, in our own groups.
    pub fn new() -> Result<Self> {
        let (read, write) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|e| Error::sys("pipe", "keeper", e))?;
        let (pid, pidfd) = reap::born(|| {
            let (pid, pidfd) = spawn(read.as_raw_fd())?;
            Ok::<_, Error>((pid, (pid, pidfd)))
        })?;
        Ok(Self { pid, pidfd, _pipe: write })
    }

    /// Its number in our pid namespace.
    pub fn pid(&self) -> u32 {
        self.pid
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // Dead already (somebody has killed the whole group) is as good as killed.
        let _ = reap::signal(&self.pidfd, libc::SIGKILL);
        let mut poll = [rustix::event::PollFd::new(&self.pidfd, rustix::event::PollFlags::IN)];
        while rustix::event::poll(&mut poll, None) == Err(rustix::io::Errno::INTR) {}
        let _ = reap::exit_status(self.pidfd.as_fd());
    }
}

/// `pipe` is the end that the child reads.
fn spawn(pipe: RawFd) -> Result<(u32, OwnedFd)> {
    let mut pidfd: RawFd = -1;
    let mut args = [0u64; 11];
    args[0] = (libc::CLONE_PIDFD as u64) | CLEAR_SIGHAND;
    args[1] = std::ptr::from_mut(&mut pidfd) as u64;
    args[4] = libc::SIGCHLD as u64;
    let masked = Masked::new();
    // SAFETY: as in `clone::spawn`: the child has its own copy of our memory and runs only `wait`, which makes raw system
    // calls, touches no memory but its stack and never returns.
    let pid = unsafe { sys::raw(libc::SYS_clone3, [args.as_ptr() as usize, size_of_val(&args), 0, 0, 0, 0]) };
    if pid == 0 {
        wait(pipe);
    }
    drop(masked);
    let pid = sys::result(pid).map_err(|e| Error::sys("clone3", "keeper", e))?;
    // SAFETY: clone3 has succeeded with CLONE_PIDFD, so `pidfd` is a fresh descriptor that nobody else knows.
    Ok((pid as u32, unsafe { OwnedFd::from_raw_fd(pidfd) }))
}

/// Until end of file. It keeps no other descriptor: somebody may wait for the last copy of it to be closed.
fn wait(pipe: RawFd) -> ! {
    let _ = call::dup3(pipe, 0, 0);
    let _ = call::close_range(1, u32::MAX, 0);
    let mut byte = 0u8;
    while call::read(0, std::slice::from_mut(&mut byte)) == Err(libc::EINTR) {}
    call::exit(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_waits_with_one_descriptor_and_is_gone_afterwards() {
        let keeper = Keeper::new().unwrap();
        let dir = format!("/proc/{}", keeper.pid());
        let fds = || std::fs::read_dir(format!("{dir}/fd")).unwrap().count();
        while fds() != 1 {
            std::thread::yield_now();
        }
        let status = std::fs::read_to_string(format!("{dir}/status")).unwrap();
        assert!(status.contains("SigBlk:\tf"), "no signal but SIGKILL reaches it: {status}");
        drop(keeper);
        assert!(!std::path::Path::new(&dir).exists());
    }
}
