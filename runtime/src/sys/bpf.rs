//! Raw system calls that our libraries lack: prototype, man section, SAFETY; nothing else.

// ---- control groups: bpf(2) for device rules, pidfd_send_signal(2) for every signal ----

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// One eBPF instruction, `struct bpf_insn` of `<linux/bpf.h>`; the registers share a byte, destination low.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BpfInsn {
    /// Operation.
    pub code: u8,
    /// `dst | src << 4`.
    pub regs: u8,
    /// Jump distance or memory offset.
    pub off: i16,
    /// Immediate operand.
    pub imm: i32,
}

/// `int bpf(int cmd, union bpf_attr *attr, unsigned int size)`, bpf(2).
///
/// # Safety
/// `attr` must be the member of the union that belongs to `cmd`, and the addresses in it must be good for what `cmd`
/// does with them.
unsafe fn bpf<T>(cmd: libc::c_long, attr: &mut T) -> Result<libc::c_long, rustix::io::Errno> {
    // SAFETY: attr is a live exclusive borrow of exactly size bytes; the rest is the caller's obligation.
    let ret = unsafe { libc::syscall(libc::SYS_bpf, cmd, std::ptr::from_mut(attr), size_of::<T>()) };
    if ret < 0 { Err(last_errno()) } else { Ok(ret) }
}

fn last_errno() -> rustix::io::Errno {
    rustix::io::Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(rustix::io::Errno::IO)
}

/// Loads a program of type `BPF_PROG_TYPE_CGROUP_DEVICE`; `BPF_PROG_LOAD` of bpf(2). The fd is close-on-exec.
pub(crate) fn bpf_load_cgroup_device(program: &[BpfInsn]) -> Result<OwnedFd, rustix::io::Errno> {
    #[repr(C)]
    struct Load {
        prog_type: u32,
        insn_cnt: u32,
        insns: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log_buf: u64,
        kern_version: u32,
        prog_flags: u32,
        prog_name: [u8; 16],
        prog_ifindex: u32,
        expected_attach_type: u32,
    }
    let license = c"Apache-2.0";
    let mut attr = Load {
        prog_type: 15, // BPF_PROG_TYPE_CGROUP_DEVICE
        insn_cnt: u32::try_from(program.len()).map_err(|_| rustix::io::Errno::TOOBIG)?,
        insns: program.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
        kern_version: 0,
        prog_flags: 0,
        prog_name: PROGRAM,
        prog_ifindex: 0,
        expected_attach_type: 6, // BPF_CGROUP_DEVICE
    };
    // SAFETY: Load is the PROG_LOAD member; insns points to insn_cnt instructions and license to a C string, both alive
    // and only read; no log is asked for.
    let fd = unsafe { bpf(5, &mut attr) }?;
    // SAFETY: a success of PROG_LOAD is a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

#[repr(C)]
struct BpfAttach {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
    replace_bpf_fd: u32,
}

/// Attaches a device program to a group beside those that are there (`BPF_F_ALLOW_MULTI`), or in the place of one of
/// them; `BPF_PROG_ATTACH` of bpf(2).
pub(crate) fn bpf_attach_cgroup_device(
    group: BorrowedFd<'_>,
    program: BorrowedFd<'_>,
    replace: Option<BorrowedFd<'_>>,
) -> Result<(), rustix::io::Errno> {
    let mut attr = BpfAttach {
        target_fd: group.as_raw_fd() as u32,
        attach_bpf_fd: program.as_raw_fd() as u32,
        attach_type: 6,                                      // BPF_CGROUP_DEVICE
        attach_flags: if replace.is_some() { 6 } else { 2 }, // BPF_F_ALLOW_MULTI | BPF_F_REPLACE
        replace_bpf_fd: replace.map_or(0, |fd| fd.as_raw_fd() as u32),
    };
    // SAFETY: BpfAttach is the PROG_ATTACH member and holds no address.
    unsafe { bpf(8, &mut attr) }.map(drop)
}

/// Detaches a device program from a group; `BPF_PROG_DETACH` of bpf(2).
pub(crate) fn bpf_detach_cgroup_device(
    group: BorrowedFd<'_>,
    program: BorrowedFd<'_>,
) -> Result<(), rustix::io::Errno> {
    let mut attr = BpfAttach {
        target_fd: group.as_raw_fd() as u32,
        attach_bpf_fd: program.as_raw_fd() as u32,
        attach_type: 6, // BPF_CGROUP_DEVICE
        attach_flags: 0,
        replace_bpf_fd: 0,
    };
    // SAFETY: BpfAttach is the PROG_DETACH member and holds no address.
    unsafe { bpf(9, &mut attr) }.map(drop)
}

/// By this name a program is known to be ours: others (systemd's `sd_devices`) may be attached to the same group.
const PROGRAM: [u8; 16] = *b"mini_devices\0\0\0\0";

/// True if [`bpf_load_cgroup_device`] has made the program; `BPF_OBJ_GET_INFO_BY_FD` of bpf(2).
fn is_ours(program: BorrowedFd<'_>) -> Result<bool, rustix::io::Errno> {
    /// `struct bpf_prog_info` of `<linux/bpf.h>`, as far as the name; the kernel fills as much as there is room for.
    #[repr(C)]
    struct Info {
        _before: [u64; 8],
        name: [u8; 16],
    }
    #[repr(C)]
    struct Ask {
        bpf_fd: u32,
        info_len: u32,
        info: u64,
    }
    let mut info = Info { _before: [0; 8], name: [0; 16] };
    let mut ask = Ask {
        bpf_fd: program.as_raw_fd() as u32,
        info_len: size_of::<Info>() as u32,
        info: std::ptr::from_mut(&mut info) as u64,
    };
    // SAFETY: Ask is the OBJ_GET_INFO_BY_FD member; info points to info_len bytes that are exclusively ours, and the zeroes
    // in them ask for no further buffers to be filled.
    unsafe { bpf(15, &mut ask) }?;
    Ok(info.name == PROGRAM)
}

/// Our device programs among those attached to this very group, oldest first; `BPF_PROG_QUERY` and
/// `BPF_PROG_GET_FD_BY_ID` of bpf(2). The kernel has at most 64 in one group. One that goes away meanwhile is left out.
pub(crate) fn bpf_cgroup_device_programs(group: BorrowedFd<'_>) -> Result<Vec<OwnedFd>, rustix::io::Errno> {
    #[repr(C)]
    struct Query {
        target_fd: u32,
        attach_type: u32,
        query_flags: u32,
        attach_flags: u32,
        prog_ids: u64,
        prog_cnt: u32,
        _reserved: u32,
    }
    #[repr(C)]
    struct Get {
        prog_id: u32,
        next_id: u32,
        open_flags: u32,
    }
    let mut ids = [0u32; 64];
    let mut query = Query {
        target_fd: group.as_raw_fd() as u32,
        attach_type: 6, // BPF_CGROUP_DEVICE
        query_flags: 0,
        attach_flags: 0,
        prog_ids: ids.as_mut_ptr() as u64,
        prog_cnt: 64,
        _reserved: 0,
    };
    // SAFETY: Query is the PROG_QUERY member; prog_ids points to prog_cnt numbers that are exclusively ours.
    unsafe { bpf(16, &mut query) }?;
    let mut programs = Vec::new();
    for &prog_id in ids.iter().take(query.prog_cnt as usize) {
        let mut get = Get { prog_id, next_id: 0, open_flags: 0 };
        // SAFETY: Get is the PROG_GET_FD_BY_ID member and holds no address.
        match unsafe { bpf(13, &mut get) } {
            Ok(fd) => {
                // SAFETY: a success is a new descriptor that nobody else owns.
                let program = unsafe { OwnedFd::from_raw_fd(fd as i32) };
                if is_ours(std::os::fd::AsFd::as_fd(&program))? {
                    programs.push(program);
                }
            }
            Err(rustix::io::Errno::NOENT) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(programs)
}
