//! Groups below a container's own, as `exec --cgroup` names them: `PATH` for every hierarchy, or `CONTROLLER[,…]:PATH` for
//! each (runc-exec(8)).

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::{Place, Record};
use crate::error::{Error, Kind, Result};

/// Where below its container's groups a process is to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Below {
    everywhere: String,
    by_controller: BTreeMap<String, String>,
}

impl Below {
    /// # Errors
    /// Those of runc, in its words; and a `..` in a path.
    pub(super) fn parse(words: &[String]) -> Result<Self> {
        let wrong = |text: String| Error::new(Kind::Invalid, "", "", text);
        let mut below = Self::default();
        for word in words {
            let (controllers, path) = word.split_once(':').map_or((None, word.as_str()), |(c, path)| (Some(c), path));
            if path.split('/').any(|part| part == "..") {
                return Err(wrong(format!("bad sub cgroup path: {path}")));
            }
            let path = path.trim_matches('/').to_owned();
            let Some(controllers) = controllers else {
                if words.len() != 1 {
                    return Err(wrong(format!("invalid --cgroup argument: {word} (missing <controller>: prefix)")));
                }
                below.everywhere = path;
                continue;
            };
            for name in controllers.split(',') {
                if name.is_empty() {
                    return Err(wrong(format!("invalid --cgroup argument: {word} (empty <controller> prefix)")));
                }
                if below.by_controller.insert(name.to_owned(), path.clone()).is_some() {
                    let text = format!("invalid --cgroup argument(s): controller {name} specified multiple times");
                    return Err(wrong(text));
                }
            }
        }
        Ok(below)
    }

    /// Every controller that was named is there.
    ///
    /// # Errors
    /// One that is not, in runc's words.
    pub(super) fn check(&self, record: &Record) -> Result<()> {
        let known = |name: &String| record.v1.iter().any(|place| place.has(name));
        match self.by_controller.keys().find(|name| !known(name)) {
            Some(name) => {
                Err(Error::new(Kind::Invalid, "", "", format!("unknown controller {name} in SubCgroupPaths")))
            }
            None => Ok(()),
        }
    }

    /// The path below this place; empty for the container's own group.
    pub(super) fn path(&self, place: &Place) -> &str {
        let named = place.controllers.iter().find_map(|name| self.by_controller.get(name));
        named.map_or(self.everywhere.as_str(), String::as_str)
    }

    /// The directory at this place.
    pub(super) fn dir(&self, place: &Place) -> PathBuf {
        match self.path(place) {
            "" => place.dir(),
            path => place.dir().join(path),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> std::result::Result<Below, String> {
        Below::parse(&words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>()).map_err(|e| e.to_string())
    }

    #[test]
    fn words_are_those_of_runc() {
        let place = |name: &str| Place { controllers: vec![name.to_owned()], ..Place::default() };
        let one = parse(&["/a/b/"]).unwrap();
        assert_eq!((one.path(&place("cpu")), one.path(&place(""))), ("a/b", "a/b"));
        let some = parse(&["cpu,memory:x", "pids:y/z"]).unwrap();
        let paths = ["cpu", "memory", "pids", "blkio"].map(|name| some.path(&place(name)).to_owned());
        assert_eq!(paths, ["x", "x", "y/z", ""]);
        let record = Record { v1: vec![place("cpu"), place("memory")], ..Record::default() };
        assert_eq!(some.check(&record).unwrap_err().to_string(), "unknown controller pids in SubCgroupPaths");
        for (words, text) in [
            (&["a", "b"][..], "invalid --cgroup argument: a (missing <controller>: prefix)"),
            (&["cpu,:a"], "invalid --cgroup argument: cpu,:a (empty <controller> prefix)"),
            (&["cpu:a", "cpu:b"], "invalid --cgroup argument(s): controller cpu specified multiple times"),
            (&["cpu:a/../b"], "bad sub cgroup path: a/../b"),
        ] {
            assert_eq!(parse(words).unwrap_err(), text);
        }
    }
}
