//! Limits, their change in place, what happens when they are reached, and what is measured.

use integration::containerd::LIMIT;
use integration::cri::{Pod, with};
use integration::{Bed, Case, Outcome, cases, ensure, eventually};
use serde_json::{Value, json};

use crate::pods::SLEEPER;

pub const CASES: &[Case] = cases![
    limits_at_the_start,
    below_the_pods_group,
    killed_for_memory,
    child_killed_for_memory,
    resized_in_place,
    statistics_of_containers,
    statistics_of_pods,
    statistics_of_short_lives,
];

const MIB: u64 = 1 << 20;

/// A file of the container's group on a v1 hierarchy.
fn group_file(pod: &Pod, id: &str, hierarchy: &str, file: &str) -> Outcome<String> {
    let path = pod.cgroup(hierarchy)?.join(id).join(file);
    Ok(std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?.trim().to_owned())
}

fn limited(resources: Value) -> Value {
    json!({ "linux": { "resources": resources } })
}

fn limits_at_the_start(bed: &Bed) -> Outcome {
    with(bed, |cri| {
        let pod = cri.pod(json!({}))?;
        let resources = json!({ "memory_limit_in_bytes": 64 * MIB, "cpu_quota": 50000, "cpu_period": 100_000,
            "cpu_shares": 512, "cpuset_cpus": "0", "oom_score_adj": 500 });
        let id = pod.run("one", SLEEPER, limited(resources))?;
        for (hierarchy, file, value) in [
            ("memory", "memory.limit_in_bytes", (64 * MIB).to_string()),
            ("cpu", "cpu.cfs_quota_us", "50000".to_owned()),
            ("cpu", "cpu.shares", "512".to_owned()),
            ("cpuset", "cpuset.cpus", "0".to_owned()),
        ] {
            let found = group_file(&pod, &id, hierarchy, file)?;
            ensure!(found == value, "{file} is {found}, not {value}");
        }
        let inside =
            pod.exec(&id, "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /proc/1/oom_score_adj; nproc")?.ok()?;
        ensure!(inside == format!("{}\n500\n1\n", 64 * MIB), "inside: {inside}");
        Ok(())
    })
}

fn below_the_pods_group(bed: &Bed) -> Outcome {
    with(bed, |cri| {
        let pod = cri.pod(json!({}))?;
        let id = pod.run("one", SLEEPER, json!({}))?;
        for (id, pid) in [(&id, pod.pid(&id)?), (&pod.id, pod.pause_pid()?)] {
            let groups = std::fs::read_to_string(bed.containerd.host.path(format!("/proc/{pid}/cgroup")))?;
            let parent = pod.config["linux"]["cgroup_parent"].as_str().unwrap_or_default();
            let wrong = groups.lines().find(|line| {
                let mut fields = line.splitn(3, ':').skip(1);
                let (_, path) = (fields.next(), fields.next().unwrap_or_default());
                !path.ends_with(&format!("{parent}/{id}"))
            });
            ensure!(wrong.is_none(), "{pid} is not in {parent}/{id}: {wrong:?}");
        }
        Ok(())
    })
}

fn killed_for_memory(bed: &Bed) -> Outcome {
    with(bed, |cri| {
        let pod = cri.pod(json!({}))?;
        let neighbour = pod.run("neighbour", SLEEPER, json!({}))?;
        let limit = limited(json!({ "memory_limit_in_bytes": 16 * MIB, "memory_swap_limit_in_bytes": 16 * MIB }));
        let id = pod.run("eater", "exec tail /dev/zero", limit)?;
        let status = pod.wait_exited(&id)?;
        ensure!(status["exit_code"] == 137, "{status}");
        eventually(LIMIT, || {
            let status = pod.status(&id)?;
            ensure!(status["reason"] == "OOMKilled", "the reason is {}", status["reason"]);
            Ok(())
        })?;
        ensure!(pod.status(&neighbour)?["state"] == "CONTAINER_RUNNING", "the neighbour died too");
        Ok(())
    })
}

fn child_killed_for_memory(bed: &Bed) -> Outcome {
    with(bed, |cri| {
        let pod = cri.pod(json!({}))?;
        let limit = limited(json!({ "memory_limit_in_bytes": 16 * MIB, "memory_swap_limit_in_bytes": 16 * MIB }));
        let id = pod.run(
            "parent",
            "(echo 1000 >/proc/self/oom_score_adj; exec tail /dev/zero); echo child ended with $?; exit 3",
            limit,
        )?;
        let status = pod.wait_exited(&id)?;
        ensure!(status["exit_code"] == 3, "{status}");
        // Two streams: their order in the log is anybody's.
        let log = pod.log("parent")?;
        ensure!(log.contains("Killed\n") && log.contains("child ended with 137\n"), "the log: {log:?}");
        Ok(())
    })
}

fn resized_in_place(bed: &Bed) -> Outcome {
    with(bed, |cri| {
        let pod = cri.pod(json!({}))?;
        let id = pod.run(
            "one",
            SLEEPER,
            limited(json!({ "memory_limit_in_bytes": 64 * MIB, "cpu_quota": 20000, "cpu_period": 100_000 })),
        )?;
        let pid = pod.pid(&id)?;
        let update =
            |resources: Value| cri.call("UpdateContainerResources", json!({ "container_id": id, "linux": resources }));
        update(json!({ "memory_limit_in_bytes": 128 * MIB }))?;
        let (memory, quota) = (
            group_file(&pod, &id, "memory", "memory.limit_in_bytes")?,
            group_file(&pod, &id, "cpu", "cpu.cfs_quota_us")?,
        );
        ensure!(memory == (128 * MIB).to_string() && quota == "20000", "memory {memory}, quota {quota}");
        update(json!({ "cpu_quota": 70000, "cpu_period": 100_000, "cpu_shares": 2048 }))?;
        let (shares, quota) =
            (group_file(&pod, &id, "cpu", "cpu.shares")?, group_file(&pod, &id, "cpu", "cpu.cfs_quota_us")?);
        ensure!(shares == "2048" && quota == "70000", "shares {shares}, quota {quota}");
        update(json!({ "memory_limit_in_bytes": 32 * MIB }))?;
        let memory = group_file(&pod, &id, "memory", "memory.limit_in_bytes")?;
        ensure!(memory == (32 * MIB).to_string(), "memory {memory}");
        ensure!(pod.pid(&id)? == pid && pod.exec(&id, "true")?.code == 0, "the container did not live through it");
        // Before the start, too: the kubelet may resize what it has only created.
        let created = pod.create("two", SLEEPER, limited(json!({ "memory_limit_in_bytes": 64 * MIB })))?;
        cri.call(
            "UpdateContainerResources",
            json!({ "container_id": created, "linux": { "memory_limit_in_bytes": 48 * MIB } }),
        )?;
        pod.start(&created)?;
        let memory = group_file(&pod, &created, "memory", "memory.limit_in_bytes")?;
        ensure!(memory == (48 * MIB).to_string(), "of the created one: {memory}");
        Ok(())
    })
}

/// A number of a reply: 64 bits are strings in protobuf's JSON.
fn number(value: &Value) -> u64 {
    value.as_u64().or_else(|| value.as_str()?.parse().ok()).unwrap_or(0)
}

fn statistics_of_containers(bed: &Bed) -> Outcome {
    with(bed, |cri| {
        let pod = cri.pod(json!({}))?;
        let script = "head -c 8388608 /dev/zero >/dev/shm/block; i=0; while [ $i -lt 50000 ]; do i=$((i+1)); done; echo done; exec sleep 100000";
        let id = pod.run("one", script, limited(json!({ "memory_limit_in_bytes": 64 * MIB })))?;
        eventually(LIMIT, || {
            ensure!(pod.log("one")? == "done\n", "still busy");
            Ok(())
        })?;
        let stats = cri.call("ContainerStats", json!({ "container_id": id }))?["stats"].clone();
        let (cpu, memory) = (&stats["cpu"], &stats["memory"]);
        ensure!(number(&cpu["usage_core_nano_seconds"]["value"]) > 1_000_000, "cpu: {cpu}");
        let set = number(&memory["working_set_bytes"]["value"]);
        ensure!((8 * MIB..64 * MIB).contains(&set), "memory: {memory}");
        ensure!(stats["attributes"]["id"] == id.as_str(), "{stats}");
        let all = cri.call("ListContainerStats", json!({ "filter": { "pod_sandbox_id": pod.id } }))?;
        ensure!(all["stats"].as_array().is_some_and(|all| all.len() == 1), "{all}");
        cri.crictl(&["stats", "--output", "json", "--id", &id])?.ok()?.says(&id)?;
        Ok(())
    })
}

fn statistics_of_pods(bed: &Bed) -> Outcome {
    with(bed, |cri| {
        let pod = cri.pod(json!({}))?;
        for name in ["one", "two"] {
            pod.run(name, SLEEPER, json!({}))?;
        }
        eventually(LIMIT, || {
            let reply = cri.call("PodSandboxStats", json!({ "pod_sandbox_id": pod.id }))?;
            let stats = &reply["stats"]["linux"];
            ensure!(stats["containers"].as_array().is_some_and(|all| all.len() == 2), "the containers: {stats}");
            // A shell with its sleep twice; CRI does not count pause.
            ensure!(number(&stats["process"]["process_count"]["value"]) == 4, "processes: {}", stats["process"]);
            let sent = number(&stats["network"]["default_interface"]["tx_bytes"]["value"]);
            ensure!(sent > 0, "network: {}", stats["network"]);
            let memory = number(&stats["memory"]["working_set_bytes"]["value"]);
            ensure!(memory > 0, "memory: {}", stats["memory"]);
            Ok(())
        })?;
        cri.crictl(&["statsp", "--output", "json", "--id", &pod.id])?.ok()?.says(&pod.id)?;
        Ok(())
    })
}

fn statistics_of_short_lives(bed: &Bed) -> Outcome {
    with(bed, |cri| {
        let pod = cri.pod(json!({}))?;
        let id = pod.run("one", "true", json!({}))?;
        pod.wait_exited(&id)?;
        // What has exited has no figures, and does not disturb those of the others.
        pod.run("two", SLEEPER, json!({}))?;
        let all = cri.call("ListContainerStats", json!({ "filter": { "pod_sandbox_id": pod.id } }))?;
        let found = all["stats"]
            .as_array()
            .is_some_and(|all| all.iter().any(|one| one["attributes"]["metadata"]["name"] == "two"));
        ensure!(found, "{all}");
        Ok(())
    })
}
