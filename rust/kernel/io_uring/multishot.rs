// SPDX-License-Identifier: GPL-2.0

//! Commands that post many CQEs, each with a buffer that user space has provided.
//!
//! User space submits such a command with `IORING_URING_CMD_MULTISHOT` and a group of buffers, and
//! the driver keeps it. Whenever there is something to tell, the driver takes the next buffer of
//! the group, fills it, and posts a CQE that names it. The command lives on until the driver
//! completes it with a last CQE, without `IORING_CQE_F_MORE`.
//!
//! The states are types, each made by consuming the one before:
//!
//! ```text
//!  IssuedCmd -> MultishotIssued -> MultishotCmd --- select ---> Shot --- post, release ---+
//!                                   ^   |    |                   |                        |
//!                                   |   |    +-- no buffer --+   +-- can not be posted    |
//!                                   |  done                  v        v                   |
//!                                   |   v                    LastShot                     |
//!                                   |  (end) <---- done ------- |                         |
//!                                   +-----------------------------------------------------+
//! ```
//!
//! So nothing can be posted by a command that has ended, or that can only end; and while a buffer
//! is selected, the command can not be completed or sent elsewhere.
//!
//! C header: [`include/linux/io_uring/cmd.h`](srctree/include/linux/io_uring/cmd.h)

use super::{
    cmd::ring_of,
    CmdRef,
    CommandHandler,
    IssueFlags,
    IssuedCmd,
    Outcome,
    QueuedCmd,
    TaskContext, //
};
use crate::{
    bindings,
    prelude::*,
    uaccess::{
        UserPtr,
        UserSlice, //
    }, //
};
use core::{
    marker::PhantomData,
    mem::ManuallyDrop,
    ptr::{
        self,
        NonNull, //
    }, //
};

/// Names a group of buffers that user space has provided to a ring.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BufGroup(u16);

/// Whether user space has submitted the command as a multishot one.
///
/// # Safety
///
/// `cmd` must be valid.
unsafe fn is_multishot(cmd: NonNull<bindings::io_uring_cmd>) -> bool {
    // SAFETY: The command is valid. Another thread may change another bit of the word meanwhile,
    // hence the volatile read; this one was set when the command was prepared.
    let flags = unsafe { (&raw const (*cmd.as_ptr()).flags).read_volatile() };

    flags & bindings::IORING_URING_CMD_MULTISHOT != 0
}

/// Where the buffer is that `io_uring_cmd_buffer_select()` has selected, if it has.
fn selected(value: isize) -> Result<UserPtr> {
    const FIRST_ERRNO: isize = -(bindings::MAX_ERRNO as isize);

    match value {
        0 => Err(ENOBUFS),
        FIRST_ERRNO..0 => Err(Error::from_errno(value as i32)),
        // An address may be negative, too: some machines ignore the highest byte, and user space
        // may have put a tag there.
        addr => Ok(UserPtr::from_addr(addr as usize)),
    }
}

/// A multishot command just handed to the driver: an [`IssuedCmd`] that was asked whether it is
/// one.
///
/// # Invariants
///
/// The command is a multishot one, and has not selected a buffer yet.
pub struct MultishotIssued<'a, H: CommandHandler>(IssuedCmd<'a, H>);

impl<'a, H: CommandHandler> IssuedCmd<'a, H> {
    /// Tells whether this is a multishot command. Any other one is returned as it was.
    ///
    /// # Context
    ///
    /// Any.
    pub fn into_multishot(self) -> Result<MultishotIssued<'a, H>, Self> {
        // SAFETY: An issued command is valid.
        if unsafe { is_multishot(self.raw()) } {
            // INVARIANT: It is one, and only this module selects buffers, for queued commands.
            Ok(MultishotIssued(self))
        } else {
            Err(self)
        }
    }
}

impl<'a, H: CommandHandler> MultishotIssued<'a, H> {
    /// The group that the command takes its buffers from. The driver has to note it, in the data
    /// of the command for instance: io_uring does not. Any context.
    pub fn buf_group(&self) -> BufGroup {
        let req = self.0.raw().cast::<bindings::io_kiocb>();

        // SAFETY: An issued command is the first part of a valid request. `io_uring_cmd_prep()`
        // takes a multishot command only as a request that selects buffers, so the group is there.
        // It is replaced when a buffer is selected, which by the type invariant was not done yet.
        BufGroup(unsafe { (*req.as_ptr()).buf_index })
    }

    /// Completes the command, which has posted nothing. See [`IssuedCmd::complete`].
    pub fn complete(self, res: Result<i32>) -> Outcome<'a> {
        self.0.complete(res)
    }

    /// Keeps the command. See [`IssuedCmd::queue_cancelable`], whose context is that of this.
    pub fn queue_cancelable(self, data: H::Data) -> (MultishotCmd<H>, Outcome<'a>)
    where
        H::Data: Copy,
    {
        let (queued, outcome) = self.0.queue_cancelable(data);

        // INVARIANT: It is a multishot command that has not posted anything yet.
        (MultishotCmd(queued), outcome)
    }
}

/// A multishot command that the driver keeps, and that can post CQEs.
///
/// As a [`QueuedCmd`], it is completed exactly once: by [`done`](Self::done), or by dropping it.
///
/// # Examples
///
/// Telling user space a number, as often as it provides buffers.
///
/// ```
/// use kernel::io_uring::{
///     BufGroup,
///     CommandHandler,
///     MultishotCmd,
///     TaskContext, //
/// };
///
/// /// Returns the command, unless it has ended.
/// fn tell<H: CommandHandler>(
///     cmd: MultishotCmd<H>,
///     group: BufGroup,
///     number: u32,
///     cx: &mut TaskContext<'_>,
/// ) -> Option<MultishotCmd<H>> {
///     let flags = cx.flags();
///     let shot = cmd.select(group, cx);
///     match shot.and_then(|shot| shot.post(&number.to_ne_bytes())) {
///         Ok(cmd) => Some(cmd),
///         Err((e, last)) => {
///             last.done(e.to_errno(), flags);
///             None
///         }
///     }
/// }
/// ```
///
/// It can not post after its end:
///
/// ```ignore,compile_fail
/// # use kernel::io_uring::*;
/// fn end_and_select<H: CommandHandler>(
///     cmd: MultishotCmd<H>,
///     group: BufGroup,
///     cx: &mut TaskContext<'_>,
/// ) {
///     cmd.done(0, cx.flags());
///     let _ = cmd.select(group, cx);
/// }
/// ```
///
/// And there is one buffer at a time, as a second command of the group would get the same one:
///
/// ```ignore,compile_fail
/// # use kernel::io_uring::*;
/// fn select_both<H: CommandHandler>(
///     one: MultishotCmd<H>,
///     two: MultishotCmd<H>,
///     group: BufGroup,
///     cx: &mut TaskContext<'_>,
/// ) {
///     let first = one.select(group, cx);
///     let second = two.select(group, cx);
///     drop((first, second));
/// }
/// ```
///
/// # Invariants
///
/// The command is a multishot one. No buffer is selected, and no CQE of it could not be posted.
pub struct MultishotCmd<H: CommandHandler>(QueuedCmd<H>);

impl<H: CommandHandler> QueuedCmd<H> {
    /// Tells whether this is a multishot command: what [`CommandHandler::task_work`] does with a
    /// command that came through [`MultishotCmd::complete_in_task`]. Any other one is returned as
    /// it was.
    ///
    /// # Context
    ///
    /// Any.
    pub fn into_multishot(self) -> Result<MultishotCmd<H>, Self> {
        // SAFETY: A queued command is valid.
        if unsafe { is_multishot(self.raw()) } {
            // INVARIANT: It is one. The types below give a `QueuedCmd` away only from a
            // `MultishotCmd`, so it has neither a buffer nor failed to post.
            Ok(MultishotCmd(self))
        } else {
            Err(self)
        }
    }
}

impl<H: CommandHandler> MultishotCmd<H> {
    /// Returns the data that the command was queued with. Any context.
    pub fn data(&self) -> &H::Data {
        self.0.data()
    }

    /// The command as a way to its ring. Any context.
    pub fn as_cmd(&self) -> CmdRef<'_> {
        self.0.as_cmd()
    }

    /// Takes the next buffer of `group`.
    ///
    /// Fails with `ENOBUFS` if there is none, with `ECANCELED` if the callback was cancelled, so
    /// that the memory of the task can not be reached, and with `EINVAL` if it is for another ring.
    /// The command is to be completed then.
    ///
    /// # Context
    ///
    /// That of [`CommandHandler::task_work`].
    ///
    /// Wraps C's `io_uring_cmd_buffer_select()`.
    pub fn select<'a>(
        self,
        group: BufGroup,
        cx: &'a mut TaskContext<'_>,
    ) -> Result<Shot<'a, H>, (Error, LastShot<H>)> {
        let cmd = self.0.raw();
        // SAFETY: A queued command is valid.
        let bits = cx.flags().bits_for(unsafe { ring_of(cmd) });
        let mut len = 0;

        if cx.cancelled() {
            return Err((ECANCELED, LastShot(self.0)));
        }
        if bits & IssueFlags::UNLOCKED.bits() != 0 {
            return Err((EINVAL, LastShot(self.0)));
        }
        // SAFETY: The command is valid, and by the type invariant has no buffer. `bits` say that
        // the lock of its ring is held, which is true.
        let sel = unsafe {
            bindings::io_uring_cmd_buffer_select(cmd.as_ptr(), group.0.into(), &mut len, bits)
        };
        // SAFETY: All bits of either member are valid for the other one.
        match selected(unsafe { sel.__bindgen_anon_1.val }) {
            Err(e) => Err((e, LastShot(self.0))),
            // INVARIANT: A buffer was just selected, with the ring locked for `'a`.
            Ok(addr) => Ok(Shot {
                cmd: self.0,
                sel,
                addr,
                len,
                bits,
                _locked: PhantomData,
            }),
        }
    }

    /// Has [`CommandHandler::task_work`] called. See [`QueuedCmd::complete_in_task`].
    pub fn complete_in_task(self) {
        self.0.complete_in_task();
    }

    /// Completes the command. See [`QueuedCmd::done`].
    pub fn done(self, res: i32, flags: IssueFlags<'_>) {
        self.0.done(res, flags);
    }
}

/// A multishot command with a buffer to fill: one CQE to be posted, or not.
///
/// Dropping it gives the buffer back to the group and ends the command with `ECANCELED`.
///
/// # Context
///
/// All methods, and the drop, are for the context of [`MultishotCmd::select`]. [`Self::post`] may
/// end other commands of the ring first, and with them what they have lent, so it must be called
/// without any lock that [`CommandHandler::group_ended`] or the end of a lease takes.
///
/// # Invariants
///
/// `cmd` is a multishot command that `sel` was selected for, which was neither used nor given back
/// since. For the duration of `'a` the lock of its ring is held, `bits` say so, and this is the
/// only buffer that is selected.
pub struct Shot<'a, H: CommandHandler> {
    cmd: QueuedCmd<H>,
    sel: bindings::io_br_sel,
    addr: UserPtr,
    len: usize,
    bits: u32,
    _locked: PhantomData<&'a mut ()>,
}

impl<H: CommandHandler> Shot<'_, H> {
    /// How many bytes the buffer has room for.
    pub fn room(&self) -> usize {
        self.len
    }

    /// The command as a way to its ring.
    pub fn as_cmd(&self) -> CmdRef<'_> {
        self.cmd.as_cmd()
    }

    /// Copies `bytes` to the buffer and posts a CQE with their number.
    ///
    /// Fails with `EINVAL` if there are none, or more than there is room for, with `EFAULT` if the
    /// buffer can not be written, and with `ENOBUFS` if there is no room for the CQE: then the
    /// buffer is used up all the same, as io_uring has it. The command is to be completed then.
    ///
    /// Wraps C's `io_uring_mshot_cmd_post_cqe()`.
    pub fn post(mut self, bytes: &[u8]) -> Result<MultishotCmd<H>, (Error, LastShot<H>)> {
        let copied = match i32::try_from(bytes.len()) {
            Ok(1..) if bytes.len() <= self.len => UserSlice::new(self.addr, bytes.len())
                .writer()
                .write_slice(bytes),
            _ => Err(EINVAL),
        };
        let posted = match copied {
            Ok(()) => self.use_buffer(bytes.len() as isize),
            Err(e) => self.use_buffer(e.to_errno() as isize),
        };
        let cmd = self.into_cmd();
        match copied {
            // INVARIANT: The CQE was posted, and the buffer is gone with it.
            Ok(()) if posted => Ok(MultishotCmd(cmd)),
            Ok(()) => Err((ENOBUFS, LastShot(cmd))),
            Err(e) => Err((e, LastShot(cmd))),
        }
    }

    /// Gives the buffer back to the group.
    pub fn release(mut self) -> MultishotCmd<H> {
        self.use_buffer(0);
        // INVARIANT: The buffer was given back, and nothing was to be posted.
        MultishotCmd(self.into_cmd())
    }

    /// Uses the buffer for a CQE with the result `value`, if that is above 0, or else gives it
    /// back. Returns whether the CQE was posted. To be called once, before the value goes.
    fn use_buffer(&mut self, value: isize) -> bool {
        self.sel.__bindgen_anon_1.val = value;
        // SAFETY: By the type invariants the command is valid, the buffer was selected for it and
        // not used since, the ring is locked and `bits` say so.
        unsafe {
            !bindings::io_uring_mshot_cmd_post_cqe(
                self.cmd.raw().as_ptr(),
                &mut self.sel,
                self.bits,
            )
        }
    }

    /// Takes the command out after the buffer was used.
    fn into_cmd(self) -> QueuedCmd<H> {
        let this = ManuallyDrop::new(self);

        // SAFETY: `this` is neither used nor dropped afterwards, so the command has one owner.
        unsafe { ptr::read(&this.cmd) }
    }
}

impl<H: CommandHandler> Drop for Shot<'_, H> {
    fn drop(&mut self) {
        self.use_buffer(0);
        // The drop of the command ends it.
    }
}

/// A multishot command that can only be completed: with a last CQE, which has no buffer.
///
/// If it is dropped, it completes with `ECANCELED`.
pub struct LastShot<H: CommandHandler>(QueuedCmd<H>);

impl<H: CommandHandler> LastShot<H> {
    /// The command as a way to its ring. Any context.
    pub fn as_cmd(&self) -> CmdRef<'_> {
        self.0.as_cmd()
    }

    /// Completes the command. See [`QueuedCmd::done`].
    pub fn done(self, res: i32, flags: IssueFlags<'_>) {
        self.0.done(res, flags);
    }
}

#[cfg(CONFIG_RUST_IO_URING_KUNIT_TEST)]
#[macros::kunit_tests(rust_kernel_io_uring_multishot)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_no_error() {
        let addr = |value| selected(value).map(|ptr| ptr.as_const_ptr().addr());

        assert_eq!(addr(0), Err(ENOBUFS));
        assert_eq!(addr(-1), Err(EPERM));
        assert_eq!(addr(-4095), Err(Error::from_errno(-4095)));
        assert_eq!(addr(4096), Ok(4096));
        // With a tag, as in user space of arm64.
        assert_eq!(addr(-4096), Ok(usize::MAX - 4095));
        assert_eq!(addr(isize::MIN + 4096), Ok((1 << (usize::BITS - 1)) + 4096));
    }
}
