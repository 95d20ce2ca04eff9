// SPDX-License-Identifier: GPL-2.0

//! How the server gives a request back: with its result, or with what secondaries moved.

use super::{
    Slot,
    SlotState, //
};
use crate::{
    data_mode::{
        AutoReg,
        Reach, //
    },
    ending::{
        CopyRules,
        Verdict, //
    },
    shmem::Hold,
    types::{
        CmdData,
        Command,
        Disk,
        Generation,
        IoCommands,
        RequestRef, //
    },
    uapi::UBLK_IO_RES_ABORT, //
};
use kernel::{
    block::mq::{
        Op,
        Request, //
    },
    io_uring::{
        IssueFlags,
        IssuedCmd,
        Outcome, //
    },
    prelude::*,
    uaccess::UserPtr, //
};

/// The verdict on a write of which the server got no more than `given` bytes, and wrote these.
#[cold]
fn part(rq: &Request<Disk>, given: u32) -> Verdict {
    // One that is not trusted could hold it up for long, a block at a time.
    if rq.queue_data().may_retry(rq.age()) {
        Verdict::Part(given)
    } else {
        Verdict::Result(EIO.to_errno())
    }
}

/// The verdict on a read of which the server has brought the first `bytes` bytes.
#[inline]
fn brought(rq: &Request<Disk>, bytes: u32) -> Verdict {
    if bytes < rq.bytes() {
        brought_in_part(rq, bytes)
    } else {
        Verdict::Result(rq.bytes() as i32)
    }
}

/// As [`brought`], of a read that is not there as a whole. The block layer asks for the rest again,
/// from the next sector on: what is no whole block would put that in the wrong place.
#[cold]
fn brought_in_part(rq: &Request<Disk>, bytes: u32) -> Verdict {
    let whole = bytes - bytes % rq.queue_data().block_bytes();

    // As in `part()`.
    if whole > 0 && rq.queue_data().may_go_on(rq.age()) {
        Verdict::Result(whole as i32)
    } else {
        Verdict::error(EIO)
    }
}

impl Slot {
    /// Takes back the request that the server worked on, with its result, and the next command.
    ///
    /// The ring of the command must be locked. Nothing changes when the command is refused:
    /// - [`EINVAL`]: the current task did not fetch this slot, `addr` or `auto_reg` is wrong, or
    ///   the server was asked something else.
    /// - [`EBUSY`]: the server does not have a request from this slot.
    #[inline(always)]
    pub(crate) fn commit<'a>(
        &self,
        cmd: IssuedCmd<'a, IoCommands>,
        data: CmdData,
        addr: u64,
        result: i32,
        flags: IssueFlags<'_>,
    ) -> (Outcome<'a>, bool) {
        let this_cmd = cmd.as_cmd();
        let mut state = self.state.lock();
        let appends = match self.check_commit(&state, addr) {
            Ok(appends) => appends,
            Err(e) => {
                drop(state);
                return (cmd.complete(Err(e)), false);
            }
        };
        let next = match self.data.auto_reg(|| cmd.sqe_addr()) {
            Ok(next) => next,
            Err(e) => {
                drop(state);
                return (cmd.complete(Err(e)), false);
            }
        };
        // On another ring it is the server that has to unregister it.
        let registered = match state.auto_reg {
            Some(auto_reg) => state
                .registered_on
                .take()
                .filter(|ring| *ring == this_cmd.ring())
                .map(|_| auto_reg.index()),
            None => None,
        };

        let addr = if appends {
            self.endings.set_appended_at(addr);
            0
        } else {
            addr
        };
        // Before the command is queued, or it is kept in memory until after that: 8 instructions.
        state.addr = next.map_or(addr, AutoReg::addr);
        state.auto_reg = next;
        let (queued, outcome) = cmd.queue_cancelable(data);
        // From here on the command may be canceled, but the tag is in use until the request ends.
        let rq = state.stage.commit(queued);
        let Some(rq) = rq else {
            // It is there: that was looked at since the slot was locked.
            return (outcome, true);
        };
        // The slot is not locked meanwhile: nobody ends the request, of which this has the slot's
        // reference, and the tag is in use until then. So it is locked once: that it was locked
        // again after this, to commit then, was some 20 instructions of a request.
        let unregister = || {
            if let Some(index) = registered {
                // If it is not there any more, the server was faster.
                let _ = this_cmd.unregister_buffer(index, flags);
            }
        };
        if self.data.leaves {
            drop(state);
            unregister();
            self.endings.finish(rq, Verdict::Result(result));
        } else {
            let given = state.given;
            let hold = self.release(&mut state);
            drop(state);
            unregister();
            // All of it is in shared memory: `take_back()` would say the same.
            if hold.is_some() && result == rq.bytes() as i32 {
                drop(hold);
                self.endings.finish(rq, Verdict::Result(result));
            } else {
                self.take_back(rq, addr, result, given, hold);
            }
        }
        (outcome, true)
    }

    /// Takes the data of a request that the server has given back, if there is something to take,
    /// and ends the request.
    #[inline(never)]
    fn take_back(&self, rq: RequestRef, addr: u64, result: i32, given: u32, hold: Option<Hold>) {
        let verdict = self.take_data(&rq, addr, result, given, hold.is_some());
        // Who sees the request end finds the index free.
        drop(hold);
        self.endings.finish(rq, verdict);
    }

    /// Checks a commit; returns whether the request is a zone append.
    // By itself the compiler does not, as there are several callers.
    #[inline(always)]
    fn check_commit(&self, state: &SlotState, addr: u64) -> Result<bool> {
        match state.stage.owned() {
            Some(rq) if state.current_is_owner() => {
                self.data.check_commit(addr, rq)?;
                Ok(rq.op() == Op::ZoneAppend)
            }
            _ => Err(state.check_server().err().unwrap_or(EINVAL)),
        }
    }

    /// In copy mode, takes the data of a read from the server. Returns the verdict on the request,
    /// which is less than `result` if not all of the data could be had.
    ///
    /// The server was `given` so many bytes of a write. It can not have written more.
    ///
    /// If the data is `in_place` then it is in memory that the server shares with the reader, and
    /// there is nothing to take: what the server has not written there, it could have read.
    // By itself the compiler does not, as there are two callers.
    #[inline(always)]
    pub(super) fn take_data(
        &self,
        rq: &Request<Disk>,
        addr: u64,
        result: i32,
        given: u32,
        in_place: bool,
    ) -> Verdict {
        // A read has data: the block layer sends none of no bytes.
        if result <= 0 || rq.op() != Op::Read {
            if self.data.copies && given < rq.bytes() && result >= 0 {
                return part(rq, given);
            }
            return Verdict::Result(result);
        }
        if in_place {
            // Only where the driver copies is the rest of a short read asked for again.
            return match self.data.copies {
                true => brought(rq, result as u32),
                false => Verdict::Result(result),
            };
        }
        if self.data.reach == Reach::Commit {
            // No secondary has brought any data, and the server can not have done so otherwise.
            rq.zero_data();
        }
        if !self.data.copies {
            return Verdict::Result(result);
        }
        let user = UserPtr::from_addr(addr as usize);
        brought(rq, rq.copy_from_user(0, user, result as usize) as u32)
    }

    /// Another reference to the request, for a command that is going to commit it, which
    /// [`Self::commit_moved`] then does if told the generation that is returned as well. The
    /// request may carry no data.
    ///
    /// Fails as a commit does.
    #[inline]
    pub(crate) fn owned_to_commit(&self) -> Result<(RequestRef, Generation)> {
        let state = self.state.lock();
        // Nobody could say where the data of a zone append was written.
        let appends = self.check_commit(&state, 0)?;
        match state.stage.owned() {
            Some(rq) if !self.data.registers && !appends => Ok((rq.clone(), state.generation)),
            _ => Err(EINVAL),
        }
    }

    /// Commits the request of `generation`, whose data secondaries moved: `result` is the number of
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
        cmd: Command,
        generation: Generation,
        result: i32,
        flags: IssueFlags<'_>,
    ) -> bool {
        let mut state = self.state.lock();
        let refusal = match state.stage.owned() {
            Some(rq) if state.generation == generation => self
                .broke_off(&state, result, rq.bytes())
                .then_some(ECANCELED.to_errno()),
            _ if state.stage.is_given_up() => Some(UBLK_IO_RES_ABORT),
            _ => Some(EINVAL.to_errno()),
        };
        if let Some(res) = refusal {
            drop(state);
            cmd.done(res, flags);
            return false;
        }
        let rq = state.stage.commit(cmd);
        let hold = self.release(&mut state);
        drop(state);
        // Who sees the request end finds the index free.
        drop(hold);

        if let Some(rq) = rq {
            let verdict = Verdict::on_moved(&rq, result);
            self.endings.finish(rq, verdict);
        }
        true
    }
}
