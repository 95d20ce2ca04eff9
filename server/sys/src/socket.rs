// SPDX-License-Identifier: GPL-2.0

//! Sockets.

use std::{
    io,
    mem::offset_of,
    net::TcpStream,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::{ffi::OsStrExt, net::UnixStream},
    },
    path::Path,
    time::Duration,
};

/// Connect to a UNIX socket without waiting: `EAGAIN` if its server does not keep up
/// with those that have come before.
pub fn connect_unix(path: &Path) -> io::Result<UnixStream> {
    let mut address = libc::sockaddr_un {
        sun_family: libc::AF_UNIX.cast_unsigned().try_into().unwrap_or(1),
        sun_path: [0; 108],
    };
    let bytes = path.as_os_str().as_bytes();
    // With a zero at its end.
    if bytes.is_empty() || bytes.len() >= address.sun_path.len() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the path of a socket has 1 to 107 bytes"));
    }
    for (to, from) in address.sun_path.iter_mut().zip(bytes) {
        *to = from.cast_signed();
    }
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: no memory is involved.
    let fd = unsafe { libc::socket(libc::AF_UNIX, kind, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: this descriptor is new, and nobody else has it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let len = offset_of!(libc::sockaddr_un, sun_path) + bytes.len() + 1;
    let len = libc::socklen_t::try_from(len).map_err(io::Error::other)?;
    // SAFETY: the kernel reads `len` bytes of the address, which has more.
    if unsafe { libc::connect(fd.as_raw_fd(), (&raw const address).cast(), len) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let stream = UnixStream::from(fd);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// A connection whose other end says nothing, not even that it is there, is over after
/// about this time.
pub fn notice_silence(stream: &TcpStream, after: Duration) -> io::Result<()> {
    let half = i32::try_from(after.as_secs() / 2).map_err(io::Error::other)?.max(1);
    let probe = (half / 3).max(1);
    let all = i32::try_from(after.as_millis()).map_err(io::Error::other)?;
    let set = |level, name, value: i32| {
        let len = libc::socklen_t::try_from(size_of::<i32>()).map_err(io::Error::other)?;
        // SAFETY: the kernel reads an integer.
        let result =
            unsafe { libc::setsockopt(stream.as_raw_fd(), level, name, (&raw const value).cast(), len) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    };
    set(libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1)?;
    set(libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, half)?;
    set(libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, probe)?;
    set(libc::IPPROTO_TCP, libc::TCP_KEEPCNT, 3)?;
    set(libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::{Read, Write},
        net::TcpListener,
        os::unix::net::UnixListener,
    };

    #[test]
    fn unix() {
        let path = std::env::temp_dir().join(format!("fublk-sys-socket-{}", std::process::id()));
        assert_eq!(connect_unix(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
        let listener = UnixListener::bind(&path).unwrap();
        let mut stream = connect_unix(&path).unwrap();
        let (mut other, _) = listener.accept().unwrap();
        other.write_all(b"x").unwrap();
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        assert_eq!(byte, *b"x");
        std::fs::remove_file(&path).unwrap();
        for wrong in [String::new(), "x".repeat(108)] {
            assert_eq!(connect_unix(Path::new(&wrong)).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
    }

    #[test]
    fn silence() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        notice_silence(&stream, Duration::from_secs(60)).unwrap();
    }
}
