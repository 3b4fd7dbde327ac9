//! From cases to trials: every case on every containerd and runtime asked for, except where a list says why not.

use crate::{Bed, Containerd, Outcome, Runtime, Version};
use libtest_mimic::{Arguments, Trial};
use std::sync::{Arc, Mutex, OnceLock};

/// A test, to be run on several beds.
#[derive(Clone, Copy)]
pub struct Case {
    /// Its name in lists.
    pub name: &'static str,
    /// What it does.
    pub run: fn(&Bed) -> Outcome,
}

/// Which cases are left out where, and why: checked in, so that nothing is skipped in silence.
const EXCEPTIONS: &str = include_str!("../exceptions.md");
/// Where suites run unless MINI_TEST_ON names other pairs: mini everywhere, the reference where it is checked.
const DEFAULT_ON: &str = "mini:1.6,mini:2.1,mini:2.3,runc:2.1";

/// What a suite puts on top of a containerd: another daemon.
pub type Prepare = fn(&Arc<Containerd>) -> Outcome;
type Place = (Runtime, Version);
type Started = Arc<OnceLock<Result<Arc<Containerd>, String>>>;

/// Runs the cases on one shared containerd per version and runtime, then checks that nothing is left there.
pub fn run(suite: &'static str, cases: &'static [Case]) {
    run_with(suite, cases, &[]);
}

/// The same, with cases that need a containerd for themselves: they kill it, or count everything on its host.
pub fn run_with(suite: &'static str, shared: &'static [Case], alone: &'static [Case]) {
    run_prepared(suite, |_| Ok(()), shared, alone);
}

/// The same, with something put on top of the shared containerd before its first test.
pub fn run_prepared(suite: &'static str, prepare: Prepare, shared: &'static [Case], alone: &'static [Case]) {
    let mut arguments = Arguments::from_args();
    // Clients mostly wait for each other: more of them than cores keeps the cores busy.
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    arguments.test_threads.get_or_insert(2 * cores);
    check_exceptions(suite, shared.iter().chain(alone));
    let mut trials = Vec::new();
    let mut closing = Vec::new();
    let mut all_started = Vec::new();
    for place in places() {
        let started: Started = Arc::default();
        for case in shared {
            let started = started.clone();
            let trial = move || attempts(place, case, |name| on_shared(&started, prepare, place, case, name));
            add(&mut trials, suite, case, place, trial);
        }
        for case in alone {
            let alone = move |name: &str| {
                let containerd = Arc::new(Containerd::start(place.1, place.0)?);
                on(&containerd, case, name)?;
                tripwires(&containerd)?;
                containerd.assert_nothing_left()
            };
            let trial = move || attempts(place, case, alone);
            add(&mut trials, suite, case, place, trial);
        }
        let name = |check: &str| format!("{suite}::{check}::c{}::{}", place.1, place.0);
        for (check, test) in [("tripwires", tripwires as fn(&Containerd) -> Outcome), ("nothing_left", nothing_left)] {
            let started = started.clone();
            let trial =
                move || started.get().and_then(|containerd| containerd.as_ref().ok()).map_or(Ok(()), |c| test(c));
            if !shared.is_empty() {
                closing.push(Trial::test(name(check), trial));
            }
        }
        all_started.push(started);
    }
    let mut conclusion = libtest_mimic::run(&arguments, trials);
    if !arguments.list {
        // They concern whatever ran before, so no filter applies to them.
        let closing_arguments = Arguments { filter: None, exact: false, skip: Vec::new(), ..arguments };
        let closed = libtest_mimic::run(&closing_arguments, closing);
        conclusion.num_failed += closed.num_failed;
    }
    // process::exit runs no destructors: stop the containerds first.
    drop(all_started);
    conclusion.exit();
}

fn add(
    trials: &mut Vec<Trial>,
    suite: &str,
    case: &Case,
    (runtime, version): Place,
    test: impl FnOnce() -> Outcome + Send + 'static,
) {
    if exceptions().iter().any(|exception| exception.concerns(suite, case.name, runtime, version)) {
        return;
    }
    trials.push(Trial::test(format!("{suite}::{}::c{version}::{runtime}", case.name), test));
}

/// The reference's leg may be repeated once, under another name: that a test holds on runc shows that the test is right, and the
/// races of ctr, containerd and runc among themselves (ctr loses last words on a busy machine) say nothing about it. Mini's may not.
fn attempts((runtime, _): Place, case: &Case, attempt: impl Fn(&str) -> Outcome) -> Outcome {
    let first = attempt(case.name);
    match &first {
        Err(error) if runtime == Runtime::Runc => {
            eprintln!("{} on runc, repeated after: {}", case.name, error.message().unwrap_or_default());
            attempt(&format!("{}-again", case.name))
        }
        _ => first,
    }
}

fn on_shared(started: &Started, prepare: Prepare, (runtime, version): Place, case: &Case, name: &str) -> Outcome {
    // Starting is serialised: two at once only slow each other down.
    static STARTING: Mutex<()> = Mutex::new(());
    let containerd = started.get_or_init(|| {
        let _one = STARTING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        Containerd::start(version, runtime)
            .map(Arc::new)
            .and_then(|containerd| prepare(&containerd).map(|()| containerd))
            .map_err(|error| error.message().unwrap_or("containerd did not start").to_owned())
    });
    on(containerd.as_ref().map_err(Clone::clone)?, case, name)
}

fn on(containerd: &Arc<Containerd>, case: &Case, name: &str) -> Outcome {
    let bed = Bed::new(containerd.clone(), name);
    let outcome = (case.run)(&bed);
    let finished = bed.finish();
    let message = match (outcome, finished) {
        (Ok(()), Ok(())) => return Ok(()),
        (Err(error), Ok(())) | (Ok(()), Err(error)) => error.message().unwrap_or_default().to_owned(),
        (Err(error), Err(after)) => {
            format!("{}\nand then: {}", error.message().unwrap_or_default(), after.message().unwrap_or_default())
        }
    };
    Err(format!("{message}\ncontainerd's log ends:\n{}", containerd.log_tail(12)).into())
}

fn tripwires(containerd: &Containerd) -> Outcome {
    match containerd.tripped() {
        Some(calls) => Err(format!("another runtime was executed:\n{calls}").into()),
        None => Ok(()),
    }
}

fn nothing_left(containerd: &Containerd) -> Outcome {
    containerd.assert_nothing_left()
}

fn places() -> Vec<Place> {
    let on = std::env::var("MINI_TEST_ON").unwrap_or_else(|_| DEFAULT_ON.to_owned());
    let place = |words: &str| -> Option<Place> {
        let (runtime, version) = words.trim().split_once(':')?;
        let runtime = [Runtime::Mini, Runtime::Runc].into_iter().find(|known| known.to_string() == runtime)?;
        let version = Version::ALL.into_iter().find(|known| known.to_string() == version)?;
        Some((runtime, version))
    };
    on.split(',').map(|words| place(words).unwrap_or_else(|| panic!("MINI_TEST_ON: unknown place {words:?}"))).collect()
}

struct Exception {
    test: &'static str,
    runtime: &'static str,
    version: &'static str,
}

impl Exception {
    fn concerns(&self, suite: &str, case: &str, runtime: Runtime, version: Version) -> bool {
        let is = |pattern: &str, word: &str| pattern == "*" || pattern == word;
        self.test == format!("{suite}::{case}")
            && is(self.runtime, &runtime.to_string())
            && is(self.version, &version.to_string())
    }
}

fn exceptions() -> Vec<Exception> {
    let row = |line: &'static str| -> Option<Exception> {
        let mut cells = line.strip_prefix('|')?.split('|').map(str::trim);
        let (test, runtime, version) = (cells.next()?, cells.next()?, cells.next()?);
        let reason = cells.next()?;
        (test.contains("::") && !reason.is_empty()).then_some(Exception { test, runtime, version })
    };
    EXCEPTIONS.lines().filter_map(row).collect()
}

/// An exception for a test that no longer exists would hide its successor's absence.
fn check_exceptions<'a>(suite: &str, cases: impl Iterator<Item = &'a Case> + Clone) {
    for exception in exceptions() {
        let Some((of, name)) = exception.test.split_once("::") else { continue };
        assert!(
            of != suite || cases.clone().any(|case| case.name == name),
            "exceptions.md names {}, which does not exist",
            exception.test
        );
    }
}
