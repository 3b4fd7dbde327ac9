//! Connections, from our own user only.
#![forbid(unsafe_code)]

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;
use tokio::net::{UnixListener, UnixStream};
use tokio::time::{Sleep, sleep};

use super::serve::Leave;
use crate::connection::{self, Buffered, Server};

/// Pause after an accept that failed for want of something (descriptors, memory), so as not to spin on it.
const RESPITE: Duration = Duration::from_millis(100);

/// The stream of connections that the server takes.
pub(super) struct Accept {
    listener: UnixListener,
    leave: Arc<Leave>,
    respite: Option<Pin<Box<Sleep>>>,
}

impl Accept {
    pub(super) fn new(listener: UnixListener, leave: Arc<Leave>) -> Self {
        Self { listener, leave, respite: None }
    }

    /// Whoever can reach the socket and is not our user is nobody (containerd's own shim: UnixSocketRequireSameUser).
    fn welcome(&self, stream: &UnixStream) -> bool {
        let ours = rustix::process::geteuid().as_raw();
        match stream.peer_cred() {
            Ok(peer) if peer.uid() == ours => true,
            Ok(peer) => {
                log::warn!("connection refused: uid {} is not {ours}", peer.uid());
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
            match std::task::ready!(self.listener.poll_accept(cx)) {
                Ok((stream, _)) => {
                    if self.welcome(&stream) {
                        self.leave.somebody_is_here();
                        return Poll::Ready(Some(Ok(connection::server(stream))));
                    }
                }
                Err(error) => {
                    log::warn!("accept: {error}");
                    self.respite = Some(Box::pin(sleep(RESPITE)));
                }
            }
        }
    }
}
