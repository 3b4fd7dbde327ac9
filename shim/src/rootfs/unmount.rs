//! Taking mounts away: stacked, nested and busy ones.

#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use runtime::{Error, Result};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;

/// How often and how long a busy mount is waited for: somebody's scan of the file system ends, a forgotten shell does not, and
/// with a device below the mount it matters that nobody holds it any more when the client takes that away.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(50);

/// Unmounts everything at and below `target`. What is not a mount, or not there at all, is fine. May block for long: dirty
/// pages are written back first. What stays busy is detached, as by newer shims of containerd's own: nobody finds it by its path
/// any more, and it goes with the last who is in it.
///
/// The common case, one mount on an empty directory, does not read the mount table.
pub fn unmount(target: &Path) -> Result<()> {
    for attempt in 1.. {
        match peel(target, UnmountFlags::empty()) {
            Ok(()) if is_empty(target) => return Ok(()),
            Ok(()) | Err(Errno::BUSY) => {}
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            Err(e) => return Err(Error::sys("umount2", target.display().to_string(), e)),
        }
        // Mounts below it, or busy by somebody's open file: only the table can tell.
        let Ok(real) = target.canonicalize() else {
            return Ok(());
        };
        let (covered, below) = below(&real)?;
        if !covered && below.is_empty() {
            return Ok(());
        }
        for point in &below {
            match peel(point, UnmountFlags::empty()) {
                Ok(()) | Err(Errno::BUSY | Errno::NOENT) => {}
                Err(e) => return Err(Error::sys("umount2", point.display().to_string(), e)),
            }
        }
        if attempt > TRIES {
            log::warn!("umount2 {}: still busy, detached", target.display());
            return below.iter().map(PathBuf::as_path).chain([target]).try_for_each(detach);
        }
        if below.is_empty() || attempt > 1 {
            std::thread::sleep(PAUSE);
        }
    }
    Ok(())
}

/// A directory without entries has no mount points in it. What is not a directory has none either, nor has a link: what it
/// points to is not ours.
fn is_empty(dir: &Path) -> bool {
    let is_dir = std::fs::symlink_metadata(dir).is_ok_and(|m| m.is_dir());
    !is_dir || std::fs::read_dir(dir).map_or(true, |mut entries| entries.next().is_none())
}

/// Takes away every mount that is stacked at a path, and those in it with it, whoever is there.
fn detach(path: &Path) -> Result<()> {
    match peel(path, UnmountFlags::DETACH) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(Error::sys("umount2", path.display().to_string(), e)),
    }
}

/// Takes away every mount that is stacked at a path that nobody else can have changed, without following a link. EINVAL says
/// that none is left.
fn peel(path: &Path, flags: UnmountFlags) -> rustix::io::Result<()> {
    loop {
        match rustix::mount::unmount(path, flags | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            Err(Errno::INVAL) => return Ok(()),
            Err(e) => return Err(e),
        }
    }
}

/// Whether a directory is a mount point, and the mount points strictly below it, deepest first.
fn below(dir: &Path) -> Result<(bool, Vec<PathBuf>)> {
    // Of the thread, since that is what umount2 acts on.
    let path = "/proc/thread-self/mountinfo";
    let table = std::fs::read(path).map_err(|e| Error::io("read", path, &e))?;
    Ok(points(&table, dir))
}

/// The same from the text of a mountinfo. A later line is mounted on an earlier one, so the order is turned round.
fn points(table: &[u8], dir: &Path) -> (bool, Vec<PathBuf>) {
    let mut found: Vec<PathBuf> = table
        .split(|b| *b == b'\n')
        .filter_map(|line| line.split(|b| *b == b' ').nth(4))
        .map(|field| PathBuf::from(OsStr::from_bytes(&unquoted(field))))
        .filter(|point| point.starts_with(dir))
        .collect();
    let all = found.len();
    found.retain(|point| point != dir);
    let covered = found.len() < all;
    found.reverse();
    found.sort_by_key(|p| std::cmp::Reverse(p.components().count()));
    (covered, found)
}

/// proc_pid_mountinfo(5) writes space, tab, newline and backslash as three octal digits.
fn unquoted(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        match (first, tail) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', tail @ ..]) => {
                out.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = tail;
            }
            _ => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_unquoted_nested_and_deepest_first() {
        let table = b"22 1 8:1 / / rw - ext4 /dev/a rw\n\
            30 22 0:5 / /b rw - tmpfs t rw\n\
            31 30 0:6 / /b/r rw - overlay o rw\n\
            32 31 0:7 / /b/r/x\\040y rw - tmpfs t rw\n\
            33 32 0:8 / /b/r/x\\040y/z\\134 rw - tmpfs t rw\n\
            34 30 0:9 / /b/rest rw - tmpfs t rw\n";
        assert_eq!(points(table, Path::new("/b/r")), (true, [r"/b/r/x y/z\", "/b/r/x y"].map(PathBuf::from).into()));
        assert_eq!(points(table, Path::new("/b")).1.len(), 4);
        assert_eq!(points(table, Path::new("/b/r/x y/a")), (false, vec![]));
    }
}
