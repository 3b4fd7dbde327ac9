//! One owner per container: an inbox, a `runtime::Container`, a lifecycle.
//!
//! [`Task`] is the owner's address. What changes something is asked of the owner ([`Task::ask`]), who decides at once and
//! lets others do what takes long; what only looks ([`Task::state`] and the like) reads the owner's last snapshot and
//! never waits for it, so that a hook that hangs in Create hides nothing but its own container.
#![forbid(unsafe_code)]

mod jobs;
mod oom;
mod owner;
mod work;

use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use containerd_shim_protos::types::mount::Mount;
use runtime::cancel::Cancel;
use runtime::cgroup::{COOLING, Stats};
use runtime::lifecycle::{Exit, Refusal, Status, Who};
use runtime::spec::{Process, Resources};
use runtime::{Container, Host, Kind};
use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::events::Outbox;
use crate::options::Options;
use crate::stdio::Paths;
use crate::worker;
use owner::{Message, Owner};

/// How a container is to be made.
#[derive(Debug)]
pub struct Create {
    /// Its id, unique in this shim.
    pub id: String,
    /// Absolute.
    pub bundle: PathBuf,
    /// What to mount on `<bundle>/rootfs`, as it came.
    pub rootfs: Vec<Mount>,
    /// Init's streams.
    pub paths: Paths,
    /// Runtime options.
    pub options: Options,
    /// Rung by a Delete while it is being made.
    pub cancel: Cancel,
}

/// What can be asked of an owner.
#[derive(Debug)]
#[allow(missing_docs, reason = "containerd's RPCs of these names")]
pub enum Request {
    Start(Who),
    Exec { id: String, process: Box<Process>, paths: Paths },
    Kill { who: Who, signal: i32 },
    Pause,
    Resume,
    Update(Box<Resources>),
    Delete(Who),
    Resize { who: Who, width: u16, height: u16 },
    CloseStdin(Who),
}

/// What the owner answers.
#[derive(Clone, Debug)]
pub enum Reply {
    /// Nothing to say.
    Done,
    /// Create and Start.
    Pid(u32),
    /// Delete. The exit is absent for an exec that never ran.
    Deleted {
        /// As it was told at the start.
        pid: u32,
        /// How it ended.
        exit: Option<Exit>,
    },
}

/// An answer, or why not.
pub type Answer = Result<Reply, Refusal>;

/// What State shows of a process.
#[derive(Clone, Debug)]
pub struct State {
    /// Absolute path of the container's bundle.
    pub bundle: String,
    /// 0 for an exec that never ran; stays after the exit.
    pub pid: u32,
    /// As announced.
    pub status: Status,
    /// As given.
    pub paths: Paths,
    /// Once it is stopped.
    pub exit: Option<Exit>,
}

/// The end of a process, for those who wait for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    NotYet,
    Exited(Exit),
    /// It could not be started.
    Never,
}

/// The owner's snapshot.
#[derive(Default)]
struct View {
    bundle: String,
    container: Option<Arc<Container>>,
    /// Empty while the container is being made: nobody was told of it yet.
    processes: BTreeMap<Who, Seen>,
}

#[derive(Clone)]
struct Seen {
    pid: u32,
    status: Status,
    paths: Arc<Paths>,
    ended: watch::Receiver<Ended>,
}

fn no_process(who: &Who) -> Refusal {
    Refusal::no_exec(who.as_deref().unwrap_or_default())
}

/// Where a container's owner can be reached.
#[derive(Clone)]
pub struct Task {
    inbox: mpsc::UnboundedSender<Message>,
    view: watch::Receiver<View>,
}

impl Task {
    /// Asks the owner. The request is carried out to its end even if this future is dropped.
    pub async fn ask(&self, request: Request) -> Answer {
        let (reply, answer) = oneshot::channel();
        // Both fail only when the owner is gone, and the container with it.
        self.inbox.send(Message::Ask(request, reply)).map_err(|_| Refusal::no_container())?;
        answer.await.unwrap_or_else(|_| Err(Refusal::no_container()))
    }

    fn seen(&self, who: &Who) -> Result<Seen, Refusal> {
        let view = self.view.borrow();
        if view.processes.is_empty() {
            return Err(Refusal::no_container());
        }
        view.processes.get(who).cloned().ok_or_else(|| no_process(who))
    }

    /// True until the container is made.
    pub fn is_being_made(&self) -> bool {
        self.view.borrow().container.is_none()
    }

    /// Waits until the container is made. NotFound when it could not be.
    pub async fn made(&self) -> Result<(), Refusal> {
        let mut view = self.view.clone();
        view.wait_for(|view| view.container.is_some()).await.map(drop).map_err(|_| Refusal::no_container())
    }

    /// What a process looks like now.
    pub fn state(&self, who: &Who) -> Result<State, Refusal> {
        let seen = self.seen(who)?;
        let exit = match *seen.ended.borrow() {
            Ended::Exited(exit) => Some(exit),
            Ended::NotYet | Ended::Never => None,
        };
        let bundle = self.view.borrow().bundle.clone();
        Ok(State { bundle, pid: seen.pid, status: seen.status, paths: (*seen.paths).clone(), exit })
    }

    /// Waits until a process has ended; at once if it has. NotFound when it is deleted meanwhile without having run.
    pub async fn wait(&self, who: &Who) -> Result<Exit, Refusal> {
        let mut ended = self.seen(who)?.ended;
        match ended.wait_for(|e| *e != Ended::NotYet).await.map(|e| *e) {
            Ok(Ended::Exited(exit)) => Ok(exit),
            Ok(Ended::Never | Ended::NotYet) => Err(Refusal::not_created()),
            Err(_) => Err(no_process(who)),
        }
    }

    fn container(&self) -> Result<Arc<Container>, Refusal> {
        self.view.borrow().container.clone().ok_or_else(Refusal::no_container)
    }

    /// All processes in the container's groups, with the exec each began as. Init's pid is there until Delete, also when
    /// it has ended: containerd takes an empty list for a leaked task and would lose its exit code.
    pub async fn pids(&self) -> Result<Vec<(u32, Option<String>)>, Refusal> {
        let container = self.container()?;
        // A worker costs more than the answer; but how many groups a container makes inside its own is its own choice.
        let listed = if container.cgroup().is_leaf() {
            container.cgroup().pids().ok()
        } else {
            worker::run(c"pids", move || container.cgroup().pids()).await.ok().and_then(Result::ok)
        };
        let mut pids = listed.unwrap_or_default();
        let view = self.view.borrow();
        let init = view.processes.get(&None).map(|p| p.pid).ok_or_else(Refusal::no_container)?;
        if !pids.contains(&init) {
            pids.insert(0, init);
        }
        let exec = |pid: u32| view.processes.iter().find(|(_, p)| p.pid == pid).and_then(|(who, _)| who.clone());
        Ok(pids.into_iter().map(|pid| (pid, exec(pid))).collect())
    }

    /// What the kernel counts for the container; also after its exit, until Delete.
    pub async fn stats(&self) -> Result<Stats, Refusal> {
        let container = self.container()?;
        let read = if container.cgroup().is_leaf() {
            container.cgroup().stats()
        } else {
            let container = Arc::clone(&container);
            let read = worker::run(c"stats", move || container.cgroup().stats()).await;
            read.map_err(|e| Refusal::unknown(e.to_string()))?
        };
        see_to_cooling(&container);
        read.map_err(|error| match error.kind {
            Kind::NotFound => Refusal::new(runtime::lifecycle::Class::NotFound, format!("{error}: not found")),
            _ => Refusal::unknown(error.to_string()),
        })
    }

    /// Init's pid, for Connect.
    pub fn pid(&self) -> Option<u32> {
        self.seen(&None).ok().map(|p| p.pid)
    }
}

/// To be called when something was asked of a container for which files are kept open while that is frequent.
fn see_to_cooling(container: &Arc<Container>) {
    if container.cgroup().is_to_be_cooled() {
        tokio::spawn(cool(Arc::downgrade(container)));
    }
}

/// Closes the files once what they are kept for is over, or with the container.
async fn cool(container: Weak<Container>) {
    loop {
        tokio::time::sleep(COOLING).await;
        if container.upgrade().is_none_or(|container| container.cgroup().cool()) {
            return;
        }
    }
}

/// What all owners of this shim share.
pub struct Shim {
    /// containerd's.
    pub namespace: String,
    /// Read once.
    pub host: Host,
    /// All events leave through it.
    pub outbox: Outbox,
    /// Told each time when the last container has gone.
    pub emptied: Notify,
    /// A lock because the server wants its handlers to be Send; everything happens on one thread.
    tasks: Mutex<BTreeMap<String, Task>>,
}

impl Shim {
    /// A shim without containers.
    pub fn new(namespace: String, host: Host, outbox: Outbox) -> Self {
        Self { namespace, host, outbox, emptied: Notify::new(), tasks: Mutex::default() }
    }

    fn tasks(&self) -> MutexGuard<'_, BTreeMap<String, Task>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks a container up. It is there from Create to Delete.
    pub fn task(&self, id: &str) -> Result<Task, Refusal> {
        self.tasks().get(id).cloned().ok_or_else(Refusal::no_container)
    }

    /// True when no container is there, not even one that is being made or removed.
    pub fn is_empty(&self) -> bool {
        self.tasks().is_empty()
    }

    /// One line per container, for whoever asks what this shim is doing.
    pub fn describe(&self) -> Vec<String> {
        let tasks = self.tasks();
        tasks.iter().map(|(id, task)| format!("{id}: {:?}", task.state(&None).map(|s| (s.status, s.pid)))).collect()
    }

    /// Makes a container. It is made even if the future that comes back is dropped.
    pub fn create(self: &Arc<Self>, create: Create) -> impl Future<Output = Answer> + Send + use<> {
        let (reply, answer) = oneshot::channel();
        let id = create.id.clone();
        let mut tasks = self.tasks();
        let taken = tasks.contains_key(&id);
        if !taken {
            let (owner, task) = Owner::new(Arc::clone(self), create, reply);
            tasks.insert(id.clone(), task);
            tokio::spawn(owner.run());
        }
        async move {
            if taken {
                return Err(Refusal::container_exists(&id));
            }
            answer.await.unwrap_or_else(|_| Err(Refusal::no_container()))
        }
    }

    fn forget(&self, id: &str) {
        let mut tasks = self.tasks();
        tasks.remove(id);
        if tasks.is_empty() {
            self.emptied.notify_one();
        }
    }
}
