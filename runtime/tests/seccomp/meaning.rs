//! What a profile means, written once more and as plainly as possible.

use runtime::seccomp::{self, Arch};
use runtime::spec::{Seccomp, SyscallArg, SyscallRule};

use super::machine::Data;
use super::profile::action;

/// The actions of which the filter may choose one: a single one unless rules quarrel.
pub fn verdicts(profile: &Seccomp, native: Arch, data: &Data) -> Vec<u32> {
    const ENOSYS: u32 = 0x0005_0000 | 38;
    const KILL_THREAD: u32 = 0;
    let default = action(&profile.default_action, profile.default_errno_ret);
    let Some(arch) = abi(data, native) else { return vec![KILL_THREAD] };
    let word = match arch {
        Arch::X86_64 => "SCMP_ARCH_X86_64",
        Arch::X86 => "SCMP_ARCH_X86",
        Arch::X32 => "SCMP_ARCH_X32",
        Arch::Aarch64 => "SCMP_ARCH_AARCH64",
        Arch::Arm => "SCMP_ARCH_ARM",
    };
    let listed = |word: &str| profile.architectures.iter().any(|a| a == word);
    if arch != native && !listed(word) {
        // -1 has bit 30 set and is what a tracer leaves behind.
        return vec![if arch == Arch::X32 && data.nr == u32::MAX { default } else { KILL_THREAD }];
    }

    let names = || profile.syscalls.iter().flat_map(|rule| &rule.names);
    let multiplexed = |name: &str| arch == Arch::X86 && carrier(name).is_some();
    let highest = names().filter(|name| !multiplexed(name)).filter_map(|name| seccomp::number(name, arch)).max();
    let lets_pass = matches!(default & 0xffff_0000, 0x7fff_0000 | 0x7ffc_0000 | 0x7ff0_0000);
    if !lets_pass && highest.is_some_and(|highest| highest > 0 && data.nr > highest) {
        return vec![ENOSYS];
    }
    if native == Arch::X86_64
        && data.nr >= 0x4000_0000
        && data.nr != u32::MAX
        && !listed("SCMP_ARCH_X32")
        && arch == Arch::X86_64
    {
        return vec![KILL_THREAD];
    }

    let mut conditional = Vec::new();
    for rule in &profile.syscalls {
        let wanted = action(&rule.action, rule.errno_ret);
        for name in rule.names.iter().filter(|_| wanted != default) {
            let wide = matches!(arch, Arch::X86_64 | Arch::Aarch64);
            if seccomp::number(name, arch) == Some(data.nr) {
                for set in sets(rule) {
                    match set.iter().copied().filter(|arg| !always(arg, wide)).collect::<Vec<_>>() {
                        set if set.is_empty() => return vec![first_unconditional(profile, native, data)],
                        set if set.iter().all(|arg| holds(arg, data, wide)) => conditional.push(wanted),
                        _ => {}
                    }
                }
            }
            if arch == Arch::X86 && carrier(name) == Some((data.nr, data.args[0] as u32)) {
                let rest = |set: &Vec<&SyscallArg>| set.iter().all(|arg| arg.index == 0 || holds(arg, data, wide));
                conditional.extend(sets(rule).iter().filter(|set| rest(set)).map(|_| wanted));
            }
        }
    }
    if conditional.is_empty() { vec![default] } else { conditional }
}

/// The action of the first rule for a call that has no condition.
fn first_unconditional(profile: &Seccomp, native: Arch, data: &Data) -> u32 {
    let default = action(&profile.default_action, profile.default_errno_ret);
    let arch = abi(data, native).expect("abi");
    let wide = matches!(arch, Arch::X86_64 | Arch::Aarch64);
    let rules = profile.syscalls.iter().filter(|rule| action(&rule.action, rule.errno_ret) != default);
    let mut rules = rules.filter(|rule| rule.names.iter().any(|name| seccomp::number(name, arch) == Some(data.nr)));
    let rule = rules.find(|rule| sets(rule).iter().any(|set| set.iter().all(|arg| always(arg, wide)))).expect("rule");
    action(&rule.action, rule.errno_ret)
}

/// The ABI of a call, if the machine has it.
fn abi(data: &Data, native: Arch) -> Option<Arch> {
    match (native, data.arch) {
        (Arch::X86_64, 0xc000_003e) if data.nr & 0x4000_0000 != 0 => Some(Arch::X32),
        (Arch::X86_64, 0xc000_003e) => Some(Arch::X86_64),
        (Arch::X86_64, 0x4000_0003) => Some(Arch::X86),
        (Arch::Aarch64, 0xc000_00b7) => Some(Arch::Aarch64),
        (Arch::Aarch64, 0x4000_0028) => Some(Arch::Arm),
        _ => None,
    }
}

/// The alternatives of a rule.
fn sets(rule: &SyscallRule) -> Vec<Vec<&SyscallArg>> {
    let twice = rule.args.iter().any(|a| rule.args.iter().filter(|b| a.index == b.index).count() > 1);
    if twice { rule.args.iter().map(|arg| vec![arg]).collect() } else { vec![rule.args.iter().collect()] }
}

/// Whether a condition says nothing: a mask without bits.
fn always(arg: &SyscallArg, wide: bool) -> bool {
    arg.op == "SCMP_CMP_MASKED_EQ" && (if wide { arg.value } else { arg.value & 0xffff_ffff }) == 0
}

fn holds(arg: &SyscallArg, data: &Data, wide: bool) -> bool {
    let width = if wide { u64::MAX } else { 0xffff_ffff };
    let (given, value) = (data.args[arg.index as usize] & width, arg.value & width);
    match arg.op.as_str() {
        "SCMP_CMP_NE" => given != value,
        "SCMP_CMP_LT" => given < value,
        "SCMP_CMP_LE" => given <= value,
        "SCMP_CMP_EQ" => given == value,
        "SCMP_CMP_GE" => given >= value,
        "SCMP_CMP_GT" => given > value,
        "SCMP_CMP_MASKED_EQ" => given & value == arg.value_two & value,
        word => panic!("{word}"),
    }
}

/// socketcall(2) or ipc(2) of i386 with the number that the call has there.
fn carrier(name: &str) -> Option<(u32, u32)> {
    // The order of linux/net.h, from 1.
    let sockets = "socket bind connect listen accept getsockname getpeername socketpair send recv sendto recvfrom shutdown \
                   setsockopt getsockopt sendmsg recvmsg accept4 recvmmsg sendmmsg";
    if let Some(at) = sockets.split_whitespace().position(|call| call == name) {
        return Some((102, at as u32 + 1));
    }
    // linux/ipc.h: by tens, from 1.
    for (tens, calls) in ["semop semget semctl semtimedop", "msgsnd msgrcv msgget msgctl", "shmat shmdt shmget shmctl"]
        .iter()
        .enumerate()
    {
        if let Some(at) = calls.split_whitespace().position(|call| call == name) {
            return Some((117, 10 * tens as u32 + at as u32 + 1));
        }
    }
    None
}
