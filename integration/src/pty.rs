//! A client on a terminal of its own.

use crate::{Outcome, ensure};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A running client and the master side of its terminal.
pub struct Pty {
    child: Child,
    master: File,
    seen: Arc<Mutex<Vec<u8>>>,
}

impl Pty {
    /// Starts the command with a new terminal of `rows` × `columns` as its stdin, stdout and controlling terminal.
    pub fn start(command: &Command, rows: u16, columns: u16) -> Outcome<Pty> {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let name = ptsname(&master, Vec::new())?;
        let slave = File::options().read(true).write(true).open(name.to_str()?)?;
        let master = File::from(master);
        set_size(&master, rows, columns)?;
        // setsid --ctty does between fork and exec what would need unsafe code here.
        let mut with_terminal = Command::new("setsid");
        with_terminal.args(["--ctty", "--wait"]).arg(command.get_program()).args(command.get_args());
        let child =
            with_terminal.stdin(slave.try_clone()?).stdout(slave.try_clone()?).stderr(slave.try_clone()?).spawn()?;
        drop(with_terminal);
        drop(slave);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (mut from, sink) = (master.try_clone()?, seen.clone());
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // EIO is how a master says that the last slave is closed.
            while let Ok(count @ 1..) = from.read(&mut buffer) {
                let Ok(mut sink) = sink.lock() else { return };
                sink.extend_from_slice(&buffer[..count]);
            }
        });
        Ok(Pty { child, master, seen })
    }

    /// Types.
    pub fn send(&mut self, text: &str) -> Outcome {
        self.master.write_all(text.as_bytes())?;
        Ok(())
    }

    /// Changes the size; the kernel tells the client with SIGWINCH.
    pub fn resize(&self, rows: u16, columns: u16) -> Outcome {
        set_size(&self.master, rows, columns)
    }

    /// All that was shown so far, without carriage returns: ctr's raw mode still adds one to each line that comes with
    /// one from the container's terminal.
    pub fn screen(&self) -> String {
        let text = self.seen.lock().map(|seen| String::from_utf8_lossy(&seen).into_owned()).unwrap_or_default();
        text.replace('\r', "")
    }

    /// Waits until the words are shown.
    pub fn wait_for(&self, words: &str, limit: Duration) -> Outcome {
        crate::eventually(limit, || {
            ensure!(self.screen().contains(words), "the terminal never showed {words:?}: {:?}", self.screen());
            Ok(())
        })
    }

    /// Waits for the client's end and returns its exit code.
    pub fn wait(&mut self, limit: Duration) -> Outcome<i32> {
        use std::os::unix::process::ExitStatusExt;
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status.code().or(status.signal().map(|signal| 128 + signal)).unwrap_or(-1));
            }
            ensure!(Instant::now() < end, "the client on the terminal did not end: {:?}", self.screen());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn set_size(master: &File, rows: u16, columns: u16) -> Outcome {
    tcsetwinsize(master, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 })?;
    Ok(())
}
