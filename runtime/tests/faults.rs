//! Every step of several plans fails once on the real kernel: the container either works all the same, because an edge of
//! the step leads on, or the error is the checked-in sentence; and nothing is left behind, counted on the kernel.
//!
//! `tests/faults/<plan>.txt` has a line per failure: section, index, operation, outcome. `MINI_BLESS=1` rewrites them; they
//! are then read by a person. Steps whose number depends on the machine (one per cgroup hierarchy) have no index and no
//! line: what they say is checked here.
#![forbid(unsafe_code)]

#[allow(dead_code, reason = "shared by two programs")]
#[path = "kernel/bundle.rs"]
mod bundle;
#[path = "faults/cases.rs"]
mod cases;
#[allow(dead_code, reason = "shared by two programs")]
#[path = "kernel/census.rs"]
mod census;
#[path = "faults/killed.rs"]
mod killed;
#[allow(dead_code, reason = "shared by two programs")]
#[path = "kernel/roles.rs"]
mod roles;
#[allow(dead_code, reason = "shared by two programs")]
#[path = "kernel/watchdog.rs"]
mod watchdog;
#[path = "faults/ways.rs"]
mod ways;

use std::path::Path;

use libtest_mimic::{Arguments, Failed, Trial};
use runtime::child::image::Fault;
use runtime::plan::{Edge, Op, Plan, Section, Step, print};
use runtime::{Error, Result};

use bundle::Bundle;
use census::Census;

/// One plan and how to carry it out with a fault.
struct Case<'a> {
    name: &'a str,
    bundle: &'a Bundle,
    plan: Plan,
    /// Texts of sentences that differ from run to run, and what stands for them.
    hide: Vec<(String, &'static str)>,
    /// Runs the payload, which exits with 7.
    go: Box<dyn Fn(Option<Fault>) -> Result<i32> + 'a>,
}

/// Depends on which hierarchies and which procfs mounts this machine has.
fn of_this_machine(step: &Step, plan: &Plan) -> bool {
    let covers =
        matches!(step.op, Op::Open { path, .. } if ["/proc", "/sys"].iter().any(|p| plan.text(path).starts_with(p)));
    let moves = matches!(step.op, Op::Umount { path, .. } if plan.text(path) != ".");
    // How many hierarchies there are, and where.
    let leaves =
        matches!(step.op, Op::Close { slot } if plan.given.tasks.contains(&slot) || plan.given.group == Some(slot));
    leaves
        || plan.text(step.from) == "/linux/cgroupsPath"
        || (plan.text(step.from) == "/root/path" && (covers || moves))
}

fn words(errno: i32) -> String {
    let text = std::io::Error::from_raw_os_error(errno).to_string().to_lowercase();
    text.split(" (os error").next().unwrap().to_owned()
}

impl Case<'_> {
    /// Lets one step fail and says in a line what came of it.
    fn fail(&self, section: Section, step: usize, errno: i32) -> String {
        let outcome = (self.go)(Some(Fault { section, step: step as u16, errno }));
        let edge = self.plan.section(section)[step].on.after(errno).is_some();
        match outcome {
            Ok(7) if edge => "goes on".into(),
            Ok(7) => "not reached".into(),
            Ok(status) => format!("exits with {status}"),
            Err(error) => self.hidden(&error),
        }
    }

    fn hidden(&self, error: &Error) -> String {
        self.hide.iter().fold(error.to_string(), |text, (what, name)| text.replace(what, name))
    }

    /// The lines of all steps.
    fn walk(&self) -> std::result::Result<String, Failed> {
        assert_eq!((self.go)(None).map_err(|e| e.to_string()), Ok(7), "without a fault");
        self.bundle.restore();
        let before = Census::take(self.bundle);
        let mut lines = String::new();
        let mut left = String::new();
        for section in [Section::Prepare, Section::Child, Section::Maps, Section::Limits] {
            let mut index = 0;
            for (i, step) in self.plan.section(section).iter().enumerate() {
                let edges = step.on.0.iter().flatten().map(|e| e.errno).filter(|e| *e != 0 && *e != Edge::ANY);
                for (n, errno) in std::iter::once(libc::EIO).chain(edges).enumerate() {
                    let at = format!("{} {i} {:?}", section.name(), step.op);
                    watchdog::alive(&format!("{} {at}", self.name));
                    let outcome = self.fail(section, i, errno);
                    for found in Census::take(self.bundle).since(&before) {
                        left.push_str(&format!("{at}: {found}\n"));
                    }
                    self.bundle.restore();
                    if of_this_machine(step, &self.plan) {
                        self.check_of_this_machine(step, &outcome)?;
                        continue;
                    }
                    let word = print::call(&step.op);
                    let when = if n == 0 { String::new() } else { format!(", {}", words(errno)) };
                    lines.push_str(&format!("{} {index} {word}{when}: {outcome}\n", section.name()));
                }
                index += usize::from(!of_this_machine(step, &self.plan));
            }
        }
        if left.is_empty() { Ok(lines) } else { Err(format!("left behind:\n{left}").into()) }
    }

    fn check_of_this_machine(&self, step: &Step, outcome: &str) -> std::result::Result<(), Failed> {
        let fits = match step.op {
            Op::Write { slot, .. } => {
                let file = self.plan.slot_name(slot);
                outcome == format!("/linux/cgroupsPath: write {file:?}: input/output error")
            }
            Op::Close { slot } => outcome == format!("close {:?}: input/output error", self.plan.slot_name(slot)),
            _ => ["goes on", "not reached"].contains(&outcome) || outcome.starts_with("/root/path: "),
        };
        if fits { Ok(()) } else { Err(format!("{:?}: {outcome}", step.op).into()) }
    }

    fn check(&self) -> std::result::Result<(), Failed> {
        let lines = self.walk()?;
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faults").join(format!("{}.txt", self.name));
        if std::env::var_os("MINI_BLESS").is_some() {
            std::fs::write(&path, &lines)?;
        }
        let expected = std::fs::read_to_string(&path).unwrap_or_default();
        let wrong: Vec<String> = expected
            .lines()
            .chain(std::iter::repeat("nothing"))
            .zip(lines.lines())
            .filter(|(a, b)| a != b)
            .map(|(a, b)| format!("-{a}\n+{b}"))
            .collect();
        if wrong.is_empty() && expected.lines().count() == lines.lines().count() {
            return Ok(());
        }
        Err(format!("{}: other sentences than checked in\n{}", path.display(), wrong.join("\n")).into())
    }
}

fn main() {
    roles::play();
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
    watchdog::start();
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1); // descriptors and children are counted
    let mut trials = Vec::new();
    for (name, run) in cases::ALL {
        trials.push(Trial::test(format!("faults::{name}"), move || run(name)));
    }
    killed::trials(&mut trials);
    ways::trials(&mut trials);
    libtest_mimic::run(&arguments, trials).exit();
}
