//! The life of one container and its execs: `State × Input → State + Effects`, in one match.
//!
//! Pure: it knows no fd, clock, message or thread. It *names* what is to be done; whoever owns the container does it, in
//! the order given. The order rules of events (containerd's docs/runtime-v2.md) hold because every event is born here:
//! an exit that arrives while Start is under way is held until the start is announced, init's exit waits for the execs,
//! for the killing of what outlived it and for who reads its output, an OOM is never announced after the exit.
#![forbid(unsafe_code)]

mod refusal;
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::mem;

pub use refusal::{Class, EXEC_WHILE_PAUSED, Refusal};
pub use words::{Effect, Event, Exit, Input, Job, State, Status, Who};

use refusal::Verb;
use words::Exec;

/// Every state in which clients can see the container.
macro_rules! seen {
    () => {
        Created | Dying | Starting | Running | Pausing | Paused | Resuming | Stopping | Stopped | Deleting
    };
}

/// Those of them in which init's exit has not been announced.
macro_rules! unannounced {
    () => {
        Created | Dying | Starting | Running | Pausing | Paused | Resuming | Stopping
    };
}

const SIGKILL: i32 = 9;

/// SIGHUP, SIGINT, SIGQUIT, SIGILL, SIGTRAP, SIGABRT, SIGBUS, SIGFPE, SIGSEGV, SIGTERM, SIGSTKFLT, SIGSYS: those that end a container
/// of runc's that was only created. The kernel keeps them from the first process of a pid namespace that has no handler.
pub const ENDING: [i32; 12] = [1, 2, 3, 4, 5, 6, 7, 8, 11, 15, 16, 31];

/// One container's life.
#[derive(Clone, Debug)]
pub struct Lifecycle {
    id: String,
    state: State,
    /// Delete came while Create was under way, or before the exit of an init that never ran was announced.
    doomed: bool,
    shares_pids: bool,
    /// Its program runs, or ran.
    started: bool,
    /// SIGKILL came while the group was being frozen or thawed.
    thaw_due: bool,
    /// A kill of the whole group is under way and init's exit waits for it.
    killing: bool,
    /// Init's exit: held back in Starting, Pausing, Resuming and Stopping, known to all from Stopped on.
    exit: Option<Exit>,
    /// Init's last words are read.
    drained: bool,
    execs: BTreeMap<String, Exec>,
    /// Delete came while they were being started.
    doomed_execs: BTreeSet<String>,
}

impl Lifecycle {
    /// A container whose create worker has just been sent off.
    pub fn new(id: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            state: State::Creating,
            doomed: false,
            shares_pids: false,
            started: false,
            thaw_due: false,
            killing: false,
            exit: None,
            drained: false,
            execs: BTreeMap::new(),
            doomed_execs: BTreeSet::new(),
        }
    }

    /// Where it stands.
    pub fn state(&self) -> State {
        self.state
    }

    /// What clients see of a process; `None`: nothing yet, or no such process.
    pub fn status(&self, who: &Who) -> Option<Status> {
        let container = match self.state {
            State::Creating => return None,
            State::Created | State::Dying | State::Starting => Status::Created,
            State::Stopping if !self.started => Status::Created,
            State::Running | State::Stopping => Status::Running,
            State::Pausing => Status::Pausing,
            State::Paused | State::Resuming => Status::Paused,
            State::Stopped | State::Deleting | State::Deleted => Status::Stopped,
        };
        let Some(id) = who else { return Some(container) };
        let exec = match self.execs.get(id)? {
            Exec::Added | Exec::Failed | Exec::Starting => Status::Created,
            Exec::Running => Status::Running,
            Exec::Stopped(_) | Exec::Deleting(_) => Status::Stopped,
        };
        Some(if matches!(container, Status::Paused | Status::Pausing) { container } else { exec })
    }

    /// Whether it is an exec whose start is under way: what is asked of the process meanwhile can be done when that is over.
    pub fn is_starting(&self, who: &Who) -> bool {
        who.as_ref().is_some_and(|id| self.execs.get(id) == Some(&Exec::Starting))
    }

    /// Whether a signal has to wait until the process has executed its program, before which it would be lost. SIGKILL is not.
    pub fn is_too_early(&self, who: &Who, signal: i32) -> bool {
        self.is_starting(who) || who.is_none() && self.state == State::Starting && signal != SIGKILL
    }

    /// Whether the freezer is at work, or the start is: then a pause and a resume wait for their turn, as with containerd's
    /// own shim, whose requests exclude each other. To refuse the resume of a pause that takes long would leave the container
    /// frozen.
    pub fn is_too_early_for_freezer(&self) -> bool {
        matches!(self.state, State::Starting | State::Pausing | State::Resuming)
    }

    /// Takes one input. A refusal changes nothing; its text and class are what the client gets.
    ///
    /// The ends of work and the kernel's news are never refused.
    pub fn step(&mut self, input: Input) -> Result<Vec<Effect>, Refusal> {
        use State::*;
        match (input, self.state) {
            (Input::CreateDone { shares_pids }, Creating) => {
                self.shares_pids = shares_pids;
                self.state = if self.doomed { Dying } else { Created };
                let mut effects = vec![Effect::Publish(Event::Create)];
                if self.doomed {
                    effects.extend(self.kill_init());
                }
                Ok(effects)
            }
            (Input::CreateFailed, Creating) => {
                self.state = Deleted;
                Ok(vec![Effect::Release(None, None), Effect::Forget(None)])
            }

            (Input::Start, Created) => self.go(Starting, Job::Start),
            (Input::StartDone, Starting) => {
                (self.state, self.started) = (Running, true);
                Ok(self.then_what_was_held(vec![Effect::Publish(Event::Start)]))
            }
            // Init has died of it; its exit follows, or is held here already.
            (Input::StartFailed, Starting) => {
                self.state = Created;
                Ok(self.then_what_was_held(Vec::new()))
            }

            (Input::Pause, Running) => self.go(Pausing, Job::Pause),
            (Input::PauseDone { ok }, Pausing) => {
                self.state = if ok { Paused } else { Running };
                Ok(self.then_what_was_held(if ok { vec![Effect::Publish(Event::Paused)] } else { Vec::new() }))
            }
            (Input::Resume, Paused) => self.go(Resuming, Job::Resume),
            (Input::ResumeDone { ok }, Resuming) => {
                self.state = if ok { Running } else { Paused };
                Ok(self.then_what_was_held(if ok { vec![Effect::Publish(Event::Resumed)] } else { Vec::new() }))
            }
            (Input::Update, Created | Starting | Running | Pausing | Paused | Resuming) => {
                Ok(vec![Effect::Run(Job::Update)])
            }

            (Input::Exited(exit), Created | Dying | Running | Paused) => Ok(self.init_is_gone(exit)),
            (Input::Exited(exit), Starting | Pausing | Resuming) => {
                self.exit = Some(exit);
                Ok(Vec::new())
            }
            (Input::Drained, unannounced!()) => {
                self.drained = true;
                Ok(self.announce_if_last())
            }
            (Input::KillAllDone, unannounced!()) => {
                self.killing = false;
                Ok(self.announce_if_last())
            }
            (Input::Oom, unannounced!()) => Ok(vec![Effect::Publish(Event::Oom)]),

            // Its worker ends when what it waits for is killed, but not at once.
            (Input::Delete, Creating) => {
                self.doomed = true;
                Ok(vec![Effect::CancelCreate])
            }
            (Input::Delete, Created) => {
                self.state = Dying;
                Ok(self.kill_init())
            }
            // Its start has failed, say, and no client waits for the exit of what never ran.
            (Input::Delete, Stopping) if !self.started => {
                self.doomed = true;
                Ok(Vec::new())
            }
            (Input::Delete, Stopped) => self.go(Deleting, Job::Delete),
            // A second Delete joins the first (an unmount may hang for longer than the first caller waits).
            (Input::Delete, Dying | Deleting) => Ok(Vec::new()),
            (Input::DeleteDone, Deleting) => {
                self.state = Deleted;
                let mut effects: Vec<_> = self.execs.keys().map(|id| Effect::Release(Some(id.clone()), None)).collect();
                effects.extend(self.exit.map(|exit| Effect::Publish(Event::Delete(None, exit))));
                effects.push(Effect::Forget(None));
                Ok(effects)
            }
            (Input::DeleteFailed, Deleting) => {
                self.state = Stopped;
                Ok(Vec::new())
            }

            (Input::Exec(id), seen!()) if self.execs.contains_key(&id) => Err(Refusal::exec_exists(&id)),
            (Input::Exec(id), Created | Starting | Running) => {
                self.execs.insert(id.clone(), Exec::Added);
                Ok(vec![Effect::Publish(Event::ExecAdded(id))])
            }
            (Input::StartExec(_), seen!()) if self.exit.is_some() => Err(Refusal::init_not_running(&self.id)),
            (Input::StartExec(id), state @ seen!()) => match self.exec(&id)? {
                Exec::Starting | Exec::Running => Err(Verb::Start.refusal("running")),
                Exec::Stopped(_) => Err(Verb::Start.refusal("stopped")),
                Exec::Deleting(_) => Err(Verb::Start.refusal("deleted")),
                exec @ (Exec::Added | Exec::Failed) if matches!(state, Created | Starting | Running) => {
                    *exec = Exec::Starting;
                    Ok(vec![Effect::Run(Job::StartExec(id))])
                }
                Exec::Added | Exec::Failed if matches!(state, Pausing | Paused | Resuming) => {
                    Err(Refusal::exec_while_paused())
                }
                Exec::Added | Exec::Failed => refusal::in_state(&Input::StartExec(id), state),
            },

            (Input::Kill { who: None, signal }, Created) if ENDING.contains(&signal) => Ok(self.kill_init()),
            (Input::Kill { who: None, signal }, Created | Starting | Running | Paused) => Ok(self.signal_init(signal)),
            // It may have come too late for a v1 group, and thaw and freeze would get in each other's way.
            (Input::Kill { who: None, signal }, Pausing | Resuming) => {
                self.thaw_due |= signal == SIGKILL;
                Ok(self.signal_init(signal))
            }
            (Input::Kill { who: None, signal: _ }, Dying) => Ok(Vec::new()),
            (Input::Kill { who: None, .. }, Stopping | Stopped | Deleting) => Err(Refusal::finished()),

            // From here on execs, whose own state decides. Nothing of them exists while the container is being made.
            (Input::Kill { who: Some(id), signal }, seen!()) => match self.exec(&id)? {
                Exec::Added | Exec::Failed | Exec::Starting => Err(Refusal::not_created()),
                Exec::Running => Ok(vec![Effect::Signal(Some(id), signal)]),
                Exec::Stopped(_) | Exec::Deleting(_) => Err(Refusal::finished()),
            },
            (Input::DeleteExec(id), seen!()) => {
                let exec = *self.exec(&id)?;
                let exit = match exec {
                    Exec::Added | Exec::Failed => None,
                    Exec::Stopped(exit) => Some(exit),
                    // As with Delete while Create is under way. A client whose Start took too long deletes without having
                    // been told a pid, and kills nothing.
                    Exec::Starting => {
                        self.doomed_execs.insert(id);
                        return Ok(Vec::new());
                    }
                    Exec::Running if !self.doomed_execs.contains(&id) => return Err(Verb::Delete.refusal("running")),
                    Exec::Running | Exec::Deleting(_) => return Ok(Vec::new()),
                };
                Ok(vec![self.delete_exec(id, exit)])
            }
            (Input::ExecStarted(id), seen!()) => {
                self.execs.insert(id.clone(), Exec::Running);
                let mut effects = vec![Effect::Publish(Event::ExecStarted(id.clone()))];
                // It may have come too late to be killed with the others.
                let left_over = self.shares_pids && (self.killing || matches!(self.state, Dying | Stopping));
                if left_over || self.doomed_execs.contains(&id) {
                    effects.push(Effect::Signal(Some(id), SIGKILL));
                }
                Ok(effects)
            }
            (Input::ExecFailed(id), seen!()) => {
                self.execs.insert(id.clone(), Exec::Failed);
                let mut effects = vec![Effect::Release(Some(id.clone()), None)];
                effects.extend(self.delete_if_doomed(id, None));
                effects.extend(self.announce_if_last());
                Ok(effects)
            }
            (Input::ExecExited(id, exit), seen!()) => {
                self.execs.insert(id.clone(), Exec::Stopped(exit));
                let exited = Event::Exit(Some(id.clone()), exit);
                let mut effects = vec![Effect::Release(Some(id.clone()), Some(exit)), Effect::Publish(exited)];
                effects.extend(self.delete_if_doomed(id, Some(exit)));
                effects.extend(self.announce_if_last());
                Ok(effects)
            }
            // No event, as with the Go shim: clients take a TaskDelete of the container's id for the container's.
            (Input::ExecDeleted(id), seen!()) => {
                let mut effects = Vec::new();
                if !matches!(self.execs.remove(&id), Some(Exec::Deleting(Some(_)))) {
                    effects.push(Effect::Release(Some(id.clone()), None));
                }
                effects.push(Effect::Forget(Some(id)));
                Ok(effects)
            }

            // What is left: requests that this state does not allow, and news that come too late to matter.
            (input, Creating | Deleted) => refusal::absent(&input),
            (input, state @ seen!()) => refusal::in_state(&input, state),
        }
    }

    fn go(&mut self, state: State, job: Job) -> Result<Vec<Effect>, Refusal> {
        self.state = state;
        Ok(vec![Effect::Run(job)])
    }

    fn exec(&mut self, id: &str) -> Result<&mut Exec, Refusal> {
        self.execs.get_mut(id).ok_or_else(|| Refusal::no_exec(id))
    }

    fn delete_exec(&mut self, id: String, exit: Option<Exit>) -> Effect {
        self.execs.insert(id.clone(), Exec::Deleting(exit));
        Effect::Run(Job::DeleteExec(id))
    }

    fn delete_if_doomed(&mut self, id: String, exit: Option<Exit>) -> Option<Effect> {
        self.doomed_execs.remove(&id).then(|| self.delete_exec(id, exit))
    }

    /// A signal for init. SIGKILL means the whole container: where the kernel does not see to that, we do.
    fn signal_init(&mut self, signal: i32) -> Vec<Effect> {
        let mut effects = vec![Effect::Signal(None, signal)];
        if signal == SIGKILL && self.shares_pids {
            self.killing = true;
            effects.push(Effect::Run(Job::KillAll));
        } else if signal == SIGKILL && !matches!(self.state, State::Pausing | State::Resuming) {
            // A frozen v1 group acts on no signal, not even this one, and others than we may have frozen it (runc thaws as well).
            effects.push(Effect::Run(Job::Thaw));
        }
        effects
    }

    fn kill_init(&mut self) -> Vec<Effect> {
        self.signal_init(SIGKILL)
    }

    /// The work that held back init's exit, or the thaw that a SIGKILL needs, is over.
    fn then_what_was_held(&mut self, mut effects: Vec<Effect>) -> Vec<Effect> {
        if let Some(exit) = self.exit {
            effects.extend(self.init_is_gone(exit));
        }
        if mem::take(&mut self.thaw_due) && self.state == State::Paused {
            effects.push(Effect::Run(Job::Thaw));
        }
        effects
    }

    /// Init is reaped and nothing holds its exit back but others of the container.
    fn init_is_gone(&mut self, exit: Exit) -> Vec<Effect> {
        let doomed = self.state == State::Dying;
        let frozen = self.state == State::Paused;
        self.doomed = doomed;
        self.exit = Some(exit);
        self.state = State::Stopping;
        let mut effects = Vec::new();
        if frozen {
            effects.push(Effect::Run(Job::Thaw));
        }
        // With a pid namespace of its own the kernel has killed everybody in it already.
        if self.shares_pids && !self.killing {
            self.killing = true;
            effects.push(Effect::Run(Job::KillAll));
        }
        effects.extend(self.announce_if_last());
        effects
    }

    /// Announces init's exit if nothing of the container is left that must come before it, and its output was read.
    fn announce_if_last(&mut self) -> Vec<Effect> {
        let busy = self.execs.values().any(|e| matches!(e, Exec::Starting | Exec::Running));
        let held = self.killing || busy || !self.drained;
        let (State::Stopping, Some(exit), false) = (self.state, self.exit, held) else {
            return Vec::new();
        };
        self.state = State::Stopped;
        let mut effects =
            vec![Effect::StopOom, Effect::Release(None, Some(exit)), Effect::Publish(Event::Exit(None, exit))];
        if self.doomed {
            self.state = State::Deleting;
            effects.push(Effect::Run(Job::Delete));
        }
        effects
    }
}
