//! The parent's side of a child's life until execve: it is made, served at its gates, and killed if it is not to be.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use super::{Child, fault, hooks, listener};
use crate::cgroup::Cgroup;
use crate::child::report::Page;
use crate::child::run::{Stop, run};
use crate::child::{Heard, Image, Report, Wire, spawn};
use crate::error::{Error, Kind, Result};
use crate::plan::{Gate, Plan, Section};
use crate::reap;

/// A child that is killed and reaped unless it is declared born; and so is whoever has taken its place.
pub(super) struct Unborn {
    pub(super) pid: u32,
    /// Taken when it is born.
    pidfd: Option<OwnedFd>,
    report: Arc<Report>,
    stillborn: bool,
}

impl Unborn {
    /// One that waits at its last gate, and whose end is another's business.
    pub(super) fn parked(pid: u32, pidfd: OwnedFd, report: &Arc<Report>) -> Self {
        Self { pid, pidfd: Some(pidfd), report: Arc::clone(report), stillborn: false }
    }

    pub(super) fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_ref().expect("only who is born gives it away").as_fd()
    }

    /// Runs the parent's section and makes the child. What a plan that respawns reports is to be [`reap::expect`]ed.
    pub(super) fn spawn(image: &mut Image<'_>, report: &Arc<Report>, into: Option<&OwnedFd>) -> Result<Self> {
        let plan = image.plan;
        // Nobody shares it: what the parent runs itself needs no mapping.
        let scratch = Page::default();
        let prepared = run(image, Section::Prepare, &scratch);
        let cloned = prepared
            .map_err(|Stop { step, errno }| {
                fault::sentence(plan, Section::Prepare, step.into(), errno, scratch.value())
            })
            .and_then(|()| {
                reap::born(|| {
                    let (pid, pidfd) = spawn(image, report, into.map(|i| i.as_fd()))?;
                    Ok::<_, Error>((pid, (pid, pidfd)))
                })
            });
        // Whatever fails from here on, it is killed and reaped.
        let child =
            cloned.map(|(pid, pidfd)| Self { pid, pidfd: Some(pidfd), report: Arc::clone(report), stillborn: true });
        if plan.prepare.iter().any(|s| matches!(s.op, crate::plan::Op::ChildrenPid { .. })) {
            own_pid_namespace()?;
        }
        let child = child?;
        image.pid = child.pid;
        if let Some(slot) = plan.given.process {
            image.give(slot, process_dir(child.pid)?);
        }
        Ok(child)
    }

    /// Takes the process that has taken the place of the first one, if any has by now, and buries the first one, which ends by
    /// itself. True if there was one to take.
    ///
    /// On an error it is killed and reaped: it does not wait for us, and may be executing its payload.
    fn succeed(&mut self) -> Result<bool> {
        let pid = self.report.pid();
        let Some(id) = rustix::process::Pid::from_raw(pid.cast_signed()).filter(|_| pid != self.pid) else {
            return Ok(false);
        };
        self.pid = pid;
        // First, for the sake of its descriptor's number.
        if let Some(first) = self.pidfd.take() {
            wait_readable(first.as_fd());
            // Not there any more if it was killed for the sake of an error.
            let _reaped = reap::exit_status(&first);
        }
        // Our child, whom nobody else takes: the number is its own, even if it has ended.
        let pidfd = rustix::process::pidfd_open(id, rustix::process::PidfdFlags::empty()).map_err(|e| {
            let _killed = rustix::process::kill_process(id, rustix::process::Signal::KILL);
            // Its exit signal may not be SIGCHLD: see `child::clone`.
            let any = rustix::process::WaitOptions::from_bits_retain(libc::__WALL.cast_unsigned());
            let _reaped = rustix::process::waitpid(Some(id), any);
            Error::sys("pidfd_open", pid.to_string(), e)
        })?;
        self.pidfd = Some(reap::born(|| Ok::<_, Error>((pid, pidfd)))?);
        Ok(true)
    }

    /// Its pidfd goes to whoever waits for it.
    pub(super) fn born(mut self, console: Option<OwnedFd>) -> Child {
        self.stillborn = false;
        Child { pid: self.pid, pidfd: self.pidfd.take().expect("once"), console }
    }

    fn end(&self) {
        let Some(pidfd) = &self.pidfd else { return };
        // Dead already is as good as killed.
        let _killed = reap::signal(pidfd, libc::SIGKILL);
        wait_readable(pidfd.as_fd());
        let _reaped = reap::exit_status(pidfd);
    }
}

impl Drop for Unborn {
    fn drop(&mut self) {
        if self.stillborn {
            self.end();
            // The first one may have been quicker.
            if self.succeed().is_ok_and(|there| there) {
                self.end();
            }
        }
    }
}

/// Blocks until a pidfd tells that its process has ended.
fn wait_readable(pidfd: BorrowedFd<'_>) {
    let mut poll = [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)];
    while rustix::event::poll(&mut poll, None) == Err(rustix::io::Errno::INTR) {}
}

/// Later children of this thread belong into our own pid namespace again.
fn own_pid_namespace() -> Result<()> {
    use rustix::fs::{Mode, OFlags};
    const PATH: &str = "/proc/thread-self/ns/pid";
    let fd = rustix::fs::open(PATH, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    let fd = fd.map_err(|e| Error::sys("open", PATH, e))?;
    let kind = Some(rustix::thread::LinkNameSpaceType::ProcessID);
    rustix::thread::move_into_link_name_space(fd.as_fd(), kind).map_err(|e| Error::sys("setns", PATH, e))
}

fn process_dir(pid: u32) -> Result<OwnedFd> {
    use rustix::fs::{Mode, OFlags};
    let path = format!("/proc/{pid}");
    rustix::fs::open(&path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| Error::sys("open", path, e))
}

/// The parent's side of a child's life until execve.
pub(super) struct Dialogue<'a> {
    pub(super) plan: &'a Plan,
    pub(super) report: &'a Report,
    pub(super) wire: &'a Wire,
    pub(super) child: &'a mut Unborn,
    pub(super) cgroup: &'a Cgroup,
    pub(super) subject: hooks::Subject<'a>,
    /// The device rules are in force.
    pub(super) restricted: bool,
}

impl Dialogue<'_> {
    /// Serves the child until it waits at the start gate; gives the master of its terminal.
    pub(super) fn serve_to_the_gate(&mut self, image: &mut Image<'_>) -> Result<Option<OwnedFd>> {
        let mut console = None;
        loop {
            match self.hear(Some(image))? {
                Heard::Fd(fd) => console = Some(fd),
                Heard::At(Gate::Start) => {
                    self.restrict()?;
                    self.section(image, Section::Limits)?;
                    return Ok(console);
                }
                Heard::At(gate) => {
                    if gate == Gate::Hooks {
                        self.restrict()?;
                    }
                    self.serve(gate, Some(&mut *image))?;
                }
                Heard::Closed => return Err(self.cause()),
            }
        }
    }

    /// Device rules, once. Only while the child waits: on version 1 a list of rules begins with "nothing", and a child that
    /// opens its terminal at that moment gets EPERM. Before any hook, which may rely on them.
    fn restrict(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.restricted, true) {
            return Ok(());
        }
        self.cgroup.devices(&self.subject.spec.linux.resources.devices)
    }

    /// Serves the child until it has executed its payload.
    pub(super) fn serve_to_the_end(&mut self, mut image: Option<&mut Image<'_>>) -> Result<Option<OwnedFd>> {
        let mut console = None;
        loop {
            match self.hear(image.as_deref_mut())? {
                Heard::Fd(fd) => console = Some(fd),
                Heard::At(gate) => self.serve(gate, image.as_deref_mut())?,
                Heard::Closed if self.report.errno() == 0 && self.report.step() + 1 == self.plan.child.len() => {
                    return Ok(console);
                }
                Heard::Closed => return Err(self.cause()),
            }
        }
    }

    /// The next word, and whose it is: who says something has taken the first process's place by then, if anybody does, and at
    /// the end of file the first one has ended.
    fn hear(&mut self, image: Option<&mut Image<'_>>) -> Result<Heard> {
        let heard = self.wire.hear()?;
        if self.child.succeed()? {
            self.subject.pid = self.child.pid;
            if let Some(image) = image {
                image.pid = self.child.pid;
            }
        }
        Ok(heard)
    }

    fn serve(&mut self, gate: Gate, image: Option<&mut Image<'_>>) -> Result<()> {
        match (gate, image) {
            (Gate::Maps, Some(image)) => self.section(image, Section::Maps)?,
            (Gate::Limits, Some(image)) => self.section(image, Section::Limits)?,
            (Gate::Hooks, _) => {
                let spec = self.subject.spec;
                hooks::run("prestart", &spec.hooks.prestart, self.subject)?;
                hooks::run("createRuntime", &spec.hooks.create_runtime, self.subject)?;
            }
            (Gate::Listener, _) => {
                listener::hand_over(self.child.pidfd(), self.report.value(), self.child.pid, self.subject)?;
            }
            (Gate::Start, _) | (_, None) => {
                return Err(Error::new(
                    Kind::State,
                    "gate",
                    format!("{gate:?}"),
                    "the child waits where it should not",
                ));
            }
        }
        self.wire.release()
    }

    fn section(&self, image: &mut Image<'_>, section: Section) -> Result<()> {
        let scratch = Page::default();
        run(image, section, &scratch)
            .map_err(|Stop { step, errno }| fault::sentence(self.plan, section, step.into(), errno, scratch.value()))
    }

    /// Why the child is gone without having executed anything.
    fn cause(&self) -> Error {
        let (step, errno) = (self.report.step(), self.report.errno());
        if errno != 0 {
            return fault::sentence(self.plan, Section::Child, step, errno, self.report.value());
        }
        wait_readable(self.child.pidfd());
        let status =
            crate::sys::ended_child(Some(self.child.pidfd()), false).ok().flatten().map_or(0, |(_, end)| end.status());
        let oom = self.cgroup.oom().and_then(|mut o| o.read()).is_ok_and(|kills| kills > 0);
        fault::killed(self.plan, step, status, oom)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    fn sleeper() -> u32 {
        std::process::Command::new("sleep").arg("1000").spawn().unwrap().id()
    }

    fn stillborn(report: &Arc<Report>) -> Unborn {
        let pid = sleeper();
        let id = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
        let pidfd = rustix::process::pidfd_open(id, rustix::process::PidfdFlags::empty()).unwrap();
        Unborn { pid, pidfd: Some(pidfd), report: Arc::clone(report), stillborn: true }
    }

    #[test]
    fn whoever_took_the_place_of_one_that_is_not_to_be_goes_with_it() {
        let is_there = |pid: u32| std::path::Path::new(&format!("/proc/{pid}")).exists();
        for known in [false, true] {
            let report = Arc::new(Report::new(None).unwrap());
            let mut first = stillborn(&report);
            let (pid, second) = (first.pid, sleeper());
            if known {
                first.end();
            }
            report.page().pid.store(second, Ordering::Release);
            if known {
                assert!(first.succeed().unwrap());
                assert!(!first.succeed().unwrap());
                assert_eq!(first.pid, second);
            }
            assert!(is_there(second));
            drop(first);
            assert!(!is_there(pid) && !is_there(second));
        }
    }
}
