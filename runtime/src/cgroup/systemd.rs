//! Groups that systemd makes: the container is a transient scope (or a slice) of its manager.
//!
//! systemd is asked over D-Bus to make the unit, to keep its properties in step with the limits, and to stop it. All
//! else is done through the files, as for groups that we have made: systemd knows but a part of the limits, and a scope
//! is delegated to us ([`Delegate=`, systemd.resource-control(5)](https://systemd.io/CGROUP_DELEGATION/)).
//!
//! systemd makes no scope without a process. So that the container's can be born inside all the same, the scope begins
//! with a [`Keeper`] that goes as soon as the container's first process is there.

mod bus;
mod gvariant;
mod manager;
mod properties;
mod unit;
mod wire;

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

pub(super) use properties::Property;
pub use unit::Unit;
pub(super) use wire::Value;

use manager::Manager;

use super::{Cgroup, Layout, Record, Version, devices, file, freeze, limits, tree};
use crate::child::Keeper;
use crate::error::{Error, Kind, Result};
use crate::spec::Spec;

/// sd_booted(3).
const BOOTED: &str = "/run/systemd/system";

/// As many processes as may be in the group until the keeper has gone: itself, and a child that is born in two steps. A
/// smaller limit has to wait until then.
const COMPANY: u64 = 4;

/// Files that systemd writes whenever it is told anything of a unit, and of whose limits it cannot always be told.
const UNTOLD: [(&str, &str); 4] = [
    ("memory", "memory.oom.group"),
    ("memory", "memory.zswap.max"),
    ("memory", "memory.zswap.writeback"),
    ("pids", "pids.max"), // of 0
];

/// What a new unit waits for.
#[derive(Debug, Default)]
pub(super) struct Unsettled {
    keeper: Option<Keeper>,
    later: Vec<Property>,
}

/// The system's manager does not belong to everybody: not to users, nor to the root of a user namespace without a systemd
/// of its own, who sees the host's as somebody else's. They have the manager of a user.
fn has_system_manager() -> bool {
    rustix::process::geteuid().is_root() && std::fs::metadata(BOOTED).is_ok_and(|m| m.uid() == 0)
}

impl Cgroup {
    /// Has systemd make the group for `linux.cgroupsPath` in the form `slice:prefix:name` (or, when it is empty, for the
    /// container's id), with the limits of the spec and the properties of its annotations `org.systemd.property.*`.
    /// Whoever puts the first process into it says so by [`Cgroup::inhabited`].
    ///
    /// # Errors
    /// This host was not booted with systemd; a path of another form ("/linux/cgroupsPath"), an annotation that is none;
    /// a group that has processes or is frozen; what systemd says, with the names of unit and error. Nothing that this
    /// call has made is left then.
    pub fn create_by_systemd(layout: &Layout, spec: &Spec, id: &str) -> Result<Cgroup> {
        if !std::fs::symlink_metadata(BOOTED).is_ok_and(|m| m.is_dir()) {
            let reason = "systemd not running on this host, cannot use systemd cgroups manager";
            return Err(Error::new(Kind::Unsupported, "", "", reason));
        }
        let unit = Unit::parse(&spec.linux.cgroups_path, id, !has_system_manager())?;
        let extra = properties::of_annotations(&spec.annotations)?;
        let mut record = layout.place(&format!("/{}", unit.group()?), id)?;
        if unit.user && !record.is_unified() {
            let reason = "cannot use rootless systemd cgroups manager on cgroup v1";
            return Err(Error::new(Kind::Unsupported, "", "", reason));
        }
        refuse_used(&record)?;
        record.systemd = Some(unit.clone());
        let mut writes = record.first_writes(&spec.linux.resources)?;
        let mut manager = Manager::connect(unit.user)?;
        let systemd = manager.version()?;
        let keeper = if unit.is_slice() { None } else { Some(Keeper::new()?) };
        let mut later = properties::of_limits(&mut writes, systemd, &|_| None)?;
        let crowded = keeper.is_some() && properties::tasks_max(&writes).is_some_and(|n| n < COMPANY);
        let now = later.extract_if(.., |(name, _)| !(crowded && name == "TasksMax")).collect::<Vec<_>>();
        let mut all = begin(&unit, keeper.as_ref(), version(&record));
        all.extend(devices::unit::properties(&spec.linux.resources.devices, version(&record), systemd)?);
        all.extend(now);
        all.extend(properties::oom_policy(&spec.linux.resources.unified, systemd));
        all.extend(extra);
        manager.start(&unit, all)?;
        let found = found(&mut record, &mut manager, keeper.as_ref());
        let unsettled = Mutex::new(Unsettled { keeper, later });
        let cgroup = Cgroup { unsettled, ..Cgroup::at(record) };
        match found.and_then(|()| tree::make(&cgroup.record)) {
            Ok(made) => {
                made.keep();
                Ok(cgroup)
            }
            Err(error) => {
                // The first error is the one that matters; a unit that stays is found by the next create.
                drop(cgroup.unsettled());
                let _ = manager.stop(&unit).and(cgroup.remove_groups(&[]));
                Err(error)
            }
        }
    }

    fn unsettled(&self) -> Unsettled {
        std::mem::take(&mut *self.unsettled.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The first process is in the group now: what kept the group alive until then is no longer needed. May be called
    /// again, and on any group.
    ///
    /// # Errors
    /// systemd does not take a limit that would not have let the process in.
    pub fn inhabited(&self) -> Result<()> {
        let Unsettled { keeper, later } = self.unsettled();
        drop(keeper);
        match &self.record.systemd {
            Some(unit) if !later.is_empty() => self.set(&mut Manager::connect(unit.user)?, unit, later, &[]),
            _ => Ok(()),
        }
    }

    /// Tells systemd of new limits, if it makes the group, and raises the quotas among the writes to what it can express.
    pub(super) fn tell(&self, unit: &Unit, writes: &mut [limits::Write]) -> Result<()> {
        let current = |file: &str| self.record.current("cpu", file);
        if properties::of_limits(&mut writes.to_vec(), u32::MAX, &current)?.is_empty() {
            return Ok(());
        }
        let mut manager = Manager::connect(unit.user)?;
        let systemd = manager.version()?;
        let all = properties::of_limits(writes, systemd, &current)?;
        self.set(&mut manager, unit, all, writes)
    }

    /// Changes properties, and puts back what systemd thereby takes from files that are not among the writes to come.
    fn set(&self, manager: &mut Manager, unit: &Unit, all: Vec<Property>, writes: &[limits::Write]) -> Result<()> {
        let untold = UNTOLD.iter().filter(|(_, name)| !writes.iter().any(|write| write.file == *name));
        let paths = untold.filter_map(|(controller, name)| Some(self.record.find(controller)?.1.join(name)));
        let before: Vec<_> = paths.filter_map(|path| Some((file::get(&path).ok()?, path))).collect();
        manager.set(unit, all)?;
        for (text, path) in before {
            if file::get(&path).is_ok_and(|now| now != text) {
                file::write(&path, text.trim())?;
            }
        }
        Ok(())
    }

    /// Has systemd stop the unit, and waits for it. Processes that are on their way out are waited for first: systemd
    /// notices by itself that a scope is empty, and most times that is all.
    pub(super) fn stop(&self, unit: &Unit) -> Result<()> {
        drop(self.unsettled());
        if let Some(place) = &self.record.unified {
            tree::emptied(&place.dir(), std::time::Instant::now() + super::PATIENCE)?;
        }
        Manager::connect(unit.user)?.stop(unit)
    }
}

/// Raises the quotas of a unit's limits as [`Cgroup::tell`] does, for files only.
pub(super) fn round(record: &Record, writes: &mut [limits::Write]) -> Result<()> {
    properties::of_limits(writes, 0, &|file| record.current("cpu", file)).map(drop)
}

fn version(record: &Record) -> Version {
    if record.is_unified() { Version::V2 } else { Version::V1 }
}

/// Groups that have processes, or in which they would stand still, belong to somebody else.
fn refuse_used(record: &Record) -> Result<()> {
    for place in record.places() {
        tree::refuse_taken(&place.dir())?;
    }
    record.freezer().map_or(Ok(()), |(version, dir)| freeze::refuse_held(&dir, version))
}

/// What a new unit is, apart from its limits; in runc's words but for the description.
fn begin(unit: &Unit, keeper: Option<&Keeper>, version: Version) -> Vec<Property> {
    let text = |name: &str, text: &str| (name.to_owned(), Value::text(text));
    let mut all = vec![text("Description", &format!("mini container {}", unit.name))];
    match keeper {
        // Not every slice above another is there by itself.
        None => all.push(("Wants".into(), Value::Array("s".into(), vec![Value::text(&unit.slice)]))),
        Some(keeper) => {
            let pids = Value::Array("u".into(), vec![Value::Uint32(keeper.pid())]);
            all.extend([text("Slice", &unit.slice), ("Delegate".into(), Value::Bool(true)), ("PIDs".into(), pids)]);
        }
    }
    all.extend(properties::accounting(version));
    // By default a shutdown would stop the container before whoever looks after it.
    all.push(("DefaultDependencies".into(), Value::Bool(false)));
    all
}

/// Corrects a record by where systemd has really put the unit: a user's manager has its own group above everything. The
/// kernel knows it of the keeper, on each hierarchy; of a slice the manager is asked.
fn found(record: &mut Record, manager: &mut Manager, keeper: Option<&Keeper>) -> Result<()> {
    let unit = record.systemd.clone().unwrap_or_default();
    let Some(keeper) = keeper else {
        let root = if unit.user { manager.root()? } else { String::new() };
        if !root.is_empty() {
            record.places_mut().for_each(|place| place.group = format!("{root}/{}", place.group));
        }
        return Ok(());
    };
    let path = format!("/proc/{}/cgroup", keeper.pid());
    let now = Layout::of_process(&path)?;
    let own = |group: &str| Path::new(group).file_name().is_some_and(|name| name == unit.name.as_str());
    let tracked = now.places().map(|place| &place.group).find(|group| own(group));
    let Some(tracked) = tracked else {
        let groups: Vec<&str> = now.places().map(|place| place.group.as_str()).collect();
        let reason = format!("systemd has put its process elsewhere: {}", groups.join(", "));
        return Err(Error::new(Kind::State, "StartTransientUnit", unit.name, reason));
    };
    // On version 1 systemd does not use every hierarchy, and there the group is ours to make, at the same place.
    record.places_mut().for_each(|place| place.group.clone_from(tracked));
    Ok(())
}
