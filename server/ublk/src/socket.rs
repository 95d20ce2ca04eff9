// SPDX-License-Identifier: GPL-2.0

//! Sockets of a queue, which come and go while the device is there.

use crate::{Errno, Io, SocketId, queue::Queue};
use std::{
    cell::{Cell, RefCell},
    io,
    os::fd::BorrowedFd,
};
use ublk_ring::{Direction, FileIndex, Kind, Secondary};
use ublk_sys::Buffer;

/// A socket that was attached. It is good until another one takes its place: from then
/// on, what is done with it is `ECONNRESET`. So nothing of one conversation gets into the
/// next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Socket {
    pub(crate) id: SocketId,
    pub(crate) generation: u64,
}

/// Which sockets are attached.
pub(crate) struct Sockets {
    /// Where they begin in the ring's table.
    first: u32,
    generations: Vec<Cell<u64>>,
    /// Memory for what is no data of a request.
    spare: RefCell<Vec<Buffer>>,
}

impl Sockets {
    pub(crate) fn new(files: usize, sockets: u32) -> Sockets {
        let first = u32::try_from(files).expect("so many files can not be open");
        let generations = (0..sockets).map(|_| Cell::new(0)).collect();
        Sockets { first, generations, spare: RefCell::default() }
    }

    pub(crate) fn count(&self) -> usize {
        self.generations.len()
    }

    fn generation(&self, id: SocketId) -> &Cell<u64> {
        &self.generations[id.0 as usize]
    }

    /// Its place in the table, if it still has that.
    fn index(&self, socket: Socket) -> Result<FileIndex, Errno> {
        if self.generation(socket.id).get() != socket.generation {
            return Err(Errno::ECONNRESET);
        }
        Ok(FileIndex(self.first + socket.id.0))
    }
}

impl Queue {
    pub(crate) fn attach(&self, id: SocketId, fd: BorrowedFd<'_>) -> io::Result<Socket> {
        let now = self.sockets.generation(id);
        // Also if this fails, the last one is over.
        now.set(now.get() + 1);
        let socket = Socket { id, generation: now.get() };
        self.ring().put(self.sockets.index(socket)?, fd)?;
        Ok(socket)
    }

    /// A part, and how much of it was moved.
    fn piece(&self, socket: Socket, at: u32, len: u32, more: bool) -> Result<Secondary, Errno> {
        let file = self.sockets.index(socket)?;
        Ok(Secondary { file, offset: 0, at, len, sync: false, kind: Kind::Socket { more } })
    }

    /// All of the data of a request.
    pub(crate) async fn stream(
        &self,
        tag: u16,
        direction: Direction,
        socket: Socket,
        len: u32,
    ) -> Result<(), Errno> {
        let mut at = 0;
        while at < len {
            let piece = self.piece(socket, at, len - at, false)?;
            at += some(self.lend_once(tag, direction, &[piece]).await[0], len - at)?;
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

    fn memory(&self, len: usize) -> Result<Buffer, Errno> {
        if len > Io::MOST_SENT {
            return Err(Errno::EINVAL);
        }
        let spare = self.sockets.spare.borrow_mut().pop();
        Ok(spare.map_or_else(|| Buffer::new(Io::MOST_SENT), Ok)?)
    }

    async fn all(
        &self,
        direction: Direction,
        mut memory: Buffer,
        socket: Socket,
        len: usize,
        more: bool,
    ) -> (Result<(), Errno>, Buffer) {
        let len = u32::try_from(len).expect("at most MOST_SENT");
        let mut at = 0;
        while at < len {
            let piece = match self.piece(socket, at, len - at, more) {
                Ok(piece) => piece,
                Err(errno) => return (Err(errno), memory),
            };
            let results;
            (results, memory) = self.ring().transfer(direction, memory, &[piece]).await;
            match some(results[0], len - at) {
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

    #[test]
    fn the_end_is_an_error() {
        assert_eq!(
            [0, -5, 5, 8, 9].map(|result| some(result, 8)),
            [Err(Errno::ECONNRESET), Err(Errno::EIO), Ok(5), Ok(8), Err(Errno::EIO)]
        );
    }

    #[test]
    fn an_old_one_is_over() {
        let sockets = Sockets::new(3, 2);
        sockets.generation(SocketId(1)).set(7);
        let socket = |generation| Socket { id: SocketId(1), generation };
        assert_eq!(sockets.index(socket(7)), Ok(FileIndex(4)));
        assert_eq!(sockets.index(socket(6)), Err(Errno::ECONNRESET));
    }
}
