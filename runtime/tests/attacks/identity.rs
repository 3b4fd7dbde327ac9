//! Groups, capabilities and ids that were not given.

use serde_json::json;

use crate::bed::{Bed, with_groups};
use crate::{Line, Safe, Verdict, Vulnerable};

pub fn lines() -> Vec<Line> {
    vec![
        Line("cve_2023_25173_groups_of_the_caller", groups_of_the_caller, &[], &[]),
        Line("cve_2022_29162_inheritable_capabilities", inheritable_capabilities, &[], &[]),
        Line("cve_2024_40635_ids_that_wrap", ids_that_wrap, &[crate::CRUN_OLD], &[]),
        Line("cve_2016_3697_number_named_like_a_user", number_named_like_a_user, &[], &[]),
        Line("cve_2026_30892_user_words", user_words, &[], crate::OTHERS),
        Line("owner_of_the_hosts_null", owner_of_the_hosts_null, &[], &[]),
        Line("mode_of_the_hosts_null", mode_of_the_hosts_null, &[], &[]),
        Line("mode_of_the_hosts_null_by_an_exec", mode_of_the_hosts_null_by_an_exec, &[crate::CRUN_OLD], &[]),
    ]
}

fn groups_of_the_caller(bed: &mut Bed<'_>) -> Verdict {
    bed.script("cat /proc/self/status");
    let ended = bed.run_as(|command| with_groups(command, &[4242, 4243]));
    let kept = ended.out.lines().any(|l| l.starts_with("Groups:") && l.contains("424"));
    Verdict::of(kept || !ended.out.contains("Groups:"), ended)
}

fn inheritable_capabilities(bed: &mut Bed<'_>) -> Verdict {
    bed.spec["process"]["args"] = json!(["sleep", "60"]);
    let held = bed.hold();
    let plain = held.exec("cat /proc/self/status");
    let more = held.exec_with(&["--cap", "CAP_NET_ADMIN"], &["cat", "/proc/self/status"]);
    let none = |text: &str| {
        ["CapInh:", "CapAmb:"].iter().all(|set| text.lines().any(|l| l.starts_with(set) && l.ends_with(ZERO)))
    };
    Verdict::of(!none(&plain.out) || !none(&more.out), (plain, more))
}

const ZERO: &str = "\t0000000000000000";

/// Exact or refused, never another.
fn ids_that_wrap(bed: &mut Bed<'_>) -> Verdict {
    let ids = ["1", "2147483647", "2147483648", "4294967294", "4294967295", "4294967296", "4294967297", "-1"];
    for id in ids {
        let number: serde_json::Number = id.parse().unwrap();
        bed.spec["process"]["user"] = json!({"uid": number, "gid": number});
        bed.script("echo $(id -u) $(id -g)");
        let ended = bed.run();
        if ended.code == Some(0) && ended.out.trim() != format!("{id} {id}") {
            return Vulnerable(format!("{id}: {ended:?}"));
        }
    }
    Safe("exact or refused".into())
}

/// The image's passwd maps a number, used as a name, to root.
fn number_named_like_a_user(bed: &mut Bed<'_>) -> Verdict {
    std::fs::write(bed.rootfs().join("etc/passwd"), "1000:x:0:0::/:/bin/sh\n").unwrap();
    bed.spec["process"]["args"] = json!(["sleep", "60"]);
    let ended = bed.hold().exec_with(&["--user", "1000"], &["id", "-u"]);
    Verdict::of(ended.out.trim() != "1000", ended)
}

fn user_words(bed: &mut Bed<'_>) -> Verdict {
    bed.spec["process"]["args"] = json!(["sleep", "60"]);
    let held = bed.hold();
    for (word, exact) in [
        ("1", Some("1 0")),
        ("1:2", Some("1 2")),
        ("+1", None),
        (" 1", None),
        ("1x", None),
        ("4294967296", None),
        ("4294967295", None),
        ("-1", None),
        ("1:", None),
        (":1", None),
        ("1:2:3", None),
        ("0x1", None),
        ("root", None),
    ] {
        let ended = held.exec_with(&["--user", word], &["sh", "-c", "echo $(id -u) $(id -g)"]);
        let said = (ended.code == Some(0)).then(|| ended.out.trim().to_owned());
        if said.as_deref() != exact {
            return Vulnerable(format!("{word:?}: {ended:?}"));
        }
    }
    Safe("exact or refused".into())
}

/// A node of its own that stands for the host's /dev/null.
fn null(bed: &Bed<'_>) -> std::path::PathBuf {
    use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
    let null = bed.host().join("null");
    mknodat(CWD, &null, FileType::CharacterDevice, Mode::from_raw_mode(0o666), makedev(1, 3)).unwrap();
    null
}

/// Standard streams are given to the container's user, but not a device that others use too.
fn owner_of_the_hosts_null(bed: &mut Bed<'_>) -> Verdict {
    let null = null(bed);
    bed.spec["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    let before = bed.canary();
    let ended = bed.run_as(|c| {
        c.stdin(std::fs::File::open(&null).unwrap());
    });
    Verdict::of(bed.canary() != before, (ended, bed.canary()))
}

const CHMOD: [&str; 4] = ["busybox", "chmod", "600", "/proc/self/fd/0"];

/// What is given as standard input leads to the node of whoever called.
fn mode_of_the_hosts_null(bed: &mut Bed<'_>) -> Verdict {
    let null = null(bed);
    bed.spec["process"]["args"] = json!(CHMOD);
    let before = bed.canary();
    let ended = bed.run_as(|c| {
        c.stdin(std::fs::File::open(&null).unwrap());
    });
    assert_eq!(ended.code, Some(0), "{ended:?}");
    Verdict::of(bed.canary() != before, (ended, bed.canary()))
}

fn mode_of_the_hosts_null_by_an_exec(bed: &mut Bed<'_>) -> Verdict {
    let null = null(bed);
    bed.spec["process"]["args"] = json!(["sleep", "60"]);
    let before = bed.canary();
    let held = bed.hold();
    let mut command = held.bed.command(&["exec", held.id()]);
    command.args(CHMOD).stdin(std::fs::File::open(&null).unwrap());
    let ended = held.bed.wait(command, std::time::Duration::from_secs(60));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    Verdict::of(held.bed.canary() != before, (ended, held.bed.canary()))
}
