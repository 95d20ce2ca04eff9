// SPDX-License-Identifier: GPL-2.0

//! Zero copy through the table of registered buffers: `UBLK_IO_REGISTER_IO_BUF` and
//! `UBLK_IO_UNREGISTER_IO_BUF`. The registration holds a reference to the request, as a lease does.
//!
//! What `UBLK_F_AUTO_BUF_REG` registers is part of a slot's life: see `slot/handover.rs`.

use crate::{
    device::Device,
    ending,
    slot::Slot,
    types::IoCommands,
    uapi::{
        IoCmd,
        UBLK_F_SUPPORT_ZERO_COPY, //
    }, //
};
use kernel::{
    block::mq::Request,
    io_uring::{
        CommandHandler,
        IssueFlags,
        IssuedCmd,
        Outcome, //
    },
    prelude::*, //
};

/// `UBLK_IO_REGISTER_IO_BUF`: the data of a request becomes a buffer of the command's ring. May
/// come from any task, on any ring.
pub(crate) fn register<'a>(
    dev: &Device,
    cmd: IssuedCmd<'a, IoCommands>,
    io: IoCmd,
    flags: IssueFlags<'_>,
) -> Outcome<'a> {
    let checked = check(dev, io).and_then(|slot| slot.check_registrant().map(|()| slot));
    let registered = checked.and_then(|slot| try_register(dev, slot, &cmd, io, flags));
    cmd.complete(registered.map(|()| 0))
}

/// As [`register`], of a device with `UBLK_F_BATCH_IO`, whose slots belong to no task.
pub(crate) fn register_shared<'a, H: CommandHandler>(
    dev: &Device,
    cmd: IssuedCmd<'a, H>,
    io: IoCmd,
    flags: IssueFlags<'_>,
) -> Outcome<'a> {
    let registered = check(dev, io).and_then(|slot| try_register(dev, slot, &cmd, io, flags));
    cmd.complete(registered.map(|()| 0))
}

/// The slot that a command is about.
fn check(dev: &Device, io: IoCmd) -> Result<&Slot> {
    dev.slot(io.q_id, io.tag).ok_or(EINVAL)
}

fn try_register<H: CommandHandler>(
    dev: &Device,
    slot: &Slot,
    cmd: &IssuedCmd<'_, H>,
    io: IoCmd,
    flags: IssueFlags<'_>,
) -> Result {
    slot.data().check_reach()?;
    if !dev.has(UBLK_F_SUPPORT_ZERO_COPY) {
        return Err(EINVAL);
    }
    // As in the C driver, only the lower half of the address is looked at.
    Request::register_buffer(slot.owned_data()?, cmd.as_cmd(), io.addr as u32, flags).map_err(
        |(e, rq)| {
            ending::finish(rq);
            e
        },
    )
}

/// `UBLK_IO_UNREGISTER_IO_BUF`: names nothing but the index, on the command's ring.
pub(crate) fn unregister<'a, H: CommandHandler>(
    dev: &Device,
    cmd: IssuedCmd<'a, H>,
    io: IoCmd,
    flags: IssueFlags<'_>,
) -> Outcome<'a> {
    let done = if dev.has(UBLK_F_SUPPORT_ZERO_COPY) {
        cmd.as_cmd().unregister_buffer(io.addr as u32, flags)
    } else {
        Err(EINVAL)
    };
    cmd.complete(done.map(|()| 0))
}
