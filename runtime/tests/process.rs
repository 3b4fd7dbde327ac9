//! What a payload finds when it begins: descriptors, signals, groups, environment, directory; and what is said when it
//! cannot begin. On the real kernel, as root.
#![forbid(unsafe_code)]

#[allow(dead_code, reason = "shared by two programs")]
#[path = "kernel/bundle.rs"]
mod bundle;
#[allow(dead_code, reason = "shared by two programs")]
#[path = "kernel/census.rs"]
mod census;
#[path = "process/crowd.rs"]
mod crowd;
#[path = "process/group.rs"]
mod group;
#[path = "process/listener.rs"]
mod listener;
#[path = "process/place.rs"]
mod place;
#[allow(dead_code, reason = "shared by two programs")]
#[path = "kernel/roles.rs"]
mod roles;
#[path = "process/syscalls.rs"]
mod syscalls;
#[allow(dead_code, reason = "shared by two programs")]
#[path = "kernel/watchdog.rs"]
mod watchdog;
#[path = "process/words.rs"]
mod words;

use libtest_mimic::{Arguments, Failed, Trial};

type Test = (&'static str, fn() -> Result<(), Failed>);

fn main() {
    roles::play();
    watchdog::start();
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1); // descriptors, groups and the signal mask are this process'
    let tests = [words::TESTS, place::TESTS, crowd::TESTS, group::TESTS, listener::TESTS, syscalls::TESTS].concat();
    let trial = |(name, test): Test| {
        Trial::test(name, move || {
            watchdog::alive(name);
            test()
        })
    };
    libtest_mimic::run(&arguments, tests.into_iter().map(trial).collect()).exit();
}
