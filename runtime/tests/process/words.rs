//! The payload's words: which program, which environment, and the sentences and exit codes when it cannot be executed.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use libtest_mimic::Failed;
use runtime::{Container, Create};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::json;

use super::bundle::{self, Bundle, ended, output};

pub const TESTS: &[super::Test] = &[
    ("words::home_comes_from_passwd", home_comes_from_passwd),
    ("words::the_last_of_equal_names_wins", the_last_of_equal_names_wins),
    ("words::programs_are_looked_up_in_path", programs_are_looked_up_in_path),
    ("words::execve_says_why_at_start", execve_says_why_at_start),
];

fn lines(text: &str) -> Vec<&str> {
    text.lines().collect()
}

fn home_comes_from_passwd() -> Result<(), Failed> {
    let (host, bundle) = (bundle::host(), Bundle::new("home", 0));
    let file = bundle.dir.join("rootfs/etc/passwd");
    let home = |what: &str, uid: u32, expected: &str| {
        let patch = json!({"process": {"args": ["env"], "user": {"uid": uid}}});
        let (status, text) = output(&host, &bundle, &patch).map_err(|e| format!("{what}: {e}"))?;
        let expected = format!("HOME={expected}");
        let right = status == 0 && lines(&text) == ["PATH=/sbin:/bin", &expected];
        if right { Ok(()) } else { Err(Failed::from(format!("{what}: {status} {text}"))) }
    };
    let long = "x".repeat(3000);
    let table: &[(&str, &str, u32, &str)] = &[
        ("root", "root:x:0:0:root:/root:/bin/sh\n", 0, "/root"),
        ("another", "root:x:0:0::/root:\nuser:x:1000:1000::/home/user:/bin/sh\n", 1000, "/home/user"),
        ("the first of two", "a:x:0:0::/a:\nb:x:0:0::/b:\n", 0, "/a"),
        ("no end of line", "root:x:0:0::/root:/bin/sh", 0, "/root"),
        ("no shell", "root:x:0:0::/root", 0, "/root"),
        ("nobody", "root:x:0:0::/root:\n", 7, "/"),
        ("nobody, with other entries read before", "a:x:5:5::evil:\n", 7, "/"),
        ("no directory", "root:x:0:0:::/bin/sh\n", 0, "/"),
        ("not a number", "a:x:zero:0::/a:\nb:x:0x0:0::/b:\nc:x:-0:0::/c:\nroot:x:0:0::/root:\n", 0, "/root"),
        ("a number with a tail", "a:x:0 :0::/a:\nroot:x:0:0::/root:\n", 0, "/root"),
        ("a number that wraps", "a:x:4294967296:0::/a:\nroot:x:0:0::/root:\n", 0, "/root"),
        ("no number", "a:x::0::/a:\nroot:x:0:0::/root:\n", 0, "/root"),
        ("too few fields", "a:x:0\n:::\n\nroot:x:0:0::/root:\n", 0, "/root"),
        ("a directory too long", &format!("a:x:0:0::/{long}:\nroot:x:0:0::/root:\n"), 0, "/root"),
        ("a comment", "# root:x:0:0::/wrong:\nroot:x:0:0::/root:\n", 0, "/wrong"),
        ("empty", "", 0, "/"),
    ];
    for (what, text, uid, expected) in table {
        std::fs::write(&file, text)?;
        home(what, *uid, expected)?;
    }
    let late = format!("{}root:x:0:0::/late:\n", "a:x:1:1::/a:\n".repeat(100_000));
    std::fs::write(&file, late)?;
    home("later than anybody looks", 0, "/")?;
    std::fs::remove_file(&file)?;
    home("missing", 0, "/")?;
    mknodat(CWD, &file, FileType::Fifo, Mode::from_raw_mode(0o644), 0).unwrap();
    home("a FIFO that nobody writes to", 0, "/")?;
    std::fs::remove_file(&file)?;
    std::fs::create_dir(&file)?;
    home("a directory", 0, "/")?;
    std::fs::remove_dir(&file)?;
    symlink("/proc/self/environ", &file)?;
    home("a link to what is no passwd", 0, "/")?;
    std::fs::remove_file(&file)?;
    std::fs::write(bundle.dir.join("rootfs/seed/passwd"), "root:x:0:0::/linked:\n")?;
    symlink("../../../../seed/passwd", &file)?;
    home("a link that stays inside", 0, "/linked")?;
    // With few descriptors allowed, the file is read all the same.
    let limits = json!([{"type": "RLIMIT_NOFILE", "soft": 8, "hard": 8}]);
    let (_, text) = output(&host, &bundle, &json!({"process": {"args": ["env"], "rlimits": limits}}))?;
    assert_eq!(lines(&text), ["PATH=/sbin:/bin", "HOME=/linked"]);
    Ok(())
}

fn the_last_of_equal_names_wins() -> Result<(), Failed> {
    let (host, bundle) = (bundle::host(), Bundle::new("env", 0));
    let env = ["PATH=/nothing", "A=1", "B=2", "A=3", "HOME=/first", "EMPTY=", "PATH=/bin", "HOME=/mine", "C=a=b"];
    let (status, text) = output(&host, &bundle, &json!({"process": {"args": ["env"], "env": env}}))?;
    assert_eq!((status, lines(&text)), (0, vec!["B=2", "A=3", "EMPTY=", "PATH=/bin", "HOME=/mine", "C=a=b"]));
    let (_, text) = output(&host, &bundle, &json!({"process": {"args": ["env"], "env": ["PATH=/bin", "HOME="]}}))?;
    assert_eq!(lines(&text), ["PATH=/bin", "HOME=/root"]);
    Ok(())
}

fn program(bundle: &Bundle, path: &str, mode: u32, text: &str) {
    let path = bundle.dir.join("rootfs").join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
}

fn programs_are_looked_up_in_path() -> Result<(), Failed> {
    let (host, bundle) = (bundle::host(), Bundle::new("path", 0));
    program(&bundle, "first/tool", 0o755, "#!/bin/sh\necho first\n");
    program(&bundle, "second/tool", 0o755, "#!/bin/sh\necho second\n");
    program(&bundle, "second/data", 0o644, "no program\n");
    program(&bundle, "mine/private", 0o700, "#!/bin/sh\necho private\n");
    program(&bundle, "tmp/here", 0o755, "#!/bin/sh\necho here\n");
    std::fs::create_dir(bundle.dir.join("rootfs/first/dir"))?;
    symlink("/nowhere", bundle.dir.join("rootfs/first/dangling"))?;
    let not_found = |name: &str| format!("exec: {name:?}: executable file not found in $PATH");
    let table = [
        ("tool", "/first:/second", 0, "first\n".to_owned()),
        ("tool", "/second:/first", 0, "second\n".to_owned()),
        ("tool", "/none:/first/dir:/second", 0, "second\n".to_owned()),
        ("tool", "/first/", 0, "first\n".to_owned()),
        ("here", "", 0, not_found("here")),
        ("here", ":/first", 0, "here\n".to_owned()),
        ("here", "/first:", 0, "here\n".to_owned()),
        ("here", "../tmp", 0, "here\n".to_owned()),
        ("tool", "first", 0, not_found("tool")),
        ("data", "/second", 0, not_found("data")),
        ("dir", "/first", 0, not_found("dir")),
        ("dangling", "/first", 0, not_found("dangling")),
        ("private", "/mine", 0, "private\n".to_owned()),
        ("private", "/mine", 1000, not_found("private")),
        ("nothing", "/first:/second", 0, not_found("nothing")),
        ("", "/first", 0, not_found("")),
        ("..", "/first", 0, not_found("..")),
        ("/first/tool", "", 0, "first\n".to_owned()),
        ("./here", "/first", 0, "here\n".to_owned()),
        ("../first/tool", "", 0, "first\n".to_owned()),
        ("/first/none", "", 0, r#"exec: "/first/none": stat /first/none: no such file or directory"#.to_owned()),
        ("/first/tool/x", "", 0, r#"exec: "/first/tool/x": stat /first/tool/x: not a directory"#.to_owned()),
        ("/first/dir", "", 0, r#"exec: "/first/dir": is a directory"#.to_owned()),
        ("/second/data", "", 0, r#"exec: "/second/data": permission denied"#.to_owned()),
        ("/mine/private", "", 1000, r#"exec: "/mine/private": permission denied"#.to_owned()),
        ("./none", "", 0, r#"exec: "./none": stat ./none: no such file or directory"#.to_owned()),
    ];
    for (name, path, uid, expected) in table {
        let env = if path.is_empty() { json!([]) } else { json!([format!("PATH={path}")]) };
        let patch = json!({"process": {"args": [name], "env": env, "cwd": "/tmp", "user": {"uid": uid}}});
        let said = match output(&host, &bundle, &patch) {
            Ok((_, text)) => text,
            Err(e) => e.to_string(),
        };
        if said != expected {
            return Err(format!("{name:?} in {path:?} as {uid}: {said:?}, not {expected:?}").into());
        }
    }
    Ok(())
}

fn execve_says_why_at_start() -> Result<(), Failed> {
    let (host, bundle) = (bundle::host(), Bundle::new("execve", 0));
    program(&bundle, "bad/script", 0o755, "#!/no/such/interpreter\n");
    program(&bundle, "bad/magic", 0o755, "no magic number at all\n");
    program(&bundle, "bad/loop", 0o755, "#!/bad/loop\n");
    program(&bundle, "bad/denied", 0o755, "#!/etc/passwd\n");
    program(&bundle, "bad/empty", 0o755, "");
    let table = [
        ("/bad/script", "no such file or directory", 127),
        ("/bad/magic", "exec format error", 126),
        ("/bad/empty", "exec format error", 126),
        ("/bad/loop", "too many levels of symbolic links", 126),
        ("/bad/denied", "permission denied", 126),
    ];
    for (path, words, code) in table {
        let spec = bundle.spec(&json!({"process": {"args": [path]}}));
        let (container, child) = Container::create(&host, Create { ..bundle.create(&spec) })?;
        let error = container.start().unwrap_err().to_string();
        let status = ended(&child.pidfd);
        container.delete()?;
        assert_eq!((error, status), (format!("exec {path}: {words}"), code));
    }
    assert!(Path::new(&bundle.dir).exists());
    Ok(())
}
