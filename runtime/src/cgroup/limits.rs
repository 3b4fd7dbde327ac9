//! `linux.resources` as a list of control file writes: made by pure code ([`list`]), carried out by [`perform`].

mod v1;
mod v2;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::file::{self, fault};
use super::{Record, Version};
use crate::error::{Error, Kind, Result};
use crate::kernfs;
use crate::spec::Resources;

/// One write to a control file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Write {
    /// Whose hierarchy: a controller's name.
    pub controller: &'static str,
    /// The file in the group's directory.
    pub file: String,
    /// What is written.
    pub value: String,
    /// The line of config.json that asks for it.
    pub from: String,
    /// What to make of a refusal.
    pub rule: Rule,
}

/// What to do when the kernel refuses a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    /// It is an error.
    Must,
    /// EINVAL may mean that another value of the same controller has to change first: try again after those.
    Later,
    /// As `Later`; and the kernel corrects the value in silence, so it is read back.
    Shares,
    /// As `Later`; EBUSY means that more is in use: the error says how much.
    Memory,
    /// As `Later`; a missing file means a kernel without realtime groups.
    Realtime,
    /// EINVAL is fine: another value of the same request makes this one pointless.
    Moot,
    /// A missing file is fine: the kernel does not have it, and then the value is what happens anyway.
    IfThere,
    /// A missing file hands over to the next write; when this one succeeds the next is left out.
    OrNext,
    /// A `unified` entry: the error tells whether its controller is missing.
    Unified,
}

/// What the list depends on beside the request.
pub(super) struct Host<'a> {
    /// On which version a controller is, if at all. `io` and `blkio` are the two names of one.
    pub version: &'a dyn Fn(&str) -> Option<Version>,
    /// The present content of a file: `(controller, file)`; `None` when it cannot be read.
    pub current: &'a dyn Fn(&str, &str) -> Option<String>,
    /// No version 1 controller at all.
    pub unified: bool,
}

/// The writes of one controller, being collected.
pub(super) struct List {
    controller: &'static str,
    writes: Vec<Write>,
}

impl List {
    fn put(&mut self, from: &str, file: impl Into<String>, value: impl ToString, rule: Rule) {
        let (controller, from) = (self.controller, format!("/linux/resources/{from}"));
        self.writes.push(Write { controller, file: file.into(), value: value.to_string(), from, rule });
    }
}

fn refuse<T>(from: &str, reason: impl Into<String>) -> Result<T> {
    Err(Error::unsupported(format!("/linux/resources/{from}"), reason))
}

fn invalid<T>(from: &str, reason: impl Into<String>) -> Result<T> {
    Err(Error::invalid(format!("/linux/resources/{from}"), reason))
}

/// What has to be written for a request, in order. `memory.kernel`, `memory.kernelTCP` (gone from the kernel) and
/// `memory.useHierarchy` (always on) are ignored, as runc does. Zero means "not given" for everything but `pids.limit`
/// (runc 1.4) and `cpu.idle`. Devices are not writes: see `devices`.
pub(super) fn list(r: &Resources, host: &Host<'_>) -> Result<Vec<Write>> {
    let mut list = List { controller: "", writes: Vec::new() };
    // A controller that is nowhere: the list is made all the same, and refused at its first write, by its pointer.
    let absent = if host.unified { Version::V2 } else { Version::V1 };
    let version = |name: &str| (host.version)(name).unwrap_or(absent);
    if let Some(pids) = &r.pids {
        list.controller = "pids";
        if let Some(limit) = pids.limit {
            // systemd takes no 0, and who is in the group counts already: runc 1.4 writes 1 as well.
            let value = if limit < 0 { "max".to_owned() } else { limit.max(1).to_string() };
            list.put("pids/limit", "pids.max", value, Rule::Must);
        }
    }
    if let Some(memory) = &r.memory {
        list.controller = "memory";
        match version("memory") {
            Version::V1 => v1::memory(memory, host, &mut list)?,
            Version::V2 => v2::memory(memory, host, &mut list)?,
        }
    }
    if let Some(io) = &r.block_io {
        match (host.version)("blkio").or((host.version)("io")).unwrap_or(absent) {
            Version::V1 => v1::block_io(io, &mut list)?,
            Version::V2 => v2::block_io(io, &mut list)?,
        }
    }
    if let Some(cpu) = &r.cpu {
        list.controller = "cpu";
        match version("cpu") {
            Version::V1 => v1::cpu(cpu, &mut list),
            Version::V2 => v2::cpu(cpu, host, &mut list)?,
        }
        list.controller = "cpuset";
        for (from, file, value) in [("cpu/cpus", "cpuset.cpus", &cpu.cpus), ("cpu/mems", "cpuset.mems", &cpu.mems)] {
            if !value.is_empty() {
                list.put(from, file, value, Rule::Must);
            }
        }
    }
    list.controller = "hugetlb";
    for (i, limit) in r.hugepage_limits.iter().enumerate() {
        let from = format!("hugepageLimits/{i}");
        let Some(size) = page_size(&limit.page_size) else {
            return invalid(&format!("{from}/pageSize"), format!("{:?} is not a size like 2MB", limit.page_size));
        };
        let suffix = match version("hugetlb") {
            Version::V1 => "limit_in_bytes",
            Version::V2 => "max",
        };
        // A reserved page is charged to rsvd when it is mapped, an unreserved one when it is touched: both need the
        // limit. Kernels before 5.7 have no rsvd.
        list.put(&from, format!("hugetlb.{size}.{suffix}"), limit.limit, Rule::Must);
        list.put(&from, format!("hugetlb.{size}.rsvd.{suffix}"), limit.limit, Rule::IfThere);
    }
    list.controller = "rdma";
    for (device, limit) in &r.rdma {
        let from = format!("rdma/{}", device.replace('~', "~0").replace('/', "~1"));
        if device.is_empty() || device.contains(char::is_whitespace) {
            return invalid(&from, "not a device name");
        }
        let handles = limit.hca_handles.map(|n| format!(" hca_handle={n}")).unwrap_or_default();
        let objects = limit.hca_objects.map(|n| format!(" hca_object={n}")).unwrap_or_default();
        if !handles.is_empty() || !objects.is_empty() {
            list.put(&from, "rdma.max", format!("{device}{handles}{objects}"), Rule::Must);
        }
    }
    if let Some(network) = &r.network {
        v1::network(network, host, &mut list)?;
    }
    v2::unified(&r.unified, host, &mut list)?;
    Ok(list.writes)
}

/// `major:minor`, as the files for block devices want it.
fn block_device(from: &str, major: i64, minor: i64) -> Result<String> {
    if major < 0 || minor < 0 {
        return invalid(from, format!("{major}:{minor} is not a device"));
    }
    Ok(format!("{major}:{minor}"))
}

/// `2MB`, `1GB`, `64KB`: the name in the files; nothing else may become part of a file name.
fn page_size(text: &str) -> Option<&str> {
    let digits = ["KB", "MB", "GB"].iter().find_map(|unit| text.strip_suffix(unit))?;
    (!digits.is_empty() && !digits.starts_with('0') && digits.bytes().all(|b| b.is_ascii_digit())).then_some(text)
}

/// Carries out a list. `dir` gives the group's directory for a controller.
///
/// # Errors
/// The first write that fails, with its pointer; those before it have taken effect, see [`put_back`].
pub(super) fn perform(writes: &[Write], record: &Record) -> Result<()> {
    let mut later: Vec<(&Write, PathBuf)> = Vec::new();
    let mut skip = false;
    for (i, write) in writes.iter().enumerate() {
        let Some((_, dir)) = record.find(write.controller) else {
            return Err(missing(write, record));
        };
        if !std::mem::take(&mut skip) {
            match attempt(write, &dir, record, true)? {
                Done::Yes => skip = write.rule == Rule::OrNext,
                Done::Next => {}
                Done::Later => later.push((write, dir)),
            }
        }
        if writes.get(i + 1).is_none_or(|next| next.controller != write.controller) {
            again(&mut later, record)?;
        }
    }
    Ok(())
}

/// Repeats what was put off, as long as that gets anywhere.
fn again(later: &mut Vec<(&Write, PathBuf)>, record: &Record) -> Result<()> {
    while !later.is_empty() {
        let before = later.len();
        let mut left = Vec::new();
        for (write, dir) in later.drain(..) {
            if let Done::Later = attempt(write, &dir, record, true)? {
                left.push((write, dir));
            }
        }
        *later = left;
        if later.len() == before {
            let (write, dir) = &later[0];
            return attempt(write, dir, record, false).map(drop);
        }
    }
    Ok(())
}

/// What the files of a list say before it is carried out, for [`put_back`]; without those that cannot be read.
pub(super) fn before(writes: &[Write], record: &Record) -> Vec<Write> {
    let mut all = Vec::new();
    for write in writes.iter().rev() {
        // The kernel sets the shares of a group that becomes idle, or is idle no more.
        let others = if write.file == "cpu.idle" { &["cpu.shares", "cpu.weight"][..] } else { &[] };
        all.extend([write.file.as_str()].iter().chain(others).filter_map(|file| {
            let value = says(write.controller, file, record)?;
            Some(Write { file: (*file).to_owned(), value, ..write.clone() })
        }));
    }
    all
}

/// Writes what [`before`] has found where the files say something else by now. Errors are passed over: the one that led
/// here is told. What the kernel refuses is tried again behind the others, as in [`perform`].
pub(super) fn put_back(mut before: Vec<Write>, record: &Record) {
    let is_back = |old: &Write| {
        let Some((_, dir)) = record.find(old.controller) else { return true };
        let now = says(old.controller, &old.file, record);
        // The kernel takes one line at a time; and a write of no bytes would never get to the file.
        let line = |line: &str| file::put(&dir.join(&old.file), if line.is_empty() { "\n" } else { line }).is_ok();
        let Some(none) = no_limit(&old.file) else {
            return now.as_ref() == Some(&old.value) || old.value.split('\n').all(line);
        };
        let is_new = |device: &&str| device.contains(':') && !old.value.lines().any(|old| first_word(old) == *device);
        let now = now.unwrap_or_default();
        let mut gone = now.lines().map(first_word).filter(is_new);
        now == old.value || gone.all(|device| line(&format!("{device} {none}"))) && old.value.lines().all(line)
    };
    let mut left = usize::MAX;
    while before.len() < left {
        left = before.len();
        before.retain(|old| !is_back(old));
    }
}

/// What takes a device's limits away, in a file that names only devices that have some.
fn no_limit(file: &str) -> Option<&'static str> {
    match file {
        "io.max" => Some("rbps=max wbps=max riops=max wiops=max"),
        "io.weight" | "io.bfq.weight" => Some("default"),
        _ if file.starts_with("blkio.throttle.") => Some("0"),
        _ if file.ends_with("weight_device") => Some("default"),
        _ => None,
    }
}

fn first_word(line: &str) -> &str {
    line.split(' ').next().unwrap_or(line)
}

/// What would have to be written to a file for it to say what it says.
fn says(controller: &str, file: &str, record: &Record) -> Option<String> {
    let text = record.current(controller, file)?;
    Some(file::value(&text, "oom_kill_disable").unwrap_or(text.trim_end()).to_owned())
}

enum Done {
    Yes,
    Next,
    Later,
}

fn attempt(write: &Write, dir: &Path, record: &Record, put_off: bool) -> Result<Done> {
    let path = dir.join(&write.file);
    let access = if write.rule == Rule::Shares { OFlags::RDWR } else { OFlags::WRONLY };
    let put = || {
        let fd = file::open(&path, access)?;
        file::retry(|| rustix::io::write(&fd, write.value.as_bytes())).map(|_| fd)
    };
    let errno = match put() {
        Ok(fd) if write.rule == Rule::Shares => return shares_read_back(write, &path, &fd),
        Ok(_) => return Ok(Done::Yes),
        Err(errno) => errno,
    };
    let plain = || {
        let error = fault("write", &path, errno).at(&write.from);
        // Only a group that is gone is "not found"; a file that this kernel does not have is another matter.
        if error.kind == Kind::NotFound && dir.exists() { Error { kind: Kind::Unsupported, ..error } } else { error }
    };
    let say = |reason: String| Error { kind: Kind::Kernel, ..Error::invalid(&write.from, reason) };
    let able_to_wait = matches!(write.rule, Rule::Later | Rule::Shares | Rule::Memory | Rule::Realtime);
    match (write.rule, errno) {
        (_, Errno::INVAL) if put_off && able_to_wait => Ok(Done::Later),
        (Rule::Moot, Errno::INVAL) | (Rule::IfThere, Errno::NOENT) => Ok(Done::Yes),
        (Rule::OrNext, Errno::NOENT) => Ok(Done::Next),
        (Rule::Memory, Errno::BUSY) => {
            let now = |name: &str| file::get(&dir.join(name)).map(|t| t.trim().to_owned()).unwrap_or_default();
            let (usage, peak) = (now("memory.usage_in_bytes"), now("memory.max_usage_in_bytes"));
            let value = &write.value;
            Err(say(format!("unable to set memory limit to {value} (current usage: {usage}, peak usage: {peak})")))
        }
        (Rule::Realtime, Errno::NOENT) => {
            Err(Error { kind: Kind::Unsupported, ..say("this kernel has no realtime groups".into()) })
        }
        (Rule::Unified, Errno::NOENT | Errno::PERM | Errno::ACCESS) => {
            let controller = write.file.split('.').next().unwrap_or_default();
            let have = file::words(&dir.join("cgroup.controllers")).unwrap_or_default();
            if controller != "cgroup" && !have.iter().any(|c| c == controller) {
                let (file, have) = (&write.file, have.join(" "));
                let reason = format!(
                    "unified resource {file:?} can't be set: controller {controller:?} not available (available: {have})"
                );
                return Err(Error { kind: Kind::Unsupported, ..say(reason) });
            }
            Err(plain())
        }
        (_, Errno::NOENT) if not_handed_down(write, dir, record) => Err(missing(write, record)),
        _ => Err(plain()),
    }
}

/// True if a version 2 group exists but its parents do not give it the controller.
fn not_handed_down(write: &Write, dir: &Path, record: &Record) -> bool {
    let v2 = record.unified.as_ref().is_some_and(|u| u.dir() == dir);
    let have = file::words(&dir.join("cgroup.controllers"));
    v2 && have.is_ok_and(|have| !have.iter().any(|c| c == write.controller))
}

fn missing(write: &Write, record: &Record) -> Error {
    let what = write.from.trim_start_matches("/linux/resources/");
    let place = match &record.unified {
        Some(u) if u.has(write.controller) => format!("in {}", u.dir().display()),
        _ => "on this host".to_owned(),
    };
    let reason = format!("cannot set {what}: the {} controller is not available {place}", write.controller);
    Error::unsupported(&write.from, reason)
}

/// The kernel pulls cpu.shares into its range in silence; runc's sentences, which docker's tests know.
fn shares_read_back(write: &Write, path: &Path, fd: &OwnedFd) -> Result<Done> {
    let is = kernfs::again(fd).map_err(|e| fault("read", path, e))?;
    let (asked, is) = (write.value.parse::<u64>().unwrap_or(0), is.trim().parse::<u64>().unwrap_or(0));
    let side = match asked.cmp(&is) {
        std::cmp::Ordering::Equal => return Ok(Done::Yes),
        std::cmp::Ordering::Greater => "maximum",
        std::cmp::Ordering::Less => "minimum",
    };
    Err(Error::invalid(&write.from, format!("the {side} allowed cpu-shares is {is}")))
}

/// Domain controllers cannot act on threads: a threaded group has none of them.
pub(super) fn refuse_threaded(writes: &[Write], record: &Record) -> Result<()> {
    let Some(unified) = &record.unified else { return Ok(()) };
    let dir = unified.dir();
    let domain = |w: &&Write| unified.has(w.controller) && matches!(w.controller, "memory" | "io" | "hugetlb" | "rdma");
    let Some(write) = writes.iter().find(domain) else { return Ok(()) };
    let kind = file::get(&dir.join("cgroup.type")).unwrap_or_default();
    match kind.trim() {
        mode @ ("domain threaded" | "threaded" | "domain invalid") => {
            let dir = dir.to_string_lossy();
            let reason = format!("cannot enter cgroupv2 {dir:?} with domain controllers -- it is in {mode} mode");
            Err(Error { kind: Kind::State, ..Error::invalid(&write.from, reason) })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
