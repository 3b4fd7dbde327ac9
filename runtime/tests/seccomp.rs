//! The seccomp compiler against libseccomp, against a second reading of the rules, and in the kernel.

#[path = "seccomp/kernel.rs"]
mod kernel;
#[path = "seccomp/machine.rs"]
mod machine;
#[path = "seccomp/meaning.rs"]
mod meaning;
#[path = "seccomp/oracle.rs"]
mod oracle;
#[path = "seccomp/profile.rs"]
mod profile;

use std::cell::RefCell;

use oracle::Oracle;
use profile::{ALL, Shape, Wild, everything};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use runtime::seccomp::{self, Arch};
use runtime::spec::Seccomp;
use serde_json::json;

/// Always the same cases: libseccomp's own faults (see the module `seccomp`) must not make the suite fail by chance.
fn runner(cases: u32) -> TestRunner {
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 4000, ..Config::default() };
    TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha))
}

/// Our program and libseccomp's give one answer to every question. `false` if one of them refuses the profile's quarrels.
fn agree(oracle: &mut Oracle, profile: &Seccomp) -> Result<bool, TestCaseError> {
    const EEXIST: i32 = 17;
    let ours = seccomp::compile(profile, Arch::X86_64, &everything());
    let theirs = oracle.compile(profile, &[]);
    let (ours, theirs) = match (ours, theirs) {
        (Ok(ours), Ok(theirs)) => (ours, theirs),
        (Err(e), Ok(_)) if !e.reason.contains("under the same conditions") => {
            return Err(TestCaseError::fail(format!("only we refuse: {e}")));
        }
        (_, Ok(_) | Err(EEXIST)) => return Ok(false),
        (_, Err(errno)) => return Err(TestCaseError::fail(format!("libseccomp fails: {errno}"))),
    };
    machine::check(&ours.filter);
    for data in profile::questions(profile, seccomp::number) {
        let (got, want) = (machine::run(&ours.filter, &data).0, theirs.of(&data));
        prop_assert_eq!(got, want, "{:#x} instead of {:#x} for {:x?}", got, want, data);
    }
    Ok(true)
}

fn agree_on_random(wild: Wild, cases: u32) {
    let oracle = RefCell::new(Oracle::start());
    let compared = std::cell::Cell::new(0);
    let result = runner(cases).run(&profile::random(wild), |profile| {
        compared.set(compared.get() + u32::from(agree(&mut oracle.borrow_mut(), &profile)?));
        Ok(())
    });
    result.unwrap_or_else(|e| panic!("{e}"));
    assert!(compared.get() > cases / 2, "only {} of {cases} profiles were taken by both", compared.get());
}

#[test]
fn single_rules_are_decided_as_by_libseccomp() {
    agree_on_random(Wild { quarrel: true, operators: 7, shape: Shape::Alone }, 400);
}

#[test]
fn alternatives_are_decided_as_by_libseccomp() {
    agree_on_random(Wild { quarrel: false, operators: 2, shape: Shape::Flat }, 400);
}

#[test]
fn quarrels_of_equalities_are_decided_as_by_libseccomp() {
    agree_on_random(Wild { quarrel: true, operators: 2, shape: Shape::Flat }, 400);
}

#[test]
fn names_have_the_numbers_of_libseccomp() {
    let mut oracle = Oracle::start();
    let mut names: Vec<String> = Vec::new();
    for (_, profile) in profile::fixtures() {
        names.extend(profile.syscalls.into_iter().flat_map(|rule| rule.names));
    }
    let mut wrong = Vec::new();
    for name in names {
        for arch in ALL {
            // A name or number that the library is too old for, or that it multiplexes, is below zero there.
            let theirs = oracle.number(&name, arch);
            let ours = seccomp::number(&name, arch);
            let same = match theirs {
                Some(number) if number >= 0 => ours == Some(number as u32),
                _ => true,
            };
            if !same {
                wrong.push(format!("{name} on {arch:?}: {ours:?}, libseccomp {theirs:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn real_profiles_are_decided_as_by_libseccomp() {
    let mut oracle = Oracle::start();
    for (name, mut profile) in profile::fixtures() {
        // A library older than our tables lacks the newest calls, on some architectures or on all; both must do without.
        let mut known = |name: &str, arch| match (oracle.number(name, arch), seccomp::number(name, arch)) {
            (Some(theirs), Some(ours)) => theirs == ours as i32 || (arch == Arch::X86 && theirs < -100),
            (Some(theirs), None) => theirs < 0,
            (None, _) => false,
        };
        let before: usize = profile.syscalls.iter().map(|rule| rule.names.len()).sum();
        for rule in &mut profile.syscalls {
            rule.names.retain(|name| ALL.iter().all(|&arch| known(name, arch)));
        }
        let after: usize = profile.syscalls.iter().map(|rule| rule.names.len()).sum();
        assert!(after * 10 > before * 9, "the library knows only {after} of {before} names");
        let x86 = seccomp::compile(&profile, Arch::X86_64, &everything()).expect(name);
        let arm_profile =
            Seccomp { architectures: vec!["SCMP_ARCH_AARCH64".into(), "SCMP_ARCH_ARM".into()], ..profile.clone() };
        let arm = seccomp::compile(&arm_profile, Arch::Aarch64, &everything()).expect(name);
        let theirs = oracle.compile(&profile, &[Arch::Aarch64, Arch::Arm]).expect(name);
        let mut questions = profile::questions(&profile, seccomp::number);
        for nr in (0..700).flat_map(|nr| [nr, nr | 0x4000_0000, nr | 0x000f_0000]) {
            questions.extend(ALL.map(|arch| machine::Data { nr, arch: arch.audit(), ..machine::Data::default() }));
        }
        for data in questions {
            let ours = match data.arch {
                0xc000_00b7 | 0x4000_0028 => &arm,
                _ => &x86,
            };
            let got = machine::run(&ours.filter, &data).0;
            assert_eq!(got, theirs.of(&data), "{name}: {data:x?}");
        }
        machine::check(&x86.filter);
        machine::check(&arm.filter);
        assert!(x86.filter.len() < theirs.program.len() / 3, "{} of {}", x86.filter.len(), theirs.program.len());
        // A balanced search: no call costs more than this many instructions, arguments included.
        let steps = |nr| machine::run(&x86.filter, &machine::Data { nr, arch: 0xc000_003e, ..Default::default() }).1;
        assert!((0..500).map(steps).max() < Some(40));
    }
}

#[test]
fn programs_mean_what_profiles_say() {
    for (wild, cases) in [
        (Wild { quarrel: false, operators: 7, shape: Shape::Free }, 500),
        (Wild { quarrel: true, operators: 7, shape: Shape::Free }, 500),
    ] {
        let result = runner(cases).run(&profile::random(wild), |profile| {
            let arm = Seccomp { architectures: vec!["SCMP_ARCH_ARM".into()], ..profile.clone() };
            for (profile, native) in [(&profile, Arch::X86_64), (&arm, Arch::Aarch64)] {
                let Ok(program) = seccomp::compile(profile, native, &everything()) else { continue };
                machine::check(&program.filter);
                prop_assert_eq!(&program, &seccomp::compile(profile, native, &everything()).expect("again"));
                for data in profile::questions(profile, seccomp::number) {
                    let (got, may) =
                        (machine::run(&program.filter, &data).0, meaning::verdicts(profile, native, &data));
                    prop_assert!(may.contains(&got), "{:#x}, not of {:x?}, for {:x?}", got, may, data);
                }
            }
            Ok(())
        });
        result.unwrap_or_else(|e| panic!("{e}"));
    }
}

fn from(text: serde_json::Value) -> Seccomp {
    serde_json::from_value(text).expect("profile")
}

#[test]
fn refusals_point_at_the_line() {
    let refused = |text: serde_json::Value| {
        let e = seccomp::compile(&from(text), Arch::X86_64, &everything()).expect_err("refused");
        assert_eq!(e.kind, runtime::Kind::Invalid);
        e.to_string()
    };
    let rule = |rule: serde_json::Value| json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]});
    let starts = |text: String, with: &str| assert!(text.starts_with(with), "{text}");
    starts(refused(json!({"defaultAction": "SCMP_ACT_NO"})), "/linux/seccomp/defaultAction: unknown action");
    starts(
        refused(json!({"syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW"}]})),
        "/linux/seccomp/defaultAction: ",
    );
    starts(
        refused(json!({"defaultAction": "SCMP_ACT_NOTIFY"})),
        "/linux/seccomp/defaultAction: SCMP_ACT_NOTIFY cannot",
    );
    starts(
        refused(json!({"defaultAction": "SCMP_ACT_KILL", "defaultErrnoRet": 1})),
        "/linux/seccomp/defaultErrnoRet: ",
    );
    starts(
        refused(json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 4095})),
        "/linux/seccomp/defaultErrnoRet: ",
    );
    starts(
        refused(json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86", "SCMP_ARCH_VAX"]})),
        "/linux/seccomp/architectures/1: unknown",
    );
    starts(refused(json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": ["X"]})), "/linux/seccomp/flags/0: unknown");
    starts(
        refused(json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]})),
        "/linux/seccomp/flags/0: needs",
    );
    starts(
        refused(json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerMetadata": "x"})),
        "/linux/seccomp/listenerMetadata: ",
    );
    starts(refused(rule(json!({"names": ["read"], "action": "X"}))), "/linux/seccomp/syscalls/0/action: ");
    starts(refused(rule(json!({"names": ["a", ""], "action": "SCMP_ACT_LOG"}))), "/linux/seccomp/syscalls/0/names/1: ");
    starts(
        refused(rule(json!({"names": ["read", "write"], "action": "SCMP_ACT_NOTIFY"}))),
        "/linux/seccomp/syscalls/0/names/1: SCMP_ACT_NOTIFY cannot",
    );
    starts(refused(rule(json!({"names": ["read"], "action": "SCMP_ACT_NOTIFY"}))), "/linux/seccomp/listenerPath: ");
    let args = |args| rule(json!({"names": ["read"], "action": "SCMP_ACT_LOG", "args": args}));
    starts(refused(args(json!([{"index": 6, "op": "SCMP_CMP_EQ"}]))), "/linux/seccomp/syscalls/0/args/0/index: ");
    starts(refused(args(json!([{"index": 0, "op": "=="}]))), "/linux/seccomp/syscalls/0/args/0/op: ");
    let quarrel = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["read"], "action": "SCMP_ACT_LOG", "args": [{"index": 0, "value": 3, "op": "SCMP_CMP_LT"}]},
        {"names": ["read"], "action": "SCMP_ACT_TRAP", "args": [{"index": 0, "value": 3, "op": "SCMP_CMP_LT"}]}]});
    starts(refused(quarrel.clone()), "/linux/seccomp/syscalls/1: read has action");
    assert_eq!(Oracle::start().compile(&from(quarrel), &[]).err(), Some(17));
    let long: Vec<_> = (0..3000u64)
        .map(|n| json!({"names": ["read"], "action": "SCMP_ACT_LOG", "args": [{"index": 0, "value": n * 7, "op": "SCMP_CMP_EQ"}]}))
        .collect();
    let text = refused(json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": long}));
    assert!(
        text.starts_with("/linux/seccomp: needs ") && text.ends_with("the kernel takes 4096 (BPF_MAXINSNS)"),
        "{text}"
    );
}

#[test]
fn what_the_kernel_lacks_is_unsupported() {
    let old = seccomp::Available { actions: vec!["allow".into(), "errno".into()], flags: 0 };
    let compile = |text| seccomp::compile(&from(text), Arch::X86_64, &old);
    let e = compile(json!({"defaultAction": "SCMP_ACT_KILL_PROCESS"})).expect_err("action");
    assert_eq!((e.kind, e.from.as_str()), (runtime::Kind::Unsupported, "/linux/seccomp/defaultAction"));
    let e =
        compile(json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_LOG"]})).expect_err("flag");
    assert_eq!((e.kind, e.from.as_str()), (runtime::Kind::Unsupported, "/linux/seccomp/flags/0"));
    assert_eq!(compile(json!({"defaultAction": "SCMP_ACT_ALLOW"})).expect("no default flag").flags, 0);
}

#[test]
fn flags_follow_the_list() {
    let flags = |text| seccomp::compile(&from(text), Arch::X86_64, &everything()).expect("program").flags;
    assert_eq!(flags(json!({"defaultAction": "SCMP_ACT_ALLOW"})), seccomp::flag::SPEC_ALLOW);
    assert_eq!(flags(json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": []})), 0);
    assert_eq!(flags(json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_TSYNC"]})), 1);
    let notify = json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/a", "flags": ["SECCOMP_FILTER_FLAG_TSYNC"],
        "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}]});
    assert_eq!(flags(notify), 1 | 8 | 16);
    let empty = seccomp::compile(&Seccomp::default(), Arch::X86_64, &everything()).expect("empty");
    assert!(empty.filter.is_empty());
}

#[test]
fn the_kernel_decides_docker_s_profile_as_written() {
    let available = seccomp::Available::read().expect("available");
    let (_, docker) = profile::fixtures().remove(0);
    let program = seccomp::compile(&docker, Arch::NATIVE, &available).expect("docker");
    let call = |number, args: [u64; 4], errno| kernel::Call { number, args, errno };
    let mut name = [0u8; 400];
    let calls = [
        call(libc::SYS_getpid, [0; 4], 0),
        call(libc::SYS_uname, [name.as_mut_ptr() as u64, 0, 0, 0], 0),
        call(libc::SYS_clone3, [0; 4], libc::ENOSYS),
        call(libc::SYS_unshare, [libc::CLONE_NEWUSER as u64, 0, 0, 0], libc::EPERM),
        call(libc::SYS_personality, [0xffff_ffff, 0, 0, 0], 0),
        call(libc::SYS_personality, [0x1234, 0, 0, 0], libc::EPERM),
        call(libc::SYS_socket, [libc::AF_UNIX as u64, libc::SOCK_STREAM as u64, 0, 0], 0),
        call(libc::SYS_socket, [libc::AF_VSOCK as u64, libc::SOCK_STREAM as u64, 0, 0], libc::EPERM),
        call(libc::SYS_mount, [0; 4], libc::EPERM),
        call(1000, [0; 4], libc::ENOSYS),
    ];
    assert_eq!(kernel::run(&program, &calls), kernel::End::Exit(0));
}

#[test]
fn the_kernel_takes_every_action_and_flag() {
    let available = seccomp::Available::read().expect("available");
    let uname = |action: &str, flags: &[&str]| {
        let text = json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": flags, "listenerPath": "/a",
            "syscalls": [{"names": ["uname"], "action": action}]});
        seccomp::compile(&from(text), Arch::NATIVE, &available).expect(action)
    };
    let call = |errno| [kernel::Call { number: libc::SYS_uname, args: [0; 4], errno }];
    let sigsys = kernel::End::Signal(libc::SIGSYS);
    let fine = kernel::End::Exit(0);
    assert_eq!(kernel::run(&uname("SCMP_ACT_KILL", &[]), &call(0)), sigsys);
    assert_eq!(kernel::run(&uname("SCMP_ACT_KILL_PROCESS", &[]), &call(0)), sigsys);
    assert_eq!(kernel::run(&uname("SCMP_ACT_TRAP", &[]), &call(0)), sigsys);
    assert_eq!(kernel::run(&uname("SCMP_ACT_ERRNO", &[]), &call(libc::EPERM)), fine);
    // Without a tracer the call fails with ENOSYS, see seccomp(2).
    assert_eq!(kernel::run(&uname("SCMP_ACT_TRACE", &[]), &call(libc::ENOSYS)), fine);
    assert_eq!(kernel::run(&uname("SCMP_ACT_LOG", &[]), &call(libc::EFAULT)), fine);
    for flag in seccomp::FLAGS {
        assert_eq!(kernel::run(&uname("SCMP_ACT_NOTIFY", &[flag]), &[]), fine, "{flag}");
    }
    assert_eq!(kernel::run(&uname("SCMP_ACT_NOTIFY", seccomp::FLAGS), &[]), fine);
    let some = &seccomp::FLAGS[..3];
    assert_eq!(kernel::run(&uname("SCMP_ACT_ERRNO", some), &call(libc::EPERM)), fine);
    if Arch::NATIVE == Arch::X86_64 {
        let x32 = [kernel::Call { number: 0x4000_0000 | libc::SYS_getpid, args: [0; 4], errno: 0 }];
        assert_eq!(kernel::run(&uname("SCMP_ACT_ERRNO", &[]), &x32), sigsys);
    }
}

#[test]
fn far_jumps_arrive() {
    let mut oracle = Oracle::start();
    let (_, docker) = profile::fixtures().remove(0);
    let names = docker.syscalls.into_iter().flat_map(|rule| rule.names);
    let carried =
        |name: &String| !["socketcall", "ipc"].contains(&name.as_str()) && oracle.number(name, Arch::X86_64).is_some();
    let rule = |(i, name): (usize, String)| {
        let args = match i % 3 {
            0 => json!([]),
            1 => json!([{"index": i % 6, "value": i as u64 | 1 << 33, "op": "SCMP_CMP_NE"}]),
            _ => {
                json!([{"index": 1, "value": i, "op": "SCMP_CMP_LE"}, {"index": 2, "value": i, "valueTwo": 2, "op": "SCMP_CMP_MASKED_EQ"}])
            }
        };
        json!({"names": [name], "action": "SCMP_ACT_ERRNO", "errnoRet": 2 + i % 40, "args": args})
    };
    let rules: Vec<_> = names.filter(carried).take(300).enumerate().map(rule).collect();
    let text = json!({"defaultAction": "SCMP_ACT_KILL", "architectures": ["SCMP_ARCH_X86"], "syscalls": rules});
    let profile = from(text);
    let program = seccomp::compile(&profile, Arch::X86_64, &everything()).expect("program");
    machine::check(&program.filter);
    assert!(program.filter.len() > 2000, "{}", program.filter.len());
    // Every question would take minutes; a step that is prime to all cycles of the list takes some of each kind.
    for data in profile::questions(&profile, seccomp::number).into_iter().step_by(31) {
        let got = machine::run(&program.filter, &data).0;
        assert!(meaning::verdicts(&profile, Arch::X86_64, &data).contains(&got), "{got:#x} for {data:x?}");
    }
}
