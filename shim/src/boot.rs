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
mod socket;

use std::os::fd::OwnedFd;
use std::path::Path;

use runtime::version::{COMMIT, VERSION};
use runtime::{Error, Kind, Result, sys};

pub use delete::delete;
pub use flags::{Action, Flags};
pub use info::info;

use crate::service::Args;
use handshake::Caller;
use socket::{Address, Claim};

/// Largest message that is read from standard input.
const INPUT_LIMIT: usize = 10 << 20;

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
    claimed(flags, |caller, address, listener| {
        record(caller, address)?;
        host::inherit(&caller.shim_cgroup)?;
        let mut daemon = daemon::spawn(flags, caller, listener)?;
        let answered = caller.reply(address).and_then(|reply| print(&reply));
        if answered.is_err() {
            let _killed = daemon.kill();
            let _reaped = daemon.wait();
        }
        answered
    })
    .map(drop)
}

/// The daemon up to where it serves, in one of two ways: what is above has executed us; or we are what `start` has become before its
/// C library began (`sys/early/start.rs` of the runtime), and do all of that ourselves first. `None` if there is nothing left to do:
/// somebody serves already.
pub fn settle(flags: &Flags) -> Result<Option<Args>> {
    let signals = daemon::signals()?;
    let Some(parent) = sys::parent_that_waits() else { return daemon::settle(flags, signals).map(Some) };
    let claimed = claimed(flags, |caller, address, _| {
        record(caller, address)?;
        daemon::turn_into(flags, caller, &caller.reply(address)?, &parent)
    })?;
    let Some((caller, listener)) = claimed else {
        daemon::release(&parent, false)?;
        return Ok(None);
    };
    Ok(Some(daemon::args(flags, listener, signals, caller.ttrpc_address)))
}

/// Has `serve` see to it that our socket is served; `None` and the answer if somebody does that already.
fn claimed(
    flags: &Flags,
    serve: impl FnOnce(&Caller, &Address, &OwnedFd) -> Result<()>,
) -> Result<Option<(Caller, OwnedFd)>> {
    flags.need_container()?;
    // The daemon would say it when nobody hears it any more.
    runtime::host::new_enough()?;
    let caller = Caller::read(flags)?;
    let group = group::of_bundle(Path::new("."))?.unwrap_or_else(|| flags.id.clone());
    let address = Address::new(caller.socket_dir(), &flags.address, &flags.namespace, &group, false);
    let listener = match socket::claim(&address)? {
        Claim::Ours(listener) => listener,
        Claim::Served => {
            record(&caller, &address)?;
            print(&caller.reply(&address)?)?;
            return Ok(None);
        }
    };
    if let Err(error) = serve(&caller, &address, &listener) {
        // While we listen, nobody else takes the path. The error matters more than a socket file that nobody listens on; the next
        // start removes it.
        let _left = std::fs::remove_file(address.path());
        return Err(error);
    }
    Ok(Some((caller, listener)))
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

/// All of standard input. Neither here nor in [`print`] std's buffers, which would stay with the daemon.
fn read_input() -> Result<Vec<u8>> {
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let read = rustix::io::retry_on_intr(|| rustix::io::read(rustix::stdio::stdin(), &mut buffer));
        let n = read.map_err(|e| Error::sys("read", "standard input", e))?;
        if n == 0 {
            return Ok(bytes);
        }
        bytes.extend_from_slice(&buffer[..n]);
        if bytes.len() > INPUT_LIMIT {
            let reason = format!("is longer than {INPUT_LIMIT} bytes");
            return Err(Error::new(Kind::Invalid, "read", "standard input", reason));
        }
    }
}

/// The answer, in one piece where the reader takes it so.
fn print(mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        let written = rustix::io::retry_on_intr(|| rustix::io::write(rustix::stdio::stdout(), bytes));
        match written.map_err(|e| Error::sys("write", "standard output", e))? {
            0 => return Err(Error::sys("write", "standard output", rustix::io::Errno::IO)),
            n => bytes = &bytes[n..],
        }
    }
    Ok(())
}
