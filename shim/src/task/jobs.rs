//! The owner's long work: sending it off to threads, and what comes back as a process.
#![forbid(unsafe_code)]

use std::ffi::CStr;
use std::io;
use std::mem;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use runtime::lifecycle::{Exit, Input, Job, Refusal, Who};
use runtime::{Child, Container};

use super::oom::Watch;
use super::owner::{Message, Owner, Wanted};
use super::work::{self, Made};
use super::{Ended, Reply};
use crate::stdio::Wiring;
use crate::{ready, reap, worker};

/// How long Delete waits for output that somebody outside the process still holds open; containerd's own limit.
const DRAIN: Duration = Duration::from_secs(10);

impl Owner {
    /// Runs `job` on a thread and puts its result into our own inbox.
    pub(super) fn work<T: Send + 'static>(
        &self,
        name: &'static CStr,
        job: impl FnOnce() -> Result<T, String> + Send + 'static,
        message: impl FnOnce(Result<T, String>) -> Message + Send + 'static,
    ) {
        let me = self.me.clone();
        let result = worker::run(name, job);
        tokio::spawn(async move {
            let result = result.await.unwrap_or_else(|e| Err(format!("no thread to work on: {e}")));
            // The owner is gone only when nothing of the container is left.
            let _ = me.send(message(result));
        });
    }

    /// The same for a job on the container.
    fn on_container(
        &self,
        name: &'static CStr,
        job: impl FnOnce(&Container) -> runtime::Result<()> + Send + 'static,
        message: impl FnOnce(Result<(), String>) -> Message + Send + 'static,
    ) {
        let Some(container) = self.container.clone() else { return };
        self.work(name, move || job(&container).map_err(|e| e.to_string()), message);
    }

    pub(super) fn start(&mut self, job: Job) {
        match job {
            Job::Start => self.on_container(c"start", work::start, Message::Started),
            Job::StartExec(id) => self.start_exec(id),
            Job::Pause => self.on_container(c"pause", |c| c.cgroup().freeze(), Message::Paused),
            Job::Resume => self.on_container(c"resume", |c| c.cgroup().thaw(), Message::Resumed),
            Job::Thaw => self.on_container(c"thaw", work::thaw, Message::Thawed),
            Job::KillAll => self.on_container(c"kill", |c| c.cgroup().kill(9), Message::KilledAll),
            Job::Update => self.next_update(),
            Job::Delete => self.delete(),
            Job::DeleteExec(id) => {
                let process = self.processes.get_mut(&Some(id.clone()));
                let streams = process.map(|p| mem::take(&mut p.streams)).unwrap_or_default();
                let me = self.me.clone();
                tokio::spawn(async move {
                    streams.finish(DRAIN).await;
                    let _ = me.send(Message::ExecDeleted(id));
                });
            }
        }
    }

    pub(super) fn next_update(&mut self) {
        if !self.updating
            && let Some((resources, reply)) = self.updates.pop_front()
        {
            self.updating = true;
            let update = move |c: &Container| c.cgroup().update_from(&c.spec().linux.resources, &resources);
            self.on_container(c"update", update, |result| Message::Updated(result, reply));
        }
    }

    fn start_exec(&mut self, id: String) {
        let (shim, create) = (Arc::clone(&self.shim), Arc::clone(&self.create));
        let process = self.processes.get(&Some(id.clone()));
        let (Some(container), Some(process)) = (self.container.clone(), process) else { return };
        let (Some(spec), paths) = (process.spec.clone(), Arc::clone(&process.paths)) else { return };
        process.ended.send_replace(Ended::NotYet);
        let (name, asked) = (id.clone(), Arc::clone(&container));
        let job = move || work::exec(&shim, &container, &create, &name, &spec, &paths).map(Box::new);
        self.work(c"exec", job, move |result| {
            super::see_to_cooling(&asked);
            Message::ExecStarted(id, result)
        });
    }

    fn delete(&mut self) {
        let Some(container) = self.container.clone() else { return };
        let (me, create, undone) = (self.me.clone(), Arc::clone(&self.create), Arc::clone(&self.undone));
        let streams: Vec<_> = self.processes.values_mut().map(|p| mem::take(&mut p.streams)).collect();
        tokio::spawn(async move {
            let ends: Vec<_> = streams.into_iter().map(|s| tokio::spawn(s.finish(DRAIN))).collect();
            for end in ends {
                let _ = end.await;
            }
            let work = worker::run(c"delete", move || work::delete(&container, &create, &undone));
            let result = work.await.unwrap_or_else(|e| Err(format!("no thread to work on: {e}")));
            let _ = me.send(Message::Deleted(result));
        });
    }

    pub(super) fn created(&mut self, made: Made) {
        let Made { container, child, wiring, oom } = made;
        let shares_pids = container.shares_pid_namespace();
        let container = Arc::new(container);
        let pid = child.pid;
        if let Err(error) = self.adopt(None, child, wiring) {
            // No descriptors to be had. The sweep takes the child; the rest goes as if it had not been made.
            runtime::reap::forget(pid);
            let (create, undone) = (Arc::clone(&self.create), Arc::clone(&self.undone));
            let undo = move || {
                work::delete(&container, &create, &undone)?;
                Err(format!("OCI runtime create failed: {error}"))
            };
            return self.work(c"undo", undo, Message::Created);
        }
        self.container = Some(container);
        let me = self.me.clone();
        self.oom = oom.and_then(|oom| Watch::new(oom, move || me.send(Message::Oom).is_ok()));
        self.feed(Input::CreateDone { shares_pids });
        self.answer(&Wanted::Create, Ok(Reply::Pid(pid)));
    }

    pub(super) fn exec_started(&mut self, id: String, (child, wiring): (Child, Wiring)) {
        let who = Some(id.clone());
        let pid = child.pid;
        if let Err(error) = self.adopt(who.clone(), child, wiring) {
            runtime::reap::forget(pid);
            return self.exec_failed(id, format!("OCI runtime exec failed: exec failed: {error}"));
        }
        self.feed(Input::ExecStarted(id));
        self.answer(&Wanted::Start(who), Ok(Reply::Pid(pid)));
    }

    pub(super) fn exec_failed(&mut self, id: String, text: String) {
        self.feed(Input::ExecFailed(id.clone()));
        self.answer(&Wanted::Start(Some(id)), Err(Refusal::unknown(text)));
    }

    /// Begins to copy a new process's streams and to wait for its exit. On an error it is killed.
    fn adopt(&mut self, who: Who, child: Child, wiring: Wiring) -> io::Result<()> {
        let Child { pid, pidfd, .. } = child;
        let pidfd = Arc::new(ready::for_exit(pidfd)?);
        let mut streams = wiring.run().inspect_err(|_| {
            let _ = runtime::reap::signal(pidfd.get_ref(), 9);
        })?;
        let Some(process) = self.processes.get_mut(&who) else { return Ok(()) };
        let drain = streams.take_drain();
        if process.stdin_closed {
            streams.close_stdin();
        }
        process.pid = pid;
        process.streams = streams;
        process.pidfd = Some(Arc::clone(&pidfd));
        let me = self.me.clone();
        tokio::spawn(async move {
            let end = reap::exit(pidfd).await;
            let exit = Exit { status: end.status().unsigned_abs(), at: SystemTime::now() };
            if who.is_some() {
                drain.dry().await;
                let _ = me.send(Message::Exited(who, end, exit));
            } else {
                // Whoever may read its last words, nothing can be started beside it any more, and what outlived it is to die.
                let _ = me.send(Message::Exited(who, end, exit));
                drain.dry().await;
                let _ = me.send(Message::Drained);
            }
        });
        Ok(())
    }
}
