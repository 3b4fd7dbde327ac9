//! Our own executable, out of the reach of containers (CVE-2019-5736).
//!
//! Until its execve the first process of a container is a copy of us: its /proc/PID/exe is our file, and an image whose
//! entry point is `#!/proc/self/exe` even executes it inside. Whoever holds it open there may write to it once nobody
//! executes it any more, and owns the host with the next container. So we run from a detached read-only mount of the file: the
//! page cache stays shared, and writing through it is refused whatever capabilities the writer has. Where that cannot be had
//! (Linux before 5.12) it is a sealed copy in memory. See docs/decisions/own-binary.md.

#![forbid(unsafe_code)]

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;

use rustix::fs::{CWD, MemfdFlags, Mode, OFlags, SealFlags};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};

use crate::error::{Error, Kind, Result};
use crate::plan::options::attr;

const EXE: &str = "/proc/self/exe";

/// A descriptor to execute ourselves by, through `/proc/self/fd`, of what nobody can write; a copy has that name.
///
/// # Errors
/// Of the system calls, first those of the mount, then those of the copy. There is no third way.
pub fn out_of_reach(name: &str) -> Result<OwnedFd> {
    read_only_mount().or_else(|e| sealed_copy_after(e, name))
}

/// Executes us again from where nobody can write, unless that is so already. To be called before anything is opened, by
/// whoever makes containers.
///
/// # Errors
/// As [`out_of_reach`], and of execve(2). Without the right to mount there is nothing to protect, and it does nothing.
pub fn seal() -> Result<()> {
    if is_sealed()? {
        return Ok(());
    }
    let file = match read_only_mount() {
        Err(Errno::PERM) => return Ok(()),
        made => made.or_else(|e| sealed_copy_after(e, "mini"))?,
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

fn sealed_copy_after(mount: Errno, name: &str) -> Result<OwnedFd> {
    sealed_copy(name)
        .map_err(|copy| Error::new(Kind::Kernel, "seal", EXE, format!("{}; {copy}", Error::sys("mount", EXE, mount))))
}

fn sealed_copy(name: &str) -> Result<OwnedFd> {
    let failed = |op, e| Error::sys(op, EXE, e);
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Since 6.3 a memfd has to say that it will be executed; before, the flag is unknown.
    let memory = match rustix::fs::memfd_create(name, flags | MemfdFlags::EXEC) {
        Err(Errno::INVAL) => rustix::fs::memfd_create(name, flags),
        made => made,
    };
    let mut copy = File::from(memory.map_err(|e| failed("memfd_create", e))?);
    File::open(EXE).and_then(|mut own| std::io::copy(&mut own, &mut copy)).map_err(|e| Error::io("copy", EXE, &e))?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&copy, seals).map_err(|e| failed("F_ADD_SEALS", e))?;
    Ok(copy.into())
}
