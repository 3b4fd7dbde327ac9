//! The runtime options of a request: which type they came in, what they ask for, and what we refuse.
//!
//! Docker and nerdctl pass none for us, ctr and the CRI pass `runtimeoptions.v1.Options` with TOML in it, and a CRI that
//! believes it runs runc passes runc's own message. See docs/decisions for what is refused.

#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;

use containerd_shim_protos::shim::oci;
use protobuf::Message;
use protobuf::well_known_types::any::Any;
use rustix::fs::OFlags;

/// Largest configuration file that is read.
const CONFIG_LIMIT: u64 = 1 << 20;

/// What the client wants of one container. Options belong to a container, never to the shim: members of a pod may differ.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Change the root by moving the mount and chroot, for hosts whose root is an initramfs.
    pub no_pivot_root: bool,
    /// Keep the session keyring instead of making a new one.
    pub no_new_keyring: bool,
    /// An existing cgroup that the shim itself is put in, below every hierarchy's root; empty for none.
    pub shim_cgroup: String,
    /// Owner of the stdio pipes; `None` when the client did not say (0 counts as not said: proto3 cannot tell).
    pub io_uid: Option<u32>,
    /// Group of the stdio pipes.
    pub io_gid: Option<u32>,
    /// Directory that runc would keep its state in. Ours is in the bundle; a client may look here, nothing is written.
    pub root: String,
    /// The cgroup driver, if said. See [`Options::systemd`].
    pub systemd_cgroup: Option<bool>,
    /// Directory with the images of a checkpoint.
    pub criu_image_path: String,
    /// Working directory of a restore.
    pub criu_work_path: String,
}

impl Options {
    /// Whether the systemd driver makes the cgroup: what the options say, or else the shape of `cgroupsPath`, since docker
    /// and nerdctl cannot pass us an option. `slice:prefix:name` is systemd's, everything else is a path.
    pub fn systemd(&self, cgroups_path: &str) -> bool {
        self.systemd_cgroup.unwrap_or_else(|| is_systemd_path(cgroups_path))
    }
}

/// `system.slice:docker:0123` and also `:prefix:name`, where runc takes the default slice.
fn is_systemd_path(path: &str) -> bool {
    !path.contains('/')
        && path.split(':').count() == 3
        && path.split(':').next().is_some_and(|s| s.is_empty() || s.ends_with(".slice"))
}

/// What a request says of its options.
pub enum Given {
    /// These.
    Said(Options),
    /// They are in this file, see [`read`].
    InFile(String),
}

/// Decodes the options of a request. Blocking if they are in a file.
///
/// Errors: as with [`given`] and [`read`].
pub fn decode(any: Option<&Any>) -> Result<Options, String> {
    match given(any)? {
        Given::Said(options) => Ok(options),
        Given::InFile(path) => read(&path),
    }
}

/// Decodes what a request says itself. `None` and an empty message are the defaults.
///
/// The error is a sentence for the client (InvalidArgument): an unknown type, a bad value, or an option that asks for
/// something we do not do.
pub fn given(any: Option<&Any>) -> Result<Given, String> {
    let Some(any) = any.filter(|a| !a.type_url.is_empty() || !a.value.is_empty()) else {
        return Ok(Given::Said(Options::default()));
    };
    match any.type_url.rsplit('/').next().unwrap_or_default() {
        "containerd.runc.v1.Options" => typed(&any.value).map(Given::Said),
        "containerd.linux.runc.CreateOptions" => old(&any.value).map(Given::Said),
        "runtimeoptions.v1.Options" | "containerd.runtimeoptions.v1.Options" => configured(&any.value),
        _ => Err(format!("runtime options of type {:?} are not supported", any.type_url)),
    }
}

/// `containerd.runc.v1.Options`.
fn typed(bytes: &[u8]) -> Result<Options, String> {
    let o = oci::Options::parse_from_bytes(bytes).map_err(|e| format!("containerd.runc.v1.Options: {e}"))?;
    binary_name(&o.binary_name)?;
    task_api(&o.task_api_address, o.task_api_version.into())?;
    Ok(Options {
        no_pivot_root: o.no_pivot_root,
        no_new_keyring: o.no_new_keyring,
        shim_cgroup: o.shim_cgroup,
        io_uid: (o.io_uid != 0).then_some(o.io_uid),
        io_gid: (o.io_gid != 0).then_some(o.io_gid),
        root: o.root,
        systemd_cgroup: o.systemd_cgroup.then_some(true),
        criu_image_path: o.criu_image_path,
        criu_work_path: o.criu_work_path,
    })
}

/// `containerd.linux.runc.CreateOptions`, which containerd 1.6 and 1.7 make of the client's own words for every runtime
/// whose name does not begin with io.containerd.runc (runtime/linux/runctypes/runc.proto). Fields 2 to 7 concern a restore,
/// which Create refuses as such.
fn old(bytes: &[u8]) -> Result<Options, String> {
    let mut o = Options::default();
    let mut input = protobuf::CodedInputStream::from_bytes(bytes);
    let broken = |e: protobuf::Error| format!("containerd.linux.runc.CreateOptions: {e}");
    while let Some(tag) = input.read_raw_tag_or_eof().map_err(broken)? {
        match tag {
            0x08 => o.no_pivot_root = input.read_bool().map_err(broken)?,
            0x10 | 0x18 | 0x20 | 0x28 => drop(input.read_bool().map_err(broken)?),
            0x32 | 0x3a => drop(input.read_string().map_err(broken)?),
            0x40 => o.no_new_keyring = input.read_bool().map_err(broken)?,
            0x4a => o.shim_cgroup = input.read_string().map_err(broken)?,
            0x50 => o.io_uid = Some(input.read_uint32().map_err(broken)?).filter(|id| *id != 0),
            0x58 => o.io_gid = Some(input.read_uint32().map_err(broken)?).filter(|id| *id != 0),
            0x62 => o.criu_work_path = input.read_string().map_err(broken)?,
            0x6a => o.criu_image_path = input.read_string().map_err(broken)?,
            _ => return Err(format!("containerd.linux.runc.CreateOptions: unknown field {}", tag >> 3)),
        }
    }
    Ok(o)
}

/// `runtimeoptions.v1.Options`: 1 type_url, 2 config_path, 3 config_body (api/types/runtimeoptions/v1/api.proto). The crate of
/// containerd's messages lacks it, and three fields need no generated code.
fn configured(bytes: &[u8]) -> Result<Given, String> {
    let (mut kind, mut path, mut body) = (String::new(), String::new(), Vec::new());
    let mut input = protobuf::CodedInputStream::from_bytes(bytes);
    let broken = |e: protobuf::Error| format!("runtimeoptions.v1.Options: {e}");
    while let Some(tag) = input.read_raw_tag_or_eof().map_err(broken)? {
        match tag {
            0x0a => kind = input.read_string().map_err(broken)?,
            0x12 => path = input.read_string().map_err(broken)?,
            0x1a => body = input.read_bytes().map_err(broken)?,
            _ => return Err(format!("runtimeoptions.v1.Options: unknown field {}", tag >> 3)),
        }
    }
    type_url(&kind)?;
    if !body.is_empty() {
        let text = String::from_utf8(body).map_err(|e| format!("runtimeoptions.v1.Options: config_body: {e}"))?;
        return table(&text, "config_body").map(Given::Said);
    }
    Ok(if path.is_empty() { Given::Said(Options::default()) } else { Given::InFile(path) })
}

/// Reads options from a file. Blocking: its file system may hang. What is no regular file is not waited for.
///
/// The error is a sentence for the client, too.
pub fn read(path: &str) -> Result<Options, String> {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let opened = File::options().read(true).custom_flags(flags.bits().cast_signed()).open(path);
    let text = opened.and_then(|file| {
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        let mut text = String::new();
        file.take(CONFIG_LIMIT).read_to_string(&mut text)?;
        Ok(text)
    });
    table(&text.map_err(|e| format!("runtime options: read {path:?}: {e}"))?, path)
}

/// The content's own type, for clients that name one: ours or runc's, since the keys are runc's.
fn type_url(kind: &str) -> Result<(), String> {
    let name = kind.rsplit('/').next().unwrap_or_default().to_ascii_lowercase();
    match name.as_str() {
        "" | "containerd.runc.v1.options" | "io.containerd.mini.v2.options" => Ok(()),
        _ => Err(format!("runtime options of type {kind:?} are not supported")),
    }
}

/// TOML with the names of runc's options in Go's spelling, in any case, as Go's decoder accepts them. `origin` is named in errors.
fn table(text: &str, origin: &str) -> Result<Options, String> {
    let table: toml::Table =
        text.parse().map_err(|e: toml::de::Error| format!("runtime options: {origin}: {}", e.message()))?;
    let mut o = Options::default();
    let mut api = (String::new(), 0);
    for (key, value) in table {
        let wrong = || format!("runtime options: {origin}: {key}: {} is of the wrong type", value.type_str());
        let flag = || value.as_bool().ok_or_else(wrong);
        let text = || value.as_str().map(str::to_owned).ok_or_else(wrong);
        let number = || value.as_integer().and_then(|n| u32::try_from(n).ok()).ok_or_else(wrong);
        match key.to_ascii_lowercase().as_str() {
            "nopivotroot" => o.no_pivot_root = flag()?,
            "nonewkeyring" => o.no_new_keyring = flag()?,
            "shimcgroup" => o.shim_cgroup = text()?,
            "iouid" => o.io_uid = Some(number()?).filter(|id| *id != 0),
            "iogid" => o.io_gid = Some(number()?).filter(|id| *id != 0),
            "binaryname" => binary_name(&text()?)?,
            "root" => o.root = text()?,
            "systemdcgroup" => o.systemd_cgroup = Some(flag()?),
            "criuimagepath" => o.criu_image_path = text()?,
            "criuworkpath" => o.criu_work_path = text()?,
            // Only a checkpoint would run it. It stands in the default table of 1.7; the message has dropped it.
            "criupath" => drop(text()?),
            "taskapiaddress" => api.0 = text()?,
            "taskapiversion" => api.1 = number()?.into(),
            // The CRI hands over the whole table, so the key that names its type comes along.
            "typeurl" => type_url(&text()?)?,
            _ => return Err(format!("runtime options: {origin}: unknown key {key:?}")),
        }
    }
    task_api(&api.0, api.1)?;
    Ok(o)
}

/// A client that asks for another program than runc would silently get a different runtime from us.
fn binary_name(name: &str) -> Result<(), String> {
    match name.rsplit('/').next().unwrap_or_default() {
        "" | "runc" | "mini" | "containerd-shim-mini-v2" => Ok(()),
        _ => Err(format!(
            "runtime options: BinaryName {name:?}: mini runs containers itself and starts no other runtime"
        )),
    }
}

/// Options that would make the shim a proxy to a Task service elsewhere.
fn task_api(address: &str, version: u64) -> Result<(), String> {
    if address.is_empty() && version == 0 {
        return Ok(());
    }
    Err(format!("runtime options: TaskApiAddress {address:?}, TaskApiVersion {version}: not supported"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any(type_url: &str, value: &[u8]) -> Any {
        Any { type_url: type_url.into(), value: value.into(), ..Any::default() }
    }

    /// Field `number` of wire type 2.
    fn field(number: u8, text: &str) -> Vec<u8> {
        let mut out = vec![number << 3 | 2];
        let mut len = text.len();
        while len >= 0x80 {
            out.push(len as u8 | 0x80);
            len >>= 7;
        }
        out.push(len as u8);
        out.extend_from_slice(text.as_bytes());
        out
    }

    #[test]
    fn options_of_an_old_client() {
        let bytes = [&[0x08, 1, 0x40, 1, 0x50, 7][..], &field(9, "/shim")].concat();
        let o = decode(Some(&any("containerd.linux.runc.CreateOptions", &bytes))).unwrap();
        let expected = Options {
            no_pivot_root: true,
            no_new_keyring: true,
            io_uid: Some(7),
            shim_cgroup: "/shim".into(),
            ..Options::default()
        };
        assert_eq!(o, expected);
        assert!(decode(Some(&any("containerd.linux.runc.CreateOptions", &[0x70, 1]))).is_err());
    }

    #[test]
    fn nothing_is_the_default() {
        assert_eq!(decode(None), Ok(Options::default()));
        assert_eq!(decode(Some(&any("", b""))), Ok(Options::default()));
        assert_eq!(decode(Some(&any("runtimeoptions.v1.Options", b""))), Ok(Options::default()));
        assert_eq!(decode(Some(&any("containerd.runc.v1.Options", b""))), Ok(Options::default()));
    }

    /// `runtimes.runc.options` of containerd 1.7's default configuration, which people copy for their own runtime.
    #[test]
    fn the_default_table_of_containerd_1_7_asks_for_nothing() {
        let body = r#"
            BinaryName = ""
            CriuImagePath = ""
            CriuPath = ""
            CriuWorkPath = ""
            IoGid = 0
            IoUid = 0
            NoNewKeyring = false
            NoPivotRoot = false
            Root = ""
            ShimCgroup = ""
            SystemdCgroup = false
"#;
        let expected = Options { systemd_cgroup: Some(false), ..Options::default() };
        assert_eq!(decode(Some(&any("runtimeoptions.v1.Options", &field(3, body)))), Ok(expected));
    }

    /// Bytes as Go's protobuf writes them for Options{NoPivotRoot, ShimCgroup "/shims", IoUid 1000, IoGid 1000, BinaryName "runc",
    /// Root "/run/r", SystemdCgroup} with the removed criu_path (8) as an old containerd still sends it.
    #[test]
    fn runc_options_of_an_old_containerd() {
        let bytes = b"\x08\x01\x1a\x06/shims\x20\xe8\x07\x28\xe8\x07\x32\x04runc\x3a\x06/run/r\x42\x04criu\x48\x01";
        let expected = Options {
            no_pivot_root: true,
            shim_cgroup: "/shims".into(),
            io_uid: Some(1000),
            io_gid: Some(1000),
            root: "/run/r".into(),
            systemd_cgroup: Some(true),
            ..Options::default()
        };
        assert_eq!(decode(Some(&any("containerd.runc.v1.Options", bytes))), Ok(expected.clone()));
        assert_eq!(decode(Some(&any("type.googleapis.com/containerd.runc.v1.Options", bytes))), Ok(expected));
        let cut = &bytes[..bytes.len() - 3];
        assert!(
            decode(Some(&any("containerd.runc.v1.Options", cut)))
                .unwrap_err()
                .starts_with("containerd.runc.v1.Options: ")
        );
    }

    #[test]
    fn toml_of_the_cri_and_of_a_file() {
        let body =
            "SystemdCgroup = true\nBinaryName = '/usr/bin/runc'\nRoot = '/run/k8s'\nIoUid = 65536\nTypeUrl = ''\n";
        let expected =
            Options { systemd_cgroup: Some(true), root: "/run/k8s".into(), io_uid: Some(65536), ..Options::default() };
        assert_eq!(decode(Some(&any("runtimeoptions.v1.Options", &field(3, body)))), Ok(expected.clone()));
        let mut named = field(1, "io.containerd.mini.v2.options");
        named.extend(field(3, body));
        assert_eq!(decode(Some(&any("types.containerd.io/runtimeoptions.v1.Options", &named))), Ok(expected.clone()));

        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), body).unwrap();
        let path = file.path().to_str().unwrap();
        assert_eq!(decode(Some(&any("runtimeoptions.v1.Options", &field(2, path)))), Ok(expected));
        let gone = decode(Some(&any("runtimeoptions.v1.Options", &field(2, "/nonexistent/o.toml")))).unwrap_err();
        assert!(gone.contains("/nonexistent/o.toml"), "{gone}");
        let null = decode(Some(&any("runtimeoptions.v1.Options", &field(2, "/dev/null")))).unwrap_err();
        assert_eq!(null, "runtime options: read \"/dev/null\": not a regular file");
    }

    #[test]
    fn refusals_name_what_they_refuse() {
        for (url, bytes, word) in [
            ("io.containerd.runsc.v1.options", vec![], "io.containerd.runsc.v1.options"),
            ("containerd.linux.runc.CreateOptions", field(14, "x"), "unknown field 14"),
            ("containerd.runc.v1.Options", field(6, "no-runc"), "no-runc"),
            ("containerd.runc.v1.Options", field(12, "ttrpc+unix:///x"), "ttrpc+unix:///x"),
            ("runtimeoptions.v1.Options", field(3, "BinaryName = 'crun'"), "crun"),
            ("runtimeoptions.v1.Options", field(3, "SystemdCgruop = true"), "SystemdCgruop"),
            ("runtimeoptions.v1.Options", field(3, "SystemdCgroup = 'yes'"), "SystemdCgroup"),
            ("runtimeoptions.v1.Options", field(3, "IoUid = -1"), "IoUid"),
            ("runtimeoptions.v1.Options", field(3, "x = ["), "config_body"),
            ("runtimeoptions.v1.Options", field(1, "io.containerd.runsc.v1.options"), "runsc"),
            ("runtimeoptions.v1.Options", field(4, "x"), "unknown field 4"),
        ] {
            let error = decode(Some(&any(url, &bytes))).unwrap_err();
            assert!(error.contains(word), "{url}: {error}");
        }
    }

    #[test]
    fn the_driver_follows_the_option_and_then_the_path() {
        let unsaid = Options::default();
        assert!(unsaid.systemd("system.slice:docker:0123"));
        assert!(unsaid.systemd("kubepods-burstable-pod1.slice:cri-containerd:0123"));
        assert!(unsaid.systemd(":runc:x"));
        for path in ["", "/default/c1", "default/c1", "/a.slice:b:c", "a.slice:b", "a.slice:b:c:d", "docker:x:y"] {
            assert!(!unsaid.systemd(path), "{path}");
        }
        assert!(!Options { systemd_cgroup: Some(false), ..Options::default() }.systemd("system.slice:docker:0123"));
        assert!(Options { systemd_cgroup: Some(true), ..Options::default() }.systemd("/x"));
    }
}
