//! Which unit a container is: `linux.cgroupsPath` in systemd's form, `slice:prefix:name`.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

const POINTER: &str = "/linux/cgroupsPath";

/// A unit, and the slice that it lies in; goes into the state file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {
    /// `prefix-name.scope`, or a slice's own name.
    pub name: String,
    /// `a-b.slice`; `-.slice` is the root.
    pub slice: String,
    /// The manager of a user has it, not the system's.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub user: bool,
}

impl Unit {
    /// Reads a path, as runc does: without one the container's id is the name, in the default slice; the slice may be
    /// empty, which is `system.slice` or, of a user's manager, `user.slice`; a name that ends in `.slice` is the unit
    /// itself and the prefix is left out, else the unit is the scope `prefix-name.scope`.
    ///
    /// # Errors
    /// With the pointer `/linux/cgroupsPath`: not of three parts; no name that systemd would take.
    pub fn parse(cgroups_path: &str, id: &str, user: bool) -> Result<Unit> {
        let parts: Vec<&str> = match cgroups_path {
            "" => vec!["", "mini", id],
            path => path.split(':').collect(),
        };
        let [slice, prefix, name] = parts.as_slice() else {
            let reason = format!(
                "expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups, got {cgroups_path:?} instead"
            );
            return Err(Error::invalid(POINTER, reason));
        };
        let slice = match (*slice, user) {
            ("", false) => "system.slice",
            ("", true) => "user.slice",
            ("-", _) => "-.slice",
            (slice, _) => slice,
        };
        let name = if name.ends_with(".slice") { (*name).to_owned() } else { format!("{prefix}-{name}.scope") };
        let unit = Unit { name, slice: slice.to_owned(), user };
        unit.group()?;
        Ok(unit)
    }

    /// True of a slice, which has no processes when it begins and belongs to whoever wants it.
    pub fn is_slice(&self) -> bool {
        self.name.ends_with(".slice")
    }

    /// Its group below that of the manager's root, without a leading slash: `a.slice/a-b.slice/x.scope`.
    ///
    /// # Errors
    /// With the pointer `/linux/cgroupsPath`: a name that systemd would not take.
    pub fn group(&self) -> Result<String> {
        let above = expand(&self.slice)?;
        if !valid(&self.name) {
            return Err(Error::invalid(POINTER, format!("invalid unit name: {}", self.name)));
        }
        if !self.is_slice() {
            return Ok(if above.is_empty() { self.name.clone() } else { format!("{above}/{}", self.name) });
        }
        // The name of a slice says where it is.
        let own = expand(&self.name)?;
        if own.is_empty() {
            return Err(Error::invalid(POINTER, "the root slice is no place for a container"));
        }
        Ok(own)
    }
}

/// `a-b.slice` is `a.slice/a-b.slice`, systemd.slice(5); the root, `-.slice`, is empty.
fn expand(slice: &str) -> Result<String> {
    let invalid = || Error::invalid(POINTER, format!("invalid slice name: {slice}"));
    let name = slice.strip_suffix(".slice").filter(|_| valid(slice)).ok_or_else(invalid)?;
    if name == "-" {
        return Ok(String::new());
    }
    let (mut path, mut prefix) = (String::new(), String::new());
    for part in name.split('-') {
        if part.is_empty() {
            return Err(invalid());
        }
        if !path.is_empty() {
            path.push('/');
            prefix.push('-');
        }
        prefix.push_str(part);
        path.push_str(&prefix);
        path.push_str(".slice");
    }
    Ok(path)
}

/// What may be in the name of a unit, systemd.unit(5). Nothing in it can be a path.
fn valid(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b":-_.\\@".contains(&b);
    !name.is_empty() && name.len() <= 255 && !name.starts_with('.') && name.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(path: &str) -> (String, String, String) {
        let unit = Unit::parse(path, "c1", false).unwrap();
        let group = unit.group().unwrap();
        (unit.slice, unit.name, group)
    }

    #[test]
    fn paths_become_units_as_in_runc() {
        let is = |path: &str, slice: &str, name: &str, group: &str| {
            assert_eq!(unit(path), (slice.to_owned(), name.to_owned(), group.to_owned()), "{path}");
        };
        is("system.slice:docker:1234", "system.slice", "docker-1234.scope", "system.slice/docker-1234.scope");
        is("", "system.slice", "mini-c1.scope", "system.slice/mini-c1.scope");
        is("::", "system.slice", "-.scope", "system.slice/-.scope");
        is(":mini:x", "system.slice", "mini-x.scope", "system.slice/mini-x.scope");
        is("a.slice::x", "a.slice", "-x.scope", "a.slice/-x.scope");
        is("-.slice:p:x", "-.slice", "p-x.scope", "p-x.scope");
        is("-:p:x", "-.slice", "p-x.scope", "p-x.scope");
        is(
            "kubepods-burstable-pod1_2.slice:cri-containerd:0a",
            "kubepods-burstable-pod1_2.slice",
            "cri-containerd-0a.scope",
            "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice/cri-containerd-0a.scope",
        );
        is("a\\x2db-c.slice:p:x", "a\\x2db-c.slice", "p-x.scope", "a\\x2db.slice/a\\x2db-c.slice/p-x.scope");
        is("a.slice:ignored:a-pod.slice", "a.slice", "a-pod.slice", "a.slice/a-pod.slice");
        let user = Unit::parse("", "c1", true).unwrap();
        assert_eq!((user.slice.as_str(), user.group().unwrap().as_str()), ("user.slice", "user.slice/mini-c1.scope"));
    }

    #[test]
    fn what_systemd_would_not_take_is_refused() {
        for path in [
            "/a/b",
            "a.slice:b",
            "a.slice:b:c:d",
            "system:docker:x",
            "a/b.slice:p:x",
            "-a.slice:p:x",
            "a--b.slice:p:x",
            "a-.slice:p:x",
            ".slice:p:x",
            "a.slice:p/..:x",
            "a.slice:p:../x",
            "a.slice:p:x y",
            "a.slice:p:-.slice",
            "a.slice:p:b/c.slice",
            "a.slice:p:\u{e4}",
            "a.slice:p:\0",
        ] {
            let error = Unit::parse(path, "c1", false).unwrap_err();
            assert_eq!(error.from, POINTER, "{path}");
        }
        let long = format!("a.slice:p:{}", "x".repeat(300));
        assert!(Unit::parse(&long, "c1", false).is_err());
        let error = Unit::parse("/a", "c1", false).unwrap_err().to_string();
        assert!(error.contains("expected cgroupsPath to be of format \"slice:prefix:name\""), "{error}");
    }
}
