//! Control groups on a real kernel, as root: everything that is written is read back from the kernel's own file, and
//! whoever is frozen, killed or refused is a real process.
//!
//! The same binary runs on version 1, version 2 and hybrid hosts. What is expected follows from the [`Layout`]: a limit
//! whose controller this host lacks is expected to be refused by name. All groups lie below one that is ours.

#[path = "cgroup/death.rs"]
mod death;
#[path = "cgroup/devices.rs"]
mod devices;
#[path = "cgroup/life.rs"]
mod life;
#[path = "cgroup/limits.rs"]
mod limits;
#[path = "cgroup/process.rs"]
mod process;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use libtest_mimic::{Arguments, Trial};
use runtime::cgroup::{Cgroup, Layout, Place};
use runtime::spec::Resources;

/// Where all groups of this run are.
fn base() -> String {
    format!("/mini-test-{}", std::process::id())
}

/// A group that goes away with whatever is in it.
struct Group(Cgroup);

impl Group {
    fn new(name: &str) -> Group {
        Group(Cgroup::create(&layout(), &format!("{}/{name}", base()), "unused").unwrap())
    }

    fn places(&self) -> Vec<Place> {
        let record = self.0.record();
        record.v1.into_iter().chain(record.unified).collect()
    }

    /// Where a controller's files are, and whether that is version 1.
    fn find(&self, controller: &str) -> Option<(bool, PathBuf)> {
        let record = self.0.record();
        let has = |p: &&Place| p.controllers.iter().any(|c| c == controller);
        let v1 = record.v1.iter().find(has).map(|p| (true, p.dir()));
        v1.or_else(|| record.unified.iter().find(has).map(|p| (false, p.dir())))
    }

    fn read(&self, controller: &str, file: &str) -> String {
        let (_, dir) = self.find(controller).unwrap();
        std::fs::read_to_string(dir.join(file)).unwrap().trim_end().to_owned()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = self.0.thaw();
        let _ = self.0.kill(libc::SIGKILL);
        if let Err(e) = self.0.remove() {
            eprintln!("left behind: {e}");
        }
    }
}

/// Leave the unified tree of a hybrid host out of sight: then it is a version 1 host.
static ONLY_V1: AtomicBool = AtomicBool::new(false);

fn layout() -> Layout {
    let mut layout = Layout::read().unwrap();
    if ONLY_V1.load(Ordering::Relaxed) {
        layout.unified = None;
    }
    layout
}

fn resources(json: &str) -> Resources {
    serde_json::from_str(json).unwrap()
}

fn main() {
    if let Some(role) = std::env::args().nth(1).filter(|a| a == "--as").and(std::env::args().nth(2)) {
        process::play(&role);
    }
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1); // descriptors are counted
    let mut trials: Vec<Trial> = Vec::new();
    limits::trials(&layout(), &mut trials);
    life::trials(&layout(), &mut trials);
    let conclusion = libtest_mimic::run(&arguments, trials);
    ONLY_V1.store(false, Ordering::Relaxed);
    for mount in layout().v1.iter().map(|h| &h.mount).chain(layout().unified.iter().map(|u| &u.mount)) {
        let _ = std::fs::remove_dir(mount.join(&base()[1..]));
    }
    conclusion.exit();
}
