//! Namespaces, rights and the file system, each by something that can be seen inside the container.

use integration::{Docker, Outcome, ensure};

fn namespace(docker: &Docker, pid: u32, kind: &str) -> Outcome<String> {
    Ok(docker.containerd.host.path(format!("/proc/{pid}/ns/{kind}")).read_link()?.display().to_string())
}

fn namespace_inside(docker: &Docker, flags: &[&str], kind: &str) -> Outcome<String> {
    let output = docker.run(flags, &["readlink", &format!("/proc/self/ns/{kind}")])?.ok()?;
    Ok(output.text().trim_end().to_owned())
}

pub fn namespaces_of_the_host(docker: &Docker) -> Outcome {
    for (kind, flag) in
        [("pid", "--pid"), ("ipc", "--ipc"), ("uts", "--uts"), ("net", "--network"), ("cgroup", "--cgroupns")]
    {
        let host = namespace(docker, 1, kind)?;
        ensure!(namespace_inside(docker, &[flag, "host"], kind)? == host, "{kind} is not the host's");
        if kind != "cgroup" {
            ensure!(namespace_inside(docker, &[], kind)? != host, "{kind} is the host's without being asked");
        }
    }
    ensure!(
        namespace_inside(docker, &["--cgroupns", "private"], "cgroup")? != namespace(docker, 1, "cgroup")?,
        "cgroup"
    );
    // All of the host's processes are seen, and the rest of the container dies with its init all the same.
    let id = docker.detached(&["--pid", "host"], &["sh", "-c", "sleep 76543 & sleep 76544"])?;
    docker.exec(&[], &id, "ps -o args")?.ok()?.says("dockerd")?;
    docker.docker(&["kill", &id])?.ok()?;
    docker.docker(&["wait", &id])?.ok()?.says("137\n")?;
    integration::eventually(integration::containerd::LIMIT, || {
        let left =
            docker.containerd.host.processes()?.into_iter().any(|(_, argv)| argv.iter().any(|word| word == "76543"));
        ensure!(!left, "a process of the container is still there");
        Ok(())
    })
}

pub fn namespaces_of_another_container(docker: &Docker) -> Outcome {
    let first = docker.sleeper(&["--ipc", "shareable", "--hostname", "first"])?;
    let pid = docker.pid(&first)?;
    let of = format!("container:{first}");
    for (kind, flag) in [("pid", "--pid"), ("ipc", "--ipc"), ("net", "--network")] {
        let theirs = namespace(docker, pid, kind)?;
        ensure!(namespace_inside(docker, &[flag, &of], kind)? == theirs, "{kind} is not the first container's");
    }
    let output = docker.sh(&["--pid", &of], "echo $$; ps -o args")?.ok()?.says("sleep 100000")?;
    ensure!(!output.text().starts_with("1\n"), "{}", output.report());
    docker.sh(&["--network", &of], "hostname")?.ok()?.says("first\n")?;
    docker.exec(&[], &first, "echo shared > /dev/shm/word")?.ok()?;
    docker.run(&["--ipc", &of], &["cat", "/dev/shm/word"])?.ok()?.says("shared\n")?;
    // A member of a joined pid namespace ends alone, and leaves the first alone.
    let second = docker.detached(&["--pid", &of], &["sh", "-c", "sleep 65432 & sleep 65433"])?;
    docker.docker(&["kill", &second])?.ok()?;
    docker.docker(&["wait", &second])?.ok()?.says("137\n")?;
    docker.exec(&[], &first, "ps -o args; echo alive")?.ok()?.says("alive\n")?;
    Ok(())
}

pub fn kinds_of_ipc_and_uts(docker: &Docker) -> Outcome {
    // The machine's own, so the name has to be nobody else's.
    let shm = docker.containerd.host.path("/dev/shm").join(&docker.containerd.namespace);
    std::fs::write(&shm, "of the host\n")?;
    let inside = format!("/dev/shm/{}", shm.file_name().unwrap_or_default().to_string_lossy());
    let of_host = docker.run(&["--ipc", "host"], &["cat", &inside])?;
    std::fs::remove_file(&shm)?;
    of_host.ok()?.says("of the host\n")?;
    docker.run(&["--ipc", "private"], &["test", "-e", &inside])?.exited(1)?;
    let private = docker.sleeper(&["--ipc", "private"])?;
    let join = format!("container:{private}");
    docker.run(&["--ipc", &join], &["true"])?.exited(125)?.failed_with("non-shareable IPC")?;
    docker.sh(&["--ipc", "none"], "grep ' /dev/shm ' /proc/self/mountinfo")?.exited(1)?;
    // A queue of one is seen by who joins it, and by nobody else.
    let shareable = docker.sleeper(&["--ipc", "shareable"])?;
    docker.exec(&[], &shareable, "touch /dev/mqueue/queue")?.ok()?;
    let join = format!("container:{shareable}");
    docker.run(&["--ipc", &join], &["test", "-e", "/dev/mqueue/queue"])?.ok()?;
    docker.run(&[], &["test", "-e", "/dev/mqueue/queue"])?.exited(1)?;
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname")?;
    docker.run(&["--uts", "host"], &["hostname"])?.ok()?.says(&host)?;
    docker.run(&["--domainname", "of.a.test"], &["cat", "/proc/sys/kernel/domainname"])?.ok()?.says("of.a.test\n")?;
    Ok(())
}

pub fn hostname_and_files_of_docker(docker: &Docker) -> Outcome {
    let flags = ["--network", "bridge", "--hostname", "box", "--add-host", "far:10.9.8.7", "--dns", "10.1.2.3"];
    let output = docker.sh(&flags, "hostname; cat /etc/hosts /etc/resolv.conf; cat /etc/hostname")?.ok()?;
    output.says("box\n")?.says("10.9.8.7\tfar")?.says("nameserver 10.1.2.3")?;
    Ok(())
}

pub fn volumes_binds_and_tmpfs(docker: &Docker) -> Outcome {
    let directory = docker.directory("bind")?;
    std::fs::write(directory.join("there"), "from outside\n")?;
    let bind = format!("{}:/mnt/sub", directory.display());
    docker.sh(&["-v", &bind], "cat /mnt/sub/there; echo inside > /mnt/sub/back")?.ok()?.says("from outside\n")?;
    ensure!(std::fs::read_to_string(directory.join("back"))? == "inside\n", "nothing was written through the bind");
    let output = docker.sh(&["-v", &format!("{bind}:ro")], "touch /mnt/sub/x")?.exited(1)?;
    ensure!(output.errors().contains("Read-only file system"), "{}", output.report());
    let missing = docker.run(&["--mount", "type=bind,src=/no/such/dir,dst=/x"], &["true"])?.exited(125)?;
    missing.failed_with("bind source path does not exist")?;
    let volume = docker.id();
    docker.docker(&["volume", "create", &volume])?.ok()?;
    docker
        .sh(&["-v", &format!("{volume}:/etc")], "cat /etc/image-name; echo word > /etc/kept")?
        .ok()?
        .says("mini-busybox")?;
    docker.run(&["-v", &format!("{volume}:/data:ro")], &["cat", "/data/kept"])?.ok()?.says("word\n")?;
    let first = docker.sleeper(&["-v", &format!("{volume}:/shared")])?;
    docker.run(&["--volumes-from", &first], &["cat", "/shared/kept"])?.ok()?.says("word\n")?;
    docker.docker(&["rm", "--force", &first])?.ok()?;
    docker.docker(&["volume", "rm", &volume])?.ok()?;
    let output =
        docker.sh(&["--tmpfs", "/t:size=1m,mode=1770,noexec"], "stat -c %a /t; grep ' /t ' /proc/self/mountinfo")?;
    output.ok()?.says("1770\n")?.says("noexec")?.says("size=1024k")?;
    docker.sh(&["--shm-size", "2m"], "grep ' /dev/shm ' /proc/self/mountinfo")?.ok()?.says("size=2048k")?;
    Ok(())
}

pub fn propagation_of_volumes(docker: &Docker) -> Outcome {
    let directory = docker.directory("propagated")?;
    std::fs::create_dir_all(directory.join("below"))?;
    let mount = |kind: &str| format!("type=bind,src={},dst=/p,bind-propagation={kind}", directory.display());
    let inside = |kind: &str, script: &str| docker.sh(&["--privileged", "--mount", &mount(kind)], script);
    for (kind, has, lacks) in [("rshared", "shared:", "master:"), ("rslave", "master:", "shared:")] {
        let output = inside(kind, "grep ' /p ' /proc/self/mountinfo")?.ok()?.says(has)?;
        ensure!(!output.text().contains(lacks), "{}", output.report());
    }
    let output = inside("rprivate", "grep ' /p ' /proc/self/mountinfo")?.ok()?;
    ensure!(!output.text().contains("shared:") && !output.text().contains("master:"), "{}", output.report());
    let of_host = || std::fs::read_to_string(docker.containerd.host.path("/proc/1/mountinfo"));
    inside("rslave", "mount -t tmpfs of-a-slave /p/below")?.ok()?;
    ensure!(!of_host()?.contains("of-a-slave"), "a slave's mount reached the host");
    inside("rshared", "mount -t tmpfs of-a-peer /p/below")?.ok()?;
    ensure!(of_host()?.contains("of-a-peer"), "a peer's mount did not reach the host");
    let below = directory.join("below").display().to_string();
    let umount = docker.containerd.host.command(None, &[], &["umount", &below]).status()?;
    ensure!(umount.success(), "umount of {below} failed");
    Ok(())
}

pub fn devices(docker: &Docker) -> Outcome {
    let script = "stat -c '%F %t:%T' /dev/fuse; true < /dev/fuse && echo opened";
    docker.sh(&["--device", "/dev/fuse"], script)?.ok()?.says("character special file a:e5\nopened\n")?;
    docker.sh(&["--device", "/dev/fuse:/dev/other:r"], "true < /dev/other && echo opened")?.ok()?.says("opened\n")?;
    let output = docker.sh(&["--device", "/dev/fuse:/dev/other:r"], "true > /dev/other")?.exited(1)?;
    ensure!(output.errors().contains("Operation not permitted"), "{}", output.report());
    let output = docker.sh(&[], "mknod /tmp/fuse c 10 229 && true < /tmp/fuse")?.exited(1)?;
    ensure!(output.errors().contains("Operation not permitted"), "{}", output.report());
    docker.sh(&["--device-cgroup-rule", "c 10:229 rwm"], "mknod /tmp/fuse c 10 229 && true < /tmp/fuse")?.ok()?;
    docker.sh(&["--privileged"], "ls /dev/kmsg && mount -t tmpfs none /mnt")?.ok()?;
    Ok(())
}

/// The capability sets inside, as masks by their letters in /proc: Inh, Prm, Eff, Bnd, Amb.
fn capabilities(docker: &Docker, flags: &[&str], set: &str) -> Outcome<u64> {
    let output = docker.run(flags, &["grep", &format!("Cap{set}"), "/proc/self/status"])?.ok()?;
    Ok(u64::from_str_radix(output.text().split('\t').nth(1).unwrap_or_default().trim(), 16)?)
}

pub fn capabilities_added_and_dropped(docker: &Docker) -> Outcome {
    const DEFAULT: u64 = 0xa804_25fb;
    for set in ["Eff", "Prm", "Bnd"] {
        let mask = capabilities(docker, &[], set)?;
        ensure!(mask == DEFAULT, "{set} is {mask:x}");
    }
    for set in ["Inh", "Amb"] {
        let mask = capabilities(docker, &[], set)?;
        ensure!(mask == 0, "{set} is {mask:x}");
    }
    let mask = capabilities(docker, &["--cap-add", "NET_ADMIN", "--cap-drop", "CHOWN"], "Eff")?;
    ensure!(mask == (DEFAULT | 1 << 12) & !1, "the set is {mask:x}");
    let mask = capabilities(docker, &["--cap-drop", "ALL"], "Bnd")?;
    ensure!(mask == 0, "the set is {mask:x}");
    let mask = capabilities(docker, &["--user", "1000"], "Eff")?;
    ensure!(mask == 0, "a user has {mask:x}");
    let mask = capabilities(docker, &["--privileged"], "Eff")?;
    ensure!(mask & (1 << 21 | 1 << 12) == 1 << 21 | 1 << 12, "a privileged container has {mask:x}");
    docker.run(&["--cap-add", "NO_SUCH"], &["true"])?.exited(125)?.failed_with("unknown capability")?;
    Ok(())
}

pub fn seccomp_and_no_new_privileges(docker: &Docker) -> Outcome {
    let status = "grep -E '^(Seccomp|NoNewPrivs):' /proc/self/status";
    docker.sh(&[], status)?.ok()?.says("NoNewPrivs:\t0\n")?.says("Seccomp:\t2\n")?;
    let flags = ["--security-opt", "no-new-privileges", "--security-opt", "seccomp=unconfined"];
    docker.sh(&flags, status)?.ok()?.says("NoNewPrivs:\t1\n")?.says("Seccomp:\t0\n")?;
    docker.run(&[], &["unshare", "-U", "true"])?.exited(1)?.failed_with("Operation not permitted")?;
    docker.run(&["--security-opt", "seccomp=unconfined"], &["unshare", "-U", "true"])?.ok()?;
    let profile = docker.directory("seccomp")?.join("profile.json");
    let json = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":95}]}"#;
    std::fs::write(&profile, json)?;
    let option = format!("seccomp={}", profile.display());
    let output = docker.sh(&["--security-opt", &option], "touch /tmp/fine && mkdir /tmp/refused")?.exited(1)?;
    ensure!(output.errors().to_lowercase().contains("not supported"), "{}", output.report());
    let unmasked =
        docker.sh(&["--security-opt", "systempaths=unconfined"], "grep -c ' /proc/' /proc/self/mountinfo")?;
    ensure!(unmasked.text() == "0\n", "{}", unmasked.report());
    let masked =
        docker.sh(&[], "cat /proc/kcore | wc -c; touch /proc/sys/x; grep -c ' /proc/' /proc/self/mountinfo")?;
    ensure!(masked.text().starts_with("0\n") && !masked.text().ends_with("\n0\n"), "{}", masked.report());
    Ok(())
}

pub fn sysctls_and_ulimits(docker: &Docker) -> Outcome {
    let flags = ["--sysctl", "net.ipv4.ip_unprivileged_port_start=77", "--sysctl", "kernel.shm_rmid_forced=1"];
    docker
        .sh(&flags, "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shm_rmid_forced")?
        .ok()?
        .says("77\n1\n")?;
    docker.run(&["--sysctl", "kernel.no_such=1"], &["true"])?.exited(125)?.failed_with("no_such")?;
    let flags = ["--ulimit", "nofile=99:111", "--ulimit", "core=0"];
    docker.sh(&flags, "ulimit -Sn; ulimit -Hn; ulimit -c")?.ok()?.says("99\n111\n0\n")?;
    Ok(())
}

pub fn read_only_root(docker: &Docker) -> Outcome {
    let script = "echo x > /file; echo y > /etc/passwd; echo z > /dev/shm/z && echo t > /t/t && cat /dev/shm/z /t/t";
    let output = docker.sh(&["--read-only", "--tmpfs", "/t"], script)?.ok()?.says("z\nt\n")?;
    ensure!(output.errors().matches("Read-only file system").count() == 2, "{}", output.report());
    Ok(())
}

pub fn init_reaps(docker: &Docker) -> Outcome {
    docker.sh(&["--init"], "cat /proc/1/comm; exit 21")?.exited(21)?.says("docker-init\n")?;
    let id = docker.detached(&["--init"], &["sh", "-c", "(sleep 0.1 &) ; sleep 1000"])?;
    integration::eventually(integration::containerd::LIMIT, || {
        let output = docker.exec(&[], &id, "ps -o stat,args")?.ok()?;
        let text = output.text();
        ensure!(
            text.contains("sleep 1000") && !text.lines().any(|line| line.ends_with(" sleep 0.1")),
            "{}",
            output.report()
        );
        ensure!(!text.lines().any(|line| line.starts_with('Z')), "{}", output.report());
        Ok(())
    })
}

pub fn user_groups_workdir_and_entrypoint(docker: &Docker) -> Outcome {
    docker
        .run(&["--user", "user"], &["id"])?
        .ok()?
        .says("uid=1000(user) gid=1000(user) groups=1000(user),2000(extra)")?;
    docker.sh(&["--user", "12:34", "--group-add", "56"], "id -u; id -G")?.ok()?.says("12\n34 56\n")?;
    docker.run(&["--workdir", "/new/dir"], &["pwd"])?.ok()?.says("/new/dir\n")?;
    docker.run(&["--entrypoint", "echo"], &["of", "entrypoint"])?.ok()?.says("of entrypoint\n")?;
    let output = docker.run(&["--env", "A=1", "--env", "B=two words"], &["env"])?.ok()?;
    let text = output.text();
    let mut names: Vec<&str> = text.lines().filter_map(|line| line.split_once('=').map(|pair| pair.0)).collect();
    names.sort_unstable();
    ensure!(names == ["A", "B", "HOME", "HOSTNAME", "PATH"], "{}", output.report());
    Ok(())
}
