//! Short-lived threads for what may block: paths, hooks, the kernel. The event loop gets the result as a future.
//!
//! Not tokio's blocking pool, which keeps its threads (and what they touched) for ten seconds after the last job.
#![forbid(unsafe_code)]

use std::cell::Cell;
use std::ffi::CStr;
use std::future::Future;
use std::io;
use std::time::Duration;

use runtime::sys;
use tokio::sync::oneshot;

/// Bytes of address space; only what is touched becomes memory.
const STACK: usize = 1 << 20;

/// How long no job must have ended until the memory that they freed goes back to the kernel. Sooner, the next job would
/// only have to fetch it again, page by page.
const QUIET: Duration = Duration::from_millis(500);

thread_local! {
    /// Jobs that have ended, while somebody waits for quiet.
    static ENDED: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Starts `job` on a thread of its own at once. It runs to its end even if the future is dropped.
///
/// Errors: EAGAIN when the kernel grants no thread; then the job has not run.
pub fn run<T: Send + 'static>(
    name: &'static CStr,
    job: impl FnOnce() -> T + Send + 'static,
) -> impl Future<Output = io::Result<T>> + Send {
    let (done, result) = oneshot::channel();
    let spawned = sys::thread(STACK, move || {
        // Only for people who look at us.
        let _ = rustix::thread::set_name(name);
        // Nobody listens any more when the caller went away; the work itself is done all the same.
        let _ = done.send(job());
    });
    async move {
        spawned?;
        let result = result.await.map_err(|_| io::Error::other("the worker died"));
        tidy_up();
        result
    }
}

/// Sees to it that freed memory is given back once all is quiet.
fn tidy_up() {
    if let Some(ended) = ENDED.get() {
        return ENDED.set(Some(ended.wrapping_add(1)));
    }
    ENDED.set(Some(0));
    tokio::spawn(async {
        let mut before = None;
        while ENDED.get() != before {
            before = ENDED.get();
            tokio::time::sleep(QUIET).await;
        }
        ENDED.set(None);
        sys::trim_malloc();
    });
}
