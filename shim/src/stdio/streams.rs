//! The streams of one process while it runs: its copying tasks, its console, its logger.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Weak};
use std::time::Duration;

use runtime::reap;
use rustix::fs::{FileType, fstat};
use rustix::io::fcntl_dupfd_cloexec;
use rustix::termios::{Winsize, tcsetwinsize};
use tokio::io::Interest;
use tokio::sync::{Mutex, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};

use super::drain::{self, InHand};
use super::end::{End, Watched};
use super::fifo::{self, Fifo, Input, Target};
use super::pump::{self, Source};
use super::relay::{self, Cut, Ended};
use super::{Drain, Output, Stdin, Terminal, Wiring};
use crate::ready::{self, Fd};
use crate::worker;

/// Between SIGTERM and SIGKILL for a logger that ignores the end of its input. With the time that it had before, as long
/// as with containerd's own shim, which waits twelve seconds after SIGTERM.
const LOGGER_GRACE: Duration = Duration::from_secs(2);

/// Dropping it stops everything at once; [`Streams::finish`] lets it end by itself first.
#[derive(Default)]
pub struct Streams {
    /// Our own writer of stdin's fifo: until CloseIO drops it the process sees no end of file.
    keeper: Option<OwnedFd>,
    stdin: Option<JoinHandle<()>>,
    /// A terminal that others have whom its process has left behind is in them: it is hung up by Delete.
    outputs: Vec<JoinHandle<Option<Arc<Watched>>>>,
    console: Weak<Watched>,
    /// Whose turn it is to set its size.
    sizing: Arc<Mutex<()>>,
    logger: Option<(Arc<Fd>, JoinHandle<()>)>,
    drain: Drain,
}

impl Wiring {
    /// Starts to copy. On the event loop.
    ///
    /// Errors: stdin's fifo cannot be opened, or the descriptors cannot be registered with the loop.
    pub fn run(self) -> io::Result<Streams> {
        let mut streams = Streams::default();
        let console = match self.terminal {
            Some(Terminal { master, slave }) => {
                streams.drain.slave = slave;
                let flags = rustix::fs::fcntl_getfl(&master)?;
                rustix::fs::fcntl_setfl(&master, flags | rustix::fs::OFlags::NONBLOCK)?;
                Some(Arc::new(master.watched(Interest::READABLE | Interest::WRITABLE)?))
            }
            None => None,
        };
        streams.console = console.as_ref().map(Arc::downgrade).unwrap_or_default();
        if let Some(pidfd) = self.logger.and_then(super::Logger::into_pidfd) {
            let pidfd = Arc::new(ready::for_reading(pidfd)?);
            streams.logger = Some((Arc::clone(&pidfd), tokio::spawn(reap_logger(pidfd))));
        }
        streams.drain.pipes = self.logged;
        let cut = Arc::clone(&streams.drain.cut);
        for output in self.outputs {
            let bulk = pump::bulk_of(self.memory);
            let running = run_output(output, console.clone(), bulk, &mut streams.drain)?;
            streams.outputs.push(running);
        }
        let Some(Stdin { from, to }) = self.stdin else { return Ok(streams) };
        let fifo = match from {
            Input::Fifo(fifo) => fifo,
            Input::File(file) => {
                streams.stdin = run_file(file, to, console)?;
                return Ok(streams);
            }
        };
        let (from, keeper) = fifo::both_ends(&fifo)?;
        streams.keeper = Some(keeper);
        streams.stdin = match (to, console) {
            (Some(pipe), _) => Some(run_stdin(from, pipe, Source::Pipe)?),
            (None, Some(master)) => {
                let from = End::of_client(from).watched(Interest::READABLE)?;
                Some(tokio::spawn(async move {
                    // A client hangs up by closing its end, which ends the source.
                    let _ = relay::copy(&from, &master, &Cut::default(), &InHand::default()).await;
                    // All writers of the fifo are gone, ours included: the client has hung up, so the terminal does.
                    // The kernel sends SIGHUP when the last descriptor of the master is closed.
                    cut.hangup.notify_one();
                }))
            }
            (None, None) => None,
        };
        Ok(streams)
    }
}

/// Copies to the process's pipe until `from` ends, which is the end of stdin.
fn run_stdin(from: OwnedFd, pipe: End, source: Source) -> io::Result<JoinHandle<()>> {
    let (from, to) = (Arc::new(End::of_client(from)), Arc::new(pipe));
    let copying = pump::copy(from, to, source, pump::BULK, InHand::default())?;
    Ok(tokio::spawn(async move {
        // EPIPE: the process closed its stdin; dropping our end tells the client.
        let _ = copying.await;
    }))
}

/// Copies a file or device to the process's stdin.
fn run_file(file: OwnedFd, pipe: Option<End>, console: Option<Arc<Watched>>) -> io::Result<Option<JoinHandle<()>>> {
    // A terminal as stdin can be polled, say; /dev/null cannot (EPERM). A regular file may be one of FUSE's, which can, and still
    // waits for its server in each read(2).
    let device = FileType::from_raw_mode(fstat(&file)?.st_mode) == FileType::CharacterDevice;
    let polled = device
        .then(|| End::of_client(fcntl_dupfd_cloexec(&file, 3)?).watched(Interest::READABLE))
        .and_then(io::Result::ok);
    if let Some(pipe) = pipe {
        let source = if polled.is_some() { Source::Device } else { Source::File };
        drop(polled);
        return run_stdin(file, pipe, source).map(Some);
    }
    let Some(to) = console else { return Ok(None) };
    Ok(Some(tokio::spawn(async move {
        let _hung_up = match polled {
            Some(from) => relay::copy(&from, &to, &Cut::default(), &InHand::default()).await.map(drop),
            None => relay::copy_from_file(Arc::new(file), &to).await,
        };
        // A file that was read to its end is no client that has hung up: the terminal stays until Delete.
        std::future::pending::<()>().await;
    })))
}

/// Gives the terminal if it is not to be hung up before Delete.
fn run_output(
    output: Output,
    console: Option<Arc<Watched>>,
    bulk: usize,
    drain: &mut Drain,
) -> io::Result<JoinHandle<Option<Arc<Watched>>>> {
    // A descriptor of its own for each task: two outputs may share one fifo, and epoll takes a descriptor once.
    let twin = |fd: &OwnedFd| fcntl_dupfd_cloexec(fd, 3);
    let cut = Arc::clone(&drain.cut);
    let kept = |ended: io::Result<Ended>, master| matches!(ended, Ok(Ended::Exited)).then_some(master);
    Ok(match (output.from, console, output.to) {
        (Some(pipe), _, Target::Fifo(fifo)) => {
            let (from, to) = (Arc::new(pipe), Arc::new(End::of_client(twin(fifo.writer())?)));
            let (read, in_hand) = drain.client(&from, &to);
            let copying = pump::copy(from, Arc::clone(&to), Source::Pipe, bulk, in_hand)?;
            tokio::spawn(async move {
                let _ = copying.await;
                end_of_stream(fifo, to, read).await;
                None
            })
        }
        (None, Some(master), Target::Fifo(fifo)) => {
            let to = Arc::new(End::of_client(twin(fifo.writer())?).watched(Interest::WRITABLE)?);
            let (read, in_hand) = drain.client(&master, &to);
            tokio::spawn(async move {
                let master = kept(relay::copy(&master, &to, &cut, &in_hand).await, master);
                end_of_stream(fifo, to, read).await;
                master
            })
        }
        (Some(pipe), _, Target::File(file)) => {
            let from = Arc::new(pipe.watched(Interest::READABLE)?);
            tokio::spawn(async move {
                // Whom the process leaves behind goes on writing until Delete.
                let _ = relay::copy_to_file(from, file, &Cut::default()).await;
                None
            })
        }
        (None, Some(master), Target::File(file)) => {
            tokio::spawn(async move { kept(relay::copy_to_file(Arc::clone(&master), file, &cut).await, master) })
        }
        (None, Some(master), Target::Pipe(pipe)) => {
            let to = End::of_client(twin(&pipe)?).watched(Interest::WRITABLE)?;
            drop(pipe);
            // A logger with a console has one output, whose end the announcement of the exit waits for.
            let (at_work, copied) = oneshot::channel::<()>();
            drain.copied = Some(copied);
            tokio::spawn(async move {
                let master = kept(relay::copy(&master, &to, &cut, &InHand::default()).await, master);
                drop(at_work);
                master
            })
        }
        // A process writes into its logger's pipes itself; without a console there is nothing to copy.
        (Some(_), _, Target::Pipe(_)) | (None, None, _) => tokio::spawn(async { None }),
    })
}

/// The last output that used a fifo ends the client's stream; not the task that copied, which Delete waits for.
async fn end_of_stream<T: AsFd + Send + Sync + 'static>(fifo: Arc<Fifo>, to: Arc<T>, reading: oneshot::Sender<()>) {
    let Some(fifo) = Arc::into_inner(fifo) else { return };
    let writer = fifo.into_writer();
    drain::read_by_client(&to).await;
    drop((to, reading));
    tokio::spawn(Fifo::close(writer));
}

/// A logger is a child of ours that no event speaks of.
async fn reap_logger(pidfd: Arc<Fd>) {
    while let Ok(mut ready) = pidfd.readable().await {
        match reap::exit_status(pidfd.get_ref()) {
            Ok(None) => ready.clear_ready(),
            Ok(Some(_)) | Err(_) => return,
        }
    }
}

impl Streams {
    /// What the announcement of the process's exit has to wait for. To be held until then: without it a logger sees the
    /// end of a process that has closed its outputs before it ends.
    pub fn take_drain(&mut self) -> Drain {
        let typing = self.stdin.as_ref().filter(|_| self.console.strong_count() > 0);
        Drain { typing: typing.map(JoinHandle::abort_handle), ..std::mem::take(&mut self.drain) }
    }

    /// CloseIO: our own writer of the stdin fifo goes. The process sees the end of file when the client's has gone too.
    pub fn close_stdin(&mut self) {
        self.keeper = None;
    }

    /// Sets the console's size, in characters, one after the other. Without a console there is nothing to do. On a thread: a process that
    /// asks for the size with a page that does not come holds the lock that this takes (TIOCGWINSZ, winsize_mutex).
    pub fn resize(&self, width: u16, height: u16) -> impl Future<Output = io::Result<()>> + Send + use<> {
        let (console, sizing) = (Weak::clone(&self.console), Arc::clone(&self.sizing));
        let size = Winsize { ws_col: width, ws_row: height, ws_xpixel: 0, ws_ypixel: 0 };
        async move {
            let _turn = sizing.lock().await;
            let Some(console) = console.upgrade() else { return Ok(()) };
            worker::run(c"resize", move || tcsetwinsize(console.get_ref(), size)).await?.map_err(io::Error::from)
        }
    }

    /// Lets the outputs run dry, but no longer than `limit`: somebody outside the container's life may hold the pipe.
    /// Afterwards everything is closed.
    pub async fn finish(mut self, limit: Duration) {
        self.keeper = None;
        drop(std::mem::take(&mut self.drain));
        let deadline = Instant::now() + limit;
        for output in &mut self.outputs {
            if timeout_at(deadline, &mut *output).await.is_err() {
                output.abort();
            }
        }
        self.outputs.clear();
        let Some((pidfd, mut reaper)) = self.logger.take() else { return };
        if timeout_at(deadline, &mut reaper).await.is_ok() {
            return;
        }
        // It has had the end of its input for long enough. Waited for, because the shim may end after Delete, and nobody
        // else would end it.
        let _ = reap::signal(pidfd.get_ref(), 15);
        if timeout(LOGGER_GRACE, &mut reaper).await.is_err() {
            let _ = reap::signal(pidfd.get_ref(), 9);
            let _ = reaper.await;
        }
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        self.stdin.iter().for_each(JoinHandle::abort);
        self.outputs.iter().for_each(JoinHandle::abort);
    }
}
