//! Plans as text: one line per step, stable enough to be compared with a checked-in copy.

use std::fmt::{self, Write};

use super::{Bytes, Edge, List, Op, Plan, Section, Slot, Step, Str};

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

/// The kernel's name of an operation, and the string it is about.
pub fn call(op: &Op) -> (&'static str, Option<Str>) {
    match *op {
        Op::CloseOthers | Op::CloseRange { .. } => ("close_range", None),
        Op::Open { path, .. } => ("openat2", Some(path)),
        Op::Close { .. } => ("close", None),
        Op::Write { .. } => ("write", None),
        Op::Mkdir { name, .. } => ("mkdirat", Some(name)),
        Op::Mknod { name, .. } => ("mknodat", Some(name)),
        Op::Symlink { name, .. } => ("symlinkat", Some(name)),
        Op::Unlink { name, .. } => ("unlinkat", Some(name)),
        Op::Chown { name, .. } => ("fchownat", Some(name)),
        Op::Fchown { .. } => ("fchown", None),
        Op::CheckFs { .. } => ("fstatfs", None),
        Op::CheckNode { .. } => ("fstat", None),
        Op::Dup { .. } => ("dup3", None),
        Op::Inherit { .. } => ("fcntl", None),
        Op::OpenTree { path, .. } => ("open_tree", Some(path)),
        Op::Fsopen { kind, .. } => ("fsopen", Some(kind)),
        Op::FsString { key, .. } | Op::FsFlag { key, .. } => ("fsconfig", Some(key)),
        Op::FsModeOf { .. } | Op::FsCreate { .. } => ("fsconfig", None),
        Op::Fsmount { .. } => ("fsmount", None),
        Op::SetAttr { .. } => ("mount_setattr", None),
        Op::Remount { .. } => ("mount", None),
        Op::Propagation { path, .. } => ("mount", Some(path)),
        Op::MoveMount { .. } => ("move_mount", None),
        Op::PivotRoot => ("pivot_root", None),
        Op::Umount { path, .. } => ("umount2", Some(path)),
        Op::Fchdir { .. } => ("fchdir", None),
        Op::Chroot { path } => ("chroot", Some(path)),
        Op::CopyUp { from, .. } => ("copy", Some(from)),
        Op::MapNamespace { .. } => ("clone3", None),
        Op::Unshare { .. } => ("unshare", None),
        Op::Setns { .. } | Op::ChildrenPid { .. } => ("setns", None),
        Op::Respawn { .. } => ("clone3", None),
        Op::Hostname { .. } => ("sethostname", None),
        Op::Domainname { .. } => ("setdomainname", None),
        Op::Loopback => ("ioctl SIOCSIFFLAGS lo", None),
        Op::Setsid => ("setsid", None),
        Op::Keyring { name, .. } => ("keyctl", Some(name)),
        Op::AllCpus | Op::Affinity { .. } => ("sched_setaffinity", None),
        Op::UnlockPty { .. } => ("ioctl TIOCSPTLCK", None),
        Op::PtyPeer { .. } => ("ioctl TIOCGPTPEER", None),
        Op::Winsize { .. } => ("ioctl TIOCSWINSZ", None),
        Op::ControllingTty { .. } => ("ioctl TIOCSCTTY", None),
        Op::SendFd { .. } => ("sendmsg", None),
        Op::Umask { .. } => ("umask", None),
        Op::Rlimit { .. } => ("prlimit", None),
        Op::Scheduler { .. } => ("sched_setattr", None),
        Op::IoPriority { .. } => ("ioprio_set", None),
        Op::Personality { .. } => ("personality", None),
        Op::NoNewPrivs => ("prctl PR_SET_NO_NEW_PRIVS", None),
        Op::Bounding { .. } => ("prctl PR_CAPBSET_DROP", None),
        Op::KeepCaps { .. } => ("prctl PR_SET_KEEPCAPS", None),
        Op::Setgroups { .. } => ("setgroups", None),
        Op::Setgid { .. } => ("setresgid", None),
        Op::Setuid { .. } => ("setresuid", None),
        Op::Capset { .. } => ("capset", None),
        Op::AmbientClear | Op::AmbientRaise { .. } => ("prctl PR_CAP_AMBIENT", None),
        Op::Home { .. } => ("openat2", None),
        Op::Chdir { path } | Op::ChdirAgain { path } => ("chdir", Some(path)),
        Op::CheckCwd => ("getcwd", None),
        Op::Lookup { path } => ("faccessat2", Some(path)),
        Op::LookupFailed { name } => ("faccessat2", Some(name)),
        Op::Gate { .. } => ("gate", None),
        Op::Seccomp { .. } => ("seccomp", None),
        Op::Hook { path, .. } => ("hook", Some(path)),
        Op::Signals => ("rt_sigprocmask", None),
        Op::Exec { .. } => ("execve", None),
    }
}

/// The slot an operation is about, when no string says it: its name tells the subject of an error.
pub fn subject_slot(op: &Op) -> Option<Slot> {
    match *op {
        Op::MoveMount { to, .. } => Some(to),
        Op::Write { slot, .. }
        | Op::Close { slot }
        | Op::Fchown { slot, .. }
        | Op::CheckFs { slot, .. }
        | Op::CheckNode { slot, .. }
        | Op::Dup { slot, .. }
        | Op::Fchdir { slot }
        | Op::Setns { slot, .. }
        | Op::ChildrenPid { slot }
        | Op::ControllingTty { slot }
        | Op::SendFd { slot, .. } => Some(slot),
        Op::FsModeOf { fs, .. } | Op::FsCreate { fs } | Op::Fsmount { fs, .. } => Some(fs),
        Op::SetAttr { mount, .. } | Op::Remount { mount, .. } => Some(mount),
        Op::UnlockPty { master } | Op::PtyPeer { master, .. } | Op::Winsize { master, .. } => Some(master),
        _ => None,
    }
}
