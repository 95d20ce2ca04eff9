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
        let Backing { file, size, block, align } = open(path, access)?;
        let mut files = Files::default();
        let file = files.add(file);
        let geometry = Geometry {
            size,
            block,
            align,
            read_only: access.read_only,
            cached: true,
            moves_once: true,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Random, Scratch, compare};
    use ublk_server::{Errno, sim::Sim};

    #[test]
    fn like_an_array() {
        let scratch = Scratch::new("file");
        for seed in 0..20 {
            let mut random = Random::new(seed);
            let mut model = random.bytes(256 << 10);
            let path = scratch.file("data", &model);
            let sim = Sim::new(FileTarget::open(&path, Access::default()).unwrap()).unwrap();
            compare(&sim, &mut model, &mut random, 200);
            assert!(std::fs::read(&path).unwrap() == model, "what is in the file");
        }
    }

    #[test]
    fn errors_are_told() {
        let scratch = Scratch::new("file-errors");
        let path = scratch.file("data", &[0; 8192]);
        let sim = Sim::new(FileTarget::open(&path, Access::default()).unwrap()).unwrap();
        sim.break_file(Some(sim.target().file), Errno::ENOSPC);
        assert_eq!(sim.read(0, 512), Err(Errno::ENOSPC));
        assert_eq!(sim.write(0, &[0; 512], false), Err(Errno::ENOSPC));
        assert_eq!(sim.flush(), Err(Errno::ENOSPC));
        assert_eq!(sim.discard(0, 512), Err(Errno::ENOSPC));
        assert_eq!(sim.write_zeroes(0, 512, false), Err(Errno::ENOSPC));
        sim.break_file(None, Errno::EIO);
        assert!(sim.read(0, 512).is_ok());
        // What was lost is lost, although the kernel tells it once only.
        assert_eq!(sim.flush(), Err(Errno::ENOSPC));
    }

    #[test]
    fn what_fua_hears_is_kept_for_the_flush() {
        let scratch = Scratch::new("file-fua");
        let path = scratch.file("data", &[0; 8192]);
        let sim = Sim::new(FileTarget::open(&path, Access::default()).unwrap()).unwrap();
        sim.break_file(Some(sim.target().file), Errno::EIO);
        assert_eq!(sim.write(0, &[0; 512], false), Err(Errno::EIO));
        sim.break_file(None, Errno::EIO);
        assert_eq!(sim.flush(), Ok(()), "it was told who wrote it");
        // So was this one.
        sim.break_file(Some(sim.target().file), Errno::ENOSPC);
        assert_eq!(sim.write(0, &[0; 512], true), Err(Errno::ENOSPC));
        sim.break_file(None, Errno::EIO);
        assert_eq!(sim.flush(), Ok(()));
        // What was written by others is lost.
        sim.fail_sync(Errno::EIO);
        assert_eq!(sim.write(0, &[0; 512], true), Err(Errno::EIO));
        assert_eq!(sim.flush(), Err(Errno::EIO));
        assert_eq!(sim.flush(), Err(Errno::EIO));
    }

    #[test]
    fn read_only_says_so() {
        let scratch = Scratch::new("file-read-only");
        let path = scratch.file("data", &[0; 8192]);
        let target = FileTarget::open(&path, Access { read_only: true, ..Access::default() }).unwrap();
        let geometry = target.geometry();
        assert!(geometry.read_only && geometry.discard == 0 && !geometry.write_zeroes);
        assert_eq!(geometry.size, 8192);
    }
}
