//! The command line, in the grammar of Go's flag package, since it is Go that writes it.

#![forbid(unsafe_code)]

use std::ffi::OsString;

use runtime::{Error, Kind, Result};

/// Printed for `-h` and after a mistake.
pub const USAGE: &str = "\
containerd-shim-mini-v2 is started by containerd (runtime io.containerd.mini.v2), not by hand.

usage: containerd-shim-mini-v2 -namespace NS -id ID -address SOCKET [-publish-binary PATH] [-debug] start
       containerd-shim-mini-v2 -namespace NS -id ID -address SOCKET [-publish-binary PATH] [-bundle PATH] [-debug] delete
       containerd-shim-mini-v2 -info
       containerd-shim-mini-v2 -v | -version
";

/// What is to be done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Action {
    /// Explain yourself.
    Help,
    /// Tell the version.
    Version,
    /// Describe the runtime.
    Info,
    /// Make sure that a daemon serves a container.
    Start,
    /// Clean up after one.
    Delete,
    /// Be the daemon.
    #[default]
    Serve,
}

/// A parsed command line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// The word after the flags, or the flag that stands for it.
    pub action: Action,
    /// Log more.
    pub debug: bool,
    /// containerd's namespace.
    pub namespace: String,
    /// Container id.
    pub id: String,
    /// containerd's gRPC address: part of the name of our socket.
    pub address: String,
    /// For the daemon: a path to listen on, if no listening socket is handed over.
    pub socket: String,
    /// For delete: the bundle.
    pub bundle: String,
}

impl Flags {
    /// Parses what follows the program's name. The error is the text for standard error.
    pub fn parse(words: impl Iterator<Item = OsString>) -> std::result::Result<Self, String> {
        let mut flags = Self::default();
        let (mut help, mut version, mut info) = (false, false, false);
        let mut words = words.map(|w| w.into_string().map_err(|w| format!("not UTF-8: {}", w.display())));
        let mut action = None;
        while let Some(word) = words.next().transpose()? {
            let Some(name) = flag_name(&word) else {
                if word != "--" {
                    action = Some(word);
                } else {
                    action = words.next().transpose()?;
                }
                break;
            };
            let (name, given) = match name.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (name, None),
            };
            let mut text = || match given.clone() {
                Some(value) => Ok(value),
                None => words.next().transpose()?.ok_or_else(|| wrong(&format!("flag needs an argument: -{name}"))),
            };
            match name {
                "debug" => flags.debug = boolean(name, given)?,
                "v" | "version" => version = boolean(name, given)?,
                "info" => info = boolean(name, given)?,
                "h" | "help" => help = true,
                "namespace" => flags.namespace = text()?,
                "id" => flags.id = text()?,
                "address" => flags.address = text()?,
                "socket" => flags.socket = text()?,
                "bundle" => flags.bundle = text()?,
                // The way of shims before 1.4 to send events; TTRPC_ADDRESS is ours.
                "publish-binary" => drop(text()?),
                _ => return Err(wrong(&format!("flag provided but not defined: -{name}"))),
            }
        }
        flags.action = match (help, version, info, action.as_deref()) {
            (true, ..) => Action::Help,
            (_, true, ..) => Action::Version,
            (_, _, true, _) => Action::Info,
            (.., Some("start")) => Action::Start,
            (.., Some("delete")) => Action::Delete,
            (.., None | Some("")) => Action::Serve,
            (.., Some(other)) => return Err(wrong(&format!("unknown action {other:?}"))),
        };
        Ok(flags)
    }

    /// The flags without which no container is meant. The id becomes the name of a directory.
    pub fn need_container(&self) -> Result<()> {
        let bad = |flag, value: &str, reason| Err(Error::new(Kind::Invalid, flag, value, reason));
        if self.namespace.is_empty() {
            return bad("-namespace", "", "shim namespace cannot be empty");
        }
        if self.id.is_empty() || self.id.contains('/') || self.id == "." || self.id == ".." {
            return bad("-id", &self.id, "is not a container id");
        }
        Ok(())
    }
}

/// `-x` and `--x` are flags; `-` and `--` are not.
fn flag_name(word: &str) -> Option<&str> {
    let name = word.strip_prefix('-')?;
    let name = name.strip_prefix('-').unwrap_or(name);
    (!name.is_empty()).then_some(name)
}

/// The words of Go's strconv.ParseBool; a bare flag is true.
fn boolean(name: &str, given: Option<String>) -> std::result::Result<bool, String> {
    match given.as_deref() {
        None | Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
        Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
        Some(other) => Err(wrong(&format!("invalid boolean value {other:?} for -{name}: parse error"))),
    }
}

fn wrong(what: &str) -> String {
    format!("{what}\n{USAGE}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> std::result::Result<Flags, String> {
        Flags::parse(line.split(' ').filter(|w| !w.is_empty()).map(OsString::from))
    }

    #[test]
    fn the_lines_that_containerd_writes() {
        let line = "-namespace k8s.io -address /run/containerd/containerd.sock -publish-binary /usr/bin/containerd -id c1 -debug start";
        let expected = Flags {
            action: Action::Start,
            debug: true,
            namespace: "k8s.io".into(),
            id: "c1".into(),
            address: "/run/containerd/containerd.sock".into(),
            ..Flags::default()
        };
        assert_eq!(parse(line), Ok(expected.clone()));
        let line = "--namespace=k8s.io --address=/run/containerd/containerd.sock -publish-binary= --id=c1 -debug=t start -debug=false";
        assert_eq!(parse(line), Ok(expected));
        let f = parse("-namespace ns -id c -bundle /b delete").unwrap();
        assert_eq!((f.action, f.bundle.as_str(), f.debug), (Action::Delete, "/b", false));
        assert_eq!(parse("-info").unwrap().action, Action::Info);
        assert_eq!(parse("-v start").unwrap().action, Action::Version);
        assert_eq!(parse("--version").unwrap().action, Action::Version);
        assert_eq!(parse("-h").unwrap().action, Action::Help);
        assert_eq!(parse("").unwrap().action, Action::Serve);
        assert_eq!(parse("-debug -- start").unwrap().action, Action::Start);
    }

    #[test]
    fn mistakes_are_told_as_go_tells_them() {
        for (line, text) in [
            ("-nope start", "flag provided but not defined: -nope"),
            ("-id", "flag needs an argument: -id"),
            ("-debug=maybe start", "invalid boolean value \"maybe\" for -debug: parse error"),
            ("-debug-socket /x start", "flag provided but not defined: -debug-socket"),
            ("-debug stop", "unknown action \"stop\""),
        ] {
            assert!(parse(line).unwrap_err().starts_with(text), "{line}");
        }
        for line in ["start", "-namespace ns start", "-namespace ns -id a/b start", "-namespace ns -id .. delete"] {
            assert!(parse(line).unwrap().need_container().is_err(), "{line}");
        }
    }
}
