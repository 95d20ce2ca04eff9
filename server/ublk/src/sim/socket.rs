// SPDX-License-Identifier: GPL-2.0

//! Sockets of a target without a kernel that has ublk. Whoever waits is asked again and
//! again.

use crate::{Errno, Socket, SocketId};
use std::{
    cell::RefCell,
    fs::File,
    future::poll_fn,
    io::{self, Read, Write},
    os::{fd::BorrowedFd, unix::net::UnixStream},
    task::Poll,
};

struct One {
    generation: u64,
    file: Option<File>,
}

/// The sockets of a queue.
pub(crate) struct SimSockets(RefCell<Vec<One>>);

impl SimSockets {
    pub(crate) fn new(count: u32) -> SimSockets {
        SimSockets(RefCell::new((0..count).map(|_| One { generation: 0, file: None }).collect()))
    }

    pub(crate) fn attach(&self, id: SocketId, fd: BorrowedFd<'_>) -> io::Result<Socket> {
        // Of any socket, whatever its family is.
        let socket = UnixStream::from(fd.try_clone_to_owned()?);
        socket.set_nonblocking(true)?;
        let one = &mut self.0.borrow_mut()[id.0 as usize];
        one.generation += 1;
        one.file = Some(File::from(std::os::fd::OwnedFd::from(socket)));
        Ok(Socket { id, generation: one.generation })
    }

    /// Do a part with the socket, again and again until there is nothing left.
    async fn all(
        &self,
        socket: Socket,
        len: usize,
        mut part: impl FnMut(&mut File, usize) -> io::Result<usize>,
    ) -> Result<(), Errno> {
        let mut done = 0;
        while done < len {
            done += poll_fn(|_| {
                let one = &mut self.0.borrow_mut()[socket.id.0 as usize];
                let Some(file) = one.file.as_mut().filter(|_| one.generation == socket.generation) else {
                    return Poll::Ready(Err(Errno::ECONNRESET));
                };
                match part(file, done) {
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
                    Ok(0) => Poll::Ready(Err(Errno::ECONNRESET)),
                    result => Poll::Ready(result.map_err(Errno::from)),
                }
            })
            .await?;
        }
        Ok(())
    }

    pub(crate) async fn send(&self, socket: Socket, bytes: &[u8]) -> Result<(), Errno> {
        self.all(socket, bytes.len(), |file, done| file.write(&bytes[done..])).await
    }

    pub(crate) async fn receive(&self, socket: Socket, bytes: &mut [u8]) -> Result<(), Errno> {
        self.all(socket, bytes.len(), |file, done| file.read(&mut bytes[done..])).await
    }
}
