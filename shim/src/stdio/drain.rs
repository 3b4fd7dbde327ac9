//! The moment between a process's end and its announcement, for what its logger or client has not read yet.
//!
//! nerdctl's logger asks containerd to tell it when the container has ended, and then stops to read; the last words of a
//! burst would stay in the pipe (nerdctl#5006). So an exit is announced when the pipes are empty, or when the logger has
//! gone or does not read on. Readers of fifos wait for the end of file; but ctr ends with what it has read when it hears of
//! the exit (on a busy machine the last words were lost, with containerd's own shim too), and one of containerd's library that
//! still opens its fifo then gives up. So the announcement waits for them as well, though not for long.
#![forbid(unsafe_code)]

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use rustix::io::{fcntl_dupfd_cloexec, ioctl_fionread};
use rustix::pipe::fcntl_setpipe_size;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};

use super::end::End;
use super::fifo::has_reader;
use super::relay::Cut;
use crate::{ready, worker};

/// A logger that takes nothing for so long has stopped to read.
const STALL: Duration = Duration::from_secs(2);
/// In all. A logger that is as slow as that loses its tail: everybody who waits for the exit comes first.
const LIMIT: Duration = Duration::from_secs(10);

/// A client that takes nothing for so long is stopped, or there is none.
const CLIENT_STALL: Duration = Duration::from_millis(250);
/// In all: who does not keep up then reads the rest after the announcement.
const CLIENT_LIMIT: Duration = Duration::from_secs(1);

/// Until the first look.
const SHORT: Duration = Duration::from_micros(500);

/// The least that a pipe can hold.
const PAGE: usize = 4 << 10;

/// Our write ends of a logger's pipes, and the ways to a client's fifos, while the process lives and a moment longer.
#[derive(Default)]
pub struct Drain {
    pub(super) pipes: Vec<End>,
    /// Ends with the task that copies a console into the logger's pipe.
    pub(super) copied: Option<oneshot::Receiver<()>>,
    pub(super) fifos: Vec<ToClient>,
    /// The process's terminal, which as long as it is held is not taken for hung up.
    pub(super) slave: Option<End>,
    /// Ends the copying of it: others whom the process leaves behind may have it as well.
    pub(super) cut: Arc<Cut>,
    /// What a client types into it.
    pub(super) typing: Option<AbortHandle>,
}

/// What can be asked for what waits in it.
type Way = Weak<dyn AsFd + Send + Sync>;

/// Whether whoever copies has taken something and not yet put all of it where it goes.
#[derive(Clone, Default)]
pub(super) struct InHand(Arc<AtomicBool>);

impl InHand {
    pub(super) fn set(&self, some: bool) {
        self.0.store(some, Ordering::SeqCst);
    }
}

/// An output on its way to a client.
pub(super) struct ToClient {
    /// From the process, and into the fifo; gone when they are closed.
    from: Way,
    in_hand: InHand,
    to: Way,
    /// Ends when the process has closed its end and the client has read all, or has been waited for.
    read: oneshot::Receiver<()>,
}

impl Drain {
    /// An output goes from here to there. The sender is dropped when the client has read all.
    pub(super) fn client<F, T>(&mut self, from: &Arc<F>, to: &Arc<T>) -> (oneshot::Sender<()>, InHand)
    where
        F: AsFd + Send + Sync + 'static,
        T: AsFd + Send + Sync + 'static,
    {
        let (reading, read) = oneshot::channel();
        let (from, to, in_hand) = (Arc::downgrade(from) as Way, Arc::downgrade(to) as Way, InHand::default());
        self.fifos.push(ToClient { from, in_hand: in_hand.clone(), to, read });
        (reading, in_hand)
    }

    /// Waits until the logger or the client has read what the process wrote. Then a logger's pipes have no writer of ours any more.
    pub async fn dry(mut self) {
        drop(self.slave.take());
        if let Some(typing) = self.typing.take() {
            // A terminal that is hung up polls as writable for ever, and takes no more than it holds.
            typing.abort();
        }
        self.cut.exited.notify_one();
        if let Some(copied) = self.copied.take() {
            let _ = timeout(STALL, copied).await;
        }
        if !self.pipes.is_empty() {
            let pipes = Arc::new(std::mem::take(&mut self.pipes));
            let left = || {
                let pipes = Arc::clone(&pipes);
                asked(move || pipes.iter().map(unread).sum())
            };
            until_none(left, STALL, LIMIT).await;
        }
        let (ways, ends): (Vec<_>, Vec<_>) =
            self.fifos.into_iter().map(|f| ((f.from, f.in_hand, f.to), f.read)).unzip();
        let all_read = async {
            for end in ends {
                let _sender_is_gone = end.await;
            }
        };
        // Others than the process may have its end as well, and do not close it.
        let none_left = async {
            sleep(SHORT).await;
            let ways = Arc::new(ways);
            let left = || {
                let ways = Arc::clone(&ways);
                asked(move || ways.iter().map(under_way).sum())
            };
            until_none(left, CLIENT_STALL, CLIENT_LIMIT).await;
        };
        tokio::select! {
            biased;
            () = all_read => {}
            () = none_left => {}
        }
    }
}

/// Asks on a thread: a process that holds its pipe's lock has us wait for the answer (`end.rs`). Without a thread nobody knows.
async fn asked(left: impl FnOnce() -> u64 + Send + 'static) -> u64 {
    worker::run(c"drain", left).await.unwrap_or(u64::MAX)
}

/// Bytes between a process and a client that is there. As long as something is copied, our own reader counts as one.
fn under_way((from, in_hand, to): &(Way, InHand, Way)) -> u64 {
    if !to.upgrade().is_some_and(|to| has_reader(to.as_ref())) {
        return 0;
    }
    // In the order in which they move: otherwise those that move meanwhile would be missed.
    let in_pipe = from.upgrade().map_or(0, |from| ioctl_fionread(from.as_ref()).unwrap_or_default());
    let in_hand = u64::from(in_hand.0.load(Ordering::SeqCst));
    in_pipe + in_hand + to.upgrade().map_or(0, unread)
}

/// Waits until a client has read what is in its fifo, into which nothing more comes from us.
pub(super) async fn read_by_client<T: AsFd>(fifo: &T) {
    if unread(fifo) == 0 {
        return;
    }
    // A pipe is announced as writable when it was full and is read from (pipe(7)). One page is full with the few lines that
    // mostly are there, and so nobody waits for a timer; with more than a page it stays as it is (EBUSY).
    let _as_it_is = fcntl_setpipe_size(fifo, PAGE);
    let emptied = async {
        let Ok(watched) = fcntl_dupfd_cloexec(fifo, 3).map_err(Into::into).and_then(ready::for_writing) else {
            return std::future::pending().await;
        };
        while let Ok(mut ready) = watched.writable().await {
            if unread(fifo) == 0 {
                return;
            }
            ready.clear_ready();
        }
    };
    tokio::select! {
        biased;
        () = emptied => {}
        () = until_none(|| std::future::ready(unread(fifo)), CLIENT_STALL, CLIENT_LIMIT) => {}
    }
}

/// Bytes that somebody may still read.
fn unread(pipe: impl AsFd) -> u64 {
    if has_reader(&pipe) { ioctl_fionread(pipe).unwrap_or_default() } else { 0 }
}

/// Waits until no bytes are left, or they have not become fewer for a time, or that is enough.
async fn until_none<F: Future<Output = u64>>(left: impl Fn() -> F, stall: Duration, limit: Duration) {
    let end = Instant::now() + 3 * limit;
    let (mut waited, mut stalled) = (Duration::ZERO, Duration::ZERO);
    let mut least = u64::MAX;
    let mut pause = SHORT;
    loop {
        // Who has to wait so long for the answer need not hear it.
        let Ok(left) = timeout(stall, left()).await else { return };
        if left < least {
            (least, stalled) = (left, Duration::ZERO);
        }
        if left == 0 || waited >= limit || stalled >= stall || Instant::now() >= end {
            return;
        }
        let begun = Instant::now();
        sleep(pause).await;
        // While the whole machine stood still, so did the client.
        let slept = begun.elapsed().min(2 * pause);
        (waited, stalled) = (waited + slept, stalled + slept);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use super::*;
    use rustix::pipe::{PipeFlags, pipe_with};

    fn on_loop(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
    }

    fn filled() -> (OwnedFd, Drain) {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        rustix::io::write(&write, b"last words").unwrap();
        (read, Drain { pipes: vec![End::of_process(write)], ..Drain::default() })
    }

    #[test]
    fn it_waits_for_the_last_byte_and_then_closes() {
        on_loop(async {
            let (read, drain) = filled();
            let waiting = tokio::spawn(drain.dry());
            sleep(Duration::from_millis(50)).await;
            assert!(!waiting.is_finished(), "there are bytes to be read");
            let mut bytes = [0; 64];
            assert_eq!(rustix::io::read(&read, &mut bytes).unwrap(), 10);
            timeout(Duration::from_secs(5), waiting).await.expect("nothing is left to wait for").unwrap();
            assert_eq!(rustix::io::read(&read, &mut bytes).unwrap(), 0, "end of file");
        });
    }

    #[test]
    fn neither_a_dead_logger_nor_one_that_does_not_read_holds_the_exit() {
        on_loop(async {
            let (read, drain) = filled();
            drop(read);
            timeout(STALL / 2, drain.dry()).await.expect("nobody can read it any more");
            let (_read, drain) = filled();
            timeout(STALL + LIMIT, drain.dry()).await.expect("it has stopped to read");
        });
    }

    #[test]
    fn what_is_still_being_copied_counts() {
        on_loop(async {
            let (read, write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
            let (copier, copied) = oneshot::channel::<()>();
            let waiting = tokio::spawn(
                Drain { pipes: vec![End::of_process(write)], copied: Some(copied), ..Drain::default() }.dry(),
            );
            sleep(Duration::from_millis(20)).await;
            assert!(!waiting.is_finished(), "the copier is at work");
            drop(copier);
            timeout(Duration::from_secs(5), waiting).await.expect("it is done").unwrap();
            drop(read);
        });
    }
}
