// SPDX-License-Identifier: GPL-2.0

//! A device that is all zeroes and forgets what is written to it.

use std::io;
use ublk_server::{Answer, FileId, Files, Geometry, Io, Request, Target, memory_file};

/// Zeroes.
#[derive(Debug)]
pub struct Null {
    files: Files,
    zeroes: FileId,
    size: u64,
}

impl Null {
    /// So many bytes, a multiple of 512.
    pub fn open(size: u64) -> io::Result<Null> {
        let mut files = Files::default();
        // As much as a request has at most. It has an end, unlike /dev/zero.
        let zeroes = files.add(memory_file(16 << 20)?);
        Ok(Null { files, zeroes, size })
    }
}

impl Target for Null {
    fn geometry(&self) -> Geometry {
        Geometry {
            size: self.size,
            discard: 512,
            write_zeroes: true,
            moves_once: true,
            ..Geometry::default()
        }
    }

    fn files(&self) -> &Files {
        &self.files
    }

    async fn serve<'r>(&'r self, _: &'r Io, request: Request<'r>) -> Answer<'r> {
        match request {
            Request::Read(read) => read.from_file(self.zeroes, 0),
            Request::Write(write) => write.done(),
            Request::Flush(flush) => flush.done(),
            Request::Discard(range) | Request::WriteZeroes(range, _) => range.done(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ublk_server::sim::Sim;

    #[test]
    fn forgets() {
        let sim = Sim::new(Null::open(1 << 20).unwrap()).unwrap();
        sim.write(4096, &[1; 4096], true).unwrap();
        sim.flush().unwrap();
        sim.discard(0, 4096).unwrap();
        sim.write_zeroes(0, 4096, true).unwrap();
        assert_eq!(sim.read(4096, 4096).unwrap(), [0; 4096]);
    }
}
