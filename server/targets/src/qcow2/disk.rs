// SPDX-License-Identifier: GPL-2.0

//! The file of an image, for what is read and written here and not by requests.

use std::{
    fs::File,
    io,
    os::unix::fs::{FileExt, FileTypeExt},
};
use ublk_server::{Errno, is_loss};

/// A file, and how far it goes.
pub(super) struct Disk {
    file: File,
    end: u64,
    /// A block device stays as large as it is, and has old data wherever nobody wrote.
    fixed: bool,
    /// What was written is lost, and nobody knows what. Nothing is ever on the medium again.
    failed: bool,
    #[cfg(test)]
    pub(super) log: super::power_cut::Log,
    /// After so many writes one fails.
    #[cfg(test)]
    pub(super) fail_after: Option<u32>,
}

static ZEROES: [u8; 64 << 10] = [0; 64 << 10];

impl Disk {
    pub(super) fn new(file: File, end: u64) -> io::Result<Disk> {
        let fixed = file.metadata()?.file_type().is_block_device();
        Ok(Disk {
            file,
            end,
            fixed,
            failed: false,
            #[cfg(test)]
            log: Default::default(),
            #[cfg(test)]
            fail_after: None,
        })
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    pub(super) fn end(&self) -> u64 {
        self.end
    }

    pub(super) fn is_fixed(&self) -> bool {
        self.fixed
    }

    /// Read all of it, or fail.
    pub(super) fn read(&self, at: u64, to: &mut [u8]) -> Result<(), Errno> {
        Ok(self.file.read_exact_at(to, at)?)
    }

    /// Read; beyond the end there are zeroes.
    pub(super) fn read_padded(&self, at: u64, to: &mut [u8]) -> Result<(), Errno> {
        let there = usize::try_from(self.end.saturating_sub(at)).unwrap_or(usize::MAX).min(to.len());
        let (data, rest) = to.split_at_mut(there);
        rest.fill(0);
        self.read(at, data)
    }

    pub(super) fn write(&mut self, at: u64, data: &[u8]) -> Result<(), Errno> {
        #[cfg(test)]
        match self.fail_after.take() {
            Some(0) => return Err(Errno::EIO),
            left => self.fail_after = left.map(|left| left - 1),
        }
        #[cfg(test)]
        self.log.write(at, data);
        self.file.write_all_at(data, at)?;
        self.end = self.end.max(at + data.len() as u64);
        Ok(())
    }

    /// Make this zero. Where the file does not reach yet, it is.
    pub(super) fn zero(&mut self, mut at: u64, end: u64) -> Result<(), Errno> {
        while at < end.min(self.end) {
            let len = usize::try_from(end.min(self.end) - at).unwrap_or(usize::MAX).min(ZEROES.len());
            self.write(at, &ZEROES[..len])?;
            at += len as u64;
        }
        self.reach(end)
    }

    /// The file goes so far at least.
    pub(super) fn reach(&mut self, end: u64) -> Result<(), Errno> {
        if end > self.end {
            if self.fixed {
                return Err(Errno::ENOSPC);
            }
            #[cfg(test)]
            self.log.reach(end);
            self.file.set_len(end)?;
            self.end = end;
        }
        Ok(())
    }

    /// All that was written is on the medium.
    pub(super) fn sync(&mut self) -> Result<(), Errno> {
        self.check()?;
        let result = self.file.sync_data().map_err(Errno::from);
        self.synced(result);
        result
    }

    /// Somebody has got all that was written to the medium, or has not.
    pub(super) fn synced(&mut self, result: Result<(), Errno>) {
        #[cfg(test)]
        self.log.sync();
        self.failed |= result.is_err_and(is_loss);
    }

    /// Has it always been possible to get data to the medium?
    pub(super) fn check(&self) -> Result<(), Errno> {
        if self.failed { Err(Errno::EIO) } else { Ok(()) }
    }
}
