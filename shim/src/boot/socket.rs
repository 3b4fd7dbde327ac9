//! The shim's socket: its public name, and who may have it.

#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use runtime::{Error, Result};
use rustix::fs::{CWD, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use sha2::{Digest, Sha256};

/// Where sockets go if containerd does not say.
pub const DEFAULT_DIR: &str = "/run/containerd/s";

/// Connections that may wait while the daemon gets going; Go's listen asks for the same.
const BACKLOG: i32 = 4096;

/// How long another `start` or `delete` may hold the directory, which takes it microseconds unless it is stopped.
const TURN: Duration = Duration::from_secs(10);

/// The name of a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address(PathBuf);

impl Address {
    /// The rule is public: `ctr shim`, containerd's CRI and its tests compute the same (pkg/shim/util_unix.go).
    /// `debug` gives the twin that Go's shims serve their profiler on.
    pub fn new(dir: &str, containerd: &str, namespace: &str, group: &str, debug: bool) -> Self {
        let mut parts = vec![containerd, namespace, group];
        if debug {
            parts = vec![containerd, namespace, group, "debug"];
        }
        let digest = Sha256::digest(joined(&parts).as_bytes());
        let name: String = digest.iter().map(|b| format!("{b:02x}")).collect();
        Self(Path::new(dir).join(name))
    }

    /// From the text of a file `address`; `None` for an abstract socket, of which nothing is left when its owner is gone.
    pub fn recorded(text: &str) -> Option<Self> {
        text.trim().strip_prefix("unix://").map(|path| Self(PathBuf::from(path)))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// As containerd wants it told.
    pub fn url(&self) -> String {
        format!("unix://{}", self.0.display())
    }

    /// Whether somebody listens.
    ///
    /// # Errors
    /// It cannot be found out (no descriptor, no memory, no socket of this kind): nobody may take it for abandoned then.
    pub fn is_served(&self) -> Result<bool> {
        let failed = |op, e| Error::sys(op, self.0.display().to_string(), e);
        let address = SocketAddrUnix::new(&self.0).map_err(|e| failed("connect", e))?;
        let socket = unix_socket().map_err(|e| failed("socket", e))?;
        match rustix::net::connect(&socket, &address) {
            // AGAIN: it listens and is very busy.
            Ok(()) | Err(Errno::AGAIN) => Ok(true),
            Err(Errno::CONNREFUSED | Errno::NOENT) => Ok(false),
            Err(e) => Err(failed("connect", e)),
        }
    }

    /// Removes a socket that nobody listens on. Whether somebody does is the answer.
    pub fn remove_if_abandoned(&self) -> Result<bool> {
        if !self.0.parent().is_some_and(Path::exists) {
            return Ok(false);
        }
        let _turn = self.turn()?;
        self.remove_unless_served()
    }

    fn remove_unless_served(&self) -> Result<bool> {
        if !std::fs::symlink_metadata(&self.0).is_ok_and(|m| m.file_type().is_socket()) {
            return Ok(false);
        }
        if self.is_served()? {
            return Ok(true);
        }
        match std::fs::remove_file(&self.0) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io("unlink", self.0.display().to_string(), &e))
            }
            _ => Ok(false),
        }
    }

    /// A lock on the directory, while which no other shim of ours binds or removes a socket in it: between bind and listen a
    /// socket looks abandoned, and whoever replaced it then would split a pod. The kernel lifts it when we die.
    fn turn(&self) -> Result<OwnedFd> {
        let dir = self.0.parent().unwrap_or(Path::new("."));
        let failed = |op, e| Error::sys(op, dir.display().to_string(), e);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(dir, flags, Mode::empty()).map_err(|e| failed("open", e))?;
        let end = Instant::now() + TURN;
        loop {
            match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
                Err(Errno::WOULDBLOCK | Errno::INTR) if Instant::now() < end => {
                    std::thread::sleep(Duration::from_micros(200));
                }
                locked => return locked.map(|()| fd).map_err(|e| failed("flock", e)),
            }
        }
    }
}

/// Who answers at an address.
#[derive(Debug)]
pub enum Claim {
    /// We have bound it, and it listens.
    Ours(OwnedFd),
    /// A shim of our group does.
    Served,
}

/// Takes the address, or finds that a living shim has it. A socket that nobody listens on is replaced.
pub fn claim(address: &Address) -> Result<Claim> {
    let failed = |op, e| Error::sys(op, address.0.display().to_string(), e);
    let name = SocketAddrUnix::new(&address.0).map_err(|e| failed("bind", e))?;
    if let Some(dir) = address.0.parent() {
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
        made.map_err(|e| Error::io("mkdir", dir.display().to_string(), &e))?;
    }
    let _turn = address.turn()?;
    let socket = unix_socket().map_err(|e| failed("socket", e))?;
    match rustix::net::bind(&socket, &name) {
        Err(Errno::ADDRINUSE) => {
            if address.remove_unless_served()? {
                return Ok(Claim::Served);
            }
            rustix::net::bind(&socket, &name).map_err(|e| failed("bind", e))?;
        }
        other => other.map_err(|e| failed("bind", e))?,
    }
    rustix::fs::chmodat(CWD, &address.0, Mode::RUSR | Mode::WUSR, rustix::fs::AtFlags::empty())
        .and_then(|()| rustix::net::listen(&socket, BACKLOG))
        .map_err(|e| failed("listen", e))?;
    Ok(Claim::Ours(socket))
}

fn unix_socket() -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

/// Go's path.Join: empty parts do not count, and the whole is cleaned by its words alone, without a look at the file system.
fn joined(parts: &[&str]) -> String {
    let whole = parts.iter().copied().filter(|p| !p.is_empty()).collect::<Vec<_>>().join("/");
    if whole.is_empty() {
        return whole;
    }
    let absolute = whole.starts_with('/');
    let mut kept: Vec<&str> = Vec::new();
    for part in whole.split('/') {
        match part {
            "" | "." => {}
            ".." if kept.last().is_some_and(|last| *last != "..") => {
                kept.pop();
            }
            ".." if absolute => {}
            other => kept.push(other),
        }
    }
    match (absolute, kept.is_empty()) {
        (true, _) => format!("/{}", kept.join("/")),
        (false, true) => ".".into(),
        (false, false) => kept.join("/"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// Digests by sha256sum(1) of the joined text.
    #[test]
    fn names_are_those_of_go() {
        let path = |group, debug| {
            let a = Address::new("/run/containerd/s", "/run/containerd/containerd.sock", "default", group, debug);
            a.url()
        };
        assert_eq!(
            path("c1", false),
            "unix:///run/containerd/s/d25aa4ef11a84e954e74a5bcff06557d0b6ea8d0c00243896f29826694bbd888"
        );
        assert_eq!(
            path("c1", true),
            "unix:///run/containerd/s/3c26dcd5c4a5937250e0cb81a75fbad35bcc7a20d35d1a0f3a4da34928b0ae5a"
        );
        assert_eq!(path("x/../c1/.", false), path("c1", false));
    }

    #[test]
    fn paths_are_joined_as_go_joins_them() {
        for (parts, expected) in [
            (vec!["/a/b", "ns", "id"], "/a/b/ns/id"),
            (vec!["", "ns", ""], "ns"),
            (vec!["/a/", "/ns/", "../x"], "/a/x"),
            (vec!["/..", "..", "x"], "/x"),
            (vec!["a", "..", "..", "x"], "../x"),
            (vec!["a", ".."], "."),
            (vec!["", ""], ""),
        ] {
            assert_eq!(joined(&parts), expected, "{parts:?}");
        }
    }

    #[test]
    fn a_living_owner_keeps_its_address_and_a_dead_one_loses_it() {
        let dir = tempfile::tempdir().unwrap();
        let below = dir.path().join("s/t");
        let address = Address::new(below.to_str().unwrap(), "/c.sock", "ns", "g", false);
        let Claim::Ours(first) = claim(&address).unwrap() else { panic!("taken") };
        let mode = |p: &Path| std::fs::metadata(p).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&below), mode(address.path())), (0o700, 0o600));
        assert!(address.is_served().unwrap() && matches!(claim(&address).unwrap(), Claim::Served));
        assert!(address.remove_if_abandoned().unwrap());
        drop(first);
        assert!(address.path().exists());
        let Claim::Ours(second) = claim(&address).unwrap() else { panic!("taken") };
        drop(second);
        assert!(!address.remove_if_abandoned().unwrap());
        assert!(!address.path().exists());
        assert!(!address.remove_if_abandoned().unwrap());
        assert_eq!(Address::recorded(&format!("{}\n", address.url())), Some(address));
        assert_eq!(Address::recorded("/abstract"), None);
    }

    /// One of many gets it, although between bind and listen it looks abandoned.
    #[test]
    fn of_many_at_once_one_gets_it() {
        let dir = tempfile::tempdir().unwrap();
        for round in 0..200 {
            let address = Address::new(dir.path().to_str().unwrap(), "/c", "n", &round.to_string(), false);
            let claims: Vec<Claim> = std::thread::scope(|scope| {
                let all: Vec<_> = (0..4).map(|_| scope.spawn(|| claim(&address).unwrap())).collect();
                all.into_iter().map(|one| one.join().unwrap()).collect()
            });
            assert_eq!(claims.iter().filter(|claim| matches!(claim, Claim::Ours(_))).count(), 1);
        }
    }

    #[test]
    fn a_path_that_is_too_long_is_an_error_and_no_file_is_taken_away() {
        let dir = tempfile::tempdir().unwrap();
        let long = dir.path().join("d".repeat(60));
        let error = claim(&Address::new(long.to_str().unwrap(), "/c", "n", "g", false)).unwrap_err();
        assert_eq!(error.errno, Some(Errno::NAMETOOLONG));
        let address = Address::new(dir.path().to_str().unwrap(), "/c", "n", "g", false);
        std::fs::write(address.path(), "not a socket").unwrap();
        assert!(claim(&address).is_err());
        assert!(address.path().exists());
        // Somebody has it, if not for what we want.
        std::fs::remove_file(address.path()).unwrap();
        let _other = std::os::unix::net::UnixDatagram::bind(address.path()).unwrap();
        assert_eq!(claim(&address).unwrap_err().errno, Some(Errno::PROTOTYPE));
        assert!(address.remove_if_abandoned().is_err());
        assert!(address.path().exists());
    }
}
