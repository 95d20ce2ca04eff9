// SPDX-License-Identifier: GPL-2.0

//! The status with which a request ends.
//!
//! C header: [`include/linux/blk_types.h`](srctree/include/linux/blk_types.h)

use crate::{
    bindings,
    error::{
        to_result,
        Error,
        Result, //
    },
};

/// The status with which a driver ends a request.
///
/// Wraps the C `blk_status_t`. Those that ask the block layer to dispatch a request again
/// (`BLK_STS_RESOURCE` and the like) have no name here, because a driver asks for that by what
/// `Operations::queue_rq` returns, which is an [`Error`]. A request that ends with one of them, as
/// that for `ENOMEM` is, is not dispatched again: it has failed, as with any other.
///
/// # Examples
///
/// ```
/// use kernel::block::mq::BlkStatus;
///
/// assert_eq!(BlkStatus::from_errno(ENOSPC), BlkStatus::NOSPC);
/// assert_eq!(BlkStatus::from_errno(EPERM), BlkStatus::IOERR);
/// assert_eq!(BlkStatus::NOSPC.to_result(), Err(ENOSPC));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlkStatus(bindings::blk_status_t);

impl BlkStatus {
    /// Success.
    pub const OK: Self = Self(bindings::BLK_STS_OK as bindings::blk_status_t);
    /// Any error that has no better name.
    pub const IOERR: Self = Self(bindings::BLK_STS_IOERR);
    /// The operation is not supported.
    pub const NOTSUPP: Self = Self(bindings::BLK_STS_NOTSUPP);
    /// The request timed out.
    pub const TIMEOUT: Self = Self(bindings::BLK_STS_TIMEOUT);
    /// The device is out of space.
    pub const NOSPC: Self = Self(bindings::BLK_STS_NOSPC);
    /// The link to the device failed; it may be recoverable.
    pub const TRANSPORT: Self = Self(bindings::BLK_STS_TRANSPORT);
    /// The device failed, and would fail again on another path.
    pub const TARGET: Self = Self(bindings::BLK_STS_TARGET);
    /// The medium has an error.
    pub const MEDIUM: Self = Self(bindings::BLK_STS_MEDIUM);
    /// The check of the integrity data failed.
    pub const PROTECTION: Self = Self(bindings::BLK_STS_PROTECTION);

    /// The status that stands for `err`; [`Self::IOERR`] if there is no better one.
    ///
    /// Any context. Wraps the C function `errno_to_blk_status()`.
    #[inline]
    pub fn from_errno(err: Error) -> Self {
        Self(err.to_blk_status())
    }

    /// The status as an errno.
    ///
    /// Any context. Wraps the C function `blk_status_to_errno()`.
    #[inline]
    pub fn to_result(self) -> Result {
        // SAFETY: The function accepts every value.
        to_result(unsafe { bindings::blk_status_to_errno(self.0) })
    }

    /// The status with this C value.
    #[inline]
    pub(super) fn from_raw(raw: bindings::blk_status_t) -> Self {
        Self(raw)
    }

    /// The C value.
    #[inline]
    pub(super) fn as_raw(self) -> bindings::blk_status_t {
        self.0
    }
}

#[cfg(CONFIG_RUST_BLOCK_KUNIT_TEST)]
#[macros::kunit_tests(rust_kernel_block_mq_status)]
mod tests {
    use super::*;
    use crate::prelude::*;

    #[test]
    fn known_errors_keep_their_meaning() {
        let table = [
            (EOPNOTSUPP, BlkStatus::NOTSUPP),
            (ETIMEDOUT, BlkStatus::TIMEOUT),
            (ENOSPC, BlkStatus::NOSPC),
            (ENOLINK, BlkStatus::TRANSPORT),
            (EREMOTEIO, BlkStatus::TARGET),
            (ENODATA, BlkStatus::MEDIUM),
            (EILSEQ, BlkStatus::PROTECTION),
            (EIO, BlkStatus::IOERR),
        ];

        for (err, status) in table {
            assert_eq!(BlkStatus::from_errno(err), status);
            assert_eq!(status.to_result(), Err(err));
        }
    }

    #[test]
    fn other_errors_become_ioerr() {
        assert_eq!(BlkStatus::from_errno(EFAULT), BlkStatus::IOERR);
        assert_eq!(BlkStatus::from_errno(EPERM), BlkStatus::IOERR);
    }

    #[test]
    fn ok_is_no_error() {
        assert_eq!(BlkStatus::OK.to_result(), Ok(()));
    }
}
