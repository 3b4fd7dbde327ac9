//! A ttrpc connection that wakes its client once for an answer, and is not woken for being read itself.
//!
//! A unix(7) socket wakes whoever sleeps on its other end also when its data are taken out, for there is room again
//! (`unix_write_space` in the kernel): a client that waits for its answer is woken for nothing first, and a wake-up of another
//! processor costs more than most answers do. So a request is looked at (MSG_PEEK), and taken out when its answer has been
//! sent, which has woken the client already; or, if that takes longer, before the loop sleeps. And our own end is registered
//! for writing only while it is full.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use tokio::io::{AsyncRead, AsyncWrite, BufReader, ReadBuf};

use crate::ready::{self, Fd};

/// ttrpc asks for a message in three parts: head, body, and whether there is more. Out of a buffer, and with a read that does
/// not fill it, that is one system call.
const CHUNK: usize = 4096;

/// A connection as ttrpc shall read it.
pub type Buffered<S> = BufReader<S>;

/// One that we ask on. Errors: of socket(2) and connect(2); EAGAIN where too many wait to be accepted, for this waits for nobody.
pub fn client(path: &str) -> io::Result<Buffered<Client>> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(BufReader::with_capacity(CHUNK, Client { socket: ready::for_reading(socket)?, full: None }))
}

/// One that we answer on. Errors: of epoll_ctl(2).
pub fn server(socket: OwnedFd) -> io::Result<Buffered<Server>> {
    let seen = Seen { socket: ready::for_reading(socket)?, bytes: AtomicUsize::new(0) };
    Ok(BufReader::with_capacity(CHUNK, Server { seen: Arc::new(seen), full: None }))
}

/// See [`client`].
pub struct Client {
    socket: Fd,
    full: Option<Fd>,
}

/// See [`server`].
pub struct Server {
    seen: Arc<Seen>,
    full: Option<Fd>,
}

struct Seen {
    socket: Fd,
    /// How much of what we have is in the socket yet.
    bytes: AtomicUsize,
}

thread_local! {
    /// Those with something seen.
    static SEEN: RefCell<Vec<Arc<Seen>>> = const { RefCell::new(Vec::new()) };
}

/// Takes out what has only been looked at on this thread's connections. To be called before its loop sleeps, and when it ends:
/// nobody shall see a queue in a shim that is idle, and clients of one that ends would hear that it had not read what it had
/// (ECONNRESET).
pub fn before_sleep() {
    SEEN.with_borrow_mut(|seen| seen.drain(..).for_each(|seen| seen.take_out()));
}

impl Seen {
    fn take_out(&self) {
        let mut left = self.bytes.swap(0, Ordering::Relaxed);
        let mut buffer = [MaybeUninit::<u8>::uninit(); CHUNK];
        while left > 0 {
            let most = left.min(CHUNK);
            match rustix::net::recv(self.socket.get_ref(), &mut buffer[..most], RecvFlags::DONTWAIT) {
                Ok((_, 0)) => return,
                Ok((_, taken)) => left -= taken,
                Err(Errno::INTR) => {}
                // Whatever it is, the next read says so.
                Err(_) => return,
            }
        }
    }
}

/// Receives what is there, or waits for it; `begin` is called before each look.
fn poll_recv(
    socket: &Fd,
    cx: &mut Context<'_>,
    room: &mut [u8],
    flags: RecvFlags,
    begin: impl Fn(),
) -> Poll<io::Result<usize>> {
    loop {
        let mut ready = ready!(socket.poll_read_ready(cx))?;
        begin();
        match rustix::net::recv(socket.get_ref(), &mut *room, flags | RecvFlags::DONTWAIT) {
            Ok((_, bytes)) => {
                // There is no more then, and what comes is another edge of the descriptor.
                if (1..room.len()).contains(&bytes) {
                    ready.clear_ready();
                }
                return Poll::Ready(Ok(bytes));
            }
            Err(Errno::WOULDBLOCK) => ready.clear_ready(),
            Err(Errno::INTR) => {}
            Err(errno) => return Poll::Ready(Err(errno.into())),
        }
    }
}

/// Sends what there is room for, or waits for room: with a copy of the descriptor that is registered for writing as long.
fn poll_send(socket: &Fd, full: &mut Option<Fd>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
    loop {
        let ready = full.as_ref().map(|full| full.poll_write_ready(cx));
        let ready = match ready {
            Some(ready) => Some(ready!(ready)?),
            None => None,
        };
        match (rustix::net::send(socket.get_ref(), bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL), ready) {
            (Err(Errno::WOULDBLOCK), Some(mut ready)) => ready.clear_ready(),
            (Err(Errno::WOULDBLOCK), None) => *full = Some(ready::for_writing(socket.get_ref().try_clone()?)?),
            (Err(Errno::INTR), _) => {}
            (sent, _) => {
                *full = None;
                return Poll::Ready(sent.map_err(io::Error::from));
            }
        }
    }
}

fn shut_down(socket: &Fd) -> io::Result<()> {
    Ok(rustix::net::shutdown(socket.get_ref(), rustix::net::Shutdown::Write)?)
}

impl AsyncRead for Client {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let length = ready!(poll_recv(&self.socket, cx, buf.initialize_unfilled(), RecvFlags::empty(), || {}))?;
        buf.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Client {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let Self { socket, full } = self.get_mut();
        poll_send(socket, full, cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(shut_down(&self.socket))
    }
}

impl AsyncRead for Server {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let seen = &self.seen;
        let room = buf.initialize_unfilled();
        let peek = if room.len() <= CHUNK { RecvFlags::PEEK } else { RecvFlags::empty() };
        let length = ready!(poll_recv(&seen.socket, cx, room, peek, || seen.take_out()))?;
        if length > 0 && !peek.is_empty() {
            seen.bytes.store(length, Ordering::Relaxed);
            SEEN.with_borrow_mut(|all| {
                if !all.iter().any(|known| Arc::ptr_eq(known, seen)) {
                    all.push(Arc::clone(seen));
                }
            });
        }
        buf.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Server {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let Self { seen, full } = self.get_mut();
        let sent = ready!(poll_send(&seen.socket, full, cx, bytes));
        seen.take_out();
        Poll::Ready(sent)
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(shut_down(&self.seen.socket))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream as Client;
    use std::time::Duration;

    use proptest::prelude::*;
    use rustix::io::ioctl_fionread;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn on_a_loop<F: Future>(work: F) -> F::Output {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().on_thread_park(before_sleep).build().unwrap().block_on(work)
    }

    fn pair() -> (Client, Buffered<Server>) {
        let (client, ours) = Client::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        (client, server(ours.into()).unwrap())
    }

    fn queued(server: &Buffered<Server>) -> u64 {
        ioctl_fionread(server.get_ref().seen.socket.get_ref()).unwrap()
    }

    #[test]
    fn a_request_is_taken_out_after_its_answer() {
        on_a_loop(async {
            let (mut client, mut server) = pair();
            client.write_all(b"request").unwrap();
            let mut request = [0; 7];
            server.read_exact(&mut request).await.unwrap();
            assert_eq!((&request, queued(&server)), (b"request", 7));
            server.write_all(b"answer").await.unwrap();
            assert_eq!(queued(&server), 0);
        });
    }

    #[test]
    fn a_request_is_taken_out_before_the_loop_sleeps() {
        on_a_loop(async {
            let (mut client, mut server) = pair();
            client.write_all(b"first").unwrap();
            server.read_exact(&mut [0; 5]).await.unwrap();
            assert_eq!(queued(&server), 5);
            tokio::time::sleep(Duration::from_millis(1)).await;
            assert_eq!(queued(&server), 0);
            client.write_all(b"second").unwrap();
            let mut second = [0; 6];
            server.read_exact(&mut second).await.unwrap();
            assert_eq!(&second, b"second");
        });
    }

    #[test]
    fn the_loop_sleeps_on_when_its_answer_is_read() {
        let turns = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&turns);
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().on_thread_park(move || drop(counted.fetch_add(1, Ordering::Relaxed)));
        builder.build().unwrap().block_on(async {
            let (mut client, mut server) = pair();
            client.write_all(b"request").unwrap();
            server.read_exact(&mut [0; 7]).await.unwrap();
            let reader = std::thread::spawn(move || {
                for _ in 0..20 {
                    client.read_exact(&mut [0; 6]).unwrap();
                    std::thread::sleep(Duration::from_millis(1));
                }
                client
            });
            let before = turns.load(Ordering::Relaxed);
            for _ in 0..20 {
                server.write_all(b"answer").await.unwrap();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
            // One for the clock, and one of its cascades.
            let woken = turns.load(Ordering::Relaxed) - before;
            assert!(woken <= 4, "woken {woken} times");
            drop(reader.join().unwrap());
        });
    }

    /// Closed with something in its queue a socket would say ECONNRESET.
    #[test]
    fn what_was_seen_was_read() {
        on_a_loop(async {
            let (mut client, mut server) = pair();
            client.write_all(b"request").unwrap();
            server.read_exact(&mut [0; 7]).await.unwrap();
            drop(server);
            tokio::time::sleep(Duration::from_millis(1)).await;
            assert_eq!(client.read(&mut [0]).unwrap(), 0);
        });
    }

    #[test]
    fn a_client_that_does_not_read_is_waited_for() {
        const ALL: usize = 4 << 20;
        on_a_loop(async {
            let (mut client, mut server) = pair();
            let reader = std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(20));
                let mut bytes = Vec::new();
                client.read_to_end(&mut bytes).unwrap();
                bytes
            });
            server.write_all(&vec![7; ALL]).await.unwrap();
            server.shutdown().await.unwrap();
            let bytes = reader.join().unwrap();
            assert_eq!((bytes.len(), bytes.iter().all(|b| *b == 7)), (ALL, true));
        });
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// However requests are cut, whatever the loop does between them, and whether or not they are answered.
        #[test]
        fn every_byte_once(
            pieces in prop::collection::vec(1..3 * CHUNK, 1..12),
            steps in prop::collection::vec((CHUNK / 8..3 * CHUNK, any::<bool>(), any::<bool>()), 1..12),
        ) {
            let all: Vec<u8> = (0..pieces.iter().sum::<usize>()).map(|i| (i % 251) as u8).collect();
            let seen = on_a_loop(async {
                let (mut client, mut server) = pair();
                let mut answers = client.try_clone().unwrap();
                let reader = std::thread::spawn(move || while answers.read(&mut [0; CHUNK]).is_ok_and(|n| n > 0) {});
                let sent = all.clone();
                let writer = std::thread::spawn(move || {
                    let mut rest = &sent[..];
                    for piece in pieces {
                        client.write_all(&rest[..piece]).unwrap();
                        rest = &rest[piece..];
                    }
                    client.shutdown(std::net::Shutdown::Write).unwrap();
                });
                let mut seen = Vec::new();
                for (room, answers, sleeps) in steps.iter().cycle() {
                    let mut buffer = vec![0; *room];
                    let length = server.read(&mut buffer).await.unwrap();
                    if length == 0 {
                        break;
                    }
                    seen.extend_from_slice(&buffer[..length]);
                    if *answers {
                        server.write_all(b"answer").await.unwrap();
                    }
                    if *sleeps {
                        tokio::time::sleep(Duration::from_micros(10)).await;
                    }
                }
                writer.join().unwrap();
                drop(server);
                tokio::time::sleep(Duration::from_millis(1)).await;
                reader.join().unwrap();
                seen
            });
            prop_assert!(seen == all, "{} bytes of {}", seen.len(), all.len());
        }
    }
}
