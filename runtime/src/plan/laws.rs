//! What holds for every plan whatsoever; checked over random specs by the tests, and over each plan in debug builds.

use std::collections::HashSet;

use super::{Dir, Op, Plan, Section, Slot};

/// The slots an operation reads and the slot it fills.
pub fn slots(op: &Op) -> (Vec<Slot>, Option<Slot>) {
    let at = |dir: Dir| match dir {
        Dir::At(slot) => vec![slot],
        Dir::Cwd => vec![],
    };
    match *op {
        Op::Open { dir, into, .. } | Op::OpenTree { dir, into, .. } => (at(dir), Some(into)),
        Op::Close { slot }
        | Op::Write { slot, .. }
        | Op::Fchown { slot, .. }
        | Op::CheckFs { slot, .. }
        | Op::CheckNode { slot, .. }
        | Op::Dup { slot, .. }
        | Op::Fchdir { slot }
        | Op::Setns { slot, .. }
        | Op::ChildrenPid { slot }
        | Op::ControllingTty { slot } => (vec![slot], None),
        Op::Mkdir { dir, .. }
        | Op::Mknod { dir, .. }
        | Op::Symlink { dir, .. }
        | Op::Unlink { dir, .. }
        | Op::Chown { dir, .. } => (vec![dir], None),
        Op::CloseRange { keep, .. } => (vec![keep], None),
        Op::Fsopen { into, .. } | Op::MapNamespace { into, .. } => (vec![], Some(into)),
        Op::FsString { fs, .. } | Op::FsFlag { fs, .. } | Op::FsCreate { fs } => (vec![fs], None),
        Op::FsModeOf { fs, of } => (vec![fs, of], None),
        Op::Fsmount { fs, into, .. } => (vec![fs], Some(into)),
        Op::SetAttr { mount, idmap, .. } => (std::iter::once(mount).chain(idmap).collect(), None),
        Op::Remount { mount, .. } => (vec![mount], None),
        Op::Propagation { mount, .. } => (mount.into_iter().collect(), None),
        Op::MoveMount { from, to } => (vec![from, to], None),
        Op::CopyUp { root, into, .. } => (vec![root, into], None),
        Op::UnlockPty { master } | Op::Winsize { master, .. } => (vec![master], None),
        Op::PtyPeer { master, into } => (vec![master], Some(into)),
        Op::SendFd { wire, slot } => (vec![wire, slot], None),
        Op::Home { dir, .. } => (at(dir), None),
        Op::Gate { wire, wait, .. } => (vec![wire, wait], None),
        Op::Seccomp { listener, .. } => (vec![], listener),
        _ => (vec![], None),
    }
}

/// The first law that a plan breaks, in words.
pub fn broken(plan: &Plan) -> Option<String> {
    forward(plan)
        .or_else(|| filled_before_use(plan))
        .or_else(|| places(plan))
        .or_else(|| order(plan))
        .or_else(|| paths(plan))
}

/// Edges lead forward and stay inside the section.
fn forward(plan: &Plan) -> Option<String> {
    for section in [Section::Prepare, Section::Child, Section::Maps, Section::Limits] {
        let steps = plan.section(section);
        for (i, step) in steps.iter().enumerate() {
            for edge in step.on.0.iter().flatten() {
                if usize::from(edge.to) <= i || usize::from(edge.to) > steps.len() {
                    return Some(format!("{} {i}: edge to {}", section.name(), edge.to));
                }
            }
        }
    }
    None
}

/// No operation reads a slot that nothing has filled.
fn filled_before_use(plan: &Plan) -> Option<String> {
    let g = &plan.given;
    let mut filled: HashSet<Slot> = [g.wire, g.start].into();
    filled.extend(&g.tasks);
    filled.extend(g.stdio.iter().flatten());
    filled.extend(g.init.iter().chain(&g.process).chain(&g.root));
    for section in [Section::Prepare, Section::Child, Section::Maps, Section::Limits] {
        for (i, step) in plan.section(section).iter().enumerate() {
            let (reads, fills) = slots(&step.op);
            if let Some(slot) = reads.iter().find(|s| !filled.contains(s)) {
                return Some(format!("{} {i}: <{}> is empty", section.name(), plan.slot_name(*slot)));
            }
            filled.extend(fills);
        }
    }
    None
}

/// Only the parent carries out what allocates, only the child what ends or parks a process.
fn places(plan: &Plan) -> Option<String> {
    for section in [Section::Prepare, Section::Child, Section::Maps, Section::Limits] {
        for (i, step) in plan.section(section).iter().enumerate() {
            let parent = matches!(step.op, Op::CopyUp { .. } | Op::MapNamespace { .. } | Op::ChildrenPid { .. });
            let child = matches!(
                step.op,
                Op::Exec { .. }
                    | Op::Gate { .. }
                    | Op::Respawn { .. }
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
    if exec.is_some() && !matches!(plan.child[plan.child.len() - 2].op, Op::CloseRange { .. }) {
        return Some("nothing may be opened between close_range and execve".into());
    }
    let setuid = last(&|o| matches!(o, Op::Setuid { .. }));
    let rules: [(&str, Option<usize>, Option<usize>); 8] = [
        ("groups before the user", last(&|o| matches!(o, Op::Setgroups { .. })), setuid),
        ("the bounding set before the user", last(&|o| matches!(o, Op::Bounding { .. })), setuid),
        ("the user before the capabilities", setuid, at(&|o| matches!(o, Op::Capset { .. }))),
        ("the directory is checked after the user", setuid, at(&|o| matches!(o, Op::CheckCwd))),
        ("mounts before pivot_root", last(&|o| matches!(o, Op::Fsmount { .. })), at(&|o| matches!(o, Op::PivotRoot))),
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
            "the start gate before the filter",
            at(&|o| matches!(o, Op::Gate { gate: super::Gate::Start, .. })),
            at(&|o| matches!(o, Op::Seccomp { .. })),
        ),
    ];
    rules.into_iter().find(|(_, a, b)| matches!((a, b), (Some(a), Some(b)) if a > b)).map(|(law, ..)| law.into())
}

/// Below the rootfs nothing is reached by a string alone: openat2 stays in the root or beneath a directory, and names given
/// to mkdirat, mknodat, symlinkat and unlinkat are one component.
fn paths(plan: &Plan) -> Option<String> {
    for (i, step) in plan.child.iter().enumerate() {
        match step.op {
            Op::Mkdir { name, .. } | Op::Mknod { name, .. } | Op::Unlink { name, .. } | Op::Symlink { name, .. } => {
                let name = plan.text(name);
                if name.is_empty() || name.contains('/') || name == ".." || name == "." {
                    return Some(format!("child {i}: {name:?} is not one component"));
                }
            }
            Op::Open { dir: Dir::At(slot), path, resolve: 0, .. } => {
                let trusted = ["/proc", "/proc/PID"].contains(&plan.slot_name(slot).as_str());
                if !trusted && plan.text(path) != "." {
                    return Some(format!("child {i}: {:?} may leave the root", plan.text(path)));
                }
            }
            _ => {}
        }
    }
    None
}
