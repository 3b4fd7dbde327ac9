//! The life of a container by the command line.

use std::io::{BufRead, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::bench::{Bench, Said, finish, until};

pub fn exit_codes(b: &Bench) {
    for (script, code) in [("exit 0", 0), ("exit 7", 7), ("exit 255", 255), ("kill -9 $$", 137)] {
        // Without a pid namespace: the first process of one cannot kill itself.
        b.spec(&["sh", "-c", script], |s| drop(s["linux"]["namespaces"].as_array_mut().unwrap().remove(0)));
        assert_eq!(b.say(&["run", &b.id("x")]).code, code, "{script}");
    }
    assert_eq!(b.fine(&["list", "-q"]), "", "run deletes what has ended");
    b.spec(&["true"], |_| {});
    b.fine(&["run", "--keep", "--no-subreaper", &b.id("kept")]);
    assert_eq!(b.status(&b.id("kept")), "stopped");
}

pub fn streams(b: &Bench) {
    b.spec(&["sh", "-c", "cat; echo error >&2"], |_| {});
    let id = b.id("x");
    let mut command = b.command(&["run", &id]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let text = "line\n".repeat(50_000);
    let mut stdin = child.stdin.take().unwrap();
    let sent = text.clone();
    let writer = std::thread::spawn(move || stdin.write_all(sent.as_bytes()).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success());
    assert_eq!(output.stdout.len(), text.len());
    assert_eq!(String::from_utf8_lossy(&output.stderr), "error\n");
}

pub fn states(b: &Bench) {
    let id = b.id("x");
    b.spec(&["sh", "-c", "echo ran > /tmp/ran; sleep 1000"], |s| s["annotations"] = json!({"some.key": "value"}));
    let pid_file = b.path("pid");
    b.detached(&["create", "--pid-file", pid_file.to_str().unwrap(), &id]);
    let state = b.state(&id);
    let pid = state["pid"].as_u64().unwrap();
    assert_eq!(std::fs::read_to_string(pid_file).unwrap(), pid.to_string());
    assert_eq!(state["id"], *id);
    assert_eq!(state["status"], "created");
    assert_eq!(state["annotations"]["some.key"], "value");
    assert_eq!(state["bundle"], *b.bundle().to_str().unwrap());
    assert_eq!(state["rootfs"], *b.bundle().join("rootfs").to_str().unwrap());
    for key in ["ociVersion", "created", "owner"] {
        assert!(state[key].is_string(), "{key}: {state}");
    }
    assert_ne!(state["ociVersion"], "1.2.0", "the state's own, not the bundle's");
    let ran = b.bundle().join("rootfs/tmp/ran");
    assert!(!ran.exists(), "nothing runs before start");
    b.fails(&["create", &id], "container with given ID already exists");
    b.fine(&["start", &id]);
    until("the process", || ran.exists());
    assert_eq!(b.status(&id), "running");
    b.fails(&["start", &id], "cannot start an already running container");
    b.fails(&["delete", &id], &format!("cannot delete container {id} that is not stopped: running"));
    b.fine(&["kill", &id, "KILL"]);
    b.wait_for(&id, "stopped");
    assert_eq!(b.state(&id)["pid"], 0);
    b.fails(&["start", &id], "cannot start a container that has stopped");
    b.fails(&["exec", &id, "true"], "cannot exec in a stopped container");
    for events in [&["events", "--stats", &id][..], &["events", &id]] {
        b.fails(events, &format!("container with id {id} is not running"));
    }
    b.fine(&["delete", &id]);
    b.fails(&["state", &id], "container does not exist");
}

/// With runc nobody waits between the two, as it takes its time to look.
pub fn killed_and_deleted(b: &Bench) {
    for round in 0..5 {
        let id = b.id(&format!("k{round}"));
        // The first process of a pid namespace ends after all others.
        b.spec(&["sh", "-c", "for i in $(seq 60); do sleep 1000 & done; touch /tmp/all; wait"], |_| {});
        b.detached(&["run", "--detach", &id]);
        let all = b.bundle().join("rootfs/tmp/all");
        until("its processes", || all.exists());
        b.fine(&["kill", &id, "KILL"]);
        b.fine(&["delete", &id]);
        std::fs::remove_file(all).unwrap();
    }
}

pub fn ids(b: &Bench) {
    for id in ["a/b", "..", "a b", "ä", "a:b"] {
        b.fails(&["create", id], "invalid container ID format");
    }
    let long = "x".repeat(1000);
    b.fails(&["create", &long], "");
    for command in ["start", "state", "kill", "delete", "pause", "resume", "ps"] {
        b.fails(&[command, &b.id("nobody")], "container does not exist");
    }
    b.fails(&["exec", &b.id("nobody"), "true"], "container does not exist");
    assert_eq!(b.fine(&["list", "-q"]), "");
}

pub fn delete(b: &Bench) {
    let id = b.id("x");
    b.fine(&["delete", "-f", &id]);
    b.spec(&["true"], |_| {});
    b.detached(&["create", &id]);
    b.fine(&["delete", &id]);
    b.sleeper(&id);
    let pid = b.state(&id)["pid"].as_u64().unwrap();
    b.fine(&["delete", "--force", &id]);
    assert!(!Path::new(&format!("/proc/{pid}/exe")).exists());
    assert_eq!(groups(&id), Vec::<String>::new());
    assert_eq!(std::fs::read_dir(b.root()).unwrap().count(), 0);
    // A create that was killed in its first moment.
    std::fs::create_dir(b.root().join(&id)).unwrap();
    b.fine(&["delete", "-f", &id]);
    assert!(!b.root().join(&id).exists());
}

/// What is made for the container does not depend on the caller's umask, and neither does what the container makes.
pub fn any_umask(b: &Bench) {
    use std::os::unix::fs::PermissionsExt;
    for (number, umask) in ["000", "022", "077", "777"].into_iter().enumerate() {
        let id = b.id(&number.to_string());
        b.spec(&["sh", "-c", "umask; exec sleep 1000"], |_| {});
        let plain = b.command(&["create", &id]);
        let out = std::fs::File::create(b.path("umask.out")).unwrap();
        let mut command = Command::new("sh");
        command
            .args(["-c", &format!("umask {umask}; exec \"$0\" \"$@\"")])
            .arg(plain.get_program())
            .args(plain.get_args());
        let status = command.current_dir(b.bundle()).stdin(Stdio::null()).stdout(out).status().unwrap();
        assert!(status.success(), "umask {umask}");
        if b.is_mini() {
            let mode = std::fs::metadata(b.root().join(&id)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o711, "umask {umask}");
        }
        b.fine(&["start", &id]);
        until("its umask", || std::fs::read_to_string(b.path("umask.out")).unwrap() == "0022\n");
        b.fine(&["delete", "-f", &id]);
    }
}

pub fn kill(b: &Bench) {
    let id = b.id("x");
    b.spec(
        &["sh", "-c", "trap 'exit 5' USR1; trap 'exit 6' 35; touch /tmp/ready; while :; do sleep 0.01; done"],
        |_| {},
    );
    std::os::unix::fs::symlink("busybox", b.bundle().join("rootfs/bin/touch")).unwrap();
    for signal in ["USR1", "SIGUSR1", "10"] {
        let _ = std::fs::remove_file(b.bundle().join("rootfs/tmp/ready"));
        b.detached(&["run", "-d", &id]);
        until("the trap", || b.bundle().join("rootfs/tmp/ready").exists());
        b.fine(&["kill", &id, signal]);
        b.wait_for(&id, "stopped");
        b.fails(&["kill", &id, signal], "container not running");
        b.fine(&["delete", &id]);
    }
    b.sleeper(&id);
    b.fails(&["kill", &id, "NOSUCH"], "unknown signal");
    b.fails(&["kill", &id, "-9x"], "");
    assert_eq!(b.status(&id), "running");
}

/// What would end a program ends what waits for its start, though that is the first process of a pid namespace, which
/// signals without a handler do not reach.
pub fn killed_before_its_start(b: &Bench) {
    for signal in ["HUP", "TERM", "KILL"] {
        let id = b.id(signal);
        b.spec(&["sleep", "1000"], |_| {});
        b.detached(&["create", &id]);
        b.fine(&["kill", &id, signal]);
        b.wait_for(&id, "stopped");
        b.fails(&["start", &id], "");
        b.fine(&["delete", &id]);
    }
}

pub fn list(b: &Bench) {
    let (one, two) = (b.id("1"), b.id("2"));
    assert_eq!(b.fine(&["list", "-q"]), "");
    b.sleeper(&one);
    b.detached(&["create", &two]);
    assert_eq!(b.fine(&["list", "-q"]), format!("{one}\n{two}\n"));
    let all: Value = serde_json::from_str(&b.fine(&["list", "--format", "json"])).unwrap();
    assert_eq!(all[0]["status"], "running");
    assert_eq!(all[1]["status"], "created");
    assert_eq!(all[0]["owner"], "root");
    let table = b.fine(&["list"]);
    let rows: Vec<Vec<&str>> = table.lines().map(|l| l.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]);
    assert_eq!((rows[1][0], rows[2][2]), (one.as_str(), "created"));
    let pids: Vec<u64> = serde_json::from_str(&b.fine(&["ps", "--format", "json", &one])).unwrap();
    assert_eq!(pids, [b.state(&one)["pid"].as_u64().unwrap()]);
    assert_eq!(b.fine(&["ps", &one]).lines().count(), 2);
}

pub fn pause(b: &Bench) {
    let id = b.id("x");
    b.sleeper(&id);
    b.fine(&["pause", &id]);
    assert_eq!(b.status(&id), "paused");
    b.fails(&["exec", &id, "true"], "cannot exec in a paused container (use --ignore-paused to override)");
    b.fails(&["delete", &id], "that is not stopped: paused");
    b.fine(&["resume", &id]);
    assert_eq!(b.status(&id), "running");
    b.fails(&["resume", &id], "container not paused");
    b.fine(&["pause", &id]);
    b.fine(&["delete", "-f", &id]);
}

/// In a pid namespace of others the end of init ends nobody.
pub fn killed_without_a_pid_namespace(b: &Bench) {
    let id = b.id("x");
    b.spec(&["sh", "-c", "sleep 1000 & exec sleep 1000"], |s| {
        s["linux"]["namespaces"].as_array_mut().unwrap().retain(|n| n["type"] != "pid");
    });
    b.detached(&["run", "-d", &id]);
    let pids = || {
        serde_json::from_str::<Option<Vec<u32>>>(&b.fine(&["ps", "--format", "json", &id])).unwrap().unwrap_or_default()
    };
    until("its processes", || pids().len() == 2);
    b.fine(&["kill", &id, "TERM"]);
    until("the end of init", || pids().len() == 1);
    b.fine(&["kill", &id, "KILL"]);
    until("the end of the other", || pids().is_empty());
    b.fine(&["delete", &id]);
}

/// Whoever is in the groups of a container that has ended, with a pid namespace of its own, is a stranger.
pub fn stranger_below_its_group(b: &Bench) {
    let (id, below) = (b.id("x"), b.id("below"));
    let path = |spec: &mut Value, path: String| spec["linux"]["cgroupsPath"] = path.into();
    b.spec(&["sleep", "1000"], |s| path(s, format!("/{id}")));
    b.detached(&["run", "-d", &id]);
    b.spec(&["sleep", "1000"], |s| path(s, format!("/{id}/below")));
    b.detached(&["run", "-d", &below]);
    b.fine(&["kill", &id, "KILL"]);
    b.wait_for(&id, "stopped");
    b.fails(&["delete", &id], "");
    assert_eq!(b.status(&below), "running");
    b.fine(&["delete", "-f", &below]);
    b.fine(&["delete", &id]);
}

/// 0 is no limit: so says who has no other way to say it (LinuxPids of runtime-spec 1.2).
pub fn no_limit_for_processes(b: &Bench) {
    let id = b.id("x");
    b.spec(&["sh", "-c", "sleep 1000 & wait"], |s| s["linux"]["resources"] = json!({"pids": {"limit": 0}}));
    b.detached(&["run", "-d", &id]);
    until("a fork", || b.fine(&["ps", "--format", "json", &id]).matches(',').count() == 1);
    b.fine(&["update", "--pids-limit", "0", &id]);
    b.fine(&["exec", &id, "sh", "-c", "true & wait"]);
    b.fine(&["delete", "-f", &id]);
}

/// On cgroup v1 it could not die.
pub fn killed_while_paused(b: &Bench) {
    let id = b.id("x");
    b.sleeper(&id);
    b.fine(&["pause", &id]);
    b.fine(&["kill", &id, "KILL"]);
    b.wait_for(&id, "stopped");
    b.fine(&["delete", &id]);
}

pub fn update_and_statistics(b: &Bench) {
    let id = b.id("x");
    b.sleeper(&id);
    b.fine(&["update", &id, "--pids-limit", "20", "--memory", "67108864"]);
    let limits = |b: &Bench| {
        let line: Value = serde_json::from_str(&b.fine(&["events", "--stats", &id])).unwrap();
        assert_eq!(line["type"], "stats");
        assert_eq!(line["id"], *id);
        (line["data"]["memory"]["usage"]["limit"].as_u64().unwrap(), line["data"]["pids"]["limit"].as_u64())
    };
    assert_eq!(limits(b), (64 << 20, Some(20)));
    let file = b.path("resources.json");
    std::fs::write(&file, r#"{"memory":{"limit":134217728},"pids":{"limit":-1}}"#).unwrap();
    b.fine(&["update", "--resources", file.to_str().unwrap(), &id]);
    assert_eq!(limits(b).0, 128 << 20);
    b.fails(&["update", &id, "--memory", "much"], "");
    b.fine(&["update", &id, "--memory", "0.0625GiB"]);
    assert_eq!(limits(b).0, 64 << 20);
    b.fine(&["update", &id, "--memory", "128m"]);
    for option in ["--kernel-memory", "--kernel-memory-tcp"] {
        let said = b.say(&["update", option, "50m", &id]);
        assert!(said.code == 0 && said.err.contains("Kernel memory settings are ignored"), "{option}: {}", said.err);
    }
    for option in ["--l3-cache-schema", "--mem-bw-schema"] {
        b.fails(&["update", option, "MB:0=20", &id], "RDT");
        b.fine(&["update", option, "", &id]);
    }
    std::fs::write(&file, "{").unwrap();
    b.fails(&["update", "--resources", file.to_str().unwrap(), &id], "");
    assert_eq!(limits(b).0, 128 << 20);
}

/// The kernel forgets the shares of an idle group.
pub fn update_of_an_idle_group(b: &Bench) {
    let dir = Path::new("/sys/fs/cgroup/cpu");
    if !dir.join("cpu.shares").exists() {
        return;
    }
    let id = b.id("x");
    let dir = dir.join(format!("{id}-group"));
    b.spec(&["sleep", "1000"], |s| {
        s["linux"]["cgroupsPath"] = json!(format!("/{id}-group"));
        s["linux"]["resources"] = json!({"cpu": {"shares": 512}});
    });
    b.detached(&["run", "-d", &id]);
    if dir.join("cpu.idle").exists() {
        b.fine(&["update", &id, "--cpu-idle", "1"]);
        b.fine(&["update", &id, "--cpu-idle", "0"]);
        assert_eq!(std::fs::read_to_string(dir.join("cpu.shares")).unwrap(), "512\n");
    }
}

/// Nobody is killed, and whoever waits for news is told all the same (Moby's TestEventsOOMDisableTrue). Version 1 only.
pub fn events_without_an_oom_killer(b: &Bench) {
    if !Path::new("/sys/fs/cgroup/memory/memory.oom_control").exists() {
        return;
    }
    let id = b.id("x");
    b.spec(&["sh", "-c", "until [ -e /go ]; do sleep 0.05; done; while :; do x=0123456789$x$x; done"], |s| {
        s["linux"]["resources"] = json!({"memory": {"limit": 20 << 20, "swap": 20 << 20, "disableOOMKiller": true}});
    });
    b.detached(&["run", "-d", &id]);
    let mut events = b.command(&["events", "--interval", "1s", &id]).stdout(Stdio::piped()).spawn().unwrap();
    let (heard, lines) = std::sync::mpsc::channel();
    let out = std::io::BufReader::new(events.stdout.take().unwrap());
    std::thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|line| heard.send(line)));
    let next = |kind: &str| {
        until(kind, || {
            let line: Value = serde_json::from_str(&lines.recv_timeout(Duration::from_secs(20)).unwrap()).unwrap();
            line["type"] == kind
        });
    };
    next("stats"); // it listens
    std::fs::write(b.bundle().join("rootfs/go"), "").unwrap();
    next("oom");
    events.kill().unwrap();
    events.wait().unwrap();
    assert_eq!(b.status(&id), "running");
    b.fine(&["delete", "-f", &id]);
}

/// Of an update that the kernel refuses half way nothing stays.
pub fn update_that_is_refused(b: &Bench) {
    let groups = Path::new("/sys/fs/cgroup");
    if !groups.join("cpuset/cpuset.cpus").exists() {
        return;
    }
    let id = b.id("x");
    b.spec(&["sleep", "1000"], |s| {
        s["linux"]["cgroupsPath"] = json!(format!("/{id}-group"));
        s["linux"]["resources"] = json!({"pids": {"limit": 500}, "cpu": {"shares": 512}});
    });
    b.detached(&["run", "-d", &id]);
    let file = b.path("resources.json");
    std::fs::write(&file, r#"{"pids":{"limit":78},"cpu":{"shares":100,"cpus":"900"}}"#).unwrap();
    b.fails(&["update", "--resources", file.to_str().unwrap(), &id], "cpuset.cpus");
    for (file, value) in [("pids/$/pids.max", "500\n"), ("cpu/$/cpu.shares", "512\n")] {
        let path = groups.join(file.replace('$', &format!("{id}-group")));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), value, "{file}");
    }
}

/// The CRI sends the rules of the start with every update; a hook, or somebody else, may have allowed more since.
pub fn update_leaves_the_devices(b: &Bench) {
    let Ok(devices) = std::fs::canonicalize("/sys/fs/cgroup/devices") else { return };
    let id = b.id("x");
    let rules = json!([
        {"allow": false, "access": "rwm"},
        {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rwm"}
    ]);
    b.spec(&["sleep", "1000"], |s| {
        s["linux"]["cgroupsPath"] = json!(format!("/{id}-group"));
        s["linux"]["resources"] = json!({"devices": rules});
    });
    b.detached(&["run", "-d", &id]);
    let dir = devices.join(format!("{id}-group"));
    std::fs::write(dir.join("devices.allow"), "c 195:* rwm").unwrap();
    let list = || std::fs::read_to_string(dir.join("devices.list")).unwrap();
    let before = list();
    assert!(before.contains("c 195:* rwm"), "{before}");
    let file = b.path("resources.json");
    std::fs::write(&file, json!({"cpu": {"shares": 512}, "devices": rules}).to_string()).unwrap();
    b.fine(&["update", "--resources", file.to_str().unwrap(), &id]);
    assert_eq!(list(), before);
}

/// Whoever is root inside sees the process of an exec before its execve, and may stop it: it stays neither there nor outside of its
/// groups, where it is on version 1 until it has joined them.
pub fn exec_that_is_stopped(b: &Bench) {
    let id = b.id("x");
    b.spec(&["sh", "-c", "while :; do kill -STOP -1; done 2>/dev/null"], |_| {});
    b.detached(&["run", "-d", &id]);
    b.fails(&["exec", &id, "true"], "the process has been stopped by a signal for 10 s");
    assert_eq!(b.fine(&["ps", "-f", "json", &id]).split(',').count(), 1, "nobody but its init is left");
    b.fine(&["delete", "-f", &id]);
}

/// A version 1 group that is full does not keep out who joins it from outside, so that somebody can look into it; to be born in a
/// version 2 group that is full is EAGAIN.
pub fn exec_into_a_full_group(b: &Bench) {
    let id = b.id("x");
    b.sleeper(&id);
    let limits = || {
        let line: Value = serde_json::from_str(&b.fine(&["events", "--stats", &id])).unwrap();
        (line["data"]["pids"]["current"].as_u64(), line["data"]["pids"]["limit"].as_u64())
    };
    b.fine(&["update", &id, "--pids-limit", "1"]);
    assert_eq!(limits(), (Some(1), Some(1)));
    if !Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        // runc's Go runtime needs threads, and aborts where it has not started them all before runc moves it into the group.
        let lost = |said: &Said| !b.is_mini() && said.err.contains("pthread_create failed");
        let said =
            (0..50).map(|_| b.say(&["exec", &id, "true"])).find(|said| !lost(said)).expect("one of 50 has its threads");
        assert_eq!(said.code, 0, "{}{}", said.out, said.err);
    } else if b.is_mini() {
        b.fails(&["exec", &id, "true"], "clone3: resource temporarily unavailable");
    }
    assert_eq!((limits().0, b.status(&id).as_str()), (Some(1), "running"));
    b.fine(&["update", &id, "--pids-limit", "50"]);
    b.fine(&["exec", &id, "true"]);
}

pub fn log(b: &Bench) {
    let file = b.path("log.json");
    let said = b.say(&["--log", file.to_str().unwrap(), "--log-format", "json", "state", "nobody"]);
    assert_eq!(said.code, 1);
    assert!(said.err.contains("container does not exist"), "{}", said.err);
    let text = std::fs::read_to_string(&file).unwrap();
    let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(last["level"], "error");
    assert!(last["msg"].as_str().unwrap().contains("container does not exist"));
    assert!(last["time"].as_str().unwrap().starts_with("20"));
    b.say(&["--log", file.to_str().unwrap(), "--log-format", "json", "state", "nobody"]);
    assert!(std::fs::read_to_string(&file).unwrap().starts_with(&text), "the log is appended to");
}

pub fn options_after_the_id(b: &Bench) {
    let id = b.id("x");
    b.spec(&["sleep", "1000"], |_| {});
    let bundle = b.bundle();
    let mut command = b.command(&["create", &id, "--bundle", bundle.to_str().unwrap()]);
    assert!(command.current_dir("/").stdout(Stdio::null()).status().unwrap().success());
    b.fine(&["start", &id]);
    b.fine(&["delete", &id, "--force"]);
}

pub fn preserved_descriptors(b: &Bench) {
    let file = b.path("text");
    std::fs::write(&file, "through descriptor 3\n").unwrap();
    b.spec(&["sh", "-c", "cat <&3; ls /proc/self/fd"], |_| {});
    std::os::unix::fs::symlink("busybox", b.bundle().join("rootfs/bin/ls")).unwrap();
    let program = b.command(&["run"]).get_program().to_owned();
    let line = format!(
        "exec 3<{} 4</dev/null 9</; exec {} --root {} run --preserve-fds $1 {}",
        file.display(),
        program.to_str().unwrap(),
        b.root().display(),
        b.id("x")
    );
    let run = |n: &str| {
        let mut shell = Command::new("sh");
        shell.args(["-c", &line, "sh", n]).current_dir(b.bundle()).stdin(Stdio::null());
        finish(shell)
    };
    // ls has one more of its own, for /proc/self/fd.
    assert_eq!(run("1").out, "through descriptor 3\n0\n1\n2\n3\n4\n");
    // In runc the number may be one of its own by then.
    let said = run(if b.is_mini() { "3" } else { "99" });
    assert!(said.code != 0 && said.err.contains("unable to stat preserved-fd"), "{}", said.err);
}

/// Of a service manager, which says whom it means (sd_listen_fds(3)); what is preserved comes behind them.
pub fn sockets_of_a_service_manager(b: &Bench) {
    let file = b.path("text");
    std::fs::write(&file, "socket\n").unwrap();
    b.spec(&["sh", "-c", "echo $LISTEN_FDS $LISTEN_PID; cat <&3; ls /proc/self/fd"], |_| {});
    std::os::unix::fs::symlink("busybox", b.bundle().join("rootfs/bin/ls")).unwrap();
    let program = b.command(&["run"]).get_program().to_owned();
    // ls has one more of its own, for /proc/self/fd; another's sockets are not for us.
    let (one, two) = ("1 1\nsocket\n0\n1\n2\n3\n4\n", "1 1\nsocket\n0\n1\n2\n3\n4\n5\n");
    for (pid, preserved, said) in [("$$", 0, one), ("$$", 1, two), ("1", 0, "\n0\n1\n2\n3\n")] {
        let mut shell = Command::new("sh");
        let line = format!(
            "exec 3<{} 4</dev/null; export LISTEN_FDS=1 LISTEN_PID={pid}; exec {} --root {} run --preserve-fds {preserved} {}",
            file.display(),
            program.to_str().unwrap(),
            b.root().display(),
            b.id("x")
        );
        shell.args(["-c", &line]).current_dir(b.bundle()).stdin(Stdio::null());
        assert_eq!(finish(shell).out, said, "LISTEN_PID={pid}, {preserved} preserved");
    }
}

pub fn signals_are_passed_on(b: &Bench) {
    std::os::unix::fs::symlink("busybox", b.bundle().join("rootfs/bin/touch")).unwrap();
    b.spec(&["sh", "-c", "trap 'exit 9' TERM; trap 'exit 8' HUP; touch /tmp/up; while :; do sleep 0.01; done"], |_| {});
    for (signal, code) in [(rustix::process::Signal::TERM, 9), (rustix::process::Signal::HUP, 8)] {
        let ready = b.bundle().join("rootfs/tmp/up");
        let _ = std::fs::remove_file(&ready);
        let mut child = b.command(&["run", &b.id("x")]).spawn().unwrap();
        until("the trap", || ready.exists());
        rustix::process::kill_process(rustix::process::Pid::from_child(&child), signal).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(code));
    }
}

/// Directories named after a container in any hierarchy.
pub fn groups(id: &str) -> Vec<String> {
    let find = Command::new("find").args(["/sys/fs/cgroup", "-type", "d", "-name", id]).output().unwrap();
    String::from_utf8_lossy(&find.stdout).lines().map(str::to_owned).collect()
}

pub fn failed_creates_leave_nothing(b: &Bench) {
    let id = b.id("x");
    let cases: [(&[&str], &str); 4] = [
        (&["nope"], "exec: \"nope\": executable file not found in $PATH"),
        (&["/nope"], "exec: \"/nope\": stat /nope: no such file or directory"),
        (&["/etc/plain"], "exec: \"/etc/plain\": permission denied"),
        (&["/etc"], "exec: \"/etc\": is a directory"),
    ];
    for (args, words) in cases {
        b.spec(args, |_| {});
        b.fails(&["create", &id], words);
        assert!(!b.root().join(&id).exists(), "{args:?}");
        assert_eq!(groups(&id), Vec::<String>::new(), "{args:?}");
    }
    b.spec(&["true"], |s| {
        s["mounts"][0] = json!({"destination": "/x", "source": "/no/such/source", "options": ["bind"]})
    });
    b.fails(&["run", &id], "no such file or directory");
    std::fs::write(b.bundle().join("config.json"), "{\"ociVersion\":").unwrap();
    b.fails(&["run", &id], "");
    std::fs::remove_file(b.bundle().join("config.json")).unwrap();
    b.fails(&["run", &id], "config.json");
    assert_eq!(b.fine(&["list", "-q"]), "");
    // Told nobody about the container, so it must not be.
    b.spec(&["sleep", "1000"], |_| {});
    b.fails(&["create", "--pid-file", "/no/such/dir/pid", &id], "");
    assert_eq!(b.fine(&["list", "-q"]), "");
    assert_eq!(groups(&id), Vec::<String>::new());
}

pub fn spec(b: &Bench) {
    let new = b.path("new");
    std::fs::create_dir(&new).unwrap();
    b.fine(&["spec", "--bundle", new.to_str().unwrap()]);
    b.fails(&["spec", "--bundle", new.to_str().unwrap()], "exists. Remove it first");
    let text = std::fs::read_to_string(new.join("config.json")).unwrap();
    let mut spec: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(spec["process"]["terminal"], true);
    spec["process"]["terminal"] = json!(false);
    spec["process"]["args"] = json!(["sh", "-c", "id -u; cat /proc/kcore | head -c 1"]);
    std::os::unix::fs::symlink("busybox", b.bundle().join("rootfs/bin/head")).unwrap();
    std::fs::write(b.bundle().join("config.json"), spec.to_string()).unwrap();
    assert_eq!(b.fine(&["run", &b.id("x")]), "0\n");
    std::fs::remove_file(new.join("config.json")).unwrap();
    b.fine(&["spec", "--rootless", "-b", new.to_str().unwrap()]);
    std::fs::copy(new.join("config.json"), b.bundle().join("config.json")).unwrap();
    let features: Value = serde_json::from_str(&b.fine(&["features"])).unwrap();
    assert!(features["mountOptions"].as_array().unwrap().iter().any(|o| o == "rro"));
    assert!(features["linux"]["namespaces"].as_array().unwrap().iter().any(|n| n == "user"));
    assert!(features["linux"]["seccomp"]["enabled"].as_bool().unwrap());
    assert!(features["linux"]["mountExtensions"]["idmap"]["enabled"].is_boolean());
    let acted_on = features["potentiallyUnsafeConfigAnnotations"].as_array().unwrap();
    assert!(acted_on.iter().any(|prefix| prefix == "org.systemd.property."));
    assert!(b.fine(&["--version"]).contains("version"));
}

pub fn plan_needs_no_privileges(b: &Bench) {
    b.spec(&["true"], |_| {});
    let mut command = b.command(&["plan", "."]);
    // tempfile's directory is for its owner only; this one is for everybody.
    std::fs::set_permissions(b.path(""), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let said = finish({
        command.uid(65534).gid(65534);
        command
    });
    assert_eq!(said.code, 0, "{}", said.err);
    for words in ["prepare\n", "child clone3", "# /mounts/0", "# /process/args"] {
        assert!(said.out.contains(words), "{words}: {}", said.out);
    }
    assert_eq!(std::fs::read_dir(b.root()).unwrap().count(), 0, "nothing is made");
}

pub fn systemd_is_asked_only_where_it_runs(b: &Bench) {
    let id = b.id("x");
    b.spec(&["true"], |_| {});
    if std::path::Path::new("/run/systemd/system").is_dir() {
        b.fine(&["--systemd-cgroup", "run", &id]);
    } else {
        b.fails(
            &["--systemd-cgroup", "run", &id],
            "systemd not running on this host, cannot use systemd cgroups manager",
        );
    }
    assert_eq!(b.fine(&["list", "-q"]), "");
}

pub fn what_is_not_implemented_is_refused(b: &Bench) {
    let id = b.id("x");
    b.spec(&["true"], |_| {});
    b.fails(&["--rootless", "true", "run", &id], "rootless mode is not implemented");
    b.spec(&["true"], |s| s["linux"]["intelRdt"] = json!({"closID": "x"}));
    b.fails(&["run", &id], "/linux/intelRdt: is not implemented");
    assert_eq!(b.fine(&["list", "-q"]), "");
}

pub fn one_of_many_starts_wins(b: &Bench) {
    let id = b.id("x");
    b.spec(&["sleep", "1000"], |_| {});
    for _ in 0..10 {
        b.detached(&["create", &id]);
        let quiet = |mut c: Command| c.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let mut starts: Vec<_> = (0..8).map(|_| quiet(b.command(&["start", &id]))).collect();
        let won = starts.iter_mut().filter_map(|c| c.wait().ok()).filter(|s| s.success()).count();
        assert_eq!(won, 1);
        assert_eq!(b.status(&id), "running");
        b.fine(&["delete", "-f", &id]);
    }
}
