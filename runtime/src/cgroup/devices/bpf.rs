//! Version 2: rules as an eBPF program of type `BPF_PROG_TYPE_CGROUP_DEVICE`.
//!
//! The kernel runs it at each open and mknod with `struct bpf_cgroup_dev_ctx { access << 16 | type, major, minor }`, and
//! allows what it returns 1 for. The program goes through the rules from the last to the first: each decides the access
//! bits that no later one has decided. One denied bit denies all; when none is left undecided, all are allowed.

use super::{ALL, Rule};
use crate::sys::BpfInsn;

// Opcodes of <linux/bpf.h>, class | source | operation.
const LOAD_WORD: u8 = 0x61;
const MOV32_REG: u8 = 0xbc;
const RSH32: u8 = 0x74;
const AND32: u8 = 0x54;
const MOV64: u8 = 0xb7;
const JUMP: u8 = 0x05;
const JNE32: u8 = 0x56;
const JSET32: u8 = 0x46;
const EXIT: u8 = 0x95;

// Registers: 0 the answer, 1 the context, then
const TYPE: u8 = 2;
const UNDECIDED: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

const fn insn(code: u8, dst: u8, src: u8, off: i16, imm: i32) -> BpfInsn {
    BpfInsn { code, regs: dst | src << 4, off, imm }
}

fn answer(allow: bool) -> [BpfInsn; 2] {
    [insn(MOV64, 0, 0, 0, allow.into()), insn(EXIT, 0, 0, 0, 0)]
}

/// The program for a list of rules; without any it denies.
pub(super) fn compile(rules: &[Rule]) -> Vec<BpfInsn> {
    // What lies before a rule about everything can never be reached, and the kernel refuses dead code.
    let base = rules.iter().rposition(|r| matches!(r, Rule::Everything(_)));
    let default = base.is_some_and(|i| rules[i] == Rule::Everything(true));
    let rules = &rules[base.map_or(0, |i| i + 1)..];
    if rules.iter().all(|r| matches!(r, Rule::Some { allow, .. } if *allow == default)) && default {
        return answer(true).to_vec();
    }
    let mut program = vec![
        insn(LOAD_WORD, TYPE, 1, 0, 0),
        insn(MOV32_REG, UNDECIDED, TYPE, 0, 0),
        insn(RSH32, UNDECIDED, 0, 0, 16),
        insn(AND32, TYPE, 0, 0, 0xffff),
        insn(LOAD_WORD, MAJOR, 1, 4, 0),
        insn(LOAD_WORD, MINOR, 1, 8, 0),
    ];
    for rule in rules.iter().rev() {
        if let Rule::Some { allow, devices, access, .. } = *rule {
            let mut tests = vec![(TYPE, devices.node as i32)];
            tests.extend(devices.major.map(|n| (MAJOR, n.cast_signed())));
            tests.extend(devices.minor.map(|n| (MINOR, n.cast_signed())));
            block(&mut program, &tests, allow, access);
        }
    }
    program.extend(answer(default));
    program
}

/// One rule: the tests that lead past it, then what it decides.
fn block(program: &mut Vec<BpfInsn>, tests: &[(u8, i32)], allow: bool, access: u8) {
    let mut body = Vec::with_capacity(4);
    if access != ALL {
        if allow {
            body.push(insn(AND32, UNDECIDED, 0, 0, i32::from(!access & ALL)));
            body.push(insn(JNE32, UNDECIDED, 0, 2, 0)); // past the answer: something is still open
        } else {
            body.push(insn(JSET32, UNDECIDED, 0, 1, i32::from(access)));
            body.push(insn(JUMP, 0, 0, 2, 0)); // past the answer: none of what it denies is asked for
        }
    }
    body.extend(answer(allow));
    for (i, (register, number)) in tests.iter().enumerate() {
        let past = tests.len() - 1 - i + body.len();
        // A handful of instructions: always in range.
        program.push(insn(JNE32, *register, 0, i16::try_from(past).unwrap_or(i16::MAX), *number));
    }
    program.extend(body);
}

/// True for the program that allows everything.
pub(super) fn allows_all(program: &[BpfInsn]) -> bool {
    program == answer(true)
}
