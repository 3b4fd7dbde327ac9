//! What `ctr events` prints, collected.

use crate::{Outcome, ensure};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// One event.
#[derive(Clone, Debug)]
pub struct Event {
    /// `/tasks/start` and the like.
    pub topic: String,
    /// The message.
    pub message: Value,
}

impl Event {
    /// A field of the message as text; empty if absent.
    pub fn text(&self, field: &str) -> &str {
        self.message[field].as_str().unwrap_or_default()
    }

    /// A field of the message as a number. A zero is left out of the JSON of some versions.
    pub fn number(&self, field: &str) -> u64 {
        self.message[field].as_u64().unwrap_or_default()
    }
}

/// A running `ctr events`.
pub struct Collector {
    child: Option<Child>,
    seen: Arc<Mutex<Vec<Event>>>,
}

impl Collector {
    /// Starts collecting; the events go to the end of `seen`.
    pub fn start(mut command: Command, seen: Arc<Mutex<Vec<Event>>>) -> Outcome<Collector> {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let lines = BufReader::new(child.stdout.take().ok_or("no stdout")?).lines();
        let sink = seen.clone();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if let (Some(event), Ok(mut seen)) = (parse(&line), sink.lock()) {
                    seen.push(event);
                }
            }
        });
        Ok(Collector { child: Some(child), seen })
    }

    /// Another look at what a running collector fills.
    pub fn view(seen: Arc<Mutex<Vec<Event>>>) -> Collector {
        Collector { child: None, seen }
    }

    /// All events so far.
    pub fn all(&self) -> Vec<Event> {
        self.seen.lock().map(|seen| seen.clone()).unwrap_or_default()
    }

    /// The task events of one container so far, in the order of their arrival.
    pub fn of(&self, container: &str) -> Vec<Event> {
        let mut events = self.all();
        events.retain(|event| event.topic.starts_with("/tasks/") && event.text("container_id") == container);
        events
    }

    /// Waits until the container's events satisfy the condition; says which came otherwise.
    pub fn wait(&self, container: &str, limit: Duration, condition: impl Fn(&[Event]) -> bool) -> Outcome<Vec<Event>> {
        crate::eventually(limit, || {
            let events = self.of(container);
            ensure!(condition(&events), "the events of {container} are {:?}", topics(&events));
            Ok(events)
        })
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The topics of events, without the common prefix: what most order checks compare.
pub fn topics(events: &[Event]) -> Vec<&str> {
    events.iter().map(|event| event.topic.trim_start_matches("/tasks/")).collect()
}

/// `2026-11-21 05:17:07.09 +0000 UTC NAMESPACE TOPIC JSON`
fn parse(line: &str) -> Option<Event> {
    let (_, rest) = line.split_once(" /")?;
    let (topic, message) = rest.split_once(' ').unwrap_or((rest, "null"));
    Some(Event { topic: format!("/{topic}"), message: serde_json::from_str(message).ok()? })
}
