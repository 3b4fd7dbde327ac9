//! A group that `cgroup.kill` was once written to: the kernel kills at birth whoever is cloned into it (docs/kernel.md).

use libtest_mimic::Failed;
use runtime::Container;
use runtime::cgroup::{Cgroup, Layout};
use runtime::spec::Process;
use serde_json::json;

use super::bundle::{self, Bundle, Running, ended, run};

pub const TESTS: &[super::Test] = &[
    ("group::used_and_killed_before", used_and_killed_before),
    ("group::exec_where_a_clone_is_killed_at_birth", exec_where_a_clone_is_killed_at_birth),
    ("group::exec_in_a_group_below_that_was_killed", exec_in_a_group_below_that_was_killed),
    ("group::exec_in_a_group_that_takes_nobody", exec_in_a_group_that_takes_nobody),
];

/// Makes an empty group of the bundle and kills it. (Where there is no version 2 tree, there is nothing to it.)
fn killed(path: &str) {
    let layout = Layout::read().unwrap();
    if let Some(place) = Cgroup::create(&layout, path, "").unwrap().record().unified {
        std::fs::write(place.dir().join("cgroup.kill"), "1").unwrap();
    }
}

fn process(script: &str) -> Process {
    serde_json::from_value(json!({"args": ["sh", "-c", script], "cwd": "/", "env": ["PATH=/bin"]})).unwrap()
}

fn used_and_killed_before() -> Result<(), Failed> {
    let bundle = Bundle::new("used", 0);
    killed(&format!("{}/c", bundle.group));
    assert_eq!(run(&bundle::host(), bundle.create(&bundle.spec(&json!({}))))?, 7);
    Ok(())
}

fn exec_where_a_clone_is_killed_at_birth() -> Result<(), Failed> {
    let (host, bundle) = (bundle::host(), Bundle::new("used-exec", 0));
    killed(&format!("{}/c", bundle.group));
    let running = Running::new(&host, &bundle, &json!({}));
    // Neither who made it nor who opens it later knows of the group's past any more.
    std::fs::write(bundle.dir.join("config.json"), serde_json::to_vec(&bundle.json(&json!({})))?)?;
    let opened = Container::open(&host, &running.container.record()?)?;
    for container in [&running.container, &opened] {
        let process = process("exit 5");
        let child = container.exec(&host, Running::exec(&process))?;
        assert_eq!(ended(&child.pidfd), 5);
    }
    Ok(())
}

fn exec_in_a_group_below_that_was_killed() -> Result<(), Failed> {
    let (host, bundle) = (bundle::host(), Bundle::new("below", 0));
    let running = Running::new(&host, &bundle, &json!({}));
    let record = running.container.cgroup().record();
    for place in record.v1.iter().chain(&record.unified) {
        std::fs::create_dir(place.dir().join("below"))?;
    }
    if let Some(place) = &record.unified {
        std::fs::write(place.dir().join("below/cgroup.kill"), "1")?;
    }
    let process = process("exec cat /proc/self/cgroup");
    let (reader, writer) = std::io::pipe()?;
    let stdio = runtime::Stdio { own: [false; 3], stdin: None, stdout: Some(writer.into()), stderr: None };
    let exec = runtime::Exec { cgroup: &["below".to_owned()], stdio, ..Running::exec(&process) };
    let child = running.container.exec(&host, exec)?;
    let text = std::io::read_to_string(reader)?;
    assert_eq!(ended(&child.pidfd), 0);
    assert!(text.lines().all(|line| line.ends_with("/below")), "{text}");
    Ok(())
}

/// Init has left for a group below, and both the container's group and `busy` hand controllers down: an exec without a word on
/// groups goes to where init is, one that is to be in `busy` is refused.
fn exec_in_a_group_that_takes_nobody() -> Result<(), Failed> {
    takes_nobody("busy", false)?;
    // One that was there before us is joined by its file, not by the clone.
    takes_nobody("busy-used", true)
}

fn takes_nobody(name: &str, used: bool) -> Result<(), Failed> {
    let (host, bundle) = (bundle::host(), Bundle::new(name, 0));
    if used {
        Cgroup::create(&Layout::read()?, &format!("{}/c", bundle.group), "")?;
    }
    let running = Running::new(&host, &bundle, &json!({}));
    let record = running.container.cgroup().record();
    for place in record.v1.iter().chain(&record.unified) {
        ["init", "busy", "busy/below"].iter().try_for_each(|name| std::fs::create_dir(place.dir().join(name)))?;
    }
    let Some(place) = &record.unified else { return Ok(()) }; // pure version 1 knows no such thing
    let dir = place.dir();
    std::fs::write(dir.join("init/cgroup.procs"), running.child.pid.to_string())?;
    let controllers = std::fs::read_to_string(dir.join("cgroup.controllers"))?;
    let all: String = controllers.split_whitespace().map(|name| format!("+{name} ")).collect();
    for group in ["", "busy"] {
        std::fs::write(dir.join(group).join("cgroup.subtree_control"), &all)?;
    }
    let process = process("exit 5");
    let child = running.container.exec(&host, Running::exec(&process))?;
    assert_eq!(ended(&child.pidfd), 5);
    let named = runtime::Exec { cgroup: &["busy".to_owned()], ..Running::exec(&process) };
    let error = running.container.exec(&host, named).expect_err("it takes nobody");
    assert_eq!(error.errno, Some(rustix::io::Errno::BUSY), "{error}");
    assert_eq!(running.container.cgroup().pids()?, [running.child.pid], "nobody but init is left");
    Ok(())
}
