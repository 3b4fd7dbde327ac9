//! Kubernetes' side of a containerd: the CRI plugin on a test containerd, a client of it, and the pods a test makes.
//!
//! Requests and replies are the JSON form of the API's messages (runtime/v1/api.proto), so tests read like its text.

mod node;
mod pod;

pub use node::{PAUSE, format, handler, handlers, import, import_one, prepare, replaced_by, set_up};
pub use pod::{Executed, Pod, executed, logged};

use crate::containerd::{LIMIT, SOCKET};
use crate::{Bed, Outcome, Output, client, ensure, residue};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Of the enumeration NamespaceMode, as a number because crictl reads no names: the pod's namespace.
pub const POD: u32 = 0;
/// A namespace of the container's own.
pub const CONTAINER: u32 = 1;
/// The node's.
pub const NODE: u32 = 2;
/// That of another container.
pub const TARGET: u32 = 3;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a test with a client, removes the pods it made and fails if anything of them stays.
pub fn with(bed: &Bed, test: impl FnOnce(&Cri) -> Outcome) -> Outcome {
    let cri = Cri::connect(bed)?;
    let outcome = test(&cri);
    let finished = cri.finish();
    match (outcome, finished) {
        (Err(error), Err(after)) => {
            Err(format!("{}\nand then: {}", error.message().unwrap_or_default(), after.message().unwrap_or_default())
                .into())
        }
        (outcome, finished) => outcome.and(finished),
    }
}

/// Lays `patch` over `into` (RFC 7396): objects are merged, everything else is replaced.
pub fn merge(into: &mut Value, patch: Value) {
    match (into, patch) {
        (Value::Object(into), Value::Object(patch)) => {
            for (key, value) in patch {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, patch) => *into = patch,
    }
}

type Waiting = Arc<Mutex<BTreeMap<u64, Sender<Value>>>>;

/// A client of one containerd's CRI, for one test.
pub struct Cri<'a> {
    bed: &'a Bed,
    client: Mutex<Child>,
    calls: Mutex<(ChildStdin, u64)>,
    waiting: Waiting,
    /// The ids of pods and containers, for what must be gone at the end.
    made: Mutex<Vec<String>>,
    /// The pods' groups: made by runtimes here, but owned by the kubelet, whose part the client plays.
    groups: Mutex<Vec<String>>,
    count: AtomicU32,
    pods: Mutex<Vec<String>>,
}

/// An answer that has not come yet.
pub struct Pending {
    method: String,
    answer: Receiver<Value>,
}

impl Pending {
    /// Waits for the reply; what the server refused is an error that begins with the method and the code.
    pub fn wait(self) -> Outcome<Value> {
        let said = self.answer.recv_timeout(2 * LIMIT).map_err(|_| format!("{}: no answer", self.method))?;
        match said["code"].as_str() {
            Some(code) => {
                Err(format!("{}: {code}: {}", self.method, said["message"].as_str().unwrap_or_default()).into())
            }
            None => Ok(said["reply"].clone()),
        }
    }
}

impl<'a> Cri<'a> {
    fn connect(bed: &'a Bed) -> Outcome<Cri<'a>> {
        let program = program("cri");
        let address = format!("unix://{SOCKET}");
        let mut command = bed.containerd.host.command(None, &[], &[&program, &address]);
        let mut client = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let waiting: Waiting = Arc::default();
        let lines = BufReader::new(client.stdout.take().ok_or("no stdout")?).lines();
        let to = waiting.clone();
        std::thread::spawn(move || {
            for answer in lines.map_while(Result::ok).filter_map(|line| serde_json::from_str::<Value>(&line).ok()) {
                if let Some(to) = answer["tag"].as_u64().and_then(|tag| lock(&to).remove(&tag)) {
                    let _ = to.send(answer);
                }
            }
            // Whoever still waits hears that no answer will come.
            lock(&to).clear();
        });
        let calls = Mutex::new((client.stdin.take().ok_or("no stdin")?, 0));
        let (client, made, groups, pods) = (Mutex::new(client), Mutex::default(), Mutex::default(), Mutex::default());
        let cri = Cri { bed, client, calls, waiting, made, groups, count: AtomicU32::new(0), pods };
        cri.wait_ready()?;
        Ok(cri)
    }

    /// Waits until the node is ready, as after a restart of containerd.
    pub fn wait_ready(&self) -> Outcome {
        crate::eventually(LIMIT, || {
            let conditions = self.call("Status", json!({}))?["status"]["conditions"].clone();
            // Other conditions are about the configuration and the host, as a deprecated cgroup v1.
            let ready = |kind: &str| {
                conditions
                    .as_array()
                    .is_some_and(|all| all.iter().any(|one| one["type"] == kind && one["status"] == true))
            };
            ensure!(ready("RuntimeReady") && ready("NetworkReady"), "the node is not ready: {conditions}");
            Ok(())
        })
    }

    /// Sends a call.
    pub fn send(&self, method: &str, request: Value) -> Outcome<Pending> {
        let (to, answer) = channel();
        let mut calls = lock(&self.calls);
        calls.1 += 1;
        lock(&self.waiting).insert(calls.1, to);
        let line = json!({ "tag": calls.1, "method": method, "request": request }).to_string();
        writeln!(calls.0, "{line}")?;
        Ok(Pending { method: method.to_owned(), answer })
    }

    /// A call and its reply.
    pub fn call(&self, method: &str, request: Value) -> Outcome<Value> {
        self.send(method, request)?.wait()
    }

    /// A call that the server must refuse with a message that holds the words.
    pub fn refused(&self, method: &str, request: Value, words: &str) -> Outcome {
        match self.call(method, request) {
            Ok(reply) => Err(format!("{method} should fail with {words:?}, but answered {reply}").into()),
            Err(error) => {
                let error = error.message().unwrap_or_default();
                ensure!(error.contains(words), "{method} failed without {words:?}: {error}");
                Ok(())
            }
        }
    }

    /// crictl on this node, not started.
    pub fn crictl_command(&self, limit: Option<Duration>, arguments: &[&str]) -> Command {
        let (program, address) = (program("crictl"), format!("unix://{SOCKET}"));
        let mut argv = vec![program.as_str(), "--config", "/dev/null", "--timeout", "60s"];
        argv.extend(["--runtime-endpoint", &address, "--image-endpoint", &address]);
        argv.extend(arguments);
        self.bed.containerd.host.command(limit, &[], &argv)
    }

    /// Starts crictl.
    pub fn crictl_start(&self, arguments: &[&str]) -> Outcome<client::Running> {
        client::start(self.crictl_command(Some(LIMIT), arguments), format!("crictl {}", arguments.join(" ")), LIMIT)
    }

    /// crictl to its end.
    pub fn crictl(&self, arguments: &[&str]) -> Outcome<Output> {
        self.crictl_start(arguments)?.wait()
    }

    /// The test's bed.
    pub fn bed(&self) -> &Bed {
        self.bed
    }

    /// A pod's configuration: the test's name, its own cgroup, its log directory; the patch laid over it.
    pub fn pod_config(&self, patch: Value) -> Outcome<Value> {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}-{number}", self.bed.name());
        let mut config = json!({
            "metadata": { "name": name, "uid": format!("uid-{name}"), "namespace": "default", "attempt": 0 },
            "hostname": name.chars().take(60).collect::<String>(),
            "log_directory": self.bed.directory(&format!("logs-{number}"))?,
            "linux": { "cgroup_parent": format!("/{}/{name}", self.bed.containerd.namespace),
                "security_context": { "namespace_options": { "pid": CONTAINER } } },
        });
        merge(&mut config, patch);
        Ok(config)
    }

    /// A running pod of the default handler, with a patch to its configuration.
    pub fn pod(&self, patch: Value) -> Outcome<Pod<'_, 'a>> {
        self.pod_on(handler(self.bed.runtime()), patch)
    }

    /// The same on another handler.
    pub fn pod_on(&self, handler: &str, patch: Value) -> Outcome<Pod<'_, 'a>> {
        let config = self.pod_config(patch)?;
        // Noted before it is made: a failed RunPodSandbox may leave nothing below it either.
        self.group_of(&config);
        let request = json!({ "config": config, "runtime_handler": handler });
        let reply = self.call("RunPodSandbox", request)?;
        let id = reply["pod_sandbox_id"].as_str().ok_or("no pod_sandbox_id")?.to_owned();
        lock(&self.pods).push(id.clone());
        lock(&self.made).push(id.clone());
        Ok(Pod { cri: self, id, config })
    }

    /// Has the group of a pod with that configuration removed at the end.
    pub fn group_of(&self, config: &Value) {
        lock(&self.groups).extend(config["linux"]["cgroup_parent"].as_str().map(str::to_owned));
    }

    /// Leaves a pod that the test has removed itself out of the removal; it is still looked for.
    pub fn is_removed(&self, pod: &str) {
        lock(&self.pods).retain(|id| id != pod);
    }

    /// Stops and removes a pod.
    pub fn remove_pod(&self, id: &str) -> Outcome {
        self.call("StopPodSandbox", json!({ "pod_sandbox_id": id }))?;
        self.call("RemovePodSandbox", json!({ "pod_sandbox_id": id }))?;
        self.is_removed(id);
        Ok(())
    }

    /// Fails unless nothing that carries the id of a pod or container stays.
    pub fn assert_nothing_of(&self, ids: &[String]) -> Outcome {
        ids.iter().try_for_each(|id| residue::assert_none_of(&self.bed.containerd, id, Duration::from_secs(20)))
    }

    fn finish(&self) -> Outcome {
        let pods = lock(&self.pods).clone();
        let removed = pods.iter().map(|id| self.remove_pod(id)).fold(Ok(()), Result::and);
        let made = std::mem::take(&mut *lock(&self.made));
        let groups = std::mem::take(&mut *lock(&self.groups));
        removed.and(self.assert_nothing_of(&made)).and(groups.iter().try_for_each(|group| remove_group(group)))
    }
}

impl Drop for Cri<'_> {
    fn drop(&mut self) {
        let mut client = lock(&self.client);
        let _ = client.kill();
        let _ = client.wait();
    }
}

/// A program of the test bed.
pub fn program(name: &str) -> String {
    crate::containerd::testbed().join("cri/bin").join(name).display().to_string()
}

/// Removes a pod's group on every hierarchy, as the kubelet does; it fails as long as a container's is below it.
fn remove_group(parent: &str) -> Outcome {
    for group in residue::hierarchies().iter().map(|root| root.join(parent.trim_start_matches('/'))) {
        let remove = || match std::fs::remove_dir(&group) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(format!("{}: {error}", group.display())),
            _ => Ok(()),
        };
        crate::eventually(Duration::from_secs(20), || Ok(remove()?))?;
    }
    Ok(())
}
