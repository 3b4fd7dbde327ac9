//! A plan: config.json compiled, against facts about this host, into a flat list of kernel operations.
//!
//! A plan is plain data. It can be printed ([`print`]), compared, checked ([`laws`]) and have a fault injected at every
//! step; the interpreter that carries it out is `crate::child`. Nothing here touches the file system, the environment,
//! time or any descriptor.

#![forbid(unsafe_code)]

mod attach;
pub mod compile;
pub mod devices;
mod filesystems;
pub mod hooks;
pub mod identity;
pub mod laws;
mod lsm;
pub mod masks;
pub mod mounts;
pub mod namespaces;
pub mod op;
pub mod options;
pub mod print;
pub mod rootfs;

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, DefaultHasher};

pub use op::{Dir, Gate, Op};

use crate::error::{Error, Kind, Result};

/// Index into the table of descriptors of a run. What it holds is named in [`Plan::slots`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u16);

/// Offset of a NUL-terminated string in [`Plan::arena`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Str(pub u32);

/// A run of bytes in [`Plan::arena`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes {
    /// Offset of the first byte.
    pub at: u32,
    /// Number of bytes.
    pub len: u32,
}

/// A run of strings in [`Plan::lists`]: an argv or an environment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct List {
    /// Index of the first.
    pub at: u32,
    /// How many.
    pub len: u32,
}

/// Where to go on when an operation ends with a certain errno.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edge {
    /// The errno; 0 is success, [`Edge::ANY`] is every failure that no earlier edge names.
    pub errno: i32,
    /// Index of the next step; always greater than that of the step itself.
    pub to: u16,
}

impl Edge {
    /// Stands for every errno but 0.
    pub const ANY: i32 = -1;
}

/// The edges of one step. Without a fitting edge, success goes to the next step and failure ends the run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Edges(pub [Option<Edge>; 4]);

impl Edges {
    /// The step to go to after `errno` (0 for success), if an edge says so.
    pub fn after(&self, errno: i32) -> Option<u16> {
        self.0.iter().flatten().find(|e| e.errno == errno || (e.errno == Edge::ANY && errno != 0)).map(|e| e.to)
    }
}

/// One operation, the line of config.json that asked for it, and what to do about its outcomes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// What to do.
    pub op: Op,
    /// JSON pointer into config.json; empty when no line asked for it.
    pub from: Str,
    /// Outcomes that are not simply "next" and "fail".
    pub on: Edges,
}

/// Who carries out a list of steps, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// The parent, before the clone.
    Prepare,
    /// The child, from the clone to execve.
    Child,
    /// The parent, while the child waits at [`Gate::Maps`]: id maps and what needs them.
    Maps,
    /// The parent, while the child waits at [`Gate::Limits`] or [`Gate::Start`]: what a child in a user namespace may not do itself.
    Limits,
}

/// The compiled form of a spec.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// See [`Section::Prepare`].
    pub prepare: Box<[Step]>,
    /// See [`Section::Child`].
    pub child: Box<[Step]>,
    /// See [`Section::Maps`].
    pub maps: Box<[Step]>,
    /// See [`Section::Limits`].
    pub limits: Box<[Step]>,
    /// CLONE_* flags of the child.
    pub clone_flags: u64,
    /// Every string and byte string, each string NUL-terminated.
    pub arena: Box<[u8]>,
    /// Argument lists and environments; [`List`] is a range of it.
    pub lists: Box<[Str]>,
    /// What each slot holds, for people.
    pub slots: Box<[Str]>,
    /// The slots that the caller fills before the run.
    pub given: Given,
    /// The seccomp program that [`Op::Seccomp`] loads.
    pub filter: Box<[crate::seccomp::Insn]>,
}

/// Slots that are filled before a run, by whoever starts it.
#[derive(Clone, Debug, PartialEq)]
pub struct Given {
    /// The child's end of the socket pair between parent and child.
    pub wire: Slot,
    /// What the child reads at [`Gate::Start`] (the wire, or the FIFO of the command line).
    pub start: Slot,
    /// The v1 `tasks` files, in the order of the groups.
    pub tasks: Vec<Slot>,
    /// The version 2 group that [`Op::Fork`] makes a process in.
    pub group: Option<Slot>,
    /// Standard input, output and error; `None` is /dev/null or a terminal.
    pub stdio: [Option<Slot>; 3],
    /// pidfd of the container's init (exec only).
    pub init: Option<Slot>,
    /// The child's /proc/PID, filled after the clone.
    pub process: Option<Slot>,
    /// The container's root directory (exec into a container without a mount namespace).
    pub root: Option<Slot>,
}

impl Plan {
    /// The steps of one section.
    pub fn section(&self, section: Section) -> &[Step] {
        match section {
            Section::Prepare => &self.prepare,
            Section::Child => &self.child,
            Section::Maps => &self.maps,
            Section::Limits => &self.limits,
        }
    }

    /// The step at which a thread of the caller's makes the child that goes on, if it is made so.
    pub fn by_thread(&self) -> Option<usize> {
        self.child.iter().position(|step| matches!(step.op, Op::Fork { .. }))
    }

    /// A string of the arena; bytes that are not UTF-8 are shown as U+FFFD.
    pub fn text(&self, s: Str) -> String {
        let tail = &self.arena[s.0 as usize..];
        let len = tail.iter().position(|b| *b == 0).unwrap_or(tail.len());
        String::from_utf8_lossy(&tail[..len]).into_owned()
    }

    /// A byte string of the arena.
    pub fn bytes(&self, b: Bytes) -> &[u8] {
        &self.arena[b.at as usize..(b.at + b.len) as usize]
    }
}

/// A place that forward edges may point to before it is known where it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label(u16);

/// Slots that a plan uses before it starts to hand out used ones again. Far below the usual soft limit of 1024
/// descriptors, far above what a usual container needs, so that the usual container closes nothing twice.
const FRESH_SLOTS: usize = 320;

/// How many of them there are then: more than any sequence of steps needs at once.
const RING: usize = 32;

/// Collects steps, strings and slots.
pub struct Builder {
    sections: [Vec<Step>; 4],
    section: Section,
    from: Str,
    arena: Vec<u8>,
    /// With keys that are the same each time: whoever writes config.json has easier ways to waste our time.
    interned: HashMap<Vec<u8>, Str, BuildHasherDefault<DefaultHasher>>,
    lists: Vec<Str>,
    slots: Vec<Str>,
    labels: Vec<Option<u16>>,
    recycled: [Option<Slot>; RING],
    turn: usize,
}

impl Default for Builder {
    fn default() -> Self {
        Self::new()
    }
}

impl Builder {
    /// An empty plan.
    pub fn new() -> Self {
        let mut b = Self {
            sections: Default::default(),
            section: Section::Child,
            from: Str(0),
            arena: Vec::new(),
            interned: HashMap::default(),
            lists: Vec::new(),
            slots: Vec::new(),
            labels: Vec::new(),
            recycled: [None; RING],
            turn: 0,
        };
        b.from = b.str("");
        b
    }

    /// What follows belongs to `section`.
    pub fn section(&mut self, section: Section) {
        self.section = section;
    }

    fn is_in(&self, section: Section) -> bool {
        self.section == section
    }

    /// Steps out of the current section for a few operations that no line of config.json asked for.
    fn enter(&mut self, section: Section) -> (Section, Str) {
        let before = (self.section, self.from);
        self.section = section;
        self.from = self.str("");
        before
    }

    fn leave(&mut self, section: Section, from: Str) {
        self.section = section;
        self.from = from;
    }

    /// What follows was asked for by this JSON pointer.
    pub fn from(&mut self, pointer: impl AsRef<str>) {
        self.from = self.str(pointer.as_ref());
    }

    /// Interns a string. Strings with a NUL byte never get here: `spec::check` refuses them.
    pub fn str(&mut self, s: impl AsRef<[u8]>) -> Str {
        let s = s.as_ref();
        if let Some(known) = self.interned.get(s) {
            return *known;
        }
        let at = Str(self.arena.len() as u32);
        self.arena.extend_from_slice(s);
        self.arena.push(0);
        self.interned.insert(s.to_vec(), at);
        at
    }

    /// Stores bytes that may hold NULs.
    pub fn bytes(&mut self, bytes: &[u8]) -> Bytes {
        let at = self.arena.len() as u32;
        self.arena.extend_from_slice(bytes);
        self.arena.push(0);
        Bytes { at, len: bytes.len() as u32 }
    }

    /// Stores an argv or an environment. `room` adds empty places at the end for entries found out at run time.
    pub fn list<S: AsRef<[u8]>>(&mut self, items: &[S], room: u32) -> List {
        let items: Vec<Str> = items.iter().map(|i| self.str(i)).collect();
        let at = self.lists.len() as u32;
        self.lists.extend(&items);
        for _ in 0..=room {
            self.lists.push(Str(u32::MAX));
        }
        List { at, len: items.len() as u32 + room }
    }

    /// A new slot that stays.
    pub fn slot(&mut self, name: impl AsRef<str>) -> Slot {
        let name = self.str(name.as_ref());
        self.slots.push(name);
        // Cut numbers never leave here: `finish` refuses a plan with more of anything than fits.
        Slot((self.slots.len() - 1) as u16)
    }

    /// A slot for the next few steps only; after very many of them a ring of them is used. What is needed across calls that
    /// take scratch slots themselves is a [`Builder::slot`].
    pub fn scratch(&mut self, name: impl AsRef<str>) -> Slot {
        if self.slots.len() < FRESH_SLOTS {
            return self.slot(name);
        }
        self.turn = (self.turn + 1) % self.recycled.len();
        if let Some(slot) = self.recycled[self.turn] {
            return slot;
        }
        let slot = self.slot("scratch");
        self.recycled[self.turn] = Some(slot);
        slot
    }

    /// A label to be bound later.
    pub fn label(&mut self) -> Label {
        self.labels.push(None);
        Label((self.labels.len() - 1) as u16)
    }

    /// The label now means the next step of the current section.
    pub fn bind(&mut self, label: Label) {
        self.labels[label.0 as usize] = Some(self.sections[self.section as usize].len() as u16);
    }

    /// Appends an operation.
    pub fn op(&mut self, op: Op) {
        self.op_on(op, &[]);
    }

    /// Appends an operation whose listed errnos are no failure.
    pub fn op_skip(&mut self, op: Op, errnos: &[rustix::io::Errno]) {
        let next = self.label();
        let edges: Vec<(i32, Label)> = errnos.iter().map(|e| (e.raw_os_error(), next)).collect();
        self.op_on(op, &edges);
        self.bind(next);
    }

    /// Appends an operation with edges: (errno, 0 for success or [`Edge::ANY`]; label).
    pub fn op_on(&mut self, op: Op, edges: &[(i32, Label)]) {
        let mut on = Edges::default();
        for (place, (errno, label)) in on.0.iter_mut().zip(edges) {
            *place = Some(Edge { errno: *errno, to: label.0 });
        }
        debug_assert!(edges.len() <= on.0.len());
        let from = self.from;
        self.sections[self.section as usize].push(Step { op, from, on });
    }

    /// Resolves the labels and freezes the plan.
    ///
    /// Steps, slots and edges are numbered with 16 bits: a spec that needs more is refused.
    pub fn finish(mut self, clone_flags: u64, given: Given, filter: Box<[crate::seccomp::Insn]>) -> Result<Plan> {
        let most = self.sections.iter().map(Vec::len).chain([self.slots.len(), self.labels.len()]).max();
        if most.is_some_and(|n| n > u16::MAX.into()) || self.arena.len() >= u32::MAX as usize {
            let reason = format!("asks for more than the {} steps that a plan may have", u16::MAX);
            return Err(Error::new(Kind::Unsupported, "compile", "config.json", reason));
        }
        for section in &mut self.sections {
            for edge in section.iter_mut().flat_map(|s| s.on.0.iter_mut()).flatten() {
                edge.to = self.labels[edge.to as usize].expect("every label is bound");
            }
        }
        let [prepare, child, maps, limits] = self.sections.map(Vec::into_boxed_slice);
        Ok(Plan {
            prepare,
            child,
            maps,
            limits,
            clone_flags,
            arena: self.arena.into(),
            lists: self.lists.into(),
            slots: self.slots.into(),
            given,
            filter,
        })
    }
}
