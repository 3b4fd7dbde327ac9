//! What a program does before its C library begins.
//!
//! A command of `mini` that makes containers executes itself again (`exe.rs`), and the shim's `start` makes a daemon
//! (`early/start.rs`). The start of a static C library is the larger part of that first, short life: it asks the processor some sixty times what it can do, and in a virtual machine every cpuid is
//! an exit to the hypervisor (5 µs each, 0.3 ms in all, where it was measured). So the program's entry point is ours.
//!
//! Here nothing is there yet: no thread-local storage, no relocated memcpy. Only system calls, words and single bytes may be
//! used: no array in a variable or by `[0; N]`, which a debug build copies and fills by memcpy and memset. And bytes are
//! read volatile, lest the compiler makes calls of strlen and memcmp of the loops. Whatever fails is
//! left to `exe::seal` and the shim's `boot::start`, which try again, know the other ways, and can say what is wrong.

use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicBool, Ordering};

use super::raw;

/// Makes a program's entry point, which its build.rs tells the linker (`--entry=`).
///
/// The stack pointer is at argc, argv, envp and the auxiliary vector there, and one register is the C library's (System V
/// ABI, process initialisation): both go on to its `_start` unchanged.
macro_rules! entry_point {
    ($(#[$doc:meta])* $name:ident, $early:path) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// Only the kernel may begin here, with the stack of a new program.
        #[unsafe(naked)]
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name() {
            #[cfg(target_arch = "x86_64")]
            core::arch::naked_asm!(
                "xor ebp, ebp",
                "mov rbx, rsp",
                "mov r12, rdx",
                "mov rdi, rsp",
                "and rsp, -16",
                "call {early}",
                "mov rsp, rbx",
                "mov rdx, r12",
                "jmp _start",
                early = sym $early,
            );
            #[cfg(target_arch = "aarch64")]
            core::arch::naked_asm!(
                "mov x19, x0",
                "mov x0, sp",
                "bl {early}",
                "mov x0, x19",
                "b _start",
                early = sym $early,
            );
        }
    };
}

mod start;
pub use start::{ENDS, MALLOC, NOT_FOR_THE_DAEMON, SERVES, begin_start, parent_that_waits};

entry_point!(
    /// The entry point of `mini`.
    begin_early,
    early
);

static SEALED: AtomicBool = AtomicBool::new(false);

/// True if it was found out before the C library began: our file is on a read-only mount.
pub fn sealed() -> bool {
    SEALED.load(Ordering::Relaxed)
}

const EXE: *const u8 = c"/proc/self/exe".as_ptr().cast();
const EMPTY: *const u8 = c"".as_ptr().cast();
const AT_EMPTY_PATH: usize = libc::AT_EMPTY_PATH as usize;

/// Executes us again from a detached read-only mount of our file, as `exe::seal` does, if a word of the command line is a command
/// that makes processes. Returns if there is nothing to do, or if anything fails.
///
/// # Safety
/// `stack` is what the kernel has put on the stack of a new program: argc, argv, NULL, envp, NULL.
unsafe extern "C" fn early(stack: *const usize) {
    // SAFETY: by the caller's promise; argv has argc pointers and a NULL, and envp begins after that.
    let (argc, argv) = unsafe { (stack.read_volatile(), stack.wrapping_add(1)) };
    let envp = argv.wrapping_add(argc.wrapping_add(1));
    let mut at = 1;
    while at < argc {
        // SAFETY: below argc, so a pointer to a NUL-terminated string of the kernel's.
        let makes_processes = unsafe {
            let word = argv.wrapping_add(at).read_volatile() as *const u8;
            is(word, c"create".as_ptr().cast()) || is(word, c"run".as_ptr().cast()) || is(word, c"exec".as_ptr().cast())
        };
        if makes_processes {
            // SAFETY: as above.
            unsafe { seal(argv, envp) };
            return;
        }
        at = at.wrapping_add(1);
    }
}

/// # Safety
/// Both are NUL-terminated.
unsafe fn is(mut word: *const u8, mut other: *const u8) -> bool {
    loop {
        // SAFETY: neither has been read beyond its NUL: we stop there.
        let (a, b) = unsafe { (word.read_volatile(), other.read_volatile()) };
        if a != b || a == 0 {
            return a == b;
        }
        (word, other) = (word.wrapping_add(1), other.wrapping_add(1));
    }
}

/// # Safety
/// `argv` and `envp` are what execve(2) takes.
unsafe fn seal(argv: *const usize, envp: *const usize) {
    // SAFETY: the strings are constants, the descriptor is ours, and argv and envp are the caller's.
    unsafe {
        match exe() {
            Exe::Sealed => SEALED.store(true, Ordering::Relaxed),
            Exe::Else => {}
            Exe::Plain => {
                if let Some(tree) = read_only_tree() {
                    execute(tree, argv, envp);
                    raw(libc::SYS_close, [tree, 0, 0, 0, 0, 0]);
                }
            }
        }
    }
}

/// Where our file is.
enum Exe {
    /// On a read-only mount.
    Sealed,
    /// In a tmpfs, so maybe a sealed copy, which `exe::seal` looks at; or nobody knows.
    Else,
    Plain,
}

fn exe() -> Exe {
    /// `TMPFS_MAGIC`.
    const TMPFS: u64 = 0x0102_1994;
    /// `f_flags` of struct statfs, whose fields are words on 64-bit machines; the first is `f_type`.
    const FLAGS: usize = 10;
    let mut stat = MaybeUninit::<[u64; 15]>::uninit();
    // SAFETY: statfs(2) fills its 15 words, which are looked at only if it has; the path is a constant.
    unsafe {
        if raw(libc::SYS_statfs, [EXE as usize, stat.as_mut_ptr() as usize, 0, 0, 0, 0]) != 0 {
            return Exe::Else;
        }
        let word = stat.as_ptr().cast::<u64>();
        if word.wrapping_add(FLAGS).read_volatile() & libc::ST_RDONLY != 0 {
            return Exe::Sealed;
        }
        if word.read_volatile() == TMPFS { Exe::Else } else { Exe::Plain }
    }
}

/// A detached read-only mount of our file, closed at an execve.
fn read_only_tree() -> Option<usize> {
    const CLONE_CLOEXEC: usize = 1 | libc::O_CLOEXEC as usize;
    const CWD: usize = libc::AT_FDCWD as usize;
    let mut attributes = MaybeUninit::<[u64; 4]>::uninit();
    let attribute = attributes.as_mut_ptr().cast::<u64>();
    // SAFETY: mount_setattr(2) reads four words, which are written before; the strings are constants; the descriptor is ours.
    unsafe {
        let tree = raw(libc::SYS_open_tree, [CWD, EXE as usize, CLONE_CLOEXEC, 0, 0, 0]);
        if tree < 0 {
            return None;
        }
        attribute.write_volatile(crate::plan::options::attr::RDONLY);
        attribute.wrapping_add(1).write_volatile(0);
        attribute.wrapping_add(2).write_volatile(0);
        attribute.wrapping_add(3).write_volatile(0);
        let tree = tree as usize;
        if raw(libc::SYS_mount_setattr, [tree, EMPTY as usize, AT_EMPTY_PATH, attribute as usize, 32, 0]) == 0 {
            return Some(tree);
        }
        raw(libc::SYS_close, [tree, 0, 0, 0, 0, 0]);
    }
    None
}

/// Returns if it fails.
///
/// # Safety
/// `argv` and `envp` are what execve(2) takes.
unsafe fn execute(tree: usize, argv: *const usize, envp: *const usize) {
    // SAFETY: by the caller's promise; the path is a constant.
    unsafe { raw(libc::SYS_execveat, [tree, EMPTY as usize, argv as usize, envp as usize, AT_EMPTY_PATH, 0]) };
}
