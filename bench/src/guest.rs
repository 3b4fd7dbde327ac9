//! The same counts on a machine with cgroup v2 only. What is counted there does not depend on how slow it is.

use std::process::{Command, Stdio};

use crate::Outcome;
use crate::bed::{Bed, Length};
use crate::report::Report;

/// The case's name in this machine's report.
const CASE: &str = "calls-v2";

/// Boots the guest of `scripts/guest-run`, runs case `calls` in it and takes over what that found.
///
/// Errors: the guest does not boot; the case failed in it.
pub fn calls(bed: &Bed, report: &mut Report) -> Outcome {
    let out = bed.dir.join("guest");
    std::fs::create_dir_all(&out)?;
    let names: Vec<&str> = bed.peers.iter().map(|peer| peer.name).collect();
    let mut command = Command::new("scripts/guest-run");
    command.args(["--timeout", "400", "--share"]).arg(&out).arg("--").arg(std::env::current_exe()?).arg("calls");
    if bed.length == Length::Quick {
        command.arg("--quick");
    }
    command.env("MINI_BENCH_OUT", &out).env("MINI_BENCH_PEERS", names.join(",")).env_remove("MINI_BENCH_FLOOR");
    command.env_remove("TMPDIR").stdin(Stdio::null()).stdout(Stdio::null());
    let status = command.status()?;
    let raw = std::fs::read_to_string(out.join("raw.csv"))?;
    for line in raw.lines().skip(1) {
        // case, quantity (which may have commas), unit, peer (which has none, the floor is not there), round, value
        let fields: Vec<&str> = line.rsplitn(5, ',').collect();
        let [value, _round, peer, _unit, what] = fields[..] else { continue };
        let name = what.split_once(',').map_or(what, |(_case, name)| name);
        report.add(CASE, name, "calls", peer, value.parse()?);
    }
    if status.success() { Ok(()) } else { Err(format!("case calls in the guest: {status}").into()) }
}
