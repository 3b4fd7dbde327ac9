//! A shim process of one's own, a client that speaks to it as containerd does, and a server that hears its events.

use std::collections::HashMap;
use std::ffi::CString;
use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use containerd_shim_protos::api;
use containerd_shim_protos::events::task as events;
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::shim_async::{Client, Events, TaskClient, create_events};
use containerd_shim_protos::ttrpc::r#async::{Server, TtrpcContext};
use containerd_shim_protos::ttrpc::{self, context};
use runtime::{reap, sys};
use rustix::io::fcntl_dupfd_cloexec;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde_json::{Value, json};

/// What was heard: `topic id` and for exits the status too.
type Heard = Arc<Mutex<Vec<String>>>;

/// As long as somebody has it locked, nothing is heard.
type Deaf = Arc<tokio::sync::Mutex<()>>;

struct Ears(Heard, Deaf);

#[async_trait]
impl Events for Ears {
    async fn forward(&self, _: &TtrpcContext, req: api::ForwardRequest) -> ttrpc::Result<api::Empty> {
        let _hearing = self.1.lock().await;
        let envelope = req.envelope.unwrap_or_default();
        let bytes = envelope.event.unwrap_or_default().value;
        let what = match envelope.topic.as_str() {
            "/tasks/exit" => {
                let e = events::TaskExit::parse_from_bytes(&bytes).unwrap();
                format!("exit {} {}", e.id, e.exit_status)
            }
            "/tasks/exec-added" => {
                format!("exec-added {}", events::TaskExecAdded::parse_from_bytes(&bytes).unwrap().exec_id)
            }
            "/tasks/exec-started" => {
                format!("exec-started {}", events::TaskExecStarted::parse_from_bytes(&bytes).unwrap().exec_id)
            }
            "/tasks/delete" => {
                let e = events::TaskDelete::parse_from_bytes(&bytes).unwrap();
                format!("delete {}", if e.id.is_empty() { e.container_id } else { e.id })
            }
            // The container's id is the first field of all the others.
            other => {
                let e = events::TaskOOM::parse_from_bytes(&bytes).unwrap_or_default();
                format!("{} {}", other.rsplit('/').next().unwrap(), e.container_id)
            }
        };
        self.0.lock().unwrap().push(what);
        Ok(api::Empty::new())
    }
}

/// Everything of one test; dropping it ends the shim.
pub struct Bed {
    pub dir: tempfile::TempDir,
    pub socket: PathBuf,
    pub task: TaskClient,
    pub client: Client,
    pub shim: u32,
    pub pidfd: std::os::fd::OwnedFd,
    heard: Heard,
    pub deaf: Deaf,
    _server: Server,
    name: String,
}

/// The bytes a process wrote, once its stream has ended.
pub type Output = std::thread::JoinHandle<Vec<u8>>;

impl Bed {
    /// `None` (and a word about it) where containers cannot be made.
    pub async fn new(name: &str) -> Option<Self> {
        Self::with_flags(name, &[]).await
    }

    /// [`Bed::new`] with more flags for the shim.
    pub async fn with_flags(name: &str, flags: &[&str]) -> Option<Self> {
        Self::under(&[], name, flags).await
    }

    /// The same below another program, which executes the shim.
    pub async fn under(program: &[&str], name: &str, flags: &[&str]) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let (heard, deaf) = (Heard::default(), Deaf::default());
        let address = dir.path().join("events.sock");
        let mut server = Server::new()
            .bind(&format!("unix://{}", address.display()))
            .unwrap()
            .register_service(create_events(Arc::new(Ears(Arc::clone(&heard), Arc::clone(&deaf)))));
        server.start().await.unwrap();

        let socket = dir.path().join("shim.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let listener = fcntl_dupfd_cloexec(listener.as_fd(), 16).unwrap();
        let log = fs::File::create(dir.path().join("log")).unwrap();
        let log = fcntl_dupfd_cloexec(log.as_fd(), 16).unwrap();
        let word = |s: &str| CString::new(s).unwrap();
        let words = [env!("CARGO_BIN_EXE_containerd-shim-mini-v2"), "-namespace", "ns", "-id", name, "-address", "/x"];
        let argv: Vec<_> = program.iter().chain(&words).chain(flags).map(|w| word(w)).collect();
        let env = [word(&format!("TTRPC_ADDRESS={}", address.display())), word("PATH=/usr/sbin:/usr/bin:/sbin:/bin")];
        // As `start` hands it over: the listener is standard input.
        let fds = [(listener.as_fd(), 0), (log.as_fd(), 2)];
        let shim = reap::born(|| sys::spawn(&argv[0], &argv, &env, None, &fds).map(|pid| (pid, pid))).unwrap();
        let pidfd = pidfd_open(Pid::from_raw(shim.cast_signed()).unwrap(), PidfdFlags::empty()).unwrap();
        let client = Client::connect(&format!("unix://{}", socket.display())).await.unwrap();
        let task = TaskClient::new(client.clone());
        let name = format!("mini-test-{}-{name}", std::process::id());
        Some(Self { dir, socket, task, client, shim, pidfd, heard, deaf, _server: server, name })
    }

    /// An id that no other test has.
    pub fn id(&self, of: &str) -> String {
        format!("{}-{of}", self.name)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A bundle whose rootfs is to be mounted by the shim: empty but for the host's /usr, read-only.
    pub fn bundle(&self, id: &str, script: &str, change: impl FnOnce(&mut Value)) -> (String, api::Mount) {
        let (bundle, root) = (self.path(id), self.path(&format!("{id}.root")));
        for dir in ["proc", "dev", "sys", "tmp", "usr"] {
            fs::create_dir_all(root.join(dir)).unwrap();
        }
        for link in ["bin", "sbin", "lib", "lib64"] {
            symlink(format!("usr/{link}"), root.join(link)).unwrap();
        }
        fs::create_dir_all(&bundle).unwrap();
        let kinds = ["pid", "ipc", "uts", "mount", "network"];
        let namespaces: Vec<_> = kinds.iter().map(|kind| json!({ "type": kind })).collect();
        let mut spec = json!({
            "ociVersion": "1.1.0",
            "root": { "path": "rootfs" },
            "hostname": "mini",
            "process": {
                "user": { "uid": 0, "gid": 0 }, "cwd": "/", "args": ["/bin/sh", "-c", script],
                "env": ["PATH=/usr/bin:/bin"], "noNewPrivileges": true,
            },
            "mounts": [
                { "destination": "/proc", "type": "proc", "source": "proc" },
                { "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=65536k"] },
                { "destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance", "ptmxmode=0666"] },
                { "destination": "/usr", "type": "bind", "source": "/usr", "options": ["rbind", "ro"] },
                { "destination": "/tmp", "type": "tmpfs", "source": "tmpfs" },
            ],
            "linux": { "namespaces": namespaces, "cgroupsPath": format!("/mini-test/{id}") },
        });
        change(&mut spec);
        fs::write(bundle.join("config.json"), spec.to_string()).unwrap();
        let mut mount = api::Mount::new();
        mount.type_ = "bind".into();
        mount.source = root.display().to_string();
        mount.options = vec!["rbind".into(), "rw".into()];
        (bundle.display().to_string(), mount)
    }

    pub fn request(&self, id: &str, script: &str, change: impl FnOnce(&mut Value)) -> api::CreateTaskRequest {
        let (bundle, mount) = self.bundle(id, script, change);
        let mut request = api::CreateTaskRequest::new();
        (request.id, request.bundle) = (id.to_owned(), bundle);
        request.rootfs = vec![mount];
        request
    }

    /// Creates a container that runs a script; its stdout.
    pub async fn create(&self, id: &str, script: &str) -> Output {
        let mut request = self.request(id, script, |_| {});
        let (path, output) = self.fifo(&format!("{id}.out"));
        request.stdout = path;
        let pid = self.task.create(limit(), &request).await.unwrap().pid;
        assert!(pid > 0);
        output
    }

    pub async fn start(&self, id: &str, exec: &str) -> ttrpc::Result<u32> {
        let mut request = api::StartRequest::new();
        (request.id, request.exec_id) = (id.to_owned(), exec.to_owned());
        self.task.start(limit(), &request).await.map(|r| r.pid)
    }

    pub async fn wait(&self, id: &str, exec: &str) -> ttrpc::Result<u32> {
        let mut request = api::WaitRequest::new();
        (request.id, request.exec_id) = (id.to_owned(), exec.to_owned());
        self.task.wait(limit(), &request).await.map(|r| r.exit_status)
    }

    pub async fn kill(&self, id: &str, exec: &str, signal: u32) -> ttrpc::Result<api::Empty> {
        let mut request = api::KillRequest::new();
        (request.id, request.exec_id, request.signal) = (id.to_owned(), exec.to_owned(), signal);
        self.task.kill(limit(), &request).await
    }

    pub async fn delete(&self, id: &str, exec: &str) -> ttrpc::Result<api::DeleteResponse> {
        let mut request = api::DeleteRequest::new();
        (request.id, request.exec_id) = (id.to_owned(), exec.to_owned());
        self.task.delete(limit(), &request).await
    }

    pub async fn state(&self, id: &str, exec: &str) -> ttrpc::Result<api::StateResponse> {
        let mut request = api::StateRequest::new();
        (request.id, request.exec_id) = (id.to_owned(), exec.to_owned());
        self.task.state(limit(), &request).await
    }

    pub async fn close_stdin(&self, id: &str, exec: &str) -> ttrpc::Result<api::Empty> {
        let mut request = api::CloseIORequest::new();
        // As a client that does not say what: stdin is meant.
        (request.id, request.exec_id) = (id.to_owned(), exec.to_owned());
        self.task.close_io(limit(), &request).await
    }

    /// Registers an exec that runs a script, but not before its stdout is read.
    pub async fn slow_exec(&self, id: &str, exec: &str, script: &str) -> PathBuf {
        let mut request = self.exec_request(id, exec, script);
        let path = self.bare_fifo(&format!("{id}.{exec}.out"));
        request.stdout = path.display().to_string();
        self.task.exec(limit(), &request).await.unwrap();
        path
    }

    /// Registers an exec that runs a script; its stdout.
    pub async fn exec(&self, id: &str, exec: &str, script: &str) -> ttrpc::Result<Output> {
        let mut request = self.exec_request(id, exec, script);
        let (path, output) = self.fifo(&format!("{id}.{exec}.out"));
        request.stdout = path;
        self.task.exec(limit(), &request).await.map(|_| output)
    }

    /// The same without streams.
    pub fn exec_request(&self, id: &str, exec: &str, script: &str) -> api::ExecProcessRequest {
        let mut request = api::ExecProcessRequest::new();
        (request.id, request.exec_id) = (id.to_owned(), exec.to_owned());
        let process = json!({ "user": { "uid": 0, "gid": 0 }, "cwd": "/", "args": ["/bin/sh", "-c", script], "env": ["PATH=/bin"] });
        let mut any = Any::new();
        any.value = process.to_string().into_bytes();
        request.spec = Some(any).into();
        request
    }

    /// A new fifo and a client that reads it to its end. Asked again for a name it makes another one: two readers of one
    /// fifo would share its bytes between them.
    pub fn fifo(&self, name: &str) -> (String, Output) {
        let made = |path: &PathBuf| make_fifo(path).is_ok();
        let tries = (0..).map(|n| if n == 0 { self.path(name) } else { self.path(&format!("{name}.{n}")) });
        let path = tries.take(100).find(made).unwrap();
        (path.display().to_string(), reader(path))
    }

    /// A new fifo that nobody opens.
    pub fn bare_fifo(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        make_fifo(&path).unwrap();
        path
    }

    /// What was heard of a container and its execs so far, the id cut off to its last part.
    pub fn heard(&self) -> Vec<String> {
        let prefix = format!("{}-", self.name);
        self.heard.lock().unwrap().iter().map(|line| line.replace(&prefix, "")).collect()
    }

    pub async fn until_heard(&self, line: &str) -> Vec<String> {
        until(|| self.heard().iter().any(|l| l == line), || format!("{line} was not heard, but {:?}", self.heard()))
            .await;
        self.heard()
    }

    pub async fn shutdown(&self) {
        self.task.shutdown(limit(), &api::ShutdownRequest::new()).await.unwrap();
    }

    /// How the shim ended.
    pub async fn ended(&self) -> i32 {
        let mut status = None;
        until(
            || {
                status = reap::exit_status(&self.pidfd).unwrap();
                status.is_some()
            },
            || "the shim runs on".into(),
        )
        .await;
        status.unwrap()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap()
    }
}

impl Drop for Bed {
    /// Also after a failure nothing stays: what the shim was killed over is undone as its `delete` would.
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of the shim ---\n{}\n--- heard: {:?}", self.log(), self.heard());
        }
        let _ = reap::signal(&self.pidfd, 9);
        for bundle in fs::read_dir(self.dir.path()).into_iter().flatten().flatten().map(|e| e.path()) {
            if let Ok(record) = runtime::Record::load(&bundle) {
                let _ = record.destroy();
            }
            let rootfs = bundle.join("rootfs");
            if is_mounted(&rootfs) {
                let _ = rustix::mount::unmount(&rootfs, rustix::mount::UnmountFlags::DETACH);
            }
        }
    }
}

fn make_fifo(path: &Path) -> rustix::io::Result<()> {
    let mode = rustix::fs::Mode::from_raw_mode(0o700);
    rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0)
}

/// A client that reads a fifo to its end.
pub fn reader(path: PathBuf) -> Output {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        fs::File::open(path).unwrap().read_to_end(&mut bytes).unwrap();
        bytes
    })
}

/// A client that opens a fifo, writes to it and closes it; answers when that is done.
pub fn writer(path: PathBuf, bytes: &'static [u8]) -> tokio::sync::oneshot::Receiver<()> {
    let (done, written) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        fs::File::options().write(true).open(path).unwrap().write_all(bytes).unwrap();
        let _ = done.send(());
    });
    written
}

pub async fn until(mut fulfilled: impl FnMut() -> bool, complaint: impl FnOnce() -> String) {
    let started = Instant::now();
    while !fulfilled() {
        if started.elapsed() > Duration::from_secs(20) {
            panic!("{}", complaint());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Every call has a limit.
pub fn limit() -> context::Context {
    context::with_duration(Duration::from_secs(30))
}

pub fn code(error: ttrpc::Error) -> (ttrpc::Code, String) {
    match error {
        ttrpc::Error::RpcStatus(status) => (status.code(), status.message),
        other => panic!("{other}"),
    }
}

/// True while something is mounted there.
pub fn is_mounted(path: &Path) -> bool {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap();
    text.lines().any(|l| l.split(' ').nth(4) == path.to_str())
}

/// A raw request, to name another service than the generated client does.
pub async fn raw<T: Message, R: Message>(
    client: &Client,
    service: &str,
    method: &str,
    message: &T,
) -> ttrpc::Result<R> {
    let mut request = ttrpc::Request::new();
    request.service = service.into();
    request.method = method.into();
    request.timeout_nano = 30_000_000_000;
    request.metadata = context::to_pb(HashMap::new());
    request.payload = message.write_to_bytes().unwrap();
    let response = client.request(request).await?;
    Ok(R::parse_from_bytes(&response.payload).unwrap())
}
