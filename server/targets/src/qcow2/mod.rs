// SPDX-License-Identifier: GPL-2.0

//! A device that is the disk of a qcow2 image. Requests go to the clusters of data in its file
//! and in the files that it builds upon; tables are read and written here, under a lock.

mod bounce;
mod cache;
mod chain;
#[cfg(test)]
#[allow(clippy::cast_possible_truncation, reason = "small numbers")]
mod damage;
mod disk;
mod entry;
mod header;
mod image;
mod inflate;
#[cfg(test)]
#[allow(clippy::cast_possible_truncation, reason = "small numbers")]
mod power_cut;
mod refcount;
mod syncs;
#[cfg(test)]
#[allow(clippy::cast_possible_truncation, reason = "small numbers")]
mod tests;

use crate::open::{Access, Backing, block_of, can_zero, zero};
use chain::{Chain, Plan};
use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};
use ublk_server::{
    Allocate, Answer, Errno, FileId, Files, Geometry, Io, Piece, Range, Read, Request, Target, Write, log,
};

/// An image.
pub struct Qcow2 {
    files: Files,
    file: FileId,
    chain: Mutex<Chain>,
    geometry: Geometry,
}

impl fmt::Debug for Qcow2 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Qcow2").field("geometry", &self.geometry).finish_non_exhaustive()
    }
}

/// So much of a range is zeroed before others have their turn; but a cluster at least.
const STEP: u64 = 1 << 20;

impl Qcow2 {
    /// Open an image, and keep others from writing to it and to what it builds upon. Requests
    /// have at most 4 MiB of data. Direct I/O is not for this.
    pub fn open(path: &Path, access: Access) -> io::Result<Qcow2> {
        let mut files = Files::default();
        let mut chain = Chain::open(path, Access { direct: false, ..access }, &mut files)?;
        let top = chain.top();
        let zeroes = !access.read_only && !access.look && {
            let (file, size) = (top.disk.file().try_clone()?, top.disk.end());
            // Ranges of 512 bytes are no whole blocks of each disk.
            block_of(&file)? <= 512 && can_zero(&Backing { file, size, block: 512, align: 512 })
        };
        let geometry = Geometry {
            size: top.header.size,
            read_only: access.read_only,
            cached: true,
            discard: if zeroes { 4096 } else { 0 },
            write_zeroes: zeroes,
            ..Geometry::default()
        };
        let file = top.id;
        Ok(Qcow2 { files, file, chain: Mutex::new(chain), geometry })
    }

    /// The paths of an image, and of the files that it builds upon, in order.
    pub fn paths(path: &Path) -> io::Result<Vec<PathBuf>> {
        chain::paths(path)
    }

    fn chain(&self) -> MutexGuard<'_, Chain> {
        self.chain.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn read<'r>(&self, read: Read<'r>) -> Answer<'r> {
        let plan = self.chain().plan(read.offset(), read.len());
        let Plan { pieces, slot } = match plan {
            Ok(plan) => plan,
            Err(errno) => return read.fail(errno),
        };
        let Some(slot) = slot else {
            return match *pieces {
                [Piece { file, offset, .. }] => read.from_file(file, offset),
                _ => read.from_files(one_by_one(pieces)),
            };
        };
        let answer = read.wait_for_files(one_by_one(pieces)).await;
        drop(slot);
        answer
    }

    async fn write<'r>(&self, io: &Io, write: Write<'r>) -> Answer<'r> {
        let prepared = self.chain().prepare(write.offset(), write.len());
        let pieces = match prepared {
            Ok(pieces) => pieces,
            Err(errno) => return write.fail(errno),
        };
        if write.fua() {
            // A write that syncs would hear, as the only one, what others have lost: tables too.
            let mut result = self.chain().top().disk.check();
            if result.is_ok() {
                result = write.copy_unsynced(one_by_one(pieces)).await;
            }
            if result.is_ok() {
                result = self.sync(io).await;
            }
            return match result {
                Ok(()) => write.done(),
                Err(errno) => write.fail(errno),
            };
        }
        match *pieces {
            [Piece { file, offset, .. }] => write.to_file(file, offset),
            _ => write.to_files(one_by_one(pieces)),
        }
    }

    async fn sync(&self, io: &Io) -> Result<(), Errno> {
        let begun = self.chain().top().begin_sync()?;
        let result = io.sync(self.file).await;
        self.chain().top().end_sync(begun, result)
    }

    async fn zero(&self, io: &Io, range: &Range<'_>, how: Allocate, discard: bool) -> Result<(), Errno> {
        let mut at = range.offset();
        let end = at + u64::from(range.len());
        // Both are powers of two: each step but the last ends where a cluster does, for a part
        // of one would have to be copied.
        let step = STEP.max(self.chain().top().cluster());
        while at < end {
            let len = u32::try_from((end - at).min(step - at % step)).unwrap_or(u32::MAX);
            let pieces = self.chain().zero(at, len, discard)?;
            for piece in pieces {
                // Their place in the image stays, whatever becomes of that in the file.
                zero(io, self.file, how, piece.offset, piece.len).await?;
            }
            at += u64::from(len);
        }
        Ok(())
    }
}

/// Pieces in the order in which a request asks for them.
fn one_by_one(pieces: Vec<Piece>) -> impl FnMut(u64, u32) -> Piece {
    let mut left = pieces.into_iter();
    let mut last = None;
    move |_, _| {
        last = left.next().or(last.map(|piece| Piece { len: 0, ..piece }));
        last.expect("a request has at least one piece")
    }
}

impl Target for Qcow2 {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn files(&self) -> &Files {
        &self.files
    }

    async fn serve<'r>(&'r self, io: &'r Io, request: Request<'r>) -> Answer<'r> {
        match request {
            Request::Read(read) => self.read(read).await,
            Request::Write(write) => self.write(io, write).await,
            Request::Flush(flush) => flush.answer(self.sync(io).await),
            Request::Discard(range) => {
                let result = self.zero(io, &range, Allocate::Punch, true).await;
                range.answer(result)
            }
            Request::WriteZeroes(range, keep) => {
                let how = if keep { Allocate::Zero } else { Allocate::Punch };
                let result = self.zero(io, &range, how, false).await;
                range.answer(result)
            }
        }
    }
}

impl Drop for Qcow2 {
    fn drop(&mut self) {
        if let Err(errno) = self.chain().top().close() {
            log(format_args!(
                "qcow2: clusters that were reserved are lost (qemu-img check -r leaks): {errno}"
            ));
        }
    }
}
