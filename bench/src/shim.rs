//! A shim binary, spoken to as containerd speaks to it.

use containerd_shim_protos::api;
use protobuf::MessageField;
use protobuf::well_known_types::any::Any;
use serde_json::Value;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::Outcome;
use crate::bundle::Bundle;
use crate::group::Group;
use crate::wire::{Call, Connection};

/// A shim with the runtime it executes.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its name in tables.
    pub name: &'static str,
    /// The shim's binary.
    pub binary: PathBuf,
    /// The runtime it shall execute; none for mini.
    pub runtime: Option<PathBuf>,
}

/// A running shim.
pub struct Shim<'a> {
    peer: &'a Peer,
    connection: Connection,
    service: &'static str,
}

/// The containerd namespace of all containers here.
pub const NAMESPACE: &str = "bench";

impl Peer {
    /// runc's options (containerd.runc.v1.Options) with nothing but `binary_name`, field 6.
    fn options(&self) -> Option<Any> {
        let name = self.runtime.as_ref()?.display().to_string();
        let mut value = vec![6 << 3 | 2, u8::try_from(name.len()).ok()?];
        value.extend(name.as_bytes());
        Some(Any { type_url: "containerd.runc.v1.Options".into(), value, ..Any::default() })
    }

    /// The command of an action, as containerd 2.1 calls it.
    pub fn command(&self, id: &str, bundle: &Path, events: &Path) -> Command {
        let mut command = Command::new(&self.binary);
        let address = "/run/containerd/containerd.sock";
        command.args(["-namespace", NAMESPACE, "-address", address, "-publish-binary", "/bin/false", "-id", id]);
        command.current_dir(bundle).env_clear();
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("GOMAXPROCS", "2").env("MAX_SHIM_VERSION", "3");
        command.env("TTRPC_ADDRESS", events).env("GRPC_ADDRESS", address).env("NAMESPACE", NAMESPACE);
        command
    }

    /// `start`: the shim for a bundle, new or that of the pod.
    pub fn start(&self, id: &str, bundle: &Bundle, group: &Group, events: &Path) -> Outcome<Shim<'_>> {
        let mut command = self.command(id, &bundle.dir, events);
        command.arg("start");
        let answer = String::from_utf8(group.within(|| call(command, self.options()))?)?;
        let (address, service) = match serde_json::from_str::<Value>(&answer) {
            Ok(json) => {
                let service = if json["version"] == 3 { "containerd.task.v3.Task" } else { "containerd.task.v2.Task" };
                (json["address"].as_str().unwrap_or_default().to_owned(), service)
            }
            Err(_) => (answer, "containerd.task.v2.Task"),
        };
        Ok(Shim { peer: self, connection: Connection::open(address.trim())?, service })
    }

    /// `delete`, which containerd executes after every shim's end.
    pub fn delete(&self, id: &str, bundle: &Bundle, group: &Group, events: &Path) -> Outcome {
        let mut command = self.command(id, &bundle.dir, events);
        command.arg("-bundle").arg(&bundle.dir).arg("delete");
        group.within(|| call(command, None)).map(drop)
    }
}

/// Runs an action to its end; its standard output.
fn call(mut command: Command, input: Option<Any>) -> Outcome<Vec<u8>> {
    use protobuf::Message;
    let words = format!("{command:?}");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    if let (Some(any), Some(mut stdin)) = (input, child.stdin.take()) {
        stdin.write_all(&any.write_to_bytes()?)?;
    }
    drop(child.stdin.take());
    let output = child.wait_with_output()?;
    if !output.status.success() {
        return Err(format!("{words}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(output.stdout)
}

impl Shim<'_> {
    fn call<R: protobuf::Message>(&mut self, method: &str, message: &impl protobuf::Message) -> Outcome<R> {
        let answer = self.connection.call(self.service, method, message);
        answer.map_err(|error| format!("{} {method}: {error}", self.peer.name).into())
    }

    /// Create, with the root file system as an overlay mount. Streams are fifos or empty.
    pub fn create(&mut self, id: &str, bundle: &Bundle, streams: [&str; 3]) -> Outcome<u32> {
        let mut request = api::CreateTaskRequest::new();
        (request.id, request.bundle) = (id.to_owned(), bundle.dir.display().to_string());
        [request.stdin, request.stdout, request.stderr] = streams.map(str::to_owned);
        let mut mount = api::Mount::new();
        (mount.type_, mount.source, mount.options) = ("overlay".into(), "overlay".into(), bundle.overlay());
        request.rootfs = vec![mount];
        request.options = self.peer.options().map_or_else(MessageField::none, MessageField::some);
        Ok(self.call::<api::CreateTaskResponse>("Create", &request)?.pid)
    }

    /// Exec: registers a process.
    pub fn exec(&mut self, id: &str, exec: &str, process: &Value) -> Outcome {
        let mut request = api::ExecProcessRequest::new();
        (request.id, request.exec_id) = (id.to_owned(), exec.to_owned());
        let type_url = "types.containerd.io/opencontainers/runtime-spec/1/Process".into();
        let any = Any { type_url, value: process.to_string().into_bytes(), ..Any::default() };
        request.spec = MessageField::some(any);
        self.call::<api::Empty>("Exec", &request).map(drop)
    }

    /// Start of the container or of an exec.
    pub fn start(&mut self, id: &str, exec: &str) -> Outcome<u32> {
        let mut request = api::StartRequest::new();
        (request.id, request.exec_id) = (id.to_owned(), exec.to_owned());
        Ok(self.call::<api::StartResponse>("Start", &request)?.pid)
    }

    /// Asks for the end, without waiting.
    pub fn wait(&mut self, id: &str, exec: &str) -> Outcome<Call> {
        let mut request = api::WaitRequest::new();
        (request.id, request.exec_id) = (id.to_owned(), exec.to_owned());
        self.connection.send(self.service, "Wait", &request)
    }

    /// The answer to [`Shim::wait`], which must be exit code 0.
    pub fn ended(&mut self, call: Call) -> Outcome {
        let status = self.status(call)?;
        if status != 0 {
            return Err(format!("{}: exit status {status}", self.peer.name).into());
        }
        Ok(())
    }

    /// The answer to [`Shim::wait`].
    pub fn status(&mut self, call: Call) -> Outcome<u32> {
        Ok(self.connection.answer::<api::WaitResponse>(call)?.exit_status)
    }

    /// Kill.
    pub fn kill(&mut self, id: &str) -> Outcome {
        let mut request = api::KillRequest::new();
        (request.id, request.signal) = (id.to_owned(), 9);
        self.call::<api::Empty>("Kill", &request).map(drop)
    }

    /// CloseIO: no more of the container's stdin.
    pub fn close_stdin(&mut self, id: &str) -> Outcome {
        let mut request = api::CloseIORequest::new();
        (request.id, request.stdin) = (id.to_owned(), true);
        self.call::<api::Empty>("CloseIO", &request).map(drop)
    }

    /// Delete of the container or of an exec.
    pub fn delete(&mut self, id: &str, exec: &str) -> Outcome {
        let mut request = api::DeleteRequest::new();
        (request.id, request.exec_id) = (id.to_owned(), exec.to_owned());
        self.call::<api::DeleteResponse>("Delete", &request).map(drop)
    }

    /// Shutdown, after which the shim ends.
    pub fn shutdown(&mut self, id: &str) -> Outcome {
        let mut request = api::ShutdownRequest::new();
        request.id = id.to_owned();
        match self.connection.call::<api::Empty>(self.service, "Shutdown", &request) {
            // Go's shim may be gone before it has answered.
            Err(error) if error.downcast_ref::<std::io::Error>().is_none() => Err(error),
            _ => Ok(()),
        }
    }

    /// A question that only has the id: State, Pids, Stats.
    pub fn ask(&mut self, method: &str, id: &str) -> Outcome {
        let mut request = api::StateRequest::new();
        // The id is the first field of all three requests; the answer is not looked into.
        request.id = id.to_owned();
        self.call::<api::Empty>(method, &request).map(drop)
    }

    /// A container from Create to running, killed and deleted by [`Shim::end`].
    pub fn run(&mut self, id: &str, bundle: &Bundle) -> Outcome<u32> {
        let pid = self.create(id, bundle, ["", "", ""])?;
        self.start(id, "")?;
        Ok(pid)
    }

    /// Kill, exit, Delete.
    pub fn end(&mut self, id: &str) -> Outcome {
        let exit = self.wait(id, "")?;
        self.kill(id)?;
        self.status(exit)?;
        self.delete(id, "")
    }
}
