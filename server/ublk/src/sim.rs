// SPDX-License-Identifier: GPL-2.0

//! Targets without a kernel that has ublk: requests are made up, and answers are
//! carried out with ordinary reads and writes of the target's files.

use crate::{
    Errno, FileId, Flush, Io, Range, Read, Request, Target, Write,
    io::{Allocate, Inner},
    request::{Placed, Slot, What},
    syncs::SyncErrors,
};
use std::{
    cell::{Cell, RefCell},
    fs::File,
    future::Future,
    io,
    marker::PhantomData,
    os::unix::fs::FileExt,
    pin::pin,
    task::{Context, Poll, Waker},
};
use ublk_ring::Direction;

/// A device that only its owner can use.
pub struct Sim<T> {
    target: T,
    io: Io,
}

/// The files, and the data of the request that is being served.
pub(crate) struct SimFiles {
    files: Vec<File>,
    data: RefCell<Vec<u8>>,
    /// Which file fails, and with what.
    broken: Cell<Option<(FileId, Errno)>>,
    syncs: Cell<u64>,
    sync_errors: SyncErrors,
}

impl<T: Target> Sim<T> {
    /// Serve this target.
    pub fn new(target: T) -> io::Result<Sim<T>> {
        let mut files = Vec::new();
        for id in 0.. {
            let Some(file) = target.files().get(FileId(id)) else { break };
            files.push(file.try_clone()?);
        }
        let io = Io(Inner::Sim(SimFiles {
            files,
            data: RefCell::default(),
            broken: Cell::new(None),
            syncs: Cell::new(0),
            sync_errors: SyncErrors::default(),
        }));
        Ok(Sim { target, io })
    }

    /// The target.
    pub fn target(&self) -> &T {
        &self.target
    }

    fn files(&self) -> &SimFiles {
        match &self.io.0 {
            Inner::Sim(files) => files,
            Inner::Queue(_) => unreachable!("made by new()"),
        }
    }

    /// From now on, what is done with this file fails; `None`: nothing does.
    pub fn break_file(&self, file: Option<FileId>, errno: Errno) {
        self.files().broken.set(file.map(|file| (file, errno)));
    }

    /// How often something was made to be on the medium.
    pub fn syncs(&self) -> u64 {
        self.files().syncs.get()
    }

    fn slot(&self, offset: u64, len: u32, fua: bool) -> Slot<'_> {
        Slot { io: &self.io, tag: 0, offset, len, fua, of: PhantomData }
    }

    fn serve<'r>(&'r self, request: Request<'r>, fua: bool) -> Result<(), Errno> {
        let mut future = pin!(self.target.serve(&self.io, request));
        // All that it can wait for is done at once.
        let Poll::Ready(answer) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) else {
            panic!("it waits for something that is not of its queue");
        };
        match answer.what {
            What::Result(result) => result.map(drop),
            What::Move(direction, pieces) => {
                let placed = pieces.as_slice();
                // The documented rules, looked at from the other side.
                let mut end = 0;
                for piece in placed {
                    assert_eq!(piece.at, end, "a gap, or twice the same");
                    end += piece.piece.len;
                }
                assert_eq!(end as usize, self.files().data.borrow().len(), "not all of it");
                self.files().lend(fua, direction, placed).into_iter().collect()
            }
        }
    }

    /// Read from the device.
    pub fn read(&self, offset: u64, len: u32) -> Result<Vec<u8>, Errno> {
        // What nobody fills is seen.
        self.files().data.replace(vec![0xa5; len as usize]);
        self.serve(Request::Read(Read(self.slot(offset, len, false))), false)?;
        Ok(self.files().data.take())
    }

    /// Write to the device; with `fua`, to the medium.
    pub fn write(&self, offset: u64, data: &[u8], fua: bool) -> Result<(), Errno> {
        let len = u32::try_from(data.len()).map_err(|_| Errno::EINVAL)?;
        self.files().data.replace(data.to_vec());
        self.serve(Request::Write(Write(self.slot(offset, len, fua))), fua)
    }

    /// Flush the device.
    pub fn flush(&self) -> Result<(), Errno> {
        self.serve(Request::Flush(Flush(self.slot(0, 0, false))), false)
    }

    /// Discard a part of the device.
    pub fn discard(&self, offset: u64, len: u32) -> Result<(), Errno> {
        self.serve(Request::Discard(Range(self.slot(offset, len, false))), false)
    }

    /// Zero a part of the device; its room stays if `keep`.
    pub fn write_zeroes(&self, offset: u64, len: u32, keep: bool) -> Result<(), Errno> {
        self.serve(Request::WriteZeroes(Range(self.slot(offset, len, false)), keep), false)
    }
}

impl SimFiles {
    fn file(&self, id: FileId) -> Result<&File, Errno> {
        match self.broken.get() {
            Some((broken, errno)) if broken == id => Err(errno),
            _ => Ok(&self.files[id.0 as usize]),
        }
    }

    fn synced(&self, file: FileId) -> Result<(), Errno> {
        self.file(file)?.sync_data()?;
        self.syncs.set(self.syncs.get() + 1);
        Ok(())
    }

    pub(crate) fn sync(&self, file: FileId) -> Result<(), Errno> {
        self.sync_errors.check(file)?;
        self.sync_errors.note(file, self.synced(file))
    }

    pub(crate) fn allocate(&self, file: FileId, how: Allocate, offset: u64, len: u64) -> Result<(), Errno> {
        let mode = how.mode().cast_signed();
        Ok(ublk_sys::allocate(self.file(file)?, mode, offset, len)?)
    }

    fn one(&self, fua: bool, direction: Direction, placed: &Placed) -> Result<(), Errno> {
        let piece = &placed.piece;
        let (at, len) = (placed.at as usize, piece.len as usize);
        let file = self.file(piece.file)?;
        match direction {
            Direction::Fill => {
                file.read_exact_at(&mut self.data.borrow_mut()[at..at + len], piece.offset)?;
            }
            Direction::Drain => {
                file.write_all_at(&self.data.borrow()[at..at + len], piece.offset)?;
                if fua {
                    self.synced(piece.file)?;
                }
            }
        }
        Ok(())
    }

    /// In no particular order, as io_uring does: backwards is one.
    pub(crate) fn lend(&self, fua: bool, direction: Direction, pieces: &[Placed]) -> Vec<Result<(), Errno>> {
        let mut results: Vec<_> =
            pieces.iter().rev().map(|placed| self.one(fua, direction, placed)).collect();
        results.reverse();
        if fua && direction == Direction::Drain {
            for (result, placed) in results.iter().zip(pieces) {
                let _ = self.sync_errors.note(placed.piece.file, *result);
            }
        }
        results
    }
}
