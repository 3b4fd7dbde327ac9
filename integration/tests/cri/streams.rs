//! What goes in and out: exec, attach, port-forward, logs.

use integration::containerd::LIMIT;
use integration::cri::{self, with};
use integration::pty::Pty;
use integration::{Bed, Case, Outcome, cases, ensure, eventually, residue};
use serde_json::json;
use std::time::Duration;

use crate::counter::check_counted;
use crate::pods::SLEEPER;

pub const CASES: &[Case] = cases![
    exec_sync_keeps_streams_apart,
    exec_sync_with_much_output,
    exec_sync_with_more_than_is_kept,
    exec_sync_over_its_time_leaves_nothing,
    exec_sync_with_a_grandchild_that_keeps_the_pipe,
    probes,
    probes_side_by_side,
    probes_by_network,
    exec_with_input,
    exec_on_a_terminal,
    attached,
    attached_to_a_terminal,
    port_forward,
    logs_in_their_format,
    logs_of_short_lives,
    logs_followed,
    logs_rotated,
    log_that_cannot_be_written,
];

/// Processes on the containerd's host that have the word among their arguments.
fn processes_with(bed: &Bed, word: &str) -> Outcome<usize> {
    let all = bed.containerd.host.processes()?;
    Ok(all.iter().filter(|(_, argv)| argv.iter().any(|one| one == word)).count())
}

fn exec_sync_keeps_streams_apart(bed: &Bed) -> Outcome {
    with(bed, |cri| {
        let pod = cri.pod(json!({}))?;
        let id = pod.run("one", SLEEPER, json!({}))?;
        let done = pod.exec(&id, "echo out; echo err >&2; exit 42")?;
        ensure!((done.code, done.stdout.as_str(), done.stderr.as_str()) == (42, "out\n", "err\n"), "{}", done.report());
        // Its input is at its end from the start.
        let done = pod.exec(&id, "cat; echo over")?;
        ensure!(done.stdout == "over\n", "{}", done.report());
        let missing = json!({ "container_id": id, "cmd": ["no-such-program"] });
        cri.refused("ExecSync", missing, "no-such-program")?;
        cri.call("StopContainer", json!({ "container_id": id, "timeout": 30 }))?;
        cri.refused("ExecSync", json!({ "container_id": id, "cmd": ["true"] }), "CONTAINER_EXITED")
    })
}

fn exec_sync_with_much_output(bed: &Bed) -> Outcome {
    with(bed, |cri| {
        let pod = cri.pod(json!({}))?;
        let id = pod.run("one", SLEEPER, json!({}))?;
        let done = pod.exec(&id, "yes 0123456789abcde | head -c 4194304")?.ok()?;
        ensure!(done.len() == 4 << 20, "{} bytes of 4 MiB came", done.len());
        ensure!(done.lines().all(|line| line == "0123456789abcde"), "the bytes were mixed");
        Ok(())
    })
}

fn exec_sync_with_more_than_is_kept(bed: &Bed) -> Outcome {
    with(bed, |cri| {
        let pod = cri.pod(json!({}))?;
        let id = pod.run("one", SLEEPER, json!({}))?;
        // CRI keeps 16 MiB of each stream, the kubelet takes no longer message: the process has to come to its end all the same.
        let request =
            json!({ "container_id": id, "cmd": ["sh", "-c", "head -c 20971520 /dev/zero; echo ended >/tmp/ended"] });
        cri.refused("ExecSync", request, "ResourceExhausted")?;
        let done = pod.exec(&id, "cat /tmp/ended")?;
        ensure!(done.stdout == "ended\n", "{}", done.report());
        Ok(())
    })
}

fn exec_sync_over_its_time_leaves_nothing(bed: &Bed) -> Outcome {
    with(bed, |cri| {
        let pod = cri.pod(json!({}))?;
        let id = pod.run("one", SLEEPER, json!({}))?;
        let script = "trap '' TERM; sleep 34567 & sleep 34567; sleep 34567";
        let request = json!({ "container_id": id, "cmd": ["sh", "-c", script], "timeout": 1 });
        cri.refused("ExecSync", request, "DeadlineExceeded")?;
        eventually(LIMIT, || {
            // The process that was asked for is killed; its children are the container's own affair, on any runtime.
            let left = bed
                .containerd
                .host
                .processes()?
                .iter()
                .filter(|(_, argv)| argv.iter().any(|word| word == script))
                .count();
            ensure!(left == 0, "{left} processes of the exec live on");
            Ok(())
        })?;
        pod.exec(&id, "pkill -9 sleep || true; echo alive")?.ok().map(drop)?;
        cri.call("StopContainer", json!({ "container_id": id, "timeout": 0 }))?;
        eventually(LIMIT, || {
            ensure!(processes_with(bed, "34567")? == 0, "processes of the exec outlived the container");
            Ok(())
        })
    })
}

fn exec_sync_with_a_grandchild_that_keeps_the_pipe(bed: &Bed) -> Outcome {
    with(bed, |cri| {
        let pod = cri.pod(json!({}))?;
        let id = pod.run("one", SLEEPER, json!({}))?;
        // The node has drain_exec_sync_io_timeout = "2s": the answer comes although somebody holds the pipe.
        cri.refused(
            "ExecSync",
            json!({ "container_id": id, "cmd": ["sh", "-c", "echo said; sleep 45678 &"] }),
            "drain",
        )?;
        let done = pod.exec(&id, "sleep 45678 >/dev/null 2>&1 & echo quick")?;
        ensure!(done.stdout == "quick\n" && done.code == 0, "{}", done.report());
        Ok(())
    })
}

fn probes(bed: &Bed) -> Outcome {
    with(bed, |cri| {
        let pod = cri.pod(json!({}))?;
        let id = pod.run("one", SLEEPER, json!({}))?;
        let shim = pod.shim()?;
        let probe = |number: usize| -> Outcome {
            let done = pod.exec(&id, &format!("test {} = 0", number % 4))?;
            ensure!((done.code == 0) == number.is_multiple_of(4), "probe {number}: {}", done.report());
            Ok(())
        };
        (0..4).try_for_each(probe)?;
        // Not counted: connections, and the groups' files, which are kept open while somebody asks often.
        let held = || -> Outcome<Vec<String>> {
            let mut all = residue::descriptors(&bed.containerd, shim)?;
            all.retain(|one| !one.starts_with("/sys/fs/cgroup") && !one.starts_with("socket:"));
            Ok(all)
        };
        let before = held()?;
        (0..60).try_for_each(probe)?;
        eventually(LIMIT, || {
            let now = held()?;
            ensure!(now.len() <= before.len(), "the shim had {before:?} and has {now:?} after the probes");
            Ok(())
        })?;
        let zombies = bed.containerd.host.processes()?.into_iter().filter(|(pid, argv)| {
            argv[0].starts_with('[') && bed.containerd.host.parent(*pid).is_ok_and(|parent| parent == shim)
        });
        ensure!(zombies.count() == 0, "the shim leaves zombies");
        Ok(())
    })
}

fn probes_side_by_side(bed: &Bed) -> Outcome {
    with(bed, |cri| {
        let pod = cri.pod(json!({}))?;
        let ids = [pod.run("one", SLEEPER, json!({}))?, pod.run("two", SLEEPER, json!({}))?];
        for round in 0..4 {
            let sent: Vec<_> = (0..10)
                .map(|number| {
                    let word = format!("{round}-{number}");
                    let request = json!({ "container_id": ids[number % 2], "cmd": ["echo", word], "timeout": 60 });
                    Ok((word, cri.send("ExecSync", request)?))
                })
                .collect::<Outcome<Vec<_>>>()?;
            for (word, answer) in sent {
                let said = cri::executed(&answer.wait()?)?.ok()?;
                ensure!(said == format!("{word}\n"), "{said:?} instead of {word}");
            }
        }
        Ok(())
    })
}

/// The kubelet's httpGet and tcpSocket: from the node to the pod's address.
fn probes_by_network(bed: &Bed) -> Outcome {
    with(bed, |cri| {
        let pod = cri.pod(json!({}))?;
        let id =
            pod.run("web", "until [ -e /tmp/go ]; do usleep 20000; done; exec httpd -f -p 8080 -h /etc", json!({}))?;
        let reply = cri.call("PodSandboxStatus", json!({ "pod_sandbox_id": pod.id }))?;
        let address = reply["status"]["network"]["ip"].as_str().ok_or("no address")?.to_owned();
        let busybox = integration::containerd::testbed().join("tools/bin/busybox").display().to_string();
        let url = format!("http://{address}:8080/image-name");
        let http = || -> Outcome<bool> {
            let words = [busybox.as_str(), "wget", "-q", "-O", "-", &url];
            Ok(bed.containerd.host.command(Some(LIMIT), &[], &words).output()?.stdout == b"mini-busybox\n")
        };
        let tcp = || -> Outcome<bool> {
            let script = "use IO::Socket::INET; exit !IO::Socket::INET->new(PeerAddr => shift, Timeout => 1)";
            let words = ["perl", "-e", script, &format!("{address}:8080")];
            Ok(bed.containerd.host.command(Some(LIMIT), &[], &words).status()?.success())
        };
        ensure!(!http()? && !tcp()?, "something answers before the server runs");
        pod.exec(&id, "touch /tmp/go")?.ok()?;
        eventually(LIMIT, || {
            ensure!(http()? && tcp()?, "nothing answers at {url}");
            Ok(())
        })
    })
}

fn exec_with_input(bed: &Bed) -> Outcome {
    with(bed, |cri| {
        let pod = cri.pod(json!({}))?;
        let id = pod.run("one", SLEEPER, json!({}))?;
        let mut client = cri.crictl_start(&["exec", "--interactive", &id, "sh", "-c", "echo ready; cat; exit 5"])?;
        client.wait_for("ready\n")?;
        client.write(b"through\nand through\n")?;
        drop(client.take_stdin());
        let output = client.wait()?;
        ensure!(output.text() == "ready\nthrough\nand through\n" && output.code != 0, "{}", output.report());
        Ok(())
    })
}

fn exec_on_a_terminal(bed: &Bed) -> Outcome {
    with(bed, |cri| {
        let pod = cri.pod(json!({}))?;
        let id = pod.run("one", SLEEPER, json!({}))?;
        let command = cri.crictl_command(Some(LIMIT), &["exec", "--interactive", "--tty", &id, "sh"]);
        let mut terminal = Pty::start(&command, 40, 100)?;
        size(&mut terminal, "40 100\n")?;
        terminal.send("tty; echo do''ne\n")?;
        terminal.wait_for("/dev/pts/0", LIMIT)?;
        terminal.wait_for("done", LIMIT)?;
        terminal.send("exit\n")?;
        let code = terminal.wait(LIMIT)?;
        ensure!(code == 0, "crictl exec -t ended with {code}");
        Ok(())
    })
}

/// containerd sets the size after the start: asks inside until it is there.
fn size(terminal: &mut Pty, expected: &str) -> Outcome {
    eventually(LIMIT, || {
        terminal.send("stty size\n")?;
        terminal.wait_for(expected, Duration::from_millis(500))
    })
}

fn attached(bed: &Bed) -> Outcome {
    with(bed, |cri| {
        let pod = cri.pod(json!({}))?;
        let script = "while read -r line; do [ \"$line\" != end ] || exit 6; echo \"got $line\"; done";
        let id = pod.run("one", script, json!({ "stdin": true }))?;
        let mut client = cri.crictl_start(&["attach", "--stdin", &id])?;
        let mut number = 0;
        // Whoever attaches sees what comes after; so it says words until one comes back.
        eventually(LIMIT, || {
            number += 1;
            client.write(format!("{number}\n").as_bytes())?;
            ensure!(client.has_said("got "), "nothing comes back");
            Ok(())
        })?;
        client.write(b"last\n")?;
        // Of a word said at the very end containerd may lose what the attached client has not read yet: with any shim.
        eventually(LIMIT, || {
            ensure!(client.has_said("got last\n"), "the last word does not come back");
            Ok(())
        })?;
        client.write(b"end\n")?;
        let status = pod.wait_exited(&id)?;
        ensure!(status["exit_code"] == 6, "{status}");
        client.wait()?;
        let log = pod.log("one")?;
        ensure!(log.starts_with("got 1\n") && log.ends_with("got last\n"), "the log has {log:?}");
        Ok(())
    })
}

fn attached_to_a_terminal(bed: &Bed) -> Outcome {
    with(bed, |cri| {
        let pod = cri.pod(json!({}))?;
        let id = pod.run("one", "exec sh", json!({ "stdin": true, "tty": true }))?;
        let command = cri.crictl_command(Some(LIMIT), &["attach", "--stdin", "--tty", &id]);
        let mut terminal = Pty::start(&command, 33, 99)?;
        size(&mut terminal, "33 99\n")?;
        terminal.send("echo do''ne\n")?;
        terminal.wait_for("done", LIMIT)?;
        terminal.send("exit 3\n")?;
        ensure!(pod.wait_exited(&id)?["exit_code"] == 3, "the shell's exit code is lost");
        terminal.wait(LIMIT)?;
        Ok(())
    })
}

fn port_forward(bed: &Bed) -> Outcome {
    with(bed, |cri| {
        let pod = cri.pod(json!({}))?;
        pod.run("web", "exec httpd -f -p 127.0.0.1:8080 -h /etc", json!({}))?;
        let port = 18000 + if bed.runtime() == integration::Runtime::Mini { 1 } else { 2 };
        let mut client = cri.crictl_start(&["port-forward", &pod.id, &format!("{port}:8080")])?;
        let busybox = integration::containerd::testbed().join("tools/bin/busybox").display().to_string();
        let address = format!("http://127.0.0.1:{port}/image-name");
        for _ in 0..5 {
            eventually(LIMIT, || {
                let words = [busybox.as_str(), "wget", "-q", "-O", "-", &address];
                let page = bed.containerd.host.command(Some(LIMIT), &[], &words).output()?;
                ensure!(
                    page.stdout == b"mini-busybox\n",
                    "through the port came {:?}",
                    String::from_utf8_lossy(&page.stdout)
                );
                Ok(())
            })?;
        }
        ensure!(!client.is_over()?, "port-forward ended");
        client.stop()
    })
}

fn logs_in_their_format(bed: &Bed) -> Outcome {
    with(bed, |cri| {
        let pod = cri.pod(json!({}))?;
        let script = "echo first; echo second >&2; printf 'no end'; sleep 0.2; printf '\\n'; head -c 40000 /dev/zero | tr '\\0' x; echo";
        let id = pod.run("one", script, json!({}))?;
        pod.wait_exited(&id)?;
        let log = std::fs::read_to_string(pod.log_file("one"))?;
        let streams = |stream: &str, words: &str| {
            log.lines().any(|line| line.ends_with(&format!(" {stream} F {words}")) && line.starts_with("20"))
        };
        ensure!(
            streams("stdout", "first") && streams("stderr", "second") && streams("stdout", "no end"),
            "{log:.2000}"
        );
        // A line longer than 16 KiB comes in parts.
        ensure!(log.lines().filter(|line| line.contains(" stdout P xxx")).count() == 2, "{} bytes", log.len());
        ensure!(pod.log("one")?.lines().any(|line| line.len() == 40000), "the parts are not the line");
        let errors = cri.crictl(&["logs", &id])?.ok()?;
        ensure!(errors.errors() == "second\n" && errors.text().starts_with("first\nno end\n"), "{}", errors.report());
        Ok(())
    })
}

fn logs_of_short_lives(bed: &Bed) -> Outcome {
    with(bed, |cri| {
        let pod = cri.pod(json!({}))?;
        for number in 0..20 {
            let name = format!("m{number}");
            let log = pod.output(&name, "echo a; echo b; echo c", json!({}))?;
            ensure!(log == "a\nb\nc\n", "life {number} logged {log:?}");
        }
        Ok(())
    })
}

fn logs_followed(bed: &Bed) -> Outcome {
    with(bed, |cri| {
        let pod = cri.pod(json!({}))?;
        let id = pod.run("one", "for i in 1 2 3 4 5; do echo $i; sleep 0.2; done", json!({}))?;
        let output = cri.crictl(&["logs", "--follow", &id])?.ok()?;
        ensure!(output.text() == "1\n2\n3\n4\n5\n", "{}", output.report());
        Ok(())
    })
}

fn logs_rotated(bed: &Bed) -> Outcome {
    with(bed, |cri| {
        let pod = cri.pod(json!({}))?;
        let script = "i=0; while [ ! -e /tmp/enough ]; do i=$((i+1)); echo $i; usleep 2000; done; echo last";
        let id = pod.run("one", script, json!({}))?;
        let file = pod.log_file("one");
        for number in 0..3 {
            eventually(LIMIT, || {
                ensure!(file.metadata()?.len() > 200, "nothing is written to the new log");
                Ok(())
            })?;
            std::fs::rename(&file, file.with_extension(number.to_string()))?;
            cri.call("ReopenContainerLog", json!({ "container_id": id }))?;
        }
        // The container ends when it sees the file, perhaps before `touch` does: the exit code tells nothing.
        pod.exec(&id, "touch /tmp/enough")?;
        pod.wait_exited(&id)?;
        let mut all = String::new();
        for number in 0..3 {
            all += &cri::logged(&std::fs::read_to_string(file.with_extension(number.to_string()))?);
        }
        all += &pod.log("one")?;
        check_counted(&all)?;
        cri.refused("ReopenContainerLog", json!({ "container_id": id }), "not running")
    })
}

fn log_that_cannot_be_written(bed: &Bed) -> Outcome {
    with(bed, |cri| {
        let pod = cri.pod(json!({}))?;
        std::fs::create_dir(pod.log_file("one"))?;
        let id = pod.create("one", SLEEPER, json!({}))?;
        cri.refused("StartContainer", json!({ "container_id": id }), "is a directory")?;
        let status = pod.status(&id)?;
        ensure!(status["state"] == "CONTAINER_EXITED" && status["reason"] == "StartError", "{status}");
        cri.call("RemoveContainer", json!({ "container_id": id }))?;
        cri.assert_nothing_of(&[id])?;
        // Without any log, and beside the failed one.
        let mute = pod.run("mute", "echo nobody hears; exit 3", json!({ "log_path": "" }))?;
        eventually(LIMIT, || {
            let status = pod.status(&mute)?;
            ensure!(status["state"] == "CONTAINER_EXITED" && status["exit_code"] == 3, "{status}");
            Ok(())
        })
    })
}
