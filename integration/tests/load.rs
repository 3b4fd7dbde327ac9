//! Many containers, and nothing left of them.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use integration::containerd::{IMAGE, LIMIT};
use integration::{Bed, Outcome, cases, suite};
use rustix::fs::{Mode, OFlags};
use rustix::pipe::SpliceFlags;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Action, tcflow};

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
        ],
    );
}
