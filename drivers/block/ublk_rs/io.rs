// SPDX-License-Identifier: GPL-2.0

//! The life of one I/O: what happens to a slot, from the first command to the last request.
//!
//! Each tag of each queue has a slot, with a [`State`]. It holds either the server's command, which
//! waits for a request, or the request that the server works on.
//!
//! The slot's lock guards the state; it is a leaf, nothing is called under it but
//! `queue_cancelable()` of io_uring, which takes no lock in that context, and what writes the
//! description of a request. A request in any other state than Active is refused, so a canceled
//! command needs no flags elsewhere and nobody has to stop the queue.
//!
//! # The end of a request
//!
//! A request has one reference from its slot, one from each lease, and one from each `pread()` or
//! `pwrite()` that is under way. Whoever gives up the last one ends it. The result is kept in the
//! slot: it is written before the slot gives up its reference, and no other request can get the tag
//! before this one has ended.

use crate::{
    buffer::{
        AutoReg,
        DataMode, //
    },
    io_cmd::{
        CmdData,
        IoCommands, //
    },
    queue::{
        Disk,
        Queue, //
    },
    recovery::Recovery,
    state::State,
    uapi::{
        UBLK_IO_F_NEED_REG_BUF,
        UBLK_IO_RES_ABORT,
        UBLK_IO_RES_NEED_GET_DATA,
        UBLK_IO_RES_OK, //
    }, //
};
use kernel::{
    block::mq::{
        BlkStatus,
        Op,
        OwnedRequest,
        Request, //
    },
    io_uring::{
        IssueFlags,
        IssuedCmd,
        Outcome,
        QueuedCmd,
        RingId,
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

/// In the place of a result: the request is to be queued again. No server can send it.
const AGAIN: i32 = i32::MIN;

/// A command of the server, waiting for a request.
pub(crate) type Cmd = QueuedCmd<IoCommands>;

/// A reference to a request.
pub(crate) type Rq = ARef<Request<Disk>>;

/// What the lock of a slot guards.
struct Inner {
    state: State<Cmd, Rq>,
    /// The task that fetched the slot, and the only one that may commit.
    task: Option<ARef<Task>>,
    /// The server's buffer in copy mode, else 0.
    addr: u64,
    /// Where to register the data of the next request.
    auto_reg: Option<AutoReg>,
    /// The ring on which the data of the server's request was registered.
    registered_on: Option<RingId>,
    /// Counts the requests that the server got.
    turn: u32,
}

impl Inner {
    /// The server gets the request, whose data is registered on that ring, if on any.
    fn own(&mut self, rq: Rq, registered_on: Option<RingId>) {
        self.registered_on = registered_on;
        self.turn = self.turn.wrapping_add(1);
        self.state.own(rq);
    }

    fn current_is_owner(&self) -> bool {
        self.task
            .as_ref()
            .is_some_and(|task| task.as_ptr() == Task::current_raw())
    }

    /// Whether secondaries that moved `result` bytes of `bytes`, or failed so, were interrupted: by
    /// the server, or because it dies.
    fn broke_off(&self, result: i32, bytes: u32) -> bool {
        result == ECANCELED.to_errno()
            || result == EINTR.to_errno()
            || (result < bytes as i32 && self.task.as_ref().is_some_and(|task| task.is_dying()))
    }

    /// Whether the current task may send a command about the request of this slot, or else why
    /// not: [`EINVAL`] if it did not fetch the slot, [`EBUSY`] if the server has no request.
    fn check_server(&self) -> Result {
        if !self.current_is_owner() {
            return Err(EINVAL);
        }
        if self.state.owned().is_none() && !self.state.is_asked() {
            return Err(EBUSY);
        }
        Ok(())
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
    /// How data moves.
    data: DataMode,
    /// What becomes of a request when the server dies.
    recovery: Recovery,
}

impl Slot {
    /// Creates an idle slot.
    pub(crate) fn new(data: DataMode, recovery: Recovery) -> impl PinInit<Self> {
        pin_init!(Self {
            inner <- new_spinlock!(
                Inner {
                    state: State::Idle,
                    task: None,
                    addr: 0,
                    auto_reg: None,
                    registered_on: None,
                    turn: 0,
                },
                "ublk_rs::Slot::inner"
            ),
            result: Atomic::<i32>::new(0),
            data,
            recovery,
        })
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
        auto_reg: Option<AutoReg>,
    ) -> (Outcome<'a>, bool) {
        let mut inner = self.inner.lock();
        if !inner.state.is_idle() {
            return (cmd.complete(Err(EINVAL)), false);
        }
        let (queued, outcome) = cmd.queue_cancelable(data);
        inner.task = Some(ARef::from(&**current!()));
        inner.addr = auto_reg.map_or(addr, AutoReg::addr);
        inner.auto_reg = auto_reg;
        inner.state.fetch(queued);
        (outcome, true)
    }

    /// Gives a request of the block layer to the waiting command, which is returned: it has to be
    /// sent to its task. If there is none then the request waits for the next server, or, without
    /// one to come, ends with an error.
    pub(crate) fn dispatch(&self, rq: Rq) -> Option<Cmd> {
        let dispatched = self.inner.lock().state.dispatch(rq);
        match dispatched {
            Ok(cmd) => return Some(cmd),
            Err(rq) if self.recovery.holds => hold(rq),
            Err(rq) => refuse(rq),
        }
        None
    }

    /// Hands a dispatched request to the server, in the task of the command.
    // See `IoCommands::task_work()`.
    #[inline(always)]
    pub(crate) fn start(&self, cmd: Cmd, cx: TaskContext<'_>, queue: &Queue) {
        let mut inner = self.inner.lock();
        let Some(rq) = inner.state.start() else {
            drop(inner);
            return cmd.done(UBLK_IO_RES_ABORT, cx.flags());
        };
        let (addr, auto_reg, is_owner) = (inner.addr, inner.auto_reg, inner.current_is_owner());
        let can_serve = is_owner && !cx.cancelled();

        if can_serve && !self.data.copies && !self.data.registers {
            // Nothing that could sleep or fail.
            queue.describe(&rq, addr, rq.bytes(), 0);
            inner.own(rq, None);
            drop(inner);
            return cmd.done(UBLK_IO_RES_OK as i32, cx.flags());
        }
        drop(inner);

        // The work of a task that is exiting is done by somebody else.
        if !can_serve {
            self.inner.lock().state.give_up();
            // The server has not seen it, so it can be held in any case.
            self.give_back(rq, self.recovery.holds);
            return cmd.done(UBLK_IO_RES_ABORT, cx.flags());
        }

        let is_write = rq.op() == Op::Write && rq.has_data();
        if self.data.asks && is_write {
            queue.describe(&rq, addr, rq.bytes(), 0);
            self.inner.lock().state.ask(rq);
            return cmd.done(UBLK_IO_RES_NEED_GET_DATA as i32, cx.flags());
        }
        let bytes = if self.data.copies && is_write {
            self.give_data(&rq, addr)
        } else {
            Some(rq.bytes())
        };
        let Some(bytes) = bytes else {
            self.inner.lock().state.put_back(cmd);
            return retry(rq);
        };
        let registered = match auto_reg {
            Some(auto_reg) if rq.has_data() => register(&rq, &cmd, auto_reg, cx.flags()),
            _ => Registered::No,
        };
        let (flags, registered_on) = match registered {
            Registered::No => (0, None),
            Registered::On(ring) => (0, Some(ring)),
            Registered::ServerHasTo => (UBLK_IO_F_NEED_REG_BUF, None),
            Registered::Failed => {
                self.inner.lock().state.put_back(cmd);
                return self.fail(rq);
            }
        };
        queue.describe(&rq, addr, bytes, flags);
        self.inner.lock().own(rq, registered_on);
        cmd.done(UBLK_IO_RES_OK as i32, cx.flags());
    }

    /// Copies the data of a write to the server. Returns how much of it: not nothing.
    fn give_data(&self, rq: &Request<Disk>, addr: u64) -> Option<u32> {
        let user = UserPtr::from_addr(addr as usize);
        match rq.copy_to_user(0, user, rq.bytes() as usize) {
            0 => None,
            copied => Some(copied as u32),
        }
    }

    /// The server's answer to what it was asked: its buffer for the data of a write, which it gets.
    ///
    /// The ring of the command must be locked. Returns whether the command waits again, because no
    /// data could be copied. Nothing changes when the command is refused:
    /// - [`EINVAL`]: the current task did not fetch this slot, or it was not asked.
    /// - [`EBUSY`]: the server does not have a request from this slot.
    pub(crate) fn get_data<'a>(
        &self,
        cmd: IssuedCmd<'a, IoCommands>,
        data: CmdData,
        addr: u64,
        queue: &Queue,
    ) -> (Outcome<'a>, bool) {
        let answered = {
            let mut inner = self.inner.lock();
            inner
                .check_server()
                .and_then(|()| inner.state.answer().ok_or(EINVAL))
                .inspect(|_| inner.addr = addr)
        };
        let rq = match answered {
            Ok(rq) => rq,
            Err(e) => return (cmd.complete(Err(e)), false),
        };
        match self.give_data(&rq, addr) {
            Some(bytes) => {
                queue.describe(&rq, addr, bytes, 0);
                self.inner.lock().own(rq, None);
                (cmd.complete(Ok(UBLK_IO_RES_OK as i32)), false)
            }
            None => {
                let mut inner = self.inner.lock();
                let (queued, outcome) = cmd.queue_cancelable(data);
                inner.state.put_back(queued);
                drop(inner);
                retry(rq);
                (outcome, true)
            }
        }
    }

    /// Takes back the request that the server worked on, with its result, and the next command.
    ///
    /// The ring of the command must be locked. Nothing changes when the command is refused:
    /// - [`EINVAL`]: the current task did not fetch this slot, `addr` or `auto_reg` is wrong, or
    ///   the server was asked something else.
    /// - [`EBUSY`]: the server does not have a request from this slot.
    pub(crate) fn commit<'a>(
        &self,
        cmd: IssuedCmd<'a, IoCommands>,
        data: CmdData,
        addr: u64,
        result: i32,
        flags: IssueFlags<'_>,
    ) -> (Outcome<'a>, bool) {
        let mut inner = self.inner.lock();
        let checked = self
            .check_commit(&inner, addr)
            .and_then(|()| self.data.auto_reg(|| cmd.sqe_addr()));
        let next = match checked {
            Ok(next) => next,
            Err(e) => {
                drop(inner);
                return (cmd.complete(Err(e)), false);
            }
        };
        if let (Some(auto_reg), Some(ring)) = (inner.auto_reg, inner.registered_on.take()) {
            // On another ring it is the server that has to unregister it.
            if ring == cmd.as_cmd().ring() {
                drop(inner);
                // If it is not there any more, the server was faster.
                let _ = cmd.as_cmd().unregister_buffer(auto_reg.index.into(), flags);
                inner = self.inner.lock();
            }
        }

        let (queued, outcome) = cmd.queue_cancelable(data);
        inner.addr = next.map_or(addr, AutoReg::addr);
        inner.auto_reg = next;
        // From here on the command may be canceled, but the tag is in use until the request ends.
        // Nobody has taken the request meanwhile: that takes this task, or the end of its file.
        let rq = inner.state.commit(queued);
        drop(inner);

        if let Some(rq) = rq {
            let result = result.max(-MAX_ERRNO);
            self.result
                .store(self.take_data(&rq, addr, result), Relaxed);
            self.finish(rq);
        }
        (outcome, true)
    }

    fn check_commit(&self, inner: &Inner, addr: u64) -> Result {
        inner.check_server()?;
        let rq = inner.state.owned().ok_or(EINVAL)?;
        self.data.check_commit(addr, rq.op())
    }

    /// Why a command with an unknown number is refused.
    pub(crate) fn refusal(&self) -> Error {
        self.inner.lock().check_server().err().unwrap_or(EINVAL)
    }

    /// Whether the current task may register the data of the server's request: any task may, but
    /// the one that fetched the slot is told if there is none, by [`EBUSY`].
    pub(crate) fn check_registrant(&self) -> Result {
        let inner = self.inner.lock();
        if inner.current_is_owner() {
            inner.check_server()?;
        }
        Ok(())
    }

    /// How the server of this slot moves data.
    pub(crate) fn data(&self) -> DataMode {
        self.data
    }

    /// In copy mode, takes the data of a read from the server. Returns the result of the request,
    /// which is less than `result` if not all of the data could be had.
    fn take_data(&self, rq: &Request<Disk>, addr: u64, result: i32) -> i32 {
        if !self.data.copies || result <= 0 || rq.op() != Op::Read || !rq.has_data() {
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

    /// Another reference to the request, for a command that is going to commit it, which
    /// [`Self::commit_moved`] then does if told the number that is returned as well. The request
    /// may carry no data.
    ///
    /// Fails as a commit does.
    #[inline]
    pub(crate) fn owned_to_commit(&self) -> Result<(Rq, u32)> {
        let inner = self.inner.lock();
        self.check_commit(&inner, 0)?;
        match inner.state.owned() {
            Some(rq) if !self.data.registers => Ok((rq.clone(), inner.turn)),
            _ => Err(EINVAL),
        }
    }

    /// Commits the request of turn `turn`, whose data secondaries moved: `result` is the number of
    /// bytes or an error. The command waits for the next request.
    ///
    /// Returns whether it does. Else the command fails:
    /// - with [`EINVAL`] if the server has committed the request otherwise meanwhile;
    /// - with `UBLK_IO_RES_ABORT` if the slot is lost;
    /// - with [`ECANCELED`] if the secondaries were canceled, or broke off because the server dies.
    ///   The request still belongs to the server, and is dealt with as all others when it is gone.
    #[inline]
    pub(crate) fn commit_moved(
        &self,
        cmd: Cmd,
        turn: u32,
        result: i32,
        flags: IssueFlags<'_>,
    ) -> bool {
        let mut inner = self.inner.lock();
        let refusal = match inner.state.owned() {
            Some(rq) if inner.turn == turn => inner
                .broke_off(result, rq.bytes())
                .then_some(ECANCELED.to_errno()),
            _ if inner.state.is_canceled() => Some(UBLK_IO_RES_ABORT),
            _ => Some(EINVAL.to_errno()),
        };
        if let Some(res) = refusal {
            drop(inner);
            cmd.done(res, flags);
            return false;
        }
        let rq = inner.state.commit(cmd);
        drop(inner);

        if let Some(rq) = rq {
            // What a secondary read too little of was zeroed, and it is the server's business to
            // have one for all of the data. But what a write is short of is lost.
            let lost = rq.op() == Op::Write && (0..rq.bytes() as i32).contains(&result);
            let result = if lost { EIO.to_errno() } else { result };
            self.result.store(result.max(-MAX_ERRNO), Relaxed);
            self.finish(rq);
        }
        true
    }

    /// Takes the command out if it is waiting. No further request is accepted.
    pub(crate) fn cancel(&self) -> Option<Cmd> {
        self.inner.lock().state.cancel()
    }

    /// Ends the request that the server will not work on any more, with an error, or has it sent
    /// to the next server.
    pub(crate) fn abort(&self) {
        let rq = self.inner.lock().state.abort();
        if let Some(rq) = rq {
            self.give_back(rq, self.recovery.reissues);
        }
    }

    /// Gives a request back to the block layer, to be queued again or with an error.
    fn give_back(&self, rq: Rq, again: bool) {
        if !again {
            return self.fail(rq);
        }
        self.result.store(AGAIN, Relaxed);
        self.finish(rq);
    }

    /// The task that serves the slot.
    pub(crate) fn server(&self) -> Option<ARef<Task>> {
        self.inner.lock().task.clone()
    }

    /// Whether a command waits for a request.
    pub(crate) fn is_waiting(&self) -> bool {
        self.inner.lock().state.is_active()
    }

    /// Whether the server has neither a request nor a command here.
    pub(crate) fn is_abandoned(&self) -> bool {
        let inner = self.inner.lock();
        inner.state.is_idle() || inner.state.is_canceled()
    }

    /// Makes the slot ready for the next server. The last one must have closed its file and its
    /// requests must be aborted.
    pub(crate) fn reset(&self) {
        let (state, task) = {
            let mut inner = self.inner.lock();
            inner.addr = 0;
            inner.auto_reg = None;
            inner.registered_on = None;
            (inner.state.reset(), inner.task.take())
        };
        // Outside of the lock. There is no command: each of them holds the file.
        drop((state, task));
    }

    fn fail(&self, rq: Rq) {
        self.result.store(EIO.to_errno(), Relaxed);
        self.finish(rq);
    }

    /// As the function [`finish`], for a request of this slot.
    #[inline]
    fn finish(&self, rq: Rq) {
        if let Some(rq) = Request::into_unique_or_drop(rq) {
            self.ending(&rq).apply(rq);
        }
    }

    /// How a request that had this slot is to end.
    fn ending(&self, rq: &OwnedRequest<Disk>) -> Ending {
        // Written before the slot's reference was given up, which `rq` was made after.
        let result = self.result.load(Relaxed);
        Ending::new(rq.op(), self.data.copies && rq.has_data(), result)
    }
}

/// What came of registering the data of a request.
enum Registered {
    /// There is nothing to register.
    No,
    On(RingId),
    /// It failed; the server is told, as it wished.
    ServerHasTo,
    Failed,
}

/// Registers the data of a request with the ring of the command that waited for it.
fn register(rq: &Rq, cmd: &Cmd, auto_reg: AutoReg, flags: IssueFlags<'_>) -> Registered {
    let cmd = cmd.as_cmd();

    match Request::register_buffer(rq.clone(), cmd, auto_reg.index.into(), flags) {
        Ok(()) => Registered::On(cmd.ring()),
        Err((_, rq)) => {
            // Not the last reference.
            finish(rq);
            if auto_reg.fallback {
                Registered::ServerHasTo
            } else {
                Registered::Failed
            }
        }
    }
}

/// Has the block layer keep a request until its list is kicked.
pub(crate) fn hold(rq: Rq) {
    if let Some(rq) = Request::into_unique_or_drop(rq) {
        rq.requeue(false);
    }
}

/// Ends a request that no server will see with an error.
pub(crate) fn refuse(rq: Rq) {
    if let Some(rq) = Request::into_unique_or_drop(rq) {
        rq.end(BlkStatus::IOERR);
    }
}

/// Has the block layer send a request again, a little later: perhaps there was no memory.
fn retry(rq: Rq) {
    if let Some(rq) = Request::into_unique_or_drop(rq) {
        rq.requeue_delayed(RETRY_MSECS);
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
    ending.apply(rq);
}

/// How a request ends.
#[derive(Debug, PartialEq)]
enum Ending {
    /// All of it, with this status.
    Whole(Result),
    /// Only the first bytes; the block layer asks for the rest again.
    Part(u32),
    /// Not at all: the next server gets it.
    Again,
}

impl Ending {
    /// Decides by the operation, whether its data was copied through the server, and the result.
    fn new(op: Op, copied: bool, result: i32) -> Self {
        match (op, result) {
            (_, AGAIN) => Self::Again,
            (Op::Read, 0) => Self::Whole(Err(EIO)),
            (_, ..0) => Self::Whole(Err(Error::from_errno(result))),
            (Op::Read, 1..) if copied => Self::Part(result as u32),
            (_, 0..) => Self::Whole(Ok(())),
        }
    }

    /// Gives the request back to the block layer.
    // By itself the compiler does not; it spares a request 10 instructions.
    #[inline(always)]
    fn apply(self, rq: OwnedRequest<Disk>) {
        match self {
            Self::Whole(Ok(())) => rq.end(BlkStatus::OK),
            Self::Whole(Err(e)) => rq.end(BlkStatus::from_errno(e)),
            Self::Part(bytes) => rq.end_partial(bytes),
            // At once: what is done with it then depends on what has become of the device.
            Self::Again => rq.requeue(true),
        }
    }
}

#[kunit_tests(ublk_rs_io)]
mod tests {
    use super::*;

    #[test]
    fn endings() {
        let ok = Ending::Whole(Ok(()));
        assert_eq!(Ending::new(Op::Read, true, 512), Ending::Part(512));
        assert_eq!(Ending::new(Op::Read, false, 512), ok);
        assert_eq!(Ending::new(Op::Read, false, 0), Ending::Whole(Err(EIO)));
        assert_eq!(Ending::new(Op::Write, true, 512), ok);
        assert_eq!(Ending::new(Op::Write, true, 0), ok);
        assert_eq!(Ending::new(Op::Flush, false, 0), ok);
        assert_eq!(Ending::new(Op::Write, true, AGAIN), Ending::Again);
        assert_eq!(
            Ending::new(Op::Write, true, ENOSPC.to_errno()),
            Ending::Whole(Err(ENOSPC))
        );
    }
}
