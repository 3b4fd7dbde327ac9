//! `events`: statistics and OOM kills of a container as JSON lines, in the form of runc's types/events.go.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::time::Instant;

use runtime::cgroup::{BlkioEntry, Cgroup, Hugetlb, Kills, MemoryEntry, Oom, Pids, Psi, Stats, StatsV1, StatsV2};
use runtime::{Error, Kind, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::{Value, json};

use super::store::Status;
use super::{Context, args, print, words};

/// Prints until the container is gone; once with --stats.
pub fn events(context: &Context<'_>, args: &args::Events) -> Result<()> {
    let interval = words::duration(&args.interval)?;
    let found = context.store.find(&args.id)?;
    if found.status()? == Status::Stopped {
        let why = format!("container with id {} is not running", args.id);
        return Err(Error::new(Kind::State, "", "", why));
    }
    let cgroup = found.cgroup()?;
    let line = |kind: &str, data: Value| print(&format!("{}\n", json!({"type": kind, "id": args.id, "data": data})));
    if args.stats {
        return line("stats", stats(&cgroup)?);
    }
    // runc's line has no data; whose limit it was is ours, and that of 0 kills tells of processes that wait for memory.
    let killed = |kills: &Kills, presumed: bool| {
        let (whose, group) = (kills.limit.whose(), kills.limit.group());
        let mut data = json!({"kills": kills.count, "whose": whose, "group": group});
        if presumed {
            data["presumed"] = json!(true);
        }
        line("oom", data)
    };
    let mut oom = cgroup.oom()?;
    let gone = |oom: &Oom| oom.presumed().map_or(Ok(()), |kills| killed(&kills, true));
    let mut next = Instant::now();
    loop {
        if Instant::now() >= next {
            match stats(&cgroup) {
                Ok(now) => line("stats", now)?,
                // Which may be news of a kill, too.
                Err(e) if e.kind == Kind::NotFound => return gone(&oom),
                Err(e) => return Err(e),
            }
            next += interval;
        }
        let left = next.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
        // Interrupted or late, the next turn looks at the clock again.
        let _ = poll(&mut [PollFd::new(&oom.fd(), PollFlags::IN)], Some(&timeout));
        match oom.look() {
            Ok(Some(kills)) => killed(&kills, false)?,
            Ok(None) => {}
            Err(e) if e.kind == Kind::NotFound => return gone(&oom),
            Err(e) => return Err(e),
        }
    }
}

fn stats(cgroup: &Cgroup) -> Result<Value> {
    let raw = cgroup.memory_stat()?;
    Ok(match cgroup.stats()? {
        Stats::V1(s) => v1(&s, &raw),
        Stats::V2(s) => v2(&s, &raw),
    })
}

fn v1(s: &StatsV1, raw: &BTreeMap<String, u64>) -> Value {
    let m = &s.memory;
    json!({
        "cpu": {
            "usage": {"total": s.cpu.total, "percpu": s.cpu.per_cpu, "kernel": s.cpu.kernel, "user": s.cpu.user},
            "throttling": {"periods": s.cpu.periods, "throttledPeriods": s.cpu.throttled_periods,
                           "throttledTime": s.cpu.throttled_time}
        },
        "memory": {
            "cache": m.stat.cache, "usage": memory(&m.usage), "swap": memory(&m.swap),
            "kernel": memory(&m.kernel), "kernelTCP": memory(&m.kernel_tcp),
            "raw": raw,
            "event_count": {"oom_kill": s.memory_oom_control.oom_kill}
        },
        "pids": pids(&s.pids),
        "blkio": {
            "ioServiceBytesRecursive": blkio(&s.blkio.io_service_bytes_recursive),
            "ioServicedRecursive": blkio(&s.blkio.io_serviced_recursive)
        },
        "hugetlb": hugetlb(&s.hugetlb)
    })
}

fn v2(s: &StatsV2, raw: &BTreeMap<String, u64>) -> Value {
    let m = &s.memory;
    let nano = |micro: u64| micro.saturating_mul(1000);
    // Version 1 counts memory in what it calls swap, and so do runc's events; no limit is the greatest number.
    let both = u64::saturating_add;
    let mut bytes = Vec::new();
    let mut operations = Vec::new();
    for io in &s.io.usage {
        let entry = |op: &str, value: u64| json!({"major": io.major, "minor": io.minor, "op": op, "value": value});
        bytes.extend([entry("Read", io.rbytes), entry("Write", io.wbytes)]);
        operations.extend([entry("Read", io.rios), entry("Write", io.wios)]);
    }
    let events = s.memory_events.as_ref().map_or(
        Value::Null,
        |e| json!({"low": e.low, "high": e.high, "max": e.max, "oom": e.oom, "oom_kill": e.oom_kill}),
    );
    json!({
        "cpu": {
            "usage": {"total": nano(s.cpu.usage_usec), "kernel": nano(s.cpu.system_usec), "user": nano(s.cpu.user_usec)},
            "throttling": {"periods": s.cpu.nr_periods, "throttledPeriods": s.cpu.nr_throttled,
                           "throttledTime": nano(s.cpu.throttled_usec)},
            "psi": psi(s.cpu.psi.as_ref())
        },
        "memory": {
            "cache": m.stat.file,
            "usage": {"limit": m.usage_limit, "usage": m.usage, "max": m.max_usage, "failcnt": 0},
            "swap": {"limit": both(m.swap_limit, m.usage_limit), "usage": both(m.swap_usage, m.usage),
                     "max": both(m.swap_max_usage, m.max_usage), "failcnt": 0},
            "raw": raw,
            "psi": psi(m.psi.as_ref()),
            "event_count": events
        },
        "pids": pids(&s.pids),
        "blkio": {"ioServiceBytesRecursive": bytes, "ioServicedRecursive": operations, "psi": psi(s.io.psi.as_ref())},
        "hugetlb": hugetlb(&s.hugetlb)
    })
}

fn memory(m: &MemoryEntry) -> Value {
    json!({"limit": m.limit, "usage": m.usage, "max": m.max, "failcnt": m.failcnt})
}

/// No limit is no key, as with runc.
fn pids(p: &Pids) -> Value {
    if p.limit == u64::MAX { json!({"current": p.current}) } else { json!({"current": p.current, "limit": p.limit}) }
}

fn blkio(list: &[BlkioEntry]) -> Vec<Value> {
    list.iter().map(|e| json!({"major": e.major, "minor": e.minor, "op": e.op, "value": e.value})).collect()
}

fn hugetlb(list: &[Hugetlb]) -> BTreeMap<&str, Value> {
    let entry = |h: &Hugetlb| json!({"usage": h.usage, "max": h.max, "failcnt": h.failcnt});
    list.iter().map(|h| (h.page_size.as_str(), entry(h))).collect()
}

fn psi(psi: Option<&Psi>) -> Value {
    let line = |l: &runtime::cgroup::PsiLine| json!({"avg10": l.avg10, "avg60": l.avg60, "avg300": l.avg300, "total": l.total});
    psi.map_or(Value::Null, |p| json!({"some": p.some.as_ref().map(line), "full": p.full.as_ref().map(line)}))
}
