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
    num::NonZero,
    ptr::NonNull, //
};

/// Tells rings apart. To be compared with that of a command that exists: once all commands of a
/// ring are gone, another ring may get the same.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RingId(NonZero<usize>);

/// A command, issued or queued, as a way to its ring.
///
/// # Invariants
///
/// `cmd` is a valid command that is not freed during `'a`, and so has its ring. It may complete.
#[derive(Clone, Copy)]
pub struct CmdRef<'a>(NonNull<bindings::io_uring_cmd>, PhantomData<&'a ()>);

impl CmdRef<'_> {
    /// # Safety
    ///
    /// `cmd` is a valid command that is not freed while the value exists.
    #[cfg(CONFIG_IO_URING_FUSED_CMD)]
    pub(super) unsafe fn new(cmd: NonNull<bindings::io_uring_cmd>) -> Self {
        // INVARIANT: By the safety requirement.
        Self(cmd, PhantomData)
    }

    /// Which ring the command belongs to. Any context. Wraps C's `io_uring_cmd_ctx_handle()`.
    #[inline]
    pub fn ring(self) -> RingId {
        // SAFETY: By the type invariant the command is valid, and has a ring, which is not at 0.
        RingId(unsafe { NonZero::new_unchecked(ring_of(self.0).addr()) })
    }

    /// The C command, and the flags for a C function that is called for it.
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
    // By itself the compiler does not.
    #[inline(always)]
    pub fn unregister_buffer(self, index: u32, flags: IssueFlags<'_>) -> Result {
        let (cmd, bits) = self.raw(flags);

        // SAFETY: By the type invariant the command is valid; the flags tell truly whether the lock
        // of its ring is held.
        let ret = unsafe { bindings::io_buffer_unregister(cmd, index, bits) };

        // That is a function, which a request does not need: 6 instructions.
        if ret == 0 {
            Ok(())
        } else {
            to_result(ret)
        }
    }
}

impl<'a, H: CommandHandler> IssuedCmd<'a, H> {
    /// The command as a way to its ring, until the callback returns: also when the command was
    /// queued, and somebody else completes it. Any context.
    #[inline]
    pub fn as_cmd(&self) -> CmdRef<'a> {
        // INVARIANT: By its type invariant an issued command is not freed during `'a`, whoever
        // completes it.
        CmdRef(self.raw(), PhantomData)
    }
}

impl<H: CommandHandler> QueuedCmd<H> {
    /// The command as a way to its ring. Any context.
    pub fn as_cmd(&self) -> CmdRef<'_> {
        // INVARIANT: A queued command does not complete, and so is not freed, while its owner
        // exists.
        CmdRef(self.raw(), PhantomData)
    }
}
