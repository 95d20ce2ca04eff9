// SPDX-License-Identifier: GPL-2.0

//! What the secondaries of a group leave out of a buffer that they are to fill.
//!
//! A driver that keeps a command takes all of the buffer for good data, so a part that no secondary
//! was given must not show what the memory held before. It is zeroed when the secondaries start. A
//! part that a secondary was given and did not fill is not seen here: see
//! [`secondary`](super::secondary).

use super::secondary;
use kernel::bindings;

/// How far a buffer is covered by the secondaries so far.
///
/// Each secondary is added before it is issued, so that nothing that one of them has written is
/// zeroed. Only one place is kept: ranges that are not in ascending order have bytes zeroed that
/// are written later. In the usual case, ranges in order and without gaps, there is nothing to do.
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
