//! Readers, disks and containerd that go and come back.

use super::loggers::logger;
use integration::containerd::LIMIT;
use integration::{Bed, Outcome, Runtime, ensure, eventually};
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

fn numbers(count: u32) -> Vec<u8> {
    (1..=count).flat_map(|i| format!("{i}\n").into_bytes()).collect()
}

fn same(got: &[u8], expected: &[u8]) -> Outcome {
    let wrong = got.iter().zip(expected).position(|(got, expected)| got != expected);
    ensure!(wrong.is_none(), "another byte at {wrong:?}");
    ensure!(got.len() == expected.len(), "{} bytes of {}", got.len(), expected.len());
    Ok(())
}

/// Reads so many bytes into the end of `got`.
fn take(from: &mut File, count: u64, got: &mut Vec<u8>) -> Outcome {
    let read = from.take(count).read_to_end(got)?;
    ensure!(read as u64 == count, "the stream ended after {read} bytes of {count}");
    Ok(())
}

pub fn reader_that_stops_dies_and_comes_back(bed: &Bed) -> Outcome {
    let directory = bed.directory("go")?;
    let mount = format!("type=bind,src={},dst=/mnt,options=rbind:ro", directory.display());
    // Far more than all pipes on its way hold. A client that detaches has the fifos open until then, and what it reads nobody sees.
    let script = "while ! test -e /mnt/go; do sleep 0.02; done; exec seq 1 1000000";
    let id = bed.detached(&["--mount", &mount], &["sh", "-c", script])?;
    let path = bed.fifo(&id, "stdout")?;
    let mut got = Vec::new();
    let mut first = File::open(&path)?;
    std::fs::write(directory.join("go"), "")?;
    take(&mut first, 300_000, &mut got)?;
    // It stops: the process waits, and nothing else does.
    std::thread::sleep(Duration::from_millis(500));
    bed.wait_status(&id, "RUNNING")?;
    bed.exec_sh(&id, &[], "echo beside")?.ok()?.says("beside\n")?;
    take(&mut first, 200_000, &mut got)?;
    drop(first);
    std::thread::sleep(Duration::from_millis(500));
    bed.wait_status(&id, "RUNNING")?;
    let mut second = File::open(&path)?;
    take(&mut second, 400_000, &mut got)?;
    // The next one comes before this one goes.
    let mut third = File::open(&path)?;
    drop(second);
    third.read_to_end(&mut got)?;
    same(&got, &numbers(1_000_000))?;
    bed.wait_status(&id, "STOPPED")?;
    bed.delete(&id, &[], 0)
}

pub fn disk_full_at_a_file(bed: &Bed) -> Outcome {
    let disk = bed.directory("disk")?.display().to_string();
    let mount = |words: &[&str]| -> Outcome {
        let status = bed.containerd.host.command(Some(LIMIT), &[], words).status()?;
        ensure!(status.success(), "{words:?} failed");
        Ok(())
    };
    mount(&["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", &disk])?;
    let outcome = full_disk(bed, &disk, mount);
    mount(&["umount", "--lazy", &disk])?;
    outcome
}

fn full_disk(bed: &Bed, disk: &str, mount: impl Fn(&[&str]) -> Outcome) -> Outcome {
    let uri = format!("file://{disk}/log");
    let file = bed.containerd.host.path(format!("{disk}/log"));
    let id = bed.detached(&["--log-uri", &uri], &["seq", "1", "300000"])?;
    eventually(LIMIT, || {
        let length = file.metadata()?.len();
        ensure!(length >= 1_000_000, "{length} bytes are no full disk");
        Ok(())
    })?;
    // The process waits for space, and so does nobody else.
    std::thread::sleep(Duration::from_millis(500));
    bed.wait_status(&id, "RUNNING")?;
    bed.exec_sh(&id, &[], "echo beside")?.ok()?.says("beside\n")?;
    mount(&["mount", "-o", "remount,size=16m", disk])?;
    bed.wait_status(&id, "STOPPED")?;
    bed.delete(&id, &[], 0)?;
    same(&std::fs::read(&file)?, &numbers(300_000))?;
    std::fs::remove_file(&file)?;

    // One that is killed while the disk is full is gone all the same.
    mount(&["mount", "-o", "remount,size=64k", disk])?;
    let id = bed.detached(&["--log-uri", &uri], &["seq", "1", "300000"])?;
    eventually(LIMIT, || {
        ensure!(file.metadata()?.len() >= 60_000, "the disk is not full");
        Ok(())
    })?;
    bed.ctr(&["task", "kill", "--signal", "KILL", &id])?.ok()?;
    bed.wait_status(&id, "STOPPED")?;
    bed.delete(&id, &[], 137)
}

pub fn grandchild_that_keeps_the_pipe(bed: &Bed) -> Outcome {
    let id = bed.sleeper()?;
    let file = bed.directory("exec")?.join("note");
    let script = "sleep 1000 & echo left";
    // Its own child holds the exec's stdout for as long as the container lives.
    bed.exec(&id, &[], &["sh", "-c", script])?.ok()?;
    bed.exec_sh(&id, &[], "echo after")?.ok()?.says("after\n")?;
    // The same for init: what outlives it in a shared pid namespace is killed, so the file is complete and closed.
    let uri = format!("file://{}", file.display());
    let namespace = format!("pid:/proc/{}/ns/pid", bed.pid(&id)?);
    let other = bed.detached(&["--with-ns", &namespace, "--log-uri", &uri], &["sh", "-c", script])?;
    bed.wait_status(&other, "STOPPED")?;
    bed.delete(&other, &[], 0)?;
    ensure!(std::fs::read(&file)? == b"left\n", "the file holds other words");
    Ok(())
}

/// Writes numbered lines from the moment it finds `/mnt/begin` until it finds `/mnt/go`, then many at once.
const WRITER: &str = "while ! test -e /mnt/begin; do sleep 0.02; done;
    i=0; while ! test -e /mnt/go; do i=$((i+1)); echo $i; sleep 0.01; done; seq $((i+1)) $((i+20000)); exit 6";

pub fn containerd_down_under_writers(bed: &Bed) -> Outcome {
    let down = Duration::from_secs(if std::env::var_os("MINI_SOAK").is_some() { 60 } else { 4 });
    let directory = bed.directory("go")?;
    let mount = format!("type=bind,src={},dst=/mnt,options=rbind:ro", directory.display());
    let out = bed.directory("out")?;
    let [file, logged] = ["file", "logged"].map(|name| out.join(name));
    let of_file = format!("file://{}", file.display());
    let of_logger = logger(bed, &format!("exec 5>&-; exec cat <&3 > {}", logged.display()))?;
    let start = |flags: &[&str]| bed.detached(&[&["--mount", &mount], flags].concat(), &["sh", "-c", WRITER]);
    let ids = [start(&[])?, start(&["--log-uri", &of_file])?, start(&["--log-uri", &of_logger])?];
    let path = bed.fifo(&ids[0], "stdout")?;
    let reader = std::thread::spawn(move || std::fs::read(path));
    let pids = ids.iter().map(|id| bed.pid(id)).collect::<Outcome<Vec<u32>>>()?;
    let lines = |path: &PathBuf| std::fs::read_to_string(path).map_or(0, |text| text.lines().count());
    std::fs::write(directory.join("begin"), "")?;
    eventually(LIMIT, || {
        ensure!([&file, &logged].map(lines).iter().all(|count| *count > 0), "nothing is written");
        Ok(())
    })?;
    bed.containerd.kill()?;
    let at_the_kill = [&file, &logged].map(lines);
    std::thread::sleep(down);
    eventually(LIMIT, || {
        let now = [&file, &logged].map(lines);
        ensure!(
            now.iter().zip(at_the_kill).all(|(now, then)| *now > then),
            "nothing more was written: {at_the_kill:?}, {now:?}"
        );
        Ok(())
    })?;
    // They end while it is away.
    std::fs::write(directory.join("go"), "")?;
    eventually(LIMIT, || {
        let left = pids.iter().filter(|pid| bed.containerd.host.lives(**pid)).count();
        ensure!(left == 0, "{left} writers have not ended");
        Ok(())
    })?;
    bed.containerd.restart()?;
    let through_fifo = reader.join().map_err(|_| "the reader panicked")??;
    for (name, text) in [("fifo", through_fifo), ("file", std::fs::read(&file)?), ("logger", std::fs::read(&logged)?)] {
        let text = String::from_utf8(text)?;
        let gap = text.lines().enumerate().find(|(number, line)| *line != (number + 1).to_string());
        ensure!(gap.is_none(), "{name}: it goes wrong at {gap:?}");
        ensure!(text.lines().count() > 20_000, "{name}: {} lines", text.lines().count());
    }
    if bed.runtime() == Runtime::Runc {
        // containerd deletes a task whose Pids is empty after its restart, and the Go shim empties it at the exit.
        return Ok(());
    }
    ids.iter().try_for_each(|id| bed.delete(id, &[], 6))
}
