//! One container's life, an exec, and many lives side by side, straight on the shim: no ctr and no containerd.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use crate::bed::Bed;
use crate::bundle::{self, Wish};
use crate::group::Group;
use crate::report::Report;
use crate::shim::{Peer, Shim};
use crate::{Outcome, number};

const NO_STREAMS: [&str; 3] = ["", "", ""];

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
        let now = Instant::now();
        self.done.push((name, ms(now.duration_since(self.last))));
        self.last = now;
    }

    fn total(mut self) -> Vec<(&'static str, f64)> {
        self.done.push(("total", ms(self.last.duration_since(self.first))));
        self.done
    }
}

fn ms(time: std::time::Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn wish<'a>(group: &'a str, seccomp: bool) -> Wish<'a> {
    Wish { args: &["true"], seccomp, cgroup: group, pod: None }
}

/// The times of the parts of a life in milliseconds, and what is left of it: its bundle and its shim's address.
type Lived = (Vec<(&'static str, f64)>, crate::bundle::Bundle, String);

/// `start`, Create, Start, exit, Delete, Shutdown.
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
    shim.start(&id, "")?;
    steps.done("Start");
    shim.ended(exit)?;
    steps.done("exit");
    shim.delete(&id, "")?;
    steps.done("Delete");
    shim.shutdown(&id)?;
    steps.done("Shutdown");
    Ok((steps.total(), bundle, id))
}

/// Case `life` and `life-seccomp`.
fn lives(bed: &Bed, report: &mut Report, case: &'static str, seccomp: bool) -> Outcome {
    for round in 0..bed.rounds(2, 40) + 1 {
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

/// A running shim of each peer with a sleeping container, in the order of `bed.peers`.
pub struct Standing<'a> {
    /// The connection.
    pub shim: Shim<'a>,
    /// Its container.
    pub id: String,
    /// The container's directory.
    pub bundle: crate::bundle::Bundle,
    /// The container's init.
    pub pid: u32,
}

impl<'a> Standing<'a> {
    /// Starts one.
    pub fn new(bed: &'a Bed, peer: &'a Peer, group: &Group, seccomp: bool) -> Outcome<Standing<'a>> {
        let id = format!("pod-{}", number());
        let path = format!("{}/{id}", group.path);
        let wish = Wish { args: &["sleep", "100000"], seccomp, cgroup: &path, pod: Some(&id) };
        let bundle = bed.bundles.make(&id, &wish)?;
        let mut shim = peer.start(&id, &bundle, group, &bed.events)?;
        let pid = shim.run(&id, &bundle)?;
        Ok(Standing { shim, id, bundle, pid })
    }

    /// Ends it and its shim.
    pub fn end(mut self, bed: &Bed, peer: &Peer, group: &Group) -> Outcome {
        self.shim.end(&self.id)?;
        self.shim.shutdown(&self.id)?;
        peer.delete(&self.id, &self.bundle, group, &bed.events)
    }

    /// A member's Create, Start, exit, Delete in this shim.
    pub fn member(&mut self, bed: &Bed, group: &Group) -> Outcome<f64> {
        let id = format!("member-{}", number());
        let path = format!("{}/{id}", group.path);
        let wish = Wish { pod: Some(&self.id), ..wish(&path, false) };
        let bundle = bed.bundles.make(&id, &wish)?;
        let started = Instant::now();
        self.shim.create(&id, &bundle, NO_STREAMS)?;
        let exit = self.shim.wait(&id, "")?;
        self.shim.start(&id, "")?;
        self.shim.ended(exit)?;
        self.shim.delete(&id, "")?;
        Ok(ms(started.elapsed()))
    }

    /// Exec, Start, exit, Delete of `true`.
    pub fn exec(&mut self, process: &serde_json::Value) -> Outcome<f64> {
        let exec = format!("exec-{}", number());
        let id = self.id.clone();
        let started = Instant::now();
        self.shim.exec(&id, &exec, process)?;
        let exit = self.shim.wait(&id, &exec)?;
        self.shim.start(&id, &exec)?;
        self.shim.ended(exit)?;
        self.shim.delete(&id, &exec)?;
        Ok(ms(started.elapsed()))
    }
}

/// Rounds of something in a shim that stands, with the CPU that it cost.
fn standing(
    bed: &Bed,
    report: &mut Report,
    case: &'static str,
    seccomp: bool,
    job: impl Fn(&mut Standing, &Group) -> Outcome<f64>,
) -> Outcome {
    let pairs: Vec<(&Peer, &Group)> = bed.rotated(0).collect();
    let mut all = pairs.iter().map(|(p, g)| Standing::new(bed, p, g, seccomp)).collect::<Outcome<Vec<_>>>()?;
    for round in 0..bed.rounds(3, 100) + 2 {
        let count = all.len();
        for n in (0..count).map(|n| (n + round) % count) {
            let (peer, group) = pairs[n];
            let before = group.cpu()?;
            let value = job(&mut all[n], group)?;
            let cpu = (group.cpu()? - before) as f64 / 1e6;
            if round >= 2 {
                report.add(case, "total", "ms", peer.name, value);
                report.add(case, "CPU of the tree", "ms", peer.name, cpu);
            }
        }
    }
    for (one, (peer, group)) in all.into_iter().zip(pairs) {
        one.end(bed, peer, group)?;
        group.until_empty()?;
    }
    Ok(())
}

/// A pod's member.
pub fn member(bed: &Bed, report: &mut Report) -> Outcome {
    standing(bed, report, "member", false, |one, group| one.member(bed, group))
}

/// An exec of `true`.
pub fn exec(bed: &Bed, report: &mut Report) -> Outcome {
    let process = bundle::process(false, &["true"])?;
    standing(bed, report, "exec", false, |one, _| one.exec(&process))
}

/// The same in a container with a filter.
pub fn exec_seccomp(bed: &Bed, report: &mut Report) -> Outcome {
    let process = bundle::process(true, &["true"])?;
    standing(bed, report, "exec-seccomp", true, |one, _| one.exec(&process))
}

/// Lives per second, so many at a time.
pub fn parallel(bed: &Bed, report: &mut Report) -> Outcome {
    let count = if bed.quick { 8 } else { 200 };
    for round in 0..bed.rounds(1, 3) {
        for width in [1, 4, 16, 32] {
            for (peer, group) in bed.rotated(round) {
                let next = AtomicUsize::new(0);
                let started = Instant::now();
                let before = group.cpu()?;
                std::thread::scope(|scope| {
                    let worker = || -> Outcome {
                        while next.fetch_add(1, Ordering::Relaxed) < count {
                            life(bed, peer, group, false)?;
                        }
                        Ok(())
                    };
                    let workers: Vec<_> = (0..width).map(|_| scope.spawn(worker)).collect();
                    workers.into_iter().try_for_each(|worker| worker.join().map_err(|_| "a worker panicked")?)
                })?;
                let rate = count as f64 / started.elapsed().as_secs_f64();
                group.until_empty()?;
                let cpu = (group.cpu()? - before) as f64 / 1e6 / count as f64;
                report.add("parallel", format!("{width} at a time"), "lives/s", peer.name, rate);
                report.add("parallel", format!("CPU of a life, {width} at a time"), "ms", peer.name, cpu);
            }
        }
    }
    Ok(())
}
