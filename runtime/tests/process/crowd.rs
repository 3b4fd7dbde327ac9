//! A clone out of a busy process: whatever lock another thread holds at that moment, the child must not wait for it.

use std::sync::atomic::{AtomicBool, Ordering};

use libtest_mimic::Failed;
use runtime::Exec;
use serde_json::json;

use super::bundle::{self, Bundle, Running, ended};
use super::{census, watchdog};

pub const TESTS: &[super::Test] = &[("crowd::two_thousand_children_of_64_threads", children_of_many_threads)];

const CHILDREN: u32 = 2_000;
const THREADS: usize = 64;

fn children_of_many_threads() -> Result<(), Failed> {
    let (host, bundle) = (bundle::host(), Bundle::new("crowd", 0));
    let running = Running::new(&host, &bundle, &json!({}));
    let mut process = bundle.spec(&json!({})).process.unwrap();
    process.args = vec!["/bin/true".into()];
    let before = census::descriptors().len();
    let stop = AtomicBool::new(false);
    let outcome = std::thread::scope(|scope| {
        for n in 0..THREADS {
            let stop = &stop;
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    // Locks of the allocator, of stdio and of the environment.
                    for size in 0..200 {
                        drop(std::hint::black_box(vec![n as u8; size * 97]));
                    }
                    std::hint::black_box(std::env::var_os("PATH"));
                    std::thread::sleep(std::time::Duration::from_millis(10));
                }
            });
        }
        let outcome = (0..CHILDREN).try_for_each(|n| {
            watchdog::alive(&format!("child {n} of a crowd"));
            let child = running.container.exec(&host, Exec { ..Running::exec(&process) })?;
            match ended(&child.pidfd) {
                0 => Ok(()),
                status => Err(Failed::from(format!("child {n} exits with {status}"))),
            }
        });
        stop.store(true, Ordering::Relaxed);
        outcome
    });
    // What is kept open while execs are frequent.
    while !running.container.cgroup().cool() {
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    assert_eq!(census::descriptors().len(), before);
    outcome
}
