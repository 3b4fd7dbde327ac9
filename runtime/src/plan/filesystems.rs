//! New file systems: what `/mounts` makes and does not bind.

use rustix::io::Errno;

use super::compile::{Compiler, Kernel, PROC_SUPER_MAGIC, SYSFS_MAGIC};
use super::mounts::{Place, Spot, clean, mount_flags, without_ro};
use super::options::{Options, attr, super_flag};
use super::rootfs::{CLONE, PLACE, RECURSIVE, resolve};
use super::{Dir, Edge, Label, Op, Section, Slot};
use crate::spec::Mount;

impl Compiler<'_> {
    pub(super) fn new_filesystem(&mut self, mount: &Mount, options: &Options, dest: &str, place: Place, pointer: &str) {
        let spot = self.spot(dest, place);
        if let Some(at_once) = self.at_once(mount, options, dest) {
            let done = self.b.label();
            let spot = self.mount_at_once(mount, spot, dest, at_once, done);
            // It says no more than EINVAL of whatever it does not like: the long way tells which word it was.
            self.long_way(mount, options, dest, spot, pointer);
            // Of the two ways only one has it open.
            self.mounted.remove(dest);
            return self.b.bind(done);
        }
        self.long_way(mount, options, dest, spot, pointer);
    }

    /// Flags and data for mount(2), which makes and attaches a file system in one call, where that does the same as the seven
    /// calls of the long way: nobody has to know the mount afterwards, and nothing is asked for that it cannot say.
    fn at_once(&self, mount: &Mount, options: &Options, dest: &str) -> Option<(u64, String)> {
        /// The page that mount(2) copies, and some for the terminating NUL.
        const MOST: usize = 4000;
        /// What fsconfig(2) takes as one value, its NUL included.
        const VALUE: usize = 256;
        // `lowerdir` of an overlay, say.
        let long = options.data.iter().any(|d| d.split_once('=').is_some_and(|(_, value)| value.len() >= VALUE));
        // Both are no words of fsconfig(2).
        let escaped = options.data.iter().any(|d| d.contains("\\,"));
        let whole = long || escaped || options.supers.contains(&"iversion");
        // Masks are looked up in the mount itself.
        let kernel = matches!(mount.kind.as_str(), "proc" | "sysfs");
        let known = whole || matches!(mount.kind.as_str(), "tmpfs" | "devpts" | "mqueue");
        let mode = mount.kind != "tmpfs" || options.gives("mode");
        let plain = !kernel
            && options.deep.is_empty()
            && options.propagation.is_empty()
            && !options.copy_up
            && options.own.set & (attr::NOSYMFOLLOW | attr::IDMAP) == 0
            && (whole && mount.kind != "tmpfs" || options.own.set & attr::RDONLY == 0);
        let inside = |path: &str| clean(path).strip_prefix(dest).is_some_and(|rest| rest.starts_with('/'));
        let others =
            self.spec.mounts.iter().map(|m| &m.destination).chain(self.spec.linux.devices.iter().map(|d| &d.path));
        let leaf = dest != "/dev" && !self.is_reconfigured(dest) && !others.map(String::as_str).any(inside);
        let data = options.data.join(",");
        let text = data.len() < MOST && mount.source.len() < MOST;
        let flags = options.supers.iter().fold(mount_flags(options.own.set), |flags, name| flags | super_flag(name));
        (known && mode && plain && leaf && text).then_some((flags, data))
    }

    /// Leads to `done` when that has worked. Gives the spot for the long way, which is open then.
    fn mount_at_once(&mut self, mount: &Mount, spot: Spot, dest: &str, how: (u64, String), done: Label) -> Spot {
        let long = self.b.label();
        let enter = |c: &mut Self, slot| {
            // For whom the directory is closed to, it can still be mounted on.
            c.b.op_on(Op::Fchdir { slot }, &[(Edge::ANY, long)]);
            c.cwd = None;
            c.b.str(".")
        };
        let (path, spot) = match spot {
            Spot::In { dir, name } => {
                // A file system of our own; and its slot is never another's, as that of an opened place may come to be.
                if self.cwd != Some(dir) {
                    self.b.op(Op::Fchdir { slot: dir });
                    self.cwd = Some(dir);
                }
                (name, spot)
            }
            Spot::At(place) => (enter(self, place), spot),
            Spot::Top(kind) => {
                let place = self.open_place(dest, kind);
                (enter(self, place), Spot::At(place))
            }
        };
        let (flags, data) = (how.0, self.b.str(how.1));
        let source = self.b.str(if mount.source.is_empty() { "none" } else { &mount.source });
        let kind = self.b.str(&mount.kind);
        self.b.op_on(Op::Mount { source, path, kind, flags, data }, &[(0, done), (Edge::ANY, long)]);
        self.b.bind(long);
        spot
    }

    fn long_way(&mut self, mount: &Mount, options: &Options, dest: &str, mut spot: Spot, pointer: &str) {
        let changed = self.is_reconfigured(dest);
        let name = format!("{dest} fs");
        let fs = if changed { self.b.slot(name) } else { self.b.scratch(name) };
        let tree = self.b.slot(format!("{dest} mount"));
        let kind = self.b.str(&mount.kind);
        let copy_up = mount.kind == "tmpfs" && options.copy_up;
        if copy_up {
            // The parent makes and fills it, and hands it over detached.
            self.b.section(Section::Prepare);
        }
        let (copy, attach) = (self.b.label(), self.b.label());
        let or_copy = mount.kind == "sysfs" && self.wanted.user();
        let refused = [(libc::EPERM, copy)];
        let edges: &[_] = if or_copy { &refused } else { &[] };
        self.b.op_on(Op::Fsopen { kind, into: fs }, edges);
        if !mount.source.is_empty() {
            let (key, value) = (self.b.str("source"), self.b.str(&mount.source));
            self.b.op(Op::FsString { fs, key, value });
        }
        let tmpfs = mount.kind == "tmpfs";
        if tmpfs && !copy_up && !options.gives("mode") {
            let of;
            (of, spot) = self.opened(spot, dest);
            self.b.op(Op::FsModeOf { fs, of });
        }
        self.data(fs, options);
        // Ours alone: the flag of the mount is enough. A file system on a device has to know it itself.
        let ours = matches!(mount.kind.as_str(), "tmpfs" | "proc" | "sysfs" | "devpts" | "mqueue" | "ramfs");
        if options.own.set & attr::RDONLY != 0 && !ours {
            let key = self.b.str("ro");
            self.b.op(Op::FsFlag { fs, key });
        }
        self.b.op_on(Op::FsCreate { fs }, edges);
        let late = options.own.set & attr::RDONLY != 0 && (tmpfs || dest == "/dev");
        let own = if late { without_ro(options.own) } else { options.own };
        let fsmount = Op::Fsmount { fs, attr: own.set, into: tree };
        if or_copy {
            self.b.op_on(fsmount, &[(0, attach), (libc::EPERM, copy)]);
            self.b.bind(copy);
            // A user namespace that does not own its network namespace may not mount a new sysfs, nor one that sees only a part
            // of the host's (user_namespaces(7)), but may show the host's.
            let path = self.b.str("/sys");
            self.b.op(Op::OpenTree { dir: Dir::Cwd, path, flags: CLONE | RECURSIVE, into: tree });
            self.change(tree, own, true);
        } else {
            self.b.bind(copy);
            self.b.op(fsmount);
        }
        self.b.bind(attach);
        self.change(tree, options.deep, true);
        if copy_up {
            let (root, from) = (self.root().slot, self.b.str(dest));
            let (mode, owner) = (!options.gives("mode"), !options.gives("uid") && !options.gives("gid"));
            self.b.op(Op::CopyUp { root, from, into: tree, mode, owner });
            self.b.section(Section::Child);
        }
        self.attach(tree, spot, dest);
        self.propagation_of(tree, &options.propagation);
        if late {
            self.late_ro.push((tree, pointer.to_owned()));
        }
        let magic = match mount.kind.as_str() {
            "proc" => Some(PROC_SUPER_MAGIC),
            "sysfs" => Some(SYSFS_MAGIC),
            _ => None,
        };
        if let Some(magic) = magic {
            self.kernel.insert(dest.to_owned(), Kernel { slot: tree, fresh: !or_copy, magic });
        }
        if tmpfs && !copy_up {
            self.mounted.insert(dest.to_owned(), tree);
        }
        // A copy of the host's has no context of ours.
        if changed && !or_copy {
            self.contexts.insert(dest.to_owned(), fs);
        }
    }

    /// True if an entry of `/mounts` changes what is mounted there.
    fn is_reconfigured(&self, dest: &str) -> bool {
        self.spec.mounts.iter().any(|m| clean(&m.destination) == dest && Options::of(m).reconfigures())
    }

    /// What the mount will cover.
    fn opened(&mut self, spot: Spot, dest: &str) -> (Slot, Spot) {
        let (dir, path) = match spot {
            Spot::At(slot) => return (slot, spot),
            Spot::Top(kind) => {
                let slot = self.open_place(dest, kind);
                return (slot, Spot::At(slot));
            }
            Spot::In { dir, name } => (Dir::At(dir), name),
        };
        let into = self.b.scratch(dest);
        let resolve = resolve::BENEATH | resolve::NO_SYMLINKS;
        self.b.op(Op::Open { dir, path, flags: PLACE, mode: 0, resolve, into });
        (into, spot)
    }

    pub(super) fn data(&mut self, fs: Slot, options: &Options) {
        for name in &options.supers {
            let key = self.b.str(name);
            let op = Op::FsFlag { fs, key };
            if *name == "iversion" {
                // Of the file systems that know it by name none needs it by now (ext4 since Linux 6.0).
                self.b.op_skip(op, &[Errno::INVAL]);
            } else {
                self.b.op(op);
            }
        }
        for item in &options.data {
            let op = match item.split_once('=') {
                Some((key, value)) => Op::FsString { fs, key: self.b.str(key), value: self.b.str(value) },
                None => Op::FsFlag { fs, key: self.b.str(item) },
            };
            self.b.op(op);
        }
    }
}
