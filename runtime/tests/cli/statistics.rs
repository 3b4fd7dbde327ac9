//! mini's statistics beside runc's: of one group, which stands still.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::bench::{Bench, testbed, until};

/// What only runc says: CPU times by processor and mode, the cpuset's settings, and on a hybrid host nothing of what is on
/// the unified tree only.
const ONLY_RUNC: [&str; 3] = ["/cpu/usage/percpu_", "/cpuset/", "/network_interfaces"];

fn flat(value: &Value, path: String, into: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(key, value)| flat(value, format!("{path}/{key}"), into)),
        _ => drop(into.insert(path, without_nothing(value))),
    }
}

/// runc leaves out what is 0, or empty.
fn is_nothing(value: &Value) -> bool {
    *value == json!(0) || *value == json!([])
}

fn without_nothing(list: &Value) -> Value {
    match list {
        Value::Array(list) => list.iter().map(without_nothing).collect(),
        Value::Object(map) => map.clone().into_iter().filter(|(_, value)| !is_nothing(value)).collect(),
        _ => list.clone(),
    }
}

fn statistics(b: &Bench, id: &str) -> BTreeMap<String, Value> {
    let line: Value = serde_json::from_str(&b.fine(&["events", "--stats", id])).unwrap();
    assert_eq!((&line["type"], &line["id"]), (&json!("stats"), &json!(id)));
    let mut all = BTreeMap::new();
    flat(&line["data"], String::new(), &mut all);
    all
}

/// The two may not share a group, so mini's state file is told to mean that of runc's container.
pub fn as_runc(mini: &Bench) {
    let runc = Bench::new(&testbed().join("c2.1/bin/runc"), "statistics");
    let (ours, theirs) = (mini.id("s"), runc.id("s"));
    // What is written at once is counted for the writer, where the root's disk is one that counts.
    let script = "dd if=/dev/zero of=/written bs=4k count=1 conv=fsync; \
                  i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo $i >/dev/done; exec sleep 1000";
    for (b, id) in [(&runc, &theirs), (mini, &ours)] {
        b.spec(&["sh", "-c", script], |spec| {
            spec["linux"]["cgroupsPath"] = json!(format!("/{id}-group"));
            spec["linux"]["resources"] = json!({
                "memory": {"limit": 64 << 20, "reservation": 32 << 20}, "pids": {"limit": 9},
                "cpu": {"quota": 50_000, "period": 100_000}
            });
        });
        b.detached(&["run", "-d", id]);
    }
    until("load", || runc.say(&["exec", &theirs, "cat", "/dev/done"]).out == "20000\n");
    runc.fine(&["pause", &theirs]);
    let state = mini.root().join(&ours).join("mini.json");
    let own = std::fs::read_to_string(&state).unwrap();
    std::fs::write(&state, own.replace(&format!("{ours}-group\""), &format!("{theirs}-group\""))).unwrap();
    let (mut before, mut found, mut after) = <(BTreeMap<_, _>, BTreeMap<_, _>, BTreeMap<_, _>)>::default();
    // What is frozen uses nothing, but the kernel may still be adding up.
    until("rest", || {
        before = statistics(&runc, &theirs);
        found = statistics(mini, &ours);
        after = statistics(&runc, &theirs);
        before == after
    });
    std::fs::write(&state, own).unwrap();
    for (b, id) in [(&runc, &theirs), (mini, &ours)] {
        b.fine(&["delete", "-f", id]);
    }
    compare(&found, &before);
}

fn compare(mini: &BTreeMap<String, Value>, runc: &BTreeMap<String, Value>) {
    let known = |key: &str| ONLY_RUNC.iter().any(|start| key.starts_with(start));
    let lacking: Vec<_> = runc.keys().filter(|key| !mini.contains_key(*key) && !known(key)).collect();
    assert!(lacking.is_empty(), "only runc says this: {lacking:?}");
    let needless: Vec<_> = mini.iter().filter(|(key, value)| !runc.contains_key(*key) && !is_nothing(value)).collect();
    assert!(needless.is_empty(), "only mini says this: {needless:?}");
    let differs = |(key, value): &(&String, &Value)| runc.get(*key).is_some_and(|theirs| theirs != *value);
    let different: Vec<_> = mini.iter().filter(differs).map(|(key, value)| (key, value, &runc[key])).collect();
    assert!(different.is_empty(), "mini's and runc's: {different:?}");
    for key in [
        "/cpu/usage/total",
        "/cpu/usage/percpu",
        "/memory/usage/usage",
        "/memory/usage/limit",
        "/pids/limit",
        "/pids/current",
        "/memory/raw/rss",
        "/memory/usage/failcnt",
    ] {
        assert!(mini.contains_key(key) && runc.contains_key(key), "{key}");
    }
    assert_eq!((&mini["/memory/usage/limit"], &mini["/pids/limit"]), (&json!(64 << 20), &json!(9)));
    assert!(mini["/cpu/usage/total"].as_u64() > Some(0) && mini["/memory/usage/usage"].as_u64() > Some(0));
}
