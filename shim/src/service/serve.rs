//! The shim as a process: its loop, its signals, its end.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener as StdListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use containerd_shim_protos::ttrpc::r#async::Server;
use containerd_shim_protos::ttrpc::asynchronous::transport::Listener;
use runtime::{Host, sys};
use tokio::net::UnixListener;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::accept::Accept;
use super::services;
use crate::connection;
use crate::events::Outbox;
use crate::ready::{self, Fd};
use crate::reap;
use crate::task::Shim;

/// How long the last events may take when we leave; containerd's own limit.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// How long the last answers may take.
const FAREWELL: Duration = Duration::from_secs(1);
/// How long a shim without containers waits for somebody before it leaves by itself. containerd 1.7 to 2.3 forget to call
/// Shutdown when the pod's first container goes before its members.
const ALONE: Duration = Duration::from_secs(10);

/// `struct signalfd_siginfo` of signalfd(2) is this long and begins with the signal's number.
const SIGINFO: usize = 128;
/// More than the signals that we take, each of which is pending once at most: a read is never full and leaves nothing.
const SIGNALS: usize = 5;

/// What main hands over.
#[derive(Debug)]
pub struct Args {
    /// containerd's namespace; one shim serves one.
    pub namespace: String,
    /// The first container's id.
    pub id: String,
    /// Bound and listening.
    pub listener: OwnedFd,
    /// Where events go.
    pub ttrpc_address: String,
    /// Its [`signals`], held back before anything else is prepared: one that comes earlier ends it and leaves the socket behind.
    pub signals: OwnedFd,
}

/// Holds back the signals that the daemon obeys, and answers where they can be read. Errors: EMFILE and the like.
pub fn signals() -> rustix::io::Result<OwnedFd> {
    sys::signal_fd(&[libc::SIGCHLD, libc::SIGTERM, libc::SIGINT, libc::SIGUSR1])
}

/// Whether it is time to go.
pub(super) struct Leave {
    socket: Option<PathBuf>,
    leaving: AtomicBool,
    asked: Notify,
    /// Counts connections and Creates.
    visits: AtomicU64,
}

impl Leave {
    fn new(socket: Option<PathBuf>) -> Self {
        Self { socket, leaving: AtomicBool::new(false), asked: Notify::new(), visits: AtomicU64::new(0) }
    }

    pub(super) fn somebody_is_here(&self) {
        self.visits.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed)
    }

    /// Removes the socket, so that nobody joins a shim that goes, and begins to end.
    pub(super) fn leave(&self) {
        if self.leaving.swap(true, Ordering::Relaxed) {
            // By now the path may be somebody else's.
            return;
        }
        if let Some(socket) = &self.socket
            && let Err(error) = std::fs::remove_file(socket)
            && error.kind() != io::ErrorKind::NotFound
        {
            log::warn!("unlink {}: {error}", socket.display());
        }
        self.asked.notify_one();
    }

    /// Leaves when the last container has gone and nobody has come for a while.
    async fn when_alone(&self, shim: &Shim) {
        loop {
            shim.emptied.notified().await;
            while shim.is_empty() {
                let before = self.visits.load(Ordering::Relaxed);
                sleep(ALONE).await;
                if shim.is_empty() && self.visits.load(Ordering::Relaxed) == before {
                    log::info!("no container and no client for {} s: leaving", ALONE.as_secs());
                    return self.leave();
                }
            }
        }
    }
}

/// Serves until it is time to go. Call it before any other thread exists.
///
/// Errors: what is needed to serve at all (descriptors, facts of the host) cannot be had.
pub fn serve(args: Args) -> io::Result<()> {
    sys::frugal_malloc();
    // Orphans of containers without a pid namespace of their own come to us.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    let host = Host::read().map_err(io::Error::other)?;
    let loop_ = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .on_thread_park(connection::before_sleep)
        .build()?;
    // A task, because each wake of what `block_on` polls itself costs a write to the loop's eventfd and a turn of epoll.
    let serving = loop_.spawn(run(args, host));
    let served = loop_.block_on(serving).map_err(io::Error::other);
    connection::before_sleep();
    served?
}

async fn run(args: Args, host: Host) -> io::Result<()> {
    let listener = StdListener::from(args.listener);
    listener.set_nonblocking(true)?;
    let socket = listener.local_addr()?.as_pathname().map(PathBuf::from);
    let leave = Arc::new(Leave::new(socket));
    let outbox = Outbox::start(args.namespace.clone(), args.ttrpc_address);
    let shim = Arc::new(Shim::new(args.namespace, host, outbox));
    let accept = Accept::new(UnixListener::from_std(listener)?, Arc::clone(&leave));
    let mut server = Server::new().add_listener(Listener::new(accept)).register_service(services(&shim, &leave));
    server.start().await.map_err(io::Error::other)?;
    log::debug!("serving {} in {}", args.id, shim.namespace);

    let child_ended = Arc::new(Notify::new());
    let signals = ready::for_reading(args.signals)?;
    tokio::select! {
        () = leave.asked.notified() => {}
        () = leave.when_alone(&shim) => {}
        result = obey(&signals, &shim, &leave, &child_ended) => result?,
        () = reap::sweep_orphans(Arc::clone(&child_ended)) => {}
    }
    shim.outbox.drain(LAST_WORDS).await;
    // Every handler has its answer by now, or never will; the one to Shutdown is still on its way.
    let _ = timeout(FAREWELL, server.shutdown()).await;
    for _ in 0..8 {
        tokio::task::yield_now().await;
    }
    Ok(())
}

/// Obeys signals until one says to leave.
async fn obey(signals: &Fd, shim: &Shim, leave: &Leave, child_ended: &Notify) -> io::Result<()> {
    let mut info = [0u8; SIGINFO * SIGNALS];
    loop {
        let mut ready = signals.readable().await?;
        let length = match rustix::io::read(signals.get_ref(), &mut info) {
            Ok(length) => length,
            Err(rustix::io::Errno::AGAIN) => 0,
            Err(errno) => return Err(errno.into()),
        };
        // What comes after the read is another edge of the descriptor.
        ready.clear_ready();
        for signal in info[..length].chunks_exact(SIGINFO) {
            let [a, b, c, d, ..] = *signal else { continue };
            match i32::from_ne_bytes([a, b, c, d]) {
                libc::SIGCHLD => child_ended.notify_one(),
                libc::SIGUSR1 => shim.describe().iter().for_each(|line| log::warn!("{line}")),
                _term_or_int => {
                    leave.leave();
                    return Ok(());
                }
            }
        }
    }
}
