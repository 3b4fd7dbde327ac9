//! The commands. Each is a few calls of the library; what they print and answer is what runc prints and answers.
#![forbid(unsafe_code)]

mod args;
mod console;
mod container;
mod events;
mod exec;
mod foreground;
mod list;
mod log;
mod store;
mod template;
mod update;
mod words;

use std::io::Write;

use clap::{CommandFactory, Parser};
use runtime::container::start;
use runtime::plan::compile;
use runtime::spec::Spec;
use runtime::{Error, Host, Kind, Result, version};

use args::{Command, Global, Mini};
use log::Log;
use store::Store;

/// What every command may need.
struct Context<'a> {
    store: Store,
    log: &'a Log,
    systemd_cgroup: bool,
}

/// Parses the command line and carries it out.
pub fn main() -> u8 {
    // Sealing executes us again: not after a parse that would have to be repeated.
    let mut ready = std::env::args_os().any(|word| ["create", "run", "exec"].iter().any(|command| word == *command));
    if ready && let Err(e) = before_processes() {
        Log::stderr().error(&e.to_string());
        // As below, as far as it is known here.
        return if std::env::args_os().any(|word| word == "exec") { 255 } else { 1 };
    }
    let mini = match Mini::try_parse() {
        Ok(mini) => mini,
        Err(e) => {
            // Help is no failure, and a closed standard error cannot be told of.
            let _ = e.print();
            return u8::from(e.use_stderr());
        }
    };
    if mini.version {
        let spec = runtime::features::OCI_VERSION_MAX;
        println!("mini version {}\ncommit: {}\nspec: {spec}", version::VERSION, version::COMMIT);
        return 0;
    }
    let Some(command) = mini.command else {
        let _ = Mini::command().print_help();
        return 1;
    };
    // 255 tells the client that it was us and not the payload of the exec.
    let failure = if matches!(command, Command::Exec(_)) { 255 } else { 1 };
    // Whatever name the parser knows a command by: none that makes processes goes on unsealed.
    ready |= !matches!(command, Command::Create(_) | Command::Run(_) | Command::Exec(_));
    if !ready && let Err(e) = before_processes() {
        Log::stderr().error(&e.to_string());
        return failure;
    }
    // Before anything is opened: a number that is free now could be ours in a moment.
    let preserved = preserved(&command);
    let opened = Log::open(mini.global.log.as_deref(), mini.global.log_format, mini.global.debug);
    let (log, opened) = match opened {
        Ok(log) => (log, Ok(())),
        Err(e) => (Log::stderr(), Err(e)),
    };
    let done = opened.and(preserved).and_then(|()| run(&Context::new(&mini.global, &log)?, &command));
    match done {
        Ok(code) => code,
        Err(e) => {
            log.error(&e.to_string());
            failure
        }
    }
}

/// What is done before a process of a container is made.
fn before_processes() -> Result<()> {
    runtime::exe::seal()?;
    // Inherited by every child until its execve: a process of the container may not trace it or look into its descriptors
    // (CVE-2016-9962). Refusal is not known to happen, and would leave us as we were.
    let _kept = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
    Ok(())
}

impl<'a> Context<'a> {
    fn new(global: &Global, log: &'a Log) -> Result<Self> {
        if !["auto", "false"].contains(&global.rootless.as_str()) {
            return Err(Error::new(Kind::Unsupported, "", "", "rootless mode is not implemented"));
        }
        Ok(Self { store: Store::new(&global.root)?, log, systemd_cgroup: global.systemd_cgroup })
    }
}

/// The exit code of a command: 0, or that of the process it waited for.
fn run(context: &Context<'_>, command: &Command) -> Result<u8> {
    match command {
        Command::Plan(args) => plan(args)?,
        Command::Features => print(&format!("{:#}\n", runtime::features::features(&Host::read()?)))?,
        Command::Spec(args) => template::write(args)?,
        Command::Create(args) => container::create(context, args)?,
        Command::Start(args) => container::start(context, &args.id)?,
        Command::Run(args) => return container::run(context, args),
        Command::Exec(args) => return exec::exec(context, args),
        Command::Kill(args) => container::kill(context, args)?,
        Command::Delete(args) => container::delete(context, args)?,
        Command::State(args) => list::state(context, &args.id)?,
        Command::List(args) => list::list(context, args)?,
        Command::Events(args) => events::events(context, args)?,
        Command::Ps(args) => list::ps(context, args)?,
        Command::Pause(args) => container::pause(context, &args.id)?,
        Command::Resume(args) => container::resume(context, &args.id)?,
        Command::Update(args) => update::update(context, args)?,
    }
    Ok(0)
}

/// `plan`: needs no privileges and does nothing. The container is taken to be called `mini`.
fn plan(args: &args::Plan) -> Result<()> {
    let bundle = store::bundle(&args.bundle)?;
    let spec = Spec::load(&bundle)?;
    let host = Host::read()?;
    let id = "mini";
    let layout = host.cgroup.asked(spec.linux.resources.network.as_ref());
    let record = layout.place(&spec.linux.cgroups_path, id)?;
    let tasks: Vec<String> = record.v1.iter().map(|p| p.dir().join("tasks").display().to_string()).collect();
    let visible = start::visible_kernel_mounts()?;
    let plan = compile::init(&compile::Init {
        spec: &spec,
        host: &host,
        id,
        bundle: &bundle,
        groups: &runtime::container::groups(&record),
        tasks: &tasks,
        stdio: [true; 3],
        no_pivot: args.no_pivot.then_some(&visible),
        no_new_keyring: args.no_new_keyring,
        preserve_fds: 0,
        started_by_others: false,
    })?;
    print(&plan.to_string())
}

/// Standard output that may be closed: `mini list | head -1` is no error worth a panic.
fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|e| Error::io("write", "stdout", &e))
}

/// Descriptors to be preserved must be there.
fn preserved(command: &Command) -> Result<()> {
    let n = match command {
        Command::Create(args) => container::preserved(args),
        Command::Run(args) => container::preserved(&args.create),
        Command::Exec(args) => args.preserve_fds,
        _ => 0,
    };
    for fd in (3..).take(n as usize) {
        if std::fs::symlink_metadata(format!("/proc/self/fd/{fd}")).is_err() {
            let why = format!("unable to stat preserved-fd {} (of {n})", fd - 3);
            return Err(Error::new(Kind::Invalid, "", "", why));
        }
    }
    Ok(())
}
