//! The outbox: one queue of events to containerd, sent in the order in which they happened.
//!
//! One event is under way at a time. While containerd is down the head of the queue is tried again and everything behind it
//! waits, so that neither a restart of containerd nor a lost connection changes the order or loses an exit. An answer that
//! got lost makes a repetition, with the same timestamp: containerd's consumers tolerate one, while a lost exit leaves a
//! container "running" for ever. See docs/decisions/events.md.

#![forbid(unsafe_code)]

mod queue;
mod send;

#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use containerd_shim_protos::events::task::{
    TaskCreate, TaskDelete, TaskExecAdded, TaskExecStarted, TaskExit, TaskOOM, TaskPaused, TaskResumed, TaskStart,
};
use containerd_shim_protos::shim::event::Envelope;
use containerd_shim_protos::shim::events::ForwardRequest;
use protobuf::well_known_types::any::Any;
use protobuf::well_known_types::timestamp::Timestamp;
use protobuf::{Message, MessageField};
use tokio::sync::Notify;

use queue::Queue;

/// Bytes of encoded events that are kept while containerd cannot be reached: some five thousand exits. Beyond it events are
/// dropped, the least telling first, see [`queue::Worth`].
const BOUND: usize = 1 << 20;

/// An event of a task, in containerd's messages.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A container was created.
    Create(TaskCreate),
    /// Its first process runs.
    Start(TaskStart),
    /// An exec was registered.
    ExecAdded(TaskExecAdded),
    /// An exec runs.
    ExecStarted(TaskExecStarted),
    /// A process ended.
    Exit(TaskExit),
    /// A container or an exec was deleted.
    Delete(TaskDelete),
    /// A container was frozen.
    Paused(TaskPaused),
    /// A container was thawed.
    Resumed(TaskResumed),
    /// The kernel killed something in a container for its memory limit.
    Oom(TaskOOM),
}

impl Event {
    /// Topic and full name of the message (the bare name: containerd's own shim puts no host before it).
    pub fn names(&self) -> (&'static str, &'static str) {
        match self {
            Event::Create(_) => ("/tasks/create", "containerd.events.TaskCreate"),
            Event::Start(_) => ("/tasks/start", "containerd.events.TaskStart"),
            Event::ExecAdded(_) => ("/tasks/exec-added", "containerd.events.TaskExecAdded"),
            Event::ExecStarted(_) => ("/tasks/exec-started", "containerd.events.TaskExecStarted"),
            Event::Exit(_) => ("/tasks/exit", "containerd.events.TaskExit"),
            Event::Delete(_) => ("/tasks/delete", "containerd.events.TaskDelete"),
            Event::Paused(_) => ("/tasks/paused", "containerd.events.TaskPaused"),
            Event::Resumed(_) => ("/tasks/resumed", "containerd.events.TaskResumed"),
            Event::Oom(_) => ("/tasks/oom", "containerd.events.TaskOOM"),
        }
    }

    fn bytes(&self) -> protobuf::Result<Vec<u8>> {
        match self {
            Event::Create(m) => m.write_to_bytes(),
            Event::Start(m) => m.write_to_bytes(),
            Event::ExecAdded(m) => m.write_to_bytes(),
            Event::ExecStarted(m) => m.write_to_bytes(),
            Event::Exit(m) => m.write_to_bytes(),
            Event::Delete(m) => m.write_to_bytes(),
            Event::Paused(m) => m.write_to_bytes(),
            Event::Resumed(m) => m.write_to_bytes(),
            Event::Oom(m) => m.write_to_bytes(),
        }
    }

    fn worth(&self) -> queue::Worth {
        match self {
            Event::Exit(_) => queue::Worth::Exit,
            Event::Create(_) | Event::Start(_) | Event::Delete(_) | Event::Oom(_) => queue::Worth::Life,
            _ => queue::Worth::Passing,
        }
    }
}

/// What senders and the sending task share. The lock is held for a push or a pop, never while something waits.
struct Shared {
    namespace: String,
    queue: Mutex<Queue>,
    /// Something was put into an empty queue.
    filled: Notify,
    /// The queue ran empty.
    emptied: Notify,
}

impl Shared {
    fn queue(&self) -> std::sync::MutexGuard<'_, Queue> {
        // Nothing in here can panic half way.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Handle of the outbox; all clones are the same one.
#[derive(Clone)]
pub struct Outbox(Arc<Shared>);

impl Outbox {
    /// Starts the sending task on the current runtime. `ttrpc_address` is a path, with or without `unix://`; it is not
    /// connected to before there is something to say. Without an address events are dropped, with a line in the log each.
    pub fn start(namespace: String, ttrpc_address: String) -> Self {
        Self::with(namespace, ttrpc_address, BOUND, send::Timing::default())
    }

    fn with(namespace: String, address: String, bound: usize, timing: send::Timing) -> Self {
        let queue = Mutex::new(Queue::new(bound));
        let shared = Arc::new(Shared { namespace, queue, filled: Notify::new(), emptied: Notify::new() });
        tokio::spawn(send::run(Arc::clone(&shared), address, timing));
        Self(shared)
    }

    /// Puts an event at the end of the queue. Never waits and cannot fail; the time in the envelope is now.
    pub fn send(&self, event: Event) {
        let (topic, name) = event.names();
        match self.encode(&event, topic, name) {
            Ok(bytes) => {
                let dropped = self.0.queue().push(bytes, event.worth(), topic);
                for topic in dropped {
                    log::error!("containerd cannot be reached and the outbox is full: an event {topic} is lost");
                }
                self.0.filled.notify_one();
            }
            Err(e) => log::error!("event {topic} cannot be encoded: {e}"),
        }
    }

    /// A whole ForwardRequest: encoded once, however often it has to be tried.
    fn encode(&self, event: &Event, topic: &str, name: &str) -> protobuf::Result<Vec<u8>> {
        let event = Any { type_url: name.into(), value: event.bytes()?, ..Any::default() };
        let envelope = Envelope {
            timestamp: MessageField::some(Timestamp::now()),
            namespace: self.0.namespace.clone(),
            topic: topic.into(),
            event: MessageField::some(event),
            ..Envelope::default()
        };
        ForwardRequest { envelope: MessageField::some(envelope), ..ForwardRequest::default() }.write_to_bytes()
    }

    /// Waits until everything is sent, at most `limit`. What is left then is named in the log and lost with the process.
    pub async fn drain(&self, limit: Duration) {
        let empty = async {
            loop {
                let emptied = self.0.emptied.notified();
                if self.0.queue().is_empty() {
                    return;
                }
                emptied.await;
            }
        };
        if tokio::time::timeout(limit, empty).await.is_err() {
            log::error!("{} events could not be sent before the end", self.0.queue().len());
        }
    }
}
