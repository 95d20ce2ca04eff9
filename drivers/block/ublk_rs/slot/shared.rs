// SPDX-License-Identifier: GPL-2.0

//! A slot of a device with `UBLK_F_BATCH_IO`: any task of the server may commit its requests, and
//! it has no command of its own. Its queue tells the server the tag.

use super::{
    handover::{
        give_data,
        share_registered,
        Unregistered, //
    },
    Deserted,
    Overdue,
    Slot,
    SlotState,
    ToSend,
    When, //
};
use crate::{
    batch_queue::{
        Pushed,
        QueuedTag,
        Tell,
        Teller, //
    },
    data_mode::{
        AutoReg,
        Handover, //
    },
    descs::Descs,
    ending::{
        self,
        Verdict, //
    },
    policy::Gate,
    shmem::Shmem,
    types::{
        Disk,
        RequestRef, //
    }, //
};
use kernel::{
    block::mq::{
        CompletionBatch,
        Op, //
    },
    io_uring::{
        CmdRef,
        IssueFlags, //
    },
    prelude::*,
    sync::{
        aref::ARef,
        SpinLockGuard, //
    },
    task::Task, //
};

/// What the server says about the next request of a slot.
#[derive(Clone, Copy)]
pub(crate) struct Next {
    /// Its buffer in copy mode, else 0.
    pub(crate) addr: u64,
    /// Where to register the data.
    pub(crate) auto_reg: Option<AutoReg>,
    /// Where the data of this request was written, if it is a zone append.
    pub(crate) appended_at: Option<u64>,
}

impl Next {
    /// What the server finds in the descriptor.
    fn desc_addr(self) -> u64 {
        self.auto_reg.map_or(self.addr, AutoReg::addr)
    }
}

impl SlotState {
    /// The current process serves the slot: the one that has prepared it may have left it to a
    /// child. Returns what is to be dropped outside of the lock.
    #[inline]
    pub(super) fn note_server(&mut self) -> Option<ARef<Task>> {
        let current = current!();
        let leader = current.group_leader();
        let known = self.task.as_ref().map(|task| task.as_ptr());

        if known == Some(leader.as_ptr()) {
            None
        } else {
            self.task.replace(ARef::from(leader))
        }
    }
}

impl Slot {
    /// Makes the slot ready for its first request. Fails with [`EINVAL`] if it is already, and with
    /// [`ENOMEM`].
    pub(crate) fn prepare(&self, next: Next) -> Result {
        let leader = ARef::from(current!().group_leader());
        self.add_memory()?;
        let mut state = self.state.lock();
        if !state.stage.is_idle() {
            drop(state);
            return Err(EINVAL);
        }
        state.task = Some(leader);
        state.addr = next.desc_addr();
        state.auto_reg = next.auto_reg;
        state.stage.prepare();
        Ok(())
    }

    /// Undoes [`Self::prepare`].
    pub(crate) fn unprepare(&self) {
        let task = {
            let mut state = self.state.lock();
            state.stage.unprepare();
            state.task.take()
        };
        // Outside of the lock.
        drop(task);
    }

    /// Puts the tag of a request that was dispatched where the server will be told.
    #[inline(always)]
    pub(super) fn enqueue(&self, gate: Gate, tell: Tell) -> ToSend<'_> {
        let Some(shared) = &self.shared else {
            return ToSend::Nothing;
        };
        match shared.push(tell) {
            Pushed::ToSend(cmd) => ToSend::Telling(cmd),
            Pushed::ToKick(queue) => ToSend::Kick(queue),
            Pushed::Seen => ToSend::Nothing,
            Pushed::Closed => {
                self.enqueue_in_vain(gate);
                ToSend::Nothing
            }
        }
    }

    #[cold]
    fn enqueue_in_vain(&self, gate: Gate) {
        let rq = self.state.lock().stage.withdraw();
        if let Some(rq) = rq {
            self.turn_away(rq, gate);
        }
    }

    /// Gives a request back of which the server will not be told.
    pub(crate) fn withdraw(&self) {
        let rq = self.state.lock().stage.withdraw();
        if let Some(rq) = rq {
            // The server has not seen it, so it can be held in any case.
            self.requeue_or_fail(rq, self.recovery.holds);
        }
    }

    /// Makes a request, whose tag was taken from the queue, the server's, in the task of `cmd`,
    /// which is about to tell it. Returns whether the server is to be told; else the request went
    /// back to the block layer.
    pub(crate) fn start_shared(
        &self,
        cmd: CmdRef<'_>,
        flags: IssueFlags<'_>,
        descs: &Descs,
        shmem: Option<&Shmem>,
    ) -> bool {
        let mut state = self.state.lock();
        // It may have been given back, if the server is dying.
        let Some(rq) = state.stage.start() else {
            return false;
        };
        let auto_reg = state.auto_reg;
        // As in `start()`.
        if self.data.describes_only(&rq) {
            let bytes = rq.bytes();
            // Nothing that could sleep or fail.
            descs.describe(&rq, state.addr, bytes, 0);
            state.share(rq, bytes, None);
            // It is this process that has to commit it, however long the one lives that had the
            // slot before.
            let former = state.note_server();
            drop(state);
            // Outside of the lock.
            drop(former);
            return true;
        }
        let auto_reg = match auto_reg {
            Some(auto_reg) if self.data.handover == Handover::Register => auto_reg,
            _ => return self.start_shared_with_data(state, rq, cmd, flags, descs, shmem),
        };
        let former = state.note_server();
        let shared = share_registered(state, rq, None, cmd, auto_reg, flags, descs);
        drop(former);
        match shared {
            Ok(()) => true,
            Err(unregistered) => self.not_registered_shared(unregistered, descs),
        }
    }

    /// As `not_registered()`. Returns whether the server is to be told.
    #[cold]
    fn not_registered_shared(&self, unregistered: Unregistered, descs: &Descs) -> bool {
        let mut state = self.state.lock();
        let told = match state.has(&unregistered.rq) {
            false => false,
            true if state.get_unregistered(&unregistered, descs) => true,
            true => {
                let rq = state.stage.commit_shared();
                self.fail_unregistered(state, rq, unregistered);
                return false;
            }
        };
        drop(state);
        ending::finish(unregistered.rq);
        told
    }

    /// As [`Self::start_shared`], whatever is to be done with the data.
    #[inline(never)]
    fn start_shared_with_data(
        &self,
        mut state: SpinLockGuard<'_, SlotState>,
        rq: RequestRef,
        cmd: CmdRef<'_>,
        flags: IssueFlags<'_>,
        descs: &Descs,
        shmem: Option<&Shmem>,
    ) -> bool {
        let (addr, auto_reg) = (state.addr, state.auto_reg);
        // As in `start_with_data()`.
        let found = shmem.and_then(|shmem| shmem.find(&rq));
        if let Some(auto_reg) = auto_reg {
            let former = state.note_server();
            let shared = share_registered(state, rq, found, cmd, auto_reg, flags, descs);
            drop(former);
            return match shared {
                Ok(()) => true,
                Err(unregistered) => self.not_registered_shared(unregistered, descs),
            };
        }
        if let Some(found) = found {
            state.share_found(rq, found, descs);
            let former = state.note_server();
            drop(state);
            drop(former);
            return true;
        }
        drop(state);
        let bytes = if self.data.copies && rq.op() == Op::Write && rq.has_data() {
            give_data(&rq, addr)
        } else {
            Some(rq.bytes())
        };
        let Some(bytes) = bytes else {
            self.state.lock().stage.put_back_shared();
            ending::retry(rq);
            return false;
        };
        descs.describe(&rq, addr, bytes, 0);
        let former = {
            let mut state = self.state.lock();
            state.share(rq, bytes, None);
            // As in `start_shared()`.
            state.note_server()
        };
        // Outside of the lock.
        drop(former);
        true
    }

    /// Undoes [`Self::start_shared`], because the server could not be told. Returns whether the tag
    /// has to be told again: not if the server has committed the request all the same.
    pub(crate) fn not_told(&self, cmd: CmdRef<'_>, flags: IssueFlags<'_>) -> bool {
        let (undone, registered, _hold) = {
            let mut state = self.state.lock();
            if state.stage.not_told() {
                let ring = state.registered_on.take();
                let hold = self.release(&mut state);
                (true, ring.and(state.auto_reg), hold)
            } else {
                (false, None, None)
            }
        };
        if let Some(auto_reg) = registered {
            // If it is not there any more, the server was faster.
            let _ = cmd.unregister_buffer(auto_reg.index(), flags);
        }
        undone
    }

    /// Takes back the request that the server worked on, with its result. The slot waits for the
    /// next one. If it has succeeded, it ends with `batch`.
    ///
    /// Nothing changes when an error is returned: [`EBUSY`] if the server does not have a request
    /// from this slot, [`EINVAL`] if `next` is wrong, or does not say where a zone append was
    /// written.
    // By itself the compiler does not, as there are two callers: 20 instructions of a request.
    #[inline(always)]
    pub(crate) fn commit_shared(
        &self,
        cmd: CmdRef<'_>,
        flags: IssueFlags<'_>,
        next: Next,
        result: i32,
        batch: &mut CompletionBatch<Disk>,
    ) -> Result {
        let mut state = self.state.lock();
        let Some(rq) = state.stage.owned() else {
            drop(state);
            return Err(EBUSY);
        };
        let appended = result >= 0 && rq.op() == Op::ZoneAppend;
        if (self.data.copies && next.addr == 0) || (appended && next.appended_at.is_none()) {
            drop(state);
            return Err(EINVAL);
        }
        if appended {
            self.endings.set_appended_at(next.appended_at.unwrap_or(0));
        }
        // On another ring it is the server that has to unregister it.
        let here = state.registered_on.take() == Some(cmd.ring());
        let registered = if here { state.auto_reg } else { None };
        state.addr = next.desc_addr();
        state.auto_reg = next.auto_reg;
        let former = state.note_server();
        let rq = state.stage.commit_shared();
        let unlocked = || {
            if let Some(former) = former {
                drop(former);
            }
            if let Some(auto_reg) = registered {
                // If it is not there any more, the server was faster.
                let _ = cmd.unregister_buffer(auto_reg.index(), flags);
            }
        };
        // From here on the server is told of the next request as soon as this one has ended.
        if self.data.leaves {
            drop(state);
            unlocked();
            if let Some(rq) = rq {
                self.endings.finish_in(rq, Verdict::Result(result), batch);
            }
        } else {
            let given = state.given;
            let hold = self.release(&mut state);
            drop(state);
            unlocked();
            if let Some(rq) = rq {
                let verdict = self.take_data(&rq, next.addr, result, given, hold.is_some());
                // Who sees the request end finds the index free.
                drop(hold);
                self.endings.finish_in(rq, verdict, batch);
            }
        }
        Ok(())
    }

    /// Whether the server that the slot has will never commit: its process is dying, or, if the
    /// slot belongs to one task, that is.
    pub(super) fn has_no_server(&self, state: &SlotState) -> bool {
        let is_dying = |task: &ARef<Task>| {
            if self.shared.is_some() {
                task.is_group_dying()
            } else {
                task.is_dying()
            }
        };
        state.task.as_ref().is_some_and(is_dying)
    }

    /// Who will tell the server of a request, if that is not done by the slot's own command.
    pub(super) fn teller(&self) -> Option<Teller> {
        self.shared.as_ref().map(QueuedTag::teller)
    }

    /// The request of a deserted slot. One that the server was not told of is not lost if a living
    /// process will be. Else it would wait for a command of a task that may never run again, and
    /// whose ring may be open all the same: in another process, or as it is one of several threads.
    pub(super) fn take_deserted(&self, when: When) -> Option<Deserted> {
        let teller = self.teller();
        let mut state = self.state.lock();
        let has_no_server = self.has_no_server(&state);
        let owned = if has_no_server {
            state.stage.abort()
        } else {
            None
        };
        let (rq, requeue) = match owned {
            Some(rq) => (rq, self.recovery.reissues),
            None if will_be_told(teller, has_no_server, when) => return None,
            // The server has not seen it, so it can be held in any case.
            None => (state.stage.desert()?, self.recovery.holds),
        };
        let hold = self.release(&mut state);
        Some(Deserted { rq, hold, requeue })
    }

    /// What is to be done about a request that has been here for long.
    pub(crate) fn overdue(&self) -> Overdue {
        let teller = self.teller();
        let state = self.state.lock();
        let has_no_server = self.has_no_server(&state);
        let stage = &state.stage;
        if has_no_server && stage.is_given_up() {
            return Overdue::GivenUp;
        }
        let deserted = if stage.is_dispatching() {
            !will_be_told(teller, has_no_server, When::Overdue)
        } else {
            has_no_server && (stage.is_asked() || stage.owned().is_some())
        };
        if deserted {
            Overdue::Deserted
        } else {
            Overdue::Served
        }
    }

    /// The process that is to tell the server of the request of this slot, if it was not told yet.
    pub(crate) fn telling_process(&self) -> Option<ARef<Task>> {
        let shared = self.shared.as_ref()?;
        let untold = self.state.lock().stage.is_dispatching();
        untold.then(|| shared.telling_process())?
    }
}

/// Whether the server will be told of a request that it has not been told of yet.
fn will_be_told(teller: Option<Teller>, has_no_server: bool, when: When) -> bool {
    match teller {
        // By the slot's own command.
        None => !has_no_server,
        // By a command that may still come, of any process.
        Some(Teller::Nobody) => !has_no_server || when == When::AtOnce,
        Some(Teller::Dying) => false,
        Some(Teller::Living) => true,
    }
}
