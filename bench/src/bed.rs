//! The machine as all cases find it: peers, directories, groups, and somebody who listens to events.

use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use crate::Outcome;
use crate::bundle::Bundles;
use crate::group::{Group, Groups};
use crate::shim::Peer;

/// What a run has.
pub struct Bed {
    /// The shims, mini first.
    pub peers: Vec<Peer>,
    /// Their control groups, in the same order.
    pub groups: Vec<Group>,
    /// Root file system and bundles.
    pub bundles: Bundles,
    /// The socket that events go to.
    pub events: PathBuf,
    /// Where everything lies.
    pub dir: PathBuf,
    /// Few rounds: a check that everything works, not a measurement.
    pub quick: bool,
    /// Where mini's binaries are.
    pub bin: PathBuf,
    _all: Groups,
}

impl Bed {
    /// Finds the peers and makes the rest.
    ///
    /// Errors: a binary is missing; which script makes it is said.
    pub fn new(dir: &Path, quick: bool) -> Outcome<Bed> {
        let bin = bin()?;
        Bed::with(dir, quick, peers(&bin)?, bin)
    }

    /// A bed without peers.
    ///
    /// Errors: as [`Bed::new`].
    pub fn of_mini(dir: &Path) -> Outcome<Bed> {
        let bin = bin()?;
        Bed::with(dir, true, vec![mini(&bin)?], bin)
    }

    fn with(dir: &Path, quick: bool, peers: Vec<Peer>, bin: PathBuf) -> Outcome<Bed> {
        let name = dir.file_name().and_then(|name| name.to_str()).ok_or("no name")?;
        let all = Groups::new(name)?;
        let groups = peers.iter().map(|peer| all.of(peer.name)).collect::<Outcome<_>>()?;
        let events = dir.join("events.sock");
        listen(&events)?;
        let bundles = Bundles::new(dir)?;
        Ok(Bed { peers, groups, bundles, events, dir: dir.to_owned(), quick, bin, _all: all })
    }

    /// Another group beside those of the peers.
    pub fn group(&self, name: &str) -> Outcome<Group> {
        self._all.of(name)
    }

    /// `few` in a quick run.
    pub fn rounds(&self, few: usize, many: usize) -> usize {
        let named = std::env::var("MINI_BENCH_ROUNDS").ok().and_then(|text| text.parse().ok());
        if self.quick { few } else { named.unwrap_or(many) }
    }

    /// The peers of a round with their groups, beginning with another one each time.
    pub fn rotated(&self, round: usize) -> impl Iterator<Item = (&Peer, &Group)> {
        let count = self.peers.len();
        (0..count).map(move |n| (n + round) % count).map(|n| (&self.peers[n], &self.groups[n]))
    }

    /// The peer of this name with its group.
    pub fn peer(&self, name: &str) -> Option<(&Peer, &Group)> {
        self.peers.iter().zip(&self.groups).find(|(peer, _)| peer.name == name)
    }
}

impl Drop for Bed {
    /// A failed case may have left shims and containers.
    fn drop(&mut self) {
        for group in &self.groups {
            let _none = group.clear();
        }
    }
}

/// A program of the test bed.
pub fn program(path: &str) -> Outcome<PathBuf> {
    let path = crate::testbed().join(path);
    if !path.exists() {
        return Err(format!("{} is missing: scripts/testbed and scripts/bench-peers make it", path.display()).into());
    }
    // Symbolic links are followed: a peer's own path shows in nothing that is measured.
    Ok(path.canonicalize()?)
}

fn bin() -> Outcome<PathBuf> {
    Ok(PathBuf::from(std::env::var_os("MINI_BIN_DIR").ok_or("MINI_BIN_DIR, where mini's binaries are, is not set")?))
}

fn mini(bin: &Path) -> Outcome<Peer> {
    let binary = bin.join("containerd-shim-mini-v2");
    if !binary.exists() {
        return Err(format!("{} is missing", binary.display()).into());
    }
    Ok(Peer { name: "mini", binary, runtime: None })
}

fn peers(bin: &Path) -> Outcome<Vec<Peer>> {
    let (go, rs) = (program("c2.1/bin/containerd-shim-runc-v2")?, program("peers/bin/containerd-shim-runc-v2-rs"));
    let (runc, crun) = (program("c2.1/bin/runc")?, program("c2.1/bin/crun")?);
    let mut peers = vec![
        mini(bin)?,
        Peer { name: "go+runc", binary: go.clone(), runtime: Some(runc) },
        Peer { name: "go+crun", binary: go.clone(), runtime: Some(crun.clone()) },
    ];
    // Only if asked for until a build with its feature v1 was seen to work: a peer that fails ends every case.
    if std::env::var_os("MINI_BENCH_YOUKI").is_some()
        && let Ok(youki) = program("peers/bin/youki")
    {
        peers.push(Peer { name: "go+youki", binary: go, runtime: Some(youki) });
    }
    if let Ok(rs) = rs {
        peers.push(Peer { name: "rs+crun", binary: rs, runtime: Some(crun) });
    }
    // For profiling one of them.
    if let Ok(only) = std::env::var("MINI_BENCH_PEERS") {
        peers.retain(|peer| only.split(',').any(|name| name == peer.name));
    }
    Ok(peers)
}

/// Containerd's side of events.
fn listen(socket: &Path) -> Outcome {
    let listener = UnixListener::bind(socket)?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || crate::wire::accept_everything(stream));
        }
    });
    Ok(())
}
