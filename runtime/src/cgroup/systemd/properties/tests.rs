//! Against what runc documents (docs/systemd.md) and tests (TestInitSystemdProps, TestAddCPUQuota, TestRangeToBits,
//! TestUnifiedResToSystemdProps).

use serde_json::{Value as Json, json};

use super::*;
use crate::cgroup::limits::{self, Host};
use crate::spec::Resources;

/// The properties of resources, and the writes that are left for the files.
fn properties(resources: Json, v: Version, version: u32, now: &[(&str, &str)]) -> (Vec<String>, Vec<String>) {
    let r: Resources = serde_json::from_value(resources).unwrap();
    let current = |file: &str| now.iter().find(|(name, _)| *name == file).map(|(_, text)| (*text).to_owned());
    let host = Host { version: &|_| Some(v), current: &|_, file| current(file), unified: v == Version::V2 };
    let mut writes = limits::list(&r, &host).unwrap();
    let properties = of_limits(&mut writes, version, &current).unwrap();
    let show = |(name, value): &Property| match value {
        Value::Uint64(INFINITY) => format!("{name}=infinity"),
        Value::Uint64(n) => format!("{name}={n}"),
        Value::Array(_, bytes) => format!("{name}={bytes:?}").replace("Byte", ""),
        other => format!("{name}={other:?}"),
    };
    let files = writes.iter().map(|w| format!("{}={}", w.file, w.value)).collect();
    (properties.iter().map(show).collect(), files)
}

fn all(v: Version, version: u32, resources: Json) -> String {
    properties(resources, v, version, &[]).0.join(" ")
}

#[test]
fn version_2() {
    let resources = json!({
        "memory": {"limit": 1 << 20, "reservation": 4096, "swap": 3 << 20},
        "cpu": {"shares": 1024, "quota": 50000, "period": 100_000, "cpus": "0-1,9", "mems": "0"},
        "pids": {"limit": 0},
        "blockIO": {"weight": 500},
        "unified": {"memory.high": "max", "memory.min": "7", "misc.max": "x 1"},
    });
    let expected = "CPUQuotaPeriodUSec=100000 CPUQuotaPerSecUSec=500000 TasksMax=1 MemorySwapMax=2097152 \
                    MemoryMax=1048576 MemoryLow=4096 IOWeight=4950 CPUWeight=100 AllowedCPUs=[(3), (2)] \
                    AllowedMemoryNodes=[(1)] MemoryHigh=infinity MemoryMin=7";
    assert_eq!(all(Version::V2, 252, resources.clone()), expected);
    let old = all(Version::V2, 241, resources);
    assert!(!old.contains("Allowed") && !old.contains("Period") && old.contains("PerSec"), "{old}");
    assert_eq!(all(Version::V2, 252, json!({})), "");
    assert_eq!(
        all(Version::V2, 252, json!({"pids": {"limit": -1}, "memory": {"limit": -1}})),
        "TasksMax=infinity MemorySwapMax=infinity MemoryMax=infinity"
    );
}

#[test]
fn version_1() {
    let resources = json!({
        "memory": {"limit": 1 << 20, "reservation": 4096, "swap": 3 << 20},
        "cpu": {"shares": 512, "quota": 50000, "period": 100_000, "cpus": "4-7"},
        "pids": {"limit": 7},
        "blockIO": {"weight": 500},
    });
    let expected = "CPUQuotaPeriodUSec=100000 CPUQuotaPerSecUSec=500000 TasksMax=7 MemoryLimit=1048576 \
                    BlockIOWeight=500 CPUShares=512 AllowedCPUs=[(240)]";
    assert_eq!(all(Version::V1, 247, resources), expected);
}

/// What the kernel takes from the files (memparse, kstrtoull, bitmap_parselist) is told, or refused if it is not understood.
#[test]
fn words_of_unified() {
    let file = |key: &str, value: &str| all(Version::V2, 252, json!({"unified": {key: value}}));
    for (value, bytes) in [
        ("4096\n", "4096"),
        ("0", "0"),
        ("max", "infinity"),
        ("512M", "536870912"),
        ("1g", "1073741824"),
        ("3k", "3072"),
        ("2T", "2199023255552"),
        ("1p", "1125899906842624"),
        ("1E", "1152921504606846976"),
        ("0x1000", "4096"),
        ("0XfE", "254"),
        ("0x1e", "30"),
        ("0x1eK", "30720"),
        ("010k", "8192"),
    ] {
        for (key, name) in
            [("memory.max", "MemoryMax"), ("memory.high", "MemoryHigh"), ("memory.swap.max", "MemorySwapMax")]
        {
            assert_eq!(file(key, value), format!("{name}={bytes}"), "{value}");
        }
    }
    assert_eq!(file("pids.max", "0x10"), "TasksMax=16");
    assert_eq!(file("cpu.weight", "010"), "CPUWeight=8");
    assert_eq!(file("cpu.max", "0100000"), "CPUQuotaPeriodUSec=100000 CPUQuotaPerSecUSec=1000000");
    assert_eq!(file("io.weight", "default 010\n8:0 300"), "IOWeight=10");
    assert_eq!(file("cpuset.cpus", ""), "AllowedCPUs=[(0)]");
    for (key, value) in [
        ("memory.max", "abc"),
        ("memory.max", "512MB"),
        ("memory.low", "0x"),
        ("memory.min", "08"),
        ("memory.high", "1.5G"),
        ("memory.swap.max", "16E"),
        ("pids.max", "1k"),
        ("cpu.weight", "1 2"),
        ("cpu.max", "100K"),
        ("cpu.max", "max 1x"),
        ("io.weight", "default"),
        ("cpuset.cpus", "0-31:1/2"),
        ("cpuset.mems", "all"),
    ] {
        let r: Resources = serde_json::from_value(json!({"unified": {key: value}})).unwrap();
        let host = Host { version: &|_| Some(Version::V2), current: &|_, _| None, unified: true };
        let error = of_limits(&mut limits::list(&r, &host).unwrap(), 252, &|_| None).unwrap_err().to_string();
        let what = if key.starts_with("cpuset") { "list of numbers" } else { "number" };
        let expected = format!("/linux/resources/unified/{key}: value conversion error: {value:?} is no {what}");
        assert_eq!(error, expected);
    }
}

#[test]
fn an_idle_group_has_the_weight_0() {
    assert_eq!(all(Version::V2, 252, json!({"cpu": {"idle": 1, "shares": 1024}})), "CPUWeight=0");
    assert_eq!(all(Version::V2, 251, json!({"cpu": {"idle": 1}})), "");
    assert_eq!(all(Version::V2, 252, json!({"unified": {"cpu.idle": "1", "cpu.weight": "1000"}})), "CPUWeight=0");
    assert_eq!(all(Version::V2, 252, json!({"unified": {"cpu.idle": "0", "cpu.weight": "1000"}})), "CPUWeight=1000");
    assert_eq!(all(Version::V2, 252, json!({"unified": {"cpu.idle": "0"}})), "");
}

#[test]
fn quotas_are_whole_percents_for_systemd_and_for_the_files() {
    let case = |cpu: Json, now: &str| {
        let (properties, files) = properties(json!({"cpu": cpu}), Version::V2, 252, &[("cpu.max", now)]);
        (properties.join(" "), files.join(" "))
    };
    let is = |cpu: Json, now: &str, properties: &str, files: &str| {
        assert_eq!(case(cpu.clone(), now), (properties.to_owned(), files.to_owned()), "{cpu} {now}");
    };
    is(
        json!({"quota": 12345, "period": 100_000}),
        "max 100000",
        "CPUQuotaPeriodUSec=100000 CPUQuotaPerSecUSec=130000",
        "cpu.max=13000 100000",
    );
    is(json!({"quota": 10000}), "max 50000", "CPUQuotaPeriodUSec=50000 CPUQuotaPerSecUSec=200000", "cpu.max=10000");
    is(
        json!({"period": 200_000}),
        "50000 100000",
        "CPUQuotaPeriodUSec=200000 CPUQuotaPerSecUSec=250000",
        "cpu.max=50000 200000",
    );
    is(json!({"quota": -1}), "5000 9000", "CPUQuotaPeriodUSec=9000 CPUQuotaPerSecUSec=infinity", "cpu.max=max");
    let (v1, files) =
        properties(json!({"cpu": {"quota": 12345}}), Version::V1, 252, &[("cpu.cfs_period_us", "100000")]);
    assert_eq!(v1, ["CPUQuotaPeriodUSec=100000", "CPUQuotaPerSecUSec=130000"]);
    assert_eq!(files, ["cpu.cfs_quota_us=13000"]);
}

#[test]
fn masks() {
    for (list, mask) in [
        ("", &[0][..]),
        (" ,", &[0]),
        ("0", &[1]),
        ("0,1,2-3", &[0x0f]),
        (",0,1,", &[3]),
        ("0-3,32-33", &[0x0f, 0, 0, 0, 3]),
        ("    , 1   , 3  ,  5-7,\t", &[0xea]),
        ("128-130,1", &[2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]),
    ] {
        assert_eq!(bits(list).as_deref(), Some(mask), "{list}");
    }
    for list in ["-", "1-", "-3", "54-53", "1 - 2", "0-4294967295", "x"] {
        assert_eq!(bits(list), None, "{list}");
    }
}

#[test]
fn annotations() {
    let one = |name: &str, text: &str| {
        let map = BTreeMap::from([(name.to_owned(), text.to_owned())]);
        of_annotations(&map).map(|mut list| list.pop())
    };
    let is = |name: &str, text: &str, wanted: &str, value: Value| {
        let name = format!("org.systemd.property.{name}");
        assert_eq!(one(&name, text), Ok(Some((wanted.to_owned(), value))), "{name} {text}");
    };
    is("TimeoutStopUSec", "uint64 123456789", "TimeoutStopUSec", Value::Uint64(123_456_789));
    for (text, micros) in [
        ("456", 456_000_000),
        ("byte 234", 234_000_000),
        ("int16 234", 234_000_000),
        ("uint16 234", 234_000_000),
        ("int64 234", 234_000_000),
        ("uint64 234", 234_000_000),
        ("234.789", 234_789_000),
    ] {
        is("TimeoutStopSec", text, "TimeoutStopUSec", Value::Uint64(micros));
    }
    is("FOOSec", "123", "FOOSec", Value::Int32(123));
    is("Sec", "123", "Sec", Value::Int32(123));
    is("CollectMode", "'inactive-or-failed'", "CollectMode", Value::text("inactive-or-failed"));
    assert_eq!(one("some.other.annotation", "0"), Ok(None));
    for (name, text) in [
        ("TimeoutStopSec", "false"),
        ("TimeoutStopSec", "'covfefe'"),
        ("TimeoutStopSec", "-1"),
        ("TimeoutStopSec", "uint64 18446744073709551615"),
        ("Xo", "1"),
        ("Number1", "1"),
        ("ValidName", "invalid-value"),
    ] {
        let name = format!("org.systemd.property.{name}");
        assert_eq!(one(&name, text).unwrap_err().from, format!("/annotations/{name}"), "{text}");
    }
}

#[test]
fn the_oom_policy_is_for_new_units() {
    let group = |value: &str| BTreeMap::from([("memory.oom.group".to_owned(), value.to_owned())]);
    let policy = |word: &str| Some(("OOMPolicy".to_owned(), Value::text(word)));
    assert_eq!(oom_policy(&group("1"), 253), policy("kill"));
    assert_eq!(oom_policy(&group("0"), 257), policy("continue"));
    assert_eq!(oom_policy(&group("1"), 252), None);
    assert_eq!(oom_policy(&BTreeMap::new(), 257), None);
}
