// SPDX-License-Identifier: GPL-2.0

//! The size of a disk, and what the block layer knows of its zones.
//!
//! C header: [`include/linux/blkdev.h`](srctree/include/linux/blkdev.h)

use super::{
    disk_ref::OpenMutex,
    DiskRef,
    ZonedLimits, //
};
use crate::{
    bindings,
    error::{
        code::{
            EBUSY,
            EINVAL,
            ENODEV, //
        },
        to_result,
        Result, //
    },
    types::NotThreadSafe, //
};
use core::ffi::c_void;

impl DiskRef {
    /// Changes the size of the disk to `sectors`, and tells user space about it. More than the
    /// block layer can address is cut off.
    ///
    /// The zones of a zoned disk are looked at again, through
    /// [`Operations::report_zones`](super::Operations::report_zones), with the `open_mutex` of the
    /// disk held. This is possible only while nobody has the disk open, or is about to open or
    /// close it, else it fails with `EBUSY`, because the block layer's tables of zones have another
    /// size meanwhile than the disk. If the zones make no sense it fails with `ENODEV`, with
    /// `EINVAL` if there are more of them than the block layer can know of (see
    /// [`UnaddedDisk::add`]), or with the error of the driver. The disk has no sectors then, until
    /// another call succeeds.
    ///
    /// A disk that was removed has no sectors any more, and never will: this fails with `ENODEV`.
    ///
    /// [`UnaddedDisk::add`]: super::gen_disk::UnaddedDisk::add
    ///
    /// # Context
    ///
    /// Process context; may sleep. Wraps the C functions `set_capacity_and_notify()` and
    /// `blk_revalidate_disk_zones()`.
    pub fn set_capacity_and_notify(&self, sectors: u64) -> Result {
        self.resize(sectors, None)
    }

    /// As [`Self::set_capacity_and_notify`], and the block layer is told again what the device can
    /// do, before it looks at the zones: it has forgotten limits that so many zones can not reach
    /// as the disk had until now. Has no effect beyond that on a disk that is not zoned.
    ///
    /// # Context
    ///
    /// As [`Self::set_capacity_and_notify`]. Freezes the queue. Wraps the C function
    /// `queue_limits_commit_update_frozen()` as well.
    pub fn resize_zoned(&self, sectors: u64, limits: ZonedLimits) -> Result {
        self.resize(sectors, Some(limits))
    }

    fn resize(&self, sectors: u64, limits: Option<ZonedLimits>) -> Result {
        let set = |sectors| {
            // User space is told by walking over the parents of the disk in sysfs. The removal of
            // the disk takes this lock once the disk is not live any more, of which nobody is told,
            // and before it loses its parent.
            let _lock = DeviceLock::new(self);
            // SAFETY: By the type invariants the disk is valid. The result only says whether user
            // space was told.
            unsafe { bindings::set_capacity_and_notify(self.as_raw(), sectors) };
        };

        if self.test_state(bindings::GD_DEAD) {
            return Err(ENODEV);
        }
        if !self.is_zoned() {
            set(sectors);
            // The disk may be removed at the same time, and the removal sets first the bit and then
            // the size, to 0. Sizes are set with a lock held. If the removal was the last to take
            // it then the size is what it should be; else what was written before the removal gave
            // it up can be seen since, and so can the bit.
            if self.test_state(bindings::GD_DEAD) {
                // SAFETY: By the type invariants the disk is valid.
                unsafe { bindings::set_capacity(self.as_raw(), 0) };
                return Err(ENODEV);
            }
            return Ok(());
        }
        self.while_closed(|| {
            // The driver would be asked for zones that nobody can use.
            if self.test_state(bindings::GD_DEAD) {
                return Err(ENODEV);
            }
            set(sectors);
            // Of a disk without sectors there is nothing to be looked at.
            if sectors == 0 {
                return Ok(());
            }
            // Nobody can write without the tables of zones, which are gone then.
            limits
                .map_or(Ok(()), |limits| self.set_zoned_limits(limits))
                .and_then(|()| self.revalidate_zones())
                .inspect_err(|_| set(0))
        })
        .map_err(|_| EBUSY)?
    }

    /// Sets what the device can do with the zones of a zoned disk.
    fn set_zoned_limits(&self, limits: ZonedLimits) -> Result {
        let queue = self.queue();
        // As `queue_limits_start_update()`.
        //
        // SAFETY: By the type invariants the queue is valid, so its mutex is initialized.
        unsafe { bindings::mutex_lock(&raw mut (*queue).limits_lock) };
        // SAFETY: The queue is valid, and its limits do not change while the mutex is held.
        let mut new = unsafe { (*queue).limits };
        new.max_open_zones = limits.max_open_zones;
        new.max_active_zones = limits.max_active_zones;
        new.max_hw_zone_append_sectors = limits.max_append_sectors;
        // SAFETY: The queue is valid, and its `limits_lock` is held, which this unlocks.
        to_result(unsafe { bindings::queue_limits_commit_update_frozen(queue, &mut new) })
    }

    /// Whether the disk is a zoned one.
    fn is_zoned(&self) -> bool {
        // SAFETY: By the type invariants the queue is valid. Other features may be changed
        // meanwhile, but all writers change the whole word at once, and this one never changes.
        let features = unsafe { (&raw const (*self.queue()).limits.features).read_volatile() };

        cfg!(CONFIG_BLK_DEV_ZONED) && features & bindings::BLK_FEAT_ZONED != 0
    }

    /// As [`Self::revalidate_zones`], of a disk that was not added yet, in turn with
    /// [`Self::set_capacity_and_notify`]. Process context; sleeps. Takes the `open_mutex`.
    pub(super) fn revalidate_zones_of_unadded(&self) -> Result {
        let _open_mutex = OpenMutex::lock(self);
        self.revalidate_zones()
    }

    /// Whether the block layer's tables of zones are not too large to be allocated: it would try,
    /// and `kmalloc()` warn. The `open_mutex` is held.
    fn zone_tables_fit(&self) -> bool {
        // SAFETY: By the type invariants the queue is valid. Who changes other limits meanwhile
        // writes these as they are: the size of a zone never changes, and how many may be open or
        // active only while the `open_mutex` is held.
        let (zone, open, active) = unsafe {
            let limits = &raw const (*self.queue()).limits;
            (
                u64::from((&raw const (*limits).chunk_sectors).read_volatile()),
                u64::from((&raw const (*limits).max_open_zones).read_volatile()),
                u64::from((&raw const (*limits).max_active_zones).read_volatile()),
            )
        };
        // SAFETY: By the type invariants the disk is valid, and `part0` stands for all of it. The
        // volatile read sees one size or another, if it is changed meanwhile.
        let sectors =
            unsafe { (&raw const (*(*self.as_raw()).part0).bd_nr_sectors).read_volatile() };
        let most = u64::from(bindings::KMALLOC_MAX_SIZE);

        // A byte for each zone. Rounded up, and without a division, which not all machines have.
        zone.is_power_of_two()
            && (sectors >> zone.trailing_zeros()) + u64::from(sectors & (zone - 1) != 0) <= most
            // A pointer for each that may be written at a time, whether there are so many or not.
            && open.max(active) <= most / size_of::<*const c_void>() as u64
    }

    /// Has the block layer look at the zones of the disk; nothing happens if it is not zoned. Fails
    /// with `EINVAL` if there are too many.
    ///
    /// Nobody may have the disk open, and nobody may be able to: the `open_mutex` is held.
    fn revalidate_zones(&self) -> Result {
        if !self.is_zoned() {
            return Ok(());
        }
        if !self.zone_tables_fit() {
            return Err(EINVAL);
        }
        // SAFETY: By the type invariants the disk is valid. It is zoned, so it has a callback that
        // reports zones, which `GenDiskBuilder::alloc()` has checked.
        #[cfg(CONFIG_BLK_DEV_ZONED)]
        to_result(unsafe { bindings::blk_revalidate_disk_zones(self.as_raw()) })?;
        Ok(())
    }
}

/// The device of a disk is locked for as long as this exists.
///
/// # Invariants
///
/// The current task has locked it.
struct DeviceLock<'a>(&'a DiskRef, NotThreadSafe);

impl<'a> DeviceLock<'a> {
    fn new(disk: &'a DiskRef) -> Self {
        // SAFETY: By the type invariants the disk is valid. Its device was initialized with it.
        unsafe { bindings::device_lock(Self::device(disk)) };
        // INVARIANT: Just locked.
        Self(disk, NotThreadSafe)
    }

    fn device(disk: &DiskRef) -> *mut bindings::device {
        // SAFETY: By the type invariants the disk is valid. `part0`, which stands for all of it, is
        // there as long as the disk.
        unsafe { &raw mut (*(*disk.as_raw()).part0).bd_device }
    }
}

impl Drop for DeviceLock<'_> {
    fn drop(&mut self) {
        // SAFETY: By the type invariants this task has locked it, as it can not be sent to another.
        unsafe { bindings::device_unlock(Self::device(self.0)) };
    }
}

#[cfg(CONFIG_RUST_BLOCK_KUNIT_TEST)]
#[macros::kunit_tests(rust_kernel_block_mq_disk_size)]
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
        workqueue, //
    };

    struct Device;

    #[vtable]
    impl Operations for Device {
        type QueueData = ();

        fn queue_rq((): (), rq: ARef<Request<Self>>, _is_last: bool) -> QueueResult<Self> {
            Err((EIO, rq))
        }

        fn commit_rqs((): ()) {}

        fn complete(_rq: ARef<Request<Self>>) {}
    }

    fn disk() -> Result<UnaddedDisk<Device>> {
        GenDiskBuilder::new().suppress_partition_scan(true).alloc(
            fmt!("size-kunit"),
            Arc::pin_init(TagSet::new(1, 4, 1), GFP_KERNEL)?,
            (),
        )
    }

    fn sectors(disk: &DiskRef) -> u64 {
        // SAFETY: The disk is valid, and nobody changes its size meanwhile.
        unsafe { (*(*disk.as_raw()).part0).bd_nr_sectors }
    }

    /// Its size must stay 0: a page that somebody makes dirty could not be written any more.
    #[test]
    fn a_disk_that_was_removed_has_no_size() -> Result {
        let disk = disk()?.add()?;
        let removed = disk.disk_ref();

        assert_eq!(removed.set_capacity_and_notify(8), Ok(()));
        assert_eq!(sectors(&removed), 8);
        drop(disk);
        assert_eq!(sectors(&removed), 0);
        assert_eq!(removed.set_capacity_and_notify(8), Err(ENODEV));
        assert_eq!(sectors(&removed), 0);
        Ok(())
    }

    /// Who is told walks over the parents of the disk, which the removal takes away with this lock.
    #[test]
    fn user_space_is_told_with_the_device_locked() -> Result {
        let disk = disk()?.add()?;
        let resized = Arc::new(Atomic::new(false), GFP_KERNEL)?;

        disk.set_capacity_and_notify(8)?;
        let lock = DeviceLock::new(&disk);
        let (other, done) = (disk.disk_ref(), resized.clone());
        workqueue::system_long().try_spawn(GFP_KERNEL, move || {
            let _ = other.set_capacity_and_notify(16);
            done.store(true, Relaxed);
        })?;
        fsleep(Delta::from_millis(50));
        assert!(!resized.load(Relaxed));
        drop(lock);
        while !resized.load(Relaxed) {
            fsleep(Delta::from_millis(1));
        }
        assert_eq!(sectors(&disk), 16);
        Ok(())
    }

    #[cfg(CONFIG_BLK_DEV_ZONED)]
    mod zoned {
        use super::*;
        use crate::block::mq::{
            DriverQueue,
            QueueLimits,
            Zone,
            ZoneCondition,
            ZoneRange,
            ZoneReporter,
            ZoneType, //
        };

        const MOST: u32 = bindings::KMALLOC_MAX_SIZE;
        const MOST_OPEN: u32 = MOST / size_of::<*const c_void>() as u32;

        /// All zones of it are empty.
        pub(super) struct Device;

        #[vtable]
        impl Operations for Device {
            // Sectors of a zone.
            type QueueData = KBox<u64>;

            fn queue_rq(_len: &u64, rq: ARef<Request<Self>>, _is_last: bool) -> QueueResult<Self> {
                Err((EIO, rq))
            }

            fn commit_rqs(_len: &u64) {}

            fn complete(_rq: ARef<Request<Self>>) {}

            fn report_zones(
                len: &u64,
                _queue: DriverQueue<'_, Self>,
                range: ZoneRange,
                report: &mut ZoneReporter<'_>,
            ) -> Result {
                for nr in 0..range.nr_zones {
                    let start = range.sector + u64::from(nr) * len;
                    report.zone(&Zone {
                        start,
                        len: *len,
                        write_pointer: start,
                        capacity: *len,
                        ty: ZoneType::Sequential,
                        condition: ZoneCondition::Empty,
                        non_sequential: false,
                        reset: false,
                    })?;
                }
                Ok(())
            }
        }

        pub(super) fn disk(zone: u32, sectors: u64, open: u32) -> Result<UnaddedDisk<Device>> {
            let limits = QueueLimits::new().chunk_sectors(zone).zoned(ZonedLimits {
                max_open_zones: open,
                ..Default::default()
            });
            GenDiskBuilder::new()
                .limits(limits)
                .capacity_sectors(sectors)
                .suppress_partition_scan(true)
                .alloc(
                    fmt!("zones-kunit"),
                    Arc::pin_init(TagSet::new(1, 4, 1), GFP_KERNEL)?,
                    KBox::new(zone.into(), GFP_KERNEL)?,
                )
        }

        pub(super) fn fits(zone: u32, sectors: u64, open: u32) -> Result<bool> {
            Ok(disk(zone, sectors, open)?.zone_tables_fit())
        }

        pub(super) const LIMITS: (u32, u32) = (MOST, MOST_OPEN);
    }

    /// The block layer would ask for memory that `kmalloc()` can not give, and warns of that.
    #[cfg(CONFIG_BLK_DEV_ZONED)]
    #[test]
    fn too_many_zones_are_refused() -> Result {
        use zoned::{
            disk,
            fits, //
        };
        let (most, most_open) = zoned::LIMITS;
        let sectors_of_most = u64::from(most);

        assert!(fits(1, sectors_of_most, most_open)?);
        assert!(!fits(1, sectors_of_most + 1, 0)?);
        assert!(fits(8, 8 * sectors_of_most, 0)?);
        // The last one is smaller.
        assert!(!fits(8, 8 * sectors_of_most + 1, 0)?);
        assert!(!fits(1 << 31, 1, most_open + 1)?);
        assert!(!fits(1 << 31, 1, u32::MAX)?);

        assert_eq!(disk(1, 8 * sectors_of_most, 0)?.add().err(), Some(EINVAL));
        assert_eq!(disk(8, 64, most_open + 1)?.add().err(), Some(EINVAL));
        Ok(())
    }

    #[cfg(CONFIG_BLK_DEV_ZONED)]
    #[test]
    fn a_disk_does_not_grow_too_many_zones() -> Result {
        let disk = zoned::disk(8, 64, 0)?.add()?;
        // Somebody in user space may look at a new disk, or at one that has changed.
        let closed = |resize: &dyn Fn() -> Result| loop {
            match resize() {
                Err(e) if e == EBUSY => fsleep(Delta::from_millis(1)),
                other => return other,
            }
        };
        let resize = |sectors| closed(&|| disk.set_capacity_and_notify(sectors));

        assert_eq!(resize(1 << 30), Err(EINVAL));
        assert_eq!(sectors(&disk), 0);
        assert_eq!(resize(128), Ok(()));
        assert_eq!(sectors(&disk), 128);
        let append = ZonedLimits {
            max_append_sectors: 4,
            ..Default::default()
        };
        assert_eq!(closed(&|| disk.resize_zoned(128, append)), Ok(()));
        // SAFETY: The queue is valid, and nobody changes its limits meanwhile.
        let set = unsafe { (*disk.queue()).limits.max_hw_zone_append_sectors };
        assert_eq!(set, 4);
        let open = ZonedLimits {
            max_open_zones: u32::MAX,
            ..Default::default()
        };
        assert_eq!(closed(&|| disk.resize_zoned(128, open)), Err(EINVAL));
        assert_eq!(sectors(&disk), 0);

        let removed = disk.disk_ref();
        drop(disk);
        assert_eq!(removed.set_capacity_and_notify(64), Err(ENODEV));
        assert_eq!(sectors(&removed), 0);
        Ok(())
    }
}
