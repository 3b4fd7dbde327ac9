//! What the kernel's seccomp can do.
#![forbid(unsafe_code)]

use rustix::io::Errno;

use super::flag;
use crate::error::{Error, Result};
use crate::kernfs;
use crate::sys;

/// Actions that the kernel knows, in its own words (seccomp(2), "/proc interfaces").
const ACTIONS_AVAIL: &str = "/proc/sys/kernel/seccomp/actions_avail";

/// What it says since Linux 5.0.
const ACTIONS: [&str; 8] = ["kill_process", "kill_thread", "trap", "errno", "user_notif", "trace", "log", "allow"];

/// The kernel's actions and flags.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Available {
    /// `kill_process`, `kill_thread`, `trap`, `errno`, `user_notif`, `trace`, `log`, `allow`; none without seccomp.
    pub actions: Vec<String>,
    /// Supported `SECCOMP_FILTER_FLAG_*`.
    pub flags: u32,
}

impl Available {
    /// What the running kernel has. A kernel without seccomp has nothing, which is no error.
    ///
    /// # Errors
    /// The errno of reading `/proc`, but for its absence.
    pub fn read() -> Result<Self> {
        let known =
            [flag::TSYNC, flag::LOG, flag::SPEC_ALLOW, flag::NEW_LISTENER, flag::TSYNC_ESRCH, flag::WAIT_KILLABLE_RECV];
        // The kernel takes WAIT_KILLABLE_RECV only together with a listener.
        let probe = |bit| if bit == flag::WAIT_KILLABLE_RECV { bit | flag::NEW_LISTENER } else { bit };
        // Most kernels have them all, which is one question. The last came with Linux 5.19, and no action is newer than 5.0.
        let all = known.into_iter().fold(0, |all, bit| all | bit);
        if sys::seccomp_flags_supported(all) {
            return Ok(Self { actions: ACTIONS.map(str::to_owned).to_vec(), flags: all });
        }
        let actions = match kernfs::small(ACTIONS_AVAIL) {
            Ok(text) => text.split_whitespace().map(str::to_owned).collect(),
            Err(Errno::NOENT) => return Ok(Self::default()),
            Err(error) => return Err(Error::sys("read", ACTIONS_AVAIL, error)),
        };
        let flags =
            known.into_iter().filter(|&bit| sys::seccomp_flags_supported(probe(bit))).fold(0, |all, bit| all | bit);
        Ok(Self { actions, flags })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_asked_is_what_the_kernel_would_have_said() {
        let said = kernfs::small(ACTIONS_AVAIL).unwrap();
        assert_eq!(Available::read().unwrap().actions, said.split_whitespace().collect::<Vec<_>>());
        assert_eq!(ACTIONS.join(" "), said.trim());
    }
}
