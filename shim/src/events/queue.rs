//! The events that wait, bounded by their bytes.

#![forbid(unsafe_code)]

use std::collections::VecDeque;

/// What a client loses with an event. Under memory pressure the least worth goes first, the oldest of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Worth {
    /// Execs and pauses: of interest only while they happen.
    Passing,
    /// Creation, start, deletion, out of memory: clients find out by asking for the state.
    Life,
    /// Nobody can ask for it later. Dropped only when there is nothing else left to drop.
    Exit,
}

struct Entry {
    bytes: Vec<u8>,
    worth: Worth,
    topic: &'static str,
}

/// First in, first out.
pub struct Queue {
    entries: VecDeque<Entry>,
    bytes: usize,
    bound: usize,
}

impl Queue {
    pub fn new(bound: usize) -> Self {
        Self { entries: VecDeque::new(), bytes: 0, bound }
    }

    /// Appends; returns the topics of what had to make room, the new one included. The head is never dropped, it may be
    /// under way.
    pub fn push(&mut self, bytes: Vec<u8>, worth: Worth, topic: &'static str) -> Vec<&'static str> {
        self.bytes += bytes.len();
        self.entries.push_back(Entry { bytes, worth, topic });
        let mut dropped = Vec::new();
        while self.bytes > self.bound && self.entries.len() > 1 {
            let behind = self.entries.iter().enumerate().skip(1);
            // min_by_key takes the first of equals, which is the oldest.
            let Some((least, _)) = behind.min_by_key(|(_, e)| e.worth) else { break };
            let Some(entry) = self.entries.remove(least) else { break };
            self.bytes -= entry.bytes.len();
            dropped.push(entry.topic);
        }
        dropped
    }

    /// The next to be sent, and what it is.
    pub fn head(&self) -> Option<(Vec<u8>, &'static str)> {
        self.entries.front().map(|e| (e.bytes.clone(), e.topic))
    }

    /// Takes the head away; it was sent or cannot be.
    pub fn pop(&mut self) {
        if let Some(entry) = self.entries.pop_front() {
            self.bytes -= entry.bytes.len();
        }
        if self.entries.is_empty() {
            // A burst is over: an idle shim keeps no memory for the next one.
            self.entries = VecDeque::new();
        }
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }
}
