//! Watching for OOM kills.
#![forbid(unsafe_code)]

use std::time::Duration;

use runtime::cgroup::Oom;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::ready;

/// On version 1 the kernel tells before it kills; these are the times after which to look again.
const ECHO: [Duration; 2] = [Duration::from_millis(20), Duration::from_millis(200)];

/// A watch; dropping it ends it.
pub(super) struct Watch {
    oom: Oom,
    seen: u64,
    bell: JoinHandle<()>,
}

impl Watch {
    /// `ring` is called when there may be news; false ends the watch. `None` when it cannot be watched.
    pub(super) fn new(mut oom: Oom, ring: impl Fn() -> bool + Send + 'static) -> Option<Self> {
        let fd = oom.fd().try_clone_to_owned().and_then(ready::for_reading).ok()?;
        let seen = oom.read().ok()?;
        let bell = tokio::spawn(async move {
            while let Ok(mut ready) = fd.readable().await {
                ready.clear_ready();
                for pause in ECHO {
                    if !ring() {
                        return;
                    }
                    sleep(pause).await;
                }
                ring();
            }
        });
        Some(Self { oom, seen, bell })
    }

    /// True when more was killed since the last time. `None` when the group is gone.
    pub(super) fn grew(&mut self) -> Option<bool> {
        let count = self.oom.read().ok()?;
        let grew = count > self.seen;
        self.seen = count;
        Some(grew)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.bell.abort();
    }
}
