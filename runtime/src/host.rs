//! Facts about this machine, read once: plain data that a test can make up.

#![forbid(unsafe_code)]

use std::path::Path;

use crate::cgroup::Layout;
use crate::error::{Error, Result};
use crate::kernfs;
use crate::own::{self, Files};
use crate::seccomp::{Arch, Available};

/// What a compilation may depend on beside the spec.
#[derive(Clone, Debug)]
pub struct Host {
    /// Kernel version, major and minor.
    pub kernel: (u32, u32),
    /// Architecture of the seccomp filter.
    pub arch: Arch,
    /// What the kernel's seccomp can do.
    pub seccomp: Available,
    /// Control group hierarchies.
    pub cgroup: Layout,
    /// Highest capability of this kernel.
    pub last_cap: u8,
    /// mount_setattr(2) is there (Linux 5.12): recursive attributes and idmapped mounts.
    pub mount_setattr: bool,
    /// open_tree_attr(2) is there (Linux 6.15).
    pub open_tree_attr: bool,
    /// /proc/kcore exists, so that /dev/core makes sense.
    pub kcore: bool,
    /// AppArmor is enabled.
    pub apparmor: bool,
    /// Below /proc, the file that takes a profile for the next execve.
    pub apparmor_attr: &'static str,
    /// The limit of open files of who has no other; `None` if it is ours.
    pub files: Option<Files>,
}

impl Host {
    /// Reads the facts.
    ///
    /// Fails only when /proc or /sys do not look like a Linux of at least 5.10.
    pub fn read() -> Result<Self> {
        let kernel = new_enough()?;
        let apparmor = kernfs::small("/sys/module/apparmor/parameters/enabled").is_ok_and(|e| e.starts_with('Y'));
        let stacked = apparmor && Path::new("/proc/self/attr/apparmor/exec").exists();
        Ok(Self {
            kernel,
            arch: Arch::NATIVE,
            seccomp: Available::read()?,
            cgroup: Layout::read()?,
            last_cap: last_cap(),
            mount_setattr: kernel >= (5, 12),
            open_tree_attr: kernel >= (6, 15) && crate::sys::has_open_tree_attr(),
            kcore: rustix::fs::access("/proc/kcore", rustix::fs::Access::EXISTS).is_ok(),
            apparmor,
            apparmor_attr: if stacked { "thread-self/attr/apparmor/exec" } else { "thread-self/attr/exec" },
            files: own::files(),
        })
    }
}

/// The kernel's version, major and minor.
///
/// Fails when it is older than 5.10.
pub fn new_enough() -> Result<(u32, u32)> {
    let kernel = kernel()?;
    if kernel < (5, 10) {
        let reason = format!("Linux {}.{} is too old: 5.10 is the oldest that works", kernel.0, kernel.1);
        return Err(Error::new(crate::error::Kind::Unsupported, "uname", "", reason));
    }
    Ok(kernel)
}

/// The kernel's version: major, minor.
pub(crate) fn kernel() -> Result<(u32, u32)> {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    let mut parts = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse::<u32>());
    match (parts.next(), parts.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => Ok((major, minor)),
        _ => Err(Error::new(crate::error::Kind::Unsupported, "uname", release, "not a kernel version")),
    }
}

/// CAP_CHECKPOINT_RESTORE came with 5.9, below our floor: it is always there.
fn last_cap() -> u8 {
    const NEWEST: u8 = 40;
    let exists = |cap: u8| crate::child::call::prctl(libc::PR_CAPBSET_READ, cap.into(), 0, 0, 0).is_ok();
    if !exists(NEWEST + 1) {
        return NEWEST;
    }
    let text = kernfs::small("/proc/sys/kernel/cap_last_cap").unwrap_or_default();
    text.trim().parse().unwrap_or(NEWEST)
}
