//! The conformance suite of Kubernetes' runtime interface (cri-tools' critest) on mini and on runc, with images of our own
//! behind a registry on loopback. Every check that is not run is in `integration/critest/skipped.md`, with its reason.

use integration::containerd::{LIMIT, SOCKET, testbed};
use integration::{Containerd, Outcome, Runtime, Version, client, cri, ensure, eventually};
use libtest_mimic::{Arguments, Trial};
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

/// Checks that are not run, and why.
const SKIPPED: &str = include_str!("../critest/skipped.md");
/// Where every registry that the suite names is found (containerd, docs/hosts.md: `_default` is all of them).
const HOSTS: &str =
    "server = \"http://127.0.0.1:5000\"\n[host.\"http://127.0.0.1:5000\"]\ncapabilities = [\"pull\", \"resolve\"]\n";
/// The longest that the suite may take.
const TIME: Duration = Duration::from_secs(900);

/// A row of the list: what a check's full name contains; whether the suite is told to leave it out, or does so itself.
struct Skipped {
    name: &'static str,
    told: bool,
}

fn skipped() -> Vec<Skipped> {
    let row = |line: &'static str| -> Option<Skipped> {
        let mut cells = line.strip_prefix('|')?.split('|').map(str::trim);
        let (name, who, reason) = (cells.next()?, cells.next()?, cells.next()?);
        let told = match who {
            "we" => true,
            "critest" => false,
            _ => return None,
        };
        assert!(!reason.is_empty(), "{name} is left out without a reason");
        Some(Skipped { name, told })
    };
    SKIPPED.lines().filter_map(row).collect()
}

/// A registry on the host's loopback with the images in it.
struct Registry<'a> {
    containerd: &'a Containerd,
    process: Child,
}

impl<'a> Registry<'a> {
    fn start(containerd: &'a Containerd, directory: &Path) -> Outcome<Registry<'a>> {
        let config = directory.join("registry.yml");
        let data = directory.join("registry");
        let text = format!(
            "version: 0.1\nlog: {{ level: error }}\nhttp: {{ addr: 127.0.0.1:5000 }}\n\
             storage: {{ filesystem: {{ rootdirectory: {data:?} }} }}\n"
        );
        std::fs::write(&config, text)?;
        let program = testbed().join("docker/bin/docker-registry").display().to_string();
        let mut command = containerd.host.command(None, &[], &[&program, "serve", &config.display().to_string()]);
        let process = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let registry = Registry { containerd, process };
        registry.fill()?;
        Ok(registry)
    }

    fn fill(&self) -> Outcome {
        let images = testbed().join("critest");
        let archive = images.join("images.tar").display().to_string();
        self.containerd.ctr(&["images", "import", "--local", "--snapshotter", "overlayfs", &archive])?.ok()?;
        for name in std::fs::read_to_string(images.join("names"))?.lines() {
            let push = || self.containerd.ctr(&["images", "push", "--local", "--plain-http", name])?.ok().map(drop);
            eventually(LIMIT, push)?;
            self.containerd.ctr(&["images", "rm", name])?.ok()?;
        }
        Ok(())
    }
}

impl Drop for Registry<'_> {
    fn drop(&mut self) {
        let all = self.containerd.host.processes().unwrap_or_default();
        for (pid, _) in all.iter().filter(|(_, argv)| argv[0].ends_with("docker-registry")) {
            let _ = self.containerd.host.kill(*pid, "KILL");
        }
        let _ = self.process.wait();
    }
}

/// One check of the report: its full name, its state, why it failed.
struct Check {
    name: String,
    state: String,
    message: String,
}

fn checks(report: &Value) -> Vec<Check> {
    let specs = report[0]["SpecReports"].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let check = |spec: &Value| {
        let mut words: Vec<String> =
            spec["ContainerHierarchyTexts"].as_array().into_iter().flatten().map(&text).collect();
        words.push(text(&spec["LeafNodeText"]));
        let failure = &spec["Failure"];
        let place = format!("{}:{}", text(&failure["Location"]["FileName"]), failure["Location"]["LineNumber"]);
        let message = format!("{} ({place})", text(&failure["Message"]));
        Check { name: words.join(" "), state: text(&spec["State"]), message }
    };
    // Measurements are compiled in, but the suite runs them only when asked to.
    specs.iter().map(check).filter(|check| !check.name.contains("benchmark")).collect()
}

fn run(runtime: Runtime) -> Outcome {
    let containerd = Containerd::start(Version::C2_1, runtime)?;
    let certificates = containerd.scratch().join("certs.d");
    std::fs::create_dir_all(certificates.join("_default"))?;
    std::fs::write(certificates.join("_default/hosts.toml"), HOSTS)?;
    let table = format!("[plugins.\"io.containerd.cri.v1.images\".registry]\nconfig_path = {certificates:?}\n");
    // Host ports, which the suite asks for.
    let ports = json!({ "type": "portmap", "capabilities": { "portMappings": true }, "snat": true });
    cri::set_up(&containerd, &[ports], &table)?;
    let directory = containerd.scratch();
    let registry = Registry::start(&containerd, &directory)?;
    let report = conform(&containerd, &directory);
    drop(registry);
    remove_shared_memory(&containerd)?;
    let report = report?;
    let all = checks(&report);
    compare(runtime, &all)?;
    ensure!(containerd.tripped().is_none(), "another runtime was executed:\n{:?}", containerd.tripped());
    Ok(())
}

/// The suite leaves segments of shared memory, in the machine's own namespace. Of those that the host's proc lists, the ones
/// made there have a maker: pids of other namespaces are shown as 0 (proc_pid_sysvipc(5), the column cpid).
fn remove_shared_memory(containerd: &Containerd) -> Outcome {
    let script = "awk 'NR > 1 && $5 != 0 { print $2 }' /proc/sysvipc/shm | xargs -r -n 1 ipcrm -m";
    let done = containerd.host.command(Some(LIMIT), &[], &["sh", "-c", script]).output()?;
    ensure!(done.status.success(), "ipcrm: {}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}

/// Runs the suite; returns its report.
fn conform(containerd: &Containerd, directory: &Path) -> Outcome<Value> {
    let temporary = directory.join("tmp");
    std::fs::create_dir_all(&temporary)?;
    let (report, address) = (directory.join("report.json"), format!("unix://{SOCKET}"));
    let handler = if containerd.runtime == Runtime::Mini { "mini-path" } else { "runc" };
    let program = cri::program("critest");
    let file = format!("--ginkgo.json-report={}", report.display());
    let (endpoint, handler) = (format!("--runtime-endpoint={address}"), format!("--runtime-handler={handler}"));
    let mut argv = vec![program.as_str(), "--config=/dev/null", &endpoint, &handler, &file];
    // Always in the same order.
    argv.extend(["--ginkgo.seed=1", "--ginkgo.randomize-all=false", "--ginkgo.no-color"]);
    let left_out: Vec<String> =
        skipped().iter().filter(|one| one.told).map(|one| format!("--ginkgo.skip={}", one.name)).collect();
    argv.extend(left_out.iter().map(String::as_str));
    let temporary = temporary.display().to_string();
    let command = containerd.host.command(Some(TIME), &[("TMPDIR", &temporary)], &argv);
    let output = client::start(command, "critest".to_owned(), TIME)?.wait()?;
    let text = std::fs::read_to_string(&report).map_err(|error| format!("no report: {error}\n{}", output.report()))?;
    Ok(serde_json::from_str(&text)?)
}

/// Nothing failed, and what was left out is what the list says.
fn compare(runtime: Runtime, all: &[Check]) -> Outcome {
    let with = |state: &str| all.iter().filter(|check| check.state == state).collect::<Vec<_>>();
    let (passed, left_out) = (with("passed"), with("skipped"));
    let failed: Vec<String> = all
        .iter()
        .filter(|check| check.state != "passed" && check.state != "skipped")
        .map(|check| format!("{}: {}: {}", check.name, check.state, check.message))
        .collect();
    println!("critest on {runtime}: {} passed, {} failed, {} skipped", passed.len(), failed.len(), left_out.len());
    ensure!(failed.is_empty(), "{} of {} failed:\n{}", failed.len(), all.len(), failed.join("\n"));
    ensure!(passed.len() > 100, "only {} of {} were run", passed.len(), all.len());
    let list = skipped();
    let unexplained: Vec<&String> = left_out
        .iter()
        .map(|check| &check.name)
        .filter(|name| !list.iter().any(|row| name.contains(row.name)))
        .collect();
    ensure!(unexplained.is_empty(), "left out without a reason in skipped.md: {unexplained:#?}");
    let stale: Vec<&str> =
        list.iter().map(|row| row.name).filter(|name| !all.iter().any(|check| check.name.contains(name))).collect();
    ensure!(stale.is_empty(), "in skipped.md, and no check is called so: {stale:?}");
    Ok(())
}

fn main() {
    let arguments = Arguments::from_args();
    let trials = [Runtime::Mini, Runtime::Runc]
        .into_iter()
        .map(|runtime| Trial::test(format!("critest::{runtime}"), move || run(runtime)))
        .collect();
    libtest_mimic::run(&arguments, trials).exit();
}
