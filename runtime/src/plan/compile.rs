//! The order of stages, for init and for exec, on one screen. Each stage lives in the file it is named after.
//!
//! The order is that of docs/order.md, which says for each step what goes wrong when it is moved.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::namespaces::{Wanted, flag};
use super::rootfs::{Root, resolve};
use super::{Builder, Dir, Gate, Given, Op, Plan, Section, Slot};
use crate::error::{Error, Result};
use crate::host::Host;
use crate::seccomp;
use crate::spec::{NamespaceKind, Process, Spec};

/// The container's group in one hierarchy, as far as a plan needs to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Name of its directory below /sys/fs/cgroup: `memory`, `cpu,cpuacct`, `systemd`; empty for v2.
    pub name: String,
    /// The group's directory.
    pub path: PathBuf,
    /// Mount point of the hierarchy.
    pub mount: PathBuf,
    /// Mount data of the hierarchy: `memory`, `none,name=systemd`.
    pub data: String,
    /// The cgroup2 tree of a hybrid or unified host.
    pub unified: bool,
}

/// True if the container gets a pid namespace of its own.
pub fn makes_pid_namespace(spec: &Spec) -> bool {
    Wanted::of(spec).new_has(NamespaceKind::Pid)
}

/// True if the namespaces of this container can be joined by one thread of several: setns(2) of a user or a time namespace wants
/// its caller to be alone.
pub fn thread_may_join(spec: &Spec) -> bool {
    let wanted = Wanted::of(spec);
    wanted.has(NamespaceKind::Pid) && !wanted.user() && !wanted.has(NamespaceKind::Time)
}

/// How an exec gets into its container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// A child joins it and, if there is a pid namespace, makes way for a second one.
    Child,
    /// A thread of the caller's joins it and makes the process: [`thread_may_join`]. Faster, for that costs neither a copy of the
    /// caller's memory nor a round trip.
    Thread {
        /// The process is to be born in a version 2 group. Its directory is handed over as the root of a mount of its own, because
        /// the process is seen in the container while it has that open.
        group: bool,
    },
}

/// What a container is asked to be.
#[derive(Clone, Debug)]
pub struct Init<'a> {
    /// Checked spec.
    pub spec: &'a Spec,
    /// Facts about this machine.
    pub host: &'a Host,
    /// Container id.
    pub id: &'a str,
    /// Absolute path of the bundle.
    pub bundle: &'a Path,
    /// Its groups.
    pub groups: &'a [Group],
    /// Paths of the files through which the child joins those of version 1, for people.
    pub tasks: &'a [String],
    /// Which of stdin, stdout and stderr the caller hands over; the others are /dev/null.
    pub stdio: [bool; 3],
    /// Move the root instead of pivot_root(2), for an initramfs.
    pub no_pivot: Option<&'a [PathBuf]>,
    /// Do not make a session keyring.
    pub no_new_keyring: bool,
    /// Descriptors from 3 on that the payload inherits.
    pub preserve_fds: u32,
    /// Whoever makes it is gone when it is started.
    pub started_by_others: bool,
}

/// What a further process of a container is asked to be.
#[derive(Clone, Debug)]
pub struct Exec<'a> {
    /// The container's spec.
    pub spec: &'a Spec,
    /// The process, checked.
    pub process: &'a Process,
    /// See [`Way`].
    pub way: Way,
    /// Facts about this machine.
    pub host: &'a Host,
    /// Container id.
    pub id: &'a str,
    /// Its groups.
    pub groups: &'a [Group],
    /// Paths of the files through which the child joins those of version 1, for people.
    pub tasks: &'a [String],
    /// See [`Init::stdio`].
    pub stdio: [bool; 3],
    /// See [`Init::no_new_keyring`].
    pub no_new_keyring: bool,
    /// See [`Init::preserve_fds`].
    pub preserve_fds: u32,
}

/// A mount of procfs or sysfs: what is masked there is looked up in the mount itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kernel {
    pub slot: Slot,
    /// It shows what a new one shows, each name where it belongs.
    pub fresh: bool,
    /// Of its file system.
    pub magic: u32,
}

/// The state of a compilation.
pub struct Compiler<'a> {
    pub(super) b: Builder,
    pub(super) spec: &'a Spec,
    pub(super) process: Option<&'a Process>,
    /// Prefix of the process' pointers: `/process`, or empty for an exec.
    pub(super) at: &'static str,
    pub(super) host: &'a Host,
    pub(super) id: &'a str,
    pub(super) bundle: &'a Path,
    pub(super) groups: &'a [Group],
    pub(super) wanted: Wanted,
    pub(super) given: Given,
    pub(super) exec: bool,
    /// A thread joins the container.
    pub(super) by_thread: bool,
    pub(super) no_new_keyring: bool,
    pub(super) started_by_others: bool,
    /// The payload has none, and the caller's are gone already.
    pub(super) groups_are_left: bool,
    pub(super) preserve_fds: u32,
    pub(super) root: Option<Root>,
    pub(super) tty: Option<Slot>,
    pub(super) env: Option<super::List>,
    /// File systems of our own making, by destination: what they hold is known.
    pub(super) mounted: BTreeMap<String, Slot>,
    /// Mounts of procfs and sysfs, by destination.
    pub(super) kernel: BTreeMap<String, Kernel>,
    /// Contexts of file systems that a later entry of `/mounts` changes, by destination.
    pub(super) contexts: BTreeMap<String, Slot>,
    pub(super) late_ro: Vec<(Slot, String)>,
    /// Where the working directory is while mounts are made.
    pub(super) cwd: Option<Slot>,
    proc: Option<Slot>,
    null: Option<Slot>,
    foreign: Option<Slot>,
    /// The pid namespace that is joined, and its place in the list.
    pub(super) joined_pid: Option<(Slot, usize)>,
    process_dir: Option<Slot>,
}

/// Compiles the first process of a container.
///
/// Errors name the pointer of what this host cannot do. Nothing is touched.
pub fn init(request: &Init<'_>) -> Result<Plan> {
    if request.spec.process.is_none() {
        return Err(Error::invalid("/process", "must not be empty"));
    }
    let mut c = Compiler::new(request.spec, request.host, request.id, request.groups, request.tasks, request.stdio);
    c.process = request.spec.process.as_ref();
    c.at = "/process";
    c.bundle = request.bundle;
    c.no_new_keyring = request.no_new_keyring;
    c.started_by_others = request.started_by_others;
    c.preserve_fds = request.preserve_fds;
    let filter = c.filter()?;

    c.rootfs_tree(request.no_pivot.is_some())?;
    c.join_cgroups();
    c.oom_score_adj();
    c.affinity();
    c.keyring();
    c.enter_namespaces();
    if c.wanted.user() {
        // Root of the container owns this one. Where its quota is used up, the other stays, and never the caller's.
        c.keyring();
    }
    c.session();
    c.cgroup_namespace();
    c.attach_rootfs();
    c.mounts()?;
    c.leave_foreign_mounts();
    c.devices();
    c.outside_hooks();
    c.create_container_hooks();
    c.make_cwd();
    c.look_again();
    c.masked_paths();
    c.readonly_paths();
    c.enter_rootfs(request.no_pivot);
    c.terminal();
    c.late_read_only();
    c.names();
    c.sysctls()?;
    c.identity(filter.as_ref())?;
    c.start(filter.as_ref());
    c.join_pid_namespace();
    c.finish(filter)
}

/// Compiles a further process. Its tail is that of [`init`].
pub fn exec(request: &Exec<'_>) -> Result<Plan> {
    let mut c = Compiler::new(request.spec, request.host, request.id, request.groups, request.tasks, request.stdio);
    c.process = Some(request.process);
    c.at = "";
    c.exec = true;
    c.no_new_keyring = request.no_new_keyring;
    c.preserve_fds = request.preserve_fds;
    let filter = c.filter()?;

    if let Way::Thread { group } = request.way {
        c.join_by_thread(group)?;
    } else {
        c.join_cgroups();
        c.oom_score_adj();
        c.lsm()?;
        c.join_by_child();
    }
    c.affinity();
    c.session();
    c.keyring();
    c.terminal();
    c.identity(filter.as_ref())?;
    c.start(filter.as_ref());
    c.finish(filter)
}

impl<'a> Compiler<'a> {
    fn new(
        spec: &'a Spec,
        host: &'a Host,
        id: &'a str,
        groups: &'a [Group],
        tasks: &[String],
        stdio: [bool; 3],
    ) -> Self {
        let mut b = Builder::new();
        let wire = b.slot("wire");
        let start = b.slot("start");
        let tasks = tasks.iter().map(|path| b.slot(path)).collect();
        let mut stdio = stdio.iter().zip(["stdin", "stdout", "stderr"]).map(|(on, name)| on.then(|| b.slot(name)));
        let stdio = [stdio.next().flatten(), stdio.next().flatten(), stdio.next().flatten()];
        let given = Given { wire, start, tasks, stdio, group: None, init: None, process: None, root: None };
        Self {
            b,
            spec,
            process: None,
            at: "",
            host,
            id,
            bundle: Path::new(""),
            groups,
            wanted: Wanted::of(spec),
            given,
            exec: false,
            by_thread: false,
            no_new_keyring: false,
            started_by_others: false,
            groups_are_left: false,
            preserve_fds: 0,
            root: None,
            tty: None,
            env: None,
            mounted: BTreeMap::new(),
            kernel: BTreeMap::new(),
            contexts: BTreeMap::new(),
            late_ro: Vec::new(),
            cwd: None,
            proc: None,
            null: None,
            foreign: None,
            joined_pid: None,
            process_dir: None,
        }
    }

    fn filter(&self) -> Result<Option<seccomp::Program>> {
        let profile = self.spec.linux.seccomp.as_ref().filter(|profile| !profile.asks_for_nothing());
        let Some(profile) = profile else { return Ok(None) };
        seccomp::compile(profile, self.host.arch, &self.host.seccomp).map(Some)
    }

    fn finish(self, filter: Option<seccomp::Program>) -> Result<Plan> {
        let flags = if self.exec { 0 } else { self.wanted.clone_flags() };
        self.b.finish(flags, self.given, filter.map_or_else(Default::default, |f| f.filter.into()))
    }

    /// The first steps of every child: nothing of the parent's may stay, and the group is joined before anything costs.
    fn join_cgroups(&mut self) {
        self.b.section(Section::Child);
        self.b.from("");
        self.b.op(Op::CloseOthers);
        self.b.op(Op::Signals);
        self.initial_affinity();
        self.write_tasks();
    }

    fn write_tasks(&mut self) {
        self.b.from("/linux/cgroupsPath");
        let zero = self.b.bytes(b"0");
        for slot in self.given.tasks.clone() {
            self.b.op(Op::Write { slot, data: zero });
        }
    }

    /// A process that was born into the container's pid namespace before it had left the host's tree could be looked into from
    /// there, by whoever has CAP_SYS_PTRACE (CVE-2016-9962). So a second one goes on, born when all is joined. For the same
    /// reason nothing that leads to the host is open any more by then.
    fn join_by_child(&mut self) {
        self.b.from("");
        for slot in self.given.tasks.clone() {
            self.b.op(Op::Close { slot });
        }
        self.join_namespaces(self.wanted.all());
        if self.wanted.has(NamespaceKind::Pid) {
            self.b.from("/linux/namespaces");
            self.b.op(Op::Respawn { flags: 0 });
            self.gate(Gate::Respawned);
        }
    }

    /// The same, with a thread as the first of the two. It shares our memory, our signals and all that belongs to the process,
    /// so it does what concerns a thread alone; and it enters no group, where it would be frozen, throttled or
    /// killed with the others while it holds our memory, or be taken for a process of the container's. The files by which the
    /// process does that lead to nothing but its own groups.
    fn join_by_thread(&mut self, group: bool) -> Result<()> {
        self.by_thread = true;
        self.b.section(Section::Child);
        self.b.from("");
        self.b.op(Op::CloseOthers);
        self.initial_affinity();
        self.lsm()?;
        // From inside a cgroup namespace no group outside of it is reached: ENOENT (nsdelegate, cgroups(7)), before Linux 5.16 also
        // through a file that was opened outside.
        let later = self.wanted.all() & flag(NamespaceKind::Cgroup);
        let init = self.join_namespaces(self.wanted.all() & !later);
        self.given.group = group.then(|| self.b.slot("group"));
        self.b.from("");
        self.b.op(Op::Fork { into: self.given.group });
        self.b.op(Op::Signals);
        self.write_tasks();
        self.b.from("");
        for slot in self.given.tasks.clone().into_iter().chain(self.given.group) {
            self.b.op(Op::Close { slot });
        }
        if later != 0 {
            self.b.from("/linux/namespaces");
            self.b.op(Op::Setns { slot: init, flags: later });
        }
        self.oom_score_adj();
        Ok(())
    }

    /// The container's namespaces all at once, by its init's pidfd (setns(2), Linux 5.8), whose slot it gives. The pid namespace
    /// only concerns children.
    fn join_namespaces(&mut self, flags: u64) -> Slot {
        let init = self.b.slot("init");
        self.given.init = Some(init);
        self.b.from("");
        if let Some(slot) = self.proc.take() {
            self.b.op(Op::Close { slot });
        }
        if self.wanted.user() {
            self.leave_groups();
        }
        if flags != 0 {
            self.b.from("/linux/namespaces");
            self.b.op(Op::Setns { slot: init, flags });
        }
        if self.wanted.user() {
            self.become_root();
        }
        if !self.wanted.has(NamespaceKind::Mount) {
            let root = self.b.slot("root");
            self.given.root = Some(root);
            self.b.from("/root/path");
            self.b.op(Op::Fchdir { slot: root });
            let dot = self.b.str(".");
            self.b.op(Op::Chroot { path: dot });
        }
        init
    }

    /// The host's /proc, opened and checked by the parent: what the child writes there cannot be redirected by anything the
    /// rootfs has at that path (CVE-2019-16884, CVE-2025-52881).
    pub(super) fn proc_dir(&mut self) -> Slot {
        if let Some(slot) = self.proc {
            return slot;
        }
        let slot = self.b.slot("/proc");
        self.trusted("/proc", libc::O_PATH | libc::O_DIRECTORY, slot);
        let (section, from) = self.b.enter(Section::Prepare);
        self.b.op(Op::CheckFs { slot, magic: PROC_SUPER_MAGIC, is: true });
        self.b.leave(section, from);
        self.proc = Some(slot);
        slot
    }

    /// The host's /dev/null, opened and checked by the parent before the rootfs is touched (CVE-2025-31133).
    pub(super) fn host_null(&mut self) -> Slot {
        if let Some(slot) = self.null {
            return slot;
        }
        let slot = self.b.slot("/dev/null");
        self.trusted("/dev/null", libc::O_RDWR, slot);
        let (section, from) = self.b.enter(Section::Prepare);
        self.b.op(Op::CheckNode { slot, mode: libc::S_IFCHR, dev: libc::makedev(1, 3) });
        self.b.leave(section, from);
        self.null = Some(slot);
        slot
    }

    /// The host's mounts in a namespace that copies of them are made in for a user namespace.
    pub(super) fn foreign_mounts(&mut self) -> Slot {
        if let Some(slot) = self.foreign {
            return slot;
        }
        let into = self.b.slot("locked mounts");
        let (section, from) = self.b.enter(Section::Prepare);
        self.b.op(Op::ForeignMounts { into });
        self.b.leave(section, from);
        *self.foreign.insert(into)
    }

    /// All copies are made. The child must not have what leads to the host.
    fn leave_foreign_mounts(&mut self) {
        let Some(slot) = self.foreign else { return };
        let (section, from) = self.b.enter(Section::Prepare);
        self.b.op(Op::Close { slot });
        self.b.leave(section, from);
    }

    fn trusted(&mut self, path: &str, flags: i32, into: Slot) {
        let (section, from) = self.b.enter(Section::Prepare);
        let path = self.b.str(path);
        let flags = (flags | libc::O_CLOEXEC) as u32;
        self.b.op(Op::Open { dir: Dir::Cwd, path, flags, mode: 0, resolve: 0, into });
        self.b.leave(section, from);
    }

    /// The child's own /proc/PID, for the parent's steps.
    pub(super) fn process_dir(&mut self) -> Slot {
        if let Some(slot) = self.process_dir {
            return slot;
        }
        let slot = self.b.slot("/proc/PID");
        self.given.process = Some(slot);
        self.process_dir = Some(slot);
        slot
    }

    /// Opens and writes a small file of a checked procfs: no other file system's, whatever is mounted over it, and
    /// none that a magic link leads to (CVE-2025-52881). `self` is an ordinary link.
    pub(super) fn write_file(&mut self, dir: Dir, path: &str, data: &[u8]) {
        let slot = self.b.scratch(path);
        let path = self.b.str(path);
        let data = self.b.bytes(data);
        let flags = (libc::O_WRONLY | libc::O_CLOEXEC) as u32;
        let resolve = resolve::BENEATH | resolve::NO_MAGICLINKS | resolve::NO_XDEV;
        self.b.op(Op::Open { dir, path, flags, mode: 0, resolve, into: slot });
        self.b.op(Op::Write { slot, data });
        if self.exec {
            // Nothing that leads to the host may be open when the container is joined.
            self.b.op(Op::Close { slot });
        }
    }

    pub(super) fn gate(&mut self, gate: Gate) {
        let wait = if gate == Gate::Start { self.given.start } else { self.given.wire };
        self.b.op(Op::Gate { gate, wire: self.given.wire, wait });
    }

    /// A pointer below the process.
    pub(super) fn pointer(&self, field: &str) -> String {
        format!("{}{field}", self.at)
    }

    pub(super) fn refuse(&self, pointer: impl Into<String>, reason: &str) -> Error {
        Error::unsupported(pointer, reason)
    }
}

/// linux/magic.h
pub(super) const PROC_SUPER_MAGIC: u32 = 0x9fa0;
/// linux/magic.h
pub(super) const SYSFS_MAGIC: u32 = 0x6265_6572;
/// linux/magic.h
pub(super) const DEVPTS_SUPER_MAGIC: u32 = 0x1cd1;
