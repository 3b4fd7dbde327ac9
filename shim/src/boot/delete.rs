//! `delete`: what containerd runs after every container, and after a shim that died.
//!
//! Mostly there is nothing left to do. After a crash this is the only one who still knows of the processes, the cgroup and the
//! mounts: it works from what the shim wrote down, may be called again, and lets one failure not keep it from the rest.

#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use containerd_shim_protos::api::DeleteResponse;
use protobuf::well_known_types::timestamp::Timestamp;
use protobuf::{Message, MessageField};
use runtime::{Error, Kind, Record, Result};

use super::flags::Flags;
use super::group;
use super::socket::{Address, DEFAULT_DIR};
use crate::{pod, rootfs};

/// 128 + SIGKILL.
const KILLED: u32 = 137;

/// Cleans up after the container `-id`, whose bundle lies beside the current directory, and tells how it ended.
pub fn delete(flags: &Flags) -> Result<()> {
    flags.need_container()?;
    let bundle = bundle(flags)?;
    let mut left = Vec::new();
    // Read before anything is taken away.
    let sockets = sockets(flags, &bundle);
    let pid = clean(&bundle, &mut left);
    let mut served = false;
    for socket in sockets {
        served |= socket.remove_if_abandoned().unwrap_or_else(|e| {
            left.push(e);
            // Better leftovers than the end of a living pod.
            true
        });
    }
    if !served {
        // The shim of a pod is dead, and containerd calls us for the pod's first container only.
        let members = members(&bundle, &flags.id);
        let noted = pod::noted(&bundle);
        // All before the first of them is waited for: containerd ends us after five seconds.
        let records = members.iter().filter_map(|member| Record::load(member).ok());
        records.for_each(|record| record.kill());
        noted.iter().flatten().for_each(Record::kill);
        for member in &members {
            clean(member, &mut left);
        }
        // And those whose bundles containerd has removed meanwhile.
        for noted in noted {
            match noted {
                Ok(record) if members.contains(&record.bundle) => {}
                Ok(record) => left.extend(record.destroy().err()),
                Err(e) => left.push(e),
            }
        }
    }
    for error in left {
        // Becomes a warning in containerd's log.
        eprintln!("{error}");
    }
    let response = DeleteResponse {
        pid,
        exit_status: KILLED,
        exited_at: MessageField::some(Timestamp::now()),
        ..DeleteResponse::default()
    };
    let bytes = response.write_to_bytes();
    super::print(&bytes.map_err(|e| Error::new(Kind::Invalid, "encode", "DeleteResponse", e.to_string()))?)
}

/// The current directory is a bundle of the same namespace; of our id or, from old containerds, of another.
fn bundle(flags: &Flags) -> Result<PathBuf> {
    match std::env::current_dir() {
        Ok(here) => Ok(here.parent().unwrap_or(Path::new("/")).join(&flags.id)),
        Err(_) if !flags.bundle.is_empty() => Ok(PathBuf::from(&flags.bundle)),
        Err(e) => Err(Error::io("getcwd", "", &e)),
    }
}

/// Ends what is left of one container. Answers the pid of its init, or 0 if it never had one.
fn clean(bundle: &Path, left: &mut Vec<Error>) -> u32 {
    let mut keep = |result: Result<()>| result.map_err(|e| left.push(e)).is_ok();
    let mut pid = 0;
    match Record::load(bundle) {
        Ok(record) => {
            pid = record.pid;
            if keep(record.destroy()) {
                let path = bundle.join(Record::FILE);
                keep(std::fs::remove_file(&path).map_err(|e| Error::io("unlink", path.display().to_string(), &e)));
            }
        }
        Err(e) if e.kind == Kind::NotFound => {}
        Err(e) => drop(keep(Err(e))),
    }
    keep(rootfs::unmount(&bundle.join("rootfs")));
    keep(rootfs::unmount_layers(&bundle.join("rootfs")));
    if pid == 0 {
        // The shim removes its record with the container but leaves this file: docker matches the exit by the pid.
        let text = std::fs::read_to_string(bundle.join("init.pid")).unwrap_or_default();
        pid = text.trim().parse().unwrap_or(0);
    }
    pid
}

/// Every name that the container's shim may have listened on.
fn sockets(flags: &Flags, bundle: &Path) -> Vec<Address> {
    let mut found = Vec::new();
    found.extend(std::fs::read_to_string(bundle.join("address")).ok().and_then(|text| Address::recorded(&text)));
    let chosen = std::fs::read_link(bundle.join("s")).ok();
    let dir = chosen.as_deref().and_then(Path::to_str).unwrap_or(DEFAULT_DIR);
    let group = group::of_bundle(bundle).ok().flatten().unwrap_or_else(|| flags.id.clone());
    for debug in [false, true] {
        found.push(Address::new(dir, &flags.address, &flags.namespace, &group, debug));
    }
    found.dedup();
    found
}

/// The bundles of containers that containerd put into the sandbox `id` (2.x writes the id into their file `sandbox`).
fn members(bundle: &Path, id: &str) -> Vec<PathBuf> {
    let siblings = bundle.parent().and_then(|dir| std::fs::read_dir(dir).ok());
    let paths = siblings.into_iter().flatten().flatten().map(|entry| entry.path());
    paths
        .filter(|path| {
            path != bundle && std::fs::read_to_string(path.join("sandbox")).is_ok_and(|text| text.trim() == id)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_found_by_their_sandbox() {
        let dir = tempfile::tempdir().unwrap();
        for (name, sandbox) in [("pod", Some("pod")), ("a", Some("pod\n")), ("b", Some("other")), ("c", None)] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
            if let Some(text) = sandbox {
                std::fs::write(dir.path().join(name).join("sandbox"), text).unwrap();
            }
        }
        assert_eq!(members(&dir.path().join("pod"), "pod"), [dir.path().join("a")]);
        assert_eq!(members(&dir.path().join("gone"), "nobody"), [] as [PathBuf; 0]);
    }

    #[test]
    fn a_container_without_traces_is_clean() {
        let dir = tempfile::tempdir().unwrap();
        let mut left = Vec::new();
        assert_eq!(clean(&dir.path().join("absent"), &mut left), 0);
        std::fs::write(dir.path().join("init.pid"), "4711").unwrap();
        assert_eq!(clean(dir.path(), &mut left), 4711);
        assert!(left.is_empty(), "{left:?}");
        std::fs::write(dir.path().join(Record::FILE), "{").unwrap();
        assert_eq!(clean(dir.path(), &mut left), 4711);
        assert_eq!(left.len(), 1);
    }
}
