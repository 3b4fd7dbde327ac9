//! Descriptors on the event loop.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A descriptor of ours, registered.
pub type Fd = AsyncFd<OwnedFd>;

/// Registers what will be read. Errors: EPERM for what cannot be polled (plain files), EMFILE and the like.
pub fn for_reading(fd: OwnedFd) -> io::Result<Fd> {
    watch(fd, Interest::READABLE)
}

/// Registers what will be written.
pub fn for_writing(fd: OwnedFd) -> io::Result<Fd> {
    watch(fd, Interest::WRITABLE)
}

/// Registers a child's pidfd. On an error the child, of which nobody would hear any more, is killed; the sweep takes it.
#[expect(deprecated, reason = "as with `watch`")]
pub fn for_exit(pidfd: OwnedFd) -> io::Result<Fd> {
    AsyncFd::try_with_interest(pidfd, Interest::READABLE).map_err(|error| {
        let (pidfd, error) = error.into_parts();
        // Gone already is as good as killed.
        let _killed = runtime::reap::signal(&pidfd, 9);
        error
    })
}

/// Registers any descriptor, which does not change. Errors: as above.
#[expect(
    deprecated,
    reason = "its successor is unsafe for the sake of types whose descriptor changes; those of ours do not"
)]
pub fn watch<T: AsRawFd>(fd: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(fd, interest)
}
