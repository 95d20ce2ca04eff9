// SPDX-License-Identifier: GPL-2.0

//! Requests that end together.
//!
//! C header: [`include/linux/blk-mq.h`](srctree/include/linux/blk-mq.h)

use super::{
    owned::DeferFput,
    BlkStatus,
    Op,
    Operations,
    OwnedRequest, //
};
use crate::bindings;
use core::marker::PhantomData;

/// Requests that succeeded, and that end when this is dropped: the block layer gives their tags
/// back together, and looks at the clock once.
///
/// Nobody is told of the end of a request before that. So keep it for as long as the next request
/// comes without waiting.
///
/// Wraps the C `struct io_comp_batch`.
///
/// # Context
///
/// As for [`OwnedRequest`].
///
/// # Examples
///
/// ```
/// use kernel::block::mq::{
///     CompletionBatch,
///     Operations,
///     OwnedRequest, //
/// };
///
/// fn end_all<T: Operations>(requests: impl Iterator<Item = OwnedRequest<T>>) {
///     let mut batch = CompletionBatch::default();
///     for rq in requests {
///         batch.add(rq);
///     }
///     // They end here.
/// }
/// ```
///
/// # Invariants
///
/// The list of `raw` owns its requests as an [`OwnedRequest<T>`] does. `raw.complete` is set if
/// there are any, to `blk_mq_end_request_batch()`.
pub struct CompletionBatch<T: Operations> {
    raw: bindings::io_comp_batch,
    _owned: PhantomData<OwnedRequest<T>>,
}

impl<T: Operations> Default for CompletionBatch<T> {
    /// Makes an empty batch.
    #[inline]
    fn default() -> Self {
        // INVARIANT: There are no requests.
        Self {
            raw: pin_init::zeroed(),
            _owned: PhantomData,
        }
    }
}

impl<T: Operations> CompletionBatch<T> {
    /// Adds a request, all of which has succeeded. One that can not end in a batch ends at once.
    ///
    /// Wraps C's `blk_mq_add_to_batch()`.
    #[inline]
    pub fn add(&mut self, rq: OwnedRequest<T>) {
        if rq.op() == Op::ZoneAppend {
            // An error: see there.
            return rq.end(BlkStatus::OK);
        }
        // INVARIANT: If the request is added, then it is given up, and the callback is set.
        //
        // SAFETY: The request is owned exclusively, so it can be linked to others. The batch is
        // valid.
        let added = unsafe {
            bindings::blk_mq_add_to_batch(
                rq.as_raw(),
                &mut self.raw,
                false,
                Some(bindings::blk_mq_end_request_batch),
            )
        };
        if added {
            rq.into_raw();
        } else {
            rq.end(BlkStatus::OK);
        }
    }
}

impl<T: Operations> Drop for CompletionBatch<T> {
    #[inline]
    fn drop(&mut self) {
        if self.raw.complete.is_some() {
            let _fput = DeferFput::new();

            // SAFETY: By the type invariants the requests were owned exclusively; so they can be
            // given back, and nobody uses them afterwards.
            unsafe { bindings::blk_mq_end_request_batch(&mut self.raw) };
        }
    }
}
