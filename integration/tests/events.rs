//! The events of a task and their order.

use integration::containerd::LIMIT;
use integration::events::{Event, topics};
use integration::{Bed, Outcome, Runtime, cases, ensure, suite};

fn one_life(bed: &Bed) -> Outcome {
    let id = bed.detached(&["--null-io"], &["sh", "-c", "exit 7"])?;
    let pid = bed.containerd.events(|events| {
        let seen = events.wait(&id, LIMIT, |seen| topics(seen).contains(&"exit"))?;
        ensure!(topics(&seen) == ["create", "start", "exit"], "the events are {:?}", topics(&seen));
        let exit = &seen[2];
        ensure!(exit.text("id") == id && exit.number("exit_status") == 7, "the exit is {exit:?}");
        // A string or a message of seconds and nanoseconds, by version.
        ensure!(!exit.message["exited_at"].is_null(), "the exit is {exit:?}");
        ensure!(seen.iter().all(|event| event.number("pid") == exit.number("pid")), "the pids differ: {seen:?}");
        ensure!(seen[0].text("bundle").ends_with(&id), "create is {:?}", seen[0]);
        Ok(exit.number("pid"))
    })?;
    bed.delete(&id, &[], 7)?;
    if bed.runtime() == Runtime::Runc {
        // The Go shim of 2.x can lose the delete event when it shuts down right after it.
        return Ok(());
    }
    bed.containerd.events(|events| {
        let seen = events.wait(&id, LIMIT, |seen| topics(seen).contains(&"delete"))?;
        ensure!(topics(&seen) == ["create", "start", "exit", "delete"], "the events are {:?}", topics(&seen));
        let delete = &seen[3];
        ensure!(delete.number("exit_status") == 7 && delete.number("pid") == pid, "delete is {delete:?}");
        Ok(())
    })
}

fn execs(bed: &Bed) -> Outcome {
    let id = bed.sleeper()?;
    bed.ctr(&["task", "exec", "--exec-id", "first", &id, "sh", "-c", "exit 5"])?.exited(5)?;
    bed.containerd.events(|events| {
        let seen = events.wait(&id, LIMIT, |seen| topics(seen).contains(&"exit"))?;
        let expected = ["create", "start", "exec-added", "exec-started", "exit"];
        ensure!(topics(&seen)[..5] == expected, "the events are {:?}", topics(&seen));
        ensure!(seen[2].text("exec_id") == "first" && seen[3].text("exec_id") == "first", "the events are {seen:?}");
        let exit = &seen[4];
        ensure!(exit.text("id") == "first" && exit.number("exit_status") == 5, "the exit is {exit:?}");
        ensure!(exit.number("pid") == seen[3].number("pid") && exit.number("pid") > 0, "the pids differ: {seen:?}");
        Ok(())
    })
}

fn exit_of_init_is_the_last(bed: &Bed) -> Outcome {
    let id = bed.sleeper()?;
    for number in 0..5 {
        bed.ctr(&["task", "exec", "--detach", "--exec-id", &format!("e{number}"), &id, "sleep", "1000"])?.ok()?;
    }
    bed.ctr(&["task", "kill", "--signal", "KILL", &id])?.ok()?;
    bed.containerd.events(|events| {
        let exits = |seen: &[Event]| topics(seen).iter().filter(|topic| **topic == "exit").count();
        let seen = events.wait(&id, LIMIT, |seen| exits(seen) >= 6)?;
        let exits: Vec<&str> =
            seen.iter().filter(|event| event.topic == "/tasks/exit").map(|event| event.text("id")).collect();
        ensure!(exits.len() == 6 && exits[5] == id, "the exits are {exits:?}");
        Ok(())
    })
}

fn paused_and_resumed(bed: &Bed) -> Outcome {
    let id = bed.sleeper()?;
    bed.ctr(&["task", "pause", &id])?.ok()?;
    bed.ctr(&["task", "resume", &id])?.ok()?;
    bed.containerd.events(|events| {
        let seen = events.wait(&id, LIMIT, |seen| topics(seen).contains(&"resumed"))?;
        ensure!(topics(&seen) == ["create", "start", "paused", "resumed"], "the events are {:?}", topics(&seen));
        Ok(())
    })
}

fn oom_comes_before_the_exit(bed: &Bed) -> Outcome {
    let id = eater(bed, "exec tail /dev/zero")?;
    bed.containerd.events(|events| {
        // The Go shim sends the two from two threads: on a busy machine it may be the other way round.
        let runc = bed.runtime() == Runtime::Runc;
        let exit = |event: &Event| event.topic == "/tasks/exit" && event.text("id") == id;
        let all = |seen: &[Event]| seen.iter().any(exit) && (!runc || topics(seen).contains(&"oom"));
        let seen = events.wait(&id, LIMIT, all)?;
        let oom = seen.iter().position(|event| event.topic == "/tasks/oom");
        let exit = seen.iter().position(exit);
        ensure!(oom.is_some() && (runc || oom < exit), "the events are {:?}", topics(&seen));
        ensure!(seen[exit.unwrap_or_default()].number("exit_status") == 137, "the events are {seen:?}");
        Ok(())
    })
}

fn oom_of_a_child_leaves_the_container(bed: &Bed) -> Outcome {
    let id = eater(bed, "(echo 1000 >/proc/self/oom_score_adj; exec tail /dev/zero); sleep 1000")?;
    bed.containerd.events(|events| events.wait(&id, LIMIT, |seen| topics(seen).contains(&"oom")))?;
    let status = bed.status(&id)?;
    ensure!(status.as_deref() == Some("RUNNING"), "the container is {status:?}");
    Ok(())
}

/// A container that takes more memory than it may, from its first moment on. Not so on runc, whose shim watches for that only
/// when the process has been started: there it waits until it is told.
fn eater(bed: &Bed, script: &str) -> Outcome<String> {
    let flags = ["--null-io", "--memory-limit", "20971520"];
    if bed.runtime() == Runtime::Mini {
        return bed.detached(&flags, &["sh", "-c", script]);
    }
    let id = bed.detached(&flags, &["sh", "-c", &format!("until [ -e /go ]; do sleep 0.1; done; {script}")])?;
    bed.ctr(&["task", "exec", "--exec-id", "go", &id, "touch", "/go"])?.ok()?;
    Ok(id)
}

/// `true` exits in its first millisecond: the exit is there before the shim has heard of the start.
fn a_thousand_exits_in_the_first_millisecond(bed: &Bed) -> Outcome {
    // ctr takes ten times as long as the container lives: four of them side by side.
    let each = match bed.runtime() {
        Runtime::Mini if std::env::var_os("MINI_SOAK").is_some() => 2500,
        Runtime::Mini => 250,
        // Enough to know that the test is right.
        Runtime::Runc => 25,
    };
    std::thread::scope(|scope| {
        let lives: Vec<_> = (0..4).map(|worker| scope.spawn(move || lives(bed, worker, each))).collect();
        lives.into_iter().try_for_each(|life| life.join().map_err(|_| "a worker panicked")?)
    })
}

fn lives(bed: &Bed, worker: u32, count: u32) -> Outcome {
    let name = bed.id();
    for number in 0..count {
        let id = format!("{name}-{worker}-{number}");
        bed.ctr(&bed.run_words(&id, &["--rm", "--null-io"], &["true"]))?.ok()?;
        bed.containerd.events(|events| {
            let place = |seen: &[Event], topic: &str| topics(seen).iter().position(|known| *known == topic);
            if bed.runtime() == Runtime::Runc {
                // The Go shim of 2.x can send the delete before the exit, or lose it when it shuts down right after.
                let seen = events.wait(&id, LIMIT, |seen| place(seen, "exit").is_some())?;
                ensure!(place(&seen, "start") < place(&seen, "exit"), "the events are {:?}", topics(&seen));
                return Ok(());
            }
            let seen = events.wait(&id, LIMIT, |seen| place(seen, "delete").is_some())?;
            ensure!(topics(&seen) == ["create", "start", "exit", "delete"], "the events are {:?}", topics(&seen));
            Ok(())
        })?;
    }
    Ok(())
}

fn main() {
    suite::run(
        "events",
        cases![
            a_thousand_exits_in_the_first_millisecond,
            one_life,
            execs,
            exit_of_init_is_the_last,
            paused_and_resumed,
            oom_comes_before_the_exit,
            oom_of_a_child_leaves_the_container,
        ],
    );
}
