//! As much as there is, as fast as it goes, through each kind of output; not one byte may be another.

use super::loggers::logger;
use integration::containerd::LIMIT;
use integration::{Bed, Outcome, ensure, eventually};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// One block, repeated: no two of its 8-byte words are the same.
const BLOCK: usize = 8 << 20;

/// How many blocks: 256 MB, or 1 GB in the soak.
fn blocks() -> usize {
    if std::env::var_os("MINI_SOAK").is_some() { 128 } else { 32 }
}

/// Bytes that no line or terminal handling leaves alone.
fn block() -> Vec<u8> {
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_le_bytes()
    };
    (0..BLOCK / 8).flat_map(|_| next()).collect()
}

/// What it takes to write the block so many times, once there is a file `go` in its directory. Not before: a client that
/// detaches has the fifos open until then, and what it reads nobody sees.
struct Writer {
    mount: String,
    script: String,
    directory: PathBuf,
}

impl Writer {
    fn new(bed: &Bed, before: &str) -> Outcome<Writer> {
        let directory = bed.directory("block")?;
        std::fs::write(directory.join("block"), block())?;
        let mount = format!("type=bind,src={},dst=/mnt,options=rbind:ro", directory.display());
        let files = "/mnt/block ".repeat(blocks());
        let script = format!("while ! test -e /mnt/go; do sleep 0.02; done; {before} exec cat {files}");
        Ok(Writer { mount, script, directory })
    }

    fn start(&self, bed: &Bed, flags: &[&str]) -> Outcome<String> {
        bed.detached(&[&["--mount", &self.mount], flags].concat(), &["sh", "-c", &self.script])
    }

    fn go(&self) -> Outcome {
        Ok(std::fs::write(self.directory.join("go"), "")?)
    }
}

/// Fails unless the stream is the block, so many times, and nothing else.
fn check(mut from: impl Read) -> Outcome {
    let expected = block();
    let mut got = vec![0; BLOCK];
    for number in 0..blocks() {
        from.read_exact(&mut got).map_err(|error| format!("block {number}: {error}"))?;
        let wrong = got.iter().zip(&expected).position(|(got, expected)| got != expected);
        ensure!(wrong.is_none(), "block {number}: another byte at {wrong:?}");
    }
    let more = from.read(&mut got)?;
    ensure!(more == 0, "{more} bytes too many");
    Ok(())
}

/// Waits for the end of a container that wrote all it had, then checks the file.
fn check_file(bed: &Bed, id: &str, file: &Path) -> Outcome {
    eventually(2 * LIMIT, || {
        let status = bed.status(id)?;
        ensure!(status.as_deref() == Some("STOPPED"), "it is {status:?}");
        Ok(())
    })?;
    bed.delete(id, &[], 0)?;
    let size = (BLOCK * blocks()) as u64;
    // The logger may be at work for a moment longer than the container.
    eventually(LIMIT, || {
        let length = file.metadata()?.len();
        ensure!(length == size, "{length} bytes of {size} have arrived");
        Ok(())
    })?;
    check(File::open(file)?)?;
    std::fs::remove_file(file)?;
    Ok(())
}

/// Checks what comes out of the fifo of a container that waits for its start.
fn check_fifo(bed: &Bed, id: &str, writer: &Writer) -> Outcome {
    let reader = File::open(bed.fifo(id, "stdout")?)?;
    writer.go()?;
    check(reader)?;
    bed.wait_status(id, "STOPPED")?;
    bed.delete(id, &[], 0)
}

pub fn everything_through_a_fifo(bed: &Bed) -> Outcome {
    let writer = Writer::new(bed, "")?;
    let id = writer.start(bed, &[])?;
    check_fifo(bed, &id, &writer)
}

pub fn everything_into_a_file(bed: &Bed) -> Outcome {
    let writer = Writer::new(bed, "")?;
    let file = bed.directory("out")?.join("file");
    let id = writer.start(bed, &["--log-uri", &format!("file://{}", file.display())])?;
    writer.go()?;
    check_file(bed, &id, &file)
}

pub fn everything_through_a_logger(bed: &Bed) -> Outcome {
    let writer = Writer::new(bed, "")?;
    let file = bed.directory("out")?.join("file");
    let uri = logger(bed, &format!("exec 5>&-; exec cat <&3 > {}", file.display()))?;
    let id = writer.start(bed, &["--log-uri", &uri])?;
    writer.go()?;
    check_file(bed, &id, &file)
}

pub fn everything_through_a_terminal(bed: &Bed) -> Outcome {
    // A raw terminal leaves every byte alone.
    let writer = Writer::new(bed, "stty raw -echo;")?;
    let id = bed.id();
    let flags = ["--detach", "--tty", "--mount", &writer.mount];
    // ctr wants a terminal of its own for this, also to detach from it.
    let mut terminal = bed.terminal(&bed.run_words(&id, &flags, &["sh", "-c", &writer.script]))?;
    let code = terminal.wait(LIMIT)?;
    ensure!(code == 0, "exit code {code}: {:?}", terminal.screen());
    check_fifo(bed, &id, &writer)
}
