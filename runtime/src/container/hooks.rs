//! Hooks that run in our own namespaces: prestart, createRuntime, poststart, poststop.

use std::io::{Seek, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use crate::cancel::Cancel;
use crate::error::{Error, Kind, Result};
use crate::plan::hooks::state;
use crate::program::{Program, memory};
use crate::reap::End;
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
    /// By which its hooks are ended if nobody wants it any more.
    pub cancel: Option<&'a Cancel>,
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
    let mut stdin = memory("state").map_err(|e| failed("state", &e))?;
    write!(stdin, "{before}{}{after}", subject.pid).and_then(|()| stdin.rewind()).map_err(|e| failed("state", &e))?;
    let arguments = if hook.args.is_empty() { std::slice::from_ref(&hook.path) } else { &hook.args[..] };
    // Never our own environment: a hook has what its line of config.json gives it.
    let env = hook.env.as_deref().unwrap_or_default();
    let program = Program::start(&hook.path, arguments, env, Path::new(subject.bundle), stdin.as_fd())
        .map_err(|e| failed("start", &e))?;
    let waiting = subject.cancel.map(|cancel| cancel.wait(program.pidfd())).transpose();
    let limit = hook.timeout.filter(|t| *t > 0).map(|t| Duration::from_secs(t as u64));
    let end = match waiting.and_then(|_waiting| program.wait(limit)) {
        Ok(Some(end)) => end,
        waited => {
            program.kill()?;
            waited?;
            let reason = format!("ran past specified timeout of {}s", hook.timeout.unwrap_or(0));
            return Err(Error::new(Kind::Kernel, "hook", &hook.path, reason));
        }
    };
    if end == End::Exited(0) {
        return Ok(());
    }
    let said = program.last_words().map_err(|e| failed("stderr", &e))?;
    let said = if said.is_empty() { said } else { format!(", it said: {said}") };
    Err(Error::new(Kind::Kernel, "hook", &hook.path, format!("failed: {end}{said}")))
}
