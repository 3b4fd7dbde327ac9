//! `-info`: what this runtime is and can do. containerd decides by it whether to offer user namespaces and recursive
//! read-only mounts, so it has to be the truth about this host.

#![forbid(unsafe_code)]

use containerd_shim_protos::types::introspection::{RuntimeInfo, RuntimeVersion};
use protobuf::well_known_types::any::Any;
use protobuf::{Message, MessageField};
use runtime::version::{COMMIT, VERSION};
use runtime::{Error, Host, Kind, Result};

use crate::options;

const NAME: &str = "io.containerd.mini.v2";
const FEATURES: &str = "types.containerd.io/opencontainers/runtime-spec/1/features/Features";

/// Reads options on standard input, or nothing, and writes a RuntimeInfo.
pub fn info() -> Result<()> {
    let bytes = super::read_input()?;
    let given = Any::parse_from_bytes(&bytes)
        .map_err(|e| Error::new(Kind::Invalid, "parse", "options on standard input", e.to_string()))?;
    super::print(&describe(&given, &Host::read()?)?)
}

/// The message, raw as containerd wants it. Options are part of the answer; bad ones are an error here already.
fn describe(given: &Any, host: &Host) -> Result<Vec<u8>> {
    options::decode(Some(given)).map_err(|e| Error::new(Kind::Invalid, "", "", e))?;
    let features = Any {
        type_url: FEATURES.into(),
        value: runtime::features::features(host).to_string().into_bytes(),
        ..Any::default()
    };
    let version = RuntimeVersion { version: VERSION.into(), revision: COMMIT.into(), ..RuntimeVersion::default() };
    let info = RuntimeInfo {
        name: NAME.into(),
        version: MessageField::some(version),
        options: if given.type_url.is_empty() { MessageField::none() } else { MessageField::some(given.clone()) },
        features: MessageField::some(features),
        ..RuntimeInfo::default()
    };
    info.write_to_bytes().map_err(|e| Error::new(Kind::Invalid, "encode", "RuntimeInfo", e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_can_be_read_back() {
        let options = Any { type_url: "containerd.runc.v1.Options".into(), ..Any::default() };
        let bytes = describe(&options, &Host::read().unwrap()).unwrap();
        let info = RuntimeInfo::parse_from_bytes(&bytes).unwrap();
        assert_eq!((info.name.as_str(), info.version.version.as_str()), (NAME, VERSION));
        assert_eq!(info.options.type_url, "containerd.runc.v1.Options");
        assert_eq!(info.features.type_url, FEATURES);
        let features: serde_json::Value = serde_json::from_slice(&info.features.value).unwrap();
        let words = features["mountOptions"].as_array().unwrap();
        assert!(words.iter().any(|w| w == "rro"), "containerd's TestRuntimeInfo looks for it");
        let unknown = Any { type_url: "x.Options".into(), ..Any::default() };
        assert!(describe(&unknown, &Host::read().unwrap()).is_err());
    }
}
