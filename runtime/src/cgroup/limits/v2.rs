//! Resources on version 2: the specification speaks version 1, so values are converted, as runc and crun do.

use std::collections::BTreeMap;

use super::{Host, List, Rule, block_device, invalid, refuse};
use crate::error::{Error, Kind, Result};
use crate::spec::{BlockIo, Cpu, Memory};

/// Version 1's -1 is version 2's word.
fn limit(value: i64) -> String {
    if value == -1 { "max".to_owned() } else { value.to_string() }
}

/// Memory. Setting a limit below what is in use makes the kernel reclaim, and then kill; `checkBeforeUpdate` refuses
/// instead. The swap limit of version 2 counts swap alone and stays as it is when only the memory limit changes.
pub(super) fn memory(m: &Memory, host: &Host<'_>, list: &mut List) -> Result<()> {
    let number = |file: &str| (host.current)("memory", file).and_then(|t| t.trim().parse::<i64>().ok());
    let given = m.limit.filter(|n| *n != 0);
    let swap = m.swap.filter(|n| *n != 0);
    if m.check_before_update == Some(true)
        && let Some(usage) = number("memory.current")
    {
        for (from, word, wanted) in [("memory/swap", "memory+swap", swap), ("memory/limit", "memory", given)] {
            if let Some(wanted) = wanted.filter(|n| *n > 0 && *n <= usage) {
                let reason = format!("rejecting {word} limit {wanted} <= usage {usage}");
                let error = Error::invalid(format!("/linux/resources/{from}"), reason);
                return Err(Error { kind: Kind::State, ..error });
            }
        }
    }
    // An update may name the sum alone: then the memory part is the one in force.
    let memory = given.or_else(|| swap.and_then(|_| number("memory.max")));
    let swap = match (swap, memory) {
        (None, Some(-1)) => Some(("memory/limit", -1)), // version 1 would lift both
        (None, _) => None,
        (Some(-1), _) => Some(("memory/swap", -1)),
        (Some(sum), Some(-1)) => Some(("memory/swap", sum)),
        (Some(_), None) => return invalid("memory/swap", "unable to set swap limit without memory limit"),
        (Some(_), Some(memory)) if memory < 0 => {
            return invalid("memory/limit", format!("invalid memory value: {memory}"));
        }
        (Some(sum), Some(memory)) if sum < memory => {
            return invalid("memory/swap", "memory+swap limit should be >= memory limit");
        }
        (Some(sum), Some(memory)) => Some(("memory/swap", sum - memory)),
    };
    if let Some((from, swap)) = swap {
        // Without swap accounting there is no file: no limit and no swap at all are both true already.
        let rule = if swap <= 0 { Rule::IfThere } else { Rule::Must };
        list.put(from, "memory.swap.max", limit(swap), rule);
    }
    if let Some(memory) = given {
        list.put("memory/limit", "memory.max", limit(memory), Rule::Must);
    }
    if let Some(reservation) = m.reservation.filter(|n| *n != 0) {
        list.put("memory/reservation", "memory.low", limit(reservation), Rule::Must);
    }
    if m.disable_oom_killer == Some(true) {
        return refuse("memory/disableOOMKiller", "cgroup v2 cannot disable the OOM killer");
    }
    match m.swappiness {
        None | Some(u64::MAX) => Ok(()), // docker's -1: not given
        Some(_) => refuse("memory/swappiness", "cgroup v2 has no swappiness of a group"),
    }
}

/// Shares of version 1 (2 to 262144, default 1024) as a weight of version 2 (1 to 10000, default 100): the quadratic
/// formula of runc 1.3.2 and crun 1.23, which maps minimum, default and maximum onto each other.
pub(super) fn weight(shares: u64) -> u64 {
    match shares {
        0..=2 => 1,
        262_144.. => 10_000,
        _ => {
            let l = (shares as f64).log2();
            10f64.powf((l * l + 125.0 * l) / 612.0 - 7.0 / 34.0).ceil() as u64
        }
    }
}

pub(super) fn cpu(c: &Cpu, host: &Host<'_>, list: &mut List) -> Result<()> {
    if c.realtime_period.is_some_and(|n| n != 0) {
        return refuse("cpu/realtimePeriod", "cgroup v2 has no realtime limits");
    }
    if c.realtime_runtime.is_some_and(|n| n != 0) {
        return refuse("cpu/realtimeRuntime", "cgroup v2 has no realtime limits");
    }
    if let Some(shares) = c.shares.filter(|n| *n != 0) {
        // An idle group's weight cannot be changed, and does not matter.
        let rule = if c.idle == Some(1) { Rule::Moot } else { Rule::Later };
        list.put("cpu/shares", "cpu.weight", weight(shares), rule);
    }
    if let Some(idle) = c.idle {
        list.put("cpu/idle", "cpu.idle", idle, Rule::Must);
    }
    let (quota, period) = (c.quota.filter(|n| *n != 0), c.period.filter(|n| *n != 0));
    let quota_word = quota.map(|q| if q < 0 { "max".to_owned() } else { q.to_string() });
    match (quota_word, period) {
        (None, None) => {}
        (Some(quota), None) => list.put("cpu/quota", "cpu.max", quota, Rule::Later),
        (Some(quota), Some(period)) => list.put("cpu/quota", "cpu.max", format!("{quota} {period}"), Rule::Later),
        (None, Some(period)) => {
            // The file takes a quota, or a quota and a period: the quota in force is said again.
            let now = (host.current)("cpu", "cpu.max").unwrap_or_default();
            let quota = now.split_whitespace().next().unwrap_or("max");
            list.put("cpu/period", "cpu.max", format!("{quota} {period}"), Rule::Later);
        }
    }
    if let Some(burst) = c.burst {
        list.put("cpu/burst", "cpu.max.burst", burst, Rule::Later);
    }
    Ok(())
}

/// blkio's 10 to 1000 as io.weight's 1 to 10000.
pub(super) fn io_weight(weight: u16) -> u64 {
    1 + u64::from(weight.saturating_sub(10)) * 9999 / 990
}

pub(super) fn block_io(b: &BlockIo, list: &mut List) -> Result<()> {
    list.controller = "io";
    if b.leaf_weight.is_some_and(|n| n != 0) {
        return refuse("blockIO/leafWeight", "cgroup v2 has no leaf weights");
    }
    if let Some(weight) = b.weight.filter(|n| *n != 0) {
        // BFQ, where it is loaded, knows version 1's range.
        list.put("blockIO/weight", "io.bfq.weight", weight, Rule::OrNext);
        list.put("blockIO/weight", "io.weight", io_weight(weight), Rule::Must);
    }
    for (i, d) in b.weight_device.iter().enumerate() {
        let from = format!("blockIO/weightDevice/{i}");
        let device = block_device(&from, d.major, d.minor)?;
        if d.leaf_weight.is_some_and(|n| n != 0) {
            return refuse(&format!("{from}/leafWeight"), "cgroup v2 has no leaf weights");
        }
        if let Some(weight) = d.weight.filter(|n| *n != 0) {
            list.put(&from, "io.bfq.weight", format!("{device} {weight}"), Rule::OrNext);
            list.put(&from, "io.weight", format!("{device} {}", io_weight(weight)), Rule::Must);
        }
    }
    for (from, key, devices) in [
        ("throttleReadBpsDevice", "rbps", &b.throttle_read_bps_device),
        ("throttleWriteBpsDevice", "wbps", &b.throttle_write_bps_device),
        ("throttleReadIOPSDevice", "riops", &b.throttle_read_iops_device),
        ("throttleWriteIOPSDevice", "wiops", &b.throttle_write_iops_device),
    ] {
        for (i, d) in devices.iter().enumerate() {
            let from = format!("blockIO/{from}/{i}");
            let device = block_device(&from, d.major, d.minor)?;
            let rate = if d.rate == 0 { "max".to_owned() } else { d.rate.to_string() };
            list.put(&from, "io.max", format!("{device} {key}={rate}"), Rule::Must);
        }
    }
    Ok(())
}

/// `unified`: files of the group written as they are, line by line, after everything else. Nothing resets a cpuset, as
/// cgroup-v2.rst has it; other files take an empty line for 0 (memory.max!) or for an error.
pub(super) fn unified(entries: &BTreeMap<String, String>, host: &Host<'_>, list: &mut List) -> Result<()> {
    list.controller = "";
    for (key, value) in entries {
        let from = format!("unified/{}", key.replace('~', "~0").replace('/', "~1"));
        if !host.unified {
            return refuse(&from, "invalid configuration: cannot use unified on cgroup v1");
        }
        if key.contains('/') || key.is_empty() || key.contains('\0') {
            return invalid(&from, format!("unified resource {key:?} must be a file name (no slashes)"));
        }
        if !key.contains('.') {
            return invalid(&from, format!("unified resource {key:?} must be in the form CONTROLLER.PARAMETER"));
        }
        for line in value.strip_suffix('\n').unwrap_or(value).split('\n') {
            let line = match line {
                // A write of no bytes would never get to the file.
                "" if key.starts_with("cpuset.") => "\n",
                "" if value.trim().is_empty() => return invalid(&from, "must not be empty"),
                "" => continue,
                line => line,
            };
            list.put(&from, key.as_str(), line, Rule::Unified);
        }
    }
    Ok(())
}
