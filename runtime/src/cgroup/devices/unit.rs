//! Device rules as systemd is told them: `DevicePolicy=` and `DeviceAllow=`, systemd.resource-control(5).
//!
//! systemd can only allow, and not everything. On version 2 its program and ours must both agree to an access, so that
//! what it is told allows *at least* what the rules do, and ours is exact. On version 1 both write the same list, ours
//! last: there it is told *at most* what the rules allow.

use super::{MKNOD, Match, Node, READ, Rule, WRITE};
use crate::cgroup::Version;
use crate::cgroup::systemd::{Property, Value};
use crate::error::Result;
use crate::spec::DeviceRule;

/// `char-136` in the place of a name from /proc/devices, and `/dev/char/1:3` for what is not there.
const BY_NUMBER: u32 = 240;

/// The properties for the rules of a spec and runc's default list. The empty list first drops what a unit had.
pub(in crate::cgroup) fn properties(spec: &[DeviceRule], version: Version, systemd: u32) -> Result<Vec<Property>> {
    let rules = super::rules(spec)?;
    let names = || std::fs::read_to_string("/proc/devices").unwrap_or_default();
    let allowed = allowed(&rules, version, &|node, major| {
        if systemd >= BY_NUMBER { Some(major.to_string()) } else { name(&names(), node, major) }
    });
    let list = |items: Vec<Value>| ("DeviceAllow".to_owned(), Value::Array("(ss)".into(), items));
    let policy = |word: &str| ("DevicePolicy".to_owned(), Value::text(word));
    let Some(allowed) = allowed else { return Ok(vec![list(Vec::new()), policy("auto")]) };
    let entries = allowed
        .into_iter()
        .filter(|(path, _)| systemd >= BY_NUMBER || !path.starts_with('/') || std::path::Path::new(path).exists());
    let entries = entries.map(|(path, access)| Value::Struct(vec![Value::Text(path), Value::Text(access)]));
    Ok(vec![list(Vec::new()), policy("strict"), list(entries.collect())])
}

/// What `DeviceAllow=` says; `None` if everything is allowed.
fn allowed(
    rules: &[Rule],
    version: Version,
    major_name: &dyn Fn(Node, u32) -> Option<String>,
) -> Option<Vec<(String, String)>> {
    let base = rules.iter().rposition(|r| matches!(r, Rule::Everything(_)));
    let rest = &rules[base.map_or(0, |i| i + 1)..];
    if base.is_some_and(|i| rules[i] == Rule::Everything(true)) {
        let exceptions = rest.iter().any(|r| matches!(r, Rule::Some { allow: false, .. }));
        // A list of what is forbidden: on version 1 nothing is allowed until ours is in force.
        return if exceptions && version == Version::V1 { Some(Vec::new()) } else { None };
    }
    let mut list: Vec<(Match, u8)> = Vec::new();
    for rule in rest {
        let Rule::Some { allow, devices, access, .. } = *rule else { continue };
        if allow {
            match list.iter_mut().find(|(known, _)| *known == devices) {
                Some((_, bits)) => *bits |= access,
                None => list.push((devices, access)),
            }
        } else {
            let at_most = version == Version::V1;
            let touched = |known: &Match| if at_most { known.and(&devices).is_some() } else { devices.contains(known) };
            list.iter_mut().filter(|(known, _)| touched(known)).for_each(|(_, bits)| *bits &= !access);
        }
    }
    let entries = list.into_iter().filter(|(_, bits)| *bits != 0).filter_map(|(devices, bits)| {
        let (group, dir) = if devices.node == Node::Block { ("block", "block") } else { ("char", "char") };
        let path = match (devices.major, devices.minor) {
            (Some(major), Some(minor)) => format!("/dev/{dir}/{major}:{minor}"),
            (Some(major), None) => format!("{group}-{}", major_name(devices.node, major)?),
            (None, None) => format!("{group}-*"),
            // It has no word for one minor of every major.
            (None, Some(_)) if version == Version::V2 => format!("{group}-*"),
            (None, Some(_)) => return None,
        };
        let letters = [(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')].iter().filter(|(bit, _)| bits & bit != 0);
        Some((path, letters.map(|(_, letter)| letter).collect()))
    });
    Some(entries.collect())
}

/// The name that /proc/devices gives a major number.
fn name(devices: &str, node: Node, major: u32) -> Option<String> {
    let heading = if node == Node::Block { "Block devices:" } else { "Character devices:" };
    let lines = devices.lines().skip_while(|line| *line != heading).skip(1).take_while(|line| !line.trim().is_empty());
    let mut pairs = lines.filter_map(|line| line.trim().split_once(' '));
    pairs.find(|(number, _)| number.parse() == Ok(major)).map(|(_, name)| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::{ALL, DEFAULTS};
    use super::*;

    fn rule(allow: bool, node: Node, major: Option<u32>, minor: Option<u32>, access: u8) -> Rule {
        Rule::Some { allow, devices: Match { node, major, minor }, access, index: None }
    }

    fn told(rules: &[Rule], version: Version) -> Option<Vec<String>> {
        let list = allowed(rules, version, &|_, major| Some(major.to_string()))?;
        Some(list.into_iter().map(|(path, access)| format!("{path} {access}")).collect())
    }

    const DENY: Rule = Rule::Everything(false);

    #[test]
    fn the_default_list_is_told_exactly() {
        let defaults = DEFAULTS.map(|(node, major, minor, access)| rule(true, node, major, minor, access));
        let rules: Vec<Rule> = [DENY].into_iter().chain(defaults).collect();
        let expected = [
            "char-* m",
            "block-* m",
            "/dev/char/1:3 rwm",
            "/dev/char/1:8 rwm",
            "/dev/char/1:7 rwm",
            "/dev/char/5:0 rwm",
            "/dev/char/1:5 rwm",
            "/dev/char/1:9 rwm",
            "char-136 rwm",
            "/dev/char/5:2 rwm",
            "/dev/char/10:200 rwm",
        ];
        assert_eq!(told(&rules, Version::V2).unwrap(), expected);
        assert_eq!(told(&rules, Version::V1).unwrap(), expected);
    }

    #[test]
    fn what_cannot_be_said_is_wider_where_ours_decides_too_and_narrower_where_it_follows() {
        let (a, b) = (Some(8), Some(1));
        let both = |rules: &[Rule]| (told(rules, Version::V2), told(rules, Version::V1));
        let list = |items: &[&str]| Some(items.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>());
        let minor = [DENY, rule(true, Node::Block, None, b, READ)];
        assert_eq!(both(&minor), (list(&["block-* r"]), list(&[])));
        let hole = [DENY, rule(true, Node::Block, a, None, ALL), rule(false, Node::Block, a, b, WRITE)];
        assert_eq!(both(&hole), (list(&["block-8 rwm"]), list(&["block-8 rm"])));
        let taken = [DENY, rule(true, Node::Block, a, b, ALL), rule(false, Node::Block, a, None, ALL)];
        assert_eq!(both(&taken), (list(&[]), list(&[])));
        let again = [DENY, rule(true, Node::Char, a, b, READ), rule(true, Node::Char, a, b, WRITE)];
        assert_eq!(both(&again), (list(&["/dev/char/8:1 rw"]), list(&["/dev/char/8:1 rw"])));
    }

    #[test]
    fn everything() {
        let all = [Rule::Everything(true), rule(true, Node::Char, None, None, ALL)];
        assert_eq!((told(&all, Version::V2), told(&all, Version::V1)), (None, None));
        let but = [Rule::Everything(true), rule(false, Node::Char, None, None, ALL)];
        assert_eq!((told(&but, Version::V2), told(&but, Version::V1)), (None, Some(Vec::new())));
    }

    #[test]
    fn names_of_major_numbers_for_an_old_systemd() {
        let text = "Character devices:\n  1 mem\n136 pts\n\nBlock devices:\n  8 sd\n 65 sd\n";
        assert_eq!(name(text, Node::Char, 136).as_deref(), Some("pts"));
        assert_eq!(name(text, Node::Block, 8).as_deref(), Some("sd"));
        assert_eq!((name(text, Node::Char, 8), name(text, Node::Block, 1)), (None, None));
    }
}
