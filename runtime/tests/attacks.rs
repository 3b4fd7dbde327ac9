//! Attacks on the runtime, each tried for real, as root, on the running kernel.
//!
//! The same attack runs against runtimes of others. Where an old one falls for it, the table says so and the test demands
//! that it does: an attack that succeeds nowhere proves nothing about who withstands it. All attacks aim at files that they
//! have made themselves. `docs/security.md` names the record that each comes from.

#[path = "attacks/bed.rs"]
mod bed;
#[path = "attacks/descriptors.rs"]
mod descriptors;
#[path = "attacks/identity.rs"]
mod identity;
#[path = "attacks/mounts.rs"]
mod mounts;
#[path = "attacks/paths.rs"]
mod paths;
#[path = "attacks/payload.rs"]
mod payload;
#[path = "attacks/races.rs"]
mod races;
#[path = "attacks/specs.rs"]
mod specs;
#[path = "attacks/writes.rs"]
mod writes;

use libtest_mimic::{Arguments, Failed, Trial};

use bed::{Bed, Runtime};

/// What an attack has come to.
#[derive(Debug)]
enum Verdict {
    /// Nothing of the host was reached; how it was withstood.
    Safe(String),
    /// What was reached.
    Vulnerable(String),
}

use Verdict::{Safe, Vulnerable};

impl Verdict {
    fn of(reached: bool, evidence: impl std::fmt::Debug) -> Self {
        let evidence = format!("{evidence:?}");
        if reached { Vulnerable(evidence) } else { Safe(evidence) }
    }
}

type Attack = fn(&mut Bed<'_>) -> Verdict;

/// One line of the table: name, attack, who falls for it, who is not asked.
struct Line(&'static str, Attack, &'static [&'static str], &'static [&'static str]);

const RUNC_OLD: &str = "runc-1.1.5";
const CRUN_OLD: &str = "crun-1.8.1";
const RUNC_NEW: &str = "runc-1.3.6";
const OTHERS: &[&str] = &[RUNC_OLD, CRUN_OLD, RUNC_NEW];

fn table() -> Vec<Line> {
    let mut all = paths::lines();
    all.extend(mounts::lines());
    all.extend(races::lines());
    all.extend(descriptors::lines());
    all.extend(identity::lines());
    all.extend(writes::lines());
    all.extend(specs::lines());
    all
}

fn runtimes() -> &'static [Runtime] {
    let bed = bed::testbed();
    let of = |name, program: std::path::PathBuf| Runtime { name, program, options: &[], pure_v1: false };
    Box::leak(Box::new([
        of("mini", env!("CARGO_BIN_EXE_mini").into()),
        of(RUNC_OLD, bed.join("c1.6/bin/runc")),
        // It refuses hybrid control groups, and none of the attacks on it needs any.
        Runtime { options: &["--cgroup-manager=disabled"], pure_v1: true, ..of(CRUN_OLD, bed.join("c1.6/bin/crun")) },
        of(RUNC_NEW, bed.join("c2.1/bin/runc")),
    ]))
}

fn judge(runtime: &'static Runtime, attack: Attack, falls: bool) -> Result<(), Failed> {
    let mut verdict = attack(&mut Bed::new(runtime));
    // A race that is known to be lost may be won for once, on a busy machine above all.
    for _ in 0..5 {
        if !(falls && matches!(verdict, Safe(_))) {
            break;
        }
        verdict = attack(&mut Bed::new(runtime));
    }
    if std::env::args().any(|a| a == "--nocapture") {
        eprintln!("{}: {verdict:?}", runtime.name);
    }
    match (verdict, falls) {
        (Safe(_), false) | (Vulnerable(_), true) => Ok(()),
        (Vulnerable(evidence), false) => Err(format!("the attack succeeded: {evidence}").into()),
        (Safe(how), true) => {
            Err(format!("the attack was expected to succeed here, so it proves nothing: {how}").into())
        }
    }
}

/// Removes our groups, also those of runtimes that had to be killed.
fn empty(group: &std::path::Path) {
    for entry in std::fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            empty(&entry.path());
        }
    }
    // Busy while something ends; then the next run's report shows it.
    let _ = std::fs::remove_dir(group);
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|a| a == payload::WORD) {
        return payload::main(&args[1..]);
    }
    let mut trials = Vec::new();
    for Line(name, attack, fall, not_asked) in table() {
        for runtime in runtimes().iter().filter(|r| !not_asked.contains(&r.name)) {
            let falls = fall.contains(&runtime.name);
            trials.push(Trial::test(format!("{name}::{}", runtime.name), move || judge(runtime, attack, falls)));
        }
    }
    let done = libtest_mimic::run(&Arguments::from_args(), trials);
    for mount in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
        // Not every directory there is a hierarchy, and not every hierarchy was used.
        empty(&mount.path().join(bed::group().trim_start_matches('/')));
    }
    empty(std::path::Path::new(&format!("/sys/fs/cgroup{}", bed::group())));
    done.exit();
}
