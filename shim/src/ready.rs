//! Descriptors on the event loop.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A descriptor of ours, registered.
pub type Fd = AsyncFd<OwnedFd>;

/// Registers what will be read. Errors: EPERM for what cannot be polled (plain files), EMFILE and the like.
pub fn for_reading(fd: OwnedFd) -> io::Result<Fd> {
    register(fd, Interest::READABLE)
}

/// Registers what will be written.
pub fn for_writing(fd: OwnedFd) -> io::Result<Fd> {
    register(fd, Interest::WRITABLE)
}

/// Registers what will be read and written.
pub fn for_both(fd: OwnedFd) -> io::Result<Fd> {
    register(fd, Interest::READABLE | Interest::WRITABLE)
}

#[expect(
    deprecated,
    reason = "its successor is unsafe for the sake of types whose descriptor changes; an OwnedFd's does not"
)]
fn register(fd: OwnedFd, interest: Interest) -> io::Result<Fd> {
    AsyncFd::with_interest(fd, interest)
}
