// SPDX-License-Identifier: GPL-2.0

//! The commands that a server sends to its character device: they are decoded and checked here.

use crate::{
    device::Device,
    fused,
    uapi::{
        check_command_type,
        command_nr,
        IoCmd, //
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

/// What a queued command carries: which slot it is for.
#[derive(Clone, Copy)]
pub(crate) struct CmdData {
    q_id: u16,
    tag: u16,
}

/// The I/O commands of `/dev/ublkcN`.
pub(crate) struct IoCommands;

impl CommandHandler for IoCommands {
    type Ptr = Arc<Device>;
    type Data = CmdData;
    const FUSED: bool = true;

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
        let payload: IoCmd = zerocopy::transmute!(cmd.payload::<[u64; 2]>());
        if let Err(e) = check_command_type(op) {
            return cmd.complete(Err(e));
        }
        match command_nr(op) {
            uapi::UBLK_IO_FETCH_REQ => fetch(&dev, cmd, payload),
            uapi::UBLK_IO_COMMIT_AND_FETCH_REQ => commit(&dev, cmd, payload),
            _ => cmd.complete(Err(EINVAL)),
        }
    }

    fn cancel(dev: ArcBorrow<'_, Device>, data: &CmdData, flags: IssueFlags<'_>) {
        let cmd = dev.slot(data.q_id, data.tag).and_then(|slot| slot.cancel());
        if let Some(cmd) = cmd {
            cmd.done(crate::uapi::UBLK_IO_RES_ABORT, flags);
        }
    }

    fn task_work(dev: ArcBorrow<'_, Device>, cmd: QueuedCmd<Self>, cx: TaskContext<'_>) {
        let CmdData { q_id, tag } = *cmd.data();
        match (dev.queue(q_id.into()), dev.slot(q_id, tag)) {
            (Some(queue), Some(slot)) => slot.start(cmd, cx, queue),
            // The command was queued in a slot, so there is one.
            _ => drop(cmd),
        }
    }

    fn fused<'a>(
        dev: ArcBorrow<'a, Device>,
        cmd: FusedCmd<'a, Self>,
        _flags: IssueFlags<'a>,
    ) -> Outcome<'a> {
        fused::submit(&dev, cmd)
    }
}

/// `UBLK_IO_FETCH_REQ`: the first command of a slot, from the task that will serve it.
fn fetch<'a>(dev: &Device, cmd: IssuedCmd<'a, IoCommands>, io: IoCmd) -> Outcome<'a> {
    let Some(slot) = dev.slot(io.q_id, io.tag) else {
        return cmd.complete(Err(EINVAL));
    };
    if let Err(e) = slot.check_addr(io.addr) {
        return cmd.complete(Err(e));
    }
    dev.fetch(move |may_fetch| {
        if let Err(e) = may_fetch {
            return (cmd.complete(Err(e)), false);
        }
        let data = CmdData {
            q_id: io.q_id,
            tag: io.tag,
        };
        slot.fetch(cmd, data, io.addr)
    })
}

/// `UBLK_IO_COMMIT_AND_FETCH_REQ`: the result of a request, and the next command of its slot.
fn commit<'a>(dev: &Device, cmd: IssuedCmd<'a, IoCommands>, io: IoCmd) -> Outcome<'a> {
    let Some(slot) = dev.slot(io.q_id, io.tag) else {
        return cmd.complete(Err(EINVAL));
    };
    let data = CmdData {
        q_id: io.q_id,
        tag: io.tag,
    };
    slot.commit(cmd, data, io.addr, io.result)
}
