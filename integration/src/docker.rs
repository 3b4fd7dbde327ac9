//! dockerd beside a containerd of the test bed, and its client.
//!
//! One dockerd per containerd and host. It works in that containerd's namespace, so that groups, bundles and shims of its
//! containers are looked for where the rest of the harness looks.

use crate::containerd::{LIMIT, testbed};
use crate::pty::Pty;
use crate::{Bed, Containerd, Outcome, Output, Runtime, bin_dir, client, ensure, eventually, residue};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// The image's name in docker.
pub const IMAGE: &str = "mini-busybox";

const SOCKET: &str = "unix:///run/docker.sock";
const LABEL: &str = "mini-test";
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The cases of a docker suite: functions of a [`Docker`], each cleaned up after.
#[macro_export]
macro_rules! docker_cases {
    ($($module:ident :: $function:ident),+ $(,)?) => {
        &[$($crate::Case {
            name: concat!(stringify!($module), "::", stringify!($function)),
            run: |bed| $crate::docker::Docker::of(bed).run_case($module::$function),
        }),+]
    };
}

/// The dockerd of a test's containerd, and the containers that the test made there.
pub struct Docker {
    /// The containerd below it.
    pub containerd: Arc<Containerd>,
    name: String,
    label: String,
    count: AtomicU32,
}

/// For [`crate::suite::run_prepared`]: a dockerd with no settings but those that keep it apart.
pub fn prepare(containerd: &Arc<Containerd>) -> Outcome {
    Docker::new(containerd, "prepare".to_owned()).start(&json!({}))
}

impl Docker {
    fn new(containerd: &Arc<Containerd>, name: String) -> Docker {
        let label = format!("{LABEL}={name}");
        Docker { containerd: containerd.clone(), name, label, count: AtomicU32::new(0) }
    }

    /// The docker of a test's bed.
    pub fn of(bed: &Bed) -> Docker {
        Docker::new(&bed.containerd, bed.name().replace("::", "."))
    }

    /// Runs a case and removes what it left; fails if anything of its containers stays.
    pub fn run_case(&self, case: fn(&Docker) -> Outcome) -> Outcome {
        let outcome = case(self).map_err(|error| {
            let message = error.message().unwrap_or_default();
            libtest_mimic::Failed::from(format!("{message}\ndockerd's log ends:\n{}", self.log_tail(12)))
        });
        let finished = self.finish();
        outcome.and(finished)
    }

    /// Whether mini is under test.
    pub fn on_mini(&self) -> bool {
        self.containerd.runtime == Runtime::Mini
    }

    /// A new name for a container, a network or a volume.
    pub fn id(&self) -> String {
        format!("{}-{}", self.name, self.count.fetch_add(1, Ordering::Relaxed))
    }

    /// An empty directory of the machine for this test.
    pub fn directory(&self, name: &str) -> Outcome<PathBuf> {
        let path = self.containerd.scratch().join(format!("{}-{name}", self.name));
        std::fs::create_dir_all(&path)?;
        Ok(path)
    }

    /// dockerd's own directory: its data, its daemon.json, its log and its client's settings.
    pub fn home(&self) -> PathBuf {
        self.containerd.scratch().with_file_name("docker")
    }

    /// The last lines of dockerd's log.
    pub fn log_tail(&self, lines: usize) -> String {
        let log = std::fs::read(self.home().join("log")).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let all: Vec<&str> = log.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// Starts dockerd with these settings in its daemon.json, and loads the image. What is there then is what has to be
    /// there at the end.
    pub fn start(&self, settings: &Value) -> Outcome {
        let home = self.home();
        std::fs::create_dir_all(home.join("cli"))?;
        self.configure(settings)?;
        let plugins = testbed().join("docker/cli-plugins").display().to_string();
        std::fs::write(home.join("cli/config.json"), json!({ "cliPluginsExtraDirs": [plugins] }).to_string())?;
        self.launch()?;
        self.load_image(&testbed().join("image/busybox.tar"), IMAGE)?;
        // The first containers make what dockerd keeps from then on.
        self.run(&["--network", "bridge"], &["true"])?.ok()?;
        self.run(&["--network", "host", "--userns", "host"], &["true"])?.ok()?;
        self.containerd.note_before()
    }

    /// Writes daemon.json, for the next start.
    pub fn configure(&self, settings: &Value) -> Outcome {
        Ok(std::fs::write(self.home().join("daemon.json"), settings.to_string())?)
    }

    /// Starts dockerd again after [`Docker::kill`].
    pub fn launch(&self) -> Outcome {
        self.launch_with(&[("--containerd", "/run/containerd/containerd.sock")], PATH)
    }

    /// The same without a containerd: dockerd then starts one itself, with a config.toml of its own making.
    pub fn launch_alone(&self) -> Outcome {
        let own = self.directory("containerd")?;
        std::os::unix::fs::symlink(testbed().join("c2.1/bin/containerd"), own.join("containerd"))?;
        self.launch_with(&[], &format!("{}:{}:{PATH}", own.display(), bin_dir()?.display()))
    }

    fn launch_with(&self, containerd: &[(&str, &str)], path: &str) -> Outcome {
        let home = self.home();
        let log = std::fs::File::options().create(true).append(true).open(home.join("log"))?;
        let bin = testbed().join("docker/bin");
        let path = format!("{}:{}:{path}", self.runc_of_dockerd()?.display(), bin.display());
        let namespace = &self.containerd.namespace;
        let options = [
            ("--config-file", home.join("daemon.json").display().to_string()),
            ("--data-root", home.join("data").display().to_string()),
            ("--exec-root", "/run/docker".to_owned()),
            ("--pidfile", "/run/docker.pid".to_owned()),
            ("--host", SOCKET.to_owned()),
            ("--containerd-namespace", namespace.clone()),
            ("--containerd-plugins-namespace", format!("{namespace}-plugins")),
            ("--cgroup-parent", format!("/{namespace}")),
            ("--exec-opt", "native.cgroupdriver=cgroupfs".to_owned()),
        ];
        let dockerd = bin.join("dockerd").display().to_string();
        let mut argv = vec![dockerd.as_str()];
        argv.extend(options.iter().flat_map(|(option, value)| [*option, value.as_str()]));
        argv.extend(containerd.iter().flat_map(|(option, value)| [*option, *value]));
        let mut command = self.containerd.host.command(None, &[("PATH", &path)], &argv);
        let mut daemon = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        // It ends with its host or by `kill`; either way somebody has to collect it.
        std::thread::spawn(move || daemon.wait());
        eventually(LIMIT, || self.docker(&["version"])?.ok().map(drop)).map_err(|error| {
            let message = error.message().unwrap_or_default();
            format!("{message}\ndockerd's log ends:\n{}", self.log_tail(20)).into()
        })
    }

    /// dockerd itself asks a `runc` for its features, and builds images with it. On mini's side there is none but mini's
    /// own command line under that name; the shims' PATH is containerd's, where the tripwires stand.
    fn runc_of_dockerd(&self) -> Outcome<PathBuf> {
        if !self.on_mini() {
            return Ok(testbed().join("c2.1/bin"));
        }
        let named_runc = self.home().join("bin");
        let link = named_runc.join("runc");
        if !link.exists() {
            std::fs::create_dir_all(&named_runc)?;
            std::os::unix::fs::symlink(bin_dir()?.join("mini"), link)?;
        }
        Ok(named_runc)
    }

    /// An image without a registry: the only layer of an OCI archive, imported.
    pub fn load_image(&self, archive: &Path, name: &str) -> Outcome {
        let member = |name: &str| -> Outcome<Vec<u8>> {
            let tar = Command::new("tar").arg("-xOf").arg(archive).arg(format!("./{name}")).output()?;
            ensure!(tar.status.success(), "{}", String::from_utf8_lossy(&tar.stderr));
            Ok(tar.stdout)
        };
        let blob = |digest: &Value| format!("blobs/{}", digest.as_str().unwrap_or_default().replace(':', "/"));
        let index: Value = serde_json::from_slice(&member("index.json")?)?;
        let manifest: Value = serde_json::from_slice(&member(&blob(&index["manifests"][0]["digest"]))?)?;
        let layer = self.home().join(format!("{}.tar", self.id()));
        std::fs::write(&layer, member(&blob(&manifest["layers"][0]["digest"]))?)?;
        let layer = layer.display().to_string();
        self.docker(&["import", "--change", &format!("ENV PATH={PATH}"), "--change", "CMD /bin/sh", &layer, name])?
            .ok()?;
        Ok(())
    }

    /// `kill` of dockerd with the signal; containers may stay. Returns when it is gone.
    pub fn kill(&self, signal: &str) -> Outcome {
        let host = &self.containerd.host;
        let processes = host.processes()?;
        let (pid, _) =
            processes.iter().find(|(_, argv)| argv[0].ends_with("/dockerd")).ok_or("dockerd does not run")?;
        host.kill(*pid, signal)?;
        eventually(LIMIT, || {
            ensure!(!host.lives(*pid), "dockerd is still there");
            Ok(())
        })
    }

    /// The pid, on its host, of one of the test bed's programs.
    pub fn process(&self, program: &str) -> Outcome<u32> {
        let processes = self.containerd.host.processes()?;
        let path = testbed().join("docker/bin").join(program).display().to_string();
        let (pid, _) =
            processes.into_iter().find(|(_, argv)| argv[0] == path).ok_or(format!("{program} does not run"))?;
        Ok(pid)
    }

    /// A call of the client, with more variables, not started.
    fn command(&self, env: &[(&str, &str)], arguments: &[&str]) -> Command {
        let program = testbed().join("docker/bin/docker").display().to_string();
        let mut argv = vec![program.as_str()];
        argv.extend(arguments);
        self.beside(LIMIT, env, &argv)
    }

    /// A shell script beside dockerd, with its client and the programs under test in the PATH, not started.
    pub fn shell(&self, script: &str) -> Command {
        self.beside(LIMIT, &[], &["bash", "-c", script])
    }

    /// Runs such a script to its end, which may take the time given.
    pub fn shell_within(&self, limit: Duration, script: &str) -> Outcome<Output> {
        client::start(self.beside(limit, &[], &["bash", "-c", script]), script.to_owned(), limit)?.wait()
    }

    fn beside(&self, limit: Duration, env: &[(&str, &str)], argv: &[&str]) -> Command {
        let (cli, bin) = (self.home().join("cli"), testbed().join("docker/bin"));
        let programs = bin_dir().unwrap_or_default();
        let (cli, path) = (cli.display().to_string(), format!("{}:{}:{PATH}", bin.display(), programs.display()));
        let own = [("PATH", path.as_str()), ("DOCKER_HOST", SOCKET), ("DOCKER_CONFIG", &cli), ("TERM", "xterm")];
        self.containerd.host.command(Some(limit), &[&own, env].concat(), argv)
    }

    /// The answer of dockerd's API to a GET, as JSON: the client rounds numbers.
    pub fn api(&self, path: &str) -> Outcome<Value> {
        let mut socket = UnixStream::connect(self.containerd.host.path("/run/docker.sock"))?;
        socket.set_read_timeout(Some(LIMIT))?;
        // With 1.0 the answer ends with the connection, and comes in one piece.
        write!(socket, "GET {path} HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").ok_or("no HTTP")?;
        ensure!(head.contains(" 200 OK"), "GET {path}: {answer}");
        Ok(serde_json::from_str(body)?)
    }

    /// Starts the client.
    pub fn client(&self, arguments: &[&str]) -> Outcome<client::Running> {
        client::start(self.command(&[], arguments), format!("docker {}", arguments.join(" ")), LIMIT)
    }

    /// Runs the client to its end.
    pub fn docker(&self, arguments: &[&str]) -> Outcome<Output> {
        self.client(arguments)?.wait()
    }

    /// The same with more variables in its environment.
    pub fn docker_with(&self, env: &[(&str, &str)], arguments: &[&str]) -> Outcome<Output> {
        client::start(self.command(env, arguments), format!("{env:?} docker {}", arguments.join(" ")), LIMIT)?.wait()
    }

    /// The client on a terminal of 40 rows and 100 columns.
    pub fn terminal(&self, arguments: &[&str]) -> Outcome<Pty> {
        Pty::start(&self.command(&[], arguments), 40, 100)
    }

    /// The words of `docker VERB` (run or create) on the runtime under test.
    pub fn words<'a>(&'a self, verb: &'a str, flags: &[&'a str], command: &[&'a str]) -> Vec<&'a str> {
        self.words_of(IMAGE, verb, flags, command)
    }

    /// The same with another image.
    pub fn words_of<'a>(
        &'a self,
        image: &'a str,
        verb: &'a str,
        flags: &[&'a str],
        command: &[&'a str],
    ) -> Vec<&'a str> {
        let mut words = vec![verb, "--runtime", self.containerd.runtime.name(), "--label", &self.label];
        // A network costs a bridge port and rules each time: only tests about it have one.
        if !flags.iter().any(|flag| flag.starts_with("--net")) {
            words.extend(["--network", "none"]);
        }
        words.extend(flags);
        words.push(image);
        words.extend(command);
        words
    }

    /// `docker run --rm` with more flags, in the foreground, to its end.
    pub fn run(&self, flags: &[&str], command: &[&str]) -> Outcome<Output> {
        self.docker(&self.words("run", &[&["--rm"], flags].concat(), command))
    }

    /// The same with a shell script.
    pub fn sh(&self, flags: &[&str], script: &str) -> Outcome<Output> {
        self.run(flags, &["sh", "-c", script])
    }

    /// `docker run --detach`; returns the name.
    pub fn detached(&self, flags: &[&str], command: &[&str]) -> Outcome<String> {
        let id = self.id();
        self.docker(&self.words("run", &[&["--detach", "--name", &id], flags].concat(), command))?.ok()?;
        Ok(id)
    }

    /// A container that lives until it is removed, and ends at once when asked to.
    pub fn sleeper(&self, flags: &[&str]) -> Outcome<String> {
        self.detached(flags, &["sh", "-c", "trap 'exit 0' TERM; sleep 100000 & wait"])
    }

    /// `docker exec` of a shell script.
    pub fn exec(&self, flags: &[&str], id: &str, script: &str) -> Outcome<Output> {
        self.docker(&[&["exec"], flags, &[id, "sh", "-c", script]].concat())
    }

    /// What a template of `docker inspect` gives.
    pub fn inspect(&self, id: &str, template: &str) -> Outcome<String> {
        let output = self.docker(&["inspect", "--format", template, id])?.ok()?;
        Ok(output.text().trim_end().to_owned())
    }

    /// Waits until a template of `docker inspect` gives the value.
    pub fn wait_for(&self, id: &str, template: &str, value: &str) -> Outcome {
        eventually(LIMIT, || {
            let now = self.inspect(id, template)?;
            ensure!(now == value, "{template} of {id} is {now:?}, not {value:?}");
            Ok(())
        })
    }

    /// The container's whole id.
    pub fn full_id(&self, id: &str) -> Outcome<String> {
        self.inspect(id, "{{.Id}}")
    }

    /// The pid of the container's init, on dockerd's host.
    pub fn pid(&self, id: &str) -> Outcome<u32> {
        Ok(self.inspect(id, "{{.State.Pid}}")?.parse()?)
    }

    /// Removes the containers of this test, with their anonymous volumes; fails if something of one stays.
    pub fn finish(&self) -> Outcome {
        let filter = format!("label={}", self.label);
        let all = self.docker(&["ps", "--all", "--quiet", "--no-trunc", "--filter", &filter])?.ok()?.text();
        let ids: Vec<&str> = all.lines().collect();
        if !ids.is_empty() {
            self.docker(&[&["rm", "--force", "--volumes"], ids.as_slice()].concat())?.ok()?;
        }
        for id in ids {
            residue::assert_none_of(&self.containerd, id, Duration::from_secs(15))?;
        }
        Ok(())
    }
}
