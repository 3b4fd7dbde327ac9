//! What can be said about a config.json without looking at the host: missing and contradictory values, and fields that
//! are known and not implemented.
//!
//! Where runc has a sentence for a mistake we use it, because people search for it.
#![forbid(unsafe_code)]

mod linux;
mod mounts;
mod namespaces;
mod process;

pub use linux::resources;
pub use namespaces::sysctl_path;
pub use process::{environment, process};

use super::{Hook, Resources, Spec, words};
use crate::error::{Error, Kind, Result};

/// Ids above this are not ids: setresuid(2) and chown(2) take 4294967295 as "leave it as it is".
const MAX_ID: u32 = u32::MAX - 1;

/// One key of a JSON pointer.
pub(crate) fn escape(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

/// Refuses what is wrong, contradictory or not implemented, each by its JSON pointer.
///
/// # Errors
/// `Invalid` or `Unsupported`; the first one found in the order process, root, mounts, hooks, linux.
pub fn spec(spec: &Spec) -> Result<()> {
    if let Some(process) = &spec.process {
        self::process(process).map_err(|e| under("/process", e))?;
    }
    root(spec)?;
    mounts::mounts(spec)?;
    hooks(spec)?;
    namespaces::namespaces(&spec.linux)?;
    namespaces::uts(spec)?;
    namespaces::users(spec)?;
    namespaces::time(&spec.linux)?;
    namespaces::sysctl(&spec.linux)?;
    linux::linux(spec)
}

/// What is odd but allowed, in words for a log: runc warns of the same.
pub fn warnings(spec: &Spec) -> Vec<String> {
    let mut out = spec.process.as_ref().map(process::warnings).unwrap_or_default();
    for mount in spec.mounts.iter().filter(|m| !m.destination.starts_with('/')) {
        out.push(format!("mount destination {:?} is not absolute, using it as relative to /", mount.destination));
    }
    out.extend(resources_warning(&spec.linux.resources).map(str::to_owned));
    out
}

/// The same of limits, also those of an update.
pub fn resources_warning(resources: &Resources) -> Option<&'static str> {
    let ignored = resources.memory.as_ref().is_some_and(|m| m.kernel.is_some() || m.kernel_tcp.is_some());
    ignored.then_some("Kernel memory settings are ignored and will be removed")
}

/// Checks a container id: the letters that runc allows, and no longer than a file name can be (255 bytes), because it
/// names directories.
///
/// # Errors
/// `Invalid` without a pointer: an id is not part of config.json.
pub fn id(id: &str) -> Result<()> {
    let shown: String = id.chars().take(64).collect();
    let bad = |why: &str| Err(Error::new(Kind::Invalid, "", shown.clone(), why));
    if id.is_empty() {
        return Err(Error::new(Kind::Invalid, "", "", "container id cannot be empty"));
    }
    if !id.bytes().all(|b| b.is_ascii_alphanumeric() || b"_+.-".contains(&b)) || id == "." || id == ".." {
        return bad("invalid container ID format");
    }
    if id.len() > 255 {
        return bad("container id is longer than 255 bytes");
    }
    Ok(())
}

fn root(spec: &Spec) -> Result<()> {
    let Some(root) = &spec.root else {
        return Err(Error::invalid("/root", "root must be specified"));
    };
    text("/root/path", &root.path)?;
    path("/root/path", &root.path)?;
    if root.readonly && !namespaces::has(&spec.linux, super::NamespaceKind::Mount) {
        return Err(Error::invalid("/root/readonly", "needs a mount namespace"));
    }
    Ok(())
}

fn hooks(spec: &Spec) -> Result<()> {
    let h = &spec.hooks;
    let lists = [
        ("prestart", &h.prestart),
        ("createRuntime", &h.create_runtime),
        ("createContainer", &h.create_container),
        ("startContainer", &h.start_container),
        ("poststart", &h.poststart),
        ("poststop", &h.poststop),
    ];
    for (name, list) in lists {
        for (i, hook) in list.iter().enumerate() {
            self::hook(hook).map_err(|e| under(&format!("/hooks/{name}/{i}"), e))?;
        }
    }
    Ok(())
}

fn hook(hook: &Hook) -> Result<()> {
    absolute("/path", &hook.path)?;
    no_nul_in("/args", &hook.args)?;
    no_nul_in("/env", hook.env.as_deref().unwrap_or_default())?;
    match hook.timeout {
        Some(seconds) if seconds <= 0 => Err(Error::invalid("/timeout", "must be greater than zero")),
        _ => Ok(()),
    }
}

/// The same error with its pointer below `base`.
fn under(base: &str, mut error: Error) -> Error {
    error.from.insert_str(0, base);
    error
}

/// Refuses NUL: every string of config.json becomes a C string.
fn no_nul(pointer: &str, value: &str) -> Result<()> {
    if value.contains('\0') { Err(Error::invalid(pointer, "contains a null byte")) } else { Ok(()) }
}

fn no_nul_in(pointer: &str, values: &[String]) -> Result<()> {
    values.iter().enumerate().try_for_each(|(i, v)| no_nul(&format!("{pointer}/{i}"), v))
}

/// Not empty, no NUL.
fn text(pointer: &str, value: &str) -> Result<()> {
    if value.is_empty() {
        return Err(Error::invalid(pointer, "must not be empty"));
    }
    no_nul(pointer, value)
}

/// A path that the kernel may take (PATH_MAX with its NUL). Longer ones would only make plans long: an image may have any
/// number of directories in its WORKDIR.
fn path(pointer: &str, value: &str) -> Result<()> {
    no_nul(pointer, value)?;
    if value.len() >= 4096 { Err(Error::invalid(pointer, "is longer than 4095 bytes")) } else { Ok(()) }
}

/// An absolute path without NUL.
fn absolute(pointer: &str, value: &str) -> Result<()> {
    text(pointer, value)?;
    path(pointer, value)?;
    if value.starts_with('/') { Ok(()) } else { Err(Error::invalid(pointer, "must be an absolute path")) }
}

fn user_id(pointer: &str, id: u32) -> Result<()> {
    if id > MAX_ID { Err(Error::invalid(pointer, "4294967295 is not an id")) } else { Ok(()) }
}
