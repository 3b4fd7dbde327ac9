//! Which rule answers for a system call: from the profile's list to one decision per number of one architecture.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use super::tables::Cursor;
use super::words::{Action, Cond, Op, Rule};
use super::{AT, Arch};
use crate::error::{Error, Result};

/// What a filter answers for one system call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// Always this.
    Action(Action),
    /// The first branch that matches; the default action if none does.
    Branches(Vec<Branch>),
}

/// A comparison and what follows when it holds. If it does not, or if nothing below it matches, the next branch is tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Branch {
    pub(super) cond: Cond,
    pub(super) then: Decision,
}

/// The numbers of socketcall(2) and ipc(2) on i386, and those of the calls that they carry (linux/net.h, linux/ipc.h); sorted by name.
const SOCKETCALL: u32 = 102;
const IPC: u32 = 117;
const MULTIPLEXED: [(&str, u32, u64); 32] = [
    ("accept", SOCKETCALL, 5),
    ("accept4", SOCKETCALL, 18),
    ("bind", SOCKETCALL, 2),
    ("connect", SOCKETCALL, 3),
    ("getpeername", SOCKETCALL, 7),
    ("getsockname", SOCKETCALL, 6),
    ("getsockopt", SOCKETCALL, 15),
    ("listen", SOCKETCALL, 4),
    ("msgctl", IPC, 14),
    ("msgget", IPC, 13),
    ("msgrcv", IPC, 12),
    ("msgsnd", IPC, 11),
    ("recv", SOCKETCALL, 10),
    ("recvfrom", SOCKETCALL, 12),
    ("recvmmsg", SOCKETCALL, 19),
    ("recvmsg", SOCKETCALL, 17),
    ("semctl", IPC, 3),
    ("semget", IPC, 2),
    ("semop", IPC, 1),
    ("semtimedop", IPC, 4),
    ("send", SOCKETCALL, 9),
    ("sendmmsg", SOCKETCALL, 20),
    ("sendmsg", SOCKETCALL, 16),
    ("sendto", SOCKETCALL, 11),
    ("setsockopt", SOCKETCALL, 14),
    ("shmat", IPC, 21),
    ("shmctl", IPC, 24),
    ("shmdt", IPC, 22),
    ("shmget", IPC, 23),
    ("shutdown", SOCKETCALL, 13),
    ("socket", SOCKETCALL, 1),
    ("socketpair", SOCKETCALL, 8),
];

/// The multiplexer that carries a call of this name on i386, and the call's number there (its argument 0).
pub(super) fn multiplexed(name: &str) -> Option<(u32, u64)> {
    carried(name, &mut Cursor::default())
}

/// The same for one of many names.
fn carried(name: &str, cursor: &mut Cursor) -> Option<(u32, u64)> {
    let at = cursor.find(&MULTIPLEXED, |row| row.0, name)?;
    Some((MULTIPLEXED[at].1, MULTIPLEXED[at].2))
}

/// The decisions for all calls of one architecture that rules exist for, by number.
///
/// # Errors
/// `Invalid` with the rule's pointer if it gives another action to conditions that an earlier rule has.
pub(super) fn decide(rules: &[Rule], arch: Arch) -> Result<BTreeMap<u32, Decision>> {
    let mut calls = BTreeMap::new();
    for rule in rules.iter().filter(|rule| !rule.redundant) {
        let mut cursor = Cursor::default();
        for (name, call) in &rule.names {
            let number = call.number(arch);
            let carrier = if arch == Arch::X86 { carried(name, &mut cursor) } else { None };
            for set in &rule.sets {
                if let Some((number, call)) = carrier {
                    let mut carried = vec![Cond { arg: 0, op: Op::Eq, mask: u64::MAX, operand: call }];
                    carried.extend(set.iter().filter(|cond| cond.arg != 0));
                    add(&mut calls, number, &carried, rule.action, arch).map_err(|other| quarrel(rule, name, other))?;
                }
                if let Some(number) = number {
                    add(&mut calls, number, set, rule.action, arch).map_err(|other| quarrel(rule, name, other))?;
                }
            }
        }
    }
    Ok(calls)
}

/// The refusal of a rule whose conditions have another action already.
fn quarrel(rule: &Rule, name: &str, other: Action) -> Error {
    let reason = format!("{name} has action {:#x} and {:#x} under the same conditions", rule.action.0, other.0);
    Error::invalid(format!("{AT}/syscalls/{}", rule.index), reason)
}

/// Adds one rule to what is decided for a call so far. `Err` has the action that the same conditions have already.
fn add(
    calls: &mut BTreeMap<u32, Decision>,
    number: u32,
    set: &[Cond],
    action: Action,
    arch: Arch,
) -> std::result::Result<(), Action> {
    let set: Vec<Cond> = set.iter().filter_map(|cond| fit(cond, arch)).collect();
    if set.is_empty() {
        // The first unconditional rule stands, and conditional ones before it are forgotten.
        let decision = calls.entry(number).or_insert(Decision::Action(action));
        if matches!(decision, Decision::Branches(_)) {
            *decision = Decision::Action(action);
        }
        return Ok(());
    }
    match calls.entry(number).or_insert_with(|| Decision::Branches(Vec::new())) {
        Decision::Action(_) => Ok(()),
        Decision::Branches(branches) => insert(branches, &set, action, arch.wide()),
    }
}

/// The condition as the architecture can check it, `None` if it always holds there.
fn fit(cond: &Cond, arch: Arch) -> Option<Cond> {
    let width = if arch.wide() { u64::MAX } else { u64::from(u32::MAX) };
    let mask = cond.mask & width;
    // A tautology must go: a rule without other conditions is an unconditional one and has its precedence.
    (mask != 0).then_some(Cond { mask, operand: cond.operand & mask, ..*cond })
}

/// Puts a rule into its place among the branches. `Err` has the action that the same conditions have already.
fn insert(branches: &mut Vec<Branch>, set: &[Cond], action: Action, wide: bool) -> std::result::Result<(), Action> {
    let Some((first, rest)) = set.split_first() else { return Ok(()) };
    let same = |branch: &&mut Branch| branch.cond == *first;
    // A shorter rule covers longer ones that come later; an equal one must agree.
    let covered = branches.iter().find_map(|branch| match branch.then {
        Decision::Action(then) if branch.cond == *first => Some(then),
        _ => None,
    });
    match covered {
        Some(then) if rest.is_empty() && then != action => return Err(then),
        Some(_) => return Ok(()),
        None => {}
    }
    if let Some(Branch { then: Decision::Branches(deeper), .. }) = branches.iter_mut().find(same)
        && !rest.is_empty()
    {
        return insert(deeper, rest, action, wide);
    }
    // A shorter rule that comes later stands behind the longer ones, and replaces them if they all do the same.
    let place = match branches.iter().position(|branch| branch.cond == *first) {
        Some(at) if agree(&branches[at].then, action) => {
            branches[at].then = Decision::Action(action);
            return Ok(());
        }
        Some(at) => at + 1,
        None => place(branches, first, wide),
    };
    let then = if rest.is_empty() {
        Decision::Action(action)
    } else {
        let mut deeper = Vec::new();
        insert(&mut deeper, rest, action, wide)?;
        Decision::Branches(deeper)
    };
    branches.insert(place, Branch { cond: *first, then });
    Ok(())
}

/// Whether everything below does this.
fn agree(decision: &Decision, action: Action) -> bool {
    match decision {
        Decision::Action(then) => *then == action,
        Decision::Branches(deeper) => deeper.iter().all(|branch| agree(&branch.then, action)),
    }
}

/// Where a new comparison goes. libseccomp keeps together what compares the high half of an argument alike, and orders by the
/// low half only within such a group; what has no rank over another stays behind it.
fn place(branches: &[Branch], new: &Cond, wide: bool) -> usize {
    let before = |old: &Branch| precedes(new, &old.cond, new.operand, old.cond.operand);
    if !wide {
        return branches.iter().position(before).unwrap_or(branches.len());
    }
    let kin = |branch: &Branch| high(&branch.cond) == high(new);
    match branches.iter().rposition(kin) {
        Some(last) => branches.iter().position(|old| kin(old) && before(old)).unwrap_or(last + 1),
        None => {
            let ranked = |old: &Branch| precedes(new, &old.cond, high(new).3, high(&old.cond).3);
            branches.iter().position(ranked).unwrap_or(branches.len())
        }
    }
}

/// What is compared of an argument's high half: argument, kind of comparison, mask and operand.
fn high(cond: &Cond) -> (u8, u8, u64, u64) {
    let kind = match cond.op {
        Op::Eq | Op::Ne => 0,
        Op::MaskedEq => 1,
        Op::Lt | Op::Le | Op::Ge | Op::Gt => 2,
    };
    (cond.arg, kind, cond.mask >> 32, cond.operand >> 32)
}

/// Whether a new comparison is tried before one that stands already, going by these parts of their operands.
fn precedes(new: &Cond, old: &Cond, new_operand: u64, old_operand: u64) -> bool {
    let rank = |op| match op {
        Op::Eq | Op::Ne | Op::MaskedEq => 3,
        Op::Lt | Op::Le => 2,
        Op::Ge | Op::Gt => 1,
    };
    let class = (new.arg, rank(new.op)).cmp(&(old.arg, rank(old.op)));
    let operands = match old.op {
        Op::Lt | Op::Le => old_operand.cmp(&new_operand),
        _ => new_operand.cmp(&old_operand),
    };
    class.then(operands).is_gt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_can_be_searched() {
        assert!(MULTIPLEXED.is_sorted_by_key(|row| row.0));
        for (name, carrier, number) in MULTIPLEXED {
            assert_eq!(multiplexed(name), Some((carrier, number)));
        }
        assert_eq!(multiplexed("read"), None);
    }
}
