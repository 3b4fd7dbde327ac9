//! What a process can do to its own terminal, by a page that does not come: it holds up nobody but itself.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};
use rustix::time::Timespec;
use serde_json::json;

use crate::bed::{Bed, limit, until};
use crate::on_loop;

/// More than any answer takes, and less than the five seconds that a TIOCSETD waits.
const SOON: Duration = Duration::from_secs(3);

/// Somebody in the middle of a write(2) to a terminal, until this is dropped: the page with his words does not come.
struct Stuck(Option<(OwnedFd, JoinHandle<()>)>);

impl Stuck {
    fn new(slave: OwnedFd) -> Self {
        let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a mapping of its own.
        let page = unsafe { libc::mmap(std::ptr::null_mut(), 4096, prot, flags, -1, 0) } as usize;
        // SAFETY: userfaultfd(2) takes flags only.
        let faults = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC) } as i32;
        assert!(faults >= 0, "userfaultfd: {}", io::Error::last_os_error());
        // SAFETY: new, and ours alone.
        let faults = unsafe { OwnedFd::from_raw_fd(faults) };
        // struct uffdio_api, and struct uffdio_register for pages that are missing (ioctl_userfaultfd(2)).
        let (mut api, mut register) = ([0xAAu64, 0, 0], [page as u64, 4096, 1, 0]);
        for (request, words) in [(0xc018_aa3f, &mut api[..]), (0xc020_aa00, &mut register[..])] {
            // SAFETY: an array as large as the struct of this request.
            let done = unsafe { libc::ioctl(faults.as_raw_fd(), request, words.as_mut_ptr()) };
            assert!(done == 0, "{request:x}: {}", io::Error::last_os_error());
        }
        let writing = std::thread::spawn(move || {
            // SAFETY: one byte of a page that nobody else has or unmaps.
            unsafe {
                libc::write(slave.as_raw_fd(), page as *const libc::c_void, 1);
                libc::munmap(page as *mut libc::c_void, 4096);
            }
        });
        let mut fds = [PollFd::new(&faults, PollFlags::IN)];
        assert_eq!(poll(&mut fds, Some(&Timespec { tv_sec: 10, tv_nsec: 0 })).unwrap(), 1, "nobody writes");
        Self(Some((faults, writing)))
    }
}

impl Drop for Stuck {
    fn drop(&mut self) {
        let Some((faults, writing)) = self.0.take() else { return };
        drop(faults);
        let _ended = writing.join();
    }
}

fn open(terminal: &Path) -> rustix::io::Result<OwnedFd> {
    rustix::fs::open(terminal, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())
}

fn terminal_of(pid: u32) -> OwnedFd {
    open(Path::new(&format!("/proc/{pid}/fd/0"))).unwrap()
}

/// The shim answers while something hangs.
async fn answers(bed: &Bed, id: &str, when: &str) {
    let begun = Instant::now();
    let state = tokio::time::timeout(SOON, bed.state(id, "")).await;
    state.unwrap_or_else(|_| panic!("{when}: nothing after {:?}", begun.elapsed())).unwrap();
}

async fn is_calm(bed: &Bed) {
    let threads = || std::fs::read_dir(format!("/proc/{}/task", bed.shim)).unwrap().count();
    until(|| threads() == 1, || format!("{} threads are left", threads())).await;
}

#[test]
fn hanging_up_a_terminal_that_is_being_written_to_holds_up_nobody() {
    on_loop(async {
        let Some(bed) = Bed::new("hangup").await else { return };
        let id = bed.id("a");
        let mut request = bed.request(&id, "trap '' HUP; sleep 1000", |spec| spec["process"]["terminal"] = json!(true));
        let ((out, _output), input) = (bed.fifo("out"), bed.bare_fifo("in"));
        (request.stdout, request.stdin, request.terminal) = (out, input.display().to_string(), true);
        bed.task.create(limit(), &request).await.unwrap();
        let pid = bed.start(&id, "").await.unwrap();
        let stuck = Stuck::new(terminal_of(pid));
        drop(std::fs::File::options().write(true).open(&input).unwrap());
        bed.close_stdin(&id, "").await.unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
        answers(&bed, &id, "after CloseIO").await;
        tokio::time::timeout(SOON, bed.kill(&id, "", 9)).await.expect("Kill hangs").unwrap();
        drop(stuck);
        bed.wait(&id, "").await.unwrap();
        bed.delete(&id, "").await.unwrap();
        is_calm(&bed).await;
    });
}

#[test]
fn deleting_a_terminal_that_is_being_written_to_holds_up_nobody() {
    on_loop(async {
        let Some(bed) = Bed::new("wake").await else { return };
        let id = bed.id("a");
        let _output = bed.create(&id, "exec sleep 1000").await;
        bed.start(&id, "").await.unwrap();
        let mut request = bed.exec_request(&id, "e", "exec sleep 1000");
        let (out, _output) = bed.fifo("e.out");
        (request.stdout, request.terminal) = (out, true);
        bed.task.exec(limit(), &request).await.unwrap();
        let stuck = Stuck::new(terminal_of(bed.start(&id, "e").await.unwrap()));
        bed.kill(&id, "e", 9).await.unwrap();
        bed.wait(&id, "e").await.unwrap();
        tokio::time::timeout(SOON, bed.delete(&id, "e")).await.expect("Delete hangs").unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
        answers(&bed, &id, "after Delete").await;
        drop(stuck);
        is_calm(&bed).await;
        bed.kill(&id, "", 9).await.unwrap();
        bed.wait(&id, "").await.unwrap();
        bed.delete(&id, "").await.unwrap();
    });
}
