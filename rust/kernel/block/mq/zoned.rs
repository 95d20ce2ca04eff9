// SPDX-License-Identifier: GPL-2.0

//! Zoned disks: what their zones are, and how a driver tells the block layer about them.
//!
//! C headers: [`include/linux/blkdev.h`](srctree/include/linux/blkdev.h),
//! [`include/uapi/linux/blkzoned.h`](srctree/include/uapi/linux/blkzoned.h)

#[cfg(CONFIG_BLK_DEV_ZONED)]
use crate::error::to_result;
use crate::{
    bindings,
    prelude::*, //
};
use core::{
    marker::PhantomData,
    mem::offset_of, //
};

/// The limits of a zoned disk, for [`QueueLimits::zoned`].
///
/// # Examples
///
/// ```
/// use kernel::block::mq::{
///     QueueLimits,
///     ZonedLimits, //
/// };
///
/// // Zones of 256 MiB.
/// let limits = QueueLimits::new()
///     .chunk_sectors(1 << 19)
///     .zoned(ZonedLimits {
///         max_open_zones: 16,
///         max_active_zones: 32,
///         max_append_sectors: 1024,
///     });
/// # let _ = limits;
/// ```
///
/// [`QueueLimits::zoned`]: super::QueueLimits::zoned
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ZonedLimits {
    /// How many zones may be open, 0 if that does not matter. Not more than may be active.
    pub max_open_zones: u32,
    /// How many zones may be partly written, 0 if that does not matter.
    pub max_active_zones: u32,
    /// The largest zone append, in sectors; 0 if the device can not do that, so that the block
    /// layer sends writes instead.
    pub max_append_sectors: u32,
}

/// Zones of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ZoneRange {
    /// The first sector of the first one.
    pub sector: u64,
    /// How many.
    pub nr_zones: u32,
}

/// How a zone can be written; the C `enum blk_zone_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ZoneType {
    /// Anywhere.
    Conventional,
    /// Only at its write pointer.
    Sequential,
    /// Best at its write pointer.
    SequentialPreferred,
}

/// What state a zone is in; the C `enum blk_zone_cond`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ZoneCondition {
    /// It has no write pointer: a conventional zone.
    NoWritePointer,
    /// Nothing was written.
    Empty,
    /// It is open because somebody has written.
    ImplicitOpen,
    /// It is open because somebody has asked for that.
    ExplicitOpen,
    /// It is partly written.
    Closed,
    /// It can only be read.
    ReadOnly,
    /// All of it is written.
    Full,
    /// It can be neither read nor written.
    Offline,
}

impl ZoneCondition {
    /// Whether the write pointer means something, and is not just at one of the ends.
    fn is_partly_written(self) -> bool {
        matches!(self, Self::ImplicitOpen | Self::ExplicitOpen | Self::Closed)
    }
}

/// A zone; the C `struct blk_zone`.
///
/// # Examples
///
/// ```
/// use kernel::block::mq::{
///     Zone,
///     ZoneCondition,
///     ZoneType, //
/// };
///
/// let mut bytes = [0; Zone::BYTES];
/// // No zone has no sectors.
/// assert_eq!(Zone::from_bytes(&bytes), Ok(None));
///
/// bytes[..8].copy_from_slice(&4096u64.to_ne_bytes());
/// bytes[8..16].copy_from_slice(&1024u64.to_ne_bytes());
/// bytes[16..24].copy_from_slice(&4100u64.to_ne_bytes());
/// bytes[24..28].copy_from_slice(&[2, 4, 0, 1]);
/// bytes[32..40].copy_from_slice(&1000u64.to_ne_bytes());
/// let zone = Zone {
///     start: 4096,
///     len: 1024,
///     write_pointer: 4100,
///     capacity: 1000,
///     ty: ZoneType::Sequential,
///     condition: ZoneCondition::Closed,
///     non_sequential: false,
///     reset: true,
/// };
/// assert_eq!(Zone::from_bytes(&bytes), Ok(Some(zone)));
///
/// // There is no such type.
/// bytes[24] = 7;
/// assert_eq!(Zone::from_bytes(&bytes), Err(ENODEV));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Zone {
    /// The first sector.
    pub start: u64,
    /// How many sectors it has.
    pub len: u64,
    /// The next sector that is to be written, if [`Self::condition`] says that there is one.
    pub write_pointer: u64,
    /// How many sectors, from the first one on, can be used.
    pub capacity: u64,
    /// How it can be written.
    pub ty: ZoneType,
    /// What state it is in.
    pub condition: ZoneCondition,
    /// Whether it was written elsewhere than at its write pointer.
    pub non_sequential: bool,
    /// Whether the device would like it to be reset.
    pub reset: bool,
}

impl Zone {
    /// The size of the C structure, in bytes.
    pub const BYTES: usize = size_of::<bindings::blk_zone>();

    /// Reads the C structure. [`None`] if it has no sectors, so that it is no zone. Fails with
    /// `ENODEV` if there is no such type or condition.
    ///
    /// Any context.
    pub fn from_bytes(bytes: &[u8; Self::BYTES]) -> Result<Option<Self>> {
        macro_rules! number {
            ($field:ident: $ty:ty) => {{
                const AT: usize = offset_of!(bindings::blk_zone, $field);
                let bytes = bytes.get(AT..).and_then(|rest| rest.first_chunk());
                <$ty>::from_ne_bytes(*bytes.ok_or(EINVAL)?)
            }};
        }

        let len = number!(len: u64);
        if len == 0 {
            return Ok(None);
        }
        Ok(Some(Self {
            start: number!(start: u64),
            len,
            write_pointer: number!(wp: u64),
            capacity: number!(capacity: u64),
            ty: match u32::from(number!(type_: u8)) {
                bindings::blk_zone_type_BLK_ZONE_TYPE_CONVENTIONAL => ZoneType::Conventional,
                bindings::blk_zone_type_BLK_ZONE_TYPE_SEQWRITE_REQ => ZoneType::Sequential,
                bindings::blk_zone_type_BLK_ZONE_TYPE_SEQWRITE_PREF => {
                    ZoneType::SequentialPreferred
                }
                _ => return Err(ENODEV),
            },
            condition: match u32::from(number!(cond: u8)) {
                bindings::blk_zone_cond_BLK_ZONE_COND_NOT_WP => ZoneCondition::NoWritePointer,
                bindings::blk_zone_cond_BLK_ZONE_COND_EMPTY => ZoneCondition::Empty,
                bindings::blk_zone_cond_BLK_ZONE_COND_IMP_OPEN => ZoneCondition::ImplicitOpen,
                bindings::blk_zone_cond_BLK_ZONE_COND_EXP_OPEN => ZoneCondition::ExplicitOpen,
                bindings::blk_zone_cond_BLK_ZONE_COND_CLOSED => ZoneCondition::Closed,
                bindings::blk_zone_cond_BLK_ZONE_COND_READONLY => ZoneCondition::ReadOnly,
                bindings::blk_zone_cond_BLK_ZONE_COND_FULL => ZoneCondition::Full,
                bindings::blk_zone_cond_BLK_ZONE_COND_OFFLINE => ZoneCondition::Offline,
                _ => return Err(ENODEV),
            },
            non_sequential: number!(non_seq: u8) != 0,
            reset: number!(reset: u8) != 0,
        }))
    }

    #[cfg(CONFIG_BLK_DEV_ZONED)]
    fn as_raw(&self) -> bindings::blk_zone {
        let ty = match self.ty {
            ZoneType::Conventional => bindings::blk_zone_type_BLK_ZONE_TYPE_CONVENTIONAL,
            ZoneType::Sequential => bindings::blk_zone_type_BLK_ZONE_TYPE_SEQWRITE_REQ,
            ZoneType::SequentialPreferred => bindings::blk_zone_type_BLK_ZONE_TYPE_SEQWRITE_PREF,
        };
        let condition = match self.condition {
            ZoneCondition::NoWritePointer => bindings::blk_zone_cond_BLK_ZONE_COND_NOT_WP,
            ZoneCondition::Empty => bindings::blk_zone_cond_BLK_ZONE_COND_EMPTY,
            ZoneCondition::ImplicitOpen => bindings::blk_zone_cond_BLK_ZONE_COND_IMP_OPEN,
            ZoneCondition::ExplicitOpen => bindings::blk_zone_cond_BLK_ZONE_COND_EXP_OPEN,
            ZoneCondition::Closed => bindings::blk_zone_cond_BLK_ZONE_COND_CLOSED,
            ZoneCondition::ReadOnly => bindings::blk_zone_cond_BLK_ZONE_COND_READONLY,
            ZoneCondition::Full => bindings::blk_zone_cond_BLK_ZONE_COND_FULL,
            ZoneCondition::Offline => bindings::blk_zone_cond_BLK_ZONE_COND_OFFLINE,
        };
        bindings::blk_zone {
            start: self.start,
            len: self.len,
            wp: self.write_pointer,
            // All of them are numbers of one byte.
            type_: ty as u8,
            cond: condition as u8,
            non_seq: self.non_sequential.into(),
            reset: self.reset.into(),
            capacity: self.capacity,
            ..pin_init::zeroed()
        }
    }
}

/// Which zones a disk may have.
#[cfg_attr(not(CONFIG_BLK_DEV_ZONED), allow(dead_code))]
#[derive(Clone, Copy)]
struct Geometry {
    /// Sectors of a zone: a power of two. The last zone of the disk may be smaller.
    zone: u64,
    /// Sectors of the disk.
    disk: u64,
}

impl Geometry {
    /// Whether there may be such a zone. The block layer looks for what it knows of a zone by the
    /// sector of its start and of its write pointer, and trusts both.
    fn allows(self, zone: &Zone) -> bool {
        let left = self.disk.saturating_sub(zone.start);

        zone.start & (self.zone - 1) == 0
            && left > 0
            && zone.len == self.zone.min(left)
            && (1..=zone.len).contains(&zone.capacity)
            && (!zone.condition.is_partly_written()
                || zone
                    .write_pointer
                    .checked_sub(zone.start)
                    .is_some_and(|written| written <= zone.len))
    }
}

/// Takes the zones that [`Operations::report_zones`] was asked for, one after the other.
///
/// # Examples
///
/// A device all of whose zones are empty.
///
/// ```
/// use kernel::block::mq::{
///     Zone,
///     ZoneCondition,
///     ZoneRange,
///     ZoneReporter,
///     ZoneType, //
/// };
///
/// fn report_zones(range: ZoneRange, len: u64, report: &mut ZoneReporter<'_>) -> Result {
///     for nr in 0..range.nr_zones {
///         let start = range.sector + u64::from(nr) * len;
///         report.zone(&Zone {
///             start,
///             len,
///             write_pointer: start,
///             capacity: len,
///             ty: ZoneType::Sequential,
///             condition: ZoneCondition::Empty,
///             non_sequential: false,
///             reset: false,
///         })?;
///     }
///     Ok(())
/// }
/// ```
///
/// # Invariants
///
/// - `disk` is a valid disk, and `args` is null or valid, for `'a`.
/// - All zones that the disk is told of, the first `done` ones from the first sector of the range
///   on, are such that `geometry` allows them.
///
/// [`Operations::report_zones`]: super::Operations::report_zones
pub struct ZoneReporter<'a> {
    #[cfg(CONFIG_BLK_DEV_ZONED)]
    disk: *mut bindings::gendisk,
    #[cfg(CONFIG_BLK_DEV_ZONED)]
    args: *mut bindings::blk_report_zones_args,
    geometry: Geometry,
    range: ZoneRange,
    done: u32,
    _p: PhantomData<&'a ()>,
}

impl ZoneReporter<'_> {
    /// A reporter of the zones from `sector` on, `nr_zones` at most. Fails with `EINVAL` if the
    /// disk has no zones.
    ///
    /// # Safety
    ///
    /// `disk` must be valid, and `args` null or valid, for as long as the result exists.
    #[cfg(CONFIG_BLK_DEV_ZONED)]
    pub(super) unsafe fn new(
        disk: *mut bindings::gendisk,
        sector: u64,
        nr_zones: u32,
        args: *mut bindings::blk_report_zones_args,
    ) -> Result<Self> {
        // SAFETY: The disk is valid by the safety requirements; the zone size never changes.
        let zone = u64::from(unsafe { (*(*disk).queue).limits.chunk_sectors });
        if !zone.is_power_of_two() {
            return Err(EINVAL);
        }
        let geometry = Geometry {
            zone,
            // SAFETY: The disk is valid by the safety requirements. Its size does not change while
            // somebody has it open, or while it is looked at because of that.
            disk: unsafe { (&raw const (*(*disk).part0).bd_nr_sectors).read_volatile() },
        };
        let sector = sector & !(zone - 1);
        let rest = geometry.disk.saturating_sub(sector);
        // Rounded up. A division would be one by zero for all that the compiler knows.
        let zones = (rest >> zone.trailing_zeros()) + u64::from(rest & (zone - 1) != 0);

        // INVARIANT: The pointers are valid by the safety requirements, and nothing was reported.
        Ok(Self {
            disk,
            args,
            geometry,
            range: ZoneRange {
                sector,
                nr_zones: nr_zones.min(u32::try_from(zones).unwrap_or(u32::MAX)),
            },
            done: 0,
            _p: PhantomData,
        })
    }

    /// The zones that were asked for, all of which the disk has.
    ///
    /// Any context.
    pub fn range(&self) -> ZoneRange {
        self.range
    }

    /// How many zones were reported, for the block layer.
    #[cfg(CONFIG_BLK_DEV_ZONED)]
    pub(super) fn reported(&self) -> c_int {
        c_int::try_from(self.done).unwrap_or(c_int::MAX)
    }

    /// The zones that are still to be reported.
    ///
    /// Any context.
    pub fn left(&self) -> ZoneRange {
        ZoneRange {
            // All of them are on the disk, so this does not overflow.
            sector: self.range.sector + u64::from(self.done) * self.geometry.zone,
            nr_zones: self.range.nr_zones - self.done,
        }
    }

    /// Reports the next zone.
    ///
    /// Fails with `ENODEV` if it is not the next one, or if it makes no sense; with `EINVAL` if all
    /// were reported; and with the error of who asked.
    ///
    /// # Context
    ///
    /// Process context; may sleep. Wraps the C function `disk_report_zone()`.
    pub fn zone(&mut self, zone: &Zone) -> Result {
        let left = self.left();
        if left.nr_zones == 0 {
            return Err(EINVAL);
        }
        if zone.start != left.sector || !self.geometry.allows(zone) {
            return Err(ENODEV);
        }
        #[cfg(CONFIG_BLK_DEV_ZONED)]
        {
            let mut raw = zone.as_raw();
            // SAFETY: By the type invariants the pointers are valid. The zone is one that the disk
            // may have, and its number among those reported is right.
            to_result(unsafe {
                bindings::disk_report_zone(self.disk, &mut raw, self.done, self.args)
            })?;
        }
        self.done += 1;
        Ok(())
    }
}

#[cfg(CONFIG_RUST_BLOCK_KUNIT_TEST)]
#[macros::kunit_tests(rust_kernel_block_mq_zoned)]
mod tests {
    use super::*;

    const GEOMETRY: Geometry = Geometry {
        zone: 1024,
        // The last zone is half of one.
        disk: 4 * 1024 + 512,
    };

    fn allows(change: impl FnOnce(&mut Zone)) -> bool {
        let mut zone = Zone {
            start: 1024,
            len: 1024,
            write_pointer: 1030,
            capacity: 1000,
            ty: ZoneType::Sequential,
            condition: ZoneCondition::Closed,
            non_sequential: false,
            reset: false,
        };
        change(&mut zone);
        GEOMETRY.allows(&zone)
    }

    #[test]
    fn zones_lie_on_the_disk() {
        assert!(allows(|_| ()));
        assert!(!allows(|zone| zone.start = 1023));
        assert!(!allows(|zone| zone.len = 1023));
        assert!(!allows(|zone| zone.len = 1025));
        assert!(!allows(|zone| zone.len = u64::MAX));
        let at = |start, len| {
            allows(|zone| {
                zone.start = start;
                zone.write_pointer = start;
                zone.len = len;
                zone.capacity = 1;
            })
        };
        assert!(at(0, 1024));
        assert!(at(4096, 512));
        assert!(!at(4096, 1024));
        assert!(!at(5120, 1024));
        assert!(!at(1 << 63, 1024));
        assert!(!at(u64::MAX - 1023, 1024));
    }

    #[test]
    fn capacity_is_a_part_of_the_zone() {
        assert!(!allows(|zone| zone.capacity = 0));
        assert!(allows(|zone| zone.capacity = 1024));
        assert!(!allows(|zone| zone.capacity = 1025));
        assert!(!allows(|zone| zone.capacity = u64::MAX));
    }

    /// Its distance to the start of the zone is cut to 32 bits by the block layer.
    #[test]
    fn write_pointer_is_in_the_zone_if_there_is_one() {
        assert!(allows(|zone| zone.write_pointer = 2048));
        assert!(!allows(|zone| zone.write_pointer = 2049));
        assert!(!allows(|zone| zone.write_pointer = 1023));
        assert!(!allows(|zone| zone.write_pointer = 1030 + (1 << 32)));
        assert!(allows(|zone| {
            zone.write_pointer = u64::MAX;
            zone.condition = ZoneCondition::Full;
        }));
    }

    #[test]
    fn a_zone_survives_its_way_through_c() {
        let mut bytes = [0; Zone::BYTES];
        bytes[8] = 1;
        for (ty, condition) in [
            (1, 0),
            (2, 1),
            (2, 2),
            (2, 3),
            (3, 4),
            (2, 0xd),
            (2, 0xe),
            (2, 0xf),
        ] {
            bytes[24] = ty;
            bytes[25] = condition;
            let zone = Zone::from_bytes(&bytes);
            assert!(zone.is_ok_and(|zone| zone.is_some()));
            #[cfg(CONFIG_BLK_DEV_ZONED)]
            if let Ok(Some(zone)) = zone {
                let raw = zone.as_raw();
                assert_eq!((raw.type_, raw.cond, raw.len), (ty, condition, 1));
            }
        }
        for (ty, condition) in [(0, 0), (4, 1), (2, 5), (2, 0xff)] {
            bytes[24] = ty;
            bytes[25] = condition;
            assert_eq!(Zone::from_bytes(&bytes), Err(ENODEV));
        }
    }
}
