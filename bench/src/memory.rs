//! What a shim keeps: alone, after much work, and fifty of them side by side; and what they answer questions for.

use std::time::{Duration, Instant};

use crate::Outcome;
use crate::alone::parent_of;
use crate::bed::Bed;
use crate::bundle;
use crate::group::Group;
use crate::life::Standing;
use crate::report::Report;
use crate::shim::Peer;

/// A process's memory in kB, and its threads.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// Private and changed: what another instance costs again.
    pub private: f64,
    /// With its share of what is shared.
    pub pss: f64,
    /// All that is mapped and present.
    pub resident: f64,
    /// Threads.
    pub threads: f64,
}

/// Reads smaps_rollup and status.
pub fn usage(pid: u32) -> Outcome<Usage> {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let field = |text: &str, name: &str| -> Outcome<f64> {
        let line = text.lines().find(|line| line.split(':').next() == Some(name)).ok_or("no such field")?;
        Ok(line.split_whitespace().nth(1).ok_or("no value")?.parse()?)
    };
    Ok(Usage {
        private: field(&rollup, "Private_Dirty")?,
        pss: field(&rollup, "Pss")?,
        resident: field(&rollup, "Rss")?,
        threads: field(&status, "Threads")?,
    })
}

/// The least of some seconds: a thread that is just ending, or a buffer in use, is not what stays.
pub fn settled(pid: u32) -> Outcome<Usage> {
    let mut least = usage(pid)?;
    let end = Instant::now() + Duration::from_secs(4);
    while Instant::now() < end {
        std::thread::sleep(Duration::from_millis(200));
        let now = usage(pid)?;
        least = Usage {
            private: least.private.min(now.private),
            pss: least.pss.min(now.pss),
            resident: least.resident.min(now.resident),
            threads: least.threads.min(now.threads),
        };
    }
    Ok(least)
}

/// One idle shim with one container, before and after 1,000 execs and 100 containers.
pub fn idle(bed: &Bed, report: &mut Report) -> Outcome {
    let process = bundle::process(false, &["true"])?;
    let (execs, members) = if bed.quick { (10, 2) } else { (1000, 100) };
    for (peer, group) in bed.rotated(0) {
        let mut standing = Standing::new(bed, peer, group, false)?;
        let shim = parent_of(standing.pid)?;
        let before = settled(shim)?;
        for _ in 0..execs {
            standing.exec(&process)?;
        }
        for _ in 0..members {
            standing.member(bed, group)?;
        }
        let after = settled(shim)?;
        let more = "private more after 1,000 execs and 100 containers";
        for (name, unit, value) in [
            ("private", "kB", before.private),
            ("PSS", "kB", before.pss),
            ("resident", "kB", before.resident),
            ("threads", "threads", before.threads),
            (more, "kB", after.private - before.private),
            ("threads after them", "threads", after.threads),
        ] {
            report.add("idle", name, unit, peer.name, value);
        }
        standing.end(bed, peer, group)?;
        group.until_empty()?;
    }
    Ok(())
}

/// Fifty pods of one container each.
fn many<'a>(bed: &'a Bed, peer: &'a Peer, group: &Group) -> Outcome<Vec<Standing<'a>>> {
    (0..if bed.quick { 4 } else { 50 }).map(|_| Standing::new(bed, peer, group, false)).collect()
}

fn end(bed: &Bed, peer: &Peer, group: &Group, pods: Vec<Standing>) -> Outcome {
    pods.into_iter().try_for_each(|pod| pod.end(bed, peer, group))?;
    group.until_empty()
}

/// What fifty pods take.
pub fn pods(bed: &Bed, report: &mut Report) -> Outcome {
    for (peer, group) in bed.rotated(0) {
        // One life before: what all share, the binary's pages in the page cache, is not a pod's.
        Standing::new(bed, peer, group, false)?.end(bed, peer, group)?;
        group.until_empty()?;
        let before = group.memory()?;
        let pods = many(bed, peer, group)?;
        let shims = pods.iter().map(|pod| parent_of(pod.pid)).collect::<Outcome<Vec<u32>>>()?;
        settled(shims[0])?;
        let pss = shims.iter().map(|&pid| Ok(usage(pid)?.pss)).collect::<Outcome<Vec<f64>>>()?;
        let count = pods.len() as f64;
        let charged = group.memory()?;
        report.add("pods", "PSS per shim", "kB", peer.name, pss.iter().sum::<f64>() / count);
        report.add("pods", "memory charged per pod", "kB", peer.name, (charged.0 - before.0) / 1024.0 / count);
        report.add("pods", "of that kernel memory", "kB", peer.name, (charged.1 - before.1) / 1024.0 / count);
        end(bed, peer, group, pods)?;
    }
    Ok(())
}

/// Exec probes in fifty pods: as fast as they complete, then one per second and pod. Straight on the shims, so that
/// containerd's share is left out.
pub fn probes(bed: &Bed, report: &mut Report) -> Outcome {
    let process = bundle::process(false, &["true"])?;
    let (fast, slow) = if bed.quick { (2, 2) } else { (120, 180) };
    for (peer, group) in bed.rotated(0) {
        let mut pods = many(bed, peer, group)?;
        let shims = pods.iter().map(|pod| parent_of(pod.pid)).collect::<Outcome<Vec<u32>>>()?;
        let private = || shims.iter().map(|&pid| Ok(usage(pid)?.private)).sum::<Outcome<f64>>();
        let (before, memory) = (group.cpu()?, private()?);
        let done = at_once(&mut pods, &process, Duration::from_secs(fast), Duration::ZERO)?;
        let cpu = (group.cpu()? - before) as f64 / 1e6 / done as f64;
        report.add("probes", "CPU of a probe", "ms", peer.name, cpu);
        report.add("probes", "probes per second", "1/s", peer.name, done as f64 / fast as f64);
        let before = group.cpu()?;
        let done = at_once(&mut pods, &process, Duration::from_secs(slow), Duration::from_secs(1))?;
        let cpu = (group.cpu()? - before) as f64 / 1e6 / done as f64;
        report.add("probes", "CPU of a probe, one per second and pod", "ms", peer.name, cpu);
        settled(shims[0])?;
        report.add("probes", "private more per shim", "kB", peer.name, (private()? - memory) / shims.len() as f64);
        end(bed, peer, group, pods)?;
    }
    Ok(())
}

/// Four clients, each with its share of the pods, for so long; each pod no more often than `pause`. How many execs it was.
fn at_once(pods: &mut [Standing], process: &serde_json::Value, length: Duration, pause: Duration) -> Outcome<u64> {
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

/// CPU of the shim for State, Pids and Stats.
pub fn ask(bed: &Bed, report: &mut Report) -> Outcome {
    let count = if bed.quick { 10 } else { 500 };
    let pairs: Vec<(&Peer, &Group)> = bed.rotated(0).collect();
    let mut all = pairs.iter().map(|(p, g)| Standing::new(bed, p, g, false)).collect::<Outcome<Vec<_>>>()?;
    for round in 0..bed.rounds(1, 5) + 1 {
        for (standing, (peer, group)) in all.iter_mut().zip(&pairs) {
            for method in ["State", "Pids", "Stats"] {
                let id = standing.id.clone();
                let before = group.cpu_of_shim()?;
                for _ in 0..count {
                    standing.shim.ask(method, &id)?;
                }
                let cpu = (group.cpu_of_shim()? - before) as f64 / 1e3 / f64::from(count);
                if round > 0 {
                    report.add("ask", method, "µs of CPU", peer.name, cpu);
                }
            }
        }
    }
    for (one, (peer, group)) in all.into_iter().zip(pairs) {
        one.end(bed, peer, group)?;
        group.until_empty()?;
    }
    Ok(())
}

/// Sizes of the binaries.
pub fn sizes(bed: &Bed, report: &mut Report) -> Outcome {
    for (peer, _) in bed.rotated(0) {
        let size = |path: &std::path::Path| -> Outcome<f64> { Ok(std::fs::metadata(path)?.len() as f64 / 1e6) };
        report.add("sizes", "shim", "MB", peer.name, size(&peer.binary)?);
        if let Some(runtime) = &peer.runtime {
            report.add("sizes", "runtime", "MB", peer.name, size(runtime)?);
        }
    }
    Ok(())
}
