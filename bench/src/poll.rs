//! What a shim answers questions for, and many shims that are asked every second.

use std::time::{Duration, Instant};

use crate::Outcome;
use crate::bed::Bed;
use crate::exec::Standing;
use crate::group::Group;
use crate::memory::end;
use crate::report::Report;
use crate::shim::Peer;

/// CPU of the shim for State, Pids and Stats.
pub fn ask(bed: &Bed, report: &mut Report) -> Outcome {
    let count = bed.pick(10, 500, 500);
    let pairs: Vec<(&Peer, &Group)> = bed.rotated(0).collect();
    let mut all = pairs.iter().map(|(p, g)| Standing::new(bed, p, g, false)).collect::<Outcome<Vec<_>>>()?;
    for round in bed.turns(1, 5, 15) {
        for (standing, (peer, group)) in all.iter_mut().zip(&pairs) {
            for method in ["State", "Pids", "Stats"] {
                let id = standing.id.clone();
                let before = group.cpu_of_shim()?;
                for _ in 0..count {
                    standing.shim.ask(method, &id)?;
                    standing.bundle.read_log();
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

/// The shims' share of a core when each of 500 containers is asked for its statistics every second. Go's shim asks no
/// runtime for them, so it is here once.
pub fn every_second(bed: &Bed, report: &mut Report) -> Outcome {
    let (count, seconds) = bed.pick((4, 2), (500, 12), (500, 60));
    bed.each(report, |peer, group, report| {
        if !["mini", "go+runc", "rs+crun"].contains(&peer.name) {
            return Ok(());
        }
        let mut pods =
            (0..count).map(|_| Standing::new(bed, peer, group, false)).collect::<Outcome<Vec<Standing>>>()?;
        let (before, started) = (group.cpu_of_shim()?, Instant::now());
        for second in 1..=seconds {
            for pod in &mut pods {
                let id = pod.id.clone();
                pod.shim.ask("Stats", &id)?;
                pod.bundle.read_log();
            }
            // A shim that is too slow for a second makes it longer, which its share then hides no less.
            std::thread::sleep((started + Duration::from_secs(second)).saturating_duration_since(Instant::now()));
        }
        let share = (group.cpu_of_shim()? - before) as f64 / started.elapsed().as_nanos() as f64;
        report.add("poll", "500 containers asked every second", "% of a core", peer.name, 100.0 * share);
        end(bed, peer, group, pods)
    })
}
