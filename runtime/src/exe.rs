//! Our own executable, out of the reach of containers (CVE-2019-5736).
//!
//! Until its execve the first process of a container is a copy of us: its /proc/PID/exe is our file, and an image whose
//! entry point is `#!/proc/self/exe` even executes it inside. Whoever holds it open there may write to it once nobody
//! executes it any more. So we run from a detached read-only mount of the file: the page cache stays shared, and writing
//! through it is refused whatever capabilities the writer has. Kernels before 5.12 get a sealed copy in memory instead.

#![forbid(unsafe_code)]

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;

use rustix::fs::{CWD, MemfdFlags, Mode, OFlags, SealFlags};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};

use crate::error::{Error, Result};
use crate::plan::options::attr;

const EXE: &str = "/proc/self/exe";

/// Executes us again from where nobody can write, unless that is so already. To be called before anything is opened, by
/// whoever makes containers.
///
/// # Errors
/// Of the system calls. Without the right to mount there is nothing to protect, and it does nothing.
pub fn seal() -> Result<()> {
    if is_sealed()? {
        return Ok(());
    }
    let file = match read_only_mount() {
        Err(Errno::PERM) => return Ok(()),
        Err(Errno::NOSYS) => sealed_copy()?,
        outcome => outcome.map_err(|e| Error::sys("open_tree", EXE, e))?,
    };
    let mut args = std::env::args_os();
    let name = args.next().unwrap_or_default();
    let error = std::process::Command::new(format!("/proc/self/fd/{}", file.as_raw_fd())).arg0(name).args(args).exec();
    Err(Error::io("execve", EXE, &error))
}

fn is_sealed() -> Result<bool> {
    /// `TMPFS_MAGIC`, statfs(2): also what a memfd is on.
    const TMPFS: rustix::fs::FsWord = 0x0102_1994;
    if crate::sys::sealed_early() {
        return Ok(true);
    }
    let stat = rustix::fs::statfs(EXE).map_err(|e| Error::sys("statfs", EXE, e))?;
    if stat.f_flags as u64 & libc::ST_RDONLY != 0 {
        return Ok(true);
    }
    if stat.f_type != TMPFS {
        return Ok(false);
    }
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let exe = rustix::fs::open(EXE, flags, Mode::empty()).map_err(|e| Error::sys("open", EXE, e))?;
    // EINVAL: a file that cannot have seals.
    Ok(rustix::fs::fcntl_get_seals(&exe).is_ok_and(|seals| seals.contains(SealFlags::WRITE)))
}

fn read_only_mount() -> rustix::io::Result<OwnedFd> {
    let tree = open_tree(CWD, EXE, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?;
    crate::child::call::mount_setattr(tree.as_raw_fd(), libc::AT_EMPTY_PATH, [attr::RDONLY, 0, 0, 0])
        .map_err(Errno::from_raw_os_error)?;
    Ok(tree)
}

fn sealed_copy() -> Result<OwnedFd> {
    let failed = |e: &std::io::Error| Error::io("copy", EXE, e);
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memory = rustix::fs::memfd_create("exe", flags).map_err(|e| Error::sys("memfd_create", "exe", e))?;
    let mut copy = File::from(memory);
    std::io::copy(&mut File::open(EXE).map_err(|e| failed(&e))?, &mut copy).map_err(|e| failed(&e))?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&copy, seals).map_err(|e| Error::sys("fcntl", "F_ADD_SEALS", e))?;
    Ok(copy.into())
}
