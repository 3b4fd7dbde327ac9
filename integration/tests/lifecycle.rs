//! kill, pause, resume, ps, metrics, delete: the life of a task seen from ctr.

use integration::containerd::{IMAGE, LIMIT};
use integration::{Bed, Outcome, cases, ensure, eventually, suite};

fn created_started_stopped_deleted(bed: &Bed) -> Outcome {
    let id = bed.id();
    let create = ["container", "create", "--runtime", bed.runtime().name(), IMAGE, &id, "false"];
    bed.ctr(&create)?.ok()?;
    bed.ctr(&["task", "start", "--null-io", &id])?.exited(1)?;
    let status = bed.status(&id)?;
    ensure!(status.is_none(), "task start in the foreground left a task that is {status:?}");
    bed.ctr(&["task", "start", "--null-io", "--detach", &id])?.ok()?;
    bed.wait_status(&id, "STOPPED")?;
    bed.delete(&id, &[], 1)?;
    bed.ctr(&["container", "rm", &id])?.ok()?;
    Ok(())
}

fn delete_of_a_running_task_is_refused(bed: &Bed) -> Outcome {
    let id = bed.sleeper()?;
    let output = bed.ctr(&["task", "rm", &id])?;
    ensure!(output.code != 0 && output.errors().contains("must be stopped"), "{}", output.report());
    bed.delete(&id, &["--force"], 137)?;
    Ok(())
}

fn kill_with_any_signal(bed: &Bed) -> Outcome {
    // As pid 1 the shell gets only what it has a handler for, so each arrival is seen, and none kills by default.
    let script =
        "for s in HUP INT QUIT USR1 USR2 TERM WINCH CONT; do trap \"echo got $s\" $s; done; trap 'exit 42' ALRM
        echo ready; while :; do sleep 0.05; done";
    let file = bed.directory("log")?.join("log");
    let uri = format!("file://{}", file.display());
    let id = bed.detached(&["--log-uri", &uri], &["sh", "-c", script])?;
    let logged = |words: &str| {
        eventually(LIMIT, || {
            ensure!(std::fs::read_to_string(&file)?.contains(words), "the container never said {words:?}");
            Ok(())
        })
    };
    logged("ready")?;
    for (signal, name) in [
        ("SIGHUP", "HUP"),
        ("INT", "INT"),
        ("3", "QUIT"),
        ("USR1", "USR1"),
        ("12", "USR2"),
        ("SIGTERM", "TERM"),
        ("WINCH", "WINCH"),
        ("CONT", "CONT"),
    ] {
        bed.ctr(&["task", "kill", "--signal", signal, &id])?.ok()?;
        logged(&format!("got {name}\n"))?;
    }
    bed.ctr(&["task", "kill", "--signal", "ALRM", &id])?.ok()?;
    bed.wait_status(&id, "STOPPED")?;
    bed.delete(&id, &[], 42)?;
    Ok(())
}

fn exit_code_of_a_killed_task(bed: &Bed) -> Outcome {
    let id = bed.sleeper()?;
    bed.ctr(&["task", "kill", "--signal", "KILL", &id])?.ok()?;
    bed.wait_status(&id, "STOPPED")?;
    bed.delete(&id, &[], 137)?;
    let with_handler =
        bed.detached(&["--null-io"], &["sh", "-c", "trap 'exit 143' TERM; while :; do sleep 0.05; done"])?;
    eventually(LIMIT, || {
        bed.ctr(&["task", "kill", &with_handler])?;
        let status = bed.status(&with_handler)?;
        ensure!(status.as_deref() == Some("STOPPED"), "the task is {status:?}");
        Ok(())
    })?;
    bed.delete(&with_handler, &[], 143)?;
    Ok(())
}

fn kill_after_the_exit_finds_nothing(bed: &Bed) -> Outcome {
    let id = bed.detached(&["--null-io"], &["true"])?;
    bed.wait_status(&id, "STOPPED")?;
    bed.ctr(&["task", "kill", &id])?.failed_with("not found")?;
    Ok(())
}

fn kill_all(bed: &Bed) -> Outcome {
    let id = bed.detached(&["--null-io"], &["sh", "-c", "sleep 1000 & sleep 1000 & wait"])?;
    bed.ctr(&["task", "kill", "--all", "--signal", "KILL", &id])?.ok()?;
    bed.wait_status(&id, "STOPPED")?;
    bed.delete(&id, &[], 137)?;
    Ok(())
}

fn children_die_with_a_shared_pid_namespace(bed: &Bed) -> Outcome {
    let first = bed.sleeper()?;
    let namespace = format!("pid:/proc/{}/ns/pid", bed.pid(&first)?);
    let flags = ["--null-io", "--with-ns", &namespace];
    let second = bed.detached(&flags, &["sh", "-c", "sleep 54321 & sleep 0.5; exit 4"])?;
    bed.wait_status(&second, "STOPPED")?;
    eventually(LIMIT, || {
        let left =
            bed.containerd.host.processes()?.into_iter().any(|(_, argv)| argv.iter().any(|word| word == "54321"));
        ensure!(!left, "a child of the stopped container still runs in the shared pid namespace");
        Ok(())
    })?;
    bed.delete(&second, &[], 4)?;
    Ok(())
}

fn pause_and_resume(bed: &Bed) -> Outcome {
    let file = bed.directory("ticks")?.join("ticks");
    let uri = format!("file://{}", file.display());
    let id = bed.detached(&["--log-uri", &uri], &["sh", "-c", "while :; do echo tick; sleep 0.02; done"])?;
    let size = || std::fs::metadata(&file).map_or(0, |data| data.len());
    let grows = |from: u64| {
        eventually(LIMIT, || {
            ensure!(size() > from, "the container does not run");
            Ok(())
        })
    };
    grows(0)?;
    bed.ctr(&["task", "pause", &id])?.ok()?;
    bed.wait_status(&id, "PAUSED")?;
    // What it wrote before may still be on its way to the file.
    let paused = eventually(LIMIT, || {
        let paused = size();
        std::thread::sleep(std::time::Duration::from_millis(500));
        ensure!(size() == paused, "a paused container goes on writing");
        Ok(paused)
    })?;
    bed.ctr(&["task", "resume", &id])?.ok()?;
    bed.wait_status(&id, "RUNNING")?;
    grows(paused)
}

fn paused_container_can_be_killed(bed: &Bed) -> Outcome {
    let id = bed.sleeper()?;
    bed.ctr(&["task", "pause", &id])?.ok()?;
    bed.ctr(&["task", "kill", "--signal", "KILL", &id])?.ok()?;
    bed.wait_status(&id, "STOPPED")?;
    bed.delete(&id, &[], 137)?;
    Ok(())
}

fn pause_twice_and_resume_unpaused_are_refused(bed: &Bed) -> Outcome {
    let id = bed.sleeper()?;
    let refused = |output: integration::Output| -> Outcome {
        ensure!(output.code != 0 && output.errors().contains("ctr:"), "{}", output.report());
        Ok(())
    };
    refused(bed.ctr(&["task", "resume", &id])?)?;
    bed.ctr(&["task", "pause", &id])?.ok()?;
    refused(bed.ctr(&["task", "pause", &id])?)?;
    bed.ctr(&["task", "resume", &id])?.ok()?;
    Ok(())
}

fn ps_lists_all_processes(bed: &Bed) -> Outcome {
    let id = bed.detached(&["--null-io"], &["sh", "-c", "sleep 1000 & sleep 1000 & wait"])?;
    bed.ctr(&["task", "exec", "--detach", "--exec-id", "shown", &id, "sleep", "2000"])?.ok()?;
    let init = bed.pid(&id)?.to_string();
    eventually(LIMIT, || {
        let output = bed.ctr(&["task", "ps", &id])?.ok()?;
        let text = output.text();
        ensure!(text.lines().count() == 5, "{}", output.report());
        ensure!(text.lines().any(|line| line.split_whitespace().next() == Some(&init)), "no init\n{}", output.report());
        ensure!(text.contains("shown"), "the exec is not named\n{}", output.report());
        Ok(())
    })
}

fn metrics(bed: &Bed) -> Outcome {
    let flags = ["--null-io", "--memory-limit", "67108864"];
    let id = bed.detached(&flags, &["sh", "-c", "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; sleep 1000"])?;
    eventually(LIMIT, || {
        let output = bed.ctr(&["task", "metrics", "--format", "json", &id])?.ok()?;
        let text = output.text();
        // v1 and v2 name the same things differently; ctr prints what the shim sent.
        let shown: serde_json::Value = serde_json::from_str(&text)?;
        let number = |paths: &[&str]| {
            paths
                .iter()
                .filter_map(|path| shown.pointer(path))
                .find_map(|value| value.as_u64().or_else(|| value.as_str().and_then(|digits| digits.parse().ok())))
        };
        let cpu = number(&["/cpu/usage/total", "/cpu/usage_usec"]).unwrap_or_default();
        ensure!(cpu > 10_000, "cpu {cpu}\n{}", output.report());
        let memory = number(&["/memory/usage/usage", "/memory/usage"]).unwrap_or_default();
        ensure!(memory > 10_000, "memory {memory}\n{}", output.report());
        let limit = number(&["/memory/usage/limit", "/memory/usage_limit"]).unwrap_or_default();
        ensure!(limit == 67_108_864, "limit {limit}\n{}", output.report());
        let pids = number(&["/pids/current"]).unwrap_or_default();
        ensure!(pids == 1, "pids {pids}\n{}", output.report());
        Ok(())
    })?;
    bed.ctr(&["task", "metrics", &id])?.ok()?.says("pids.current")?;
    Ok(())
}

fn metrics_after_the_exit_until_delete(bed: &Bed) -> Outcome {
    let id = bed.detached(&["--null-io"], &["true"])?;
    bed.wait_status(&id, "STOPPED")?;
    bed.ctr(&["task", "metrics", &id])?.ok()?;
    bed.ctr(&["task", "rm", &id])?.ok()?;
    let output = bed.ctr(&["task", "metrics", &id])?;
    ensure!(output.code != 0, "{}", output.report());
    Ok(())
}

fn two_containers_of_one_pod_share_a_shim(bed: &Bed) -> Outcome {
    let annotation = format!("io.kubernetes.cri.sandbox-id=pod-of-{}", bed.containerd.namespace);
    let flags = ["--null-io", "--annotation", &annotation];
    let first = bed.detached(&flags, &["sleep", "1000"])?;
    let second = bed.detached(&flags, &["sleep", "1000"])?;
    let (shim, other) = (bed.shim(&first)?, bed.shim(&second)?);
    ensure!(shim == other && shim > 1, "the first's shim is {shim}, the second's {other}");
    bed.remove(&first)?;
    bed.exec_sh(&second, &[], "echo alive")?.ok()?.says("alive\n")?;
    bed.remove(&second)?;
    eventually(LIMIT, || {
        ensure!(!bed.containerd.host.lives(shim), "the pod's shim {shim} stays after its last container");
        Ok(())
    })
}

fn shim_keeps_no_descriptor_of_what_is_gone(bed: &Bed) -> Outcome {
    let id = bed.sleeper()?;
    let shim = bed.shim(&id)?;
    for _ in 0..3 {
        bed.exec(&id, &[], &["true"])?.ok()?;
    }
    // Those that join version 1 groups are kept while execs are frequent, and not for long.
    let all = || -> Outcome<Vec<String>> {
        let all = integration::residue::descriptors(&bed.containerd, shim)?;
        ensure!(!all.iter().any(|one| one.starts_with("/sys/fs/cgroup") && one.ends_with("/tasks")), "kept: {all:?}");
        Ok(all)
    };
    let mut before = 0;
    eventually(LIMIT, || {
        before = all()?.len();
        Ok(())
    })?;
    for _ in 0..20 {
        bed.exec(&id, &[], &["true"])?.ok()?;
    }
    let mut terminal = bed.terminal(&["task", "exec", "--exec-id", "tty", "--tty", &id, "true"])?;
    terminal.wait(LIMIT)?;
    eventually(LIMIT, || {
        let now = all()?;
        ensure!(now.len() <= before, "{before} descriptors have become {}: {now:?}", now.len());
        ensure!(!now.iter().any(|target| target.contains("ptmx")), "a console is still open: {now:?}");
        Ok(())
    })
}

fn main() {
    suite::run(
        "lifecycle",
        cases![
            created_started_stopped_deleted,
            delete_of_a_running_task_is_refused,
            kill_with_any_signal,
            exit_code_of_a_killed_task,
            kill_after_the_exit_finds_nothing,
            kill_all,
            children_die_with_a_shared_pid_namespace,
            pause_and_resume,
            paused_container_can_be_killed,
            pause_twice_and_resume_unpaused_are_refused,
            ps_lists_all_processes,
            metrics,
            metrics_after_the_exit_until_delete,
            two_containers_of_one_pod_share_a_shim,
            shim_keeps_no_descriptor_of_what_is_gone,
        ],
    );
}
