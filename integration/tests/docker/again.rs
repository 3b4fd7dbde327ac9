//! What is done twice: names used again, lives begun again, clients attached again, files copied in and out.

use integration::containerd::LIMIT;
use integration::{Docker, Outcome, client, ensure, eventually, residue};
use std::collections::BTreeSet;

pub fn names_used_again_at_once(docker: &Docker) -> Outcome {
    let id = docker.id();
    for number in 0..5 {
        let script = format!("exit {number}");
        let words = docker.words("run", &["--rm", "--name", &id], &["sh", "-c", &script]);
        docker.docker(&words)?.exited(number)?;
    }
    for _ in 0..3 {
        docker.docker(&docker.words("run", &["--detach", "--name", &id], &["sleep", "1000"]))?.ok()?;
        let taken = docker.docker(&docker.words("run", &["--name", &id], &["true"]))?.exited(125)?;
        taken.failed_with("is already in use by container")?;
        docker.docker(&["rm", "--force", &id])?.ok()?;
    }
    let (other, full) = (docker.id(), docker.detached(&[], &["sleep", "1000"])?);
    docker.docker(&["rename", &full, &other])?.ok()?;
    docker.exec(&[], &other, "echo under another name")?.ok()?.says("under another name\n")?;
    docker.docker(&["inspect", &full])?.failed_with("No such object")?;
    Ok(())
}

pub fn failed_start_with_rm_leaves_nothing(docker: &Docker) -> Outcome {
    let file = docker.directory("ids")?.join("id");
    let path = file.display().to_string();
    for (flags, program, code) in [
        (&[][..], "no-such-program", 127),
        (&[], "/etc", 126),
        (&["--tmpfs", "/etc/passwd"], "true", 125),
        (&["--volume", "/made-for-it"], "/no/such/file", 127),
    ] {
        let name = docker.id();
        let flags = [&["--rm", "--name", &name, "--cidfile", &path], flags].concat();
        docker.docker(&docker.words("run", &flags, &[program]))?.exited(code)?;
        let id = std::fs::read_to_string(&file)?;
        std::fs::remove_file(&file)?;
        ensure!(id.len() == 64, "the id is {id:?}");
        eventually(LIMIT, || {
            let all = docker.docker(&["ps", "--all", "--quiet", "--no-trunc"])?.ok()?.text();
            ensure!(!all.contains(&id), "{id} is still there");
            Ok(())
        })?;
        residue::assert_none_of(&docker.containerd, &id, LIMIT)?;
        let data = docker.home().join("data/containers").join(&id);
        ensure!(!data.exists(), "{data:?} is still there");
    }
    Ok(())
}

/// How often a container was begun again, and when.
fn begun(docker: &Docker, id: &str) -> Outcome<(u32, String)> {
    let text = docker.inspect(id, "{{.RestartCount}} {{.State.StartedAt}}")?;
    let (count, time) = text.split_once(' ').ok_or("no time")?;
    Ok((count.parse()?, time.to_owned()))
}

pub fn restarts_are_counted(docker: &Docker) -> Outcome {
    let id = docker.detached(&["--restart", "on-failure:3"], &["sh", "-c", "date >> /lives; exit 6"])?;
    let mut times = BTreeSet::new();
    eventually(LIMIT, || {
        let (count, time) = begun(docker, &id)?;
        times.insert(time);
        ensure!(count == 3, "begun again {count} times");
        Ok(())
    })?;
    docker.wait_for(&id, "{{.State.Status}} {{.State.ExitCode}}", "exited 6")?;
    times.insert(begun(docker, &id)?.1);
    ensure!(times.len() > 1, "it was begun again at the same time: {times:?}");
    // A start by hand counts anew.
    docker.docker(&["start", &id])?.ok()?;
    docker.wait_for(&id, "{{.RestartCount}} {{.State.Status}}", "3 exited")?;
    let (_, last) = begun(docker, &id)?;
    ensure!(times.last().is_some_and(|before| *before < last), "{last} is not later than {times:?}");
    docker.docker(&["cp", &format!("{id}:/lives"), "-"])?.ok()?;
    // One that ends well is not begun again, and one that is stopped stays so.
    let well = docker.detached(&["--restart", "on-failure:3"], &["true"])?;
    docker.wait_for(&well, "{{.RestartCount}} {{.State.Status}}", "0 exited")?;
    let stopped = docker.sleeper(&["--restart", "unless-stopped"])?;
    docker.docker(&["stop", "--time", "0", &stopped])?.ok()?;
    docker.wait_for(&stopped, "{{.RestartCount}} {{.State.Status}}", "0 exited")?;
    Ok(())
}

fn shows(client: &client::Running, words: &str) -> Outcome {
    eventually(LIMIT, || {
        ensure!(client.seen().contains(words), "{words:?} is not in {:?}", client.seen());
        Ok(())
    })
}

pub fn two_clients_attached(docker: &Docker) -> Outcome {
    let script = "while read line; do test $line = end && exit 4; echo got $line; done";
    let id = docker.detached(&["--interactive"], &["sh", "-c", script])?;
    let (mut first, mut second) = (docker.client(&["attach", &id])?, docker.client(&["attach", &id])?);
    // What one has written shows that it is attached: from then on it is shown what the others write.
    first.write(b"one\n")?;
    shows(&first, "got one\n")?;
    second.write(b"two\n")?;
    shows(&second, "got two\n")?;
    shows(&first, "got two\n")?;
    let watcher = docker.client(&["attach", "--no-stdin", &id])?;
    eventually(LIMIT, || {
        first.write(b"again\n")?;
        std::thread::sleep(std::time::Duration::from_millis(100));
        ensure!(watcher.seen().contains("got again\n"), "the third client shows {:?}", watcher.seen());
        Ok(())
    })?;
    second.write(b"end\n")?;
    for client in [first, second, watcher] {
        client.wait()?.exited(4)?;
    }
    Ok(())
}

pub fn copies_of_one_that_runs_and_one_that_does_not(docker: &Docker) -> Outcome {
    let directory = docker.directory("cp")?;
    let tree = directory.join("tree/deep");
    std::fs::create_dir_all(&tree)?;
    std::fs::write(tree.join("file"), "from outside\n")?;
    std::os::unix::fs::symlink("/etc/passwd", tree.join("link"))?;
    let source = directory.join("tree").display().to_string();
    let id = docker.id();
    let volume = docker.id();
    let flags = ["--name", &id, "--volume", &format!("{volume}:/data")];
    docker.docker(&docker.words("create", &flags, &["sh", "-c", "trap 'exit 0' TERM; sleep 1000 & wait"]))?.ok()?;
    let there_and_back = |state: &str| -> Outcome {
        for place in ["/tmp", "/data"] {
            let (target, back) = (format!("{id}:{place}/{state}"), directory.join(format!("back-{state}")));
            docker.docker(&["cp", &source, &target])?.ok()?;
            docker.docker(&["cp", &target, &back.display().to_string()])?.ok()?;
            ensure!(std::fs::read_to_string(back.join("deep/file"))? == "from outside\n", "another file came back");
            let link = back.join("deep/link").read_link()?;
            ensure!(link.as_os_str() == "/etc/passwd", "the link is {link:?}");
            std::fs::remove_dir_all(&back)?;
        }
        docker.docker(&["cp", &format!("{id}:/no/such"), &source])?.failed_with("Could not find the file /no/such")?;
        Ok(())
    };
    there_and_back("created")?;
    docker.docker(&["start", &id])?.ok()?;
    there_and_back("running")?;
    docker
        .exec(&[], &id, "cat /tmp/created/deep/file /data/running/deep/file")?
        .ok()?
        .says("from outside\nfrom outside\n")?;
    docker.docker(&["pause", &id])?.ok()?;
    there_and_back("paused")?;
    docker.docker(&["unpause", &id])?.ok()?;
    docker.docker(&["stop", "--time", "0", &id])?.ok()?;
    there_and_back("stopped")?;
    let export = docker.docker(&["export", &id])?.ok()?;
    let name = b"tmp/paused/deep/file";
    ensure!(export.stdout.windows(name.len()).any(|words| words == name), "the archive lacks a copied file");
    docker.docker(&["rm", "--force", &id])?.ok()?;
    docker.docker(&["volume", "rm", &volume])?.ok()?;
    Ok(())
}

/// While its files are taken it stands still, and afterwards it goes on; without, it is not touched.
pub fn commit_with_and_without_pause(docker: &Docker) -> Outcome {
    let id = docker.sleeper(&[])?;
    let begin = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs().to_string();
    let actions = || -> Outcome<Vec<String>> {
        let filter = format!("container={id}");
        let words = ["events", "--since", &begin, "--until", "0s", "--filter", &filter, "--format", "{{.Action}}"];
        let text = docker.docker(&words)?.ok()?.text();
        Ok(text.lines().filter(|line| ["pause", "unpause", "commit"].contains(line)).map(str::to_owned).collect())
    };
    let images = [format!("{id}-still"), format!("{id}-moving")];
    for (image, flag, expected) in
        [(&images[0], "--pause=true", &["pause", "commit", "unpause"][..]), (&images[1], "--pause=false", &["commit"])]
    {
        let before = actions()?.len();
        docker.docker(&["commit", flag, &id, image])?.ok()?;
        eventually(LIMIT, || {
            let seen = actions()?.split_off(before);
            ensure!(seen == expected, "{flag}: {seen:?}");
            Ok(())
        })?;
        docker.wait_for(&id, "{{.State.Status}}", "running")?;
        docker.exec(&[], &id, "true")?.ok()?;
        docker.docker(&["rmi", image])?.ok()?;
    }
    Ok(())
}

pub fn disk_usage_and_prune(docker: &Docker) -> Outcome {
    let (ended, running) = (docker.detached(&[], &["true"])?, docker.sleeper(&[])?);
    docker.docker(&["wait", &ended])?.ok()?;
    docker.docker(&["system", "df", "--verbose"])?.ok()?.says(&ended)?;
    let filter = format!("label=mini-test={}", docker.inspect(&ended, "{{index .Config.Labels \"mini-test\"}}")?);
    docker.docker(&["container", "prune", "--force", "--filter", &filter])?.ok()?;
    docker.docker(&["inspect", &ended])?.failed_with("No such object")?;
    docker.docker(&["system", "prune", "--force", "--filter", &filter])?.ok()?;
    docker.exec(&[], &running, "true")?.ok()?;
    Ok(())
}
