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
    pub(super) fn get_unregistered(&mut self, unregistered: &Unregistered, descs: &Descs) -> bool {
        let Unregistered {
            rq,
            place,
            auto_reg,
        } = unregistered;
        self.registered_on = None;
        if !rq.has_data() {
            return true;
        }
        if auto_reg.fallback() {
            let flags = place.flags | UBLK_IO_F_NEED_REG_BUF;
            descs.describe(rq, place.addr, rq.bytes(), flags);
        }
        auto_reg.fallback()
    }
}

/// A request that the server has and whose data could not be registered.
pub(super) struct Unregistered {
    /// The reference that the table would have got.
    pub(super) rq: RequestRef,
    /// Where the server was to be told that the data is.
    place: Place,
    auto_reg: AutoReg,
}

/// The server gets a request, whose data is registered with the ring of `cmd`, of which it is told
/// next. It may be `found` in shared memory as well.
///
/// It is the server's before its data is registered, so the slot is locked once: that spares it 20
/// instructions. Nobody but who calls this can tell the server, and a task that guesses gains
/// nothing: what it commits on this ring waits for the ring's lock, and then unregisters the data.
/// What it commits on another ring leaves the data registered, as it does at any time. The tag is
/// in use as long as the table's reference is there, so [`SlotState::has`] takes no other request
/// for this one.
// By itself the compiler does not, as there are several callers.
#[inline(always)]
pub(super) fn share_registered(
    mut state: SpinLockGuard<'_, SlotState>,
    rq: RequestRef,
    found: Option<Found>,
    cmd: CmdRef<'_>,
    auto_reg: AutoReg,
    flags: IssueFlags<'_>,
    descs: &Descs,
) -> Result<(), Unregistered> {
    let bytes = rq.bytes();
    let place = Place::new(found.as_ref(), state.addr);
    descs.describe(&rq, place.addr, bytes, place.flags);
    let lent = rq.clone();
    if let Some(found) = found {
        state.hold(found);
    }
    state.share(rq, bytes, Some(cmd.ring()));
    drop(state);
    Request::register_buffer(lent, cmd, auto_reg.index(), flags).map_err(|(_, rq)| Unregistered {
        rq,
        place,
        auto_reg,
    })
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
        let (this_cmd, flags) = (cmd.as_cmd(), cx.flags());
        match share_registered(state, rq, None, this_cmd, auto_reg, flags, descs) {
            Ok(()) => cmd.done(UBLK_IO_RES_OK as i32, flags),
            Err(unregistered) => self.not_registered(unregistered, cmd, flags, descs),
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

    /// The data of a request that the server has was not registered, if there is any. The server is
    /// told of it, or the command waits for the next one.
    #[cold]
    fn not_registered(
        &self,
        unregistered: Unregistered,
        cmd: Command,
        flags: IssueFlags<'_>,
        descs: &Descs,
    ) {
        let mut state = self.state.lock();
        let told = match state.has(&unregistered.rq) {
            // It was taken from the server meanwhile.
            false => UBLK_IO_RES_ABORT,
            true if state.get_unregistered(&unregistered, descs) => UBLK_IO_RES_OK as i32,
            true => {
                let rq = state.stage.commit(cmd);
                return self.fail_unregistered(state, rq, unregistered);
            }
        };
        drop(state);
        ending::finish(unregistered.rq);
        cmd.done(told, flags);
    }

    /// Ends a request that was the server's and whose data could not be registered, with an error.
    #[cold]
    pub(super) fn fail_unregistered(
        &self,
        mut state: SpinLockGuard<'_, SlotState>,
        rq: Option<RequestRef>,
        unregistered: Unregistered,
    ) {
        let hold = self.release(&mut state);
        drop(state);
        // Who sees the request end finds the index free.
        drop(hold);
        if let Some(rq) = rq {
            self.requeue_or_fail(rq, false);
        }
        ending::finish(unregistered.rq);
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
        if let Some(auto_reg) = auto_reg {
            let this_cmd = cmd.as_cmd();
            return match share_registered(state, rq, found, this_cmd, auto_reg, flags, descs) {
                Ok(()) => cmd.done(UBLK_IO_RES_OK as i32, flags),
                Err(unregistered) => self.not_registered(unregistered, cmd, flags, descs),
            };
        }
        if let Some(found) = found {
            state.share_found(rq, found, descs);
            drop(state);
            return cmd.done(UBLK_IO_RES_OK as i32, flags);
        }
        drop(state);

        let is_write = rq.op() == Op::Write && rq.has_data();
        // A server that has the data already needs no buffer.
        if self.data.asks && is_write {
            descs.describe(&rq, addr, rq.bytes(), 0);
            self.state.lock().stage.ask(rq);
            return cmd.done(UBLK_IO_RES_NEED_GET_DATA as i32, flags);
        }
        let bytes = if self.data.copies && is_write {
            give_data(&rq, addr)
        } else {
            Some(rq.bytes())
        };
        let Some(bytes) = bytes else {
            self.state.lock().stage.put_back(cmd);
            return ending::retry(rq);
        };
        descs.describe(&rq, addr, bytes, 0);
        self.state.lock().share(rq, bytes, None);
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
struct Place {
    addr: u64,
    /// `UBLK_IO_F_*` about it.
    flags: u32,
}

impl Place {
    /// In shared memory, if it was found there, else at `addr`.
    #[inline(always)]
    fn new(found: Option<&Found>, addr: u64) -> Self {
        match found {
            Some(found) => Self {
                addr: found.addr(),
                flags: UBLK_IO_F_SHMEM_ZC,
            },
            None => Self { addr, flags: 0 },
        }
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
