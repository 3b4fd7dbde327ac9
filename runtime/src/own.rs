//! What /proc/self/status says of ourselves.

#![forbid(unsafe_code)]

use std::sync::OnceLock;

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
