//! How containerd calls us: `start`, `delete`, `-info`, `-v`, and what `start` leaves behind, the daemon.
//!
//! The first three are on the way of every container, so they use no thread and no event loop, and at success they write
//! nothing but the answer: containerd reads both output streams of `start` as one.

#![forbid(unsafe_code)]

mod daemon;
mod delete;
mod flags;
mod group;
mod handshake;
mod host;
mod info;
mod log;
mod seal;
mod socket;

use std::io::{Read, Write};
use std::path::Path;

use runtime::version::{COMMIT, VERSION};
use runtime::{Error, Kind, Result};

pub use daemon::settle;
pub use delete::delete;
pub use flags::{Action, Flags};
pub use info::info;

use handshake::Caller;
use socket::{Address, Claim};

/// Largest message that is read from standard input.
const INPUT_LIMIT: u64 = 10 << 20;

/// `-v`, in the shape of containerd's own shims.
pub fn version() -> Result<()> {
    print(format!("containerd-shim-mini-v2:\n  Version:  {VERSION}\n  Revision: {COMMIT}\n").as_bytes())
}

/// `-h`.
pub fn help() -> Result<()> {
    print(flags::USAGE.as_bytes())
}

/// Makes sure that a shim serves this container's group, and answers where.
///
/// The socket listens before the daemon exists, so nobody has to wait for the daemon. What the daemon is to inherit (its
/// group of processes, cgroup, OOM score, core scheduling cookie) is set on ourselves before it is made.
pub fn start(flags: &Flags) -> Result<()> {
    flags.need_container()?;
    let caller = Caller::read(flags)?;
    let group = group::of_bundle(Path::new("."))?.unwrap_or_else(|| flags.id.clone());
    let address = Address::new(caller.socket_dir(), &flags.address, &flags.namespace, &group, false);
    let claim = socket::claim(&address)?;
    let result = match &claim {
        Claim::Ours(listener) => launch(flags, &caller, &address, listener),
        Claim::Served => record(&caller, &address).and_then(|()| print(&caller.reply(&address)?)),
    };
    if result.is_err() && matches!(claim, Claim::Ours(_)) {
        // The error matters more than a socket file that nobody listens on; the next start removes it.
        let _left = std::fs::remove_file(address.path());
    }
    result
}

/// Starts the daemon and answers; on an error the daemon is gone again.
fn launch(flags: &Flags, caller: &Caller, address: &Address, listener: &std::os::fd::OwnedFd) -> Result<()> {
    record(caller, address)?;
    host::inherit(&caller.shim_cgroup)?;
    let mut daemon = daemon::spawn(flags, caller, listener)?;
    let answered = caller.reply(address).and_then(|reply| print(&reply));
    if answered.is_err() {
        let _killed = daemon.kill();
        let _reaped = daemon.wait();
    }
    answered
}

/// Leaves in the bundle what a later containerd, the daemon and `delete` need: `address` (containerd 1.6 and 1.7 find us again
/// by nothing else) and, if the socket is in a directory of containerd's choice, a link `s` to it.
fn record(caller: &Caller, address: &Address) -> Result<()> {
    let failed = |op, name: &str, e: &std::io::Error| Error::io(op, name, e);
    std::fs::write(".address", address.url()).map_err(|e| failed("write", ".address", &e))?;
    std::fs::rename(".address", "address").map_err(|e| failed("rename", "address", &e))?;
    if caller.chosen_dir.is_empty() {
        return Ok(());
    }
    match std::os::unix::fs::symlink(&caller.chosen_dir, "s") {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => Err(failed("symlink", "s", &e)),
        _ => Ok(()),
    }
}

/// All of standard input.
fn read_input() -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = std::io::stdin().lock().take(INPUT_LIMIT + 1).read_to_end(&mut bytes);
    read.map_err(|e| Error::io("read", "standard input", &e))?;
    if bytes.len() as u64 > INPUT_LIMIT {
        let reason = format!("is longer than {INPUT_LIMIT} bytes");
        return Err(Error::new(Kind::Invalid, "read", "standard input", reason));
    }
    Ok(bytes)
}

/// The answer, in one piece.
fn print(bytes: &[u8]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(|e| Error::io("write", "standard output", &e))
}
