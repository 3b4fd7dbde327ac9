//! Connections, from our own user only.
#![forbid(unsafe_code)]

use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;
use rustix::io::Errno;
use rustix::net::SocketFlags;
use tokio::time::{Sleep, sleep};

use super::serve::Leave;
use crate::connection::{self, Buffered, Server};
use crate::ready::Fd;

/// Pause after an accept that failed for want of something (descriptors, memory), so as not to spin on it.
const RESPITE: Duration = Duration::from_millis(100);

/// The stream of connections that the server takes.
pub(super) struct Accept {
    listener: Fd,
    leave: Arc<Leave>,
    respite: Option<Pin<Box<Sleep>>>,
}

impl Accept {
    pub(super) fn new(listener: Fd, leave: Arc<Leave>) -> Self {
        Self { listener, leave, respite: None }
    }

    /// Whoever can reach the socket and is not our user is nobody (containerd's own shim: UnixSocketRequireSameUser).
    fn welcome(&self, socket: &OwnedFd) -> bool {
        let ours = rustix::process::geteuid();
        match rustix::net::sockopt::socket_peercred(socket) {
            Ok(peer) if peer.uid == ours => true,
            Ok(peer) => {
                log::warn!("connection refused: uid {} is not {}", peer.uid.as_raw(), ours.as_raw());
                false
            }
            Err(error) => {
                log::warn!("connection refused: SO_PEERCRED: {error}");
                false
            }
        }
    }
}

impl Stream for Accept {
    type Item = io::Result<Buffered<Server>>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(respite) = &mut self.respite {
                std::task::ready!(respite.as_mut().poll(cx));
                self.respite = None;
            }
            let mut ready = std::task::ready!(self.listener.poll_read_ready(cx))?;
            match rustix::net::accept_with(self.listener.get_ref(), SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok(socket) => {
                    if !self.welcome(&socket) {
                        continue;
                    }
                    self.leave.somebody_is_here();
                    match connection::server(socket) {
                        // An error would end the server.
                        Err(error) => log::warn!("connection refused: epoll_ctl: {error}"),
                        served => return Poll::Ready(Some(served)),
                    }
                }
                Err(Errno::WOULDBLOCK) => ready.clear_ready(),
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(error) => {
                    log::warn!("accept: {error}");
                    self.respite = Some(Box::pin(sleep(RESPITE)));
                }
            }
        }
    }
}
