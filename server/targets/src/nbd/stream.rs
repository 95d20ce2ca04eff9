// SPDX-License-Identifier: GPL-2.0

//! Connections to a server, which are not waited for longer than until a given time.

use super::uri::Server;
use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream, ToSocketAddrs},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    path::PathBuf,
    time::{Duration, Instant},
};
use ublk_server::{abort, connect_unix, drop_unsent, notice_silence};

/// A server that says nothing for so long, not even that it is there, is gone. One that does
/// not read, but acknowledges, is waited for: it may still do what it has.
const SILENCE: Duration = Duration::from_secs(60);

/// Where a server listens, as the kernel wants it. A name is looked up only once: the device
/// may be what a look-up waits for.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    Tcp(Vec<SocketAddr>),
    Unix(PathBuf),
}

impl Place {
    pub(crate) fn find(server: &Server) -> io::Result<Place> {
        Ok(match server {
            Server::Tcp(host, port) => Place::Tcp((host.as_str(), *port).to_socket_addrs()?.collect()),
            Server::Unix(path) => Place::Unix(path.clone()),
        })
    }
}

/// A connection.
#[derive(Debug)]
pub(crate) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// `ETIMEDOUT`, in words.
fn too_late() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the server does not answer in time")
}

fn left(end: Instant) -> io::Result<Duration> {
    Some(end.saturating_duration_since(Instant::now())).filter(|left| !left.is_zero()).ok_or_else(too_late)
}

/// The first address that answers. One that is dead does not take the time of the others.
fn first_of<A, S>(
    addresses: &[A],
    end: Instant,
    connect: impl Fn(&A, Duration) -> io::Result<S>,
) -> io::Result<S> {
    let mut result = Err(io::Error::new(io::ErrorKind::NotFound, "the server has no address"));
    for (address, remain) in addresses.iter().zip((1..=addresses.len()).rev()) {
        let share = left(end)? / u32::try_from(remain).unwrap_or(u32::MAX);
        result = connect(address, share.max(Duration::from_millis(1)));
        if result.is_ok() {
            break;
        }
    }
    result
}

impl Stream {
    pub(crate) fn connect(place: &Place, end: Instant) -> io::Result<Stream> {
        let addresses = match place {
            Place::Unix(path) => return Ok(Stream::Unix(connect_unix(path)?)),
            Place::Tcp(addresses) => addresses,
        };
        let stream = first_of(addresses, end, TcpStream::connect_timeout)?;
        // Heads are small, and replies are waited for.
        stream.set_nodelay(true)?;
        notice_silence(&stream, SILENCE)?;
        // Writes that are sent again to another server must not arrive at this one later, not
        // even when we are killed.
        drop_unsent(&stream, true)?;
        Ok(Stream::Tcp(stream))
    }

    /// The same one, once more.
    pub(crate) fn try_clone(&self) -> io::Result<Stream> {
        Ok(match self {
            Stream::Tcp(stream) => Stream::Tcp(stream.try_clone()?),
            Stream::Unix(stream) => Stream::Unix(stream.try_clone()?),
        })
    }

    /// Nothing is sent or received any more, not even what has waited to be sent. Who waits for
    /// it is told.
    pub(crate) fn abort(&self) {
        // It may be over already.
        let _ = match self {
            Stream::Tcp(stream) => abort(stream).or_else(|_| stream.shutdown(Shutdown::Both)),
            Stream::Unix(stream) => stream.shutdown(Shutdown::Both),
        };
    }

    /// What was sent arrives, though nobody waits for it.
    pub(crate) fn part(&self) {
        if let Stream::Tcp(stream) = self {
            let _ = drop_unsent(stream, false);
        }
    }

    fn set_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => {
                stream.set_read_timeout(timeout)?;
                stream.set_write_timeout(timeout)
            }
            Stream::Unix(stream) => {
                stream.set_read_timeout(timeout)?;
                stream.set_write_timeout(timeout)
            }
        }
    }

    /// Talk to the server, but only until `end`.
    pub(crate) fn until<R>(
        &mut self,
        end: Instant,
        talk: impl FnOnce(&mut Until<'_>) -> io::Result<R>,
    ) -> io::Result<R> {
        let result = talk(&mut Until { stream: self, end });
        self.set_timeout(None)?;
        result
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Stream::Tcp(stream) => stream.as_fd(),
            Stream::Unix(stream) => stream.as_fd(),
        }
    }
}

/// A connection, until a time.
pub(crate) struct Until<'s> {
    stream: &'s mut Stream,
    end: Instant,
}

impl Until<'_> {
    fn part<R>(&mut self, mut part: impl FnMut(&mut Stream) -> io::Result<R>) -> io::Result<R> {
        self.stream.set_timeout(Some(left(self.end)?))?;
        part(self.stream).map_err(|e| if e.kind() == io::ErrorKind::WouldBlock { too_late() } else { e })
    }
}

impl Read for Until<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.part(|stream| match stream {
            Stream::Tcp(stream) => stream.read(bytes),
            Stream::Unix(stream) => stream.read(bytes),
        })
    }
}

impl Write for Until<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.part(|stream| match stream {
            Stream::Tcp(stream) => stream.write(bytes),
            Stream::Unix(stream) => stream.write(bytes),
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{net::TcpListener, thread};

    #[test]
    fn a_drop_at_a_time_is_too_slow() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let place = Place::Tcp(vec![listener.local_addr().unwrap()]);
        let mut stream = Stream::connect(&place, Instant::now() + Duration::from_secs(60)).unwrap();
        let (mut other, _) = listener.accept().unwrap();
        let slow = thread::spawn(move || {
            while other.write_all(b"x").is_ok() {
                thread::sleep(Duration::from_millis(20));
            }
        });
        let end = Instant::now() + Duration::from_millis(300);
        let result = stream.until(end, |peer| peer.read_exact(&mut [0; 1000]));
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(Instant::now() >= end);
        stream.abort();
        assert!(stream.until(Instant::now(), |peer| peer.read(&mut [0])).is_err());
        drop(stream);
        slow.join().unwrap();
    }
    #[test]
    fn a_dead_address_leaves_time_for_the_others() {
        // The first two do not answer.
        let connect = |address: &u32, share| {
            if *address == 3 {
                return Ok(3);
            }
            thread::sleep(share);
            Err(too_late())
        };
        let begun = Instant::now();
        assert_eq!(first_of(&[1, 2, 3], begun + Duration::from_millis(600), connect).unwrap(), 3);
        assert!(begun.elapsed() < Duration::from_millis(600));
        let late = first_of(&[1, 2], Instant::now() + Duration::from_millis(60), connect).unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
        assert_eq!(first_of(&[], begun, connect).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn what_is_sent_again_elsewhere_does_not_arrive() {
        for ours in [true, false] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let place = Place::Tcp(vec![listener.local_addr().unwrap()]);
            let mut stream = Stream::connect(&place, Instant::now() + Duration::from_secs(60)).unwrap();
            let (mut other, _) = listener.accept().unwrap();
            let sent = stream.until(Instant::now() + Duration::from_millis(500), |peer| {
                let mut sent = 0;
                while let Ok(part) = peer.write(&[7; 1 << 16]) {
                    sent += part;
                }
                Ok(sent)
            });
            // As the ring has one, or the end of our process.
            let second = ours.then(|| stream.as_fd().try_clone_to_owned().unwrap());
            if ours {
                stream.abort();
            }
            drop(stream);
            let mut got = Vec::new();
            assert!(other.read_to_end(&mut got).is_err());
            assert!(got.len() < sent.unwrap());
            drop(second);
        }
    }
}
