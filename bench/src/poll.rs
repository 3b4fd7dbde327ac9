//! What a shim answers questions for, and many shims that are asked every second.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use crate::Outcome;
use crate::alone::floor;
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
        let mut add =
            |name, share| report.add("poll", "500 containers asked every second", "% of a core", name, 100.0 * share);
        add(peer.name, share);
        if peer.name == "mini"
            && let Some(floor) = floor()
        {
            add("floor", floor_share(&floor, group, &pods, seconds)?);
        }
        end(bed, peer, group, pods)
    })
}

/// The same of a process for each of these containers that only reads and answers.
fn floor_share(floor: &Path, group: &Group, pods: &[Standing<'_>], seconds: u64) -> Outcome<f64> {
    let mut asked = Vec::new();
    for pod in pods {
        let (ours, theirs) = UnixStream::pair()?;
        let mut command = Command::new(floor);
        command.args(["asked", &format!("{}/{}", group.path, pod.id)]);
        let child = command.stdin(OwnedFd::from(theirs.try_clone()?)).stdout(OwnedFd::from(theirs)).spawn()?;
        asked.push((ours, child));
    }
    // In nanoseconds: proc_pid_schedstat(5).
    let ran = |asked: &[(UnixStream, Child)]| -> Outcome<u64> {
        asked.iter().try_fold(0, |sum, (_, child)| {
            let text = std::fs::read_to_string(format!("/proc/{}/schedstat", child.id()))?;
            Ok(sum + text.split(' ').next().unwrap_or_default().parse::<u64>()?)
        })
    };
    let mut answer = [0; 1200];
    let mut ask = |asked: &mut [(UnixStream, Child)]| -> Outcome {
        asked.iter_mut().try_for_each(|(stream, _)| {
            stream.write_all(&[0; 40])?;
            Ok(stream.read_exact(&mut answer)?)
        })
    };
    ask(&mut asked)?;
    let (before, started) = (ran(&asked)?, Instant::now());
    for second in 1..=seconds {
        ask(&mut asked)?;
        std::thread::sleep((started + Duration::from_secs(second)).saturating_duration_since(Instant::now()));
    }
    let share = (ran(&asked)? - before) as f64 / started.elapsed().as_nanos() as f64;
    for (stream, mut child) in asked {
        drop(stream);
        child.wait()?;
    }
    Ok(share)
}
