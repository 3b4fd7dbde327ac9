//! What is wanted of mini, row by row.

/// What a value is held against.
pub enum Limit {
    /// No more than this.
    AtMost(f64),
    /// No less than this.
    AtLeast(f64),
    /// No more than this share of a peer's.
    OfPeer(&'static str, f64),
    /// At least so many times a peer's.
    TimesPeer(&'static str, f64),
}

/// A row of the table of targets.
pub struct Target {
    /// The case.
    pub case: &'static str,
    /// The quantity in it.
    pub quantity: &'static str,
    /// The limit.
    pub limit: Limit,
}

const fn at(case: &'static str, quantity: &'static str, limit: Limit) -> Target {
    Target { case, quantity, limit }
}

use Limit::{AtLeast, AtMost, OfPeer, TimesPeer};

/// All of them; those whose case did not run are left out of the table.
pub const TARGETS: &[Target] = &[
    at("life", "total", OfPeer("go+runc", 0.15)),
    at("life", "total", OfPeer("rs+crun", 0.25)),
    at("life", "CPU of the tree", AtMost(7.0)),
    at("life-seccomp", "total", OfPeer("go+runc", 0.11)),
    at("life-seccomp", "total", OfPeer("rs+crun", 0.25)),
    at("life-seccomp", "CPU of the tree", AtMost(7.0)),
    at("member", "total", OfPeer("go+runc", 0.13)),
    at("member", "total", OfPeer("go+crun", 0.20)),
    at("exec", "total", OfPeer("go+runc", 0.08)),
    at("exec", "total", OfPeer("go+crun", 0.30)),
    at("exec-seccomp", "more than without", AtMost(0.4)),
    at("exec-seccomp", "total", OfPeer("go+runc", 0.08)),
    at("exec-seccomp", "total", OfPeer("go+crun", 0.30)),
    at("ctr-run", "wall", OfPeer("go+runc", 0.50)),
    at("ctr-run", "CPU", OfPeer("go+runc", 0.52)),
    at("alone", "run", OfPeer("crun", 0.40)),
    at("alone", "run", OfPeer("floor", 1.4)),
    at("calls", "create, start, delete", AtMost(350.0)),
    at("calls", "execve of an exec", AtMost(1.0)),
    at("calls-v2", "create, start, delete", AtMost(350.0)),
    at("calls-v2", "execve of an exec", AtMost(1.0)),
    at("parallel", "1 at a time", TimesPeer("go+runc", 6.0)),
    at("parallel", "4 at a time", TimesPeer("go+runc", 6.0)),
    at("parallel", "16 at a time", TimesPeer("go+runc", 6.0)),
    at("parallel", "32 at a time", TimesPeer("go+runc", 6.0)),
    at("parallel", "1 at a time", TimesPeer("rs+crun", 2.5)),
    at("parallel", "4 at a time", TimesPeer("rs+crun", 2.5)),
    at("parallel", "16 at a time", TimesPeer("rs+crun", 2.5)),
    at("parallel", "32 at a time", TimesPeer("rs+crun", 2.5)),
    at("parallel", "rate kept as parallelism grows", AtLeast(0.9)),
    at("ctr-parallel", "rate kept as parallelism grows", AtLeast(0.9)),
    at("probes", "CPU of a probe", OfPeer("go+runc", 0.12)),
    at("probes", "CPU of a probe, one per second and pod", OfPeer("go+runc", 0.12)),
    // A page: one that was touched in passing is no growth.
    at("probes", "growth per shim in the second part", AtMost(4.0)),
    at("probes", "more descriptors per shim", AtMost(0.0)),
    at("probes", "groups, mounts, sockets left", AtMost(0.0)),
    at("idle", "threads", AtMost(1.0)),
    at("idle", "private", AtMost(450.0)),
    at("idle", "resident", AtMost(3072.0)),
    at("idle", "private more after 1,000 execs and 100 containers", AtMost(150.0)),
    at("idle", "threads after them", AtMost(1.0)),
    at("pods", "PSS per shim", AtMost(500.0)),
    at("pods", "memory charged per pod", AtMost(1000.0)),
    at("stdio", "stdout, rate", TimesPeer("go+runc", 1.8)),
    at("stdio", "stdout, CPU of the shim", OfPeer("go+runc", 0.15)),
    at("stdio", "stdout, CPU of the shim", AtMost(0.1)),
    at("stdio", "stdin, CPU of the shim", AtMost(0.1)),
    at("stdio", "stdout lost when its reader is replaced", AtMost(0.0)),
    at("stdio", "stdin, rate", TimesPeer("go+runc", 1.8)),
    at("stdio", "stdin, CPU of the shim", OfPeer("go+runc", 0.15)),
    at("unread", "one-byte lines until it blocks", TimesPeer("go+runc", 1.0)),
    at("ask", "State", AtMost(50.0)),
    at("ask", "Pids", AtMost(50.0)),
    at("ask", "Stats", AtMost(50.0)),
    at("poll", "500 containers asked every second", AtMost(3.0)),
    at("sizes", "shim", AtMost(4.0)),
    at("sizes", "dynamic loaders of the shim", AtMost(0.0)),
];
