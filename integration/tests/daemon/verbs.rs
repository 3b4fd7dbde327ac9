//! Calls of ctr that no other suite makes, and the shim's log.

use integration::containerd::LIMIT;
use integration::{Bed, Outcome, ensure, eventually};
use serde_json::Value;

pub fn checkpoint_is_refused(bed: &Bed) -> Outcome {
    let id = bed.sleeper()?;
    let images = bed.directory("images")?;
    let path = images.to_str().ok_or("path")?;
    bed.ctr(&["task", "checkpoint", "--image-path", path, &id])?.failed_with("checkpoint is not implemented")?;
    ensure!(images.read_dir()?.next().is_none(), "something was written to {images:?}");
    bed.ctr(&["container", "checkpoint", "--task", &id, "a-checkpoint"])?
        .failed_with("checkpoint is not implemented")?;
    // And the container runs on.
    bed.exec_sh(&id, &[], "echo alive")?.ok()?.says("alive\n")?;
    Ok(())
}

/// The labels that have containerd itself start a container again, and leave it.
pub fn restart_labels(bed: &Bed) -> Outcome {
    let labels = ["containerd.io/restart.status=running", "containerd.io/restart.policy=always"];
    let id = bed.sleeper()?;
    let first = bed.pid(&id)?;
    // Not sooner, or it may be started twice.
    bed.ctr(&["container", "label", &id, labels[0], labels[1]])?.ok()?;
    bed.containerd.host.kill(first, "KILL")?;
    eventually(LIMIT, || {
        ensure!(bed.pid(&id)? != first, "it has not been started again");
        bed.exec_sh(&id, &[], "echo alive")?.ok()?.says("alive\n")?;
        Ok(())
    })?;
    bed.ctr(&["container", "label", &id, "containerd.io/restart.status=stopped"])?.ok()?;
    eventually(LIMIT, || {
        ensure!(!bed.ctr(&["task", "ls"])?.ok()?.text().contains(&id), "it has not been stopped");
        Ok(())
    })?;
    bed.ctr(&["container", "delete", &id])?.ok()?;
    Ok(())
}

/// `ctr shim` computes the socket's name by itself and speaks to the shim without containerd.
pub fn shim_commands(bed: &Bed) -> Outcome {
    let id = bed.sleeper()?;
    let pid = bed.pid(&id)?;
    let shim = |words: &[&str]| bed.ctr(&[&["shim", "--id", &id], words].concat());
    let versions: &[&[&str]] = match bed.version() {
        version if version.is_1() => &[&["state"]],
        // A shim of ours speaks both, whatever containerd has agreed on.
        _ => &[&["state", "--task-id", &id, "--api-version", "2"], &["state", "--task-id", &id, "--api-version", "3"]],
    };
    for words in versions {
        let state = shim(words)?.ok()?;
        let shown: Value = serde_json::from_str(&state.text())?;
        ensure!(shown["pid"] == pid && shown["id"] == id, "pid {pid}: {}", state.report());
    }
    if !bed.version().is_1() {
        shim(&["state", "--task-id", "nobody", "--api-version", "3"])?.failed_with("not found")?;
    }
    // Ignored while it has a container.
    shim(&["shutdown"])?;
    bed.exec_sh(&id, &[], "echo alive")?.ok()?.says("alive\n")?;
    ensure!(bed.pid(&id)? == pid, "the container is another one");
    Ok(())
}

pub fn shims_log_at_containerds_level(bed: &Bed) -> Outcome {
    let lines = |id: &str| -> Outcome<Vec<String>> {
        let log = std::fs::read_to_string(bed.containerd.log())?;
        let of_it = |line: &&str| line.contains(&format!("id=\"{id}\"")) && line.contains("runtime=io.containerd.mini");
        Ok(log.lines().filter(of_it).map(str::to_owned).collect())
    };
    let debug = |lines: &[String]| lines.iter().filter(|line| line.contains("level=debug")).count();
    let loud = bed.sleeper()?;
    bed.delete(&loud, &["--force"], 137)?;
    eventually(LIMIT, || {
        let seen = lines(&loud)?;
        ensure!(seen.iter().any(|line| line.contains("level=debug") && line.contains("serving")), "{seen:?}");
        ensure!(seen.iter().any(|line| line.contains("killed by signal 9")), "{seen:?}");
        Ok(())
    })?;
    bed.containerd.kill()?;
    let config = std::fs::read_to_string(bed.containerd.config())?;
    let quieter = config.replace("level = \"debug\"", "level = \"info\"");
    ensure!(config != quieter, "no level in config.toml");
    std::fs::write(bed.containerd.config(), quieter)?;
    bed.containerd.restart()?;
    let quiet = bed.sleeper()?;
    bed.delete(&quiet, &["--force"], 137)?;
    bed.ctr(&["container", "rm", &quiet])?.ok()?;
    integration::residue::assert_none_of(&bed.containerd, &quiet, std::time::Duration::from_secs(15))?;
    // The shim is gone, and with it whatever could write another line.
    let seen = lines(&quiet)?;
    ensure!(debug(&seen) == 0, "at level info: {seen:?}");
    Ok(())
}
