//! The machine as all cases find it: peers, directories, groups, and somebody who listens to events.

use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::Outcome;
use crate::bundle::Bundles;
use crate::group::{Group, Groups};
use crate::report::Report;
use crate::shim::Peer;

/// After this, on a machine slower than thought, cases have no more rounds than they must.
const LIMIT: Duration = Duration::from_secs(22 * 60);

/// How long a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// A few rounds: a check that everything works, not a measurement.
    Quick,
    /// Every case has a budget of time; all peers together take 25 minutes.
    Normal,
    /// Three times the budgets, and the probes for the minutes that the targets name.
    Long,
}

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
    /// How long a run is.
    pub length: Length,
    started: Instant,
    /// Where results go.
    pub out: PathBuf,
    /// Whether tables of system calls go there too.
    pub keeps: bool,
    /// Where mini's binaries are.
    pub bin: PathBuf,
    _all: Groups,
}

impl Bed {
    /// Finds the peers and makes the rest.
    ///
    /// Errors: a binary is missing; which script makes it is said.
    pub fn new(dir: &Path, length: Length) -> Outcome<Bed> {
        let bin = bin()?;
        let mut bed = Bed::with(dir, length, peers(&bin)?, bin)?;
        bed.keeps = true;
        Ok(bed)
    }

    /// A bed without peers.
    ///
    /// Errors: as [`Bed::new`].
    pub fn of_mini(dir: &Path) -> Outcome<Bed> {
        let bin = bin()?;
        Bed::with(dir, Length::Quick, vec![mini(&bin)?], bin)
    }

    fn with(dir: &Path, length: Length, peers: Vec<Peer>, bin: PathBuf) -> Outcome<Bed> {
        let name = dir.file_name().and_then(|name| name.to_str()).ok_or("no name")?;
        let all = Groups::new(name)?;
        let groups = peers.iter().map(|peer| all.of(peer.name)).collect::<Outcome<_>>()?;
        let events = dir.join("events.sock");
        listen(&events)?;
        let bundles = Bundles::new(dir)?;
        let out = std::env::var_os("MINI_BENCH_OUT").map_or_else(|| PathBuf::from("target/bench"), PathBuf::from);
        Ok(Bed {
            peers,
            groups,
            bundles,
            events,
            dir: dir.to_owned(),
            length,
            started: Instant::now(),
            out,
            keeps: false,
            bin,
            _all: all,
        })
    }

    /// Another group beside those of the peers.
    pub fn group(&self, name: &str) -> Outcome<Group> {
        self._all.of(name)
    }

    /// The value for the length of this run.
    pub fn pick<T>(&self, quick: T, normal: T, long: T) -> T {
        match self.length {
            Length::Quick => quick,
            Length::Normal => normal,
            Length::Long => long,
        }
    }

    /// The numbers of a case's rounds: `warm` that do not count, then at least `least` and as many as begin within `seconds`.
    pub fn turns(&self, warm: usize, least: usize, seconds: u64) -> Turns {
        let named = std::env::var("MINI_BENCH_ROUNDS").ok().and_then(|text| text.parse().ok());
        let seconds = self.pick(0, seconds, 3 * seconds);
        let (least, seconds) = named.map_or((self.pick(least.min(2), least, least), seconds), |rounds| (rounds, 0));
        let end =
            (Instant::now() + Duration::from_secs(seconds)).min(self.started + self.pick(LIMIT, LIMIT, 4 * LIMIT));
        Turns { next: 0, least: warm + least, end }
    }

    /// Leaves out a peer, for good.
    ///
    /// Errors: something of it cannot be ended.
    pub fn leave_out(&mut self, name: &str) -> Outcome {
        let Some(at) = self.peers.iter().position(|peer| peer.name == name) else { return Ok(()) };
        self.peers.remove(at);
        self.groups.remove(at).clear()
    }

    /// The peers of a round with their groups, beginning with another one each time.
    pub fn rotated(&self, round: usize) -> impl Iterator<Item = (&Peer, &Group)> {
        let count = self.peers.len();
        (0..count).map(move |n| (n + round) % count).map(|n| (&self.peers[n], &self.groups[n]))
    }

    /// Does something with one peer after the other. One that fails leaves a note, and the others still have their turn.
    ///
    /// Errors: of mini; something of a failed peer cannot be ended.
    pub fn each(&self, report: &mut Report, job: impl Fn(&Peer, &Group, &mut Report) -> Outcome) -> Outcome {
        for (peer, group) in self.rotated(0) {
            match job(peer, group, report) {
                Err(error) if peer.name == "mini" => return Err(error),
                Err(error) => {
                    report.note(format!("{}: {error}", peer.name));
                    group.clear()?;
                }
                Ok(()) => {}
            }
        }
        Ok(())
    }

    /// The peer of this name with its group.
    pub fn peer(&self, name: &str) -> Option<(&Peer, &Group)> {
        self.peers.iter().zip(&self.groups).find(|(peer, _)| peer.name == name)
    }
}

/// See [`Bed::turns`].
pub struct Turns {
    next: usize,
    least: usize,
    end: Instant,
}

impl Iterator for Turns {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let go_on = self.next < self.least || Instant::now() < self.end;
        self.next += 1;
        go_on.then_some(self.next - 1)
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
    if let Ok(youki) = program("peers/bin/youki") {
        peers.push(Peer { name: "go+youki", binary: go, runtime: Some(youki) });
    }
    if let Ok(rs) = rs {
        peers.push(Peer { name: "rs+crun", binary: rs, runtime: Some(crun) });
    }
    // A change is compared with what was before in one run, for two runs differ by more than it is worth.
    if let Some(other) = std::env::var_os("MINI_BENCH_OTHER") {
        peers.push(Peer { name: "other", ..mini(Path::new(&other))? });
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
