//! Statistics in containerd's two messages.
//!
//! Which one is sent depends on the host's cgroups, and every consumer looks at the type's bare name. All parts are always
//! there, because clients dereference them unseen (nerdctl pids, cpu, memory and io); only pressure, which a kernel may
//! not measure, may be absent.
#![forbid(unsafe_code)]
// The messages have fields of their own that a literal would have to take from a default again.
#![allow(clippy::field_reassign_with_default)]

use containerd_shim_protos::cgroups::metrics as v1;
use containerd_shim_protos::cgroups_v2::metrics as v2;
use protobuf::well_known_types::any::Any;
use protobuf::{Message, MessageField};
use runtime::cgroup::{
    BlkioEntry, BlkioV1, IoV2, MemoryEntry, MemoryV1, MemoryV2, Psi, PsiLine, RdmaEntry, Stats, StatsV1, StatsV2,
};

const V1: &str = "io.containerd.cgroups.v1.Metrics";
const V2: &str = "io.containerd.cgroups.v2.Metrics";

/// Packs statistics. Errors: the message does not encode (out of memory, in words).
pub fn pack(stats: &Stats) -> Result<Any, String> {
    let (name, bytes) = match stats {
        Stats::V1(stats) => (V1, metrics_v1(stats).write_to_bytes()),
        Stats::V2(stats) => (V2, metrics_v2(stats).write_to_bytes()),
    };
    let value = bytes.map_err(|e| format!("{name}: {e}"))?;
    Ok(Any { type_url: name.to_owned(), value, ..Any::default() })
}

/// A message with fields copied from a struct that names them alike.
macro_rules! same {
    ($message:path, $from:expr, $($field:ident),+ $(; $($set:ident: $value:expr),+)?) => {{
        let from = &$from;
        let mut message = <$message>::default();
        $(message.$field = from.$field.clone();)+
        $($(message.$set = $value;)+)?
        message
    }};
}

fn metrics_v1(s: &StatsV1) -> v1::Metrics {
    let mut usage = v1::CPUUsage::default();
    (usage.total, usage.kernel, usage.user) = (s.cpu.total, s.cpu.kernel, s.cpu.user);
    usage.per_cpu.clone_from(&s.cpu.per_cpu);
    let mut cpu = v1::CPUStat::default();
    cpu.usage = MessageField::some(usage);
    cpu.throttling = MessageField::some(same!(v1::Throttle, s.cpu, periods, throttled_periods, throttled_time));

    let mut metrics = v1::Metrics::default();
    let hugetlb = s.hugetlb.iter();
    metrics.hugetlb =
        hugetlb.map(|h| same!(v1::HugetlbStat, *h, usage, max, failcnt; pagesize: h.page_size.clone())).collect();
    let limit = if s.pids.limit == u64::MAX { 0 } else { s.pids.limit };
    metrics.pids = MessageField::some(same!(v1::PidsStat, s.pids, current; limit: limit));
    metrics.cpu = MessageField::some(cpu);
    metrics.memory = MessageField::some(memory_v1(&s.memory));
    metrics.blkio = MessageField::some(blkio(&s.blkio));
    let mut rdma = v1::RdmaStat::default();
    let entry = |e: &RdmaEntry| same!(v1::RdmaEntry, *e, device, hca_handles, hca_objects);
    rdma.current = s.rdma.current.iter().map(entry).collect();
    rdma.limit = s.rdma.limit.iter().map(entry).collect();
    metrics.rdma = MessageField::some(rdma);
    let oom = same!(v1::MemoryOomControl, s.memory_oom_control, oom_kill_disable, under_oom, oom_kill);
    metrics.memory_oom_control = MessageField::some(oom);
    metrics
}

fn memory_v1(m: &MemoryV1) -> v1::MemoryStat {
    let entry = |e: &MemoryEntry| MessageField::some(same!(v1::MemoryEntry, *e, limit, usage, max, failcnt));
    #[rustfmt::skip]
    let stat = same!(
        v1::MemoryStat, m.stat,
        cache, rss, rss_huge, mapped_file, dirty, writeback, pg_pg_in, pg_pg_out, pg_fault, pg_maj_fault,
        inactive_anon, active_anon, inactive_file, active_file, unevictable, hierarchical_memory_limit,
        hierarchical_swap_limit, total_cache, total_rss, total_rss_huge, total_mapped_file, total_dirty,
        total_writeback, total_pg_pg_in, total_pg_pg_out, total_pg_fault, total_pg_maj_fault, total_inactive_anon,
        total_active_anon, total_inactive_file, total_active_file, total_unevictable;
        usage: entry(&m.usage), swap: entry(&m.swap), kernel: entry(&m.kernel), kernel_tcp: entry(&m.kernel_tcp)
    );
    stat
}

fn blkio(b: &BlkioV1) -> v1::BlkIOStat {
    let entries = |list: &[BlkioEntry]| -> Vec<v1::BlkIOEntry> {
        list.iter().map(|e| same!(v1::BlkIOEntry, *e, op, device, major, minor, value)).collect()
    };
    let mut stat = v1::BlkIOStat::default();
    stat.io_service_bytes_recursive = entries(&b.io_service_bytes_recursive);
    stat.io_serviced_recursive = entries(&b.io_serviced_recursive);
    stat.io_queued_recursive = entries(&b.io_queued_recursive);
    stat.io_service_time_recursive = entries(&b.io_service_time_recursive);
    stat.io_wait_time_recursive = entries(&b.io_wait_time_recursive);
    stat.io_merged_recursive = entries(&b.io_merged_recursive);
    stat.io_time_recursive = entries(&b.io_time_recursive);
    stat.sectors_recursive = entries(&b.sectors_recursive);
    stat
}

fn metrics_v2(s: &StatsV2) -> v2::Metrics {
    #[rustfmt::skip]
    let cpu = same!(
        v2::CPUStat, s.cpu,
        usage_usec, user_usec, system_usec, nr_periods, nr_throttled, throttled_usec, nr_bursts, burst_usec;
        psi: pressure(s.cpu.psi.as_ref())
    );
    let mut rdma = v2::RdmaStat::default();
    let entry = |e: &RdmaEntry| same!(v2::RdmaEntry, *e, device, hca_handles, hca_objects);
    rdma.current = s.rdma.current.iter().map(entry).collect();
    rdma.limit = s.rdma.limit.iter().map(entry).collect();

    let mut metrics = v2::Metrics::default();
    metrics.pids = MessageField::some(same!(v2::PidsStat, s.pids, current, limit));
    metrics.cpu = MessageField::some(cpu);
    metrics.memory = MessageField::some(memory_v2(&s.memory));
    metrics.rdma = MessageField::some(rdma);
    metrics.io = MessageField::some(io(&s.io));
    let hugetlb = s.hugetlb.iter().map(|h| {
        let mut stat = v2::HugeTlbStat::default();
        (stat.current, stat.max, stat.failcnt) = (h.usage, h.max, h.failcnt);
        stat.pagesize.clone_from(&h.page_size);
        stat
    });
    metrics.hugetlb = hugetlb.collect();
    let events = s.memory_events.unwrap_or_default();
    let events = same!(v2::MemoryEvents, events, low, high, max, oom, oom_kill, oom_group_kill);
    metrics.memory_events = MessageField::some(events);
    metrics
}

fn memory_v2(m: &MemoryV2) -> v2::MemoryStat {
    #[rustfmt::skip]
    let mut stat = same!(
        v2::MemoryStat, m.stat,
        anon, file, kernel_stack, slab, sock, shmem, file_mapped, file_dirty, file_writeback, anon_thp, inactive_anon,
        active_anon, inactive_file, active_file, unevictable, slab_reclaimable, slab_unreclaimable, pgfault, pgmajfault,
        workingset_refault, workingset_activate, workingset_nodereclaim, pgrefill, pgscan, pgsteal, pgactivate,
        pgdeactivate, pglazyfree, pglazyfreed, thp_fault_alloc, thp_collapse_alloc
    );
    (stat.usage, stat.usage_limit, stat.max_usage) = (m.usage, m.usage_limit, m.max_usage);
    (stat.swap_usage, stat.swap_limit, stat.swap_max_usage) = (m.swap_usage, m.swap_limit, m.swap_max_usage);
    stat.psi = pressure(m.psi.as_ref());
    stat
}

fn io(io: &IoV2) -> v2::IOStat {
    let mut stat = v2::IOStat::default();
    stat.usage = io.usage.iter().map(|e| same!(v2::IOEntry, *e, major, minor, rbytes, wbytes, rios, wios)).collect();
    stat.psi = pressure(io.psi.as_ref());
    stat
}

fn pressure(psi: Option<&Psi>) -> MessageField<v2::PSIStats> {
    let line = |l: &Option<PsiLine>| l.as_ref().map(|l| same!(v2::PSIData, *l, avg10, avg60, avg300, total)).into();
    let stats = psi.map(|psi| {
        let mut stats = v2::PSIStats::default();
        (stats.some, stats.full) = (line(&psi.some), line(&psi.full));
        stats
    });
    stats.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nerdctl_dereferences_is_there_even_without_numbers() {
        let any = pack(&Stats::V2(Box::default())).unwrap();
        assert_eq!(any.type_url, "io.containerd.cgroups.v2.Metrics");
        let metrics = v2::Metrics::parse_from_bytes(&any.value).unwrap();
        assert!(metrics.pids.is_some() && metrics.cpu.is_some() && metrics.memory.is_some() && metrics.io.is_some());
        assert!(metrics.memory_events.is_some() && metrics.rdma.is_some());
        assert!(metrics.cpu.psi.is_none(), "a kernel without it has no pressure, not one of zero");

        let any = pack(&Stats::V1(Box::default())).unwrap();
        assert_eq!(any.type_url, "io.containerd.cgroups.v1.Metrics");
        let metrics = v1::Metrics::parse_from_bytes(&any.value).unwrap();
        assert!(metrics.pids.is_some() && metrics.cpu.usage.is_some() && metrics.memory.usage.is_some());
    }

    /// As containerd/cgroups has it; version 2's message says u64::MAX.
    #[test]
    fn no_limit_of_pids_is_zero_on_version_1() {
        for (limit, said) in [(u64::MAX, 0), (17, 17)] {
            let mut stats = StatsV1::default();
            stats.pids.limit = limit;
            assert_eq!(metrics_v1(&stats).pids.limit, said);
        }
    }

    /// The wire numbers, against bytes written by hand from cgroups/v3's metrics.proto.
    #[test]
    fn the_wire_numbers_are_containerds() {
        let mut stats = StatsV2::default();
        stats.pids.limit = u64::MAX;
        stats.memory.usage = 5;
        stats.memory.psi = Some(Psi { some: Some(PsiLine { total: 7, ..PsiLine::default() }), full: None });
        let any = pack(&Stats::V2(Box::new(stats))).unwrap();
        let limit: &[u8] = &[0x0a, 11, 0x10, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1];
        assert!(any.value.starts_with(limit), "{:?}", any.value);
        let memory: &[u8] = &[0x22, 10, 0x80, 2, 5, 0xb2, 2, 4, 0x0a, 2, 0x20, 7];
        assert!(any.value.windows(memory.len()).any(|w| w == memory), "{:?}", any.value);
    }
}
