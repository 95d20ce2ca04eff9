// SPDX-License-Identifier: GPL-2.0

//! The life of one I/O: the states of a slot, and all changes between them.
//!
//! Each tag of each queue has a slot. It holds either the server's command, which waits for a
//! request, or the request that the server works on:
//!
//! ```text
//!            fetch             dispatch                start             own
//!      Idle -------> Active -------------> Dispatching ------> Starting -----> Owned
//!                    ^  ^ | cancel                              |    |          | |
//!                    |  | +---> Canceled <--------- give_up ----+    |          | | abort
//!                    |  +-------------------------- put_back --------+          | +--> Canceled
//!                    +--------------------------------------------- commit -----+
//! ```
//!
//! All slots are Idle again once the server has closed its character device.
//!
//! The slot's lock guards the state; it is a leaf, nothing is called under it but
//! `queue_cancelable()` of io_uring, which takes no lock in that context. A request in any other
//! state than Active is refused, so a canceled command needs no flags elsewhere and nobody has to
//! stop the queue.
//!
//! # The end of a request
//!
//! A request has one reference from its slot, one from each lease, and one from each `pread()` or
//! `pwrite()` that is under way. Whoever gives up the last one ends it. The result is kept in the
//! slot: it is written before the slot gives up its reference, and no other request can get the tag
//! before this one has ended.

use crate::{
    io_cmd::{
        CmdData,
        IoCommands, //
    },
    queue::{
        Disk,
        Queue, //
    },
    uapi::{
        UBLK_IO_RES_ABORT,
        UBLK_IO_RES_OK, //
    }, //
};
use core::mem;
use kernel::{
    block::mq::{
        BlkStatus,
        Op,
        OwnedRequest,
        Request, //
    },
    io_uring::{
        IssuedCmd,
        Outcome,
        QueuedCmd,
        TaskContext, //
    },
    prelude::*,
    sync::{
        aref::ARef,
        atomic::{
            Atomic,
            Relaxed, //
        },
        new_spinlock,
        SpinLock, //
    },
    task::Task,
    uaccess::UserPtr, //
};

/// How long to wait before a request is tried again whose data could not be copied.
const RETRY_MSECS: usize = 3;

/// The highest error number; a server may send anything.
const MAX_ERRNO: i32 = 4095;

/// A command of the server, waiting for a request.
pub(crate) type Cmd = QueuedCmd<IoCommands>;

/// A reference to a request.
pub(crate) type Rq = ARef<Request<Disk>>;

/// The states of a slot, with what each of them owns: `C` is a command, `R` is a reference to a
/// request.
enum State<C, R> {
    /// The server has not given a command.
    Idle,
    /// The command waits for a request.
    Active(C),
    /// The request waits for the task of the command, which is on its way.
    Dispatching(R),
    /// That task has the command and the request and is about to hand the request to the server.
    Starting,
    /// The server works on the request.
    Owned(R),
    /// The command was canceled; the server can not use this slot any more.
    Canceled,
}

impl<C, R> State<C, R> {
    /// Idle to Active. Only for a slot that [`Self::is_idle`].
    fn fetch(&mut self, cmd: C) {
        debug_assert!(self.is_idle());
        *self = Self::Active(cmd);
    }

    /// Active to Dispatching; returns the command to send to its task. Without a command, the
    /// request is given back.
    fn dispatch(&mut self, rq: R) -> Result<C, R> {
        match mem::replace(self, Self::Starting) {
            Self::Active(cmd) => {
                *self = Self::Dispatching(rq);
                Ok(cmd)
            }
            other => {
                *self = other;
                Err(rq)
            }
        }
    }

    /// Dispatching to Starting; returns the request.
    fn start(&mut self) -> Option<R> {
        match mem::replace(self, Self::Starting) {
            Self::Dispatching(rq) => Some(rq),
            other => {
                *self = other;
                None
            }
        }
    }

    /// Starting to Owned: the server gets the request.
    fn own(&mut self, rq: R) {
        debug_assert!(matches!(self, Self::Starting));
        *self = Self::Owned(rq);
    }

    /// Starting to Active: the request goes back to the block layer, the command waits again.
    fn put_back(&mut self, cmd: C) {
        debug_assert!(matches!(self, Self::Starting));
        *self = Self::Active(cmd);
    }

    /// Starting to Canceled: the task can not handle the request.
    fn give_up(&mut self) {
        debug_assert!(matches!(self, Self::Starting));
        *self = Self::Canceled;
    }

    /// Owned to Active: the server gives the request back together with its next command. Only for
    /// a slot that has an [`Self::owned`] request, which is returned.
    fn commit(&mut self, cmd: C) -> Option<R> {
        match mem::replace(self, Self::Active(cmd)) {
            Self::Owned(rq) => Some(rq),
            _ => None,
        }
    }

    /// Active to Canceled; returns the command.
    fn cancel(&mut self) -> Option<C> {
        match mem::replace(self, Self::Canceled) {
            Self::Active(cmd) => Some(cmd),
            other => {
                *self = other;
                None
            }
        }
    }

    /// Owned to Canceled: the server is gone; returns the request.
    fn abort(&mut self) -> Option<R> {
        match mem::replace(self, Self::Canceled) {
            Self::Owned(rq) => Some(rq),
            other => {
                *self = other;
                None
            }
        }
    }

    /// Any state to Idle, for the next server. Returns what the slot still owned, which is nothing
    /// once the server's file is closed and its requests are aborted.
    fn reset(&mut self) -> Self {
        mem::replace(self, Self::Idle)
    }

    fn is_idle(&self) -> bool {
        matches!(self, Self::Idle)
    }

    /// The request that the server works on.
    fn owned(&self) -> Option<&R> {
        match self {
            Self::Owned(rq) => Some(rq),
            Self::Idle
            | Self::Active(_)
            | Self::Dispatching(_)
            | Self::Starting
            | Self::Canceled => None,
        }
    }
}

/// What the lock of a slot guards.
struct Inner {
    state: State<Cmd, Rq>,
    /// The task that fetched the slot, and the only one that may commit.
    task: Option<ARef<Task>>,
    /// The server's buffer in copy mode, else 0.
    addr: u64,
}

impl Inner {
    fn current_is_owner(&self) -> bool {
        self.task
            .as_ref()
            .is_some_and(|task| task.as_ptr() == Task::current_raw())
    }
}

/// The place of one tag of one queue. Slots do not share a cache line.
#[pin_data]
#[repr(align(64))]
pub(crate) struct Slot {
    #[pin]
    inner: SpinLock<Inner>,
    /// The result of the request that the slot had last; see the module's documentation.
    result: Atomic<i32>,
    /// Whether data moves through a buffer of the server.
    copies: bool,
}

impl Slot {
    /// Creates an idle slot.
    pub(crate) fn new(copies: bool) -> impl PinInit<Self> {
        pin_init!(Self {
            inner <- new_spinlock!(
                Inner {
                    state: State::Idle,
                    task: None,
                    addr: 0,
                },
                "ublk_rs::Slot::inner"
            ),
            result: Atomic::<i32>::new(0),
            copies,
        })
    }

    /// Whether `addr` is right for the server's buffer: it must have one in copy mode only.
    pub(crate) fn check_addr(&self, addr: u64) -> Result {
        if self.copies == (addr != 0) {
            Ok(())
        } else {
            Err(EINVAL)
        }
    }

    /// Gives the slot its first command, which makes the current task its owner.
    ///
    /// The ring of the command must be locked. Returns whether the command was taken; if it was
    /// not, it completes with [`EINVAL`] because the slot has seen one already.
    pub(crate) fn fetch<'a>(
        &self,
        cmd: IssuedCmd<'a, IoCommands>,
        data: CmdData,
        addr: u64,
    ) -> (Outcome<'a>, bool) {
        let mut inner = self.inner.lock();
        if !inner.state.is_idle() {
            return (cmd.complete(Err(EINVAL)), false);
        }
        let (queued, outcome) = cmd.queue_cancelable(data);
        inner.task = Some(ARef::from(&**current!()));
        inner.addr = addr;
        inner.state.fetch(queued);
        (outcome, true)
    }

    /// Gives a request of the block layer to the waiting command. Fails with [`EIO`], and the
    /// reference is dropped, if there is none.
    pub(crate) fn dispatch(&self, rq: Rq) -> Result {
        let dispatched = self.inner.lock().state.dispatch(rq);
        match dispatched {
            Ok(cmd) => {
                cmd.complete_in_task();
                Ok(())
            }
            Err(rq) => {
                drop(rq);
                Err(EIO)
            }
        }
    }

    /// Hands a dispatched request to the server, in the task of the command.
    pub(crate) fn start(&self, cmd: Cmd, cx: TaskContext<'_>, queue: &Queue) {
        let (rq, addr, is_owner) = {
            let mut inner = self.inner.lock();
            let rq = inner.state.start();
            (rq, inner.addr, inner.current_is_owner())
        };
        let Some(rq) = rq else {
            return cmd.done(UBLK_IO_RES_ABORT, cx.flags());
        };

        // The work of a task that is exiting is done by somebody else.
        if cx.cancelled() || !is_owner {
            self.inner.lock().state.give_up();
            self.fail(rq);
            return cmd.done(UBLK_IO_RES_ABORT, cx.flags());
        }

        let mut bytes = rq.bytes();
        if self.copies && rq.op() == Op::Write && rq.has_data() {
            let user = UserPtr::from_addr(addr as usize);
            bytes = rq.copy_to_user(0, user, bytes as usize) as u32;
            if bytes == 0 {
                // Perhaps there was no memory: try again a little later.
                self.inner.lock().state.put_back(cmd);
                if let Some(rq) = Request::into_unique_or_drop(rq) {
                    rq.requeue_delayed(RETRY_MSECS);
                }
                return;
            }
        }
        queue.describe(&rq, addr, bytes);
        self.inner.lock().state.own(rq);
        cmd.done(UBLK_IO_RES_OK as i32, cx.flags());
    }

    /// Takes back the request that the server worked on, with its result, and the next command.
    ///
    /// The ring of the command must be locked. Nothing changes when the command is refused:
    /// - [`EINVAL`]: the current task did not fetch this slot, or `addr` is wrong.
    /// - [`EBUSY`]: the server does not have a request from this slot.
    pub(crate) fn commit<'a>(
        &self,
        cmd: IssuedCmd<'a, IoCommands>,
        data: CmdData,
        addr: u64,
        result: i32,
    ) -> Outcome<'a> {
        let mut inner = self.inner.lock();
        if let Err(e) = self.check_commit(&inner, addr) {
            return cmd.complete(Err(e));
        }
        let (queued, outcome) = cmd.queue_cancelable(data);
        inner.addr = addr;
        // From here on the command may be canceled, but the tag is in use until the request ends.
        let rq = inner.state.commit(queued);
        drop(inner);

        if let Some(rq) = rq {
            self.result
                .store(self.take_data(&rq, addr, result), Relaxed);
            finish(rq);
        }
        outcome
    }

    fn check_commit(&self, inner: &Inner, addr: u64) -> Result {
        if !inner.current_is_owner() {
            return Err(EINVAL);
        }
        if inner.state.owned().is_none() {
            return Err(EBUSY);
        }
        self.check_addr(addr)
    }

    /// In copy mode, takes the data of a read from the server. Returns the result of the request,
    /// which is less than `result` if not all of the data could be had.
    fn take_data(&self, rq: &Request<Disk>, addr: u64, result: i32) -> i32 {
        if !self.copies || result <= 0 || rq.op() != Op::Read || !rq.has_data() {
            return result;
        }
        let user = UserPtr::from_addr(addr as usize);
        match rq.copy_from_user(0, user, result as usize) {
            0 => EIO.to_errno(),
            copied => result.min(copied as i32),
        }
    }

    /// Another reference to the request that the server works on, to be given up with [`finish`].
    ///
    /// Fails with [`EINVAL`] if the server does not have one, or if it carries no data.
    pub(crate) fn owned_data(&self) -> Result<Rq> {
        let inner = self.inner.lock();
        match inner.state.owned() {
            Some(rq) if rq.has_data() => Ok(rq.clone()),
            _ => Err(EINVAL),
        }
    }

    /// Takes the command out if it is waiting. No further request is accepted.
    pub(crate) fn cancel(&self) -> Option<Cmd> {
        self.inner.lock().state.cancel()
    }

    /// Ends the request that the server will not work on any more, with an error.
    pub(crate) fn abort(&self) {
        let rq = self.inner.lock().state.abort();
        if let Some(rq) = rq {
            self.fail(rq);
        }
    }

    /// Makes the slot ready for the next server. The last one must have closed its file and its
    /// requests must be aborted.
    pub(crate) fn reset(&self) {
        let (state, task) = {
            let mut inner = self.inner.lock();
            inner.addr = 0;
            (inner.state.reset(), inner.task.take())
        };
        // Outside of the lock. There is no command: each of them holds the file.
        drop((state, task));
    }

    fn fail(&self, rq: Rq) {
        self.result.store(EIO.to_errno(), Relaxed);
        finish(rq);
    }

    /// How a request that had this slot is to end.
    fn ending(&self, rq: &OwnedRequest<Disk>) -> Ending {
        // Written before the slot's reference was given up, which `rq` was made after.
        let result = self.result.load(Relaxed);
        Ending::new(rq.op(), rq.has_data() && self.copies, result)
    }
}

/// Gives up a reference to a request that was dispatched. The last one ends the request, with the
/// result in its slot.
///
/// Task context; no lock of the driver may be held.
pub(crate) fn finish(rq: Rq) {
    let Some(rq) = Request::into_unique_or_drop(rq) else {
        return;
    };
    let ending = match rq.queue_data().slot(rq.hw_queue(), rq.tag()) {
        Some(slot) => slot.ending(&rq),
        None => Ending::Whole(Err(EIO)),
    };
    match ending {
        Ending::Whole(Ok(())) => rq.end(BlkStatus::OK),
        Ending::Whole(Err(e)) => rq.end(BlkStatus::from_errno(e)),
        Ending::Part(bytes) => rq.end_partial(bytes),
    }
}

/// How a request ends.
#[derive(Debug, PartialEq)]
enum Ending {
    /// All of it, with this status.
    Whole(Result),
    /// Only the first bytes; the block layer asks for the rest again.
    Part(u32),
}

impl Ending {
    /// Decides by the operation, whether its data was copied through the server, and the result.
    fn new(op: Op, copied: bool, result: i32) -> Self {
        match (op, result) {
            (Op::Read, 0) => Self::Whole(Err(EIO)),
            (_, ..0) => Self::Whole(Err(Error::from_errno(result.max(-MAX_ERRNO)))),
            (Op::Read, 1..) if copied => Self::Part(result as u32),
            (_, 0..) => Self::Whole(Ok(())),
        }
    }
}

#[kunit_tests(ublk_rs_io)]
mod tests {
    use super::*;

    type Test = State<&'static str, u32>;

    #[test]
    fn one_request() {
        let mut state = Test::Idle;
        assert_eq!(state.dispatch(1), Err(1));
        state.fetch("fetch");
        assert_eq!(state.dispatch(1), Ok("fetch"));
        assert_eq!(state.dispatch(2), Err(2));
        assert!(state.owned().is_none());
        assert_eq!(state.start(), Some(1));
        assert_eq!(state.start(), None);
        state.own(1);
        assert_eq!(state.owned(), Some(&1));
        assert_eq!(state.commit("commit"), Some(1));
        assert_eq!(state.dispatch(3), Ok("commit"));
    }

    #[test]
    fn cancel_takes_waiting_command_only() {
        let mut state = Test::Active("fetch");
        assert_eq!(state.cancel(), Some("fetch"));
        assert_eq!(state.cancel(), None);
        assert_eq!(state.dispatch(1), Err(1));
        assert!(!state.is_idle());
        for mut state in [
            Test::Dispatching(1),
            Test::Starting,
            Test::Owned(1),
            Test::Idle,
        ] {
            assert_eq!(state.cancel(), None);
            assert!(!matches!(state, Test::Canceled));
        }
    }

    #[test]
    fn abort_takes_owned_request_only() {
        let mut state = Test::Owned(4);
        assert_eq!(state.abort(), Some(4));
        assert_eq!(state.abort(), None);
        let mut state = Test::Active("cmd");
        assert_eq!(state.abort(), None);
        assert_eq!(state.cancel(), Some("cmd"));
        state.reset();
        assert!(state.is_idle());
    }

    #[test]
    fn start_can_fail() {
        let mut state = Test::Dispatching(1);
        assert_eq!(state.start(), Some(1));
        state.put_back("cmd");
        assert_eq!(state.dispatch(1), Ok("cmd"));
        assert_eq!(state.start(), Some(1));
        state.give_up();
        assert_eq!(state.dispatch(2), Err(2));
    }

    #[test]
    fn endings() {
        let ok = Ending::Whole(Ok(()));
        assert_eq!(Ending::new(Op::Read, true, 512), Ending::Part(512));
        assert_eq!(Ending::new(Op::Read, false, 512), ok);
        assert_eq!(Ending::new(Op::Read, false, 0), Ending::Whole(Err(EIO)));
        assert_eq!(Ending::new(Op::Write, true, 512), ok);
        assert_eq!(Ending::new(Op::Write, true, 0), ok);
        assert_eq!(Ending::new(Op::Flush, false, 0), ok);
        assert_eq!(
            Ending::new(Op::Write, true, ENOSPC.to_errno()),
            Ending::Whole(Err(ENOSPC))
        );
    }
}
