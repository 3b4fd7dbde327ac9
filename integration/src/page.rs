//! Pages of docs/ that are run: each block marked `sh`, and what the block after it says has to come out.

use crate::containerd::LIMIT;
use crate::{Host, Outcome, client, ensure};

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

/// The script of a page that has only one, for a test that runs it by itself.
pub fn script(page: &str) -> Outcome<String> {
    let mut all = blocks(page);
    ensure!(all.len() == 1, "{} blocks instead of one", all.len());
    Ok(all.remove(0).script)
}

/// Runs a page's blocks with bash on a host, with those variables, from the `at` directory; a failure of any line is the end.
///
/// What a block has to print is found in its output and errors piece by piece, in order; `…` stands between pieces.
pub fn run(host: &Host, env: &[(&str, &str)], at: &str, page: &str) -> Outcome {
    let all = blocks(page);
    ensure!(all.len() >= 4 && all.iter().all(|block| !block.expected.is_empty()), "the page has lost its blocks");
    // One after the other in one shell's words: later blocks use what earlier ones have set.
    let mut before = String::new();
    for Block { script, expected } in all {
        let state = "declare -p POD PAUSE 2>/dev/null >.state || true; declare -f pod >>.state || true";
        let whole =
            format!("cd {at:?}\n[ ! -e .state ] || . ./.state\nexec 2>&1\nset -euo pipefail\n{script}\n{state}");
        let output =
            client::start(host.command(Some(2 * LIMIT), env, &["bash", "-c", &whole]), script.clone(), 2 * LIMIT)?
                .wait()?
                .ok()?;
        let text = output.text();
        let mut rest = text.as_str();
        for piece in expected.iter().flat_map(|line| line.split('…')).map(str::trim).filter(|piece| !piece.is_empty())
        {
            let found = rest.find(piece).ok_or_else(|| {
                format!("{piece:?} is missing, or comes too early:\n{script}\n{text}\nbefore:\n{before}")
            })?;
            rest = &rest[found + piece.len()..];
        }
        before = text;
    }
    Ok(())
}
