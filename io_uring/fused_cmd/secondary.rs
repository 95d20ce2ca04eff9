// SPDX-License-Identifier: GPL-2.0

//! What is special about the requests that depend on a primary.

use super::group::{
    lease_ended,
    Group, //
};
use core::{
    mem::MaybeUninit,
    ptr::{
        addr_of,
        NonNull, //
    }, //
};
use kernel::{
    bindings,
    ffi::c_int,
    prelude::*, //
};

/// A secondary may do both: what it does is only known to the file that it is sent to.
const EITHER: u8 = (bindings::IO_BUF_DEST | bindings::IO_BUF_SOURCE) as u8;

/// What the opcode of `req` does to a leased buffer as a secondary: bits of `IO_BUF_*`.
///
/// # Safety
///
/// `req` is a live request.
unsafe fn direction(req: *mut bindings::io_kiocb) -> u8 {
    // SAFETY: By the safety requirement. The table has an entry for every valid opcode, and the
    // opcode of a request is valid: `__io_init_req()` refuses others, and leaves 0 there instead.
    // What a leased secondary is executed as comes from the table, and is in it.
    unsafe {
        let opcode = usize::from((*req).opcode);

        (*addr_of!(bindings::io_issue_defs)
            .cast::<bindings::io_issue_def>()
            .add(opcode))
        .fused_dir
    }
}

/// The direction that a lease must have for `req`, 0 if any will do.
///
/// # Safety
///
/// `req` is a live request.
pub(crate) unsafe fn needed_direction(req: *mut bindings::io_kiocb) -> u8 {
    // SAFETY: By the safety requirement.
    match unsafe { direction(req) } {
        EITHER => 0,
        dir => dir,
    }
}

/// Whether the result of a secondary is that of a driver, and not a number of bytes.
///
/// # Safety
///
/// `req` is a live secondary.
pub(crate) unsafe fn is_command(req: *mut bindings::io_kiocb) -> bool {
    // SAFETY: By the safety requirement.
    unsafe { opcode_is(req, bindings::io_uring_op_IORING_OP_URING_CMD) }
}

/// Check what only the preparation of a secondary told.
///
/// # Safety
///
/// `req` is a prepared secondary.
pub(crate) unsafe fn check(req: *mut bindings::io_kiocb) -> Result {
    // SAFETY: By the safety requirement. The command is the first member of such a request.
    let plain_command = unsafe {
        is_command(req)
            && (*req.cast::<bindings::io_uring_cmd>()).flags & bindings::IORING_URING_CMD_FIXED == 0
    };

    // SAFETY: By the safety requirement.
    let flags_ok = unsafe { bindings::io_rw_secondary_ok(req) };

    // The data of such a command would be at an address of the server.
    if plain_command || !flags_ok {
        return Err(EINVAL);
    }
    Ok(())
}

/// How many requests the preparation took for this one: the notification of a SEND_ZC.
///
/// # Safety
///
/// `req` is a prepared secondary.
pub(crate) unsafe fn nr_notifs(req: *mut bindings::io_kiocb) -> u16 {
    // SAFETY: By the safety requirement.
    let sends_zc = unsafe {
        opcode_is(req, bindings::io_uring_op_IORING_OP_SEND_ZC)
            || opcode_is(req, bindings::io_uring_op_IORING_OP_SENDMSG_ZC)
    };
    if cfg!(CONFIG_NET) && sends_zc {
        // SAFETY: By the safety requirement, and it is one of these.
        unsafe { bindings::io_send_zc_nr_notifs(req) as u16 }
    } else {
        0
    }
}

/// Whether a secondary takes its buffer from a lease.
///
/// # Safety
///
/// `req` is a live secondary.
pub(crate) unsafe fn is_leased(req: *mut bindings::io_kiocb) -> bool {
    // SAFETY: By the safety requirement.
    unsafe { (*req).flags & bindings::REQ_F_LEASE as u64 != 0 }
}

/// # Safety
///
/// `req` is a live secondary.
unsafe fn opcode_is(req: *mut bindings::io_kiocb, opcode: bindings::io_uring_op) -> bool {
    // SAFETY: By the safety requirement.
    u32::from(unsafe { (*req).opcode }) == opcode
}

/// A secondary is done: its CQE was posted or skipped, and it is about to be freed.
///
/// # Safety
///
/// Called once for a request with `REQ_F_FUSED`, with `uring_lock` held, before what it owns is
/// released.
#[export]
unsafe extern "C" fn io_fused_secondary_done(req: *mut bindings::io_kiocb) {
    // SAFETY: The group waits for this secondary, so it has not ended. `uring_lock` is held, and
    // nobody else has a reference to the group.
    let (mut group, res, flags) = unsafe {
        (
            Group::from_raw(NonNull::new_unchecked((*req).group)),
            (*req).cqe.res,
            (*req).flags,
        )
    };
    let state = group.state();

    // It is the only one, has filled all of the buffer that it was lent, and has nothing left that
    // may use it: the lease is over here and now, and with it the group. Most are like that; it
    // spares them 60 instructions.
    if state.filled
        && usize::try_from(res) == Ok(state.lease.imu.len)
        && flags & LAST_USE == bindings::REQ_F_BUF_NODE as u64
        && state.lease.node.refs == 1
    {
        state.bytes = state.lease.imu.len as u64;
        // SAFETY: By the safety requirement, `uring_lock` is held. The reference of the node is the
        // last one, and it is put here: the secondary forgets the node. The group has not ended,
        // and `state` is not used any more.
        unsafe {
            (*req).flags = flags & !(bindings::REQ_F_BUF_NODE as u64);
            lease_ended((*req).group.cast());
        }
        return;
    }
    // SAFETY: By the safety requirement.
    unsafe { ended(req) };
}

/// A secondary is canceled. If it has moved something before, its result tells how much, and
/// nothing else: a driver that keeps the command would take it for one that came short.
///
/// # Safety
///
/// `req` has `REQ_F_FUSED`, was issued and has not ended. `uring_lock` is held.
#[export]
unsafe extern "C" fn io_fused_secondary_canceled(req: *mut bindings::io_kiocb) {
    // SAFETY: The group waits for this secondary, so it has not ended. `uring_lock` is held, and
    // nobody else has a reference to the group.
    let (mut group, index) = unsafe {
        (
            Group::from_raw(NonNull::new_unchecked((*req).group)),
            (*req).fused_index,
        )
    };
    let state = group.state();

    if is_kept(state) {
        fail(state, ECANCELED.to_errno(), index);
    }
}

/// Flags of a secondary that tell whether it holds the lease, has something of its opcode's that is
/// to be freed before that, and has failed.
const LAST_USE: u64 = bindings::REQ_F_BUF_NODE as u64
    | bindings::REQ_F_NEED_CLEANUP as u64
    | bindings::REQ_F_ASYNC_DATA as u64
    | bindings::REQ_F_FAIL as u64;

/// As [`io_fused_secondary_done`], whatever has come of the secondary.
///
/// # Safety
///
/// As there.
#[inline(never)]
unsafe fn ended(req: *mut bindings::io_kiocb) {
    // SAFETY: The group waits for this secondary, so it has not ended. `uring_lock` is held, and
    // nobody else has a reference to the group.
    let (mut group, res, index, flags) = unsafe {
        (
            Group::from_raw(NonNull::new_unchecked((*req).group)),
            (*req).cqe.res,
            (*req).fused_index,
            (*req).flags,
        )
    };
    let state = group.state();

    state.breaks_link |= flags & bindings::REQ_F_FAIL as u64 != 0;
    match u32::try_from(res) {
        Ok(count) => {
            // SAFETY: By the safety requirement, the secondary still holds the lease.
            let moved = unsafe { see_to_rest(req, count, state) };

            state.bytes += u64::from(moved);
        }
        // It has no part in the result of a leader, but breaks the links behind that.
        Err(_) if state.is_sqe_group => {
            // SAFETY: By the safety requirement.
            state.breaks_link |= unsafe { has_failed(req) };
        }
        Err(_) => fail(state, res, index),
    }
    if flags & bindings::REQ_F_KEEP as u64 != 0 {
        // SAFETY: By the safety requirement. Of a secondary, unlike a notification, the flag says
        // that it is a vectored read or write, which has kept its async data.
        unsafe { bindings::io_rw_vec_done(req) };
    }
    // Else the end of the lease is that of the group: the secondary is about to put its reference.
    if flags & bindings::REQ_F_LEASE as u64 == 0 {
        group.arrive();
    }
}

/// Whether the result of a request is an error. Not all opcodes set `REQ_F_FAIL` then, and a
/// time-out is none that comes as it was asked for.
///
/// # Safety
///
/// `req` is a live request that has its result.
pub(super) unsafe fn has_failed(req: *mut bindings::io_kiocb) -> bool {
    // SAFETY: By the safety requirement.
    let (res, is_timeout) = unsafe {
        (
            (*req).cqe.res,
            opcode_is(req, bindings::io_uring_op_IORING_OP_TIMEOUT),
        )
    };

    res < 0 && !(is_timeout && res == ETIME.to_errno())
}

/// Notes the error of the secondary at `index`; the first one in SQE order counts.
pub(super) fn fail(state: &mut bindings::io_fused_group, error: i32, index: u8) {
    if state.error == 0 || index < state.error_index {
        state.error = error;
        state.error_index = index;
    }
}

/// Whether the driver takes the command back, or a part of it, with the result of the group: then
/// no error may be taken for good data, nor for data that was written.
fn is_kept(state: &bindings::io_fused_group) -> bool {
    state.done.is_some() || !state.whole.is_null()
}

/// Sees to what a secondary has not moved of its range. Returns how many bytes were moved.
///
/// # Safety
///
/// `req` is a completed secondary that still holds its reference on the leased buffer, if any.
unsafe fn see_to_rest(
    req: *mut bindings::io_kiocb,
    count: u32,
    state: &mut bindings::io_fused_group,
) -> u32 {
    const LEASED: u64 = bindings::REQ_F_LEASE as u64 | bindings::REQ_F_BUF_NODE as u64;
    // SAFETY: By the safety requirement.
    let (flags, opcode) = unsafe { ((*req).flags, (*req).opcode) };

    if flags & LEASED != LEASED {
        return count;
    }
    // SAFETY: By the safety requirement.
    match u32::from(unsafe { direction(req) }) {
        // SAFETY: By the safety requirement; the rest was just checked.
        bindings::IO_BUF_DEST => unsafe { zero_rest(req, opcode, count, state) },
        bindings::IO_BUF_SOURCE => {
            // What another secondary wrote must not make up for what this one did not: they may
            // write the same bytes to different places.
            // SAFETY: As above.
            if is_kept(state) && u64::from(count) < unsafe { source_len(req, opcode) } {
                // SAFETY: By the safety requirement.
                fail(state, EIO.to_errno(), unsafe { (*req).fused_index });
            }
            count
        }
        _ => count,
    }
}

/// How much a secondary that reads a leased buffer was to move.
///
/// # Safety
///
/// `req` is a completed secondary of opcode `opcode` that reads a leased buffer and has no error.
unsafe fn source_len(req: *mut bindings::io_kiocb, opcode: u8) -> u64 {
    let opcode = u32::from(opcode);

    // SAFETY: By the safety requirement. Those are all that read a leased buffer, see
    // `io_issue_def::fused_op`. A vectored one was issued, or its result were an error.
    unsafe {
        if opcode == bindings::io_uring_op_IORING_OP_WRITE_FIXED {
            bindings::io_rw_fixed_range(req).len
        } else if opcode == bindings::io_uring_op_IORING_OP_WRITEV_FIXED {
            bindings::io_rw_vec_len(req)
        } else if cfg!(CONFIG_NET) {
            bindings::io_send_fixed_len(req)
        } else {
            0
        }
    }
}

/// Zeroes what a short read left unwritten of its range, so that no stale memory gets out. Returns
/// how many bytes were moved.
///
/// Behind the end of a file there are zeroes. But a peer that went away in the middle, a device
/// that had no more, or a sector that could not be read, must not become good data of a driver that
/// keeps the command: it is told of an error.
///
/// # Safety
///
/// `req` is a completed secondary of opcode `opcode` that writes a leased buffer, and still holds
/// its reference on that.
unsafe fn zero_rest(
    req: *mut bindings::io_kiocb,
    opcode: u8,
    count: u32,
    state: &mut bindings::io_fused_group,
) -> u32 {
    // SAFETY: By the safety requirement.
    let range = (!is_vectored(opcode)).then(|| unsafe { range_of(req, opcode) });
    let len = match &range {
        Some(range) => range.len,
        // SAFETY: As above. It was issued, or its result were an error.
        None => unsafe { bindings::io_rw_vec_len(req) },
    };
    // It can not have moved more than that.
    let Some(rest) = len.checked_sub(count.into()) else {
        return len as u32;
    };
    if rest > 0 {
        let zeroed = match range {
            // SAFETY: By the safety requirement.
            Some(range) => unsafe { zero(req, range.offset + u64::from(count), rest as usize) },
            // SAFETY: As for its length.
            None => unsafe { bindings::io_rw_vec_zero_rest(req, count as usize) },
        };
        let is_recv = u32::from(opcode) == bindings::io_uring_op_IORING_OP_RECV;
        // SAFETY: A completed request has its file until it is freed. All that write a leased
        // buffer, but for a RECV, are executed as reads, see `range_of()`.
        let to_end = || !is_recv && unsafe { bindings::io_rw_read_to_end(req) };

        if !zeroed || (is_kept(state) && !to_end()) {
            // SAFETY: By the safety requirement.
            fail(state, EIO.to_errno(), unsafe { (*req).fused_index });
        }
    }
    count
}

/// Whether `opcode` is one of those that are given several ranges.
fn is_vectored(opcode: u8) -> bool {
    // What a vectored read is executed as; those that only read the buffer are not asked for.
    u32::from(opcode) == bindings::io_uring_op_IORING_OP_READV_FIXED
}

/// How many ranges a secondary was given.
///
/// # Safety
///
/// As for [`nth_range`].
pub(super) unsafe fn nr_ranges(req: *mut bindings::io_kiocb) -> u32 {
    // SAFETY: By the safety requirement. The opcode of a secondary that is prepared does not
    // change.
    unsafe {
        if is_vectored((*req).opcode) {
            bindings::io_rw_vec_nr_ranges(req)
        } else {
            1
        }
    }
}

/// One of the ranges that a secondary was given.
///
/// # Safety
///
/// `req` is a secondary that writes a leased buffer, is prepared and not issued, and `i` is less
/// than [`nr_ranges`].
pub(super) unsafe fn nth_range(req: *mut bindings::io_kiocb, i: u32) -> bindings::io_fused_range {
    // SAFETY: By the safety requirement.
    unsafe {
        let opcode = (*req).opcode;

        if is_vectored(opcode) {
            bindings::io_rw_vec_range(req, i)
        } else {
            range_of(req, opcode)
        }
    }
}

/// Whether a secondary was given all of a buffer of `len` bytes, in one range.
///
/// # Safety
///
/// `req` is a secondary that writes a leased buffer, is prepared and not issued.
pub(super) unsafe fn fills(req: *mut bindings::io_kiocb, len: u64) -> bool {
    // SAFETY: By the safety requirement, and it is not vectored where that is said.
    unsafe {
        let opcode = (*req).opcode;

        if is_vectored(opcode) {
            return false;
        }
        let range = range_of(req, opcode);
        range.offset == 0 && range.len == len
    }
}

/// The range that a secondary with one was given.
///
/// # Safety
///
/// `req` is a prepared or completed secondary of opcode `opcode` that writes a leased buffer, and
/// is not vectored.
unsafe fn range_of(req: *mut bindings::io_kiocb, opcode: u8) -> bindings::io_fused_range {
    if cfg!(CONFIG_NET) && u32::from(opcode) == bindings::io_uring_op_IORING_OP_RECV {
        // SAFETY: By the safety requirement. A RECV that is leased a buffer is prepared as one with
        // a fixed buffer.
        unsafe { bindings::io_recv_fixed_range(req) }
    } else {
        // SAFETY: By the safety requirement. All others that write a leased buffer and have one
        // range are executed as `IORING_OP_READ_FIXED`, see `io_issue_def::fused_op`.
        unsafe { bindings::io_rw_fixed_range(req) }
    }
}

/// Zeroes a part of the buffer that is leased to a secondary, which writes it. Nothing happens if
/// the part is not inside the buffer. What another secondary writes there meanwhile, or has
/// written, may be lost. Returns whether all of the part is zero now.
///
/// # Safety
///
/// `req` is a secondary that is not being executed, and has a reference on the leased buffer.
#[cold]
#[inline(never)]
#[must_use]
pub(super) unsafe fn zero(req: *mut bindings::io_kiocb, offset: u64, len: usize) -> bool {
    let mut iter = MaybeUninit::<bindings::iov_iter>::uninit();

    // SAFETY: By the safety requirement the request has its buffer node, which keeps the pages, and
    // nobody else changes the request. The import fails for what is not inside the buffer, or is
    // only to be read; `iter` is not used then.
    unsafe {
        let ret = bindings::io_import_reg_buf(
            req,
            iter.as_mut_ptr(),
            offset,
            len,
            bindings::ITER_DEST as c_int,
            0,
        );
        ret == 0 && bindings::io_fused_zero(iter.as_mut_ptr(), len)
    }
}
