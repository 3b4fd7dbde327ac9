//! stdin, stdout, stderr, terminals, log files, attach.

use integration::containerd::LIMIT;
use integration::{Bed, Outcome, cases, client, ensure, eventually, suite};
use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

// Where stdin is written or closed, the container has to say first that it is up: ctr forgets an end of file that comes
// before its task is there, with any shim.
fn run_with_stdin(bed: &Bed, flags: &[&str], command: &[&str]) -> Outcome<client::Running> {
    let id = bed.id();
    let mut all = vec!["--rm"];
    all.extend(flags);
    bed.containerd.ctr_start(LIMIT, &bed.run_words(&id, &all, command))
}

fn stdin_arrives_and_ends(bed: &Bed) -> Outcome {
    let mut client = run_with_stdin(bed, &[], &["sh", "-c", "echo up; cat; echo ended"])?;
    client.wait_for("up\n")?;
    client.write(b"line one\nline two\n")?;
    drop(client.take_stdin());
    client.wait()?.ok()?.says("up\nline one\nline two\nended\n")?;
    Ok(())
}

/// Bytes that no line or terminal handling leaves alone, and never twice the same block.
struct Noise {
    state: u64,
    left: usize,
}

impl Read for Noise {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = buffer.len().min(self.left);
        for byte in &mut buffer[..count] {
            self.state = self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *byte = (self.state >> 56) as u8;
        }
        self.left -= count;
        Ok(count)
    }
}

const SIZE: usize = 100 << 20;

fn hundred_megabytes_there_and_back(bed: &Bed) -> Outcome {
    let mut client = run_with_stdin(bed, &[], &["sh", "-c", "echo up; exec cat"])?;
    client.wait_for("up\n")?;
    let mut stdin = client.take_stdin().ok_or("no stdin")?;
    let feeder = std::thread::spawn(move || std::io::copy(&mut Noise { state: 1, left: SIZE }, &mut stdin));
    let output = client.wait()?.ok()?;
    let sent = feeder.join().map_err(|_| "the feeder panicked")??;
    ensure!(sent == SIZE as u64, "only {sent} bytes were taken");
    let back = &output.stdout[3..];
    ensure!(back.len() == SIZE, "{} bytes came back", back.len());
    let mut expected = Vec::with_capacity(SIZE);
    Noise { state: 1, left: SIZE }.read_to_end(&mut expected)?;
    ensure!(back == expected, "other bytes came back");
    Ok(())
}

fn last_words_are_not_lost(bed: &Bed) -> Outcome {
    let directory = bed.directory("go")?;
    let mount = format!("type=bind,src={},dst=/mnt,options=rbind:ro", directory.display());
    let script = "while ! test -e /mnt/go; do sleep 0.02; done; head -c 1000000 /dev/zero | tr '\\0' x; echo end";
    let id = bed.detached(&["--mount", &mount], &["sh", "-c", script])?;
    let path = bed.fifo(&id, "stdout")?;
    let reader = std::thread::spawn(move || std::fs::read(path));
    std::fs::write(directory.join("go"), "")?;
    let read = reader.join().map_err(|_| "the reader panicked")??;
    ensure!(read.len() == 1_000_004 && read.ends_with(b"xend\n"), "{} bytes", read.len());
    bed.wait_status(&id, "STOPPED")?;
    bed.delete(&id, &[], 0)
}

/// ctr ends with what it has read when it hears of the exit, and beside busy neighbours that can be less than all.
fn last_words_reach_ctr(bed: &Bed) -> Outcome {
    let script = "head -c 1000000 /dev/zero | tr '\\0' x; echo end";
    let over = AtomicBool::new(false);
    std::thread::scope(|neighbours| {
        for _ in 0..3 {
            neighbours.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    std::hint::spin_loop()
                }
            });
        }
        let outcome = (0..8).try_for_each(|_| {
            let output = bed.sh(&[], script)?.ok()?;
            ensure!(output.stdout.len() == 1_000_004, "{} bytes arrived", output.stdout.len());
            Ok(())
        });
        over.store(true, Ordering::Relaxed);
        outcome
    })
}

fn child_that_keeps_stdout_open_does_not_keep_the_task(bed: &Bed) -> Outcome {
    // The background process dies with the pid namespace; what matters is that the exit is not tied to end of file.
    bed.sh(&[], "sleep 1000 & echo left")?.ok()?.says("left\n")?;
    Ok(())
}

fn terminal(bed: &Bed) -> Outcome {
    let id = bed.id();
    let words = bed.run_words(&id, &["--rm", "--tty"], &["sh"]);
    let mut terminal = bed.terminal(&words)?;
    terminal.wait_for("# ", LIMIT)?;
    terminal.send("tty; test -t 0 && test -t 1 && test -t 2 && echo on a terminal\n")?;
    terminal.wait_for("/dev/pts/0\non a terminal\n", LIMIT)?;
    terminal.send("printf '\\033[31mred\\033[0m\\n'\n")?;
    terminal.wait_for("\u{1b}[31mred\u{1b}[0m\n", LIMIT)?;
    terminal.send("exit 9\n")?;
    let code = terminal.wait(LIMIT)?;
    ensure!(code == 9, "exit code {code}");
    Ok(())
}

fn terminal_has_the_clients_size_and_follows_it(bed: &Bed) -> Outcome {
    let id = bed.id();
    let words = bed.run_words(&id, &["--rm", "--tty"], &["sh"]);
    let mut terminal = bed.terminal(&words)?;
    terminal.wait_for("# ", LIMIT)?;
    // The client sets the size after the start: ask until it is there.
    let asks = |terminal: &mut integration::pty::Pty, answer: &str| {
        terminal.send("stty size\n")?;
        terminal.wait_for(answer, Duration::from_millis(500))
    };
    eventually(LIMIT, || asks(&mut terminal, "40 100\n"))?;
    eventually(LIMIT, || {
        // ctr listens to SIGWINCH only some time after the start, and the kernel sends it for a change only.
        terminal.resize(33, 76)?;
        terminal.resize(33, 77)?;
        asks(&mut terminal, "33 77\n")
    })?;
    terminal.send("exit\n")?;
    terminal.wait(LIMIT)?;
    Ok(())
}

fn terminal_ctrl_c(bed: &Bed) -> Outcome {
    let id = bed.id();
    let words = bed.run_words(&id, &["--rm", "--tty"], &["sh"]);
    let mut terminal = bed.terminal(&words)?;
    terminal.wait_for("# ", LIMIT)?;
    terminal.send("sleep 19283; echo status=$?\n")?;
    let sleeps = || -> Outcome<bool> {
        Ok(bed.containerd.host.processes()?.iter().any(|(_, argv)| argv[..] == ["sleep", "19283"]))
    };
    eventually(LIMIT, || {
        ensure!(sleeps()?, "it does not sleep");
        Ok(())
    })?;
    // The shell makes it the foreground some time after that.
    eventually(LIMIT, || {
        terminal.send("\u{3}")?;
        ensure!(!sleeps()?, "it still sleeps");
        Ok(())
    })?;
    // Some shells drop the rest of the line with the signal.
    terminal.wait_for("status=130", Duration::from_secs(1)).or_else(|_| {
        terminal.send("echo status=$?\n")?;
        terminal.wait_for("status=130", LIMIT)
    })?;
    terminal.send("exit 0\n")?;
    terminal.wait(LIMIT)?;
    Ok(())
}

fn terminal_output_after_the_exit_arrives(bed: &Bed) -> Outcome {
    for _ in 0..5 {
        let id = bed.id();
        let words = bed.run_words(&id, &["--rm", "--tty"], &["sh", "-c", "seq 1 3000"]);
        let mut terminal = bed.terminal(&words)?;
        let code = terminal.wait(LIMIT)?;
        ensure!(code == 0, "exit code {code}");
        terminal.wait_for("2999\n3000\n", Duration::from_secs(5))?;
    }
    Ok(())
}

fn log_to_a_file(bed: &Bed) -> Outcome {
    let file = bed.directory("log")?.join("deeper/log");
    let uri = format!("file://{}", file.display());
    let id = bed.detached(&["--log-uri", &uri], &["sh", "-c", "echo out; echo err >&2; sleep 1000"])?;
    eventually(LIMIT, || {
        let text = std::fs::read_to_string(&file)?;
        let mut lines: Vec<&str> = text.lines().collect();
        lines.sort_unstable();
        ensure!(lines == ["err", "out"], "the log holds {text:?}");
        Ok(())
    })?;
    bed.remove(&id)
}

fn log_to_a_file_whose_name_is_encoded(bed: &Bed) -> Outcome {
    let directory = bed.directory("log")?;
    let uri = format!("file://{}/a%20b%25c?query#fragment", directory.display());
    let id = bed.detached(&["--log-uri", &uri], &["sh", "-c", "echo out; sleep 1000"])?;
    eventually(LIMIT, || {
        let text = std::fs::read_to_string(directory.join("a b%c"))?;
        ensure!(text == "out\n", "the log holds {text:?}");
        Ok(())
    })?;
    bed.remove(&id)
}

fn log_to_a_program(bed: &Bed) -> Outcome {
    let directory = bed.directory("logger")?;
    let (program, log) = (directory.join("logger"), directory.join("log"));
    // The contract of binary://: 3 is stdout, 4 is stderr, 5 says ready by its end of file.
    let script = format!(
        "#!/bin/bash\nexec 5>&-\necho \"$CONTAINER_ID $*\" > {0}\ncat <&3 >> {0} &\ncat <&4 >> {0}\nwait\n\
         echo done >> {0}\n",
        log.display()
    );
    std::fs::write(&program, script)?;
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let uri = format!("binary://{}?key=value", program.display());
    let id = bed.detached(&["--log-uri", &uri], &["sh", "-c", "seq 1 5000; echo err >&2"])?;
    bed.wait_status(&id, "STOPPED")?;
    bed.remove(&id)?;
    eventually(LIMIT, || {
        let text = std::fs::read_to_string(&log)?;
        ensure!(text.starts_with(&format!("{id} key value\n")), "the log begins {:?}", text.lines().next());
        ensure!(text.contains("\n4999\n5000\n") && text.contains("err\n"), "the log lacks the last lines");
        Ok(())
    })
}

fn attach(bed: &Bed) -> Outcome {
    let id = bed.id();
    bed.ctr(&["container", "create", "--runtime", bed.runtime().name(), integration::containerd::IMAGE, &id, "cat"])?
        .ok()?;
    let first = bed.containerd.ctr_start(LIMIT, &["task", "start", "--detach", &id])?;
    bed.wait_status(&id, "RUNNING")?;
    // It holds the fifos until it ends.
    first.wait()?;
    let mut second = bed.containerd.ctr_start(LIMIT, &["task", "attach", &id])?;
    second.write(b"through attach\n")?;
    eventually(LIMIT, || {
        ensure!(second.has_said("through attach\n"), "nothing comes back");
        Ok(())
    })?;
    drop(second.take_stdin());
    bed.ctr(&["task", "kill", "--signal", "KILL", &id])?.ok()?;
    let output = second.wait()?;
    ensure!(output.text() == "through attach\n", "{}", output.report());
    Ok(())
}

fn reader_that_goes_away_does_not_kill(bed: &Bed) -> Outcome {
    let id = bed.id();
    let script = "trap '' HUP; i=0; while :; do i=$((i+1)); echo tick $i || exit 99; sleep 0.05; done";
    let client = bed.containerd.ctr_start(LIMIT, &bed.run_words(&id, &[], &["sh", "-c", script]))?;
    eventually(LIMIT, || {
        ensure!(client.has_said("tick 20\n"), "nothing comes out");
        Ok(())
    })?;
    client.kill()?;
    std::thread::sleep(Duration::from_secs(1));
    let status = bed.status(&id)?;
    ensure!(status.as_deref() == Some("RUNNING"), "the container is {status:?}");
    Ok(())
}

fn nothing_reads_and_the_others_go_on(bed: &Bed) -> Outcome {
    // Detached ctr leaves nobody at the fifo: the container blocks when it is full, and only it.
    let id = bed.detached(&[], &["sh", "-c", "head -c 1000000 /dev/zero; sleep 1000"])?;
    bed.exec_sh(&id, &[], "echo still there")?.ok()?.says("still there\n")?;
    bed.ctr(&["task", "kill", "--signal", "KILL", &id])?.ok()?;
    bed.wait_status(&id, "STOPPED")
}

fn write_all_in_small_pieces(bed: &Bed) -> Outcome {
    let mut client = run_with_stdin(bed, &[], &["sh", "-c", "echo up; exec cat"])?;
    client.wait_for("up\n")?;
    let mut stdin = client.take_stdin().ok_or("no stdin")?;
    let feeder = std::thread::spawn(move || -> std::io::Result<()> {
        for number in 0..20_000_u32 {
            stdin.write_all(format!("{number}\n").as_bytes())?;
        }
        Ok(())
    });
    let output = client.wait()?.ok()?;
    feeder.join().map_err(|_| "the feeder panicked")??;
    let text = output.text().split_off(3);
    ensure!(text.lines().enumerate().all(|(number, line)| line == number.to_string()), "lines came out of order");
    ensure!(text.lines().count() == 20_000, "{} lines came back", text.lines().count());
    Ok(())
}

fn main() {
    suite::run(
        "stdio",
        cases![
            hundred_megabytes_there_and_back,
            stdin_arrives_and_ends,
            last_words_are_not_lost,
            last_words_reach_ctr,
            child_that_keeps_stdout_open_does_not_keep_the_task,
            terminal,
            terminal_has_the_clients_size_and_follows_it,
            terminal_ctrl_c,
            terminal_output_after_the_exit_arrives,
            log_to_a_file,
            log_to_a_file_whose_name_is_encoded,
            log_to_a_program,
            attach,
            reader_that_goes_away_does_not_kill,
            nothing_reads_and_the_others_go_on,
            write_all_in_small_pieces,
        ],
    );
}
