//! Protobuf ↔ our words.
#![forbid(unsafe_code)]

use std::time::{SystemTime, UNIX_EPOCH};

use containerd_shim_protos::events::task as event;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::well_known_types::timestamp::Timestamp;
use containerd_shim_protos::protobuf::{Message, MessageField};
use containerd_shim_protos::shim::oci::ProcessDetails;
use containerd_shim_protos::types::task::{ProcessInfo, Status as WireStatus};
use containerd_shim_protos::{api, ttrpc};
use runtime::lifecycle::{Class, Event as Named, Exit, Refusal, Status};
use runtime::spec::{Process, Resources, check, from_json};

use crate::events::Event;
use crate::options::Options;
use crate::stdio::Paths;
use crate::task::{Create, State};

/// A refusal as the code that clients branch on.
pub fn status(refusal: Refusal) -> ttrpc::Error {
    let code = match refusal.class {
        Class::NotFound => ttrpc::Code::NOT_FOUND,
        Class::AlreadyExists => ttrpc::Code::ALREADY_EXISTS,
        Class::FailedPrecondition => ttrpc::Code::FAILED_PRECONDITION,
        Class::InvalidArgument => ttrpc::Code::INVALID_ARGUMENT,
        Class::Unimplemented => ttrpc::Code::UNIMPLEMENTED,
        Class::Unknown => ttrpc::Code::UNKNOWN,
    };
    ttrpc::Error::RpcStatus(ttrpc::get_status(code, refusal.text))
}

/// What a shim says that has been told to end. Clients may try again, with another shim.
pub fn shutting_down() -> ttrpc::Error {
    let text = "the shim is shutting down: unavailable".to_owned();
    ttrpc::Error::RpcStatus(ttrpc::get_status(ttrpc::Code::UNAVAILABLE, text))
}

/// Seconds and nanoseconds since 1970. A clock before that year gives zero.
pub fn timestamp(at: SystemTime) -> MessageField<Timestamp> {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    MessageField::some(Timestamp {
        seconds: since.as_secs().cast_signed(),
        nanos: since.subsec_nanos().cast_signed(),
        ..Timestamp::default()
    })
}

/// When a process ended: without an end Go's zero time, the first of January of the year 1 in UTC (time.Time.IsZero), as containerd's own
/// shim sends it. A time that is left out is the year 1970 to a client, and so an end.
pub fn exited_at(exit: Option<Exit>) -> MessageField<Timestamp> {
    let never = Timestamp { seconds: -62_135_596_800, ..Timestamp::default() };
    exit.map_or_else(|| MessageField::some(never), |exit| timestamp(exit.at))
}

/// A Create request without its id's checks, which are the service's, and with its options, which may have to be waited for.
pub fn create(request: api::CreateTaskRequest, options: Options) -> Create {
    Create {
        id: request.id,
        bundle: request.bundle.into(),
        rootfs: request.rootfs,
        paths: Paths {
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
            terminal: request.terminal,
        },
        options,
        cancel: Default::default(),
    }
}

/// The process of an Exec request. Its type URL differs between clients, so only the JSON counts.
pub fn process(any: Option<&Any>, terminal: bool) -> Result<Process, Refusal> {
    let json = any.map(|a| a.value.as_slice()).unwrap_or_default();
    let mut process: Process = from_json(json).map_err(|e| invalid("exec process", &e))?;
    process.terminal = terminal;
    check::process(&process).map_err(|e| invalid("exec process", &e))?;
    Ok(process)
}

/// The limits of an Update request.
pub fn resources(any: Option<&Any>) -> Result<Resources, Refusal> {
    let json = any.map(|a| a.value.as_slice()).unwrap_or_default();
    let resources = from_json(json).map_err(|e| invalid("resources", &e))?;
    check::resources(&resources).map_err(|e| invalid("resources", &e))?;
    Ok(resources)
}

fn invalid(what: &str, error: &runtime::Error) -> Refusal {
    Refusal::new(Class::InvalidArgument, format!("{what}: {error}"))
}

/// What State answers.
pub fn state(id: &str, exec_id: &str, state: State) -> api::StateResponse {
    let mut answer = api::StateResponse::new();
    // Execs are named here, not in exec_id; clients know it so.
    answer.id = if exec_id.is_empty() { id.to_owned() } else { exec_id.to_owned() };
    answer.bundle = state.bundle;
    answer.pid = state.pid;
    let status = match state.status {
        Status::Created => WireStatus::CREATED,
        Status::Running => WireStatus::RUNNING,
        Status::Stopped => WireStatus::STOPPED,
        Status::Paused => WireStatus::PAUSED,
        Status::Pausing => WireStatus::PAUSING,
    };
    answer.status = status.into();
    answer.stdin = state.paths.stdin;
    answer.stdout = state.paths.stdout;
    answer.stderr = state.paths.stderr;
    answer.terminal = state.paths.terminal;
    answer.exit_status = state.exit.map_or(0, |exit| exit.status);
    answer.exited_at = exited_at(state.exit);
    answer
}

/// What Pids answers: execs are marked with their ids.
pub fn pids(pids: Vec<(u32, Option<String>)>) -> api::PidsResponse {
    let info = |exec_id: String| {
        let details = ProcessDetails { exec_id, ..ProcessDetails::default() };
        let value = details.write_to_bytes().unwrap_or_default();
        Any { type_url: "containerd.runc.v1.ProcessDetails".to_owned(), value, ..Any::default() }
    };
    let process =
        |(pid, exec): (u32, Option<String>)| ProcessInfo { pid, info: exec.map(info).into(), ..ProcessInfo::default() };
    api::PidsResponse { processes: pids.into_iter().map(process).collect(), ..Default::default() }
}

/// What an event says beside its name.
pub struct Told<'a> {
    /// The container.
    pub id: &'a str,
    /// How it was created.
    pub create: &'a Create,
    /// pid of the process that the event is about, as it was told at its start.
    pub pid: u32,
}

/// An event of the lifecycle as containerd's message.
pub fn event(named: Named, told: &Told<'_>) -> Event {
    let container_id = told.id.to_owned();
    let pid = told.pid;
    match named {
        Named::Create => Event::Create(event::TaskCreate {
            container_id,
            bundle: told.create.bundle.display().to_string(),
            rootfs: told.create.rootfs.clone(),
            io: MessageField::some(event::TaskIO {
                stdin: told.create.paths.stdin.clone(),
                stdout: told.create.paths.stdout.clone(),
                stderr: told.create.paths.stderr.clone(),
                terminal: told.create.paths.terminal,
                ..Default::default()
            }),
            pid,
            ..Default::default()
        }),
        Named::Start => Event::Start(event::TaskStart { container_id, pid, ..Default::default() }),
        Named::ExecAdded(exec_id) => {
            Event::ExecAdded(event::TaskExecAdded { container_id, exec_id, ..Default::default() })
        }
        Named::ExecStarted(exec_id) => {
            Event::ExecStarted(event::TaskExecStarted { container_id, exec_id, pid, ..Default::default() })
        }
        Named::Exit(who, Exit { status, at }) => Event::Exit(event::TaskExit {
            // The CRI takes "id is the container's" for init.
            id: who.unwrap_or_else(|| container_id.clone()),
            container_id,
            pid,
            exit_status: status,
            exited_at: timestamp(at),
            ..Default::default()
        }),
        Named::Delete(who, Exit { status, at }) => Event::Delete(event::TaskDelete {
            container_id,
            pid,
            exit_status: status,
            exited_at: timestamp(at),
            id: who.unwrap_or_default(),
            ..Default::default()
        }),
        Named::Paused => Event::Paused(event::TaskPaused { container_id, ..Default::default() }),
        Named::Resumed => Event::Resumed(event::TaskResumed { container_id, ..Default::default() }),
        Named::Oom => Event::Oom(event::TaskOOM { container_id, ..Default::default() }),
    }
}
