//! Profiles for tests: the real ones of the fixtures and random ones, with the calls to ask them about.

use proptest::prelude::*;
use runtime::seccomp::{Arch, Available};
use runtime::spec::{Seccomp, SyscallArg, SyscallRule};

use super::machine::Data;

/// A kernel that has everything.
pub fn everything() -> Available {
    let actions = ["kill_process", "kill_thread", "trap", "errno", "user_notif", "trace", "log", "allow"];
    Available { actions: actions.map(str::to_owned).to_vec(), flags: 0x3f }
}

/// Docker's and containerd's profiles as a container on amd64 gets them.
pub fn fixtures() -> Vec<(&'static str, Seccomp)> {
    let parse = |text: &str| serde_json::from_str(text).expect("fixture");
    vec![
        ("docker", parse(include_str!("../fixtures/seccomp/docker.json"))),
        ("docker-capable", parse(include_str!("../fixtures/seccomp/docker-capable.json"))),
        ("containerd", parse(include_str!("../fixtures/seccomp/containerd.json"))),
    ]
}

pub const ALL: [Arch; 5] = [Arch::X86_64, Arch::X86, Arch::X32, Arch::Aarch64, Arch::Arm];

/// The return value of an action's word.
pub fn action(word: &str, errno: Option<u32>) -> u32 {
    match word {
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => 0,
        "SCMP_ACT_KILL_PROCESS" => 0x8000_0000,
        "SCMP_ACT_TRAP" => 0x0003_0000,
        "SCMP_ACT_ERRNO" => 0x0005_0000 | errno.unwrap_or(1),
        "SCMP_ACT_TRACE" => 0x7ff0_0000 | errno.unwrap_or(1),
        "SCMP_ACT_LOG" => 0x7ffc_0000,
        "SCMP_ACT_NOTIFY" => 0x7fc0_0000,
        "SCMP_ACT_ALLOW" => 0x7fff_0000,
        _ => panic!("{word}"),
    }
}

/// Names with all that is special: no conditions anywhere, only on some architectures, multiplexed on i386 (with and without
/// a call of its own), the multiplexers themselves, new ones, number 0, unknown ones.
const NAMES: [&str; 20] = [
    "read",
    "openat",
    "open",
    "ioctl",
    "clone",
    "personality",
    "socket",
    "accept",
    "sendmsg",
    "semop",
    "shmget",
    "msgctl",
    "socketcall",
    "ipc",
    "clone3",
    "futex_waitv",
    "set_tls",
    "_llseek",
    "restart_syscall",
    "no_such_call",
];
const VALUES: [u64; 14] = [
    0,
    1,
    2,
    5,
    11,
    21,
    40,
    0x7e02_0000,
    0xffff_ffff,
    1 << 32,
    (1 << 32) + 1,
    (1 << 32) + 5,
    0xffff_ffff_0000_0000,
    u64::MAX,
];
const ACTIONS: [&str; 9] = [
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_TRAP",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_LOG",
    "SCMP_ACT_NOTIFY",
];
const OPERATORS: [&str; 7] =
    ["SCMP_CMP_EQ", "SCMP_CMP_MASKED_EQ", "SCMP_CMP_NE", "SCMP_CMP_LT", "SCMP_CMP_LE", "SCMP_CMP_GE", "SCMP_CMP_GT"];

/// How wild random profiles are.
#[derive(Clone, Copy, Debug)]
pub struct Wild {
    /// Conditional rules have several actions.
    pub quarrel: bool,
    /// Operators are the first so many of the list.
    pub operators: usize,
    pub shape: Shape,
}

/// Which rules one call may have.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Shape {
    /// Any number of any.
    Free,
    /// One conditional rule with any number of conditions.
    Alone,
    /// Any number of rules with one condition each, on i386's multiplexers too.
    Flat,
}

fn value() -> impl Strategy<Value = u64> {
    prop_oneof![8 => prop::sample::select(&VALUES[..]), 1 => any::<u64>(), 1 => any::<u32>().prop_map(u64::from)]
}

fn errno(word: &str, number: u32) -> Option<u32> {
    (matches!(word, "SCMP_ACT_ERRNO" | "SCMP_ACT_TRACE") && !number.is_multiple_of(3)).then_some(number)
}

fn argument(wild: Wild) -> impl Strategy<Value = SyscallArg> {
    let index = prop_oneof![4 => 0u32..2, 1 => 0u32..6];
    (index, value(), value(), prop::sample::select(&OPERATORS[..wild.operators]))
        .prop_map(|(index, value, value_two, op)| SyscallArg { index, value, value_two, op: op.into() })
}

fn rule(wild: Wild) -> impl Strategy<Value = SyscallRule> {
    let names = prop::collection::vec(prop::sample::select(&NAMES[..]), 1..4);
    let args = prop_oneof![1 => Just(Vec::new()), 3 => prop::collection::vec(argument(wild), 1..4)];
    (names, prop::sample::select(&ACTIONS[..]), 1u32..8, args).prop_map(|(names, word, number, args)| SyscallRule {
        names: names.into_iter().map(str::to_owned).collect(),
        action: word.into(),
        errno_ret: errno(word, number),
        args,
    })
}

/// Names that end up at one call of i386 are of one family.
fn family(name: &str) -> String {
    match name {
        "socket" | "accept" | "sendmsg" => "socketcall".into(),
        "semop" | "shmget" | "msgctl" => "ipc".into(),
        name => name.into(),
    }
}

/// A random profile for x86-64.
pub fn random(wild: Wild) -> impl Strategy<Value = Seccomp> {
    let arches =
        prop::sample::subsequence(&["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_S390X"][..], 0..4);
    let default = prop::sample::select(&ACTIONS[..8]);
    (default, 1u32..5, arches, prop::collection::vec(rule(wild), 0..10)).prop_map(
        move |(word, number, arches, mut rules)| {
            // Without a quarrel all conditional rules do the same; unconditional ones may still differ.
            let first = rules.iter().find(|r| !r.args.is_empty()).map(|r| (r.action.clone(), r.errno_ret));
            if let (false, Some((word, errno))) = (wild.quarrel, first) {
                for rule in rules.iter_mut().filter(|r| !r.args.is_empty()) {
                    (rule.action, rule.errno_ret) = (word.clone(), errno);
                }
            }
            if wild.shape == Shape::Flat {
                for rule in rules.iter_mut().filter(|r| !r.args.is_empty()) {
                    let carried = rule.names.iter().any(|name| family(name) != *name);
                    let first = if carried { 0 } else { rule.args[0].index };
                    rule.args.iter_mut().for_each(|arg| arg.index = first);
                }
            }
            if wild.shape == Shape::Alone {
                let mut seen = std::collections::BTreeSet::new();
                for rule in rules.iter_mut().filter(|r| !r.args.is_empty()) {
                    // socketcall and ipc meet the names that they carry on i386.
                    rule.names
                        .retain(|name| !matches!(name.as_str(), "socketcall" | "ipc") && seen.insert(family(name)));
                    let mut arguments = std::collections::BTreeSet::new();
                    rule.args.retain(|arg| arguments.insert(arg.index));
                }
            }
            Seccomp {
                default_action: word.into(),
                default_errno_ret: errno(word, number),
                architectures: arches.into_iter().map(str::to_owned).collect(),
                flags: Some(Vec::new()),
                listener_path: "/run/agent".into(),
                syscalls: rules,
                ..Seccomp::default()
            }
        },
    )
}

/// Calls to ask about a profile: the numbers of its names on every architecture and their neighbours, the borders of the ABIs;
/// arguments from the operands and around them.
pub fn questions(profile: &Seccomp, number: impl Fn(&str, Arch) -> Option<u32>) -> Vec<Data> {
    let mut numbers = vec![
        0,
        1,
        102,
        117,
        500,
        0x3fff_ffff,
        0x4000_0000,
        0x7fff_ffff,
        0x8000_0000,
        0xc000_0000,
        u32::MAX - 1,
        u32::MAX,
    ];
    for name in profile.syscalls.iter().flat_map(|rule| &rule.names) {
        for number in ALL.iter().filter_map(|&arch| number(name, arch)) {
            numbers.extend([number.saturating_sub(1), number, number + 1]);
        }
    }
    numbers.sort_unstable();
    numbers.dedup();
    let mut values: Vec<u64> = vec![0, 1, 1 << 32];
    for arg in profile.syscalls.iter().flat_map(|rule| &rule.args) {
        for value in [arg.value, arg.value_two] {
            values.extend([
                value,
                value.wrapping_add(1),
                value.wrapping_sub(1),
                value ^ (1 << 32),
                value & 0xffff_ffff,
            ]);
        }
    }
    values.sort_unstable();
    values.dedup();
    let mut all = Vec::new();
    // A small generator is enough to mix the arguments, and the same profile always gets the same questions.
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut pick = |from: &[u64]| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        from[(state >> 33) as usize % from.len()]
    };
    let socket_calls: Vec<u64> = (0..26).collect();
    for &nr in &numbers {
        for arch in [0xc000_003e, 0x4000_0003, 0xc000_00b7, 0x4000_0028, 0x8000_0016] {
            for round in 0..8 {
                let mut args = [0; 6].map(|_| pick(&values));
                if round % 2 == 0 && (nr == 102 || nr == 117) {
                    args[0] = pick(&socket_calls);
                }
                all.push(Data { nr, arch, ip: 0, args });
            }
        }
    }
    all
}
