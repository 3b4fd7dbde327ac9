//! From create to rm, in the foreground, in the background and on terminals.

use integration::containerd::LIMIT;
use integration::{Docker, Outcome, ensure, eventually};

pub fn output_errors_and_exit_codes(docker: &Docker) -> Outcome {
    for code in [0, 1, 7, 126, 127, 255] {
        let output = docker.sh(&[], &format!("echo out; echo err >&2; exit {code}"))?.exited(code)?;
        ensure!(output.text() == "out\n" && output.errors() == "err\n", "{}", output.report());
    }
    Ok(())
}

pub fn stdin_is_passed_to_its_end(docker: &Docker) -> Outcome {
    let words = docker.words("run", &["--rm", "--interactive"], &["sh", "-c", "echo ready; md5sum"]);
    let mut client = docker.client(&words)?;
    client.wait_for("ready\n")?;
    client.write(&[b'x'; 1 << 20])?;
    drop(client.take_stdin());
    client.wait()?.ok()?.says("b561f87202d04959e37588ee05cf5b10")?;
    Ok(())
}

pub fn create_start_restart_rm(docker: &Docker) -> Outcome {
    let id = docker.id();
    let script = "echo life; trap 'exit 3' TERM; sleep 1000 & wait";
    docker.docker(&docker.words("create", &["--name", &id], &["sh", "-c", script]))?.ok()?;
    ensure!(docker.inspect(&id, "{{.State.Status}} {{.State.Pid}}")? == "created 0", "not created");
    docker.docker(&["start", &id])?.ok()?.says(&id)?;
    let first = docker.pid(&id)?;
    lives(docker, &id, 1)?;
    docker.docker(&["restart", &id])?.ok()?;
    ensure!(docker.pid(&id)? != first, "restart did not change the pid");
    lives(docker, &id, 2)?;
    docker.docker(&["stop", &id])?.ok()?;
    ensure!(docker.inspect(&id, "{{.State.Status}} {{.State.ExitCode}}")? == "exited 3", "not stopped with 3");
    docker.docker(&["start", &id])?.ok()?;
    lives(docker, &id, 3)?;
    docker.docker(&["rm", &id])?.failed_with("container is running")?;
    docker.docker(&["rm", "--force", &id])?.ok()?;
    docker.docker(&["inspect", &id])?.failed_with("No such object")?;
    Ok(())
}

/// Waits until the container has begun so many lives, and so has its trap.
pub fn lives(docker: &Docker, id: &str, count: usize) -> Outcome {
    eventually(LIMIT, || {
        let logs = docker.docker(&["logs", id])?.ok()?.text();
        ensure!(logs.lines().count() == count, "the lives of {id} are {logs:?}, not {count}");
        Ok(())
    })
}

pub fn start_attached_shows_each_life(docker: &Docker) -> Outcome {
    let id = docker.id();
    let script = "echo out $((1 + $(cat /n || echo 0))) | tee /tmp/l; cut -d' ' -f2 /tmp/l > /n; exit 5";
    docker.docker(&docker.words("create", &["--name", &id], &["sh", "-c", script]))?.ok()?;
    for life in 1..4 {
        docker.docker(&["start", "--attach", &id])?.exited(5)?.says(&format!("out {life}\n"))?;
    }
    Ok(())
}

pub fn kill_and_stop_codes(docker: &Docker) -> Outcome {
    // pid 1 without a handler: SIGTERM does nothing to it, and stop falls back to SIGKILL.
    let id = docker.detached(&[], &["sleep", "1000"])?;
    docker.docker(&["stop", "--time", "1", &id])?.ok()?;
    ensure!(docker.inspect(&id, "{{.State.ExitCode}}")? == "137", "stop gave another code than 137");
    let id = docker.detached(&[], &["sleep", "1000"])?;
    docker.docker(&["kill", &id])?.ok()?;
    docker.docker(&["wait", &id])?.ok()?.says("137\n")?;
    docker.docker(&["kill", &id])?.failed_with("is not running")?;
    let id = docker.detached(&["--init"], &["sh", "-c", "echo; exec sleep 1000"])?;
    lives(docker, &id, 1)?;
    docker.docker(&["kill", "--signal", "TERM", &id])?.ok()?;
    docker.docker(&["wait", &id])?.ok()?.says("143\n")?;
    let id =
        docker.detached(&["--stop-signal", "USR1"], &["sh", "-c", "trap 'exit 9' USR1; echo; sleep 1000 & wait"])?;
    lives(docker, &id, 1)?;
    docker.docker(&["stop", &id])?.ok()?;
    ensure!(docker.inspect(&id, "{{.State.ExitCode}}")? == "9", "the stop signal was not USR1");
    Ok(())
}

/// What `docker run` itself ends with when its container is ended by somebody else.
pub fn codes_of_an_attached_client(docker: &Docker) -> Outcome {
    let script = "trap 'exit 143' TERM; echo ready; sleep 1000 & wait";
    for (verb, code) in [("stop", 143), ("kill", 137)] {
        let id = docker.id();
        let client = docker.client(&docker.words("run", &["--name", &id], &["sh", "-c", script]))?;
        client.wait_for("ready\n")?;
        docker.docker(&[verb, &id])?.ok()?;
        client.wait()?.exited(code)?;
    }
    Ok(())
}

pub fn signals_of_the_client_are_passed_on(docker: &Docker) -> Outcome {
    let id = docker.id();
    let script = "trap 'exit 44' HUP; echo ready; sleep 1000 & wait";
    let client = docker.client(&docker.words("run", &["--name", &id], &["sh", "-c", script]))?;
    client.wait_for("ready\n")?;
    let processes = docker.containerd.host.processes()?;
    let is_client = |argv: &[String]| argv[0].ends_with("/docker") && argv.contains(&id);
    let (pid, _) = processes.iter().find(|(_, argv)| is_client(argv)).ok_or("no client")?;
    docker.containerd.host.kill(*pid, "HUP")?;
    client.wait()?.exited(44)?;
    Ok(())
}

pub fn terminal(docker: &Docker) -> Outcome {
    let words = docker.words("run", &["--rm", "-it"], &["sh"]);
    let mut terminal = docker.terminal(&words)?;
    terminal.wait_for("/ #", LIMIT)?;
    terminal.send("test -t 0 && test -t 1 && test -t 2 && echo all $((1 + 1))\n")?;
    terminal.wait_for("all 2\n", LIMIT)?;
    // docker sets the size by a call of its own, after the start.
    eventually(LIMIT, || size(&mut terminal, "40 100"))?;
    eventually(LIMIT, || {
        // It listens to SIGWINCH only some time after that, and the kernel sends it for a change only.
        terminal.resize(33, 76)?;
        terminal.resize(33, 77)?;
        size(&mut terminal, "33 77")
    })?;
    // An interrupt from the keyboard goes to what is in the foreground inside.
    terminal.send("sleep 1000\n")?;
    eventually(LIMIT, || {
        // One that comes too early is for the shell itself.
        terminal.send("\x03")?;
        terminal.send("echo code $?\n")?;
        std::thread::sleep(std::time::Duration::from_millis(100));
        ensure!(terminal.screen().contains("code 130\n"), "{:?}", terminal.screen());
        Ok(())
    })?;
    terminal.send("exit 6\n")?;
    ensure!(terminal.wait(LIMIT)? == 6, "the client did not end with the shell's code");
    Ok(())
}

/// Asks inside whether the size is as expected.
fn size(terminal: &mut integration::pty::Pty, expected: &str) -> Outcome {
    terminal.send("echo size: $(stty size)\n")?;
    std::thread::sleep(std::time::Duration::from_millis(50));
    ensure!(terminal.screen().contains(&format!("size: {expected}\n")), "{:?}", terminal.screen());
    Ok(())
}

pub fn detach_and_attach_again(docker: &Docker) -> Outcome {
    let id = docker.id();
    let mut first = docker.terminal(&docker.words("run", &["-it", "--name", &id], &["sh"]))?;
    first.wait_for("/ #", LIMIT)?;
    // What comes in one piece with the detach keys, the client may throw away.
    first.send("x=kept; echo set $((1 + 1))\n")?;
    first.wait_for("set 2\n", LIMIT)?;
    first.send("\x10\x11")?;
    first.wait(LIMIT)?;
    docker.wait_for(&id, "{{.State.Running}}", "true")?;
    let mut second = docker.terminal(&["attach", "--detach-keys", "ctrl-x,x", &id])?;
    attached(&mut second)?;
    second.send("echo it is $x\n")?;
    second.wait_for("it is kept\n", LIMIT)?;
    second.send("\x18x")?;
    second.wait(LIMIT)?;
    docker.wait_for(&id, "{{.State.Running}}", "true")?;
    let mut third = docker.terminal(&["attach", &id])?;
    attached(&mut third)?;
    third.send("exit 12\n")?;
    ensure!(third.wait(LIMIT)? == 12, "attach did not end with the container's code: {:?}", third.screen());
    Ok(())
}

/// An attached client prints nothing by itself: an empty line makes the shell show its prompt.
fn attached(terminal: &mut integration::pty::Pty) -> Outcome {
    eventually(LIMIT, || {
        terminal.send("\n")?;
        std::thread::sleep(std::time::Duration::from_millis(50));
        ensure!(terminal.screen().contains("/ #"), "the prompt does not come");
        Ok(())
    })
}

pub fn attach_without_a_terminal(docker: &Docker) -> Outcome {
    let script = "while read line; do test $line = end && exit 4; echo got $line; done";
    let id = docker.detached(&["--interactive"], &["sh", "-c", script])?;
    let mut client = docker.client(&["attach", &id])?;
    client.write(b"one\ntwo\n")?;
    client.wait_for("got one\ngot two\n")?;
    // The end of this client's stdin is not the end of the container's: another may attach.
    drop(client.take_stdin());
    let mut second = docker.client(&["attach", &id])?;
    second.write(b"three\n")?;
    second.wait_for("got three\n")?;
    second.write(b"end\n")?;
    second.wait()?.exited(4)?;
    client.wait()?.exited(4)?;
    Ok(())
}

pub fn inspect_of_a_life(docker: &Docker) -> Outcome {
    let id = docker.sleeper(&[])?;
    let state =
        "{{.State.Status}} {{.State.Running}} {{.State.OOMKilled}} {{.State.ExitCode}} {{printf \"%q\" .State.Error}}";
    let now = docker.inspect(&id, state)?;
    ensure!(now == "running true false 0 \"\"", "the state is {now:?}");
    let pid = docker.pid(&id)?;
    let argv = docker.containerd.host.processes()?.into_iter().find(|process| process.0 == pid);
    ensure!(argv.is_some_and(|(_, argv)| argv[0] == "sh"), "pid {pid} is another process");
    let started = docker.inspect(&id, "{{.State.StartedAt}}")?;
    ensure!(started.starts_with("20"), "started at {started:?}");
    docker.docker(&["kill", &id])?.ok()?;
    docker.docker(&["wait", &id])?.ok()?.says("137\n")?;
    let now = docker.inspect(&id, &format!("{{{{.State.Pid}}}} {state}"))?;
    ensure!(now == "0 exited false false 137 \"\"", "the state is {now:?}");
    let finished = docker.inspect(&id, "{{.State.FinishedAt}}")?;
    ensure!(finished > started, "started at {started}, finished at {finished}");
    Ok(())
}

pub fn shim_is_the_one_asked_for(docker: &Docker) -> Outcome {
    let id = docker.sleeper(&[])?;
    let shim = docker.containerd.host.parent(docker.pid(&id)?)?;
    let processes = docker.containerd.host.processes()?;
    let argv = processes.iter().find(|process| process.0 == shim).map(|process| &process.1).ok_or("no shim")?;
    let expected = if docker.on_mini() { "containerd-shim-mini-v2" } else { "containerd-shim-runc-v2" };
    ensure!(argv[0].ends_with(expected), "the parent is {argv:?}");
    let runtime = docker.inspect(&id, "{{.HostConfig.Runtime}}")?;
    ensure!(runtime == docker.containerd.runtime.name(), "the runtime is {runtime}");
    Ok(())
}
