//! Copying between a console and its client, on the event loop and without ever blocking it; and into files, by workers. What the
//! target does not take stops the reading of the source, and so in the end the process; nothing is dropped and nothing spins.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, read, write};
use rustix::time::Timespec;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use super::drain::InHand;
use super::end::Watched;
use crate::worker;

/// Copied at once, on the stack.
pub(super) const CHUNK: usize = 16 << 10;
/// Moves after which others get their turn on the loop.
const TURN: u32 = 16;
/// After a hang-up: so long without a byte means that none is under way. A terminal hands over what was written to its
/// slave a moment later, by a kernel worker.
const SILENCE: Duration = Duration::from_millis(20);
/// And no longer than this in all: the process may go on writing for as long as its terminal is there.
const LAST_WORDS: Duration = Duration::from_millis(200);
/// More than a terminal holds of what was written to its slave (tty_buffer.c, TTYB_DEFAULT_MEM_LIMIT, and what is read of it
/// already): after the process's exit so much may still be its own words.
const HELD: usize = 128 << 10;
/// Between two looks whether a full disk has space again.
const SPACE: Duration = Duration::from_millis(200);
/// Idle time after which a file's worker goes away.
const QUIET: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
/// Until another attempt, where there was no thread to be had.
pub(super) const NO_THREAD: Duration = Duration::from_millis(100);

/// How one attempt went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Moved,
    SourceEmpty,
    TargetFull,
    End,
}

/// What ends the copying of a console whose slave others still have.
#[derive(Default)]
pub(super) struct Cut {
    /// The client is gone: what the process has written already still goes out, as far as the target takes it.
    pub(super) hangup: Notify,
    /// The process is gone: its words go out, however long the client takes to read them. What others who have its terminal go on
    /// writing has no client any more, as with containerd's own shim (ShutdownConsole).
    pub(super) exited: Notify,
}

/// Why copying has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// There is no more to come, or the client is gone.
    Closed,
    /// The process has gone, and somebody else still has its terminal.
    Exited,
}

/// Copies until the source ends, or is cut; nothing that was read is lost on the way. Both ends are non-blocking.
///
/// Errors: EPIPE when nobody can read the target any more, and what else the kernel says.
pub(super) async fn copy(from: &Watched, to: &Watched, cut: &Cut, in_hand: &InHand) -> io::Result<Ended> {
    // What was read and did not fit; empty (and without memory) almost always.
    let mut pending = Vec::new();
    let mut full = false;
    let mut moves = 0u32;
    let mut last_words = None;
    // What may still be read after the exit, and until when it may be waited for.
    let mut left: Option<(usize, Instant)> = None;
    loop {
        let room_or_bytes = async { if full { to.writable().await } else { from.readable().await } };
        let mut ready = tokio::select! {
            biased;
            ready = room_or_bytes => ready?,
            () = cut.exited.notified(), if left.is_none() && last_words.is_none() => {
                left = Some((HELD, Instant::now() + LAST_WORDS));
                continue;
            }
            () = cut.hangup.notified(), if last_words.is_none() => {
                last_words = Some(Instant::now() + LAST_WORDS);
                continue;
            }
            () = sleep(SILENCE), if last_words.is_some() => return Ok(Ended::Closed),
            () = sleep(SILENCE), if left.is_some() && !full => return Ok(Ended::Exited),
        };
        if last_words.is_some_and(|end| Instant::now() >= end) {
            return Ok(Ended::Closed);
        }
        in_hand.set(true);
        let (step, bytes) = move_some(from.get_ref(), to.get_ref(), &mut pending)?;
        in_hand.set(!pending.is_empty());
        if step == if full { Step::TargetFull } else { Step::SourceEmpty } {
            ready.clear_ready();
        }
        full = match step {
            Step::End => return Ok(Ended::Closed),
            Step::Moved => !pending.is_empty(),
            Step::TargetFull => true,
            Step::SourceEmpty => false,
        };
        if let Some((most, end)) = &mut left {
            *most = most.saturating_sub(bytes);
            let over = *most == 0 || step == Step::SourceEmpty && Instant::now() >= *end;
            if over && pending.is_empty() {
                return Ok(Ended::Exited);
            }
        }
        moves = moves.wrapping_add(1);
        if moves.is_multiple_of(TURN) {
            tokio::task::yield_now().await;
        }
    }
}

/// How it went, and how many bytes were read.
fn move_some(from: impl AsFd, to: impl AsFd, pending: &mut Vec<u8>) -> Result<(Step, usize), Errno> {
    if !pending.is_empty() {
        return flush(to, pending).map(|step| (step, 0));
    }
    match take(from, &mut [0u8; CHUNK])? {
        Taken::Bytes(bytes) => put_some(to, bytes, pending).map(|step| (step, bytes.len())),
        Taken::Empty => Ok((Step::SourceEmpty, 0)),
        Taken::End => Ok((Step::End, 0)),
    }
}

/// Writes what fits; the rest waits.
pub(super) fn put_some(to: impl AsFd, bytes: &[u8], pending: &mut Vec<u8>) -> Result<Step, Errno> {
    match write(to, bytes) {
        Ok(written) => {
            pending.extend_from_slice(&bytes[written..]);
            Ok(Step::Moved)
        }
        Err(Errno::AGAIN | Errno::INTR) => {
            pending.extend_from_slice(bytes);
            Ok(Step::TargetFull)
        }
        Err(errno) => Err(errno),
    }
}

/// The same with what has waited.
pub(super) fn flush(to: impl AsFd, pending: &mut Vec<u8>) -> Result<Step, Errno> {
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

pub(super) enum Taken<'a> {
    Bytes(&'a [u8]),
    Empty,
    End,
}

/// Reads what fits.
pub(super) fn take(from: impl AsFd, chunk: &mut [u8]) -> Result<Taken<'_>, Errno> {
    loop {
        return match read(from.as_fd(), &mut *chunk) {
            Ok(0) => Ok(Taken::End),
            Ok(n) => Ok(Taken::Bytes(&chunk[..n])),
            Err(Errno::AGAIN) => Ok(Taken::Empty),
            Err(Errno::INTR) => continue,
            // No slave of a terminal is open (tty_ioctl(4) has no word for it; every terminal program knows it). Ours is, as long as
            // the process lives.
            Err(Errno::IO) => Ok(Taken::End),
            Err(errno) => Err(errno),
        };
    }
}

/// The same into a file or device, whose writing may block: a worker writes while there is something to write, and is
/// gone when there is not. A full disk is a reader that has stopped: the process waits until there is space.
pub(super) async fn copy_to_file<T: AsFd + AsRawFd + Send + Sync + 'static>(
    from: Arc<AsyncFd<T>>,
    to: Arc<OwnedFd>,
    cut: &Cut,
) -> io::Result<Ended> {
    let mut over = None;
    // What was read and found no space.
    let mut pending = Vec::new();
    loop {
        // Never while a worker writes: it would be left behind with bytes that the next one overtakes.
        let ready = if pending.is_empty() {
            tokio::select! {
                biased;
                ready = from.readable() => Some(ready?),
                () = cut.exited.notified(), if over.is_none() => {
                    over = Some(Ended::Exited);
                    None
                }
                () = cut.hangup.notified(), if over.is_none() => {
                    over = Some(Ended::Closed);
                    None
                }
            }
        } else {
            sleep(SPACE).await;
            None
        };
        let was_full = !pending.is_empty();
        let (theirs, file, first) = (Arc::clone(&from), Arc::clone(&to), pending.clone());
        let last = over.is_some().then(|| (HELD, Instant::now() + LAST_WORDS));
        let written = worker::run(c"stdio", move || write_all_there_is(theirs.get_ref(), &file, &first, last)).await;
        match written {
            Ok(Ok((Step::End, _))) => return Ok(Ended::Closed),
            Ok(Ok((Step::TargetFull, left))) => {
                pending = left;
                if !was_full {
                    log::warn!("{}: no space left; who writes to it waits", name(&to));
                }
            }
            Ok(Ok(_)) => {
                if let Some(over) = over {
                    return Ok(over);
                }
                pending = Vec::new();
                ready.into_iter().for_each(|mut ready| ready.clear_ready());
            }
            Ok(Err(errno)) => return Err(errno.into()),
            // No thread to be had: the bytes wait until there is.
            Err(_) => sleep(NO_THREAD).await,
        }
    }
}

/// The other way round: from a file or device that cannot be polled, whose reading may block. A worker reads each piece; it is
/// written here, so that no worker outlives a process that does not read.
///
/// Errors: as with [`copy`].
pub(super) async fn copy_from_file(from: Arc<OwnedFd>, to: &Watched) -> io::Result<()> {
    loop {
        let file = Arc::clone(&from);
        let Ok(piece) = worker::run(c"stdio", move || read_piece(&file)).await else {
            // No thread to be had.
            sleep(NO_THREAD).await;
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

/// `first`, then what the source has; of the `last` words no more than so many bytes, and no waiting for more after that time. With a
/// full target comes what is to be written first when there is space again.
fn write_all_there_is(
    from: &impl AsFd,
    to: &OwnedFd,
    first: &[u8],
    mut last: Option<(usize, Instant)>,
) -> Result<(Step, Vec<u8>), Errno> {
    let done = put(to, first)?;
    if done < first.len() {
        return Ok((Step::TargetFull, first[done..].to_vec()));
    }
    let mut chunk = vec![0u8; 4 * CHUNK];
    loop {
        match take(from, &mut chunk)? {
            Taken::Bytes(bytes) => {
                let done = put(to, bytes)?;
                if done < bytes.len() {
                    return Ok((Step::TargetFull, bytes[done..].to_vec()));
                }
                if let Some((most, _)) = &mut last {
                    *most = most.saturating_sub(bytes.len());
                    if *most == 0 {
                        return Ok((Step::SourceEmpty, Vec::new()));
                    }
                }
            }
            Taken::End => return Ok((Step::End, Vec::new())),
            Taken::Empty => {
                let mut fds = [PollFd::new(from, PollFlags::IN)];
                let over = last.is_some_and(|(_, end)| Instant::now() >= end);
                if over || poll(&mut fds, Some(&QUIET))? == 0 {
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
