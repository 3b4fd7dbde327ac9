//! What one test holds: a containerd, and the containers it made there.

use crate::containerd::{IMAGE, LIMIT};
use crate::events::Event;
use crate::pty::Pty;
use crate::{Containerd, Outcome, Output, Runtime, Version, client, ensure, residue};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The place a test runs in.
pub struct Bed {
    /// The containerd, shared with the other tests of the suite unless the test asked for its own.
    pub containerd: Arc<Containerd>,
    name: String,
    ids: Mutex<Vec<String>>,
}

impl Bed {
    /// A bed for the test of this name.
    pub fn new(containerd: Arc<Containerd>, name: &str) -> Bed {
        Bed { containerd, name: name.replace('_', "-"), ids: Mutex::default() }
    }

    /// The test's name, as its ids begin.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The runtime under test.
    pub fn runtime(&self) -> Runtime {
        self.containerd.runtime
    }

    /// The containerd's version.
    pub fn version(&self) -> Version {
        self.containerd.version
    }

    /// A new container id; what carries it is removed and looked for when the test is over.
    pub fn id(&self) -> String {
        let mut ids = self.ids.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let id = format!("{}-{}", self.name, ids.len());
        ids.push(id.clone());
        id
    }

    /// An empty directory of the machine for this test.
    pub fn directory(&self, name: &str) -> Outcome<PathBuf> {
        let path = self.containerd.scratch().join(format!("{}-{name}", self.name));
        std::fs::create_dir_all(&path)?;
        Ok(path)
    }

    /// The words of `ctr run` with this runtime.
    pub fn run_words<'a>(&self, id: &'a str, flags: &[&'a str], command: &[&'a str]) -> Vec<&'a str> {
        let mut words = vec!["run", "--runtime", self.runtime().name()];
        words.extend(flags);
        words.extend([IMAGE, id]);
        words.extend(command);
        words
    }

    /// `ctr run --rm` with more flags, in the foreground, to its end.
    pub fn run(&self, flags: &[&str], command: &[&str]) -> Outcome<Output> {
        let id = self.id();
        let mut all = vec!["--rm"];
        all.extend(flags);
        self.ctr(&self.run_words(&id, &all, command))
    }

    /// `ctr run --rm` of a shell script.
    pub fn sh(&self, flags: &[&str], script: &str) -> Outcome<Output> {
        self.run(flags, &["sh", "-c", script])
    }

    /// `ctr run --detach`; returns the id.
    pub fn detached(&self, flags: &[&str], command: &[&str]) -> Outcome<String> {
        let id = self.id();
        let mut all = vec!["--detach"];
        all.extend(flags);
        self.ctr(&self.run_words(&id, &all, command))?.ok()?;
        Ok(id)
    }

    /// The fifo of a detached container's stream, for a reader of one's own. With ctr as the reader a tail is lost now and then on a
    /// busy machine, with any shim: up to all that was unread at the exit.
    pub fn fifo(&self, id: &str, stream: &str) -> Outcome<PathBuf> {
        let name = format!("{id}-{stream}");
        for entry in self.containerd.host.path("/run/containerd/fifo").read_dir()? {
            let path = entry?.path().join(&name);
            if path.exists() {
                return Ok(path);
            }
        }
        Err(format!("no fifo is called {name}").into())
    }

    /// A container that lives until it is removed.
    pub fn sleeper(&self) -> Outcome<String> {
        self.detached(&["--null-io"], &["sleep", "100000"])
    }

    /// Any ctr call.
    pub fn ctr(&self, arguments: &[&str]) -> Outcome<Output> {
        self.containerd.ctr(arguments)
    }

    /// `ctr task exec` with a fresh exec id.
    pub fn exec(&self, id: &str, flags: &[&str], command: &[&str]) -> Outcome<Output> {
        self.exec_start(id, flags, command)?.wait()
    }

    /// `ctr task exec` of a shell script whose output counts. It lingers after the last word, because ctr closes the
    /// fifos of an exec as soon as it hears of the exit, whether it has read them to the end or not.
    pub fn exec_sh(&self, id: &str, flags: &[&str], script: &str) -> Outcome<Output> {
        self.exec(id, flags, &["sh", "-c", &format!("({script}\n); code=$?; sleep 0.3; exit $code")])
    }

    /// The same as [`Bed::exec`], not waited for.
    pub fn exec_start(&self, id: &str, flags: &[&str], command: &[&str]) -> Outcome<client::Running> {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let exec_id = format!("exec-{}", COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
        let mut words = vec!["task", "exec", "--exec-id", &exec_id];
        words.extend(flags);
        words.push(id);
        words.extend(command);
        self.containerd.ctr_start(LIMIT, &words)
    }

    /// ctr on a terminal of 40 rows and 100 columns.
    pub fn terminal(&self, arguments: &[&str]) -> Outcome<Pty> {
        Pty::start(&self.containerd.command(Some(LIMIT), arguments), 40, 100)
    }

    /// The status that `ctr task ls` shows, or nothing if there is no such task.
    pub fn status(&self, id: &str) -> Outcome<Option<String>> {
        let tasks = self.ctr(&["task", "ls"])?.ok()?.text();
        let line = tasks.lines().find(|line| line.split_whitespace().next() == Some(id));
        Ok(line.and_then(|line| line.split_whitespace().last()).map(str::to_owned))
    }

    /// Waits until the task has the status.
    pub fn wait_status(&self, id: &str, status: &str) -> Outcome {
        crate::eventually(LIMIT, || {
            let now = self.status(id)?;
            ensure!(now.as_deref() == Some(status), "{id} is {now:?}, not {status}");
            Ok(())
        })
    }

    /// The pid of the task's init, on containerd's host.
    pub fn pid(&self, id: &str) -> Outcome<u32> {
        let tasks = self.ctr(&["task", "ls"])?.ok()?.text();
        let line = tasks.lines().find(|line| line.split_whitespace().next() == Some(id));
        let pid = line.and_then(|line| line.split_whitespace().nth(1)).ok_or("no such task")?;
        Ok(pid.parse()?)
    }

    /// The pid of the shim that holds the task, on containerd's host.
    pub fn shim(&self, id: &str) -> Outcome<u32> {
        self.containerd.host.parent(self.pid(id)?)
    }

    /// `ctr task rm` with more flags; checks the exit code that the exit and, on mini, the delete event report.
    /// (ctr itself says nothing of it, and the Go shim of 2.x can lose its delete event when it shuts down.)
    pub fn delete(&self, id: &str, flags: &[&str], code: u64) -> Outcome {
        self.ctr(&[&["task", "rm"], flags, &[id]].concat())?.ok()?;
        let last = if self.runtime() == Runtime::Mini { "/tasks/delete" } else { "/tasks/exit" };
        let is_last = |event: &Event| event.topic == last && (event.text("id").is_empty() || event.text("id") == id);
        let seen = self.containerd.events(|events| events.wait(id, LIMIT, |seen| seen.iter().any(is_last)))?;
        // Execs have exits and deletes of their own, under their own ids.
        let of_init = |event: &&Event| match event.topic.as_str() {
            "/tasks/exit" => event.text("id") == id,
            "/tasks/delete" => event.text("id").is_empty() || event.text("id") == id,
            _ => false,
        };
        for event in seen.iter().filter(of_init) {
            let reported = event.number("exit_status");
            ensure!(reported == code, "{} says {reported} instead of {code}", event.topic);
        }
        Ok(())
    }

    /// Removes a task and its container, whatever state it is in.
    pub fn remove(&self, id: &str) -> Outcome {
        self.ctr(&["task", "rm", "--force", id])?;
        self.ctr(&["container", "rm", id])?;
        Ok(())
    }

    /// Removes what the test left and fails if something carrying one of its ids stays.
    pub fn finish(&self) -> Outcome {
        let ids = std::mem::take(&mut *self.ids.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
        let left = self.ctr(&["container", "ls", "--quiet"])?.ok()?.text();
        for id in &ids {
            if left.lines().any(|line| line == id) {
                self.remove(id)?;
            }
        }
        for id in &ids {
            residue::assert_none_of(&self.containerd, id, Duration::from_secs(15))?;
        }
        Ok(())
    }
}
