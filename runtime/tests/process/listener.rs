//! `/linux/seccomp/listenerPath`: what its agent gets, and one that has stopped.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;

use libtest_mimic::Failed;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketAddrUnix, SocketFlags, SocketType, bind,
    connect, listen, recvmsg, socket_with,
};
use serde_json::{Value, json};

use super::bundle::{self, Bundle, run};

pub const TESTS: &[super::Test] = &[
    ("listener::its_agent_gets_the_descriptor_and_the_state", its_agent_gets_the_descriptor_and_the_state),
    ("listener::an_agent_that_has_stopped_does_not_hold_the_container", an_agent_that_has_stopped),
];

fn patch(agent: &std::path::Path) -> Value {
    json!({"linux": {"seccomp": {
        "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": agent, "listenerMetadata": "words for the agent",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY"}],
    }}})
}

/// The runtime-spec's container process state, and a descriptor.
fn heard(listener: &UnixListener) -> (Value, Option<OwnedFd>) {
    let (peer, _) = listener.accept().unwrap();
    let mut text = vec![0; 64 << 10];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = recvmsg(&peer, &mut [IoSliceMut::new(&mut text)], &mut control, RecvFlags::CMSG_CLOEXEC).unwrap();
    let fd = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    (serde_json::from_slice(&text[..got.bytes]).unwrap(), fd)
}

fn its_agent_gets_the_descriptor_and_the_state() -> Result<(), Failed> {
    let (host, bundle) = (bundle::host(), Bundle::new("listener", 0));
    let agent = bundle.dir.join("agent");
    let listener = UnixListener::bind(&agent)?;
    let hearing = std::thread::spawn(move || heard(&listener));
    assert_eq!(run(&host, bundle.create(&bundle.spec(&patch(&agent))))?, 7);
    let (state, fd) = hearing.join().unwrap();
    let fd = fd.expect("no descriptor came");
    let link = std::fs::read_link(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fd)))?;
    assert_eq!(link.to_str(), Some("anon_inode:seccomp notify"));
    assert_eq!(state["fds"], json!(["seccompFd"]));
    assert_eq!(state["metadata"], "words for the agent");
    assert_eq!(state["state"]["id"], "c");
    assert_eq!(state["state"]["bundle"], bundle.dir.to_str().unwrap());
    assert!(state["pid"].as_u64().is_some_and(|pid| pid > 0) && state["pid"] == state["state"]["pid"], "{state}");
    Ok(())
}

fn an_agent_that_has_stopped() -> Result<(), Failed> {
    let (host, bundle) = (bundle::host(), Bundle::new("stopped-agent", 0));
    let agent = bundle.dir.join("agent");
    let address = SocketAddrUnix::new(&agent)?;
    let socket = |flags| socket_with(AddressFamily::UNIX, SocketType::STREAM, flags | SocketFlags::CLOEXEC, None);
    let listener = socket(SocketFlags::empty())?;
    bind(&listener, &address)?;
    listen(&listener, 0)?;
    // Until nobody is let in any more.
    let mut waiting = Vec::new();
    loop {
        let next = socket(SocketFlags::NONBLOCK)?;
        match connect(&next, &address) {
            Ok(()) => waiting.push(next),
            Err(Errno::AGAIN) => break,
            Err(e) => return Err(e.into()),
        }
    }
    let error = run(&host, bundle.create(&bundle.spec(&patch(&agent)))).expect_err("nobody answers");
    assert_eq!((error.from.as_str(), error.errno), ("/linux/seccomp/listenerPath", Some(Errno::AGAIN)), "{error}");
    Ok(())
}
