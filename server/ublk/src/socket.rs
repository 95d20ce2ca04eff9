// SPDX-License-Identifier: GPL-2.0

//! Sockets of a queue, which come and go while the device is there.

use crate::{Attach, Errno, Io, SocketId, queue::Queue};
use std::{
    cell::{Cell, RefCell},
    io,
    os::fd::BorrowedFd,
};
use ublk_ring::{Direction, FileIndex, Kind, Memory, Secondary};

/// A socket that was attached. It is good until another one takes its place: from then
/// on, what is done with it is `ECONNRESET`. So nothing of one conversation gets into the
/// next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Socket {
    pub(crate) id: SocketId,
    pub(crate) generation: u64,
}

/// What is known of a socket: how often it was attached, and how many operations are under
/// way.
#[derive(Default)]
pub(crate) struct Usage {
    generation: Cell<u64>,
    users: Cell<u32>,
}

/// An operation that is under way.
pub(crate) struct User<'s> {
    usage: &'s Usage,
    /// The kernel has a request of it.
    waits: Cell<bool>,
}

impl Usage {
    /// Not while the last one is used: the kernel looks a file up when a request begins,
    /// which may be after it was submitted.
    pub(crate) fn attach(&self, id: SocketId) -> Result<Socket, Attach> {
        if self.users.get() > 0 {
            return Err(Attach::InUse);
        }
        self.generation.set(self.generation.get() + 1);
        Ok(Socket { id, generation: self.generation.get() })
    }

    /// It is over. Was it there? `EBUSY` while it is used.
    pub(crate) fn detach(&self, socket: Socket) -> Result<bool, Errno> {
        if self.generation.get() != socket.generation {
            return Ok(false);
        }
        if self.users.get() > 0 {
            return Err(Errno::EBUSY);
        }
        self.generation.set(self.generation.get() + 1);
        Ok(true)
    }

    /// Begin something, if it is still this one.
    pub(crate) fn begin(&self, socket: Socket) -> Result<User<'_>, Errno> {
        if self.generation.get() != socket.generation {
            return Err(Errno::ECONNRESET);
        }
        self.users.set(self.users.get() + 1);
        Ok(User { usage: self, waits: Cell::new(false) })
    }
}

impl User<'_> {
    /// Wait for a part of it.
    async fn wait<R>(&self, part: impl Future<Output = R>) -> R {
        self.waits.set(true);
        let result = part.await;
        self.waits.set(false);
        result
    }
}

impl Drop for User<'_> {
    fn drop(&mut self) {
        if self.waits.get() {
            // Who waited has gone away, but the kernel goes on: nobody knows where in the
            // conversation it is, and another socket would get into that.
            self.usage.generation.set(self.usage.generation.get() + 1);
        } else {
            self.usage.users.set(self.usage.users.get() - 1);
        }
    }
}

/// Which sockets are attached.
pub(crate) struct Sockets {
    /// Where they begin in the ring's table.
    first: u32,
    usage: Vec<Usage>,
    /// Memory for what is no data of a request.
    spare: RefCell<Vec<Memory>>,
}

impl Sockets {
    /// With memory for one that sends and one that receives on each: it is not asked for when
    /// it is short, in the middle of a conversation.
    pub(crate) fn new(files: usize, sockets: u32) -> io::Result<Sockets> {
        let first = u32::try_from(files).expect("so many files can not be open");
        let usage = (0..sockets).map(|_| Usage::default()).collect();
        let spare: io::Result<_> = (0..2 * sockets).map(|_| Memory::new(Io::MOST_SENT)).collect();
        Ok(Sockets { first, usage, spare: RefCell::new(spare?) })
    }

    pub(crate) fn count(&self) -> usize {
        self.usage.len()
    }

    fn usage(&self, id: SocketId) -> &Usage {
        &self.usage[id.0 as usize]
    }

    /// Its place in the table.
    fn index(&self, id: SocketId) -> FileIndex {
        FileIndex(self.first + id.0)
    }
}

impl Queue {
    pub(crate) fn attach(&self, id: SocketId, fd: BorrowedFd<'_>) -> Result<Socket, Attach> {
        // Also if this fails, the last one is over.
        let socket = self.sockets.usage(id).attach(id)?;
        self.ring().put(self.sockets.index(id), Some(fd)).map_err(Attach::Failed)?;
        Ok(socket)
    }

    pub(crate) fn detach(&self, socket: Socket) -> Result<(), Errno> {
        if self.sockets.usage(socket.id).detach(socket)? {
            self.ring().put(self.sockets.index(socket.id), None)?;
        }
        Ok(())
    }

    fn piece(&self, id: SocketId, at: u32, len: u32, more: bool) -> Secondary {
        let file = self.sockets.index(id);
        Secondary { file, offset: 0, at, len, sync: false, kind: Kind::Socket { more } }
    }

    /// All of the data of a request.
    pub(crate) async fn stream(
        &self,
        tag: u16,
        direction: Direction,
        socket: Socket,
        len: u32,
    ) -> Result<(), Errno> {
        let user = self.sockets.usage(socket.id).begin(socket)?;
        let mut at = 0;
        while at < len {
            let piece = self.piece(socket.id, at, len - at, false);
            at += some(user.wait(self.lend_one(tag, direction, piece)).await, len - at)?;
        }
        Ok(())
    }

    pub(crate) async fn send(&self, socket: Socket, bytes: &[u8], more: bool) -> Result<(), Errno> {
        let mut memory = self.memory(bytes.len())?;
        memory[..bytes.len()].copy_from_slice(bytes);
        let (result, memory) = self.all(Direction::Drain, memory, socket, bytes.len(), more).await;
        self.sockets.spare.borrow_mut().push(memory);
        result
    }

    pub(crate) async fn receive(&self, socket: Socket, bytes: &mut [u8]) -> Result<(), Errno> {
        let memory = self.memory(bytes.len())?;
        let (result, memory) = self.all(Direction::Fill, memory, socket, bytes.len(), false).await;
        bytes.copy_from_slice(&memory[..bytes.len()]);
        self.sockets.spare.borrow_mut().push(memory);
        result
    }

    fn memory(&self, len: usize) -> Result<Memory, Errno> {
        if len > Io::MOST_SENT {
            return Err(Errno::EINVAL);
        }
        let spare = self.sockets.spare.borrow_mut().pop();
        Ok(spare.map_or_else(|| Memory::new(Io::MOST_SENT), Ok)?)
    }

    async fn all(
        &self,
        direction: Direction,
        mut memory: Memory,
        socket: Socket,
        len: usize,
        more: bool,
    ) -> (Result<(), Errno>, Memory) {
        let len = u32::try_from(len).expect("at most MOST_SENT");
        let user = match self.sockets.usage(socket.id).begin(socket) {
            Ok(user) => user,
            Err(errno) => return (Err(errno), memory),
        };
        let mut at = 0;
        while at < len {
            let piece = self.piece(socket.id, at, len - at, more);
            let result;
            (result, memory) = user.wait(self.ring().transfer(direction, memory, piece)).await;
            match some(result, len - at) {
                Ok(moved) => at += moved,
                Err(errno) => return (Err(errno), memory),
            }
        }
        (Ok(()), memory)
    }
}

/// How much was moved, which is something, and not more than was asked for.
fn some(result: i32, len: u32) -> Result<u32, Errno> {
    match (Errno::of(result), result.cast_unsigned()) {
        (Some(errno), _) => Err(errno),
        (None, 0) => Err(Errno::ECONNRESET),
        (None, moved) if moved <= len => Ok(moved),
        (None, _) => Err(Errno::EIO),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        future::pending,
        pin::pin,
        task::{Context, Waker},
    };

    #[test]
    fn memory_is_there_before() {
        let sockets = Sockets::new(1, 2).unwrap();
        assert_eq!(sockets.spare.borrow().len(), 4);
        assert!(sockets.spare.borrow().iter().all(|memory| memory.len() >= Io::MOST_SENT));
    }

    #[test]
    fn the_end_is_an_error() {
        assert_eq!(
            [0, -5, 5, 8, 9].map(|result| some(result, 8)),
            [Err(Errno::ECONNRESET), Err(Errno::EIO), Ok(5), Ok(8), Err(Errno::EIO)]
        );
    }

    #[test]
    fn an_old_one_is_over_and_one_in_use_stays() {
        let usage = Usage::default();
        let first = usage.attach(SocketId(1)).unwrap();
        let user = usage.begin(first).unwrap();
        assert!(matches!(usage.attach(SocketId(1)), Err(Attach::InUse)));
        assert_eq!(usage.detach(first), Err(Errno::EBUSY));
        assert!(usage.begin(first).is_ok(), "nothing has changed");
        drop(user);
        let second = usage.attach(SocketId(1)).unwrap();
        assert_eq!(usage.begin(first).map(drop), Err(Errno::ECONNRESET));
        assert!(usage.begin(second).is_ok());
        assert_eq!((usage.detach(first), usage.detach(second)), (Ok(false), Ok(true)));
        assert_eq!(usage.begin(second).map(drop), Err(Errno::ECONNRESET));
    }

    #[test]
    fn what_is_given_up_in_the_middle_is_over() {
        let usage = Usage::default();
        let socket = usage.attach(SocketId(1)).unwrap();
        let user = usage.begin(socket).unwrap();
        let mut context = Context::from_waker(Waker::noop());
        assert!(pin!(user.wait(async {})).poll(&mut context).is_ready());
        drop(user);
        assert!(usage.begin(socket).is_ok(), "all of it was done");
        let user = usage.begin(socket).unwrap();
        assert!(pin!(user.wait(pending::<()>())).poll(&mut context).is_pending());
        drop(user);
        assert_eq!(usage.begin(socket).map(drop), Err(Errno::ECONNRESET));
        assert!(matches!(usage.attach(SocketId(1)), Err(Attach::InUse)), "the kernel goes on");
    }
}
