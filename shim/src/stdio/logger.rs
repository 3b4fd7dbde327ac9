//! `binary://` loggers: a program of the client's that reads the process's output from pipes.
//!
//! The contract is containerd's (core/runtime/v2/logging): descriptors 3 and 4 are stdout and stderr, 5 is to be written
//! to or closed when it is ready; the query of the URI becomes alternating words of argv; the environment is the
//! container's id and namespace.
#![forbid(unsafe_code)]

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use runtime::{program, reap};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, fcntl_dupfd_cloexec};

use super::{Names, failed};

/// How long a logger may take until it is ready. containerd's own shim waits for ever.
const READY: Duration = Duration::from_secs(10);

/// A running logger. Dropped before it was handed to the event loop it is killed and reaped.
pub(super) struct Logger {
    pidfd: Option<OwnedFd>,
}

impl Logger {
    /// Starts `rest` (what follows `binary://`) and waits until it is ready. Blocking.
    pub(super) fn start(
        rest: &str,
        ready_required: bool,
        names: &Names,
        stdout: &OwnedFd,
        stderr: &OwnedFd,
    ) -> Result<Self, String> {
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let path = decoded(path, false);
        let mut argv = vec![path.clone()];
        for pair in query.split('&').filter(|p| !p.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            argv.extend([decoded(key, true), decoded(value, true)]);
        }
        let env = [format!("CONTAINER_ID={}", names.id), format!("CONTAINER_NAMESPACE={}", names.namespace)];
        let (ready, ready_theirs) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map_err(|e| failed("pipe2", "logging binary", &e.into()))?;
        let fds = [(stdout.as_fd(), 3), (stderr.as_fd(), 4), (ready_theirs.as_fd(), 5)];
        let logger = Self { pidfd: Some(spawn(&path, &argv, &env, &fds)?) };
        drop(ready_theirs);
        logger.wait_ready(&ready, ready_required, &path)?;
        Ok(logger)
    }

    fn wait_ready(&self, ready: &OwnedFd, required: bool, path: &str) -> Result<(), String> {
        let mut fds = [PollFd::new(ready, PollFlags::IN)];
        let limit = rustix::time::Timespec { tv_sec: READY.as_secs().cast_signed(), tv_nsec: 0 };
        match poll(&mut fds, Some(&limit)) {
            Ok(0) => return Err(format!("logging binary {path:?} was not ready after {} s", READY.as_secs())),
            Ok(_) => {}
            Err(errno) => return Err(failed("poll", path, &errno.into())),
        }
        match rustix::io::read(ready, &mut [0u8; 1]) {
            Ok(0) if required => Err(format!("logging binary {path:?} closed its ready pipe without a word")),
            Ok(_) => Ok(()),
            Err(errno) => Err(failed("read", path, &errno.into())),
        }
    }

    /// Hands over the duty to reap it.
    pub(super) fn into_pidfd(mut self) -> Option<OwnedFd> {
        self.pidfd.take()
    }
}

impl Drop for Logger {
    fn drop(&mut self) {
        let Some(pidfd) = self.pidfd.take() else { return };
        // Nobody else knows it; without this it would stay a zombie for ever. SIGKILL is prompt.
        if reap::signal(&pidfd, 9).is_ok() {
            let _ = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], None);
        }
        let _ = reap::exit_status(&pidfd);
    }
}

fn spawn(path: &str, argv: &[String], env: &[String], fds: &[(BorrowedFd<'_>, i32)]) -> Result<OwnedFd, String> {
    let fail = |errno: Errno| failed("exec", path, &errno.into());
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(fail)?;
    // Above every target, so that putting one in its place cannot overwrite the next one's source.
    let sources = [(null.as_fd(), 0), (null.as_fd(), 1), (null.as_fd(), 2)]
        .iter()
        .chain(fds)
        .map(|(fd, target)| Ok((fcntl_dupfd_cloexec(fd, 16)?, *target)))
        .collect::<Result<Vec<_>, Errno>>()
        .map_err(fail)?;
    let placed: Vec<_> = sources.iter().map(|(fd, target)| (fd.as_fd(), *target)).collect();
    let words = |list: &[String]| list.iter().map(|s| CString::new(s.as_str())).collect::<Result<Vec<_>, _>>();
    let nul = |_| format!("logging binary {path:?}: a NUL in its URI");
    let (argv, env) = (words(argv).map_err(nul)?, words(env).map_err(nul)?);
    let binary = CString::new(path).map_err(nul)?;
    program::spawn(&binary, &argv, &env, None, &placed).map(|(_, pidfd)| pidfd).map_err(fail)
}

/// Percent-decoding of what becomes text.
fn decoded(text: &str, query: bool) -> String {
    String::from_utf8_lossy(&decode(text, query)).into_owned()
}

/// Percent-decoding; in a query `+` is a space. What is no escape stays as it is.
pub(super) fn decode(text: &str, query: bool) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let digits = tail.get(..2).filter(|d| d.iter().all(u8::is_ascii_hexdigit));
        let hex = digits.and_then(|d| std::str::from_utf8(d).ok()).and_then(|d| u8::from_str_radix(d, 16).ok());
        match (first, hex) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            (b'+', _) if query => {
                bytes.push(b' ');
                rest = tail;
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::decoded;

    #[test]
    fn uris_are_decoded_as_go_does() {
        assert_eq!(decoded("/a%20b/c%", false), "/a b/c%");
        assert_eq!(decoded("x+y%2B", true), "x y+");
        assert_eq!(decoded("x+y%zz", false), "x+y%zz");
    }
}
