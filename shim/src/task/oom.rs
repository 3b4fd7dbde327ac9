//! Watching for OOM kills, and saying of each death why it came.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use runtime::cgroup::{Kills, Oom};
use runtime::death::{Cause, is_dying};
use runtime::lifecycle::{Input, Who};
use runtime::reap::End;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::owner::Owner;
use crate::ready;

/// News that come faster than this are looked at together: a group at its limit can ring a hundred times a second.
const TOGETHER: Duration = Duration::from_millis(20);

/// On version 1 the kernel tells before it kills, and on both it counts before it sends the signal: after these times
/// we look again. Also, after the first we listen again to the group above.
const ECHO: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(2)];

/// After this time a victim has its signal.
const SETTLED: Duration = Duration::from_millis(200);

/// A watch; dropping it ends it.
pub(super) struct Watch {
    oom: Oom,
    /// When the count last grew.
    grew: Option<Instant>,
    bell: JoinHandle<()>,
}

impl Watch {
    /// `ring` is called when there may be news; false ends the watch. `None` when it cannot be watched.
    pub(super) fn new(oom: Oom, ring: impl Fn() -> bool + Send + 'static) -> Option<Self> {
        let fd = oom.fd().try_clone_to_owned().and_then(ready::for_reading).ok()?;
        let bell = tokio::spawn(async move {
            let mut echoes: &[Duration] = &[];
            loop {
                let news = match echoes.split_first() {
                    Some((pause, later)) => {
                        echoes = later;
                        timeout(*pause, fd.readable()).await
                    }
                    None => Ok(fd.readable().await),
                };
                match news {
                    Ok(Ok(mut ready)) => {
                        ready.clear_ready();
                        if !ring() {
                            return;
                        }
                        sleep(TOGETHER).await;
                        echoes = &ECHO;
                    }
                    Ok(Err(_)) => return,
                    Err(_quiet) => {}
                }
                if !ring() {
                    return;
                }
            }
        });
        Some(Self { oom, grew: None, bell })
    }

    /// What was killed since the last time, or since the watch was made. Errors: the group is gone.
    fn look(&mut self) -> runtime::Result<Option<Kills>> {
        let kills = self.oom.look()?;
        if kills.as_ref().is_some_and(|kills| kills.count > 0) {
            self.grew = Some(Instant::now());
        }
        Ok(kills)
    }

    fn is_settled(&self) -> bool {
        self.grew.is_none_or(|then| then.elapsed() >= SETTLED)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.bell.abort();
    }
}

impl Owner {
    /// The bell has rung, or its echo.
    pub(super) fn oom_bell(&mut self) {
        if let Some(watch) = &mut self.oom {
            watch.oom.heard();
        }
        self.look_for_oom();
    }

    /// Looks for OOM kills; before an exit is announced this is the last chance to say why.
    pub(super) fn look_for_oom(&mut self) {
        let Some(watch) = &mut self.oom else { return };
        match watch.look() {
            Ok(Some(kills)) => {
                if kills.count > 0 {
                    self.inquest.killed(kills.clone(), self.alive());
                }
                self.tell_of(&kills);
            }
            Ok(None) if self.inquest.is_open() && watch.is_settled() => {
                let pid = |who: &Who| self.processes.get(who).map_or(0, |p| p.pid);
                self.inquest.settle(|who| is_dying(pid(who)));
                if !self.inquest.is_open() {
                    log::debug!("{}: who is left was not killed for want of memory", self.create.id);
                }
            }
            Ok(None) => {}
            Err(_gone) => {
                if let Some(kills) = watch.oom.presumed() {
                    self.inquest.presumed(kills, self.alive());
                }
                self.oom = None;
            }
        }
    }

    fn alive(&self) -> Vec<Who> {
        self.processes.iter().filter(|(_, p)| p.is_alive()).map(|(who, _)| who.clone()).collect()
    }

    fn tell_of(&mut self, kills: &Kills) {
        let (id, limit) = (&self.create.id, &kills.limit);
        match kills.count {
            0 => log::warn!("{id}: waits for memory, as its OOM killer is disabled: {limit}"),
            count => log::warn!("{id}: {count} process(es) killed for want of memory: {limit}"),
        }
        self.feed(Input::Oom);
    }

    /// Says in the log why a process ended, if it was killed.
    pub(super) fn explain(&mut self, who: &Who, end: End) {
        // Probes end well all day long; if something in them did not, the bell tells.
        if who.is_none() || end != End::Exited(0) {
            self.look_for_oom();
        }
        let init = self.processes.get(&None).map_or((true, 0), |p| (p.dead, p.pid));
        let cause = self.inquest.verdict(who, end, || init.0 || is_dying(init.1));
        if let Some(kills) = self.inquest.proven(&cause) {
            self.tell_of(&kills);
        }
        let level = match cause {
            Cause::OutOfMemory(_) => log::Level::Warn,
            Cause::Signal { .. } => log::Level::Info,
            Cause::Exited(_) | Cause::Asked | Cause::WithInit => log::Level::Debug,
        };
        let id = &self.create.id;
        log::log!(level, "{id}: {}: {cause}", who.as_deref().map_or("init".to_owned(), |exec| format!("exec {exec}")));
    }
}
