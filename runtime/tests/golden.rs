//! The plans of real specs, compared with checked-in text: whoever changes what a container's first process does sees it
//! here as a diff, and so does whoever reviews it. The machines are made up, so that every machine compiles the same.
//!
//! `MINI_BLESS=1 cargo test -p mini-runtime --test golden` rewrites the texts.
#![forbid(unsafe_code)]

#[path = "plan/hosts.rs"]
mod hosts;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use runtime::Host;
use runtime::plan::{Plan, compile, laws};
use runtime::spec::{Namespace, NamespaceKind, Process, Spec};

/// Where the bundle would be.
const BUNDLE: &str = "/run/bundle";

fn here(dir: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(dir)
}

fn spec(name: &str) -> Spec {
    let path = here("fixtures/specs").join(format!("{name}.json"));
    Spec::parse(&std::fs::read(&path).unwrap()).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn init(host: &Host, spec: &Spec, no_pivot: Option<&[PathBuf]>) -> Plan {
    let (groups, tasks) = hosts::places(host, &spec.linux.cgroups_path);
    compile::init(&compile::Init {
        spec,
        host,
        id: "golden",
        bundle: Path::new(BUNDLE),
        groups: &groups,
        tasks: &tasks,
        stdio: [true; 3],
        no_pivot,
        no_new_keyring: false,
        preserve_fds: 0,
        started_by_others: false,
    })
    .unwrap()
}

fn exec(host: &Host, spec: &Spec, process: &Process) -> Plan {
    let (groups, tasks) = hosts::places(host, &spec.linux.cgroups_path);
    compile::exec(&compile::Exec {
        spec,
        process,
        way: hosts::way(host, spec),
        host,
        id: "golden",
        groups: &groups,
        tasks: &tasks,
        stdio: [true, true, false],
        no_new_keyring: false,
        preserve_fds: 0,
    })
    .unwrap()
}

/// A shell of another user, as `ctr task exec -t --user` asks for it.
fn shell(spec: &Spec) -> Process {
    let mut process = spec.process.clone().unwrap();
    process.args = ["sh", "-c", "exit 3"].map(String::from).into();
    process.terminal = true;
    process.user.uid = 1000;
    process.user.gid = 1000;
    process.cwd = "/tmp".into();
    process
}

/// Every golden plan: its name is the file's.
fn plans() -> Vec<(String, Plan)> {
    let mut all = Vec::new();
    let hybrid = [
        "ctr-2.3-default",
        "ctr-2.3-privileged",
        "ctr-2.3-tty",
        "ctr-2.3-userns",
        "ctr-2.3-seccomp",
        "ctr-2.3-options",
        "ctr-1.6-default",
        "nerdctl-default",
        "docker-28.5-default",
        "docker-28.5-tty",
        "docker-28.5-userns",
        "docker-28.5-privileged",
        "docker-28.5-options",
        "docker-28.5-host",
        "cri-2.3-pod-pause",
        "cri-2.3-pod-member",
        "cri-2.3-userns-pause",
        "cri-2.3-userns-member",
        "cri-2.3-privileged-member",
        "runc-1.3-spec-rootless",
    ];
    for name in hybrid {
        all.push((format!("{name}.hybrid"), init(&hosts::hybrid(), &spec(name), None)));
    }
    for name in ["ctr-2.3-default", "docker-28.5-default", "docker-28.5-userns", "cri-2.3-pod-member"] {
        all.push((format!("{name}.v2"), init(&hosts::v2(), &spec(name), None)));
    }
    for name in ["ctr-2.3-tty", "docker-28.5-default", "cri-2.3-pod-member"] {
        all.push((format!("{name}.old"), init(&hosts::old(), &spec(name), None)));
    }
    let visible = ["/sys", "/proc"].map(PathBuf::from);
    let initramfs = init(&hosts::hybrid(), &spec("ctr-2.3-default"), Some(&visible));
    all.push(("ctr-2.3-default.no-pivot".into(), initramfs));
    for name in ["ctr-2.3-default", "docker-28.5-userns", "cri-2.3-pod-member", "docker-28.5-host"] {
        let spec = spec(name);
        let process = spec.process.clone().unwrap();
        all.push((format!("{name}.exec"), exec(&hosts::hybrid(), &spec, &process)));
    }
    let plain = spec("ctr-2.3-default");
    all.push(("ctr-2.3-default.exec-old".into(), exec(&hosts::old(), &plain, plain.process.as_ref().unwrap())));
    let mut spec = spec("docker-28.5-default");
    all.push(("docker-28.5-default.exec-tty".into(), exec(&hosts::v2(), &spec, &shell(&spec))));
    let mut own = spec.clone();
    own.linux.namespaces.push(Namespace { kind: NamespaceKind::Cgroup, path: String::new() });
    all.push(("docker-28.5-cgroupns.exec".into(), exec(&hosts::v2(), &own, &shell(&own))));
    // As docker writes it on a host that has AppArmor.
    spec.process.as_mut().unwrap().apparmor_profile = "docker-default".into();
    all.push(("docker-28.5-apparmor.v2".into(), init(&hosts::v2(), &spec, None)));
    all.push(("docker-28.5-apparmor.exec".into(), exec(&hosts::v2(), &spec, &shell(&spec))));
    all
}

/// The lines that differ, each with its number in its text, between lines that do not (longest common subsequence).
fn diff(old: &str, new: &str) -> String {
    let (a, b): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    let mut common = vec![vec![0u16; b.len() + 1]; a.len() + 1];
    for i in (0..a.len()).rev() {
        for j in (0..b.len()).rev() {
            let skip = common[i + 1][j].max(common[i][j + 1]);
            common[i][j] = if a[i] == b[j] { common[i + 1][j + 1] + 1 } else { skip };
        }
    }
    let (mut i, mut j, mut out) = (0, 0, String::new());
    while i < a.len() || j < b.len() {
        if i < a.len() && j < b.len() && a[i] == b[j] {
            (i, j) = (i + 1, j + 1);
        } else if j == b.len() || (i < a.len() && common[i + 1][j] >= common[i][j + 1]) {
            out.push_str(&format!("-{:<4}{}\n", i + 1, a[i]));
            i += 1;
        } else {
            out.push_str(&format!("+{:<4}{}\n", j + 1, b[j]));
            j += 1;
        }
    }
    out
}

#[test]
fn plans_of_real_specs_are_the_checked_in_ones() {
    let bless = std::env::var_os("MINI_BLESS").is_some();
    let mut wrong = String::new();
    let mut names = BTreeSet::new();
    for (name, plan) in plans() {
        assert_eq!(laws::broken(&plan), None, "{name}");
        let file = format!("{name}.plan");
        let path = here("golden").join(&file);
        let text = plan.to_string();
        if bless {
            std::fs::write(&path, &text).unwrap();
        }
        let golden = std::fs::read_to_string(&path).unwrap_or_default();
        if golden != text {
            wrong.push_str(&format!("--- {file}\n{}", diff(&golden, &text)));
        }
        assert!(names.insert(file), "{name} is there twice");
    }
    assert!(wrong.is_empty(), "plans have changed; if they should have, MINI_BLESS=1 writes them down\n{wrong}");
    let there = std::fs::read_dir(here("golden")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    assert_eq!(there.collect::<BTreeSet<_>>(), names, "files that no plan belongs to");
}

#[test]
fn a_changed_plan_is_shown_as_a_diff() {
    assert_eq!(diff("a\nb\nc\n", "a\nx\nc\nd\n"), "-2   b\n+2   x\n+4   d\n");
}
