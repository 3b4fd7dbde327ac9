//! Puts the commit into the binaries, for `--version`: `MINI_COMMIT` if a packager sets it, else what git says. And tells the
//! linker where `mini` begins (`sys/early.rs`).
#![forbid(unsafe_code)]

use std::process::Command;

fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok().filter(|o| o.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned()).filter(|s| !s.is_empty())
}

fn main() {
    println!("cargo:rustc-link-arg-bin=mini=-Wl,--entry=begin_early");
    println!("cargo:rerun-if-env-changed=MINI_COMMIT");
    let given = std::env::var("MINI_COMMIT").ok().filter(|c| !c.is_empty());
    let commit = given.unwrap_or_else(|| {
        // Every commit and checkout appends a line to it.
        if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]) {
            println!("cargo:rerun-if-changed={log}");
        }
        git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(|| "unknown".to_owned())
    });
    println!("cargo:rustc-env=MINI_COMMIT={commit}");
}
