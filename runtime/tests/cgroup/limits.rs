//! Every limit, written through the spec's words and read back from the kernel.

use std::sync::atomic::Ordering;

use libtest_mimic::Trial;
use runtime::cgroup::Layout;

use crate::{Group, ONLY_V1, resources};

/// What is expected on one version: the file's content, or the sentence of the refusal.
enum Want {
    /// `(file, content)`; several.
    Files(&'static [(&'static str, &'static str)]),
    Refused(&'static str),
}
use Want::{Files, Refused};

struct Case {
    name: &'static str,
    /// On version 1, on version 2: two words for one controller sometimes.
    controller: [&'static str; 2],
    json: &'static str,
    v1: Want,
    v2: Want,
}

const fn case(name: &'static str, controller: [&'static str; 2], json: &'static str, v1: Want, v2: Want) -> Case {
    Case { name, controller, json, v1, v2 }
}

const MEMORY: [&str; 2] = ["memory", "memory"];
const CPU: [&str; 2] = ["cpu", "cpu"];
const IO: [&str; 2] = ["blkio", "io"];
const CPUSET: [&str; 2] = ["cpuset", "cpuset"];
const HUGE: [&str; 2] = ["hugetlb", "hugetlb"];

const CASES: &[Case] = &[
    case(
        "memory limit",
        MEMORY,
        r#"{"memory": {"limit": 104857600}}"#,
        Files(&[("memory.limit_in_bytes", "104857600")]),
        Files(&[("memory.max", "104857600")]),
    ),
    case(
        "memory unlimited",
        MEMORY,
        r#"{"memory": {"limit": -1}}"#,
        Files(&[("memory.limit_in_bytes", "9223372036854771712")]),
        Files(&[("memory.max", "max")]),
    ),
    case(
        "memory and swap",
        MEMORY,
        r#"{"memory": {"limit": 104857600, "swap": 209715200}}"#,
        Files(&[("memory.limit_in_bytes", "104857600"), ("memory.memsw.limit_in_bytes", "209715200")]),
        Files(&[("memory.max", "104857600"), ("?memory.swap.max", "104857600")]),
    ),
    case(
        "memory without swap",
        MEMORY,
        r#"{"memory": {"limit": 104857600, "swap": 104857600}}"#,
        Files(&[("memory.memsw.limit_in_bytes", "104857600")]),
        Files(&[("memory.max", "104857600"), ("?memory.swap.max", "0")]),
    ),
    case(
        "memory reservation",
        MEMORY,
        r#"{"memory": {"reservation": 52428800}}"#,
        Files(&[("memory.soft_limit_in_bytes", "52428800")]),
        Files(&[("memory.low", "52428800")]),
    ),
    case(
        "swappiness",
        MEMORY,
        r#"{"memory": {"swappiness": 17}}"#,
        Files(&[("memory.swappiness", "17")]),
        Refused("/linux/resources/memory/swappiness: cgroup v2 has no swappiness of a group"),
    ),
    case(
        "OOM killer disabled",
        MEMORY,
        r#"{"memory": {"disableOOMKiller": true}}"#,
        Files(&[("memory.oom_control", "oom_kill_disable 1\nunder_oom 0\noom_kill 0")]),
        Refused("/linux/resources/memory/disableOOMKiller: cgroup v2 cannot disable the OOM killer"),
    ),
    case(
        "ignored memory fields",
        MEMORY,
        r#"{"memory": {"kernel": 1000, "kernelTCP": 1000, "useHierarchy": true, "swappiness": 18446744073709551615}}"#,
        Files(&[]),
        Files(&[]),
    ),
    case(
        "cpu shares",
        CPU,
        r#"{"cpu": {"shares": 512}}"#,
        Files(&[("cpu.shares", "512")]),
        Files(&[("cpu.weight", "59")]),
    ),
    case(
        "cpu shares below the minimum",
        CPU,
        r#"{"cpu": {"shares": 1}}"#,
        Refused("/linux/resources/cpu/shares: the minimum allowed cpu-shares is 2"),
        Files(&[("cpu.weight", "1")]),
    ),
    case(
        "cpu shares above the maximum",
        CPU,
        r#"{"cpu": {"shares": 1000000}}"#,
        Refused("/linux/resources/cpu/shares: the maximum allowed cpu-shares is 262144"),
        Files(&[("cpu.weight", "10000")]),
    ),
    case(
        "cpu quota, period and burst",
        CPU,
        r#"{"cpu": {"quota": 20000, "period": 50000, "burst": 10000}}"#,
        Files(&[("cpu.cfs_quota_us", "20000"), ("cpu.cfs_period_us", "50000"), ("cpu.cfs_burst_us", "10000")]),
        Files(&[("cpu.max", "20000 50000"), ("cpu.max.burst", "10000")]),
    ),
    case(
        "cpu quota alone",
        CPU,
        r#"{"cpu": {"quota": 20000}}"#,
        Files(&[("cpu.cfs_quota_us", "20000"), ("cpu.cfs_period_us", "100000")]),
        Files(&[("cpu.max", "20000 100000")]),
    ),
    case(
        "cpu period alone",
        CPU,
        r#"{"cpu": {"period": 50000}}"#,
        Files(&[("cpu.cfs_quota_us", "-1"), ("cpu.cfs_period_us", "50000")]),
        Files(&[("cpu.max", "max 50000")]),
    ),
    case(
        "cpu idle, shares then being moot",
        CPU,
        r#"{"cpu": {"idle": 1, "shares": 100}}"#,
        Files(&[("cpu.idle", "1")]),
        Files(&[("cpu.idle", "1")]),
    ),
    case(
        "realtime period without a parent's runtime",
        CPU,
        r#"{"cpu": {"realtimePeriod": 500000}}"#,
        Files(&[("cpu.rt_period_us", "500000")]),
        Refused("/linux/resources/cpu/realtimePeriod: cgroup v2 has no realtime limits"),
    ),
    case(
        "cpuset",
        CPUSET,
        r#"{"cpu": {"cpus": "0", "mems": "0"}}"#,
        Files(&[("cpuset.cpus", "0"), ("cpuset.mems", "0")]),
        Files(&[("cpuset.cpus", "0"), ("cpuset.mems", "0")]),
    ),
    case(
        "pids",
        ["pids", "pids"],
        r#"{"pids": {"limit": 42}}"#,
        Files(&[("pids.max", "42")]),
        Files(&[("pids.max", "42")]),
    ),
    case(
        "pids zero",
        ["pids", "pids"],
        r#"{"pids": {"limit": 0}}"#,
        Files(&[("pids.max", "1")]),
        Files(&[("pids.max", "1")]),
    ),
    case(
        "pids unlimited",
        ["pids", "pids"],
        r#"{"pids": {"limit": -1}}"#,
        Files(&[("pids.max", "max")]),
        Files(&[("pids.max", "max")]),
    ),
    case(
        "block device that does not exist",
        IO,
        r#"{"blockIO": {"throttleReadBpsDevice": [{"major": 4000, "minor": 1, "rate": 1}]}}"#,
        Refused(
            "/linux/resources/blockIO/throttleReadBpsDevice/0: write \"…/blkio.throttle.read_bps_device\": no such device",
        ),
        Refused("/linux/resources/blockIO/throttleReadBpsDevice/0: write \"…/io.max\": no such device"),
    ),
    case(
        "huge pages",
        HUGE,
        r#"{"hugepageLimits": [{"pageSize": "2MB", "limit": 4194304}]}"#,
        Files(&[("hugetlb.2MB.limit_in_bytes", "4194304"), ("hugetlb.2MB.rsvd.limit_in_bytes", "4194304")]),
        Files(&[("hugetlb.2MB.max", "4194304"), ("hugetlb.2MB.rsvd.max", "4194304")]),
    ),
    case(
        "network class",
        ["net_cls", "net_cls"],
        r#"{"network": {"classID": 1048577}}"#,
        Files(&[("net_cls.classid", "1048577")]),
        Refused("/linux/resources/network/classID: cgroup v2 has no network classes"),
    ),
    case(
        "network priorities",
        ["net_prio", "net_prio"],
        r#"{"network": {"priorities": [{"name": "lo", "priority": 3}]}}"#,
        Files(&[("net_prio.ifpriomap", "lo 3")]),
        Refused("/linux/resources/network/priorities/0: cgroup v2 has no network priorities"),
    ),
    case(
        "rdma",
        ["rdma", "rdma"],
        r#"{"rdma": {"nosuch": {"hcaHandles": 3}}}"#,
        Refused("/linux/resources/rdma/nosuch: write \"…/rdma.max\": no such device"),
        Refused("/linux/resources/rdma/nosuch: write \"…/rdma.max\": no such device"),
    ),
    case(
        "unified",
        MEMORY,
        r#"{"unified": {"memory.high": "1048576"}}"#,
        Refused("/linux/resources/unified/memory.high: invalid configuration: cannot use unified on cgroup v1"),
        Files(&[("memory.high", "1048576")]),
    ),
    case(
        "unified, nothing",
        MEMORY,
        r#"{"unified": {"memory.max": ""}}"#,
        Refused("/linux/resources/unified/memory.max: invalid configuration: cannot use unified on cgroup v1"),
        Refused("/linux/resources/unified/memory.max: must not be empty"),
    ),
    case(
        "unified, no cpus",
        CPUSET,
        r#"{"cpu": {"cpus": "0"}, "unified": {"cpuset.cpus": ""}}"#,
        Refused("/linux/resources/unified/cpuset.cpus: invalid configuration: cannot use unified on cgroup v1"),
        Files(&[("cpuset.cpus", "")]),
    ),
    case(
        "unified, controller missing",
        MEMORY,
        r#"{"unified": {"nosuch.limit": "1"}}"#,
        Refused("/linux/resources/unified/nosuch.limit: invalid configuration: cannot use unified on cgroup v1"),
        Refused(
            "/linux/resources/unified/nosuch.limit: unified resource \"nosuch.limit\" can't be set: controller \"nosuch\" not available (available: …)",
        ),
    ),
];

/// Adds the cases, and those that need a device of this machine.
pub fn trials(layout: &Layout, trials: &mut Vec<Trial>) {
    let unified = layout.is_unified();
    for case in CASES {
        let on_v1 = layout.v1.iter().any(|h| h.controllers.iter().any(|c| c == case.controller[0]));
        let on_v2 = layout.unified.as_ref().is_some_and(|u| u.controllers.iter().any(|c| c == case.controller[1]));
        let want = if on_v1 || (!on_v2 && !unified) { &case.v1 } else { &case.v2 };
        trials.push(Trial::test(format!("limit: {}", case.name), move || {
            ONLY_V1.store(false, Ordering::Relaxed);
            let group = Group::new("limit");
            let done = group.0.apply(&resources(case.json));
            match want {
                Refused(sentence) if on_v1 || on_v2 || !sentence.contains("write") && !sentence.contains("allowed") => {
                    let said = plain(&done.unwrap_err().to_string());
                    // A controller that is nowhere is refused as such, unless the version says no before.
                    assert!(said == *sentence || (!on_v1 && !on_v2 && absent(&said)), "{said}\ninstead of\n{sentence}");
                }
                Files(files) if on_v1 || on_v2 => {
                    done.unwrap();
                    let controller = if on_v1 { case.controller[0] } else { case.controller[1] };
                    for (file, content) in *files {
                        let (file, optional) = file.strip_prefix('?').map_or((*file, false), |f| (f, true));
                        if optional && !group.find(controller).unwrap().1.join(file).exists() {
                            continue; // a kernel without swap accounting has nothing to limit
                        }
                        assert_eq!(group.read(controller, file), *content, "{file}");
                    }
                }
                Files([]) => done.unwrap(),
                _ => {
                    let said = done.unwrap_err().to_string();
                    assert!(absent(&said), "{said}");
                }
            }
            Ok(())
        }));
    }
    trials.push(Trial::test("limit: block devices", block_devices));
    trials.push(Trial::test("update: memory and swap up and down", memory_up_and_down));
    trials.push(Trial::test("update: quota, period and burst up and down", cpu_up_and_down));
    trials.push(Trial::test("update: idle on and off", idle_on_and_off));
    trials.push(Trial::test("update: leaves what is not named", partial));
    trials.push(Trial::test("update: one that is refused changes nothing", all_or_nothing));
}

fn absent(said: &str) -> bool {
    said.starts_with("/linux/resources/") && said.contains("controller is not available")
}

/// Without the paths of this run.
fn plain(said: &str) -> String {
    let mut out = said.to_owned();
    if let Some((front, back)) = said.split_once("write \"")
        && let Some((path, rest)) = back.split_once('"')
    {
        out = format!("{front}write \"…/{}\"{rest}", path.rsplit('/').next().unwrap());
    }
    if let Some((front, _)) = out.split_once("(available: ") {
        out = format!("{front}(available: …)");
    }
    out
}

/// Some disk of this machine.
fn disk() -> Option<String> {
    let disks = std::fs::read_dir("/sys/block").ok()?.flatten();
    disks.filter_map(|d| std::fs::read_to_string(d.path().join("dev")).ok()).map(|t| t.trim().to_owned()).min()
}

fn block_devices() -> Result<(), libtest_mimic::Failed> {
    let group = Group::new("io");
    // Without a disk, a device number that is none: the kernel says so.
    let disk = disk();
    let (major, minor) = disk.as_deref().unwrap_or("4000:1").split_once(':').unwrap();
    let json = format!(
        r#"{{"blockIO": {{
            "throttleReadBpsDevice": [{{"major": {major}, "minor": {minor}, "rate": 1000000}}],
            "throttleWriteBpsDevice": [{{"major": {major}, "minor": {minor}, "rate": 2000000}}],
            "throttleReadIOPSDevice": [{{"major": {major}, "minor": {minor}, "rate": 3000}}],
            "throttleWriteIOPSDevice": [{{"major": {major}, "minor": {minor}, "rate": 4000}}]}}}}"#
    );
    if disk.is_some() {
        let (controller, file) = match group.find("io") {
            Some((false, _)) => ("io", "io.max"),
            _ => ("blkio", "blkio.throttle.read_bps_device"),
        };
        // The last of the four.
        let tail = json.rfind(&format!("\"major\": {major}")).unwrap();
        let refused = json[..tail].to_owned() + r#""major": 4000, "minor": 1, "rate": 1}]}}"#;
        group.0.update(&resources(&refused)).unwrap_err();
        assert_eq!(group.read(controller, file), "", "no limit stays that was not there before");
    }
    let done = group.0.apply(&resources(&json));
    let Some(disk) = disk else {
        assert!(done.unwrap_err().to_string().ends_with("no such device"));
        return Ok(());
    };
    done.unwrap();
    let weight = group.0.apply(&resources(r#"{"blockIO": {"weight": 300}}"#));
    if let Some((true, dir)) = group.find("blkio") {
        for (file, rate) in
            [("read_bps", "1000000"), ("write_bps", "2000000"), ("read_iops", "3000"), ("write_iops", "4000")]
        {
            assert_eq!(group.read("blkio", &format!("blkio.throttle.{file}_device")), format!("{disk} {rate}"));
        }
        let file = ["blkio.bfq.weight", "blkio.weight"].into_iter().find(|f| dir.join(f).exists());
        assert_eq!(weight.is_ok(), file.is_some());
        if let Some(file) = file {
            assert!(group.read("blkio", file).ends_with("300"));
        }
        group.0.update(&resources(&json.replace("1000000", "0"))).unwrap();
        assert_eq!(group.read("blkio", "blkio.throttle.read_bps_device"), "", "0 takes the limit away");
    } else {
        let (_, dir) = group.find("io").unwrap();
        assert_eq!(group.read("io", "io.max"), format!("{disk} rbps=1000000 wbps=2000000 riops=3000 wiops=4000"));
        let file = ["io.bfq.weight", "io.weight"].into_iter().find(|f| dir.join(f).exists());
        match file {
            Some("io.bfq.weight") => assert!(group.read("io", "io.bfq.weight").contains("300")),
            Some(file) => assert_eq!(group.read("io", file), "default 2930"),
            None => assert!(weight.unwrap_err().to_string().starts_with("/linux/resources/blockIO/weight: write")),
        }
        group.0.update(&resources(&json.replace("1000000", "0"))).unwrap();
        assert_eq!(group.read("io", "io.max"), format!("{disk} rbps=max wbps=2000000 riops=3000 wiops=4000"));
    }
    Ok(())
}

fn memory_up_and_down() -> Result<(), libtest_mimic::Failed> {
    let group = Group::new("memory");
    let (v1, dir) = group.find("memory").unwrap();
    for (memory, swap) in [(100, 200), (300, 400), (50, 60), (50, -1), (500, 500), (-1, -1), (10, 10)] {
        let bytes = |n: i64| if n < 0 { -1 } else { n << 20 };
        let json = format!(r#"{{"memory": {{"limit": {}, "swap": {}}}}}"#, bytes(memory), bytes(swap));
        group.0.update(&resources(&json)).unwrap();
        let word = |n: i64| if n < 0 { "max".to_owned() } else { (n << 20).to_string() };
        let seen = |file: &str| group.read("memory", file).replace("9223372036854771712", "max");
        if v1 {
            assert_eq!(seen("memory.limit_in_bytes"), word(memory));
            assert_eq!(seen("memory.memsw.limit_in_bytes"), word(swap));
        } else {
            assert_eq!(seen("memory.max"), word(memory));
            if dir.join("memory.swap.max").exists() {
                let alone = if swap < 0 { "max".to_owned() } else { ((swap - memory) << 20).to_string() };
                assert_eq!(seen("memory.swap.max"), alone);
            }
        }
    }
    Ok(())
}

fn cpu_up_and_down() -> Result<(), libtest_mimic::Failed> {
    let group = Group::new("cpu");
    let (v1, dir) = group.find("cpu").unwrap();
    for (quota, period, burst) in [
        (50_000, 100_000, 50_000),
        (10_000, 20_000, 5000),
        (90_000, 100_000, 90_000),
        (2000, 1000, 0),
        (-1, 100_000, 0),
    ] {
        let json = format!(r#"{{"cpu": {{"quota": {quota}, "period": {period}, "burst": {burst}}}}}"#);
        group.0.update(&resources(&json)).unwrap();
        if v1 {
            assert_eq!(group.read("cpu", "cpu.cfs_quota_us"), quota.to_string());
            assert_eq!(group.read("cpu", "cpu.cfs_period_us"), period.to_string());
        } else {
            let quota = if quota < 0 { "max".to_owned() } else { quota.to_string() };
            assert_eq!(group.read("cpu", "cpu.max"), format!("{quota} {period}"));
        }
        let file = if v1 { "cpu.cfs_burst_us" } else { "cpu.max.burst" };
        if dir.join(file).exists() {
            assert_eq!(group.read("cpu", file), burst.to_string());
        }
    }
    Ok(())
}

fn idle_on_and_off() -> Result<(), libtest_mimic::Failed> {
    let group = Group::new("idle");
    for idle in [1, 1, 0] {
        let json = format!(r#"{{"cpu": {{"shares": 2048, "idle": {idle}}}}}"#);
        group.0.update(&resources(&json)).unwrap();
        assert_eq!(group.read("cpu", "cpu.idle"), idle.to_string());
    }
    let (v1, _) = group.find("cpu").unwrap();
    let (file, value) = if v1 { ("cpu.shares", "2048") } else { ("cpu.weight", "174") };
    assert_eq!(group.read("cpu", file), value);
    Ok(())
}

fn partial() -> Result<(), libtest_mimic::Failed> {
    let group = Group::new("partial");
    group.0.apply(&resources(r#"{"pids": {"limit": 9}, "cpu": {"quota": 30000, "period": 60000}}"#)).unwrap();
    group.0.update(&resources(r#"{"cpu": {"quota": 20000}}"#)).unwrap();
    group.0.update(&resources(r#"{"cpu": {"period": 50000}}"#)).unwrap();
    group.0.update(&resources("{}")).unwrap();
    assert_eq!(group.read("pids", "pids.max"), "9");
    if group.find("cpu").unwrap().0 {
        assert_eq!(group.read("cpu", "cpu.cfs_quota_us"), "20000");
        assert_eq!(group.read("cpu", "cpu.cfs_period_us"), "50000");
    } else {
        assert_eq!(group.read("cpu", "cpu.max"), "20000 50000");
    }
    Ok(())
}

fn all_or_nothing() -> Result<(), libtest_mimic::Failed> {
    let group = Group::new("whole");
    let limits = r#"{"pids": {"limit": 500}, "memory": {"limit": 67108864, "swap": 134217728},
        "cpu": {"shares": 512, "quota": 50000, "period": 100000}}"#;
    group.0.apply(&resources(limits)).unwrap();
    let files = [
        ("pids", "pids.max"),
        ("memory", "memory.limit_in_bytes"),
        ("memory", "memory.memsw.limit_in_bytes"),
        ("memory", "memory.oom_control"),
        ("memory", "memory.max"),
        ("memory", "memory.swap.max"),
        ("cpu", "cpu.idle"),
        ("cpu", "cpu.shares"),
        ("cpu", "cpu.weight"),
        ("cpu", "cpu.cfs_quota_us"),
        ("cpu", "cpu.cfs_period_us"),
        ("cpu", "cpu.max"),
    ];
    let now = || {
        let there = files.iter().filter(|(controller, file)| group.find(controller).unwrap().1.join(file).exists());
        there.map(|(controller, file)| (file, group.read(controller, file))).collect::<Vec<_>>()
    };
    let before = now();
    // There is no such cpu, and the cpuset comes last (or is not there at all).
    for refused in [
        r#"{"pids": {"limit": 78}, "cpu": {"shares": 100, "cpus": "900"}}"#,
        r#"{"pids": {"limit": -1}, "memory": {"limit": 268435456, "swap": 536870912}, "cpu": {"cpus": "900"}}"#,
        r#"{"memory": {"limit": 33554432, "swap": 33554432}, "cpu": {"quota": 1000, "period": 1000, "cpus": "900"}}"#,
        r#"{"cpu": {"idle": 1, "quota": -1, "cpus": "900"}}"#,
    ] {
        let error = group.0.update(&resources(refused)).unwrap_err().to_string();
        assert!(error.starts_with("/linux/resources/cpu/cpus: "), "{error}");
        assert_eq!(now(), before, "{refused}");
    }
    if group.find("memory").unwrap().0 {
        let refused = r#"{"memory": {"disableOOMKiller": true}, "cpu": {"cpus": "900"}}"#;
        group.0.update(&resources(refused)).unwrap_err();
        assert_eq!(now(), before, "{refused}");
    }
    // What was idle is idle again.
    group.0.update(&resources(r#"{"cpu": {"idle": 1}}"#)).unwrap();
    let before = now();
    group.0.update(&resources(r#"{"cpu": {"idle": 0, "shares": 2048, "cpus": "900"}}"#)).unwrap_err();
    assert_eq!(now(), before);
    Ok(())
}
