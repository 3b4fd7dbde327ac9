//! What is implemented, in the words of the runtime specification's features.md. Clients act on it: containerd offers
//! recursive read-only mounts and user namespaces to kubelets because of what is said here, so only the truth is said.
#![forbid(unsafe_code)]

use serde_json::{Value, json};

use crate::host::Host;
use crate::seccomp::{self, flag};
use crate::spec::words;

/// The oldest specification whose config.json is understood.
pub const OCI_VERSION_MIN: &str = "1.0.0";

/// The newest one. Fields that came with it and are not implemented are refused, see `spec::check`.
pub const OCI_VERSION_MAX: &str = "1.3.0";

/// The whole answer: of `mini features`, and the payload of the shim's `-info`
/// (type URL `types.containerd.io/opencontainers/runtime-spec/1/features/Features`).
pub fn features(host: &Host) -> Value {
    json!({
        "ociVersionMin": OCI_VERSION_MIN,
        "ociVersionMax": OCI_VERSION_MAX,
        "hooks": ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
        "mountOptions": mount_options(host),
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"],
            "capabilities": capabilities(host),
            "cgroup": {"v1": true, "v2": true, "systemd": true, "systemdUser": true, "rdma": true},
            "seccomp": seccomp(host),
            "apparmor": {"enabled": true},
            "selinux": {"enabled": false},
            "intelRdt": {"enabled": false},
            "mountExtensions": {"idmap": {"enabled": host.mount_setattr}},
            "netDevices": {"enabled": false}
        },
        "annotations": {"dev.mini.version": env!("CARGO_PKG_VERSION")},
        "potentiallyUnsafeConfigAnnotations": ["org.systemd.property."]
    })
}

/// The option words, without those that this kernel has no call for.
fn mount_options(host: &Host) -> Vec<&'static str> {
    let mut words: Vec<&str> = words::MOUNT_FLAGS.into_iter().chain(words::PROPAGATION).collect();
    if host.mount_setattr {
        words.extend(words::MOUNT_RECURSIVE);
        words.extend(words::MOUNT_IDMAP);
    }
    words.sort_unstable();
    words
}

fn capabilities(host: &Host) -> &'static [&'static str] {
    &words::CAPABILITIES[..words::CAPABILITIES.len().min(usize::from(host.last_cap) + 1)]
}

fn seccomp(host: &Host) -> Value {
    let enabled = !host.seccomp.actions.is_empty();
    let bits = [
        ("SECCOMP_FILTER_FLAG_TSYNC", flag::TSYNC),
        ("SECCOMP_FILTER_FLAG_LOG", flag::LOG),
        ("SECCOMP_FILTER_FLAG_SPEC_ALLOW", flag::SPEC_ALLOW),
        ("SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV", flag::WAIT_KILLABLE_RECV),
    ];
    let supported = |name: &str| bits.iter().any(|(n, bit)| *n == name && host.seccomp.flags & bit != 0);
    json!({
        "enabled": enabled,
        "actions": seccomp::ACTIONS,
        "operators": seccomp::OPERATORS,
        "archs": seccomp::ARCHITECTURES,
        "knownFlags": seccomp::FLAGS,
        "supportedFlags": seccomp::FLAGS.iter().filter(|name| supported(name)).collect::<Vec<_>>()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::Layout;
    use crate::seccomp::{Arch, Available};

    fn host() -> Host {
        Host {
            kernel: (6, 18),
            arch: Arch::NATIVE,
            seccomp: Available { actions: vec!["allow".into()], flags: flag::TSYNC | flag::LOG },
            cgroup: Layout { v1: Vec::new(), unified: None },
            last_cap: 40,
            mount_setattr: true,
            open_tree_attr: true,
            kcore: true,
            apparmor: false,
            apparmor_attr: "thread-self/attr/exec",
            files: None,
        }
    }

    #[test]
    fn an_old_kernel_has_no_recursive_options_and_no_idmap() {
        let new = features(&host());
        let old = features(&Host { kernel: (5, 10), mount_setattr: false, last_cap: 37, ..host() });
        let has = |f: &Value, word: &str| f["mountOptions"].as_array().is_some_and(|l| l.iter().any(|w| w == word));
        for word in ["rro", "rnosymfollow", "idmap", "ridmap"] {
            assert!(has(&new, word) && !has(&old, word), "{word}");
        }
        assert!(has(&new, "ro") && has(&old, "ro") && has(&old, "rshared"));
        assert_eq!(new["linux"]["mountExtensions"]["idmap"]["enabled"], true);
        assert_eq!(old["linux"]["mountExtensions"]["idmap"]["enabled"], false);
        assert_eq!(new["linux"]["capabilities"].as_array().map(Vec::len), Some(41));
        assert_eq!(old["linux"]["capabilities"].as_array().map(Vec::len), Some(38));
    }

    #[test]
    fn the_options_are_those_that_plans_know() {
        let theirs: Vec<&str> = crate::plan::options::WORDS.iter().map(|(word, _)| *word).collect();
        assert_eq!(mount_options(&host()), theirs);
        assert!(theirs.iter().all(|word| words::is_mount_option(word)));
    }

    #[test]
    fn flags_of_the_kernel_are_told_from_flags_we_know() {
        let f = features(&host());
        let flags = json!(["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_TSYNC"]);
        assert_eq!(f["linux"]["seccomp"]["supportedFlags"], flags);
        assert_eq!(f["linux"]["seccomp"]["knownFlags"].as_array().map(Vec::len), Some(4));
        let none = Host { seccomp: Available::default(), ..host() };
        assert_eq!(features(&none)["linux"]["seccomp"]["enabled"], false);
    }
}
