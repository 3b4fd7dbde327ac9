//! The harness itself: what it is there to notice, it notices.

use integration::containerd::testbed;
use integration::{Bed, Outcome, cases, ensure, eventually, suite};
use std::time::Duration;

fn inside(bed: &Bed, script: &str) -> Outcome {
    let status = bed.containerd.host.command(None, &[], &["bash", "-c", script]).status()?;
    ensure!(status.success(), "{script} failed");
    Ok(())
}

/// Does something to the host, expects the harness to name it, and undoes it.
fn noticed(bed: &Bed, done: &str, undone: &str, words: &str) -> Outcome {
    let before = integration::residue::Residue::of(&bed.containerd)?;
    inside(bed, done)?;
    // A program started in the background may not have been executed yet when the shell is gone.
    let verdict = eventually(Duration::from_secs(5), || {
        let verdict = before.assert_unchanged_after(&bed.containerd, Duration::ZERO);
        let message = verdict.err().and_then(|error| error.message().map(str::to_owned)).unwrap_or_default();
        ensure!(message.contains(words), "{done:?} was not noticed: {message:?}");
        Ok(())
    });
    inside(bed, undone)?;
    verdict?;
    before.assert_unchanged_after(&bed.containerd, Duration::from_secs(5))
}

fn leftovers_are_noticed(bed: &Bed) -> Outcome {
    noticed(bed, "mkdir /run/x && mount -t tmpfs x /run/x", "umount /run/x; rmdir /run/x", "mount /run/x")?;
    noticed(bed, "touch /run/left", "rm /run/left", "file /run/left")?;
    noticed(
        bed,
        "sleep 1234 >/dev/null 2>&1 & echo $! > /run/pid",
        "kill $(cat /run/pid); rm /run/pid",
        "process sleep 1234",
    )?;
    let group = integration::residue::hierarchies().remove(0).join(&bed.containerd.namespace).join("left");
    let (make, remove) = (format!("mkdir -p {}", group.display()), format!("rmdir {}", group.display()));
    noticed(bed, &make, &remove, "cgroup ")
}

fn a_container_left_is_named(bed: &Bed) -> Outcome {
    let id = bed.sleeper()?;
    let verdict = integration::residue::assert_none_of(&bed.containerd, &id, Duration::ZERO);
    let message = verdict.err().and_then(|error| error.message().map(str::to_owned)).unwrap_or_default();
    for kind in ["mount ", "cgroup ", "bundle ", "process "] {
        ensure!(message.contains(kind), "no {kind}in {message:?}");
    }
    Ok(())
}

fn another_runtime_trips(bed: &Bed) -> Outcome {
    ensure!(bed.containerd.tripped().is_none(), "tripped before");
    for runtime in ["runc", "crun", "youki"] {
        let program = testbed().join("tripwire").join(runtime);
        let output =
            bed.containerd.host.command(None, &[], &[program.to_str().ok_or("path")?, "--version"]).output()?;
        ensure!(output.status.code() == Some(99), "the tripwire {runtime} ended with {:?}", output.status);
        let calls = bed.containerd.tripped().unwrap_or_default();
        ensure!(calls.contains(&format!("{runtime} --version")), "the call was not noted: {calls:?}");
        inside(bed, "rm /run/tripwire /run/containerd/tripwire 2>/dev/null; true")?;
    }
    Ok(())
}

fn time_limits_end_clients(bed: &Bed) -> Outcome {
    let id = bed.id();
    let client = bed.containerd.ctr_start(Duration::from_secs(2), &bed.run_words(&id, &[], &["sleep", "1000"]))?;
    let verdict = client.wait().map(|output| output.code);
    ensure!(verdict.is_err(), "a client that hangs counted as {verdict:?}");
    Ok(())
}

fn main() {
    suite::run_with(
        "harness",
        &[],
        cases![leftovers_are_noticed, a_container_left_is_named, another_runtime_trips, time_limits_end_clients],
    );
}
