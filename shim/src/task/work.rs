//! What takes long, as plain blocking code on worker threads.
#![forbid(unsafe_code)]

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use runtime::cgroup::Oom;
use runtime::lifecycle::EXEC_WHILE_PAUSED;
use runtime::spec::{Process, Spec};
use runtime::{Child, Container, Record, StartBy, reap};
use rustix::event::{PollFd, PollFlags, poll};

use super::{Create, Shim};
use crate::options::Options;
use crate::stdio::{self, Names, Owner, Paths, Wiring};
use crate::{pod, rootfs};

/// A container with its first process parked, and our ends of its streams.
pub(super) struct Made {
    pub(super) container: Container,
    pub(super) child: Child,
    pub(super) wiring: Wiring,
    /// Absent where no memory controller is.
    pub(super) oom: Option<Oom>,
}

fn create_failed(error: &runtime::Error) -> String {
    format!("OCI runtime create failed: {error}")
}

/// As containerd's own shim says it, for an exec too. No words of the runtime's: clients look in those for what is missing in the image.
fn no_streams(why: String) -> String {
    format!("failed to create init process I/O: {why}")
}

/// Mounts, opens, creates, writes down. On an error nothing of it is left.
pub(super) fn create(shim: &Shim, create: &Create) -> Result<Made, String> {
    let mut spec = Spec::load(&create.bundle).map_err(|e| create_failed(&e))?;
    if let Some(process) = &mut spec.process {
        process.terminal = create.paths.terminal;
    }
    let target = create.bundle.join("rootfs");
    if !create.rootfs.is_empty() {
        // Others may pass through it (a userns root does), nobody may list it.
        let made = fs::DirBuilder::new().recursive(true).mode(0o711).create(&target);
        made.map_err(|e| runtime::Error::io("mkdir", target.display().to_string(), &e).to_string())?;
        rootfs::mount(&create.rootfs, &target).map_err(|e| format!("failed to mount rootfs component: {e}"))?;
    }
    let made = create_mounted(shim, create, &spec);
    if made.is_err() && !create.rootfs.is_empty() {
        // The first error is the one that matters; what stays mounted is undone by `delete`.
        let _ = rootfs::unmount(&target);
    }
    made
}

fn create_mounted(shim: &Shim, create: &Create, spec: &Spec) -> Result<Made, String> {
    let names = Names { id: create.id.clone(), namespace: shim.namespace.clone() };
    let mut opened = stdio::open(&create.paths, pipe_owner(&create.options, spec), &names).map_err(no_streams)?;
    opened.wiring.memory = memory_limit(spec);
    let request = runtime::Create {
        id: &create.id,
        bundle: &create.bundle,
        spec,
        stdio: opened.child,
        no_pivot: create.options.no_pivot_root,
        no_new_keyring: create.options.no_new_keyring,
        preserve_fds: 0,
        systemd_cgroup: create.options.systemd(&spec.linux.cgroups_path),
        start_by: StartBy::Us,
        cancel: Some(&create.cancel),
        fault: None,
    };
    let (mut oom, mut begun) = (None, false);
    let made = Container::create_beside(&shim.host, request, &mut |record, cgroup| {
        begun = true;
        record.save(&create.bundle)?;
        pod::note(&create.bundle, record)?;
        oom = cgroup.oom().ok();
        Ok(())
    });
    let (container, mut child) = made.map_err(|e| {
        // What was there before is another's.
        if begun {
            forget(create);
        }
        create_failed(&e)
    })?;
    if let Err(error) = write_pid(&create.bundle, child.pid) {
        // The first error is the one that matters.
        let _deleted = container.delete();
        forget(create);
        bury(&child);
        return Err(error);
    }
    opened.wiring.take_terminal(child.console.take());
    Ok(Made { container, child, wiring: opened.wiring, oom })
}

fn memory_limit(spec: &Spec) -> Option<i64> {
    let resources = &spec.linux.resources;
    let unified = resources.unified.get("memory.max").and_then(|limit| limit.parse().ok());
    resources.memory.as_ref().and_then(|memory| memory.limit).or(unified)
}

/// The owner that the client asked for, or else the container's root: only that one may open `/dev/stdout` again.
fn pipe_owner(options: &Options, spec: &Spec) -> Owner {
    Owner {
        uid: options.io_uid.or_else(|| spec.linux.uid_mappings.first().map(|m| m.host_id)),
        gid: options.io_gid.or_else(|| spec.linux.gid_mappings.first().map(|m| m.host_id)),
    }
}

/// `delete` and tools outside look for it here.
fn write_pid(bundle: &Path, pid: u32) -> Result<(), String> {
    let path = bundle.join("init.pid");
    fs::write(&path, pid.to_string())
        .map_err(|e| runtime::Error::io("write", path.display().to_string(), &e).to_string())
}

/// Kills and reaps a child that nobody will hear of.
pub(super) fn bury(child: &Child) {
    // An error means that it has ended already.
    let _ = reap::signal(&child.pidfd, 9);
    let _ = poll(&mut [PollFd::new(&child.pidfd, PollFlags::IN)], None);
    let _ = reap::exit_status(&child.pidfd);
}

/// Lets init execute its program.
///
/// # Errors
/// Those of [`Container::start`]; and what starts is refused in a group that somebody has frozen, where it would hang.
pub(super) fn start(container: &Container) -> runtime::Result<()> {
    if container.cgroup().holds_still() {
        let reason = "cannot start a container in the paused state";
        return Err(runtime::Error::new(runtime::Kind::State, "", "", reason));
    }
    container.start()
}

/// Thaws what is to be killed. Where the group has gone nobody is left to be killed.
pub(super) fn thaw(container: &Container) -> runtime::Result<()> {
    match container.cgroup().thaw() {
        Err(gone) if gone.kind == runtime::Kind::NotFound => Ok(()),
        done => done,
    }
}

/// A process that joins the container, up to and including its execve.
pub(super) fn exec(
    shim: &Shim,
    container: &Container,
    create: &Create,
    id: &str,
    process: &Process,
    paths: &Paths,
) -> Result<(Child, Wiring), String> {
    let failed = |text: &str| format!("OCI runtime exec failed: exec failed: {text}");
    if container.cgroup().holds_still() {
        return Err(failed(EXEC_WHILE_PAUSED));
    }
    let names = Names { id: id.to_owned(), namespace: shim.namespace.clone() };
    let owner = pipe_owner(&create.options, container.spec());
    // What the payload does not name may not exceed what the container has.
    let mut process = process.clone();
    if let Some(init) = &container.spec().process {
        process.inherit(init);
    }
    let mut opened = stdio::open(paths, owner, &names).map_err(no_streams)?;
    opened.wiring.memory = memory_limit(container.spec());
    let request = runtime::Exec {
        process: &process,
        stdio: opened.child,
        no_new_keyring: create.options.no_new_keyring,
        preserve_fds: 0,
        cgroup: &[],
        fault: None,
    };
    let mut child = container.exec(&shim.host, request).map_err(|e| failed(&e.to_string()))?;
    opened.wiring.take_terminal(child.console.take());
    Ok((child, opened.wiring))
}

/// Takes away what was written down: without it `delete`, which follows every ordinary removal, has nothing to undo. init.pid
/// stays for it.
fn forget(create: &Create) {
    // A record that stays is of a container without processes and groups, for which `delete` has nothing to do.
    let _removed = fs::remove_file(create.bundle.join(Record::FILE));
    pod::forget(&create.bundle, &create.id);
}

/// Removes what is left of a container. `done` remembers across retries that the container itself has gone, because its
/// poststop hooks run once.
pub(super) fn delete(container: &Container, create: &Create, done: &AtomicBool) -> Result<(), String> {
    if !done.load(Ordering::Relaxed) {
        container.delete().map_err(|e| e.to_string())?;
        done.store(true, Ordering::Relaxed);
    }
    rootfs::unmount(&create.bundle.join("rootfs")).map_err(|e| e.to_string())?;
    forget(create);
    Ok(())
}
