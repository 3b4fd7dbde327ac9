//! What happens in a shim that already runs, with a sleeping container: another member of the pod, an exec.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::bed::Bed;
use crate::bundle::{self, Wish};
use crate::group::Group;
use crate::life::{NO_STREAMS, ms, wish};
use crate::report::Report;
use crate::shim::{Peer, Shim};
use crate::{Outcome, alone, number};

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
        let took = started.elapsed();
        self.bundle.read_log();
        Ok(ms(took))
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
        let took = started.elapsed();
        self.bundle.read_log();
        Ok(ms(took))
    }
}

/// Adds to `case` the wall time of a job and the CPU it cost.
fn timed(
    report: &mut Report,
    case: &str,
    who: &str,
    group: &Group,
    counts: bool,
    job: impl FnOnce() -> Outcome<f64>,
) -> Outcome<f64> {
    let before = group.cpu()?;
    let value = job()?;
    let cpu = (group.cpu()? - before) as f64 / 1e6;
    if counts {
        report.add(case, "total", "ms", who, value);
        report.add(case, "CPU of the tree", "ms", who, cpu);
    }
    Ok(value)
}

/// Standing shims of all peers, in their order.
fn stand<'a>(bed: &'a Bed, seccomp: bool) -> Outcome<Vec<Standing<'a>>> {
    bed.rotated(0).map(|(peer, group)| Standing::new(bed, peer, group, seccomp)).collect()
}

/// Ends them, and what was stood up in the same order behind them.
fn end(bed: &Bed, all: Vec<Standing>) -> Outcome {
    for (n, one) in all.into_iter().enumerate() {
        let n = n % bed.peers.len();
        one.end(bed, &bed.peers[n], &bed.groups[n])?;
    }
    bed.groups.iter().try_for_each(Group::until_empty)
}

/// The first rounds make what later ones reuse: page cache, crun's cache of compiled filters.
const WARM: usize = 2;

/// A pod's member.
pub fn member(bed: &Bed, report: &mut Report) -> Outcome {
    let mut all = stand(bed, false)?;
    let count = all.len();
    for round in bed.turns(WARM, 20, 45) {
        for n in (0..count).map(|n| (n + round) % count) {
            let (peer, group) = (&bed.peers[n], &bed.groups[n]);
            timed(report, "member", peer.name, group, round >= WARM, || all[n].member(bed, group))?;
        }
    }
    end(bed, all)
}

/// An exec of `true`.
pub fn plain(bed: &Bed, report: &mut Report) -> Outcome {
    let process = bundle::process(false, &["true"])?;
    let floor = Floor::new(bed)?;
    let mut all = stand(bed, false)?;
    let count = all.len();
    for round in bed.turns(WARM, 20, 40) {
        for n in (0..count).map(|n| (n + round) % count) {
            let (peer, group) = (&bed.peers[n], &bed.groups[n]);
            timed(report, "exec", peer.name, group, round >= WARM, || all[n].exec(&process))?;
        }
        if let Some((n, floor)) = &floor {
            let group = &bed.groups[*n];
            timed(report, "exec", "floor", group, round >= WARM, || floor.exec(&all[*n], group, false))?;
        }
    }
    end(bed, all)
}

/// The same in a container with a filter, beside one without, and the difference in every round.
pub fn seccomp(bed: &Bed, report: &mut Report) -> Outcome {
    const CASE: &str = "exec-seccomp";
    let (without, with) = (bundle::process(false, &["true"])?, bundle::process(true, &["true"])?);
    let floor = Floor::new(bed)?;
    let (mut plain, mut filtered) = (stand(bed, false)?, stand(bed, true)?);
    let count = plain.len();
    for round in bed.turns(WARM, 20, 45) {
        let counts = round >= WARM;
        let add = |report: &mut Report, who: &str, without: f64, with: f64| {
            if counts {
                report.add(CASE, "without", "ms", who, without);
                report.add(CASE, "more than without", "ms", who, with - without);
            }
        };
        for n in (0..count).map(|n| (n + round) % count) {
            let (peer, group) = (&bed.peers[n], &bed.groups[n]);
            let bare = plain[n].exec(&without)?;
            let value = timed(report, CASE, peer.name, group, counts, || filtered[n].exec(&with))?;
            add(report, peer.name, bare, value);
        }
        if let Some((n, floor)) = &floor {
            let group = &bed.groups[*n];
            let bare = floor.exec(&plain[*n], group, false)?;
            let value = timed(report, CASE, "floor", group, counts, || floor.exec(&filtered[*n], group, true))?;
            add(report, "floor", bare, value);
        }
    }
    // Both of a peer are in one group, which is empty after both.
    plain.extend(filtered);
    end(bed, plain)
}

/// The floor's exec: join mini's container, become `true`. Its process starts before its clock does.
struct Floor {
    binary: PathBuf,
    filter: PathBuf,
}

impl Floor {
    /// With the place of mini among the peers; none without mini.
    fn new(bed: &Bed) -> Outcome<Option<(usize, Floor)>> {
        let Some(n) = bed.peers.iter().position(|peer| peer.name == "mini") else { return Ok(None) };
        let Some(binary) = alone::floor() else { return Ok(None) };
        let filter = bed.dir.join("filter-exec");
        std::fs::write(&filter, alone::linear()?)?;
        Ok(Some((n, Floor { binary, filter })))
    }

    fn exec(&self, into: &Standing, group: &Group, filtered: bool) -> Outcome<f64> {
        let mut command = Command::new(&self.binary);
        command.args(["exec", &into.pid.to_string(), &format!("{}/{}", group.path, into.id)]);
        if filtered {
            command.arg(&self.filter)
        } else {
            command.arg("-")
        };
        command.arg("/bin/true").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = group.within(|| Ok(command.spawn()?))?.wait_with_output()?;
        if !output.status.success() {
            return Err(format!("floor exec: {}: {}", output.status, String::from_utf8_lossy(&output.stderr)).into());
        }
        let microseconds: f64 = String::from_utf8(output.stdout)?.trim().parse()?;
        Ok(microseconds / 1e3)
    }
}
