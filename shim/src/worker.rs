//! Short-lived threads for what may block: paths, hooks, the kernel. The event loop gets the result as a future.
//!
//! Not tokio's blocking pool, which keeps its threads (and what they touched) for ten seconds after the last job.
#![forbid(unsafe_code)]

use std::ffi::CStr;
use std::future::Future;
use std::io;

use runtime::sys;
use tokio::sync::oneshot;

/// Bytes of address space; only what is touched becomes memory.
const STACK: usize = 1 << 20;

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
        result.await.map_err(|_| io::Error::other("the worker died"))
    }
}
