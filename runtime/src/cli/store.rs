//! The directory of states: one directory per container, `<root>/<id>`, with its record and the gate of its first process.
#![forbid(unsafe_code)]

use std::fs::{DirBuilder, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use runtime::Record;
use runtime::cgroup::Cgroup;
use runtime::container::start;
use runtime::spec::check;
use runtime::{Error, Kind, Result};
use rustix::io::Errno;

/// What a container is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Its process waits for `start`.
    Created,
    /// Its process runs.
    Running,
    /// Its processes are frozen.
    Paused,
    /// Its process has ended.
    Stopped,
}

/// The same without a look at the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Process {
    /// It waits or runs.
    There,
    /// It stands still with its group.
    Frozen,
    /// It has ended.
    Gone,
}

impl Status {
    /// The specification's word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

/// Where states are kept.
pub struct Store {
    root: PathBuf,
}

/// One container that exists.
pub struct Found {
    /// Its directory.
    pub dir: PathBuf,
    /// What was written down about it.
    pub record: Record,
}

/// The bundle as an absolute path without links, because it is opened again from other directories.
///
/// # Errors
/// If it is not there.
pub fn bundle(path: &Path) -> Result<PathBuf> {
    std::fs::canonicalize(path).map_err(|e| Error::io("open", path.display().to_string(), &e))
}

impl Store {
    /// States below `root`, which need not be there.
    ///
    /// # Errors
    /// If there is no current directory that a relative path could start from.
    pub fn new(root: &Path) -> Result<Self> {
        let root = std::path::absolute(root).map_err(|e| Error::io("getcwd", "", &e))?;
        Ok(Self { root })
    }

    /// Makes the directory of a new container. mkdir decides which of two callers gets the id.
    ///
    /// # Errors
    /// `Exists`; `Invalid` for an id that is none.
    pub fn reserve(&self, id: &str) -> Result<PathBuf> {
        check::id(id)?;
        let dir = self.root.join(id);
        let make = || DirBuilder::new().mode(0o711).create(&dir);
        let made = make().or_else(|e| {
            if e.kind() != ErrorKind::NotFound {
                return Err(e);
            }
            DirBuilder::new().recursive(true).mode(0o700).create(&self.root)?;
            make()
        });
        made.map_err(|e| match e.kind() {
            ErrorKind::AlreadyExists => Error::new(Kind::Exists, "", "", "container with given ID already exists"),
            _ => self.io("mkdir", &dir, &e),
        })?;
        // Whatever the umask is: a user namespace's root has to reach the gate in it.
        if runtime::own::status().umask & 0o711 == 0 {
            return Ok(dir);
        }
        std::fs::set_permissions(&dir, Permissions::from_mode(0o711)).map_err(|e| {
            // Empty, and nobody's yet.
            let _removed = std::fs::remove_dir(&dir);
            self.io("chmod", &dir, &e)
        })?;
        Ok(dir)
    }

    /// Where a container's state is, or would be.
    ///
    /// # Errors
    /// `Invalid` for an id that is none.
    pub fn dir(&self, id: &str) -> Result<PathBuf> {
        check::id(id)?;
        Ok(self.root.join(id))
    }

    /// A container by its id.
    ///
    /// # Errors
    /// `NotFound`; `Invalid` for an id that is none.
    pub fn find(&self, id: &str) -> Result<Found> {
        let dir = self.dir(id)?;
        let record = Record::load(&dir).map_err(|e| match e.kind {
            Kind::NotFound => Error::new(Kind::NotFound, "", "", "container does not exist"),
            _ => e,
        })?;
        Ok(Found { dir, record })
    }

    /// Removes a container's directory, whatever is in it. One that is not there is removed already.
    ///
    /// # Errors
    /// Of unlink and rmdir; `Invalid` for an id that is none.
    pub fn remove(&self, id: &str) -> Result<()> {
        let dir = self.dir(id)?;
        // What is there after an ordinary life, the record last; whatever else there is after any other.
        for name in [start::REPORT, Record::FILE] {
            let _not_there = rustix::fs::unlink(dir.join(name));
        }
        match rustix::fs::rmdir(&dir) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(_) => {}
        }
        match std::fs::remove_dir_all(&dir) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(self.io("rmdir", &dir, &e)),
            _ => Ok(()),
        }
    }

    /// Every container in the order of their ids. One that is deleted meanwhile is left out, and so is, with a word on
    /// standard error, one whose record cannot be read.
    ///
    /// # Errors
    /// If the directory of states cannot be read; none at all is an empty list.
    pub fn all(&self) -> Result<Vec<Found>> {
        let entries = match std::fs::read_dir(&self.root) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(|e| self.io("open", &self.root, &e))?,
        };
        let mut found = Vec::new();
        for entry in entries {
            let name = entry.map_err(|e| self.io("read", &self.root, &e))?.file_name();
            let Some(id) = name.to_str().filter(|id| check::id(id).is_ok()) else { continue };
            match self.find(id) {
                Ok(one) => found.push(one),
                Err(e) if e.kind == Kind::NotFound => {}
                // One that is broken is told of and hides no other, as in runc's list.
                Err(e) => eprintln!("load container {id}: {e}"),
            }
        }
        found.sort_by(|a, b| a.record.id.cmp(&b.record.id));
        Ok(found)
    }

    fn io(&self, op: &'static str, path: &Path, e: &std::io::Error) -> Error {
        Error::io(op, path.display().to_string(), e)
    }
}

impl Found {
    /// Its group.
    ///
    /// # Errors
    /// If the hierarchies of this host cannot be read.
    pub fn cgroup(&self) -> Result<Cgroup> {
        Cgroup::recorded(&self.record.cgroup)
    }

    /// What it is doing now. runc's order: without a process it has stopped, frozen is paused, a closed gate is created.
    ///
    /// # Errors
    /// If the hierarchies of this host cannot be read, or it cannot be found out whether its process lives.
    pub fn status(&self) -> Result<Status> {
        Ok(match self.process()? {
            Process::Gone => Status::Stopped,
            Process::Frozen => Status::Paused,
            Process::There if start::is_parked(&self.dir)? => Status::Created,
            Process::There => Status::Running,
        })
    }

    /// What its first process is doing now, as far as that can be seen from outside.
    ///
    /// # Errors
    /// As [`Found::status`].
    pub fn process(&self) -> Result<Process> {
        if !self.record.is_alive()? {
            return Ok(Process::Gone);
        }
        match self.cgroup()?.is_frozen() {
            Ok(true) => Ok(Process::Frozen),
            Ok(false) => Ok(Process::There),
            // The process ended and took its group along between the two looks; or there is none that could be frozen.
            Err(e) if matches!(e.kind, Kind::NotFound | Kind::Unsupported) => Ok(Process::There),
            Err(e) => Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_taken_once_and_free_again_after_remove() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(&dir.path().join("deep/root")).unwrap();
        assert_eq!(store.all().unwrap().len(), 0);
        let made = store.reserve("a").unwrap();
        assert_eq!(std::fs::metadata(&made).unwrap().permissions().mode() & 0o777, 0o711);
        assert_eq!(std::fs::metadata(made.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(store.reserve("a").unwrap_err().to_string(), "container with given ID already exists");
        assert_eq!(store.find("a").err().unwrap().to_string(), "container does not exist");
        store.remove("a").unwrap();
        store.remove("a").unwrap();
        let again = store.reserve("a").unwrap();
        for name in [Record::FILE, "report", "exec.fifo", "left/over"] {
            let path = again.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        store.remove("a").unwrap();
        assert!(!again.exists());
        store.reserve("a").unwrap();
        for id in ["", "..", "../a", "a/b"] {
            assert!(store.reserve(id).is_err() && store.find(id).is_err() && store.remove(id).is_err(), "{id}");
        }
    }

    /// Below a user namespace a container may have to do without.
    #[test]
    fn one_without_groups_is_running() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path()).unwrap();
        let at = store.reserve("bare").unwrap();
        let pid = std::process::id();
        let start_time = runtime::container::start_time(pid).unwrap().unwrap();
        Record { id: "bare".into(), pid, start_time, ..Record::default() }.save(&at).unwrap();
        assert_eq!(store.find("bare").unwrap().status().unwrap(), Status::Running);
    }

    #[test]
    fn a_record_of_a_dead_process_is_a_stopped_container() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path()).unwrap();
        let at = store.reserve("dead").unwrap();
        Record { id: "dead".into(), pid: 1, start_time: u64::MAX, ..Record::default() }.save(&at).unwrap();
        let found = store.find("dead").unwrap();
        assert_eq!(found.status().unwrap(), Status::Stopped);
        assert_eq!(store.all().unwrap().len(), 1);
    }
}
