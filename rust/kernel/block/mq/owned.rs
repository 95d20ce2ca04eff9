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
    /// A zone append has no part that could end by itself, and ends with [`BlkStatus::IOERR`]: see
    /// [`Self::end`].
    ///
    /// Wraps the C functions `blk_update_request()`, and then `__blk_mq_end_request()` or what
    /// [`Self::requeue`] does.
    #[inline]
    pub fn end_partial(self, bytes: u32) {
        if self.op() == Op::ZoneAppend {
            return self.end(BlkStatus::IOERR);
        }
        let ok = BlkStatus::OK.as_raw();
        // Until the very end: that of a flush ends the bios of the requests that wait for it.
        let _fput = DeferFput::new();

        // SAFETY: By the type invariants the request is owned exclusively, so that the bios can be
        // advanced and ended.
        if unsafe { bindings::blk_update_request(self.as_raw(), ok, bytes) } {
            self.requeue(true);
        } else {
            // SAFETY: The request was owned exclusively. It has no bytes left, so it can be ended;
            // nobody uses it afterwards.
            unsafe { bindings::__blk_mq_end_request(self.into_raw(), ok) };
        }
    }

    /// Gives the request back to the block layer, to be queued again. With `kick`, that happens
    /// soon; without, when [`DiskRef::kick_requeue_list`] is called.
    ///
    /// Wraps the C functions `blk_mq_requeue_request()` and `blk_mq_kick_requeue_list()`.
    ///
    /// [`DiskRef::kick_requeue_list`]: super::DiskRef::kick_requeue_list
    #[inline]
    pub fn requeue(self, kick: bool) {
        self.give_back(|queue| {
            if kick {
                // SAFETY: The queue is valid, and its removal has to wait until this returns.
                unsafe { bindings::blk_mq_kick_requeue_list(queue) };
            }
        });
    }

    /// Gives the request back to the block layer, to be queued again after `msecs` milliseconds.
    ///
    /// There is one timer for all requests of the disk that wait to be queued again, and each call
    /// sets it: they wait longer then, also those of [`Self::requeue`] that nobody has come to yet.
    /// On the other hand a kick takes all of them. So the delay should be short, and nobody should
    /// rely on it.
    ///
    /// Wraps the C functions `blk_mq_requeue_request()` and `blk_mq_delay_kick_requeue_list()`.
    pub fn requeue_delayed(self, msecs: u32) {
        self.give_back(|queue| {
            // SAFETY: As in `requeue()`.
            unsafe { bindings::blk_mq_delay_kick_requeue_list(queue, msecs as usize) };
        });
    }

    /// Puts the request on the list of those that are to be queued again, and calls `kick` with the
    /// queue. The queue is not removed before that has returned.
    #[inline]
    fn give_back(self, kick: impl FnOnce(*mut bindings::request_queue)) {
        let rq = self.into_raw();
        // SAFETY: By the type invariants the request is valid.
        let queue = unsafe { (*rq).q };
        // SAFETY: The queue is valid, as it has a request that was not given back.
        let usage = unsafe { &raw mut (*queue).q_usage_counter };

        // Once the request is on the list, somebody else may kick that and the request end, before
        // `kick` is called, or while it runs. So it takes a reference of our own to keep the queue.
        //
        // SAFETY: The counter is not zero: the request holds a reference, or if it is the flush
        // request of the block layer, those do that wait for it.
        unsafe { bindings::percpu_ref_get(usage) };
        // SAFETY: By the type invariants the request was owned exclusively; so it can be given
        // back, and nobody uses it afterwards. If it comes back through `queue_rq()`, then its
        // reference count is set anew.
        unsafe { bindings::blk_mq_requeue_request(rq, false) };
        kick(queue);
        // SAFETY: The reference was taken above.
        unsafe { bindings::percpu_ref_put(usage) };
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

#[cfg(CONFIG_RUST_BLOCK_KUNIT_TEST)]
#[macros::kunit_tests(rust_kernel_block_mq_owned)]
mod tests {
    use super::*;
    use crate::{
        block::mq::{
            gen_disk::{
                GenDisk,
                GenDiskBuilder, //
            },
            QueueLimits,
            QueueResult,
            TagSet, //
        },
        page::Page,
        prelude::*,
        sync::{
            atomic::{
                Atomic,
                Relaxed, //
            },
            Arc,
            Completion, //
        },
    };

    /// Ends the parts of its requests that are all of them.
    struct Device;

    #[vtable]
    impl Operations for Device {
        type QueueData = ();

        fn queue_rq((): (), rq: ARef<Request<Self>>, _is_last: bool) -> QueueResult<Self> {
            if let Some(rq) = Request::into_unique_or_drop(rq) {
                let bytes = rq.bytes();
                rq.end_partial(bytes);
            }
            Ok(())
        }

        fn commit_rqs((): ()) {}

        fn complete(_rq: ARef<Request<Self>>) {}

        /// There is one zone, which is empty.
        #[cfg(CONFIG_BLK_DEV_ZONED)]
        fn report_zones(
            (): (),
            _queue: crate::block::mq::DriverQueue<'_, Self>,
            range: crate::block::mq::ZoneRange,
            report: &mut crate::block::mq::ZoneReporter<'_>,
        ) -> Result {
            report.zone(&crate::block::mq::Zone {
                start: range.sector,
                len: SECTORS.into(),
                write_pointer: range.sector,
                capacity: SECTORS.into(),
                ty: crate::block::mq::ZoneType::Sequential,
                condition: crate::block::mq::ZoneCondition::Empty,
                non_sequential: false,
                reset: false,
            })
        }
    }

    const SECTORS: u32 = 64;

    fn disk(limits: QueueLimits) -> Result<GenDisk<Device>> {
        GenDiskBuilder::new()
            .limits(limits)
            .capacity_sectors(SECTORS.into())
            .suppress_partition_scan(true)
            .build(
                fmt!("owned-kunit"),
                Arc::pin_init(TagSet::new(1, 4, 1), GFP_KERNEL)?,
                (),
            )
    }

    /// The end of a bio.
    #[pin_data]
    struct End {
        #[pin]
        done: Completion,
        status: Atomic<u32>,
        /// Whether a last `fput()` would have been left to a work item.
        fput_is_deferred: Atomic<bool>,
    }

    /// # Safety
    ///
    /// `bi_private` must point to an [`End`] that stays until it is completed.
    unsafe extern "C" fn bio_ended(bio: *mut bindings::bio) {
        // SAFETY: By the safety requirements, and the bio is valid while it ends.
        let (end, status) = unsafe { (&*(*bio).bi_private.cast::<End>(), (*bio).bi_status) };

        end.fput_is_deferred.store(!DeferFput::new().undo, Relaxed);
        end.status.store(status.into(), Relaxed);
        end.done.complete_all();
    }

    /// Sends a bio of one sector, and returns with which status it has ended, and whether a last
    /// `fput()` would have been left to a work item then.
    fn send(disk: &GenDisk<Device>, opf: bindings::blk_opf_t) -> Result<(u32, bool)> {
        let page = Page::alloc_page(GFP_KERNEL)?;
        let mut table: KBox<bindings::bio_vec> = KBox::init(pin_init::init_zeroed(), GFP_KERNEL)?;
        let mut bio: KBox<bindings::bio> = KBox::init(pin_init::init_zeroed(), GFP_KERNEL)?;
        let end = KBox::pin_init(
            pin_init!(End {
                done <- Completion::new(),
                status: Atomic::new(0),
                fput_is_deferred: Atomic::new(false),
            }),
            GFP_KERNEL,
        )?;
        let bio = &raw mut *bio;

        // SAFETY: The disk was added. All that the bio refers to stays until it has ended, which
        // this waits for, and has room for a page.
        unsafe {
            bindings::bio_init(bio, (*disk.as_raw()).part0, &mut *table, 1, opf);
            bindings::__bio_add_page(bio, page.as_ptr(), 512, 0);
            (*bio).bi_end_io = Some(bio_ended);
            (*bio).bi_private = (&raw const *end).cast_mut().cast();
            bindings::submit_bio(bio);
        }
        end.done.wait_for_completion();
        // SAFETY: It has ended.
        unsafe { bindings::bio_uninit(bio) };
        Ok((end.status.load(Relaxed), end.fput_is_deferred.load(Relaxed)))
    }

    /// Who waits for a file to be released may be the task that ends the request.
    #[test]
    fn a_request_that_ends_in_parts_releases_no_file() -> Result {
        let write = bindings::req_op_REQ_OP_WRITE | 1 << bindings::req_flag_bits___REQ_SYNC;
        let fua = write | 1 << bindings::req_flag_bits___REQ_FUA;
        let limits = QueueLimits::new().logical_block_size(512);

        assert_eq!(send(&disk(limits)?, write), Ok((0, true)));
        // The block layer makes a write and then a flush of it: the end of that is the bio's.
        assert_eq!(send(&disk(limits.write_cache(true))?, fua), Ok((0, true)));
        Ok(())
    }

    /// Nobody would know where its data are.
    #[cfg(CONFIG_BLK_DEV_ZONED)]
    #[test]
    fn a_zone_append_does_not_end_in_parts() -> Result {
        let limits = QueueLimits::new()
            .logical_block_size(512)
            .chunk_sectors(SECTORS)
            .zoned(crate::block::mq::ZonedLimits {
                max_append_sectors: 8,
                ..Default::default()
            });
        let (status, _) = send(&disk(limits)?, bindings::req_op_REQ_OP_ZONE_APPEND)?;

        assert_eq!(status, BlkStatus::IOERR.as_raw().into());
        Ok(())
    }
}
