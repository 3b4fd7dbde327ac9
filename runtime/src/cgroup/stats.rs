//! What the kernel counts for a group: every number of containerd's metrics messages of version 1 and version 2.
//!
//! A file that this kernel does not have leaves its numbers at zero, or its part absent where the type says so. "max"
//! is `u64::MAX`. Directories are opened once and kept, files while they are asked for often; a call reads each file once
//! into one buffer, and forks nothing.

mod files;
mod v1;
mod v2;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use rustix::fs::OFlags;

pub use v1::{BlkioEntry, BlkioV1, CpuV1, MemoryEntry, MemoryOomControl, MemoryStatV1, MemoryV1, StatsV1};
pub use v2::{CpuV2, IoEntry, IoV2, MemoryEvents, MemoryStatV2, MemoryV2, Psi, PsiLine, StatsV2};

use super::file::{self, fault};
use super::{Record, Version};
use crate::error::Result;
pub(super) use files::Share;
pub use files::{COOLING, SOON};
use files::{Files, Reader};

/// One answer of [`Cgroup::stats`](super::Cgroup::stats). Which of the two decides which metrics message is sent: a
/// hybrid host answers with version 1.
#[derive(Clone, Debug, PartialEq)]
pub enum Stats {
    /// Some controller is on version 1.
    V1(Box<StatsV1>),
    /// Version 2 only.
    V2(Box<StatsV2>),
}

/// pids controller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pids {
    /// Tasks now.
    pub current: u64,
    /// `u64::MAX`: no limit.
    pub limit: u64,
}

/// One size of huge pages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hugetlb {
    /// `2MB`
    pub page_size: String,
    /// Bytes.
    pub usage: u64,
    /// Bytes; on a unified host the limit, else the highest usage so far, which is 0 where hugetlb is on the unified tree
    /// of a hybrid host, because version 2 does not count it.
    pub max: u64,
    /// How often the limit was hit.
    pub failcnt: u64,
}

/// Limits or use of one RDMA device; `u32::MAX`: no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RdmaEntry {
    /// `mlx5_0`
    pub device: String,
    /// hca_handle
    pub hca_handles: u32,
    /// hca_object
    pub hca_objects: u32,
}

/// rdma controller.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rdma {
    /// In use.
    pub current: Vec<RdmaEntry>,
    /// Allowed.
    pub limit: Vec<RdmaEntry>,
}

/// The controllers whose directories are kept open, in the order of [`Dirs::of`].
const CONTROLLERS: [&str; 7] = ["pids", "cpu", "cpuacct", "memory", "blkio", "hugetlb", "rdma"];

/// The open directories, from the first call on; and the files, while calls are frequent.
#[derive(Debug, Default)]
pub(super) struct Dirs {
    open: OnceLock<Open>,
    files: Mutex<Files>,
}

impl Dirs {
    /// What stat(2) says of a group's directory, if it is open already: a path to it is five components long. By the letter: to take
    /// two paths apart costs as much as reading a file does.
    pub(super) fn stat(&self, dir: &Path) -> Option<rustix::fs::Stat> {
        let (_, fd) = self.open.get()?.dirs.iter().find(|(known, _)| known.as_os_str() == dir.as_os_str())?;
        rustix::fs::fstat(fd).ok()
    }

    pub(super) fn is_warm(&self) -> bool {
        self.files.try_lock().map_or(true, |files| files.is_warm())
    }

    pub(super) fn cool(&self) -> bool {
        self.files.try_lock().is_ok_and(|mut files| files.cool())
    }

    /// Held for one call: the buffer is one.
    pub(super) fn files(&self) -> MutexGuard<'_, Files> {
        // Whatever a reader was at when it died, the next call reads anew.
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct Open {
    dirs: Vec<(PathBuf, OwnedFd)>,
    /// For each of [`CONTROLLERS`]: its version, and which directory.
    of: [Option<(Version, usize)>; 7],
    /// The version 2 tree.
    unified: Option<usize>,
}

impl Open {
    fn new(record: &Record) -> Result<Open> {
        let mut open = Open { dirs: Vec::new(), of: [None; 7], unified: None };
        for (i, name) in CONTROLLERS.iter().enumerate() {
            // On version 2 each controller's files are in the one directory, if its parents hand it down.
            if let Some((version, dir)) = record.find(name) {
                open.of[i] = Some((version, open.dir(dir)?));
            }
        }
        if record.is_unified()
            && let Some(place) = &record.unified
        {
            open.unified = Some(open.dir(place.dir())?);
        }
        Ok(open)
    }

    fn dir(&mut self, dir: PathBuf) -> Result<usize> {
        if let Some(i) = self.dirs.iter().position(|(known, _)| *known == dir) {
            return Ok(i);
        }
        let fd = file::open(&dir, OFlags::DIRECTORY | OFlags::PATH).map_err(|e| fault("open", &dir, e))?;
        self.dirs.push((dir, fd));
        Ok(self.dirs.len() - 1)
    }
}

pub(super) fn read(record: &Record, dirs: &Dirs) -> Result<Stats> {
    let open = match dirs.open.get() {
        Some(open) => open,
        None => {
            let open = Open::new(record)?;
            dirs.open.get_or_init(|| open)
        }
    };
    let mut files = dirs.files();
    let mut reader = Reader::new(open, &mut files);
    let read = match open.unified {
        Some(dir) => v2::read(&mut reader, dir).map(|stats| Stats::V2(Box::new(stats))),
        None => v1::read(&mut reader).map(|stats| Stats::V1(Box::new(stats))),
    };
    if read.is_err() || !reader.keeps() {
        files.forget();
    }
    read
}

impl Reader<'_> {
    /// Where a controller is.
    fn find(&self, controller: &str) -> Option<(Version, usize)> {
        let i = CONTROLLERS.iter().position(|c| *c == controller)?;
        self.open.of[i]
    }

    fn pids(&mut self, dir: usize) -> Result<Pids> {
        Ok(Pids { current: self.sure(dir, "pids.current")?, limit: self.or_zero(dir, "pids.max")? })
    }

    fn hugetlb(&mut self) -> Result<Vec<Hugetlb>> {
        let mut all = Vec::new();
        let Some((version, dir)) = self.find("hugetlb") else { return Ok(all) };
        for size in page_sizes() {
            let file = |name: &str| format!("hugetlb.{size}.{name}");
            let (usage, max) = match version {
                Version::V1 => ("usage_in_bytes", "max_usage_in_bytes"),
                Version::V2 => ("current", "max"),
            };
            let Some(usage) = self.number(dir, &file(usage))? else { continue };
            let counted = version == Version::V1 || self.open.unified.is_some();
            let max = if counted { self.or_zero(dir, &file(max))? } else { 0 };
            let failcnt = match version {
                Version::V1 => self.or_zero(dir, &file("failcnt"))?,
                Version::V2 => {
                    let events = self.text(dir, &file("events"))?.unwrap_or_default();
                    file::value(events, "max").map_or(0, number)
                }
            };
            all.push(Hugetlb { page_size: size.clone(), usage, max, failcnt });
        }
        Ok(all)
    }

    fn rdma(&mut self) -> Result<Rdma> {
        let Some((_, dir)) = self.find("rdma") else { return Ok(Rdma::default()) };
        let current = rdma(self.text(dir, "rdma.current")?.unwrap_or_default());
        let limit = rdma(self.text(dir, "rdma.max")?.unwrap_or_default());
        Ok(Rdma { current, limit })
    }
}

/// A number, or "max". What is neither is 0, as version 1 writes -1 nowhere in the files read here.
fn number(word: &str) -> u64 {
    if word == "max" { u64::MAX } else { word.parse().unwrap_or(0) }
}

/// Lines of `key value`; others are left out. In one pass, as such files are most of what a call reads: the library looks twice
/// at each line, and each time begins anew.
struct Table<'a>(&'a str);

impl<'a> Iterator for Table<'a> {
    type Item = (&'a str, u64);

    fn next(&mut self) -> Option<Self::Item> {
        while !self.0.is_empty() {
            let (mut space, mut end) = (None, self.0.len());
            for (i, byte) in self.0.bytes().enumerate() {
                match byte {
                    b' ' if space.is_none() => space = Some(i),
                    b'\n' => {
                        end = i;
                        break;
                    }
                    _ => {}
                }
            }
            let line = &self.0[..end];
            self.0 = self.0.get(end + 1..).unwrap_or_default();
            if let Some(space) = space {
                return Some((&line[..space], number(&line[space + 1..])));
            }
        }
        None
    }
}

/// Fills the fields of a table from lines of `key value`.
macro_rules! fill {
    ($text:expr, $into:expr, { $($key:literal => $field:ident),+ $(,)? }) => {
        for (key, value) in $crate::cgroup::stats::Table($text) {
            match key {
                $($key => $into.$field = value,)+
                _ => {}
            }
        }
    };
}
use fill;

/// `mlx5_0 hca_handle=2 hca_object=max`
fn rdma(text: &str) -> Vec<RdmaEntry> {
    let entry = |line: &str| {
        let mut words = line.split_whitespace();
        let mut entry = RdmaEntry { device: words.next()?.to_owned(), ..RdmaEntry::default() };
        for word in words {
            let count = |v: &str| u32::try_from(number(v)).unwrap_or(u32::MAX);
            match word.split_once('=') {
                Some(("hca_handle", v)) => entry.hca_handles = count(v),
                Some(("hca_object", v)) => entry.hca_objects = count(v),
                _ => {}
            }
        }
        Some(entry)
    };
    text.lines().filter_map(entry).collect()
}

/// The sizes of huge pages this kernel has, as control files name them; read once.
fn page_sizes() -> &'static [String] {
    static SIZES: OnceLock<Vec<String>> = OnceLock::new();
    SIZES.get_or_init(|| {
        let entries = std::fs::read_dir("/sys/kernel/mm/hugepages").into_iter().flatten().flatten();
        let mut kilobytes: Vec<u64> = entries
            .filter_map(|e| e.file_name().to_str()?.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok())
            .collect();
        kilobytes.sort_unstable();
        let name = |kb: u64| match kb {
            0x10_0000.. => format!("{}GB", kb >> 20),
            0x400.. => format!("{}MB", kb >> 10),
            _ => format!("{kb}KB"),
        };
        kilobytes.into_iter().map(name).collect()
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_table_is_its_lines(text in "([a-cé]{0,2} ?(0|7|12|max|x|18446744073709551615|18446744073709551616)?\n?){0,6}") {
            let by_lines = text.lines().filter_map(|line| line.split_once(' ')).map(|(key, value)| (key, number(value)));
            prop_assert_eq!(Table(&text).collect::<Vec<_>>(), by_lines.collect::<Vec<_>>());
        }
    }

    #[test]
    fn rdma_lines() {
        let seen = rdma("mlx4_0 hca_handle=2 hca_object=2000\nocrdma1 hca_handle=3 hca_object=max\n");
        assert_eq!(seen[1], RdmaEntry { device: "ocrdma1".into(), hca_handles: 3, hca_objects: u32::MAX });
        assert_eq!(seen[0].hca_objects, 2000);
    }

    /// A hybrid host with memory on its unified tree. The files are ordinary ones: such a host is rare.
    #[test]
    fn memory_beside_version_1() {
        use crate::cgroup::Place;
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        put("pids/c/pids.current", "3\n");
        put("unified/c/memory.current", "8192\n");
        put("unified/c/memory.max", "max\n");
        put("unified/c/memory.stat", "anon 4096\nfile 2048\ninactive_file 1024\n");
        put("unified/c/memory.events", "max 2\noom_kill 1\n");
        let place = |mount: &str, controller: &str| Place {
            controllers: vec![controller.to_owned()],
            mount: dir.path().join(mount),
            group: "c".to_owned(),
        };
        let record =
            Record { v1: vec![place("pids", "pids")], unified: Some(place("unified", "memory")), systemd: None };
        let Stats::V1(stats) = read(&record, &Dirs::default()).unwrap() else { panic!("no message of version 1") };
        let memory = &stats.memory;
        assert_eq!((stats.pids.current, memory.usage.usage, memory.usage.failcnt), (3, 8192, 2));
        assert_eq!((memory.stat.rss, memory.stat.total_cache, memory.stat.total_inactive_file), (4096, 2048, 1024));
        assert_eq!(memory.usage.limit >> 62, 1, "as without a limit on version 1: {}", memory.usage.limit);
        assert_eq!(stats.memory_oom_control.oom_kill, 1);
    }

    #[test]
    fn numbers() {
        assert_eq!((number("max"), number("17"), number("")), (u64::MAX, 17, 0));
    }
}
