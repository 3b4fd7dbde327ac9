//! What we are, and what of it children do not inherit.

#![forbid(unsafe_code)]

use std::sync::OnceLock;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// RLIMIT_NOFILE before [`raise_files`].
static FILES: OnceLock<Files> = OnceLock::new();

/// A limit of open files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Files {
    /// What holds.
    pub soft: u64,
    /// As far as who has it may raise it.
    pub hard: u64,
}

/// Raises our soft limit of open files to the hard one. Whoever we execute is given what it was before: programs that use select(2), or
/// close all descriptors that there may be, are to find what the administrator set. Where it cannot be raised it stays as it is.
pub fn raise_files() {
    let before = getrlimit(Resource::Nofile);
    let number = |limit: Option<u64>| limit.unwrap_or(u64::MAX);
    if number(before.current) >= number(before.maximum) {
        return;
    }
    // EPERM: the hard limit is more than fs.nr_open by now.
    if setrlimit(Resource::Nofile, Rlimit { current: before.maximum, maximum: before.maximum }).is_ok() {
        FILES.get_or_init(|| Files { soft: number(before.current), hard: number(before.maximum) });
    }
}

/// The limit of open files that our children are to have; `None` if it is ours.
pub fn files() -> Option<Files> {
    FILES.get().copied()
}

/// Inherited from whoever started us, and left as it is (proc_pid_status(5)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// SigIgn: SIGPIPE is ignored by every Rust program, others by whoever started us (nohup(1)); clone3 and execve(2) keep them
    /// ignored. Bit n is signal n + 1.
    pub ignored: u64,
    /// Umask: permissions that what we make does not get.
    pub umask: u32,
}

/// Read once. Without a /proc nothing is known of signals but our own, and the umask is taken to cut all.
pub fn status() -> Status {
    static STATUS: OnceLock<Status> = OnceLock::new();
    *STATUS.get_or_init(|| Status::of(&crate::kernfs::small("/proc/self/status").unwrap_or_default()))
}

impl Status {
    fn of(text: &str) -> Self {
        let value = |key: &str| text.lines().find_map(|l| l.strip_prefix(key)).map(str::trim);
        let number = |key, radix| value(key).and_then(|text| u64::from_str_radix(text, radix).ok());
        Self {
            ignored: number("SigIgn:", 16).unwrap_or(1 << (libc::SIGPIPE - 1)),
            umask: number("Umask:", 8).map_or(0o777, |mask| mask as u32),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_text_and_of_none() {
        let text = "Name:\tmini\nUmask:\t0027\nState:\tR (running)\nSigIgn:\t0000000000001006\n";
        assert_eq!(Status::of(text), Status { ignored: 0x1006, umask: 0o27 });
        assert_eq!(Status::of(""), Status { ignored: 0x1000, umask: 0o777 });
    }
}
