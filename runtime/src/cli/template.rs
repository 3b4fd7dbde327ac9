//! `mini spec`: a config.json to start from, which is runc's with the list of masked paths that engines use today.
#![forbid(unsafe_code)]

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use runtime::{Error, Result};
use serde_json::{Value, json};

use super::args::SpecArgs;

/// Paths that tell about, or act on, the host. The list of moby, where each has its story (CVE-2017-16539 /proc/scsi,
/// GHSA-jq35-85cj-fj4p /sys/devices/virtual/powercap).
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

const READONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Writes `config.json` into a directory, which must not have one.
///
/// # Errors
/// If there is one, or it cannot be written.
pub fn write(args: &SpecArgs) -> Result<()> {
    let path = args.bundle.join("config.json");
    let shown = path.display().to_string();
    let mut spec = template(&throttles(Path::new("/sys/devices/system/cpu")), is_unified());
    if args.rootless {
        rootless(&mut spec);
    }
    // The new file is never a symlink's target: O_EXCL does not follow.
    let mut file = OpenOptions::new().write(true).create_new(true).open(&path).map_err(|e| match e.kind() {
        std::io::ErrorKind::AlreadyExists => {
            Error::new(runtime::Kind::Exists, "", "", format!("File {shown} exists. Remove it first"))
        }
        _ => Error::io("open", shown.clone(), &e),
    })?;
    // Through the types, because they keep the order in which people read it.
    let spec: runtime::spec::Spec = runtime::spec::from_json(spec.to_string().as_bytes())?;
    let written = serde_json::to_writer_pretty(&mut file, &spec).map_err(std::io::Error::from);
    written.and_then(|()| writeln!(file)).map_err(|e| Error::io("write", shown, &e))
}

/// Every CPU's count of thermal throttling, which moby masks too where there is one.
fn throttles(cpus: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(cpus).into_iter().flatten().flatten();
    let mut found: Vec<_> = entries.map(|e| e.path().join("thermal_throttle")).filter(|p| p.is_dir()).collect();
    found.sort();
    found.into_iter().map(|p| p.display().to_string()).collect()
}

/// On a pure v2 host a cgroup namespace is what makes the cgroup mount show only the container's own.
fn is_unified() -> bool {
    const CGROUP2_SUPER_MAGIC: u64 = 0x6367_7270;
    rustix::fs::statfs("/sys/fs/cgroup").is_ok_and(|fs| fs.f_type as u64 == CGROUP2_SUPER_MAGIC)
}

fn template(throttles: &[String], unified: bool) -> Value {
    let caps = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];
    let masked: Vec<&str> = MASKED.into_iter().chain(throttles.iter().map(String::as_str)).collect();
    let kinds = ["pid", "network", "ipc", "uts", "mount"].into_iter().chain(unified.then_some("cgroup"));
    json!({
        "ociVersion": runtime::features::OCI_VERSION_MAX,
        "process": {
            "terminal": true,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {"bounding": caps, "effective": caps, "permitted": caps},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": true
        },
        "root": {"path": "rootfs", "readonly": true},
        "hostname": "mini",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
             "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
             "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
             "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]}
        ],
        "linux": {
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "namespaces": kinds.map(|kind| json!({"type": kind})).collect::<Vec<_>>(),
            "maskedPaths": masked,
            "readonlyPaths": READONLY
        }
    })
}

/// What runc changes for a caller who is not root: a user namespace of one id, the host's network and /sys, no limits.
fn rootless(spec: &mut Value) {
    let map = |id: u32| json!([{"containerID": 0, "hostID": id, "size": 1}]);
    let linux = &mut spec["linux"];
    linux["uidMappings"] = map(rustix::process::geteuid().as_raw());
    linux["gidMappings"] = map(rustix::process::getegid().as_raw());
    if let Some(list) = linux["namespaces"].as_array_mut() {
        list.retain(|ns| ns["type"] != "network");
        list.push(json!({"type": "user"}));
    }
    linux["resources"] = json!({});
    for mount in spec["mounts"].as_array_mut().into_iter().flatten() {
        if mount["destination"] == "/sys" {
            *mount = json!({"destination": "/sys", "type": "none", "source": "/sys",
                            "options": ["rbind", "nosuid", "noexec", "nodev", "ro"]});
        }
        if let Some(options) = mount["options"].as_array_mut() {
            options.retain(|o| !o.as_str().is_some_and(|o| o.starts_with("uid=") || o.starts_with("gid=")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_valid_and_mask_what_moby_masks() {
        for unified in [false, true] {
            let mut spec = template(&["/sys/devices/system/cpu/cpu0/thermal_throttle".into()], unified);
            runtime::spec::Spec::parse(spec.to_string().as_bytes()).unwrap();
            rootless(&mut spec);
            runtime::spec::Spec::parse(spec.to_string().as_bytes()).unwrap();
        }
        let docker = include_str!("../../tests/fixtures/specs/docker-28.5-default.json");
        let docker: Value = serde_json::from_str(docker).unwrap();
        let ours = template(&[], false);
        for field in ["maskedPaths", "readonlyPaths"] {
            let mut theirs: Vec<_> = docker["linux"][field].as_array().unwrap().iter().collect();
            let mut ours: Vec<_> = ours["linux"][field].as_array().unwrap().iter().collect();
            theirs.sort_by_key(|v| v.to_string());
            ours.sort_by_key(|v| v.to_string());
            assert_eq!(ours, theirs, "{field}");
        }
    }
}
