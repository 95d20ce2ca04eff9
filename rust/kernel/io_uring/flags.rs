// SPDX-License-Identifier: GPL-2.0

//! The context in which io_uring calls a driver.

use crate::{
    bindings,
    prelude::*, //
};
use core::{
    marker::PhantomData,
    ptr, //
};

/// The context of a callback: whether it may sleep, which lock is held, how large SQE and CQE are.
///
/// io_uring passes the flags to each callback, and they are good for the time of that callback.
/// They are a proof that the lock of the command's ring is held (unless [`unlocked`]). So they name
/// the ring that they are for, and can neither be kept nor sent to another thread. The driver
/// passes them on to [`QueuedCmd::done`].
///
/// All methods can be called in any context. Wraps the `IO_URING_F_*` bits of C's `issue_flags`.
///
/// ```ignore,compile_fail
/// # use kernel::io_uring::IssueFlags;
/// fn keep(flags: IssueFlags<'_>) -> IssueFlags<'static> {
///     flags
/// }
/// ```
///
/// [`unlocked`]: Self::unlocked
/// [`QueuedCmd::done`]: super::QueuedCmd::done
///
/// # Invariants
///
/// Unless `bits` has `IO_URING_F_UNLOCKED`, the current task holds the `uring_lock` of `ring` for
/// the duration of `'a`, and io_uring posts the completions deferred meanwhile if `bits` has
/// `IO_URING_F_COMPLETE_DEFER`.
#[derive(Clone, Copy)]
pub struct IssueFlags<'a> {
    bits: u32,
    // The raw pointer also makes the type neither `Send` nor `Sync`.
    ring: *mut c_void,
    _callback: PhantomData<&'a ()>,
}

impl IssueFlags<'static> {
    /// For a caller outside of any io_uring callback: no ring is known to be locked.
    // INVARIANT: The bit is set.
    pub const UNLOCKED: Self = Self {
        bits: bindings::io_uring_cmd_flags_IO_URING_F_UNLOCKED as u32,
        ring: ptr::null_mut(),
        _callback: PhantomData,
    };
}

impl<'a> IssueFlags<'a> {
    /// The flags of task work, which runs with the ring locked, and after which deferred
    /// completions are posted. As C's `IO_URING_CMD_TASK_WORK_ISSUE_FLAGS`.
    pub(super) const TASK_WORK: u32 = bindings::io_uring_cmd_flags_IO_URING_F_COMPLETE_DEFER as u32;

    /// Makes the flags of a callback for a command on `ring`.
    ///
    /// # Safety
    ///
    /// `bits` must be what io_uring passed to a callback for a command of the ring whose context
    /// is `ring`, and that callback must last for `'a`.
    pub(super) unsafe fn from_raw(bits: u32, ring: *mut c_void) -> Self {
        // INVARIANT: By the meaning of `issue_flags`, and the safety requirement.
        Self {
            bits,
            ring,
            _callback: PhantomData,
        }
    }

    /// All bits, for a C function that is called for a command of the callback's own ring.
    pub(super) fn bits(self) -> u32 {
        self.bits
    }

    /// The bits that are right for a command of `ring`, whatever ring these flags are for.
    pub(super) fn bits_for(self, ring: *mut c_void) -> u32 {
        if self.ring == ring {
            self.bits
        } else {
            IssueFlags::UNLOCKED.bits
        }
    }

    fn has(self, flag: bindings::io_uring_cmd_flags) -> bool {
        self.bits & flag as u32 != 0
    }

    /// Whether the callback must not sleep.
    ///
    /// A handler that would have to sleep returns [`IssuedCmd::retry_blocking`] then.
    ///
    /// [`IssuedCmd::retry_blocking`]: super::IssuedCmd::retry_blocking
    pub fn nonblock(self) -> bool {
        self.has(bindings::io_uring_cmd_flags_IO_URING_F_NONBLOCK)
    }

    /// Whether the callback runs without the ring's `uring_lock`, on an io_uring worker thread.
    pub fn unlocked(self) -> bool {
        self.has(bindings::io_uring_cmd_flags_IO_URING_F_UNLOCKED)
    }

    /// Whether the command's SQE has 128 bytes.
    pub fn sqe128(self) -> bool {
        self.has(bindings::io_uring_cmd_flags_IO_URING_F_SQE128)
    }

    /// The bits that describe the ring and the SQE rather than the callback.
    pub(super) fn shape(self) -> u32 {
        const SHAPE: u32 = (bindings::io_uring_cmd_flags_IO_URING_F_SQE128
            | bindings::io_uring_cmd_flags_IO_URING_F_CQE32
            | bindings::io_uring_cmd_flags_IO_URING_F_COMPAT) as u32;
        self.bits & SHAPE
    }
}

#[cfg(CONFIG_RUST_IO_URING_KUNIT_TEST)]
#[macros::kunit_tests(rust_io_uring_flags)]
mod tests {
    use super::*;

    const LOCKED: u32 = (bindings::io_uring_cmd_flags_IO_URING_F_NONBLOCK
        | bindings::io_uring_cmd_flags_IO_URING_F_COMPLETE_DEFER
        | bindings::io_uring_cmd_flags_IO_URING_F_SQE128) as u32;

    #[test]
    fn bits_are_read() {
        let ring = ptr::without_provenance_mut(0x1000);
        // SAFETY: The value is never handed to io_uring.
        let flags = unsafe { IssueFlags::from_raw(LOCKED, ring) };
        assert!(flags.nonblock());
        assert!(!flags.unlocked());
        assert!(flags.sqe128());
        assert!(IssueFlags::UNLOCKED.unlocked());
        assert!(!IssueFlags::UNLOCKED.nonblock());
        assert_eq!(
            flags.shape(),
            bindings::io_uring_cmd_flags_IO_URING_F_SQE128 as u32
        );
    }

    #[test]
    fn other_ring_is_unlocked() {
        let ring = ptr::without_provenance_mut(0x1000);
        let other = ptr::without_provenance_mut(0x2000);
        // SAFETY: The value is never handed to io_uring.
        let flags = unsafe { IssueFlags::from_raw(LOCKED, ring) };
        assert_eq!(flags.bits_for(ring), LOCKED);
        assert_eq!(flags.bits_for(other), IssueFlags::UNLOCKED.bits());
        assert_eq!(
            IssueFlags::UNLOCKED.bits_for(ring),
            IssueFlags::UNLOCKED.bits()
        );
    }
}
