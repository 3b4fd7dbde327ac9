//! Pods and their containers: one shim, shared and separate namespaces, orders of life and removal.

use integration::containerd::LIMIT;
use integration::cri::{self, CONTAINER, NODE, POD, Pod, TARGET, with};
use integration::{Bed, Case, Outcome, Runtime, Version, cases, ensure, eventually};
use serde_json::{Value, json};
use std::time::Duration;

pub const CASES: &[Case] = cases![
    one_shim_holds_the_pod,
    every_handler,
    pause_is_alone_and_nobody,
    names_and_stamps,
    separate_pid_namespaces,
    shared_pid_namespace,
    pid_namespace_of_another_container,
    pid_namespace_of_the_node,
    shared_ipc_and_network,
    two_pods_share_no_namespace,
    ipc_and_network_of_the_node,
    init_containers,
    hooks_of_the_lifecycle,
    stop_kills_after_its_time,
    exits_have_codes_and_reasons,
    container_that_does_not_start,
    restarted_in_the_same_pod,
    removed_with_running_members,
    removed_member_by_member,
    members_at_once,
    pods_at_once,
    hosts_file_and_resolver,
    devices,
    listed_by_crictl,
];

/// A container that lives until it is stopped, and does so at once.
pub const SLEEPER: &str = "trap 'exit 0' TERM; sleep 100000 & wait";

/// The pids of the shims that carry the pod's id.
fn shims_of(bed: &Bed, pod: &str) -> Outcome<Vec<u32>> {
    let processes = bed.containerd.host.processes()?.into_iter();
    let is_shim = |argv: &[String]| argv[0].contains("containerd-shim") && argv.iter().any(|word| word == pod);
    Ok(processes.filter(|(_, argv)| is_shim(argv)).map(|(pid, _)| pid).collect())
}

/// What a link of /proc says inside a container.
fn namespace(pod: &Pod, id: &str, name: &str) -> Outcome<String> {
    pod.exec(id, &format!("readlink /proc/self/ns/{name}"))?.ok()
}

/// What it says on the containerd's host.
fn namespace_of(bed: &Bed, pid: u32, name: &str) -> Outcome<String> {
    let link = bed.containerd.host.path(format!("/proc/{pid}/ns/{name}")).read_link()?;
    Ok(format!("{}\n", link.display()))
}

/// A patch for a pod or a container: its namespace of that kind.
fn namespaces(kind: &str, mode: u32) -> Value {
    json!({ "linux": { "security_context": { "namespace_options": { kind: mode } } } })
}

fn one_shim_holds_the_pod(bed: &Bed) -> Outcome {
    with(bed, |cri| {
        let pod = cri.pod(json!({}))?;
        let shim = pod.shim()?;
        for name in ["one", "two", "three"] {
            let id = pod.run(name, SLEEPER, json!({}))?;
            let parent = bed.containerd.host.parent(pod.pid(&id)?)?;
            ensure!(parent == shim, "{name} is a child of {parent}, not of the pod's shim {shim}");
        }
        let shims = shims_of(bed, &pod.id)?;
        ensure!(shims == [shim], "the shims of one pod are {shims:?}");
        cri.remove_pod(&pod.id)?;
        eventually(LIMIT, || {
            ensure!(!bed.containerd.host.lives(shim), "the shim of a removed pod lives");
            Ok(())
        })
    })
}

fn every_handler(bed: &Bed) -> Outcome {
    with(bed, |cri| {
        for handler in cri::handlers(&bed.containerd) {
            let pod = cri.pod_on(handler, json!({}))?;
            let log = pod.output("one", "echo from $0; cat /etc/image-name", json!({ "args": [handler] }))?;
            ensure!(log == format!("from {handler}\nmini-busybox\n"), "logged {log:?}");
            let id = pod.run("two", SLEEPER, json!({}))?;
            ensure!(pod.exec(&id, "echo inside; exit 3")?.code == 3, "no exit code 3");
            // An option whose effect can be seen: it gives away the pipes. CRI of 1.6 passes no options of runtimes it does not know.
            let owner = pod.exec(&id, "stat -Lc %u:%g /proc/self/fd/1")?.ok()?;
            let wanted =
                if *handler == "mini-options" && bed.version() != Version::C1_6 { "4321:4322\n" } else { "0:0\n" };
            ensure!(owner == wanted, "on {handler} the pipes belong to {owner}");
        }
        cri.refused("RunPodSandbox", json!({ "config": cri.pod_config(json!({}))?, "runtime_handler": "none" }), "none")
    })
}

fn pause_is_alone_and_nobody(bed: &Bed) -> Outcome {
    with(bed, |cri| {
        let pod = cri.pod(json!({}))?;
        let pid = pod.pause_pid()?;
        // The Go shim says that it is started before it is executed and nobody; mini does not.
        let patience = if bed.runtime() == Runtime::Mini { Duration::ZERO } else { LIMIT };
        eventually(patience, || {
            let status = std::fs::read_to_string(bed.containerd.host.path(format!("/proc/{pid}/status")))?;
            let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim();
            ensure!(field("Uid:") == "65535\t65535\t65535\t65535", "pause runs as {:?}", field("Uid:"));
            ensure!(
                field("NSpid:").ends_with("\t1"),
                "pause is not the first of its pid namespace: {}",
                field("NSpid:")
            );
            ensure!(field("CapEff:") == "0000000000000000", "pause has capabilities: {}", field("CapEff:"));
            Ok(())
        })
    })
}

fn names_and_stamps(bed: &Bed) -> Outcome {
    with(bed, |cri| {
        let labels = json!({ "app": "test", "tier": "back" });
        let pod = cri.pod(json!({ "labels": labels, "annotations": { "a": "b" } }))?;
        let id =
            pod.create("one", "exit 4", json!({ "labels": { "of": "container" }, "annotations": { "c": "d" } }))?;
        let status = pod.status(&id)?;
        ensure!(status["state"].is_null() || status["state"] == "CONTAINER_CREATED", "before the start: {status}");
        pod.start(&id)?;
        let status = pod.wait_exited(&id)?;
        ensure!(status["labels"]["of"] == "container" && status["annotations"]["c"] == "d", "{status}");
        let stamp = |name: &str| status[name].as_str().and_then(|text| text.parse::<u128>().ok()).unwrap_or(0);
        // A container may have ended before CRI notes that it has started it.
        let (created, started, finished) = (stamp("created_at"), stamp("started_at"), stamp("finished_at"));
        ensure!(0 < created && created <= started && created <= finished, "the stamps are out of order: {status}");
        let found = cri.call("ListPodSandbox", json!({ "filter": { "label_selector": labels, "id": pod.id } }))?;
        ensure!(found["items"].as_array().is_some_and(|items| items.len() == 1), "the pod is not found: {found}");
        Ok(())
    })
}

fn separate_pid_namespaces(bed: &Bed) -> Outcome {
    with(bed, |cri| {
        let pod = cri.pod(json!({}))?;
        let (one, two) = (pod.run("one", SLEEPER, json!({}))?, pod.run("two", SLEEPER, json!({}))?);
        ensure!(namespace(&pod, &one, "pid")? != namespace(&pod, &two, "pid")?, "one pid namespace for two containers");
        let first = pod.exec(&one, "tr '\\0' ' ' </proc/1/cmdline")?.ok()?;
        ensure!(first.starts_with("sh -c trap"), "the first process of the container is {first:?}");
        Ok(())
    })
}

fn shared_pid_namespace(bed: &Bed) -> Outcome {
    with(bed, |cri| {
        let shared = namespaces("pid", POD);
        let pod = cri.pod(shared.clone())?;
        let (one, two) = (pod.run("one", SLEEPER, shared.clone())?, pod.run("two", "exec sleep 76543", shared)?);
        let pause = namespace_of(bed, pod.pause_pid()?, "pid")?;
        ensure!(
            namespace(&pod, &one, "pid")? == pause && namespace(&pod, &two, "pid")? == pause,
            "not pause's namespace"
        );
        let first = pod.exec(&one, "tr '\\0' ' ' </proc/1/cmdline; pidof sleep >&2")?.ok()?;
        ensure!(first.starts_with("/pause"), "the first process of the pod is {first:?}");
        // They see each other, and the death of one's init leaves the others alone.
        pod.exec(&one, "kill -9 $(ps -o pid,args | awk '/sleep 7654[3]/ { print $1 }')")?.ok()?;
        ensure!(pod.wait_exited(&two)?["exit_code"] == 137, "the other container was not killed");
        pod.exec(&one, "true")?.ok()?;
        // What an init leaves in a shared namespace ends with its container.
        let three = pod.run("three", "sleep 65432 & exit 0", namespaces("pid", POD))?;
        pod.wait_exited(&three)?;
        eventually(LIMIT, || {
            let left = bed.containerd.host.processes()?.iter().any(|(_, argv)| argv.iter().any(|word| word == "65432"));
            ensure!(!left, "a process of an exited container lives in the pod's pid namespace");
            Ok(())
        })
    })
}

fn pid_namespace_of_another_container(bed: &Bed) -> Outcome {
    with(bed, |cri| {
        let pod = cri.pod(json!({}))?;
        let one = pod.run("one", SLEEPER, json!({}))?;
        let mut target = namespaces("pid", TARGET);
        target["linux"]["security_context"]["namespace_options"]["target_id"] = json!(one);
        let two = pod.run("debugger", SLEEPER, target)?;
        ensure!(namespace(&pod, &one, "pid")? == namespace(&pod, &two, "pid")?, "not the target's pid namespace");
        let seen = pod.exec(&two, "tr '\\0' ' ' </proc/1/cmdline")?.ok()?;
        ensure!(seen.starts_with("sh -c trap"), "the debugger sees {seen:?} as the first process");
        // The end of the target's init ends the namespace and with it the debugger.
        pod.cri.call("StopContainer", json!({ "container_id": one, "timeout": 30 }))?;
        ensure!(pod.wait_exited(&two)?["exit_code"] == 137, "the debugger outlived its namespace");
        Ok(())
    })
}

fn pid_namespace_of_the_node(bed: &Bed) -> Outcome {
    with(bed, |cri| {
        let node = namespaces("pid", NODE);
        let pod = cri.pod(node.clone())?;
        let one = pod.run("one", "exec sleep 54321", node.clone())?;
        let inside = pod.exec(&one, "ps -o pid,args | awk '/sleep 5432[1]/ { print $1 }'")?.ok()?;
        ensure!(inside.trim() == pod.pid(&one)?.to_string(), "the container sees its init as {inside:?}");
        // Without a pid namespace of their own its processes end only because the whole group is killed.
        let two = pod.run("two", "sleep 43210 & sleep 43210 & wait", node)?;
        pod.cri.call("StopContainer", json!({ "container_id": two, "timeout": 0 }))?;
        pod.wait_exited(&two)?;
        eventually(LIMIT, || {
            let left = bed.containerd.host.processes()?.iter().any(|(_, argv)| argv.iter().any(|word| word == "43210"));
            ensure!(!left, "processes of a stopped container live on the node");
            Ok(())
        })
    })
}

fn shared_ipc_and_network(bed: &Bed) -> Outcome {
    with(bed, |cri| {
        let pod = cri.pod(json!({}))?;
        let (one, two) = (pod.run("one", SLEEPER, json!({}))?, pod.run("two", SLEEPER, json!({}))?);
        let pause = pod.pause_pid()?;
        for kind in ["ipc", "net", "uts"] {
            let (first, second) = (namespace(&pod, &one, kind)?, namespace(&pod, &two, kind)?);
            let of_pause = namespace_of(bed, pause, kind)?;
            ensure!(first == of_pause && second == of_pause, "{kind}: {first:?}, {second:?}, pause's {of_pause:?}");
        }
        pod.exec(&one, "echo through memory >/dev/shm/note")?.ok()?;
        let note = pod.exec(&two, "cat /dev/shm/note")?.ok()?;
        ensure!(note == "through memory\n", "/dev/shm is not shared: {note:?}");
        let reply = cri.call("PodSandboxStatus", json!({ "pod_sandbox_id": pod.id }))?;
        let ip = reply["status"]["network"]["ip"].as_str().unwrap_or_default().to_owned();
        let inside = pod.exec(&one, "ip -4 addr show eth0")?.ok()?;
        ensure!(!ip.is_empty() && inside.contains(&format!("inet {ip}/")), "the pod has {ip:?}, inside: {inside}");
        pod.exec(&one, "httpd -p 127.0.0.1:8080 -h /etc")?.ok()?;
        let page = pod.exec(&two, "wget -q -O - http://127.0.0.1:8080/image-name")?.ok()?;
        ensure!(page == "mini-busybox\n", "over loopback came {page:?}");
        let hostname = pod.exec(&two, "hostname")?.ok()?;
        ensure!(pod.config["hostname"] == hostname.trim(), "the hostname is {hostname:?}");
        Ok(())
    })
}

fn two_pods_share_no_namespace(bed: &Bed) -> Outcome {
    with(bed, |cri| {
        let pods = [cri.pod(json!({}))?, cri.pod(json!({}))?];
        let ids = [pods[0].run("one", SLEEPER, json!({}))?, pods[1].run("one", SLEEPER, json!({}))?];
        for kind in ["cgroup", "ipc", "mnt", "net", "pid", "uts"] {
            let (first, second) = (namespace(&pods[0], &ids[0], kind)?, namespace(&pods[1], &ids[1], kind)?);
            let of_node = namespace_of(bed, bed.containerd.pid()?, kind)?;
            // Without cgroup v2, CRI leaves containers in the node's cgroup namespace.
            ensure!(first != second || (kind == "cgroup" && first == of_node), "{kind}: {first:?} in both pods");
        }
        let status = |pod: &Pod| cri.call("PodSandboxStatus", json!({ "pod_sandbox_id": pod.id }));
        let ips = [status(&pods[0])?, status(&pods[1])?].map(|reply| reply["status"]["network"]["ip"].clone());
        ensure!(ips[0] != ips[1] && ips[0].is_string(), "the pods' addresses are {ips:?}");
        let address = ips[0].as_str().unwrap_or_default();
        pods[0].exec(&ids[0], "httpd -p 8080 -h /etc")?.ok()?;
        let page = pods[1].exec(&ids[1], &format!("wget -q -O - http://{address}:8080/image-name"))?.ok()?;
        ensure!(page == "mini-busybox\n", "from pod to pod came {page:?}");
        Ok(())
    })
}

fn ipc_and_network_of_the_node(bed: &Bed) -> Outcome {
    with(bed, |cri| {
        let options = json!({ "pid": CONTAINER, "network": NODE, "ipc": NODE });
        let node = json!({ "hostname": "", "linux": { "security_context": { "namespace_options": options } } });
        let pod = cri.pod(node.clone())?;
        let one = pod.run("one", SLEEPER, json!({ "linux": node["linux"] }))?;
        let containerd = bed.containerd.pid()?;
        for kind in ["ipc", "net", "uts"] {
            let (inside, node) = (namespace(&pod, &one, kind)?, namespace_of(bed, containerd, kind)?);
            ensure!(inside == node, "{kind}: {inside:?} instead of the node's {node:?}");
        }
        Ok(())
    })
}

fn init_containers(bed: &Bed) -> Outcome {
    with(bed, |cri| {
        let volume = bed.directory("volume")?;
        let mount = json!({ "mounts": [{ "host_path": volume, "container_path": "/work" }] });
        let pod = cri.pod(json!({}))?;
        for name in ["init-1", "init-2"] {
            let id = pod.run(name, &format!("echo {name} >>/work/list"), mount.clone())?;
            let status = pod.wait_exited(&id)?;
            ensure!(status["exit_code"].as_i64().unwrap_or(0) == 0 && status["reason"] == "Completed", "{status}");
            cri.call("RemoveContainer", json!({ "container_id": id }))?;
        }
        let seen = pod.output("main", "cat /work/list", mount.clone())?;
        ensure!(seen == "init-1\ninit-2\n", "the main container reads {seen:?}");
        // A sidecar (an init container that goes on) beside them.
        let sidecar = pod.run("sidecar", "echo ready >/work/ready; exec sleep 100000", mount.clone())?;
        let seen = pod.output("after", "until [ -e /work/ready ]; do sleep 0.1; done; cat /work/ready", mount)?;
        ensure!(seen == "ready\n" && pod.status(&sidecar)?["state"] == "CONTAINER_RUNNING", "{seen:?}");
        Ok(())
    })
}

fn hooks_of_the_lifecycle(bed: &Bed) -> Outcome {
    with(bed, |cri| {
        let volume = bed.directory("volume")?;
        let mount = json!({ "mounts": [{ "host_path": volume, "container_path": "/work" }] });
        let pod = cri.pod(json!({}))?;
        let script = "trap 'echo term >>/work/list; exit 9' TERM; echo up >>/work/list; sleep 100000 & wait";
        let id = pod.run("main", script, mount)?;
        pod.exec(&id, "until grep -q up /work/list; do sleep 0.05; done; echo poststart >>/work/list")?.ok()?;
        pod.exec(&id, "echo prestop >>/work/list")?.ok()?;
        cri.call("StopContainer", json!({ "container_id": id, "timeout": 30 }))?;
        let status = pod.wait_exited(&id)?;
        let list = std::fs::read_to_string(volume.join("list"))?;
        ensure!(list == "up\npoststart\nprestop\nterm\n", "the order was {list:?}");
        ensure!(status["exit_code"] == 9 && status["reason"] == "Error", "{status}");
        Ok(())
    })
}

fn stop_kills_after_its_time(bed: &Bed) -> Outcome {
    with(bed, |cri| {
        let pod = cri.pod(json!({}))?;
        let id = pod.run("deaf", "trap '' TERM; echo deaf; sleep 100000 & wait; sleep 100000", json!({}))?;
        eventually(LIMIT, || {
            ensure!(pod.log("deaf")? == "deaf\n", "it does not run yet");
            Ok(())
        })?;
        cri.call("StopContainer", json!({ "container_id": id, "timeout": 1 }))?;
        let status = pod.wait_exited(&id)?;
        ensure!(status["exit_code"] == 137 && status["reason"] == "Error", "{status}");
        // Again, and of one that never ran: both are fine.
        cri.call("StopContainer", json!({ "container_id": id, "timeout": 1 }))?;
        let never = pod.create("never", "true", json!({}))?;
        cri.call("StopContainer", json!({ "container_id": never, "timeout": 1 }))?;
        cri.call("RemoveContainer", json!({ "container_id": never }))?;
        Ok(())
    })
}

fn exits_have_codes_and_reasons(bed: &Bed) -> Outcome {
    with(bed, |cri| {
        let pod = cri.pod(json!({}))?;
        for (script, code, reason) in [
            ("true", 0, "Completed"),
            ("exit 7", 7, "Error"),
            ("exit 255", 255, "Error"),
            ("kill -9 $$; sleep 9", 0, "Completed"),
        ] {
            let id = pod.run("one", script, json!({ "metadata": { "attempt": code } }))?;
            // A signal from inside does not kill the first process of a pid namespace.
            let status = pod.wait_exited(&id)?;
            ensure!(
                status["exit_code"].as_i64().unwrap_or(0) == code && status["reason"] == reason,
                "{script}: {status}"
            );
            cri.call("RemoveContainer", json!({ "container_id": id }))?;
        }
        Ok(())
    })
}

fn container_that_does_not_start(bed: &Bed) -> Outcome {
    with(bed, |cri| {
        let pod = cri.pod(json!({}))?;
        for (command, words) in [("no-such-program", "no-such-program"), ("/etc/passwd", "permission denied")] {
            let id = pod.create(
                "bad",
                "",
                json!({ "command": [command], "metadata": { "name": command.replace('/', "-") } }),
            )?;
            cri.refused("StartContainer", json!({ "container_id": id }), words)?;
            let status = pod.status(&id)?;
            ensure!(status["exit_code"] == 128 && status["reason"] == "StartError", "{status}");
            ensure!(status["message"].as_str().is_some_and(|text| text.contains(words)), "{status}");
            cri.call("RemoveContainer", json!({ "container_id": id }))?;
        }
        let good = pod.output("good", "echo fine", json!({}))?;
        ensure!(good == "fine\n", "after the failures: {good:?}");
        Ok(())
    })
}

fn restarted_in_the_same_pod(bed: &Bed) -> Outcome {
    with(bed, |cri| {
        let pod = cri.pod(json!({}))?;
        let shim = pod.shim()?;
        for attempt in 0..5 {
            let patch = json!({ "metadata": { "attempt": attempt }, "log_path": format!("one-{attempt}.log") });
            let id = pod.run("one", &format!("exit {attempt}"), patch)?;
            let status = pod.wait_exited(&id)?;
            ensure!(status["exit_code"].as_i64().unwrap_or(0) == attempt, "attempt {attempt}: {status}");
            cri.call("RemoveContainer", json!({ "container_id": id }))?;
            cri.assert_nothing_of(&[id])?;
        }
        ensure!(pod.shim()? == shim, "the pod's shim changed");
        Ok(())
    })
}

fn removed_with_running_members(bed: &Bed) -> Outcome {
    with(bed, |cri| {
        let pod = cri.pod(json!({}))?;
        for name in ["one", "two"] {
            pod.run(name, SLEEPER, json!({}))?;
        }
        pod.create("three", "true", json!({}))?;
        // Removed without being stopped first, as the kubelet does with pods it has given up.
        cri.call("RemovePodSandbox", json!({ "pod_sandbox_id": pod.id }))?;
        cri.is_removed(&pod.id);
        cri.call("RemovePodSandbox", json!({ "pod_sandbox_id": pod.id })).map(drop)
    })
}

fn removed_member_by_member(bed: &Bed) -> Outcome {
    with(bed, |cri| {
        let pod = cri.pod(json!({}))?;
        let shim = pod.shim()?;
        let ids = ["one", "two", "three"].map(|name| pod.run(name, SLEEPER, json!({})));
        for id in ids {
            let id = id?;
            cri.call("RemoveContainer", json!({ "container_id": id }))?;
            cri.assert_nothing_of(&[id])?;
        }
        ensure!(pod.state()? == "SANDBOX_READY" && pod.shim()? == shim, "the pod did not outlive its members");
        cri.call("StopPodSandbox", json!({ "pod_sandbox_id": pod.id }))?;
        ensure!(pod.state()? == "SANDBOX_NOTREADY", "a stopped pod is {}", pod.state()?);
        // A stopped pod's shim is of no use to anybody.
        eventually(LIMIT, || {
            ensure!(!bed.containerd.host.lives(shim), "the shim of a stopped pod lives");
            Ok(())
        })
    })
}

fn members_at_once(bed: &Bed) -> Outcome {
    with(bed, |cri| {
        let pod = cri.pod(json!({}))?;
        let names: Vec<String> = (0..12).map(|number| format!("m{number}")).collect();
        let ids = names
            .iter()
            .map(|name| pod.create(name, &format!("trap 'exit 0' TERM; echo {name}; {SLEEPER}"), json!({})));
        let ids = ids.collect::<Outcome<Vec<String>>>()?;
        let all = |method: &str, timeout: u32| -> Outcome {
            let request = |id: &String| match timeout {
                0 => json!({ "container_id": id }),
                _ => json!({ "container_id": id, "timeout": timeout }),
            };
            let sent = ids.iter().map(|id| cri.send(method, request(id))).collect::<Outcome<Vec<_>>>()?;
            sent.into_iter().try_for_each(|one| one.wait().map(drop))
        };
        all("StartContainer", 0)?;
        for name in &names {
            eventually(LIMIT, || {
                let log = pod.log(name)?;
                ensure!(log == format!("{name}\n"), "{name} logged {log:?}");
                Ok(())
            })?;
        }
        all("StopContainer", 30)?;
        for id in &ids {
            let status = pod.wait_exited(id)?;
            ensure!(status["exit_code"].as_i64().unwrap_or(0) == 0, "{status}");
        }
        all("RemoveContainer", 0)
    })
}

fn pods_at_once(bed: &Bed) -> Outcome {
    with(bed, |cri| {
        let count = 8;
        let outcomes: Vec<Outcome> = std::thread::scope(|scope| {
            let one = || -> Outcome {
                let pod = cri.pod(json!({}))?;
                let log = pod.output("one", "echo alive", json!({}))?;
                ensure!(log == "alive\n", "logged {log:?}");
                cri.remove_pod(&pod.id)
            };
            let running: Vec<_> = (0..count).map(|_| scope.spawn(one)).collect();
            running
                .into_iter()
                .map(|thread| thread.join().unwrap_or_else(|_| Err("a thread panicked".into())))
                .collect()
        });
        outcomes.into_iter().collect()
    })
}

fn hosts_file_and_resolver(bed: &Bed) -> Outcome {
    with(bed, |cri| {
        let hosts = bed.directory("files")?.join("hosts");
        std::fs::write(&hosts, "127.0.0.1 localhost\n10.1.2.3 from-the-kubelet\n")?;
        let dns = json!({ "servers": ["10.96.0.10"], "searches": ["default.svc"], "options": ["ndots:5"] });
        let pod = cri.pod(json!({ "dns_config": dns }))?;
        let mount = json!({ "mounts": [{ "host_path": hosts, "container_path": "/etc/hosts" }] });
        let log = pod.output("one", "cat /etc/resolv.conf /etc/hosts", mount)?;
        for line in
            ["search default.svc\n", "nameserver 10.96.0.10\n", "options ndots:5\n", "10.1.2.3 from-the-kubelet\n"]
        {
            ensure!(log.contains(line), "{line:?} is missing in {log}");
        }
        Ok(())
    })
}

fn devices(bed: &Bed) -> Outcome {
    with(bed, |cri| {
        let pod = cri.pod(json!({}))?;
        // A device that no default allows (FUSE's). Whether its driver is there does not matter: the group's refusal of an
        // open is EPERM, and everything else is an answer of the driver.
        let node = bed.directory("dev")?.join("node").display().to_string();
        bed.containerd.host.command(None, &[], &["mknod", "-m", "666", &node, "c", "10", "229"]).status()?;
        let device = json!({ "host_path": node, "container_path": "/dev/mine", "permissions": "r" });
        let refused = "grep -q 'not permitted' /tmp/said && echo refused || echo allowed";
        let script = format!(
            "stat -c '%t:%T' /dev/mine; (: </dev/mine) 2>/tmp/said; {refused}; (: >/dev/mine) 2>/tmp/said; {refused}; \
             mknod /tmp/other c 10 229 && (: >/tmp/other) 2>/tmp/said; {refused}"
        );
        let log = pod.output("one", &script, json!({ "devices": [device] }))?;
        ensure!(log == "a:e5\nallowed\nrefused\nrefused\n", "{log}");
        Ok(())
    })
}

fn listed_by_crictl(bed: &Bed) -> Outcome {
    with(bed, |cri| {
        let directory = bed.directory("configs")?;
        let mut config = cri.pod_config(json!({}))?;
        config["metadata"]["name"] = json!("made-by-crictl");
        let files = ["pod.json", "container.json"].map(|name| directory.join(name).display().to_string());
        std::fs::write(&files[0], config.to_string())?;
        let runtime = cri::handler(bed.runtime());
        let pod = cri.crictl(&["runp", "--runtime", runtime, &files[0]])?.ok()?.text().trim().to_owned();
        let made = Pod { cri, id: pod.clone(), config };
        std::fs::write(&files[1], made.container_config("one", "echo words; sleep 100000", json!({})).to_string())?;
        let id = cri.crictl(&["create", &pod, &files[1], &files[0]])?.ok()?.text().trim().to_owned();
        cri.crictl(&["start", &id])?.ok()?;
        cri.crictl(&["pods", "--no-trunc"])?.ok()?.says(&pod)?.says("made-by-crictl")?;
        cri.crictl(&["ps", "--no-trunc"])?.ok()?.says(&id)?.says("Running")?;
        cri.crictl(&["inspect", &id])?.ok()?.says("CONTAINER_RUNNING")?;
        cri.crictl(&["exec", "--sync", &id, "echo", "synchronous"])?.ok()?.says("synchronous\n")?;
        eventually(LIMIT, || cri.crictl(&["logs", &id])?.ok()?.says("words\n").map(drop))?;
        cri.crictl(&["stop", "--timeout", "0", &id])?.ok()?;
        cri.crictl(&["rm", &id])?.ok()?;
        cri.crictl(&["stopp", &pod])?.ok()?;
        cri.crictl(&["rmp", &pod])?.ok()?;
        cri.group_of(&made.config);
        cri.assert_nothing_of(&[pod, id])
    })
}
