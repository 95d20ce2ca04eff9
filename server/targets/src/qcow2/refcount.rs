// SPDX-License-Identifier: GPL-2.0

//! Which clusters of an image's file are used, and how often.
//!
//! New clusters are reserved many at a time: they are zero, and counted, and all of that is on
//! the medium before one of them is handed out. So whoever names one of them in a table need
//! not wait for anything. If nobody does, because the power fails or the server is killed,
//! they are lost until the image is checked, but nothing is wrong.
//!
//! A cluster of data never becomes free here: who discards one of our own has it punched in the
//! file, and one that others use too stays theirs, even if the image is wrong about that and there
//! are no others. So what a request under way reads or writes never becomes somebody else's.

use super::{
    cache::{Cache, set_word, word},
    disk::Disk,
    header::{Header, REFCOUNT_TABLE_FIELDS},
};
use std::{
    collections::{HashSet, VecDeque},
    ops::Range,
};
use ublk_server::{Errno, log};

/// What was used for, what is not used any more.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Was {
    /// Data that requests get in the file itself, some perhaps just now: somebody else's use
    /// remains.
    Data,
    /// What only we read, or what nobody ever did.
    Ours,
}

/// What becomes free when the tables that do not name it any more are on the medium.
struct Freed {
    /// With which change of the tables.
    change: u64,
    at: u64,
    clusters: u64,
    /// So many uses of each.
    times: u64,
    was: Was,
}

/// Where tables are that are not those of refcounts.
pub(super) struct Tables<'a> {
    pub(super) fixed: [Range<u64>; 2],
    pub(super) l2: &'a HashSet<u64>,
}

/// The refcounts of an image that is written.
pub(super) struct Refcounts {
    /// Where the blocks with the refcounts are, 0 where there is none.
    table: Vec<u64>,
    table_at: Range<u64>,
    blocks: Cache,
    order: u32,
    cluster_bits: u32,
    /// Where to look for a free one.
    next: u64,
    reserved: VecDeque<u64>,
    freed: VecDeque<Freed>,
    /// How many of these no sync that has begun is about.
    fresh: usize,
    /// Those of the table.
    block_set: HashSet<u64>,
    told: bool,
}

/// So many are to be freed at most before there is a sync for that.
const MOST_FRESH: usize = if cfg!(test) { 64 } else { 64 << 10 };

/// How much is reserved at a time: a sync is for so much, and so much is lost with a kill.
const BATCH: u64 = if cfg!(test) { 0 } else { 16 << 20 };
const MOST_TABLE: u64 = 8 << 20;

fn get(block: &[u8], i: usize, order: u32) -> u64 {
    let bits = 1usize << order;
    if bits < 8 {
        let byte = block[i * bits / 8];
        return u64::from(byte >> (i * bits % 8) & ((1 << bits) - 1));
    }
    let bytes = bits / 8;
    block[i * bytes..(i + 1) * bytes].iter().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// Returns which byte has changed, or is the first that has.
fn set(block: &mut [u8], i: usize, order: u32, value: u64) -> Range<usize> {
    let bits = 1usize << order;
    if bits < 8 {
        let (at, shift) = (i * bits / 8, i * bits % 8);
        let mask = (1u8 << bits) - 1;
        block[at] = block[at] & !(mask << shift) | (value.to_be_bytes()[7] & mask) << shift;
        return at..at + 1;
    }
    let bytes = bits / 8;
    block[i * bytes..(i + 1) * bytes].copy_from_slice(&value.to_be_bytes()[8 - bytes..]);
    i * bytes..(i + 1) * bytes
}

/// The first of these that is 0. What is used is skipped by words.
fn first_zero(block: &[u8], range: Range<usize>, order: u32) -> Option<usize> {
    let (bits, per_word) = (1u32 << order, 64 >> order);
    let low = u64::MAX / (u64::MAX >> (64 - bits));
    let mut i = range.start;
    while i < range.end {
        if i.is_multiple_of(per_word) && i + per_word <= range.end {
            let word = word(block, i / per_word);
            // Only what is 0 borrows where its highest bit was not set.
            if word.wrapping_sub(low) & !word & low << (bits - 1) == 0 {
                i += per_word;
                continue;
            }
        }
        if get(block, i, order) == 0 {
            return Some(i);
        }
        i += 1;
    }
    None
}

/// The changes of a block of refcounts that are not written yet.
#[derive(Default)]
struct Batch {
    k: Option<u64>,
    changed: Option<Range<usize>>,
    count: u64,
}

fn index(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

impl Refcounts {
    pub(super) fn read(header: &Header, disk: &Disk) -> Result<Refcounts, Errno> {
        let at = header.refcount_table.clone();
        if at.end > disk.end() {
            return Err(Errno::EIO);
        }
        let mut bytes = vec![0; index(at.end - at.start)];
        disk.read(at.start, &mut bytes)?;
        let table: Vec<_> = (0..bytes.len() / 8).map(|i| word(&bytes, i)).collect();
        let mut block_set = HashSet::new();
        // One block that is named very often would be looked through as often.
        if !table.iter().all(|at| *at == 0 || block_set.insert(*at)) {
            return Err(Errno::EIO);
        }
        Ok(Refcounts {
            table,
            table_at: at,
            blocks: Cache::new(index(header.cluster())),
            order: header.refcount_order,
            cluster_bits: header.cluster_bits,
            next: 0,
            reserved: VecDeque::new(),
            freed: VecDeque::new(),
            fresh: 0,
            block_set,
            told: false,
        })
    }

    fn corrupt(&mut self, why: &str) -> Errno {
        if !std::mem::replace(&mut self.told, true) {
            log(format_args!("qcow2: the image is corrupt: {why}; qemu-img check tells more"));
        }
        Errno::EIO
    }

    fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// How many refcounts a block has.
    fn per_block(&self) -> u64 {
        (self.cluster() * 8) >> self.order
    }

    /// Where the refcount table is.
    pub(super) fn table_at(&self) -> Range<u64> {
        self.table_at.clone()
    }

    /// The block `k`, which is there.
    fn block(&mut self, disk: &Disk, k: usize) -> Result<&mut [u8], Errno> {
        let at = self.table[k];
        if !at.is_multiple_of(self.cluster()) || at >= disk.end() {
            return Err(Errno::EIO);
        }
        if self.blocks.get(at).is_none() {
            let mut bytes = vec![0; index(self.cluster())];
            disk.read(at, &mut bytes)?;
            self.blocks.put(at, bytes.into());
        }
        self.blocks.get(at).ok_or(Errno::EIO)
    }

    /// Is this a block of refcounts?
    pub(super) fn is_block(&self, at: u64) -> bool {
        self.block_set.contains(&at)
    }

    /// A cluster that is zero and counted. If one of the tables is free, the image is corrupt.
    pub(super) fn take(&mut self, disk: &mut Disk, tables: &Tables<'_>) -> Result<u64, Errno> {
        if self.reserved.is_empty() {
            self.reserve(disk, tables)?;
        }
        self.reserved.pop_front().ok_or(Errno::ENOSPC)
    }

    /// One that was taken, and is as it was.
    pub(super) fn give_back(&mut self, at: u64) {
        self.reserved.push_front(at);
    }

    /// These clusters are said to be free. None of them is a table's?
    fn none_is_a_table(&mut self, mut clusters: Range<u64>, tables: &Tables<'_>) -> Result<(), Errno> {
        let overlaps = |range: &Range<u64>| clusters.start < range.end && range.start < clusters.end;
        if tables.fixed.iter().any(overlaps)
            || overlaps(&self.table_at)
            || clusters
                .by_ref()
                .step_by(index(self.cluster()))
                .any(|at| self.block_set.contains(&at) || tables.l2.contains(&at))
        {
            return Err(self.corrupt("a table has no refcount"));
        }
        Ok(())
    }

    fn reserve(&mut self, disk: &mut Disk, tables: &Tables<'_>) -> Result<(), Errno> {
        disk.check()?;
        let cluster = self.cluster();
        let want = index((BATCH / cluster).clamp(8, 1024));
        let (mut block, k) = loop {
            let k = self.next / self.per_block();
            if disk.is_fixed() && (self.next + 1) * cluster > disk.end() || self.next >= 1 << 53 {
                return Err(Errno::ENOSPC);
            }
            if k >= self.table.len() as u64 {
                self.enlarge_table(disk, k, tables)?;
            }
            if self.table[index(k)] == 0 {
                self.add_block(disk, k, tables)?;
            }
            let first = k * self.per_block();
            let (order, from) = (self.order, index(self.next - first));
            let to = index(self.per_block());
            let block = self.block(disk, index(k))?;
            match first_zero(block, from..to, order) {
                Some(i) => {
                    let block = block.to_vec();
                    self.next = first + i as u64;
                    break (block, k);
                }
                // Beyond the end there is nothing that could be used.
                None if first * cluster >= disk.end() => return Err(Errno::EIO),
                None => self.next = first + self.per_block(),
            }
        };
        let first = k * self.per_block();
        let mut found = Vec::new();
        let mut changed: Option<Range<usize>> = None;
        let mut i = self.next - first;
        while i < self.per_block() && found.len() < want {
            if disk.is_fixed() && (first + i + 1) * cluster > disk.end() {
                break;
            }
            if get(&block, index(i), self.order) == 0 {
                let at = set(&mut block, index(i), self.order, 1);
                changed = Some(changed.map_or(at.clone(), |was| was.start..at.end));
                found.push((first + i) * cluster);
            }
            i += 1;
        }
        let Some(changed) = changed else { return Err(Errno::ENOSPC) };
        for at in &found {
            self.none_is_a_table(*at..at + cluster, tables)?;
        }
        for at in &found {
            disk.zero(*at, at + cluster)?;
        }
        let at = self.table[index(k)];
        disk.write(at + changed.start as u64, &block[changed])?;
        self.blocks.put(at, block.into());
        self.next = first + i;
        disk.sync()?;
        self.reserved.extend(found);
        Ok(())
    }

    /// The first cluster that a block counts is the block itself. All that it counts is free.
    fn add_block(&mut self, disk: &mut Disk, k: u64, tables: &Tables<'_>) -> Result<(), Errno> {
        let at = k * self.per_block() * self.cluster();
        if at == 0 {
            return Err(self.corrupt("its beginning has no refcounts"));
        }
        self.none_is_a_table(at..at + self.cluster(), tables)?;
        let mut block = vec![0; index(self.cluster())];
        set(&mut block, 0, self.order, 1);
        disk.reach(at + self.cluster())?;
        disk.write(at, &block)?;
        // Before the table names it. Clusters that it counts wait for the next sync.
        disk.sync()?;
        disk.write(self.table_at.start + k * 8, &at.to_be_bytes())?;
        self.table[index(k)] = at;
        self.block_set.insert(at);
        self.blocks.put(at, block.into());
        Ok(())
    }

    /// A new table, that has a block `k`: at the beginning of what that counts, with the
    /// blocks that count the table and themselves behind it.
    fn enlarge_table(&mut self, disk: &mut Disk, k: u64, tables: &Tables<'_>) -> Result<(), Errno> {
        let (cluster, per_block) = (self.cluster(), self.per_block());
        let start = k * per_block;
        let (mut blocks, mut clusters) = (1, 0);
        loop {
            // Half as large again, so that this is rare.
            let entries = (k + blocks).max(self.table.len() as u64 * 3 / 2);
            let enough = (entries * 8).div_ceil(cluster);
            if enough * cluster > MOST_TABLE {
                return Err(Errno::ENOSPC);
            }
            let needed = (enough + blocks).div_ceil(per_block).max(blocks);
            if (enough, needed) == (clusters, blocks) {
                break;
            }
            (clusters, blocks) = (enough, needed);
        }
        let mut table = self.table.clone();
        table.resize(index(clusters * cluster / 8), 0);
        let at = start * cluster;
        let end = at + (clusters + blocks) * cluster;
        self.none_is_a_table(at..end, tables)?;
        disk.reach(end)?;
        for b in 0..blocks {
            let block_at = at + (clusters + b) * cluster;
            let mut block = vec![0; index(cluster)];
            for i in 0..per_block.min((clusters + blocks).saturating_sub(b * per_block)) {
                set(&mut block, index(i), self.order, 1);
            }
            disk.write(block_at, &block)?;
            table[index(k + b)] = block_at;
        }
        let mut bytes = vec![0; index(clusters * cluster)];
        for (i, entry) in table.iter().enumerate() {
            set_word(&mut bytes, i, *entry);
        }
        disk.write(at, &bytes)?;
        disk.sync()?;
        let mut fields = [0; 12];
        fields[..8].copy_from_slice(&at.to_be_bytes());
        fields[8..].copy_from_slice(&u32::try_from(clusters).map_err(|_| Errno::ENOSPC)?.to_be_bytes());
        disk.write(REFCOUNT_TABLE_FIELDS, &fields)?;
        disk.sync()?;
        let old = std::mem::replace(&mut self.table_at, at..at + bytes.len() as u64);
        self.table = table;
        self.block_set.extend(self.table[index(k)..].iter().filter(|at| **at != 0));
        // It is on the medium that nobody names the old one.
        for old in old.step_by(index(cluster)) {
            self.decrement(disk, old)?;
        }
        Ok(())
    }

    fn decrement(&mut self, disk: &mut Disk, at: u64) -> Result<(), Errno> {
        let n = at / self.cluster();
        let (k, i) = (n / self.per_block(), index(n % self.per_block()));
        if self.table.get(index(k)).is_none_or(|at| *at == 0) {
            return Err(Errno::EIO);
        }
        let (order, k) = (self.order, index(k));
        let block = self.block(disk, k)?;
        let count = get(block, i, order).checked_sub(1).ok_or(Errno::EIO)?;
        let changed = set(block, i, order, count);
        let bytes = block[changed.clone()].to_vec();
        let at = self.table[k];
        let result = disk.write(at + changed.start as u64, &bytes);
        if result.is_err() {
            self.blocks.forget(at);
        }
        result
    }

    /// These bytes are not used any more, after this change of the tables. `covered`: up to
    /// which one a sync was begun.
    pub(super) fn free(&mut self, change: u64, covered: u64, was: Was, at: u64, len: u64) {
        let first = at / self.cluster();
        let clusters = (at + len).div_ceil(self.cluster()) - first;
        let at = first * self.cluster();
        // What the same sync is needed for can be one.
        if let Some(last) = self.freed.back_mut().filter(|last| last.change > covered && last.was == was) {
            let same = last.at == at && last.clusters == clusters;
            if same || last.at + (last.clusters << self.cluster_bits) == at && last.times == 1 {
                *(if same { &mut last.times } else { &mut last.clusters }) += if same { 1 } else { clusters };
                last.change = change;
                return;
            }
        }
        self.freed.push_back(Freed { change, at, clusters, times: 1, was });
        self.fresh += 1;
    }

    /// A sync begins, which is about all that was freed.
    pub(super) fn begin_sync(&mut self) {
        self.fresh = 0;
    }

    /// Do too many wait for a sync that nobody has begun?
    pub(super) fn wants_sync(&self) -> bool {
        self.fresh >= MOST_FRESH
    }

    /// All changes up to this one are on the medium.
    pub(super) fn are_on_medium(&mut self, disk: &mut Disk, change: u64) {
        let mut now = Vec::new();
        while let Some(freed) = self.freed.pop_front_if(|freed| freed.change <= change) {
            now.push(freed);
        }
        // In the order of the file, so that each block is written once; but for ranges that
        // overlap and are in two blocks.
        now.sort_unstable_by_key(|freed| freed.at);
        let mut lost = 0;
        let mut batch = Batch::default();
        for freed in now {
            for n in (freed.at >> self.cluster_bits..).take(index(freed.clusters)) {
                if batch.k != Some(n / self.per_block()) {
                    lost += self.write_batch(disk, &mut batch);
                    batch.k = Some(n / self.per_block());
                }
                if self.lower(disk, n, freed.times, freed.was, &mut batch).is_err() {
                    lost += 1;
                }
            }
        }
        lost += self.write_batch(disk, &mut batch);
        if lost > 0 {
            // Wrong, but no data are.
            log(format_args!("qcow2: {lost} clusters can not be freed (qemu-img check -r leaks)"));
        }
    }

    /// A refcount, in memory.
    fn lower(&mut self, disk: &Disk, n: u64, times: u64, was: Was, batch: &mut Batch) -> Result<(), Errno> {
        let (k, i, order) = (index(n / self.per_block()), index(n % self.per_block()), self.order);
        if self.table.get(k).is_none_or(|at| *at == 0) {
            return Err(Errno::EIO);
        }
        let block = self.block(disk, k)?;
        let count = get(block, i, order).checked_sub(times).ok_or(Errno::EIO)?;
        if count == 0 && was == Was::Data {
            // It was ours alone, unlike what the table said.
            return Err(Errno::EIO);
        }
        let changed = set(block, i, order, count);
        batch.changed = Some(
            batch
                .changed
                .take()
                .map_or(changed.clone(), |all| all.start.min(changed.start)..all.end.max(changed.end)),
        );
        batch.count += 1;
        Ok(())
    }

    /// Returns how many were lost.
    fn write_batch(&mut self, disk: &mut Disk, batch: &mut Batch) -> u64 {
        let Batch { k: Some(k), changed: Some(changed), count } = std::mem::take(batch) else { return 0 };
        let at = self.table[index(k)];
        let bytes = self.blocks.get(at).map(|block| block[changed.clone()].to_vec());
        match bytes.map(|bytes| disk.write(at + changed.start as u64, &bytes)) {
            Some(Ok(())) => 0,
            _ => {
                self.blocks.forget(at);
                count
            }
        }
    }

    /// How much waits to be free.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.freed.len()
    }

    /// Give back what is reserved.
    pub(super) fn release(&mut self, disk: &mut Disk) -> Result<(), Errno> {
        while let Some(at) = self.reserved.pop_front() {
            self.decrement(disk, at)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeroes_are_found() {
        for order in 0..=6 {
            let mut block = vec![0; 64];
            let count = 512 >> order;
            for i in 0..count {
                set(&mut block, i, order, 1);
            }
            assert_eq!(first_zero(&block, 0..count, order), None);
            for i in 0..count {
                set(&mut block, i, order, 0);
                assert_eq!(first_zero(&block, 0..count, order), Some(i));
                assert_eq!(first_zero(&block, i..count, order), Some(i));
                assert_eq!(first_zero(&block, i + 1..count, order), None);
                // A high bit hides nothing.
                set(&mut block, i, order, 1 << ((1 << order) - 1));
            }
        }
    }

    #[test]
    fn all_widths() {
        for order in 0..=6 {
            let mut block = vec![0; 64];
            let bits = 1 << order;
            let most = if bits == 64 { u64::MAX } else { (1 << bits) - 1 };
            let count = 512 >> order;
            for i in 0..count {
                assert_eq!(set(&mut block, i, order, most), i * bits / 8..(i * bits / 8 + (bits / 8).max(1)));
                assert_eq!(get(&block, i, order), most);
                assert!(i + 1 == count || get(&block, i + 1, order) == 0);
            }
            set(&mut block, 1, order, 0);
            assert_eq!((0..3).map(|i| get(&block, i, order)).collect::<Vec<_>>(), [most, 0, most]);
        }
        // Bits begin with the least significant one, bytes with the most.
        let mut block = [0; 8];
        set(&mut block, 1, 1, 2);
        set(&mut block, 1, 4, 0x102);
        assert_eq!(block[..4], [8, 0, 1, 2]);
    }
}
