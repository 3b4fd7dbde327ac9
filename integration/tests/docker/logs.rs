//! What containers say reaches `docker logs`: all of it, in order.

use integration::containerd::LIMIT;
use integration::{Docker, Outcome, ensure, eventually};
use std::sync::atomic::{AtomicUsize, Ordering};

pub fn both_streams_tail_and_timestamps(docker: &Docker) -> Outcome {
    let id = docker.detached(&[], &["sh", "-c", "for i in 1 2 3 4 5; do echo out $i; echo err $i >&2; done"])?;
    docker.docker(&["wait", &id])?.ok()?.says("0\n")?;
    let output = docker.docker(&["logs", &id])?.ok()?;
    let lines = |word: &str| (1..6).map(|i| format!("{word} {i}\n")).collect::<String>();
    ensure!(output.text() == lines("out") && output.errors() == lines("err"), "{}", output.report());
    let output = docker.docker(&["logs", "--tail", "3", &id])?.ok()?;
    ensure!(output.text().lines().count() + output.errors().lines().count() == 3, "{}", output.report());
    let output = docker.docker(&["logs", "--timestamps", "--tail", "1", &id])?.ok()?;
    ensure!((output.text() + &output.errors()).starts_with("20"), "{}", output.report());
    Ok(())
}

pub fn follow_to_the_end(docker: &Docker) -> Outcome {
    let script = "for i in 1 2 3; do echo line $i; read x; done";
    let id = docker.detached(&["--interactive"], &["sh", "-c", script])?;
    let follower = docker.client(&["logs", "--follow", &id])?;
    let mut writer = docker.client(&["attach", &id])?;
    follower.wait_for("line 1\n")?;
    writer.write(b"\n")?;
    follower.wait_for("line 1\nline 2\n")?;
    writer.write(b"\n\n")?;
    let output = follower.wait()?.ok()?;
    ensure!(output.text() == "line 1\nline 2\nline 3\n", "{}", output.report());
    writer.wait()?.ok()?;
    Ok(())
}

pub fn since_and_until(docker: &Docker) -> Outcome {
    let id = docker.detached(&["--interactive"], &["sh", "-c", "echo early; read x; echo late; read x"])?;
    let mut writer = docker.client(&["attach", &id])?;
    let logged = |words: &str| {
        eventually(LIMIT, || docker.docker(&["logs", "--timestamps", &id])?.ok()?.says(words))
            .map(|output| output.text())
    };
    let early = logged("early")?;
    let early = early.split(' ').next().ok_or("no time")?;
    writer.write(b"\n")?;
    let late = logged("late")?;
    let late = late.lines().last().and_then(|line| line.split(' ').next()).ok_or("no time")?;
    let output = docker.docker(&["logs", "--since", late, &id])?.ok()?;
    ensure!(output.text() == "late\n", "{}", output.report());
    let output = docker.docker(&["logs", "--until", early, &id])?.ok()?;
    ensure!(output.text() == "early\n", "{}", output.report());
    writer.write(b"\n")?;
    writer.wait()?.ok()?;
    Ok(())
}

/// Followers that begin late: with the last lines only, or with what came since a time.
pub fn follow_from_a_point(docker: &Docker) -> Outcome {
    let script = "for i in 1 2 3; do echo line $i; done; read x; echo line 4";
    let id = docker.detached(&["--interactive"], &["sh", "-c", script])?;
    let text = eventually(LIMIT, || docker.docker(&["logs", "--timestamps", &id])?.ok()?.says("line 3"))?.text();
    let third = text.lines().last().and_then(|line| line.split(' ').next()).ok_or("no time")?;
    let tail = docker.client(&["logs", "--follow", "--tail", "2", &id])?;
    let none = docker.client(&["logs", "--follow", "-n", "0", &id])?;
    let since = docker.client(&["logs", "--follow", "--since", third, &id])?;
    tail.wait_for("line 2\nline 3\n")?;
    since.wait_for("line 3\n")?;
    let mut writer = docker.client(&["attach", &id])?;
    writer.write(b"\n")?;
    let none = none.wait()?.ok()?;
    // It may have begun when all was said.
    ensure!(["", "line 4\n"].contains(&none.text().as_str()), "{}", none.report());
    for (follower, expected) in [(tail, "line 2\nline 3\nline 4\n"), (since, "line 3\nline 4\n")] {
        let output = follower.wait()?.ok()?;
        ensure!(output.text() == expected, "{}", output.report());
    }
    writer.wait()?.ok()?;
    Ok(())
}

/// Lives of some milliseconds: each line of each is there. `MINI_SOAK_LIVES` says how many, where it is set.
pub fn nothing_lost_of_short_lives(docker: &Docker) -> Outcome {
    const WIDTH: usize = 4;
    const BATCH: usize = 20;
    let batches = match std::env::var("MINI_SOAK_LIVES") {
        Ok(lives) => lives.parse::<usize>()?.div_ceil(BATCH),
        Err(_) if std::env::var_os("MINI_SOAK").is_some() => 500,
        Err(_) if docker.on_mini() => 10,
        Err(_) => 2,
    };
    let next = AtomicUsize::new(0);
    let batch = |first: usize| -> Outcome {
        let mut ids = Vec::new();
        for number in first..first + BATCH {
            let script = format!("echo first {number}; echo trouble {number} >&2; echo last {number}");
            ids.push(docker.detached(&["--pull", "never"], &["sh", "-c", &script])?);
        }
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        let codes = docker.docker(&[&["wait"], ids.as_slice()].concat())?.ok()?.text();
        ensure!(codes == "0\n".repeat(BATCH), "the exit codes are {codes:?}");
        for (number, id) in (first..).zip(&ids) {
            let output = docker.docker(&["logs", id])?.ok()?;
            let right = output.text() == format!("first {number}\nlast {number}\n")
                && output.errors() == format!("trouble {number}\n");
            ensure!(right, "life {number}: {}", output.report());
        }
        docker.docker(&[&["rm"], ids.as_slice()].concat())?.ok()?;
        Ok(())
    };
    let done = AtomicUsize::new(0);
    let outcome = std::thread::scope(|scope| {
        let work = || {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= batches {
                    return Ok(());
                }
                batch(number * BATCH)?;
                done.fetch_add(BATCH, Ordering::Relaxed);
            }
        };
        let workers: Vec<_> = (0..WIDTH).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().map_err(|_| "a worker panicked")?)
    });
    println!("{} lives, each line of each in its log", done.into_inner());
    outcome
}

pub fn much_output_arrives_unchanged(docker: &Docker) -> Outcome {
    let script = "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); echo line number $i of twenty thousand; done";
    let output = docker.sh(&[], script)?.ok()?;
    let expected: String = (1..=20_000).map(|i| format!("line number {i} of twenty thousand\n")).collect();
    ensure!(output.text() == expected, "the attached client got {} bytes of {}", output.stdout.len(), expected.len());
    let id = docker.detached(&[], &["sh", "-c", script])?;
    docker.docker(&["wait", &id])?.ok()?;
    let output = docker.docker(&["logs", &id])?.ok()?;
    ensure!(output.text() == expected, "the log has {} bytes of {}", output.stdout.len(), expected.len());
    Ok(())
}

/// Lines longer than any buffer, as fast as they come (64 MB, 1 GB in the soak): the attached client and the log have the
/// same bytes.
pub fn equal_checksums(docker: &Docker) -> Outcome {
    let limit = LIMIT * 15;
    let blocks = if std::env::var_os("MINI_SOAK").is_some() { 128 } else { 8 };
    let directory = docker.directory("block")?;
    let line = |number: usize| format!("{number} {}\n", number.to_string().repeat(40_000 / number.to_string().len()));
    let mut block: String = (1000..1210).map(line).collect();
    block.truncate(8 << 20);
    std::fs::write(directory.join("block"), block)?;
    let volume = format!("{}:/mnt:ro", directory.display());
    let script = format!("i=0; while [ $i -lt {blocks} ]; do i=$((i+1)); cat /mnt/block || exit 1; done");
    let expected = docker
        .shell_within(limit, &format!("cd {}; {{ {script}; }} | md5sum", directory.display()).replace("/mnt/", ""))?;
    let expected = expected.ok()?.text();
    let id = docker.id();
    let words = docker.words("run", &["--name", &id, "--volume", &volume], &["sh", "-c", &script]);
    let quoted: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
    let output = docker.shell_within(limit, &format!("set -o pipefail; docker {} | md5sum", quoted.join(" ")))?.ok()?;
    ensure!(output.text() == expected, "the attached client has {}, not {expected}", output.text());
    let output = docker.shell_within(limit, &format!("set -o pipefail; docker logs {id} | md5sum"))?.ok()?;
    ensure!(output.text() == expected, "the log has {}, not {expected}", output.text());
    Ok(())
}

pub fn local_driver_and_none(docker: &Docker) -> Outcome {
    let id = docker.detached(&["--log-driver", "local"], &["echo", "kept"])?;
    docker.docker(&["wait", &id])?.ok()?;
    docker.docker(&["logs", &id])?.ok()?.says("kept\n")?;
    let id = docker.detached(&["--log-driver", "none"], &["echo", "lost"])?;
    docker.docker(&["wait", &id])?.ok()?;
    docker.docker(&["logs", &id])?.failed_with("configured logging driver does not support reading")?;
    docker.run(&["--log-driver", "none"], &["echo", "seen"])?.ok()?.says("seen\n")?;
    Ok(())
}
