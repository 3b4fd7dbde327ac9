//! The labelled corpus: how a container is made to die, and what must be said of it.

/// What is done to a container, after its start, in order.
#[derive(Clone, Copy)]
pub enum Act {
    /// An exec called `e` that runs a script.
    Exec(&'static str),
    /// A signal by RPC: to init, or to `e`.
    Rpc(&'static str, u32),
    /// A signal that the shim is not asked for: to init, or to `e`.
    Outside(&'static str, i32),
    Pause,
    /// Also of one that has died meanwhile.
    Resume,
    /// A TaskOOM event is waited for.
    UntilOom,
    /// Until the survivors of a kill are cleared of suspicion, as they are hours later.
    UntilCleared,
    /// A process in a group beside the container's uses up the parent's limit.
    Sibling,
    /// The same in a group below the container's, at its limit.
    Below,
}
use Act::{Below, Exec, Outside, Pause, Resume, Rpc, Sibling, UntilCleared, UntilOom};

/// Which TaskOOM events are expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Events {
    None,
    /// At least one: several kills may be told of by one event.
    Some,
}

pub struct Death {
    pub name: &'static str,
    /// MiB: of the container, of its parent, of the group above that; 0 is none.
    pub limits: [u64; 3],
    /// More of `linux.resources`, in JSON.
    pub resources: &'static str,
    /// In the pid namespace of the host: then signals without a handler work on init.
    pub host_pids: bool,
    pub script: &'static str,
    pub acts: &'static [Act],
    /// The causes that are expected, of init and of `e` (empty: there is none); what follows an ellipsis is left open.
    pub init: &'static str,
    pub exec: &'static str,
    pub events: Events,
    /// The other version has no such thing, and the limit is refused.
    pub only_v1: bool,
    pub only_v2: bool,
}

const PLAIN: Death = Death {
    name: "",
    limits: [0, 0, 0],
    resources: "{}",
    host_pids: false,
    script: "sleep 1000",
    acts: &[],
    init: "",
    exec: "",
    events: Events::None,
    only_v1: false,
    only_v2: false,
};

const OWN: &str = "killed for want of memory: the container's own limit…";
const PARENT: &str = "killed for want of memory: the limit of the group above…";
const ANCESTOR: &str = "killed for want of memory: the limit of a group further up…";
const ASKED: &str = "killed by signal 9, as asked";
const STRANGER: &str = "killed by signal 9";

/// Takes memory until it is killed.
const HOG: &str = "exec tail /dev/zero";
/// A hog as a child, and life goes on.
const CHILD: &str = "tail /dev/zero; sleep 1000";

/// The same, when an exec says so.
const LATER: &str = "until [ -e /tmp/go ]; do sleep 0.05; done; exec tail /dev/zero";

pub const CORPUS: &[Death] = &[
    Death { name: "clean", script: "exit 0", init: "exited with 0", ..PLAIN },
    Death { name: "nonzero", script: "exit 3", init: "exited with 3", ..PLAIN },
    Death { name: "exit 137 that is no kill", script: "exit 137", init: "exited with 137", ..PLAIN },
    Death { name: "signal of its own", script: "kill -TERM $$", host_pids: true, init: "killed by signal 15", ..PLAIN },
    Death {
        name: "SIGKILL of its own",
        limits: [40, 0, 0],
        script: "kill -KILL $$",
        host_pids: true,
        init: STRANGER,
        ..PLAIN
    },
    Death {
        name: "core",
        script: "cd /tmp; ulimit -c unlimited; kill -ABRT $$",
        host_pids: true,
        init: "killed by signal 6…",
        ..PLAIN
    },
    Death { name: "own limit", limits: [20, 0, 0], script: HOG, init: OWN, events: Events::Some, ..PLAIN },
    Death {
        name: "own limit, the parent has one too",
        limits: [20, 400, 0],
        script: HOG,
        init: OWN,
        events: Events::Some,
        ..PLAIN
    },
    Death { name: "parent's limit", limits: [0, 20, 0], script: HOG, init: PARENT, events: Events::Some, ..PLAIN },
    Death {
        name: "parent's limit, its own is higher",
        limits: [400, 20, 400],
        script: HOG,
        init: PARENT,
        events: Events::Some,
        ..PLAIN
    },
    Death { name: "ancestor's limit", limits: [0, 0, 20], script: HOG, init: ANCESTOR, events: Events::Some, ..PLAIN },
    Death {
        name: "child killed, init goes on and exits",
        limits: [20, 0, 0],
        script: "tail /dev/zero; exit 5",
        init: "exited with 5",
        events: Events::Some,
        ..PLAIN
    },
    Death {
        name: "child killed, init passes its status on",
        limits: [20, 0, 0],
        script: "tail /dev/zero; exit $?",
        init: "exited with 137",
        events: Events::Some,
        ..PLAIN
    },
    Death {
        name: "child killed, then SIGTERM",
        limits: [20, 0, 0],
        script: CHILD,
        host_pids: true,
        acts: &[UntilOom, UntilCleared, Rpc("", 15)],
        init: "killed by signal 15",
        events: Events::Some,
        ..PLAIN
    },
    Death {
        name: "child killed, then SIGKILL from outside",
        limits: [20, 0, 0],
        script: CHILD,
        acts: &[UntilOom, UntilCleared, Outside("", 9)],
        init: STRANGER,
        events: Events::Some,
        ..PLAIN
    },
    Death {
        name: "child killed, then killed by RPC",
        limits: [20, 0, 0],
        script: CHILD,
        acts: &[UntilOom, UntilCleared, Rpc("", 9)],
        init: ASKED,
        events: Events::Some,
        ..PLAIN
    },
    Death {
        name: "exec killed at the own limit",
        limits: [20, 0, 0],
        acts: &[Exec(HOG), UntilOom, UntilCleared, Rpc("", 9)],
        init: ASKED,
        exec: OWN,
        events: Events::Some,
        ..PLAIN
    },
    Death {
        name: "exec killed at the parent's limit",
        limits: [0, 20, 0],
        acts: &[Exec(HOG), UntilOom, UntilCleared, Outside("", 9)],
        init: STRANGER,
        exec: PARENT,
        events: Events::Some,
        ..PLAIN
    },
    Death {
        name: "exec killed by RPC",
        limits: [20, 0, 0],
        acts: &[Exec("sleep 1000"), Rpc("e", 9), Rpc("", 9)],
        init: ASKED,
        exec: ASKED,
        ..PLAIN
    },
    Death {
        name: "exec dies with its init",
        acts: &[Exec("sleep 1000"), Outside("", 9)],
        init: STRANGER,
        exec: "killed by signal 9, with init",
        ..PLAIN
    },
    Death {
        name: "exec dies with an init that is killed for memory",
        limits: [20, 0, 0],
        script: LATER,
        acts: &[Exec("> /tmp/go; sleep 1000")],
        init: OWN,
        exec: "killed by signal 9, with init",
        events: Events::Some,
        ..PLAIN
    },
    Death { name: "kill by RPC", limits: [20, 0, 0], acts: &[Rpc("", 9)], init: ASKED, ..PLAIN },
    Death { name: "kill from outside", limits: [20, 0, 0], acts: &[Outside("", 9)], init: STRANGER, ..PLAIN },
    Death { name: "frozen and killed by RPC", acts: &[Pause, Rpc("", 9)], init: ASKED, ..PLAIN },
    Death { name: "frozen and killed from outside", acts: &[Pause, Outside("", 9), Resume], init: STRANGER, ..PLAIN },
    Death {
        name: "fork bomb at the pids limit",
        limits: [100, 0, 0],
        resources: r#"{"pids": {"limit": 20}}"#,
        script: "while sleep 1000 & do :; done",
        init: "exited with 2",
        ..PLAIN
    },
    Death {
        name: "stopped at a tmpfs's size",
        limits: [100, 0, 0],
        script: "cat /dev/zero > /dev/filled",
        init: "exited with 1",
        ..PLAIN
    },
    Death {
        name: "stopped at RLIMIT_AS",
        limits: [400, 0, 0],
        script: "ulimit -v 60000; exec tail /dev/zero",
        init: "exited with 1",
        ..PLAIN
    },
    Death {
        name: "a sibling killed at the parent's limit, then SIGKILL from outside",
        limits: [0, 20, 0],
        acts: &[Sibling, Outside("", 9)],
        init: STRANGER,
        ..PLAIN
    },
    Death {
        name: "a sibling killed at the parent's limit, then the own limit",
        limits: [10, 40, 0],
        script: LATER,
        acts: &[Sibling, Exec("> /tmp/go"), UntilOom],
        init: OWN,
        exec: "exited with 0",
        events: Events::Some,
        ..PLAIN
    },
    Death {
        name: "killed at the own limit in a group below",
        limits: [20, 0, 0],
        acts: &[Below, UntilOom, UntilCleared, Rpc("", 9)],
        init: ASKED,
        events: Events::Some,
        ..PLAIN
    },
    Death {
        name: "waits for memory, then SIGKILL from outside",
        limits: [20, 0, 0],
        resources: r#"{"memory": {"disableOOMKiller": true}}"#,
        script: HOG,
        acts: &[UntilOom, Outside("", 9)],
        init: STRANGER,
        events: Events::Some,
        only_v1: true,
        ..PLAIN
    },
    Death {
        name: "memory.oom.group: init goes with its child",
        limits: [20, 0, 0],
        resources: r#"{"unified": {"memory.oom.group": "1"}}"#,
        script: CHILD,
        init: OWN,
        events: Events::Some,
        only_v2: true,
        ..PLAIN
    },
];
