// SPDX-License-Identifier: GPL-2.0

//! The commands that a server sends to its character device: they are decoded and checked here.

use crate::{
    device::Device,
    fused,
    register,
    slot::Slot,
    types::{
        CmdData,
        Generation,
        IoCommands, //
    },
    uapi::{
        check_command_type,
        command_nr,
        IoCmd,
        UBLK_IO_RES_ABORT, //
    }, //
};
use kernel::{
    io_uring::{
        CommandHandler,
        FusedCmd,
        IssueFlags,
        IssuedCmd,
        Outcome,
        QueuedCmd,
        TaskContext, //
    },
    prelude::*,
    sync::{
        Arc,
        ArcBorrow, //
    },
    uapi, //
};

/// `_IOC_NR(UBLK_U_IO_REGISTER_IO_BUF)`; the header has no name for it.
const REGISTER_IO_BUF: u32 = 0x23;
/// `_IOC_NR(UBLK_U_IO_UNREGISTER_IO_BUF)`, likewise.
const UNREGISTER_IO_BUF: u32 = 0x24;

impl CommandHandler for IoCommands {
    type Ptr = Arc<Device>;
    type Data = CmdData;
    const FUSED: bool = true;

    // With `Slot::commit()`; by itself the compiler does neither. It spares a request 25
    // instructions.
    #[inline(always)]
    fn issue<'a>(
        dev: ArcBorrow<'a, Device>,
        cmd: IssuedCmd<'a, Self>,
        flags: IssueFlags<'a>,
    ) -> Outcome<'a> {
        // A worker thread of io_uring is not the task that the slots belong to.
        if flags.unlocked() {
            return cmd.defer_to_task();
        }
        let op = cmd.op();
        if let Err(e) = check_command_type(op) {
            return cmd.complete(Err(e));
        }
        match command_nr(op) {
            uapi::UBLK_IO_COMMIT_AND_FETCH_REQ => commit(&dev, cmd, flags),
            nr => issue_other(&dev, Other(cmd, flags), nr),
        }
    }

    fn cancel(dev: ArcBorrow<'_, Device>, data: &CmdData, flags: IssueFlags<'_>) {
        if let Some(slot) = dev.slot(data.q_id, data.tag) {
            cancel(slot, flags);
        }
    }

    // By itself the compiler does not; with `Slot::start()` it spares a request 20 instructions.
    #[inline(always)]
    fn task_work(dev: ArcBorrow<'_, Device>, cmd: QueuedCmd<Self>, cx: TaskContext<'_>) {
        let CmdData { q_id, tag, .. } = *cmd.data();
        match (dev.queue(q_id.into()), dev.slot(q_id, tag)) {
            (Some(queue), Some(slot)) => {
                let flags = cx.flags();
                slot.start(cmd, cx, queue.descs(), dev.shmem());
                // It waits again if it was put back.
                cancel_if_leaving(&dev, slot, flags);
            }
            // The command was queued in a slot, so there is one.
            _ => drop(cmd),
        }
    }

    #[inline]
    fn fused<'a>(
        dev: ArcBorrow<'a, Device>,
        cmd: FusedCmd<'a, Self>,
        flags: IssueFlags<'a>,
    ) -> Outcome<'a> {
        fused::submit(&dev, cmd, flags)
    }

    #[inline]
    fn group_ended(
        dev: ArcBorrow<'_, Device>,
        cmd: QueuedCmd<Self>,
        result: i32,
        flags: IssueFlags<'_>,
    ) {
        let CmdData {
            q_id,
            tag,
            generation,
        } = *cmd.data();
        match dev.slot(q_id, tag) {
            Some(slot) => {
                // Only the command that was just put there: another one may be on another ring,
                // whose lock must not be taken under that of this one.
                if slot.commit_moved(cmd, generation, result, flags) {
                    cancel_if_leaving(&dev, slot, flags);
                }
            }
            // The command was for a slot, so there is one.
            None => drop(cmd),
        }
    }
}

/// A command that is no commit. So that the compiler copies it there: else it stores that of each
/// commit.
struct Other<'a>(IssuedCmd<'a, IoCommands>, IssueFlags<'a>);

/// The payload of a command, to be read once.
#[inline(always)]
fn payload_of(cmd: &IssuedCmd<'_, IoCommands>) -> IoCmd {
    zerocopy::transmute!(cmd.payload::<[u64; 2]>())
}

/// Serves a command that is no commit.
#[inline(never)]
fn issue_other<'a>(dev: &Device, Other(cmd, flags): Other<'a>, nr: u32) -> Outcome<'a> {
    let io = payload_of(&cmd);
    match nr {
        uapi::UBLK_IO_FETCH_REQ => fetch(dev, cmd, io),
        uapi::UBLK_IO_NEED_GET_DATA => get_data(dev, cmd, io, flags),
        REGISTER_IO_BUF => register::register(dev, cmd, io, flags),
        UNREGISTER_IO_BUF => register::unregister(dev, cmd, io, flags),
        _ => {
            let slot = dev.slot(io.q_id, io.tag);
            cmd.complete(Err(slot.map_or(EINVAL, |slot| slot.refusal())))
        }
    }
}

/// What a command carries that commits no request by what secondaries move.
fn data_of(io: &IoCmd) -> CmdData {
    CmdData {
        q_id: io.q_id,
        tag: io.tag,
        generation: Generation::default(),
    }
}

/// Tells the server that no request will come.
#[cold]
fn cancel(slot: &Slot, flags: IssueFlags<'_>) {
    if let Some(cmd) = slot.cancel() {
        cmd.done(UBLK_IO_RES_ABORT, flags);
    }
}

/// To be called after a command came to wait: whoever sends the server away may have looked for it
/// just before.
// By itself the compiler does not, as there are several callers.
#[inline(always)]
fn cancel_if_leaving(dev: &Device, slot: &Slot, flags: IssueFlags<'_>) {
    if dev.is_leaving() {
        cancel(slot, flags);
    }
}

/// `UBLK_IO_FETCH_REQ`: the first command of a slot, from the task that will serve it.
fn fetch<'a>(dev: &Device, cmd: IssuedCmd<'a, IoCommands>, io: IoCmd) -> Outcome<'a> {
    let Some(slot) = dev.slot(io.q_id, io.tag) else {
        return cmd.complete(Err(EINVAL));
    };
    if let Err(e) = slot.data().check_fetch(io.addr) {
        return cmd.complete(Err(e));
    }
    let auto_reg = match slot.data().auto_reg(|| cmd.sqe_addr()) {
        Ok(auto_reg) => auto_reg,
        Err(e) => return cmd.complete(Err(e)),
    };
    dev.fetch(move |may_fetch| {
        if let Err(e) = may_fetch {
            return (cmd.complete(Err(e)), false);
        }
        slot.fetch(cmd, data_of(&io), io.addr, auto_reg)
    })
}

/// `UBLK_IO_COMMIT_AND_FETCH_REQ`: the result of a request, and the next command of its slot.
#[inline(always)]
fn commit<'a>(dev: &Device, cmd: IssuedCmd<'a, IoCommands>, flags: IssueFlags<'_>) -> Outcome<'a> {
    let io = payload_of(&cmd);
    let Some(slot) = dev.slot(io.q_id, io.tag) else {
        return cmd.complete(Err(EINVAL));
    };
    let (outcome, taken) = slot.commit(cmd, data_of(&io), io.addr, io.result, flags);
    // As in `group_ended()`.
    if taken {
        cancel_if_leaving(dev, slot, flags);
    }
    outcome
}

/// `UBLK_IO_NEED_GET_DATA`: the buffer that the server was asked for.
fn get_data<'a>(
    dev: &Device,
    cmd: IssuedCmd<'a, IoCommands>,
    io: IoCmd,
    flags: IssueFlags<'_>,
) -> Outcome<'a> {
    let (Some(queue), Some(slot)) = (dev.queue(io.q_id.into()), dev.slot(io.q_id, io.tag)) else {
        return cmd.complete(Err(EINVAL));
    };
    let (outcome, waits) = slot.get_data(cmd, data_of(&io), io.addr, queue.descs());
    if waits {
        cancel_if_leaving(dev, slot, flags);
    }
    outcome
}
