//! An OCI runtime as a library.
//!
//! config.json is *compiled* into a flat plan of kernel operations; a child made by clone3 *runs* it. See `plan` for the
//! vocabulary, `child` for the interpreter, `container` for what a living container owns.

pub mod error;
pub mod spec;
pub mod sys;

pub use error::{Error, Kind, Result};
