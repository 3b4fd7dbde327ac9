//! On the real kernel, as root, each test in a mount namespace of its own thread.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use containerd_shim_protos::types::mount::Mount;
use rustix::fs::StatVfsMountFlags;

use super::*;

/// A bundle in a mount namespace that nobody else sees.
struct Bundle {
    dir: tempfile::TempDir,
}

impl Bundle {
    fn new() -> Self {
        // The deprecation is for CLONE_FILES, which is not asked for.
        #[allow(deprecated)]
        rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNS).expect("these tests need root");
        let private = rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC;
        rustix::mount::mount_change("/", private).unwrap();
        let bundle = Self { dir: tempfile::tempdir().unwrap() };
        bundle.make("rootfs");
        bundle
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn root(&self) -> PathBuf {
        self.path("rootfs")
    }

    fn make(&self, name: &str) -> String {
        let path = self.path(name);
        fs::create_dir_all(&path).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// The mounts in the bundle, as the kernel has them.
    fn mounts(&self) -> Vec<String> {
        let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        let here = self.dir.path().canonicalize().unwrap();
        table
            .lines()
            .filter(|l| Path::new(l.split(' ').nth(4).unwrap()).starts_with(&here))
            .map(str::to_owned)
            .collect()
    }
}

impl Drop for Bundle {
    /// The directory cannot be removed while something is mounted in it.
    fn drop(&mut self) {
        for name in fs::read_dir(self.dir.path()).unwrap().flatten() {
            unmount(&name.path()).unwrap();
        }
    }
}

fn entry(kind: &str, source: &str, options: &[&str]) -> Mount {
    Mount {
        type_: kind.into(),
        source: source.into(),
        options: options.iter().map(|o| (*o).to_owned()).collect(),
        ..Mount::default()
    }
}

fn at(mut mount: Mount, target: &str) -> Mount {
    mount.target = target.into();
    mount
}

fn flags(path: &Path) -> StatVfsMountFlags {
    rustix::fs::statvfs(path).unwrap().f_flag
}

#[test]
fn tmpfs_with_flags_and_data() {
    let b = Bundle::new();
    mount(&[entry("tmpfs", "tmpfs", &["nosuid", "noexec", "size=1m", "mode=0711"])], &b.root()).unwrap();
    assert_eq!(fs::metadata(b.root()).unwrap().mode() & 0o777, 0o711);
    assert!(flags(&b.root()).contains(StatVfsMountFlags::NOSUID | StatVfsMountFlags::NOEXEC));
    unmount(&b.root()).unwrap();
    assert!(b.mounts().is_empty());
}

#[test]
fn bind_is_read_only_in_a_second_step_and_keeps_what_its_source_forbids() {
    let b = Bundle::new();
    let source = b.make("source");
    mount(&[entry("tmpfs", "tmpfs", &["nosuid", "nodev", "noatime"])], Path::new(&source)).unwrap();
    fs::write(format!("{source}/file"), "x").unwrap();
    mount(&[entry("bind", &source, &["rbind", "ro"])], &b.root()).unwrap();
    let has = flags(&b.root());
    for flag in
        [StatVfsMountFlags::RDONLY, StatVfsMountFlags::NOSUID, StatVfsMountFlags::NODEV, StatVfsMountFlags::NOATIME]
    {
        assert!(has.contains(flag), "{flag:?}");
    }
    assert!(!has.contains(StatVfsMountFlags::NOEXEC));
    assert_eq!(fs::write(b.root().join("file"), "y").unwrap_err().raw_os_error(), Some(libc::EROFS));
    fs::write(format!("{source}/file"), "y").unwrap();

    // Without `ro`: containerd forgets the other words of a bind mount, we do not.
    unmount(&b.root()).unwrap();
    mount(&[entry("bind", &source, &["bind", "noexec", "suid"])], &b.root()).unwrap();
    let has = flags(&b.root());
    assert!(
        has.contains(StatVfsMountFlags::NOEXEC)
            && !has.contains(StatVfsMountFlags::NOSUID)
            && !has.contains(StatVfsMountFlags::RDONLY)
    );
}

fn overlay_options(b: &Bundle, layers: usize, name_length: usize) -> (Vec<String>, usize) {
    let deep = "d".repeat(name_length);
    let lower: Vec<String> = (0..layers).map(|n| b.make(&format!("{deep}/{n}/fs"))).collect();
    for (n, dir) in lower.iter().enumerate() {
        fs::write(format!("{dir}/from"), n.to_string()).unwrap();
        fs::write(format!("{dir}/only{n}"), "").unwrap();
    }
    let options = vec![
        "index=off".to_owned(),
        format!("workdir={}", b.make("work")),
        format!("upperdir={}", b.make("upper")),
        format!("lowerdir={}", lower.join(":")),
    ];
    let length = options.join(",").len();
    (options, length)
}

fn overlay(options: Vec<String>) -> Mount {
    Mount { type_: "overlay".into(), source: "overlay".into(), options, ..Mount::default() }
}

#[test]
fn overlay_of_a_page_and_of_many_pages() {
    for (layers, name_length) in [(3, 4), (80, 120), (128, 200), (60, 250)] {
        let b = Bundle::new();
        let (options, length) = overlay_options(&b, layers, name_length);
        assert_eq!(length > 4096, layers > 3);
        mount(&[overlay(options)], &b.root()).unwrap();
        assert_eq!(fs::read_to_string(b.root().join("from")).unwrap(), "0");
        for n in 0..layers {
            assert!(b.root().join(format!("only{n}")).exists(), "layer {n} of {layers}");
        }
        fs::write(b.root().join("new"), "").unwrap();
        assert!(b.path("upper/new").exists());
        unmount(&b.root()).unwrap();
        assert!(b.mounts().is_empty());
    }
}

/// The way of kernels before 6.5, and of layers whose path is longer than a string of fsconfig.
#[test]
fn overlay_of_many_pages_by_descriptor() {
    let b = Bundle::new();
    let deep = format!("{}/{}", "a".repeat(200), "b".repeat(200));
    let lower: Vec<String> = (0..128).map(|n| b.make(&format!("{deep}/{n}"))).collect();
    for (n, dir) in lower.iter().enumerate() {
        fs::write(format!("{dir}/only{n}"), "").unwrap();
    }
    mount(&[overlay(vec![format!("lowerdir={}", lower.join(":"))])], &b.root()).unwrap();
    assert!((0..128).all(|n| b.root().join(format!("only{n}")).exists()));
    assert!(flags(&b.root()).contains(StatVfsMountFlags::RDONLY), "an overlay without upperdir cannot be written");
    assert!(b.mounts()[0].contains("/proc/self/fd/"), "{:?}", b.mounts());
}

#[test]
fn overlay_with_mapped_owners() {
    let b = Bundle::new();
    let (mut options, _) = overlay_options(&b, 70, 100);
    options.extend(["uidmap=0:100000:65536".to_owned(), "gidmap=0:200000:65536".to_owned()]);
    mount(&[overlay(options)], &b.root()).unwrap();
    let file = fs::metadata(b.root().join("only69")).unwrap();
    assert_eq!((file.uid(), file.gid()), (100_000, 200_000));
    assert_eq!(b.mounts().len(), 1, "the temporary mounts are gone: {:?}", b.mounts());
    let names: Vec<_> = fs::read_dir(b.dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(names.iter().all(|n| !n.to_string_lossy().starts_with('.')), "{names:?}");
}

#[test]
fn overlay_with_mapped_owners_and_layers_that_are_mounts_of_their_own() {
    let b = Bundle::new();
    let lower: Vec<String> = (0..3).map(|n| b.make(&format!("layers/{n}"))).collect();
    for dir in &lower {
        mount(&[entry("tmpfs", "tmpfs", &[])], Path::new(dir)).unwrap();
        fs::write(format!("{dir}/{}", dir.chars().last().unwrap()), "").unwrap();
    }
    let lowerdir = format!("lowerdir={}", lower.join(":"));
    mount(&[entry("overlay", "overlay", &[&lowerdir, "uidmap=0:7:9", "gidmap=0:8:9"])], &b.root()).unwrap();
    for name in ["0", "1", "2"] {
        let file = fs::metadata(b.root().join(name)).unwrap();
        assert_eq!((file.uid(), file.gid()), (7, 8), "{name}");
    }
    assert_eq!(b.mounts().len(), 4, "{:?}", b.mounts());
}

#[test]
fn bind_with_mapped_owners_is_one_mount_and_can_be_read_only() {
    let b = Bundle::new();
    let source = b.make("source");
    fs::write(format!("{source}/file"), "").unwrap();
    mount(&[entry("bind", &source, &["bind", "ro", "uidmap=0:1000:1,1:5000:9", "gidmap=0:2000:10"])], &b.root())
        .unwrap();
    let file = fs::metadata(b.root().join("file")).unwrap();
    assert_eq!((file.uid(), file.gid()), (1000, 2000));
    assert!(flags(&b.root()).contains(StatVfsMountFlags::RDONLY));
    assert_eq!(b.mounts().len(), 1, "{:?}", b.mounts());
    let error = mount(&[entry("bind", &source, &["bind", "uidmap=0:1000", "gidmap=0:0:1"])], &b.root()).unwrap_err();
    assert_eq!(error.to_string(), r#"/rootfs/0: mount "uidmap=0:1000": is not inside:outside:size"#);
}

#[test]
fn loop_device_appears_and_goes_with_its_mount() {
    let b = Bundle::new();
    let image = b.path("image");
    fs::File::create(&image).unwrap().set_len(8 << 20).unwrap();
    let made = std::process::Command::new("mkfs.ext4").arg("-q").arg(&image).status();
    assert!(made.expect("mkfs.ext4 of e2fsprogs").success());
    let image = image.to_str().unwrap();
    let direct = entry("ext4", image, &["loop", "direct-io"]);
    mount(&[direct], &b.root()).unwrap();
    fs::write(b.root().join("file"), "x").unwrap();
    let device = b.mounts()[0].split(" - ext4 ").nth(1).unwrap().split(' ').next().unwrap().to_owned();
    let loops =
        |name: &str| fs::read_to_string(format!("/sys/block/{}/loop/{name}", device.trim_start_matches("/dev/")));
    assert_eq!(loops("backing_file").unwrap().trim(), image);
    assert_eq!(loops("autoclear").unwrap().trim(), "1");
    assert_eq!(loops("dio").unwrap().trim(), "1");
    unmount(&b.root()).unwrap();
    // Somebody else, such as udev, may have it open for a moment.
    let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while loops("backing_file").is_ok() {
        assert!(std::time::Instant::now() < end, "{device} is still attached");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }

    mount(&[entry("ext4", image, &["loop", "ro"])], &b.root()).unwrap();
    let device = b.mounts()[0].split(" - ext4 ").nth(1).unwrap().split(' ').next().unwrap().to_owned();
    assert_eq!(
        fs::read_to_string(format!("/sys/block/{}/ro", device.trim_start_matches("/dev/"))).unwrap().trim(),
        "1"
    );
    assert_eq!(fs::read_to_string(b.root().join("file")).unwrap(), "x");
    unmount(&b.root()).unwrap();
}

#[test]
fn targets_are_looked_up_inside_the_root() {
    let b = Bundle::new();
    let outside = b.make("outside");
    let tree = b.make("tree");
    b.make("tree/a/b");
    b.make("tree/inside");
    symlink(&outside, format!("{tree}/absolute")).unwrap();
    symlink("../../../../../../inside", format!("{tree}/up")).unwrap();
    let root = entry("bind", &tree, &["rbind"]);
    let small = || entry("tmpfs", "tmpfs", &["size=64k"]);
    mount(&[root.clone(), at(small(), "/a/b"), at(small(), "up")], &b.root()).unwrap();
    assert_eq!(b.mounts().len(), 3);
    assert_eq!(
        rustix::fs::statfs(b.root().join("inside")).unwrap().f_type,
        0x0102_1994,
        "tmpfs at the end of the link"
    );
    unmount(&b.root()).unwrap();
    assert!(b.mounts().is_empty());

    // The same absolute path does not exist inside, so nothing is mounted, here or outside, and the first mount is undone.
    let error = mount(&[root.clone(), at(small(), "absolute")], &b.root()).unwrap_err();
    assert_eq!(error.errno, Some(rustix::io::Errno::NOENT), "{error}");
    assert!(error.to_string().starts_with("/rootfs/1: openat2"), "{error}");
    assert!(b.mounts().is_empty());
    let error = mount(&[at(small(), "../../outside")], &b.root()).unwrap_err();
    assert_eq!(error.errno, Some(rustix::io::Errno::NOENT), "{error}");
    assert!(b.mounts().is_empty());
}

#[test]
fn failures_name_the_mount_and_undo_the_ones_before() {
    let b = Bundle::new();
    let good = || entry("tmpfs", "tmpfs", &[]);
    for (bad, text) in [
        (entry("nosuchfs", "x", &[]), "/rootfs/2: mount \"nosuchfs x at "),
        (entry("tmpfs", "x", &["X-containerd.mkdir.path=/x"]), "/rootfs/2: mount \"X-containerd.mkdir.path=/x\": "),
        (entry("bind", "/nonexistent", &["bind"]), "/rootfs/2: mount \"bind /nonexistent at "),
        (entry("tmpfs", "x", &["size=much"]), "/rootfs/2: mount \"tmpfs x at "),
        (entry("ext4", "/nonexistent", &["loop"]), "/rootfs/2: open \"/nonexistent\": "),
        (
            entry("overlay", "x", &["lowerdir=/nonexistent", "uidmap=0:0:1", "gidmap=0:0:1"]),
            "/rootfs/2: statx \"/nonexistent\": ",
        ),
    ] {
        let error = mount(&[good(), good(), bad], &b.root()).unwrap_err().to_string();
        assert!(error.starts_with(text), "{error}");
        assert!(b.mounts().is_empty(), "{error}: {:?}", b.mounts());
    }
}

#[test]
fn helper_programs_are_run_like_mount_fuse() {
    let b = Bundle::new();
    assert_eq!(fuse::helper("fuse3.fuse-overlayfs"), Some(("mount.fuse3", "fuse-overlayfs")));
    assert_eq!(fuse::helper("fuse.sshfs"), Some(("mount.fuse", "sshfs")));
    assert_eq!(fuse::helper("fuseblk"), None);
    // mount(8) takes the same arguments.
    let (place, mut made) = (Place::resolve(&b.root(), "").unwrap(), Vec::new());
    fuse::mount("mount", "tmpfs", &entry("", "tmpfs", &["size=64k", "nosuid"]), &place, &mut made).unwrap();
    assert_eq!(made, [b.root()]);
    assert!(flags(&b.root()).contains(StatVfsMountFlags::NOSUID));
    unmount(&b.root()).unwrap();
    made.clear();
    let error = fuse::mount("mount", "nosuchfs", &entry("", "x", &[]), &place, &mut made).unwrap_err().to_string();
    assert!(error.contains("exit status") && made.is_empty(), "{error}");
}

#[test]
fn unmount_takes_stacked_and_nested_mounts_and_waits_for_busy_ones() {
    let b = Bundle::new();
    for _ in 0..3 {
        mount(&[entry("tmpfs", "tmpfs", &[])], &b.root()).unwrap();
    }
    fs::create_dir_all(b.root().join("x y/z")).unwrap();
    for name in ["x y", "x y"] {
        mount(&[at(entry("tmpfs", "tmpfs", &[]), name)], &b.root()).unwrap();
    }
    fs::create_dir_all(b.root().join("x y/z")).unwrap();
    mount(&[at(entry("tmpfs", "tmpfs", &[]), "x y/z")], &b.root()).unwrap();
    assert_eq!(b.mounts().len(), 6);
    let busy = fs::File::open(b.root().join("x y/z")).unwrap();
    let release = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(200));
        drop(busy);
    });
    unmount(&b.root()).unwrap();
    release.join().unwrap();
    assert!(b.mounts().is_empty(), "{:?}", b.mounts());
}

/// A shell of the host's that was forgotten in there, as every Delete would find it.
#[test]
fn unmount_does_not_fail_over_somebody_who_stays() {
    let b = Bundle::new();
    let stay = |dir: &Path| std::process::Command::new("sleep").arg("60").current_dir(dir).spawn().unwrap();
    for _ in 0..2 {
        mount(&[entry("tmpfs", "tmpfs", &[])], &b.root()).unwrap();
    }
    b.make("rootfs/below");
    mount(&[at(entry("tmpfs", "tmpfs", &[]), "below")], &b.root()).unwrap();
    let mut stayers = [stay(&b.root()), stay(&b.path("rootfs/below"))];
    let begun = std::time::Instant::now();
    let unmounted = unmount(&b.root());
    let took = begun.elapsed();
    for stayer in &mut stayers {
        stayer.kill().unwrap();
        stayer.wait().unwrap();
    }
    unmounted.unwrap();
    assert!(b.mounts().is_empty(), "{:?}", b.mounts());
    assert!(took < std::time::Duration::from_secs(10), "{took:?}");

    // Nor where the directory itself is no mount.
    b.make("rootfs/a");
    mount(&[at(entry("tmpfs", "tmpfs", &[]), "a")], &b.root()).unwrap();
    let mut stayer = stay(&b.path("rootfs/a"));
    let unmounted = unmount(&b.root());
    stayer.kill().unwrap();
    stayer.wait().unwrap();
    unmounted.unwrap();
    assert!(b.mounts().is_empty(), "{:?}", b.mounts());
}

#[test]
fn unmount_finds_mounts_below_a_directory_that_is_none() {
    let b = Bundle::new();
    b.make("rootfs/a/b");
    mount(&[at(entry("tmpfs", "tmpfs", &[]), "a/b")], &b.root()).unwrap();
    unmount(&b.root()).unwrap();
    assert!(b.mounts().is_empty());
    // Nor does a directory that just is not empty make it wait.
    let begun = std::time::Instant::now();
    unmount(&b.root()).unwrap();
    assert!(begun.elapsed() < std::time::Duration::from_secs(1));
}

#[test]
fn unmount_of_nothing_is_fine_and_follows_no_link() {
    let b = Bundle::new();
    unmount(&b.root()).unwrap();
    unmount(&b.path("absent")).unwrap();
    fs::write(b.path("file"), "").unwrap();
    unmount(&b.path("file/below")).unwrap();
    mount(&[entry("tmpfs", "tmpfs", &[])], &b.root()).unwrap();
    b.make("rootfs/below");
    mount(&[at(entry("tmpfs", "tmpfs", &[]), "below")], &b.root()).unwrap();
    symlink(b.root(), b.path("link")).unwrap();
    unmount(&b.path("link")).unwrap();
    assert_eq!(b.mounts().len(), 2);
    fs::remove_file(b.path("link")).unwrap();
}
