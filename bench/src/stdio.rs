//! A gibibyte out of a container and one into it, through fifos as containerd makes them; and how much a container can
//! write while nobody reads.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::bed::Bed;
use crate::bundle::{Bundle, Wish};
use crate::group::Group;
use crate::report::Report;
use crate::shim::{Peer, Shim};
use crate::{Outcome, number};

/// A container that has been created and not started.
struct Created<'a> {
    shim: Shim<'a>,
    id: String,
    bundle: Bundle,
}

impl<'a> Created<'a> {
    fn new(bed: &'a Bed, peer: &'a Peer, group: &Group, words: &[&str], streams: [&str; 2]) -> Outcome<Created<'a>> {
        // Go's shim wants stderr where there is stdout, and somebody who has it open; mini waits with an exit for a client that has
        // not read it yet, and every client reads.
        let stderr = fifo(bed)?;
        let path = stderr.clone();
        std::thread::spawn(move || File::open(path).map(drain));
        let id = format!("stdio-{}", number());
        let path = format!("{}/{id}", group.path);
        let bundle = bed.bundles.make(&id, &Wish { args: words, seccomp: false, cgroup: &path, pod: None })?;
        let mut shim = peer.start(&id, &bundle, group, &bed.events)?;
        shim.create(&id, &bundle, [streams[0], streams[1], text(&stderr)?])?;
        Ok(Created { shim, id, bundle })
    }

    fn end(mut self, bed: &Bed, peer: &Peer, group: &Group) -> Outcome {
        self.shim.delete(&self.id, "")?;
        self.shim.shutdown(&self.id)?;
        peer.delete(&self.id, &self.bundle, group, &bed.events)?;
        group.until_empty()
    }
}

fn fifo(bed: &Bed) -> Outcome<PathBuf> {
    let path = bed.dir.join(format!("fifo-{}", number()));
    let mode = rustix::fs::Mode::from_raw_mode(0o700);
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0)?;
    Ok(path)
}

fn text(path: &Path) -> Outcome<&str> {
    Ok(path.to_str().ok_or("not UTF-8")?)
}

/// Bytes until the end of file.
fn drain(mut from: File) -> Outcome<u64> {
    let mut buffer = vec![0; 1 << 18];
    let mut sum = 0;
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(sum),
            count => sum += count as u64,
        }
    }
}

/// Case `stdio`.
pub fn through(bed: &Bed, report: &mut Report) -> Outcome {
    let blocks = bed.pick(64, 16384, 16384);
    for round in bed.turns(0, 3, 60) {
        for (peer, group) in bed.rotated(round) {
            let (rate, cpu) = out(bed, peer, group, blocks)?;
            report.add("stdio", "stdout, rate", "MB/s", peer.name, rate);
            report.add("stdio", "stdout, CPU of the shim", "s", peer.name, cpu);
            let (rate, cpu) = into(bed, peer, group, blocks)?;
            report.add("stdio", "stdin, rate", "MB/s", peer.name, rate);
            report.add("stdio", "stdin, CPU of the shim", "s", peer.name, cpu);
            let lost = replaced(bed, peer, group)?;
            report.add("stdio", "stdout lost when its reader is replaced", "MB of 64", peer.name, lost);
        }
    }
    Ok(())
}

/// A containerd that restarts: the reader goes away in the middle, and another one opens the fifo.
fn replaced(bed: &Bed, peer: &Peer, group: &Group) -> Outcome<f64> {
    const BLOCKS: u64 = 1024;
    let path = fifo(bed)?;
    let first = {
        let path = path.clone();
        std::thread::spawn(move || -> Outcome<u64> {
            let mut block = vec![0; 1 << 16];
            let mut file = File::open(path)?;
            file.read_exact(&mut block)?;
            Ok(block.len() as u64)
        })
    };
    let words = ["dd", "if=/dev/zero", "bs=64k", &format!("count={BLOCKS}")];
    let mut created = Created::new(bed, peer, group, &words, ["", text(&path)?])?;
    let exit = created.shim.wait(&created.id, "")?;
    created.shim.start(&created.id.clone(), "")?;
    let mut sum = first.join().map_err(|_| "the reader panicked")??;
    // Until what writes has met the fifo that nobody reads: then it waits, or it is dead.
    until_it_stands(group)?;
    sum += drain(reopened(&path)?)?;
    created.shim.status(exit)?;
    created.end(bed, peer, group)?;
    Ok(((BLOCKS << 16) - sum) as f64 / f64::from(1 << 20))
}

/// The reading end; at its end of file at once where nobody holds the other one any more.
fn reopened(path: &Path) -> Outcome<File> {
    let file = File::options().read(true).custom(rustix::fs::OFlags::NONBLOCK).open(path)?;
    rustix::io::ioctl_fionbio(&file, false)?;
    Ok(file)
}

fn out(bed: &Bed, peer: &Peer, group: &Group, blocks: u64) -> Outcome<(f64, f64)> {
    let path = fifo(bed)?;
    let reader = {
        let path = path.clone();
        std::thread::spawn(move || drain(File::open(path)?))
    };
    let count = format!("count={blocks}");
    let words = ["dd", "if=/dev/zero", "bs=64k", &count];
    let mut created = Created::new(bed, peer, group, &words, ["", text(&path)?])?;
    let exit = created.shim.wait(&created.id, "")?;
    let (before, started) = (group.cpu_of_shim()?, Instant::now());
    created.shim.start(&created.id.clone(), "")?;
    let sum = reader.join().map_err(|_| "the reader panicked")??;
    let took = started.elapsed();
    let cpu = group.cpu_of_shim()? - before;
    created.shim.ended(exit)?;
    if sum != blocks << 16 {
        return Err(format!("{}: {sum} bytes came out", peer.name).into());
    }
    created.end(bed, peer, group)?;
    Ok((sum as f64 / 1e6 / took.as_secs_f64(), cpu as f64 / 1e9))
}

fn into(bed: &Bed, peer: &Peer, group: &Group, blocks: u64) -> Outcome<(f64, f64)> {
    let path = fifo(bed)?;
    // As containerd's client does: the writing end is opened before the shim has the reading one.
    let writer = {
        let path = path.clone();
        std::thread::spawn(move || -> Outcome<File> { Ok(File::options().write(true).open(path)?) })
    };
    let stdout = fifo(bed)?;
    let _held = File::options().read(true).write(true).open(&stdout)?;
    let words = ["dd", "of=/dev/null", "bs=64k"];
    let mut created = Created::new(bed, peer, group, &words, [text(&path)?, text(&stdout)?])?;
    let mut file = writer.join().map_err(|_| "the writer panicked")??;
    let exit = created.shim.wait(&created.id, "")?;
    created.shim.start(&created.id.clone(), "")?;
    let (before, started) = (group.cpu_of_shim()?, Instant::now());
    let block = vec![0; 1 << 16];
    for _ in 0..blocks {
        file.write_all(&block)?;
    }
    drop(file);
    created.shim.close_stdin(&created.id.clone())?;
    created.shim.ended(exit)?;
    let took = started.elapsed();
    let cpu = group.cpu_of_shim()? - before;
    created.end(bed, peer, group)?;
    Ok(((blocks << 16) as f64 / 1e6 / took.as_secs_f64(), cpu as f64 / 1e9))
}

/// One-byte lines that a container writes, while containerd and its clients are gone, until it blocks.
pub fn unread(bed: &Bed, report: &mut Report) -> Outcome {
    bed.turns(0, 3, 0).try_for_each(|_| {
        bed.each(report, |peer, group, report| {
            let path = fifo(bed)?;
            let client = {
                let path = path.clone();
                std::thread::spawn(move || File::open(path))
            };
            let script = "while :; do echo; done";
            let mut created = Created::new(bed, peer, group, &["sh", "-c", script], ["", text(&path)?])?;
            let client = client.join().map_err(|_| "the client panicked")??;
            // The client goes before there is anything to read.
            drop(client);
            let exit = created.shim.wait(&created.id, "")?;
            created.shim.start(&created.id.clone(), "")?;
            until_it_stands(group)?;
            let file = reopened(&path)?;
            let reader = std::thread::spawn(move || drain(file));
            created.shim.kill(&created.id.clone())?;
            created.shim.status(exit)?;
            created.end(bed, peer, group)?;
            let lines = reader.join().map_err(|_| "the reader panicked")??;
            report.add("unread", "one-byte lines until it blocks", "lines", peer.name, lines as f64);
            Ok(())
        })
    })
}

/// Waits until the group uses no more CPU: then its writer is blocked, or dead.
fn until_it_stands(group: &Group) -> Outcome {
    let end = Instant::now() + Duration::from_secs(60);
    let mut last = group.cpu()?;
    let mut still = 0;
    while still < 5 && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(200));
        let now = group.cpu()?;
        // A shim that polls has some.
        still = if now - last < 2_000_000 { still + 1 } else { 0 };
        last = now;
    }
    Ok(())
}

/// `O_NONBLOCK` and the like by their typed names.
trait Custom {
    fn custom(&mut self, flags: rustix::fs::OFlags) -> &mut Self;
}

impl Custom for std::fs::OpenOptions {
    fn custom(&mut self, flags: rustix::fs::OFlags) -> &mut Self {
        use std::os::unix::fs::OpenOptionsExt;
        self.custom_flags(flags.bits().cast_signed())
    }
}
