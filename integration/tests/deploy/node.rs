//! A node: a containerd with CRI that has never heard of mini, and whoever restarts it. Its files are its own: /run is the test
//! host's, and /usr/local an overlay.

use integration::containerd::{LIMIT, SOCKET, testbed};
use integration::cri::{self, PAUSE};
use integration::{Containerd, Outcome, Output, Runtime, Version, client, ensure};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Where tests that name it have the drop-in.
pub const DROP_IN: &str = "/run/conf.d/mini.toml";
/// What the installer makes lead to the binary.
pub const LINK: &str = "/usr/local/bin/containerd-shim-mini-v2";
/// What the pod is to be.
pub const POD: &str = "/run/pod.json";
const VERSIONS: &str = "/usr/local/lib/mini";
/// Made by whoever wants containerd restarted, removed when that is done.
pub const WANTED: &str = "/run/restart-wanted";

/// A node that has never heard of mini.
pub struct Node {
    /// Its containerd.
    pub containerd: Arc<Containerd>,
    /// How to call crictl, words apart.
    pub crictl: String,
    over: Arc<AtomicBool>,
    restarter: Option<std::thread::JoinHandle<()>>,
}

impl Node {
    /// Starts one with more keys and tables in containerd's configuration.
    pub fn start(version: Version, keys: &str, tables: &str) -> Outcome<Node> {
        Node::start_in(version, cri::format(version), keys, tables)
    }

    /// The same with a config.toml in the format of that number.
    pub fn start_in(version: Version, format: u32, keys: &str, tables: &str) -> Outcome<Node> {
        let containerd = Arc::new(Containerd::start(version, Runtime::Runc)?);
        let script = "mkdir -p /run/upper /run/layer && mount -t tmpfs tmpfs /run/layer && mkdir /run/layer/up /run/layer/work \
                      && mount -t overlay overlay -o lowerdir=/usr/local,upperdir=/run/layer/up,workdir=/run/layer/work /usr/local";
        ensure!(containerd.host.command(Some(LIMIT), &[], &["sh", "-c", script]).status()?.success(), "no overlay");
        let pinned = match version {
            version if version.is_1() => format!(
                "[plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = {PAUSE:?}\nrestrict_oom_score_adj = true\n"
            ),
            _ => format!(
                "[plugins.\"io.containerd.cri.v1.images\".pinned_images]\nsandbox = {PAUSE:?}\n\
                 [plugins.\"io.containerd.cri.v1.runtime\"]\nrestrict_oom_score_adj = true\n"
            ),
        };
        containerd.restart_with_cri(format, keys, &format!("{pinned}{tables}"))?;
        cri::import(&containerd)?;
        let crictl =
            format!("{} --config /dev/null --timeout 60s --runtime-endpoint unix://{SOCKET}", cri::program("crictl"));
        let over = Arc::new(AtomicBool::new(false));
        let (node, stop) = (containerd.clone(), over.clone());
        let restarter = std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                if node.host.path(WANTED).exists() {
                    let done = node.kill().and_then(|()| node.restart());
                    let _ = std::fs::remove_file(node.host.path(WANTED));
                    if let Err(error) = done {
                        eprintln!("restart: {}", error.message().unwrap_or_default());
                    }
                }
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
        });
        Ok(Node { containerd, crictl, over, restarter: Some(restarter) })
    }

    /// A script of deploy/ on the node.
    pub fn deploy(&self, script: &str, words: &[&str], shim: &str) -> Outcome<Output> {
        self.deploy_with(&[], script, words, shim)
    }

    /// The same with more variables.
    pub fn deploy_with(&self, more: &[(&str, &str)], script: &str, words: &[&str], shim: &str) -> Outcome<Output> {
        self.deploy_by(&["sh"], more, script, words, shim)
    }

    /// A command of the installer whose messages nobody reads any more.
    pub fn install_unheard(&self, more: &[(&str, &str)], word: &str, shim: &str) -> Outcome<Output> {
        let unheard = r#"{ sh "$@" 2>&1; echo "$?" >/run/code; } | :; exit "$(cat /run/code)""#;
        self.deploy_by(&["sh", "-c", unheard, "sh"], more, "mini-install", &[word], shim)
    }

    fn deploy_by(
        &self,
        shell: &[&str],
        more: &[(&str, &str)],
        script: &str,
        words: &[&str],
        shim: &str,
    ) -> Outcome<Output> {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(script).display().to_string();
        let daemon = self.daemon();
        let config = self.containerd.config().display().to_string();
        let restart = format!("/run/restart {WANTED}");
        let program = "#!/bin/sh\n: >\"$1\"\nwhile [ -e \"$1\" ]; do sleep 0.1; done\n";
        std::fs::write(self.containerd.host.path("/run/restart"), program)?;
        let env = [
            ("SHIM", shim),
            ("CONFIG", &config),
            ("DROP_IN", DROP_IN),
            ("CONTAINERD", &daemon),
            ("CRICTL", &self.crictl),
            ("RESTART", &format!("sh {restart}")),
            ("CGROUP_PARENT", &format!("/{}/verify", self.containerd.namespace)),
        ];
        let argv = [shell, &[path.as_str()], words].concat();
        let command = self.containerd.host.command(Some(2 * LIMIT), &[&env, more].concat(), &argv);
        client::start(command, format!("{script} {}", words.join(" ")), 2 * LIMIT)?.wait()
    }

    /// A command of the installer.
    pub fn install(&self, word: &str, shim: &str) -> Outcome<Output> {
        self.deploy("mini-install", &[word], shim)
    }

    /// How to call a crictl that first does that in sh; `real` is the true one.
    pub fn crictl_that(&self, script: &str) -> Outcome<String> {
        self.wrapper("crictl-that", &self.crictl, script)
    }

    /// The same with containerd.
    pub fn containerd_that(&self, script: &str) -> Outcome<String> {
        self.wrapper("containerd-that", &self.daemon(), script)
    }

    /// The same with the restart of containerd.
    pub fn restart_that(&self, script: &str) -> Outcome<String> {
        self.wrapper("restart-that", &format!("sh /run/restart {WANTED}"), script)
    }

    fn daemon(&self) -> String {
        testbed().join(format!("c{}/bin/containerd", self.containerd.version)).display().to_string()
    }

    fn wrapper(&self, name: &str, real: &str, script: &str) -> Outcome<String> {
        let program = format!("#!/bin/sh\nreal() {{ {real} \"$@\"; }}\n{script}\nreal \"$@\"\n");
        std::fs::write(self.containerd.host.path(format!("/run/{name}")), program)?;
        Ok(format!("sh /run/{name}"))
    }

    /// Whether a path is there on the node.
    pub fn exists(&self, path: &str) -> bool {
        self.containerd.host.path(path).symlink_metadata().is_ok()
    }

    /// The version that the link leads to.
    pub fn version(&self) -> Outcome<String> {
        let target = self.containerd.host.path(LINK).read_link()?;
        let directory = target.parent().and_then(|path| path.file_name()).ok_or("no version")?;
        Ok(directory.to_string_lossy().into_owned())
    }

    /// Fails if the installer has left anything.
    pub fn assert_clean(&self) -> Outcome {
        let left: Vec<&str> = [DROP_IN, "/etc/containerd/conf.d/mini.toml", LINK, VERSIONS]
            .into_iter()
            .filter(|path| self.exists(path))
            .collect();
        ensure!(left.is_empty(), "left: {left:?}");
        Ok(())
    }

    /// Starts a pod on the handler mini; returns its id.
    pub fn pod(&self) -> Outcome<String> {
        self.write_pod()?;
        Ok(self.crictl(&["runp", "--runtime", "mini", POD])?.ok()?.text().trim().to_owned())
    }

    /// Stops and removes it.
    pub fn remove_pod(&self, id: &str) -> Outcome {
        self.crictl(&["stopp", id])?.ok()?;
        self.crictl(&["rmp", id])?.ok().map(drop)
    }

    /// Writes what the pod is to be.
    pub fn write_pod(&self) -> Outcome {
        let config = format!(
            r#"{{"metadata": {{"name": "p", "namespace": "default", "uid": "u", "attempt": 0}}, "linux": {{"cgroup_parent":
            "/{}/p", "security_context": {{"namespace_options": {{"network": 2, "pid": 1}}}}}}}}"#,
            self.containerd.namespace
        );
        std::fs::write(self.containerd.host.path(POD), config)?;
        Ok(())
    }

    /// crictl to its end.
    pub fn crictl(&self, words: &[&str]) -> Outcome<Output> {
        let argv: Vec<&str> = self.crictl.split(' ').chain(words.iter().copied()).collect();
        client::start(self.containerd.host.command(Some(LIMIT), &[], &argv), words.join(" "), LIMIT)?.wait()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let _ = self.restarter.take().map(std::thread::JoinHandle::join);
    }
}
