// SPDX-License-Identifier: GPL-2.0

//! `IOSQE_SQE_GROUP`: a group whose primary is a request of any opcode.
//!
//! In this form the primary is called the leader and the secondaries are its members. Its life is
//! that of a fused command, but for its first half:
//!
//! 1. [`io_group_gather`] takes the members of a leader that is prepared from the ring.
//! 2. The leader is issued like any request of its opcode. When it is done,
//!    [`io_group_leader_done`] keeps it, without its CQE, and has task work start the members, or
//!    cancel them if the leader failed.
//! 3. The last member completes the leader, with the result that it had: see [`Group::arrive`].
//!
//! If members take their buffer from a lease then the leader is a command to a driver that lends
//! it. Such a leader becomes what it is in the other form: it is executed as
//! `IORING_OP_FUSED_CMD`.

use super::{
    gathered::{
        Any,
        Gathered, //
    },
    group::{
        Group,
        Phase, //
    },
    prepare_ring,
    secondary,
    start_in_task, //
};
use core::ptr::addr_of_mut;
use kernel::{
    bindings,
    error::to_result,
    ffi::{
        c_int,
        c_uint, //
    },
    prelude::*, //
};

/// What most requests that post more than one CQE say of themselves.
const MULTISHOT: u64 = bindings::REQ_F_MULTISHOT as u64 | bindings::REQ_F_APOLL_MULTISHOT as u64;

/// Take the members of `req` from the ring and prepare them.
///
/// Called for every leader, also for one whose preparation failed (`ret` < 0): its members must not
/// be mistaken for ordinary requests. Returns 0, or the error of the leader, which has no members
/// then: those that there were have been completed with `-ECANCELED`.
///
/// # Safety
///
/// `req` has `REQ_F_SQE_GROUP` set and is being initialised, `uring_lock` is held, and `left` is
/// the number of SQEs of the submission, this one included.
#[export]
unsafe extern "C" fn io_group_gather(
    req: *mut bindings::io_kiocb,
    left: *mut c_uint,
    ret: c_int,
) -> c_int {
    // It says that there is a member.
    let mut gathered = Gathered::new(req, left, 1);
    // SAFETY: By the function's requirements. A leader that is prepared has no group yet, and the
    // ring is made ready first.
    let made = to_result(ret).and_then(|()| unsafe {
        prepare_ring((*req).ctx)?;
        Group::create(req)
    });
    let has_group = made.is_ok();

    // SAFETY: By the function's requirements. There is a member to be taken, or there should be.
    let taken = made.and_then(|()| unsafe { gathered.take_all::<Any>() });
    // SAFETY: By the function's requirements the leader was prepared, if so much went well.
    let leads = taken.and_then(|()| unsafe { check(req, gathered.nr_leased > 0) });
    if let Err(e) = leads {
        // SAFETY: By the function's requirements.
        unsafe {
            gathered.abandon();
            if has_group {
                Group::prepared(req).end();
            }
            (*req).flags &= !(bindings::REQ_F_SQE_GROUP as u64);
        }
        return e.to_errno();
    }

    let leases = gathered.nr_leased > 0;
    // SAFETY: `uring_lock` is held, and this is the only reference to the group, which was just
    // made.
    let mut group = unsafe { Group::prepared(req) };
    group.state().is_sqe_group = true;
    gathered.hand_to(&mut group);
    // SAFETY: The request is being initialised, `check()` says that it is a uring command if it
    // leases, which is the first member of it.
    unsafe {
        group.state().skips_cqe = (*req).flags & bindings::REQ_F_CQE_SKIP as u64 != 0;
        if leases {
            (*req.cast::<bindings::io_uring_cmd>()).flags = bindings::IORING_FUSED_CMD_BUF;
            (*req).opcode = bindings::io_uring_op_IORING_OP_FUSED_CMD as u8;
            (*req).flags |= bindings::REQ_F_NEED_CLEANUP as u64;
            (*req).flags &= !(bindings::REQ_F_SQE_GROUP as u64);
        } else {
            // They are issued when the leader is done, which is after its submission.
            group.defer();
        }
    }
    0
}

/// May `req` lead a group, whose members take their buffer from a lease or not?
///
/// # Safety
///
/// `req` is prepared, but not issued.
unsafe fn check(req: *mut bindings::io_kiocb, leases: bool) -> Result {
    // SAFETY: By the safety requirement. The ring's flags do not change.
    let (opcode, flags, ring) = unsafe {
        let opcode = u32::from((*req).opcode);
        (opcode, (*req).flags, (*(*req).ctx).__bindgen_anon_1.flags)
    };
    let is_command = match opcode {
        bindings::io_uring_op_IORING_OP_URING_CMD => true,
        // Behind this the driver does not learn the size of the SQE from the opcode.
        bindings::io_uring_op_IORING_OP_URING_CMD128 => ring & bindings::IORING_SETUP_SQE128 != 0,
        _ => false,
    };

    if leases {
        // SAFETY: The command is the first member of such a request.
        let plain = is_command && unsafe { (*req.cast::<bindings::io_uring_cmd>()).flags == 0 };
        return if plain { Ok(()) } else { Err(EINVAL) };
    }
    // Its CQE is the last of the group.
    // SAFETY: By the safety requirement.
    if flags & MULTISHOT != 0 || unsafe { bindings::io_group_is_multishot(req) } {
        return Err(EINVAL);
    }
    Ok(())
}

/// The leader is done, and would be freed now. Keep it, and go on with its members.
///
/// They are started by task work: this happens in the middle of a list of completed requests, which
/// members that complete at once, or are canceled, would join.
///
/// # Safety
///
/// `req` has `REQ_F_SQE_GROUP` set, its last reference was put, it is in no list and its CQE was
/// not posted. `uring_lock` is held. From here on it belongs to the group.
#[export]
unsafe extern "C" fn io_group_leader_done(req: *mut bindings::io_kiocb) {
    // SAFETY: By the safety requirement; a leader that was issued has its group.
    let mut group = unsafe { Group::prepared(req) };
    let state = group.state();
    let skips_cqe = state.skips_cqe;

    state.phase = Phase::Queued as u8;
    // SAFETY: By the safety requirement the request is ours, and nothing else uses its task work.
    unsafe {
        // One that was freed by a worker has this set, though there was no CQE.
        (*req).flags &= !(bindings::REQ_F_REFCOUNT as u64 | bindings::REQ_F_CQE_SKIP as u64);
        if skips_cqe && (*req).flags & bindings::REQ_F_FAIL as u64 == 0 {
            (*req).flags |= bindings::REQ_F_CQE_SKIP as u64;
        }
        // After that: of one that should skip its CQE, those of what is linked behind it are
        // skipped.
        if secondary::has_failed(req) {
            bindings::req_set_fail(req);
        }
        bindings::io_group_untrack(req);
        let work = addr_of_mut!((*req).__bindgen_anon_4.io_task_work);
        (*work).func = Some(start_in_task);
        bindings::io_req_task_work_add(req);
    }
}
