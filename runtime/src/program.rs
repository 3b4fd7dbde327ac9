//! Programs of the host that are run beside a container: hooks, and helpers that make a mount.

#![forbid(unsafe_code)]

use std::cell::Cell;
use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, Mode, OFlags, memfd_create, open};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Resource, Rlimit, pidfd_open, prlimit};

use crate::error::{Error, Result};
use crate::reap::{self, End};
use crate::{own, sys};

/// A program that runs. Dropped, it is nobody's: its end is then taken as an orphan's.
#[derive(Debug)]
pub struct Program {
    pidfd: OwnedFd,
    /// 0 once it has been reaped: then the number may be another's.
    pid: Cell<u32>,
    words: File,
}

impl Program {
    /// Starts it with these words, this environment and this standard input, and with no signal blocked or ignored. A name
    /// without a slash is looked up in PATH. Its directory is `dir`, or `/` if that is gone.
    ///
    /// # Errors
    /// Those of posix_spawn(3) and memfd_create(2); `InvalidInput` for a NUL.
    pub fn start<S: AsRef<OsStr>>(
        path: &str,
        words: &[S],
        env: &[S],
        dir: &Path,
        stdin: BorrowedFd<'_>,
    ) -> io::Result<Self> {
        let text = |s: &OsStr| CString::new(s.as_bytes());
        let texts = |list: &[S]| list.iter().map(|s| text(s.as_ref())).collect::<std::result::Result<Vec<_>, _>>();
        let (path, argv, env) = (CString::new(path)?, texts(words)?, texts(env)?);
        let open = |path: &Path| open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        let dir = open(dir).or_else(|_| open(Path::new("/")))?;
        // A file and no pipe takes what it says: nobody has to read meanwhile, and a daemon that it leaves behind holds up nothing.
        let words = memory("words")?;
        let streams = [(stdin, 0), (words.as_fd(), 1), (words.as_fd(), 2)];
        let (pid, pidfd) = spawn(&path, &argv, &env, Some(dir.as_fd()), &streams)?;
        Ok(Self { pidfd, pid: Cell::new(pid), words })
    }

    /// The process.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Waits for its end and reaps it; `None` when that takes longer than `limit`.
    ///
    /// # Errors
    /// Those of poll(2) and waitid(2).
    pub fn wait(&self, limit: Option<Duration>) -> Result<Option<End>> {
        let limit =
            limit.map(|limit| Timespec { tv_sec: limit.as_secs().cast_signed(), tv_nsec: limit.subsec_nanos().into() });
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
        loop {
            match poll(&mut fds, limit.as_ref()) {
                Ok(0) => return Ok(None),
                Ok(_) => {
                    return reap::ended(&self.pidfd).inspect(|end| {
                        if end.is_some() {
                            self.pid.set(0);
                        }
                    });
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(Error::sys("poll", "pidfd", errno)),
            }
        }
    }

    /// Kills and reaps it.
    ///
    /// # Errors
    /// As [`Program::wait`].
    pub fn kill(&self) -> Result<()> {
        // Gone already is as good as killed.
        let _killed = reap::signal(&self.pidfd, libc::SIGKILL);
        self.wait(None).map(drop)
    }

    /// The end of what it has said, at most 4 KiB, without the white space around it.
    ///
    /// # Errors
    /// Those of read(2).
    pub fn last_words(&self) -> io::Result<String> {
        let mut file = &self.words;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(4096)))?;
        let mut said = Vec::new();
        file.take(4096).read_to_end(&mut said)?;
        Ok(String::from_utf8_lossy(&said).trim().to_owned())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if self.pid.get() != 0 {
            reap::forget(self.pid.get());
        }
    }
}

/// [`sys::spawn`] of a child that whoever has its pidfd reaps: see [`reap::ended`].
///
/// # Errors
/// Those of posix_spawn(3) and pidfd_open(2).
pub fn spawn(
    path: &CStr,
    argv: &[CString],
    env: &[CString],
    dir: Option<BorrowedFd<'_>>,
    fds: &[(BorrowedFd<'_>, i32)],
) -> std::result::Result<(u32, OwnedFd), Errno> {
    reap::born(|| {
        let pid = sys::spawn(path, argv, env, dir, fds)?;
        if let Some(files) = own::files() {
            // posix_spawn(3) knows nothing of limits: the program may have begun already, with more than it is to have, or ended.
            let limit = Rlimit { current: Some(files.soft), maximum: Some(files.hard) };
            let _gone = prlimit(Pid::from_raw(pid.cast_signed()), Resource::Nofile, limit);
        }
        // `born` keeps the sweep off, so the number is still the child's even if it has died already.
        let id = Pid::from_raw(pid.cast_signed()).ok_or(Errno::SRCH)?;
        Ok((pid, (pid, pidfd_open(id, PidfdFlags::empty())?)))
    })
}

/// A file of no file system.
///
/// # Errors
/// Those of memfd_create(2).
pub fn memory(name: &str) -> io::Result<File> {
    Ok(File::from(memfd_create(name, MemfdFlags::CLOEXEC)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_not_those_of_who_starts_it() {
        let _blocked = sys::signal_fd(&[libc::SIGCHLD, libc::SIGTERM, libc::SIGUSR1]).unwrap();
        let null = File::open("/dev/null").unwrap();
        let words = ["grep", "-E", "Sig(Blk|Ign)", "/proc/self/status"];
        let program = Program::start("grep", &words, &[], Path::new("/no/such/directory"), null.as_fd()).unwrap();
        assert_eq!(program.wait(None).unwrap(), Some(End::Exited(0)));
        // 32 and 33 are the C library's own.
        assert_eq!(program.last_words().unwrap(), "SigBlk:\t0000000000000000\nSigIgn:\t0000000180000000");
    }

    #[test]
    fn ends_are_told_as_std_tells_them() {
        let null = File::open("/dev/null").unwrap();
        let run = |script: &str, limit| {
            let program = Program::start("/bin/sh", &["sh", "-c", script], &[], Path::new("/"), null.as_fd()).unwrap();
            let end = program.wait(limit).unwrap().map(|end| end.to_string());
            if end.is_none() {
                program.kill().unwrap();
            }
            end
        };
        assert_eq!(run("exit 3", None).as_deref(), Some("exit status: 3"));
        assert_eq!(run("kill -9 $$", None).as_deref(), Some("signal: 9 (SIGKILL)"));
        assert_eq!(run("sleep 60", Some(Duration::ZERO)), None);
    }
}
