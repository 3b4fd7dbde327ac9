//! Operations that only the parent carries out, in its own sections: here std and allocation are allowed.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, RawDir, ResolveFlags, Stat, Uid};
use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use super::call::{self, Outcome, Text};
use super::image::Image;
use crate::plan::{Bytes, Slot, Str};
use crate::sys::{self, Parked};

/// Borrows a descriptor of the table.
fn borrow(fd: RawFd) -> Result<BorrowedFd<'static>, i32> {
    if fd < 0 {
        return Err(libc::EBADF);
    }
    // SAFETY: not -1, and open for as long as the image is, which outlives every use in this file.
    Ok(unsafe { BorrowedFd::borrow_raw(fd) })
}

fn number(e: Errno) -> i32 {
    e.raw_os_error()
}

/// Copies what the image has at a tmpfs' destination into it (`tmpcopyup`), with the directory's own mode and owner if they
/// are wanted. Nothing there is nothing to copy.
pub fn copy_up(image: &Image<'_>, root: Slot, from: Str, into: Slot, mode: bool, owner: bool) -> Outcome {
    let (root, into) = (borrow(image.fd(root))?, borrow(image.fd(into))?);
    let path = image.plan.text(from);
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match rustix::fs::openat2(root, path.trim_start_matches('/'), flags, Mode::empty(), resolve) {
        Ok(from) => {
            // What fsmount(2) gives is a place only, as if opened with O_PATH: its mode and owner cannot be changed.
            let into = rustix::fs::openat(into, ".", flags, Mode::empty()).map_err(number)?;
            copy_dir(&from, into.as_fd(), [mode, owner], 0).map_err(number)?;
        }
        Err(Errno::NOENT | Errno::NOTDIR) => {}
        Err(e) => return Err(number(e)),
    }
    Ok(0)
}

/// Deeper trees than this are refused: an image may not exhaust our stack.
const DEPTH: u32 = 64;

/// `take`: mode and owner of the directory itself.
fn copy_dir(from: &OwnedFd, into: BorrowedFd<'_>, take: [bool; 2], depth: u32) -> rustix::io::Result<()> {
    if depth > DEPTH {
        return Err(Errno::LOOP);
    }
    let stat = rustix::fs::fstat(from)?;
    let [mode, owner] = take;
    if mode {
        rustix::fs::fchmod(into, Mode::from_raw_mode(stat.st_mode))?;
    }
    if owner {
        let (uid, gid) = owner_of(&stat);
        rustix::fs::fchown(into, uid, gid)?;
    }
    let mut buffer = Vec::with_capacity(8192);
    let mut entries = RawDir::new(from, buffer.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        copy_entry(from, into, name, depth)?;
    }
    Ok(())
}

fn owner_of(stat: &Stat) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))
}

/// What an entry is, is asked of the descriptor by which it is copied: the name may be another file's by then, or a device's,
/// of which even the opening does something.
fn copy_entry(from: &OwnedFd, into: BorrowedFd<'_>, name: &std::ffi::CStr, depth: u32) -> rustix::io::Result<()> {
    let source = rustix::fs::openat(from, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let stat = rustix::fs::fstat(&source)?;
    let (kind, mode) = (FileType::from_raw_mode(stat.st_mode), Mode::from_raw_mode(stat.st_mode));
    match kind {
        FileType::Directory => {
            rustix::fs::mkdirat(into, name, Mode::RWXU)?;
            let open = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::DIRECTORY;
            let source = rustix::fs::openat(source, c".", open, Mode::empty())?;
            let target = rustix::fs::openat(into, name, open, Mode::empty())?;
            return copy_dir(&source, target.as_fd(), [true, true], depth + 1);
        }
        FileType::RegularFile => {
            let path = format!("/proc/thread-self/fd/{}", source.as_raw_fd());
            let source = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
            let create = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let target = rustix::fs::openat(into, name, create, Mode::RWXU)?;
            let copied = std::io::copy(&mut std::fs::File::from(source), &mut std::fs::File::from(target));
            copied.map_err(|e| e.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error))?;
        }
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(source, c"", Vec::new())?;
            rustix::fs::symlinkat(&target, into, name)?;
        }
        kind => rustix::fs::mknodat(into, name, kind, mode, stat.st_rdev)?,
    }
    let (uid, gid) = owner_of(&stat);
    rustix::fs::chownat(into, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
    if kind != FileType::Symlink {
        rustix::fs::chmodat(into, name, mode, AtFlags::empty())?;
    }
    Ok(())
}

/// A user namespace with these maps, for mount_setattr(2) MOUNT_ATTR_IDMAP. It lives on through its descriptor; the process
/// that made it is ended at once, and ends with us if we are killed.
pub fn map_namespace(image: &mut Image<'_>, uids: Bytes, gids: Bytes, into: Slot) -> Outcome {
    let parked = sys::park_in_user_namespace(UnshareFlags::empty()).map_err(number)?;
    let write = |file: &str, bytes| {
        std::fs::write(format!("/proc/{}/{file}", parked.pid), image.bytes(bytes))
            .map_err(|e| e.raw_os_error().unwrap_or(libc::EIO))
    };
    let opened = write("uid_map", uids).and_then(|()| write("gid_map", gids)).and_then(|()| {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        rustix::fs::open(format!("/proc/{}/ns/user", parked.pid), flags, Mode::empty()).map_err(number)
    });
    end(parked);
    image.put(into, opened?.into_raw_fd() as usize);
    Ok(0)
}

fn end(parked: Parked) {
    drop(parked.leash);
    let id = rustix::process::WaitId::PidFd(parked.pidfd.as_fd());
    // ECHILD: somebody else has swept it up, which is as good.
    let _reaped = rustix::process::waitid(id, rustix::process::WaitIdOptions::EXITED);
}

/// Makes a mount namespace that is a copy of ours and belongs to a user namespace that nobody is in.
pub fn foreign_mounts(image: &mut Image<'_>, into: Slot) -> Outcome {
    let parked = sys::park_in_user_namespace(UnshareFlags::NEWNS).map_err(number)?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(format!("/proc/{}/ns/mnt", parked.pid), flags, Mode::empty()).map_err(number);
    end(parked);
    image.put(into, opened?.into_raw_fd() as usize);
    Ok(0)
}

/// open_tree(2) on a thread that has gone into another mount namespace: none of us may stay there. The root directory there is
/// ours: nobody can make a user namespace whose root is another than that of his mount namespace (clone(2), EPERM).
pub fn open_tree_of(image: &mut Image<'_>, namespace: Slot, path: Str, flags: u32, into: Slot) -> Outcome {
    let namespace = borrow(image.fd(namespace))?;
    let path = CString::new(image.plan.text(path)).map_err(|_| libc::EINVAL)?;
    let work = move || {
        // A thread that shares its root with others may not change its mount namespace.
        call::unshare(libc::CLONE_FS as u64)?;
        rustix::thread::move_into_link_name_space(namespace, Some(LinkNameSpaceType::Mount)).map_err(number)?;
        call::open_tree(libc::AT_FDCWD, Text(path.as_ptr().cast()), flags)
    };
    let thread = std::thread::Builder::new().spawn(work).map_err(|e| e.raw_os_error().unwrap_or(libc::EAGAIN))?;
    let fd = thread.join().map_err(|_| libc::EIO)??;
    image.put(into, fd);
    Ok(0)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use rustix::fs::{RenameFlags, renameat_with};

    use super::*;

    /// A FIFO that nobody writes to reads as an empty file; a device would be read for ever.
    #[test]
    fn a_file_that_is_exchanged_for_something_else_is_not_read_as_one() {
        let (from, into) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(from.path().join("a"), "words").unwrap();
        let open = |dir: &std::path::Path| {
            rustix::fs::open(dir, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap()
        };
        let (source, target) = (open(from.path()), open(into.path()));
        rustix::fs::mknodat(&source, "b", FileType::Fifo, Mode::RWXU, 0).unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    renameat_with(&source, "a", &source, "b", RenameFlags::EXCHANGE).unwrap();
                }
            });
            let copies = (0..5000).all(|_| {
                let copied = copy_entry(&source, target.as_fd(), c"a", 0);
                let path = into.path().join("a");
                let whole = copied.is_ok() && path.metadata().is_ok_and(|m| !m.is_file() || m.len() == 5);
                std::fs::remove_file(path).is_ok() && whole
            });
            stop.store(true, Ordering::Relaxed);
            assert!(copies);
        });
    }
}
