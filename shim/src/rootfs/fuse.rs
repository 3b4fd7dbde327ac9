//! File systems in user space, whose mount is made by a helper program: fuse-overlayfs, stargz and their like.

#![forbid(unsafe_code)]

use std::ffi::{OsStr, OsString};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use containerd_shim_protos::types::mount::Mount;
use runtime::program::Program;
use runtime::reap::End;
use runtime::{Error, Kind, Result};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags};

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
    let target = place.path.as_os_str().to_owned();
    let mut words: Vec<OsString> = vec![program.into(), mount.source.clone().into(), target];
    words.extend(mount.options.iter().flat_map(|option| ["-o".into(), option.into()]));
    words.extend(["-t".into(), kind.into()]);
    let env: Vec<OsString> = std::env::vars_os().map(|(name, value)| [name, value].join(OsStr::new("="))).collect();
    let failed = |reason: String| {
        Error::new(Kind::Kernel, "mount", format!("{program} {} at {}", mount.source, place.path.display()), reason)
    };
    let null = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| Error::sys("open", "/dev/null", e))?;
    // Where we are: a source may be a relative path.
    let helper = Program::start(program, &words, &env, Path::new("."), null.as_fd());
    let helper = helper.map_err(|e| failed(e.to_string()))?;
    let end = helper.wait(None);
    if mount_id(place)? != before {
        made.push(place.path.clone());
    }
    match end? {
        Some(End::Exited(0)) => Ok(()),
        end => {
            let end = end.map(|end| end.to_string()).unwrap_or_default();
            Err(failed(format!("{end}: {}", helper.last_words().unwrap_or_default())))
        }
    }
}

/// The mount that the place shows now.
fn mount_id(place: &Place) -> Result<u64> {
    let stat = rustix::fs::statx(CWD, &place.path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::MNT_ID)
        .map_err(|e| place.failed("statx", e))?;
    Ok(stat.stx_mnt_id)
}
