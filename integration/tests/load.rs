//! Many containers, and nothing left of them.

use std::io::Read;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use integration::containerd::{IMAGE, LIMIT};
use integration::{Bed, Outcome, cases, suite};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};
use rustix::pipe::SpliceFlags;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Action, tcflow};
use rustix::time::Timespec;

fn soak() -> bool {
    std::env::var_os("MINI_SOAK").is_some()
}

/// `count` jobs, `width` of them at a time.
fn side_by_side(width: usize, count: usize, job: impl Fn(usize) -> Outcome + Sync) -> Outcome {
    let next = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..width)
            .map(|_| {
                scope.spawn(|| {
                    loop {
                        let number = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                        if number >= count {
                            return Ok(());
                        }
                        job(number)?;
                    }
                })
            })
            .collect();
        workers.into_iter().try_for_each(|worker| worker.join().map_err(|_| "a worker panicked")?)
    })
}

fn a_hundred_sixteen_at_a_time(bed: &Bed) -> Outcome {
    let name = bed.id();
    side_by_side(16, 100, |number| {
        let id = format!("{name}-{number}");
        bed.ctr(&bed.run_words(&id, &["--detach", "--null-io"], &["sleep", "100000"]))?.ok()?;
        Ok(())
    })?;
    let tasks = bed.ctr(&["task", "ls"])?.ok()?.text();
    let running = tasks.lines().filter(|line| line.contains("RUNNING")).count();
    integration::ensure!(running == 100, "{running} of 100 run");
    side_by_side(16, 100, |number| {
        let id = format!("{name}-{number}");
        bed.ctr(&["task", "rm", "--force", &id])?.ok()?;
        bed.ctr(&["container", "rm", &id])?.ok()?;
        Ok(())
    })?;
    bed.containerd.assert_nothing_left()
}

fn cycles_in_a_row(bed: &Bed) -> Outcome {
    let name = bed.id();
    for number in 0..if soak() { 500 } else { 200 } {
        let id = format!("{name}-{number}");
        bed.ctr(&["container", "create", "--runtime", bed.runtime().name(), IMAGE, &id, "true"])?.ok()?;
        bed.ctr(&["task", "start", "--null-io", &id])?.ok()?;
        bed.ctr(&["container", "rm", &id])?.ok()?;
    }
    bed.containerd.assert_nothing_left()
}

fn pod_of_fifty(bed: &Bed) -> Outcome {
    let name = bed.id();
    let annotation = format!("io.kubernetes.cri.sandbox-id={name}");
    let flags = ["--detach", "--null-io", "--annotation", &annotation];
    side_by_side(4, 50, |number| {
        let id = format!("{name}-{number}");
        bed.ctr(&bed.run_words(&id, &flags, &["sleep", "100000"]))?.ok()?;
        Ok(())
    })?;
    let shim = bed.shim(&format!("{name}-0"))?;
    for number in 1..50 {
        let other = bed.shim(&format!("{name}-{number}"))?;
        integration::ensure!(other == shim, "number {number} has shim {other}, number 0 has {shim}");
    }
    side_by_side(4, 50, |number| {
        let id = format!("{name}-{number}");
        bed.ctr(&["task", "rm", "--force", &id])?.ok()?;
        bed.ctr(&["container", "rm", &id])?.ok()?;
        Ok(())
    })?;
    bed.containerd.assert_nothing_left()
}

fn slow_container_delays_no_other_of_its_pod(bed: &Bed) -> Outcome {
    let annotation = format!("io.kubernetes.cri.sandbox-id=slow-of-{}", bed.containerd.namespace);
    // Blocked on a fifo that nobody reads, and paused: two ways of not answering.
    let blocked = bed.detached(&["--annotation", &annotation], &["sh", "-c", "cat /dev/zero"])?;
    let paused = bed.detached(&["--null-io", "--annotation", &annotation], &["sleep", "1000"])?;
    bed.ctr(&["task", "pause", &paused])?.ok()?;
    for _ in 0..5 {
        let start = std::time::Instant::now();
        let id = bed.detached(&["--null-io", "--annotation", &annotation], &["true"])?;
        bed.wait_status(&id, "STOPPED")?;
        bed.delete(&id, &[], 0)?;
        let took = start.elapsed();
        integration::ensure!(took < LIMIT / 4, "a life beside two stuck ones took {took:?}");
    }
    for id in [&blocked, &paused] {
        bed.ctr(&["task", "kill", "--signal", "KILL", id])?.ok()?;
        bed.wait_status(id, "STOPPED")?;
    }
    Ok(())
}

/// A reader of a pipe who holds its lock until it is dropped: it splices into a terminal that is stopped.
struct Holder(Option<(OwnedFd, std::thread::JoinHandle<()>)>);

impl Holder {
    fn new(pipe: &std::path::Path) -> Outcome<Holder> {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        unlockpt(&master)?;
        let slave = ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        tcflow(&slave, Action::OOff)?;
        let open = || rustix::fs::open(pipe, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty());
        let (reader, asked) = (open()?, open()?);
        let splicing = std::thread::spawn(move || {
            // EIO when the terminal is hung up.
            let _ended = rustix::pipe::splice(&reader, None, &slave, None, 4096, SpliceFlags::empty());
        });
        let holder = Holder(Some((master, splicing)));
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || while tell.send(rustix::io::ioctl_fionread(&asked)).is_ok() {});
        let end = Instant::now() + LIMIT;
        while told.recv_timeout(Duration::from_secs(1)).is_ok() {
            integration::ensure!(Instant::now() < end, "the lock of {} is free", pipe.display());
        }
        Ok(holder)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let Some((master, splicing)) = self.0.take() else { return };
        drop(master);
        let _ended = splicing.join();
    }
}

/// What a process can do to its own pipe by sendfile(2) from a disk that hangs.
fn process_that_holds_the_lock_of_its_output(bed: &Bed) -> Outcome {
    let annotation = format!("io.kubernetes.cri.sandbox-id=holds-{}", bed.containerd.namespace);
    let held = bed.detached(&["--annotation", &annotation], &["sh", "-c", "cat /dev/zero"])?;
    let beside = bed.detached(&["--null-io", "--annotation", &annotation], &["sleep", "1000"])?;
    let pipe = bed.containerd.host.path(format!("/proc/{}/fd/1", bed.pid(&held)?));
    let holder = integration::eventually(LIMIT, || Holder::new(&pipe))?;
    // There is room in its fifo now, and the shim wants to fill it.
    std::fs::File::open(bed.fifo(&held, "stdout")?)?.read_exact(&mut [0; 48 << 10])?;
    let quickly = |what: &str, words: &[&str]| -> Outcome {
        let start = Instant::now();
        bed.ctr(words)?.ok()?;
        let took = start.elapsed();
        integration::ensure!(took < LIMIT / 4, "{what} took {took:?}");
        Ok(())
    };
    quickly("State", &["task", "ls"])?;
    quickly("Pids", &["task", "ps", &held])?;
    quickly("Stats", &["task", "metrics", &held])?;
    quickly("an exec beside it", &["task", "exec", "--exec-id", "beside", &beside, "true"])?;
    quickly("an exec in it", &["task", "exec", "--exec-id", "in-it", &held, "true"])?;
    quickly("Kill", &["task", "kill", "--signal", "KILL", &held])?;
    quickly("Kill beside it", &["task", "kill", "--signal", "KILL", &beside])?;
    bed.wait_status(&beside, "STOPPED")?;
    bed.delete(&beside, &[], 137)?;
    // Its own end waits for the lock as well, in the kernel.
    drop(holder);
    bed.wait_status(&held, "STOPPED")?;
    bed.delete(&held, &[], 137)
}

/// Somebody in the middle of a call to a terminal, until this is dropped: the page for it does not come.
struct Asker(Option<(OwnedFd, std::thread::JoinHandle<()>)>);

#[derive(Clone, Copy)]
enum Call {
    /// TIOCGWINSZ, which holds the lock of the size.
    Size,
    /// write(2), for which a hang-up waits.
    Write,
}

impl Asker {
    fn new(terminal: &std::path::Path, call: Call) -> Outcome<Asker> {
        let slave = rustix::fs::open(terminal, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?;
        let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a mapping of its own.
        let page = unsafe { libc::mmap(std::ptr::null_mut(), 4096, prot, flags, -1, 0) } as usize;
        // SAFETY: userfaultfd(2) takes flags only.
        let faults = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC) } as i32;
        integration::ensure!(faults >= 0, "userfaultfd: {}", std::io::Error::last_os_error());
        // SAFETY: new, and ours alone.
        let faults = unsafe { OwnedFd::from_raw_fd(faults) };
        // struct uffdio_api, and struct uffdio_register for pages that are missing (ioctl_userfaultfd(2)).
        let (mut api, mut register) = ([0xAAu64, 0, 0], [page as u64, 4096, 1, 0]);
        for (request, words) in [(0xc018_aa3f, &mut api[..]), (0xc020_aa00, &mut register[..])] {
            // SAFETY: an array as large as the struct of this request.
            let done = unsafe { libc::ioctl(faults.as_raw_fd(), request, words.as_mut_ptr()) };
            integration::ensure!(done == 0, "{request:x}: {}", std::io::Error::last_os_error());
        }
        let asking = std::thread::spawn(move || {
            // SAFETY: a page is more than a struct winsize and than a byte; nobody else has or unmaps it.
            unsafe {
                match call {
                    Call::Size => drop(libc::ioctl(slave.as_raw_fd(), libc::TIOCGWINSZ, page)),
                    Call::Write => drop(libc::write(slave.as_raw_fd(), page as *const libc::c_void, 1)),
                }
                libc::munmap(page as *mut libc::c_void, 4096);
            }
        });
        let mut fds = [PollFd::new(&faults, PollFlags::IN)];
        let asks = poll(&mut fds, Some(&Timespec { tv_sec: 10, tv_nsec: 0 }))?;
        integration::ensure!(asks == 1, "nobody calls");
        Ok(Asker(Some((faults, asking))))
    }
}

impl Drop for Asker {
    fn drop(&mut self) {
        let Some((faults, asking)) = self.0.take() else { return };
        drop(faults);
        let _ended = asking.join();
    }
}

/// What a process can do to its own terminal with a page of a disk that hangs.
fn process_that_holds_the_lock_of_its_terminal(bed: &Bed) -> Outcome {
    let annotation = format!("io.kubernetes.cri.sandbox-id=asks-{}", bed.containerd.namespace);
    let id = bed.id();
    let words = bed.run_words(&id, &["--annotation", &annotation, "--tty"], &["sh"]);
    let mut terminal = bed.terminal(&words)?;
    terminal.wait_for("# ", LIMIT)?;
    let beside = bed.detached(&["--null-io", "--annotation", &annotation], &["sleep", "1000"])?;
    // ctr listens to SIGWINCH only some time after the start.
    integration::eventually(LIMIT, || {
        terminal.resize(33, 76)?;
        terminal.resize(33, 77)?;
        terminal.send("stty size\n")?;
        terminal.wait_for("33 77\n", Duration::from_millis(500))
    })?;
    let asker = Asker::new(&bed.containerd.host.path(format!("/proc/{}/fd/0", bed.pid(&id)?)), Call::Size)?;
    terminal.resize(44, 88)?;
    std::thread::sleep(Duration::from_millis(500));
    let start = Instant::now();
    bed.ctr(&["task", "ls"])?.ok()?;
    bed.ctr(&["task", "ps", &id])?.ok()?;
    bed.ctr(&["task", "exec", "--exec-id", "beside", &beside, "true"])?.ok()?;
    bed.ctr(&["task", "kill", "--signal", "KILL", &beside])?.ok()?;
    bed.wait_status(&beside, "STOPPED")?;
    let took = start.elapsed();
    integration::ensure!(took < LIMIT / 4, "the rest of the pod took {took:?}");
    drop(asker);
    integration::eventually(LIMIT, || {
        terminal.send("stty size\n")?;
        terminal.wait_for("44 88\n", Duration::from_millis(500))
    })?;
    terminal.send("exit\n")?;
    terminal.wait(LIMIT)?;
    bed.delete(&beside, &[], 137)
}

/// The same while it writes, when its terminal is hung up for good.
fn process_that_holds_up_the_end_of_its_terminal(bed: &Bed) -> Outcome {
    let annotation = format!("io.kubernetes.cri.sandbox-id=writes-{}", bed.containerd.namespace);
    let beside = bed.detached(&["--null-io", "--annotation", &annotation], &["sleep", "1000"])?;
    let pid = bed.pid(&beside)?;
    let mut terminal = bed.terminal(&["task", "exec", "--tty", "--exec-id", "held", &beside, "sh"])?;
    terminal.wait_for("# ", LIMIT)?;
    let writer = Asker::new(&bed.containerd.host.path(format!("/proc/{pid}/root/dev/pts/0")), Call::Write)?;
    // ctr deletes it, and with that its terminal is closed.
    let start = Instant::now();
    bed.ctr(&["task", "kill", "--exec-id", "held", "--signal", "KILL", &beside])?.ok()?;
    std::thread::sleep(Duration::from_millis(500));
    bed.ctr(&["task", "ls"])?.ok()?;
    bed.ctr(&["task", "exec", "--exec-id", "other", &beside, "true"])?.ok()?;
    let took = start.elapsed();
    integration::ensure!(took < LIMIT / 4, "the rest took {took:?}");
    drop(writer);
    terminal.wait(LIMIT)?;
    bed.ctr(&["task", "kill", "--signal", "KILL", &beside])?.ok()?;
    bed.wait_status(&beside, "STOPPED")?;
    bed.delete(&beside, &[], 137)
}

fn main() {
    suite::run_with(
        "load",
        &[],
        cases![
            a_hundred_sixteen_at_a_time,
            cycles_in_a_row,
            pod_of_fifty,
            slow_container_delays_no_other_of_its_pod,
            process_that_holds_the_lock_of_its_output,
            process_that_holds_the_lock_of_its_terminal,
            process_that_holds_up_the_end_of_its_terminal,
        ],
    );
}
