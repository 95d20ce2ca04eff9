// SPDX-License-Identifier: GPL-2.0

//! A device that is a regular file or another block device.

use crate::open::{Access, Backing, open};
use std::{io, path::Path};
use ublk_server::{Allocate, Answer, FileId, Files, Geometry, Io, Request, Target};

/// A file.
#[derive(Debug)]
pub struct FileTarget {
    files: Files,
    file: FileId,
    geometry: Geometry,
}

impl FileTarget {
    /// Open a file, and keep others from writing to it.
    pub fn open(path: &Path, access: Access) -> io::Result<FileTarget> {
        let Backing { file, size, block } = open(path, access)?;
        let mut files = Files::default();
        let file = files.add(file);
        let geometry = Geometry {
            size,
            block,
            read_only: access.read_only,
            cached: true,
            discard: if access.read_only { 0 } else { 4096 },
            write_zeroes: !access.read_only,
            ..Geometry::default()
        };
        Ok(FileTarget { files, file, geometry })
    }
}

impl Target for FileTarget {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn files(&self) -> &Files {
        &self.files
    }

    async fn serve<'r>(&'r self, io: &'r Io, request: Request<'r>) -> Answer<'r> {
        match request {
            Request::Read(read) => {
                let offset = read.offset();
                read.from_file(self.file, offset)
            }
            Request::Write(write) => {
                let offset = write.offset();
                write.to_file(self.file, offset)
            }
            Request::Flush(flush) => flush.answer(io.sync(self.file).await),
            Request::Discard(range) => {
                let (offset, len) = (range.offset(), range.len().into());
                range.answer(io.allocate(self.file, Allocate::Punch, offset, len).await)
            }
            Request::WriteZeroes(range, keep) => {
                let (offset, len) = (range.offset(), range.len().into());
                let how = if keep { Allocate::Zero } else { Allocate::Punch };
                range.answer(io.allocate(self.file, how, offset, len).await)
            }
        }
    }
}
