//! Bridges, names and published ports.

use integration::containerd::{LIMIT, testbed};
use integration::{Docker, Outcome, debian, ensure, eventually};

/// What a server of the host answers.
pub fn ask(docker: &Docker, address: &str, port: &str) -> Outcome<String> {
    let busybox = testbed().join("tools/bin/busybox").display().to_string();
    let output =
        docker.containerd.host.command(Some(LIMIT), &[], &[&busybox, "nc", "-w", "5", address, port]).output()?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

pub fn published_ports(docker: &Docker) -> Outcome {
    let script = "while :; do echo hello from $HOSTNAME | nc -l -p 80; done";
    let flags = ["--network", "bridge", "--hostname", "served", "--publish", "127.0.0.1::80"];
    let id = docker.detached(&flags, &["sh", "-c", script])?;
    let port = docker.docker(&["port", &id, "80/tcp"])?.ok()?.text();
    let port = port.trim().rsplit(':').next().ok_or("no port")?.to_owned();
    eventually(LIMIT, || {
        let answer = ask(docker, "127.0.0.1", &port)?;
        ensure!(answer == "hello from served\n", "port {port} answers {answer:?}");
        Ok(())
    })?;
    let address = docker.inspect(&id, "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}")?;
    eventually(LIMIT, || {
        let answer = ask(docker, &address, "80")?;
        ensure!(answer == "hello from served\n", "{address} answers {answer:?}");
        Ok(())
    })
}

/// Without an address a port is open on all of them.
pub fn published_udp(docker: &Docker) -> Outcome {
    crate::debian::load(docker)?;
    let id = docker.id();
    let flags = ["--detach", "--name", &id, "--network", "bridge", "--publish", "53/udp"];
    docker.docker(&docker.words_of(debian::IMAGE, "run", &flags, &["perl", "-e", debian::UDP_SERVER]))?.ok()?;
    let ports = docker.docker(&["port", &id, "53/udp"])?.ok()?.text();
    ensure!(ports.starts_with("0.0.0.0:"), "open at {ports:?}");
    let port = ports.lines().next().and_then(|line| line.rsplit(':').next()).ok_or("no port")?;
    let gateway = docker.inspect(&id, "{{range .NetworkSettings.Networks}}{{.Gateway}}{{end}}")?;
    for address in ["127.0.0.1", &gateway] {
        eventually(LIMIT, || {
            let words = ["perl", "-e", debian::UDP_CLIENT, address, port];
            let output = docker.containerd.host.command(Some(LIMIT), &[], &words).output()?;
            ensure!(output.stdout == b"heard word\n", "{address}:{port} answers {output:?}");
            Ok(())
        })?;
    }
    Ok(())
}

pub fn user_network_with_names(docker: &Docker) -> Outcome {
    let network = docker.id();
    docker.docker(&["network", "create", &network])?.ok()?;
    let script = "while :; do echo a word | nc -l -p 7000; done";
    let flags = ["--network", &network, "--network-alias", "speaker"];
    let server = docker.detached(&flags, &["sh", "-c", script])?;
    eventually(LIMIT, || {
        docker.sh(&["--network", &network], "nc -w 5 speaker 7000")?.ok()?.says("a word\n").map(drop)
    })?;
    let own = docker.sleeper(&["--network", "bridge"])?;
    ensure!(docker.exec(&[], &own, "nc -w 1 speaker 7000")?.code != 0, "the name is known outside of the network");
    docker.docker(&["network", "connect", &network, &own])?.ok()?;
    eventually(LIMIT, || docker.exec(&[], &own, "nc -w 5 speaker 7000")?.ok()?.says("a word\n").map(drop))?;
    docker.docker(&["network", "disconnect", &network, &own])?.ok()?;
    docker.docker(&["rm", "--force", &server, &own])?.ok()?;
    docker.docker(&["network", "rm", &network])?.ok()?;
    Ok(())
}

pub fn network_of_another_container(docker: &Docker) -> Outcome {
    let server = docker
        .detached(&["--network", "bridge"], &["sh", "-c", "while :; do echo by loopback | nc -l -p 7000; done"])?;
    let of = format!("container:{server}");
    eventually(LIMIT, || {
        docker.sh(&["--network", &of], "nc -w 5 127.0.0.1 7000")?.ok()?.says("by loopback\n").map(drop)
    })
}

pub fn none_and_host(docker: &Docker) -> Outcome {
    let output = docker.run(&["--network", "none"], &["ip", "-o", "link"])?.ok()?;
    ensure!(output.text().lines().count() == 1, "{}", output.report());
    docker.run(&["--network", "host"], &["ip", "-o", "link"])?.ok()?.says("docker0")?;
    Ok(())
}
