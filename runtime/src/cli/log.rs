//! The log: lines for people on standard error, or for programs in a file (containerd reads the last error of log.json).
#![forbid(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;

use runtime::clock::rfc3339_now;
use runtime::{Error, Result};

use super::args::Format;

/// Where the log goes.
pub struct Log {
    file: Option<File>,
    format: Format,
    debug: bool,
}

impl Log {
    /// Opens the log. A file is appended to and made 0644 if it is not there, as runc does.
    ///
    /// # Errors
    /// If the file cannot be opened.
    pub fn open(path: Option<&Path>, format: Format, debug: bool) -> Result<Self> {
        let file = path
            .map(|p| {
                let opened = OpenOptions::new().append(true).create(true).open(p);
                opened.map_err(|e| Error::io("open", p.display().to_string(), &e))
            })
            .transpose()?;
        Ok(Self { file, format, debug })
    }

    /// The log of last resort.
    pub fn stderr() -> Self {
        Self { file: None, format: Format::Text, debug: false }
    }

    /// Why the command failed: into the log, and onto standard error if the log is elsewhere.
    pub fn error(&self, message: &str) {
        self.write("error", message);
        if self.file.is_some() {
            // A caller that closed standard error does not want it.
            let _ = writeln!(std::io::stderr(), "{message}");
        }
    }

    /// What is odd and no reason to stop.
    pub fn warn(&self, message: &str) {
        self.write("warning", message);
    }

    /// What is done; only with --debug.
    pub fn debug(&self, message: &str) {
        if self.debug {
            self.write("debug", message);
        }
    }

    fn write(&self, level: &str, message: &str) {
        let time = rfc3339_now();
        let line = match self.format {
            Format::Json => serde_json::json!({"level": level, "msg": message, "time": time}).to_string(),
            Format::Text => format!("time=\"{time}\" level={level} msg={message:?}"),
        };
        // There is nobody to tell that the log is full.
        let _ = match self.file.as_ref() {
            Some(file) => writeln!(&mut &*file, "{line}"),
            None => writeln!(std::io::stderr(), "{line}"),
        };
    }
}
