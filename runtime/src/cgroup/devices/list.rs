//! Version 1: what `devices.list` says, what it should say, and the writes in between.
//!
//! The kernel keeps a default (allow or deny) and exceptions to it. It ignores in silence what it cannot express, so the
//! exceptions are worked out here and compared afterwards. See devcgroup of the kernel, `security/device_cgroup.c`.

use std::collections::BTreeMap;

use super::{ALL, MKNOD, Match, Node, POINTER, READ, Rule, WRITE};
use crate::error::{Error, Result};

/// A default and the exceptions to it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(super) struct State {
    allow: bool,
    exceptions: BTreeMap<Match, u8>,
}

/// One write.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Change {
    /// `devices.allow` or `devices.deny`.
    pub file: &'static str,
    /// `c 1:3 rwm`
    pub line: String,
    /// It changes the default.
    pub reset: bool,
}

impl Match {
    pub(super) fn contains(&self, other: &Match) -> bool {
        let wider = |a: Option<u32>, b: Option<u32>| a.is_none() || a == b;
        self.node == other.node && wider(self.major, other.major) && wider(self.minor, other.minor)
    }

    /// The devices that both mean.
    pub(super) fn and(&self, other: &Match) -> Option<Match> {
        let both = |a: Option<u32>, b: Option<u32>| match (a, b) {
            (Some(x), Some(y)) if x != y => None,
            (x, y) => Some(x.or(y)),
        };
        let (major, minor) = (both(self.major, other.major)?, both(self.minor, other.minor)?);
        (self.node == other.node).then_some(Match { node: self.node, major, minor })
    }
}

fn line(devices: &Match, access: u8) -> String {
    let node = if devices.node == Node::Block { 'b' } else { 'c' };
    let number = |n: Option<u32>| n.map_or("*".to_owned(), |n| n.to_string());
    let letters = [(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')].iter().filter(|(bit, _)| access & bit != 0);
    let letters: String = letters.map(|(_, letter)| letter).collect();
    format!("{node} {}:{} {letters}", number(devices.major), number(devices.minor))
}

impl State {
    /// Reads `devices.list`. It lists only what is *allowed*: of a group that allows by default the exceptions cannot be
    /// known.
    pub(super) fn parse(text: &str) -> Option<State> {
        let mut state = State::default();
        for entry in text.lines() {
            let mut words = entry.split([' ', ':']);
            let (node, major, minor, access) = (words.next()?, words.next()?, words.next()?, words.next()?);
            let node = match node {
                "a" => {
                    state.allow = true;
                    continue;
                }
                "b" => Node::Block,
                "c" => Node::Char,
                _ => return None,
            };
            let number = |word: &str| match word {
                "*" => Some(None),
                digits => digits.parse().ok().map(Some),
            };
            let devices = Match { node, major: number(major)?, minor: number(minor)? };
            *state.exceptions.entry(devices).or_default() |= super::access(access)?;
        }
        Some(state)
    }

    /// What a list of rules comes to.
    ///
    /// # Errors
    /// A rule takes single devices out of a wider exception, for example `deny c 1:3` after `allow c 1:*`: the kernel has
    /// no exceptions to exceptions.
    pub(super) fn of(rules: &[Rule]) -> Result<State> {
        let mut state = State::default();
        for rule in rules {
            match *rule {
                Rule::Everything(allow) => state = State { allow, exceptions: BTreeMap::new() },
                Rule::Some { allow, devices, access, .. } if allow != state.allow => {
                    *state.exceptions.entry(devices).or_default() |= access;
                }
                Rule::Some { devices, access, index, .. } => {
                    for (exception, bits) in &mut state.exceptions {
                        if devices.contains(exception) {
                            *bits &= !access;
                        } else if *bits & access != 0 && devices.and(exception).is_some() {
                            let (asked, old) = (line(&devices, access), line(exception, *bits));
                            let from = index.map_or(POINTER.to_owned(), |i| format!("{POINTER}/{i}"));
                            let reason = format!(
                                "rule \"{asked}\" is not supported by cgroup v1 (cannot punch a hole in \"{old}\")"
                            );
                            return Err(Error::unsupported(from, reason));
                        }
                    }
                    state.exceptions.retain(|_, bits| *bits != 0);
                }
            }
        }
        if !state.allow {
            state.join();
        }
        Ok(state)
    }

    /// To open for reading and writing, the kernel wants one exception that has both: where one gives read and another
    /// write, a third for what both mean is added. (mknod is asked for alone.)
    fn join(&mut self) {
        const OPEN: u8 = READ | WRITE;
        loop {
            let entries: Vec<(Match, u8)> = self.exceptions.iter().map(|(m, a)| (*m, *a)).collect();
            let mut grown = false;
            for (i, (a, x)) in entries.iter().enumerate() {
                for (b, y) in &entries[i + 1..] {
                    let Some(both) = a.and(b) else { continue };
                    let wanted = (x | y) & OPEN;
                    let covered = self.exceptions.iter().any(|(m, bits)| m.contains(&both) && bits & wanted == wanted);
                    if !covered {
                        *self.exceptions.entry(both).or_default() |= wanted;
                        grown = true;
                    }
                }
            }
            if !grown {
                return;
            }
        }
    }

    /// Allowed by default, without an exception that is known of.
    pub(super) fn allows_all(&self) -> bool {
        self.allow && self.exceptions.is_empty()
    }

    /// Compares what the kernel shows with what was meant; see [`State::parse`] for what it does not show.
    pub(super) fn differs(&self, target: &State) -> bool {
        self.allow != target.allow || (!target.allow && self.exceptions != target.exceptions)
    }

    /// The writes from this state to another. Between two lists of allowed devices nothing is forbidden meanwhile that
    /// both allow: the new ones come first. Otherwise the default has to be set, which drops every exception.
    pub(super) fn changes(&self, target: &State) -> Vec<Change> {
        let file = |allow: bool| if allow { "devices.allow" } else { "devices.deny" };
        let mut changes = Vec::new();
        let nothing = BTreeMap::new();
        let mut old = &self.exceptions;
        if self.allow || target.allow {
            changes.push(Change { file: file(target.allow), line: "a *:* rwm".to_owned(), reset: true });
            old = &nothing;
        }
        let without = |all: &BTreeMap<Match, u8>, less: &BTreeMap<Match, u8>| {
            let rest = all.iter().map(|(m, bits)| (*m, bits & !less.get(m).copied().unwrap_or(0) & ALL));
            rest.filter(|(_, bits)| *bits != 0).collect::<Vec<_>>()
        };
        for (gained, allow) in
            [(without(&target.exceptions, old), !target.allow), (without(old, &target.exceptions), target.allow)]
        {
            let lines = gained.iter().map(|(devices, access)| line(devices, *access));
            changes.extend(lines.map(|line| Change { file: file(allow), line, reset: false }));
        }
        changes
    }
}

#[cfg(test)]
impl State {
    pub(super) fn exceptions(&self) -> &BTreeMap<Match, u8> {
        &self.exceptions
    }

    pub(super) fn exceptions_mut(&mut self) -> (&mut BTreeMap<Match, u8>, &bool) {
        (&mut self.exceptions, &self.allow)
    }

    pub(super) fn allows(&self) -> bool {
        self.allow
    }
}
