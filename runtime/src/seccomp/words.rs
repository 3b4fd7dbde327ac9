//! The words of a profile: actions, operators, architectures and flags, each checked and refused by its JSON pointer.
#![forbid(unsafe_code)]

use super::tables::{Call, Cursor};
use super::{AT, Arch, Available, flag};
use crate::error::{Error, Result};
use crate::spec;

/// errno(3)
const EPERM: u32 = 1;
/// libseccomp takes errnos below 4095, the kernel's MAX_ERRNO.
const MAX_ERRNO: u32 = 4094;

/// Every action of the specification that we compile, sorted.
pub const ACTIONS: &[&str] = &[
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_LOG",
    "SCMP_ACT_NOTIFY",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_TRAP",
];

/// Every operator of the specification, sorted.
pub const OPERATORS: &[&str] =
    &["SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_LE", "SCMP_CMP_LT", "SCMP_CMP_MASKED_EQ", "SCMP_CMP_NE"];

/// Every architecture of the specification, sorted. Those of machines that we do not run on are accepted and produce
/// nothing: their calls cannot occur.
pub const ARCHITECTURES: &[&str] = &[
    "SCMP_ARCH_AARCH64",
    "SCMP_ARCH_ARM",
    "SCMP_ARCH_LOONGARCH64",
    "SCMP_ARCH_M68K",
    "SCMP_ARCH_MIPS",
    "SCMP_ARCH_MIPS64",
    "SCMP_ARCH_MIPS64N32",
    "SCMP_ARCH_MIPSEL",
    "SCMP_ARCH_MIPSEL64",
    "SCMP_ARCH_MIPSEL64N32",
    "SCMP_ARCH_PARISC",
    "SCMP_ARCH_PARISC64",
    "SCMP_ARCH_PPC",
    "SCMP_ARCH_PPC64",
    "SCMP_ARCH_PPC64LE",
    "SCMP_ARCH_RISCV64",
    "SCMP_ARCH_S390",
    "SCMP_ARCH_S390X",
    "SCMP_ARCH_SH",
    "SCMP_ARCH_SHEB",
    "SCMP_ARCH_X32",
    "SCMP_ARCH_X86",
    "SCMP_ARCH_X86_64",
];

/// Every flag that a profile may set, sorted. TSYNC is runc's addition to the specification.
pub const FLAGS: &[&str] = &[
    "SECCOMP_FILTER_FLAG_LOG",
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
    "SECCOMP_FILTER_FLAG_TSYNC",
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
];

/// A filter's return value: `SECCOMP_RET_*` of linux/seccomp.h with its data in the low 16 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Action(pub(super) u32);

impl Action {
    pub(super) const KILL_PROCESS: Self = Self(0x8000_0000);
    pub(super) const KILL_THREAD: Self = Self(0x0000_0000);
    pub(super) const TRAP: Self = Self(0x0003_0000);
    pub(super) const ERRNO: Self = Self(0x0005_0000);
    pub(super) const NOTIFY: Self = Self(0x7fc0_0000);
    pub(super) const TRACE: Self = Self(0x7ff0_0000);
    pub(super) const LOG: Self = Self(0x7ffc_0000);
    pub(super) const ALLOW: Self = Self(0x7fff_0000);
    /// `SECCOMP_RET_ERRNO` with errno(3) ENOSYS.
    pub(super) const ENOSYS: Self = Self(0x0005_0000 | 38);

    /// The same without data.
    pub(super) fn kind(self) -> Self {
        Self(self.0 & 0xffff_0000)
    }

    /// The action of a word with its errno; EPERM when none is given. `word_at` and `errno_at` are pointers.
    fn read(word: &str, errno: Option<u32>, available: &Available, word_at: &str, errno_at: &str) -> Result<Self> {
        let (action, kernel) = match word {
            "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => (Self::KILL_THREAD, "kill_thread"),
            "SCMP_ACT_KILL_PROCESS" => (Self::KILL_PROCESS, "kill_process"),
            "SCMP_ACT_TRAP" => (Self::TRAP, "trap"),
            "SCMP_ACT_ERRNO" => (Self::ERRNO, "errno"),
            "SCMP_ACT_TRACE" => (Self::TRACE, "trace"),
            "SCMP_ACT_ALLOW" => (Self::ALLOW, "allow"),
            "SCMP_ACT_LOG" => (Self::LOG, "log"),
            "SCMP_ACT_NOTIFY" => (Self::NOTIFY, "user_notif"),
            _ => return Err(Error::invalid(word_at, format!("unknown action {word:?}"))),
        };
        if !available.actions.iter().any(|a| a == kernel) {
            return Err(Error::unsupported(word_at, format!("the kernel has no action {kernel}")));
        }
        let limit = match action {
            Self::ERRNO => MAX_ERRNO,
            Self::TRACE => 0xffff,
            _ if errno.is_some() => return Err(Error::invalid(errno_at, format!("{word} takes no errno"))),
            _ => return Ok(action),
        };
        match errno.unwrap_or(EPERM) {
            data if data <= limit => Ok(Self(action.0 | data)),
            data => Err(Error::invalid(errno_at, format!("{data} is above {limit}"))),
        }
    }
}

/// How an argument is compared with an operand, both unsigned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Op {
    Ne,
    Lt,
    Le,
    Eq,
    Ge,
    Gt,
    MaskedEq,
}

/// One comparison: `(argument & mask) op operand`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cond {
    /// 0 to 5
    pub(super) arg: u8,
    pub(super) op: Op,
    /// All ones but for [`Op::MaskedEq`].
    pub(super) mask: u64,
    pub(super) operand: u64,
}

/// One entry of the profile: the same rule for all its names.
pub(super) struct Rule<'a> {
    /// Its place in `/linux/seccomp/syscalls`.
    pub(super) index: usize,
    pub(super) names: Vec<(&'a str, Call)>,
    pub(super) action: Action,
    /// Each set is a rule of its own; all comparisons of a set must hold. Sorted by argument.
    pub(super) sets: Vec<Vec<Cond>>,
    /// The action is the default one: the rule only counts for what the profile *knows*.
    pub(super) redundant: bool,
}

/// `/linux/seccomp/defaultAction` with its errno.
pub(super) fn default_action(profile: &spec::Seccomp, available: &Available) -> Result<Action> {
    let (at, errno_at) = (format!("{AT}/defaultAction"), format!("{AT}/defaultErrnoRet"));
    let action = Action::read(&profile.default_action, profile.default_errno_ret, available, &at, &errno_at)?;
    if action == Action::NOTIFY {
        // Our own calls between the load and execve would wait for an agent that has no descriptor yet.
        return Err(Error::invalid(at, "SCMP_ACT_NOTIFY cannot be used as default action"));
    }
    Ok(action)
}

/// The architectures of the filter: the native one first, then those listed that the machine can run.
pub(super) fn architectures(profile: &spec::Seccomp, native: Arch) -> Result<Vec<Arch>> {
    let mut arches = vec![native];
    for (i, word) in profile.architectures.iter().enumerate() {
        let arch = match word.as_str() {
            "SCMP_ARCH_X86_64" => Arch::X86_64,
            "SCMP_ARCH_X86" => Arch::X86,
            "SCMP_ARCH_X32" => Arch::X32,
            "SCMP_ARCH_AARCH64" => Arch::Aarch64,
            "SCMP_ARCH_ARM" => Arch::Arm,
            known if ARCHITECTURES.contains(&known) => continue,
            _ => {
                return Err(Error::invalid(
                    format!("{AT}/architectures/{i}"),
                    format!("unknown architecture {word:?}"),
                ));
            }
        };
        if arch.runs_on(native) && !arches.contains(&arch) {
            arches.push(arch);
        }
    }
    // The order of the list is not the filter's: native first, then as the enum has them.
    arches[1..].sort_unstable();
    Ok(arches)
}

/// All rules in the profile's order.
pub(super) fn rules<'a>(profile: &'a spec::Seccomp, default: Action, available: &Available) -> Result<Vec<Rule<'a>>> {
    let mut rules = Vec::with_capacity(profile.syscalls.len());
    for (i, entry) in profile.syscalls.iter().enumerate() {
        let at = format!("{AT}/syscalls/{i}");
        let (word_at, errno_at) = (format!("{at}/action"), format!("{at}/errnoRet"));
        let action = Action::read(&entry.action, entry.errno_ret, available, &word_at, &errno_at)?;
        let sets = condition_sets(entry, &at)?;
        let (mut names, mut cursor) = (Vec::with_capacity(entry.names.len()), Cursor::default());
        for (j, name) in entry.names.iter().enumerate() {
            if name.is_empty() {
                return Err(Error::invalid(format!("{at}/names/{j}"), "empty string is not a valid syscall"));
            }
            if name == "write" && action == Action::NOTIFY {
                let reason = "SCMP_ACT_NOTIFY cannot be used for the write syscall";
                return Err(Error::invalid(format!("{at}/names/{j}"), reason));
            }
            names.push((name.as_str(), Call::found(name, &mut cursor)));
        }
        rules.push(Rule { index: i, names, action, sets, redundant: action == default });
    }
    Ok(rules)
}

/// The conditions of an entry. An argument that occurs twice makes every condition a rule of its own, as in runc.
fn condition_sets(entry: &spec::SyscallRule, at: &str) -> Result<Vec<Vec<Cond>>> {
    let mut conds = Vec::with_capacity(entry.args.len());
    for (k, arg) in entry.args.iter().enumerate() {
        let arg_at = format!("{at}/args/{k}");
        let op = match arg.op.as_str() {
            "SCMP_CMP_NE" => Op::Ne,
            "SCMP_CMP_LT" => Op::Lt,
            "SCMP_CMP_LE" => Op::Le,
            "SCMP_CMP_EQ" => Op::Eq,
            "SCMP_CMP_GE" => Op::Ge,
            "SCMP_CMP_GT" => Op::Gt,
            "SCMP_CMP_MASKED_EQ" => Op::MaskedEq,
            word => return Err(Error::invalid(format!("{arg_at}/op"), format!("unknown operator {word:?}"))),
        };
        let index = match u8::try_from(arg.index) {
            Ok(index @ 0..=5) => index,
            _ => return Err(Error::invalid(format!("{arg_at}/index"), "a system call has six arguments, 0 to 5")),
        };
        let (mask, operand) = match op {
            Op::MaskedEq => (arg.value, arg.value_two),
            _ => (u64::MAX, arg.value),
        };
        conds.push(Cond { arg: index, op, mask, operand });
    }
    let twice = (0..6).any(|index| conds.iter().filter(|c| c.arg == index).count() > 1);
    if twice {
        return Ok(conds.into_iter().map(|cond| vec![cond]).collect());
    }
    conds.sort_by_key(|c| c.arg);
    Ok(vec![conds])
}

/// What a profile says about its notification agent. A path without a rule that notifies is ignored, as in runc.
pub(super) fn listener(profile: &spec::Seccomp, notify: bool) -> Result<()> {
    if notify && profile.listener_path.is_empty() {
        return Err(Error::invalid(format!("{AT}/listenerPath"), "SCMP_ACT_NOTIFY needs it: listenerPath is not set"));
    }
    if !profile.listener_metadata.is_empty() && profile.listener_path.is_empty() {
        return Err(Error::invalid(format!("{AT}/listenerMetadata"), "must not be set without listenerPath"));
    }
    Ok(())
}

/// The flags of the seccomp(2) call. Absent means SPEC_ALLOW where the kernel has it, an empty list means none.
pub(super) fn flags(profile: &spec::Seccomp, notify: bool, available: &Available) -> Result<u32> {
    let mut flags = if notify { flag::NEW_LISTENER } else { 0 };
    let Some(words) = &profile.flags else {
        return Ok(flags | (available.flags & flag::SPEC_ALLOW));
    };
    for (i, word) in words.iter().enumerate() {
        let at = || format!("{AT}/flags/{i}");
        let bits = match word.as_str() {
            // With a listener the call returns a descriptor; TSYNC alone would answer with a thread id.
            "SECCOMP_FILTER_FLAG_TSYNC" if notify => flag::TSYNC | flag::TSYNC_ESRCH,
            "SECCOMP_FILTER_FLAG_TSYNC" => flag::TSYNC,
            "SECCOMP_FILTER_FLAG_LOG" => flag::LOG,
            "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => flag::SPEC_ALLOW,
            "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV" if notify => flag::WAIT_KILLABLE_RECV,
            "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV" => {
                return Err(Error::invalid(at(), "needs a rule with SCMP_ACT_NOTIFY"));
            }
            _ => return Err(Error::invalid(at(), format!("unknown flag {word:?}"))),
        };
        if available.flags & bits != bits {
            return Err(Error::unsupported(at(), format!("the kernel has no {word}")));
        }
        flags |= bits;
    }
    Ok(flags)
}
