//! What the kernel's seccomp can do.
#![forbid(unsafe_code)]

use std::fs;
use std::io::ErrorKind;

use super::flag;
use crate::error::{Error, Result};
use crate::sys;

/// Actions that the kernel knows, in its own words (seccomp(2), "/proc interfaces").
const ACTIONS_AVAIL: &str = "/proc/sys/kernel/seccomp/actions_avail";

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
        let actions = match fs::read_to_string(ACTIONS_AVAIL) {
            Ok(text) => text.split_whitespace().map(str::to_owned).collect(),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(Error::io("read", ACTIONS_AVAIL, &error)),
        };
        let known =
            [flag::TSYNC, flag::LOG, flag::SPEC_ALLOW, flag::NEW_LISTENER, flag::TSYNC_ESRCH, flag::WAIT_KILLABLE_RECV];
        // The kernel takes WAIT_KILLABLE_RECV only together with a listener.
        let probe = |bit| if bit == flag::WAIT_KILLABLE_RECV { bit | flag::NEW_LISTENER } else { bit };
        let flags =
            known.into_iter().filter(|&bit| sys::seccomp_flags_supported(probe(bit))).fold(0, |all, bit| all | bit);
        Ok(Self { actions, flags })
    }
}
