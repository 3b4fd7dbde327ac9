//! The root file system: cloned by the parent, attached, mounted upon and entered by the child.

use std::path::PathBuf;

use rustix::io::Errno;

use super::compile::{Compiler, DEVPTS_SUPER_MAGIC};
use super::options::attr;
use super::{Dir, Edge, Op, Section, Slot};
use crate::error::{Error, Result};
use crate::spec::NamespaceKind;

/// openat2(2) RESOLVE_*.
pub(super) mod resolve {
    pub const NO_XDEV: u64 = 0x01;
    pub const NO_MAGICLINKS: u64 = 0x02;
    pub const NO_SYMLINKS: u64 = 0x04;
    pub const BENEATH: u64 = 0x08;
    pub const IN_ROOT: u64 = 0x10;
}

/// open_tree(2) flags for a detached copy.
pub(super) const CLONE: u32 = 1 | libc::O_CLOEXEC as u32;
pub(super) const RECURSIVE: u32 = libc::AT_RECURSIVE as u32;
/// open_tree(2) AT_SYMLINK_NOFOLLOW
pub(super) const NO_LINK: u32 = libc::AT_SYMLINK_NOFOLLOW as u32;
pub(super) const EMPTY_PATH: u32 = libc::AT_EMPTY_PATH as u32;
/// open(2) flags of a handle that is only a place.
pub(super) const PLACE: u32 = (libc::O_PATH | libc::O_CLOEXEC) as u32;
pub(super) const DIRECTORY: u32 = libc::O_DIRECTORY as u32;
pub(super) const NOFOLLOW: u32 = libc::O_NOFOLLOW as u32;

/// What later stages need to know of the rootfs.
#[derive(Clone, Debug)]
pub(super) struct Root {
    /// The mounted tree.
    pub slot: Slot,
    /// Propagation of `/`, MS_* bits.
    pub propagation: u64,
    /// Absolute path on the host.
    pub path: PathBuf,
}

/// What mount_setattr(2) can change at once, id maps apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Attributes {
    pub set: u64,
    pub clear: u64,
    pub propagation: u64,
}

fn propagation(word: &str) -> u64 {
    match super::options::word(word) {
        Some(super::options::Word::Propagation(bits)) => bits,
        _ => libc::MS_SLAVE | libc::MS_REC,
    }
}

impl Compiler<'_> {
    fn has_mount_namespace(&self) -> bool {
        self.wanted.has(NamespaceKind::Mount)
    }

    /// The parent's part: a detached copy of the rootfs, taken with the host's rights.
    pub(super) fn rootfs_tree(&mut self, no_pivot: bool) -> Result<()> {
        let spec = self.spec;
        let root = spec.root.as_ref().ok_or_else(|| Error::invalid("/root", "is missing"))?;
        let path = self.bundle.join(&root.path);
        let bits = propagation(&spec.linux.rootfs_propagation);
        if no_pivot && !spec.linux.rootfs_propagation.is_empty() && bits & libc::MS_PRIVATE != 0 {
            return Err(Error::invalid("/linux/rootfsPropagation", "private cannot be used without pivot_root"));
        }
        if !self.has_mount_namespace() && !spec.mounts.is_empty() {
            return Err(Error::invalid("/mounts", "needs a mount namespace"));
        }
        self.b.section(Section::Prepare);
        self.b.from("/root/path");
        // Shared means that what the container mounts in its volumes reaches the host, not what it mounts on its root.
        let tree_bits = if bits & libc::MS_SHARED != 0 { libc::MS_PRIVATE } else { bits };
        let text = self.b.str(path.as_os_str().as_encoded_bytes());
        let slot = self.b.slot("root");
        if self.has_mount_namespace() {
            // What is no directory, the child will not attach.
            self.detached(Dir::Cwd, text, CLONE | RECURSIVE | NO_LINK, tree_bits | libc::MS_REC, slot);
        } else {
            let flags = PLACE | DIRECTORY | NOFOLLOW;
            self.b.op(Op::Open { dir: Dir::Cwd, path: text, flags, mode: 0, resolve: 0, into: slot });
        }
        self.root = Some(Root { slot, propagation: bits, path });
        self.b.section(Section::Child);
        Ok(())
    }

    /// A detached copy of a mount. A copy of a shared mount is shared with the host; before it is attached it gets the type
    /// that everything in the new mount namespace gets. Kernels before 5.12 do it after attaching.
    pub(super) fn detached(&mut self, dir: Dir, path: super::Str, flags: u32, bits: u64, into: Slot) {
        let propagation = if bits & libc::MS_SHARED != 0 { 0 } else { bits & !libc::MS_REC };
        self.open_tree(dir, path, flags, Attributes { propagation, ..Attributes::default() }, into);
    }

    /// A detached copy of a mount, or of the whole tree if `flags` say so, with these attributes on all that is copied.
    /// Nothing is changed on kernels before 5.12.
    ///
    /// A container in a user namespace of its own may not undo what the host's mounts are (read-only, nosuid, …) nor take away
    /// what covers others. The kernel sees to that by locks on every mount that is copied into a mount namespace of another user
    /// namespace (mount_namespaces(7), "Restrictions on mount namespaces"), so the copy is made of such a one.
    pub(super) fn open_tree(&mut self, dir: Dir, path: super::Str, flags: u32, wanted: Attributes, into: Slot) {
        let Attributes { set, clear, propagation } = wanted;
        let changes = self.host.mount_setattr && wanted != Attributes::default();
        let host = dir == Dir::Cwd && self.b.is_in(Section::Prepare);
        if host && self.wanted.user() {
            let namespace = self.foreign_mounts();
            self.b.op(Op::OpenTreeOf { namespace, path, flags, into });
        } else if changes && self.host.open_tree_attr {
            return self.b.op(Op::OpenTreeAttr { dir, path, flags, set, clear, propagation, into });
        } else {
            self.b.op(Op::OpenTree { dir, path, flags, into });
        }
        if changes {
            let recursive = flags & RECURSIVE != 0;
            self.b.op(Op::SetAttr { mount: into, set, clear, propagation, idmap: None, recursive });
        }
    }

    pub(super) fn root(&self) -> &Root {
        self.root.as_ref().expect("rootfs_tree comes first")
    }

    /// The child's part before the mounts: nothing we do may reach the host, then the tree goes where hooks look for it.
    pub(super) fn attach_rootfs(&mut self) {
        let Root { slot, propagation, path } = self.root().clone();
        self.b.from("");
        self.b.op(Op::Umask { mask: 0 });
        if !self.has_mount_namespace() {
            return;
        }
        self.b.from("/linux/rootfsPropagation");
        let slash = self.b.str("/");
        self.b.op(Op::Propagation { mount: None, path: slash, flags: propagation | libc::MS_REC });
        if propagation & libc::MS_SHARED != 0 {
            self.private_parent(&path);
        }
        self.b.from("/root/path");
        let dir = self.b.scratch("rootfs");
        let text = self.b.str(path.as_os_str().as_encoded_bytes());
        self.b.op(Op::Open {
            dir: Dir::Cwd,
            path: text,
            flags: PLACE | DIRECTORY | NOFOLLOW,
            mode: 0,
            resolve: 0,
            into: dir,
        });
        self.b.op(Op::MoveMount { from: slot, to: dir });
        if !self.host.mount_setattr {
            let bits = if propagation & libc::MS_SHARED != 0 { libc::MS_PRIVATE } else { propagation };
            self.b.op(Op::Propagation { mount: Some(slot), path: slash, flags: bits | libc::MS_REC });
        }
    }

    /// pivot_root(2) refuses a new root whose parent mount is shared, and attaching to it would show on the host: the mount
    /// that holds the rootfs is the first path from below that can be made private.
    fn private_parent(&mut self, rootfs: &std::path::Path) {
        let done = self.b.label();
        for path in rootfs.ancestors() {
            let path = self.b.str(path.as_os_str().as_encoded_bytes());
            let next = self.b.label();
            let op = Op::Propagation { mount: None, path, flags: libc::MS_PRIVATE };
            self.b.op_on(op, &[(0, done), (libc::EINVAL, next)]);
            self.b.bind(next);
        }
        self.b.bind(done);
    }

    /// A device node of the host as the child's copy of the host's tree has it, checked for what it is.
    pub(super) fn host_file(&mut self, path: &str, dev: u64) -> Slot {
        let slot = self.b.slot(path);
        let path = self.b.str(path);
        self.b.op(Op::Open { dir: Dir::Cwd, path, flags: PLACE, mode: 0, resolve: 0, into: slot });
        self.b.op(Op::CheckNode { slot, mode: libc::S_IFCHR, dev });
        slot
    }

    /// From here on `/` is the container's.
    pub(super) fn enter_rootfs(&mut self, no_pivot: Option<&[PathBuf]>) {
        let Root { slot, propagation, .. } = self.root().clone();
        let dot = self.b.str(".");
        let slash = self.b.str("/");
        self.b.from("/root/path");
        self.b.op(Op::Fchdir { slot });
        match no_pivot {
            _ if !self.has_mount_namespace() => self.b.op(Op::Chroot { path: dot }),
            Some(visible) => self.move_root(slot, visible),
            None => {
                let shared = propagation & libc::MS_SHARED != 0;
                let old = shared.then(|| self.b.scratch("old root"));
                if let Some(into) = old {
                    let flags = PLACE | DIRECTORY;
                    self.b.op(Op::Open { dir: Dir::Cwd, path: slash, flags, mode: 0, resolve: 0, into });
                }
                self.b.op(Op::PivotRoot);
                if let Some(slot) = old {
                    // What leaves it must not leave the host. By its own descriptor: `.` is the new root still, whose
                    // volumes keep the propagation they were given.
                    self.b.op(Op::Fchdir { slot });
                    self.b.op(Op::Propagation { mount: None, path: dot, flags: libc::MS_SLAVE | libc::MS_REC });
                }
                // The old root lies on top of the new one now.
                self.b.op(Op::Umount { path: dot, flags: libc::MNT_DETACH as u32 });
            }
        }
        if no_pivot.is_some() || !self.has_mount_namespace() || propagation & libc::MS_SHARED != 0 {
            // By descriptor: the one chdir of a plan is the payload's, and what it came to is remembered.
            self.b.op(Op::Fchdir { slot });
        }
        if self.has_mount_namespace() && propagation & (libc::MS_SHARED | libc::MS_UNBINDABLE) != 0 {
            self.b.from("/linux/rootfsPropagation");
            self.b.op(Op::Propagation { mount: None, path: slash, flags: propagation });
        }
    }

    /// Without pivot_root the old tree stays below: a full procfs or sysfs in it would allow the container to mount a fresh
    /// one without our masks, so they are taken off, or covered where they are locked (runc's msMoveRoot).
    fn move_root(&mut self, root: Slot, visible: &[PathBuf]) {
        for path in visible {
            let done = self.b.label();
            let cover = self.b.label();
            let path = self.b.str(path.as_os_str().as_encoded_bytes());
            let op = Op::Umount { path, flags: libc::MNT_DETACH as u32 };
            self.b.op_on(op, &[(0, done), (libc::ENOENT, done), (libc::EINVAL, cover), (libc::EPERM, cover)]);
            self.b.bind(cover);
            let (tmpfs, place) = (self.b.scratch("cover"), self.b.scratch("covered"));
            self.fresh("tmpfs", &[], attr::RDONLY, tmpfs);
            self.b.op(Op::Open { dir: Dir::Cwd, path, flags: PLACE, mode: 0, resolve: 0, into: place });
            self.b.op(Op::MoveMount { from: tmpfs, to: place });
            self.b.bind(done);
        }
        let slash = self.b.str("/");
        let dot = self.b.str(".");
        let place = self.b.scratch("/");
        self.b.op(Op::Open { dir: Dir::Cwd, path: slash, flags: PLACE | DIRECTORY, mode: 0, resolve: 0, into: place });
        self.b.op(Op::MoveMount { from: root, to: place });
        self.b.op(Op::Fchdir { slot: root });
        self.b.op(Op::Chroot { path: dot });
    }

    /// A new super block as a detached mount.
    pub(super) fn fresh(&mut self, kind: &str, data: &[(&str, &str)], attr: u64, into: Slot) {
        let fs = self.b.scratch(kind);
        let kind = self.b.str(kind);
        self.b.op(Op::Fsopen { kind, into: fs });
        for (key, value) in data {
            let (key, value) = (self.b.str(key), self.b.str(value));
            self.b.op(Op::FsString { fs, key, value });
        }
        self.b.op(Op::FsCreate { fs });
        self.b.op(Op::Fsmount { fs, attr, into });
    }

    /// The working directory is made when it is missing, as runc does, also where it is to be read-only then.
    pub(super) fn make_cwd(&mut self) {
        let Some(process) = self.process.filter(|p| p.cwd != "/") else { return };
        self.b.from(self.pointer("/cwd"));
        let root = self.root().slot;
        let done = self.b.label();
        let make = self.b.label();
        let into = self.b.scratch("cwd");
        let path = self.b.str(&process.cwd);
        let op = Op::Open {
            dir: Dir::At(root),
            path,
            flags: PLACE | DIRECTORY,
            mode: 0,
            resolve: resolve::IN_ROOT | resolve::NO_MAGICLINKS,
            into,
        };
        self.b.op_on(op, &[(0, done), (libc::ENOENT, make), (Edge::ANY, done)]);
        self.b.bind(make);
        // What cannot be made is found out, and said better, by chdir.
        self.make_dirs(root, &super::mounts::clean(&process.cwd), Some((Edge::ANY, done)));
        self.b.bind(done);
    }

    /// Makes every directory on the way to `path`, each relative to an opened parent. Returns the slot of the last one.
    /// With `give_up`, a failure with that errno leads there.
    pub(super) fn make_dirs(&mut self, root: Slot, path: &str, give_up: Option<(i32, super::Label)>) -> Slot {
        let mut parent = root;
        let mut prefix = String::new();
        let edges: Vec<_> = give_up.into_iter().collect();
        for name in path.split('/').filter(|c| !c.is_empty() && *c != ".") {
            prefix.push('/');
            prefix.push_str(name);
            let next = self.b.label();
            let exists = [(libc::EEXIST, next), (libc::EROFS, next)];
            let op = Op::Mkdir { dir: parent, name: self.b.str(name), mode: 0o755 };
            self.b.op_on(op, &exists.into_iter().chain(edges.iter().copied()).collect::<Vec<_>>());
            self.b.bind(next);
            let into = self.b.scratch(&prefix);
            let path = self.b.str(&prefix);
            let resolve = resolve::IN_ROOT | resolve::NO_MAGICLINKS;
            let op = Op::Open { dir: Dir::At(root), path, flags: PLACE | DIRECTORY, mode: 0, resolve, into };
            self.b.op_on(op, &edges);
            parent = into;
        }
        parent
    }

    /// A pseudo terminal of the container's own devpts; its master goes to the parent, its slave becomes stdio and, for
    /// init, /dev/console (CVE-2025-52565: everything by descriptor, nothing by the name of the slave).
    pub(super) fn terminal(&mut self) {
        let Some(process) = self.process.filter(|p| p.terminal) else { return };
        self.b.from(self.pointer("/terminal"));
        let (master, slave) = (self.b.slot("pty master"), self.b.slot("pty"));
        let dir = self.container_root();
        // Looked at before ptmx in it is opened: in a /dev of the image that name may be any device, and opening some is doing.
        let (devpts, path) = (self.b.scratch("/dev/pts"), self.b.str("dev/pts"));
        let resolve = resolve::IN_ROOT | resolve::NO_MAGICLINKS;
        let flags = PLACE | DIRECTORY;
        self.b.op(Op::Open { dir: Dir::At(dir), path, flags, mode: 0, resolve, into: devpts });
        self.b.op(Op::CheckFs { slot: devpts, magic: DEVPTS_SUPER_MAGIC, is: true });
        let path = self.b.str("ptmx");
        let flags = (libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC) as u32;
        let resolve = resolve::BENEATH | resolve::NO_SYMLINKS | resolve::NO_XDEV;
        self.b.op(Op::Open { dir: Dir::At(devpts), path, flags, mode: 0, resolve, into: master });
        self.b.op(Op::UnlockPty { master });
        self.b.op(Op::PtyPeer { master, into: slave });
        if let Some(size) = process.console_size.filter(|s| s.height != 0 && s.width != 0) {
            self.b.from(self.pointer("/consoleSize"));
            self.b.op(Op::Winsize { master, rows: size.height as u16, columns: size.width as u16 });
            self.b.from(self.pointer("/terminal"));
        }
        if process.user.uid != 0 {
            self.b.op(Op::Fchown { slot: slave, uid: process.user.uid, gid: u32::MAX });
        }
        if !self.exec && self.has_mount_namespace() {
            self.console(dir, slave);
        }
        self.b.op(Op::SendFd { wire: self.given.wire, slot: master });
        self.b.op(Op::ControllingTty { slot: slave });
        self.tty = Some(slave);
    }

    fn console(&mut self, root: Slot, slave: Slot) {
        let beneath = resolve::BENEATH | resolve::NO_SYMLINKS;
        let dev = match self.mounted.get("/dev") {
            Some(slot) => *slot,
            None => {
                let slot = self.b.scratch("/dev");
                let path = self.b.str("dev");
                self.b.op(Op::Open {
                    dir: Dir::At(root),
                    path,
                    flags: PLACE | DIRECTORY,
                    mode: 0,
                    resolve: beneath,
                    into: slot,
                });
                slot
            }
        };
        let place = self.b.scratch("/dev/console");
        let path = self.b.str("console");
        let create = (libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW | libc::O_CLOEXEC) as u32;
        let op = Op::Open { dir: Dir::At(dev), path, flags: create, mode: 0o620, resolve: beneath, into: place };
        self.b.op_skip(op, &[Errno::EXIST, Errno::ROFS]);
        self.b.op(Op::Open {
            dir: Dir::At(dev),
            path,
            flags: PLACE | NOFOLLOW,
            mode: 0,
            resolve: beneath,
            into: place,
        });
        let tree = self.b.scratch("console");
        let empty = self.b.str("");
        self.b.op(Op::OpenTree { dir: Dir::At(slave), path: empty, flags: CLONE | EMPTY_PATH, into: tree });
        self.b.op(Op::MoveMount { from: tree, to: place });
    }

    /// A descriptor of the container's `/`.
    pub(super) fn container_root(&mut self) -> Slot {
        if let Some(root) = &self.root {
            return root.slot;
        }
        let slot = self.b.slot("/");
        let path = self.b.str("/");
        let op = Op::Open { dir: Dir::Cwd, path, flags: PLACE | DIRECTORY, mode: 0, resolve: 0, into: slot };
        self.b.op(op);
        self.root = Some(Root { slot, propagation: 0, path: PathBuf::from("/") });
        slot
    }

    /// Read-only mounts that had to be written to first.
    pub(super) fn late_read_only(&mut self) {
        for (slot, pointer) in std::mem::take(&mut self.late_ro) {
            self.b.from(pointer);
            self.read_only(slot);
        }
        if self.spec.root.as_ref().is_some_and(|r| r.readonly) && self.has_mount_namespace() {
            self.b.from("/root/readonly");
            self.read_only(self.root().slot);
        }
    }

    pub(super) fn read_only(&mut self, mount: Slot) {
        if self.host.mount_setattr {
            self.b.op(Op::SetAttr {
                mount,
                set: attr::RDONLY,
                clear: 0,
                propagation: 0,
                idmap: None,
                recursive: false,
            });
        } else {
            self.b.op(Op::Remount { mount, set: libc::MS_RDONLY, clear: 0 });
        }
    }
}
