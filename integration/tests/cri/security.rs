//! Security contexts: who a container is, what it may, what it sees.

use integration::containerd::LIMIT;
use integration::cri::{self, Pod, with};
use integration::{Bed, Case, Outcome, cases, ensure};
use serde_json::{Value, json};

use crate::pods::SLEEPER;

pub const CASES: &[Case] = cases![
    users_and_groups,
    user_by_name,
    supplemental_groups_policies,
    capabilities_added_and_dropped,
    privileged,
    no_new_privileges,
    seccomp_profiles,
    read_only_root,
    masked_and_unmasked_proc,
    sysctls,
    volumes,
    image_volumes,
    recursively_read_only_volumes,
    recursively_read_only_by_path,
    propagation_of_mounts,
    user_namespaces,
    user_namespaces_by_handler,
];

/// A patch: the security context of a container.
fn secured(context: Value) -> Value {
    json!({ "linux": { "security_context": context } })
}

/// The fields of /proc/self/status that a script prints.
fn status(pod: &Pod, name: &str, fields: &str, context: Value) -> Outcome<String> {
    pod.output(name, &format!("grep -E '^({fields}):' /proc/self/status"), secured(context))
}

fn users_and_groups(bed: &Bed) -> Outcome {
    with(bed, |cri| {
        let pod = cri.pod(json!({}))?;
        let context = json!({ "run_as_user": { "value": 1234 }, "run_as_group": { "value": 5678 }, "supplemental_groups": [7, 8] });
        let log = status(&pod, "one", "Uid|Gid|Groups", context)?;
        ensure!(log.contains("Uid:\t1234\t1234\t1234\t1234\nGid:\t5678\t5678\t5678\t5678\n"), "{log}");
        let groups: Vec<&str> = log.lines().last().unwrap_or_default().split_whitespace().skip(1).collect();
        ensure!(groups.contains(&"7") && groups.contains(&"8") && !groups.contains(&"0"), "{log}");
        // fsGroup comes as a supplemental group too; a file of that group can be read.
        let volume = bed.directory("volume")?;
        std::fs::write(volume.join("secret"), "for the group\n")?;
        std::os::unix::fs::chown(volume.join("secret"), Some(0), Some(4321))?;
        std::fs::set_permissions(volume.join("secret"), std::os::unix::fs::PermissionsExt::from_mode(0o640))?;
        let mut patch = secured(json!({ "run_as_user": { "value": 1234 }, "supplemental_groups": [4321] }));
        patch["mounts"] = json!([{ "host_path": volume, "container_path": "/mnt" }]);
        let log = pod.output("two", "cat /mnt/secret; touch /mnt/secret 2>&1 || echo refused", patch)?;
        ensure!(log == "for the group\ntouch: /mnt/secret: Permission denied\nrefused\n", "{log}");
        Ok(())
    })
}

fn user_by_name(bed: &Bed) -> Outcome {
    with(bed, |cri| {
        let pod = cri.pod(json!({}))?;
        let log = pod.output("one", "id -u; id -g; echo $HOME", secured(json!({ "run_as_username": "user" })))?;
        ensure!(log == "1000\n1000\n/home/user\n", "{log}");
        let config = pod.container_config("two", "true", secured(json!({ "run_as_username": "none-such" })));
        let request = json!({ "pod_sandbox_id": pod.id, "config": config, "sandbox_config": pod.config });
        cri.refused("CreateContainer", request, "no users found")
    })
}

fn supplemental_groups_policies(bed: &Bed) -> Outcome {
    with(bed, |cri| {
        let pod = cri.pod(json!({}))?;
        // The image's /etc/group puts user 1000 into group 2000: merged by default, left out when strict.
        for (policy, merged) in [(0, true), (1, false)] {
            let context = json!({ "run_as_user": { "value": 1000 }, "run_as_group": { "value": 1000 },
                "supplemental_groups": [3000], "supplemental_groups_policy": policy });
            let log = pod.output(&format!("p{policy}"), "id -G", secured(context))?;
            let groups: Vec<&str> = log.split_whitespace().collect();
            ensure!(groups.contains(&"3000") && groups.contains(&"2000") == merged, "policy {policy}: {log}");
        }
        Ok(())
    })
}

fn capabilities_added_and_dropped(bed: &Bed) -> Outcome {
    with(bed, |cri| {
        let pod = cri.pod(json!({}))?;
        let set = |name: &str, capabilities: Value| -> Outcome<u64> {
            let log = status(&pod, name, "CapEff", json!({ "capabilities": capabilities }))?;
            Ok(u64::from_str_radix(log.trim_start_matches("CapEff:").trim(), 16)?)
        };
        let plain = set("plain", json!({}))?;
        ensure!(plain == 0xa804_25fb, "the default set is {plain:x}");
        let changed = set("changed", json!({ "add_capabilities": ["NET_ADMIN"], "drop_capabilities": ["CHOWN"] }))?;
        ensure!(changed == (plain | 1 << 12) & !1, "changed: {changed:x}");
        let none = set("none", json!({ "drop_capabilities": ["ALL"] }))?;
        ensure!(none == 0, "without any: {none:x}");
        let one = set("one", json!({ "add_capabilities": ["NET_BIND_SERVICE"], "drop_capabilities": ["ALL"] }))?;
        ensure!(one == 1 << 10, "one only: {one:x}");
        Ok(())
    })
}

fn privileged(bed: &Bed) -> Outcome {
    with(bed, |cri| {
        let pod = cri.pod(secured(json!({ "privileged": true })))?;
        let script = "grep CapEff /proc/self/status; grep Seccomp: /proc/self/status; mount -t tmpfs none /mnt && echo mounted; \
                      echo /sys $(awk '$2 == \"/sys\" { print substr($4, 1, 2) }' /proc/mounts); ls /dev/loop-control /dev/full";
        let log = pod.output("one", script, secured(json!({ "privileged": true })))?;
        let mine = std::fs::read_to_string("/proc/self/status")?;
        let all = mine.lines().find(|line| line.starts_with("CapEff:")).unwrap_or_default();
        ensure!(log.contains(all), "not all that root has ({all}): {log}");
        ensure!(log.contains("Seccomp:\t0\n") && log.contains("mounted\n") && log.contains("/sys rw\n"), "{log}");
        Ok(())
    })
}

fn no_new_privileges(bed: &Bed) -> Outcome {
    with(bed, |cri| {
        let pod = cri.pod(json!({}))?;
        for (flag, shown) in [(true, "1"), (false, "0")] {
            let log = status(&pod, &format!("n{shown}"), "NoNewPrivs", json!({ "no_new_privs": flag }))?;
            ensure!(log == format!("NoNewPrivs:\t{shown}\n"), "{log}");
        }
        Ok(())
    })
}

fn seccomp_profiles(bed: &Bed) -> Outcome {
    with(bed, |cri| {
        let profile = bed.directory("profiles")?.join("no-mkdir.json");
        let rule = json!({ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95 });
        std::fs::write(&profile, json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule] }).to_string())?;
        let pod = cri.pod(secured(json!({ "seccomp": { "profile_type": 0 } })))?;
        let script =
            "grep Seccomp: /proc/self/status; mkdir /tmp/new && echo made; unshare -U true && echo unshared; true";
        let run = |name: &str, seccomp: Value| pod.output(name, script, secured(json!({ "seccomp": seccomp })));
        let log = run("default", json!({ "profile_type": 0 }))?;
        ensure!(
            log.contains("Seccomp:\t2\n") && log.contains("made\n") && !log.contains("unshared"),
            "RuntimeDefault: {log}"
        );
        let log = run("unconfined", json!({ "profile_type": 1 }))?;
        ensure!(log == "Seccomp:\t0\nmade\nunshared\n", "Unconfined: {log}");
        let log = run("localhost", json!({ "profile_type": 2, "localhost_ref": profile }))?;
        let refused = "mkdir: can't create directory '/tmp/new': Operation not supported\n";
        ensure!(log.contains("Seccomp:\t2\n") && log.contains(refused) && !log.contains("made"), "Localhost: {log}");
        // The exec is under the profile too.
        let patch = secured(json!({ "seccomp": { "profile_type": 2, "localhost_ref": profile } }));
        let id = pod.run("long", SLEEPER, patch)?;
        let done = pod.exec(&id, "mkdir /tmp/other")?;
        ensure!(done.code == 1 && done.stderr.contains("Operation not supported"), "{}", done.report());
        let missing = secured(json!({ "seccomp": { "profile_type": 2, "localhost_ref": "/no/such/profile" } }));
        let config = pod.container_config("missing", "true", missing);
        let request = json!({ "pod_sandbox_id": pod.id, "config": config, "sandbox_config": pod.config });
        cri.refused("CreateContainer", request, "/no/such/profile")
    })
}

fn read_only_root(bed: &Bed) -> Outcome {
    with(bed, |cri| {
        let volume = bed.directory("volume")?;
        let pod = cri.pod(json!({}))?;
        let mut patch = secured(json!({ "readonly_rootfs": true }));
        patch["mounts"] = json!([{ "host_path": volume, "container_path": "/data" }]);
        let script = "touch /file || echo refused; touch /data/file && echo written; touch /dev/shm/file && echo shm";
        let log = pod.output("one", script, patch)?;
        ensure!(log.contains("touch: /file: Read-only file system\n"), "{log}");
        ensure!(log.contains("refused\n") && log.contains("written\n") && log.contains("shm\n"), "{log}");
        Ok(())
    })
}

fn masked_and_unmasked_proc(bed: &Bed) -> Outcome {
    with(bed, |cri| {
        let pod = cri.pod(json!({}))?;
        let script = "wc -c </proc/keys; ls /proc/irq | wc -l; (: >>/proc/sys/kernel/domainname) 2>/dev/null && echo writable || echo protected";
        let masked =
            json!({ "masked_paths": ["/proc/keys", "/proc/irq", "/no/such/path"], "readonly_paths": ["/proc/sys"] });
        let log = pod.output("masked", script, secured(masked))?;
        ensure!(log == "0\n0\nprotected\n", "masked: {log}");
        let log = pod.output("unmasked", script, secured(json!({ "masked_paths": [], "readonly_paths": [] })))?;
        ensure!(log.ends_with("writable\n") && !log.starts_with("0\n"), "unmasked: {log}");
        Ok(())
    })
}

fn sysctls(bed: &Bed) -> Outcome {
    with(bed, |cri| {
        let sysctls = json!({ "net.ipv4.ip_local_port_range": "20000 30000", "kernel.shm_rmid_forced": "1", "kernel/sem": "250\t32000\t32\t128" });
        let pod = cri.pod(json!({ "linux": { "sysctls": sysctls } }))?;
        let script = "cd /proc/sys; cat net/ipv4/ip_local_port_range kernel/shm_rmid_forced kernel/sem net/ipv4/ip_unprivileged_port_start; \
                      (: >kernel/shm_rmid_forced) 2>/dev/null || echo read-only";
        // As the kubelet asks for it in every container.
        let log = pod.output("one", script, secured(json!({ "readonly_paths": ["/proc/sys"] })))?;
        // The last is CRI's own default (enable_unprivileged_ports), since 2.0.
        let ports = if bed.version().is_1() { "1024" } else { "0" };
        ensure!(log == format!("20000\t30000\n1\n250\t32000\t32\t128\n{ports}\nread-only\n"), "{log:?}");
        let config = cri.pod_config(json!({ "linux": { "sysctls": { "kernel.panic": "1" } } }))?;
        cri.group_of(&config);
        let request = json!({ "config": config, "runtime_handler": cri::handler(bed.runtime()) });
        cri.refused("RunPodSandbox", request, "kernel.panic")
    })
}

fn volumes(bed: &Bed) -> Outcome {
    with(bed, |cri| {
        let volume = bed.directory("volume")?;
        std::fs::write(volume.join("there"), "from outside\n")?;
        let mounts = json!([
            { "host_path": volume, "container_path": "/rw" },
            { "host_path": volume, "container_path": "/deep/ro", "readonly": true },
            { "host_path": volume.join("there"), "container_path": "/etc/new/file", "readonly": true },
        ]);
        let pod = cri.pod(json!({}))?;
        let script = "cat /deep/ro/there /etc/new/file; echo inside >/rw/back; touch /deep/ro/x || echo refused";
        let log = pod.output("one", script, json!({ "mounts": mounts }))?;
        ensure!(log.starts_with("from outside\nfrom outside\n") && log.ends_with("refused\n"), "{log}");
        ensure!(std::fs::read_to_string(volume.join("back"))? == "inside\n", "nothing was written");
        Ok(())
    })
}

fn image_volumes(bed: &Bed) -> Outcome {
    with(bed, |cri| {
        let pod = cri.pod(json!({}))?;
        // An image as a volume: read only, and without being run.
        let volume = json!({ "container_path": "/volume", "readonly": true, "image": { "image": integration::containerd::IMAGE } });
        let script = "cat /volume/etc/image-name; touch /volume/x || echo refused; test /volume/bin/sh -ef /bin/sh || echo another file";
        let log = pod.output("one", script, json!({ "mounts": [volume] }))?;
        ensure!(
            log.starts_with("mini-busybox\n") && log.ends_with("Read-only file system\nrefused\nanother file\n"),
            "{log}"
        );
        let two = pod.run("two", SLEEPER, json!({ "mounts": [volume] }))?;
        let seen = pod.exec(&two, "cat /volume/etc/image-name")?.ok()?;
        ensure!(seen == "mini-busybox\n", "{seen}");
        Ok(())
    })
}

/// A directory of the host with a tmpfs mounted in it, both shared.
fn with_submount(bed: &Bed, name: &str) -> Outcome<String> {
    let directory = bed.directory(name)?.display().to_string();
    let script = "mount --bind \"$0\" \"$0\" && mount --make-rshared \"$0\" && mkdir \"$0/sub\" && mount -t tmpfs tmpfs \"$0/sub\"";
    let made = bed.containerd.host.command(Some(LIMIT), &[], &["sh", "-c", script, &directory]).status()?;
    ensure!(made.success(), "mounting {directory} failed");
    Ok(directory)
}

fn unmount(bed: &Bed, directory: &str) -> Outcome {
    let done = bed.containerd.host.command(Some(LIMIT), &[], &["umount", "-R", directory]).status()?;
    ensure!(done.success(), "unmounting {directory} failed");
    Ok(())
}

fn recursively_read_only_volumes(bed: &Bed) -> Outcome {
    recursively_read_only_on(bed, |handler| handler == cri::handler(bed.runtime()))
}

/// On the handlers of runc's type: containerd 2.1 asks no others for their features.
fn recursively_read_only_by_path(bed: &Bed) -> Outcome {
    recursively_read_only_on(bed, |handler| ["runc", "mini-path"].contains(&handler))
}

fn recursively_read_only_on(bed: &Bed, meant: impl Fn(&str) -> bool) -> Outcome {
    let directory = with_submount(bed, "volume")?;
    let outcome = with(bed, |cri| {
        let script = "touch /mnt/x || echo refused; touch /mnt/sub/x && echo written || echo refused below";
        let handlers: Vec<_> = cri::handlers(&bed.containerd).iter().filter(|handler| meant(handler)).collect();
        ensure!(!handlers.is_empty(), "no such handler");
        for handler in handlers {
            let pod = cri.pod_on(handler, json!({}))?;
            for (recursive, last) in [(false, "written\n"), (true, "refused below\n")] {
                let mount = json!({ "host_path": directory, "container_path": "/mnt", "readonly": true, "recursive_read_only": recursive });
                let log = pod.output(&format!("r{recursive}"), script, json!({ "mounts": [mount] }))?;
                ensure!(log.contains("refused\n") && log.ends_with(last), "{handler}, recursive {recursive}: {log}");
            }
        }
        Ok(())
    });
    unmount(bed, &directory)?;
    outcome
}

fn propagation_of_mounts(bed: &Bed) -> Outcome {
    let directory = with_submount(bed, "volume")?;
    let outcome = with(bed, |cri| {
        let pod = cri.pod(secured(json!({ "privileged": true })))?;
        let host = |words: &[&str]| -> Outcome {
            ensure!(bed.containerd.host.command(Some(LIMIT), &[], words).status()?.success(), "{words:?} failed");
            Ok(())
        };
        // Of the enumeration MountPropagation: private, host to container, bidirectional.
        for (mode, name, in_container, on_host) in
            [(0, "private", false, false), (1, "slave", true, false), (2, "shared", true, true)]
        {
            let mut patch = secured(json!({ "privileged": true }));
            patch["mounts"] = json!([{ "host_path": directory, "container_path": "/mnt", "propagation": mode }]);
            let id = pod.run(name, SLEEPER, patch)?;
            let late = format!("{directory}/{name}-late");
            host(&["sh", "-c", "mkdir \"$0\" && mount -t tmpfs late \"$0\"", &late])?;
            let seen = pod.exec(&id, &format!("grep -c ' /mnt/{name}-late ' /proc/mounts"))?.stdout.trim() == "1";
            ensure!(seen == in_container, "{name}: a mount of the host is seen inside: {seen}");
            pod.exec(&id, &format!("mkdir /mnt/{name}-inner && mount -t tmpfs inner /mnt/{name}-inner"))?.ok()?;
            let mounts = std::fs::read_to_string(bed.containerd.host.path("/proc/1/mountinfo"))?;
            let seen = mounts.contains(&format!("{directory}/{name}-inner "));
            ensure!(
                seen == on_host,
                "{name}: a mount of the container is seen outside: {seen}; inside: {}; outside: {mounts}",
                pod.exec(&id, "grep /mnt /proc/self/mountinfo")?.stdout
            );
        }
        Ok(())
    });
    unmount(bed, &directory)?;
    outcome
}

/// A pod whose ids 0 to 65535 are the host's from 200000 on.
fn mapped() -> Value {
    let map = json!([{ "host_id": 200_000, "container_id": 0, "length": 65536 }]);
    json!({ "userns_options": { "mode": cri::POD, "uids": map, "gids": map }, "pid": cri::CONTAINER })
}

fn user_namespaces(bed: &Bed) -> Outcome {
    with(bed, |cri| user_namespace_on(bed, cri, cri::handler(bed.runtime())))
}

/// Every way to name the runtime (with an options table of its own CRI itself fails: it takes it for runc's).
fn user_namespaces_by_handler(bed: &Bed) -> Outcome {
    with(bed, |cri| {
        let handlers = cri::handlers(&bed.containerd).iter().filter(|name| **name != "mini-options");
        handlers.into_iter().try_for_each(|handler| user_namespace_on(bed, cri, handler))
    })
}

fn user_namespace_on(bed: &Bed, cri: &cri::Cri, handler: &str) -> Outcome {
    let volume = bed.directory(&format!("volume-{handler}"))?;
    std::fs::write(volume.join("there"), "of root\n")?;
    let options = secured(json!({ "namespace_options": mapped() }));
    let pod = cri.pod_on(handler, options.clone())?;
    let mut patch = options;
    let map = mapped()["userns_options"]["uids"].clone();
    patch["mounts"] =
        json!([{ "host_path": volume, "container_path": "/data", "uidMappings": map, "gidMappings": map }]);
    let id = pod.run("one", &format!("echo logged; {SLEEPER}"), patch)?;
    let said = pod
        .exec(
            &id,
            "cat /proc/self/uid_map; stat -c %u /data/there /bin/sh /; echo new >/data/new; id -u; echo x >/dev/stdout",
        )?
        .ok()?;
    let words: Vec<&str> = said.split_whitespace().collect();
    ensure!(words == ["0", "200000", "65536", "0", "0", "0", "0", "x"], "inside: {words:?}");
    let owner = std::os::unix::fs::MetadataExt::uid(&volume.join("new").metadata()?);
    ensure!(owner == 0, "a file in an idmapped volume belongs to {owner} on the host");
    for pid in [pod.pause_pid()?, pod.pid(&id)?] {
        let status = std::fs::read_to_string(bed.containerd.host.path(format!("/proc/{pid}/status")))?;
        let uid = status.lines().find_map(|line| line.strip_prefix("Uid:\t")).unwrap_or_default();
        ensure!(uid.starts_with("200000\t") || uid.starts_with("265535\t"), "on the host {pid} runs as {uid}");
    }
    // The streams can be opened again by their name: images log to /dev/stdout.
    let log = pod.output(
        "two",
        "echo again >/dev/stdout; echo err >/dev/stderr",
        secured(json!({ "namespace_options": mapped() })),
    )?;
    ensure!(log.contains("again\n") && log.contains("err\n"), "{log}");
    cri.remove_pod(&pod.id)
}
