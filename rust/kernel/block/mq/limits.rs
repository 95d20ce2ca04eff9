// SPDX-License-Identifier: GPL-2.0

//! The limits and features of a request queue.
//!
//! C header: [`include/linux/blkdev.h`](srctree/include/linux/blkdev.h)

use crate::bindings;

/// What the requests of a queue may look like, and what the device can do.
///
/// Wraps the C `struct queue_limits`. A field that is not set stays zero, which stands for the
/// default of the block layer. Nothing is checked here: the block layer checks the limits as a
/// whole when the disk is allocated, and [`GenDiskBuilder::alloc`] returns `EINVAL` for those that
/// make no sense. So values that come from user space can be passed on as they are.
///
/// [`GenDiskBuilder::alloc`]: super::gen_disk::GenDiskBuilder::alloc
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
        /// The smallest unit that the device can address, in bytes.
        logical_block_size: u32,
        /// The smallest unit that the device can write without reading first, in bytes.
        physical_block_size: u32,
        /// The preferred smallest size of random I/O, in bytes.
        io_min: u32,
        /// The preferred size of sequential I/O, in bytes.
        io_opt: u32,
        /// The largest request, in sectors.
        max_hw_sectors: u32,
        /// A boundary in sectors that no request crosses; 0 for none.
        chunk_sectors: u32,
        /// Segments must meet at multiples of this mask plus one.
        virt_boundary_mask: usize,
        /// No segment crosses a multiple of this mask plus one.
        seg_boundary_mask: usize,
        /// The largest number of segments of a request.
        max_segments: u16,
        /// The largest segment, in bytes.
        max_segment_size: u32,
        /// Data buffers start at multiples of this mask plus one.
        dma_alignment: u32,
        /// Where the first unit of discard starts, in bytes.
        discard_alignment: u32,
        /// The unit of discard, in bytes.
        discard_granularity: u32,
        /// The largest discard, in sectors; 0 if the device can not discard.
        max_hw_discard_sectors: u32,
        /// The largest number of ranges of a discard.
        max_discard_segments: u16,
        /// The largest write of zeroes, in sectors; 0 if the device can not do it.
        max_write_zeroes_sectors: u32,
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

    /// The C structure.
    #[inline]
    pub(super) fn into_raw(self) -> bindings::queue_limits {
        self.0
    }
}

#[cfg(CONFIG_RUST_BLOCK_KUNIT_TEST)]
#[macros::kunit_tests(rust_kernel_block_mq_limits)]
mod tests {
    use super::*;

    #[test]
    fn features_are_set_and_cleared_alone() {
        let raw = QueueLimits::new()
            .write_cache(true)
            .fua(true)
            .rotational(true)
            .fua(false)
            .into_raw();

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
            .into_raw();

        assert_eq!(raw.logical_block_size, 512);
        assert_eq!(raw.max_segments, u16::MAX);
        assert_eq!(raw.virt_boundary_mask, 4095);
        assert_eq!(raw.max_write_zeroes_sectors, 7);
        assert_eq!(raw.physical_block_size, 0);
    }
}
