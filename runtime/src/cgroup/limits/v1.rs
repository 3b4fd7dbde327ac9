//! Resources on version 1: the specification was written for it, so most values go in as they are.

use super::{Host, List, Rule, Version, block_device, invalid, refuse};
use crate::error::Result;
use crate::spec::{BlockIo, Cpu, Memory, Network};

pub(super) fn memory(m: &Memory, host: &Host<'_>, list: &mut List) -> Result<()> {
    let current = |file: &str| (host.current)("memory", file);
    let limit = m.limit.filter(|n| *n != 0);
    let mut swap = m.swap.filter(|n| *n != 0);
    if limit == Some(-1) && swap.is_none() && current("memory.memsw.limit_in_bytes").is_some() {
        swap = Some(-1); // else the old memory+swap limit would forbid the unlimited one
    }
    // limit ≤ memsw holds at all times, so which goes first depends on the direction: the kernel says EINVAL, then later.
    if let Some(limit) = limit {
        list.put("memory/limit", "memory.limit_in_bytes", limit, Rule::Memory);
    }
    if let Some(swap) = swap {
        list.put("memory/swap", "memory.memsw.limit_in_bytes", swap, Rule::Later);
    }
    if let Some(reservation) = m.reservation.filter(|n| *n != 0) {
        list.put("memory/reservation", "memory.soft_limit_in_bytes", reservation, Rule::Must);
    }
    match m.disable_oom_killer {
        Some(true) => list.put("memory/disableOOMKiller", "memory.oom_control", 1, Rule::Must),
        Some(false) if current("memory.oom_control").is_some_and(|t| t.starts_with("oom_kill_disable 1")) => {
            list.put("memory/disableOOMKiller", "memory.oom_control", 0, Rule::Must);
        }
        _ => {}
    }
    match m.swappiness {
        None | Some(u64::MAX) => Ok(()), // docker's -1: not given
        Some(n @ 0..=100) => {
            list.put("memory/swappiness", "memory.swappiness", n, Rule::Must);
            Ok(())
        }
        Some(n) => invalid("memory/swappiness", format!("invalid value: {n}. valid memory swappiness range is 0-100")),
    }
}

pub(super) fn cpu(c: &Cpu, list: &mut List) {
    // Realtime first: a realtime task may only enter a group that has some.
    if let Some(period) = c.realtime_period.filter(|n| *n != 0) {
        list.put("cpu/realtimePeriod", "cpu.rt_period_us", period, Rule::Realtime);
    }
    if let Some(runtime) = c.realtime_runtime.filter(|n| *n != 0) {
        list.put("cpu/realtimeRuntime", "cpu.rt_runtime_us", runtime, Rule::Realtime);
    }
    if let Some(shares) = c.shares.filter(|n| *n != 0) {
        // An idle group's shares cannot be changed, and do not matter.
        let rule = if c.idle == Some(1) { Rule::Moot } else { Rule::Shares };
        list.put("cpu/shares", "cpu.shares", shares, rule);
    }
    if let Some(idle) = c.idle {
        list.put("cpu/idle", "cpu.idle", idle, Rule::Must);
    }
    if let Some(period) = c.period.filter(|n| *n != 0) {
        list.put("cpu/period", "cpu.cfs_period_us", period, Rule::Later);
    }
    if let Some(quota) = c.quota.filter(|n| *n != 0) {
        list.put("cpu/quota", "cpu.cfs_quota_us", quota.max(-1), Rule::Later);
    }
    if let Some(burst) = c.burst {
        list.put("cpu/burst", "cpu.cfs_burst_us", burst, Rule::Later);
    }
}

pub(super) fn block_io(b: &BlockIo, list: &mut List) -> Result<()> {
    list.controller = "blkio";
    if let Some(weight) = b.weight.filter(|n| *n != 0) {
        list.put("blockIO/weight", "blkio.bfq.weight", weight, Rule::OrNext);
        list.put("blockIO/weight", "blkio.weight", weight, Rule::Must);
    }
    if let Some(weight) = b.leaf_weight.filter(|n| *n != 0) {
        list.put("blockIO/leafWeight", "blkio.leaf_weight", weight, Rule::Must);
    }
    for (i, d) in b.weight_device.iter().enumerate() {
        let from = format!("blockIO/weightDevice/{i}");
        let device = block_device(&from, d.major, d.minor)?;
        if let Some(weight) = d.weight.filter(|n| *n != 0) {
            list.put(&from, "blkio.bfq.weight_device", format!("{device} {weight}"), Rule::OrNext);
            list.put(&from, "blkio.weight_device", format!("{device} {weight}"), Rule::Must);
        }
        if let Some(weight) = d.leaf_weight.filter(|n| *n != 0) {
            list.put(&from, "blkio.leaf_weight_device", format!("{device} {weight}"), Rule::Must);
        }
    }
    for (from, file, devices) in [
        ("throttleReadBpsDevice", "read_bps_device", &b.throttle_read_bps_device),
        ("throttleWriteBpsDevice", "write_bps_device", &b.throttle_write_bps_device),
        ("throttleReadIOPSDevice", "read_iops_device", &b.throttle_read_iops_device),
        ("throttleWriteIOPSDevice", "write_iops_device", &b.throttle_write_iops_device),
    ] {
        for (i, d) in devices.iter().enumerate() {
            let from = format!("blockIO/{from}/{i}");
            let device = block_device(&from, d.major, d.minor)?;
            list.put(&from, format!("blkio.throttle.{file}"), format!("{device} {}", d.rate), Rule::Must);
        }
    }
    Ok(())
}

/// Network classes exist on version 1 only.
pub(super) fn network(n: &Network, host: &Host<'_>, list: &mut List) -> Result<()> {
    let on_v1 = |name: &str| (host.version)(name) == Some(Version::V1) || !host.unified;
    if let Some(class) = n.class_id.filter(|id| *id != 0) {
        if !on_v1("net_cls") {
            return refuse("network/classID", "cgroup v2 has no network classes");
        }
        list.controller = "net_cls";
        list.put("network/classID", "net_cls.classid", class, Rule::Must);
    }
    for (i, p) in n.priorities.iter().enumerate() {
        let from = format!("network/priorities/{i}");
        if !on_v1("net_prio") {
            return refuse(&from, "cgroup v2 has no network priorities");
        }
        if p.name.is_empty() || p.name.contains(char::is_whitespace) {
            return invalid(&from, "not an interface name");
        }
        list.controller = "net_prio";
        list.put(&from, "net_prio.ifpriomap", format!("{} {}", p.name, p.priority), Rule::Must);
    }
    Ok(())
}
