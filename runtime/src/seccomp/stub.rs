//! Which calls a profile cannot have meant: those newer than all it names.
//!
//! A C library tries a new call and falls back on ENOSYS; EPERM from a profile older than the library breaks it. So every
//! number above the highest named one answers ENOSYS, as runc's `patchbpf` does. Rules with the default action count
//! too: the author knew the call.
#![forbid(unsafe_code)]

use super::Arch;
use super::rules::multiplexed;
use super::words::{Action, Rule};

/// The highest number that the profile names on this architecture. `None` if nothing answers ENOSYS: the default lets calls
/// through (a tracer is expected to know them), or no name exists there. Number 0 counts as none, as in runc.
pub(super) fn last(rules: &[Rule], arch: Arch, default: Action) -> Option<u32> {
    if matches!(default.kind(), Action::ALLOW | Action::LOG | Action::TRACE) {
        return None;
    }
    // On i386 libseccomp resolves socket and IPC names to pseudo numbers below zero, which never are the highest.
    let counts = |name: &str| arch != Arch::X86 || multiplexed(name).is_none();
    let named = rules.iter().flat_map(|rule| &rule.names).filter_map(|(name, call)| Some((name, call.number(arch)?)));
    let last = named.fold(0, |last, (name, number)| if number > last && counts(name) { number } else { last });
    (last > 0).then_some(last)
}
