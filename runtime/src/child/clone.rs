//! clone3: from here on there are two of us.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::Ordering;

use rustix::io::Errno;

use super::call;
use super::image::Image;
use super::report::{Page, Report};
use super::run::{Stop, run};
use crate::error::{Error, Result};
use crate::plan::{Op, Plan, Section, Slot};
use crate::sys;

/// linux/sched.h CLONE_CLEAR_SIGHAND and CLONE_INTO_CGROUP; libc's constants are too narrow.
pub(super) const CLEAR_SIGHAND: u64 = 1 << 32;
const INTO_CGROUP: u64 = 1 << 33;

/// Makes the child, which runs the child section of the image's plan and never returns.
///
/// `into` is the v2 control group it is born in (clone3(2) CLONE_INTO_CGROUP). Gives the pid and the pidfd.
pub fn spawn(image: &mut Image<'_>, report: &Report, into: Option<BorrowedFd<'_>>) -> Result<(u32, OwnedFd)> {
    image.find_gaps();
    let mut pidfd: RawFd = -1;
    let mut args = [0u64; 11];
    args[0] = image.plan.clone_flags | (libc::CLONE_PIDFD as u64) | CLEAR_SIGHAND;
    args[1] = std::ptr::from_mut(&mut pidfd) as u64;
    args[4] = exit_signal(image.plan) as u64;
    if let Some(group) = into {
        args[0] |= INTO_CGROUP;
        args[10] = group.as_raw_fd() as u64;
    }
    let page = report.page();
    let masked = Masked::new();
    // SAFETY: without CLONE_VM and CLONE_VFORK the child has its own copy of our memory, this stack included, as after
    // fork(2); `args` outlives the call and `pidfd` is written to before it returns. In the child only `live` runs, which
    // makes raw system calls on memory allocated before and never returns, so that no lock or allocator state that another
    // thread left behind is met.
    let pid = unsafe { sys::raw(libc::SYS_clone3, [args.as_ptr() as usize, size_of_val(&args), 0, 0, 0, 0]) };
    if pid == 0 {
        live(image, page);
    }
    drop(masked);
    let pid = sys::result(pid).map_err(|e| Error::sys("clone3", "", e))?;
    // SAFETY: clone3 has succeeded with CLONE_PIDFD, so `pidfd` is a fresh descriptor that nobody else knows.
    Ok((pid as u32, unsafe { OwnedFd::from_raw_fd(pidfd) }))
}

/// Whether [`spawn_by_thread`] works: musl's clone(3) makes no threads.
pub const THREADS: bool = cfg!(target_env = "gnu");

/// Has a thread of ours carry out the child section of the image's plan up to [`Op::Fork`], which makes the child that goes on from
/// there. Gives the child's pid and pidfd, or `None` if the thread has ended without: the report says at which step.
///
/// The thread has descriptors, a working directory, a root and namespaces of its own, and shares everything else with us. It has
/// nothing more to do than to end when this returns.
pub fn spawn_by_thread(image: &mut Image<'_>, report: &Report) -> Result<Option<(u32, OwnedFd, Maker)>> {
    image.find_gaps();
    // What the thread closes, it closes for itself.
    let fds = image.fds.clone();
    image.on_thread = true;
    let ended = {
        let _masked = Masked::new();
        run_on_thread(&mut Thread { image, page: report.page() })
    };
    image.on_thread = false;
    image.fds = fds;
    let maker = Maker(ended.map_err(|e| Error::io("clone", "thread", &e))?);
    let pid = report.pid();
    let Some(id) = rustix::process::Pid::from_raw(pid.cast_signed()) else {
        maker.wait();
        return Ok(None);
    };
    // Our child, which nobody has reaped: the number is its own.
    match rustix::process::pidfd_open(id, rustix::process::PidfdFlags::empty()) {
        Ok(pidfd) => Ok(Some((pid, pidfd, maker))),
        Err(e) => {
            let _killed = call::kill(pid.cast_signed(), libc::SIGKILL);
            let _reaped = call::wait(pid.cast_signed());
            Err(Error::sys("pidfd_open", pid.to_string(), e))
        }
    }
}

/// The thread that has made a child, on its way out.
#[derive(Debug)]
pub struct Maker(i32);

impl Maker {
    /// Waits until it is gone: its descriptors are closed, and whoever asks for a signal at the end of his parent's thread
    /// (PR_SET_PDEATHSIG, prctl(2)) has another parent. It needs some microseconds.
    pub fn wait(&self) {
        while call::tgkill(std::process::id().cast_signed(), self.0, 0).is_ok() {
            std::thread::yield_now();
        }
    }
}

struct Thread<'a, 'p> {
    image: &'a mut Image<'p>,
    page: &'a Page,
}

/// Never inlined, so that its frame is small.
#[inline(never)]
fn run_on_thread(thread: &mut Thread<'_, '_>) -> std::io::Result<i32> {
    extern "C" fn begin(thread: *mut libc::c_void) -> libc::c_int {
        // SAFETY: the address is that of the caller's exclusive reference, and the caller stands still until we have ended.
        let thread = unsafe { &mut *thread.cast::<Thread<'_, '_>>() };
        live(thread.image, thread.page)
    }
    /// More than this frame and that of clone(3) take.
    const GAP: usize = 4096;
    let here = std::ptr::from_mut(thread).cast::<libc::c_void>();
    let mut mark = 0u64;
    let stack = std::ptr::from_mut(&mut mark).cast::<u8>().wrapping_sub(GAP).map_addr(|a| a & !63);
    let flags = libc::CLONE_VM | libc::CLONE_SIGHAND | libc::CLONE_THREAD | libc::CLONE_VFORK;
    // SAFETY: the thread runs on the part of our own stack that lies below what we use of it, guarded at its end as ours is; nobody
    // else does, because we stand still until it has let go of the memory (CLONE_VFORK), with all signals blocked. For the same reason it may use our
    // thread-local storage, which it does not, and what `thread` refers to. It never returns into our frames: `live` ends it. It
    // makes raw system calls only, on memory allocated before, so that no lock of another thread's is met.
    let tid = unsafe { libc::clone(begin, stack.cast(), flags, here) };
    if tid < 0 { Err(std::io::Error::last_os_error()) } else { Ok(tid) }
}

/// [`Op::Fork`]: returns in the child only. The parent of that is our process, whichever thread of it remains.
pub(super) fn fork(image: &mut Image<'_>, into: Option<Slot>, page: &Page) -> call::Outcome {
    let mut args = [0u64; 11];
    // Without an exit signal until execve, see `exit_signal`.
    args[0] = libc::CLONE_PARENT_SETTID as u64 | CLEAR_SIGHAND;
    args[3] = page.pid.as_ptr() as u64;
    if let Some(group) = into {
        args[0] |= INTO_CGROUP;
        args[10] = image.fd(group) as u64;
    }
    // SAFETY: as in `spawn`; the pid is written to a word of the shared page.
    let pid = unsafe { sys::raw(libc::SYS_clone3, [args.as_ptr() as usize, size_of_val(&args), 0, 0, 0, 0]) };
    if sys::answer(pid)? != 0 {
        end_thread();
    }
    image.on_thread = false;
    Ok(0)
}

fn end_thread() -> ! {
    loop {
        // SAFETY: exit(2) ends this thread alone, which owns nothing but its descriptors.
        let _never = unsafe { sys::raw(libc::SYS_exit, [0; 6]) };
    }
}

/// SIGCHLD. But the first child of an exec, which only joins the container and makes way for another one, announces its end to
/// nobody, for that would wake the parent's loop in vain: it is waited for by its pidfd, with __WALL. Its successor inherits
/// that (clone(2), CLONE_PARENT) until execve(2), which sets SIGCHLD.
fn exit_signal(plan: &Plan) -> i32 {
    let makes_way = plan.child.iter().any(|step| matches!(step.op, Op::Respawn { flags: 0 }));
    if makes_way { 0 } else { libc::SIGCHLD }
}

/// All signals blocked, so that none of the parent's handlers runs in the child before they are cleared.
pub(super) struct Masked(u64);

impl Masked {
    pub(super) fn new() -> Self {
        let (all, mut old) = (u64::MAX, 0u64);
        let set = std::ptr::from_ref(&all) as usize;
        let out = std::ptr::from_mut(&mut old) as usize;
        // SAFETY: rt_sigprocmask(2) reads and writes 8 bytes each at the addresses of two live integers.
        let _cannot_fail =
            unsafe { sys::raw(libc::SYS_rt_sigprocmask, [libc::SIG_SETMASK as usize, set, out, 8, 0, 0]) };
        Self(old)
    }
}

impl Drop for Masked {
    fn drop(&mut self) {
        let set = std::ptr::from_ref(&self.0) as usize;
        // SAFETY: as above, only reading.
        let _cannot_fail = unsafe { sys::raw(libc::SYS_rt_sigprocmask, [libc::SIG_SETMASK as usize, set, 0, 8, 0, 0]) };
    }
}

fn live(image: &mut Image<'_>, page: &Page) -> ! {
    let status = match run(image, Section::Child, page) {
        Ok(()) => 0,
        Err(Stop { step, errno }) => {
            page.errno.store(errno, Ordering::Release);
            if image.on_thread {
                end_thread();
            }
            exit_status(image, step, errno)
        }
    };
    call::exit(status)
}

/// What a shell would exit with: 127 for a payload that is not there, 126 for one that cannot be executed.
fn exit_status(image: &Image<'_>, step: u16, errno: i32) -> i32 {
    match image.plan.child.get(step as usize).map(|s| s.op) {
        Some(Op::Exec { .. }) if errno == libc::ENOENT || errno == libc::ENOTDIR => 127,
        Some(Op::Exec { .. }) => 126,
        _ => 1,
    }
}

/// The errno of a raw number.
pub fn errno(number: i32) -> Errno {
    Errno::from_raw_os_error(number)
}
