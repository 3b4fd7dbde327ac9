//! Everything a run touches, allocated before the clone: the steps, the arena, the pointer arrays of execve, the table of
//! descriptors.

use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd, RawFd};

use super::call::{self, Text};
use crate::plan::{Bytes, Dir, List, Plan, Slot, Str};

/// A fault to be injected instead of carrying out a step; tests use it to walk every error path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Section and index of the step.
    pub section: crate::plan::Section,
    /// Index of the step.
    pub step: u16,
    /// What it fails with.
    pub errno: i32,
}

/// The mutable state of a run. The parent builds it and runs the prepare section with it; the child continues with its own
/// copy of the memory and of the descriptors.
pub struct Image<'p> {
    /// The plan being carried out.
    pub plan: &'p Plan,
    arena: Box<[u8]>,
    pointers: Box<[*const u8]>,
    pub(super) fds: Box<[RawFd]>,
    lent: Box<[bool]>,
    /// Descriptors from 3 on that keep their number through execve.
    pub preserve: u32,
    /// Ranges of numbers that [`crate::plan::Op::CloseOthers`] closes.
    pub(super) gaps: [(u32, u32); 48],
    /// The process that parent-run steps act upon; 0 is the caller.
    pub pid: u32,
    /// A thread of the parent's runs it, until [`crate::plan::Op::Fork`].
    pub(super) on_thread: bool,
    /// The process to be executed, found by [`crate::plan::Op::Lookup`].
    pub(super) executable: Str,
    /// [`crate::plan::Op::Chdir`] has succeeded.
    pub(super) cwd_is_set: bool,
    /// CLONE_NEW* of the namespaces that [`crate::plan::Op::Setns`] has joined.
    pub(super) joined: u64,
    /// Signals that we ignore, which a payload is not to inherit: bit n is signal n + 1.
    pub(super) ignored: u64,
    /// See [`Fault`].
    pub fault: Option<Fault>,
}

impl<'p> Image<'p> {
    /// Loads a plan: copies the arena and lays out the pointer arrays.
    pub fn new(plan: &'p Plan, preserve: u32) -> Self {
        let arena = plan.arena.clone();
        let base = arena.as_ptr();
        let pointers = plan
            .lists
            .iter()
            // wrapping_add makes no claim about the offset; u32::MAX stands for the NULL at the end of a list.
            .map(|s| if s.0 == u32::MAX { std::ptr::null() } else { base.wrapping_add(s.0 as usize) })
            .collect();
        Self {
            plan,
            arena,
            pointers,
            fds: vec![-1; plan.slots.len()].into(),
            lent: vec![false; plan.slots.len()].into(),
            preserve,
            gaps: [(1, 0); 48],
            pid: 0,
            on_thread: false,
            executable: Str(0),
            cwd_is_set: false,
            joined: 0,
            ignored: crate::own::status().ignored,
            fault: None,
        }
    }

    /// Puts a descriptor into a slot; the image keeps it open until it is dropped.
    pub fn give(&mut self, slot: Slot, fd: OwnedFd) {
        self.fds[slot.0 as usize] = fd.into_raw_fd();
    }

    /// Puts a descriptor that somebody else owns into a slot. The caller keeps it open for as long as the image lives.
    pub fn lend(&mut self, slot: Slot, fd: RawFd) {
        self.fds[slot.0 as usize] = fd;
        self.lent[slot.0 as usize] = true;
    }

    /// Takes a descriptor out of its slot.
    pub fn take(&mut self, slot: Slot) -> Option<OwnedFd> {
        let fd = std::mem::replace(&mut self.fds[slot.0 as usize], -1);
        // SAFETY: a number in the table that is not lent was opened by a step of ours or given to us, and the table, which
        // has just forgotten it, was its only owner.
        (fd > 2 && !self.lent[slot.0 as usize]).then(|| unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// The descriptor in a slot, -1 if there is none.
    pub fn fd(&self, slot: Slot) -> RawFd {
        self.fds.get(slot.0 as usize).copied().unwrap_or(-1)
    }

    /// An operation has opened `fd`; what the slot held before is closed, so that scratch slots can be used again.
    pub(super) fn put(&mut self, slot: Slot, fd: usize) {
        let old = self.fd(slot);
        if let Some(place) = self.fds.get_mut(slot.0 as usize) {
            *place = fd as RawFd;
        }
        if old > 2 {
            let _closed = call::close(old);
        }
    }

    pub(super) fn clear(&mut self, slot: Slot) {
        if let Some(place) = self.fds.get_mut(slot.0 as usize) {
            *place = -1;
        }
    }

    pub(super) fn dir(&self, dir: Dir) -> RawFd {
        match dir {
            Dir::Cwd => libc::AT_FDCWD,
            Dir::At(slot) => self.fd(slot),
        }
    }

    pub(super) fn text(&self, s: Str) -> Text {
        Text(self.arena.as_ptr().wrapping_add(s.0 as usize))
    }

    pub(super) fn bytes(&self, b: Bytes) -> &[u8] {
        self.arena.get(b.at as usize..(b.at + b.len) as usize).unwrap_or(&[])
    }

    pub(super) fn bytes_mut(&mut self, b: Bytes) -> &mut [u8] {
        self.arena.get_mut(b.at as usize..(b.at + b.len) as usize).unwrap_or(&mut [])
    }

    pub(super) fn list(&self, list: List) -> *const *const u8 {
        self.pointers.as_ptr().wrapping_add(list.at as usize)
    }

    /// Fills the first free place of a list with the string at the start of `b`.
    pub(super) fn append(&mut self, list: List, b: Bytes) {
        let address = self.arena.as_ptr().wrapping_add(b.at as usize);
        let range = list.at as usize..(list.at + list.len) as usize;
        if let Some(free) = self.pointers.get_mut(range).and_then(|l| l.iter_mut().find(|p| p.is_null())) {
            *free = address;
        }
    }

    /// Works out which descriptor numbers are nobody's: everything from 3 on but our slots and what is preserved.
    /// Neighbouring slots make few gaps; should there be more than fit, the last ones are closed at the end only.
    pub fn find_gaps(&mut self) {
        let mut used: Vec<u32> = self.fds.iter().filter(|f| **f > 2).map(|f| *f as u32).collect();
        used.extend(3..3 + self.preserve);
        used.sort_unstable();
        used.dedup();
        let mut next = 3;
        let mut gaps = Vec::new();
        for fd in used {
            if fd > next {
                gaps.push((next, fd - 1));
            }
            next = fd + 1;
        }
        gaps.push((next, u32::MAX));
        // The widest gaps matter most: the one without end is always among them.
        gaps.sort_unstable_by_key(|(a, b)| std::cmp::Reverse(b - a));
        self.gaps = [(1, 0); 48];
        for (place, gap) in self.gaps.iter_mut().zip(gaps) {
            *place = gap;
        }
    }
}

impl Drop for Image<'_> {
    fn drop(&mut self) {
        for i in 0..self.fds.len() {
            drop(self.take(Slot(i as u16)));
        }
    }
}
