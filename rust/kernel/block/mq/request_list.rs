// SPDX-License-Identifier: GPL-2.0

//! Requests that the block layer hands over together.
//!
//! C header: [`include/linux/blk-mq.h`](srctree/include/linux/blk-mq.h)

use super::{
    Operations,
    Request, //
};
use crate::{
    bindings,
    sync::aref::ARef, //
};
use core::marker::PhantomData;

/// New requests of one disk, maybe for several hardware queues, in the order of their submission.
///
/// The iterator starts each request that it returns, which the driver has to end then, as one that
/// [`Operations::queue_rq`] accepted. The block layer queues those that are left by `queue_rq()`.
///
/// Wraps the C `struct rq_list`.
///
/// # Invariants
///
/// `list` is a valid list of requests that satisfy the invariants of [`Request<T>`], have a tag,
/// and are not started. They belong to the list, and nobody else uses it.
pub struct RequestList<'a, T: Operations> {
    list: &'a mut bindings::rq_list,
    _p: PhantomData<ARef<Request<T>>>,
}

impl<'a, T: Operations> RequestList<'a, T> {
    /// # Safety
    ///
    /// The type invariants must hold for `list` during `'a`.
    #[inline]
    pub(super) unsafe fn from_raw(list: &'a mut bindings::rq_list) -> Self {
        // INVARIANT: By the safety requirement.
        Self {
            list,
            _p: PhantomData,
        }
    }

    /// Takes the first request off the list.
    #[inline]
    fn pop(&mut self) -> Option<*mut bindings::request> {
        let rq = self.list.head;
        if rq.is_null() {
            return None;
        }

        // SAFETY: By the type invariants the request is valid and belongs to the list, so it is
        // linked by this field.
        unsafe {
            self.list.head = (*rq).__bindgen_anon_1.rq_next;
            (*rq).__bindgen_anon_1.rq_next = core::ptr::null_mut();
        }
        if self.list.head.is_null() {
            self.list.tail = core::ptr::null_mut();
        }
        Some(rq)
    }
}

impl<T: Operations> Iterator for RequestList<'_, T> {
    type Item = ARef<Request<T>>;

    #[inline]
    fn next(&mut self) -> Option<ARef<Request<T>>> {
        let rq = self.pop()?;

        // SAFETY: By the type invariants this was a request of the list. It is not any more, so it
        // is ours.
        let rq = unsafe { Request::share_raw(rq) };
        // SAFETY: There is only this reference.
        unsafe { Request::start_unchecked(&rq) };
        Some(rq)
    }
}
