//! Raw system calls that our libraries lack: prototype, man section, SAFETY; nothing else.

// ---- mounts of the host side: attributes, loop devices, the user namespace of an idmapped mount (shim's rootfs.rs, boot) ----

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::thread::UnshareFlags;

/// `struct mount_attr` of mount_setattr(2).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MountAttributes {
    /// MOUNT_ATTR_* to set.
    pub set: u64,
    /// MOUNT_ATTR_* to clear.
    pub clear: u64,
    /// MS_PRIVATE and its family, or 0.
    pub propagation: u64,
    /// The user namespace of MOUNT_ATTR_IDMAP.
    pub user_namespace: u64,
}

/// The kernel's answer to libc::syscall as a result.
fn errno(ret: libc::c_long) -> rustix::io::Result<libc::c_long> {
    if ret < 0 { Err(last_errno()) } else { Ok(ret) }
}

/// errno of the calling thread.
fn last_errno() -> rustix::io::Errno {
    rustix::io::Errno::from_raw_os_error(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
}

/// `int mount_setattr(int dirfd, const char *path, unsigned int flags, struct mount_attr *attr, size_t size)`, mount_setattr(2), Linux 5.12.
pub fn mount_setattr(
    dir: BorrowedFd<'_>,
    path: &CStr,
    flags: u32,
    attributes: &MountAttributes,
) -> rustix::io::Result<()> {
    // SAFETY: the path is NUL-terminated, the structure is repr(C), lives through the call and its size is told; the kernel
    // only reads both.
    errno(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            dir.as_raw_fd(),
            path.as_ptr(),
            flags,
            std::ptr::from_ref(attributes),
            size_of::<MountAttributes>(),
        )
    })
    .map(drop)
}

/// Whether open_tree_attr(2) is there and not hidden by a seccomp filter that we run under.
pub fn has_open_tree_attr() -> bool {
    const SYS_OPEN_TREE_ATTR: libc::c_long = 467;
    // SAFETY: an invalid directory and an empty path open nothing; no attributes are given.
    let asked = errno(unsafe {
        libc::syscall(SYS_OPEN_TREE_ATTR, -1, c"".as_ptr(), 0, std::ptr::null::<MountAttributes>(), 0usize)
    });
    matches!(asked, Err(rustix::io::Errno::NOENT | rustix::io::Errno::BADF))
}

/// LOOP_CTL_GET_FREE of loop(4): the number of a loop device that nobody uses at this moment.
pub fn loop_free(control: BorrowedFd<'_>) -> rustix::io::Result<u32> {
    const LOOP_CTL_GET_FREE: libc::c_ulong = 0x4C82;
    // SAFETY: this request takes no argument and returns the number; no memory of ours is touched.
    errno(unsafe { libc::syscall(libc::SYS_ioctl, control.as_raw_fd(), LOOP_CTL_GET_FREE, 0) }).map(|n| n as u32)
}

/// `struct loop_config` of linux/loop.h with `struct loop_info64` in it.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
    reserved: [u64; 8],
}

/// LOOP_CONFIGURE of loop(4), Linux 5.8: attaches a file to a loop device with all its flags (LO_FLAGS_*) at once.
///
/// `name` is what losetup(8) shows; the kernel keeps 63 bytes of it.
pub fn loop_configure(device: BorrowedFd<'_>, file: BorrowedFd<'_>, flags: u32, name: &[u8]) -> rustix::io::Result<()> {
    const LOOP_CONFIGURE: libc::c_ulong = 0x4C0A;
    let mut config = LoopConfig {
        fd: file.as_raw_fd() as u32,
        block_size: 0,
        device: 0,
        inode: 0,
        rdevice: 0,
        offset: 0,
        size_limit: 0,
        number: 0,
        encrypt_type: 0,
        encrypt_key_size: 0,
        flags,
        file_name: [0; 64],
        crypt_name: [0; 64],
        encrypt_key: [0; 32],
        init: [0; 2],
        reserved: [0; 8],
    };
    let kept = name.len().min(63);
    config.file_name[..kept].copy_from_slice(&name[..kept]);
    // SAFETY: the request reads one struct loop_config, which `config` is by layout (304 bytes, checked below) and which
    // outlives the call.
    errno(unsafe { libc::syscall(libc::SYS_ioctl, device.as_raw_fd(), LOOP_CONFIGURE, std::ptr::from_ref(&config)) })
        .map(drop)
}

const _: () = assert!(size_of::<LoopConfig>() == 304);

/// A process that exists for nothing but its new namespaces; the maps of its user namespace are still to be written.
pub struct Parked {
    /// Its number, for /proc/PID/uid_map.
    pub pid: u32,
    /// The process.
    pub pidfd: OwnedFd,
    /// It ends when this is closed, also if it is closed by our own death.
    pub leash: OwnedFd,
}

/// `long clone3(struct clone_args *args, size_t size)`, clone(2), with CLONE_NEWUSER and `others`: makes a [`Parked`] process.
///
/// `others` are further namespaces.
pub fn park_in_user_namespace(others: UnshareFlags) -> rustix::io::Result<Parked> {
    let (read, leash) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let mut pidfd: libc::c_int = -1;
    let arguments = libc::clone_args {
        flags: (libc::CLONE_NEWUSER | libc::CLONE_PIDFD) as u64 | u64::from(others.bits()),
        pidfd: std::ptr::from_mut(&mut pidfd) as u64,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: libc::SIGCHLD as u64,
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: 0,
    };
    // SAFETY: without CLONE_VM the child has its own copy of all memory, so no state is shared. It runs only the three
    // system calls below, which allocate nothing and take no lock, and leaves by exit_group; `pidfd` outlives the call.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, std::ptr::from_ref(&arguments), size_of::<libc::clone_args>()) };
    if pid == 0 {
        let mut byte = 0_u8;
        // SAFETY: plain calls on descriptors of our own copy of the table and on one byte of our own stack. The copy of the
        // leash is closed first, or its end of file would never come.
        unsafe {
            libc::syscall(libc::SYS_close, leash.as_raw_fd());
            libc::syscall(libc::SYS_read, read.as_raw_fd(), std::ptr::from_mut(&mut byte), 1);
            loop {
                libc::syscall(libc::SYS_exit_group, 0);
            }
        }
    }
    let pid = errno(pid)?;
    // SAFETY: clone3 succeeded and with CLONE_PIDFD has stored a new descriptor (close-on-exec) that nobody else owns.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Parked { pid: pid as u32, pidfd, leash })
}
