//! Options of ctr that reach the shim by other ways than `ctr run`'s commoner ones: each is honoured, or refused by name.

use integration::containerd::{IMAGE, LIMIT};
use integration::{Bed, Outcome, cases, debian, ensure, eventually, suite};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

fn holds(file: &Path, text: &str) -> Outcome {
    eventually(LIMIT, || {
        let seen = std::fs::read_to_string(file)?;
        ensure!(seen == text, "{file:?} holds {seen:?}");
        Ok(())
    })
}

fn exec_with_fifos_and_logs_of_its_own(bed: &Bed) -> Outcome {
    let id = bed.sleeper()?;
    let (fifos, logs) = (bed.directory("fifos")?, bed.directory("logs")?);
    let fifos = fifos.to_str().ok_or("path")?;
    bed.exec_sh(&id, &["--fifo-dir", fifos], "echo through a fifo there")?.ok()?.says("through a fifo there\n")?;
    for (name, flags) in [("attached", &[][..]), ("detached", &["--detach"])] {
        let file = logs.join(name);
        let uri = format!("file://{}", file.display());
        bed.exec(&id, &[flags, &["--log-uri", &uri]].concat(), &["sh", "-c", "echo logged"])?.ok()?;
        holds(&file, "logged\n")?;
    }
    Ok(())
}

fn start_with_everything(bed: &Bed) -> Outcome {
    let directory = bed.directory("start")?;
    let path = |name: &str| directory.join(name).display().to_string();
    let id = bed.id();
    let create = ["container", "create", "--runtime", bed.runtime().name(), IMAGE, &id];
    bed.ctr(&[&create[..], &["sh", "-c", "echo started; sleep 0.3; exit 4"]].concat())?.ok()?;
    let (pid, fifos) = (path("pid"), path(""));
    let attached = ["task", "start", "--pid-file", &pid, "--no-pivot", "--fifo-dir", &fifos, &id];
    bed.ctr(&attached)?.exited(4)?.says("started\n")?;
    let number = std::fs::read_to_string(&pid)?;
    ensure!(number.parse::<u32>().is_ok(), "the pid file holds {number:?}");
    let uri = format!("file://{}", path("log"));
    bed.ctr(&["task", "start", "--detach", "--log-uri", &uri, &id])?.ok()?;
    holds(Path::new(&path("log")), "started\n")?;
    bed.wait_status(&id, "STOPPED")?;
    bed.delete(&id, &[], 4)?;
    bed.ctr(&["container", "rm", &id])?.ok()?;
    Ok(())
}

fn spec_of_ones_own(bed: &Bed) -> Outcome {
    let directory = bed.directory("spec")?;
    let root = directory.join("root");
    for name in ["bin", "proc", "sys", "dev", "run"] {
        std::fs::create_dir_all(root.join(name))?;
    }
    std::fs::copy(integration::containerd::testbed().join("tools/bin/busybox"), root.join("bin/sh"))?;
    let mut spec: serde_json::Value = serde_json::from_str(&bed.ctr(&["oci", "spec"])?.ok()?.text())?;
    spec["process"]["args"] = serde_json::json!(["/bin/sh", "-c", "echo by config; exit 6"]);
    spec["root"]["path"] = root.display().to_string().into();
    spec["linux"]["cgroupsPath"] = format!("/{}/by-config", bed.containerd.namespace).into();
    let file = directory.join("config.json");
    std::fs::write(&file, spec.to_string())?;
    let id = bed.id();
    let file = file.display().to_string();
    let words = ["run", "--rm", "--runtime", bed.runtime().name(), "--config", &file, &id];
    bed.ctr(&words)?.exited(6)?.says("by config\n")?;
    Ok(())
}

fn native_snapshotter(bed: &Bed) -> Outcome {
    // Its mounts are binds.
    let script = "cat /etc/image-name; echo own > /etc/image-name; cat /etc/image-name";
    for _ in 0..2 {
        bed.sh(&["--snapshotter", "native"], script)?.ok()?.says("mini-busybox\nown\n")?;
    }
    Ok(())
}

fn mounts_of_every_kind(bed: &Bed) -> Outcome {
    let mounts = [
        "type=proc,src=proc,dst=/mnt/proc",
        "type=sysfs,src=sysfs,dst=/mnt/sys,options=ro",
        "type=mqueue,src=mqueue,dst=/mnt/mqueue",
        "type=devpts,src=devpts,dst=/mnt/pts,options=newinstance:ptmxmode=0600",
        "type=cgroup,src=cgroup,dst=/mnt/cgroup,options=ro",
        "type=ramfs,src=ramfs,dst=/mnt/ram",
    ];
    let flags: Vec<&str> = mounts.iter().flat_map(|mount| ["--mount", mount]).collect();
    let script = "ls -d /mnt/proc/1/stat /mnt/sys/class /mnt/pts/ptmx; stat -c %a /mnt/pts/ptmx
        ls /mnt/cgroup | grep -q . && echo groups; echo word > /mnt/ram/word && cat /mnt/ram/word; grep -c ' /mnt/mqueue mqueue ' /proc/mounts";
    let expected = "/mnt/proc/1/stat\n/mnt/pts/ptmx\n/mnt/sys/class\n600\ngroups\nword\n1\n";
    let output = bed.sh(&flags, script)?.ok()?;
    ensure!(output.text() == expected, "{}", output.report());
    bed.run(&["--mount", "type=nosuchfs,src=x,dst=/mnt/x"], &["true"])?.failed_with("no such device")?;
    Ok(())
}

fn privileged_without_the_hosts_devices(bed: &Bed) -> Outcome {
    let flags = ["--privileged", "--privileged-without-host-devices"];
    let script = "test ! -e /dev/kmsg && mount -t tmpfs none /mnt && echo mounted";
    bed.sh(&flags, script)?.ok()?.says("mounted\n")?;
    Ok(())
}

fn profile_that_is_not_there(bed: &Bed) -> Outcome {
    let output = bed.run(&["--apparmor-profile", "no-such-profile"], &["true"])?;
    output.failed_with("apparmor failed to apply profile")?;
    Ok(())
}

fn rdt_class_is_refused(bed: &Bed) -> Outcome {
    bed.run(&["--rdt-class", "gold"], &["true"])?.failed_with("/linux/intelRdt")?;
    Ok(())
}

fn runtime_config_file(bed: &Bed) -> Outcome {
    let directory = bed.directory("config")?;
    let (there, missing) = (directory.join("there.toml"), directory.join("missing.toml"));
    std::fs::write(&there, "NoNewKeyring = true\n")?;
    let (id, keyring) = keyring(bed, &["--runtime-config-path", there.to_str().ok_or("path")?])?;
    ensure!(!keyring.contains(&id) && keyring.contains(';'), "with NoNewKeyring the session keyring is {keyring:?}");
    bed.run(&["--runtime-config-path", missing.to_str().ok_or("path")?], &["true"])?
        .failed_with("missing.toml\": No such file")?;
    // These two ctr itself gives to runc only.
    for flag in [&["--runc-binary", "/bin/false"][..], &["--runc-systemd-cgroup"]] {
        bed.run(flag, &["true"])?.failed_with("only supported for")?;
    }
    Ok(())
}

/// The description of the session keyring inside, by keyctl(2) of x86-64.
const KEYRING: &str =
    r#"my $b = "\0" x 200; my $n = syscall(250, 6, -3, $b, 200); print $n < 0 ? "$!" : unpack("Z*", $b), "\n""#;

/// One at a time: ctr asks whether the image is there and then makes it, so that one of two is told "already exists".
fn import_debian(bed: &Bed) -> Outcome {
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    bed.ctr(&["images", "import", "--snapshotter", "overlayfs", &debian::archive()])?.ok()?;
    Ok(())
}

fn keyring(bed: &Bed, flags: &[&str]) -> Outcome<(String, String)> {
    import_debian(bed)?;
    let id = bed.id();
    let words = [&["run", "--rm", "--runtime", bed.runtime().name()], flags, &[debian::FULL_NAME, &id]].concat();
    let output = bed.ctr(&[&words[..], &["perl", "-e", KEYRING]].concat())?.ok()?;
    Ok((id, output.text()))
}

fn session_keyring(bed: &Bed) -> Outcome {
    let (id, keyring) = keyring(bed, &[])?;
    ensure!(keyring.ends_with(&format!(";_ses.{id}\n")), "the session keyring is {keyring:?}");
    Ok(())
}

/// What busybox does not ask of a runtime.
fn debian_image(bed: &Bed) -> Outcome {
    import_debian(bed)?;
    let runtime = bed.runtime().name();
    let id = bed.id();
    let words = ["run", "--rm", "--runtime", runtime, debian::FULL_NAME, &id, "bash", "-c", debian::SCRIPT];
    debian::says(&bed.ctr(&words)?.ok()?)?;
    let id = bed.id();
    let words = ["run", "--rm", "--tty", "--runtime", runtime, debian::FULL_NAME, &id, "bash"];
    let code = debian::job_control(&mut bed.terminal(&words)?)?;
    ensure!(code == 7, "ctr ended with {code}");
    Ok(())
}

fn main() {
    suite::run(
        "ctr_options",
        cases![
            exec_with_fifos_and_logs_of_its_own,
            start_with_everything,
            spec_of_ones_own,
            native_snapshotter,
            mounts_of_every_kind,
            privileged_without_the_hosts_devices,
            profile_that_is_not_there,
            rdt_class_is_refused,
            runtime_config_file,
            session_keyring,
            debian_image,
        ],
    );
}
