//! The kernel's classic BPF machine as far as seccomp has it: `seccomp_check_filter` of kernel/seccomp.c and
//! `bpf_check_classic` of net/core/filter.c for what may be loaded, linux/bpf_common.h for what it does.

use runtime::seccomp::Insn;

/// `struct seccomp_data` of linux/seccomp.h.
#[derive(Clone, Copy, Debug, Default)]
pub struct Data {
    pub nr: u32,
    pub arch: u32,
    pub ip: u64,
    pub args: [u64; 6],
}

impl Data {
    fn word(&self, offset: u32) -> u32 {
        let half = |value: u64, high: bool| if high { (value >> 32) as u32 } else { value as u32 };
        match offset {
            0 => self.nr,
            4 => self.arch,
            8 | 12 => half(self.ip, offset == 12),
            16..64 if offset.is_multiple_of(4) => half(self.args[(offset as usize - 16) / 8], offset % 8 == 4),
            _ => panic!("load at {offset}"),
        }
    }
}

/// Whether the kernel would load the program: lengths, jumps inside, a return at the end, only seccomp's instructions.
pub fn check(program: &[Insn]) {
    assert!((1..=4096).contains(&program.len()), "{} instructions", program.len());
    for (at, insn) in program.iter().enumerate() {
        let left = program.len() - at - 1;
        match insn.code {
            0x20 => assert!(insn.k < 64 && insn.k.is_multiple_of(4)),
            0x06 | 0x54 => {}
            0x05 => assert!((insn.k as usize) < left, "ja at {at}"),
            0x15 | 0x25 | 0x35 | 0x45 => assert!(usize::from(insn.jt.max(insn.jf)) < left, "jump at {at}"),
            code => panic!("instruction {code:#x} at {at}"),
        }
    }
    assert_eq!(program[program.len() - 1].code, 0x06, "the last instruction is not a return");
}

/// Runs the program: its return value and how many instructions that took.
pub fn run(program: &[Insn], data: &Data) -> (u32, usize) {
    let (mut at, mut a, mut steps) = (0, 0u32, 0);
    loop {
        let insn = program[at];
        at += 1;
        steps += 1;
        let skip = |holds: bool| usize::from(if holds { insn.jt } else { insn.jf });
        match insn.code {
            0x20 => a = data.word(insn.k),
            0x54 => a &= insn.k,
            0x06 => return (insn.k, steps),
            0x05 => at += insn.k as usize,
            0x15 => at += skip(a == insn.k),
            0x25 => at += skip(a > insn.k),
            0x35 => at += skip(a >= insn.k),
            0x45 => at += skip(a & insn.k != 0),
            code => panic!("instruction {code:#x}"),
        }
    }
}
