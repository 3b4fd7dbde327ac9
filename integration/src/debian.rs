//! Debian's image: glibc, bash and its job control, procps, perl, beside which busybox asks little of a runtime.

use std::time::Duration;

use crate::containerd::{LIMIT, testbed};
use crate::pty::Pty;
use crate::{Outcome, Output, ensure, eventually};

/// The image as users write it.
pub const IMAGE: &str = "mini-debian:latest";

/// Its name in full.
pub const FULL_NAME: &str = "docker.io/library/mini-debian:latest";

/// Its OCI archive.
pub fn archive() -> String {
    testbed().join("debian-image/debian.tar").display().to_string()
}

/// Threads, /dev/fd, signals to children, name service, procps and what needs a capability that containers have not.
/// For `bash -c`, as root.
pub const SCRIPT: &str = r#"set -eu
. /etc/os-release; echo "$ID $VERSION_CODENAME, pid $$"
id
getent passwd user
seq 300000 | sort --parallel=4 --buffer-size=64M --reverse --numeric-sort | sed -n 1p
cat <(echo one) <(echo two)
timeout 0.2 sleep 5 || echo "timed out $?"
perl -e 'my $pid = fork // die; $pid or exec "sh", "-c", "exit 3"; wait; print "child ", $? >> 8, "\n"; kill 9, fork || sleep 9; wait; print "killed $?\n"'
ps -o pid=,comm= 1 | tr -s " "
head -c 100000 /dev/urandom | wc -c
unshare --mount true 2>&1 || true
mkfifo /tmp/fifo; (echo through a fifo >/tmp/fifo &) ; cat /tmp/fifo
"#;

/// For `perl -e`: a server of UDP on port 53 that answers each word with itself.
pub const UDP_SERVER: &str = r#"use IO::Socket::INET; my $s = IO::Socket::INET->new(LocalPort => 53, Proto => "udp") or die $!;
while (1) { my $from = recv($s, my $word, 99, 0); send($s, "heard $word", 0, $from) }"#;

/// For `perl -e`, with an address and a port: says a word to such a server and prints what comes back.
pub const UDP_CLIENT: &str = r#"use IO::Socket::INET; alarm 5;
my $s = IO::Socket::INET->new(PeerAddr => $ARGV[0], PeerPort => $ARGV[1], Proto => "udp") or die $!;
send($s, "word", 0); recv($s, my $answer, 99, 0); print "$answer\n""#;

/// What [`SCRIPT`] says.
pub fn says(output: &Output) -> Outcome {
    check(&output.text())
        .map_err(|error| format!("{}\n{}", error.message().unwrap_or_default(), output.report()).into())
}

/// The same for text that came another way.
pub fn check(text: &str) -> Outcome {
    let lines = [
        "debian trixie, pid 1",
        "user:x:1000:1000:user:/home/user:/bin/bash",
        "300000",
        "one\ntwo",
        "timed out 124",
        "child 3",
        "killed 9",
        "1 bash",
        "100000",
        "unshare: unshare failed: Operation not permitted",
        "through a fifo",
    ];
    let mut rest = text;
    for line in lines {
        let at =
            rest.find(&format!("{line}\n")).ok_or_else(|| format!("{line:?} is missing or too late in {text:?}"))?;
        rest = &rest[at + line.len()..];
    }
    ensure!(text.contains("uid=0(root) gid=0(root)") && rest == "\n", "{text:?}");
    Ok(())
}

/// Speaks to a `bash` on a terminal of 40 rows and 100 columns that has just been started, and ends it by `exit 7`. Returns the
/// client's code.
pub fn job_control(terminal: &mut Pty) -> Outcome<i32> {
    // bash looks for a controlling terminal and for the foreground before it shows its first prompt.
    terminal.wait_for("# ", LIMIT)?;
    let screen = terminal.screen();
    ensure!(!screen.contains("no job control") && !screen.contains("cannot set terminal"), "{screen:?}");
    let mut ask = |words: &str, answer: &str| -> Outcome {
        terminal.send(words)?;
        terminal.wait_for(answer, LIMIT)
    };
    ask("tty; echo on $((1 + 1))\n", "on 2\n")?;
    ask("sleep 1000 &\n", "[1] ")?;
    ask("jobs | cat; echo jobs $((2 + 1))\n", "jobs 3\n")?;
    // Brought to the foreground, suspended from the keyboard, and ended.
    ask("echo now; fg\n", "now\nsleep 1000\n")?;
    // bash prints the job before it makes it the foreground: a ^Z in between is bash's own, which ignores it.
    // The next one throws away what was not read of the answer to this, so it is asked for again.
    eventually(LIMIT, || {
        terminal.send("\x1a")?;
        terminal.wait_for("Stopped", Duration::from_millis(500)).or_else(|_| {
            terminal.send("jobs\n")?;
            terminal.wait_for("Stopped", Duration::from_millis(500))
        })
    })?;
    let mut ask = |words: &str, answer: &str| -> Outcome {
        terminal.send(words)?;
        terminal.wait_for(answer, LIMIT)
    };
    // A wait alone may still find it stopped, and then bash does not want to end.
    ask("kill -9 %1; while kill -0 $! 2>/dev/null; do sleep 0.05; done; echo ended $((3 + 1))\n", "ended 4\n")?;
    ask("exit 7\n", "exit\n")?;
    let code = terminal.wait(LIMIT)?;
    let screen = terminal.screen();
    ensure!(screen.contains("/dev/pts/") && screen.contains("Running"), "{screen:?}");
    Ok(code)
}
