//! Copying, on the event loop and without ever blocking it.
//!
//! Large amounts are spliced: no byte is touched. Small ones are copied: splice moves whole pipe slots, so sixteen lines
//! of one byte would fill a fifo that takes 65,536. A bulk gets larger pipes. What the target does not take stops the reading
//! of the source, and so in the end the process; nothing is dropped and nothing spins.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, ioctl_fionread, read, write};
use rustix::pipe::{SpliceFlags, fcntl_setpipe_size, splice};
use rustix::time::Timespec;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use crate::ready::Fd;
use crate::worker;

/// From this many waiting bytes on they are spliced: half of a pipe's sixteen slots, so that they are well filled.
const SPLICE_FROM: u64 = 32 << 10;
/// After this many splices a stream is a bulk: a quarter of a megabyte at least.
const BULK_AFTER: u32 = 8;
/// What both pipes of a bulk may hold, so that writer, shim and reader wake each other a sixteenth as often.
pub(super) const BULK: usize = 1 << 20;
/// The same where the writer's group, to which the pages in the pipes are charged, has less memory than [`ENOUGH`]: docker
/// allows a limit of 6 MiB, and two outputs have four pipes.
const SMALL_BULK: usize = 256 << 10;
const ENOUGH: i64 = 64 << 20;
/// What a pipe holds that nobody has asked to hold more.
const USUAL: usize = 64 << 10;
/// Less than one such pipe in so long, and a bulk is none any more: larger pipes count against what all pipes of a user may
/// hold (pipe(7), pipe-user-pages-soft), beyond which those who are not privileged get small ones only.
const CALM: Duration = Duration::from_secs(2);
/// Copied at once, on the stack.
const CHUNK: usize = 16 << 10;
/// What a process's pipe holds from the moment that nobody reads: with the fifo, more than the 160 KiB that containerd's own
/// shim takes before a process has to wait (its pipe, its copier's buffer and the fifo).
const UNREAD: usize = 128 << 10;
/// Moves after which others get their turn on the loop.
const TURN: u32 = 16;
/// After a hang-up: so long without a byte means that none is under way. A terminal hands over what was written to its
/// slave a moment later, by a kernel worker.
const SILENCE: Duration = Duration::from_millis(20);
/// And no longer than this in all: the process may go on writing for as long as its terminal is there.
const LAST_WORDS: Duration = Duration::from_millis(200);
/// Between two looks whether a full disk has space again.
const SPACE: Duration = Duration::from_millis(200);
/// Idle time after which a file's worker goes away.
const QUIET: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

/// What the pipes of a bulk may hold whose writer has so much memory, in bytes; `None` or -1 is unlimited.
pub(super) fn bulk_of(limit: Option<i64>) -> usize {
    if limit.is_some_and(|limit| (0..ENOUGH).contains(&limit)) { SMALL_BULK } else { BULK }
}

/// How one attempt went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Moved,
    SourceEmpty,
    TargetFull,
    End,
}

/// A stream so far.
#[derive(Debug)]
struct Stream {
    splices: u32,
    /// What its pipes may hold as a bulk.
    bulk: usize,
    /// What its pipes have been made to hold: [`UNREAD`], `bulk`, or 0 for what they were made with.
    room: usize,
    /// Bytes spliced since somebody last looked.
    lately: usize,
}

impl Stream {
    /// Another splice has moved so many bytes. A user over the limit of pipe(7) keeps what there is.
    fn spliced(&mut self, bytes: usize, from: &OwnedFd, to: &OwnedFd) {
        self.splices = self.splices.saturating_add(1);
        self.lately = self.lately.saturating_add(bytes);
        let larger = |pipe| fcntl_setpipe_size(pipe, self.bulk).is_ok();
        if self.splices == BULK_AFTER && larger(to) && larger(from) {
            // The time of the first look may be long over: it is not to find that next to nothing has moved.
            (self.room, self.lately) = (self.bulk, self.bulk);
        }
    }

    /// Less than one pipeful has moved since the last look, which for a bulk of long standing is [`CALM`] ago.
    fn is_calm(&mut self) -> bool {
        std::mem::take(&mut self.lately) < self.bulk
    }

    /// Next to nothing has moved for a while. Pipes that hold more than the usual stay as they are.
    fn calms_down(&mut self, from: &OwnedFd, to: &OwnedFd) {
        let usual = |pipe| fcntl_setpipe_size(pipe, USUAL).is_ok();
        if usual(to) && usual(from) {
            (self.splices, self.room) = (0, 0);
        }
    }

    /// The target is full. A user over the limit of pipe(7) keeps what there is.
    fn waits(&mut self, from: &OwnedFd) {
        if self.room == 0 {
            self.room = UNREAD;
            let _refused = fcntl_setpipe_size(from, UNREAD);
        }
    }

    /// Whether to try without asking how much waits: whoever asks a busy pipe waits for its lock as long as who splices. Slots
    /// that are not well filled do no harm, for behind them stands a large pipe, in which small writes share a page.
    fn is_bulk(&self) -> bool {
        self.room == self.bulk
    }
}

/// What may be done with a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// Can be spliced from.
    Pipe,
    /// Says EIO where a pipe says end of file.
    Console,
}

/// Copies until the source ends, or until `hangup`: then what the process has written already still goes out, as far as
/// the target takes it, and nothing that was read is lost on the way. Both ends are non-blocking; as pipes of a bulk they may
/// hold `bulk` bytes each.
///
/// Errors: EPIPE when nobody can read the target any more, and what else the kernel says.
pub(super) async fn copy(from: &Fd, to: &Fd, source: Source, bulk: usize, hangup: &Notify) -> io::Result<()> {
    // What was read and did not fit; empty (and without memory) almost always.
    let mut pending = Vec::new();
    let mut full = false;
    let mut stream = Stream { splices: 0, bulk, room: 0, lately: 0 };
    let mut moves = 0u32;
    let mut last_words = None;
    // One that goes on: to set a timer for each move would wake the loop each time.
    let mut calm = pin!(sleep(CALM));
    loop {
        let room_or_bytes = async { if full { to.writable().await } else { from.readable().await } };
        let mut ready = tokio::select! {
            biased;
            ready = room_or_bytes => ready?,
            () = hangup.notified(), if last_words.is_none() => {
                last_words = Some(Instant::now() + LAST_WORDS);
                continue;
            }
            () = sleep(SILENCE), if last_words.is_some() => return Ok(()),
            () = calm.as_mut(), if stream.is_bulk() => {
                if stream.is_calm() {
                    stream.calms_down(from.get_ref(), to.get_ref());
                }
                calm.as_mut().reset(Instant::now() + CALM);
                continue;
            }
        };
        if last_words.is_some_and(|end| Instant::now() >= end) {
            return Ok(());
        }
        let step = move_some(from, to, source, &mut stream, &mut pending)?;
        if step == if full { Step::TargetFull } else { Step::SourceEmpty } {
            ready.clear_ready();
        }
        if step == Step::TargetFull && source == Source::Pipe {
            stream.waits(from.get_ref());
        }
        full = match step {
            Step::End => return Ok(()),
            Step::Moved => !pending.is_empty(),
            Step::TargetFull => true,
            Step::SourceEmpty => false,
        };
        moves = moves.wrapping_add(1);
        if moves.is_multiple_of(TURN) {
            tokio::task::yield_now().await;
        }
    }
}

fn move_some(from: &Fd, to: &Fd, source: Source, stream: &mut Stream, pending: &mut Vec<u8>) -> Result<Step, Errno> {
    let (from, to) = (from.get_ref(), to.get_ref());
    if !pending.is_empty() {
        return flush(to, pending);
    }
    if source == Source::Pipe && (stream.is_bulk() || ioctl_fionread(from)? >= SPLICE_FROM) {
        match splice(from, None, to, None, stream.bulk, SpliceFlags::MOVE | SpliceFlags::NONBLOCK) {
            Ok(0) => return Ok(Step::End),
            Ok(bytes) => {
                stream.spliced(bytes, from, to);
                // A poll takes no lock of a pipe, another attempt would.
                return if stream.is_bulk() && !writable(to)? { Ok(Step::TargetFull) } else { Ok(Step::Moved) };
            }
            Err(Errno::INTR) => return Ok(Step::Moved),
            // It is the target that has no slot, or it takes no spliced ones at all (EINVAL), or nothing waits any more.
            Err(Errno::AGAIN) if !writable(to)? => return Ok(Step::TargetFull),
            Err(Errno::AGAIN | Errno::INVAL) => {}
            Err(errno) => return Err(errno),
        }
    }
    let mut chunk = [0u8; CHUNK];
    let read = match take(from, &mut chunk, source)? {
        Taken::Bytes(bytes) => bytes,
        Taken::Empty => return Ok(Step::SourceEmpty),
        Taken::End => return Ok(Step::End),
    };
    match write(to, read) {
        Ok(written) if written == read.len() => Ok(Step::Moved),
        Ok(written) => {
            pending.extend_from_slice(&read[written..]);
            Ok(Step::Moved)
        }
        Err(Errno::AGAIN | Errno::INTR) => {
            pending.extend_from_slice(read);
            Ok(Step::TargetFull)
        }
        Err(errno) => Err(errno),
    }
}

fn flush(to: &OwnedFd, pending: &mut Vec<u8>) -> Result<Step, Errno> {
    match write(to, pending) {
        Ok(written) if written == pending.len() => {
            *pending = Vec::new();
            Ok(Step::Moved)
        }
        Ok(written) => {
            pending.drain(..written);
            Ok(Step::Moved)
        }
        Err(Errno::AGAIN) => Ok(Step::TargetFull),
        Err(Errno::INTR) => Ok(Step::Moved),
        Err(errno) => Err(errno),
    }
}

enum Taken<'a> {
    Bytes(&'a [u8]),
    Empty,
    End,
}

fn take<'a>(from: &OwnedFd, chunk: &'a mut [u8], source: Source) -> Result<Taken<'a>, Errno> {
    loop {
        return match read(from, &mut *chunk) {
            Ok(0) => Ok(Taken::End),
            Ok(n) => Ok(Taken::Bytes(&chunk[..n])),
            Err(Errno::AGAIN) => Ok(Taken::Empty),
            Err(Errno::INTR) => continue,
            // No slave is open (tty_ioctl(4) has no word for it; every terminal program knows it). Ours is, as long as the
            // process lives.
            Err(Errno::IO) if source == Source::Console => Ok(Taken::End),
            Err(errno) => Err(errno),
        };
    }
}

fn writable(to: impl AsFd) -> Result<bool, Errno> {
    let mut fds = [PollFd::new(&to, PollFlags::OUT)];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).map(|n| n > 0)
}

/// The same into a file or device, whose writing may block: a worker writes while there is something to write, and is
/// gone when there is not. A full disk is a reader that has stopped: the process waits until there is space.
pub(super) async fn copy_to_file(from: Arc<Fd>, to: Arc<OwnedFd>, source: Source, hangup: &Notify) -> io::Result<()> {
    let mut hung_up = false;
    // What was read and found no space.
    let mut pending = Vec::new();
    loop {
        // Never while a worker writes: it would be left behind with bytes that the next one overtakes.
        let ready = if pending.is_empty() {
            tokio::select! {
                biased;
                ready = from.readable() => Some(ready?),
                () = hangup.notified(), if !hung_up => None,
            }
        } else {
            sleep(SPACE).await;
            None
        };
        let was_full = !pending.is_empty();
        hung_up = hung_up || (ready.is_none() && !was_full);
        let (theirs, file, first) = (Arc::clone(&from), Arc::clone(&to), pending.clone());
        let written = worker::run(c"stdio", move || write_all_there_is(theirs.get_ref(), &file, source, &first)).await;
        match written {
            Ok(Ok((Step::End, _))) => return Ok(()),
            Ok(Ok((Step::TargetFull, left))) => {
                pending = left;
                if !was_full {
                    log::warn!("{}: no space left; who writes to it waits", name(&to));
                }
            }
            Ok(Ok(_)) if hung_up => return Ok(()),
            Ok(Ok(_)) => {
                pending = Vec::new();
                ready.into_iter().for_each(|mut ready| ready.clear_ready());
            }
            Ok(Err(errno)) => return Err(errno.into()),
            // No thread to be had: the bytes wait until there is.
            Err(_) => sleep(Duration::from_millis(100)).await,
        }
    }
}

/// The other way round: from a file or device that cannot be polled, whose reading may block. A worker reads each piece; it is
/// written here, so that no worker outlives a process that does not read.
///
/// Errors: as with [`copy`].
pub(super) async fn copy_from_file(from: Arc<OwnedFd>, to: &Fd) -> io::Result<()> {
    loop {
        let file = Arc::clone(&from);
        let Ok(piece) = worker::run(c"stdio", move || read_piece(&file)).await else {
            // No thread to be had.
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        let mut pending = piece?;
        if pending.is_empty() {
            return Ok(());
        }
        while !pending.is_empty() {
            let mut ready = to.writable().await?;
            if flush(to.get_ref(), &mut pending)? == Step::TargetFull {
                ready.clear_ready();
            }
        }
    }
}

/// What comes next in a file; nothing at its end.
fn read_piece(from: &OwnedFd) -> Result<Vec<u8>, Errno> {
    let mut chunk = vec![0u8; 4 * CHUNK];
    let length = rustix::io::retry_on_intr(|| read(from, &mut chunk))?;
    chunk.truncate(length);
    Ok(chunk)
}

/// What a descriptor leads to, for the log.
fn name(file: &OwnedFd) -> String {
    let link = format!("/proc/self/fd/{}", file.as_raw_fd());
    std::fs::read_link(link).map(|path| path.display().to_string()).unwrap_or_default()
}

/// `first`, then what the source has. With a full target comes what is to be written first when there is space again.
fn write_all_there_is(from: &OwnedFd, to: &OwnedFd, source: Source, first: &[u8]) -> Result<(Step, Vec<u8>), Errno> {
    let done = put(to, first)?;
    if done < first.len() {
        return Ok((Step::TargetFull, first[done..].to_vec()));
    }
    let mut chunk = vec![0u8; 4 * CHUNK];
    loop {
        match take(from, &mut chunk, source)? {
            Taken::Bytes(bytes) => {
                let done = put(to, bytes)?;
                if done < bytes.len() {
                    return Ok((Step::TargetFull, bytes[done..].to_vec()));
                }
            }
            Taken::End => return Ok((Step::End, Vec::new())),
            Taken::Empty => {
                let mut fds = [PollFd::new(from, PollFlags::IN)];
                if poll(&mut fds, Some(&QUIET))? == 0 {
                    return Ok((Step::SourceEmpty, Vec::new()));
                }
            }
        }
    }
}

/// Writes all of it, or as much as there is space for.
fn put(to: &OwnedFd, bytes: &[u8]) -> Result<usize, Errno> {
    let mut done = 0;
    while done < bytes.len() {
        match write(to, &bytes[done..]) {
            Ok(n) => done += n,
            Err(Errno::INTR) => {}
            Err(Errno::NOSPC | Errno::DQUOT) => break,
            Err(errno) => return Err(errno),
        }
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_bulk_is_not_calm_at_once() {
        let (from, to) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let mut stream = Stream { splices: 0, bulk: BULK, room: 0, lately: 0 };
        for _ in 0..BULK_AFTER {
            assert!(!stream.is_bulk());
            stream.spliced(USUAL, &from, &to);
        }
        assert!(stream.is_bulk() && !stream.is_calm(), "the first look may be due already");
        assert!(stream.is_calm());
    }
}
