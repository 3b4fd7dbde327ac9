//! A mount that was made the short way looks like one that was made the long way.

use libtest_mimic::{Failed, Trial};
use runtime::child::image::Fault;
use runtime::plan::{Edge, Op, Section, Step};
use runtime::{Container, Create};
use serde_json::json;

use super::bundle::{self, Bundle, ended};
use super::watchdog;

/// Adds the tests.
pub fn trials(trials: &mut Vec<Trial>) {
    trials.push(Trial::test("ways::both_give_the_same_mounts", || {
        watchdog::alive("ways");
        both_give_the_same_mounts()
    }));
}

/// What mountinfo says of the mounts of a container that waits for its start, without what is another number each time.
fn mounts(bundle: &Bundle, request: Create<'_>) -> Result<Vec<String>, Failed> {
    let (container, child) = Container::create(&bundle::host(), request).map_err(|e| e.to_string())?;
    let table = std::fs::read_to_string(format!("/proc/{}/mountinfo", child.pid))?;
    container.signal(libc::SIGKILL)?;
    ended(&child.pidfd);
    container.delete()?;
    bundle.restore();
    // id parent major:minor root point …: the ids and the device are new, and so is the id of a peer group.
    let stays = |line: &str| {
        let words = line.split(' ').skip(3).filter(|word| !word.starts_with("master:") && !word.starts_with("shared:"));
        words.collect::<Vec<_>>().join(" ")
    };
    Ok(table.lines().map(stays).collect())
}

/// Two ways lead on from it: the other one is a fault away.
fn is_short(step: &Step) -> bool {
    let short = matches!(step.op, Op::Fchdir { .. } | Op::Mount { .. } | Op::MoveMountTo { .. });
    let other = step.on.0.iter().flatten().any(|edge| edge.errno == Edge::ANY);
    short && other
}

fn both_give_the_same_mounts() -> Result<(), Failed> {
    let bundle = Bundle::new("ways", 0);
    let volume = bundle.dir.join("volume");
    let mount = |to: &str, kind: &str, options: &[&str]| json!({"destination": to, "type": kind, "source": kind, "options": options});
    let spec = bundle.spec(&json!({
        "mounts": [
            mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
            mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
            mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            mount("/run", "tmpfs", &["nosuid", "noatime", "nodiratime", "mode=0710", "nr_inodes=77"]),
            {"destination": "/new", "type": "tmpfs", "options": ["mode=700"]},
            {"destination": "/data", "type": "bind", "source": volume, "options": ["rbind", "rprivate", "ro"]},
        ],
    }));
    let plan = bundle.plan(&bundle::host(), &bundle.create(&spec), None);
    let short = mounts(&bundle, bundle.create(&spec))?;
    for (point, what) in [("/dev/pts", "- devpts devpts rw,gid=5,mode=620,ptmxmode=666"), ("/new", "- tmpfs none rw")] {
        let is = |line: &&String| line.contains(&format!(" {point} ")) && line.contains(what);
        assert_eq!(short.iter().filter(is).count(), 1, "{point} {what}: {short:#?}");
    }
    let steps: Vec<usize> = (0..plan.child.len()).filter(|i| is_short(&plan.child[*i])).collect();
    assert_eq!(steps.len(), 10, "one for each mount that is not bound, and two where a place is entered first");
    for step in steps {
        let fault = Some(Fault { section: Section::Child, step: step as u16, errno: libc::EIO });
        let long = mounts(&bundle, Create { fault, ..bundle.create(&spec) })?;
        assert_eq!(long, short, "{:?}", plan.child[step].op);
    }
    Ok(())
}
