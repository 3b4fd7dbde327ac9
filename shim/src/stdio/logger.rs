//! `binary://` loggers: a program of the client's that reads the process's output from pipes.
//!
//! The contract is containerd's (core/runtime/v2/logging): descriptors 3 and 4 are stdout and stderr, 5 is to be written
//! to or closed when it is ready; the query of the URI becomes alternating words of argv (in its order, where Go has none); the environment is the
//! container's id and namespace.
#![forbid(unsafe_code)]

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

use runtime::{program, reap};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, fcntl_dupfd_cloexec};

use super::uri::Uri;
use super::{Names, failed};

/// How long a logger may take until it is ready. containerd's own shim waits for ever.
const READY: Duration = Duration::from_secs(10);

/// A running logger. Dropped before it was handed to the event loop it is killed and reaped.
pub(super) struct Logger {
    pidfd: Option<OwnedFd>,
}

impl Logger {
    /// Starts what `uri` names and waits until it is ready. Blocking.
    pub(super) fn start(
        uri: &Uri<'_>,
        ready_required: bool,
        names: &Names,
        stdout: &OwnedFd,
        stderr: &OwnedFd,
    ) -> Result<Self, String> {
        let path = uri.path()?;
        let name = path.display().to_string();
        let mut argv = vec![path.into_os_string().into_vec()];
        argv.extend(uri.query().into_iter().flat_map(|(key, value)| [key, value]));
        let env = [format!("CONTAINER_ID={}", names.id), format!("CONTAINER_NAMESPACE={}", names.namespace)];
        let (ready, ready_theirs) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map_err(|e| failed("pipe2", "logging binary", &e.into()))?;
        let fds = [(stdout.as_fd(), 3), (stderr.as_fd(), 4), (ready_theirs.as_fd(), 5)];
        let logger = Self { pidfd: Some(spawn(&name, argv, &env, &fds)?) };
        drop(ready_theirs);
        logger.wait_ready(&ready, ready_required, &name)?;
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

fn spawn(path: &str, argv: Vec<Vec<u8>>, env: &[String], fds: &[(BorrowedFd<'_>, i32)]) -> Result<OwnedFd, String> {
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
    let nul = |_| format!("logging binary {path:?}: a NUL in its URI");
    let argv = argv.into_iter().map(CString::new).collect::<Result<Vec<_>, _>>().map_err(nul)?;
    let env = env.iter().map(|word| CString::new(word.as_str())).collect::<Result<Vec<_>, _>>().map_err(nul)?;
    program::spawn(&argv[0], &argv, &env, None, &placed).map(|(_, pidfd)| pidfd).map_err(fail)
}
