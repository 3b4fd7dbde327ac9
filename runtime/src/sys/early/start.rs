//! The shim's `start` without a C library of its own: its process only makes the daemon and waits until it serves.
//!
//! The daemon has to be executed anyway, from a file that nobody can write. So what `start` does is done by that program before
//! it turns to serving, and the first one ends without ever having had a heap. It hands down the writing end of a pipe, as
//! `MINI_READY=N ` in the environment, and waits for a byte: then it ends well, at once or with the other. Where the pipe ends without
//! one, the other has failed, and its exit code is ours.

use std::mem::MaybeUninit;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicI32, Ordering};

use super::super::raw;
use super::{EMPTY, Exe, exe, execute, is, read_only_tree};

entry_point!(
    /// The entry point of the shim.
    begin_start,
    early
);

static READY: AtomicI32 = AtomicI32::new(-1);

/// The process that has executed us and waits for a byte, or for the end of this pipe; `None` if there is none, and the second
/// time. Until it has the byte, its death is ours.
pub fn parent_that_waits() -> Option<OwnedFd> {
    let fd = READY.swap(-1, Ordering::Relaxed);
    // SAFETY: the number is what our first image has handed down as a descriptor above 2, `adopt` has seen that it is an open
    // one, nothing else knows it, and the swap gives it away once only.
    (fd > 2).then(|| unsafe { OwnedFd::from_raw_fd(fd) })
}

/// To the parent that waits: a daemon serves.
pub const SERVES: u8 = b'1';
/// To the parent that waits: all is well, and nothing lives on.
pub const ENDS: u8 = b'0';

const MARK: *const u8 = c"MINI_READY=".as_ptr().cast();
const MARK_LEN: usize = 11;
/// How much freed memory glibc's malloc keeps for its thread: of each size up to 1 KiB two pieces, not seven. They lie all over the heap,
/// and each holds a page that malloc_trim(3) could give back. It is read at the start of a program only ("The GNU C Library
/// Reference Manual", 39.2 Memory Allocation Tunables).
pub const MALLOC: &std::ffi::CStr = c"GLIBC_TUNABLES=glibc.malloc.tcache_count=2";
/// Beginnings of what is not handed down, each with a NUL: containerd's words to `start` (GOMAXPROCS and MAX_SHIM_VERSION),
/// what systemd said to containerd alone, and a mark that is not ours. The rest of containerd's environment stays for helper programs; containers get nothing
/// of it.
pub const NOT_FOR_THE_DAEMON: &[u8] =
    b"GOMAXPROCS=\0MAX_SHIM_VERSION=\0NOTIFY_SOCKET=\0WATCHDOG_PID=\0WATCHDOG_USEC=\0LISTEN_PID=\0LISTEN_FDS=\0MINI_READY=\0";
/// A longer environment is left to the other way.
const ENVIRONMENT: usize = 250;

/// # Safety
/// `stack` is what the kernel has put on the stack of a new program: argc, argv, NULL, envp, NULL.
unsafe extern "C" fn early(stack: *mut usize) {
    // SAFETY: by the caller's promise; argv has argc pointers and a NULL, and envp begins after that. All of it is ours to change.
    unsafe {
        let (argc, argv) = (stack.read_volatile(), stack.wrapping_add(1));
        let envp = argv.wrapping_add(argc.wrapping_add(1));
        if !adopt(envp) && says_start(argc, argv) {
            start(argv, argv.wrapping_add(argc.wrapping_sub(1)), envp);
        }
    }
}

/// In the second image: takes the mark out of the environment, so that what came with it is left.
///
/// # Safety
/// `envp` is that of a new program.
unsafe fn adopt(mut envp: *mut usize) -> bool {
    // SAFETY: a null-terminated array of NUL-terminated strings, and fcntl(2) only sets the flag of a descriptor.
    unsafe {
        loop {
            match envp.read_volatile() as *const u8 {
                word if word.is_null() => return false,
                word if begins(word, MARK) => break,
                _ => envp = envp.wrapping_add(1),
            }
        }
        let (mut digit, mut fd) = ((envp.read_volatile() as *const u8).wrapping_add(MARK_LEN), 0_usize);
        while digit.read_volatile().is_ascii_digit() {
            fd = fd.wrapping_mul(10).wrapping_add(usize::from(digit.read_volatile().wrapping_sub(b'0')));
            digit = digit.wrapping_add(1);
        }
        let adopted = digit.read_volatile() == b' '
            && fd > 2
            && matches!(exe(), Exe::Sealed)
            && raw(libc::SYS_fcntl, [fd, libc::F_SETFD as usize, libc::FD_CLOEXEC as usize, 0, 0, 0]) == 0;
        if adopted {
            envp.write_volatile(digit.wrapping_add(1) as usize);
            READY.store(fd as RawFd, Ordering::Relaxed);
        }
        adopted
    }
}

/// True if the last word is the action `start`, and not what a flag before it means.
///
/// # Safety
/// `argv` is that of a new program.
unsafe fn says_start(argc: usize, argv: *const usize) -> bool {
    // SAFETY: below argc, so pointers to NUL-terminated strings.
    unsafe {
        let word = |at: usize| argv.wrapping_add(argc.wrapping_sub(at)).read_volatile() as *const u8;
        argc > 2
            && is(word(1), c"start".as_ptr().cast())
            && (!begins(word(2), c"-".as_ptr().cast()) || is(word(2), c"-debug".as_ptr().cast()))
    }
}

/// True if `word` begins with `other`.
///
/// # Safety
/// Both are NUL-terminated.
unsafe fn begins(mut word: *const u8, mut other: *const u8) -> bool {
    loop {
        // SAFETY: neither has been read beyond its NUL: a NUL of the first one differs, or the other has ended.
        let (a, b) = unsafe { (word.read_volatile(), other.read_volatile()) };
        if b == 0 || a != b {
            return b == 0;
        }
        (word, other) = (word.wrapping_add(1), other.wrapping_add(1));
    }
}

/// What the child needs, in the memory that both share until its execve.
struct Birth {
    argv: *const usize,
    envp: *const usize,
    tree: usize,
    ready: usize,
    parent: isize,
    failed: bool,
}

/// Makes the daemon, and ends as it says. Returns, with nothing changed, if that is not possible.
///
/// # Safety
/// The arrays are those of a new program, `last` is in `argv`.
unsafe fn start(argv: *const usize, last: *mut usize, envp: *const usize) {
    let mut environment = MaybeUninit::<[usize; ENVIRONMENT + 2]>::uninit();
    let mut mark = MaybeUninit::<[u8; MARK_LEN + 12 + MALLOC.count_bytes()]>::uninit();
    let mut pipe = MaybeUninit::<[RawFd; 2]>::uninit();
    let (environment, mark, pipe) =
        (environment.as_mut_ptr().cast(), mark.as_mut_ptr().cast(), pipe.as_mut_ptr().cast::<RawFd>());
    // SAFETY: the buffers are live and as long as `environment_of` needs; pipe2(2) fills two numbers.
    unsafe {
        let Some(tree) = read_only_tree() else { return };
        if raw(libc::SYS_pipe2, [pipe as usize, libc::O_CLOEXEC as usize, 0, 0, 0, 0]) != 0 {
            return close(tree);
        }
        let (read, write) = (pipe.read_volatile() as usize, pipe.wrapping_add(1).read_volatile() as usize);
        // Lower numbers mean that our standard streams are not all open, which Rust's start sees to.
        if tree > 2 && read > 2 && write > 2 && environment_of(envp, write, mark, environment) {
            let word = last.read_volatile();
            // The daemon's command line does not say `start`: it goes on.
            last.write_volatile(0);
            let parent = ask(libc::SYS_getpid, 0);
            let mut birth = Birth { argv, envp: environment, tree, ready: write, parent, failed: false };
            wait(&raw mut birth, read);
            last.write_volatile(word);
        }
        close(read);
        close(write);
        close(tree);
    }
}

/// # Safety
/// It is ours.
unsafe fn close(fd: usize) {
    // SAFETY: by the caller's promise.
    unsafe { raw(libc::SYS_close, [fd, 0, 0, 0, 0, 0]) };
}

/// The daemon's environment: ours without what is not for it, and the mark. False if it is too long.
///
/// # Safety
/// `envp` is that of a new program, `to` has place for [`ENVIRONMENT`] words, the mark and a null, `mark` for what
/// [`mark_of`] writes.
unsafe fn environment_of(envp: *const usize, ready: usize, mark: *mut u8, to: *mut usize) -> bool {
    let (mut from, mut n, mut and) = (envp, 0_usize, MALLOC.as_ptr().cast::<u8>());
    // SAFETY: `envp` is null-terminated; `n` never exceeds ENVIRONMENT before the last two words.
    unsafe {
        while from.read_volatile() != 0 {
            let word = from.read_volatile() as *const u8;
            if begins(word, c"GLIBC_TUNABLES=".as_ptr().cast()) {
                and = EMPTY;
            }
            if !is_dropped(word) {
                if n == ENVIRONMENT {
                    return false;
                }
                to.wrapping_add(n).write_volatile(word as usize);
                n = n.wrapping_add(1);
            }
            from = from.wrapping_add(1);
        }
        mark_of(ready, and, mark);
        to.wrapping_add(n).write_volatile(mark as usize);
        to.wrapping_add(n).wrapping_add(1).write_volatile(0);
    }
    true
}

/// `MINI_READY=`, the number, a space, and another string.
///
/// # Safety
/// `and` is NUL-terminated, and `to` has place for [`MARK_LEN`] and 11 bytes and all of `and`.
unsafe fn mark_of(fd: usize, and: *const u8, to: *mut u8) {
    // SAFETY: MARK_LEN bytes of the constant, at most 10 digits, a space, and `and` with its NUL.
    unsafe {
        let mut to = append(MARK, to);
        let mut unit = 1_usize;
        while fd / unit > 9 {
            unit = unit.wrapping_mul(10);
        }
        while unit > 0 {
            to.write_volatile(b'0'.wrapping_add((fd / unit % 10) as u8));
            to = to.wrapping_add(1);
            unit /= 10;
        }
        to.write_volatile(b' ');
        append(and, to.wrapping_add(1));
    }
}

/// Answers where the NUL is.
///
/// # Safety
/// `from` is NUL-terminated, and `to` has place for all of it.
unsafe fn append(mut from: *const u8, mut to: *mut u8) -> *mut u8 {
    loop {
        // SAFETY: by the caller's promise; nothing is read beyond the NUL.
        unsafe {
            to.write_volatile(from.read_volatile());
            if from.read_volatile() == 0 {
                return to;
            }
        }
        (from, to) = (from.wrapping_add(1), to.wrapping_add(1));
    }
}

/// # Safety
/// `word` is NUL-terminated.
unsafe fn is_dropped(word: *const u8) -> bool {
    let (names, mut at) = (NOT_FOR_THE_DAEMON.as_ptr(), 0);
    // SAFETY: by the caller's promise, and each beginning in the constant is NUL-terminated.
    unsafe {
        while at < NOT_FOR_THE_DAEMON.len() {
            if begins(word, names.wrapping_add(at)) {
                return true;
            }
            while names.wrapping_add(at).read_volatile() != 0 {
                at = at.wrapping_add(1);
            }
            at = at.wrapping_add(1);
        }
    }
    false
}

/// Makes the child, waits for it, and ends. Returns if there is no child, or it could not execute.
///
/// # Safety
/// What `birth` points to is what execve(2) takes, and its descriptors and `read` are ours.
unsafe fn wait(birth: *mut Birth, read: usize) {
    // SAFETY: by the caller's promise; the child has ended or executed when it is our turn again, and `failed` is the only thing
    // that it has changed. read(2) and wait4(2) fill live words.
    unsafe {
        let pid = vfork(birth);
        if pid < 0 {
            return;
        }
        let failed = (&raw const (*birth).failed).read_volatile();
        let mut byte = MaybeUninit::<u8>::uninit();
        let mut well = false;
        if !failed {
            close((*birth).ready);
            well = patiently(libc::SYS_read, [read, byte.as_mut_ptr() as usize, 1, 0]) == 1;
            if well && byte.as_ptr().read_volatile() == SERVES {
                end(0);
            }
        }
        let mut status = MaybeUninit::<u32>::uninit();
        let reaped = patiently(libc::SYS_wait4, [pid as usize, status.as_mut_ptr() as usize, 0, 0]) == pid;
        if well {
            end(0);
        }
        if !failed {
            // Nobody can tell where our caller made us ignore SIGCHLD, and that is no success.
            let status = if reaped { status.as_ptr().read_volatile() } else { 1 << 8 };
            end(if status & 0x7f == 0 { status >> 8 & 0xff } else { 128_u32.wrapping_add(status & 0x7f) });
        }
    }
}

/// A call of one word, which not even a debug build takes for a constant array.
///
/// # Safety
/// As [`raw`].
unsafe fn ask(number: libc::c_long, word: usize) -> isize {
    // SAFETY: by the caller's promise.
    unsafe { raw(number, [word, word, word, word, word, word]) }
}

/// As `raw`, without EINTR.
///
/// # Safety
/// As [`raw`].
unsafe fn patiently(number: libc::c_long, [a, b, c, d]: [usize; 4]) -> isize {
    loop {
        // SAFETY: by the caller's promise.
        let answer = unsafe { raw(number, [a, b, c, d, 0, 0]) };
        if answer != -(libc::EINTR as isize) {
            return answer;
        }
    }
}

fn end(code: u32) {
    // SAFETY: ends the process; nothing is to be flushed or freed.
    unsafe { raw(libc::SYS_exit_group, [code as usize, 0, 0, 0, 0, 0]) };
}

/// What clone(2) calls `CLONE_VM | CLONE_VFORK`: the child has our memory and, below our frames, our stack, while we stand still
/// until it has executed or ended. It runs in a call of its own, made by the instruction after the system call, so that nothing
/// that the compiler keeps for us is written twice.
///
/// # Safety
/// As [`child`].
#[cfg(target_arch = "x86_64")]
unsafe fn vfork(birth: *mut Birth) -> isize {
    let pid: isize;
    // SAFETY: the calling convention of `raw`; without `nostack` the stack is aligned for the call, and nothing of ours is
    // below its pointer. Only the child makes the call, which does not return, and its registers are its own.
    unsafe {
        core::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "mov rdi, r12",
            "call {child}",
            "ud2",
            "2:",
            child = sym child,
            in("r12") birth,
            inlateout("rax") libc::SYS_clone as isize => pid,
            in("rdi") VFORK, in("rsi") 0_usize, in("rdx") 0_usize, in("r10") 0_usize, in("r8") 0_usize,
            lateout("rcx") _, lateout("r11") _,
        );
    }
    pid
}

/// See the x86-64 twin above.
///
/// # Safety
/// As there.
#[cfg(target_arch = "aarch64")]
unsafe fn vfork(birth: *mut Birth) -> isize {
    let pid: isize;
    // SAFETY: as above; the link register, too, is written by the child only.
    unsafe {
        core::arch::asm!(
            "svc 0",
            "cbnz x0, 2f",
            "mov x0, x20",
            "bl {child}",
            "brk 1",
            "2:",
            child = sym child,
            in("x20") birth,
            in("x8") libc::SYS_clone,
            inlateout("x0") VFORK as isize => pid,
            in("x1") 0_usize, in("x2") 0_usize, in("x3") 0_usize, in("x4") 0_usize,
        );
    }
    pid
}

const VFORK: usize = (libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD) as usize;

/// The kernel's set of signals.
static NO_SIGNAL: u64 = 0;

/// The child until its execve: it dies with its parent, and hands down nothing but the standard streams and the pipe; no signal
/// is blocked (posix_spawn(3) sees to that in the other way).
///
/// # Safety
/// Of [`vfork`]'s child only; `birth` is as [`wait`] wants it.
unsafe extern "C" fn child(birth: *mut Birth) {
    const CLOEXEC: usize = libc::CLOSE_RANGE_CLOEXEC as usize;
    // SAFETY: the table of descriptors is the child's own, and so is what prctl(2) sets; the one write is to the live struct.
    unsafe {
        let (tree, ready, none) = ((*birth).tree, (*birth).ready, &raw const NO_SIGNAL as usize);
        if raw(libc::SYS_prctl, [libc::PR_SET_PDEATHSIG as usize, libc::SIGKILL as usize, 0, 0, 0, 0]) == 0
            && ask(libc::SYS_getppid, 0) == (*birth).parent
            && raw(libc::SYS_close_range, [3, u32::MAX as usize, CLOEXEC, 0, 0, 0]) == 0
            && raw(libc::SYS_fcntl, [ready, libc::F_SETFD as usize, 0, 0, 0, 0]) == 0
            && raw(libc::SYS_rt_sigprocmask, [libc::SIG_SETMASK as usize, none, 0, 8, 0, 0]) == 0
        {
            execute(tree, (*birth).argv, (*birth).envp);
        }
        (&raw mut (*birth).failed).write_volatile(true);
    }
    end(1);
}
