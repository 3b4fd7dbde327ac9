//! The words of `/mounts/N/options`: which are flags, which are propagation, and which are data for the file system.

use crate::spec::Mount;

/// Attribute bits of mount_setattr(2) and fsmount(2) (linux/mount.h).
pub mod attr {
    #![allow(missing_docs)]
    pub const RDONLY: u64 = 0x1;
    pub const NOSUID: u64 = 0x2;
    pub const NODEV: u64 = 0x4;
    pub const NOEXEC: u64 = 0x8;
    pub const ATIME_MASK: u64 = 0x70;
    pub const RELATIME: u64 = 0x0;
    pub const NOATIME: u64 = 0x10;
    pub const STRICTATIME: u64 = 0x20;
    pub const NODIRATIME: u64 = 0x80;
    pub const IDMAP: u64 = 0x0010_0000;
    pub const NOSYMFOLLOW: u64 = 0x0020_0000;
}

/// What one word means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// Sets an attribute of the mount.
    Set(u64),
    /// Clears one.
    Clear(u64),
    /// Chooses one of the exclusive access time behaviours.
    Atime(u64),
    /// Takes one of them back, if it was chosen.
    NotAtime(u64),
    /// Sets an attribute of the mount and of all below it.
    DeepSet(u64),
    /// Clears one.
    DeepClear(u64),
    /// Chooses one of the exclusive access time behaviours, for all below too.
    DeepAtime(u64),
    /// Propagation type (MS_* bits), MS_REC included where the word says so.
    Propagation(u64),
    /// A flag of the super block, by its fsconfig(2) name; nothing on a bind mount.
    Super(&'static str),
    /// Bind mount, with MS_REC or without.
    Bind(u64),
    /// Change what is mounted there.
    Remount,
    /// Copy what the image has there into the new tmpfs.
    CopyUp,
    /// Map ids; `true` for the whole tree.
    Idmap(bool),
    /// Says what is the case anyway.
    Nothing,
}

const REC: u64 = libc::MS_REC;

/// Every option word that is not data, sorted; the names are also `spec::words`, which knows no kernel. `acl` is data: not
/// every file system knows it (runc issue 3738). Sources: mount(8), runtime-spec config.md#linux-mount-options.
pub const WORDS: &[(&str, Word)] = &[
    ("async", Word::Nothing),
    ("atime", Word::Atime(attr::RELATIME)),
    ("bind", Word::Bind(0)),
    ("defaults", Word::Nothing),
    ("dev", Word::Clear(attr::NODEV)),
    ("diratime", Word::Clear(attr::NODIRATIME)),
    ("dirsync", Word::Super("dirsync")),
    ("exec", Word::Clear(attr::NOEXEC)),
    ("idmap", Word::Idmap(false)),
    ("iversion", Word::Super("iversion")),
    ("lazytime", Word::Super("lazytime")),
    ("loud", Word::Nothing),
    ("mand", Word::Super("mand")),
    ("noatime", Word::Atime(attr::NOATIME)),
    ("nodev", Word::Set(attr::NODEV)),
    ("nodiratime", Word::Set(attr::NODIRATIME)),
    ("noexec", Word::Set(attr::NOEXEC)),
    ("noiversion", Word::Nothing),
    ("nolazytime", Word::Nothing),
    ("nomand", Word::Nothing),
    ("norelatime", Word::NotAtime(attr::RELATIME)),
    ("nostrictatime", Word::NotAtime(attr::STRICTATIME)),
    ("nosuid", Word::Set(attr::NOSUID)),
    ("nosymfollow", Word::Set(attr::NOSYMFOLLOW)),
    ("private", Word::Propagation(libc::MS_PRIVATE)),
    ("ratime", Word::DeepAtime(attr::RELATIME)),
    ("rbind", Word::Bind(REC)),
    ("rdev", Word::DeepClear(attr::NODEV)),
    ("rdiratime", Word::DeepClear(attr::NODIRATIME)),
    ("relatime", Word::Atime(attr::RELATIME)),
    ("remount", Word::Remount),
    ("rexec", Word::DeepClear(attr::NOEXEC)),
    ("ridmap", Word::Idmap(true)),
    ("rnoatime", Word::DeepAtime(attr::NOATIME)),
    ("rnodev", Word::DeepSet(attr::NODEV)),
    ("rnodiratime", Word::DeepSet(attr::NODIRATIME)),
    ("rnoexec", Word::DeepSet(attr::NOEXEC)),
    ("rnorelatime", Word::DeepAtime(attr::RELATIME)),
    ("rnostrictatime", Word::DeepAtime(attr::RELATIME)),
    ("rnosuid", Word::DeepSet(attr::NOSUID)),
    ("rnosymfollow", Word::DeepSet(attr::NOSYMFOLLOW)),
    ("ro", Word::Set(attr::RDONLY)),
    ("rprivate", Word::Propagation(libc::MS_PRIVATE | REC)),
    ("rrelatime", Word::DeepAtime(attr::RELATIME)),
    ("rro", Word::DeepSet(attr::RDONLY)),
    ("rrw", Word::DeepClear(attr::RDONLY)),
    ("rshared", Word::Propagation(libc::MS_SHARED | REC)),
    ("rslave", Word::Propagation(libc::MS_SLAVE | REC)),
    ("rstrictatime", Word::DeepAtime(attr::STRICTATIME)),
    ("rsuid", Word::DeepClear(attr::NOSUID)),
    ("rsymfollow", Word::DeepClear(attr::NOSYMFOLLOW)),
    ("runbindable", Word::Propagation(libc::MS_UNBINDABLE | REC)),
    ("rw", Word::Clear(attr::RDONLY)),
    ("shared", Word::Propagation(libc::MS_SHARED)),
    ("silent", Word::Nothing),
    ("slave", Word::Propagation(libc::MS_SLAVE)),
    ("strictatime", Word::Atime(attr::STRICTATIME)),
    ("suid", Word::Clear(attr::NOSUID)),
    ("symfollow", Word::Clear(attr::NOSYMFOLLOW)),
    ("sync", Word::Super("sync")),
    ("tmpcopyup", Word::CopyUp),
    ("unbindable", Word::Propagation(libc::MS_UNBINDABLE)),
];

/// The meaning of a word; `None` is data.
pub fn word(text: &str) -> Option<Word> {
    WORDS.binary_search_by_key(&text, |(w, _)| w).ok().map(|i| WORDS[i].1)
}

/// The flag of mount(2) that a flag of the super block is there.
pub fn super_flag(name: &str) -> u64 {
    match name {
        "dirsync" => libc::MS_DIRSYNC,
        "iversion" => libc::MS_I_VERSION,
        "lazytime" => libc::MS_LAZYTIME,
        "mand" => libc::MS_MANDLOCK,
        "sync" => libc::MS_SYNCHRONOUS,
        _ => 0,
    }
}

/// Set and clear bits of one mount_setattr(2) call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Bits to set.
    pub set: u64,
    /// Bits to clear.
    pub clear: u64,
}

impl Change {
    fn set(&mut self, bits: u64) {
        self.set |= bits;
        self.clear &= !bits;
    }

    fn clear(&mut self, bits: u64) {
        self.clear |= bits;
        self.set &= !bits;
    }

    /// The access time behaviours exclude each other, and the kernel wants all their bits cleared with any of them set.
    fn atime(&mut self, bits: u64) {
        self.set = self.set & !attr::ATIME_MASK | bits;
        self.clear |= attr::ATIME_MASK;
    }

    /// What nobody chooses stays as it is: mount(2) keeps it in a remount that names none.
    fn not_atime(&mut self, bits: u64) {
        if self.clear & attr::ATIME_MASK != 0 && self.set & attr::ATIME_MASK == bits {
            self.set &= !attr::ATIME_MASK;
            self.clear &= !attr::ATIME_MASK;
        }
    }

    /// True if there is nothing to change.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Several data in one option; a comma behind a backslash is part of a path (overlayfs.rst, `lowerdir`).
fn items(text: &str) -> impl Iterator<Item = &str> {
    let mut escaped = false;
    text.split(move |c| {
        let ends = c == ',' && !escaped;
        escaped = c == '\\' && !escaped;
        ends
    })
}

/// All options of one mount, sorted by meaning. Later words win over earlier ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// This mount only.
    pub own: Change,
    /// The whole tree.
    pub deep: Change,
    /// Propagation types in the order given.
    pub propagation: Vec<u64>,
    /// fsconfig(2) flags; `iversion` is known to mount(2) alone.
    pub supers: Vec<&'static str>,
    /// `Some(recursive)` for a bind mount.
    pub bind: Option<bool>,
    /// Change an existing mount.
    pub remount: bool,
    /// `tmpcopyup`
    pub copy_up: bool,
    /// `Some(recursive)` for an idmapped mount.
    pub idmap: Option<bool>,
    /// `key`, or `key=value`, for the file system.
    pub data: Vec<String>,
}

impl Options {
    /// True for a remount of more than a mount's own attributes. Of a bind mount there is nothing else, and data mean nothing.
    pub fn reconfigures(&self) -> bool {
        self.remount && self.bind.is_none() && !(self.data.is_empty() && self.supers.is_empty())
    }

    /// True if this datum is among those for the file system.
    pub fn gives(&self, key: &str) -> bool {
        self.data.iter().any(|d| d.strip_prefix(key).is_some_and(|rest| rest.starts_with('=')))
    }

    /// Sorts the options of a mount.
    pub fn of(mount: &Mount) -> Self {
        let mut o = Self::default();
        for text in &mount.options {
            match word(text) {
                Some(Word::Set(bits)) => o.own.set(bits),
                Some(Word::Clear(bits)) => o.own.clear(bits),
                Some(Word::Atime(bits)) => o.own.atime(bits),
                Some(Word::NotAtime(bits)) => o.own.not_atime(bits),
                Some(Word::DeepSet(bits)) => o.deep.set(bits),
                Some(Word::DeepClear(bits)) => o.deep.clear(bits),
                Some(Word::DeepAtime(bits)) => o.deep.atime(bits),
                Some(Word::Propagation(kind)) => o.propagation.push(kind),
                Some(Word::Super(name)) => o.supers.push(name),
                Some(Word::Bind(rec)) => o.bind = Some(rec != 0 || o.bind == Some(true)),
                Some(Word::Remount) => o.remount = true,
                Some(Word::CopyUp) => o.copy_up = true,
                Some(Word::Idmap(rec)) => o.idmap = Some(rec || o.idmap == Some(true)),
                Some(Word::Nothing) => {}
                None => o.data.extend(items(text).filter(|d| !d.is_empty()).map(str::to_owned)),
            }
        }
        if mount.kind == "bind" && o.bind.is_none() {
            o.bind = Some(false);
        }
        if o.idmap.is_none() && !mount.uid_mappings.is_empty() {
            o.idmap = Some(false);
        }
        o
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_sorted_for_the_search() {
        assert!(WORDS.windows(2).all(|w| w[0].0 < w[1].0));
    }

    #[test]
    fn every_flag_of_a_super_block_is_one_of_mount() {
        let names = WORDS.iter().filter_map(|(_, word)| if let Word::Super(name) = word { Some(name) } else { None });
        assert!(names.map(|name| super_flag(name).count_ones()).eq([1; 5]));
    }

    #[test]
    fn an_escaped_comma_separates_nothing() {
        let all = |text| items(text).collect::<Vec<_>>();
        assert_eq!(all(r"a,lowerdir=/b\,c:/d\\,e"), ["a", r"lowerdir=/b\,c:/d\\", "e"]);
        assert_eq!(all(r"a\"), [r"a\"]);
    }

    #[test]
    fn the_last_word_wins() {
        let mount = Mount {
            options: ["ro", "rw", "noatime", "relatime", "nosuid"].map(String::from).into(),
            ..Mount::default()
        };
        let o = Options::of(&mount);
        assert_eq!(o.own, Change { set: attr::NOSUID, clear: attr::RDONLY | attr::ATIME_MASK });
    }

    #[test]
    fn what_is_taken_back_is_not_chosen() {
        let own = |words: &[&str]| {
            let options = words.iter().copied().map(String::from).collect();
            Options::of(&Mount { options, ..Mount::default() }).own
        };
        for nothing in [&["norelatime"][..], &["nostrictatime"], &["strictatime", "nostrictatime"]] {
            assert_eq!(own(nothing), Change::default(), "{nothing:?}");
        }
        assert_eq!(own(&["noatime", "norelatime", "nostrictatime"]), own(&["noatime"]));
        assert_eq!(own(&["relatime", "norelatime"]), Change::default());
    }
}
