//! What the bundle of a pod's first container knows of the other members.
//!
//! When a shim dies, containerd 2.x runs `delete` for the pod's first container only. By then it may have removed the members'
//! bundles, and our records with them: CRI deletes their tasks as soon as the connection breaks. So a second copy of each
//! record lies in the bundle that `delete` is run in.
#![forbid(unsafe_code)]

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use runtime::{Error, Kind, Record, Result};

const DIRECTORY: &str = "members";

/// Where the copy for the container of this bundle lies; `None` unless containerd put it into a sandbox of another id (2.x
/// writes that into the file `sandbox`).
fn place(bundle: &Path, id: &str) -> Option<PathBuf> {
    let sandbox = fs::read_to_string(bundle.join("sandbox")).ok()?;
    let sandbox = sandbox.trim();
    runtime::spec::check::id(sandbox).ok()?;
    (sandbox != id).then(|| bundle.with_file_name(sandbox).join(DIRECTORY).join(id))
}

/// Writes the copy. Nothing is done where the pod's first container has gone: nobody runs `delete` for it again.
pub fn note(bundle: &Path, record: &Record) -> Result<()> {
    let Some(place) = place(bundle, &record.id) else { return Ok(()) };
    for directory in place.parent().into_iter().chain([place.as_path()]) {
        match fs::create_dir(directory) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
            Err(e) if e.kind() != ErrorKind::AlreadyExists => {
                return Err(Error::io("mkdir", directory.display().to_string(), &e));
            }
            _ => {}
        }
    }
    record.save(&place)
}

/// Removes the copy of a container that has been removed. One that stays is of a container without processes and groups,
/// for which `delete` has nothing to do.
pub fn forget(bundle: &Path, id: &str) {
    if let Some(place) = place(bundle, id) {
        let _removed = fs::remove_dir_all(place);
    }
}

/// The copies in the bundle of a pod's first container. Errors: one that cannot be read; not one that was only begun, which is
/// of a container whose create has failed.
pub fn noted(bundle: &Path) -> Vec<Result<Record>> {
    let entries = fs::read_dir(bundle.join(DIRECTORY)).into_iter().flatten().flatten();
    let records = entries.map(|entry| Record::load(&entry.path()));
    records.filter(|record| !matches!(record, Err(e) if e.kind == Kind::NotFound)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: &str) -> Record {
        let json = format!(
            r#"{{"version":1,"id":"{id}","bundle":"/b/{id}","pid":0,"start_time":0,"created":"","rootfs":"/b/{id}/rootfs","cgroup":{}}}"#,
            serde_json::to_string(&runtime::cgroup::Record::default()).unwrap()
        );
        serde_json::from_str(&json).unwrap()
    }

    #[test]
    fn a_member_is_noted_in_the_pod_and_survives_its_bundle() {
        let tasks = tempfile::tempdir().unwrap();
        let (pod, member, single) =
            (tasks.path().join("pod"), tasks.path().join("member"), tasks.path().join("single"));
        for bundle in [&pod, &member, &single] {
            fs::create_dir(bundle).unwrap();
        }
        for bundle in [&pod, &member] {
            fs::write(bundle.join("sandbox"), "pod").unwrap();
        }
        note(&pod, &record("pod")).unwrap();
        note(&single, &record("single")).unwrap();
        assert!(noted(&pod).is_empty());
        note(&member, &record("member")).unwrap();
        note(&member, &record("member")).unwrap();
        let ids: Vec<String> = noted(&pod).into_iter().map(|record| record.unwrap().id).collect();
        assert_eq!(ids, ["member"]);
        fs::write(pod.join(DIRECTORY).join("member").join(Record::FILE), "{").unwrap();
        assert!(matches!(noted(&pod)[..], [Err(_)]), "a broken one is told of");
        forget(&member, "member");
        assert!(noted(&pod).is_empty());
        fs::remove_dir_all(&pod).unwrap();
        note(&member, &record("member")).unwrap();
        assert!(!pod.exists());
    }

    #[test]
    fn a_sandbox_is_a_name() {
        let tasks = tempfile::tempdir().unwrap();
        let member = tasks.path().join("member");
        fs::create_dir(&member).unwrap();
        fs::write(member.join("sandbox"), "../elsewhere").unwrap();
        assert_eq!(place(&member, "member"), None);
    }
}
