//! What it costs to look at a group: CPU of this process per call, for a new group with one sleeping process.
//!
//!     cargo run --release -p mini-runtime --example look

use std::process::Command;
use std::time::Duration;

use runtime::cgroup::{Cgroup, Layout};
use rustix::time::{ClockId, clock_gettime};

fn cpu() -> Duration {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(now.tv_sec.cast_unsigned(), u32::try_from(now.tv_nsec).unwrap_or(0))
}

fn measure(what: &str, calls: u32, mut call: impl FnMut()) {
    call();
    let before = cpu();
    for _ in 0..calls {
        call();
    }
    println!("{what:<40} {:>8.1} µs", (cpu() - before).as_secs_f64() * 1e6 / f64::from(calls));
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let layout = Layout::read()?;
    let path = format!("/mini-look-{}", std::process::id());
    let group = Cgroup::create(&layout, &path, "")?;
    let mut sleeper = Command::new("sleep").arg("1000").spawn()?;
    let record = group.record();
    for place in record.v1.iter().chain(&record.unified) {
        std::fs::write(place.dir().join("cgroup.procs"), sleeper.id().to_string())?;
    }
    measure("stats, one call after the other", 2000, || drop(group.stats()));
    // A group object of its own has nothing open.
    measure("stats, the first call", 500, || {
        drop(Cgroup::open(&layout, &record).and_then(|fresh| fresh.stats()));
    });
    measure("pids", 2000, || drop(group.pids()));
    measure("is_leaf", 2000, || {
        std::hint::black_box(group.is_leaf());
    });
    sleeper.kill()?;
    sleeper.wait()?;
    group.remove()?;
    Ok(())
}
