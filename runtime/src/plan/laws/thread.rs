//! What a thread of the caller's may do for an exec, and what the process that it makes has open when it is first seen.

use super::{Section, all};
use crate::plan::{Dir, Op, Plan, Slot, Step};

const USER: u64 = libc::CLONE_NEWUSER as u64;
const CGROUP: u64 = libc::CLONE_NEWCGROUP as u64;
const TIME: u64 = 0x80;

/// A thread shares our memory, our signals and our limits: it does what concerns a thread alone, enters no group, and has nothing
/// open that leads to the host when it makes the process (CVE-2016-9962).
pub(super) fn by_thread(plan: &Plan) -> Option<String> {
    let waits = all(plan, |o| matches!(o, Op::AwaitParent { .. }));
    let fork = match all(plan, |o| matches!(o, Op::Fork { .. }))[..] {
        [] if waits.is_empty() => return None,
        [fork] if waits.len() == 1 && waits[0] > fork => fork,
        _ => return Some("a thread makes one process, which waits until its parent knows it".into()),
    };
    let respawns = !all(plan, |o| matches!(o, Op::Respawn { .. })).is_empty();
    if plan.given.init.is_none() || plan.clone_flags != 0 || respawns {
        return Some("only an exec is made by a thread, and once".into());
    }
    let (before, after) = plan.child.split_at(fork);
    let alone = |op: &Op| match *op {
        Op::CloseOthers | Op::Affinity { .. } | Op::Close { .. } | Op::Fchdir { .. } | Op::Chroot { .. } => true,
        // The files of "self" are those of the thread that the process began with.
        Op::Open { dir: Dir::At(slot), path, .. } => {
            proc(plan) == Some(slot) && plan.text(path).starts_with("thread-self/")
        }
        Op::Write { slot, .. } => !plan.given.tasks.contains(&slot),
        Op::Setns { flags, .. } => flags & (USER | TIME) == 0,
        _ => false,
    };
    if let Some(step) = before.iter().find(|s| !alone(&s.op)) {
        return Some(format!("{:?} by a thread", step.op));
    }
    let enters = |s: &Step| matches!(s.op, Op::Setns { flags, .. } if flags & CGROUP != 0);
    let task = |s: &Step| matches!(s.op, Op::Write { slot, .. } if plan.given.tasks.contains(&slot));
    let entered = after.iter().position(enters);
    if before.iter().any(enters) || entered.is_some_and(|at| after[at..].iter().any(task)) {
        return Some("a group is not reached from inside a cgroup namespace".into());
    }
    let closed = |slot: Slot| before.iter().any(|s| s.op == Op::Close { slot });
    let opened = before.iter().filter_map(|s| if let Op::Open { into, .. } = s.op { Some(into) } else { None });
    if let Some(slot) = opened.chain(proc(plan)).find(|slot| !closed(*slot)) {
        return Some(format!("<{}> is open when the process is seen", plan.slot_name(slot)));
    }
    let joins = |slot: &Slot| after.iter().any(|s| matches!(s.op, Op::Write { slot: to, .. } if to == *slot));
    let born_in = if let Op::Fork { into } = plan.child[fork].op { into } else { None };
    (!plan.given.tasks.iter().all(joins) || plan.given.group != born_in).then(|| "the process joins its groups".into())
}

/// The host's procfs, if the parent opens it.
fn proc(plan: &Plan) -> Option<Slot> {
    plan.section(Section::Prepare).iter().find_map(|s| match s.op {
        Op::Open { dir: Dir::Cwd, path, into, .. } if plan.text(path) == "/proc" => Some(into),
        _ => None,
    })
}
