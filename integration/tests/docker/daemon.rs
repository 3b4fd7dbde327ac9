//! What daemon.json decides, and dockerd's own end. Each has a containerd and a dockerd for itself.

use integration::containerd::LIMIT;
use integration::docker::IMAGE;
use integration::{Docker, Outcome, ensure, eventually};
use serde_json::json;
use std::path::{Path, PathBuf};

/// The name of the shim that holds a container.
fn shim(docker: &Docker, id: &str) -> Outcome<String> {
    let pid = docker.containerd.host.parent(docker.pid(id)?)?;
    let processes = docker.containerd.host.processes()?;
    let (_, argv) = processes.into_iter().find(|process| process.0 == pid).ok_or("no shim")?;
    Ok(argv[0].rsplit('/').next().unwrap_or_default().to_owned())
}

fn expected_shim(docker: &Docker) -> &'static str {
    if docker.on_mini() { "containerd-shim-mini-v2" } else { "containerd-shim-runc-v2" }
}

pub fn default_runtime_and_build(docker: &Docker) -> Outcome {
    let name = docker.containerd.runtime.name();
    docker.start(&json!({ "default-runtime": name }))?;
    docker.docker(&["info", "--format", "{{.DefaultRuntime}}"])?.ok()?.says(name)?;
    let id = docker.id();
    docker.docker(&["run", "--detach", "--name", &id, IMAGE, "sleep", "1000"])?.ok()?;
    let shim = shim(docker, &id)?;
    ensure!(shim == expected_shim(docker), "the default runtime's shim is {shim}");
    docker.docker(&["rm", "--force", &id])?.ok()?;
    // The classic builder runs its steps as containers of the default runtime.
    let context = docker.directory("build")?;
    let recipe = format!(
        "FROM {IMAGE}\nRUN echo built by $(id -un) > /built && mkdir /made\nWORKDIR /made\nCMD cat /built; pwd\n"
    );
    std::fs::write(context.join("Dockerfile"), recipe)?;
    let context = context.display().to_string();
    let builder = [("DOCKER_BUILDKIT", "0")];
    docker.docker_with(&builder, &["build", "--force-rm", "--tag", "built", &context])?.ok()?;
    docker.docker(&["run", "--rm", "built"])?.ok()?.says("built by root\n/made\n")?;
    std::fs::write(Path::new(&context).join("Dockerfile"), format!("FROM {IMAGE}\nRUN exit 7\n"))?;
    docker.docker_with(&builder, &["build", "--force-rm", &context])?.failed_with("returned a non-zero code: 7")?;
    Ok(())
}

/// dockerd as it comes: with a containerd that it starts, configures and ends itself.
pub fn containerd_of_its_own(docker: &Docker) -> Outcome {
    docker.start(&json!({}))?;
    docker.kill("TERM")?;
    // It looks for the machine's first.
    docker.containerd.kill()?;
    std::fs::remove_file(docker.containerd.host.path("/run/containerd/containerd.sock"))?;
    docker.launch_alone()?;
    let own = || -> Outcome<bool> {
        let is_own = |argv: &[String]| argv.iter().any(|word| word.ends_with("/docker/containerd/containerd.toml"));
        Ok(docker.containerd.host.processes()?.iter().any(|(_, argv)| is_own(argv)))
    };
    ensure!(own()?, "dockerd has started no containerd");
    let output = docker.sh(&[], "echo out; echo err >&2; exit 3")?.exited(3)?;
    ensure!(output.text() == "out\n" && output.errors() == "err\n", "{}", output.report());
    let id = docker.sleeper(&[])?;
    let shim = shim(docker, &id)?;
    ensure!(shim == expected_shim(docker), "the shim is {shim}");
    docker.exec(&[], &id, "echo inside")?.ok()?.says("inside\n")?;
    docker.docker(&["stop", &id])?.ok()?;
    ensure!(docker.docker(&["logs", &id])?.ok()?.errors().is_empty(), "it complains");
    docker.finish()?;
    docker.kill("TERM")?;
    ensure!(!own()?, "dockerd's containerd is still there");
    // What is left then is that containerd's, but for bundles.
    let state = docker.containerd.host.path("/run/docker/containerd");
    let bundles = state.join("daemon/io.containerd.runtime.v2.task").join(&docker.containerd.namespace);
    ensure!(!bundles.exists() || bundles.read_dir()?.next().is_none(), "bundles are left in {bundles:?}");
    std::fs::remove_dir_all(state)?;
    docker.containerd.restart()?;
    docker.launch()
}

pub fn runtimes_with_options(docker: &Docker) -> Outcome {
    // An option whose effect can be seen from outside: the group that the shim itself is put in.
    let group = format!("/{}/shims", docker.containerd.namespace);
    let directories: Vec<PathBuf> =
        integration::residue::hierarchies().iter().map(|hierarchy| hierarchy.join(&group[1..])).collect();
    for directory in &directories {
        std::fs::create_dir_all(directory)?;
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if directory.join(file).exists() {
                for level in [directory.parent().ok_or("no parent")?, directory] {
                    std::fs::write(level.join(file), "0")?;
                }
            }
        }
    }
    let name = docker.containerd.runtime.name();
    let options = if docker.on_mini() {
        let file = docker.directory("options")?.join("mini.toml");
        std::fs::write(&file, format!("ShimCgroup = \"{group}\"\n"))?;
        json!({ "TypeUrl": "", "ConfigPath": file })
    } else {
        json!({ "ShimCgroup": group })
    };
    docker.start(&json!({ "runtimes": { "mine": { "runtimeType": name, "options": options } } }))?;
    let id = docker.id();
    docker.docker(&["run", "--detach", "--runtime", "mine", "--name", &id, IMAGE, "sleep", "1000"])?.ok()?;
    let shim_name = shim(docker, &id)?;
    ensure!(shim_name == expected_shim(docker), "the shim is {shim_name}");
    let pid = docker.containerd.host.parent(docker.pid(&id)?)?;
    let groups = std::fs::read_to_string(docker.containerd.host.path(format!("/proc/{pid}/cgroup")))?;
    ensure!(groups.lines().any(|line| line.ends_with(&group)), "the shim is in {groups}");
    docker.docker(&["rm", "--force", &id])?.ok()?;
    for directory in directories {
        eventually(LIMIT, || Ok(std::fs::remove_dir(&directory)?))?;
    }
    Ok(())
}

pub fn live_restore(docker: &Docker) -> Outcome {
    docker.start(&json!({ "live-restore": true }))?;
    let control = docker.directory("control")?;
    let volume = format!("{}:/control", control.display());
    // It is silent while dockerd is killed: what dockerd has read and not written by then is lost with it.
    let until = "while ! test -e /control/down; do sleep 0.1; done";
    let script = format!(
        "echo line 0; {until}; i=0; while [ $i -lt 100 ]; do i=$((i+1)); echo line $i; done; touch /control/said;
         while ! test -e /control/up; do sleep 0.1; done; echo line 101; sleep 1000"
    );
    let talker = docker.detached(&["--volume", &volume], &["sh", "-c", &script])?;
    let ending = docker.detached(&["--volume", &volume], &["sh", "-c", &format!("{until}; exit 23")])?;
    let paused = docker.detached(&[], &["sh", "-c", "trap 'exit 5' TERM; echo; sleep 1000 & wait"])?;
    crate::run::lives(docker, &paused, 1)?;
    crate::run::lives(docker, &talker, 1)?;
    docker.docker(&["pause", &paused])?.ok()?;
    let (pid, inner) = (docker.pid(&talker)?, docker.pid(&ending)?);
    docker.kill("KILL")?;
    std::fs::write(control.join("down"), "")?;
    eventually(LIMIT, || {
        ensure!(!docker.containerd.host.lives(inner), "the container does not end while dockerd is down");
        ensure!(control.join("said").exists(), "the container does not go on while dockerd is down");
        Ok(())
    })?;
    docker.launch()?;
    ensure!(docker.pid(&talker)? == pid, "the container has another pid after dockerd's restart");
    docker.wait_for(&ending, "{{.State.Status}} {{.State.ExitCode}}", "exited 23")?;
    docker.exec(&[], &talker, "echo still here")?.ok()?.says("still here\n")?;
    std::fs::write(control.join("up"), "")?;
    let expected: String = (0..=101).map(|number| format!("line {number}\n")).collect();
    eventually(LIMIT, || {
        let logs = docker.docker(&["logs", &talker])?.ok()?;
        ensure!(logs.text() == expected, "{}", logs.report());
        Ok(())
    })?;
    ensure!(docker.inspect(&paused, "{{.State.Status}}")? == "paused", "it is no longer paused");
    docker.docker(&["unpause", &paused])?.ok()?;
    docker.docker(&["stop", &paused])?.ok()?;
    ensure!(docker.inspect(&paused, "{{.State.ExitCode}}")? == "5", "its handler did not end it");
    docker.docker(&["kill", &talker])?.ok()?;
    docker.docker(&["wait", &talker])?.ok()?.says("137\n")?;
    Ok(())
}

/// Containers that end while dockerd is away with live-restore: what is to be removed is, what is to begin again does.
pub fn ends_while_dockerd_is_away(docker: &Docker) -> Outcome {
    docker.start(&json!({ "live-restore": true }))?;
    let removed = docker.sleeper(&["--rm"])?;
    let again = docker.sleeper(&["--restart", "always"])?;
    let kept = docker.sleeper(&["--restart", "on-failure:2"])?;
    let (id, pid) = (docker.full_id(&removed)?, docker.pid(&again)?);
    let pids = [docker.pid(&removed)?, pid, docker.pid(&kept)?];
    docker.kill("KILL")?;
    for pid in pids {
        docker.containerd.host.kill(pid, "KILL")?;
    }
    eventually(LIMIT, || {
        ensure!(!pids.iter().any(|pid| docker.containerd.host.lives(*pid)), "the containers do not end");
        Ok(())
    })?;
    docker.launch()?;
    for name in [&again, &kept] {
        eventually(LIMIT, || docker.exec(&[], name, "echo a new life")?.ok()?.says("a new life\n").map(drop))?;
        ensure!(!pids.contains(&docker.pid(name)?), "{name} is the same process");
    }
    eventually(LIMIT, || docker.docker(&["inspect", &removed])?.failed_with("No such object").map(drop))?;
    integration::residue::assert_none_of(&docker.containerd, &id, LIMIT)?;
    docker.docker(&["stop", "--time", "0", &again, &kept])?.ok()?;
    ensure!(docker.inspect(&again, "{{.State.Status}}")? == "exited", "it did not stay stopped");
    Ok(())
}

/// Without live-restore dockerd stops what runs, and starts it again as its policy has it.
pub fn policies_at_a_restart_of_dockerd(docker: &Docker) -> Outcome {
    docker.start(&json!({ "shutdown-timeout": 5 }))?;
    let policies = ["always", "unless-stopped", "on-failure", "no"];
    let running =
        policies.map(|policy| docker.sleeper(&["--restart", policy])).into_iter().collect::<Outcome<Vec<_>>>()?;
    let stopped = ["always", "unless-stopped"].map(|policy| docker.sleeper(&["--restart", policy]));
    let stopped = stopped.into_iter().collect::<Outcome<Vec<_>>>()?;
    for id in &stopped {
        docker.docker(&["stop", "--time", "0", id])?.ok()?;
    }
    docker.kill("TERM")?;
    docker.launch()?;
    for (id, state) in [
        (&running[0], "running"),
        (&running[1], "running"),
        (&running[3], "exited"),
        (&stopped[0], "running"),
        (&stopped[1], "exited"),
    ] {
        docker.wait_for(id, "{{.State.Status}}", state)?;
    }
    docker.exec(&[], &running[0], "echo again")?.ok()?.says("again\n")?;
    Ok(())
}

pub fn user_namespaces(docker: &Docker) -> Outcome {
    // The machine's files stay as they are: these lie on top of them in dockerd's host only.
    let directory = docker.directory("ids")?;
    for name in ["subuid", "subgid"] {
        let file = directory.join(name);
        std::fs::write(&file, "daemon:200000:65536\n")?;
        let (file, target) = (file.display().to_string(), format!("/etc/{name}"));
        let status = docker.containerd.host.command(None, &[], &["mount", "--bind", &file, &target]).status()?;
        ensure!(status.success(), "mount on {target} failed");
    }
    docker.start(&json!({ "userns-remap": "daemon" }))?;
    let id = docker.sleeper(&["--network", "bridge"])?;
    docker.exec(&[], &id, "id -u; cat /proc/self/uid_map")?.ok()?.says("0\n")?.says("200000      65536")?;
    let status = std::fs::read_to_string(docker.containerd.host.path(format!("/proc/{}/status", docker.pid(&id)?)))?;
    ensure!(status.contains("Uid:\t200000\t200000"), "outside it is {status}");
    // Its streams are its own to open again, and so is what docker puts into its root.
    docker
        .exec(&[], &id, "echo again > /proc/self/fd/1; echo x >> /etc/hosts; touch /made; stat -c %u /made")?
        .ok()?
        .says("again\n0\n")?;
    docker.sh(&[], "echo out > /dev/stdout; echo err > /dev/stderr; id -u")?.ok()?.says("out\n0\n")?;
    docker.sh(&["--userns", "host"], "cat /proc/self/uid_map")?.ok()?.says("4294967295")?;
    let mut terminal =
        docker.terminal(&docker.words("run", &["--rm", "-it"], &["sh", "-c", "stat -c %u $(tty); read x; exit 5"]))?;
    terminal.wait_for("0\n", LIMIT)?;
    terminal.send("\n")?;
    ensure!(terminal.wait(LIMIT)? == 5, "the terminal did not end with 5: {:?}", terminal.screen());
    docker.docker(&["stop", &id])?.ok()?;
    Ok(())
}

pub fn containerd_image_store(docker: &Docker) -> Outcome {
    docker.start(&json!({ "features": { "containerd-snapshotter": true } }))?;
    let driver = docker.docker(&["info", "--format", "{{.DriverStatus}}"])?.ok()?;
    driver.says("io.containerd.snapshotter.v1")?;
    let id = docker.sleeper(&[])?;
    docker.exec(&[], &id, "cat /etc/image-name; echo mine > /etc/mine")?.ok()?.says("mini-busybox\n")?;
    let target = docker.directory("cp")?.join("mine");
    docker.docker(&["cp", &format!("{id}:/etc/mine"), &target.display().to_string()])?.ok()?;
    docker.docker(&["restart", &id])?.ok()?;
    docker.exec(&[], &id, "cat /etc/mine")?.ok()?.says("mine\n")?;
    docker.docker(&["commit", &id, "committed"])?.ok()?;
    docker
        .docker(&["run", "--rm", "--runtime", docker.containerd.runtime.name(), "committed", "cat", "/etc/mine"])?
        .ok()?
        .says("mine\n")?;
    docker.run(&[], &["/no/such/file"])?.exited(127)?;
    Ok(())
}
