//! `/process`: what is executed and as whom. Also the payload of an exec request.

use serde::{Deserialize, Serialize};

use super::{IntList, nullable};

/// `/process`
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, remote = "Self")]
pub struct Process {
    /// Give it a pseudo terminal.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "std::ops::Not::not")]
    pub terminal: bool,
    /// Initial size of the terminal, in characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub console_size: Option<ConsoleSize>,
    /// Identity.
    #[serde(deserialize_with = "nullable")]
    pub user: User,
    /// argv; args[0] is looked up in PATH of `env`.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// `NAME=value` words, the last of equal names wins.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// Absolute working directory.
    #[serde(deserialize_with = "nullable")]
    pub cwd: String,
    /// `None` leaves the sets alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<Capabilities>,
    /// Resource limits.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub rlimits: Vec<Rlimit>,
    /// prctl(PR_SET_NO_NEW_PRIVS)
    #[serde(deserialize_with = "nullable", skip_serializing_if = "std::ops::Not::not")]
    pub no_new_privileges: bool,
    /// AppArmor profile of the execve.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub apparmor_profile: String,
    /// Written to /proc/self/oom_score_adj; `None` leaves it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oom_score_adj: Option<i32>,
    /// sched_setattr(2)
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheduler: Option<Scheduler>,
    /// SELinux label of the execve.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub selinux_label: String,
    /// ioprio_set(2)
    #[serde(rename = "ioPriority", skip_serializing_if = "Option::is_none")]
    pub io_priority: Option<IoPriority>,
    /// CPUs of an exec before and after it joined its group.
    #[serde(rename = "execCPUAffinity", skip_serializing_if = "Option::is_none")]
    pub exec_cpu_affinity: Option<CpuAffinity>,
}

impl Process {
    /// What an exec takes from the container's own process where its payload says nothing: capabilities, limits, OOM score,
    /// scheduling, priority, profile, umask. The rest (user, environment, directory) is the payload's alone, as with runc.
    pub fn inherit(&mut self, init: &Process) {
        self.capabilities = self.capabilities.take().or_else(|| init.capabilities.clone());
        self.oom_score_adj = self.oom_score_adj.or(init.oom_score_adj);
        self.scheduler = self.scheduler.take().or_else(|| init.scheduler.clone());
        self.io_priority = self.io_priority.take().or_else(|| init.io_priority.clone());
        self.exec_cpu_affinity = self.exec_cpu_affinity.take().or_else(|| init.exec_cpu_affinity.clone());
        self.user.umask = self.user.umask.or(init.user.umask);
        if self.rlimits.is_empty() {
            self.rlimits.clone_from(&init.rlimits);
        }
        if self.apparmor_profile.is_empty() {
            self.apparmor_profile.clone_from(&init.apparmor_profile);
        }
    }
}

/// `/process/consoleSize`
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
#[serde(default, remote = "Self")]
pub struct ConsoleSize {
    /// Rows.
    #[serde(deserialize_with = "nullable")]
    pub height: u64,
    /// Columns.
    #[serde(deserialize_with = "nullable")]
    pub width: u64,
}

/// `/process/user`
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, remote = "Self")]
pub struct User {
    /// In the container's user namespace.
    #[serde(deserialize_with = "nullable")]
    pub uid: u32,
    /// In the container's user namespace.
    #[serde(deserialize_with = "nullable")]
    pub gid: u32,
    /// `None` means 0022, as runc does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub umask: Option<u32>,
    /// Supplementary groups.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub additional_gids: Vec<u32>,
}

/// `/process/capabilities`: the five sets, each a list of `CAP_*` names.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, remote = "Self")]
pub struct Capabilities {
    /// See capabilities(7).
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub bounding: Vec<String>,
    /// See capabilities(7).
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub effective: Vec<String>,
    /// See capabilities(7).
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub inheritable: Vec<String>,
    /// See capabilities(7).
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub permitted: Vec<String>,
    /// See capabilities(7).
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub ambient: Vec<String>,
}

/// One entry of `/process/rlimits`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, remote = "Self")]
pub struct Rlimit {
    /// `RLIMIT_NOFILE` and the like.
    #[serde(rename = "type", deserialize_with = "nullable")]
    pub kind: String,
    /// Hard limit; 2^64-1 is unlimited.
    #[serde(deserialize_with = "nullable")]
    pub hard: u64,
    /// Soft limit.
    #[serde(deserialize_with = "nullable")]
    pub soft: u64,
}

/// `/process/scheduler`
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, remote = "Self")]
pub struct Scheduler {
    /// `SCHED_*`
    #[serde(deserialize_with = "nullable")]
    pub policy: String,
    /// Nice value.
    #[serde(deserialize_with = "nullable")]
    pub nice: i32,
    /// Static priority.
    #[serde(deserialize_with = "nullable")]
    pub priority: i32,
    /// `SCHED_FLAG_*`
    #[serde(deserialize_with = "nullable")]
    pub flags: Vec<String>,
    /// Nanoseconds.
    #[serde(deserialize_with = "nullable")]
    pub runtime: u64,
    /// Nanoseconds.
    #[serde(deserialize_with = "nullable")]
    pub deadline: u64,
    /// Nanoseconds.
    #[serde(deserialize_with = "nullable")]
    pub period: u64,
}

/// `/process/ioPriority`
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, remote = "Self")]
pub struct IoPriority {
    /// `IOPRIO_CLASS_RT`, `IOPRIO_CLASS_BE` or `IOPRIO_CLASS_IDLE`.
    #[serde(deserialize_with = "nullable")]
    pub class: String,
    /// 0 to 7.
    #[serde(deserialize_with = "nullable")]
    pub priority: i32,
}

/// `/process/execCPUAffinity`
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, remote = "Self")]
pub struct CpuAffinity {
    /// Before the group is joined.
    #[serde(deserialize_with = "nullable")]
    pub initial: IntList,
    /// After the group is joined.
    #[serde(rename = "final", deserialize_with = "nullable")]
    pub after: IntList,
}
