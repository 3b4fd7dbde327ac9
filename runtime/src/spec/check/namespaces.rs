//! Checks of namespaces and of what belongs to one: host name, id maps, clocks and kernel parameters.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use super::{absolute, escape, no_nul};
use crate::error::{Error, Result};
use crate::spec::{IdMapping, Linux, Namespace, NamespaceKind, Spec};

/// The kernel takes no more lines in one uid_map (user_namespaces(7)).
const MAX_EXTENTS: usize = 340;

/// Longest host and domain name: __NEW_UTS_LEN.
const UTS_LEN: usize = 64;

fn find(linux: &Linux, kind: NamespaceKind) -> Option<&Namespace> {
    linux.namespaces.iter().find(|ns| ns.kind == kind)
}

/// True when the container does not live in our own namespace of that kind, be it a new or a joined one.
pub(super) fn has(linux: &Linux, kind: NamespaceKind) -> bool {
    find(linux, kind).is_some()
}

fn is_new(linux: &Linux, kind: NamespaceKind) -> bool {
    find(linux, kind).is_some_and(|ns| ns.path.is_empty())
}

pub(super) fn namespaces(linux: &Linux) -> Result<()> {
    for (i, ns) in linux.namespaces.iter().enumerate() {
        if linux.namespaces[..i].iter().any(|other| other.kind == ns.kind) {
            let name = serde_json::to_string(&ns.kind).unwrap_or_default();
            let why = format!("malformed spec file: duplicated ns {name}");
            return Err(Error::invalid(format!("/linux/namespaces/{i}/type"), why));
        }
        if !ns.path.is_empty() {
            absolute(&format!("/linux/namespaces/{i}/path"), &ns.path)?;
        }
    }
    Ok(())
}

pub(super) fn uts(spec: &Spec) -> Result<()> {
    for (field, value) in [("hostname", &spec.hostname), ("domainname", &spec.domainname)] {
        let at = format!("/{field}");
        if value.is_empty() {
            continue;
        }
        if !has(&spec.linux, NamespaceKind::Uts) {
            return Err(Error::invalid(at, format!("unable to set {field} without a private UTS namespace")));
        }
        no_nul(&at, value)?;
        if value.len() > UTS_LEN {
            return Err(Error::invalid(at, format!("is longer than {UTS_LEN} bytes")));
        }
    }
    Ok(())
}

/// The maps of the user namespace, and that every id of the process is in them. With a namespace to join, its own maps
/// count and only they: comparing them is done where the host may be looked at.
pub(super) fn users(spec: &Spec) -> Result<()> {
    let linux = &spec.linux;
    let maps = [("uid", &linux.uid_mappings), ("gid", &linux.gid_mappings)];
    for (id, map) in maps {
        let at = format!("/linux/{id}Mappings");
        if map.is_empty() && is_new(linux, NamespaceKind::User) {
            return Err(Error::invalid(at, format!("user namespaces enabled, but no {id} mappings found")));
        }
        mappings(&at, map)?;
        // The child becomes id 0 of the new namespace before it can do anything there.
        if !map.is_empty() && !is_mapped(map, 0) {
            return Err(Error::invalid(at, format!("{id} 0 of the container is not mapped")));
        }
    }
    let Some(process) = spec.process.as_ref().filter(|_| is_new(linux, NamespaceKind::User)) else {
        return Ok(());
    };
    for (id, value, map) in
        [("uid", process.user.uid, &linux.uid_mappings), ("gid", process.user.gid, &linux.gid_mappings)]
    {
        if !is_mapped(map, value) {
            let why = format!("cannot set {id} to unmapped user in user namespace");
            return Err(Error::invalid(format!("/process/user/{id}"), why));
        }
    }
    match process.user.additional_gids.iter().position(|gid| !is_mapped(&linux.gid_mappings, *gid)) {
        Some(i) => Err(Error::invalid(
            format!("/process/user/additionalGids/{i}"),
            "cannot set gid to unmapped user in user namespace",
        )),
        None => Ok(()),
    }
}

fn is_mapped(map: &[IdMapping], id: u32) -> bool {
    map.iter().any(|m| id >= m.container_id && u64::from(id) < u64::from(m.container_id) + u64::from(m.size))
}

/// One id map as the kernel checks it when it is written (user_namespaces(7)): at most 340 ranges, none empty, none
/// beyond the last id, none overlapping another inside or outside.
pub(super) fn mappings(pointer: &str, map: &[IdMapping]) -> Result<()> {
    if map.len() > MAX_EXTENTS {
        return Err(Error::invalid(pointer, format!("has {} ranges, the kernel takes {MAX_EXTENTS}", map.len())));
    }
    for (i, m) in map.iter().enumerate() {
        let bad = |field: &str, why: &str| Err(Error::invalid(format!("{pointer}/{i}/{field}"), why));
        if m.size == 0 {
            return bad("size", "must not be 0");
        }
        for (field, first) in [("containerID", m.container_id), ("hostID", m.host_id)] {
            if first.checked_add(m.size).is_none() {
                return bad(field, "the range goes beyond the last id, 4294967294");
            }
        }
        for other in &map[..i] {
            for (field, a, b) in
                [("containerID", m.container_id, other.container_id), ("hostID", m.host_id, other.host_id)]
            {
                if overlap(a, m.size, b, other.size) {
                    return bad(field, "the range overlaps an earlier one");
                }
            }
        }
    }
    Ok(())
}

fn overlap(a: u32, a_size: u32, b: u32, b_size: u32) -> bool {
    u64::from(a) < u64::from(b) + u64::from(b_size) && u64::from(b) < u64::from(a) + u64::from(a_size)
}

pub(super) fn time(linux: &Linux) -> Result<()> {
    if linux.time_offsets.is_empty() {
        return Ok(());
    }
    if !has(linux, NamespaceKind::Time) {
        let why = "time namespace offsets specified, but time namespace isn't enabled in the config";
        return Err(Error::invalid("/linux/timeOffsets", why));
    }
    if !is_new(linux, NamespaceKind::Time) {
        return Err(Error::invalid("/linux/timeOffsets", "offsets of a time namespace that is joined cannot be set"));
    }
    for (clock, offset) in &linux.time_offsets {
        let at = format!("/linux/timeOffsets/{}", escape(clock));
        if clock != "monotonic" && clock != "boottime" {
            return Err(Error::invalid(at, format!("invalid clock {clock:?}: monotonic and boottime have offsets")));
        }
        if offset.nanosecs >= 1_000_000_000 {
            return Err(Error::invalid(at + "/nanosecs", "must be less than 1000000000"));
        }
    }
    Ok(())
}

pub(super) fn sysctl(linux: &Linux) -> Result<()> {
    let mut seen = BTreeSet::new();
    for (key, value) in &linux.sysctl {
        let at = format!("/linux/sysctl/{}", escape(key));
        let path = sysctl_path(key).map_err(|e| e.at(at.clone()))?;
        namespaced(linux, &path).map_err(|why| Error::invalid(at.clone(), why))?;
        no_nul(&at, value)?;
        if !seen.insert(path) {
            return Err(Error::invalid(at, format!("sysctl {key:?} is given twice")));
        }
    }
    Ok(())
}

/// The file below /proc/sys that a key of `/linux/sysctl` names, as sysctl(8) reads it: the first separator decides
/// whether `.` or `/` parts the names, the other one is then a letter (`net/ipv4/conf/eth0.100/forwarding` and
/// `net.ipv4.conf.eth0/100.forwarding` are the same file).
///
/// # Errors
/// `Invalid` without a pointer for a key with an empty, `.` or `..` name in it: it would lead elsewhere (CVE-2022-0811).
pub fn sysctl_path(key: &str) -> Result<String> {
    let dots_separate = key.find(['.', '/']).is_none_or(|i| key.as_bytes()[i] == b'.');
    let path: String = key
        .chars()
        .map(|c| match c {
            '.' if dots_separate => '/',
            '/' if dots_separate => '.',
            c => c,
        })
        .collect();
    let sound = |name: &str| !name.is_empty() && name != "." && name != ".." && !name.contains('\0');
    if path.split('/').all(sound) { Ok(path) } else { Err(Error::invalid("", format!("invalid sysctl {key:?}"))) }
}

/// Only what belongs to a namespace of the container may be written. The list is runc's.
fn namespaced(linux: &Linux, path: &str) -> std::result::Result<(), String> {
    const IPC: [&str; 8] = ["msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced"];
    let name = path.replace('/', ".");
    let kernel = path.strip_prefix("kernel/").unwrap_or_default();
    if IPC.contains(&kernel) || path.starts_with("fs/mqueue/") {
        return if has(linux, NamespaceKind::Ipc) {
            Ok(())
        } else {
            Err(format!("sysctl {name:?} is not allowed in the hosts ipc namespace"))
        };
    }
    if path.starts_with("net/") {
        return if has(linux, NamespaceKind::Network) {
            Ok(())
        } else {
            Err(format!("sysctl {name:?} not allowed in host network namespace"))
        };
    }
    if path.starts_with("user/") && has(linux, NamespaceKind::User) {
        return Ok(());
    }
    match kernel {
        "domainname" if has(linux, NamespaceKind::Uts) => Ok(()),
        "hostname" if has(linux, NamespaceKind::Uts) => {
            Err(format!("sysctl {name:?} is not allowed as it conflicts with the OCI \"hostname\" field"))
        }
        _ => Err(format!("sysctl {name:?} is not in a separate kernel namespace")),
    }
}
