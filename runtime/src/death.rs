//! Why a process died: what waitid(2) says about it, and what was counted and asked around that time. Pure.
//!
//! The kernel counts its out-of-memory kills but does not name the victims. A process is blamed on one only if it died
//! by SIGKILL, nobody had asked us for that before, and it was alive when the count grew and has been dying ever since:
//! so a child's kill an hour ago is not blamed on a `kill -9` now, and a shell that merely exits with 137 was not killed.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::fmt;

use crate::cgroup::{Kills, Limit};
use crate::lifecycle::Who;
use crate::reap::End;

const SIGKILL: i32 = 9;

/// The exit code by which a shell says that its child died by SIGKILL.
const CHILD_KILLED: i32 = 128 + SIGKILL;

/// Why a process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// By itself, with this code.
    Exited(i32),
    /// By a signal that came from outside or from itself.
    Signal {
        /// Its number.
        signal: i32,
        /// It left a core dump.
        core: bool,
    },
    /// By a SIGKILL that was asked of us.
    Asked,
    /// An exec, by the SIGKILL that a pid namespace sends to all when its init ends.
    WithInit,
    /// The kernel killed it for want of memory, at this limit.
    OutOfMemory(Limit),
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Exited(code) => write!(f, "exited with {code}"),
            Cause::Signal { signal, core: false } => write!(f, "killed by signal {signal}"),
            Cause::Signal { signal, core: true } => write!(f, "killed by signal {signal}, core dumped"),
            Cause::Asked => write!(f, "killed by signal 9, as asked"),
            Cause::WithInit => write!(f, "killed by signal 9, with init"),
            Cause::OutOfMemory(limit) => write!(f, "killed for want of memory: {limit}"),
        }
    }
}

/// What is known about the processes of one container that are not dead yet.
#[derive(Debug, Default)]
pub struct Inquest {
    asked: BTreeSet<Who>,
    suspects: BTreeSet<Who>,
    unexplained: u64,
    limit: Option<Limit>,
    presumed: Option<Kills>,
}

impl Inquest {
    /// We are about to send this process a signal. If it is SIGKILL, whoever was no suspect before will not be one.
    pub fn asked(&mut self, who: &Who, signal: i32) {
        if signal == SIGKILL && !self.suspects.contains(who) {
            self.asked.insert(who.clone());
        }
    }

    /// The count grew while these were alive, or not known to be dead.
    pub fn killed(&mut self, kills: Kills, alive: impl IntoIterator<Item = Who>) {
        self.suspects.extend(alive.into_iter().filter(|who| !self.asked.contains(who)));
        self.unexplained += kills.count;
        self.limit = Some(kills.limit);
    }

    /// The group is gone with its count. These the group above has counted around that time: if one of ours died as if by
    /// such a kill, it did; else it was one of a group beside ours.
    pub fn presumed(&mut self, kills: Kills, alive: impl IntoIterator<Item = Who>) {
        self.presumed = Some(kills.clone());
        self.killed(kills, alive);
    }

    /// The presumed kills, once, if this end proves them: a process was blamed on one, or it says like a shell (with 137)
    /// that its child died by SIGKILL.
    pub fn proven(&mut self, cause: &Cause) -> Option<Kills> {
        let proof = matches!(cause, Cause::OutOfMemory(_) | Cause::Exited(CHILD_KILLED));
        self.presumed.take_if(|_| proof)
    }

    /// A while has passed since: who is not `dying` was not the victim.
    pub fn settle(&mut self, mut dying: impl FnMut(&Who) -> bool) {
        self.suspects.retain(|who| dying(who));
        if self.suspects.is_empty() {
            (self.unexplained, self.limit) = (0, None);
        }
    }

    /// True if something is still to be settled.
    pub fn is_open(&self) -> bool {
        self.limit.is_some()
    }

    /// A process has ended. `init_dying`: so has init, or is about to; an exec that dies with it does not die for want of
    /// memory, unless more kills were counted than that of init.
    pub fn verdict(&mut self, who: &Who, end: End, init_dying: impl FnOnce() -> bool) -> Cause {
        let asked = self.asked.remove(who);
        let suspect = self.suspects.remove(who);
        let (signal, core) = match end {
            End::Exited(code) => return Cause::Exited(code),
            End::Killed { signal, core } => (signal, core),
        };
        if signal != SIGKILL {
            return Cause::Signal { signal, core };
        }
        let with_init = who.is_some() && init_dying();
        if suspect && let Some(limit) = self.limit.clone() {
            let reserved = with_init && self.suspects.contains(&None);
            if self.unexplained > u64::from(reserved) {
                self.unexplained -= 1;
                return Cause::OutOfMemory(limit);
            }
        }
        match (asked, with_init) {
            (true, _) => Cause::Asked,
            (false, true) => Cause::WithInit,
            (false, false) => Cause::Signal { signal, core },
        }
    }
}

/// True if a process has been killed and will not run its own code again, or is dead: SIGKILL waits for it, or it is in
/// exit(2). From /proc/PID/status and stat, proc_pid_status(5), proc_pid_stat(5); one that is not there is dead.
pub fn is_dying(pid: u32) -> bool {
    const EXITING: u64 = 0x4; // PF_EXITING
    const SIGNALED: u64 = 0x400; // PF_SIGNALED
    let read = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}"));
    let (Ok(status), Ok(stat)) = (read("status"), read("stat")) else { return true };
    let pending = |key: &str| {
        let mask = status.lines().find_map(|l| l.strip_prefix(key)).map(|v| u64::from_str_radix(v.trim(), 16));
        matches!(mask, Some(Ok(mask)) if mask & (1 << (SIGKILL - 1)) != 0)
    };
    // After the name in parentheses, which may hold anything: state is the first word, flags the seventh.
    let mut words = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let state = words.next().unwrap_or_default();
    let flags: u64 = words.nth(5).and_then(|w| w.parse().ok()).unwrap_or(0);
    matches!(state, "Z" | "X") || flags & (EXITING | SIGNALED) != 0 || pending("SigPnd:") || pending("ShdPnd:")
}

#[cfg(test)]
mod tests {
    use super::*;

    const KILLED: End = End::Killed { signal: 9, core: false };

    fn own() -> Limit {
        Limit::Own("/c".into())
    }

    fn kills(count: u64) -> Kills {
        Kills { count, limit: own() }
    }

    fn exec() -> Who {
        Some("e".into())
    }

    fn no() -> bool {
        false
    }

    #[test]
    fn a_kill_is_blamed_once_and_only_on_a_sigkill() {
        let mut inquest = Inquest::default();
        inquest.killed(kills(1), [None, exec()]);
        assert_eq!(inquest.verdict(&exec(), KILLED, no), Cause::OutOfMemory(own()));
        assert_eq!(inquest.verdict(&None, KILLED, no), Cause::Signal { signal: 9, core: false });

        let mut inquest = Inquest::default();
        inquest.killed(kills(1), [None]);
        let core = End::Killed { signal: 11, core: true };
        assert_eq!(inquest.verdict(&None, core, no), Cause::Signal { signal: 11, core: true });
        assert_eq!(inquest.verdict(&exec(), End::Exited(137), no), Cause::Exited(137));
    }

    #[test]
    fn old_kills_are_not_blamed_on_who_lived_on() {
        let mut inquest = Inquest::default();
        inquest.killed(kills(1), [None]);
        assert!(inquest.is_open());
        inquest.settle(|_| false);
        assert!(!inquest.is_open());
        assert_eq!(inquest.verdict(&None, KILLED, no), Cause::Signal { signal: 9, core: false });
        // Who is dying slowly stays a suspect.
        inquest.killed(kills(1), [None]);
        inquest.settle(|_| true);
        assert_eq!(inquest.verdict(&None, KILLED, no), Cause::OutOfMemory(own()));
    }

    #[test]
    fn who_was_asked_to_die_before_is_no_suspect() {
        let mut inquest = Inquest::default();
        inquest.asked(&None, 15);
        inquest.asked(&None, 9);
        inquest.killed(kills(1), [None]);
        assert_eq!(inquest.verdict(&None, KILLED, no), Cause::Asked);
        // Asked afterwards, when it was dying already.
        inquest.killed(kills(1), [exec()]);
        inquest.asked(&exec(), 9);
        assert_eq!(inquest.verdict(&exec(), KILLED, no), Cause::OutOfMemory(own()));
    }

    #[test]
    fn what_dies_with_init_was_not_out_of_memory() {
        let mut inquest = Inquest::default();
        inquest.killed(kills(1), [None, exec()]);
        assert_eq!(inquest.verdict(&exec(), KILLED, || true), Cause::WithInit);
        assert_eq!(inquest.verdict(&None, KILLED, || true), Cause::OutOfMemory(own()));
        // memory.oom.group: both were killed, and counted.
        inquest.killed(kills(2), [None, exec()]);
        assert_eq!(inquest.verdict(&exec(), KILLED, || true), Cause::OutOfMemory(own()));
        assert_eq!(inquest.verdict(&None, KILLED, || true), Cause::OutOfMemory(own()));
    }

    #[test]
    fn presumed_kills_need_a_proof() {
        let presumed = || {
            let mut inquest = Inquest::default();
            inquest.presumed(kills(1), [None]);
            inquest
        };
        for (end, cause, proof) in [
            (KILLED, Cause::OutOfMemory(own()), true),
            (End::Exited(137), Cause::Exited(137), true),
            (End::Exited(0), Cause::Exited(0), false),
            (End::Killed { signal: 15, core: false }, Cause::Signal { signal: 15, core: false }, false),
        ] {
            let mut inquest = presumed();
            assert_eq!(inquest.verdict(&None, end, no), cause);
            assert_eq!(inquest.proven(&cause), proof.then(|| kills(1)), "{end:?}");
            assert!(!proof || inquest.proven(&cause).is_none(), "only once");
        }
        // A neighbour's kill, just when ours was killed as asked.
        let mut inquest = Inquest::default();
        inquest.asked(&None, 9);
        inquest.presumed(kills(1), [None]);
        let cause = inquest.verdict(&None, KILLED, no);
        assert_eq!((&cause, inquest.proven(&cause)), (&Cause::Asked, None));
    }

    #[test]
    fn the_dying_are_known() {
        assert!(!is_dying(std::process::id()));
        let mut child = std::process::Command::new("/bin/sleep").arg("1000").spawn().unwrap();
        assert!(!is_dying(child.id()));
        child.kill().unwrap();
        assert!(is_dying(child.id()), "as soon as the signal is sent, and as a zombie");
        child.wait().unwrap();
        assert!(is_dying(child.id()), "and when it is gone");
    }
}
