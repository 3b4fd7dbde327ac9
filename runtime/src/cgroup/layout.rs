//! Which control group file systems this machine has, where they are mounted, and where in them we are ourselves.
//!
//! The sources are `/proc/self/mountinfo`, `/proc/self/cgroup` and statfs(2). The existence of a directory below
//! `/sys/fs/cgroup` proves nothing: on a hybrid host it is a tmpfs in which any name may be an ordinary directory.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use rustix::fs::{FsWord, statfs};

use super::file;
use super::{Place, Record};
use crate::error::{Error, Kind, Result};
use crate::kernfs;
use crate::spec::Network;

/// `CGROUP_SUPER_MAGIC`, statfs(2).
const MAGIC_V1: FsWord = 0x27_e0eb;
/// `CGROUP2_SUPER_MAGIC`, statfs(2).
const MAGIC_V2: FsWord = 0x6367_7270;

/// The control group file systems of this machine. Plain data; tests build it by hand or from texts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// Version 1 hierarchies, in the order of `/proc/self/cgroup`.
    pub v1: Vec<Hierarchy>,
    /// The version 2 tree: all there is on a unified host, an additional one on a hybrid host.
    pub unified: Option<Unified>,
}

/// One mounted version 1 hierarchy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hierarchy {
    /// Its controllers: `["cpu", "cpuacct"]`; empty for a named hierarchy.
    pub controllers: Vec<String>,
    /// `systemd` of `name=systemd`.
    pub name: Option<String>,
    /// Where it is mounted.
    pub mount: PathBuf,
    /// Our own group in it, relative to the mount, beginning with a slash.
    pub own: String,
}

/// The mounted version 2 tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unified {
    /// Where it is mounted.
    pub mount: PathBuf,
    /// Our own group in it, relative to the mount, beginning with a slash.
    pub own: String,
    /// What its root offers in `cgroup.controllers`.
    pub controllers: Vec<String>,
}

impl Layout {
    /// Reads the layout of this machine, as our mount and cgroup namespaces show it.
    ///
    /// # Errors
    /// `/proc` cannot be read.
    pub fn read() -> Result<Layout> {
        let mut layout = Layout::places()?;
        if let Some(unified) = &mut layout.unified {
            unified.controllers = file::words(&unified.mount.join("cgroup.controllers"))?;
        }
        Ok(layout)
    }

    /// The same for who makes no groups: without the controllers of the unified tree.
    ///
    /// # Errors
    /// As [`Layout::read`].
    pub fn places() -> Result<Layout> {
        Layout::seen_by("/proc/self/cgroup")
    }

    /// The same with another process's groups in the place of our own.
    ///
    /// A node with hundreds of containers has a long table of mounts, most of it the layers of overlays, and the kernel
    /// takes microseconds for each line. Control groups are mounted at boot and stand in its first pages, so no more is
    /// read if nothing is missed.
    fn seen_by(groups: &str) -> Result<Layout> {
        const TABLE: &str = "/proc/self/mountinfo";
        let failed = |e| Error::sys("read", TABLE, e);
        let own = file::text(Path::new(groups))?;
        let is = is_group;
        let best = |table: &str| names_the_best(table, &own);
        let (table, all) = kernfs::enough(TABLE, best).map_err(failed)?;
        if all {
            return Ok(Layout::parse(&table, &own, &is));
        }
        match Layout::parse_part(&table, &own, &is) {
            Some(layout) => Ok(layout),
            None => Ok(Layout::parse(&kernfs::whole(TABLE).map_err(failed)?, &own, &is)),
        }
    }

    /// The same from the first lines of the table, which name the best mounts; `None` if any of those that they name is
    /// none any more, since what the rest of the table has covers it.
    fn parse_part(part: &str, own: &str, is: &dyn Fn(&Path, bool) -> bool) -> Option<Layout> {
        let layout = Layout::of(&mounts(part), own);
        let mut seen =
            layout.v1.iter().map(|h| (&h.mount, false)).chain(layout.unified.iter().map(|u| (&u.mount, true)));
        seen.all(|(mount, v2)| is(mount, v2)).then_some(layout)
    }

    /// The same from texts. `is` says whether the topmost mount at a path really is control groups of that version; asked
    /// only where another mount may cover the one that the table names.
    fn parse(mountinfo: &str, own: &str, is: &dyn Fn(&Path, bool) -> bool) -> Layout {
        let stack = Stack::parse(mountinfo);
        let mut mounts = mounts(mountinfo);
        mounts.retain(|m| !stack.may_cover(m) || is(Path::new(&m.point), m.v2));
        Layout::of(&mounts, own)
    }

    /// The best of these mounts for each of our groups. The controllers of the unified tree are left empty.
    fn of(mounts: &[Mount<'_>], own: &str) -> Layout {
        let mut layout = Layout::default();
        for group in OwnGroup::all(own) {
            let Some(mount) = group.mount(mounts) else { continue };
            let (point, own) = (PathBuf::from(&mount.point), mount.cut(group.path));
            if group.v2() {
                layout.unified = Some(Unified { mount: point, own, controllers: Vec::new() });
            } else {
                let words = &group.words;
                let name = words.iter().find_map(|w| w.strip_prefix("name=")).map(str::to_owned);
                let controllers = words.iter().filter(|w| !w.starts_with("name=")).map(|w| (*w).to_owned()).collect();
                layout.v1.push(Hierarchy { controllers, name, mount: point, own });
            }
        }
        layout
    }

    /// Version 2: no controller that it has is bound to a version 1 hierarchy. Others and names may still be mounted.
    pub fn is_unified(&self) -> bool {
        self.unified.is_some() && self.v1.iter().flat_map(|h| &h.controllers).all(|c| is_aside(c))
    }

    /// The hierarchies in which a container gets groups: on a unified host those of net_cls and net_prio only if it asks for
    /// a class or for priorities. In a group of its own it would lose the class of whoever starts it.
    pub fn asked(&self, network: Option<&Network>) -> Cow<'_, Layout> {
        self.asked_if(network, &is_group)
    }

    fn asked_if(&self, network: Option<&Network>, is: &dyn Fn(&Path, bool) -> bool) -> Cow<'_, Layout> {
        let asked = |controller: &String| {
            network.is_some_and(|n| match controller.as_str() {
                "net_cls" => n.class_id.is_some_and(|id| id != 0),
                _ => !n.priorities.is_empty(),
            })
        };
        // A shim has read this before its first container; whoever mounted the hierarchy (a VPN client) may have gone.
        let has = |h: &Hierarchy| h.name.is_some() || h.controllers.iter().any(asked) && is(&h.mount, false);
        if !self.is_unified() || self.v1.iter().all(has) {
            return Cow::Borrowed(self);
        }
        let mut layout = self.clone();
        layout.v1.retain(has);
        Cow::Owned(layout)
    }

    /// Where a container's groups are to be: `linux.cgroupsPath` and the container's id, resolved as runc does.
    ///
    /// Absolute is below the mount, relative is below our own group, empty means the id. `..` is resolved before
    /// anything is joined, so nothing leads out. On a unified host relative paths begin at the *parent* of our own
    /// group: ours has processes, and a group with processes cannot hand controllers down.
    ///
    /// # Errors
    /// A path that names the root of a hierarchy, a NUL byte; each with the pointer `/linux/cgroupsPath`. No control group
    /// file system at all.
    pub fn place(&self, cgroups_path: &str, id: &str) -> Result<Record> {
        const POINTER: &str = "/linux/cgroupsPath";
        if self.v1.is_empty() && self.unified.is_none() {
            return Err(Error::new(Kind::Unsupported, "", "", "no control group file system is mounted"));
        }
        let wanted = if cgroups_path.is_empty() { id } else { cgroups_path };
        let inner = clean(wanted);
        if inner.is_empty() || inner.contains('\0') {
            return Err(Error::invalid(POINTER, format!("{wanted:?} does not name a group below the root")));
        }
        let below = |own: &str| {
            let own = own.trim_matches('/');
            if wanted.starts_with('/') || own.is_empty() { inner.clone() } else { format!("{own}/{inner}") }
        };
        let hierarchies = self.v1.iter().map(|h| Place {
            controllers: match &h.name {
                Some(name) => vec![format!("name={name}")],
                None => h.controllers.clone(),
            },
            mount: h.mount.clone(),
            group: below(&h.own),
        });
        let unified = self.unified.as_ref().map(|u| {
            let own = if self.is_unified() { u.own.rsplit_once('/').map_or("", |(parent, _)| parent) } else { &u.own };
            Place { controllers: u.controllers.clone(), mount: u.mount.clone(), group: below(own) }
        });
        Ok(Record { v1: hierarchies.collect(), unified, systemd: None })
    }

    /// The groups that a process is in, by its `/proc/PID/cgroup`. Those that are the root have an empty path.
    pub(super) fn of_process(groups: &str) -> Result<Record> {
        let seen = Layout::seen_by(groups)?;
        let place = |mount: &PathBuf, own: &str| Place {
            controllers: Vec::new(),
            mount: mount.clone(),
            group: own.trim_matches('/').to_owned(),
        };
        let v1 = seen.v1.iter().map(|h| place(&h.mount, &h.own)).collect();
        Ok(Record { v1, unified: seen.unified.map(|u| place(&u.mount, &u.own)), systemd: None })
    }

    /// True if a record's groups lie on hierarchies that this machine has, but for those that decide nothing and come and go.
    pub(super) fn knows(&self, record: &Record) -> bool {
        record.v1.iter().all(|p| p.is_aside() || self.v1.iter().any(|h| h.mount == p.mount))
            && record.unified.as_ref().is_none_or(|p| self.unified.as_ref().is_some_and(|u| u.mount == p.mount))
    }
}

/// A controller that version 2 does not have, or a name: where it is mounted says nothing about the others. VPN clients mount
/// net_cls beside a unified tree.
pub(super) fn is_aside(controller: &str) -> bool {
    matches!(controller, "net_cls" | "net_prio") || controller.starts_with("name=")
}

/// True if a directory is there and in a control group file system of that version.
pub(super) fn is_group(dir: &Path, v2: bool) -> bool {
    let magic = if v2 { MAGIC_V2 } else { MAGIC_V1 };
    statfs(dir).is_ok_and(|s| s.f_type == magic)
}

/// True in a user namespace of somebody who is not root on this machine, or of one that has mapped only some ids: user_namespaces(7),
/// "the initial user namespace maps all". Asked only after a refusal.
pub(super) fn is_rootless() -> bool {
    let map = kernfs::small("/proc/self/uid_map").unwrap_or_default();
    map.split_whitespace().ne(["0", "0", "4294967295"])
}

/// `a//./b/../c` → `a/c`, without a leading slash; `..` stops at the root.
pub(super) fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            _ => parts.push(part),
        }
    }
    parts.join("/")
}

/// A line of `/proc/PID/cgroup`: `id:controllers:path`, without controllers on version 2.
struct OwnGroup<'a> {
    words: Vec<&'a str>,
    path: &'a str,
}

impl<'a> OwnGroup<'a> {
    /// In the order of their ids.
    fn all(text: &'a str) -> impl Iterator<Item = OwnGroup<'a>> {
        let line = |line: &'a str| -> Option<(u32, &str, &str)> {
            let mut parts = line.splitn(3, ':');
            Some((parts.next()?.parse().ok()?, parts.next()?, parts.next()?))
        };
        let mut lines: Vec<_> = text.lines().filter_map(line).collect();
        lines.sort_unstable();
        let words = |subsystems: &'a str| subsystems.split(',').filter(|w| !w.is_empty()).collect();
        lines.into_iter().map(move |(_, subsystems, path)| OwnGroup { words: words(subsystems), path })
    }

    fn v2(&self) -> bool {
        self.words.is_empty()
    }

    /// The best of the mounts of its hierarchy.
    fn mount<'m, 't>(&self, mounts: &'m [Mount<'t>]) -> Option<&'m Mount<'t>> {
        let is_its = |m: &&Mount| m.v2 == self.v2() && self.words.iter().all(|w| m.options.contains(w));
        mounts.iter().filter(is_its).min_by_key(|m| m.rank(self.path))
    }
}

/// The lines of mountinfo that are control groups.
fn mounts(table: &str) -> Vec<Mount<'_>> {
    table.lines().filter_map(Mount::parse).collect()
}

/// Whether these lines of mountinfo name, for each of our groups, a mount than which none can be better.
fn names_the_best(table: &str, own: &str) -> bool {
    let mounts = mounts(table);
    OwnGroup::all(own).all(|g| g.mount(&mounts).is_some_and(|m| m.rank(g.path) == (false, false, false)))
}

/// Every mount of mountinfo: its id, that of the mount it stands on, and its point as it is written there.
struct Stack<'a>(Vec<(&'a str, &'a str, &'a str)>);

impl<'a> Stack<'a> {
    fn parse(mountinfo: &'a str) -> Self {
        let line = |line: &'a str| {
            let mut words = line.splitn(6, ' ');
            Some((words.next()?, words.next()?, words.nth(2)?))
        };
        Self(mountinfo.lines().filter_map(line).collect())
    }

    /// True if any mount but those that this one stands on is at its point or at a directory above: it may be mounted over
    /// it, or over what it stands on.
    fn may_cover(&self, mount: &Mount) -> bool {
        let mut beneath = Vec::new();
        let mut id = Some(mount.id);
        // A table cannot name more mounts beneath than it has.
        while let Some(known) = id.filter(|_| beneath.len() <= self.0.len()) {
            beneath.push(known);
            id = self.0.iter().find(|(id, ..)| *id == known).map(|(_, parent, _)| *parent);
        }
        self.0.iter().any(|(id, _, point)| below(mount.written, point).is_some() && !beneath.contains(id))
    }
}

/// One line of mountinfo that is control groups.
struct Mount<'a> {
    id: &'a str,
    /// The point as it is written there.
    written: &'a str,
    root: String,
    point: String,
    writable: bool,
    v2: bool,
    options: Vec<&'a str>,
}

impl<'a> Mount<'a> {
    /// proc_pid_mountinfo(5): `id parent major:minor root point options tag… - type source super-options`.
    fn parse(line: &'a str) -> Option<Mount<'a>> {
        let (front, back) = line.split_once(" - ")?;
        let mut back = back.split(' ');
        let v2 = match back.next()? {
            "cgroup" => false,
            "cgroup2" => true,
            _ => return None,
        };
        let mut front = front.split(' ');
        let id = front.next()?;
        let (root, written, options) = (unescape(front.nth(2)?), front.next()?, front.next()?);
        let writable = options.split(',').any(|o| o == "rw");
        let options = back.nth(1)?.split(',').collect();
        Some(Mount { id, written, root, point: unescape(written), writable, v2, options })
    }

    /// Lower is better, when a hierarchy is mounted more than once.
    fn rank(&self, own: &str) -> (bool, bool, bool) {
        (below(own, &self.root).is_none(), !self.writable, !self.point.starts_with("/sys/fs/cgroup"))
    }

    /// A group of `/proc/self/cgroup` as a path below this mount, which may show only a part of the hierarchy
    /// (docker-in-docker). Outside of that part, its top is the best that can be said.
    fn cut(&self, own: &str) -> String {
        match below(own, &self.root) {
            Some(rest) if !own.split('/').any(|part| part == "..") => format!("/{}", rest.trim_start_matches('/')),
            _ => "/".to_owned(),
        }
    }
}

/// What is left of `path` below `root`, by whole components.
fn below<'a>(path: &'a str, root: &str) -> Option<&'a str> {
    let rest = path.strip_prefix(root.trim_end_matches('/'))?;
    (rest.is_empty() || rest.starts_with('/')).then_some(rest)
}

/// mountinfo writes space, tab, newline and backslash as `\ooo`.
fn unescape(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let octal = tail.get(..3).filter(|d| byte == b'\\' && d.iter().all(|c| (b'0'..=b'7').contains(c)));
        if let Some(digits) = octal {
            out.push(digits.iter().fold(0u8, |n, c| n.wrapping_mul(8).wrapping_add(c - b'0')));
            rest = &tail[3..];
        } else {
            out.push(byte);
            rest = tail;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 /docker/c1 /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
36 31 0:32 / /mnt/with\\040space rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
42 31 0:99 / /sys/fs/cgroup/devices rw - cgroup cgroup rw,devices
43 42 0:98 / /sys/fs/cgroup/devices rw - tmpfs tmpfs rw
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate
";
    const OWN: &str =
        "9:name=systemd:/s\n5:devices:/\n4:memory:/docker/c1/sub\n2:cpu,cpuacct:/\n1:freezer:/\n0::/u/v\n";

    fn hybrid() -> Layout {
        // The devices mount is covered by something else: statfs says no. Nobody else needs to be asked.
        Layout::parse(HYBRID, OWN, &|mount, _| {
            assert_eq!(mount, Path::new("/sys/fs/cgroup/devices"));
            false
        })
    }

    #[test]
    fn mounts_are_matched_with_our_groups() {
        let layout = hybrid();
        let seen: Vec<_> =
            layout.v1.iter().map(|h| (h.controllers.join(","), h.mount.to_str().unwrap(), h.own.as_str())).collect();
        assert_eq!(
            seen,
            [
                ("cpu,cpuacct".to_owned(), "/sys/fs/cgroup/cpu,cpuacct", "/"),
                ("memory".to_owned(), "/sys/fs/cgroup/memory", "/sub"),
                (String::new(), "/sys/fs/cgroup/systemd", "/s"),
            ]
        );
        assert_eq!(layout.v1[2].name.as_deref(), Some("systemd"));
        assert_eq!(layout.unified.as_ref().unwrap().own, "/u/v");
        assert!(!layout.is_unified());
        let elsewhere = Layout::parse(HYBRID, "4:memory:/x", &|_, _| true);
        assert_eq!(elsewhere.v1[0].mount, Path::new("/mnt/with space"), "a mount that shows our group is better");
    }

    #[test]
    fn a_part_of_the_table_may_do() {
        let own = "5:devices:/\n2:cpu,cpuacct:/\n0::/u/v\n";
        assert!(names_the_best(HYBRID, own));
        assert!(!names_the_best(HYBRID, &format!("{own}7:freezer:/\n")), "one that is not mounted");
        assert!(!names_the_best(HYBRID, "4:memory:/docker/c2"), "only its mount elsewhere shows it");
        // Each of them may be covered by what the rest of the table has. Then the second best, such as a view of a part that
        // somebody has mounted elsewhere, is no answer either.
        let twins = "50 31 0:29 / /host/cpu ro - cgroup cgroup rw,cpu,cpuacct\n";
        let table = format!("{HYBRID}{twins}");
        for covered in ["/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/devices", "/sys/fs/cgroup/unified"] {
            let is = |mount: &Path, _| mount != Path::new(covered);
            assert!(Layout::parse_part(&table, own, &is).is_none(), "{covered}");
        }
        let asked = std::cell::RefCell::new(Vec::new());
        let is = |mount: &Path, v2| {
            asked.borrow_mut().push((mount.to_owned(), v2));
            true
        };
        let part = Layout::parse_part(&table, own, &is).unwrap();
        assert_eq!((part.v1.len(), part.unified.is_some()), (2, true));
        assert_eq!(asked.borrow().len(), 3, "once for each of our groups: {asked:?}");
    }

    /// What is asked about, and what is left when the answer is no.
    fn covered(cover: &str) -> (Vec<PathBuf>, bool) {
        let table = "\
1 0 0:1 / / rw - ext4 /dev/sda rw
20 1 0:2 / /sys rw - sysfs sysfs rw
31 20 0:3 / /sys/fs/cgroup rw - tmpfs tmpfs rw
40 31 0:4 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids
";
        let asked = std::cell::RefCell::new(Vec::new());
        let layout = Layout::parse(&format!("{table}{cover}"), "8:pids:/", &|mount, _| {
            asked.borrow_mut().push(mount.to_owned());
            false
        });
        (asked.into_inner(), layout.v1.is_empty())
    }

    #[test]
    fn what_may_be_covered_is_looked_at() {
        assert_eq!(covered(""), (Vec::new(), false));
        assert_eq!(covered("50 31 0:5 / /sys/fs/cgroup/pidsx rw - tmpfs t rw"), (Vec::new(), false), "a neighbour");
        assert_eq!(covered("50 40 0:5 / /sys/fs/cgroup/pids/a rw - tmpfs t rw"), (Vec::new(), false), "below");
        let pids = || vec![PathBuf::from("/sys/fs/cgroup/pids")];
        for cover in [
            "50 40 0:5 / /sys/fs/cgroup/pids rw - tmpfs t rw",
            "50 31 0:5 / /sys/fs/cgroup rw - tmpfs t rw",
            "50 20 0:5 / /sys/fs rw - tmpfs t rw",
            "50 20 0:5 / /sys rw - tmpfs t rw",
            "50 1 0:5 / / rw - tmpfs t rw",
        ] {
            assert_eq!(covered(cover), (pids(), true), "{cover}");
        }
    }

    #[test]
    fn unified_host() {
        let table = "\
1 0 0:5 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw
2 1 0:6 / /sys/fs/cgroup/net_cls rw - cgroup cgroup rw,net_cls
3 0 0:7 / /mnt/memory rw - cgroup cgroup rw,memory
";
        let hybrid = Layout::parse(table, "2:memory:/\n1:net_cls:/\n0::/a.slice/b", &|_, _| true);
        assert!(hybrid.v1.len() == 2 && !hybrid.is_unified());
        // What a VPN mounts is there, and decides nothing.
        let layout = Layout::parse(table, "1:net_cls:/\n0::/a.slice/b", &|_, _| true);
        assert!(layout.v1.len() == 1 && layout.is_unified() && layout.place("x", "id").unwrap().is_unified());
        let groups = |json: &str, is: bool| {
            let network: Network = serde_json::from_str(json).unwrap();
            let record = layout.asked_if(Some(&network), &|_, _| is).place("x", "id").unwrap();
            record.v1.iter().map(|p| p.controllers.join(",")).collect::<Vec<_>>()
        };
        for (json, is) in [
            ("{}", true),
            (r#"{"classID": 0}"#, true),
            (r#"{"priorities": [{"name": "lo", "priority": 1}]}"#, true),
            (r#"{"classID": 1}"#, false),
        ] {
            assert_eq!(groups(json, is), [""; 0], "{json}");
        }
        assert_eq!(groups(r#"{"classID": 1}"#, true), ["net_cls"]);
        assert_eq!(hybrid.asked(None).v1.len(), 2, "with version 1 comes all of it");
        let named = "4 0 0:8 / /mnt/systemd rw - cgroup cgroup rw,name=systemd\n";
        let named = Layout::parse(&format!("{table}{named}"), "3:name=systemd:/\n1:net_cls:/\n0::/a", &|_, _| true);
        assert_eq!(named.asked(None).v1.iter().map(|h| h.name.as_deref()).collect::<Vec<_>>(), [Some("systemd")]);
        let place = |path| layout.place(path, "id").unwrap().unified.unwrap().group;
        assert_eq!((place("/x/../y"), place("x"), place("")), ("y".into(), "a.slice/x".into(), "a.slice/id".into()));
    }

    #[test]
    fn paths_do_not_escape() {
        let layout = hybrid();
        let groups = |path: &str| {
            let record = layout.place(path, "id").unwrap();
            record.v1.iter().chain(&record.unified).map(|p| p.group.clone()).collect::<Vec<_>>()
        };
        assert_eq!(groups("/a/b"), ["a/b", "a/b", "a/b", "a/b"]);
        assert_eq!(groups("a"), ["a", "sub/a", "s/a", "u/v/a"]);
        assert_eq!(groups("../../../a"), ["a", "sub/a", "s/a", "u/v/a"]);
        assert_eq!(groups(""), ["id", "sub/id", "s/id", "u/v/id"]);
        for bad in ["/", "/..", "a/..", "..", "/a\0"] {
            assert_eq!(layout.place(bad, "id").unwrap_err().from, "/linux/cgroupsPath", "{bad:?}");
        }
        assert_eq!(groups("system.slice:mini:c1")[0], "system.slice:mini:c1", "a name as good as any, as in runc");
        assert_eq!(groups("/a:b:c")[0], "a:b:c");
    }
}
