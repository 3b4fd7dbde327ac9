//! The parent's end of the wire: it hears that the child waits at a gate, takes descriptors from it and lets it go on.
//!
//! The wire only wakes. What has happened stands in the shared page, and end of file means no more than that the child has
//! executed its payload or died.

#![forbid(unsafe_code)]

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SocketFlags, SocketType, recvmsg,
    socketpair,
};

use crate::error::{Error, Result};
use crate::plan::Gate;

const GATES: [Gate; 6] = [Gate::Maps, Gate::Hooks, Gate::Limits, Gate::Listener, Gate::Respawned, Gate::Start];

/// What came over the wire.
#[derive(Debug)]
pub enum Heard {
    /// The child waits.
    At(Gate),
    /// The child sent a descriptor.
    Fd(OwnedFd),
    /// The child has executed its payload, or is dead.
    Closed,
    /// It has said nothing for as long as [`Wire::limit`] allows.
    Nothing,
}

/// The parent's end.
#[derive(Debug)]
pub struct Wire(OwnedFd);

impl Wire {
    /// A connected pair: ours and the child's.
    pub fn pair() -> Result<(Self, OwnedFd)> {
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .map_err(|e| Error::sys("socketpair", "wire", e))?;
        Ok((Self(ours), theirs))
    }

    /// How long to wait for a word of the child's.
    pub fn limit(&self, patience: Duration) -> Result<()> {
        set_socket_timeout(&self.0, Timeout::Recv, Some(patience)).map_err(|e| Error::sys("setsockopt", "wire", e))
    }

    /// Waits for the child's next word.
    pub fn hear(&self) -> Result<Heard> {
        let mut byte = [0u8];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let message = loop {
            match recvmsg(&self.0, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC) {
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(Heard::Nothing),
                // A child that dies with our unread byte in its queue resets the connection.
                Err(Errno::CONNRESET) => return Ok(Heard::Closed),
                outcome => break outcome.map_err(|e| Error::sys("recvmsg", "wire", e))?,
            }
        };
        if message.bytes == 0 {
            return Ok(Heard::Closed);
        }
        let fd = control.drain().find_map(|m| match m {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        if let Some(fd) = fd {
            return Ok(Heard::Fd(fd));
        }
        if message.flags.contains(ReturnFlags::CTRUNC) {
            // The kernel had no number left for it, or was not allowed to give us the file.
            return Err(Error::sys("recvmsg", "descriptor of the child", Errno::MFILE));
        }
        match GATES.iter().find(|g| **g as u8 == byte[0]) {
            Some(gate) => Ok(Heard::At(*gate)),
            None => Err(Error::sys("recvmsg", "wire", Errno::PROTO)),
        }
    }

    /// Lets the child go on.
    pub fn release(&self) -> Result<()> {
        match rustix::net::send(&self.0, b"g", rustix::net::SendFlags::NOSIGNAL) {
            // The child is gone: what it died of stands in the page and is found when the end of file is heard.
            Ok(_) | Err(Errno::PIPE | Errno::CONNRESET) => Ok(()),
            Err(e) => Err(Error::sys("send", "wire", e)),
        }
    }

    /// For poll(2).
    pub fn fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}
