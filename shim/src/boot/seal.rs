//! Our own binary as a file that nobody can write: the answer to CVE-2019-5736 for a shim that has its runtime inside.
//!
//! Between clone3 and execve a container's process has our binary as `/proc/PID/exe`, and an image's entrypoint may be
//! `#!/proc/self/exe`. Whoever keeps a descriptor of that link can wait until nobody executes the file any more, open it again
//! for writing and own the host with the next container. So the daemon is executed through a mount of the binary that
//! is read-only and attached nowhere: the page cache stays shared with every other shim, and writing gives EROFS.
//! See docs/decisions/own-binary.md.

#![forbid(unsafe_code)]

use std::fs::File;
use std::io::Seek;
use std::os::fd::{AsFd, OwnedFd};

use runtime::sys::{self, MountAttributes};
use runtime::{Error, Kind, Result};
use rustix::fs::{CWD, MemfdFlags, SealFlags};
use rustix::io::Errno;
use rustix::mount::OpenTreeFlags;

const SELF: &str = "/proc/self/exe";
/// MOUNT_ATTR_RDONLY and AT_EMPTY_PATH of linux/mount.h and linux/fcntl.h.
const RDONLY: u64 = 1;
const AT_EMPTY_PATH: u32 = 0x1000;

/// A descriptor to execute ourselves by, through `/proc/self/fd`.
///
/// Where the kernel is older than 5.12 or we may not mount, it is a sealed copy in memory. There is no third way: a shim that
/// containers can write to is not started.
pub fn own_binary() -> Result<OwnedFd> {
    read_only_mount().or_else(|first| {
        sealed_copy().map_err(|second| Error::new(Kind::Kernel, "seal", SELF, format!("{first}; {second}")))
    })
}

fn read_only_mount() -> Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let mount = rustix::mount::open_tree(CWD, SELF, flags).map_err(|e| Error::sys("open_tree", SELF, e))?;
    let attributes = MountAttributes { set: RDONLY, ..MountAttributes::default() };
    sys::mount_setattr(mount.as_fd(), c"", AT_EMPTY_PATH, &attributes)
        .map_err(|e| Error::sys("mount_setattr", SELF, e))?;
    Ok(mount)
}

fn sealed_copy() -> Result<OwnedFd> {
    let failed = |op, e| Error::sys(op, SELF, e);
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let name = "containerd-shim-mini-v2";
    // Since 6.3 a memfd has to say that it will be executed; before, the flag is unknown.
    let memory = match rustix::fs::memfd_create(name, flags | MemfdFlags::EXEC) {
        Err(Errno::INVAL) => rustix::fs::memfd_create(name, flags),
        other => other,
    };
    let mut copy = File::from(memory.map_err(|e| failed("memfd_create", e))?);
    let copied = File::open(SELF).and_then(|mut own| std::io::copy(&mut own, &mut copy)).and_then(|_| copy.rewind());
    copied.map_err(|e| Error::io("copy", SELF, &e))?;
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&copy, seals).map_err(|e| failed("F_ADD_SEALS", e))?;
    Ok(copy.into())
}
