//! The one error of the runtime: which operation failed, on what, with which errno, and which line of config.json asked for it.

use std::fmt;

use rustix::io::Errno;

/// Result of every fallible call of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What kind of failure it is, for callers that must branch. Text is for people, this is for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// config.json, the request or an option is wrong; nothing was done.
    Invalid,
    /// The field is known but not implemented; nothing was done.
    Unsupported,
    /// No such container, process or group.
    NotFound,
    /// The id is taken.
    Exists,
    /// The container is in a state that does not allow the call.
    State,
    /// The kernel refused a step, see [`Error::errno`].
    Kernel,
    /// The process was killed before it could run the payload.
    Killed,
}

/// A failed operation. `Display` gives `<pointer>: <op> "<subject>": <errno text>`, leaving out what is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// What callers branch on.
    pub kind: Kind,
    /// The operation in the kernel's or the spec's own word, for example `move_mount`.
    pub op: &'static str,
    /// What it was done to: a path, an id, a value.
    pub subject: String,
    /// Why, when the kernel said so.
    pub errno: Option<Errno>,
    /// JSON pointer into config.json that asked for it; empty when no line of it did.
    pub from: String,
    /// A reason in words, when it is not an errno, or a whole sentence that clients parse (`exec: "x": executable file not found in $PATH`).
    pub reason: String,
}

impl Error {
    /// A failed system call.
    pub fn sys(op: &'static str, subject: impl Into<String>, errno: Errno) -> Self {
        Self {
            kind: Kind::Kernel,
            op,
            subject: subject.into(),
            errno: Some(errno),
            from: String::new(),
            reason: String::new(),
        }
    }

    /// A failed call of std, which keeps the errno if there is one.
    pub fn io(op: &'static str, subject: impl Into<String>, error: &std::io::Error) -> Self {
        let errno = error.raw_os_error().map(Errno::from_raw_os_error);
        let reason = if errno.is_none() { error.to_string() } else { String::new() };
        Self { kind: Kind::Kernel, op, subject: subject.into(), errno, from: String::new(), reason }
    }

    /// A refusal without a system call.
    pub fn new(kind: Kind, op: &'static str, subject: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { kind, op, subject: subject.into(), errno: None, from: String::new(), reason: reason.into() }
    }

    /// Bad input at a JSON pointer of config.json.
    pub fn invalid(from: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            kind: Kind::Invalid,
            op: "",
            subject: String::new(),
            errno: None,
            from: from.into(),
            reason: reason.into(),
        }
    }

    /// A field that is known and not implemented.
    pub fn unsupported(from: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { kind: Kind::Unsupported, ..Self::invalid(from, reason) }
    }

    /// The same error, attributed to a JSON pointer of config.json.
    #[must_use]
    pub fn at(mut self, pointer: impl Into<String>) -> Self {
        self.from = pointer.into();
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sep = "";
        if !self.from.is_empty() {
            write!(f, "{}", self.from)?;
            sep = ": ";
        }
        if !self.op.is_empty() {
            write!(f, "{sep}{}", self.op)?;
            sep = " ";
        }
        if !self.subject.is_empty() {
            write!(f, "{sep}{:?}", self.subject)?;
        }
        if !self.op.is_empty() || !self.subject.is_empty() {
            sep = ": ";
        }
        if !self.reason.is_empty() {
            write!(f, "{sep}{}", self.reason)?;
            sep = ": ";
        }
        if let Some(errno) = self.errno {
            write!(f, "{sep}{}", describe(errno))?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

/// runc's sentence for a profile that cannot be applied, which people search for.
pub(crate) fn apparmor(why: &str) -> String {
    format!("unable to apply apparmor profile: apparmor failed to apply profile: {why}")
}

/// The C library's words for an errno, in lower case as Go prints them (`no such file or directory`), because docker and
/// kubelet look for exactly these words in our errors.
pub fn describe(errno: Errno) -> String {
    let text = std::io::Error::from_raw_os_error(errno.raw_os_error()).to_string();
    let words = text.split(" (os error").next().unwrap_or(&text);
    let mut chars = words.chars();
    match chars.next() {
        Some(first) => first.to_lowercase().chain(chars).collect(),
        None => format!("errno {}", errno.raw_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentence_has_pointer_op_subject_and_errno() {
        let e = Error::sys("move_mount", "/dev/shm", Errno::BUSY).at("/mounts/3");
        assert_eq!(e.to_string(), r#"/mounts/3: move_mount "/dev/shm": device or resource busy"#);
        let e = Error::invalid("/hostname", "needs a uts namespace");
        assert_eq!(e.to_string(), "/hostname: needs a uts namespace");
        let e = Error::new(Kind::State, "start", "c1", "container is not created");
        assert_eq!(e.to_string(), r#"start "c1": container is not created"#);
    }
}
