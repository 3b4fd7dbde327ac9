//! Descriptors for the caller: the pty's master or a pidfd, sent over a unix socket with SCM_RIGHTS.
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::io::IoSlice;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use runtime::{Error, Kind, Result};
use rustix::fs::{Mode, OFlags};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

/// Sends one descriptor with one message, as the receivers of runc's sockets expect it, and hangs up.
///
/// # Errors
/// If nobody listens at `path` or the message is not taken.
pub fn send(path: &Path, message: &str, fd: BorrowedFd) -> Result<()> {
    let socket = connect(path)?;
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [fd];
    // The space was measured for one descriptor.
    let _ = control.push(SendAncillaryMessage::ScmRights(&fds));
    let data = [IoSlice::new(message.as_bytes())];
    rustix::net::sendmsg(&socket, &data, &mut control, SendFlags::NOSIGNAL)
        .map_err(|e| Error::sys("sendmsg", path.display().to_string(), e))?;
    Ok(())
}

/// A socket's path may be longer than the 107 bytes of an address: the directory is opened and the name is reached
/// through /proc. (Changing into the directory would do it for the whole process.)
fn connect(path: &Path) -> Result<OwnedFd> {
    let shown = || path.display().to_string();
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .map_err(|e| Error::sys("socket", shown(), e))?;
    let short = SocketAddrUnix::new(path);
    let (address, _dir) = match short {
        Ok(address) => (address, None),
        Err(_) => {
            let name = path.file_name().unwrap_or(OsStr::new(""));
            let parent = path.parent().unwrap_or(Path::new("/"));
            let dir = rustix::fs::open(parent, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
                .map_err(|e| Error::sys("open", parent.display().to_string(), e))?;
            let mut through = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
            through.extend_from_slice(name.as_bytes());
            let address = SocketAddrUnix::new(through.as_slice()).map_err(|e| Error::sys("connect", shown(), e))?;
            (address, Some(dir))
        }
    };
    rustix::net::connect(&socket, &address).map_err(|e| Error::sys("connect", shown(), e))?;
    Ok(socket)
}

/// The rules of a terminal: who takes the master decides whether there may be one.
///
/// # Errors
/// `Invalid`, in runc's words.
pub fn check(terminal: bool, detached: bool, socket: Option<&Path>) -> Result<()> {
    let refuse = |why| Err(Error::new(Kind::Invalid, "", "", why));
    match (detached && terminal, socket) {
        (true, None) => refuse("cannot allocate tty if runc will detach without setting console socket"),
        (false, Some(_)) => refuse("cannot use console socket if runc will not detach or allocate tty"),
        _ => Ok(()),
    }
}

/// Writes a pid file: complete or not at all, and never through a link that is there already.
///
/// # Errors
/// Of open, write and rename.
pub fn pid_file(path: &Path, pid: u32) -> Result<()> {
    let name = path.file_name().ok_or_else(|| {
        Error::new(Kind::Invalid, "pid-file", path.display().to_string(), "is not the name of a file")
    })?;
    let mut hidden = OsStr::new(".").to_owned();
    hidden.push(name);
    let temporary = path.with_file_name(hidden);
    let write = || {
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).open(&temporary)?;
        std::io::Write::write_all(&mut file, pid.to_string().as_bytes())?;
        std::fs::rename(&temporary, path)
    };
    write().map_err(|e| {
        // Not ours to remove if we did not make it.
        if e.kind() != std::io::ErrorKind::AlreadyExists {
            let _ = std::fs::remove_file(&temporary);
        }
        Error::io("pid-file", path.display().to_string(), &e)
    })
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn one_message_with_one_descriptor_also_to_a_long_path() {
        let dir = tempfile::tempdir().unwrap();
        let mut long = dir.path().to_owned();
        for _ in 0..10 {
            long.push("0123456789abcdef");
        }
        std::fs::create_dir_all(&long).unwrap();
        std::os::unix::fs::symlink(&long, dir.path().join("short")).unwrap();
        let listener = UnixListener::bind(dir.path().join("short/s")).unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        send(&long.join("s"), "/dev/pts/0", file.as_fd()).unwrap();
        let (peer, _) = listener.accept().unwrap();
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut control = rustix::net::RecvAncillaryBuffer::new(&mut space);
        let mut data = [0; 64];
        let got = rustix::net::recvmsg(
            &peer,
            &mut [std::io::IoSliceMut::new(&mut data)],
            &mut control,
            rustix::net::RecvFlags::CMSG_CLOEXEC,
        )
        .unwrap();
        assert_eq!(&data[..got.bytes], b"/dev/pts/0");
        let fds: usize = control
            .drain()
            .map(|m| match m {
                rustix::net::RecvAncillaryMessage::ScmRights(fds) => fds.count(),
                _ => 0,
            })
            .sum();
        assert_eq!(fds, 1);
        assert!(send(&dir.path().join("nobody"), "x", file.as_fd()).is_err());
    }

    #[test]
    fn pid_files_appear_whole_and_replace() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        for pid in [1, 4_194_304] {
            pid_file(&path, pid).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), pid.to_string());
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(pid_file(&dir.path().join("no/such/dir"), 1).is_err());
    }

    #[test]
    fn who_takes_the_terminal() {
        let socket = Path::new("/s");
        for (terminal, detached, socket, fine) in [
            (false, false, None, true),
            (false, true, None, true),
            (true, false, None, true),
            (true, true, Some(socket), true),
            (true, true, None, false),
            (true, false, Some(socket), false),
            (false, true, Some(socket), false),
        ] {
            assert_eq!(check(terminal, detached, socket).is_ok(), fine, "{terminal} {detached} {socket:?}");
        }
    }
}
