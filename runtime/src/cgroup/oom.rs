//! Learning that the kernel has killed for want of memory.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::Version;
use super::file::{self, fault};
use super::tree::at_start;
use crate::error::Result;

/// A watcher of one group's memory controller.
#[derive(Debug)]
pub struct Oom {
    dir: PathBuf,
    source: Source,
}

#[derive(Debug)]
enum Source {
    /// Version 1: an eventfd that the kernel adds to at each out-of-memory, and when the group is removed.
    V1(OwnedFd),
    /// Version 2: `memory.events`, whose changes are announced as POLLPRI; the epoll descriptor around it turns that
    /// into being readable. Not inotify: its instances are few (128 for a user by default), and a host has many
    /// containers.
    V2 { epoll: OwnedFd, events: OwnedFd },
}

impl Oom {
    pub(super) fn arm(dir: PathBuf, version: Version) -> Result<Oom> {
        let source = match version {
            Version::V1 => {
                let control = dir.join("memory.oom_control");
                let what = file::open(&control, OFlags::RDONLY).map_err(|e| fault("open", &control, e))?;
                let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
                let event = eventfd(0, flags).map_err(|e| fault("eventfd", &control, e))?;
                let line = format!("{} {}", event.as_raw_fd(), what.as_raw_fd());
                file::write(&dir.join("cgroup.event_control"), &line)?;
                Source::V1(event)
            }
            Version::V2 => {
                let path = dir.join("memory.events");
                let wrong = |e| fault("open", &path, e);
                let events = file::open(&path, OFlags::RDONLY).map_err(wrong)?;
                let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(wrong)?;
                let none = epoll::EventData::new_u64(0);
                epoll::add(&epoll, &events, none, epoll::EventFlags::PRI).map_err(wrong)?;
                Source::V2 { epoll, events }
            }
        };
        let mut oom = Oom { dir, source };
        oom.read()?; // on version 2 the first read arms the notification
        Ok(oom)
    }

    /// Readable when there may be news: poll for input, then [`Oom::read`].
    pub fn fd(&self) -> BorrowedFd<'_> {
        match &self.source {
            Source::V1(event) => event.as_fd(),
            Source::V2 { epoll, .. } => epoll.as_fd(),
        }
    }

    /// How many processes of the group the kernel has killed for want of memory, since the group was made; makes
    /// [`Oom::fd`] quiet again. Compare with the last answer: an event also comes for other reasons. On version 1 the
    /// event comes *before* the kill, so the number may follow a moment later; it is right when the victim's exit is seen.
    ///
    /// # Errors
    /// [`Kind::NotFound`](crate::Kind::NotFound): the group is gone, the watch is over. (Version 1 sends an event for it.)
    pub fn read(&mut self) -> Result<u64> {
        let (path, text) = match &self.source {
            Source::V1(event) => {
                let mut count = [0; 8];
                let _ = rustix::io::read(event, &mut count); // EAGAIN: nothing new
                let path = self.dir.join("memory.oom_control");
                let text = file::get(&path);
                (path, text)
            }
            Source::V2 { events, .. } => (self.dir.join("memory.events"), at_start(events)),
        };
        let text = text.map_err(|e| fault("read", &path, e))?;
        let count = file::value(&text, "oom_kill").and_then(|n| n.parse().ok());
        count.ok_or_else(|| fault("read", &path, Errno::NODATA))
    }
}
