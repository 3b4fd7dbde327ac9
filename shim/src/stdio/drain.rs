//! The moment between a process's end and its announcement, for what its logger or client has not read yet.
//!
//! nerdctl's logger asks containerd to tell it when the container has ended, and then stops to read; the last words of a
//! burst would stay in the pipe (nerdctl#5006). So an exit is announced when the pipes are empty, or when the logger has
//! gone or does not read on. Readers of fifos wait for the end of file; but ctr ends with what it has read when it hears of
//! the exit (on a busy machine the last words were lost, with containerd's own shim too), and one of containerd's library that
//! still opens its fifo then gives up. So the announcement waits for them as well, though not for long.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Weak;
use std::time::Duration;

use rustix::io::ioctl_fionread;
use rustix::pipe::fcntl_setpipe_size;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};

use super::fifo::has_reader;
use crate::ready::Fd;

/// A logger that takes nothing for so long has stopped to read.
const STALL: Duration = Duration::from_secs(2);
/// In all. A logger that is as slow as that loses its tail: everybody who waits for the exit comes first.
const LIMIT: Duration = Duration::from_secs(10);

/// A client that takes nothing for so long is stopped, or there is none.
const CLIENT_STALL: Duration = Duration::from_millis(250);
/// In all: who does not keep up then reads the rest after the announcement.
const CLIENT_LIMIT: Duration = Duration::from_secs(1);

/// The least that a pipe can hold.
const PAGE: usize = 4 << 10;

/// Our write ends of a logger's pipes, and the ways to a client's fifos, while the process lives and a moment longer.
#[derive(Default)]
pub struct Drain {
    pub(super) pipes: Vec<OwnedFd>,
    /// Ends with the task that copies a console into the logger's pipe.
    pub(super) copied: Option<oneshot::Receiver<()>>,
    pub(super) fifos: Vec<ToClient>,
    /// The process's terminal, which as long as it is held is not taken for hung up.
    pub(super) slave: Option<OwnedFd>,
    /// What a client types into it.
    pub(super) typing: Option<AbortHandle>,
}

/// An output on its way to a client.
pub(super) struct ToClient {
    /// From the process, and into the fifo; gone when they are closed.
    pub(super) from: Weak<Fd>,
    pub(super) to: Weak<Fd>,
    /// Ends when the process has closed its end and the client has read all, or has been waited for.
    pub(super) read: oneshot::Receiver<()>,
}

impl Drain {
    /// Waits until the logger or the client has read what the process wrote. Then a logger's pipes have no writer of ours any more.
    pub async fn dry(mut self) {
        drop(self.slave.take());
        if let Some(typing) = self.typing.take() {
            // A terminal that is hung up polls as writable for ever, and takes no more than it holds.
            typing.abort();
        }
        if let Some(copied) = self.copied.take() {
            let _ = timeout(STALL, copied).await;
        }
        until_none(|| self.pipes.iter().map(unread).sum(), STALL, LIMIT).await;
        let (ways, ends): (Vec<_>, Vec<_>) = self.fifos.into_iter().map(|f| ((f.from, f.to), f.read)).unzip();
        // As long as something is copied, our own reader counts as a client.
        let left = |(from, to): &(Weak<Fd>, Weak<Fd>)| {
            let Some(to) = to.upgrade().filter(|to| has_reader(to)) else { return 0 };
            unread(&to) + from.upgrade().map_or(0, |from| ioctl_fionread(from).unwrap_or_default())
        };
        let all_read = async {
            for end in ends {
                let _sender_is_gone = end.await;
            }
        };
        tokio::select! {
            biased;
            () = all_read => {}
            // Others than the process may have its end as well, and do not close it.
            () = until_none(|| ways.iter().map(left).sum(), CLIENT_STALL, CLIENT_LIMIT) => {}
        }
    }
}

/// Waits until a client has read what is in its fifo, into which nothing more comes from us.
pub(super) async fn read_by_client(fifo: &Fd) {
    // A pipe is announced as writable when it was full and is read from (pipe(7)). One page is full with the few lines that
    // mostly are there, and so nobody waits for a timer; with more than a page it stays as it is (EBUSY).
    let _as_it_is = fcntl_setpipe_size(fifo.get_ref(), PAGE);
    let emptied = async {
        while let Ok(mut ready) = fifo.writable().await {
            if unread(fifo) == 0 {
                return;
            }
            ready.clear_ready();
        }
    };
    tokio::select! {
        biased;
        () = emptied => {}
        () = until_none(|| unread(fifo), CLIENT_STALL, CLIENT_LIMIT) => {}
    }
}

/// Bytes that somebody may still read.
fn unread(pipe: impl AsFd) -> u64 {
    if has_reader(&pipe) { ioctl_fionread(pipe).unwrap_or_default() } else { 0 }
}

/// Waits until no bytes are left, or they have not become fewer for a time, or that is enough.
async fn until_none(left: impl Fn() -> u64, stall: Duration, limit: Duration) {
    let end = Instant::now() + 3 * limit;
    let (mut waited, mut stalled) = (Duration::ZERO, Duration::ZERO);
    let mut least = u64::MAX;
    let mut pause = Duration::from_micros(500);
    loop {
        let left = left();
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
    use super::*;
    use rustix::pipe::{PipeFlags, pipe_with};

    fn on_loop(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
    }

    fn filled() -> (OwnedFd, Drain) {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        rustix::io::write(&write, b"last words").unwrap();
        (read, Drain { pipes: vec![write], ..Drain::default() })
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
            let waiting = tokio::spawn(Drain { pipes: vec![write], copied: Some(copied), ..Drain::default() }.dry());
            sleep(Duration::from_millis(20)).await;
            assert!(!waiting.is_finished(), "the copier is at work");
            drop(copier);
            timeout(Duration::from_secs(5), waiting).await.expect("it is done").unwrap();
            drop(read);
        });
    }
}
