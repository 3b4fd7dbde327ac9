//! The runtime's reaper on the event loop: a pidfd that is readable is an exit.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::time::Duration;

use runtime::reap::{End, Swept, ended, sweep};
use tokio::sync::Notify;

use crate::ready::Fd;

/// Waits for the process behind a pidfd and reaps it.
///
/// Reaping never waits for anything else; only the announcing of exits has an order.
pub async fn exit(pidfd: Arc<Fd>) -> End {
    loop {
        let ready = pidfd.readable().await;
        match ended(pidfd.get_ref()) {
            Ok(Some(end)) => return end,
            Ok(None) => {
                if let Ok(mut ready) = ready {
                    ready.clear_ready();
                }
            }
            // Not a child of ours any more, which cannot be as long as only owners reap. Containers must not hang on it.
            Err(_) => return End::Exited(255),
        }
    }
}

/// Takes the orphans that this subreaper inherits, each time `child_ended` says that some child has ended.
pub async fn sweep_orphans(child_ended: Arc<Notify>) {
    const FIRST: Duration = Duration::from_millis(5);
    loop {
        child_ended.notified().await;
        let mut pause = FIRST;
        // A zombie whose owner has not come yet hides those behind it.
        while let Ok(Swept::Hidden(_)) = sweep() {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    }
}
