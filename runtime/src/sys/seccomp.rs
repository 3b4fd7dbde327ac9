//! Raw system calls that our libraries lack: prototype, man section, SAFETY; nothing else.

// ---- seccomp: which flags the kernel has ----

/// `int seccomp(unsigned int operation, unsigned int flags, void *args)`, seccomp(2): whether SECCOMP_SET_MODE_FILTER takes
/// these `SECCOMP_FILTER_FLAG_*`.
///
/// The kernel checks flags before it reads the filter: without one the answer is EFAULT for flags that it knows and EINVAL
/// for others (seccomp(2), NOTES). Nothing is ever loaded.
pub fn seccomp_flags_supported(flags: u32) -> bool {
    const SECCOMP_SET_MODE_FILTER: libc::c_long = 1;
    let none = std::ptr::null::<libc::c_void>();
    // SAFETY: with a null filter the call cannot succeed, and it touches no memory of ours.
    let ret = unsafe { libc::syscall(libc::SYS_seccomp, SECCOMP_SET_MODE_FILTER, libc::c_long::from(flags), none) };
    ret == -1 && std::io::Error::last_os_error().raw_os_error() == Some(libc::EFAULT)
}
