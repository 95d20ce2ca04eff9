// SPDX-License-Identifier: GPL-2.0

//! The table of registered buffers of a ring, as far as a driver has to do with it.
//!
//! A driver registers a kernel buffer in the ring of one of its commands; see
//! [`Request::register_buffer`](crate::block::mq::Request::register_buffer). Other requests on that
//! ring name it by its index. Removing it from the table may happen long before its last user is
//! gone.
//!
//! C header: [`include/linux/io_uring/cmd.h`](srctree/include/linux/io_uring/cmd.h)

use super::{
    cmd::ring_of,
    CommandHandler,
    IssueFlags,
    IssuedCmd,
    QueuedCmd, //
};
use crate::{
    bindings,
    error::to_result,
    prelude::*, //
};
use core::{
    marker::PhantomData,
    ptr::NonNull, //
};

/// Tells rings apart. Only good for comparing it with that of a command that exists.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RingId(usize);

/// A command for which the driver does something with its ring.
///
/// # Invariants
///
/// `cmd` is a valid command that does not complete during `'a`.
#[derive(Clone, Copy)]
pub struct CmdRef<'a>(NonNull<bindings::io_uring_cmd>, PhantomData<&'a ()>);

impl CmdRef<'_> {
    /// Which ring the command belongs to.
    #[inline]
    pub fn ring(self) -> RingId {
        // SAFETY: By the type invariant.
        RingId(unsafe { ring_of(self.0) }.addr())
    }

    /// The C command, and the flags for a C function that is called for it.
    #[cfg_attr(not(CONFIG_BLOCK), expect(dead_code))]
    #[inline]
    pub(crate) fn raw(self, flags: IssueFlags<'_>) -> (*mut bindings::io_uring_cmd, u32) {
        // SAFETY: By the type invariant.
        let bits = flags.bits_for(unsafe { ring_of(self.0) });

        (self.0.as_ptr(), bits)
    }

    /// Removes the kernel buffer at `index` from the table of the ring.
    ///
    /// Fails with `EINVAL` if there is no such index or no buffer, and with `EBUSY` if it is one
    /// that user space registered.
    ///
    /// # Context
    ///
    /// Process context. Takes the ring's lock if `flags` do not prove that it is held. If the
    /// buffer has no user any more, whoever registered it is told before this returns.
    ///
    /// Wraps C's `io_buffer_unregister()`.
    pub fn unregister_buffer(self, index: u32, flags: IssueFlags<'_>) -> Result {
        let (cmd, bits) = self.raw(flags);

        // SAFETY: By the type invariant the command is valid; the flags tell truly whether the lock
        // of its ring is held.
        to_result(unsafe { bindings::io_buffer_unregister(cmd, index, bits) })
    }
}

impl<H: CommandHandler> IssuedCmd<'_, H> {
    /// The command, as what its ring is known by.
    pub fn as_cmd(&self) -> CmdRef<'_> {
        // INVARIANT: An issued command does not complete before it is turned into an outcome, which
        // takes it by value.
        CmdRef(self.raw(), PhantomData)
    }
}

impl<H: CommandHandler> QueuedCmd<H> {
    /// The command, as what its ring is known by.
    pub fn as_cmd(&self) -> CmdRef<'_> {
        // INVARIANT: A queued command does not complete while its owner exists.
        CmdRef(self.raw(), PhantomData)
    }
}
