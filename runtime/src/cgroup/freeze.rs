//! Stopping a whole group and letting it run again: the freezer hierarchy of version 1, `cgroup.freeze` of version 2.

use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;

use super::Version;
use super::file::{self, fault};
use super::tree;
use crate::error::{Error, Kind, Result};

/// What a freezer says about its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freezer {
    /// Running, or frozen only because a parent is.
    Thawed,
    /// Asked to freeze; not all of its tasks have stopped.
    Freezing,
    /// Every task has stopped.
    Frozen,
}

/// How long a version 2 group may take; the kernel needs microseconds unless a task hangs in it.
const PATIENCE: Duration = Duration::from_secs(10);

/// The state asked for on this very group; a frozen parent does not count.
pub(super) fn state(dir: &Path, version: Version) -> Result<Freezer> {
    match version {
        Version::V1 => {
            let word = file::text(&dir.join("freezer.state"))?;
            if word.trim() == "THAWED" {
                return Ok(Freezer::Thawed);
            }
            let own = file::text(&dir.join("freezer.self_freezing"))?;
            Ok(match (word.trim(), own.trim()) {
                (_, "0") => Freezer::Thawed,
                ("FROZEN", _) => Freezer::Frozen,
                _ => Freezer::Freezing,
            })
        }
        Version::V2 => {
            if file::text(&dir.join("cgroup.freeze"))?.trim() != "1" {
                return Ok(Freezer::Thawed);
            }
            Ok(if held(dir, version)? { Freezer::Frozen } else { Freezer::Freezing })
        }
    }
}

/// True if tasks that enter would stand still, whoever asked for it.
pub(super) fn held(dir: &Path, version: Version) -> Result<bool> {
    match version {
        Version::V1 => Ok(file::text(&dir.join("freezer.state"))?.trim() != "THAWED"),
        Version::V2 => Ok(file::value(&file::text(&dir.join("cgroup.events"))?, "frozen") == Some("1")),
    }
}

/// Refuses a group in which a new process would stand still for ever; one that is not there is fine.
pub(super) fn refuse_held(dir: &Path, version: Version) -> Result<()> {
    if held(dir, version).is_ok_and(|held| held) {
        return Err(Error::new(Kind::State, "", "", "container's cgroup unexpectedly frozen").at("/linux/cgroupsPath"));
    }
    Ok(())
}

/// Freezes, and returns when everything stands still; thaws again on failure.
///
/// # Errors
/// "unable to freeze" when tasks do not stop in time.
pub(super) fn freeze(dir: &Path, version: Version) -> Result<()> {
    let done = match version {
        Version::V1 => freeze_v1(dir),
        Version::V2 => set_v2(dir, true),
    };
    if done.is_err() {
        // Half frozen is the worst state: its processes neither run nor die.
        let _ = ask(dir, version, false);
    }
    done
}

/// Thaws. A group below a frozen parent stays still until that is thawed, which is no error here.
pub(super) fn thaw(dir: &Path, version: Version) -> Result<()> {
    match version {
        Version::V1 => ask(dir, version, false),
        Version::V2 => set_v2(dir, false),
    }
}

fn ask(dir: &Path, version: Version, freeze: bool) -> Result<()> {
    match (version, freeze) {
        (Version::V1, true) => file::write(&dir.join("freezer.state"), "FROZEN"),
        (Version::V1, false) => file::write(&dir.join("freezer.state"), "THAWED"),
        (Version::V2, true) => file::write(&dir.join("cgroup.freeze"), "1"),
        (Version::V2, false) => file::write(&dir.join("cgroup.freeze"), "0"),
    }
}

fn unable(dir: &Path) -> Error {
    Error::new(Kind::Kernel, "freeze", dir.to_string_lossy(), "unable to freeze")
}

/// Version 1 has no event, and stays FREEZING as long as new tasks keep appearing (fork, attach). Writing again makes
/// the kernel look again; thawing now and then lets a fork that we hold up come to its end. Numbers: those runc has
/// found to work on slow machines.
fn freeze_v1(dir: &Path) -> Result<()> {
    for attempt in 1..=1000 {
        if attempt % 50 == 0 {
            ask(dir, Version::V1, false)?;
            sleep(Duration::from_millis(10));
        }
        ask(dir, Version::V1, true)?;
        if attempt % 25 == 0 {
            sleep(Duration::from_micros(10));
        }
        if file::text(&dir.join("freezer.state"))?.trim() == "FROZEN" {
            return Ok(());
        }
    }
    Err(unable(dir))
}

/// Version 2 says in cgroup.events when it is done.
fn set_v2(dir: &Path, frozen: bool) -> Result<()> {
    let path = dir.join("cgroup.events");
    let events = file::open(&path, OFlags::RDONLY).map_err(|e| fault("open", &path, e))?;
    ask(dir, Version::V2, frozen)?;
    let wanted = if frozen { "1" } else { "0" };
    let mut deadline = Instant::now() + PATIENCE;
    let parent_holds = !frozen && dir.parent().is_some_and(|p| held(p, Version::V2).unwrap_or(false));
    if parent_holds {
        deadline = Instant::now();
    }
    loop {
        let text = tree::at_start(&events).map_err(|e| fault("read", &path, e))?;
        if file::value(&text, "frozen") == Some(wanted) || parent_holds {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(unable(dir));
        }
        tree::wait(&events, deadline).map_err(|e| fault("poll", &path, e))?;
    }
}
