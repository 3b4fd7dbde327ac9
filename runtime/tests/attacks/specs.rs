//! Specs and ids from somebody who is allowed to write them, but not to take the host down. Images write part of a spec:
//! the environment, the working directory, the command, the user.

use std::time::Duration;

use serde_json::{Value, json};

use crate::bed::{Bed, Ended};
use crate::{Line, OTHERS, Safe, Verdict, Vulnerable};

pub fn lines() -> Vec<Line> {
    vec![
        Line("ids_that_are_paths", ids_that_are_paths, &[crate::CRUN_OLD], &[]),
        Line("path_of_very_many_entries", path_of_very_many_entries, &[], OTHERS),
        Line("very_deep_directories", very_deep_directories, &[], OTHERS),
        Line("very_large_environment", very_large_environment, &[], OTHERS),
        Line("very_many_masks", very_many_masks, &[], OTHERS),
        Line("masks_after_very_many_mounts", masks_after_very_many_mounts, &[], OTHERS),
        Line("annotations_of_all_kinds", annotations, &[], OTHERS),
        Line("paths_with_odd_bytes", odd_bytes, &[], OTHERS),
        Line("cgroup_paths_that_lead_out", cgroup_paths, &[], OTHERS),
    ]
}

/// Refused with a sentence, or carried out: not a crash, not a hang.
fn sane(ended: &Ended) -> bool {
    let panicked = ended.err.contains("panicked") || ended.code == Some(128);
    ended.code.is_some() && !panicked && ended.took < Duration::from_secs(30)
}

fn judge(bed: &mut Bed<'_>) -> Verdict {
    let ended = bed.run();
    let said: String = ended.err.chars().take(300).collect();
    let evidence = format!("{:?} {:?} {said}", ended.code, ended.took);
    if sane(&ended) { Safe(evidence) } else { Vulnerable(evidence) }
}

fn ids_that_are_paths(bed: &mut Bed<'_>) -> Verdict {
    bed.id();
    bed.save();
    let before = bed.canary();
    let long = "x".repeat(1000);
    for id in ["..", ".", "../host", "../../x", "a/b", "/x", "a\nb", "a b", "", "-x", &long, "é"] {
        let mut command = bed.command(&["run", "--bundle"]);
        command.arg(bed.path("bundle")).arg("--").arg(id);
        let ended = bed.wait(command, Duration::from_secs(10));
        if ended.code == Some(0) && id != "-x" || bed.canary() != before {
            return Vulnerable(format!("{id:?}: {ended:?}"));
        }
    }
    Safe("all refused".into())
}

/// ENV PATH of an image: each entry is a step of the plan.
fn path_of_very_many_entries(bed: &mut Bed<'_>) -> Verdict {
    bed.spec["process"]["env"] = json!([format!("PATH={}/bin", "a:".repeat(65_300)), "HOME=/"]);
    bed.spec["process"]["args"] = json!(["true"]);
    judge(bed)
}

/// WORKDIR of an image.
fn very_deep_directories(bed: &mut Bed<'_>) -> Verdict {
    bed.spec["process"]["cwd"] = json!("/a".repeat(60_000));
    judge(bed)
}

/// ENV of an image.
fn very_large_environment(bed: &mut Bed<'_>) -> Verdict {
    let env: Vec<String> = (0..60_000).map(|n| format!("VARIABLE{n}=")).chain(["PATH=/bin".into()]).collect();
    bed.spec["process"]["env"] = json!(env);
    judge(bed)
}

/// More steps than a plan can number.
fn very_many_masks(bed: &mut Bed<'_>) -> Verdict {
    bed.spec["linux"]["maskedPaths"] = json!((0..20_000).map(|n| format!("/missing{n}")).collect::<Vec<_>>());
    judge(bed)
}

/// A pod may have as many volumes as it likes: that must not wear out what covers masked files.
fn masks_after_very_many_mounts(bed: &mut Bed<'_>) -> Verdict {
    for n in 0..110 {
        bed.mount(&format!("/tmp/a/volume{n}"), "tmpfs", "tmpfs", &["size=4k"]);
    }
    let names: Vec<String> = (0..6).map(|n| format!("/etc/masked{n}")).collect();
    for name in &names {
        std::fs::write(bed.rootfs().join(&name[1..]), "secret").unwrap();
    }
    bed.spec["linux"]["maskedPaths"] = json!(names);
    bed.script("cat /etc/masked*; echo ran");
    let ended = bed.run();
    Verdict::of(ended.out != "ran\n", ended)
}

/// They reach hooks as JSON, and nothing else.
fn annotations(bed: &mut Bed<'_>) -> Verdict {
    let out = bed.path("state-of-hook");
    let long = "v".repeat(1 << 20);
    let given = json!({"quote\"": "\",\"pid\":1,\"x\":\"", "line\nbreak": "a\nb", "nul": "a\u{0}b", "long": long});
    bed.spec["annotations"] = given.clone();
    let line = format!("cat >{}", out.display());
    bed.spec["hooks"] =
        json!({"createContainer": [{"path": "/bin/sh", "args": ["sh", "-c", line], "env": ["PATH=/bin"]}]});
    let ended = bed.run();
    let state: Value = serde_json::from_slice(&std::fs::read(out).unwrap_or_default()).unwrap_or_default();
    Verdict::of(!sane(&ended) || state["annotations"] != given, (ended.code, ended.err))
}

/// NUL would cut a path short; line breaks and `..` are letters like others.
fn odd_bytes(bed: &mut Bed<'_>) -> Verdict {
    let clean = bed.spec.clone();
    let before = bed.canary();
    let pointers = [
        "/process/cwd",
        "/process/args/0",
        "/process/env/0",
        "/hostname",
        "/root/path",
        "/mounts/0/destination",
        "/mounts/0/source",
        "/mounts/0/options/0",
        "/mounts/0/type",
        "/linux/maskedPaths/0",
        "/linux/readonlyPaths/0",
        "/linux/cgroupsPath",
        "/linux/namespaces/0/path",
    ];
    for pointer in pointers {
        for odd in ["a\u{0}b", "/x\u{0}y", "/../../..\n/x", &"/é".repeat(3000)] {
            bed.spec = clean.clone();
            bed.spec["hostname"] = json!("h");
            bed.spec["linux"]["namespaces"][0]["path"] = json!("");
            bed.id();
            *bed.spec.pointer_mut(pointer).unwrap() = json!(odd);
            bed.save();
            let mut command = bed.command(&["run", "--bundle"]);
            command.arg(bed.path("bundle")).arg("odd");
            let ended = bed.wait(command, Duration::from_secs(10));
            bed.wait(bed.command(&["delete", "--force", "odd"]), Duration::from_secs(10));
            let cut = odd.contains('\0') && ended.code == Some(0);
            if cut || !sane(&ended) || bed.canary() != before {
                return Vulnerable(format!("{pointer} {odd:?}: {ended:?}"));
            }
        }
    }
    Safe("refused or inside".into())
}

/// `..` must not lead out of the control group file system or into its root.
fn cgroup_paths(bed: &mut Bed<'_>) -> Verdict {
    let group = crate::bed::group();
    let paths =
        ["/", "/..", "..", &format!("{group}/../.."), &format!("/../../../{group}/up"), &format!("{group}/a/../up2")];
    let tmp = bed.path("bundle");
    for path in paths {
        bed.spec["linux"]["cgroupsPath"] = json!(path);
        bed.save();
        bed.spec["process"]["args"] = json!(["cat", "/proc/self/cgroup"]);
        let mut command = bed.command(&["run", "--bundle"]);
        command.arg(&tmp).arg("up");
        let ended = bed.wait(command, Duration::from_secs(10));
        bed.wait(bed.command(&["delete", "--force", "up"]), Duration::from_secs(10));
        let below = ended.out.lines().filter(|l| !l.is_empty()).all(|l| l.contains(&group));
        if !sane(&ended) || (ended.code == Some(0) && !below) {
            return Vulnerable(format!("{path:?}: {ended:?}"));
        }
    }
    Safe("refused or below".into())
}
