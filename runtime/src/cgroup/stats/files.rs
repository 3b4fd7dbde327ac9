//! The files behind statistics: opened for each call, or kept open while they are asked for often.
//!
//! Opening is most of the cost (4 µs of 5 for a small file), but an open one holds a page of kernel memory and a
//! descriptor: about thirty of each on version 1. So they are kept only between calls that come soon after one another,
//! for a few groups at a time, and not for long.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;

use super::number;
use crate::cgroup::file::{fault, retry};
use crate::error::Result;

/// Calls that are no further apart are "often"; longer after one the files are closed when somebody looks.
pub const SOON: Duration = Duration::from_secs(3);

/// How often whoever keeps files looks whether they are to be closed. Each time wakes a shim that has nothing else to do.
pub const COOLING: Duration = Duration::from_secs(12);

/// Files that are kept in the whole process, of the 1024 descriptors that a process may usually have.
const MOST: usize = 256;

/// How many are kept now.
static KEPT: AtomicUsize = AtomicUsize::new(0);

/// So many of [`MOST`].
#[derive(Debug)]
pub(in crate::cgroup) struct Share(usize);

impl Share {
    /// `None` when too many are kept already.
    pub(in crate::cgroup) fn of(count: usize) -> Option<Share> {
        let share = Share(count);
        // Dropped, it gives back what was too much.
        (KEPT.fetch_add(count, Ordering::Relaxed) + count <= MOST).then_some(share)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        KEPT.fetch_sub(self.0, Ordering::Relaxed);
    }
}

/// What stays from call to call.
#[derive(Debug, Default)]
pub(in crate::cgroup) struct Files {
    /// In the order in which they are read.
    kept: Vec<Kept>,
    buffer: Vec<u8>,
    /// `/dev/sda` of 8:0.
    pub(super) devices: BTreeMap<(u64, u64), String>,
    last: Option<Instant>,
}

#[derive(Debug)]
struct Kept {
    dir: usize,
    name: String,
    /// `None`: this kernel does not have it.
    fd: Option<(OwnedFd, Share)>,
}

impl Files {
    /// Notes a call: true if what it opens is worth keeping.
    pub(super) fn called(&mut self) -> bool {
        let now = Instant::now();
        self.last.replace(now).is_some_and(|last| now.duration_since(last) <= SOON)
    }

    /// True while something is kept.
    pub(in crate::cgroup) fn is_warm(&self) -> bool {
        !self.kept.is_empty()
    }

    /// Closes what is kept unless it was asked for lately; true if nothing is kept any more.
    pub(in crate::cgroup) fn cool(&mut self) -> bool {
        if self.last.is_none_or(|last| last.elapsed() > SOON) {
            self.forget();
        }
        !self.is_warm()
    }

    /// Closes all.
    pub(super) fn forget(&mut self) {
        (self.kept, self.buffer, self.devices) = (Vec::new(), Vec::new(), BTreeMap::new());
    }
}

/// Reads files one after the other into one buffer.
pub(super) struct Reader<'a> {
    pub(super) open: &'a super::Open,
    pub(super) files: &'a mut Files,
    keep: bool,
    /// Where in `files.kept` the next one is expected.
    next: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(open: &'a super::Open, files: &'a mut Files) -> Self {
        let keep = files.called();
        if files.buffer.is_empty() {
            files.buffer = vec![0; 8192];
        }
        Reader { open, files, keep, next: 0 }
    }

    /// True if this call keeps what it opens.
    pub(super) fn keeps(&self) -> bool {
        self.keep
    }

    /// The text of a file; `None` if this kernel or group does not have it.
    pub(super) fn text(&mut self, dir: usize, name: &str) -> Result<Option<&str>> {
        let (path, _): &(PathBuf, OwnedFd) = &self.open.dirs[dir];
        match self.fill(dir, name) {
            Ok(length) => Ok(std::str::from_utf8(&self.files.buffer[..length]).ok()),
            // The second is the answer of pressure that is switched off.
            Err(Errno::NOENT | Errno::OPNOTSUPP) => Ok(None),
            Err(e) => Err(fault("read", &path.join(name), e)),
        }
    }

    fn fill(&mut self, dir: usize, name: &str) -> rustix::io::Result<usize> {
        let known = |kept: &Kept| kept.dir == dir && kept.name == name;
        let kept = &mut self.files.kept;
        let place = match kept.get(self.next) {
            Some(entry) if known(entry) => Some(self.next),
            _ => kept.iter().position(known),
        };
        if let Some(place) = place {
            self.next = place + 1;
            let (fd, _) = kept[place].fd.as_ref().ok_or(Errno::NOENT)?;
            return pour(fd, &mut self.files.buffer);
        }
        let opened = retry(|| openat(&self.open.dirs[dir].1, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()));
        let fd = match opened {
            Ok(fd) => Some(fd),
            Err(Errno::NOENT) => None,
            Err(e) => return Err(e),
        };
        let read = fd.as_ref().map_or(Err(Errno::NOENT), |fd| pour(fd, &mut self.files.buffer));
        if self.keep {
            let fd = match fd {
                Some(fd) => {
                    let Some(share) = Share::of(1) else { return read };
                    Some((fd, share))
                }
                None => None,
            };
            self.files.kept.push(Kept { dir, name: name.to_owned(), fd });
            self.next = self.files.kept.len();
        }
        read
    }

    /// A file with one number; `None` as in [`Reader::text`].
    pub(super) fn number(&mut self, dir: usize, name: &str) -> Result<Option<u64>> {
        Ok(self.text(dir, name)?.map(|text| number(text.trim_end())))
    }

    /// [`Reader::number`] of a file that the group has as long as it exists.
    pub(super) fn sure(&mut self, dir: usize, name: &str) -> Result<u64> {
        match self.number(dir, name)? {
            Some(n) => Ok(n),
            None => Err(fault("read", &self.open.dirs[dir].0.join(name), Errno::NOENT)),
        }
    }

    pub(super) fn or_zero(&mut self, dir: usize, name: &str) -> Result<u64> {
        Ok(self.number(dir, name)?.unwrap_or(0))
    }
}

/// The whole of a file, from its start, into a buffer that grows to its size. These files are a single record each: a
/// read that leaves room has had all of it.
fn pour(fd: &OwnedFd, buffer: &mut Vec<u8>) -> rustix::io::Result<usize> {
    loop {
        let length = retry(|| rustix::io::pread(fd, &mut *buffer, 0))?;
        if length < buffer.len() {
            return Ok(length);
        }
        buffer.resize(length * 2, 0);
    }
}
