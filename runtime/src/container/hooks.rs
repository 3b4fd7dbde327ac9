//! Hooks that run in our own namespaces: prestart, createRuntime, poststart, poststop.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use crate::error::{Error, Kind, Result};
use crate::plan::hooks::state;
use crate::spec::{Hook, Spec};

/// What a hook is told about the container.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// Container id.
    pub id: &'a str,
    /// `creating`, `created`, `running` or `stopped`.
    pub status: &'a str,
    /// Of init; 0 when there is none any more.
    pub pid: u32,
    /// Absolute path of the bundle.
    pub bundle: &'a str,
    /// Its spec, for the annotations.
    pub spec: &'a Spec,
}

/// Runs hooks one after the other; the first that fails ends it. `name` is the field of `/hooks`.
pub fn run(name: &str, hooks: &[Hook], subject: Subject<'_>) -> Result<()> {
    for (i, hook) in hooks.iter().enumerate() {
        one(hook, subject).map_err(|e| e.at(format!("/hooks/{name}/{i}")))?;
    }
    Ok(())
}

fn one(hook: &Hook, subject: Subject<'_>) -> Result<()> {
    let failed = |what: &str, e: &std::io::Error| Error::io("hook", format!("{} ({what})", hook.path), e);
    let (before, after) = state(subject.id, subject.status, subject.bundle, &subject.spec.annotations);
    let mut stdin = memory("state")?;
    write!(stdin, "{before}{}{after}", subject.pid).and_then(|()| stdin.rewind()).map_err(|e| failed("state", &e))?;
    let mut command = Command::new(&hook.path);
    if let Some((name, args)) = hook.args.split_first() {
        command.arg0(name).args(args);
    }
    // Never our own environment: a hook has what its line of config.json gives it.
    // A file and no pipe takes its words: nobody has to read meanwhile, and a daemon that it leaves behind holds up nothing.
    let words = memory("words")?;
    let copy = || words.try_clone().map(Stdio::from).map_err(|e| failed("stderr", &e));
    command.env_clear().stdin(stdin).stdout(copy()?).stderr(copy()?);
    for entry in hook.env.iter().flatten() {
        if let Some((name, value)) = entry.split_once('=') {
            command.env(name, value);
        }
    }
    let mut child = crate::reap::born(|| command.spawn().map(|c| (c.id(), c))).map_err(|e| failed("start", &e))?;
    let _ours = Forget(child.id());
    let limit = hook.timeout.filter(|t| *t > 0).map(|t| Duration::from_secs(t as u64));
    let waited = wait(&mut child, limit);
    let status = match waited {
        Ok(Some(status)) => status,
        Ok(None) | Err(_) => {
            // Gone already is as good as killed.
            let _killed = child.kill();
            child.wait().map_err(|e| failed("wait", &e))?;
            waited.map_err(|e| failed("wait", &e))?;
            let reason = format!("ran past specified timeout of {}s", hook.timeout.unwrap_or(0));
            return Err(Error::new(Kind::Kernel, "hook", &hook.path, reason));
        }
    };
    if status.success() {
        return Ok(());
    }
    let said = last_words(words).map_err(|e| failed("stderr", &e))?;
    let said = if said.is_empty() { said } else { format!(", it said: {said}") };
    Err(Error::new(Kind::Kernel, "hook", &hook.path, format!("failed: {status}{said}")))
}

/// A file of no file system.
fn memory(name: &str) -> Result<File> {
    let made = rustix::fs::memfd_create(name, rustix::fs::MemfdFlags::CLOEXEC);
    made.map(File::from).map_err(|e| Error::sys("memfd_create", name, e))
}

/// The end of what was written, at most 4 KiB, without the white space around it.
fn last_words(mut file: File) -> std::io::Result<String> {
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(4096)))?;
    let mut said = Vec::new();
    file.take(4096).read_to_end(&mut said)?;
    Ok(String::from_utf8_lossy(&said).trim().to_owned())
}

/// Waits for the end, or gives `None` when it takes too long.
fn wait(child: &mut std::process::Child, limit: Option<Duration>) -> std::io::Result<Option<ExitStatus>> {
    let Some(limit) = limit else { return child.wait().map(Some) };
    let pid = rustix::process::Pid::from_child(child);
    let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?;
    let mut poll = [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)];
    let limit = rustix::event::Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: 0 };
    let ready = loop {
        match rustix::event::poll(&mut poll, Some(&limit)) {
            Err(rustix::io::Errno::INTR) => {}
            outcome => break outcome?,
        }
    };
    if ready == 0 { Ok(None) } else { child.wait().map(Some) }
}

/// std waits for this child, not the reaper.
struct Forget(u32);

impl Drop for Forget {
    fn drop(&mut self) {
        crate::reap::forget(self.0);
    }
}
