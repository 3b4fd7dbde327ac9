//! Device rules, tried by opening real nodes.

use std::os::fd::AsRawFd;
use std::time::Duration;

use crate::life::{Done, start};
use crate::{Group, resources};

/// What a process of the group gets when it opens a node: 0 or an errno.
fn tries(group: &Group, path: &str) -> i32 {
    let mut process = start(group, &format!("open={path}"));
    process.wait(Duration::from_secs(20)).unwrap()
}

pub fn rules() -> Done {
    let group = Group::new("devices");
    let tries = |path: &str| tries(&group, path);
    assert_eq!(tries("/dev/kmsg"), 0, "before any rule");
    group.0.apply(&resources("{}")).unwrap();
    assert_eq!((tries("/dev/null"), tries("/dev/kmsg")), (0, libc::EPERM), "the default list");
    let set = |rules: &str| group.0.devices(&resources(rules).devices).unwrap();
    set(r#"{"devices": [{"allow": false, "access": "rwm"},
        {"allow": true, "type": "c", "major": 1, "minor": 11, "access": "r"}]}"#);
    assert_eq!((tries("/dev/null"), tries("/dev/kmsg")), (0, 0), "allowed by a rule");
    for rules in ["{}", r#"{"pids": {"limit": 100}}"#, r#"{"devices": [{"allow": false, "access": "rwm"}]}"#] {
        group.0.update(&resources(rules)).unwrap();
        assert_eq!(tries("/dev/kmsg"), 0, "an update leaves the rules: {rules}");
    }
    set(r#"{"devices": [{"allow": false, "access": "rwm"}]}"#);
    assert_eq!((tries("/dev/null"), tries("/dev/kmsg")), (0, libc::EPERM), "and taken back");
    set(r#"{"devices": [{"allow": true, "access": "rwm"}]}"#);
    assert_eq!(tries("/dev/kmsg"), 0, "privileged");
    if group.find("devices").is_some() {
        assert_eq!(group.read("devices", "devices.list"), "a *:* rwm");
    }
    Ok(())
}

/// Where programs count as locked memory (before Linux 5.11), there may be no room for any more.
pub fn without_memory_to_lock() -> Done {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let before = getrlimit(Resource::Memlock);
    setrlimit(Resource::Memlock, Rlimit { current: Some(0), ..before })?;
    let done = rules();
    assert_eq!(getrlimit(Resource::Memlock).current, Some(0), "ours is what it was");
    setrlimit(Resource::Memlock, before)?;
    done
}

/// bpf(2) with a command and its arguments as 32-bit words.
fn bpf(command: libc::c_long, words: &mut [u32]) -> i32 {
    // SAFETY: the words are alive and exclusively ours for the call; addresses in them are those of live slices.
    let done = unsafe { libc::syscall(libc::SYS_bpf, command, words.as_mut_ptr(), size_of_val(words)) };
    assert!(done >= 0, "bpf({command}): {}", std::io::Error::last_os_error());
    done as i32
}

fn halves(address: *const u64) -> [u32; 2] {
    let address = address as u64;
    [address as u32, (address >> 32) as u32]
}

/// As systemd does for a unit with device properties: a program of its own in the same group, here one that denies all
/// devices with minor number 5.
pub fn beside_another() -> Done {
    let group = Group::new("beside");
    let dir = std::fs::File::open(group.0.record().unified.unwrap().dir())?;
    // r2 = ctx->minor; r0 = 1; if r2 != 5 exit; r0 = 0; exit
    let program: [u64; 5] =
        [0x0000_0000_0008_1261, 0x0000_0001_0000_00b7, 0x0000_0005_0001_0255, 0x0000_0000_0000_00b7, 0x95];
    let license = [u64::from_le_bytes(*b"GPL\0\0\0\0\0")];
    let (code, license) = (halves(program.as_ptr()), halves(license.as_ptr()));
    let theirs = bpf(5, &mut [15, 5, code[0], code[1], license[0], license[1], 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 6]);
    bpf(8, &mut [dir.as_raw_fd() as u32, theirs as u32, 6, 2, 0]);
    let attached = || {
        let ids = [0u64; 32];
        let at = halves(ids.as_ptr());
        let mut query = [dir.as_raw_fd() as u32, 6, 0, 0, at[0], at[1], 64, 0];
        bpf(16, &mut query);
        query[6]
    };
    assert_eq!((attached(), tries(&group, "/dev/zero"), tries(&group, "/dev/kmsg")), (1, libc::EPERM, 0));
    let kmsg =
        r#"{"devices": [{"allow": false}, {"allow": true, "type": "c", "major": 1, "minor": 11, "access": "r"}]}"#;
    for (rules, expected) in [
        (r#"{"devices": [{"allow": false}]}"#, libc::EPERM),
        (kmsg, 0),
        (r#"{"devices": [{"allow": true}]}"#, 0),
        (r#"{"devices": [{"allow": false}]}"#, libc::EPERM),
    ] {
        group.0.devices(&resources(rules).devices).unwrap();
        assert_eq!((attached(), tries(&group, "/dev/kmsg")), (2, expected), "{rules}");
        assert_eq!(tries(&group, "/dev/zero"), libc::EPERM, "theirs still denies");
    }
    // SAFETY: our own descriptor, used no more.
    unsafe { libc::close(theirs) };
    Ok(())
}
