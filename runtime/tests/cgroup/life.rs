//! The life of a group, with processes in it.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::Duration;

use libtest_mimic::{Failed, Trial};
use runtime::Kind;
use runtime::cgroup::{BlkioEntry, Cgroup, Freezer, Layout, SOON, Stats, StatsV1};

use crate::process::{Process, eventually};
use crate::{Group, ONLY_V1, base, death, devices, layout, resources};

pub type Done = Result<(), Failed>;

/// Adds the tests; on a hybrid host a second time with its version 1 part alone.
pub fn trials(layout: &Layout, trials: &mut Vec<Trial>) {
    type Test = (&'static str, fn() -> Done);
    let all: [Test; 29] = [
        ("create and remove", create_and_remove),
        ("create refuses a group with processes", refuses_taken),
        ("create refuses a frozen group", refuses_frozen),
        ("create leaves nothing on error", leaves_nothing),
        ("create in a threaded group", threaded),
        ("record and open", record_and_open),
        ("born in the group", born_inside),
        ("exec in a sub group", sub_group),
        ("exec beside an init that has moved", beside_init),
        ("delegation", delegation),
        ("freeze and thaw", freeze_and_thaw),
        ("freeze under a frozen parent", frozen_parent),
        ("kill all that breed", death::kill_breeders),
        ("kill what is frozen", death::kill_frozen),
        ("kill in sub groups", death::kill_sub_groups),
        ("other signals", death::other_signals),
        ("remove what the container made", death::remove_deep),
        ("end whatever is left", death::end),
        ("remove a busy group is an error", death::remove_busy),
        ("out of memory", death::out_of_memory),
        ("out of memory, and nobody is killed", death::out_of_memory_and_nobody_killed),
        ("out of memory in a group below", death::out_of_memory_below),
        ("out of memory, and the group is gone", death::out_of_memory_and_gone),
        ("shrinking below use", death::shrink),
        ("device rules", devices::rules),
        ("stats are the kernel's numbers", stats),
        ("stats that are not read from a file of their own", inferred),
        ("no descriptor is lost", descriptors),
        ("what is kept open for the next process", kept_tasks),
    ];
    if layout.is_unified() {
        trials.push(Trial::test("device rules beside another's program", devices::beside_another));
        trials.push(Trial::test("device rules without memory to lock", devices::without_memory_to_lock));
    }
    let modes = if layout.unified.is_some() && !layout.is_unified() { &["", "v1 only: "][..] } else { &[""] };
    for mode in modes {
        trials.extend(all.map(|(name, test)| {
            Trial::test(format!("{mode}{name}"), move || {
                ONLY_V1.store(!mode.is_empty(), Ordering::Relaxed);
                test()
            })
        }));
    }
}

pub fn start(group: &Group, role: &str) -> Process {
    Process::start(&group.0.attach().unwrap(), role)
}

pub fn dirs(group: &Group) -> Vec<PathBuf> {
    group.places().iter().map(|p| p.dir()).collect()
}

/// Where the processes of a group are listed.
fn main_dir(group: &Group) -> PathBuf {
    let record = group.0.record();
    record.unified.as_ref().map_or_else(|| group.find("freezer").unwrap().1, |p| p.dir())
}

pub fn mkdir(path: &Path) {
    std::fs::create_dir(path).unwrap();
}

fn create_and_remove() -> Done {
    let group = Group::new("a/b/c");
    for place in group.places() {
        let dir = place.dir();
        assert!(dir.is_dir(), "{}", dir.display());
        assert!(dir.ends_with(&format!("{}/a/b/c", base())[1..]));
        if place.controllers.contains(&"cpuset".to_owned()) && group.find("cpuset").unwrap().0 {
            let read = |dir: &Path, name: &str| std::fs::read_to_string(dir.join(name)).unwrap();
            for name in ["cpuset.cpus", "cpuset.mems"] {
                assert_eq!(read(&dir, name), read(&place.mount, name));
            }
        }
    }
    if let Some(unified) = group.0.record().unified {
        let mut have: Vec<String> = std::fs::read_to_string(unified.dir().join("cgroup.controllers"))
            .unwrap()
            .split_whitespace()
            .map(str::to_owned)
            .collect();
        let mut root = unified.controllers.clone();
        have.sort();
        root.sort();
        assert_eq!(have, root, "every controller is handed down");
    }
    group.0.remove().unwrap();
    assert!(dirs(&group).iter().all(|dir| !dir.exists()));
    group.0.remove().unwrap();
    assert_eq!(group.0.pids().unwrap_err().kind, Kind::NotFound);
    assert_eq!(group.0.stats().unwrap_err().kind, Kind::NotFound);
    assert_eq!(group.0.attach().unwrap_err().kind, Kind::NotFound);
    assert_eq!(group.0.freezer_state().unwrap_err().kind, Kind::NotFound);
    group.0.kill(libc::SIGKILL).unwrap();
    group.0.kill(libc::SIGTERM).unwrap();
    for dir in dirs(&group) {
        for parent in dir.ancestors().skip(1).take(2) {
            let _ = std::fs::remove_dir(parent);
        }
    }
    Ok(())
}

fn refuses_taken() -> Done {
    let group = Group::new("taken");
    let process = start(&group, "sleep");
    let again = || Cgroup::create(&layout(), &format!("{}/taken", base()), "x");
    let error = again().unwrap_err();
    assert_eq!(error.to_string(), "/linux/cgroupsPath: container's cgroup is not empty: 1 process(es) found");
    assert_eq!(error.kind, Kind::State);
    assert_eq!(group.0.pids().unwrap(), [process.pid], "it was left alone");
    drop(process);
    again().unwrap(); // an empty one may be used
    Ok(())
}

fn refuses_frozen() -> Done {
    let group = Group::new("ice");
    group.0.freeze().unwrap();
    let again = |name: &str| Cgroup::create(&layout(), &format!("{}/{name}", base()), "x").unwrap_err().to_string();
    let sentence = "/linux/cgroupsPath: container's cgroup unexpectedly frozen";
    assert_eq!(again("ice"), sentence);
    assert_eq!(again("ice/below"), sentence, "its children stand still as well");
    assert!(dirs(&group).iter().all(|dir| dir.is_dir() && !dir.join("below").exists()));
    Ok(())
}

fn leaves_nothing() -> Done {
    let make = || Cgroup::create(&layout(), &format!("{}/n/o", base()), "x");
    let all = || {
        let layout = layout();
        let mounts = layout.v1.into_iter().map(|h| h.mount).chain(layout.unified.map(|u| u.mount));
        mounts.map(|mount| mount.join(&base()[1..]).join("n")).collect::<Vec<PathBuf>>()
    };
    // The kernel refuses a newline in a name: right at the first directory.
    let error = Cgroup::create(&layout(), &format!("{}/n/a\nb", base()), "x").unwrap_err();
    assert!(error.to_string().ends_with("invalid argument"), "{error}");
    assert!(all().iter().all(|dir| !dir.exists()));
    // Somebody is in the last hierarchy only: right at the end.
    let group = Group(make().unwrap());
    let mut attach = group.0.attach().unwrap();
    let keep = attach.tasks.pop().filter(|_| attach.into.is_none());
    attach.tasks = keep.into_iter().collect();
    let process = Process::start(&attach, "sleep");
    let places = dirs(&group);
    let (last, others) = places.split_last().unwrap();
    eventually("inside", || !read(&last.join("cgroup.procs")).is_empty());
    for dir in others {
        std::fs::remove_dir(dir).unwrap();
        std::fs::remove_dir(dir.parent().unwrap()).unwrap();
    }
    let error = make().unwrap_err().to_string();
    assert_eq!(error, "/linux/cgroupsPath: container's cgroup is not empty: 1 process(es) found");
    assert!(others.iter().all(|dir| !dir.parent().unwrap().exists()));
    assert_eq!(read(&last.join("cgroup.procs")).trim(), process.pid.to_string(), "what was there before stays");
    drop(process);
    drop(group);
    std::fs::remove_dir(last.parent().unwrap()).unwrap();
    Ok(())
}

/// Next to a threaded group only a threaded group can be made, and it has no domain controllers.
fn threaded() -> Done {
    let parent = Group::new("p");
    let Some(unified) = parent.0.record().unified else { return Ok(()) }; // pure version 1 knows no such thing
    let sibling = unified.dir().join("t");
    mkdir(&sibling);
    std::fs::write(sibling.join("cgroup.type"), "threaded").unwrap();
    let group = Group::new("p/x");
    let dir = group.0.record().unified.unwrap().dir();
    assert_eq!(std::fs::read_to_string(dir.join("cgroup.type")).unwrap().trim(), "threaded");
    let json = match group.find("memory") {
        Some((false, _)) => r#"{"memory": {"limit": 100000000}}"#,
        _ => r#"{"hugepageLimits": [{"pageSize": "2MB", "limit": 0}]}"#,
    };
    let error = group.0.apply(&resources(json)).unwrap_err().to_string();
    assert!(error.contains("with domain controllers -- it is in threaded mode"), "{error}");
    // What has become the domain of threads keeps the controllers that it has.
    parent.0.update(&resources(json)).unwrap();
    // Who comes from another domain has to come as a whole.
    let mut process = start(&group, "sleep");
    let own = format!("0::/{}\n", group.0.record().unified.unwrap().group);
    eventually("inside", || process.groups().contains(&own));
    group.0.kill(libc::SIGKILL).unwrap();
    assert_eq!(process.wait(Duration::from_secs(5)), Some(137));
    // It has no list of processes, and its threads are not all processes.
    for (whole, signal) in [(&parent, libc::SIGTERM), (&group, libc::SIGTERM), (&group, libc::SIGKILL)] {
        let mut process = start(&parent, "threads");
        std::fs::write(dir.join("cgroup.procs"), process.pid.to_string()).unwrap();
        eventually("two threads", || read(&dir.join("cgroup.threads")).lines().count() == 2);
        assert_eq!(whole.0.pids().unwrap(), [process.pid]);
        whole.0.kill(signal).unwrap();
        assert_eq!(process.wait(Duration::from_secs(5)), Some(128 + signal));
    }
    Ok(())
}

fn record_and_open() -> Done {
    let group = Group::new("record");
    let text = serde_json::to_string(&group.0.record()).unwrap();
    let record: runtime::cgroup::Record = serde_json::from_str(&text).unwrap();
    assert_eq!(record, group.0.record());
    let process = start(&group, "sleep");
    let openings: [fn(&runtime::cgroup::Record) -> runtime::Result<Cgroup>; 2] =
        [|record| Cgroup::open(&layout(), record), Cgroup::recorded];
    for open in openings {
        assert_eq!(open(&record).unwrap().pids().unwrap(), [process.pid]);
        // The last one is the group's own, by a name that leads up on its way.
        for wrong in ["../../tmp", "", &format!("../{}", record.v1.first().or(record.unified.as_ref()).unwrap().group)]
        {
            let mut bad = record.clone();
            for place in bad.v1.iter_mut().chain(&mut bad.unified) {
                place.group = wrong.to_owned();
            }
            assert_eq!(open(&bad).unwrap_err().kind, Kind::Invalid, "{wrong}");
        }
        let mut bad = record.clone();
        for place in bad.v1.iter_mut().chain(&mut bad.unified) {
            place.mount = "/tmp".into();
        }
        assert_eq!(open(&bad).unwrap_err().kind, Kind::Invalid);
    }
    // A group that is gone belongs here all the same.
    drop(process);
    drop(group);
    for open in openings {
        assert_eq!(open(&record).unwrap().pids().unwrap_err().kind, Kind::NotFound);
    }
    Ok(())
}

fn born_inside() -> Done {
    let group = Group::new("born");
    let attach = group.0.attach().unwrap();
    let record = group.0.record();
    assert_eq!((attach.tasks.len(), attach.into.is_some()), (record.v1.len(), record.unified.is_some()));
    let process = Process::start(&attach, "sleep");
    eventually("in every group", || {
        let groups = process.groups();
        groups.lines().filter(|line| line.ends_with(&format!("{}/born", base()))).count() == group.places().len()
    });
    Ok(())
}

fn sub_group() -> Done {
    let group = Group::new("sub");
    for dir in dirs(&group) {
        mkdir(&dir.join("worker"));
    }
    let process = Process::start(&group.0.attach_below(&["worker".to_owned()], false).unwrap(), "sleep");
    eventually("in every group", || {
        let groups = process.groups();
        groups.lines().filter(|line| line.ends_with("/sub/worker")).count() == group.places().len()
    });
    assert_eq!(group.0.pids().unwrap(), [process.pid], "counted with the container");
    let error = group.0.attach_below(&["worker/../../x".to_owned()], false).unwrap_err();
    assert_eq!(error.to_string(), "bad sub cgroup path: worker/../../x");
    assert_eq!(group.0.attach_below(&["nosuch".to_owned()], false).unwrap_err().kind, Kind::NotFound);
    Ok(())
}

fn beside_init() -> Done {
    let group = Group::new("moved");
    for dir in dirs(&group) {
        mkdir(&dir.join("init"));
    }
    let init = Process::start(&group.0.attach_below(&["init".to_owned()], false).unwrap(), "sleep");
    eventually("inside", || group.0.pids().unwrap() == [init.pid]);
    let record = group.0.record();
    if let Some(place) = &record.unified {
        let all = std::fs::read_to_string(place.dir().join("cgroup.controllers")).unwrap();
        let line: String = all.split_whitespace().map(|c| format!("+{c} ")).collect();
        std::fs::write(place.dir().join("cgroup.subtree_control"), line).unwrap();
    }
    let line = |p: &Process| p.groups().lines().find(|l| l.starts_with("0::")).map(str::to_owned);
    for by_file in [false, true] {
        let exec = Process::start(&group.0.attach_beside(init.pid, by_file).unwrap(), "sleep");
        eventually("two", || group.0.pids().unwrap().len() == 2);
        assert_eq!(line(&exec), line(&init));
        drop(exec);
        eventually("one", || group.0.pids().unwrap().len() == 1);
    }
    // A stranger's group is not followed.
    let attach = group.0.attach_beside(std::process::id(), false).unwrap();
    assert_eq!(attach.into.is_some(), record.unified.is_some());
    Ok(())
}

fn delegation() -> Done {
    use std::os::unix::fs::MetadataExt;
    let group = Group::new("given");
    group.0.delegate(12345).unwrap();
    for place in group.places() {
        let owner = |path: PathBuf| std::fs::metadata(path).unwrap().uid();
        let wanted = if layout().is_unified() { 12345 } else { 0 };
        assert_eq!((owner(place.dir()), owner(place.dir().join("cgroup.procs"))), (wanted, wanted));
        if layout().is_unified() {
            assert_eq!(owner(place.dir().join("pids.max")), 0, "the limits stay ours");
        }
    }
    Ok(())
}

/// Clock ticks that a process has used.
fn ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let words: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    words[11].parse::<u64>().unwrap() + words[12].parse::<u64>().unwrap()
}

fn freeze_and_thaw() -> Done {
    let group = Group::new("freeze");
    let process = start(&group, "spin");
    eventually("running", || ticks(process.pid) > 2);
    assert_eq!(group.0.freezer_state().unwrap(), Freezer::Thawed);
    for _ in 0..5 {
        group.0.freeze().unwrap();
        assert!(group.0.is_frozen().unwrap());
        let then = ticks(process.pid);
        std::thread::sleep(Duration::from_millis(100));
        // It counts as frozen an instant before it leaves the processor (cgroup_enter_frozen), where a tick can still meet it.
        let ticked = ticks(process.pid) - then;
        assert!(ticked <= 1, "it does not stand still: {ticked} ticks");
        group.0.freeze().unwrap(); // again is fine
        group.0.thaw().unwrap();
        assert!(!group.0.is_frozen().unwrap());
        eventually("running again", || ticks(process.pid) > then);
    }
    group.0.thaw().unwrap();
    Ok(())
}

fn frozen_parent() -> Done {
    let parent = Group::new("parent");
    let child = Group::new("parent/child");
    let process = start(&child, "spin");
    eventually("running", || ticks(process.pid) > 2);
    parent.0.freeze().unwrap();
    assert!(!child.0.is_frozen().unwrap(), "it was not asked to");
    child.0.thaw().unwrap();
    parent.0.thaw().unwrap();
    let then = ticks(process.pid);
    eventually("running again", || ticks(process.pid) > then);
    Ok(())
}

pub fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn stats() -> Done {
    let group = Group::new("stats");
    let limits = r#"{"memory": {"limit": 104857600}, "pids": {"limit": 77}, "cpu": {"quota": 10000, "period": 20000},
        "devices": [{"allow": true}]}"#;
    group.0.apply(&resources(limits)).unwrap();
    let _spin = start(&group, "spin");
    let _eat = start(&group, "eat=20");
    let dir = main_dir(&group);
    // The kernel brings memory.stat up to date every two seconds or so.
    eventually("grown", || match group.0.stats().unwrap() {
        Stats::V1(s) => s.memory.stat.total_rss > 20 << 20 && s.cpu.user > 0 && s.cpu.throttled_time > 0,
        Stats::V2(s) => s.memory.stat.anon > 20 << 20 && s.cpu.user_usec > 0 && s.cpu.throttled_usec > 0,
    });
    let pages = rustix::fs::statfs("/dev/hugepages").is_ok() || Path::new("/sys/kernel/mm/hugepages").exists();
    match group.0.stats().unwrap() {
        Stats::V1(s) => {
            assert!(!layout().is_unified());
            assert_eq!((s.pids.current, s.pids.limit), (2, 77));
            assert_eq!((s.memory.usage.limit, s.memory.stat.hierarchical_memory_limit), (104_857_600, 104_857_600));
            assert!(s.memory.usage.max >= s.memory.usage.usage && s.memory.usage.usage > 20 << 20);
            assert!(s.memory.swap.usage > 20 << 20 && s.memory.kernel.usage > 0);
            assert!(s.cpu.total > 0 && s.cpu.periods >= s.cpu.throttled_periods && s.cpu.throttled_time > 0);
            assert!(!s.cpu.per_cpu.is_empty());
            assert_eq!(!s.hugetlb.is_empty(), pages && group.find("hugetlb").is_some());
        }
        Stats::V2(s) => {
            assert!(layout().is_unified());
            assert_eq!((s.pids.current, s.pids.limit), (2, 77));
            assert_eq!((s.memory.usage_limit, s.memory_events.unwrap().oom_kill), (104_857_600, 0));
            assert!(s.memory.usage > 20 << 20);
            assert!(s.cpu.usage_usec > 0 && s.cpu.nr_periods >= s.cpu.nr_throttled && s.cpu.throttled_usec > 0);
            let pressure = std::fs::read_to_string(dir.join("cpu.pressure"));
            assert_eq!(s.cpu.psi.is_some(), pressure.is_ok());
        }
    }
    let now = || {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: a place for the answer. (Not rustix: it needs a vdso, which not every guest has.)
        unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
        Duration::new(time.tv_sec.cast_unsigned(), time.tv_nsec.try_into().unwrap())
    };
    let then = now();
    for _ in 0..200 {
        group.0.stats().unwrap();
    }
    println!("CPU of one stats call: {:?}", (now() - then) / 200);
    Ok(())
}

/// On version 1 some files are read only if others say that there is something in them.
fn inferred() -> Done {
    let v1 = |group: &Group| match group.0.stats().unwrap() {
        Stats::V1(stats) => Some(stats),
        Stats::V2(_) => None,
    };
    let parent = Group::new("inferred");
    let Some((true, dir)) = parent.find("memory") else { return Ok(()) };
    parent
        .0
        .apply(&resources(r#"{"memory": {"limit": 104857600, "swap": 209715200}, "devices": [{"allow": true}]}"#))
        .unwrap();
    let group = Group::new("inferred/child");
    let dir = dir.join("child");
    let file = |name: &str| read(&dir.join(name)).trim_end().parse::<u64>().unwrap_or(0);
    let counters = ["memory", "memory.memsw", "memory.kmem", "memory.kmem.tcp"];
    let limits = |stats: &StatsV1| {
        let memory = &stats.memory;
        let ours = [memory.usage, memory.swap, memory.kernel, memory.kernel_tcp].map(|c| (c.limit, c.failcnt));
        let files = counters.map(|c| (file(&format!("{c}.limit_in_bytes")), file(&format!("{c}.failcnt"))));
        assert_eq!(ours, files);
        ours
    };
    let Some(stats) = v1(&group) else { return Ok(()) };
    let none = limits(&stats);
    assert_eq!(stats.memory.stat.hierarchical_memory_limit, 104_857_600);
    assert!(none[0].0 > 1 << 62 && stats.memory.kernel_tcp.max == 0);
    // The parent's limit gone, there is none at all; then one of the group's own.
    let above = dir.parent().unwrap();
    if above.join("memory.memsw.limit_in_bytes").exists() {
        std::fs::write(above.join("memory.memsw.limit_in_bytes"), "-1").unwrap();
    }
    std::fs::write(above.join("memory.limit_in_bytes"), "-1").unwrap();
    let stats = v1(&group).unwrap();
    assert_eq!(limits(&stats), none);
    assert_eq!(stats.memory.stat.hierarchical_memory_limit, none[0].0, "a limit above us hides what is tested here");
    assert_eq!(stats.memory.stat.hierarchical_swap_limit, none[1].0);
    let limit = r#"{"memory": {"limit": 52428800, "swap": 73400320}, "devices": [{"allow": true}]}"#;
    group.0.apply(&resources(limit)).unwrap();
    assert_eq!(limits(&v1(&group).unwrap())[0].0, 52_428_800);
    // Kernels take it, refuse it, or ignore it.
    let _ = std::fs::write(dir.join("memory.kmem.limit_in_bytes"), "41943040");
    limits(&v1(&group).unwrap());

    if std::fs::write(dir.join("memory.kmem.tcp.limit_in_bytes"), "33554432").is_ok() {
        let _sender = start(&group, "tcp=1000000");
        eventually("sent", || {
            let tcp = v1(&group).unwrap().memory.kernel_tcp;
            assert!(tcp.limit == 33_554_432 && tcp.max >= tcp.usage);
            assert!(tcp.max <= file("memory.kmem.tcp.max_usage_in_bytes"));
            tcp.usage > 500_000 && tcp.usage == file("memory.kmem.tcp.usage_in_bytes")
        });
    }
    if let Some((true, dir)) = group.find("blkio") {
        assert!(v1(&group).unwrap().blkio.io_serviced_recursive.is_empty());
        // Linux counts for a disk from the first rule on, and will not stop: a disk of our own.
        let disk = Disk::new();
        std::fs::write(dir.join("blkio.throttle.write_bps_device"), format!("{} 1000000000", disk.number())).unwrap();
        let _writer = start(&group, &format!("disk={}", disk.device));
        eventually("written", || {
            let ours = v1(&group).unwrap().blkio;
            let written =
                |of: &[BlkioEntry]| of.iter().any(|e| e.op == "Write" && e.value > 0 && e.device == disk.device);
            assert!(ours.io_serviced_recursive.is_empty() == ours.io_service_bytes_recursive.is_empty());
            written(&ours.io_serviced_recursive) && written(&ours.io_service_bytes_recursive)
        });
    }
    if let Some((true, dir)) = group.find("cpuacct") {
        let total = || read(&dir.join("cpuacct.usage")).trim_end().parse::<u64>().unwrap();
        let (least, stats, most) = (total(), v1(&group).unwrap(), total());
        assert!((least..=most).contains(&stats.cpu.total), "{least} {} {most}", stats.cpu.total);
    }
    Ok(())
}

/// A loop device.
struct Disk {
    device: String,
}

impl Disk {
    fn new() -> Disk {
        let path = format!("/var/tmp/mini-test-disk-{}", std::process::id());
        std::fs::File::create(&path).unwrap().set_len(4 << 20).unwrap();
        let made = Command::new("losetup").args(["--find", "--show", &path]).output().unwrap();
        std::fs::remove_file(path).unwrap();
        assert!(made.status.success(), "{made:?}");
        Disk { device: String::from_utf8(made.stdout).unwrap().trim_end().to_owned() }
    }

    fn number(&self) -> String {
        let device = std::fs::metadata(&self.device).unwrap().rdev();
        format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Whoever has it open still keeps it as long.
        let _gone = Command::new("losetup").args(["--detach", &self.device]).status();
    }
}

fn descriptors() -> Done {
    let count = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = count();
    {
        let group = Group::new("fds");
        assert_eq!(count(), before, "a group holds none");
        group.0.apply(&resources("{}")).unwrap();
        group.0.freeze().unwrap();
        group.0.thaw().unwrap();
        group.0.pids().unwrap();
        assert_eq!(count(), before);
        group.0.stats().unwrap();
        let held = count() - before;
        assert!(held <= group.places().len() && !group.0.is_warm());
        group.0.stats().unwrap();
        // On a machine that took longer than that between the two calls nothing is kept.
        assert_eq!(count() - before > held, group.0.is_warm(), "the files, while calls are frequent");
        eventually("cold", || group.0.cool());
        assert_eq!(count() - before, held, "the directories, once");
    }
    assert_eq!(count(), before);
    Ok(())
}

/// What joins version 1 groups through files that are kept is where the first one was, and nothing is kept for ever.
fn kept_tasks() -> Done {
    let count = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = count();
    {
        let (group, began) = (Group::new("kept"), std::time::Instant::now());
        let processes: Vec<Process> = (0..3).map(|_| Process::start(&group.0.attach().unwrap(), "sleep")).collect();
        let mut pids: Vec<u32> = processes.iter().map(|process| process.pid).collect();
        pids.sort_unstable();
        for place in group.places() {
            let text = std::fs::read_to_string(place.dir().join("cgroup.procs")).unwrap();
            let mut there: Vec<u32> = text.lines().map(|line| line.parse().unwrap()).collect();
            there.sort_unstable();
            assert_eq!(there, pids, "{}", place.dir().display());
        }
        let processes = processes.len();
        // Where all is on version 2 there are none.
        let some = !group.0.record().v1.is_empty();
        assert!(group.0.is_warm() == some || began.elapsed() > SOON);
        assert_eq!(count() - before > processes, group.0.is_warm());
        assert_eq!(group.0.is_to_be_cooled(), group.0.is_warm());
        assert!(!group.0.is_to_be_cooled(), "it is said once");
        let below = group.0.attach_below(&["none".to_owned()], false);
        assert!(below.is_err() || !some, "another group's files are not the kept ones");
        eventually("cold", || group.0.cool());
        assert_eq!(count() - before, processes);
    }
    Ok(())
}
