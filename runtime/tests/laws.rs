//! What holds for every plan, tried on random specs for several machines; and the laws themselves, tried on broken plans.
#![forbid(unsafe_code)]

#[path = "plan/hosts.rs"]
mod hosts;
#[path = "laws/mutants.rs"]
mod mutants;
#[path = "laws/specs.rs"]
mod specs;

use std::cell::Cell;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use runtime::own::Files;
use runtime::plan::compile::Way;
use runtime::plan::namespaces::flag;
use runtime::plan::options::Options;
use runtime::plan::{Dir, Op, Plan, Section, compile, laws};
use runtime::spec::{Process, Spec, check};
use runtime::{Host, Kind, Result};

/// At least so many specs have to become plans.
const PLANS: u32 = 10_000;

fn init(host: &Host, spec: &Spec, odd: Odd) -> Result<Plan> {
    let (groups, tasks) = hosts::places(host, &spec.linux.cgroups_path);
    let visible = ["/sys", "/proc"].map(PathBuf::from);
    compile::init(&compile::Init {
        spec,
        host,
        id: "random",
        bundle: Path::new("/run/bundle"),
        groups: &groups,
        tasks: &tasks,
        stdio: odd.stdio,
        no_pivot: odd.no_pivot.then_some(&visible),
        no_new_keyring: odd.no_new_keyring,
        preserve_fds: odd.preserve_fds,
        started_by_others: odd.started_by_others,
    })
}

fn exec(host: &Host, spec: &Spec, process: &Process, odd: Odd) -> Result<Plan> {
    let (groups, tasks) = hosts::places(host, &spec.linux.cgroups_path);
    let way = if odd.thread { hosts::way(host, spec) } else { Way::Child };
    compile::exec(&compile::Exec {
        spec,
        process,
        way,
        host,
        id: "random",
        groups: &groups,
        tasks: &tasks,
        stdio: odd.stdio,
        no_new_keyring: odd.no_new_keyring,
        preserve_fds: odd.preserve_fds,
    })
}

/// What the caller chooses beside the spec.
#[derive(Clone, Copy, Debug)]
struct Odd {
    host: usize,
    stdio: [bool; 3],
    no_pivot: bool,
    no_new_keyring: bool,
    preserve_fds: u32,
    started_by_others: bool,
    thread: bool,
}

fn odd() -> impl Strategy<Value = Odd> {
    (0..3usize, any::<[bool; 3]>(), proptest::bool::weighted(0.2), any::<[bool; 3]>(), 0..4u32).prop_map(
        |(host, stdio, no_pivot, [no_new_keyring, started_by_others, thread], preserve_fds)| Odd {
            host,
            stdio,
            no_pivot,
            no_new_keyring,
            preserve_fds,
            started_by_others,
            thread,
        },
    )
}

fn machines() -> [Host; 3] {
    let files = Some(Files { soft: 1024, hard: 4096 });
    [hosts::hybrid(), Host { files, ..hosts::v2() }, hosts::old()]
}

/// Laws that speak of the spec as well: what it asks for is there, and nothing grows faster than it.
fn of_the_spec(plan: &Plan, host: &Host, spec: &Spec) -> Option<String> {
    let opened = |section: Section, source: &str| {
        plan.section(section).iter().any(|s| match s.op {
            Op::OpenTree { dir: Dir::Cwd, path, .. } | Op::OpenTreeAttr { dir: Dir::Cwd, path, .. } => {
                plan.text(path) == source && plan.text(s.from).starts_with("/mounts")
            }
            Op::OpenTreeOf { path, .. } => plan.text(path) == source && plan.text(s.from).starts_with("/mounts"),
            _ => false,
        })
    };
    for mount in spec.mounts.iter().filter(|m| Options::of(m).bind.is_some() && !Options::of(m).remount) {
        let ours = ["/sys", "/sys/fs/cgroup"].contains(&mount.source.as_str());
        if !opened(Section::Prepare, &mount.source) || (opened(Section::Child, &mount.source) && !ours) {
            return Some(format!("{:?} is opened by the parent", mount.source));
        }
    }
    if plan.given.init.is_some() {
        let asked = spec.linux.namespaces.iter().fold(0, |all, n| all | flag(n.kind));
        let joined = plan.child.iter().fold(0, |all, s| match s.op {
            Op::Setns { slot, flags } if plan.given.init == Some(slot) => all | flags,
            _ => all,
        });
        if asked != joined {
            return Some(format!("an exec is in namespaces {joined:#x} instead of {asked:#x}"));
        }
    }
    let has = |what: &dyn Fn(&Op) -> bool| plan.child.iter().any(|s| what(&s.op));
    if let Some(process) = &spec.process {
        if process.no_new_privileges != has(&|o| matches!(o, Op::NoNewPrivs)) {
            return Some("noNewPrivileges".into());
        }
        let uid = plan.child.iter().rev().find_map(|s| if let Op::Setuid { uid } = s.op { Some(uid) } else { None });
        if uid != Some(process.user.uid) {
            return Some(format!("the payload is user {uid:?}"));
        }
        let ids: Vec<u8> = process.user.additional_gids.iter().flat_map(|g| g.to_ne_bytes()).collect();
        if !has(&|o| matches!(o, Op::Setgroups { ids: b } if plan.bytes(*b) == ids)) {
            return Some("additionalGids".into());
        }
        if process.capabilities.is_some() != has(&|o| matches!(o, Op::Bounding { .. })) {
            return Some("capabilities".into());
        }
        if spec.linux.seccomp.is_some() != has(&|o| matches!(o, Op::Seccomp { .. })) {
            return Some("seccomp".into());
        }
        let steps = plan.child.iter().chain(&plan.limits);
        let limits = steps.filter(|s| matches!(s.op, Op::Rlimit { .. }));
        let files = host.files.is_some() && !process.rlimits.iter().any(|l| l.kind == "RLIMIT_NOFILE");
        if limits.count() != process.rlimits.len() + usize::from(files) {
            return Some("rlimits".into());
        }
    }
    let covers = |at: &str, i: usize| {
        let from = format!("{at}/{i}");
        let moved = |op: &Op| matches!(op, Op::MoveMount { .. } | Op::MoveMountTo { .. });
        plan.child.iter().any(|s| plan.text(s.from) == from && moved(&s.op))
    };
    let lists =
        [("/linux/maskedPaths", &spec.linux.masked_paths), ("/linux/readonlyPaths", &spec.linux.readonly_paths)];
    let root_is_read_only = |at: &str, i: usize| {
        let from = format!("{at}/{i}");
        let changed = |op: &Op| matches!(op, Op::SetAttr { set: 1, .. } | Op::Remount { set: 1, .. });
        plan.child.iter().any(|s| plan.text(s.from) == from && changed(&s.op))
    };
    for (at, list) in lists {
        let done = |i: usize| match runtime::plan::mounts::clean(&list[i]).as_str() {
            "/" if at.ends_with("readonlyPaths") => root_is_read_only(at, i),
            _ => covers(at, i),
        };
        if let Some(i) = (0..list.len()).find(|i| !done(*i)) {
            return Some(format!("{at}/{i} is not covered"));
        }
    }
    let size = serde_json::to_string(spec).map_or(0, |text| text.len());
    let steps: usize = [&plan.prepare, &plan.child, &plan.maps, &plan.limits].iter().map(|s| s.len()).sum();
    (steps > 250 + size).then(|| format!("{steps} steps for a spec of {size} bytes"))
}

/// Tries one share of the specs; gives how many became plans.
fn share(cases: u32) -> u32 {
    let machines = machines();
    let plans = Cell::new(0u32);
    let config = Config { cases, max_global_rejects: cases * 50, failure_persistence: None, ..Config::default() };
    let outcome = TestRunner::new(config).run(&(specs::spec(), odd(), specs::process()), |(spec, odd, process)| {
        if let Err(e) = check::spec(&spec) {
            return Err(TestCaseError::reject(e.to_string()));
        }
        let host = &machines[odd.host];
        let plan = match init(host, &spec, odd) {
            Ok(plan) => plan,
            Err(e) => {
                prop_assert!(e.from.starts_with('/') && matches!(e.kind, Kind::Invalid | Kind::Unsupported), "{}", e);
                return Err(TestCaseError::reject(e.to_string()));
            }
        };
        prop_assert_eq!(laws::broken(&plan), None, "{}", plan);
        prop_assert_eq!(of_the_spec(&plan, host, &spec), None, "{}", plan);
        prop_assert!(plan == init(host, &spec, odd).unwrap(), "another plan the second time");
        plans.set(plans.get() + 1);
        if check::process(&process).is_ok() {
            let plan = exec(host, &spec, &process, odd).unwrap();
            prop_assert_eq!(laws::broken(&plan), None, "{}", plan);
        }
        Ok(())
    });
    if let Err(e) = outcome {
        panic!("{e}");
    }
    plans.get()
}

#[test]
fn laws_hold_for_random_specs() {
    const SHARES: u32 = 4;
    let threads: Vec<_> = (0..SHARES).map(|_| std::thread::spawn(|| share(PLANS / SHARES))).collect();
    let plans: u32 = threads.into_iter().map(|t| t.join().unwrap()).sum();
    assert!(plans >= PLANS, "only {plans} plans");
}

fn spec(name: &str) -> Spec {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/specs").join(format!("{name}.json"));
    Spec::parse(&std::fs::read(path).unwrap()).unwrap()
}

const PLAIN: Odd = Odd {
    host: 0,
    stdio: [true; 3],
    no_pivot: false,
    no_new_keyring: false,
    preserve_fds: 0,
    started_by_others: false,
    thread: true,
};

#[test]
fn a_spec_that_does_not_fit_is_refused() {
    let mut spec = spec("docker-28.5-default");
    spec.linux.masked_paths = (0..20_000).map(|i| format!("/proc/{i}")).collect();
    let error = init(&hosts::hybrid(), &spec, PLAIN).unwrap_err();
    assert_eq!(error.to_string(), r#"compile "config.json": asks for more than the 65535 steps that a plan may have"#);
    assert_eq!(error.kind, Kind::Unsupported);
    spec.linux.masked_paths.truncate(5_000);
    assert_eq!(laws::broken(&init(&hosts::hybrid(), &spec, PLAIN).unwrap()), None);
}

#[test]
fn a_profile_that_cannot_be_enforced_is_refused() {
    let mut spec = spec("docker-28.5-default");
    spec.process.as_mut().unwrap().apparmor_profile = "docker-default".into();
    let error = init(&hosts::hybrid(), &spec, PLAIN).unwrap_err();
    assert_eq!((error.from.as_str(), error.kind), ("/process/apparmorProfile", Kind::Unsupported));
    assert!(init(&hosts::v2(), &spec, PLAIN).is_ok());
}

#[test]
fn many_words_of_environment_are_no_work() {
    let mut spec = spec("docker-28.5-default");
    spec.process.as_mut().unwrap().env = (0..30_000).map(|i| format!("V{}=x", i % 20_000)).collect();
    let begin = std::time::Instant::now();
    init(&hosts::hybrid(), &spec, PLAIN).unwrap();
    assert!(begin.elapsed().as_secs() < 5, "{:?}", begin.elapsed());
}
