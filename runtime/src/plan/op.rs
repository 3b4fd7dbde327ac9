//! The vocabulary of a plan: one variant per kernel operation.
//!
//! An operation never decides. What is only known at run time is an explicit edge of its step. Flags are the kernel's own
//! bits, so that a printed plan can be compared with strace.

use super::{Bytes, List, Slot, Str};
use crate::own::Files;

/// Where a path starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dir {
    /// The working directory; only for trusted absolute paths of the host.
    Cwd,
    /// An open directory.
    At(Slot),
}

/// A point where the child waits for the parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// New user namespace made, id maps wanted.
    Maps,
    /// Mounts made, prestart and createRuntime hooks wanted.
    Hooks,
    /// Limits wanted that the child may not set itself.
    Limits,
    /// seccomp listener open, the parent fetches it.
    Listener,
    /// We are a new process: the parent has to know before it can act upon us.
    Respawned,
    /// Everything done but execve.
    Start,
}

/// One kernel operation (a few need two or three calls that make sense only together).
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)] // the fields are the arguments of the calls named above them
pub enum Op {
    // ---- descriptors and files
    /// close_range(2): everything from 3 on that no slot holds and that is not preserved. First step of every child: other
    /// threads of the parent may have had descriptors open at the clone whose copies must not live on here.
    CloseOthers,
    /// openat2(2)
    Open { dir: Dir, path: Str, flags: u32, mode: u32, resolve: u64, into: Slot },
    /// close(2)
    Close { slot: Slot },
    /// The slot is free for another descriptor; the one in it is closed with all others before execve
    Leave { slot: Slot },
    /// write(2), all of it in one call
    Write { slot: Slot, data: Bytes },
    /// readlinkat(2), mkdirat(2) and openat2(2), again and again: opens `path` inside `root`, makes what is missing on the way
    /// and behind links, and at the end a directory with this mode, or what `like` is
    OpenMade { root: Slot, path: Bytes, like: Option<Slot>, mode: u32, into: Slot },
    /// mkdirat(2) of one component
    Mkdir { dir: Slot, name: Str, mode: u32 },
    /// mknodat(2) of one component
    Mknod { dir: Slot, name: Str, mode: u32, dev: u64 },
    /// symlinkat(2) of one component
    Symlink { target: Str, dir: Slot, name: Str },
    /// unlinkat(2) of one component
    Unlink { dir: Slot, name: Str },
    /// fchownat(2), never following a link
    Chown { dir: Slot, name: Str, uid: u32, gid: u32 },
    /// fchown(2)
    Fchown { slot: Slot, uid: u32, gid: u32 },
    /// fstatfs(2): fails with EXDEV when `f_type == magic` is not `is`
    CheckFs { slot: Slot, magic: u32, is: bool },
    /// fstat(2): fails with ENODEV when the node is not of this type and device number (0 is any)
    CheckNode { slot: Slot, mode: u32, dev: u64 },
    /// dup3(2) to a fixed number; nothing if it is there already, which only standard streams are
    Dup { slot: Slot, to: i32 },
    /// fcntl(2) F_SETFD 0 on a fixed number
    Inherit { fd: i32 },
    /// close_range(2): everything from `first` on but these two
    CloseRange { first: i32, keep: [Slot; 2] },

    // ---- mounts
    /// open_tree(2)
    OpenTree { dir: Dir, path: Str, flags: u32, into: Slot },
    /// open_tree_attr(2): open_tree(2) and mount_setattr(2) in one, over the whole tree if `flags` take the whole tree
    OpenTreeAttr { dir: Dir, path: Str, flags: u32, set: u64, clear: u64, propagation: u64, into: Slot },
    /// open_tree(2) of a name of the host, in the mount namespace that [`Op::ForeignMounts`] has made; parent only
    OpenTreeOf { namespace: Slot, path: Str, flags: u32, into: Slot },
    /// fsopen(2)
    Fsopen { kind: Str, into: Slot },
    /// fsconfig(2) FSCONFIG_SET_STRING
    FsString { fs: Slot, key: Str, value: Str },
    /// fsconfig(2) FSCONFIG_SET_FLAG
    FsFlag { fs: Slot, key: Str },
    /// fstat(2) of `of`, then fsconfig(2) `mode=` with its permission bits: a tmpfs takes over the mode of what it covers
    FsModeOf { fs: Slot, of: Slot },
    /// fsconfig(2) FSCONFIG_CMD_CREATE
    FsCreate { fs: Slot },
    /// fsconfig(2) FSCONFIG_CMD_RECONFIGURE, on the context that has made the file system
    FsReconfigure { fs: Slot },
    /// fsmount(2)
    Fsmount { fs: Slot, attr: u64, into: Slot },
    /// mount(2) of a new file system onto the working directory itself, or onto one component of a file system that we have
    /// just made and entered
    Mount { source: Str, path: Str, kind: Str, flags: u64, data: Str },
    /// mount_setattr(2)
    SetAttr { mount: Slot, set: u64, clear: u64, propagation: u64, idmap: Option<Slot>, recursive: bool },
    /// fstatfs(2) for the flags it has, then mount(2) MS_REMOUNT|MS_BIND with them, less `clear`, more `set`, through
    /// /proc/self/fd: for kernels without mount_setattr
    Remount { mount: Slot, set: u64, clear: u64 },
    /// mount(2) with propagation flags only, on a slot (through /proc/self/fd) or a trusted path
    Propagation { mount: Option<Slot>, path: Str, flags: u64 },
    /// move_mount(2) of a detached mount onto an open path
    MoveMount { from: Slot, to: Slot },
    /// move_mount(2) onto one component of a file system that we have just made, or of a directory onto one of the root
    MoveMountTo { from: Slot, dir: Slot, name: Str },
    /// pivot_root(2) (".", ".")
    PivotRoot,
    /// umount2(2)
    Umount { path: Str, flags: u32 },
    /// fchdir(2)
    Fchdir { slot: Slot },
    /// chroot(2)
    Chroot { path: Str },
    /// Copies the tree below `from` (opened inside `root`) into the detached tmpfs `into`, the mode and owner of `from` itself
    /// only if wanted; parent only (`tmpcopyup`)
    CopyUp { root: Slot, from: Str, into: Slot, mode: bool, owner: bool },
    /// A user namespace that exists only to carry these id maps; parent only (idmapped mounts)
    MapNamespace { uids: Bytes, gids: Bytes, into: Slot },
    /// clone3(2): a mount namespace that is a copy of ours and belongs to a user namespace of its own; parent only
    ForeignMounts { into: Slot },

    // ---- namespaces
    /// unshare(2)
    Unshare { flags: u64 },
    /// setns(2) with a namespace descriptor or a pidfd; remembered for [`Op::SetnsAgain`]
    Setns { slot: Slot, flags: u64 },
    /// setns(2), unless [`Op::Setns`] has succeeded with the same flags
    SetnsAgain { slot: Slot, flags: u64 },
    /// fstat(2) of a network namespace: fails with EXDEV when it is our own, in which this sysctl is not the container's
    CheckForeign { slot: Slot, sysctl: Str },
    /// setns(2) CLONE_NEWPID of the calling thread, for its next child; parent only
    ChildrenPid { slot: Slot },
    /// clone3(2) CLONE_PARENT: the rest of the plan runs in a new child of our parent, we end
    Respawn { flags: u64 },
    /// clone3(2): what came so far was done by a thread of the parent's; the rest of the plan runs in a new process, born in this
    /// version 2 group, and the thread ends
    Fork { into: Option<Slot> },
    /// sethostname(2)
    Hostname { name: Bytes },
    /// setdomainname(2)
    Domainname { name: Bytes },
    /// SIOCSIFFLAGS: raises `lo`
    Loopback,

    // ---- the process
    /// setsid(2)
    Setsid,
    /// keyctl(2) KEYCTL_JOIN_SESSION_KEYRING and search permission on it
    Keyring { name: Str, permission: u32 },
    /// sched_setaffinity(2): all CPUs
    AllCpus,
    /// sched_setaffinity(2): this mask
    Affinity { mask: Bytes },
    /// ioctl(2) TIOCSPTLCK 0
    UnlockPty { master: Slot },
    /// ioctl(2) TIOCGPTPEER
    PtyPeer { master: Slot, into: Slot },
    /// ioctl(2) TIOCSWINSZ
    Winsize { master: Slot, rows: u16, columns: u16 },
    /// ioctl(2) TIOCSCTTY
    ControllingTty { slot: Slot },
    /// sendmsg(2) SCM_RIGHTS
    SendFd { wire: Slot, slot: Slot },
    /// umask(2)
    Umask { mask: u32 },
    /// prlimit64(2) of ourselves, or of the child when the parent runs it
    Rlimit { resource: u32, soft: u64, hard: u64 },
    /// sched_setattr(2)
    Scheduler { attr: Bytes },
    /// ioprio_set(2) of the process group
    IoPriority { value: u32 },
    /// personality(2)
    Personality { domain: u32 },
    /// prctl(2) PR_SET_NO_NEW_PRIVS
    NoNewPrivs,
    /// prctl(2) PR_CAPBSET_DROP of every capability up to `last` that is not in `keep`
    Bounding { keep: u64, last: u8 },
    /// prctl(2) PR_SET_KEEPCAPS
    KeepCaps { on: bool },
    /// setgroups(2); `ids` are u32 in native order
    Setgroups { ids: Bytes },
    /// setresgid(2)
    Setgid { gid: u32 },
    /// setresuid(2)
    Setuid { uid: u32 },
    /// capset(2)
    Capset { effective: u64, permitted: u64, inheritable: u64 },
    /// prctl(2) PR_CAP_AMBIENT_CLEAR_ALL
    AmbientClear,
    /// prctl(2) PR_CAP_AMBIENT_RAISE
    AmbientRaise { cap: u8 },
    /// Fills a free place of the environment with HOME from the container's /etc/passwd, or `/`
    Home { dir: Dir, uid: u32, env: List, room: Bytes },
    /// chdir(2); remembered for [`Op::ChdirAgain`]
    Chdir { path: Str },
    /// chdir(2) as the final user, unless [`Op::Chdir`] has succeeded
    ChdirAgain { path: Str },
    /// getcwd(2): fails with ENOENT when the directory is not reachable from the root (CVE-2024-21626)
    CheckCwd,
    /// stat(2) and faccessat2(2) X_OK: remembers the path for [`Op::Exec`]
    Lookup { path: Str },
    /// Fails with ENOENT: no candidate was executable
    LookupFailed { name: Str },
    /// Tells the parent and waits for it
    Gate { gate: Gate, wire: Slot, wait: Slot },
    /// A look at the page, else read(2): the parent knows us and has carried out its section of limits, both beside what we did; nothing is executed that
    /// it could not have hold of
    AwaitParent { wait: Slot },
    /// seccomp(2) SECCOMP_SET_MODE_FILTER
    Seccomp { flags: u32, listener: Option<Slot> },
    /// clone, execve and waitid of a hook; `state` is its stdin up to and after the pid
    Hook {
        path: Str,
        argv: List,
        envp: List,
        before: Bytes,
        after: Bytes,
        pid: Option<u32>,
        timeout: u32,
        files: Option<Files>,
    },
    /// rt_sigaction(2) SIG_DFL for what the parent ignores, and an empty rt_sigprocmask(2)
    Signals,
    /// execve(2) of the remembered path
    Exec { argv: List, envp: List },
}
