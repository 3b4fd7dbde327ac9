//! The ways through a plan, and what is open on each of them.

use super::SECTIONS;
use crate::plan::{Dir, Op, Plan, Section, Slot};

/// The slots an operation reads and the slot it fills.
pub fn slots(op: &Op) -> (Vec<Slot>, Option<Slot>) {
    let at = |dir: Dir| match dir {
        Dir::At(slot) => vec![slot],
        Dir::Cwd => vec![],
    };
    match *op {
        Op::Open { dir, into, .. } | Op::OpenTree { dir, into, .. } | Op::OpenTreeAttr { dir, into, .. } => {
            (at(dir), Some(into))
        }
        Op::OpenTreeOf { namespace, into, .. } => (vec![namespace], Some(into)),
        Op::OpenMade { root, like, into, .. } => (std::iter::once(root).chain(like).collect(), Some(into)),
        Op::Close { slot }
        | Op::Leave { slot }
        | Op::Write { slot, .. }
        | Op::Fchown { slot, .. }
        | Op::CheckFs { slot, .. }
        | Op::CheckNode { slot, .. }
        | Op::Dup { slot, .. }
        | Op::Fchdir { slot }
        | Op::Setns { slot, .. }
        | Op::SetnsAgain { slot, .. }
        | Op::CheckForeign { slot, .. }
        | Op::ChildrenPid { slot }
        | Op::ControllingTty { slot } => (vec![slot], None),
        Op::Mkdir { dir, .. }
        | Op::Mknod { dir, .. }
        | Op::Symlink { dir, .. }
        | Op::Unlink { dir, .. }
        | Op::Chown { dir, .. } => (vec![dir], None),
        Op::CloseRange { keep, .. } => (keep.to_vec(), None),
        Op::Fsopen { into, .. } | Op::MapNamespace { into, .. } | Op::ForeignMounts { into } => (vec![], Some(into)),
        Op::FsString { fs, .. } | Op::FsFlag { fs, .. } | Op::FsCreate { fs } | Op::FsReconfigure { fs } => {
            (vec![fs], None)
        }
        Op::FsModeOf { fs, of } => (vec![fs, of], None),
        Op::Fsmount { fs, into, .. } => (vec![fs], Some(into)),
        Op::SetAttr { mount, idmap, .. } => (std::iter::once(mount).chain(idmap).collect(), None),
        Op::Remount { mount, .. } => (vec![mount], None),
        Op::Propagation { mount, .. } => (mount.into_iter().collect(), None),
        Op::MoveMount { from, to } => (vec![from, to], None),
        Op::MoveMountTo { from, dir, .. } => (vec![from, dir], None),
        Op::CopyUp { root, into, .. } => (vec![root, into], None),
        Op::UnlockPty { master } | Op::Winsize { master, .. } => (vec![master], None),
        Op::PtyPeer { master, into } => (vec![master], Some(into)),
        Op::SendFd { wire, slot } => (vec![wire, slot], None),
        Op::Home { dir, .. } => (at(dir), None),
        Op::Gate { wire, wait, .. } => (vec![wire, wait], None),
        Op::AwaitParent { wait } => (vec![wait], None),
        Op::Fork { into } => (into.into_iter().collect(), None),
        Op::Seccomp { listener, .. } => (vec![], listener),
        _ => (vec![], None),
    }
}

/// Edges lead forward and stay inside the section.
pub(super) fn forward(plan: &Plan) -> Option<String> {
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
pub(super) fn filled_before_use(plan: &Plan) -> Option<String> {
    let g = &plan.given;
    let count = plan.slots.len();
    let stays: Vec<Slot> = g.init.iter().chain(&g.root).copied().collect();
    let passed = [g.wire, g.start].into_iter().chain(g.tasks.iter().copied()).chain(g.stdio.iter().flatten().copied());
    let passed = passed.chain(g.group);
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
        match step.op {
            Op::Close { slot } | Op::Leave { slot } => done.put(slot, false),
            Op::CloseRange { keep, .. } => done = Slots::of(plan.slots.len(), keep),
            _ => {}
        }
        let ends = matches!(step.op, Op::Exec { .. });
        let next = step.on.after(0).map_or(i + 1, usize::from);
        let errors = step.on.0.iter().flatten().filter(|e| e.errno != 0).map(|e| (usize::from(e.to), &failed));
        for (to, set) in errors.chain((!ends || i + 1 == steps.len()).then_some((next, &done))) {
            before[to] = Some(set.meet(before[to].as_ref()));
        }
    }
    before[steps.len()].take().ok_or_else(|| format!("{}: has no end", section.name()))
}
