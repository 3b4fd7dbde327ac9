//! The one tail of init and exec: names, limits, identity, capabilities, seccomp, execve.

use std::collections::BTreeSet;

use rustix::io::Errno;

use super::compile::Compiler;
use super::rootfs::{NOFOLLOW, PLACE, resolve};
use super::{Dir, Edge, Gate, Op, Section};
use crate::error::{Error, Result};
use crate::own::Files;
use crate::seccomp::Program;
use crate::spec::check::{escape, sysctl_path};
use crate::spec::words::{CAPABILITIES, RLIMITS};
use crate::spec::{Capabilities, CpuAffinity, NamespaceKind, Process};

/// Bit of CAP_SYS_ADMIN.
const SYS_ADMIN: u64 = 1 << 21;

/// The five sets as bits; names this kernel does not have are left out (the specification wants a warning, not an error).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sets {
    bounding: u64,
    effective: u64,
    inheritable: u64,
    permitted: u64,
    ambient: u64,
}

impl Sets {
    /// The sets that the payload starts with; `None` leaves root what it has. Without a word on capabilities another user
    /// has none, as setuid(2) leaves it.
    fn after(process: &Process, last: u8) -> Option<Self> {
        match &process.capabilities {
            Some(caps) => Some(Self::of(caps, last)),
            None if process.user.uid != 0 => Some(Self::default()),
            None => None,
        }
    }

    fn of(caps: &Capabilities, last: u8) -> Self {
        let known = if last >= 63 { u64::MAX } else { (1 << (last + 1)) - 1 };
        let bits = |names: &[String]| {
            let number = |name: &String| CAPABILITIES.iter().position(|c| c == name);
            names.iter().filter_map(number).fold(0u64, |set, cap| set | 1 << cap) & known
        };
        Self {
            bounding: bits(&caps.bounding),
            effective: bits(&caps.effective),
            inheritable: bits(&caps.inheritable),
            permitted: bits(&caps.permitted),
            ambient: bits(&caps.ambient),
        }
    }
}

fn exec_affinity(process: Option<&Process>, exec: bool) -> Option<&CpuAffinity> {
    process.and_then(|p| p.exec_cpu_affinity.as_ref()).filter(|_| exec)
}

/// When the filter is loaded: see [`Compiler::load_filter`].
fn needs_admin(process: &Process, sets: Option<Sets>) -> bool {
    !process.no_new_privileges && sets.is_some_and(|s| s.effective & SYS_ADMIN == 0)
}

impl Compiler<'_> {
    /// Written first: it is the kernel's choice whom to kill while the rest goes on. The file belongs to the host's root
    /// once we are in a user namespace of our own making, so the parent writes it then; and for a process that a thread has made,
    /// as the thread's own value is that of all of the parent.
    pub(super) fn oom_score_adj(&mut self) {
        let Some(score) = self.process.and_then(|p| p.oom_score_adj) else { return };
        self.b.from(self.pointer("/oomScoreAdj"));
        let text = score.to_string();
        let made = !self.exec && self.wanted.new_has(NamespaceKind::User);
        if made || self.by_thread {
            let dir = self.process_dir();
            let (section, from) = self.b.enter(if made { Section::Maps } else { Section::Limits });
            self.b.from(self.pointer("/oomScoreAdj"));
            self.write_file(Dir::At(dir), "oom_score_adj", text.as_bytes());
            self.b.leave(section, from);
        } else {
            let proc = self.proc_dir();
            self.write_file(Dir::At(proc), "self/oom_score_adj", text.as_bytes());
        }
    }

    /// A session of its own, of which the payload is to be the leader: whoever is cloned later is none.
    pub(super) fn session(&mut self) {
        self.b.from("");
        self.b.op(Op::Setsid);
    }

    /// None of the caller's may show through.
    pub(super) fn keyring(&mut self) {
        self.b.from("");
        if !self.no_new_keyring {
            // Its owner may search it: an exec is in the same one.
            let permission = 0x0008_0000;
            let name = self.b.str(format!("_ses.{}", self.id));
            let none = [Errno::NOSYS, Errno::DQUOT, Errno::ACCESS];
            self.b.op_skip(Op::Keyring { name, permission }, &none);
        }
    }

    /// Where an exec is until it has joined its group. On version 2 it is born there: what the group does not have cannot be
    /// had any more (EINVAL).
    pub(super) fn initial_affinity(&mut self) {
        let Some(affinity) = exec_affinity(self.process, self.exec).filter(|a| !a.initial.is_empty()) else { return };
        self.b.from(self.pointer("/execCPUAffinity/initial"));
        let mask = self.b.bytes(&mask(&affinity.initial));
        self.b.op_skip(Op::Affinity { mask }, &[Errno::INVAL]);
    }

    /// A mask of its own, not the caller's. Since Linux 6.2 that is remembered when a group widens (runc #4815).
    pub(super) fn affinity(&mut self) {
        self.b.from("");
        match exec_affinity(self.process, self.exec) {
            Some(affinity) if !affinity.after.is_empty() => {
                self.b.from(self.pointer("/execCPUAffinity/final"));
                let mask = self.b.bytes(&mask(&affinity.after));
                self.b.op(Op::Affinity { mask });
            }
            Some(affinity) if !affinity.initial.is_empty() => {}
            _ => self.b.op_skip(Op::AllCpus, &[Errno::INVAL]),
        }
    }

    /// Host and domain name of the container's own uts namespace.
    pub(super) fn names(&mut self) {
        let spec = self.spec;
        if !spec.hostname.is_empty() {
            self.b.from("/hostname");
            let name = self.b.bytes(spec.hostname.as_bytes());
            self.b.op(Op::Hostname { name });
        }
        if !spec.domainname.is_empty() {
            self.b.from("/domainname");
            let name = self.b.bytes(spec.domainname.as_bytes());
            self.b.op(Op::Domainname { name });
        }
    }

    /// Written through the host's procfs: which namespace a sysctl belongs to is decided by who writes, and nothing of the
    /// rootfs can stand in the way (CVE-2025-52881). Keys were checked against the namespaces by `spec::check`.
    pub(super) fn sysctls(&mut self) -> Result<()> {
        let spec = self.spec;
        if spec.linux.sysctl.is_empty() {
            return Ok(());
        }
        let proc = self.proc_dir();
        for (key, value) in &spec.linux.sysctl {
            self.b.from(format!("/linux/sysctl/{}", escape(key)));
            let path = self.b.str(format!("sys/{}", sysctl_path(key)?));
            let into = self.b.scratch(key);
            let flags = (libc::O_WRONLY | libc::O_CLOEXEC) as u32;
            let resolve = resolve::BENEATH | resolve::NO_SYMLINKS | resolve::NO_XDEV;
            self.b.op(Op::Open { dir: Dir::At(proc), path, flags, mode: 0, resolve, into });
            let data = self.b.bytes(value.as_bytes());
            self.b.op(Op::Write { slot: into, data });
        }
        Ok(())
    }

    /// Who the payload is and what it may do. The order is that of docs/order.md.
    pub(super) fn identity(&mut self, filter: Option<&Program>) -> Result<()> {
        let Some(process) = self.process else { return Ok(()) };
        if !self.exec {
            self.lsm()?;
        }
        if process.no_new_privileges {
            self.b.from(self.pointer("/noNewPrivileges"));
            self.b.op(Op::NoNewPrivs);
        }
        self.scheduling(process)?;
        self.b.from(self.pointer("/user"));
        let sets = Sets::after(process, self.host.last_cap);
        if let Some(sets) = sets.filter(|_| process.capabilities.is_some()) {
            self.b.from(self.pointer("/capabilities/bounding"));
            self.b.op(Op::Bounding { keep: sets.bounding, last: self.host.last_cap });
        }
        self.streams(process);
        let env = self.environment(process);
        // Whatever is looked up from here on, no link leads to a descriptor of ours (CVE-2024-21626).
        self.b.from("");
        let keep = [self.given.start, self.given.wire];
        self.b.op(Op::CloseRange { first: 3 + self.preserve_fds as i32, keep });
        self.limits(process);
        self.b.from(self.pointer("/cwd"));
        let cwd = self.b.str(&process.cwd);
        // The container's root may enter where its user may not, and the other way round (root squash).
        self.b.op_skip(Op::Chdir { path: cwd }, &[Errno::ACCESS, Errno::PERM]);
        self.b.from(self.pointer("/user"));
        // Who stays root keeps them anyway: capabilities(7), "Effect of user ID changes on capabilities".
        let keep = process.user.uid != 0;
        if keep {
            self.b.op(Op::KeepCaps { on: true });
        }
        self.user(process);
        if keep {
            self.b.from(self.pointer("/user"));
            self.b.op(Op::KeepCaps { on: false });
        }
        if let Some(sets) = sets {
            self.capabilities(sets, filter.is_some() && needs_admin(process, Some(sets)));
        }
        self.b.from(self.pointer("/cwd"));
        self.b.op(Op::ChdirAgain { path: cwd });
        self.b.op(Op::CheckCwd);
        self.lookup(process);
        self.env = Some(env);
        Ok(())
    }

    fn scheduling(&mut self, process: &Process) -> Result<()> {
        if let Some(scheduler) = &process.scheduler {
            self.b.from(self.pointer("/scheduler"));
            let attr = sched_attr(scheduler).map_err(|e| e.at(self.pointer("/scheduler")))?;
            let attr = self.b.bytes(&attr);
            self.b.op(Op::Scheduler { attr });
        }
        if let Some(priority) = &process.io_priority {
            self.b.from(self.pointer("/ioPriority"));
            let class = ["", "IOPRIO_CLASS_RT", "IOPRIO_CLASS_BE", "IOPRIO_CLASS_IDLE"];
            let class = class.iter().position(|c| *c == priority.class).unwrap_or(0) as u32;
            self.b.op(Op::IoPriority { value: class << 13 | priority.priority as u32 & 7 });
        }
        if let Some(personality) = &self.spec.linux.personality {
            self.b.from("/linux/personality");
            let domain = if personality.domain == "LINUX32" { 8 } else { 0 };
            self.b.op(Op::Personality { domain });
        }
        Ok(())
    }

    /// As late as may be, because they hold for our own steps too. In a user namespace a hard limit cannot be raised, so the
    /// parent sets them while the child waits.
    pub(super) fn limits(&mut self, process: &Process) {
        let files = |process: &Process| process.rlimits.iter().any(|limit| limit.kind == "RLIMIT_NOFILE");
        if let Some(Files { soft, hard }) = self.host.files.filter(|_| !files(process)) {
            // It lowers the soft limit alone, which everybody may; but not when fs.nr_open is below the hard one by now.
            self.b.op_skip(Op::Rlimit { resource: libc::RLIMIT_NOFILE, soft, hard }, &[Errno::PERM]);
        }
        if process.rlimits.is_empty() {
            return;
        }
        let outside = self.wanted.user();
        let (section, from) = self.b.enter(if outside { Section::Limits } else { Section::Child });
        for (i, limit) in process.rlimits.iter().enumerate() {
            self.b.from(self.pointer(&format!("/rlimits/{i}")));
            let resource = RLIMITS.iter().find(|(r, _)| *r == limit.kind).map_or(0, |(_, n)| *n);
            self.b.op(Op::Rlimit { resource, soft: limit.soft, hard: limit.hard });
        }
        self.b.leave(section, from);
    }

    /// Standard input, output and error: the given ones, the terminal, or /dev/null.
    fn streams(&mut self, process: &Process) {
        self.b.from("");
        let mut nulls = Vec::new();
        for fd in 0..3 {
            match (self.tty, self.given.stdio[fd]) {
                (Some(slot), _) => self.b.op(Op::Dup { slot, to: fd as i32 }),
                (None, Some(slot)) => {
                    if process.user.uid != 0 {
                        self.own_stream(slot, process.user.uid);
                    }
                    self.b.op(Op::Dup { slot, to: fd as i32 });
                }
                (None, None) => nulls.push(fd as i32),
            }
        }
        if !nulls.is_empty() {
            self.null_streams(&nulls);
        }
    }

    /// A pipe belongs to the payload's user, so that it can open /dev/stdout again. A device belongs to the host.
    fn own_stream(&mut self, slot: super::Slot, uid: u32) {
        let (device, pipe) = (self.b.label(), self.b.label());
        self.b.op_on(Op::CheckNode { slot, mode: libc::S_IFCHR, dev: 0 }, &[(0, device), (libc::ENODEV, pipe)]);
        self.b.bind(pipe);
        self.b.op_skip(Op::Fchown { slot, uid, gid: u32::MAX }, &[Errno::PERM, Errno::ROFS, Errno::INVAL]);
        self.b.bind(device);
    }

    /// The container's /dev/null, so that nothing of the host's stays open; but only if it is what it should be (CVE-2026-88265). Else
    /// the host's.
    fn null_streams(&mut self, fds: &[i32]) {
        let host = self.host_null();
        let dir = self.container_root();
        let (probe, own) = (self.b.scratch("container's /dev/null"), self.b.scratch("null"));
        let (hosts, done) = (self.b.label(), self.b.label());
        let path = self.b.str("dev/null");
        let place = PLACE | NOFOLLOW;
        let resolve = resolve::IN_ROOT | resolve::NO_SYMLINKS;
        let dir = Dir::At(dir);
        self.b.op_on(Op::Open { dir, path, flags: place, mode: 0, resolve, into: probe }, &[(Edge::ANY, hosts)]);
        let dev = libc::makedev(1, 3);
        self.b.op_on(Op::CheckNode { slot: probe, mode: libc::S_IFCHR, dev }, &[(Edge::ANY, hosts)]);
        let flags = (libc::O_RDWR | libc::O_CLOEXEC | libc::O_NOFOLLOW | libc::O_NONBLOCK) as u32;
        self.b.op_on(Op::Open { dir, path, flags, mode: 0, resolve, into: own }, &[(Edge::ANY, hosts)]);
        // What was looked at and what was opened may differ while others write to the rootfs.
        self.b.op_on(Op::CheckNode { slot: own, mode: libc::S_IFCHR, dev }, &[(Edge::ANY, hosts)]);
        for (i, to) in fds.iter().enumerate() {
            let edges: &[_] = if i + 1 == fds.len() { &[(0, done)] } else { &[] };
            self.b.op_on(Op::Dup { slot: own, to: *to }, edges);
        }
        self.b.bind(hosts);
        for to in fds {
            self.b.op(Op::Dup { slot: host, to: *to });
        }
        self.b.bind(done);
    }

    /// The environment, the last of equal names winning, with room for HOME when it has none.
    fn environment(&mut self, process: &Process) -> super::List {
        let mut seen = BTreeSet::new();
        let mut env: Vec<&String> = process.env.iter().rev().collect();
        env.retain(|e| seen.insert(e.split_once('=').map_or(e.as_str(), |(name, _)| name)) && *e != "HOME=");
        env.reverse();
        if env.iter().any(|e| e.starts_with("HOME=")) {
            return self.b.list(&env, 0);
        }
        let list = self.b.list(&env, 1);
        let room = self.b.bytes(&[0; 1024]);
        self.b.from(self.pointer("/env"));
        let dir = self.container_root();
        self.b.op(Op::Home { dir: Dir::At(dir), uid: process.user.uid, env: list, room });
        list
    }

    /// The caller's groups, before a user namespace is joined that may forbid setgroups(2) for good. Who is to have groups of his
    /// own needs it there.
    pub(super) fn leave_groups(&mut self) {
        if self.process.is_some_and(|p| p.user.additional_gids.is_empty()) {
            self.b.from(self.pointer("/user"));
            let ids = self.b.bytes(&[]);
            self.b.op(Op::Setgroups { ids });
            self.groups_are_left = true;
        }
    }

    fn user(&mut self, process: &Process) {
        let user = &process.user;
        if !self.groups_are_left {
            let ids: Vec<u8> = user.additional_gids.iter().flat_map(|g| g.to_ne_bytes()).collect();
            let ids = self.b.bytes(&ids);
            // Always, also without groups: the caller's must not stay (CVE-2023-25173).
            self.b.op(Op::Setgroups { ids });
        }
        self.b.op(Op::Setgid { gid: user.gid });
        self.b.op(Op::Setuid { uid: user.uid });
        self.b.from(self.pointer("/user/umask"));
        self.b.op(Op::Umask { mask: user.umask.unwrap_or(0o022) & 0o777 });
    }

    fn capabilities(&mut self, sets: Sets, keep_admin: bool) {
        self.b.from(self.pointer("/capabilities"));
        let extra = if keep_admin { SYS_ADMIN } else { 0 };
        let Sets { effective, permitted, inheritable, ambient, .. } = sets;
        self.b.op(Op::Capset { effective, permitted: permitted | extra, inheritable });
        self.b.from(self.pointer("/capabilities/ambient"));
        self.b.op_skip(Op::AmbientClear, &[Errno::INVAL]);
        for cap in (0..64u8).filter(|c| ambient >> c & 1 != 0) {
            self.b.op_skip(Op::AmbientRaise { cap }, &[Errno::PERM]);
        }
    }

    /// PATH look-up inside the container as its user: what cannot be executed fails the create, as it does with runc.
    fn lookup(&mut self, process: &Process) {
        let Some(name) = process.args.first() else { return };
        self.b.from(self.pointer("/args/0"));
        if name.contains('/') {
            let path = self.b.str(name);
            return self.b.op(Op::Lookup { path });
        }
        let path = process.env.iter().rev().find_map(|e| e.strip_prefix("PATH=")).unwrap_or("");
        let found = self.b.label();
        for dir in path.split(':').filter(|_| !path.is_empty()) {
            let next = self.b.label();
            let dir = if dir.is_empty() { "." } else { dir };
            let path = self.b.str(format!("{}/{name}", dir.trim_end_matches('/')));
            self.b.op_on(Op::Lookup { path }, &[(0, found), (Edge::ANY, next)]);
            self.b.bind(next);
        }
        let name = self.b.str(name);
        self.b.op(Op::LookupFailed { name });
        self.b.bind(found);
    }

    /// The gate of init, the filter, the last hooks, and the payload.
    pub(super) fn start(&mut self, filter: Option<&Program>) {
        let early = filter.filter(|filter| filter.notify && self.started_by_others);
        if let (Some(process), Some(filter)) = (self.process, early) {
            // Only its maker hears of its listener.
            self.load_filter(process, filter);
        }
        self.b.from("");
        if !self.exec {
            self.gate(Gate::Start);
        } else if self.by_thread {
            self.b.op(Op::AwaitParent { wait: self.given.wire });
        } else if self.wanted.user() && self.process.is_some_and(|p| !p.rlimits.is_empty()) {
            self.gate(Gate::Limits);
        }
        let Some(process) = self.process else { return };
        if let Some(filter) = filter.filter(|_| early.is_none()) {
            self.load_filter(process, filter);
        }
        if !self.exec {
            self.start_container_hooks();
        }
        self.b.from(self.pointer("/args"));
        for fd in 3..3 + self.preserve_fds as i32 {
            self.b.op(Op::Inherit { fd });
        }
        let argv = self.b.list(&process.args, 0);
        let envp = self.env.unwrap_or(super::List { at: 0, len: 0 });
        self.b.op(Op::Exec { argv, envp });
    }

    /// As late as possible, so that the profile has to allow nothing for our sake but capset and execve (and write, read and close with a listener). Without
    /// no_new_privs it takes CAP_SYS_ADMIN (seccomp(2)): where the payload may not keep that one it was left in the permitted
    /// set until now, made effective for the one call, and is dropped for good right after.
    fn load_filter(&mut self, process: &Process, filter: &Program) {
        let sets = Sets::after(process, self.host.last_cap);
        let borrow = sets.filter(|_| needs_admin(process, sets));
        self.b.from("/linux/seccomp");
        if let Some(s) = borrow {
            let (effective, permitted) = (s.effective | SYS_ADMIN, s.permitted | SYS_ADMIN);
            self.b.op(Op::Capset { effective, permitted, inheritable: s.inheritable });
        }
        let listener = filter.notify.then(|| self.b.slot("seccomp listener"));
        self.b.op(Op::Seccomp { flags: filter.flags, listener });
        if let Some(slot) = listener {
            // At once: somebody has to hear of what comes next, and later of an execve whose caller held it open for ever.
            self.gate(Gate::Listener);
            let left = self.b.label();
            self.b.op_on(Op::Close { slot }, &[(Edge::ANY, left)]);
            self.b.bind(left);
        }
        if let Some(Sets { effective, permitted, inheritable, .. }) = borrow {
            self.b.op(Op::Capset { effective, permitted, inheritable });
        }
    }
}

/// The bits of a CPU list such as `0-3,7`; checked by `spec::check`.
fn mask(list: &str) -> Vec<u8> {
    let mut mask = vec![0u8; 1024];
    for range in list.split(',').filter(|r| !r.is_empty()) {
        let (from, to) = range.split_once('-').unwrap_or((range, range));
        let number = |s: &str| s.trim().parse::<usize>().unwrap_or(usize::MAX);
        for cpu in number(from)..=number(to).min(8191) {
            mask[cpu / 8] |= 1 << (cpu % 8);
        }
    }
    mask
}

/// `struct sched_attr` of sched_setattr(2): 48 bytes, and 8 more for clamps, which the kernel wants there then. The specification has
/// no values for them.
fn sched_attr(s: &crate::spec::Scheduler) -> Result<Vec<u8>> {
    let policies =
        ["SCHED_OTHER", "SCHED_FIFO", "SCHED_RR", "SCHED_BATCH", "SCHED_ISO", "SCHED_IDLE", "SCHED_DEADLINE"];
    let policy = policies.iter().position(|p| *p == s.policy);
    let policy = policy.ok_or_else(|| Error::invalid("", format!("invalid scheduler policy {:?}", s.policy)))? as u32;
    let names = [
        ("SCHED_FLAG_RESET_ON_FORK", 1u64),
        ("SCHED_FLAG_RECLAIM", 2),
        ("SCHED_FLAG_DL_OVERRUN", 4),
        ("SCHED_FLAG_KEEP_POLICY", 8),
        ("SCHED_FLAG_KEEP_PARAMS", 16),
        ("SCHED_FLAG_UTIL_CLAMP_MIN", 32),
        ("SCHED_FLAG_UTIL_CLAMP_MAX", 64),
    ];
    let mut flags = 0;
    for flag in &s.flags {
        let known = names.iter().find(|(n, _)| n == flag);
        flags |= known.ok_or_else(|| Error::invalid("", format!("invalid scheduler flag {flag:?}")))?.1;
    }
    let size = if flags & (32 | 64) == 0 { 48 } else { 56u32 };
    let mut out = Vec::with_capacity(size as usize);
    out.extend(size.to_ne_bytes());
    out.extend(policy.to_ne_bytes());
    out.extend(flags.to_ne_bytes());
    out.extend(s.nice.to_ne_bytes());
    out.extend(s.priority.to_ne_bytes());
    for value in [s.runtime, s.deadline, s.period] {
        out.extend(value.to_ne_bytes());
    }
    out.resize(size as usize, 0);
    Ok(out)
}
