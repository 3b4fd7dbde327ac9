//! From `(section, step, errno)` to the sentence that a person reads and docker parses.

use rustix::io::Errno;

use crate::child::report::Page;
use crate::error::{Error, Kind, apparmor, describe};
use crate::plan::print::call;
use crate::plan::{Op, Plan, Section};
use crate::reap::End;

/// The error of a failed step. `page` has what the step told beside it.
pub fn sentence(plan: &Plan, section: Section, step: usize, errno: i32, page: &Page) -> Error {
    let errno = Errno::from_raw_os_error(errno);
    let Some(failed) = plan.section(section).get(step) else {
        return Error::sys(section.name(), format!("step {step}"), errno);
    };
    let from = plan.text(failed.from);
    if from.ends_with("/apparmorProfile") {
        return label(plan, &failed.op, errno).at(from);
    }
    if let (Op::CheckForeign { sysctl, .. }, Errno::XDEV) = (failed.op, errno) {
        let name = plan.text(sysctl);
        return Error::invalid(from, format!("sysctl {name:?} not allowed in host network namespace"));
    }
    if let Some(reason) = known(plan, &failed.op, errno, page) {
        let kind = if matches!(failed.op, Op::Hook { .. }) { Kind::Kernel } else { Kind::Invalid };
        let mut error = Error::new(kind, "", "", reason);
        error.errno = None;
        return error;
    }
    Error::sys(call(&failed.op), plan.subject(&failed.op), errno).at(from)
}

/// The profile is not loaded (ENOENT), or the kernel does not let us change to it.
fn label(plan: &Plan, op: &Op, errno: Errno) -> Error {
    let (call, file) = (call(op), plan.subject(op));
    let (Op::Write { data, .. }, Errno::NOENT) = (*op, errno) else {
        return Error { errno: Some(errno), ..Error::new(Kind::Kernel, "", "", apparmor(&format!("{call} {file}"))) };
    };
    let asked = String::from_utf8_lossy(plan.bytes(data)).into_owned();
    let name = asked.trim_start_matches("exec ");
    let reason = apparmor(&format!("{call} {file}: profile {name:?} is not loaded"));
    Error { errno: Some(errno), ..Error::new(Kind::Kernel, "", "", reason) }
}

/// Sentences that clients know from runc (shim contract, error text); see moby's daemon/errors.go.
fn known(plan: &Plan, op: &Op, errno: Errno, page: &Page) -> Option<String> {
    let words = describe(errno);
    Some(match *op {
        Op::LookupFailed { name } => format!("exec: {:?}: executable file not found in $PATH", plan.text(name)),
        Op::Lookup { path } => {
            let path = plan.text(path);
            match errno {
                Errno::ACCESS | Errno::ISDIR | Errno::PERM => format!("exec: {path:?}: {words}"),
                _ => format!("exec: {path:?}: stat {path}: {words}"),
            }
        }
        Op::Exec { argv, .. } => {
            let name = plan.lists.get(argv.at as usize).map(|s| plan.text(*s)).unwrap_or_default();
            format!("exec {name}: {words}")
        }
        Op::Chdir { path } | Op::ChdirAgain { path } => {
            format!("chdir to cwd ({:?}) set in config.json failed: {words}", plan.text(path))
        }
        Op::CheckCwd if errno == Errno::NOENT => "current working directory is outside of container mount namespace root -- possible container breakout detected".into(),
        Op::Hook { path, .. } if errno == Errno::CHILD => {
            let (value, said) = (page.value(), page.words());
            let said = if said.is_empty() { said } else { format!(", it said: {said}") };
            format!("{}: hook {:?} failed: exit status {value}{said}", plan_pointer(plan, op), plan.text(path))
        }
        Op::Hook { path, timeout, .. } if errno == Errno::TIMEDOUT => {
            format!("{}: hook {:?} ran past specified timeout of {timeout}s", plan_pointer(plan, op), plan.text(path))
        }
        _ => return None,
    })
}

fn plan_pointer(plan: &Plan, op: &Op) -> String {
    plan.child.iter().find(|s| s.op == *op).map(|s| plan.text(s.from)).unwrap_or_default()
}

/// The error of a child that has ended before it could execute its payload; how, if it is known.
pub fn killed(plan: &Plan, step: usize, end: Option<End>, oom: bool) -> Error {
    let at = plan.child.get(step);
    let what = at.map_or("the payload", |s| call(&s.op));
    let subject = at.map(|s| plan.subject(&s.op)).unwrap_or_default();
    let from = at.map(|s| plan.text(s.from)).unwrap_or_default();
    let reason = if oom {
        "container init was OOM-killed (memory limit too low?)".to_owned()
    } else {
        match end {
            Some(End::Killed { signal, .. }) => format!("killed by signal {signal}"),
            Some(end) => format!("the process has ended before it could execute its program ({end})"),
            // Somebody else has heard it.
            None => "the process has ended before it could execute its program".to_owned(),
        }
    };
    Error::new(Kind::Killed, what, subject, reason).at(from)
}
