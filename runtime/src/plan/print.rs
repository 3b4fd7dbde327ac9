//! Plans as text: one line per step, stable enough to be compared with a checked-in copy.

use std::fmt::{self, Write};

use super::{Bytes, Dir, Edge, List, Op, Plan, Section, Slot, Step, Str};
use crate::spec::words::{CAPABILITIES, RLIMITS};

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for section in [Section::Prepare, Section::Child, Section::Maps, Section::Limits] {
            let steps = self.section(section);
            if steps.is_empty() {
                continue;
            }
            write!(f, "{}", section.name())?;
            if section == Section::Child {
                write!(f, " clone3 {:#x}", self.clone_flags)?;
            }
            writeln!(f)?;
            let mut from = None;
            for (i, step) in steps.iter().enumerate() {
                if from != Some(step.from) {
                    writeln!(f, "  # {}", self.text(step.from))?;
                    from = Some(step.from);
                }
                writeln!(f, "  {i:3} {}", self.line(step))?;
            }
        }
        if !self.filter.is_empty() {
            writeln!(f, "seccomp {} instructions", self.filter.len())?;
        }
        Ok(())
    }
}

impl Section {
    /// Its name in a printed plan.
    pub fn name(self) -> &'static str {
        match self {
            Section::Prepare => "prepare",
            Section::Child => "child",
            Section::Maps => "maps",
            Section::Limits => "limits",
        }
    }
}

impl Plan {
    /// One step, with the names of its slots and the text of its strings.
    fn line(&self, step: &Step) -> String {
        let mut line = self.resolve(&as_written(&format!("{:?}", step.op)));
        for Edge { errno, to } in step.on.0.iter().flatten() {
            let what = match *errno {
                0 => "ok".to_owned(),
                Edge::ANY => "any".to_owned(),
                n => {
                    rustix::io::Errno::from_raw_os_error(n).to_string().split(" (").next().unwrap_or("").to_lowercase()
                }
            };
            let _infallible = write!(line, " [{what} -> {to}]");
        }
        line
    }

    /// Replaces the indexes in a derived `Debug` by what they stand for, so that no operation needs a printer of its own.
    fn resolve(&self, debug: &str) -> String {
        let mut out = String::with_capacity(debug.len());
        let mut rest = debug;
        while let Some((at, end, text)) = self.next_index(rest) {
            out.push_str(&rest[..at]);
            out.push_str(&text);
            rest = &rest[end..];
        }
        out.push_str(rest);
        out
    }

    /// The first index in `text`: where it begins and ends, and what it stands for.
    fn next_index(&self, text: &str) -> Option<(usize, usize, String)> {
        let found = ["Slot(", "Str(", "Bytes { at: ", "List { at: "];
        let (at, open) = found.iter().filter_map(|open| text.find(open).map(|at| (at, *open))).min()?;
        let body = &text[at + open.len()..];
        let close = body.find([')', '}'])?;
        let numbers: Vec<u32> = body[..close].split(", len: ").filter_map(|n| n.trim().parse().ok()).collect();
        let what = match (open, numbers.as_slice()) {
            ("Slot(", [n]) => format!("<{}>", self.slot_name(Slot(*n as u16))),
            ("Str(", [n]) => format!("{:?}", self.text(Str(*n))),
            ("Bytes { at: ", [at, len]) => self.bytes_text(Bytes { at: *at, len: *len }),
            ("List { at: ", [at, len]) => self.list_text(List { at: *at, len: *len }),
            _ => return None,
        };
        Some((at, at + open.len() + close + 1, what))
    }

    /// What a slot holds.
    pub fn slot_name(&self, slot: Slot) -> String {
        self.slots.get(slot.0 as usize).map(|s| self.text(*s)).unwrap_or_default()
    }

    fn bytes_text(&self, bytes: Bytes) -> String {
        let bytes = self.bytes(bytes);
        match std::str::from_utf8(bytes) {
            Ok(text) if !text.contains('\0') => format!("{text:?}"),
            _ if bytes.iter().all(|b| *b == 0) => format!("{} zero bytes", bytes.len()),
            _ => bytes.iter().map(|b| format!("{b:02x}")).collect(),
        }
    }

    /// The strings of a list; a place to be filled at run time is shown as `_`.
    pub fn list_text(&self, list: List) -> String {
        let items = &self.lists[list.at as usize..(list.at + list.len) as usize];
        let items: Vec<String> =
            items.iter().map(|s| if s.0 == u32::MAX { "_".into() } else { format!("{:?}", self.text(*s)) }).collect();
        format!("[{}]", items.join(", "))
    }
}

/// The numbers of a derived `Debug` as manuals and strace write them: modes in octal, bits in hexadecimal digits.
fn as_written(debug: &str) -> String {
    const BITS: &[&str] = &[
        "flags",
        "resolve",
        "attr",
        "set",
        "clear",
        "propagation",
        "magic",
        "keep",
        "effective",
        "permitted",
        "inheritable",
        "permission",
    ];
    let mut out = String::with_capacity(debug.len());
    for (i, part) in debug.split_inclusive(": ").enumerate() {
        let (number, rest) = part.split_at(part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len()));
        let name = out.trim_end_matches(": ").rsplit([' ', '{']).next().unwrap_or_default();
        match number.parse::<u64>() {
            Ok(n) if i > 0 && n != 0 && ["mode", "mask"].contains(&name) => out.push_str(&format!("{n:#o}{rest}")),
            Ok(n) if i > 0 && n != 0 && BITS.contains(&name) => out.push_str(&format!("{n:#x}{rest}")),
            _ => out.push_str(part),
        }
    }
    out
}

/// The kernel's name of an operation.
pub fn call(op: &Op) -> &'static str {
    match *op {
        Op::CloseOthers | Op::CloseRange { .. } => "close_range",
        Op::Open { .. } | Op::OpenMade { .. } => "openat2",
        Op::Close { .. } => "close",
        Op::Leave { .. } => "leave",
        Op::Write { .. } => "write",
        Op::Mkdir { .. } => "mkdirat",
        Op::Mknod { .. } => "mknodat",
        Op::Symlink { .. } => "symlinkat",
        Op::Unlink { .. } => "unlinkat",
        Op::Chown { .. } => "fchownat",
        Op::Fchown { .. } => "fchown",
        Op::CheckFs { .. } => "fstatfs",
        Op::CheckNode { .. } | Op::CheckForeign { .. } => "fstat",
        Op::Dup { .. } => "dup3",
        Op::Inherit { .. } => "fcntl",
        Op::OpenTree { .. } | Op::OpenTreeOf { .. } => "open_tree",
        Op::OpenTreeAttr { .. } => "open_tree_attr",
        Op::Fsopen { .. } => "fsopen",
        Op::FsString { .. } | Op::FsFlag { .. } | Op::FsModeOf { .. } => "fsconfig",
        Op::FsCreate { .. } | Op::FsReconfigure { .. } => "fsconfig",
        Op::Fsmount { .. } => "fsmount",
        Op::SetAttr { .. } => "mount_setattr",
        Op::Mount { .. } | Op::Remount { .. } => "mount",
        Op::Propagation { .. } => "mount",
        Op::MoveMount { .. } | Op::MoveMountTo { .. } => "move_mount",
        Op::PivotRoot => "pivot_root",
        Op::Umount { .. } => "umount2",
        Op::Fchdir { .. } => "fchdir",
        Op::Chroot { .. } => "chroot",
        Op::CopyUp { .. } => "copy",
        Op::MapNamespace { .. } | Op::ForeignMounts { .. } => "clone3",
        Op::Unshare { .. } => "unshare",
        Op::Setns { .. } | Op::SetnsAgain { .. } | Op::ChildrenPid { .. } => "setns",
        Op::Respawn { .. } | Op::Fork { .. } => "clone3",
        Op::Hostname { .. } => "sethostname",
        Op::Domainname { .. } => "setdomainname",
        Op::Loopback => "ioctl SIOCSIFFLAGS lo",
        Op::Setsid => "setsid",
        Op::Keyring { .. } => "keyctl",
        Op::AllCpus | Op::Affinity { .. } => "sched_setaffinity",
        Op::UnlockPty { .. } => "ioctl TIOCSPTLCK",
        Op::PtyPeer { .. } => "ioctl TIOCGPTPEER",
        Op::Winsize { .. } => "ioctl TIOCSWINSZ",
        Op::ControllingTty { .. } => "ioctl TIOCSCTTY",
        Op::SendFd { .. } => "sendmsg",
        Op::Umask { .. } => "umask",
        Op::Rlimit { .. } => "prlimit",
        Op::Scheduler { .. } => "sched_setattr",
        Op::IoPriority { .. } => "ioprio_set",
        Op::Personality { .. } => "personality",
        Op::NoNewPrivs => "prctl PR_SET_NO_NEW_PRIVS",
        Op::Bounding { .. } => "prctl PR_CAPBSET_DROP",
        Op::KeepCaps { .. } => "prctl PR_SET_KEEPCAPS",
        Op::Setgroups { .. } => "setgroups",
        Op::Setgid { .. } => "setresgid",
        Op::Setuid { .. } => "setresuid",
        Op::Capset { .. } => "capset",
        Op::AmbientClear | Op::AmbientRaise { .. } => "prctl PR_CAP_AMBIENT",
        Op::Home { .. } => "openat2",
        Op::Chdir { .. } | Op::ChdirAgain { .. } => "chdir",
        Op::CheckCwd => "getcwd",
        Op::Lookup { .. } => "faccessat2",
        Op::LookupFailed { .. } => "faccessat2",
        Op::Gate { .. } | Op::AwaitParent { .. } => "gate",
        Op::Seccomp { .. } => "seccomp",
        Op::Hook { .. } => "hook",
        Op::Signals => "rt_sigprocmask",
        Op::Exec { .. } => "execve",
    }
}

impl Plan {
    /// What an operation is about, for the sentence that says how it failed: a path as the container or the host sees it, a
    /// name, a value; empty where the operation says it all.
    pub fn subject(&self, op: &Op) -> String {
        match *op {
            Op::Open { dir, path, .. } | Op::OpenTree { dir, path, .. } | Op::OpenTreeAttr { dir, path, .. } => {
                self.place(dir, path)
            }
            Op::OpenTreeOf { path, .. } => self.place(Dir::Cwd, path),
            Op::Mkdir { dir, name, .. }
            | Op::Mknod { dir, name, .. }
            | Op::Symlink { dir, name, .. }
            | Op::Unlink { dir, name }
            | Op::MoveMountTo { dir, name, .. }
            | Op::Chown { dir, name, .. } => self.place(Dir::At(dir), name),
            Op::Propagation { mount: Some(slot), .. } => self.thing(slot),
            Op::Umount { path, .. }
            | Op::Propagation { path, .. }
            | Op::Chroot { path }
            | Op::CopyUp { from: path, .. }
            | Op::Fsopen { kind: path, .. }
            | Op::Mount { kind: path, .. }
            | Op::FsFlag { key: path, .. }
            | Op::Keyring { name: path, .. }
            | Op::Chdir { path }
            | Op::ChdirAgain { path }
            | Op::Lookup { path }
            | Op::LookupFailed { name: path }
            | Op::Hook { path, .. } => self.text(path),
            Op::FsString { key, value, .. } => format!("{}={}", self.text(key), self.text(value)),
            Op::FsModeOf { .. } => "mode".into(),
            Op::Unshare { flags } | Op::Respawn { flags } => kinds(flags),
            Op::Hostname { name: text } | Op::Domainname { name: text } | Op::OpenMade { path: text, .. } => {
                String::from_utf8_lossy(self.bytes(text)).into_owned()
            }
            Op::Rlimit { resource, .. } => {
                RLIMITS.iter().find(|(_, n)| *n == resource).map_or("", |(name, _)| name).into()
            }
            Op::AmbientRaise { cap } => CAPABILITIES.get(usize::from(cap)).map_or("", |c| c).into(),
            Op::Setgid { gid: id } | Op::Setuid { uid: id } => id.to_string(),
            Op::Setgroups { ids } => {
                let ids = self.bytes(ids).chunks_exact(4).map(|id| u32::from_ne_bytes([id[0], id[1], id[2], id[3]]));
                ids.map(|id| id.to_string()).collect::<Vec<_>>().join(",")
            }
            Op::Umask { mask } => format!("{mask:03o}"),
            Op::Inherit { fd } => fd.to_string(),
            Op::Home { .. } => "/etc/passwd".into(),
            Op::Gate { gate, .. } => format!("{gate:?}").to_lowercase(),
            _ => subject_slot(op).map(|s| self.thing(s)).unwrap_or_default(),
        }
    }

    /// What a slot is of, without the word for what kind of descriptor of it.
    fn thing(&self, slot: Slot) -> String {
        let name = self.slot_name(slot);
        let kinds = [" mount", " fs", " source", " mask", " read-only", " of the host"];
        kinds.iter().find_map(|kind| name.strip_suffix(kind)).unwrap_or(&name).to_owned()
    }

    /// A path as it looks from where its directory lies.
    fn place(&self, dir: Dir, path: Str) -> String {
        let path = self.text(path);
        let Dir::At(slot) = dir else { return path };
        let base = self.thing(slot);
        match path.as_str() {
            "" | "." => base,
            _ if path.starts_with('/') => path,
            _ if base.starts_with('/') => format!("{}/{path}", base.trim_end_matches('/')),
            _ if base == "root" || base == "rootfs" => format!("/{path}"),
            _ => path,
        }
    }
}

/// CLONE_NEW* bits in the words of config.json.
fn kinds(flags: u64) -> String {
    use crate::spec::NamespaceKind::{Cgroup, Ipc, Mount, Network, Pid, Time, User, Uts};
    let words = [
        (Pid, "pid"),
        (Network, "network"),
        (Mount, "mount"),
        (Ipc, "ipc"),
        (Uts, "uts"),
        (User, "user"),
        (Cgroup, "cgroup"),
        (Time, "time"),
    ];
    let has = |(kind, word)| (super::namespaces::flag(kind) & flags != 0).then_some(word);
    words.into_iter().filter_map(has).collect::<Vec<_>>().join(",")
}

/// The slot an operation is about, when no string says it: its name tells the subject of an error.
fn subject_slot(op: &Op) -> Option<Slot> {
    match *op {
        Op::MoveMount { to, .. } => Some(to),
        Op::Write { slot, .. }
        | Op::Close { slot }
        | Op::Leave { slot }
        | Op::Fchown { slot, .. }
        | Op::CheckFs { slot, .. }
        | Op::CheckNode { slot, .. }
        | Op::Dup { slot, .. }
        | Op::Fchdir { slot }
        | Op::Setns { slot, .. }
        | Op::SetnsAgain { slot, .. }
        | Op::CheckForeign { slot, .. }
        | Op::ChildrenPid { slot }
        | Op::ControllingTty { slot }
        | Op::SendFd { slot, .. } => Some(slot),
        Op::FsModeOf { fs, .. } | Op::FsCreate { fs } | Op::FsReconfigure { fs } | Op::Fsmount { fs, .. } => Some(fs),
        Op::SetAttr { mount, .. } | Op::Remount { mount, .. } => Some(mount),
        Op::UnlockPty { master } | Op::PtyPeer { master, .. } | Op::Winsize { master, .. } => Some(master),
        _ => None,
    }
}
