//! Streams on real fifos, files, ptys and logger processes.
#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::time::{ClockId, clock_gettime};

use super::*;

struct Dir(tempfile::TempDir);

impl Dir {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    fn fifo(&self, name: &str) -> String {
        let mode = Mode::from_raw_mode(0o700);
        rustix::fs::mknodat(rustix::fs::CWD, self.path(name), FileType::Fifo, mode, 0).unwrap();
        self.text(name)
    }
}

fn names() -> Names {
    Names { id: "c1".into(), namespace: "ns".into() }
}

fn open_all(stdin: &str, stdout: &str, stderr: &str, terminal: bool) -> Opened {
    let paths = Paths { stdin: stdin.into(), stdout: stdout.into(), stderr: stderr.into(), terminal };
    open(&paths, Owner::default(), &names()).unwrap()
}

/// Runs on an event loop of its own, as in the shim.
fn on_loop<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build().unwrap().block_on(future)
}

async fn join<T: Send + 'static>(job: impl FnOnce() -> T + Send + 'static) -> T {
    crate::worker::run(c"test", job).await.unwrap()
}

fn file(fd: Option<OwnedFd>) -> File {
    fd.unwrap().into()
}

fn read_all(path: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    File::open(path).unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

async fn nothing_spins() {
    let cpu = || clock_gettime(ClockId::ThreadCPUTime);
    let before = cpu();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let after = cpu();
    let used = (after.tv_sec - before.tv_sec) * 1_000_000_000 + after.tv_nsec - before.tv_nsec;
    assert!(used < 20_000_000, "{used} ns of CPU while nothing could move");
}

/// Bytes that repeat at no power of two.
fn noise(len: usize) -> Vec<u8> {
    (0..len).map(|i| ((i * 31 + i / 251) % 256) as u8).collect()
}

/// Everything arrives in order whatever the chunks. Answers what the process's pipe holds at the end.
fn bulk(limit: Option<i64>) -> usize {
    let dir = Dir::new();
    let out = dir.fifo("out");
    let data = noise(48 << 20);
    let (got, pipe) = on_loop(async {
        let mut opened = open_all("", &out, "", false);
        opened.wiring.memory = limit;
        let streams = opened.wiring.run().unwrap();
        let (mut stdout, sent) = (file(opened.child.stdout), data.clone());
        let writer = thread::spawn(move || {
            let mut rest = sent.as_slice();
            for size in [1, 7, 4096, 100, 65_536, 300_000, 3].iter().cycle() {
                let (now, later) = rest.split_at(rest.len().min(*size));
                stdout.write_all(now).unwrap();
                rest = later;
                if rest.is_empty() {
                    break;
                }
            }
            rustix::pipe::fcntl_getpipe_size(&stdout).unwrap()
        });
        let got = join(move || read_all(&out)).await;
        streams.finish(Duration::from_secs(1)).await;
        (got, writer.join().unwrap())
    });
    assert!(got == data, "{} of {} bytes, or others", got.len(), data.len());
    pipe
}

#[test]
fn a_bulk_gets_larger_pipes() {
    assert_eq!(bulk(None), 1 << 20);
    assert_eq!(bulk(Some(-1)), 1 << 20);
    assert_eq!(bulk(Some(64 << 20)), 1 << 20);
    // As much as docker allows at least.
    assert_eq!(bulk(Some(6 << 20)), 256 << 10);
}

/// Larger pipes count against what all of a user's may hold.
#[test]
fn a_bulk_that_calms_down_gives_its_room_back() {
    const BYTES: usize = 8 << 20;
    let dir = Dir::new();
    let out = dir.fifo("out");
    on_loop(async {
        let opened = open_all("", &out, "", false);
        let streams = opened.wiring.run().unwrap();
        let stdout = file(opened.child.stdout);
        let busy = thread::spawn(move || {
            let mut client = File::open(out).unwrap();
            for talks in [true, false, true] {
                let mut writer = stdout.try_clone().unwrap();
                let writing = thread::spawn(move || writer.write_all(&noise(BYTES)).unwrap());
                let mut got = vec![0; BYTES];
                client.read_exact(&mut got).unwrap();
                writing.join().unwrap();
                assert!(got == noise(BYTES));
                let size = |pipe: &File| rustix::pipe::fcntl_getpipe_size(pipe).unwrap();
                assert_eq!(size(&stdout), 1 << 20);
                let began = Instant::now();
                while size(&stdout) != 64 << 10 || size(&client) != 64 << 10 {
                    // Who says a word now and then is calm as well.
                    if talks {
                        (&stdout).write_all(b"x").unwrap();
                        client.read_exact(&mut [0]).unwrap();
                    }
                    assert!(began.elapsed() < Duration::from_secs(30), "{} and {}", size(&stdout), size(&client));
                    thread::sleep(Duration::from_millis(20));
                }
            }
        });
        join(move || busy.join().unwrap()).await;
        streams.finish(Duration::from_secs(1)).await;
    });
}

/// How many one-byte writes the process can still make before it has to wait.
fn fill(mut stdout: File) -> usize {
    rustix::fs::fcntl_setfl(&stdout, rustix::fs::OFlags::NONBLOCK).unwrap();
    let (mut written, mut waited) = (0, 0);
    while waited < 20 {
        match stdout.write(b"x") {
            Ok(count) => (written, waited) = (written + count, 0),
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
                thread::sleep(Duration::from_millis(50));
                waited += 1;
            }
        }
    }
    written
}

#[test]
fn a_line_logger_without_a_reader_waits_no_sooner_than_elsewhere() {
    let dir = Dir::new();
    let out = dir.fifo("out");
    on_loop(async {
        let opened = open_all("", &out, "", false);
        let _streams = opened.wiring.run().unwrap();
        let stdout = file(opened.child.stdout);
        let written = join(move || fill(stdout)).await;
        assert!(written >= 160 << 10, "after {written} bytes it waits; with containerd's own shim it would not yet");
    });
}

#[test]
fn after_a_bulk_a_line_logger_without_a_reader_waits_no_sooner_either() {
    let dir = Dir::new();
    let out = dir.fifo("out");
    on_loop(async {
        let opened = open_all("", &out, "", false);
        let _streams = opened.wiring.run().unwrap();
        let mut stdout = file(opened.child.stdout);
        let written = join(move || {
            let mut reader = File::open(out).unwrap();
            let mut bulk = vec![0; 4 << 20];
            let writer = thread::spawn(move || {
                stdout.write_all(&noise(4 << 20)).unwrap();
                stdout
            });
            reader.read_exact(&mut bulk).unwrap();
            assert!(bulk == noise(4 << 20));
            fill(writer.join().unwrap())
        });
        let written = written.await;
        assert!(written >= 160 << 10, "after {written} bytes it waits; with containerd's own shim it would not yet");
    });
}

#[test]
fn a_dead_reader_costs_nothing_and_the_next_one_gets_the_rest() {
    let dir = Dir::new();
    let out = dir.fifo("out");
    on_loop(async {
        let opened = open_all("", &out, "", false);
        let streams = opened.wiring.run().unwrap();
        let mut stdout = file(opened.child.stdout);
        let path = out.clone();
        let first = thread::spawn(move || {
            let mut bytes = [0; 5];
            File::open(path).unwrap().read_exact(&mut bytes).unwrap();
            bytes
        });
        stdout.write_all(b"first").unwrap();
        assert_eq!(join(move || first.join().unwrap()).await, *b"first");
        for n in 0..100 {
            writeln!(stdout, "line {n}").unwrap();
            tokio::task::yield_now().await;
        }
        drop(stdout);
        let rest = join(move || read_all(&out)).await;
        let expected: String = (0..100).map(|n| format!("line {n}\n")).collect();
        assert_eq!(String::from_utf8(rest).unwrap(), expected);
        streams.finish(Duration::from_secs(1)).await;
    });
}

#[test]
fn output_that_ended_before_its_reader_came_is_kept() {
    let dir = Dir::new();
    let out = dir.fifo("out");
    on_loop(async {
        let opened = open_all("", &out, "", false);
        let streams = opened.wiring.run().unwrap();
        file(opened.child.stdout).write_all(b"quick").unwrap();
        // Delete does not wait for readers that may never come.
        tokio::time::timeout(Duration::from_secs(1), streams.finish(Duration::from_secs(10))).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(join(move || read_all(&out)).await, b"quick");
    });
}

/// A client that opens in the background gives up when it hears of the exit; so the process is not made before it is there.
#[test]
fn a_slow_client_is_waited_for() {
    let dir = Dir::new();
    let out = dir.fifo("out");
    let (path, begun) = (out.clone(), Instant::now());
    let client = thread::spawn(move || {
        thread::sleep(Duration::from_millis(300));
        read_all(&path)
    });
    on_loop(async {
        let opened = open_all("", &out, "", false);
        assert!(begun.elapsed() >= Duration::from_millis(300), "opened after {:?}", begun.elapsed());
        let streams = opened.wiring.run().unwrap();
        file(opened.child.stdout).write_all(b"heard").unwrap();
        assert_eq!(join(move || client.join().unwrap()).await, b"heard");
        streams.finish(Duration::from_secs(1)).await;
    });
}

/// When a process has said a word to a client that does `then` with its end, and when its exit is announced.
fn announced(then: impl FnOnce(File) + Send + 'static) -> (Instant, Instant) {
    let dir = Dir::new();
    let out = dir.fifo("out");
    let path = out.clone();
    let client = thread::spawn(move || then(File::open(path).unwrap()));
    on_loop(async {
        let opened = open_all("", &out, "", false);
        let mut streams = opened.wiring.run().unwrap();
        let drain = streams.take_drain();
        file(opened.child.stdout).write_all(b"last").unwrap();
        let begun = Instant::now();
        drain.dry().await;
        let done = Instant::now();
        streams.finish(Duration::from_secs(5)).await;
        join(move || client.join().unwrap()).await;
        (begun, done)
    })
}

#[test]
fn an_exit_waits_for_a_client_that_is_about_to_read() {
    let patient = || {
        let (tell, told) = std::sync::mpsc::channel();
        let (begun, done) = announced(move |mut end| {
            thread::sleep(Duration::from_millis(120));
            tell.send(Instant::now()).unwrap();
            let mut bytes = [0; 4];
            end.read_exact(&mut bytes).unwrap();
        });
        let read = told.recv().unwrap();
        // One that a busy machine keeps from reading for longer is given up.
        let late = read > begun + Duration::from_millis(200);
        assert!(late || done >= read, "announced {:?} before it was read", read - done);
        !late && done - begun < Duration::from_secs(3)
    };
    assert!((0..5).any(|_| patient()), "the machine is too busy");
}

#[test]
fn an_exit_waits_neither_for_a_client_that_has_gone_nor_long_for_one_that_does_not_read() {
    // A busy machine may be slow once.
    let took = |(begun, done): (Instant, Instant)| done - begun;
    assert!((0..5).any(|_| took(announced(drop)) < Duration::from_millis(200)), "it waits for nobody");
    let bounded = || {
        let stopped = took(announced(|_end| thread::sleep(Duration::from_secs(4))));
        assert!(stopped >= Duration::from_millis(200), "{stopped:?}");
        stopped < Duration::from_secs(3)
    };
    assert!((0..3).any(|_| bounded()), "it waits for who does not read");
}

#[test]
fn a_reader_that_comes_after_silence_has_ended_sees_the_end() {
    let dir = Dir::new();
    let out = dir.fifo("out");
    on_loop(async {
        let opened = open_all("", &out, "", false);
        let streams = opened.wiring.run().unwrap();
        drop(opened.child.stdout);
        tokio::time::timeout(Duration::from_secs(1), streams.finish(Duration::from_secs(10))).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        let read = tokio::time::timeout(Duration::from_secs(3), join(move || read_all(&out))).await;
        assert_eq!(read.expect("it hangs in open(2): nobody has the other end"), b"");
    });
}

#[test]
fn without_a_reader_the_process_waits_and_the_loop_sleeps() {
    let dir = Dir::new();
    let out = dir.fifo("out");
    on_loop(async {
        let opened = open_all("", &out, "", false);
        let _streams = opened.wiring.run().unwrap();
        let stdout = nonblocking(opened.child.stdout.unwrap()).unwrap();
        let data = noise(1 << 20);
        let mut sent = 0;
        for _ in 0..200 {
            while let Ok(n) = rustix::io::write(&stdout, &data[sent..]) {
                sent += n;
            }
            tokio::task::yield_now().await;
        }
        assert!((64 << 10..=256 << 10).contains(&sent), "{sent} bytes are under way");
        nothing_spins().await;
        let got = thread::spawn(move || read_all(&out));
        while sent < data.len() {
            match rustix::io::write(&stdout, &data[sent..]) {
                Ok(n) => sent += n,
                Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        }
        drop(stdout);
        assert!(join(move || got.join().unwrap()).await == data);
    });
}

#[test]
fn both_outputs_may_share_one_fifo_that_ends_with_the_second() {
    let dir = Dir::new();
    let out = dir.fifo("out");
    on_loop(async {
        let opened = open_all("", &out, &out, false);
        let streams = opened.wiring.run().unwrap();
        let (mut stdout, mut stderr) = (file(opened.child.stdout), file(opened.child.stderr));
        let got = thread::spawn(move || read_all(&out));
        stdout.write_all(b"a").unwrap();
        drop(stdout);
        tokio::time::sleep(Duration::from_millis(300)).await;
        stderr.write_all(b"b").unwrap();
        drop(stderr);
        assert_eq!(join(move || got.join().unwrap()).await, b"ab");
        streams.finish(Duration::from_secs(1)).await;
    });
}

#[test]
fn files_are_appended_to_by_both_outputs() {
    let dir = Dir::new();
    let log = dir.text("a/b/log");
    fs::create_dir_all(dir.path("a/b")).unwrap();
    fs::write(&log, "before\n").unwrap();
    let data = noise(3 << 20);
    on_loop(async {
        let opened = open_all("", &format!("file://{log}"), "", false);
        let streams = opened.wiring.run().unwrap();
        let (mut stdout, mut stderr) = (file(opened.child.stdout), file(opened.child.stderr));
        let sent = data.clone();
        let out = thread::spawn(move || stdout.write_all(&sent).unwrap());
        join(move || out.join().unwrap()).await;
        let all = 7 + data.len() as u64;
        let end = Instant::now() + Duration::from_secs(30);
        while fs::metadata(&log).unwrap().len() < all && Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        stderr.write_all(b"after\n").unwrap();
        drop(stderr);
        streams.finish(Duration::from_secs(5)).await;
    });
    let got = fs::read(&log).unwrap();
    assert!(got.starts_with(b"before\n") && got.ends_with(b"after\n") && got[7..got.len() - 6] == data);

    let plain = dir.text("plain");
    fs::write(&plain, "x").unwrap();
    on_loop(async {
        let opened = open_all("", &plain, &plain, false);
        let streams = opened.wiring.run().unwrap();
        file(opened.child.stderr).write_all(b"y").unwrap();
        drop(opened.child.stdout);
        streams.finish(Duration::from_secs(5)).await;
    });
    assert_eq!(fs::read(&plain).unwrap(), b"xy");
}

#[test]
fn the_uri_of_a_file_is_read_as_go_does() {
    let dir = Dir::new();
    let written = |uri: String, name: &str| {
        on_loop(async {
            let opened = open_all("", &uri, "", false);
            let streams = opened.wiring.run().unwrap();
            file(opened.child.stdout).write_all(b"x").unwrap();
            drop(opened.child.stderr);
            streams.finish(Duration::from_secs(5)).await;
        });
        assert_eq!(fs::read(dir.path(name)).unwrap(), b"x", "{uri}");
        fs::remove_file(dir.path(name)).unwrap();
    };
    let root = dir.text("");
    written(format!("file://{root}a%20b%25c"), "a b%c");
    written(format!("file://{root}a+b c"), "a+b c");
    written(format!("file://{root}one?name=%#two?"), "one");
    written(format!("file://localhost{root}%6cog"), "log");
    written(format!("file:{root}short"), "short");
    for (uri, why) in [
        (format!("file://{root}a%zz"), "invalid escape \"%zz\""),
        (format!("file://{root}a%4"), "invalid escape \"%4\""),
        (format!("file://{root}a%é"), "invalid escape \"%é\""),
        ("file://log".into(), "no absolute path"),
        ("file://".into(), "no absolute path"),
    ] {
        let paths = Paths { stdout: uri.clone(), ..Paths::default() };
        assert_eq!(open(&paths, Owner::default(), &names()).err(), Some(format!("{uri:?}: {why}")));
    }
}

#[test]
fn a_full_disk_holds_the_process_and_not_delete() {
    on_loop(async {
        let opened = open_all("", "file:///dev/full", "", false);
        let streams = opened.wiring.run().unwrap();
        let mut stdout = file(opened.child.stdout);
        stdout.write_all(b"no space for this").unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
        stdout.write_all(b"the pipe is still there").unwrap();
        tokio::time::timeout(Duration::from_secs(5), streams.finish(Duration::from_millis(300))).await.unwrap();
    });
}

#[test]
fn what_cannot_be_opened_is_said() {
    let dir = Dir::new();
    let refused = |stdout: &str| {
        let paths = Paths { stdout: stdout.into(), ..Paths::default() };
        open(&paths, Owner::default(), &names()).err().unwrap()
    };
    assert_eq!(refused("npipe://x"), "unknown STDIO scheme npipe");
    let missing = dir.text("missing");
    assert_eq!(refused(&missing), format!("open {missing:?}: no such file or directory"));
    let missing_logger = refused("binary:///no/such/logger");
    assert!(missing_logger.starts_with("failed to start binary process: "), "{missing_logger}");
    assert!(missing_logger.contains("no such file or directory"), "{missing_logger}");
    let v2 = refused("binary-v2:///bin/sh?-c=exec%205%3E%26-%3B%20sleep%2030");
    assert!(v2.ends_with("closed its ready pipe without a word"), "{v2}");
    let stdin = |stdin: &str| {
        let paths = Paths { stdin: stdin.into(), ..Paths::default() };
        open(&paths, Owner::default(), &names()).err().unwrap()
    };
    assert_eq!(stdin(&missing), format!("open {missing:?}: no such file or directory"));
    let _listener = std::os::unix::net::UnixListener::bind(dir.path("socket")).unwrap();
    for other in [dir.text(""), dir.text("socket")] {
        assert_eq!(stdin(&other), format!("{other:?} is neither a fifo nor a file nor a character device"));
    }
}

/// What a process reads until its stdin ends.
async fn read_stdin(opened: Opened) -> Vec<u8> {
    let mut streams = opened.wiring.run().unwrap();
    streams.close_stdin();
    let mut stdin = file(opened.child.stdin);
    let got = join(move || {
        let mut bytes = Vec::new();
        stdin.read_to_end(&mut bytes).unwrap();
        bytes
    });
    let got = tokio::time::timeout(Duration::from_secs(10), got).await.expect("its stdin does not end");
    streams.finish(Duration::from_secs(1)).await;
    got
}

#[test]
fn stdin_may_be_a_file_or_device_and_ends_with_it() {
    let dir = Dir::new();
    let data = noise((300 << 10) + 7);
    fs::write(dir.path("in"), &data).unwrap();
    on_loop(async {
        let opened = open_all(&dir.text("in"), "", "", false);
        let stdin = opened.child.stdin.as_ref().unwrap();
        let kind = FileType::from_raw_mode(rustix::fs::fstat(stdin).unwrap().st_mode);
        assert_eq!(kind, FileType::Fifo, "the process could open the client's file for writing");
        assert!(read_stdin(opened).await == data);
        assert_eq!(read_stdin(open_all("/dev/null", "", "", false)).await, b"");
    });
    assert!(fs::read(dir.path("in")).unwrap() == data);
}

/// Files of FUSE's can, and read(2) still waits for their server; so can those of kernfs and some of procfs.
#[test]
fn a_file_that_can_be_polled_is_not_read_by_the_loop() {
    on_loop(async {
        let opened = open_all("/proc/self/mountinfo", "", "", false);
        let streams = opened.wiring.run().unwrap();
        let at = |name: &std::ffi::OsStr| fs::read_link(Path::new("/proc/self/fd").join(name)).unwrap_or_default();
        for entry in fs::read_dir("/proc/self/fdinfo").unwrap().flatten() {
            if at(&entry.file_name()) != Path::new("anon_inode:[eventpoll]") {
                continue;
            }
            let info = fs::read_to_string(entry.path()).unwrap();
            for watched in info.lines().filter_map(|line| line.strip_prefix("tfd:")?.split_whitespace().next()) {
                assert!(!at(watched.as_ref()).ends_with("mountinfo"), "the loop watches it: {info}");
            }
        }
        drop(opened.child);
        streams.finish(Duration::from_secs(1)).await;
    });
}

/// A device that can be polled, and says later that there is something to read.
#[test]
fn stdin_may_be_a_terminal_of_the_host() {
    let flags = rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY | rustix::pty::OpenptFlags::CLOEXEC;
    let master = rustix::pty::openpt(flags).unwrap();
    rustix::pty::unlockpt(&master).unwrap();
    let name = rustix::pty::ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
    on_loop(async {
        let opened = open_all(&name, "", "", false);
        let typing = thread::spawn(move || {
            thread::sleep(Duration::from_millis(100));
            // The end of a line, and the end of the input.
            File::from(master.try_clone().unwrap()).write_all(b"typed\n\x04").unwrap();
            master
        });
        assert_eq!(read_stdin(opened).await, b"typed\n");
        typing.join().unwrap();
    });
}

#[test]
fn a_file_is_given_up_by_delete_and_by_a_process_that_does_not_read() {
    on_loop(async {
        let opened = open_all("/dev/zero", "", "", false);
        let streams = opened.wiring.run().unwrap();
        let held = opened.child.stdin;
        tokio::time::sleep(Duration::from_millis(100)).await;
        streams.finish(Duration::from_secs(5)).await;
        let mut rest = file(held);
        let left =
            tokio::time::timeout(Duration::from_secs(5), join(move || std::io::copy(&mut rest, &mut std::io::sink())));
        assert!(left.await.expect("somebody still writes").unwrap() <= 128 << 10);

        let opened = open_all("/dev/zero", "", "", false);
        let _streams = opened.wiring.run().unwrap();
        let stdin = opened.child.stdin.unwrap();
        let pipe = format!("pipe:[{}]", rustix::fs::fstat(&stdin).unwrap().st_ino);
        let is_open = || {
            let links = fs::read_dir("/proc/self/fd").unwrap().flatten().map(|entry| fs::read_link(entry.path()));
            links.flatten().any(|link| link.to_str() == Some(&pipe))
        };
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(is_open());
        drop(stdin);
        let began = Instant::now();
        while is_open() {
            assert!(began.elapsed() < Duration::from_secs(5), "it copies to nobody");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
}

/// A client that can open stdin may be done with it at once, and its CloseIO has to find the process.
#[test]
fn stdin_cannot_be_opened_before_the_process_is_there() {
    let dir = Dir::new();
    let input = dir.fifo("in");
    on_loop(async {
        let opened = open_all(&input, "", "", false);
        let client = || File::options().write(true).custom_flags(libc::O_NONBLOCK).open(&input);
        assert_eq!(client().unwrap_err().raw_os_error(), Some(libc::ENXIO));
        let _streams = opened.wiring.run().unwrap();
        client().unwrap();
    });
}

/// While its open(2) waits for the other end, the kernel counts a client among the writers already.
#[test]
fn stdin_that_is_closed_at_once_ends_with_the_client_that_waited_for_it() {
    let dir = Dir::new();
    let input = dir.fifo("in");
    let data = noise(4 << 20);
    on_loop(async {
        let opened = open_all(&input, "", "", false);
        let (path, sent) = (input.clone(), data.clone());
        let client = thread::spawn(move || File::options().write(true).open(path).unwrap().write_all(&sent).unwrap());
        tokio::time::sleep(Duration::from_millis(200)).await;
        let mut streams = opened.wiring.run().unwrap();
        streams.close_stdin();
        let mut stdin = file(opened.child.stdin);
        let got = join(move || {
            let mut bytes = Vec::new();
            stdin.read_to_end(&mut bytes).unwrap();
            bytes
        });
        assert!(got.await == data);
        client.join().unwrap();

        // And without any client at once.
        let opened = open_all(&input, "", "", false);
        let mut streams = opened.wiring.run().unwrap();
        streams.close_stdin();
        let mut stdin = file(opened.child.stdin);
        let end = tokio::time::timeout(Duration::from_secs(5), join(move || stdin.read(&mut [0]).unwrap()));
        assert_eq!(end.await.expect("it waits for a client"), 0);
    });
}

#[test]
fn stdin_ends_when_both_writers_have_gone() {
    let dir = Dir::new();
    let input = dir.fifo("in");
    let data = noise(4 << 20);
    on_loop(async {
        let opened = open_all(&input, "", "", false);
        let mut streams = opened.wiring.run().unwrap();
        let mut stdin = file(opened.child.stdin);
        let (path, sent) = (input.clone(), data.clone());
        let client = thread::spawn(move || File::options().write(true).open(path).unwrap().write_all(&sent).unwrap());
        let (seen, end) = std::sync::mpsc::channel();
        let got = thread::spawn(move || {
            let mut bytes = Vec::new();
            stdin.read_to_end(&mut bytes).unwrap();
            seen.send(()).unwrap();
            bytes
        });
        join(move || client.join().unwrap()).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(end.try_recv().is_err(), "the client may come back as long as CloseIO was not called");
        streams.close_stdin();
        streams.close_stdin();
        assert!(join(move || got.join().unwrap()).await == data);
    });
}

#[test]
fn a_grandchild_that_holds_the_pipe_does_not_hold_delete() {
    let dir = Dir::new();
    let out = dir.fifo("out");
    on_loop(async {
        let opened = open_all("", &out, "", false);
        let streams = opened.wiring.run().unwrap();
        let held = file(opened.child.stdout);
        let got = thread::spawn(move || read_all(&out));
        (&held).write_all(b"said").unwrap();
        let started = Instant::now();
        streams.finish(Duration::from_millis(300)).await;
        assert!((250..2000).contains(&started.elapsed().as_millis()));
        assert_eq!(join(move || got.join().unwrap()).await, b"said", "the client sees the end");
        drop(held);
    });
}

/// `binary://` with a shell script as the logger.
fn logger(script: &str) -> String {
    let encoded: String = script.bytes().map(|b| format!("%{b:02x}")).collect();
    format!("binary:///bin/sh?-c={encoded}")
}

#[test]
fn a_logger_gets_everything_and_its_environment() {
    let dir = Dir::new();
    let log = dir.text("log");
    let script = format!(
        "env | sort > {log}.env; echo r >&5; exec 5>&-; cat <&4 > {log}.err & cat <&3 > {log}; sleep 0.2; wait; echo end >> {log}"
    );
    let data = noise(1 << 20);
    on_loop(async {
        let opened = open_all("", &logger(&script), "", false);
        let streams = opened.wiring.run().unwrap();
        let (mut stdout, mut stderr) = (file(opened.child.stdout), file(opened.child.stderr));
        let sent = data.clone();
        join(move || stdout.write_all(&sent).unwrap()).await;
        stderr.write_all(b"oops").unwrap();
        drop(stderr);
        streams.finish(Duration::from_secs(10)).await;
    });
    let got = fs::read(&log).unwrap();
    assert!(got.ends_with(b"end\n") && got[..got.len() - 4] == data, "the tail is not lost");
    assert_eq!(fs::read(format!("{log}.err")).unwrap(), b"oops");
    let env = fs::read_to_string(format!("{log}.env")).unwrap();
    assert!(env.contains("CONTAINER_ID=c1\nCONTAINER_NAMESPACE=ns\n") && !env.contains("PATH="), "{env}");
}

#[test]
fn a_logger_that_hangs_is_told_to_go() {
    let dir = Dir::new();
    let pid = dir.text("pid");
    let script = format!("echo $$ > {pid}; exec 5>&-; exec sleep 60");
    on_loop(async {
        let opened = open_all("", &logger(&script), "", false);
        let pid: i32 = fs::read_to_string(&pid).unwrap().trim().parse().unwrap();
        let streams = opened.wiring.run().unwrap();
        drop((opened.child.stdout, opened.child.stderr));
        let started = Instant::now();
        streams.finish(Duration::from_millis(200)).await;
        assert!(started.elapsed() < Duration::from_secs(2));
        let gone = || !Path::new(&format!("/proc/{pid}")).exists();
        for _ in 0..200 {
            if gone() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("it is still there, or nobody reaped it");
    });
}

fn with_terminal(mut wiring: Wiring, master: OwnedFd) -> io::Result<Streams> {
    wiring.take_terminal(Some(master));
    wiring.run()
}

#[test]
fn a_terminal_copies_resizes_and_hangs_up() {
    let dir = Dir::new();
    let (input, out) = (dir.fifo("in"), dir.fifo("out"));
    let flags = rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY | rustix::pty::OpenptFlags::CLOEXEC;
    let master = rustix::pty::openpt(flags).unwrap();
    rustix::pty::unlockpt(&master).unwrap();
    let name = rustix::pty::ptsname(&master, Vec::new()).unwrap();
    let slave = rustix::fs::open(&name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    on_loop(async {
        let opened = open_all(&input, &out, "", true);
        assert!(opened.child.stdin.is_none() && opened.child.stdout.is_none());
        let mut streams = with_terminal(opened.wiring, master).unwrap();
        streams.resize(120, 40).await.unwrap();
        let size = rustix::termios::tcgetwinsize(&slave).unwrap();
        assert_eq!((size.ws_col, size.ws_row), (120, 40));
        let client = File::options().write(true).custom_flags(libc::O_NONBLOCK).open(&input).unwrap();
        let got = thread::spawn(move || read_all(&out));
        (&client).write_all(b"typed\n").unwrap();
        let mut slave = File::from(slave);
        let (line, mut slave) = join(move || {
            let mut line = [0; 6];
            slave.read_exact(&mut line).unwrap();
            (line, slave)
        })
        .await;
        assert_eq!(&line, b"typed\n");
        slave.write_all(b"answer\n").unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        drop(client);
        tokio::time::sleep(Duration::from_millis(50)).await;
        slave.write_all(b"still here\n").unwrap();
        streams.close_stdin();
        // With the master closed a terminal reads end of file and writes fail (after SIGHUP to its session).
        let hung_up = join(move || (slave.read(&mut [0; 9]).unwrap_or(0), slave.write(b"x").is_err())).await;
        assert_eq!(hung_up, (0, true));
        streams.finish(Duration::from_secs(1)).await;
        let shown = String::from_utf8(join(move || got.join().unwrap()).await).unwrap();
        assert_eq!(shown, "typed\r\nanswer\r\nstill here\r\n");
    });
}

#[test]
fn a_terminal_whose_stdin_is_a_file_does_not_hang_up_at_its_end() {
    let dir = Dir::new();
    let out = dir.fifo("out");
    fs::write(dir.path("in"), "typed\n").unwrap();
    let flags = rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY | rustix::pty::OpenptFlags::CLOEXEC;
    let master = rustix::pty::openpt(flags).unwrap();
    rustix::pty::unlockpt(&master).unwrap();
    let name = rustix::pty::ptsname(&master, Vec::new()).unwrap();
    let slave = rustix::fs::open(&name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    on_loop(async {
        let opened = open_all(&dir.text("in"), &out, "", true);
        let streams = with_terminal(opened.wiring, master).unwrap();
        let got = thread::spawn(move || read_all(&out));
        let mut slave = File::from(slave);
        let slave = join(move || {
            let mut line = [0; 6];
            slave.read_exact(&mut line).unwrap();
            assert_eq!(&line, b"typed\n");
            slave
        });
        let mut slave = slave.await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        slave.write_all(b"still here\n").unwrap();
        drop(slave);
        streams.finish(Duration::from_secs(2)).await;
        let shown = String::from_utf8(join(move || got.join().unwrap()).await).unwrap();
        assert_eq!(shown, "typed\r\nstill here\r\n");
    });
}

/// A terminal that nobody has open polls as writable for ever.
#[test]
fn what_a_dead_process_has_not_read_costs_nothing() {
    let dir = Dir::new();
    let input = dir.fifo("in");
    let flags = rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY | rustix::pty::OpenptFlags::CLOEXEC;
    let master = rustix::pty::openpt(flags).unwrap();
    rustix::pty::unlockpt(&master).unwrap();
    on_loop(async {
        let opened = open_all(&input, "", "", true);
        let mut streams = with_terminal(opened.wiring, master).unwrap();
        let drain = streams.take_drain();
        let client = File::options().write(true).custom_flags(libc::O_NONBLOCK).open(&input).unwrap();
        (&client).write_all(&b"unread\n".repeat(9_000)).unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        nothing_spins().await;
        drain.dry().await;
        nothing_spins().await;
    });
}

/// The same over a slow client: what was read from the terminal and did not fit yet is not lost either.
#[test]
fn a_hang_up_does_not_cut_off_what_was_written_before_it() {
    for target in ["fifo", "file"] {
        let dir = Dir::new();
        let (input, out) = (dir.fifo("in"), dir.fifo("out"));
        let log = dir.text("log");
        let flags = rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY;
        let master = rustix::pty::openpt(flags).unwrap();
        rustix::pty::unlockpt(&master).unwrap();
        let name = rustix::pty::ptsname(&master, Vec::new()).unwrap();
        let slave = rustix::fs::open(&name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let got = on_loop(async {
            let stdout = if target == "file" { format!("file://{log}") } else { out.clone() };
            let opened = open_all(&input, &stdout, "", true);
            let mut streams = with_terminal(opened.wiring, master).unwrap();
            let path = if target == "file" { "/dev/null".to_owned() } else { out };
            let read = thread::spawn(move || read_all(&path));
            File::from(slave.try_clone().unwrap()).write_all(&b"0123456789\n".repeat(200)).unwrap();
            streams.close_stdin();
            tokio::time::sleep(Duration::from_millis(400)).await;
            drop(slave);
            streams.finish(Duration::from_secs(2)).await;
            join(move || read.join().unwrap()).await
        });
        let got = if target == "file" { fs::read(&log).unwrap() } else { got };
        assert_eq!(got.len(), 200 * 12, "{target}");
    }
}

/// Whom a process leaves behind on its terminal keeps neither the client nor Delete waiting, and is not hung up before Delete.
#[test]
fn a_terminal_that_others_have_ends_with_its_process() {
    for target in ["fifo", "file", "logger"] {
        let dir = Dir::new();
        let (out, log) = (dir.fifo("out"), dir.text("log"));
        let flags = rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY;
        let master = rustix::pty::openpt(flags).unwrap();
        rustix::pty::unlockpt(&master).unwrap();
        let name = rustix::pty::ptsname(&master, Vec::new()).unwrap();
        let slave = rustix::fs::open(&name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).unwrap();
        on_loop(async {
            let stdout = match target {
                "fifo" => out.clone(),
                "file" => format!("file://{log}"),
                _ => logger(&format!("exec 5>&-; cat <&3 > {log}")),
            };
            let opened = open_all("", &stdout, "", true);
            let mut streams = with_terminal(opened.wiring, master).unwrap();
            let drain = streams.take_drain();
            // A client that begins to read after the exit.
            let read = (target == "fifo").then(|| {
                thread::spawn(move || {
                    let mut client = File::open(&out).unwrap();
                    thread::sleep(Duration::from_millis(500));
                    let mut got = Vec::new();
                    client.read_to_end(&mut got).unwrap();
                    got
                })
            });
            let mut left_behind = File::from(slave);
            // More than its fifo takes.
            let mut words = left_behind.try_clone().unwrap();
            let said = join(move || words.write(&b"last word\n".repeat(300)).unwrap()).await;
            let begun = Instant::now();
            drain.dry().await;
            assert!(begun.elapsed() < Duration::from_millis(1500), "{target}: told after {:?}", begun.elapsed());
            let mut left_behind = join(move || {
                // It is not hung up, and nobody listens.
                thread::sleep(Duration::from_millis(700));
                left_behind.write_all(b"nobody hears that\n").unwrap();
                left_behind
            })
            .await;
            let begun = Instant::now();
            streams.finish(Duration::from_secs(8)).await;
            assert!(begun.elapsed() < Duration::from_secs(4), "{target}: deleted after {:?}", begun.elapsed());
            let got = match read {
                Some(read) => join(move || read.join().unwrap()).await,
                None => fs::read(&log).unwrap(),
            };
            assert_eq!(String::from_utf8(got).unwrap(), "last word\r\n".repeat(said / 10), "{target}");
            let end = Instant::now() + Duration::from_secs(5);
            while left_behind.write(b"x").is_ok() {
                assert!(Instant::now() < end, "{target}: it is not hung up");
                thread::sleep(Duration::from_millis(5));
            }
        });
    }
}

/// What a writer with O_DIRECT says in one word the client may read in many.
#[test]
fn packets_are_read_piece_by_piece() {
    let dir = Dir::new();
    let out = dir.fifo("out");
    on_loop(async {
        let opened = open_all("", &out, "", false);
        let streams = opened.wiring.run().unwrap();
        let mut stdout = file(opened.child.stdout);
        let got = join(move || {
            rustix::fs::fcntl_setfl(&stdout, OFlags::DIRECT).unwrap();
            let writing = thread::spawn(move || noise(1 << 20).chunks(4000).for_each(|c| stdout.write_all(c).unwrap()));
            let mut client = File::open(out).unwrap();
            let (mut got, mut piece) = (Vec::new(), [0; 1000]);
            loop {
                match client.read(&mut piece).unwrap() {
                    0 => break,
                    length => got.extend_from_slice(&piece[..length]),
                }
            }
            writing.join().unwrap();
            got
        });
        let got = got.await;
        assert_eq!(got.len(), 1 << 20);
        assert!(got == noise(1 << 20));
        streams.finish(Duration::from_secs(1)).await;
    });
}

/// Somebody in the middle of reading a pipe, who holds its lock until this is dropped: he splices into a terminal that is stopped.
struct Held(std::sync::mpsc::Sender<()>, Option<thread::JoinHandle<()>>);

impl Held {
    /// `end` is either one of a pipe with bytes in it. For no longer than ten seconds.
    fn new(end: &File) -> Self {
        let flags =
            rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY | rustix::pty::OpenptFlags::CLOEXEC;
        let master = rustix::pty::openpt(flags).unwrap();
        rustix::pty::unlockpt(&master).unwrap();
        let name = rustix::pty::ptsname(&master, Vec::new()).unwrap();
        let slave = rustix::fs::open(&name, OFlags::WRONLY | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).unwrap();
        rustix::termios::tcflow(&slave, rustix::termios::Action::OOff).unwrap();
        let again = |end: &File| {
            let link = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(end));
            rustix::fs::open(link, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty()).unwrap()
        };
        let (reader, asking) = (again(end), again(end));
        let splicing = thread::spawn(move || {
            // EIO, and SIGHUP for nobody: the terminal is hung up.
            let flags = rustix::pipe::SpliceFlags::empty();
            let _ = rustix::pipe::splice(&reader, None, &slave, None, 64 << 10, flags);
        });
        let (release, released) = std::sync::mpsc::channel();
        let reading = thread::spawn(move || {
            let _gone_or_too_late = released.recv_timeout(Duration::from_secs(10));
            drop(master);
            splicing.join().unwrap();
        });
        let held = Self(release, Some(reading));
        let (tell, told) = std::sync::mpsc::channel();
        thread::spawn(move || {
            while tell.send(rustix::io::ioctl_fionread(&asking).unwrap()).is_ok() {
                thread::sleep(Duration::from_millis(5));
            }
        });
        let begun = Instant::now();
        while told.recv_timeout(Duration::from_millis(300)).is_ok() {
            assert!(begun.elapsed() < Duration::from_secs(5), "the lock of the pipe is free");
        }
        held
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let _late = self.0.send(());
        self.1.take().unwrap().join().unwrap();
    }
}

/// The longest time that the loop did not turn, while `work` went on.
async fn longest_pause<T>(work: impl Future<Output = T>) -> (Duration, T) {
    let mut work = std::pin::pin!(work);
    let (mut longest, mut last) = (Duration::ZERO, Instant::now());
    loop {
        let done = tokio::select! {
            biased;
            done = &mut work => Some(done),
            () = tokio::time::sleep(Duration::from_millis(5)) => None,
        };
        longest = longest.max(last.elapsed());
        last = Instant::now();
        if let Some(done) = done {
            return (longest, done);
        }
    }
}

#[test]
fn an_output_whose_lock_is_held_keeps_nobody_waiting() {
    for logger_too in [false, true] {
        let dir = Dir::new();
        let out = dir.fifo("out");
        let stdout = if logger_too { logger("exec 5>&-; sleep 60") } else { out.clone() };
        on_loop(async {
            let client = (!logger_too).then(|| thread::spawn(move || read_all(&out)));
            let opened = open_all("", &stdout, "", false);
            let mut process = file(opened.child.stdout);
            process.write_all(b"many words").unwrap();
            let held = Held::new(&process);
            let (pause, ()) = longest_pause(async {
                let mut streams = opened.wiring.run().unwrap();
                let drain = streams.take_drain();
                tokio::time::sleep(Duration::from_millis(200)).await;
                let begun = Instant::now();
                drain.dry().await;
                assert!(begun.elapsed() < Duration::from_secs(4), "the exit is told after {:?}", begun.elapsed());
                streams.finish(Duration::from_millis(200)).await;
                assert!(begun.elapsed() < Duration::from_secs(8), "deleted after {:?}", begun.elapsed());
            })
            .await;
            assert!(pause < Duration::from_millis(500), "the loop stood still for {pause:?}");
            if let Some(client) = client {
                // Neither does the client of a stream that has been given up.
                let end = tokio::time::timeout(Duration::from_secs(3), join(move || client.join().unwrap()));
                assert_eq!(end.await.expect("the fifo is still open"), b"");
            }
            drop((held, process));
        });
    }
}

#[test]
fn a_stdin_whose_lock_is_held_keeps_nobody_waiting() {
    let dir = Dir::new();
    let input = dir.fifo("in");
    on_loop(async {
        let opened = open_all(&input, "", "", false);
        let mut streams = opened.wiring.run().unwrap();
        let process = file(opened.child.stdin);
        let client = File::options().write(true).custom_flags(libc::O_NONBLOCK).open(&input).unwrap();
        (&client).write_all(b"words").unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        let (held, process) = join(move || (Held::new(&process), process)).await;
        let (pause, ()) = longest_pause(async {
            (&client).write_all(b"more words").unwrap();
            tokio::time::sleep(Duration::from_millis(200)).await;
            streams.close_stdin();
            drop(client);
            tokio::time::sleep(Duration::from_millis(200)).await;
            streams.finish(Duration::from_millis(200)).await;
        })
        .await;
        assert!(pause < Duration::from_millis(500), "the loop stood still for {pause:?}");
        drop((held, process));
    });
}

/// What a client can read it reads at once, whatever the process does with its own pipe.
#[test]
fn the_client_of_a_bulk_does_not_wait_for_the_lock_of_its_process() {
    for _ in 0..4 {
        let dir = Dir::new();
        let out = dir.fifo("out");
        on_loop(async {
            let path = out.clone();
            let client = thread::spawn(move || File::open(path).unwrap());
            let opened = open_all("", &out, "", false);
            let streams = opened.wiring.run().unwrap();
            let process = file(opened.child.stdout);
            let read = join(move || {
                let mut client = client.join().unwrap();
                let mut writer = process.try_clone().unwrap();
                let writing = thread::spawn(move || writer.write_all(&noise(16 << 20)).unwrap_err());
                let mut got = vec![0; 4 << 20];
                client.read_exact(&mut got).unwrap();
                // Now all pipes fill up.
                thread::sleep(Duration::from_millis(300));
                let held = Held::new(&process);
                let begun = Instant::now();
                let mut rest = vec![0; 1 << 20];
                client.read_exact(&mut rest).unwrap();
                thread::sleep(Duration::from_millis(100));
                client.read_exact(&mut rest[..4096]).unwrap();
                let took = begun.elapsed();
                drop(held);
                drop(client);
                (took, writing, process)
            });
            let (took, writing, process) = read.await;
            assert!(took < Duration::from_secs(1), "{took:?}");
            streams.finish(Duration::from_millis(200)).await;
            // Nobody reads its pipe any more.
            join(move || writing.join().unwrap()).await;
            drop(process);
        });
    }
}
