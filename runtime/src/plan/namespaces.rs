//! Which namespaces are made by clone3, which are joined, which are unshared later, and in which order.

use rustix::io::Errno;

use super::compile::Compiler;
use super::{Dir, Gate, Op, Section, Slot};
use crate::spec::check::{escape, sysctl_path};
use crate::spec::{IdMapping, NamespaceKind, Spec};

/// CLONE_NEW* bit of a kind.
pub fn flag(kind: NamespaceKind) -> u64 {
    (match kind {
        NamespaceKind::Pid => libc::CLONE_NEWPID,
        NamespaceKind::Network => libc::CLONE_NEWNET,
        NamespaceKind::Mount => libc::CLONE_NEWNS,
        NamespaceKind::Ipc => libc::CLONE_NEWIPC,
        NamespaceKind::Uts => libc::CLONE_NEWUTS,
        NamespaceKind::User => libc::CLONE_NEWUSER,
        NamespaceKind::Cgroup => libc::CLONE_NEWCGROUP,
        NamespaceKind::Time => 0x80,
    }) as u64
}

const USER: u64 = libc::CLONE_NEWUSER as u64;
const PID: u64 = libc::CLONE_NEWPID as u64;
const CGROUP: u64 = libc::CLONE_NEWCGROUP as u64;
const TIME: u64 = 0x80;

/// The namespaces of a spec.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// CLONE_NEW* of those to be made.
    pub new: u64,
    /// Those to be joined: flag, path, index in `/linux/namespaces`.
    pub joined: Vec<(u64, String, usize)>,
}

impl Wanted {
    /// Sorts `/linux/namespaces`.
    pub fn of(spec: &Spec) -> Self {
        let mut wanted = Self::default();
        for (i, ns) in spec.linux.namespaces.iter().enumerate() {
            match ns.path.as_str() {
                "" => wanted.new |= flag(ns.kind),
                path => wanted.joined.push((flag(ns.kind), path.to_owned(), i)),
            }
        }
        wanted
    }

    /// All that the container has of its own or shares by path.
    pub fn all(&self) -> u64 {
        self.joined.iter().fold(self.new, |all, (flag, ..)| all | flag)
    }

    /// True if this kind is in the list at all.
    pub fn has(&self, kind: NamespaceKind) -> bool {
        self.all() & flag(kind) != 0
    }

    /// True if a namespace of this kind is made for it.
    pub fn new_has(&self, kind: NamespaceKind) -> bool {
        self.new & flag(kind) != 0
    }

    /// True if the container lives in a user namespace, its own or a joined one.
    pub fn user(&self) -> bool {
        self.all() & USER != 0
    }

    /// A user namespace that is joined, or that is made after others were joined with the rights of the host: a new pid
    /// namespace that is to belong to it takes one more clone.
    fn respawns_user(&self) -> bool {
        self.joins(USER) || self.new & USER != 0 && !self.joined.is_empty()
    }

    fn joins(&self, flag: u64) -> bool {
        self.joined.iter().any(|(f, ..)| *f == flag)
    }

    /// What clone3 makes. A user namespace comes first and alone, because what is made beside it while its ids are unmapped
    /// belongs to nobody (runc's nsexec.c); only the pid namespace has to be made by the same call. The cgroup namespace is
    /// rooted where its maker is, so it waits until the group is joined; a time namespace waits for its offsets.
    pub fn clone_flags(&self) -> u64 {
        if self.respawns_user() {
            0
        } else if self.new & USER != 0 {
            self.new & (USER | PID)
        } else {
            self.new & !(CGROUP | TIME)
        }
    }
}

impl Compiler<'_> {
    /// Joins and makes all namespaces but the cgroup one. Sources: namespaces(7), user_namespaces(7), time_namespaces(7).
    pub(super) fn enter_namespaces(&mut self) {
        let wanted = self.wanted.clone();
        let slots = self.open_joined();
        let joins_user = wanted.joins(USER);
        let others = |flag| flag & (USER | PID) == 0;
        let setns = |slot, flags| Op::Setns { slot, flags };
        if joins_user {
            // What the host owns can be joined before, what the user namespace owns after.
            self.join(&slots, others, setns, &[Errno::PERM]);
            self.leave_groups();
            self.join(&slots, |flag| flag == USER, setns, &[]);
            self.become_root();
            self.join(&slots, others, |slot, flags| Op::SetnsAgain { slot, flags }, &[]);
        } else {
            self.join(&slots, others, setns, &[]);
        }
        if wanted.new & USER != 0 {
            if wanted.respawns_user() {
                self.from(NamespaceKind::User);
                self.b.op(Op::Unshare { flags: USER });
            }
            self.map_ids();
        }
        if wanted.respawns_user() && wanted.new & PID != 0 {
            self.from(NamespaceKind::Pid);
            self.b.op(Op::Respawn { flags: PID });
            self.gate(Gate::Respawned);
        }
        let rest = wanted.new & !(wanted.clone_flags() | USER | PID | CGROUP | TIME);
        if rest != 0 {
            self.b.from("/linux/namespaces");
            self.b.op(Op::Unshare { flags: rest });
        }
        if wanted.new & TIME != 0 && wanted.new & USER == 0 {
            self.new_time_namespace();
        }
        if wanted.new & libc::CLONE_NEWNET as u64 != 0 {
            self.from(NamespaceKind::Network);
            self.b.op(Op::Loopback);
        }
    }

    fn open_joined(&mut self) -> Vec<(u64, Slot, usize)> {
        let mut slots = Vec::new();
        self.b.section(Section::Prepare);
        for (flag, path, i) in self.wanted.joined.clone() {
            self.b.from(format!("/linux/namespaces/{i}/path"));
            let into = self.b.slot(&path);
            let path = self.b.str(path);
            let flags = (libc::O_RDONLY | libc::O_CLOEXEC | libc::O_NONBLOCK) as u32;
            self.b.op(Op::Open { dir: Dir::Cwd, path, flags, mode: 0, resolve: 0, into });
            if flag == PID {
                self.joined_pid = Some((into, i));
            }
            if flag == libc::CLONE_NEWNET as u64 {
                self.foreign(into);
            }
            slots.push((flag, into, i));
        }
        self.b.section(Section::Child);
        slots
    }

    /// The parent's last step: until its child is made, it makes no more threads, nor processes of its own.
    pub(super) fn join_pid_namespace(&mut self) {
        let Some((slot, i)) = self.joined_pid else { return };
        self.b.section(Section::Prepare);
        self.b.from(format!("/linux/namespaces/{i}/path"));
        self.b.op(Op::ChildrenPid { slot });
        self.b.section(Section::Child);
    }

    /// Sysctls of the network are not for that of whoever makes the container, which is the host's.
    fn foreign(&mut self, slot: Slot) {
        let of_network = |key: &&String| sysctl_path(key).is_ok_and(|path| path.starts_with("net/"));
        let spec = self.spec;
        if let Some(key) = spec.linux.sysctl.keys().find(of_network) {
            self.b.from(format!("/linux/sysctl/{}", escape(key)));
            let sysctl = self.b.str(key);
            self.b.op(Op::CheckForeign { slot, sysctl });
        }
    }

    fn join(
        &mut self,
        slots: &[(u64, Slot, usize)],
        which: impl Fn(u64) -> bool,
        op: impl Fn(Slot, u64) -> Op,
        may: &[Errno],
    ) {
        for (flags, slot, i) in slots.iter().copied().filter(|(flag, ..)| which(*flag)) {
            self.b.from(format!("/linux/namespaces/{i}"));
            self.b.op_skip(op(slot, flags), may);
        }
    }

    /// Until the ids are mapped we are nobody; afterwards we must say that we are root, or files we make belong to nobody.
    /// A map without id 0 has no root to become.
    pub(super) fn become_root(&mut self) {
        self.b.op_skip(Op::Setgid { gid: 0 }, &[Errno::INVAL]);
        self.b.op_skip(Op::Setuid { uid: 0 }, &[Errno::INVAL]);
    }

    fn map_ids(&mut self) {
        let spec = self.spec;
        let process = self.process_dir();
        if self.wanted.new & TIME != 0 {
            // Before the gate, so that the parent can write the offsets: the file belongs to the host's root.
            self.from(NamespaceKind::Time);
            self.b.op(Op::Unshare { flags: TIME });
        }
        self.from(NamespaceKind::User);
        self.gate(Gate::Maps);
        self.b.section(Section::Maps);
        for (file, map, pointer) in [
            ("uid_map", &spec.linux.uid_mappings, "/linux/uidMappings"),
            ("gid_map", &spec.linux.gid_mappings, "/linux/gidMappings"),
        ] {
            self.b.from(pointer);
            self.write_file(Dir::At(process), file, map_text(map).as_bytes());
        }
        if self.wanted.new & TIME != 0 && !spec.linux.time_offsets.is_empty() {
            self.b.from("/linux/timeOffsets");
            let offsets = self.offsets();
            self.write_file(Dir::At(process), "timens_offsets", offsets.as_bytes());
        }
        self.b.section(Section::Child);
        self.from(NamespaceKind::User);
        self.become_root();
        if self.wanted.new & TIME != 0 {
            self.enter_time_namespace();
        }
    }

    fn offsets(&self) -> String {
        let lines = self.spec.linux.time_offsets.iter();
        lines.map(|(clock, o)| format!("{clock} {} {}\n", o.secs, o.nanosecs)).collect()
    }

    /// unshare(2) makes a time namespace for children only; its offsets can be set until somebody enters. setns(2) moves
    /// the caller itself, so that no further process is needed.
    fn new_time_namespace(&mut self) {
        self.from(NamespaceKind::Time);
        self.b.op(Op::Unshare { flags: TIME });
        if !self.spec.linux.time_offsets.is_empty() {
            self.b.from("/linux/timeOffsets");
            let offsets = self.offsets();
            let proc = self.proc_dir();
            self.write_file(Dir::At(proc), "self/timens_offsets", offsets.as_bytes());
        }
        self.enter_time_namespace();
    }

    fn enter_time_namespace(&mut self) {
        self.from(NamespaceKind::Time);
        let proc = self.proc_dir();
        let into = self.b.scratch("time");
        let path = self.b.str("self/ns/time_for_children");
        let flags = (libc::O_RDONLY | libc::O_CLOEXEC) as u32;
        self.b.op(Op::Open { dir: Dir::At(proc), path, flags, mode: 0, resolve: 0, into });
        self.b.op(Op::Setns { slot: into, flags: TIME });
    }

    /// What follows was asked for by the entry of this kind.
    pub(super) fn from(&mut self, kind: NamespaceKind) {
        let i = self.spec.linux.namespaces.iter().position(|n| n.kind == kind).unwrap_or(0);
        self.b.from(format!("/linux/namespaces/{i}"));
    }

    /// The cgroup namespace, once the group is joined.
    pub(super) fn cgroup_namespace(&mut self) {
        if self.wanted.new & CGROUP != 0 {
            self.from(NamespaceKind::Cgroup);
            self.b.op(Op::Unshare { flags: CGROUP });
        }
    }
}

/// The lines of a uid_map or gid_map file, see user_namespaces(7).
pub fn map_text(map: &[IdMapping]) -> String {
    map.iter().map(|m| format!("{} {} {}\n", m.container_id, m.host_id, m.size)).collect()
}
