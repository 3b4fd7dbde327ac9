//! Device nodes and links in /dev, each relative to an opened directory (CVE-2026-41579, CVE-2026-47766).

use rustix::io::Errno;

use super::compile::Compiler;
use super::rootfs::{CLONE, DIRECTORY, NOFOLLOW, PLACE, resolve};
use super::{Dir, Op, Slot};
use crate::spec::Device;

/// runtime-spec config-linux.md#default-devices: path, major, minor.
pub const DEFAULTS: &[(&str, i64, i64)] = &[
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/tty", 5, 0),
    ("/dev/urandom", 1, 9),
    ("/dev/random", 1, 8),
];

/// runtime-spec runtime-linux.md#dev-symbolic-links.
const LINKS: &[(&str, &str)] = &[
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];

impl Compiler<'_> {
    /// Default devices, those of the spec, links and ptmx; nothing if the caller has bound a /dev of its own or
    /// shows the host's.
    pub(super) fn devices(&mut self) {
        let spec = self.spec;
        let bound = |m: &crate::spec::Mount| {
            super::mounts::clean(&m.destination) == "/dev"
                && (super::options::Options::of(m).bind.is_some() || m.kind == "devtmpfs")
        };
        if !self.wanted.has(crate::spec::NamespaceKind::Mount) || spec.mounts.iter().any(bound) {
            return;
        }
        // What the caller has put in a node's place stays there; a directory that he has bound is the host's, as its nodes are.
        let covers: Vec<(String, bool)> = spec
            .mounts
            .iter()
            .map(|m| (super::mounts::clean(&m.destination), super::options::Options::of(m).bind.is_some()))
            .collect();
        let covered = |path: &str| {
            let path = super::mounts::clean(path);
            let below =
                |dest: &str| dest.starts_with("/dev/") && path.strip_prefix(dest).is_some_and(|p| p.starts_with('/'));
            covers.iter().any(|(dest, bind)| *dest == path || *bind && below(dest))
        };
        self.b.from("");
        let dev = self.dev_dir();
        for (path, major, minor) in DEFAULTS {
            if spec.linux.devices.iter().any(|d| d.path == *path) || covered(path) {
                continue;
            }
            let device =
                Device { kind: "c".into(), path: (*path).into(), major: *major, minor: *minor, ..Device::default() };
            self.device(dev, &device);
        }
        for (i, device) in spec.linux.devices.iter().enumerate() {
            // A privileged spec lists all of the host's devices; where nodes are bound and not made, the link could not
            // take this one's place.
            if super::mounts::clean(&device.path) == "/dev/ptmx" || covered(&device.path) {
                continue;
            }
            self.b.from(format!("/linux/devices/{i}"));
            self.device(dev, device);
        }
        self.b.from("");
        let core = self.host.kcore.then_some(("core", "/proc/kcore"));
        for (name, target) in LINKS.iter().copied().chain(core) {
            let (target, name) = (self.b.str(target), self.b.str(name));
            self.b.op_skip(Op::Symlink { target, dir: dev, name }, &[Errno::EXIST]);
        }
        let (target, name) = (self.b.str("pts/ptmx"), self.b.str("ptmx"));
        // The image may have something else there.
        if !self.mounted.contains_key("/dev") {
            self.b.op_skip(Op::Unlink { dir: dev, name }, &[Errno::NOENT]);
        }
        self.b.op(Op::Symlink { target, dir: dev, name });
    }

    /// The container's /dev: of our own making, or the image's, which must be a directory and no link.
    fn dev_dir(&mut self) -> Slot {
        if let Some(slot) = self.mounted.get("/dev") {
            return *slot;
        }
        let root = self.root().slot;
        let into = self.b.slot("/dev");
        let name = self.b.str("dev");
        self.b.op_skip(Op::Mkdir { dir: root, name, mode: 0o755 }, &[Errno::EXIST]);
        let resolve = resolve::BENEATH | resolve::NO_SYMLINKS;
        let flags = PLACE | DIRECTORY | NOFOLLOW;
        self.b.op(Op::Open { dir: Dir::At(root), path: name, flags, mode: 0, resolve, into });
        into
    }

    fn device(&mut self, dev: Slot, device: &Device) {
        let path = super::mounts::clean(&device.path);
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", &path));
        let dir = match parent {
            "/dev" => dev,
            other => {
                let root = self.root().slot;
                self.make_dirs(root, other, None)
            }
        };
        let name = self.b.str(name);
        let end = self.b.label();
        let kind = match device.kind.as_str() {
            "b" => libc::S_IFBLK,
            "p" => libc::S_IFIFO,
            _ => libc::S_IFCHR,
        };
        let dev = if kind == libc::S_IFIFO { 0 } else { libc::makedev(device.major as u32, device.minor as u32) };
        let node = (kind, dev);
        if self.wanted.user() {
            self.borrowed_device(dir, name, &path, node, end);
            return self.b.bind(end);
        }
        let mode = device.file_mode.unwrap_or(0o666) & 0o7777;
        let (exists, refused, made) = (self.b.label(), self.b.label(), self.b.label());
        let op = Op::Mknod { dir, name, mode: kind | mode, dev };
        self.b.op_on(op, &[(0, made), (libc::EEXIST, exists), (libc::EPERM, refused)]);
        // A rootfs that was used before has it already; it must be what was asked for. Whose it is stays: it may be the host's.
        self.b.bind(exists);
        let there = self.b.scratch(&path);
        let flags = PLACE | NOFOLLOW;
        let resolve = resolve::BENEATH | resolve::NO_SYMLINKS;
        self.b.op(Op::Open { dir: Dir::At(dir), path: name, flags, mode: 0, resolve, into: there });
        self.b.op_on(Op::CheckNode { slot: there, mode: kind, dev }, &[(0, end)]);
        // Without CAP_MKNOD the host's own node has to do.
        self.b.bind(refused);
        self.borrowed_device(dir, name, &path, node, end);
        self.b.bind(made);
        let (uid, gid) = (device.uid.unwrap_or(0), device.gid.unwrap_or(0));
        if uid != 0 || gid != 0 {
            self.b.op(Op::Chown { dir, name, uid, gid });
        }
        self.b.bind(end);
    }

    /// Where nodes cannot be made, in a user namespace above all, the host's node is bound, if it is the one that was asked
    /// for: the path alone could name any file of the host. It stays the host's: goes to `end`, where nobody changes its
    /// owner any more.
    fn borrowed_device(&mut self, dir: Slot, name: super::Str, path: &str, (mode, dev): (u32, u64), end: super::Label) {
        let (tree, place) = (self.b.scratch(format!("{path} of the host")), self.b.scratch(path));
        let source = self.b.str(path);
        self.b.op(Op::OpenTree { dir: Dir::Cwd, path: source, flags: CLONE, into: tree });
        self.b.op(Op::CheckNode { slot: tree, mode, dev });
        let create = (libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW | libc::O_CLOEXEC) as u32;
        let resolve = resolve::BENEATH | resolve::NO_SYMLINKS;
        let op = Op::Open { dir: Dir::At(dir), path: name, flags: create, mode: 0o666, resolve, into: place };
        self.b.op_skip(op, &[Errno::EXIST]);
        self.b.op(Op::Open { dir: Dir::At(dir), path: name, flags: PLACE | NOFOLLOW, mode: 0, resolve, into: place });
        self.b.op_on(Op::MoveMount { from: tree, to: place }, &[(0, end)]);
    }
}
