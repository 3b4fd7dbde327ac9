//! Resources: each flag of `docker run` and of `docker update` in the files of the container's groups, and `docker stats`
//! beside them. On v1 these are the names; in the guest `integration/guest/docker` has those of v2.

use crate::state::limit;
use integration::containerd::LIMIT;
use integration::{Docker, Outcome, ensure, eventually};

/// Fails unless the first of the files that exists begins with the word.
fn has(docker: &Docker, id: &str, files: &[&str], expected: &str) -> Outcome {
    let value = limit(docker, id, files)?;
    ensure!(value == expected || value.split(' ').next() == Some(expected), "{files:?} of {id} is {value:?}");
    Ok(())
}

/// Flag, value, files (of v1 and v2), and what is in them then. `memory-swap` is with the memory on v1.
type Field = (&'static str, &'static str, &'static [&'static str], &'static str);

const FIELDS: &[Field] = &[
    ("--memory", "96m", &["memory.limit_in_bytes", "memory.max"], "100663296"),
    ("--memory-swap", "128m", &["memory.memsw.limit_in_bytes"], "134217728"),
    ("--memory-reservation", "48m", &["memory.soft_limit_in_bytes", "memory.low"], "50331648"),
    ("--cpu-shares", "300", &["cpu.shares"], "300"),
    ("--cpu-period", "50000", &["cpu.cfs_period_us"], "50000"),
    ("--cpu-quota", "20000", &["cpu.cfs_quota_us", "cpu.max"], "20000"),
    ("--cpuset-cpus", "0", &["cpuset.cpus"], "0"),
    ("--cpuset-mems", "0", &["cpuset.mems"], "0"),
    ("--pids-limit", "44", &["pids.max"], "44"),
];

pub fn each_flag_in_the_files(docker: &Docker) -> Outcome {
    let flags: Vec<&str> = FIELDS.iter().flat_map(|field| [field.0, field.1]).collect();
    let id = docker.sleeper(&flags)?;
    FIELDS.iter().try_for_each(|(_, _, files, expected)| has(docker, &id, files, expected))?;
    let id = docker.sleeper(&["--memory", "64m", "--memory-swap", "-1", "--memory-swappiness", "10"])?;
    has(docker, &id, &["memory.swappiness"], "10")?;
    let unlimited = limit(docker, &id, &["memory.memsw.limit_in_bytes"])?.parse::<u64>()?;
    ensure!(unlimited > 1 << 60, "memory with swap is limited to {unlimited}");
    let id = docker.sleeper(&["--memory", "64m", "--oom-kill-disable"])?;
    has(docker, &id, &["memory.oom_control"], "oom_kill_disable 1\nunder_oom 0\noom_kill 0")?;
    throttled_devices(docker)
}

fn throttled_devices(docker: &Docker) -> Outcome {
    let disks = std::fs::read_dir("/sys/block")?.flatten().map(|entry| entry.file_name());
    let disk = disks
        .map(|name| format!("/dev/{}", name.to_string_lossy()))
        .find(|path| docker.containerd.host.path(path).exists());
    let disk = disk.ok_or("this machine has no block device")?;
    let name = disk.trim_start_matches("/dev/");
    let number = std::fs::read_to_string(format!("/sys/block/{name}/dev"))?;
    let bytes = format!("{disk}:1mb");
    let count = format!("{disk}:77");
    let flags = [
        ("--device-read-bps", &bytes, "blkio.throttle.read_bps_device", "1048576"),
        ("--device-write-bps", &bytes, "blkio.throttle.write_bps_device", "1048576"),
        ("--device-read-iops", &count, "blkio.throttle.read_iops_device", "77"),
        ("--device-write-iops", &count, "blkio.throttle.write_iops_device", "77"),
    ];
    let words: Vec<&str> = flags.iter().flat_map(|(flag, value, ..)| [*flag, value.as_str()]).collect();
    let id = docker.sleeper(&words)?;
    for (_, _, file, expected) in flags {
        let value = limit(docker, &id, &[file])?;
        ensure!(value == format!("{} {expected}", number.trim()), "{file} is {value:?}");
    }
    // The words are dockerd's, and the client takes them for those of a missing program.
    docker.run(&["--device-read-bps", "/dev/no-disk:1mb"], &["true"])?.exited(127)?.failed_with("stat /dev/no-disk")?;
    Ok(())
}

pub fn what_dockerd_refuses(docker: &Docker) -> Outcome {
    for (flags, words) in [
        (&["--gpus", "all"][..], "could not select device driver \"\" with capabilities: [[gpu]]"),
        (&["--memory", "1m"], "Minimum memory limit allowed is 6MB"),
        (&["--memory", "64m", "--memory-swap", "32m"], "Minimum memoryswap limit should be larger than memory limit"),
        (&["--memory-swap", "64m"], "You should always set the Memory limit when using Memoryswap limit"),
        (&["--cpus", "1000"], "range of CPUs is from 0.01 to"),
        (&["--cpus", "1", "--cpu-quota", "1000"], "Nano CPUs and CPU Quota cannot both be set"),
        (&["--cpuset-cpus", "500"], "Requested CPUs are not available"),
        (&["--cpu-rt-runtime", "2000000", "--cpu-rt-period", "1000000"], "cpu real-time"),
        (&["--ulimit", "nofile=9:3"], "ulimit soft limit must be less than or equal to hard limit"),
        (&["--device-cgroup-rule", "x 1:1 rwm"], "invalid device cgroup format"),
        (&["--pid", "container:no-such"], "No such container: no-such"),
        (&["--hostname", "x", "--uts", "host"], "conflicting options"),
    ] {
        docker.run(flags, &["true"])?.exited(125)?.failed_with(words)?;
    }
    // The client takes words of dockerd's for those of a missing program.
    docker.run(&["--device", "/dev/no-such"], &["true"])?.exited(127)?.failed_with("gathering device information")?;
    Ok(())
}

pub fn update_of_every_field(docker: &Docker) -> Outcome {
    let id = docker.id();
    let script = "trap 'exit 0' TERM; echo; sleep 1000 & wait";
    docker.docker(&docker.words("create", &["--name", &id], &["sh", "-c", script]))?.ok()?;
    let update = |words: &[&str]| docker.docker(&[&["update"], words, &[&id]].concat());
    update(&["--memory", "64m", "--memory-swap", "64m", "--pids-limit", "11"])?.ok()?;
    docker.docker(&["start", &id])?.ok()?;
    has(docker, &id, FIELDS[0].2, "67108864")?;
    has(docker, &id, FIELDS[8].2, "11")?;
    // Memory needs its own limit for swap at once; each of the others goes alone.
    update(&["--memory", "96m", "--memory-swap", "128m"])?.ok()?;
    for (flag, value, ..) in &FIELDS[2..] {
        update(&[flag, value])?.ok()?;
    }
    FIELDS.iter().try_for_each(|(_, _, files, expected)| has(docker, &id, files, expected))?;
    docker.docker(&["pause", &id])?.ok()?;
    update(&["--cpu-shares", "400"])?.ok()?;
    has(docker, &id, FIELDS[3].2, "400")?;
    docker.docker(&["unpause", &id])?.ok()?;
    // What the kernel refuses is told, and what was there before stays.
    update(&["--cpuset-cpus", "500"])?.failed_with("Requested CPUs are not available")?;
    update(&["--memory", "1m"])?.failed_with("Minimum memory limit allowed is 6MB")?;
    update(&["--memory", "256m"])?.failed_with("Memory limit should be smaller than already set memoryswap limit")?;
    has(docker, &id, FIELDS[0].2, "100663296")?;
    docker.exec(&[], &id, "echo it lives")?.ok()?.says("it lives\n")?;
    docker.docker(&["restart", "--time", "1", &id])?.ok()?;
    for (index, (_, _, files, expected)) in FIELDS.iter().enumerate() {
        has(docker, &id, files, if index == 3 { "400" } else { expected })?;
    }
    Ok(())
}

/// While the group is frozen its numbers stand still: docker's are the same as in the files, to the byte.
pub fn stats_are_what_the_files_say(docker: &Docker) -> Outcome {
    let script = "head -c 3000000 /dev/zero > /file; sleep 1000 & echo; wait";
    let id = docker.detached(&["--memory", "64m", "--pids-limit", "55"], &["sh", "-c", script])?;
    crate::run::lives(docker, &id, 1)?;
    docker.docker(&["pause", &id])?.ok()?;
    let path = format!("/containers/{id}/stats?stream=0&one-shot=1");
    let file = |files: &[&str]| -> Outcome<u64> { Ok(limit(docker, &id, files)?.parse()?) };
    eventually(LIMIT, || {
        let stats = docker.api(&path)?;
        for (pointer, files) in [
            ("/cpu_stats/cpu_usage/total_usage", "cpuacct.usage"),
            ("/memory_stats/usage", "memory.usage_in_bytes"),
            ("/memory_stats/max_usage", "memory.max_usage_in_bytes"),
            ("/memory_stats/limit", "memory.limit_in_bytes"),
            ("/pids_stats/current", "pids.current"),
            ("/pids_stats/limit", "pids.max"),
        ] {
            let said = stats.pointer(pointer).and_then(serde_json::Value::as_u64);
            let kept = file(&[files])?;
            ensure!(said == Some(kept), "{pointer} is {said:?}, {files} {kept}");
        }
        let lines = limit(docker, &id, &["memory.stat"])?;
        let of_docker =
            stats.pointer("/memory_stats/stats").and_then(serde_json::Value::as_object).ok_or("no stats")?;
        for name in
            ["rss", "cache", "mapped_file", "inactive_anon", "pgfault", "total_rss", "hierarchical_memory_limit"]
        {
            let kept = lines.lines().find_map(|line| line.strip_prefix(&format!("{name} "))).ok_or("no such line")?;
            let said = of_docker.get(name).map(ToString::to_string);
            ensure!(said.as_deref() == Some(kept), "{name} is {said:?}, not {kept}");
        }
        Ok(())
    })?;
    let line = docker.docker(&["stats", "--no-stream", "--format", "{{.PIDs}} {{.MemUsage}}", &id])?.ok()?.text();
    ensure!(line.starts_with("2 ") && line.ends_with("/ 64MiB\n"), "docker stats says {line:?}");
    // Of all containers at once, and without one that runs.
    docker.docker(&["stats", "--no-stream", "--all"])?.ok()?.says(&id)?;
    docker.docker(&["kill", &id])?.ok()?;
    docker.docker(&["wait", &id])?.ok()?;
    docker.docker(&["stats", "--no-stream", "--format", "{{.PIDs}}", &id])?.ok()?.says("0\n")?;
    Ok(())
}

/// Where dockerd finds no weights in the kernel it says so, and the container runs without.
pub fn block_weight(docker: &Docker) -> Outcome {
    let id = docker.id();
    let words = docker.words("run", &["--detach", "--name", &id, "--blkio-weight", "300"], &["sleep", "1000"]);
    let output = docker.docker(&words)?.ok()?;
    let weight = limit(docker, &id, &["blkio.weight", "blkio.bfq.weight", "io.bfq.weight"]).unwrap_or_default();
    let discarded = output.errors().contains("Weight discarded");
    ensure!(discarded != weight.ends_with("300"), "the weight is {weight:?}\n{}", output.report());
    Ok(())
}
