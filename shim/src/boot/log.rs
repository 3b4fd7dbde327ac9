//! The log: lines in the form of logrus, which containerd copies from the bundle's fifo into its own log.

#![forbid(unsafe_code)]

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use log::{Level, LevelFilter, Log, Metadata, Record};
use rustix::io::Errno;

/// What a fifo takes in one piece (PIPE_BUF, pipe(7)); several writers may share it.
const LONGEST: usize = 4096;

struct Lines {
    /// The fields that every line ends with.
    tail: String,
    debug: bool,
    /// Lines that found the fifo full, since the last one that did not.
    lost: AtomicU64,
}

/// Sends all that is logged to descriptor 2 from now on.
pub fn to_standard_error(namespace: &str, id: &str, debug: bool) {
    let tail = format!(" id={id:?} namespace={namespace:?} runtime=io.containerd.mini.v2\n");
    let lines = Lines { tail, debug, lost: AtomicU64::new(0) };
    if log::set_boxed_logger(Box::new(lines)).is_ok() {
        log::set_max_level(if debug { LevelFilter::Debug } else { LevelFilter::Info });
    }
}

impl Log for Lines {
    fn enabled(&self, metadata: &Metadata) -> bool {
        // ttrpc reports clients that hang up as errors, and every message as a trace.
        let ours = !metadata.target().starts_with("ttrpc");
        metadata.level()
            <= if self.debug {
                Level::Debug
            } else if ours {
                Level::Info
            } else {
                Level::Error
            }
    }

    fn log(&self, record: &Record) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let lost = self.lost.swap(0, Ordering::Relaxed);
        let text = line(record.level(), &record.args().to_string(), lost, &self.tail);
        // A reader who does not read loses lines; it does not stop us. There is nobody to tell about other errors.
        if rustix::io::write(rustix::stdio::stderr(), text.as_bytes()) == Err(Errno::AGAIN) {
            self.lost.fetch_add(lost + 1, Ordering::Relaxed);
        }
    }

    fn flush(&self) {}
}

/// One line, as logrus' TextFormatter writes it.
fn line(level: Level, message: &str, lost: u64, tail: &str) -> String {
    let level = match level {
        Level::Error => "error",
        Level::Warn => "warning",
        Level::Info => "info",
        Level::Debug => "debug",
        Level::Trace => "trace",
    };
    let mut text = format!("time=\"{}\" level={level} msg=", runtime::clock::rfc3339_now());
    let room = LONGEST.saturating_sub(text.len() + tail.len() + 32);
    quote(message, room, &mut text);
    if lost > 0 {
        // Writing to a String does not fail.
        let _infallible = write!(text, " lost={lost}");
    }
    text.push_str(tail);
    text
}

/// Go's %q, cut to `room` bytes.
fn quote(message: &str, room: usize, out: &mut String) {
    let limit = out.len() + room;
    out.push('"');
    for letter in message.chars() {
        let _infallible = match letter {
            '"' => out.write_str("\\\""),
            '\\' => out.write_str("\\\\"),
            '\n' => out.write_str("\\n"),
            '\t' => out.write_str("\\t"),
            c if c.is_control() => write!(out, "\\u{:04x}", u32::from(c)),
            c => out.write_char(c),
        };
        if out.len() >= limit {
            out.push('…');
            break;
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_logrus_and_fit_the_fifo() {
        let text = line(Level::Warn, "a \"b\"\n\u{1b}[1m\\", 3, " id=\"c1\"\n");
        let (time, rest) = text.split_once(" level=").unwrap();
        assert!(time.starts_with("time=\"20") && time.ends_with("Z\""), "{time}");
        assert_eq!(rest, "warning msg=\"a \\\"b\\\"\\n\\u001b[1m\\\\\" lost=3 id=\"c1\"\n");
        for letter in ["x", "\u{1}", "ä", "\""] {
            let long = line(Level::Info, &letter.repeat(10_000), u64::MAX, " id=\"c1\"\n");
            assert!(long.len() <= LONGEST && long.ends_with("\" lost=18446744073709551615 id=\"c1\"\n"), "{letter}");
        }
    }
}
