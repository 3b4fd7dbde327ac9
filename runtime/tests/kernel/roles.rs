//! This program again as another process: a parent that dies, and one whose system calls are counted.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use runtime::spec::Spec;
use runtime::{Container, Create, StartBy};

use super::bundle::{self, Bundle};

/// Starts the role `name` on a bundle with `config.json` in it. Before it come the words of `prefix`, a tracer.
pub fn start(prefix: &[&str], name: &str, bundle: &Bundle, spec: &Spec) -> Child {
    std::fs::write(bundle.dir.join("config.json"), serde_json::to_vec(spec).unwrap()).unwrap();
    let us = std::env::current_exe().unwrap();
    let mut words: Vec<&std::ffi::OsStr> = prefix.iter().map(|w| w.as_ref()).collect();
    words.extend([us.as_os_str(), "--as".as_ref(), name.as_ref(), bundle.dir.as_os_str()]);
    Command::new(words[0]).args(&words[1..]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
}

/// Plays a role if the command line asks for one.
pub fn play() {
    let words: Vec<String> = std::env::args().collect();
    let [_, flag, role, dir] = words.as_slice() else { return };
    if flag != "--as" {
        return;
    }
    let (host, dir) = (bundle::host(), Path::new(dir));
    let spec = Spec::load(dir).unwrap();
    let request = Create {
        id: "c",
        bundle: dir,
        spec: &spec,
        stdio: runtime::Stdio::default(),
        no_pivot: false,
        no_new_keyring: false,
        preserve_fds: 0,
        systemd_cgroup: false,
        start_by: StartBy::Us,
        cancel: None,
        fault: None,
    };
    match role.as_str() {
        // Says the pid of the parked child and waits for its end.
        "parent" => {
            let (_container, child) = Container::create(&host, request).unwrap();
            println!("{}", child.pid);
            std::io::stdout().flush().unwrap();
            let _ = std::io::stdin().read(&mut [0u8]);
        }
        // What is counted lies between two marks.
        "counted" => {
            mark();
            let (container, child) = Container::create(&host, request).unwrap();
            container.start().unwrap();
            mark();
            let status = bundle::ended(&child.pidfd);
            container.delete().unwrap();
            assert_eq!(status, 7);
        }
        other => panic!("no role {other}"),
    }
    std::process::exit(0);
}

/// A system call that nothing else here makes.
fn mark() {
    let _ = rustix::process::getpgid(None);
}
