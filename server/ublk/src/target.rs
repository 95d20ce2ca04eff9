// SPDX-License-Identifier: GPL-2.0

//! What a device is made of.

use crate::{Answer, Io, Request};
use std::{fs::File, future::Future, io, os::fd::AsFd, os::fd::BorrowedFd};

/// Something that answers the requests of a device. It is shared by the queues of
/// the device, each of which has a thread.
pub trait Target: Send + Sync + 'static {
    /// How large the device is, and what it can do.
    fn geometry(&self) -> Geometry;

    /// The files that it uses. They stay the same.
    fn files(&self) -> &Files;

    /// So many queues will be served. Called once, before there is a disk, which does not come
    /// if this fails.
    fn prepare(&self, queues: u16) -> io::Result<()> {
        let _ = queues;
        Ok(())
    }

    /// Answer a request. Many are under way at a time in a thread. What this waits
    /// for has to be an operation of `io`, or of the request, or another request of the
    /// same queue, that wakes it: nothing else is heard.
    fn serve<'r>(&'r self, io: &'r Io, request: Request<'r>) -> impl Future<Output = Answer<'r>>;
}

/// How large a device is, and what it can do. Sizes are in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// The size of the device, a multiple of `block`.
    pub size: u64,
    /// The smallest unit of I/O, a power of 2 from 512 to 4096.
    pub block: u32,
    /// What is best for I/O: a power of 2, at least `block`.
    pub best: u32,
    /// Nothing can be written.
    pub read_only: bool,
    /// What was written may be lost until a flush.
    pub cached: bool,
    /// How memory for I/O has to be aligned, a power of 2.
    pub align: u32,
    /// Takes [`Request::Discard`], in units of so much; 0 is not at all.
    pub discard: u32,
    /// Takes [`Request::WriteZeroes`].
    pub write_zeroes: bool,
    /// No request is across a multiple of this, if it is not 0.
    pub chunk: u32,
    /// All data are moved by answers of requests, from and to files that have an end,
    /// and by nothing else: [`Read::from_file()`](crate::Read::from_file) and the like,
    /// in at most 64 pieces of 4 KiB or more. Only such a target can be served by an
    /// ordinary user.
    pub moves_once: bool,
    /// The most data of a request.
    pub max_io: u32,
    /// The most queues.
    pub queues: u16,
}

impl Default for Geometry {
    fn default() -> Geometry {
        Geometry {
            size: 0,
            block: 512,
            best: 4096,
            read_only: false,
            cached: false,
            align: 512,
            discard: 0,
            write_zeroes: false,
            chunk: 0,
            moves_once: false,
            max_io: u32::MAX,
            queues: u16::MAX,
        }
    }
}

/// A file of a target.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FileId(pub(crate) u32);

/// A socket of a target. Each queue has one of its own, that comes and goes: see
/// [`Io::attach()`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SocketId(pub(crate) u32);

/// The files of a target.
#[derive(Default, Debug)]
pub struct Files {
    files: Vec<File>,
    sockets: u32,
}

impl Files {
    /// One more.
    pub fn add(&mut self, file: File) -> FileId {
        self.files.push(file);
        FileId(u32::try_from(self.files.len() - 1).expect("so many files can not be open"))
    }

    /// One more socket, for each queue.
    pub fn add_socket(&mut self) -> SocketId {
        self.sockets += 1;
        SocketId(self.sockets - 1)
    }

    pub(crate) fn sockets(&self) -> u32 {
        self.sockets
    }

    pub(crate) fn get(&self, id: FileId) -> Option<&File> {
        self.files.get(id.0 as usize)
    }

    pub(crate) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.files.iter().map(File::as_fd)
    }
}
