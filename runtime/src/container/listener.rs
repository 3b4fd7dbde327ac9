//! The seccomp listener's way from the child to its agent (runtime-spec config-linux.md#the-container-process-state).

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
    connect, sendmsg, socket_with,
};
use serde_json::json;

use super::hooks::Subject;
use crate::error::{Error, Result};
use crate::plan::hooks::STATE_VERSION;

/// How long the agent may take to accept the connection, and to read.
const PATIENCE: Duration = Duration::from_secs(10);

/// Fetches the descriptor out of the child, which waits, and sends it with the state to `listenerPath`.
pub fn hand_over(pidfd: BorrowedFd<'_>, number: u32, pid: u32, subject: Subject<'_>) -> Result<()> {
    let Some(profile) = &subject.spec.linux.seccomp else { return Ok(()) };
    let path = profile.listener_path.as_str();
    let failed = |op, e| Error::sys(op, path, e).at("/linux/seccomp/listenerPath");
    let flags = rustix::process::PidfdGetfdFlags::empty();
    let fd = rustix::process::pidfd_getfd(pidfd, number.cast_signed(), flags).map_err(|e| failed("pidfd_getfd", e))?;
    let state = json!({
        "ociVersion": STATE_VERSION,
        "fds": ["seccompFd"],
        "pid": pid,
        "metadata": profile.listener_metadata,
        "state": {
            "ociVersion": STATE_VERSION, "id": subject.id, "status": subject.status, "pid": subject.pid,
            "bundle": subject.bundle, "annotations": subject.spec.annotations,
        },
    });
    let text = state.to_string();
    let address = SocketAddrUnix::new(path).map_err(|e| failed("connect", e))?;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None);
    let socket = socket.map_err(|e| failed("socket", e))?;
    // Holds for connect, too: an agent that has stopped says EAGAIN, and does not hold the container for ever.
    set_socket_timeout(&socket, Timeout::Send, Some(PATIENCE)).map_err(|e| failed("setsockopt", e))?;
    connect(&socket, &address).map_err(|e| failed("connect", e))?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [fd.as_fd()];
    control.push(SendAncillaryMessage::ScmRights(&fds));
    let mut rest = text.as_bytes();
    while !rest.is_empty() {
        // An agent that reads slowly gets the state in pieces, the first of them with the descriptor.
        let sent = sendmsg(&socket, &[IoSlice::new(rest)], &mut control, SendFlags::NOSIGNAL);
        rest = &rest[sent.map_err(|e| failed("sendmsg", e))?..];
        control.clear();
    }
    Ok(())
}
