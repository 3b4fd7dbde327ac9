//! Reading and writing control files: one open, one read or write, no state.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Error, Kind, Result};
use crate::kernfs;

/// Tries again when a signal came in between.
pub(super) fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    rustix::io::retry_on_intr(&mut call)
}

/// An error about a path; a group or file that is not there (any more) is [`Kind::NotFound`].
pub(super) fn fault(op: &'static str, path: &Path, errno: Errno) -> Error {
    let mut error = Error::sys(op, path.to_string_lossy(), errno);
    if errno == Errno::NOENT || errno == Errno::NODEV {
        error.kind = Kind::NotFound;
    }
    error
}

/// The kernel says that this is not for us to do: no rights, or a read-only mount.
pub(super) fn is_refusal(error: &Error) -> bool {
    matches!(error.errno, Some(Errno::ACCESS | Errno::PERM | Errno::ROFS))
}

/// Opens with close-on-exec; never creates, never follows a link in the last component (these file systems have none).
pub(super) fn open(path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    retry(|| rustix::fs::openat(CWD, path, flags, Mode::empty()))
}

/// Writes a value with a single write(2): the kernel takes each write as one whole command.
pub(super) fn put(path: &Path, value: &str) -> rustix::io::Result<()> {
    let fd = open(path, OFlags::WRONLY)?;
    retry(|| rustix::io::write(&fd, value.as_bytes())).map(drop)
}

/// [`put`] with an error that names the file.
pub(super) fn write(path: &Path, value: &str) -> Result<()> {
    put(path, value).map_err(|e| fault("write", path, e))
}

/// The whole of a small text file; what is not UTF-8 is replaced.
pub(super) fn text(path: &Path) -> Result<String> {
    get(path).map_err(|e| fault("read", path, e))
}

/// [`text`] with the bare errno.
pub(super) fn get(path: &Path) -> rustix::io::Result<String> {
    kernfs::small(path)
}

/// The words of a file.
pub(super) fn words(path: &Path) -> Result<Vec<String>> {
    Ok(text(path)?.split_whitespace().map(str::to_owned).collect())
}

/// The value after `key` in lines of `key value`.
pub(super) fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')).map(str::trim)
}
