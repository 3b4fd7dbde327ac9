//! Harness for tests on real containerds.
//!
//! A test is a function of a [`Bed`]: one containerd of one version with one runtime. The same function runs on mini
//! and on the reference (runc), which is how the tests themselves are checked. [`suite::run`] makes the trials.
#![forbid(unsafe_code)]

pub mod bed;
pub mod client;
pub mod containerd;
pub mod cri;
pub mod debian;
pub mod docker;
pub mod events;
pub mod host;
pub mod nerdctl;
pub mod page;
pub mod pty;
pub mod residue;
pub mod suite;

pub use bed::Bed;
pub use client::Output;
pub use containerd::{Containerd, Runtime, Version, bin_dir};
pub use docker::Docker;
pub use host::Host;
pub use suite::Case;

/// What a test or a step of the harness answers; any error that can be shown will do.
pub type Outcome<T = ()> = Result<T, libtest_mimic::Failed>;

/// Fails the test with the formatted words unless the condition holds.
#[macro_export]
macro_rules! ensure {
    ($condition:expr, $($words:tt)+) => {
        if !$condition {
            return Err(format!($($words)+).into());
        }
    };
}

/// The cases of a suite: the name of each is the name of its function.
#[macro_export]
macro_rules! cases {
    ($($function:ident),+ $(,)?) => { &[$($crate::Case { name: stringify!($function), run: $function }),+] };
}

/// Asks again until the answer is `Ok`, for at most `limit`; then the last error stands.
pub fn eventually<T>(limit: std::time::Duration, mut ask: impl FnMut() -> Outcome<T>) -> Outcome<T> {
    let end = std::time::Instant::now() + limit;
    loop {
        match ask() {
            Err(_) if std::time::Instant::now() < end => std::thread::sleep(std::time::Duration::from_millis(20)),
            answer => return answer,
        }
    }
}
