//! What the daemon inherits from us: we end at once, so we can be what it shall be.

#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use runtime::cgroup::Layout;
use runtime::{Error, Kind, Result};
use rustix::io::Errno;
use rustix::process::{Pid, getpid, getppid};
use rustix::thread::{CoreSchedulingScope, create_core_scheduling_cookie};

/// Highest oom_score_adj, see proc_pid_oom_score_adj(5).
const WORST: i32 = 1000;

/// Makes this process what the daemon is to be: the OOM killer takes a shim before containerd; containerd may ask for core
/// scheduling by its environment; and `cgroup` (the option ShimCgroup) is for those who account for shims.
pub fn inherit(cgroup: &str) -> Result<()> {
    // Any value will do, as in containerd's own shim.
    if std::env::var_os("SCHED_CORE").is_some_and(|v| !v.is_empty()) {
        create_core_scheduling_cookie(getpid(), CoreSchedulingScope::ProcessGroup)
            .map_err(|e| Error::sys("prctl", "PR_SCHED_CORE_CREATE", e))?;
    }
    if !cgroup.is_empty() {
        join(&Layout::read()?, cgroup)?;
    }
    worsen_oom_score()
}

/// One more than our parent, which is containerd.
fn worsen_oom_score() -> Result<()> {
    let parent = getppid().map_or_else(|| "self".to_owned(), |pid: Pid| pid.as_raw_nonzero().to_string());
    let path = format!("/proc/{parent}/oom_score_adj");
    let text = std::fs::read_to_string(&path).map_err(|e| Error::io("read", &path, &e))?;
    let score: i32 = text.trim().parse().map_err(|_| Error::new(Kind::Invalid, "read", &path, "is not a number"))?;
    let path = "/proc/self/oom_score_adj";
    match std::fs::write(path, (score + 1).min(WORST).to_string()) {
        // Only lowering needs CAP_SYS_RESOURCE: ours was worse already and stays as it is.
        Err(e) if [Errno::ACCESS, Errno::PERM].iter().any(|errno| e.raw_os_error() == Some(errno.raw_os_error())) => {
            Ok(())
        }
        other => other.map_err(|e| Error::io("write", path, &e)),
    }
}

/// Moves us into an existing group on every hierarchy that has it; it must be on one at least.
fn join(layout: &Layout, group: &str) -> Result<()> {
    let below = group.trim_start_matches('/');
    if Path::new(below).components().any(|c| matches!(c, std::path::Component::ParentDir)) {
        return Err(Error::new(Kind::Invalid, "ShimCgroup", group, "leads out of the hierarchy"));
    }
    let mounts = layout.v1.iter().map(|h| &h.mount).chain(layout.unified.iter().map(|u| &u.mount));
    let places: Vec<PathBuf> = mounts.map(|m| m.join(below).join("cgroup.procs")).filter(|p| p.exists()).collect();
    if places.is_empty() {
        return Err(Error::new(Kind::NotFound, "ShimCgroup", group, "there is no such group"));
    }
    for place in places {
        std::fs::write(&place, "0").map_err(|e| Error::io("write", place.display().to_string(), &e))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use runtime::cgroup::{Hierarchy, Unified};

    #[test]
    fn a_group_is_joined_where_it_exists() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["cpu/shims", "unified/shims", "memory"] {
            std::fs::create_dir_all(at(name)).unwrap();
            std::fs::write(at(name).join("cgroup.procs"), "").unwrap();
        }
        let v1 = ["cpu", "memory"].map(|n| Hierarchy { mount: at(n), ..Hierarchy::default() });
        let unified = Some(Unified { mount: at("unified"), ..Unified::default() });
        let layout = Layout { v1: v1.into(), unified };
        join(&layout, "/shims").unwrap();
        assert_eq!(std::fs::read_to_string(at("cpu/shims/cgroup.procs")).unwrap(), "0");
        assert_eq!(std::fs::read_to_string(at("unified/shims/cgroup.procs")).unwrap(), "0");
        assert_eq!(std::fs::read_to_string(at("memory/cgroup.procs")).unwrap(), "");
        assert_eq!(join(&layout, "/absent").unwrap_err().kind, Kind::NotFound);
        assert_eq!(join(&layout, "/shims/../..").unwrap_err().kind, Kind::Invalid);
    }
}
