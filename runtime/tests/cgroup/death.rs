//! How processes of a group end: killed by us, by the kernel, and the group after them.

use std::os::fd::AsRawFd;
use std::time::Duration;

use runtime::Kind;
use runtime::cgroup::{Cgroup, Kills, Limit, Oom, Stats, Unit};

use crate::life::{Done, dirs, mkdir, read, start};
use crate::process::{Process, eventually};
use crate::{Group, layout, resources};

fn empty(group: &Group) {
    eventually("empty", || group.0.pids().unwrap().is_empty());
}

pub fn kill_breeders() -> Done {
    let group = Group::new("breed");
    group.0.apply(&resources(r#"{"pids": {"limit": 400}, "devices": [{"allow": true}]}"#)).unwrap();
    let mut process = start(&group, "breed");
    eventually("many", || group.0.pids().unwrap().len() > 50);
    group.0.kill(libc::SIGKILL).unwrap();
    assert_eq!(process.wait(Duration::from_secs(10)), Some(137));
    empty(&group);
    group.0.remove().unwrap();
    Ok(())
}

pub fn kill_frozen() -> Done {
    let group = Group::new("cold");
    let mut process = start(&group, "pair");
    eventually("two", || group.0.pids().unwrap().len() == 2);
    group.0.freeze().unwrap();
    group.0.kill(libc::SIGKILL).unwrap();
    assert_eq!(process.wait(Duration::from_secs(5)), Some(137));
    empty(&group);
    Ok(())
}

pub fn kill_sub_groups() -> Done {
    let group = Group::new("tree");
    for dir in dirs(&group) {
        mkdir(&dir.join("one"));
        mkdir(&dir.join("one/two"));
    }
    let mut inner = Process::start(&group.0.attach_below(&["one/two".to_owned()], false).unwrap(), "sleep");
    eventually("inside", || group.0.pids().unwrap() == [inner.pid]);
    group.0.kill(libc::SIGKILL).unwrap();
    assert_eq!(inner.wait(Duration::from_secs(5)), Some(137));
    group.0.remove().unwrap();
    assert!(dirs(&group).iter().all(|dir| !dir.exists()));
    Ok(())
}

/// Nobody, a few, some below, and one that another tool has put into the version 1 freezer alone: all are gone afterwards.
pub fn end() -> Done {
    let ended = |group: &Group| {
        group.0.end(true).unwrap();
        assert!(dirs(group).iter().all(|dir| !dir.exists()));
    };
    let group = Group::new("end");
    ended(&group);
    ended(&group);
    let group = Group::new("end");
    let mut process = start(&group, "pair");
    eventually("two", || group.0.pids().unwrap().len() == 2);
    ended(&group);
    assert_eq!(process.wait(Duration::from_secs(5)), Some(137));
    let group = Group::new("end");
    dirs(&group).iter().for_each(|dir| mkdir(&dir.join("one")));
    let mut inner = Process::start(&group.0.attach_below(&["one".to_owned()], false).unwrap(), "sleep");
    eventually("inside", || group.0.pids().unwrap() == [inner.pid]);
    ended(&group);
    assert_eq!(inner.wait(Duration::from_secs(5)), Some(137));
    let group = Group::new("end");
    if let Some((true, dir)) = group.find("freezer") {
        let mut attach = group.0.attach().unwrap();
        attach.into = None;
        attach.tasks.retain(|task| std::path::Path::new(&task.0).starts_with(&dir));
        assert_eq!(attach.tasks.len(), 1);
        let mut stranger = Process::start(&attach, "sleep");
        eventually("inside", || read(&dir.join("tasks")).trim() == stranger.pid.to_string());
        ended(&group);
        assert_eq!(stranger.wait(Duration::from_secs(5)), Some(137));
    }
    Ok(())
}

pub fn other_signals() -> Done {
    let group = Group::new("signal");
    let stranger = Group::new("stranger");
    let mut other = start(&stranger, "sleep");
    for signal in [libc::SIGTERM, libc::SIGRTMIN() + 3] {
        let mut process = start(&group, "pair");
        eventually("two", || group.0.pids().unwrap().len() == 2);
        group.0.kill(signal).unwrap();
        assert_eq!(process.wait(Duration::from_secs(5)), Some(128 + signal));
        empty(&group);
    }
    assert_eq!(other.wait(Duration::from_millis(20)), None, "only the group was meant");
    Ok(())
}

/// A container with its own groups can nest them as deeply as it likes: deeper than a path may be long.
pub fn remove_deep() -> Done {
    let group = Group::new("deep");
    for dir in dirs(&group) {
        let mut at = rustix::fs::open(&dir, rustix::fs::OFlags::DIRECTORY, rustix::fs::Mode::empty()).unwrap();
        for level in 0..100 {
            let name = format!("{level:0>60}");
            // cgroup.max.depth does not limit version 1; some kernels run out of css ids first.
            if rustix::fs::mkdirat(&at, name.as_str(), rustix::fs::Mode::RWXU).is_err() {
                break;
            }
            rustix::fs::mkdirat(&at, format!("side-{level}"), rustix::fs::Mode::RWXU).unwrap();
            at = rustix::fs::openat(&at, name, rustix::fs::OFlags::DIRECTORY, rustix::fs::Mode::empty()).unwrap();
        }
    }
    group.0.pids().unwrap();
    group.0.remove().unwrap();
    assert!(dirs(&group).iter().all(|dir| !dir.exists()));
    Ok(())
}

pub fn remove_busy() -> Done {
    let group = Group::new("busy");
    let process = start(&group, "sleep");
    eventually("in every group", || dirs(&group).iter().all(|d| !read(&d.join("cgroup.procs")).is_empty()));
    let error = group.0.remove().unwrap_err();
    assert!(error.to_string().ends_with("device or resource busy"), "{error}");
    drop(process);
    group.0.remove().unwrap();
    // One that dies meanwhile is waited for.
    let group = Group::new("busy");
    let mut process = start(&group, "eat=100");
    eventually("big", || match group.0.stats().unwrap() {
        Stats::V1(s) => s.memory.usage.usage > 90 << 20,
        Stats::V2(s) => s.memory.usage > 90 << 20,
    });
    group.0.kill(libc::SIGKILL).unwrap();
    group.0.remove().unwrap();
    assert_eq!(process.wait(Duration::from_secs(5)), Some(137));
    Ok(())
}

fn readable(oom: &Oom, limit: Duration) -> bool {
    let mut poll = libc::pollfd { fd: oom.fd().as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one pollfd.
    unsafe { libc::poll(&raw mut poll, 1, limit.as_millis() as i32) == 1 }
}

pub fn out_of_memory() -> Done {
    let group = Group::new("oom");
    let mut oom = group.0.oom().unwrap();
    assert!(!readable(&oom, Duration::from_millis(10)));
    group.0.apply(&resources(r#"{"memory": {"limit": 16777216, "swap": 16777216}}"#)).unwrap();
    oom.read().unwrap(); // changing a limit may say so
    for kills in 1..=2 {
        let mut process = start(&group, "eat=64");
        assert!(readable(&oom, Duration::from_secs(20)));
        assert_eq!(process.wait(Duration::from_secs(20)), Some(137));
        assert_eq!(oom.read().unwrap(), kills);
        // Nothing more comes; what was still on its way is the same kill.
        while readable(&oom, Duration::from_millis(50)) {
            assert_eq!(oom.read().unwrap(), kills);
        }
    }
    let counted = match group.0.stats().unwrap() {
        Stats::V1(s) => s.memory_oom_control.oom_kill,
        Stats::V2(s) => s.memory_events.unwrap().oom_kill,
    };
    assert_eq!(counted, 2);
    group.0.remove().unwrap();
    assert_eq!(oom.read().unwrap_err().kind, Kind::NotFound);
    Ok(())
}

/// Version 1 only: nobody is killed, and it is told once each time that somebody has to wait for memory.
pub fn out_of_memory_and_nobody_killed() -> Done {
    let group = Group::new("oom-wait");
    let (true, dir) = group.find("memory").unwrap() else { return Ok(()) };
    let mut oom = group.0.oom().unwrap();
    let limit = |mebibytes: u64| {
        let bytes = mebibytes << 20;
        let json = format!(r#"{{"memory": {{"limit": {bytes}, "swap": {bytes}, "disableOOMKiller": true}}}}"#);
        group.0.update(&resources(&json)).unwrap();
    };
    let under = || read(&dir.join("memory.oom_control")).contains("under_oom 1");
    let own = Limit::Own(format!("/{}", dir.strip_prefix(mount(&group)).unwrap().display()));
    let mut processes = Vec::new();
    for (before, after) in [(16, 96), (96, 256)] {
        limit(before);
        oom.look().unwrap(); // changing a limit may say so
        processes.push(start(&group, "eat=64"));
        assert!(readable(&oom, Duration::from_secs(20)));
        assert_eq!(oom.look().unwrap(), Some(Kills { count: 0, limit: own.clone() }));
        assert!(under());
        assert_eq!(oom.look().unwrap(), None);
        limit(after);
        eventually("more memory", || !under());
        assert_eq!((oom.look().unwrap(), oom.read().unwrap()), (None, 0));
    }
    assert!(processes.iter_mut().all(|process| process.wait(Duration::ZERO).is_none()));
    Ok(())
}

/// In a group that the container has made inside its own, and that may go: version 1 counts the kill there only.
pub fn out_of_memory_below() -> Done {
    let group = Group::new("oom-below");
    let mut oom = group.0.oom().unwrap();
    group.0.apply(&resources(r#"{"memory": {"limit": 16777216, "swap": 16777216}}"#)).unwrap();
    for kills in 1..=3 {
        dirs(&group).iter().for_each(|dir| mkdir(&dir.join("inner")));
        let mut process = Process::start(&group.0.attach_below(&["inner".to_owned()], false).unwrap(), "eat=64");
        assert!(readable(&oom, Duration::from_secs(20)), "ours is the limit");
        assert_eq!(process.wait(Duration::from_secs(20)), Some(137));
        assert_eq!(oom.read().unwrap(), kills);
        dirs(&group).iter().for_each(|dir| std::fs::remove_dir(dir.join("inner")).unwrap());
        assert_eq!(oom.read().unwrap(), kills, "though the group that counted it is gone");
    }
    // Groups that come and go meanwhile are no end of the watch.
    let (_, dir) = group.find("memory").unwrap();
    std::thread::scope(|scope| {
        let churn = scope.spawn(|| {
            for n in 0..500 {
                let inner = dir.join(format!("passing-{}", n % 3));
                mkdir(&inner);
                mkdir(&inner.join("inner"));
                std::fs::remove_dir(inner.join("inner")).unwrap();
                std::fs::remove_dir(inner).unwrap();
            }
        });
        while !churn.is_finished() {
            assert_eq!(oom.look().unwrap(), None);
        }
    });
    // More of them than are looked at: the container's own count is always there.
    let many: Vec<_> = (0..600).map(|n| dir.join(format!("many-{n}"))).collect();
    many.iter().for_each(|dir| mkdir(dir));
    assert_eq!(oom.look().unwrap(), None);
    let before = oom.read().unwrap();
    let mut process = Process::start(&group.0.attach().unwrap(), "eat=64");
    assert_eq!(process.wait(Duration::from_secs(20)), Some(137));
    assert_eq!(oom.read().unwrap(), before + 1);
    many.iter().for_each(|dir| std::fs::remove_dir(dir).unwrap());
    assert_eq!(oom.look().unwrap(), None);
    Ok(())
}

/// As if systemd had made the group, and takes it away as soon as it is empty: what the group above has counted since the
/// last look is ours, and what a group beside ours did before that is not.
pub fn out_of_memory_and_gone() -> Done {
    let limit = |group: &Group| {
        group.0.apply(&resources(r#"{"memory": {"limit": 16777216, "swap": 16777216}}"#)).unwrap();
    };
    let beside = Group::new("beside");
    limit(&beside);
    for victim in [true, false] {
        let group = Group::new("fleeting");
        limit(&group);
        let (v1, dir) = group.find("memory").unwrap();
        let mut record = group.0.record();
        record.systemd = Some(Unit { name: "fleeting.scope".into(), ..Unit::default() });
        let mut oom = Cgroup::open(&layout(), &record).unwrap().oom().unwrap();
        // Heard once, and after a silence again.
        for _ in 0..2 {
            eventually("heard", || {
                assert_eq!(start(&beside, "eat=64").wait(Duration::from_secs(20)), Some(137));
                let heard = v1 || readable(&oom, Duration::from_millis(50));
                oom.heard();
                assert_eq!(oom.look().unwrap(), None);
                heard
            });
        }
        assert_eq!(oom.presumed(), None);
        let mut process = start(&group, if victim { "eat=64" } else { "sleep" });
        if !victim {
            group.0.kill(libc::SIGKILL).unwrap();
        }
        assert_eq!(process.wait(Duration::from_secs(20)), Some(137));
        group.0.remove().unwrap();
        assert_eq!(oom.look().unwrap_err().kind, Kind::NotFound);
        let own = Limit::Own(format!("/{}", dir.strip_prefix(mount(&group)).unwrap().display()));
        assert_eq!(oom.presumed(), (victim && !v1).then_some(Kills { count: 1, limit: own }));
    }
    Ok(())
}

fn mount(group: &Group) -> std::path::PathBuf {
    let (_, dir) = group.find("memory").unwrap();
    group.places().into_iter().find(|p| p.dir() == dir).unwrap().mount
}

pub fn shrink() -> Done {
    let group = Group::new("shrink");
    let (v1, _) = group.find("memory").unwrap();
    let mut process = start(&group, "eat=40");
    eventually("big", || match group.0.stats().unwrap() {
        Stats::V1(s) => s.memory.usage.usage > 40 << 20,
        Stats::V2(s) => s.memory.usage > 40 << 20,
    });
    let smaller = r#"{"memory": {"limit": 10485760, "swap": 10485760, "checkBeforeUpdate": true}}"#;
    let error = group.0.update(&resources(smaller)).unwrap_err().to_string();
    if v1 {
        let start = "/linux/resources/memory/limit: unable to set memory limit to 10485760 (current usage: ";
        assert!(error.starts_with(start) && error.contains(", peak usage: "), "{error}");
    } else {
        let start = "/linux/resources/memory/swap: rejecting memory+swap limit 10485760 <= usage ";
        assert!(error.starts_with(start), "{error}");
    }
    assert_eq!(process.wait(Duration::from_millis(50)), None, "nobody is killed for it");
    Ok(())
}
