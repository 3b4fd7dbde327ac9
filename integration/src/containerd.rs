//! One containerd of the test bed, on a [`Host`] of its own.

use crate::events::Collector;
use crate::host::Host;
use crate::residue::Residue;
use crate::{Outcome, Output, client, ensure, eventually};
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// The image that `scripts/busybox-image` makes.
pub const IMAGE: &str = "docker.io/library/mini-busybox:latest";
/// The time limit of a client call that names none. Long, because machines that test may be busy.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Where a containerd listens on its host.
pub const SOCKET: &str = "/run/containerd/containerd.sock";
/// Its state directory there.
pub const STATE: &str = "/run/containerd";
const TRIPWIRE: &str = "/run/tripwire";

/// A containerd of the test bed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Version {
    /// Debian 12's: Task v2, plain address.
    C1_6,
    /// Debian 13's: Task v2, plain address or JSON.
    C1_7,
    /// The newer suites': Task v3, plain address or JSON.
    C2_1,
    /// Built from its module: protobuf bootstrap.
    C2_3,
}

impl Version {
    /// All of them, oldest first.
    pub const ALL: [Version; 4] = [Version::C1_6, Version::C1_7, Version::C2_1, Version::C2_3];

    /// Whether it is of the first generation: config version 2, CRI as one plugin, Task v2 only.
    pub fn is_1(self) -> bool {
        matches!(self, Version::C1_6 | Version::C1_7)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(match self {
            Version::C1_6 => "1.6",
            Version::C1_7 => "1.7",
            Version::C2_1 => "2.1",
            Version::C2_3 => "2.3",
        })
    }
}

/// What runs the containers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Runtime {
    /// The program under test.
    Mini,
    /// The reference: containerd's own shim with runc.
    Runc,
}

impl Runtime {
    /// The name clients give.
    pub fn name(self) -> &'static str {
        match self {
            Runtime::Mini => "io.containerd.mini.v2",
            Runtime::Runc => "io.containerd.runc.v2",
        }
    }
}

impl fmt::Display for Runtime {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(match self {
            Runtime::Mini => "mini",
            Runtime::Runc => "runc",
        })
    }
}

/// A running containerd with the image in it.
pub struct Containerd {
    /// The version it was started as.
    pub version: Version,
    /// The version that runs now, or did last.
    running: Mutex<Version>,
    /// The runtime its tests use; decides what is in its PATH.
    pub runtime: Runtime,
    /// The namespaces it runs in.
    pub host: Host,
    /// The containerd namespace of the tests, and so the cgroup above their containers: nobody else's.
    pub namespace: String,
    /// Its state before the first container.
    before: Mutex<Option<Residue>>,
    daemon: Mutex<Option<Child>>,
    events: Mutex<Option<Collector>>,
    seen: Arc<Mutex<Vec<crate::events::Event>>>,
    directory: tempfile::TempDir,
    path: String,
}

/// Where `scripts/testbed` has put things.
pub fn testbed() -> PathBuf {
    std::env::var_os("MINI_TESTBED").map_or_else(|| PathBuf::from("/var/cache/mini-testbed"), PathBuf::from)
}

/// Where the programs under test are: MINI_BIN_DIR, else where cargo puts binaries beside this test.
pub fn bin_dir() -> Outcome<PathBuf> {
    if let Some(dir) = std::env::var_os("MINI_BIN_DIR") {
        return Ok(PathBuf::from(dir));
    }
    let test = std::env::current_exe()?;
    Ok(test.parent().and_then(Path::parent).ok_or("this test has no target directory")?.to_path_buf())
}

/// Removes what tests left that were killed by their time limit: their processes ended with their pid namespaces, but
/// control groups and directories carry the name of a test process that is no more.
fn sweep() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    let stale = |path: &Path| {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let owner = name.strip_prefix("mini-test-").and_then(|rest| rest.split_once('-')).map(|pair| pair.0.to_owned());
        owner.is_some_and(|pid| pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists())
    };
    ONCE.call_once(|| {
        let entries = |directory: &Path| directory.read_dir().into_iter().flatten().flatten().map(|entry| entry.path());
        for directory in entries(Path::new("/var/tmp")).filter(|path| stale(path)) {
            let _ = std::fs::remove_dir_all(directory);
        }
        for hierarchy in crate::residue::hierarchies() {
            for group in entries(&hierarchy).filter(|path| stale(path)) {
                let namespace = group.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
                for group in crate::residue::cgroups_of(&namespace) {
                    let _ = std::fs::remove_dir(group);
                }
            }
        }
    });
}

impl Containerd {
    /// Starts one and imports the image.
    pub fn start(version: Version, runtime: Runtime) -> Outcome<Containerd> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let bed = testbed();
        let own = bed.join(format!("c{version}/bin"));
        let image = bed.join("image/busybox.tar");
        ensure!(image.exists() && own.join("containerd").exists(), "run scripts/testbed first: {bed:?} is not filled");
        let first = match runtime {
            // On mini no other runtime may be executed: the tripwires stand before everything.
            Runtime::Mini => {
                let binaries = bin_dir()?;
                let shim = binaries.join("containerd-shim-mini-v2");
                ensure!(shim.exists(), "{shim:?} is missing: build it, or say where it is by MINI_BIN_DIR");
                format!("{}:{}", bed.join("tripwire").display(), binaries.display())
            }
            Runtime::Runc => own.display().to_string(),
        };
        sweep();
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let containerd = Containerd {
            version,
            running: Mutex::new(version),
            runtime,
            host: Host::start()?,
            namespace: format!("mini-test-{}-{number}", std::process::id()),
            before: Mutex::default(),
            daemon: Mutex::new(None),
            events: Mutex::new(None),
            seen: Arc::default(),
            directory: tempfile::Builder::new()
                .prefix(&format!("mini-test-{}-", std::process::id()))
                .tempdir_in("/var/tmp")?,
            path: format!("{first}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        };
        containerd.configure()?;
        containerd.launch()?;
        let image = image.to_str().ok_or("the test bed's path is not UTF-8")?;
        containerd.ctr(&["images", "import", "--snapshotter", "overlayfs", image])?.ok()?;
        containerd.note_before()?;
        Ok(containerd)
    }

    /// Takes what is there now for what [`Containerd::assert_nothing_left`] compares with: for daemons put on top.
    pub fn note_before(&self) -> Outcome {
        let now = Residue::of(self)?;
        *Self::lock(&self.before) = Some(now);
        Ok(())
    }

    fn configure(&self) -> Outcome {
        let (format, cri, monitor) = match *Self::lock(&self.running) {
            version if version.is_1() => (2, r#""io.containerd.grpc.v1.cri""#, "internal.v1"),
            _ => (
                3,
                r#""io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime""#,
                "monitor.container.v1",
            ),
        };
        let restart = format!("[plugins.\"io.containerd.{monitor}.restart\"]\ninterval = \"1s\"\n");
        self.write_config(format, "", &format!("{cri}, "), &restart)
    }

    /// Writes config.toml: without what would leave directories of its own outside root and state (nri, opt), without
    /// the snapshotters nobody uses here, without the plugins named (each with quotes and a comma).
    fn write_config(&self, format: u32, keys: &str, without: &str, tables: &str) -> Outcome {
        let config = format!(
            r#"version = {format}
{keys}
root = "{root}"
state = "{STATE}"
disabled_plugins = [{without}"io.containerd.nri.v1.nri", "io.containerd.internal.v1.opt",
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.blockfile", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.erofs", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.internal.v1.tracing", "io.containerd.tracing.processor.v1.otlp"]
[grpc]
address = "{SOCKET}"
[debug]
level = "debug"
{tables}"#,
            root = self.directory.path().join("root").display(),
        );
        std::fs::write(self.directory.path().join("config.toml"), config)?;
        Ok(())
    }

    /// Restarts it with CRI, and with more keys and tables in its config, which is in the format of that number.
    pub fn restart_with_cri(&self, format: u32, keys: &str, tables: &str) -> Outcome {
        self.kill()?;
        self.write_config(format, keys, "", tables)?;
        self.restart()
    }

    /// Starts another version with CRI after [`Containerd::kill`]; the tables of its config are in the format of that number.
    pub fn start_with_cri(&self, version: Version, format: u32, tables: &str) -> Outcome {
        *Self::lock(&self.running) = version;
        self.write_config(format, "", "", tables)?;
        self.launch()
    }

    /// The PATH it has: the runtime under test is found in it.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The file of its configuration.
    pub fn config(&self) -> PathBuf {
        self.directory.path().join("config.toml")
    }

    fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn launch(&self) -> Outcome {
        let log = std::fs::File::options().create(true).append(true).open(self.log())?;
        let program = testbed().join(format!("c{}/bin/containerd", Self::lock(&self.running)));
        let config = self.directory.path().join("config.toml");
        let (program, config) = (program.display().to_string(), config.display().to_string());
        let env = [("PATH", self.path.as_str()), ("MINI_TRIPWIRE", TRIPWIRE)];
        let daemon = self
            .host
            .command(None, &env, &[&program, "--config", &config])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        *Self::lock(&self.daemon) = Some(daemon);
        eventually(LIMIT, || self.ctr(&["version"])?.ok().map(drop)).map_err(|error| self.with_log(&error))?;
        let call = self.command(None, &["events"]);
        *Self::lock(&self.events) = Some(Collector::start(call, self.seen.clone())?);
        let mark = format!("mark-{}", Self::lock(&self.seen).len());
        // The collector is there once it shows an event that was caused after its start.
        eventually(LIMIT, || {
            self.ctr(&["namespaces", "label", &self.namespace, &format!("{mark}=x")])?;
            let seen = Self::lock(&self.seen);
            ensure!(seen.iter().any(|event| event.message.to_string().contains(&mark)), "ctr events shows nothing");
            Ok(())
        })
    }

    fn with_log(&self, error: &libtest_mimic::Failed) -> String {
        format!("{}\ncontainerd's log ends:\n{}", error.message().unwrap_or_default(), self.log_tail(20))
    }

    /// The file of containerd's log, shims' included.
    pub fn log(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    /// The last lines of the log.
    pub fn log_tail(&self, lines: usize) -> String {
        let log = std::fs::read(self.log()).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let all: Vec<&str> = log.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// A directory that tests may use, removed at the end.
    pub fn scratch(&self) -> PathBuf {
        self.directory.path().join("scratch")
    }

    /// The pid, on its host, of containerd.
    pub fn pid(&self) -> Outcome<u32> {
        let processes = self.host.processes()?;
        let mut found = processes.iter().filter(|(_, argv)| argv[0].ends_with("/bin/containerd"));
        Ok(found.next().ok_or("containerd does not run")?.0)
    }

    /// `kill -9` of containerd; containers and shims stay. Returns when it is gone.
    pub fn kill(&self) -> Outcome {
        self.host.kill(self.pid()?, "KILL")?;
        if let Some(mut daemon) = Self::lock(&self.daemon).take() {
            daemon.wait()?;
        }
        *Self::lock(&self.events) = None;
        self.remove_hidden_bundles()
    }

    /// containerd renames a bundle to a hidden one before it removes it (core/runtime/v2/bundle.go, atomicDelete); killed in
    /// between it leaves that, and no containerd looks at a hidden one again.
    fn remove_hidden_bundles(&self) -> Outcome {
        let namespaces = self.host.path("/run/containerd/io.containerd.runtime.v2.task").read_dir();
        for namespace in namespaces.into_iter().flatten().flatten() {
            for bundle in namespace.path().read_dir()?.flatten() {
                if bundle.file_name().to_string_lossy().starts_with('.') {
                    std::fs::remove_dir_all(bundle.path())?;
                }
            }
        }
        Ok(())
    }

    /// Starts it again after [`Containerd::kill`], with the same state.
    pub fn restart(&self) -> Outcome {
        self.launch()
    }

    /// Kills it and starts another version with the same root, state and runtime; from then on clients are that version's
    /// too.
    pub fn replace_by(&self, version: Version) -> Outcome {
        self.kill()?;
        self.start_as(version)
    }

    /// The same after [`Containerd::kill`].
    pub fn start_as(&self, version: Version) -> Outcome {
        *Self::lock(&self.running) = version;
        self.configure()?;
        self.launch()
    }

    /// A call of ctr in the tests' namespace, not started.
    pub fn command(&self, limit: Option<Duration>, arguments: &[&str]) -> Command {
        let ctr = testbed().join(format!("c{}/bin/ctr", Self::lock(&self.running))).display().to_string();
        let mut argv = vec![ctr.as_str(), "--namespace", &self.namespace];
        argv.extend(arguments);
        self.host.command(limit, &[("CONTAINERD_ADDRESS", SOCKET)], &argv)
    }

    /// Starts ctr.
    pub fn ctr_start(&self, limit: Duration, arguments: &[&str]) -> Outcome<client::Running> {
        client::start(self.command(Some(limit), arguments), format!("ctr {}", arguments.join(" ")), limit)
    }

    /// Runs ctr to its end.
    pub fn ctr(&self, arguments: &[&str]) -> Outcome<Output> {
        self.ctr_start(LIMIT, arguments)?.wait()
    }

    /// The events so far and to come.
    pub fn events<T>(&self, look: impl FnOnce(&Collector) -> Outcome<T>) -> Outcome<T> {
        // A collector of the same list: tests wait side by side, so none may hold the lock while it waits.
        let view = Collector::view(self.seen.clone());
        look(&view)
    }

    /// The bundle directory of a container, as the machine sees it.
    pub fn bundle(&self, id: &str) -> PathBuf {
        self.host.path(format!("{STATE}/io.containerd.runtime.v2.task/{}/{id}", self.namespace))
    }

    /// The bundle directories of that id that are there, in any namespace.
    pub fn bundles(&self, id: &str) -> Vec<PathBuf> {
        let tasks = self.host.path(format!("{STATE}/io.containerd.runtime.v2.task"));
        let namespaces = tasks.read_dir().into_iter().flatten().flatten();
        namespaces.map(|namespace| namespace.path().join(id)).filter(|bundle| bundle.exists()).collect()
    }

    /// The calls of other runtimes that a tripwire noted.
    pub fn tripped(&self) -> Option<String> {
        let noted = std::fs::read_to_string(self.host.path(TRIPWIRE))
            .or_else(|_| std::fs::read_to_string(self.host.path("/run/containerd/tripwire")))
            .ok()?;
        // CRI of 2.1 asks a handler's type for its features when it starts, also where a runtime_path replaces the type's
        // program: the one call of another runtime that makes no container.
        let asked = |line: &&str| line.contains("/runc features (") && line.contains("containerd-shim-runc-v2 -info");
        let calls: Vec<&str> = noted.lines().filter(|line| !asked(line)).collect();
        (!calls.is_empty()).then(|| calls.join("\n"))
    }

    /// What is there now and was not before the first container, after some seconds of grace.
    pub fn assert_nothing_left(&self) -> Outcome {
        match &*Self::lock(&self.before) {
            Some(before) => before.assert_unchanged_after(self, Duration::from_secs(15)),
            None => Ok(()),
        }
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        *Self::lock(&self.events) = None;
        // Everything ends with the pid namespace; only the cgroups outlive it.
        self.host.stop();
        if let Some(mut daemon) = Self::lock(&self.daemon).take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        for group in crate::residue::cgroups_of(&self.namespace) {
            // Deepest first; groups of killed processes take a moment to become empty.
            let _ = eventually(Duration::from_secs(5), || Ok(std::fs::remove_dir(&group)?));
        }
    }
}
