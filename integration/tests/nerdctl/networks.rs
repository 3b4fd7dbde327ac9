//! Networks, volumes, registries.

use integration::containerd::{LIMIT, testbed};
use integration::nerdctl::{self, Nerdctl};
use integration::{Bed, Outcome, debian, ensure, eventually};
use std::time::Duration;

/// Serves its argument on port 80.
const SERVER: &str = "mkdir /www; echo served by $(hostname) > /www/index.html; exec httpd -f -p 80 -h /www";

/// What an HTTP server answers to the containerd's host.
pub fn get(n: &Nerdctl, url: &str) -> Outcome<String> {
    let busybox = testbed().join("tools/bin/busybox").display().to_string();
    let output =
        n.bed.containerd.host.command(Some(Duration::from_secs(5)), &[], &[&busybox, "wget", "-qO-", url]).output()?;
    ensure!(output.status.success(), "{url}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

pub fn published_ports(bed: &Bed) -> Outcome {
    nerdctl::with(bed, |n| {
        let flags = ["--network", "bridge", "--hostname", "web", "-p", "127.0.0.1:18080:80", "-p", "18081:80/tcp"];
        let name = n.detached("web", &flags, SERVER)?;
        for port in [18080, 18081] {
            eventually(LIMIT, || {
                let text = get(n, &format!("http://127.0.0.1:{port}/"))?;
                ensure!(text == "served by web\n", "port {port} says {text:?}");
                Ok(())
            })?;
        }
        let ports = n.ok(&["port", &name])?;
        ensure!(ports.contains("80/tcp -> 127.0.0.1:18080") && ports.contains("18081"), "{ports}");
        n.ok(&["rm", "--force", &name])?;
        ensure!(get(n, "http://127.0.0.1:18080/").is_err(), "the port is still open");
        Ok(())
    })
}

pub fn published_udp(bed: &Bed) -> Outcome {
    nerdctl::with(bed, |n| {
        crate::debian::load(n)?;
        let name = n.name("udp");
        let flags = ["-d", "--name", &name, "--network", "bridge", "-p", "18053:53/udp"];
        n.ok(&n.run_words_of(debian::IMAGE, &flags, &["perl", "-e", debian::UDP_SERVER]))?;
        eventually(LIMIT, || {
            let words = ["perl", "-e", debian::UDP_CLIENT, "127.0.0.1", "18053"];
            let output = n.bed.containerd.host.command(Some(LIMIT), &[], &words).output()?;
            ensure!(output.stdout == b"heard word\n", "port 18053 answers {output:?}");
            Ok(())
        })
    })
}

pub fn networks_of_ones_own(bed: &Bed) -> Outcome {
    nerdctl::with(bed, |n| {
        let network = n.name("net");
        n.ok(&["network", "create", &network])?;
        let server = n.detached("server", &["--network", &network], SERVER)?;
        let client = n.name("client");
        let url = format!("http://{server}/");
        eventually(LIMIT, || {
            let words = ["--rm", "--network", &network, "--name", &client];
            n.call(&n.run_words(&words, &["wget", "-qO-", &url]))?.ok()?.says("served by").map(drop)
        })?;
        n.call(&["network", "rm", &network])?.failed_with("in use")?;
        n.ok(&["rm", "--force", &server])?;
        n.ok(&["network", "rm", &network])?;
        Ok(())
    })
}

pub fn network_of_another_of_the_host_and_none(bed: &Bed) -> Outcome {
    nerdctl::with(bed, |n| {
        let server = n.detached("server", &["--network", "bridge"], SERVER)?;
        let client = n.name("client");
        let of = format!("container:{server}");
        let with = |network: &str, command: &[&str]| {
            n.call(&n.run_words(&["--rm", "--network", network, "--name", &client], command))
        };
        eventually(LIMIT, || with(&of, &["wget", "-qO-", "http://127.0.0.1/"])?.ok()?.says("served by").map(drop))?;
        let host = n.bed.containerd.host.path("/proc/1/ns/net").read_link()?.display().to_string();
        with("host", &["readlink", "/proc/self/ns/net"])?.ok()?.says(&host)?;
        let links = with("none", &["ls", "/sys/class/net"])?.ok()?;
        ensure!(links.text() == "lo\n", "{}", links.report());
        Ok(())
    })
}

pub fn volumes(bed: &Bed) -> Outcome {
    nerdctl::with(bed, |n| {
        let volume = n.name("volume");
        n.ok(&["volume", "create", &volume])?;
        let at = format!("{volume}:/kept");
        n.sh(&["-v", &at], "echo first > /kept/file")?.ok()?;
        let read_only = format!("{volume}:/kept:ro");
        let output = n.sh(&["-v", &read_only], "cat /kept/file; echo second > /kept/file")?;
        ensure!(output.code != 0 && output.text() == "first\n", "{}", output.report());
        ensure!(output.errors().contains("Read-only file system"), "{}", output.report());
        n.ok(&["volume", "rm", &volume])?;
        let directory = n.bed.directory("bind")?;
        std::fs::write(directory.join("there"), "on the host\n")?;
        let bind = format!("{}:/mnt", directory.display());
        n.sh(&["-v", &bind, "--tmpfs", "/scratch:size=1m"], "cat /mnt/there; grep -c ' /scratch tmpfs' /proc/mounts")?
            .ok()?
            .says("on the host\n1\n")?;
        // What the image has at a volume's place is copied into it.
        let copied = n.name("copied");
        n.sh(&["-v", &format!("{copied}:/etc")], "cat /etc/image-name")?.ok()?.says("mini-busybox")?;
        n.ok(&["volume", "rm", &copied])?;
        Ok(())
    })
}

pub fn push_and_pull(bed: &Bed) -> Outcome {
    nerdctl::with(bed, |n| {
        let directory = n.bed.directory("registry")?;
        let config = directory.join("config.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '127.0.0.1:5000'}}\n",
            directory.join("data").display()
        );
        std::fs::write(&config, text)?;
        let program = testbed().join("nerdctl/bin/docker-registry").display().to_string();
        let config = config.display().to_string();
        // The limit ends it even when the test does not get to its end.
        let mut registry = n
            .bed
            .containerd
            .host
            .command(Some(Duration::from_secs(100)), &[], &[&program, "serve", &config])
            .spawn()?;
        let image = format!("127.0.0.1:5000/{}:1", n.name("image"));
        let outcome = (|| {
            n.ok(&["tag", nerdctl::IMAGE, &image])?;
            eventually(LIMIT, || n.call(&["push", "--quiet", &image])?.ok().map(drop))?;
            n.ok(&["rmi", &image])?;
            let name = n.name("pulled");
            let words =
                ["run", "--rm", "--quiet", "--runtime", n.bed.runtime().name(), "--network", "none", "--name", &name];
            n.call(&[&words[..], &[&image, "cat", "/etc/image-name"]].concat())?.ok()?.says("mini-busybox")?;
            n.ok(&["rmi", &image])?;
            Ok(())
        })();
        n.end(|argv| argv[0] == program)?;
        registry.wait()?;
        outcome
    })
}
