//! The pages of docs/ are run: each block marked `sh`, and what the block after it says has to come out.

use integration::containerd::{IMAGE, LIMIT, testbed};
use integration::{Bed, Outcome, cases, ensure, nerdctl, suite};
use std::fmt::Write;

/// The image that pages speak of.
const BUSYBOX: &str = "docker.io/library/busybox:latest";

struct Block {
    script: String,
    expected: Vec<String>,
}

/// The blocks of a page that are run, each with what it has to print.
fn blocks(page: &str) -> Vec<Block> {
    let mut found: Vec<Block> = Vec::new();
    let mut lines = page.lines();
    let mut after_script = false;
    while let Some(line) = lines.next() {
        let Some(mark) = line.strip_prefix("```") else {
            after_script = false;
            continue;
        };
        let body: Vec<String> = lines.by_ref().take_while(|line| *line != "```").map(str::to_owned).collect();
        match (mark, found.last_mut()) {
            ("sh", _) => found.push(Block { script: body.join("\n"), expected: Vec::new() }),
            ("", Some(block)) if after_script => block.expected = body,
            _ => {}
        }
        after_script = mark == "sh";
    }
    found
}

/// Runs a page on the containerd's host with its programs first in PATH.
fn run(bed: &Bed, page: &str) -> Outcome {
    bed.ctr(&["images", "tag", "--force", IMAGE, BUSYBOX])?.ok()?;
    let bin = bed.directory("bin")?;
    let bed_of = |path: &str| testbed().join(path);
    for (name, program) in
        [("ctr", bed_of(&format!("c{}/bin/ctr", bed.version()))), ("nerdctl", bed_of("nerdctl/bin/nerdctl"))]
    {
        std::os::unix::fs::symlink(program, bin.join(name))?;
    }
    let toml = bin.join("nerdctl.toml");
    let place = bed.directory("nerdctl")?;
    std::fs::write(&toml, nerdctl::configuration(&bed.containerd.namespace, &place))?;
    let path = format!("{}:{}", bin.display(), std::env::var("PATH")?);
    let toml = toml.display().to_string();
    let env = [
        ("PATH", path.as_str()),
        ("CONTAINERD_ADDRESS", "/run/containerd/containerd.sock"),
        ("CONTAINERD_NAMESPACE", &bed.containerd.namespace),
        ("NERDCTL_TOML", &toml),
    ];
    let all = blocks(page);
    ensure!(all.len() >= 4 && all.iter().all(|block| !block.expected.is_empty()), "the page has lost its blocks");
    for Block { script, expected } in all {
        let words = ["bash", "-euo", "pipefail", "-c", &script];
        let output = bed.containerd.host.command(Some(LIMIT), &env, &words).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut report = String::new();
        write!(report, "{script}\n{text}{}", String::from_utf8_lossy(&output.stderr))?;
        ensure!(output.status.success(), "{}\n{report}", output.status);
        let mut rest = text.as_str();
        for piece in expected.iter().flat_map(|line| line.split('…')).map(str::trim).filter(|piece| !piece.is_empty())
        {
            let at = rest.find(piece).ok_or_else(|| format!("{piece:?} is missing, or comes too early:\n{report}"))?;
            rest = &rest[at + piece.len()..];
        }
    }
    bed.ctr(&["images", "rm", BUSYBOX])?.ok()?;
    Ok(())
}

fn ctr(bed: &Bed) -> Outcome {
    run(bed, include_str!("../../docs/ctr.md"))
}

fn nerdctl(bed: &Bed) -> Outcome {
    run(bed, include_str!("../../docs/nerdctl.md"))
}

fn main() {
    suite::run_with("docs", &[], cases![ctr, nerdctl]);
}
