//! `docker exec`.

use integration::containerd::LIMIT;
use integration::{Docker, Outcome, ensure, eventually};

pub fn output_errors_and_exit_codes(docker: &Docker) -> Outcome {
    let id = docker.sleeper(&[])?;
    for code in [0, 1, 42, 126, 127, 255] {
        let output = docker.exec(&[], &id, &format!("echo out; echo err >&2; exit {code}"))?.exited(code)?;
        ensure!(output.text() == "out\n" && output.errors() == "err\n", "{}", output.report());
    }
    docker.exec(&[], &id, "kill -9 $$")?.exited(137)?;
    docker.exec(&[], &id, "kill -15 $$")?.exited(143)?;
    Ok(())
}

pub fn user_cwd_and_environment(docker: &Docker) -> Outcome {
    let id = docker.sleeper(&["--env", "A=of the container", "--workdir", "/etc"])?;
    docker.exec(&[], &id, "id -u; pwd; echo $A")?.ok()?.says("0\n/etc\nof the container\n")?;
    let output = docker.exec(&["-u", "user"], &id, "id; echo $HOME; grep CapEff /proc/self/status")?.ok()?;
    output
        .says("uid=1000(user) gid=1000(user) groups=1000(user),2000(extra)\n/home/user\nCapEff:\t0000000000000000\n")?;
    docker.exec(&["-u", "33:44"], &id, "id -u; id -g")?.ok()?.says("33\n44\n")?;
    docker
        .exec(&["-w", "/var/tmp", "-e", "A=of the exec", "-e", "B=2"], &id, "pwd; echo $A$B")?
        .ok()?
        .says("/var/tmp\nof the exec2\n")?;
    // docker prints the failure of an exec on stdout, where the program's words would have been.
    let words = "chdir to cwd (\"/not/there\") set in config.json failed: no such file or directory";
    docker.exec(&["-w", "/not/there"], &id, "pwd")?.exited(127)?.says(words)?;
    docker.exec(&["-u", "nobody-there"], &id, "id")?.failed_with("unable to find user nobody-there")?;
    Ok(())
}

pub fn privileged(docker: &Docker) -> Outcome {
    let id = docker.sleeper(&[])?;
    let count = |flags: &[&str]| -> Outcome<u32> {
        let output = docker.exec(flags, &id, "grep CapEff /proc/self/status")?.ok()?;
        Ok(u64::from_str_radix(output.text().trim_start_matches("CapEff:").trim(), 16)?.count_ones())
    };
    ensure!(count(&[])? == 14, "an exec has {} capabilities", count(&[])?);
    ensure!(count(&["--privileged"])? > 30, "a privileged exec has {} capabilities", count(&["--privileged"])?);
    docker.exec(&["--privileged"], &id, "ip link set lo down && ip link set lo up")?.ok()?;
    docker.exec(&[], &id, "ip link set lo down")?.failed_with("Operation not permitted")?;
    Ok(())
}

pub fn terminal(docker: &Docker) -> Outcome {
    let id = docker.sleeper(&[])?;
    let mut terminal = docker.terminal(&["exec", "-it", "-u", "user", "-w", "/tmp", "-e", "A=b", &id, "sh"])?;
    terminal.wait_for("/tmp $", LIMIT)?;
    terminal.send("test -t 0 && test -t 2 && echo all $((1 + 1)) $A $(id -un)\n")?;
    terminal.wait_for("all 2 b user\n", LIMIT)?;
    eventually(LIMIT, || {
        terminal.send("echo size: $(stty size)\n")?;
        std::thread::sleep(std::time::Duration::from_millis(50));
        ensure!(terminal.screen().contains("size: 40 100\n"), "{:?}", terminal.screen());
        Ok(())
    })?;
    terminal.send("exit 8\n")?;
    ensure!(terminal.wait(LIMIT)? == 8, "the client did not end with the shell's code");
    Ok(())
}

pub fn detach_keys_leave_it_running(docker: &Docker) -> Outcome {
    let id = docker.sleeper(&[])?;
    let mut terminal = docker.terminal(&["exec", "-it", &id, "sh"])?;
    terminal.wait_for("/ #", LIMIT)?;
    terminal.send("sleep 54321\n")?;
    terminal.wait_for("sleep 54321\n", LIMIT)?;
    terminal.send("\x10\x11")?;
    terminal.wait(LIMIT)?;
    eventually(LIMIT, || docker.docker(&["top", &id])?.ok()?.says("sleep 54321").map(drop))
}

pub fn detached(docker: &Docker) -> Outcome {
    let id = docker.sleeper(&[])?;
    docker.docker(&["exec", "--detach", &id, "sh", "-c", "echo done > /tmp/mark; sleep 1000"])?.ok()?;
    eventually(LIMIT, || docker.exec(&[], &id, "cat /tmp/mark")?.ok()?.says("done\n").map(drop))?;
    let ids = docker.inspect(&id, "{{len .ExecIDs}}")?;
    ensure!(ids == "1", "{ids} execs run");
    Ok(())
}

pub fn stdin_is_passed_to_its_end(docker: &Docker) -> Outcome {
    let id = docker.sleeper(&[])?;
    let mut client = docker.client(&["exec", "--interactive", &id, "sh", "-c", "echo ready; md5sum"])?;
    client.wait_for("ready\n")?;
    client.write(&[b'x'; 1 << 20])?;
    drop(client.take_stdin());
    client.wait()?.ok()?.says("b561f87202d04959e37588ee05cf5b10")?;
    Ok(())
}

pub fn many_at_once(docker: &Docker) -> Outcome {
    let id = docker.sleeper(&[])?;
    let start = |number: i32| docker.client(&["exec", &id, "sh", "-c", &format!("echo {number}; exit {number}")]);
    let all: Vec<_> = (0..20).map(start).collect::<Result<_, _>>()?;
    for (number, client) in (0..20).zip(all) {
        let output = client.wait()?.exited(number)?;
        ensure!(output.text() == format!("{number}\n"), "{}", output.report());
    }
    Ok(())
}

pub fn ends_with_its_container(docker: &Docker) -> Outcome {
    let id = docker.sleeper(&[])?;
    let client = docker.client(&["exec", &id, "sh", "-c", "echo ready; sleep 1000"])?;
    client.wait_for("ready\n")?;
    docker.docker(&["kill", &id])?.ok()?;
    client.wait()?.exited(137)?;
    docker.exec(&[], &id, "true")?.exited(1)?.failed_with("is not running")?;
    Ok(())
}
