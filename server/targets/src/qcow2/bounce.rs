// SPDX-License-Identifier: GPL-2.0

//! A file in memory, for data that no file has as a device wants them: zeroes, and what was
//! decompressed. So these are pieces of a request like all others.

use std::{fs::File, io, os::unix::fs::FileExt};
use ublk_server::{Errno, allocate, memory_file};

/// The most data of a request.
pub(super) const MOST: u32 = 4 << 20;

/// The file. First come zeroes, without memory, then slots of the same size.
pub(super) struct Bounce {
    file: File,
    free: Vec<u64>,
    slots: u64,
}

/// A slot that a request has. It has to be given back.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Slot(u64);

impl Slot {
    /// Where the data at this offset of the request are.
    pub(super) fn at(&self, within: u32) -> u64 {
        self.0 + u64::from(within)
    }
}

impl Bounce {
    /// It, and the file.
    pub(super) fn new() -> io::Result<(Bounce, File)> {
        let file = memory_file(0)?;
        file.set_len(MOST.into())?;
        Ok((Bounce { file: file.try_clone()?, free: Vec::new(), slots: 0 }, file))
    }

    pub(super) fn get(&mut self) -> Result<Slot, Errno> {
        if let Some(at) = self.free.pop() {
            return Ok(Slot(at));
        }
        let at = (self.slots + 1) * u64::from(MOST);
        self.file.set_len(at + u64::from(MOST))?;
        self.slots += 1;
        Ok(Slot(at))
    }

    pub(super) fn fill(&self, slot: &Slot, within: u32, data: &[u8]) -> Result<(), Errno> {
        Ok(self.file.write_all_at(data, slot.at(within))?)
    }

    pub(super) fn put(&mut self, slot: Slot) {
        // What it kept could be swapped out, and the next one who fills it, under a lock that
        // all requests need, would wait for swap: this device perhaps.
        let (punch, keep_size) = (2, 1);
        let _ = allocate(&self.file, punch | keep_size, slot.0, MOST.into());
        self.free.push(slot.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_used_again() {
        let (mut bounce, file) = Bounce::new().unwrap();
        let (a, b) = (bounce.get().unwrap(), bounce.get().unwrap());
        assert_ne!(a, b);
        bounce.fill(&a, 512, &[1; 512]).unwrap();
        bounce.fill(&b, 512, &[2; 512]).unwrap();
        let read = |at| {
            let mut data = [9; 1];
            file.read_exact_at(&mut data, at).unwrap();
            data[0]
        };
        let first = a.at(0);
        assert_eq!([read(0), read(a.at(512)), read(b.at(512)), read(b.at(0))], [0, 1, 2, 0]);
        bounce.put(a);
        assert_eq!(read(first + 512), 0, "it has no memory");
        assert_eq!(bounce.get().unwrap().at(0), first);
    }
}
