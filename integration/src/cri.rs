//! Kubernetes' side of a containerd: the CRI plugin on a test containerd, a client of it, and the pods a test makes.
//!
//! Requests and replies are the JSON form of the API's messages (runtime/v1/api.proto), so tests read like its text.

use crate::containerd::{LIMIT, SOCKET};
use crate::{Bed, Containerd, Outcome, Output, Runtime, Version, client, ensure, residue};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The image of pods' first containers.
pub const PAUSE: &str = "docker.io/library/mini-pause:latest";
/// Of the enumeration NamespaceMode, as a number because crictl reads no names: the pod's namespace.
pub const POD: u32 = 0;
/// A namespace of the container's own.
pub const CONTAINER: u32 = 1;
/// The node's.
pub const NODE: u32 = 2;
/// That of another container.
pub const TARGET: u32 = 3;

/// A tmpfs of each host: CNI's own caches have their place built in.
const CNI: &str = "/var/lib/cni";

/// Every handler of a containerd. The `runtime_path` of 1.6 is not for shims of v2: it is read and ignored.
pub fn handlers(containerd: &Containerd) -> &'static [&'static str] {
    match (containerd.runtime, containerd.version) {
        (Runtime::Runc, _) => &["runc"],
        (Runtime::Mini, Version::C1_6) => &["mini", "mini-options"],
        (Runtime::Mini, _) => &["mini", "mini-options", "mini-path"],
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes a containerd a node: CRI with the handlers, a bridge network, the images in Kubernetes' namespace.
pub fn prepare(containerd: &Arc<Containerd>) -> Outcome {
    set_up(containerd, &[], "")?;
    // What a first pod makes and every later one uses: the bridge, directories.
    let warm = Bed::new(containerd.clone(), "warm-up");
    with(&warm, |cri| cri.pod(json!({}))?.output("one", "true", json!({})).map(drop))?;
    containerd.note_before()
}

/// The same up to the images, with more plugins behind the bridge and more tables in containerd's configuration.
pub fn set_up(containerd: &Containerd, plugins: &[Value], more: &str) -> Outcome {
    let tables = tables(containerd, containerd.version)?;
    let script =
        "mkdir -p \"$0\" && mount -t tmpfs tmpfs \"$0\" && mkdir \"$0/net.d\" && cat >\"$0/net.d/bridge.conflist\"";
    let mut setup = client::start(
        containerd.host.command(Some(LIMIT), &[], &["sh", "-c", script, CNI]),
        "setup of CNI".to_owned(),
        LIMIT,
    )?;
    setup.write(network(plugins).to_string().as_bytes())?;
    drop(setup.take_stdin());
    setup.wait()?.ok()?;
    containerd.restart_with_cri(format(containerd.version), "", &(tables + more))?;
    import(containerd)
}

/// The format of config.toml that a version is given.
pub fn format(version: Version) -> u32 {
    if version.is_1() { 2 } else { 3 }
}

/// Kills the containerd of a node and starts another version in its place, configured for it.
pub fn replace_by(containerd: &Containerd, version: Version) -> Outcome {
    containerd.kill()?;
    containerd.start_with_cri(version, format(version), &tables(containerd, version)?)
}

/// Puts the images into Kubernetes' namespace.
pub fn import(containerd: &Containerd) -> Outcome {
    for archive in ["cri/pause.tar", "image/busybox.tar"] {
        let archive = crate::containerd::testbed().join(archive).display().to_string();
        let words = ["--namespace", "k8s.io", "images", "import", "--snapshotter", "overlayfs", &archive];
        containerd.ctr(&words)?.ok()?;
    }
    Ok(())
}

/// The tables of config.toml for a version.
fn tables(containerd: &Containerd, version: Version) -> Outcome<String> {
    // One plugin in 1.x.
    let (images, runtime) = match version {
        version if version.is_1() => ("io.containerd.grpc.v1.cri", "io.containerd.grpc.v1.cri"),
        _ => ("io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime"),
    };
    let sandbox = match version {
        version if version.is_1() => format!("sandbox_image = {PAUSE:?}"),
        _ => format!("[plugins.\"{images}\".pinned_images]\nsandbox = {PAUSE:?}\n[plugins.\"{runtime}\"]"),
    };
    let plugins = crate::containerd::testbed().join("cri/cni");
    let bin = match version {
        version if version.is_1() => format!("bin_dir = {plugins:?}"),
        _ => format!("bin_dirs = [{plugins:?}]"),
    };
    // Of 2.0 and newer: an exec sync whose grandchildren keep its pipes is answered after this time.
    let drain = if version == Version::C1_6 { "" } else { "drain_exec_sync_io_timeout = \"2s\"" };
    let shim = crate::containerd::bin_dir()?.join("containerd-shim-mini-v2");
    let default = handler(containerd.runtime);
    // This root may lack CAP_SYS_RESOURCE, as in nested containers: then no score can be lowered.
    let mut text = format!(
        r#"[plugins."{images}"]
{sandbox}
restrict_oom_score_adj = true
{drain}
[plugins."{runtime}".cni]
{bin}
conf_dir = "{CNI}/net.d"
[plugins."{runtime}".containerd]
default_runtime_name = "{default}"
"#
    );
    let mut add = |name: &str, kind: &str, more: &str| {
        let table = format!("[plugins.\"{runtime}\".containerd.runtimes.{name}");
        text += &format!(
            "{table}]\nruntime_type = \"{kind}\"\n{}\n",
            more.replace("[options]", &format!("{table}.options]"))
        );
    };
    let (mini, runc) = (Runtime::Mini.name(), Runtime::Runc.name());
    for name in handlers(containerd) {
        match *name {
            "mini" => add(name, mini, ""),
            "mini-options" => add(name, mini, "[options]\nBinaryName = \"\"\nRoot = \"\"\nSystemdCgroup = false"),
            "mini-path" => add(name, runc, &format!("runtime_path = {shim:?}\n[options]\nSystemdCgroup = false")),
            _ => add(name, runc, ""),
        }
    }
    Ok(text)
}

fn network(more: &[Value]) -> Value {
    let ipam = json!({ "type": "host-local", "dataDir": format!("{CNI}/ipam"),
        "ranges": [[{ "subnet": "10.88.0.0/16" }]], "routes": [{ "dst": "0.0.0.0/0" }] });
    let bridge = json!({ "type": "bridge", "bridge": "cni0", "isGateway": true, "ipam": ipam });
    let plugins: Vec<Value> = [bridge, json!({ "type": "loopback" })].into_iter().chain(more.iter().cloned()).collect();
    json!({ "cniVersion": "0.4.0", "name": "bridge", "plugins": plugins })
}

/// The handler that tests use where they do not say another.
pub fn handler(runtime: Runtime) -> &'static str {
    match runtime {
        Runtime::Mini => "mini",
        Runtime::Runc => "runc",
    }
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

/// A pod.
pub struct Pod<'c, 'a> {
    /// Its client.
    pub cri: &'c Cri<'a>,
    /// Its id.
    pub id: String,
    /// The configuration it was made with.
    pub config: Value,
}

/// What an exec sync gave back.
pub struct Executed {
    /// The exit code.
    pub code: i64,
    /// Its output.
    pub stdout: String,
    /// Its errors.
    pub stderr: String,
}

impl Executed {
    /// Its output if the exit code is 0.
    pub fn ok(self) -> Outcome<String> {
        ensure!(self.code == 0, "{}", self.report());
        Ok(self.stdout)
    }

    /// All of it, for messages.
    pub fn report(&self) -> String {
        format!("exit code {}\nstdout: {}\nstderr: {}", self.code, self.stdout, self.stderr)
    }
}

impl Pod<'_, '_> {
    /// The configuration of a container that runs a shell script, the patch laid over it.
    pub fn container_config(&self, name: &str, script: &str, patch: Value) -> Value {
        let mut config = json!({
            "metadata": { "name": name, "attempt": 0 },
            "image": { "image": crate::containerd::IMAGE },
            "command": ["sh", "-c", script],
            "log_path": format!("{name}.log"),
            "linux": { "security_context": { "namespace_options": { "pid": CONTAINER } } },
        });
        merge(&mut config, patch);
        config
    }

    /// Creates a container; returns its id.
    pub fn create(&self, name: &str, script: &str, patch: Value) -> Outcome<String> {
        let config = self.container_config(name, script, patch);
        let request = json!({ "pod_sandbox_id": self.id, "config": config, "sandbox_config": self.config });
        let reply = self.cri.call("CreateContainer", request)?;
        let id = reply["container_id"].as_str().ok_or("no container_id")?.to_owned();
        lock(&self.cri.made).push(id.clone());
        Ok(id)
    }

    /// Starts a container.
    pub fn start(&self, id: &str) -> Outcome {
        self.cri.call("StartContainer", json!({ "container_id": id }))?;
        Ok(())
    }

    /// Creates and starts one.
    pub fn run(&self, name: &str, script: &str, patch: Value) -> Outcome<String> {
        let id = self.create(name, script, patch)?;
        self.start(&id)?;
        Ok(id)
    }

    /// Creates and starts one, waits for its end with code 0 and returns what it logged: its errors come through the
    /// same stream as its output, for the order of two in a log is anybody's.
    pub fn output(&self, name: &str, script: &str, patch: Value) -> Outcome<String> {
        let id = self.run(name, &format!("exec 2>&1\n{script}"), patch)?;
        let status = self.wait_exited(&id)?;
        let log = self.log(name)?;
        ensure!(status["exit_code"].as_i64().unwrap_or(0) == 0, "{name} ended with {status}\nits log: {log}");
        Ok(log)
    }

    /// The status of a container.
    pub fn status(&self, id: &str) -> Outcome<Value> {
        Ok(self.cri.call("ContainerStatus", json!({ "container_id": id }))?["status"].clone())
    }

    /// Waits until a container has exited and its log is complete; returns its status.
    ///
    /// CRI's writer of the log is a goroutine that nobody waits for: the status is there before the last lines are.
    pub fn wait_exited(&self, id: &str) -> Outcome<Value> {
        let status = crate::eventually(LIMIT, || {
            let status = self.status(id)?;
            ensure!(status["state"] == "CONTAINER_EXITED", "the container has not exited: {status}");
            Ok(status)
        })?;
        // With its dot, and whatever the rotation has put behind it.
        let log = status["log_path"].as_str().unwrap_or_default().trim_end_matches("log");
        ensure!(!log.is_empty(), "no log: {status}");
        crate::eventually(LIMIT, || {
            let containerd = &self.cri.bed.containerd;
            let open = residue::descriptors(containerd, containerd.pid()?)?;
            ensure!(!open.iter().any(|file| file.contains(log)), "containerd still writes {log}log");
            Ok(status.clone())
        })
    }

    /// Exec sync without a time limit.
    pub fn exec(&self, id: &str, script: &str) -> Outcome<Executed> {
        let reply = self.cri.call("ExecSync", json!({ "container_id": id, "cmd": ["sh", "-c", script] }))?;
        executed(&reply)
    }

    /// The pid of a container's init on the host.
    pub fn pid(&self, id: &str) -> Outcome<u32> {
        let reply = self.cri.call("ContainerStatus", json!({ "container_id": id, "verbose": true }))?;
        pid_of(&reply)
    }

    /// The pid of the pause process.
    pub fn pause_pid(&self) -> Outcome<u32> {
        pid_of(&self.cri.call("PodSandboxStatus", json!({ "pod_sandbox_id": self.id, "verbose": true }))?)
    }

    /// The pid of the pod's shim.
    pub fn shim(&self) -> Outcome<u32> {
        self.cri.bed.containerd.host.parent(self.pause_pid()?)
    }

    /// The state of the pod: `SANDBOX_READY` or `SANDBOX_NOTREADY`.
    pub fn state(&self) -> Outcome<String> {
        let reply = self.cri.call("PodSandboxStatus", json!({ "pod_sandbox_id": self.id }))?;
        // The first of an enumeration is left out of the JSON of a message.
        Ok(reply["status"]["state"].as_str().unwrap_or("SANDBOX_READY").to_owned())
    }

    /// The file of a container's log.
    pub fn log_file(&self, name: &str) -> PathBuf {
        PathBuf::from(self.config["log_directory"].as_str().unwrap_or_default()).join(format!("{name}.log"))
    }

    /// What a container logged: the words after the stamp, the stream and the tag, parts of a long line joined.
    pub fn log(&self, name: &str) -> Outcome<String> {
        Ok(logged(&std::fs::read_to_string(self.log_file(name))?))
    }

    /// The pod's group on a controller's hierarchy, as the machine sees it.
    pub fn cgroup(&self, hierarchy: &str) -> Outcome<PathBuf> {
        let parent = self.config["linux"]["cgroup_parent"].as_str().ok_or("no cgroup_parent")?;
        let found = residue::hierarchies().into_iter().find(|path| path.ends_with(hierarchy));
        Ok(found.ok_or_else(|| format!("no hierarchy {hierarchy}"))?.join(parent.trim_start_matches('/')))
    }
}

/// The reply of ExecSync.
pub fn executed(reply: &Value) -> Outcome<Executed> {
    let text = |field: &str| -> Outcome<String> {
        Ok(String::from_utf8_lossy(&base64(reply[field].as_str().unwrap_or_default())?).into_owned())
    };
    Ok(Executed { code: reply["exit_code"].as_i64().unwrap_or(0), stdout: text("stdout")?, stderr: text("stderr")? })
}

/// The text of a log in CRI's format: `2026-11-21T05:17:07.09Z stdout F words`.
pub fn logged(log: &str) -> String {
    let mut text = String::new();
    for line in log.lines() {
        let mut fields = line.splitn(4, ' ').skip(2);
        let tag = fields.next().unwrap_or_default();
        text += fields.next().unwrap_or_default();
        if tag == "F" {
            text.push('\n');
        }
    }
    text
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

fn pid_of(reply: &Value) -> Outcome<u32> {
    let info: Value = serde_json::from_str(reply["info"]["info"].as_str().ok_or("no verbose info")?)?;
    Ok(info["pid"].as_u64().ok_or("no pid")?.try_into()?)
}

/// The bytes of a field in protobuf's JSON.
fn base64(text: &str) -> Outcome<Vec<u8>> {
    let digit = |byte: u8| match byte {
        b'A'..=b'Z' => Ok(byte - b'A'),
        b'a'..=b'z' => Ok(byte - b'a' + 26),
        b'0'..=b'9' => Ok(byte - b'0' + 52),
        b'+' => Ok(62),
        b'/' => Ok(63),
        _ => Err(format!("no base64: {text:?}")),
    };
    let mut bytes = Vec::new();
    let (mut held, mut bits) = (0u32, 0);
    for byte in text.bytes().filter(|byte| *byte != b'=') {
        held = (held << 6 | u32::from(digit(byte)?)) & 0xffff;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((held >> bits) as u8);
        }
    }
    Ok(bytes)
}
