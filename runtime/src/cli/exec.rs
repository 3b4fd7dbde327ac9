//! `exec`: another process in a container, described by options or by a file.
#![forbid(unsafe_code)]

use runtime::lifecycle::EXEC_WHILE_PAUSED;
use runtime::spec::{Capabilities, Process, check, from_json};
use runtime::{Container, Error, Exec, Host, Kind, Result, Stdio, reap};

use super::foreground::{self, Foreground};
use super::store::Status;
use super::{Context, args, console, container, words};

/// Runs it and answers its exit code, or 0 at once with --detach.
pub fn exec(context: &Context<'_>, args: &args::Exec) -> Result<u8> {
    let found = context.store.find(&args.id)?;
    let refuse = |why| Err(Error::new(Kind::State, "", "", why));
    match found.status()? {
        Status::Stopped => return refuse("cannot exec in a stopped container"),
        Status::Paused if !args.ignore_paused => {
            return refuse(EXEC_WHILE_PAUSED);
        }
        _ => {}
    }
    let spec = found.record.spec()?;
    let mut process = process(args, spec.process.as_ref())?;
    check::process(&process)?;
    console::check(process.terminal, args.detach, args.console_socket.as_deref())?;
    if process.terminal && !args.detach {
        process.console_size = foreground::size().or(process.console_size);
    }
    let foreground = if args.detach { None } else { Some(Foreground::new()?) };
    let host = Host::read()?;
    let container = Container::open(&host, &found.record)?;
    let request = Exec {
        process: &process,
        stdio: if process.terminal { Stdio::default() } else { container::stdio() },
        no_new_keyring: args.no_new_keyring,
        preserve_fds: args.preserve_fds,
        cgroup: &args.cgroup,
        fault: None,
    };
    let child = container.exec(&host, request)?;
    let socket = args.console_socket.as_deref();
    let told = container::announce(&child, socket, args.pidfd_socket.as_deref(), "setns", args.pid_file.as_deref());
    if let Err(e) = told {
        // The caller knows nothing of the process, so it must not live.
        let _ = reap::signal(&child.pidfd, libc::SIGKILL);
        return Err(e);
    }
    match foreground {
        None => Ok(0),
        Some(foreground) => foreground.wait(&child.pidfd, child.console).map(|code| code as u8),
    }
}

/// The process that options, or the file of --process, describe.
fn process(args: &args::Exec, init: Option<&Process>) -> Result<Process> {
    let own = init.cloned().unwrap_or_default();
    let mut p = match &args.process {
        Some(path) if args.command.is_empty() => {
            let json = std::fs::read(path).map_err(|e| Error::io("open", path.display().to_string(), &e))?;
            let mut p: Process = from_json(&json)?;
            p.inherit(&own);
            // -t and -d are also given beside a file (go-runc does).
            p.terminal |= args.tty;
            return options_excluded(args).map(|()| p);
        }
        Some(_) => return Err(Error::new(Kind::Invalid, "", "", "exec takes a command or --process, not both")),
        None => own,
    };
    if args.command.is_empty() {
        return Err(Error::new(Kind::Invalid, "", "", "process args cannot be empty"));
    }
    p.args.clone_from(&args.command);
    p.terminal = args.tty;
    p.env.extend(args.env.iter().cloned());
    p.no_new_privileges |= args.no_new_privs;
    if let Some(cwd) = &args.cwd {
        p.cwd.clone_from(cwd);
    }
    if let Some(profile) = &args.apparmor {
        p.apparmor_profile.clone_from(profile);
    }
    if let Some(label) = &args.process_label {
        p.selinux_label.clone_from(label);
    }
    if let Some(user) = &args.user {
        let (uid, gid) = words::user(user)?;
        p.user.uid = uid;
        p.user.gid = gid.unwrap_or(p.user.gid);
    }
    for gid in &args.additional_gids {
        p.user.additional_gids.push(words::id(gid)?);
    }
    if !args.cap.is_empty() {
        add(p.capabilities.get_or_insert_default(), &args.cap);
    }
    Ok(p)
}

/// A file says all; an option beside it would have to be ignored.
fn options_excluded(args: &args::Exec) -> Result<()> {
    let given = [
        ("--cwd", args.cwd.is_some()),
        ("--env", !args.env.is_empty()),
        ("--user", args.user.is_some()),
        ("--additional-gids", !args.additional_gids.is_empty()),
        ("--apparmor", args.apparmor.is_some()),
        ("--process-label", args.process_label.is_some()),
        ("--no-new-privs", args.no_new_privs),
        ("--cap", !args.cap.is_empty()),
    ];
    match given.iter().find(|(_, given)| *given) {
        Some((option, _)) => Err(Error::new(Kind::Invalid, "", *option, "cannot be used with --process")),
        None => Ok(()),
    }
}

/// Never the inheritable set: with it, a file's own inheritable set would give capabilities to users that have none
/// (CVE-2022-29162). Without it the ambient set cannot have them either.
fn add(sets: &mut Capabilities, caps: &[String]) {
    let ambient = !sets.inheritable.is_empty();
    let lists = [&mut sets.bounding, &mut sets.effective, &mut sets.permitted];
    for list in lists.into_iter().chain(ambient.then_some(&mut sets.ambient)) {
        list.extend(caps.iter().cloned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn parse(line: &[&str]) -> args::Exec {
        let line = ["mini", "exec"].iter().chain(line);
        match args::Mini::try_parse_from(line).unwrap().command {
            Some(args::Command::Exec(args)) => *args,
            other => panic!("{other:?}"),
        }
    }

    fn init() -> Process {
        Process { args: vec!["init".into()], cwd: "/".into(), terminal: true, ..Process::default() }
    }

    #[test]
    fn options_after_the_program_are_the_programs() {
        let args = parse(&["-t", "--cwd", "/tmp", "c1", "ls", "-t", "--cwd", "x", "--", "y"]);
        let p = process(&args, Some(&init())).unwrap();
        assert_eq!(p.args, ["ls", "-t", "--cwd", "x", "--", "y"]);
        assert_eq!((p.cwd.as_str(), p.terminal), ("/tmp", true));
        let p = process(&parse(&["c1", "-u", "5:6", "-g", "7", "-e", "A=B", "id"]), Some(&init())).unwrap();
        assert_eq!((p.user.uid, p.user.gid, p.user.additional_gids.as_slice()), (5, 6, [7].as_slice()));
        assert_eq!((p.env.as_slice(), p.terminal), (["A=B".to_owned()].as_slice(), false));
    }

    #[test]
    fn added_capabilities_never_become_inheritable() {
        let args = parse(&["-c", "CAP_NET_ADMIN", "c1", "id"]);
        let sets = process(&args, Some(&init())).unwrap().capabilities.unwrap();
        assert_eq!(sets.bounding, ["CAP_NET_ADMIN"]);
        assert_eq!((sets.effective.len(), sets.permitted.len()), (1, 1));
        assert!(sets.inheritable.is_empty() && sets.ambient.is_empty());
    }

    #[test]
    fn nothing_is_guessed() {
        for line in [&["c1"][..], &["c1", "-u", "root", "id"], &["c1", "-u", "-1", "id"], &["c1", "-g", "+1", "id"]] {
            assert!(process(&parse(line), Some(&init())).is_err(), "{line:?}");
        }
        let both = parse(&["-p", "/nowhere", "c1", "id"]);
        assert!(process(&both, None).unwrap_err().to_string().contains("not both"));
    }

    #[test]
    fn a_file_with_options_beside_it_is_refused_and_takes_the_rest_from_init() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("process.json");
        std::fs::write(&file, r#"{"args":["id"],"cwd":"/","user":{"uid":7}}"#).unwrap();
        let file = file.to_str().unwrap();
        let mut init = init();
        init.env = vec!["SECRET=1".into()];
        init.user.umask = Some(0o77);
        let p = process(&parse(&["-d", "-p", file, "c1"]), Some(&init)).unwrap();
        assert_eq!((p.user.uid, p.user.umask, p.env.len(), p.terminal), (7, Some(0o77), 0, false));
        assert!(process(&parse(&["-u", "1", "-p", file, "c1"]), None).is_err());
    }
}
