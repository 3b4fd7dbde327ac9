//! Golden lists: what is written for a request, on each version.

use super::*;
use crate::spec;

/// A host whose controllers are all on one version, with some files.
fn writes(unified: bool, json: &str, files: &[(&str, &str)]) -> Result<Vec<Write>> {
    let resources: spec::Resources = serde_json::from_str(json).unwrap();
    let version = if unified { Version::V2 } else { Version::V1 };
    let host = Host {
        version: &|name| ((name == "blkio") != unified || name != "blkio").then_some(version),
        current: &|_, name| files.iter().find(|(file, _)| *file == name).map(|(_, text)| (*text).to_owned()),
        unified,
    };
    list(&resources, &host)
}

fn shown(unified: bool, json: &str, files: &[(&str, &str)]) -> Vec<String> {
    let show = |w: &Write| {
        let from = w.from.trim_start_matches("/linux/resources/");
        format!("{} {} = {} ({from}, {:?})", w.controller, w.file, w.value, w.rule)
    };
    writes(unified, json, files).unwrap().iter().map(show).collect()
}

fn refused(unified: bool, json: &str, files: &[(&str, &str)]) -> String {
    writes(unified, json, files).unwrap_err().to_string().trim_start_matches("/linux/resources/").to_owned()
}

/// Every field that both versions have.
const ALL: &str = r#"{
    "memory": {"limit": 104857600, "reservation": 52428800, "swap": 157286400, "kernel": 1, "kernelTCP": 1,
        "swappiness": 18446744073709551615, "useHierarchy": true, "disableOOMKiller": false},
    "cpu": {"shares": 512, "quota": 50000, "burst": 1000, "period": 100000, "cpus": "0-1", "mems": "0", "idle": 0},
    "pids": {"limit": 0},
    "blockIO": {"weight": 500,
        "weightDevice": [{"major": 8, "minor": 0, "weight": 600}],
        "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1000}],
        "throttleWriteBpsDevice": [{"major": 8, "minor": 0, "rate": 0}],
        "throttleReadIOPSDevice": [{"major": 8, "minor": 0, "rate": 3000}],
        "throttleWriteIOPSDevice": [{"major": 8, "minor": 16, "rate": 4000}]},
    "hugepageLimits": [{"pageSize": "2MB", "limit": 4194304}],
    "rdma": {"mlx5_0": {"hcaHandles": 2, "hcaObjects": 1000}, "none": {}}
}"#;

#[test]
fn all_on_v1() {
    assert_eq!(
        shown(false, ALL, &[]),
        [
            "pids pids.max = 1 (pids/limit, Must)",
            "memory memory.limit_in_bytes = 104857600 (memory/limit, Memory)",
            "memory memory.memsw.limit_in_bytes = 157286400 (memory/swap, Later)",
            "memory memory.soft_limit_in_bytes = 52428800 (memory/reservation, Must)",
            "blkio blkio.bfq.weight = 500 (blockIO/weight, OrNext)",
            "blkio blkio.weight = 500 (blockIO/weight, Must)",
            "blkio blkio.bfq.weight_device = 8:0 600 (blockIO/weightDevice/0, OrNext)",
            "blkio blkio.weight_device = 8:0 600 (blockIO/weightDevice/0, Must)",
            "blkio blkio.throttle.read_bps_device = 8:0 1000 (blockIO/throttleReadBpsDevice/0, Must)",
            "blkio blkio.throttle.write_bps_device = 8:0 0 (blockIO/throttleWriteBpsDevice/0, Must)",
            "blkio blkio.throttle.read_iops_device = 8:0 3000 (blockIO/throttleReadIOPSDevice/0, Must)",
            "blkio blkio.throttle.write_iops_device = 8:16 4000 (blockIO/throttleWriteIOPSDevice/0, Must)",
            "cpu cpu.shares = 512 (cpu/shares, Shares)",
            "cpu cpu.idle = 0 (cpu/idle, Must)",
            "cpu cpu.cfs_period_us = 100000 (cpu/period, Later)",
            "cpu cpu.cfs_quota_us = 50000 (cpu/quota, Later)",
            "cpu cpu.cfs_burst_us = 1000 (cpu/burst, Later)",
            "cpuset cpuset.cpus = 0-1 (cpu/cpus, Must)",
            "cpuset cpuset.mems = 0 (cpu/mems, Must)",
            "hugetlb hugetlb.2MB.limit_in_bytes = 4194304 (hugepageLimits/0, Must)",
            "hugetlb hugetlb.2MB.rsvd.limit_in_bytes = 4194304 (hugepageLimits/0, IfThere)",
            "rdma rdma.max = mlx5_0 hca_handle=2 hca_object=1000 (rdma/mlx5_0, Must)",
        ]
    );
}

#[test]
fn all_on_v2() {
    assert_eq!(
        shown(true, ALL, &[]),
        [
            "pids pids.max = 1 (pids/limit, Must)",
            "memory memory.swap.max = 52428800 (memory/swap, Must)",
            "memory memory.max = 104857600 (memory/limit, Must)",
            "memory memory.low = 52428800 (memory/reservation, Must)",
            "io io.bfq.weight = 500 (blockIO/weight, OrNext)",
            "io io.weight = 4950 (blockIO/weight, Must)",
            "io io.bfq.weight = 8:0 600 (blockIO/weightDevice/0, OrNext)",
            "io io.weight = 8:0 5960 (blockIO/weightDevice/0, Must)",
            "io io.max = 8:0 rbps=1000 (blockIO/throttleReadBpsDevice/0, Must)",
            "io io.max = 8:0 wbps=max (blockIO/throttleWriteBpsDevice/0, Must)",
            "io io.max = 8:0 riops=3000 (blockIO/throttleReadIOPSDevice/0, Must)",
            "io io.max = 8:16 wiops=4000 (blockIO/throttleWriteIOPSDevice/0, Must)",
            "cpu cpu.weight = 59 (cpu/shares, Later)",
            "cpu cpu.idle = 0 (cpu/idle, Must)",
            "cpu cpu.max = 50000 100000 (cpu/quota, Later)",
            "cpu cpu.max.burst = 1000 (cpu/burst, Later)",
            "cpuset cpuset.cpus = 0-1 (cpu/cpus, Must)",
            "cpuset cpuset.mems = 0 (cpu/mems, Must)",
            "hugetlb hugetlb.2MB.max = 4194304 (hugepageLimits/0, Must)",
            "hugetlb hugetlb.2MB.rsvd.max = 4194304 (hugepageLimits/0, IfThere)",
            "rdma rdma.max = mlx5_0 hca_handle=2 hca_object=1000 (rdma/mlx5_0, Must)",
        ]
    );
}

#[test]
fn only_on_v1() {
    let json = r#"{"memory": {"swappiness": 10, "disableOOMKiller": true},
        "cpu": {"realtimeRuntime": 5000, "realtimePeriod": 100000},
        "blockIO": {"leafWeight": 20, "weightDevice": [{"major": 8, "minor": 0, "leafWeight": 30}]},
        "network": {"classID": 1048577, "priorities": [{"name": "eth0", "priority": 3}]}}"#;
    assert_eq!(
        shown(false, json, &[]),
        [
            "memory memory.oom_control = 1 (memory/disableOOMKiller, Must)",
            "memory memory.swappiness = 10 (memory/swappiness, Must)",
            "blkio blkio.leaf_weight = 20 (blockIO/leafWeight, Must)",
            "blkio blkio.leaf_weight_device = 8:0 30 (blockIO/weightDevice/0, Must)",
            "cpu cpu.rt_period_us = 100000 (cpu/realtimePeriod, Realtime)",
            "cpu cpu.rt_runtime_us = 5000 (cpu/realtimeRuntime, Realtime)",
            "net_cls net_cls.classid = 1048577 (network/classID, Must)",
            "net_prio net_prio.ifpriomap = eth0 3 (network/priorities/0, Must)",
        ]
    );
    for (json, sentence) in [
        (r#"{"memory": {"swappiness": 10}}"#, "memory/swappiness: cgroup v2 has no swappiness of a group"),
        (
            r#"{"memory": {"disableOOMKiller": true}}"#,
            "memory/disableOOMKiller: cgroup v2 cannot disable the OOM killer",
        ),
        (r#"{"cpu": {"realtimePeriod": 1}}"#, "cpu/realtimePeriod: cgroup v2 has no realtime limits"),
        (r#"{"cpu": {"realtimeRuntime": 1}}"#, "cpu/realtimeRuntime: cgroup v2 has no realtime limits"),
        (r#"{"blockIO": {"leafWeight": 1}}"#, "blockIO/leafWeight: cgroup v2 has no leaf weights"),
        (r#"{"network": {"classID": 1}}"#, "network/classID: cgroup v2 has no network classes"),
        (
            r#"{"network": {"priorities": [{"name": "lo", "priority": 1}]}}"#,
            "network/priorities/0: cgroup v2 has no network priorities",
        ),
    ] {
        assert_eq!(refused(true, json, &[]), sentence);
    }
}

#[test]
fn invalid_on_both() {
    for (json, sentence) in [
        (
            r#"{"hugepageLimits": [{"pageSize": "../../x", "limit": 1}]}"#,
            r#"hugepageLimits/0/pageSize: "../../x" is not a size like 2MB"#,
        ),
        (r#"{"rdma": {"a b": {"hcaHandles": 1}}}"#, "rdma/a b: not a device name"),
        (
            r#"{"blockIO": {"throttleReadBpsDevice": [{"major": -1, "minor": 0, "rate": 1}]}}"#,
            "blockIO/throttleReadBpsDevice/0: -1:0 is not a device",
        ),
    ] {
        assert_eq!(refused(false, json, &[]), sentence);
        assert_eq!(refused(true, json, &[]), sentence);
    }
    assert_eq!(
        refused(false, r#"{"memory": {"swappiness": 101}}"#, &[]),
        "memory/swappiness: invalid value: 101. valid memory swappiness range is 0-100"
    );
}

#[test]
fn swap_on_v2() {
    let swap = |memory: &str, files: &[(&str, &str)]| shown(true, &format!(r#"{{"memory": {memory}}}"#), files);
    assert_eq!(
        swap(r#"{"limit": 100, "swap": 100}"#, &[]),
        ["memory memory.swap.max = 0 (memory/swap, IfThere)", "memory memory.max = 100 (memory/limit, Memory)"]
            .map(|s| s.replace("Memory)", "Must)"))
    );
    assert_eq!(
        swap(r#"{"limit": -1}"#, &[]),
        ["memory memory.swap.max = max (memory/limit, IfThere)", "memory memory.max = max (memory/limit, Must)"]
    );
    assert_eq!(swap(r#"{"limit": -1, "swap": 7}"#, &[])[0], "memory memory.swap.max = 7 (memory/swap, Must)");
    assert_eq!(swap(r#"{"limit": 5, "swap": -1}"#, &[])[0], "memory memory.swap.max = max (memory/swap, IfThere)");
    assert_eq!(swap(r#"{"limit": 5}"#, &[]), ["memory memory.max = 5 (memory/limit, Must)"]);
    assert_eq!(swap(r#"{"swap": 7}"#, &[("memory.max", "5\n")]), ["memory memory.swap.max = 2 (memory/swap, Must)"]);
    assert_eq!(swap(r#"{"limit": 0, "swap": 0, "reservation": 0}"#, &[]), [""; 0]);
    for (memory, sentence) in [
        (r#"{"swap": 7}"#, "memory/swap: unable to set swap limit without memory limit"),
        (r#"{"limit": 9, "swap": 7}"#, "memory/swap: memory+swap limit should be >= memory limit"),
        (r#"{"limit": -2, "swap": 7}"#, "memory/limit: invalid memory value: -2"),
    ] {
        assert_eq!(refused(true, &format!(r#"{{"memory": {memory}}}"#), &[("memory.max", "max\n")]), sentence);
    }
}

#[test]
fn check_before_update_on_v2() {
    let files = [("memory.current", "1000\n")];
    assert_eq!(
        refused(true, r#"{"memory": {"limit": 1000, "checkBeforeUpdate": true}}"#, &files),
        "memory/limit: rejecting memory limit 1000 <= usage 1000"
    );
    assert_eq!(
        refused(true, r#"{"memory": {"limit": 2000, "swap": 900, "checkBeforeUpdate": true}}"#, &files),
        "memory/swap: rejecting memory+swap limit 900 <= usage 1000"
    );
    assert_eq!(shown(true, r#"{"memory": {"limit": 1001, "checkBeforeUpdate": true}}"#, &files).len(), 1);
}

#[test]
fn unlimited_memory_lifts_swap_on_v1() {
    let lines = shown(false, r#"{"memory": {"limit": -1}}"#, &[("memory.memsw.limit_in_bytes", "5")]);
    assert_eq!(lines[1], "memory memory.memsw.limit_in_bytes = -1 (memory/swap, Later)");
    assert_eq!(shown(false, r#"{"memory": {"limit": -1}}"#, &[]).len(), 1, "no swap accounting");
    let again = [("memory.oom_control", "oom_kill_disable 1\nunder_oom 0\n")];
    assert_eq!(
        shown(false, r#"{"memory": {"disableOOMKiller": false}}"#, &again),
        ["memory memory.oom_control = 0 (memory/disableOOMKiller, Must)"]
    );
}

#[test]
fn partial_cpu_updates() {
    let cpu = |unified, cpu: &str, files: &[(&str, &str)]| shown(unified, &format!(r#"{{"cpu": {cpu}}}"#), files);
    assert_eq!(cpu(true, r#"{"quota": -1}"#, &[]), ["cpu cpu.max = max (cpu/quota, Later)"]);
    assert_eq!(
        cpu(true, r#"{"period": 50000}"#, &[("cpu.max", "7000 100000\n")]),
        ["cpu cpu.max = 7000 50000 (cpu/period, Later)"]
    );
    assert_eq!(cpu(false, r#"{"quota": -5}"#, &[]), ["cpu cpu.cfs_quota_us = -1 (cpu/quota, Later)"]);
    assert_eq!(
        cpu(true, r#"{"shares": 1024, "idle": 1}"#, &[]),
        ["cpu cpu.weight = 100 (cpu/shares, Moot)", "cpu cpu.idle = 1 (cpu/idle, Must)"]
    );
    assert_eq!(cpu(false, r#"{"shares": 0, "quota": 0, "period": 0}"#, &[]), [""; 0]);
}

#[test]
fn shares_as_weight() {
    // The pairs of runc's own test, and the far end.
    for (shares, weight) in [
        (1, 1),
        (2, 1),
        (3, 2),
        (1024, 100),
        (262_143, 10_000),
        (262_144, 10_000),
        (262_145, 10_000),
        (u64::MAX, 10_000),
    ] {
        assert_eq!(v2::weight(shares), weight, "{shares}");
    }
    let all: Vec<u64> = (2..=262_144).map(v2::weight).collect();
    assert!(all.is_sorted() && all.iter().all(|w| (1..=10_000).contains(w)));
    assert_eq!((v2::io_weight(10), v2::io_weight(500), v2::io_weight(1000), v2::io_weight(1)), (1, 4950, 10_000, 1));
}

#[test]
fn unified_entries() {
    let json = r#"{"unified": {"memory.high": "100", "io.max": "8:0 rbps=1\n8:16 rbps=2"}}"#;
    assert_eq!(
        shown(true, json, &[]),
        [
            " io.max = 8:0 rbps=1 (unified/io.max, Unified)",
            " io.max = 8:16 rbps=2 (unified/io.max, Unified)",
            " memory.high = 100 (unified/memory.high, Unified)",
        ]
    );
    assert_eq!(refused(false, json, &[]), "unified/io.max: invalid configuration: cannot use unified on cgroup v1");
    for (value, lines) in [
        (r"", &[r"\n"][..]),
        (r"\n", &[r"\n"]),
        (r"1\n", &["1"]),
        (r"1\n\n", &["1", r"\n"]),
        (r"1\n\n2", &["1", r"\n", "2"]),
    ] {
        let shown = shown(true, &format!(r#"{{"unified": {{"cpuset.cpus": "{value}"}}}}"#), &[]);
        let expected = lines.iter().map(|line| format!(" cpuset.cpus = {line} (unified/cpuset.cpus, Unified)"));
        assert_eq!(shown, expected.map(|line| line.replace(r"\n", "\n")).collect::<Vec<_>>(), "{value}");
    }
    assert_eq!(refused(true, r#"{"unified": {"memory.max": "\n"}}"#, &[]), "unified/memory.max: must not be empty");
    assert_eq!(shown(true, r#"{"unified": {"io.max": "8:0 rbps=1\n\n"}}"#, &[]).len(), 1, "a blank line says nothing");
    assert_eq!(
        refused(true, r#"{"unified": {"a/../b.c": "1"}}"#, &[]),
        r#"unified/a~1..~1b.c: unified resource "a/../b.c" must be a file name (no slashes)"#
    );
    assert_eq!(
        refused(true, r#"{"unified": {"high": "1"}}"#, &[]),
        r#"unified/high: unified resource "high" must be in the form CONTROLLER.PARAMETER"#
    );
}
