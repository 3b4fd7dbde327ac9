//! Several containers by one file, and images by a registry.

use integration::containerd::{LIMIT, testbed};
use integration::docker::IMAGE;
use integration::{Docker, Outcome, ensure, eventually};
use std::process::{Child, Stdio};

/// A store with a health check, a server that waits for it and is published, and a worker that shares a volume.
fn file(docker: &Docker) -> String {
    let runtime = docker.containerd.runtime.name();
    format!(
        r#"
services:
  store:
    image: {IMAGE}
    runtime: {runtime}
    init: true
    command: sh -c "echo the stored word > /data/word; touch /tmp/up; while :; do nc -l -p 6000 < /data/word; done"
    healthcheck: {{ test: test -e /tmp/up, interval: 200ms, retries: 200 }}
    volumes: [ "data:/data" ]
  web:
    image: {IMAGE}
    runtime: {runtime}
    init: true
    command: sh -c "while :; do nc -w 5 store 6000 | nc -l -p 80; done"
    depends_on: {{ store: {{ condition: service_healthy }} }}
    ports: [ "127.0.0.1::80" ]
  worker:
    image: {IMAGE}
    runtime: {runtime}
    init: true
    command: sh -c "cat /data/word; sleep 1000"
    depends_on: [ web ]
    volumes: [ "data:/data:ro" ]
volumes: {{ data: {{}} }}
"#
    )
}

pub fn three_services(docker: &Docker) -> Outcome {
    let path = docker.directory("compose")?.join("compose.yaml");
    std::fs::write(&path, file(docker))?;
    let (path, project) = (path.display().to_string(), docker.id().replace('.', "-"));
    let compose = |words: &[&str]| {
        docker
            .docker(&[&["compose", "--file", &path, "--project-name", &project, "--progress", "quiet"], words].concat())
    };
    let outcome = (|| {
        compose(&["up", "--detach"])?.ok()?;
        let running = compose(&["ps", "--services", "--status", "running"])?.ok()?.text();
        ensure!(running.lines().count() == 3, "of three services run {running:?}");
        let port = compose(&["port", "web", "80"])?.ok()?.text();
        let port = port.trim().rsplit(':').next().ok_or("no port")?.to_owned();
        eventually(LIMIT, || {
            let answer = crate::network::ask(docker, "127.0.0.1", &port)?;
            ensure!(answer == "the stored word\n", "the server answers {answer:?}");
            Ok(())
        })?;
        eventually(LIMIT, || compose(&["logs", "worker"])?.ok()?.says("the stored word").map(drop))?;
        compose(&["exec", "-T", "worker", "sh", "-c", "cat /data/word; exit 9"])?
            .exited(9)?
            .says("the stored word\n")?;
        compose(&["restart", "worker"])?.ok()?;
        compose(&["up", "--detach", "--scale", "worker=2"])?.ok()?;
        let running = compose(&["ps", "--quiet", "worker"])?.ok()?.text();
        ensure!(running.lines().count() == 2, "of two workers run {running:?}");
        compose(&["stop"])?.ok()?;
        let running = compose(&["ps", "--quiet", "--status", "running"])?.ok()?.text();
        ensure!(running.is_empty(), "after stop run {running:?}");
        Ok(())
    })();
    let down = compose(&["down", "--volumes", "--timeout", "1"])?.ok();
    outcome.and(down.map(drop))
}

/// Starts a registry on the host's loopback.
fn start_registry(docker: &Docker) -> Outcome<Child> {
    let directory = docker.directory("registry")?;
    let (config, data) = (directory.join("config.yml"), directory.join("data"));
    let text = format!(
        "version: 0.1\nlog: {{ level: error }}\nhttp: {{ addr: 127.0.0.1:5000 }}\n\
         storage: {{ filesystem: {{ rootdirectory: {data:?} }} }}\n"
    );
    std::fs::write(&config, text)?;
    let program = testbed().join("docker/bin/docker-registry").display().to_string();
    let argv = [&program, "serve", &config.display().to_string()];
    let mut command = docker.containerd.host.command(None, &[], &argv);
    Ok(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?)
}

pub fn pushed_and_pulled(docker: &Docker) -> Outcome {
    let mut registry = start_registry(docker)?;
    let outcome = push_and_pull(docker);
    docker.containerd.host.kill(docker.process("docker-registry")?, "KILL")?;
    registry.wait()?;
    outcome
}

fn push_and_pull(docker: &Docker) -> Outcome {
    let name = format!("127.0.0.1:5000/{}:v1", docker.id());
    let first = docker.sleeper(&[])?;
    docker.exec(&[], &first, "echo pulled > /etc/pulled")?.ok()?;
    docker.docker(&["commit", &first, &name])?.ok()?;
    eventually(LIMIT, || docker.docker(&["push", "--quiet", &name])?.ok().map(drop))?;
    docker.docker(&["rmi", &name])?.ok()?;
    docker.docker(&["run", "--rm", "--pull", "never", &name])?.exited(125)?;
    docker.docker(&["pull", "--quiet", &name])?.ok()?;
    let runtime = docker.containerd.runtime.name();
    docker
        .docker(&["run", "--rm", "--network", "none", "--runtime", runtime, &name, "cat", "/etc/pulled"])?
        .ok()?
        .says("pulled\n")?;
    docker.docker(&["rm", "--force", &first])?.ok()?;
    docker.docker(&["rmi", &name])?.ok()?;
    Ok(())
}
