//! `binary://` loggers that do what loggers should not.

use integration::containerd::LIMIT;
use integration::{Bed, Outcome, ensure, eventually};
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

/// The URI of a logger that runs the script: 3 and 4 are the outputs, 5 says ready by its end.
pub fn logger(bed: &Bed, script: &str) -> Outcome<String> {
    let program = bed.directory("logger")?.join("logger");
    std::fs::write(&program, format!("#!/bin/bash\n{script}\n"))?;
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755))?;
    Ok(format!("binary://{}", program.display()))
}

fn logged(bed: &Bed) -> Outcome<String> {
    Ok(std::fs::read_to_string(bed.directory("logger")?.join("log"))?)
}

/// A script that keeps a log of stdout, after `before`.
fn keeps(bed: &Bed, before: &str) -> Outcome<String> {
    Ok(format!("exec 5>&-; {before} exec cat <&3 > {}", bed.directory("logger")?.join("log").display()))
}

/// Processes of the test's logger.
fn running(bed: &Bed) -> Outcome<usize> {
    let program = bed.directory("logger")?.join("logger").display().to_string();
    Ok(bed.containerd.host.processes()?.iter().filter(|(_, argv)| argv.contains(&program)).count())
}

fn assert_gone(bed: &Bed) -> Outcome {
    eventually(LIMIT, || {
        let left = running(bed)?;
        ensure!(left == 0, "{left} processes of the logger are still there");
        Ok(())
    })
}

pub fn logger_that_does_not_exist(bed: &Bed) -> Outcome {
    let id = bed.id();
    let output = bed.ctr(&bed.run_words(&id, &["--detach", "--log-uri", "binary:///no/such/logger"], &["true"]))?;
    let output = output.failed_with("/no/such/logger")?.failed_with("no such file or directory")?;
    output.failed_with("failed to create init process I/O: failed to start binary process: ")?;
    Ok(())
}

pub fn logger_that_is_never_ready(bed: &Bed) -> Outcome {
    let uri = logger(bed, "exec sleep 54321")?;
    let id = bed.id();
    let output = bed.ctr(&bed.run_words(&id, &["--detach", "--log-uri", &uri], &["true"]))?;
    output.failed_with("was not ready after")?;
    let left = bed.containerd.host.processes()?.iter().any(|(_, argv)| argv.iter().any(|word| word == "54321"));
    ensure!(!left, "the logger is still there");
    Ok(())
}

pub fn logger_that_crashes_at_once(bed: &Bed) -> Outcome {
    let uri = logger(bed, "exit 1")?;
    // A pipe nobody reads, as everywhere: the process is told and goes on.
    let script = "trap '' PIPE; echo unheard || exit 44; exit 45";
    let id = bed.detached(&["--log-uri", &uri], &["sh", "-c", script])?;
    bed.wait_status(&id, "STOPPED")?;
    bed.delete(&id, &[], 44)
}

pub fn logger_that_crashes_midway(bed: &Bed) -> Outcome {
    let uri = logger(bed, "exec 5>&-; head -c 100000 <&3 > /dev/null; exit 1")?;
    let script = "trap '' PIPE; i=0; while [ $i -lt 100000 ]; do i=$((i+1)); echo line $i || exit 44; done; exit 45";
    let id = bed.detached(&["--log-uri", &uri], &["sh", "-c", script])?;
    bed.wait_status(&id, "STOPPED")?;
    bed.delete(&id, &[], 44)?;
    assert_gone(bed)
}

pub fn logger_that_hangs(bed: &Bed) -> Outcome {
    let uri = logger(bed, "trap '' TERM; exec 5>&-; while :; do sleep 0.2; done")?;
    // More than the pipe takes: it waits for its logger.
    let blocked = bed.detached(&["--log-uri", &uri], &["sh", "-c", "seq 1 1000000"])?;
    // Less: it ends, and that is told though nobody reads its words.
    let quick = bed.detached(&["--log-uri", &uri], &["sh", "-c", "echo unheard; exit 3"])?;
    bed.wait_status(&quick, "STOPPED")?;
    bed.wait_status(&blocked, "RUNNING")?;
    bed.exec_sh(&blocked, &[], "echo still there")?.ok()?.says("still there\n")?;
    bed.ctr(&["task", "kill", "--signal", "KILL", &blocked])?.ok()?;
    bed.wait_status(&blocked, "STOPPED")?;
    let start = Instant::now();
    bed.delete(&quick, &[], 3)?;
    bed.delete(&blocked, &[], 137)?;
    // 10 s each for the last words.
    ensure!(start.elapsed() < Duration::from_secs(45), "the deletes took {:?}", start.elapsed());
    assert_gone(bed)
}

pub fn logger_that_is_slow_gets_the_tail(bed: &Bed) -> Outcome {
    let uri = logger(bed, &keeps(bed, "sleep 3;")?)?;
    let id = bed.detached(&["--log-uri", &uri], &["seq", "1", "5000"])?;
    bed.wait_status(&id, "STOPPED")?;
    bed.delete(&id, &[], 0)?;
    let expected: String = (1..=5000).map(|i| format!("{i}\n")).collect();
    eventually(LIMIT, || {
        let log = logged(bed)?;
        ensure!(log == expected, "{} bytes of {} were logged", log.len(), expected.len());
        Ok(())
    })
}

pub fn short_lives_lose_no_line(bed: &Bed) -> Outcome {
    let count = if std::env::var_os("MINI_SOAK").is_some() { 2000 } else { 15 };
    let directory = bed.directory("logger")?.display().to_string();
    let uri = logger(bed, &format!("exec 5>&-; exec cat <&3 > {directory}/$CONTAINER_ID"))?;
    for _ in 0..count {
        let id = bed.detached(&["--log-uri", &uri], &["echo", "a short life"])?;
        bed.wait_status(&id, "STOPPED")?;
        bed.remove(&id)?;
        eventually(LIMIT, || {
            let log = std::fs::read_to_string(format!("{directory}/{id}"))?;
            ensure!(log == "a short life\n", "{id} left {log:?}");
            Ok(())
        })?;
    }
    Ok(())
}
