// SPDX-License-Identifier: GPL-2.0

//! Zeroing the data of a request.
//!
//! C header: [`include/linux/bio.h`](srctree/include/linux/bio.h)

use super::RequestView;
use crate::bindings;

impl RequestView {
    /// Fills all data of the request with zeroes. Does nothing to a request that transfers towards
    /// the device ([`Op::is_write`](super::Op::is_write)), whose data belongs to whoever sent it,
    /// or that has no data.
    ///
    /// Any context. Wraps the C function `zero_fill_bio()`.
    pub fn zero_data(&self) {
        if self.is_write() || !self.has_data() {
            return;
        }
        // SAFETY: By the type invariants the request is valid and this field does not change.
        let mut bio = unsafe { (*self.as_raw()).bio };

        while !bio.is_null() {
            // SAFETY: By the type invariants the bios of the request are valid and do not change,
            // and its pages stay allocated. They may be written, as the request transfers from the
            // device; whoever else writes them meanwhile does so with the driver's consent.
            unsafe {
                bindings::zero_fill_bio(bio);
                bio = (*bio).bi_next;
            }
        }
    }
}
