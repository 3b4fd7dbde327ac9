//! AppArmor on the real kernel, as root: what a payload says that it is confined by, and what it then may not do. The
//! current runc is asked the same. What is expected follows from the host: without AppArmor a profile is an error.

#[allow(dead_code, reason = "shared with the attacks")]
#[path = "attacks/bed.rs"]
mod bed;
#[path = "kernel/payload.rs"]
mod payload;
#[path = "kernel/table.rs"]
mod table;

use std::io::Write;
use std::process::{Command, Stdio};

use bed::{Bed, Ended};
use serde_json::json;
use table::{Done, Line, ensure};

/// What docker's default profile is made of, in small: nearly everything is allowed, and a few denials on top.
const RULES: &str = "
    file, capability, network, umount, signal, ptrace,
    deny mount,
    deny /etc/marker w,
    deny @{PROC}/sysrq-trigger rwklx,
";

fn default_profile() -> String {
    format!("mini-test-{}", std::process::id())
}

fn other_profile() -> String {
    format!("{}-other", default_profile())
}

/// Feeds profiles to the kernel; `-R` takes them away.
fn parser(option: &str) -> Result<(), String> {
    let profile = |name| format!("profile {name} flags=(attach_disconnected,mediate_deleted) {{{RULES}}}\n");
    let text = format!("@{{PROC}}=/proc/\n{}{}", profile(default_profile()), profile(other_profile()));
    let mut command = Command::new("apparmor_parser");
    let mut child = command.args([option, "-K", "-q"]).stdin(Stdio::piped()).spawn().map_err(|e| e.to_string())?;
    child.stdin.take().ok_or("no stdin")?.write_all(text.as_bytes()).map_err(|e| e.to_string())?;
    let status = child.wait().map_err(|e| e.to_string())?;
    if status.success() { Ok(()) } else { Err(format!("apparmor_parser {option}: {status}")) }
}

const WHO: &str = "cat /proc/self/attr/current";

fn confined(by: &str) -> String {
    format!("{by} (enforce)\n")
}

fn run(bed: &mut Bed<'_>, profile: &str, script: &str) -> Ended {
    bed.script(script);
    bed.spec["process"]["apparmorProfile"] = json!(profile);
    bed.run()
}

fn init_is_confined(bed: &mut Bed<'_>) -> Done {
    let ended = run(bed, &default_profile(), &format!("{WHO}; cat /etc/marker; echo x > /etc/marker"));
    ensure!(ended.out == format!("{}marker", confined(&default_profile())), "{ended:?}");
    ensure!(ended.err.contains("Permission denied"), "{ended:?}");
    Ok(())
}

fn a_denied_mount_is_denied_to_all_capabilities(bed: &mut Bed<'_>) -> Done {
    bed.spec["process"].as_object_mut().ok_or("process")?.remove("capabilities");
    let script = "busybox mount -t tmpfs none /tmp && echo mounted";
    let ended = run(bed, &default_profile(), script);
    ensure!(!ended.out.contains("mounted") && ended.err.contains("denied"), "{ended:?}");
    let ended = run(bed, "unconfined", script);
    ensure!(ended.out == "mounted\n", "without the profile it is allowed: {ended:?}");
    Ok(())
}

fn privileges_may_be_gained_or_not(bed: &mut Bed<'_>) -> Done {
    for none_new in [true, false] {
        bed.spec["process"]["noNewPrivileges"] = json!(none_new);
        let ended = run(bed, &default_profile(), &format!("{WHO}; grep NoNewPrivs /proc/self/status"));
        let flag = format!("NoNewPrivs:\t{}\n", u8::from(none_new));
        ensure!(ended.out == confined(&default_profile()) + &flag, "{ended:?}");
    }
    Ok(())
}

fn in_a_user_namespace(bed: &mut Bed<'_>) -> Done {
    bed.user_namespace();
    let ended = run(bed, &default_profile(), &format!("{WHO}; cat /proc/self/uid_map"));
    ensure!(ended.out.starts_with(&confined(&default_profile())) && ended.out.contains("100000"), "{ended:?}");
    Ok(())
}

fn another_user_without_capabilities(bed: &mut Bed<'_>) -> Done {
    bed.spec["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    bed.spec["process"]["capabilities"] = json!({});
    let ended = run(bed, &default_profile(), &format!("{WHO}; id -u"));
    ensure!(ended.out == confined(&default_profile()) + "1000\n", "{ended:?}");
    Ok(())
}

fn no_profile_and_unconfined(bed: &mut Bed<'_>) -> Done {
    for profile in ["", "unconfined"] {
        let ended = run(bed, profile, WHO);
        ensure!(ended.out == "unconfined\n", "{profile:?}: {ended:?}");
    }
    Ok(())
}

fn exec_has_the_containers_or_its_own(bed: &mut Bed<'_>) -> Done {
    bed.script("sleep 1000");
    bed.spec["process"]["apparmorProfile"] = json!(default_profile());
    let held = bed.hold();
    let ended = held.exec(WHO);
    ensure!(ended.out == confined(&default_profile()), "{ended:?}");
    let ended = held.exec_with(&["--apparmor", &other_profile()], &["sh", "-c", WHO]);
    ensure!(ended.out == confined(&other_profile()), "{ended:?}");
    let ended = held.exec_with(&["--apparmor", "mini-test-nosuch"], &["sh", "-c", WHO]);
    ensure!(ended.code != Some(0) && ended.out.is_empty(), "{ended:?}");
    // runc says the first half of it for init only.
    ensure!(ended.err.contains("apparmor failed to apply profile: "), "{ended:?}");
    let ended = held.exec(WHO);
    ensure!(ended.out == confined(&default_profile()), "the container lives on: {ended:?}");
    Ok(())
}

/// What both say, and what people search for.
const WORDS: &str = "unable to apply apparmor profile: apparmor failed to apply profile: ";

fn a_profile_that_is_not_loaded(bed: &mut Bed<'_>) -> Done {
    let ended = run(bed, "mini-test-nosuch", "echo ran");
    ensure!(ended.code.is_some_and(|c| c != 0) && ended.out.is_empty(), "{ended:?}");
    ensure!(ended.err.contains(WORDS) && ended.err.contains("no such file or directory"), "{ended:?}");
    if bed.runtime.name == "mini" {
        let whole = "/process/apparmorProfile: unable to apply apparmor profile: apparmor failed to apply profile: \
                     write thread-self/attr/apparmor/exec: profile \\\"mini-test-nosuch\\\" is not loaded: no such file or directory";
        ensure!(ended.err.contains(whole), "{ended:?}");
    }
    nothing_left(bed)
}

fn without_apparmor_it_is_an_error(bed: &mut Bed<'_>) -> Done {
    for profile in ["docker-default", "unconfined"] {
        let ended = run(bed, profile, "echo ran");
        ensure!(ended.code.is_some_and(|c| c != 0) && ended.out.is_empty(), "{ended:?}");
        ensure!(ended.err.contains(WORDS), "{ended:?}");
        if bed.runtime.name == "mini" {
            ensure!(ended.err.contains("/process/apparmorProfile: unable"), "{ended:?}");
        }
        nothing_left(bed)?;
    }
    Ok(())
}

fn without_a_profile_it_runs(bed: &mut Bed<'_>) -> Done {
    let ended = run(bed, "", "echo ran");
    ensure!(ended.out == "ran\n", "{ended:?}");
    Ok(())
}

/// No container of this bed is known any more.
fn nothing_left(bed: &Bed<'_>) -> Done {
    let ended = bed.wait(bed.command(&["list", "--quiet"]), std::time::Duration::from_secs(60));
    ensure!(ended.code == Some(0) && ended.out.is_empty(), "{ended:?}");
    Ok(())
}

fn main() {
    payload::play();
    let on = std::fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|e| e.starts_with(b"Y"));
    if !on {
        table::run(&[
            Line("without_apparmor_it_is_an_error", without_apparmor_it_is_an_error),
            Line("without_a_profile_it_runs", without_a_profile_it_runs),
        ])
        .exit();
    }
    parser("-r").unwrap();
    let conclusion = table::run(&[
        Line("init_is_confined", init_is_confined),
        Line("a_denied_mount_is_denied_to_all_capabilities", a_denied_mount_is_denied_to_all_capabilities),
        Line("privileges_may_be_gained_or_not", privileges_may_be_gained_or_not),
        Line("in_a_user_namespace", in_a_user_namespace),
        Line("another_user_without_capabilities", another_user_without_capabilities),
        Line("no_profile_and_unconfined", no_profile_and_unconfined),
        Line("exec_has_the_containers_or_its_own", exec_has_the_containers_or_its_own),
        Line("a_profile_that_is_not_loaded", a_profile_that_is_not_loaded),
    ]);
    parser("-R").unwrap();
    conclusion.exit();
}
