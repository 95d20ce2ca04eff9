// SPDX-License-Identifier: GPL-2.0

//! A request that has no other owner.
//!
//! C header: [`include/linux/blk-mq.h`](srctree/include/linux/blk-mq.h)

use super::{
    BlkStatus,
    Op,
    Operations,
    Request,
    RequestView, //
};
use crate::{
    bindings,
    sync::aref::ARef, //
};
use core::{
    marker::PhantomData,
    mem::ManuallyDrop,
    ops::Deref,
    ptr::NonNull, //
};

/// A request that the driver owns exclusively, and so can give back to the block layer.
///
/// It comes from the last [`ARef`] to the request, through [`Request::into_unique_or_drop`]. It is
/// given back exactly once: by one of the methods that consume it, or with [`BlkStatus::IOERR`]
/// when it is dropped.
///
/// # Context
///
/// All methods may be called, and the value be dropped, in any context but an NMI. None sleeps,
/// allocates or takes a lock of the driver.
///
/// Ending the request may run the completion of its bios; a task has softirqs disabled meanwhile.
/// If the last reference to a file is dropped there, then the file is released later by a work
/// item, and not by the task that ends the request. A server that completes the requests of its own
/// block device depends on that: the release of the block device may wait for that very task.
///
/// # Invariants
///
/// `rq` is valid and satisfies the invariants of [`Request<T>`]. It is owned by the driver, and
/// `self` is its only owner: its reference count is 0 and no [`ARef`] to it exists.
#[must_use = "a request that is dropped ends with an I/O error"]
pub struct OwnedRequest<T: Operations> {
    rq: NonNull<bindings::request>,
    _p: PhantomData<ARef<Request<T>>>,
}

// SAFETY: A request is not bound to the thread that got it.
unsafe impl<T: Operations> Send for OwnedRequest<T> {}

// SAFETY: Through a shared reference one only gets the `RequestView`, which is `Sync`, and the
// queue data, which `Operations` demands to be `Sync`.
unsafe impl<T: Operations> Sync for OwnedRequest<T> {}

impl<T: Operations> OwnedRequest<T> {
    /// Takes exclusive ownership of a request.
    ///
    /// # Safety
    ///
    /// The type invariants must hold, and ownership passes to the returned value.
    #[inline]
    pub(super) unsafe fn from_raw(rq: NonNull<bindings::request>) -> Self {
        // INVARIANT: By the safety requirements of this function.
        Self {
            rq,
            _p: PhantomData,
        }
    }

    /// The pointer.
    #[inline]
    pub(super) fn as_raw(&self) -> *mut bindings::request {
        self.rq.as_ptr()
    }

    /// The pointer, whose ownership passes to the caller.
    #[inline]
    pub(super) fn into_raw(self) -> *mut bindings::request {
        ManuallyDrop::new(self).rq.as_ptr()
    }

    /// Ends the request with `status`. A zone append that has succeeded needs
    /// [`end_append`](Self::end_append), or else it ends with [`BlkStatus::IOERR`]: who asked would
    /// not know where its data is.
    ///
    /// Wraps the C function `blk_mq_end_request()`.
    // By itself the compiler does not, if there are several callers: 10 instructions of a request.
    #[inline(always)]
    pub fn end(self, status: BlkStatus) {
        let lost = status == BlkStatus::OK && self.op() == Op::ZoneAppend;

        self.end_with(if lost { BlkStatus::IOERR } else { status });
    }

    #[inline]
    fn end_with(self, status: BlkStatus) {
        let rq = self.into_raw();
        let _fput = DeferFput::new();

        // SAFETY: By the type invariants the request was owned exclusively; so it can be given
        // back, and nobody uses it afterwards.
        unsafe { bindings::blk_mq_end_request(rq, status.as_raw()) };
    }

    /// Ends a zone append with success: its data was written from `sector` on.
    ///
    /// If the data does not fit into the zone there that the request was for, or if this is no zone
    /// append, then the request ends with [`BlkStatus::IOERR`] instead: who asked would look for
    /// the data where it can not be.
    ///
    /// As [`Self::end`] otherwise.
    pub fn end_append(self, sector: u64) {
        if self.op() != Op::ZoneAppend || !self.is_in_zone(sector) {
            return self.end(BlkStatus::IOERR);
        }
        // SAFETY: By the type invariants the request is owned exclusively, so nobody else looks at
        // this field. This is where the block layer looks for the sector of a zone append.
        unsafe { (*self.rq.as_ptr()).__sector = sector };
        self.end_with(BlkStatus::OK);
    }

    /// Whether as many sectors as the request has lie in its zone, from `sector` on.
    fn is_in_zone(&self, sector: u64) -> bool {
        // SAFETY: By the type invariants the request is valid, and so is its queue.
        let queue = unsafe { (*self.rq.as_ptr()).q };
        // SAFETY: The size of a zone does not change.
        let zone = u64::from(unsafe { (*queue).limits.chunk_sectors });
        // SAFETY: A queue with a request of a user has a disk, and that a block device. Its size
        // may be changed meanwhile: this sees one or the other.
        let disk_end =
            unsafe { (&raw const (*(*(*queue).disk).part0).bd_nr_sectors).read_volatile() };
        let end = sector.checked_add(self.sectors().into());

        zone.is_power_of_two()
            && sector & !(zone - 1) == self.sector() & !(zone - 1)
            && end.is_some_and(|end| {
                // The last zone may be smaller.
                end <= (sector & !(zone - 1)).saturating_add(zone).min(disk_end)
            })
    }

    /// Ends the first `bytes` bytes of the request with success. If that is not all of it, then the
    /// rest is queued again. `bytes` should be a multiple of the logical block size.
    ///
    /// Wraps the C functions `blk_update_request()`, and then `__blk_mq_end_request()` or
    /// `blk_mq_requeue_request()`.
    #[inline]
    pub fn end_partial(self, bytes: u32) {
        let rq = self.into_raw();
        let ok = BlkStatus::OK.as_raw();

        let rest = {
            let _fput = DeferFput::new();
            // SAFETY: By the type invariants the request was owned exclusively, so that the bios
            // can be advanced and ended.
            unsafe { bindings::blk_update_request(rq, ok, bytes) }
        };

        if rest {
            // SAFETY: The request is still owned exclusively. It has bytes left, so it can be
            // given back to be queued again; nobody uses it afterwards.
            unsafe { bindings::blk_mq_requeue_request(rq, true) };
        } else {
            // SAFETY: The request is still owned exclusively. It has no bytes left, so it can be
            // ended; nobody uses it afterwards.
            unsafe { bindings::__blk_mq_end_request(rq, ok) };
        }
    }

    /// Gives the request back to the block layer, to be queued again. With `kick`, that happens
    /// soon; without, when [`DiskRef::kick_requeue_list`] is called.
    ///
    /// Wraps the C function `blk_mq_requeue_request()`.
    ///
    /// [`DiskRef::kick_requeue_list`]: super::DiskRef::kick_requeue_list
    #[inline]
    pub fn requeue(self, kick: bool) {
        let rq = self.into_raw();

        // SAFETY: By the type invariants the request was owned exclusively; so it can be given
        // back, and nobody uses it afterwards. If it comes back through `queue_rq()`, then its
        // reference count is set anew.
        unsafe { bindings::blk_mq_requeue_request(rq, kick) };
    }

    /// Gives the request back to the block layer, to be queued again after `msecs` milliseconds.
    ///
    /// Wraps the C functions `blk_mq_requeue_request()` and `blk_mq_delay_kick_requeue_list()`.
    pub fn requeue_delayed(self, msecs: usize) {
        let rq = self.into_raw();
        // SAFETY: By the type invariants the request is valid.
        let queue = unsafe { (*rq).q };
        // SAFETY: The queue is valid, as it has a request that was not given back.
        let usage = unsafe { &raw mut (*queue).q_usage_counter };

        // Somebody else may kick the list, and the request end, before the delayed kick is set up.
        // So it takes a reference of our own to keep the queue meanwhile.
        //
        // SAFETY: The counter is not zero, because the request holds a reference.
        unsafe { bindings::percpu_ref_get(usage) };
        // SAFETY: As in `requeue()`.
        unsafe { bindings::blk_mq_requeue_request(rq, false) };
        // SAFETY: The queue is valid, and not frozen, as long as we hold the reference.
        unsafe { bindings::blk_mq_delay_kick_requeue_list(queue, msecs) };
        // SAFETY: The reference was taken above.
        unsafe { bindings::percpu_ref_put(usage) };
    }

    /// Shares the request again.
    #[inline]
    pub fn into_shared(self) -> ARef<Request<T>> {
        let rq = self.into_raw();

        // SAFETY: By the type invariants the request satisfies the invariants of `Request<T>`, is
        // owned by the driver, and nobody else has a reference.
        unsafe { Request::share_raw(rq) }
    }
}

impl<T: Operations> Deref for OwnedRequest<T> {
    type Target = RequestView;

    #[inline]
    fn deref(&self) -> &RequestView {
        // SAFETY: By the type invariants the request is valid and owned by the driver. Its
        // description changes only in the methods that consume `self`.
        unsafe { RequestView::from_raw(self.rq.as_ptr()) }
    }
}

impl<T: Operations> Drop for OwnedRequest<T> {
    fn drop(&mut self) {
        let _fput = DeferFput::new();

        // SAFETY: By the type invariants the request is owned exclusively; so it can be given
        // back, and nobody uses it afterwards.
        unsafe { bindings::blk_mq_end_request(self.rq.as_ptr(), BlkStatus::IOERR.as_raw()) };
    }
}

/// No file is released in the current context as long as this exists.
pub(super) struct DeferFput {
    /// Whether softirqs were disabled for that.
    undo: bool,
    _not_send: PhantomData<*mut ()>,
}

impl DeferFput {
    #[inline]
    pub(super) fn new() -> Self {
        Self {
            // SAFETY: There are no requirements but that it is undone by the same task, which the
            // drop does, as this type is not `Send`.
            undo: unsafe { bindings::defer_fput_begin() },
            _not_send: PhantomData,
        }
    }
}

impl Drop for DeferFput {
    #[inline]
    fn drop(&mut self) {
        if self.undo {
            // SAFETY: `new()` has disabled softirqs for this task.
            unsafe { bindings::defer_fput_end() };
        }
    }
}
