//! A process's three streams: fifos, files, loggers, consoles.
//!
//! Opening happens on a worker thread ([`open`]: paths belong to others and may hang). Consoles are copied on the event loop
//! ([`Wiring::run`]), pipes by threads that are there while something moves, files by workers. Only the ends of stdin's fifo are opened on the
//! loop, when the process is there: a client whose open(2) returns may write, hang up and call CloseIO at once, and asks once. Between the client's end and the process there is always a pipe of ours, so that a client may die
//! and come back without the process getting EPIPE, and a full pipe stops the process and nobody else: nothing is dropped.
#![forbid(unsafe_code)]

mod drain;
mod end;
mod fifo;
mod logger;
mod pump;
mod relay;
mod streams;
#[cfg(test)]
mod tests;
mod uri;

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use runtime::container::Stdio;
use rustix::fs::{Gid, OFlags, Uid};
use rustix::io::fcntl_dupfd_cloexec;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer};

pub use drain::Drain;
use end::End;
use fifo::{Fifo, Input, Target};
use logger::Logger;
pub use streams::Streams;
use uri::Uri;

/// What the client asked for, word for word; State gives it back so that others can attach.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Paths {
    /// Path of a fifo, a file or a character device, or empty.
    pub stdin: String,
    /// Path or URI, or empty. Its scheme decides for both outputs.
    pub stdout: String,
    /// Path, or empty.
    pub stderr: String,
    /// One console instead of three pipes.
    pub terminal: bool,
}

/// Who is to own the pipes: a process that is root only in its user namespace must be able to open `/dev/stdout`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Owner {
    /// Host uid, `None` leaves it.
    pub uid: Option<u32>,
    /// Host gid, `None` leaves it.
    pub gid: Option<u32>,
}

/// What a logger is told in its environment.
#[derive(Clone, Debug)]
pub struct Names {
    /// Container id, for an exec its own id.
    pub id: String,
    /// containerd namespace.
    pub namespace: String,
}

/// Streams that are open but not yet moving.
pub struct Opened {
    /// For the child.
    pub child: Stdio,
    /// For [`Wiring::run`].
    pub wiring: Wiring,
}

/// Our ends.
#[derive(Default)]
pub struct Wiring {
    stdin: Option<Stdin>,
    outputs: Vec<Output>,
    logger: Option<Logger>,
    /// Further write ends of the logger's pipes.
    logged: Vec<End>,
    terminal: Option<Terminal>,
    /// Bytes that the process's group may have, as its container was created; `None` or -1 is unlimited. What it has written and
    /// nobody has read counts.
    pub memory: Option<i64>,
}

struct Terminal {
    master: End,
    slave: Option<End>,
}

struct Stdin {
    from: Input,
    /// The process's pipe; none with a console.
    to: Option<End>,
}

struct Output {
    /// The process's pipe; none with a console.
    from: Option<End>,
    to: Target,
}

/// Where the outputs go, by stdout's scheme.
enum Scheme<'a> {
    Fifo,
    File(PathBuf),
    Binary { uri: Uri<'a>, ready_required: bool },
}

fn scheme(stdout: &str) -> Result<Scheme<'_>, String> {
    let Some(uri) = Uri::parse(stdout) else { return Ok(Scheme::Fifo) };
    match uri.scheme.as_str() {
        "fifo" => Ok(Scheme::Fifo),
        "file" => uri.path().map(Scheme::File).map_err(|why| format!("{stdout:?}: {why}")),
        "binary" => Ok(Scheme::Binary { uri, ready_required: false }),
        "binary-v2" => Ok(Scheme::Binary { uri, ready_required: true }),
        other => Err(format!("unknown STDIO scheme {other}")),
    }
}

/// Opens everything the client named. Blocking; on an error nothing stays open and a logger that was started is ended.
pub fn open(paths: &Paths, owner: Owner, names: &Names) -> Result<Opened, String> {
    let mut child = Stdio::default();
    let mut wiring = Wiring::default();
    match scheme(&paths.stdout)? {
        Scheme::Fifo => {
            let stdout = target(&paths.stdout)?;
            let stderr = if paths.terminal {
                None
            } else if paths.stderr == paths.stdout {
                stdout.clone()
            } else {
                target(&paths.stderr)?
            };
            child.stdout = wiring.output(stdout, paths.terminal, owner)?;
            child.stderr = wiring.output(stderr, paths.terminal, owner)?;
        }
        Scheme::File(path) => {
            let file = Some(Target::File(Arc::new(append(&path)?)));
            child.stdout = wiring.output(file.clone(), paths.terminal, owner)?;
            if !paths.terminal {
                child.stderr = wiring.output(file, false, owner)?;
            }
        }
        Scheme::Binary { uri, ready_required } => {
            let (stdout, stderr) = (pipe(owner)?, pipe(owner)?);
            wiring.logger = Some(
                Logger::start(&uri, ready_required, names, &stdout.0, &stderr.0)
                    .map_err(|why| format!("failed to start binary process: {why}"))?,
            );
            let twin = |pipe: &OwnedFd| match fcntl_dupfd_cloexec(pipe, 3) {
                Ok(twin) => Ok(End::of_process(twin)),
                Err(e) => Err(failed("fcntl", "logger pipe", &e.into())),
            };
            wiring.logged.push(twin(&stdout.1)?);
            if paths.terminal {
                wiring.outputs.push(Output { from: None, to: Target::Pipe(Arc::new(nonblocking(stdout.1)?)) });
            } else {
                // The process writes straight into the logger's pipes; no copy. The logger sees the end of file when
                // the last writer is gone, not when it is killed.
                wiring.logged.push(twin(&stderr.1)?);
                (child.stdout, child.stderr) = (Some(stdout.1), Some(stderr.1));
            }
        }
    }
    if !paths.stdin.is_empty() {
        let from = Input::open(strip(&paths.stdin))?;
        let mut to = None;
        if !paths.terminal {
            let (read, write) = pipe(owner)?;
            (child.stdin, to) = (Some(read), Some(End::of_process(nonblocking(write)?)));
        }
        wiring.stdin = Some(Stdin { from, to });
    }
    Ok(Opened { child, wiring })
}

impl Wiring {
    /// Takes the master of the process's terminal, if it has one. Blocking: whoever changes its line discipline holds the lock that the
    /// opening of a slave takes (TIOCSETD, tty_open()).
    pub fn take_terminal(&mut self, console: Option<OwnedFd>) {
        self.terminal = console.map(|master| Terminal {
            slave: slave_of(&master).map(End::of_terminal),
            master: End::of_terminal(master),
        });
    }

    /// Adds one output and answers the process's end of it.
    fn output(&mut self, to: Option<Target>, terminal: bool, owner: Owner) -> Result<Option<OwnedFd>, String> {
        let Some(to) = to else { return Ok(None) };
        if terminal {
            self.outputs.push(Output { from: None, to });
            return Ok(None);
        }
        let (read, write) = pipe(owner)?;
        self.outputs.push(Output { from: Some(End::of_process(nonblocking(read)?)), to });
        Ok(Some(write))
    }
}

/// The other end of a process's terminal. Without it a process that closes its own has a terminal that is dead: the master says
/// EIO as long as no slave is open, and the process may open it again. `None`: the master's devpts is mounted nowhere.
fn slave_of(master: &OwnedFd) -> Option<OwnedFd> {
    ioctl_tiocgptpeer(master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).ok()
}

fn strip(path: &str) -> &str {
    path.strip_prefix("fifo://").unwrap_or(path)
}

/// Opens an output path: a fifo with both its ends, anything else for appending. Empty means /dev/null.
fn target(path: &str) -> Result<Option<Target>, String> {
    let path = strip(path);
    if path.is_empty() {
        return Ok(None);
    }
    if fifo::is_fifo(path)? {
        return Ok(Some(Target::Fifo(Arc::new(Fifo::open(path)?))));
    }
    let file = fs::OpenOptions::new().append(true).custom_flags(OFlags::NOCTTY.bits().cast_signed()).open(path);
    file.map(|f| Some(Target::File(Arc::new(f.into())))).map_err(|e| failed("open", path, &e))
}

/// `file://`: parents and file are made when they are missing.
fn append(path: &Path) -> Result<OwnedFd, String> {
    let name = path.display().to_string();
    if let Some(parent) = path.parent() {
        let made = fs::DirBuilder::new().recursive(true).mode(0o755).create(parent);
        made.map_err(|e| failed("mkdir", &parent.display().to_string(), &e))?;
    }
    let file = fs::OpenOptions::new().append(true).create(true).mode(0o644).open(path);
    file.map(OwnedFd::from).map_err(|e| failed("open", &name, &e))
}

/// Read end, write end. Both belong to `owner`, which is one inode.
fn pipe(owner: Owner) -> Result<(OwnedFd, OwnedFd), String> {
    let ends = pipe_with(PipeFlags::CLOEXEC).map_err(|e| failed("pipe2", "stdio", &e.into()))?;
    if owner.uid.is_some() || owner.gid.is_some() {
        let (uid, gid) = (owner.uid.map(Uid::from_raw), owner.gid.map(Gid::from_raw));
        rustix::fs::fchown(&ends.0, uid, gid).map_err(|e| failed("fchown", "stdio pipe", &e.into()))?;
    }
    Ok(ends)
}

/// The flag belongs to this end alone: the process's end stays blocking, as it expects.
fn nonblocking(fd: OwnedFd) -> Result<OwnedFd, String> {
    let set = rustix::fs::fcntl_getfl(&fd).and_then(|f| rustix::fs::fcntl_setfl(&fd, f | OFlags::NONBLOCK));
    set.map(|()| fd).map_err(|e| failed("fcntl", "stdio pipe", &e.into()))
}

fn failed(op: &'static str, subject: &str, error: &std::io::Error) -> String {
    runtime::Error::io(op, subject, error).to_string()
}
