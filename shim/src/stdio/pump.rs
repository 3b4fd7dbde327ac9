//! Between a process's pipe and its client's fifo, file or device: a thread moves what there is and ends when nothing has moved for a
//! moment. Why a thread: see `end.rs`.
//!
//! Large amounts are spliced: no byte is touched. Small ones are copied: splice moves whole pipe slots, so sixteen lines
//! of one byte would fill a fifo that takes 65,536. A bulk gets larger pipes. What the target does not take stops the reading
//! of the source, and so in the end the process; nothing is dropped and nothing spins.
//!
//! Splicing goes through a pipe of our own. From one pipe into another it takes both locks at once, and while it waited for that of the process's
//! pipe the client's read(2) would wait for that of its fifo, and could not even be killed.
#![forbid(unsafe_code)]

use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, ioctl_fionread, read};
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use rustix::time::Timespec;
use tokio::io::unix::AsyncFd;
use tokio::io::{Interest, Ready};
use tokio::time::sleep;

use super::drain::InHand;
use super::end::End;
use super::relay::{CHUNK, NO_THREAD, Step, Taken, flush, put_some, take};
use crate::{ready, worker};

/// From this many waiting bytes on they are spliced: half of a pipe's sixteen slots, so that they are well filled.
const SPLICE_FROM: u64 = 32 << 10;
/// After this many splices a stream is a bulk: a quarter of a megabyte at least.
const BULK_AFTER: u32 = 8;
/// What each pipe of a bulk may hold, so that writer, shim and reader wake each other a sixteenth as often.
pub(super) const BULK: usize = 1 << 20;
/// The same where the writer's group, to which the pages in the pipes are charged, has less memory than [`ENOUGH`]: docker
/// allows a limit of 6 MiB, and two outputs have six pipes.
const SMALL_BULK: usize = 256 << 10;
const ENOUGH: i64 = 64 << 20;
/// What a pipe holds that nobody has asked to hold more.
const USUAL: usize = 64 << 10;
/// Less than one such pipe in so long, and a bulk is none any more: larger pipes count against what all pipes of a user may
/// hold (pipe(7), pipe-user-pages-soft), beyond which those who are not privileged get small ones only.
const CALM: Duration = Duration::from_secs(2);
/// Idle time after which the thread ends. One that writes ten lines a second keeps it.
const QUIET: Timespec = Timespec { tv_sec: 0, tv_nsec: 120_000_000 };
/// What a process's pipe holds from the moment that nobody reads: with the fifo, more than the 160 KiB that containerd's own
/// shim takes before a process has to wait (its pipe, its copier's buffer and the fifo).
const UNREAD: usize = 128 << 10;

/// What the pipes of a bulk may hold whose writer has so much memory, in bytes; `None` or -1 is unlimited.
pub(super) fn bulk_of(limit: Option<i64>) -> usize {
    if limit.is_some_and(|limit| (0..ENOUGH).contains(&limit)) { SMALL_BULK } else { BULK }
}

/// What may be done with a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// Can be polled and spliced from.
    Pipe,
    /// Can be polled.
    Device,
    /// Its reading may block.
    File,
}

/// How much has moved.
#[derive(Debug)]
struct Flow {
    splices: u32,
    /// What its pipes may hold as a bulk.
    bulk: usize,
    /// What its pipes have been made to hold: [`UNREAD`], `bulk`, or 0 for what they were made with.
    room: usize,
    /// Bytes spliced since somebody last looked.
    lately: usize,
}

impl Flow {
    /// Another splice has moved so many bytes. Whether its pipes are to become larger.
    fn spliced(&mut self, bytes: usize) -> bool {
        self.splices = self.splices.saturating_add(1);
        self.lately = self.lately.saturating_add(bytes);
        self.splices == BULK_AFTER
    }

    /// Its pipes are those of a bulk.
    fn swells(&mut self) {
        // The time of the first look may be long over: it is not to find that next to nothing has moved.
        (self.room, self.lately) = (self.bulk, self.bulk);
    }

    /// Less than one pipeful has moved since the last look, which for a bulk of long standing is [`CALM`] ago.
    fn is_calm(&mut self) -> bool {
        std::mem::take(&mut self.lately) < self.bulk
    }

    /// Whether to try without asking how much waits: whoever asks a busy pipe waits for its lock as long as who splices. Slots
    /// that are not well filled do no harm, for behind them stands a large pipe, in which small writes share a page.
    fn is_bulk(&self) -> bool {
        self.room == self.bulk
    }
}

/// A pipe that only we have.
struct Transit {
    out: OwnedFd,
    into: OwnedFd,
    /// What it may hold, if we may.
    room: usize,
    /// Bytes in it.
    holds: usize,
}

impl Transit {
    fn new(room: usize) -> Result<Self, Errno> {
        let (out, into) = pipe_with(PipeFlags::CLOEXEC)?;
        if room > USUAL {
            let _refused = fcntl_setpipe_size(&into, room);
        }
        Ok(Self { out, into, room, holds: 0 })
    }
}

/// Has an end only while it asks it something: what nobody waits for any more is closed, even if a thread never comes back from the other end.
struct Pump {
    from: Weak<End>,
    to: Weak<End>,
    source: Source,
    flow: Flow,
    /// What was read and did not fit; empty (and without memory) almost always.
    pending: Vec<u8>,
    /// What was spliced and did not fit.
    transit: Option<Transit>,
    /// How often in a row there was something to splice (poll(2) said), and then nothing.
    dry: u8,
    /// A read(2) of many bytes has got as many. Of a pipe whose writer has set O_DIRECT it gets one packet, and spliced on, that would
    /// be a packet to the client as well, of which he loses what he does not read at once (pipe(2)).
    is_stream: bool,
    in_hand: InHand,
}

/// Copies until the source ends; nothing that was read is lost on the way. Pipes are non-blocking and may, as those of a bulk, hold `bulk` bytes each.
///
/// Errors: the source cannot be watched. Of the future: EPIPE when nobody can read the target any more, and what else the kernel says.
pub(super) fn copy(
    from: Arc<End>,
    to: Arc<End>,
    source: Source,
    bulk: usize,
    in_hand: InHand,
) -> io::Result<impl Future<Output = io::Result<()>> + Send> {
    let mut first = match source {
        Source::File => None,
        Source::Pipe | Source::Device => Some(ready::watch(Arc::clone(&from), Interest::READABLE)?),
    };
    let flow = Flow { splices: 0, bulk, room: 0, lately: 0 };
    let (weak_from, weak_to) = (Arc::downgrade(&from), Arc::downgrade(&to));
    let pump = Arc::new(Mutex::new(Pump {
        from: weak_from,
        to: weak_to,
        source,
        flow,
        pending: Vec::new(),
        transit: None,
        dry: 0,
        is_stream: false,
        in_hand,
    }));
    Ok(async move {
        let mut step = Step::SourceEmpty;
        loop {
            // Watched only while no thread is at work: each byte would wake the loop as well.
            if step == Step::TargetFull {
                let _ready = watch(&to, Interest::WRITABLE).await.writable().await?;
            } else if source != Source::File {
                let from = match first.take() {
                    Some(from) => from,
                    None => watch(&from, Interest::READABLE).await,
                };
                let ready = from.readable().await?.ready();
                // No writer and no byte.
                if source == Source::Pipe && ready.is_read_closed() && (ready & Ready::READABLE).is_empty() {
                    return Ok(());
                }
            }
            let pump = Arc::clone(&pump);
            let moved = move || pump.lock().unwrap_or_else(PoisonError::into_inner).run();
            match worker::run(c"stdio", moved).await {
                Ok(Ok(Step::End)) => return Ok(()),
                Ok(moved) => step = moved?,
                Err(_) => sleep(NO_THREAD).await,
            }
        }
    })
}

/// Registers an end; what the kernel has no memory for now it may have later.
async fn watch(end: &Arc<End>, interest: Interest) -> AsyncFd<Arc<End>> {
    loop {
        match ready::watch(Arc::clone(end), interest) {
            Ok(watched) => return watched,
            Err(_) => sleep(NO_THREAD).await,
        }
    }
}

impl Pump {
    /// Moves what there is until nothing has moved for [`QUIET`], a bulk until it is calm. On a thread of its own.
    ///
    /// Errors: ECANCELED when nobody waits for it any more, and the kernel's.
    fn run(&mut self) -> Result<Step, Errno> {
        let mut look = Instant::now() + CALM;
        self.is_stream = false;
        loop {
            let step = self.move_some()?;
            let (end, flags) = match step {
                Step::Moved => continue,
                Step::End => return Ok(Step::End),
                Step::SourceEmpty => (&self.from, PollFlags::IN),
                Step::TargetFull => {
                    self.waits()?;
                    (&self.to, PollFlags::OUT)
                }
            };
            let quiet = match poll(&mut [PollFd::new(&held(end)?, flags)], Some(&QUIET)) {
                Ok(ready) => ready == 0,
                Err(Errno::INTR) => false,
                Err(errno) => return Err(errno),
            };
            if quiet {
                self.dry = 0;
            }
            let mut calm = !self.flow.is_bulk();
            if !calm && Instant::now() >= look {
                look = Instant::now() + CALM;
                calm = self.flow.is_calm();
                if calm && self.resize(USUAL)? {
                    // Otherwise they hold more than the usual, and stay as they are.
                    (self.flow.splices, self.flow.room) = (0, 0);
                    self.drop_transit();
                }
            }
            if quiet && calm {
                self.drop_transit();
                return Ok(step);
            }
        }
    }

    fn drop_transit(&mut self) {
        self.transit = self.transit.take().filter(|transit| transit.holds > 0);
    }

    /// The target is full. A user over the limit of pipe(7) keeps what there is.
    fn waits(&mut self) -> Result<(), Errno> {
        if self.source == Source::Pipe && self.flow.room == 0 {
            self.flow.room = UNREAD;
            let _refused = fcntl_setpipe_size(held(&self.from)?, UNREAD);
        }
        Ok(())
    }

    /// Whether both pipes may hold so much now.
    fn resize(&self, room: usize) -> Result<bool, Errno> {
        Ok(fcntl_setpipe_size(held(&self.to)?, room).is_ok() && fcntl_setpipe_size(held(&self.from)?, room).is_ok())
    }

    fn move_some(&mut self) -> Result<Step, Errno> {
        self.in_hand.set(true);
        let step = self.move_on();
        self.in_hand.set(!self.pending.is_empty() || self.transit.as_ref().is_some_and(|transit| transit.holds > 0));
        step
    }

    fn move_on(&mut self) -> Result<Step, Errno> {
        if !self.pending.is_empty() {
            return flush(held(&self.to)?, &mut self.pending);
        }
        if self.transit.as_ref().is_some_and(|transit| transit.holds > 0) {
            return self.deliver();
        }
        let much =
            self.source == Source::Pipe && (self.flow.is_bulk() || ioctl_fionread(held(&self.from)?)? >= SPLICE_FROM);
        if much
            && self.is_stream
            && let Some(step) = self.splice()?
        {
            return Ok(step);
        }
        let mut chunk = [0; CHUNK];
        let bytes = match self.source {
            Source::File => match read(held(&self.from)?, &mut chunk) {
                Ok(0) => return Ok(Step::End),
                Ok(length) => &chunk[..length],
                Err(Errno::INTR) => return Ok(Step::Moved),
                Err(errno) => return Err(errno),
            },
            Source::Pipe | Source::Device => match take(held(&self.from)?, &mut chunk)? {
                Taken::Bytes(bytes) => bytes,
                Taken::Empty => return Ok(Step::SourceEmpty),
                Taken::End => return Ok(Step::End),
            },
        };
        self.is_stream = self.is_stream || much && bytes.len() == CHUNK;
        put_some(held(&self.to)?, bytes, &mut self.pending)
    }

    /// Nothing if it is to be copied instead.
    fn splice(&mut self) -> Result<Option<Step>, Errno> {
        let room = if self.flow.is_bulk() { self.flow.bulk } else { USUAL };
        let transit = match self.transit.take().filter(|transit| transit.room == room) {
            Some(transit) => transit,
            None => match Transit::new(room) {
                Ok(transit) => transit,
                Err(_) => return Ok(None),
            },
        };
        let transit = self.transit.insert(transit);
        match splice(held(&self.from)?, None, &transit.into, None, room, AT_ONCE) {
            Ok(0) => Ok(Some(Step::End)),
            Ok(bytes) => {
                (transit.holds, self.dry) = (bytes, 0);
                self.deliver().map(Some)
            }
            Err(Errno::INTR) => Ok(Some(Step::Moved)),
            Err(Errno::AGAIN) if self.dry < 2 => {
                self.dry += 1;
                Ok(Some(Step::SourceEmpty))
            }
            Err(Errno::AGAIN) => {
                // Before Linux 6.15 a write(2) that fails leaves a buffer without bytes, which is spliced for nothing until the pipe
                // in between is full of them. read(2) throws them away.
                (self.transit, self.dry) = (None, 0);
                Ok(None)
            }
            Err(errno) => Err(errno),
        }
    }

    /// What is in transit goes on as far as there is room.
    fn deliver(&mut self) -> Result<Step, Errno> {
        let Some(transit) = &mut self.transit else { return Ok(Step::Moved) };
        match splice(&transit.out, None, held(&self.to)?, None, transit.holds, AT_ONCE) {
            Ok(bytes) => {
                transit.holds = transit.holds.saturating_sub(bytes);
                let step = if transit.holds > 0 { Step::TargetFull } else { Step::Moved };
                if self.flow.spliced(bytes) {
                    if self.resize(self.flow.bulk)? {
                        self.flow.swells();
                    } else {
                        // A user over the limit of pipe(7): one of the two is not to go on holding what the other may not.
                        let _as_it_was = fcntl_setpipe_size(held(&self.to)?, USUAL);
                    }
                }
                Ok(step)
            }
            Err(Errno::INTR) => Ok(Step::Moved),
            Err(Errno::AGAIN) => Ok(Step::TargetFull),
            Err(errno) => Err(errno),
        }
    }
}

const AT_ONCE: SpliceFlags = SpliceFlags::MOVE.union(SpliceFlags::NONBLOCK);

/// An end, as long as somebody waits for what moves.
fn held(end: &Weak<End>) -> Result<Arc<End>, Errno> {
    end.upgrade().ok_or(Errno::CANCELED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_bulk_is_not_calm_at_once() {
        let mut flow = Flow { splices: 0, bulk: BULK, room: 0, lately: 0 };
        for _ in 0..BULK_AFTER {
            assert!(!flow.is_bulk());
            if flow.spliced(USUAL) {
                flow.swells();
            }
        }
        assert!(flow.is_bulk() && !flow.is_calm(), "the first look may be due already");
        assert!(flow.is_calm());
    }

    /// A thread that is kept by a word now and then has nothing left of the bulk either.
    #[test]
    fn a_bulk_that_calms_down_has_no_transit() {
        use std::fs::File;
        use std::io::{Read, Write};

        let nonblocking = |fd: &OwnedFd| rustix::io::ioctl_fionbio(fd, true).unwrap();
        let ((from, writer), (reader, to)) =
            (pipe_with(PipeFlags::CLOEXEC).unwrap(), pipe_with(PipeFlags::CLOEXEC).unwrap());
        nonblocking(&from);
        nonblocking(&to);
        let (from, to) = (Arc::new(End::of_process(from)), Arc::new(End::of_client(to)));
        let flow = Flow { splices: 0, bulk: BULK, room: 0, lately: 0 };
        let (weak_from, weak_to) = (Arc::downgrade(&from), Arc::downgrade(&to));
        let mut pump = Pump {
            from: weak_from,
            to: weak_to,
            source: Source::Pipe,
            flow,
            pending: Vec::new(),
            transit: None,
            dry: 0,
            is_stream: false,
            in_hand: InHand::default(),
        };
        let (mut writer, mut reader) = (File::from(writer), File::from(reader));
        let talking = std::thread::spawn(move || {
            writer.write_all(&vec![1; 8 << 20]).unwrap();
            let end = Instant::now() + 3 * CALM;
            while Instant::now() < end {
                writer.write_all(b"x").unwrap();
                std::thread::sleep(Duration::from_millis(40));
            }
        });
        let reading = std::thread::spawn(move || {
            let mut got = vec![0; 8 << 20];
            reader.read_exact(&mut got).unwrap();
            while reader.read(&mut got).unwrap() > 0 {}
        });
        // The words go on for longer than it takes to be calm, and keep the thread; the end of them ends it.
        assert_eq!(pump.run(), Ok(Step::End));
        assert!(pump.flow.lately > 0 || pump.flow.splices == 0, "it was a bulk");
        assert!(pump.transit.is_none());
        talking.join().unwrap();
        drop((from, to));
        reading.join().unwrap();
    }
}
