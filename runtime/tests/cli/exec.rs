//! Further processes of a container.

use serde_json::json;

use crate::bench::{Bench, until};

pub fn options(b: &Bench) {
    let id = b.id("x");
    b.sleeper(&id);
    assert_eq!(b.fine(&["exec", &id, "sh", "-c", "echo $PATH; pwd; id -u"]), "/bin\n/\n0\n");
    let args = ["exec", "--cwd", "/tmp", "-e", "A=1", "-e", "PATH=/bin:/x", "-u", "1000:1001", "-g", "7", &id];
    let script = ["sh", "-c", "pwd; echo $A $PATH; id -u; id -g; id -G"];
    let out = b.fine(&[&args[..], &script].concat());
    // runc names the added group twice.
    assert_eq!(out.replace("7 7", "7"), "/tmp\n1 /bin:/x\n1000\n1001\n1001 7\n");
    assert_eq!(b.say(&["exec", &id, "sh", "-c", "exit 3"]).code, 3);
    assert_eq!(b.say(&["exec", &id, "sh", "-c", "kill -15 $$"]).code, 143);
    assert_eq!(b.fine(&["exec", &id, "echo", "-n", "--", "-t"]), "-- -t");
    let privileges = "grep NoNewPrivs /proc/self/status";
    assert_eq!(b.fine(&["exec", "--no-new-privs", &id, "sh", "-c", privileges]), "NoNewPrivs:\t1\n");
    assert_eq!(b.fine(&["exec", &id, "sh", "-c", privileges]), "NoNewPrivs:\t0\n");
    assert_eq!(b.fine(&["exec", "--process-label", "", &id, "echo", "fine"]), "fine\n");
    let label = b.say(&["exec", "--process-label", "a:b:c", &id, "true"]);
    assert!(label.code == 255 && label.err.contains("selinux label is specified"), "{}", label.err);
    // All namespaces are init's.
    for ns in ["pid", "mnt", "uts", "ipc", "net"] {
        let links = format!("readlink /proc/1/ns/{ns}; readlink /proc/self/ns/{ns}");
        let out = b.fine(&["exec", &id, "busybox", "sh", "-c", &links.replace("readlink", "busybox readlink")]);
        let lines: Vec<&str> = out.lines().collect();
        assert_eq!((lines.len(), lines.first()), (2, lines.last()), "{ns}: {out}");
    }
}

pub fn file(b: &Bench) {
    let id = b.id("x");
    b.spec(&["sleep", "1000"], |s| {
        s["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "hard": 77, "soft": 77}]);
        s["process"]["env"] = json!(["PATH=/bin", "OF_INIT=1"]);
    });
    b.detached(&["run", "-d", &id]);
    let file = b.path("process.json");
    let process = json!({"args": ["sh", "-c", "env | grep -v PWD | grep -v SHLVL | grep -v HOME; pwd; id -u; ulimit -n"],
                         "cwd": "/tmp", "env": ["PATH=/bin", "B=2"], "user": {"uid": 5, "gid": 6}});
    std::fs::write(&file, process.to_string()).unwrap();
    let out = b.fine(&["exec", "--process", file.to_str().unwrap(), &id]);
    let mut lines: Vec<&str> = out.lines().collect();
    lines[..2].sort_unstable();
    assert_eq!(lines[..4], ["B=2", "PATH=/bin", "/tmp", "5"], "the file's, not init's");
    // runc gives it its own limits.
    if b.is_mini() {
        assert_eq!(lines[4..], ["77"], "limits of the container");
    }
    for wrong in [json!({"args": [], "cwd": "/"}), json!({"args": ["true"], "cwd": "x"}), json!({"args": ["true"]})] {
        std::fs::write(&file, wrong.to_string()).unwrap();
        let said = b.say(&["exec", "--process", file.to_str().unwrap(), &id]);
        assert_eq!(said.code, 255, "{wrong}");
    }
}

pub fn file_excludes_options(b: &Bench) {
    let id = b.id("x");
    b.sleeper(&id);
    let file = b.path("process.json");
    std::fs::write(&file, r#"{"args":["/bin/true"],"cwd":"/"}"#).unwrap();
    let file = file.to_str().unwrap();
    b.fine(&["exec", "--process", file, &id]);
    b.fails(&["exec", "--process", file, "--cwd", "/tmp", &id], "cannot be used with --process");
    b.fails(&["exec", "--process", file, &id, "true"], "not both");
}

pub fn detached(b: &Bench) {
    let id = b.id("x");
    b.sleeper(&id);
    let pid_file = b.path("exec-pid");
    b.detached(&["exec", "-d", "--pid-file", pid_file.to_str().unwrap(), &id, "sleep", "1000"]);
    let pid: u32 = std::fs::read_to_string(&pid_file).unwrap().parse().unwrap();
    let pids: Vec<u32> = serde_json::from_str(&b.fine(&["ps", "-f", "json", &id])).unwrap();
    assert!(pids.contains(&pid) && pids.len() == 2, "{pid} {pids:?}");
    b.fine(&["kill", &id, "KILL"]);
    until("the exec to end with init", || !std::path::Path::new(&format!("/proc/{pid}/exe")).exists());
}

pub fn failures(b: &Bench) {
    let id = b.id("x");
    b.sleeper(&id);
    for (program, words) in [
        ("nope", "exec: \"nope\": executable file not found in $PATH"),
        ("/nope", "exec: \"/nope\": stat /nope: no such file or directory"),
        ("/etc/plain", "exec: \"/etc/plain\": permission denied"),
        ("/etc", "exec: \"/etc\": is a directory"),
    ] {
        let said = b.say(&["exec", &id, program]);
        assert_eq!(said.code, 255, "{program}");
        let plain = said.err.replace("\\\"", "\"");
        assert!(plain.contains(words), "{plain}");
    }
    let said = b.say(&["exec", "--cwd", "/nowhere", &id, "true"]);
    assert_eq!(said.code, 255);
    assert!(said.err.contains("no such file or directory"), "{}", said.err);
    let pids: Vec<u32> = serde_json::from_str(&b.fine(&["ps", "-f", "json", &id])).unwrap();
    assert_eq!(pids.len(), 1, "nothing of the failed ones is left");
}

pub fn capabilities(b: &Bench) {
    let id = b.id("x");
    b.sleeper(&id);
    let sets = ["sh", "-c", "grep -E 'Cap(Inh|Prm|Eff|Bnd|Amb)' /proc/self/status"];
    // KILL 5, SETUID 7, SETGID 6, CHOWN 0; NET_ADMIN is 12.
    let plain = b.fine(&[&["exec", id.as_str()][..], &sets].concat());
    let expect = |bits: &str| {
        let none = "0000000000000000";
        format!("CapInh:\t{none}\nCapPrm:\t{bits}\nCapEff:\t{bits}\nCapBnd:\t{bits}\nCapAmb:\t{none}\n")
    };
    assert_eq!(plain, expect("00000000000000e1"));
    let more = b.fine(&[&["exec", "-c", "CAP_NET_ADMIN", id.as_str()][..], &sets].concat());
    assert_eq!(more, expect("00000000000010e1"));
}

pub fn users_are_exact(b: &Bench) {
    let id = b.id("x");
    b.sleeper(&id);
    std::fs::write(b.bundle().join("rootfs/etc/passwd"), "1000:x:0:0::/:/bin/sh\n").unwrap();
    for (user, answer) in
        [("1", "1"), ("1:2", "1"), ("1000", "1000"), ("2147483648", "2147483648"), ("4294967294", "4294967294")]
    {
        assert_eq!(
            b.fine(&["exec", "-u", user, &id, "sh", "-c", "grep Uid /proc/self/status | busybox cut -f2"]).trim(),
            answer
        );
    }
    for user in ["+1", " 1", "1x", "4294967295", "4294967296", "-1", "1:", ":1", "root", ""] {
        let said = b.say(&["exec", "-u", user, &id, "id", "-u"]);
        assert_eq!((said.code, said.out.as_str()), (255, ""), "{user:?}");
    }
}

/// `--cgroup`: on version 1 by controller or on all, else in the one tree.
pub fn in_groups_below(b: &Bench) {
    let id = b.id("x");
    b.sleeper(&id);
    let pid = b.state(&id)["pid"].as_u64().unwrap();
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let own = |controller: &str| -> Option<String> {
        let mut lines = groups.lines().map(|line| line.splitn(3, ':').skip(1));
        lines
            .find_map(|mut words| words.next()?.split(',').any(|c| c == controller).then(|| words.next())?)
            .map(str::to_owned)
    };
    let hierarchies = runtime::cgroup::Layout::read().unwrap();
    let mut made = Vec::new();
    for mount in hierarchies.v1.iter().map(|h| (&h.mount, h.controllers.first().cloned().unwrap_or_default())) {
        // A named hierarchy goes by its whole name in /proc/PID/cgroup.
        let name = if mount.1.is_empty() { "name=systemd".to_owned() } else { mount.1 };
        let Some(group) = own(&name) else { continue };
        made.push(mount.0.join(group.trim_start_matches('/')).join("below"));
    }
    if let (Some(unified), Some(group)) = (&hierarchies.unified, own("")) {
        made.push(unified.mount.join(group.trim_start_matches('/')).join("below"));
    }
    assert!(!made.is_empty(), "{groups}");
    for dir in &made {
        std::fs::create_dir(dir).unwrap();
        for name in ["cpuset.cpus", "cpuset.mems"] {
            let inherited = std::fs::read_to_string(dir.with_file_name(name)).unwrap_or_default();
            let _ = std::fs::write(dir.join(name), inherited.trim());
        }
    }
    let inside = |words: &[&str]| b.fine(&[&["exec"], words, &[&id, "cat", "/proc/self/cgroup"]].concat());
    let all = inside(&["--cgroup", "below"]);
    assert!(all.lines().filter(|line| line.ends_with("/below")).count() >= made.len(), "{all}\n{made:?}");
    if own("pids").is_some() && own("memory").is_some() {
        let some = inside(&["--cgroup", "pids,memory:below"]);
        let moved = |line: &&str| line.ends_with("/below");
        let names: Vec<&str> = some.lines().filter(moved).map(|l| l.split(':').nth(1).unwrap()).collect();
        assert!(names.len() == 2 && names.contains(&"pids") && names.contains(&"memory"), "{some}");
        b.fails(&["exec", "--cgroup", "pids:below", "--cgroup", "below", &id, "true"], "missing <controller>: prefix");
        b.fails(&["exec", "--cgroup", "nosuch:below", &id, "true"], "unknown controller nosuch in SubCgroupPaths");
    }
    b.fails(&["exec", "--cgroup", "nosuch", &id, "true"], "no such file or directory");
    b.fine(&["delete", "--force", &id]);
    assert!(!made.iter().any(|dir| dir.exists()), "groups below stay");
}
