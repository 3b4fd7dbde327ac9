//! Learning that the kernel has killed for want of memory, and whose limit it was.
//!
//! Both versions count the *kills* where the victim was, version 2 also in the groups above. Whose limit was hit is told apart from that: version 2 counts
//! "out of memory" in `memory.events.local` of the group whose limit it is; version 1 rings the bell of that group and
//! of all groups below it, so that the topmost of our ancestors who heard it is the one.

mod above;
mod limit;

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::fs::OFlags;
use rustix::io::Errno;

use above::{Above, Counted};
use limit::{Hit, Oom2, between, nearest_above, topmost};
pub use limit::{Kills, Limit};

use super::Version;
use super::file::{self, fault};
use super::tree::{self, at_start};
use crate::error::Result;

/// Groups above ours that are looked at: a pod's has two to four.
const ABOVE: usize = 8;

/// How often counts are taken that must belong together; a neighbour's kills may spoil some tries.
const TRIES: usize = 4;

/// A watcher of one group's memory controller.
#[derive(Debug)]
pub struct Oom {
    /// Our own group first, then those above it as far as the one below the root: directory, and name in the hierarchy.
    groups: Vec<(PathBuf, String)>,
    source: Source,
    known: u64,
}

#[derive(Debug)]
enum Source {
    /// Version 1: an eventfd for each group, that the kernel adds to at each out-of-memory there or above, and when the
    /// group is removed.
    V1(Bells),
    V2(Counters),
}

#[derive(Debug)]
struct Bells {
    bells: Vec<OwnedFd>,
    /// Who heard the last ring.
    heard: Vec<bool>,
    /// The kills in each group from ours on down, by inode number: version 1 counts them in the victim's own group only.
    counted: BTreeMap<u64, u64>,
    /// There were more groups than [`MOST`].
    cut: bool,
    /// Processes wait for memory, as nobody is killed for it, and that has been said.
    told: bool,
}

/// Version 2: `memory.events`, whose changes are announced as POLLPRI; the epoll descriptor around it turns that into being
/// readable. Not inotify: its instances are few (128 for a user by default), and a host has many containers.
#[derive(Debug)]
struct Counters {
    epoll: OwnedFd,
    events: OwnedFd,
    /// What was counted at the last look.
    counted: Oom2,
    /// The limit that was hit without a kill so far.
    hit: Hit,
    /// What the group above has counted, if somebody else may remove ours.
    above: Option<Above>,
}

impl Oom {
    /// `fleeting`: somebody else removes the group as soon as it is empty.
    pub(super) fn arm(dir: &Path, mount: &Path, version: Version, fleeting: bool) -> Result<Oom> {
        let below_root = |d: &&Path| d.starts_with(mount) && *d != mount;
        let name = |d: &Path| format!("/{}", d.strip_prefix(mount).unwrap_or(d).display());
        let groups: Vec<_> =
            dir.ancestors().take_while(below_root).take(1 + ABOVE).map(|d| (d.to_owned(), name(d))).collect();
        let source = match version {
            Version::V1 => {
                let mut bells = vec![bell(dir)?];
                bells.extend(groups[1..].iter().map_while(|(dir, _)| bell(dir).ok()));
                Source::V1(Bells {
                    heard: vec![false; bells.len()],
                    bells,
                    counted: BTreeMap::new(),
                    cut: false,
                    told: false,
                })
            }
            Version::V2 => {
                let path = dir.join("memory.events");
                let wrong = |e| fault("open", &path, e);
                let events = file::open(&path, OFlags::RDONLY).map_err(wrong)?;
                let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(wrong)?;
                let none = epoll::EventData::new_u64(0);
                epoll::add(&epoll, &events, none, epoll::EventFlags::PRI).map_err(wrong)?;
                let above = groups.get(1).filter(|_| fleeting).and_then(|(dir, _)| Above::new(dir, &epoll));
                Source::V2(Counters { epoll, events, counted: Oom2::default(), hit: Hit::default(), above })
            }
        };
        let mut oom = Oom { groups, source, known: 0 };
        oom.read()?; // on version 2 the first read arms the notification
        Ok(oom)
    }

    /// Readable when there may be news: poll for input, then [`Oom::read`] or [`Oom::look`].
    pub fn fd(&self) -> BorrowedFd<'_> {
        match &self.source {
            Source::V1(Bells { bells, .. }) => bells[0].as_fd(),
            Source::V2(counters) => counters.epoll.as_fd(),
        }
    }

    /// For who is one of many: [`Oom::fd`] was readable, or became so a while ago. If the news are of the group above, those
    /// that follow are kept back for 100 ms and until this is called again, so call it again some time after each news.
    pub fn heard(&mut self) {
        if let Source::V2(Counters { epoll, above: Some(above), .. }) = &mut self.source {
            above.heard(epoll);
        }
    }

    /// How many processes of the group the kernel has killed for want of memory, since the group was made; makes
    /// [`Oom::fd`] quiet again. An event also comes for other reasons. On version 1 the event comes *before* the kill, so
    /// the number may follow a moment later; on both it is right when the victim's exit is seen.
    ///
    /// # Errors
    /// [`Kind::NotFound`](crate::Kind::NotFound): the group is gone, the watch is over. (Version 1 sends an event for it.)
    pub fn read(&mut self) -> Result<u64> {
        self.look()?;
        Ok(self.known)
    }

    /// The kills since the last look, if there were any; none of them, once, if the group's OOM killer is disabled and
    /// processes wait for memory instead.
    ///
    /// # Errors
    /// As [`Oom::read`].
    pub fn look(&mut self) -> Result<Option<Kills>> {
        let Self { groups, source, known } = self;
        match source {
            Source::V1(bells) => bells.look(groups, known),
            Source::V2(counters) => counters.look(groups, known),
        }
    }

    /// When [`Oom::look`] has said that the group is gone: the kills that the group above has counted since the last look
    /// that succeeded. They are ours, or those of another group below it, of a moment ago (longer ago, if news are
    /// kept back; see [`Oom::heard`]); who asks has to know that a process of ours died as if by such a kill.
    /// Known only where others remove groups: of a scope of systemd's on version 2.
    pub fn presumed(&self) -> Option<Kills> {
        let Source::V2(Counters { counted, hit, above: Some(above), .. }) = &self.source else { return None };
        let now = above.read()?;
        let count = now.kills.checked_sub(above.counted.kills).filter(|kills| *kills > 0)?;
        let (_gone, local) = local_ooms(&self.groups);
        let limit = nearest_above(now.ooms > above.counted.ooms, &counted.local, &local, &self.groups);
        Some(Kills { count, limit: hit.clone().of(limit, true, Instant::now()) })
    }
}

impl Bells {
    fn look(&mut self, groups: &[(PathBuf, String)], known: &mut u64) -> Result<Option<Kills>> {
        let Self { bells, heard, counted, cut, told } = self;
        // The kernel rings from the top down, so when ours has rung those above have. It also rings for kills beside us; the
        // latest ring is the one that belongs to a kill of ours.
        let rung = rang(&bells[0]);
        if rung {
            *heard = bells.iter().enumerate().map(|(level, bell)| level == 0 || rang(bell)).collect();
        }
        let Counts { groups: now, waiting, cut: is_cut } = counts(&groups[0].0)?;
        let new = grown_by(counted, *cut, &now);
        (*counted, *known, *cut) = (now, *known + new, is_cut);
        // The kernel says so before it rings.
        let news = waiting && rung && !*told;
        *told = waiting && (*told || rung);
        Ok((new > 0 || news).then(|| Kills { count: new, limit: topmost(heard, groups) }))
    }
}

/// How many kills there are more than before.
fn grown_by(before: &BTreeMap<u64, u64>, was_cut: bool, now: &BTreeMap<u64, u64>) -> u64 {
    let grown = |(group, count): (&u64, &u64)| match before.get(group) {
        // A group that is gone has taken its count along; a number that comes again is another group's.
        Some(before) => count.checked_sub(*before).unwrap_or(*count),
        // It may have been there already without being looked at.
        None if was_cut => 0,
        None => *count,
    };
    now.iter().map(grown).sum()
}

/// So many groups are looked at, the container's own and those below it: to look takes 30 us each, and everybody waits for it.
const MOST: usize = 500;

/// What version 1 counts.
struct Counts {
    /// The kills in a group and in each of those below, by their inode numbers.
    groups: BTreeMap<u64, u64>,
    /// Processes of the group wait for memory because its OOM killer is disabled.
    waiting: bool,
    /// There are more groups than [`MOST`].
    cut: bool,
}

fn counts(top: &Path) -> Result<Counts> {
    const CONTROL: &str = "memory.oom_control";
    let path = top.join(CONTROL);
    let wrong = |e| fault("read", &path, e);
    let count = |text: &str| file::value(text, "oom_kill").and_then(|n| n.parse().ok()).ok_or(Errno::NODATA);
    let own = rustix::fs::stat(top).map_err(wrong)?;
    let text = file::get(&path).map_err(wrong)?;
    let waiting = ["oom_kill_disable", "under_oom"].iter().all(|key| file::value(&text, key) == Some("1"));
    let mut all = BTreeMap::from([(own.st_ino, count(&text).map_err(wrong)?)]);
    // A group's directory has a link for each directory in it.
    let mut cut = false;
    if own.st_nlink > 2 {
        let walked = tree::each(top, &mut |dir| {
            if all.len() == MOST {
                return Err(Errno::OVERFLOW);
            }
            all.insert(rustix::fs::fstat(dir)?.st_ino, count(&tree::read_at(dir, CONTROL)?)?);
            Ok(())
        });
        cut = walked.as_ref().is_err_and(|e| e.errno == Some(Errno::OVERFLOW));
        if !cut {
            walked?;
        }
    }
    Ok(Counts { groups: all, waiting, cut })
}

impl Counters {
    fn look(&mut self, groups: &[(PathBuf, String)], known: &mut u64) -> Result<Option<Kills>> {
        let path = groups[0].0.join("memory.events");
        let wrong = |e| fault("read", &path, e);
        let counted_above = self.above.as_ref().map(|a| a.counted);
        let mut now = self.count().map_err(wrong)?.ok_or_else(|| wrong(Errno::NODATA))?;
        let first = self.counted.local.is_empty();
        let mut tries = 0;
        let (here, local) = loop {
            // Counters of others are read only when they matter: a group at its limit says so very often.
            let beside = self.above.as_ref().map(|a| a.counted) != counted_above;
            if now.kills == *known && now.ooms == self.counted.hierarchy && !beside && !first {
                return Ok(None);
            }
            let local = local_ooms(groups);
            tries += 1;
            // What another limit counts between our two looks would be taken for somebody else's. If ours is gone meanwhile,
            // there is nothing more to come.
            match self.count().ok().flatten() {
                Some(again) if again != now && tries < TRIES => now = again,
                _ => break local,
            }
        };
        let (new, before) = (grown(known, now.kills), std::mem::take(&mut self.counted));
        self.counted = Oom2 { hierarchy: now.ooms, local };
        let limit = between(&before, &self.counted, here, groups);
        let limit = if first { limit } else { self.hit.of(limit, new > 0, Instant::now()) };
        Ok((new > 0).then_some(Kills { count: new, limit }))
    }

    /// What ours says now, in step with what the group above has counted; `None` if it makes no sense.
    fn count(&mut self) -> rustix::io::Result<Option<Counted>> {
        let Self { events, above, .. } = self;
        let text = match above {
            Some(above) => above.around(|| at_start(events)),
            None => at_start(events),
        };
        Ok(Counted::of(&text?))
    }
}

/// Registers an eventfd for out-of-memory in a version 1 group; "memory.oom_control" in the kernel's memory.rst.
fn bell(dir: &Path) -> Result<OwnedFd> {
    let control = dir.join("memory.oom_control");
    let what = file::open(&control, OFlags::RDONLY).map_err(|e| fault("open", &control, e))?;
    let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
    let event = eventfd(0, flags).map_err(|e| fault("eventfd", &control, e))?;
    let line = format!("{} {}", event.as_raw_fd(), what.as_raw_fd());
    file::write(&dir.join("cgroup.event_control"), &line)?;
    Ok(event)
}

/// True if the bell rang since the last time.
fn rang(bell: &OwnedFd) -> bool {
    let mut count = [0; 8];
    rustix::io::read(bell, &mut count).is_ok() // EAGAIN: nothing new
}

/// How often the own limit of each version 2 group ended in "out of memory": 0 of one that is gone or hidden. And whether the
/// first of them, ours, is there.
fn local_ooms(groups: &[(PathBuf, String)]) -> (bool, Vec<u64>) {
    let count = |(dir, _): &(PathBuf, String)| {
        let text = file::get(&dir.join("memory.events.local")).ok()?;
        file::value(&text, "oom")?.parse().ok()
    };
    let counts: Vec<Option<u64>> = groups.iter().map(count).collect();
    (counts.first().is_some_and(Option::is_some), counts.into_iter().map(|n| n.unwrap_or(0)).collect())
}

/// How much more `now` is than what was known before; it is known from then on.
fn grown(known: &mut u64, now: u64) -> u64 {
    now.saturating_sub(std::mem::replace(known, now))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_of_groups_that_were_not_looked_at_are_not_new() {
        let counts = |list: &[(u64, u64)]| list.iter().copied().collect::<BTreeMap<_, _>>();
        let before = counts(&[(1, 2), (2, 5), (3, 1)]);
        // One more in ours; the second's number has come again, with one; the third is gone; the fourth is new.
        let now = counts(&[(1, 3), (2, 1), (4, 7)]);
        assert_eq!(grown_by(&before, false, &now), 1 + 1 + 7);
        assert_eq!(grown_by(&before, true, &now), 1 + 1);
    }
}
