// SPDX-License-Identifier: GPL-2.0

//! Zero copy: a fused command leases the data of a request to its secondaries.
//!
//! The lease holds a reference to the request. There are two kinds of primary:
//! - `UBLK_U_IO_FUSED_SUBMIT_IO` only moves data. It may come from any task, on any ring, and
//!   several times for one request; that ends when it was committed and the last lease is over.
//! - `UBLK_IO_COMMIT_AND_FETCH_REQ` moves data, commits the request with what came of it, and waits
//!   for the next one. So it is the only command that a request takes.

use crate::{
    device::Device,
    ending,
    slot::Slot,
    types::{
        CmdData,
        Disk,
        IoCommands,
        RequestRef, //
    },
    uapi::{
        check_command_type,
        command_nr,
        IoCmd,
        FUSED_SUBMIT_IO,
        UBLK_F_FUSED_CMD, //
    }, //
};
use kernel::{
    block::mq::{
        Op,
        RequestLease, //
    },
    io_uring::{
        CommandHandler,
        FusedCmd,
        IssueFlags,
        Outcome, //
    },
    prelude::*,
    uapi, //
};

/// Serves the primary of a fused command.
///
/// It is refused with [`EINVAL`] unless it is one of the two that there are, names a request that
/// the server works on and that carries data, and has nothing in the fields that have no meaning
/// here. One that commits must come from the task that the slot belongs to, and fails as a commit
/// does. One that only moves data is refused with [`EPERM`] if the server is not trusted.
#[inline]
pub(crate) fn submit<'a>(
    dev: &Device,
    cmd: FusedCmd<'a, IoCommands>,
    flags: IssueFlags<'a>,
) -> Outcome<'a> {
    let op = cmd.op();
    let payload: IoCmd = zerocopy::transmute!(cmd.payload::<[u64; 2]>());
    let commits = command_nr(op) == uapi::UBLK_IO_COMMIT_AND_FETCH_REQ;

    // A worker thread of io_uring is not the task that the slots belong to.
    if commits && flags.unlocked() {
        return cmd.defer_to_task();
    }
    let slot = match check(dev, &cmd, op, &payload) {
        Ok(slot) => slot,
        Err(e) => return cmd.refuse(e),
    };
    if commits {
        let owned = slot.owned_to_commit();
        match owned.and_then(|(rq, generation)| Ok((lease(rq)?, generation))) {
            Ok((lease, generation)) => {
                let data = CmdData {
                    q_id: payload.q_id,
                    tag: payload.tag,
                    generation,
                };
                cmd.lease_and_keep(lease, data)
            }
            Err(e) => cmd.refuse(e),
        }
    } else {
        lend(slot, cmd)
    }
}

/// As [`submit`], of a device with `UBLK_F_BATCH_IO`: its slots belong to no task, so no command
/// waits for the next request of one. What commits is in `batch_fused.rs`.
pub(crate) fn submit_shared<'a, H: CommandHandler>(
    dev: &Device,
    cmd: FusedCmd<'a, H>,
) -> Outcome<'a> {
    let op = cmd.op();
    let payload: IoCmd = zerocopy::transmute!(cmd.payload::<[u64; 2]>());

    if op != FUSED_SUBMIT_IO {
        return cmd.refuse(EINVAL);
    }
    match check(dev, &cmd, op, &payload) {
        Ok(slot) => lend(slot, cmd),
        Err(e) => cmd.refuse(e),
    }
}

/// Leases the data of the request of a slot, which is not committed.
#[inline]
fn lend<'a, H: CommandHandler>(slot: &Slot, cmd: FusedCmd<'a, H>) -> Outcome<'a> {
    let owned = slot.data().check_reach().and_then(|()| slot.owned_data());
    match owned.and_then(lease) {
        Ok(lease) => cmd.lease(lease),
        Err(e) => cmd.refuse(e),
    }
}

/// Checks a primary; returns the slot that it is about.
fn check<'a, H: CommandHandler>(
    dev: &'a Device,
    cmd: &FusedCmd<'_, H>,
    op: u32,
    payload: &IoCmd,
) -> Result<&'a Slot> {
    check_command_type(op)?;
    // The newer one has no legacy opcode.
    let known = op == FUSED_SUBMIT_IO || command_nr(op) == uapi::UBLK_IO_COMMIT_AND_FETCH_REQ;
    if !known || !dev.has(UBLK_F_FUSED_CMD) {
        return Err(EINVAL);
    }
    if payload.result != 0 || payload.addr != 0 || !cmd.wants_buffer() {
        return Err(EINVAL);
    }
    dev.slot(payload.q_id, payload.tag).ok_or(EINVAL)
}

/// Makes a lease of a request that the server works on. Not of a question for zones: that must be
/// able to end when the server dies, and a lease would keep it.
// By itself the compiler does not, as there are two callers; it spares a request 15 instructions.
#[inline(always)]
fn lease(rq: RequestRef) -> Result<RequestLease<Disk>> {
    if rq.op() == Op::DriverIn {
        ending::finish(rq);
        return Err(EINVAL);
    }
    RequestLease::new(rq).map_err(|(e, rq)| {
        // The server may have committed the request meanwhile, so this may be its end.
        ending::finish(rq);
        e
    })
}
