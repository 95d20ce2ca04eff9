// SPDX-License-Identifier: GPL-2.0

//! References to a disk that do not own it.
//!
//! C header: [`include/linux/blkdev.h`](srctree/include/linux/blkdev.h)

use crate::{
    bindings,
    error::{
        code::{
            EBUSY,
            EINVAL, //
        },
        to_result,
        Result, //
    },
    sync::{
        aref::AlwaysRefCounted,
        Refcount, //
    },
};
use core::ptr::NonNull;

/// A disk, before, while and after it is visible in the system.
///
/// [`UnaddedDisk`] and [`GenDisk`] decide when the disk comes and goes. An
/// [`ARef<DiskRef>`](crate::sync::aref::ARef) only keeps its memory, its queue and its tag set: all
/// methods are safe to call on a disk that was removed, and do nothing of consequence then.
///
/// Dropping the last reference frees the disk and drops the queue data, so it must happen in
/// process context and may sleep. The queue data itself must not hold a reference, for then that
/// would never happen.
///
/// # Invariants
///
/// - `disk` is valid, with a blk-mq queue, and its tag set is valid too. As long as `refs` is not
///   0, `self` owns one reference to `disk`.
/// - `self` is the first field of an object that `free` frees. For a disk that was added, the
///   `free_disk` callback does that; for one that was never added, whoever drops the last
///   reference.
///
/// [`GenDisk`]: super::gen_disk::GenDisk
/// [`UnaddedDisk`]: super::gen_disk::UnaddedDisk
pub struct DiskRef {
    refs: Refcount,
    disk: NonNull<bindings::gendisk>,
    free: unsafe fn(NonNull<DiskRef>),
}

// SAFETY: The block layer synchronizes all that the methods do, and what is dropped with the last
// reference is `Send` (required by `Operations::QueueData`, and true for the tag set).
unsafe impl Send for DiskRef {}

// SAFETY: As above.
unsafe impl Sync for DiskRef {}

impl DiskRef {
    /// The head of an object, with one reference.
    ///
    /// # Safety
    ///
    /// - The type invariants must hold for `disk` and `free`, once the result is where it belongs.
    /// - A reference to `disk` passes to the result.
    pub(super) unsafe fn new(
        disk: NonNull<bindings::gendisk>,
        free: unsafe fn(NonNull<DiskRef>),
    ) -> Self {
        // INVARIANT: By the safety requirements of this function.
        Self {
            refs: Refcount::new(1),
            disk,
            free,
        }
    }

    #[inline]
    pub(super) fn as_raw(&self) -> *mut bindings::gendisk {
        self.disk.as_ptr()
    }

    #[inline]
    fn queue(&self) -> *mut bindings::request_queue {
        // SAFETY: By the type invariants the disk is valid; its queue never changes.
        unsafe { (*self.as_raw()).queue }
    }

    /// Call `f` in such a way that work items of the queue which it schedules are waited for when
    /// the disk is removed.
    ///
    /// That is so as long as somebody uses the queue. If nobody does, then there is no request, and
    /// [`None`] is returned.
    fn while_used<R>(&self, f: impl FnOnce(*mut bindings::request_queue) -> R) -> Option<R> {
        let queue = self.queue();
        // SAFETY: By the type invariants the queue is valid.
        let usage = unsafe { &raw mut (*queue).q_usage_counter };

        // SAFETY: The counter lives as long as the queue.
        if !unsafe { bindings::percpu_ref_tryget(usage) } {
            return None;
        }
        let ret = f(queue);
        // SAFETY: The reference was taken above.
        unsafe { bindings::percpu_ref_put(usage) };
        Some(ret)
    }

    /// A pointer to the atomic bits `GD_*`.
    #[inline]
    fn state(&self) -> *mut usize {
        // SAFETY: By the type invariants the disk is valid.
        unsafe { &raw mut (*self.as_raw()).state }
    }

    #[inline]
    fn test_state(&self, bit: u32) -> bool {
        // SAFETY: The pointer is valid; other bits may be changed meanwhile, but only by whole
        // words, so that a volatile read sees one value or the other.
        unsafe { self.state().read_volatile() & (1 << bit) != 0 }
    }

    /// Stop calling [`Operations::queue_rq`] and wait until all calls that have begun have
    /// returned. Until the guard is dropped, requests wait in the block layer. Guards nest.
    ///
    /// What was written before or while the guard existed is seen by every call after it.
    ///
    /// Process context; sleeps. Must not be called from [`Operations::queue_rq`]. Wraps the C
    /// functions `blk_mq_quiesce_queue()` and `blk_mq_unquiesce_queue()`.
    ///
    /// [`Operations::queue_rq`]: super::Operations::queue_rq
    pub fn quiesce(&self) -> Quiesced<'_> {
        // SAFETY: By the type invariants the queue and its tag set are valid.
        unsafe { bindings::blk_mq_quiesce_queue(self.queue()) };
        // INVARIANT: Just quiesced.
        Quiesced(self)
    }

    /// Queue the requests again that were given back with [`OwnedRequest::requeue`].
    ///
    /// Any context. Wraps the C function `blk_mq_kick_requeue_list()`.
    ///
    /// [`OwnedRequest::requeue`]: super::OwnedRequest::requeue
    pub fn kick_requeue_list(&self) {
        self.while_used(|queue| {
            // SAFETY: The queue is valid and used, so that it can not be released before the work
            // item has run, or was canceled.
            unsafe { bindings::blk_mq_kick_requeue_list(queue) }
        });
    }

    /// The major and the minor number of the block device; 0 for a disk that was not added yet.
    ///
    /// Any context. Wraps the C function `disk_devt()`.
    pub fn devt(&self) -> (u32, u32) {
        let disk = self.as_raw();

        // SAFETY: By the type invariants the disk is valid. The numbers change once, when the disk
        // is added, maybe at this moment; a volatile read sees one value or the other.
        unsafe {
            (
                (&raw const (*disk).major).read_volatile() as u32,
                (&raw const (*disk).first_minor).read_volatile() as u32,
            )
        }
    }

    /// Allow the scan for partitions of a disk for which it was suppressed with
    /// `GenDiskBuilder::suppress_partition_scan()`, without scanning now.
    ///
    /// Any context. Clears the C bit `GD_SUPPRESS_PART_SCAN`.
    pub fn allow_partition_scan(&self) {
        // SAFETY: The pointer is valid, and all writers change single bits atomically.
        unsafe { bindings::clear_bit(bindings::GD_SUPPRESS_PART_SCAN as usize, self.state()) };
    }

    /// Allow the scan for partitions as [`Self::allow_partition_scan`], and scan.
    ///
    /// Reads from the disk and waits for it, holding the disk's `open_mutex`. So this is called
    /// from process context, usually from a work item, with no lock held that the driver needs to
    /// make progress.
    ///
    /// Returns `EINVAL` if the scan was not suppressed, and else the errors of the C function
    /// `bdev_disk_changed()`, which it wraps: `ENXIO` if the disk is not visible, `EBUSY` if a
    /// partition is open.
    pub fn scan_partitions(&self) -> Result {
        if !self.test_state(bindings::GD_SUPPRESS_PART_SCAN) {
            return Err(EINVAL);
        }
        self.allow_partition_scan();

        let disk = self.as_raw();
        // SAFETY: By the type invariants the disk is valid, so its mutex is initialized.
        unsafe { bindings::mutex_lock(&raw mut (*disk).open_mutex) };
        // SAFETY: The disk is valid and its `open_mutex` is held.
        let ret = unsafe { bindings::bdev_disk_changed(disk, false) };
        // SAFETY: The mutex was taken above by this task.
        unsafe { bindings::mutex_unlock(&raw mut (*disk).open_mutex) };

        to_result(ret)
    }

    /// Call `f` while nobody has the disk or one of its partitions open, and nobody can open it.
    ///
    /// `f` must not remove the disk, nor scan it: both take the same lock. Process context; sleeps.
    /// Returns `EBUSY` if the disk is open. Holds the disk's `open_mutex`, as do the callbacks of
    /// [`Operations::open`](super::Operations::open).
    pub fn while_closed<R>(&self, f: impl FnOnce() -> R) -> Result<R> {
        let disk = self.as_raw();

        // SAFETY: By the type invariants the disk is valid, so its mutex is initialized.
        unsafe { bindings::mutex_lock(&raw mut (*disk).open_mutex) };
        // SAFETY: The disk is valid.
        let ret = match unsafe { bindings::disk_openers(disk) } {
            0 => Ok(f()),
            _ => Err(EBUSY),
        };
        // SAFETY: The mutex was taken above by this task.
        unsafe { bindings::mutex_unlock(&raw mut (*disk).open_mutex) };
        ret
    }

    /// Change the size of the disk, in sectors, and tell user space about it.
    ///
    /// Process context; may sleep. Wraps the C function `set_capacity_and_notify()`.
    pub fn set_capacity_and_notify(&self, sectors: u64) {
        // SAFETY: By the type invariants the disk is valid. The result only says whether user
        // space was told.
        unsafe { bindings::set_capacity_and_notify(self.as_raw(), sectors) };
    }
}

// SAFETY: `refs` counts the references; the object, and with it the disk, stays until it is 0. The
// only instances are those that `GenDiskBuilder::alloc()` makes, all of them counted.
unsafe impl AlwaysRefCounted for DiskRef {
    #[inline]
    fn inc_ref(&self) {
        self.refs.inc();
    }

    unsafe fn dec_ref(obj: NonNull<Self>) {
        // SAFETY: By the safety requirements of this function the object is valid.
        let this = unsafe { obj.as_ref() };

        if !this.refs.dec_and_test() {
            return;
        }
        let (disk, free) = (this.disk, this.free);
        let added = this.test_state(bindings::GD_ADDED);

        // SAFETY: The count is 0, so the reference to the disk goes too, by the type invariants.
        // For a disk that was added this may call `free_disk()`, so that `obj` is gone afterwards.
        unsafe { bindings::put_disk(disk.as_ptr()) };
        if !added {
            // SAFETY: The block layer calls `free_disk()` only for disks that were added, so the
            // object still exists. Nobody but its owners knew of the disk, and these are gone.
            unsafe { free(obj) };
        }
    }
}

/// The queue of a disk is quiesced for as long as this exists. See [`DiskRef::quiesce`].
///
/// # Invariants
///
/// The queue was quiesced once for `self`.
#[must_use = "the queue runs again when this is dropped"]
pub struct Quiesced<'a>(&'a DiskRef);

impl Quiesced<'_> {
    /// Let the queue run again; the same as dropping the guard.
    ///
    /// Any context in which the guard can be.
    pub fn unquiesce(self) {}
}

impl Drop for Quiesced<'_> {
    fn drop(&mut self) {
        let unquiesce = |queue| {
            // SAFETY: By the type invariants the queue was quiesced, and it is valid. If requests
            // wait in it, then it is used, so that it can not be released before they have run.
            unsafe { bindings::blk_mq_unquiesce_queue(queue) }
        };

        if self.0.while_used(unquiesce).is_none() {
            unquiesce(self.0.queue());
        }
    }
}
