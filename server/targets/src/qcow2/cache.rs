// SPDX-License-Identifier: GPL-2.0

//! Tables of an image that were read lately. Each is a cluster.

use std::collections::HashMap;

/// How much memory the tables of one kind have, of one image.
const MEMORY: usize = 8 << 20;

struct Kept {
    bytes: Box<[u8]>,
    used: u64,
}

/// Tables by their offset in the file. They are the same as in the file: what is changed is
/// written at once, so that any may be forgotten at any time.
pub(super) struct Cache {
    tables: HashMap<u64, Kept>,
    most: usize,
    clock: u64,
}

impl Cache {
    pub(super) fn new(cluster: usize) -> Cache {
        // At least a few: of what is read in turns, not each is to be read each time.
        Cache { tables: HashMap::new(), most: (MEMORY / cluster).clamp(4, 4096), clock: 0 }
    }

    pub(super) fn get(&mut self, at: u64) -> Option<&mut [u8]> {
        self.clock += 1;
        let kept = self.tables.get_mut(&at)?;
        kept.used = self.clock;
        Some(&mut kept.bytes)
    }

    /// Keep a table, instead of the one that was not used for the longest time.
    pub(super) fn put(&mut self, at: u64, bytes: Box<[u8]>) -> &mut [u8] {
        if self.tables.len() >= self.most
            && !self.tables.contains_key(&at)
            && let Some(oldest) = self.tables.iter().min_by_key(|(_, kept)| kept.used).map(|(at, _)| *at)
        {
            self.tables.remove(&oldest);
        }
        self.clock += 1;
        let kept = self.tables.entry(at).insert_entry(Kept { bytes, used: self.clock });
        &mut kept.into_mut().bytes
    }

    /// It may differ from the file.
    pub(super) fn forget(&mut self, at: u64) {
        self.tables.remove(&at);
    }
}

/// Entry `i` of a table of numbers; 0 beyond its end.
pub(super) fn word(table: &[u8], i: usize) -> u64 {
    let (words, _) = table.as_chunks::<8>();
    words.get(i).map_or(0, |word| u64::from_be_bytes(*word))
}

/// Change entry `i`, if there is one.
pub(super) fn set_word(table: &mut [u8], i: usize, value: u64) {
    let (words, _) = table.as_chunks_mut::<8>();
    if let Some(word) = words.get_mut(i) {
        *word = value.to_be_bytes();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_goes() {
        let mut cache = Cache::new(2 << 20);
        for at in 0..4u8 {
            cache.put(at.into(), vec![at; 8].into());
        }
        assert_eq!(cache.get(0).map(|bytes| bytes[0]), Some(0));
        cache.put(4, vec![4; 8].into());
        assert!(cache.get(1).is_none());
        for at in [0, 2, 3, 4] {
            assert!(cache.get(at).is_some(), "{at}");
        }
        // Again: nobody else goes.
        cache.put(4, vec![5; 8].into());
        assert_eq!(cache.get(4).map(|bytes| bytes[0]), Some(5));
        assert!(cache.get(0).is_some() && cache.tables.len() == 4);
        cache.forget(0);
        assert!(cache.get(0).is_none());
    }

    #[test]
    fn words() {
        let mut table = [0; 16];
        set_word(&mut table, 1, 0x0102);
        set_word(&mut table, 2, 7);
        assert_eq!((word(&table, 0), word(&table, 1), word(&table, 2)), (0, 0x102, 0));
        assert_eq!(table[14..], [1, 2]);
    }
}
