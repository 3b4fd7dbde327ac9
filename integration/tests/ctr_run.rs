//! `ctr run` and its options, each by something that can be seen inside the container.

use integration::{Bed, Outcome, cases, ensure, suite};

fn output_and_errors_arrive(bed: &Bed) -> Outcome {
    let output = bed.sh(&[], "echo hello; echo trouble >&2")?.ok()?;
    ensure!(output.text() == "hello\n" && output.errors() == "trouble\n", "{}", output.report());
    Ok(())
}

fn exit_codes(bed: &Bed) -> Outcome {
    for code in [0, 1, 7, 126, 127, 255] {
        let output = bed.sh(&[], &format!("exit {code}"))?.exited(code)?;
        ensure!(output.stdout.is_empty() && output.stderr.is_empty(), "{}", output.report());
    }
    Ok(())
}

fn is_pid_1_alone(bed: &Bed) -> Outcome {
    let output = bed.sh(&[], "echo $$; ps -o pid,args")?.ok()?.says("1\n")?;
    let text = output.text();
    let processes = text.lines().skip(2).filter(|line| !line.contains("{ps}") && !line.ends_with("ps -o pid,args"));
    ensure!(processes.count() <= 1, "{}", output.report());
    Ok(())
}

fn hostname_is_the_machines_or_the_flags(bed: &Bed) -> Outcome {
    bed.run(&["--hostname", "box"], &["hostname"])?.ok()?.says("box\n")?;
    Ok(())
}

fn root_of_the_image(bed: &Bed) -> Outcome {
    bed.run(&[], &["cat", "/etc/image-name"])?.ok()?.says("mini-busybox")?;
    bed.run(&[], &["ls", "-a", "/.."])?.ok()?.says("broken\n")?;
    Ok(())
}

fn env_is_that_of_the_spec_only(bed: &Bed) -> Outcome {
    let output = bed.run(&["--env", "A=1", "--env", "B=two words", "--env", "PATH=/bin"], &["env"])?.ok()?;
    let text = output.text();
    let mut names: Vec<&str> = text.lines().filter_map(|line| line.split_once('=').map(|pair| pair.0)).collect();
    names.sort_unstable();
    // busybox env adds nothing; the runtime may add HOME, and nothing of containerd's environment.
    names.retain(|name| *name != "HOME");
    ensure!(names == ["A", "B", "PATH"], "{}", output.report());
    output.says("A=1\n")?.says("B=two words\n")?.says("PATH=/bin\n")?;
    Ok(())
}

fn home_is_that_of_the_user(bed: &Bed) -> Outcome {
    bed.sh(&[], "echo $HOME")?.ok()?.says("/root\n")?;
    Ok(())
}

fn env_file(bed: &Bed) -> Outcome {
    let file = bed.directory("env")?.join("list");
    std::fs::write(&file, "FROM_FILE=yes\n")?;
    bed.run(&["--env-file", file.to_str().ok_or("path")?], &["env"])?.ok()?.says("FROM_FILE=yes\n")?;
    Ok(())
}

fn cwd_there_and_made(bed: &Bed) -> Outcome {
    bed.run(&["--cwd", "/etc"], &["pwd"])?.ok()?.says("/etc\n")?;
    bed.run(&["--cwd", "/new/dir"], &["pwd"])?.ok()?.says("/new/dir\n")?;
    Ok(())
}

fn user_by_number(bed: &Bed) -> Outcome {
    let output = bed.run(&["--user", "1000:1000"], &["id"])?.ok()?;
    output.says("uid=1000(user) gid=1000(user)")?;
    Ok(())
}

fn user_by_name_has_no_capabilities(bed: &Bed) -> Outcome {
    let output = bed.sh(&["--user", "user"], "id -u; id -g; grep CapEff /proc/self/status")?.ok()?;
    output.says("1000\n1000\n")?.says("CapEff:\t0000000000000000\n")?;
    Ok(())
}

fn supplementary_groups_are_not_the_shims(bed: &Bed) -> Outcome {
    let output = bed.sh(&["--user", "12345:12345"], "grep Groups /proc/self/status")?.ok()?;
    let text = output.text();
    let groups: Vec<&str> = text.trim_start_matches("Groups:").split_whitespace().collect();
    ensure!(groups.iter().all(|group| *group == "12345"), "{}", output.report());
    Ok(())
}

fn read_only(bed: &Bed) -> Outcome {
    let output =
        bed.sh(&["--read-only"], "echo x > /file; echo y > /etc/passwd; echo z > /dev/shm/z && cat /dev/shm/z")?;
    let output = output.ok()?.says("z\n")?;
    ensure!(output.errors().matches("Read-only file system").count() == 2, "{}", output.report());
    Ok(())
}

fn mount_bind(bed: &Bed) -> Outcome {
    let directory = bed.directory("bind")?;
    std::fs::write(directory.join("there"), "from outside\n")?;
    let mount = format!("type=bind,src={},dst=/mnt/sub,options=rbind:rw", directory.display());
    bed.sh(&["--mount", &mount], "cat /mnt/sub/there; echo inside > /mnt/sub/back")?.ok()?.says("from outside\n")?;
    ensure!(std::fs::read_to_string(directory.join("back"))? == "inside\n", "nothing was written through the bind");
    Ok(())
}

fn mount_bind_of_a_file(bed: &Bed) -> Outcome {
    let file = bed.directory("file")?.join("there");
    std::fs::write(&file, "one file\n")?;
    let mount = format!("type=bind,src={},dst=/etc/new/file,options=bind:ro", file.display());
    bed.run(&["--mount", &mount], &["cat", "/etc/new/file"])?.ok()?.says("one file\n")?;
    Ok(())
}

fn mount_bind_read_only(bed: &Bed) -> Outcome {
    let directory = bed.directory("ro")?;
    let mount = format!("type=bind,src={},dst=/mnt,options=rbind:ro:nosuid:nodev:noexec", directory.display());
    let output = bed.sh(&["--mount", &mount], "touch /mnt/x; grep ' /mnt ' /proc/self/mountinfo")?.ok()?;
    ensure!(output.errors().contains("Read-only file system"), "{}", output.report());
    output.says("ro,nosuid,nodev,noexec")?;
    ensure!(!directory.join("x").exists(), "written through a read-only bind");
    Ok(())
}

fn mount_tmpfs(bed: &Bed) -> Outcome {
    let mount = "type=tmpfs,src=tmpfs,dst=/mnt/t,options=size=1m:mode=1770:noexec";
    let output = bed.sh(&["--mount", mount], "stat -c %a /mnt/t; grep ' /mnt/t ' /proc/self/mountinfo")?.ok()?;
    output.says("1770\n")?.says("noexec")?.says("size=1024k")?;
    Ok(())
}

/// The effective set inside, as a mask.
fn capabilities(bed: &Bed, flags: &[&str]) -> Outcome<u64> {
    let output = bed.run(flags, &["grep", "CapEff", "/proc/self/status"])?.ok()?;
    Ok(u64::from_str_radix(output.text().trim_start_matches("CapEff:").trim(), 16)?)
}

const CHOWN: u64 = 1;
const NET_ADMIN: u64 = 1 << 12;
const SYS_ADMIN: u64 = 1 << 21;

fn capabilities_by_default(bed: &Bed) -> Outcome {
    let mask = capabilities(bed, &[])?;
    ensure!(mask == 0xa804_25fb, "the default set is {mask:x}");
    Ok(())
}

fn cap_add_and_drop(bed: &Bed) -> Outcome {
    let mask = capabilities(bed, &["--cap-add", "CAP_NET_ADMIN", "--cap-drop", "CAP_CHOWN"])?;
    ensure!(mask == (0xa804_25fb | NET_ADMIN) & !CHOWN, "the set is {mask:x}");
    let output = bed.run(&["--cap-drop", "CAP_CHOWN"], &["chown", "1", "/etc/passwd"])?;
    ensure!(output.code == 1 && output.errors().contains("Operation not permitted"), "{}", output.report());
    Ok(())
}

fn privileged(bed: &Bed) -> Outcome {
    let mask = capabilities(bed, &["--privileged"])?;
    ensure!(mask & (SYS_ADMIN | NET_ADMIN) == SYS_ADMIN | NET_ADMIN, "the set is {mask:x}");
    let script = "mount -t tmpfs none /mnt && ls /dev/kmsg && grep Seccomp: /proc/self/status";
    bed.sh(&["--privileged"], script)?.ok()?.says("/dev/kmsg\n")?.says("Seccomp:\t0")?;
    Ok(())
}

fn no_new_privileges_unless_allowed(bed: &Bed) -> Outcome {
    bed.run(&[], &["grep", "NoNewPrivs", "/proc/self/status"])?.ok()?.says("NoNewPrivs:\t1")?;
    bed.run(&["--allow-new-privs"], &["grep", "NoNewPrivs", "/proc/self/status"])?.ok()?.says("NoNewPrivs:\t0")?;
    Ok(())
}

fn seccomp_default_profile(bed: &Bed) -> Outcome {
    // Without CAP_SYS_ADMIN the profile forbids unshare, which the kernel alone would allow for a user namespace.
    let script = "grep Seccomp: /proc/self/status; unshare -U true";
    let output = bed.sh(&["--seccomp"], script)?.says("Seccomp:\t2")?;
    ensure!(output.code != 0 && output.errors().contains("Operation not permitted"), "{}", output.report());
    bed.run(&[], &["unshare", "-U", "true"])?.ok()?;
    Ok(())
}

fn seccomp_own_profile(bed: &Bed) -> Outcome {
    let profile = bed.directory("seccomp")?.join("profile.json");
    let json = r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_AARCH64"],
        "syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":95}]}"#;
    std::fs::write(&profile, json)?;
    let flags = ["--seccomp", "--seccomp-profile", profile.to_str().ok_or("path")?];
    let output = bed.sh(&flags, "touch /tmp/fine && mkdir /tmp/refused")?.exited(1)?;
    ensure!(output.errors().to_lowercase().contains("not supported"), "{}", output.report());
    Ok(())
}

fn rootfs_propagation(bed: &Bed) -> Outcome {
    let root = "grep ' / / ' /proc/self/mountinfo";
    let shared = bed.sh(&["--rootfs-propagation", "shared"], root)?.ok()?;
    ensure!(shared.text().contains("shared:"), "{}", shared.report());
    let private = bed.sh(&["--rootfs-propagation", "private"], root)?.ok()?;
    ensure!(!private.text().contains("shared:") && !private.text().contains("master:"), "{}", private.report());
    Ok(())
}

fn mounts_of_a_container_stay_inside(bed: &Bed) -> Outcome {
    let id = bed.detached(&["--privileged", "--null-io"], &["sh", "-c", "mount -t tmpfs inside /mnt; sleep 10000"])?;
    let pid = bed.pid(&id)?;
    let of = |pid: u32| std::fs::read_to_string(bed.containerd.host.path(format!("/proc/{pid}/mountinfo")));
    integration::eventually(integration::containerd::LIMIT, || {
        ensure!(of(pid)?.contains(" inside "), "the mount is not there");
        Ok(())
    })?;
    ensure!(!of(1)?.contains(" inside "), "a mount of the container is seen by its host");
    Ok(())
}

fn net_host(bed: &Bed) -> Outcome {
    let host = bed.containerd.host.path("/proc/1/ns/net").read_link()?.display().to_string();
    bed.run(&["--net-host"], &["readlink", "/proc/self/ns/net"])?.ok()?.says(&host)?;
    let own = bed.sh(&[], "readlink /proc/self/ns/net; ip -o link")?.ok()?;
    ensure!(!own.text().contains(&host) && own.text().lines().count() == 2, "{}", own.report());
    Ok(())
}

fn namespaces_are_its_own(bed: &Bed) -> Outcome {
    let output = bed.sh(&[], "for n in cgroup ipc mnt net pid uts user; do readlink /proc/self/ns/$n; done")?.ok()?;
    let text = output.text();
    for line in text.lines() {
        let kind = line.split(':').next().unwrap_or_default();
        let host = bed.containerd.host.path(format!("/proc/1/ns/{kind}")).read_link()?.display().to_string();
        // No cgroup namespace on v1 in ctr's spec, and the user namespace is only made on demand.
        if !matches!(kind, "cgroup" | "user") {
            ensure!(line != host, "the {kind} namespace is the host's\n{}", output.report());
        }
    }
    ensure!(text.lines().count() == 7, "{}", output.report());
    Ok(())
}

fn with_ns_joins(bed: &Bed) -> Outcome {
    let first = bed.sleeper()?;
    let pid = bed.pid(&first)?;
    let namespace = |kind: &str| format!("{kind}:/proc/{pid}/ns/{}", if kind == "network" { "net" } else { kind });
    let (network, ipc, uts) = (namespace("network"), namespace("ipc"), namespace("uts"));
    let script = "for n in net ipc uts; do readlink /proc/self/ns/$n; done";
    let output = bed.sh(&["--with-ns", &network, "--with-ns", &ipc, "--with-ns", &uts], script)?.ok()?;
    for kind in ["net", "ipc", "uts"] {
        let joined = bed.containerd.host.path(format!("/proc/{pid}/ns/{kind}")).read_link()?.display().to_string();
        ensure!(output.text().contains(&joined), "{kind} is not {joined}\n{}", output.report());
    }
    Ok(())
}

fn with_ns_of_the_pid_kind(bed: &Bed) -> Outcome {
    let first = bed.sleeper()?;
    let namespace = format!("pid:/proc/{}/ns/pid", bed.pid(&first)?);
    let output = bed.sh(&["--with-ns", &namespace], "echo $$; ps -o pid,args")?.ok()?;
    ensure!(!output.text().starts_with("1\n") && output.text().contains("sleep 100000"), "{}", output.report());
    Ok(())
}

/// The first of the group's files that exists, in whichever hierarchy: v1 and v2 name the same limit differently.
fn limit(bed: &Bed, id: &str, files: &[&str]) -> Outcome<String> {
    for hierarchy in integration::residue::hierarchies() {
        let group = hierarchy.join(&bed.containerd.namespace).join(id);
        for file in files {
            if let Ok(value) = std::fs::read_to_string(group.join(file)) {
                return Ok(value.trim().to_owned());
            }
        }
    }
    Err(format!("no group of {id} has {files:?}").into())
}

fn memory_limit(bed: &Bed) -> Outcome {
    let id = bed.detached(&["--null-io", "--memory-limit", "67108864"], &["sleep", "1000"])?;
    let value = limit(bed, &id, &["memory.limit_in_bytes", "memory.max"])?;
    ensure!(value == "67108864", "the limit is {value}");
    Ok(())
}

fn cpus(bed: &Bed) -> Outcome {
    let id = bed.detached(&["--null-io", "--cpus", "0.5"], &["sleep", "1000"])?;
    let value = limit(bed, &id, &["cpu.cfs_quota_us", "cpu.max"])?;
    ensure!(value.split(' ').next() == Some("50000"), "the quota is {value}");
    Ok(())
}

fn cpu_quota_and_shares(bed: &Bed) -> Outcome {
    let flags = ["--null-io", "--cpu-quota", "20000", "--cpu-period", "50000", "--cpu-shares", "512"];
    let id = bed.detached(&flags, &["sleep", "1000"])?;
    let quota = limit(bed, &id, &["cpu.cfs_quota_us", "cpu.max"])?;
    ensure!(quota == "20000" || quota == "20000 50000", "the quota is {quota}");
    let shares = limit(bed, &id, &["cpu.shares", "cpu.weight"])?;
    ensure!(["512", "20", "59"].contains(&shares.as_str()), "512 shares have become {shares}");
    Ok(())
}

fn cpuset(bed: &Bed) -> Outcome {
    let id = bed.detached(&["--null-io", "--cpuset-cpus", "0", "--cpuset-mems", "0"], &["sleep", "1000"])?;
    let value = limit(bed, &id, &["cpuset.cpus"])?;
    ensure!(value == "0", "the cpus are {value}");
    Ok(())
}

fn own_cgroup_path(bed: &Bed) -> Outcome {
    let path = format!("/{}/deep/er", bed.containerd.namespace);
    let output = bed.run(&["--cgroup", &path], &["cat", "/proc/self/cgroup"])?.ok()?;
    ensure!(output.text().contains(&path), "{}", output.report());
    // `deep` was made for it, and is not the container's to remove: with any runtime it stays.
    for hierarchy in integration::residue::hierarchies() {
        let parent = hierarchy.join(&path[1..]).parent().ok_or("no parent")?.to_path_buf();
        if parent.exists() {
            std::fs::remove_dir(parent)?;
        }
    }
    Ok(())
}

fn device(bed: &Bed) -> Outcome {
    let script = "stat -c '%F %t:%T' /dev/fuse; true < /dev/fuse && echo opened";
    bed.sh(&["--device", "/dev/fuse"], script)?.ok()?.says("character special file a:e5\nopened\n")?;
    Ok(())
}

fn devices_are_denied_by_default(bed: &Bed) -> Outcome {
    let script = "mknod /tmp/fuse c 10 229 && true < /tmp/fuse";
    let output = bed.sh(&[], script)?;
    ensure!(output.code != 0 && output.errors().contains("Operation not permitted"), "{}", output.report());
    Ok(())
}

fn default_devices(bed: &Bed) -> Outcome {
    let script = "for d in null zero full tty random urandom; do stat -c '%n %F %t:%T %a' /dev/$d; done
        for l in fd stdin stdout stderr ptmx; do readlink /dev/$l; done; echo x > /dev/null; head -c 4 /dev/zero | wc -c";
    let output = bed.sh(&[], script)?.ok()?;
    for (name, number) in [("null", "1:3"), ("zero", "1:5"), ("full", "1:7"), ("tty", "5:0"), ("random", "1:8")] {
        let line = format!("/dev/{name} character special file {number} 666\n");
        ensure!(output.text().contains(&line), "no {line:?}\n{}", output.report());
    }
    let links = "/proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n/proc/self/fd/2\npts/ptmx\n4\n";
    output.says(links)?;
    Ok(())
}

fn masked_and_read_only_paths(bed: &Bed) -> Outcome {
    let script = "cat /proc/timer_list /proc/keys | wc -c; ls /sys/firmware | wc -l
        echo 1 > /proc/sys/kernel/printk; echo x > /sys/kernel/uevent_helper; true";
    let output = bed.sh(&[], script)?.ok()?;
    ensure!(output.text() == "0\n0\n", "{}", output.report());
    ensure!(output.errors().matches("Read-only file system").count() == 2, "{}", output.report());
    Ok(())
}

fn uid_and_gid_maps(bed: &Bed) -> Outcome {
    let flags = ["--uidmap", "0:100000:65536", "--gidmap", "0:200000:65536"];
    let script = "id -u; cat /proc/self/uid_map /proc/self/gid_map; touch /tmp/x && stat -c %u:%g /tmp/x /etc/passwd
        readlink /proc/self/ns/user";
    let output = bed.sh(&flags, script)?.ok()?;
    let words: Vec<String> = output.text().split_whitespace().map(str::to_owned).collect();
    let expected = ["0", "0", "100000", "65536", "0", "200000", "65536", "0:0", "0:0"];
    ensure!(words.len() == 10 && words[..9] == expected, "{}", output.report());
    let host = bed.containerd.host.path("/proc/1/ns/user").read_link()?.display().to_string();
    ensure!(words[9] != host, "the user namespace is the host's");
    Ok(())
}

fn rlimit_nofile(bed: &Bed) -> Outcome {
    bed.sh(&["--rlimit-nofile", "321:654"], "ulimit -Sn; ulimit -Hn")?.ok()?.says("321\n654\n")?;
    Ok(())
}

fn rlimit_by_default(bed: &Bed) -> Outcome {
    bed.sh(&[], "ulimit -Sn; ulimit -Hn")?.ok()?.says("1024\n1024\n")?;
    Ok(())
}

fn no_descriptor_leaks_in(bed: &Bed) -> Outcome {
    let output = bed.sh(&[], "ls /proc/self/fd | tr '\\n' ' '")?.ok()?;
    // 3 is ls reading the directory itself.
    ensure!(output.text() == "0 1 2 3 ", "{}", output.report());
    Ok(())
}

fn signals_are_at_their_defaults(bed: &Bed) -> Outcome {
    let output = bed.run(&[], &["grep", "-E", "SigBlk|SigIgn", "/proc/self/status"])?.ok()?;
    let text = output.text();
    for line in text.lines() {
        let mask = u64::from_str_radix(line.split_whitespace().nth(1).unwrap_or_default(), 16)?;
        // 32 and 33 are the C library's own: whoever started the tests may have left them ignored.
        ensure!(mask & 0x7fff_ffff == 0, "{}", output.report());
    }
    ensure!(text.lines().count() == 2, "{}", output.report());
    Ok(())
}

fn pid_file(bed: &Bed) -> Outcome {
    let file = bed.directory("pid")?.join("pid");
    let id = bed.detached(&["--null-io", "--pid-file", file.to_str().ok_or("path")?], &["sleep", "1000"])?;
    let (written, listed) = (std::fs::read_to_string(&file)?, bed.pid(&id)?);
    ensure!(written.trim() == listed.to_string(), "the file says {written}, the list {listed}");
    Ok(())
}

fn null_io(bed: &Bed) -> Outcome {
    let output = bed.sh(&["--null-io"], "echo unseen; readlink /proc/self/fd/1; exit 5")?.exited(5)?;
    ensure!(output.stdout.is_empty(), "{}", output.report());
    Ok(())
}

/// An unpacked copy of the image's root, for what `--rootfs` and hostile roots need.
fn unpacked(bed: &Bed) -> Outcome<std::path::PathBuf> {
    let root = bed.directory("root")?;
    for directory in ["bin", "proc", "sys", "dev", "tmp", "etc", "run"] {
        std::fs::create_dir_all(root.join(directory))?;
    }
    std::fs::copy(integration::containerd::testbed().join("tools/bin/busybox"), root.join("bin/busybox"))?;
    std::fs::hard_link(root.join("bin/busybox"), root.join("bin/sh"))?;
    std::fs::hard_link(root.join("bin/busybox"), root.join("bin/cat"))?;
    std::fs::write(root.join("etc/image-name"), "own root\n")?;
    Ok(root)
}

fn rootfs_of_ones_own(bed: &Bed) -> Outcome {
    let root = unpacked(bed)?;
    let id = bed.id();
    let words = ["run", "--rm", "--runtime", bed.runtime().name(), "--rootfs", root.to_str().ok_or("path")?, &id];
    bed.ctr(&[&words[..], &["/bin/cat", "/etc/image-name"]].concat())?.ok()?.says("own root\n")?;
    Ok(())
}

fn no_pivot(bed: &Bed) -> Outcome {
    bed.run(&["--no-pivot"], &["cat", "/etc/image-name"])?.ok()?.says("mini-busybox")?;
    Ok(())
}

fn runtime_by_absolute_path(bed: &Bed) -> Outcome {
    let shim = integration::containerd::bin_dir()?.join("containerd-shim-mini-v2");
    let id = bed.id();
    let words = ["run", "--rm", "--runtime", shim.to_str().ok_or("path")?, integration::containerd::IMAGE, &id];
    bed.ctr(&[&words[..], &["echo", "by path"]].concat())?.ok()?.says("by path\n")?;
    Ok(())
}

fn cgroup_is_ones_own_in_every_hierarchy(bed: &Bed) -> Outcome {
    let id = bed.sleeper()?;
    let groups = std::fs::read_to_string(bed.containerd.host.path(format!("/proc/{}/cgroup", bed.pid(&id)?)))?;
    let own = format!("/{}/{id}", bed.containerd.namespace);
    for line in groups.lines() {
        ensure!(line.ends_with(&own), "{line} is not in {own}");
    }
    Ok(())
}

fn inspect_runtime(bed: &Bed) -> Outcome {
    let name = format!("--runtime={}", bed.runtime().name());
    let output = bed.ctr(&["plugins", "inspect-runtime", &name])?.ok()?;
    let info: serde_json::Value = serde_json::from_str(&output.text())?;
    ensure!(info["Name"].as_str().is_some_and(|name| !name.is_empty()), "{}", output.report());
    let options = info["Features"]["mountOptions"].as_array().cloned().unwrap_or_default();
    ensure!(options.iter().any(|option| option == "rro"), "{}", output.report());
    ensure!(info["Features"]["linux"]["mountExtensions"]["idmap"]["enabled"] == true, "{}", output.report());
    Ok(())
}

fn main() {
    suite::run(
        "ctr_run",
        cases![
            output_and_errors_arrive,
            exit_codes,
            is_pid_1_alone,
            hostname_is_the_machines_or_the_flags,
            root_of_the_image,
            env_is_that_of_the_spec_only,
            home_is_that_of_the_user,
            env_file,
            cwd_there_and_made,
            user_by_number,
            user_by_name_has_no_capabilities,
            supplementary_groups_are_not_the_shims,
            read_only,
            mount_bind,
            mount_bind_of_a_file,
            mount_bind_read_only,
            mount_tmpfs,
            capabilities_by_default,
            cap_add_and_drop,
            privileged,
            no_new_privileges_unless_allowed,
            seccomp_default_profile,
            seccomp_own_profile,
            rootfs_propagation,
            mounts_of_a_container_stay_inside,
            net_host,
            namespaces_are_its_own,
            with_ns_joins,
            with_ns_of_the_pid_kind,
            memory_limit,
            cpus,
            cpu_quota_and_shares,
            cpuset,
            own_cgroup_path,
            device,
            devices_are_denied_by_default,
            default_devices,
            masked_and_read_only_paths,
            uid_and_gid_maps,
            rlimit_nofile,
            rlimit_by_default,
            no_descriptor_leaks_in,
            signals_are_at_their_defaults,
            pid_file,
            null_io,
            rootfs_of_ones_own,
            no_pivot,
            runtime_by_absolute_path,
            cgroup_is_ones_own_in_every_hierarchy,
            inspect_runtime,
        ],
    );
}
