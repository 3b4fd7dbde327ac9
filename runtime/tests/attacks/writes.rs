//! Files that the runtime reads and writes for a container: procfs, sysfs, passwd, cgroups, hooks, its own state.

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::time::Duration;

use serde_json::json;

use crate::bed::Bed;
use crate::{CRUN_OLD, Line, RUNC_OLD, Safe, Verdict, Vulnerable};

pub fn lines() -> Vec<Line> {
    vec![
        Line("cve_2025_52881_false_proc_for_sysctls", false_proc_for_sysctls, &[RUNC_OLD], &[]),
        Line("cve_2019_16884_false_proc", false_proc, &[CRUN_OLD], &[]),
        Line("cve_2022_0811_sysctl_names", sysctl_names, &[], &[]),
        Line("cve_2025_23266_hook_environment", hook_environment, &[RUNC_OLD], &[]),
        Line("cve_2023_25809_cgroup_writable", |b| cgroup_writable(b, false), &[], &[]),
        Line("cve_2023_25809_cgroup_writable_in_a_user_namespace", |b| cgroup_writable(b, true), &[], &[]),
        Line("cve_2026_47262_passwd_is_a_fifo", passwd_is_a_fifo, &[RUNC_OLD, CRUN_OLD, crate::RUNC_NEW], &[]),
        Line("cve_2026_47262_passwd_is_huge", passwd_is_huge, &[], &[CRUN_OLD]),
        Line("cve_2026_47262_passwd_is_a_device", passwd_is_a_device, &[], &[]),
        Line("cve_2024_25621_modes_of_state", modes_of_state, &[], crate::OTHERS),
    ]
}

/// The image has a /proc of ordinary files and none is mounted: what is meant for the kernel must not go there.
fn false_proc_for_sysctls(bed: &mut Bed<'_>) -> Verdict {
    bed.no_mount("/proc");
    bed.spec["linux"]["maskedPaths"] = json!([]);
    bed.spec["linux"]["readonlyPaths"] = json!([]);
    bed.spec["linux"]["sysctl"] = json!({"net.ipv4.ip_unprivileged_port_start": "77"});
    bed.spec["process"]["oomScoreAdj"] = json!(77);
    let proc = bed.rootfs().join("proc");
    for dir in ["sys/net/ipv4", "self/attr", "thread-self/attr"] {
        fs::create_dir_all(proc.join(dir)).unwrap();
    }
    for file in ["sys/net/ipv4/ip_unprivileged_port_start", "self/oom_score_adj", "self/attr/exec"] {
        symlink("/etc/marker", proc.join(file)).unwrap();
    }
    let ended = bed.run();
    let marker = fs::read_to_string(bed.rootfs().join("etc/marker")).unwrap();
    Verdict::of(marker != "marker", (marker, ended))
}

/// A volume takes the place of /proc.
fn false_proc(bed: &mut Bed<'_>) -> Verdict {
    let volume = bed.path("volume");
    fs::create_dir_all(volume.join("self/attr")).unwrap();
    bed.mount("/proc", "bind", volume.to_str().unwrap(), &["rbind"]);
    bed.script("echo ran");
    let covered = bed.run();
    bed.no_mount("/proc");
    bed.mount("/proc", "tmpfs", "tmpfs", &[]);
    let instead = bed.run();
    Verdict::of(covered.out.contains("ran") || instead.out.contains("ran"), (covered, instead))
}

/// Names that belong to the host, plainly or in disguise. Each would be written the value that it has.
fn sysctl_names(bed: &mut Bed<'_>) -> Verdict {
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    for name in [
        "kernel.core_pattern",
        "kernel/core_pattern",
        "net/../kernel/core_pattern",
        "net.ipv4/../../kernel/core_pattern",
        "net.ipv4.x/../../../kernel/core_pattern",
        "kernel.shm_rmid_forced=1+kernel.core_pattern",
        "fs.mqueue/../../kernel/core_pattern",
        "/kernel/core_pattern",
    ] {
        bed.spec["linux"]["sysctl"] = json!({name: pattern.trim_end()});
        let ended = bed.run();
        if ended.code == Some(0) {
            return Vulnerable(format!("{name}: {ended:?}"));
        }
    }
    Safe("all refused".into())
}

/// A hook runs a program of the host: the container's environment must not say what that loads.
fn hook_environment(bed: &mut Bed<'_>) -> Verdict {
    bed.spec["process"]["env"] = json!(["PATH=/bin", "HOME=/", "LD_PRELOAD=./evil.so"]);
    let out = bed.path("hook-environment");
    // The descriptor of the shell's own reading of its first environment, before it changes it.
    let line = format!("cat /proc/self/environ >>{}", out.display());
    let hook = json!([{"path": "/bin/sh", "args": ["sh", "-c", line]}]);
    bed.spec["hooks"] =
        json!({"createRuntime": hook, "createContainer": hook, "prestart": hook, "poststart": hook, "poststop": hook});
    let ended = bed.run();
    let seen = fs::read_to_string(out).unwrap_or_default();
    Verdict::of(ended.code != Some(0) || seen.contains("LD_PRELOAD"), (seen, ended))
}

fn cgroup_writable(bed: &mut Bed<'_>, users: bool) -> Verdict {
    bed.mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]);
    if users {
        bed.user_namespace();
    }
    bed.script(
        "for d in /sys/fs/cgroup/*; do mkdir $d/mine 2>/dev/null && echo made $d; \
         [ -e $d/cgroup.procs ] && (echo 0 >$d/cgroup.procs) 2>/dev/null && echo wrote $d; done; echo done",
    );
    let ended = bed.run();
    Verdict::of(!ended.out.starts_with("done"), ended)
}

/// Without HOME the runtime looks it up in the image's passwd.
fn without_home(bed: &mut Bed<'_>) -> Verdict {
    bed.spec["process"]["env"] = json!(["PATH=/bin"]);
    bed.script("echo ran");
    // Half of the memory that a container's group usually has is plenty for reading a passwd.
    let ended = bed.run();
    Verdict::of(ended.code.is_none() || ended.took > Duration::from_secs(15), ended)
}

fn passwd_is_a_fifo(bed: &mut Bed<'_>) -> Verdict {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    let passwd = bed.rootfs().join("etc/passwd");
    fs::remove_file(&passwd).unwrap();
    mknodat(CWD, &passwd, FileType::Fifo, Mode::from_raw_mode(0o666), 0).unwrap();
    assert!(fs::symlink_metadata(&passwd).unwrap().file_type().is_fifo());
    let verdict = without_home(bed);
    // Whoever still waits there shall go on and end; nobody waits where the attack has failed.
    let _ = rustix::fs::open(&passwd, rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::NONBLOCK, Mode::empty());
    verdict
}

fn passwd_is_huge(bed: &mut Bed<'_>) -> Verdict {
    let passwd = fs::File::create(bed.rootfs().join("etc/passwd")).unwrap();
    passwd.set_len(100 << 30).unwrap();
    without_home(bed)
}

fn passwd_is_a_device(bed: &mut Bed<'_>) -> Verdict {
    use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
    let passwd = bed.rootfs().join("etc/passwd");
    fs::remove_file(&passwd).unwrap();
    mknodat(CWD, &passwd, FileType::CharacterDevice, Mode::from_raw_mode(0o666), makedev(1, 5)).unwrap();
    without_home(bed)
}

/// What is written down about a container is for its owner only, whatever the umask is.
fn modes_of_state(bed: &mut Bed<'_>) -> Verdict {
    let id = bed.id();
    bed.spec["process"]["args"] = json!(["sleep", "60"]);
    bed.save();
    let mut command = bed.command(&["create", "--bundle"]);
    command.arg(bed.path("bundle")).arg(&id);
    // SAFETY: umask(2) cannot fail and touches nothing but the child itself.
    unsafe {
        std::os::unix::process::CommandExt::pre_exec(&mut command, || {
            libc::umask(0);
            Ok(())
        });
    }
    let ended = bed.wait(command, Duration::from_secs(10));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let mut loose = Vec::new();
    let state = bed.path("state");
    for dir in [state.clone(), state.join(&id)] {
        let of = |path: &std::path::Path| fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777;
        if of(&dir) & 0o066 != 0 {
            loose.push((dir.clone(), of(&dir)));
        }
        let files = fs::read_dir(&dir).unwrap().map(|e| e.unwrap().path()).filter(|p| !p.is_dir());
        loose.extend(files.filter(|p| of(p) & 0o077 != 0).map(|p| (p.clone(), of(&p))));
    }
    bed.wait(bed.command(&["delete", "--force", &id]), Duration::from_secs(10));
    Verdict::of(!loose.is_empty(), loose)
}
