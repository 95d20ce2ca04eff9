// SPDX-License-Identifier: GPL-2.0

//! Integrity metadata: some bytes beside each interval of the data, which the block layer or a user
//! of the disk may use to check that.
//!
//! C headers: [`include/linux/blk-integrity.h`](srctree/include/linux/blk-integrity.h),
//! [`include/linux/bio-integrity.h`](srctree/include/linux/bio-integrity.h)

use super::{
    data::Place,
    RequestView, //
};
use crate::{
    bindings,
    block::SECTOR_SHIFT,
    iov::{
        IovIterDest,
        IovIterSource, //
    },
    prelude::*, //
};
use core::marker::PhantomData;

/// How the data of an interval is checked; the C `enum blk_integrity_checksum`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IntegrityChecksum {
    /// Not at all: nobody but the users of the disk knows what the metadata means.
    None,
    /// The checksum of IP, in a tuple of T10 protection information.
    Ip,
    /// CRC-16, in a tuple of T10 protection information.
    Crc,
    /// CRC-64, in a tuple of NVMe's protection information.
    Crc64,
}

impl IntegrityChecksum {
    /// The size of the tuple with the checksum, in bytes.
    #[inline]
    const fn tuple_size(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Ip | Self::Crc => size_of::<bindings::t10_pi_tuple>() as u8,
            Self::Crc64 => size_of::<bindings::crc64_pi_tuple>() as u8,
        }
    }

    fn as_raw(self) -> bindings::blk_integrity_checksum {
        match self {
            Self::None => bindings::blk_integrity_checksum_BLK_INTEGRITY_CSUM_NONE,
            Self::Ip => bindings::blk_integrity_checksum_BLK_INTEGRITY_CSUM_IP,
            Self::Crc => bindings::blk_integrity_checksum_BLK_INTEGRITY_CSUM_CRC,
            Self::Crc64 => bindings::blk_integrity_checksum_BLK_INTEGRITY_CSUM_CRC64,
        }
    }
}

/// What the metadata of a disk looks like, for [`QueueLimits::integrity`].
///
/// All methods can be called from any context. Wraps the C `struct blk_integrity`.
///
/// [`QueueLimits::integrity`]: super::QueueLimits::integrity
///
/// # Examples
///
/// ```
/// use kernel::block::mq::{
///     IntegrityChecksum,
///     IntegrityProfile,
///     QueueLimits, //
/// };
///
/// // 16 bytes beside each 512, of which the last 8 are T10 protection information of type 1.
/// # if cfg!(CONFIG_BLK_DEV_INTEGRITY) {
/// let profile = IntegrityProfile::new(IntegrityChecksum::Crc, 16, 8, 9)?.ref_tag(true)?;
/// let limits = QueueLimits::new().integrity(profile);
/// # let _ = limits;
/// # }
///
/// // The tuple of 8 bytes has no place.
/// assert!(IntegrityProfile::new(IntegrityChecksum::Crc, 8, 1, 9).is_err());
/// # Ok::<(), Error>(())
/// ```
///
/// # Invariants
///
/// C's `blk_validate_integrity_limits()` accepts the profile for logical blocks that are not
/// smaller than an interval. The metadata size is not 0.
#[derive(Clone, Copy)]
#[must_use]
pub struct IntegrityProfile(bindings::blk_integrity);

impl IntegrityProfile {
    /// `metadata_size` bytes beside each interval of `1 << interval_shift` bytes of data. The tuple
    /// of the checksum is `pi_offset` bytes into them.
    ///
    /// Fails with `EINVAL` if there is no metadata, if the tuple has no place in it, or if an
    /// interval is smaller than a sector; and with `EOPNOTSUPP` without
    /// `CONFIG_BLK_DEV_INTEGRITY`.
    pub fn new(
        checksum: IntegrityChecksum,
        metadata_size: u8,
        pi_offset: u8,
        interval_shift: u8,
    ) -> Result<Self> {
        let tuple_size = checksum.tuple_size();
        let fits = pi_offset
            .checked_add(tuple_size)
            .is_some_and(|end| end <= metadata_size);

        if metadata_size == 0 || !fits || u32::from(interval_shift) < SECTOR_SHIFT {
            return Err(EINVAL);
        }
        if !cfg!(CONFIG_BLK_DEV_INTEGRITY) {
            return Err(EOPNOTSUPP);
        }
        // INVARIANT: The conditions of the function were checked but for that about reference
        // tags, which the profile does not have.
        Ok(Self(bindings::blk_integrity {
            csum_type: checksum.as_raw(),
            metadata_size,
            pi_offset,
            interval_exp: interval_shift,
            pi_tuple_size: tuple_size,
            ..pin_init::zeroed()
        }))
    }

    /// Whether the tuple has a reference tag, the number of the interval, so that data at a wrong
    /// place is found (`BLK_INTEGRITY_REF_TAG`): type 1 rather than type 3 of T10.
    ///
    /// Fails with `EINVAL` if there is no checksum.
    pub fn ref_tag(self, on: bool) -> Result<Self> {
        if on && self.0.csum_type == IntegrityChecksum::None.as_raw() {
            return Err(EINVAL);
        }
        // INVARIANT: There is a checksum, or no reference tag.
        Ok(self.flag(bindings::blk_integrity_flags_BLK_INTEGRITY_REF_TAG, on))
    }

    /// Whether the device itself checks the metadata (`BLK_INTEGRITY_DEVICE_CAPABLE`). This is only
    /// told to user space.
    pub fn device_capable(self, on: bool) -> Self {
        // INVARIANT: This makes no difference.
        self.flag(
            bindings::blk_integrity_flags_BLK_INTEGRITY_DEVICE_CAPABLE,
            on,
        )
    }

    /// Whether the data of an interval may lie in several bvecs (`BLK_SPLIT_INTERVAL_CAPABLE`).
    /// Else the data of a request is aligned to intervals in memory.
    pub fn split_intervals(self, on: bool) -> Self {
        // INVARIANT: This makes no difference.
        self.flag(bindings::blk_integrity_flags_BLK_SPLIT_INTERVAL_CAPABLE, on)
    }

    /// How many bytes of the metadata are for tags of applications. This is only told to user
    /// space.
    pub fn tag_size(mut self, bytes: u8) -> Self {
        // INVARIANT: This makes no difference.
        self.0.tag_size = bytes;
        self
    }

    #[inline]
    fn flag(mut self, bit: bindings::blk_integrity_flags, on: bool) -> Self {
        if on {
            self.0.flags |= bit as u8;
        } else {
            self.0.flags &= !(bit as u8);
        }
        self
    }

    #[inline]
    pub(super) fn into_raw(self) -> bindings::blk_integrity {
        self.0
    }
}

impl RequestView {
    /// The size of the metadata of the request, in bytes, whether it has any or not; [`None`] if
    /// its disk has no metadata.
    ///
    /// Any context. Wraps the C function `bio_integrity_bytes()`.
    pub fn integrity_bytes(&self) -> Option<u32> {
        // SAFETY: By the type invariants the request is valid, and so is its queue. These limits do
        // not change while there is a request: the queue is frozen for that.
        let profile = unsafe { (*(*self.as_raw()).q).limits.integrity };

        // Without metadata there is no interval either.
        if profile.metadata_size == 0 {
            return None;
        }
        let shift = u32::from(profile.interval_exp).checked_sub(SECTOR_SHIFT)?;
        let intervals = self.sectors().checked_shr(shift)?;
        intervals.checked_mul(profile.metadata_size.into())
    }

    /// Copies metadata of the request to `iter`, from `offset` bytes into the metadata on.
    ///
    /// Returns the number of bytes copied: nothing if the request has no metadata, or if it does
    /// not transfer towards the device ([`Op::is_write`](super::Op::is_write)).
    ///
    /// # Context
    ///
    /// Task context; may sleep on a page fault. Wraps the C function `_copy_to_iter()`.
    pub fn copy_integrity_to_iter(&self, offset: u32, iter: &mut IovIterDest<'_>) -> usize {
        // SAFETY: By the type invariants of `IovIterDest` this is a valid destination. The bvecs
        // are those of the request's metadata.
        unsafe { self.copy_out(self.integrity_bvecs(), offset, iter.as_raw()) }
    }

    /// Copies from `iter` to the metadata of the request, to `offset` bytes into it.
    ///
    /// Returns the number of bytes copied: nothing if the request has no metadata, or if it does
    /// not transfer from the device.
    ///
    /// # Context
    ///
    /// Task context; may sleep on a page fault. Wraps the C function `_copy_from_iter()`.
    pub fn copy_integrity_from_iter(&self, offset: u32, iter: &mut IovIterSource<'_>) -> usize {
        // SAFETY: By the type invariants of `IovIterSource` this is a valid source. The bvecs are
        // those of the request's metadata.
        unsafe { self.copy_in(self.integrity_bvecs(), offset, iter.as_raw()) }
    }

    /// The metadata of all bios, as physically contiguous ranges. As `bio_for_each_integrity_vec()`
    /// in C.
    #[inline]
    fn integrity_bvecs(&self) -> IntegrityBvecs<'_> {
        // INVARIANT: The first bio of the request, from the start of its payload.
        IntegrityBvecs {
            bio: self.first_bio(),
            at: None,
            _rq: PhantomData,
        }
    }
}

/// Iterator over the bvecs of the metadata of a request, over all its bios.
///
/// # Invariants
///
/// `bio` is null or points to a bio of a request that is borrowed for `'a`. `at` is the rest of its
/// integrity payload that was not yet returned; [`None`] stands for all of it.
struct IntegrityBvecs<'a> {
    bio: *const bindings::bio,
    at: Option<Place>,
    _rq: PhantomData<&'a RequestView>,
}

impl Iterator for IntegrityBvecs<'_> {
    type Item = bindings::bio_vec;

    fn next(&mut self) -> Option<bindings::bio_vec> {
        while !self.bio.is_null() {
            // SAFETY: By the type invariants this is the bio of a live request.
            if let Some(payload) = unsafe { payload_of(self.bio) } {
                // SAFETY: The payload is valid. It does not change while the driver owns the
                // request: the block layer advances it when a part of the request has ended.
                let (table, start) = unsafe { ((*payload).bip_vec, (*payload).bip_iter) };
                let at = self.at.unwrap_or_else(|| Place::from(start));

                // SAFETY: The table covers `bi_size` bytes from `bi_idx` and `bi_offset` of the
                // payload's iterator on, and what is left at `at` is still to come.
                if let Some((bv, behind)) = unsafe { at.take(table) } {
                    // INVARIANT: What is behind the bvec that is returned is the rest.
                    self.at = Some(behind);
                    return Some(bv);
                }
            }
            // INVARIANT: The next bio, from the start of its payload; or the end of the list.
            // SAFETY: By the type invariants the bio is valid, and this field does not change.
            self.bio = unsafe { (*self.bio).bi_next };
            self.at = None;
        }
        None
    }
}

/// The integrity payload of a bio, if it has one. As the C function `bio_integrity()`.
///
/// # Safety
///
/// `bio` must be that of a live request.
#[inline]
unsafe fn payload_of(bio: *const bindings::bio) -> Option<*const bindings::bio_integrity_payload> {
    #[cfg(CONFIG_BLK_DEV_INTEGRITY)]
    {
        let has_one = 1 << bindings::req_flag_bits___REQ_INTEGRITY;
        // SAFETY: By the safety requirement the bio is valid, and these fields do not change.
        let (opf, payload) = unsafe { ((*bio).bi_opf, (*bio).bi_integrity) };
        (opf & has_one != 0 && !payload.is_null()).then_some(payload.cast_const())
    }
    #[cfg(not(CONFIG_BLK_DEV_INTEGRITY))]
    {
        let _ = bio;
        None
    }
}

#[cfg(all(CONFIG_RUST_BLOCK_KUNIT_TEST, CONFIG_BLK_DEV_INTEGRITY))]
#[macros::kunit_tests(rust_kernel_block_mq_integrity)]
mod tests {
    use super::*;

    #[test]
    fn profiles_that_make_no_sense_are_refused() {
        use IntegrityChecksum::*;
        let new = |checksum, size, offset, shift| {
            IntegrityProfile::new(checksum, size, offset, shift).map(|_| ())
        };

        assert_eq!(new(None, 0, 0, 9), Err(EINVAL));
        assert_eq!(new(None, 1, 0, 9), Ok(()));
        assert_eq!(new(None, 1, 1, 9), Ok(()));
        assert_eq!(new(None, 1, 2, 9), Err(EINVAL));
        assert_eq!(new(None, 1, 0, 8), Err(EINVAL));
        for (checksum, size) in [(Ip, 8), (Crc, 8), (Crc64, 16)] {
            assert_eq!(checksum.tuple_size(), size);
            assert_eq!(new(checksum, size, 0, 9), Ok(()));
            assert_eq!(new(checksum, size - 1, 0, 9), Err(EINVAL));
            assert_eq!(new(checksum, size, 1, 9), Err(EINVAL));
            assert_eq!(new(checksum, 255, 255 - size, 12), Ok(()));
            assert_eq!(new(checksum, 255, 255, 12), Err(EINVAL));
        }
    }

    #[test]
    fn reference_tags_need_a_checksum() -> Result {
        let none = IntegrityProfile::new(IntegrityChecksum::None, 8, 0, 9)?;
        let crc = IntegrityProfile::new(IntegrityChecksum::Crc, 8, 0, 9)?;

        assert_eq!(none.ref_tag(true).err(), Some(EINVAL));
        assert!(none.ref_tag(false).is_ok());
        let raw = crc.ref_tag(true)?.device_capable(true).into_raw();
        assert_eq!(
            u32::from(raw.flags),
            bindings::blk_integrity_flags_BLK_INTEGRITY_REF_TAG
                | bindings::blk_integrity_flags_BLK_INTEGRITY_DEVICE_CAPABLE
        );
        Ok(())
    }

    fn bvec(len: u32, offset: u32) -> bindings::bio_vec {
        bindings::bio_vec {
            bv_page: core::ptr::null_mut(),
            bv_len: len,
            bv_offset: offset,
        }
    }

    fn payload(
        table: &mut [bindings::bio_vec],
        idx: u32,
        skip: u32,
        size: u32,
    ) -> bindings::bio_integrity_payload {
        let mut payload: bindings::bio_integrity_payload = pin_init::zeroed();

        payload.bip_vec = table.as_mut_ptr();
        payload.bip_iter.bi_idx = idx;
        payload.bip_iter.bi_offset = skip;
        payload.bip_iter.bi_size = size;
        payload
    }

    fn bio(
        payload: *mut bindings::bio_integrity_payload,
        next: *mut bindings::bio,
    ) -> bindings::bio {
        let mut bio: bindings::bio = pin_init::zeroed();

        bio.bi_opf = bindings::req_op_REQ_OP_WRITE;
        if !payload.is_null() {
            bio.bi_opf |= 1 << bindings::req_flag_bits___REQ_INTEGRITY;
        }
        bio.bi_integrity = payload;
        bio.bi_next = next;
        bio
    }

    /// The C driver's loop over all bios ends within the first one if that does not take all.
    #[test]
    fn payloads_of_all_bios_are_walked() {
        let mut table1 = [bvec(64, 0), bvec(64, 128), bvec(64, 0)];
        let mut table4 = [bvec(8, 8)];
        let mut payload1 = payload(&mut table1, 1, 16, 48 + 24);
        let mut payload4 = payload(&mut table4, 0, 0, 8);
        let mut payload5 = payload(&mut [], 0, 0, 0);
        let none = core::ptr::null_mut();
        let mut bio5 = bio(&mut payload5, core::ptr::null_mut());
        let mut bio4 = bio(&mut payload4, &mut bio5);
        // Without the flag, the pointer is not looked at.
        let mut bio3 = bio(none, &mut bio4);
        bio3.bi_integrity = core::ptr::without_provenance_mut(8);
        let mut bio2 = bio(none, &mut bio3);
        let bio1 = bio(&mut payload1, &mut bio2);

        let walk = |bio| {
            // INVARIANT: The bio and what follows it lives in this function.
            let bvecs = IntegrityBvecs {
                bio,
                at: None,
                _rq: PhantomData,
            };
            bvecs.map(|bv| (bv.bv_len, bv.bv_offset))
        };
        assert!(walk(&bio1).eq([(48, 144), (24, 0), (8, 8)]));
        assert!(walk(&bio2).eq([(8, 8)]));
        assert!(walk(&bio5).eq([]));
    }
}
