//! The command line: runc's options under runc's names, so that whoever can drive runc can drive us.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// An OCI runtime, the one inside containerd-shim-mini-v2, on the command line.
#[derive(Debug, Parser)]
#[command(name = "mini", disable_version_flag = true, arg_required_else_help = true)]
pub struct Mini {
    #[command(flatten)]
    pub global: Global,
    /// Print the version and exit.
    #[arg(short = 'v', long)]
    pub version: bool,
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// Options that come before the command.
#[derive(Debug, Args)]
pub struct Global {
    /// Directory for the state of containers; should be on a tmpfs.
    #[arg(long, default_value = "/run/mini", value_name = "DIR")]
    pub root: PathBuf,
    /// File to append the log to, instead of standard error.
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// How log lines are written.
    #[arg(long, value_enum, default_value_t = Format::Text, value_name = "FORMAT")]
    pub log_format: Format,
    /// Log what is done, too.
    #[arg(long)]
    pub debug: bool,
    /// Let systemd make the cgroup; linux.cgroupsPath is "slice:prefix:name" then.
    #[arg(long)]
    pub systemd_cgroup: bool,
    /// Run without root. Only `auto` and `false` are known: rootless mode is not implemented.
    #[arg(long, default_value = "auto", value_name = "WHETHER")]
    pub rootless: String,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// `time=… level=… msg=…`
    Text,
    /// One JSON object per line.
    Json,
}

/// How `list` and `ps` print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Shape {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// What to do. Only the options of the command that is called are built: all of them were a tenth of a millisecond each time.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub enum Command {
    /// Print what would be done for a bundle, without doing it.
    Plan(Plan),
    /// Print the features of the runtime spec that are implemented, as JSON.
    Features,
    /// Write a config.json to start from.
    Spec(SpecArgs),
    /// Make a container; its process waits for `start`.
    Create(Create),
    /// Let the process of a created container run.
    Start(Id),
    /// Make a container, start it and, without --detach, wait for it.
    Run(Run),
    /// Run another process in a container.
    Exec(Box<Exec>),
    /// Send a signal to the container's first process.
    Kill(Kill),
    /// Remove a stopped container and what belongs to it.
    Delete(Delete),
    /// Print the state of a container, as JSON.
    State(Id),
    /// List containers.
    List(List),
    /// Print events and statistics of a container, as JSON lines.
    Events(Events),
    /// List the processes of a container.
    Ps(Ps),
    /// Freeze all processes of a container.
    Pause(Id),
    /// Thaw them.
    Resume(Id),
    /// Change limits of a container.
    Update(Box<Update>),
}

// The container's id. (A doc comment would be taken for what the command says of itself.)
#[derive(Debug, Args)]
pub struct Id {
    /// Container id.
    pub id: String,
}

#[derive(Debug, Args)]
pub struct Plan {
    /// Directory with a config.json.
    #[arg(default_value = ".")]
    pub bundle: PathBuf,
    /// The plan of the way without pivot_root.
    #[arg(long)]
    pub no_pivot: bool,
    /// The plan of the way without a session keyring.
    #[arg(long)]
    pub no_new_keyring: bool,
}

#[derive(Debug, Args)]
pub struct SpecArgs {
    /// Directory to write config.json to.
    #[arg(short, long, default_value = ".")]
    pub bundle: PathBuf,
    /// With a user namespace that maps only the caller. (Running it as another user than root is not implemented.)
    #[arg(long)]
    pub rootless: bool,
}

// Options of `create` and `run`.
#[derive(Debug, Args)]
pub struct Create {
    /// Container id.
    pub id: String,
    /// Directory with a config.json.
    #[arg(short, long, default_value = ".")]
    pub bundle: PathBuf,
    /// Unix socket that takes the pty's master.
    #[arg(long, value_name = "SOCKET")]
    pub console_socket: Option<PathBuf>,
    /// Unix socket that takes a pidfd of the process.
    #[arg(long, value_name = "SOCKET")]
    pub pidfd_socket: Option<PathBuf>,
    /// File to write the pid to.
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// Do not use pivot_root, for a root on an initramfs.
    #[arg(long)]
    pub no_pivot: bool,
    /// Keep the caller's session keyring.
    #[arg(long)]
    pub no_new_keyring: bool,
    /// Leave descriptors 3 to 3+N-1 open.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub preserve_fds: u32,
}

#[derive(Debug, Args)]
pub struct Run {
    #[command(flatten)]
    pub create: Create,
    /// Return when the process runs.
    #[arg(short, long)]
    pub detach: bool,
    /// Do not delete the container when its process ends.
    #[arg(long)]
    pub keep: bool,
    /// Nothing to do: we never are the one whom orphans are given to.
    #[arg(long)]
    pub no_subreaper: bool,
}

#[derive(Debug, Args)]
pub struct Exec {
    /// Container id.
    pub id: String,
    /// Program and arguments; options after the program are the program's.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
    /// JSON file with the whole process, instead of command and options.
    #[arg(short, long, value_name = "FILE")]
    pub process: Option<PathBuf>,
    /// Working directory.
    #[arg(long)]
    pub cwd: Option<String>,
    /// NAME=VALUE to add to the environment.
    #[arg(short, long)]
    pub env: Vec<String>,
    /// Give it a pseudo terminal.
    #[arg(short, long)]
    pub tty: bool,
    /// UID or UID:GID, numbers only.
    #[arg(short, long, allow_hyphen_values = true)]
    pub user: Option<String>,
    /// More groups, numbers only.
    #[arg(short = 'g', long, value_name = "GID")]
    pub additional_gids: Vec<String>,
    /// Return when the process runs.
    #[arg(short, long)]
    pub detach: bool,
    /// File to write the pid to.
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// Unix socket that takes the pty's master.
    #[arg(long, value_name = "SOCKET")]
    pub console_socket: Option<PathBuf>,
    /// Unix socket that takes a pidfd of the process.
    #[arg(long, value_name = "SOCKET")]
    pub pidfd_socket: Option<PathBuf>,
    /// AppArmor profile.
    #[arg(long, value_name = "PROFILE")]
    pub apparmor: Option<String>,
    /// SELinux label. SELinux is not supported, so that only an empty one is taken.
    #[arg(long, value_name = "LABEL")]
    pub process_label: Option<String>,
    /// Set no_new_privs.
    #[arg(long)]
    pub no_new_privs: bool,
    /// Capability to add to the bounding, effective and permitted sets.
    #[arg(short = 'c', long)]
    pub cap: Vec<String>,
    /// Leave descriptors 3 to 3+N-1 open.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub preserve_fds: u32,
    /// Group below the container's own to run in; on cgroup v1 also by controller.
    #[arg(long, value_name = "[CONTROLLER,…:]PATH")]
    pub cgroup: Vec<String>,
    /// Go on although the container is paused; the process stays frozen until `resume`.
    #[arg(long)]
    pub ignore_paused: bool,
    /// Keep the caller's session keyring.
    #[arg(long)]
    pub no_new_keyring: bool,
}

#[derive(Debug, Args)]
pub struct Kill {
    /// Container id.
    pub id: String,
    /// Name or number.
    #[arg(default_value = "SIGTERM")]
    pub signal: String,
    /// To every process of the container.
    #[arg(short, long)]
    pub all: bool,
}

#[derive(Debug, Args)]
pub struct Delete {
    /// Container id.
    pub id: String,
    /// Kill it first if it runs; no error if it does not exist.
    #[arg(short, long)]
    pub force: bool,
}

#[derive(Debug, Args)]
pub struct List {
    /// How to print.
    #[arg(short, long, value_enum, default_value_t = Shape::Table)]
    pub format: Shape,
    /// Ids only.
    #[arg(short, long)]
    pub quiet: bool,
}

#[derive(Debug, Args)]
pub struct Events {
    /// Container id.
    pub id: String,
    /// Print the statistics once and exit.
    #[arg(long)]
    pub stats: bool,
    /// Time between two statistics: a number with ms, s, m or h.
    #[arg(long, default_value = "5s")]
    pub interval: String,
}

#[derive(Debug, Args)]
pub struct Ps {
    /// Container id.
    pub id: String,
    /// Arguments for ps(1).
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub args: Vec<String>,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t = Shape::Table)]
    pub format: Shape,
}

#[derive(Debug, Args)]
pub struct Update {
    /// Container id.
    pub id: String,
    /// JSON file with `/linux/resources`; `-` is standard input.
    #[arg(short, long, value_name = "FILE", conflicts_with = "Limits")]
    pub resources: Option<PathBuf>,
    #[command(flatten)]
    pub limits: Limits,
}

// Limits as options. Sizes are bytes, or a number with k, m, g or t; -1 is unlimited.
#[derive(Debug, Args)]
#[group(multiple = true)]
pub struct Limits {
    /// 10 to 1000.
    #[arg(long)]
    pub blkio_weight: Option<u16>,
    /// Microseconds.
    #[arg(long)]
    pub cpu_period: Option<u64>,
    /// Microseconds per period.
    #[arg(long, allow_hyphen_values = true)]
    pub cpu_quota: Option<i64>,
    /// Microseconds.
    #[arg(long)]
    pub cpu_burst: Option<u64>,
    /// Relative weight, 1024 is the default.
    #[arg(long)]
    pub cpu_share: Option<u64>,
    /// Microseconds (cgroup v1).
    #[arg(long)]
    pub cpu_rt_period: Option<u64>,
    /// Microseconds (cgroup v1).
    #[arg(long, allow_hyphen_values = true)]
    pub cpu_rt_runtime: Option<i64>,
    /// 1 runs the container only when nothing else wants to run.
    #[arg(long)]
    pub cpu_idle: Option<i64>,
    /// CPUs, such as 0-3,7.
    #[arg(long)]
    pub cpuset_cpus: Option<String>,
    /// Memory nodes.
    #[arg(long)]
    pub cpuset_mems: Option<String>,
    /// Limit of memory.
    #[arg(long, allow_hyphen_values = true)]
    pub memory: Option<String>,
    /// What is protected, or the soft limit.
    #[arg(long, allow_hyphen_values = true)]
    pub memory_reservation: Option<String>,
    /// Limit of memory and swap together.
    #[arg(long, allow_hyphen_values = true)]
    pub memory_swap: Option<String>,
    /// Ignored, with a warning.
    #[arg(long, allow_hyphen_values = true)]
    pub kernel_memory: Option<String>,
    /// Ignored, with a warning.
    #[arg(long, allow_hyphen_values = true)]
    pub kernel_memory_tcp: Option<String>,
    /// Intel RDT is not implemented, so that only an empty one is taken.
    #[arg(long, value_name = "SCHEMA")]
    pub l3_cache_schema: Option<String>,
    /// Intel RDT is not implemented, so that only an empty one is taken.
    #[arg(long, value_name = "SCHEMA")]
    pub mem_bw_schema: Option<String>,
    /// Number of processes and threads.
    #[arg(long, allow_hyphen_values = true)]
    pub pids_limit: Option<i64>,
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::Mini;

    #[test]
    fn commands_say_what_they_do() {
        Mini::command().debug_assert();
        // Before the options are built, there is only what the command's own line says.
        for command in Mini::command().get_subcommands() {
            let about = command.get_about().unwrap().to_string();
            let help = Mini::try_parse_from(["mini", command.get_name(), "--help"]).unwrap_err().to_string();
            assert!(help.starts_with(&about), "{about}: {help}");
        }
    }
}
