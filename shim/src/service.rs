//! The Task service: decode, ask the container's owner, encode. No policy.
//!
//! A handler only awaits an answer. When its client hangs up, ttrpc drops the handler, and nothing else stops: what was
//! asked for is done by owners and workers, to its end.
#![forbid(unsafe_code)]

mod accept;
mod serve;

use std::collections::HashMap;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use containerd_shim_protos::api;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::shim_async::{Task as TaskApi, create_task};
use containerd_shim_protos::ttrpc;
use containerd_shim_protos::ttrpc::r#async::TtrpcContext;
use runtime::lifecycle::{Class, Refusal, Who};
use tokio::time::timeout;

use crate::options::{self, Given, Options};
use crate::stdio::Paths;
use crate::task::{Answer, Reply, Request, Shim, Task};
use crate::{convert, worker};
use serve::Leave;
pub use serve::{Args, serve, signals};

/// The two names under which containerd knows the same messages: 1.6 and 1.7, and any that got a plain address as the
/// reply to `start`, call v2; 2.x calls v3.
const V2: &str = "containerd.task.v2.Task";
const V3: &str = "containerd.task.v3.Task";
/// Not built. Registered without methods, since for an unknown *service* ttrpc answers InvalidArgument where callers look
/// for Unimplemented.
const SANDBOX: &str = "containerd.runtime.sandbox.v1.Sandbox";

/// The one implementation behind both names.
pub struct Service {
    shim: Arc<Shim>,
    leave: Arc<Leave>,
}

/// All services of a shim, by name.
fn services(shim: &Arc<Shim>, leave: &Arc<Leave>) -> HashMap<String, ttrpc::r#async::Service> {
    let service = Arc::new(Service { shim: Arc::clone(shim), leave: Arc::clone(leave) });
    let mut all = HashMap::new();
    for name in [V2, V3] {
        let methods = create_task(Arc::clone(&service) as Arc<dyn TaskApi + Send + Sync>);
        all.extend(methods.into_values().map(|methods| (name.to_owned(), methods)));
    }
    let nothing = ttrpc::r#async::Service { methods: HashMap::new(), streams: HashMap::new() };
    all.insert(SANDBOX.to_owned(), nothing);
    all
}

fn who(exec_id: String) -> Who {
    (!exec_id.is_empty()).then_some(exec_id)
}

fn done(answer: Answer) -> ttrpc::Result<api::Empty> {
    answer.map(|_| api::Empty::new()).map_err(convert::status)
}

fn not_implemented(what: &str) -> ttrpc::Error {
    convert::status(Refusal::new(Class::Unimplemented, format!("{what} is not implemented: not implemented")))
}

/// How long State waits for a container that is being made. containerd gives it two seconds, and asks one container after another.
const MAKING: Duration = Duration::from_secs(1);

/// How long Delete does, and what it says then.
const DOOMED: Duration = Duration::from_secs(3);
const STILL_MADE: &str = "the container is still being created, and deleted when that is over: failed precondition";

/// A container that is deleted while it is being made is undone when it is made. But a containerd that starts asks this with no
/// limit of its own, and serves nobody until it has the answer: the work may hang (a hook), the answer may not. No NotFound,
/// by which containerd would take the bundle away.
async fn doom(task: &Task, asked: impl Future<Output = Answer>) -> Answer {
    let mut asked = pin!(asked);
    match timeout(DOOMED, &mut asked).await {
        Ok(answer) => answer,
        Err(_) if task.is_being_made() => Err(Refusal::new(Class::FailedPrecondition, STILL_MADE)),
        Err(_) => asked.await,
    }
}

/// How long a file with options may take. What becomes of it later is nothing that a client still asks for.
const READING: Duration = Duration::from_secs(5);

/// Options in a file are read by a worker: it may be on a file system that hangs.
async fn runtime_options(any: Option<&Any>) -> Result<Options, Refusal> {
    let invalid = |text| Refusal::new(Class::InvalidArgument, text);
    let path = match options::given(any).map_err(invalid)? {
        Given::Said(options) => return Ok(options),
        Given::InFile(path) => path,
    };
    let slow = format!("runtime options: read {path:?}: nothing after {} s", READING.as_secs());
    match timeout(READING, worker::run(c"options", move || options::read(&path))).await {
        Ok(Ok(read)) => read.map_err(invalid),
        Ok(Err(error)) => Err(Refusal::unknown(format!("no thread to work on: {error}"))),
        Err(_) => Err(Refusal::unknown(slow)),
    }
}

/// Ids become names of files and groups.
fn check_id(id: &str) -> Result<(), Refusal> {
    let wrong = |e: runtime::Error| Refusal::new(Class::InvalidArgument, format!("{e}: invalid argument"));
    runtime::spec::check::id(id).map_err(wrong)
}

impl Service {
    async fn ask(&self, id: &str, request: Request) -> Answer {
        self.shim.task(id)?.ask(request).await
    }
}

#[async_trait]
impl TaskApi for Service {
    async fn state(&self, _: &TtrpcContext, req: api::StateRequest) -> ttrpc::Result<api::StateResponse> {
        let task = self.shim.task(&req.id).map_err(convert::status)?;
        // A client that asks before it calls CloseIO asks once.
        if task.is_being_made()
            && let Ok(made) = timeout(MAKING, task.made()).await
        {
            made.map_err(convert::status)?;
        }
        let state = task.state(&who(req.exec_id.clone())).map_err(convert::status)?;
        Ok(convert::state(&req.id, &req.exec_id, state))
    }

    async fn create(&self, _: &TtrpcContext, req: api::CreateTaskRequest) -> ttrpc::Result<api::CreateTaskResponse> {
        if !req.checkpoint.is_empty() {
            return Err(not_implemented("create from a checkpoint"));
        }
        self.leave.somebody_is_here();
        check_id(&req.id).map_err(convert::status)?;
        let options = runtime_options(req.options.as_ref()).await.map_err(convert::status)?;
        // Whoever has asked it to end was told that it would: it would leave the container behind.
        if self.leave.is_leaving() {
            return Err(convert::shutting_down());
        }
        let create = convert::create(req, options);
        let mut response = api::CreateTaskResponse::new();
        if let Reply::Pid(pid) = self.shim.create(create).await.map_err(convert::status)? {
            response.pid = pid;
        }
        Ok(response)
    }

    async fn start(&self, _: &TtrpcContext, req: api::StartRequest) -> ttrpc::Result<api::StartResponse> {
        let answer = self.ask(&req.id, Request::Start(who(req.exec_id))).await;
        let mut response = api::StartResponse::new();
        if let Reply::Pid(pid) = answer.map_err(convert::status)? {
            response.pid = pid;
        }
        Ok(response)
    }

    async fn delete(&self, _: &TtrpcContext, req: api::DeleteRequest) -> ttrpc::Result<api::DeleteResponse> {
        let task = self.shim.task(&req.id).map_err(convert::status)?;
        let (asked, for_exec) = (task.ask(Request::Delete(who(req.exec_id.clone()))), !req.exec_id.is_empty());
        let answer = if for_exec || !task.is_being_made() { asked.await } else { doom(&task, asked).await };
        let mut response = api::DeleteResponse::new();
        if let Reply::Deleted { pid, exit } = answer.map_err(convert::status)? {
            response.pid = pid;
            response.exit_status = exit.map_or(0, |exit| exit.status);
            response.exited_at = convert::exited_at(exit);
        }
        Ok(response)
    }

    async fn pids(&self, _: &TtrpcContext, req: api::PidsRequest) -> ttrpc::Result<api::PidsResponse> {
        let task = self.shim.task(&req.id).map_err(convert::status)?;
        task.pids().await.map(convert::pids).map_err(convert::status)
    }

    async fn pause(&self, _: &TtrpcContext, req: api::PauseRequest) -> ttrpc::Result<api::Empty> {
        done(self.ask(&req.id, Request::Pause).await)
    }

    async fn resume(&self, _: &TtrpcContext, req: api::ResumeRequest) -> ttrpc::Result<api::Empty> {
        done(self.ask(&req.id, Request::Resume).await)
    }

    async fn checkpoint(&self, _: &TtrpcContext, _: api::CheckpointTaskRequest) -> ttrpc::Result<api::Empty> {
        Err(not_implemented("checkpoint"))
    }

    /// SIGKILL always means the whole container, and other signals are for its init (as in runc since 1.2): with `all` it is no error that
    /// this has ended.
    async fn kill(&self, _: &TtrpcContext, req: api::KillRequest) -> ttrpc::Result<api::Empty> {
        let request = Request::Kill { who: who(req.exec_id), signal: req.signal.cast_signed() };
        let for_all = req.all && matches!(request, Request::Kill { who: None, .. });
        match self.ask(&req.id, request).await {
            Err(refusal) if for_all && refusal == Refusal::finished() => Ok(api::Empty::new()),
            answer => done(answer),
        }
    }

    async fn exec(&self, _: &TtrpcContext, req: api::ExecProcessRequest) -> ttrpc::Result<api::Empty> {
        check_id(&req.exec_id).map_err(convert::status)?;
        // Before the process is looked at: a missing container is NotFound whatever it was to run.
        let task = self.shim.task(&req.id).map_err(convert::status)?;
        let process = convert::process(req.spec.as_ref(), req.terminal).map_err(convert::status)?;
        let paths = Paths { stdin: req.stdin, stdout: req.stdout, stderr: req.stderr, terminal: req.terminal };
        done(task.ask(Request::Exec { id: req.exec_id, process: Box::new(process), paths }).await)
    }

    async fn resize_pty(&self, _: &TtrpcContext, req: api::ResizePtyRequest) -> ttrpc::Result<api::Empty> {
        let size = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
        let request = Request::Resize { who: who(req.exec_id), width: size(req.width), height: size(req.height) };
        done(self.ask(&req.id, request).await)
    }

    /// Whatever its field says, as with containerd's own shim: there is nothing else to close.
    async fn close_io(&self, _: &TtrpcContext, req: api::CloseIORequest) -> ttrpc::Result<api::Empty> {
        let task = self.shim.task(&req.id).map_err(convert::status)?;
        let who = who(req.exec_id);
        done(task.ask(Request::CloseStdin(who)).await)
    }

    /// Annotations say nothing about limits and are not ours to keep.
    async fn update(&self, _: &TtrpcContext, req: api::UpdateTaskRequest) -> ttrpc::Result<api::Empty> {
        let task = self.shim.task(&req.id).map_err(convert::status)?;
        let resources = convert::resources(req.resources.as_ref()).map_err(convert::status)?;
        done(task.ask(Request::Update(Box::new(resources))).await)
    }

    async fn wait(&self, _: &TtrpcContext, req: api::WaitRequest) -> ttrpc::Result<api::WaitResponse> {
        let task = self.shim.task(&req.id).map_err(convert::status)?;
        let exit = task.wait(&who(req.exec_id)).await.map_err(convert::status)?;
        let mut response = api::WaitResponse::new();
        response.exit_status = exit.status;
        response.exited_at = convert::timestamp(exit.at);
        Ok(response)
    }

    async fn stats(&self, _: &TtrpcContext, req: api::StatsRequest) -> ttrpc::Result<api::StatsResponse> {
        let task = self.shim.task(&req.id).map_err(convert::status)?;
        let stats = task.stats().await.map_err(convert::status)?;
        let packed = crate::metrics::pack(&stats).map_err(|e| convert::status(Refusal::unknown(e)))?;
        let mut response = api::StatsResponse::new();
        response.set_stats(packed);
        Ok(response)
    }

    /// Works for ids it does not know: containerd asks before it has decided what is here.
    async fn connect(&self, _: &TtrpcContext, req: api::ConnectRequest) -> ttrpc::Result<api::ConnectResponse> {
        let mut response = api::ConnectResponse::new();
        response.shim_pid = std::process::id();
        response.task_pid = self.shim.task(&req.id).ok().and_then(|task| task.pid()).unwrap_or(0);
        Ok(response)
    }

    /// `now` changes nothing, here as in containerd's own shim: containers are never left behind.
    async fn shutdown(&self, _: &TtrpcContext, _: api::ShutdownRequest) -> ttrpc::Result<api::Empty> {
        if self.shim.is_empty() {
            self.leave.leave();
        }
        Ok(api::Empty::new())
    }
}
