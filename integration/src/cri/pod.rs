//! A pod and its containers, and what they give back.

use super::{CONTAINER, Cri, lock, merge};
use crate::containerd::LIMIT;
use crate::{Outcome, ensure, residue};
use serde_json::{Value, json};
use std::path::PathBuf;

/// A pod.
pub struct Pod<'c, 'a> {
    /// Its client.
    pub cri: &'c Cri<'a>,
    /// Its id.
    pub id: String,
    /// The configuration it was made with.
    pub config: Value,
}

/// What an exec sync gave back.
pub struct Executed {
    /// The exit code.
    pub code: i64,
    /// Its output.
    pub stdout: String,
    /// Its errors.
    pub stderr: String,
}

impl Executed {
    /// Its output if the exit code is 0.
    pub fn ok(self) -> Outcome<String> {
        ensure!(self.code == 0, "{}", self.report());
        Ok(self.stdout)
    }

    /// All of it, for messages.
    pub fn report(&self) -> String {
        format!("exit code {}\nstdout: {}\nstderr: {}", self.code, self.stdout, self.stderr)
    }
}

impl Pod<'_, '_> {
    /// The configuration of a container that runs a shell script, the patch laid over it.
    pub fn container_config(&self, name: &str, script: &str, patch: Value) -> Value {
        let mut config = json!({
            "metadata": { "name": name, "attempt": 0 },
            "image": { "image": crate::containerd::IMAGE },
            "command": ["sh", "-c", script],
            "log_path": format!("{name}.log"),
            "linux": { "security_context": { "namespace_options": { "pid": CONTAINER } } },
        });
        merge(&mut config, patch);
        config
    }

    /// Creates a container; returns its id.
    pub fn create(&self, name: &str, script: &str, patch: Value) -> Outcome<String> {
        let config = self.container_config(name, script, patch);
        let request = json!({ "pod_sandbox_id": self.id, "config": config, "sandbox_config": self.config });
        let reply = self.cri.call("CreateContainer", request)?;
        let id = reply["container_id"].as_str().ok_or("no container_id")?.to_owned();
        lock(&self.cri.made).push(id.clone());
        Ok(id)
    }

    /// Starts a container.
    pub fn start(&self, id: &str) -> Outcome {
        self.cri.call("StartContainer", json!({ "container_id": id }))?;
        Ok(())
    }

    /// Creates and starts one.
    pub fn run(&self, name: &str, script: &str, patch: Value) -> Outcome<String> {
        let id = self.create(name, script, patch)?;
        self.start(&id)?;
        Ok(id)
    }

    /// Creates and starts one, waits for its end with code 0 and returns what it logged: its errors come through the
    /// same stream as its output, for the order of two in a log is anybody's.
    pub fn output(&self, name: &str, script: &str, patch: Value) -> Outcome<String> {
        let id = self.run(name, &format!("exec 2>&1\n{script}"), patch)?;
        let status = self.wait_exited(&id)?;
        let log = self.log(name)?;
        ensure!(status["exit_code"].as_i64().unwrap_or(0) == 0, "{name} ended with {status}\nits log: {log}");
        Ok(log)
    }

    /// The status of a container.
    pub fn status(&self, id: &str) -> Outcome<Value> {
        Ok(self.cri.call("ContainerStatus", json!({ "container_id": id }))?["status"].clone())
    }

    /// Waits until a container has exited and its log is complete; returns its status.
    ///
    /// CRI's writer of the log is a goroutine that nobody waits for: the status is there before the last lines are.
    pub fn wait_exited(&self, id: &str) -> Outcome<Value> {
        let status = crate::eventually(LIMIT, || {
            let status = self.status(id)?;
            ensure!(status["state"] == "CONTAINER_EXITED", "the container has not exited: {status}");
            Ok(status)
        })?;
        // With its dot, and whatever the rotation has put behind it.
        let log = status["log_path"].as_str().unwrap_or_default().trim_end_matches("log");
        ensure!(!log.is_empty(), "no log: {status}");
        crate::eventually(LIMIT, || {
            let containerd = &self.cri.bed.containerd;
            let open = residue::descriptors(containerd, containerd.pid()?)?;
            ensure!(!open.iter().any(|file| file.contains(log)), "containerd still writes {log}log");
            Ok(status.clone())
        })
    }

    /// Exec sync without a time limit.
    pub fn exec(&self, id: &str, script: &str) -> Outcome<Executed> {
        let reply = self.cri.call("ExecSync", json!({ "container_id": id, "cmd": ["sh", "-c", script] }))?;
        executed(&reply)
    }

    /// The pid of a container's init on the host.
    pub fn pid(&self, id: &str) -> Outcome<u32> {
        let reply = self.cri.call("ContainerStatus", json!({ "container_id": id, "verbose": true }))?;
        pid_of(&reply)
    }

    /// The pid of the pause process.
    pub fn pause_pid(&self) -> Outcome<u32> {
        pid_of(&self.cri.call("PodSandboxStatus", json!({ "pod_sandbox_id": self.id, "verbose": true }))?)
    }

    /// The pid of the pod's shim.
    pub fn shim(&self) -> Outcome<u32> {
        self.cri.bed.containerd.host.parent(self.pause_pid()?)
    }

    /// The state of the pod: `SANDBOX_READY` or `SANDBOX_NOTREADY`.
    pub fn state(&self) -> Outcome<String> {
        let reply = self.cri.call("PodSandboxStatus", json!({ "pod_sandbox_id": self.id }))?;
        // The first of an enumeration is left out of the JSON of a message.
        Ok(reply["status"]["state"].as_str().unwrap_or("SANDBOX_READY").to_owned())
    }

    /// The file of a container's log.
    pub fn log_file(&self, name: &str) -> PathBuf {
        PathBuf::from(self.config["log_directory"].as_str().unwrap_or_default()).join(format!("{name}.log"))
    }

    /// What a container logged: the words after the stamp, the stream and the tag, parts of a long line joined.
    pub fn log(&self, name: &str) -> Outcome<String> {
        Ok(logged(&std::fs::read_to_string(self.log_file(name))?))
    }

    /// The pod's group on a controller's hierarchy, as the machine sees it.
    pub fn cgroup(&self, hierarchy: &str) -> Outcome<PathBuf> {
        let parent = self.config["linux"]["cgroup_parent"].as_str().ok_or("no cgroup_parent")?;
        let found = residue::hierarchies().into_iter().find(|path| path.ends_with(hierarchy));
        Ok(found.ok_or_else(|| format!("no hierarchy {hierarchy}"))?.join(parent.trim_start_matches('/')))
    }
}

/// The reply of ExecSync.
pub fn executed(reply: &Value) -> Outcome<Executed> {
    let text = |field: &str| -> Outcome<String> {
        Ok(String::from_utf8_lossy(&base64(reply[field].as_str().unwrap_or_default())?).into_owned())
    };
    Ok(Executed { code: reply["exit_code"].as_i64().unwrap_or(0), stdout: text("stdout")?, stderr: text("stderr")? })
}

/// The text of a log in CRI's format: `2026-11-21T05:17:07.09Z stdout F words`.
pub fn logged(log: &str) -> String {
    let mut text = String::new();
    for line in log.lines() {
        let mut fields = line.splitn(4, ' ').skip(2);
        let tag = fields.next().unwrap_or_default();
        text += fields.next().unwrap_or_default();
        if tag == "F" {
            text.push('\n');
        }
    }
    text
}

fn pid_of(reply: &Value) -> Outcome<u32> {
    let info: Value = serde_json::from_str(reply["info"]["info"].as_str().ok_or("no verbose info")?)?;
    Ok(info["pid"].as_u64().ok_or("no pid")?.try_into()?)
}

/// The bytes of a field in protobuf's JSON.
fn base64(text: &str) -> Outcome<Vec<u8>> {
    let digit = |byte: u8| match byte {
        b'A'..=b'Z' => Ok(byte - b'A'),
        b'a'..=b'z' => Ok(byte - b'a' + 26),
        b'0'..=b'9' => Ok(byte - b'0' + 52),
        b'+' => Ok(62),
        b'/' => Ok(63),
        _ => Err(format!("no base64: {text:?}")),
    };
    let mut bytes = Vec::new();
    let (mut held, mut bits) = (0u32, 0);
    for byte in text.bytes().filter(|byte| *byte != b'=') {
        held = (held << 6 | u32::from(digit(byte)?)) & 0xffff;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((held >> bits) as u8);
        }
    }
    Ok(bytes)
}
