//! Raw system calls that our libraries lack: prototype, man section, SAFETY; nothing else.

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::Errno;

use crate::reap::End;

// ---- children and signals of this process (reap.rs, the shim) -------------------------------------------------------

/// `int waitid(idtype_t idtype, id_t id, siginfo_t *infop, int options)` without waiting — waitid(2). rustix has the call
/// but not si_pid, without which a child that was only peeked at cannot be told from another.
///
/// Answers the child's pid and how it ended, `None` if no child has ended. With `pidfd` only that child is asked for, whatever
/// its exit signal (__WALL); `reap` takes it away, otherwise it stays a zombie.
pub fn ended_child(pidfd: Option<BorrowedFd<'_>>, reap: bool) -> Result<Option<(u32, End)>, Errno> {
    let (kind, id, which) = match pidfd {
        // A descriptor is never negative.
        Some(fd) => (libc::P_PIDFD, fd.as_raw_fd() as libc::id_t, libc::__WALL),
        None => (libc::P_ALL, 0, 0),
    };
    let peek = if reap { 0 } else { libc::WNOWAIT };
    // SAFETY: siginfo_t is plain integers and pointers, for which zeroes are a value.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: `info` is a live siginfo_t that the call fills, and the descriptor is borrowed for the whole call.
    if unsafe { libc::waitid(kind, id, &mut info, libc::WEXITED | libc::WNOHANG | which | peek) } != 0 {
        return Err(last_errno());
    }
    // SAFETY: waitid succeeded, so these fields are those of SIGCHLD, or all zero when no child has ended.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    if pid == 0 {
        return Ok(None);
    }
    let end = match info.si_code {
        libc::CLD_EXITED => End::Exited(status),
        code => End::Killed { signal: status, core: code == libc::CLD_DUMPED },
    };
    Ok(Some((pid.unsigned_abs(), end)))
}

/// Whether this child is stopped (SIGSTOP and its like), without waiting — waitid(2), WSTOPPED.
pub fn is_stopped(pidfd: BorrowedFd<'_>) -> bool {
    // SAFETY: siginfo_t is plain integers and pointers, for which zeroes are a value.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let how = libc::WSTOPPED | libc::WNOHANG | libc::WNOWAIT | libc::__WALL;
    // SAFETY: `info` is a live siginfo_t that the call fills, and the descriptor is borrowed for the whole call.
    let asked = unsafe { libc::waitid(libc::P_PIDFD, pidfd.as_raw_fd() as libc::id_t, &mut info, how) };
    // SAFETY: waitid has filled in these fields, or left them zero.
    asked == 0 && unsafe { info.si_pid() } != 0
}

/// `int pidfd_send_signal(int pidfd, int sig, siginfo_t *info, unsigned int flags)` with any number — pidfd_send_signal(2).
/// rustix takes only signals that have a name, and clients send real-time ones and 0.
pub fn signal_pidfd(pidfd: BorrowedFd<'_>, signal: i32) -> Result<(), Errno> {
    let info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: the descriptor is borrowed for the whole call; a null siginfo is what kill(2) would send.
    let ret = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, info, 0) };
    if ret == 0 { Ok(()) } else { Err(last_errno()) }
}

/// `sighandler_t signal(int signum, sighandler_t handler)` — signal(2): SIGCHLD is not ignored any more, as who executed us may have
/// had it; then the kernel would reap our children, and nobody could tell how they ended.
pub fn heed_children() {
    // SAFETY: no handler is installed, and the number is one that may be set.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
}

/// Blocks these signals in the calling thread (and in all it will make) and answers a descriptor from which their
/// numbers can be read: `int signalfd(int fd, const sigset_t *mask, int flags)` — signalfd(2), pthread_sigmask(3).
pub fn signal_fd(signals: &[i32]) -> Result<OwnedFd, Errno> {
    // SAFETY: sigset_t is plain integers; sigemptyset gives it its value and fails for no argument but a bad pointer.
    let mut mask: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `mask` is a live sigset_t; sigaddset checks the number itself.
    let bad =
        unsafe { libc::sigemptyset(&mut mask) != 0 || signals.iter().any(|s| libc::sigaddset(&mut mask, *s) != 0) };
    if bad {
        return Err(Errno::INVAL);
    }
    // SAFETY: `mask` is initialised; the old mask is not wanted.
    let error = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &mask, std::ptr::null_mut()) };
    if error != 0 {
        return Err(Errno::from_raw_os_error(error));
    }
    // SAFETY: -1 asks for a new descriptor; `mask` is initialised.
    let fd = unsafe { libc::signalfd(-1, &mask, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
    if fd < 0 {
        return Err(last_errno());
    }
    // SAFETY: the kernel has just made this descriptor for us and nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `int posix_spawn(pid_t *pid, const char *path, …)` with descriptors put at given numbers — posix_spawn(3), which std's
/// Command can only do for 0, 1 and 2, and in `dir`. A name without a slash is looked up in PATH. Signals are set back to their
/// defaults, none is blocked, which std's Command leaves as they are with us. Answers the pid.
///
/// The sources must not be numbers that are targets as well.
pub fn spawn(
    path: &CStr,
    argv: &[CString],
    env: &[CString],
    dir: Option<BorrowedFd<'_>>,
    fds: &[(BorrowedFd<'_>, i32)],
) -> Result<u32, Errno> {
    let pointers = |strings: &[CString]| -> Vec<*mut libc::c_char> {
        strings.iter().map(|s| s.as_ptr().cast_mut()).chain([std::ptr::null_mut()]).collect()
    };
    let (argv, env) = (pointers(argv), pointers(env));
    let mut pid = 0;
    // SAFETY: all three are opaque structs for which the init calls below, made before any other use, give a value.
    let (mut actions, mut attributes, mut signals): (libc::posix_spawn_file_actions_t, libc::posix_spawnattr_t, _) =
        unsafe { (std::mem::zeroed(), std::mem::zeroed(), std::mem::zeroed()) };
    // SAFETY: the structs are live and initialised in this order, and destroyed once after their last use; path, argv and
    // env are NUL-terminated strings in null-terminated arrays that outlive the call, which copies nothing back into them
    // (the `mut` in the prototype is historical, see "RATIONALE" in exec(3p)).
    let error = unsafe {
        libc::posix_spawn_file_actions_init(&mut actions);
        libc::posix_spawnattr_init(&mut attributes);
        libc::sigfillset(&mut signals);
        libc::posix_spawnattr_setsigdefault(&mut attributes, &signals);
        libc::sigemptyset(&mut signals);
        libc::posix_spawnattr_setsigmask(&mut attributes, &signals);
        let flags = libc::POSIX_SPAWN_SETSIGDEF | libc::POSIX_SPAWN_SETSIGMASK;
        libc::posix_spawnattr_setflags(&mut attributes, flags as libc::c_short);
        let mut error = 0;
        for (fd, target) in fds {
            error = error.max(libc::posix_spawn_file_actions_adddup2(&mut actions, fd.as_raw_fd(), *target));
        }
        if let Some(dir) = dir {
            error = error.max(libc::posix_spawn_file_actions_addfchdir_np(&mut actions, dir.as_raw_fd()));
        }
        if error == 0 {
            error = libc::posix_spawnp(&mut pid, path.as_ptr(), &actions, &attributes, argv.as_ptr(), env.as_ptr());
        }
        libc::posix_spawn_file_actions_destroy(&mut actions);
        libc::posix_spawnattr_destroy(&mut attributes);
        error
    };
    if error == 0 { Ok(pid.unsigned_abs()) } else { Err(Errno::from_raw_os_error(error)) }
}

/// `int pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*start)(void *), void *arg)`, detached, with
/// `stack` bytes of address space — pthread_create(3). A thread of std's costs ten system calls more, for the message that
/// it prints when its stack overflows; this one just dies of SIGSEGV, and the process with it, as std's does.
///
/// A `job` that panics ends the process.
pub fn thread<F: FnOnce() + Send + 'static>(stack: usize, job: F) -> Result<(), Errno> {
    extern "C" fn begin<F: FnOnce()>(job: *mut libc::c_void) -> *mut libc::c_void {
        // SAFETY: the address is that of the box below, which was given up for this one call.
        let job = unsafe { Box::from_raw(job.cast::<F>()) };
        job();
        std::ptr::null_mut()
    }
    fn create(
        stack: usize,
        begin: extern "C" fn(*mut libc::c_void) -> *mut libc::c_void,
        job: *mut libc::c_void,
    ) -> libc::c_int {
        // SAFETY: pthread_attr_t is an opaque struct and pthread_t a number; the init call gives the first its value before
        // any other use, and pthread_create the second. The attributes are destroyed once, after their last use. `begin`
        // takes what `job` points to, as its caller has seen to.
        unsafe {
            let (mut attributes, mut thread) = (std::mem::zeroed(), std::mem::zeroed());
            libc::pthread_attr_init(&mut attributes);
            libc::pthread_attr_setdetachstate(&mut attributes, libc::PTHREAD_CREATE_DETACHED);
            let mut error = libc::pthread_attr_setstacksize(&mut attributes, stack);
            if error == 0 {
                error = libc::pthread_create(&mut thread, &attributes, begin, job);
            }
            libc::pthread_attr_destroy(&mut attributes);
            error
        }
    }
    let job = Box::into_raw(Box::new(job));
    let error = create(stack, begin::<F>, job.cast());
    if error == 0 {
        return Ok(());
    }
    // SAFETY: no thread was made, so the box is still ours alone.
    drop(unsafe { Box::from_raw(job) });
    Err(Errno::from_raw_os_error(error))
}

/// Makes everything from `first` on close-on-exec, whoever opened it: `int close_range(unsigned first, unsigned last,
/// unsigned flags)` with CLOSE_RANGE_CLOEXEC — close_range(2), since Linux 5.11; before, one by one.
pub fn close_on_exec_from(first: u32) -> Result<(), Errno> {
    // SAFETY: no descriptor is closed, moved or made; the flag matters to execve only.
    let ret = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if ret == 0 {
        return Ok(());
    }
    let open = std::fs::read_dir("/proc/self/fd").map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
    let numbers = open.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    for number in numbers.filter(|number| *number >= first) {
        // SAFETY: as above; the directory's own descriptor has the flag already.
        unsafe { libc::fcntl(number.cast_signed(), libc::F_SETFD, libc::FD_CLOEXEC) };
    }
    Ok(())
}

/// Closes descriptors, those with neighbouring numbers in one go: `int close_range(unsigned first, unsigned last, unsigned
/// flags)` — close_range(2), since Linux 5.9; where it is refused, one by one.
pub fn close_all(mut fds: Vec<OwnedFd>) {
    fds.sort_unstable_by_key(AsRawFd::as_raw_fd);
    let mut fds = fds.into_iter().peekable();
    while let Some(first) = fds.next() {
        let start = first.as_raw_fd();
        let mut run = vec![first];
        while let Some(next) = fds.next_if(|fd| fd.as_raw_fd() == start + run.len() as RawFd) {
            run.push(next);
        }
        if run.len() < 2 {
            continue;
        }
        let last = start + run.len() as RawFd - 1;
        // SAFETY: each number of the range is owned by `run`, which forgets them if they are closed.
        if unsafe { libc::syscall(libc::SYS_close_range, start, last, 0) } == 0 {
            run.into_iter().for_each(std::mem::forget);
        }
    }
}

/// `int mallopt(int param, int value)` — mallopt(3). M_ARENA_MAX = 1: a short-lived worker thread would otherwise leave an
/// arena of its own behind in a process that is to stay small. M_TRIM_THRESHOLD: free(3) leaves it to [`trim_malloc`] to give
/// memory back, else each burst of work would fetch the same pages again.
pub fn frugal_malloc() {
    // SAFETY: mallopt takes two integers and may be called at any time.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 4 << 20);
    }
}

/// `int malloc_trim(size_t pad)` — malloc_trim(3): gives freed pages back after a burst of work.
pub fn trim_malloc() {
    // SAFETY: takes an integer, locks the arenas itself.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_and_no_others_are_closed() {
        let null = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let open = |fd: &RawFd| std::path::Path::new(&format!("/proc/self/fd/{fd}")).exists();
        // Numbers that no other test's thread is given when they are free again.
        let place = |fd: RawFd| rustix::io::fcntl_dupfd_cloexec(null(), fd).unwrap();
        let fds: Vec<OwnedFd> = (700..712).map(place).collect();
        let numbers: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        assert_eq!(numbers, (700..712).collect::<Vec<_>>());
        let (mut kept, mut closed): (Vec<_>, Vec<_>) = fds.into_iter().partition(|fd| fd.as_raw_fd() % 5 == 1);
        closed.reverse();
        kept.push(null());
        close_all(closed);
        assert_eq!(numbers.iter().filter(|fd| open(fd)).collect::<Vec<_>>(), [&701, &706, &711]);
        close_all(kept);
        assert!(!numbers.iter().any(open));
    }
}
