//! The same container ids more than once on a machine.

use integration::containerd::{LIMIT, testbed};
use integration::{Bed, Outcome, Output, client, ensure, eventually, residue};
use std::process::{Child, Stdio};

/// What two containers of one id may not share.
fn assert_apart(bed: &Bed, first: u32, second: u32) -> Outcome {
    let host = &bed.containerd.host;
    ensure!(first != second, "both are pid {first}");
    let (one, other) = (host.parent(first)?, host.parent(second)?);
    ensure!(one != other, "one shim has both: {one}");
    let groups = |pid: u32| std::fs::read_to_string(host.path(format!("/proc/{pid}/cgroup")));
    let (one, other) = (groups(first)?, groups(second)?);
    let shared: Vec<&str> = one.lines().filter(|line| other.lines().any(|group| group == *line)).collect();
    ensure!(shared.is_empty(), "both are in {shared:?}");
    Ok(())
}

fn pid_in(tasks: &Output, id: &str) -> Outcome<u32> {
    let text = tasks.text();
    let line = text.lines().find(|line| line.split_whitespace().next() == Some(id));
    Ok(line.and_then(|line| line.split_whitespace().nth(1)).ok_or("no such task")?.parse()?)
}

pub fn same_id_in_two_namespaces(bed: &Bed) -> Outcome {
    // Begins as the first one's, so that what a killed test leaves is swept.
    let second = format!("{}-second", bed.containerd.namespace);
    let there = |words: &[&str]| bed.ctr(&[&["--namespace", &second], words].concat());
    let image = testbed().join("image/busybox.tar").display().to_string();
    there(&["images", "import", "--snapshotter", "overlayfs", &image])?.ok()?;
    let id = bed.sleeper()?;
    let words = bed.run_words(&id, &["--detach", "--null-io"], &["sh", "-c", "echo second > /tmp/mine; sleep 100000"]);
    there(&words)?.ok()?;
    assert_apart(bed, bed.pid(&id)?, pid_in(&there(&["task", "ls"])?.ok()?, &id)?)?;
    bed.exec_sh(&id, &[], "test ! -e /tmp/mine && echo apart")?.ok()?.says("apart\n")?;
    bed.containerd.kill()?;
    bed.containerd.restart()?;
    bed.delete(&id, &["--force"], 137)?;
    bed.ctr(&["container", "rm", &id])?.ok()?;
    let script = "cat /tmp/mine; sleep 0.3";
    there(&["task", "exec", "--exec-id", "still", &id, "sh", "-c", script])?.ok()?.says("second\n")?;
    there(&["task", "rm", "--force", &id])?.ok()?;
    there(&["container", "rm", &id])?.ok()?;
    groups_are_gone(&second)
}

/// The groups below a containerd namespace; its own stays, with any runtime, and is removed here.
fn groups_are_gone(namespace: &str) -> Outcome {
    let left = residue::cgroups_of(namespace);
    let below: Vec<_> = left.iter().filter(|group| !group.ends_with(namespace)).collect();
    ensure!(below.is_empty(), "left behind: {below:?}");
    for group in &left {
        eventually(LIMIT, || Ok(std::fs::remove_dir(group)?))?;
    }
    Ok(())
}

/// Another containerd of the same version on the same host, with root, state and sockets of its own.
struct Neighbour<'a> {
    bed: &'a Bed,
    daemon: Child,
}

const NEIGHBOUR: &str = "/run/neighbour";

impl Neighbour<'_> {
    fn start(bed: &Bed) -> Outcome<Neighbour<'_>> {
        let directory = bed.directory("neighbour")?;
        let config = std::fs::read_to_string(bed.containerd.config())?;
        let root = config.lines().find(|line| line.starts_with("root = ")).ok_or("no root in config.toml")?;
        let own = format!("root = {:?}", directory.join("root").display().to_string());
        let config = config.replace(root, &own).replace("/run/containerd", NEIGHBOUR);
        let file = directory.join("config.toml");
        std::fs::write(&file, config)?;
        let log = std::fs::File::create(directory.join("log"))?;
        let program = testbed().join(format!("c{}/bin/containerd", bed.version())).display().to_string();
        let (file, path) = (file.display().to_string(), bed.containerd.path());
        let daemon = bed
            .containerd
            .host
            .command(None, &[("PATH", path)], &[&program, "--config", &file])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let neighbour = Neighbour { bed, daemon };
        eventually(LIMIT, || neighbour.ctr(&["version"])?.ok().map(drop))?;
        let image = testbed().join("image/busybox.tar").display().to_string();
        neighbour.ctr(&["images", "import", "--snapshotter", "overlayfs", &image])?.ok()?;
        Ok(neighbour)
    }

    fn ctr(&self, words: &[&str]) -> Outcome<Output> {
        let address = format!("{NEIGHBOUR}/containerd.sock");
        let mut command = self.bed.containerd.command(Some(LIMIT), &[&["--address", &address], words].concat());
        // A containerd that inherits nothing of the other's address.
        command.env_remove("CONTAINERD_ADDRESS");
        client::start(command, format!("neighbour's ctr {}", words.join(" ")), LIMIT)?.wait()
    }

    fn stop(mut self) -> Outcome {
        let host = &self.bed.containerd.host;
        let config = self.bed.directory("neighbour")?.join("config.toml").display().to_string();
        let of_it = |argv: &[String]| argv[0].ends_with("/bin/containerd") && argv.contains(&config);
        let pid = host.processes()?.into_iter().find(|(_, argv)| of_it(argv)).ok_or("it does not run")?.0;
        host.kill(pid, "TERM")?;
        self.daemon.wait()?;
        let remove = ["rm", "-rf", NEIGHBOUR];
        ensure!(host.command(Some(LIMIT), &[], &remove).status()?.success(), "{NEIGHBOUR} stays");
        Ok(())
    }
}

pub fn same_id_under_two_daemons(bed: &Bed) -> Outcome {
    let neighbour = Neighbour::start(bed)?;
    let id = bed.sleeper()?;
    // The cgroup is named by namespace and id alone: a second container may not slip into the first one's.
    let clash = neighbour.ctr(&bed.run_words(&id, &["--detach", "--null-io"], &["sleep", "100000"]))?;
    clash.failed_with("cgroup is not empty")?;
    neighbour.ctr(&["container", "rm", &id])?;
    let group = format!("/{}/of-the-neighbour", bed.containerd.namespace);
    let flags = ["--detach", "--null-io", "--cgroup", &group];
    neighbour.ctr(&bed.run_words(&id, &flags, &["sh", "-c", "echo second > /tmp/mine; sleep 100000"]))?.ok()?;
    assert_apart(bed, bed.pid(&id)?, pid_in(&neighbour.ctr(&["task", "ls"])?.ok()?, &id)?)?;
    bed.exec_sh(&id, &[], "test ! -e /tmp/mine && echo apart")?.ok()?.says("apart\n")?;
    bed.delete(&id, &["--force"], 137)?;
    bed.ctr(&["container", "rm", &id])?.ok()?;
    let script = "cat /tmp/mine; sleep 0.3";
    neighbour.ctr(&["task", "exec", "--exec-id", "still", &id, "sh", "-c", script])?.ok()?.says("second\n")?;
    neighbour.ctr(&["task", "rm", "--force", &id])?.ok()?;
    neighbour.ctr(&["container", "rm", &id])?.ok()?;
    neighbour.stop()
}
