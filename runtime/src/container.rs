//! A living container: what owns its processes' descriptors, its group, and all that has to be undone.
//!
//! Everything here blocks; callers with an event loop use a worker thread. Cloning there is sound, because the child
//! touches no state that threads share (`crate::child`).

#![forbid(unsafe_code)]

mod birth;
mod fault;
pub mod hooks;
mod listener;
mod record;
pub mod start;

use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use birth::{Dialogue, Unborn};
pub use record::{Record, start_time};

use crate::cancel::Cancel;
use crate::cgroup::{Attach, Cgroup};
use crate::child::image::Fault;
use crate::child::{Image, Report, THREADS, Wire};
use crate::error::{Error, Kind, Result};
use crate::host::Host;
use crate::plan::Plan;
use crate::plan::compile::{self, Group, Way};
use crate::reap;
use crate::spec::{Process, Spec};

/// Standard streams of a process without a terminal; `None` is /dev/null.
#[derive(Debug, Default)]
pub struct Stdio {
    /// Which of our own three, whatever else is given. They have come through our execve(2) and go through the next one.
    pub own: [bool; 3],
    /// Read by the process.
    pub stdin: Option<OwnedFd>,
    /// Written by the process.
    pub stdout: Option<OwnedFd>,
    /// Written by the process.
    pub stderr: Option<OwnedFd>,
}

impl Stdio {
    fn given(&self) -> [bool; 3] {
        let [stdin, stdout, stderr] = self.own;
        [stdin || self.stdin.is_some(), stdout || self.stdout.is_some(), stderr || self.stderr.is_some()]
    }
}

/// Who starts a created container.
#[derive(Clone, Copy, Debug)]
pub enum StartBy<'a> {
    /// We do: [`Container::start`].
    Us,
    /// Another process, through the files in this directory: [`start_parked`].
    Anyone(&'a Path),
}

/// A container to be made.
#[derive(Debug)]
pub struct Create<'a> {
    /// Its id, checked by `spec::check::id`.
    pub id: &'a str,
    /// Absolute path of the bundle.
    pub bundle: &'a Path,
    /// Its checked spec.
    pub spec: &'a Spec,
    /// Streams of the first process.
    pub stdio: Stdio,
    /// Move the root instead of pivot_root(2).
    pub no_pivot: bool,
    /// Make no session keyring.
    pub no_new_keyring: bool,
    /// Descriptors from 3 on that the process inherits.
    pub preserve_fds: u32,
    /// systemd makes the group: the spec's path is `slice:prefix:name`.
    pub systemd_cgroup: bool,
    /// See [`StartBy`].
    pub start_by: StartBy<'a>,
    /// Rung when nobody wants the container any more: the create then fails. Later it does nothing.
    pub cancel: Option<&'a Cancel>,
    /// Only for tests: a step that fails.
    pub fault: Option<Fault>,
}

/// A further process.
#[derive(Debug)]
pub struct Exec<'a> {
    /// The process, checked.
    pub process: &'a Process,
    /// Its streams.
    pub stdio: Stdio,
    /// Make no session keyring.
    pub no_new_keyring: bool,
    /// Descriptors from 3 on that the process inherits.
    pub preserve_fds: u32,
    /// Groups below the container's: words of [`Cgroup::attach_below`].
    pub cgroup: &'a [String],
    /// Only for tests: a step that fails.
    pub fault: Option<Fault>,
}

/// A process of a container.
#[derive(Debug)]
pub struct Child {
    /// In our pid namespace.
    pub pid: u32,
    /// The process itself; whoever has it takes the exit with `reap::exit_status`.
    pub pidfd: OwnedFd,
    /// Master of its terminal, if it has one.
    pub console: Option<OwnedFd>,
}

/// See [`Container::create_beside`].
type Beside<'a> = &'a mut dyn FnMut(&Record, &Cgroup) -> Result<()>;

/// Init parked before execve.
#[derive(Debug)]
struct Parked {
    plan: Plan,
    report: Report,
    wire: Wire,
}

/// A container.
#[derive(Debug)]
pub struct Container {
    id: String,
    bundle: PathBuf,
    spec: Spec,
    pid: u32,
    pidfd: OwnedFd,
    cgroup: Cgroup,
    parked: Mutex<Option<Parked>>,
    /// For the record, if another process is to start it.
    request: Option<start::Request>,
}

impl Container {
    /// Makes the container and its first process, which waits before its execve.
    ///
    /// On an error nothing is left behind: no process, mount, group or descriptor. Unless the spec was refused before anything
    /// was done for it, the poststop hooks have run, whether or not another hook came to run before (runc runs them, too).
    pub fn create(host: &Host, request: Create<'_>) -> Result<(Self, Child)> {
        Self::create_and(host, request, None)
    }

    /// The same, with something to be done once while the first process prepares itself, which takes longer than its making:
    /// to write down the record, to watch the group. (A process that has to be made twice is prepared by then.)
    ///
    /// On an error, which may be that of `beside`, what that has done is the caller's to undo.
    pub fn create_beside(
        host: &Host,
        request: Create<'_>,
        beside: &mut dyn FnMut(&Record, &Cgroup) -> Result<()>,
    ) -> Result<(Self, Child)> {
        Self::create_and(host, request, Some(beside))
    }

    fn create_and(host: &Host, request: Create<'_>, beside: Option<Beside<'_>>) -> Result<(Self, Child)> {
        let layout = host.cgroup.asked(request.spec.linux.resources.network.as_ref());
        let cgroup = if request.systemd_cgroup {
            Cgroup::create_by_systemd(&layout, request.spec, request.id)?
        } else {
            Cgroup::create(&layout, &request.spec.linux.cgroups_path, request.id)?
        };
        let (id, bundle, spec) = (request.id, request.bundle, request.spec);
        let mut begun = false;
        match make(host, request, &cgroup, beside, &mut begun) {
            Ok(Made { id, bundle, spec, pid, pidfd, parked, request, child }) => {
                let parked = Mutex::new(Some(parked));
                Ok((Self { id, bundle, spec, pid, pidfd, cgroup, parked, request }, child))
            }
            Err(error) => {
                // The error that matters is the first one; a group that stays is found by the next create.
                let _removed = cgroup.end(!compile::makes_pid_namespace(spec));
                if begun {
                    // Nobody deletes what was never made: an address that a createRuntime hook has taken would stay taken.
                    poststop(id, bundle, spec);
                }
                Err(error)
            }
        }
    }

    /// A container that another process has made, from what it wrote down; good for [`Container::exec`] and signals, while
    /// [`Container::start`] belongs to who holds the gate.
    ///
    /// # Errors
    /// `State` when its init has ended; those of reading the bundle, which must still be there.
    pub fn open(host: &Host, record: &Record) -> Result<Self> {
        let stopped = || Error::new(Kind::State, "", "", "container not running");
        Ok(Self {
            id: record.id.clone(),
            bundle: record.bundle.clone(),
            spec: record.spec()?,
            pid: record.pid,
            pidfd: record.init()?.ok_or_else(stopped)?,
            cgroup: Cgroup::open(&host.cgroup, &record.cgroup)?,
            parked: Mutex::new(None),
            request: record.parked.clone(),
        })
    }

    /// Lets init execute its payload and waits until it has.
    ///
    /// On an error init is dead or dying, and not reaped: its pidfd tells the exit.
    pub fn start(&self) -> Result<()> {
        start::executes(&self.spec)?;
        let parked = self.parked.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(parked) = parked else {
            return Err(Error::new(Kind::State, "start", &self.id, "cannot start an already running container"));
        };
        let released = self.pidfd.try_clone().map_err(|e| Error::io("dup", "pidfd", &e));
        let released = released.and_then(|pidfd| parked.wire.release().map(|()| pidfd));
        let pidfd = released.inspect_err(|_| {
            let _killed = self.signal(libc::SIGKILL);
        })?;
        let mut init = Unborn::parked(self.pid, pidfd);
        let mut dialogue = Dialogue {
            plan: &parked.plan,
            report: &parked.report,
            wire: &parked.wire,
            child: &mut init,
            cgroup: &self.cgroup,
            subject: self.subject("created"),
            waiting: None,
            restricted: true,
            unsettled: None,
        };
        dialogue.serve_to_the_end(None)?;
        hooks::run("poststart", &self.spec.hooks.poststart, self.subject("running")).inspect_err(|_| {
            // The specification has the container end with its poststart hook; it may have ended by itself.
            let _killed = self.signal(libc::SIGKILL);
        })
    }

    /// Makes a further process and waits until it has executed its payload.
    ///
    /// On an error nothing is left behind.
    pub fn exec(&self, host: &Host, request: Exec<'_>) -> Result<Child> {
        let groups = request.cgroup;
        let mut stillborn = false;
        let attach = self.cgroup.attach_below(groups, self.cgroup.keeps_nodes(host.kernel))?;
        let mut done = self.exec_in(host, &request, attach, &mut stillborn);
        if done.is_err() && stillborn {
            done = self.exec_in(host, &request, self.cgroup.attach_below(groups, true)?, &mut stillborn);
        }
        match done {
            // Init has moved into a group below and hands controllers down: ours takes no processes in any more. A group that
            // was asked for by name is that one or none.
            Err(e) if e.errno == Some(rustix::io::Errno::BUSY) && groups.is_empty() && is_of_groups(&e) => {
                let attach = self.cgroup.attach_beside(self.pid, self.cgroup.keeps_nodes(host.kernel) || stillborn)?;
                self.exec_in(host, &request, attach, &mut stillborn)
            }
            done => done,
        }
    }

    /// One attempt. `stillborn`: the child was killed before its first step in the group that it was cloned into.
    fn exec_in(&self, host: &Host, request: &Exec<'_>, mut attach: Attach, stillborn: &mut bool) -> Result<Child> {
        let secluded = |attach: &mut Attach| attach.into.is_none() || host.mount_setattr && attach.seclude();
        let by_thread = THREADS && compile::thread_may_join(&self.spec) && secluded(&mut attach);
        let way = if by_thread { Way::Thread { group: attach.into.is_some() } } else { Way::Child };
        let cloned_into = attach.into.is_some();
        let record = self.cgroup.record();
        let plan = compile::exec(&compile::Exec {
            spec: &self.spec,
            process: request.process,
            way,
            host,
            id: &self.id,
            groups: &groups(&record),
            tasks: &paths(&attach),
            stdio: request.stdio.given(),
            no_new_keyring: request.no_new_keyring,
            preserve_fds: request.preserve_fds,
        })?;
        let born_at = plan.by_thread().unwrap_or(0);
        let mut image = Image::new(&plan, request.preserve_fds);
        image.fault = request.fault;
        let (wire, theirs) = Wire::pair()?;
        wire.limit(birth::LOOK)?;
        if let Some(slot) = plan.given.init {
            image.lend(slot, std::os::fd::AsRawFd::as_raw_fd(&self.pidfd));
        }
        if let Some(slot) = plan.given.root {
            image.give(slot, open_root(self.pid)?);
            // The number was init's when it was opened if init is there now.
            self.signal(0)?;
        }
        lend_stdio(&mut image, &request.stdio);
        fill(&mut image, &attach, theirs, None);
        let report = Report::new(None)?;
        let mut child = Unborn::spawn(&mut image, &report, attach.into.as_ref())?;
        let mut dialogue = Dialogue {
            plan: &plan,
            report: &report,
            wire: &wire,
            child: &mut child,
            cgroup: &self.cgroup,
            subject: self.subject("running"),
            waiting: None,
            restricted: true,
            unsettled: None,
        };
        drop_shared(&mut image, attach, None);
        if by_thread {
            dialogue.let_go(&mut image)?;
        }
        let console = dialogue.serve_to_the_end(Some(&mut image)).inspect_err(|error| {
            *stillborn = cloned_into && error.kind == Kind::Killed && report.step() == born_at && report.errno() == 0;
        })?;
        Ok(child.born(console))
    }

    /// Sends a signal to init; 0 only asks.
    ///
    /// Gives `Kind::NotFound` when it has ended.
    pub fn signal(&self, signal: i32) -> Result<()> {
        reap::signal(&self.pidfd, signal)
    }

    /// Its group.
    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// pid of init in our pid namespace.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Its spec.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// True when the end of init does not end the other processes by itself: they share a pid namespace with others.
    pub fn shares_pid_namespace(&self) -> bool {
        !compile::makes_pid_namespace(&self.spec)
    }

    /// What `delete` needs to know after we are gone.
    ///
    /// # Errors
    /// Those of [`start_time`].
    pub fn record(&self) -> Result<Record> {
        Record::new(&self.id, &self.bundle, &self.spec, self.pid, &self.cgroup, self.request.clone())
    }

    /// Ends and removes what is left: processes of the group, the group, and last the poststop hooks. May be called again
    /// if it fails.
    pub fn delete(&self) -> Result<()> {
        drop(self.parked.lock().unwrap_or_else(PoisonError::into_inner).take());
        // It is gone already, but where its making fails late.
        let _killed = self.signal(libc::SIGKILL);
        undo(&self.cgroup, self.shares_pid_namespace(), &self.id, &self.bundle, Some(&self.spec))
    }

    fn subject(&self, status: &'static str) -> hooks::Subject<'_> {
        let bundle = self.bundle.to_str().unwrap_or_default();
        hooks::Subject { id: &self.id, status, pid: self.pid, bundle, spec: &self.spec, cancel: None }
    }
}

/// How every container ends, whoever ends it. The hooks are run once: when all else has been done.
fn undo(cgroup: &Cgroup, shares_pids: bool, id: &str, bundle: &Path, spec: Option<&Spec>) -> Result<()> {
    cgroup.end(shares_pids)?;
    if let Some(spec) = spec {
        poststop(id, bundle, spec);
    }
    Ok(())
}

/// A failing poststop hook is no reason to keep the rest of a container (runtime-spec runtime.md#lifecycle); all are run.
fn poststop(id: &str, bundle: &Path, spec: &Spec) {
    let bundle = bundle.to_str().unwrap_or_default();
    for hook in &spec.hooks.poststop {
        let subject = hooks::Subject { id, status: "stopped", pid: 0, bundle, spec, cancel: None };
        if let Err(error) = hooks::run("poststop", std::slice::from_ref(hook), subject) {
            // Nobody may read what we say, and eprintln! ends us then.
            let _unheard = writeln!(std::io::stderr(), "{error}");
        }
    }
}

struct Made {
    id: String,
    bundle: PathBuf,
    spec: Spec,
    pid: u32,
    pidfd: OwnedFd,
    parked: Parked,
    request: Option<start::Request>,
    child: Child,
}

/// `begun`: the plan has been compiled and is being carried out.
fn make(
    host: &Host,
    request: Create<'_>,
    cgroup: &Cgroup,
    mut beside: Option<Beside<'_>>,
    begun: &mut bool,
) -> Result<Made> {
    let spec = request.spec;
    let attach = cgroup.attach_below(&[], cgroup.keeps_nodes(host.kernel))?;
    let visible = if request.no_pivot { start::visible_kernel_mounts()? } else { Vec::new() };
    let plan = compile::init(&compile::Init {
        spec,
        host,
        id: request.id,
        bundle: request.bundle,
        groups: &groups(&cgroup.record()),
        tasks: &paths(&attach),
        stdio: request.stdio.given(),
        no_pivot: request.no_pivot.then_some(&visible),
        no_new_keyring: request.no_new_keyring,
        preserve_fds: request.preserve_fds,
        started_by_others: matches!(request.start_by, StartBy::Anyone(_)),
    })?;
    let (gate, file, saved) = match request.start_by {
        StartBy::Us => (None, None, None),
        StartBy::Anyone(dir) => {
            let (file, saved) = start::park_report(dir, &request, &plan, paths(&attach), &cgroup.record())?;
            (Some(dir), Some(file), Some(saved))
        }
    };
    // The gate's number beside the child's end of the wire: both stay open there.
    let (wire, theirs) = Wire::pair()?;
    let gate = gate.map(start::gate).transpose()?;
    let report = Report::new(file.as_ref())?;
    let mut image = Image::new(&plan, request.preserve_fds);
    image.fault = request.fault;
    give_stdio(&mut image, request.stdio);
    fill(&mut image, &attach, theirs, gate);
    let inside = attach.into.is_some();
    *begun = true;
    let mut child = Unborn::spawn(&mut image, &report, attach.into.as_ref())?;
    drop_shared(&mut image, attach, file);
    let twice = plan.child.iter().any(|step| matches!(step.op, crate::plan::Op::Respawn { .. }));
    if !twice {
        settle(cgroup, spec, inside)?;
    }
    let pid = child.pid;
    let waiting = request.cancel.map(|cancel| cancel.wait(child.pidfd())).transpose()?;
    let mut dialogue = Dialogue {
        plan: &plan,
        report: &report,
        wire: &wire,
        child: &mut child,
        cgroup,
        subject: hooks::Subject {
            id: request.id,
            status: "creating",
            pid,
            bundle: request.bundle.to_str().unwrap_or_default(),
            spec,
            cancel: request.cancel,
        },
        waiting,
        restricted: false,
        unsettled: twice.then_some(inside),
    };
    let mut note = |pid| {
        let Some(beside) = &mut beside else { return Ok(()) };
        let record = Record::new(request.id, request.bundle, spec, pid, cgroup, saved.clone())?;
        beside(&record, cgroup)
    };
    if !twice {
        note(pid)?;
    }
    let console = dialogue.serve_to_the_gate(&mut image)?;
    cgroup.inhabited()?; // on version 1 it has joined by itself
    if twice {
        note(child.pid)?;
    }
    drop(image);
    // Without a descriptor left for the copy it is not born.
    let pidfd = child.pidfd().try_clone_to_owned().map_err(|e| Error::io("dup", "pidfd", &e))?;
    let child = child.born(console);
    Ok(Made {
        id: request.id.to_owned(),
        bundle: request.bundle.to_owned(),
        spec: spec.clone(),
        pid: child.pid,
        pidfd,
        parked: Parked { plan, report, wire },
        request: saved,
        child,
    })
}

/// True if it was the way into a group that failed: the clone, or the write of one's own number.
fn is_of_groups(error: &Error) -> bool {
    error.op == "clone3" || error.from == "/linux/cgroupsPath"
}

/// What a group gets when its first process is there; `inside`: it was born there.
fn settle(cgroup: &Cgroup, spec: &Spec, inside: bool) -> Result<()> {
    if inside {
        cgroup.inhabited()?;
    }
    cgroup.limit(&spec.linux.resources)?;
    delegate_to(spec).map_or(Ok(()), |uid| cgroup.delegate(uid))
}

/// The host's uid that owns the group: a container that has a cgroup namespace of its own and may write to its mount is to
/// manage groups below (runc's chown of the delegated files).
fn delegate_to(spec: &Spec) -> Option<u32> {
    use crate::spec::NamespaceKind;
    let own = spec.linux.namespaces.iter().any(|n| n.kind == NamespaceKind::Cgroup && n.path.is_empty());
    let writable = spec.mounts.iter().any(|m| {
        m.destination == "/sys/fs/cgroup" && m.kind.starts_with("cgroup") && !m.options.iter().any(|o| o == "ro")
    });
    let uid = spec.process.as_ref().map_or(0, |p| p.user.uid);
    let map = &spec.linux.uid_mappings;
    let host =
        |m: &crate::spec::IdMapping| uid.checked_sub(m.container_id).filter(|i| *i < m.size).map(|i| m.host_id + i);
    if !own || !writable {
        return None;
    }
    if map.is_empty() { Some(uid) } else { map.iter().find_map(host) }
}

/// The groups of a record, as a plan names them.
pub fn groups(record: &crate::cgroup::Record) -> Vec<Group> {
    let v1 = record.v1.iter().map(|p| {
        let name = p.controllers.join(",");
        let named = name.strip_prefix("name=").map(str::to_owned);
        let data = if named.is_some() { format!("none,{name}") } else { name.clone() };
        Group { name: named.unwrap_or(name), path: p.dir(), mount: p.mount.clone(), data, unified: false }
    });
    let v2 = record.unified.iter().map(|p| {
        let name = if record.is_unified() { String::new() } else { "unified".to_owned() };
        Group { name, path: p.dir(), mount: p.mount.clone(), data: String::new(), unified: true }
    });
    v1.chain(v2).collect()
}

fn paths(attach: &Attach) -> Vec<String> {
    attach.tasks.iter().map(|task| task.0.clone()).collect()
}

/// Puts the streams into their slots, from where they are closed.
fn give_stdio(image: &mut Image<'_>, stdio: Stdio) {
    if stdio.own.contains(&true) {
        return lend_stdio(image, &stdio);
    }
    for (slot, fd) in image.plan.given.stdio.into_iter().zip([stdio.stdin, stdio.stdout, stdio.stderr]) {
        if let (Some(slot), Some(fd)) = (slot, fd) {
            image.give(slot, fd);
        }
    }
}

/// The same, but they stay ours: another attempt may need them.
fn lend_stdio(image: &mut Image<'_>, stdio: &Stdio) {
    let streams = [&stdio.stdin, &stdio.stdout, &stdio.stderr];
    for (((slot, fd), own), number) in image.plan.given.stdio.into_iter().zip(streams).zip(stdio.own).zip(0..) {
        let fd = if own { Some(number) } else { fd.as_ref().map(std::os::fd::AsRawFd::as_raw_fd) };
        if let (Some(slot), Some(fd)) = (slot, fd) {
            image.lend(slot, fd);
        }
    }
}

/// Puts everything else that the plan expects into its slots.
fn fill(image: &mut Image<'_>, attach: &Attach, wire: OwnedFd, gate: Option<OwnedFd>) {
    let given = image.plan.given.clone();
    for (slot, task) in given.tasks.iter().zip(&attach.tasks) {
        image.lend(*slot, std::os::fd::AsRawFd::as_raw_fd(&task.1));
    }
    if let (Some(slot), Some(group)) = (given.group, &attach.into) {
        image.lend(slot, std::os::fd::AsRawFd::as_raw_fd(group));
    }
    match gate {
        Some(gate) => image.give(given.start, gate),
        None => image.lend(given.start, std::os::fd::AsRawFd::as_raw_fd(&wire)),
    }
    image.give(given.wire, wire);
}

/// After the clone the child has its own copies; ours would keep its pipes and the wire open.
fn drop_shared(image: &mut Image<'_>, attach: Attach, report: Option<std::fs::File>) {
    let given = image.plan.given.clone();
    let slots = [given.wire, given.start].into_iter().chain(given.stdio.into_iter().flatten()).chain(given.tasks);
    let given = slots.filter_map(|slot| image.take(slot));
    // Those that are kept for the next one are not ours to close.
    let tasks = attach.tasks.into_iter().filter_map(Arc::into_inner).map(|(_, fd)| fd);
    crate::sys::close_all(given.chain(tasks).chain(attach.into).chain(report.map(OwnedFd::from)).collect());
}

fn open_root(pid: u32) -> Result<OwnedFd> {
    use rustix::fs::{Mode, OFlags};
    let path = format!("/proc/{pid}/root");
    rustix::fs::open(&path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| Error::sys("open", path, e))
}
