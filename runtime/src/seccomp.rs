//! An OCI seccomp profile as a classic BPF program (seccomp(2), runtime-spec config-linux.md "Seccomp").
//!
//! `words` reads the profile's words, `rules` decides which rule answers for which system call of which architecture,
//! `stub` finds what answers ENOSYS, `code` writes the program. Verdicts are those of runc with libseccomp.
//!
//! # What runc and libseccomp do, and we do too
//!
//! * The native architecture is always in the filter. A call of another architecture that is not listed, and an x32 call
//!   when x32 is not, kills the thread.
//! * A rule with the default action is skipped. A name that an architecture lacks is skipped there.
//! * The first rule without conditions decides a call; conditional rules for it are forgotten, wherever they stand.
//! * Conditional rules with one action are alternatives. With several actions the more specific rule comes first:
//!   comparisons of a higher argument before those of a lower one, equality before `<` and `<=` before `>` and `>=`,
//!   greater operands before smaller ones (for `<` and `<=` the other way round).
//! * Of two rules with several actions where one's conditions begin the other's, the shorter one covers a longer one that
//!   comes later. Two actions under the same conditions are refused.
//! * On 32-bit architectures, x32 included, only the low halves of arguments and operands count.
//! * On i386 a rule for a socket or System V IPC call answers for socketcall(2) and ipc(2) as well; there argument 0 is the
//!   number of the call, and conditions on it are dropped.
//! * Calls above the highest one that the profile names answer ENOSYS instead of the default action, unless the default
//!   allows, logs or traces: a C library must see that a new call is not there (runc's `patchbpf`).
//!
//! # Where we differ
//!
//! * `errnoRet` with an action that takes none is refused, as the specification demands (runc ignores it).
//! * Several rules for one call mean what they say. libseccomp (seen with 2.5.4 and 2.6.1) sometimes answers with the action of
//!   a rule that does not hold, or misses one that does, if a rule among them has several conditions or one of `<`, `<=`,
//!   `>`, `>=`, `!=`: `a0 < 0x1_0000_0005 && a1 == 40` beside `a0 >= 40` also matches `a0 == 39, a1 == 39`. Nor does it
//!   load the call's number if x32 is listed, there are at most 32 rules and the first call is none of x86-64.
//! * libseccomp refuses more quarrels: also those of a shorter rule with earlier longer ones, and of calls that the
//!   architecture does not have.
//! * Architectures of other machines are accepted and produce nothing (libseccomp refuses those of the other byte order).
#![forbid(unsafe_code)]

use crate::error::{Error, Result};
use crate::spec;

mod available;
mod code;
mod rules;
mod stub;
mod tables;
mod words;

pub use available::Available;
pub use words::{ACTIONS, ARCHITECTURES, FLAGS, OPERATORS};

use words::Action;

/// Pointer of everything this module refuses.
const AT: &str = "/linux/seccomp";

/// `SECCOMP_FILTER_FLAG_*` of linux/seccomp.h.
pub mod flag {
    /// Load into all threads of the process.
    pub const TSYNC: u32 = 1 << 0;
    /// Log every action but ALLOW.
    pub const LOG: u32 = 1 << 1;
    /// No Speculative Store Bypass mitigation.
    pub const SPEC_ALLOW: u32 = 1 << 2;
    /// Return a descriptor for notifications.
    pub const NEW_LISTENER: u32 = 1 << 3;
    /// With TSYNC: fail with ESRCH instead of a thread id, which could not be told from a descriptor.
    pub const TSYNC_ESRCH: u32 = 1 << 4;
    /// A notified task that the agent has taken on waits killable.
    pub const WAIT_KILLABLE_RECV: u32 = 1 << 5;
}

/// An ABI whose system calls a filter can judge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Arch {
    /// x86-64
    X86_64,
    /// i386, as a companion of x86-64
    X86,
    /// 32-bit pointers on x86-64
    X32,
    /// arm64
    Aarch64,
    /// 32-bit arm (EABI), as a companion of arm64
    Arm,
}

impl Arch {
    /// The one this program is built for.
    #[cfg(target_arch = "x86_64")]
    pub const NATIVE: Self = Self::X86_64;
    /// The one this program is built for.
    #[cfg(target_arch = "aarch64")]
    pub const NATIVE: Self = Self::Aarch64;

    /// `AUDIT_ARCH_*` of linux/audit.h, as in `seccomp_data.arch`; x32 has none of its own.
    pub fn audit(self) -> u32 {
        match self {
            Self::X86_64 | Self::X32 => 0xc000_003e,
            Self::X86 => 0x4000_0003,
            Self::Aarch64 => 0xc000_00b7,
            Self::Arm => 0x4000_0028,
        }
    }

    /// Whether arguments have 64 bits. libseccomp counts x32 among those of 32.
    fn wide(self) -> bool {
        matches!(self, Self::X86_64 | Self::Aarch64)
    }

    /// Whether a machine of the native architecture can make calls of this one.
    fn runs_on(self, native: Self) -> bool {
        let machine = |arch| matches!(arch, Self::Aarch64 | Self::Arm);
        machine(self) == machine(native)
    }
}

/// One instruction: `struct sock_filter` of linux/filter.h.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Insn {
    /// Class, size, mode or operation.
    pub code: u16,
    /// Instructions to skip if the comparison holds.
    pub jt: u8,
    /// Instructions to skip if it does not.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

/// What to hand to `seccomp(SECCOMP_SET_MODE_FILTER, flags, {filter.len(), filter.as_ptr()})`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// The instructions; none means that the profile is empty and nothing is to be loaded.
    pub filter: Vec<Insn>,
    /// `SECCOMP_FILTER_FLAG_*`, see [`flag`].
    pub flags: u32,
    /// The call returns a descriptor that goes to `listenerPath`.
    pub notify: bool,
}

/// The number of a system call in `seccomp_data.nr` (x32 with its bit 30), `None` if the architecture has no such call.
pub fn number(name: &str, arch: Arch) -> Option<u32> {
    tables::Call::named(name).number(arch)
}

/// Compiles a profile for a machine of architecture `native` whose kernel has what `available` says.
///
/// A profile without default action and rules means no filter, as in runc: [`Program::filter`] is empty then.
///
/// # Errors
/// `Invalid` with a pointer for words that do not exist and for contradictions, `Unsupported` with a pointer for actions
/// and flags that the kernel lacks.
pub fn compile(profile: &spec::Seccomp, native: Arch, available: &Available) -> Result<Program> {
    if profile.asks_for_nothing() {
        return Ok(Program { filter: Vec::new(), flags: 0, notify: false });
    }
    let default = words::default_action(profile, available)?;
    let arches = words::architectures(profile, native)?;
    let rules = words::rules(profile, default, available)?;
    let notify = rules.iter().any(|rule| rule.action == Action::NOTIFY);
    words::listener(profile, notify)?;
    let flags = words::flags(profile, notify, available)?;

    let mut sections: Vec<code::Section> = Vec::new();
    for &arch in &arches {
        let calls = rules::decide(&rules, arch)?;
        let last = stub::last(&rules, arch, default);
        let table = code::Table { arch, calls, last };
        match sections.iter_mut().find(|s| s.audit == arch.audit()) {
            Some(section) => section.tables.push(table),
            None => sections.push(code::Section { audit: arch.audit(), tables: vec![table] }),
        }
    }
    let filter = code::write(&sections, default);
    if filter.len() > code::MAX {
        let reason = format!("needs {} instructions, the kernel takes {} (BPF_MAXINSNS)", filter.len(), code::MAX);
        return Err(Error::invalid(AT, reason));
    }
    Ok(Program { filter, flags, notify })
}
