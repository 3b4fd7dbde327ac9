//! Real processes in a group: this test binary in another role, born where [`Attach`] says.

use std::ffi::CString;
use std::io::Read;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use runtime::cgroup::Attach;

/// A child; killed and reaped when dropped.
pub struct Process {
    pub pid: u32,
    pidfd: OwnedFd,
    status: Option<i32>,
}

#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

impl Process {
    /// Starts a role in a group, as the runtime does: born in the version 2 group, then the child's own `0` to each of
    /// the files.
    pub fn start(attach: &Attach, role: &str) -> Process {
        let exe = CString::new(std::env::current_exe().unwrap().to_str().unwrap()).unwrap();
        let words = [exe.clone(), c"--as".into(), CString::new(role).unwrap()];
        let argv = [words[0].as_ptr(), words[1].as_ptr(), words[2].as_ptr(), std::ptr::null()];
        let mut pidfd = -1i32;
        let mut args = CloneArgs {
            flags: 0x1000, // CLONE_PIDFD
            pidfd: std::ptr::from_mut(&mut pidfd) as u64,
            exit_signal: libc::SIGCHLD as u64,
            ..CloneArgs::default()
        };
        if let Some(into) = &attach.into {
            args.flags |= 0x2_0000_0000; // CLONE_INTO_CGROUP
            args.cgroup = into.as_raw_fd() as u64;
        }
        // Its other end closes at execve: then the child is where it belongs.
        let (mut there, here) = std::io::pipe().unwrap();
        let tasks: Vec<i32> = attach.tasks.iter().map(|task| task.1.as_raw_fd()).collect();
        // SAFETY: a fork without shared memory; the child makes system calls on memory that was ready before, and ends in
        // execve or _exit.
        let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<CloneArgs>()) };
        if pid == 0 {
            for fd in &tasks {
                // SAFETY: as above.
                if unsafe { libc::syscall(libc::SYS_write, *fd, c"0".as_ptr(), 1) } != 1 {
                    // SAFETY: as above.
                    unsafe { libc::_exit(101) };
                }
            }
            let environment = [std::ptr::null::<libc::c_char>()];
            // SAFETY: as above; argv and environment end in null.
            unsafe {
                libc::execve(exe.as_ptr(), argv.as_ptr(), environment.as_ptr());
                libc::_exit(102);
            }
        }
        assert!(pid > 0, "clone3: {}", std::io::Error::last_os_error());
        drop(here);
        assert_eq!(there.read(&mut [0]).unwrap(), 0);
        // SAFETY: CLONE_PIDFD has stored a new descriptor.
        Process { pid: pid as u32, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) }, status: None }
    }

    /// The wait status, if it comes within the time: an exit code, or 128 + signal.
    pub fn wait(&mut self, limit: Duration) -> Option<i32> {
        if self.status.is_some() {
            return self.status;
        }
        let mut poll = libc::pollfd { fd: self.pidfd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one pollfd.
        if unsafe { libc::poll(&raw mut poll, 1, limit.as_millis() as i32) } != 1 {
            return None;
        }
        let mut status = 0;
        // SAFETY: our own child, a place for its status.
        assert_eq!(unsafe { libc::waitpid(self.pid as i32, &raw mut status, 0) }, self.pid as i32);
        let code = if libc::WIFSIGNALED(status) { 128 + libc::WTERMSIG(status) } else { libc::WEXITSTATUS(status) };
        self.status = Some(code);
        self.status
    }

    /// Its /proc/PID/cgroup.
    pub fn groups(&self) -> String {
        std::fs::read_to_string(format!("/proc/{}/cgroup", self.pid)).unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.status.is_none() {
            // SAFETY: our own child, not reaped yet.
            unsafe { libc::kill(self.pid as i32, libc::SIGKILL) };
            self.wait(Duration::from_secs(10));
        }
    }
}

/// Waits for something to become true.
pub fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn forever() -> ! {
    loop {
        std::thread::sleep(Duration::from_secs(1000));
    }
}

/// The other roles of this binary.
pub fn play(role: &str) -> ! {
    let (role, argument) = role.split_once('=').unwrap_or((role, ""));
    match role {
        "sleep" => forever(),
        "spin" => loop {
            std::hint::black_box(0);
        },
        // Takes that many MiB, and keeps them.
        "eat" => {
            let mut held = Vec::new();
            for _ in 0..argument.parse::<usize>().unwrap() {
                held.push(std::hint::black_box(vec![1u8; 1 << 20]));
            }
            forever()
        }
        // Sends that many bytes to itself over TCP, and never reads them.
        "tcp" => {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let mut sender = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let _receiver = listener.accept().unwrap();
            std::io::Write::write_all(&mut sender, &vec![1; argument.parse().unwrap()]).unwrap();
            forever()
        }
        // Writes to a disk.
        "disk" => {
            let disk = std::fs::File::options().write(true).open(argument).unwrap();
            // Again and again: pages that the kernel writes before we do are not ours.
            loop {
                std::os::unix::fs::FileExt::write_all_at(&disk, &vec![1; 1 << 20], 0).unwrap();
                disk.sync_all().unwrap();
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        // Forks children that fork children, for as long as it is let.
        "breed" => loop {
            let exe = std::env::current_exe().unwrap();
            for _ in 0..3 {
                let _ = std::process::Command::new(&exe).args(["--as", "sleep"]).spawn();
            }
            std::thread::sleep(Duration::from_millis(1));
        },
        // Waits in two threads.
        "threads" => {
            let _ = std::thread::spawn(|| forever());
            forever()
        }
        // Waits, with a child that waits.
        "pair" => {
            let exe = std::env::current_exe().unwrap();
            let _ = std::process::Command::new(&exe).args(["--as", "sleep"]).spawn();
            forever()
        }
        // 0 if a path can be opened for reading, else the errno.
        "open" => {
            let code = std::fs::File::open(argument).err().map_or(0, |e| e.raw_os_error().unwrap_or(255));
            std::process::exit(code)
        }
        other => panic!("no role {other}"),
    }
}
