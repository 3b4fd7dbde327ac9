//! What the group above has counted, for the time when ours is gone.
//!
//! systemd takes a scope away as soon as it is empty, and the counter of the kill that emptied it goes along. But the
//! kernel adds each event to the groups above as well (`memory.events` is hierarchical, cgroup-v2.rst), before it sends
//! the signal, and they keep what they have counted when those below go.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};
use rustix::fs::OFlags;

use super::TRIES;
use crate::cgroup::file;
use crate::cgroup::tree::at_start;

/// In the epoll set, ours is 0.
const ABOVE: u64 = 1;

/// A neighbour at its limit rings a hundred times a second, and a slice may hold a hundred containers, each with a shim
/// that hears it. So after a ring that was [heard](Above::heard) this bell is silent for so long.
const SILENCE: Duration = Duration::from_millis(100);

/// The events of a group and all below it, also of those that are gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counted {
    /// Limits that ended in "out of memory".
    pub ooms: u64,
    /// Processes killed.
    pub kills: u64,
}

impl Counted {
    /// Out of the text of a `memory.events`.
    pub fn of(text: &str) -> Option<Self> {
        let count = |key| file::value(text, key)?.parse().ok();
        Some(Self { ooms: count("oom")?, kills: count("oom_kill")? })
    }
}

/// `memory.events` of the group above, and what it said at the last look at ours.
#[derive(Debug)]
pub(super) struct Above {
    events: OwnedFd,
    pub counted: Counted,
    silent_since: Option<Instant>,
}

impl Above {
    /// `None` if it counts nothing: the root does not.
    pub fn new(dir: &Path, epoll: &OwnedFd) -> Option<Self> {
        let events = file::open(&dir.join("memory.events"), OFlags::RDONLY).ok()?;
        let mut above = Self { events, counted: Counted::default(), silent_since: None };
        above.counted = above.read()?; // arms the notification
        epoll::add(epoll, &above.events, epoll::EventData::new_u64(ABOVE), flags()).ok()?;
        Some(above)
    }

    /// What it says now; `None` when it is gone as well.
    pub fn read(&self) -> Option<Counted> {
        Counted::of(&at_start(&self.events).ok()?)
    }

    /// Looks at our own count in such a way that ours and this one belong together. A look that fails leaves what is
    /// known as it is.
    pub fn around<T, E>(&mut self, mut look: impl FnMut() -> Result<T, E>) -> Result<T, E> {
        let mut tries = 0;
        loop {
            let before = self.read();
            let found = look()?;
            let after = self.read();
            tries += 1;
            if before == after || tries == TRIES {
                self.counted = after.unwrap_or(self.counted);
                return Ok(found);
            }
        }
    }

    /// Silences the bell if it has rung, and listens again after a while.
    pub fn heard(&mut self, epoll: &OwnedFd) {
        let mut rang = [epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) }; 2];
        let count = epoll::wait(epoll, &mut rang, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap_or(0);
        if rang[..count].iter().any(|event| event.data.u64() == ABOVE) {
            self.silent_since = Some(Instant::now());
        } else if self.silent_since.is_some_and(|then| then.elapsed() >= SILENCE) {
            let data = epoll::EventData::new_u64(ABOVE);
            if epoll::modify(epoll, &self.events, data, flags()).is_ok() {
                self.silent_since = None;
            }
        }
    }
}

fn flags() -> epoll::EventFlags {
    epoll::EventFlags::PRI | epoll::EventFlags::ONESHOT
}
