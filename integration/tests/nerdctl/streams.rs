//! Output, input, terminals, logs, attach.

use integration::containerd::LIMIT;
use integration::nerdctl::{self, Nerdctl};
use integration::{Bed, Outcome, ensure, eventually};

pub fn output_and_exit_codes(bed: &Bed) -> Outcome {
    nerdctl::with(bed, |n| {
        let output = n.sh(&[], "echo out; echo err >&2; exit 7")?.exited(7)?.says("out\n")?;
        ensure!(output.errors().contains("err\n"), "{}", output.report());
        n.run(&[], &["no-such-program"])?.failed_with("executable file not found in $PATH")?;
        n.run(&[], &["/broken/no-x-bit"])?.failed_with("permission denied")?;
        Ok(())
    })
}

pub fn stdin_arrives_and_ends(bed: &Bed) -> Outcome {
    nerdctl::with(bed, |n| {
        let name = n.name("stdin");
        let words = ["-i", "--rm", "--network", "none", "--name", &name];
        let mut client = n.start(&n.run_words(&words, &["sh", "-c", "echo up; cat; echo ended"]))?;
        client.wait_for("up\n")?;
        client.write(b"one\ntwo\n")?;
        drop(client.take_stdin());
        client.wait()?.ok()?.says("up\none\ntwo\nended\n")?;
        Ok(())
    })
}

/// With a network of its own, which nerdctl makes in a hook of Create.
pub fn stdin_may_end_before_the_container_runs(bed: &Bed) -> Outcome {
    nerdctl::with(bed, |n| {
        let piped = |words: &[&str]| {
            let mut client = n.start(words)?;
            client.write(b"one\ntwo\n")?;
            drop(client.take_stdin());
            client.wait()?.ok()?.says("one\ntwo\n")
        };
        piped(&n.run_words(&["-i", "--rm", "--name", &n.name("piped")], &["cat"]))?;
        let name = n.detached("exec", &[], "exec sleep 1000")?;
        piped(&["exec", "-i", &name, "cat"])?;
        Ok(())
    })
}

pub fn terminal(bed: &Bed) -> Outcome {
    nerdctl::with(bed, |n| {
        let name = n.name("tty");
        let words = ["-it", "--rm", "--network", "none", "--name", &name];
        let mut terminal = n.terminal(&n.run_words(&words, &["sh"]))?;
        terminal.wait_for("# ", LIMIT)?;
        terminal.send("tty; test -t 0 && test -t 1 && test -t 2 && echo on a terminal\n")?;
        terminal.wait_for("/dev/pts/0\non a terminal\n", LIMIT)?;
        // The client sets the size after the start: ask until it is there.
        eventually(LIMIT, || {
            terminal.send("stty size\n")?;
            terminal.wait_for("40 100\n", std::time::Duration::from_millis(500))
        })?;
        terminal.send("exit 9\n")?;
        let code = terminal.wait(LIMIT)?;
        ensure!(code == 9, "exit code {code}");
        Ok(())
    })
}

pub fn detach_and_attach_again(bed: &Bed) -> Outcome {
    nerdctl::with(bed, |n| {
        let name = n.name("tty");
        let words = ["-it", "--network", "none", "--name", &name];
        let mut first = n.terminal(&n.run_words(&words, &["sh"]))?;
        first.wait_for("# ", LIMIT)?;
        first.send("\u{10}\u{11}")?;
        first.wait(LIMIT)?;
        n.wait_for(&name, ".State.Status", "running")?;

        let mut second = n.terminal(&["attach", "--detach-keys", "ctrl-a,ctrl-b", &name])?;
        // It shows nothing by itself, and what is typed before it is attached is lost.
        eventually(LIMIT, || {
            second.send("echo again-$((1+1))\n")?;
            second.wait_for("again-2\n", std::time::Duration::from_secs(1))
        })?;
        second.send("\u{1}\u{2}")?;
        second.wait(LIMIT)?;
        n.wait_for(&name, ".State.Status", "running")?;

        let mut third = n.terminal(&["attach", &name])?;
        eventually(LIMIT, || {
            third.send("echo third-$((1+2))\n")?;
            third.wait_for("third-3\n", std::time::Duration::from_secs(1))
        })?;
        third.send("exit 4\n")?;
        third.wait(LIMIT)?;
        n.wait_for(&name, ".State.Status", "exited")?;
        n.wait_for(&name, ".State.ExitCode", "4")
    })
}

pub fn logs_of_a_detached_container(bed: &Bed) -> Outcome {
    nerdctl::with(bed, |n| {
        // It lives on: what is written in a container's last moment is the subject of other tests.
        let script = "for i in 1 2 3; do echo line $i; done; echo trouble >&2; printf 'no newline'; exec sleep 1000";
        let name = n.detached("logs", &[], script)?;
        n.logs_are(&name, "line 1\nline 2\nline 3\nno newline")?;
        let output = n.call(&["logs", &name])?.ok()?;
        ensure!(output.errors() == "trouble\n", "{}", output.report());
        n.call(&["logs", "--tail", "2", &name])?.ok()?.says("no newline")?;
        n.call(&["logs", "--timestamps", &name])?.ok()?.says("Z line 1\n")?;
        let none = n.ok(&["logs", "--since", "2100-01-01T00:00:00Z", &name])?;
        ensure!(none.is_empty(), "lines from the future: {none:?}");
        Ok(())
    })
}

pub fn logs_are_followed_to_the_end(bed: &Bed) -> Outcome {
    nerdctl::with(bed, |n| {
        let script = "await() { while ! test -e $1; do sleep 0.05; done; }
            echo begin; await /go; seq 1 500; echo end; await /more; until test -e /end; do echo more; sleep 0.1; done";
        let name = n.detached("follow", &[], script)?;
        let client = n.start(&["logs", "--follow", &name])?;
        client.wait_for("begin\n")?;
        n.ok(&["exec", &name, "touch", "/go"])?;
        let expected = format!("begin\n{}end\n", (1..=500).map(|i| format!("{i}\n")).collect::<String>());
        n.logs_are(&name, &expected)?;
        // A follower that reads the end of a burst while it is written drops the line that it has half of, and what it reads
        // next (pkg/logging/jsonfile.Decode returns the half and no error): what the log holds counts, and that it goes on.
        n.ok(&["exec", &name, "touch", "/more"])?;
        eventually(LIMIT, || {
            let seen = client.seen();
            ensure!(seen.starts_with("begin\n1\n") && seen.ends_with("more\n"), "the follower says {seen:?}");
            Ok(())
        })?;
        // With the container's end ends the client.
        n.ok(&["exec", &name, "touch", "/end"])?;
        client.wait()?.ok()?;
        Ok(())
    })
}

pub fn logs_of_a_terminal(bed: &Bed) -> Outcome {
    nerdctl::with(bed, |n| {
        let name = n.detached("tty", &["-t"], "tty; seq 1 2000; echo end; exec sleep 1000")?;
        let lines = (1..=2000).map(|i| format!("{i}\r\n")).collect::<String>();
        n.logs_are(&name, &format!("/dev/pts/0\r\n{lines}end\r\n"))
    })
}

pub fn short_lives_lose_no_line(bed: &Bed) -> Outcome {
    nerdctl::with(bed, |n| {
        let count = if std::env::var_os("MINI_SOAK").is_some() { 1000 } else { 12 };
        // A stopped container keeps its shim, and each call of nerdctl looks at all containers: a thousand at once would be a
        // test of nerdctl.
        for first in (0..count).step_by(12) {
            let batch = first..(first + 12).min(count);
            let words: Vec<(u32, String)> = batch.map(|i| (i, format!("s{i}"))).collect();
            for (i, word) in &words {
                n.detached(word, &[], &format!("echo word {i}; echo last {i} >&2"))?;
            }
            let names: Vec<String> = words.iter().map(|(_, word)| n.name(word)).collect();
            for ((i, _), name) in words.iter().zip(&names) {
                n.logs_are(name, &format!("word {i}\n"))?;
                let output = n.call(&["logs", name])?.ok()?;
                ensure!(output.errors() == format!("last {i}\n"), "{}", output.report());
            }
            let remove: Vec<&str> = ["rm", "--force"].into_iter().chain(names.iter().map(String::as_str)).collect();
            n.ok(&remove)?;
        }
        Ok(())
    })
}

pub fn burst_before_the_exit_is_logged_whole(bed: &Bed) -> Outcome {
    nerdctl::with(bed, |n| {
        for round in 0..4 {
            let tty: &[&str] = if round % 2 == 0 { &[] } else { &["-t"] };
            let name = n.detached(&format!("b{round}"), tty, "exec seq 1 60000")?;
            n.ok(&["wait", &name])?;
            eventually(LIMIT, || whole(n, &name, 60_000))?;
        }
        Ok(())
    })
}

fn whole(n: &Nerdctl, name: &str, count: usize) -> Outcome {
    let log = n.call(&["logs", name])?.ok()?.text();
    let gap = log.lines().enumerate().find(|(number, line)| *line != (number + 1).to_string());
    ensure!(gap.is_none(), "{name}: the log goes wrong at {gap:?}");
    ensure!(log.lines().count() == count, "{name}: {} lines of {count} were logged", log.lines().count());
    Ok(())
}

pub fn exec(bed: &Bed) -> Outcome {
    nerdctl::with(bed, |n| {
        let name = n.detached("exec", &["-e", "A=image"], "exec sleep 1000")?;
        // nerdctl's own exit code is 1, whatever the process's was.
        n.call(&["exec", &name, "sh", "-c", "exit 5"])?.failed_with("exec failed with exit code 5")?;
        let words = ["exec", "-u", "1000:1000", "-w", "/etc", "-e", "A=exec", &name, "sh", "-c", "id -u; pwd; echo $A"];
        n.call(&words)?.ok()?.says("1000\n/etc\nexec\n")?;
        n.call(&["exec", &name, "grep", "CapEff", "/proc/self/status"])?.ok()?.says("00000000a80425fb")?;
        let all = n.call(&["exec", "--privileged", &name, "grep", "CapEff", "/proc/self/status"])?.ok()?;
        ensure!(!all.text().contains("00000000a80425fb"), "{}", all.report());
        n.ok(&["exec", "-d", &name, "sh", "-c", "echo detached > /tmp/note"])?;
        eventually(LIMIT, || n.call(&["exec", &name, "cat", "/tmp/note"])?.ok()?.says("detached\n").map(drop))?;
        let mut input = n.start(&["exec", "-i", &name, "sh", "-c", "echo up; cat"])?;
        input.wait_for("up\n")?;
        input.write(b"through exec\n")?;
        drop(input.take_stdin());
        input.wait()?.ok()?.says("through exec\n")?;
        let mut terminal = n.terminal(&["exec", "-it", &name, "sh"])?;
        terminal.wait_for("# ", LIMIT)?;
        terminal.send("tty; exit 3\n")?;
        terminal.wait_for("/dev/pts/0\n", LIMIT)?;
        terminal.wait(LIMIT)?;
        terminal.wait_for("exec failed with exit code 3", LIMIT)?;
        n.call(&["exec", &name, "no-such-program"])?.failed_with("executable file not found in $PATH")?;
        Ok(())
    })
}
