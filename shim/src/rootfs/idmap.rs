//! Mounts that show other owners than the file system stores: mount_setattr(2) with MOUNT_ATTR_IDMAP, Linux 5.12.

#![forbid(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use runtime::sys::{self, MountAttributes};
use runtime::{Error, Kind, Result};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{MoveMountFlags, OpenTreeFlags, UnmountFlags};

use super::Place;

/// MOUNT_ATTR_* and AT_* of linux/mount.h and linux/fcntl.h.
const RDONLY: u64 = 1;
const IDMAP: u64 = 0x0010_0000;
const AT_EMPTY_PATH: u32 = 0x1000;
const AT_RECURSIVE: u32 = 0x8000;

/// A user namespace with these maps, each `inside:outside:size[,…]`. No process of it is left.
pub fn user_namespace(uids: &str, gids: &str) -> Result<OwnedFd> {
    let (uids, gids) = (lines("uidmap", uids)?, lines("gidmap", gids)?);
    let parked = sys::park_in_user_namespace(rustix::thread::UnshareFlags::empty())
        .map_err(|e| Error::sys("clone3", "CLONE_NEWUSER", e))?;
    let proc = format!("/proc/{}", parked.pid);
    let made = write_map(&format!("{proc}/uid_map"), &uids)
        .and_then(|()| write_map(&format!("{proc}/gid_map"), &gids))
        .and_then(|()| {
            let path = format!("{proc}/ns/user");
            rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                .map_err(|e| Error::sys("open", path, e))
        });
    drop(parked.leash);
    let gone = rustix::process::waitid(
        rustix::process::WaitId::PidFd(parked.pidfd.as_fd()),
        rustix::process::WaitIdOptions::EXITED,
    );
    match gone {
        // ECHILD: the shim's sweep of orphans was quicker.
        Ok(_) | Err(rustix::io::Errno::CHILD) => made,
        Err(e) => Err(Error::sys("waitid", parked.pid.to_string(), e)),
    }
}

/// The kernel takes a map as one write.
fn write_map(path: &str, map: &str) -> Result<()> {
    std::fs::OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|mut f| std::io::Write::write_all(&mut f, map.as_bytes()))
        .map_err(|e| Error::io("write", format!("{path}: {}", map.trim_end().replace('\n', ", ")), &e))
}

fn lines(name: &str, map: &str) -> Result<String> {
    let mut out = String::new();
    for range in map.split(',') {
        let numbers: Vec<u32> =
            range.split(':').map(str::parse).collect::<std::result::Result<_, _>>().unwrap_or_default();
        let [inside, outside, size] = numbers[..] else {
            return Err(Error::new(Kind::Invalid, "mount", format!("{name}={map}"), "is not inside:outside:size"));
        };
        out.push_str(&format!("{inside} {outside} {size}\n"));
    }
    Ok(out)
}

/// Replaces the mount at `place` by its idmapped twin: only a mount that is not attached can be mapped. `recursive` takes
/// what is mounted below along.
pub fn remap(map: &OwnedFd, recursive: bool, place: &Place) -> Result<()> {
    // Not what `place` holds, which lies below the mount, but what is mounted there now.
    let twin = mapped(map, 0, recursive, &place.path)?;
    rustix::mount::unmount(&place.path, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH)
        .map_err(|e| place.failed("umount2", e))?;
    attach(&twin, &place.kernel_path())
}

/// Mounts a read-only idmapped twin of the directory `from` at `to`.
pub fn bind(map: &OwnedFd, from: &Path, to: &Path) -> Result<()> {
    attach(&mapped(map, RDONLY, false, from)?, to)
}

/// A detached copy of the mount at `from`, with its owners mapped.
fn mapped(map: &OwnedFd, more: u64, recursive: bool, from: &Path) -> Result<OwnedFd> {
    let failed = |op, e| Error::sys(op, from.display().to_string(), e);
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    flags.set(OpenTreeFlags::AT_RECURSIVE, recursive);
    let twin = rustix::mount::open_tree(CWD, from, flags).map_err(|e| failed("open_tree", e))?;
    let attributes =
        MountAttributes { set: IDMAP | more, user_namespace: map.as_raw_fd() as u64, ..MountAttributes::default() };
    let at = if recursive { AT_EMPTY_PATH | AT_RECURSIVE } else { AT_EMPTY_PATH };
    sys::mount_setattr(twin.as_fd(), c"", at, &attributes).map_err(|e| failed("mount_setattr MOUNT_ATTR_IDMAP", e))?;
    Ok(twin)
}

/// Attaches a detached mount.
pub fn attach(mount: &OwnedFd, to: &Path) -> Result<()> {
    rustix::mount::move_mount(mount, "", CWD, to, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(|e| Error::sys("move_mount", to.display().to_string(), e))
}
