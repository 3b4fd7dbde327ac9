//! The `delete` of one mini on a container of another.

use integration::containerd::LIMIT;
use integration::{Bed, Outcome, ensure, eventually, residue};
use serde_json::{Value, json};
use std::path::Path;

/// Files a shim of an older form would have left, made of what this one wrote.
fn rewrite(file: &Path, change: impl FnOnce(&mut Value)) -> Outcome {
    let mut record: Value = serde_json::from_slice(&std::fs::read(file)?)?;
    change(&mut record);
    std::fs::write(file, record.to_string())?;
    Ok(())
}

/// A container whose record is changed and whose shim then is killed; returns once containerd has cleaned up.
fn orphan(bed: &Bed, sleep: &str, change: impl FnOnce(&mut Value)) -> Outcome<String> {
    let id = bed.detached(&["--null-io"], &["sh", "-c", &format!("sleep {sleep} & sleep {sleep}")])?;
    eventually(LIMIT, || {
        let there = lives(bed, sleep)?;
        ensure!(there.len() == 2, "of the container's processes there are {there:?}");
        Ok(())
    })?;
    let shim = bed.shim(&id)?;
    rewrite(&bed.containerd.bundle(&id).join("mini.json"), change)?;
    bed.containerd.host.kill(shim, "KILL")?;
    bed.containerd.events(|events| {
        events.wait(&id, LIMIT, |seen| seen.iter().any(|event| event.topic == "/tasks/exit")).map(drop)
    })?;
    Ok(id)
}

fn lives(bed: &Bed, sleep: &str) -> Outcome<Vec<u32>> {
    let processes = bed.containerd.host.processes()?.into_iter();
    Ok(processes.filter(|(_, argv)| argv[0] == "sleep" && argv[1] == sleep).map(|(pid, _)| pid).collect())
}

fn assert_cleaned(bed: &Bed, id: &str, sleep: &str) -> Outcome {
    eventually(LIMIT, || {
        let left = lives(bed, sleep)?;
        ensure!(left.is_empty(), "{id}: processes of the container are still there: {left:?}");
        Ok(())
    })?;
    residue::assert_none_of(&bed.containerd, id, std::time::Duration::from_secs(15))?;
    bed.ctr(&["container", "rm", id])?.ok()?;
    Ok(())
}

pub fn record_of_another_form(bed: &Bed) -> Outcome {
    // The first form had no word of systemd, and none of what came since.
    let older = orphan(bed, "98761", |record| {
        let known = ["id", "pid", "startTime", "cgroup"];
        if let Some(fields) = record.as_object_mut() {
            fields.retain(|name, _| known.contains(&name.as_str()));
        }
        if let Some(fields) = record["cgroup"].as_object_mut() {
            fields.remove("systemd");
        }
    })?;
    assert_cleaned(bed, &older, "98761")?;
    let with_more = orphan(bed, "98762", |record| record["later"] = json!({ "field": [1] }))?;
    assert_cleaned(bed, &with_more, "98762")?;
    // What a field means in a form to come nobody knows: nothing is killed by it, and the log says why.
    let newer = orphan(bed, "98763", |record| record["version"] = json!(99))?;
    eventually(LIMIT, || {
        let log = std::fs::read_to_string(bed.containerd.log())?;
        let said =
            |line: &str| line.contains(&newer) && line.contains("was written by a newer mini (form 99, known 1)");
        ensure!(log.lines().any(said), "containerd's log does not say why {newer} stays");
        Ok(())
    })?;
    let stay = lives(bed, "98763")?;
    ensure!(stay.len() == 2, "of the container's processes there are {stay:?}");
    // With the first of them, which the shell has become, ends the pid namespace.
    bed.containerd.host.kill(*stay.iter().min().ok_or("none")?, "KILL")?;
    for group in residue::cgroups_of(&bed.containerd.namespace).iter().filter(|group| group.ends_with(&newer)) {
        eventually(LIMIT, || Ok(std::fs::remove_dir(group)?))?;
    }
    bed.ctr(&["container", "rm", &newer])?.ok()?;
    Ok(())
}
