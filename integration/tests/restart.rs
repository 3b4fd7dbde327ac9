//! containerd and the shim are killed; containers and their ends are not lost.

use integration::containerd::LIMIT;
use integration::events::topics;
use integration::{Bed, Outcome, Runtime, cases, ensure, eventually, residue, suite};
use std::time::Duration;

fn container_runs_on_and_its_output_arrives(bed: &Bed) -> Outcome {
    let file = bed.directory("log")?.join("log");
    let uri = format!("file://{}", file.display());
    let script = "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.05; done";
    let id = bed.detached(&["--log-uri", &uri], &["sh", "-c", script])?;
    let pid = bed.pid(&id)?;
    let lines = || std::fs::read_to_string(&file).map_or(0, |text| text.lines().count());
    eventually(LIMIT, || {
        ensure!(lines() > 0, "no output");
        Ok(())
    })?;
    bed.containerd.kill()?;
    let at_the_kill = lines();
    std::thread::sleep(Duration::from_secs(2));
    eventually(LIMIT, || {
        ensure!(lines() > at_the_kill + 5, "the output stopped with containerd: {at_the_kill} lines, then {}", lines());
        Ok(())
    })?;
    bed.containerd.restart()?;
    let (now, status) = (bed.pid(&id)?, bed.status(&id)?);
    ensure!(now == pid && status.as_deref() == Some("RUNNING"), "after the restart: pid {now} for {pid}, {status:?}");
    let text = std::fs::read_to_string(&file)?;
    let gap = text.lines().enumerate().find(|(number, line)| *line != format!("line {}", number + 1));
    ensure!(gap.is_none(), "lines are missing: {gap:?}");
    bed.exec_sh(&id, &[], "echo after")?.ok()?.says("after\n")?;
    bed.ctr(&["task", "kill", "--signal", "KILL", &id])?.ok()?;
    bed.wait_status(&id, "STOPPED")?;
    bed.delete(&id, &[], 137)
}

fn fifo_output_written_meanwhile_arrives(bed: &Bed) -> Outcome {
    let id = bed.id();
    let script = "echo before; sleep 3; echo meanwhile; until [ -e /go ]; do sleep 0.1; done; echo after";
    let client = bed.containerd.ctr_start(LIMIT, &bed.run_words(&id, &[], &["sh", "-c", script]))?;
    // ctr ends with its connection, and what it has not printed by then nobody will see.
    eventually(LIMIT, || {
        ensure!(client.has_said("before\n"), "nothing comes out");
        Ok(())
    })?;
    bed.containerd.kill()?;
    std::thread::sleep(Duration::from_secs(4));
    bed.containerd.restart()?;
    bed.ctr(&["task", "exec", "--detach", "--exec-id", "go", &id, "touch", "/go"])?.ok()?;
    // The client has lost its connection and may end with an error; it has read its fifo meanwhile, or nobody has and
    // the words wait in the fifo for the next reader.
    client.wait()?;
    bed.wait_status(&id, "STOPPED")?;
    bed.containerd.events(|events| {
        // The event may have come to the new containerd before the collector did.
        let exit = events.of(&id).into_iter().find(|event| event.topic == "/tasks/exit");
        let code = exit.map_or(0, |exit| exit.number("exit_status"));
        ensure!(code == 0, "a container whose client went away ended with {code}");
        Ok(())
    })?;
    bed.delete(&id, &[], 0)
}

fn exit_meanwhile_is_reported_with_its_code(bed: &Bed) -> Outcome {
    let id = bed.detached(&["--null-io"], &["sh", "-c", "sleep 2; exit 23"])?;
    let other = bed.sleeper()?;
    bed.containerd.kill()?;
    std::thread::sleep(Duration::from_secs(4));
    bed.containerd.restart()?;
    bed.wait_status(&id, "STOPPED")?;
    bed.containerd.events(|events| {
        // It may have come to the new containerd before the collector did; the code is seen again at the delete.
        let exits: Vec<_> = events.of(&id).into_iter().filter(|event| event.topic == "/tasks/exit").collect();
        let right = exits.iter().all(|exit| exit.number("exit_status") == 23);
        ensure!(exits.len() <= 1 && right, "the exits are {exits:?}");
        Ok(())
    })?;
    bed.delete(&id, &[], 23)?;
    bed.exec_sh(&other, &[], "echo alive")?.ok()?.says("alive\n")?;
    Ok(())
}

fn killed_shim_is_cleaned_up(bed: &Bed) -> Outcome {
    let id = bed.detached(&["--null-io"], &["sh", "-c", "sleep 98765 & sleep 98765"])?;
    bed.ctr(&["task", "exec", "--detach", "--exec-id", "inside", &id, "sleep", "98765"])?.ok()?;
    bed.containerd.host.kill(bed.shim(&id)?, "KILL")?;
    eventually(LIMIT, || {
        let left =
            bed.containerd.host.processes()?.into_iter().any(|(_, argv)| argv.iter().any(|word| word == "98765"));
        ensure!(!left, "processes of the container are still there");
        Ok(())
    })?;
    bed.containerd.events(|events| {
        let seen = events.wait(&id, LIMIT, |seen| topics(seen).contains(&"exit"))?;
        let exit = seen.iter().find(|event| event.topic == "/tasks/exit").ok_or("no exit")?;
        ensure!(exit.number("exit_status") == 137 && exit.number("pid") > 0, "the exit is {exit:?}");
        Ok(())
    })?;
    residue::assert_none_of(&bed.containerd, &id, Duration::from_secs(15))?;
    bed.ctr(&["container", "rm", &id])?.ok()?;
    Ok(())
}

fn shim_killed_while_containerd_is_down(bed: &Bed) -> Outcome {
    let id = bed.detached(&["--null-io"], &["sleep", "87654"])?;
    let shim = bed.shim(&id)?;
    bed.containerd.kill()?;
    bed.containerd.host.kill(shim, "KILL")?;
    bed.containerd.restart()?;
    residue::assert_none_of(&bed.containerd, &id, Duration::from_secs(15))?;
    let left = bed.containerd.host.processes()?.into_iter().any(|(_, argv)| argv.iter().any(|word| word == "87654"));
    ensure!(!left, "the container's process is still there");
    bed.ctr(&["container", "rm", &id])?.ok()?;
    Ok(())
}

fn ten_restarts(bed: &Bed) -> Outcome {
    let id = bed.sleeper()?;
    let pid = bed.pid(&id)?;
    for _ in 0..10 {
        bed.containerd.kill()?;
        bed.containerd.restart()?;
        let now = bed.pid(&id)?;
        ensure!(now == pid, "the pid was {pid} and is {now}");
    }
    bed.exec_sh(&id, &[], "echo alive")?.ok()?.says("alive\n")?;
    bed.delete(&id, &["--force"], 137)
}

/// A containerd that starts asks the shim of a container without processes to delete it, sets no limit, and serves nobody meanwhile.
fn create_that_hangs_keeps_nobody_waiting(bed: &Bed) -> Outcome {
    let directory = bed.directory("hook")?;
    let root = directory.join("root");
    for name in ["bin", "proc", "sys", "dev", "run"] {
        std::fs::create_dir_all(root.join(name))?;
    }
    let (begun, go) = (directory.join("begun"), directory.join("go"));
    let script = format!("echo >{}; until [ -e {} ]; do sleep 0.05; done", begun.display(), go.display());
    let id = bed.id();
    let mut spec: serde_json::Value = serde_json::from_str(&bed.ctr(&["oci", "spec"])?.ok()?.text())?;
    spec["process"]["args"] = serde_json::json!(["true"]);
    spec["root"]["path"] = root.display().to_string().into();
    spec["linux"]["cgroupsPath"] = format!("/{}/{id}", bed.containerd.namespace).into();
    spec["hooks"] = serde_json::json!({ "createRuntime": [{ "path": "/bin/sh", "args": ["sh", "-c", script] }] });
    let file = directory.join("config.json");
    std::fs::write(&file, spec.to_string())?;
    let file = file.display().to_string();
    let words = ["run", "--runtime", bed.runtime().name(), "--config", &file, &id];
    let client = bed.containerd.ctr_start(LIMIT, &words)?;
    eventually(LIMIT, || {
        ensure!(begun.exists(), "the hook is not run");
        Ok(())
    })?;
    bed.containerd.kill()?;
    client.wait()?;
    let served =
        bed.containerd.restart().and_then(|()| bed.sh(&["--rm"], "echo served")?.ok()?.says("served\n").map(drop));
    std::fs::write(&go, "")?;
    served?;
    // Nobody was told of it, so nobody undoes it but its shim; the bundle is the next containerd's.
    eventually(LIMIT, || {
        let shims = bed.containerd.host.processes()?.into_iter().filter(|(_, argv)| argv.contains(&id)).count();
        ensure!(shims == 0, "its shim is still there");
        Ok(())
    })?;
    bed.containerd.kill()?;
    bed.containerd.restart()?;
    if bed.runtime() == Runtime::Runc {
        // Its groups stay.
        for group in residue::cgroups_of(&bed.containerd.namespace).iter().filter(|group| group.ends_with(&id)) {
            eventually(LIMIT, || Ok(std::fs::remove_dir(group)?))?;
        }
    }
    residue::assert_none_of(&bed.containerd, &id, Duration::from_secs(15))?;
    bed.ctr(&["container", "rm", &id])?.ok()?;
    Ok(())
}

fn main() {
    suite::run_with(
        "restart",
        &[],
        cases![
            container_runs_on_and_its_output_arrives,
            fifo_output_written_meanwhile_arrives,
            exit_meanwhile_is_reported_with_its_code,
            killed_shim_is_cleaned_up,
            shim_killed_while_containerd_is_down,
            ten_restarts,
            create_that_hangs_keeps_nobody_waiting,
        ],
    );
}
