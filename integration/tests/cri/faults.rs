//! containerd, the shim and pause die in every order; pods and their ends are not lost, and nothing stays.
//!
//! Each test has a containerd for itself, and the harness compares its host with what was there before.

use integration::containerd::LIMIT;
use integration::cri::{self, Cri, Pod, with};
use integration::{Bed, Case, Outcome, cases, ensure, eventually};
use serde_json::json;

use crate::counter::Counter;
use crate::pods::SLEEPER;

pub const CASES: &[Case] = cases![
    restart_under_running_pods,
    exit_while_containerd_is_down,
    pause_exit_while_containerd_is_down,
    pause_gone_first,
    pause_removed_first,
    shim_killed,
    shim_killed_while_containerd_is_down,
    removal_after_a_restart,
    containerd_killed_during_a_removal,
];

/// A node of the test's own.
pub fn on_node(bed: &Bed, test: impl FnOnce(&Cri) -> Outcome) -> Outcome {
    cri::prepare(&bed.containerd)?;
    with(bed, test)
}

pub fn gone(bed: &Bed, pid: u32, what: &str) -> Outcome {
    eventually(LIMIT, || {
        ensure!(!bed.containerd.host.lives(pid), "{what} ({pid}) lives");
        Ok(())
    })
}

fn wait_not_ready(pod: &Pod) -> Outcome {
    eventually(LIMIT, || {
        ensure!(pod.state()? == "SANDBOX_NOTREADY", "the pod is {}", pod.state()?);
        Ok(())
    })
}

fn restart_under_running_pods(bed: &Bed) -> Outcome {
    on_node(bed, |cri| {
        let (pod, other) = (cri.pod(json!({}))?, cri.pod(json!({}))?);
        let counter = Counter::start(bed, &pod)?;
        let id = counter.id.clone();
        let quiet = other.run("quiet", SLEEPER, json!({}))?;
        let (pid, shim) = (pod.pid(&id)?, pod.shim()?);
        for _ in 0..3 {
            counter.kill_containerd()?;
            bed.containerd.restart()?;
            cri.wait_ready()?;
            ensure!(pod.pid(&id)? == pid && pod.shim()? == shim, "another process after the restart");
            ensure!(pod.state()? == "SANDBOX_READY", "the pod is {}", pod.state()?);
            ensure!(pod.status(&id)?["state"] == "CONTAINER_RUNNING", "{}", pod.status(&id)?);
        }
        counter.check()?;
        let more = other.output("more", "echo after the restart", json!({}))?;
        ensure!(more == "after the restart\n", "{more:?}");
        cri.call("StopContainer", json!({ "container_id": quiet, "timeout": 30 }))?;
        ensure!(other.wait_exited(&quiet)?["exit_code"].as_i64().unwrap_or(0) == 0, "{}", other.status(&quiet)?);
        Ok(())
    })
}

fn exit_while_containerd_is_down(bed: &Bed) -> Outcome {
    on_node(bed, |cri| {
        let volume = bed.directory("volume")?;
        let mount = json!({ "mounts": [{ "host_path": volume, "container_path": "/work" }] });
        let pod = cri.pod(json!({}))?;
        let id = pod.run("one", "until [ -e /work/end ]; do usleep 20000; done; echo ended; exit 23", mount)?;
        let pid = pod.pid(&id)?;
        bed.containerd.kill()?;
        std::fs::write(volume.join("end"), "")?;
        gone(bed, pid, "the container")?;
        bed.containerd.restart()?;
        cri.wait_ready()?;
        let status = pod.wait_exited(&id)?;
        ensure!(status["exit_code"] == 23, "after the restart: {status}");
        ensure!(pod.state()? == "SANDBOX_READY", "the pod is {}", pod.state()?);
        let next = pod.output("two", "echo next", json!({}))?;
        ensure!(next == "next\n", "{next:?}");
        Ok(())
    })
}

fn pause_exit_while_containerd_is_down(bed: &Bed) -> Outcome {
    on_node(bed, |cri| {
        let pod = cri.pod(json!({}))?;
        let id = pod.run("one", SLEEPER, json!({}))?;
        let (pause, shim) = (pod.pause_pid()?, pod.shim()?);
        bed.containerd.kill()?;
        bed.containerd.host.kill(pause, "KILL")?;
        gone(bed, pause, "pause")?;
        bed.containerd.restart()?;
        cri.wait_ready()?;
        wait_not_ready(&pod)?;
        cri.call("StopContainer", json!({ "container_id": id, "timeout": 30 }))?;
        cri.call("RemoveContainer", json!({ "container_id": id }))?;
        cri.remove_pod(&pod.id)?;
        gone(bed, shim, "the shim")
    })
}

fn pause_gone_first(bed: &Bed) -> Outcome {
    on_node(bed, |cri| {
        let pod = cri.pod(json!({}))?;
        let id = pod.run("one", SLEEPER, json!({}))?;
        let (pause, shim) = (pod.pause_pid()?, pod.shim()?);
        bed.containerd.host.kill(pause, "KILL")?;
        wait_not_ready(&pod)?;
        // The member has its own pid namespace and goes on, can be asked and stopped.
        ensure!(pod.exec(&id, "echo alive")?.ok()? == "alive\n", "the member does not answer");
        cri.call("StopContainer", json!({ "container_id": id, "timeout": 30 }))?;
        ensure!(pod.wait_exited(&id)?["exit_code"].as_i64().unwrap_or(0) == 0, "{}", pod.status(&id)?);
        cri.call("RemoveContainer", json!({ "container_id": id }))?;
        cri.remove_pod(&pod.id)?;
        gone(bed, shim, "the shim")
    })
}

fn pause_removed_first(bed: &Bed) -> Outcome {
    on_node(bed, |cri| {
        let pod = cri.pod(json!({}))?;
        let ids = [pod.run("one", SLEEPER, json!({}))?, pod.run("two", SLEEPER, json!({}))?];
        let (pause, shim) = (pod.pause_pid()?, pod.shim()?);
        bed.containerd.host.kill(pause, "KILL")?;
        wait_not_ready(&pod)?;
        // containerd has deleted pause's task; whoever removes the members last must find no shim waiting for nobody
        // (containerd issues 10421 and 12344).
        for id in &ids {
            cri.call("RemoveContainer", json!({ "container_id": id }))?;
        }
        gone(bed, shim, "the shim of no container")?;
        cri.remove_pod(&pod.id)
    })
}

fn shim_killed(bed: &Bed) -> Outcome {
    on_node(bed, |cri| {
        let pod = cri.pod(json!({}))?;
        let ids = [pod.run("one", SLEEPER, json!({}))?, pod.run("two", "exec sleep 23456", json!({}))?];
        let pids = [pod.pause_pid()?, pod.pid(&ids[0])?, pod.pid(&ids[1])?];
        bed.containerd.host.kill(pod.shim()?, "KILL")?;
        wait_not_ready(&pod)?;
        for id in &ids {
            eventually(LIMIT, || {
                let status = pod.status(id)?;
                ensure!(status["state"] != "CONTAINER_RUNNING", "without a shim: {status}");
                Ok(())
            })?;
        }
        pids.into_iter().try_for_each(|pid| gone(bed, pid, "a process without a shim"))?;
        cri.remove_pod(&pod.id)
    })
}

fn shim_killed_while_containerd_is_down(bed: &Bed) -> Outcome {
    on_node(bed, |cri| {
        let pod = cri.pod(json!({}))?;
        let id = pod.run("one", SLEEPER, json!({}))?;
        let (pids, shim) = ([pod.pause_pid()?, pod.pid(&id)?], pod.shim()?);
        bed.containerd.kill()?;
        bed.containerd.host.kill(shim, "KILL")?;
        bed.containerd.restart()?;
        cri.wait_ready()?;
        wait_not_ready(&pod)?;
        pids.into_iter().try_for_each(|pid| gone(bed, pid, "a process without a shim"))?;
        cri.remove_pod(&pod.id)
    })
}

fn removal_after_a_restart(bed: &Bed) -> Outcome {
    on_node(bed, |cri| {
        let pod = cri.pod(json!({}))?;
        let ids = [
            pod.run("one", SLEEPER, json!({}))?,
            pod.run("two", "true", json!({}))?,
            pod.create("three", "true", json!({}))?,
        ];
        pod.wait_exited(&ids[1])?;
        let shim = pod.shim()?;
        bed.containerd.kill()?;
        bed.containerd.restart()?;
        cri.wait_ready()?;
        cri.remove_pod(&pod.id)?;
        gone(bed, shim, "the shim")
    })
}

fn containerd_killed_during_a_removal(bed: &Bed) -> Outcome {
    on_node(bed, |cri| {
        let pod = cri.pod(json!({}))?;
        for name in ["one", "two", "three"] {
            pod.run(name, SLEEPER, json!({}))?;
        }
        let shim = pod.shim()?;
        // Whatever of it is done by the time of the kill.
        let stopping = cri.send("StopPodSandbox", json!({ "pod_sandbox_id": pod.id }))?;
        let first = pod.cri.call("ListContainers", json!({ "filter": { "pod_sandbox_id": pod.id } }))?;
        ensure!(first["containers"].as_array().is_some_and(|all| all.len() == 3), "{first}");
        bed.containerd.kill()?;
        drop(stopping);
        bed.containerd.restart()?;
        cri.wait_ready()?;
        cri.remove_pod(&pod.id)?;
        gone(bed, shim, "the shim")
    })
}
