//! Measures mini beside its peers, all in one run on one machine, in turns. `scripts/bench` prepares and starts it;
//! `tests/budgets.rs` checks the counts among its figures that no weather changes.
#![forbid(unsafe_code)]

pub mod alone;
pub mod bed;
pub mod bundle;
pub mod daemon;
pub mod exec;
pub mod figures;
pub mod flame;
pub mod group;
pub mod guest;
pub mod life;
pub mod memory;
pub mod plot;
pub mod poll;
pub mod probes;
pub mod report;
pub mod shim;
pub mod stdio;
pub mod targets;
pub mod wire;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

/// What a step of the bench answers.
pub type Outcome<T = ()> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Where `scripts/testbed` has put things.
pub fn testbed() -> PathBuf {
    std::env::var_os("MINI_TESTBED").map_or_else(|| PathBuf::from("/var/cache/mini-testbed"), PathBuf::from)
}

/// What makes a name that nothing else has, not even what an earlier run may have left.
pub fn number() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}
