//! docs/docker.md, done as it stands.

use integration::containerd::LIMIT;
use integration::{Docker, Outcome, client, ensure};

const PAGE: &str = include_str!("../../../docs/docker.md");

/// The fenced blocks of the page: language and text.
fn blocks() -> Vec<(&'static str, String)> {
    let mut found: Vec<(&str, String)> = Vec::new();
    let mut inside = false;
    for line in PAGE.lines() {
        match line.strip_prefix("```") {
            Some("") => inside = false,
            Some(language) => {
                inside = true;
                found.push((language, String::new()));
            }
            None if inside => found.last_mut().into_iter().for_each(|(_, text)| *text += &format!("{line}\n")),
            None => {}
        }
    }
    found
}

/// Whether the words between the `…` of a pattern are in the line, in this order.
fn fits(pattern: &str, line: &str) -> bool {
    let mut rest = line;
    let mut parts = pattern.split('…');
    let begins = parts.next().is_some_and(|first| match rest.strip_prefix(first) {
        Some(after) => {
            rest = after;
            true
        }
        None => false,
    });
    let follow = parts.all(|part| match rest.find(part) {
        Some(at) => {
            rest = &rest[at + part.len()..];
            true
        }
        None => false,
    });
    begins && follow && (rest.is_empty() || pattern.ends_with('…'))
}

/// `sh` is executed, with a failure of any line as the end; `text` is what the block before it printed, line by line with
/// others between; `json` is a daemon.json, and dockerd is started again with it. `console` concerns the machine.
pub fn commands(docker: &Docker) -> Outcome {
    // What the page writes to the machine's /etc stays in dockerd's host.
    let (upper, work) = (docker.directory("etc")?, docker.directory("etc-work")?);
    let options = format!("lowerdir=/etc,upperdir={},workdir={}", upper.display(), work.display());
    let cover = ["mount", "-t", "overlay", "-o", &options, "overlay", "/etc"];
    let status = docker.containerd.host.command(None, &[], &cover).status()?;
    ensure!(status.success(), "an overlay on /etc cannot be mounted");
    docker.start(&serde_json::json!({}))?;
    docker.docker(&["tag", integration::docker::IMAGE, "busybox"])?.ok()?;
    let mut said = String::new();
    for (language, text) in blocks() {
        match language {
            "sh" => said = shell(docker, &text)?,
            "text" => {
                let mut lines = said.lines();
                for pattern in text.lines() {
                    ensure!(lines.any(|line| fits(pattern, line)), "{pattern:?} is not there, or not there:\n{said}");
                }
            }
            "json" => {
                docker.kill("TERM")?;
                docker.configure(&serde_json::from_str(&text)?)?;
                docker.launch()?;
            }
            "console" => {}
            other => return Err(format!("a block of docs/docker.md is {other:?}").into()),
        }
    }
    Ok(())
}

fn shell(docker: &Docker, text: &str) -> Outcome<String> {
    let script = format!("set -e\nexec 2>&1\n{text}");
    let output = client::start(docker.shell(&script), script.clone(), LIMIT)?.wait()?.ok()?;
    Ok(output.text())
}
