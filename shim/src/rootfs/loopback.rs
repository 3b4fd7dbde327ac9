//! A file as a block device: loop(4).

#![forbid(unsafe_code)]

use std::os::fd::{AsFd, OwnedFd};

use runtime::{Error, Result, sys};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// LO_FLAGS_* of linux/loop.h.
const READ_ONLY: u32 = 1;
const AUTOCLEAR: u32 = 4;
const DIRECT_IO: u32 = 16;

/// How often somebody else may be quicker between "this number is free" and taking it.
const TRIES: u32 = 100;

/// A loop device that frees itself when this and the last mount of it are gone.
pub struct Device {
    /// Its node.
    pub path: String,
    _open: OwnedFd,
}

/// Attaches `file` to a free loop device.
pub fn attach(file: &str, read_only: bool, direct_io: bool) -> Result<Device> {
    let access = if read_only { OFlags::RDONLY } else { OFlags::RDWR } | OFlags::CLOEXEC;
    let open =
        |path: &str, flags| rustix::fs::open(path, flags, Mode::empty()).map_err(|e| Error::sys("open", path, e));
    let backing = open(file, access)?;
    let control = open("/dev/loop-control", OFlags::RDWR | OFlags::CLOEXEC)?;
    let mut flags = AUTOCLEAR;
    if read_only {
        flags |= READ_ONLY;
    }
    if direct_io {
        flags |= DIRECT_IO;
    }
    for _ in 0..TRIES {
        let number = sys::loop_free(control.as_fd())
            .map_err(|e| Error::sys("ioctl LOOP_CTL_GET_FREE", "/dev/loop-control", e))?;
        let path = format!("/dev/loop{number}");
        let device = open(&path, access)?;
        match sys::loop_configure(device.as_fd(), backing.as_fd(), flags, file.as_bytes()) {
            Ok(()) => return Ok(Device { path, _open: device }),
            Err(Errno::BUSY) => {}
            Err(e) => return Err(Error::sys("ioctl LOOP_CONFIGURE", format!("{path} {file}"), e)),
        }
    }
    Err(Error::sys("ioctl LOOP_CONFIGURE", file, Errno::BUSY))
}
