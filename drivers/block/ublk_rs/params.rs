// SPDX-License-Identifier: GPL-2.0

//! The parameters of a device: what the server may set, and the limits of the request queue that
//! follow from them.

use crate::uapi::*;
use kernel::{
    block::mq::QueueLimits,
    page::PAGE_SIZE,
    prelude::*, //
};

/// Parameter types that the server may name.
const TYPES_KNOWN: u32 = UBLK_PARAM_TYPE_BASIC
    | UBLK_PARAM_TYPE_DISCARD
    | UBLK_PARAM_TYPE_DEVT
    | UBLK_PARAM_TYPE_ZONED
    | UBLK_PARAM_TYPE_DMA_ALIGN
    | UBLK_PARAM_TYPE_SEGMENT
    | UBLK_PARAM_TYPE_INTEGRITY;

/// Upper bound of physical block size, `io_min` and `io_opt`: 256 MiB.
const MAX_SIZE_SHIFT: u8 = 28;

/// Bytes of a sector, as a shift.
const SECTOR_SHIFT: u32 = 9;

/// Zoned parameters for a device that is not zoned.
const NO_ZONES: Error = if cfg!(CONFIG_BLK_DEV_ZONED) {
    EINVAL
} else {
    EOPNOTSUPP
};

impl Params {
    /// Whether parameters of a type are set.
    pub(crate) fn has(&self, ty: u32) -> bool {
        self.types & ty != 0
    }

    /// Takes the parameters that a server sent, in the place of all that were set before.
    ///
    /// `bytes` may be shorter than the structure, the rest keeps its values then. If the result is
    /// not valid for a device with these features, all parameters are cleared and an error is
    /// returned.
    pub(crate) fn set(&mut self, bytes: &[u8], max_io_buf_bytes: u32, features: u64) -> Result {
        let whole = zerocopy::IntoBytes::as_mut_bytes(self);
        let len = bytes.len().min(whole.len());
        whole[..len].copy_from_slice(&bytes[..len]);
        self.types &= TYPES_KNOWN;

        let valid = self.validate(max_io_buf_bytes, features);
        if valid.is_err() {
            *self = Self::default();
        }
        valid
    }

    /// Checks the parameters, of which only the basic ones must be set.
    fn validate(&self, max_io_buf_bytes: u32, features: u64) -> Result {
        if !self.has(UBLK_PARAM_TYPE_BASIC) {
            return Err(EINVAL);
        }
        self.basic.validate(max_io_buf_bytes)?;
        let zoned = features & UBLK_F_ZONED != 0;
        if zoned {
            self.basic.validate_zone_size()?;
        }

        if self.has(UBLK_PARAM_TYPE_DISCARD) {
            self.discard.validate()?;
        }
        // Device numbers are for reading only.
        if self.has(UBLK_PARAM_TYPE_DEVT) {
            return Err(EINVAL);
        }
        match (self.has(UBLK_PARAM_TYPE_ZONED), zoned) {
            (true, true) => self.zoned.validate(&self.basic)?,
            (true, false) => return Err(NO_ZONES),
            (false, true) => return Err(EINVAL),
            (false, false) => {}
        }
        if self.has(UBLK_PARAM_TYPE_DMA_ALIGN) {
            self.dma.validate()?;
        }
        if self.has(UBLK_PARAM_TYPE_SEGMENT) {
            self.seg.validate()?;
        }
        if self.has(UBLK_PARAM_TYPE_INTEGRITY) {
            if features & UBLK_F_INTEGRITY == 0 {
                return Err(EINVAL);
            }
            self.integrity.validate(self.basic.logical_bs_shift)?;
        }
        Ok(())
    }

    /// The limits of the request queue.
    ///
    /// Fails as [`Self::set`] does, so not for parameters that were set.
    pub(crate) fn limits(&self) -> Result<QueueLimits> {
        let basic = &self.basic;
        let mut limits = QueueLimits::new()
            .logical_block_size(1 << basic.logical_bs_shift)
            .physical_block_size(1 << basic.physical_bs_shift)
            .io_min(1 << basic.io_min_shift)
            .io_opt(1 << basic.io_opt_shift)
            .max_hw_sectors(basic.max_sectors)
            .chunk_sectors(basic.chunk_sectors)
            .virt_boundary_mask(basic.virt_boundary_mask as usize)
            .max_segments(u16::MAX)
            .max_segment_size(u32::MAX)
            .dma_alignment(3);

        if self.has(UBLK_PARAM_TYPE_DISCARD) {
            let discard = &self.discard;
            limits = limits
                .discard_alignment(discard.discard_alignment)
                .discard_granularity(discard.discard_granularity)
                .max_hw_discard_sectors(discard.max_discard_sectors)
                .max_write_zeroes_sectors(discard.max_write_zeroes_sectors)
                .max_discard_segments(discard.max_discard_segments);
        }
        if basic.attrs & UBLK_ATTR_VOLATILE_CACHE != 0 {
            limits = limits.write_cache(true);
            if basic.attrs & UBLK_ATTR_FUA != 0 {
                limits = limits.fua(true);
            }
        }
        if basic.attrs & UBLK_ATTR_ROTATIONAL != 0 {
            limits = limits.rotational(true);
        }
        if self.has(UBLK_PARAM_TYPE_DMA_ALIGN) {
            limits = limits.dma_alignment(self.dma.alignment);
        }
        if self.has(UBLK_PARAM_TYPE_SEGMENT) {
            limits = limits
                .seg_boundary_mask(self.seg.seg_boundary_mask as usize)
                .max_segment_size(self.seg.max_segment_size)
                .max_segments(self.seg.max_segments);
        }
        if self.has(UBLK_PARAM_TYPE_ZONED) {
            limits = limits.zoned(self.zoned.limits());
        }
        if self.has(UBLK_PARAM_TYPE_INTEGRITY) {
            limits = limits
                .max_integrity_segments(self.integrity.max_segments())
                .integrity(self.integrity.profile()?);
        }
        Ok(limits)
    }
}

impl ParamBasic {
    fn validate(&self, max_io_buf_bytes: u32) -> Result {
        let page_shift = PAGE_SIZE.ilog2();
        let max_sectors = self.max_sectors;

        let valid = (SECTOR_SHIFT..=page_shift).contains(&u32::from(self.logical_bs_shift))
            && self.physical_bs_shift <= MAX_SIZE_SHIFT
            && self.io_min_shift <= MAX_SIZE_SHIFT
            && self.io_opt_shift <= MAX_SIZE_SHIFT
            && self.logical_bs_shift <= self.physical_bs_shift
            && max_sectors <= max_io_buf_bytes >> SECTOR_SHIFT
            && max_sectors >= 1 << (page_shift - SECTOR_SHIFT);
        valid.then_some(()).ok_or(EINVAL)
    }
}

impl ParamDiscard {
    fn validate(&self) -> Result {
        // A discard has a single segment.
        let valid = (self.max_discard_sectors == 0 || self.max_discard_segments == 1)
            && self.discard_granularity != 0;
        valid.then_some(()).ok_or(EINVAL)
    }
}

impl ParamDmaAlign {
    fn validate(&self) -> Result {
        let valid = (self.alignment as usize) < PAGE_SIZE && (self.alignment + 1).is_power_of_two();
        valid.then_some(()).ok_or(EINVAL)
    }
}

impl ParamSegment {
    fn validate(&self) -> Result {
        let boundary = self.seg_boundary_mask.wrapping_add(1);
        let valid = boundary.is_power_of_two()
            && boundary >= u64::from(UBLK_MIN_SEGMENT_SIZE)
            && self.max_segment_size >= UBLK_MIN_SEGMENT_SIZE;
        valid.then_some(()).ok_or(EINVAL)
    }
}

#[kunit_tests(ublk_rs_params)]
mod tests {
    use super::*;

    const BUF: u32 = 1 << 19;

    fn basic() -> Params {
        Params {
            types: UBLK_PARAM_TYPE_BASIC,
            basic: ParamBasic {
                logical_bs_shift: 9,
                physical_bs_shift: 12,
                io_opt_shift: 12,
                io_min_shift: 9,
                max_sectors: BUF >> 9,
                dev_sectors: 1 << 20,
                ..Default::default()
            },
            ..Default::default()
        }
    }

    fn check(change: impl FnOnce(&mut Params)) -> Result {
        let mut params = basic();
        change(&mut params);
        params.validate(BUF, 0)
    }

    #[test]
    fn basic_is_needed() {
        assert!(check(|_| ()).is_ok());
        assert_eq!(check(|p| p.types = UBLK_PARAM_TYPE_DISCARD), Err(EINVAL));
    }

    #[test]
    fn basic_bounds() {
        assert_eq!(check(|p| p.basic.logical_bs_shift = 8), Err(EINVAL));
        assert_eq!(
            check(|p| {
                p.basic.logical_bs_shift = PAGE_SIZE.ilog2() as u8 + 1;
                p.basic.physical_bs_shift = p.basic.logical_bs_shift;
            }),
            Err(EINVAL)
        );
        assert_eq!(check(|p| p.basic.physical_bs_shift = 29), Err(EINVAL));
        assert!(check(|p| p.basic.physical_bs_shift = 28).is_ok());
        assert_eq!(check(|p| p.basic.io_min_shift = 29), Err(EINVAL));
        assert_eq!(check(|p| p.basic.io_opt_shift = 29), Err(EINVAL));
        assert_eq!(
            check(|p| {
                p.basic.logical_bs_shift = 12;
                p.basic.physical_bs_shift = 9;
            }),
            Err(EINVAL)
        );
        assert_eq!(check(|p| p.basic.max_sectors += 1), Err(EINVAL));
        assert_eq!(check(|p| p.basic.max_sectors = 1), Err(EINVAL));
        assert!(check(|p| p.basic.max_sectors = (PAGE_SIZE >> 9) as u32).is_ok());
    }

    #[test]
    fn discard() {
        let set = |sectors, segments, granularity| {
            check(|p| {
                p.types |= UBLK_PARAM_TYPE_DISCARD;
                p.discard.max_discard_sectors = sectors;
                p.discard.max_discard_segments = segments;
                p.discard.discard_granularity = granularity;
            })
        };
        assert!(set(8, 1, 512).is_ok());
        assert!(set(0, 0, 512).is_ok());
        assert_eq!(set(8, 2, 512), Err(EINVAL));
        assert_eq!(set(8, 0, 512), Err(EINVAL));
        assert_eq!(set(8, 1, 0), Err(EINVAL));
    }

    #[test]
    fn refused_types() {
        assert_eq!(check(|p| p.types |= UBLK_PARAM_TYPE_DEVT), Err(EINVAL));
        assert_eq!(check(|p| p.types |= UBLK_PARAM_TYPE_ZONED), Err(NO_ZONES));
        assert_eq!(check(|p| p.types |= UBLK_PARAM_TYPE_INTEGRITY), Err(EINVAL));
    }

    #[cfg(CONFIG_BLK_DEV_ZONED)]
    #[test]
    fn zoned_devices_have_zones() {
        let check = |change: fn(&mut Params)| {
            let mut params = basic();
            params.types |= UBLK_PARAM_TYPE_ZONED;
            params.basic.chunk_sectors = 1 << 10;
            params.zoned.max_zone_append_sectors = 8;
            change(&mut params);
            params.validate(BUF, UBLK_F_ZONED)
        };
        assert_eq!(check(|_| ()), Ok(()));
        assert_eq!(check(|p| p.types = UBLK_PARAM_TYPE_BASIC), Err(EINVAL));
        assert_eq!(check(|p| p.basic.chunk_sectors = 0), Err(EINVAL));
        assert_eq!(check(|p| p.basic.chunk_sectors += 1), Err(EINVAL));
        // What comes after them is checked as well.
        assert_eq!(
            check(|p| {
                p.types |= UBLK_PARAM_TYPE_DMA_ALIGN;
                p.dma.alignment = 512;
            }),
            Err(EINVAL)
        );
    }

    #[cfg(CONFIG_BLK_DEV_INTEGRITY)]
    #[test]
    fn integrity_needs_the_feature() {
        let mut params = basic();
        params.types |= UBLK_PARAM_TYPE_INTEGRITY;
        params.integrity.metadata_size = 8;
        params.integrity.interval_exp = 9;
        assert_eq!(params.validate(BUF, !UBLK_F_INTEGRITY), Err(EINVAL));
        assert_eq!(params.validate(BUF, UBLK_F_INTEGRITY), Ok(()));
        assert!(params.limits().is_ok());
        params.integrity.interval_exp = 10;
        assert_eq!(params.validate(BUF, UBLK_F_INTEGRITY), Err(EINVAL));
        params.types = UBLK_PARAM_TYPE_BASIC;
        assert_eq!(params.validate(BUF, 0), Ok(()));
    }

    #[test]
    fn dma_alignment() {
        let set = |alignment| {
            check(|p| {
                p.types |= UBLK_PARAM_TYPE_DMA_ALIGN;
                p.dma.alignment = alignment;
            })
        };
        assert!(set(0).is_ok());
        assert!(set(511).is_ok());
        assert!(set(PAGE_SIZE as u32 - 1).is_ok());
        assert_eq!(set(PAGE_SIZE as u32), Err(EINVAL));
        assert_eq!(set(512), Err(EINVAL));
        assert_eq!(set(u32::MAX), Err(EINVAL));
    }

    #[test]
    fn segments() {
        let set = |mask, size| {
            check(|p| {
                p.types |= UBLK_PARAM_TYPE_SEGMENT;
                p.seg.seg_boundary_mask = mask;
                p.seg.max_segment_size = size;
            })
        };
        assert!(set(4095, 4096).is_ok());
        assert_eq!(set(4094, 4096), Err(EINVAL));
        assert_eq!(set(2047, 4096), Err(EINVAL));
        assert_eq!(set(u64::MAX, 4096), Err(EINVAL));
        assert_eq!(set(4095, 4095), Err(EINVAL));
    }

    #[test]
    fn set_partly() {
        let mut params = basic();
        params.seg.max_segments = 9;
        let good = basic();
        let bytes = zerocopy::IntoBytes::as_bytes(&good);
        assert!(params.set(&bytes[..40], BUF, 0).is_ok());
        assert_eq!(params.seg.max_segments, 9);
        assert!(params.set(bytes, BUF, 0).is_ok());
        assert_eq!(params.seg.max_segments, 0);
        // Parameters that are not valid leave nothing behind.
        assert!(params.set(&bytes[..40], 0, 0).is_err());
        assert_eq!(params.types, 0);
    }
}
