//! Containers under a seccomp profile.

use std::io::Read;
use std::os::unix::net::UnixListener;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::bench::{Bench, until};

/// Docker's profile, and everybody's after it, has ENOSYS for clone3(2), into whose argument it cannot look.
pub fn hooks_where_clone3_is_forbidden(b: &Bench) {
    let id = b.id("x");
    b.spec(&["cat", "/said"], |s| {
        s["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": libc::ENOSYS}],
        });
        let words = "cat > /dev/null; echo hook > /said";
        s["hooks"]["startContainer"] = json!([{"path": "/bin/sh", "args": ["sh", "-c", words]}]);
    });
    assert_eq!(b.fine(&["run", &id]), "hook\n");
    b.spec(&["true"], |s| {
        s["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": libc::ENOSYS}],
        });
        s["hooks"]["startContainer"] = json!([{"path": "/bin/sleep", "args": ["sleep", "1000"], "timeout": 1}]);
    });
    assert_ne!(b.say(&["run", &b.id("y")]).code, 0, "its time is over");
}

/// Not even the end of a process: it is over all the same.
pub fn nothing_is_allowed(b: &Bench) {
    for allowed in [&[][..], &["read", "write", "getpid"]] {
        let id = b.id("x");
        b.spec(&["true"], |s| {
            s["linux"]["seccomp"] = json!({
                "defaultAction": "SCMP_ACT_ERRNO",
                "syscalls": [{"names": allowed, "action": "SCMP_ACT_ALLOW"}],
            });
            if allowed.is_empty() {
                s["linux"]["seccomp"]["syscalls"] = json!([]);
            }
        });
        let said = b.say(&["run", &id]);
        assert_ne!(said.code, 0);
        assert!(!said.err.is_empty());
        // Whom it makes would keep our pipes open.
        let mut create = b.command(&["create", &id]);
        if create.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success() {
            assert_ne!(b.say(&["start", &id]).code, 0);
            until("it is over", || b.status(&id) == "stopped");
            b.fine(&["delete", &id]);
        }
        assert!(!b.root().join(&id).exists());
    }
}

/// "pid is the container process ID [...] state is the state of the container": config-linux.md#the-container-process-state.
pub fn listener_of_an_exec(b: &Bench) {
    let (id, agent) = (b.id("x"), b.path("agent"));
    b.spec(&["sleep", "1000"], |s| {
        // Such a container is joined by a process of its own.
        s["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "time"}));
        s["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": agent,
            "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY"}],
        });
    });
    let listener = UnixListener::bind(&agent).unwrap();
    let hearing = std::thread::spawn(move || {
        [(); 2].map(|()| {
            let mut text = String::new();
            listener.accept().unwrap().0.read_to_string(&mut text).unwrap();
            serde_json::from_str::<Value>(&text).unwrap()
        })
    });
    b.detached(&["run", "-d", &id]);
    b.fine(&["exec", &id, "true"]);
    let [init, exec] = hearing.join().unwrap();
    assert_eq!(init["pid"], init["state"]["pid"]);
    assert_eq!(init["pid"], b.state(&id)["pid"]);
    assert_eq!(exec["state"]["pid"], init["pid"]);
    assert_ne!(exec["pid"], init["pid"]);
}
