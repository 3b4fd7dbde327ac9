//! `deploy/` and the pages about it: the installer on nodes of every config version, by hand and as the DaemonSet runs it, with the
//! binary, the drop-in and their undoing; the measurement of a pod's overhead.

mod node;
mod whole;

use integration::containerd::LIMIT;
use integration::{Outcome, Output, Version, bin_dir, ensure, eventually};
use libtest_mimic::{Arguments, Trial};
use node::{DROP_IN, LINK, Node, POD};
use std::path::Path;

/// In sh: $first is the installer that called it, $pids are that and the shells between.
const INSTALLER: &str = r#"pids= pid=$PPID
    while [ /proc/$pid/exe -ef /proc/$PPID/exe ]; do
        first=$pid pids="$pid $pids" pid=$(sed -n 's/^PPid:[[:space:]]*//p' /proc/$pid/status)
    done"#;

/// The binary to install.
pub fn shim() -> Outcome<String> {
    Ok(bin_dir()?.join("containerd-shim-mini-v2").display().to_string())
}

/// Another build of the same program, and one that is none.
fn other_shims(node: &Node) -> Outcome<(String, String)> {
    let mut bytes = std::fs::read(shim()?)?;
    bytes.extend(b"another build");
    for (name, bytes) in [("other", bytes), ("broken", b"#!/bin/sh\nexit 1\n".to_vec())] {
        let path = node.containerd.host.path(format!("/run/{name}"));
        std::fs::write(&path, bytes)?;
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    }
    Ok(("/run/other".to_owned(), "/run/broken".to_owned()))
}

fn imports() -> String {
    format!("imports = [\"{}\"]", DROP_IN.replace("mini.toml", "*.toml"))
}

fn life(version: Version, format: u32) -> Outcome {
    // 1.x takes a drop-in's CRI table for all of it; there only an unset one can be added to.
    let node = Node::start_in(version, format, &imports(), "")?;
    let config = std::fs::read(node.containerd.config())?;
    let (shim, (other, broken)) = (shim()?, other_shims(&node)?);
    if version.is_1() {
        let refused = node.install("install", &shim)?.failed_with("forgets settings")?;
        ensure!(refused.errors().contains("runtimes.runc.options"), "{}", refused.report());
        node.assert_clean()?;
        // Nor is it taken from a run that was killed before it had looked.
        let killer = node.containerd_that(&format!("[ ! -e {DROP_IN} ] || {{ {INSTALLER}; kill -9 $pids; }}"))?;
        node.deploy_with(&[("CONTAINERD", &killer)], "mini-install", &["install"], &shim)?.exited(137)?;
        ensure!(node.exists(DROP_IN), "killed too early");
        node.install("install", &shim)?.failed_with("forgets settings")?;
        ensure!(!node.exists(DROP_IN), "the drop-in is there");
        node.install("uninstall", &shim)?.ok()?;
        return node.assert_clean();
    }
    node.install("install", &broken)?.failed_with("was taken back")?;
    node.assert_clean()?;
    node.install("install", &shim)?.ok()?;
    let first = node.version()?;
    let pod = node.pod()?;
    // containerd knows the handler: it is not restarted.
    node.deploy_with(&[("RESTART", "false")], "mini-install", &["install"], &shim)?.ok()?;
    ensure!(node.version()? == first, "the same binary got another version");
    node.install("install", &other)?.ok()?;
    let second = node.version()?;
    ensure!(second != first, "another binary got the same version");
    node.install("install", &broken)?.failed_with("was taken back")?;
    ensure!(node.version()? == second, "after a broken one: {}", node.version()?);
    node.install("rollback", &shim)?.ok()?;
    ensure!(node.version()? == first, "after the rollback: {}", node.version()?);
    node.install("status", &shim)?.ok()?.says(&format!("version: {first}\nbefore: {second}\n"))?;
    // The pod has lived through all of it.
    node.crictl(&["inspectp", &pod])?.ok()?.says("SANDBOX_READY")?;
    node.install("uninstall", &shim)?.failed_with("run on mini")?;
    node.remove_pod(&pod)?;
    eventually(LIMIT, || node.install("uninstall", &shim)?.ok().map(drop))?;
    node.assert_clean()?;
    node.crictl(&["runp", "--runtime", "mini", POD])?.failed_with("mini")?;
    ensure!(std::fs::read(node.containerd.config())? == config, "config.toml was changed");
    Ok(())
}

fn life_1_6() -> Outcome {
    life(Version::C1_6, 2)
}

fn life_2_1() -> Outcome {
    life(Version::C2_1, 3)
}

fn life_2_3() -> Outcome {
    life(Version::C2_3, 3)
}

fn life_2_3_of_version_4() -> Outcome {
    life(Version::C2_3, 4)
}

/// Where the installer refuses: the table of deploy/ in config.toml, the binary where containerd's PATH leads.
fn by_hand_1_7() -> Outcome {
    let file = include_str!("../../../deploy/containerd-v2.toml");
    let table = file.split_once("version = 2\n").ok_or("containerd-v2.toml is of another version")?.1;
    let node = Node::start(Version::C1_7, "", table)?;
    runs_by_hand(&node)
}

/// The drop-in of deploy/ as it is, and the binary, without the installer.
fn drop_in(version: Version, format: u32, file: &str) -> Outcome {
    let node = Node::start_in(version, format, &imports(), "")?;
    let place = node.containerd.host.path(DROP_IN);
    std::fs::create_dir_all(place.parent().ok_or("no directory")?)?;
    std::fs::write(place, file)?;
    node.containerd.kill()?;
    node.containerd.restart()?;
    runs_by_hand(&node)
}

fn drop_in_2_1() -> Outcome {
    drop_in(Version::C2_1, 3, include_str!("../../../deploy/containerd-v3.toml"))
}

fn drop_in_2_3() -> Outcome {
    drop_in(Version::C2_3, 4, include_str!("../../../deploy/containerd-v4.toml"))
}

/// A pod on the handler, with the binary put where the file in deploy/ has it.
fn runs_by_hand(node: &Node) -> Outcome {
    let copied = node.containerd.host.command(Some(LIMIT), &[], &["install", "-m", "755", &shim()?, LINK]).status()?;
    ensure!(copied.success(), "the binary was not copied");
    node.install("verify", &shim()?)?.ok()?;
    let pod = node.pod()?;
    node.remove_pod(&pod)?;
    Ok(())
}

/// Whoever executes the link while it is changed gets the one version or the other, whole.
fn link_changed_under_load() -> Outcome {
    let node = Node::start(Version::C2_1, &imports(), "")?;
    let (shim, (other, _broken)) = (shim()?, other_shims(&node)?);
    node.install("install", &shim)?.ok()?;
    let script = format!("n=0; until [ -e /run/enough ]; do {LINK} -v >/dev/null || exit 1; n=$((n+1)); done; echo $n");
    let command = node.containerd.host.command(Some(4 * LIMIT), &[], &["sh", "-c", &script]);
    let load = integration::client::start(command, "the load".to_owned(), 4 * LIMIT)?;
    node.install("install", &other)?.ok()?;
    for _ in 0..4 {
        node.install("rollback", &shim)?.ok()?;
    }
    std::fs::write(node.containerd.host.path("/run/enough"), "")?;
    let count = load.wait()?.ok()?.text();
    ensure!(count.trim().parse::<u32>()? > 100, "executed {count} times");
    Ok(())
}

/// What a command left that took the handler away under a pod: that lives through the next start of containerd too, which forgets
/// pods whose shim's binary is not there. Without it nothing is left.
fn stays_for(node: &Node, pod: &str, output: &Output) -> Outcome {
    ensure!(!node.exists(DROP_IN), "the drop-in is there");
    node.containerd.kill()?;
    node.containerd.restart()?;
    node.crictl(&["inspectp", pod])?.ok()?.says("SANDBOX_READY")?;
    ensure!(output.errors().contains("its binary stays"), "{}", output.report());
    ensure!(!output.errors().contains("was taken back"), "{}", output.report());
    node.remove_pod(pod)?;
    eventually(LIMIT, || node.install("uninstall", &shim()?)?.ok().map(drop))?;
    node.assert_clean()
}

/// By force even under a pod, and without it under one that was started after the look.
fn uninstalled_by_force() -> Outcome {
    let node = Node::start(Version::C2_1, &imports(), "")?;
    let shim = shim()?;
    node.install("install", &shim)?.ok()?;
    let pod = node.pod()?;
    let forced = node.deploy_with(&[("FORCE", "1")], "mini-install", &["uninstall"], &shim)?.ok()?;
    stays_for(&node, &pod, &forced)?;
    node.install("install", &shim)?.ok()?;
    let late = node.restart_that(&format!("{} runp --runtime mini {POD} >/run/pod", node.crictl))?;
    eventually(LIMIT, || node.install("status", &shim)?.ok()?.says("running: 0").map(drop))?;
    let refused = node.deploy_with(&[("RESTART", &late)], "mini-install", &["uninstall"], &shim)?.exited(1)?;
    let pod = std::fs::read_to_string(node.containerd.host.path("/run/pod"))?;
    stays_for(&node, pod.trim(), &refused)
}

/// A pod that waited for its handler is there before the install has failed.
fn install_fails_under_a_pod() -> Outcome {
    let node = Node::start(Version::C2_1, &imports(), "")?;
    node.write_pod()?;
    let waiting = node.crictl_that(&format!(
        "case \" $* \" in *' info '*) [ -s /run/pod ] || real runp --runtime mini {POD} >/run/pod; exit 1 ;; esac"
    ))?;
    let with_waiting = [("CRICTL", waiting.as_str()), ("WAIT", "3")];
    let failed = node.deploy_with(&with_waiting, "mini-install", &["install"], &shim()?)?.exited(1)?;
    let pod = std::fs::read_to_string(node.containerd.host.path("/run/pod"))?;
    stays_for(&node, pod.trim(), &failed)
}

/// Whoever called it is no longer there: it does all the same, and undoes what fails.
fn nobody_reads() -> Outcome {
    let node = Node::start(Version::C2_1, &imports(), "")?;
    let (shim, other) = (shim()?, other_shims(&node)?.0);
    node.install_unheard(&[("RESTART", "false")], "install", &shim)?.exited(1)?;
    node.assert_clean()?;
    node.install_unheard(&[], "install", &shim)?.ok()?;
    let first = node.version()?;
    node.install_unheard(&[], "install", &other)?.ok()?;
    ensure!(node.version()? != first, "another binary got the same version");
    node.install_unheard(&[], "rollback", &shim)?.ok()?;
    ensure!(node.version()? == first, "after the rollback: {}", node.version()?);
    Ok(())
}

/// One that was killed when the drop-in was there, and containerd not restarted.
fn killed_before_the_restart() -> Outcome {
    let node = Node::start(Version::C2_1, &imports(), "")?;
    let shim = shim()?;
    let killer = node.restart_that("kill -9 $PPID; exit 1")?;
    let kill = || -> Outcome {
        node.deploy_with(&[("RESTART", &killer)], "mini-install", &["install"], &shim)?.exited(137)?;
        ensure!(node.exists(DROP_IN) && node.exists(LINK), "killed too early");
        Ok(())
    };
    kill()?;
    node.install("install", &shim)?.ok()?;
    let pod = node.pod()?;
    node.remove_pod(&pod)?;
    eventually(LIMIT, || node.install("uninstall", &shim)?.ok().map(drop))?;
    node.assert_clean()?;
    kill()?;
    node.deploy_with(&[("RESTART", "false")], "mini-install", &["install"], &shim)?
        .failed_with("the drop-in does not")?;
    ensure!(!node.exists(DROP_IN), "the drop-in is there");
    // One by hand is nobody's to change.
    let by_hand = include_str!("../../../deploy/containerd-v3.toml");
    std::fs::write(node.containerd.host.path(DROP_IN), by_hand)?;
    node.install("install", &shim)?.ok()?;
    ensure!(std::fs::read_to_string(node.containerd.host.path(DROP_IN))? == by_hand, "the drop-in was changed");
    Ok(())
}

/// What somebody else has put where the installer's files go; absolute links dangle where the node is seen below ROOT.
fn foreign_links() -> Outcome {
    let node = Node::start(Version::C2_1, &imports(), "")?;
    let shim = shim()?;
    for (path, words) in [(LINK, "is there and not ours"), (DROP_IN, "has no handler")] {
        let made = format!("mkdir -p \"$(dirname {path})\" && ln -s /nowhere {path}");
        let made = node.containerd.host.command(Some(LIMIT), &[], &["sh", "-c", &made]).status()?;
        ensure!(made.success(), "no link");
        let output = node.install("install", &shim)?;
        let target = node.containerd.host.path(path).read_link();
        ensure!(target.as_ref().is_ok_and(|target| target == Path::new("/nowhere")), "{path}: {target:?}");
        output.failed_with(words)?;
        node.crictl(&["info"])?.ok()?;
        std::fs::remove_file(node.containerd.host.path(path))?;
        node.assert_clean()?;
    }
    Ok(())
}

/// The version that is there already does not work any more: it stays, and that is said.
fn fails_where_it_is() -> Outcome {
    let node = Node::start(Version::C2_1, &imports(), "")?;
    let shim = shim()?;
    node.install("install", &shim)?.ok()?;
    let version = node.version()?;
    let full = node.crictl_that("case \" $* \" in *' runp '*) exit 1 ;; esac")?;
    let failed = node.deploy_with(&[("CRICTL", &full)], "mini-install", &["install"], &shim)?;
    let failed = failed.failed_with("nothing was changed")?;
    ensure!(!failed.errors().contains("was taken back"), "{}", failed.report());
    ensure!(node.version()? == version && node.exists(DROP_IN), "something was changed");
    node.install("verify", &shim)?.ok().map(drop)
}

fn config_that_imports_nothing() -> Outcome {
    let node = Node::start(Version::C2_1, "", "")?;
    node.install("install", &shim()?)?.failed_with("does not import")?;
    node.assert_clean()
}

/// A restart that fails, a CRI that does not come back and a signal end the install like any other failure: nothing is left.
fn containerd_does_not_come_back() -> Outcome {
    let node = Node::start(Version::C2_1, &imports(), "")?;
    let shim = shim()?;
    let refused = node.deploy_with(&[("RESTART", "false")], "mini-install", &["install"], &shim)?;
    refused.failed_with("was taken back")?;
    node.assert_clean()?;
    let silent = "case \" $* \" in *' info '*) exit 1 ;; esac";
    let mute = node.crictl_that(silent)?;
    let with_mute = [("CRICTL", mute.as_str()), ("WAIT", "2")];
    node.deploy_with(&with_mute, "mini-install", &["install"], &shim)?.failed_with("was taken back")?;
    node.assert_clean()?;
    let killer = node.crictl_that("case \" $* \" in *' info '*) kill $PPID; exit 1 ;; esac")?;
    node.deploy_with(&[("CRICTL", &killer)], "mini-install", &["install"], &shim)?.failed_with("was taken back")?;
    node.assert_clean()?;
    // A signal that is heard only when the drop-in has been written.
    let killer = node.containerd_that(&format!("{INSTALLER}; kill \"$first\""))?;
    node.deploy_with(&[("CONTAINERD", &killer)], "mini-install", &["install"], &shim)?.failed_with("was taken back")?;
    node.assert_clean()?;
    // The containerd that did come back has forgotten the handler.
    let pod = node.pod().map_err(|error| error.message().unwrap_or_default().to_owned());
    ensure!(pod.as_ref().is_err_and(|error| error.contains("no runtime for")), "{pod:?}");
    // And a version that was there is there again.
    node.crictl_that(silent)?;
    node.install("install", &shim)?.ok()?;
    let first = node.version()?;
    let other = other_shims(&node)?.0;
    node.deploy_with(&with_mute, "mini-install", &["install"], &other)?.failed_with("was taken back")?;
    ensure!(node.version()? == first, "after a CRI that was silent: {}", node.version()?);
    eventually(LIMIT, || node.install("uninstall", &shim)?.ok().map(drop))?;
    node.assert_clean()
}

/// The kubelet's housekeeping stops sandboxes of no pod, and removes them: before the installer has looked at them, too.
fn pod_stopped_by_another() -> Outcome {
    let node = Node::start(Version::C2_1, &imports(), "")?;
    let housekeeping = node.crictl_that(
        r#"for pod; do :; done
        case " $* " in *' inspectp '*)
            looks=$(($(cat /run/looks 2>/dev/null || echo 0) + 1))
            echo "$looks" >/run/looks
            [ "$looks" -ge "$(cat /run/lives)" ] || real stopp "$pod" >/dev/null
            [ "$looks" -ne 2 ] || real rmp "$pod" >/dev/null
        esac"#,
    )?;
    let shim = shim()?;
    let (lives, looks) = (node.containerd.host.path("/run/lives"), node.containerd.host.path("/run/looks"));
    let install = || node.deploy_with(&[("CRICTL", &housekeeping)], "mini-install", &["install"], &shim);
    std::fs::write(&lives, "4")?;
    install()?.failed_with("was taken back")?;
    node.assert_clean()?;
    std::fs::write(&lives, "3")?;
    std::fs::remove_file(&looks)?;
    install()?.ok()?;
    let looks = std::fs::read_to_string(looks)?;
    ensure!(looks.trim() == "3", "looked {looks} times");
    let left = node.crictl(&["pods", "--quiet"])?.ok()?.text();
    ensure!(left.is_empty(), "left: {left}");
    eventually(LIMIT, || node.install("uninstall", &shim)?.ok().map(drop))?;
    node.assert_clean()
}

fn overhead_is_measured() -> Outcome {
    let node = Node::start(Version::C2_1, &imports(), "")?;
    node.install("install", &shim()?)?.ok()?;
    let measure = |handler: &str| -> Outcome<u64> {
        let output = node.deploy("overhead", &[handler, "10"], "")?.ok()?;
        print!("{}", output.text());
        let each = output.text().split(" = ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
        Ok(each.ok_or_else(|| output.report())?)
    };
    let (mini, runc) = (measure("mini")?, measure("runc")?);
    let class = include_str!("../../../deploy/runtimeclass.yaml");
    let fixed = class.lines().find_map(|line| line.trim().strip_prefix("memory: ")?.strip_suffix("Mi"));
    let fixed = 1024 * fixed.ok_or("no podFixed")?.parse::<u64>()?;
    ensure!(mini > 0 && mini <= fixed && mini < runc, "a pod on mini costs {mini} of {fixed} KiB, on runc {runc}");
    eventually(LIMIT, || node.install("uninstall", &shim()?)?.ok().map(drop))?;
    node.assert_clean()
}

/// A test and its name.
type Case = (&'static str, fn() -> Outcome);

fn main() {
    let arguments = Arguments::from_args();
    let cases: [Case; 21] = [
        ("life_1_6", life_1_6),
        ("life_2_1", life_2_1),
        ("life_2_3", life_2_3),
        ("life_2_3_of_version_4", life_2_3_of_version_4),
        ("by_hand_1_7", by_hand_1_7),
        ("drop_in_2_1", drop_in_2_1),
        ("drop_in_2_3", drop_in_2_3),
        ("link_changed_under_load", link_changed_under_load),
        ("uninstalled_by_force", uninstalled_by_force),
        ("install_fails_under_a_pod", install_fails_under_a_pod),
        ("nobody_reads", nobody_reads),
        ("killed_before_the_restart", killed_before_the_restart),
        ("foreign_links", foreign_links),
        ("fails_where_it_is", fails_where_it_is),
        ("config_that_imports_nothing", config_that_imports_nothing),
        ("containerd_does_not_come_back", containerd_does_not_come_back),
        ("pod_stopped_by_another", pod_stopped_by_another),
        ("overhead_is_measured", overhead_is_measured),
        ("page_kubernetes", whole::page_kubernetes),
        ("page_migration", whole::page_migration),
        ("daemon_set", whole::daemon_set),
    ];
    let trials = cases.into_iter().map(|(name, run)| Trial::test(format!("deploy::{name}"), run)).collect();
    libtest_mimic::run(&arguments, trials).exit();
}
