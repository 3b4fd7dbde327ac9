//! One container's life, and many lives side by side, straight on the shim: no ctr and no containerd.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use crate::bed::Bed;
use crate::bundle::Wish;
use crate::group::Group;
use crate::report::Report;
use crate::shim::Peer;
use crate::{Outcome, number};

/// No stdin, stdout and stderr.
pub const NO_STREAMS: [&str; 3] = ["", "", ""];

/// Times the steps between its calls.
struct Steps {
    first: Instant,
    last: Instant,
    done: Vec<(&'static str, f64)>,
}

impl Steps {
    fn new() -> Steps {
        let now = Instant::now();
        Steps { first: now, last: now, done: Vec::new() }
    }

    fn done(&mut self, name: &'static str) {
        self.done_since(self.last, name);
    }

    fn done_since(&mut self, begun: Instant, name: &'static str) {
        let now = Instant::now();
        self.done.push((name, ms(now.duration_since(begun))));
        self.last = now;
    }

    fn total(mut self) -> Vec<(&'static str, f64)> {
        self.done.push(("total", ms(self.last.duration_since(self.first))));
        self.done
    }
}

/// Milliseconds.
pub fn ms(time: std::time::Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// A container of `true`.
pub fn wish<'a>(group: &'a str, seccomp: bool) -> Wish<'a> {
    Wish { args: &["true"], seccomp, cgroup: group, pod: None }
}

/// The times of the parts of a life in milliseconds, and what is left of it: its bundle and its shim's address.
type Lived = (Vec<(&'static str, f64)>, crate::bundle::Bundle, String);

/// `start`, Create, Start, exit, Delete, Shutdown. Start and exit are timed together as well: who answers late has the program's
/// whole life in its answer, who answers at its execve has none of it.
fn life(bed: &Bed, peer: &Peer, group: &Group, seccomp: bool) -> Outcome<Lived> {
    let id = format!("life-{}", number());
    let path = format!("{}/{id}", group.path);
    let bundle = bed.bundles.make(&id, &wish(&path, seccomp))?;
    let mut steps = Steps::new();
    let mut shim = peer.start(&id, &bundle, group, &bed.events)?;
    steps.done("start");
    shim.create(&id, &bundle, NO_STREAMS)?;
    steps.done("Create");
    let exit = shim.wait(&id, "")?;
    let begun = steps.last;
    shim.start(&id, "")?;
    steps.done("Start");
    shim.ended(exit)?;
    steps.done("exit");
    steps.done_since(begun, "Start and exit");
    shim.delete(&id, "")?;
    steps.done("Delete");
    shim.shutdown(&id)?;
    steps.done("Shutdown");
    Ok((steps.total(), bundle, id))
}

/// Case `life` and `life-seccomp`.
fn lives(bed: &Bed, report: &mut Report, case: &'static str, seccomp: bool) -> Outcome {
    for round in bed.turns(1, 20, 60) {
        for (peer, group) in bed.rotated(round) {
            group.until_empty()?;
            let before = group.cpu()?;
            let (steps, bundle, id) = life(bed, peer, group, seccomp)?;
            group.until_empty()?;
            let after = group.cpu()?;
            let started = Instant::now();
            peer.delete(&id, &bundle, group, &bed.events)?;
            let deleted = ms(started.elapsed());
            group.until_empty()?;
            // The first round warms up: page cache, crun's cache of compiled filters.
            if round == 0 {
                continue;
            }
            for (step, value) in steps {
                report.add(case, step, "ms", peer.name, value);
            }
            report.add(case, "CPU of the tree", "ms", peer.name, (after - before) as f64 / 1e6);
            report.add(case, "delete (the command)", "ms", peer.name, deleted);
        }
    }
    Ok(())
}

/// Without a filter.
pub fn plain(bed: &Bed, report: &mut Report) -> Outcome {
    lives(bed, report, "life", false)
}

/// With containerd's default profile.
pub fn seccomp(bed: &Bed, report: &mut Report) -> Outcome {
    lives(bed, report, "life-seccomp", true)
}

/// Whether a peer gets through a life at all on this machine.
///
/// Errors: what went wrong.
pub fn once(bed: &Bed, peer: &Peer, group: &Group) -> Outcome {
    let (_, bundle, id) = life(bed, peer, group, false)?;
    group.until_empty()?;
    peer.delete(&id, &bundle, group, &bed.events)
}

/// So many lives at a time.
pub const WIDTHS: [usize; 4] = [1, 4, 16, 32];

/// The least share of the best rate so far that a wider run has.
pub fn kept(rates: &[f64]) -> f64 {
    let mut best = 0.0_f64;
    rates.iter().fold(1.0, |kept: f64, rate| {
        best = best.max(*rate);
        kept.min(rate / best)
    })
}

/// Does `job` `count` times, `width` at a time; how many a second.
///
/// Errors: the first one of a job.
pub fn at_once(count: usize, width: usize, job: impl Fn() -> Outcome + Sync) -> Outcome<f64> {
    let next = AtomicUsize::new(0);
    let started = Instant::now();
    std::thread::scope(|scope| {
        let worker = || -> Outcome {
            while next.fetch_add(1, Ordering::Relaxed) < count {
                job()?;
            }
            Ok(())
        };
        let workers: Vec<_> = (0..width).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().map_err(|_| "a worker panicked")?)
    })?;
    Ok(count as f64 / started.elapsed().as_secs_f64())
}

/// Lives per second, so many at a time.
pub fn parallel(bed: &Bed, report: &mut Report) -> Outcome {
    let count = bed.pick(8, 100, 200);
    for round in bed.turns(0, 2, 130) {
        for (peer, group) in bed.rotated(round) {
            let mut rates = Vec::new();
            for width in WIDTHS {
                let before = group.cpu()?;
                let rate = at_once(count, width, || life(bed, peer, group, false).map(drop))?;
                group.until_empty()?;
                let cpu = (group.cpu()? - before) as f64 / 1e6 / count as f64;
                report.add("parallel", format!("{width} at a time"), "lives/s", peer.name, rate);
                report.add("parallel", format!("CPU of a life, {width} at a time"), "ms", peer.name, cpu);
                rates.push(rate);
            }
            report.add("parallel", "rate kept as parallelism grows", "of the best narrower", peer.name, kept(&rates));
        }
    }
    Ok(())
}
