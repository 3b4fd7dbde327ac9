//! Small files whose text the kernel makes up when they are read: proc(5), sysfs(5), cgroups(7).
//!
//! They say that they are empty, so `std::fs::read` would grow a buffer from nothing and ask twice as often as needed.

#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::{Errno, retry_on_intr};
use rustix::path::Arg;

/// The kernel fills a page per read(2) and cuts only between records (seq_file): what comes back shorter than half a page,
/// of a file none of whose records is that long, is all there is.
const SURELY_ALL: usize = 2048;

/// The text of a file with records (lines, mostly) of less than two KiB. What is not UTF-8 is replaced.
///
/// # Errors
/// Those of open(2) and read(2).
pub fn small<P: Arg + Copy>(path: P) -> rustix::io::Result<String> {
    read(path, SURELY_ALL)
}

/// The text of a file with records of any length, such as mountinfo.
///
/// # Errors
/// Those of open(2) and read(2).
pub fn whole<P: Arg + Copy>(path: P) -> rustix::io::Result<String> {
    read(path, 1)
}

/// As much of such a file as is wanted: `enough` is asked about the lines that have been read, when there are more than a
/// page of them and not more than a few. The answer says whether it is all; if not, it ends with a whole line.
///
/// # Errors
/// Those of open(2) and read(2).
pub fn enough<P: Arg + Copy>(path: P, mut enough: impl FnMut(&str) -> bool) -> rustix::io::Result<(String, bool)> {
    const PAGES: std::ops::RangeInclusive<u32> = 2..=5;
    let lines = |text: &[u8]| text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    let (mut pages, mut all) = (0, true);
    let mut text = pour(&open(path)?, 1, |text| {
        pages += 1;
        all = !PAGES.contains(&pages) || !enough(&String::from_utf8_lossy(&text[..lines(text)]));
        !all
    })?;
    if !all {
        text.truncate(lines(text.as_bytes()));
    }
    Ok((text, all))
}

/// [`small`] of a file that is open, from its start; it can be read again.
///
/// # Errors
/// Those of pread(2).
pub fn again(fd: &OwnedFd) -> rustix::io::Result<String> {
    pour(fd, SURELY_ALL, |_| false)
}

fn read<P: Arg + Copy>(path: P, surely_all: usize) -> rustix::io::Result<String> {
    pour(&open(path)?, surely_all, |_| false)
}

fn open<P: Arg + Copy>(path: P) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    retry_on_intr(|| rustix::fs::openat(CWD, path, flags, Mode::empty()))
}

fn pour(fd: &OwnedFd, surely_all: usize, mut enough: impl FnMut(&[u8]) -> bool) -> rustix::io::Result<String> {
    let mut page = [0; 4096];
    let mut text = Vec::new();
    loop {
        match rustix::io::pread(fd, &mut page, text.len() as u64) {
            Ok(n) => {
                text.extend_from_slice(&page[..n]);
                if n < surely_all || enough(&text) {
                    return Ok(String::from_utf8(text).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into()));
                }
            }
            Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_table_is_read_to_its_end() {
        let table = whole("/proc/self/mountinfo").unwrap();
        assert_eq!(table, std::fs::read_to_string("/proc/self/mountinfo").unwrap());
        // Several pages, in short records, of which the last one is the kernel's own.
        let long = small("/proc/self/smaps").unwrap();
        let last = long.lines().last().unwrap_or_default();
        assert!(long.len() > 4096 && last.starts_with("VmFlags:"), "{} bytes, {last}", long.len());
    }

    #[test]
    fn no_more_is_read_than_is_wanted() {
        const LONG: &str = "/proc/self/smaps";
        let (text, all) = enough(LONG, |lines| lines.ends_with('\n') && lines.len() > 4096).unwrap();
        assert!(!all && text.len() > 4096 && text.len() <= 8192 && text.ends_with('\n'), "{} bytes", text.len());
        let mut asked = 0;
        let whole = enough(LONG, |_| {
            asked += 1;
            false
        })
        .unwrap();
        assert!(whole.1 && whole.0.len() > 4096 && (1..=4).contains(&asked), "asked {asked} times");
        let (text, all) = enough(LONG, |_| false).unwrap();
        assert!(all && text.lines().last().is_some_and(|last| last.starts_with("VmFlags:")));
        // What fits into a page is not asked about.
        let (text, all) = enough("/proc/self/cgroup", |_| panic!("asked")).unwrap();
        assert_eq!((text, all), (std::fs::read_to_string("/proc/self/cgroup").unwrap(), true));
    }

    #[test]
    fn an_open_file_is_read_again() {
        let fd = OwnedFd::from(std::fs::File::open("/proc/self/status").unwrap());
        for _ in 0..2 {
            assert!(again(&fd).unwrap().starts_with("Name:"));
        }
    }

    #[test]
    fn what_is_not_there_is_an_errno() {
        assert_eq!(small("/proc/self/none").unwrap_err(), Errno::NOENT);
    }
}
