// SPDX-License-Identifier: GPL-2.0

//! A device in stripes: chunk after chunk goes to one file after the other.

use crate::open::{Access, all_differ, can_zero, open, zero};
use std::{io, path::Path};
use ublk_server::{Allocate, Answer, Errno, FileId, Files, Geometry, Io, Piece, Request, Target};

/// Files with stripes of a device.
#[derive(Debug)]
pub struct Stripe {
    files: Files,
    parts: Vec<FileId>,
    /// Bytes that are in a file before it is the next one's turn.
    chunk: u32,
    geometry: Geometry,
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why)
}

impl Stripe {
    /// Open at least two files. Of each, as many whole chunks are used as the
    /// smallest has. The chunk is a power of 2, from 4 KiB on.
    pub fn open<P: AsRef<Path>>(paths: &[P], chunk: u32, access: Access) -> io::Result<Stripe> {
        if paths.len() < 2 {
            return Err(invalid("a stripe has at least two files"));
        }
        if !chunk.is_power_of_two() || chunk < 4096 {
            return Err(invalid("a chunk is a power of 2, from 4 KiB on"));
        }
        let (mut files, mut parts) = (Files::default(), Vec::new());
        all_differ(paths)?;
        let (mut rows, mut block, mut align) = (u64::MAX, 512, 512);
        let mut zeroes = !access.read_only;
        for path in paths {
            let backing = open(path.as_ref(), access)?;
            rows = rows.min(backing.size / u64::from(chunk));
            block = block.max(backing.block);
            align = align.max(backing.align);
            zeroes &= access.look || can_zero(&backing);
            parts.push(files.add(backing.file));
        }
        if rows == 0 {
            return Err(invalid("a file is smaller than a chunk"));
        }
        let row = u64::from(chunk) * parts.len() as u64;
        let geometry = Geometry {
            size: rows.checked_mul(row).ok_or_else(|| invalid("too large"))?,
            block,
            align,
            read_only: access.read_only,
            cached: true,
            moves_once: true,
            discard: if zeroes { 4096 } else { 0 },
            write_zeroes: zeroes,
            ..Geometry::default()
        };
        Ok(Stripe { files, parts, chunk, geometry })
    }

    /// Where an offset of the device is, and how much is there in one piece.
    fn locate(&self, offset: u64) -> Piece {
        let chunk = u64::from(self.chunk);
        let (number, within) = (offset / chunk, offset % chunk);
        let files = self.parts.len() as u64;
        let file = self.parts[usize::try_from(number % files).expect("less than a length")];
        let left = self.chunk - u32::try_from(within).expect("less than a chunk");
        Piece { file, offset: number / files * chunk + within, len: left }
    }

    /// How much of a file's data is before an offset of the device.
    fn before(&self, offset: u64, part: usize) -> u64 {
        let chunk = u64::from(self.chunk);
        let row = chunk * self.parts.len() as u64;
        let within = (offset % row).saturating_sub(part as u64 * chunk);
        offset / row * chunk + within.min(chunk)
    }

    /// A range of the device is one range at most of each file.
    async fn allocate(&self, io: &Io, how: Allocate, offset: u64, len: u32) -> Result<(), Errno> {
        let mut begun = false;
        for (part, file) in self.parts.iter().enumerate() {
            let start = self.before(offset, part);
            let end = self.before(offset + u64::from(len), part);
            if end > start {
                let len = u32::try_from(end - start).expect("no more than all of it");
                let result = zero(io, *file, how, start, len).await;
                // "It can not" says that nothing has been done.
                result.map_err(|e| if begun && e == Errno::EOPNOTSUPP { Errno::EIO } else { e })?;
                begun = true;
            }
        }
        Ok(())
    }

    async fn sync(&self, io: &Io) -> Result<(), Errno> {
        let mut result = Ok(());
        for file in &self.parts {
            result = result.and(io.sync(*file).await);
        }
        result
    }
}

impl Target for Stripe {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn files(&self) -> &Files {
        &self.files
    }

    async fn serve<'r>(&'r self, io: &'r Io, request: Request<'r>) -> Answer<'r> {
        match request {
            Request::Read(read) => read.from_files(|offset, _| self.locate(offset)),
            Request::Write(write) => write.to_files(|offset, _| self.locate(offset)),
            Request::Flush(flush) => flush.answer(self.sync(io).await),
            Request::Discard(range) => {
                let (offset, len) = (range.offset(), range.len());
                range.answer(self.allocate(io, Allocate::Punch, offset, len).await)
            }
            Request::WriteZeroes(range, keep) => {
                let (offset, len) = (range.offset(), range.len());
                let how = if keep { Allocate::Zero } else { Allocate::Punch };
                range.answer(self.allocate(io, how, offset, len).await)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Random, Scratch, compare};
    use ublk_server::sim::Sim;

    fn stripe(scratch: &Scratch, sizes: &[usize], chunk: u32) -> io::Result<Stripe> {
        let name = |i| format!("{i}");
        let paths: Vec<_> =
            sizes.iter().enumerate().map(|(i, size)| scratch.file(&name(i), &vec![0; *size])).collect();
        Stripe::open(&paths, chunk, Access::default())
    }

    #[test]
    fn like_an_array() {
        let scratch = Scratch::new("stripe");
        for (seed, files) in [(1, 2), (2, 3), (3, 5), (4, 16)] {
            let mut random = Random::new(seed);
            let chunk = 4096 << random.below(3);
            let target = stripe(&scratch, &vec![64 << 10; files], chunk).unwrap();
            let mut model = vec![0; files * (64 << 10)];
            let sim = Sim::new(target).unwrap();
            compare(&sim, &mut model, &mut random, 300);
            // Each chunk is where it ought to be.
            let parts: Vec<_> =
                (0..files).map(|i| std::fs::read(scratch.path(&i.to_string())).unwrap()).collect();
            for (number, bytes) in model.chunks(chunk as usize).enumerate() {
                let at = number / files * chunk as usize;
                assert!(parts[number % files][at..at + chunk as usize] == *bytes, "chunk {number}");
            }
        }
    }

    #[test]
    fn one_broken_file_is_an_error() {
        let scratch = Scratch::new("stripe-errors");
        let sim = Sim::new(stripe(&scratch, &[8192, 8192], 4096).unwrap()).unwrap();
        sim.break_file(Some(sim.target().parts[1]), Errno::EIO);
        assert!(sim.write(0, &[1; 4096], false).is_ok());
        assert_eq!(sim.write(0, &[1; 8192], false), Err(Errno::EIO));
        assert_eq!(sim.read(4096, 4096), Err(Errno::EIO));
        assert_eq!(sim.flush(), Err(Errno::EIO));
    }

    #[test]
    fn half_a_range_of_zeroes_is_not_nothing() {
        let scratch = Scratch::new("stripe-zero");
        let sim = Sim::new(stripe(&scratch, &[8192, 8192], 4096).unwrap()).unwrap();
        sim.break_file(Some(sim.target().parts[0]), Errno::EOPNOTSUPP);
        assert_eq!(sim.discard(0, 8192), Err(Errno::EOPNOTSUPP));
        sim.break_file(Some(sim.target().parts[1]), Errno::EOPNOTSUPP);
        assert_eq!(sim.discard(0, 8192), Err(Errno::EIO));
    }

    #[test]
    fn a_part_that_can_only_punch_is_zeroed() {
        let scratch = Scratch::new("stripe-punch");
        let sim = Sim::new(stripe(&scratch, &[8192, 8192], 4096).unwrap()).unwrap();
        sim.write(0, &[7; 8192], false).unwrap();
        sim.only_punch(sim.target().parts[1]);
        assert_eq!(sim.write_zeroes(0, 8192, true), Ok(()));
        assert_eq!(sim.read(0, 8192).unwrap(), [0; 8192]);
    }

    #[test]
    fn not_the_same_file_twice() {
        let scratch = Scratch::new("stripe-twice");
        let path = scratch.file("a", &[0; 8192]);
        let twice = Stripe::open(&[&path, &path], 4096, Access::default()).unwrap_err();
        assert!(twice.to_string().ends_with("is there twice"), "{twice}");
    }

    #[test]
    fn the_smallest_counts() {
        let scratch = Scratch::new("stripe-sizes");
        let size = |sizes: &[usize]| stripe(&scratch, sizes, 4096).map(|stripe| stripe.geometry().size);
        assert_eq!(size(&[4096, 70000 / 512 * 512]).unwrap(), 8192);
        assert!(size(&[512, 8192]).is_err());
        assert!(size(&[8192]).is_err());
        let paths = ["a", "b"];
        assert!(Stripe::open(&paths, 5000, Access::default()).is_err());
    }
}
