// SPDX-License-Identifier: GPL-2.0

//! References to a disk that do not decide whether it is visible.
//!
//! C header: [`include/linux/blkdev.h`](srctree/include/linux/blkdev.h)

use super::module_user::ModuleUser;
use crate::{
    bindings,
    error::{
        code::{
            EAGAIN,
            EBUSY,
            EINVAL, //
        },
        to_result,
        Result, //
    },
    sync::{
        aref::AlwaysRefCounted,
        rcu::synchronize_rcu,
        Refcount, //
    },
    types::NotThreadSafe, //
};
use core::{
    mem::ManuallyDrop,
    ptr::NonNull, //
};

/// A disk, before, while and after it is visible in the system.
///
/// [`UnaddedDisk`] and [`GenDisk`] decide when the disk appears and disappears. An
/// [`ARef<DiskRef>`](crate::sync::aref::ARef) only keeps its memory, its queue and its tag set. All
/// methods may be called on a disk that was removed; most have no effect on it then.
///
/// Wraps the C `struct gendisk` and its `struct request_queue`.
///
/// # Context
///
/// Dropping the last reference frees the disk, unless the block layer still needs it, and waits for
/// an RCU grace period. So it must happen in process context, and may sleep. The queue data itself
/// must not hold a reference, or else neither would ever be freed.
///
/// # Examples
///
/// A function that a control device may call at any time, whatever becomes of the disk meanwhile.
///
/// ```
/// use kernel::{
///     block::mq::DiskRef,
///     sync::aref::ARef, //
/// };
///
/// fn resize(disk: &ARef<DiskRef>, sectors: u64) -> Result {
///     // From here on the driver gets no requests.
///     let quiesced = disk.quiesce();
///     // Here the driver would tell the device.
///     quiesced.unquiesce();
///     disk.set_capacity_and_notify(sectors)
/// }
/// ```
///
/// # Invariants
///
/// - `disk` is valid, with a blk-mq queue. As long as `refs` is not 0, its tag set is valid too,
///   and `self` owns one reference to `disk`.
/// - `self` is the first field of an object that `free` frees. For a disk that was added,
///   `free_disk()` does that; for one that was not, whoever drops the last reference. `user` is
///   that of the module that the code of `free` is in, and is taken out by who calls `free`.
///
/// [`GenDisk`]: super::gen_disk::GenDisk
/// [`UnaddedDisk`]: super::gen_disk::UnaddedDisk
pub struct DiskRef {
    refs: Refcount,
    disk: NonNull<bindings::gendisk>,
    free: unsafe fn(NonNull<DiskRef>),
    user: ManuallyDrop<ModuleUser>,
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
    /// - The type invariants must hold for `disk`, `free` and `user`, once the result is where it
    ///   belongs.
    /// - A reference to `disk` passes to the result.
    pub(super) unsafe fn new(
        disk: NonNull<bindings::gendisk>,
        free: unsafe fn(NonNull<DiskRef>),
        user: ModuleUser,
    ) -> Self {
        // INVARIANT: By the safety requirements of this function.
        Self {
            refs: Refcount::new(1),
            disk,
            free,
            user: ManuallyDrop::new(user),
        }
    }

    #[inline]
    pub(super) fn as_raw(&self) -> *mut bindings::gendisk {
        self.disk.as_ptr()
    }

    #[inline]
    pub(super) fn queue(&self) -> *mut bindings::request_queue {
        // SAFETY: By the type invariants the disk is valid; its queue never changes.
        unsafe { (*self.as_raw()).queue }
    }

    /// Calls `f` with a reference that keeps the queue from being frozen. So work items of the
    /// queue which `f` schedules are waited for when the disk is removed.
    ///
    /// Returns [`None`], without calling `f`, if the queue is frozen: there is no request then.
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

    /// Destroys the queue of a disk that was not added, and so takes it off its tag set.
    ///
    /// Otherwise the block layer does so when the disk is released. That may be long after our
    /// reference is gone: if `device_add_disk()` failed, the disk was in sysfs for a while, and
    /// whoever found it there (a reader of `/proc/partitions`, say) may still have a reference.
    ///
    /// Process context; sleeps. To be called once, by the owner of the last reference.
    fn destroy_queue(&self) {
        let bit = bindings::GD_OWNS_QUEUE as usize;
        // SAFETY: The pointer is valid, and all writers change single bits atomically. The release
        // of the disk, which looks at the bit, comes after that of our reference to it.
        unsafe { bindings::clear_bit(bit, self.state()) };
        // SAFETY: By the type invariants this is a valid blk-mq queue. It is not registered, as the
        // disk was not added, and there is no request, as nobody could open the disk. With the bit
        // cleared, the release of the disk does not do this a second time.
        unsafe { bindings::blk_mq_destroy_queue(self.queue()) };
    }

    /// A pointer to the atomic bits `GD_*`.
    #[inline]
    fn state(&self) -> *mut usize {
        // SAFETY: By the type invariants the disk is valid.
        unsafe { &raw mut (*self.as_raw()).state }
    }

    #[inline]
    pub(super) fn test_state(&self, bit: u32) -> bool {
        // SAFETY: The pointer is valid. Other bits may be changed meanwhile, but all writers change
        // the whole word at once, so that a volatile read sees one value or the other.
        unsafe { self.state().read_volatile() & (1 << bit) != 0 }
    }

    /// Stops calling [`Operations::queue_rq`] and waits until all calls that have begun have
    /// returned. Until the guard is dropped, requests wait in the block layer. Guards nest.
    ///
    /// What was written before the guard is dropped is seen by every call that comes afterwards.
    ///
    /// # Context
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

    /// Has the requests queued again that were given back with [`OwnedRequest::requeue`].
    ///
    /// # Context
    ///
    /// Any. Wraps the C function `blk_mq_kick_requeue_list()`.
    ///
    /// [`OwnedRequest::requeue`]: super::OwnedRequest::requeue
    pub fn kick_requeue_list(&self) {
        self.while_used(|queue| {
            // SAFETY: The queue is valid, and not frozen meanwhile. So the disk is not removed
            // before the work item was scheduled, and its removal cancels the item.
            unsafe { bindings::blk_mq_kick_requeue_list(queue) }
        });
    }

    /// The major and the minor number of the block device; 0 for a disk that was not added yet.
    ///
    /// # Context
    ///
    /// Any. Reads what the C function `add_disk()` makes of `disk_devt()`.
    pub fn devt(&self) -> (u32, u32) {
        let disk = self.as_raw();

        // SAFETY: By the type invariants the disk is valid. `part0`, which stands for all of it, is
        // set when a disk is allocated, and freed with the disk by `disk_release()`. `add_disk()`
        // writes `devt`, once and as one word, perhaps right now; a volatile read sees none or all
        // of it.
        let devt = unsafe { (&raw const (*(*disk).part0).bd_device.devt).read_volatile() };

        (devt >> bindings::MINORBITS, devt & bindings::MINORMASK)
    }

    /// Allows the scan for partitions of a disk for which it was suppressed with
    /// `GenDiskBuilder::suppress_partition_scan()`, without scanning now.
    ///
    /// # Context
    ///
    /// Any. Clears the C bit `GD_SUPPRESS_PART_SCAN`.
    pub fn allow_partition_scan(&self) {
        // SAFETY: The pointer is valid, and all writers change single bits atomically.
        unsafe { bindings::clear_bit(bindings::GD_SUPPRESS_PART_SCAN as usize, self.state()) };
    }

    /// Allows the scan for partitions as [`Self::allow_partition_scan`], and scans.
    ///
    /// Fails with `EINVAL` if the scan was not suppressed, with `ENXIO` if the disk is not visible,
    /// and with `EBUSY` if a partition is open.
    ///
    /// # Context
    ///
    /// Process context, usually a work item; sleeps. It reads from the disk and waits for that,
    /// holding the disk's `open_mutex`, so no lock may be held that the driver needs to make
    /// progress. Wraps the C function `bdev_disk_changed()`.
    pub fn scan_partitions(&self) -> Result {
        if !self.test_state(bindings::GD_SUPPRESS_PART_SCAN) {
            return Err(EINVAL);
        }
        self.allow_partition_scan();

        let _open_mutex = OpenMutex::lock(self);
        // SAFETY: By the type invariants the disk is valid, and its `open_mutex` is held.
        to_result(unsafe { bindings::bdev_disk_changed(self.as_raw(), false) })
    }

    /// Calls `f` while nobody has the disk or one of its partitions open, and nobody can open it.
    ///
    /// Fails with `EBUSY` if the disk is open, and with `EAGAIN` if somebody is about to open or
    /// close it: that may have to wait for the driver, so nobody waits for it here.
    ///
    /// # Context
    ///
    /// Process context. `f` is called with the disk's `open_mutex` held, as is
    /// [`Operations::open`](super::Operations::open). So it must neither remove the disk nor scan
    /// it: both take this mutex. Wraps the C function `disk_openers()`.
    pub fn while_closed<R>(&self, f: impl FnOnce() -> R) -> Result<R> {
        let _open_mutex = OpenMutex::try_lock(self).ok_or(EAGAIN)?;
        // SAFETY: By the type invariants the disk is valid.
        match unsafe { bindings::disk_openers(self.as_raw()) } {
            0 => Ok(f()),
            _ => Err(EBUSY),
        }
    }
}

// SAFETY: `refs` counts the references; the object, and with it the disk, stays until it is 0. The
// only instances are those that `GenDiskBuilder::alloc()` makes, all of them counted.
unsafe impl AlwaysRefCounted for DiskRef {
    #[inline]
    fn inc_ref(&self) {
        self.refs.inc();
    }

    // Never inlined, so that it is part of the kernel image: when the calls below return, the disk
    // does not keep the driver's module any more. Whoever drops a reference and is code of that
    // module has it in use for another reason.
    #[inline(never)]
    unsafe fn dec_ref(obj: NonNull<Self>) {
        // SAFETY: By the safety requirements of this function the object is valid.
        let this = unsafe { obj.as_ref() };

        if !this.refs.dec_and_test() {
            return;
        }
        let disk = this.disk;
        let added = this.test_state(bindings::GD_ADDED);

        if !added {
            this.destroy_queue();
        }
        // Who lets a queue run again may have scheduled work of it, although there was no request
        // any more, after the removal of the disk has cancelled that. With the count at 0, nobody
        // does so again.
        //
        // SAFETY: By the type invariants this is a valid blk-mq queue.
        unsafe { bindings::blk_mq_cancel_queue_work(this.queue()) };

        // A call of `queue_rq()` may still be running, though its request has ended and the disk
        // is removed. It uses the queue data. All such calls are in RCU read side critical
        // sections.
        synchronize_rcu();

        // SAFETY: The count is 0, so the reference to the disk goes too, by the type invariants.
        // For a disk that was added this may call `free_disk()`, so that `obj` is gone afterwards.
        unsafe { bindings::put_disk(disk.as_ptr()) };
        if !added {
            // SAFETY: The block layer calls `free_disk()` only for disks that were added, so the
            // object still exists. If somebody else still has a reference to the disk, then its
            // release finds a queue that was destroyed, for which it needs neither the tag set nor
            // the queue data.
            unsafe { free_object(obj) };
        }
    }
}

/// The `open_mutex` of a disk is held for as long as this exists.
///
/// # Invariants
///
/// The current task has locked it.
pub(super) struct OpenMutex<'a>(&'a DiskRef, NotThreadSafe);

impl<'a> OpenMutex<'a> {
    pub(super) fn lock(disk: &'a DiskRef) -> Self {
        // SAFETY: By the type invariants the disk is valid, so its mutex is initialized.
        unsafe { bindings::mutex_lock(&raw mut (*disk.as_raw()).open_mutex) };
        // INVARIANT: Just locked.
        Self(disk, NotThreadSafe)
    }

    fn try_lock(disk: &'a DiskRef) -> Option<Self> {
        // SAFETY: As in `lock()`.
        let locked = unsafe { bindings::mutex_trylock(&raw mut (*disk.as_raw()).open_mutex) };
        // INVARIANT: Just locked, if it was.
        (locked != 0).then(|| Self(disk, NotThreadSafe))
    }
}

impl Drop for OpenMutex<'_> {
    fn drop(&mut self) {
        // SAFETY: By the type invariants this task has locked it, as it can not be sent to another.
        unsafe { bindings::mutex_unlock(&raw mut (*self.0.as_raw()).open_mutex) };
    }
}

/// Called by the block layer when the last reference to a disk that had been added is gone.
/// Process context; may sleep.
///
/// Neither generic nor inlined, so that it is part of the kernel image, though a table of the
/// driver's module names it: see [`free_object`], after which it still has to return.
///
/// # Safety
///
/// The `private_data` of `disk` must point to the object that its `DiskRef` is the first field of.
/// The disk must not be used afterwards but for freeing its memory.
#[inline(never)]
pub(super) unsafe extern "C" fn free_disk(disk: *mut bindings::gendisk) {
    // SAFETY: By the safety requirements. This is called once, and by then nobody has a reference.
    unsafe { free_object(NonNull::new_unchecked((*disk).private_data.cast())) };
}

/// Frees the object that a `DiskRef` is the first field of, and lets its module go.
///
/// Neither generic nor inlined, so that it is part of the kernel image: once the user is dropped,
/// the driver's module may be unloaded, so this must not be code of that module.
///
/// # Safety
///
/// Nobody may use the object any more, and this must be the only call for it.
#[inline(never)]
unsafe fn free_object(obj: NonNull<DiskRef>) {
    // SAFETY: The object is valid until it is freed below, and by the type invariants of `DiskRef`
    // the user is taken out by this call only.
    let (free, user) = unsafe {
        (
            (*obj.as_ptr()).free,
            (&raw const (*obj.as_ptr()).user).read(),
        )
    };

    // SAFETY: By the safety requirements and the type invariants of `DiskRef`.
    unsafe { free(obj) };
    drop(ManuallyDrop::into_inner(user));
}

/// The queue of a disk is quiesced for as long as this exists. See [`DiskRef::quiesce`].
///
/// It can be dropped in any context.
///
/// # Invariants
///
/// The queue was quiesced once for `self`.
#[must_use = "the queue runs again when this is dropped"]
pub struct Quiesced<'a>(&'a DiskRef);

impl Quiesced<'_> {
    /// Lets the queue run again; the same as dropping the guard.
    pub fn unquiesce(self) {}
}

impl Drop for Quiesced<'_> {
    fn drop(&mut self) {
        let unquiesce = |queue| {
            // SAFETY: By the type invariants the queue was quiesced, and it is valid. The work
            // items that this may schedule are cancelled, at the latest by who drops the last
            // reference to the disk, which this guard borrows.
            unsafe { bindings::blk_mq_unquiesce_queue(queue) }
        };

        if self.0.while_used(unquiesce).is_none() {
            unquiesce(self.0.queue());
        }
    }
}

#[cfg(CONFIG_RUST_BLOCK_KUNIT_TEST)]
#[macros::kunit_tests(rust_kernel_block_mq_disk_ref)]
mod tests {
    use super::*;
    use crate::{
        block::mq::{
            gen_disk::{
                GenDiskBuilder,
                UnaddedDisk, //
            },
            Operations,
            QueueResult,
            Request,
            TagSet, //
        },
        prelude::*,
        sync::{
            aref::ARef,
            atomic::{
                Atomic,
                Relaxed, //
            },
            Arc, //
        },
        time::{
            delay::fsleep,
            Delta, //
        },
    };

    struct Device;

    /// Is set when its owner is dropped.
    struct Data(Arc<Atomic<bool>>);

    impl Drop for Data {
        fn drop(&mut self) {
            self.0.store(true, Relaxed);
        }
    }

    #[vtable]
    impl Operations for Device {
        type QueueData = KBox<Data>;

        fn queue_rq(_data: &Data, rq: ARef<Request<Self>>, _is_last: bool) -> QueueResult<Self> {
            Err((EIO, rq))
        }

        fn commit_rqs(_data: &Data) {}

        fn complete(_rq: ARef<Request<Self>>) {}
    }

    /// A disk with a tag set of its own, and whether its data was dropped.
    fn disk() -> Result<(UnaddedDisk<Device>, Arc<Atomic<bool>>)> {
        let tagset = Arc::pin_init(TagSet::new(1, 4, 1), GFP_KERNEL)?;
        let dropped = Arc::new(Atomic::new(false), GFP_KERNEL)?;
        let data = KBox::new(Data(dropped.clone()), GFP_KERNEL)?;
        let disk = GenDiskBuilder::new().suppress_partition_scan(true).alloc(
            fmt!("ref-kunit"),
            tagset,
            data,
        )?;
        Ok((disk, dropped))
    }

    /// A reference to the `struct device` of a disk, as those who look through sysfs have it.
    struct Finder(*mut bindings::device);

    impl Finder {
        fn of(disk: &DiskRef) -> Self {
            // SAFETY: The disk is valid, and so is the device that it consists of.
            Self(unsafe { bindings::get_device(&raw mut (*(*disk.as_raw()).part0).bd_device) })
        }
    }

    impl Drop for Finder {
        fn drop(&mut self) {
            // SAFETY: The reference is ours.
            unsafe { bindings::put_device(self.0) };
        }
    }

    /// The release of the disk must not look at the tag set, which is gone.
    #[test]
    fn others_may_keep_a_disk_that_was_never_added() -> Result {
        let (disk, dropped) = disk()?;
        let finder = Finder::of(&disk);

        drop(disk);
        assert!(dropped.load(Relaxed));
        drop(finder);
        Ok(())
    }

    #[test]
    fn others_may_keep_a_disk_that_could_not_be_added() -> Result {
        let (disk, dropped) = disk()?;
        let finder = Finder::of(&disk);
        let last = disk.disk_ref();
        // No such minor number.
        //
        // SAFETY: Nobody else looks at the disk.
        unsafe {
            (*disk.as_raw()).major = 1;
            (*disk.as_raw()).first_minor = bindings::MINORMASK as c_int + 1;
            (*disk.as_raw()).minors = 1;
        }

        assert_eq!(disk.add().err(), Some(EINVAL));
        assert!(!dropped.load(Relaxed));
        drop(last);
        assert!(dropped.load(Relaxed));
        drop(finder);
        Ok(())
    }

    /// With KASAN: work that was scheduled after the removal does not outlive the queue.
    #[test]
    fn late_work_goes_with_the_disk() -> Result {
        let (disk, _dropped) = disk()?;
        let disk = disk.add()?;
        let last = disk.disk_ref();

        drop(disk);
        // SAFETY: There is a reference to the disk, so its queue is valid.
        unsafe { bindings::blk_mq_delay_run_hw_queues(last.queue(), 20) };
        drop(last);
        fsleep(Delta::from_millis(50));
        Ok(())
    }

    /// The queue data of a disk that was added goes with the last reference to it.
    #[test]
    fn others_may_keep_a_disk_that_was_removed() -> Result {
        let (disk, dropped) = disk()?;
        let disk = disk.add()?;
        let finder = Finder::of(&disk);
        let last = disk.disk_ref();

        drop(disk);
        drop(last);
        assert!(!dropped.load(Relaxed));
        drop(finder);
        assert!(dropped.load(Relaxed));
        Ok(())
    }
}
