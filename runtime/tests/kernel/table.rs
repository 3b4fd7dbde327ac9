//! Tests of the command line that mini and the current runc have to pass alike.

use libtest_mimic::{Arguments, Conclusion, Failed, Trial};

use crate::bed::{self, Bed, Runtime};

pub type Done = Result<(), Failed>;

/// Name and test.
#[derive(Clone, Copy)]
pub struct Line(pub &'static str, pub fn(&mut Bed<'_>) -> Done);

/// Fails the test with a formatted reason.
macro_rules! ensure {
    ($is:expr, $($why:tt)+) => {
        if !$is {
            return Err(format!($($why)+).into());
        }
    };
}
pub(crate) use ensure;

/// Runs every line on both runtimes and removes the groups.
pub fn run(lines: &[Line]) -> Conclusion {
    let runc = bed::testbed().join("c2.1/bin/runc");
    let of = |name, program| Runtime { name, program, options: &[], pure_v1: false };
    let both: &'static [Runtime] =
        Box::leak(Box::new([of("mini", env!("CARGO_BIN_EXE_mini").into()), of("runc", runc)]));
    let trial = |line: Line, runtime: &'static Runtime| {
        Trial::test(format!("{}::{}", line.0, runtime.name), move || line.1(&mut Bed::new(runtime)))
    };
    let trials = lines.iter().flat_map(|line| both.iter().map(move |runtime| trial(*line, runtime)));
    let conclusion = libtest_mimic::run(&Arguments::from_args(), trials.collect());
    for mount in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
        // Where no group was made there is none.
        let _ = std::fs::remove_dir(mount.path().join(bed::group().trim_start_matches('/')));
    }
    let _ = std::fs::remove_dir(format!("/sys/fs/cgroup{}", bed::group()));
    conclusion
}
