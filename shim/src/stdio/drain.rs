//! The moment between a process's end and its announcement, for what its logger has not read yet.
//!
//! nerdctl's logger asks containerd to tell it when the container has ended, and then stops to read; the last words of a
//! burst would stay in the pipe (nerdctl#5006). So an exit is announced when the pipes are empty, or when the logger has
//! gone or does not read on. Fifos need no such wait: their readers wait for the end of file.
#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::ioctl_fionread;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

use super::fifo::has_reader;

/// A logger that takes nothing for so long has stopped to read.
const STALL: Duration = Duration::from_secs(2);
/// In all. A logger that is as slow as that loses its tail: everybody who waits for the exit comes first.
const LIMIT: Duration = Duration::from_secs(10);

/// Our write ends of a logger's pipes, while the process lives and a moment longer.
#[derive(Default)]
pub struct Drain {
    pub(super) pipes: Vec<OwnedFd>,
    /// Ends with the task that copies a console into the logger's pipe.
    pub(super) copied: Option<oneshot::Receiver<()>>,
}

impl Drain {
    /// Waits until the logger has read what the process wrote. Then the pipes have no writer of ours any more.
    pub async fn dry(mut self) {
        let end = Instant::now() + LIMIT;
        if let Some(copied) = self.copied.take() {
            let _ = timeout(STALL, copied).await;
        }
        let mut least = u64::MAX;
        let mut progress = Instant::now();
        let mut pause = Duration::from_micros(500);
        loop {
            let left = self.left();
            let now = Instant::now();
            if left < least {
                (least, progress) = (left, now);
            }
            if left == 0 || now >= end || now - progress >= STALL {
                return;
            }
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }

    /// Bytes that somebody may still read.
    fn left(&self) -> u64 {
        let read_on = self.pipes.iter().filter(|pipe| has_reader(pipe));
        read_on.map(|pipe| ioctl_fionread(pipe).unwrap_or_default()).sum()
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
        (read, Drain { pipes: vec![write], copied: None })
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
            let waiting = tokio::spawn(Drain { pipes: vec![write], copied: Some(copied) }.dry());
            sleep(Duration::from_millis(20)).await;
            assert!(!waiting.is_finished(), "the copier is at work");
            drop(copier);
            timeout(Duration::from_secs(5), waiting).await.expect("it is done").unwrap();
            drop(read);
        });
    }
}
