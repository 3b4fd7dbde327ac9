//! Control groups, made by us or by systemd, on version 1, version 2, and both at once.
//!
//! A container has one group on every hierarchy of its [`Layout`], see [`Layout::asked`]. [`Cgroup::create`] makes the
//! groups (or [`Cgroup::create_by_systemd`] has them made), [`Cgroup::attach`] hands out what a child needs to be born in
//! them, [`Cgroup::apply`] writes the limits, and the rest is the life of the group until [`Cgroup::remove`]. Each
//! controller is used where it is: on a hybrid host most are on version 1 and some may be on the `unified` tree, so
//! version 1 and 2 are not two drivers but a property of each controller's [`Place`].
#![forbid(unsafe_code)]

mod attach;
mod below;
mod devices;
mod file;
mod freeze;
mod kill;
mod layout;
mod limits;
mod oom;
mod stats;
mod systemd;
mod tree;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

pub use attach::Attach;
pub use freeze::Freezer;
pub use layout::{Hierarchy, Layout, Unified};
pub use oom::{Kills, Limit, Oom};
pub use stats::*;
pub use systemd::Unit;

use crate::error::{Error, Kind, Result};
use crate::spec::{Cpu, Resources};

/// Which interface a controller has on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

/// A group on one hierarchy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The hierarchy's controllers, or `name=…`; on version 2 those that its root offers.
    pub controllers: Vec<String>,
    /// Where the hierarchy is mounted.
    pub mount: PathBuf,
    /// The group, relative to the mount, without a leading slash; never empty.
    pub group: String,
}

impl Place {
    /// The group's directory.
    pub fn dir(&self) -> PathBuf {
        self.mount.join(&self.group)
    }

    /// Not a hierarchy that decides anything, see [`Layout::is_unified`].
    fn is_aside(&self) -> bool {
        self.controllers.iter().all(|c| layout::is_aside(c))
    }

    fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|c| c == controller)
    }
}

/// Where a container's groups are; goes into the state file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// One group on each version 1 hierarchy.
    pub v1: Vec<Place>,
    /// The group in the version 2 tree, if there is one.
    pub unified: Option<Place>,
    /// The unit, if systemd has made the groups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub systemd: Option<Unit>,
}

impl Record {
    /// Where a controller is: its version and our group's directory there. The empty name is the version 2 tree itself.
    fn find(&self, controller: &str) -> Option<(Version, PathBuf)> {
        if let Some(place) = self.v1.iter().find(|p| p.has(controller)) {
            return Some((Version::V1, place.dir()));
        }
        let unified = self.unified.as_ref()?;
        (controller.is_empty() || unified.has(controller)).then(|| (Version::V2, unified.dir()))
    }

    /// The freezer is a controller on version 1, and part of every group on version 2.
    fn freezer(&self) -> Option<(Version, PathBuf)> {
        self.find("freezer").or_else(|| self.find(""))
    }

    /// As [`Layout::is_unified`].
    pub(crate) fn is_unified(&self) -> bool {
        self.unified.is_some() && self.v1.iter().all(Place::is_aside)
    }

    fn places(&self) -> impl Iterator<Item = &Place> {
        self.v1.iter().chain(&self.unified)
    }

    fn places_mut(&mut self) -> impl Iterator<Item = &mut Place> {
        self.v1.iter_mut().chain(&mut self.unified)
    }

    /// The present content of a controller's file.
    fn current(&self, controller: &str, file: &str) -> Option<String> {
        let (_, dir) = self.find(controller)?;
        file::get(&dir.join(file)).ok()
    }

    /// What a request comes to on this host.
    fn writes(&self, r: &Resources) -> Result<Vec<limits::Write>> {
        let host = limits::Host {
            version: &|name| self.find(name).map(|(version, _)| version),
            current: &|controller, file| self.current(controller, file),
            unified: self.is_unified(),
        };
        limits::list(r, &host)
    }

    /// The same for a new group. One that has become threaded since keeps the domain controllers that it has.
    fn first_writes(&self, r: &Resources) -> Result<Vec<limits::Write>> {
        let writes = self.writes(r)?;
        limits::refuse_threaded(&writes, self)?;
        Ok(writes)
    }
}

/// How long a removal waits, in all, for processes that are on their way out.
const PATIENCE: Duration = Duration::from_secs(2);

/// The kernel's default of `cpu.shares`.
const SHARES: u64 = 1024;

/// What is said of a container without groups.
const NONE: &str = "the container has no control group";

fn strange() -> Error {
    Error::new(Kind::Invalid, "", "", "the recorded cgroup is not one of this host")
}

/// One container's group on every hierarchy. Holds no descriptor but the directories of statistics, once they are asked for, and
/// what is asked for often, see [`Cgroup::cool`].
#[derive(Debug)]
pub struct Cgroup {
    record: Record,
    stats: stats::Dirs,
    tasks: attach::Tasks,
    /// Somebody calls [`Cgroup::cool`].
    cooled: AtomicBool,
    unsettled: Mutex<systemd::Unsettled>,
    /// Its version 2 group was there before us, and may have been killed once: see [`Cgroup::attach_below`].
    used: bool,
}

impl Cgroup {
    /// Makes the groups for `linux.cgroupsPath` (or, when that is empty, for the container's id), see [`Layout`] for how
    /// it is resolved. On version 1 the cpuset is inherited, on version 2 controllers are enabled from the top.
    ///
    /// Below a user namespace, with an empty path, a container goes without the groups that may not be made, as with runc:
    /// then limits are refused, not ignored (docs/decisions/rootless.md).
    ///
    /// # Errors
    /// All with the pointer `/linux/cgroupsPath` where the path is to blame: a path to the root, a group that has processes
    /// or is frozen. Nothing that this call has made is left then.
    pub fn create(layout: &Layout, cgroups_path: &str, id: &str) -> Result<Cgroup> {
        let mut record = layout.place(cgroups_path, id)?;
        let made = match tree::make(&record) {
            Err(refused) if cgroups_path.is_empty() && file::is_refusal(&refused) && layout::is_rootless() => {
                tree::make_permitted(&mut record)?
            }
            made => made?,
        };
        record.freezer().map_or(Ok(()), |(version, dir)| freeze::refuse_held(&dir, version))?;
        for dir in record.places().map(Place::dir).filter(|dir| !made.contains(dir)) {
            tree::refuse_taken(&dir)?;
        }
        let used = record.unified.as_ref().is_some_and(|place| !made.contains(&place.dir()));
        made.keep();
        Ok(Cgroup { used, ..Cgroup::at(record) })
    }

    /// The groups of a container that exists, from what [`Cgroup::record`] gave. They may be gone; then the calls on
    /// them answer [`Kind::NotFound`], and [`Cgroup::remove`] succeeds.
    ///
    /// # Errors
    /// The record names a hierarchy that this machine does not have, or its root.
    pub fn open(layout: &Layout, record: &Record) -> Result<Cgroup> {
        if layout.knows(record) { Self::of(record) } else { Err(strange()) }
    }

    /// [`Cgroup::open`] without the table of mounts, if the group that tells whether anybody is left is where the record
    /// says: then this is the machine, and the mount namespace, of who wrote it.
    ///
    /// # Errors
    /// As there, if it is not; and those of reading the table.
    pub fn recorded(record: &Record) -> Result<Cgroup> {
        let there = |(version, dir): (Version, PathBuf)| layout::is_group(&dir, version == Version::V2);
        if record.freezer().is_some_and(there) { Self::of(record) } else { Self::open(&Layout::places()?, record) }
    }

    fn of(record: &Record) -> Result<Cgroup> {
        let sound = |p: &Place| !p.group.is_empty() && layout::clean(&p.group) == p.group;
        if !record.places().all(sound) {
            return Err(strange());
        }
        Ok(Self::at(record.clone()))
    }

    fn at(record: Record) -> Cgroup {
        Cgroup {
            record,
            stats: stats::Dirs::default(),
            tasks: attach::Tasks::default(),
            cooled: AtomicBool::new(false),
            unsettled: Mutex::default(),
            used: false,
        }
    }

    /// Where the groups are.
    pub fn record(&self) -> Record {
        self.record.clone()
    }

    /// Gives the version 2 group to a user of the host, for a container with its own cgroup namespace and a writable
    /// `/sys/fs/cgroup`. Nothing happens on version 1, where it would not be safe.
    ///
    /// # Errors
    /// The kernel refuses the change of owner.
    pub fn delegate(&self, uid: u32) -> Result<()> {
        match &self.record.unified {
            Some(place) if self.record.is_unified() => tree::give(&place.dir(), uid),
            _ => Ok(()),
        }
    }

    /// Writes every limit of a new container, and its device rules: all is denied but what the rules and runc's default
    /// list allow, also when the spec has no rules.
    ///
    /// # Errors
    /// The first value that the kernel, or this host's version, refuses, with its pointer below `/linux/resources`.
    pub fn apply(&self, r: &Resources) -> Result<()> {
        self.limit(r)?;
        self.devices(&r.devices)
    }

    /// Denies all devices but those of the rules and of runc's default list. On version 1 there is a moment in which
    /// everything is denied, so nobody of the group should be opening one.
    ///
    /// Below a user namespace the kernel takes device rules from nobody, and they are left out, as with runc: whoever is
    /// there can make no device, and can open what the user who made the namespace can.
    ///
    /// # Errors
    /// A rule that this host cannot enforce, with its pointer.
    pub fn devices(&self, rules: &[crate::spec::DeviceRule]) -> Result<()> {
        let nowhere = self.record.find("devices").or_else(|| self.record.find("")).is_none();
        match devices::apply(&self.record, rules) {
            Err(refused) if (nowhere || file::is_refusal(&refused)) && layout::is_rootless() => Ok(()),
            done => done,
        }
    }

    /// Changes the limits that are given and leaves the others. Device rules are left out, as in runc: the CRI sends those
    /// of the start with every update, and hooks and administrators may have allowed more since.
    ///
    /// # Errors
    /// As [`Cgroup::apply`]; then the limits are again what they were, but for those of single devices that had none.
    pub fn update(&self, r: &Resources) -> Result<()> {
        if r.pids.as_ref().is_some_and(|pids| pids.limit == Some(0)) {
            // Who asks may have no other way to say that there is none (LinuxPids of runtime-spec 1.2).
            return self.update(&Resources { pids: None, ..r.clone() });
        }
        let mut writes = self.record.writes(r)?;
        let mut before = limits::before(&writes, &self.record);
        let tell = |writes: &mut [limits::Write]| match &self.record.systemd {
            Some(unit) => self.tell(unit, writes),
            None => Ok(()),
        };
        tell(&mut writes).and_then(|()| limits::perform(&writes, &self.record)).inspect_err(|_| {
            let _ = tell(&mut before); // the first error is the one that matters
            limits::put_back(before, &self.record);
        })
    }

    /// [`Cgroup::update`] of a container that was made with the limits of `spec`: the kernel has forgotten the shares of an
    /// idle group, so a request that ends its idleness and names none gets those.
    ///
    /// # Errors
    /// As there.
    pub fn update_from(&self, spec: &Resources, r: &Resources) -> Result<()> {
        let idle = || self.record.current("cpu", "cpu.idle").is_some_and(|text| text.trim() == "1");
        let wakes = |cpu: &&Cpu| cpu.idle == Some(0) && cpu.shares.is_none_or(|n| n == 0) && idle();
        let Some(cpu) = r.cpu.as_ref().filter(wakes) else { return self.update(r) };
        let given = spec.cpu.as_ref().and_then(|cpu| cpu.shares).filter(|n| *n != 0);
        let cpu = Cpu { shares: given.or(Some(SHARES)), ..cpu.clone() };
        self.update(&Resources { cpu: Some(cpu), ..r.clone() })
    }

    /// Writes the limits, and leaves the devices alone. systemd, if it makes the group, has been told already.
    ///
    /// # Errors
    /// As [`Cgroup::apply`].
    pub fn limit(&self, r: &Resources) -> Result<()> {
        let mut writes = self.record.first_writes(r)?;
        if self.record.systemd.is_some() {
            systemd::round(&self.record, &mut writes)?;
        }
        limits::perform(&writes, &self.record)
    }

    fn freezer(&self) -> Result<(Version, PathBuf)> {
        let why = if self.record.places().next().is_none() { NONE } else { "this host has no freezer" };
        self.record.freezer().ok_or_else(|| Error::new(Kind::Unsupported, "", "", why))
    }

    /// Stops every process of the group; returns when they stand still. On failure the group runs again.
    ///
    /// # Errors
    /// "unable to freeze"; no freezer on this host; the group is gone.
    pub fn freeze(&self) -> Result<()> {
        let (version, dir) = self.freezer()?;
        freeze::freeze(&dir, version)
    }

    /// Lets the group run again.
    ///
    /// # Errors
    /// No freezer on this host; the group is gone.
    pub fn thaw(&self) -> Result<()> {
        let (version, dir) = self.freezer()?;
        freeze::thaw(&dir, version)
    }

    /// What the freezer says: also whether it is still at it. A frozen parent does not count.
    ///
    /// # Errors
    /// No freezer on this host; the group is gone.
    pub fn freezer_state(&self) -> Result<Freezer> {
        let (version, dir) = self.freezer()?;
        freeze::state(&dir, version)
    }

    /// True if a process that enters the group would stand still, whoever asked for it: the client, an administrator, somebody
    /// above.
    pub fn holds_still(&self) -> bool {
        self.record.freezer().is_some_and(|(version, dir)| freeze::held(&dir, version).unwrap_or_default())
    }

    /// True if this group was frozen and all of it stands still.
    ///
    /// # Errors
    /// As [`Cgroup::freezer_state`].
    pub fn is_frozen(&self) -> Result<bool> {
        Ok(self.freezer_state()? == Freezer::Frozen)
    }

    /// Sends a signal to every process of the group and of those below. SIGKILL is thorough: it also reaches what is
    /// being forked and what is frozen (which is thawed on version 1, where it could not die otherwise). It does not wait
    /// for the processes to be gone. A group that is gone has nobody left, and that is fine.
    ///
    /// # Errors
    /// The kernel refuses the signal.
    pub fn kill(&self, signal: i32) -> Result<()> {
        let gone_is_fine = |result: Result<()>| match result {
            Err(e) if e.kind == Kind::NotFound => Ok(()),
            other => other,
        };
        let pids = || self.pids();
        if signal != libc::SIGKILL {
            return gone_is_fine(self.pids().and_then(|now| kill::signal(&now, signal, &pids)));
        }
        let done = match self.record.find("") {
            Some((_, dir)) => kill::at_once(&dir),
            None => Ok(false),
        };
        let freezer = self.record.freezer();
        let freezer = freezer.as_ref().map(|(version, dir)| (dir.as_path(), *version));
        match (done, freezer) {
            (Ok(true), Some((dir, Version::V1))) => {
                // Whoever is in the version 1 group alone (an exec by another tool) has not been reached yet.
                let group = || tree::pids(dir);
                let strays = group().and_then(|pids| kill::signal(&pids, libc::SIGKILL, &group));
                gone_is_fine(freeze::thaw(dir, Version::V1)).and(gone_is_fine(strays))
            }
            (Ok(true), _) => Ok(()),
            (Err(e), _) if e.kind != Kind::NotFound => Err(e),
            _ => gone_is_fine(kill::held_still(freezer, &pids)),
        }
    }

    /// The processes of the group and of those below, in the numbers of our pid namespace.
    ///
    /// # Errors
    /// The group is gone ([`Kind::NotFound`]).
    pub fn pids(&self) -> Result<Vec<u32>> {
        let v1 = || ["freezer", "devices", "pids", "memory"].iter().find_map(|name| self.record.find(name));
        let place = self.record.find("").or_else(v1).map(|(_, dir)| dir);
        let place = place.or_else(|| self.record.v1.first().map(Place::dir));
        tree::pids(&place.ok_or_else(|| Error::new(Kind::NotFound, "", "", NONE))?)
    }

    /// Everything that the group's controllers count, now.
    ///
    /// # Errors
    /// The group is gone, or there is none ([`Kind::NotFound`]).
    pub fn stats(&self) -> Result<Stats> {
        if self.record.places().next().is_none() {
            return Err(Error::new(Kind::NotFound, "", "", NONE));
        }
        stats::read(&self.record, &self.stats)
    }

    /// True while files are kept open because [`Cgroup::stats`] or [`Cgroup::attach`] are called often; or somebody is just
    /// opening them, for whom this does not wait.
    pub fn is_warm(&self) -> bool {
        self.stats.is_warm() || self.tasks.is_warm()
    }

    /// True, once, when files are kept open: then [`Cgroup::cool`] is to be called every [`COOLING`] until it answers true.
    pub fn is_to_be_cooled(&self) -> bool {
        self.is_warm() && !self.cooled.swap(true, Ordering::Relaxed)
    }

    /// Closes the files that were not asked for within [`SOON`]; true if none is open any more. Waits for nobody who reads them.
    pub fn cool(&self) -> bool {
        let cold = self.stats.cool() & self.tasks.cool();
        if cold {
            self.cooled.store(false, Ordering::Relaxed);
        }
        cold
    }

    /// True if nobody has made groups inside this one: then what counts or lists it takes microseconds, and how long is
    /// not in the container's hands.
    pub fn is_leaf(&self) -> bool {
        // A group's directory has a link for each directory in it.
        let leaf = |place: &Place| {
            let dir = place.dir();
            self.stats.stat(&dir).or_else(|| rustix::fs::stat(&dir).ok()).is_some_and(|stat| stat.st_nlink <= 2)
        };
        let counted = |place: &&Place| place.has("memory") || place.has("pids");
        self.record.v1.iter().filter(counted).chain(&self.record.unified).all(leaf)
    }

    /// Every line of `memory.stat`, in the kernel's words and units (bytes, but for the counters of pages and events): "5.2
    /// stat file" in cgroup-v1/memory.rst, "memory.stat" in cgroup-v2.rst. Empty without the memory controller.
    ///
    /// # Errors
    /// The group is gone.
    pub fn memory_stat(&self) -> Result<BTreeMap<String, u64>> {
        let Some((_, dir)) = self.record.find("memory") else { return Ok(BTreeMap::new()) };
        let text = match file::text(&dir.join("memory.stat")) {
            Err(e) if e.kind == Kind::NotFound && dir.exists() => return Ok(BTreeMap::new()), // not handed down
            read => read?,
        };
        let entry = |line: &str| {
            let (key, value) = line.split_once(' ')?;
            Some((key.to_owned(), value.trim().parse().ok()?))
        };
        Ok(text.lines().filter_map(entry).collect())
    }

    /// A watcher for kills by the kernel for want of memory in this group; arm it before the first process starts.
    ///
    /// # Errors
    /// No memory controller; the group is gone.
    pub fn oom(&self) -> Result<Oom> {
        let none = || Error::new(Kind::Unsupported, "", "", "the memory controller is not available on this host");
        let (version, dir) = self.record.find("memory").ok_or_else(none)?;
        if version == Version::V2 && dir.exists() && !dir.join("memory.events").exists() {
            return Err(none()); // the parents do not hand it down
        }
        let mount = self.record.places().find(|p| p.dir() == dir).map(|p| p.mount.clone()).unwrap_or_default();
        Oom::arm(&dir, &mount, version, self.record.systemd.is_some())
    }

    /// Removes the groups, those that the container made inside first. Waits up to two seconds for processes that are
    /// just leaving; it kills none, but systemd does, if it has made the groups: then the unit is stopped. A group that is
    /// gone is fine.
    ///
    /// # Errors
    /// The unit or the first group that could not be removed; the others are tried all the same.
    pub fn remove(&self) -> Result<()> {
        self.remove_rest(&[])
    }

    /// The same when some groups are gone already.
    fn remove_rest(&self, removed: &[PathBuf]) -> Result<()> {
        let stopped = self.record.systemd.as_ref().map_or(Ok(()), |unit| self.stop(unit));
        stopped.and(self.remove_groups(removed))
    }

    /// [`Cgroup::remove`] once the first process has been killed. `shares_pids`: that does not end the others, and whoever is in
    /// the groups gets SIGKILL before. With a pid namespace of its own a container leaves nobody behind: who is there
    /// then is a stranger (a container below ours, another runtime's process), and lives.
    ///
    /// # Errors
    /// As there, and of [`Cgroup::kill`].
    pub fn end(&self, shares_pids: bool) -> Result<()> {
        if !shares_pids {
            return self.remove();
        }
        let (empty, removed) = self.was_empty();
        if !empty {
            self.kill(libc::SIGKILL)?;
        }
        self.remove_rest(&removed)
    }

    /// Removes the groups in which [`Cgroup::kill`] would look for processes. That the kernel lets them go proves that they
    /// had none and no groups below: the most that asking could have told, in one call each. Answers whether that is
    /// proven for them all, and which are gone.
    fn was_empty(&self) -> (bool, Vec<PathBuf>) {
        if self.record.systemd.is_some() {
            return (false, Vec::new());
        }
        // A process of another tool may be in the version 1 freezer alone; the version 2 group knows only the others.
        let freezer = self.record.freezer().filter(|(version, _)| *version == Version::V1).map(|(_, dir)| dir);
        let dirs = freezer.into_iter().chain(self.record.unified.as_ref().map(Place::dir));
        let mut removed = Vec::new();
        for dir in dirs {
            match rustix::fs::rmdir(&dir) {
                Ok(()) | Err(Errno::NOENT) => removed.push(dir),
                Err(_) => return (false, removed),
            }
        }
        (!removed.is_empty(), removed)
    }

    fn remove_groups(&self, removed: &[PathBuf]) -> Result<()> {
        // Version 2 first: it tells when the last process has left, and then version 1 need not be polled.
        let mut first = Ok(());
        let deadline = Instant::now() + PATIENCE;
        let dirs = self.record.unified.iter().chain(&self.record.v1).map(Place::dir);
        for dir in dirs.filter(|dir| !removed.contains(dir)) {
            first = first.and(tree::remove(&dir, deadline));
        }
        first
    }
}
