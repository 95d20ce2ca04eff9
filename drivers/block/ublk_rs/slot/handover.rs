// SPDX-License-Identifier: GPL-2.0

//! How a request gets to the server: described, with its data if the driver moves that, in the task
//! of the command that waited for it.

use super::{
    Slot,
    SlotState, //
};
use crate::{
    data_mode::{
        AutoReg,
        DataMode,
        Handover, //
    },
    descs::Descs,
    ending::{
        self,
        CopyRules, //
    },
    shmem::{
        Found,
        Shmem, //
    },
    types::{
        CmdData,
        Command,
        Disk,
        IoCommands,
        RequestRef, //
    },
    uapi::{
        UBLK_IO_F_NEED_REG_BUF,
        UBLK_IO_F_SHMEM_ZC,
        UBLK_IO_RES_ABORT,
        UBLK_IO_RES_NEED_GET_DATA,
        UBLK_IO_RES_OK, //
    }, //
};
use core::ptr;
use kernel::{
    block::mq::{
        Op,
        Request, //
    },
    io_uring::{
        CmdRef,
        IssueFlags,
        IssuedCmd,
        Outcome,
        RingId,
        TaskContext, //
    },
    prelude::*,
    sync::SpinLockGuard,
    uaccess::UserPtr, //
};

impl SlotState {
    /// The server gets a request whose data was found in shared memory. It does not sleep.
    // By itself the compiler does not, as there are two callers.
    #[inline(always)]
    pub(super) fn share_found(&mut self, rq: RequestRef, found: Found, descs: &Descs) {
        let bytes = rq.bytes();
        descs.describe(&rq, found.addr(), bytes, UBLK_IO_F_SHMEM_ZC);
        self.hold(found);
        self.share(rq, bytes, None);
    }

    /// Whether this is the request that the server has.
    pub(super) fn has(&self, rq: &RequestRef) -> bool {
        self.stage
            .owned()
            .is_some_and(|owned| ptr::eq(&**owned, &**rq))
    }

    /// The data of the server's request could not be registered. If there is any, the server is to
    /// register it by itself, if it wished so. Returns whether it gets the request all the same.
    pub(super) fn get_unregistered(
        &mut self,
        rq: &RequestRef,
        auto_reg: AutoReg,
        descs: &Descs,
    ) -> bool {
        self.registered_on = None;
        if !rq.has_data() {
            return true;
        }
        if auto_reg.fallback() {
            descs.describe(rq, self.addr, rq.bytes(), UBLK_IO_F_NEED_REG_BUF);
        }
        auto_reg.fallback()
    }
}

/// The server gets a request, whose data is registered with the ring of `cmd`, of which it is told
/// next. If that fails then the reference is returned which the table would have got.
///
/// It is the server's before its data is registered, so the slot is locked once: that spares it 20
/// instructions. Nobody but who calls this can tell the server, and a task that guesses gains
/// nothing: what it commits on this ring waits for the ring's lock, and then unregisters the data.
/// What it commits on another ring leaves the data registered, as it does at any time. The tag is
/// in use as long as the table's reference is there, so [`SlotState::has`] takes no other request
/// for this one.
// By itself the compiler does not, as there are two callers.
#[inline(always)]
pub(super) fn share_registered(
    mut state: SpinLockGuard<'_, SlotState>,
    rq: RequestRef,
    cmd: CmdRef<'_>,
    auto_reg: AutoReg,
    flags: IssueFlags<'_>,
    descs: &Descs,
) -> Result<(), RequestRef> {
    let bytes = rq.bytes();
    descs.describe(&rq, state.addr, bytes, 0);
    let lent = rq.clone();
    state.share(rq, bytes, Some(cmd.ring()));
    drop(state);
    Request::register_buffer(lent, cmd, auto_reg.index(), flags).map_err(|(_, lent)| lent)
}

impl Slot {
    /// Hands a dispatched request to the server, in the task of the command.
    // See `IoCommands::task_work()`.
    #[inline(always)]
    pub(crate) fn start(
        &self,
        cmd: Command,
        cx: TaskContext<'_>,
        descs: &Descs,
        shmem: Option<&Shmem>,
    ) {
        let mut state = self.state.lock();
        let (addr, auto_reg) = (state.addr, state.auto_reg);
        let can_serve = state.current_is_owner() && !cx.cancelled();

        let Some(rq) = state.stage.start() else {
            drop(state);
            return cmd.done(UBLK_IO_RES_ABORT, cx.flags());
        };
        if !can_serve {
            drop(state);
            return self.start_in_vain(rq, cmd, cx.flags());
        }
        // What is done for most requests, which spares them 50 instructions against
        // `start_with_data()`.
        if self.data.describes_only(&rq) {
            let bytes = rq.bytes();
            // Nothing that could sleep or fail.
            descs.describe(&rq, addr, bytes, 0);
            state.share(rq, bytes, None);
            drop(state);
            return cmd.done(UBLK_IO_RES_OK as i32, cx.flags());
        }
        let auto_reg = match auto_reg {
            Some(auto_reg) if self.data.handover == Handover::Register => auto_reg,
            _ => return self.start_with_data(state, rq, cmd, cx.flags(), descs, shmem),
        };
        let shared = share_registered(state, rq, cmd.as_cmd(), auto_reg, cx.flags(), descs);
        match shared {
            Ok(()) => cmd.done(UBLK_IO_RES_OK as i32, cx.flags()),
            Err(rq) => self.not_registered(rq, cmd, auto_reg, cx.flags(), descs),
        }
    }

    /// As [`Self::start`], in a task that can not serve the slot.
    #[cold]
    fn start_in_vain(&self, rq: RequestRef, cmd: Command, flags: IssueFlags<'_>) {
        self.state.lock().stage.give_up();
        // The work of a task that is exiting is done by somebody else. The server has not seen it,
        // so it can be held in any case.
        self.requeue_or_fail(rq, self.recovery.holds);
        cmd.done(UBLK_IO_RES_ABORT, flags);
    }

    /// The data of a request that the server has was not registered, if there is any; `lent` would
    /// have been the table's reference to it. The server is told of it, or the command waits for
    /// the next one.
    #[cold]
    fn not_registered(
        &self,
        lent: RequestRef,
        cmd: Command,
        auto_reg: AutoReg,
        flags: IssueFlags<'_>,
        descs: &Descs,
    ) {
        let mut state = self.state.lock();
        let told = if !state.has(&lent) {
            Some(UBLK_IO_RES_ABORT)
        } else if state.get_unregistered(&lent, auto_reg, descs) {
            Some(UBLK_IO_RES_OK as i32)
        } else {
            None
        };
        let Some(told) = told else {
            let rq = state.stage.commit(cmd);
            drop(state);
            return self.fail_both(rq, lent);
        };
        drop(state);
        ending::finish(lent);
        cmd.done(told, flags);
    }

    /// Ends a request that was the server's and whose data could not be registered, with an error.
    #[cold]
    pub(super) fn fail_both(&self, rq: Option<RequestRef>, lent: RequestRef) {
        if let Some(rq) = rq {
            self.requeue_or_fail(rq, false);
        }
        ending::finish(lent);
    }

    /// The data of a request could not be registered: the command waits for the next one.
    #[cold]
    fn put_back(&self, rq: RequestRef, cmd: Command) {
        self.state.lock().stage.put_back(cmd);
        self.requeue_or_fail(rq, false);
    }

    /// As [`Self::start`], whatever is to be done with the data.
    #[inline(never)]
    fn start_with_data(
        &self,
        mut state: SpinLockGuard<'_, SlotState>,
        rq: RequestRef,
        cmd: Command,
        flags: IssueFlags<'_>,
        descs: &Descs,
        shmem: Option<&Shmem>,
    ) {
        let (addr, auto_reg) = (state.addr, state.auto_reg);
        // This takes no lock. To lock the slot once for a request whose data is there spares it 10
        // instructions.
        let found = shmem.and_then(|shmem| shmem.find(&rq));
        let found = match (found, auto_reg) {
            (Some(found), None) => {
                state.share_found(rq, found, descs);
                drop(state);
                return cmd.done(UBLK_IO_RES_OK as i32, flags);
            }
            (found, _) => found,
        };
        drop(state);
        let place = Place::new(found.as_ref(), addr);
        let copies = place.copies(self.data);

        let is_write = rq.op() == Op::Write && rq.has_data();
        // A server that has the data already needs no buffer.
        if copies && self.data.asks && is_write {
            descs.describe(&rq, addr, rq.bytes(), 0);
            self.state.lock().stage.ask(rq);
            return cmd.done(UBLK_IO_RES_NEED_GET_DATA as i32, flags);
        }
        let bytes = if copies && is_write {
            give_data(&rq, addr)
        } else {
            Some(rq.bytes())
        };
        let Some(bytes) = bytes else {
            self.state.lock().stage.put_back(cmd);
            return ending::retry(rq);
        };
        let registered = match auto_reg {
            Some(auto_reg) => register(&rq, cmd.as_cmd(), auto_reg, flags),
            None => Registered::No,
        };
        let Some((more, registered_on)) = registered.told() else {
            return self.put_back(rq, cmd);
        };
        descs.describe(&rq, place.addr, bytes, place.flags | more);
        let mut state = self.state.lock();
        if let Some(found) = found {
            state.hold(found);
        }
        state.share(rq, bytes, registered_on);
        drop(state);
        cmd.done(UBLK_IO_RES_OK as i32, flags);
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
        descs: &Descs,
    ) -> (Outcome<'a>, bool) {
        let answered = {
            let mut state = self.state.lock();
            state
                .check_server()
                .and_then(|()| state.stage.answer().ok_or(EINVAL))
                .inspect(|_| state.addr = addr)
        };
        let rq = match answered {
            Ok(rq) => rq,
            Err(e) => return (cmd.complete(Err(e)), false),
        };
        match give_data(&rq, addr) {
            Some(bytes) => {
                descs.describe(&rq, addr, bytes, 0);
                self.state.lock().share(rq, bytes, None);
                (cmd.complete(Ok(UBLK_IO_RES_OK as i32)), false)
            }
            None => {
                let mut state = self.state.lock();
                let (queued, outcome) = cmd.queue_cancelable(data);
                state.stage.put_back(queued);
                drop(state);
                ending::retry(rq);
                (outcome, true)
            }
        }
    }
}

/// Where the server is told that the data is.
pub(super) struct Place {
    pub(super) addr: u64,
    /// `UBLK_IO_F_*` about it.
    pub(super) flags: u32,
}

impl Place {
    /// In shared memory, if it was found there, else at `addr`.
    #[inline]
    pub(super) fn new(found: Option<&Found>, addr: u64) -> Self {
        match found {
            Some(found) => Self {
                addr: found.addr(),
                flags: UBLK_IO_F_SHMEM_ZC,
            },
            None => Self { addr, flags: 0 },
        }
    }

    /// Whether the driver has to copy the data to there, or from there.
    #[inline]
    pub(super) fn copies(&self, data: DataMode) -> bool {
        data.copies && self.flags == 0
    }
}

/// Copies the data of a write to the server. Returns how much of it was copied, in whole blocks:
/// not nothing.
pub(super) fn give_data(rq: &Request<Disk>, addr: u64) -> Option<u32> {
    let user = UserPtr::from_addr(addr as usize);
    let bytes = rq.bytes();
    let copied = rq.copy_to_user(0, user, bytes as usize) as u32;
    if copied == bytes {
        Some(bytes)
    } else {
        whole_blocks(rq, copied)
    }
}

/// How many bytes of the first `copied` ones are whole blocks, if any are.
#[cold]
fn whole_blocks(rq: &Request<Disk>, copied: u32) -> Option<u32> {
    let part = copied - copied % rq.queue_data().block_bytes();
    (part > 0).then_some(part)
}

/// What came of registering the data of a request.
pub(super) enum Registered {
    /// There is nothing to register.
    No,
    On(RingId),
    /// It failed; the server is told, as it wished.
    ServerHasTo,
    Failed,
}

impl Registered {
    /// What the server is told of it, by a flag, and on which ring the data is. [`None`] if the
    /// server gets no such request.
    pub(super) fn told(self) -> Option<(u32, Option<RingId>)> {
        match self {
            Self::No => Some((0, None)),
            Self::On(ring) => Some((0, Some(ring))),
            Self::ServerHasTo => Some((UBLK_IO_F_NEED_REG_BUF, None)),
            Self::Failed => None,
        }
    }
}

/// Registers the data of a request with the ring of the command that waited for it.
pub(super) fn register(
    rq: &RequestRef,
    cmd: CmdRef<'_>,
    auto_reg: AutoReg,
    flags: IssueFlags<'_>,
) -> Registered {
    match Request::register_buffer(rq.clone(), cmd, auto_reg.index(), flags) {
        Ok(()) => Registered::On(cmd.ring()),
        Err((_, rq)) => unregistered(rq, auto_reg),
    }
}

/// Drops a reference to a request whose data was not registered.
#[cold]
fn unregistered(rq: RequestRef, auto_reg: AutoReg) -> Registered {
    let has_data = rq.has_data();
    // Not the last reference.
    ending::finish(rq);
    if !has_data {
        Registered::No
    } else if auto_reg.fallback() {
        Registered::ServerHasTo
    } else {
        Registered::Failed
    }
}
