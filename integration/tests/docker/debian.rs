//! Debian's image: what busybox does not ask of a runtime.

use integration::containerd::LIMIT;
use integration::debian::{self, IMAGE, SCRIPT};
use integration::{Docker, Outcome, ensure};

pub fn load(docker: &Docker) -> Outcome {
    docker.load_image(debian::archive().as_ref(), IMAGE)
}

pub fn programs_of_glibc(docker: &Docker) -> Outcome {
    load(docker)?;
    debian::says(&docker.docker(&docker.words_of(IMAGE, "run", &["--rm"], &["bash", "-c", SCRIPT]))?.ok()?)?;
    let unconfined = ["--rm", "--security-opt", "seccomp=unconfined"];
    debian::says(&docker.docker(&docker.words_of(IMAGE, "run", &unconfined, &["bash", "-c", SCRIPT]))?.ok()?)?;
    let id = docker.id();
    docker.docker(&docker.words_of(IMAGE, "run", &["-d", "--name", &id], &["sleep", "1000"]))?.ok()?;
    let exec = docker.docker(&["exec", "--user", "user", &id, "bash", "-c", "id; cd; pwd; ps -o comm= 1"])?.ok()?;
    exec.says("uid=1000(user) gid=1000(user) groups=1000(user),2000(extra)\n")?.says("/home/user\nsleep\n")?;
    docker.docker(&["top", &id, "-eo", "pid,comm"])?.ok()?.says("sleep\n")?;
    docker.docker(&["rm", "--force", &id])?.ok()?;
    Ok(())
}

pub fn job_control(docker: &Docker) -> Outcome {
    load(docker)?;
    let id = docker.id();
    let mut run = docker.terminal(&docker.words_of(IMAGE, "run", &["-it", "--name", &id], &["bash"]))?;
    run.wait_for("# ", LIMIT)?;
    let mut exec = docker.terminal(&["exec", "-it", &id, "bash"])?;
    for terminal in [&mut exec, &mut run] {
        let code = debian::job_control(terminal)?;
        ensure!(code == 7, "the client ended with {code}");
    }
    Ok(())
}

/// deploy/Dockerfile on Debian's image, and what it makes, run as the DaemonSet does but on an empty node.
pub fn installer_image(docker: &Docker) -> Outcome {
    load(docker)?;
    let (base, image) = ("debian:bookworm-slim", docker.id());
    docker.docker(&["tag", IMAGE, base])?.ok()?;
    let deploy = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
    let context = docker.directory("context")?;
    let binary = "containerd-shim-mini-v2";
    std::fs::copy(deploy.join("mini-install"), context.join("mini-install"))?;
    std::fs::copy(integration::bin_dir()?.join(binary), context.join(binary))?;
    let (file, context) = (deploy.join("Dockerfile").display().to_string(), context.display().to_string());
    // The builder of dockerd itself; BuildKit is another program.
    docker.docker_with(&[("DOCKER_BUILDKIT", "0")], &["build", "-f", &file, "-t", &image, &context])?.ok()?;
    let node = format!("{}:/host", docker.directory("node")?.display());
    let flags = ["--rm", "--privileged", "--volume", &node, "--env", "ROOT=/host"];
    let output = docker.docker(&docker.words_of(&image, "run", &flags, &["status"]))?.ok()?;
    output.says("version: \n")?.says("drop-in: none\nshims running: 0\n")?;
    let flags = ["--rm", "--entrypoint", "/opt/mini/containerd-shim-mini-v2"];
    docker.docker(&docker.words_of(&image, "run", &flags, &["-v"]))?.ok()?.says("containerd-shim-mini-v2:\n")?;
    docker.docker(&["rmi", &image, base])?.ok()?;
    Ok(())
}

/// A program that is root's by its mode gives its user root's rights, unless that is forbidden.
pub fn setuid_program(docker: &Docker) -> Outcome {
    load(docker)?;
    for (option, uid) in [("seccomp=unconfined", "0\n"), ("no-new-privileges", "1000\n")] {
        let flags = ["--rm", "--user", "user", "--security-opt", option];
        let output = docker.docker(&docker.words_of(IMAGE, "run", &flags, &["id-of-root", "-u"]))?.ok()?;
        ensure!(output.text() == uid, "{option}: {}", output.report());
    }
    Ok(())
}
