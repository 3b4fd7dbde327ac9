//! Terminals: handed over by a socket, and passed through in the foreground.

use std::fs::File;
use std::io::{IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Stdio;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use serde_json::json;

use crate::bench::{Bench, until};

pub fn receive(peer: &UnixStream) -> (String, OwnedFd) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut data = [0; 256];
    let got = recvmsg(peer, &mut [IoSliceMut::new(&mut data)], &mut control, RecvFlags::CMSG_CLOEXEC).unwrap();
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    assert_eq!(fds.len(), 1, "one descriptor");
    (String::from_utf8_lossy(&data[..got.bytes]).into_owned(), fds.remove(0))
}

/// Reads a master until the other side is closed.
pub fn read_all(master: OwnedFd) -> String {
    let mut text = Vec::new();
    let mut buffer = [0; 1024];
    let mut master = File::from(master);
    while let Ok(n @ 1..) = master.read(&mut buffer) {
        text.extend_from_slice(&buffer[..n]);
    }
    String::from_utf8_lossy(&text).replace('\r', "")
}

pub fn console_socket(b: &Bench) {
    let id = b.id("x");
    let path = b.path("console.sock");
    let listener = UnixListener::bind(&path).unwrap();
    b.spec(&["sh", "-c", "tty; stty size; test -c /dev/console && echo console"], |s| {
        s["process"]["terminal"] = json!(true);
        s["process"]["consoleSize"] = json!({"height": 33, "width": 77});
    });
    std::os::unix::fs::symlink("busybox", b.bundle().join("rootfs/bin/test")).unwrap();
    b.detached(&["create", "--console-socket", path.to_str().unwrap(), &id]);
    let (name, master) = receive(&listener.accept().unwrap().0);
    assert!(name.starts_with("/dev/"), "{name}");
    let reader = std::thread::spawn(move || read_all(master));
    b.fine(&["start", &id]);
    let text = reader.join().unwrap();
    assert!(text.starts_with("/dev/") && text.ends_with("33 77\nconsole\n"), "{text}");
    b.wait_for(&id, "stopped");
    b.fine(&["delete", &id]);
    b.sleeper(&id);
    b.detached(&["exec", "-d", "-t", "--console-socket", path.to_str().unwrap(), &id, "tty"]);
    let (_, master) = receive(&listener.accept().unwrap().0);
    assert_eq!(read_all(master), "/dev/pts/0\n");
}

pub fn rules(b: &Bench) {
    let id = b.id("x");
    let path = b.path("console.sock");
    let _listener = UnixListener::bind(&path).unwrap();
    let path = path.to_str().unwrap();
    let without = "cannot allocate tty if runc will detach without setting console socket";
    let needless = "cannot use console socket if runc will not detach or allocate tty";
    b.spec(&["true"], |s| s["process"]["terminal"] = json!(true));
    b.fails(&["create", &id], without);
    b.fails(&["run", "-d", &id], without);
    b.fails(&["run", "--console-socket", path, &id], needless);
    b.fails(&["create", "--console-socket", "/no/such/socket", &id], "no such file or directory");
    b.spec(&["true"], |_| {});
    b.fails(&["create", "--console-socket", path, &id], needless);
    assert_eq!(b.fine(&["list", "-q"]), "");
}

/// A client that does not outlive a failed test.
struct Killed(std::process::Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn foreground(b: &Bench) {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    let ours = File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
    let size = |rows, columns| Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(&master, size(40, 90)).unwrap();
    // runc sets the size when its container may run already.
    let first = if b.is_mini() { "" } else { "until stty size | grep -q '40 90'; do sleep 0.05; done; " };
    let script = "tty; stty size; read line; echo got $line; stty size; trap 'echo int; exit 4' INT; echo ready; while :; do sleep 0.01; done";
    b.spec(&["sh", "-c", &format!("{first}{script}")], |s| s["process"]["terminal"] = json!(true));
    let stdio = || Stdio::from(ours.try_clone().unwrap());
    let child = b.command(&["run", &b.id("x")]).stdin(stdio()).stdout(stdio()).stderr(stdio()).spawn().unwrap();
    drop(ours);
    let mut child = Killed(child);
    let mut typed = File::from(master.try_clone().unwrap());
    let mut seen = String::new();
    let mut wait_for = |words: &str| {
        let mut buffer = [0; 1024];
        while !seen.contains(words) {
            let limit = Timespec { tv_sec: 10, tv_nsec: 0 };
            let ready = poll(&mut [PollFd::new(&master, PollFlags::IN)], Some(&limit)).unwrap();
            assert!(ready > 0, "{words:?} is missing in {seen:?}");
            let n = rustix::io::read(&master, &mut buffer).unwrap_or(0);
            assert!(n > 0, "{words:?} is missing in {seen:?}");
            seen.push_str(&String::from_utf8_lossy(&buffer[..n]).replace('\r', ""));
        }
    };
    wait_for("/dev/");
    wait_for("40 90\n");
    tcsetwinsize(&master, size(25, 60)).unwrap();
    // The kernel tells the foreground group of a controlling terminal; this one is nobody's, so we do.
    rustix::process::kill_process(rustix::process::Pid::from_child(&child.0), rustix::process::Signal::WINCH).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(100));
    typed.write_all(b"some words\n").unwrap();
    wait_for("got some words\n");
    wait_for("25 60\n");
    wait_for("ready");
    // Ctrl-C is a byte of the container's terminal, not a signal of ours.
    typed.write_all(&[3]).unwrap();
    wait_for("int\n");
    let mut code = None;
    until("the end", || {
        code = child.0.try_wait().unwrap();
        code.is_some()
    });
    assert_eq!(code.unwrap().code(), Some(4));
}

/// It is the terminal, there and to be written to, although nothing can be made beside it.
pub fn console_in_a_read_only_dev(b: &Bench) {
    let path = b.path("console.sock");
    let listener = UnixListener::bind(&path).unwrap();
    for hooked in [false, true] {
        let id = b.id(&format!("{hooked}"));
        b.spec(&["sh", "-c", "echo written >/dev/console; (true >/dev/x) 2>/dev/null || echo fixed"], |s| {
            s["process"]["terminal"] = json!(true);
            s["linux"]["readonlyPaths"] = json!(["/dev", "/dev/"]);
            if hooked {
                s["hooks"] = json!({"createContainer": [{"path": "/bin/true"}]});
            }
        });
        b.detached(&["create", "--console-socket", path.to_str().unwrap(), &id]);
        let (_, master) = receive(&listener.accept().unwrap().0);
        let reader = std::thread::spawn(move || read_all(master));
        b.fine(&["start", &id]);
        assert_eq!(reader.join().unwrap(), "written\nfixed\n");
        b.wait_for(&id, "stopped");
        b.fine(&["delete", &id]);
    }
}
