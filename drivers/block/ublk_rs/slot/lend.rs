// SPDX-License-Identifier: GPL-2.0

//! A request of a device with `UBLK_F_BATCH_IO` that is committed by what secondaries move.
//!
//! It is the server's until they are done, as if they were requests of the server's own: it may be
//! aborted, or committed otherwise, meanwhile. The lease has a reference of its own, so the tag
//! names the same request until then.

use super::Slot;
use crate::{
    ending::{
        self,
        Verdict, //
    },
    types::{
        Disk,
        RequestRef, //
    }, //
};
use kernel::{
    block::mq::{
        Op,
        Request,
        RequestLease, //
    },
    io_uring::PartMemory,
    prelude::*, //
};

/// Whether secondaries can move the data of a request in a batch. Nobody could say where that of a
/// zone append was written; and a question for zones must be able to end when the server dies.
fn can_move(rq: &Request<Disk>) -> bool {
    rq.has_data() && !matches!(rq.op(), Op::ZoneAppend | Op::DriverIn)
}

impl Slot {
    /// Allocates what a lease takes, if that is not there. Fails with [`ENOMEM`].
    pub(super) fn add_memory(&self) -> Result {
        if !self.data.lends || self.state.lock().memory.is_some() {
            return Ok(());
        }
        // If the disk is being recovered, memory must not be waited for that only this server can
        // give back.
        self.take_memory_back(PartMemory::new(GFP_NOIO)?);
        Ok(())
    }

    /// Whether the server has a request from this slot that it may commit in a batch with others
    /// whose data secondaries move. Fails with [`EBUSY`] if it has none, and with [`EINVAL`] for a
    /// zone append.
    pub(crate) fn check_commit_in_batch(&self) -> Result {
        let state = self.state.lock();
        match state.stage.owned().ok_or(EBUSY)?.op() {
            Op::ZoneAppend => Err(EINVAL),
            _ => Ok(()),
        }
    }

    /// The data of the server's request, to be lent, and memory for that. When the lease ends,
    /// [`Self::commit_lent`] follows.
    ///
    /// Fails with [`EBUSY`] if the server has no request from this slot or the lease of another
    /// batch has not ended, and with [`EINVAL`] or [`ENOMEM`] if the request can not be lent.
    pub(crate) fn lend_to_batch(&self) -> Result<(RequestLease<Disk>, PartMemory)> {
        let (rq, memory, _former) = {
            let state = &mut *self.state.lock();
            let rq = state.stage.owned().ok_or(EBUSY)?;
            if !can_move(rq) {
                return Err(EINVAL);
            }
            let memory = state.memory.take().ok_or(EBUSY)?;
            let rq = rq.clone();
            (rq, memory, state.note_server())
        };
        match RequestLease::new(rq) {
            Ok(lease) => Ok((lease, memory)),
            Err((e, rq)) => {
                self.take_memory_back(memory);
                ending::finish(rq);
                Err(e)
            }
        }
    }

    /// The lease did not come about, or is over.
    pub(crate) fn take_memory_back(&self, memory: PartMemory) {
        let old = self.state.lock().memory.replace(memory);
        // Outside of the lock.
        drop(old);
    }

    /// Commits the request whose data secondaries moved: `result` is the number of bytes or an
    /// error. The slot waits for the next one. `rq` is another reference to it.
    ///
    /// Returns the verdict that the request has then, for [`ending::finish_lent`]. There is none,
    /// and it was not committed, if it was aborted, or committed otherwise, meanwhile; nor if the
    /// secondaries were canceled, or broke off because the server dies: then it is still the
    /// server's.
    pub(crate) fn commit_lent(
        &self,
        rq: &Request<Disk>,
        memory: PartMemory,
        result: i32,
    ) -> Option<Verdict> {
        let (own, hold, _old) = {
            let mut state = self.state.lock();
            let old = state.memory.replace(memory);
            if self.broke_off(&state, result, rq.bytes()) {
                drop(state);
                return None;
            }
            state.addr = 0;
            let own: Option<RequestRef> = state.stage.commit_shared();
            (own, self.release(&mut state), old)
        };
        // Outside of the lock, and who sees the request end finds the index free.
        drop(hold);
        let own = own?;
        let verdict = Verdict::on_moved(&own, result);
        self.endings().give_up(own, verdict);
        Some(verdict)
    }
}
