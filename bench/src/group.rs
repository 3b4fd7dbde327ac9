//! The CPU time of a whole tree of processes, by a control group that all of them are born in.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::Outcome;

/// The groups of one run: the same path on every hierarchy, removed at the end.
pub struct Groups {
    /// The path as config.json names it.
    pub path: String,
    mounts: Vec<PathBuf>,
}

/// One peer's group. What it starts is in `…/shim`; its containers' groups are made by it beside that.
pub struct Group {
    /// As config.json names it.
    pub path: String,
    /// Its directory below cpuacct and memory; none on a machine without them, where only counting is possible.
    v1: Option<Trees>,
}

struct Trees {
    cpu: PathBuf,
    memory: PathBuf,
    /// Where this process is.
    homes: [PathBuf; 2],
}

impl Groups {
    /// With a name that no other run has.
    pub fn new(name: &str) -> Outcome<Groups> {
        Ok(Groups { path: format!("/{name}"), mounts: mounts()? })
    }

    /// A group for a peer.
    pub fn of(&self, peer: &str) -> Outcome<Group> {
        let path = format!("{}/{peer}", self.path);
        let (Some((cpu, own_cpu)), Some((memory, own_memory))) = (controller("cpuacct"), controller("memory")) else {
            return Ok(Group { path, v1: None });
        };
        let homes = [home(&cpu, &own_cpu), home(&memory, &own_memory)];
        let trees = Trees { cpu: cpu.join(&path[1..]), memory: memory.join(&path[1..]), homes };
        std::fs::create_dir_all(trees.cpu.join("shim"))?;
        std::fs::create_dir_all(trees.memory.join("shim"))?;
        Ok(Group { path, v1: Some(trees) })
    }
}

fn home(mount: &Path, own: &str) -> PathBuf {
    mount.join(own.trim_start_matches('/')).join("tasks")
}

impl Drop for Groups {
    fn drop(&mut self) {
        let end = Instant::now() + Duration::from_secs(5);
        for mount in &self.mounts {
            let top = mount.join(&self.path[1..]);
            while top.exists() && Instant::now() < end {
                remove(&top);
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

/// Deepest first; a group whose processes have just died stays for another try.
fn remove(group: &Path) {
    for entry in group.read_dir().into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path());
        }
    }
    let _busy = std::fs::remove_dir(group);
}

impl Group {
    fn v1(&self) -> Outcome<&Trees> {
        Ok(self
            .v1
            .as_ref()
            .ok_or("CPU and memory are measured by cgroup v1's cpuacct and memory, which are not here")?)
    }

    /// Whether CPU and memory can be measured by it: cgroup v1 only.
    pub fn measures(&self) -> bool {
        self.v1.is_some()
    }

    /// Runs `start` with this thread in the group, so that what it starts is born there. The thread is moved by its own
    /// number in `tasks`, which on v1 waits for nobody.
    pub fn within<T>(&self, start: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
        let Some(trees) = &self.v1 else { return start() };
        for group in [&trees.cpu, &trees.memory] {
            std::fs::write(group.join("shim/tasks"), "0")?;
        }
        let started = start();
        for home in &trees.homes {
            std::fs::write(home, "0")?;
        }
        started
    }

    /// Nanoseconds of CPU used by everything that was ever in it.
    pub fn cpu(&self) -> Outcome<u64> {
        Ok(std::fs::read_to_string(self.v1()?.cpu.join("cpuacct.usage"))?.trim().parse()?)
    }

    /// Nanoseconds of CPU used by what was born in it itself, not by containers.
    pub fn cpu_of_shim(&self) -> Outcome<u64> {
        Ok(std::fs::read_to_string(self.v1()?.cpu.join("shim/cpuacct.usage"))?.trim().parse()?)
    }

    /// Fills the cpuset above the containers' groups, which every runtime does if it is empty.
    pub fn prepare(&self) -> Outcome {
        let Some((mount, _)) = controller("cpuset") else { return Ok(()) };
        let mut above = mount.clone();
        for part in self.path.split('/').filter(|part| !part.is_empty()) {
            let group = above.join(part);
            std::fs::create_dir_all(&group)?;
            for file in ["cpuset.cpus", "cpuset.mems"] {
                if std::fs::read_to_string(group.join(file))?.trim().is_empty() {
                    std::fs::write(group.join(file), std::fs::read_to_string(above.join(file))?)?;
                }
            }
            above = group;
        }
        for tree in mounts()? {
            let _there = std::fs::create_dir_all(tree.join(&self.path[1..]));
        }
        Ok(())
    }

    /// Waits until nothing runs in it.
    pub fn until_empty(&self) -> Outcome {
        let Some(trees) = &self.v1 else { return Ok(()) };
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let left = std::fs::read_to_string(trees.cpu.join("shim/cgroup.procs"))?;
            if left.is_empty() {
                return Ok(());
            }
            if Instant::now() > end {
                return Err(format!("{} never ended: {left}", self.path).into());
            }
            std::thread::sleep(Duration::from_micros(300));
        }
    }

    /// The pids that live in it, containers' included.
    pub fn pids(&self) -> Outcome<Vec<u32>> {
        let mut pids = Vec::new();
        for entry in self.v1()?.cpu.read_dir()?.flatten().filter(|entry| entry.path().is_dir()) {
            let text = std::fs::read_to_string(entry.path().join("cgroup.procs")).unwrap_or_default();
            pids.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
        }
        Ok(pids)
    }

    /// The groups of containers in it, on all hierarchies.
    ///
    /// Errors: the hierarchies cannot be found.
    pub fn children(&self) -> Outcome<usize> {
        let below = |mount: PathBuf| std::fs::read_dir(mount.join(&self.path[1..])).into_iter().flatten().flatten();
        let groups = mounts()?.into_iter().flat_map(below);
        Ok(groups.filter(|entry| entry.file_name() != "shim" && entry.path().is_dir()).count())
    }

    /// Ends what a failed case left.
    pub fn clear(&self) -> Outcome {
        if !self.measures() {
            return Ok(());
        }
        for pid in self.pids()?.into_iter().filter_map(|pid| rustix::process::Pid::from_raw(pid.cast_signed())) {
            let _gone = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        self.until_empty()
    }

    /// Bytes charged for what was born in it, containers left out: all, and the kernel's part.
    pub fn memory(&self) -> Outcome<(f64, f64)> {
        let memory = self.v1()?.memory.join("shim");
        let read = |file: &str| -> Outcome<f64> { Ok(std::fs::read_to_string(memory.join(file))?.trim().parse()?) };
        Ok((read("memory.usage_in_bytes")?, read("memory.kmem.usage_in_bytes")?))
    }
}

/// Mount points of all control group hierarchies.
fn mounts() -> Outcome<Vec<PathBuf>> {
    let text = std::fs::read_to_string("/proc/self/mountinfo")?;
    let of_cgroups = |line: &&str| line.contains(" - cgroup ") || line.contains(" - cgroup2 ");
    Ok(text.lines().filter(of_cgroups).filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from).collect())
}

/// The hierarchy of a v1 controller: its mount point and our own group in it.
fn controller(name: &str) -> Option<(PathBuf, String)> {
    let own = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = own.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let controllers = fields.next()?;
        controllers.split(',').any(|one| one == name).then(|| fields.next().map(str::to_owned))?
    })?;
    let text = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    let mount = text.lines().find_map(|line| {
        let (place, kind) = line.split_once(" - ")?;
        let options = kind.strip_prefix("cgroup ")?.rsplit(' ').next()?;
        options.split(',').any(|one| one == name).then(|| place.split(' ').nth(4).map(PathBuf::from))?
    })?;
    Some((mount, own))
}
