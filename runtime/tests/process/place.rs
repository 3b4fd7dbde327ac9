//! Where a payload finds itself: directory, user, groups, umask, descriptors, signals.

use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, Ordering};

use libtest_mimic::Failed;
use runtime::{Create, Kind};
use rustix::fs::Gid;
use serde_json::{Value, json};

use super::bundle::{self, Bundle, output, run};

pub const TESTS: &[super::Test] = &[
    ("place::directory", directory),
    ("place::a_directory_that_root_may_not_enter", a_directory_that_root_may_not_enter),
    ("place::umask", umask),
    ("place::groups_of_the_caller_are_gone", groups_of_the_caller_are_gone),
    ("place::signals_are_as_after_boot", signals_are_as_after_boot),
    ("place::only_three_descriptors", only_three_descriptors),
    ("place::descriptors_to_preserve", descriptors_to_preserve),
    ("place::tmpfs_with_a_copy", tmpfs_with_a_copy),
    ("place::tmpfs_with_a_copy_and_a_mode", tmpfs_with_a_copy_and_a_mode),
    ("place::sysfs_of_a_borrowed_network", sysfs_of_a_borrowed_network),
    ("place::nothing_to_execute", nothing_to_execute),
    ("place::the_same_mounts_on_older_kernels", the_same_mounts_on_older_kernels),
];

fn sh(bundle: &Bundle, script: &str, process: Value) -> Result<String, Failed> {
    let mut process = process;
    process["args"] = json!(["sh", "-c", script]);
    let (status, text) = output(&bundle::host(), bundle, &json!({"process": process}))?;
    if status == 0 { Ok(text) } else { Err(format!("{script} exits with {status}: {text}").into()) }
}

fn directory() -> Result<(), Failed> {
    let bundle = Bundle::new("cwd", 0);
    let user = json!({"uid": 1000, "gid": 1000});
    for (cwd, expected) in
        [("/", "/\n"), ("/tmp", "/tmp\n"), ("/run/made/deep", "/run/made/deep\n"), ("/run/../tmp", "/tmp\n")]
    {
        assert_eq!(sh(&bundle, "pwd", json!({"cwd": cwd, "user": user}))?, expected);
    }
    let private = bundle.dir.join("rootfs/run/private");
    std::fs::create_dir(&private)?;
    std::fs::set_permissions(&private, PermissionsExt::from_mode(0o700))?;
    // Root has entered it before it became somebody else, as with runc.
    assert_eq!(sh(&bundle, "pwd", json!({"cwd": "/run/private", "user": user}))?, "/run/private\n");
    let file = sh(&bundle, "pwd", json!({"cwd": "/etc/passwd"})).unwrap_err();
    assert_eq!(file.message(), Some(r#"chdir to cwd ("/etc/passwd") set in config.json failed: not a directory"#));
    Ok(())
}

/// In a user namespace root is nobody to what the host's root owns. Whoever may not enter must not begin elsewhere.
fn a_directory_that_root_may_not_enter() -> Result<(), Failed> {
    let (host, bundle) = (bundle::host(), Bundle::new("private", 100_000));
    let private = bundle.dir.join("rootfs/tmp/private");
    std::fs::create_dir(&private)?;
    std::fs::set_permissions(&private, PermissionsExt::from_mode(0o700))?;
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    let kinds: Vec<Value> = ["user", "mount", "pid", "ipc", "uts", "network"].map(|t| json!({"type": t})).into();
    let patch = json!({
        "process": {"cwd": "/tmp/private", "args": ["pwd"]},
        "linux": {"uidMappings": map, "gidMappings": map, "namespaces": kinds},
    });
    let error = output(&host, &bundle, &patch).unwrap_err();
    assert_eq!(error.to_string(), r#"chdir to cwd ("/tmp/private") set in config.json failed: permission denied"#);
    // Its user may where root may not.
    std::os::unix::fs::chown(&private, Some(101_000), Some(101_000))?;
    let mut patch = patch;
    patch["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    assert_eq!(output(&host, &bundle, &patch)?, (0, "/tmp/private\n".into()));
    Ok(())
}

fn umask() -> Result<(), Failed> {
    let bundle = Bundle::new("umask", 0);
    assert_eq!(sh(&bundle, "umask", json!({}))?, "0022\n");
    assert_eq!(sh(&bundle, "umask", json!({"user": {"umask": 0o27}}))?, "0027\n");
    assert_eq!(sh(&bundle, "umask", json!({"user": {"uid": 1000, "umask": 0}}))?, "0000\n");
    Ok(())
}

/// CVE-2023-25173 and its like: what the caller may do by its groups the payload may not.
fn groups_of_the_caller_are_gone() -> Result<(), Failed> {
    let bundle = Bundle::new("groups", 0);
    let ours = rustix::process::getgroups().unwrap();
    rustix::thread::set_thread_groups(&[Gid::from_raw(4242), Gid::from_raw(4243)]).unwrap();
    let groups = |user: Value| sh(&bundle, "grep ^Groups: /proc/self/status", json!({"user": user}));
    let (none, some) = (groups(json!({})), groups(json!({"uid": 7, "gid": 8, "additionalGids": [9, 10]})));
    rustix::thread::set_thread_groups(&ours).unwrap();
    assert_eq!((none?.trim(), some?.trim()), ("Groups:", "Groups:\t9 10"));
    Ok(())
}

fn signals_are_as_after_boot() -> Result<(), Failed> {
    let bundle = Bundle::new("signals", 0);
    // This program ignores SIGPIPE, as every Rust program does.
    let ours = std::fs::read_to_string("/proc/self/status")?;
    let ignored = ours.lines().find_map(|l| l.strip_prefix("SigIgn:\t")).ok_or("no SigIgn")?;
    assert!(u64::from_str_radix(ignored, 16)? & 0x1000 != 0, "{ours}");
    let text = sh(&bundle, "exec grep -E '^Sig(Blk|Ign|Cgt):' /proc/self/status", json!({}))?;
    let none = "0000000000000000";
    assert_eq!(text, format!("SigBlk:\t{none}\nSigIgn:\t{none}\nSigCgt:\t{none}\n"));
    Ok(())
}

/// Descriptors of the caller, with close-on-exec and without, and such as other threads open at every moment.
fn only_three_descriptors() -> Result<(), Failed> {
    let bundle = Bundle::new("descriptors", 0);
    let null = std::fs::File::open("/dev/null")?;
    // Not close-on-exec: careless libraries do that.
    let careless: Vec<_> = (0..40).map(|_| rustix::io::dup(&null).unwrap()).collect();
    let careful: Vec<_> = (0..40).map(|_| null.try_clone().unwrap()).collect();
    let stop = AtomicBool::new(false);
    let found: Result<Vec<String>, Failed> = std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    drop(rustix::io::dup(&null));
                }
            });
        }
        let found = (0..20).map(|_| sh(&bundle, "exec ls /proc/self/fd", json!({}))).collect();
        stop.store(true, Ordering::Relaxed);
        found
    });
    drop((careless, careful));
    // 3 is the directory that ls itself reads.
    assert_eq!(found?.iter().find(|text| *text != "0\n1\n2\n3\n"), None);
    Ok(())
}

fn descriptors_to_preserve() -> Result<(), Failed> {
    let (host, bundle) = (bundle::host(), Bundle::new("preserve", 0));
    let spec = bundle.spec(&json!({"process": {"args": ["sh", "-c", "test \"$(cat <&3)\" = kept && exit 7"]}}));
    let file = bundle.dir.join("volume/kept");
    std::fs::write(&file, "kept\n")?;
    let taken: Vec<i32> = (3..5).filter(|n| std::fs::read_link(format!("/proc/self/fd/{n}")).is_ok()).collect();
    assert_eq!(taken, Vec::<i32>::new(), "3 and 4 have to be free for this test");
    let kept = std::fs::File::open(&file)?;
    assert_eq!(kept.as_raw_fd(), 3);
    assert_eq!(run(&host, Create { preserve_fds: 1, ..bundle.create(&spec) })?, 7);
    Ok(())
}

fn tmpfs_with_a_copy() -> Result<(), Failed> {
    let (host, bundle) = (bundle::host(), Bundle::new("copy", 0));
    let seed = bundle.dir.join("rootfs/seed");
    std::fs::create_dir(seed.join("deep"))?;
    std::fs::write(seed.join("deep/file"), "deep\n")?;
    std::os::unix::fs::symlink("file", seed.join("link"))?;
    std::fs::set_permissions(&seed, PermissionsExt::from_mode(0o1750))?;
    std::os::unix::fs::chown(seed.join("file"), Some(7), Some(8))?;
    let mounts = json!([{"destination": "/seed", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"]}]);
    let script = "cat /seed/link /seed/deep/file && ls -ld /seed && ls -ln /seed/file";
    let (status, text) = output(&host, &bundle, &json!({"mounts": mounts, "process": {"args": ["sh", "-c", script]}}))?;
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!((status, &lines[..2]), (0, &["seed", "deep"][..]), "{text}");
    assert!(lines[2].starts_with("drwxr-x--T") && lines[3].contains(" 7 ") && lines[3].contains(" 8 "), "{text}");
    Ok(())
}

/// What is asked for by name is not taken from the image; of the rest it is.
fn tmpfs_with_a_copy_and_a_mode() -> Result<(), Failed> {
    let (host, bundle) = (bundle::host(), Bundle::new("mode", 0));
    let seed = bundle.dir.join("rootfs/seed");
    std::fs::create_dir(seed.join("deep"))?;
    for dir in [&seed, &seed.join("deep")] {
        std::fs::set_permissions(dir, PermissionsExt::from_mode(0o750))?;
        std::os::unix::fs::chown(dir, Some(7), Some(8))?;
    }
    for (options, expected) in [
        (&["mode=1777", "uid=5", "gid=6"][..], ["drwxrwxrwt", "5", "6"]),
        (&["mode=1777"], ["drwxrwxrwt", "7", "8"]),
        (&["uid=5"], ["drwxr-x---", "5", "0"]),
        (&["gid=6,size=1m"], ["drwxr-x---", "0", "6"]),
        (&[], ["drwxr-x---", "7", "8"]),
    ] {
        let options = [&["tmpcopyup"], options].concat();
        let mounts = json!([{"destination": "/seed", "type": "tmpfs", "source": "tmpfs", "options": options}]);
        let patch = json!({"mounts": mounts, "process": {"args": ["ls", "-ldn", "/seed", "/seed/deep"]}});
        let (status, text) = output(&host, &bundle, &patch)?;
        let owned = |line: &str| {
            line.split_whitespace()
                .enumerate()
                .filter(|(i, _)| [0, 2, 3].contains(i))
                .map(|(_, w)| w.to_owned())
                .collect::<Vec<_>>()
        };
        let found: Vec<_> = text.lines().map(owned).collect();
        assert_eq!(
            (status, found),
            (0, vec![expected.map(String::from).into(), ["drwxr-x---", "7", "8"].map(String::from).into()]),
            "{options:?}"
        );
    }
    Ok(())
}

/// A user namespace that does not own its network namespace may not mount a sysfs; it gets a copy of the host's.
fn sysfs_of_a_borrowed_network() -> Result<(), Failed> {
    let (host, bundle) = (bundle::host(), Bundle::new("sysfs", 100_000));
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    let kinds: Vec<Value> = ["user", "mount", "pid", "ipc", "uts"].map(|t| json!({"type": t})).into();
    let mounts = json!([
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
        {"destination": "/proc", "type": "proc", "source": "proc"},
    ]);
    let patch = json!({
        "process": {"args": ["sh", "-c", "ls -d /sys/kernel && grep -c ' /sys .*ro' /proc/self/mountinfo"]},
        "mounts": mounts,
        "linux": {"uidMappings": map, "gidMappings": map, "namespaces": kinds},
    });
    assert_eq!(output(&host, &bundle, &patch)?, (0, "/sys/kernel\n1\n".into()));
    Ok(())
}

/// A process may be missing at create and has to be there at start (runtime-spec config.md#process).
fn nothing_to_execute() -> Result<(), Failed> {
    let (host, bundle) = (bundle::host(), Bundle::new("nothing", 0));
    let mut spec = bundle.spec(&json!({}));
    spec.process = None;
    let error = run(&host, bundle.create(&spec)).unwrap_err();
    assert_eq!((error.to_string().as_str(), error.kind), ("/process: must not be empty", Kind::Invalid));
    Ok(())
}

/// Each way that newer kernels shorten leads to the same mount table as the way of older ones.
fn the_same_mounts_on_older_kernels() -> Result<(), Failed> {
    let bundle = Bundle::new("older", 0);
    let volume = bundle.dir.join("volume");
    let patch = json!({
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "mode=1777"]},
            {"destination": "/dev/run", "type": "tmpfs", "source": "run", "options": ["nosuid"]},
            {"destination": "/tmp", "type": "bind", "source": volume, "options": ["rbind", "ro", "rprivate"]},
            {"destination": "/dev/file", "type": "bind", "source": volume.join("file"), "options": ["bind", "private"]},
        ],
        "linux": {
            "maskedPaths": ["/proc/keys", "/proc/none", "/proc/timer_list", "/proc/fs", "/proc/driver", "/proc/uptime",
                            "/proc/tty", "/etc/passwd", "/run", "/proc/nothing", "/proc/version"],
            "readonlyPaths": ["/proc/bus", "/proc/sys", "/proc/none", "/root"],
        },
        "process": {"args": ["cat", "/proc/self/mountinfo"]},
    });
    let newest = bundle::host();
    let middle = runtime::Host { open_tree_attr: false, ..newest.clone() };
    let oldest = runtime::Host { mount_setattr: false, ..middle.clone() };
    let mut tables = Vec::new();
    for host in [&newest, &middle, &oldest] {
        let (status, text) = output(host, &bundle, &patch)?;
        assert_eq!(status, 0, "{text}");
        // Numbers of mounts, devices and peer groups differ from run to run.
        let stable = |line: &str| {
            let words: Vec<&str> = line.split(' ').collect();
            let kind = words.iter().position(|word| *word == "-").unwrap_or(words.len());
            [&words[3..6], &words[kind..]].concat().join(" ")
        };
        tables.push(text.lines().map(stable).collect::<Vec<_>>());
    }
    assert!(tables[0].len() >= 17, "{:#?}", tables[0]);
    for covered in ["/proc/keys", "/proc/driver", "/proc/version", "/etc/passwd", "/run", "/proc/sys", "/root"] {
        assert!(tables[0].iter().any(|line| line.split(' ').nth(1) == Some(covered)), "{covered}: {:#?}", tables[0]);
    }
    assert_eq!(tables[0], tables[1]);
    assert_eq!(tables[1], tables[2]);
    Ok(())
}
