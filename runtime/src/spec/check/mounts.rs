//! Checks of `/mounts`.
#![forbid(unsafe_code)]

use super::namespaces::{has, mappings};
use super::{no_nul, no_nul_in, path, text, under, words};
use crate::error::{Error, Result};
use crate::spec::{Mount, NamespaceKind, Spec};

pub(super) fn mounts(spec: &Spec) -> Result<()> {
    if !spec.mounts.is_empty() && !has(&spec.linux, NamespaceKind::Mount) {
        return Err(Error::invalid("/mounts", "mounts need a mount namespace, they would change the host's"));
    }
    let users = has(&spec.linux, NamespaceKind::User);
    for (i, m) in spec.mounts.iter().enumerate() {
        mount(m, users).map_err(|e| under(&format!("/mounts/{i}"), e))?;
    }
    Ok(())
}

fn mount(m: &Mount, user_namespace: bool) -> Result<()> {
    text("/destination", &m.destination)?;
    path("/destination", &m.destination)?;
    no_nul("/type", &m.kind)?;
    path("/source", &m.source)?;
    no_nul_in("/options", &m.options)?;
    if is_root(&m.destination) {
        return Err(Error::invalid("/destination", "mounting into / is prohibited"));
    }
    let bind = m.kind == "bind" || m.options.iter().any(|o| o == "bind" || o == "rbind");
    if bind {
        // The kernel ignores data of a bind mount in silence. An empty word is no data (`"options": [""]`).
        let data = m.options.iter().position(|o| !o.is_empty() && !words::is_mount_option(o));
        if let Some(i) = data {
            let why = "bind mounts cannot have any filesystem-specific options applied";
            return Err(Error::invalid(format!("/options/{i}"), why));
        }
        text("/source", &m.source)?;
    }
    if let Some(i) = m.options.iter().position(|o| o == "tmpcopyup")
        && (bind || m.kind != "tmpfs")
    {
        return Err(Error::invalid(format!("/options/{i}"), "tmpcopyup is for tmpfs only"));
    }
    idmap(m, bind, user_namespace)
}

fn idmap(m: &Mount, bind: bool, user_namespace: bool) -> Result<()> {
    let word = m.options.iter().position(|o| words::MOUNT_IDMAP.contains(&o.as_str()));
    let given = !m.uid_mappings.is_empty() || !m.gid_mappings.is_empty();
    if word.is_none() && !given {
        return Ok(());
    }
    let at = word.map_or_else(|| "/uidMappings".into(), |i| format!("/options/{i}"));
    if !bind {
        return Err(Error::invalid(at, "id-mapped mounts are only supported for bind-mounts"));
    }
    if m.uid_mappings.is_empty() != m.gid_mappings.is_empty() || (!given && !user_namespace) {
        return Err(Error::invalid(at, "id-mapped mounts must have both uid and gid mappings specified"));
    }
    mappings("/uidMappings", &m.uid_mappings)?;
    mappings("/gidMappings", &m.gid_mappings)
}

/// True when the path is the root itself however it is written. `..` cannot lead out of a root.
pub(super) fn is_root(path: &str) -> bool {
    let mut depth = 0_usize;
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => depth = depth.saturating_sub(1),
            _ => depth += 1,
        }
    }
    depth == 0
}
