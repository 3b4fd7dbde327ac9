//! config.json as the OCI runtime specification (1.3) describes it: types, parsing and the checks that need no host.
//!
//! A property the specification does not know is ignored, as it demands; one it knows and we do not implement is refused
//! by its JSON pointer (see [`check`]). Absent lists are empty lists; absent scalars are `None`.

pub mod check;
pub mod linux;
mod place;
pub mod process;
pub mod words;

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

pub use linux::*;
pub use process::*;

use crate::error::{Error, Result};

/// `null` and absence mean the same in Go's encoding: an empty list, no text, 0.
pub(crate) fn nullable<'de, D, T>(d: D) -> std::result::Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}

/// The whole of config.json.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, remote = "Self")]
pub struct Spec {
    /// Version of the specification the bundle was made for.
    #[serde(deserialize_with = "nullable")]
    pub oci_version: String,
    /// The container's root file system.
    pub root: Option<Root>,
    /// Mounts in the order in which they are made.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<Mount>,
    /// The first process; may be absent at create, must be there at start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<Process>,
    /// Host name, needs a uts namespace.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub hostname: String,
    /// NIS domain name, needs a uts namespace.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub domainname: String,
    /// Programs run at fixed points of the life cycle.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Hooks::is_empty")]
    pub hooks: Hooks,
    /// Free words; some are ours (`org.systemd.property.*`), unknown ones are kept.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// All that is particular to Linux.
    #[serde(deserialize_with = "nullable")]
    pub linux: Linux,
}

/// `/root`
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, remote = "Self")]
pub struct Root {
    /// Absolute, or relative to the bundle.
    #[serde(deserialize_with = "nullable")]
    pub path: String,
    /// Mount it read-only.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "std::ops::Not::not")]
    pub readonly: bool,
}

/// One entry of `/mounts`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, remote = "Self")]
pub struct Mount {
    /// Where, inside the container.
    #[serde(deserialize_with = "nullable")]
    pub destination: String,
    /// File system type; a dummy for bind mounts.
    #[serde(rename = "type", deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// What; relative bind sources are relative to the bundle.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub source: String,
    /// fstab-like words.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
    /// Id mapping of an idmapped mount.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub uid_mappings: Vec<IdMapping>,
    /// Id mapping of an idmapped mount.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub gid_mappings: Vec<IdMapping>,
}

/// `/hooks`
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, remote = "Self")]
pub struct Hooks {
    /// Deprecated twin of createRuntime, run before it.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub prestart: Vec<Hook>,
    /// In the runtime's namespaces, before pivot_root.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub create_runtime: Vec<Hook>,
    /// In the container's namespaces, before pivot_root.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub create_container: Vec<Hook>,
    /// In the container's namespaces, after start was called, before the process.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub start_container: Vec<Hook>,
    /// In the runtime's namespaces, after the process was started.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub poststart: Vec<Hook>,
    /// In the runtime's namespaces, after delete.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub poststop: Vec<Hook>,
}

impl Hooks {
    /// True when no hook is configured.
    pub fn is_empty(&self) -> bool {
        [
            &self.prestart,
            &self.create_runtime,
            &self.create_container,
            &self.start_container,
            &self.poststart,
            &self.poststop,
        ]
        .iter()
        .all(|h| h.is_empty())
    }
}

/// One hook.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, remote = "Self")]
pub struct Hook {
    /// Absolute path of the program.
    #[serde(deserialize_with = "nullable")]
    pub path: String,
    /// argv, including argv[0].
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Its whole environment; `None` differs from an empty one only for startContainer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub env: Option<Vec<String>>,
    /// Seconds after which it is killed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<i64>,
}

/// Makes structs that are JSON objects and nothing else: what serde derives would also take an array for a struct, field by
/// field, and `"resources": []` would mean "no limits". serde's `remote = "Self"` leaves the trait to us.
macro_rules! objects {
    ($($name:ident)*) => {$(
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
                struct Object;
                impl<'de> serde::de::Visitor<'de> for Object {
                    type Value = $name;

                    fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                        f.write_str("an object")
                    }

                    fn visit_map<M: serde::de::MapAccess<'de>>(self, map: M) -> std::result::Result<$name, M::Error> {
                        $name::deserialize(serde::de::value::MapAccessDeserializer::new(map))
                    }
                }
                d.deserialize_map(Object)
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> std::result::Result<S::Ok, S::Error> {
                $name::serialize(self, s)
            }
        }
    )*};
}

objects! {
    Spec Root Mount Hooks Hook Linux IdMapping Namespace Device Resources DeviceRule Memory Cpu Pids BlockIo
    WeightDevice ThrottleDevice HugepageLimit Network InterfacePriority Rdma Seccomp SyscallRule SyscallArg
    Personality TimeOffset Process ConsoleSize User Capabilities Rlimit Scheduler IoPriority CpuAffinity
}

impl Spec {
    /// Parses and checks the text of a config.json.
    ///
    /// Errors name the JSON pointer of the first offending value.
    pub fn parse(json: &[u8]) -> Result<Self> {
        let mut spec: Self = from_json(json)?;
        let Linux { namespaces, uid_mappings, gid_mappings, .. } = &mut spec.linux;
        if !namespaces.iter().any(|ns| ns.kind == NamespaceKind::User) {
            // Since 1.2 runc ignores maps without a user namespace, and clients leave them there.
            uid_mappings.clear();
            gid_mappings.clear();
        }
        if let Some(pids) = &mut spec.linux.resources.pids
            && pids.limit == Some(0)
            && is_before_1_3(&spec.oci_version)
        {
            pids.limit = None;
        }
        check::spec(&spec)?;
        Ok(spec)
    }

    /// Reads `config.json` of a bundle.
    pub fn load(bundle: &Path) -> Result<Self> {
        Self::parse(&read_config(bundle)?)
    }
}

/// Before 1.3 the Go types had no other way to say that there is no limit for processes than 0.
fn is_before_1_3(version: &str) -> bool {
    let mut numbers = version.split('.').map(|number| number.parse::<u32>().unwrap_or_default());
    (numbers.next(), numbers.next()) < (Some(1), Some(3))
}

/// The text of a bundle's config.json.
///
/// # Errors
/// Those of [`read_json`].
pub fn read_config(bundle: &Path) -> Result<Vec<u8>> {
    let path = bundle.join("config.json");
    read_json(&path).map_err(|e| Error::io("open", path.display().to_string(), &e))
}

/// The same to be written down as it is; `None` if it is no JSON.
pub fn raw(json: Vec<u8>) -> Option<Box<serde_json::value::RawValue>> {
    String::from_utf8(json).ok().and_then(|json| serde_json::value::RawValue::from_string(json).ok())
}

/// The bytes of a file that holds one JSON object, in one read(2) where that is enough: what ends before the buffer does, and
/// with a brace, is all there is. An object that is cut is none, so what a file system gives in pieces that look like that
/// is refused, and not taken for another.
///
/// # Errors
/// Those of open(2) and read(2).
pub fn read_json(path: &Path) -> std::io::Result<Vec<u8>> {
    use rustix::fs::{Mode, OFlags};
    const ROOM: usize = 24 << 10;
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut json = Vec::new();
    loop {
        json.reserve(ROOM);
        let room = json.capacity() - json.len();
        let read = rustix::io::retry_on_intr(|| rustix::io::read(&file, rustix::buffer::spare_capacity(&mut json)))?;
        if read == 0 || read < room && json.trim_ascii_end().ends_with(b"}") {
            return Ok(json);
        }
    }
}

/// Decodes any JSON of the specification; a wrong type is reported by its JSON pointer.
pub fn from_json<T: serde::de::DeserializeOwned>(json: &[u8]) -> Result<T> {
    serde_json::from_slice(json).map_err(|wrong| Error::invalid(place::pointer(json, &wrong), wrong.to_string()))
}
