//! The Task service on real containers, through its socket. Needs root; each test has a shim of its own.

mod bed;
mod look;
mod terminal;

use std::future::Future;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use containerd_shim_protos::api;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::ttrpc::{Code, context};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use bed::{Bed, code, is_mounted, limit, raw, reader, until, writer};

/// Go's zero time: for containerd's clients something that has not happened.
const YEAR_1: i64 = -62_135_596_800;

fn on_loop(test: impl Future<Output = ()>) {
    let all = async { tokio::time::timeout(Duration::from_secs(100), test).await.expect("the test hangs") };
    tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build().unwrap().block_on(all);
}

#[test]
fn one_life() {
    on_loop(async {
        let Some(bed) = Bed::new("life").await else { return };
        let id = bed.id("a");
        let output = bed.create(&id, "echo $(hostname) $$; exit 7").await;
        let rootfs = bed.path(&id).join("rootfs");
        assert!(is_mounted(&rootfs));
        let created = bed.state(&id, "").await.unwrap();
        assert_eq!(created.status.value(), 1);
        assert_eq!(created.stdout, bed.path(&format!("{id}.out")).display().to_string());
        assert_eq!(created.exited_at.seconds, YEAR_1, "no end");
        let second = code(bed.task.create(limit(), &bed_again(&created)).await.unwrap_err());
        assert_eq!(second.0, Code::ALREADY_EXISTS);

        let pid = bed.start(&id, "").await.unwrap();
        assert_eq!(pid, created.pid);
        assert_eq!(bed.wait(&id, "").await.unwrap(), 7);
        assert_eq!(bed.wait(&id, "").await.unwrap(), 7, "and again");
        let heard = bed.until_heard("exit a 7").await;
        assert_eq!(heard, ["create a", "start a", "exit a 7"]);
        let stopped = bed.state(&id, "").await.unwrap();
        assert_eq!((stopped.status.value(), stopped.exit_status, stopped.pid), (3, 7, pid));
        assert!(stopped.exited_at.seconds > 0, "{:?}", stopped.exited_at);
        assert_eq!(output.join().unwrap(), b"mini 1\n");

        let killed = code(bed.kill(&id, "", 15).await.unwrap_err());
        assert_eq!(killed, (Code::NOT_FOUND, "process already finished: not found".into()));
        let everybody = api::KillRequest { id: id.clone(), signal: 9, all: true, ..Default::default() };
        bed.task.kill(limit(), &everybody).await.unwrap();
        let started = code(bed.start(&id, "").await.unwrap_err());
        assert_eq!(started, (Code::UNKNOWN, "cannot start a stopped process".into()));
        let stats = bed.task.stats(limit(), &api::StatsRequest { id: id.clone(), ..Default::default() }).await.unwrap();
        assert!(stats.stats.type_url.starts_with("io.containerd.cgroups.v"), "{}", stats.stats.type_url);
        let pids = bed.task.pids(limit(), &api::PidsRequest { id: id.clone(), ..Default::default() }).await.unwrap();
        assert_eq!(pids.processes.iter().map(|p| p.pid).collect::<Vec<_>>(), [pid], "not an empty list");

        let deleted = bed.delete(&id, "").await.unwrap();
        assert_eq!((deleted.pid, deleted.exit_status), (pid, 7));
        assert_eq!(deleted.exited_at, stopped.exited_at);
        assert!(!is_mounted(&rootfs));
        assert_eq!(code(bed.state(&id, "").await.unwrap_err()).0, Code::NOT_FOUND);
        assert_eq!(code(bed.delete(&id, "").await.unwrap_err()).0, Code::NOT_FOUND);
        bed.until_heard("delete a").await;
        bed.shutdown().await;
        assert!(!bed.socket.exists(), "the socket goes before the answer comes");
        assert_eq!(bed.ended().await, 0, "{}", bed.log());
    });
}

fn bed_again(state: &api::StateResponse) -> api::CreateTaskRequest {
    api::CreateTaskRequest { id: state.id.clone(), bundle: state.bundle.clone(), ..Default::default() }
}

#[test]
fn starts_come_before_exits_however_short_the_life() {
    on_loop(async {
        let Some(bed) = Bed::new("short").await else { return };
        for n in 0..30 {
            let id = bed.id(&n.to_string());
            let _output = bed.create(&id, "exit 0").await;
            bed.start(&id, "").await.unwrap();
            assert_eq!(bed.wait(&id, "").await.unwrap(), 0);
            bed.delete(&id, "").await.unwrap();
            let heard = bed.until_heard(&format!("delete {n}")).await;
            let mine: Vec<_> = heard.iter().filter(|l| l.split(' ').nth(1) == Some(&n.to_string())).cloned().collect();
            assert_eq!(
                mine,
                [format!("create {n}"), format!("start {n}"), format!("exit {n} 0"), format!("delete {n}")]
            );
        }
    });
}

#[test]
fn execs() {
    on_loop(async {
        let Some(bed) = Bed::new("exec").await else { return };
        let id = bed.id("a");
        let _output = bed.create(&id, "sleep 100").await;
        bed.start(&id, "").await.unwrap();
        let output = bed.exec(&id, "e1", "echo in; exit 3").await.unwrap();
        assert_eq!(code(bed.exec(&id, "e1", "true").await.err().unwrap()).0, Code::ALREADY_EXISTS);
        assert_eq!(code(bed.kill(&id, "e1", 9).await.unwrap_err()).0, Code::FAILED_PRECONDITION);
        assert_eq!(code(bed.start(&id, "e9").await.unwrap_err()).0, Code::NOT_FOUND);
        let _output = bed.exec(&id, "never", "true").await.unwrap();
        let deleted = bed.delete(&id, "never").await.unwrap();
        assert_eq!((deleted.exit_status, deleted.exited_at.seconds), (0, YEAR_1));
        bed.start(&id, "e1").await.unwrap();
        assert_eq!(bed.wait(&id, "e1").await.unwrap(), 3);
        assert_eq!(output.join().unwrap(), b"in\n");
        assert_eq!(bed.delete(&id, "e1").await.unwrap().exit_status, 3);

        let mut started = Vec::new();
        for n in 0..40 {
            let exec = format!("m{n}");
            let _output = bed.exec(&id, &exec, "exit 4").await.unwrap();
            started.push(bed.start(&id, "").await.err().map(|_| exec).unwrap());
        }
        let starts = started.iter().map(|exec| bed.start(&id, exec));
        for pid in futures_of(starts).await {
            assert!(pid.unwrap() > 0);
        }
        for exec in &started {
            assert_eq!(bed.wait(&id, exec).await.unwrap(), 4);
            bed.delete(&id, exec).await.unwrap();
        }

        // An exec that outlives init's death by a moment: its exit is announced first.
        let _output = bed.exec(&id, "last", "sleep 100").await.unwrap();
        bed.start(&id, "last").await.unwrap();
        bed.kill(&id, "", 9).await.unwrap();
        assert_eq!(bed.wait(&id, "").await.unwrap(), 137);
        let heard = bed.until_heard("exit a 137").await;
        let at = |line: &str| heard.iter().position(|l| l == line).unwrap_or_else(|| panic!("{line} in {heard:?}"));
        assert!(at("exec-started last") < at("exit last 137") && at("exit last 137") < at("exit a 137"));
        let late = code(bed.start(&id, "last").await.unwrap_err());
        assert_eq!(late.0, Code::FAILED_PRECONDITION, "{late:?}");
        bed.delete(&id, "").await.unwrap();
    });
}

/// All at once, results in order.
async fn futures_of<T>(futures: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut pinned: Vec<_> = futures.map(|f| (Box::pin(f), None)).collect();
    std::future::poll_fn(|cx| {
        let mut open = false;
        for (future, result) in pinned.iter_mut().filter(|(_, r)| r.is_none()) {
            match future.as_mut().poll(cx) {
                std::task::Poll::Ready(value) => *result = Some(value),
                std::task::Poll::Pending => open = true,
            }
        }
        if open { std::task::Poll::Pending } else { std::task::Poll::Ready(()) }
    })
    .await;
    pinned.into_iter().filter_map(|(_, r)| r).collect()
}

#[test]
fn what_cannot_be_created_leaves_nothing() {
    on_loop(async {
        let Some(bed) = Bed::new("bad").await else { return };
        let id = bed.id("a");
        let request = bed.request(&id, "", |spec| spec["process"]["args"] = json!(["nothing-like-it"]));
        let (kind, text) = code(bed.task.create(limit(), &request).await.unwrap_err());
        let words = r#"OCI runtime create failed: exec: "nothing-like-it": executable file not found in $PATH"#;
        assert_eq!((kind, text.as_str()), (Code::UNKNOWN, words));
        assert!(!is_mounted(&bed.path(&id).join("rootfs")));
        let mut left: Vec<_> = std::fs::read_dir(bed.path(&id)).unwrap().map(|e| e.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["config.json", "rootfs"], "not the record, which was written while the process was prepared");
        assert_eq!(code(bed.delete(&id, "").await.unwrap_err()).0, Code::NOT_FOUND);

        let checkpoint = api::CreateTaskRequest { id: bed.id("b"), checkpoint: "/x".into(), ..Default::default() };
        assert_eq!(code(bed.task.create(limit(), &checkpoint).await.unwrap_err()).0, Code::UNIMPLEMENTED);
        let long = api::CreateTaskRequest { id: "x".repeat(1000), ..Default::default() };
        let (kind, text) = code(bed.task.create(limit(), &long).await.unwrap_err());
        assert!(kind == Code::INVALID_ARGUMENT && text.contains("longer than 255 bytes"), "{text}");
        let odd = bed.request(&bed.id("c"), "true", |spec| spec["process"]["args"] = json!("true"));
        let (_, text) = code(bed.task.create(limit(), &odd).await.unwrap_err());
        assert!(text.contains("/process/args"), "{text}");
        let mut nowhere = bed.request(&bed.id("d"), "true", |_| {});
        nowhere.stdout = "/no/such/fifo".into();
        let (_, text) = code(bed.task.create(limit(), &nowhere).await.unwrap_err());
        assert!(text.contains("/no/such/fifo"), "{text}");
        assert!(!is_mounted(&bed.path(&bed.id("d")).join("rootfs")));
        assert!(bed.heard().is_empty(), "{:?}", bed.heard());
        bed.shutdown().await;
        assert_eq!(bed.ended().await, 0);
    });
}

#[test]
fn a_create_that_hangs_hides_nothing_and_outlives_its_caller() {
    on_loop(async {
        let Some(bed) = Bed::new("hook").await else { return };
        let (slow, other) = (bed.id("slow"), bed.id("other"));
        let _output = bed.create(&other, "sleep 100").await;
        // The hook hangs until the test lets it go, so that "meanwhile" is no question of the machine's speed.
        let go = bed.path("go");
        let wait = format!("until test -e {}; do sleep 0.05; done", go.display());
        let request = bed.request(&slow, "exit 0", |spec| {
            spec["hooks"] = json!({ "createRuntime": [{ "path": "/bin/sh", "args": ["sh", "-c", wait] }] });
        });
        let gone = bed.task.create(context::with_duration(Duration::from_millis(300)), &request).await;
        assert!(gone.is_err());
        // containerd's list of tasks asks for the state of one after another, and gives each two seconds.
        assert!(bed.state(&slow, "").await.unwrap_err().to_string().contains("not found"));
        assert_eq!(bed.state(&other, "").await.unwrap().status.value(), 1);
        bed.start(&other, "").await.unwrap();
        assert!(!bed.heard().contains(&"create slow".to_owned()));
        std::fs::write(go, "").unwrap();
        bed.until_heard("create slow").await;
        assert_eq!(bed.state(&slow, "").await.unwrap().status.value(), 1);
        // Deleted without having run: killed, its exit announced, and only then gone.
        bed.delete(&slow, "").await.unwrap();
        let heard = bed.until_heard("delete slow").await;
        assert_eq!(heard.iter().filter(|l| l.contains("slow")).count(), 3, "{heard:?}");
        bed.kill(&other, "", 9).await.unwrap();
        bed.wait(&other, "").await.unwrap();
        bed.delete(&other, "").await.unwrap();
    });
}

/// As with containerd's own shim, whose runc dies when its caller gives up.
#[test]
fn delete_during_a_create_that_hangs_ends_it() {
    on_loop(async {
        let Some(bed) = Bed::new("doomed").await else { return };
        let id = bed.id("a");
        for hook in ["prestart", "createRuntime", "createContainer"] {
            let (begun, after) = (bed.path(&format!("begun-{hook}")), bed.path(&format!("after-{hook}")));
            let request = bed.request(&id, "exit 0", |spec| {
                let hangs = format!("echo $$ > {}; exec sleep 1000", begun.display());
                let ends = format!("echo > {}", after.display());
                spec["hooks"] = json!({
                    hook: [{ "path": "/bin/sh", "args": ["sh", "-c", hangs] }],
                    "poststop": [{ "path": "/bin/sh", "args": ["sh", "-c", ends] }],
                });
            });
            let _ = bed.task.create(context::with_duration(Duration::from_millis(100)), &request).await;
            until(|| begun.exists(), || format!("{hook} does not run: {}", bed.log())).await;
            let deleted = code(bed.delete(&id, "").await.unwrap_err());
            assert_eq!(deleted.0, Code::NOT_FOUND, "{hook}: {deleted:?}");
            assert!(after.exists(), "{hook}: its poststop hooks have not run");
            assert!(!is_mounted(&bed.path(&id).join("rootfs")), "{hook}");
            let hook_pid = std::fs::read_to_string(&begun).unwrap();
            if hook != "createContainer" {
                assert!(!std::path::Path::new(&format!("/proc/{}", hook_pid.trim())).exists(), "{hook} still runs");
            }
            for made in [id.clone(), format!("{id}.root")] {
                std::fs::remove_dir_all(bed.path(&made)).unwrap();
            }
        }
        // The id is free.
        let _output = bed.create(&id, "exit 3").await;
        bed.start(&id, "").await.unwrap();
        assert_eq!(bed.wait(&id, "").await.unwrap(), 3);
        bed.delete(&id, "").await.unwrap();
        let heard = bed.until_heard("delete a").await;
        assert_eq!(heard, ["create a", "start a", "exit a 3", "delete a"]);
        bed.shutdown().await;
        assert_eq!(bed.ended().await, 0);
    });
}

/// A containerd that starts deletes what has no processes yet, without a limit, and serves nobody before it has an answer.
#[test]
fn delete_during_a_create_that_cannot_be_ended_is_answered_and_undoes_it_later() {
    on_loop(async {
        let Some(bed) = Bed::new("stuck").await else { return };
        let id = bed.id("a");
        let go = bed.path("go");
        let wait = format!("until test -e {}; do sleep 0.05; done", go.display());
        let request = bed.request(&id, "exit 0", |spec| {
            let hook = |words: &str| json!([{ "path": "/bin/sh", "args": ["sh", "-c", words] }]);
            // What gives back what others have given has to come to its end.
            spec["hooks"] = json!({ "createRuntime": hook("exec sleep 1000"), "poststop": hook(&wait) });
        });
        let _ = bed.task.create(context::with_duration(Duration::from_millis(100)), &request).await;
        for _ in 0..2 {
            // By NotFound containerd would take the bundle away.
            let refused = bed.delete(&id, "").await.unwrap_err().to_string();
            assert!(refused.contains("still being created") && !refused.contains("NOT_FOUND"), "{refused}");
        }
        std::fs::write(go, "").unwrap();
        let rootfs = bed.path(&id).join("rootfs");
        until(|| !is_mounted(&rootfs), || "it is not undone".into()).await;
        let mut gone = false;
        while !gone {
            gone = code(bed.delete(&id, "").await.unwrap_err()).0 == Code::NOT_FOUND;
        }
        bed.shutdown().await;
        assert_eq!(bed.ended().await, 0);
    });
}

/// The kernel keeps signals from the first process of a pid namespace that has no handlers, as one has that only waits.
#[test]
fn a_signal_that_comes_before_the_program_is_not_lost() {
    on_loop(async {
        let Some(bed) = Bed::new("early").await else { return };
        let id = bed.id("created");
        let _output = bed.create(&id, "exec sleep 1000").await;
        bed.kill(&id, "", 28).await.unwrap();
        bed.kill(&id, "", 15).await.unwrap();
        assert_eq!(bed.wait(&id, "").await.unwrap(), 137);
        bed.delete(&id, "").await.unwrap();

        let id = bed.id("starting");
        let mut request = bed.request(&id, "exec sleep 1000", |spec| {
            // Here nobody keeps it from anybody, and it would end the start.
            spec["linux"]["namespaces"] = json!([{ "type": "mount" }, { "type": "uts" }]);
            spec["hooks"] = json!({ "startContainer": [{ "path": "/bin/sh", "args": ["sh", "-c", "sleep 1"] }] });
        });
        let (path, _output) = bed.fifo("out");
        request.stdout = path;
        bed.task.create(limit(), &request).await.unwrap();
        let killed = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            bed.kill(&id, "", 15).await
        };
        let (started, killed) = tokio::join!(bed.start(&id, ""), killed);
        started.unwrap();
        killed.unwrap();
        assert_eq!(bed.wait(&id, "").await.unwrap(), 143);
        bed.delete(&id, "").await.unwrap();
    });
}

#[test]
fn a_start_that_is_killed_says_so() {
    on_loop(async {
        let Some(bed) = Bed::new("killed").await else { return };
        for round in 0..10 {
            let id = bed.id(&format!("a{round}"));
            let mut request = bed.request(&id, "exit 0", |spec| {
                spec["hooks"] =
                    json!({ "startContainer": [{ "path": "/bin/sh", "args": ["sh", "-c", "sleep 1000"] }] });
            });
            let (path, _output) = bed.fifo(&format!("out{round}"));
            request.stdout = path;
            bed.task.create(limit(), &request).await.unwrap();
            let killed = async {
                tokio::time::sleep(Duration::from_millis(100)).await;
                bed.kill(&id, "", 9).await
            };
            let (started, killed) = tokio::join!(bed.start(&id, ""), killed);
            killed.unwrap();
            let said = started.unwrap_err().to_string();
            assert!(said.contains("killed by signal 9") || said.contains("has ended before"), "{said}");
            bed.wait(&id, "").await.unwrap();
            bed.delete(&id, "").await.unwrap();
        }
    });
}

#[test]
fn updates_are_made_one_after_another() {
    on_loop(async {
        let Some(bed) = Bed::new("updates").await else { return };
        let id = bed.id("a");
        let _output = bed.create(&id, "exec sleep 1000").await;
        bed.start(&id, "").await.unwrap();
        let update = |megabytes: u64| {
            let bytes = megabytes << 20;
            let mut request = api::UpdateTaskRequest { id: id.clone(), ..Default::default() };
            let resources = request.resources.mut_or_insert_default();
            resources.type_url = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources".into();
            resources.value = json!({ "memory": { "limit": bytes, "swap": bytes } }).to_string().into_bytes();
            request
        };
        for _ in 0..5 {
            let asked = (0..24).map(|n| {
                let request = update(if n % 2 == 0 { 100 } else { 300 });
                let task = bed.task.clone();
                async move { task.update(limit(), &request).await }
            });
            for answer in futures_of(asked).await {
                answer.unwrap();
            }
        }
        bed.kill(&id, "", 9).await.unwrap();
        bed.wait(&id, "").await.unwrap();
        bed.delete(&id, "").await.unwrap();
    });
}

/// The daemon blocks signals, has its first bundle for a directory, and says what it says to a log.
#[test]
fn hooks_see_nothing_of_the_daemon() {
    on_loop(async {
        let Some(bed) = Bed::new("hooks").await else { return };
        let (first, second) = (bed.id("a"), bed.id("b"));
        for id in [&first, &second] {
            let hooks = |when: &str| {
                let place = bed.path(&format!("{id}.{when}.place")).display().to_string();
                // A shell would clear its signal mask.
                let status = bed.path(&format!("{id}.{when}.status")).display().to_string();
                json!([
                    { "path": "/bin/sh", "args": ["sh", "-c", format!("{{ pwd; umask; }} >{place}")] },
                    { "path": "/bin/cp", "args": ["cp", "/proc/self/status", status] },
                ])
            };
            let request = bed.request(id, "exit 0", |spec| {
                spec["hooks"] = json!({ "createRuntime": hooks("before"), "poststop": hooks("after") });
            });
            bed.task.create(limit(), &request).await.unwrap();
            bed.start(id, "").await.unwrap();
            bed.wait(id, "").await.unwrap();
            bed.delete(id, "").await.unwrap();
            for when in ["before", "after"] {
                let read = |what: &str| std::fs::read_to_string(bed.path(&format!("{id}.{when}.{what}"))).unwrap();
                assert_eq!(read("place"), format!("{}\n0022\n", request.bundle));
                let none = format!("SigBlk:\t{}", "0".repeat(16));
                assert!(read("status").lines().any(|line| line == none), "{}", read("status"));
            }
        }
    });
}

/// The network that nerdctl attaches in createRuntime it detaches in poststop; containerd's `delete` follows every create
/// that has failed.
#[test]
fn poststop_hooks_of_a_failed_create_run_once() {
    on_loop(async {
        let Some(bed) = Bed::new("failed").await else { return };
        for (name, first) in [("a", "true"), ("b", "false")] {
            let (id, said) = (bed.id(name), bed.path(&format!("{name}.said")));
            let request = bed.request(&id, "exit 0", |spec| {
                let hook = |script: String| json!([{ "path": "/bin/sh", "args": ["sh", "-c", script] }]);
                let after = format!("cat >>{}", said.display());
                spec["hooks"] = json!({ "createRuntime": hook(first.into()), "poststop": hook(after) });
                spec["process"]["args"] = json!(["/nonexist"]);
            });
            bed.task.create(limit(), &request).await.unwrap_err();
            let told = || std::fs::read_to_string(&said).unwrap_or_default().matches(r#""status":"stopped""#).count();
            assert_eq!(told(), 1, "{name}");
            let program = env!("CARGO_BIN_EXE_containerd-shim-mini-v2");
            let words = ["-namespace", "ns", "-id", &id, "-address", "/x", "delete"];
            let deleted =
                std::process::Command::new(program).args(words).current_dir(&request.bundle).output().unwrap();
            assert!(deleted.status.success(), "{}", String::from_utf8_lossy(&deleted.stderr));
            assert_eq!(told(), 1, "{name}");
        }
        bed.shutdown().await;
        assert_eq!(bed.ended().await, 0);
    });
}

/// The limit of containerd's unit since systemd 240 where it says nothing of its own. The shim needs more; who counts on
/// select(2), or closes all there may be, does not.
#[test]
fn the_shim_raises_its_limit_of_files_and_nobody_elses() {
    on_loop(async {
        let limited = Bed::under(&["prlimit", "--nofile=1000:5000"], "files", &[]).await;
        let Some(bed) = limited else { return };
        let limit_of = |pid: u32| {
            let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
            let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
            line.split_whitespace().skip(3).take(2).collect::<Vec<_>>().join(" ")
        };
        let script = "echo $(ulimit -Sn) $(ulimit -Hn)";
        for (name, change) in [("a", None), ("b", Some("user")), ("c", Some("limit"))] {
            let id = bed.id(name);
            let told = |who: &str| bed.path(&format!("{id}.{who}")).display().to_string();
            // posix_spawn(3) cannot set limits: they come a moment later.
            let later = "n=0; while [ $(ulimit -Sn) = 5000 ] && [ $n -lt 100 ]; do sleep 0.1; n=$((n+1)); done";
            let hook = |who: &str| json!([{ "path": "/bin/sh", "args": ["sh", "-c", format!("{later}; {script} >{}", told(who))] }]);
            let mut request = bed.request(&id, "exec sleep 100", |spec| {
                spec["hooks"] = json!({ "createRuntime": hook("runtime"), "createContainer": hook("container") });
                match change {
                    Some("user") => {
                        spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({ "type": "user" }));
                        let map = json!([{ "containerID": 0, "hostID": 0, "size": 65536 }]);
                        (spec["linux"]["uidMappings"], spec["linux"]["gidMappings"]) = (map.clone(), map);
                    }
                    Some(_) => {
                        spec["process"]["rlimits"] = json!([{ "type": "RLIMIT_NOFILE", "soft": 77, "hard": 99 }])
                    }
                    None => {}
                }
            });
            let logger = format!("exec 5>&-; {later}; {script} >{}; cat <&3 >/dev/null", told("logger"));
            let logger: String = logger.bytes().map(|b| format!("%{b:02x}")).collect();
            request.stdout = format!("binary:///bin/sh?-c={logger}");
            let init = bed.task.create(limit(), &request).await.unwrap().pid;
            bed.start(&id, "").await.unwrap();
            let output = bed.exec(&id, "e", script).await.unwrap();
            bed.start(&id, "e").await.unwrap();
            bed.wait(&id, "e").await.unwrap();
            assert_eq!(limit_of(bed.shim), "5000 5000");
            let payload = if change == Some("limit") { "77 99" } else { "1000 5000" };
            assert_eq!(limit_of(init), payload, "{name}");
            assert_eq!(String::from_utf8(output.join().unwrap()).unwrap(), format!("{payload}\n"), "{name}");
            bed.kill(&id, "", 9).await.unwrap();
            bed.wait(&id, "").await.unwrap();
            bed.delete(&id, "").await.unwrap();
            for who in ["runtime", "container", "logger"] {
                assert_eq!(std::fs::read_to_string(told(who)).unwrap(), "1000 5000\n", "{who} of {name}");
            }
        }
    });
}

#[test]
fn pause_resume_and_death_in_the_ice() {
    on_loop(async {
        let Some(bed) = Bed::new("pause").await else { return };
        let id = bed.id("a");
        let _output = bed.create(&id, "sleep 100").await;
        let pause = api::PauseRequest { id: id.clone(), ..Default::default() };
        let early = code(bed.task.pause(limit(), &pause).await.unwrap_err());
        assert_eq!(early.1, "cannot pause task in created state");
        bed.start(&id, "").await.unwrap();
        bed.task.exec(limit(), &bed.exec_request(&id, "added", "exit 0")).await.unwrap();
        bed.task.pause(limit(), &pause).await.unwrap();
        assert_eq!(bed.state(&id, "").await.unwrap().status.value(), 4);
        let refused = code(bed.delete(&id, "").await.unwrap_err());
        assert_eq!(refused.1, "cannot delete a paused process");
        assert_eq!(code(bed.start(&id, "nobody").await.unwrap_err()).0, Code::NOT_FOUND);
        let refused = code(bed.start(&id, "added").await.unwrap_err());
        let words = "cannot exec in a paused container (use --ignore-paused to override)";
        assert_eq!(refused.1, format!("OCI runtime exec failed: exec failed: {words}"));
        let again = bed.task.exec(limit(), &bed.exec_request(&id, "added", "exit 0")).await;
        assert_eq!(code(again.unwrap_err()).0, Code::ALREADY_EXISTS);
        let resume = api::ResumeRequest { id: id.clone(), ..Default::default() };
        bed.task.resume(limit(), &resume).await.unwrap();
        assert_eq!(bed.state(&id, "").await.unwrap().status.value(), 2);
        bed.task.pause(limit(), &pause).await.unwrap();
        bed.kill(&id, "", 9).await.unwrap();
        assert_eq!(bed.wait(&id, "").await.unwrap(), 137);
        bed.delete(&id, "").await.unwrap();
        let heard = bed.until_heard("delete a").await;
        assert_eq!(
            heard,
            ["create a", "start a", "exec-added added", "paused a", "resumed a", "paused a", "exit a 137", "delete a"]
        );
    });
}

/// An administrator, a tool for backups.
#[test]
fn what_others_have_frozen_starts_nothing_and_can_be_killed() {
    use runtime::cgroup::{Layout, Place};
    on_loop(async {
        let Some(bed) = Bed::new("frost").await else { return };
        let (id, other) = (bed.id("a"), bed.id("b"));
        let _output = bed.create(&id, "exec sleep 1000").await;
        let _output = bed.create(&other, "exec sleep 1000").await;
        bed.start(&id, "").await.unwrap();
        bed.task.exec(limit(), &bed.exec_request(&id, "e", "exit 0")).await.unwrap();
        for id in [&id, &other] {
            let record = Layout::read().unwrap().place(&format!("/mini-test/{id}"), "").unwrap();
            let freezer = record.v1.iter().find(|place| place.controllers.iter().any(|c| c == "freezer"));
            let (dir, file, text) = match freezer {
                Some(place) => (Place::dir(place), "freezer.state", "FROZEN"),
                None => (record.unified.as_ref().unwrap().dir(), "cgroup.freeze", "1"),
            };
            std::fs::write(dir.join(file), text).unwrap();
        }
        let refused = code(bed.start(&id, "e").await.unwrap_err()).1;
        assert!(refused.ends_with("exec failed: cannot exec in a paused container (use --ignore-paused to override)"));
        let refused = code(bed.start(&other, "").await.unwrap_err()).1;
        assert_eq!(refused, "OCI runtime start failed: cannot start a container in the paused state");
        assert_eq!(bed.state(&other, "").await.unwrap().status.value(), 1);
        bed.delete(&other, "").await.unwrap();
        bed.kill(&id, "", 9).await.unwrap();
        assert_eq!(bed.wait(&id, "").await.unwrap(), 137);
        bed.delete(&id, "").await.unwrap();
    });
}

/// One that takes long is not to be left frozen because its client has given up.
#[test]
fn pause_and_resume_wait_for_each_other() {
    on_loop(async {
        let Some(bed) = Bed::new("turns").await else { return };
        let id = bed.id("a");
        let _output = bed.create(&id, "while :; do sleep 0.01 & wait; done").await;
        bed.start(&id, "").await.unwrap();
        let pause = api::PauseRequest { id: id.clone(), ..Default::default() };
        let resume = api::ResumeRequest { id: id.clone(), ..Default::default() };
        for _ in 0..20 {
            let (paused, resumed) = tokio::join!(bed.task.pause(limit(), &pause), bed.task.resume(limit(), &resume));
            paused.unwrap();
            resumed.unwrap();
        }
        assert_eq!(bed.state(&id, "").await.unwrap().status.value(), 2);
        bed.kill(&id, "", 9).await.unwrap();
        bed.wait(&id, "").await.unwrap();
        bed.delete(&id, "").await.unwrap();
    });
}

#[test]
fn orphans_in_a_shared_pid_namespace_die_with_init_and_are_reaped() {
    on_loop(async {
        let Some(bed) = Bed::new("hostpid").await else { return };
        let id = bed.id("a");
        let mut request = bed.request(&id, "(sleep 1000 &) ; (sleep 1001 &) ; exit 5", |spec| {
            spec["linux"]["namespaces"] = json!([{ "type": "mount" }, { "type": "uts" }]);
        });
        let (path, _output) = bed.fifo("out");
        request.stdout = path;
        bed.task.create(limit(), &request).await.unwrap();
        bed.start(&id, "").await.unwrap();
        assert_eq!(bed.wait(&id, "").await.unwrap(), 5);
        let children = || {
            let list = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", bed.shim)).unwrap();
            list.split_whitespace().count()
        };
        until(|| children() == 0, || "zombies or orphans stay".into()).await;
        bed.delete(&id, "").await.unwrap();
    });
}

/// A logger that does not read holds the announcement and nothing else.
#[test]
fn init_is_dead_before_its_output_is_read() {
    on_loop(async {
        let Some(bed) = Bed::new("unread").await else { return };
        let id = bed.id("a");
        let mut request = bed.request(&id, "sleep 1000 & echo words; exec sleep 100", |spec| {
            spec["linux"]["namespaces"] = json!([{ "type": "mount" }, { "type": "uts" }]);
        });
        let read = bed.path("read");
        let logger = format!("exec 5>&-; until test -e {}; do sleep 0.05; done; cat <&3", read.display());
        request.stdout =
            format!("binary:///bin/sh?-c={}", logger.replace(' ', "%20").replace('&', "%26").replace(';', "%3B"));
        bed.task.create(limit(), &request).await.unwrap();
        bed.start(&id, "").await.unwrap();
        bed.task.exec(limit(), &bed.exec_request(&id, "e", "exec sleep 100")).await.unwrap();
        // Long enough for its words.
        tokio::time::sleep(Duration::from_millis(300)).await;
        // Not by the shim, which would see to the others at once.
        let init = Pid::from_raw(bed.state(&id, "").await.unwrap().pid.cast_signed()).unwrap();
        kill_process(init, Signal::KILL).unwrap();
        let children = || {
            let list = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", bed.shim)).unwrap();
            list.split_whitespace().count()
        };
        until(|| children() == 1, || "more than the logger is left".into()).await;
        assert_eq!(code(bed.start(&id, "e").await.unwrap_err()).0, Code::FAILED_PRECONDITION);
        assert_eq!(bed.state(&id, "").await.unwrap().status.value(), 2);
        assert!(!bed.heard().contains(&"exit a 137".to_owned()), "nobody has read its words");
        std::fs::write(read, "").unwrap();
        assert_eq!(bed.wait(&id, "").await.unwrap(), 137);
        bed.delete(&id, "").await.unwrap();
    });
}

#[test]
fn an_oom_kill_is_told_before_the_exit() {
    on_loop(async {
        let Some(bed) = Bed::new("oom").await else { return };
        let id = bed.id("a");
        let request = bed.request(&id, "x=$(head -c 200000000 /dev/zero | tr '\\0' x); echo ${#x}", |spec| {
            spec["linux"]["resources"] = json!({ "memory": { "limit": 20_000_000, "swap": 20_000_000 } });
        });
        bed.task.create(limit(), &request).await.unwrap();
        bed.start(&id, "").await.unwrap();
        let status = bed.wait(&id, "").await.unwrap();
        let heard = bed.until_heard(&format!("exit a {status}")).await;
        let oom = heard.iter().position(|l| l == "oom a");
        assert!(oom.is_some_and(|n| n < heard.len() - 1), "{heard:?}");
        bed.delete(&id, "").await.unwrap();
    });
}

#[test]
fn both_names_of_the_service_and_none_of_the_sandbox() {
    on_loop(async {
        let Some(bed) = Bed::new("names").await else { return };
        let request = api::ConnectRequest { id: "nobody".into(), ..Default::default() };
        for service in ["containerd.task.v2.Task", "containerd.task.v3.Task"] {
            let answer: api::ConnectResponse = raw(&bed.client, service, "Connect", &request).await.unwrap();
            assert_eq!((answer.shim_pid, answer.task_pid), (bed.shim, 0));
        }
        let service = "containerd.runtime.sandbox.v1.Sandbox";
        let sandbox = raw::<_, api::Empty>(&bed.client, service, "CreateSandbox", &request).await;
        assert_eq!(code(sandbox.unwrap_err()).0, Code::UNIMPLEMENTED);
    });
}

#[test]
fn garbage_on_one_connection_disturbs_no_other() {
    on_loop(async {
        let Some(bed) = Bed::new("garbage").await else { return };
        let id = bed.id("a");
        let _output = bed.create(&id, "sleep 100").await;
        for junk in [&b"\xff\xff\xff\xff\0\0\0\x01\x01\0"[..], b"\0\0\0\x04\0\0\0\x01\x01\0junk", &[0x41; 5000], b""] {
            let mut stream = UnixStream::connect(&bed.socket).unwrap();
            let _ = stream.write_all(junk);
        }
        assert_eq!(bed.state(&id, "").await.unwrap().status.value(), 1);
        bed.shutdown().await;
        assert_eq!(bed.state(&id, "").await.unwrap().status.value(), 1, "shutdown waits for containers");
        bed.delete(&id, "").await.unwrap();
    });
}

#[test]
fn stdin_through_and_back() {
    on_loop(async {
        let Some(bed) = Bed::new("stdin").await else { return };
        let id = bed.id("a");
        let mut request = bed.request(&id, "exec cat", |_| {});
        let (out, output) = bed.fifo("out");
        let input = bed.bare_fifo("in");
        (request.stdin, request.stdout) = (input.display().to_string(), out);
        bed.task.create(limit(), &request).await.unwrap();
        bed.start(&id, "").await.unwrap();
        let data: Vec<u8> = (0..8 << 20).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let sent = data.clone();
        std::thread::spawn(move || {
            std::fs::File::options().write(true).open(input).unwrap().write_all(&sent).unwrap();
        });
        tokio::time::sleep(Duration::from_millis(300)).await;
        bed.close_stdin(&id, "").await.unwrap();
        assert_eq!(bed.wait(&id, "").await.unwrap(), 0);
        assert!(output.join().unwrap() == data);
        bed.delete(&id, "").await.unwrap();
    });
}

/// As long as nobody has a terminal open its master says EIO, and that is not yet its end.
#[test]
fn a_process_may_close_its_terminal_and_open_it_again() {
    on_loop(async {
        let Some(bed) = Bed::new("tty").await else { return };
        let id = bed.id("a");
        let again = "echo one; exec </dev/null >/dev/null 2>&1; sleep 0.5; echo two >/dev/console && sleep 0.5; \
                     echo three >/dev/console; exec sleep 1.5";
        let mut request = bed.request(&id, again, |spec| spec["process"]["terminal"] = json!(true));
        let (out, output) = bed.fifo("out");
        (request.stdout, request.terminal) = (out, true);
        bed.task.create(limit(), &request).await.unwrap();
        bed.start(&id, "").await.unwrap();

        let mut request = bed.exec_request(&id, "e", "echo hi; exec sleep 0.5 </dev/null >/dev/null 2>&1");
        let (out, said) = bed.fifo("e.out");
        (request.stdout, request.terminal) = (out, true);
        bed.task.exec(limit(), &request).await.unwrap();
        bed.start(&id, "e").await.unwrap();
        assert_eq!(bed.wait(&id, "e").await.unwrap(), 0, "it was hung up");
        assert_eq!(said.join().unwrap(), b"hi\r\n");

        assert_eq!(bed.wait(&id, "").await.unwrap(), 0);
        assert_eq!(String::from_utf8(output.join().unwrap()).unwrap(), "one\r\ntwo\r\nthree\r\n");
        bed.delete(&id, "").await.unwrap();
    });
}

#[test]
fn delete_does_not_wait_for_ever_for_somebody_in_the_rootfs() {
    on_loop(async {
        let Some(bed) = Bed::new("busy").await else { return };
        let id = bed.id("a");
        let _output = bed.create(&id, "true").await;
        bed.start(&id, "").await.unwrap();
        bed.wait(&id, "").await.unwrap();
        let rootfs = bed.path(&id).join("rootfs");
        let mut shell = std::process::Command::new("sleep").arg("60").current_dir(&rootfs).spawn().unwrap();
        let deleted = bed.delete(&id, "").await;
        shell.kill().unwrap();
        shell.wait().unwrap();
        deleted.unwrap();
        assert!(!is_mounted(&rootfs));
        assert!(bed.log().contains("still busy"), "{}", bed.log());
        bed.until_heard("delete a").await;
    });
}

/// containerd's example in Rust passes a plain file; others pass /dev/null. Nobody calls CloseIO, or somebody does.
#[test]
fn stdin_may_be_a_file_or_a_device() {
    on_loop(async {
        let Some(bed) = Bed::new("file").await else { return };
        let data: Vec<u8> = (0..300 << 10).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let given = bed.path("given");
        std::fs::write(&given, &data).unwrap();
        for (name, stdin, wanted) in [("a", given.as_path(), data.as_slice()), ("b", "/dev/null".as_ref(), b"")] {
            let id = bed.id(name);
            let mut request = bed.request(&id, "cat; exec sleep 100", |_| {});
            let (out, output) = bed.fifo(&format!("{name}.out"));
            (request.stdin, request.stdout) = (stdin.display().to_string(), out);
            bed.task.create(limit(), &request).await.unwrap();
            bed.start(&id, "").await.unwrap();
            assert_eq!(bed.state(&id, "").await.unwrap().stdin, request.stdin);

            let mut exec = bed.exec_request(&id, "e", "exec cat");
            let (out, exec_output) = bed.fifo(&format!("{name}.e.out"));
            (exec.stdin, exec.stdout) = (request.stdin, out);
            bed.task.exec(limit(), &exec).await.unwrap();
            bed.start(&id, "e").await.unwrap();
            bed.close_stdin(&id, "e").await.unwrap();
            assert_eq!(bed.wait(&id, "e").await.unwrap(), 0);
            assert!(exec_output.join().unwrap() == wanted);
            bed.delete(&id, "e").await.unwrap();

            // One that reads nothing does not hold its own end up.
            (exec.exec_id, exec.stdout) = ("deaf".into(), String::new());
            exec.spec = bed.exec_request(&id, "deaf", "exec sleep 100").spec;
            bed.task.exec(limit(), &exec).await.unwrap();
            bed.start(&id, "deaf").await.unwrap();
            bed.kill(&id, "deaf", 9).await.unwrap();
            assert_eq!(bed.wait(&id, "deaf").await.unwrap(), 137);
            bed.delete(&id, "deaf").await.unwrap();

            // Its own `cat` has copied all.
            let comm = format!("/proc/{}/comm", bed.state(&id, "").await.unwrap().pid);
            let copied = || std::fs::read_to_string(&comm).is_ok_and(|name| name == "sleep\n");
            until(copied, || "it still copies".into()).await;
            bed.kill(&id, "", 9).await.unwrap();
            assert_eq!(bed.wait(&id, "").await.unwrap(), 137);
            bed.delete(&id, "").await.unwrap();
            assert!(output.join().unwrap() == wanted);
        }
    });
}

/// nerdctl's order: what it has read is written, its end closed, the task looked up by State, CloseIO called, each of it once.
#[test]
fn a_client_may_be_done_with_stdin_as_soon_as_it_can_be_opened() {
    on_loop(async {
        let Some(bed) = Bed::new("early").await else { return };
        let id = bed.id("a");
        let mut request = bed.request(&id, "exec cat", |spec| {
            spec["hooks"] = json!({ "createRuntime": [{ "path": "/bin/sh", "args": ["sh", "-c", "sleep 1"] }] });
        });
        let (out, output) = bed.fifo("out");
        let input = bed.bare_fifo("in");
        (request.stdin, request.stdout) = (input.display().to_string(), out);
        let written = writer(input, b"hi");
        let client = async {
            written.await.unwrap();
            bed.state(&id, "").await.unwrap();
            bed.close_stdin(&id, "").await.unwrap();
        };
        let context = limit();
        let (created, ()) = tokio::join!(bed.task.create(context, &request), client);
        created.unwrap();
        bed.start(&id, "").await.unwrap();
        assert_eq!(bed.wait(&id, "").await.unwrap(), 0);
        assert_eq!(output.join().unwrap(), b"hi");
        bed.delete(&id, "").await.unwrap();
    });
}

/// One that had nothing to write comes before it is made.
#[test]
fn state_waits_until_the_container_is_made_or_cannot_be() {
    on_loop(async {
        let Some(bed) = Bed::new("asked").await else { return };
        for (name, script, made) in [("a", "sleep 0.5", true), ("b", "sleep 0.5; exit 1", false)] {
            let id = bed.id(name);
            let request = bed.request(&id, "exit 0", |spec| {
                spec["hooks"] = json!({ "createRuntime": [{ "path": "/bin/sh", "args": ["sh", "-c", script] }] });
            });
            let asked = async {
                tokio::time::sleep(Duration::from_millis(200)).await;
                bed.state(&id, "").await
            };
            let (created, state) = tokio::join!(bed.task.create(limit(), &request), asked);
            assert_eq!(created.is_ok(), made, "{created:?}");
            if made {
                let state = state.unwrap();
                assert_eq!((state.status.value(), state.pid), (1, created.unwrap().pid));
                bed.delete(&id, "").await.unwrap();
            } else {
                assert_eq!(code(state.unwrap_err()).0, Code::NOT_FOUND);
            }
        }
    });
}

/// A client that comes first is counted as a writer while its open(2) waits, and so is not cut off.
#[test]
fn stdin_that_is_closed_before_there_is_a_process_ends_with_its_client() {
    on_loop(async {
        let Some(bed) = Bed::new("closed").await else { return };
        let id = bed.id("a");
        let mut request = bed.request(&id, "cat; exec sleep 100", |spec| {
            spec["hooks"] = json!({ "createRuntime": [{ "path": "/bin/sh", "args": ["sh", "-c", "sleep 1"] }] });
        });
        let (out, output) = bed.fifo("out");
        let input = bed.bare_fifo("in");
        (request.stdin, request.stdout) = (input.display().to_string(), out);
        let written = writer(input, b"hi");
        let early = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            bed.close_stdin(&id, "").await.unwrap();
        };
        let (created, ()) = tokio::join!(bed.task.create(limit(), &request), early);
        created.unwrap();
        bed.start(&id, "").await.unwrap();
        written.await.unwrap();

        for (exec, text) in [("added", ""), ("starting", "hello")] {
            let mut request = bed.exec_request(&id, exec, "cat; echo ended");
            let (out, input) = (bed.bare_fifo(&format!("{exec}.out")), bed.bare_fifo(&format!("{exec}.in")));
            (request.stdin, request.stdout) = (input.display().to_string(), out.display().to_string());
            bed.task.exec(limit(), &request).await.unwrap();
            let written = writer(input, text.as_bytes());
            if exec == "added" {
                bed.close_stdin(&id, exec).await.unwrap();
            }
            // It is not started before a client reads its output.
            let client = async {
                tokio::time::sleep(Duration::from_millis(300)).await;
                if exec == "starting" {
                    bed.close_stdin(&id, exec).await.unwrap();
                }
                reader(out)
            };
            let (started, output) = tokio::join!(bed.start(&id, exec), client);
            started.unwrap();
            assert_eq!(bed.wait(&id, exec).await.unwrap(), 0);
            assert_eq!(String::from_utf8(output.join().unwrap()).unwrap(), format!("{text}ended\n"));
            written.await.unwrap();
        }
        bed.kill(&id, "", 9).await.unwrap();
        assert_eq!(bed.wait(&id, "").await.unwrap(), 137);
        assert_eq!(output.join().unwrap(), b"hi");
        bed.delete(&id, "").await.unwrap();
    });
}

/// Starts an exec that waits for a reader of its stdout, who comes after something was asked; the answer to that.
async fn while_it_starts<T>(bed: &Bed, id: &str, exec: &str, out: PathBuf, then: impl Future<Output = T>) -> T {
    let asked = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        then.await
    };
    let later = async {
        tokio::time::sleep(Duration::from_millis(700)).await;
        let _output = reader(out);
    };
    let (started, answer, ()) = tokio::join!(bed.start(id, exec), asked, later);
    assert_eq!(started.is_ok(), exec != "nothing", "{started:?}");
    answer
}

#[test]
fn what_is_asked_of_an_exec_that_is_being_started_is_done_when_it_runs() {
    on_loop(async {
        let Some(bed) = Bed::new("starting").await else { return };
        let id = bed.id("a");
        let _output = bed.create(&id, "exec sleep 100").await;
        bed.start(&id, "").await.unwrap();

        let out = bed.slow_exec(&id, "killed", "exec sleep 100").await;
        while_it_starts(&bed, &id, "killed", out, bed.kill(&id, "killed", 15)).await.unwrap();
        assert_eq!(bed.wait(&id, "killed").await.unwrap(), 143);

        let mut request = bed.exec_request(&id, "sized", "until test \"$(stty size)\" = '33 77'; do sleep 0.1; done");
        let out = bed.bare_fifo("sized.out");
        (request.stdout, request.terminal) = (out.display().to_string(), true);
        bed.task.exec(limit(), &request).await.unwrap();
        let mut size = api::ResizePtyRequest { id: id.clone(), exec_id: "sized".into(), ..Default::default() };
        (size.width, size.height) = (77, 33);
        while_it_starts(&bed, &id, "sized", out, bed.task.resize_pty(limit(), &size)).await.unwrap();
        assert_eq!(bed.wait(&id, "sized").await.unwrap(), 0);

        // A client whose Start took too long knows no pid to kill.
        let out = bed.slow_exec(&id, "deleted", "exec sleep 100").await;
        let deleted = while_it_starts(&bed, &id, "deleted", out, bed.delete(&id, "deleted")).await.unwrap();
        assert_eq!(deleted.exit_status, 137);
        assert_eq!(code(bed.state(&id, "deleted").await.unwrap_err()).0, Code::NOT_FOUND);
        let heard = bed.until_heard("exit deleted 137").await;
        assert!(heard.contains(&"exec-started deleted".to_owned()), "{heard:?}");
        let pids = bed.task.pids(limit(), &api::PidsRequest { id: id.clone(), ..Default::default() }).await.unwrap();
        assert_eq!(pids.processes.len(), 1, "{pids:?}");

        // One that cannot be started: nobody waits for ever.
        for ask in ["kill", "delete"] {
            let mut request = bed.exec_request(&id, "nothing", "");
            let spec = json!({ "user": { "uid": 0, "gid": 0 }, "cwd": "/", "args": ["/no/such"], "env": [] });
            request.spec.as_mut().unwrap().value = spec.to_string().into_bytes();
            let out = bed.bare_fifo(&format!("{ask}.out"));
            request.stdout = out.display().to_string();
            bed.task.exec(limit(), &request).await.unwrap();
            if ask == "kill" {
                let killed = while_it_starts(&bed, &id, "nothing", out, bed.kill(&id, "nothing", 15)).await;
                assert_eq!(code(killed.unwrap_err()).0, Code::FAILED_PRECONDITION);
                bed.delete(&id, "nothing").await.unwrap();
            } else {
                while_it_starts(&bed, &id, "nothing", out, bed.delete(&id, "nothing")).await.unwrap();
            }
            assert_eq!(code(bed.state(&id, "nothing").await.unwrap_err()).0, Code::NOT_FOUND);
        }

        // Nor when the shim is told to go.
        let _nobody_reads = bed.slow_exec(&id, "last", "exec sleep 100").await;
        let end = async {
            let gone = async {
                tokio::time::sleep(Duration::from_millis(100)).await;
                runtime::reap::signal(&bed.pidfd, 15).unwrap();
            };
            tokio::join!(bed.kill(&id, "last", 15), gone).0
        };
        let early = async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            end.await
        };
        let (started, killed) = tokio::join!(bed.start(&id, "last"), early);
        assert!(started.is_err() && killed.is_err());
        assert_eq!(bed.ended().await, 0);
    });
}

/// `runtimeoptions.v1.Options` with a config_path, field 2.
fn options_in(path: &std::path::Path) -> Any {
    let path = path.to_str().unwrap();
    let value = [&[0x12, u8::try_from(path.len()).unwrap()], path.as_bytes()].concat();
    Any { type_url: "runtimeoptions.v1.Options".into(), value, ..Any::default() }
}

#[test]
fn options_in_a_file_hold_up_nobody() {
    on_loop(async {
        let Some(bed) = Bed::new("options").await else { return };
        let id = bed.id("a");
        let mut request = bed.request(&id, "exec sleep 1000", |_| {});
        request.options = Some(options_in(&bed.bare_fifo("fifo"))).into();
        let refused = tokio::time::timeout(Duration::from_secs(4), bed.task.create(limit(), &request)).await;
        let (kind, text) = code(refused.expect("it waits for a writer").unwrap_err());
        assert!(kind == Code::INVALID_ARGUMENT && text.contains("not a regular file"), "{text}");
        std::fs::write(bed.path("toml"), "NoNewKeyring = true\n").unwrap();
        request.options = Some(options_in(&bed.path("toml"))).into();
        bed.task.create(limit(), &request).await.unwrap();
        bed.delete(&id, "").await.unwrap();
    });
}

#[test]
fn a_shim_that_ends_takes_no_more_containers() {
    on_loop(async {
        let Some(bed) = Bed::new("leaving").await else { return };
        // Its end waits for its last events to be heard.
        let deaf = bed.deaf.lock().await;
        let _output = bed.create(&bed.id("a"), "true").await;
        bed.delete(&bed.id("a"), "").await.unwrap();
        bed.shutdown().await;
        let late = bed.request(&bed.id("b"), "exec sleep 1000", |_| {});
        let refused = code(bed.task.create(limit(), &late).await.unwrap_err());
        assert_eq!(refused, (Code::UNAVAILABLE, "the shim is shutting down: unavailable".into()));
        drop(deaf);
        assert_eq!(bed.ended().await, 0);
    });
}
