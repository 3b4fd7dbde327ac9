//! File systems in user space, whose mount is made by a helper program: fuse-overlayfs, stargz and their like.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::{Command, Stdio};

use containerd_shim_protos::types::mount::Mount;
use runtime::{Error, Kind, Result};
use rustix::fs::{AtFlags, CWD, StatxFlags};

use super::Place;

/// The helper's name and the type behind the prefix, for a type such as `fuse3.fuse-overlayfs`.
pub fn helper(kind: &str) -> Option<(&'static str, &str)> {
    [("fuse.", "mount.fuse"), ("fuse3.", "mount.fuse3")]
        .into_iter()
        .find_map(|(prefix, program)| Some((program, kind.strip_prefix(prefix)?)))
}

/// Runs `mount.fuse SOURCE TARGET -o OPTION … -t TYPE` and waits for it. The server it leaves behind becomes our child.
pub fn mount(program: &str, kind: &str, mount: &Mount, place: &Place, made: &mut Vec<PathBuf>) -> Result<()> {
    let before = mount_id(place)?;
    let mut command = Command::new(program);
    command.arg(&mount.source).arg(&place.path);
    for option in &mount.options {
        command.arg("-o").arg(option);
    }
    command.arg("-t").arg(kind).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let result = command.spawn().and_then(std::process::Child::wait_with_output);
    if mount_id(place)? != before {
        made.push(place.path.clone());
    }
    let failed = |reason: String| {
        Err(Error::new(
            Kind::Kernel,
            "mount",
            format!("{program} {} at {}", mount.source, place.path.display()),
            reason,
        ))
    };
    match result {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => failed(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim())),
        // The shim's sweep of orphans took the status. The helper has ended, so the mount is there or never will be.
        Err(e) if e.raw_os_error() == Some(libc::ECHILD) && !made.is_empty() && made.last() == Some(&place.path) => {
            Ok(())
        }
        Err(e) => failed(e.to_string()),
    }
}

/// The mount that the place shows now.
fn mount_id(place: &Place) -> Result<u64> {
    let stat = rustix::fs::statx(CWD, &place.path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::MNT_ID)
        .map_err(|e| place.failed("statx", e))?;
    Ok(stat.stx_mnt_id)
}
