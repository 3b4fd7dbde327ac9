//! createContainer and startContainer hooks: a child of the child, while it is still ours.

use std::os::fd::RawFd;
use std::sync::atomic::Ordering;

use super::call::{self, Outcome, Text};
use super::report::Page;
use super::run::append_number;
use crate::own::Files;

/// One hook, ready to be executed.
pub struct Hook<'a> {
    /// Its program.
    pub path: Text,
    /// NULL-terminated.
    pub argv: *const *const u8,
    /// NULL-terminated.
    pub envp: *const *const u8,
    /// The state up to the pid.
    pub before: &'a [u8],
    /// The state after the pid.
    pub after: &'a [u8],
    /// The pid to write; `None` is our own as we see it.
    pub pid: Option<u32>,
    /// Seconds, 0 is for ever.
    pub timeout: u32,
    /// Its limit of open files, if it is another than ours.
    pub files: Option<Files>,
}

/// Runs a hook to its end. Fails with ETIMEDOUT, or with ECHILD when it did not exit with 0; its status is then in the page.
pub fn run(hook: &Hook<'_>, page: &Page) -> Outcome {
    let state = state(hook)?;
    // Not the container's streams: a daemon that it leaves behind would hold them, and what it says is for who asks why it failed.
    let words = call::memfd(Text(c"words".as_ptr().cast()))? as RawFd;
    let mut pidfd: RawFd = -1;
    // By startContainer the filter is there.
    let pid = call::fork_filtered(&mut pidfd);
    if pid == Ok(0) {
        let _gone = execute(hook, state, words);
        call::exit(127);
    }
    let _closed = call::close(state);
    let pid = pid? as i32;
    let ended = call::poll_in(pidfd, hook.timeout);
    if ended == Ok(0) {
        let _killed = call::kill(pid, libc::SIGKILL);
    }
    let (code, status) = call::wait(pid)?;
    let _closed = call::close(pidfd);
    if ended? == 0 {
        return Err(libc::ETIMEDOUT);
    }
    if code == libc::CLD_EXITED && status == 0 {
        let _closed = call::close(words);
        return Ok(0);
    }
    let status = if code == libc::CLD_EXITED { status } else { 128 + status };
    page.value.store(status as u32, Ordering::Release);
    let _silent = last_words(words, page);
    Err(libc::ECHILD)
}

/// The end of what it has said.
fn last_words(words: RawFd, page: &Page) -> Outcome {
    let length = call::lseek(words, 0, libc::SEEK_END)?;
    call::lseek(words, length.saturating_sub(Page::WORDS) as i64, libc::SEEK_SET)?;
    let mut said = [0; Page::WORDS];
    call::read(words, &mut said)?;
    page.keep_words(&said);
    call::close(words)
}

/// The state as a file, so that a hook that reads nothing blocks nobody.
fn state(hook: &Hook<'_>) -> Result<RawFd, i32> {
    let fd = call::memfd(Text(c"state".as_ptr().cast()))? as RawFd;
    let mut digits = [0u8; 10];
    let pid = match hook.pid {
        Some(pid) => pid,
        None => call::getpid()? as u32,
    };
    let end = append_number(&mut digits, 0, pid);
    call::write(fd, hook.before)?;
    call::write(fd, digits.get(..end).unwrap_or(&[]))?;
    call::write(fd, hook.after)?;
    call::lseek(fd, 0, libc::SEEK_SET)?;
    Ok(fd)
}

fn execute(hook: &Hook<'_>, state: RawFd, words: RawFd) -> Outcome {
    call::dup3(state, 0, 0)?;
    call::dup3(words, 1, 0)?;
    call::dup3(words, 2, 0)?;
    call::close_range(3, u32::MAX, 0)?;
    if let Some(files) = hook.files {
        let _as_far_as_we_may = call::prlimit(0, libc::RLIMIT_NOFILE, files.soft, files.hard);
    }
    call::execve(hook.path, hook.argv, hook.envp)
}
