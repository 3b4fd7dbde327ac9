//! The runtime alone, `run` of `true` with a seccomp profile, beside the floor; and how many system calls everyone makes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::bed::{Bed, program};
use crate::bundle::{self, Bundle, Bundles, Wish};
use crate::exec::Standing;
use crate::group::Group;
use crate::report::Report;
use crate::{Outcome, number};

/// A runtime, called as on a command line.
pub struct Runtime {
    /// Its name in tables.
    pub name: &'static str,
    binary: PathBuf,
    /// For the floor: the file with its filter.
    filter: Option<PathBuf>,
}

/// mini.
pub fn mini(bed: &Bed) -> Runtime {
    Runtime { name: "mini", binary: bed.bin.join("mini"), filter: None }
}

/// mini, the others, and the floor twice: with a filter as libseccomp writes it and with the one that mini makes.
fn runtimes(bed: &Bed) -> Outcome<Vec<Runtime>> {
    let plain = |name, binary| Runtime { name, binary, filter: None };
    let mut all = vec![mini(bed), plain("runc", program("c2.1/bin/runc")?), plain("crun", program("c2.1/bin/crun")?)];
    if let Ok(youki) = program("peers/bin/youki") {
        all.push(plain("youki", youki));
    }
    let Some(floor) = floor() else { return Ok(all) };
    for (name, filter) in [("floor", linear()?), ("floor, mini's filter", minis()?)] {
        let file = bed.dir.join(format!("filter-{}", all.len()));
        std::fs::write(&file, filter)?;
        all.push(Runtime { name, binary: floor.clone(), filter: Some(file) });
    }
    Ok(all)
}

/// The floor, which knows cgroup v1 only; none where `scripts/bench` has not made it.
pub fn floor() -> Option<PathBuf> {
    std::env::var_os("MINI_BENCH_FLOOR").map(PathBuf::from)
}

/// The profile's filter as mini compiles it.
fn minis() -> Outcome<Vec<u8>> {
    let profile: runtime::spec::Seccomp = serde_json::from_value(bundle::profile()?)?;
    let available = runtime::seccomp::Available::read()?;
    let program = runtime::seccomp::compile(&profile, runtime::seccomp::Arch::NATIVE, &available)?;
    Ok(program.filter.iter().flat_map(|i| instruction(i.code, i.jt, i.jf, i.k)).collect())
}

/// The profile's filter as libseccomp writes it by default: one comparison after the other.
///
/// Errors: the recorded profile cannot be read.
pub fn linear() -> Outcome<Vec<u8>> {
    const LOAD: u16 = 0x20;
    const EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let (allow, errno) = (0x7fff_0000, 0x0005_0001);
    let profile = bundle::profile()?;
    let mut numbers: Vec<u32> = profile["syscalls"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|rule| rule["action"] == "SCMP_ACT_ALLOW" && rule["args"].as_array().is_none_or(Vec::is_empty))
        .flat_map(|rule| rule["names"].as_array().into_iter().flatten().filter_map(|name| name.as_str()))
        .filter_map(|name| runtime::seccomp::number(name, runtime::seccomp::Arch::NATIVE))
        .collect();
    numbers.sort_unstable();
    numbers.dedup();
    let mut code = instruction(LOAD, 0, 0, 4);
    code.extend(instruction(EQUAL, 1, 0, runtime::seccomp::Arch::NATIVE.audit()));
    code.extend(instruction(RETURN, 0, 0, errno));
    code.extend(instruction(LOAD, 0, 0, 0));
    for number in numbers {
        code.extend(instruction(EQUAL, 0, 1, number));
        code.extend(instruction(RETURN, 0, 0, allow));
    }
    code.extend(instruction(RETURN, 0, 0, errno));
    Ok(code)
}

fn instruction(code: u16, jt: u8, jf: u8, k: u32) -> Vec<u8> {
    [&code.to_ne_bytes()[..], &[jt, jf], &k.to_ne_bytes()[..]].concat()
}

/// A mounted bundle and the state directory of a runtime.
struct Place {
    id: String,
    group: String,
    state: PathBuf,
    bundle: Bundle,
}

impl Place {
    fn new(bundles: &Bundles, group: &Group) -> Outcome<Place> {
        let id = format!("alone-{}", number());
        let path = format!("{}/{id}", group.path);
        let bundle = bundles.make(&id, &Wish { args: &["true"], seccomp: true, cgroup: &path, pod: None })?;
        bundle.mount()?;
        let state = bundle.dir.join("state");
        std::fs::create_dir_all(&state)?;
        Ok(Place { id, group: path, state, bundle })
    }

    fn words(&self, runtime: &Runtime, action: &str) -> Vec<String> {
        let text = |path: &Path| path.display().to_string();
        let mut words = vec![text(&runtime.binary)];
        if let Some(filter) = &runtime.filter {
            let root = text(&self.bundle.dir.join("rootfs"));
            words.extend(["run".into(), root, self.group.clone(), text(filter), self.id.clone(), "/bin/true".into()]);
            return words;
        }
        words.extend(["--root".into(), text(&self.state), action.into()]);
        if matches!(action, "run" | "create") {
            words.extend(["--bundle".into(), text(&self.bundle.dir)]);
        }
        words.push(self.id.clone());
        words
    }

    /// With a file for its streams, as engines give it files and pipes: where one is the host's /dev/null, runtimes look for the
    /// container's.
    fn command(&self, words: &[String]) -> Outcome<Command> {
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).current_dir(&self.bundle.dir);
        let streams =
            std::fs::File::options().read(true).append(true).create(true).open(self.bundle.dir.join("streams"))?;
        command.stdin(streams.try_clone()?).stdout(streams.try_clone()?).stderr(streams);
        Ok(command)
    }

    fn finish(&self, words: &[String]) -> Outcome {
        ended(words, self.command(words)?.status()?)
    }
}

fn ended(words: &[String], status: std::process::ExitStatus) -> Outcome {
    if status.success() { Ok(()) } else { Err(format!("{}: {status}", words.join(" ")).into()) }
}

/// `run`.
pub fn run(bed: &Bed, report: &mut Report) -> Outcome {
    let runtimes = runtimes(bed)?;
    let groups = runtimes.iter().map(|r| parent(bed, r.name)).collect::<Outcome<Vec<_>>>()?;
    for round in bed.turns(1, 20, 40) {
        for n in (0..runtimes.len()).map(|n| (n + round) % runtimes.len()) {
            let (runtime, group) = (&runtimes[n], &groups[n]);
            let place = Place::new(&bed.bundles, group)?;
            let words = place.words(runtime, "run");
            let before = group.cpu()?;
            let started = Instant::now();
            let mut child = group.within(|| Ok(place.command(&words)?.spawn()?))?;
            ended(&words, child.wait()?)?;
            let took = started.elapsed();
            if round > 0 {
                report.add("alone", "run", "ms", runtime.name, took.as_secs_f64() * 1e3);
                report.add("alone", "CPU of the tree", "ms", runtime.name, (group.cpu()? - before) as f64 / 1e6);
            }
        }
    }
    Ok(())
}

/// A group whose cpuset has been filled, which the floor takes for granted.
pub fn parent(bed: &Bed, name: &str) -> Outcome<Group> {
    let group = bed.group(&format!("alone-{}", name.replace([' ', ','], "-")))?;
    group.prepare()?;
    Ok(group)
}

/// System calls by name.
pub type Counts = BTreeMap<String, u64>;

/// The sum of all.
pub fn sum(counts: &Counts) -> u64 {
    counts.values().sum()
}

/// Processes and threads made.
pub fn clones(counts: &Counts) -> u64 {
    ["clone", "clone3", "fork", "vfork"].iter().filter_map(|name| counts.get(*name)).sum()
}

/// Programs executed.
pub fn execves(counts: &Counts) -> u64 {
    ["execve", "execveat"].iter().filter_map(|name| counts.get(*name)).sum()
}

/// Reads `strace -c`: time, seconds, microseconds per call, calls, errors (may be empty), name.
pub fn counted(file: &Path) -> Outcome<Counts> {
    let text = std::fs::read_to_string(file)?;
    let row = |line: &str| -> Option<(String, u64)> {
        let cells: Vec<&str> = line.split_whitespace().collect();
        let name = *cells.last()?;
        (cells.len() >= 5 && name != "total" && name != "syscall")
            .then(|| Some((name.to_owned(), cells[3].parse().ok()?)))?
    };
    Ok(text.lines().filter_map(row).collect())
}

/// Keeps strace's table, system calls with their wall time, for whoever asks where the time goes.
fn keep(bed: &Bed, table: &Path, name: &str) -> Outcome {
    if bed.keeps {
        let dir = bed.out.join("calls");
        std::fs::create_dir_all(&dir)?;
        std::fs::copy(table, dir.join(format!("{}.txt", name.replace(", ", "-").replace([' ', '\''], "-"))))?;
    }
    Ok(())
}

fn add(to: &mut Counts, from: Counts) {
    for (name, count) in from {
        *to.entry(name).or_default() += count;
    }
}

/// What a whole life by commands takes: create, start and delete, or the floor's one command. `true`'s own calls are in it.
pub fn by_commands(bed: &Bed, runtime: &Runtime, group: &Group) -> Outcome<Counts> {
    let place = Place::new(&bed.bundles, group)?;
    let traced = |action: &str| {
        let file = place.bundle.dir.join(format!("{action}.calls"));
        let mut words: Vec<String> = ["strace", "-f", "-c", "-w", "-o"].map(str::to_owned).to_vec();
        words.push(file.display().to_string());
        words.extend(place.words(runtime, action));
        (words, file)
    };
    if runtime.filter.is_some() {
        let (words, file) = traced("run");
        place.finish(&words)?;
        keep(bed, &file, runtime.name)?;
        return counted(&file);
    }
    // strace goes with create until the container's process has ended.
    let (create, created) = traced("create");
    let mut creating = place.command(&create)?.spawn()?;
    let state = place.words(runtime, "state");
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        let answer = place.command(&state)?.stdout(Stdio::piped()).output()?;
        if String::from_utf8_lossy(&answer.stdout).contains("\"created\"") {
            break;
        }
        if Instant::now() > end || creating.try_wait()?.is_some() {
            return Err(format!("{}: nothing was created", create.join(" ")).into());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let (start, started) = traced("start");
    place.finish(&start)?;
    ended(&create, creating.wait()?)?;
    let (delete, deleted) = traced("delete");
    place.finish(&delete)?;
    let mut all = Counts::new();
    for (step, file) in [("create", created), ("start", started), ("delete", deleted)] {
        keep(bed, &file, &format!("{}-{step}", runtime.name))?;
        add(&mut all, counted(&file)?);
    }
    Ok(all)
}

/// Counts what a shim and all that it starts do meanwhile.
pub fn counting<T>(bed: &Bed, pid: u32, name: &str, job: impl FnOnce() -> Outcome<T>) -> Outcome<(T, Counts)> {
    let file = bed.dir.join(format!("calls-{}", number()));
    let mut strace = Command::new("strace")
        .args(["-f", "-c", "-w", "-o", &file.display().to_string(), "-p", &pid.to_string()])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let end = Instant::now() + Duration::from_secs(30);
    let traced = || -> Outcome<bool> {
        // All threads: Go's do the work on any of them.
        for thread in std::fs::read_dir(format!("/proc/{pid}/task"))? {
            // One that has ended meanwhile is asked for no more.
            let Ok(status) = std::fs::read_to_string(thread?.path().join("status")) else { return Ok(false) };
            let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:")).map(str::trim);
            if tracer != Some(&strace.id().to_string()) {
                return Ok(false);
            }
        }
        Ok(true)
    };
    while !traced()? {
        if Instant::now() > end {
            return Err("strace does not attach".into());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let done = job();
    let strace_pid = rustix::process::Pid::from_child(&strace);
    rustix::process::kill_process(strace_pid, rustix::process::Signal::INT)?;
    strace.wait()?;
    keep(bed, &file, name)?;
    Ok((done?, counted(&file)?))
}

/// System calls, executions and clones: of a life by commands, of a pod's member, of an exec.
pub fn calls(bed: &Bed, report: &mut Report) -> Outcome {
    for runtime in runtimes(bed)? {
        let group = parent(bed, runtime.name)?;
        let counts = match by_commands(bed, &runtime, &group) {
            Ok(counts) => counts,
            Err(error) => {
                report.note(format!("{}, traced: {error}", runtime.name));
                continue;
            }
        };
        report.add("calls", "create, start, delete", "calls", runtime.name, sum(&counts) as f64);
        report.add("calls", "execve of them", "calls", runtime.name, execves(&counts) as f64);
        report.add("calls", "clone of them", "calls", runtime.name, clones(&counts) as f64);
    }
    let process = bundle::process(false, &["true"])?;
    bed.each(report, |peer, group, report| {
        let mut standing = Standing::new(bed, peer, group, false)?;
        let shim = parent_of(standing.pid)?;
        // The first ones make what later ones reuse.
        standing.member(bed, group)?;
        standing.exec(&process)?;
        let (_, member) = counting(bed, shim, &format!("{}-member", peer.name), || standing.member(bed, group))?;
        let (_, exec) = counting(bed, shim, &format!("{}-exec", peer.name), || standing.exec(&process))?;
        for (name, counts) in [("a member", member), ("an exec", exec)] {
            report.add("calls", format!("shim and runtime for {name}"), "calls", peer.name, sum(&counts) as f64);
            report.add("calls", format!("execve of {name}"), "calls", peer.name, execves(&counts) as f64);
            report.add("calls", format!("clone of {name}"), "calls", peer.name, clones(&counts) as f64);
        }
        standing.end(bed, peer, group)?;
        group.until_empty()
    })
}

/// The shim of a container: the parent of its init.
pub fn parent_of(pid: u32) -> Outcome<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let parent: u32 = status.lines().find_map(|line| line.strip_prefix("PPid:")).ok_or("no parent")?.trim().parse()?;
    let name = std::fs::read_to_string(format!("/proc/{parent}/comm"))?;
    if !name.starts_with("containerd-shim") {
        return Err(format!("the parent of {pid} is {parent}, {name}, which is no shim").into());
    }
    Ok(parent)
}
