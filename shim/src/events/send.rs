//! The task that empties the outbox over ttrpc.

#![forbid(unsafe_code)]

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::time::{Instant, Sleep, sleep};
use ttrpc::asynchronous::Client;
use ttrpc::asynchronous::transport::Socket;
use ttrpc::proto::KeyValue;
use ttrpc::{Code, Error, Request};

use super::Shared;
use crate::connection;

/// The service that takes events in every containerd since 1.3.
const SERVICE: &str = "containerd.services.events.ttrpc.v1.Events";
const METHOD: &str = "Forward";

/// How often an event that containerd *answers* with a refusal is tried. Only a broken event is refused for ever, and it must
/// not hold up the others for ever.
const REFUSALS: u32 = 5;

/// How long things may take; tests have less patience.
#[derive(Clone, Copy)]
pub struct Timing {
    /// For one call.
    pub call: Duration,
    /// Before the second try; doubled up to `longest`.
    pub shortest: Duration,
    /// Between two tries: how long after its return containerd may still wait for news.
    pub longest: Duration,
    /// An unused connection is closed after this, for its memory on both sides.
    pub idle: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            call: Duration::from_secs(5),
            shortest: Duration::from_millis(20),
            longest: Duration::from_secs(1),
            idle: Duration::from_secs(10),
        }
    }
}

/// Why one try failed.
enum Failure {
    /// Nobody answered, or the answer did not arrive: the event may or may not have been taken.
    Unreachable(String),
    /// containerd looked at it and said no.
    Refused(String),
}

/// Sends until the runtime ends.
pub async fn run(shared: Arc<Shared>, address: String, timing: Timing) {
    let path = address.strip_prefix("unix://").unwrap_or(&address);
    let mut client = None;
    let mut clock = pin!(sleep(timing.idle));
    loop {
        let head = shared.queue().head();
        let Some((bytes, topic)) = head else {
            shared.emptied.notify_waiters();
            if client.is_none() || within(clock.as_mut(), timing.idle, shared.filled.notified()).await.is_none() {
                client = None;
                shared.filled.notified().await;
            }
            continue;
        };
        if path.is_empty() {
            log::warn!("no TTRPC_ADDRESS: event {topic} is not sent");
        } else {
            insist(&mut client, clock.as_mut(), path, &shared.namespace, bytes, topic, timing).await;
        }
        shared.queue().pop();
    }
}

/// Tries one event until it is taken, or refused for good.
async fn insist(
    client: &mut Option<Client>,
    mut clock: Pin<&mut Sleep>,
    path: &str,
    namespace: &str,
    bytes: Vec<u8>,
    topic: &str,
    timing: Timing,
) {
    let (mut pause, mut refusals, mut quiet) = (timing.shortest, 0, false);
    loop {
        let reused = client.is_some();
        match attempt(client, clock.as_mut(), path, namespace, bytes.clone(), timing.call).await {
            Ok(()) => break,
            Err(Failure::Refused(why)) => {
                refusals += 1;
                log::warn!("event {topic} refused by containerd: {why}");
                if refusals == REFUSALS {
                    log::error!("event {topic} is given up");
                    return;
                }
            }
            Err(Failure::Unreachable(why)) => {
                *client = None;
                if reused {
                    // containerd was restarted since the last event: nothing is known about the new one yet.
                    continue;
                }
                if !quiet {
                    log::warn!("event {topic} waits for containerd at {path}: {why}");
                    quiet = true;
                }
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(timing.longest);
    }
    if quiet {
        log::info!("events are taken again");
    }
}

/// One call on the connection there is, or on a new one.
async fn attempt(
    client: &mut Option<Client>,
    clock: Pin<&mut Sleep>,
    path: &str,
    namespace: &str,
    payload: Vec<u8>,
    limit: Duration,
) -> Result<(), Failure> {
    let unreachable = |e: &dyn std::fmt::Display| Failure::Unreachable(e.to_string());
    let connected = match client {
        Some(connected) => connected,
        None => {
            // Not ttrpc's own connect, which blocks the event loop while containerd's backlog is full.
            let stream = UnixStream::connect(path).await.map_err(|e| unreachable(&e))?;
            client.insert(Client::new(Socket::new(connection::client(stream))))
        }
    };
    let request = Request {
        service: SERVICE.into(),
        method: METHOD.into(),
        payload,
        // No deadline of ttrpc's, which would set two timers for each call; ours is `clock`.
        metadata: vec![KeyValue {
            key: "containerd-namespace-ttrpc".into(),
            value: namespace.into(),
            ..KeyValue::default()
        }],
        ..Request::default()
    };
    let Some(answer) = within(clock, limit, connected.request(request)).await else {
        return Err(Failure::Unreachable(format!("no answer within {limit:?}")));
    };
    match answer {
        Ok(_) => Ok(()),
        Err(Error::RpcStatus(status)) => match status.code() {
            // The call went wrong, not the event.
            Code::CANCELLED | Code::DEADLINE_EXCEEDED | Code::UNAVAILABLE | Code::ABORTED => {
                Err(Failure::Unreachable(status.message().to_owned()))
            }
            code => Err(Failure::Refused(format!("{code:?}: {}", status.message()))),
        },
        Err(e) => Err(unreachable(&e)),
    }
}

/// As tokio's timeout, but with a clock that goes on when the future was ready in time, and is set anew only if it would ring
/// too late. To set one wakes the loop (a write to its eventfd and a turn of epoll), which would be more than the rest of
/// sending an event.
async fn within<F: Future>(mut clock: Pin<&mut Sleep>, limit: Duration, future: F) -> Option<F::Output> {
    let end = Instant::now() + limit;
    if clock.is_elapsed() || clock.deadline() > end {
        clock.as_mut().reset(end);
    }
    let mut future = pin!(future);
    loop {
        tokio::select! {
            biased;
            output = future.as_mut() => return Some(output),
            () = clock.as_mut() => {
                if Instant::now() >= end {
                    return None;
                }
                clock.as_mut().reset(end);
            }
        }
    }
}
