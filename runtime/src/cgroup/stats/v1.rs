//! Numbers of version 1: the message `io.containerd.cgroups.v1.Metrics`.

use std::sync::OnceLock;

use super::{Hugetlb, Pids, Rdma, Reader, StatsV2, fill, number, v2};
use crate::cgroup::Version;
use crate::error::Result;
use crate::host;

/// The whole of it. Of the message's parts, `network` is the network namespace's business and `cgroup_stats` is filled
/// by nobody.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StatsV1 {
    /// One for each size of huge pages; also when hugetlb is on the unified tree of a hybrid host.
    pub hugetlb: Vec<Hugetlb>,
    /// pids controller. No limit is `u64::MAX` here; the message has 0 for it.
    pub pids: Pids,
    /// cpu and cpuacct controllers.
    pub cpu: CpuV1,
    /// memory controller.
    pub memory: MemoryV1,
    /// blkio controller.
    pub blkio: BlkioV1,
    /// rdma controller.
    pub rdma: Rdma,
    /// `memory.oom_control`.
    pub memory_oom_control: MemoryOomControl,
}

/// cpu and cpuacct controllers; nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuV1 {
    /// All of it.
    pub total: u64,
    /// In the kernel; as fine as the kernel's clock tick (10 ms).
    pub kernel: u64,
    /// In the program; as fine as the kernel's clock tick (10 ms).
    pub user: u64,
    /// On each cpu.
    pub per_cpu: Vec<u64>,
    /// Periods that had a quota.
    pub periods: u64,
    /// Those in which it was used up.
    pub throttled_periods: u64,
    /// How long that stopped the group.
    pub throttled_time: u64,
}

/// One of the counters of the memory controller; bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryEntry {
    /// The limit.
    pub limit: u64,
    /// Now.
    pub usage: u64,
    /// The highest usage so far.
    pub max: u64,
    /// How often the limit was hit.
    pub failcnt: u64,
}

/// memory controller.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryV1 {
    /// `memory.stat`.
    pub stat: MemoryStatV1,
    /// Memory.
    pub usage: MemoryEntry,
    /// Memory and swap.
    pub swap: MemoryEntry,
    /// The kernel's share.
    pub kernel: MemoryEntry,
    /// The share of TCP buffers.
    pub kernel_tcp: MemoryEntry,
}

/// `memory.oom_control`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryOomControl {
    /// 1: processes wait instead of being killed.
    pub oom_kill_disable: u64,
    /// 1: they are waiting now.
    pub under_oom: u64,
    /// Processes killed so far.
    pub oom_kill: u64,
}

/// `memory.stat`, by the message's names; bytes, and counts of page events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)] // the kernel's words, explained in its memory.rst
pub struct MemoryStatV1 {
    pub cache: u64,
    pub rss: u64,
    pub rss_huge: u64,
    pub mapped_file: u64,
    pub dirty: u64,
    pub writeback: u64,
    pub pg_pg_in: u64,
    pub pg_pg_out: u64,
    pub pg_fault: u64,
    pub pg_maj_fault: u64,
    pub inactive_anon: u64,
    pub active_anon: u64,
    pub inactive_file: u64,
    pub active_file: u64,
    pub unevictable: u64,
    pub hierarchical_memory_limit: u64,
    pub hierarchical_swap_limit: u64,
    pub total_cache: u64,
    pub total_rss: u64,
    pub total_rss_huge: u64,
    pub total_mapped_file: u64,
    pub total_dirty: u64,
    pub total_writeback: u64,
    pub total_pg_pg_in: u64,
    pub total_pg_pg_out: u64,
    pub total_pg_fault: u64,
    pub total_pg_maj_fault: u64,
    pub total_inactive_anon: u64,
    pub total_active_anon: u64,
    pub total_inactive_file: u64,
    pub total_active_file: u64,
    pub total_unevictable: u64,
}

/// One number of the blkio controller.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlkioEntry {
    /// `Read`, `Write`, …; empty in tables without it.
    pub op: String,
    /// `/dev/sda`; empty if the device has no name (any more).
    pub device: String,
    /// Major number.
    pub major: u64,
    /// Minor number.
    pub minor: u64,
    /// Bytes, requests, nanoseconds or sectors.
    pub value: u64,
}

/// blkio controller; which tables are there depends on the I/O scheduler.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)] // the message's words, explained in the kernel's blkio-controller.rst
pub struct BlkioV1 {
    pub io_service_bytes_recursive: Vec<BlkioEntry>,
    pub io_serviced_recursive: Vec<BlkioEntry>,
    pub io_queued_recursive: Vec<BlkioEntry>,
    pub io_service_time_recursive: Vec<BlkioEntry>,
    pub io_wait_time_recursive: Vec<BlkioEntry>,
    pub io_merged_recursive: Vec<BlkioEntry>,
    pub io_time_recursive: Vec<BlkioEntry>,
    pub sectors_recursive: Vec<BlkioEntry>,
}

pub(super) fn read(reader: &mut Reader<'_>) -> Result<StatsV1> {
    let mut stats = StatsV1::default();
    if let Some((_, dir)) = reader.find("pids") {
        stats.pids = reader.pids(dir)?;
    }
    cpu(reader, &mut stats.cpu)?;
    match reader.find("memory") {
        Some((Version::V1, dir)) => memory(reader, dir, &mut stats)?,
        Some((Version::V2, dir)) => memory_of_v2(reader, dir, &mut stats)?,
        None => {}
    }
    if let Some((_, dir)) = reader.find("blkio") {
        stats.blkio = blkio(reader, dir)?;
    }
    stats.hugetlb = reader.hugetlb()?;
    stats.rdma = reader.rdma()?;
    Ok(stats)
}

/// A tick of `cpuacct.stat` in nanoseconds: USER_HZ is 100 on every architecture we build for, see time(7).
const TICK: u64 = 10_000_000;

fn cpu(reader: &mut Reader<'_>, cpu: &mut CpuV1) -> Result<()> {
    if let Some((_, dir)) = reader.find("cpuacct") {
        if let Some(text) = reader.text(dir, "cpuacct.stat")? {
            fill!(text, cpu, { "user" => user, "system" => kernel });
        }
        (cpu.user, cpu.kernel) = (cpu.user.saturating_mul(TICK), cpu.kernel.saturating_mul(TICK));
        cpu.total = match reader.text(dir, "cpuacct.usage_percpu")? {
            Some(text) => {
                cpu.per_cpu.extend(text.split_whitespace().map(number));
                // What cpuacct.usage is: the kernel adds them up for it.
                cpu.per_cpu.iter().sum()
            }
            None => reader.sure(dir, "cpuacct.usage")?,
        };
    }
    if let Some((_, dir)) = reader.find("cpu")
        && let Some(text) = reader.text(dir, "cpu.stat")?
    {
        fill!(text, cpu, {
            "nr_periods" => periods, "nr_throttled" => throttled_periods, "throttled_time" => throttled_time,
        });
    }
    Ok(())
}

/// The four files of a counter.
macro_rules! names {
    ($counter:literal) => {
        [
            concat!($counter, ".usage_in_bytes"),
            concat!($counter, ".limit_in_bytes"),
            concat!($counter, ".max_usage_in_bytes"),
            concat!($counter, ".failcnt"),
        ]
    };
}

/// All but a counter's usage, which is read before its maximum, lest it be higher; `limit` if it is known already.
fn rest(
    reader: &mut Reader<'_>,
    dir: usize,
    [limit, max, failcnt]: [&str; 3],
    known: Option<u64>,
    entry: &mut MemoryEntry,
) -> Result<()> {
    entry.limit = match known {
        Some(known) => known,
        None => reader.or_zero(dir, limit)?,
    };
    entry.max = reader.or_zero(dir, max)?;
    entry.failcnt = reader.or_zero(dir, failcnt)?;
    Ok(())
}

/// What a counter without a limit has for one, in bytes: `PAGE_COUNTER_MAX` pages.
fn unlimited() -> u64 {
    let page = rustix::param::page_size() as u64;
    i64::MAX.unsigned_abs() / page * page
}

/// Linux 5.16 takes no limit of kernel memory any more (58056f77502f), so that it is never hit either.
fn kernel_memory_is_unlimited() -> bool {
    static IS: OnceLock<bool> = OnceLock::new();
    *IS.get_or_init(|| host::kernel().is_ok_and(|kernel| kernel >= (5, 16)))
}

fn memory(reader: &mut Reader<'_>, dir: usize, stats: &mut StatsV1) -> Result<()> {
    let memory = &mut stats.memory;
    // Also tells whether the group is there at all.
    memory.usage.usage = reader.sure(dir, "memory.usage_in_bytes")?;
    if let Some(text) = reader.text(dir, "memory.stat")? {
        fill!(text, memory.stat, {
            "cache" => cache, "rss" => rss, "rss_huge" => rss_huge, "mapped_file" => mapped_file,
            "dirty" => dirty, "writeback" => writeback, "pgpgin" => pg_pg_in, "pgpgout" => pg_pg_out,
            "pgfault" => pg_fault, "pgmajfault" => pg_maj_fault,
            "inactive_anon" => inactive_anon, "active_anon" => active_anon,
            "inactive_file" => inactive_file, "active_file" => active_file, "unevictable" => unevictable,
            "hierarchical_memory_limit" => hierarchical_memory_limit,
            "hierarchical_memsw_limit" => hierarchical_swap_limit,
            "total_cache" => total_cache, "total_rss" => total_rss, "total_rss_huge" => total_rss_huge,
            "total_mapped_file" => total_mapped_file, "total_dirty" => total_dirty,
            "total_writeback" => total_writeback, "total_pgpgin" => total_pg_pg_in,
            "total_pgpgout" => total_pg_pg_out, "total_pgfault" => total_pg_fault,
            "total_pgmajfault" => total_pg_maj_fault, "total_inactive_anon" => total_inactive_anon,
            "total_active_anon" => total_active_anon, "total_inactive_file" => total_inactive_file,
            "total_active_file" => total_active_file, "total_unevictable" => total_unevictable,
        });
    }
    // The least of the group's own limit and of those above it: where that is none, its own is none.
    let unlimited = unlimited();
    let own = |least: u64| (least == unlimited).then_some(unlimited);
    let (limit, swap_limit) = (own(memory.stat.hierarchical_memory_limit), own(memory.stat.hierarchical_swap_limit));
    let [_, names @ ..] = names!("memory");
    rest(reader, dir, names, limit, &mut memory.usage)?;
    let [usage, names @ ..] = names!("memory.memsw");
    if let Some(usage) = reader.number(dir, usage)? {
        memory.swap.usage = usage;
        rest(reader, dir, names, swap_limit, &mut memory.swap)?;
    }
    let [usage, names @ ..] = names!("memory.kmem");
    if let Some(usage) = reader.number(dir, usage)? {
        memory.kernel.usage = usage;
        if kernel_memory_is_unlimited() {
            memory.kernel.limit = unlimited;
            memory.kernel.max = reader.or_zero(dir, "memory.kmem.max_usage_in_bytes")?;
        } else {
            rest(reader, dir, names, None, &mut memory.kernel)?;
        }
    }
    let [usage, names @ ..] = names!("memory.kmem.tcp");
    let tcp = &mut memory.kernel_tcp;
    rest(reader, dir, names, None, tcp)?;
    // Nothing is counted until the first limit.
    if tcp.max > 0 {
        tcp.usage = reader.or_zero(dir, usage)?;
        tcp.max = tcp.max.max(tcp.usage);
    }
    if let Some(text) = reader.text(dir, "memory.oom_control")? {
        let oom = &mut stats.memory_oom_control;
        fill!(text, oom, {
            "oom_kill_disable" => oom_kill_disable, "under_oom" => under_oom, "oom_kill" => oom_kill,
        });
    }
    Ok(())
}

/// A hybrid host may have memory on its unified tree (`cgroup_no_v1=memory`): the same in version 1's words. Version 2's
/// `memory.stat` is that of the whole subtree.
fn memory_of_v2(reader: &mut Reader<'_>, dir: usize, stats: &mut StatsV1) -> Result<()> {
    let mut seen = StatsV2::default();
    v2::memory(reader, dir, &mut seen)?;
    let (memory, stat, events) = (&seen.memory, &seen.memory.stat, seen.memory_events.unwrap_or_default());
    let limit = memory.usage_limit.min(unlimited());
    stats.memory.usage = MemoryEntry { limit, usage: memory.usage, max: memory.max_usage, failcnt: events.max };
    stats.memory.stat = MemoryStatV1 {
        cache: stat.file,
        rss: stat.anon,
        rss_huge: stat.anon_thp,
        mapped_file: stat.file_mapped,
        dirty: stat.file_dirty,
        writeback: stat.file_writeback,
        pg_fault: stat.pgfault,
        pg_maj_fault: stat.pgmajfault,
        inactive_anon: stat.inactive_anon,
        active_anon: stat.active_anon,
        inactive_file: stat.inactive_file,
        active_file: stat.active_file,
        unevictable: stat.unevictable,
        hierarchical_memory_limit: limit,
        total_cache: stat.file,
        total_rss: stat.anon,
        total_rss_huge: stat.anon_thp,
        total_mapped_file: stat.file_mapped,
        total_dirty: stat.file_dirty,
        total_writeback: stat.file_writeback,
        total_pg_fault: stat.pgfault,
        total_pg_maj_fault: stat.pgmajfault,
        total_inactive_anon: stat.inactive_anon,
        total_active_anon: stat.active_anon,
        total_inactive_file: stat.inactive_file,
        total_active_file: stat.active_file,
        total_unevictable: stat.unevictable,
        ..MemoryStatV1::default()
    };
    stats.memory_oom_control.oom_kill = events.oom_kill;
    Ok(())
}

/// BFQ counts what goes through it, with tables that only it has; the throttle layer counts everything, if BFQ counts
/// nothing. (Kernels with the older CFQ are below the floor.)
fn blkio(reader: &mut Reader<'_>, dir: usize) -> Result<BlkioV1> {
    let table = |reader: &mut Reader<'_>, file: &str| -> Result<Vec<BlkioEntry>> {
        let mut entries = reader.text(dir, file)?.map(entries).unwrap_or_default();
        for entry in &mut entries {
            let number = (entry.major, entry.minor);
            let name = reader.files.devices.entry(number).or_insert_with(|| device(entry.major, entry.minor));
            entry.device.clone_from(name);
        }
        Ok(entries)
    };
    let bytes = table(reader, "blkio.bfq.io_service_bytes_recursive")?;
    if bytes.is_empty() {
        let mut blkio = BlkioV1 {
            io_service_bytes_recursive: table(reader, "blkio.throttle.io_service_bytes_recursive")?,
            ..BlkioV1::default()
        };
        // Both list the same devices.
        if !blkio.io_service_bytes_recursive.is_empty() {
            blkio.io_serviced_recursive = table(reader, "blkio.throttle.io_serviced_recursive")?;
        }
        return Ok(blkio);
    }
    Ok(BlkioV1 {
        io_service_bytes_recursive: bytes,
        io_serviced_recursive: table(reader, "blkio.bfq.io_serviced_recursive")?,
        io_queued_recursive: table(reader, "blkio.bfq.io_queued_recursive")?,
        io_service_time_recursive: table(reader, "blkio.bfq.io_service_time_recursive")?,
        io_wait_time_recursive: table(reader, "blkio.bfq.io_wait_time_recursive")?,
        io_merged_recursive: table(reader, "blkio.bfq.io_merged_recursive")?,
        io_time_recursive: table(reader, "blkio.bfq.time_recursive")?,
        sectors_recursive: table(reader, "blkio.bfq.sectors_recursive")?,
    })
}

/// `8:0 Read 4096` or `8:0 4096`; the line `Total …` is no device's.
fn entries(text: &str) -> Vec<BlkioEntry> {
    let entry = |line: &str| {
        let mut words = line.split_whitespace();
        let (major, minor) = words.next()?.split_once(':')?;
        let (major, minor) = (major.parse().ok()?, minor.parse().ok()?);
        let (first, second) = (words.next()?, words.next());
        let (op, value) = second.map_or((String::new(), first), |value| (first.to_owned(), value));
        Some(BlkioEntry { op, device: String::new(), major, minor, value: number(value) })
    };
    text.lines().filter_map(entry).collect()
}

fn device(major: u64, minor: u64) -> String {
    let link = std::fs::read_link(format!("/sys/dev/block/{major}:{minor}")).ok();
    let name = link.as_deref().and_then(|l| l.file_name()).and_then(|n| n.to_str());
    name.map(|n| format!("/dev/{n}")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blkio_lines() {
        let seen = entries("8:0 Read 4096\n8:16 77\nTotal 4173\n");
        let plain: Vec<_> = seen.iter().map(|e| (e.op.as_str(), e.major, e.minor, e.value)).collect();
        assert_eq!(plain, [("Read", 8, 0, 4096), ("", 8, 16, 77)]);
    }
}
