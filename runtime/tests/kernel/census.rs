//! What this process and its containers have of the kernel at one moment: whoever leaves something behind is found out by
//! comparing two of them.

use std::collections::BTreeSet;
use std::path::Path;

use runtime::cgroup::Layout;

use super::bundle::Bundle;

/// Everything that can be left behind, each as a line.
#[derive(Debug, PartialEq, Eq)]
pub struct Census(BTreeSet<String>);

impl Census {
    /// Counts. Orphans of ours are our children, because the caller has made itself a subreaper.
    pub fn take(bundle: &Bundle) -> Self {
        let mut found = BTreeSet::new();
        found.extend(children());
        found.extend(mounts());
        for (number, target) in descriptors() {
            found.insert(format!("descriptor {number}: {target}"));
        }
        let layout = Layout::read().unwrap();
        for mount in layout.v1.iter().map(|h| &h.mount).chain(layout.unified.iter().map(|u| &u.mount)) {
            tree(&mount.join(&bundle.group[1..]), "group", &mut found);
        }
        tree(&bundle.dir, "file", &mut found);
        // The mount points that a create makes in a root file system stay there, as with every runtime.
        let made = format!("file {}/rootfs/", bundle.dir.display());
        found.retain(|line| !line.starts_with(&made));
        Self(found)
    }

    /// What is there now and was not before.
    pub fn since(&self, before: &Self) -> Vec<String> {
        self.0.difference(&before.0).cloned().collect()
    }
}

/// Some child of this process.
pub fn first_child(us: &str) -> Option<rustix::process::Pid> {
    let entries = std::fs::read_dir("/proc").ok()?.flatten();
    entries.into_iter().find_map(|entry| {
        let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        let (name, rest) = stat.rsplit_once(") ")?;
        let pid = name.split(' ').next()?.parse().ok()?;
        (rest.split(' ').nth(1) == Some(us)).then(|| rustix::process::Pid::from_raw(pid)).flatten()
    })
}

/// Our children by pid and state, zombies too.
fn children() -> Vec<String> {
    let us = std::process::id().to_string();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        let Some((name, rest)) = stat.rsplit_once(") ") else { continue };
        let mut fields = rest.split(' ');
        let state = fields.next().unwrap();
        if fields.next() == Some(us.as_str()) && entry.path() != Path::new("/proc/self") {
            let state = if state == "Z" { "zombie" } else { "process" };
            found.push(format!("{state} {name})"));
        }
    }
    found
}

fn mounts() -> Vec<String> {
    std::fs::read_to_string("/proc/self/mountinfo").unwrap().lines().map(|line| format!("mount {line}")).collect()
}

/// Open descriptors by number. That of reading the directory itself is left out.
pub fn descriptors() -> Vec<(String, String)> {
    let listed = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    let listed: Vec<_> = listed.map(|e| e.file_name().into_string().unwrap()).collect();
    let target = |n: &String| std::fs::read_link(format!("/proc/self/fd/{n}")).ok();
    listed.into_iter().filter_map(|n| target(&n).map(|t| (n, t.display().to_string()))).collect()
}

fn tree(dir: &Path, what: &str, found: &mut BTreeSet<String>) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    if what == "group" {
        found.insert(format!("{what} {}", dir.display()));
    }
    for entry in entries.flatten() {
        let kind = entry.file_type().unwrap();
        if what == "file" {
            found.insert(format!("file {}", entry.path().display()));
        }
        if kind.is_dir() {
            tree(&entry.path(), what, found);
        }
    }
}
