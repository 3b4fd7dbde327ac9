//! Exec probes in many pods at once.

use std::time::{Duration, Instant};

use crate::Outcome;
use crate::alone::parent_of;
use crate::bed::Bed;
use crate::bundle;
use crate::exec::Standing;
use crate::group::Group;
use crate::memory::{end, many, settled, usage};
use crate::report::Report;

/// Exec probes in fifty pods: as fast as they complete, then one per second and pod. Straight on the shims, so that
/// containerd's share is left out.
pub fn probes(bed: &Bed, report: &mut Report) -> Outcome {
    let process = bundle::process(false, &["true"])?;
    let (fast, slow) = bed.pick((2, 2), (10, 10), (120, 180));
    report.note(format!("probes: as fast as they complete for {fast} s, then one per second and pod for {slow} s"));
    bed.each(report, |peer, group, report| {
        let there = left(bed, group)?;
        let mut pods = many(bed, peer, group)?;
        let shims = pods.iter().map(|pod| parent_of(pod.pid)).collect::<Outcome<Vec<u32>>>()?;
        let each = |of: &dyn Fn(u32) -> Outcome<f64>| -> Outcome<f64> {
            Ok(shims.iter().map(|&pid| of(pid)).sum::<Outcome<f64>>()? / shims.len() as f64)
        };
        let private = |pid| Ok(usage(pid)?.private);
        let (before, fresh, open) = (group.cpu()?, each(&private)?, each(&descriptors)?);
        let done = ask_all(&mut pods, &process, Duration::from_secs(fast), Duration::ZERO)?;
        let cpu = (group.cpu()? - before) as f64 / 1e6 / done as f64;
        report.add("probes", "CPU of a probe", "ms", peer.name, cpu);
        report.add("probes", "probes per second", "1/s", peer.name, done as f64 / fast as f64);
        settled(shims[0])?;
        let used = each(&private)?;
        report.add("probes", "private more per shim after the first part", "kB", peer.name, used - fresh);
        let before = group.cpu()?;
        let done = ask_all(&mut pods, &process, Duration::from_secs(slow), Duration::from_secs(1))?;
        let cpu = (group.cpu()? - before) as f64 / 1e6 / done as f64;
        report.add("probes", "CPU of a probe, one per second and pod", "ms", peer.name, cpu);
        settled(shims[0])?;
        report.add("probes", "growth per shim in the second part", "kB", peer.name, each(&private)? - used);
        // What is kept open while execs are frequent is closed by a clock of twelve seconds.
        let end_of_wait = Instant::now() + Duration::from_secs(30);
        while each(&descriptors)? > open && Instant::now() < end_of_wait {
            std::thread::sleep(Duration::from_secs(1));
        }
        report.add("probes", "more descriptors per shim", "", peer.name, each(&descriptors)? - open);
        end(bed, peer, group, pods)?;
        let more = left(bed, group)?.saturating_sub(there);
        report.add("probes", "groups, mounts, sockets left", "", peer.name, more as f64);
        Ok(())
    })
}

fn descriptors(pid: u32) -> Outcome<f64> {
    Ok(std::fs::read_dir(format!("/proc/{pid}/fd"))?.count() as f64)
}

/// Containers' groups, mounts below our directory, and shims' sockets.
fn left(bed: &Bed, group: &Group) -> Outcome<usize> {
    let dir = bed.dir.display().to_string();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    let mounts = mounts.lines().filter(|line| line.split(' ').nth(4).is_some_and(|at| at.starts_with(&dir))).count();
    let sockets = std::fs::read_dir("/run/containerd/s").map_or(0, Iterator::count);
    Ok(group.children()? + mounts + sockets)
}

/// Four clients, each with its share of the pods, for so long; each pod no more often than `pause`. How many execs it was.
fn ask_all(pods: &mut [Standing], process: &serde_json::Value, length: Duration, pause: Duration) -> Outcome<u64> {
    let end = Instant::now() + length;
    let share = pods.len().div_ceil(4);
    std::thread::scope(|scope| {
        let client = |pods: &mut [Standing]| -> Outcome<u64> {
            let mut done = 0;
            while Instant::now() < end {
                let next = Instant::now() + pause;
                for pod in &mut *pods {
                    pod.exec(process)?;
                    done += 1;
                }
                std::thread::sleep(next.saturating_duration_since(Instant::now()));
            }
            Ok(done)
        };
        let clients: Vec<_> = pods.chunks_mut(share).map(|share| scope.spawn(move || client(share))).collect();
        clients.into_iter().map(|client| client.join().map_err(|_| "a client panicked")?).sum()
    })
}
