//! Decisions as instructions: a jump on the architecture, a balanced search over ranges of numbers that are answered alike,
//! comparisons of arguments in its leaves.
//!
//! The program is written from its end to its beginning, for jumps only go forward: a target is always there already and
//! its distance known. Conditional jumps reach 255 instructions; what is farther gets a copy of the return or a `ja` nearby.
//! Only instructions that the kernel can evaluate beforehand stand above the leaves, so that it answers calls that are
//! always allowed from its bitmap (`seccomp_is_const_allow` in kernel/seccomp.c).
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use super::rules::{Branch, Decision};
use super::tables::X32_BIT;
use super::words::{Action, Cond, Op};
use super::{Arch, Insn};

/// Most instructions of a program: `BPF_MAXINSNS` of linux/bpf_common.h.
pub(super) const MAX: usize = 4096;

/// Farthest target of a conditional jump.
const REACH: usize = u8::MAX as usize;

// Instructions of linux/bpf_common.h, all on 32-bit words and constants.
const LD: u16 = 0x20;
const AND: u16 = 0x54;
const RET: u16 = 0x06;
const JA: u16 = 0x05;
const JEQ: u16 = 0x15;
const JGT: u16 = 0x25;
const JGE: u16 = 0x35;
const JSET: u16 = 0x45;

// `struct seccomp_data` of linux/seccomp.h; its words are little-endian on all our machines.
const NR: u32 = 0;
const ARCH: u32 = 4;
const ARGS: u32 = 16;

/// What is decided for one ABI.
pub(super) struct Table {
    pub(super) arch: Arch,
    pub(super) calls: BTreeMap<u32, Decision>,
    /// Numbers above answer ENOSYS, see `stub`.
    pub(super) last: Option<u32>,
}

/// The ABIs that share a value of `seccomp_data.arch`: x86-64 and x32, all others alone.
pub(super) struct Section {
    pub(super) audit: u32,
    pub(super) tables: Vec<Table>,
}

/// An answer to a range of numbers.
#[derive(Clone, Copy, PartialEq)]
enum Answer<'a> {
    Action(Action),
    /// With the width of arguments.
    Branches(&'a [Branch], bool),
}

impl Section {
    /// The table that has this number: x32 has its own half, marked by bit 30.
    fn table(&self, number: u32) -> Option<&Table> {
        let x32 = |table: &&Table| self.split() && number & X32_BIT != 0 && table.arch == Arch::X32;
        let other = |table: &&Table| (!self.split() || number & X32_BIT == 0) && table.arch != Arch::X32;
        self.tables.iter().find(|table| x32(table) || other(table))
    }

    /// Whether bit 30 tells ABIs apart.
    fn split(&self) -> bool {
        self.audit == Arch::X86_64.audit()
    }

    /// The answer to one number.
    fn answer(&self, number: u32, default: Action) -> Answer<'_> {
        if let Some(table) = self.table(number) {
            if table.last.is_some_and(|last| number > last) {
                return Answer::Action(Action::ENOSYS);
            }
            match table.calls.get(&number) {
                Some(Decision::Action(action)) => return Answer::Action(*action),
                Some(Decision::Branches(branches)) => return Answer::Branches(branches, table.arch.wide()),
                None => {}
            }
        }
        // x32 without being listed is a foreign architecture, but -1 is what a tracer leaves to skip a call. libseccomp
        // compares with >=, so numbers with bit 31 and without bit 30 that the stub let through are foreign as well.
        let x32 = self.split() && !self.tables.iter().any(|table| table.arch == Arch::X32);
        if x32 && number >= X32_BIT && number != u32::MAX {
            return Answer::Action(Action::KILL_THREAD);
        }
        Answer::Action(default)
    }

    /// The answers to all numbers: each holds from its number to the next one's.
    fn answers(&self, default: Action) -> Vec<(u32, Answer<'_>)> {
        // Where an answer can change.
        let mut starts = vec![0, X32_BIT, 1 << 31, 3 << 30, u32::MAX];
        for table in &self.tables {
            starts.extend(table.last.map(|last| last + 1));
            starts.extend(table.calls.keys().flat_map(|&number| [number, number + 1]));
        }
        starts.sort_unstable();
        starts.dedup();
        let mut ranges: Vec<(u32, Answer)> =
            starts.into_iter().map(|start| (start, self.answer(start, default))).collect();
        ranges.dedup_by(|next, kept| next.1 == kept.1);
        ranges
    }
}

/// The whole program. Numbers and architectures without rules get the default action and KILL_THREAD.
pub(super) fn write(sections: &[Section], default: Action) -> Vec<Insn> {
    let mut code = Code::default();
    let mut next = code.ret(Action::KILL_THREAD);
    for section in sections.iter().rev() {
        let search = code.search(&section.answers(default), default);
        let search = code.load(NR, search);
        next = code.test(JEQ, section.audit, search, next);
    }
    code.load(ARCH, next);
    code.reversed.reverse();
    code.reversed
}

/// Where an instruction is: its distance from the end of the program.
type Label = usize;

/// A program that grows at its beginning.
#[derive(Default)]
struct Code<'a> {
    reversed: Vec<Insn>,
    /// The nearest `ret` of every action.
    rets: BTreeMap<Action, Label>,
    /// The nearest `ja` to a far label.
    bridges: BTreeMap<Label, Label>,
    /// Leaves by what they compare.
    leaves: Vec<(&'a [Branch], bool, Label)>,
}

impl<'a> Code<'a> {
    fn push(&mut self, code: u16, k: u32, jt: u8, jf: u8) -> Label {
        self.reversed.push(Insn { code, jt, jf, k });
        self.reversed.len() - 1
    }

    /// Instructions between the one that is written next and a label.
    fn distance(&self, label: Label) -> usize {
        self.reversed.len() - 1 - label
    }

    /// A `ret` within reach.
    fn ret(&mut self, action: Action) -> Label {
        match self.rets.get(&action) {
            Some(&label) if self.distance(label) < REACH => label,
            _ => {
                let label = self.push(RET, action.0, 0, 0);
                self.rets.insert(action, label);
                label
            }
        }
    }

    /// A label within reach that leads to this one. One instruction of slack is left for the other branch's bridge.
    fn near(&mut self, label: Label) -> Label {
        if self.distance(label) < REACH {
            return label;
        }
        if self.reversed[label].code == RET {
            return self.ret(Action(self.reversed[label].k));
        }
        match self.bridges.get(&label) {
            Some(&bridge) if self.distance(bridge) < REACH => bridge,
            _ => {
                let bridge = self.bridge(label);
                self.bridges.insert(label, bridge);
                bridge
            }
        }
    }

    /// An unconditional jump, which reaches everything.
    fn bridge(&mut self, label: Label) -> Label {
        // No program that is returned is longer than MAX, and no profile makes one of 2^32.
        let distance = u32::try_from(self.distance(label)).unwrap_or(u32::MAX);
        self.push(JA, distance, 0, 0)
    }

    /// A comparison of the accumulator with a constant.
    fn test(&mut self, op: u16, k: u32, yes: Label, no: Label) -> Label {
        if yes == no {
            return yes;
        }
        let (yes, no) = (self.near(yes), self.near(no));
        let (jt, jf) = (self.distance(yes), self.distance(no));
        debug_assert!(jt <= REACH && jf <= REACH);
        self.push(op, k, jt as u8, jf as u8)
    }

    /// Loads a word of `seccomp_data` and goes on at a label.
    fn load(&mut self, offset: u32, next: Label) -> Label {
        if self.distance(next) > 0 {
            self.bridge(next);
        }
        self.push(LD, offset, 0, 0)
    }

    /// The search for the range that a number in the accumulator lies in.
    fn search(&mut self, ranges: &[(u32, Answer<'a>)], default: Action) -> Label {
        match ranges {
            [] => self.ret(default),
            [(_, answer)] => self.answer(*answer, default),
            // One number in the midst of others that are answered alike.
            [(_, around), (number, answer), (end, after)] if around == after && number + 1 == *end => {
                let no = self.answer(*around, default);
                let yes = self.answer(*answer, default);
                self.test(JEQ, *number, yes, no)
            }
            _ => {
                let (low, high) = ranges.split_at(ranges.len() / 2);
                let start = high[0].0;
                let high = self.search(high, default);
                let low = self.search(low, default);
                self.test(JGE, start, high, low)
            }
        }
    }

    fn answer(&mut self, answer: Answer<'a>, default: Action) -> Label {
        match answer {
            Answer::Action(action) => self.ret(action),
            Answer::Branches(branches, wide) => {
                if let Some(leaf) = self.leaves.iter().find(|leaf| leaf.0 == branches && leaf.1 == wide) {
                    return leaf.2;
                }
                let miss = self.ret(default);
                let label = self.branches(branches, wide, miss);
                self.leaves.push((branches, wide, label));
                label
            }
        }
    }

    /// Branches in their order, each falling through to the next and the last one to `miss`.
    fn branches(&mut self, branches: &[Branch], wide: bool, miss: Label) -> Label {
        branches.iter().rev().fold(miss, |next, branch| {
            let hit = match &branch.then {
                Decision::Action(action) => self.ret(*action),
                Decision::Branches(deeper) => self.branches(deeper, wide, next),
            };
            self.compare(&branch.cond, wide, hit, next)
        })
    }

    /// One comparison of an argument. 64 bits are compared by halves, the high one first.
    fn compare(&mut self, cond: &Cond, wide: bool, hit: Label, miss: Label) -> Label {
        let low_at = ARGS + 8 * u32::from(cond.arg);
        let high_at = low_at + 4;
        let half = |value: u64| ((value >> 32) as u32, value as u32);
        let ((high_mask, low_mask), (high, low)) = (half(cond.mask), half(cond.operand));
        // What classic BPF lacks is the opposite of what it has.
        let (op, hit, miss) = match cond.op {
            Op::Ne => (JEQ, miss, hit),
            Op::Lt => (JGE, miss, hit),
            Op::Le => (JGT, miss, hit),
            Op::Eq | Op::MaskedEq => (JEQ, hit, miss),
            Op::Ge => (JGE, hit, miss),
            Op::Gt => (JGT, hit, miss),
        };
        let low = match low_mask {
            0 => hit,
            mask => self.word(low_at, mask, op, low, hit, miss),
        };
        match op {
            JEQ if wide && high_mask != 0 => self.word(high_at, high_mask, JEQ, high, low, miss),
            JGE | JGT if wide => {
                let equal = self.test(JEQ, high, low, miss);
                let above = self.test(JGT, high, hit, equal);
                self.load(high_at, above)
            }
            _ => low,
        }
    }

    /// One comparison of a word of `seccomp_data` under a mask.
    fn word(&mut self, at: u32, mask: u32, op: u16, k: u32, hit: Label, miss: Label) -> Label {
        if op == JEQ && k == 0 && mask != u32::MAX {
            let test = self.test(JSET, mask, miss, hit);
            return self.load(at, test);
        }
        let test = self.test(op, k, hit, miss);
        if mask != u32::MAX {
            if self.distance(test) > 0 {
                self.bridge(test);
            }
            let and = self.push(AND, mask, 0, 0);
            return self.load(at, and);
        }
        self.load(at, test)
    }
}
