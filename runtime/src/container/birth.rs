//! The parent's side of a child's life until execve: it is made, served at its gates, and killed if it is not to be.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::{Child, fault, hooks, listener};
use crate::cancel::Waiting;
use crate::cgroup::Cgroup;
use crate::child::report::Page;
use crate::child::run::{Stop, run};
use crate::child::{Heard, Image, Maker, Report, Wire, spawn, spawn_by_thread};
use crate::error::{Error, Kind, Result};
use crate::plan::print::call;
use crate::plan::{Gate, Op, Plan, Section};
use crate::reap;

/// A child that is killed and reaped unless it is declared born.
pub(super) struct Unborn {
    pub(super) pid: u32,
    /// Taken when it is born.
    pidfd: Option<OwnedFd>,
    /// The thread that has made it, if one has.
    maker: Option<Maker>,
    stillborn: bool,
}

impl Unborn {
    /// One that waits at its last gate, and whose end is another's business.
    pub(super) fn parked(pid: u32, pidfd: OwnedFd) -> Self {
        Self { pid, pidfd: Some(pidfd), maker: None, stillborn: false }
    }

    pub(super) fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_ref().expect("only who is born gives it away").as_fd()
    }

    /// Runs the parent's section and makes the child. A plan that respawns gives the process that went on.
    pub(super) fn spawn(image: &mut Image<'_>, report: &Report, into: Option<&OwnedFd>) -> Result<Self> {
        let plan = image.plan;
        // Nobody shares it: what the parent runs itself needs no mapping.
        let scratch = Page::default();
        let prepared = run(image, Section::Prepare, &scratch);
        let cloned = prepared
            .map_err(|Stop { step, errno }| fault::sentence(plan, Section::Prepare, step.into(), errno, &scratch))
            .and_then(|()| {
                reap::born(|| {
                    let (pid, pidfd, maker) = if plan.by_thread().is_none() {
                        let (pid, pidfd) = spawn(image, report, into.map(|i| i.as_fd()))?;
                        (pid, pidfd, None)
                    } else {
                        let made = spawn_by_thread(image, report)?.ok_or_else(|| failed(plan, report))?;
                        (made.0, made.1, Some(made.2))
                    };
                    Ok::<_, Error>((pid, (pid, pidfd, maker)))
                })
            });
        // Whatever fails from here on, it is killed and reaped.
        let child = cloned.map(|(pid, pidfd, maker)| Self { pid, pidfd: Some(pidfd), maker, stillborn: true });
        if plan.prepare.iter().any(|s| matches!(s.op, Op::ChildrenPid { .. })) {
            own_pid_namespace()?;
        }
        let child = child?;
        image.pid = child.pid;
        if let Some(slot) = plan.given.process {
            image.give(slot, process_dir(child.pid)?);
        }
        Ok(child)
    }

    /// The process that goes on waits at its gate; its predecessor ends by itself.
    fn succeed(&mut self, report: &Report) -> Result<()> {
        let pid = report.pid();
        let failed = |e| Error::sys("pidfd_open", pid.to_string(), e);
        let id = rustix::process::Pid::from_raw(pid.cast_signed()).ok_or(failed(rustix::io::Errno::SRCH))?;
        // Our child, which waits for us: the number is its own.
        let pidfd = rustix::process::pidfd_open(id, rustix::process::PidfdFlags::empty()).map_err(failed)?;
        let pidfd = reap::born(|| Ok::<_, Error>((pid, pidfd)))?;
        let first = self.pidfd.replace(pidfd);
        self.pid = pid;
        let Some(first) = first else { return Ok(()) };
        wait_readable(first.as_fd());
        reap::exit_status(&first).map(drop)
    }

    /// Its pidfd goes to whoever waits for it.
    pub(super) fn born(mut self, console: Option<OwnedFd>) -> Child {
        self.stillborn = false;
        Child { pid: self.pid, pidfd: self.pidfd.take().expect("once"), console }
    }
}

impl Drop for Unborn {
    fn drop(&mut self) {
        if self.stillborn {
            // Dead already is as good as killed.
            let _killed = reap::signal(self.pidfd(), libc::SIGKILL);
            wait_readable(self.pidfd());
            let _reaped = reap::exit_status(self.pidfd());
            if let Some(maker) = &self.maker {
                maker.wait();
            }
        }
    }
}

/// Why the child's section was not carried out.
fn failed(plan: &Plan, report: &Report) -> Error {
    fault::sentence(plan, Section::Child, report.step(), report.errno(), report.page())
}

/// Blocks until a pidfd tells that its process has ended.
fn wait_readable(pidfd: BorrowedFd<'_>) {
    let mut poll = [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)];
    while rustix::event::poll(&mut poll, None) == Err(rustix::io::Errno::INTR) {}
}

/// How many times in a row a child is found stopped before it is given up; it is looked at each [`LOOK`].
const STOPPED_LIMIT: u32 = 10;
/// How often a child that says nothing is looked at, if somebody can stop it.
pub(super) const LOOK: std::time::Duration = std::time::Duration::from_secs(1);

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
    /// The child, as long as its create can be cancelled.
    pub(super) waiting: Option<Waiting>,
    /// The device rules are in force.
    pub(super) restricted: bool,
    /// The limits are still to be set, once the process is there that goes on: a limit of one process would not let the first
    /// make another. With it whether that was born in the group.
    pub(super) unsettled: Option<bool>,
}

impl Dialogue<'_> {
    /// Serves the child until it waits at the start gate; gives the master of its terminal.
    pub(super) fn serve_to_the_gate(&mut self, image: &mut Image<'_>) -> Result<Option<OwnedFd>> {
        let mut console = None;
        loop {
            match self.wire.hear()? {
                Heard::Nothing => {}
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

    /// Does at once what a child that a thread has made will wait for.
    pub(super) fn let_go(&mut self, image: &mut Image<'_>) -> Result<()> {
        self.section(image, Section::Limits)?;
        if let Some(maker) = &self.child.maker {
            maker.wait();
        }
        if self.report.page().let_go() { self.wire.release() } else { Ok(()) }
    }

    /// Serves the child until it has executed its payload.
    pub(super) fn serve_to_the_end(&mut self, mut image: Option<&mut Image<'_>>) -> Result<Option<OwnedFd>> {
        let mut console = None;
        let mut stopped = 0;
        loop {
            match self.wire.hear()? {
                Heard::Nothing if stopped == STOPPED_LIMIT => return Err(self.stopped()),
                Heard::Nothing => stopped = if crate::sys::is_stopped(self.child.pidfd()) { stopped + 1 } else { 0 },
                Heard::Fd(fd) => console = Some(fd),
                Heard::At(gate) => self.serve(gate, image.as_deref_mut())?,
                Heard::Closed if self.report.errno() == 0 && self.report.step() + 1 == self.plan.child.len() => {
                    return Ok(console);
                }
                Heard::Closed => return Err(self.cause()),
            }
        }
    }

    fn serve(&mut self, gate: Gate, image: Option<&mut Image<'_>>) -> Result<()> {
        match (gate, image) {
            (Gate::Maps, Some(image)) => self.section(image, Section::Maps)?,
            (Gate::Limits, Some(image)) => self.section(image, Section::Limits)?,
            (Gate::Respawned, Some(image)) => {
                let first = self.child.pid;
                self.child.succeed(self.report)?;
                image.pid = self.child.pid;
                // An exec's subject is its container.
                if self.subject.pid == first {
                    self.subject.pid = image.pid;
                }
                self.waiting = self.subject.cancel.map(|cancel| cancel.wait(self.child.pidfd())).transpose()?;
                if let Some(inside) = self.unsettled.take() {
                    super::settle(self.cgroup, self.subject.spec, inside)?;
                }
            }
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
            .map_err(|Stop { step, errno }| fault::sentence(self.plan, section, step.into(), errno, &scratch))
    }

    /// Somebody inside, who sees it, has stopped the child: it would stay so, in the midst of its way into the container.
    fn stopped(&self) -> Error {
        let step = self.plan.child.get(self.report.step());
        let (what, subject) = step.map_or(("", String::new()), |s| (call(&s.op), self.plan.subject(&s.op)));
        let reason = format!("the process has been stopped by a signal for {STOPPED_LIMIT} s");
        Error::new(Kind::State, what, subject, reason)
    }

    /// Why the child is gone without having executed anything.
    fn cause(&mut self) -> Error {
        let last = self.report.pid();
        if last != 0 && last != self.child.pid {
            // It died between its birth and its gate. Whoever drops `child` has to reap it too.
            let _adopted = self.child.succeed(self.report);
        }
        if self.report.errno() != 0 {
            return failed(self.plan, self.report);
        }
        let step = self.report.step();
        wait_readable(self.child.pidfd());
        let end = crate::sys::ended_child(Some(self.child.pidfd()), false).ok().flatten().map(|(_, end)| end);
        let oom = self.cgroup.oom().and_then(|mut o| o.read()).is_ok_and(|kills| kills > 0);
        fault::killed(self.plan, step, end, oom)
    }
}
