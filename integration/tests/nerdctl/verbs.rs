//! Everything that is done to a container.

use integration::containerd::LIMIT;
use integration::{Bed, Outcome, ensure, eventually, nerdctl};

/// Sleeps, and answers SIGTERM and SIGUSR1.
const POLITE: &str = "trap 'exit 0' TERM; trap 'echo usr1' USR1; echo up; while :; do sleep 0.05; done";

pub fn stop_kill_wait_restart(bed: &Bed) -> Outcome {
    nerdctl::with(bed, |n| {
        let polite = n.detached("polite", &[], POLITE)?;
        n.logs_are(&polite, "up\n")?;
        let finished = n.inspect(&polite, ".State.FinishedAt")?;
        ensure!(finished.is_empty(), "it runs, and ended at {finished}");
        n.ok(&["kill", "--signal", "USR1", &polite])?;
        n.logs_are(&polite, "up\nusr1\n")?;
        n.ok(&["stop", &polite])?;
        let code = n.ok(&["wait", &polite])?;
        ensure!(code == "0", "stop: exit code {code}");
        n.ok(&["start", &polite])?;
        n.logs_are(&polite, "up\nusr1\nup\n")?;
        n.ok(&["restart", &polite])?;
        n.logs_are(&polite, "up\nusr1\nup\nup\n")?;
        n.ok(&["kill", &polite])?;
        let code = n.ok(&["wait", &polite])?;
        ensure!(code == "137", "kill: exit code {code}");

        let deaf = n.detached("deaf", &[], "trap '' TERM; echo up; while :; do sleep 0.05; done")?;
        n.logs_are(&deaf, "up\n")?;
        n.ok(&["stop", "--time", "1", &deaf])?;
        n.wait_for(&deaf, ".State.ExitCode", "137")?;
        n.call(&["rm", &n.name("nobody")])?.failed_with("no such container")?;
        Ok(())
    })
}

pub fn create_start_rename_remove(bed: &Bed) -> Outcome {
    nerdctl::with(bed, |n| {
        let (name, other) = (n.name("first"), n.name("second"));
        let runtime = n.bed.runtime().name();
        let words = ["create", "--runtime", runtime, "--network", "none", "--name", &name, nerdctl::IMAGE];
        n.ok(&[&words[..], &["sh", "-c", "echo made; exec sleep 1000"]].concat())?;
        let listed = n.list(&["ps", "--all", "--filter", &format!("name={name}"), "--format", "{{.Status}}"])?;
        ensure!(listed == "Created", "it is {listed:?} before its start");
        n.ok(&["start", &name])?;
        n.logs_are(&name, "made\n")?;
        n.ok(&["rename", &name, &other])?;
        n.wait_for(&other, ".State.Status", "running")?;
        n.call(&["rm", &other])?.failed_with("running")?;
        n.ok(&["rm", "--force", &other])?;
        n.call(&["inspect", &other])?.failed_with("no such object")?;
        Ok(())
    })
}

pub fn pause_and_unpause(bed: &Bed) -> Outcome {
    nerdctl::with(bed, |n| {
        let name = n.detached("paused", &[], "i=0; while :; do i=$((i+1)); echo $i > /count; sleep 0.02; done")?;
        let count = || -> Outcome<String> {
            let pid = n.inspect(&name, ".State.Pid")?;
            Ok(std::fs::read_to_string(n.bed.containerd.host.path(format!("/proc/{pid}/root/count")))?)
        };
        eventually(LIMIT, || count().map(drop))?;
        n.ok(&["pause", &name])?;
        n.wait_for(&name, ".State.Status", "paused")?;
        let refused = n.call(&["exec", &name, "true"])?;
        ensure!(refused.code != 0, "an exec in a paused container succeeds\n{}", refused.report());
        let at_the_pause = count()?;
        std::thread::sleep(std::time::Duration::from_millis(300));
        ensure!(count()? == at_the_pause, "it counts on while it is paused");
        n.ok(&["unpause", &name])?;
        eventually(LIMIT, || {
            ensure!(count()? != at_the_pause, "it does not count again");
            Ok(())
        })
    })
}

pub fn stats_top_and_inspect(bed: &Bed) -> Outcome {
    nerdctl::with(bed, |n| {
        let name = n.detached("seen", &["-m", "64m", "--pids-limit", "50"], "exec sleep 1000")?;
        // nerdctl prints at its second tick, come what may: zeros if its own questions took longer.
        eventually(LIMIT, || {
            let stats = n.ok(&["stats", "--no-stream", "--format", "{{.MemUsage}} {{.PIDs}}", &name])?;
            ensure!(stats.ends_with(" / 64MiB 1"), "{stats}");
            Ok(())
        })?;
        n.call(&["top", &name])?.ok()?.says("sleep 1000")?;
        let runtime = n.ok(&["inspect", "--mode", "native", "--format", "{{.Runtime.Name}}", &name])?;
        ensure!(runtime == n.bed.runtime().name(), "the runtime is {runtime}");
        let pid: u32 = n.inspect(&name, ".State.Pid")?.parse()?;
        ensure!(n.bed.containerd.host.lives(pid), "inspect says pid {pid}, which is nobody");
        let started = n.inspect(&name, ".State.StartedAt")?;
        ensure!(started.starts_with("20"), "started at {started}");
        Ok(())
    })
}

pub fn limits_and_updates(bed: &Bed) -> Outcome {
    nerdctl::with(bed, |n| {
        let flags = ["-m", "64m", "--cpus", "0.5", "--pids-limit", "33", "--cpu-shares", "512"];
        let name = n.detached("limits", &flags, "exec sleep 1000")?;
        let id = n.inspect(&name, ".ID")?;
        let value = |files: &[&str]| -> Outcome<String> {
            for hierarchy in integration::residue::hierarchies() {
                let group = hierarchy.join(&n.bed.containerd.namespace).join(&id);
                for file in files {
                    if let Ok(text) = std::fs::read_to_string(group.join(file)) {
                        return Ok(text.trim().to_owned());
                    }
                }
            }
            Err(format!("no group has one of {files:?}").into())
        };
        let memory = value(&["memory.limit_in_bytes", "memory.max"])?;
        ensure!(memory == "67108864", "the memory limit is {memory}");
        let pids = value(&["pids.max"])?;
        ensure!(pids == "33", "the pids limit is {pids}");
        let quota = value(&["cpu.cfs_quota_us", "cpu.max"])?;
        ensure!(quota.starts_with("50000"), "the quota is {quota}");
        n.ok(&["update", "--memory", "96m", "--cpu-quota", "25000", &name])?;
        let memory = value(&["memory.limit_in_bytes", "memory.max"])?;
        ensure!(memory == "100663296", "the memory limit is {memory} after the update");
        let quota = value(&["cpu.cfs_quota_us", "cpu.max"])?;
        ensure!(quota.starts_with("25000"), "the quota is {quota} after the update");
        Ok(())
    })
}

pub fn memory_limit_kills(bed: &Bed) -> Outcome {
    nerdctl::with(bed, |n| {
        let output = n.sh(&["-m", "16m"], "exec tail -c 100000000 /dev/zero")?.exited(137)?;
        ensure!(output.stdout.is_empty(), "{}", output.report());
        Ok(())
    })
}

pub fn copies_and_commits(bed: &Bed) -> Outcome {
    nerdctl::with(bed, |n| {
        let directory = n.bed.directory("cp")?;
        let (there, back) = (directory.join("there"), directory.join("back"));
        std::fs::write(&there, "from the host\n")?;
        let name = n.detached("box", &[], "echo inside > /inside; exec sleep 1000")?;
        let (there, back) = (there.display().to_string(), back.display().to_string());
        n.ok(&["cp", &there, &format!("{name}:/copied")])?;
        n.call(&["exec", &name, "cat", "/copied"])?.ok()?.says("from the host\n")?;
        n.ok(&["cp", &format!("{name}:/inside"), &back])?;
        ensure!(std::fs::read_to_string(&back)? == "inside\n", "the copy is another");
        let image = format!("{}:1", n.name("image"));
        n.ok(&["commit", &name, &image])?;
        // The container goes on after the pause that a commit makes.
        n.wait_for(&name, ".State.Status", "running")?;
        let run = n.name("of-commit");
        let words = ["run", "--rm", "--runtime", n.bed.runtime().name(), "--network", "none", "--name", &run, &image];
        n.call(&[&words[..], &["cat", "/copied", "/inside"]].concat())?.ok()?.says("from the host\ninside\n")?;
        n.ok(&["rmi", &image])?;
        Ok(())
    })
}

pub fn events(bed: &Bed) -> Outcome {
    nerdctl::with(bed, |n| {
        let format = "{{.ID}} {{.Topic}} {{.Status}}";
        let client = n.start(&["events", "--format", format])?;
        // Any event shows that it listens.
        let mut count = 0;
        eventually(LIMIT, || {
            count += 1;
            bed.ctr(&["namespaces", "label", &bed.containerd.namespace, &format!("heard={count}")])?.ok()?;
            ensure!(!client.seen().is_empty(), "nothing is heard");
            Ok(())
        })?;
        let name = n.name("run");
        n.ok(&n.run_words(&["-d", "--network", "none", "--name", &name], &["sleep", "1000"]))?;
        let id = n.inspect(&name, ".ID")?;
        n.ok(&["pause", &name])?;
        n.ok(&["unpause", &name])?;
        n.ok(&["rm", "--force", &name])?;
        let topics = || -> Vec<String> {
            let seen = client.seen();
            seen.lines().filter(|line| line.contains(&id)).map(str::to_owned).collect()
        };
        let outcome = eventually(LIMIT, || {
            let topics = topics();
            let mut wanted = ["/tasks/create", "/tasks/start", "/tasks/paused", "/tasks/resumed", "/tasks/exit"].iter();
            let mut next = wanted.next();
            for line in &topics {
                if next.is_some_and(|topic| line.contains(topic)) {
                    next = wanted.next();
                }
            }
            ensure!(next.is_none(), "{next:?} is missing: {topics:?}");
            Ok(())
        });
        n.end(|argv| argv[0].ends_with("/nerdctl") && argv.iter().any(|word| word == "events"))?;
        outcome
    })
}

pub fn restart_policies(bed: &Bed) -> Outcome {
    nerdctl::with(bed, |n| {
        let failing = n.detached("failing", &["--restart", "on-failure:2"], "echo again; exit 3")?;
        let kept = n.detached("kept", &["--restart", "unless-stopped"], "echo up; exec sleep 1000")?;
        n.logs_are(&kept, "up\n")?;
        let pid: u32 = n.inspect(&kept, ".State.Pid")?.parse()?;
        n.bed.containerd.host.kill(pid, "KILL")?;
        n.logs_are(&kept, "up\nup\n")?;
        n.ok(&["stop", "--time", "0", &kept])?;
        let script = "trap 'exit 0' USR1; echo life; sleep 1000 & wait";
        let always = n.detached("always", &["--restart", "always"], script)?;
        n.logs_are(&always, "life\n")?;
        let pid: u32 = n.inspect(&always, ".State.Pid")?.parse()?;
        n.bed.containerd.host.kill(pid, "USR1")?;
        n.logs_are(&always, "life\nlife\n")?;
        // `stop` does not keep the monitor from it, and what it starts while `rm` is under way stays. By its label the monitor
        // itself ends it.
        let id = n.inspect(&always, ".ID")?;
        bed.ctr(&["container", "label", &id, "containerd.io/restart.status=stopped"])?.ok()?;
        eventually(LIMIT, || {
            ensure!(!bed.ctr(&["task", "ls"])?.ok()?.text().contains(&id), "it has not been stopped");
            Ok(())
        })?;
        n.ok(&["rm", "--force", &always])?;
        n.wait_for(&failing, ".RestartCount", "2")?;
        n.wait_for(&failing, ".State.Status", "exited")?;
        n.wait_for(&failing, ".State.ExitCode", "3")?;
        // The monitor may have looked at its label before the first, and at its process after.
        n.ok(&["stop", "--time", "0", &kept])?;
        n.wait_for(&kept, ".State.Status", "exited")
    })
}

pub fn health_checks(bed: &Bed) -> Outcome {
    nerdctl::with(bed, |n| {
        let flags = ["--health-cmd", "test -e /tmp/well", "--health-retries", "1", "--health-interval", "1h"];
        let name = n.detached("health", &flags, "exec sleep 1000")?;
        // nerdctl has a timer of systemd run this; there is none here, so the test does.
        n.call(&["container", "healthcheck", &name])?;
        n.wait_for(&name, ".State.Health.Status", "unhealthy")?;
        n.ok(&["exec", &name, "touch", "/tmp/well"])?;
        n.ok(&["container", "healthcheck", &name])?;
        n.wait_for(&name, ".State.Health.Status", "healthy")
    })
}

pub fn identity_and_confinement(bed: &Bed) -> Outcome {
    nerdctl::with(bed, |n| {
        n.sh(&["-u", "user", "-w", "/tmp", "--hostname", "box"], "id -un; pwd; hostname")?
            .ok()?
            .says("user\n/tmp\nbox\n")?;
        n.sh(&["--read-only", "--tmpfs", "/scratch"], "touch /scratch/x && ! touch /x")?.ok()?;
        let caps = n.sh(&["--cap-drop", "all", "--cap-add", "net_raw"], "grep CapEff /proc/self/status")?.ok()?;
        caps.says("0000000000002000")?;
        let flags = [
            "--security-opt",
            "no-new-privileges",
            "--ulimit",
            "nofile=321:654",
            "--sysctl",
            "net.ipv4.ip_unprivileged_port_start=77",
        ];
        let script = "grep NoNewPrivs /proc/self/status; ulimit -Sn; ulimit -Hn; cat /proc/sys/net/ipv4/ip_unprivileged_port_start";
        n.sh(&flags, script)?.ok()?.says("NoNewPrivs:\t1\n321\n654\n77\n")?;
        n.run(&[], &["grep", "Seccomp:", "/proc/self/status"])?.ok()?.says("Seccomp:\t2\n")?;
        n.run(&["--security-opt", "seccomp=unconfined"], &["grep", "Seccomp:", "/proc/self/status"])?
            .ok()?
            .says("Seccomp:\t0\n")?;
        n.sh(&["--device", "/dev/fuse"], "true < /dev/fuse && echo opened")?.ok()?.says("opened\n")?;
        n.sh(&["--privileged"], "mount -t tmpfs none /mnt && echo mounted")?.ok()?.says("mounted\n")?;
        n.sh(
            &["--oom-score-adj", "500", "--shm-size", "8m"],
            "cat /proc/self/oom_score_adj; df -m /dev/shm | tail -1",
        )?
        .ok()?
        .says("500\n")?
        .says(" 8 ")?;
        Ok(())
    })
}

pub fn namespaces_of_others(bed: &Bed) -> Outcome {
    nerdctl::with(bed, |n| {
        let name = n.detached("owner", &["--ipc", "shareable"], "touch /dev/shm/shared; exec sleep 12321")?;
        let of = format!("container:{name}");
        n.run(&["--pid", &of], &["ps", "-o", "args"])?.ok()?.says("sleep 12321")?;
        eventually(LIMIT, || n.run(&["--ipc", &of], &["ls", "/dev/shm"])?.ok()?.says("shared\n").map(drop))?;
        let host = n.bed.containerd.host.path("/proc/1/ns/pid").read_link()?.display().to_string();
        n.run(&["--pid", "host"], &["readlink", "/proc/self/ns/pid"])?.ok()?.says(&host)?;
        // nerdctl gives a host name also to who shares the host's.
        let words = ["--rm", "--network", "host", "--uts", "host", "--name", &n.name("uts")];
        let refused = n.call(&n.run_words(&words, &["true"]))?;
        refused.failed_with("unable to set hostname without a private UTS namespace")?;
        Ok(())
    })
}

pub fn rootfs_of_ones_own(bed: &Bed) -> Outcome {
    nerdctl::with(bed, |n| {
        let root = n.bed.directory("root")?;
        for directory in ["bin", "proc", "sys", "dev", "etc"] {
            std::fs::create_dir_all(root.join(directory))?;
        }
        std::fs::copy(integration::containerd::testbed().join("tools/bin/busybox"), root.join("bin/sh"))?;
        std::fs::write(root.join("etc/note"), "own root\n")?;
        let (name, root) = (n.name("rootfs"), root.display().to_string());
        let words = ["run", "--rm", "--runtime", n.bed.runtime().name(), "--network", "none", "--name", &name];
        let command = ["--rootfs", &root, "/bin/sh", "-c", "read line < /etc/note; echo $line"];
        n.call(&[&words[..], &command].concat())?.ok()?.says("own root\n")?;
        Ok(())
    })
}
