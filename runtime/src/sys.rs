//! Raw system calls that our libraries lack: prototype, man section, SAFETY; nothing else.

mod mount;

pub use mount::*;
