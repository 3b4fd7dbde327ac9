//! Checks of the rest of `/linux`: paths, devices, resources, the shape of seccomp, and what is not implemented.
#![forbid(unsafe_code)]

use serde_json::Value;

use super::namespaces::has;
use super::{absolute, escape, no_nul, path, text, under, user_id, words};
use crate::error::{Error, Result};
use crate::spec::{Device, DeviceRule, Linux, NamespaceKind, Resources, Seccomp, Spec};

pub(super) fn linux(spec: &Spec) -> Result<()> {
    let linux = &spec.linux;
    unsupported(linux)?;
    paths(linux)?;
    for (i, d) in linux.devices.iter().enumerate() {
        device(d).map_err(|e| under(&format!("/linux/devices/{i}"), e))?;
    }
    for (i, rule) in linux.resources.devices.iter().enumerate() {
        device_rule(rule).map_err(|e| under(&format!("/linux/resources/devices/{i}"), e))?;
    }
    resources(&linux.resources).map_err(|e| under("/linux/resources", e))?;
    if let Some(s) = &linux.seccomp {
        seccomp(s).map_err(|e| under("/linux/seccomp", e))?;
    }
    match &linux.personality {
        Some(p) if !["LINUX", "LINUX32"].contains(&p.domain.as_str()) => {
            Err(Error::invalid("/linux/personality/domain", format!("invalid personality domain {}", p.domain)))
        }
        // The specification defines none; runc warns and goes on, we accept nothing that we do not do.
        Some(p) if !p.flags.is_empty() => Err(Error::unsupported("/linux/personality/flags", "no flag is defined")),
        _ => Ok(()),
    }
}

/// Fields of the specification that this version does not implement. An empty value asks for nothing.
fn unsupported(linux: &Linux) -> Result<()> {
    let is_nothing = |value: &Value| match value {
        Value::Null => true,
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::String(text) => text.is_empty(),
        _ => false,
    };
    let fields =
        [("intelRdt", &linux.intel_rdt), ("netDevices", &linux.net_devices), ("memoryPolicy", &linux.memory_policy)];
    for (field, value) in fields {
        if value.as_ref().is_some_and(|v| !is_nothing(v)) {
            return Err(Error::unsupported(format!("/linux/{field}"), "is not implemented"));
        }
    }
    if linux.mount_label.is_empty() {
        return Ok(());
    }
    Err(Error::unsupported("/linux/mountLabel", "is not implemented, SELinux is not supported"))
}

fn paths(linux: &Linux) -> Result<()> {
    let private = has(linux, NamespaceKind::Mount);
    for (field, list) in [("maskedPaths", &linux.masked_paths), ("readonlyPaths", &linux.readonly_paths)] {
        if !list.is_empty() && !private {
            let why = "unable to restrict sys entries without a private MNT namespace";
            return Err(Error::invalid(format!("/linux/{field}"), why));
        }
        for (i, path) in list.iter().enumerate() {
            absolute(&format!("/linux/{field}/{i}"), path)?;
        }
    }
    path("/linux/cgroupsPath", &linux.cgroups_path)?;
    let word = linux.rootfs_propagation.as_str();
    if word.is_empty() {
        return Ok(());
    }
    if !words::PROPAGATION.contains(&word) {
        let why = format!("rootfsPropagation={word} is not supported");
        return Err(Error::invalid("/linux/rootfsPropagation", why));
    }
    if !private {
        return Err(Error::invalid("/linux/rootfsPropagation", "needs a mount namespace, it would change the host's"));
    }
    Ok(())
}

fn device(d: &Device) -> Result<()> {
    if !["c", "u", "b", "p"].contains(&d.kind.as_str()) {
        return Err(Error::invalid("/type", format!("invalid device type {:?}", d.kind)));
    }
    absolute("/path", &d.path)?;
    if super::mounts::is_root(&d.path) {
        return Err(Error::invalid("/path", "names no file"));
    }
    // mknod(2) takes 12 bits of major and 20 of minor and drops the others in silence. A fifo has no number.
    if d.kind != "p" {
        for (field, value, bits) in [("major", d.major, 12), ("minor", d.minor, 20)] {
            if !(0..1_i64 << bits).contains(&value) {
                return Err(Error::invalid(format!("/{field}"), format!("{value} is not between 0 and 2^{bits}-1")));
            }
        }
    }
    // Type bits may be set (docker copies st_mode), they are dropped as runc does; nothing else may.
    if d.file_mode.is_some_and(|mode| mode & !0o177_777 != 0) {
        return Err(Error::invalid("/fileMode", "has bits that are not of a file mode"));
    }
    d.uid.map_or(Ok(()), |id| user_id("/uid", id))?;
    d.gid.map_or(Ok(()), |id| user_id("/gid", id))
}

/// Checks limits, those of a create and those of an update; pointers are relative to them. Device rules are not among them:
/// an update ignores these. What depends on the hierarchy (v1 or v2) or on present values is left to the controller.
///
/// # Errors
/// `Invalid`.
pub fn resources(r: &Resources) -> Result<()> {
    for (i, limit) in r.hugepage_limits.iter().enumerate() {
        let number = ["KB", "MB", "GB"].iter().find_map(|unit| limit.page_size.strip_suffix(unit));
        if !number.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit())) {
            let why = format!("{:?} is not a page size such as 2MB", limit.page_size);
            return Err(Error::invalid(format!("/hugepageLimits/{i}/pageSize"), why));
        }
    }
    for key in r.unified.keys() {
        let at = format!("/unified/{}", escape(key));
        text(&at, key)?;
        if key.contains('/') || key.starts_with('.') {
            return Err(Error::invalid(at, format!("unified resource {key:?} must be a file name (no slashes)")));
        }
    }
    // Both become words of a line that is written to the controller.
    let word = |at: String, name: &str| {
        text(&at, name)?;
        if name.contains(char::is_whitespace) { Err(Error::invalid(at, "contains a blank")) } else { Ok(()) }
    };
    for name in r.rdma.keys() {
        word(format!("/rdma/{}", escape(name)), name)?;
    }
    for (i, p) in r.network.iter().flat_map(|n| &n.priorities).enumerate() {
        word(format!("/network/priorities/{i}/name"), &p.name)?;
    }
    let cpu = r.cpu.as_ref();
    no_nul("/cpu/cpus", cpu.map_or("", |c| &c.cpus))?;
    no_nul("/cpu/mems", cpu.map_or("", |c| &c.mems))
}

fn device_rule(rule: &DeviceRule) -> Result<()> {
    if !["", "a", "b", "c"].contains(&rule.kind.as_str()) {
        return Err(Error::invalid("/type", format!("invalid cgroup device type {:?}", rule.kind)));
    }
    if rule.access.is_empty() {
        return Err(Error::invalid("/access", "device access field cannot be empty"));
    }
    if !rule.access.bytes().all(|b| b"rwm".contains(&b)) {
        return Err(Error::invalid("/access", format!("{:?} is not made of r, w and m", rule.access)));
    }
    for (field, value) in [("major", rule.major), ("minor", rule.minor)] {
        if value.is_some_and(|n| !(-1..=i64::from(u32::MAX)).contains(&n)) {
            return Err(Error::invalid(format!("/{field}"), "is not a device number"));
        }
    }
    Ok(())
}

/// Only the shape: words and architectures are the compiler's.
fn seccomp(s: &Seccomp) -> Result<()> {
    if s.asks_for_nothing() {
        return Ok(());
    }
    text("/defaultAction", &s.default_action)?;
    if !s.listener_path.is_empty() {
        absolute("/listenerPath", &s.listener_path)?;
    }
    for (i, rule) in s.syscalls.iter().enumerate() {
        if rule.names.is_empty() {
            return Err(Error::invalid(format!("/syscalls/{i}/names"), "must have at least one name"));
        }
        text(&format!("/syscalls/{i}/action"), &rule.action)?;
        if let Some(k) = rule.args.iter().position(|a| a.index > 5) {
            let why = "a system call has six arguments, 0 to 5";
            return Err(Error::invalid(format!("/syscalls/{i}/args/{k}/index"), why));
        }
    }
    Ok(())
}
