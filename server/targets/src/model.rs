// SPDX-License-Identifier: GPL-2.0

//! Tests of targets against a model: an array of bytes.

use std::{fs::File, io::Write, path::PathBuf};
use ublk_server::{Target, sim::Sim};

/// Random numbers that are the same each time.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(2).wrapping_add(1))
    }

    /// Below `end`, which is above 0.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16) % end
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.below(256) as u8).collect()
    }
}

/// A directory that goes away.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new(name: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("fublk-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }

    /// One in memory if possible, for those who sync a lot.
    pub(crate) fn in_memory(name: &str) -> Scratch {
        let path = PathBuf::from(format!("/dev/shm/fublk-{name}-{}", std::process::id()));
        if std::fs::create_dir_all(&path).is_ok() { Scratch(path) } else { Scratch::new(name) }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// A file with these bytes.
    pub(crate) fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        File::create(&path).unwrap().write_all(bytes).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Do so many random things with a device, of which this is all.
pub(crate) fn compare<T: Target>(sim: &Sim<T>, model: &mut [u8], random: &mut Random, steps: usize) {
    let block = u64::from(sim.target().geometry().block);
    let blocks = model.len() as u64 / block;
    for step in 0..steps {
        // Small ones, and large ones.
        let most = if random.below(4) == 0 { blocks } else { 8 };
        let count = 1 + random.below(most.min(blocks));
        let first = random.below(blocks - count + 1);
        let (offset, len) = (first * block, (count * block) as u32);
        let range = offset as usize..offset as usize + len as usize;
        match random.below(8) {
            0..3 => {
                let read = sim.read(offset, len).unwrap();
                assert!(read == model[range], "step {step}: {len} bytes at {offset} differ");
            }
            3..6 => {
                let data = random.bytes(len as usize);
                let (fua, before) = (random.below(4) == 0, sim.syncs());
                sim.write(offset, &data, fua).unwrap();
                assert!(!fua || sim.syncs() > before, "step {step}: not on the medium");
                model[range].copy_from_slice(&data);
            }
            6 => {
                let keep = random.below(2) == 0;
                match sim.write_zeroes(offset, len, keep) {
                    Ok(()) => model[range].fill(0),
                    // The file system can not; nothing has changed.
                    Err(errno) => assert_eq!(errno, ublk_server::Errno::EOPNOTSUPP),
                }
            }
            _ => {
                sim.discard(offset, len).unwrap();
                // Nobody knows what is there, but it can be read.
                let read = sim.read(offset, len).unwrap();
                model[range].copy_from_slice(&read);
                let before = sim.syncs();
                sim.flush().unwrap();
                assert!(sim.syncs() > before, "step {step}: not on the medium");
            }
        }
    }
    let all = sim.read(0, u32::try_from(model.len()).unwrap()).unwrap();
    assert!(all == *model, "in the end");
}
