//! The budget of system calls for one container with Docker's default spec, counted by strace.

use std::collections::BTreeMap;
use std::path::Path;

use libtest_mimic::Failed;
use runtime::spec::Spec;
use serde_json::{Value, json};

use super::bundle::Bundle;
use super::roles;

pub const TESTS: &[super::Test] = &[("syscalls::budget", budget)];

/// From the clone to execve, in the child. The aim is 140.
const CHILD: usize = 300;
/// Create and start, in the parent. Most of them make and fill the groups: about 35 for each hierarchy of version 1, so that
/// the bound is that of a hybrid host. The aim is 60.
const PARENT: usize = 300;

/// Docker's spec on a bundle of ours.
fn docker(bundle: &Bundle) -> Spec {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/specs/docker-28.5-default.json");
    let mut spec: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    spec["root"]["path"] = json!("rootfs");
    spec["linux"]["cgroupsPath"] = json!(format!("{}/c", bundle.group));
    spec["process"]["args"] = json!(["sh", "-c", "exit 7"]);
    for mount in spec["mounts"].as_array_mut().unwrap().iter_mut().filter(|m| m["type"] == "bind") {
        mount["source"] = json!(bundle.dir.join("volume/file"));
    }
    Spec::parse(spec.to_string().as_bytes()).unwrap()
}

/// Calls by name, most frequent first.
fn table(calls: &[String]) -> String {
    let mut count = BTreeMap::<&str, usize>::new();
    calls.iter().for_each(|c| *count.entry(c).or_default() += 1);
    let mut count: Vec<_> = count.into_iter().collect();
    count.sort_by_key(|(name, n)| (std::cmp::Reverse(*n), *name));
    count.iter().map(|(name, n)| format!("{name} {n}")).collect::<Vec<_>>().join(", ")
}

fn budget() -> Result<(), Failed> {
    let bundle = Bundle::new("budget", 0);
    let log = bundle.dir.join("trace");
    let there = std::process::Command::new("strace").arg("-V").output().is_ok();
    assert!(there, "strace is not in PATH: the package of that name has it");
    let words = ["strace", "-f", "-qq", "-e", "signal=none", "-o", log.to_str().unwrap()];
    let mut traced = roles::start(&words, "counted", &bundle, &docker(&bundle));
    drop(traced.stdin.take());
    assert!(traced.wait()?.success());
    // "PID call(…" at its beginning; "PID <... call resumed>" is its end.
    let text = std::fs::read_to_string(&log)?;
    let mut calls = text.lines().filter_map(|line| {
        let (pid, call) = line.split_once(' ')?;
        let name = call.trim_start().split('(').next()?;
        // Only debug builds ask before each close whether the descriptor is open.
        if cfg!(debug_assertions) && call.contains("F_GETFD") {
            return None;
        }
        (!name.starts_with(['<', '+', '-'])).then(|| (pid.to_owned(), name.to_owned()))
    });
    let (parent, _) = calls.find(|(_, name)| name == "getpgid").expect("the first mark");
    let between: Vec<_> = calls.take_while(|(_, name)| name != "getpgid").collect();
    let ours: Vec<String> = between.iter().filter(|(pid, _)| *pid == parent).map(|(_, n)| n.clone()).collect();
    let others = between.iter().filter(|(pid, _)| *pid != parent);
    let child: Vec<String> = others.map(|(_, n)| n.clone()).take_while(|n| n != "execve").collect();
    println!("child {}: {}", child.len(), table(&child));
    println!("parent {}: {}", ours.len(), table(&ours));
    assert!(child.len() > 100 && ours.len() > 20, "this is not a container");
    assert!(child.len() <= CHILD, "{} calls in the child", child.len());
    assert!(ours.len() <= PARENT, "{} calls in the parent", ours.len());
    Ok(())
}
