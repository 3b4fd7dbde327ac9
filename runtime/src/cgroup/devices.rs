//! Which devices a container may open and make: rules in order, the last match wins.
//!
//! Version 1 has a list in the kernel ([`list`] works out the smallest change to it), version 2 an eBPF program that we
//! write ([`bpf`]). Both are exact, or refuse: what cannot be enforced is never skipped.

mod bpf;
mod list;
pub(super) mod unit;

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::file::{self, fault};
use super::{Record, Version};
use crate::child::raised::with_memory_to_lock;
use crate::error::{Error, Result};
use crate::kernfs;
use crate::spec::DeviceRule;
use crate::sys;

/// The pointer of rules that belong to no single line.
const POINTER: &str = "/linux/resources/devices";

/// The access bits, numbered as `BPF_DEVCG_ACC_*`.
const MKNOD: u8 = 1;
const READ: u8 = 2;
const WRITE: u8 = 4;
const ALL: u8 = MKNOD | READ | WRITE;

/// Block or character device, numbered as `BPF_DEVCG_DEV_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Node {
    Block = 1,
    Char = 2,
}

/// Some devices: of one kind, with one or every major, one or every minor number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Match {
    node: Node,
    major: Option<u32>,
    minor: Option<u32>,
}

/// One step of a list of rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    /// Every access to every device: nothing before it matters.
    Everything(bool),
    /// Some accesses to some devices. `index` is the line of config.json, for errors.
    Some { allow: bool, devices: Match, access: u8, index: Option<usize> },
}

/// Devices that a container gets whatever its spec says, the list of runc: mknod of anything (to make is not to open),
/// null, zero, full, random, urandom, tty, the terminals of its own devpts, ptmx, and tun (programs broke without).
const DEFAULTS: [(Node, Option<u32>, Option<u32>, u8); 11] = [
    (Node::Char, None, None, MKNOD),
    (Node::Block, None, None, MKNOD),
    (Node::Char, Some(1), Some(3), ALL),
    (Node::Char, Some(1), Some(8), ALL),
    (Node::Char, Some(1), Some(7), ALL),
    (Node::Char, Some(5), Some(0), ALL),
    (Node::Char, Some(1), Some(5), ALL),
    (Node::Char, Some(1), Some(9), ALL),
    (Node::Char, Some(136), None, ALL),
    (Node::Char, Some(5), Some(2), ALL),
    (Node::Char, Some(10), Some(200), ALL),
];

/// The whole list for a container: deny all, then the spec's rules, then the defaults.
fn rules(spec: &[DeviceRule]) -> Result<Vec<Rule>> {
    let mut rules = vec![Rule::Everything(false)];
    for (index, rule) in spec.iter().enumerate() {
        let invalid = |field: &str, reason: String| Err(Error::invalid(format!("{POINTER}/{index}/{field}"), reason));
        let nodes: &[Node] = match rule.kind.as_str() {
            "" | "a" => &[Node::Block, Node::Char],
            "b" => &[Node::Block],
            "c" => &[Node::Char],
            other => return invalid("type", format!("{other:?} is not a type of device that rules can name")),
        };
        let number = |value: Option<i64>| match value {
            None | Some(-1) => Ok(None),
            Some(n) => u32::try_from(n).map(Some),
        };
        let Ok(major) = number(rule.major) else { return invalid("major", "not a device number".into()) };
        let Ok(minor) = number(rule.minor) else { return invalid("minor", "not a device number".into()) };
        let Some(access) = access(&rule.access) else {
            return invalid("access", format!("{:?} has other letters than r, w and m", rule.access));
        };
        if nodes.len() == 2 && major.is_none() && minor.is_none() && access == ALL {
            rules.push(Rule::Everything(rule.allow));
            continue;
        }
        rules.extend(nodes.iter().map(|&node| {
            let devices = Match { node, major, minor };
            Rule::Some { allow: rule.allow, devices, access, index: Some(index) }
        }));
    }
    rules.extend(DEFAULTS.map(|(node, major, minor, access)| {
        let devices = Match { node, major, minor };
        Rule::Some { allow: true, devices, access, index: None }
    }));
    Ok(rules)
}

/// The bits of `rwm`; an empty word means all of them.
fn access(word: &str) -> Option<u8> {
    if word.is_empty() {
        return Some(ALL);
    }
    word.chars().try_fold(0, |bits, letter| match letter {
        'm' => Some(bits | MKNOD),
        'r' => Some(bits | READ),
        'w' => Some(bits | WRITE),
        _ => None,
    })
}

/// Puts the rules of a spec into force.
pub(super) fn apply(record: &Record, spec: &[DeviceRule]) -> Result<()> {
    let rules = rules(spec)?;
    match record.find("devices").or_else(|| record.find("")) {
        Some((Version::V1, dir)) => apply_v1(&dir, &rules),
        Some((Version::V2, dir)) => apply_v2(&dir, &rules),
        None => {
            Err(Error::unsupported(POINTER, "cannot set devices: the devices controller is not available on this host"))
        }
    }
}

fn apply_v1(dir: &Path, rules: &[Rule]) -> Result<()> {
    let path = dir.join("devices.list");
    let wrong = |op, e| fault(op, &path, e).at(POINTER);
    let list = file::open(&path, OFlags::RDONLY).map_err(|e| wrong("open", e))?;
    let read = || kernfs::again(&list).map_err(|e| wrong("read", e));
    let parse = |text: &str| list::State::parse(text).ok_or_else(|| wrong("parse", Errno::INVAL));
    let target = list::State::of(rules)?;
    let current = parse(&read()?)?;
    let mut open: Option<(&str, OwnedFd)> = None;
    for change in current.changes(&target) {
        let path = dir.join(change.file);
        let fd = match open.take() {
            Some((name, fd)) if name == change.file => fd,
            _ => file::open(&path, OFlags::WRONLY).map_err(|e| fault("open", &path, e).at(POINTER))?,
        };
        let written = file::retry(|| rustix::io::write(&fd, change.line.as_bytes())).map(drop);
        open = Some((change.file, fd));
        match written {
            Ok(()) => {}
            // The kernel resets no group that has children. All was allowed before and all shall be: nothing to reset.
            Err(Errno::INVAL) if change.reset && current.allows_all() && target.allows_all() => return Ok(()),
            Err(e) => return Err(fault("write", &path, e).at(POINTER)),
        }
    }
    if parse(&read()?)?.differs(&target) {
        return Err(Error::invalid(POINTER, "the kernel did not take the device rules as they are"));
    }
    Ok(())
}

/// Before Linux 5.11 programs count against RLIMIT_MEMLOCK, all of a user's together, which is room for sixteen by default.
fn load(program: &[sys::BpfInsn]) -> Result<rustix::io::Result<OwnedFd>> {
    let load = || sys::bpf_load_cgroup_device(program);
    match load() {
        Err(Errno::PERM) if crate::host::kernel().is_ok_and(|kernel| kernel < (5, 11)) => with_memory_to_lock(load),
        loaded => Ok(loaded),
    }
}

fn apply_v2(dir: &Path, rules: &[Rule]) -> Result<()> {
    let wrong = |op, e| fault(op, dir, e).at(POINTER);
    let program = bpf::compile(rules);
    let group = file::open(dir, OFlags::DIRECTORY).map_err(|e| wrong("open", e))?;
    use std::os::fd::AsFd;
    let old = sys::bpf_cgroup_device_programs(group.as_fd());
    // No program of ours is what "all is allowed" looks like; and where we may not even ask (a user namespace) there is none of
    // ours. This keeps privileged containers possible without the right to load programs, as in runc.
    if bpf::allows_all(&program) && old.as_ref().map_or(true, Vec::is_empty) {
        return Ok(());
    }
    let old = old.map_err(|e| wrong("bpf(PROG_QUERY)", e))?;
    let new = load(&program)?.map_err(|e| wrong("bpf(PROG_LOAD)", e))?;
    // Others' programs (systemd has one for a unit with device properties) stay: all that are attached must agree to an
    // access. Ours is replaced in one step; of several, which only a crash can leave, the new one comes before the old
    // ones go, so that no moment allows more than before and after.
    let replace = if let [one] = old.as_slice() { Some(one.as_fd()) } else { None };
    sys::bpf_attach_cgroup_device(group.as_fd(), new.as_fd(), replace).map_err(|e| wrong("bpf(PROG_ATTACH)", e))?;
    if old.len() > 1 {
        for program in &old {
            sys::bpf_detach_cgroup_device(group.as_fd(), program.as_fd()).map_err(|e| wrong("bpf(PROG_DETACH)", e))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
