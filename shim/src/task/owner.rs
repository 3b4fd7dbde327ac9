//! The owner of one container: it takes what arrives in its inbox, lets the lifecycle decide, and does what that says.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, VecDeque};
use std::mem;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use runtime::death::Inquest;
use runtime::lifecycle::{Effect, Event, Exit, Input, Lifecycle, Refusal, Who};
use runtime::reap::End;
use runtime::spec::{Process as ProcessSpec, Resources};
use runtime::{Child, Container};
use tokio::sync::{mpsc, oneshot, watch};

use super::oom::Watch;
use super::work::{self, Made};
use super::{Answer, Create, Ended, Reply, Request, Seen, Shim, Task, View, no_process};
use crate::convert::{self, Told};
use crate::ready::Fd;
use crate::stdio::{Paths, Streams, Wiring};

pub(super) type ReplyTo = oneshot::Sender<Answer>;

/// What arrives in the inbox.
pub(super) enum Message {
    Ask(Request, ReplyTo),
    Created(Result<Box<Made>, String>),
    Started(Result<(), String>),
    ExecStarted(String, Result<Box<(Child, Wiring)>, String>),
    Paused(Result<(), String>),
    Resumed(Result<(), String>),
    Thawed(Result<(), String>),
    KilledAll(Result<(), String>),
    Updated(Result<(), String>, ReplyTo),
    Deleted(Result<(), String>),
    ExecDeleted(String),
    Exited(Who, End, Exit),
    /// Init's output has been read.
    Drained,
    Oom,
}

/// Who waits for an answer to what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    Create,
    Start(Who),
    Pause,
    Resume,
    Delete(Who),
}

pub(super) struct Process {
    /// An exec's, until its container forgets it; init's is in the container.
    pub(super) spec: Option<Arc<ProcessSpec>>,
    pub(super) paths: Arc<Paths>,
    pub(super) pid: u32,
    pub(super) pidfd: Option<Arc<Fd>>,
    pub(super) streams: Streams,
    /// CloseIO came. It may come before there are streams, and a client asks once.
    pub(super) stdin_closed: bool,
    pub(super) ended: watch::Sender<Ended>,
    /// Its exit has arrived here, announced or not.
    pub(super) dead: bool,
}

impl Process {
    fn new(spec: Option<ProcessSpec>, paths: Paths) -> Self {
        Self {
            spec: spec.map(Arc::new),
            paths: Arc::new(paths),
            pid: 0,
            pidfd: None,
            streams: Streams::default(),
            stdin_closed: false,
            ended: watch::Sender::new(Ended::NotYet),
            dead: false,
        }
    }

    pub(super) fn is_alive(&self) -> bool {
        self.pid != 0 && !self.dead
    }
}

pub(super) struct Owner {
    pub(super) shim: Arc<Shim>,
    pub(super) create: Arc<Create>,
    pub(super) life: Lifecycle,
    pub(super) container: Option<Arc<Container>>,
    pub(super) processes: BTreeMap<Who, Process>,
    pub(super) waiting: Vec<(Wanted, ReplyTo)>,
    pub(super) updates: VecDeque<(Box<Resources>, ReplyTo)>,
    /// One of them is under way: two would get in each other's way, and what one puts back would undo the other.
    pub(super) updating: bool,
    /// What was asked too early, see [`Lifecycle::is_too_early`] and its like.
    held: Vec<(Request, ReplyTo)>,
    pub(super) oom: Option<Watch>,
    pub(super) inquest: Inquest,
    /// The runtime has let go of the container; only mounts are left to undo.
    pub(super) undone: Arc<AtomicBool>,
    pub(super) inbox: mpsc::UnboundedReceiver<Message>,
    pub(super) me: mpsc::UnboundedSender<Message>,
    pub(super) view: watch::Sender<View>,
    pub(super) gone: bool,
}

impl Owner {
    pub(super) fn new(shim: Arc<Shim>, create: Create, reply: ReplyTo) -> (Self, Task) {
        let (me, inbox) = mpsc::unbounded_channel();
        let view = View { bundle: create.bundle.display().to_string(), ..View::default() };
        let (view, seen) = watch::channel(view);
        let task = Task { inbox: me.clone(), view: seen };
        let owner = Self {
            life: Lifecycle::new(create.id.clone()),
            container: None,
            processes: BTreeMap::from([(None, Process::new(None, create.paths.clone()))]),
            waiting: vec![(Wanted::Create, reply)],
            updates: VecDeque::new(),
            updating: false,
            held: Vec::new(),
            oom: None,
            inquest: Inquest::default(),
            undone: Arc::default(),
            create: Arc::new(create),
            shim,
            inbox,
            me,
            view,
            gone: false,
        };
        (owner, task)
    }

    /// Lives until the container is forgotten.
    pub(super) async fn run(mut self) {
        let (shim, create) = (Arc::clone(&self.shim), Arc::clone(&self.create));
        self.work(c"create", move || work::create(&shim, &create).map(Box::new), Message::Created);
        while !self.gone
            && let Some(message) = self.inbox.recv().await
        {
            self.take(message);
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Ask(request, reply) => self.asked(request, reply),
            Message::Created(Ok(made)) => self.created(*made),
            Message::Created(Err(text)) => {
                self.feed(Input::CreateFailed);
                self.answer(&Wanted::Create, Err(Refusal::unknown(text)));
            }
            Message::Started(result) => {
                self.feed(if result.is_ok() { Input::StartDone } else { Input::StartFailed });
                let pid = self.pid(&None);
                let failed = |text| Refusal::unknown(format!("OCI runtime start failed: {text}"));
                self.answer(&Wanted::Start(None), result.map(|()| Reply::Pid(pid)).map_err(failed));
                self.ask_again();
            }
            Message::ExecStarted(id, result) => {
                match result {
                    Ok(made) => self.exec_started(id, *made),
                    Err(text) => self.exec_failed(id, text),
                }
                self.ask_again();
            }
            Message::Paused(result) => {
                self.feed(Input::PauseDone { ok: result.is_ok() });
                let failed = |text| Refusal::unknown(format!("OCI runtime pause failed: {text}"));
                self.answer(&Wanted::Pause, result.map(|()| Reply::Done).map_err(failed));
                self.ask_again();
            }
            Message::Resumed(result) => {
                self.feed(Input::ResumeDone { ok: result.is_ok() });
                let failed = |text| Refusal::unknown(format!("OCI runtime resume failed: {text}"));
                self.answer(&Wanted::Resume, result.map(|()| Reply::Done).map_err(failed));
                self.ask_again();
            }
            Message::Thawed(result) => self.complain("thaw", &result),
            Message::KilledAll(result) => {
                self.complain("kill all", &result);
                self.feed(Input::KillAllDone);
            }
            Message::Updated(result, reply) => {
                self.updating = false;
                self.next_update();
                let failed = |text| Refusal::unknown(format!("OCI runtime update failed: {text}"));
                let _ = reply.send(result.map(|()| Reply::Done).map_err(failed));
            }
            Message::Deleted(result) => {
                let reply = self.deleted(&None);
                self.feed(if result.is_ok() { Input::DeleteDone } else { Input::DeleteFailed });
                self.answer(&Wanted::Delete(None), result.map(|()| reply).map_err(Refusal::unknown));
            }
            Message::ExecDeleted(id) => {
                let who = Some(id.clone());
                let reply = self.deleted(&who);
                self.feed(Input::ExecDeleted(id));
                self.answer(&Wanted::Delete(who), Ok(reply));
            }
            Message::Exited(who, end, exit) => {
                self.explain(&who, end);
                if let Some(process) = self.processes.get_mut(&who) {
                    process.dead = true;
                }
                self.feed(who.map_or(Input::Exited(exit), |id| Input::ExecExited(id, exit)));
            }
            Message::Drained => self.feed(Input::Drained),
            Message::Oom => self.oom_bell(),
        }
    }

    /// What others wait for is over. What was asked of processes that still are being started is held again.
    fn ask_again(&mut self) {
        for (request, reply) in mem::take(&mut self.held) {
            self.asked(request, reply);
        }
    }

    fn asked(&mut self, request: Request, reply: ReplyTo) {
        match request {
            // As with containerd's own shim. A signal that came a moment too early would be lost.
            Request::Kill { ref who, signal } if self.life.is_too_early(who, signal) => {
                self.held.push((request, reply))
            }
            Request::Resize { ref who, .. } if self.life.is_starting(who) => self.held.push((request, reply)),
            Request::Pause | Request::Resume if self.life.is_too_early_for_freezer() => {
                self.held.push((request, reply))
            }
            Request::Start(None) => self.demand(Input::Start, Wanted::Start(None), reply),
            Request::Start(Some(id)) => self.demand(Input::StartExec(id.clone()), Wanted::Start(Some(id)), reply),
            Request::Pause => self.demand(Input::Pause, Wanted::Pause, reply),
            Request::Resume => self.demand(Input::Resume, Wanted::Resume, reply),
            Request::Delete(None) => self.demand(Input::Delete, Wanted::Delete(None), reply),
            Request::Delete(Some(id)) => self.demand(Input::DeleteExec(id.clone()), Wanted::Delete(Some(id)), reply),
            Request::Exec { id, process, paths } => {
                let answer = self.life.step(Input::Exec(id.clone())).and_then(|effects| {
                    self.processes.insert(Some(id), Process::new(Some(*process), paths));
                    self.perform(effects)
                });
                let _ = reply.send(answer.map(|()| Reply::Done));
            }
            Request::Kill { who, signal } => {
                let step = self.life.step(Input::Kill { who, signal });
                let _ = reply.send(step.and_then(|effects| self.perform(effects)).map(|()| Reply::Done));
            }
            Request::Update(resources) => match self.life.step(Input::Update) {
                Ok(effects) => {
                    self.updates.push_back((resources, reply));
                    let _ = self.perform(effects);
                }
                Err(refusal) => {
                    let _ = reply.send(Err(refusal));
                }
            },
            Request::Resize { who, width, height } => {
                let resized = self.living(&who).map(|process| process.streams.resize(width, height));
                tokio::spawn(async move {
                    let failed = |e| Refusal::unknown(format!("TIOCSWINSZ: {e}"));
                    let answer = async { resized?.await.map(|()| Reply::Done).map_err(failed) };
                    let _ = reply.send(answer.await);
                });
            }
            Request::CloseStdin(who) => {
                // Also while the container is being made: its client may have its end of file already.
                let process = self.processes.get_mut(&who).ok_or_else(|| no_process(&who));
                let _ = reply.send(process.map(|process| {
                    process.stdin_closed = true;
                    process.streams.close_stdin();
                    Reply::Done
                }));
            }
        }
    }

    fn living(&mut self, who: &Who) -> Result<&mut Process, Refusal> {
        if self.life.status(&None).is_none() {
            return Err(Refusal::no_container());
        }
        self.processes.get_mut(who).ok_or_else(|| no_process(who))
    }

    /// A request whose answer comes when its work is done.
    fn demand(&mut self, input: Input, wanted: Wanted, reply: ReplyTo) {
        match self.life.step(input) {
            Ok(effects) => {
                self.waiting.push((wanted, reply));
                let _ = self.perform(effects);
            }
            Err(refusal) => {
                let _ = reply.send(Err(refusal));
            }
        }
    }

    /// Answers all who wait for this; some may have hung up.
    pub(super) fn answer(&mut self, wanted: &Wanted, answer: Answer) {
        for (_, reply) in self.waiting.extract_if(.., |(w, _)| w == wanted) {
            let _ = reply.send(answer.clone());
        }
    }

    /// News are never refused.
    pub(super) fn feed(&mut self, input: Input) {
        if let Ok(effects) = self.life.step(input) {
            let _ = self.perform(effects);
        }
    }

    /// Does what the lifecycle says, in its order. Only a signal can fail, and that goes to who asked for it.
    fn perform(&mut self, effects: Vec<Effect>) -> Result<(), Refusal> {
        self.show();
        let mut result = Ok(());
        for effect in effects {
            match effect {
                Effect::Run(job) => self.start(job),
                Effect::Publish(event) => self.publish(event),
                Effect::Release(who, exit) => {
                    if let Some(process) = self.processes.get(&who) {
                        process.ended.send_replace(exit.map_or(Ended::Never, Ended::Exited));
                    }
                }
                Effect::Signal(who, signal) => result = self.signal(&who, signal),
                Effect::CancelCreate => self.create.cancel.ring(),
                Effect::StopOom => self.oom = None,
                Effect::Forget(None) => {
                    self.gone = true;
                    self.shim.forget(&self.create.id);
                }
                Effect::Forget(who) => {
                    self.processes.remove(&who);
                    self.show();
                }
            }
        }
        result
    }

    /// Makes the snapshot say what the lifecycle says.
    fn show(&self) {
        let mut seen = BTreeMap::new();
        for (who, process) in &self.processes {
            if let Some(status) = self.life.status(who) {
                let (paths, ended) = (Arc::clone(&process.paths), process.ended.subscribe());
                seen.insert(who.clone(), Seen { pid: process.pid, status, paths, ended });
            }
        }
        self.view.send_modify(|view| {
            view.processes = seen;
            view.container.clone_from(&self.container);
        });
    }

    fn publish(&self, event: Event) {
        let who = match &event {
            Event::Exit(who, _) | Event::Delete(who, _) => who.clone(),
            Event::ExecStarted(id) => Some(id.clone()),
            Event::Create | Event::Start | Event::ExecAdded(_) | Event::Paused | Event::Resumed | Event::Oom => None,
        };
        let told = Told { id: &self.create.id, create: &self.create, pid: self.pid(&who) };
        self.shim.outbox.send(convert::event(event, &told));
    }

    pub(super) fn pid(&self, who: &Who) -> u32 {
        self.processes.get(who).map_or(0, |p| p.pid)
    }

    fn signal(&mut self, who: &Who, signal: i32) -> Result<(), Refusal> {
        // Who is being killed by the kernel already must not be put down to us.
        self.look_for_oom();
        self.inquest.asked(who, signal);
        let Some(pidfd) = self.processes.get(who).and_then(|p| p.pidfd.as_ref()) else {
            return Err(Refusal::finished());
        };
        runtime::reap::signal(pidfd.get_ref(), signal).map_err(|error| match error.kind {
            // It has ended, but the news of it is still under way.
            runtime::Kind::NotFound => Refusal::finished(),
            _ => Refusal::unknown(error.to_string()),
        })
    }

    fn deleted(&self, who: &Who) -> Reply {
        let exit = self.processes.get(who).and_then(|p| match *p.ended.borrow() {
            Ended::Exited(exit) => Some(exit),
            Ended::NotYet | Ended::Never => None,
        });
        Reply::Deleted { pid: self.pid(who), exit }
    }

    fn complain(&self, what: &str, result: &Result<(), String>) {
        if let Err(error) = result {
            log::warn!("{}: {what}: {error}", self.create.id);
        }
    }
}
