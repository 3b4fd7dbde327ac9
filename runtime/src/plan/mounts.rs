//! `/mounts`, in the order given: the place is opened inside the root, the mount is made detached, then moved there.
//!
//! Nothing is ever mounted by a path string below the rootfs (CVE-2021-30465, CVE-2019-18837, CVE-2024-45310).

use rustix::io::Errno;

use super::compile::{Compiler, Kernel, PROC_SUPER_MAGIC};
use super::options::{Change, Options, attr};
use super::rootfs::{Attributes, CLONE, DIRECTORY, NOFOLLOW, PLACE, RECURSIVE, resolve};
use super::{Dir, Edge, Label, Op, Section, Slot};
use crate::error::{Error, Result};
use crate::spec::Mount;

/// Files below /proc that lxcfs and the like may cover; everything else there would deceive us or the container
/// (runc's checkProcMount).
const BELOW_PROC: &[&str] = &[
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/slabinfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/sys/crypto/fips_enabled",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/uptime",
];

/// What kind of place a mount needs.
#[derive(Clone, Copy)]
pub(super) enum Place {
    /// A directory.
    Directory,
    /// A directory whose mode is taken over by what is mounted there: one that is missing is made for everybody, with the mode
    /// that a tmpfs has where nobody says another.
    Shared,
    /// A directory reached without any symbolic link.
    Ordinary,
    /// Whatever the source is: a directory or a file.
    Like(Slot),
}

/// Where a mount goes.
#[derive(Clone, Copy)]
pub(super) enum Spot {
    /// Onto what is open.
    At(Slot),
    /// Onto one component of a file system that we have just made.
    In { dir: Slot, name: super::Str },
    /// Onto a directory in the root directory itself, which may be missing or a link.
    Top(Place),
}

/// `/a/b` for `a//./b/`: the specification allows relative destinations. `..` is resolved by name, as runc does.
pub fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            name => parts.push(name),
        }
    }
    format!("/{}", parts.join("/"))
}

impl Place {
    /// Of the directory, when it is missing.
    fn mode(self) -> u32 {
        if matches!(self, Self::Shared) { 0o1777 } else { 0o755 }
    }
}

impl Compiler<'_> {
    pub(super) fn mounts(&mut self) -> Result<()> {
        let spec = self.spec;
        for (i, mount) in spec.mounts.iter().enumerate() {
            let pointer = format!("/mounts/{i}");
            self.b.from(&pointer);
            self.mount(mount, &pointer)?;
        }
        Ok(())
    }

    fn mount(&mut self, mount: &Mount, pointer: &str) -> Result<()> {
        let options = Options::of(mount);
        let dest = clean(&mount.destination);
        self.check(mount, &options, &dest, pointer)?;
        if options.remount {
            return self.remount(&options, &dest, pointer);
        }
        // What this mount covers is no place for later ones any more.
        let covers =
            |other: &str| other.strip_prefix(&dest).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        self.mounted.retain(|other, _| !covers(other));
        self.kernel.retain(|other, _| !covers(other));
        self.contexts.retain(|other, _| !covers(other));
        if options.bind.is_some() {
            return self.bind(mount, &options, &dest, pointer);
        }
        match mount.kind.as_str() {
            "cgroup" => return self.cgroup(&options, &dest, pointer, false),
            "cgroup2" => return self.cgroup(&options, &dest, pointer, true),
            "proc" | "sysfs" => self.new_filesystem(mount, &options, &dest, Place::Ordinary, pointer),
            "tmpfs" if !options.gives("mode") => {
                self.new_filesystem(mount, &options, &dest, Place::Shared, pointer);
            }
            _ => self.new_filesystem(mount, &options, &dest, Place::Directory, pointer),
        }
        Ok(())
    }

    fn check(&self, mount: &Mount, options: &Options, dest: &str, pointer: &str) -> Result<()> {
        let at = |field: &str| format!("{pointer}/{field}");
        if dest == "/" && !options.remount {
            return Err(Error::invalid(at("destination"), "mounts on top of the root file system are not allowed"));
        }
        if dest.starts_with("/proc/") && !BELOW_PROC.contains(&dest) {
            return Err(Error::invalid(
                at("destination"),
                format!("{dest:?} cannot be mounted because it is inside /proc"),
            ));
        }
        if dest == "/proc" && options.bind.is_none() && mount.kind != "proc" {
            return Err(Error::invalid(at("type"), "only proc can be mounted on /proc"));
        }
        if !self.host.mount_setattr && (!options.deep.is_empty() || options.idmap.is_some()) {
            return Err(self.refuse(at("options"), "recursive attributes and idmapped mounts need Linux 5.12"));
        }
        if options.idmap.is_some() && options.bind.is_none() {
            return Err(Error::invalid(at("options"), "idmapped mounts are only supported for bind mounts"));
        }
        if options.idmap.is_some() && mount.uid_mappings.is_empty() && self.spec.linux.uid_mappings.is_empty() {
            return Err(Error::invalid(
                at("options"),
                "idmap needs mappings of its own or a user namespace with mappings",
            ));
        }
        Ok(())
    }

    /// The mount point inside the root, made when it is missing.
    pub(super) fn spot(&mut self, dest: &str, kind: Place) -> Spot {
        let (parent, name) = dest.rsplit_once('/').unwrap_or(("", dest));
        if let Some(dir) = self.mounted.get(parent).copied() {
            // Nothing can be there but what we put there.
            let name = self.b.str(name);
            self.create_last(dir, name, kind);
            return Spot::In { dir, name };
        }
        if !matches!(kind, Place::Ordinary) && !self.kernel.keys().any(|top| dest.starts_with(&format!("{top}/"))) {
            // A link of the image's may lead onto what we have mounted: it is the way to it that counts then. One that leads to
            // /dev is not reckoned with: its devices would have to be made the long way.
            self.mounted.retain(|other, _| other == "/dev");
        }
        // What is bound may be a file, and a file can be mounted on a link.
        let directory = !matches!(kind, Place::Like(_));
        if parent.is_empty() && directory { Spot::Top(kind) } else { Spot::At(self.open_place(dest, kind)) }
    }

    /// move_mount(2) of a name follows no link, does not put a directory on one, and one component has no others on its way:
    /// what is usual in the root directory needs not be opened first. Whatever else is there, or is not, goes the long way.
    pub(super) fn attach(&mut self, from: Slot, spot: Spot, dest: &str) {
        match spot {
            Spot::At(to) => self.move_to(from, to),
            Spot::In { dir, name } => self.b.op(Op::MoveMountTo { from, dir, name }),
            Spot::Top(kind) => {
                let (long, done) = (self.b.label(), self.b.label());
                let (dir, name) = (self.root().slot, self.b.str(dest.trim_start_matches('/')));
                self.b.op_on(Op::MoveMountTo { from, dir, name }, &[(0, done), (Edge::ANY, long)]);
                self.b.bind(long);
                let to = self.open_place(dest, kind);
                self.move_to(from, to);
                self.b.bind(done);
            }
        }
    }

    /// Opens the mount point inside the root, making it when it is missing.
    pub(super) fn open_place(&mut self, dest: &str, kind: Place) -> Slot {
        let root = self.root().slot;
        let into = self.b.scratch(dest);
        let path = self.b.str(dest);
        let (follow, create, check, done) = (self.b.label(), self.b.label(), self.b.label(), self.b.label());
        let through = self.b.label();
        let (literal, inside) = (resolve::IN_ROOT | resolve::NO_SYMLINKS, resolve::IN_ROOT | resolve::NO_MAGICLINKS);
        let open = |resolve| Op::Open { dir: Dir::At(root), path, flags: PLACE, mode: 0, resolve, into };
        if matches!(kind, Place::Ordinary) {
            self.b.op_on(open(literal), &[(0, done), (libc::ENOENT, create)]);
            self.b.bind(create);
            self.create_place(root, dest, kind, None);
            // Meanwhile somebody may have put a link there (CVE-2019-19921).
            self.b.op(open(literal));
        } else {
            self.b.op_on(open(literal), &[(0, done), (libc::ELOOP, follow), (libc::ENOENT, create)]);
            self.b.bind(follow);
            self.b.op_on(open(inside), &[(0, check), (libc::ENOENT, create)]);
            self.b.bind(create);
            self.create_place(root, dest, kind, Some((libc::ENOENT, through)));
            self.b.op_on(open(inside), &[(0, check), (libc::ENOENT, through)]);
            // A link in the image leads to what is not there, such as a time zone that is not installed.
            self.b.bind(through);
            let like = if let Place::Like(source) = kind { Some(source) } else { None };
            let path = self.b.bytes(dest.as_bytes());
            self.b.op(Op::OpenMade { root, path, like, mode: kind.mode(), into });
        }
        self.b.bind(check);
        // A link in the image may have led below /proc, where only ordinary paths have been checked.
        self.b.op(Op::CheckFs { slot: into, magic: PROC_SUPER_MAGIC, is: false });
        self.b.bind(done);
        into
    }

    fn create_place(&mut self, root: Slot, dest: &str, kind: Place, give_up: Option<(i32, Label)>) {
        let (parent, name) = dest.rsplit_once('/').unwrap_or(("", dest));
        let dir = self.make_dirs(root, parent, give_up);
        let name = self.b.str(name);
        self.create_last(dir, name, kind);
    }

    fn create_last(&mut self, dir: Slot, name: super::Str, kind: Place) {
        let made = self.b.label();
        if let Place::Like(source) = kind {
            let file = self.b.label();
            let dot = self.b.str(".");
            let probe = self.b.scratch("directory");
            let op = Op::Open {
                dir: Dir::At(source),
                path: dot,
                flags: PLACE | DIRECTORY,
                mode: 0,
                resolve: 0,
                into: probe,
            };
            self.b.op_on(op, &[(libc::ENOTDIR, file)]);
            self.b.op_on(Op::Mkdir { dir, name, mode: 0o755 }, &[(0, made), (libc::EEXIST, made)]);
            self.b.bind(file);
            let create = (libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW | libc::O_CLOEXEC) as u32;
            let resolve = resolve::BENEATH | resolve::NO_SYMLINKS;
            let op = Op::Open { dir: Dir::At(dir), path: name, flags: create, mode: 0o755, resolve, into: probe };
            self.b.op_skip(op, &[Errno::EXIST]);
        } else {
            self.b.op_skip(Op::Mkdir { dir, name, mode: kind.mode() }, &[Errno::EXIST]);
        }
        self.b.bind(made);
    }

    /// A bind mount: the parent copies the source with the host's rights, the child puts it in place.
    fn bind(&mut self, mount: &Mount, options: &Options, dest: &str, pointer: &str) -> Result<()> {
        let recursive = options.bind == Some(true);
        let tree = self.b.slot(format!("{dest} source"));
        let source = self.bundle.join(&mount.source);
        self.b.section(Section::Prepare);
        self.b.from(format!("{pointer}/source"));
        let path = self.b.str(source.as_os_str().as_encoded_bytes());
        let flags = CLONE | if recursive { RECURSIVE } else { 0 };
        // Attached to what is shared it would be shared again; else it can be private from the beginning.
        let shared = |bits: u64| bits & libc::MS_SHARED != 0;
        let private = [libc::MS_PRIVATE, libc::MS_PRIVATE | libc::MS_REC];
        let early = self.host.mount_setattr
            && options.propagation.len() == 1
            && private.contains(&options.propagation[0])
            && recursive == (options.propagation[0] & libc::MS_REC != 0)
            && !shared(self.root().propagation)
            && !self.any_shared();
        let bits = if early { libc::MS_PRIVATE } else { self.root().propagation };
        self.detached(Dir::Cwd, path, flags, bits, tree);
        self.idmap(mount, options, tree, pointer);
        self.b.section(Section::Child);
        self.b.from(pointer);
        if dest == "/proc" {
            self.b.op(Op::CheckFs { slot: tree, magic: PROC_SUPER_MAGIC, is: true });
        }
        let spot = self.spot(dest, Place::Like(tree));
        let late = dest == "/dev" && options.own.set & attr::RDONLY != 0;
        let own = if late { without_ro(options.own) } else { options.own };
        if self.host.mount_setattr {
            self.change(tree, own, false);
            self.change(tree, options.deep, true);
        }
        self.attach(tree, spot, dest);
        if !self.host.mount_setattr {
            self.propagation_of(tree, &[self.root().propagation | libc::MS_REC]);
            if !own.is_empty() {
                self.b.op(Op::Remount { mount: tree, set: mount_flags(own.set), clear: mount_flags(own.clear) });
            }
        }
        if !early {
            self.propagation_of(tree, &options.propagation);
        }
        if late {
            self.late_ro.push((tree, pointer.to_owned()));
        }
        if dest == "/proc" {
            self.kernel.insert(dest.to_owned(), Kernel { slot: tree, fresh: false, magic: PROC_SUPER_MAGIC });
        }
        Ok(())
    }

    /// Whether something in the container is to share what is mounted on it.
    fn any_shared(&self) -> bool {
        let shared = |m: &Mount| Options::of(m).propagation.iter().any(|bits| bits & libc::MS_SHARED != 0);
        self.spec.mounts.iter().any(shared)
    }

    pub(super) fn change(&mut self, mount: Slot, change: Change, recursive: bool) {
        if !change.is_empty() {
            let Change { set, clear } = change;
            self.b.op(Op::SetAttr { mount, set, clear, propagation: 0, idmap: None, recursive });
        }
    }

    pub(super) fn propagation_of(&mut self, mount: Slot, kinds: &[u64]) {
        for bits in kinds {
            if self.host.mount_setattr {
                let (propagation, recursive) = (bits & !libc::MS_REC, bits & libc::MS_REC != 0);
                self.b.op(Op::SetAttr { mount, set: 0, clear: 0, propagation, idmap: None, recursive });
            } else {
                let path = self.b.str("");
                self.b.op(Op::Propagation { mount: Some(mount), path, flags: *bits });
            }
        }
    }

    /// Maps ids with a namespace of the mount's own maps, or with the container's once that has its maps.
    fn idmap(&mut self, mount: &Mount, options: &Options, tree: Slot, pointer: &str) {
        let Some(recursive) = options.idmap else { return };
        let spec = self.spec;
        let namespace = self.b.slot(format!("{pointer} user namespace"));
        let own = !mount.uid_mappings.is_empty();
        let maps = if own {
            (&mount.uid_mappings, &mount.gid_mappings)
        } else {
            (&spec.linux.uid_mappings, &spec.linux.gid_mappings)
        };
        let uids = self.b.bytes(super::namespaces::map_text(maps.0).as_bytes());
        let gids = self.b.bytes(super::namespaces::map_text(maps.1).as_bytes());
        self.b.op(Op::MapNamespace { uids, gids, into: namespace });
        let idmap = Some(namespace);
        self.b.op(Op::SetAttr { mount: tree, set: attr::IDMAP, clear: 0, propagation: 0, idmap, recursive });
    }

    /// Attributes are the mount's. Data and flags are the file system's, which may show elsewhere on the host: only one that we
    /// have made is changed, through what it was made with, so that no path of the image leads to another.
    fn remount(&mut self, options: &Options, dest: &str, pointer: &str) -> Result<()> {
        if options.reconfigures() {
            let Some(fs) = self.contexts.get(dest).copied() else {
                let reason = "change a file system that no entry before has made";
                return Err(self.refuse(format!("{pointer}/options"), reason));
            };
            self.data(fs, options);
            self.b.op(Op::FsReconfigure { fs });
        }
        let root = self.root().slot;
        let into = self.b.scratch(dest);
        let path = self.b.str(dest);
        let resolve = resolve::IN_ROOT | resolve::NO_MAGICLINKS;
        self.b.op(Op::Open { dir: Dir::At(root), path, flags: PLACE | NOFOLLOW, mode: 0, resolve, into });
        if self.host.mount_setattr {
            self.change(into, options.own, false);
            self.change(into, options.deep, true);
        } else {
            let Change { set, clear } = options.own;
            self.b.op(Op::Remount { mount: into, set: mount_flags(set), clear: mount_flags(clear) });
        }
        self.propagation_of(into, &options.propagation);
        Ok(())
    }

    /// The container's view of the control groups: a fresh mount in its cgroup namespace, or a copy of its own group. Of a
    /// hybrid host's it is version 1, unless the other is asked for by name.
    fn cgroup(&mut self, options: &Options, dest: &str, pointer: &str, named: bool) -> Result<()> {
        let spot = self.spot(dest, Place::Directory);
        let namespace = self.wanted.has(crate::spec::NamespaceKind::Cgroup);
        if let Some(group) = self.groups.iter().find(|g| g.unified && (named || g.name.is_empty())).cloned() {
            return self.cgroup2(options, spot, dest, &group, namespace);
        }
        let tmpfs = self.b.slot(format!("{dest} mount"));
        let read_only = options.own.set & attr::RDONLY != 0;
        self.fresh("tmpfs", &[("source", "tmpfs"), ("mode", "755")], without_ro(options.own).set, tmpfs);
        self.attach(tmpfs, spot, dest);
        for group in self.groups.to_vec().iter().filter(|g| !g.unified) {
            let tree = self.b.scratch(&group.name);
            if namespace {
                self.hierarchy(&group.data, tree);
                self.change(tree, options.own, false);
            } else {
                let path = self.b.str(group.path.as_os_str().as_encoded_bytes());
                let Change { set, clear } = options.own;
                self.open_tree(Dir::Cwd, path, CLONE, Attributes { set, clear, propagation: 0 }, tree);
            }
            let name = self.b.str(&group.name);
            self.create_last(tmpfs, name, Place::Directory);
            self.attach(tree, Spot::In { dir: tmpfs, name }, dest);
            if group.name.contains(',') {
                for alias in group.name.split(',') {
                    let (target, name) = (self.b.str(&group.name), self.b.str(alias));
                    self.b.op_skip(Op::Symlink { target, dir: tmpfs, name }, &[Errno::EXIST]);
                }
            }
        }
        self.propagation_of(tmpfs, &options.propagation);
        if read_only {
            self.late_ro.push((tmpfs, pointer.to_owned()));
        }
        Ok(())
    }

    /// A mount of one v1 hierarchy; in a cgroup namespace its root is the container's group. See cgroups(7).
    fn hierarchy(&mut self, data: &str, tree: Slot) {
        let fs = self.b.scratch("cgroup fs");
        let kind = self.b.str("cgroup");
        self.b.op(Op::Fsopen { kind, into: fs });
        for item in data.split(',') {
            let op = match item.split_once('=') {
                Some((key, value)) => Op::FsString { fs, key: self.b.str(key), value: self.b.str(value) },
                None => Op::FsFlag { fs, key: self.b.str(item) },
            };
            self.b.op(op);
        }
        self.b.op(Op::FsCreate { fs });
        self.b.op(Op::Fsmount { fs, attr: 0, into: tree });
    }

    fn cgroup2(
        &mut self,
        options: &Options,
        spot: Spot,
        dest: &str,
        group: &super::compile::Group,
        namespace: bool,
    ) -> Result<()> {
        let tree = self.b.slot("cgroup2");
        let path = if namespace { &group.path } else { &group.mount };
        let path = self.b.str(path.as_os_str().as_encoded_bytes());
        let copy = Op::OpenTree { dir: Dir::Cwd, path, flags: CLONE, into: tree };
        if namespace {
            let (fs, kind) = (self.b.scratch("cgroup2 fs"), self.b.str("cgroup2"));
            let (fresh, refused, made) = (self.b.label(), self.b.label(), self.b.label());
            self.b.op(Op::Fsopen { kind, into: fs });
            let busy = [(0, fresh), (libc::EPERM, refused), (libc::EBUSY, refused)];
            self.b.op_on(Op::FsCreate { fs }, &busy);
            self.b.bind(refused);
            self.b.op_on(copy, &[(0, made)]);
            self.b.bind(fresh);
            self.b.op(Op::Fsmount { fs, attr: 0, into: tree });
            self.b.bind(made);
        } else {
            // In the host's namespace a new mount takes the options of all others away, which are one file system: nsdelegate,
            // memory_recursiveprot (runc issue 5258).
            self.b.op(copy);
        }
        let spot = match spot {
            // A copy may be a file's, for all that a plan says, and that could be put on a link.
            Spot::Top(kind) if !namespace => Spot::At(self.open_place(dest, kind)),
            spot => spot,
        };
        self.change(tree, options.own, false);
        self.attach(tree, spot, dest);
        self.propagation_of(tree, &options.propagation);
        Ok(())
    }
}

pub(super) fn without_ro(change: Change) -> Change {
    Change { set: change.set & !attr::RDONLY, clear: change.clear }
}

/// Attribute bits as MS_* flags, for kernels before 5.12.
pub(super) fn mount_flags(set: u64) -> u64 {
    [
        (attr::RDONLY, libc::MS_RDONLY),
        (attr::NOSUID, libc::MS_NOSUID),
        (attr::NODEV, libc::MS_NODEV),
        (attr::NOEXEC, libc::MS_NOEXEC),
        (attr::NOATIME, libc::MS_NOATIME),
        (attr::STRICTATIME, libc::MS_STRICTATIME),
        (attr::NODIRATIME, libc::MS_NODIRATIME),
    ]
    .iter()
    .filter(|(bit, _)| set & bit != 0)
    .fold(0, |flags, (_, flag)| flags | flag)
}

#[cfg(test)]
mod tests {
    use super::clean;

    #[test]
    fn destinations_are_cleaned_by_name() {
        assert_eq!(clean("a//./b/"), "/a/b");
        assert_eq!(clean("/../x/../y"), "/y");
        assert_eq!(clean("."), "/");
    }
}
