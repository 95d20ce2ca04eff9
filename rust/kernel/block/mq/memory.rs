// SPDX-License-Identifier: GPL-2.0

//! Where the data of a request is in memory.

use super::RequestView;
use crate::mm::physical::{
    MemoryRange,
    PageId, //
};

impl RequestView {
    /// The memory of the request's data, as physically contiguous pieces in the order of the data.
    /// A request without data has none.
    ///
    /// This only tells which memory it is. Any context. As `rq_for_each_bvec()` in C.
    #[inline]
    pub fn memory(&self) -> impl Iterator<Item = MemoryRange> + '_ {
        self.bvecs().map(|bv| {
            MemoryRange::new(
                // SAFETY: It is a page of the request, which is live.
                unsafe { PageId::from_raw(bv.bv_page) },
                bv.bv_offset as usize,
                bv.bv_len as usize,
            )
        })
    }
}
