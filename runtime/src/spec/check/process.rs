//! Checks of `/process`, also as the payload of an exec; pointers are relative to it.
#![forbid(unsafe_code)]

use super::{no_nul, no_nul_in, path, user_id, words};
use crate::error::{Error, Result};
use crate::spec::{Capabilities, CpuAffinity, IoPriority, Process, Rlimit, Scheduler};

/// Refuses what is wrong in a process; pointers start at the process itself (`/cwd`).
///
/// # Errors
/// `Invalid`, or `Unsupported` for an SELinux label.
pub fn process(p: &Process) -> Result<()> {
    if p.cwd.is_empty() {
        return Err(Error::invalid("/cwd", "Cwd property must not be empty"));
    }
    if !p.cwd.starts_with('/') {
        return Err(Error::invalid("/cwd", "Cwd must be an absolute path"));
    }
    path("/cwd", &p.cwd)?;
    if p.args.is_empty() {
        return Err(Error::invalid("/args", "args must not be empty"));
    }
    no_nul_in("/args", &p.args)?;
    environment("/env", &p.env)?;
    user(p)?;
    let size = p.console_size.filter(|_| p.terminal).unwrap_or_default();
    for (field, value) in [("height", size.height), ("width", size.width)] {
        if value > u16::MAX.into() {
            return Err(Error::invalid(format!("/consoleSize/{field}"), "must not be greater than 65535"));
        }
    }
    rlimits(&p.rlimits)?;
    if p.oom_score_adj.is_some_and(|n| !(-1000..=1000).contains(&n)) {
        return Err(Error::invalid("/oomScoreAdj", "must be between -1000 and 1000"));
    }
    no_nul("/apparmorProfile", &p.apparmor_profile)?;
    if !p.selinux_label.is_empty() {
        let why = "selinux label is specified in config, but selinux is disabled or not supported";
        return Err(Error::unsupported("/selinuxLabel", why));
    }
    p.scheduler.as_ref().map_or(Ok(()), scheduler)?;
    p.io_priority.as_ref().map_or(Ok(()), io_priority)?;
    p.exec_cpu_affinity.as_ref().map_or(Ok(()), affinity)
}

/// Checks `NAME=value` words. The value is never part of the message, it may be a secret.
///
/// # Errors
/// `Invalid` with `<pointer>/<index>`.
pub fn environment(pointer: &str, env: &[String]) -> Result<()> {
    for (i, word) in env.iter().enumerate() {
        let bad =
            |why: &str| Err(Error::invalid(format!("{pointer}/{i}"), format!("invalid environment variable: {why}")));
        match word.find('=') {
            None => return bad("missing '='"),
            Some(0) => return bad("name cannot be empty"),
            Some(_) if word.contains('\0') => return bad("contains nul byte (\\x00)"),
            Some(_) => {}
        }
    }
    Ok(())
}

/// Capabilities that no kernel has; the specification wants a warning and no failure.
pub(super) fn warnings(p: &Process) -> Vec<String> {
    let Some(Capabilities { bounding, effective, inheritable, permitted, ambient }) = &p.capabilities else {
        return Vec::new();
    };
    let mut unknown: Vec<&str> = [bounding, effective, inheritable, permitted, ambient]
        .into_iter()
        .flatten()
        .map(String::as_str)
        .filter(|name| !words::CAPABILITIES.contains(name))
        .collect();
    unknown.sort_unstable();
    unknown.dedup();
    if unknown.is_empty() {
        return Vec::new();
    }
    vec![format!("ignoring unknown or unavailable capabilities: [{}]", unknown.join(" "))]
}

fn user(p: &Process) -> Result<()> {
    user_id("/user/uid", p.user.uid)?;
    user_id("/user/gid", p.user.gid)?;
    for (i, gid) in p.user.additional_gids.iter().enumerate() {
        user_id(&format!("/user/additionalGids/{i}"), *gid)?;
    }
    if p.user.umask.is_some_and(|mask| mask > 0o777) {
        return Err(Error::invalid("/user/umask", "must not be greater than 0777"));
    }
    Ok(())
}

fn rlimits(list: &[Rlimit]) -> Result<()> {
    for (i, limit) in list.iter().enumerate() {
        if !words::RLIMITS.iter().any(|(name, _)| *name == limit.kind) {
            return Err(Error::invalid(format!("/rlimits/{i}/type"), format!("wrong rlimit value: {}", limit.kind)));
        }
        if list[..i].iter().any(|other| other.kind == limit.kind) {
            return Err(Error::invalid(format!("/rlimits/{i}/type"), format!("duplicate rlimit {}", limit.kind)));
        }
        if limit.soft > limit.hard {
            return Err(Error::invalid(format!("/rlimits/{i}/soft"), "is greater than the hard limit"));
        }
    }
    Ok(())
}

/// The rules of runc's validator, which are those of sched_setattr(2), with the words checked too.
fn scheduler(s: &Scheduler) -> Result<()> {
    const POLICIES: [&str; 7] =
        ["SCHED_OTHER", "SCHED_FIFO", "SCHED_RR", "SCHED_BATCH", "SCHED_ISO", "SCHED_IDLE", "SCHED_DEADLINE"];
    const FLAGS: [&str; 7] = [
        "SCHED_FLAG_RESET_ON_FORK",
        "SCHED_FLAG_RECLAIM",
        "SCHED_FLAG_DL_OVERRUN",
        "SCHED_FLAG_KEEP_POLICY",
        "SCHED_FLAG_KEEP_PARAMS",
        "SCHED_FLAG_UTIL_CLAMP_MIN",
        "SCHED_FLAG_UTIL_CLAMP_MAX",
    ];
    let bad = |field: &str, why: String| Err(Error::invalid(format!("/scheduler{field}"), why));
    if s.policy.is_empty() {
        return bad("/policy", "scheduler policy is required".into());
    }
    if !POLICIES.contains(&s.policy.as_str()) {
        return bad("/policy", format!("invalid scheduler policy: {}", s.policy));
    }
    if !(-20..=19).contains(&s.nice) {
        return bad("/nice", format!("invalid scheduler.nice: {}", s.nice));
    }
    if s.priority != 0 && !["SCHED_FIFO", "SCHED_RR"].contains(&s.policy.as_str()) {
        return bad("/priority", "scheduler.priority can only be specified for SchedFIFO or SchedRR policy".into());
    }
    if s.policy != "SCHED_DEADLINE" && (s.runtime, s.deadline, s.period) != (0, 0, 0) {
        return bad("", "scheduler runtime/deadline/period can only be specified for SchedDeadline policy".into());
    }
    match s.flags.iter().position(|flag| !FLAGS.contains(&flag.as_str())) {
        Some(i) => bad(&format!("/flags/{i}"), format!("invalid scheduler flag: {}", s.flags[i])),
        None => Ok(()),
    }
}

fn io_priority(io: &IoPriority) -> Result<()> {
    if !(0..=7).contains(&io.priority) {
        let why = format!("invalid ioPriority.Priority: {}", io.priority);
        return Err(Error::invalid("/ioPriority/priority", why));
    }
    if !["IOPRIO_CLASS_RT", "IOPRIO_CLASS_BE", "IOPRIO_CLASS_IDLE"].contains(&io.class.as_str()) {
        return Err(Error::invalid("/ioPriority/class", format!("invalid ioPriority.Class: {:?}", io.class)));
    }
    Ok(())
}

fn affinity(a: &CpuAffinity) -> Result<()> {
    for (field, list) in [("initial", &a.initial), ("final", &a.after)] {
        if !list.is_empty() && !is_cpu_list(list) {
            let why = format!("{list:?} is not a list of CPUs such as 0-3,7");
            return Err(Error::invalid(format!("/execCPUAffinity/{field}"), why));
        }
    }
    Ok(())
}

/// `0-3,7`: numbers and rising ranges with commas between, blanks allowed around commas as the specification says.
fn is_cpu_list(list: &str) -> bool {
    let number = |s: &str| s.bytes().all(|b| b.is_ascii_digit()).then(|| s.parse::<u16>().ok()).flatten();
    list.split(',').all(|part| {
        let part = part.trim_matches([' ', '\t']);
        match part.split_once('-') {
            None => number(part).is_some(),
            Some((from, to)) => matches!((number(from), number(to)), (Some(from), Some(to)) if from <= to),
        }
    })
}
