// SPDX-License-Identifier: GPL-2.0

//! What a driver implements, and how io_uring calls it.

use super::{
    cmd,
    FusedCmd,
    IssueFlags,
    IssuedCmd,
    Outcome,
    QueuedCmd, //
};
use crate::{
    bindings,
    prelude::*,
    types::ForeignOwnable, //
};
use core::{
    convert::Infallible,
    marker::PhantomData,
    mem::ManuallyDrop,
    ptr::NonNull, //
};

/// Serves the uring commands on one kind of file.
///
/// Implemented by a type that stands for the kind of command; there need be no value of it. See the
/// [module documentation](super) for an example.
pub trait CommandHandler: Sized {
    /// The private data of the file.
    type Ptr: ForeignOwnable + Send + Sync;

    /// The private data of a queued command. At most 32 bytes, aligned to at most 8.
    type Data: Send + Sync + 'static;

    /// Whether the driver serves `IORING_OP_FUSED_CMD`, the primary of which goes to
    /// [`fused`](Self::fused) then.
    const FUSED: bool = false;

    /// Whether [`IssuedCmd::defer_to_task`] may be used.
    #[doc(hidden)]
    const DEFERS: bool = true;

    /// Called with each new command, and again for one that was answered with
    /// [`IssuedCmd::retry_blocking`].
    ///
    /// # Context
    ///
    /// Process context. May sleep only if `!flags.nonblock()`. Unless `flags.unlocked()`, the
    /// ring's `uring_lock` is held and the current task is the one that submitted the command, or
    /// its kernel thread if the ring has one.
    fn issue<'a>(
        dev: <Self::Ptr as ForeignOwnable>::Borrowed<'a>,
        cmd: IssuedCmd<'a, Self>,
        flags: IssueFlags<'a>,
    ) -> Outcome<'a>;

    /// Called from task work with a command for which [`IssuedCmd::defer_to_task`] was called.
    ///
    /// # Context
    ///
    /// Process context with the ring's `uring_lock` held, in the task that submitted the command.
    fn deferred<'a>(
        dev: <Self::Ptr as ForeignOwnable>::Borrowed<'a>,
        cmd: IssuedCmd<'a, Self>,
        flags: IssueFlags<'a>,
    ) -> Outcome<'a> {
        Self::issue(dev, cmd, flags)
    }

    /// Called for a command queued with [`IssuedCmd::queue_cancelable`] when its ring or its task
    /// goes away, possibly more than once.
    ///
    /// `data` is the data of that command. The [`QueuedCmd`] is where the driver has put it, unless
    /// it is about to be completed anyway. The driver should see to it that it is completed soon:
    /// whoever closes the ring waits for that.
    ///
    /// # Context
    ///
    /// Process context with the ring's `uring_lock` held, not necessarily in the task that
    /// submitted the command.
    fn cancel(
        _dev: <Self::Ptr as ForeignOwnable>::Borrowed<'_>,
        _data: &Self::Data,
        _flags: IssueFlags<'_>,
    ) {
    }

    /// Called from task work with a command for which [`QueuedCmd::complete_in_task`] was called or
    /// that was in a [`TaskBatch`](super::TaskBatch).
    ///
    /// The default drops the command, which completes it with `ECANCELED`.
    ///
    /// # Context
    ///
    /// Process context with the ring's `uring_lock` held, in the task that submitted the command;
    /// or if that exits ([`TaskContext::cancelled`]), in a kernel thread.
    fn task_work(
        _dev: <Self::Ptr as ForeignOwnable>::Borrowed<'_>,
        cmd: QueuedCmd<Self>,
        _cx: TaskContext<'_>,
    ) {
        drop(cmd);
    }

    /// Called with the primary of a fused command, if [`FUSED`](Self::FUSED).
    ///
    /// # Context
    ///
    /// As [`issue`](Self::issue).
    fn fused<'a>(
        _dev: <Self::Ptr as ForeignOwnable>::Borrowed<'a>,
        cmd: FusedCmd<'a, Self>,
        _flags: IssueFlags<'a>,
    ) -> Outcome<'a> {
        cmd.refuse(EOPNOTSUPP)
    }

    /// Called with the primary of a fused command for which [`FusedCmd::lease_and_keep`] was
    /// called, when its secondaries are done and the lease is over. Not called if the command is
    /// canceled before its secondaries are issued.
    ///
    /// `result` is what the command would have completed with: the sum of the bytes that were
    /// moved, or the first error. The command is cancelable, as after
    /// [`IssuedCmd::queue_cancelable`].
    ///
    /// The default completes it with that result.
    ///
    /// # Context
    ///
    /// Process context with the ring's `uring_lock` held, not necessarily in the task that
    /// submitted the command. `flags` are those of this callback.
    fn group_ended(
        _dev: <Self::Ptr as ForeignOwnable>::Borrowed<'_>,
        cmd: QueuedCmd<Self>,
        result: i32,
        flags: IssueFlags<'_>,
    ) {
        cmd.done(result, flags);
    }
}

/// The context of [`CommandHandler::task_work`].
///
/// Only there a multishot command may take a buffer and post a CQE: that has io_uring free requests
/// that have completed, which no other callback may do, as its caller still looks at some. There is
/// one value per call, so that no two buffers are taken at a time.
///
/// # Invariants
///
/// `flags` are those of the current callback, which is one of task work.
pub struct TaskContext<'a> {
    flags: IssueFlags<'a>,
    cancelled: bool,
}

impl<'a> TaskContext<'a> {
    /// The flags of this callback, with which commands of the same ring can be completed at once.
    /// Any context.
    pub fn flags(&self) -> IssueFlags<'a> {
        self.flags
    }

    /// Whether the task exits, or its ring goes away. If so, this is not that task, and its user
    /// memory can not be reached. Any context.
    pub fn cancelled(&self) -> bool {
        self.cancelled
    }
}

/// Commands that are never queued or deferred, on a file with private data `P`: their result is
/// known when the handler returns.
///
/// As a [`CommandHandler`] it is for files that know no commands: it refuses each with
/// `EOPNOTSUPP`.
pub struct NoQueue<P>(PhantomData<P>, Infallible);

impl<P: ForeignOwnable + Send + Sync> CommandHandler for NoQueue<P> {
    type Ptr = P;
    type Data = Infallible;
    const DEFERS: bool = false;

    fn issue<'a>(
        _dev: P::Borrowed<'a>,
        cmd: IssuedCmd<'a, Self>,
        _flags: IssueFlags<'a>,
    ) -> Outcome<'a> {
        cmd.complete(Err(EOPNOTSUPP))
    }
}

/// C's `io_req_tw_func_t`.
pub(super) type TaskWorkFn = unsafe extern "C" fn(bindings::io_tw_req, bindings::io_tw_token_t);

/// Returns the private data of the command's file.
///
/// # Safety
///
/// `cmd` must be valid, not be freed during `'a`, and its file have a `P` as private data.
unsafe fn dev_of<'a, P: ForeignOwnable>(cmd: NonNull<bindings::io_uring_cmd>) -> P::Borrowed<'a> {
    // SAFETY: The caller promises a valid command; a command holds a reference to its file as long
    // as it exists.
    let private = unsafe { (*(*cmd.as_ptr()).file).private_data };
    // SAFETY: The private data came from `into_foreign` in the file's open. It goes back only in
    // the file's release, thus not before the command, with its reference to the file, is freed.
    unsafe { P::borrow(private) }
}

/// Makes the arguments of a handler from those of C's `->uring_cmd()`.
///
/// # Safety
///
/// - The caller must be in `->uring_cmd()`, with these arguments, for the duration of `'a`. It
///   must return the `Outcome` that the command is turned into.
/// - The file must have an `H::Ptr` as private data.
/// - `issue_flags` must have neither `IO_URING_F_CANCEL` nor `IO_URING_F_FUSED`.
pub(crate) unsafe fn issue_args<'a, H: CommandHandler>(
    ioucmd: *mut bindings::io_uring_cmd,
    issue_flags: c_uint,
) -> (
    <H::Ptr as ForeignOwnable>::Borrowed<'a>,
    IssuedCmd<'a, H>,
    IssueFlags<'a>,
) {
    // SAFETY: io_uring passes a valid command, which is part of an `io_kiocb`. It is not freed
    // before `->uring_cmd()` returns: to free it takes the ring's lock, which the caller holds
    // without having io_uring free requests meanwhile (see `TaskContext`), and in an unlocked issue
    // the worker has a reference of its own to the request.
    unsafe {
        let cmd = NonNull::new_unchecked(ioucmd);
        let flags = IssueFlags::from_raw(issue_flags, cmd::ring_of(cmd));
        (dev_of::<H::Ptr>(cmd), IssuedCmd::new(cmd, flags), flags)
    }
}

/// C's `->uring_cmd()` for files whose commands `H` serves.
///
/// # Safety
///
/// Only to be called by io_uring, for a file with an `H::Ptr` as private data.
pub(crate) unsafe extern "C" fn uring_cmd<H: CommandHandler>(
    ioucmd: *mut bindings::io_uring_cmd,
    issue_flags: c_uint,
) -> c_int {
    if issue_flags & bindings::io_uring_cmd_flags_IO_URING_F_CANCEL as u32 != 0 {
        // SAFETY: io_uring calls this for commands marked as cancelable, and not yet taken off
        // their list. Only `queue_cancelable` marks, after it stored the data, and
        // `run_group_ended`, for which `lease_and_keep` did; both demand that it is `Copy`.
        unsafe { run_cancel::<H>(NonNull::new_unchecked(ioucmd), issue_flags) };
        return 0;
    }

    #[cfg(CONFIG_IO_URING_FUSED_CMD)]
    if issue_flags & bindings::io_uring_cmd_flags_IO_URING_F_FUSED as u32 != 0 {
        // SAFETY: As in `issue_args`, and the flag says that this is a primary of a fused command.
        // That the request is not freed before the driver returns holds for it, too, though its
        // group may be over by then.
        let (dev, cmd, flags) = unsafe {
            let cmd = NonNull::new_unchecked(ioucmd);
            let flags = IssueFlags::from_raw(issue_flags, cmd::ring_of(cmd));
            (dev_of::<H::Ptr>(cmd), FusedCmd::<H>::new(cmd, flags), flags)
        };
        return H::fused(dev, cmd, flags).into_raw();
    }

    // SAFETY: This is `->uring_cmd()`, and the other two kinds of call were dealt with.
    let (dev, cmd, flags) = unsafe { issue_args::<H>(ioucmd, issue_flags) };
    H::issue(dev, cmd, flags).into_raw()
}

/// The flags for `struct file_operations` of a file whose commands `H` serves.
pub(crate) const fn fop_flags<H: CommandHandler>() -> bindings::fop_flags_t {
    if cfg!(CONFIG_IO_URING_FUSED_CMD) && H::FUSED {
        bindings::FOP_URING_CMD_FUSED
    } else {
        0
    }
}

/// # Safety
///
/// `cmd` must be a queued command of `H` with initialised data of a type that is `Copy`, whose ring
/// is locked.
unsafe fn run_cancel<H: CommandHandler>(cmd: NonNull<bindings::io_uring_cmd>, issue_flags: u32) {
    // A copy, so that the driver may complete the command while it looks at the data. It must not
    // be dropped, and need not be, as the type is `Copy`.
    //
    // SAFETY: The caller promises that the data is there. It is not changed once it is queued.
    let data = unsafe {
        cmd::pdu::<H::Data>(cmd)
            .cast::<ManuallyDrop<H::Data>>()
            .read()
    };
    // SAFETY: As the ring is locked, the command is not freed before the callback returns.
    let (dev, flags) = unsafe {
        (
            dev_of::<H::Ptr>(cmd),
            IssueFlags::from_raw(issue_flags, cmd::ring_of(cmd)),
        )
    };
    H::cancel(dev, &data, flags);
}

/// Makes the context of a task work callback.
///
/// # Safety
///
/// The caller must be in a task work callback with these arguments for the duration of `'a`.
#[inline]
unsafe fn task_args<'a>(
    tw_req: bindings::io_tw_req,
    tw: bindings::io_tw_token_t,
) -> (NonNull<bindings::io_uring_cmd>, TaskContext<'a>) {
    // SAFETY: io_uring passes the request that the callback was scheduled for, which is a uring
    // command. Task work runs with the ring locked and posts deferred completions.
    unsafe {
        let cmd = NonNull::new_unchecked(bindings::io_uring_cmd_from_tw(tw_req));
        let flags = IssueFlags::from_raw(IssueFlags::TASK_WORK, cmd::ring_of(cmd));
        // INVARIANT: These are the flags of this callback.
        let cx = TaskContext {
            flags,
            cancelled: tw.cancel,
        };
        (cmd, cx)
    }
}

/// Task work of [`QueuedCmd::complete_in_task`].
///
/// # Safety
///
/// Only to be scheduled by the owner of a queued command of `H`, who gives it up.
pub(super) unsafe extern "C" fn run_task_work<H: CommandHandler>(
    tw_req: bindings::io_tw_req,
    tw: bindings::io_tw_token_t,
) {
    // SAFETY: This is the callback.
    let (cmd, cx) = unsafe { task_args(tw_req, tw) };
    // SAFETY: The file's private data outlives the callback even if the command is completed. Who
    // frees it has the ring's lock, so that is this callback itself, when it posts a CQE. It does
    // so only in the task of the ring, which gives the file up later, by task work of its own. The
    // command's owner gave it up for us.
    let (dev, cmd) = unsafe { (dev_of::<H::Ptr>(cmd), QueuedCmd::<H>::from_raw(cmd)) };
    H::task_work(dev, cmd, cx);
}

/// Task work of a [`TaskBatch`](super::TaskBatch).
///
/// # Safety
///
/// Only to be scheduled for the first of a list of queued commands of `H`, all of the same ring and
/// task, which are linked by [`cmd::link`] and whose owner gives them up.
pub(super) unsafe extern "C" fn run_batch<H: CommandHandler>(
    tw_req: bindings::io_tw_req,
    tw: bindings::io_tw_token_t,
) {
    // SAFETY: This is the callback.
    let (first, cx) = unsafe { task_args(tw_req, tw) };
    let TaskContext { flags, cancelled } = cx;
    let mut next = Some(first);

    while let Some(cmd) = next {
        // SAFETY: As in `run_task_work`, for a command of the list: the ring is that of all. The
        // link is read before the command is given away.
        let (dev, queued) = unsafe {
            next = cmd::link::<H::Data>(cmd).read();
            (dev_of::<H::Ptr>(cmd), QueuedCmd::<H>::from_raw(cmd))
        };
        // INVARIANT: As `cx`.
        H::task_work(dev, queued, TaskContext { flags, cancelled });
    }
}

/// The group of a primary is over, and the driver gets it back.
///
/// # Safety
///
/// Only to be called by io_uring, once, for a primary whose file has an `H::Ptr` as private data,
/// with an initialised `H::Data` that is `Copy` as its private data.
#[cfg(CONFIG_IO_URING_FUSED_CMD)]
pub(super) unsafe extern "C" fn run_group_ended<H: CommandHandler>(
    ioucmd: *mut bindings::io_uring_cmd,
    result: c_int,
) {
    // SAFETY: The command is queued as far as io_uring is concerned, nobody else completes it, and
    // `lease_and_keep` has stored its data. The ring is locked, so the command is not freed before
    // this returns, and `include/linux/io_uring/fused.h` says that its flags are 0 here.
    let (dev, cmd, flags) = unsafe {
        let cmd = NonNull::new_unchecked(ioucmd);
        let flags = IssueFlags::from_raw(0, cmd::ring_of(cmd));

        bindings::io_uring_cmd_mark_cancelable(ioucmd, flags.bits());
        (dev_of::<H::Ptr>(cmd), QueuedCmd::<H>::from_raw(cmd), flags)
    };
    H::group_ended(dev, cmd, result, flags);
}

/// Task work of a dropped [`QueuedCmd`].
///
/// # Safety
///
/// Only to be scheduled by the owner of a queued command of `H`, who gives it up.
pub(super) unsafe extern "C" fn run_abandoned<H: CommandHandler>(
    tw_req: bindings::io_tw_req,
    tw: bindings::io_tw_token_t,
) {
    // SAFETY: This is the callback.
    let (cmd, cx) = unsafe { task_args(tw_req, tw) };
    // SAFETY: The owner gave the command up for us.
    let cmd = unsafe { QueuedCmd::<H>::from_raw(cmd) };
    cmd.done(ECANCELED.to_errno(), cx.flags);
}

/// Task work of [`IssuedCmd::defer_to_task`].
///
/// # Safety
///
/// Only to be scheduled by the owner of a command that is handed to `H` but not queued, who gives
/// it up. Its SQE must be a copy, and its private data the `u32` bits that describe its ring
/// and SQE.
pub(super) unsafe extern "C" fn run_deferred<H: CommandHandler>(
    tw_req: bindings::io_tw_req,
    tw: bindings::io_tw_token_t,
) {
    // SAFETY: This is the callback.
    let (cmd, cx) = unsafe { task_args(tw_req, tw) };
    // SAFETY: By the safety requirement of this function the bits are there. They describe the ring
    // and the SQE, which do not change, so they are as true now as when the command was issued.
    let flags = unsafe {
        let shape = cmd::pdu::<u32>(cmd).read();
        IssueFlags::from_raw(cx.flags.bits() | shape, cmd::ring_of(cmd))
    };

    let outcome = if cx.cancelled {
        Outcome::finished(ECANCELED.to_errno())
    } else {
        // SAFETY: The ring is locked, so the command is not freed before this callback returns. Its
        // owner gave it up, and its SQE is a copy that lasts as long as the command.
        let (dev, issued) = unsafe { (dev_of::<H::Ptr>(cmd), IssuedCmd::<H>::new(cmd, flags)) };
        H::deferred(dev, issued, flags)
    };

    if !outcome.is_queued() {
        // SAFETY: io_uring was told that the command is queued. The handler consumed it for an
        // outcome that says it is not queued again, so nobody else completes it. The flags are
        // those of this callback.
        unsafe {
            bindings::__io_uring_cmd_done(
                cmd.as_ptr(),
                outcome.into_raw(),
                0,
                cx.flags.bits(),
                false,
            )
        };
    }
}
