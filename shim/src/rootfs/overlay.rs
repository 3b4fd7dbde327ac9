//! Overlay mounts: many layers, long paths, mapped owners.

#![forbid(unsafe_code)]

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use containerd_shim_protos::types::mount::Mount;
use runtime::{Error, Kind, Result};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, UnmountFlags};

use super::words::{Words, page};
use super::{Place, idmap};

/// The longest string that fsconfig(2) takes.
const FSCONFIG_STRING: usize = 255;

/// Mounts an overlay, however long its options are.
pub fn mount(mount: &Mount, words: &Words, map: Option<&OwnedFd>, place: &Place) -> Result<()> {
    if words.looped {
        return Err(Error::new(Kind::Invalid, "mount", &mount.source, "an overlay has no loop device"));
    }
    let Some(map) = map else {
        return layered(mount, words.flags, &words.data, place);
    };
    let lower = lower_paths(&words.data)?;
    let (mapped, _temporary) = Mapped::layers(map, &lower, place)?;
    let text = format!("lowerdir={}", mapped.iter().map(|p| escape(p)).collect::<Vec<_>>().join(":"));
    let data: Vec<&str> =
        words.data.iter().map(|w| if w.starts_with("lowerdir=") { text.as_str() } else { w }).collect();
    layered(mount, words.flags, &data, place)
}

fn layered(mount: &Mount, flags: MountFlags, data: &[&str], place: &Place) -> Result<()> {
    let text = data.join(",");
    if text.len() < rustix::param::page_size() {
        return place.mount(&mount.source, &mount.type_, flags, page(&text)?.as_ref());
    }
    let lower = lower_paths(data)?;
    match one_by_one(mount, flags, data, &lower, place) {
        Err(Refused::Unable) => by_descriptor(mount, flags, data, &lower, place),
        Err(Refused::Failed(e)) => Err(e),
        Ok(()) => Ok(()),
    }
}

/// Why layers could not be added one by one.
enum Refused {
    /// Kernel older than 6.5, or a string longer than fsconfig takes: nothing was done.
    Unable,
    /// The real answer.
    Failed(Error),
}

/// `lowerdir+` of Linux 6.5: one fsconfig(2) for each layer, no page to fit in, and mountinfo shows the real paths.
fn one_by_one(
    mount: &Mount,
    flags: MountFlags,
    data: &[&str],
    lower: &[PathBuf],
    place: &Place,
) -> std::result::Result<(), Refused> {
    let words = || data.iter().filter(|w| !w.starts_with("lowerdir="));
    if lower.iter().any(|p| p.as_os_str().len() > FSCONFIG_STRING)
        || words().any(|w| value(w).1.len() > FSCONFIG_STRING)
    {
        return Err(Refused::Unable);
    }
    let failed =
        |op, what: &str, e| Refused::Failed(Error::sys(op, format!("overlay {what} at {}", place.path.display()), e));
    let fs = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(|e| failed("fsopen", "", e))?;
    for (number, path) in lower.iter().enumerate() {
        match rustix::mount::fsconfig_set_string(&fs, "lowerdir+", path) {
            Ok(()) => {}
            Err(Errno::INVAL) if number == 0 => return Err(Refused::Unable),
            Err(e) => return Err(failed("fsconfig lowerdir+", &path.display().to_string(), e)),
        }
    }
    for word in words() {
        let (key, text) = value(word);
        let set = if word.contains('=') {
            rustix::mount::fsconfig_set_string(&fs, key, text)
        } else {
            rustix::mount::fsconfig_set_flag(&fs, key)
        };
        set.map_err(|e| failed("fsconfig", word, e))?;
    }
    for (flag, key) in [(MountFlags::RDONLY, "ro"), (MountFlags::SYNCHRONOUS, "sync"), (MountFlags::DIRSYNC, "dirsync")]
    {
        if flags.contains(flag) {
            rustix::mount::fsconfig_set_flag(&fs, key).map_err(|e| failed("fsconfig", key, e))?;
        }
    }
    rustix::mount::fsconfig_set_string(&fs, "source", &mount.source).map_err(|e| failed("fsconfig", "source", e))?;
    rustix::mount::fsconfig_create(&fs).map_err(|e| failed("fsconfig", "FSCONFIG_CMD_CREATE", e))?;
    let detached = rustix::mount::fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes(flags))
        .map_err(|e| failed("fsmount", "", e))?;
    idmap::attach(&detached, &place.kernel_path()).map_err(Refused::Failed)
}

/// Each layer by the number of an open directory: 17 bytes instead of a path. Nothing to change directory for, so no thread
/// of its own either. Good for some two hundred layers, twice what containerd's snapshotters stack.
fn by_descriptor(mount: &Mount, flags: MountFlags, data: &[&str], lower: &[PathBuf], place: &Place) -> Result<()> {
    let open = |p: &PathBuf| {
        rustix::fs::open(p, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| Error::sys("open", p.display().to_string(), e))
    };
    let held = lower.iter().map(open).collect::<Result<Vec<OwnedFd>>>()?;
    let names: Vec<String> = held.iter().map(|fd| format!("/proc/self/fd/{}", fd.as_raw_fd())).collect();
    let text = format!("lowerdir={}", names.join(":"));
    let data: Vec<&str> = data.iter().map(|w| if w.starts_with("lowerdir=") { text.as_str() } else { w }).collect();
    place.mount(&mount.source, &mount.type_, flags, page(&data.join(","))?.as_ref())
}

fn attributes(flags: MountFlags) -> MountAttrFlags {
    let mut out = MountAttrFlags::empty();
    for (flag, attribute) in [
        (MountFlags::RDONLY, MountAttrFlags::MOUNT_ATTR_RDONLY),
        (MountFlags::NOSUID, MountAttrFlags::MOUNT_ATTR_NOSUID),
        (MountFlags::NODEV, MountAttrFlags::MOUNT_ATTR_NODEV),
        (MountFlags::NOEXEC, MountAttrFlags::MOUNT_ATTR_NOEXEC),
        (MountFlags::NOATIME, MountAttrFlags::MOUNT_ATTR_NOATIME),
        (MountFlags::STRICTATIME, MountAttrFlags::MOUNT_ATTR_STRICTATIME),
        (MountFlags::NODIRATIME, MountAttrFlags::MOUNT_ATTR_NODIRATIME),
    ] {
        out.set(attribute, flags.contains(flag));
    }
    out
}

/// `key=value`; the value of a bare word is empty.
fn value<'a>(word: &&'a str) -> (&'a str, &'a str) {
    word.split_once('=').unwrap_or((word, ""))
}

/// The layers of `lowerdir=`, topmost first. A backslash quotes, see "Multiple lower layers" in the kernel's overlayfs.rst.
fn lower_paths(data: &[&str]) -> Result<Vec<PathBuf>> {
    let Some(list) = data.iter().rev().find_map(|w| w.strip_prefix("lowerdir=")) else {
        return Err(Error::new(Kind::Invalid, "mount", data.join(","), "overlay without lowerdir"));
    };
    let (mut paths, mut path, mut letters) = (Vec::new(), String::new(), list.chars());
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => path.extend(letters.next()),
            ':' => paths.push(PathBuf::from(std::mem::take(&mut path))),
            _ => path.push(letter),
        }
    }
    paths.push(PathBuf::from(path));
    if paths.iter().any(|p| p.as_os_str().is_empty()) {
        return Err(Error::new(Kind::Unsupported, "mount", list, "data-only layers are not supported here"));
    }
    Ok(paths)
}

/// The opposite of the unquoting in [`lower_paths`], and of the kernel's at commas.
fn escape(path: &Path) -> String {
    path.to_string_lossy().replace('\\', "\\\\").replace(':', "\\:").replace(',', "\\,")
}

/// Temporary idmapped mounts of the layers, gone when dropped: the overlay keeps private copies of what it was given.
struct Mapped {
    dirs: Vec<PathBuf>,
}

impl Mapped {
    /// Where the layers are to be found with their owners mapped. One mount of the directory that all have in common if they
    /// lie on one mount, else one for each.
    fn layers(map: &OwnedFd, lower: &[PathBuf], place: &Place) -> Result<(Vec<PathBuf>, Self)> {
        let mut temporary = Self { dirs: Vec::new() };
        let common = common(lower);
        let whole = mount_id(&common)?;
        let mut together = common.parent().is_some();
        for layer in lower {
            together &= mount_id(layer)? == whole;
        }
        if together {
            let at = temporary.bind(map, &common, place)?;
            let below = |l: &PathBuf| l.strip_prefix(&common).map_or_else(|_| at.clone(), |rest| at.join(rest));
            return Ok((lower.iter().map(below).collect(), temporary));
        }
        let each = lower.iter().map(|l| temporary.bind(map, l, place)).collect::<Result<Vec<_>>>()?;
        Ok((each, temporary))
    }

    /// Beside the mount point, which is in the bundle, where only root may look.
    fn bind(&mut self, map: &OwnedFd, from: &Path, place: &Place) -> Result<PathBuf> {
        let dir = beside(&place.path, self.dirs.len());
        std::fs::create_dir(&dir).map_err(|e| Error::io("mkdir", dir.display().to_string(), &e))?;
        self.dirs.push(dir.clone());
        idmap::bind(map, from, &dir)?;
        Ok(dir)
    }
}

/// Where the temporary mounts of an overlay at `target` go, by number from 0.
fn beside(target: &Path, number: usize) -> PathBuf {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    target.with_file_name(format!(".{name}.layers.{number}"))
}

/// Takes away what a shim left that was killed in the middle of a mount: containerd would otherwise try to empty the
/// snapshots that show there.
pub fn unmount_layers(target: &Path) -> Result<()> {
    let dirs = (0..).map(|number| beside(target, number)).take_while(|dir| dir.exists());
    for dir in dirs {
        super::unmount(&dir)?;
        std::fs::remove_dir(&dir).map_err(|e| Error::io("rmdir", dir.display().to_string(), &e))?;
    }
    Ok(())
}

impl Drop for Mapped {
    fn drop(&mut self) {
        for dir in self.dirs.drain(..) {
            // Lazily: overlay itself may still be looking. EINVAL means that it never got mounted.
            match rustix::mount::unmount(&dir, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
                Ok(()) | Err(Errno::INVAL) => {}
                Err(e) => log::warn!("umount2 {dir:?}: {e}"),
            }
            if let Err(e) = std::fs::remove_dir(&dir) {
                log::warn!("rmdir {dir:?}: {e}");
            }
        }
    }
}

fn mount_id(path: &Path) -> Result<u64> {
    rustix::fs::statx(CWD, path, AtFlags::empty(), StatxFlags::MNT_ID)
        .map(|s| s.stx_mnt_id)
        .map_err(|e| Error::sys("statx", path.display().to_string(), e))
}

/// The deepest directory that is above (or is) every one of `paths`.
fn common(paths: &[PathBuf]) -> PathBuf {
    let mut paths = paths.iter();
    let mut shared: Vec<Component> = paths.next().map(|p| p.components().collect()).unwrap_or_default();
    for path in paths {
        let same = shared.iter().zip(path.components()).take_while(|(a, b)| **a == *b).count();
        shared.truncate(same);
    }
    shared.iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_split_unquoted_and_quoted_again() {
        let paths = lower_paths(&["index=off", r"lowerdir=/a\:b/1:/a\:b/2\\:/a\:b/3\,x"]).unwrap();
        assert_eq!(paths, ["/a:b/1", r"/a:b/2\", "/a:b/3,x"].map(PathBuf::from));
        assert_eq!(paths.iter().map(|p| escape(p)).collect::<Vec<_>>().join(":"), r"/a\:b/1:/a\:b/2\\:/a\:b/3\,x");
        assert_eq!(common(&paths), PathBuf::from("/a:b"));
        assert!(lower_paths(&["upperdir=/u"]).is_err());
        assert!(lower_paths(&["lowerdir=/a::/b"]).is_err());
    }

    #[test]
    fn what_layers_have_in_common() {
        let c = |list: &[&str]| common(&list.iter().map(PathBuf::from).collect::<Vec<_>>());
        assert_eq!(c(&["/var/l/1/fs"]), PathBuf::from("/var/l/1/fs"));
        assert_eq!(c(&["/var/l/1/fs", "/var/l/12/fs"]), PathBuf::from("/var/l"));
        assert_eq!(c(&["/a", "/b"]), PathBuf::from("/"));
    }
}
