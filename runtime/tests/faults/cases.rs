//! The plans whose every step fails once.

use std::path::PathBuf;

use libtest_mimic::Failed;
use runtime::container::groups;
use runtime::plan::compile::{self, Way};
use runtime::spec::Process;
use runtime::{Create, Exec, Host};
use serde_json::{Value, json};

use super::Case;
use super::bundle::{self, Bundle, Running, run};

type Test = fn(&'static str) -> Result<(), Failed>;

/// Name and test.
pub const ALL: &[(&str, Test)] = &[
    ("default", default),
    ("user-namespace", user_namespace),
    ("terminal", terminal),
    ("hooks", hooks),
    ("joined", joined),
    ("joined-user", joined_user),
    ("no-pivot", no_pivot),
    ("host", host_namespaces),
    ("exec", exec),
    ("exec-user-namespace", exec_user_namespace),
];

/// The host's id of root in the tests' user namespaces.
const ROOT: u32 = 100_000;

fn one(name: &'static str, owner: u32, patch: impl Fn(&Bundle) -> Value, no_pivot: bool) -> Result<(), Failed> {
    let (host, bundle) = (bundle::host(), Bundle::new(name, owner));
    let spec = bundle.spec(&patch(&bundle));
    let visible = no_pivot.then(visible_kernel_mounts);
    let plan = bundle.plan(&host, &bundle.create(&spec), visible.as_deref());
    let go = |fault| run(&host, Create { fault, no_pivot, ..bundle.create(&spec) });
    let hide = vec![(bundle.dir.display().to_string(), "BUNDLE")];
    Case { name, bundle: &bundle, plan, hide, go: Box::new(go) }.check()
}

/// As `container::start` finds them.
fn visible_kernel_mounts() -> Vec<PathBuf> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let full = |line: &&str| {
        let root = line.split(' ').nth(3) == Some("/");
        root && (line.contains(" - proc ") || line.contains(" - sysfs "))
    };
    let mut found: Vec<PathBuf> =
        text.lines().filter(full).map(|line| PathBuf::from(line.split(' ').nth(4).unwrap())).collect();
    found.reverse();
    found
}

/// Most of what a container of ctr or docker asks for.
fn full(bundle: &Bundle) -> Value {
    let volume = bundle.dir.join("volume");
    json!({
        "hostname": "box",
        "domainname": "example.org",
        "root": {"readonly": true},
        "process": {
            "user": {"uid": 1000, "gid": 1000, "additionalGids": [10, 20], "umask": 0o27},
            "cwd": "/tmp/new",
            "oomScoreAdj": 100,
            "noNewPrivileges": true,
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 64, "hard": 64}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}],
            "capabilities": {
                "bounding": ["CAP_CHOWN", "CAP_NET_BIND_SERVICE"],
                "effective": ["CAP_NET_BIND_SERVICE"],
                "permitted": ["CAP_NET_BIND_SERVICE"],
                "inheritable": ["CAP_NET_BIND_SERVICE"],
                "ambient": ["CAP_NET_BIND_SERVICE"],
            },
            "scheduler": {"policy": "SCHED_BATCH"},
            "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 5},
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/run", "type": "tmpfs", "source": "tmpfs", "options": ["ro"]},
            {"destination": "/seed", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"]},
            {"destination": "/data", "type": "bind", "source": volume, "options": ["rbind", "rprivate", "ro"]},
            {"destination": "/etc/new", "type": "bind", "source": volume.join("file"), "options": ["bind", "rnoexec", "nodev"]},
            {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["shared"]},
        ],
        "linux": {
            "sysctl": {"net.ipv4.ip_unprivileged_port_start": "0"},
            "devices": [
                {"type": "c", "path": "/dev/mine", "major": 1, "minor": 3, "uid": 1000, "fileMode": 384},
                {"type": "p", "path": "/dev/deep/pipe"},
            ],
            "maskedPaths": ["/proc/kcore", "/proc/irq", "/proc/none"],
            "readonlyPaths": ["/proc/sys", "/proc/none"],
            "personality": {"domain": "LINUX"},
            "seccomp": {
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{"names": ["swapon"], "action": "SCMP_ACT_ERRNO"}],
            },
        },
    })
}

fn default(name: &'static str) -> Result<(), Failed> {
    one(name, 0, full, false)
}

fn new(kinds: &[&str]) -> Vec<Value> {
    kinds.iter().map(|kind| json!({"type": kind})).collect()
}

fn mapped() -> Value {
    json!([{"containerID": 0, "hostID": ROOT, "size": 65536}])
}

fn in_user_namespace() -> Value {
    json!({
        "process": {
            "oomScoreAdj": 100,
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1024, "hard": 4096}],
            "capabilities": {"bounding": ["CAP_CHOWN"], "effective": ["CAP_CHOWN"], "permitted": ["CAP_CHOWN"]},
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
        ],
        "linux": {
            "uidMappings": mapped(),
            "gidMappings": mapped(),
            "timeOffsets": {"boottime": {"secs": 1000}},
            "namespaces": new(&["user", "pid", "ipc", "uts", "mount", "network", "cgroup", "time"]),
            "maskedPaths": ["/proc/kcore"],
            "readonlyPaths": ["/proc/sys"],
            "seccomp": {
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{"names": ["swapon"], "action": "SCMP_ACT_ERRNO"}],
            },
        },
    })
}

fn user_namespace(name: &'static str) -> Result<(), Failed> {
    one(name, ROOT, |_| in_user_namespace(), false)
}

fn terminal(name: &'static str) -> Result<(), Failed> {
    let patch = json!({
        "process": {"terminal": true, "consoleSize": {"height": 24, "width": 80}, "user": {"uid": 1000, "gid": 1000}},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance", "ptmxmode=0666"]},
        ],
        "linux": {"namespaces": new(&["pid", "mount", "time"]), "rootfsPropagation": "shared"},
    });
    one(name, 0, |_| patch.clone(), false)
}

fn hooks(name: &'static str) -> Result<(), Failed> {
    let patch = |bundle: &Bundle| {
        let hook = json!([{"path": bundle.dir.join("rootfs/bin/busybox"), "args": ["true"], "timeout": 20}]);
        let inside = json!([{"path": "/bin/busybox", "args": ["true"], "timeout": 20}]);
        json!({"hooks": {
            "prestart": hook, "createRuntime": hook, "createContainer": hook,
            "startContainer": inside, "poststart": hook, "poststop": hook,
        }})
    };
    one(name, 0, patch, false)
}

/// Shares the namespaces of a container that runs in the meantime.
fn sharing(name: &'static str, owner: u32, holder: Value, kinds: &[(&str, &str)], made: &[&str]) -> Result<(), Failed> {
    let (host, held, bundle) = (bundle::host(), Bundle::new("holder", owner), Bundle::new(name, owner));
    let holder = Running::new(&host, &held, &holder);
    let pid = holder.child.pid.to_string();
    let joined = kinds.iter().map(|(kind, file)| json!({"type": kind, "path": format!("/proc/{pid}/ns/{file}")}));
    let all: Vec<Value> = joined.chain(new(made)).collect();
    let spec = bundle.spec(&json!({"linux": {"namespaces": all}}));
    let plan = bundle.plan(&host, &bundle.create(&spec), None);
    let go = |fault| run(&host, Create { fault, ..bundle.create(&spec) });
    let hide = vec![(bundle.dir.display().to_string(), "BUNDLE"), (format!("/proc/{pid}/"), "/proc/HOLDER/")];
    Case { name, bundle: &bundle, plan, hide, go: Box::new(go) }.check()
}

fn joined(name: &'static str) -> Result<(), Failed> {
    let kinds = [("network", "net"), ("ipc", "ipc"), ("uts", "uts"), ("pid", "pid")];
    sharing(name, 0, json!({}), &kinds, &["mount", "cgroup"])
}

fn joined_user(name: &'static str) -> Result<(), Failed> {
    let kinds = [("user", "user"), ("network", "net"), ("ipc", "ipc"), ("uts", "uts")];
    sharing(name, ROOT, in_user_namespace(), &kinds, &["mount", "pid"])
}

fn no_pivot(name: &'static str) -> Result<(), Failed> {
    let patch = json!({"process": {"capabilities": {"bounding": ["CAP_CHOWN"]}}});
    one(name, 0, |_| patch.clone(), true)
}

fn host_namespaces(name: &'static str) -> Result<(), Failed> {
    one(name, 0, |_| json!({"mounts": [], "linux": {"namespaces": []}}), false)
}

fn in_container(name: &'static str, owner: u32, patch: Value, change: fn(&mut Process)) -> Result<(), Failed> {
    let (host, bundle) = (bundle::host(), Bundle::new(name, owner));
    let running = Running::new(&host, &bundle, &patch);
    let mut process = bundle.spec(&patch).process.unwrap();
    change(&mut process);
    let plan = plan_of(&host, &running, &process);
    let go = |fault| {
        let child = running.container.exec(&host, Exec { fault, ..Running::exec(&process) })?;
        Ok(bundle::ended(&child.pidfd))
    };
    let hide = vec![(bundle.dir.display().to_string(), "BUNDLE")];
    Case { name, bundle: &bundle, plan, hide, go: Box::new(go) }.check()
}

fn plan_of(host: &Host, running: &Running, process: &Process) -> runtime::plan::Plan {
    let cgroup = running.container.cgroup();
    let attach = cgroup.attach().unwrap();
    let tasks: Vec<String> = attach.tasks.iter().map(|task| task.0.clone()).collect();
    let thread = compile::thread_may_join(running.container.spec());
    let way = if thread { Way::Thread { group: attach.into.is_some() } } else { Way::Child };
    compile::exec(&compile::Exec {
        spec: running.container.spec(),
        process,
        way,
        host,
        id: "c",
        groups: &groups(&cgroup.record()),
        tasks: &tasks,
        stdio: [false; 3],
        no_new_keyring: false,
        preserve_fds: 0,
    })
    .unwrap()
}

fn exec(name: &'static str) -> Result<(), Failed> {
    in_container(name, 0, json!({}), |process| {
        process.user.uid = 1000;
        process.user.additional_gids = vec![10];
        process.cwd = "/tmp".into();
        process.oom_score_adj = Some(50);
    })
}

fn exec_user_namespace(name: &'static str) -> Result<(), Failed> {
    in_container(name, ROOT, in_user_namespace(), |process| process.terminal = true)
}
