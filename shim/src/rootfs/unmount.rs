//! Taking mounts away: stacked, nested and busy ones.

#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use runtime::{Error, Result};
use rustix::io::Errno;

/// How often and how long a busy mount is waited for: somebody's scan of the file system ends, a forgotten shell does not.
const TRIES: u32 = 50;
const PAUSE: Duration = Duration::from_millis(50);

/// Unmounts everything at and below `target`. What is not a mount, or not there at all, is fine. May block for long: dirty
/// pages are written back first.
///
/// The common case, one mount with nothing below it, costs two system calls and does not read the mount table.
pub fn unmount(target: &Path) -> Result<()> {
    for attempt in 1.. {
        match peel(target) {
            Err(Errno::BUSY) => {}
            Ok(()) | Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            Err(e) => return Err(Error::sys("umount2", target.display().to_string(), e)),
        }
        // Busy by what is mounted below it, or by somebody's open file: only the table can tell.
        let Ok(real) = target.canonicalize() else {
            return Ok(());
        };
        let below = below(&real)?;
        for point in &below {
            match peel(point) {
                Ok(()) | Err(Errno::BUSY | Errno::NOENT) => {}
                Err(e) => return Err(Error::sys("umount2", point.display().to_string(), e)),
            }
        }
        if attempt > TRIES {
            return Err(Error::sys("umount2", target.display().to_string(), Errno::BUSY));
        }
        if below.is_empty() || attempt > 1 {
            std::thread::sleep(PAUSE);
        }
    }
    Ok(())
}

/// Takes away every mount that is stacked at a path. EINVAL says that none is left.
fn peel(path: &Path) -> rustix::io::Result<()> {
    loop {
        match super::detach_one(path) {
            Ok(()) => {}
            Err(Errno::INVAL) => return Ok(()),
            Err(e) => return Err(e),
        }
    }
}

/// The mount points strictly below a directory, deepest first.
fn below(dir: &Path) -> Result<Vec<PathBuf>> {
    // Of the thread, since that is what umount2 acts on.
    let table = std::fs::read("/proc/thread-self/mountinfo")
        .map_err(|e| Error::io("read", "/proc/thread-self/mountinfo", &e))?;
    Ok(points(&table, dir))
}

/// The same from the text of a mountinfo. A later line is mounted on an earlier one, so the order is turned round.
fn points(table: &[u8], dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = table
        .split(|b| *b == b'\n')
        .filter_map(|line| line.split(|b| *b == b' ').nth(4))
        .map(|field| PathBuf::from(OsStr::from_bytes(&unquoted(field))))
        .filter(|point| point != dir && point.starts_with(dir))
        .collect();
    found.reverse();
    found.sort_by_key(|p| std::cmp::Reverse(p.components().count()));
    found
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
        assert_eq!(points(table, Path::new("/b/r")), [r"/b/r/x y/z\", "/b/r/x y"].map(PathBuf::from));
        assert_eq!(points(table, Path::new("/b")).len(), 4);
    }
}
