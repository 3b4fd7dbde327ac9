//! A co-tenant who writes to the same volume or rootfs while containers start. Each race has a time limit, and is lost for
//! the runtime as soon as it is lost once.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::bed::{Bed, Ended, Racer};
use crate::{Line, Safe, Verdict, Vulnerable};

const LIMIT: Duration = Duration::from_secs(5);

pub fn lines() -> Vec<Line> {
    vec![
        Line("cve_2021_30465_mount_targets_exchanged", mount_targets_exchanged, &[], &[]),
        Line("cve_2024_45310_parent_exchanged", parent_exchanged, &[crate::RUNC_OLD], &[]),
        Line("cve_2019_19921_proc_becomes_a_link", proc_becomes_a_link, &[], crate::OTHERS),
        Line("masks_land_on_a_false_proc", masks_land_on_a_false_proc, &[], crate::OTHERS),
        Line("cve_2025_52565_dev_exchanged", dev_exchanged, &[crate::RUNC_OLD, crate::CRUN_OLD], &[]),
    ]
}

/// Runs until `lost` says what was lost, or the time is over; counts the containers that ran.
fn repeat(bed: &mut Bed<'_>, lost: impl Fn(&Bed<'_>, &Ended) -> Option<String>) -> Verdict {
    let (began, mut starts, mut ran) = (Instant::now(), 0, 0);
    while began.elapsed() < LIMIT {
        let ended = bed.run();
        starts += 1;
        ran += u32::from(ended.code == Some(0));
        if let Some(evidence) = lost(bed, &ended) {
            return Vulnerable(format!("start {starts}: {evidence}"));
        }
    }
    Safe(format!("{starts} starts, {ran} succeeded"))
}

fn volume(bed: &mut Bed<'_>) -> PathBuf {
    let volume = bed.path("volume");
    fs::create_dir(&volume).unwrap();
    bed.mount("/vol", "bind", volume.to_str().unwrap(), &["rbind", "rw"]);
    volume
}

/// Mount points in a volume are exchanged for links to the host: every mount must end up inside the container.
fn mount_targets_exchanged(bed: &mut Bed<'_>) -> Verdict {
    let volume = volume(bed);
    let mut pairs = Vec::new();
    for n in 0..12 {
        fs::create_dir(volume.join(format!("place{n}"))).unwrap();
        symlink(bed.host(), volume.join(format!("link{n}"))).unwrap();
        pairs.push((volume.join(format!("place{n}")), volume.join(format!("link{n}"))));
        bed.mount(&format!("/vol/place{n}"), "tmpfs", &format!("mark{n}."), &["size=4k"]);
    }
    bed.script("grep -c ' mark[0-9]*[.] ' /proc/self/mountinfo");
    let before = bed.canary();
    let _racer = Racer::exchange(pairs);
    repeat(bed, |bed, ended| {
        if bed.canary() != before {
            return Some(format!("{:?}", bed.canary()));
        }
        (ended.code == Some(0) && ended.out.trim() != "12").then(|| format!("a mount is missing: {ended:?}"))
    })
}

/// The parent of a mount point that has to be made is exchanged for a link to the host.
fn parent_exchanged(bed: &mut Bed<'_>) -> Verdict {
    let volume = volume(bed);
    let mut pairs = Vec::new();
    for n in 0..8 {
        fs::create_dir(volume.join(format!("parent{n}"))).unwrap();
        symlink(bed.host(), volume.join(format!("link{n}"))).unwrap();
        pairs.push((volume.join(format!("parent{n}")), volume.join(format!("link{n}"))));
        bed.mount(&format!("/vol/parent{n}/a/b"), "tmpfs", "tmpfs", &["size=4k"]);
    }
    let before = bed.canary();
    let fresh = (0..8).map(|n| volume.join(format!("parent{n}/a"))).collect::<Vec<_>>();
    let _racer = Racer::exchange(pairs);
    repeat(bed, |bed, _| {
        let now = bed.canary();
        for made in &fresh {
            // Every start shall have to make them anew; what is behind the link at this moment waits for its turn.
            let _ = fs::remove_dir_all(made);
        }
        (now != before).then(|| format!("{now:?}"))
    })
}

/// The rootfs has no /proc; while it is being made a link appears there.
fn proc_becomes_a_link(bed: &mut Bed<'_>) -> Verdict {
    let root = bed.rootfs();
    fs::remove_dir(root.join("proc")).unwrap();
    fs::create_dir(root.join("elsewhere")).unwrap();
    bed.script("grep -c ' /proc proc ' /proc/mounts");
    let proc = root.join("proc");
    let link = proc.clone();
    let _racer = Racer::new(move || {
        let _ = symlink("elsewhere", &link);
        let _ = fs::remove_file(&link);
        let _ = fs::remove_dir(&link);
    });
    repeat(bed, |_, ended| (ended.code == Some(1) && ended.out.trim() == "0").then(|| format!("{ended:?}")))
}

/// Another container with the same rootfs may rename our mount points: the masks must still fall on our procfs.
fn masks_land_on_a_false_proc(bed: &mut Bed<'_>) -> Verdict {
    let root = bed.rootfs();
    fs::create_dir(root.join("false")).unwrap();
    let masked: Vec<String> = (0..40).map(|_| "/proc/timer_list".to_owned()).chain(["/proc/kcore".into()]).collect();
    bed.spec["linux"]["maskedPaths"] = serde_json::json!(masked);
    for name in ["kcore", "timer_list"] {
        fs::write(root.join("false").join(name), "").unwrap();
    }
    // Wherever the procfs is now, it must be masked.
    bed.script("for p in /proc /false; do cd $p; [ -f kcore ] && grep -q Linux version 2>/dev/null && echo unmasked; done; true");
    let _racer = Racer::exchange(vec![(root.join("proc"), root.join("false"))]);
    repeat(bed, |_, ended| ended.out.contains("unmasked").then(|| format!("{ended:?}")))
}

/// /dev of the rootfs and a link to the host change places while nodes are being made.
fn dev_exchanged(bed: &mut Bed<'_>) -> Verdict {
    bed.no_dev_mounts();
    let root = bed.rootfs();
    symlink(bed.host(), root.join("other")).unwrap();
    let before = bed.canary();
    let _racer = Racer::exchange(vec![(root.join("dev"), root.join("other"))]);
    repeat(bed, |bed, _| (bed.canary() != before).then(|| format!("{:?}", bed.canary())))
}
