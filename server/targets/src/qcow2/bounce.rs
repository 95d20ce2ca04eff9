// SPDX-License-Identifier: GPL-2.0

//! A file in memory, for data that no file has as a device wants them: zeroes, and what was
//! decompressed. So these are pieces of a request like all others.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use ublk_server::{Errno, allocate, memory_file};

/// The most data of a request.
pub(super) const MOST: u32 = 4 << 20;

/// The file. First come zeroes, without memory, then slots of the same size.
pub(super) struct Bounce(Arc<Shared>);

struct Shared {
    file: File,
    slots: Mutex<Slots>,
}

#[derive(Default)]
struct Slots {
    free: Vec<u64>,
    all: u64,
}

impl Shared {
    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A slot that a request has. It is given back when this is dropped: who still has to read it keeps
/// this. Who goes away in the middle may drop it, as what he has read is never an answer.
pub(super) struct Slot {
    at: u64,
    of: Arc<Shared>,
}

impl Slot {
    /// Where the data at this offset of the request are.
    pub(super) fn at(&self, within: u32) -> u64 {
        self.at + u64::from(within)
    }

    pub(super) fn fill(&self, within: u32, data: &[u8]) -> Result<(), Errno> {
        Ok(self.of.file.write_all_at(data, self.at(within))?)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // What it kept could be swapped out, and the next one who fills it, under a lock that
        // all requests need, would wait for swap: this device perhaps.
        let (punch, keep_size) = (2, 1);
        let _ = allocate(&self.of.file, punch | keep_size, self.at, MOST.into());
        self.of.slots().free.push(self.at);
    }
}

impl Bounce {
    /// It, and the file.
    pub(super) fn new() -> io::Result<(Bounce, File)> {
        let file = memory_file(0)?;
        file.set_len(MOST.into())?;
        let shared = Shared { file: file.try_clone()?, slots: Mutex::default() };
        Ok((Bounce(Arc::new(shared)), file))
    }

    pub(super) fn get(&self) -> Result<Slot, Errno> {
        let of = &self.0;
        let mut slots = of.slots();
        let at = match slots.free.pop() {
            Some(at) => at,
            None => {
                let at = (slots.all + 1) * u64::from(MOST);
                of.file.set_len(at + u64::from(MOST))?;
                slots.all += 1;
                at
            }
        };
        Ok(Slot { at, of: of.clone() })
    }

    /// How many slots there ever were, how many are free, and what memory the file has, in blocks.
    #[cfg(test)]
    pub(super) fn used(&self) -> (u64, usize, u64) {
        use std::os::unix::fs::MetadataExt;
        let slots = self.0.slots();
        (slots.all, slots.free.len(), self.0.file.metadata().unwrap().blocks())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_used_again() {
        let (bounce, file) = Bounce::new().unwrap();
        let (a, b) = (bounce.get().unwrap(), bounce.get().unwrap());
        assert_ne!(a.at(0), b.at(0));
        a.fill(512, &[1; 512]).unwrap();
        b.fill(512, &[2; 512]).unwrap();
        let read = |at| {
            let mut data = [9; 1];
            file.read_exact_at(&mut data, at).unwrap();
            data[0]
        };
        let first = a.at(0);
        assert_eq!([read(0), read(a.at(512)), read(b.at(512)), read(b.at(0))], [0, 1, 2, 0]);
        drop(a);
        assert_eq!(read(first + 512), 0, "it has no memory");
        assert_eq!(bounce.get().unwrap().at(0), first);
    }
}
