//! `start`, the daemon and `delete` as containerd calls them, on the real kernel, as root; each test in a mount namespace
//! with a `/run` of its own.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use containerd_shim_protos::api::DeleteResponse;
use containerd_shim_protos::bootstrap_api::{BootstrapParams, BootstrapResult};
use protobuf::Message;
use protobuf::well_known_types::any::Any;

const SHIM: &str = env!("CARGO_BIN_EXE_containerd-shim-mini-v2");
const CONTAINERD: &str = "/run/test/containerd.sock";

/// State directory of a namespace, with bundles in it.
struct State {
    dir: tempfile::TempDir,
    shim: PathBuf,
}

impl State {
    fn new() -> Self {
        // The deprecation is for CLONE_FILES, which is not asked for.
        #[allow(deprecated)]
        rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNS).expect("these tests need root");
        let private = rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC;
        rustix::mount::mount_change("/", private).unwrap();
        rustix::mount::mount("tmpfs", "/run", "tmpfs", rustix::mount::MountFlags::empty(), None).unwrap();
        Self { dir: tempfile::tempdir().unwrap(), shim: SHIM.into() }
    }

    fn bundle(&self, id: &str) -> PathBuf {
        self.dir.path().join(id)
    }

    /// As containerd makes it.
    fn make(&self, id: &str, config: &str) -> PathBuf {
        let bundle = self.bundle(id);
        fs::create_dir_all(bundle.join("rootfs")).unwrap();
        fs::write(bundle.join("config.json"), config).unwrap();
        let log = bundle.join("log");
        rustix::fs::mkfifoat(rustix::fs::CWD, &log, rustix::fs::Mode::RWXU).unwrap();
        bundle
    }

    /// Runs the shim in a bundle.
    fn call(&self, id: &str, action: &str, input: &[u8], change: impl FnOnce(&mut Command)) -> Output {
        let mut command = Command::new(&self.shim);
        command.args(["-namespace", "test", "-address", CONTAINERD, "-publish-binary", "/bin/false", "-id", id]);
        command.env("TTRPC_ADDRESS", "/run/test/containerd.sock.ttrpc").env("MAX_SHIM_VERSION", "2");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).current_dir(self.bundle(id));
        change(&mut command);
        command.arg(action);
        let mut child = spawn(&mut command);
        child.stdin.take().unwrap().write_all(input).unwrap();
        child.wait_with_output().unwrap()
    }

    fn start(&self, id: &str, input: &[u8]) -> Vec<u8> {
        let output = self.call(id, "start", input, |_| {});
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        output.stdout
    }

    fn delete(&self, id: &str) -> DeleteResponse {
        let output = self.call(id, "delete", b"", |_| {});
        assert!(output.status.success(), "{output:?}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        DeleteResponse::parse_from_bytes(&output.stdout).unwrap()
    }

    /// The daemons that live for our bundles.
    fn daemons(&self) -> Vec<u32> {
        let here = self.dir.path().canonicalize().unwrap();
        let pids = fs::read_dir("/proc").unwrap().filter_map(|e| e.unwrap().file_name().to_str()?.parse().ok());
        pids.filter(|pid| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(&here))).collect()
    }

    fn only_daemon(&self) -> u32 {
        let settled =
            |pid: &u32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|c| c == "containerd-shim\n");
        let pids = wait_for(|| Some(self.daemons()).filter(|pids| pids.iter().any(settled)));
        assert_eq!(pids.len(), 1);
        pids[0]
    }
}

impl Drop for State {
    fn drop(&mut self) {
        for pid in self.daemons() {
            // A test that has failed may be at any point: one of them may have ended by now.
            let number = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
            let _gone = rustix::process::kill_process(number, rustix::process::Signal::KILL);
        }
        wait_for(|| self.daemons().is_empty().then_some(()));
        // The directory cannot be removed while something is mounted in it; not every bundle has something.
        for bundle in fs::read_dir(self.dir.path()).unwrap().flatten() {
            let _not_mounted =
                rustix::mount::unmount(bundle.path().join("rootfs"), rustix::mount::UnmountFlags::DETACH);
        }
    }
}

fn wait_for<T>(mut what: impl FnMut() -> Option<T>) -> T {
    let limit = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(found) = what() {
            return found;
        }
        assert!(Instant::now() < limit, "nothing within ten seconds");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn end(pid: u32, signal: rustix::process::Signal) {
    let number = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    rustix::process::kill_process(number, signal).unwrap();
    wait_for(|| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        (stat.is_empty() || stat.contains(") Z ")).then_some(())
    });
}

fn path_of(url: &[u8]) -> PathBuf {
    PathBuf::from(std::str::from_utf8(url).unwrap().strip_prefix("unix://").unwrap())
}

fn proc(pid: u32, name: &str) -> String {
    fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap()
}

const PLAIN: &str = r#"{"ociVersion":"1.2.0"}"#;

#[test]
fn an_old_containerd_gets_an_address_and_a_daemon() {
    a_daemon_as_it_should_be(true, |_| {});
}

/// `start` makes the daemon before its C library begins, but not if the environment is longer than it has place for.
#[test]
fn a_start_that_cannot_be_early_makes_the_same_daemon() {
    a_daemon_as_it_should_be(false, |c| {
        c.envs((0..260).map(|n| (format!("VARIABLE_{n}"), "x")));
    });
}

/// A daemon that is early has the command line of `start`; else `start` has made one up.
fn a_daemon_as_it_should_be(early: bool, change: impl FnOnce(&mut Command)) {
    let state = State::new();
    let bundle = state.make("c1", PLAIN);
    // Left open by whoever calls, as Go programs do between open and fcntl.
    let leak = bundle.join("config.json");
    let leaked = fs::File::open(&leak).unwrap();
    rustix::io::fcntl_setfd(&leaked, rustix::io::FdFlags::empty()).unwrap();
    let output = state.call("c1", "start", b"", |c| {
        c.env("NOTIFY_SOCKET", "/run/systemd/notify")
            .env("MINI_READY", "77 of somebody else")
            .env("KEPT", "for helpers");
        change(c);
    });
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let (url, socket) = (output.stdout.clone(), path_of(&output.stdout));
    assert!(socket.starts_with("/run/containerd/s"), "{}", socket.display());
    assert_eq!(fs::read(bundle.join("address")).unwrap(), url);
    let meta = fs::metadata(&socket).unwrap();
    assert!(meta.file_type().is_socket());
    assert_eq!(meta.permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(socket.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
    UnixStream::connect(&socket).unwrap();

    let pid = state.only_daemon();
    let stat = proc(pid, "stat");
    let group = stat.rsplit_once(") ").unwrap().1.split(' ').nth(2).unwrap();
    assert_eq!(group, pid.to_string(), "a process group of its own");
    let ours: i32 = proc(std::process::id(), "oom_score_adj").trim().parse().unwrap();
    assert_eq!(proc(pid, "oom_score_adj").trim(), (ours + 1).min(1000).to_string());
    assert!(
        !fs::read_dir(format!("/proc/{pid}/fd"))
            .unwrap()
            .flatten()
            .any(|fd| fd.path().read_link().is_ok_and(|to| to == leak))
    );
    let environment = proc(pid, "environ");
    for word in
        ["TTRPC_ADDRESS=/run/test/containerd.sock.ttrpc\0", "KEPT=for helpers\0", "glibc.malloc.tcache_count=2\0"]
    {
        assert!(environment.contains(word), "{word} in {environment:?}");
    }
    assert!(!environment.contains("MAX_SHIM_VERSION") && !environment.contains("NOTIFY_SOCKET"), "{environment:?}");
    assert!(!environment.contains("MINI_READY=77"), "{environment:?}");
    let line = proc(pid, "cmdline");
    let words: Vec<_> = line.split_terminator('\0').skip(1).collect();
    assert!(!words.contains(&"start") && words.contains(&"-publish-binary") == early, "{words:?}");
    for pair in [["-namespace", "test"], ["-id", "c1"], ["-address", CONTAINERD]] {
        assert!(words.windows(2).any(|w| w == pair), "{pair:?} in {words:?}");
    }
    let binary = fs::File::options().write(true).open(format!("/proc/{pid}/exe"));
    assert!(binary.is_err(), "written while it runs");
}

/// containerd kills a `start` that takes too long: what it has begun ends with it.
#[test]
fn a_start_that_is_killed_leaves_no_process() {
    let state = State::new();
    state.make("c1", PLAIN);
    let mut command = Command::new(SHIM);
    command.args(["-namespace", "test", "-address", CONTAINERD, "-id", "c1", "start"]).current_dir(state.bundle("c1"));
    let mut start = spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
    // It waits for the end of this.
    let _input = start.stdin.take();
    let both = wait_for(|| Some(state.daemons()).filter(|pids| pids.len() == 2));
    assert!(both.contains(&start.id()));
    wait_for(|| {
        both.iter().all(|pid| proc(*pid, "syscall").starts_with(&format!("{} ", libc::SYS_read))).then_some(())
    });
    start.kill().unwrap();
    start.wait().unwrap();
    wait_for(|| state.daemons().is_empty().then_some(()));
    assert!(!Path::new("/run/containerd/s").exists());
}

/// Who gets an address of a shim that ends at once hears of a refused connection, and nothing of the reason.
#[test]
fn a_start_on_a_kernel_that_is_too_old_says_so() {
    let state = State::new();
    let bundle = state.make("c1", PLAIN);
    let mut start = Command::new("setarch");
    start.args(["--uname-2.6", SHIM, "-namespace", "test", "-address", CONTAINERD, "-id", "c1", "start"]);
    let refused = start.current_dir(&bundle).stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("is too old: 5.10 is the oldest that works"), "{refused:?}");
    assert!(refused.stdout.is_empty() && !bundle.join("address").exists(), "{refused:?}");
    let sockets = fs::read_dir("/run/containerd/s").into_iter().flatten();
    assert_eq!(sockets.count(), 0);
    assert!(state.daemons().is_empty());
}

/// Between its claim and its end a `start` that fails holds its path: it must not remove the socket of another that came meanwhile.
#[test]
fn a_start_that_fails_takes_nobodys_socket() {
    let state = State::new();
    fs::remove_file(state.make("c1", PLAIN).join("log")).unwrap();
    fs::write(state.bundle("c1").join("log"), "no fifo").unwrap();
    state.make("c2", r#"{"annotations":{"io.kubernetes.cri.sandbox-id":"c1"}}"#);
    let mut failing = Command::new("strace");
    failing.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=unlink,unlinkat"]);
    failing.args(["-e", "inject=unlink,unlinkat:delay_enter=1000000", SHIM, "-namespace", "test"]);
    failing.args(["-address", CONTAINERD, "-id", "c1", "start"]).current_dir(state.bundle("c1"));
    let failing = failing.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for(|| state.bundle("c1").join("address").exists().then_some(()));
    std::thread::sleep(Duration::from_millis(200));
    let other = state.call("c2", "start", b"", |_| {});
    assert!(other.status.success(), "{other:?}");
    let failed = failing.wait_with_output().unwrap();
    assert!(
        !failed.status.success() && String::from_utf8_lossy(&failed.stderr).contains("is not a fifo"),
        "{failed:?}"
    );
    assert_eq!(path_of(&other.stdout).exists(), !state.daemons().is_empty(), "a daemon has lost its socket");
}

/// The words are Go's, and those of whoever calls by hand; the process that waits ends as the one that works does.
#[test]
fn a_start_ends_as_its_work_does() {
    let state = State::new();
    state.make("start", PLAIN);
    let run = |script: &str, words: &[&str]| {
        let mut command = Command::new("sh");
        command.args(["-c", script, SHIM]).args(words).current_dir(state.bundle("start")).stdin(Stdio::null());
        command.output().unwrap()
    };
    let plain = "exec \"$0\" \"$@\"";
    let id = ["-namespace", "test", "-address", CONTAINERD, "-id", "start"];
    let start = [&id[..], &["start"]].concat();
    let text = |output: &Output| String::from_utf8_lossy(&output.stderr).into_owned();

    let wrong = run(plain, &["-nonsense", "start"]);
    assert!(wrong.status.code() == Some(2) && text(&wrong).contains("not defined: -nonsense"), "{wrong:?}");
    let version = run(plain, &["-v", "start"]);
    assert!(version.status.success() && version.stdout.starts_with(b"containerd-shim-mini-v2:"), "{version:?}");
    // An id, and no action.
    let serve = run(plain, &id);
    assert!(serve.status.code() == Some(1) && text(&serve).contains("is not a listening socket"), "{serve:?}");
    // With the mark that only our first image may give.
    let marked = run("exec env MINI_READY='9 ' \"$0\" \"$@\" 9>/dev/null", &id);
    assert!(marked.status.code() == Some(1) && text(&marked).contains("is not a listening socket"), "{marked:?}");
    // Who ignores SIGCHLD is not told how a child ends.
    let ignorant = "exec env --ignore-signal=CHLD --block-signal=HUP \"$0\" \"$@\"";
    let ignored = run(ignorant, &["-address", CONTAINERD, "-id", "start", "start"]);
    assert!(ignored.status.code() == Some(1) && text(&ignored).contains("namespace cannot be empty"), "{ignored:?}");
    assert!(state.daemons().is_empty());

    let first = run(ignorant, &start);
    assert!(first.status.success() && first.stderr.is_empty(), "{first:?}");
    let pid = state.only_daemon();
    let blocked = proc(pid, "status").lines().find_map(|l| Some(l.strip_prefix("SigBlk:\t")?.to_owned())).unwrap();
    let own = [libc::SIGCHLD, libc::SIGTERM, libc::SIGINT, libc::SIGUSR1].map(|s| 1_u64 << (s - 1)).iter().sum::<u64>();
    assert_eq!(blocked, format!("{own:016x}"));
    let ignored = proc(pid, "status").lines().find_map(|l| Some(l.strip_prefix("SigIgn:\t")?.to_owned())).unwrap();
    assert_eq!(u64::from_str_radix(&ignored, 16).unwrap() & 1 << (libc::SIGCHLD - 1), 0);
    // Served already.
    let second = run(plain, &start);
    assert!(second.status.success() && second.stdout == first.stdout, "{second:?}");
    assert_eq!(state.only_daemon(), pid);
    end(pid, rustix::process::Signal::TERM);

    // Standard streams that are closed.
    let closed = run(&format!("{plain} <&- 2>&-"), &start);
    assert!(closed.status.success() && closed.stdout == first.stdout, "{closed:?}");
    let stdin = format!("/proc/{}/fd/0", state.only_daemon());
    // It settles after `start` has answered.
    wait_for(|| (fs::read_link(&stdin).unwrap() == Path::new("/dev/null")).then_some(()));
}

#[test]
fn members_of_a_group_share_a_daemon() {
    let state = State::new();
    let config = r#"{"annotations":{"io.kubernetes.cri.sandbox-id":"pod"}}"#;
    for id in ["pod", "a", "b"] {
        state.make(id, config);
    }
    let url = state.start("pod", b"");
    for id in ["a", "b"] {
        assert_eq!(state.start(id, b""), url);
        assert_eq!(fs::read(state.bundle(id).join("address")).unwrap(), url);
    }
    let first = state.only_daemon();

    // A dead shim's socket stays behind; the next start replaces it.
    end(first, rustix::process::Signal::KILL);
    assert!(path_of(&url).exists());
    assert_eq!(state.start("a", b""), url);
    assert_ne!(state.only_daemon(), first);
}

#[test]
fn bootstrap_is_answered_in_kind_and_the_chosen_directory_is_used() {
    let state = State::new();
    let bundle = state.make("c1", PLAIN);
    let params = BootstrapParams {
        instance_id: "c1".into(),
        namespace: "test".into(),
        socket_dir: Some("/run/other/s".into()),
        ..BootstrapParams::default()
    };
    let reply = state.start("c1", &params.write_to_bytes().unwrap());
    let reply = BootstrapResult::parse_from_bytes(&reply).unwrap();
    assert_eq!((reply.version, reply.protocol.as_str()), (3, "ttrpc"));
    assert!(path_of(reply.address.as_bytes()).starts_with("/run/other/s"));
    assert_eq!(fs::read_link(bundle.join("s")).unwrap(), Path::new("/run/other/s"));
    UnixStream::connect(path_of(reply.address.as_bytes())).unwrap();
}

#[test]
fn the_log_goes_to_the_fifo_of_the_bundle() {
    let state = State::new();
    let bundle = state.make("c1", PLAIN);
    let mut log =
        fs::File::options().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(bundle.join("log")).unwrap();
    let output = state.call("c1", "start", b"", |c| {
        c.arg("-debug");
    });
    assert!(output.status.success(), "{output:?}");
    let line = wait_for(|| {
        let mut buffer = [0; 4096];
        log.read(&mut buffer).ok().map(|n| String::from_utf8_lossy(&buffer[..n]).into_owned())
    });
    assert!(
        line.starts_with("time=\"20") && line.contains(" level=") && line.contains(" id=\"c1\" namespace=\"test\""),
        "{line}"
    );
}

#[test]
fn a_start_that_fails_says_why_and_leaves_nothing() {
    let state = State::new();
    state.make("c1", PLAIN);
    // containerd.runc.v1.Options{ShimCgroup: "/no/such/group"}
    let options = Any {
        type_url: "containerd.runc.v1.Options".into(),
        value: b"\x1a\x0e/no/such/group".to_vec(),
        ..Any::default()
    };
    let output = state.call("c1", "start", &options.write_to_bytes().unwrap(), |_| {});
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(text, "containerd-shim-mini-v2: ShimCgroup \"/no/such/group\": there is no such group\n");
    assert_eq!(fs::read_dir("/run/containerd/s").unwrap().count(), 0);
    assert!(state.daemons().is_empty());

    fs::write(state.bundle("c1").join("config.json"), "{").unwrap();
    let output = state.call("c1", "start", b"", |_| {});
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("config.json"), "{output:?}");
    let output = state.call("c1", "start", &vec![b'x'; (10 << 20) + 1], |_| {});
    assert!(
        !output.status.success() && String::from_utf8_lossy(&output.stderr).contains("longer than"),
        "{:?}",
        output.stderr
    );
}

/// The move of CVE-2019-5736: keep `/proc/PID/exe`, wait until the process is gone, open for writing.
fn write_to_binary_of(pid: u32, gone: impl FnOnce()) -> std::io::Result<fs::File> {
    let held = fs::File::options().read(true).custom_flags(libc::O_PATH).open(format!("/proc/{pid}/exe")).unwrap();
    let now = fs::File::options().write(true).open(format!("/proc/{pid}/exe"));
    assert!(now.is_err(), "written while it runs");
    gone();
    fs::File::options().write(true).open(format!("/proc/self/fd/{}", held.as_raw_fd()))
}

#[test]
fn nobody_can_write_to_the_daemons_binary() {
    // The attack works on a program that is started in the usual way, so it is one.
    let dir = tempfile::tempdir().unwrap();
    let victim = dir.path().join("sleep");
    fs::copy("/bin/sleep", &victim).unwrap();
    let mut child = spawn_settled(Command::new(&victim).arg("100"));
    let opened = write_to_binary_of(child.id(), || {
        child.kill().unwrap();
        child.wait().unwrap();
    });
    assert!(opened.is_ok(), "{opened:?}");
    drop(opened);

    let mut state = State::new();
    state.shim = dir.path().join("shim");
    fs::copy(SHIM, &state.shim).unwrap();
    state.make("c1", PLAIN);
    state.start("c1", b"");
    let pid = state.only_daemon();
    let opened = write_to_binary_of(pid, || end(pid, rustix::process::Signal::KILL));
    assert_eq!(opened.unwrap_err().raw_os_error(), Some(libc::EROFS));
    assert_eq!(fs::read(&state.shim).unwrap(), fs::read(SHIM).unwrap());
    // The file itself is still to be replaced or written by the host.
    fs::File::options().write(true).open(&state.shim).unwrap();
}

/// Without CAP_SYS_ADMIN, as on a kernel before 5.12, the daemon is a sealed copy.
#[test]
fn nobody_can_write_to_the_daemons_copy() {
    let mut state = State::new();
    state.make("c1", PLAIN);
    let shim = std::mem::replace(&mut state.shim, "setpriv".into());
    let output = state.call("c1", "start", b"", |c| {
        let words: Vec<_> = c.get_args().map(ToOwned::to_owned).collect();
        let (here, environment) = (
            c.get_current_dir().unwrap().to_owned(),
            c.get_envs().map(|(k, v)| (k.to_owned(), v.unwrap().to_owned())).collect::<Vec<_>>(),
        );
        *c = Command::new("setpriv");
        c.args(["--bounding-set=-sys_admin", "--inh-caps=-sys_admin"])
            .arg(shim)
            .args(words)
            .current_dir(here)
            .envs(environment);
        c.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    });
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let pid = state.only_daemon();
    let binary = fs::read_link(format!("/proc/{pid}/exe")).unwrap();
    assert!(binary.to_string_lossy().starts_with("/memfd:containerd-shim-mini-v2"), "{}", binary.display());
    let opened = write_to_binary_of(pid, || end(pid, rustix::process::Signal::KILL));
    // A memfd can be opened, but not changed.
    assert_eq!(opened.unwrap().write(b"x").unwrap_err().raw_os_error(), Some(libc::EPERM));
}

/// A copied program is busy for as long as a child that another test has just forked still holds our descriptor of it.
fn spawn(command: &mut Command) -> std::process::Child {
    loop {
        match command.spawn() {
            Err(e) if e.raw_os_error() == Some(libc::ETXTBSY) => {
                std::thread::sleep(std::time::Duration::from_millis(5))
            }
            spawned => return spawned.unwrap(),
        }
    }
}

/// Until exec has happened `/proc/PID/exe` would be ours.
fn spawn_settled(command: &mut Command) -> std::process::Child {
    let child = spawn(command);
    wait_for(|| proc(child.id(), "comm").starts_with("sleep").then_some(()));
    child
}

#[test]
fn delete_after_a_crash_undoes_what_is_left_and_may_be_repeated() {
    let state = State::new();
    let bundle = state.make("pod", PLAIN);
    let url = state.start("pod", b"");
    fs::write(bundle.join("init.pid"), "4711").unwrap();
    state.make("a", PLAIN);
    fs::write(state.bundle("a").join("sandbox"), "pod").unwrap();
    state.make("other", PLAIN);
    fs::write(state.bundle("other").join("sandbox"), "x").unwrap();
    let mounted = |id: &str| {
        let root = state.bundle(id).join("rootfs").canonicalize().unwrap();
        fs::read_to_string("/proc/thread-self/mountinfo").unwrap().contains(&format!(" {} ", root.display()))
    };
    for id in ["pod", "a", "other"] {
        let root = state.bundle(id).join("rootfs");
        rustix::mount::mount("tmpfs", root, "tmpfs", rustix::mount::MountFlags::empty(), None).unwrap();
    }

    // The shim lives: its socket and its members are not ours to touch.
    let reply = state.delete("pod");
    assert_eq!((reply.pid, reply.exit_status), (4711, 137));
    let age = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() as i64
        - reply.exited_at.seconds;
    assert!((0..5).contains(&age));
    assert!(path_of(&url).exists() && !mounted("pod") && mounted("a"));

    end(state.only_daemon(), rustix::process::Signal::KILL);
    assert!(path_of(&url).exists());
    state.delete("pod");
    assert!(!path_of(&url).exists() && !mounted("a") && mounted("other"));
    assert_eq!(state.delete("pod").pid, 4711);
}

/// Whether the pod's shim lives cannot be found out: then its members are left alone.
#[test]
fn delete_in_doubt_spares_the_members() {
    let state = State::new();
    let (pod, member) = (state.make("pod", "{}"), state.make("member", "{}"));
    fs::write(member.join("sandbox"), "pod").unwrap();
    let mut init = std::process::Command::new("/bin/sleep").arg("1000").spawn().unwrap();
    let start_time = runtime::container::start_time(init.id()).unwrap();
    let record = serde_json::json!({"version": 1, "id": "member", "bundle": member, "pid": init.id(), "startTime": start_time,
        "cgroup": runtime::cgroup::Layout::read().unwrap().place("/mini-in-doubt/member", "member").unwrap()});
    fs::write(member.join("mini.json"), record.to_string()).unwrap();
    let socket = pod.join("socket");
    let _not_a_shim = std::os::unix::net::UnixDatagram::bind(&socket).unwrap();
    fs::write(pod.join("address"), format!("unix://{}", socket.display())).unwrap();
    let output = state.call("pod", "delete", b"", |_| {});
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.contains("connect"), "{output:?}");
    assert!(socket.exists() && member.join("mini.json").exists(), "{said}");
    assert!(init.try_wait().unwrap().is_none(), "it lives");
    // With the doubt the member goes.
    fs::remove_file(&socket).unwrap();
    state.delete("pod");
    assert!(!member.join("mini.json").exists());
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&init.wait().unwrap()), Some(9));
}

#[test]
fn the_daemon_leaves_orderly_at_sigterm() {
    let state = State::new();
    state.make("c1", PLAIN);
    let url = state.start("c1", b"");
    let pid = state.only_daemon();
    end(pid, rustix::process::Signal::TERM);
    wait_for(|| (!path_of(&url).exists()).then_some(()));
    assert_eq!(state.delete("c1").pid, 0);
}

#[test]
fn the_daemon_holds_three_streams_and_what_it_serves_with() {
    let state = State::new();
    let bundle = state.make("c1", PLAIN);
    let stray: OwnedFd = fs::File::open("/dev/zero").unwrap().into();
    state.start("c1", b"");
    let pid = state.only_daemon();
    wait_for(|| (fs::read_link(format!("/proc/{pid}/fd/0")).unwrap() == Path::new("/dev/null")).then_some(()));
    assert_eq!(fs::read_link(format!("/proc/{pid}/fd/1")).unwrap(), Path::new("/dev/null"));
    let log = fs::metadata(format!("/proc/{pid}/fd/2")).unwrap();
    assert_eq!(log.ino(), fs::metadata(bundle.join("log")).unwrap().ino());
    let open: Vec<_> = fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .filter_map(|e| fs::read_link(e.unwrap().path()).ok())
        .collect();
    assert!(!open.contains(&PathBuf::from("/dev/zero")) && open.len() < 12, "{open:?}");
    drop(stray);
}
