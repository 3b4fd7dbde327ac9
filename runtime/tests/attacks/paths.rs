//! Links planted in the image.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::os::unix::net::UnixListener;

use crate::bed::Bed;
use crate::{CRUN_OLD, Line, RUNC_OLD, Safe, Verdict, Vulnerable};

pub fn lines() -> Vec<Line> {
    vec![
        Line("cve_2026_41579_dev_is_a_link", dev_is_a_link, &[RUNC_OLD, CRUN_OLD], &[]),
        Line("cve_2019_18837_link_on_the_way_to_a_mount", link_on_the_way, &[], &[]),
        Line("cve_2025_54867_proc_is_a_link", |b| kernel_mount_is_a_link(b, "proc"), &[], &[]),
        Line("cve_2025_54867_sys_is_a_link", |b| kernel_mount_is_a_link(b, "sys"), &[], &[]),
        Line("cve_2025_31133_null_is_a_link", null_is_a_link, &[RUNC_OLD], &[]),
        Line("cve_2026_88264_console_is_a_link", console_is_a_link, &[CRUN_OLD], &[]),
        Line("cve_2026_88265_null_is_a_link_as_stdio", stdio_null_is_a_link, &[], &[]),
        Line("cve_2025_52565_pts_is_a_link", pts_is_a_link, &[], &[]),
        Line("files_the_runtime_writes_are_links", written_files_are_links, &[], &[]),
        Line("links_in_the_root_lead_on", links_in_the_root_lead_on, &[], &[]),
        Line("device_names_a_host_file", device_names_a_host_file, &[], crate::OTHERS),
    ]
}

/// No /dev among the mounts, and the image's is a link to the host's directory.
fn dev_is_a_link(bed: &mut Bed<'_>) -> Verdict {
    bed.no_dev_mounts();
    fs::remove_dir(bed.rootfs().join("dev")).unwrap();
    symlink(bed.host(), bed.rootfs().join("dev")).unwrap();
    let before = bed.canary();
    let ended = bed.run();
    Verdict::of(bed.canary() != before, ended)
}

/// `/etc/deep` leads to the host; a volume is to be mounted below it.
fn link_on_the_way(bed: &mut Bed<'_>) -> Verdict {
    symlink(bed.host(), bed.rootfs().join("etc/deep")).unwrap();
    bed.mount("/etc/deep/new/place", "tmpfs", "tmpfs", &[]);
    bed.mount("/etc/deep/file", "bind", bed.host().join("secret").to_str().unwrap(), &["bind", "ro"]);
    let before = bed.canary();
    let ended = bed.run();
    Verdict::of(bed.canary() != before, ended)
}

/// What is mounted on a link in the root directory itself covers what the link leads to: an image's own script must not run
/// in the place of the one that is bound over it.
fn links_in_the_root_lead_on(bed: &mut Bed<'_>) -> Verdict {
    let root = bed.rootfs();
    for dir in ["real", "real/dir", "real/tmp"] {
        fs::create_dir(root.join(dir)).unwrap();
    }
    for name in ["script", "dir/mark", "tmp/mark"] {
        fs::write(root.join("real").join(name), "of the image\n").unwrap();
    }
    for (link, to) in [("entry", "real/script"), ("data", "real/dir"), ("scratch", "real/tmp")] {
        symlink(to, root.join(link)).unwrap();
    }
    let volume = bed.path("volume");
    fs::create_dir(&volume).unwrap();
    fs::write(volume.join("mark"), "bound\n").unwrap();
    bed.mount("/entry", "bind", volume.join("mark").to_str().unwrap(), &["bind"]);
    bed.mount("/data", "bind", volume.to_str().unwrap(), &["rbind"]);
    bed.mount("/scratch", "tmpfs", "tmpfs", &["mode=700"]);
    bed.script("cat /real/script /real/dir/mark; ls /real/tmp | wc -l; readlink /entry");
    let ended = bed.run();
    Verdict::of(ended.out != "bound\nbound\n0\nreal/script\n", ended)
}

/// A procfs or sysfs mounted where a link leads can be looked at under another name than the one that is masked.
fn kernel_mount_is_a_link(bed: &mut Bed<'_>, name: &str) -> Verdict {
    let root = bed.rootfs();
    fs::rename(root.join(name), root.join("elsewhere")).unwrap();
    symlink("elsewhere", root.join(name)).unwrap();
    bed.script("echo ran");
    let ended = bed.run();
    Verdict::of(ended.out.contains("ran"), ended)
}

/// The caller binds a /dev of the attacker's: what covers masked files must not come from there.
fn null_is_a_link(bed: &mut Bed<'_>) -> Verdict {
    bed.no_dev_mounts();
    let dev = bed.path("dev");
    fs::create_dir(&dev).unwrap();
    symlink("/etc/marker", dev.join("null")).unwrap();
    bed.mount("/dev", "bind", dev.to_str().unwrap(), &["rbind", "rw"]);
    fs::write(bed.rootfs().join("etc/masked"), "secret").unwrap();
    bed.spec["linux"]["maskedPaths"] = serde_json::json!(["/etc/masked"]);
    bed.script("cat /etc/masked");
    let ended = bed.run();
    Verdict::of(ended.out.contains("marker") || ended.out.contains("secret"), ended)
}

/// Runs with a terminal, whose master goes to a socket.
fn run_with_terminal(bed: &mut Bed<'_>) -> crate::bed::Ended {
    bed.spec["process"]["terminal"] = true.into();
    let socket = bed.path("console.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    listener.set_nonblocking(true).unwrap();
    let id = bed.id();
    bed.save();
    let mut command = bed.command(&["create", "--console-socket", socket.to_str().unwrap(), "--bundle"]);
    command.arg(bed.path("bundle")).arg(&id);
    let limit = std::time::Duration::from_secs(10);
    let created = bed.wait(command, limit);
    let started = bed.wait(bed.command(&["start", &id]), limit);
    let deleted = bed.wait(bed.command(&["delete", "--force", &id]), limit);
    crate::bed::Ended { out: format!("{created:?} {started:?} {deleted:?}"), ..created }
}

fn console_is_a_link(bed: &mut Bed<'_>) -> Verdict {
    bed.no_dev_mounts();
    bed.mount("/dev/pts", "devpts", "devpts", &["newinstance", "ptmxmode=0666"]);
    symlink(bed.host().join("console"), bed.rootfs().join("dev/console")).unwrap();
    let before = bed.canary();
    let ended = run_with_terminal(bed);
    Verdict::of(bed.canary() != before, ended)
}

/// Standard input is the host's /dev/null; some exchange it for the container's.
fn stdio_null_is_a_link(bed: &mut Bed<'_>) -> Verdict {
    bed.no_dev_mounts();
    let dev = bed.path("dev");
    fs::create_dir(&dev).unwrap();
    symlink("/etc/marker", dev.join("null")).unwrap();
    bed.mount("/dev", "bind", dev.to_str().unwrap(), &["rbind", "rw"]);
    bed.script("cat; ls -l /proc/self/fd/0");
    let ended = bed.run();
    Verdict::of(ended.out.contains("marker"), ended)
}

/// Whatever terminal the image has ready, the console must be one that the runtime has made.
fn pts_is_a_link(bed: &mut Bed<'_>) -> Verdict {
    bed.no_dev_mounts();
    let root = bed.rootfs();
    fs::create_dir_all(root.join("real")).unwrap();
    fs::create_dir_all(root.join("dev/pts")).unwrap();
    symlink("../../real/ptmx", root.join("dev/pts/ptmx")).unwrap();
    for n in 0..4 {
        symlink("/etc/marker", root.join(format!("dev/pts/{n}"))).unwrap();
    }
    bed.mount("/real", "devpts", "devpts", &["newinstance", "ptmxmode=0666"]);
    bed.script("cat /dev/console >/got; exec sleep 1");
    run_with_terminal(bed);
    let got = fs::read_to_string(root.join("got")).unwrap_or_default();
    Verdict::of(got.contains("marker"), got)
}

/// Default nodes and links of /dev exist already, as links to the host's files.
fn written_files_are_links(bed: &mut Bed<'_>) -> Verdict {
    bed.no_dev_mounts();
    for name in ["null", "zero", "full", "tty", "random", "urandom", "ptmx", "console", "fd", "stdin"] {
        symlink(bed.host().join(name), bed.rootfs().join("dev").join(name)).unwrap();
    }
    let before = bed.canary();
    let ended = bed.run();
    Verdict::of(bed.canary() != before, ended)
}

/// In a user namespace nodes cannot be made, so the host's is lent: it must be the node that was asked for.
fn device_names_a_host_file(bed: &mut Bed<'_>) -> Verdict {
    bed.user_namespace();
    let secret = bed.host().join("secret");
    let path = secret.to_str().unwrap().to_owned();
    bed.spec["linux"]["devices"] = serde_json::json!([{"path": path, "type": "c", "major": 1, "minor": 3}]);
    bed.script(&format!("cat {path}"));
    let ended = bed.run();
    let meta = fs::symlink_metadata(&secret).unwrap();
    assert!(meta.file_type().is_file() && !meta.file_type().is_char_device() && meta.uid() == 0);
    if ended.out.contains("of the host") { Vulnerable(format!("{ended:?}")) } else { Safe(format!("{ended:?}")) }
}
