//! Making, walking and removing groups: directories on one hierarchy.

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, openat, unlinkat};
use rustix::io::Errno;

use super::file::{self, fault, retry};
use super::{Place, Record};
use crate::error::{Error, Kind, Result};
use crate::kernfs;

/// The directories one create has made; those that are not kept go away again, the deepest first.
#[derive(Default)]
pub(super) struct Made {
    dirs: Vec<PathBuf>,
}

impl Made {
    /// They stay.
    pub(super) fn keep(mut self) {
        self.dirs.clear();
    }

    /// True if this very create has made the directory.
    pub(super) fn contains(&self, dir: &Path) -> bool {
        self.dirs.iter().any(|d| d == dir)
    }

    /// The same for a group whose parents may be missing: false.
    fn leaf(&mut self, dir: &Path) -> Result<bool> {
        match self.dir(dir) {
            Err(e) if e.kind == Kind::NotFound => Ok(false),
            done => done.map(|()| true),
        }
    }

    fn dir(&mut self, dir: &Path) -> Result<()> {
        match retry(|| rustix::fs::mkdir(dir, Mode::from_raw_mode(0o755))) {
            Ok(()) => self.dirs.push(dir.to_owned()),
            Err(Errno::EXIST) => {}
            Err(e) => return Err(fault("mkdir", dir, e)),
        }
        Ok(())
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        for dir in self.dirs.iter().rev() {
            // A group that somebody else uses by now is busy, and stays.
            let _ = retry(|| rustix::fs::rmdir(dir));
        }
    }
}

/// Makes every group of a record with its parents, ready for processes: on version 1 the cpuset is inherited, on
/// version 2 the parents hand their controllers down.
pub(super) fn make(record: &Record) -> Result<Made> {
    let mut made = Made::default();
    for place in &record.v1 {
        again_if_gone(|| make_v1(place, &mut made))?;
    }
    if let Some(place) = &record.unified {
        again_if_gone(|| make_v2(place, &mut made))?;
    }
    Ok(made)
}

/// [`make`] of the groups that the kernel lets us make; the others leave the record.
pub(super) fn make_permitted(record: &mut Record) -> Result<Made> {
    let mut made = Made::default();
    let mut permitted = |place: &Place, make: fn(&Place, &mut Made) -> Result<()>| {
        let mut own = Made::default();
        match again_if_gone(|| make(place, &mut own)) {
            Err(e) if file::is_refusal(&e) => Ok(false),
            done => done.map(|()| {
                made.dirs.append(&mut own.dirs);
                true
            }),
        }
    };
    let mut v1 = Vec::new();
    for place in std::mem::take(&mut record.v1) {
        if permitted(&place, make_v1)? {
            v1.push(place);
        }
    }
    record.v1 = v1;
    if let Some(place) = record.unified.take()
        && permitted(&place, make_v2)?
    {
        record.unified = Some(place);
    }
    Ok(made)
}

/// A create that fails next to us may remove a parent between our two mkdirs.
fn again_if_gone(mut make: impl FnMut() -> Result<()>) -> Result<()> {
    for _ in 0..8 {
        match make() {
            Err(e) if e.kind == Kind::NotFound => {}
            done => return done,
        }
    }
    make()
}

/// The directories from just below the mount down to the group itself.
fn chain(place: &Place) -> impl Iterator<Item = PathBuf> + '_ {
    let mut dir = place.mount.clone();
    place.group.split('/').map(move |part| {
        dir.push(part);
        dir.clone()
    })
}

fn make_v1(place: &Place, made: &mut Made) -> Result<()> {
    let cpuset = place.has("cpuset");
    let leaf = place.dir();
    // Most containers have siblings: their parents are there.
    if made.leaf(&leaf)? && (!cpuset || made.contains(&leaf) && inherits(&leaf)?) {
        return Ok(());
    }
    for dir in chain(place) {
        made.dir(&dir)?;
        if cpuset {
            match inherit_cpuset(&dir, made.contains(&dir)) {
                // A sibling may own some of the parent's cpus (cpu_exclusive): who tries to enter is told so.
                Err(_) if dir == leaf => {}
                done => done?,
            }
        }
    }
    Ok(())
}

/// Fills a new v1 cpuset from a parent that has what it needs; false if that parent's is empty.
fn inherits(dir: &Path) -> Result<bool> {
    let parent = dir.parent().unwrap_or(dir);
    for name in CPUSET {
        let value = file::text(&parent.join(name))?;
        if value.trim().is_empty() {
            return Ok(false);
        }
        // A sibling may own some of the parent's cpus (cpu_exclusive): who tries to enter is told so.
        let _ = file::put(&dir.join(name), value.trim());
    }
    Ok(true)
}

/// What a v1 cpuset must have before a process can enter it.
const CPUSET: [&str; 2] = ["cpuset.cpus", "cpuset.mems"];

/// A new v1 cpuset is empty, and no process can enter it (ENOSPC) until it has cpus and memory nodes. What is not `new` may
/// have some of its own.
pub(super) fn inherit_cpuset(dir: &Path, new: bool) -> Result<()> {
    let parent = dir.parent().unwrap_or(dir);
    for name in CPUSET {
        let own = dir.join(name);
        if new || file::text(&own)?.trim().is_empty() {
            file::write(&own, file::text(&parent.join(name))?.trim())?;
        }
    }
    Ok(())
}

/// Controllers that threaded groups have, too: "Thread Granularity" in cgroups(7).
const THREADED: [&str; 4] = ["cpu", "cpuset", "perf_event", "pids"];

fn make_v2(place: &Place, made: &mut Made) -> Result<()> {
    let leaf = place.dir();
    // Most containers have siblings: their parent is there, and what hands all controllers down is no threaded group.
    let domain = place.controllers.iter().any(|c| !THREADED.contains(&c.as_str()));
    if domain && made.leaf(&leaf)? {
        let on = file::words(&leaf.with_file_name("cgroup.subtree_control"))?;
        if place.controllers.iter().all(|c| on.contains(c)) {
            return Ok(());
        }
    }
    enable(&place.mount)?;
    for dir in chain(place) {
        made.dir(&dir)?;
        // A group below one that has processes is `domain invalid` and takes nobody in. As a threaded group it can at
        // least have the threaded controllers; limits that need others are refused when they are asked for.
        let kind = dir.join("cgroup.type");
        if file::get(&kind).is_ok_and(|t| t.trim() == "domain invalid") {
            let _ = file::put(&kind, "threaded");
        }
        if dir != leaf {
            enable(&dir)?;
        }
    }
    Ok(())
}

/// Hands every controller of a group down to its children: all at once, else one by one. What cannot be handed down
/// (the group has processes, or it is threaded) is an error only when a limit of it is asked for.
fn enable(dir: &Path) -> Result<()> {
    let control = dir.join("cgroup.subtree_control");
    let have = file::words(&dir.join("cgroup.controllers"))?;
    let on = file::words(&control)?;
    let missing: Vec<String> = have.iter().filter(|c| !on.contains(c)).map(|c| format!("+{c}")).collect();
    if missing.is_empty() || file::put(&control, &missing.join(" ")).is_ok() {
        return Ok(());
    }
    for one in &missing {
        // EBUSY may be a process that is just leaving.
        for _ in 0..3 {
            match file::put(&control, one) {
                Err(Errno::BUSY) => std::thread::sleep(Duration::from_millis(1)),
                _ => break,
            }
        }
    }
    Ok(())
}

/// The groups directly below an open one.
fn children(dir: &OwnedFd) -> rustix::io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        match entry {
            Ok(e) if e.file_type() != FileType::Directory || e.file_name().to_bytes().starts_with(b".") => {}
            Ok(e) => names.push(e.file_name().to_owned()),
            Err(Errno::NOENT) => break,
            Err(e) => return Err(e),
        }
    }
    Ok(names)
}

const DIRECTORY: OFlags = OFlags::DIRECTORY.union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);

fn enter<N: rustix::path::Arg + Copy>(dir: &OwnedFd, name: N) -> rustix::io::Result<OwnedFd> {
    retry(|| openat(dir, name, DIRECTORY, Mode::empty()))
}

/// Visits a group and all below it, a parent before its children. One descriptor at a time and no recursion: the
/// depth is the container's choice.
///
/// # Errors
/// The group itself is gone ([`Kind::NotFound`]); the visitor's own. Groups that vanish on the way are left out.
pub(super) fn each(top: &Path, visit: &mut dyn FnMut(&OwnedFd) -> rustix::io::Result<()>) -> Result<()> {
    let wrong = |e| fault("open", top, e);
    let mut at = file::open(top, OFlags::DIRECTORY).map_err(wrong)?;
    visit(&at).map_err(wrong)?;
    let mut pending = vec![children(&at).map_err(wrong)?];
    while let Some(level) = pending.last_mut() {
        let Some(name) = level.pop() else {
            pending.pop();
            if !pending.is_empty() {
                at = enter(&at, "..").map_err(wrong)?;
            }
            continue;
        };
        match enter(&at, name.as_c_str()) {
            Ok(below) => at = below,
            Err(Errno::NOENT) => continue,
            Err(e) => return Err(wrong(e)),
        }
        match visit(&at) {
            Ok(()) | Err(Errno::NOENT | Errno::NODEV) => {}
            Err(e) => return Err(wrong(e)),
        }
        pending.push(children(&at).map_err(wrong)?);
    }
    Ok(())
}

/// Removes a group and whatever the container made below it; one that is gone is fine.
///
/// # Errors
/// Something is still in it at the deadline (EBUSY).
pub(super) fn remove(top: &Path, deadline: Instant) -> Result<()> {
    match retry(|| rustix::fs::rmdir(top)) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(_) => {}
    }
    let wrong = |e| fault("rmdir", top, e);
    // On a read-only mount rmdir says EROFS even for what is not there: opening tells.
    let mut at = match file::open(top, OFlags::DIRECTORY) {
        Ok(fd) => fd,
        Err(Errno::NOENT) => return Ok(()),
        Err(e) => return Err(wrong(e)),
    };
    let mut pending = vec![children(&at).map_err(wrong)?];
    let mut trail: Vec<CString> = Vec::new();
    while let Some(level) = pending.last_mut() {
        if let Some(name) = level.pop() {
            match retry(|| unlinkat(&at, name.as_c_str(), AtFlags::REMOVEDIR)) {
                Ok(()) | Err(Errno::NOENT) => continue,
                Err(Errno::BUSY | Errno::NOTEMPTY) => {}
                Err(e) => return Err(wrong(e)),
            }
            match enter(&at, name.as_c_str()) {
                Ok(below) => at = below,
                Err(Errno::NOENT) => continue,
                Err(e) => return Err(wrong(e)),
            }
            pending.push(children(&at).map_err(wrong)?);
            trail.push(name);
        } else {
            pending.pop();
            if let Some(name) = trail.pop() {
                let parent = enter(&at, "..").map_err(wrong)?;
                persist(&at, deadline, || unlinkat(&parent, name.as_c_str(), AtFlags::REMOVEDIR)).map_err(wrong)?;
                at = parent;
            }
        }
    }
    persist(&at, deadline, || rustix::fs::rmdir(top)).map_err(wrong)
}

/// Repeats a removal while the group is busy. Version 2 tells when the last process has left; version 1 does not.
fn persist(
    group: &OwnedFd,
    deadline: Instant,
    mut remove: impl FnMut() -> rustix::io::Result<()>,
) -> rustix::io::Result<()> {
    let mut pause = Duration::from_millis(1);
    loop {
        match retry(&mut remove) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::BUSY) if Instant::now() < deadline => {}
            Err(e) => return Err(e),
        }
        let events = retry(|| openat(group, "cgroup.events", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()));
        match events {
            Ok(events) if populated(&events)? => wait(&events, deadline)?,
            _ => {
                std::thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(50));
            }
        }
    }
}

/// Waits until nobody is left in a version 2 group and below, or the deadline passes; one that is gone is empty.
pub(super) fn emptied(dir: &Path, deadline: Instant) -> Result<()> {
    let path = dir.join("cgroup.events");
    let events = match file::open(&path, OFlags::RDONLY) {
        Ok(events) => events,
        Err(Errno::NOENT) => return Ok(()),
        Err(e) => return Err(fault("open", &path, e)),
    };
    loop {
        match populated(&events) {
            Ok(true) if Instant::now() < deadline => {}
            Ok(_) | Err(Errno::NODEV) => return Ok(()),
            Err(e) => return Err(fault("read", &path, e)),
        }
        wait(&events, deadline).map_err(|e| fault("poll", &path, e))?;
    }
}

fn populated(events: &OwnedFd) -> rustix::io::Result<bool> {
    Ok(file::value(&at_start(events)?, "populated") == Some("1"))
}

/// The text of an open control file, read again from its start, which also arms [`wait`].
pub(super) fn at_start(fd: &OwnedFd) -> rustix::io::Result<String> {
    let mut bytes = [0; 512];
    let length = retry(|| rustix::io::pread(fd, &mut bytes, 0))?;
    Ok(String::from_utf8_lossy(&bytes[..length]).into_owned())
}

/// Sleeps until a version 2 event file changes after it was read, or the deadline passes.
pub(super) fn wait(events: &OwnedFd, deadline: Instant) -> rustix::io::Result<()> {
    let left = deadline.saturating_duration_since(Instant::now());
    let timeout = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
    match poll(&mut [PollFd::new(events, PollFlags::PRI)], Some(&timeout)) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(e) => Err(e),
    }
}

/// The processes of a group and of all below it, in host numbers, each once.
pub(super) fn pids(top: &Path) -> Result<Vec<u32>> {
    let mut pids = Vec::new();
    each(top, &mut |dir| {
        let (text, threaded) = match read_at(dir, "cgroup.procs") {
            // A threaded group has no processes, only threads.
            Err(Errno::OPNOTSUPP) => (read_at(dir, "cgroup.threads")?, true),
            read => (read?, false),
        };
        // 0 stands for a process that our pid namespace does not show; as a number for kill(2) it would mean ourselves.
        let numbers = text.lines().filter_map(|l| l.parse::<u32>().ok()).filter(|pid| *pid != 0);
        pids.extend(numbers.filter_map(|n| if threaded { process_of(n) } else { Some(n) }));
        Ok(())
    })?;
    pids.sort_unstable();
    pids.dedup();
    Ok(pids)
}

/// The process of a thread; none if it is gone.
fn process_of(thread: u32) -> Option<u32> {
    let status = kernfs::small(&format!("/proc/{thread}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("Tgid:"))?.trim().parse().ok()
}

/// The group, this one or one below, that has a process, as a descriptor for `CLONE_INTO_CGROUP`.
pub(super) fn holder(top: &Path, pid: u32) -> Result<Option<OwnedFd>> {
    let mut found = None;
    each(top, &mut |dir| {
        if read_at(dir, "cgroup.procs").is_ok_and(|text| text.lines().any(|l| l.parse() == Ok(pid))) {
            found = Some(enter(dir, ".")?);
        }
        Ok(())
    })?;
    Ok(found)
}

/// Gives a version 2 group to a user: the directory, and the files that the kernel names for it, so that a container
/// with its own cgroup namespace can make groups in it. See "delegation" in cgroups(7).
pub(super) fn give(dir: &Path, uid: u32) -> Result<()> {
    let own = |path: &Path| {
        let owner = rustix::fs::Uid::from_raw(uid);
        match rustix::fs::chownat(CWD, path, Some(owner), None, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(fault("chown", path, e)),
        }
    };
    own(dir)?;
    let names = file::get(Path::new("/sys/kernel/cgroup/delegate"));
    let names = names.unwrap_or_else(|_| "cgroup.procs\ncgroup.subtree_control\ncgroup.threads\n".to_owned());
    names.lines().filter(|name| !name.contains('/')).try_for_each(|name| own(&dir.join(name)))
}

/// The text of a control file in an open group.
pub(super) fn read_at(dir: &OwnedFd, name: &str) -> rustix::io::Result<String> {
    kernfs::again(&retry(|| openat(dir, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()))?)
}

/// Refuses a group that somebody uses: nothing of it was made by us.
pub(super) fn refuse_taken(dir: &Path) -> Result<()> {
    match pids(dir) {
        Ok(pids) if pids.is_empty() => Ok(()),
        Ok(pids) => {
            let reason = format!("container's cgroup is not empty: {} process(es) found", pids.len());
            Err(Error::new(Kind::State, "", "", reason).at("/linux/cgroupsPath"))
        }
        Err(e) if e.kind == Kind::NotFound => Ok(()),
        Err(e) => Err(e),
    }
}
