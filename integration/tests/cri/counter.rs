//! A container that counts into its log, and falls silent when asked to: what a containerd that is killed has read and not yet
//! written is lost with any shim, so nothing may be under way then.

use std::path::PathBuf;

use integration::containerd::LIMIT;
use integration::cri::Pod;
use integration::{Bed, Outcome, ensure, eventually};
use serde_json::json;

/// Its files are in `/work`: `hold` and `end` are ours, `count` and `held` are its own.
const SCRIPT: &str = "i=0; until [ -e /work/end ]; do
    if [ -e /work/hold ]; then echo $i > /work/held; else i=$((i+1)); echo $i; echo $i > /work/count; fi; usleep 20000;
    done; echo last; sleep 100000";

pub struct Counter<'p, 'c, 'a> {
    bed: &'p Bed,
    pod: &'p Pod<'c, 'a>,
    work: PathBuf,
    pub id: String,
}

impl<'p, 'c, 'a> Counter<'p, 'c, 'a> {
    pub fn start(bed: &'p Bed, pod: &'p Pod<'c, 'a>) -> Outcome<Self> {
        let work = bed.directory("counter")?;
        let mount = json!({ "mounts": [{ "host_path": work, "container_path": "/work" }] });
        let id = pod.run("counter", SCRIPT, mount)?;
        let counter = Counter { bed, pod, work, id };
        // Held at once, it would have nothing to log.
        eventually(LIMIT, || counter.noted("count"))?;
        Ok(counter)
    }

    fn noted(&self, name: &str) -> Outcome<usize> {
        Ok(std::fs::read_to_string(self.work.join(name))?.trim().parse()?)
    }

    /// Kills containerd, and comes back when the container has counted on without it.
    pub fn kill_containerd(&self) -> Outcome {
        std::fs::write(self.work.join("hold"), "")?;
        let held = eventually(LIMIT, || {
            let held = self.noted("held")?;
            let log = self.pod.log("counter")?;
            ensure!(log.lines().last() == Some(&held.to_string()), "{held} is not logged");
            Ok(held)
        })?;
        self.bed.containerd.kill()?;
        std::fs::remove_file(self.work.join("hold"))?;
        eventually(LIMIT, || {
            ensure!(self.noted("count")? > held + 5, "it does not go on after {held}");
            Ok(())
        })?;
        Ok(std::fs::remove_file(self.work.join("held"))?)
    }

    /// Ends the counting; not a line may be missing.
    pub fn check(self) -> Outcome {
        std::fs::write(self.work.join("end"), "")?;
        eventually(LIMIT, || {
            ensure!(self.pod.log("counter")?.ends_with("last\n"), "the end is not logged");
            Ok(())
        })?;
        check_counted(&self.pod.log("counter")?)
    }
}

/// Lines 1, 2, 3, … and then `last`.
pub fn check_counted(log: &str) -> Outcome {
    let lines: Vec<_> = log.lines().collect();
    let (last, numbers) = lines.split_last().ok_or("nothing is logged")?;
    for (index, line) in numbers.iter().enumerate() {
        ensure!(*line == (index + 1).to_string(), "{line:?} is line {}", index + 1);
    }
    ensure!(*last == "last" && !numbers.is_empty(), "the last line is {last:?}");
    Ok(())
}
