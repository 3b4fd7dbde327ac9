//! Another version of containerd takes over containers that run.

use integration::containerd::LIMIT;
use integration::{Bed, Outcome, Version, ensure, eventually};

/// What follows on a version: every later generation, and from the newest the way back.
fn following(version: Version) -> &'static [Version] {
    match version {
        Version::C1_6 | Version::C1_7 => &[Version::C2_1, Version::C2_3],
        Version::C2_1 => &[Version::C2_3],
        Version::C2_3 => &[Version::C2_1],
    }
}

pub fn containers_run_on_under_another_version(bed: &Bed) -> Outcome {
    let file = bed.directory("log")?.join("log");
    let uri = format!("file://{}", file.display());
    let writer = "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.05; done";
    let writer = bed.detached(&["--log-uri", &uri], &["sh", "-c", writer])?;
    let sleeper = bed.sleeper()?;
    let annotation = format!("io.kubernetes.cri.sandbox-id=pod-of-{}", bed.containerd.namespace);
    let pod = ["--null-io", "--annotation", &annotation];
    let members = [bed.detached(&pod, &["sleep", "1000"])?, bed.detached(&pod, &["sleep", "1000"])?];
    bed.ctr(&["task", "exec", "--detach", "--exec-id", "before", &sleeper, "sleep", "2000"])?.ok()?;
    let all = [&writer, &sleeper, &members[0], &members[1]];
    let pids = all.iter().map(|id| bed.pid(id)).collect::<Outcome<Vec<u32>>>()?;
    let shims = all.iter().map(|id| bed.shim(id)).collect::<Outcome<Vec<u32>>>()?;
    for version in following(bed.version()) {
        bed.containerd.replace_by(*version)?;
        for (id, pid) in all.iter().zip(&pids) {
            let (now, status) = (bed.pid(id)?, bed.status(id)?);
            ensure!(
                now == *pid && status.as_deref() == Some("RUNNING"),
                "{id} on {version}: pid {now} for {pid}, {status:?}"
            );
            bed.exec_sh(id, &[], "echo inside")?.ok()?.says("inside\n")?;
        }
        output_goes_on(&file)?;
        let exec = bed.ctr(&["task", "ps", &sleeper])?.ok()?;
        ensure!(exec.text().contains("before"), "the exec of before is not named\n{}", exec.report());
        bed.ctr(&["task", "pause", &sleeper])?.ok()?;
        bed.wait_status(&sleeper, "PAUSED")?;
        bed.ctr(&["task", "resume", &sleeper])?.ok()?;
        bed.ctr(&["task", "metrics", &sleeper])?.ok()?.says("pids.current")?;
        bed.run(&[], &["sh", "-c", "exit 5"])?.exited(5)?;
    }
    for id in all {
        bed.ctr(&["task", "kill", "--signal", "KILL", id])?.ok()?;
        bed.wait_status(id, "STOPPED")?;
        bed.delete(id, &[], 137)?;
        bed.ctr(&["container", "rm", id])?.ok()?;
    }
    eventually(LIMIT, || {
        let left: Vec<_> = shims.iter().filter(|shim| bed.containerd.host.lives(**shim)).collect();
        ensure!(left.is_empty(), "shims stay after their last container: {left:?} of {shims:?}");
        Ok(())
    })
}

/// New lines arrive in the file, and none of all is missing.
fn output_goes_on(file: &std::path::Path) -> Outcome {
    let text = || std::fs::read_to_string(file);
    let before = text()?.lines().count();
    eventually(LIMIT, || {
        ensure!(text()?.lines().count() > before + 5, "the output stopped after {before} lines");
        Ok(())
    })?;
    let text = text()?;
    // The last may be half there.
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let gap = whole.lines().enumerate().find(|(number, line)| *line != format!("line {}", number + 1));
    ensure!(gap.is_none(), "lines are missing: {gap:?}");
    Ok(())
}

pub fn exit_during_the_upgrade_is_reported(bed: &Bed) -> Outcome {
    let gate = bed.directory("gate")?;
    let mount = format!("type=bind,src={},dst=/mnt,options=rbind:rw", gate.display());
    let script = "while [ ! -e /mnt/go ]; do sleep 0.05; done; echo last words > /mnt/said; exit 23";
    let id = bed.detached(&["--null-io", "--mount", &mount], &["sh", "-c", script])?;
    let pid = bed.pid(&id)?;
    bed.containerd.kill()?;
    std::fs::write(gate.join("go"), "")?;
    eventually(LIMIT, || {
        ensure!(!bed.containerd.host.lives(pid), "the container has not ended");
        Ok(())
    })?;
    bed.containerd.start_as(following(bed.version())[0])?;
    ensure!(std::fs::read_to_string(gate.join("said"))? == "last words\n", "it ended too early");
    bed.wait_status(&id, "STOPPED")?;
    bed.delete(&id, &[], 23)
}

pub fn attached_client_across_the_upgrade(bed: &Bed) -> Outcome {
    let id = bed.id();
    let script = "echo up; while read line; do echo got $line; done; sleep 100000";
    let mut first = bed.containerd.ctr_start(LIMIT, &bed.run_words(&id, &[], &["sh", "-c", script]))?;
    first.wait_for("up\n")?;
    first.write(b"one\n")?;
    first.wait_for("up\ngot one\n")?;
    let pid = bed.pid(&id)?;
    bed.containerd.replace_by(following(bed.version())[0])?;
    // A client ends with its connection, whatever runs the container; the container does not.
    let output = first.wait()?.exited(1)?;
    ensure!(output.text() == "up\ngot one\n", "{}", output.report());
    ensure!(bed.pid(&id)? == pid, "the container is another one");
    let mut second = bed.containerd.ctr_start(LIMIT, &["task", "attach", &id])?;
    second.write(b"two\n")?;
    second.wait_for("got two\n")?;
    bed.ctr(&["task", "kill", "--signal", "KILL", &id])?.ok()?;
    second.wait()?.exited(137)?.says("got two\n")?;
    Ok(())
}
