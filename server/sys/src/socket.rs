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
    ptr,
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

/// From Linux 6.15 on; older libraries do not know it.
const TCP_RTO_MAX_MS: i32 = 44;

fn set<T>(stream: &TcpStream, level: i32, name: i32, value: &T) -> io::Result<()> {
    let len = libc::socklen_t::try_from(size_of::<T>()).map_err(io::Error::other)?;
    // SAFETY: the kernel reads `len` bytes, which is the size of the value.
    let result =
        unsafe { libc::setsockopt(stream.as_raw_fd(), level, name, ptr::from_ref(value).cast(), len) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A connection whose other end says nothing, not even that it is there, is over after
/// about this time, at least 6 s. One that acknowledges but does not read is waited for: its
/// window may be closed for ever.
///
/// Keepalive is for a connection on which nothing is under way. While something is, the
/// kernel counts what it has sent in vain, 15 times (`net.ipv4.tcp_retries2`), with growing
/// pauses; that is about `after` if no pause is longer than a 12th of it. Older kernels have
/// their two minutes instead, and take a quarter of an hour.
pub fn notice_silence(stream: &TcpStream, after: Duration) -> io::Result<()> {
    let half = i32::try_from(after.as_secs() / 2).map_err(io::Error::other)?.max(1);
    let probe = (half / 3).max(1);
    let pause = i32::try_from(after.as_millis() / 12).map_err(io::Error::other)?.max(1000);
    set(stream, libc::SOL_SOCKET, libc::SO_KEEPALIVE, &1)?;
    set(stream, libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, &half)?;
    set(stream, libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, &probe)?;
    set(stream, libc::IPPROTO_TCP, libc::TCP_KEEPCNT, &3)?;
    match set(stream, libc::IPPROTO_TCP, TCP_RTO_MAX_MS, &pause) {
        Err(e) if e.raw_os_error() == Some(libc::ENOPROTOOPT) => Ok(()),
        result => result,
    }
}

/// What was not sent yet when a connection is closed, also by the end of the process, is
/// dropped; or it is sent later.
pub fn drop_unsent(stream: &TcpStream, on: bool) -> io::Result<()> {
    set(stream, libc::SOL_SOCKET, libc::SO_LINGER, &libc::linger { l_onoff: on.into(), l_linger: 0 })
}

/// A connection is over at once, whoever else has it: what was not sent is dropped, the other
/// end is told with a reset, and who waits for it with an error.
pub fn abort(stream: &TcpStream) -> io::Result<()> {
    let nobody = libc::sockaddr {
        sa_family: libc::AF_UNSPEC.cast_unsigned().try_into().unwrap_or(0),
        sa_data: [0; 14],
    };
    let len = libc::socklen_t::try_from(size_of::<libc::sockaddr>()).map_err(io::Error::other)?;
    // SAFETY: the kernel reads `len` bytes, which is the size of the address.
    let result = unsafe { libc::connect(stream.as_raw_fd(), &raw const nobody, len) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::{Read, Write},
        net::TcpListener,
        os::unix::net::UnixListener,
        thread,
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

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (stream, listener.accept().unwrap().0)
    }

    /// Send until there is no room, at the other end or here.
    fn fill(stream: &mut TcpStream) -> usize {
        stream.set_nonblocking(true).unwrap();
        let mut sent = 0;
        loop {
            match stream.write(&[7; 1 << 16]) {
                Ok(part) => sent += part,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return sent,
                Err(e) => panic!("{e}"),
            }
        }
    }

    #[test]
    fn who_acknowledges_but_does_not_read_is_there() {
        let (mut stream, mut other) = pair();
        notice_silence(&stream, Duration::from_secs(2)).unwrap();
        let sent = fill(&mut stream);
        thread::sleep(Duration::from_secs(6));
        stream.set_nonblocking(false).unwrap();
        other.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        other.read_exact(&mut vec![0; sent]).unwrap();
        stream.write_all(b"x").unwrap();
        other.read_exact(&mut [0]).unwrap();
    }

    #[test]
    fn what_was_not_sent_is_dropped_at_once() {
        let (mut stream, mut other) = pair();
        let sent = fill(&mut stream);
        // As the ring has one.
        let mut second = stream.try_clone().unwrap();
        second.set_nonblocking(false).unwrap();
        let waits = thread::spawn(move || second.read(&mut [0]));
        thread::sleep(Duration::from_millis(100));
        abort(&stream).unwrap();
        assert!(!matches!(waits.join().unwrap(), Ok(1..)));
        let mut got = Vec::new();
        other.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        assert_eq!(other.read_to_end(&mut got).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        assert!(got.len() < sent, "all of it has come");
        // The same with its end, if it is asked for before.
        for (on, all) in [(true, false), (false, true)] {
            let (mut stream, mut other) = pair();
            drop_unsent(&stream, on).unwrap();
            let sent = fill(&mut stream);
            drop(stream);
            let mut got = Vec::new();
            let _ = other.read_to_end(&mut got);
            assert_eq!(got.len() == sent, all);
        }
    }
}
