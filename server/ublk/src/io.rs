// SPDX-License-Identifier: GPL-2.0

//! What a target can do with its files, and how data are moved.

use crate::{
    Errno, FileId, Socket, SocketId,
    queue::Queue,
    request::{Placed, Slot},
    sim::SimFiles,
};
use std::{fmt, io, os::fd::BorrowedFd, str::FromStr};
use ublk_ring::Direction;

/// How the data of requests get to files and back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Lent by fused commands: not copied, and nothing to register.
    Fused,
    /// The driver registers the data with our ring: not copied.
    Auto,
    /// Copied to memory of ours and back, by `pread()` and `pwrite()`.
    Copy,
}

impl Mode {
    /// All of them, the best first.
    pub const ALL: [Mode; 3] = [Mode::Fused, Mode::Auto, Mode::Copy];

    /// Is it quicker with commands about many requests? A fused command that answers its
    /// request is one command less, which is more than batches save.
    pub(crate) fn is_best_in_batches(self) -> bool {
        self != Mode::Fused
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Fused => "fused",
            Mode::Auto => "auto",
            Mode::Copy => "copy",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Mode {
    type Err = String;
    fn from_str(name: &str) -> Result<Mode, String> {
        let found = Mode::ALL.into_iter().find(|mode| mode.name() == name);
        found.ok_or_else(|| "one of fused, auto, copy".to_owned())
    }
}

/// What to do with room for data in a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Allocate {
    /// Give it back. What is read there is zero.
    Punch,
    /// Keep it. What is read there is zero.
    Zero,
}

impl Allocate {
    const KEEP_SIZE: u32 = 1;

    pub(crate) fn mode(self) -> u32 {
        Self::KEEP_SIZE
            | match self {
                Allocate::Punch => 2,
                Allocate::Zero => 16,
            }
    }
}

/// Why a socket can not be attached.
#[derive(Debug)]
pub enum Attach {
    /// Something that was begun with the one that it was before is under way: shut that down.
    InUse,
    /// The kernel does not take it.
    Failed(io::Error),
}

/// What a target can do with its files. Belongs to one thread.
pub struct Io(pub(crate) Inner);

pub(crate) enum Inner {
    Queue(Box<Queue>),
    Sim(SimFiles),
}

impl Io {
    /// How data are moved.
    pub fn mode(&self) -> Mode {
        match &self.0 {
            Inner::Queue(queue) => queue.mode(),
            Inner::Sim(_) => Mode::Fused,
        }
    }

    /// All data that were written to a file are on the medium.
    pub async fn sync(&self, file: FileId) -> Result<(), Errno> {
        match &self.0 {
            Inner::Queue(queue) => queue.sync(file).await,
            Inner::Sim(files) => files.sync(file),
        }
    }

    /// Zero a part of a file.
    pub async fn allocate(&self, file: FileId, how: Allocate, offset: u64, len: u64) -> Result<(), Errno> {
        match &self.0 {
            Inner::Queue(queue) => queue.allocate(file, how, offset, len).await,
            Inner::Sim(files) => files.allocate(file, how, offset, len),
        }
    }

    /// The number of its queue.
    pub fn queue(&self) -> u16 {
        match &self.0 {
            Inner::Queue(queue) => queue.number(),
            Inner::Sim(_) => 0,
        }
    }

    /// From now on this socket is this one, a stream.
    pub fn attach(&self, id: SocketId, fd: BorrowedFd<'_>) -> Result<Socket, Attach> {
        match &self.0 {
            Inner::Queue(queue) => queue.attach(id, fd),
            Inner::Sim(sim) => sim.sockets.attach(id, fd),
        }
    }

    /// From now on this socket is none, if it is still this one: what was attached can be
    /// closed. `EBUSY` while something that was begun with it is under way.
    pub fn detach(&self, socket: Socket) -> Result<(), Errno> {
        match &self.0 {
            Inner::Queue(queue) => queue.detach(socket),
            Inner::Sim(sim) => sim.sockets.detach(socket),
        }
    }

    /// Send all of this, at most [`Self::MOST_SENT`] bytes.
    pub async fn send(&self, socket: Socket, bytes: &[u8]) -> Result<(), Errno> {
        self.send_some(socket, bytes, false).await
    }

    /// Receive so many bytes, at most [`Self::MOST_SENT`]. `ECONNRESET` is the result if
    /// the other end has closed it before.
    pub async fn receive(&self, socket: Socket, bytes: &mut [u8]) -> Result<(), Errno> {
        match &self.0 {
            Inner::Queue(queue) => queue.receive(socket, bytes).await,
            Inner::Sim(sim) => sim.sockets.receive(socket, bytes).await,
        }
    }

    /// Of what is no data of a request.
    pub const MOST_SENT: usize = 4096;

    pub(crate) async fn send_some(&self, socket: Socket, bytes: &[u8], more: bool) -> Result<(), Errno> {
        match &self.0 {
            Inner::Queue(queue) => queue.send(socket, bytes, more).await,
            Inner::Sim(sim) => sim.sockets.send(socket, bytes).await,
        }
    }

    /// Move all of the data of a request from or to a socket.
    pub(crate) async fn stream(
        &self,
        slot: &Slot<'_>,
        direction: Direction,
        socket: Socket,
    ) -> Result<(), Errno> {
        match &self.0 {
            Inner::Queue(queue) => queue.stream(slot.tag, direction, socket, slot.len).await,
            Inner::Sim(sim) => sim.stream(slot.tag, direction, socket).await,
        }
    }

    /// Move pieces of the data of a request, which stays; with `fua`, to the medium. What became of each?
    pub(crate) async fn lend(
        &self,
        slot: &Slot<'_>,
        fua: bool,
        direction: Direction,
        pieces: &[Placed],
    ) -> Vec<Result<(), Errno>> {
        match &self.0 {
            Inner::Queue(queue) => queue.lend(slot.tag, fua, direction, pieces).await,
            Inner::Sim(files) => files.lend(slot.tag, fua, direction, pieces),
        }
    }
}
