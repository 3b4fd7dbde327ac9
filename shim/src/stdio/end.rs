//! One end of a pipe or of a terminal.
//!
//! Whoever reads or writes a pipe holds its lock, and a process can make that last: it writes what lies on a hung disk, or splices
//! into a terminal that nobody reads. All others then wait for the lock in the kernel, with O_NONBLOCK too: read, write, splice,
//! FIONREAD, F_SETPIPE_SZ and the last close (fs/pipe.c). Only poll(2) does not take it. So the event loop polls the pipes of
//! processes and does nothing else to them.
//!
//! With a terminal it is the closing. The last close of a master hangs up the slave (pty(7)), and waits until nobody is in the
//! middle of read(2) or write(2) there (`__tty_hangup` and `tty_ldisc_lock` in drivers/tty), which a process makes last with a
//! page that does not come. Nor can a wait like that be interrupted.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::Timespec;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::{ready, worker};

/// An end that is closed by a thread if to close it could take long.
pub(super) struct End {
    fd: Option<OwnedFd>,
    of: Of,
}

enum Of {
    /// A pipe whose other end a process of the container has, and so this one if it likes (proc_pid_fd(5)).
    Process,
    /// A terminal of the container's.
    Terminal,
    /// Anything else.
    Client,
}

impl End {
    /// Of a pipe that a process of the container has.
    pub(super) fn of_process(fd: OwnedFd) -> Self {
        Self { fd: Some(fd), of: Of::Process }
    }

    /// Of a terminal that a process of the container has.
    pub(super) fn of_terminal(fd: OwnedFd) -> Self {
        Self { fd: Some(fd), of: Of::Terminal }
    }

    /// Of anything else.
    pub(super) fn of_client(fd: OwnedFd) -> Self {
        Self { fd: Some(fd), of: Of::Client }
    }

    /// Errors: as with [`ready::watch`].
    pub(super) fn watched(self, interest: Interest) -> io::Result<Watched> {
        ready::watch(self, interest)
    }
}

/// An end on the event loop, which forgets it before it is closed.
pub(super) type Watched = AsyncFd<End>;

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
        let at_once = match self.of {
            Of::Process => is_over(self.as_fd()),
            Of::Terminal => false,
            Of::Client => true,
        };
        if at_once {
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
