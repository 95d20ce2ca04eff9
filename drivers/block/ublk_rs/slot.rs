// SPDX-License-Identifier: GPL-2.0

//! The place of one tag of one queue, which has one I/O at a time, from the first command to the
//! last request.
//!
//! It holds either the server's command, which waits for a request, or the request that the server
//! works on: see [`Stage`]. [`handover`] is how the server gets a request, [`commit`] how it gives
//! it back.
//!
//! The slot's lock guards that; it is a leaf, nothing is called under it but `queue_cancelable()`
//! of io_uring, which takes no lock in that context, the look-up of shared memory, and what writes
//! the description of a request.
//! A request in any other stage than Active is refused, so a canceled command needs no flags
//! elsewhere and nobody has to stop the queue.

mod commit;
mod handover;
mod lend;
pub(crate) mod shared;

use crate::{
    batch_queue::{
        BatchQueue,
        QueuedTag,
        Tell,
        Teller,
        Tells, //
    },
    data_mode::{
        AutoReg,
        DataMode, //
    },
    ending::{
        self,
        Endings,
        Verdict, //
    },
    policy::{
        Gate,
        Recovery, //
    },
    shmem::{
        Found,
        Hold, //
    },
    stage::{
        Dispatched,
        Stage, //
    },
    types::{
        CmdData,
        Command,
        Disk,
        FetchCommand,
        Generation,
        IoCommands,
        RequestRef, //
    }, //
};
use kernel::{
    block::mq::{
        Op,
        Request, //
    },
    io_uring::{
        IssuedCmd,
        Outcome,
        PartMemory,
        RingId, //
    },
    prelude::*,
    sync::{
        aref::ARef,
        new_spinlock,
        SpinLock, //
    },
    task::Task,
    time::Delta, //
};

/// What the lock of a slot guards.
struct SlotState {
    stage: Stage<Command, RequestRef>,
    /// The task that fetched the slot, and the only one that may commit.
    task: Option<ARef<Task>>,
    /// The server's buffer in copy mode, else 0.
    addr: u64,
    /// Where to register the data of the next request.
    auto_reg: Option<AutoReg>,
    /// The ring on which the data of the server's request was registered, or is about to be.
    registered_on: Option<RingId>,
    /// How many bytes of the server's request it was told of, if the driver copies: fewer than it
    /// has if the data of a write could not be copied as a whole.
    given: u32,
    /// Keeps the shared memory in which the data of the server's request is. Only while the stage
    /// has a request: who takes that out takes this out as well, and drops it without the lock.
    hold: Option<Hold>,
    /// With `UBLK_F_BATCH_IO`, for the lease of a request that is committed in a batch. Not here
    /// while there is one.
    memory: Option<PartMemory>,
    /// That of the request that the server has, or had last.
    generation: Generation,
}

impl SlotState {
    /// The server gets the request. It is told of `bytes` bytes of it; its data is registered on
    /// that ring, or is about to be, if on any. If it is in shared memory, then `hold` was set
    /// before.
    // By itself the compiler does not, as there are several callers.
    #[inline(always)]
    fn share(&mut self, rq: RequestRef, bytes: u32, registered_on: Option<RingId>) {
        self.given = bytes;
        self.registered_on = registered_on;
        self.generation = self.generation.next();
        self.stage.hand_to_server(rq);
    }

    /// Keeps the shared memory in which the data of the request is that the server gets.
    #[inline(always)]
    fn hold(&mut self, found: Found) {
        debug_assert!(self.hold.is_none());
        self.hold = Some(found.keep());
    }

    // By itself the compiler does not, as there are several callers.
    #[inline(always)]
    fn current_is_owner(&self) -> bool {
        self.task
            .as_ref()
            .is_some_and(|task| task.as_ptr() == Task::current_raw())
    }

    /// Whether the current task may send a command about the request of this slot, or else why
    /// not: [`EINVAL`] if it did not fetch the slot, [`EBUSY`] if the server has no request.
    fn check_server(&self) -> Result {
        if !self.current_is_owner() {
            return Err(EINVAL);
        }
        if self.stage.owned().is_none() && !self.stage.is_asked() {
            return Err(EBUSY);
        }
        Ok(())
    }
}

/// Whether a request may wait for another server.
pub(crate) fn may_wait(rq: &Request<Disk>) -> bool {
    rq.driver_data().is_none_or(|report| report.may_wait)
}

/// When it is looked who is still served.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum When {
    /// A request has waited for as long as the block layer thinks that one may.
    Overdue,
    /// Somebody waits for requests, however young they are.
    AtOnce,
}

/// What becomes of a request that has waited for so long.
pub(crate) enum Overdue {
    /// Its server may still answer it.
    Served,
    /// Nobody will: see [`Slot::abort_if_deserted`].
    Deserted,
    /// The slot of a server that is dying has given it up already, it ends with its last reference.
    GivenUp,
}

/// A request that its server will never commit, taken out of its slot.
struct Deserted {
    rq: RequestRef,
    hold: Option<Hold>,
    /// Whether another server is to have it.
    requeue: bool,
}

/// What can be seen of a slot at one moment.
pub(crate) struct Snapshot {
    pub(crate) stage: &'static str,
    pub(crate) generation: Generation,
    /// The task that fetched the slot.
    pub(crate) task: Option<ARef<Task>>,
    pub(crate) request: Option<RequestSnapshot>,
}

/// What can be seen of the request of a slot.
pub(crate) struct RequestSnapshot {
    pub(crate) op: Op,
    pub(crate) sector: u64,
    pub(crate) bytes: u32,
    pub(crate) age: Option<Delta>,
}

/// What has to follow when a request was given to a slot.
pub(crate) enum ToSend<'a> {
    /// This command has to be sent to its task.
    Command(Command),
    /// This one as well, to tell the server of all that is in its queue.
    Telling(FetchCommand),
    /// This queue has to be kicked.
    Kick(&'a BatchQueue),
    Nothing,
}

impl ToSend<'_> {
    /// Does what has to follow.
    #[inline(always)]
    pub(crate) fn send(self) {
        match self {
            Self::Command(cmd) => cmd.complete_in_task(),
            Self::Telling(cmd) => cmd.send(),
            Self::Kick(queue) => queue.kick(),
            Self::Nothing => {}
        }
    }
}

/// The place of one tag of one queue. Slots do not share a cache line.
#[pin_data]
#[repr(align(64))]
pub(crate) struct Slot {
    #[pin]
    state: SpinLock<SlotState>,
    /// How its requests end.
    endings: Endings,
    /// How data moves.
    data: DataMode,
    /// What becomes of a request when the server dies.
    recovery: Recovery,
    /// With `UBLK_F_BATCH_IO`, how the server is told.
    shared: Option<QueuedTag>,
}

impl Slot {
    /// Creates an idle slot.
    pub(crate) fn new(
        data: DataMode,
        recovery: Recovery,
        shared: Option<QueuedTag>,
    ) -> impl PinInit<Self> {
        pin_init!(Self {
            state <- new_spinlock!(
                SlotState {
                    stage: Stage::Idle,
                    task: None,
                    addr: 0,
                    auto_reg: None,
                    registered_on: None,
                    given: 0,
                    hold: None,
                    memory: None,
                    generation: Generation::default(),
                },
                "ublk_rs::Slot::state"
            ),
            endings: Endings::new(data.copies),
            data,
            recovery,
            shared,
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
        let mut state = self.state.lock();
        if !state.stage.is_idle() {
            return (cmd.complete(Err(EINVAL)), false);
        }
        let (queued, outcome) = cmd.queue_cancelable(data);
        state.task = Some(ARef::from(&**current!()));
        state.addr = auto_reg.map_or(addr, AutoReg::addr);
        state.auto_reg = auto_reg;
        state.stage.fetch(queued);
        (outcome, true)
    }

    /// Gives a request of the block layer to the waiting command, or has the server told of it by
    /// another one. If there is none then the request waits for the next server, or, without one to
    /// come, ends with an error. `gate` is what let it pass; `tell` is for
    /// [`BatchQueue::push`].
    // By itself the compiler does not, as there are two callers: 20 instructions of a request.
    #[inline(always)]
    pub(crate) fn dispatch(&self, rq: RequestRef, gate: Gate, tell: Tell) -> ToSend<'_> {
        let dispatched = self.state.lock().stage.dispatch(rq);
        match dispatched {
            Dispatched::Send(cmd) => ToSend::Command(cmd),
            Dispatched::Enqueue => self.enqueue(gate, tell),
            Dispatched::Refused(rq) => {
                self.turn_away(rq, gate);
                ToSend::Nothing
            }
        }
    }

    /// Has a request wait for the next server, or ends it with an error.
    fn turn_away(&self, rq: RequestRef, gate: Gate) {
        if self.recovery.holds && gate == Gate::Open && may_wait(&rq) {
            ending::hold(rq);
        } else {
            ending::refuse(rq);
        }
    }

    /// Why a command with an unknown number is refused.
    pub(crate) fn refusal(&self) -> Error {
        self.state.lock().check_server().err().unwrap_or(EINVAL)
    }

    /// Whether the current task may register the data of the server's request: any task may, but
    /// the one that fetched the slot is told if there is none, by [`EBUSY`].
    pub(crate) fn check_registrant(&self) -> Result {
        let state = self.state.lock();
        if state.current_is_owner() {
            state.check_server()?;
        }
        Ok(())
    }

    /// Whether secondaries that moved `result` bytes of `bytes`, or failed so, were interrupted: by
    /// the server, or because it dies.
    // By itself the compiler does not, as there are several callers.
    #[inline(always)]
    fn broke_off(&self, state: &SlotState, result: i32, bytes: u32) -> bool {
        if result >= bytes as i32 {
            return false;
        }
        result == ECANCELED.to_errno() || result == EINTR.to_errno() || self.has_no_server(state)
    }

    /// How the server of this slot moves data.
    pub(crate) fn data(&self) -> DataMode {
        self.data
    }

    /// How the requests of this slot end.
    pub(crate) fn endings(&self) -> &Endings {
        &self.endings
    }

    /// Another reference to the request that the server works on, to be given up with
    /// [`ending::finish`].
    ///
    /// Fails with [`EINVAL`] if the server does not have one, or if it carries no data.
    pub(crate) fn owned_data(&self) -> Result<RequestRef> {
        let state = self.state.lock();
        match state.stage.owned() {
            Some(rq) if rq.has_data() => Ok(rq.clone()),
            _ => Err(EINVAL),
        }
    }

    /// How many stages a [`Snapshot`] knows.
    pub(crate) const STAGES: usize = Stage::<Command, RequestRef>::COUNT;

    /// What the slot is doing.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let state = self.state.lock();
        let (stage, rq) = state.stage.describe();
        Snapshot {
            stage,
            generation: state.generation,
            task: state.task.clone(),
            request: rq.map(|rq| RequestSnapshot {
                op: rq.op(),
                sector: rq.sector(),
                bytes: rq.bytes(),
                age: rq.age(),
            }),
        }
    }

    /// Takes the command out if it is waiting. No further request is accepted.
    pub(crate) fn cancel(&self) -> Option<Command> {
        self.state.lock().stage.cancel()
    }

    /// Ends the request that the server will not work on any more, with an error, or has it sent
    /// to the next server.
    pub(crate) fn abort(&self) {
        let (rq, hold) = {
            let mut state = self.state.lock();
            (state.stage.abort(), self.release(&mut state))
        };
        // Who sees the request end finds the index free.
        drop(hold);
        if let Some(rq) = rq {
            self.requeue_or_fail(rq, self.recovery.reissues);
        }
    }

    /// As [`Self::abort`], but only if the task that fetched the slot is dying, or the process that
    /// did so for all of its tasks, so that nobody will ever commit. Also a request of which nobody
    /// will tell the server; that is held for the next one, if there may be one.
    ///
    /// A dying task may wait for just this request before it closes its files, for instance if it
    /// is the last one that uses a mount of the disk.
    pub(crate) fn abort_if_deserted(&self, when: When) {
        if let Some(deserted) = self.take_deserted(when) {
            drop(deserted.hold);
            self.requeue_or_fail(deserted.rq, deserted.requeue);
        }
    }

    /// Accepts no further request, if it would be one for [`Self::abort_if_deserted`]. The command
    /// is left where it is: it ends with its ring, or by [`Self::cancel`].
    ///
    /// One that the server would be told of by another slot's command is left alone if such a
    /// command may still come: any process may send it.
    pub(crate) fn refuse_if_deserted(&self) {
        let teller = self.teller();
        let mut state = self.state.lock();
        if self.has_no_server(&state) && matches!(teller, None | Some(Teller::Dying)) {
            state.stage.refuse();
        }
    }

    /// Takes out what keeps the shared memory of a request that leaves the slot, to be dropped when
    /// the lock is not held any more.
    #[inline]
    fn release(&self, state: &mut SlotState) -> Option<Hold> {
        if self.data.shares {
            state.hold.take()
        } else {
            None
        }
    }

    /// Ends a request for zones that the server has or is about to get, with an error. The server
    /// can not use the slot any more.
    pub(crate) fn abort_report(&self) {
        let rq = {
            let mut state = self.state.lock();
            state.stage.take_out(|rq| rq.op() == Op::DriverIn)
        };
        if let Some(rq) = rq {
            self.requeue_or_fail(rq, false);
        }
    }

    /// Gives a request back to the block layer, to be queued again or with an error.
    #[cold]
    fn requeue_or_fail(&self, rq: RequestRef, requeue: bool) {
        let verdict = if requeue && may_wait(&rq) {
            Verdict::Requeue
        } else {
            Verdict::error(EIO)
        };
        self.endings.finish(rq, verdict);
    }

    /// The task that serves the slot.
    pub(crate) fn server(&self) -> Option<ARef<Task>> {
        self.state.lock().task.clone()
    }

    /// Whether a command waits for a request.
    pub(crate) fn is_waiting(&self) -> bool {
        self.state.lock().stage.is_active()
    }

    /// Whether the server has neither a request nor a command here.
    pub(crate) fn is_abandoned(&self) -> bool {
        let state = self.state.lock();
        state.stage.is_idle() || state.stage.is_given_up()
    }

    /// Makes the slot ready for the next server. The last one must have closed its file and its
    /// requests must be aborted.
    pub(crate) fn reset(&self) {
        let (stage, task, hold) = {
            let mut state = self.state.lock();
            state.addr = 0;
            state.auto_reg = None;
            state.registered_on = None;
            (state.stage.reset(), state.task.take(), state.hold.take())
        };
        // Outside of the lock. There is no command: each of them holds the file.
        drop((stage, task, hold));
    }
}
