//! What a shim keeps: alone, after much work, and fifty of them side by side.

use std::time::{Duration, Instant};

use crate::Outcome;
use crate::alone::parent_of;
use crate::bed::Bed;
use crate::bundle;
use crate::exec::Standing;
use crate::group::Group;
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
    let (execs, members) = bed.pick((10, 2), (1000, 100), (1000, 100));
    bed.each(report, |peer, group, report| {
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
        group.until_empty()
    })
}

/// Fifty pods of one container each.
pub fn many<'a>(bed: &'a Bed, peer: &'a Peer, group: &Group) -> Outcome<Vec<Standing<'a>>> {
    let count = bed.pick(4, 50, 50);
    (0..count).map(|_| Standing::new(bed, peer, group, false)).collect()
}

/// Ends them.
pub fn end(bed: &Bed, peer: &Peer, group: &Group, pods: Vec<Standing>) -> Outcome {
    pods.into_iter().try_for_each(|pod| pod.end(bed, peer, group))?;
    group.until_empty()
}

/// What fifty pods take.
pub fn pods(bed: &Bed, report: &mut Report) -> Outcome {
    bed.each(report, |peer, group, report| {
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
        end(bed, peer, group, pods)
    })
}

/// Sizes of the binaries, and whether the shim needs a dynamic loader.
pub fn sizes(bed: &Bed, report: &mut Report) -> Outcome {
    for (peer, _) in bed.rotated(0) {
        let size = |path: &std::path::Path| -> Outcome<f64> { Ok(std::fs::metadata(path)?.len() as f64 / 1e6) };
        report.add("sizes", "shim", "MB", peer.name, size(&peer.binary)?);
        report.add("sizes", "dynamic loaders of the shim", "", peer.name, loaders(&std::fs::read(&peer.binary)?)?);
        if let Some(runtime) = &peer.runtime {
            report.add("sizes", "runtime", "MB", peer.name, size(runtime)?);
        }
    }
    Ok(())
}

/// The program headers of type PT_INTERP, elf(5), of a 64-bit file.
fn loaders(file: &[u8]) -> Outcome<f64> {
    const INTERPRETER: u64 = 3;
    let number = |at: usize, size: usize| -> Outcome<u64> {
        let bytes = file.get(at..at + size).ok_or("the file is too short for an ELF file")?;
        Ok(bytes.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
    };
    let (first, each, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
    let kinds = (0..count).map(|n| number(usize::try_from(first + n * each)?, 4)).collect::<Outcome<Vec<u64>>>()?;
    Ok(kinds.iter().filter(|kind| **kind == INTERPRETER).count() as f64)
}
