//! How our programs begin.
//!
//! Rust's own start asks for the bounds of the stack, the CPUs and /proc/self/maps in order to print a sentence when the
//! stack overflows: twenty system calls in every one of the four processes of a container's life by commands, and five
//! for every thread. We do without that sentence (the guard page stays, so an overflow still kills), and keep the rest.

use std::os::fd::RawFd;

/// The program's `main`, in place of Rust's: `entry!(f)` with `fn f() -> u8`, which answers the exit code. The crate needs
/// `#![cfg_attr(not(test), no_main)]`: its unit tests have the main of their harness, and only compile this one's function.
#[macro_export]
macro_rules! entry {
    ($f:path) => {
        // SAFETY: this is the one `main` of a C program, called once by the C library's start; it has that prototype, less
        // the arguments, which the C ABI allows a callee to ignore (std takes them from .init_array).
        #[cfg(not(test))]
        #[unsafe(no_mangle)]
        extern "C" fn main() -> i32 {
            $crate::sys::begin();
            // Flushes standard output, as the return from Rust's own main does.
            std::process::exit(i32::from($f()))
        }

        #[cfg(test)]
        fn main() {
            $f();
        }
    };
}

/// What Rust's start does that we rely on: descriptors 0, 1 and 2 are open, so that nothing else gets these numbers, and
/// SIGPIPE is ignored, so that a reader that has gone is an error of write(2).
pub fn begin() {
    let closed = |fd: RawFd| libc::pollfd { fd, events: 0, revents: 0 };
    let mut fds = [closed(0), closed(1), closed(2)];
    // SAFETY: poll(2) fills `revents` of the three live structs.
    let polled = unsafe { libc::poll(fds.as_mut_ptr(), 3, 0) };
    for place in fds {
        // SAFETY: F_GETFD only asks.
        let asked = || unsafe { libc::fcntl(place.fd, libc::F_GETFD) };
        let closed = if polled < 0 { asked() < 0 } else { place.revents & libc::POLLNVAL != 0 };
        // SAFETY: opening touches no memory but the constant; the lowest free number is this one, as those below are open.
        if closed && unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR) } != place.fd {
            std::process::abort();
        }
    }
    // SAFETY: no handler is installed, and no other thread is there yet.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}
