// SPDX-License-Identifier: GPL-2.0

//! The limits and features of a request queue.
//!
//! C header: [`include/linux/blkdev.h`](srctree/include/linux/blkdev.h)

use super::{
    IntegrityProfile,
    ZonedLimits, //
};
use crate::{
    bindings,
    block::{
        SECTOR_SHIFT,
        SECTOR_SIZE, //
    },
    error::to_result,
    page::PAGE_SIZE,
    prelude::*, //
};

/// The least size of a segment, in bytes; C's `BLK_MIN_SEGMENT_SIZE`.
const MIN_SEGMENT_SIZE: usize = 4096;

/// What the requests of a queue may look like, and what the device can do.
///
/// A field that is not set stays zero, which stands for the default of the block layer. The limits
/// are checked as a whole when the disk is allocated: [`GenDiskBuilder::alloc`] returns `EINVAL` if
/// they make no sense. Values that come from user space need no other check: none of them makes the
/// kernel warn of a bug (`WARN()`). Those that say how many zones there are get theirs when the
/// disk has a size: [`UnaddedDisk::add`] and [`DiskRef::set_capacity_and_notify`] return
/// `EINVAL` then.
///
/// All methods can be called from any context. Wraps the C `struct queue_limits`.
///
/// [`DiskRef::set_capacity_and_notify`]: super::DiskRef::set_capacity_and_notify
/// [`GenDiskBuilder::alloc`]: super::gen_disk::GenDiskBuilder::alloc
/// [`UnaddedDisk::add`]: super::gen_disk::UnaddedDisk::add
///
/// # Examples
///
/// ```
/// use kernel::block::mq::QueueLimits;
///
/// let limits = QueueLimits::new()
///     .logical_block_size(512)
///     .physical_block_size(4096)
///     .max_hw_sectors(1024)
///     .write_cache(true)
///     .fua(true);
/// # let _ = limits;
/// ```
#[derive(Clone, Copy)]
#[must_use]
pub struct QueueLimits(bindings::queue_limits);

impl Default for QueueLimits {
    fn default() -> Self {
        Self::new()
    }
}

/// Defines one setter per field that is passed on as it is.
macro_rules! setters {
    ($($(#[$doc:meta])* $field:ident: $ty:ty),* $(,)?) => {
        $(
            $(#[$doc])*
            #[inline]
            pub fn $field(mut self, value: $ty) -> Self {
                self.0.$field = value;
                self
            }
        )*
    };
}

impl QueueLimits {
    /// Limits with all fields at their default.
    #[inline]
    pub fn new() -> Self {
        Self(pin_init::zeroed())
    }

    setters! {
        /// The smallest unit that the device can address, in bytes: a power of two, from 512 to
        /// what the page cache supports. By default 512.
        logical_block_size: u32,
        /// The smallest unit that the device can write without reading first, in bytes: a power of
        /// two. By default, and if smaller than that, the logical block size.
        physical_block_size: u32,
        /// The preferred smallest size of random I/O, in bytes. By default, and if smaller than
        /// that, the physical block size.
        io_min: u32,
        /// The preferred size of sequential I/O, in bytes. By default there is none.
        io_opt: u32,
        /// The largest request, in sectors: at least a page and a logical block. By default 255.
        max_hw_sectors: u32,
        /// A boundary in sectors that no request crosses. By default there is none.
        chunk_sectors: u32,
        /// Segments must meet at multiples of this mask plus one. By default they may meet
        /// anywhere.
        virt_boundary_mask: usize,
        /// No segment crosses a multiple of this mask plus one. The mask is at least 4095; by
        /// default the boundary is at 4 GiB.
        seg_boundary_mask: usize,
        /// The largest number of segments of a request. By default 128.
        max_segments: u16,
        /// The largest segment, in bytes: at least 4096. By default 64 KiB, and without limit if
        /// there is a [`virt_boundary_mask`](Self::virt_boundary_mask).
        max_segment_size: u32,
        /// Data buffers start at multiples of this mask plus one. The mask is at most a page; by
        /// default it is 511.
        dma_alignment: u32,
        /// Where the first unit of discard starts, in bytes.
        discard_alignment: u32,
        /// The unit of discard, in bytes. By default, and if smaller than that, the physical block
        /// size.
        discard_granularity: u32,
        /// The largest discard, in sectors; 0 if the device can not discard.
        max_hw_discard_sectors: u32,
        /// The largest number of ranges of a discard. By default 1.
        max_discard_segments: u16,
        /// The largest write of zeroes, in sectors; 0 if the device can not do it.
        max_write_zeroes_sectors: u32,
        /// The largest number of segments of the integrity metadata of a request. There is no
        /// default: who sets [`Self::integrity`] sets this.
        max_integrity_segments: u16,
    }

    /// The device stores metadata beside its data. By default it does not.
    #[inline]
    pub fn integrity(mut self, profile: IntegrityProfile) -> Self {
        self.0.integrity = profile.into_raw();
        self
    }

    /// The device is a zoned one (`BLK_FEAT_ZONED`): see [`ZonedLimits`]. Its zones have the size
    /// of [`Self::chunk_sectors`], which must be a power of two. By default it is not.
    #[inline]
    pub fn zoned(mut self, zoned: ZonedLimits) -> Self {
        self.0.features |= bindings::BLK_FEAT_ZONED;
        self.0.max_open_zones = zoned.max_open_zones;
        self.0.max_active_zones = zoned.max_active_zones;
        self.0.max_hw_zone_append_sectors = zoned.max_append_sectors;
        self
    }

    /// Whether [`Self::zoned`] was called.
    #[inline]
    pub(super) fn is_zoned(&self) -> bool {
        self.0.features & bindings::BLK_FEAT_ZONED != 0
    }

    /// Whether the device has a volatile write cache (`BLK_FEAT_WRITE_CACHE`).
    #[inline]
    pub fn write_cache(self, on: bool) -> Self {
        self.feature(bindings::BLK_FEAT_WRITE_CACHE, on)
    }

    /// Whether the device understands [`RequestFlags::fua`] (`BLK_FEAT_FUA`). Means something only
    /// with a write cache.
    ///
    /// [`RequestFlags::fua`]: super::RequestFlags::fua
    #[inline]
    pub fn fua(self, on: bool) -> Self {
        self.feature(bindings::BLK_FEAT_FUA, on)
    }

    /// Whether the device is a rotating one (`BLK_FEAT_ROTATIONAL`).
    #[inline]
    pub fn rotational(self, on: bool) -> Self {
        self.feature(bindings::BLK_FEAT_ROTATIONAL, on)
    }

    #[inline]
    fn feature(mut self, bit: bindings::blk_features_t, on: bool) -> Self {
        if on {
            self.0.features |= bit;
        } else {
            self.0.features &= !bit;
        }
        self
    }

    /// Refuses with `EINVAL` what would make the C function `blk_validate_limits()` complain.
    ///
    /// These are the conditions under which it warns, for the fields that have a setter. All of
    /// them lead to `EINVAL` there too, so nothing that it accepts is refused here but for one
    /// case: a `max_segment_size` below the minimum together with a `virt_boundary_mask` passes
    /// there, though a segment of less than a sector is good for nothing.
    fn check(&self) -> Result {
        let lim = &self.0;
        // A field that is not set is never bad.
        let at_least = |min: usize, value: usize| value == 0 || value >= min;

        let block_size = match lim.logical_block_size {
            0 => SECTOR_SIZE,
            size => size,
        };
        // SAFETY: The function accepts every value.
        to_result(unsafe { bindings::blk_validate_block_size(block_size as usize) })?;

        // The default for the largest request, 255 sectors, is enough for every block size.
        let min_hw_sectors = PAGE_SIZE.max(block_size as usize) >> SECTOR_SHIFT;
        // There is nothing else to check: see the invariants of `IntegrityProfile`.
        let good_interval = lim.integrity.metadata_size == 0
            || u32::from(lim.integrity.interval_exp) <= block_size.ilog2();
        let good = (lim.physical_block_size < block_size
            || lim.physical_block_size.is_power_of_two())
            && good_interval
            && (!self.is_zoned()
                || cfg!(CONFIG_BLK_DEV_ZONED) && lim.chunk_sectors.is_power_of_two())
            && at_least(min_hw_sectors, lim.max_hw_sectors as usize)
            && at_least(MIN_SEGMENT_SIZE - 1, lim.seg_boundary_mask)
            && at_least(MIN_SEGMENT_SIZE, lim.max_segment_size as usize)
            && lim.dma_alignment as usize <= PAGE_SIZE;
        good.then_some(()).ok_or(EINVAL)
    }

    /// The C structure, or `EINVAL` if the limits make no sense.
    #[inline]
    pub(super) fn into_raw(self) -> Result<bindings::queue_limits> {
        self.check()?;
        Ok(self.0)
    }
}

#[cfg(CONFIG_RUST_BLOCK_KUNIT_TEST)]
#[macros::kunit_tests(rust_kernel_block_mq_limits)]
mod tests {
    use super::*;
    use crate::{
        block::mq::{
            gen_disk::GenDiskBuilder,
            Operations,
            QueueResult,
            Request,
            TagSet, //
        },
        sync::{
            aref::ARef,
            Arc, //
        },
    };

    /// Its disks are allocated, which is when the block layer looks at the limits.
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

    type Setter<T> = fn(QueueLimits, T) -> QueueLimits;

    /// The setters of one type, with the values that are refused. Those that are accepted come
    /// after them.
    type Cases<T> = [(Setter<T>, &'static [T], &'static [T])];

    fn try_all<T: Copy>(tagset: &Arc<TagSet<Device>>, cases: &Cases<T>) {
        let alloc = |limits| {
            GenDiskBuilder::new()
                .limits(limits)
                .alloc(fmt!("limits-kunit"), tagset.clone(), ())
                .map(|_| ())
        };

        for &(set, refused, accepted) in cases {
            for &value in refused {
                let limits = set(QueueLimits::new(), value);
                // Before the block layer sees them, which would refuse them too, but warn.
                assert_eq!(limits.check(), Err(EINVAL));
                assert_eq!(alloc(limits), Err(EINVAL));
            }
            for &value in accepted {
                assert_eq!(alloc(set(QueueLimits::new(), value)), Ok(()));
            }
        }
    }

    /// If one that is accepted here made it warn, that would be found in the kernel's log.
    #[test]
    fn no_value_makes_the_block_layer_warn() -> Result {
        const PAGE: u32 = PAGE_SIZE as u32;
        const PAGE_SECTORS: u32 = PAGE >> SECTOR_SHIFT;
        let tagset = Arc::pin_init(TagSet::<Device>::new(1, 4, 1), GFP_KERNEL)?;

        try_all(
            &tagset,
            &[
                (
                    QueueLimits::logical_block_size,
                    &[1, 256, 513, 1 << 17, 1 << 31, u32::MAX],
                    &[0, 512, PAGE],
                ),
                (
                    QueueLimits::physical_block_size,
                    &[513, u32::MAX],
                    &[0, 1, 300, 512, PAGE, 1 << 31],
                ),
                (QueueLimits::io_min, &[], &[0, 1, 513, u32::MAX]),
                (QueueLimits::io_opt, &[], &[0, 1, 513, u32::MAX]),
                (
                    QueueLimits::max_hw_sectors,
                    &[1, PAGE_SECTORS - 1],
                    &[0, PAGE_SECTORS, PAGE_SECTORS + 1, u32::MAX],
                ),
                (
                    |limits, max| limits.logical_block_size(PAGE).max_hw_sectors(max),
                    &[1, PAGE_SECTORS - 1],
                    &[0, PAGE_SECTORS, u32::MAX],
                ),
                (QueueLimits::chunk_sectors, &[], &[0, 1, 3, u32::MAX]),
                (
                    QueueLimits::max_segment_size,
                    &[1, 4095],
                    &[0, 4096, 4097, u32::MAX],
                ),
                (
                    |limits, max| limits.virt_boundary_mask(4095).max_segment_size(max),
                    &[1, 4095],
                    &[0, 4096, u32::MAX],
                ),
                (
                    QueueLimits::dma_alignment,
                    &[PAGE + 1, u32::MAX],
                    &[0, 1, 510, PAGE - 1, PAGE],
                ),
                (QueueLimits::discard_alignment, &[], &[0, 1, u32::MAX]),
                (QueueLimits::discard_granularity, &[], &[0, 1, u32::MAX]),
                (
                    |limits, max| {
                        limits
                            .discard_granularity(u32::MAX)
                            .max_hw_discard_sectors(max)
                    },
                    &[],
                    &[0, 1, u32::MAX],
                ),
                (
                    QueueLimits::max_write_zeroes_sectors,
                    &[],
                    &[0, 1, u32::MAX],
                ),
            ],
        );
        try_all(
            &tagset,
            &[
                (QueueLimits::max_segments, &[], &[0, 1, u16::MAX]),
                (QueueLimits::max_discard_segments, &[], &[0, 1, u16::MAX]),
            ],
        );
        try_all(
            &tagset,
            &[
                (
                    QueueLimits::virt_boundary_mask,
                    &[],
                    &[0, 1, 4095, usize::MAX],
                ),
                (
                    QueueLimits::seg_boundary_mask,
                    &[1, 4094],
                    &[0, 4095, 4096, usize::MAX],
                ),
            ],
        );
        Ok(())
    }

    #[cfg(CONFIG_BLK_DEV_INTEGRITY)]
    #[test]
    fn an_interval_is_not_larger_than_a_block() -> Result {
        use crate::block::mq::IntegrityChecksum;

        let tagset = Arc::pin_init(TagSet::<Device>::new(1, 4, 1), GFP_KERNEL)?;
        let alloc = |block, shift| {
            let profile = IntegrityProfile::new(IntegrityChecksum::Crc, 64, 56, shift)?;
            let limits = QueueLimits::new()
                .logical_block_size(block)
                .max_integrity_segments(u16::MAX)
                .integrity(profile.ref_tag(true)?);
            GenDiskBuilder::new()
                .limits(limits)
                .alloc(fmt!("integrity-kunit"), tagset.clone(), ())
                .map(|_| ())
        };

        assert_eq!(alloc(0, 9), Ok(()));
        assert_eq!(alloc(0, 10), Err(EINVAL));
        assert_eq!(alloc(4096, 12), Ok(()));
        assert_eq!(alloc(4096, 9), Ok(()));
        assert_eq!(alloc(4096, 13), Err(EINVAL));
        assert_eq!(alloc(4096, u8::MAX), Err(EINVAL));
        Ok(())
    }

    #[test]
    fn features_are_set_and_cleared_alone() {
        let raw = QueueLimits::new()
            .write_cache(true)
            .fua(true)
            .rotational(true)
            .fua(false)
            .0;

        assert_eq!(
            raw.features,
            bindings::BLK_FEAT_WRITE_CACHE | bindings::BLK_FEAT_ROTATIONAL
        );
    }

    #[test]
    fn fields_go_to_their_place() {
        let raw = QueueLimits::new()
            .logical_block_size(512)
            .max_segments(u16::MAX)
            .virt_boundary_mask(4095)
            .max_write_zeroes_sectors(7)
            .0;

        assert_eq!(raw.logical_block_size, 512);
        assert_eq!(raw.max_segments, u16::MAX);
        assert_eq!(raw.virt_boundary_mask, 4095);
        assert_eq!(raw.max_write_zeroes_sectors, 7);
        assert_eq!(raw.physical_block_size, 0);
    }
}
