//! A way out of a create that hangs.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::{Error, Result};
use crate::reap;

/// Ends what a create waits for, which then fails and undoes itself: the hook that runs, the process that is on its way.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    rung: bool,
    waited_for: Vec<Arc<OwnedFd>>,
}

/// As long as it lives its process is killed by [`Cancel::ring`].
#[derive(Debug)]
pub(crate) struct Waiting(Cancel, Arc<OwnedFd>);

impl Cancel {
    /// Sends SIGKILL to whom the create waits for, and to whom it would wait for after that. What waits in the kernel (a mount of a
    /// server that is gone) goes on to do so.
    pub fn ring(&self) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.rung = true;
        state.waited_for.iter().for_each(|process| kill(process.as_fd()));
    }

    /// This process is waited for.
    ///
    /// # Errors
    /// No descriptor is left.
    pub(crate) fn wait(&self, pidfd: BorrowedFd<'_>) -> Result<Waiting> {
        let process = pidfd.try_clone_to_owned().map_err(|e| Error::io("dup", "pidfd", &e))?;
        let process = Arc::new(process);
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.rung {
            kill(process.as_fd());
        }
        state.waited_for.push(Arc::clone(&process));
        Ok(Waiting(self.clone(), process))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut state = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.waited_for.retain(|process| !Arc::ptr_eq(process, &self.1));
    }
}

fn kill(process: BorrowedFd<'_>) {
    // It has ended already.
    let _killed = reap::signal(process, libc::SIGKILL);
}
