//! Another version of containerd takes over pods that run, with somebody attached to one of them.

use integration::containerd::LIMIT;
use integration::cri::{self, Cri, Pod};
use integration::{Bed, Case, Outcome, Version, cases, ensure, eventually};
use serde_json::json;

use crate::counter::Counter;
use crate::faults::{gone, on_node};
use crate::pods::SLEEPER;

pub const CASES: &[Case] = cases![pods_run_on_under_another_version];

/// What follows on a version: every later generation, and from the newest the way back.
fn following(version: Version) -> &'static [Version] {
    match version {
        Version::C1_6 | Version::C1_7 => &[Version::C2_1, Version::C2_3],
        Version::C2_1 => &[Version::C2_3],
        Version::C2_3 => &[Version::C2_1],
    }
}

/// Somebody attaches, speaks until an answer comes, and stays.
fn attach(cri: &Cri, id: &str) -> Outcome<integration::client::Running> {
    let mut client = cri.crictl_start(&["attach", "--stdin", id])?;
    eventually(LIMIT, || {
        client.write(b"word\n")?;
        ensure!(client.has_said("got word\n"), "nothing comes back");
        Ok(())
    })?;
    Ok(client)
}

/// All that a pod can be asked for works.
fn works(cri: &Cri, pod: &Pod, id: &str, attempt: usize) -> Outcome {
    ensure!(pod.state()? == "SANDBOX_READY", "the pod is {}", pod.state()?);
    ensure!(pod.status(id)?["state"] == "CONTAINER_RUNNING", "{}", pod.status(id)?);
    ensure!(pod.exec(id, "echo inside; exit 3")?.code == 3, "no exit code 3");
    let update = json!({ "memory_limit_in_bytes": (64 + attempt) << 20 });
    cri.call("UpdateContainerResources", json!({ "container_id": id, "linux": update }))?;
    let stats = cri.call("ContainerStats", json!({ "container_id": id }))?["stats"].clone();
    ensure!(stats["memory"]["working_set_bytes"]["value"].is_string(), "{stats}");
    let name = format!("new-{attempt}");
    let log = pod.output(&name, "echo a new member", json!({}))?;
    ensure!(log == "a new member\n", "{log:?}");
    let parent = cri.bed().containerd.host.parent(pod.pid(id)?)?;
    ensure!(parent == pod.shim()?, "{parent} is the parent, and not the pod's shim");
    Ok(())
}

fn pods_run_on_under_another_version(bed: &Bed) -> Outcome {
    on_node(bed, |cri| {
        let pod = cri.pod(json!({}))?;
        let counter = Counter::start(bed, &pod)?;
        let reader =
            "while read -r line; do [ \"$line\" != end ] || exit 6; echo \"got $line\"; done; echo end of input";
        let reader = pod.run("reader", reader, json!({ "stdin": true }))?;
        let quiet = pod.run("quiet", SLEEPER, json!({}))?;
        let pids = || -> Outcome<Vec<u32>> {
            Ok(vec![pod.shim()?, pod.pause_pid()?, pod.pid(&counter.id)?, pod.pid(&reader)?, pod.pid(&quiet)?])
        };
        let before = pids()?;
        let mut attached = attach(cri, &reader)?;
        for (attempt, version) in following(bed.version()).iter().enumerate() {
            counter.kill_containerd()?;
            cri::replaced_by(&bed.containerd, *version)?;
            cri.wait_ready()?;
            // Whoever was attached was so through containerd; the container must not take its end for the end of the input.
            attached.wait()?;
            let now = pids()?;
            ensure!(now == before, "under {version} the processes are {now:?}, not {before:?}");
            works(cri, &pod, &quiet, attempt)?;
            attached = attach(cri, &reader)?;
        }
        counter.check()?;
        attached.write(b"end\n")?;
        let status = pod.wait_exited(&reader)?;
        ensure!(status["exit_code"] == 6, "the reader: {status}\n{}", pod.log("reader")?);
        attached.wait()?;
        cri.call("StopContainer", json!({ "container_id": quiet, "timeout": 30 }))?;
        ensure!(pod.wait_exited(&quiet)?["exit_code"].as_i64().unwrap_or(0) == 0, "{}", pod.status(&quiet)?);
        cri.remove_pod(&pod.id)?;
        gone(bed, before[0], "the shim")
    })
}
