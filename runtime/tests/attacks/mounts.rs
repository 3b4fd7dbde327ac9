//! Mounts of the host's in the hands of a user namespace's root.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::bed::Bed;
use crate::{CRUN_OLD, Line, Verdict};

pub fn lines() -> Vec<Line> {
    vec![
        Line("user_namespace_uncovers_a_mount", uncovers, &[CRUN_OLD], &[]),
        Line("user_namespace_is_shown_what_is_covered", is_shown, &[CRUN_OLD], &[]),
        Line("user_namespace_writes_to_a_read_only_mount", writes_to_read_only, &[CRUN_OLD], &[]),
    ]
}

/// A directory of the host's in a container that is root in a user namespace of its own, with CAP_SYS_ADMIN there: `volume`, a
/// mount with these options, in which a directory with a secret is covered.
fn with_mounts_of_the_host(bed: &mut Bed<'_>, options: &[&str], script: &str) -> (bool, String) {
    bed.user_namespace();
    for set in ["bounding", "effective", "permitted"] {
        bed.spec["process"]["capabilities"][set].as_array_mut().unwrap().push(serde_json::json!("CAP_SYS_ADMIN"));
    }
    let volume = bed.path("volume");
    let covered = volume.join("covered");
    fs::create_dir_all(&covered).unwrap();
    fs::write(covered.join("secret"), "of the host").unwrap();
    fs::write(volume.join("file"), "before").unwrap();
    fs::set_permissions(volume.join("file"), fs::Permissions::from_mode(0o666)).unwrap();
    let _covered = Mounted::new(&["-t", "tmpfs", "tmpfs"], &covered);
    let _volume = Mounted::new(&["--rbind"], &volume);
    run("mount", &["-o", "remount,bind,ro,nosuid,nodev,noexec"], &volume);
    bed.mount("/data", "bind", volume.to_str().unwrap(), options);
    bed.script(script);
    let ended = bed.run();
    let written = fs::read_to_string(volume.join("file")).unwrap() != "before";
    (written || ended.out.contains("of the host"), format!("{ended:?}"))
}

fn run(program: &str, args: &[&str], place: &Path) {
    let done = Command::new(program).args(args).arg(place).status().unwrap();
    assert!(done.success(), "{program} {args:?} {place:?}");
}

struct Mounted(PathBuf);

impl Mounted {
    /// What is given, or the place itself.
    fn new(args: &[&str], place: &Path) -> Self {
        let own = place.to_str().unwrap();
        let args: Vec<&str> = args.iter().copied().chain((args.len() == 1).then_some(own)).collect();
        run("mount", &args, place);
        Self(place.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        run("umount", &["--recursive", "--lazy"], &self.0);
    }
}

fn uncovers(bed: &mut Bed<'_>) -> Verdict {
    let (reached, seen) = with_mounts_of_the_host(bed, &["rbind"], "umount /data/covered; cat /data/covered/secret");
    Verdict::of(reached, seen)
}

/// Without what lies on it: that would be an escape without an attack.
fn is_shown(bed: &mut Bed<'_>) -> Verdict {
    let (reached, seen) = with_mounts_of_the_host(bed, &["bind"], "cat /data/covered/secret");
    Verdict::of(reached, seen)
}

fn writes_to_read_only(bed: &mut Bed<'_>) -> Verdict {
    let script = "mount -o remount,bind,rw /data; echo after >/data/file";
    let (reached, seen) = with_mounts_of_the_host(bed, &["rbind"], script);
    Verdict::of(reached, seen)
}
