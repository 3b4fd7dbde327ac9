//! The mounts that containerd's snapshotter hands over with Create, and their undoing.
//!
//! Plain blocking code: an unmount may write back gigabytes, so it runs on a worker thread or in `delete`, never on the
//! event loop. The words are containerd's own (core/mount/mount_linux.go), not those of config.json.

#![forbid(unsafe_code)]

mod fuse;
mod idmap;
mod loopback;
mod overlay;
mod unmount;
mod words;

#[cfg(test)]
mod tests;

use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use containerd_shim_protos::types::mount::Mount;
use runtime::{Error, Kind, Result};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, StatVfsMountFlags};
use rustix::io::Errno;
use rustix::mount::MountFlags;

pub use overlay::unmount_layers;
pub use unmount::unmount;
use words::Words;

/// Makes `mounts` in order on `target` (the bundle's `rootfs`), each at its own `target` below it if it has one.
///
/// On an error what was mounted is undone in reverse. The error's pointer is the number of the mount in the request.
pub fn mount(mounts: &[Mount], target: &Path) -> Result<()> {
    let mut made = Vec::new();
    for (number, mount) in mounts.iter().enumerate() {
        if let Err(error) = one(mount, target, &mut made) {
            for point in made.iter().rev() {
                // The first error is the one to report; what cannot be undone here is retried by Delete and `delete`.
                if let Err(left) = unmount(point) {
                    log::warn!("undo of a failed mount: {left}");
                }
            }
            return Err(error.at(format!("/rootfs/{number}")));
        }
    }
    Ok(())
}

/// One mount. The mount point goes to `made` as soon as there is something to undo.
fn one(mount: &Mount, root: &Path, made: &mut Vec<PathBuf>) -> Result<()> {
    if let Some(word) = mount.options.iter().find(|o| o.starts_with("X-containerd.")) {
        // Must have been consumed by containerd's mount manager; we announce no type that it may leave to us.
        return Err(Error::new(Kind::Unsupported, "mount", word, "is not an option that a shim can carry out"));
    }
    let place = Place::resolve(root, &mount.target)?;
    if let Some((program, kind)) = fuse::helper(&mount.type_) {
        return fuse::mount(program, kind, mount, &place, made);
    }
    let words = Words::parse(&mount.options)?;
    let idmap = words.idmap.as_ref().map(|(uids, gids)| idmap::user_namespace(uids, gids)).transpose()?;
    match (mount.type_.as_str(), &idmap) {
        ("overlay", map) => overlay::mount(mount, &words, map.as_ref(), &place)?,
        _ => plain(mount, &words, &place)?,
    }
    made.push(place.path.clone());
    if words.flags.contains(MountFlags::BIND) {
        restrict(&words, &place)?;
    }
    match idmap {
        Some(map) if mount.type_ != "overlay" => idmap::remap(&map, words.flags.contains(MountFlags::REC), &place),
        _ => Ok(()),
    }
}

/// Any type but overlay and FUSE, whose data the kernel takes as one page.
fn plain(mount: &Mount, words: &Words, place: &Place) -> Result<()> {
    let data = words.data_page()?;
    if !words.looped {
        return place.mount(&mount.source, &mount.type_, words.flags, data.as_ref());
    }
    let read_only = words.flags.contains(MountFlags::RDONLY);
    // Held until the file system is mounted: autoclear frees the device with its last user.
    let device = loopback::attach(&mount.source, read_only, words.direct_io)?;
    place.mount(&device.path, &mount.type_, words.flags, data.as_ref())
}

/// A bind mount takes no flag but `rec` when it is made: a second call sets the others. What the source's mount forbids
/// stays forbidden, also because it may be locked: see "locked flags" in mount_namespaces(7).
fn restrict(words: &Words, place: &Place) -> Result<()> {
    const PER_MOUNT: MountFlags = MountFlags::RDONLY
        .union(MountFlags::NOSUID)
        .union(MountFlags::NODEV)
        .union(MountFlags::NOEXEC)
        .union(MountFlags::NOATIME)
        .union(MountFlags::NODIRATIME)
        .union(MountFlags::RELATIME)
        .union(MountFlags::STRICTATIME);
    let wanted = words.flags & PER_MOUNT;
    if wanted.is_empty() && words.cleared.is_empty() {
        return Ok(());
    }
    let has = rustix::fs::statvfs(place.kernel_path()).map_err(|e| place.failed("statvfs", e))?.f_flag;
    let mut flags = wanted;
    for (is, flag) in [
        (StatVfsMountFlags::RDONLY, MountFlags::RDONLY),
        (StatVfsMountFlags::NOSUID, MountFlags::NOSUID),
        (StatVfsMountFlags::NODEV, MountFlags::NODEV),
        (StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
        (StatVfsMountFlags::NODIRATIME, MountFlags::NODIRATIME),
    ] {
        flags.set(flag, has.contains(is) && !words.cleared.contains(flag) || wanted.contains(flag));
    }
    let atime = MountFlags::NOATIME | MountFlags::RELATIME | MountFlags::STRICTATIME;
    if !wanted.intersects(atime) {
        flags.set(
            MountFlags::NOATIME,
            has.contains(StatVfsMountFlags::NOATIME) && !words.cleared.contains(MountFlags::NOATIME),
        );
        flags.set(
            MountFlags::RELATIME,
            has.contains(StatVfsMountFlags::RELATIME) && !words.cleared.contains(MountFlags::RELATIME),
        );
        flags.set(MountFlags::STRICTATIME, !flags.intersects(atime));
    }
    rustix::mount::mount_remount(place.kernel_path(), MountFlags::BIND | flags, "")
        .map_err(|e| place.failed("mount", e))
}

/// Where a mount goes: looked up once, below the root and without leaving it, and held from then on.
struct Place {
    /// For errors and for undoing.
    path: PathBuf,
    /// Set for a place below the root, which may be an image's directory with links in it.
    held: Option<OwnedFd>,
}

impl Place {
    fn resolve(root: &Path, below: &str) -> Result<Self> {
        let below = below.trim_matches('/');
        if below.is_empty() {
            return Ok(Self { path: root.to_path_buf(), held: None });
        }
        let failed = |op, e| Error::sys(op, format!("{below} in {}", root.display()), e);
        let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::DIRECTORY;
        let dir = rustix::fs::openat2(CWD, root, flags, Mode::empty(), ResolveFlags::empty())
            .map_err(|e| failed("openat2", e))?;
        let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        // EAGAIN: something was renamed meanwhile (openat2(2)); the attacker cannot win more than an error.
        let held = (0..100)
            .map(|_| rustix::fs::openat2(&dir, below, flags, Mode::empty(), inside))
            .find(|r| !matches!(r, Err(Errno::AGAIN)))
            .unwrap_or(Err(Errno::AGAIN))
            .map_err(|e| failed("openat2", e))?;
        let link = rustix::fs::readlink(format!("/proc/self/fd/{}", held.as_raw_fd()), Vec::new())
            .map_err(|e| failed("readlink", e))?;
        Ok(Self { path: PathBuf::from(link.to_string_lossy().into_owned()), held: Some(held) })
    }

    /// What to give to the kernel: the held directory itself and not what its name means by now.
    fn kernel_path(&self) -> PathBuf {
        match &self.held {
            Some(fd) => PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd())),
            None => self.path.clone(),
        }
    }

    fn mount(&self, source: &str, kind: &str, flags: MountFlags, data: Option<&CString>) -> Result<()> {
        rustix::mount::mount(source, self.kernel_path(), kind, flags, data.map(CString::as_c_str))
            .map_err(|e| Error::sys("mount", format!("{kind} {source} at {}", self.path.display()), e))
    }

    fn failed(&self, op: &'static str, errno: Errno) -> Error {
        Error::sys(op, self.path.display().to_string(), errno)
    }
}
