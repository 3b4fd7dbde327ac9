//! Whose limit it was: pure.

use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Kills that were seen at one look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kills {
    /// Processes; 0 if they wait for memory, as the group's OOM killer is disabled (version 1).
    pub count: u64,
    /// For want of memory of whom.
    pub limit: Limit,
}

/// The owner of the memory limit that was hit. Groups are named by their path in the hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Limit {
    /// The container's own.
    Own(String),
    /// The parent's: a pod's, or what was given as parent group.
    Parent(String),
    /// A group further up.
    Ancestor(String),
    /// That of a group which the container has made inside its own (version 2 only).
    Below(String),
    /// No group's: the machine has no memory left.
    Host,
}

impl Limit {
    /// One word for programs: `own`, `parent`, `ancestor`, `below`, `host`.
    pub fn whose(&self) -> &'static str {
        match self {
            Limit::Own(_) => "own",
            Limit::Parent(_) => "parent",
            Limit::Ancestor(_) => "ancestor",
            Limit::Below(_) => "below",
            Limit::Host => "host",
        }
    }

    /// The group with the limit; below it, for [`Limit::Below`]. None has it for [`Limit::Host`].
    pub fn group(&self) -> Option<&str> {
        match self {
            Limit::Own(group) | Limit::Parent(group) | Limit::Ancestor(group) | Limit::Below(group) => Some(group),
            Limit::Host => None,
        }
    }

    fn of(level: usize, group: &str) -> Limit {
        match level {
            0 => Limit::Own(group.to_owned()),
            1 => Limit::Parent(group.to_owned()),
            _ => Limit::Ancestor(group.to_owned()),
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Limit::Own(group) => write!(f, "the container's own limit ({group})"),
            Limit::Parent(group) => write!(f, "the limit of the group above ({group})"),
            Limit::Ancestor(group) => write!(f, "the limit of a group further up ({group})"),
            Limit::Below(group) => write!(f, "the limit of a group inside the container (below {group})"),
            Limit::Host => write!(f, "the machine's memory"),
        }
    }
}

/// What version 2 counts as "out of memory": in our group and below, and by each group's own limit, ours first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Oom2 {
    pub hierarchy: u64,
    pub local: Vec<u64>,
}

/// Version 2: whose limit it was between two looks, `now` being the counts of a group that was still `here` when those by each
/// limit were taken, or of one that has gone meanwhile and taken its own along.
pub(super) fn between(before: &Oom2, now: &Oom2, here: bool, groups: &[(PathBuf, String)]) -> Limit {
    if here {
        return nearest(before, now, groups);
    }
    nearest_above(now.hierarchy > before.hierarchy, &before.local, &now.local, groups)
}

/// Version 2: the nearest group whose own count grew. Those further up may have grown long ago by a kill beside us, of
/// which nobody told us; ours cannot. (So after an old kill of a sibling at the parent's limit, a kill at a limit further
/// up is called the parent's.)
fn nearest(before: &Oom2, now: &Oom2, groups: &[(PathBuf, String)]) -> Limit {
    let grew = |level: &usize| now.local.get(*level) > before.local.get(*level);
    match (0..groups.len()).find(grew) {
        Some(0) => Limit::of(0, &groups[0].1),
        // Counted below us, but not by our own limit.
        _ if now.hierarchy > before.hierarchy => Limit::Below(groups[0].1.clone()),
        Some(level) => Limit::of(level, &groups[level].1),
        None => Limit::Host,
    }
}

/// Version 2, when ours is gone and the group above has counted a kill: its own limit, if that counted an "out of memory".
/// If it counted one of a group below (`below`), that is ours. Else as [`nearest`].
pub(super) fn nearest_above(below: bool, before: &[u64], now: &[u64], groups: &[(PathBuf, String)]) -> Limit {
    match (1..groups.len()).find(|level| now.get(*level) > before.get(*level)) {
        Some(1) => Limit::of(1, &groups[1].1),
        _ if below => Limit::of(0, &groups[0].1),
        Some(level) => Limit::of(level, &groups[level].1),
        None => Limit::Host,
    }
}

/// A kernel that writes a long report to a slow console takes its time between a limit that is hit and the kill.
const REPORT: Duration = Duration::from_secs(10);

/// Version 2: the limit that was last seen to be hit without a kill. The kernel counts the "out of memory" first and the
/// kill some time later (mem_cgroup_oom, then __oom_kill_process; linux/mm), and a look may fall in between.
#[derive(Clone, Debug, Default)]
pub(super) struct Hit(Option<(Limit, Instant)>);

impl Hit {
    /// Which limit a look's kills belong to, if it has seen some, when `limit` has been hit since the look before.
    pub fn of(&mut self, limit: Limit, killed: bool, now: Instant) -> Limit {
        // Such a limit is only what remains when none is seen to be hit.
        let vague = matches!(limit, Limit::Host | Limit::Below(_));
        let hit = self.0.take().filter(|(_, then)| vague && now.duration_since(*then) <= REPORT);
        match (hit, killed) {
            (Some((hit, _)), true) => hit,
            (Some(hit), false) => {
                self.0 = Some(hit);
                limit
            }
            (None, killed) => {
                self.0 = (!killed && limit != Limit::Host).then(|| (limit.clone(), now));
                limit
            }
        }
    }
}

/// Version 1: the topmost group that heard the last bell.
pub(super) fn topmost(heard: &[bool], groups: &[(PathBuf, String)]) -> Limit {
    match heard.iter().rposition(|h| *h) {
        Some(level) => Limit::of(level, &groups[level].1),
        None => Limit::Host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups() -> Vec<(PathBuf, String)> {
        ["/pods/pod/c", "/pods/pod", "/pods"].map(|name| (PathBuf::new(), name.to_owned())).to_vec()
    }

    #[test]
    fn version_2_blames_whose_own_count_grew() {
        let count = |hierarchy, local: [u64; 3]| Oom2 { hierarchy, local: local.to_vec() };
        let before = count(4, [3, 7, 9]);
        for (now, limit) in [
            (count(5, [4, 7, 9]), Limit::Own("/pods/pod/c".into())),
            // A sibling's kill at the pod's limit went by unseen; ours was our own.
            (count(5, [4, 8, 9]), Limit::Own("/pods/pod/c".into())),
            (count(4, [3, 8, 9]), Limit::Parent("/pods/pod".into())),
            (count(4, [3, 7, 10]), Limit::Ancestor("/pods".into())),
            (count(5, [3, 7, 9]), Limit::Below("/pods/pod/c".into())),
            (count(4, [3, 7, 9]), Limit::Host),
        ] {
            assert_eq!(nearest(&before, &now, &groups()), limit, "{now:?}");
        }
    }

    #[test]
    fn version_2_blames_ours_when_it_is_gone_and_no_limit_above_was_hit() {
        let before = [3, 7, 9];
        for (below, now, limit) in [
            (true, [0, 7, 9], Limit::Own("/pods/pod/c".into())),
            (true, [0, 8, 9], Limit::Parent("/pods/pod".into())),
            (true, [0, 7, 10], Limit::Own("/pods/pod/c".into())),
            (false, [0, 7, 10], Limit::Ancestor("/pods".into())),
            (false, [0, 7, 9], Limit::Host),
        ] {
            assert_eq!(nearest_above(below, &before, &now, &groups()), limit, "{below} {now:?}");
        }
    }

    #[test]
    fn version_2_blames_a_group_that_went_between_two_looks() {
        let count = |hierarchy, local: [u64; 3]| Oom2 { hierarchy, local: local.to_vec() };
        let before = count(4, [3, 7, 9]);
        let own = Limit::Own("/pods/pod/c".into());
        for (here, now, limit) in [
            (true, count(5, [4, 7, 9]), own.clone()),
            (true, count(5, [3, 7, 9]), Limit::Below("/pods/pod/c".into())),
            // Its own count cannot be read any more, which must not look as if it had not grown.
            (false, count(5, [0, 7, 9]), own),
            (false, count(4, [0, 8, 9]), Limit::Parent("/pods/pod".into())),
            (false, count(4, [0, 7, 9]), Limit::Host),
        ] {
            assert_eq!(between(&before, &now, here, &groups()), limit, "{here} {now:?}");
        }
    }

    #[test]
    fn a_kill_belongs_to_the_limit_that_was_hit_just_before() {
        let (now, own) = (Instant::now(), Limit::Own("/pods/pod/c".into()));
        let mut hit = Hit::default();
        let mut look = |limit: &Limit, killed, after| hit.of(limit.clone(), killed, now + after);
        let below = Limit::Below("/pods/pod/c".into());
        assert_eq!(look(&own, false, Duration::ZERO), own);
        assert_eq!(look(&Limit::Host, false, Duration::ZERO), Limit::Host, "news of others");
        assert_eq!(look(&below, false, Duration::ZERO), below, "counted below later than by the limit itself");
        assert_eq!(look(&Limit::Host, true, REPORT), own);
        assert_eq!(look(&Limit::Host, true, REPORT), Limit::Host, "once");
        look(&own, false, Duration::ZERO);
        assert_eq!(look(&own, true, Duration::ZERO), own);
        assert_eq!(look(&Limit::Host, true, Duration::ZERO), Limit::Host, "seen with its kill");
        look(&own, false, Duration::ZERO);
        assert_eq!(look(&below, true, Duration::ZERO), own);
        look(&below, false, Duration::ZERO);
        assert_eq!(look(&Limit::Host, true, Duration::ZERO), below);
        look(&own, false, Duration::ZERO);
        assert_eq!(look(&Limit::Host, true, REPORT * 2), Limit::Host, "too long ago");
    }

    #[test]
    fn version_1_blames_the_topmost_that_heard() {
        for (heard, limit) in [
            ([true, false, false], Limit::Own("/pods/pod/c".into())),
            ([true, true, false], Limit::Parent("/pods/pod".into())),
            ([true, true, true], Limit::Ancestor("/pods".into())),
            ([false, false, false], Limit::Host),
        ] {
            assert_eq!(topmost(&heard, &groups()), limit);
        }
    }

    #[test]
    fn words() {
        let own = Limit::Own("/a/b".into());
        assert_eq!((own.whose(), own.group()), ("own", Some("/a/b")));
        assert_eq!(own.to_string(), "the container's own limit (/a/b)");
        assert_eq!((Limit::Host.whose(), Limit::Host.group()), ("host", None));
    }
}
