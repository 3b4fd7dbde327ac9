//! Numbers of version 2: the message `io.containerd.cgroups.v2.Metrics`.

use super::{Hugetlb, Pids, Rdma, Reader, fill, number};
use crate::cgroup::file;
use crate::error::Result;

/// The whole of it. The message's `network` is the network namespace's business.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StatsV2 {
    /// pids controller.
    pub pids: Pids,
    /// cpu controller.
    pub cpu: CpuV2,
    /// memory controller.
    pub memory: MemoryV2,
    /// rdma controller.
    pub rdma: Rdma,
    /// io controller.
    pub io: IoV2,
    /// One for each size of huge pages.
    pub hugetlb: Vec<Hugetlb>,
    /// `memory.events`; absent without a memory controller.
    pub memory_events: Option<MemoryEvents>,
}

/// `cpu.stat`; microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[allow(missing_docs)] // the kernel's words, explained in its cgroup-v2.rst
pub struct CpuV2 {
    pub usage_usec: u64,
    pub user_usec: u64,
    pub system_usec: u64,
    pub nr_periods: u64,
    pub nr_throttled: u64,
    pub throttled_usec: u64,
    pub nr_bursts: u64,
    pub burst_usec: u64,
    pub psi: Option<Psi>,
}

/// Pressure: how much time was lost by waiting.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Psi {
    /// Some task waited.
    pub some: Option<PsiLine>,
    /// All of them waited.
    pub full: Option<PsiLine>,
}

/// Averages in percent over 10, 60 and 300 seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[allow(missing_docs)]
pub struct PsiLine {
    pub avg10: f64,
    pub avg60: f64,
    pub avg300: f64,
    /// Microseconds.
    pub total: u64,
}

/// memory controller.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MemoryV2 {
    /// `memory.stat`.
    pub stat: MemoryStatV2,
    /// Bytes.
    pub usage: u64,
    /// Bytes.
    pub usage_limit: u64,
    /// Bytes.
    pub swap_usage: u64,
    /// Bytes.
    pub swap_limit: u64,
    /// Bytes; the highest usage so far.
    pub max_usage: u64,
    /// Bytes; the highest usage so far.
    pub swap_max_usage: u64,
    /// `memory.pressure`.
    pub psi: Option<Psi>,
}

/// `memory.stat`; bytes, and counts of page events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)] // the kernel's words, explained in its cgroup-v2.rst
pub struct MemoryStatV2 {
    pub anon: u64,
    pub file: u64,
    pub kernel_stack: u64,
    pub slab: u64,
    pub sock: u64,
    pub shmem: u64,
    pub file_mapped: u64,
    pub file_dirty: u64,
    pub file_writeback: u64,
    pub anon_thp: u64,
    pub inactive_anon: u64,
    pub active_anon: u64,
    pub inactive_file: u64,
    pub active_file: u64,
    pub unevictable: u64,
    pub slab_reclaimable: u64,
    pub slab_unreclaimable: u64,
    pub pgfault: u64,
    pub pgmajfault: u64,
    pub workingset_refault: u64,
    pub workingset_activate: u64,
    pub workingset_nodereclaim: u64,
    pub pgrefill: u64,
    pub pgscan: u64,
    pub pgsteal: u64,
    pub pgactivate: u64,
    pub pgdeactivate: u64,
    pub pglazyfree: u64,
    pub pglazyfreed: u64,
    pub thp_fault_alloc: u64,
    pub thp_collapse_alloc: u64,
}

/// `memory.events`: how often.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)] // the kernel's words, explained in its cgroup-v2.rst
pub struct MemoryEvents {
    pub low: u64,
    pub high: u64,
    pub max: u64,
    pub oom: u64,
    pub oom_kill: u64,
    pub oom_group_kill: u64,
}

/// io controller.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct IoV2 {
    /// One for each device.
    pub usage: Vec<IoEntry>,
    /// `io.pressure`.
    pub psi: Option<Psi>,
}

/// A line of `io.stat`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)] // the kernel's words, explained in its cgroup-v2.rst
pub struct IoEntry {
    pub major: u64,
    pub minor: u64,
    pub rbytes: u64,
    pub wbytes: u64,
    pub rios: u64,
    pub wios: u64,
}

pub(super) fn read(reader: &mut Reader<'_>, dir: usize) -> Result<StatsV2> {
    let mut stats = StatsV2::default();
    // Every group has it, with or without a cpu controller.
    let Some(text) = reader.text(dir, "cpu.stat")? else {
        return reader.sure(dir, "cpu.stat").map(|_| stats);
    };
    let cpu = &mut stats.cpu;
    fill!(text, cpu, {
        "usage_usec" => usage_usec, "user_usec" => user_usec, "system_usec" => system_usec,
        "nr_periods" => nr_periods, "nr_throttled" => nr_throttled, "throttled_usec" => throttled_usec,
        "nr_bursts" => nr_bursts, "burst_usec" => burst_usec,
    });
    cpu.psi = reader.text(dir, "cpu.pressure")?.and_then(psi);
    stats.pids = Pids { current: reader.or_zero(dir, "pids.current")?, limit: reader.or_zero(dir, "pids.max")? };
    memory(reader, dir, &mut stats)?;
    stats.io.usage = reader.text(dir, "io.stat")?.map(io).unwrap_or_default();
    stats.io.psi = reader.text(dir, "io.pressure")?.and_then(psi);
    stats.hugetlb = reader.hugetlb()?;
    stats.rdma = reader.rdma()?;
    Ok(stats)
}

pub(super) fn memory(reader: &mut Reader<'_>, dir: usize, stats: &mut StatsV2) -> Result<()> {
    let memory = &mut stats.memory;
    if let Some(text) = reader.text(dir, "memory.stat")? {
        let s = &mut memory.stat;
        fill!(text, s, {
            "anon" => anon, "file" => file, "kernel_stack" => kernel_stack, "slab" => slab, "sock" => sock,
            "shmem" => shmem, "file_mapped" => file_mapped, "file_dirty" => file_dirty,
            "file_writeback" => file_writeback, "anon_thp" => anon_thp, "inactive_anon" => inactive_anon,
            "active_anon" => active_anon, "inactive_file" => inactive_file, "active_file" => active_file,
            "unevictable" => unevictable, "slab_reclaimable" => slab_reclaimable,
            "slab_unreclaimable" => slab_unreclaimable, "pgfault" => pgfault, "pgmajfault" => pgmajfault,
            "workingset_nodereclaim" => workingset_nodereclaim, "pgrefill" => pgrefill, "pgscan" => pgscan,
            "pgsteal" => pgsteal, "pgactivate" => pgactivate, "pgdeactivate" => pgdeactivate,
            "pglazyfree" => pglazyfree, "pglazyfreed" => pglazyfreed, "thp_fault_alloc" => thp_fault_alloc,
            "thp_collapse_alloc" => thp_collapse_alloc,
        });
        // Split in two since kernel 5.9; the message still has the sum.
        let both = |key: &str| {
            let one = |suffix: &str| file::value(text, &format!("workingset_{key}{suffix}")).map_or(0, number);
            one("") + one("_anon") + one("_file")
        };
        (s.workingset_refault, s.workingset_activate) = (both("refault"), both("activate"));
    }
    memory.usage = reader.or_zero(dir, "memory.current")?;
    memory.usage_limit = reader.or_zero(dir, "memory.max")?;
    memory.max_usage = reader.or_zero(dir, "memory.peak")?;
    memory.swap_usage = reader.or_zero(dir, "memory.swap.current")?;
    memory.swap_limit = reader.or_zero(dir, "memory.swap.max")?;
    memory.swap_max_usage = reader.or_zero(dir, "memory.swap.peak")?;
    memory.psi = reader.text(dir, "memory.pressure")?.and_then(psi);
    stats.memory_events = reader.text(dir, "memory.events")?.map(|text| {
        let mut events = MemoryEvents::default();
        fill!(text, events, {
            "low" => low, "high" => high, "max" => max, "oom" => oom, "oom_kill" => oom_kill,
            "oom_group_kill" => oom_group_kill,
        });
        events
    });
    Ok(())
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, and the same for `full`.
fn psi(text: &str) -> Option<Psi> {
    let line = |name: &str| {
        let rest = file::value(text, name)?;
        let mut line = PsiLine::default();
        for word in rest.split(' ') {
            let percent = |v: &str| v.parse().unwrap_or(0.0);
            match word.split_once('=') {
                Some(("avg10", v)) => line.avg10 = percent(v),
                Some(("avg60", v)) => line.avg60 = percent(v),
                Some(("avg300", v)) => line.avg300 = percent(v),
                Some(("total", v)) => line.total = number(v),
                _ => {}
            }
        }
        Some(line)
    };
    let psi = Psi { some: line("some"), full: line("full") };
    (psi.some.is_some() || psi.full.is_some()).then_some(psi)
}

/// `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0`; a device without any is named without numbers.
fn io(text: &str) -> Vec<IoEntry> {
    let entry = |line: &str| {
        let mut words = line.split(' ');
        let (major, minor) = words.next()?.split_once(':')?;
        let mut entry = IoEntry { major: major.parse().ok()?, minor: minor.parse().ok()?, ..IoEntry::default() };
        for word in words {
            match word.split_once('=') {
                Some(("rbytes", v)) => entry.rbytes = number(v),
                Some(("wbytes", v)) => entry.wbytes = number(v),
                Some(("rios", v)) => entry.rios = number(v),
                Some(("wios", v)) => entry.wios = number(v),
                _ => {}
            }
        }
        Some(entry)
    };
    text.lines().filter_map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure() {
        let text = "some avg10=0.12 avg60=1.00 avg300=22.05 total=17\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=3\n";
        let psi = psi(text).unwrap();
        assert_eq!(psi.some.unwrap(), PsiLine { avg10: 0.12, avg60: 1.0, avg300: 22.05, total: 17 });
        assert_eq!(psi.full.unwrap().total, 3);
        assert!(super::psi("").is_none());
    }

    #[test]
    fn io_lines() {
        let seen = io("8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n254:1 \n");
        assert_eq!(seen[0], IoEntry { major: 8, minor: 0, rbytes: 1, wbytes: 2, rios: 3, wios: 4 });
        assert_eq!(seen.len(), 2);
    }
}
