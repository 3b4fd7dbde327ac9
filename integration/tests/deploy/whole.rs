//! The pages and the DaemonSet with nothing but defaults: a node whose containerd, crictl and systemctl are in its PATH and whose
//! configuration is in /etc.

use integration::containerd::{IMAGE, LIMIT, testbed};
use integration::{Outcome, Version, ensure, eventually, page};
use serde_json::{Value, json};

use crate::node::{Node, WANTED};
use crate::shim;

/// Where deploy/ lies with the binary, as somebody has copied it to the node.
const PLACE: &str = "/run/page";
const DAEMON_SET: &str = include_str!("../../../deploy/daemonset.yaml");

/// A node as an operator finds it. systemctl is the harness's: there is no systemd on it.
fn node() -> Outcome<Node> {
    let node = Node::start(Version::C2_1, "imports = [\"/etc/containerd/conf.d/*.toml\"]", "")?;
    let host = &node.containerd.host;
    let script = r#"
        mkdir /run/layer/etc /run/layer/etc-work
        mount -t overlay overlay -o lowerdir=/etc,upperdir=/run/layer/etc,workdir=/run/layer/etc-work /etc
        mkdir -p /etc/containerd "$PLACE/deploy"
        : >/etc/containerd/config.toml
        mount --bind "$CONFIG" /etc/containerd/config.toml
        cp "$DEPLOY"/* "$SHIM" "$PLACE/deploy/"
        ln -s "$CONTAINERD" /usr/local/bin/containerd
        printf '#!/bin/sh\nexec %s "$@"\n' "$CRICTL" >/usr/local/bin/crictl
        printf '#!/bin/sh\n[ "$*" = "restart containerd" ] || exit 1\n: >"%s"\nwhile [ -e "%s" ]; do sleep 0.1; done\n' \
            "$WANTED" "$WANTED" >/usr/local/bin/systemctl
        chmod 755 /usr/local/bin/crictl /usr/local/bin/systemctl
    "#;
    let env = [
        ("PLACE", PLACE),
        ("CONFIG", &node.containerd.config().display().to_string()),
        ("DEPLOY", concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy")),
        ("SHIM", &shim()?),
        ("CONTAINERD", &testbed().join("c2.1/bin/containerd").display().to_string()),
        ("CRICTL", &node.crictl),
        ("WANTED", WANTED),
    ];
    let done = host.command(Some(LIMIT), &env, &["sh", "-e", "-c", script]).output()?;
    ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    Ok(node)
}

fn run(text: &str) -> Outcome {
    let node = node()?;
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    page::run(&node.containerd.host, &[("PATH", path)], PLACE, text)?;
    node.assert_clean()
}

pub fn page_kubernetes() -> Outcome {
    run(include_str!("../../../docs/kubernetes.md"))
}

pub fn page_migration() -> Outcome {
    run(include_str!("../../../docs/migration.md"))
}

/// The pod of the DaemonSet.
struct Installer<'a> {
    node: &'a Node,
    pod: String,
    count: std::cell::Cell<u32>,
}

impl Installer<'_> {
    fn start<'a>(node: &'a Node, handler: &str) -> Outcome<Installer<'a>> {
        let config = json!({ "metadata": { "name": "mini-install", "namespace": "kube-system", "uid": handler, "attempt": 0 },
            "log_directory": format!("/run/logs-{handler}"), "linux": Installer::linux(node) });
        std::fs::write(node.containerd.host.path("/run/installer.json"), config.to_string())?;
        let pod = node.crictl(&["runp", "--runtime", handler, "/run/installer.json"])?.ok()?.text().trim().to_owned();
        Ok(Installer { node, pod, count: std::cell::Cell::new(0) })
    }

    /// hostPID and privileged; the node's network, because there is no other.
    fn linux(node: &Node) -> Value {
        let context = json!({ "privileged": true, "namespace_options": { "network": 2, "pid": 2 } });
        json!({ "cgroup_parent": format!("/{}/installer", node.containerd.namespace), "security_context": context })
    }

    /// Starts the container of deploy/daemonset.yaml with other arguments; returns its id.
    fn run(&self, argument: &str) -> Outcome<String> {
        let number = self.count.replace(self.count.get() + 1);
        // In place of the image of deploy/Dockerfile: busybox, with the two files that it adds.
        let config = json!({
            "metadata": { "name": "install", "attempt": number },
            "image": { "image": IMAGE },
            "command": ["/opt/mini/mini-install"], "args": [argument],
            "envs": [{ "key": "ROOT", "value": "/host" }],
            "mounts": [{ "host_path": "/", "container_path": "/host", "propagation": 1 },
                { "host_path": format!("{PLACE}/deploy"), "container_path": "/opt/mini", "readonly": true }],
            "log_path": format!("{number}.log"),
            "linux": Installer::linux(self.node),
        });
        std::fs::write(self.node.containerd.host.path("/run/install.json"), config.to_string())?;
        let words = ["create", &self.pod, "/run/install.json", "/run/installer.json"];
        let id = self.node.crictl(&words)?.ok()?.text().trim().to_owned();
        self.node.crictl(&["start", &id])?.ok()?;
        Ok(id)
    }

    /// Waits until the container has said the words.
    fn says(&self, id: &str, words: &str) -> Outcome {
        eventually(2 * LIMIT, || {
            let output = self.node.crictl(&["logs", id])?.ok()?;
            ensure!(output.errors().contains(words), "{words:?} is not said:\n{}", output.report());
            Ok(())
        })
    }

    /// Waits for the container's end; fails unless it ended with the code.
    fn ends(&self, id: &str, code: &str) -> Outcome {
        let template = "{{.status.state}} {{.status.exitCode}}";
        eventually(2 * LIMIT, || {
            let state = self.node.crictl(&["inspect", "--output", "go-template", "--template", template, id])?.ok()?;
            let state = state.text().trim().to_owned();
            ensure!(
                state == format!("CONTAINER_EXITED {code}"),
                "{state}, not {code}: {}",
                self.node.crictl(&["logs", id])?.report()
            );
            Ok(())
        })
    }

    /// The pod is deleted, as with the DaemonSet: the container gets its signal and ends.
    fn delete(&self) -> Outcome {
        self.node.crictl(&["stopp", &self.pod])?.ok()?;
        self.node.crictl(&["rmp", &self.pod])?.ok()?;
        Ok(())
    }
}

/// The installer in a container, that sees the node's files below /host: on runc, as on a node that has nothing else yet, and
/// then on mini itself.
pub fn daemon_set() -> Outcome {
    for line in ["args: [daemon]", "hostPID: true", "privileged: true", "{name: ROOT, value: /host}", "HostToContainer"]
    {
        ensure!(DAEMON_SET.contains(line), "deploy/daemonset.yaml has no {line:?}: this test does something else");
    }
    let node = node()?;
    let first = Installer::start(&node, "runc")?;
    let daemon = first.run("daemon")?;
    first.says(&daemon, "a pod ran on")?;
    let version = node.version()?;
    node.crictl(&["stop", "--timeout", "60", &daemon])?.ok()?;
    first.ends(&daemon, "0")?;
    first.delete()?;
    // The pod's next life is on mini: nothing is to do, and it says so.
    let second = Installer::start(&node, "mini")?;
    let daemon = second.run("daemon")?;
    second.says(&daemon, "a pod ran on")?;
    ensure!(node.version()? == version, "the same binary got another version");
    let refused = second.run("uninstall")?;
    second.ends(&refused, "1")?;
    second.says(&refused, "run on mini")?;
    second.delete()?;
    let last = Installer::start(&node, "runc")?;
    let uninstall = last.run("uninstall")?;
    last.ends(&uninstall, "0")?;
    last.delete()?;
    node.assert_clean()
}
