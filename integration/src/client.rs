//! Calls of a client program: always with a time limit, everything they say captured.

use crate::{Outcome, ensure};
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What a client call left.
#[derive(Clone)]
pub struct Output {
    /// The exit code; 128+n for a client that a signal ended.
    pub code: i32,
    /// What it wrote.
    pub stdout: Vec<u8>,
    /// What it complained.
    pub stderr: Vec<u8>,
    /// How it was called, for messages.
    pub call: String,
}

impl Output {
    /// The standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// The standard error as text.
    pub fn errors(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Itself if the exit code is the one given.
    pub fn exited(self, code: i32) -> Outcome<Output> {
        ensure!(self.code == code, "exit code {} instead of {code}\n{}", self.code, self.report());
        Ok(self)
    }

    /// Itself if the call succeeded.
    pub fn ok(self) -> Outcome<Output> {
        self.exited(0)
    }

    /// Itself if the call failed and stderr holds the words.
    pub fn failed_with(self, words: &str) -> Outcome<Output> {
        ensure!(self.code != 0, "succeeded, but should fail with {words:?}\n{}", self.report());
        ensure!(self.errors().contains(words), "stderr lacks {words:?}\n{}", self.report());
        Ok(self)
    }

    /// Itself if stdout holds the words.
    pub fn says(self, words: &str) -> Outcome<Output> {
        ensure!(self.text().contains(words), "stdout lacks {words:?}\n{}", self.report());
        Ok(self)
    }

    /// The call and all it said, cut to a readable length.
    pub fn report(&self) -> String {
        let cut = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(4000)]).into_owned();
        format!("$ {}\ncode: {}\nstdout: {}\nstderr: {}", self.call, self.code, cut(&self.stdout), cut(&self.stderr))
    }
}

/// A client call under way.
pub struct Running {
    child: Child,
    stdin: Option<std::process::ChildStdin>,
    stdout: Stream,
    stderr: Stream,
    call: String,
    end: Instant,
}

/// Starts a client. Its stdin is a pipe that stays open until it exits: a client whose stdin ends before the
/// task runs can hang with the stock shim, so an early end of file is only given by tests about it.
pub fn start(mut command: Command, call: String, limit: Duration) -> Outcome<Running> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let stdin = child.stdin.take();
    let stdout = read_all(child.stdout.take().ok_or("no stdout")?);
    let stderr = read_all(child.stderr.take().ok_or("no stderr")?);
    // The client's own limit is enforced inside (`timeout`); this one is for a hung `nsenter`.
    Ok(Running { child, stdin, stdout, stderr, call, end: Instant::now() + limit + Duration::from_secs(5) })
}

/// What a client has written so far, and the thread that reads on.
struct Stream {
    seen: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

impl Stream {
    fn end(self) -> Vec<u8> {
        let _ = self.reader.join();
        std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn read_all(mut from: impl Read + Send + 'static) -> Stream {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sink = seen.clone();
    let reader = std::thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            sink.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&buffer[..count]);
        }
    });
    Stream { seen, reader }
}

/// Newer clients warn of hosts with cgroup v1 on every call; that is not what tests look at.
fn without_warnings(stderr: &[u8]) -> Vec<u8> {
    let lines = stderr.split_inclusive(|byte| *byte == b'\n');
    lines.filter(|line| !String::from_utf8_lossy(line).contains("msg=\"DEPRECATION")).flatten().copied().collect()
}

impl Running {
    /// Writes to the client's stdin.
    pub fn write(&mut self, bytes: &[u8]) -> Outcome {
        self.stdin.as_mut().ok_or("stdin is closed")?.write_all(bytes)?;
        Ok(())
    }

    /// Takes the stdin out, to be written or closed by the test.
    pub fn take_stdin(&mut self) -> Option<std::process::ChildStdin> {
        self.stdin.take()
    }

    /// Waits until the client's output begins with the words: then the container runs.
    pub fn wait_for(&self, words: &str) -> Outcome {
        crate::eventually(crate::containerd::LIMIT, || {
            let seen = self.stdout.seen.lock().unwrap_or_else(PoisonError::into_inner);
            ensure!(seen.starts_with(words.as_bytes()), "{} never said {words:?}", self.call);
            Ok(())
        })
    }

    /// What the client has written so far.
    pub fn seen(&self) -> String {
        String::from_utf8_lossy(&self.stdout.seen.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }

    /// Whether its output holds the words so far.
    pub fn has_said(&self, words: &str) -> bool {
        let seen = self.stdout.seen.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&seen).contains(words)
    }

    /// Ends a client that would go on, by SIGTERM; what it exits with does not count.
    pub fn stop(self) -> Outcome {
        self.end_by(rustix::process::Signal::TERM)
    }

    /// Kills a client in the middle of what it does.
    pub fn kill(self) -> Outcome {
        self.end_by(rustix::process::Signal::KILL)
    }

    /// The client is at the end of a chain of `nsenter`, which passes nothing on, and `timeout`.
    fn end_by(self, signal: rustix::process::Signal) -> Outcome {
        let mut pid = self.child.id();
        loop {
            let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
            let Some(child) = children.split_whitespace().next() else { break };
            pid = child.parse()?;
            let program = std::fs::read_link(format!("/proc/{pid}/exe"))?;
            if !["nsenter", "timeout"].iter().any(|known| program.ends_with(known)) {
                break;
            }
        }
        let id = rustix::process::Pid::from_raw(pid.try_into()?).ok_or("no process")?;
        match rustix::process::kill_process(id, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => self.wait().map(drop),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether the client has exited.
    pub fn is_over(&mut self) -> Outcome<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// Waits for the client's end; an error if the time limit was what ended it.
    pub fn wait(mut self) -> Outcome<Output> {
        use std::os::unix::process::ExitStatusExt;
        let mut timed_out = false;
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            if Instant::now() > self.end {
                timed_out = true;
                self.child.kill()?;
            }
            std::thread::sleep(Duration::from_millis(3));
        };
        drop(self.stdin.take());
        let code = status.code().or(status.signal().map(|signal| 128 + signal)).unwrap_or(-1);
        let close_to_end = Instant::now() + Duration::from_secs(5) >= self.end;
        let output =
            Output { code, stdout: self.stdout.end(), stderr: without_warnings(&self.stderr.end()), call: self.call };
        let ended_by_limit = timed_out || (close_to_end && matches!(code, 124 | 137));
        ensure!(!ended_by_limit, "timed out\n{}", output.report());
        Ok(output)
    }
}
