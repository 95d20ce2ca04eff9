// SPDX-License-Identifier: GPL-2.0

//! Several leases in one fused command.
//!
//! A driver that has many buffers to lend does so with one primary: each buffer goes to a run of
//! its secondaries, and is back when these are done, whatever the others do. What io_uring has to
//! remember of a lease is in memory that the driver keeps for it, so nothing is allocated.
//!
//! C header: [`include/linux/io_uring/fused.h`](srctree/include/linux/io_uring/fused.h)

use super::{
    CommandHandler,
    FusedCmd,
    Lessor, //
};
use crate::{
    alloc::Flags,
    bindings,
    io_uring::Outcome,
    prelude::*,
    types::Opaque, //
};

#[cfg(CONFIG_IO_URING_FUSED_CMD)]
use super::outcome_of;

/// Memory for one lease of a command that has several.
///
/// It is lent to io_uring with the buffer, and comes back when that does: see [`PartLessor`].
///
/// # Invariants
///
/// Nobody but this value uses the memory.
pub struct PartMemory(KBox<Opaque<bindings::io_fused_part>>);

// SAFETY: It is memory, which is bound to no thread.
unsafe impl Send for PartMemory {}

// SAFETY: Nothing can be done with a shared reference.
unsafe impl Sync for PartMemory {}

impl PartMemory {
    /// Allocates it. Fails with [`ENOMEM`].
    pub fn new(flags: Flags) -> Result<Self> {
        // INVARIANT: It was just allocated.
        Ok(Self(KBox::new(Opaque::uninit(), flags)?))
    }

    #[cfg_attr(not(CONFIG_IO_URING_FUSED_CMD), expect(dead_code))]
    fn into_raw(self) -> *mut bindings::io_fused_part {
        KBox::into_raw(self.0).cast()
    }

    /// # Safety
    ///
    /// `ptr` comes from [`Self::into_raw`], and nobody uses it any more.
    #[cfg_attr(not(CONFIG_IO_URING_FUSED_CMD), expect(dead_code))]
    unsafe fn from_raw(ptr: *mut bindings::io_fused_part) -> Self {
        // INVARIANT: By the safety requirement.
        // SAFETY: By the safety requirement; an `Opaque` has the layout of what it is made of.
        Self(unsafe { KBox::from_raw(ptr.cast()) })
    }
}

/// Something that can lend a buffer to some of the secondaries of a fused command.
///
/// What [`Lessor::ended`] is for the only lease of a command, [`Self::part_ended`] is for one of
/// several.
pub trait PartLessor: Lessor {
    /// Gives buffer and memory back. Called once, when the last user of the lease is gone.
    ///
    /// `result` is the number of bytes that its secondaries moved, or the first error of these in
    /// the order of their SQEs. If it is no error then each byte of a buffer that was lent to be
    /// written is good, as for [`FusedCmd::lease_and_keep`]. It is `-ECANCELED` if the command
    /// failed before the secondaries were issued.
    ///
    /// Returns whether this is to be counted in the result of the command.
    ///
    /// # Context
    ///
    /// Task context with the ring's `uring_lock` held, possibly in another task than the one that
    /// submitted the command.
    fn part_ended(self, memory: PartMemory, result: i32) -> bool;
}

#[cfg(CONFIG_IO_URING_FUSED_CMD)]
impl<'a, H: CommandHandler> FusedCmd<'a, H> {
    /// Lends the buffer of `lessor` to the next `nr` secondaries; nothing starts yet.
    ///
    /// Fails with [`EINVAL`] if there are less than that, if they move data the other way or are
    /// uring commands, or if nothing was to be lent. Then it gives back what it was given. If the
    /// command is refused or dropped instead of being started then [`PartLessor::part_ended`] is
    /// called.
    ///
    /// # Context
    ///
    /// That of the handler; works for [`IssueFlags::unlocked`](super::IssueFlags::unlocked) too.
    pub fn lease_part<L: PartLessor>(
        &mut self,
        memory: PartMemory,
        lessor: L,
        nr: u16,
    ) -> Result<(), (Error, PartMemory, L)> {
        let table = lessor.table();
        let private = lessor.into_foreign();
        let part = memory.into_raw();
        let lease = table.as_lease(private, None);

        // SAFETY: By the type invariant this is a primary in `->uring_cmd()`. By the safety
        // requirements of `Lessor`, the table is valid until the lease ends. The memory is
        // nobody else's. `end_part::<L>` takes both, once.
        let ret = unsafe {
            bindings::io_fused_cmd_lease_part(
                self.cmd.as_ptr(),
                part,
                &lease,
                nr.into(),
                Some(end_part::<L>),
            )
        };
        if ret < 0 {
            // SAFETY: After an error, the callback is not called, so this is the only taker.
            let (memory, lessor) =
                unsafe { (PartMemory::from_raw(part), L::from_foreign(private)) };
            return Err((Error::from_errno(ret), memory, lessor));
        }
        Ok(())
    }

    /// Starts the secondaries, all of which were leased a buffer. The command completes when all of
    /// them are done, with `count` plus the number of leases that are to be counted.
    ///
    /// It is refused with [`EINVAL`] if there are secondaries without a lease.
    ///
    /// # Context
    ///
    /// That of the handler; works for [`IssueFlags::unlocked`](super::IssueFlags::unlocked) too.
    pub fn start_parts(self, count: u32) -> Outcome<'a> {
        // SAFETY: By the type invariant this is a primary in `->uring_cmd()` with these flags, and
        // it was not started. It is given up with `self`.
        outcome_of(unsafe {
            bindings::io_fused_cmd_start_parts(self.cmd.as_ptr(), count, self.flags.bits())
        })
    }
}

/// Called by io_uring when one of several leases ends.
///
/// # Safety
///
/// `part` and `private` must come from [`PartMemory::into_raw`] and `L::into_foreign`, and not be
/// used again.
#[cfg(CONFIG_IO_URING_FUSED_CMD)]
unsafe extern "C" fn end_part<L: PartLessor>(
    part: *mut bindings::io_fused_part,
    private: *mut c_void,
    res: c_int,
) -> bool {
    // SAFETY: By the safety requirement.
    let (lessor, memory) = unsafe { (L::from_foreign(private), PartMemory::from_raw(part)) };

    lessor.part_ended(memory, res)
}

/// Without the fused command in the kernel there is no value of the type to call these with.
#[cfg(not(CONFIG_IO_URING_FUSED_CMD))]
#[expect(missing_docs)]
impl<'a, H: CommandHandler> FusedCmd<'a, H> {
    pub fn lease_part<L: PartLessor>(
        &mut self,
        _memory: PartMemory,
        _lessor: L,
        _nr: u16,
    ) -> Result<(), (Error, PartMemory, L)> {
        match self.never {}
    }

    pub fn start_parts(self, _count: u32) -> Outcome<'a> {
        match self.never {}
    }
}
