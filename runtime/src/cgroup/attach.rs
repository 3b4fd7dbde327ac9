//! What a child needs to be in its groups from its first instruction on.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use rustix::fs::{Mode, OFlags};
use rustix::mount::OpenTreeFlags;

use super::below::Below;
use super::stats::{SOON, Share};
use super::{Cgroup, file, layout, tree};
use crate::error::{Kind, Result};
use crate::plan::options::attr;

/// What a child needs to be in the group from its first instruction on.
#[derive(Debug)]
pub struct Attach {
    /// The directory for `CLONE_INTO_CGROUP`; `None` where there is no version 2 tree.
    pub into: Option<OwnedFd>,
    /// Open files, with their paths, into each of which the child, still single-threaded, writes `0`.
    pub tasks: Vec<Arc<(String, OwnedFd)>>,
}

impl Attach {
    /// Makes the directory the root of a mount of its own that nobody can write to, so that whoever gets hold of it reaches nothing
    /// but the group. False if that cannot be done (mount_setattr(2) is there since Linux 5.12).
    pub fn seclude(&mut self) -> bool {
        let Some(group) = &self.into else { return true };
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
        let Ok(mount) = rustix::mount::open_tree(group, "", flags) else { return false };
        let set = attr::RDONLY | attr::NOSUID | attr::NODEV | attr::NOEXEC;
        let attributes = crate::sys::MountAttributes { set, ..Default::default() };
        if crate::sys::mount_setattr(mount.as_fd(), c"", libc::AT_EMPTY_PATH as u32, &attributes).is_err() {
            return false;
        }
        self.into = Some(mount);
        true
    }
}

fn open(path: &Path) -> Result<Arc<(String, OwnedFd)>> {
    let fd = file::open(path, OFlags::WRONLY).map_err(|e| file::fault("open", path, e))?;
    Ok(Arc::new((path.to_string_lossy().into_owned(), fd)))
}

/// The files of version 1 groups, kept open while processes are made often: to open eight of them is a twentieth of an exec. They
/// are those of the groups that were there when they were opened; as long as somebody is in these, there are no others.
#[derive(Debug, Default)]
pub(super) struct Tasks(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    files: Vec<Arc<(String, OwnedFd)>>,
    share: Option<Share>,
    last: Option<Instant>,
}

impl Kept {
    fn is_old(&self) -> bool {
        self.last.is_none_or(|last| last.elapsed() > SOON)
    }
}

impl Tasks {
    /// The kept files, or else those that `open` gives, which are kept if they are the container's `own` and the last time was
    /// not long ago.
    fn get(
        &self,
        own: bool,
        open: impl FnOnce() -> Result<Vec<Arc<(String, OwnedFd)>>>,
    ) -> Result<Vec<Arc<(String, OwnedFd)>>> {
        if !own {
            return open();
        }
        // Whole between any two statements.
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let often = !kept.is_old();
        kept.last = Some(Instant::now());
        if kept.files.is_empty() {
            let files = open()?;
            if often && let Some(share) = Share::of(files.len()) {
                (kept.files, kept.share) = (files.clone(), Some(share));
            }
            return Ok(files);
        }
        Ok(kept.files.clone())
    }

    pub(super) fn is_warm(&self) -> bool {
        self.0.try_lock().map_or(true, |kept| !kept.files.is_empty())
    }

    /// Closes the files unless they were asked for lately; true if none is open any more.
    pub(super) fn cool(&self) -> bool {
        let Ok(mut kept) = self.0.try_lock() else { return false };
        if kept.is_old() {
            (kept.files, kept.share) = (Vec::new(), None);
        }
        kept.files.is_empty()
    }
}

impl Cgroup {
    /// Opens what a child about to be cloned needs: the init of the container, or an exec.
    ///
    /// # Errors
    /// A group is gone ([`NotFound`](crate::Kind::NotFound)), unless its files are kept: then the child's write says it. Or a
    /// version 1 cpuset is still empty and cannot inherit.
    pub fn attach(&self) -> Result<Attach> {
        self.attach_below(&[], false)
    }

    /// [`Cgroup::attach`] to groups below the container's own, which must exist: words of `exec --cgroup`.
    ///
    /// `by_file` is for a group in which a process is killed at birth, as the kernel does with `CLONE_INTO_CGROUP` once
    /// `cgroup.kill` was written there, for as long as the group exists (docs/kernel.md): the child, born beside us, moves
    /// there by itself. Slower, because that waits for all processors.
    ///
    /// # Errors
    /// As there; and those of the words.
    pub fn attach_below(&self, words: &[String], by_file: bool) -> Result<Attach> {
        let below = Below::parse(words)?;
        below.check(&self.record)?;
        self.attach_how(&below, by_file || self.used)
    }

    /// Before Linux 6.3 a child that is cloned into a version 2 group goes on with the memory nodes of its parent
    /// (cpuset_fork, kernel commit 42a11bf5c543). True if those are others than the group's: then it has to move there.
    pub fn keeps_nodes(&self, kernel: (u32, u32)) -> bool {
        let Some(place) = self.record.unified.as_ref().filter(|place| place.has("cpuset") && kernel < (6, 3)) else {
            return false;
        };
        let status = crate::kernfs::small("/proc/self/status").unwrap_or_default();
        let own = status.lines().find_map(|line| line.strip_prefix("Mems_allowed_list:")).unwrap_or_default();
        file::get(&place.dir().join("cpuset.mems.effective")).is_ok_and(|nodes| nodes.trim() != own.trim())
    }

    fn attach_how(&self, below: &Below, by_file: bool) -> Result<Attach> {
        let mut tasks = self.tasks.get(*below == Below::default(), || self.open_tasks(below))?;
        let Some(place) = &self.record.unified else { return Ok(Attach { into: None, tasks }) };
        let dir = below.dir(place);
        if by_file {
            tasks.push(open(&dir.join("cgroup.procs"))?);
            return Ok(Attach { into: None, tasks });
        }
        let fd = file::open(&dir, OFlags::DIRECTORY | OFlags::PATH).map_err(|e| file::fault("open", &dir, e))?;
        Ok(Attach { into: Some(fd), tasks })
    }

    fn open_tasks(&self, below: &Below) -> Result<Vec<Arc<(String, OwnedFd)>>> {
        let mut tasks = Vec::with_capacity(self.record.v1.len());
        for place in &self.record.v1 {
            if place.has("cpuset") {
                let mut dir = place.dir();
                for part in below.path(place).split('/').filter(|part| !part.is_empty()) {
                    dir.push(part);
                    tree::inherit_cpuset(&dir, false)?;
                }
            }
            match open(&below.dir(place).join("tasks")) {
                Ok(task) => tasks.push(task),
                // Whoever mounted it (a VPN client) has gone, and nobody can join any more.
                Err(e) if e.kind == Kind::NotFound && place.is_aside() && !layout::is_group(&place.mount, false) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(tasks)
    }

    /// [`Cgroup::attach_below`] for an exec into a container whose init has moved into a group of its own below (systemd or a
    /// docker in the container): once it hands controllers down, the container's group itself takes no process in, and
    /// the clone, or the child's write, fails with EBUSY. On version 2 the child is then where `pid` is.
    ///
    /// # Errors
    /// As there. A process that is not in the group is as good as none: the answer is that of [`Cgroup::attach_below`].
    pub fn attach_beside(&self, pid: u32, by_file: bool) -> Result<Attach> {
        let mut attach = self.attach_below(&[], by_file)?;
        let Some(place) = &self.record.unified else { return Ok(attach) };
        let Some(group) = tree::holder(&place.dir(), pid)? else { return Ok(attach) };
        let own = place.dir().join("cgroup.procs");
        if attach.into.is_some() {
            attach.into = Some(group);
        } else if let Some(task) = attach.tasks.iter_mut().find(|task| Path::new(&task.0) == own) {
            let failed = |e| file::fault("open", &own, e);
            let procs = file::retry(|| {
                rustix::fs::openat(&group, "cgroup.procs", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
            });
            *task = Arc::new((task.0.clone(), procs.map_err(failed)?));
        }
        Ok(attach)
    }
}
