//! Raw system calls that our libraries lack: prototype, man section, SAFETY; nothing else.

mod bpf;
mod early;
mod entry;
mod mount;
mod process;
mod seccomp;

use rustix::io::Errno;

pub use bpf::*;
pub use early::{
    ENDS, MALLOC, NOT_FOR_THE_DAEMON, SERVES, begin_early, begin_start, parent_that_waits, sealed as sealed_early,
};
pub use entry::begin;
pub use mount::*;
pub use process::*;
pub use seccomp::*;

/// `long syscall(long number, ...)` — the bare instruction, without errno, TLS or cancellation; see syscall(2).
///
/// Returns the kernel's answer: a value, or the negated errno in -4095..=-1.
///
/// # Safety
/// The caller answers for what the call does to memory, descriptors and the process; see the man page of the call.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) unsafe fn raw(number: libc::c_long, a: [usize; 6]) -> isize {
    let ret: isize;
    // SAFETY: the x86-64 calling convention of the kernel: number in rax, arguments in rdi rsi rdx r10 r8 r9, rcx and r11
    // are clobbered, the stack is not touched. What the call itself does is the caller's obligation.
    unsafe {
        core::arch::asm!(
            "syscall",
            inlateout("rax") number as isize => ret,
            in("rdi") a[0], in("rsi") a[1], in("rdx") a[2], in("r10") a[3], in("r8") a[4], in("r9") a[5],
            lateout("rcx") _, lateout("r11") _,
            options(nostack)
        );
    }
    ret
}

/// See the x86-64 twin above.
///
/// # Safety
/// As there.
#[cfg(target_arch = "aarch64")]
#[inline(always)]
pub(crate) unsafe fn raw(number: libc::c_long, a: [usize; 6]) -> isize {
    let ret: isize;
    // SAFETY: the arm64 calling convention of the kernel: number in x8, arguments in x0 to x5, result in x0.
    unsafe {
        core::arch::asm!(
            "svc 0",
            in("x8") number,
            inlateout("x0") a[0] as isize => ret,
            in("x1") a[1], in("x2") a[2], in("x3") a[3], in("x4") a[4], in("x5") a[5],
            options(nostack)
        );
    }
    ret
}

/// Ends the process by a fault, for whom a seccomp profile does not let end otherwise: a signal that the kernel forces on the first
/// process of a pid namespace as well.
pub(crate) fn trap() -> ! {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: an invalid instruction touches nothing; it does not return.
    unsafe {
        core::arch::asm!("ud2", options(noreturn, nomem, nostack));
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above.
    unsafe {
        core::arch::asm!("udf #0", options(noreturn, nomem, nostack));
    }
}

/// Splits the kernel's answer into value and errno.
#[inline(always)]
pub(crate) fn answer(ret: isize) -> Result<usize, i32> {
    if (-4095..0).contains(&ret) { Err(-ret as i32) } else { Ok(ret as usize) }
}

/// The same for callers outside the child.
pub(crate) fn result(ret: isize) -> Result<usize, Errno> {
    answer(ret).map_err(Errno::from_raw_os_error)
}
