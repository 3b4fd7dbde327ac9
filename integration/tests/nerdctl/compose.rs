//! `nerdctl compose` with three services.

use super::networks::get;
use integration::containerd::LIMIT;
use integration::{Bed, Outcome, ensure, eventually, nerdctl};

/// One that serves, one that asks it by name, one that ends.
const FILE: &str = r#"
services:
  web:
    image: mini-busybox:latest
    runtime: RUNTIME
    command: ["sh", "-c", "mkdir /www; echo served from compose > /www/index.html; exec httpd -f -p 80 -h /www"]
    ports: ["127.0.0.1:18090:80"]
    volumes: ["kept:/kept"]
  client:
    image: mini-busybox:latest
    runtime: RUNTIME
    depends_on: [web]
    command: ["sh", "-c", "until wget -qO- http://web/; do sleep 0.1; done; exec sleep 1000"]
  once:
    image: mini-busybox:latest
    runtime: RUNTIME
    network_mode: none
    command: ["sh", "-c", "echo once; exit 5"]
volumes:
  kept: {}
"#;

pub fn compose_with_three_services(bed: &Bed) -> Outcome {
    nerdctl::with(bed, |n| {
        let file = n.bed.directory("compose")?.join("compose.yaml");
        std::fs::write(&file, FILE.replace("RUNTIME", n.bed.runtime().name()))?;
        let file = file.display().to_string();
        let compose =
            |words: &[&str]| n.call(&[&["compose", "--project-name", &n.prefix, "--file", &file], words].concat());
        compose(&["up", "--detach"])?.ok()?;
        eventually(LIMIT, || {
            let text = get(n, "http://127.0.0.1:18090/")?;
            ensure!(text == "served from compose\n", "{text:?}");
            Ok(())
        })?;
        eventually(LIMIT, || {
            let logs = compose(&["logs", "--no-color"])?.ok()?;
            ensure!(logs.text().contains("|served from compose") && logs.text().contains("|once"), "{}", logs.report());
            Ok(())
        })?;
        let running = eventually(LIMIT, || Ok(compose(&["ps", "--services"])?.ok()?.text()))?;
        ensure!(["web", "client"].iter().all(|service| running.contains(service)), "{running}");
        n.wait_for(&n.name("once-1"), ".State.ExitCode", "5")?;
        let runtime = n.ok(&["inspect", "--mode", "native", "--format", "{{.Runtime.Name}}", &n.name("web-1")])?;
        ensure!(runtime == n.bed.runtime().name(), "the runtime is {runtime}");
        compose(&["exec", "-T", "web", "cat", "/www/index.html"])?.ok()?.says("served from compose\n")?;
        compose(&["restart", "client"])?.ok()?;
        compose(&["stop"])?.ok()?;
        compose(&["down", "--volumes"])?.ok()?;
        let left = n.list(&["ps", "--all", "--quiet", "--filter", &format!("name={}", n.prefix)])?;
        ensure!(left.is_empty(), "compose down leaves {left}");
        Ok(())
    })
}
