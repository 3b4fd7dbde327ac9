//! `create`, `start`, `run`, `kill`, `delete`, `pause`, `resume`.
#![forbid(unsafe_code)]

use std::os::fd::AsFd;
use std::path::Path;

use runtime::container::start::{abandon, start_parked};
use runtime::death::is_dying;
use runtime::lifecycle::ENDING;
use runtime::spec::{self, Spec, check};
use runtime::{Child, Container, Create, Error, Host, Kind, Result, StartBy, Stdio, reap};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, Stat, fstat, makedev};

use super::foreground::{self, Foreground};
use super::store::{Found, Process, Status, bundle};
use super::{Context, args, console, words};

/// How long a killed process may take to its end, as `runc delete --force` gives it.
const DEATH: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

fn state(why: impl Into<String>) -> Error {
    Error::new(Kind::State, "", "", why)
}

/// Our own three descriptors, for a process without a terminal. Where one is the host's /dev/null, the container's takes its place:
/// through an open descriptor root of the container could change mode and owner of the host's node.
pub fn stdio() -> Stdio {
    use rustix::stdio::{stderr, stdin, stdout};
    let is_null = |stat: Stat| FileType::from_raw_mode(stat.st_mode).is_char_device() && stat.st_rdev == makedev(1, 3);
    let own = [stdin(), stdout(), stderr()].map(|stream| !fstat(stream).is_ok_and(is_null));
    Stdio { own, ..Stdio::default() }
}

/// How many sockets a service manager hands over to us, from descriptor 3 on (sd_listen_fds(3)).
fn listening() -> u32 {
    let number = |name: &str| std::env::var(name).ok().and_then(|word| word.parse().ok());
    let ours = number("LISTEN_PID").is_some_and(|pid| pid == std::process::id());
    if ours { number("LISTEN_FDS").unwrap_or(0) } else { 0 }
}

/// How many descriptors from 3 on the process inherits: the sockets, and what is asked for behind them.
pub fn preserved(args: &args::Create) -> u32 {
    args.preserve_fds.saturating_add(listening())
}

/// `create`: the process is made and waits; we leave.
pub fn create(context: &Context<'_>, args: &args::Create) -> Result<()> {
    // We end here: what the kernel closes for us need not be closed before.
    make(context, args, true, false).map(std::mem::forget)
}

/// `start`
pub fn start(context: &Context<'_>, id: &str) -> Result<()> {
    let found = context.store.find(id)?;
    match found.process()? {
        Process::Gone => Err(state("cannot start a container that has stopped")),
        Process::Frozen => Err(state("cannot start a container in the paused state")),
        // Whether it waits or has been started, its gate tells.
        Process::There => start_parked(&found.dir, &found.record),
    }
}

/// `run`: create and start; then leave, or wait and delete.
pub fn run(context: &Context<'_>, args: &args::Run) -> Result<u8> {
    let foreground = if args.detach { None } else { Some(Foreground::new()?) };
    let id = &args.create.id;
    let (container, child) = make(context, &args.create, args.detach, true)?;
    let waited = container.start().and_then(|()| match &foreground {
        None => Ok(0),
        Some(foreground) => foreground.wait(&child.pidfd, child.console),
    });
    if waited.is_err() || (foreground.is_some() && !args.keep) {
        // Gone already is as good as killed.
        let _killed = container.signal(libc::SIGKILL);
        let removed = container.delete().and_then(|()| context.store.remove(id));
        // A failed start has told its reason; what the removal has to say comes second.
        return waited.and_then(|code| removed.map(|()| code as u8));
    }
    waited.map(|code| code as u8)
}

/// Makes a container, its record, and all that tells the caller about it. On an error nothing is left.
fn make(context: &Context<'_>, args: &args::Create, detached: bool, by_us: bool) -> Result<(Container, Child)> {
    check::id(&args.id)?;
    let bundle = bundle(&args.bundle)?;
    let json = spec::read_config(&bundle)?;
    let mut spec = Spec::parse(&json)?;
    check::warnings(&spec).iter().for_each(|w| context.log.warn(w));
    let Some(process) = &mut spec.process else {
        return Err(Error::invalid("/process", "process property must not be empty"));
    };
    let sockets = listening();
    if sockets > 0 {
        process.env.extend([format!("LISTEN_FDS={sockets}"), "LISTEN_PID=1".into()]);
    }
    let terminal = process.terminal;
    console::check(terminal, detached, args.console_socket.as_deref())?;
    if terminal && !detached {
        process.console_size = foreground::size().or(process.console_size);
    }
    let host = Host::read()?;
    let stdio = if terminal { Stdio::default() } else { stdio() };
    let dir = context.store.reserve(&args.id)?;
    let request = Create {
        id: &args.id,
        bundle: &bundle,
        spec: &spec,
        stdio,
        no_pivot: args.no_pivot,
        no_new_keyring: args.no_new_keyring,
        preserve_fds: preserved(args),
        systemd_cgroup: context.systemd_cgroup,
        start_by: if by_us { StartBy::Us } else { StartBy::Anyone(&dir) },
        cancel: None,
        fault: None,
    };
    let made = Container::create(&host, request).and_then(|(container, child)| {
        match tell(&container, &child, &dir, args, json) {
            Ok(()) => {
                context.log.debug(&format!("container {} is pid {}", args.id, child.pid));
                Ok((container, child))
            }
            Err(e) => {
                // It is told why it could not be made; that undoing it failed, too, would hide that.
                let _deleted = container.delete();
                let _reaped = reap::exit_status(&child.pidfd);
                Err(e)
            }
        }
    });
    // Here, too.
    made.inspect_err(|_| drop(context.store.remove(&args.id)))
}

fn tell(container: &Container, child: &Child, dir: &Path, args: &args::Create, config: Vec<u8>) -> Result<()> {
    let mut record = container.record()?;
    record.config = spec::raw(config);
    record.save(dir)?;
    announce(child, args.console_socket.as_deref(), args.pidfd_socket.as_deref(), "standard", args.pid_file.as_deref())
}

/// What the caller of a create or an exec asked to be told: the terminal, the process, its number.
pub fn announce(
    child: &Child,
    console_socket: Option<&Path>,
    pidfd_socket: Option<&Path>,
    kind: &str,
    pid_file: Option<&Path>,
) -> Result<()> {
    if let (Some(path), Some(master)) = (console_socket, &child.console) {
        console::send(path, "/dev/ptmx", master.as_fd())?;
    }
    if let Some(path) = pidfd_socket {
        console::send(path, kind, child.pidfd.as_fd())?;
    }
    pid_file.map_or(Ok(()), |path| console::pid_file(path, child.pid))
}

/// `kill`
pub fn kill(context: &Context<'_>, args: &args::Kill) -> Result<()> {
    let signal = words::signal(&args.signal)?;
    let found = context.store.find(&args.id)?;
    if args.all {
        return found.cgroup()?.kill(signal);
    }
    if signal == libc::SIGKILL && found.record.shares_pids() {
        // The end of init ends no others then (runc kills all of them as well). Without groups there is init alone.
        let cgroup = found.cgroup()?;
        if cgroup.pids().is_ok_and(|pids| !pids.is_empty()) {
            return cgroup.kill(signal);
        }
    }
    let init = found.record.init()?.ok_or_else(|| state("container not running"))?;
    // One that was only created has no handlers, and would not hear it.
    let ends = ENDING.contains(&signal) && found.status()? == Status::Created;
    reap::signal(init, if ends { libc::SIGKILL } else { signal })?;
    if signal == libc::SIGKILL && found.process()? == Process::Frozen {
        // A frozen v1 group acts on no signal, not even this one (runc thaws as well).
        return found.cgroup()?.thaw();
    }
    Ok(())
}

/// `delete`: what has stopped or never started; anything with --force.
pub fn delete(context: &Context<'_>, args: &args::Delete) -> Result<()> {
    let found = match context.store.find(&args.id) {
        Ok(found) => found,
        Err(e) if e.kind == Kind::NotFound => {
            // A create that was killed before it could write its record leaves its directory, and perhaps a process.
            abandon(&context.store.dir(&args.id)?)?;
            context.store.remove(&args.id)?;
            return if args.force { Ok(()) } else { Err(e) };
        }
        Err(e) => return Err(e),
    };
    let mut status = found.status()?;
    if !args.force && matches!(status, Status::Running | Status::Paused) {
        if !has_died(&found)? {
            let why = format!("cannot delete container {} that is not stopped: {}", args.id, status.word());
            return Err(state(why));
        }
        status = Status::Stopped;
    }
    destroy(context, &found, status)
}

/// False at once for a process that lives. One that has been killed is waited for: runc takes so long to come to its look
/// that its users delete right after kill(2), without a wait between the two.
fn has_died(found: &Found) -> Result<bool> {
    let Some(init) = found.record.init()? else { return Ok(true) };
    let limit = if is_dying(found.record.pid) { DEATH } else { Timespec::default() };
    match poll(&mut [PollFd::new(&init, PollFlags::IN)], Some(&limit)) {
        Ok(ready) => Ok(ready > 0),
        Err(e) => Err(Error::sys("poll", found.record.pid.to_string(), e)),
    }
}

fn destroy(context: &Context<'_>, found: &Found, status: Status) -> Result<()> {
    match status {
        Status::Stopped => found.record.clear(&found.cgroup()?)?,
        _ => found.record.destroy()?,
    }
    context.store.remove(&found.record.id)
}

/// `pause`
pub fn pause(context: &Context<'_>, id: &str) -> Result<()> {
    let found = context.store.find(id)?;
    match found.status()? {
        Status::Running | Status::Created => found.cgroup()?.freeze(),
        Status::Paused => Err(state("container is already paused")),
        Status::Stopped => Err(state("container not running")),
    }
}

/// `resume`
pub fn resume(context: &Context<'_>, id: &str) -> Result<()> {
    let found = context.store.find(id)?;
    match found.status()? {
        Status::Paused => found.cgroup()?.thaw(),
        _ => Err(state("container not paused")),
    }
}
