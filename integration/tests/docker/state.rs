//! What is asked of and done to a container while it runs.

use integration::containerd::LIMIT;
use integration::{Docker, Outcome, ensure, eventually};
use serde_json::Value;

pub fn pause_and_unpause(docker: &Docker) -> Outcome {
    let id = docker.detached(&[], &["sh", "-c", "i=0; while :; do i=$((i+1)); echo $i > /tmp/count; done"])?;
    docker.docker(&["pause", &id])?.ok()?;
    ensure!(docker.inspect(&id, "{{.State.Status}} {{.State.Paused}}")? == "paused true", "not paused");
    docker.exec(&[], &id, "true")?.failed_with("is paused")?;
    docker.docker(&["pause", &id])?.failed_with("already paused")?;
    // No process can be asked, the file can: as an archive, with the time of the last change.
    let count = || -> Outcome<String> { Ok(docker.docker(&["cp", &format!("{id}:/tmp/count"), "-"])?.ok()?.text()) };
    let stopped = count()?;
    std::thread::sleep(std::time::Duration::from_millis(100));
    ensure!(count()? == stopped, "it counts on");
    docker.docker(&["unpause", &id])?.ok()?;
    ensure!(docker.inspect(&id, "{{.State.Status}}")? == "running", "not resumed");
    eventually(LIMIT, || {
        ensure!(count()? != stopped, "it does not count on");
        Ok(())
    })?;
    docker.docker(&["pause", &id])?.ok()?;
    docker.docker(&["kill", &id])?.ok()?;
    docker.docker(&["wait", &id])?.ok()?.says("137\n")?;
    Ok(())
}

/// The first of the group's files that exists in any hierarchy: v1 and v2 name the same limit differently.
pub fn limit(docker: &Docker, id: &str, files: &[&str]) -> Outcome<String> {
    let id = docker.full_id(id)?;
    for hierarchy in integration::residue::hierarchies() {
        for file in files {
            if let Ok(value) =
                std::fs::read_to_string(hierarchy.join(&docker.containerd.namespace).join(&id).join(file))
            {
                return Ok(value.trim().to_owned());
            }
        }
    }
    Err(format!("no group of {id} has {files:?}").into())
}

pub fn limits_and_their_update(docker: &Docker) -> Outcome {
    let flags =
        ["--memory", "64m", "--cpus", "0.5", "--pids-limit", "50", "--cpuset-cpus", "0", "--memory-reservation", "32m"];
    let id = docker.sleeper(&flags)?;
    let all = [
        (["memory.limit_in_bytes", "memory.max"], "67108864"),
        (["memory.soft_limit_in_bytes", "memory.low"], "33554432"),
        (["cpu.cfs_quota_us", "cpu.max"], "50000"),
        (["pids.max", "pids.max"], "50"),
        (["cpuset.cpus", "cpuset.cpus"], "0"),
    ];
    for (files, expected) in all {
        let value = limit(docker, &id, &files)?;
        ensure!(value.split(' ').next() == Some(expected), "{files:?} is {value}");
    }
    let update = ["update", "--memory", "96m", "--memory-swap", "96m", "--cpus", "0.25", "--pids-limit", "77", &id];
    docker.docker(&update)?.ok()?;
    for (index, expected) in [(0, "100663296"), (2, "25000"), (3, "77")] {
        let value = limit(docker, &id, &all[index].0)?;
        ensure!(value.split(' ').next() == Some(expected), "{:?} is {value} after the update", all[index].0);
    }
    docker.docker(&["update", "--restart", "always", &id])?.ok()?;
    ensure!(docker.inspect(&id, "{{.HostConfig.RestartPolicy.Name}}")? == "always", "the policy did not change");
    docker.docker(&["update", "--restart", "no", &id])?.ok()?;
    Ok(())
}

pub fn stats(docker: &Docker) -> Outcome {
    let id = docker.detached(&["--memory", "64m"], &["sh", "-c", "while :; do :; done"])?;
    eventually(LIMIT, || {
        let line = docker.docker(&["stats", "--no-stream", "--format", "json", &id])?.ok()?.text();
        let stats: Value = serde_json::from_str(&line)?;
        let number = |field: &str| -> f64 {
            let text = stats[field].as_str().unwrap_or_default();
            text.trim_end_matches(|c: char| !c.is_ascii_digit()).parse().unwrap_or(-1.0)
        };
        ensure!(number("CPUPerc") > 0.0, "a busy loop takes {}", stats["CPUPerc"]);
        ensure!(number("PIDs") == 1.0, "{} processes", stats["PIDs"]);
        let memory = stats["MemUsage"].as_str().unwrap_or_default();
        ensure!(memory.ends_with("/ 64MiB") && !memory.starts_with("0B"), "the memory is {memory}");
        Ok(())
    })
}

pub fn top(docker: &Docker) -> Outcome {
    let id = docker.detached(&[], &["sh", "-c", "sleep 1111 & sleep 2222"])?;
    eventually(LIMIT, || docker.docker(&["top", &id])?.ok()?.says("sleep 2222")?.says("sleep 1111").map(drop))?;
    let output = docker.docker(&["top", &id, "-o", "pid,args"])?.ok()?;
    let pid = docker.pid(&id)?.to_string();
    let of_init = |line: &&str| line.split_whitespace().next() == Some(&pid);
    ensure!(output.text().lines().filter(of_init).count() == 1, "{}", output.report());
    ensure!(output.text().lines().count() == 3, "{}", output.report());
    let output = docker.docker(&["top", &id, "-eo", "user,pid,ppid,comm"])?.ok()?;
    ensure!(output.text().starts_with("USER"), "{}", output.report());
    ensure!(output.text().lines().filter(|line| line.ends_with("sleep")).count() == 2, "{}", output.report());
    docker.docker(&["top", &id, "aux"])?.ok()?.says("sleep 1111")?;
    docker.docker(&["top", &id, "-o", "comm"])?.failed_with("Couldn't find PID field")?;
    docker.docker(&["top", &id, "--no-such-option"])?.failed_with("ps")?;
    docker.docker(&["kill", &id])?.ok()?;
    docker.docker(&["wait", &id])?.ok()?;
    docker.docker(&["top", &id])?.failed_with("is not running")?;
    Ok(())
}

pub fn copy_diff_and_commit(docker: &Docker) -> Outcome {
    let directory = docker.directory("cp")?;
    std::fs::write(directory.join("in"), "from outside\n")?;
    let (source, target) = (directory.join("in").display().to_string(), directory.join("out").display().to_string());
    let id = docker.sleeper(&["--tmpfs", "/t"])?;
    docker.docker(&["cp", &source, &format!("{id}:/etc/in")])?.ok()?;
    docker
        .exec(&[], &id, "cat /etc/in; echo from inside > /etc/out; rm /etc/image-name")?
        .ok()?
        .says("from outside\n")?;
    docker.docker(&["cp", &format!("{id}:/etc/out"), &target])?.ok()?;
    ensure!(std::fs::read_to_string(&target)? == "from inside\n", "the copy is another file");
    let diff = docker.docker(&["diff", &id])?.ok()?.text();
    ensure!(["A /etc/in", "A /etc/out", "D /etc/image-name"].iter().all(|line| diff.contains(line)), "{diff}");
    let image = format!("{id}-image");
    docker.docker(&["commit", "--change", "CMD [\"cat\", \"/etc/out\"]", &id, &image])?.ok()?;
    let runtime = docker.containerd.runtime.name();
    docker.docker(&["run", "--rm", "--network", "none", "--runtime", runtime, &image])?.ok()?.says("from inside\n")?;
    docker.docker(&["rmi", &image])?.ok()?;
    Ok(())
}

pub fn events_in_order(docker: &Docker) -> Outcome {
    let id = docker.id();
    let begin = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs().to_string();
    let flags = ["--detach", "--name", &id];
    docker.docker(&docker.words("run", &flags, &["sh", "-c", "trap 'exit 7' TERM; echo; sleep 1000 & wait"]))?.ok()?;
    crate::run::lives(docker, &id, 1)?;
    docker.exec(&[], &id, "exit 3")?.exited(3)?;
    docker.docker(&["pause", &id])?.ok()?;
    docker.docker(&["unpause", &id])?.ok()?;
    docker.docker(&["stop", &id])?.ok()?;
    docker.docker(&["rm", &id])?.ok()?;
    let filter = format!("container={id}");
    let format = "{{.Action}} {{.Actor.Attributes.exitCode}}";
    let words = ["events", "--since", &begin, "--until", "0s", "--filter", &filter, "--format", format];
    let text = eventually(LIMIT, || docker.docker(&words)?.ok()?.says("destroy"))?.text();
    let seen: Vec<&str> = text.lines().map(|line| line.trim_end_matches(" <no value>").trim_end()).collect();
    let wanted = ["create", "start", "exec_die 3", "pause", "unpause", "kill", "die 7", "destroy"];
    let mut rest = seen.iter();
    for action in wanted {
        ensure!(rest.any(|seen| *seen == action), "{action} is not there in order: {seen:?}");
    }
    let dies = seen.iter().filter(|seen| seen.starts_with("die")).count();
    ensure!(dies == 1, "{dies} deaths: {seen:?}");
    Ok(())
}

/// Ends a client that goes on, whatever signal it catches.
fn end(docker: &Docker, client: integration::client::Running, id: &str) -> Outcome {
    for (pid, argv) in docker.containerd.host.processes()? {
        if argv[0].ends_with("/docker") && argv.iter().any(|word| word.contains(id)) {
            docker.containerd.host.kill(pid, "KILL")?;
        }
    }
    client.wait().map(drop)
}

/// A client that listens hears of each thing before the next one is done.
pub fn events_as_they_come(docker: &Docker) -> Outcome {
    let id = docker.id();
    let begin = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs().to_string();
    let filter = format!("container={id}");
    // Since a moment ago, because nobody says when the client listens.
    let client = docker.client(&["events", "--since", &begin, "--filter", &filter, "--format", "{{.Action}}"])?;
    let hears = |action: &str| {
        eventually(LIMIT, || {
            ensure!(client.seen().lines().any(|line| line == action), "{action} is not heard: {:?}", client.seen());
            Ok(())
        })
    };
    let script = "trap 'exit 7' TERM; echo; sleep 1000 & wait";
    docker.docker(&docker.words("run", &["--detach", "--name", &id], &["sh", "-c", script]))?.ok()?;
    hears("start")?;
    crate::run::lives(docker, &id, 1)?;
    docker.exec(&[], &id, "exit 3")?.exited(3)?;
    hears("exec_die")?;
    for (verb, action) in [("pause", "pause"), ("unpause", "unpause"), ("stop", "stop"), ("start", "start")] {
        docker.docker(&[verb, &id])?.ok()?;
        hears(action)?;
    }
    docker.containerd.host.kill(docker.pid(&id)?, "KILL")?;
    eventually(LIMIT, || {
        let deaths = client.seen().lines().filter(|line| *line == "die").count();
        ensure!(deaths == 2, "{deaths} deaths are heard: {:?}", client.seen());
        Ok(())
    })?;
    docker.docker(&["rm", &id])?.ok()?;
    hears("destroy")?;
    end(docker, client, &id)
}

pub fn stats_as_they_come(docker: &Docker) -> Outcome {
    let id = docker.sleeper(&["--memory", "64m"])?;
    let client = docker.client(&["stats", "--format", "<{{.MemUsage}}, {{.PIDs}}>", &id])?;
    let shows = |words: &str, times: usize| {
        eventually(LIMIT, || {
            let count = client.seen().matches(words).count();
            ensure!(count >= times, "{words:?} is there {count} times: {:?}", client.seen());
            Ok(())
        })
    };
    shows("/ 64MiB, 2>", 3)?;
    docker.docker(&["update", "--memory", "32m", "--memory-swap", "32m", &id])?.ok()?;
    docker.exec(&["--detach"], &id, "sleep 1000")?.ok()?;
    shows("/ 32MiB, 3>", 2)?;
    end(docker, client, &id)
}

pub fn out_of_memory(docker: &Docker) -> Outcome {
    let script = "head -c 200m /dev/zero | tail";
    let id = docker.detached(&["--memory", "16m", "--memory-swap", "16m"], &["sh", "-c", &format!("exec {script}")])?;
    docker.docker(&["wait", &id])?.ok()?;
    docker.wait_for(&id, "{{.State.OOMKilled}}", "true")?;
    let alive = docker.sleeper(&["--memory", "16m", "--memory-swap", "16m"])?;
    // A second process may have to go when the first one takes its time to give its memory back: not the container's own.
    docker.exec(&[], &alive, &format!("echo 1000 >/proc/self/oom_score_adj; {script}"))?.exited(137)?;
    ensure!(docker.inspect(&alive, "{{.State.Running}}")? == "true", "the container died with its exec");
    Ok(())
}

pub fn restart_policies(docker: &Docker) -> Outcome {
    let id = docker.detached(&["--restart", "on-failure:2"], &["sh", "-c", "echo life; exit 9"])?;
    docker.wait_for(&id, "{{.RestartCount}} {{.State.Status}} {{.State.ExitCode}}", "2 exited 9")?;
    let lives = docker.docker(&["logs", &id])?.ok()?.text();
    ensure!(lives == "life\nlife\nlife\n", "the lives were {lives:?}");
    let id =
        docker.detached(&["--restart", "always"], &["sh", "-c", "trap 'exit 0' USR1; echo life; sleep 1000 & wait"])?;
    for count in 1..3 {
        let said = "life\n".repeat(count);
        eventually(LIMIT, || docker.docker(&["logs", &id])?.ok()?.says(&said).map(drop))?;
        // By the client it would count as a stop that the user wanted.
        docker.exec(&[], &id, "kill -USR1 1")?;
        docker.wait_for(&id, "{{.RestartCount}} {{.State.Running}}", &format!("{count} true"))?;
    }
    docker.docker(&["stop", "--time", "0", &id])?.ok()?;
    ensure!(docker.inspect(&id, "{{.State.Status}}")? == "exited", "it did not stay stopped");
    Ok(())
}

pub fn health_checks(docker: &Docker) -> Outcome {
    let flags = ["--health-cmd", "test -e /tmp/well || { echo ill; exit 1; }", "--health-interval", "200ms"];
    let id = docker.sleeper(&[&flags[..], &["--health-retries", "2"]].concat())?;
    docker.wait_for(&id, "{{.State.Health.Status}}", "unhealthy")?;
    let log = docker.inspect(&id, "{{range .State.Health.Log}}{{.ExitCode}} {{.Output}}{{end}}")?;
    ensure!(log.contains("1 ill"), "the log is {log:?}");
    docker.exec(&[], &id, "touch /tmp/well")?.ok()?;
    docker.wait_for(&id, "{{.State.Health.Status}}", "healthy")?;
    // A probe that hangs is killed at its limit.
    let flags = ["--health-cmd", "sleep 4321", "--health-interval", "200ms", "--health-timeout", "300ms"];
    let id = docker.sleeper(&[&flags[..], &["--health-retries", "1"]].concat())?;
    docker.wait_for(&id, "{{.State.Health.Status}}", "unhealthy")?;
    let log = docker.inspect(&id, "{{range .State.Health.Log}}{{.ExitCode}} {{.Output}}{{end}}")?;
    ensure!(log.contains("exceeded timeout"), "the log is {log:?}");
    Ok(())
}
