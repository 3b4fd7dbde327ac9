//! `/linux/maskedPaths` and `/linux/readonlyPaths`: mounts on top of what the container may not even read, or only read.
//!
//! The sources are never looked up in the rootfs (CVE-2025-31133), so this happens while the host's tree is still there.
//! Whatever is looked up in a mount comes before what may cover that mount, else it would be put where nobody sees it.

use super::compile::{Compiler, Kernel};
use super::mounts::clean;
use super::options::attr;
use super::rootfs::{CLONE, EMPTY_PATH, NO_LINK, PLACE, RECURSIVE, resolve};
use super::{Dir, Label, Op, Slot, Str};

/// Links in the root of a procfs, which lead elsewhere in it: what is meant is where they lead.
const LINKS: [&str; 4] = ["self", "thread-self", "net", "mounts"];

/// How many masks may leave their descriptor open until execve; after that each is closed for the next.
const LEFT_OPEN: usize = 64;

/// A path on which something is put.
enum Target {
    /// One component of a procfs or sysfs that we have made: nobody but the kernel decides what is there.
    Fresh { dir: Slot, name: Str },
    /// Whatever it is: it is opened first.
    Any,
}

/// What masks are made of.
struct Covers {
    /// An empty read-only tmpfs, detached, for directories.
    directory: Slot,
    /// A null device, for files, and the flags of open_tree(2) that copy it.
    file: (Slot, Str, u32),
    /// A detached copy of the null device.
    copy: Slot,
}

impl Compiler<'_> {
    fn target(&mut self, path: &str) -> Target {
        let clean = clean(path);
        let Some((parent, name)) = clean.rsplit_once('/') else { return Target::Any };
        match self.kernel.get(parent) {
            Some(Kernel { slot, fresh: true, .. }) if !LINKS.contains(&name) => {
                Target::Fresh { dir: *slot, name: self.b.str(name) }
            }
            _ => Target::Any,
        }
    }

    /// The innermost procfs or sysfs that a path leads into, its destination's length, and the rest of the path.
    fn in_kernel<'p>(&self, clean: &'p str) -> Option<(usize, Slot, &'p str)> {
        let below = |dest: &str| clean.strip_prefix(dest).and_then(|rest| rest.strip_prefix('/'));
        self.kernel.iter().filter_map(|(dest, mount)| Some((dest.len(), mount.slot, below(dest)?))).max()
    }

    /// The place of a masked or read-only path. Below a procfs or sysfs of ours it is looked up from that mount, because
    /// another container with the same rootfs may rename what it is mounted on (CVE-2019-19921).
    fn place(&mut self, root: Slot, path: &str, into: Slot, missing: Label) {
        let clean = clean(path);
        let (dir, path, resolve) = match self.in_kernel(&clean) {
            Some((_, mount, rest)) => (mount, self.b.str(rest), resolve::BENEATH | resolve::NO_MAGICLINKS),
            None => (root, self.b.str(path), resolve::IN_ROOT | resolve::NO_MAGICLINKS),
        };
        let op = Op::Open { dir: Dir::At(dir), path, flags: PLACE, mode: 0, resolve, into };
        self.b.op_on(op, &[(libc::ENOENT, missing), (libc::ENOTDIR, missing)]);
    }

    /// Hooks have been where the mounts are.
    fn is_hooked(&self) -> bool {
        let hooks = &self.spec.hooks;
        [&hooks.prestart, &hooks.create_runtime, &hooks.create_container].iter().any(|list| !list.is_empty())
    }

    /// A hook may have mounted another procfs over ours: what the container will see is what lies on top now.
    pub(super) fn look_again(&mut self) {
        if !self.is_hooked() {
            return;
        }
        let linux = &self.spec.linux;
        let paths: Vec<String> = linux.masked_paths.iter().chain(&linux.readonly_paths).map(|p| clean(p)).collect();
        let root = self.root().slot;
        for (dest, mount) in self.kernel.clone() {
            if !paths.iter().any(|path| path.strip_prefix(&dest).is_some_and(|rest| rest.starts_with('/'))) {
                continue;
            }
            self.b.from("/hooks");
            let slot = self.b.slot(format!("{dest} after hooks"));
            // What is bound may lie behind a link.
            let links = if mount.fresh { resolve::NO_SYMLINKS } else { resolve::NO_MAGICLINKS };
            let (dir, path, resolve) = (Dir::At(root), self.b.str(&dest), resolve::IN_ROOT | links);
            self.b.op(Op::Open { dir, path, flags: PLACE, mode: 0, resolve, into: slot });
            self.b.op(Op::CheckFs { slot, magic: mount.magic, is: true });
            self.kernel.insert(dest, Kernel { slot, ..mount });
        }
    }

    /// Copies of themselves, made read-only, on top of themselves, and with the masks that are below. What is not there needs
    /// no protection.
    pub(super) fn readonly_paths(&mut self) {
        let spec = self.spec;
        let root = self.root().slot;
        let mut paths: Vec<_> = spec.linux.readonly_paths.iter().enumerate().collect();
        // What is neither may be a link onto any of the others.
        paths.sort_by_key(|(_, path)| std::cmp::Reverse(self.in_kernel(&clean(path)).map(|(length, ..)| length)));
        for (i, path) in paths {
            let pointer = format!("/linux/readonlyPaths/{i}");
            if clean(path) == "/" {
                // On top of the root a copy would be above where the container's `/` is.
                self.late_ro.push((root, pointer));
                continue;
            }
            self.b.from(&pointer);
            if clean(path) == "/dev" && self.mounted.contains_key("/dev") {
                self.readonly_dev(root, path, pointer);
                continue;
            }
            let skip = self.b.label();
            let place = self.b.scratch(path);
            let tree = self.b.scratch(format!("{path} read-only"));
            let target = self.target(path);
            if let Target::Fresh { dir, name } = target {
                self.copy_of_fresh(dir, name, &clean(path), tree, skip);
            } else {
                self.place(root, path, place, skip);
                let (path, flags) = (self.b.str(""), CLONE | RECURSIVE | EMPTY_PATH);
                self.b.op(Op::OpenTree { dir: Dir::At(place), path, flags, into: tree });
                if self.host.mount_setattr {
                    self.read_only(tree);
                }
            }
            match target {
                Target::Fresh { dir, name } => self.b.op(Op::MoveMountTo { from: tree, dir, name }),
                Target::Any => self.b.op(Op::MoveMount { from: tree, to: place }),
            }
            if !self.host.mount_setattr {
                self.read_only(tree);
            }
            self.b.bind(skip);
        }
    }

    /// /dev/console is still to be made, in what the container will see.
    fn readonly_dev(&mut self, root: Slot, path: &str, pointer: String) {
        let (place, tree) = (self.b.scratch(path), self.b.slot(format!("{path} read-only")));
        let (path, empty) = (self.b.str(path), self.b.str(""));
        let resolve = resolve::IN_ROOT | resolve::NO_MAGICLINKS;
        self.b.op(Op::Open { dir: Dir::At(root), path, flags: PLACE, mode: 0, resolve, into: place });
        let flags = CLONE | RECURSIVE | EMPTY_PATH;
        self.b.op(Op::OpenTree { dir: Dir::At(place), path: empty, flags, into: tree });
        self.b.op(Op::MoveMount { from: tree, to: place });
        self.mounted.insert("/dev".into(), tree);
        self.late_ro.push((tree, pointer));
    }

    /// A read-only copy of what is in a fresh file system. What config.json mounts below keeps its own attributes.
    fn copy_of_fresh(&mut self, dir: Slot, name: Str, path: &str, into: Slot, missing: Label) {
        let mounts = &self.spec.mounts;
        let inside =
            |m: &crate::spec::Mount| clean(&m.destination).strip_prefix(path).is_some_and(|p| p.starts_with('/'));
        let nested = mounts.iter().any(inside);
        let flags = CLONE | RECURSIVE | NO_LINK;
        if !nested && self.host.open_tree_attr {
            let (set, clear, propagation) = (attr::RDONLY, 0, 0);
            let op = Op::OpenTreeAttr { dir: Dir::At(dir), path: name, flags, set, clear, propagation, into };
            return self.b.op_on(op, &[(libc::ENOENT, missing)]);
        }
        self.b.op_on(Op::OpenTree { dir: Dir::At(dir), path: name, flags, into }, &[(libc::ENOENT, missing)]);
        if self.host.mount_setattr {
            self.read_only(into);
        }
    }

    /// The node that covers files: the container's where its /dev is of our making, so that nothing of the host's shows in
    /// the container's mount table; else the host's.
    fn null_to_show(&mut self) -> (Slot, Str, u32) {
        const NULL: &str = "/dev/null";
        let (empty, flags) = (self.b.str(""), CLONE | EMPTY_PATH);
        let Some(dev) = self.mounted.get("/dev").copied() else {
            return (self.host_file(NULL, libc::makedev(1, 3)), empty, flags);
        };
        let spec = self.spec;
        let mut named = spec.mounts.iter().map(|m| &m.destination).chain(spec.linux.devices.iter().map(|d| &d.path));
        if !self.is_hooked() && !named.any(|path| clean(path) == NULL) {
            // The default device, which nobody else has had a hand in.
            return (dev, self.b.str("null"), CLONE | NO_LINK);
        }
        // Needed for every mask: no scratch slot, which would come to hold something else after many mounts.
        let slot = self.b.slot("/dev/null");
        let path = self.b.str("null");
        let resolve = resolve::BENEATH | resolve::NO_SYMLINKS;
        self.b.op(Op::Open { dir: Dir::At(dev), path, flags: PLACE, mode: 0, resolve, into: slot });
        self.b.op(Op::CheckNode { slot, mode: libc::S_IFCHR, dev: libc::makedev(1, 3) });
        (slot, empty, flags)
    }

    /// Files are covered by a null device, directories by one empty read-only tmpfs.
    pub(super) fn masked_paths(&mut self) {
        let spec = self.spec;
        let paths = &spec.linux.masked_paths;
        if paths.is_empty() {
            return;
        }
        let root = self.root().slot;
        self.b.from("/linux/maskedPaths");
        let (directory, copy) = (self.b.slot("mask"), self.b.slot("file mask"));
        self.fresh("tmpfs", &[("nr_blocks", "1"), ("nr_inodes", "1")], attr::RDONLY, directory);
        let covers = Covers { directory, file: self.null_to_show(), copy };
        let mut targets: Vec<(usize, Target)> = paths.iter().map(|path| self.target(path)).enumerate().collect();
        // A copy of the null device that was not used is for the next of those that can take it.
        targets.sort_by_key(|(_, target)| matches!(target, Target::Any));
        // Where each mask begins, without and with a copy of the null device at hand.
        let starts: Vec<[Label; 2]> = (0..=paths.len()).map(|_| [self.b.label(), self.b.label()]).collect();
        for (i, (place, target)) in targets.iter().enumerate() {
            self.b.from(format!("/linux/maskedPaths/{place}"));
            let [bare, next] = [starts[i][0], starts[i + 1][0]];
            self.b.bind(bare);
            match *target {
                Target::Fresh { dir, name } => {
                    let direct = matches!(targets.get(i + 1), Some((_, Target::Fresh { .. })));
                    let next = [next, starts[i + 1][usize::from(direct)]];
                    self.mask_fresh(&covers, (dir, name), starts[i][1], next, i < LEFT_OPEN);
                }
                Target::Any => self.mask_any(&covers, root, &paths[*place]),
            }
        }
        self.b.bind(starts[paths.len()][0]);
    }

    /// Tries the null device; where a directory is, the kernel does not take it. A copy that was not used is for the next.
    fn mask_fresh(&mut self, covers: &Covers, place: (Slot, Str), ready: Label, next: [Label; 2], leave: bool) {
        let (dir, name) = place;
        let [bare, with_copy] = next;
        let empty = self.b.str("");
        let flags = CLONE | EMPTY_PATH;
        let (is_dir, first, put, used) = (self.b.label(), self.b.label(), self.b.label(), self.b.label());
        let (null, file, how) = covers.file;
        self.b.op(Op::OpenTree { dir: Dir::At(null), path: file, flags: how, into: covers.copy });
        self.b.bind(ready);
        let file = Op::MoveMountTo { from: covers.copy, dir, name };
        let taken = if leave { used } else { bare };
        self.b.op_on(file, &[(0, taken), (libc::ENOENT, with_copy), (libc::EINVAL, is_dir)]);
        if leave {
            self.b.bind(used);
            self.b.op_on(Op::Leave { slot: covers.copy }, &[(0, bare)]);
        }
        self.b.bind(is_dir);
        // Only since Linux 6.15 can a mount be copied that is not attached: before, the first directory gets the cover
        // itself and the others get copies of it.
        let tree = self.b.scratch("mask");
        let copy = Op::OpenTree { dir: Dir::At(covers.directory), path: empty, flags, into: tree };
        self.b.op_on(copy, &[(0, put), (libc::EINVAL, first)]);
        self.b.bind(first);
        self.b.op_on(Op::MoveMountTo { from: covers.directory, dir, name }, &[(0, with_copy)]);
        self.b.bind(put);
        self.b.op_on(Op::MoveMountTo { from: tree, dir, name }, &[(0, with_copy)]);
    }

    fn mask_any(&mut self, covers: &Covers, root: Slot, path: &str) {
        let (skip, file, put, first) = (self.b.label(), self.b.label(), self.b.label(), self.b.label());
        let (place, tree) = (self.b.scratch(path), self.b.scratch(format!("{path} mask")));
        self.place(root, path, place, skip);
        let (empty, flags) = (self.b.str(""), CLONE | EMPTY_PATH);
        let copy = Op::OpenTree { dir: Dir::At(covers.directory), path: empty, flags, into: tree };
        self.b.op_on(copy, &[(0, put), (libc::EINVAL, first)]);
        // A directory is not put on a file (move_mount(2), EINVAL).
        self.b.bind(first);
        let directory = |from| Op::MoveMount { from, to: place };
        self.b.op_on(directory(covers.directory), &[(0, skip), (libc::EINVAL, file)]);
        self.b.bind(put);
        self.b.op_on(directory(tree), &[(0, skip), (libc::EINVAL, file)]);
        self.b.bind(file);
        let (null, name, how) = covers.file;
        let node = self.b.scratch(format!("{path} mask"));
        self.b.op(Op::OpenTree { dir: Dir::At(null), path: name, flags: how, into: node });
        self.b.op(Op::MoveMount { from: node, to: place });
        self.b.bind(skip);
    }
}
