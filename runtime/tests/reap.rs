//! The reaper on real children. One test in a process of its own: the sweep would take the children of others.
#![forbid(unsafe_code)]

use std::process::{Command, Stdio};

use rustix::process::{Pid, PidfdFlags, pidfd_open};

use runtime::Kind;
use runtime::reap::{Swept, born, exit_status, signal, sweep};

fn sh(script: &str) -> (u32, std::os::fd::OwnedFd) {
    born(|| {
        let child = Command::new("/bin/sh").args(["-c", script]).stdin(Stdio::null()).spawn()?;
        let pidfd = pidfd_open(Pid::from_raw(child.id().cast_signed()).unwrap(), PidfdFlags::empty())?;
        Ok::<_, std::io::Error>((child.id(), (child.id(), pidfd)))
    })
    .unwrap()
}

fn ended(pidfd: &std::os::fd::OwnedFd) -> i32 {
    let mut fds = [rustix::event::PollFd::new(pidfd, rustix::event::PollFlags::IN)];
    rustix::event::poll(&mut fds, None).unwrap();
    exit_status(pidfd).unwrap().unwrap()
}

/// Making a child may take long: a program has to be read from a disk.
fn a_birth_holds_nobody_up(other: &std::os::fd::OwnedFd) {
    let (begun, beginning) = std::sync::mpsc::channel();
    let (end, ending) = std::sync::mpsc::channel::<()>();
    let maker = std::thread::spawn(move || {
        let made = born(|| {
            begun.send(()).unwrap();
            // Who is held up comes too late.
            ending.recv_timeout(std::time::Duration::from_secs(10)).map_err(|_| ())?;
            Ok((1 << 30, ()))
        });
        assert_eq!(made, Ok::<_, ()>(()), "somebody waited for it");
    });
    beginning.recv().unwrap();
    let stray = Command::new("/bin/true").spawn().unwrap().id();
    // It may be the one that is being made.
    let start = std::time::Instant::now();
    while sweep().unwrap() != Swept::Hidden(stray) {
        assert!(start.elapsed() < std::time::Duration::from_secs(5), "the stray was taken, or nobody saw it");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    assert!(exit_status(other).is_err(), "reaped before");
    end.send(()).unwrap();
    maker.join().unwrap();
    assert_eq!(sweep().unwrap(), Swept::Clean);
}

#[test]
fn owners_get_their_exits_and_the_sweep_takes_none_of_them() {
    let (_, running) = sh("exec sleep 30");
    assert_eq!(exit_status(&running).unwrap(), None);
    let (dead, pidfd) = sh("exit 7");
    while sweep().unwrap() != Swept::Hidden(dead) {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    assert_eq!(ended(&pidfd), 7);
    assert!(exit_status(&pidfd).is_err());
    signal(&running, 0).unwrap();
    signal(&running, 9).unwrap();
    assert_eq!(ended(&running), 128 + 9);
    assert_eq!(signal(&running, 15).unwrap_err().kind, Kind::NotFound);

    a_birth_holds_nobody_up(&running);
    let orphan = Command::new("/bin/true").spawn().unwrap().id();
    let gone = || !std::path::Path::new(&format!("/proc/{orphan}")).exists();
    while !gone() {
        assert_eq!(sweep().unwrap(), Swept::Clean);
    }
}
