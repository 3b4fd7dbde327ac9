//! Waiting for a process in the foreground: its terminal is ours, our signals are its, its exit code becomes ours.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd, OwnedFd};

use runtime::spec::ConsoleSize;
use runtime::{Error, Kind, Result, reap, sys};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::termios::{OptionalActions, OutputModes, Termios, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize};

const WINCH: i32 = libc::SIGWINCH;

/// Signals that are passed on: all that ask a process for something. Not the ones that tell of a mistake of our own
/// (SEGV, PIPE …), nor CHLD and URG.
fn passed_on() -> Vec<i32> {
    let named = [
        libc::SIGHUP,
        libc::SIGINT,
        libc::SIGQUIT,
        libc::SIGUSR1,
        libc::SIGUSR2,
        libc::SIGALRM,
        libc::SIGTERM,
        libc::SIGCONT,
        libc::SIGTSTP,
        libc::SIGTTIN,
        libc::SIGTTOU,
        libc::SIGIO,
        libc::SIGPWR,
        WINCH,
    ];
    named.into_iter().chain(34..=64).collect()
}

/// The size of our own terminal, for a process that is to have it from its first moment; `None` if there is no terminal.
pub fn size() -> Option<ConsoleSize> {
    let size = tcgetwinsize(std::io::stdin()).ok()?;
    Some(ConsoleSize { height: size.ws_row.into(), width: size.ws_col.into() })
}

/// Made before the process, so that no signal is lost between its start and our waiting.
pub struct Foreground {
    signals: OwnedFd,
}

impl Foreground {
    /// Takes over the signals.
    ///
    /// # Errors
    /// Of signalfd.
    pub fn new() -> Result<Self> {
        let signals = sys::signal_fd(&passed_on()).map_err(|e| Error::sys("signalfd", "", e))?;
        Ok(Self { signals })
    }

    /// Passes signals and terminal on until the process ends, and reaps it.
    ///
    /// # Errors
    /// Of poll and of the terminal; the process runs on then.
    pub fn wait(&self, pidfd: &OwnedFd, console: Option<OwnedFd>) -> Result<i32> {
        let terminal = console.map(Terminal::new).transpose()?;
        if let Some(t) = &terminal {
            t.resize();
        }
        let mut copy = Copy::default();
        loop {
            let ready = self.ready(pidfd, terminal.as_ref(), &copy)?;
            if ready.signal {
                self.pass_on(pidfd, terminal.as_ref())?;
            }
            if let Some(t) = &terminal {
                copy.step(t, &ready);
            }
            if ready.exited {
                if let Some(t) = &terminal {
                    copy.drain(t);
                }
                if let Some(code) = reap::exit_status(pidfd)? {
                    return Ok(code);
                }
            }
        }
    }

    fn ready(&self, pidfd: &OwnedFd, terminal: Option<&Terminal>, copy: &Copy) -> Result<Ready> {
        let stdin = std::io::stdin();
        let mut fds = vec![PollFd::new(pidfd, PollFlags::IN), PollFd::new(&self.signals, PollFlags::IN)];
        if let Some(t) = terminal {
            let out = if copy.pending.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
            let read = if copy.hung_up { PollFlags::empty() } else { PollFlags::IN };
            fds.push(PollFd::new(&t.master, read | out));
            if copy.pending.is_empty() && !copy.input_ended {
                fds.push(PollFd::from_borrowed_fd(stdin.as_fd(), PollFlags::IN));
            }
        }
        // A master whose other side is closed says HUP at once and for ever: then only exits and signals count.
        if copy.hung_up {
            fds.truncate(2);
        }
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(Error::sys("poll", "", e)),
        }
        let at = |i: usize| fds.get(i).map_or(PollFlags::empty(), |fd| fd.revents());
        Ok(Ready {
            exited: !at(0).is_empty(),
            signal: !at(1).is_empty(),
            output: at(2).intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR),
            room: at(2).contains(PollFlags::OUT),
            input: !at(3).is_empty(),
        })
    }

    fn pass_on(&self, pidfd: &OwnedFd, terminal: Option<&Terminal>) -> Result<()> {
        // struct signalfd_siginfo: 128 bytes, the number first (signalfd(2)).
        let mut info = [0_u8; 128];
        match rustix::io::read(&self.signals, &mut info) {
            Ok(_) => {}
            Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
            Err(e) => return Err(Error::sys("read", "signalfd", e)),
        }
        let number = i32::from_ne_bytes([info[0], info[1], info[2], info[3]]);
        if number == WINCH
            && let Some(t) = terminal
        {
            t.resize();
            return Ok(());
        }
        match reap::signal(pidfd, number) {
            // It ended meanwhile, which the next turn sees.
            Err(e) if e.kind == Kind::NotFound => Ok(()),
            sent => sent,
        }
    }
}

/// What poll found.
#[derive(Default)]
struct Ready {
    exited: bool,
    signal: bool,
    output: bool,
    room: bool,
    input: bool,
}

/// The pty's master, and our own terminal in raw mode until this is dropped.
struct Terminal {
    master: OwnedFd,
    saved: Option<Termios>,
}

impl Terminal {
    /// Our terminal becomes raw (if standard input is one), so that every key is the container's. The container's does not
    /// write CR before LF: our own terminal does that, and a file should not have it (runc's ClearONLCR).
    fn new(master: OwnedFd) -> Result<Self> {
        let pty = |e| Error::sys("tcsetattr", "console", e);
        rustix::io::ioctl_fionbio(&master, true).map_err(pty)?;
        let mut modes = tcgetattr(&master).map_err(pty)?;
        modes.output_modes.remove(OutputModes::ONLCR);
        tcsetattr(&master, OptionalActions::Now, &modes).map_err(pty)?;
        let stdin = std::io::stdin();
        let saved = tcgetattr(&stdin).ok();
        if let Some(modes) = &saved {
            let mut raw = modes.clone();
            raw.make_raw();
            // Where it also is standard output, LF still has to become CR LF.
            raw.output_modes = modes.output_modes;
            tcsetattr(&stdin, OptionalActions::Now, &raw).map_err(|e| Error::sys("tcsetattr", "stdin", e))?;
        }
        Ok(Self { master, saved })
    }

    /// The container's terminal gets the size of ours, if we have one.
    fn resize(&self) {
        if let Ok(size) = tcgetwinsize(std::io::stdin()) {
            // A pty whose other side is closed has nobody to tell.
            let _ = tcsetwinsize(&self.master, size);
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Some(modes) = &self.saved {
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, modes);
        }
    }
}

/// Bytes on their way between the two terminals.
#[derive(Default)]
struct Copy {
    /// Read from standard input and not yet taken by the container.
    pending: Vec<u8>,
    input_ended: bool,
    hung_up: bool,
}

impl Copy {
    fn step(&mut self, t: &Terminal, ready: &Ready) {
        let mut buffer = [0; 4096];
        if ready.input {
            match rustix::io::read(std::io::stdin(), &mut buffer) {
                Ok(0) => {
                    // What a terminal gets when its user ends the input: the pty turns it into end of file.
                    self.pending.push(4);
                    self.input_ended = true;
                }
                Ok(n) => self.pending.extend_from_slice(&buffer[..n]),
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(_) => self.input_ended = true,
            }
        }
        if ready.room || ready.input {
            match rustix::io::write(&t.master, &self.pending) {
                Ok(n) => drop(self.pending.drain(..n)),
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(_) => self.pending.clear(),
            }
        }
        if ready.output {
            self.output(t, &mut buffer);
        }
    }

    /// Everything written before the exit is shown, too.
    fn drain(&mut self, t: &Terminal) {
        let mut buffer = [0; 4096];
        while !self.hung_up && self.output(t, &mut buffer) {}
    }

    /// One read from the container. False when there is nothing (more).
    fn output(&mut self, t: &Terminal, buffer: &mut [u8]) -> bool {
        match rustix::io::read(&t.master, &mut *buffer) {
            Ok(n) if n > 0 => {
                let mut out = std::io::stdout();
                // If nobody reads our output the container must not stop over it.
                let _ =
                    std::io::Write::write_all(&mut out, &buffer[..n]).and_then(|()| std::io::Write::flush(&mut out));
                true
            }
            Err(Errno::INTR) => true,
            Err(Errno::AGAIN) => false,
            // EIO: the last descriptor of the other side was closed.
            _ => {
                self.hung_up = true;
                false
            }
        }
    }
}
