//! What single lines of config.json ask for, where runtimes have been found to differ.

use std::fs::{self, File};
use std::io::{IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::Gid;
use serde_json::{Value, json};

use crate::bench::{Bench, finish, testbed, until};
use crate::terminal::{read_all, receive};

fn add(spec: &mut Value, mounts: &[Value]) {
    spec["mounts"].as_array_mut().unwrap().extend(mounts.iter().cloned());
}

fn bind(from: &Path, to: &str) -> Value {
    json!({"destination": to, "type": "bind", "source": from, "options": ["rbind"]})
}

/// A time zone that is not installed, a resolv.conf of a service that does not run: the links of an image lead nowhere.
pub fn destinations_behind_links_that_dangle(b: &Bench) {
    let (root, outside) = (b.bundle().join("rootfs"), b.path("outside"));
    let up = "../../../../../../../../../../..";
    for (link, target) in [
        ("etc/localtime", "/usr/share/zoneinfo/UTC".into()),
        ("etc/resolv.conf", "../run/systemd/resolve/stub".into()),
        ("data", "chain".into()),
        ("chain", "/nowhere/deep/".into()),
        ("etc/out", format!("{up}{}", outside.display())),
    ] {
        symlink::<String, _>(target, root.join(link)).unwrap();
    }
    let file = b.path("file");
    fs::write(&file, "bound\n").unwrap();
    let directory = b.path("directory");
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("in"), "directory\n").unwrap();
    let script = "cat /etc/localtime /run/systemd/resolve/stub /data/sub/in /nowhere/deep/sub/in /etc/out";
    b.spec(&["sh", "-c", script], |s| {
        add(s, &[bind(&file, "/etc/localtime"), bind(&file, "/etc/resolv.conf"), bind(&directory, "/data/sub")]);
        add(s, &[bind(&file, "/etc/out")]);
    });
    assert_eq!(b.fine(&["run", &b.id("x")]), "bound\nbound\ndirectory\ndirectory\nbound\n");
    assert!(!outside.exists(), "made outside of the root");
    symlink("loop", root.join("loop")).unwrap();
    b.spec(&["true"], |s| add(s, &[bind(&file, "/loop")]));
    let said = b.say(&["run", &b.id("x")]);
    assert!(said.code != 0 && said.err.contains("too many levels of symbolic links"), "{}", said.err);
}

/// The second of two file systems is on top of the first, whatever it was called.
pub fn mounts_below_what_a_link_leads_to(b: &Bench) {
    let root = b.bundle().join("rootfs");
    fs::create_dir(root.join("run")).unwrap();
    fs::create_dir(root.join("var")).unwrap();
    symlink("/run", root.join("var/run")).unwrap();
    let directory = b.path("directory");
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("in"), "directory\n").unwrap();
    let tmpfs = |to: &str| json!({"destination": to, "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]});
    b.spec(&["cat", "/run/y/in"], |s| add(s, &[tmpfs("/run"), tmpfs("/var/run"), bind(&directory, "/run/y")]));
    assert_eq!(b.fine(&["run", &b.id("x")]), "directory\n");
}

/// More than fsconfig(2) takes as one value.
pub fn long_options_of_file_systems(b: &Bench) {
    let lower: Vec<String> =
        (0..3).map(|n| format!("{}/{}", b.path("lower").display(), n.to_string().repeat(100))).collect();
    for (n, dir) in lower.iter().enumerate() {
        fs::create_dir_all(dir).unwrap();
        fs::write(Path::new(dir).join(n.to_string()), format!("{n}\n")).unwrap();
    }
    let option = format!("lowerdir={}", lower.join(":"));
    assert!(option.len() > 300);
    b.spec(&["sh", "-c", "cat /o/0 /o/1 /o/2"], |s| {
        add(s, &[json!({"destination": "/o", "type": "overlay", "source": "overlay", "options": [option, "ro"]})]);
    });
    assert_eq!(b.fine(&["run", &b.id("x")]), "0\n1\n2\n");
}

/// Words that only mount(2) knows.
pub fn options_that_fsconfig_does_not_take(b: &Bench) {
    let comma = b.path("a,b");
    fs::create_dir(&comma).unwrap();
    fs::write(comma.join("in"), "comma\n").unwrap();
    fs::create_dir(b.path("c")).unwrap();
    let dir = b.path("").display().to_string();
    let lower = format!(r"lowerdir={dir}/a\,b:{dir}/c");
    let overlay = |to: &str, options: Value| json!({"destination": to, "type": "overlay", "source": "overlay", "options": options});
    let tmpfs =
        |to: &str, options: Value| json!({"destination": to, "type": "tmpfs", "source": "tmpfs", "options": options});
    b.spec(&["sh", "-c", "cat /o/in /ro/in; busybox grep -c ' /[kmnt] ' /proc/mounts"], |s| {
        add(s, &[overlay("/o", json!([lower])), overlay("/ro", json!([lower, "ro", "iversion"]))]);
        add(s, &[tmpfs("/t", json!(["iversion"])), tmpfs("/m", json!(["iversion", "mode=700"]))]);
        add(s, &[tmpfs("/n", json!(["iversion", "rprivate", "ro"]))]);
        // What is needed again afterwards: its flag is set last, its masks are looked up in it.
        add(s, &[tmpfs("/k", json!(["iversion", "mode=700", "ro"]))]);
        s["mounts"][0]["options"] = json!(["iversion"]);
        s["linux"]["maskedPaths"] = json!(["/proc/kcore"]);
    });
    assert_eq!(b.fine(&["run", &b.id("x")]), "comma\ncomma\n4\n");
}

/// A remount has words for the file system too, not for the mount alone.
pub fn remounts_change_file_systems(b: &Bench) {
    let tmpfs =
        |options: Value| json!({"destination": "/data", "type": "tmpfs", "source": "tmpfs", "options": options});
    let again = tmpfs(json!(["remount", "size=1m", "nr_inodes=77", "noexec"]));
    for first in [json!(["size=8m"]), json!(["size=8m", "mode=700"]), json!(["size=8m", "tmpcopyup"])] {
        b.spec(&["sh", "-c", "busybox grep ' /data ' /proc/mounts; busybox df -k /data"], |s| {
            add(s, &[tmpfs(first), bind(&b.root(), "/mnt"), again.clone()]);
        });
        let said = b.fine(&["run", &b.id("x")]);
        assert!(said.contains("size=1024k") && said.contains("nr_inodes=77") && said.contains("noexec"), "{said}");
    }
}

/// A file system that the runtime has not made may be in use on the host.
pub fn remounts_change_none_of_the_host(b: &Bench) {
    let remount = |options: Value| json!({"destination": "/mnt", "type": "none", "source": "none", "options": options});
    b.spec(&["busybox", "grep", " /mnt ", "/proc/mounts"], |s| {
        add(s, &[bind(&b.root(), "/mnt"), remount(json!(["remount", "ro"]))]);
    });
    assert!(b.fine(&["run", &b.id("x")]).contains(" ro,"));
    for option in ["sync", "size=1m"] {
        b.spec(&["true"], |s| add(s, &[bind(&b.root(), "/mnt"), remount(json!(["remount", option]))]));
        b.fails(&["run", &b.id("x")], "/mounts/4/options: change a file system that no entry before has made");
    }
}

/// Nothing that a mask covers is reached by a descriptor that the runtime has open.
pub fn directories_below_masks(b: &Bench) {
    let root = b.bundle().join("rootfs");
    fs::create_dir_all(root.join("secret/below")).unwrap();
    for dir in ["secret", "secret/below"] {
        fs::write(root.join(dir).join("word"), "secret\n").unwrap();
    }
    fs::create_dir(root.join("fixed")).unwrap();
    for fd in 3..90 {
        b.spec(&["sh", "-c", "cat word below/word; echo x >here"], |s| {
            s["process"]["cwd"] = json!(format!("/proc/self/fd/{fd}"));
            s["linux"]["maskedPaths"] = json!(["/secret", "/proc/acpi"]);
            s["linux"]["readonlyPaths"] = json!(["/fixed"]);
        });
        let said = b.say(&["run", &b.id("x")]);
        assert!(!said.out.contains("secret"), "descriptor {fd}: {}", said.out);
    }
    assert!(!root.join("fixed/here").exists());
}

fn sysfs() -> Value {
    json!({"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro"]})
}

/// Lists in any order, links of the image and hooks that mount: what is masked is not seen, what is read-only is not written.
pub fn masks_hold_under_what_covers_their_mounts(b: &Bench) {
    symlink("/proc", b.bundle().join("rootfs/opt2")).unwrap();
    symlink("/sys", b.bundle().join("rootfs/opt3")).unwrap();
    fs::write(b.path("uptime"), "of the host\n").unwrap();
    let script = "(true >/proc/sys/kernel/domainname) && echo w1; (true >>/proc/uptime) && echo w2
        cat /proc/version; busybox ls /proc/fs /sys/fs /sys/kernel; :";
    let mount =
        format!("mount -t proc proc {0}/rootfs/proc; mount --bind {0}/rootfs/sys {0}/rootfs/sys", b.bundle().display());
    let hook = json!([{"path": "/bin/sh", "args": ["sh", "-c", mount], "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]}]);
    for (n, read_only) in [
        vec!["/proc", "/sys", "/proc/sys", "/proc/uptime"],
        vec!["/proc/uptime", "/proc/sys", "/proc/sys", "/sys/fs", "/sys", "/proc"],
        vec!["/opt2", "/opt3", "/proc/uptime", "/proc/sys/kernel", "/proc/sys"],
        vec!["/proc/sys", "/proc/uptime", "/proc", "/proc", "/opt2", "/proc/sys"],
        vec!["/proc/sys", "/proc/version", "/proc/fs", "/proc/uptime"],
    ]
    .iter()
    .enumerate()
    {
        for masked in [
            ["/proc/version", "/proc/fs", "/sys/fs", "/sys/kernel"],
            ["/sys/kernel", "/opt3/fs", "/proc/fs", "/opt2/version"],
        ] {
            for hooked in [false, true] {
                b.spec(&["sh", "-c", script], |s| {
                    add(s, &[sysfs()]);
                    if hooked {
                        s["hooks"] = json!({"createContainer": hook});
                    } else {
                        add(s, &[bind(&b.path("uptime"), "/proc/uptime")]);
                    }
                    s["linux"]["maskedPaths"] = json!(masked);
                    s["linux"]["readonlyPaths"] = json!(read_only);
                });
                let said = b.say(&["run", &b.id(&format!("{n}{hooked}"))]);
                let lines: Vec<&str> = said.out.lines().filter(|l| !l.is_empty() && !l.ends_with(':')).collect();
                assert_eq!((said.code, lines), (0, vec![]), "{read_only:?} {masked:?} {hooked}: {}", said.err);
            }
        }
    }
}

/// What is made for a container is made before it may not write there any more.
pub fn working_directory_in_a_read_only_path(b: &Bench) {
    fs::create_dir(b.bundle().join("rootfs/work")).unwrap();
    b.spec(&["sh", "-c", "pwd; (true >x) || echo fixed"], |s| {
        s["process"]["cwd"] = json!("/work/deep/down");
        s["linux"]["readonlyPaths"] = json!(["/work"]);
    });
    assert_eq!(b.fine(&["run", &b.id("x")]), "/work/deep/down\nfixed\n");
}

pub fn root_in_read_only_paths(b: &Bench) {
    for path in ["/", "//", "/."] {
        b.spec(&["sh", "-c", "(true >/x) || echo fixed; cat /etc/plain; (true >/dev/x) && echo not below"], |s| {
            s["linux"]["readonlyPaths"] = json!([path, "/etc"]);
        });
        assert_eq!(b.fine(&["run", &b.id("x")]), "fixed\nnot a programnot below\n", "{path}");
        assert!(!b.bundle().join("rootfs/x").exists());
    }
}

/// docker run -u 1000 --tmpfs /cache: a directory of the image's has its mode, one that nobody has made is everybody's.
pub fn modes_of_temporary_file_systems(b: &Bench) {
    let root = b.bundle().join("rootfs");
    fs::create_dir(root.join("kept")).unwrap();
    fs::set_permissions(root.join("kept"), fs::Permissions::from_mode(0o751)).unwrap();
    symlink("/behind/link", root.join("dangling")).unwrap();
    let paths = ["/cache", "/deep/cache", "/dev/shm", "/dangling", "/copied", "/kept", "/given"];
    let tmpfs =
        |to: &str, options: Value| json!({"destination": to, "type": "tmpfs", "source": "tmpfs", "options": options});
    // A second container finds what the first has made: runc takes that for the image's.
    for _ in 0..1 + u32::from(b.is_mini()) {
        b.spec(&[&["busybox", "stat", "-L", "-c", "%a %n"], &paths[..]].concat(), |s| {
            for path in paths {
                let options = match path {
                    "/given" => json!(["mode=700"]),
                    "/copied" => json!(["tmpcopyup"]),
                    _ => json!(["nosuid", "size=1m"]),
                };
                add(s, &[tmpfs(path, options)]);
            }
        });
        let said = b.fine(&["run", &b.id("x")]);
        let is = "1777 /cache\n1777 /deep/cache\n1777 /dev/shm\n1777 /dangling\n1777 /copied\n751 /kept\n700 /given\n";
        assert_eq!(said, is);
    }
}

/// Words that take a choice back make no other.
pub fn access_times_that_nobody_chooses(b: &Bench) {
    let lines = |words: Value| {
        b.spec(&["busybox", "grep", " /mnt ", "/proc/mounts"], |s| {
            let tmpfs =
                json!({"destination": "/mnt", "type": "tmpfs", "source": "tmpfs", "options": ["noatime", "mode=700"]});
            let again = json!({"destination": "/mnt", "type": "none", "source": "none", "options": words});
            add(s, &[tmpfs, again]);
        });
        b.fine(&["run", &b.id("x")])
    };
    assert!(lines(json!(["remount", "norelatime"])).contains("noatime"));
    assert!(lines(json!(["remount", "nostrictatime"])).contains("noatime"));
    assert!(lines(json!(["remount", "relatime"])).contains("relatime"));
}

/// The other version's mount shows the other version, where there are both.
pub fn second_version_by_name(b: &Bench) {
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    if !mounts.lines().any(|line| line.split(' ').nth(2) == Some("cgroup2")) {
        return;
    }
    b.spec(&["busybox", "grep", " /cg ", "/proc/mounts"], |s| {
        add(s, &[json!({"destination": "/cg", "type": "cgroup2", "source": "cgroup", "options": ["ro"]})]);
        s["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "cgroup"}));
    });
    let said = b.fine(&["run", &b.id("x")]);
    assert!(said.split(' ').nth(2) == Some("cgroup2") && said.lines().count() == 1, "{said}");
}

/// The kernel makes no new sysfs for whom a part of the host's is covered for, and gives no more than EPERM.
pub fn sysfs_where_a_part_is_covered(b: &Bench) {
    let map = json!([{"containerID": 0, "hostID": 0, "size": 65536}]);
    b.spec(&["sh", "-c", "busybox ls /sys/kernel; grep -c ' /sys ' /proc/mounts"], |s| {
        s["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
        (s["linux"]["uidMappings"], s["linux"]["gidMappings"]) = (map.clone(), map);
        add(s, &[sysfs()]);
    });
    let script = "mount -t tmpfs none /sys/kernel && mkdir /sys/kernel/covered && exec \"$@\"";
    let mut command = Command::new(testbed().join("tools/bin/busybox"));
    command.args(["unshare", "-m", "sh", "-c", script, "sh"]);
    let run = b.command(&["run", &b.id("x")]);
    command.arg(run.get_program()).args(run.get_args()).current_dir(b.bundle());
    let said = finish(command);
    assert_eq!((said.code, said.out.as_str()), (0, "covered\n1\n"), "{}", said.err);
}

/// A user namespace that somebody else has made: `hostUsers: false` of Kubernetes.
fn joined(b: &Bench, id: &str) -> Value {
    let map = json!([{"containerID": 0, "hostID": 0, "size": 65536}]);
    b.spec(&["sleep", "1000"], |s| {
        s["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
        (s["linux"]["uidMappings"], s["linux"]["gidMappings"]) = (map.clone(), map);
    });
    b.detached(&["run", "-d", id]);
    json!({"type": "user", "path": format!("/proc/{}/ns/user", b.state(id)["pid"])})
}

pub fn terminal_in_a_joined_user_namespace(b: &Bench) {
    let (id, other) = (b.id("x"), b.id("y"));
    let user = joined(b, &other);
    let path = b.path("console.sock");
    let listener = UnixListener::bind(&path).unwrap();
    b.spec(&["sh", "-c", "tty; cat /proc/1/stat"], |s| {
        s["process"]["terminal"] = json!(true);
        s["linux"]["namespaces"].as_array_mut().unwrap().push(user);
    });
    b.detached(&["create", "--console-socket", path.to_str().unwrap(), &id]);
    let (_, master) = receive(&listener.accept().unwrap().0);
    let reader = std::thread::spawn(move || read_all(master));
    b.fine(&["start", &id]);
    let text = reader.join().unwrap();
    let (tty, stat) = text.split_once('\n').unwrap();
    assert!(tty.starts_with("/dev/"), "{text}");
    // pid, state, parent, process group, session.
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    assert_eq!(fields[2..4], ["1", "1"], "{text}");
    b.wait_for(&id, "stopped");
    [&id, &other].iter().for_each(|id| drop(b.fine(&["delete", "-f", id])));
}

/// What belongs to the host is joined with its rights, before the user namespace.
pub fn network_of_the_host_beside_a_joined_user_namespace(b: &Bench) {
    let other = b.id("y");
    let user = joined(b, &other);
    let own = format!("/proc/{}/ns/net", std::process::id());
    b.spec(&["sh", "-c", "busybox readlink /proc/self/ns/net"], |s| {
        s["linux"]["namespaces"].as_array_mut().unwrap().retain(|n| n["type"] != "network");
        let network = json!({"type": "network", "path": own});
        s["linux"]["namespaces"].as_array_mut().unwrap().extend([user, network]);
    });
    let said = b.fine(&["run", &b.id("x")]);
    assert_eq!(said.trim(), fs::read_link(&own).unwrap().to_str().unwrap());
    b.fine(&["delete", "-f", &other]);
}

/// What says nothing is no mistake: `null` as Go writes it, a profile without a word, maps and sizes of what is not there.
pub fn fields_that_ask_for_nothing(b: &Bench) {
    let maps = json!([{"containerID": 0, "hostID": 100_000, "size": 10}]);
    for (at, value) in [
        ("/ociVersion", Value::Null),
        ("/process/user/uid", Value::Null),
        ("/process/user/gid", Value::Null),
        ("/process/consoleSize", json!({"height": 70_000, "width": null})),
        ("/process/rlimits", json!([{"type": "RLIMIT_CORE", "hard": null, "soft": null}])),
        ("/linux/seccomp", json!({})),
        ("/linux/seccomp", json!({"flags": ["SECCOMP_FILTER_FLAG_LOG"]})),
        ("/linux/uidMappings", maps.clone()),
        ("/linux/gidMappings", maps),
    ] {
        let (parent, name) = at.rsplit_once('/').unwrap();
        b.spec(&["sh", "-c", "id -u; grep Seccomp: /proc/self/status"], |s| {
            s.pointer_mut(parent).unwrap()[name] = value.clone();
        });
        let said = b.say(&["run", &b.id("x")]);
        assert_eq!(said.out, "0\nSeccomp:\t0\n", "{at} {value}: {}", said.err);
    }
    // A kernel may be without clamps (CONFIG_UCLAMP_TASK).
    let scheduler =
        json!({"policy": "SCHED_OTHER", "flags": ["SCHED_FLAG_UTIL_CLAMP_MIN", "SCHED_FLAG_UTIL_CLAMP_MAX"]});
    b.spec(&["true"], |s| s["process"]["scheduler"] = scheduler);
    let said = b.say(&["run", &b.id("x")]);
    assert!(said.code == 0 || said.err.contains("operation not supported"), "{}", said.err);
}

/// Ends with whoever has started it, also when that panics.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.kill().and_then(|()| self.0.wait()).unwrap();
    }
}

/// `unshare -U --map-root-user`: who makes a user namespace without the right to map groups forbids setgroups(2) in it.
pub fn user_namespace_that_forbids_setgroups(b: &Bench) {
    let id = b.id("x");
    let mut maker = Command::new(testbed().join("tools/bin/busybox"));
    let maker = Ends(maker.args(["unshare", "-U", "-r", "sleep", "1000"]).stdout(Stdio::null()).spawn().unwrap());
    let of_maker = |file: &str| format!("/proc/{}/{file}", maker.0.id());
    until("its map", || fs::read_to_string(of_maker("gid_map")).is_ok_and(|map| !map.is_empty()));
    let user = json!({"type": "user", "path": of_maker("ns/user")});
    let ours = rustix::process::getgroups().unwrap();
    rustix::thread::set_thread_groups(&[Gid::from_raw(4242)]).unwrap();
    let say = ["sh", "-c", "cat /proc/self/setgroups; exec grep Groups: /proc/self/status"];
    b.spec(&say, |s| s["linux"]["namespaces"].as_array_mut().unwrap().push(user.clone()));
    let init = b.say(&["run", &id]);
    b.spec(&["sleep", "1000"], |s| s["linux"]["namespaces"].as_array_mut().unwrap().push(user.clone()));
    b.detached(&["run", "-d", &id]);
    let exec = b.say(&[&["exec", &id], &say[..]].concat());
    let more = b.say(&["exec", "-g", "0", &id, "true"]);
    rustix::thread::set_thread_groups(&ours).unwrap();
    for said in [init, exec] {
        assert!(said.out.starts_with("deny\nGroups:\t"), "{}{}", said.out, said.err);
        // runc leaves the caller's, which are nobody's in there.
        assert!(!b.is_mini() || said.out.trim_end().ends_with("Groups:"), "{}", said.out);
    }
    if b.is_mini() {
        assert!(more.code == 255 && more.err.contains("/user: setgroups"), "{}", more.err);
    }
    b.fine(&["delete", "-f", &id]);
}

/// `shareProcessNamespace` beside `hostUsers: false`, with a volume.
pub fn volumes_beside_joined_user_and_pid_namespaces(b: &Bench) {
    let other = b.id("y");
    let user = joined(b, &other);
    let pid = json!({"type": "pid", "path": format!("/proc/{}/ns/pid", b.state(&other)["pid"])});
    fs::write(b.path("volume"), "of the volume\n").unwrap();
    b.spec(&["sh", "-c", "cat /mnt; busybox readlink /proc/self/ns/pid"], |s| {
        let namespaces = s["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|n| n["type"] != "pid");
        namespaces.extend([pid.clone(), user]);
        add(s, &[bind(&b.path("volume"), "/mnt")]);
    });
    let said = b.fine(&["run", &b.id("x")]);
    let namespace = fs::read_link(pid["path"].as_str().unwrap()).unwrap();
    assert_eq!(said, format!("of the volume\n{}\n", namespace.display()));
    b.fine(&["delete", "-f", &other]);
}

/// A limit of one process holds for the payload, not for those that make way for it.
pub fn one_process_in_a_user_namespace(b: &Bench) {
    let other = b.id("y");
    let user = joined(b, &other);
    let map = json!([{"containerID": 0, "hostID": 0, "size": 65536}]);
    let uts = json!({"type": "uts", "path": format!("/proc/{}/ns/uts", b.state(&other)["pid"])});
    for (namespaces, map) in
        [([user.clone(), json!({"type": "ipc"})], None), ([json!({"type": "user"}), uts], Some(map))]
    {
        b.spec(&["sh", "-c", "echo one; (echo two); :"], |s| {
            let all = s["linux"]["namespaces"].as_array_mut().unwrap();
            all.retain(|n| namespaces.iter().all(|ours| n["type"] != ours["type"]));
            all.extend(namespaces);
            if let Some(map) = map {
                (s["linux"]["uidMappings"], s["linux"]["gidMappings"]) = (map.clone(), map);
            }
            s["linux"]["resources"]["pids"] = json!({"limit": 1});
            s.as_object_mut().unwrap().remove("hostname");
        });
        for _ in 0..5 {
            let said = b.say(&["run", &b.id("x")]);
            assert_eq!(said.out.trim(), "one", "{}", said.err);
        }
    }
    b.fine(&["delete", "-f", &other]);
}

/// Named by a path or not at all, it is the host's.
pub fn sysctls_are_not_for_the_network_of_the_host(b: &Bench) {
    const FILE: &str = "/proc/sys/net/ipv4/conf/lo/log_martians";
    let before = fs::read_to_string(FILE).unwrap();
    let other = if before.trim() == "0" { "1" } else { "0" };
    for path in [None, Some(format!("/proc/{}/ns/net", std::process::id()))] {
        b.spec(&["true"], |s| {
            let namespaces = s["linux"]["namespaces"].as_array_mut().unwrap();
            namespaces.retain(|n| n["type"] != "network");
            namespaces.extend(path.map(|path| json!({"type": "network", "path": path})));
            s["linux"]["sysctl"] = json!({"net.ipv4.conf.lo.log_martians": other});
        });
        b.fails(&["run", &b.id("x")], "sysctl \"net.ipv4.conf.lo.log_martians\" not allowed in host network namespace");
        assert_eq!(fs::read_to_string(FILE).unwrap(), before);
    }
}

/// Whoever calls, hooks make files that are not everybody's, and find their bundle where they are.
pub fn surroundings_of_hooks(b: &Bench) {
    let said = b.path("said");
    let hook = |script: String| json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}]);
    b.spec(&["true"], |s| {
        s["hooks"] = json!({
            "createRuntime": hook(format!("pwd >>{0}; umask >>{0}", said.display())),
            "createContainer": hook(format!("umask >>{}", said.display())),
            "poststop": hook(format!("umask >>{}", said.display())),
        });
    });
    let mut command = b.command(&["run", "--bundle", b.bundle().to_str().unwrap(), &b.id("x")]);
    assert!(command.current_dir("/").status().unwrap().success());
    let text = fs::read_to_string(&said).unwrap();
    assert_eq!(text, format!("{}\n0022\n0022\n0022\n", b.bundle().display()));
}

/// What they say is no output of the container's; of one that fails it tells why.
pub fn hooks_speak_to_nobody(b: &Bench) {
    let words = "cat > /dev/null; echo noise; echo more >&2";
    for hook in ["createRuntime", "createContainer", "startContainer"] {
        b.spec(&["echo", "payload"], |s| {
            s["hooks"] = json!({hook: [{"path": "/bin/sh", "args": ["sh", "-c", words]}]});
        });
        let said = b.say(&["run", &b.id(hook)]);
        assert_eq!((said.code, said.out.as_str(), said.err.as_str()), (0, "payload\n", ""), "{hook}");
        b.spec(&["echo", "payload"], |s| {
            let fails = format!("head -c 2000 /dev/zero | tr '\\0' -; {words}; echo its reason >&2; exit 3");
            s["hooks"] = json!({hook: [{"path": "/bin/sh", "args": ["sh", "-c", fails]}]});
        });
        let said = b.say(&["run", &b.id(&format!("{hook}-fails"))]);
        assert!(said.code != 0 && said.out.is_empty(), "{hook}: {}", said.out);
        assert!(said.err.contains("exit status") && said.err.contains("its reason"), "{hook}: {}", said.err);
    }
}

/// A hook in the container that has no environment of its own has its process', HOME too.
pub fn environment_of_hooks_in_the_container(b: &Bench) {
    b.spec(&["cat", "/tmp/said"], |s| {
        s["process"]["env"] = json!(["PATH=/bin", "WORD=x"]);
        let args = ["sh", "-c", "echo $HOME $WORD >/tmp/said"];
        s["hooks"] = json!({"startContainer": [{"path": "/bin/sh", "args": args}]});
        add(s, &[json!({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"})]);
    });
    assert_eq!(b.fine(&["run", &b.id("x")]), "/ x\n");
}

/// It is handed over by the create, whose end nobody waits for.
pub fn listener_of_a_create(b: &Bench) {
    let (id, agent) = (b.id("x"), b.path("agent"));
    let listener = UnixListener::bind(&agent).unwrap();
    b.spec(&["true"], |s| {
        s["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": agent,
            "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY"}],
        });
    });
    listener.set_nonblocking(true).unwrap();
    let hearing = std::thread::spawn(move || {
        until("the listener comes", || {
            let mut fds = [PollFd::new(&listener, PollFlags::IN)];
            poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) == Ok(1)
        });
        let mut text = vec![0; 64 << 10];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let (peer, _) = listener.accept().unwrap();
        recvmsg(&peer, &mut [IoSliceMut::new(&mut text)], &mut control, RecvFlags::CMSG_CLOEXEC).unwrap();
        control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        })
    });
    let err = File::create(b.path("detached.err")).unwrap();
    let created = b.command(&["create", &id]).stdout(Stdio::null()).stderr(err).spawn();
    let listener = hearing.join().unwrap().expect("no descriptor came");
    assert!(created.unwrap().wait().unwrap().success());
    let link = fs::read_link(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&listener))).unwrap();
    assert_eq!(link.to_str(), Some("anon_inode:seccomp notify"));
    b.fine(&["start", &id]);
    b.wait_for(&id, "stopped");
    b.fine(&["delete", &id]);
}

/// "Any updates to config.json after this step MUST NOT affect the container": runtime-spec, runtime.md.
pub fn changes_after_the_create(b: &Bench) {
    let (id, said) = (b.id("x"), b.path("said"));
    let spec = |word: &str| {
        b.spec(&["sleep", "1000"], |s| {
            s["process"]["env"] = json!(["PATH=/bin", format!("WORD={word}")]);
            s["annotations"] = json!({"word": word});
            let args = ["sh".into(), "-c".into(), format!("echo {word} >>{}", said.display())];
            s["hooks"] = json!({"poststart": [{"path": "/bin/sh", "args": args}], "poststop": [{"path": "/bin/sh", "args": args}]});
        });
    };
    spec("first");
    b.detached(&["create", &id]);
    spec("second");
    b.fine(&["start", &id]);
    assert_eq!(b.fine(&["exec", &id, "sh", "-c", "echo $WORD"]), "first\n");
    assert_eq!(b.state(&id)["annotations"]["word"], "first");
    fs::remove_file(b.bundle().join("config.json")).unwrap();
    assert_eq!(b.fine(&["exec", &id, "sh", "-c", "echo $WORD"]), "first\n");
    b.fine(&["delete", "-f", &id]);
    assert_eq!(fs::read_to_string(&said).unwrap(), "first\nfirst\n");
}

/// Who has taken an address for the container in createRuntime gives it back in poststop: once, whatever has failed.
pub fn poststop_hooks_of_what_has_failed(b: &Bench) {
    let (id, said) = (b.id("x"), b.path("said"));
    let hook = |script: &str| json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}]);
    let with = |args: &[&str], patch: Value| {
        let _none = fs::remove_file(&said);
        b.spec(args, |s| {
            s["hooks"] = json!({"createRuntime": hook("true"), "poststop": hook(&format!("cat >>{}", said.display()))});
            for (name, hooks) in patch["hooks"].as_object().into_iter().flatten() {
                s["hooks"][name] = hooks.clone();
            }
            add(s, patch["mounts"].as_array().map_or(&[], Vec::as_slice));
        });
    };
    let once = |what: &str| {
        let text = fs::read_to_string(&said).unwrap_or_default();
        assert_eq!(text.matches(&id).count(), 1, "{what}: {text}");
        assert!(text.contains(r#""status":"stopped""#), "{what}: {text}");
    };
    for (what, args, patch) in [
        ("payload", "/nonexist", json!({})),
        ("createRuntime", "true", json!({"hooks": {"createRuntime": hook("false")}})),
        ("createContainer", "true", json!({"hooks": {"createContainer": [{"path": "/bin/false"}]}})),
        ("mount", "true", json!({"mounts": [bind(&b.path("missing"), "/x")]})),
    ] {
        with(&[args], patch);
        assert_ne!(b.say(&["create", &id]).code, 0, "{what}");
        once(what);
        assert_ne!(b.say(&["delete", &id]).code, 0, "{what}");
        once(what);
    }
    // runc runs poststart hooks in its create.
    with(&["sleep", "1000"], json!({"hooks": {"poststart": hook("false")}}));
    let quiet = |args: &[&str]| b.command(args).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
    if quiet(&["create", &id]).success() {
        assert!(!quiet(&["start", &id]).success());
        b.wait_for(&id, "stopped");
        b.fine(&["delete", &id]);
    }
    once("poststart");
}

/// docker run -v /dev/urandom:/dev/random, and directories of nodes that belong to the host.
pub fn what_is_bound_over_devices(b: &Bench) {
    let host = b.path("nodes");
    fs::create_dir(&host).unwrap();
    let node = |name: &str| {
        let device = rustix::fs::makedev(1, 3);
        mknodat(CWD, host.join(name), FileType::CharacterDevice, Mode::from_raw_mode(0o600), device).unwrap();
    };
    node("n");
    let listed = |path: &str, minor: u32, uid: u32| json!({"path": path, "type": "c", "major": 1, "minor": minor, "fileMode": 0o640, "uid": uid});
    b.spec(&["sh", "-c", "busybox ls -ln /dev/random /dev/kmsg /dev/own /dev/sub/n"], |s| {
        add(s, &[bind(Path::new("/dev/urandom"), "/dev/random"), bind(Path::new("/dev/null"), "/dev/./kmsg")]);
        add(s, &[bind(&host, "/dev/sub")]);
        s["linux"]["devices"] =
            json!([listed("/dev/kmsg", 11, 0), listed("/dev/sub/n", 3, 77), listed("/dev/own", 5, 77)]);
    });
    let said = b.fine(&["run", &b.id("x")]);
    let is = |path: &str| {
        let line = said.lines().find(|line| line.ends_with(path)).unwrap_or_else(|| panic!("{path}: {said}"));
        let words: Vec<&str> = line.split_whitespace().collect();
        (words[4..6].concat(), words[2].to_owned())
    };
    assert_eq!((is("/dev/random").0.as_str(), is("/dev/kmsg").0.as_str()), ("1,9", "1,3"));
    assert_eq!(is("/dev/sub/n"), ("1,3".into(), "0".into()));
    assert_eq!(is("/dev/own"), ("1,5".into(), "77".into()));
    let meta = fs::metadata(host.join("n")).unwrap();
    assert_eq!((meta.uid(), meta.mode() & 0o777), (0, 0o600));
}

/// A node that a container has left in its image's own /dev is neither taken for another nor given to somebody else.
pub fn devices_that_are_there(b: &Bench) {
    let dev = b.bundle().join("rootfs/dev");
    let node = |name: &str, minor: u32| {
        let device = rustix::fs::makedev(1, minor);
        mknodat(CWD, dev.join(name), FileType::CharacterDevice, Mode::from_raw_mode(0o600), device).unwrap();
    };
    let spec = || {
        b.spec(&["true"], |s| {
            s["mounts"].as_array_mut().unwrap().retain(|m| m["destination"] == "/proc");
            s["linux"]["devices"] = json!([{"path": "/dev/n", "type": "c", "major": 1, "minor": 3, "uid": 77}]);
        });
    };
    node("n", 3);
    spec();
    b.fine(&["run", &b.id("x")]);
    assert_eq!(fs::metadata(dev.join("n")).unwrap().uid(), 0);
    if b.is_mini() {
        // runc takes whatever is there.
        fs::remove_file(dev.join("n")).unwrap();
        node("n", 1);
        b.fails(&["run", &b.id("x")], "/linux/devices/0");
    }
}

/// A file that says nothing of it means the container's.
pub fn oom_score_of_an_exec(b: &Bench) {
    let id = b.id("x");
    b.spec(&["sleep", "1000"], |s| s["process"]["oomScoreAdj"] = json!(77));
    b.detached(&["run", "-d", &id]);
    let file = b.path("process.json");
    let process = json!({"args": ["cat", "/proc/self/oom_score_adj"], "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}});
    fs::write(&file, process.to_string()).unwrap();
    assert_eq!(b.fine(&["exec", "--process", file.to_str().unwrap(), &id]), "77\n");
}

pub fn cpus_of_an_exec(b: &Bench) {
    let id = b.id("x");
    b.sleeper(&id);
    let file = b.path("process.json");
    for (affinity, cpus) in [
        (json!({"initial": "0"}), "0"),
        (json!({"initial": "1"}), "1"),
        (json!({"initial": "0", "final": "1"}), "1"),
        (json!({"final": "0"}), "0"),
    ] {
        let process = json!({
            "args": ["grep", "Cpus_allowed_list", "/proc/self/status"], "cwd": "/", "env": ["PATH=/bin"],
            "user": {"uid": 0, "gid": 0}, "execCPUAffinity": affinity
        });
        fs::write(&file, process.to_string()).unwrap();
        let said = b.fine(&["exec", "--process", file.to_str().unwrap(), &id]);
        assert_eq!(said, format!("Cpus_allowed_list:\t{cpus}\n"), "{affinity}");
    }
}

/// To open a device is to do something, and no rules for devices are in force yet: only a file is opened for its words.
pub fn passwd_that_is_no_file(b: &Bench) {
    let path = b.bundle().join("rootfs/etc/passwd");
    mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o666), 0).unwrap();
    b.spec(&["env"], |_| {});
    let writer = {
        let path = path.clone();
        std::thread::spawn(move || drop(File::options().write(true).open(path).unwrap()))
    };
    let waits = || {
        fs::read_dir("/proc/self/task").unwrap().flatten().any(|task| {
            let mut text = String::new();
            let read = File::open(task.path().join("wchan")).and_then(|mut file| file.read_to_string(&mut text));
            read.is_ok() && text.contains("wait_for_partner")
        })
    };
    until("the writer waits", waits);
    assert!(b.fine(&["run", &b.id("x")]).lines().any(|line| line == "HOME=/"));
    assert!(!writer.is_finished(), "it was opened");
    let _reader = rustix::fs::open(&path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty()).unwrap();
    writer.join().unwrap();
}
