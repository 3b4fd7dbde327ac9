//! nerdctl on a containerd of the test bed, with data and networks of its own.

use crate::containerd::{LIMIT, testbed};
use crate::pty::Pty;
use crate::{Bed, Outcome, Output, client, ensure, eventually, residue};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The image as nerdctl's users write it.
pub const IMAGE: &str = "mini-busybox:latest";

/// The client, for one test. What the test makes carries [`Nerdctl::name`]s, by which it is removed afterwards.
pub struct Nerdctl<'a> {
    /// Where the test runs.
    pub bed: &'a Bed,
    /// What every name of this test begins with.
    pub prefix: String,
    settings: PathBuf,
}

/// Runs the test, then removes its containers and fails if anything of them stays.
pub fn with(bed: &Bed, test: impl FnOnce(&Nerdctl) -> Outcome) -> Outcome {
    let nerdctl = Nerdctl::new(bed)?;
    let outcome = test(&nerdctl);
    let finished = nerdctl.finish();
    outcome.and(finished)
}

/// The file of settings for calls that name none: the socket of a containerd's host, `place` for everything else.
pub fn configuration(namespace: &str, place: &Path) -> String {
    let (cni, place) = (testbed().join("nerdctl/cni").display().to_string(), place.display());
    format!(
        "address = \"/run/containerd/containerd.sock\"\nnamespace = \"{namespace}\"\ndata_root = \"{place}/data\"\n\
         cgroup_manager = \"cgroupfs\"\ncni_path = \"{cni}\"\ncni_netconfpath = \"{place}/net.d\"\n"
    )
}

impl<'a> Nerdctl<'a> {
    fn new(bed: &'a Bed) -> Outcome<Nerdctl<'a>> {
        ensure!(testbed().join("nerdctl/bin/nerdctl").exists(), "run scripts/testbed first: it builds nerdctl");
        let place = bed.containerd.scratch().join("nerdctl");
        std::fs::create_dir_all(&place)?;
        let settings = bed.directory("nerdctl")?.join("nerdctl.toml");
        std::fs::write(&settings, configuration(&bed.containerd.namespace, &place))?;
        Ok(Nerdctl { bed, prefix: bed.id(), settings })
    }

    /// A name for a container, a network, a volume of this test.
    pub fn name(&self, word: &str) -> String {
        format!("{}-{word}", self.prefix)
    }

    /// A call of nerdctl, not started.
    pub fn command(&self, limit: Option<Duration>, arguments: &[&str]) -> Command {
        let program = testbed().join("nerdctl/bin/nerdctl").display().to_string();
        let settings = self.settings.display().to_string();
        let mut argv = vec![program.as_str()];
        argv.extend(arguments);
        self.bed.containerd.host.command(limit, &[("NERDCTL_TOML", &settings)], &argv)
    }

    /// Starts a call.
    pub fn start(&self, arguments: &[&str]) -> Outcome<client::Running> {
        client::start(self.command(Some(LIMIT), arguments), format!("nerdctl {}", arguments.join(" ")), LIMIT)
    }

    /// A call to its end.
    pub fn call(&self, arguments: &[&str]) -> Outcome<Output> {
        self.start(arguments)?.wait()
    }

    /// A call that has to succeed; what it wrote, without the last line's end.
    pub fn ok(&self, arguments: &[&str]) -> Outcome<String> {
        Ok(self.call(arguments)?.ok()?.text().trim_end().to_owned())
    }

    /// A call on a terminal of 40 rows and 100 columns.
    pub fn terminal(&self, arguments: &[&str]) -> Outcome<Pty> {
        Pty::start(&self.command(Some(LIMIT), arguments), 40, 100)
    }

    /// The words of `nerdctl run` on the runtime under test.
    pub fn run_words<'w>(&self, flags: &[&'w str], command: &[&'w str]) -> Vec<&'w str> {
        self.run_words_of(IMAGE, flags, command)
    }

    /// The same with another image.
    pub fn run_words_of<'w>(&self, image: &'w str, flags: &[&'w str], command: &[&'w str]) -> Vec<&'w str> {
        [&["run", "--runtime", self.bed.runtime().name()], flags, &[image], command].concat()
    }

    /// `nerdctl run --rm`, without a network, in the foreground.
    pub fn run(&self, flags: &[&str], command: &[&str]) -> Outcome<Output> {
        let name = self.name("run");
        self.call(&self.run_words(&[&["--rm", "--network", "none", "--name", &name], flags].concat(), command))
    }

    /// `nerdctl run --rm` of a shell script.
    pub fn sh(&self, flags: &[&str], script: &str) -> Outcome<Output> {
        self.run(flags, &["sh", "-c", script])
    }

    /// `nerdctl run -d` of a shell script, without a network unless the flags name one; returns its name.
    pub fn detached(&self, word: &str, flags: &[&str], script: &str) -> Outcome<String> {
        let name = self.name(word);
        let network: &[&str] = if flags.contains(&"--network") { &[] } else { &["--network", "none"] };
        let words = [&["-d", "--name", &name], network, flags].concat();
        self.ok(&self.run_words(&words, &["sh", "-c", script]))?;
        Ok(name)
    }

    /// A field of `nerdctl inspect`, by Go template.
    pub fn inspect(&self, name: &str, field: &str) -> Outcome<String> {
        self.ok(&["inspect", "--format", &format!("{{{{{field}}}}}"), name])
    }

    /// Waits until a field of `inspect` is as given.
    pub fn wait_for(&self, name: &str, field: &str, value: &str) -> Outcome {
        eventually(LIMIT, || {
            let now = self.inspect(name, field)?;
            ensure!(now == value, "{field} of {name} is {now:?}, not {value:?}");
            Ok(())
        })
    }

    /// Waits until the container's log is as given. A logger may still be writing when its container has ended.
    pub fn logs_are(&self, name: &str, text: &str) -> Outcome {
        eventually(LIMIT, || {
            let output = self.call(&["logs", name])?.ok()?;
            ensure!(output.text() == text, "the log is not {text:?}:\n{}", output.report());
            Ok(())
        })
    }

    /// Asks until the call succeeds: nerdctl's lists fail when a container of another test goes while they are made.
    pub fn list(&self, arguments: &[&str]) -> Outcome<String> {
        eventually(LIMIT, || self.ok(arguments))
    }

    /// Ends processes on the containerd's host by SIGKILL: clients that end no other way.
    pub fn end(&self, of: impl Fn(&[String]) -> bool) -> Outcome {
        for (pid, argv) in self.bed.containerd.host.processes()? {
            if of(&argv) {
                self.bed.containerd.host.kill(pid, "KILL")?;
            }
        }
        Ok(())
    }

    /// Containers of this test, by their full ids.
    fn containers(&self) -> Outcome<Vec<String>> {
        let list = self.list(&["ps", "--all", "--no-trunc", "--format", "{{.ID}} {{.Names}}"])?;
        let of_us = |line: &str| -> Option<String> {
            let (id, name) = line.split_once(' ')?;
            name.starts_with(&self.prefix).then(|| id.to_owned())
        };
        Ok(list.lines().filter_map(of_us).collect())
    }

    fn finish(&self) -> Outcome {
        let ids = self.containers()?;
        if !ids.is_empty() {
            let words: Vec<&str> =
                ["rm", "--force", "--volumes"].into_iter().chain(ids.iter().map(String::as_str)).collect();
            self.call(&words)?;
        }
        for id in &ids {
            residue::assert_none_of(&self.bed.containerd, id, Duration::from_secs(15))?;
        }
        let left = self.containers()?;
        ensure!(left.is_empty(), "containers could not be removed: {left:?}");
        Ok(())
    }
}
