//! config.json: real files of real clients are understood without loss, wrong ones are refused with the exact sentence,
//! and nothing at all makes the parser panic.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use proptest::sample::Index;
use runtime::spec::{Process, Resources, Spec, check, from_json};
use serde_json::{Value, json};

fn fixtures() -> Vec<(PathBuf, Vec<u8>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/specs");
    let mut files: Vec<_> = std::fs::read_dir(dir)
        .expect("the fixtures are there")
        .map(|entry| entry.expect("a readable directory").path())
        .filter(|path| path.extension().is_some_and(|e| e == "json"))
        .map(|path| (path.clone(), std::fs::read(path).expect("a readable file")))
        .collect();
    files.sort();
    files
}

#[test]
fn real_specs_are_understood_without_loss() {
    let files = fixtures();
    assert!(files.len() >= 30, "only {} fixtures", files.len());
    for (path, text) in files {
        let spec = Spec::parse(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert_eq!(check::warnings(&spec), Vec::<String>::new(), "{}", path.display());
        let original: Value = serde_json::from_slice(&text).expect("a fixture is JSON");
        let ours = serde_json::to_value(&spec).expect("a spec becomes JSON");
        lost("", &original, Some(&ours), &path);
    }
}

/// Every value of `original` that says something is in `ours`.
fn lost(at: &str, original: &Value, ours: Option<&Value>, path: &Path) {
    match (original, ours) {
        (Value::Null | Value::Bool(false), None) => {}
        (Value::Array(list), None) if list.is_empty() => {}
        (Value::Object(map), None) if map.is_empty() => {}
        (Value::String(text), None) if text.is_empty() => {}
        (Value::Object(map), Some(ours)) => {
            for (key, value) in map {
                lost(&format!("{at}/{key}"), value, ours.get(key), path);
            }
        }
        (Value::Array(list), Some(ours)) => {
            for (i, value) in list.iter().enumerate() {
                lost(&format!("{at}/{i}"), value, ours.get(i), path);
            }
        }
        (original, ours) => assert_eq!(Some(original), ours, "{}: {at}", path.display()),
    }
}

/// RFC 7396, so that a case names only what it changes.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    let Some(target) = target.as_object_mut() else { return };
    for (key, value) in patch {
        match value {
            Value::Null => drop(target.remove(key)),
            value => merge(target.entry(key).or_insert(Value::Null), value),
        }
    }
}

fn base() -> Value {
    json!({
        "ociVersion": "1.3.0",
        "root": {"path": "rootfs"},
        "process": {"args": ["true"], "cwd": "/"},
        "linux": {"namespaces": [{"type": "pid"}, {"type": "mount"}]}
    })
}

/// Pairs of lines of a checked-in file: a patch on the base spec, and the sentence expected.
fn cases(text: &str) -> Vec<(&str, &str)> {
    let lines: Vec<&str> = text.lines().filter(|l| !l.is_empty() && !l.starts_with('#')).collect();
    lines.chunks(2).map(|pair| (pair[0], pair[1].trim_start())).collect()
}

/// Runs a table and reports every case that differs, not only the first.
fn table(text: &str, run: impl Fn(&Value) -> String) {
    let mut wrong = String::new();
    for (input, expected) in cases(text) {
        let value: Value = serde_json::from_str(input).unwrap_or_else(|e| panic!("{input}: {e}"));
        let got = run(&value);
        if got != expected {
            wrong.push_str(&format!("{input}\n expected {expected}\n      got {got}\n"));
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

fn outcome<T>(result: runtime::Result<T>) -> String {
    result.map_or_else(|e| e.to_string(), |_| "fine".into())
}

#[test]
fn refusals_name_the_pointer_and_say_why() {
    table(include_str!("fixtures/refused-specs.txt"), |patch| {
        let mut spec = base();
        merge(&mut spec, patch);
        outcome(Spec::parse(spec.to_string().as_bytes()))
    });
}

#[test]
fn refused_exec_payloads() {
    table(include_str!("fixtures/refused-processes.txt"), |patch| {
        let mut process = base()["process"].clone();
        merge(&mut process, patch);
        outcome(from_json::<Process>(process.to_string().as_bytes()).and_then(|p| check::process(&p)))
    });
}

#[test]
fn refused_resources() {
    table(include_str!("fixtures/refused-resources.txt"), |json| {
        outcome(from_json::<Resources>(json.to_string().as_bytes()).and_then(|r| check::resources(&r)))
    });
}

#[test]
fn warnings_are_not_errors() {
    let mut spec = base();
    merge(
        &mut spec,
        &json!({
            "process": {"capabilities": {"bounding": ["CAP_KILL", "CAP_TELEPORT"], "permitted": ["cap_kill"]}},
            "mounts": [{"destination": "data", "source": "/srv", "options": ["bind"]}],
            "linux": {"resources": {"memory": {"kernel": 1}}}
        }),
    );
    let spec = Spec::parse(spec.to_string().as_bytes()).expect("only odd");
    assert_eq!(
        check::warnings(&spec),
        [
            "ignoring unknown or unavailable capabilities: [CAP_TELEPORT cap_kill]",
            "mount destination \"data\" is not absolute, using it as relative to /",
            "Kernel memory settings are ignored and will be removed",
        ]
    );
}

#[test]
fn ids_that_are_file_names() {
    let long = "x".repeat(255);
    for good in ["a", "c1", "A_b+c.d-e", "...", ".a", "0", long.as_str()] {
        assert_eq!(outcome(check::id(good)), "fine", "{good}");
    }
    let too_long = "x".repeat(256);
    for bad in [".", "..", "a/b", "/", "a b", "ä", "a\0", "a\n", "a:b", too_long.as_str()] {
        assert!(check::id(bad).is_err(), "{bad:?}");
    }
    assert_eq!(outcome(check::id("")), "container id cannot be empty");
    assert_eq!(outcome(check::id("a/b")), "\"a/b\": invalid container ID format");
    assert!(outcome(check::id(&"y".repeat(1000))).len() < 200, "a long id is not repeated whole");
}

#[test]
fn sysctl_keys_name_one_file_only() {
    for (key, path) in [
        ("net.ipv4.ip_forward", "net/ipv4/ip_forward"),
        ("net/ipv4/ip_forward", "net/ipv4/ip_forward"),
        ("net/ipv4/conf/eno2.100/rp_filter", "net/ipv4/conf/eno2.100/rp_filter"),
        ("net.ipv4.conf.eno2/100.rp_filter", "net/ipv4/conf/eno2.100/rp_filter"),
        ("kernel.shmmax", "kernel/shmmax"),
    ] {
        assert_eq!(check::sysctl_path(key).expect(key), path, "{key}");
    }
    for key in
        ["", ".", "/", "..", "net/../kernel/core_pattern", "net.ipv4.x/../../../kernel/y", "net//x", "/net/x", "a."]
    {
        assert!(check::sysctl_path(key).is_err(), "{key:?}");
    }
}

/// Every pointer into a value, the value itself first.
fn pointers(at: &str, value: &Value, out: &mut Vec<String>) {
    out.push(at.to_owned());
    match value {
        Value::Object(map) => {
            map.iter()
                .for_each(|(k, v)| pointers(&format!("{at}/{}", k.replace('~', "~0").replace('/', "~1")), v, out));
        }
        Value::Array(list) => list.iter().enumerate().for_each(|(i, v)| pointers(&format!("{at}/{i}"), v, out)),
        _ => {}
    }
}

fn odd_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,20}".prop_map(Value::from),
        Just(json!([])),
        Just(json!({})),
        Just(json!([[{"a": 1}], "x"])),
        Just(json!({"type": {"x": []}, "path": 7})),
        prop::collection::vec("[A-Z_a-z/.=]{0,9}", 0..4).prop_map(Value::from),
    ]
}

/// serde_json reads what nobody knows without going into it, however deep it is: no reason for a long sentence.
#[test]
fn what_is_too_deep_is_placed_in_few_words() {
    let text = |end: &str| format!("{{\"unknown\": {}{}{end}", "[".repeat(100_000), "]".repeat(100_000));
    let e = Spec::parse(text(", \"process\": {\"args\": 5}}").as_bytes()).expect_err("args is no number");
    assert_eq!(e.from, "/process/args");
    let e = Spec::parse(&text("}").as_bytes()[..150_000]).expect_err("it is cut");
    assert!(e.from.starts_with("/unknown/0/0/") && e.from.len() < 300, "{}", e.from.len());
}

fn as_pointer(path: &serde_path_to_error::Path) -> String {
    let segment = |segment: &serde_path_to_error::Segment| match segment {
        serde_path_to_error::Segment::Seq { index } => format!("/{index}"),
        serde_path_to_error::Segment::Map { key } => format!("/{}", key.replace('~', "~0").replace('/', "~1")),
        other => panic!("no {other:?} in a config.json"),
    };
    path.iter().map(segment).collect()
}

/// What an error of the parser must always have: a place, as a JSON pointer or as a position in the text.
fn has_a_place(e: &runtime::Error) -> bool {
    e.from.starts_with('/') || e.reason.contains("line ")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn wrong_values_anywhere_give_a_place_or_a_round_trip(
        file in any::<Index>(), place in any::<Index>(), value in odd_value(),
    ) {
        let files = fixtures();
        let mut spec: Value = serde_json::from_slice(&files[file.index(files.len())].1).expect("a fixture is JSON");
        let mut places = Vec::new();
        pointers("", &spec, &mut places);
        let at = &places[place.index(places.len())];
        *spec.pointer_mut(at).expect("a pointer just made") = value;
        match Spec::parse(spec.to_string().as_bytes()) {
            Err(e) => prop_assert!(has_a_place(&e), "{at}: {e:?}"),
            Ok(parsed) => {
                let once = serde_json::to_value(&parsed).expect("a spec becomes JSON");
                let again = Spec::parse(once.to_string().as_bytes()).expect("what we write we read");
                prop_assert_eq!(once, serde_json::to_value(&again).expect("a spec becomes JSON"));
            }
        }
    }

    /// The library that was there before costs a second deserializer in each of our programs; it knows the places by another way.
    #[test]
    fn wrong_values_are_placed_as_serde_path_to_error_does(
        file in any::<Index>(), place in any::<Index>(), value in odd_value(), pretty in any::<bool>(), odd_key in any::<bool>(),
    ) {
        let files = fixtures();
        let mut spec: Value = serde_json::from_slice(&files[file.index(files.len())].1).expect("a fixture is JSON");
        if odd_key && let Some(object) = spec.as_object_mut() {
            object.insert("annotations".into(), json!({"a": "{[,:\"]}\\", "c/ü~\"\\": [{"x": 1}], "b": "x"}));
        }
        let mut places = Vec::new();
        pointers("", &spec, &mut places);
        let at = &places[place.index(places.len())];
        *spec.pointer_mut(at).expect("a pointer just made") = value;
        let text = if pretty { serde_json::to_string_pretty(&spec) } else { serde_json::to_string(&spec) }.expect("a value");
        let mut reader = serde_json::Deserializer::from_slice(text.as_bytes());
        match (from_json::<Spec>(text.as_bytes()), serde_path_to_error::deserialize::<_, Spec>(&mut reader)) {
            (Ok(_), Ok(_)) => {}
            (Err(ours), Err(theirs)) => {
                prop_assert_eq!(ours.from, as_pointer(theirs.path()), "{}", text);
                prop_assert_eq!(ours.reason, theirs.into_inner().to_string());
            }
            (ours, theirs) => prop_assert!(false, "{ours:?} {:?}", theirs.map_err(|e| e.to_string())),
        }
    }

    #[test]
    fn truncation_gives_a_place(file in any::<Index>(), cut in any::<Index>()) {
        let files = fixtures();
        let text = files[file.index(files.len())].1.trim_ascii_end();
        let e = Spec::parse(&text[..cut.index(text.len())]).expect_err("the closing brace is missing");
        prop_assert!(has_a_place(&e), "{e:?}");
    }

    #[test]
    fn garbage_gives_a_place(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Err(e) = Spec::parse(&bytes) {
            prop_assert!(has_a_place(&e), "{e:?}");
        }
    }
}
