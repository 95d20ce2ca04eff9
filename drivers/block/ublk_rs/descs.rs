// SPDX-License-Identifier: GPL-2.0

//! The buffer in which the requests of a queue are described to the server.

use crate::{
    types::Disk,
    uapi::*, //
};
use kernel::{
    alloc::NumaNode,
    block::mq::{
        Op,
        Request,
        RequestFlags, //
    },
    mm::{
        shared_buf::SharedBuf,
        virt::VmaNew, //
    },
    page::page_align,
    prelude::*, //
};

/// One descriptor per tag, `words` words of 8 bytes each. The server maps it.
pub(crate) struct Descs {
    buf: SharedBuf,
    words: u16,
}

impl Descs {
    /// `depth` descriptors of `size` bytes each, if possible on the memory node `node`. Fails with
    /// [`EINVAL`] if that is not a number of words.
    pub(crate) fn new(depth: u16, size: u16, node: NumaNode) -> Result<Self> {
        if usize::from(size) % size_of::<u64>() != 0 {
            return Err(EINVAL);
        }
        let len = descs_len(depth.into(), size).ok_or(EOVERFLOW)?;
        Ok(Self {
            buf: SharedBuf::new_node(len, node)?,
            words: size / size_of::<u64>() as u16,
        })
    }

    /// Describes a request to the server. `addr` is the server's buffer, `bytes` the size of the
    /// request, or how much of the data of a write the server has got, `flags` are more
    /// `UBLK_IO_F_*`.
    // By itself the compiler does not, as there are several callers; it spares a request 15
    // instructions.
    #[inline(always)]
    pub(crate) fn describe(&self, rq: &Request<Disk>, addr: u64, bytes: u32, flags: u32) {
        let op = match rq.op() {
            Op::Read => UBLK_IO_OP_READ,
            Op::Write => UBLK_IO_OP_WRITE,
            _ => return self.describe_other(rq, addr, bytes, flags),
        };
        let op_flags = op | desc_flags(rq.flags()) | flags;
        self.put(rq.tag(), op_flags, bytes >> 9, rq.sector(), addr);
    }

    /// As [`Self::describe`], for a request that is neither a read nor a write.
    #[inline(never)]
    fn describe_other(&self, rq: &Request<Disk>, addr: u64, bytes: u32, flags: u32) {
        let op = match rq.op() {
            Op::Flush => UBLK_IO_OP_FLUSH,
            Op::Discard => UBLK_IO_OP_DISCARD,
            Op::WriteZeroes => UBLK_IO_OP_WRITE_ZEROES,
            Op::ZoneOpen => UBLK_IO_OP_ZONE_OPEN,
            Op::ZoneClose => UBLK_IO_OP_ZONE_CLOSE,
            Op::ZoneFinish => UBLK_IO_OP_ZONE_FINISH,
            Op::ZoneReset => UBLK_IO_OP_ZONE_RESET,
            Op::ZoneResetAll => UBLK_IO_OP_ZONE_RESET_ALL,
            Op::ZoneAppend => UBLK_IO_OP_ZONE_APPEND,
            Op::DriverIn => UBLK_IO_OP_REPORT_ZONES,
            // They are described above, or were refused.
            Op::Read | Op::Write | Op::Other(_) => return,
        };
        let (start_sector, nr_sectors) = match rq.driver_data() {
            // Zones are counted, not sectors.
            Some(report) => (report.zones.sector, report.zones.nr_zones),
            None => (rq.sector(), bytes >> 9),
        };
        let op_flags = op | desc_flags(rq.flags()) | flags;
        self.put(rq.tag(), op_flags, nr_sectors, start_sector, addr);
    }

    /// Writes a descriptor.
    // A function: all of that fits into registers, and each caller would have the stores otherwise.
    #[inline(never)]
    fn put(&self, tag: u32, op_flags: u32, nr_sectors: u32, start_sector: u64, addr: u64) {
        let desc = IoDesc {
            op_flags,
            nr_sectors,
            start_sector,
            addr,
        };
        let words: [u64; 3] = zerocopy::transmute!(desc);
        // The buffer has room for a descriptor per tag.
        let _ = self
            .buf
            .write(tag as usize * usize::from(self.words), &words);
    }

    /// Maps the descriptors into a server. `vma` must have exactly their size, in whole pages.
    pub(crate) fn map(&self, vma: &VmaNew) -> Result {
        if vma.end() - vma.start() != self.buf.len() {
            return Err(EINVAL);
        }
        self.buf.map(vma)
    }
}

/// Bytes of `depth` descriptors, in whole pages.
pub(crate) fn descs_len(depth: usize, size: u16) -> Option<usize> {
    page_align(depth * usize::from(size))
}

/// The flags of a request as the server knows them.
#[inline(always)]
fn desc_flags(flags: RequestFlags) -> u32 {
    // Most requests have none of them.
    if flags.any_known() {
        known_flags(flags)
    } else {
        0
    }
}

#[inline(never)]
fn known_flags(flags: RequestFlags) -> u32 {
    [
        (flags.failfast_dev(), UBLK_IO_F_FAILFAST_DEV),
        (flags.failfast_transport(), UBLK_IO_F_FAILFAST_TRANSPORT),
        (flags.failfast_driver(), UBLK_IO_F_FAILFAST_DRIVER),
        (flags.meta(), UBLK_IO_F_META),
        (flags.fua(), UBLK_IO_F_FUA),
        (flags.nounmap(), UBLK_IO_F_NOUNMAP),
        (flags.swap(), UBLK_IO_F_SWAP),
        (flags.integrity(), UBLK_IO_F_INTEGRITY),
    ]
    .into_iter()
    .filter_map(|(set, bit)| set.then_some(bit))
    .fold(0, |all, bit| all | bit)
}

#[kunit_tests(ublk_rs_descs)]
mod tests {
    use super::*;
    use kernel::page::PAGE_SIZE;

    #[test]
    fn descriptor_pages() {
        assert_eq!(descs_len(1, 24), Some(PAGE_SIZE));
        assert_eq!(descs_len(PAGE_SIZE / 32, 32), Some(PAGE_SIZE));
        assert_eq!(descs_len(PAGE_SIZE / 32 + 1, 32), Some(2 * PAGE_SIZE));
    }
}
