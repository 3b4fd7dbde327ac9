//! What is written down about a container, so that another process can see and undo it: `containerd-shim-mini-v2 delete`
//! after a crash, or the next call of the command line.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::start::Request;
use crate::cgroup::{self, Cgroup};
use crate::error::{Error, Kind, Result};
use crate::plan::compile::makes_pid_namespace;
use crate::spec::Spec;

/// The form of the file; a newer mini reads older forms.
pub const VERSION: u32 = 1;

/// One container.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Record {
    /// [`VERSION`] of who wrote it.
    pub version: u32,
    /// Container id.
    pub id: String,
    /// Absolute path of the bundle.
    pub bundle: PathBuf,
    /// pid of init; 0 before there is one.
    pub pid: u32,
    /// When that process began, in clock ticks since boot (field 22 of proc_pid_stat(5)): tells it from a later one with
    /// the same pid.
    pub start_time: u64,
    /// RFC 3339.
    pub created: String,
    /// Absolute path of the rootfs on the host.
    pub rootfs: PathBuf,
    /// Where its groups are.
    pub cgroup: cgroup::Record,
    /// What its start has to know, if that comes from another process; an older mini wrote a file of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parked: Option<Request>,
    /// The end of init does not end the others, see [`super::Container::shares_pid_namespace`]; an older mini did not write it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shares_pids: Option<bool>,
    /// There are poststop hooks to be run; an older mini did not write it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub poststop: Option<bool>,
    /// config.json as it was when the container was made: what is written to the bundle later has no effect
    /// (runtime-spec runtime.md#lifecycle). `None`: the bundle is containerd's, which does not write it again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<Box<RawValue>>,
}

impl Record {
    /// Name of the file in a bundle.
    pub const FILE: &'static str = "mini.json";

    /// That of a container whose first process is there.
    ///
    /// # Errors
    /// Those of [`start_time`].
    pub(super) fn new(
        id: &str,
        bundle: &Path,
        spec: &Spec,
        pid: u32,
        cgroup: &Cgroup,
        parked: Option<Request>,
    ) -> Result<Self> {
        Ok(Self {
            version: VERSION,
            id: id.to_owned(),
            bundle: bundle.to_owned(),
            pid,
            start_time: start_time(pid)?.unwrap_or(0),
            created: crate::clock::rfc3339_now(),
            rootfs: bundle.join(spec.root.as_ref().map_or("", |root| &root.path)),
            cgroup: cgroup.record(),
            parked,
            shares_pids: Some(!makes_pid_namespace(spec)),
            poststop: Some(!spec.hooks.poststop.is_empty()),
            config: None,
        })
    }

    /// What the container was made from.
    ///
    /// # Errors
    /// Those of [`Spec::parse`], or of [`Spec::load`].
    pub fn spec(&self) -> Result<Spec> {
        self.config.as_ref().map_or_else(|| Spec::load(&self.bundle), |config| Spec::parse(config.get().as_bytes()))
    }

    /// Reads the record of a bundle.
    pub fn load(dir: &Path) -> Result<Self> {
        let path = dir.join(Self::FILE);
        let json = crate::spec::read_json(&path).map_err(|e| {
            let mut error = Error::io("open", path.display().to_string(), &e);
            if e.kind() == std::io::ErrorKind::NotFound {
                error.kind = Kind::NotFound;
            }
            error
        })?;
        let record: Self = crate::spec::from_json(&json)?;
        if record.version > VERSION {
            let reason = format!("was written by a newer mini (form {}, known {VERSION})", record.version);
            return Err(Error::new(Kind::Invalid, "read", path.display().to_string(), reason));
        }
        Ok(record)
    }

    /// Writes it atomically, readable by the owner only.
    pub fn save(&self, dir: &Path) -> Result<()> {
        use std::os::unix::fs::OpenOptionsExt;
        let path = dir.join(Self::FILE);
        let new = dir.join(format!(".{}", Self::FILE));
        let text = serde_json::to_vec(self).map_err(|e| Error::new(Kind::Invalid, "write", "", e.to_string()))?;
        std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)
            .and_then(|mut f| f.write_all(&text))
            .and_then(|()| std::fs::rename(&new, &path))
            .map_err(|e| {
                // Half a record is none.
                let _removed = std::fs::remove_file(&new);
                Error::io("write", path.display().to_string(), &e)
            })
    }

    /// Init as a pidfd; `None` if it is not that process any more, or a zombie.
    ///
    /// # Errors
    /// It cannot be found out (EMFILE, ENOMEM): nobody may take the container for a stopped one then.
    pub fn init(&self) -> Result<Option<OwnedFd>> {
        let pid = Pid::from_raw(self.pid.cast_signed());
        let Some(pid) = pid else { return Ok(None) };
        let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            // ENOENT, before Linux 6.16 EINVAL: the number is a thread's by now.
            Err(Errno::SRCH | Errno::INVAL | Errno::NOENT) => return Ok(None),
            Err(e) => return Err(Error::sys("pidfd_open", self.pid.to_string(), e)),
        };
        Ok(self.is_alive()?.then_some(pidfd))
    }

    /// True if init is that process and no zombie.
    ///
    /// # Errors
    /// As [`Record::init`].
    pub fn is_alive(&self) -> Result<bool> {
        Ok(self.pid != 0 && start_time(self.pid)? == Some(self.start_time))
    }

    /// True when the end of init does not end the other processes by itself. Of an older mini's container without a bundle
    /// nobody knows.
    pub fn shares_pids(&self) -> bool {
        self.shares_pids.unwrap_or_else(|| !self.spec().is_ok_and(|spec| makes_pid_namespace(&spec)))
    }

    /// Sends SIGKILL to all processes of the container, and waits for nobody; what fails, [`Record::destroy`] tells.
    pub fn kill(&self) {
        let _gone = self.kill_in(&Cgroup::recorded(&self.cgroup));
    }

    fn kill_in(&self, cgroup: &Result<Cgroup>) -> Result<()> {
        let Some(init) = self.init()? else { return Ok(()) };
        // Gone meanwhile is as good as killed.
        let _killed = crate::reap::signal(&init, libc::SIGKILL);
        if let Ok(cgroup) = cgroup {
            if self.shares_pids() {
                let _killed = cgroup.kill(libc::SIGKILL);
            } else if cgroup.is_frozen().unwrap_or_default() {
                // On version 1 it could not die.
                let _thawed = cgroup.thaw();
            }
        }
        Ok(())
    }

    /// Ends what is left of the container: kills its processes, removes its group, and runs the poststop hooks. May be called
    /// again if it fails.
    pub fn destroy(&self) -> Result<()> {
        let cgroup = Cgroup::recorded(&self.cgroup);
        let known = self.kill_in(&cgroup);
        self.clear(&cgroup?).and(known)
    }

    /// [`Record::destroy`] when init is known to have ended, and the group is open.
    pub fn clear(&self, cgroup: &Cgroup) -> Result<()> {
        // Without a bundle nobody knows of hooks.
        let spec = if self.poststop == Some(false) { None } else { self.spec().ok() };
        super::undo(cgroup, self.shares_pids(), &self.id, &self.bundle, spec.as_ref())
    }
}

/// Field 22 of /proc/PID/stat; `None` when there is no such process, or only its zombie.
///
/// # Errors
/// Those of open(2) and read(2), but for a process that is not there.
pub fn start_time(pid: u32) -> Result<Option<u64>> {
    let path = format!("/proc/{pid}/stat");
    let stat = match crate::kernfs::small(path.as_str()) {
        Ok(stat) => stat,
        Err(Errno::NOENT | Errno::SRCH) => return Ok(None),
        Err(e) => return Err(Error::sys("read", path, e)),
    };
    // The second field is the command in parentheses and may hold anything, parentheses included.
    let fields = || {
        let mut fields = stat.rsplit_once(") ")?.1.split(' ');
        let state = fields.next()?;
        if matches!(state, "Z" | "X") { None } else { fields.nth(18)?.parse().ok() }
    };
    Ok(fields())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the mini of commit 3a9c96c wrote for a container of ctr's on a hybrid host, byte for byte.
    const FORM_1: &str = include_str!("../../tests/records/form-1.json");

    #[test]
    fn reads_what_an_older_mini_wrote() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(Record::FILE), FORM_1).unwrap();
        let record = Record::load(dir.path()).unwrap();
        let bundle = Path::new("/run/containerd/io.containerd.runtime.v2.task/oldmini/a");
        assert_eq!((record.version, record.id.as_str(), record.pid, record.start_time), (1, "a", 46, 2_894_001));
        assert_eq!((record.bundle.as_path(), record.rootfs), (bundle, bundle.join("rootfs")));
        assert_eq!(record.created, "2026-11-21T12:58:27.011488761Z");
        let groups: Vec<String> =
            record.cgroup.v1.iter().chain(&record.cgroup.unified).map(|p| p.dir().display().to_string()).collect();
        let hierarchies =
            ["cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "systemd", "unified"];
        assert_eq!(groups, hierarchies.map(|name| format!("/sys/fs/cgroup/{name}/oldmini/a")));
        assert!(record.cgroup.systemd.is_none());
    }

    #[test]
    fn writes_a_form_that_the_older_mini_reads() {
        let older: serde_json::Value = serde_json::from_str(FORM_1).unwrap();
        let record: Record = serde_json::from_str(FORM_1).unwrap();
        assert_eq!(serde_json::to_value(record).unwrap(), older, "a change of meaning needs another VERSION");
    }
}
