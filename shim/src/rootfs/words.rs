//! The option words of a snapshotter's mount, as containerd reads them: flags, what only we can do, and data.

#![forbid(unsafe_code)]

use std::ffi::CString;

use runtime::{Error, Kind, Result};
use rustix::mount::MountFlags;

/// MS_MANDLOCK and MS_REMOUNT, for which rustix has no or another name.
const MANDLOCK: MountFlags = MountFlags::PERMIT_MANDATORY_FILE_LOCKING;
const REMOUNT: MountFlags = MountFlags::from_bits_retain(0x20);

/// Options of one mount.
#[derive(Debug, PartialEq)]
pub struct Words<'a> {
    /// MS_* to set.
    pub flags: MountFlags,
    /// MS_* that a word took away and no later word set again.
    pub cleared: MountFlags,
    /// The source is a file that a loop device has to carry.
    pub looped: bool,
    /// The loop device bypasses the page cache.
    pub direct_io: bool,
    /// `uidmap=` and `gidmap=`.
    pub idmap: Option<(&'a str, &'a str)>,
    /// Everything else, for the file system.
    pub data: Vec<&'a str>,
}

impl<'a> Words<'a> {
    /// Later words win. Half an id map is an error: the mount would have other owners than the client thinks.
    pub fn parse(options: &'a [String]) -> Result<Self> {
        let (mut flags, mut cleared) = (MountFlags::empty(), MountFlags::empty());
        let (mut uids, mut gids, mut data) = (None, None, Vec::new());
        let (mut looped, mut direct_io) = (false, false);
        for word in options {
            if let Some((set, flag)) = flag(word) {
                flags.set(flag, set);
                cleared.set(flag, !set);
            } else if let Some(map) = word.strip_prefix("uidmap=") {
                uids = Some(map);
            } else if let Some(map) = word.strip_prefix("gidmap=") {
                gids = Some(map);
            } else {
                match word.as_str() {
                    "loop" => looped = true,
                    "direct-io" => direct_io = true,
                    other => data.push(other),
                }
            }
        }
        let idmap = match (uids, gids) {
            (Some(u), Some(g)) => Some((u, g)),
            (None, None) => None,
            _ => {
                return Err(Error::new(Kind::Invalid, "mount", options.join(","), "uidmap and gidmap need each other"));
            }
        };
        if direct_io && !looped {
            return Err(Error::new(Kind::Invalid, "mount", options.join(","), "direct-io needs loop"));
        }
        Ok(Self { flags, cleared, looped, direct_io, idmap, data })
    }

    /// The data as mount(2) takes it: `None` if there is none, an error if it does not fit the one page that the kernel copies.
    pub fn data_page(&self) -> Result<Option<CString>> {
        page(&self.data.join(","))
    }
}

/// Text as the data argument of mount(2).
pub fn page(data: &str) -> Result<Option<CString>> {
    if data.is_empty() {
        return Ok(None);
    }
    if data.len() >= rustix::param::page_size() {
        return Err(Error::new(Kind::Invalid, "mount", data, "options are longer than a page"));
    }
    CString::new(data).map(Some).map_err(|_| Error::new(Kind::Invalid, "mount", data, "options contain a NUL"))
}

/// The table of containerd's mount_linux.go; `true` sets the flag. Words of propagation are not in it, they are data there too.
fn flag(word: &str) -> Option<(bool, MountFlags)> {
    Some(match word {
        "async" => (false, MountFlags::SYNCHRONOUS),
        "atime" => (false, MountFlags::NOATIME),
        "bind" => (true, MountFlags::BIND),
        "dev" => (false, MountFlags::NODEV),
        "diratime" => (false, MountFlags::NODIRATIME),
        "dirsync" => (true, MountFlags::DIRSYNC),
        "exec" => (false, MountFlags::NOEXEC),
        "mand" => (true, MANDLOCK),
        "noatime" => (true, MountFlags::NOATIME),
        "nodev" => (true, MountFlags::NODEV),
        "nodiratime" => (true, MountFlags::NODIRATIME),
        "noexec" => (true, MountFlags::NOEXEC),
        "nomand" => (false, MANDLOCK),
        "norelatime" => (false, MountFlags::RELATIME),
        "nostrictatime" => (false, MountFlags::STRICTATIME),
        "nosuid" => (true, MountFlags::NOSUID),
        "rbind" => (true, MountFlags::BIND.union(MountFlags::REC)),
        "relatime" => (true, MountFlags::RELATIME),
        "remount" => (true, REMOUNT),
        "ro" => (true, MountFlags::RDONLY),
        "rw" => (false, MountFlags::RDONLY),
        "strictatime" => (true, MountFlags::STRICTATIME),
        "suid" => (false, MountFlags::NOSUID),
        "sync" => (true, MountFlags::SYNCHRONOUS),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn later_words_win_and_the_rest_is_data() {
        let list = words(
            "ro nosuid rw rbind index=off defaults rshared uidmap=0:1000:65536 gidmap=0:1000:65536 loop direct-io suid",
        );
        let w = Words::parse(&list).unwrap();
        assert_eq!(w.flags, MountFlags::BIND | MountFlags::REC);
        assert_eq!(w.cleared, MountFlags::RDONLY | MountFlags::NOSUID);
        assert_eq!(w.data, ["index=off", "defaults", "rshared"]);
        assert_eq!(w.idmap, Some(("0:1000:65536", "0:1000:65536")));
        assert!(w.looped && w.direct_io);
    }

    #[test]
    fn every_flag_word_has_its_kernel_value() {
        for (set, cleared, value) in [
            ("sync", "async", libc::MS_SYNCHRONOUS),
            ("noatime", "atime", libc::MS_NOATIME),
            ("nodev", "dev", libc::MS_NODEV),
            ("nodiratime", "diratime", libc::MS_NODIRATIME),
            ("noexec", "exec", libc::MS_NOEXEC),
            ("mand", "nomand", libc::MS_MANDLOCK),
            ("relatime", "norelatime", libc::MS_RELATIME),
            ("strictatime", "nostrictatime", libc::MS_STRICTATIME),
            ("nosuid", "suid", libc::MS_NOSUID),
            ("ro", "rw", libc::MS_RDONLY),
            ("dirsync", "", libc::MS_DIRSYNC),
            ("bind", "", libc::MS_BIND),
            ("rbind", "", libc::MS_BIND | libc::MS_REC),
            ("remount", "", libc::MS_REMOUNT),
        ] {
            let list = words(set);
            assert_eq!(u64::from(Words::parse(&list).unwrap().flags.bits()), value, "{set}");
            if !cleared.is_empty() {
                let list = words(&format!("{set} {cleared}"));
                let w = Words::parse(&list).unwrap();
                assert!(w.flags.is_empty() && w.data.is_empty(), "{cleared}");
                assert_eq!(u64::from(w.cleared.bits()), value, "{cleared}");
            }
        }
    }

    #[test]
    fn what_would_be_ignored_is_refused() {
        for line in ["uidmap=0:1:2", "gidmap=0:1:2", "direct-io"] {
            assert_eq!(Words::parse(&words(line)).unwrap_err().kind, Kind::Invalid, "{line}");
        }
        let long = vec!["x".repeat(rustix::param::page_size())];
        assert_eq!(Words::parse(&long).unwrap().data_page().unwrap_err().kind, Kind::Invalid);
    }
}
