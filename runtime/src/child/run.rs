//! The interpreter: the one match over [`Op`]. Both the child and, for its own sections, the parent run it.

use std::os::fd::RawFd;
use std::sync::atomic::Ordering;

use super::call::{self, Outcome, Text};
use super::clone;
use super::hook;
use super::image::Image;
use super::made;
use super::outside;
use super::report::Page;
use crate::plan::{Bytes, Dir, Gate, List, Op, Section, Slot, Str};

/// Where a run ended and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stop {
    /// Index of the failed step in its section.
    pub step: u16,
    /// Why.
    pub errno: i32,
}

const EMPTY: Text = Text(c"".as_ptr().cast());
const DOT: Text = Text(c".".as_ptr().cast());

/// How often a path is resolved again that was renamed meanwhile (openat2(2), EAGAIN under RESOLVE_IN_ROOT).
const RESOLVE_TRIES: u32 = 128;

/// Runs one section from its first step to its last.
///
/// Notes each step in `page` before it is carried out. Returns at the end of the section, or at the first failure that no
/// edge of its step leads away from. Does not return from [`Op::Exec`] when that succeeds.
pub fn run(image: &mut Image<'_>, section: Section, page: &Page) -> Result<(), Stop> {
    let plan = image.plan;
    let steps = plan.section(section);
    let mut next = 0u16;
    while let Some(step) = steps.get(next as usize) {
        page.step.store(next.into(), Ordering::Release);
        let injected = image.fault.filter(|f| f.section == section && f.step == next);
        let outcome = match injected {
            Some(fault) => Err(fault.errno),
            None => carry_out(image, &step.op, page),
        };
        let errno = outcome.err().unwrap_or(0);
        next = match step.on.after(errno) {
            Some(to) => to,
            None if errno == 0 => next + 1,
            None => return Err(Stop { step: next, errno }),
        };
    }
    Ok(())
}

fn carry_out(image: &mut Image<'_>, op: &Op, page: &Page) -> Outcome {
    match *op {
        Op::CloseOthers => close_others(image),
        Op::Open { dir, path, flags, mode, resolve, into } => open(image, dir, path, [flags, mode], resolve, into),
        Op::OpenMade { root, path, like, mode, into } => made::open(image, root, path, (like, mode), into),
        Op::Close { slot } => {
            let fd = image.fd(slot);
            image.clear(slot);
            call::close(fd)
        }
        Op::Leave { slot } => {
            image.clear(slot);
            Ok(0)
        }
        Op::Write { slot, data } => call::write(image.fd(slot), image.bytes(data)),
        Op::Mkdir { dir, name, mode } => call::mkdirat(image.fd(dir), image.text(name), mode),
        Op::Mknod { dir, name, mode, dev } => call::mknodat(image.fd(dir), image.text(name), mode, dev),
        Op::Symlink { target, dir, name } => call::symlinkat(image.text(target), image.fd(dir), image.text(name)),
        Op::Unlink { dir, name } => call::unlinkat(image.fd(dir), image.text(name), 0),
        Op::Chown { dir, name, uid, gid } => {
            call::fchownat(image.fd(dir), image.text(name), uid, gid, libc::AT_SYMLINK_NOFOLLOW)
        }
        Op::Fchown { slot, uid, gid } => call::fchown(image.fd(slot), uid, gid),
        Op::CheckFs { slot, magic, is } => match call::fs_magic(image.fd(slot))? {
            found if (found == magic) == is => Ok(0),
            _ => Err(libc::EXDEV),
        },
        Op::CheckNode { slot, mode, dev } => {
            let stat = call::fstat(image.fd(slot))?;
            let same = stat.st_mode & libc::S_IFMT == mode && (dev == 0 || stat.st_rdev == dev);
            if same { Ok(0) } else { Err(libc::ENODEV) }
        }
        // Our own, which nobody has made close-on-exec.
        Op::Dup { slot, to } if image.fd(slot) == to => Ok(0),
        Op::Dup { slot, to } => call::dup3(image.fd(slot), to, 0),
        Op::Inherit { fd } => call::setfd(fd, libc::F_SETFD, 0),
        Op::CloseRange { first, keep } => close_range(first as u32, keep.map(|slot| image.fd(slot))),

        Op::OpenTree { dir, path, flags, into } => {
            let fd = call::open_tree(image.dir(dir), image.text(path), flags)?;
            image.put(into, fd);
            Ok(0)
        }
        Op::OpenTreeAttr { dir, path, flags, set, clear, propagation, into } => {
            let attr = [set, clear, propagation, 0];
            let fd = call::open_tree_attr(image.dir(dir), image.text(path), flags, attr)?;
            image.put(into, fd);
            Ok(0)
        }
        Op::OpenTreeOf { namespace, path, flags, into } => outside::open_tree_of(image, namespace, path, flags, into),
        Op::Fsopen { kind, into } => {
            const FSOPEN_CLOEXEC: u32 = 1;
            let fd = call::fsopen(image.text(kind), FSOPEN_CLOEXEC)?;
            image.put(into, fd);
            Ok(0)
        }
        Op::FsString { fs, key, value } => call::fsconfig(image.fd(fs), 1, image.text(key), image.text(value), 0),
        Op::FsFlag { fs, key } => call::fsconfig(image.fd(fs), 0, image.text(key), Text(std::ptr::null()), 0),
        Op::FsModeOf { fs, of } => fs_mode(image.fd(fs), image.fd(of)),
        Op::FsCreate { fs } => call::fsconfig(image.fd(fs), 6, Text(std::ptr::null()), Text(std::ptr::null()), 0),
        Op::FsReconfigure { fs } => call::fsconfig(image.fd(fs), 7, Text(std::ptr::null()), Text(std::ptr::null()), 0),
        Op::Fsmount { fs, attr, into } => {
            const FSMOUNT_CLOEXEC: u32 = 1;
            let fd = call::fsmount(image.fd(fs), FSMOUNT_CLOEXEC, attr)?;
            image.put(into, fd);
            Ok(0)
        }
        Op::Mount { source, path, kind, flags, data } => {
            call::mount(image.text(source), image.text(path), image.text(kind), flags, image.text(data))
        }
        Op::SetAttr { mount, set, clear, propagation, idmap, recursive } => {
            let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
            let userns = idmap.map_or(0, |slot| image.fd(slot) as u64);
            call::mount_setattr(image.fd(mount), flags, [set, clear, propagation, userns])
        }
        Op::Remount { mount, set, clear } => {
            let flags = call::mount_flags(image.fd(mount))? & !clear | set | libc::MS_REMOUNT | libc::MS_BIND;
            with_fd_path(image.fd(mount), |path| call::mount(EMPTY, path, EMPTY, flags, Text(std::ptr::null())))
        }
        Op::Propagation { mount: None, path, flags } => {
            call::mount(EMPTY, image.text(path), EMPTY, flags, Text(std::ptr::null()))
        }
        Op::Propagation { mount: Some(slot), flags, .. } => {
            with_fd_path(image.fd(slot), |path| call::mount(EMPTY, path, EMPTY, flags, Text(std::ptr::null())))
        }
        Op::MoveMount { from, to } => {
            const F_EMPTY_PATH: u32 = 0x4;
            const T_EMPTY_PATH: u32 = 0x40;
            call::move_mount(image.fd(from), EMPTY, image.fd(to), EMPTY, F_EMPTY_PATH | T_EMPTY_PATH)
        }
        Op::MoveMountTo { from, dir, name } => {
            const F_EMPTY_PATH: u32 = 0x4;
            call::move_mount(image.fd(from), EMPTY, image.fd(dir), image.text(name), F_EMPTY_PATH)
        }
        Op::PivotRoot => call::pivot_root(DOT, DOT),
        Op::Umount { path, flags } => call::umount2(image.text(path), flags),
        Op::Fchdir { slot } => call::fchdir(image.fd(slot)),
        Op::Chroot { path } => call::chroot(image.text(path)),
        Op::CopyUp { root, from, into, mode, owner } => outside::copy_up(image, root, from, into, mode, owner),
        Op::ForeignMounts { into } => outside::foreign_mounts(image, into),
        Op::MapNamespace { uids, gids, into } => outside::map_namespace(image, uids, gids, into),

        Op::Unshare { flags } => call::unshare(flags),
        Op::Setns { slot, flags } => {
            call::setns(image.fd(slot), flags)?;
            image.joined |= flags;
            Ok(0)
        }
        Op::SetnsAgain { flags, .. } if image.joined & flags == flags => Ok(0),
        Op::SetnsAgain { slot, flags } => call::setns(image.fd(slot), flags),
        Op::CheckForeign { slot, .. } => {
            let own = call::stat_at(libc::AT_FDCWD, Text(c"/proc/thread-self/ns/net".as_ptr().cast()), 0)?;
            let other = call::fstat(image.fd(slot))?;
            if (own.st_dev, own.st_ino) == (other.st_dev, other.st_ino) { Err(libc::EXDEV) } else { Ok(0) }
        }
        Op::ChildrenPid { slot } => call::setns(image.fd(slot), libc::CLONE_NEWPID as u64),
        Op::Respawn { flags } => respawn(flags, page),
        Op::Fork { into } => clone::fork(image, into, page),
        Op::Hostname { name } => call::sethostname(image.bytes(name)),
        Op::Domainname { name } => call::setdomainname(image.bytes(name)),
        Op::Loopback => loopback(),

        Op::Setsid => call::setsid(),
        Op::Keyring { name, permission } => keyring(image.text(name), permission),
        Op::AllCpus => call::sched_setaffinity(&[0xff; 1024]),
        Op::Affinity { mask } => call::sched_setaffinity(image.bytes(mask)),
        Op::UnlockPty { master } => call::ioctl(image.fd(master), libc::TIOCSPTLCK as u32, &mut 0i32),
        Op::PtyPeer { master, into } => {
            let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
            let fd = call::ioctl_number(image.fd(master), libc::TIOCGPTPEER as u32, flags as usize)?;
            image.put(into, fd);
            Ok(0)
        }
        Op::Winsize { master, rows, columns } => {
            let mut size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
            call::ioctl(image.fd(master), libc::TIOCSWINSZ as u32, &mut size)
        }
        Op::ControllingTty { slot } => call::ioctl_number(image.fd(slot), libc::TIOCSCTTY as u32, 0),
        Op::SendFd { wire, slot } => call::send_fd(image.fd(wire), image.fd(slot)),
        Op::Umask { mask } => call::umask(mask),
        Op::Rlimit { resource, soft, hard } => call::prlimit(image.pid, resource, soft, hard),
        Op::Scheduler { attr } => call::sched_setattr(image.bytes(attr)),
        Op::IoPriority { value } => {
            const IOPRIO_WHO_PGRP: u32 = 2;
            call::ioprio_set(IOPRIO_WHO_PGRP, 0, value)
        }
        Op::Personality { domain } => call::personality(domain),
        Op::NoNewPrivs => call::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        Op::Bounding { keep, last } => bounding(keep, last),
        Op::KeepCaps { on } => call::prctl(libc::PR_SET_KEEPCAPS, on.into(), 0, 0, 0),
        Op::Setgroups { ids } => call::setgroups(image.bytes(ids)),
        Op::Setgid { gid } => call::setresgid(gid, gid, gid),
        Op::Setuid { uid } => call::setresuid(uid, uid, uid),
        Op::Capset { effective, permitted, inheritable } => call::capset(effective, permitted, inheritable),
        Op::AmbientClear => call::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as usize, 0, 0, 0),
        Op::AmbientRaise { cap } => {
            call::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE as usize, cap.into(), 0, 0)
        }
        Op::Home { dir, uid, env, room } => home(image, dir, uid, env, room),
        Op::Chdir { path } => {
            call::chdir(image.text(path))?;
            image.cwd_is_set = true;
            Ok(0)
        }
        Op::ChdirAgain { path } => {
            if image.cwd_is_set {
                return Ok(0);
            }
            call::chdir(image.text(path))
        }
        Op::CheckCwd => {
            if call::cwd_is_reachable()? {
                Ok(0)
            } else {
                Err(libc::ENOENT)
            }
        }
        Op::Lookup { path } => lookup(image, path),
        Op::LookupFailed { .. } => Err(libc::ENOENT),
        Op::Gate { gate, wire, wait } => pass(gate, image.fd(wire), image.fd(wait)),
        Op::AwaitParent { .. } if page.may_go() => Ok(0),
        Op::AwaitParent { wait } => wait_for_parent(image.fd(wait)),
        Op::Seccomp { flags, listener } => {
            let fd = call::seccomp(flags, &image.plan.filter)?;
            if let Some(slot) = listener {
                image.put(slot, fd);
                page.value.store(fd as u32, Ordering::Release);
            }
            Ok(0)
        }
        Op::Hook { path, argv, envp, before, after, pid, timeout, files } => hook::run(
            &hook::Hook {
                path: image.text(path),
                argv: image.list(argv),
                envp: image.list(envp),
                before: image.bytes(before),
                after: image.bytes(after),
                pid,
                timeout,
                files,
            },
            page,
        ),
        Op::Signals => {
            for signal in (1..=64).filter(|s| image.ignored >> (s - 1) & 1 != 0) {
                call::default_action(signal)?;
            }
            call::unblock_signals()
        }
        Op::Exec { argv, envp } => call::execve(image.text(image.executable), image.list(argv), image.list(envp)),
    }
}

fn open(image: &mut Image<'_>, dir: Dir, path: Str, how: [u32; 2], resolve: u64, into: Slot) -> Outcome {
    let mut tries = 0;
    let fd = loop {
        match call::openat2(image.dir(dir), image.text(path), how[0], how[1], resolve) {
            Err(libc::EAGAIN) if resolve != 0 && tries < RESOLVE_TRIES => tries += 1,
            outcome => break outcome?,
        }
    };
    image.put(into, fd);
    Ok(0)
}

/// Closes what no slot holds: `gaps` was worked out by the parent just before the clone.
fn close_others(image: &Image<'_>) -> Outcome {
    for (first, last) in image.gaps.iter().filter(|(a, b)| a <= b) {
        call::close_range(*first, *last, 0)?;
    }
    Ok(0)
}

/// Closes all from `first` on but `keep`, which are close-on-exec and must tell the parent of execve by closing then.
fn close_range(first: u32, keep: [RawFd; 2]) -> Outcome {
    let mut next = first;
    let [a, b] = keep;
    for keep in [a.min(b), a.max(b)] {
        let Some(keep) = u32::try_from(keep).ok().filter(|keep| *keep >= next) else { continue };
        if keep > next {
            call::close_range(next, keep - 1, 0)?;
        }
        next = keep + 1;
    }
    call::close_range(next, u32::MAX, 0)
}

/// Calls `f` with "/proc/self/fd/N".
fn with_fd_path(fd: RawFd, f: impl FnOnce(Text) -> Outcome) -> Outcome {
    if fd < 0 {
        return Err(libc::EBADF);
    }
    let mut path = [0u8; 32];
    let mut at = append(&mut path, 0, b"/proc/self/fd/");
    at = append_number(&mut path, at, fd as u32);
    append(&mut path, at, b"\0");
    f(Text(path.as_ptr()))
}

/// Copies `text` to `buffer[at..]`, cutting what does not fit; returns the end.
pub(super) fn append(buffer: &mut [u8], at: usize, text: &[u8]) -> usize {
    let end = (at + text.len()).min(buffer.len());
    if let (Some(place), Some(part)) = (buffer.get_mut(at..end), text.get(..end.saturating_sub(at))) {
        place.copy_from_slice(part);
    }
    end
}

/// Appends a number in decimal digits.
pub(super) fn append_number(buffer: &mut [u8], at: usize, number: u32) -> usize {
    let mut digits = [0u8; 10];
    let mut rest = number;
    let mut i = digits.len();
    loop {
        i -= 1;
        digits[i] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 || i == 0 {
            return append(buffer, at, &digits[i..]);
        }
    }
}

fn fs_mode(fs: RawFd, of: RawFd) -> Outcome {
    let mode = call::fstat(of)?.st_mode & 0o7777;
    let mut octal = [0u8; 6];
    for (i, place) in octal.iter_mut().take(5).enumerate() {
        *place = b'0' + (mode >> (3 * (4 - i)) & 7) as u8;
    }
    call::fsconfig(fs, 1, Text(c"mode".as_ptr().cast()), Text(octal.as_ptr()), 0)
}

fn loopback() -> Outcome {
    let socket = call::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0)? as RawFd;
    // struct ifreq: 16 bytes of name, then a union of 24 whose first short is the flags.
    let mut request = [0u8; 40];
    append(&mut request, 0, b"lo");
    let up = (libc::IFF_UP | libc::IFF_RUNNING) as u16;
    append(&mut request, 16, &up.to_ne_bytes());
    // It is closed with all others before execve.
    call::ioctl(socket, libc::SIOCSIFFLAGS as u32, &mut request)
}

fn keyring(name: Text, permission: u32) -> Outcome {
    const KEYCTL_JOIN_SESSION_KEYRING: u32 = 1;
    const KEYCTL_SETPERM: u32 = 5;
    const KEYCTL_DESCRIBE: u32 = 6;
    // Whose number the call does not tell when it has been joined already.
    const KEY_SPEC_SESSION_KEYRING: isize = -3;
    call::keyctl(KEYCTL_JOIN_SESSION_KEYRING, name.0 as usize, 0, 0, 0)?;
    let ring = KEY_SPEC_SESSION_KEYRING as usize;
    // "keyring;uid;gid;perm;name": the permission is the third number, in hex.
    let mut text = [0u8; 256];
    call::keyctl(KEYCTL_DESCRIBE, ring, text.as_mut_ptr() as usize, text.len(), 0)?;
    let mut fields = text.split(|b| *b == b';');
    let hex = fields.nth(3).unwrap_or(&[]);
    let old = hex.iter().fold(0u32, |n, d| n << 4 | (*d as char).to_digit(16).unwrap_or(0));
    if old & permission == permission {
        return Ok(0);
    }
    call::keyctl(KEYCTL_SETPERM, ring, (old | permission) as usize, 0, 0)
}

fn bounding(keep: u64, last: u8) -> Outcome {
    for cap in (0..=last.min(63)).filter(|cap| keep >> cap & 1 == 0) {
        call::prctl(libc::PR_CAPBSET_DROP, cap.into(), 0, 0, 0)?;
    }
    Ok(0)
}

/// Goes on in a new child of our parent; what is left of us ends.
fn respawn(flags: u64, page: &Page) -> Outcome {
    let pid = call::fork(flags | libc::CLONE_PARENT as u64, None, Some(&page.pid))?;
    if pid != 0 {
        call::exit(0);
    }
    Ok(0)
}

/// Tells the parent by one byte that we are at a gate and waits for its byte. End of file means that the parent is gone.
fn pass(gate: Gate, wire: RawFd, wait: RawFd) -> Outcome {
    call::write(wire, &[gate as u8])?;
    wait_for_parent(wait)
}

fn wait_for_parent(wait: RawFd) -> Outcome {
    let mut byte = [0u8];
    loop {
        match call::read(wait, &mut byte) {
            Ok(1) => return Ok(0),
            Ok(_) => return Err(libc::EPIPE),
            Err(libc::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// What Go's exec.LookPath asks of a candidate: not a directory, and executable for the effective user.
fn lookup(image: &mut Image<'_>, path: Str) -> Outcome {
    let text = image.text(path);
    let stat = call::stat_at(libc::AT_FDCWD, text, 0)?;
    if stat.st_mode & libc::S_IFMT == libc::S_IFDIR {
        return Err(libc::EISDIR);
    }
    call::faccessat2(libc::AT_FDCWD, text, libc::X_OK, libc::AT_EACCESS)?;
    image.executable = path;
    Ok(0)
}

/// How much of /etc/passwd is read: a file of the image's, of any size and kind (CVE-2026-47262).
const PASSWD_LIMIT: usize = 1 << 20;

/// Writes `HOME=<dir>` of the first entry with this uid into `room`, `HOME=/` without one, and appends it to `env`.
fn home(image: &mut Image<'_>, dir: Dir, uid: u32, env: List, room: Bytes) -> Outcome {
    const RESOLVE: u64 = 0x02 | 0x10; // NO_MAGICLINKS, IN_ROOT
    let path = Text(c"etc/passwd".as_ptr().cast());
    let flags = (libc::O_RDONLY | libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_NOCTTY) as u32;
    let start = append(image.bytes_mut(room), 0, b"HOME=");
    let mut end = append(image.bytes_mut(room), start, b"/");
    // It may be a device of the image's, to open which is to do something, and no rule for devices is in force yet.
    let is_file = |stat: libc::stat| stat.st_mode & libc::S_IFMT == libc::S_IFREG;
    let looked = call::stat_at(image.dir(dir), path, 0).is_ok_and(is_file);
    if let Some(fd) = looked.then(|| call::openat2(image.dir(dir), path, flags, 0, RESOLVE).ok()).flatten() {
        let fd = fd as RawFd;
        if call::fstat(fd).is_ok_and(is_file) {
            let found = home_in(fd, uid, image.bytes_mut(room), start);
            // Other entries have been in that place meanwhile.
            end = found.unwrap_or_else(|| append(image.bytes_mut(room), start, b"/"));
        }
        // It is closed with all others: see Op::CloseRange.
    }
    append(image.bytes_mut(room), end, b"\0");
    image.append(env, room);
    Ok(0)
}

/// Scans name:password:uid:gid:gecos:home:shell lines in one pass without keeping a line.
fn home_in(fd: RawFd, uid: u32, out: &mut [u8], start: usize) -> Option<usize> {
    let mut chunk = [0u8; 4096];
    let (mut field, mut id, mut digits, mut valid, mut end, mut total) = (0u32, 0u64, 0u32, true, start, 0usize);
    loop {
        let got = call::read(fd, &mut chunk).unwrap_or(0);
        total += got;
        let last = got == 0 || total > PASSWD_LIMIT;
        let part = chunk.get(..got).unwrap_or(&[]);
        // The last line may lack its end; one that is cut by the limit is no line.
        for byte in part.iter().chain((got == 0).then_some(&b'\n')) {
            match byte {
                b'\n' => {
                    if valid && digits > 0 && id == u64::from(uid) && field >= 5 && end > start {
                        return Some(end);
                    }
                    (field, id, digits, valid, end) = (0, 0, 0, true, start);
                }
                b':' => field += 1,
                b'0'..=b'9' if field == 2 && digits < 11 => {
                    id = id * 10 + u64::from(byte - b'0');
                    digits += 1;
                }
                _ if field == 2 => valid = false,
                // One place stays free for the NUL.
                _ if field == 5 && end + 1 < out.len() => end = append(out, end, &[*byte]),
                _ if field == 5 => valid = false,
                _ => {}
            }
        }
        if last {
            return None;
        }
    }
}
