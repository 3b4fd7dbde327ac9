//! Programs in the kernel: a child loads one and makes calls.

use std::io;

use runtime::seccomp::Program;

/// What a child did: its exit status, or the signal that ended it.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    Exit(i32),
    Signal(i32),
}

/// One system call with what it must answer: a value ≥ 0 of any size, or an errno.
pub struct Call {
    pub number: i64,
    pub args: [u64; 4],
    pub errno: i32,
}

/// Loads the program in a child and makes the calls. The exit status is 0, 100 if loading failed, 101 if it returned no
/// descriptor although it should (or the reverse), else the place of the call with a wrong answer, from 1.
pub fn run(program: &Program, calls: &[Call]) -> End {
    #[repr(C)]
    struct Fprog<'a> {
        len: u16,
        filter: *const runtime::seccomp::Insn,
        _borrow: std::marker::PhantomData<&'a ()>,
    }
    let len = u16::try_from(program.filter.len()).expect("length");
    let fprog = Fprog { len, filter: program.filter.as_ptr(), _borrow: std::marker::PhantomData };
    // SAFETY: the child only makes system calls and touches memory that was there before; it neither allocates nor returns.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork: {}", io::Error::last_os_error());
    if pid == 0 {
        // SAFETY: plain system calls; `fprog` and the program live in this frame's callers. `_exit` never returns.
        unsafe {
            let exit = |status| libc::syscall(libc::SYS_exit_group, i64::from(status));
            if libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1u64, 0u64, 0u64, 0u64) != 0 {
                exit(100);
            }
            let fd = libc::syscall(libc::SYS_seccomp, 1u64, u64::from(program.flags), &raw const fprog);
            if fd < 0 {
                exit(100);
            }
            if (fd > 0) != program.notify {
                exit(101);
            }
            for (at, call) in calls.iter().enumerate() {
                let [a, b, c, d] = call.args;
                let got = if libc::syscall(call.number, a, b, c, d) < 0 { *libc::__errno_location() } else { 0 };
                if got != call.errno {
                    exit(at as i32 + 1);
                }
            }
            exit(0);
        }
    }
    let mut status = 0;
    // SAFETY: waits for our own child; `status` is writable.
    let waited = unsafe { libc::waitpid(pid, &raw mut status, 0) };
    assert_eq!(waited, pid, "waitpid: {}", io::Error::last_os_error());
    if libc::WIFEXITED(status) { End::Exit(libc::WEXITSTATUS(status)) } else { End::Signal(libc::WTERMSIG(status)) }
}
