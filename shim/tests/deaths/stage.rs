//! One death, staged.

use std::process::Command;

use containerd_shim_protos::api;
use runtime::cgroup::{Cgroup, Layout};
use runtime::spec::Resources;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::bed::{Bed, limit, until};
use crate::corpus::{Act, Death, Events};

/// The groups above the container's, the upper one first; they go when all is over.
struct Above(Vec<Cgroup>);

impl Drop for Above {
    fn drop(&mut self) {
        for group in self.0.iter().rev() {
            let _ = group.kill(9);
            if let Err(e) = group.remove() {
                eprintln!("left behind: {e}");
            }
        }
    }
}

fn memory(mebibytes: u64) -> Value {
    // Without swap, on version 1 too: there the limit of both together is the same.
    json!({"limit": mebibytes << 20, "swap": mebibytes << 20})
}

fn group(path: &str, mebibytes: u64) -> Cgroup {
    let group = Cgroup::create(&Layout::read().unwrap(), path, "").unwrap();
    if mebibytes > 0 {
        let resources: Resources = serde_json::from_value(json!({"memory": memory(mebibytes)})).unwrap();
        group.limit(&resources).unwrap();
    }
    group
}

/// A group in which a process took memory until it was killed.
fn killed_in(path: &str) -> Cgroup {
    let group = group(path, 0);
    let record = group.record();
    let dirs = record.v1.iter().chain(&record.unified).map(|place| place.dir().display().to_string());
    let enter: String = dirs.map(|dir| format!("echo $$ > {dir}/cgroup.procs; ")).collect();
    let script = format!("{enter} exec tail /dev/zero");
    let status = Command::new("/bin/sh").args(["-c", &script]).status().unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9), "its end in {path}");
    group
}

pub struct Stage<'a> {
    bed: Bed,
    death: &'a Death,
    id: String,
    parent: String,
    // After the bed, whose drop removes the container's own group.
    _above: Above,
}

impl<'a> Stage<'a> {
    /// Plays it to its end and compares; gives the rest of its row in the table.
    pub async fn play(number: usize, death: &'a Death) -> String {
        let bed = Bed::with_flags(&format!("death-{number}"), &["-debug"]).await.expect("this needs root");
        let [own, parent, above] = death.limits;
        let top = format!("/mini-deaths-{}-{number}", std::process::id());
        let pod = format!("{top}/pod");
        let groups = Above(vec![group(&top, above), group(&pod, parent)]);
        let mut resources: Value = serde_json::from_str(death.resources).unwrap();
        if own > 0 {
            resources["memory"]["limit"] = json!(own << 20);
            resources["memory"]["swap"] = json!(own << 20);
        }
        let id = bed.id("c");
        let request = bed.request(&id, death.script, |spec| {
            spec["linux"]["cgroupsPath"] = json!(format!("{pod}/c"));
            spec["linux"]["resources"] = resources;
            if death.host_pids {
                spec["linux"]["namespaces"].as_array_mut().unwrap().retain(|n| n["type"] != "pid");
            }
        });
        bed.task.create(limit(), &request).await.unwrap();
        let stage = Self { bed, death, id, parent: pod, _above: groups };
        stage.bed.start(&stage.id, "").await.unwrap();
        for act in death.acts {
            stage.act(*act).await;
        }
        stage.verdict().await
    }

    async fn act(&self, act: Act) {
        let (bed, id) = (&self.bed, self.id.as_str());
        let request = || (limit(), api::PauseRequest { id: id.to_owned(), ..Default::default() });
        match act {
            Act::Exec(script) => {
                drop(bed.exec(id, "e", script).await.unwrap());
                bed.start(id, "e").await.unwrap();
            }
            Act::Rpc(who, signal) => drop(bed.kill(id, who, signal).await.unwrap()),
            Act::Outside(who, signal) => {
                let pid = bed.state(id, who).await.unwrap().pid;
                let signal = Signal::from_named_raw(signal).unwrap();
                kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), signal).unwrap();
            }
            Act::Pause => drop(bed.task.pause(request().0, &request().1).await.unwrap()),
            Act::Resume => {
                // On version 2 the frozen die at once, and there may be nobody left to resume.
                let request = api::ResumeRequest { id: id.to_owned(), ..Default::default() };
                let _ = bed.task.resume(limit(), &request).await;
            }
            Act::UntilOom => drop(bed.until_heard("oom c").await),
            Act::UntilCleared => self.until_said("who is left was not killed for want of memory").await,
            Act::Sibling => killed_in(&format!("{}/sibling", self.parent)).remove().unwrap(),
            // Stays until the container goes, as the group of a service inside does.
            Act::Below => drop(killed_in(&format!("{}/c/below", self.parent))),
        }
    }

    async fn until_said(&self, words: &str) {
        let line = format!("{}: {words}", self.id);
        until(|| self.bed.log().contains(&line), || format!("the log does not say {line:?}")).await;
    }

    /// What the log says of a process, once it has ended.
    async fn cause(&self, who: &str) -> String {
        let start = format!("{}: {who}: ", self.id);
        let find = || {
            let log = self.bed.log();
            let said = log.split_once(&start)?.1;
            said.split_once(['"', '\n']).map(|(cause, _)| cause.to_owned())
        };
        until(|| find().is_some(), || format!("the log does not say how {who} ended")).await;
        find().unwrap()
    }

    async fn verdict(&self) -> String {
        let death = self.death;
        let who = |name: &str| if name.is_empty() { "init".to_owned() } else { format!("exec {name}") };
        let init = self.cause(&who("")).await;
        let exec = if death.exec.is_empty() { String::new() } else { self.cause(&who("e")).await };
        let status = self.bed.wait(&self.id, "").await.unwrap();
        let heard = self.bed.until_heard(&format!("exit c {status}")).await;
        for (name, said, expected) in [("init", &init, death.init), ("exec", &exec, death.exec)] {
            let right = expected.strip_suffix('…').map_or(said == expected, |start| said.starts_with(start));
            assert!(right, "{name}: {said}\ninstead of {expected}");
        }
        let ooms = heard.iter().filter(|line| *line == "oom c").count();
        assert_eq!(ooms > 0, death.events == Events::Some, "{heard:?}");
        if init.contains("memory") {
            // With the reason known, the exit makes sense to who hears it.
            assert!(heard.iter().position(|l| l == "oom c") < heard.iter().position(|l| l.starts_with("exit c")));
            assert_eq!(status, 137);
        }
        self.bed.delete(&self.id, "").await.unwrap();
        // Group paths hold numbers of this run.
        let plain = |cause: &str| cause.split(" (").next().unwrap_or_default().to_owned();
        format!("{ooms} | {} | {}", plain(&init), plain(&exec))
    }
}
