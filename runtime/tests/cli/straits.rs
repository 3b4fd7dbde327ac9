//! Too few descriptors, no space: a command that cannot do its work says why, does nothing else and leaves nothing.

use std::os::unix::net::UnixListener;
use std::process::Command;

use super::bench::{Bench, Said, finish, until};
use super::life::groups;

/// More than any command here needs.
const ENOUGH: u32 = 100;
const TOO_MANY: &str = "too many open files";

/// A command that may have so many descriptors.
fn with_descriptors(b: &Bench, number: u32, args: &[&str]) -> Said {
    let command = b.command(args);
    let mut limited = Command::new("/bin/sh");
    let script = format!("ulimit -n {number}; exec \"$0\" \"$@\"");
    limited.args(["-c", &script]).arg(command.get_program()).args(command.get_args());
    limited.current_dir(b.bundle()).stdin(std::process::Stdio::null());
    finish(limited)
}

/// One descriptor more each time, until there are enough; what is refused before that has this exit code and says why.
fn until_enough(b: &Bench, args: &[&str], refused: i32, after: impl Fn(u32)) -> Said {
    for number in 3..ENOUGH {
        let said = with_descriptors(b, number, args);
        if !said.err.contains(TOO_MANY) {
            assert!(number > 3, "{args:?} with {number}: {}", said.err);
            return said;
        }
        assert_eq!(said.code, refused, "{args:?} with {number}: {}", said.err);
        after(number);
    }
    panic!("{args:?} wants more than {ENOUGH} descriptors");
}

pub fn create_without_descriptors(b: &Bench) {
    let id = b.id("x");
    b.spec(&["true"], |_| {});
    let said = until_enough(b, &["run", &id], 1, |number| {
        assert!(!b.root().join(&id).exists(), "with {number}");
        assert_eq!(groups(&id), Vec::<String>::new(), "with {number}");
    });
    assert_eq!(said.code, 0, "{}", said.err);
}

pub fn exec_without_descriptors(b: &Bench) {
    let id = b.id("x");
    b.sleeper(&id);
    let ran = b.bundle().join("rootfs/ran");
    let nobody = |number: u32| {
        assert!(!ran.exists(), "it ran with {number}");
        assert_eq!(b.fine(&["ps", "-f", "json", &id]).split(',').count(), 1, "nobody but its init is left of {number}");
    };
    let script = ["sh", "-c", "echo > /ran; exit 7"];
    let said = until_enough(b, &[&["exec", &id], &script[..]].concat(), 255, nobody);
    assert_eq!(said.code, 7, "{}", said.err);
    std::fs::remove_file(&ran).unwrap();

    let path = b.path("console.sock");
    let _listener = UnixListener::bind(&path).unwrap();
    let words = ["exec", "-d", "-t", "--console-socket", path.to_str().unwrap(), &id];
    let said = until_enough(b, &[&words, &script[..]].concat(), 255, nobody);
    assert_eq!(said.code, 0, "{}", said.err);
    until("it has run", || ran.exists());
}

/// A container whose process cannot be looked at is not a stopped one, which anybody may delete.
pub fn nobody_is_taken_for_dead(b: &Bench) {
    let id = b.id("x");
    b.sleeper(&id);
    let said = until_enough(b, &["delete", &id], 1, |_| {});
    assert!(said.err.contains("that is not stopped: running"), "{}", said.err);
    let said = until_enough(b, &["state", &id], 1, |_| {});
    assert!(said.out.contains("\"running\""), "{}", said.out);
    assert_eq!(b.status(&id), "running");
}

/// A node with hundreds of mounts, of which only the first pages are read; and one of them covers a hierarchy.
pub fn many_mounts(b: &Bench) {
    let dir = tempfile::tempdir().unwrap();
    let id = b.id("x");
    b.spec(&["cat", "/proc/self/cgroup"], |_| {});
    // The container's own view of its groups, those that are its own.
    let run = |cover: &str| -> Vec<String> {
        let command = b.command(&["run", &id]);
        let source = "a-source-with-a-name-as-long-as-that-of-a-layer";
        let script = format!(
            "for i in $(seq 300); do mount -t tmpfs -o size=4k {source}-$i {}; done; {cover}; exec \"$0\" \"$@\"",
            dir.path().display()
        );
        let mut within = Command::new("unshare");
        within.args(["--mount", "--propagation", "private", "sh", "-c", &script]);
        within.arg(command.get_program()).args(command.get_args());
        within.current_dir(b.bundle()).stdin(std::process::Stdio::null());
        let said = finish(within);
        assert_eq!(said.code, 0, "{}", said.err);
        said.out.lines().filter(|line| line.contains(&id)).map(str::to_owned).collect()
    };
    let own: Vec<String> = b.fine(&["run", &id]).lines().filter(|l| l.contains(&id)).map(str::to_owned).collect();
    assert!(!own.is_empty());
    assert_eq!(run("true"), own);
    if std::path::Path::new("/sys/fs/cgroup/pids/tasks").exists() {
        let others: Vec<String> = own.into_iter().filter(|line| !line.contains(":pids:")).collect();
        assert_eq!(run("mount -t tmpfs cover /sys/fs/cgroup/pids"), others);
    }
}

pub fn list_tells_of_a_broken_record(b: &Bench) {
    let (broken, id) = (b.id("broken"), b.id("x"));
    b.sleeper(&id);
    std::fs::create_dir(b.root().join(&broken)).unwrap();
    std::fs::write(b.root().join(&broken).join("mini.json"), "{").unwrap();
    let said = b.say(&["list", "-q"]);
    assert_eq!((said.code, said.out.as_str()), (0, format!("{id}\n").as_str()));
    assert!(said.err.starts_with(&format!("load container {broken}: ")), "{}", said.err);
    std::fs::remove_dir_all(b.root().join(&broken)).unwrap();
}

/// The state directory's file system has so many pages, from none free to enough; in a mount namespace of the command's own.
pub fn create_without_space(b: &Bench) {
    let id = b.id("x");
    b.spec(&["true"], |_| {});
    let root = b.root();
    let root = root.to_str().unwrap();
    for pages in 1..8 {
        let command = b.command(&["create", &id]);
        let mut inside = Command::new("unshare");
        // A page is gone at once, so that the first round has none.
        let script = format!(
            "mount -t tmpfs -o size={}k full {root} && head -c 4096 /dev/zero > {root}/.one || exit 99
             \"$0\" \"$@\" > /dev/null; code=$?
             \"$0\" --root {root} delete --force {id} 2> /dev/null || true
             [ $code = 0 ] || ls -A {root}; exit $code",
            4 * pages
        );
        inside.args(["-m", "/bin/sh", "-c", &script]).arg(command.get_program()).args(command.get_args());
        inside.current_dir(b.bundle()).stdin(std::process::Stdio::null());
        let said = finish(inside);
        assert_eq!(groups(&id), Vec::<String>::new(), "{pages} pages");
        if said.code == 0 {
            assert!(pages > 1, "the first round has no space");
            return;
        }
        assert_eq!(said.code, 1, "{pages} pages: {}{}", said.out, said.err);
        assert!(said.err.contains("no space left on device"), "{pages} pages: {}", said.err);
        assert_eq!(said.out, ".one\n", "{pages} pages");
    }
    panic!("it wants more than 8 pages");
}

/// Killed when its process waits already and its record is not written yet: what it leaves is all there but for that.
pub fn delete_of_a_create_that_was_killed(b: &Bench) {
    let id = b.id("x");
    b.spec(&["sleep", "1000"], |_| {});
    b.detached(&["create", &id]);
    let pid = b.state(&id)["pid"].as_u64().unwrap();
    std::fs::remove_file(b.root().join(&id).join("mini.json")).unwrap();
    b.fine(&["delete", "--force", &id]);
    assert!(!b.root().join(&id).exists());
    assert_eq!(groups(&id), Vec::<String>::new());
    // It was no child of ours, and whoever reaps it may be late.
    until("its end", || {
        let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        state.is_empty() || state.contains(") Z ")
    });
}
