// SPDX-License-Identifier: GPL-2.0

//! The table of registered buffers of a ring, as far as a driver has to do with it.
//!
//! A driver registers a kernel buffer in the ring of one of its commands; see
//! [`Request::register_buffer`](crate::block::mq::Request::register_buffer). Other requests on that
//! ring name it by its index. It may be removed from the table long before the last of its users is
//! done with it.
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

/// Tells rings apart. To be compared with that of a command that exists: once all commands of a
/// ring are gone, another ring may get the same.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RingId(usize);

/// A command, issued or queued, as a way to its ring.
///
/// # Invariants
///
/// `cmd` is a valid command that does not complete during `'a`.
#[derive(Clone, Copy)]
pub struct CmdRef<'a>(NonNull<bindings::io_uring_cmd>, PhantomData<&'a ()>);

impl CmdRef<'_> {
    /// # Safety
    ///
    /// `cmd` is a valid command that does not complete while the value exists.
    #[cfg(CONFIG_IO_URING_FUSED_CMD)]
    pub(super) unsafe fn new(cmd: NonNull<bindings::io_uring_cmd>) -> Self {
        // INVARIANT: By the safety requirement.
        Self(cmd, PhantomData)
    }

    /// Which ring the command belongs to. Any context. Wraps C's `io_uring_cmd_ctx_handle()`.
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
    /// that user space registered. If nobody uses the buffer any more, whoever registered it gets
    /// it back before this returns.
    ///
    /// # Context
    ///
    /// Process context. If `flags` do not prove that the lock of the command's ring is held, then
    /// this takes it: it sleeps, and the lock of no other ring may be held.
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
    /// The command as a way to its ring. Any context.
    pub fn as_cmd(&self) -> CmdRef<'_> {
        // INVARIANT: An issued command does not complete before it is turned into an outcome, which
        // takes it by value.
        CmdRef(self.raw(), PhantomData)
    }
}

impl<H: CommandHandler> QueuedCmd<H> {
    /// The command as a way to its ring. Any context.
    pub fn as_cmd(&self) -> CmdRef<'_> {
        // INVARIANT: A queued command does not complete while its owner exists.
        CmdRef(self.raw(), PhantomData)
    }
}
