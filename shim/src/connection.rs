//! A ttrpc connection that wakes its client once for an answer.
//!
//! A unix(7) socket wakes whoever sleeps on its other end also when its data are taken out, for there is room again
//! (`unix_write_space` in the kernel): a client that waits for its answer is woken for nothing first, and a wake-up of another
//! processor costs more than most answers do. So a request is looked at (MSG_PEEK), and taken out when its answer has been
//! sent, which has woken the client already; or, if that takes longer, before the loop sleeps.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use rustix::io::Errno;
use rustix::net::RecvFlags;
use tokio::io::{AsyncRead, AsyncWrite, BufReader, Interest, ReadBuf};
use tokio::net::UnixStream;

/// ttrpc asks for a message in three parts: head, body, and whether there is more. Out of a buffer, and with a read that does
/// not fill it, that is one system call.
const CHUNK: usize = 4096;

/// A connection as ttrpc shall read it.
pub type Buffered<S> = BufReader<S>;

/// One that we ask on.
pub fn client(stream: UnixStream) -> Buffered<UnixStream> {
    BufReader::with_capacity(CHUNK, stream)
}

/// One that we answer on.
pub fn server(stream: UnixStream) -> Buffered<Server> {
    BufReader::with_capacity(CHUNK, Server(Arc::new(Seen { stream, bytes: AtomicUsize::new(0) })))
}

/// See [`server`].
pub struct Server(Arc<Seen>);

struct Seen {
    stream: UnixStream,
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
            match rustix::net::recv(&self.stream, &mut buffer[..most], RecvFlags::DONTWAIT) {
                Ok((_, 0)) => return,
                Ok((_, taken)) => left -= taken,
                Err(Errno::INTR) => {}
                // Whatever it is, the next read says so.
                Err(_) => return,
            }
        }
    }
}

impl AsyncRead for Server {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Seen { stream, bytes } = &*self.0;
        let room = buf.initialize_unfilled();
        let peek = if room.len() <= CHUNK { RecvFlags::PEEK } else { RecvFlags::empty() };
        loop {
            ready!(stream.poll_read_ready(cx))?;
            self.0.take_out();
            let mut length = None;
            let read = stream.try_io(Interest::READABLE, || {
                let (_, bytes) = rustix::net::recv(stream, &mut *room, peek | RecvFlags::DONTWAIT)?;
                length = Some(bytes);
                // There is no more then, and what comes is another edge of the descriptor.
                if (1..room.len()).contains(&bytes) { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
            });
            let length = match (length, read) {
                (Some(length), _) => length,
                (None, Err(e)) if !matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                    return Poll::Ready(Err(e));
                }
                (None, _) => continue,
            };
            if length > 0 && !peek.is_empty() {
                bytes.store(length, Ordering::Relaxed);
                SEEN.with_borrow_mut(|seen| {
                    if !seen.iter().any(|known| Arc::ptr_eq(known, &self.0)) {
                        seen.push(Arc::clone(&self.0));
                    }
                });
            }
            buf.advance(length);
            return Poll::Ready(Ok(()));
        }
    }
}

impl AsyncWrite for Server {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.stream.poll_write_ready(cx))?;
            match self.0.stream.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => {
                    self.0.take_out();
                    return Poll::Ready(written);
                }
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(rustix::net::shutdown(&self.0.stream, rustix::net::Shutdown::Write).map_err(io::Error::from))
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
        (client, server(UnixStream::from_std(ours).unwrap()))
    }

    fn queued(server: &Buffered<Server>) -> u64 {
        ioctl_fionread(&server.get_ref().0.stream).unwrap()
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
