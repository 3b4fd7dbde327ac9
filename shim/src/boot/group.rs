//! Which containers share a shim.

#![forbid(unsafe_code)]

use std::path::Path;

use runtime::{Error, Kind, Result};
use serde::Deserialize;

/// The two annotations that name a group, in their order of precedence (containerd's groupLabels). All else of config.json
/// is skipped over without being kept.
#[derive(Default, Deserialize)]
struct Annotations {
    #[serde(rename = "io.containerd.runc.v2.group")]
    group: Option<String>,
    #[serde(rename = "io.kubernetes.cri.sandbox-id")]
    sandbox: Option<String>,
}

#[derive(Deserialize)]
struct Config {
    annotations: Option<Annotations>,
}

/// The group that a bundle's config.json names; an empty name is a name.
///
/// Errors: the file cannot be read or is not JSON of an object.
pub fn of_bundle(bundle: &Path) -> Result<Option<String>> {
    let path = bundle.join("config.json");
    let json = std::fs::read(&path).map_err(|e| Error::io("open", "config.json", &e))?;
    of_config(&json)
}

fn of_config(json: &[u8]) -> Result<Option<String>> {
    let config: Config =
        serde_json::from_slice(json).map_err(|e| Error::new(Kind::Invalid, "parse", "config.json", e.to_string()))?;
    Ok(config.annotations.and_then(|a| a.group.or(a.sandbox)))
}

#[cfg(test)]
mod tests {
    use super::of_config;

    #[test]
    fn the_first_annotation_wins() {
        let group = |json: &str| of_config(json.as_bytes()).unwrap();
        assert_eq!(group(r#"{"ociVersion":"1.2.0","process":{"args":["x"]}}"#), None);
        assert_eq!(group(r#"{"annotations":null}"#), None);
        assert_eq!(group(r#"{"annotations":{"other":"y"},"linux":{}}"#), None);
        let cri =
            r#"{"annotations":{"io.kubernetes.cri.sandbox-id":"pod","io.kubernetes.cri.container-type":"container"}}"#;
        assert_eq!(group(cri).as_deref(), Some("pod"));
        let both = r#"{"annotations":{"io.kubernetes.cri.sandbox-id":"pod","io.containerd.runc.v2.group":"g"}}"#;
        assert_eq!(group(both).as_deref(), Some("g"));
        assert_eq!(group(r#"{"annotations":{"io.containerd.runc.v2.group":""}}"#).as_deref(), Some(""));
        assert!(of_config(b"{").is_err() && of_config(b"[]").is_err());
    }
}
