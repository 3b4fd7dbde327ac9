//! A call by a child that may lock as much memory as it likes.
//!
//! A limit belongs to a process, all threads of it, and whatever we make while ours is raised would inherit it.

use std::os::fd::{AsFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::atomic::Ordering;

use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

use super::call;
use super::clone::{CLEAR_SIGHAND, Masked};
use super::report::{Page, Report};
use crate::error::{Error, Result};
use crate::reap;

/// What `make` gives in a child of ours whose RLIMIT_MEMLOCK is raised: to none, or without CAP_SYS_RESOURCE to the hard limit.
/// `make` makes system calls only: it neither allocates nor locks.
///
/// # Errors
/// The child cannot be made; the inner ones are those of `make`.
pub fn with_memory_to_lock(
    make: impl Fn() -> std::result::Result<OwnedFd, Errno>,
) -> Result<std::result::Result<OwnedFd, Errno>> {
    let report = Report::new(None)?;
    let page = report.page();
    let hard = getrlimit(Resource::Memlock).maximum.unwrap_or(libc::RLIM_INFINITY);
    let pidfd = reap::born(|| {
        let mut pidfd: RawFd = -1;
        let masked = Masked::new();
        // The descriptors are shared, so that what is opened there is open here.
        let pid = call::fork(libc::CLONE_FILES as u64 | CLEAR_SIGHAND, Some(&mut pidfd), None);
        if pid == Ok(0) {
            live(&make, hard, page);
        }
        drop(masked);
        let pid = pid.map_err(|e| Error::sys("clone3", "", Errno::from_raw_os_error(e)))?;
        // SAFETY: the clone has succeeded with CLONE_PIDFD, so `pidfd` is a fresh descriptor that nobody else knows.
        Ok::<_, Error>((pid as u32, unsafe { OwnedFd::from_raw_fd(pidfd) }))
    })?;
    let mut poll = [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)];
    while rustix::event::poll(&mut poll, None) == Err(Errno::INTR) {}
    let _reaped = reap::exit_status(pidfd.as_fd());
    if page.step() == 0 {
        // Killed before it had anything to say: the limit stands.
        return Ok(Err(if page.errno() == 0 { Errno::PERM } else { Errno::from_raw_os_error(page.errno()) }));
    }
    // SAFETY: the child has opened it in the table of descriptors that we share, and given it away.
    Ok(Ok(unsafe { OwnedFd::from_raw_fd(page.value().cast_signed()) }))
}

fn live(make: &impl Fn() -> std::result::Result<OwnedFd, Errno>, hard: u64, page: &Page) -> ! {
    let raise = |limit| call::prlimit(0, libc::RLIMIT_MEMLOCK, limit, limit);
    let _as_far_as_we_may = raise(libc::RLIM_INFINITY).or_else(|_| raise(hard));
    match make() {
        Ok(fd) => {
            page.value.store(fd.into_raw_fd().cast_unsigned(), Ordering::Release);
            page.step.store(1, Ordering::Release);
        }
        Err(errno) => page.errno.store(errno.raw_os_error(), Ordering::Release),
    }
    call::exit(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Seek};

    /// The soft limit, as /proc/PID/limits has it.
    fn soft(text: &str) -> &str {
        let line = text.lines().find(|line| line.starts_with("Max locked memory")).unwrap();
        line.split_whitespace().nth(3).unwrap()
    }

    #[test]
    fn the_limit_is_the_childs_alone() {
        let before = getrlimit(Resource::Memlock);
        let low = rustix::process::Rlimit { current: Some(4096), ..before };
        rustix::process::setrlimit(Resource::Memlock, low).unwrap();
        let copy = with_memory_to_lock(|| {
            let text = rustix::fs::open("/proc/self/limits", rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty())?;
            let copy = rustix::fs::memfd_create(c"limits", rustix::fs::MemfdFlags::CLOEXEC)?;
            let mut bytes = [0; 4096];
            let length = rustix::io::read(&text, &mut bytes)?;
            rustix::io::write(&copy, &bytes[..length])?;
            Ok(copy)
        });
        let ours = std::fs::read_to_string("/proc/self/limits").unwrap();
        rustix::process::setrlimit(Resource::Memlock, before).unwrap();
        let (mut theirs, mut copy) = (String::new(), std::fs::File::from(copy.unwrap().unwrap()));
        copy.rewind().unwrap();
        copy.read_to_string(&mut theirs).unwrap();
        assert_eq!(soft(&ours), "4096");
        assert!(soft(&theirs) == "unlimited" || soft(&theirs).parse::<u64>().unwrap() > 4096, "{theirs}");
        assert_eq!(with_memory_to_lock(|| Err(Errno::NOSPC)).unwrap().unwrap_err(), Errno::NOSPC);
    }
}
