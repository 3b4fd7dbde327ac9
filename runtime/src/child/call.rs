//! The system calls of the child as typed functions: no libc state, no allocation, errno as the value of the error.
//!
//! One proof for all: every pointer that a function here hands to the kernel is made from a reference or from a
//! NUL-terminated string of the image in the same expression, and every length is that object's. The kernel checks the
//! rest and answers EFAULT. Functions that change what Rust relies on (close, dup3) work on descriptors that only the
//! image knows.

use std::os::fd::RawFd;
use std::sync::atomic::AtomicU32;

use crate::sys::{answer, raw, trap};

/// Errno as a number: `Errno` of rustix would do, but its range check is not wanted here.
pub type Outcome = Result<usize, i32>;

/// Address of a NUL-terminated string inside the image.
#[derive(Clone, Copy)]
pub struct Text(pub *const u8);

#[inline(always)]
fn sys(number: libc::c_long, a: [usize; 6]) -> Outcome {
    // SAFETY: see the head of this file; the function is private to it.
    answer(unsafe { raw(number, a) })
}

fn at<T>(value: &T) -> usize {
    std::ptr::from_ref(value) as usize
}

fn fd(fd: RawFd) -> usize {
    fd as isize as usize
}

macro_rules! calls {
    ($($(#[$doc:meta])* $name:ident = $number:ident ( $($arg:ident : $kind:ty => $value:expr),* );)*) => {
        $($(#[$doc])*
        #[inline(always)]
        pub fn $name($($arg: $kind),*) -> Outcome {
            #[allow(unused_mut, unused_assignments)]
            let mut a = [0usize; 6];
            let mut _i = 0;
            $(a[_i] = $value; _i += 1;)*
            sys(libc::$number, a)
        })*
    };
}

calls! {
    /// close(2)
    close = SYS_close(f: RawFd => fd(f));
    /// dup3(2)
    dup3 = SYS_dup3(from: RawFd => fd(from), to: RawFd => fd(to), flags: i32 => flags as usize);
    /// fcntl(2) F_SETFD
    setfd = SYS_fcntl(f: RawFd => fd(f), command: i32 => command as usize, flags: i32 => flags as usize);
    /// close_range(2)
    close_range = SYS_close_range(first: u32 => first as usize, last: u32 => last as usize, flags: u32 => flags as usize);
    /// mkdirat(2)
    mkdirat = SYS_mkdirat(dir: RawFd => fd(dir), name: Text => name.0 as usize, mode: u32 => mode as usize);
    /// mknodat(2)
    mknodat = SYS_mknodat(dir: RawFd => fd(dir), name: Text => name.0 as usize, mode: u32 => mode as usize, dev: u64 => dev as usize);
    /// symlinkat(2)
    symlinkat = SYS_symlinkat(target: Text => target.0 as usize, dir: RawFd => fd(dir), name: Text => name.0 as usize);
    /// unlinkat(2)
    unlinkat = SYS_unlinkat(dir: RawFd => fd(dir), name: Text => name.0 as usize, flags: i32 => flags as usize);
    /// fchownat(2)
    fchownat = SYS_fchownat(dir: RawFd => fd(dir), name: Text => name.0 as usize, uid: u32 => uid as usize, gid: u32 => gid as usize, flags: i32 => flags as usize);
    /// fchown(2)
    fchown = SYS_fchown(f: RawFd => fd(f), uid: u32 => uid as usize, gid: u32 => gid as usize);
    /// open_tree(2)
    open_tree = SYS_open_tree(dir: RawFd => fd(dir), path: Text => path.0 as usize, flags: u32 => flags as usize);
    /// fsopen(2)
    fsopen = SYS_fsopen(kind: Text => kind.0 as usize, flags: u32 => flags as usize);
    /// fsconfig(2)
    fsconfig = SYS_fsconfig(fs: RawFd => fd(fs), command: u32 => command as usize, key: Text => key.0 as usize, value: Text => value.0 as usize, aux: i32 => aux as usize);
    /// fsmount(2)
    fsmount = SYS_fsmount(fs: RawFd => fd(fs), flags: u32 => flags as usize, attr: u64 => attr as usize);
    /// move_mount(2)
    move_mount = SYS_move_mount(from: RawFd => fd(from), from_path: Text => from_path.0 as usize, to: RawFd => fd(to), to_path: Text => to_path.0 as usize, flags: u32 => flags as usize);
    /// mount(2)
    mount = SYS_mount(source: Text => source.0 as usize, target: Text => target.0 as usize, kind: Text => kind.0 as usize, flags: u64 => flags as usize, data: Text => data.0 as usize);
    /// pivot_root(2)
    pivot_root = SYS_pivot_root(new: Text => new.0 as usize, old: Text => old.0 as usize);
    /// umount2(2)
    umount2 = SYS_umount2(path: Text => path.0 as usize, flags: u32 => flags as usize);
    /// fchdir(2)
    fchdir = SYS_fchdir(f: RawFd => fd(f));
    /// chdir(2)
    chdir = SYS_chdir(path: Text => path.0 as usize);
    /// chroot(2)
    chroot = SYS_chroot(path: Text => path.0 as usize);
    /// unshare(2)
    unshare = SYS_unshare(flags: u64 => flags as usize);
    /// setns(2)
    setns = SYS_setns(f: RawFd => fd(f), flags: u64 => flags as usize);
    /// socket(2)
    socket = SYS_socket(domain: i32 => domain as usize, kind: i32 => kind as usize, protocol: i32 => protocol as usize);
    /// setsid(2)
    setsid = SYS_setsid();
    /// getpid(2)
    getpid = SYS_getpid();
    /// umask(2)
    umask = SYS_umask(mask: u32 => mask as usize);
    /// ioprio_set(2)
    ioprio_set = SYS_ioprio_set(which: u32 => which as usize, who: u32 => who as usize, value: u32 => value as usize);
    /// personality(2)
    personality = SYS_personality(domain: u32 => domain as usize);
    /// prctl(2)
    prctl = SYS_prctl(option: i32 => option as usize, a: usize => a, b: usize => b, c: usize => c, d: usize => d);
    /// setresgid(2)
    setresgid = SYS_setresgid(r: u32 => r as usize, e: u32 => e as usize, s: u32 => s as usize);
    /// setresuid(2)
    setresuid = SYS_setresuid(r: u32 => r as usize, e: u32 => e as usize, s: u32 => s as usize);
    /// faccessat2(2)
    faccessat2 = SYS_faccessat2(dir: RawFd => fd(dir), path: Text => path.0 as usize, mode: i32 => mode as usize, flags: i32 => flags as usize);
    /// kill(2)
    kill = SYS_kill(pid: i32 => pid as usize, signal: i32 => signal as usize);
    /// tgkill(2)
    tgkill = SYS_tgkill(pid: i32 => pid as usize, tid: i32 => tid as usize, signal: i32 => signal as usize);
    /// keyctl(2)
    keyctl = SYS_keyctl(command: u32 => command as usize, a: usize => a, b: usize => b, c: usize => c, d: usize => d);
    /// lseek(2)
    lseek = SYS_lseek(f: RawFd => fd(f), offset: i64 => offset as usize, whence: i32 => whence as usize);
}

/// openat2(2)
pub fn openat2(dir: RawFd, path: Text, flags: u32, mode: u32, resolve: u64) -> Outcome {
    #[repr(C)]
    struct How {
        flags: u64,
        mode: u64,
        resolve: u64,
    }
    let how = How { flags: flags.into(), mode: mode.into(), resolve };
    sys(libc::SYS_openat2, [fd(dir), path.0 as usize, at(&how), size_of::<How>(), 0, 0])
}

/// write(2)
pub fn write(f: RawFd, data: &[u8]) -> Outcome {
    sys(libc::SYS_write, [fd(f), data.as_ptr() as usize, data.len(), 0, 0, 0])
}

/// read(2)
pub fn read(f: RawFd, data: &mut [u8]) -> Outcome {
    sys(libc::SYS_read, [fd(f), data.as_mut_ptr() as usize, data.len(), 0, 0, 0])
}

/// readlinkat(2)
pub fn readlinkat(dir: RawFd, name: Text, text: &mut [u8]) -> Outcome {
    sys(libc::SYS_readlinkat, [fd(dir), name.0 as usize, text.as_mut_ptr() as usize, text.len(), 0, 0])
}

/// fstat(2); the C library's `struct stat` is the kernel's on 64-bit machines.
pub fn fstat(f: RawFd) -> Result<libc::stat, i32> {
    stat_at(f, Text(c"".as_ptr().cast()), libc::AT_EMPTY_PATH)
}

/// newfstatat(2)
pub fn stat_at(dir: RawFd, path: Text, flags: i32) -> Result<libc::stat, i32> {
    let mut stat = std::mem::MaybeUninit::<libc::stat>::zeroed();
    sys(libc::SYS_newfstatat, [fd(dir), path.0 as usize, stat.as_mut_ptr() as usize, flags as usize, 0, 0])?;
    // SAFETY: zeroed is a valid value of this struct of integers, and the kernel has filled it.
    Ok(unsafe { stat.assume_init() })
}

/// fstatfs(2): the file system's magic number.
pub fn fs_magic(f: RawFd) -> Result<u32, i32> {
    Ok(fstatfs(f)?.f_type as u32)
}

/// fstatfs(2): flags of the mount as mount(2) takes them. ST_* of the same meaning have the same bits, but for relatime,
/// which a remount keeps.
pub fn mount_flags(f: RawFd) -> Result<u64, i32> {
    let kept =
        libc::MS_RDONLY | libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC | libc::MS_NOATIME | libc::MS_NODIRATIME;
    Ok(fstatfs(f)?.f_flags as u64 & kept)
}

/// `struct statfs` of the 64-bit architectures; libc hides the flags.
#[repr(C)]
#[derive(Default)]
struct Statfs {
    f_type: i64,
    /// f_bsize, f_blocks, f_bfree, f_bavail, f_files, f_ffree, f_fsid, f_namelen, f_frsize
    sizes: [u64; 9],
    f_flags: i64,
    f_spare: [i64; 4],
}

fn fstatfs(f: RawFd) -> Result<Statfs, i32> {
    let mut stat = Statfs::default();
    sys(libc::SYS_fstatfs, [fd(f), std::ptr::from_mut(&mut stat) as usize, 0, 0, 0, 0])?;
    Ok(stat)
}

/// Not in libc yet; the same number everywhere.
const SYS_OPEN_TREE_ATTR: libc::c_long = 467;

/// open_tree_attr(2), Linux 6.15
pub fn open_tree_attr(dir: RawFd, path: Text, flags: u32, attr: [u64; 4]) -> Outcome {
    sys(SYS_OPEN_TREE_ATTR, [fd(dir), path.0 as usize, flags as usize, at(&attr), size_of_val(&attr), 0])
}

/// mount_setattr(2)
pub fn mount_setattr(mount: RawFd, flags: i32, attr: [u64; 4]) -> Outcome {
    sys(libc::SYS_mount_setattr, [fd(mount), c"".as_ptr() as usize, flags as usize, at(&attr), size_of_val(&attr), 0])
}

/// sethostname(2)
pub fn sethostname(name: &[u8]) -> Outcome {
    sys(libc::SYS_sethostname, [name.as_ptr() as usize, name.len(), 0, 0, 0, 0])
}

/// setdomainname(2)
pub fn setdomainname(name: &[u8]) -> Outcome {
    sys(libc::SYS_setdomainname, [name.as_ptr() as usize, name.len(), 0, 0, 0, 0])
}

/// ioctl(2) with a pointer or a number.
pub fn ioctl<T>(f: RawFd, request: u32, value: &mut T) -> Outcome {
    sys(libc::SYS_ioctl, [fd(f), request as usize, std::ptr::from_mut(value) as usize, 0, 0, 0])
}

/// ioctl(2) whose argument is a number.
pub fn ioctl_number(f: RawFd, request: u32, value: usize) -> Outcome {
    sys(libc::SYS_ioctl, [fd(f), request as usize, value, 0, 0, 0])
}

/// sched_setaffinity(2) of the calling thread.
pub fn sched_setaffinity(mask: &[u8]) -> Outcome {
    sys(libc::SYS_sched_setaffinity, [0, mask.len(), mask.as_ptr() as usize, 0, 0, 0])
}

/// sched_setattr(2) of the calling thread; `attr` is a `struct sched_attr`.
pub fn sched_setattr(attr: &[u8]) -> Outcome {
    sys(libc::SYS_sched_setattr, [0, attr.as_ptr() as usize, 0, 0, 0, 0])
}

/// prlimit64(2); pid 0 is the caller.
pub fn prlimit(pid: u32, resource: u32, soft: u64, hard: u64) -> Outcome {
    let limit = [soft, hard];
    sys(libc::SYS_prlimit64, [pid as usize, resource as usize, at(&limit), 0, 0, 0])
}

/// setgroups(2); `ids` are u32 in native order.
pub fn setgroups(ids: &[u8]) -> Outcome {
    sys(libc::SYS_setgroups, [ids.len() / 4, ids.as_ptr() as usize, 0, 0, 0, 0])
}

/// capset(2) of the calling thread, version 3.
pub fn capset(effective: u64, permitted: u64, inheritable: u64) -> Outcome {
    const VERSION_3: u32 = 0x2008_0522;
    let header = [VERSION_3, 0u32];
    let low = |set: u64| set as u32;
    let high = |set: u64| (set >> 32) as u32;
    let data = [low(effective), low(permitted), low(inheritable), high(effective), high(permitted), high(inheritable)];
    sys(libc::SYS_capset, [at(&header), at(&data), 0, 0, 0, 0])
}

/// getcwd(2): the first byte of the answer is `/` when the directory is reachable, `(` when it is not.
pub fn cwd_is_reachable() -> Result<bool, i32> {
    let mut path = [0u8; libc::PATH_MAX as usize];
    sys(libc::SYS_getcwd, [path.as_mut_ptr() as usize, path.len(), 0, 0, 0, 0])?;
    Ok(path[0] == b'/')
}

/// seccomp(2) SECCOMP_SET_MODE_FILTER
pub fn seccomp(flags: u32, filter: &[crate::seccomp::Insn]) -> Outcome {
    #[repr(C)]
    struct Prog {
        len: u16,
        filter: *const crate::seccomp::Insn,
    }
    let prog = Prog { len: filter.len() as u16, filter: filter.as_ptr() };
    sys(libc::SYS_seccomp, [libc::SECCOMP_SET_MODE_FILTER as usize, flags as usize, at(&prog), 0, 0, 0])
}

/// rt_sigprocmask(2): nothing is blocked any more.
pub fn unblock_signals() -> Outcome {
    let none = 0u64;
    sys(libc::SYS_rt_sigprocmask, [libc::SIG_SETMASK as usize, at(&none), 0, 8, 0, 0])
}

/// rt_sigaction(2) SIG_DFL. CLONE_CLEAR_SIGHAND resets handlers only, an ignored signal stays ignored.
pub fn default_action(signal: i32) -> Outcome {
    let action = [0usize; 4];
    sys(libc::SYS_rt_sigaction, [signal as usize, at(&action), 0, 8, 0, 0])
}

/// execve(2). The three addresses are of a NUL-terminated string and two NULL-terminated arrays of such in the image.
pub fn execve(path: Text, argv: *const *const u8, envp: *const *const u8) -> Outcome {
    sys(libc::SYS_execve, [path.0 as usize, argv as usize, envp as usize, 0, 0, 0])
}

/// sendmsg(2): one byte with one descriptor (SCM_RIGHTS).
pub fn send_fd(wire: RawFd, f: RawFd) -> Outcome {
    #[repr(C)]
    struct Control {
        len: usize,
        level: i32,
        kind: i32,
        fd: RawFd,
        _pad: i32,
    }
    let byte = [b'f'];
    let iov = libc::iovec { iov_base: byte.as_ptr().cast_mut().cast(), iov_len: 1 };
    let control = Control { len: 20, level: libc::SOL_SOCKET, kind: libc::SCM_RIGHTS, fd: f, _pad: 0 };
    // SAFETY: a struct of integers and pointers, for which all zeroes is valid.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = std::ptr::from_ref(&iov).cast_mut();
    message.msg_iovlen = 1;
    message.msg_control = std::ptr::from_ref(&control).cast_mut().cast();
    message.msg_controllen = size_of::<Control>() as _;
    sys(libc::SYS_sendmsg, [fd(wire), at(&message), libc::MSG_NOSIGNAL as usize, 0, 0, 0])
}

/// clone3(2) in the manner of fork: own memory, SIGCHLD. Returns 0 in the child. `pid` is written before the child runs
/// (CLONE_PARENT_SETTID).
pub fn fork(flags: u64, pidfd: Option<&mut RawFd>, pid: Option<&AtomicU32>) -> Outcome {
    let mut args = [0u64; 11];
    args[0] = flags
        | if pidfd.is_some() { libc::CLONE_PIDFD as u64 } else { 0 }
        | if pid.is_some() { libc::CLONE_PARENT_SETTID as u64 } else { 0 };
    args[1] = pidfd.map_or(0, |p| std::ptr::from_mut(p) as u64);
    args[3] = pid.map_or(0, |p| p.as_ptr() as u64);
    // With CLONE_PARENT the exit signal is that of the caller and the field must be 0 (clone3(2), EINVAL).
    args[4] = if flags & libc::CLONE_PARENT as u64 == 0 { libc::SIGCHLD as u64 } else { 0 };
    sys(libc::SYS_clone3, [at(&args), size_of_val(&args), 0, 0, 0, 0])
}

/// The same by clone(2), whose flags a seccomp profile can look at: many forbid clone3(2) (ENOSYS) to whoever may not make namespaces.
pub fn fork_filtered(pidfd: &mut RawFd) -> Outcome {
    let flags = (libc::CLONE_PIDFD | libc::SIGCHLD) as usize;
    // The pidfd comes where CLONE_PARENT_SETTID would write; what follows differs between machines, and is 0.
    sys(libc::SYS_clone, [flags, 0, std::ptr::from_mut(pidfd) as usize, 0, 0, 0])
}

/// exit_group(2). A process whose profile forbids that ends all the same, by SIGILL.
pub fn exit(status: i32) -> ! {
    let _forbidden = sys(libc::SYS_exit_group, [status as usize, 0, 0, 0, 0, 0]);
    trap()
}

/// memfd_create(2)
pub fn memfd(name: Text) -> Outcome {
    sys(libc::SYS_memfd_create, [name.0 as usize, libc::MFD_CLOEXEC as usize, 0, 0, 0, 0])
}

/// poll(2) of one descriptor through ppoll(2); `seconds` 0 waits for ever. Returns the number of ready descriptors.
pub fn poll_in(f: RawFd, seconds: u32) -> Outcome {
    let mut poll = libc::pollfd { fd: f, events: libc::POLLIN, revents: 0 };
    let time = [i64::from(seconds), 0];
    let time = if seconds == 0 { 0 } else { at(&time) };
    sys(libc::SYS_ppoll, [std::ptr::from_mut(&mut poll) as usize, 1, time, 0, 8, 0])
}

/// waitid(2) P_PID WEXITED, whatever signal it ends with: `(si_code, si_status)`.
pub fn wait(pid: i32) -> Result<(i32, i32), i32> {
    let mut info = [0i32; 32];
    sys(
        libc::SYS_waitid,
        [
            libc::P_PID as usize,
            pid as usize,
            std::ptr::from_mut(&mut info) as usize,
            (libc::WEXITED | libc::__WALL) as usize,
            0,
            0,
        ],
    )?;
    // siginfo_t of SIGCHLD on 64-bit machines: signo, errno, code, pad, pid, uid, status
    Ok((info[2], info[6]))
}
