//! Laws of mounts and paths: what belongs to the host and what to the container.

use super::{SECTIONS, all};
use crate::plan::rootfs::resolve;
use crate::plan::{Dir, Edges, Gate, Op, Plan, Slot, Step};

/// The way into the root file system, and that nothing of the host is reached from inside.
pub(super) fn root(plan: &Plan) -> Option<String> {
    let slash = |o: &Op| matches!(*o, Op::Propagation { mount: None, path, .. } if plan.text(path) == "/");
    let private = all(plan, slash);
    let moved = all(plan, |o| matches!(o, Op::Mount { .. } | Op::MoveMount { .. } | Op::MoveMountTo { .. }));
    if moved.first().is_some_and(|m| private.first().is_none_or(|p| p > m)) {
        return Some("mounts of the child show on the host".into());
    }
    let mask = all(plan, |o| matches!(o, Op::Umask { mask: 0 }));
    let made = all(plan, |o| matches!(o, Op::Mkdir { .. } | Op::Mknod { .. } | Op::OpenMade { .. }));
    if made.first().is_some_and(|m| mask.first().is_none_or(|u| u > m)) {
        return Some("the caller's umask cuts modes".into());
    }
    let from = |what: &str| -> Vec<usize> {
        // What was put somewhere before may become read-only later.
        let attribute = |s: &Step| matches!(s.op, Op::SetAttr { .. } | Op::Remount { .. });
        let is = |s: &Step| plan.text(s.from).starts_with(what) && !attribute(s);
        plan.child.iter().enumerate().filter(|(_, s)| is(s)).map(|(i, _)| i).collect()
    };
    let (read_only, masks) = (from("/linux/readonlyPaths"), from("/linux/maskedPaths"));
    if matches!((read_only.first(), masks.last()), (Some(r), Some(m)) if r < m) {
        return Some("a read-only copy lies on what a mask is put into".into());
    }
    for i in all(plan, |o| matches!(o, Op::PivotRoot)) {
        let slave = |s: &Step| {
            matches!(s.op, Op::Propagation { mount: None, path, flags }
                if plan.text(path) == "." && flags & (libc::MS_SLAVE | libc::MS_PRIVATE) != 0 && flags & libc::MS_REC != 0)
        };
        let gone = |s: &Step| matches!(s.op, Op::Umount { path, flags } if plan.text(path) == "." && flags == libc::MNT_DETACH as u32);
        let old = |s: &Step| matches!(s.op, Op::Fchdir { .. });
        // Shared with the host until then, it would take the host's mounts along.
        let shared = |s: &Step| {
            matches!(s.op, Op::Propagation { mount: None, path, flags }
                if plan.text(path) == "/" && flags & libc::MS_SHARED != 0)
        };
        let after: &[&dyn Fn(&Step) -> bool] =
            if plan.child[..i].iter().any(shared) { &[&old, &slave, &gone] } else { &[&gone] };
        if !after.iter().enumerate().all(|(n, is)| plan.child.get(i + 1 + n).is_some_and(is)) {
            return Some("the old root is no longer the host's and taken off".into());
        }
        if [&read_only, &masks].iter().any(|list| list.last().is_some_and(|l| *l > i)) {
            return Some("what covers paths of the container comes from the host".into());
        }
    }
    let new_ns = libc::CLONE_NEWNS as u64;
    let inside = |o: &Op| match *o {
        Op::PivotRoot | Op::Chroot { .. } => true,
        Op::Setns { slot, flags } => plan.given.init == Some(slot) && flags & new_ns != 0,
        _ => false,
    };
    let entered = all(plan, inside).pop()?;
    plan.child[entered + 1..].iter().find_map(|step| match step.op {
        Op::OpenTree { dir: Dir::Cwd, path, .. } | Op::OpenTreeAttr { dir: Dir::Cwd, path, .. } => {
            Some(format!("{:?} by name inside", plan.text(path)))
        }
        Op::Open { dir: Dir::Cwd, path, .. } if plan.given.init.is_none() || plan.text(path) != "/" => {
            Some(format!("{:?} by name inside", plan.text(path)))
        }
        Op::Umount { path, .. } | Op::Propagation { mount: None, path, .. }
            if ![".", "/"].contains(&plan.text(path).as_str()) =>
        {
            Some(format!("{:?} by name inside", plan.text(path)))
        }
        _ => None,
    })
}

/// What protects paths goes onto what the container will see, not below a mount that has come to cover it: nothing is looked
/// up in a mount any more when hooks or copies of what only links lead to may lie on it.
pub(super) fn uncovered(plan: &Plan) -> Option<String> {
    let protects = |s: &Step| {
        let from = plan.text(s.from);
        from.starts_with("/linux/maskedPaths/") || from.starts_with("/linux/readonlyPaths/")
    };
    let root = plan.child.iter().enumerate().find_map(|(i, s)| match (s.op, plan.child.get(i + 1)?.op) {
        (Op::Fchdir { slot }, Op::PivotRoot | Op::Chroot { .. }) => Some(slot),
        _ => None,
    })?;
    let is_hook = |s: &Step| matches!(s.op, Op::Gate { gate: Gate::Hooks, .. } | Op::Hook { .. });
    let entered = all(plan, |o| matches!(o, Op::PivotRoot | Op::Chroot { .. })).pop()?;
    let hooked = plan.child[..entered].iter().rposition(is_hook);
    let mut in_root = false;
    for (i, step) in plan.child.iter().enumerate().filter(|(_, s)| protects(s)) {
        let dir = match step.op {
            Op::Open { dir: Dir::At(dir), .. } | Op::MoveMountTo { dir, .. } => dir,
            _ => continue,
        };
        if dir == root {
            in_root |= plan.text(step.from).starts_with("/linux/readonlyPaths/");
            continue;
        }
        let found = |s: &Step| super::flow::slots(&s.op).1 == Some(dir);
        if hooked.is_some_and(|hook| !plan.child[hook..i].iter().any(found)) {
            return Some(format!("child {i}: hooks may have covered <{}>", plan.slot_name(dir)));
        }
        if in_root {
            return Some(format!("child {i}: a read-only copy may cover <{}>", plan.slot_name(dir)));
        }
    }
    None
}

/// The host's procfs, as the parent has opened it by name or as the child's directory in it.
fn trusted(plan: &Plan, slot: Slot) -> bool {
    let proc = |s: &Step| matches!(s.op, Op::Open { dir: Dir::Cwd, path, into, .. } if into == slot && plan.text(path) == "/proc");
    plan.given.process == Some(slot) || plan.prepare.iter().any(proc)
}

/// Whatever is opened is closed by execve, what is opened of a container blocks and triggers nothing, and what is opened
/// of the host's procfs is procfs (CVE-2025-52881).
pub(super) fn opens(plan: &Plan) -> Option<String> {
    let has = |flags: u32, bit: i32| flags & bit as u32 != 0;
    for section in SECTIONS {
        for (i, step) in plan.section(section).iter().enumerate() {
            let at = |what: &str| Some(format!("{} {i}: {what}", section.name()));
            let (dir, path, flags) = match step.op {
                Op::Open { dir, path, flags, .. }
                | Op::OpenTree { dir, path, flags, .. }
                | Op::OpenTreeAttr { dir, path, flags, .. } => (dir, plan.text(path), flags),
                Op::OpenTreeOf { path, flags, .. } => (Dir::Cwd, plan.text(path), flags),
                _ => continue,
            };
            if !has(flags, libc::O_CLOEXEC) {
                return at("would be inherited");
            }
            if dir == Dir::Cwd && !path.starts_with('/') {
                return at(&format!("{path:?} is relative to the caller"));
            }
            let (Dir::At(slot), Op::Open { resolve, .. }) = (dir, step.op) else { continue };
            let no_xdev = resolve::NO_XDEV | resolve::BENEATH;
            // A namespace lies on a file system of its own; setns(2) looks at what it is given.
            let after = plan.section(section).get(i + 1).map(|s| s.op);
            let joined = matches!((step.op, after), (Op::Open { into, .. }, Some(Op::Setns { slot, flags })) if slot == into && flags != 0);
            if trusted(plan, slot) && resolve & no_xdev != no_xdev && !joined {
                return at(&format!("{path:?} may be mounted over"));
            }
            let new = has(flags, libc::O_CREAT) && has(flags, libc::O_EXCL) && has(flags, libc::O_NOFOLLOW);
            let before = i.checked_sub(1).and_then(|before| plan.section(section).get(before)).map(|s| s.op);
            let devpts =
                matches!(before, Some(Op::CheckFs { slot: looked, magic: 0x1cd1, is: true }) if looked == slot);
            let harmless = has(flags, libc::O_PATH) || has(flags, libc::O_NONBLOCK) || (devpts && path == "ptmx");
            if !trusted(plan, slot) && !new && !harmless {
                return at(&format!("{path:?} may be anything"));
            }
        }
    }
    None
}

/// What is trusted by its name is looked at before it is used (CVE-2019-16884, CVE-2025-31133).
pub(super) fn watched(plan: &Plan) -> Option<String> {
    for (i, step) in plan.prepare.iter().enumerate() {
        let Op::Open { dir: Dir::Cwd, path, into, .. } = step.op else { continue };
        let looked = match (plan.text(path).as_str(), plan.prepare.get(i + 1).map(|s| s.op)) {
            ("/proc", Some(Op::CheckFs { slot, magic: 0x9fa0, is: true })) => slot == into,
            ("/dev/null", Some(Op::CheckNode { slot, mode: libc::S_IFCHR, dev })) => {
                slot == into && dev == libc::makedev(1, 3)
            }
            ("/proc" | "/dev/null", _) => false,
            _ => true,
        };
        if !looked {
            return Some(format!("prepare {i}: {:?} is not looked at", plan.text(path)));
        }
    }
    None
}

/// Not a path, nor the directory itself or its parent.
fn is_component(name: &str) -> bool {
    !["", ".", ".."].contains(&name) && !name.contains('/')
}

/// mount(2) goes onto what was opened in the root and has just been entered, or onto a name in a file system of ours that has
/// been entered and is still in its slot.
fn is_entered(plan: &Plan, i: usize, name: &str) -> bool {
    let before = &plan.child[..i];
    let Some(at) = before.iter().rposition(|s| matches!(s.op, Op::Fchdir { .. })) else { return false };
    let Op::Fchdir { slot } = before[at].op else { return false };
    let fills = |s: &&Step| super::flow::slots(&s.op).1 == Some(slot);
    if name == "." {
        let opened = before[..at].iter().rfind(fills);
        let in_root = opened.is_some_and(|s| match s.op {
            Op::Open { dir: Dir::At(_), resolve, .. } => resolve & resolve::IN_ROOT != 0,
            ref other => matches!(other, Op::OpenMade { .. }),
        });
        return at + 1 == i && in_root;
    }
    let stays = before[at].on == Edges::default() && !before[at..].iter().any(|s| fills(&s));
    is_component(name) && fresh(plan, at, slot) && stays
}

/// move_mount(2) puts no directory on a link, and whatever it does not take is opened inside the root by the same name.
fn is_looked_at_else(plan: &Plan, step: &Step, name: &str) -> bool {
    let Op::MoveMountTo { from, dir, .. } = step.op else { return false };
    let directory = |s: &Step| matches!(s.op, Op::Fsmount { into, .. } if into == from);
    let other = step.on.after(libc::EIO).and_then(|to| plan.child.get(usize::from(to)));
    let opened = other.is_some_and(|s| {
        matches!(s.op, Op::Open { dir: Dir::At(root), path, resolve, .. }
            if root == dir && resolve & resolve::IN_ROOT != 0 && plan.text(path) == format!("/{name}"))
    });
    plan.child.iter().chain(&plan.prepare).any(directory) && opened
}

/// A file system that a step before the `i`th has made, or found to be the kernel's own.
fn fresh(plan: &Plan, i: usize, dir: Slot) -> bool {
    plan.child[..i].iter().any(|s| match s.op {
        Op::Fsmount { into, .. } => into == dir,
        Op::CheckFs { slot, magic: 0x9fa0 | 0x6265_6572, is: true } => slot == dir,
        _ => false,
    })
}

/// Below the rootfs nothing is reached by a string alone: openat2 stays in the root or beneath a directory, and names given
/// to mkdirat, mknodat, symlinkat and unlinkat are one component.
pub(super) fn paths(plan: &Plan) -> Option<String> {
    for (i, step) in plan.child.iter().enumerate() {
        match step.op {
            Op::Mkdir { name, .. } | Op::Mknod { name, .. } | Op::Unlink { name, .. } | Op::Symlink { name, .. } => {
                let name = plan.text(name);
                if !is_component(&name) {
                    return Some(format!("child {i}: {name:?} is not one component"));
                }
            }
            Op::Open { dir: Dir::At(_), path, resolve, .. } if resolve & 0x18 != 0 && resolve & 0x06 == 0 => {
                return Some(format!("child {i}: {:?} may lead through a magic link", plan.text(path)));
            }
            Op::Open { dir: Dir::At(slot), path, resolve, .. }
                if resolve & 0x18 == 0 && !trusted(plan, slot) && plan.text(path) != "." =>
            {
                return Some(format!("child {i}: {:?} may leave the root", plan.text(path)));
            }
            Op::Mount { path, .. } => {
                let name = plan.text(path);
                if !is_entered(plan, i, &name) {
                    return Some(format!("child {i}: {name:?} may be anything"));
                }
            }
            Op::MoveMountTo { dir, name, .. }
            | Op::OpenTree { dir: Dir::At(dir), path: name, .. }
            | Op::OpenTreeAttr { dir: Dir::At(dir), path: name, .. }
                if !plan.text(name).is_empty() =>
            {
                let name = plan.text(name);
                if !is_component(&name) || !fresh(plan, i, dir) && !is_looked_at_else(plan, step, &name) {
                    return Some(format!("child {i}: {name:?} may be anything"));
                }
                if matches!(step.op, Op::OpenTree { flags, .. } | Op::OpenTreeAttr { flags, .. } if flags & libc::AT_SYMLINK_NOFOLLOW as u32 == 0)
                {
                    return Some(format!("child {i}: {name:?} may be a link"));
                }
            }
            _ => {}
        }
    }
    None
}

/// What a user namespace is given of the host's mounts has their locks, and nothing leads to the host's tree when there is a child.
pub(super) fn locked(plan: &Plan) -> Option<String> {
    let user = libc::CLONE_NEWUSER as u64;
    let joins = |s: &Step| matches!(s.op, Op::Setns { flags, .. } | Op::Unshare { flags } if flags & user != 0);
    let foreign = plan.clone_flags & user != 0 || plan.child.iter().any(joins);
    for (i, step) in plan.prepare.iter().enumerate() {
        match step.op {
            // clone(2), EINVAL: no thread is made for whose children there is another pid namespace.
            Op::ChildrenPid { .. } if i + 1 != plan.prepare.len() => {
                return Some(format!("prepare {i}: the parent goes on with another pid namespace"));
            }
            Op::OpenTree { flags, .. } | Op::OpenTreeAttr { flags, .. } if foreign && flags & 1 != 0 => {
                return Some(format!("prepare {i}: the copy has no locks"));
            }
            Op::ForeignMounts { into }
                if !plan.prepare[i..].iter().any(|s| matches!(s.op, Op::Close { slot } if slot == into)) =>
            {
                return Some(format!("prepare {i}: the child has the host's mounts"));
            }
            _ => {}
        }
    }
    None
}

/// A cgroup2 made in the host's namespace changes the options of the host's (cgroups(7), runc issue 5258).
pub(super) fn own_groups(plan: &Plan) -> Option<String> {
    let group = libc::CLONE_NEWCGROUP as u64;
    let made = |s: &Step| matches!(s.op, Op::Fsopen { kind, .. } if plan.text(kind) == "cgroup2");
    let enters = |s: &Step| matches!(s.op, Op::Unshare { flags } | Op::Setns { flags, .. } if flags & group != 0);
    let at = plan.child.iter().position(made)?;
    let own = plan.clone_flags & group != 0 || plan.child[..at].iter().any(enters);
    (!own).then(|| format!("child {at}: a cgroup2 without a cgroup namespace"))
}

/// What is mounted is made before it is attached, and attached.
pub(super) fn attached(plan: &Plan) -> Option<String> {
    for section in SECTIONS {
        let steps = plan.section(section);
        for (i, step) in steps.iter().enumerate() {
            let tree = match step.op {
                Op::Fsmount { fs, into, .. } => {
                    let made = |s: &Step| matches!(s.op, Op::FsCreate { fs: f } if f == fs);
                    if !steps[..i].iter().any(made) {
                        return Some(format!("{} {i}: a mount of nothing", section.name()));
                    }
                    into
                }
                Op::OpenTree { flags, into, .. }
                | Op::OpenTreeAttr { flags, into, .. }
                | Op::OpenTreeOf { flags, into, .. }
                    if flags & 1 != 0 =>
                {
                    into
                }
                _ => continue,
            };
            let moved =
                |s: &Step| matches!(s.op, Op::MoveMount { from, .. } | Op::MoveMountTo { from, .. } if from == tree);
            if !plan.child.iter().any(moved) {
                return Some(format!("{} {i}: <{}> is never attached", section.name(), plan.slot_name(tree)));
            }
        }
    }
    let enters = |o: &Op| matches!(o, Op::PivotRoot | Op::Chroot { .. });
    (plan.given.init.is_none() && all(plan, enters).len() != 1).then(|| "init enters its root".into())
}
