//! One end of a pipe.
//!
//! Whoever reads or writes a pipe holds its lock, and a process can make that last: it writes what lies on a hung disk, or splices
//! into a terminal that nobody reads. All others then wait for the lock in the kernel, with O_NONBLOCK too: read, write, splice,
//! FIONREAD, F_SETPIPE_SZ and the last close (fs/pipe.c). Only poll(2) does not take it. So the event loop polls the pipes of
//! processes and does nothing else to them.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::Timespec;

use crate::worker;

/// An end that is closed by a thread if to close it could take long.
pub(super) struct End {
    fd: Option<OwnedFd>,
    /// A process of the container has the other end, and so this one if it likes (proc_pid_fd(5)).
    shared: bool,
}

impl End {
    /// Of a pipe that a process of the container has.
    pub(super) fn of_process(fd: OwnedFd) -> Self {
        Self { fd: Some(fd), shared: true }
    }

    /// Of anything else.
    pub(super) fn of_client(fd: OwnedFd) -> Self {
        Self { fd: Some(fd), shared: false }
    }
}

impl AsFd for End {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_ref().expect("only drop takes it").as_fd()
    }
}

impl AsRawFd for End {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

impl Drop for End {
    fn drop(&mut self) {
        if !self.shared || is_over(self.as_fd()) {
            return;
        }
        // Without a thread to be had it is closed here.
        let fd = self.fd.take();
        let _nobody_waits = worker::run(c"close", move || drop(fd));
    }
}

/// Whether nobody can be in the middle of reading or writing: there is no writer and no byte, or no reader.
fn is_over(end: BorrowedFd<'_>) -> bool {
    match flags(end) {
        Some(flags) => {
            flags.contains(PollFlags::ERR) || (flags.contains(PollFlags::HUP) && !flags.contains(PollFlags::IN))
        }
        None => false,
    }
}

fn flags(end: impl AsFd) -> Option<PollFlags> {
    let mut fds = [PollFd::new(&end, PollFlags::IN | PollFlags::OUT)];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).ok()?;
    Some(fds[0].revents())
}
