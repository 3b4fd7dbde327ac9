//! `ctr task exec`.

use integration::containerd::LIMIT;
use integration::{Bed, Outcome, cases, ensure, eventually, suite};

fn output_and_exit_codes(bed: &Bed) -> Outcome {
    let id = bed.sleeper()?;
    let output = bed.exec_sh(&id, &[], "echo hello; echo trouble >&2; exit 7")?.exited(7)?;
    ensure!(output.text() == "hello\n" && output.errors() == "trouble\n", "{}", output.report());
    for code in [0, 1, 126, 127, 255] {
        bed.exec(&id, &[], &["sh", "-c", &format!("exit {code}")])?.exited(code)?;
    }
    Ok(())
}

fn death_by_a_signal_is_128_and_its_number(bed: &Bed) -> Outcome {
    let id = bed.sleeper()?;
    for (signal, code) in [("TERM", 143), ("KILL", 137), ("USR1", 138), ("SEGV", 139)] {
        bed.exec(&id, &[], &["sh", "-c", &format!("kill -{signal} $$; sleep 10")])?.exited(code)?;
    }
    Ok(())
}

fn is_inside_the_container(bed: &Bed) -> Outcome {
    let id = bed.detached(&["--null-io", "--env", "FROM_SPEC=yes"], &["sleep", "100000"])?;
    let script = "for n in ipc mnt net pid uts; do readlink /proc/1/ns/$n; readlink /proc/self/ns/$n; done
        cat /etc/image-name; ps -o pid,args; pwd; cat /proc/self/cgroup; echo $FROM_SPEC";
    let output = bed.exec_sh(&id, &[], script)?.ok()?;
    let text = output.text();
    let namespaces: Vec<&str> = text.lines().take(10).collect();
    ensure!(namespaces.chunks(2).all(|pair| pair[0] == pair[1]), "{}", output.report());
    let own = format!("/{}/{id}", bed.containerd.namespace);
    let groups: Vec<&str> = text.lines().filter(|line| line.contains(":/")).collect();
    ensure!(!groups.is_empty() && groups.iter().all(|line| line.ends_with(&own)), "{}", output.report());
    output.says("mini-busybox\n")?.says("sleep 100000\n")?.says("\n/\n")?.says("\nyes\n")?;
    Ok(())
}

fn confinement_is_the_containers(bed: &Bed) -> Outcome {
    let id = bed.detached(&["--null-io", "--seccomp", "--cap-drop", "CAP_CHOWN"], &["sleep", "100000"])?;
    let fields = "grep -E 'Cap|NoNewPrivs|Seccomp:|Sig(Blk|Ign)' /proc/$1/status";
    let of_exec = bed.exec_sh(&id, &[], &fields.replace("$1", "self"))?.ok()?;
    let of_init = bed.exec_sh(&id, &[], &fields.replace("$1", "1"))?.ok()?;
    ensure!(of_exec.text() == of_init.text(), "exec has\n{}init has\n{}", of_exec.text(), of_init.text());
    of_exec.says("Seccomp:\t2\n")?.says("NoNewPrivs:\t1\n")?;
    Ok(())
}

fn user_and_cwd(bed: &Bed) -> Outcome {
    let id = bed.sleeper()?;
    let script = "id -u; id -g; pwd; grep CapEff /proc/self/status";
    let output = bed.exec_sh(&id, &["--user", "1000", "--cwd", "/etc"], script)?.ok()?;
    output.says("1000\n1000\n/etc\nCapEff:\t0000000000000000\n")?;
    bed.exec_sh(&id, &["--user", "nobody"], "id -u")?.ok()?.says("65534\n")?;
    Ok(())
}

fn stdin(bed: &Bed) -> Outcome {
    let id = bed.sleeper()?;
    let mut client = bed.exec_start(&id, &[], &["sh", "-c", "echo up; cat; echo ended; sleep 0.3"])?;
    client.wait_for("up\n")?;
    client.write(b"one\ntwo\n")?;
    drop(client.take_stdin());
    client.wait()?.ok()?.says("up\none\ntwo\nended\n")?;
    Ok(())
}

fn terminal(bed: &Bed) -> Outcome {
    let id = bed.sleeper()?;
    let mut terminal = bed.terminal(&["task", "exec", "--exec-id", "with-terminal", "--tty", &id, "sh"])?;
    terminal.wait_for("# ", LIMIT)?;
    terminal.send("tty; test -t 0 && test -t 1 && test -t 2 && echo on a terminal\n")?;
    terminal.wait_for("/dev/pts/0\non a terminal\n", LIMIT)?;
    eventually(LIMIT, || {
        // ctr listens to SIGWINCH only some time after the start, and the kernel sends it for a change only.
        terminal.resize(21, 42)?;
        terminal.resize(21, 43)?;
        terminal.send("stty size\n")?;
        terminal.wait_for("21 43\n", std::time::Duration::from_millis(500))
    })?;
    terminal.send("exit 6\n")?;
    let code = terminal.wait(LIMIT)?;
    ensure!(code == 6, "exit code {code}");
    Ok(())
}

/// `kubectl exec -it` and a server that is started in the background and survives the hang-up.
fn terminal_ends_with_its_process(bed: &Bed) -> Outcome {
    let id = bed.sleeper()?;
    let script = "trap '' HUP; sleep 1000 & echo started";
    let mut terminal = bed.terminal(&["task", "exec", "--exec-id", "leaver", "--tty", &id, "sh", "-c", script])?;
    let begun = std::time::Instant::now();
    let code = terminal.wait(LIMIT)?;
    let took = begun.elapsed();
    ensure!(code == 0 && terminal.screen().contains("started\n"), "exit code {code}: {:?}", terminal.screen());
    ensure!(took < std::time::Duration::from_secs(6), "the client waits for whom the process left behind: {took:?}");
    Ok(())
}

fn kill_of_an_exec_leaves_the_container(bed: &Bed) -> Outcome {
    let id = bed.sleeper()?;
    let client = bed.containerd.ctr_start(LIMIT, &["task", "exec", "--exec-id", "victim", &id, "sleep", "1000"])?;
    eventually(LIMIT, || bed.ctr(&["task", "kill", "--signal", "KILL", "--exec-id", "victim", &id])?.ok().map(drop))?;
    client.wait()?.exited(137)?;
    let status = bed.status(&id)?;
    ensure!(status.as_deref() == Some("RUNNING"), "the container is {status:?}");
    Ok(())
}

fn same_id_twice_is_refused(bed: &Bed) -> Outcome {
    let id = bed.sleeper()?;
    bed.ctr(&["task", "exec", "--detach", "--exec-id", "twin", &id, "sleep", "1000"])?.ok()?;
    bed.ctr(&["task", "exec", "--detach", "--exec-id", "twin", &id, "sleep", "1000"])?.failed_with("already exists")?;
    bed.ctr(&["task", "kill", "--signal", "KILL", "--exec-id", "twin", &id])?.ok()?;
    eventually(LIMIT, || bed.ctr(&["task", "rm", "--exec-id", "twin", &id])?.exited(137).map(drop))?;
    bed.ctr(&["task", "exec", "--exec-id", "twin", &id, "true"])?.ok()?;
    Ok(())
}

fn in_a_stopped_container_is_refused(bed: &Bed) -> Outcome {
    let id = bed.detached(&["--null-io"], &["true"])?;
    bed.wait_status(&id, "STOPPED")?;
    let output = bed.exec(&id, &[], &["true"])?;
    ensure!(output.code != 0 && output.errors().contains("ctr:"), "{}", output.report());
    Ok(())
}

fn in_a_paused_container_is_refused(bed: &Bed) -> Outcome {
    let id = bed.sleeper()?;
    bed.ctr(&["task", "pause", &id])?.ok()?;
    let output = bed.exec(&id, &[], &["true"])?;
    ensure!(output.code != 0 && output.errors().contains("ctr:"), "{}", output.report());
    bed.ctr(&["task", "resume", &id])?.ok()?;
    bed.exec(&id, &[], &["true"])?.ok()?;
    Ok(())
}

fn execs_end_with_the_container(bed: &Bed) -> Outcome {
    let id = bed.sleeper()?;
    let client = bed.exec_start(&id, &[], &["sleep", "1000"])?;
    eventually(LIMIT, || {
        let ps = bed.ctr(&["task", "ps", &id])?.ok()?;
        ensure!(ps.text().contains("exec-"), "no exec is listed\n{}", ps.report());
        Ok(())
    })?;
    bed.ctr(&["task", "kill", "--signal", "KILL", &id])?.ok()?;
    client.wait()?.exited(137)?;
    bed.wait_status(&id, "STOPPED")
}

fn two_hundred_at_once(bed: &Bed) -> Outcome {
    let id = bed.sleeper()?;
    let mut ids = Vec::new();
    // All of them run at the same time inside; the clients come sixteen at a time, which is what the machine can take.
    let numbers: Vec<u32> = (0..200).collect();
    for chunk in numbers.chunks(16) {
        let mut clients = Vec::new();
        for number in chunk {
            let exec_id = format!("many-{number}");
            let words = ["task", "exec", "--detach", "--exec-id", &exec_id, &id, "sleep", "100000"];
            clients.push(bed.containerd.ctr_start(LIMIT, &words)?);
            ids.push(exec_id);
        }
        for client in clients {
            client.wait()?.ok()?;
        }
    }
    let ps = bed.ctr(&["task", "ps", &id])?.ok()?.text();
    let listed = ps.lines().filter(|line| line.contains("many-")).count();
    ensure!(listed == 200, "{listed} of 200 execs are listed");
    bed.exec(&id, &[], &["killall", "sleep"])?;
    bed.ctr(&["task", "kill", "--signal", "KILL", &id])?;
    bed.wait_status(&id, "STOPPED")?;
    let events = bed.containerd.events(|events| {
        events.wait(&id, LIMIT, |events| events.iter().filter(|event| event.topic == "/tasks/exit").count() == 202)
    })?;
    // 200 of them, killall itself, and the container's init, which comes last.
    ensure!(events.last().is_some_and(|last| last.text("id") == id), "init's exit is not the last event");
    Ok(())
}

fn main() {
    suite::run(
        "ctr_exec",
        cases![
            two_hundred_at_once,
            output_and_exit_codes,
            death_by_a_signal_is_128_and_its_number,
            is_inside_the_container,
            confinement_is_the_containers,
            user_and_cwd,
            stdin,
            terminal,
            terminal_ends_with_its_process,
            kill_of_an_exec_leaves_the_container,
            same_id_twice_is_refused,
            in_a_stopped_container_is_refused,
            in_a_paused_container_is_refused,
            execs_end_with_the_container,
        ],
    );
}
