// SPDX-License-Identifier: GPL-2.0

//! From a request to the driver's data of its queue.
//!
//! C header: [`include/linux/blk-mq.h`](srctree/include/linux/blk-mq.h)

use crate::{
    bindings,
    block::mq::{
        Operations,
        OwnedRequest,
        Request,
        RequestView, //
    },
    types::ForeignOwnable, //
};

impl<T: Operations> OwnedRequest<T> {
    /// The data that the driver gave to the disk of this request.
    ///
    /// For callbacks that get nothing but a request, for example [`Operations::lease_ended`].
    ///
    /// # Context
    ///
    /// Any. Reads the C field `queuedata`.
    #[inline]
    pub fn queue_data(&self) -> <T::QueueData as ForeignOwnable>::Borrowed<'_> {
        // SAFETY: By the type invariants the request is valid and owned by the driver, so it is in
        // flight.
        unsafe { queue_data_of::<T>(self) }
    }
}

impl<T: Operations> Request<T> {
    /// As [`OwnedRequest::queue_data`].
    #[inline]
    pub fn queue_data(&self) -> <T::QueueData as ForeignOwnable>::Borrowed<'_> {
        // SAFETY: By the type invariants there is a reference to the request, which keeps it in
        // flight.
        unsafe { queue_data_of::<T>(self) }
    }
}

/// # Safety
///
/// `rq` is a request of a disk of `T`, which is in flight.
#[inline]
unsafe fn queue_data_of<T: Operations>(
    rq: &RequestView,
) -> <T::QueueData as ForeignOwnable>::Borrowed<'_> {
    // CAST: `RequestView` is a transparent wrapper around `struct request`.
    let rq = core::ptr::from_ref(rq).cast::<bindings::request>();
    // SAFETY: By the safety requirement the queue is valid.
    let data = unsafe { (*(*rq).q).queuedata };
    // SAFETY: `queuedata` was made by `into_foreign()` when the disk was allocated.
    // `from_foreign()` is called when the last reference to the disk is gone; that is after
    // `del_gendisk()`, which waits for all requests in flight.
    unsafe { T::QueueData::borrow(data) }
}
