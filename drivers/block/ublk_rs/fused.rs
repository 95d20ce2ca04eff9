// SPDX-License-Identifier: GPL-2.0

//! Zero copy: a fused command leases the data of a request to its secondaries.
//!
//! The lease holds a reference to the request. It may be taken by any task, on any ring, and
//! several times for one request; the request ends when it was committed and the last lease is
//! over.

use crate::{
    device::Device,
    io,
    io_cmd::IoCommands,
    uapi::{
        check_command_type,
        command_nr,
        IoCmd,
        UBLK_F_FUSED_CMD, //
    }, //
};
use kernel::{
    block::mq::RequestLease,
    io_uring::{
        FusedCmd,
        Outcome, //
    },
    prelude::*,
    uapi, //
};

/// Serves the primary of a fused command.
///
/// It is refused with [`EINVAL`] unless it is `UBLK_IO_FUSED_SUBMIT_IO`, names a request that the
/// server works on and that carries data, and has nothing in the fields that have no meaning here.
pub(crate) fn submit<'a>(dev: &Device, cmd: FusedCmd<'a, IoCommands>) -> Outcome<'a> {
    match lease(dev, &cmd) {
        Ok(lease) => cmd.lease(lease),
        Err(e) => cmd.refuse(e),
    }
}

/// Makes the lease that the command asks for.
fn lease(dev: &Device, cmd: &FusedCmd<'_, IoCommands>) -> Result<RequestLease<crate::queue::Disk>> {
    let op = cmd.op();
    check_command_type(op)?;
    if command_nr(op) != uapi::UBLK_IO_FUSED_SUBMIT_IO || !dev.has(UBLK_F_FUSED_CMD) {
        return Err(EINVAL);
    }
    let payload: IoCmd = zerocopy::transmute!(cmd.payload::<[u64; 2]>());
    if payload.result != 0 || payload.addr != 0 || !cmd.wants_buffer() {
        return Err(EINVAL);
    }
    let rq = dev
        .slot(payload.q_id, payload.tag)
        .ok_or(EINVAL)?
        .owned_data()?;
    // If there is no memory for the lease then its reference is just dropped, and the server may
    // have committed the request meanwhile; so the last reference has to be another one.
    let lease = RequestLease::new(rq.clone());
    io::finish(rq);
    lease
}
