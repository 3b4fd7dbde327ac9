//! `deploy/`: the installer on nodes of every config version, with the binary, the drop-in and their undoing; the measurement
//! of a pod's overhead. The node's files are its own: /run is the test host's, and /usr/local an overlay.

use integration::containerd::{LIMIT, SOCKET, bin_dir, testbed};
use integration::cri::{self, PAUSE};
use integration::{Containerd, Outcome, Output, Runtime, Version, client, ensure, eventually};
use libtest_mimic::{Arguments, Trial};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const DROP_IN: &str = "/run/conf.d/mini.toml";
const LINK: &str = "/usr/local/bin/containerd-shim-mini-v2";
const VERSIONS: &str = "/usr/local/lib/mini";
/// Made by whoever wants containerd restarted, removed when that is done.
const WANTED: &str = "/run/restart-wanted";

/// A node that has never heard of mini.
struct Node {
    containerd: Arc<Containerd>,
    crictl: String,
    over: Arc<AtomicBool>,
    restarter: Option<std::thread::JoinHandle<()>>,
}

impl Node {
    fn start(version: Version, keys: &str, tables: &str) -> Outcome<Node> {
        let containerd = Arc::new(Containerd::start(version, Runtime::Runc)?);
        let script = "mkdir -p /run/upper /run/layer && mount -t tmpfs tmpfs /run/layer && mkdir /run/layer/up /run/layer/work \
                      && mount -t overlay overlay -o lowerdir=/usr/local,upperdir=/run/layer/up,workdir=/run/layer/work /usr/local";
        ensure!(containerd.host.command(Some(LIMIT), &[], &["sh", "-c", script]).status()?.success(), "no overlay");
        let format = cri::format(version);
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
    fn deploy(&self, script: &str, words: &[&str], shim: &str) -> Outcome<Output> {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(script).display().to_string();
        let daemon = testbed().join(format!("c{}/bin/containerd", self.containerd.version)).display().to_string();
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
        let mut argv = vec!["sh", &path];
        argv.extend(words);
        let command = self.containerd.host.command(Some(2 * LIMIT), &env, &argv);
        client::start(command, format!("{script} {}", words.join(" ")), 2 * LIMIT)?.wait()
    }

    fn install(&self, word: &str, shim: &str) -> Outcome<Output> {
        self.deploy("mini-install", &[word], shim)
    }

    fn exists(&self, path: &str) -> bool {
        self.containerd.host.path(path).symlink_metadata().is_ok()
    }

    fn version(&self) -> Outcome<String> {
        let target = self.containerd.host.path(LINK).read_link()?;
        let directory = target.parent().and_then(|path| path.file_name()).ok_or("no version")?;
        Ok(directory.to_string_lossy().into_owned())
    }

    fn assert_clean(&self) -> Outcome {
        let left: Vec<&str> = [DROP_IN, LINK, VERSIONS].into_iter().filter(|path| self.exists(path)).collect();
        ensure!(left.is_empty(), "left: {left:?}");
        Ok(())
    }

    /// Starts a pod on the handler mini; returns its id.
    fn pod(&self) -> Outcome<String> {
        let config = format!(
            r#"{{"metadata": {{"name": "p", "namespace": "default", "uid": "u", "attempt": 0}}, "linux": {{"cgroup_parent":
            "/{}/p", "security_context": {{"namespace_options": {{"network": 2, "pid": 1}}}}}}}}"#,
            self.containerd.namespace
        );
        std::fs::write(self.containerd.host.path("/run/pod.json"), config)?;
        Ok(self.crictl(&["runp", "--runtime", "mini", "/run/pod.json"])?.ok()?.text().trim().to_owned())
    }

    fn crictl(&self, words: &[&str]) -> Outcome<Output> {
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

fn shim() -> Outcome<String> {
    Ok(bin_dir()?.join("containerd-shim-mini-v2").display().to_string())
}

/// Another build of the same program, and one that is none.
fn other_shims(node: &Node) -> Outcome<(String, String)> {
    let mut bytes = std::fs::read(shim()?)?;
    bytes.extend(b"another build");
    for (name, bytes) in [("other", bytes), ("broken", b"#!/bin/sh\nexit 1\n".to_vec())] {
        let path = node.containerd.host.path(format!("/run/{name}"));
        std::fs::write(&path, bytes)?;
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    }
    Ok(("/run/other".to_owned(), "/run/broken".to_owned()))
}

fn imports() -> String {
    format!("imports = [\"{}\"]", DROP_IN.replace("mini.toml", "*.toml"))
}

fn life(version: Version) -> Outcome {
    // 1.x takes a drop-in's CRI table for all of it; there only an unset one can be added to.
    let node = Node::start(version, &imports(), "")?;
    let config = std::fs::read(node.containerd.config())?;
    let (shim, (other, broken)) = (shim()?, other_shims(&node)?);
    if version.is_1() {
        let refused = node.install("install", &shim)?.failed_with("forgets settings")?;
        ensure!(refused.errors().contains("runtimes.runc.options"), "{}", refused.report());
        return node.assert_clean();
    }
    node.install("install", &broken)?.failed_with("was taken back")?;
    node.assert_clean()?;
    node.install("install", &shim)?.ok()?;
    let first = node.version()?;
    let pod = node.pod()?;
    node.install("install", &shim)?.ok()?;
    ensure!(node.version()? == first, "the same binary got another version");
    node.install("install", &other)?.ok()?;
    let second = node.version()?;
    ensure!(second != first, "another binary got the same version");
    node.install("install", &broken)?.failed_with("was taken back")?;
    ensure!(node.version()? == second, "after a broken one: {}", node.version()?);
    node.install("rollback", &shim)?.ok()?;
    ensure!(node.version()? == first, "after the rollback: {}", node.version()?);
    node.install("status", &shim)?.ok()?.says(&format!("version: {first}\nbefore: {second}\n"))?;
    // The pod has lived through all of it.
    node.crictl(&["inspectp", &pod])?.ok()?.says("SANDBOX_READY")?;
    node.install("uninstall", &shim)?.failed_with("run on mini")?;
    node.crictl(&["stopp", &pod])?.ok()?;
    node.crictl(&["rmp", &pod])?.ok()?;
    eventually(LIMIT, || node.install("uninstall", &shim)?.ok().map(drop))?;
    node.assert_clean()?;
    node.crictl(&["runp", "--runtime", "mini", "/run/pod.json"])?.failed_with("mini")?;
    ensure!(std::fs::read(node.containerd.config())? == config, "config.toml was changed");
    Ok(())
}

fn life_1_6() -> Outcome {
    life(Version::C1_6)
}

fn life_2_1() -> Outcome {
    life(Version::C2_1)
}

fn life_2_3() -> Outcome {
    life(Version::C2_3)
}

fn config_that_imports_nothing() -> Outcome {
    let node = Node::start(Version::C2_1, "", "")?;
    node.install("install", &shim()?)?.failed_with("does not import")?;
    node.assert_clean()
}

fn overhead_is_measured() -> Outcome {
    let node = Node::start(Version::C2_1, &imports(), "")?;
    node.install("install", &shim()?)?.ok()?;
    let measure = |handler: &str| -> Outcome<u64> {
        let output = node.deploy("overhead", &[handler, "3"], "")?.ok()?;
        print!("{}", output.text());
        let each = output.text().split(" = ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
        Ok(each.ok_or_else(|| output.report())?)
    };
    let (mini, runc) = (measure("mini")?, measure("runc")?);
    ensure!(mini > 0 && mini < runc, "a pod on mini costs {mini} KiB, on runc {runc} KiB");
    eventually(LIMIT, || node.install("uninstall", &shim()?)?.ok().map(drop))?;
    node.assert_clean()
}

/// A test and its name.
type Case = (&'static str, fn() -> Outcome);

fn main() {
    let arguments = Arguments::from_args();
    let cases: [Case; 5] = [
        ("life_1_6", life_1_6),
        ("life_2_1", life_2_1),
        ("life_2_3", life_2_3),
        ("config_that_imports_nothing", config_that_imports_nothing),
        ("overhead_is_measured", overhead_is_measured),
    ];
    let trials = cases.into_iter().map(|(name, run)| Trial::test(format!("deploy::{name}"), run)).collect();
    libtest_mimic::run(&arguments, trials).exit();
}
