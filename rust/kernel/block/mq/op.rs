// SPDX-License-Identifier: GPL-2.0

//! The operation of a request, and the flags that come with it.
//!
//! C header: [`include/linux/blk_types.h`](srctree/include/linux/blk_types.h)

use crate::bindings;

/// Bits of `blk_opf_t` that hold the operation, as `REQ_OP_MASK` in C.
const OP_MASK: u32 = (1 << bindings::REQ_OP_BITS) - 1;

/// What a request asks for.
///
/// Wraps the C `enum req_op`. An operation that has no name here is in [`Op::Other`], with its C
/// number. A driver sees only the operations that the limits of its queue announce.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Op {
    /// Read sectors from the device.
    Read,
    /// Write sectors to the device.
    Write,
    /// Flush the volatile write cache.
    Flush,
    /// Discard sectors: their content is no longer needed.
    Discard,
    /// Write zeroes to sectors; the request carries no data.
    WriteZeroes,
    /// Open a zone: of a zoned device, as the following ones.
    ZoneOpen,
    /// Close a zone.
    ZoneClose,
    /// Make a zone full.
    ZoneFinish,
    /// Make a zone empty.
    ZoneReset,
    /// Make all zones empty.
    ZoneResetAll,
    /// Write to a zone, at its write pointer. Who asks is told where that was:
    /// [`OwnedRequest::end_append`](super::OwnedRequest::end_append).
    ZoneAppend,
    /// A request of the driver itself, to transfer from the device: see
    /// [`DriverQueue`](super::DriverQueue).
    DriverIn,
    /// Any other operation, by its C number.
    Other(u32),
}

impl Op {
    /// The operation in a `blk_opf_t`.
    #[inline]
    pub(super) fn from_opf(opf: bindings::blk_opf_t) -> Self {
        match opf & OP_MASK {
            bindings::req_op_REQ_OP_READ => Op::Read,
            bindings::req_op_REQ_OP_WRITE => Op::Write,
            bindings::req_op_REQ_OP_FLUSH => Op::Flush,
            bindings::req_op_REQ_OP_DISCARD => Op::Discard,
            bindings::req_op_REQ_OP_WRITE_ZEROES => Op::WriteZeroes,
            bindings::req_op_REQ_OP_ZONE_OPEN => Op::ZoneOpen,
            bindings::req_op_REQ_OP_ZONE_CLOSE => Op::ZoneClose,
            bindings::req_op_REQ_OP_ZONE_FINISH => Op::ZoneFinish,
            bindings::req_op_REQ_OP_ZONE_RESET => Op::ZoneReset,
            bindings::req_op_REQ_OP_ZONE_RESET_ALL => Op::ZoneResetAll,
            bindings::req_op_REQ_OP_ZONE_APPEND => Op::ZoneAppend,
            bindings::req_op_REQ_OP_DRV_IN => Op::DriverIn,
            op => Op::Other(op),
        }
    }

    /// The C number of the operation.
    #[inline]
    pub fn as_raw(self) -> u32 {
        match self {
            Op::Read => bindings::req_op_REQ_OP_READ,
            Op::Write => bindings::req_op_REQ_OP_WRITE,
            Op::Flush => bindings::req_op_REQ_OP_FLUSH,
            Op::Discard => bindings::req_op_REQ_OP_DISCARD,
            Op::WriteZeroes => bindings::req_op_REQ_OP_WRITE_ZEROES,
            Op::ZoneOpen => bindings::req_op_REQ_OP_ZONE_OPEN,
            Op::ZoneClose => bindings::req_op_REQ_OP_ZONE_CLOSE,
            Op::ZoneFinish => bindings::req_op_REQ_OP_ZONE_FINISH,
            Op::ZoneReset => bindings::req_op_REQ_OP_ZONE_RESET,
            Op::ZoneResetAll => bindings::req_op_REQ_OP_ZONE_RESET_ALL,
            Op::ZoneAppend => bindings::req_op_REQ_OP_ZONE_APPEND,
            Op::DriverIn => bindings::req_op_REQ_OP_DRV_IN,
            Op::Other(op) => op,
        }
    }

    /// Whether the operation transfers towards the device, as `op_is_write()` in C: the lowest
    /// bit of its number tells.
    #[inline]
    pub fn is_write(self) -> bool {
        self.as_raw() & 1 != 0
    }

    /// Whether a bio of this operation and of non-zero size has pages, as `bio_has_data()` in C.
    #[inline]
    pub(super) fn has_pages(self) -> bool {
        !matches!(
            self.as_raw(),
            bindings::req_op_REQ_OP_DISCARD
                | bindings::req_op_REQ_OP_SECURE_ERASE
                | bindings::req_op_REQ_OP_WRITE_ZEROES
        )
    }
}

/// The flags of a request: the C `REQ_*` bits beside the operation.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RequestFlags(u32);

impl RequestFlags {
    /// The flags in a `blk_opf_t`.
    #[inline]
    pub(super) fn from_opf(opf: bindings::blk_opf_t) -> Self {
        Self(opf & !OP_MASK)
    }

    #[inline]
    fn has(self, bit: bindings::req_flag_bits) -> bool {
        self.0 & (1 << bit) != 0
    }

    /// Whether any of the flags is set that are asked for below.
    #[inline]
    pub fn any_known(self) -> bool {
        const KNOWN: u32 = (1 << bindings::req_flag_bits___REQ_FAILFAST_DEV)
            | (1 << bindings::req_flag_bits___REQ_FAILFAST_TRANSPORT)
            | (1 << bindings::req_flag_bits___REQ_FAILFAST_DRIVER)
            | (1 << bindings::req_flag_bits___REQ_META)
            | (1 << bindings::req_flag_bits___REQ_FUA)
            | (1 << bindings::req_flag_bits___REQ_NOUNMAP)
            | (1 << bindings::req_flag_bits___REQ_SWAP)
            | (1 << bindings::req_flag_bits___REQ_INTEGRITY);

        self.0 & KNOWN != 0
    }

    /// Do not retry on a device error (`REQ_FAILFAST_DEV`).
    #[inline]
    pub fn failfast_dev(self) -> bool {
        self.has(bindings::req_flag_bits___REQ_FAILFAST_DEV)
    }

    /// Do not retry on a transport error (`REQ_FAILFAST_TRANSPORT`).
    #[inline]
    pub fn failfast_transport(self) -> bool {
        self.has(bindings::req_flag_bits___REQ_FAILFAST_TRANSPORT)
    }

    /// Do not retry on a driver error (`REQ_FAILFAST_DRIVER`).
    #[inline]
    pub fn failfast_driver(self) -> bool {
        self.has(bindings::req_flag_bits___REQ_FAILFAST_DRIVER)
    }

    /// The request carries metadata (`REQ_META`).
    #[inline]
    pub fn meta(self) -> bool {
        self.has(bindings::req_flag_bits___REQ_META)
    }

    /// The data must be on the medium before the request ends (`REQ_FUA`).
    #[inline]
    pub fn fua(self) -> bool {
        self.has(bindings::req_flag_bits___REQ_FUA)
    }

    /// A write of zeroes must not free the blocks (`REQ_NOUNMAP`).
    #[inline]
    pub fn nounmap(self) -> bool {
        self.has(bindings::req_flag_bits___REQ_NOUNMAP)
    }

    /// The request is for swap (`REQ_SWAP`).
    #[inline]
    pub fn swap(self) -> bool {
        self.has(bindings::req_flag_bits___REQ_SWAP)
    }

    /// The request has an integrity payload (`REQ_INTEGRITY`).
    #[inline]
    pub fn integrity(self) -> bool {
        self.has(bindings::req_flag_bits___REQ_INTEGRITY)
    }
}

#[cfg(CONFIG_RUST_BLOCK_KUNIT_TEST)]
#[macros::kunit_tests(rust_kernel_block_mq_op)]
mod tests {
    use super::*;

    #[test]
    fn op_survives_the_way_through_c() {
        for raw in 0..bindings::req_op_REQ_OP_LAST {
            assert_eq!(Op::from_opf(raw).as_raw(), raw);
        }
    }

    #[test]
    fn op_is_found_among_flags() {
        let fua = 1 << bindings::req_flag_bits___REQ_FUA;
        let opf = bindings::req_op_REQ_OP_WRITE | fua;

        assert_eq!(Op::from_opf(opf), Op::Write);
        assert!(RequestFlags::from_opf(opf).fua());
        assert!(!RequestFlags::from_opf(opf).swap());
        assert!(!RequestFlags::from_opf(opf).failfast_dev());
        assert!(!RequestFlags::from_opf(bindings::req_op_REQ_OP_WRITE).fua());
    }

    #[test]
    fn known_flags_can_be_asked_for() {
        for bit in 8..u32::BITS {
            let flags = RequestFlags::from_opf(1 << bit);
            let asked_for = [
                flags.failfast_dev(),
                flags.failfast_transport(),
                flags.failfast_driver(),
                flags.meta(),
                flags.fua(),
                flags.nounmap(),
                flags.swap(),
                flags.integrity(),
            ];
            assert_eq!(flags.any_known(), asked_for.contains(&true));
        }
    }

    #[test]
    fn direction_of_ops() {
        assert!(Op::Write.is_write());
        assert!(!Op::Read.is_write());
        assert!(Op::ZoneAppend.is_write());
        assert!(!Op::DriverIn.is_write());
    }

    #[test]
    fn ops_without_pages() {
        assert!(Op::Read.has_pages() && Op::Write.has_pages());
        assert!(!Op::Discard.has_pages() && !Op::WriteZeroes.has_pages());
        assert!(!Op::Other(bindings::req_op_REQ_OP_SECURE_ERASE).has_pages());
    }
}
