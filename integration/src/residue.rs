//! What a container can leave behind: mounts, control groups, sockets, directories, processes, descriptors.

use crate::{Containerd, Outcome, Runtime, ensure, eventually};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A picture of a containerd's host, one line per thing.
pub struct Residue(BTreeSet<String>);

impl Residue {
    /// Takes the picture.
    pub fn of(containerd: &Containerd) -> Outcome<Residue> {
        let host = &containerd.host;
        let mut lines = BTreeSet::new();
        for line in std::fs::read_to_string(host.path("/proc/1/mountinfo"))?.lines() {
            lines.insert(format!("mount {}", mount_point(line)));
        }
        for group in cgroups_of(&containerd.namespace) {
            // The group of the containerd namespace itself stays, with any runtime.
            if group.file_name().is_none_or(|name| name.to_string_lossy() != containerd.namespace) {
                lines.insert(format!("cgroup {}", group.display()));
            }
        }
        let run = host.path("/run");
        walk(&run, &run, &mut lines);
        if containerd.runtime == Runtime::Runc {
            // The Go shim of 2.x leaves the sockets of groups and of killed shims; mini may not.
            lines.retain(|line| !line.starts_with("file /run/containerd/s/"));
        }
        for (_, argv) in host.processes()? {
            // Clients come and go with the tests, and one containerd replaces another; shims and containers' processes are what counts.
            let program = argv[0].rsplit('/').next().unwrap_or_default();
            if !matches!(
                program,
                "nsenter" | "timeout" | "env" | "containerd" | "ctr" | "docker" | "docker-compose" | "cri" | "crictl"
            ) {
                lines.insert(format!("process {}", argv.join(" ")));
            }
        }
        for entry in std::fs::read_dir("/dev/mapper").into_iter().flatten().flatten() {
            lines.insert(format!("device {}", entry.path().display()));
        }
        Ok(Residue(lines))
    }

    /// Fails, with the difference, unless the host looks as in this picture within the limit.
    pub fn assert_unchanged_after(&self, containerd: &Containerd, limit: Duration) -> Outcome {
        eventually(limit, || {
            let now = Residue::of(containerd)?;
            let more: Vec<&str> = now.0.difference(&self.0).map(String::as_str).collect();
            ensure!(more.is_empty(), "left behind:\n  {}", more.join("\n  "));
            Ok(())
        })
    }
}

/// Fails if anything that carries the container's name is still there after the limit.
pub fn assert_none_of(containerd: &Containerd, id: &str, limit: Duration) -> Outcome {
    eventually(limit, || {
        let mut left = Vec::new();
        for line in std::fs::read_to_string(containerd.host.path("/proc/1/mountinfo"))?.lines() {
            if mount_point(line).split('/').any(|part| part == id) {
                left.push(format!("mount {}", mount_point(line)));
            }
        }
        for group in cgroups_of(&containerd.namespace) {
            if group.components().any(|part| part.as_os_str() == id) {
                left.push(format!("cgroup {}", group.display()));
            }
        }
        for bundle in containerd.bundles(id) {
            left.push(format!("bundle {}", bundle.display()));
        }
        for (pid, argv) in containerd.host.processes()? {
            if argv[0].contains("containerd-shim") && argv.iter().any(|word| word == id) {
                left.push(format!("process {pid} {}", argv.join(" ")));
            }
        }
        ensure!(left.is_empty(), "{id} left behind:\n  {}", left.join("\n  "));
        Ok(())
    })
}

/// The descriptors a process holds, by what they lead to.
pub fn descriptors(containerd: &Containerd, pid: u32) -> Outcome<Vec<String>> {
    let mut found = Vec::new();
    for entry in containerd.host.path(format!("/proc/{pid}/fd")).read_dir()? {
        if let Ok(target) = entry?.path().read_link() {
            found.push(target.display().to_string());
        }
    }
    Ok(found)
}

/// Every group below the containerd namespace on every hierarchy, deepest first, then the namespace's own.
pub fn cgroups_of(namespace: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for hierarchy in hierarchies() {
        deepest_first(&hierarchy.join(namespace), &mut found);
    }
    found
}

/// Where control group file systems are mounted: mountinfo knows; a directory of the name proves nothing.
pub fn hierarchies() -> Vec<PathBuf> {
    let mountinfo = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let cgroup = |line: &&str| line.contains(" - cgroup ") || line.contains(" - cgroup2 ");
    mountinfo.lines().filter(cgroup).map(|line| PathBuf::from(mount_point(line))).collect()
}

fn mount_point(line: &str) -> &str {
    line.split(' ').nth(4).unwrap_or_default()
}

fn deepest_first(group: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = group.read_dir() else { return };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            deepest_first(&entry.path(), found);
        }
    }
    found.push(group.to_path_buf());
}

fn walk(root: &Path, directory: &Path, lines: &mut BTreeSet<String>) {
    let Ok(entries) = directory.read_dir() else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        let shown = path.strip_prefix(root).unwrap_or(&path).display().to_string();
        // The fifos belong to the client, which may have been killed or have detached; old ctrs leave them. A dockerd that is
        // killed leaves its network socket, nerdctl keeps a directory per namespace. A directory that only groups others (per
        // namespace) stays, with any runtime.
        let others = ["containerd/fifo", "containerd/runc", "tripwire", "docker/libnetwork", "nerdctl"];
        // What containerd's plugins keep for themselves differs by its version; the one directory of tasks is a shim's too.
        let of_plugins = shown.starts_with("containerd/io.containerd.") && !shown.contains(".runtime.v2.task");
        let kept = of_plugins || others.iter().any(|skip| shown.starts_with(skip));
        let grouping = ["containerd/s", "containerd/io.containerd.runtime.v2.task"].contains(&shown.as_str())
            || path.parent().is_some_and(|parent| parent.ends_with("io.containerd.runtime.v2.task"));
        if kept {
            continue;
        }
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if !grouping {
            lines.insert(format!("file /run/{shown}"));
        }
        if is_dir {
            walk(root, &path, lines);
        }
    }
}
