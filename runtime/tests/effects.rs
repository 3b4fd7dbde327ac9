//! Limits seen from inside: not what is written to a control file, but what a payload then may do. The current runc is
//! asked the same. What is expected follows from the host: a limit whose controller it lacks is an error by name.
//!
//! In a guest of `scripts/guest-run`, which is a machine of its own, huge pages and a software RDMA device are set up first.

#[allow(dead_code, reason = "shared with the attacks")]
#[path = "attacks/bed.rs"]
mod bed;
#[path = "kernel/payload.rs"]
mod payload;
#[path = "kernel/table.rs"]
mod table;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use bed::{Bed, Held};
use runtime::cgroup::Layout;
use serde_json::{Value, json};
use table::{Done, Line, ensure};

/// The hierarchy that has a controller; none if the host does not have it.
fn hierarchy(controller: &str) -> Option<PathBuf> {
    let layout = Layout::read().unwrap();
    let v1 = layout.v1.iter().find(|h| h.controllers.iter().any(|c| c == controller)).map(|h| h.mount.clone());
    let has = |u: &runtime::cgroup::Unified| u.controllers.iter().any(|c| c == controller);
    v1.or_else(|| layout.unified.filter(has).map(|u| u.mount))
}

/// A host without the controller: the limit is refused, and nothing has run.
fn refused(bed: &mut Bed<'_>, controller: &str) -> Done {
    bed.script("echo ran");
    let ended = bed.run();
    ensure!(ended.code.is_some_and(|c| c != 0) && ended.out.is_empty(), "{ended:?}");
    let word = format!("the {controller} controller is not available");
    ensure!(bed.runtime.name != "mini" || ended.err.contains(&word), "{ended:?}");
    Ok(())
}

fn limit(bed: &mut Bed<'_>, field: &str, value: Value) {
    bed.spec["linux"]["resources"][field] = value;
}

/// A list like `0-2,5` as numbers.
fn numbers(list: &str) -> Vec<u32> {
    let range = |part: &str| {
        let (a, b) = part.split_once('-').unwrap_or((part, part));
        a.parse().unwrap()..=b.parse().unwrap()
    };
    list.trim().split(',').filter(|p| !p.is_empty()).flat_map(range).collect()
}

fn allowed(text: &str, what: &str) -> Vec<u32> {
    text.lines().find_map(|l| l.strip_prefix(what)).map(numbers).unwrap_or_default()
}

const PLACES: &str = "grep _allowed_list: /proc/self/status";
const CPUS: &str = "Cpus_allowed_list:\t";
const MEMS: &str = "Mems_allowed_list:\t";

/// The last processor and the last memory node that we may use ourselves; then another one by an update, which also holds
/// for what runs already and for an exec.
fn cpuset(bed: &mut Bed<'_>) -> Done {
    let own = std::fs::read_to_string("/proc/self/status")?;
    let (cpus, mems) = (allowed(&own, CPUS), allowed(&own, MEMS));
    let (cpu, mem) = (*cpus.last().ok_or("no cpu")?, *mems.last().ok_or("no memory")?);
    limit(bed, "cpu", json!({"cpus": cpu.to_string(), "mems": mem.to_string()}));
    if hierarchy("cpuset").is_none() {
        return refused(bed, "cpuset");
    }
    bed.script(PLACES);
    let ended = bed.run();
    ensure!(ended.out == format!("{CPUS}{cpu}\n{MEMS}{mem}\n"), "{ended:?}");

    bed.script("sleep 1000");
    let held = bed.hold();
    let id = held.id().to_owned();
    let command = held.bed.command(&["update", "--cpuset-cpus", &cpus[0].to_string(), &id]);
    let ended = held.bed.wait(command, LONG);
    ensure!(ended.code == Some(0), "{ended:?}");
    let ended = held.exec("grep _allowed_list: /proc/1/status /proc/self/status");
    let seen: Vec<&str> = ended.out.lines().filter_map(|l| l.split_once(CPUS)).map(|(_, list)| list).collect();
    ensure!(seen == vec![cpus[0].to_string(); 2], "{ended:?}");
    ensure!(ended.out.matches(&format!("{MEMS}{mem}\n")).count() == 2, "{ended:?}");
    Ok(())
}

fn a_processor_that_is_not_there(bed: &mut Bed<'_>) -> Done {
    limit(bed, "cpu", json!({"cpus": "4095"}));
    if hierarchy("cpuset").is_none() {
        return refused(bed, "cpuset");
    }
    bed.script("echo ran");
    let ended = bed.run();
    ensure!(ended.code.is_some_and(|c| c != 0) && ended.out.is_empty(), "{ended:?}");
    ensure!(bed.runtime.name != "mini" || ended.err.contains("/linux/resources/cpu/cpus: write"), "{ended:?}");
    let left = bed.wait(bed.command(&["list", "--quiet"]), LONG);
    ensure!(left.code == Some(0) && left.out.is_empty(), "{left:?}");
    Ok(())
}

fn free_huge_pages() -> u32 {
    let text = std::fs::read_to_string("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages");
    text.map_or(0, |t| t.trim().parse().unwrap())
}

/// Two of four. What is reserved is refused by mmap(2), what is not is SIGBUS when it is touched: both need the limit.
fn hugetlb(bed: &mut Bed<'_>) -> Done {
    limit(bed, "hugepageLimits", json!([{"pageSize": "2MB", "limit": 4 << 20}]));
    bed.attacker(&["huge", "4", "reserved"]);
    if hierarchy("hugetlb").is_none() {
        return refused(bed, "hugetlb");
    }
    let version_2 = Layout::read().unwrap().unified.is_some_and(|u| u.controllers.iter().any(|c| c == "hugetlb"));
    if bed.runtime.name == "runc" && version_2 && !Layout::read().unwrap().is_unified() {
        return refused(bed, "hugetlb"); // it knows no controllers in the cgroup2 tree of a hybrid host
    }
    // A machine without free pages has none to give, with or without a limit.
    let first = if free_huge_pages() >= 4 { 2 } else { 0 };
    let ended = bed.run();
    ensure!(ended.out == format!("{first} pages, then Cannot allocate memory (os error 12)\n"), "{ended:?}");
    bed.attacker(&["huge", "4", "unreserved"]);
    let ended = bed.run();
    ensure!(ended.code == Some(128 + libc::SIGBUS) && ended.out.is_empty(), "{ended:?}");
    if first > 0 {
        limit(bed, "hugepageLimits", json!([{"pageSize": "2MB", "limit": 8 << 20}]));
        let ended = bed.run();
        ensure!(ended.out == "all 4 pages\n", "{ended:?}");
    }
    Ok(())
}

fn rdma(bed: &mut Bed<'_>) -> Done {
    let devices = std::fs::read_dir("/sys/class/infiniband").into_iter().flatten().flatten();
    let device = devices.map(|d| d.file_name().into_string().unwrap()).min();
    let name = device.clone().unwrap_or_else(|| "nosuch".into());
    limit(bed, "rdma", json!({name.clone(): {"hcaHandles": 3, "hcaObjects": 10000}}));
    let Some(mount) = hierarchy("rdma") else { return refused(bed, "rdma") };
    bed.script("sleep 1000");
    if device.is_none() {
        let ended = bed.run();
        ensure!(ended.code.is_some_and(|c| c != 0) && ended.err.contains("no such device"), "{ended:?}");
        return Ok(());
    }
    let held = bed.hold();
    let text = std::fs::read_to_string(mount.join(group(&held)).join("rdma.max"))?;
    ensure!(text.contains(&format!("{name} hca_handle=3 hca_object=10000")), "{text}");
    Ok(())
}

/// Its group, below a hierarchy.
fn group(held: &Held<'_, '_>) -> String {
    held.bed.spec["linux"]["cgroupsPath"].as_str().unwrap()[1..].to_owned()
}

/// A processor that is always wanted by two and limited: somebody waits, and the statistics say how long.
fn pressure(bed: &mut Bed<'_>) -> Done {
    limit(bed, "cpu", json!({"quota": 10_000, "period": 100_000}));
    bed.script("while :; do :; done & while :; do :; done");
    let held = bed.hold();
    let id = held.id().to_owned();
    let file = Layout::read().unwrap().unified.map(|u| u.mount.join(group(&held)).join("cpu.pressure"));
    // On version 1 and on a kernel without PSI there is none, and none is said.
    let there =
        hierarchy("cpu").zip(file).is_some_and(|(cpu, file)| file.starts_with(&cpu) && std::fs::read(&file).is_ok());
    let began = Instant::now();
    loop {
        let ended = held.bed.wait(held.bed.command(&["events", "--stats", &id]), LONG);
        let stats: Value = serde_json::from_str(&ended.out).map_err(|e| format!("{e}: {ended:?}"))?;
        let psi = &stats["data"]["cpu"]["psi"];
        if !there {
            ensure!(psi.is_null(), "{psi}");
            return Ok(());
        }
        if psi["some"]["total"].as_u64().is_some_and(|t| t > 0) && psi["some"]["avg10"].is_number() {
            return Ok(());
        }
        ensure!(began.elapsed() < LONG, "no pressure: {stats}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

const LONG: Duration = Duration::from_secs(60);

/// Gives a guest huge pages and an RDMA device on `lo`. Whoever owns another machine decides that for himself.
fn furnish() {
    let modprobe = Path::new("/run/guest/bin/modprobe");
    if !modprobe.exists() {
        return;
    }
    // A kernel may lack either; what the tests expect follows from what is there.
    let _ = std::fs::write("/proc/sys/vm/nr_hugepages", "16");
    if Command::new(modprobe).arg("rdma_rxe").stderr(std::process::Stdio::null()).status().is_ok_and(|s| s.success()) {
        let _ = Command::new("rdma").args(["link", "add", "mini0", "type", "rxe", "netdev", "lo"]).status();
    }
}

fn main() {
    payload::play();
    furnish();
    table::run(&[
        Line("cpuset", cpuset),
        Line("a_processor_that_is_not_there", a_processor_that_is_not_there),
        Line("hugetlb", hugetlb),
        Line("rdma", rdma),
        Line("pressure", pressure),
    ])
    .exit();
}
