//! Containers whose start comes from another process than their create: the command line's.
//!
//! The child reads a FIFO, which it holds open for reading and writing; its copy is close-on-exec. Whoever starts it opens
//! the FIFO for writing, which fails when nobody waits, writes a byte, and is told by POLLERR that the child has executed
//! its payload or died. Which of the two, stands in the report, a small file that the child shares.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::{Create, Record, fault, groups, hooks};
use crate::cgroup::Cgroup;
use crate::child::Report;
use crate::child::report::Page;
use crate::error::{Error, Kind, Result};
use crate::host::Host;
use crate::plan::{Plan, Section, compile};
use crate::reap::End;
use crate::spec::Spec;

const FIFO: &str = "exec.fifo";
/// The file whose beginning the child shares with whoever starts it. Behind that it says where its groups are, from before
/// there is a process in them: for who finds no record.
pub const REPORT: &str = "report";
/// Where an older mini said that.
const GROUPS: &str = "groups.json";
/// Where in [`REPORT`] it begins.
const GROUPS_AT: usize = size_of::<Page>().next_multiple_of(64);
/// Where an older mini wrote [`Request`], which its records do not have.
const REQUEST: &str = "request.json";

/// What the plan of a parked init was compiled from, beside the spec; and what of both its start has to know, which need
/// not be worked out again then.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Request {
    stdio: [bool; 3],
    no_pivot: bool,
    no_new_keyring: bool,
    preserve_fds: u32,
    tasks: Vec<String>,
    /// How many steps the child's section has; 0 is unknown.
    steps: usize,
    /// The spec has a process and no poststart hooks; false is unknown.
    plain: bool,
}

/// Makes the gate of a container that anyone may start.
pub(super) fn gate(dir: &Path) -> Result<OwnedFd> {
    let path = dir.join(FIFO);
    let failed = |op, e| Error::sys(op, path.display().to_string(), e);
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, Mode::from_raw_mode(0o600), 0)
        .map_err(|e| failed("mknod", e))?;
    rustix::fs::open(&path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(|e| failed("open", e))
}

/// Makes the report of a container that anyone may start.
pub(super) fn park_report(
    dir: &Path,
    request: &Create<'_>,
    plan: &Plan,
    tasks: Vec<String>,
    groups: &crate::cgroup::Record,
) -> Result<(File, Request)> {
    let report = dir.join(REPORT);
    let io = |e: &std::io::Error| Error::io("create", report.display().to_string(), e);
    let mut file =
        File::options().read(true).write(true).create_new(true).mode(0o600).open(&report).map_err(|e| io(&e))?;
    // Its page is written, not left out: to write to a mapped hole of a full file system ends in SIGBUS.
    let mut text = vec![0; GROUPS_AT];
    text.extend(serde_json::to_vec(groups).unwrap_or_default());
    text.resize(text.len().max(Report::LENGTH), 0);
    file.write_all(&text).map_err(|e| Error::io("write", report.display().to_string(), &e))?;
    let saved = Request {
        stdio: request.stdio.given(),
        no_pivot: request.no_pivot,
        no_new_keyring: request.no_new_keyring,
        preserve_fds: request.preserve_fds,
        tasks,
        steps: plan.child.len(),
        plain: request.spec.process.is_some() && request.spec.hooks.poststart.is_empty(),
    };
    Ok((file, saved))
}

/// A process may be missing at create; at start it may not (runtime-spec config.md#process).
pub(super) fn executes(spec: &Spec) -> Result<()> {
    if spec.process.is_some() { Ok(()) } else { Err(Error::invalid("/process", "is missing")) }
}

/// True while init waits to be started.
///
/// # Errors
/// Those of open(2), but for a gate that is gone or has nobody behind it.
pub fn is_parked(dir: &Path) -> Result<bool> {
    match open_fifo(dir) {
        Ok(_) => Ok(true),
        Err(Errno::NOENT | Errno::NXIO) => Ok(false),
        Err(e) => Err(Error::sys("open", dir.join(FIFO).display().to_string(), e)),
    }
}

/// Ends what a create has left that was killed before it could write a record: its first process may wait at the gate, and
/// nothing but its groups tells who it is.
///
/// # Errors
/// As [`Record::destroy`].
pub fn abandon(dir: &Path) -> Result<()> {
    let read = |name: &str| {
        let place = dir.join(name);
        match std::fs::read(&place) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            text => text.map_err(|e| Error::io("read", place.display().to_string(), &e)),
        }
    };
    let report = read(REPORT)?;
    let text = report.get(GROUPS_AT..).unwrap_or_default();
    let end = text.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let text = if end == 0 { &read(GROUPS)? } else { &text[..end] };
    // What is not whole was written before there was a process.
    let Ok(groups) = serde_json::from_slice::<crate::cgroup::Record>(text) else { return Ok(()) };
    if groups == crate::cgroup::Record::default() {
        return Ok(());
    }
    let cgroup = Cgroup::recorded(&groups)?;
    if is_parked(dir)? {
        cgroup.kill(libc::SIGKILL)?;
    }
    cgroup.remove()
}

fn open_fifo(dir: &Path) -> rustix::io::Result<OwnedFd> {
    rustix::fs::open(dir.join(FIFO), OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())
}

/// Starts a container that was created with [`super::StartBy::Anyone`] and waits until its payload is executed. A command
/// does that, which ends then: if all goes well, two descriptors are left for that to close.
pub fn start_parked(dir: &Path, record: &Record) -> Result<()> {
    let state = |reason: &str| Error::new(Kind::State, "start", &record.id, reason);
    let fifo = match open_fifo(dir) {
        Ok(fifo) => fifo,
        Err(Errno::NOENT | Errno::NXIO) if record.is_alive()? => {
            return Err(state("cannot start an already running container"));
        }
        Err(Errno::NOENT | Errno::NXIO) => return Err(state("cannot start a container that has stopped")),
        Err(e) => return Err(Error::sys("open", dir.join(FIFO).display().to_string(), e)),
    };
    let unread = |op, e: &std::io::Error| Error::io(op, dir.join(REPORT).display().to_string(), e);
    // Before it goes on: somebody may delete it as soon as it has ended.
    let report = File::open(dir.join(REPORT)).map_err(|e| unread("open", &e))?;
    let request = record.parked.clone().unwrap_or_else(|| {
        let text = std::fs::read(dir.join(REQUEST)).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    });
    let spec = if request.plain { None } else { Some(record.spec()?) };
    spec.as_ref().map_or(Ok(()), executes)?;
    // Of two starts at once one takes the name away and goes on.
    rustix::fs::unlink(dir.join(FIFO)).map_err(|_| state("cannot start an already running container"))?;
    rustix::io::write(&fifo, b"g").map_err(|e| Error::sys("write", FIFO, e))?;
    let mut poll = [rustix::event::PollFd::new(&fifo, rustix::event::PollFlags::empty())];
    while rustix::event::poll(&mut poll, None) == Err(Errno::INTR) {}
    let said = Page::read(&report).map_err(|e| unread("read", &e))?;
    std::mem::forget((fifo, report));
    if said.errno() != 0 || request.steps != 0 && said.step() + 1 != request.steps {
        explain(&request, record, &said)?;
    }
    let Some(spec) = spec else { return Ok(()) };
    let bundle = record.bundle.to_str().unwrap_or_default();
    let subject =
        hooks::Subject { id: &record.id, status: "running", pid: record.pid, bundle, spec: &spec, cancel: None };
    hooks::run("poststart", &spec.hooks.poststart, subject).inspect_err(|_| {
        // As `Container::start`; it may have ended by itself.
        let _killed = record.init().map(|init| init.map(|init| crate::reap::signal(&init, libc::SIGKILL)));
    })
}

/// Compiles the plan again, which the child was cloned with, to say what its report means.
fn explain(request: &Request, record: &Record, report: &Page) -> Result<()> {
    let (spec, host) = (record.spec()?, Host::read()?);
    let visible = if request.no_pivot { visible_kernel_mounts()? } else { Vec::new() };
    let plan = compile::init(&compile::Init {
        spec: &spec,
        host: &host,
        id: &record.id,
        bundle: &record.bundle,
        groups: &groups(&record.cgroup),
        tasks: &request.tasks,
        stdio: request.stdio,
        no_pivot: request.no_pivot.then_some(&visible),
        no_new_keyring: request.no_new_keyring,
        preserve_fds: request.preserve_fds,
        started_by_others: true,
    })?;
    if plan.child.len() != request.steps {
        // It was cloned with the plan of another mini, whose steps have other numbers.
        let mut error = Error::new(Kind::Kernel, "start", &record.id, format!("failed at step {}", report.step()));
        error.errno = (report.errno() != 0).then(|| Errno::from_raw_os_error(report.errno()));
        return Err(error);
    }
    match report.errno() {
        0 => Err(fault::killed(&plan, report.step(), Some(End::Killed { signal: libc::SIGKILL, core: false }), false)),
        errno => Err(fault::sentence(&plan, Section::Child, report.step(), errno, report)),
    }
}

/// Mount points of procfs and sysfs on this host, deepest first; only read for a root that is moved, not pivoted.
pub fn visible_kernel_mounts() -> Result<Vec<PathBuf>> {
    const PATH: &str = "/proc/self/mountinfo";
    let text = crate::kernfs::whole(PATH).map_err(|e| Error::sys("read", PATH, e))?;
    let mut found: Vec<PathBuf> = text
        .lines()
        .filter_map(|line| {
            let (mount, fs) = line.split_once(" - ")?;
            let mut mount = mount.split(' ').skip(3);
            let (root, point) = (mount.next()?, mount.next()?);
            let full = root == "/" && (fs.starts_with("proc ") || fs.starts_with("sysfs "));
            full.then(|| PathBuf::from(point))
        })
        .collect();
    found.reverse();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    /// A child that is let go, says this, and ends or executes.
    fn start(steps: usize, step: u32, errno: i32) -> Result<()> {
        let dir = tempfile::tempdir().unwrap();
        let spec = r#"{"ociVersion":"1.0.0","root":{"path":"rootfs"},"process":{"cwd":"/","args":["true"],"user":{}}}"#;
        std::fs::write(dir.path().join("config.json"), spec).unwrap();
        let fifo = gate(dir.path()).unwrap();
        let report = File::create(dir.path().join(REPORT)).unwrap();
        let child = std::thread::spawn(move || {
            let mut byte = [0];
            rustix::io::read(&fifo, &mut byte).unwrap();
            report.write_all_at(&[step.to_ne_bytes(), errno.to_ne_bytes(), [0; 4], [0; 4]].concat(), 0).unwrap();
        });
        let parked = Some(Request { steps, plain: steps != 0, ..Request::default() });
        let record = Record { id: "a".into(), bundle: dir.path().into(), parked, ..Record::default() };
        let done = start_parked(dir.path(), &record);
        child.join().unwrap();
        done
    }

    #[test]
    fn what_another_mini_has_parked_is_started_and_its_failure_is_told() {
        start(300, 299, 0).unwrap();
        // An older mini did not say how many steps its plan had.
        start(0, 70, 0).unwrap();
        for steps in [0, 300] {
            let error = start(steps, 70, libc::EIO).unwrap_err().to_string();
            assert_eq!(error, "start \"a\": failed at step 70: input/output error");
        }
        let error = start(300, 70, 0).unwrap_err().to_string();
        assert_eq!(error, "start \"a\": failed at step 70");
    }
}
