//! What holds for every plan whatsoever; checked over random specs by the tests, and over each plan in debug builds.

use super::{Dir, Gate, Op, Plan, Section, Slot};

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
    let laws = [forward, filled_before_use, places, order, tail, root, gates, paths, opens, watched];
    laws.iter().find_map(|law| law(plan))
}

const SECTIONS: [Section; 4] = [Section::Prepare, Section::Child, Section::Maps, Section::Limits];

/// Edges lead forward and stay inside the section.
fn forward(plan: &Plan) -> Option<String> {
    for section in SECTIONS {
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

/// A set of slots.
#[derive(Clone, Debug, PartialEq)]
struct Slots(Vec<u64>);

impl Slots {
    fn of(count: usize, slots: impl IntoIterator<Item = Slot>) -> Self {
        let mut set = Self(vec![0; count / 64 + 1]);
        slots.into_iter().for_each(|s| set.put(s, true));
        set
    }

    fn put(&mut self, slot: Slot, is: bool) {
        let (word, bit) = (usize::from(slot.0) / 64, 1 << (slot.0 % 64));
        let word = &mut self.0[word];
        *word = if is { *word | bit } else { *word & !bit };
    }

    fn has(&self, slot: Slot) -> bool {
        self.0[usize::from(slot.0) / 64] >> (slot.0 % 64) & 1 != 0
    }

    /// What both have; nothing to compare with is the first way that leads here.
    fn meet(&self, other: Option<&Self>) -> Self {
        other.map_or(self.clone(), |o| Self(self.0.iter().zip(&o.0).map(|(a, b)| a & b).collect()))
    }
}

/// On every way through a section an operation reads only slots that are filled and have not been closed, and every step
/// is on some way. An operation that fails fills nothing.
fn filled_before_use(plan: &Plan) -> Option<String> {
    let g = &plan.given;
    let count = plan.slots.len();
    let stays: Vec<Slot> = g.init.iter().chain(&g.root).copied().collect();
    let passed = [g.wire, g.start].into_iter().chain(g.tasks.iter().copied()).chain(g.stdio.iter().flatten().copied());
    let mut before = match ways(plan, Section::Prepare, Slots::of(count, stays)) {
        Ok(set) => set,
        Err(law) => return Some(law),
    };
    let mut child = before.clone();
    passed.for_each(|s| child.put(s, true));
    if let Err(law) = ways(plan, Section::Child, child) {
        return Some(law);
    }
    // The parent has let go of what it passed on, and has the child's directory.
    g.process.iter().for_each(|s| before.put(*s, true));
    let maps = ways(plan, Section::Maps, before);
    maps.and_then(|set| ways(plan, Section::Limits, set)).err()
}

/// What is filled at the end of a section, whichever way was taken.
fn ways(plan: &Plan, section: Section, start: Slots) -> Result<Slots, String> {
    let steps = plan.section(section);
    let mut before: Vec<Option<Slots>> = vec![None; steps.len() + 1];
    before[0] = Some(start);
    for (i, step) in steps.iter().enumerate() {
        let at = |what: &str| format!("{} {i}: {what}", section.name());
        let Some(failed) = before[i].take() else { return Err(at("no way leads here")) };
        let (reads, fills) = slots(&step.op);
        if let Some(slot) = reads.iter().find(|s| !failed.has(**s)) {
            return Err(at(&format!("<{}> is empty", plan.slot_name(*slot))));
        }
        let mut done = failed.clone();
        fills.iter().for_each(|s| done.put(*s, true));
        if let Op::Close { slot } = step.op {
            done.put(slot, false);
        }
        let ends = matches!(step.op, Op::Exec { .. } | Op::LookupFailed { .. });
        let next = step.on.after(0).map_or(i + 1, usize::from);
        let errors = step.on.0.iter().flatten().filter(|e| e.errno != 0).map(|e| (usize::from(e.to), &failed));
        for (to, set) in errors.chain((!ends || i + 1 == steps.len()).then_some((next, &done))) {
            before[to] = Some(set.meet(before[to].as_ref()));
        }
    }
    before[steps.len()].take().ok_or_else(|| format!("{}: has no end", section.name()))
}

/// Only the parent carries out what allocates, only the child what ends or parks a process.
fn places(plan: &Plan) -> Option<String> {
    for section in SECTIONS {
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

/// Indexes of the child's steps that are so.
fn all(plan: &Plan, is: impl Fn(&Op) -> bool) -> Vec<usize> {
    plan.child.iter().enumerate().filter(|(_, s)| is(&s.op)).map(|(i, _)| i).collect()
}

/// What every payload may rely on: see runtime-spec, capabilities(7), seccomp(2), and CVE-2023-25173 for the groups.
fn tail(plan: &Plan) -> Option<String> {
    let exec = all(plan, |o| matches!(o, Op::Exec { .. })).pop()?;
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
    if !matches!((keep.as_slice(), drop.as_slice()), ([a], [b]) if *a < uid && uid < *b) {
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
            let rest = matches!(o, Op::Capset { .. } | Op::Hook { .. } | Op::Inherit { .. } | Op::CloseRange { .. });
            listener || rest || matches!(o, Op::Exec { .. })
        };
        if let Some(step) = plan.child[filter + 1..].iter().find(|s| !after(&s.op)) {
            return Some(format!("{:?} under the filter", step.op));
        }
    }
    // What is open of ours may be more than RLIMIT_NOFILE allows.
    let limit = all(plan, |o| matches!(o, Op::Rlimit { resource: 7, .. }));
    let opened = all(plan, |o| matches!(o, Op::Home { .. }) || slots(o).1.is_some());
    let listener = |i: &usize| matches!(plan.child[*i].op, Op::Seccomp { .. });
    if limit.first().is_some_and(|l| opened.iter().any(|o| o > l && !listener(o))) {
        return Some("nothing is opened under the payload's limits".into());
    }
    let first = match plan.child[exec - 1].op {
        Op::CloseRange { first, keep } if keep == plan.given.start => first,
        _ => return Some("close_range keeps what is waited at".into()),
    };
    let inherited = |s: &super::Step| matches!(s.op, Op::Inherit { fd } if fd < 3 || fd >= first);
    (first < 3 || plan.child.iter().any(inherited)).then(|| "what is inherited is closed".into())
}

/// The way into the root file system, and that nothing of the host is reached from inside.
fn root(plan: &Plan) -> Option<String> {
    let slash = |o: &Op| matches!(*o, Op::Propagation { mount: None, path, .. } if plan.text(path) == "/");
    let private = all(plan, slash);
    let moved = all(plan, |o| matches!(o, Op::MoveMount { .. }));
    if moved.first().is_some_and(|m| private.first().is_none_or(|p| p > m)) {
        return Some("mounts of the child show on the host".into());
    }
    let mask = all(plan, |o| matches!(o, Op::Umask { mask: 0 }));
    let made = all(plan, |o| matches!(o, Op::Mkdir { .. } | Op::Mknod { .. }));
    if made.first().is_some_and(|m| mask.first().is_none_or(|u| u > m)) {
        return Some("the caller's umask cuts modes".into());
    }
    let from = |what: &str| -> Vec<usize> {
        let is = |s: &super::Step| plan.text(s.from).starts_with(what);
        plan.child.iter().enumerate().filter(|(_, s)| is(s)).map(|(i, _)| i).collect()
    };
    let (read_only, masks) = (from("/linux/readonlyPaths"), from("/linux/maskedPaths"));
    if matches!((read_only.last(), masks.first()), (Some(r), Some(m)) if r > m) {
        return Some("masks go on top of read-only paths".into());
    }
    for i in all(plan, |o| matches!(o, Op::PivotRoot)) {
        let slave = |s: &super::Step| {
            matches!(s.op, Op::Propagation { mount: None, path, flags }
                if plan.text(path) == "." && flags & (libc::MS_SLAVE | libc::MS_PRIVATE) != 0 && flags & libc::MS_REC != 0)
        };
        let gone = |s: &super::Step| matches!(s.op, Op::Umount { path, flags } if plan.text(path) == "." && flags == libc::MNT_DETACH as u32);
        if !(plan.child.get(i + 1).is_some_and(slave) && plan.child.get(i + 2).is_some_and(gone)) {
            return Some("the old root is made a slave and taken off".into());
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
        Op::OpenTree { dir: Dir::Cwd, path, .. } => Some(format!("{:?} by name inside", plan.text(path))),
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

/// Who waits is let go: the parent's sections belong to gates that are there, and to a namespace that is made.
fn gates(plan: &Plan) -> Option<String> {
    let gate = |which: Gate| all(plan, |o| matches!(o, Op::Gate { gate, .. } if *gate == which)).len();
    for which in [Gate::Maps, Gate::Hooks, Gate::Limits, Gate::Listener, Gate::Start] {
        if gate(which) > 1 {
            return Some(format!("two gates {which:?}"));
        }
    }
    let init = plan.given.init.is_none();
    let user = plan.clone_flags & libc::CLONE_NEWUSER as u64 != 0;
    if (gate(Gate::Start) == 1) != init {
        return Some("init waits for its start, nobody else does".into());
    }
    if user != (gate(Gate::Maps) == 1) || user == plan.maps.is_empty() {
        return Some("a new user namespace gets its maps, nobody else does".into());
    }
    let limited = gate(if init { Gate::Start } else { Gate::Limits });
    (!plan.limits.is_empty() && limited == 0 || gate(Gate::Limits) == 1 && plan.limits.is_empty())
        .then(|| "limits are set while the child waits".into())
}

/// The host's procfs, as the parent has opened it by name or as the child's directory in it.
fn trusted(plan: &Plan, slot: Slot) -> bool {
    let proc = |s: &super::Step| matches!(s.op, Op::Open { dir: Dir::Cwd, path, into, .. } if into == slot && plan.text(path) == "/proc");
    plan.given.process == Some(slot) || plan.prepare.iter().any(proc)
}

/// Whatever is opened is closed by execve, and what is opened of a container blocks and triggers nothing.
fn opens(plan: &Plan) -> Option<String> {
    let has = |flags: u32, bit: i32| flags & bit as u32 != 0;
    for section in SECTIONS {
        for (i, step) in plan.section(section).iter().enumerate() {
            let at = |what: &str| Some(format!("{} {i}: {what}", section.name()));
            let (dir, path, flags) = match step.op {
                Op::Open { dir, path, flags, .. } | Op::OpenTree { dir, path, flags, .. } => {
                    (dir, plan.text(path), flags)
                }
                _ => continue,
            };
            if !has(flags, libc::O_CLOEXEC) {
                return at("would be inherited");
            }
            if dir == Dir::Cwd && !path.starts_with('/') {
                return at(&format!("{path:?} is relative to the caller"));
            }
            let (Dir::At(slot), Op::Open { .. }) = (dir, step.op) else { continue };
            let new = has(flags, libc::O_CREAT) && has(flags, libc::O_EXCL) && has(flags, libc::O_NOFOLLOW);
            let harmless = has(flags, libc::O_PATH) || has(flags, libc::O_NONBLOCK) || path == "dev/pts/ptmx";
            if !trusted(plan, slot) && !new && !harmless {
                return at(&format!("{path:?} may be anything"));
            }
        }
    }
    None
}

/// What is trusted by its name is looked at before it is used (CVE-2019-16884, CVE-2025-31133).
fn watched(plan: &Plan) -> Option<String> {
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
            Op::Open { dir: Dir::At(_), path, resolve, .. } if resolve & 0x18 != 0 && resolve & 0x06 == 0 => {
                return Some(format!("child {i}: {:?} may lead through a magic link", plan.text(path)));
            }
            Op::Open { dir: Dir::At(slot), path, resolve, .. } if resolve & 0x18 == 0 => {
                if !trusted(plan, slot) && plan.text(path) != "." {
                    return Some(format!("child {i}: {:?} may leave the root", plan.text(path)));
                }
            }
            _ => {}
        }
    }
    None
}
