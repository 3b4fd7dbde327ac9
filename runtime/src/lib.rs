//! An OCI runtime as a library.
//!
//! config.json is *compiled* into a flat plan of kernel operations; a child made by clone3 *runs* it. See `plan` for the
//! vocabulary, `child` for the interpreter, `container` for what a living container owns.

pub mod cancel;
pub mod cgroup;
pub mod child;
pub mod clock;
pub mod container;
pub mod death;
pub mod error;
pub mod exe;
pub mod features;
pub mod host;
pub mod kernfs;
pub mod lifecycle;
pub mod own;
pub mod plan;
pub mod program;
pub mod reap;
pub mod seccomp;
pub mod spec;
pub mod sys;
pub mod version;

pub use container::{Child, Container, Create, Exec, Record, StartBy, Stdio};
pub use error::{Error, Kind, Result};
pub use host::Host;
