// SPDX-License-Identifier: GPL-2.0

//! `pread()` and `pwrite()` on the character device: the server copies the data of a request that
//! it works on, or its integrity metadata.
//!
//! The position names the request: queue, tag, and offset in the data or metadata.

use crate::{
    device::Device,
    ending,
    phase::Report,
    types::RequestRef,
    uapi::*, //
};
use kernel::{
    block::mq::Op,
    iov::{
        IovIterDest,
        IovIterSource, //
    },
    prelude::*,
    uapi, //
};

/// What is copied.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Part {
    Data,
    /// The integrity metadata, of a disk that has some.
    Metadata,
}

/// What a position in the file stands for.
#[derive(Debug, PartialEq)]
struct Position {
    q_id: u16,
    tag: u16,
    offset: u32,
    part: Part,
}

/// The lowest `bits` bits of `value >> shift`.
fn field(value: u64, shift: u32, bits: u32) -> u32 {
    ((value >> shift) & ((1 << bits) - 1)) as u32
}

impl Position {
    fn new(pos: i64) -> Self {
        let at = (pos as u64).wrapping_sub(u64::from(UBLKSRV_IO_BUF_OFFSET));
        Self {
            q_id: field(at, uapi::UBLK_QID_OFF, uapi::UBLK_QID_BITS) as u16,
            tag: field(at, uapi::UBLK_TAG_OFF, uapi::UBLK_TAG_BITS) as u16,
            offset: field(at, uapi::UBLK_IO_BUF_OFF, uapi::UBLK_IO_BUF_BITS),
            part: if pos & (1 << uapi::UBLK_INTEGRITY_FLAG_OFF) != 0 {
                Part::Metadata
            } else {
                Part::Data
            },
        }
    }
}

/// Copies data of a write to the server. Nothing is copied if metadata is asked for that the
/// request does not have.
///
/// May sleep. Fails with
/// - [`EACCES`] if the device has no disk, does not do this, if the request is not a write, or if
///   the buffer is not in user space but a registered one of the kernel;
/// - [`EPERM`] if the server is not trusted;
/// - [`EINVAL`] if the position names no request that the server works on and that has data, or is
///   behind its end; or metadata, which the disk does not have.
pub(crate) fn read(dev: &Device, pos: i64, iter: &mut IovIterDest<'_>) -> Result<usize> {
    if !iter.is_user_backed() {
        return Err(EACCES);
    }
    with_request(
        dev,
        pos,
        [Op::Write, Op::ZoneAppend],
        |rq, part, offset| match part {
            Part::Data => rq.copy_to_iter(offset, iter),
            Part::Metadata => rq.copy_integrity_to_iter(offset, iter),
        },
    )
}

/// Copies data from the server to a read. As [`read`] otherwise.
pub(crate) fn write(dev: &Device, pos: i64, iter: &mut IovIterSource<'_>) -> Result<usize> {
    if !iter.is_user_backed() {
        return Err(EACCES);
    }
    with_request(
        dev,
        pos,
        [Op::Read, Op::DriverIn],
        |rq, part, offset| match part {
            Part::Data => rq.copy_from_iter(offset, iter),
            Part::Metadata => rq.copy_integrity_from_iter(offset, iter),
        },
    )
}

/// Calls `copy` with the request at a position, which must be one of `ops`. The request can not end
/// meanwhile, also when it is committed.
fn with_request(
    dev: &Device,
    pos: i64,
    ops: [Op; 2],
    copy: impl FnOnce(&RequestRef, Part, u32) -> usize,
) -> Result<usize> {
    let (rq, part, offset) = find(dev, pos).map_err(|e| {
        // No request has been found without a disk, so its state is looked at here only.
        match dev.state.lock().phase.report() {
            Report::Dead => EACCES,
            Report::Live(_) | Report::Orphan => e,
        }
    })?;
    let len = match part {
        Part::Data => Some(rq.bytes()),
        Part::Metadata => rq.integrity_bytes(),
    };
    let copied = if len.is_none_or(|len| offset > len) {
        Err(EINVAL)
    } else if !ops.contains(&rq.op()) {
        Err(EACCES)
    } else {
        Ok(copy(&rq, part, offset))
    };
    ending::finish(rq);
    copied
}

/// The request at a position, to be given up with [`ending::finish`], and which part of it, from
/// which offset on.
fn find(dev: &Device, pos: i64) -> Result<(RequestRef, Part, u32)> {
    let pos = Position::new(pos);
    if (pos.part == Part::Metadata && !dev.has(UBLK_F_INTEGRITY))
        || pos.q_id >= dev.info().nr_hw_queues
    {
        return Err(EINVAL);
    }
    if !dev.has(UBLK_F_USER_COPY | UBLK_F_FUSED_CMD) {
        return Err(EACCES);
    }
    let slot = dev.slot(pos.q_id, pos.tag).ok_or(EINVAL)?;
    slot.data().check_reach()?;
    Ok((slot.owned_data()?, pos.part, pos.offset))
}

#[kunit_tests(ublk_rs_user_copy)]
mod tests {
    use super::*;

    #[test]
    fn positions() {
        let base = i64::from(UBLKSRV_IO_BUF_OFFSET);
        let at = |q_id, tag, offset| Position {
            q_id,
            tag,
            offset,
            part: Part::Data,
        };
        assert_eq!(Position::new(base), at(0, 0, 0));
        assert_eq!(Position::new(base + 4096), at(0, 0, 4096));
        assert_eq!(Position::new(base + (3 << 25) + 7), at(0, 3, 7));
        assert_eq!(Position::new(base + (2 << 41) + (1 << 25)), at(2, 1, 0));
        let metadata = Position {
            part: Part::Metadata,
            ..at(2, 1, 8)
        };
        assert_eq!(
            Position::new((base + (2 << 41) + (1 << 25) + 8) | 1 << 62),
            metadata
        );
    }
}
