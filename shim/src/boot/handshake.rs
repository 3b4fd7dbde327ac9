//! What containerd says to `start`, and in which language it wants the answer.
//!
//! containerd 2.3 and newer send BootstrapParams and read BootstrapResult. Everything older sends an Any of options, or
//! nothing, and the only answer that all of them (1.6, 1.7, 2.0 to 2.2) understand is the bare address.

#![forbid(unsafe_code)]

use containerd_shim_protos::bootstrap_api::{BootstrapParams, BootstrapResult};
use protobuf::Message;
use protobuf::well_known_types::any::Any;
use runtime::{Error, Kind, Result};

use super::flags::Flags;
use super::socket::{Address, DEFAULT_DIR};
use crate::options;

/// The Task service that we name; v2 is served as well.
const TASK_VERSION: i32 = 3;
/// LogLevel of the message: this and below is debugging.
const LEVEL_DEBUG: i32 = -4;

/// Who calls `start`, and what it asks for.
#[derive(Debug, Default, PartialEq)]
pub struct Caller {
    /// It speaks the bootstrap protocol.
    bootstrap: bool,
    /// Directory for our socket; empty if it leaves that to us.
    pub chosen_dir: String,
    /// Where events go; empty if it did not say.
    pub ttrpc_address: String,
    /// The log is to be detailed.
    pub debug: bool,
    /// Group for the shim itself, see [`options::Options::shim_cgroup`].
    pub shim_cgroup: String,
}

impl Caller {
    /// Reads standard input.
    pub fn read(flags: &Flags) -> Result<Self> {
        let environment = std::env::var("TTRPC_ADDRESS").unwrap_or_default();
        Self::decode(&super::read_input()?, flags, environment)
    }

    /// An Any parses as BootstrapParams too: its type URL ends up in the id and its value in the namespace. So it is
    /// bootstrap only if both are the ones of the command line.
    fn decode(input: &[u8], flags: &Flags, environment: String) -> Result<Self> {
        let params = BootstrapParams::parse_from_bytes(input).ok();
        if let Some(params) = params.filter(|p| p.instance_id == flags.id && p.namespace == flags.namespace) {
            let any = params.extensions.iter().filter_map(|e| e.value.as_ref()).find(|any| is_options(any));
            let shim_cgroup = shim_cgroup(any);
            let stated = params.containerd_ttrpc_address;
            return Ok(Self {
                bootstrap: true,
                chosen_dir: params.socket_dir.unwrap_or_default(),
                ttrpc_address: if environment.is_empty() { stated } else { environment },
                debug: flags.debug || params.log_level.value() <= LEVEL_DEBUG,
                shim_cgroup,
            });
        }
        let any = Any::parse_from_bytes(input)
            .map_err(|e| Error::new(Kind::Invalid, "parse", "options on standard input", e.to_string()))?;
        Ok(Self {
            ttrpc_address: environment,
            debug: flags.debug,
            shim_cgroup: shim_cgroup(Some(&any)),
            ..Self::default()
        })
    }

    /// Where our socket goes.
    pub fn socket_dir(&self) -> &str {
        if self.chosen_dir.is_empty() { DEFAULT_DIR } else { &self.chosen_dir }
    }

    /// The answer, without a newline: containerd 2.3.0 would take it for a part of the address.
    pub fn reply(&self, address: &Address) -> Result<Vec<u8>> {
        if !self.bootstrap {
            return Ok(address.url().into_bytes());
        }
        let result = BootstrapResult {
            version: TASK_VERSION,
            address: address.url(),
            protocol: "ttrpc".into(),
            ..BootstrapResult::default()
        };
        result.write_to_bytes().map_err(|e| Error::new(Kind::Invalid, "encode", "BootstrapResult", e.to_string()))
    }
}

/// Extensions of other kinds (sandbox, NRI, …) are none of ours.
fn is_options(any: &Any) -> bool {
    matches!(
        any.type_url.rsplit('/').next(),
        Some("containerd.runc.v1.Options" | "runtimeoptions.v1.Options" | "containerd.runtimeoptions.v1.Options")
    )
}

/// Options that cannot be decoded come again with Create, whose answer has a proper code for that.
fn shim_cgroup(any: Option<&Any>) -> String {
    options::decode(any).map(|o| o.shim_cgroup).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use containerd_shim_protos::bootstrap_api::{Extension, LogLevel};
    use protobuf::MessageField;

    fn flags() -> Flags {
        Flags { id: "c1".into(), namespace: "default".into(), ..Flags::default() }
    }

    /// containerd.runc.v1.Options with shim_cgroup (3) "/shims".
    fn options() -> Any {
        Any { type_url: "containerd.runc.v1.Options".into(), value: b"\x1a\x06/shims".to_vec(), ..Any::default() }
    }

    fn params() -> BootstrapParams {
        let other = Any { type_url: "containerd.io/x".into(), ..Any::default() };
        let extension = |any| Extension { value: MessageField::some(any), ..Extension::default() };
        BootstrapParams {
            instance_id: "c1".into(),
            namespace: "default".into(),
            log_level: LogLevel::LOG_LEVEL_TRACE.into(),
            containerd_ttrpc_address: "/run/c.ttrpc".into(),
            socket_dir: Some("/run/x".into()),
            extensions: vec![extension(other), extension(options())],
            ..BootstrapParams::default()
        }
    }

    #[test]
    fn bootstrap_of_2_3_is_answered_in_kind() {
        let caller = Caller::decode(&params().write_to_bytes().unwrap(), &flags(), String::new()).unwrap();
        let expected = Caller {
            bootstrap: true,
            chosen_dir: "/run/x".into(),
            ttrpc_address: "/run/c.ttrpc".into(),
            debug: true,
            shim_cgroup: "/shims".into(),
        };
        assert_eq!(caller, expected);
        let address = Address::new(caller.socket_dir(), "/c.sock", "default", "c1", false);
        let reply = BootstrapResult::parse_from_bytes(&caller.reply(&address).unwrap()).unwrap();
        assert_eq!((reply.version, reply.protocol.as_str(), reply.address), (3, "ttrpc", address.url()));
        assert!(address.url().starts_with("unix:///run/x/"));
    }

    #[test]
    fn everything_older_gets_the_bare_address() {
        for input in [options().write_to_bytes().unwrap(), Vec::new()] {
            let caller = Caller::decode(&input, &flags(), "/run/env.ttrpc".into()).unwrap();
            assert!(!caller.bootstrap && !caller.debug);
            assert_eq!(caller.shim_cgroup, if input.is_empty() { "" } else { "/shims" });
            assert_eq!(caller.ttrpc_address, "/run/env.ttrpc");
            let address = Address::new(caller.socket_dir(), "/c.sock", "default", "c1", false);
            assert_eq!(caller.reply(&address).unwrap(), address.url().as_bytes());
        }
        assert!(Caller::decode(b"\xff\xff", &flags(), String::new()).is_err());
    }

    #[test]
    fn a_message_for_another_container_is_not_bootstrap() {
        for (id, namespace) in [("c2", "default"), ("c1", "other")] {
            let other = BootstrapParams { instance_id: id.into(), namespace: namespace.into(), ..params() };
            let caller = Caller::decode(&other.write_to_bytes().unwrap(), &flags(), String::new());
            assert!(caller.is_ok_and(|c| !c.bootstrap), "{id} {namespace}");
        }
        // An Any whose type URL is the id: only the namespace gives it away.
        let tricky = Any { type_url: "c1".into(), value: b"x".to_vec(), ..Any::default() };
        assert!(!Caller::decode(&tricky.write_to_bytes().unwrap(), &flags(), String::new()).unwrap().bootstrap);
    }
}
