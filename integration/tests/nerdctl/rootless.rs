//! nerdctl without root: containerd in the user namespace that rootlesskit makes for a user of the machine, on a machine
//! that delegates no control groups to that user.

use integration::containerd::{LIMIT, SOCKET, bin_dir, testbed};
use integration::nerdctl::{self, IMAGE};
use integration::{Bed, Outcome, Output, Runtime, client, ensure, eventually};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

const USER: u32 = 4242;

/// `$1`: the user's directory. In a mount namespace of its own: gives the user a name and subordinate ids, and becomes the
/// user. What follows is containerd-rootless.sh's call of rootlesskit, without a network.
const OUTSIDE: &str = r#"
set -e
for file in passwd group; do cp /etc/$file "$1/etc-$file"; done
echo "rootless:x:4242:4242::$1/home:/bin/sh" >>"$1/etc-passwd"
echo "rootless:x:4242:" >>"$1/etc-group"
echo "rootless:300000:65536" | tee "$1/etc-subuid" >"$1/etc-subgid"
for file in passwd group subuid subgid; do touch "/etc/$file"; mount --bind "$1/etc-$file" "/etc/$file"; done
exec setpriv --reuid 4242 --regid 4242 --clear-groups rootlesskit --state-dir="$1/run/containerd-rootless" \
  --net=none --copy-up=/etc --copy-up=/run --propagation=rslave bash -c "$2" inside "$1"
"#;

/// `$1`: the user's directory. Root of a user namespace; /run is a tmpfs of links to the machine's.
const INSIDE: &str = r#"
set -e
rm -rf /run/containerd /run/mount
mkdir /run/mount
exec containerd --config "$1/config.toml"
"#;

/// A containerd of the user's, beside the bed's own.
struct Rootless<'a> {
    bed: &'a Bed,
    directory: PathBuf,
    daemon: Child,
}

impl Rootless<'_> {
    fn start(bed: &Bed) -> Outcome<Rootless<'_>> {
        let directory = bed.directory("user")?;
        // Up to the directory of this test everybody may pass.
        for parent in directory.ancestors().take_while(|parent| *parent != Path::new("/var/tmp")) {
            std::fs::set_permissions(parent, std::fs::Permissions::from_mode(0o711))?;
        }
        for part in ["", "home", "run", "data", "root"] {
            std::fs::create_dir_all(directory.join(part))?;
            chown(directory.join(part), Some(USER), Some(USER))?;
        }
        std::fs::create_dir_all(directory.join("bin"))?;
        let mut path = bed.containerd.path().to_owned();
        if bed.runtime() == Runtime::Mini {
            // Where it was built the user may not be allowed to look.
            std::fs::copy(bin_dir()?.join("containerd-shim-mini-v2"), directory.join("bin/containerd-shim-mini-v2"))?;
            let (built, copied) = (bin_dir()?.display().to_string(), directory.join("bin").display().to_string());
            path = path.replace(&built, &copied);
        }
        let tools = testbed().join("rootless").display().to_string();
        let own = testbed().join(format!("c{}/bin", bed.version())).display().to_string();
        let path = format!("{tools}/bin:{tools}/root/usr/bin:{path}:{own}");
        let config = std::fs::read_to_string(bed.containerd.config())?;
        let root = config.lines().find(|line| line.starts_with("root = ")).ok_or("no root in config.toml")?;
        let config = config.replace(root, &format!("root = {:?}", directory.join("root").display().to_string()));
        std::fs::write(directory.join("config.toml"), config)?;
        let settings = nerdctl::configuration(&bed.containerd.namespace, &directory);
        std::fs::write(directory.join("nerdctl.toml"), settings.replace("\"cgroupfs\"", "\"none\""))?;
        let log = std::fs::File::create(directory.join("log"))?;
        let (place, run) = (directory.display().to_string(), directory.join("run").display().to_string());
        let home = directory.join("home").display().to_string();
        let daemon = bed
            .containerd
            .host
            .command(
                None,
                &[("PATH", &path), ("HOME", &home), ("XDG_RUNTIME_DIR", &run)],
                &["unshare", "--mount", "bash", "-c", OUTSIDE, "outside", &place, INSIDE],
            )
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let rootless = Rootless { bed, directory, daemon };
        let archive = testbed().join("image/busybox.tar").display().to_string();
        eventually(LIMIT, || rootless.nerdctl(&["version"])?.ok()?.says("Server:").map(drop))
            .map_err(|error| rootless.with_log(&error))?;
        rootless.nerdctl(&["load", "--input", &archive])?.ok()?;
        Ok(rootless)
    }

    fn with_log(&self, error: &libtest_mimic::Failed) -> String {
        let log = std::fs::read_to_string(self.directory.join("log")).unwrap_or_default();
        format!("{}\nrootlesskit's log:\n{log}", error.message().unwrap_or_default())
    }

    /// A call that the user makes outside of the namespace.
    fn call(&self, program: &str, arguments: &[&str]) -> Outcome<Output> {
        let path = |word: &str| self.directory.join(word).display().to_string();
        let user = USER.to_string();
        let become_user = ["setpriv", "--reuid", &user, "--regid", &user, "--clear-groups", program];
        let env = [
            ("HOME", path("home")),
            ("XDG_RUNTIME_DIR", path("run")),
            ("NERDCTL_TOML", path("nerdctl.toml")),
            ("CONTAINERD_ADDRESS", SOCKET.to_owned()),
        ];
        let env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let command = self.bed.containerd.host.command(Some(LIMIT), &env, &[&become_user[..], arguments].concat());
        client::start(command, format!("{program} {}", arguments.join(" ")), LIMIT)?.wait()
    }

    fn nerdctl(&self, arguments: &[&str]) -> Outcome<Output> {
        self.call(&testbed().join("nerdctl/bin/nerdctl").display().to_string(), arguments)
    }

    /// ctr knows nothing of rootlesskit: it is taken into its namespaces.
    fn ctr(&self, arguments: &[&str]) -> Outcome<Output> {
        let child = std::fs::read_to_string(self.directory.join("run/containerd-rootless/child_pid"))?;
        let ctr = testbed().join(format!("c{}/bin/ctr", self.bed.version())).display().to_string();
        let namespace = &self.bed.containerd.namespace;
        let enter = ["--target", child.trim(), "--user", "--mount", "--preserve-credentials", &ctr, "-n", namespace];
        self.call("nsenter", &[&enter[..], arguments].concat())
    }

    fn run(&self, flags: &[&str], command: &[&str]) -> Outcome<Output> {
        let words = ["run", "--runtime", self.bed.runtime().name(), "--network", "none"];
        self.nerdctl(&[&words[..], flags, &[IMAGE], command].concat())
    }

    fn stop(mut self) -> Outcome {
        let host = &self.bed.containerd.host;
        let first = |(_, argv): &(u32, Vec<String>)| argv[0].ends_with("rootlesskit");
        let pid = host.processes()?.into_iter().filter(first).map(|(pid, _)| pid).min().ok_or("no rootlesskit")?;
        host.kill(pid, "TERM")?;
        self.daemon.wait()?;
        Ok(())
    }
}

pub fn without_root(bed: &Bed) -> Outcome {
    let user = Rootless::start(bed)?;
    let outcome = lives(&user).and_then(|()| limits(&user)).map_err(|error| user.with_log(&error).into());
    user.stop()?;
    outcome
}

fn lives(user: &Rootless) -> Outcome {
    let script = "id -u; cat /proc/self/uid_map; echo trouble >&2; exit 7";
    let output = user.run(&["--rm"], &["sh", "-c", script])?.exited(7)?;
    let words: Vec<String> = output.text().split_whitespace().map(str::to_owned).collect();
    ensure!(words == ["0", "0", "4242", "1", "1", "300000", "65536"], "{}", output.report());
    ensure!(output.errors().contains("trouble\n"), "{}", output.report());
    let other =
        user.run(&["--rm", "-u", "1000", "--cap-drop", "all"], &["grep", "-E", "^(Uid|CapEff)", "/proc/self/status"])?;
    other.ok()?.says("Uid:\t1000\t1000\t1000\t1000\nCapEff:\t0000000000000000\n")?;
    // All devices of the machine are bound, and the terminals are the container's own.
    let script = "mount -t tmpfs none /mnt && readlink /dev/ptmx; echo word > /dev/null";
    user.run(&["--rm", "--privileged"], &["sh", "-c", script])?.ok()?.says("pts/ptmx\n")?;
    let polite = "trap 'exit 3' TERM; echo up; while :; do sleep 0.05; done";
    user.run(&["-d", "--name", "polite"], &["sh", "-c", polite])?.ok()?;
    let field = |field: &str| -> Outcome<String> {
        Ok(user
            .nerdctl(&["inspect", "--format", &format!("{{{{{field}}}}}"), "polite"])?
            .ok()?
            .text()
            .trim()
            .to_owned())
    };
    eventually(LIMIT, || user.nerdctl(&["logs", "polite"])?.ok()?.says("up\n").map(drop))?;
    user.nerdctl(&["exec", "polite", "sh", "-c", "echo inside $(id -u)"])?.ok()?.says("inside 0\n")?;
    // No control group, and so nothing that could be frozen or counted.
    user.nerdctl(&["pause", "polite"])?.failed_with("pause")?;
    user.nerdctl(&["stop", "polite"])?.ok()?;
    let code = field(".State.ExitCode")?;
    ensure!(code == "3", "the exit code is {code}");
    user.nerdctl(&["start", "polite"])?.ok()?;
    user.nerdctl(&["rm", "--force", "polite"])?.ok()?;
    let left = user.nerdctl(&["ps", "--all", "--quiet"])?.ok()?;
    ensure!(left.text().is_empty(), "{}", left.report());
    Ok(())
}

/// Where there is no control group a limit is refused and not ignored, and a path that was asked for is, too.
fn limits(user: &Rootless) -> Outcome {
    let image = "docker.io/library/mini-busybox:latest";
    let run = |flags: &[&str]| {
        let words = ["run", "--rm", "--runtime", user.bed.runtime().name()];
        user.ctr(&[&words[..], flags, &[image, "limited", "true"]].concat())
    };
    // Every `ctr run` asks for 1024 shares.
    run(&["--cgroup", ""])?.failed_with("cpu")?;
    run(&["--cgroup", "/some/path", "--memory-limit", "67108864"])?.failed_with("permission denied")?;
    let left = user.ctr(&["task", "ls", "--quiet"])?.ok()?;
    ensure!(left.text().is_empty(), "{}", left.report());
    let bundles = user.ctr(&["container", "ls", "--quiet"])?.ok()?;
    ensure!(bundles.text().is_empty(), "{}", bundles.report());
    Ok(())
}
