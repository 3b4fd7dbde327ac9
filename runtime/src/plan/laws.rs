//! What holds for every plan whatsoever; checked by the tests over real specs and over random ones.

mod flow;
mod root;
mod thread;

pub use flow::slots;

use flow::{filled_before_use, forward};
use root::{attached, locked, opens, own_groups, paths, root, uncovered, watched};
use thread::by_thread;

use super::{Gate, Op, Plan, Section};

/// The first law that a plan breaks, in words.
pub fn broken(plan: &Plan) -> Option<String> {
    let laws = [
        forward,
        filled_before_use,
        places,
        by_thread,
        order,
        tail,
        root,
        gates,
        paths,
        opens,
        locked,
        watched,
        attached,
        uncovered,
        own_groups,
    ];
    laws.iter().find_map(|law| law(plan))
}

const SECTIONS: [Section; 4] = [Section::Prepare, Section::Child, Section::Maps, Section::Limits];

/// Only the parent carries out what allocates, only the child what ends or parks a process.
fn places(plan: &Plan) -> Option<String> {
    for section in SECTIONS {
        for (i, step) in plan.section(section).iter().enumerate() {
            let parent = matches!(
                step.op,
                Op::CopyUp { .. }
                    | Op::MapNamespace { .. }
                    | Op::ForeignMounts { .. }
                    | Op::OpenTreeOf { .. }
                    | Op::ChildrenPid { .. }
            );
            let child = matches!(
                step.op,
                Op::Exec { .. }
                    | Op::Gate { .. }
                    | Op::Respawn { .. }
                    | Op::Fork { .. }
                    | Op::AwaitParent { .. }
                    | Op::Setuid { .. }
                    | Op::Seccomp { .. }
                    | Op::PivotRoot
            );
            let in_child = section == Section::Child;
            if parent && in_child || child && !in_child {
                return Some(format!("{} {i}: {:?} does not belong here", section.name(), step.op));
            }
        }
    }
    None
}

/// What comes before what in the child, whatever the spec says.
fn order(plan: &Plan) -> Option<String> {
    let at = |what: &dyn Fn(&Op) -> bool| plan.child.iter().position(|s| what(&s.op));
    let last = |what: &dyn Fn(&Op) -> bool| plan.child.iter().rposition(|s| what(&s.op));
    if !matches!(plan.child.first().map(|s| s.op), Some(Op::CloseOthers)) {
        return Some("the child does not begin by closing what is not its own".into());
    }
    let exec = at(&|o| matches!(o, Op::Exec { .. }));
    if exec.is_some_and(|i| i + 1 != plan.child.len()) {
        return Some("execve is not the last step".into());
    }
    let setuid = last(&|o| matches!(o, Op::Setuid { .. }));
    let rules: [(&str, Option<usize>, Option<usize>); 9] = [
        ("groups before the user", last(&|o| matches!(o, Op::Setgroups { .. })), setuid),
        ("the bounding set before the user", last(&|o| matches!(o, Op::Bounding { .. })), setuid),
        ("the user before the capabilities", setuid, at(&|o| matches!(o, Op::Capset { .. }))),
        ("the directory is checked after the user", setuid, at(&|o| matches!(o, Op::CheckCwd))),
        (
            "mounts before pivot_root",
            last(&|o| matches!(o, Op::Fsmount { .. } | Op::Mount { .. })),
            at(&|o| matches!(o, Op::PivotRoot)),
        ),
        (
            "the group before its namespace",
            last(&|o| matches!(o, Op::Write { slot, .. } if plan.given.tasks.contains(slot))),
            at(&|o| matches!(o, Op::Unshare { flags } if flags & libc::CLONE_NEWCGROUP as u64 != 0)),
        ),
        (
            "the terminal after the session",
            at(&|o| matches!(o, Op::Setsid)),
            at(&|o| matches!(o, Op::ControllingTty { .. })),
        ),
        (
            "the last process before the session",
            last(&|o| matches!(o, Op::Respawn { .. } | Op::Fork { .. })),
            at(&|o| matches!(o, Op::Setsid)),
        ),
        (
            // Who is started by another process has to hand its listener over before.
            "the start gate before the filter",
            at(&|o| matches!(o, Op::Gate { gate: Gate::Start, .. } | Op::AwaitParent { .. })),
            at(&|o| matches!(o, Op::Seccomp { listener: None, .. })),
        ),
    ];
    rules.into_iter().find(|(_, a, b)| matches!((a, b), (Some(a), Some(b)) if a > b)).map(|(law, ..)| law.into())
}

/// Indexes of the child's steps that are so.
fn all(plan: &Plan, is: impl Fn(&Op) -> bool) -> Vec<usize> {
    plan.child.iter().enumerate().filter(|(_, s)| is(&s.op)).map(|(i, _)| i).collect()
}

/// What every payload may rely on: see runtime-spec, capabilities(7), seccomp(2), and CVE-2023-25173 for the groups.
fn tail(plan: &Plan) -> Option<String> {
    if all(plan, |o| matches!(o, Op::Exec { .. })).is_empty() {
        return None;
    }
    let one = |what: &str, is: &dyn Fn(&Op) -> bool| match all(plan, is)[..] {
        [i] => Ok(i),
        ref found => Err(format!("{what} is there {} times", found.len())),
    };
    let found = (|| {
        let groups = one("setgroups", &|o| matches!(o, Op::Setgroups { .. }))?;
        let signals = one("the signal mask", &|o| matches!(o, Op::Signals))?;
        let session = one("setsid", &|o| matches!(o, Op::Setsid))?;
        let chdir = one("chdir", &|o| matches!(o, Op::Chdir { .. }))?;
        let again = one("the second chdir", &|o| matches!(o, Op::ChdirAgain { .. }))?;
        let check = one("getcwd", &|o| matches!(o, Op::CheckCwd))?;
        for to in 0..3 {
            if all(plan, |o| matches!(o, Op::Dup { to: t, .. } if *t == to)).is_empty() {
                return Err(format!("nothing is opened as {to}"));
            }
        }
        Ok([groups, signals, session, chdir, again, check])
    })();
    let [groups, _, _, chdir, again, check] = match found {
        Ok(found) => found,
        Err(law) => return Some(law),
    };
    let last = |is: &dyn Fn(&Op) -> bool| all(plan, is).pop();
    let gid = last(&|o| matches!(o, Op::Setgid { .. }));
    let uid = last(&|o| matches!(o, Op::Setuid { .. }));
    let (Some(gid), Some(uid)) = (gid, uid) else { return Some("the user stays the caller's".into()) };
    let keep = all(plan, |o| matches!(o, Op::KeepCaps { on: true }));
    let drop = all(plan, |o| matches!(o, Op::KeepCaps { on: false }));
    let root = matches!(plan.child[uid].op, Op::Setuid { uid: 0 });
    let kept = matches!((keep.as_slice(), drop.as_slice()), ([a], [b]) if *a < uid && uid < *b);
    if !(kept || root && keep.is_empty() && drop.is_empty()) {
        return Some("capabilities are kept over the change of user, and only over it".into());
    }
    if !(groups < gid && gid < uid && chdir < uid && uid < again && again < check) {
        return Some("groups, then gid, then uid, then the directory".into());
    }
    if let Some(late) = all(plan, |o| matches!(o, Op::NoNewPrivs)).pop()
        && all(plan, |o| matches!(o, Op::Seccomp { .. })).first().is_some_and(|f| *f < late)
    {
        return Some("no_new_privs before the filter".into());
    }
    if let Some(filter) = all(plan, |o| matches!(o, Op::Seccomp { .. })).pop() {
        let after = |o: &Op| {
            let listener = matches!(o, Op::Gate { gate: Gate::Listener, .. });
            let start = matches!(o, Op::Gate { gate: Gate::Start, .. });
            let rest = matches!(o, Op::Capset { .. } | Op::Hook { .. } | Op::Inherit { .. } | Op::Close { .. });
            listener || start || rest || matches!(o, Op::Exec { .. })
        };
        if let Some(step) = plan.child[filter + 1..].iter().find(|s| !after(&s.op)) {
            return Some(format!("{:?} under the filter", step.op));
        }
    }
    // Who waits in execve for an answer, and holds the listener open, waits for ever when nobody else does any more.
    for (i, step) in plan.child.iter().enumerate() {
        let Op::Seccomp { listener: Some(listener), .. } = step.op else { continue };
        let after = [1, 2].map(|n| plan.child.get(i + n).map(|s| s.op));
        let gone = matches!(after, [Some(Op::Gate { gate: Gate::Listener, .. }), Some(Op::Close { slot })] if slot == listener);
        if !gone {
            return Some("a listener is handed over and closed".into());
        }
    }
    // What is open of ours may be more than RLIMIT_NOFILE allows.
    let limit = all(plan, |o| matches!(o, Op::Rlimit { resource: 7, .. }));
    let opened = all(plan, |o| matches!(o, Op::Home { .. }) || slots(o).1.is_some());
    let listener = |i: &usize| matches!(plan.child[*i].op, Op::Seccomp { .. });
    if limit.first().is_some_and(|l| opened.iter().any(|o| o > l && !listener(o))) {
        return Some("nothing is opened under the payload's limits".into());
    }
    let closed = match all(plan, |o| matches!(o, Op::CloseRange { .. }))[..] {
        [i] => i,
        ref found => return Some(format!("close_range is there {} times", found.len())),
    };
    let first = match plan.child[closed].op {
        Op::CloseRange { first, keep } if keep == [plan.given.start, plan.given.wire] => first,
        _ => return Some("close_range keeps what is waited at".into()),
    };
    // No name that the image or the payload chose leads to a descriptor of ours (CVE-2024-21626).
    if closed > chdir {
        return Some("close_range before the directory".into());
    }
    if opened.iter().any(|o| *o > closed && !listener(o)) {
        return Some("nothing is opened after close_range".into());
    }
    let inherited = |s: &super::Step| matches!(s.op, Op::Inherit { fd } if fd < 3 || fd >= first);
    (first < 3 || plan.child.iter().any(inherited)).then(|| "what is inherited is closed".into())
}

/// Who waits is let go: the parent's sections belong to gates that are there, and to a namespace that is made.
fn gates(plan: &Plan) -> Option<String> {
    let gate = |which: Gate| all(plan, |o| matches!(o, Op::Gate { gate, .. } if *gate == which)).len();
    for which in [Gate::Maps, Gate::Hooks, Gate::Limits, Gate::Listener, Gate::Start] {
        if gate(which) > 1 {
            return Some(format!("two gates {which:?}"));
        }
    }
    let init = plan.given.init.is_none();
    let new_user = libc::CLONE_NEWUSER as u64;
    let unshared = !all(plan, |o| matches!(o, Op::Unshare { flags } if flags & new_user != 0)).is_empty();
    let user = plan.clone_flags & new_user != 0 || unshared;
    if (gate(Gate::Start) == 1) != init {
        return Some("init waits for its start, nobody else does".into());
    }
    if user != (gate(Gate::Maps) == 1) || user == plan.maps.is_empty() {
        return Some("a new user namespace gets its maps, nobody else does".into());
    }
    let awaited = all(plan, |o| matches!(o, Op::AwaitParent { .. })).len();
    let limited = awaited + gate(if init { Gate::Start } else { Gate::Limits });
    (!plan.limits.is_empty() && limited == 0 || gate(Gate::Limits) == 1 && plan.limits.is_empty())
        .then(|| "limits are set while the child waits".into())
}
