// SPDX-License-Identifier: GPL-2.0

//! An image: where in its file a part of the disk is.

use super::{
    cache::{Cache, set_word, word},
    disk::Disk,
    entry::{self, Cluster, Compressed, Entry},
    header::Header,
    inflate::inflate,
    refcount::{Refcounts, Tables, Was},
    syncs::{Begun, Syncs},
};
use std::{cell::Cell, collections::HashSet, io, ops::Range, path::PathBuf};
use ublk_server::{Errno, FileId, log};

/// The part that only an image which is written has.
pub(super) struct Writer {
    refcounts: Refcounts,
    syncs: Syncs,
    /// Where L2 tables are: nothing else may be.
    l2_set: HashSet<u64>,
}

impl Writer {
    fn free(&mut self, change: u64, was: Was, at: u64, len: u64) {
        self.refcounts.free(change, self.syncs.covered(), was, at, len);
    }
}

/// An open image.
pub(super) struct Image {
    pub(super) path: PathBuf,
    pub(super) id: FileId,
    pub(super) header: Header,
    pub(super) disk: Disk,
    l1: Vec<u64>,
    l2: Cache,
    pub(super) writer: Option<Writer>,
    /// The cluster that was decompressed last.
    unpacked: Option<(Compressed, Vec<u8>)>,
    told: Cell<bool>,
}

fn index(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

impl Image {
    pub(super) fn open(
        path: PathBuf,
        id: FileId,
        header: Header,
        disk: Disk,
        write: bool,
    ) -> io::Result<Image> {
        let say = |what: &str, e: Errno| io::Error::other(format!("{}: {what}: {e}", path.display()));
        let at = header.l1.clone();
        if at.end > disk.end() {
            return Err(say("the L1 table is beyond the end", Errno::EIO));
        }
        let mut bytes = vec![0; index(at.end - at.start)];
        disk.read(at.start, &mut bytes).map_err(|e| say("the L1 table can not be read", e))?;
        let mut l1 = Vec::with_capacity(bytes.len() / 8);
        l1.extend((0..bytes.len() / 8).map(|i| word(&bytes, i)));
        let writer = if write {
            let refcounts = Refcounts::read(&header, &disk);
            let refcounts = refcounts.map_err(|e| say("the refcount table can not be read", e))?;
            let l2 = l1.iter().filter_map(|raw| Some(entry::l1(*raw, header.cluster_bits).ok()??.at));
            // Those beyond the end are refused anyhow, when they are used.
            let l2_set = l2.filter(|at| *at < disk.end()).collect();
            Some(Writer { refcounts, syncs: Syncs::default(), l2_set })
        } else {
            None
        };
        let l2 = Cache::new(index(header.cluster()));
        Ok(Image { path, id, header, disk, l1, l2, writer, unpacked: None, told: Cell::new(false) })
    }

    /// Something of the image will be written, if it can be.
    pub(super) fn begin_writing(&mut self) -> Result<(), Errno> {
        if self.writer.is_none() {
            return Err(Errno::EROFS);
        }
        if self.header.autoclear != 0 {
            // What these say will not be true any more, and never seem to be.
            self.disk.write(super::header::AUTOCLEAR_OFFSET, &[0; 8])?;
            self.disk.sync()?;
            self.header.autoclear = 0;
        }
        Ok(())
    }

    pub(super) fn cluster(&self) -> u64 {
        self.header.cluster()
    }

    /// The image is damaged; somebody should know, once.
    fn bad(&self, what: &str, at: u64) -> Errno {
        if !self.told.replace(true) {
            log(format_args!("qcow2: {}: {what} ({at:#x}); qemu-img check tells more", self.path.display()));
        }
        Errno::EIO
    }

    /// Which entries of which tables a cluster of the disk has.
    fn position(&self, n: u64) -> (usize, usize) {
        let bits = self.header.cluster_bits - 3;
        (index(n >> bits), index(n & ((1 << bits) - 1)))
    }

    /// Is this in one of the tables that are kept in memory, which nobody else may write?
    fn is_table(&self, at: u64) -> bool {
        let overlaps = |table: Range<u64>| at < table.end && table.start < at + self.cluster();
        let refcounts = self.writer.as_ref().map(|writer| writer.refcounts.table_at());
        overlaps(self.header.l1.clone())
            || overlaps(refcounts.unwrap_or(self.header.refcount_table.clone()))
            || self.writer.as_ref().is_some_and(|writer| writer.refcounts.is_block(at))
    }

    fn l2_table(&mut self, at: u64) -> Result<&mut [u8], Errno> {
        if self.l2.get(at).is_none() {
            if at >= self.disk.end() || self.is_table(at) {
                return Err(self.bad("an L2 table is where it can not be", at));
            }
            let mut bytes = vec![0; index(self.cluster())];
            // The end of the last one may never have been written.
            self.disk.read_padded(at, &mut bytes)?;
            self.l2.put(at, bytes.into());
        }
        self.l2.get(at).ok_or(Errno::EIO)
    }

    /// What is known of cluster `n` of the disk.
    pub(super) fn entry(&mut self, n: u64) -> Result<Entry, Errno> {
        let (i, k) = self.position(n);
        let (bits, version) = (self.header.cluster_bits, self.header.version);
        let raw = self.l1.get(i).copied().unwrap_or(0);
        let table = entry::l1(raw, bits).map_err(|()| self.bad("an L1 entry can not be", raw))?;
        let Some(table) = table else { return Ok(Entry::Missing) };
        let raw = word(self.l2_table(table.at)?, k);
        Entry::decode(raw, bits, version).map_err(|()| self.bad("an L2 entry can not be", raw))
    }

    /// Decompress a cluster, from `within` of it on.
    pub(super) fn unpack(&mut self, what: Compressed, within: u64, to: &mut [u8]) -> Result<(), Errno> {
        if self.unpacked.as_ref().is_none_or(|(kept, _)| *kept != what) {
            let mut packed = vec![0; index(what.len)];
            // The last sector may end with the file.
            self.disk.read_padded(what.offset, &mut packed)?;
            let mut data = self.unpacked.take().map_or_else(Vec::new, |(_, data)| data);
            data.resize(index(self.cluster()), 0);
            inflate(self.header.compression, &packed, &mut data)
                .map_err(|_| self.bad("a compressed cluster is damaged", what.offset))?;
            self.unpacked = Some((what, data));
        }
        let from = index(within);
        let data = self.unpacked.as_ref().and_then(|(_, data)| data.get(from..from.checked_add(to.len())?));
        to.copy_from_slice(data.ok_or(Errno::EIO)?);
        Ok(())
    }

    /// A cluster may be written by requests.
    pub(super) fn check_writable(&mut self, cluster: Cluster) -> Result<(), Errno> {
        let is_l2 = self.writer.as_ref().is_some_and(|writer| writer.l2_set.contains(&cluster.at));
        if is_l2 || self.is_table(cluster.at) {
            return Err(self.bad("a cluster of data is a table", cluster.at));
        }
        self.disk.reach(cluster.at + self.cluster())
    }

    /// A new cluster, see [`Refcounts::take()`].
    pub(super) fn take(&mut self) -> Result<u64, Errno> {
        let Image { writer: Some(writer), disk, header, .. } = self else { return Err(Errno::EROFS) };
        let fixed = [0..header.cluster(), header.l1.clone()];
        writer.refcounts.take(disk, &Tables { fixed, l2: &writer.l2_set })
    }

    /// A cluster that was taken, and that no table was ever made to name. `written`: it may
    /// have something else than zeroes.
    pub(super) fn give_back(&mut self, at: u64, written: bool) {
        // Nothing has to be on the medium, but there may be no other reason for a sync.
        let change = if written { self.changed() } else { 0 };
        match &mut self.writer {
            Some(writer) if written => writer.free(change, Was::Ours, at, 1),
            Some(writer) => writer.refcounts.give_back(at),
            None => {}
        }
    }

    /// The L2 table `i`, ours to change.
    fn own_l2(&mut self, i: usize) -> Result<u64, Errno> {
        let raw = *self.l1.get(i).ok_or(Errno::EIO)?;
        let table = entry::l1(raw, self.header.cluster_bits);
        let old = match table.map_err(|()| self.bad("an L1 entry can not be", raw))? {
            Some(table) if table.own => return Ok(table.at),
            old => old,
        };
        let at = self.take()?;
        if let Some(old) = old {
            let copy = match self.l2_table(old.at).map(|table| table.to_vec()) {
                Ok(copy) => copy,
                Err(errno) => {
                    self.give_back(at, false);
                    return Err(errno);
                }
            };
            let result = self.disk.write(at, &copy);
            if let Err(errno) = result.and_then(|()| self.disk.sync()) {
                self.give_back(at, true);
                return Err(errno);
            }
            self.l2.put(at, copy.into());
        } else {
            self.l2.put(at, vec![0; index(self.cluster())].into());
        }
        let raw = entry::own(at);
        // Whatever becomes of it, a part may be written.
        let change = self.changed();
        self.disk.write(self.header.l1.start + i as u64 * 8, &raw.to_be_bytes())?;
        self.l1[i] = raw;
        if let Some(writer) = &mut self.writer {
            writer.l2_set.insert(at);
            if let Some(old) = old {
                // Only a damaged image has it twice.
                let named = |raw: &u64| raw & !entry::own(0) == old.at;
                if !self.l1.iter().any(named) {
                    writer.l2_set.remove(&old.at);
                }
                writer.free(change, Was::Ours, old.at, 1);
            }
        }
        Ok(at)
    }

    fn changed(&mut self) -> u64 {
        self.writer.as_mut().map_or(0, |writer| writer.syncs.change())
    }

    /// These clusters of the disk, in order, have other entries from now on. What they had
    /// before is free. What they name is on the medium. An error comes with how many of them
    /// tables may have.
    pub(super) fn publish(&mut self, new: &[(u64, u64)]) -> Result<(), (Errno, usize)> {
        let mut left = new;
        while let Some((first, _)) = left.first() {
            let i = self.position(*first).0;
            let same = left.iter().take_while(|(n, _)| self.position(*n).0 == i).count();
            let (now, later) = left.split_at(same);
            let mut tried = false;
            if let Err(errno) = self.publish_in(i, now, &mut tried) {
                let left = if tried { later } else { left };
                return Err((errno, new.len() - left.len()));
            }
            left = later;
        }
        if self.writer.as_ref().is_some_and(|writer| writer.refcounts.wants_sync()) {
            let all = |errno| (errno, new.len());
            let begun = self.begin_sync().map_err(all)?;
            let result = self.disk.sync();
            self.end_sync(begun, result).map_err(all)?;
        }
        Ok(())
    }

    fn publish_in(&mut self, i: usize, new: &[(u64, u64)], tried: &mut bool) -> Result<(), Errno> {
        let at = self.own_l2(i)?;
        let (bits, version) = (self.header.cluster_bits, self.header.version);
        let places: Vec<_> = new.iter().map(|(n, raw)| (self.position(*n).1, *raw)).collect();
        let (Some((first, _)), Some((last, _))) = (places.first(), places.last()) else { return Ok(()) };
        let changed = first * 8..(last + 1) * 8;
        let table = self.l2_table(at)?;
        let mut old = Vec::new();
        for (k, raw) in &places {
            old.push((word(table, *k), *raw));
            set_word(table, *k, *raw);
        }
        let bytes = table[changed.clone()].to_vec();
        let (change, cluster) = (self.changed(), self.cluster());
        *tried = true;
        if let Err(errno) = self.disk.write(at + changed.start as u64, &bytes) {
            // Nobody knows how much of it was written.
            self.l2.forget(at);
            return Err(errno);
        }
        let Some(writer) = &mut self.writer else { return Err(Errno::EROFS) };
        for (was, raw) in old {
            match Entry::decode(was, bits, version) {
                Ok(Entry::Data(old) | Entry::Zero(Some(old))) if raw != entry::own(old.at) => {
                    writer.free(change, Was::Data, old.at, cluster);
                }
                Ok(Entry::Compressed(old)) => writer.free(change, Was::Ours, old.offset, old.len),
                _ => {}
            }
        }
        Ok(())
    }

    /// Somebody begins to get all that was written to the medium.
    pub(super) fn begin_sync(&mut self) -> Result<Option<Begun>, Errno> {
        self.disk.check()?;
        Ok(self.writer.as_mut().map(|writer| {
            writer.refcounts.begin_sync();
            writer.syncs.begin()
        }))
    }

    /// He is back. What is free now, if nothing was ever lost, is free on the medium soon.
    pub(super) fn end_sync(&mut self, begun: Option<Begun>, result: Result<(), Errno>) -> Result<(), Errno> {
        self.disk.synced(result);
        // That of somebody else may have told of what this one has lost.
        let good = result.and(self.disk.check());
        if let (Some(writer), Some(begun)) = (&mut self.writer, begun)
            && let Some(change) = writer.syncs.end(begun, good.is_ok())
        {
            writer.refcounts.are_on_medium(&mut self.disk, change);
        }
        good
    }

    #[cfg(test)]
    pub(super) fn pending(&self) -> bool {
        self.writer.as_ref().is_some_and(|writer| writer.syncs.pending())
    }

    /// How much waits to be free.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.writer.as_ref().map_or(0, |writer| writer.refcounts.waiting())
    }

    /// In the end: what was reserved is not used.
    pub(super) fn close(&mut self) -> Result<(), Errno> {
        if self.writer.is_none() {
            return Ok(());
        }
        self.disk.sync()?;
        let Some(writer) = &mut self.writer else { return Ok(()) };
        // Nobody is left who could tell of anything that was lost.
        writer.refcounts.are_on_medium(&mut self.disk, u64::MAX);
        writer.refcounts.release(&mut self.disk)?;
        self.disk.sync()
    }
}
