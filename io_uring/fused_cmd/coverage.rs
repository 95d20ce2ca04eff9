// SPDX-License-Identifier: GPL-2.0

//! What the secondaries of a group leave out of a buffer that they are to fill.
//!
//! A driver that keeps a command takes all of the buffer for good data, so a part that no secondary
//! was given must not show what the memory held before. It is zeroed when the secondaries start. A
//! part that a secondary was given and did not fill is not seen here: see
//! [`secondary`](super::secondary).

use super::{
    chain::Chain,
    secondary, //
};
use core::ptr::NonNull;
use kernel::bindings;

/// How far a buffer is covered by the secondaries so far.
///
/// Each secondary is added before it is issued, so that nothing that one of them has written is
/// zeroed. Only one place is kept: ranges that are not in ascending order have bytes zeroed that
/// are written later. In the usual case, all of the buffer, there is nothing to do: see
/// [`of_several`](Self::of_several).
pub(crate) struct Coverage {
    /// All bytes before this one were given to a secondary, or zeroed. None of those added so far
    /// was given one from here on.
    end: u64,
    /// Length of the buffer.
    len: u64,
}

impl Coverage {
    /// Nothing of `buffer` is covered; [`None`] if the secondaries do not write it.
    pub(crate) fn of(buffer: &bindings::io_mapped_ubuf) -> Option<Self> {
        (u32::from(buffer.dir) == bindings::IO_BUF_DEST).then_some(Self {
            end: 0,
            len: buffer.len as u64,
        })
    }

    /// As [`of`](Self::of), for the first `nr` secondaries in `chain`. [`None`] also if all of the
    /// buffer was given to these: then there is nothing to add.
    ///
    /// # Safety
    ///
    /// They are prepared and not issued, borrow the buffer, and write it if it is to be written.
    pub(crate) unsafe fn of_several(
        buffer: &bindings::io_mapped_ubuf,
        chain: &Chain,
        nr: u16,
    ) -> Option<Self> {
        let this = Self::of(buffer)?;
        let borrowers = || chain.requests().map(NonNull::as_ptr).take(nr.into());
        let mut end = 0;
        // SAFETY: By the safety requirement; the buffer is to be written, or there is no `this`.
        let in_order = unsafe {
            each_range(borrowers(), |range| {
                let goes_on = range.offset <= end;
                end = end.max(range.offset.saturating_add(range.len));
                goes_on
            })
        };
        // SAFETY: As above.
        if in_order && end >= this.len || unsafe { are_all(borrowers(), this.len) } {
            return None;
        }
        Some(this)
    }

    /// Whether `req` alone was given all of the buffer, in one range: then there is nothing to add.
    ///
    /// # Safety
    ///
    /// As for [`add`](Self::add).
    #[inline(always)]
    pub(crate) unsafe fn is_all(&self, req: *mut bindings::io_kiocb) -> bool {
        // SAFETY: By the safety requirement.
        unsafe { secondary::fills(req, self.len) }
    }

    /// Adds the ranges of `req`, and zeroes what there is between them and those before; behind the
    /// last secondary, also the rest. Returns whether that is zero now.
    ///
    /// # Safety
    ///
    /// `req` is a secondary that writes the buffer, is prepared but not issued, and has a reference
    /// on the buffer.
    // A function of its own: one secondary alone is nearly always given all of the buffer.
    #[inline(never)]
    #[must_use]
    pub(crate) unsafe fn add(&mut self, req: *mut bindings::io_kiocb, is_last: bool) -> bool {
        let mut zeroed = true;

        // SAFETY: By the safety requirement.
        for i in 0..unsafe { secondary::nr_ranges(req) } {
            // SAFETY: By the safety requirement, and `i` is less than their number.
            let range = unsafe { secondary::nth_range(req, i) };
            // One that is out of the buffer fails, and with it the group.
            let start = range.offset.min(self.len);

            if start > self.end {
                // SAFETY: By the safety requirement.
                zeroed &= unsafe { secondary::zero(req, self.end, (start - self.end) as usize) };
            }
            self.end = self.end.max(start.saturating_add(range.len).min(self.len));
        }
        if is_last && self.end < self.len {
            // SAFETY: By the safety requirement.
            zeroed &= unsafe { secondary::zero(req, self.end, (self.len - self.end) as usize) };
        }
        zeroed
    }
}

/// Calls `f` for each range of `secondaries`, until it returns false. Returns whether it never did.
///
/// # Safety
///
/// They write a leased buffer, and are prepared and not issued.
unsafe fn each_range(
    secondaries: impl Iterator<Item = *mut bindings::io_kiocb>,
    mut f: impl FnMut(bindings::io_fused_range) -> bool,
) -> bool {
    for req in secondaries {
        // SAFETY: By the safety requirement.
        for i in 0..unsafe { secondary::nr_ranges(req) } {
            // SAFETY: By the safety requirement, and `i` is less than their number.
            if !f(unsafe { secondary::nth_range(req, i) }) {
                return false;
            }
        }
    }
    true
}

/// Whether `secondaries` were given all of a buffer of `len` bytes, in whatever order, as those of
/// a stripe are. False also for some whose ranges are not made of whole blocks.
///
/// # Safety
///
/// As for [`each_range`].
#[inline(never)]
unsafe fn are_all(secondaries: impl Iterator<Item = *mut bindings::io_kiocb>, len: u64) -> bool {
    let mut blocks = Blocks::of(len);

    // SAFETY: By the safety requirement.
    unsafe {
        each_range(secondaries, |range| {
            blocks.give(range.offset, range.len);
            true
        })
    };
    blocks.are_given()
}

/// Which blocks of a buffer were given to secondaries.
struct Blocks {
    given: [u64; Self::MAX / 64],
    /// The size of a block, as a power of two.
    shift: u32,
    /// Length of the buffer.
    len: u64,
}

impl Blocks {
    /// The most blocks of a buffer: that many of 4 KiB are 2 MiB.
    const MAX: usize = 512;
    /// That of a sector. Smaller ranges are taken for such that leave something out.
    const MIN_SHIFT: u32 = 9;

    /// None of a buffer of `len` bytes is given yet.
    fn of(len: u64) -> Self {
        let per_block = len.div_ceil(Self::MAX as u64);

        Self {
            given: [0; Self::MAX / 64],
            shift: per_block.next_power_of_two().ilog2().max(Self::MIN_SHIFT),
            len,
        }
    }

    /// The blocks that are completely inside of a range are given.
    fn give(&mut self, offset: u64, len: u64) {
        let end = offset.saturating_add(len);
        let last = if end >= self.len {
            // The last block may be a shorter one.
            self.nr()
        } else {
            end >> self.shift
        };
        let mut block = offset.div_ceil(1 << self.shift);

        while block < last {
            let (word, bit) = (block / 64, block % 64);
            let nr = (last - block).min(64 - bit);
            if let Some(word) = self.given.get_mut(word as usize) {
                *word |= (u64::MAX >> (64 - nr)) << bit;
            }
            block += nr;
        }
    }

    /// Whether all of them are.
    fn are_given(&self) -> bool {
        let given: u32 = self.given.iter().map(|word| word.count_ones()).sum();

        u64::from(given) == self.nr()
    }

    /// How many there are.
    fn nr(&self) -> u64 {
        self.len.div_ceil(1 << self.shift)
    }
}
