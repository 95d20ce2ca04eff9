// SPDX-License-Identifier: GPL-2.0

//! Commands that user space sends to a driver through io_uring.
//!
//! A program submits `IORING_OP_URING_CMD` on an open file. The driver serves the command, and
//! io_uring posts a CQE with the result. A driver implements [`CommandHandler`] and names the
//! implementation in its [`CharDevice`](crate::chrdev::CharDevice).
//!
//! # The life of a command
//!
//! 1. [`CommandHandler::issue`] gets an [`IssuedCmd`]. The handler reads the operation and the
//!    payload, and must turn the command into an [`Outcome`], its return value:
//!    - [`complete`](IssuedCmd::complete): the result is known.
//!    - [`retry_blocking`](IssuedCmd::retry_blocking): the handler would have to sleep, which is
//!      not allowed here.
//!    - [`queue`](IssuedCmd::queue): the driver keeps the command.
//! 2. A command that the driver keeps is a [`QueuedCmd`], an owned value with typed data of the
//!    driver inside. It can wait anywhere, and be completed from anywhere, with
//!    [`done`](QueuedCmd::done). What has to happen in the task that submitted the command, or is
//!    better done there, goes through [`complete_in_task`](QueuedCmd::complete_in_task) to
//!    [`CommandHandler::task_work`]. A [`TaskBatch`] takes several commands there at once.
//! 3. A command is completed exactly once. One that is dropped completes with `ECANCELED`.
//!
//! [`IssueFlags`] tell a callback whether it may sleep, and which lock is held.
//!
//! A command that posts several CQEs, with buffers that user space provides, is a [`MultishotCmd`].
//!
//! The primary of an `IORING_OP_FUSED_CMD` goes to [`CommandHandler::fused`]; see [`FusedCmd`].
//!
//! # Examples
//!
//! A device that completes a `WAIT` as soon as someone sends a `WAKE`, or when the ring goes away.
//!
//! ```
//! use kernel::{
//!     io_uring::{
//!         CommandHandler,
//!         IssueFlags,
//!         IssuedCmd,
//!         Outcome,
//!         QueuedCmd,
//!         TaskContext, //
//!     },
//!     new_mutex,
//!     sync::{
//!         Arc,
//!         ArcBorrow,
//!         Mutex, //
//!     }, //
//! };
//!
//! const WAIT: u32 = 1;
//! const WAKE: u32 = 2;
//!
//! /// The private data of an open file.
//! #[pin_data]
//! struct Bell {
//!     #[pin]
//!     waiting: Mutex<Option<QueuedCmd<BellCommands>>>,
//! }
//!
//! struct BellCommands;
//!
//! impl CommandHandler for BellCommands {
//!     type Ptr = Arc<Bell>;
//!     /// What the `WAIT` shall return.
//!     type Data = i32;
//!
//!     fn issue<'a>(
//!         bell: ArcBorrow<'a, Bell>,
//!         cmd: IssuedCmd<'a, Self>,
//!         flags: IssueFlags<'a>,
//!     ) -> Outcome<'a> {
//!         // With the ring locked, nothing is canceled before the command is in its place.
//!         if flags.unlocked() {
//!             return cmd.defer_to_task();
//!         }
//!         match cmd.op() {
//!             WAIT => {
//!                 let value = cmd.payload::<i32>();
//!                 let mut waiting = bell.waiting.lock();
//!                 if waiting.is_some() {
//!                     return cmd.complete(Err(EBUSY));
//!                 }
//!                 let (queued, outcome) = cmd.queue_cancelable(value);
//!                 *waiting = Some(queued);
//!                 outcome
//!             }
//!             WAKE => {
//!                 let woken = bell.waiting.lock().take();
//!                 cmd.complete(match woken {
//!                     Some(waiter) => {
//!                         let value = *waiter.data();
//!                         // It may be on another ring, so let its own task complete it.
//!                         waiter.complete_in_task();
//!                         Ok(value)
//!                     }
//!                     None => Err(ENOENT),
//!                 })
//!             }
//!             _ => cmd.complete(Err(EINVAL)),
//!         }
//!     }
//!
//!     fn task_work(
//!         _bell: ArcBorrow<'_, Bell>,
//!         cmd: QueuedCmd<Self>,
//!         cx: TaskContext<'_>,
//!     ) {
//!         let value = *cmd.data();
//!         cmd.done(value, cx.flags());
//!     }
//!
//!     fn cancel(bell: ArcBorrow<'_, Bell>, _value: &i32, _flags: IssueFlags<'_>) {
//!         // Dropping a command cancels it.
//!         drop(bell.waiting.lock().take());
//!     }
//! }
//!
//! # let bell = Arc::pin_init(pin_init!(Bell { waiting <- new_mutex!(None) }), GFP_KERNEL)?;
//! # assert!(bell.waiting.lock().is_none());
//! # Ok::<(), Error>(())
//! ```
//!
//! C header: [`include/linux/io_uring/cmd.h`](srctree/include/linux/io_uring/cmd.h)

mod batch;
mod cmd;
mod flags;
mod fused;
mod handler;
mod heap_loan;
mod multishot;
mod page_buf;
mod registered;

pub use self::{
    batch::TaskBatch,
    cmd::{
        IssuedCmd,
        Outcome,
        QueuedCmd, //
    },
    flags::IssueFlags,
    fused::{
        BvecTable,
        Direction,
        FusedCmd,
        Lessor,
        PartLessor,
        PartMemory,
        MAX_SECONDARIES, //
    },
    handler::{
        CommandHandler,
        NoQueue,
        TaskContext, //
    },
    heap_loan::HeapLoan,
    multishot::{
        BufGroup,
        LastShot,
        MultishotCmd,
        MultishotIssued,
        Shot, //
    },
    page_buf::{
        PageBuf,
        PageBufOwner,
        PageLoan, //
    },
    registered::{
        CmdRef,
        RingId, //
    },
};

pub(crate) use self::handler::{
    fop_flags,
    issue_args,
    uring_cmd, //
};
