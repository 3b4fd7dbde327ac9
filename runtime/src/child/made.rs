//! [`Op::OpenMade`](crate::plan::Op::OpenMade): openat2(2) follows links, but makes nothing that they lead to.

use std::os::fd::RawFd;

use super::call::{self, Outcome, Text};
use super::image::Image;
use super::run::append;
use crate::plan::{Bytes, Slot};

/// PATH_MAX: the longest path, its NUL included.
const ROOM: usize = 4096;
/// Links that are followed: path_resolution(7).
const LINKS: u32 = 40;
/// How often what somebody else makes or takes away meanwhile is looked at again.
const TRIES: u32 = 128;

/// open_how.resolve of a path without links.
const LITERAL: u64 = 0x02 | 0x04 | 0x10; // NO_MAGICLINKS, NO_SYMLINKS, IN_ROOT
const PLACE: u32 = (libc::O_PATH | libc::O_CLOEXEC) as u32;

/// A path that grows and shrinks at its end.
struct Path {
    text: [u8; ROOM],
    len: usize,
}

impl Path {
    fn new() -> Self {
        Self { text: [0; ROOM], len: 0 }
    }

    fn bytes(&self) -> &[u8] {
        self.text.get(..self.len).unwrap_or(&[])
    }

    fn clear(&mut self) {
        self.len = 0;
        self.text[0] = 0;
    }

    fn push(&mut self, part: &[u8]) -> Result<(), i32> {
        if self.len + part.len() >= ROOM {
            return Err(libc::ENAMETOOLONG);
        }
        self.len = append(&mut self.text, self.len, part);
        append(&mut self.text, self.len, b"\0");
        Ok(())
    }

    /// Takes off the last component.
    fn pop(&mut self) {
        self.len = self.bytes().iter().rposition(|b| *b == b'/').unwrap_or(0);
        append(&mut self.text, self.len, b"\0");
    }
}

/// Opens `path` inside `root`, links followed there, and puts it into its slot. Directories that are missing on the way, and
/// behind links, are made with mode 0755; at the end a directory with the mode that is given, or an empty file if what it is to
/// be like is no directory.
///
/// Nothing outside `root` is reached, whoever exchanges directories for links meanwhile: each component is looked at in a
/// parent that was opened without following any (CVE-2021-30465).
pub(super) fn open(
    image: &mut Image<'_>,
    root: Slot,
    path: Bytes,
    (like, mode): (Option<Slot>, u32),
    into: Slot,
) -> Outcome {
    let directory = match like {
        Some(slot) => call::fstat(image.fd(slot))?.st_mode & libc::S_IFMT == libc::S_IFDIR,
        None => true,
    };
    let root = image.fd(root);
    let (mut rest, mut link, mut done) = (Path::new(), Path::new(), Path::new());
    rest.push(image.bytes(path))?;
    let (mut links, mut tries) = (0, 0);
    loop {
        let whole = rest.bytes();
        let start = whole.iter().position(|b| *b != b'/').unwrap_or(whole.len());
        let end = whole.iter().skip(start).position(|b| *b == b'/').map_or(whole.len(), |length| start + length);
        let (name, after) = (whole.get(start..end).unwrap_or(&[]), whole.get(end..).unwrap_or(&[]));
        match name {
            b"" => break,
            b"." => {}
            b".." => done.pop(),
            name => {
                let parent = open_literally(root, &done)?;
                let last = after.iter().all(|b| *b == b'/');
                let made = match (last, directory) {
                    (false, _) => Some(0o755),
                    (true, true) => Some(mode),
                    (true, false) => None,
                };
                let step = look(parent, name, made, &mut link);
                let _closed = call::close(parent);
                match step? {
                    Step::There => {
                        done.push(b"/")?;
                        done.push(name)?;
                    }
                    Step::Link => {
                        links += 1;
                        if links > LINKS {
                            return Err(libc::ELOOP);
                        }
                        if link.bytes().first() == Some(&b'/') {
                            done.clear();
                        }
                        link.push(after)?;
                        std::mem::swap(&mut rest, &mut link);
                        continue;
                    }
                    Step::Changed => {
                        tries += 1;
                        if tries > TRIES {
                            return Err(libc::EAGAIN);
                        }
                        continue;
                    }
                }
            }
        }
        link.clear();
        link.push(after)?;
        std::mem::swap(&mut rest, &mut link);
    }
    let fd = open_literally(root, &done)?;
    image.put(into, fd as usize);
    Ok(0)
}

fn open_literally(root: RawFd, path: &Path) -> Result<RawFd, i32> {
    let text = if path.len == 0 { Text(c"/".as_ptr().cast()) } else { Text(path.text.as_ptr()) };
    call::openat2(root, text, PLACE, 0, LITERAL).map(|fd| fd as RawFd)
}

enum Step {
    /// It is there, or was made.
    There,
    /// It is a link, whose text has been read.
    Link,
    /// It was there and was not, or the other way round.
    Changed,
}

/// Looks at one component of `parent`, and makes it if it is missing: a directory if it has a mode, else a file.
fn look(parent: RawFd, name: &[u8], directory: Option<u32>, link: &mut Path) -> Result<Step, i32> {
    let mut component = [0u8; 256];
    if name.len() >= component.len() {
        return Err(libc::ENAMETOOLONG);
    }
    append(&mut component, 0, name);
    let name = Text(component.as_ptr());
    match call::readlinkat(parent, name, &mut link.text) {
        Ok(length) if length >= ROOM => return Err(libc::ENAMETOOLONG),
        Ok(length) => {
            link.len = length;
            append(&mut link.text, length, b"\0");
            return Ok(Step::Link);
        }
        Err(libc::EINVAL) => return Ok(Step::There),
        Err(libc::ENOENT) => {}
        Err(errno) => return Err(errno),
    }
    let made = if let Some(mode) = directory {
        call::mkdirat(parent, name, mode)
    } else {
        let flags = (libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW | libc::O_CLOEXEC) as u32;
        call::openat2(parent, name, flags, 0o755, LITERAL).and_then(|fd| call::close(fd as RawFd))
    };
    match made {
        Ok(_) => Ok(Step::There),
        Err(libc::EEXIST) => Ok(Step::Changed),
        Err(errno) => Err(errno),
    }
}
