//! Refused requests: the class decides the code a client gets, and the words are the ones containerd's own shim uses,
//! because people and tests look for them.
#![forbid(unsafe_code)]

use std::fmt;

use super::words::{Effect, Input, State};

/// What kind of refusal; clients branch on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// No such container or process, or it has ended.
    NotFound,
    /// The id is taken.
    AlreadyExists,
    /// Right request, wrong moment.
    FailedPrecondition,
    /// The request itself is wrong.
    InvalidArgument,
    /// Not built.
    Unimplemented,
    /// Everything else: illegal moves and failed work.
    Unknown,
}

/// A request that was not carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// For programs.
    pub class: Class,
    /// For people, and for the clients that read it anyway.
    pub text: String,
}

impl Refusal {
    /// A refusal of any class.
    pub fn new(class: Class, text: impl Into<String>) -> Self {
        Self { class, text: text.into() }
    }

    /// Work that failed.
    pub fn unknown(text: impl Into<String>) -> Self {
        Self::new(Class::Unknown, text)
    }

    /// No container of this id, or not yet.
    pub fn no_container() -> Self {
        Self::new(Class::NotFound, "container not created: not found")
    }

    /// The container has no such exec.
    pub fn no_exec(id: &str) -> Self {
        Self::new(Class::NotFound, format!("process does not exist {id}: not found"))
    }

    /// The exec's id is taken.
    pub fn exec_exists(id: &str) -> Self {
        Self::new(Class::AlreadyExists, format!("id {id}: already exists"))
    }

    /// The container's id is taken.
    pub fn container_exists(id: &str) -> Self {
        Self::new(Class::AlreadyExists, format!("container {id}: already exists"))
    }

    /// Signals to what has ended; containerd, docker and kubelet take NotFound as "fine".
    pub fn finished() -> Self {
        Self::new(Class::NotFound, "process already finished: not found")
    }

    /// Signals to an exec that was never started.
    pub fn not_created() -> Self {
        Self::new(Class::FailedPrecondition, "process not created: failed precondition")
    }

    /// An exec that was added before the pause.
    pub fn exec_while_paused() -> Self {
        Self::unknown(format!("OCI runtime exec failed: exec failed: {EXEC_WHILE_PAUSED}"))
    }

    /// An exec in a container that has ended.
    pub fn init_not_running(id: &str) -> Self {
        Self::new(Class::FailedPrecondition, format!("container {id} init process is not running: failed precondition"))
    }
}

/// runc's words, which name an option of its command line.
pub const EXEC_WHILE_PAUSED: &str = "cannot exec in a paused container (use --ignore-paused to override)";

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Refusal {}

/// Requests that a state may refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Start,
    Delete,
    Exec,
    Pause,
    Resume,
    Update,
}

impl Verb {
    /// The sentence for a state.
    pub(super) fn refusal(self, state: &str) -> Refusal {
        Refusal::unknown(match self {
            Self::Start => format!("cannot start a {state} process"),
            Self::Delete => format!("cannot delete a {state} process"),
            Self::Exec => format!("cannot exec in a {state} state"),
            Self::Pause if state == "created" => "cannot pause task in created state".into(),
            Self::Pause => format!("cannot pause a {state} container"),
            Self::Resume if state == "created" => "cannot resume task in created state".into(),
            Self::Resume if state == "running" => "cannot resume a running process".into(),
            Self::Resume => format!("cannot resume a {state} container"),
            Self::Update => format!("cannot update a {state} container"),
        })
    }

    fn of(input: &Input) -> Option<Self> {
        match input {
            Input::Start | Input::StartExec(_) => Some(Self::Start),
            Input::Delete => Some(Self::Delete),
            Input::Exec(_) => Some(Self::Exec),
            Input::Pause => Some(Self::Pause),
            Input::Resume => Some(Self::Resume),
            Input::Update => Some(Self::Update),
            // Never refused for the state's sake: signals have words of their own, the rest are news.
            Input::Kill { .. }
            | Input::DeleteExec(_)
            | Input::CreateDone { .. }
            | Input::CreateFailed
            | Input::StartDone
            | Input::StartFailed
            | Input::PauseDone { .. }
            | Input::ResumeDone { .. }
            | Input::DeleteDone
            | Input::DeleteFailed
            | Input::ExecStarted(_)
            | Input::ExecFailed(_)
            | Input::ExecDeleted(_)
            | Input::Exited(_)
            | Input::Drained
            | Input::ExecExited(..)
            | Input::KillAllDone
            | Input::Oom => None,
        }
    }
}

/// The word a client is told about a state.
fn word(state: State) -> &'static str {
    match state {
        State::Creating => "creating",
        State::Created => "created",
        State::Dying | State::Deleting | State::Deleted => "deleted",
        State::Starting | State::Running | State::Stopping => "running",
        State::Pausing | State::Paused | State::Resuming => "paused",
        State::Stopped => "stopped",
    }
}

/// Requests to a container in a state that does not allow them; news that came too late are dropped.
pub(super) fn in_state(input: &Input, state: State) -> Result<Vec<Effect>, Refusal> {
    match (Verb::of(input), state) {
        // Its exit is not announced, but nothing can be started in it any more.
        (Some(verb @ (Verb::Start | Verb::Exec | Verb::Pause | Verb::Resume | Verb::Update)), State::Stopping) => {
            Err(verb.refusal("stopped"))
        }
        (Some(verb), state) => Err(verb.refusal(word(state))),
        (None, _) => Ok(Vec::new()),
    }
}

/// Requests to a container that nobody was told of yet, or that is gone.
pub(super) fn absent(input: &Input) -> Result<Vec<Effect>, Refusal> {
    let request = Verb::of(input).is_some() || matches!(input, Input::Kill { .. } | Input::DeleteExec(_));
    if request { Err(Refusal::no_container()) } else { Ok(Vec::new()) }
}
