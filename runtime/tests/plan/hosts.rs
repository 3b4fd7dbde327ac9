//! Machines that do not exist: what a plan is compiled for when the machine at hand may not matter.

use std::path::PathBuf;

use runtime::Host;
use runtime::cgroup::{Hierarchy, Layout, Place, Record, Unified};
use runtime::container::groups;
use runtime::plan::compile::{Group, Way, thread_may_join};
use runtime::seccomp::{Arch, Available};
use runtime::spec::Spec;

/// Version 1 hierarchies and a cgroup2 tree beside them, Linux 6.12.
pub fn hybrid() -> Host {
    Host {
        kernel: (6, 12),
        arch: Arch::X86_64,
        seccomp: seccomp(),
        cgroup: Layout { v1: hierarchies(), unified: Some(unified("/sys/fs/cgroup/unified", &[])) },
        last_cap: 40,
        mount_setattr: true,
        open_tree_attr: false,
        kcore: true,
        apparmor: false,
        apparmor_attr: "thread-self/attr/exec",
        files: None,
    }
}

/// Version 2 only, with AppArmor, Linux 6.18.
pub fn v2() -> Host {
    let all = ["cpuset", "cpu", "io", "memory", "hugetlb", "pids"];
    Host {
        kernel: (6, 18),
        open_tree_attr: true,
        cgroup: Layout { v1: vec![], unified: Some(unified("/sys/fs/cgroup", &all)) },
        apparmor: true,
        apparmor_attr: "thread-self/attr/apparmor/exec",
        ..hybrid()
    }
}

/// The oldest kernel that works, without mount_setattr(2) and with fewer capabilities; version 1 only.
pub fn old() -> Host {
    Host {
        kernel: (5, 10),
        cgroup: Layout { v1: hierarchies(), unified: None },
        mount_setattr: false,
        kcore: false,
        ..hybrid()
    }
}

fn seccomp() -> Available {
    let actions = ["kill_process", "kill_thread", "trap", "errno", "user_notif", "trace", "log", "allow"];
    Available { actions: actions.map(String::from).into(), flags: 0x3f }
}

fn hierarchies() -> Vec<Hierarchy> {
    let hierarchy = |dir: &str, controllers: &[&str], name: Option<&str>| Hierarchy {
        controllers: controllers.iter().map(|c| (*c).to_owned()).collect(),
        name: name.map(str::to_owned),
        mount: PathBuf::from("/sys/fs/cgroup").join(dir),
        own: "/".into(),
    };
    vec![
        hierarchy("cpuset", &["cpuset"], None),
        hierarchy("cpu,cpuacct", &["cpu", "cpuacct"], None),
        hierarchy("memory", &["memory"], None),
        hierarchy("systemd", &[], Some("systemd")),
    ]
}

fn unified(mount: &str, controllers: &[&str]) -> Unified {
    let controllers = controllers.iter().map(|c| (*c).to_owned()).collect();
    Unified { mount: mount.into(), own: "/".into(), controllers }
}

/// How an exec gets into a container there.
pub fn way(host: &Host, spec: &Spec) -> Way {
    let group = host.cgroup.unified.is_some();
    if thread_may_join(spec) && (host.mount_setattr || !group) { Way::Thread { group } } else { Way::Child }
}

/// The groups that a container gets on such a machine, and the files through which it joins those of version 1.
pub fn places(host: &Host, path: &str) -> (Vec<Group>, Vec<String>) {
    let group = path.trim_start_matches('/').to_owned();
    let v1 = host.cgroup.v1.iter().map(|h| {
        let named = h.name.iter().map(|n| format!("name={n}"));
        Place {
            controllers: h.controllers.iter().cloned().chain(named).collect(),
            mount: h.mount.clone(),
            group: group.clone(),
        }
    });
    let unified = host.cgroup.unified.as_ref().map(|u| Place {
        controllers: u.controllers.clone(),
        mount: u.mount.clone(),
        group: group.clone(),
    });
    let record = Record { v1: v1.collect(), unified, systemd: None };
    let tasks = record.v1.iter().map(|p| p.dir().join("tasks").display().to_string()).collect();
    (groups(&record), tasks)
}
