//! Raw system calls that our libraries lack: prototype, man section, SAFETY; nothing else.

mod bpf;
mod process;
mod seccomp;

pub use bpf::*;
pub use process::*;
pub use seccomp::*;
