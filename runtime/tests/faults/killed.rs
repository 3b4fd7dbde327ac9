//! Who is killed instead of failing: the child at its gates, while it is parked and at any other moment, and its parent.

use std::io::{BufRead, BufReader};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use libtest_mimic::{Failed, Trial};
use runtime::cgroup::Cgroup;
use runtime::{Container, Kind};
use serde_json::{Value, json};

use super::bundle::{self, Bundle, ended, run};
use super::census::Census;
use super::{roles, watchdog};

type Test = fn() -> Result<(), Failed>;

/// Adds the tests.
pub fn trials(trials: &mut Vec<Trial>) {
    let tests: [(&str, Test); 6] = [
        ("at_the_hooks_gate", at_the_hooks_gate),
        ("while_parked", while_parked),
        ("at_any_moment", at_any_moment),
        ("parent_of_a_parked_child", parent_of_a_parked_child),
        ("parent_in_a_hook", parent_in_a_hook),
        ("hooks_that_fail", hooks_that_fail),
    ];
    trials.extend(tests.map(|(name, test)| {
        Trial::test(format!("killed::{name}"), move || {
            watchdog::alive(name);
            test()
        })
    }));
}

fn nothing_left(bundle: &Bundle, before: &Census) -> Result<(), Failed> {
    let left = Census::take(bundle).since(before);
    if left.is_empty() { Ok(()) } else { Err(format!("left behind: {left:#?}").into()) }
}

/// A bundle whose groups' parent is there already, and what there is before anything happens.
fn fresh(name: &str) -> (Bundle, Census) {
    let (host, bundle) = (bundle::host(), Bundle::new(name, 0));
    assert_eq!(run(&host, bundle.create(&bundle.spec(&json!({})))).unwrap(), 7);
    bundle.restore();
    let before = Census::take(&bundle);
    (bundle, before)
}

/// A hook of the bundle's busybox.
fn hook(bundle: &Bundle, script: &str) -> Value {
    json!([{"path": bundle.dir.join("rootfs/bin/busybox"), "args": ["sh", "-c", script]}])
}

fn at_the_hooks_gate() -> Result<(), Failed> {
    let (host, (bundle, before)) = (bundle::host(), fresh("hooks-gate"));
    let kill = hook(&bundle, r#"read s; p=${s#*\"pid\":}; kill -9 ${p%%,*}"#);
    let error = run(&host, bundle.create(&bundle.spec(&json!({"hooks": {"createRuntime": kill}})))).unwrap_err();
    assert_eq!((error.to_string().as_str(), error.kind), (r#"/hooks: gate "hooks": killed by signal 9"#, Kind::Killed));
    nothing_left(&bundle, &before)
}

fn while_parked() -> Result<(), Failed> {
    let (host, (bundle, before)) = (bundle::host(), fresh("parked"));
    let spec = bundle.spec(&json!({}));
    let (container, child) = Container::create(&host, bundle.create(&spec)).unwrap();
    container.signal(libc::SIGKILL).unwrap();
    let error = container.start().unwrap_err();
    assert_eq!((error.to_string().as_str(), error.kind), (r#"gate "start": killed by signal 9"#, Kind::Killed));
    assert_eq!(ended(&child.pidfd), 128 + 9);
    assert_eq!(container.start().unwrap_err().kind, Kind::State);
    container.delete().unwrap();
    drop((container, child));
    // Deleted without having been started.
    let (container, child) = Container::create(&host, bundle.create(&spec)).unwrap();
    container.delete().unwrap();
    ended(&child.pidfd);
    drop((container, child));
    nothing_left(&bundle, &before)
}

/// Kills our children as they come, each a little later than the one before.
fn at_any_moment() -> Result<(), Failed> {
    let (host, (bundle, before)) = (bundle::host(), fresh("any-moment"));
    let spec = bundle.spec(&json!({"hooks": {"createRuntime": hook(&bundle, "exit 0")}}));
    let (mut killed, mut lived) = (0, 0);
    for round in 0..120u64 {
        watchdog::alive(&format!("at any moment {round}"));
        let stop = AtomicBool::new(false);
        let outcome = std::thread::scope(|scope| {
            scope.spawn(|| {
                let us = std::process::id().to_string();
                while !stop.load(Ordering::Relaxed) {
                    if let Some(pid) = super::census::first_child(&us) {
                        std::thread::sleep(Duration::from_micros(round * 40));
                        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                        return;
                    }
                }
            });
            let outcome = run(&host, bundle.create(&spec));
            stop.store(true, Ordering::Relaxed);
            outcome
        });
        match outcome {
            Ok(7) => lived += 1,
            Ok(137) => killed += 1,
            Ok(status) => return Err(format!("round {round}: exits with {status}").into()),
            Err(e) if e.kind == Kind::Killed || e.to_string().contains("signal: 9") => killed += 1,
            Err(e) => return Err(format!("round {round}: {e}").into()),
        }
        bundle.restore();
        nothing_left(&bundle, &before)?;
    }
    println!("{killed} killed, {lived} lived");
    assert!(killed > 3, "only {killed} of 120 were killed");
    Ok(())
}

/// Waits for an orphan of ours to end by itself.
fn orphan_ends(pid: i32) -> Result<(), Failed> {
    let begin = Instant::now();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    while begin.elapsed() < Duration::from_secs(10) {
        if rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::NOHANG).unwrap().is_some() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Err("the child outlives its parent".into())
}

/// What a dead parent could not undo: its group. A new create takes the empty one over.
fn take_over(bundle: &Bundle) {
    let layout = bundle::host().cgroup;
    Cgroup::create(&layout, &format!("{}/c", bundle.group), "c").unwrap().remove().unwrap();
    std::fs::remove_file(bundle.dir.join("config.json")).unwrap();
}

fn parent_of_a_parked_child() -> Result<(), Failed> {
    let (bundle, before) = fresh("dead-parent");
    let mut parent = roles::start(&[], "parent", &bundle, &bundle.spec(&json!({})));
    let mut line = String::new();
    BufReader::new(parent.stdout.take().unwrap()).read_line(&mut line).unwrap();
    parent.kill().unwrap();
    parent.wait().unwrap();
    orphan_ends(line.trim().parse().unwrap())?;
    take_over(&bundle);
    drop(parent);
    bundle.restore();
    nothing_left(&bundle, &before)
}

fn parent_in_a_hook() -> Result<(), Failed> {
    let (bundle, before) = fresh("dead-in-hook");
    let pid = bundle.dir.join("volume/pid");
    let script = format!(
        r#"read s; p=${{s#*\"pid\":}}; echo ${{p%%,*}} > {0}.new; mv {0}.new {0}; exec sleep 1"#,
        pid.display()
    );
    let spec = bundle.spec(&json!({"hooks": {"createRuntime": hook(&bundle, &script)}}));
    let mut parent = roles::start(&[], "parent", &bundle, &spec);
    let begin = Instant::now();
    while !pid.exists() && begin.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(5));
    }
    parent.kill().unwrap();
    parent.wait().unwrap();
    let child = std::fs::read_to_string(&pid)?.trim().parse()?;
    std::fs::remove_file(&pid)?;
    orphan_ends(child)?;
    // The hook is an orphan too; nobody ends it but itself.
    while rustix::process::wait(rustix::process::WaitOptions::empty()).is_ok() {}
    take_over(&bundle);
    drop(parent);
    bundle.restore();
    nothing_left(&bundle, &before)
}

/// Hooks outside the plan's steps: what they fail with, and that nothing is left then either.
fn hooks_that_fail() -> Result<(), Failed> {
    let (host, (bundle, before)) = (bundle::host(), fresh("failing-hooks"));
    let table = [
        ("prestart", "exit 3", r#"/hooks/prestart/0: hook "BUSYBOX": failed: exit status: 3"#),
        (
            "prestart",
            "echo out; echo no such driver >&2; exit 3",
            "/hooks/prestart/0: hook \"BUSYBOX\": failed: exit status: 3, it said: out\nno such driver",
        ),
        ("createRuntime", "kill -15 $$", r#"/hooks/createRuntime/0: hook "BUSYBOX": failed: signal: 15 (SIGTERM)"#),
        (
            "createRuntime",
            "exec sleep 30",
            r#"/hooks/createRuntime/0: hook "BUSYBOX": ran past specified timeout of 1s"#,
        ),
        ("createContainer", "exit 4", r#"/hooks/createContainer/0: hook "BUSYBOX" failed: exit status 4"#),
        (
            "createContainer",
            "exec sleep 30",
            r#"/hooks/createContainer/0: hook "BUSYBOX" ran past specified timeout of 1s"#,
        ),
        ("startContainer", "exit 5", r#"/hooks/startContainer/0: hook "/bin/busybox" failed: exit status 5"#),
        ("poststart", "exit 6", r#"/hooks/poststart/0: hook "BUSYBOX": failed: exit status: 6"#),
    ];
    let busybox = bundle.dir.join("rootfs/bin/busybox").display().to_string();
    for (name, script, sentence) in table {
        let path = if name == "startContainer" { "/bin/busybox" } else { &busybox };
        let timeout = if script.contains("sleep 30") { 1 } else { 60 };
        let hooks = json!({name: [{"path": path, "args": ["sh", "-c", script], "timeout": timeout}]});
        let patch = json!({"hooks": hooks, "process": {"args": ["sleep", "100"]}});
        let error = run(&host, bundle.create(&bundle.spec(&patch))).unwrap_err().to_string();
        assert_eq!(error.replace(&busybox, "BUSYBOX"), sentence);
        bundle.restore();
        nothing_left(&bundle, &before)?;
    }
    Ok(())
}
