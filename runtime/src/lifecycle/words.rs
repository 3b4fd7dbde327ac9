//! The words of a container's life: states, what happens, what is to be done.
#![forbid(unsafe_code)]

use std::time::SystemTime;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Exit status, or 128 + signal.
    pub status: u32,
    /// When it was reaped.
    pub at: SystemTime,
}

/// A process of the container: `None` is init, otherwise the exec's id.
pub type Who = Option<String>;

/// Where the container stands. The states with work under way each have one worker whose end comes back as an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The create worker runs; nobody outside can see the container yet.
    Creating,
    /// Init is parked before its execve.
    Created,
    /// Delete came before Start: init was killed and its exit is awaited.
    Dying,
    /// The start worker runs.
    Starting,
    /// The payload runs.
    Running,
    /// The freeze worker runs.
    Pausing,
    /// Frozen.
    Paused,
    /// The thaw worker runs.
    Resuming,
    /// Init is reaped; its exit is not announced before the last exec's, and before the leftovers are killed and its output
    /// is read.
    Stopping,
    /// Init's exit is announced.
    Stopped,
    /// The delete worker runs.
    Deleting,
    /// Gone, or never made.
    Deleted,
}

/// Where an exec stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exec {
    /// Registered.
    Added,
    /// Its start failed; it can be started again or deleted.
    Failed,
    /// Its worker runs.
    Starting,
    /// Its program runs.
    Running,
    /// Its exit is announced.
    Stopped(Exit),
    /// Its streams drain; with the exit if it ever ran.
    Deleting(Option<Exit>),
}

/// What a client sees, containerd's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Made, not started.
    Created,
    /// Runs, as far as anybody was told.
    Running,
    /// Its exit is known.
    Stopped,
    /// Frozen.
    Paused,
    /// Being frozen.
    Pausing,
}

/// What happens to a container: a request, the end of some work, or news from the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the match below is the explanation of each")]
pub enum Input {
    CreateDone {
        /// The container shares its pid namespace, so that killing init leaves the others alive.
        shares_pids: bool,
    },
    CreateFailed,
    Start,
    StartDone,
    StartFailed,
    Kill {
        who: Who,
        signal: i32,
    },
    Pause,
    PauseDone {
        ok: bool,
    },
    Resume,
    ResumeDone {
        ok: bool,
    },
    Update,
    Delete,
    DeleteDone,
    DeleteFailed,
    Exec(String),
    StartExec(String),
    ExecStarted(String),
    ExecFailed(String),
    DeleteExec(String),
    ExecDeleted(String),
    /// Init is reaped.
    Exited(Exit),
    /// What init wrote has been read, or need not be waited for.
    Drained,
    ExecExited(String, Exit),
    KillAllDone,
    Oom,
}

/// What is to be done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Long work on a thread of its own; its end comes back as an input.
    Run(Job),
    /// Queue this event. Whatever it says can be seen by State before it is queued.
    Publish(Event),
    /// Answer everybody who waits for this process; `None`: it will never run.
    Release(Who, Option<Exit>),
    /// Send a signal to this process.
    Signal(Who, i32),
    /// Nobody wants any more what is being made.
    CancelCreate,
    /// Stop watching for OOM kills.
    StopOom,
    /// Forget this exec, or the whole container.
    Forget(Who),
}

/// Long work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Job {
    /// Open the gate and wait for init's execve.
    Start,
    /// Run an exec up to its execve.
    StartExec(String),
    /// Freeze the group.
    Pause,
    /// Thaw the group.
    Resume,
    /// Thaw the group so that a signal can arrive; nobody waits for it.
    Thaw,
    /// Kill everything in the group. Ends with [`Input::KillAllDone`].
    KillAll,
    /// Change limits; nobody waits for it here.
    Update,
    /// Let the streams drain, remove group, mounts and record.
    Delete,
    /// Let the streams drain.
    DeleteExec(String),
}

/// An event by its name; the owner adds ids, paths and pids.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "containerd's names")]
pub enum Event {
    Create,
    Start,
    ExecAdded(String),
    ExecStarted(String),
    Exit(Who, Exit),
    Delete(Who, Exit),
    Paused,
    Resumed,
    Oom,
}
