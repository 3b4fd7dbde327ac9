//! A test on the kernel that hangs says where, instead of hanging.

use std::sync::Mutex;
use std::time::{Duration, Instant};

static LAST: Mutex<Option<(Instant, String)>> = Mutex::new(None);

/// Nothing here takes this long.
const LIMIT: Duration = Duration::from_secs(60);

/// Something new begins.
pub fn alive(what: &str) {
    *LAST.lock().unwrap() = Some((Instant::now(), what.to_owned()));
}

/// Watches until the process ends.
pub fn start() {
    std::thread::spawn(|| {
        loop {
            std::thread::sleep(Duration::from_secs(1));
            if let Some((since, what)) = &*LAST.lock().unwrap()
                && since.elapsed() > LIMIT
            {
                eprintln!("hangs: {what}");
                std::process::abort();
            }
        }
    });
}
