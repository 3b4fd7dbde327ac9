use proptest::prelude::*;

use super::list::State;
use super::*;
use crate::sys::BpfInsn;

fn spec(allow: bool, kind: &str, major: i64, minor: i64, access: &str) -> DeviceRule {
    let number = |n: i64| (n != -1).then_some(n);
    DeviceRule { allow, kind: kind.into(), major: number(major), minor: number(minor), access: access.into() }
}

/// Each bit is decided by the last rule that names the device and the bit; all bits must be allowed.
fn naive(rules: &[Rule], node: Node, major: u32, minor: u32, access: u8) -> bool {
    [MKNOD, READ, WRITE].iter().filter(|bit| access & **bit != 0).all(|bit| {
        let decides = |rule: &Rule| match *rule {
            Rule::Everything(allow) => Some(allow),
            Rule::Some { allow, devices, access, .. } => {
                let hit = devices.node == node
                    && devices.major.is_none_or(|n| n == major)
                    && devices.minor.is_none_or(|n| n == minor)
                    && access & bit != 0;
                hit.then_some(allow)
            }
        };
        rules.iter().rev().find_map(decides).unwrap_or(false)
    })
}

/// An interpreter for the instructions that the compiler uses; anything else panics, as does running off the end.
fn run(program: &[BpfInsn], context: [u32; 3]) -> bool {
    let mut r = [0u64; 11];
    let mut pc = 0usize;
    loop {
        let i = program[pc];
        let (dst, src) = (usize::from(i.regs & 15), usize::from(i.regs >> 4));
        let low = r[dst] as u32;
        let imm = i.imm as u32;
        pc += 1;
        let mut jump = |taken: bool| {
            assert!(i.off >= 0, "a loop");
            if taken {
                pc += i.off as usize;
            }
        };
        match i.code {
            0x61 => {
                assert_eq!(src, 1);
                r[dst] = context[i.off as usize / 4].into();
            }
            0xbc => r[dst] = (r[src] as u32).into(),
            0x74 => r[dst] = (low >> imm).into(),
            0x54 => r[dst] = (low & imm).into(),
            0xb7 => r[dst] = i64::from(i.imm) as u64,
            0x05 => jump(true),
            0x56 => jump(low != imm),
            0x46 => jump(low & imm != 0),
            0x95 => return r[0] != 0,
            code => panic!("opcode {code:#x}"),
        }
    }
}

/// The kernel's check of a version 1 group that denies by default: one exception must have all that is asked for.
fn kernel_v1(state: &State, node: Node, major: u32, minor: u32, access: u8) -> bool {
    let is = |wanted: Option<u32>, number: u32| wanted.is_none_or(|n| n == number);
    state
        .exceptions()
        .iter()
        .any(|(m, bits)| m.node == node && is(m.major, major) && is(m.minor, minor) && access & !bits == 0)
}

/// What the kernel does with a write: only exactly equal exceptions are touched.
fn kernel_write(state: &mut State, change: &list::Change) {
    let allow = change.file == "devices.allow";
    if change.reset {
        *state = State::of(&[Rule::Everything(allow)]).unwrap();
        return;
    }
    for (devices, bits) in State::parse(&change.line).unwrap().exceptions() {
        let all = state.exceptions_mut();
        let entry = all.0.entry(*devices).or_default();
        *entry = if allow == *all.1 { *entry & !bits } else { *entry | bits };
        all.0.retain(|_, bits| *bits != 0);
    }
}

fn any_rule() -> impl Strategy<Value = DeviceRule> {
    let number = prop_oneof![Just(-1i64), 0..4i64, Just(i64::from(u32::MAX)), Just(0x8000_0000i64)];
    let access =
        prop_oneof![Just(""), Just("r"), Just("w"), Just("m"), Just("rw"), Just("rm"), Just("wm"), Just("mrw")];
    let kind = prop_oneof![Just("a"), Just("b"), Just("c"), Just("")];
    (any::<bool>(), kind, number.clone(), number, access).prop_map(|(allow, kind, a, b, w)| spec(allow, kind, a, b, w))
}

fn any_request() -> impl Strategy<Value = (Node, u32, u32, u8)> {
    let number = prop_oneof![0..5u32, Just(136), Just(u32::MAX), Just(0x8000_0000u32)];
    (prop_oneof![Just(Node::Block), Just(Node::Char)], number.clone(), number, 1..8u8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn program_decides_as_the_rules_do(
        spec in prop::collection::vec(any_rule(), 0..12),
        defaults in any::<bool>(),
        (node, major, minor, access) in any_request(),
    ) {
        let all = rules(&spec).unwrap();
        let rules = if defaults { &all[..] } else { &all[1..all.len() - DEFAULTS.len()] };
        let program = bpf::compile(rules);
        let context = [u32::from(access) << 16 | node as u32, major, minor];
        prop_assert_eq!(run(&program, context), naive(rules, node, major, minor, access));
    }

    #[test]
    fn list_decides_as_the_rules_do(
        spec in prop::collection::vec(any_rule(), 0..8),
        (node, major, minor, access) in any_request(),
    ) {
        // The kernel asks for mknod alone.
        let access = if access & MKNOD != 0 { MKNOD } else { access };
        let rules = rules(&spec).unwrap();
        if let Ok(state) = State::of(&rules)
            && !state.allows()
        {
            prop_assert_eq!(kernel_v1(&state, node, major, minor, access), naive(&rules, node, major, minor, access));
        }
    }

    #[test]
    fn changes_lead_to_the_target(a in prop::collection::vec(any_rule(), 0..8), b in prop::collection::vec(any_rule(), 0..8)) {
        if let (Ok(from), Ok(to)) = (State::of(&rules(&a).unwrap()), State::of(&rules(&b).unwrap())) {
            let mut kernel = from.clone();
            for change in from.changes(&to) {
                kernel_write(&mut kernel, &change);
            }
            prop_assert_eq!(kernel, to);
        }
    }
}

#[test]
fn docker_rules_on_v1() {
    let rules = rules(&[spec(false, "", -1, -1, "rwm"), spec(true, "c", 10, 229, "rw")]).unwrap();
    let target = State::of(&rules).unwrap();
    let fresh = State::parse("a *:* rwm\n").unwrap();
    let lines: Vec<String> = fresh.changes(&target).iter().map(|c| format!("{} {}", c.file, c.line)).collect();
    assert_eq!(
        lines,
        [
            "devices.deny a *:* rwm",
            "devices.allow b *:* m",
            "devices.allow c *:* m",
            "devices.allow c 1:3 rwm",
            "devices.allow c 1:5 rwm",
            "devices.allow c 1:7 rwm",
            "devices.allow c 1:8 rwm",
            "devices.allow c 1:9 rwm",
            "devices.allow c 5:0 rwm",
            "devices.allow c 5:2 rwm",
            "devices.allow c 10:200 rwm",
            "devices.allow c 10:229 rw",
            "devices.allow c 136:* rwm",
        ]
    );
    assert!(target.changes(&target).is_empty(), "nothing is touched when nothing changes");
}

#[test]
fn what_cannot_be_enforced_is_refused() {
    let hole = rules(&[spec(true, "c", 7, -1, "rwm"), spec(false, "c", 7, 3, "w")]).unwrap();
    let error = State::of(&hole).unwrap_err();
    assert_eq!(error.from, "/linux/resources/devices/1");
    for (rule, field) in [
        (spec(true, "p", 1, 1, "r"), "type"),
        (spec(true, "c", -2, 1, "r"), "major"),
        (spec(true, "c", 1, 1 << 32, "r"), "minor"),
        (spec(true, "c", 1, 1, "x"), "access"),
    ] {
        assert_eq!(rules(&[rule]).unwrap_err().from, format!("/linux/resources/devices/0/{field}"));
    }
}

#[test]
fn privileged_is_the_empty_program() {
    assert!(bpf::allows_all(&bpf::compile(&rules(&[spec(true, "a", -1, -1, "rwm")]).unwrap())));
    assert!(!bpf::allows_all(&bpf::compile(&rules(&[]).unwrap())));
    assert!(State::of(&rules(&[spec(true, "", -1, -1, "")]).unwrap()).unwrap().allows_all());
}
