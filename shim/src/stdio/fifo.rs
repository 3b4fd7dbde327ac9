//! The client's fifos, and what else there can be in their place.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use super::failed;

/// Where an output goes.
#[derive(Clone)]
pub(super) enum Target {
    /// A client reads it, or will, or did. stdout and stderr may be the same one.
    Fifo(Arc<Fifo>),
    /// A file or device; writing may block, so a worker does it.
    File(Arc<OwnedFd>),
    /// A logger's pipe (only a console needs copying into it).
    Pipe(Arc<OwnedFd>),
}

/// Where stdin comes from.
pub(super) enum Input {
    /// A handle on the client's fifo, neither end of which is open yet.
    Fifo(OwnedFd),
    /// A file or character device, for reading. It is copied and never handed over: root in a container could open it
    /// again by /proc/self/fd/0, and write.
    File(OwnedFd),
}

/// Both ends of a client's fifo. As long as the read end is held (it is never read) a client that dies leaves neither
/// EPIPE nor a hole: what it did not take waits for the next one.
pub(super) struct Fifo {
    reader: OwnedFd,
    writer: OwnedFd,
}

/// How long an output waits for its client to come before the process is made. A client of containerd's library opens in the
/// background, and gives up opening when it hears of the exit: on a busy machine a short life can be over before, and
/// all it said would be lost. containerd's own shim waits without end; who never reads must not keep a container from
/// running here.
const COMING: Duration = Duration::from_secs(2);

/// The longest that a stream is kept after its process has closed it, for a client that has not come yet; containerd's
/// own shim waits as long for one before it starts the process.
const LINGER: Duration = Duration::from_secs(30);

fn open_at(handle: &OwnedFd, flags: OFlags) -> Result<OwnedFd, Errno> {
    // Through the handle, so that what was looked at is what is opened, whatever the path names by now.
    let link = format!("/proc/self/fd/{}", handle.as_raw_fd());
    let flags = flags | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    rustix::fs::open(link, flags, Mode::empty())
}

fn handle(path: &str) -> Result<OwnedFd, String> {
    rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(|e| failed("open", path, &e.into()))
}

fn kind(handle: &OwnedFd, path: &str) -> Result<FileType, String> {
    let stat = rustix::fs::fstat(handle).map_err(|e| failed("stat", path, &e.into()))?;
    Ok(FileType::from_raw_mode(stat.st_mode))
}

/// Errors: the path does not exist or cannot be looked at.
pub(super) fn is_fifo(path: &str) -> Result<bool, String> {
    Ok(kind(&handle(path)?, path)? == FileType::Fifo)
}

/// Opens read end, then write end. Neither waits for anybody: a non-blocking reader never does, and with the reader
/// there the writer has its partner (alone it would get ENXIO until a client comes).
pub(super) fn both_ends(fifo: &OwnedFd) -> Result<(OwnedFd, OwnedFd), Errno> {
    let reader = open_at(fifo, OFlags::RDONLY)?;
    Ok((reader, open_at(fifo, OFlags::WRONLY)?))
}

/// A handle on a fifo that opens neither end, so that nobody who waits for the other end goes on.
///
/// Errors: the path does not exist, cannot be looked at, or is something else.
pub(super) fn fifo_handle(path: &str) -> Result<OwnedFd, String> {
    let handle = handle(path)?;
    if kind(&handle, path)? != FileType::Fifo {
        return Err(format!("{path:?} is not a fifo"));
    }
    Ok(handle)
}

impl Input {
    /// Errors: the path does not exist, cannot be opened, or is a directory and the like.
    pub(super) fn open(path: &str) -> Result<Self, String> {
        let handle = handle(path)?;
        match kind(&handle, path)? {
            FileType::Fifo => Ok(Self::Fifo(handle)),
            FileType::RegularFile | FileType::CharacterDevice => {
                let file = open_at(&handle, OFlags::RDONLY).map_err(|e| failed("open", path, &e.into()))?;
                Ok(Self::File(file))
            }
            _ => Err(format!("{path:?} is neither a fifo nor a file nor a character device")),
        }
    }
}

/// The write end, as soon as a client has the read end open: without one there is ENXIO (fifo(7)). None after [`COMING`].
/// It stays open: a client whose open(2) has returned takes the absence of writers for the end.
fn writer_for_client(fifo: &OwnedFd) -> Result<Option<OwnedFd>, Errno> {
    let end = Instant::now() + COMING;
    let mut pause = Duration::from_millis(1);
    loop {
        match open_at(fifo, OFlags::WRONLY) {
            Ok(writer) => return Ok(Some(writer)),
            Err(Errno::NXIO) if Instant::now() < end => {
                std::thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(50));
            }
            Err(Errno::NXIO) => return Ok(None),
            Err(error) => return Err(error),
        }
    }
}

impl Fifo {
    /// Opens both ends when the client has opened its own, or has let us wait too long. Blocking.
    pub(super) fn open(path: &str) -> Result<Self, String> {
        let fifo = fifo_handle(path)?;
        let ends = || match writer_for_client(&fifo)? {
            Some(writer) => Ok((open_at(&fifo, OFlags::RDONLY)?, writer)),
            None => both_ends(&fifo),
        };
        let (reader, writer) = ends().map_err(|e: Errno| failed("open", path, &e.into()))?;
        Ok(Self { reader, writer })
    }

    /// The end that output goes into.
    pub(super) fn writer(&self) -> &OwnedFd {
        &self.writer
    }

    /// The end that output goes into, without our own reader beside it: whoever reads it now is a client.
    pub(super) fn into_writer(self) -> OwnedFd {
        let Self { reader, writer } = self;
        drop(reader);
        writer
    }

    /// Ends the stream: the client sees end of file. If none is there (a fast process, a slow client) our end is kept for a
    /// while: what was written lives only as long as somebody has the fifo open, and a client that opens it when nobody
    /// has would wait for ever, even if there was nothing to read.
    pub(super) async fn close(writer: OwnedFd) {
        let mut pause = Duration::from_millis(5);
        let mut waited = Duration::ZERO;
        while waited < LINGER && !has_reader(&writer) {
            tokio::time::sleep(pause).await;
            waited += pause;
            pause = (pause * 2).min(Duration::from_millis(500));
        }
    }
}

/// The write end of a pipe without readers polls as an error (poll(2)).
pub(super) fn has_reader(writer: impl AsFd) -> bool {
    let mut fds = [PollFd::new(&writer, PollFlags::OUT)];
    let zero = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
    match poll(&mut fds, Some(&zero)) {
        Ok(_) => !fds[0].revents().contains(PollFlags::ERR),
        Err(_) => false,
    }
}
