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

/// Three who change the line discipline of a terminal in turns: each waits five seconds for one who is [`Stuck`], and holds a lock
/// that whoever opens or closes the terminal needs.
struct Busy {
    stop: Arc<AtomicBool>,
    stuck: Option<Stuck>,
    changing: Vec<JoinHandle<()>>,
}

impl Busy {
    fn new(slave: OwnedFd) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let twin = || slave.try_clone().unwrap();
        let stuck = Some(Stuck::new(twin()));
        let change = || {
            let (slave, stop) = (twin(), Arc::clone(&stop));
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    // N_TTY of <linux/tty.h>.
                    let ordinary: libc::c_int = 0;
                    // SAFETY: TIOCSETD reads an int (ioctl_tty(2)).
                    unsafe { libc::ioctl(slave.as_raw_fd(), libc::TIOCSETD, &raw const ordinary) };
                }
            })
        };
        let changing = (0..3).map(|_| change()).collect();
        Self { stop, stuck, changing }
    }

    /// Of a terminal that is still to come.
    fn of_next(terminal: String) -> JoinHandle<Self> {
        std::thread::spawn(move || {
            let end = Instant::now() + Duration::from_secs(20);
            loop {
                match open(Path::new(&terminal)) {
                    Ok(slave) => return Self::new(slave),
                    Err(error) => assert!(Instant::now() < end, "{terminal}: {error}"),
                }
            }
        })
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.stuck = None;
        for thread in self.changing.drain(..) {
            let _ended = thread.join();
        }
    }
}

#[test]
fn opening_a_terminal_whose_lock_is_held_holds_up_nobody_else() {
    on_loop(async {
        let Some(bed) = Bed::new("open").await else { return };
        let id = bed.id("a");
        let _output = bed.create(&id, "exec sleep 1000").await;
        let pid = bed.start(&id, "").await.unwrap();
        let mut request = bed.exec_request(&id, "e", "exec sleep 1000");
        let (out, _output) = bed.fifo("e.out");
        (request.stdout, request.terminal) = (out, true);
        bed.task.exec(limit(), &request).await.unwrap();
        let busy = Busy::of_next(format!("/proc/{pid}/root/dev/pts/0"));
        let looking = async {
            while !busy.is_finished() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            for _ in 0..40 {
                answers(&bed, &id, "while the exec starts").await;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            drop(busy.join());
        };
        let (started, ()) = tokio::join!(bed.start(&id, "e"), looking);
        started.unwrap();
        bed.kill(&id, "", 9).await.unwrap();
        bed.wait(&id, "e").await.unwrap();
        bed.wait(&id, "").await.unwrap();
        bed.delete(&id, "").await.unwrap();
        is_calm(&bed).await;
    });
}

#[test]
fn closing_a_terminal_whose_lock_is_held_holds_up_nobody() {
    on_loop(async {
        let Some(bed) = Bed::new("close").await else { return };
        let id = bed.id("a");
        let _output = bed.create(&id, "exec sleep 1000").await;
        let pid = bed.start(&id, "").await.unwrap();
        // TIOCNOTTY: a session that still has its terminal waits for the same when it ends.
        let lets_go = r#"trap '' HUP; exec perl -e 'ioctl(STDIN, 0x5422, 0) or die; open(STDOUT, ">/dev/null"); open(STDERR, ">/dev/null");
                         open(STDIN, "</dev/null"); sleep 1000'"#;
        let mut request = bed.exec_request(&id, "e", lets_go);
        let (out, _output) = bed.fifo("e.out");
        (request.stdout, request.terminal) = (out, true);
        bed.task.exec(limit(), &request).await.unwrap();
        let exec = bed.start(&id, "e").await.unwrap();
        let input = || std::fs::read_link(format!("/proc/{exec}/fd/0")).unwrap();
        until(|| input() == Path::new("/dev/null"), || format!("its stdin is {:?}", input())).await;
        let busy = Busy::new(open(Path::new(&format!("/proc/{pid}/root/dev/pts/0"))).unwrap());
        bed.kill(&id, "e", 9).await.unwrap();
        for _ in 0..40 {
            answers(&bed, &id, "after the exit").await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        tokio::time::timeout(SOON, bed.wait(&id, "e")).await.expect("Wait hangs").unwrap();
        drop(busy);
        bed.delete(&id, "e").await.unwrap();
        is_calm(&bed).await;
        bed.kill(&id, "", 9).await.unwrap();
        bed.wait(&id, "").await.unwrap();
        bed.delete(&id, "").await.unwrap();
    });
}
