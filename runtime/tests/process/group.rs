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
    let stdio = runtime::Stdio { stdin: None, stdout: Some(writer.into()), stderr: None };
    let exec = runtime::Exec { cgroup: &["below".to_owned()], stdio, ..Running::exec(&process) };
    let child = running.container.exec(&host, exec)?;
    let text = std::io::read_to_string(reader)?;
    assert_eq!(ended(&child.pidfd), 0);
    assert!(text.lines().all(|line| line.ends_with("/below")), "{text}");
    Ok(())
}
