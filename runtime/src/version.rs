//! Who we are.
#![forbid(unsafe_code)]

/// Version of the packages.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Commit they were built from; `unknown` outside a git repository.
pub const COMMIT: &str = env!("MINI_COMMIT");
