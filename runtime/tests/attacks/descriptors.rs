//! What a container sees of the process that makes its processes: executable, descriptors, root, memory of others.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;

use crate::bed::Bed;
use crate::{Line, Safe, Verdict, Vulnerable};

pub fn lines() -> Vec<Line> {
    vec![
        Line("cve_2019_5736_executable_overwritten", executable_overwritten, &[], &[]),
        Line("cve_2016_9962_execs_seen_from_inside", execs_seen_from_inside, &[], &[]),
        Line("cve_2024_21626_cwd_is_a_descriptor", cwd_is_a_descriptor, &[], &[]),
        Line("cve_2024_21626_exec_cwd_is_a_descriptor", exec_cwd_is_a_descriptor, &[], &[]),
        Line("cve_2024_21626_payload_behind_a_descriptor", payload_behind_a_descriptor, &[], &[]),
        Line("descriptors_left_open", descriptors_left_open, &[], &[]),
        Line("preserved_descriptor_that_is_not_there", preserved_but_missing, &[], &[crate::CRUN_OLD]),
        Line("session_keyring_of_the_host", session_keyring, &[], &[]),
        Line("session_keyring_of_a_user_namespace", session_keyring_of_a_user_namespace, &[crate::CRUN_OLD], &[]),
        Line("terminal_of_the_caller", terminal_of_the_caller, &[], &[]),
        Line("cve_2021_21334_environment_of_another", environment_of_another, &[], &[]),
    ]
}

fn reported(bed: &Bed<'_>) -> String {
    fs::read_to_string(bed.rootfs().join("report")).unwrap_or_default()
}

/// The payload of execs is `#!/proc/self/exe`, so that the runtime's own file is executed inside; somebody else inside
/// holds it open until it may be written.
fn executable_overwritten(bed: &mut Bed<'_>) -> Verdict {
    bed.attacker(&["exe"]);
    let evil = bed.rootfs().join("evil");
    fs::write(&evil, "#!/proc/self/exe\n").unwrap();
    fs::set_permissions(&evil, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let before = fs::read(bed.program()).unwrap();
    {
        let held = bed.hold();
        for _ in 0..40 {
            if fs::read(held.bed.program()).unwrap() != before {
                break;
            }
            held.exec_with(&[], &["/evil", "spec"]);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Verdict::of(fs::read(bed.program()).unwrap() != before, reported(bed).lines().count())
}

/// A container with CAP_SYS_PTRACE looks at every process that appears in its pid namespace.
fn execs_seen_from_inside(bed: &mut Bed<'_>) -> Verdict {
    let secret = bed.host().join("secret");
    bed.attacker(&["peek", secret.to_str().unwrap()]);
    for set in ["bounding", "effective", "permitted"] {
        bed.spec["process"]["capabilities"][set].as_array_mut().unwrap().push(json!("CAP_SYS_PTRACE"));
    }
    {
        let held = bed.hold();
        for n in 0..200 {
            let ended = held.exec_with(&[], &["true"]);
            assert_eq!(ended.code, Some(0), "exec {n}: {ended:?}");
        }
    }
    let seen = reported(bed);
    Verdict::of(!seen.is_empty(), seen.lines().collect::<std::collections::BTreeSet<_>>())
}

/// How far up a path has to go from anywhere.
const UP: &str = "../../../../../../../../../../../..";

fn cwd_is_a_descriptor(bed: &mut Bed<'_>) -> Verdict {
    let secret = bed.host().join("secret");
    bed.script(&format!("cat {UP}{}", secret.display()));
    for fd in 3..24 {
        bed.spec["process"]["cwd"] = json!(format!("/proc/self/fd/{fd}"));
        let ended = bed.run();
        if ended.out.contains("of the host") {
            return Vulnerable(format!("descriptor {fd}: {ended:?}"));
        }
    }
    Safe("no descriptor led out".into())
}

fn exec_cwd_is_a_descriptor(bed: &mut Bed<'_>) -> Verdict {
    let secret = bed.host().join("secret");
    bed.spec["process"]["args"] = json!(["sleep", "60"]);
    let held = bed.hold();
    for fd in 3..24 {
        let cwd = format!("/proc/self/fd/{fd}");
        let ended = held.exec_with(&["--cwd", &cwd], &["cat", &format!("{UP}{}", secret.display())]);
        if ended.out.contains("of the host") {
            return Vulnerable(format!("descriptor {fd}: {ended:?}"));
        }
    }
    Safe("no descriptor led out".into())
}

/// argv[0] goes through a descriptor that the runtime may still have open when it executes it.
fn payload_behind_a_descriptor(bed: &mut Bed<'_>) -> Verdict {
    let tool: PathBuf = bed.host().join("echo");
    fs::copy(bed.rootfs().join("bin/busybox"), &tool).unwrap();
    for fd in 3..24 {
        let path = format!("/proc/self/fd/{fd}/{UP}{}", tool.display());
        bed.spec["process"]["args"] = json!([path, "executed"]);
        let ended = bed.run();
        if ended.out.contains("executed") {
            return Vulnerable(format!("descriptor {fd}: {ended:?}"));
        }
    }
    Safe("no descriptor led to a program of the host".into())
}

/// 0, 1, 2, and the one that ls itself opens.
fn descriptors_left_open(bed: &mut Bed<'_>) -> Verdict {
    bed.script("ls /proc/self/fd");
    let first = bed.run();
    bed.spec["process"]["args"] = json!(["sleep", "60"]);
    let further = bed.hold().exec("ls /proc/self/fd");
    let open = |text: &str| text.split_whitespace().count();
    Verdict::of(open(&first.out) > 4 || open(&further.out) > 4, (first, further))
}

/// Told to leave descriptor 3 open, which is not: no other may be there instead.
fn preserved_but_missing(bed: &mut Bed<'_>) -> Verdict {
    bed.script("ls -l /proc/self/fd/3");
    let ended = bed.run_as(|command| {
        let args: Vec<_> = command.get_args().map(std::ffi::OsStr::to_owned).collect();
        let mut new = std::process::Command::new(command.get_program());
        let run = args.iter().position(|a| a == "run").unwrap() + 1;
        new.args(&args[..run]).args(["--preserve-fds", "1"]).args(&args[run..]).stdin(std::process::Stdio::null());
        *command = new;
    });
    Verdict::of(ended.out.contains("->") && !ended.out.contains("/proc/"), ended)
}

fn session_keyring(bed: &mut Bed<'_>) -> Verdict {
    bed.attacker(&["keyring"]);
    bed.spec["linux"]["seccomp"] = serde_json::Value::Null;
    let ended = bed.run();
    Verdict::of(!ended.out.contains("attack-"), ended)
}

/// It is the container's own: of the host's it would have none in its user namespace, and what it keeps there would count for the
/// host's root.
fn session_keyring_of_a_user_namespace(bed: &mut Bed<'_>) -> Verdict {
    bed.user_namespace();
    bed.attacker(&["keyring"]);
    let first = bed.run();
    let payload = bed.spec["process"]["args"].clone();
    let payload: Vec<&str> = payload.as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
    bed.spec["process"]["args"] = json!(["sleep", "60"]);
    let held = bed.hold();
    let further = held.exec_with(&[], &payload);
    let owned = |text: &str| text.starts_with("keyring;0;0;");
    // An exec is in its container's.
    let rings = held.exec("grep _ses. /proc/keys").out.lines().filter(|line| line.contains(held.id())).count();
    assert!(held.bed.runtime.name != "mini" || rings == 1, "{rings} keyrings");
    Verdict::of(!owned(&first.out) || !owned(&further.out), (first, further))
}

/// The exec's standard input is a terminal of the caller's, who has it as controlling terminal.
fn terminal_of_the_caller(bed: &mut Bed<'_>) -> Verdict {
    bed.spec["process"]["args"] = json!(["sleep", "60"]);
    fs::copy(std::env::current_exe().unwrap(), bed.rootfs().join("attacker")).unwrap();
    let held = bed.hold();
    let ended = crate::payload::in_a_terminal(|command| {
        *command = held.bed.command(&["exec"]);
        command.arg(held.id()).args(["/attacker", crate::payload::WORD, "tty"]);
    });
    Verdict::of(ended.contains("typed") || ended.contains("controlling terminal"), ended)
}

/// One container's environment is nowhere in the next one's.
fn environment_of_another(bed: &mut Bed<'_>) -> Verdict {
    bed.spec["process"]["env"] = json!(["PATH=/bin", "HOME=/", "SECRET=of-the-first"]);
    bed.run();
    bed.spec["process"]["env"] = json!(["PATH=/bin", "HOME=/"]);
    bed.script("env; cat /proc/self/environ /proc/1/environ");
    let ended = bed.run_as(|c| {
        c.env("SECRET", "of-the-caller");
    });
    Verdict::of(ended.out.contains("SECRET"), ended)
}
