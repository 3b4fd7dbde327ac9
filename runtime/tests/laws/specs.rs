//! Random specs that `spec::check` accepts: everything a client may write, in combinations that none writes.

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use runtime::plan::options::{WORDS, Word, word};
use runtime::spec::words::{CAPABILITIES, RLIMITS};
use runtime::spec::*;

const KINDS: [NamespaceKind; 8] = [
    NamespaceKind::Pid,
    NamespaceKind::Network,
    NamespaceKind::Mount,
    NamespaceKind::Ipc,
    NamespaceKind::Uts,
    NamespaceKind::User,
    NamespaceKind::Cgroup,
    NamespaceKind::Time,
];

/// Paths as people and attackers write them.
fn path() -> impl Strategy<Value = String> {
    let known = select(vec![
        "/proc",
        "/dev",
        "/dev/pts",
        "/dev/shm",
        "/dev/mqueue",
        "/sys",
        "/sys/fs/cgroup",
        "/run",
        "/tmp",
        "/etc/hosts",
        "/proc/meminfo",
        "/proc/sys",
        "/proc/../x",
        "/a//b/./c/",
        "/..",
        "/../../etc/passwd",
        "/a/../../b",
        "/.",
        "/ü ü",
        "/with\nnewline",
        "/dev/console",
        "/dev/null",
        "/dev/ptmx",
    ])
    .prop_map(str::to_owned);
    let part =
        prop_oneof![select(vec!["a", "b", "proc", "dev", "..", ".", "", "x y"]).prop_map(str::to_owned), "[a-z]{1,12}"];
    let made = vec(part, 1..7).prop_map(|parts| format!("/{}", parts.join("/")));
    prop_oneof![3 => known, 2 => made]
}

fn word_of_env() -> impl Strategy<Value = String> {
    let name = select(vec!["PATH", "HOME", "A", "B", "C", "LD_PRELOAD"]);
    let value = prop_oneof![
        select(vec!["", "/bin", "/usr/bin:/bin", ":/bin:", "relative:bin", "::", "a=b", "/bin/"])
            .prop_map(str::to_owned),
        "[ -~]{0,20}",
    ];
    (name, value).prop_map(|(name, value)| format!("{name}={value}"))
}

fn ids() -> impl Strategy<Value = u32> {
    prop_oneof![Just(0), 1..2000u32, Just(u32::MAX - 1)]
}

fn capabilities() -> impl Strategy<Value = Capabilities> {
    let set = || {
        subsequence(CAPABILITIES.iter().map(|c| (*c).to_owned()).chain(["CAP_NEW".into()]).collect::<Vec<_>>(), 0..8)
    };
    (set(), set(), set(), set(), set()).prop_map(|(bounding, effective, inheritable, permitted, ambient)| {
        Capabilities { bounding, effective, inheritable, permitted, ambient }
    })
}

fn rlimits() -> impl Strategy<Value = Vec<Rlimit>> {
    subsequence(RLIMITS.to_vec(), 0..5).prop_map(|kinds| {
        kinds.into_iter().map(|(kind, _)| Rlimit { kind: kind.into(), soft: 10, hard: u64::MAX }).collect()
    })
}

fn scheduler() -> impl Strategy<Value = Scheduler> {
    (select(vec!["SCHED_OTHER", "SCHED_FIFO", "SCHED_BATCH", "SCHED_IDLE"]), -20..20i32).prop_map(|(policy, nice)| {
        Scheduler {
            policy: policy.into(),
            nice,
            flags: vec!["SCHED_FLAG_RESET_ON_FORK".into()],
            ..Scheduler::default()
        }
    })
}

/// A process by itself, as an exec has it.
pub fn process() -> impl Strategy<Value = Process> {
    let who = (ids(), ids(), option::of(0..0o777u32), vec(ids(), 0..5));
    let what = (vec(word_of_env(), 0..12), path(), option::of(capabilities()), rlimits());
    let name =
        prop_oneof![select(vec!["sh", "/bin/sh", "./x", "", "a/b", "..", "-"]).prop_map(str::to_owned), "[ -~]{1,9}"];
    let rest = (any::<bool>(), any::<bool>(), option::of(-1000..1000i32), option::of(scheduler()), option::of(0..8i32));
    let small = (option::of((0..3u16, 0..3u16)), option::of(select(vec!["0", "0-3,7", "1, 3"])));
    (who, what, name, rest, small).prop_map(|(who, what, name, rest, small)| Process {
        terminal: rest.0,
        console_size: small.0.map(|(height, width)| ConsoleSize { height: height.into(), width: width.into() }),
        user: User { uid: who.0, gid: who.1, umask: who.2, additional_gids: who.3 },
        args: vec![name, "argument".into()],
        env: what.0,
        cwd: what.1,
        capabilities: what.2,
        rlimits: what.3,
        no_new_privileges: rest.1,
        oom_score_adj: rest.2,
        scheduler: rest.3,
        io_priority: rest.4.map(|priority| IoPriority { class: "IOPRIO_CLASS_BE".into(), priority }),
        exec_cpu_affinity: small.1.map(|after| CpuAffinity { initial: String::new(), after: after.into() }),
        ..Process::default()
    })
}

fn map() -> Vec<IdMapping> {
    vec![IdMapping { container_id: 0, host_id: 100_000, size: u32::MAX - 100_001 }]
}

fn mount(user: bool) -> impl Strategy<Value = Mount> {
    let all: Vec<String> = WORDS.iter().map(|(w, _)| (*w).to_owned()).collect();
    let kind = select(vec![
        "bind", "bind", "none", "proc", "sysfs", "tmpfs", "tmpfs", "devpts", "mqueue", "cgroup", "cgroup2", "ext4",
        "overlay", "",
    ]);
    let data =
        select(vec!["", "size=65536k", "mode=1777", "mode=755", "newinstance", "gid=5", "a=b,c", "lowerdir=/a:/b"]);
    let dest = prop_oneof![9 => path(), 1 => "[a-z]{1,8}(/[a-z]{1,8})?"];
    (dest, kind, path(), vec(select(all), 0..6), vec(data, 0..3), any::<bool>()).prop_map(
        move |(destination, kind, source, mut options, data, maps)| {
            let is_bind = |o: &String| matches!(word(o), Some(Word::Bind(_)));
            let idmap = |o: &String| matches!(word(o), Some(Word::Idmap(_)));
            if kind == "bind" && !options.iter().any(is_bind) {
                options.push("rbind".into());
            }
            let bind = options.iter().any(is_bind);
            if bind {
                options.retain(|o| o != "tmpcopyup");
            } else {
                options.retain(|o| !idmap(o) && (o != "tmpcopyup" || kind == "tmpfs"));
                options.extend(data.into_iter().map(str::to_owned));
            }
            let own = bind && maps && options.iter().any(idmap);
            if !own && !user {
                options.retain(|o| !idmap(o));
            }
            let maps = if own { map() } else { vec![] };
            Mount { destination, kind: kind.into(), source, options, uid_mappings: maps.clone(), gid_mappings: maps }
        },
    )
}

fn device() -> impl Strategy<Value = Device> {
    let place = prop_oneof![
        select(vec!["/dev/null", "/dev/tty", "/dev/a", "/dev/net/tun", "/x"]).prop_map(str::to_owned),
        path()
    ];
    (select(vec!["c", "b", "u", "p"]), place, 0..4096i64, 0..300i64, option::of(0..0o7777u32), option::of(ids()))
        .prop_map(|(kind, path, major, minor, file_mode, uid)| Device {
            kind: kind.into(),
            path,
            major,
            minor,
            file_mode,
            uid,
            gid: uid,
        })
}

fn hooks() -> impl Strategy<Value = Hooks> {
    let hook = || {
        (any::<bool>(), option::of(vec(word_of_env(), 0..3)), option::of(1..100i64)).prop_map(|(args, env, timeout)| {
            Hook {
                path: "/usr/bin/hook".into(),
                args: if args { vec!["hook".into(), "x".into()] } else { vec![] },
                env,
                timeout,
            }
        })
    };
    let list = || vec(hook(), 0..2);
    (list(), list(), list(), list(), list(), list()).prop_map(
        |(prestart, create_runtime, create_container, start_container, poststart, poststop)| Hooks {
            prestart,
            create_runtime,
            create_container,
            start_container,
            poststart,
            poststop,
        },
    )
}

fn seccomp() -> impl Strategy<Value = Seccomp> {
    let action =
        select(vec!["SCMP_ACT_ERRNO", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_LOG", "SCMP_ACT_TRAP", "SCMP_ACT_NOTIFY"]);
    (subsequence(vec!["swapon", "reboot", "bpf", "personality"], 1..4), action).prop_map(|(names, action)| Seccomp {
        default_action: "SCMP_ACT_ALLOW".into(),
        listener_path: if action == "SCMP_ACT_NOTIFY" { "/run/agent".into() } else { String::new() },
        syscalls: vec![SyscallRule {
            names: names.into_iter().map(str::to_owned).collect(),
            action: action.into(),
            ..SyscallRule::default()
        }],
        ..Seccomp::default()
    })
}

/// Each kind of namespace absent, new or joined.
fn namespaces() -> impl Strategy<Value = Vec<Namespace>> {
    let one = |weights: [u32; 3]| prop_oneof![weights[0] => Just(0u8), weights[1] => Just(1), weights[2] => Just(2)];
    let choices: Vec<_> =
        KINDS.iter().map(|k| one(if *k == NamespaceKind::Mount { [1, 8, 1] } else { [2, 3, 2] })).collect();
    (choices, Just(KINDS.to_vec()).prop_shuffle()).prop_map(|(choices, kinds)| {
        let namespace = |(kind, choice): (NamespaceKind, u8)| {
            let path = if choice == 2 { "/proc/4242/ns/any".to_owned() } else { String::new() };
            (choice != 0).then_some(Namespace { kind, path })
        };
        kinds.into_iter().zip(choices).filter_map(namespace).collect()
    })
}

/// What surrounds mounts: paths and names.
#[derive(Clone, Debug)]
struct Rest {
    readonly: bool,
    masked: Vec<String>,
    read_only: Vec<String>,
    devices: Vec<Device>,
    propagation: &'static str,
    hostname: String,
    sysctl: bool,
    offsets: bool,
    root: &'static str,
}

fn rest() -> impl Strategy<Value = Rest> {
    let propagation = select(vec![
        "",
        "",
        "private",
        "rprivate",
        "slave",
        "rslave",
        "shared",
        "rshared",
        "unbindable",
        "runbindable",
    ]);
    let lists = (vec(path(), 0..6), vec(path(), 0..6), vec(device(), 0..4));
    let words = (propagation, "[a-z]{0,9}", select(vec!["rootfs", "/var/lib/rootfs", "."]));
    (lists, words, any::<[bool; 3]>()).prop_map(
        |((masked, read_only, devices), (propagation, hostname, root), flags)| Rest {
            readonly: flags[0],
            masked,
            read_only,
            devices,
            propagation,
            hostname,
            sysctl: flags[1],
            offsets: flags[2],
            root,
        },
    )
}

/// A spec, nearly always one that `spec::check` accepts.
pub fn spec() -> impl Strategy<Value = Spec> {
    let parts = (option::weighted(0.95, process()), hooks(), option::of(seccomp()), rest());
    (namespaces(), parts).prop_flat_map(|(namespaces, parts)| {
        let user = namespaces.iter().any(|n| n.kind == NamespaceKind::User);
        let annotations = btree_map("[a-z]{1,5}", "[ -~]{0,5}", 0..2);
        (vec(mount(user), 0..9), annotations).prop_map(move |(mounts, annotations)| {
            let (process, hooks, seccomp, rest) = parts.clone();
            let has = |kind| namespaces.iter().find(|n: &&Namespace| n.kind == kind);
            let inside = has(NamespaceKind::Mount).is_some();
            let mapped = has(NamespaceKind::User).map_or_else(Vec::new, |_| map());
            let only = |yes: bool, list: Vec<String>| if yes { list } else { vec![] };
            let mut linux = Linux {
                uid_mappings: mapped.clone(),
                gid_mappings: mapped,
                masked_paths: only(inside, rest.masked),
                readonly_paths: only(inside, rest.read_only),
                devices: rest.devices,
                rootfs_propagation: if inside { rest.propagation.into() } else { String::new() },
                seccomp,
                cgroups_path: "/group/c".into(),
                namespaces: namespaces.clone(),
                ..Linux::default()
            };
            if rest.sysctl && has(NamespaceKind::Network).is_some() {
                linux.sysctl.insert("net.ipv4.ip_forward".into(), "1".into());
            }
            if rest.offsets && has(NamespaceKind::Time).is_some_and(|n| n.path.is_empty()) {
                linux.time_offsets.insert("boottime".into(), TimeOffset { secs: 7, nanosecs: 0 });
            }
            let uts = has(NamespaceKind::Uts).is_some();
            Spec {
                root: Some(Root { path: rest.root.into(), readonly: rest.readonly && inside }),
                mounts: if inside { mounts } else { vec![] },
                process,
                hostname: if uts { rest.hostname } else { String::new() },
                hooks,
                annotations,
                linux,
                ..Spec::default()
            }
        })
    })
}
