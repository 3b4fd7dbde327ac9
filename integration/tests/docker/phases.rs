//! What docker says of a container, word for word: each field of its state in each phase, each event of its life with its
//! attributes. Both runtimes run this, so both say the same.

use integration::containerd::LIMIT;
use integration::{Docker, Outcome, ensure, eventually};
use serde_json::{Map, Value, json};
use std::time::{SystemTime, UNIX_EPOCH};

const SLEEPER: &str = "trap 'exit 7' TERM; sleep 1000 & echo; wait";

/// All of `.State`, with each time as whether it is set and the pid as whether there is one.
fn state(docker: &Docker, id: &str) -> Outcome<Map<String, Value>> {
    let state: Value = serde_json::from_str(&docker.inspect(id, "{{json .State}}")?)?;
    let mut state = state.as_object().ok_or("no object")?.clone();
    for (field, value) in &mut state {
        if field.ends_with("At") {
            *value = json!(value.as_str().is_some_and(|time| !time.starts_with("0001-")));
        } else if field == "Pid" {
            *value = json!(value.as_u64() != Some(0));
        }
    }
    Ok(state)
}

/// Waits until every field is that of a container that was never started, but for those given; no field is left out.
fn is(docker: &Docker, id: &str, phase: &str, but: Value) -> Outcome {
    let mut expected = json!({
        "Dead": false, "Error": "", "ExitCode": 0, "FinishedAt": false, "OOMKilled": false, "Paused": false, "Pid": false,
        "Restarting": false, "Running": false, "StartedAt": false, "Status": phase,
    });
    for (field, value) in but.as_object().ok_or("no object")? {
        expected[field] = value.clone();
    }
    eventually(LIMIT, || {
        let now = Value::Object(state(docker, id)?);
        ensure!(now == expected, "{id} is\n{now}, not\n{expected}");
        Ok(())
    })
}

pub fn state_field_by_field(docker: &Docker) -> Outcome {
    let id = docker.id();
    docker.docker(&docker.words("create", &["--name", &id], &["sh", "-c", SLEEPER]))?.ok()?;
    is(docker, &id, "created", json!({}))?;
    docker.docker(&["start", &id])?.ok()?;
    let first = json!({ "Running": true, "Pid": true, "StartedAt": true });
    is(docker, &id, "running", first.clone())?;
    crate::run::lives(docker, &id, 1)?;
    docker.exec(&[], &id, "exit 9")?.exited(9)?;
    is(docker, &id, "running", first)?;
    docker.docker(&["pause", &id])?.ok()?;
    is(docker, &id, "paused", json!({ "Running": true, "Paused": true, "Pid": true, "StartedAt": true }))?;
    docker.docker(&["unpause", &id])?.ok()?;
    docker.docker(&["stop", &id])?.ok()?;
    is(docker, &id, "exited", json!({ "ExitCode": 7, "StartedAt": true, "FinishedAt": true }))?;
    docker.docker(&["start", &id])?.ok()?;
    let again = json!({ "Running": true, "Pid": true, "StartedAt": true, "FinishedAt": true });
    is(docker, &id, "running", again.clone())?;
    docker.docker(&["restart", "--time", "0", &id])?.ok()?;
    is(docker, &id, "running", again)?;
    docker.docker(&["kill", &id])?.ok()?;
    is(docker, &id, "exited", json!({ "ExitCode": 137, "StartedAt": true, "FinishedAt": true }))?;
    docker.docker(&["rm", &id])?.ok()?;
    ends_of_other_kinds(docker)
}

fn ends_of_other_kinds(docker: &Docker) -> Outcome {
    let eater = ["--memory", "16m", "--memory-swap", "16m"];
    let oom = docker.detached(&eater, &["sh", "-c", "exec tail /dev/zero"])?;
    let ended = json!({ "ExitCode": 137, "OOMKilled": true, "StartedAt": true, "FinishedAt": true });
    is(docker, &oom, "exited", ended)?;
    let id = docker.id();
    docker.docker(&docker.words("create", &["--name", &id], &["no-such-program"]))?.ok()?;
    let error = docker.docker(&["start", &id])?.exited(1)?.errors();
    let error = error.split_once("Error response from daemon: ").and_then(|pair| pair.1.lines().next());
    is(docker, &id, "created", json!({ "ExitCode": 127, "Error": error.ok_or("no words")? }))?;
    // It waits longer and longer between its lives: `restarting` is seen sooner or later.
    let id = docker.detached(&["--restart", "always"], &["sh", "-c", "exit 4"])?;
    let waits = json!({
        "ExitCode": 4, "Restarting": true, "Running": true, "StartedAt": true, "FinishedAt": true,
    });
    is(docker, &id, "restarting", waits)
}

/// The events that concern the container, oldest first: type, action and attributes, without those that change each time.
fn events(docker: &Docker, id: &str, since: &str) -> Outcome<Vec<String>> {
    let full = docker.full_id(id).unwrap_or_default();
    let words = ["events", "--since", since, "--until", "0s", "--format", "{{json .}}"];
    let text = docker.docker(&words)?.ok()?.text();
    let mut seen = Vec::new();
    for line in text.lines() {
        let event: Value = serde_json::from_str(line)?;
        let attributes = event["Actor"]["Attributes"].as_object().ok_or("no attributes")?;
        let concerned = attributes.get("name").is_some_and(|name| name == id)
            || attributes.get("container").is_some_and(|container| *container == full.as_str());
        if !concerned {
            continue;
        }
        let word = |(name, value): (&String, &Value)| match name.as_str() {
            "container" | "execID" | "name" | "mini-test" | "execDuration" | "image" => name.clone(),
            _ => format!("{name}={}", value.as_str().unwrap_or_default()),
        };
        let attributes: Vec<String> = attributes.iter().map(word).collect();
        let text = |field: &str| event[field].as_str().unwrap_or_default().to_owned();
        seen.push(format!("{} {}: {}", text("Type"), text("Action"), attributes.join(" ")));
    }
    Ok(seen)
}

fn now() -> Outcome<String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    Ok(format!("{}.{:09}", now.as_secs(), now.subsec_nanos()))
}

/// Events that docker makes beside the others: how many of each.
const BESIDE: &[(&str, usize)] = &[("container stop", 2), ("container restart", 1), ("network disconnect", 3)];

/// The others, in order.
const LIFE: &[&str] = &[
    "container create: image mini-test name",
    "network connect: container name type=null",
    "container start: image mini-test name",
    "container exec_create: sh -c exit 3: execID image mini-test name",
    "container exec_start: sh -c exit 3: execID image mini-test name",
    "container exec_die: execID exitCode=3 image mini-test name",
    "container top: image mini-test name",
    "container pause: image mini-test name",
    "container unpause: image mini-test name",
    "container update: image mini-test name",
    "container kill: image mini-test name signal=23",
    "container kill: image mini-test name signal=15",
    "container die: execDuration exitCode=7 image mini-test name",
    "network connect: container name type=null",
    "container start: image mini-test name",
    "container kill: image mini-test name signal=15",
    "container die: execDuration exitCode=7 image mini-test name",
    "network connect: container name type=null",
    "container start: image mini-test name",
    "container kill: image mini-test name signal=9",
    "container die: execDuration exitCode=137 image mini-test name",
];

pub fn every_event_of_a_life(docker: &Docker) -> Outcome {
    let (id, since) = (docker.id(), now()?);
    docker.docker(&docker.words("run", &["--detach", "--name", &id], &["sh", "-c", SLEEPER]))?.ok()?;
    crate::run::lives(docker, &id, 1)?;
    docker.exec(&[], &id, "exit 3")?.exited(3)?;
    docker.docker(&["top", &id])?.ok()?;
    docker.docker(&["pause", &id])?.ok()?;
    docker.docker(&["unpause", &id])?.ok()?;
    docker.docker(&["update", "--pids-limit", "99", &id])?.ok()?;
    docker.docker(&["kill", "--signal", "URG", &id])?.ok()?;
    docker.docker(&["restart", &id])?.ok()?;
    crate::run::lives(docker, &id, 2)?;
    docker.docker(&["stop", &id])?.ok()?;
    docker.docker(&["start", &id])?.ok()?;
    docker.docker(&["kill", &id])?.ok()?;
    docker.docker(&["wait", &id])?.ok()?;
    eventually(LIMIT, || {
        let seen = events(docker, &id, &since)?;
        let is_beside = |event: &&String| BESIDE.iter().any(|(kind, _)| event.starts_with(kind));
        let (beside, in_order): (Vec<&String>, Vec<&String>) = seen.iter().partition(is_beside);
        ensure!(in_order == LIFE, "{in_order:#?}");
        for (kind, count) in BESIDE {
            let told = beside.iter().filter(|event| event.starts_with(kind)).count();
            ensure!(told == *count, "{told} events of {kind}: {beside:#?}");
        }
        Ok(())
    })
}
