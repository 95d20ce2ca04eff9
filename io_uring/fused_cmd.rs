// SPDX-License-Identifier: GPL-2.0

//! `IORING_OP_FUSED_CMD`: a uring command and the requests that depend on it.
//!
//! A fused command is a group: one primary, which is a uring command to a driver, and the
//! secondaries, ordinary requests behind it in the submission. Read from top to bottom, this file
//! is the life of a group:
//!
//! 1. [`io_fused_cmd_prep`] prepares the primary, then [`io_fused_cmd_gather`] takes its
//!    secondaries from the ring and prepares them. They are not issued.
//! 2. [`io_fused_cmd`] issues the primary, that is, calls the driver. The driver may lease a buffer
//!    and starts the secondaries ([`io_fused_cmd_start`]), or refuses ([`io_fused_cmd_fail`] then
//!    cancels all of them).
//! 3. Each secondary runs like any request of its opcode, until it is freed after its CQE was
//!    posted ([`secondary`]).
//! 4. The last put of the lease's node gives the buffer back to the driver ([`lease_ended`]), which
//!    is the end of all secondaries. Without a lease the group counts them.
//! 5. Then [`Group`] completes the primary, or gives it back to a driver that wants to keep it: it
//!    is an ordinary uring command from then on.
//!
//! [`gathered`] takes the secondaries from the ring, [`chain`] holds them until they are issued,
//! [`group`] has the state that the steps share, [`secondary`] the steps of a secondary,
//! [`coverage`] what they leave out of a buffer, [`leader`] what is other in the second form, where
//! a bit in the SQEs makes a group of a request of any opcode and those behind it.
//!
//! # Locking
//!
//! All state of a group is protected by the ring's `uring_lock`. Secondaries run in parallel and in
//! any context, but they are prepared, queued and freed under the lock.

#[path = "fused_cmd/chain.rs"]
mod chain;
#[path = "fused_cmd/coverage.rs"]
mod coverage;
#[path = "fused_cmd/gathered.rs"]
mod gathered;
#[path = "fused_cmd/group.rs"]
mod group;
#[path = "fused_cmd/leader.rs"]
mod leader;
#[path = "fused_cmd/secondary.rs"]
mod secondary;

use core::ptr::{
    addr_of,
    addr_of_mut,
    null,
    null_mut,
    NonNull, //
};
use gathered::{
    Any,
    Gathered,
    Plain, //
};
use group::{
    lease_ended,
    Group,
    Issue,
    Phase, //
};
use kernel::{
    bindings,
    error::to_result,
    ffi::{
        c_int,
        c_uint, //
    },
    page::PAGE_MASK,
    prelude::*, //
};

/// `sqe->uring_cmd_flags` of a primary that this kernel knows.
const PRIMARY_FLAGS: u32 = bindings::IORING_FUSED_CMD_BUF | bindings::IORING_FUSED_CMD_INLINE;

/// The most that one secondary can move, or that is zeroed at once: `MAX_RW_COUNT`.
const MAX_LEN: usize = c_int::MAX as usize & PAGE_MASK;

const EIOCBQUEUED: c_int = -(bindings::EIOCBQUEUED as c_int);
const TRY_AGAIN: c_int = -(bindings::EAGAIN as c_int);

/// Prepare the primary. Called by `io_init_req()`, which calls [`io_fused_cmd_gather`] next.
///
/// # Safety
///
/// The contract of `io_issue_def::prep`: `req` is being initialised, `sqe` may be mapped to user
/// space, `uring_lock` is held.
#[export]
unsafe extern "C" fn io_fused_cmd_prep(
    req: *mut bindings::io_kiocb,
    sqe: *const bindings::io_uring_sqe,
) -> c_int {
    // SAFETY: `sqe` is valid for reads; user space may write to it, so each field is read once.
    let (pad, cmd_op) = unsafe {
        let op = addr_of!((*sqe).__bindgen_anon_1.__bindgen_anon_1);
        (
            addr_of!((*op).__pad1).read_volatile(),
            addr_of!((*op).cmd_op).read_volatile(),
        )
    };

    // SAFETY: `req` is valid by the function's requirements.
    let req_flags = unsafe { (*req).flags };
    if pad != 0 || req_flags & bindings::REQ_F_BUFFER_SELECT as u64 != 0 {
        return EINVAL.to_errno();
    }

    // SAFETY: By the contract of `prep` the request's ring is live and `uring_lock` is held.
    let made = unsafe { prepare_ring((*req).ctx).and_then(|()| Group::create(req)) };
    if let Err(e) = made {
        return e.to_errno();
    }

    // SAFETY: `req` is being initialised under `uring_lock`, which protects the cache.
    if unsafe { bindings::io_uring_alloc_async_cmd(req) }.is_null() {
        // SAFETY: The group was just made, and has no secondaries.
        unsafe { Group::prepared(req) }.cancel();
        return ENOMEM.to_errno();
    }

    // SAFETY: `cmd` is the command of `req`.
    unsafe {
        (*req).flags |= bindings::REQ_F_NEED_CLEANUP as u64;

        let cmd = req.cast::<bindings::io_uring_cmd>();
        (*cmd).cmd_op = cmd_op;
        (*cmd).sqe = sqe;
    }
    bindings::IOU_FUSED_GATHER as c_int
}

/// Makes a ring ready for groups, before its first one: it has no memory for them until then.
///
/// # Safety
///
/// `ctx` is a live ring whose `uring_lock` is held.
unsafe fn prepare_ring(ctx: *mut bindings::io_ring_ctx) -> Result {
    // SAFETY: By the safety requirement. All bits of `int_flags` change under `uring_lock`.
    unsafe {
        let int_flags = addr_of_mut!((*ctx).__bindgen_anon_1.int_flags);

        if *int_flags & bindings::IO_RING_F_FUSED != 0 {
            return Ok(());
        }
        if bindings::io_alloc_cache_init(
            addr_of_mut!((*ctx).__bindgen_anon_2.group_cache),
            bindings::IO_ALLOC_CACHE_MAX,
            size_of::<bindings::io_fused_group>() as c_uint,
            // New memory is zeroed: what `Group::create()` does not write is initialised as well.
            size_of::<bindings::io_fused_group>() as c_uint,
        ) {
            return Err(ENOMEM);
        }
        *int_flags |= bindings::IO_RING_F_FUSED;
    }
    Ok(())
}

/// Take the secondaries of `req` from the ring and prepare them.
///
/// Called for every primary, also for one whose preparation failed (`ret` < 0): its secondaries
/// must not be mistaken for ordinary requests. Returns 0, or the error of the primary, in which
/// case all secondaries have been completed with `-ECANCELED`.
///
/// # Safety
///
/// As for [`io_fused_cmd_prep`]; `left` is the number of SQEs of the submission, the primary
/// included.
#[export]
unsafe extern "C" fn io_fused_cmd_gather(
    req: *mut bindings::io_kiocb,
    sqe: *const bindings::io_uring_sqe,
    left: *mut c_uint,
    ret: c_int,
) -> c_int {
    // SAFETY: As in `io_fused_cmd_prep()`, which reads other fields.
    let (nr, flags) = unsafe {
        (
            addr_of!((*sqe).__bindgen_anon_4.nr_secondary).read_volatile(),
            addr_of!((*sqe).__bindgen_anon_3.uring_cmd_flags).read_volatile(),
        )
    };
    let inline = flags & bindings::IORING_FUSED_CMD_INLINE != 0;

    if ret >= 0
        && flags & !bindings::IORING_FUSED_CMD_BUF == 0
        && (1..=bindings::IORING_FUSED_MAX_SECONDARY).contains(&nr.into())
    {
        // SAFETY: `req` is being initialised; the command is its first member. The rest is by the
        // function's requirements: the preparation did not fail.
        unsafe {
            (*req.cast::<bindings::io_uring_cmd>()).flags = flags;
            // Most have one. As the number is known there is no loop, and what is known of the
            // secondaries stays out of memory: 50 instructions less.
            if nr == 1 {
                return Gathered::new(req, left, 1).complete::<Plain>();
            }
            return gather_several(req, left, nr);
        }
    }

    // SAFETY: `req` is being initialised; the command is its first member.
    unsafe {
        (*req.cast::<bindings::io_uring_cmd>()).flags = flags & PRIMARY_FLAGS;
        if inline {
            (*req).flags |= bindings::REQ_F_SQE64 as u64;
        }
    }

    let mut gathered = Gathered::new(req, left, nr);
    if inline {
        gathered.inline_of = sqe;
    }
    let header = if ret < 0 {
        to_result(ret)
    } else if flags & !PRIMARY_FLAGS != 0
        || inline != (nr == 0)
        || u32::from(nr) > bindings::IORING_FUSED_MAX_SECONDARY
    {
        Err(EINVAL)
    } else {
        Ok(())
    };
    // SAFETY: By the function's requirements; `sqe` is the last one that was taken. The header says
    // that there is a secondary to be taken, and that the preparation did not fail.
    unsafe {
        match header {
            Ok(()) => gathered.complete::<Any>(),
            Err(e) => gathered.refuse(e),
        }
    }
}

/// As [`io_fused_cmd_gather`], of a command that was prepared and has `nr` secondaries, each in an
/// SQE of its own.
///
/// # Safety
///
/// As there. The flags of the command are stored, and do not say that a secondary is inline; `nr`
/// is not zero, and not more than there may be.
// A function of its own, so that one secondary needs no loop.
#[inline(never)]
unsafe fn gather_several(req: *mut bindings::io_kiocb, left: *mut c_uint, nr: u16) -> c_int {
    // SAFETY: By the function's requirements.
    unsafe { Gathered::new(req, left, nr).complete::<Plain>() }
}

/// Number of requests that wait for the primary `req`: what a drain does not have to wait for if it
/// does not wait for `req`.
///
/// # Safety
///
/// `req` is a live primary or leader that was not issued, and `uring_lock` is held.
#[export]
unsafe extern "C" fn io_fused_nr_waiting(req: *mut bindings::io_kiocb) -> c_uint {
    // SAFETY: By the function's requirements.
    unsafe { Group::of(req) }.map_or(0, |group| group.nr_waiting())
}

/// Keep what the SQEs of the group say for an issue that happens after the submission.
///
/// # Safety
///
/// The contract of `io_cold_def::sqe_copy`.
#[export]
unsafe extern "C" fn io_fused_cmd_sqe_copy(req: *mut bindings::io_kiocb) {
    // SAFETY: By the contract of `sqe_copy`, `req` is prepared and the SQEs are still there.
    unsafe { bindings::io_uring_cmd_sqe_copy(req) };
    // SAFETY: `sqe_copy` is called in the submission, with `uring_lock` held.
    let Some(mut group) = (unsafe { Group::of(req) }) else {
        return;
    };
    // SAFETY: As above.
    unsafe { group.defer() };
}

/// Issue the primary: hand it to the driver.
///
/// # Safety
///
/// The contract of `io_issue_def::issue`.
#[export]
unsafe extern "C" fn io_fused_cmd(req: *mut bindings::io_kiocb, issue_flags: c_uint) -> c_int {
    // A driver that has kept the command may have it issued again, as it may other commands. There
    // is nothing left to start: its group has ended.
    // SAFETY: By the contract of `issue` the request is prepared, which has set the field; the end
    // of the group has made it null.
    if unsafe { (*req).group }.is_null() {
        return EINVAL.to_errno();
    }

    // SAFETY: By the contract of `issue` the request is prepared and has its file.
    let fops = unsafe { &*(*(*req).__bindgen_anon_1.file).f_op };
    let cmd = req.cast::<bindings::io_uring_cmd>();

    let Some(uring_cmd) = fops.uring_cmd else {
        return EOPNOTSUPP.to_errno();
    };
    if fops.fop_flags & bindings::FOP_URING_CMD_FUSED == 0 {
        return EOPNOTSUPP.to_errno();
    }

    // SAFETY: The command is valid.
    let ret = unsafe { bindings::security_uring_cmd(cmd) };
    if ret != 0 {
        return not_started(ret);
    }

    // SAFETY: The request is valid.
    let ring_flags = unsafe { bindings::io_uring_cmd_ring_flags(req) };
    let flags = issue_flags | ring_flags | bindings::io_uring_cmd_flags_IO_URING_F_FUSED as c_uint;
    let unlocked = issue_flags & bindings::io_uring_cmd_flags_IO_URING_F_UNLOCKED as c_uint != 0;

    if unlocked {
        // SAFETY: The driver takes primaries, see below, and these flags say that the lock of the
        // ring is not held.
        return unsafe { issue_unlocked(cmd, uring_cmd, flags) };
    }
    // SAFETY: A driver that sets `FOP_URING_CMD_FUSED` takes primaries in its `->uring_cmd()`.
    let ret = unsafe { uring_cmd(cmd, flags) };

    // SAFETY: Under `uring_lock` an accepted command waits for us to start it.
    if unsafe { Issue::of_cmd(cmd) }.phase() == Phase::Accepted {
        // What the driver returns does not matter any more.
        return bindings::IOU_FUSED_START;
    }
    // SAFETY: The driver did not take the command, so it is still ours.
    unsafe { not_taken(cmd, ret, issue_flags, bindings::IOU_FUSED_START) }
}

/// As [`io_fused_cmd`], outside of `uring_lock`.
///
/// # Safety
///
/// As there, and `uring_cmd` is that of a driver that sets `FOP_URING_CMD_FUSED`. `flags` are those
/// for it, which say that the lock is not held.
// A function of its own, as is what follows a refusal: it spares most commands 15 instructions.
#[inline(never)]
unsafe fn issue_unlocked(
    cmd: *mut bindings::io_uring_cmd,
    uring_cmd: unsafe extern "C" fn(*mut bindings::io_uring_cmd, c_uint) -> c_int,
    flags: c_uint,
) -> c_int {
    // The task work of a command that is accepted may run, and end its group, before the driver
    // returns. The request itself stays: the worker has a reference to it.
    let mut accepted = false;

    // SAFETY: The command was not started. The place is there until it is forgotten.
    unsafe { Issue::of_cmd(cmd) }.state().accepted = &raw mut accepted;
    // SAFETY: By the function's requirements the driver takes primaries in it.
    let ret = unsafe { uring_cmd(cmd, flags) };

    // SAFETY: This is a local variable. `io_fused_cmd_start()` or `io_fused_cmd_defer()` may have
    // written to it.
    if unsafe { (&raw const accepted).read_volatile() } {
        // The command is not ours any more.
        return EIOCBQUEUED;
    }
    // SAFETY: The driver did not take the command, so it is still ours.
    unsafe { not_taken(cmd, ret, flags, EIOCBQUEUED) }
}

/// What becomes of a primary that the driver has answered with `ret`, without taking it. Returns
/// `started` if its secondaries can start all the same.
///
/// # Safety
///
/// The current context issues `cmd`, with these `issue_flags`, and nothing was started.
#[inline(never)]
unsafe fn not_taken(
    cmd: *mut bindings::io_uring_cmd,
    mut ret: c_int,
    issue_flags: c_uint,
    started: c_int,
) -> c_int {
    if ret >= 0 {
        // Nothing to lend, and nothing against the secondaries.
        // SAFETY: By the function's requirements.
        ret = unsafe { io_fused_cmd_start(cmd, null(), None, issue_flags) };
        if ret == EIOCBQUEUED {
            return started;
        }
    }
    // SAFETY: The command is still ours, and there is no other reference to its group.
    let mut issue = unsafe { Issue::of_cmd(cmd) };
    // The variable goes out of scope.
    issue.state().accepted = null_mut();
    match ret {
        TRY_AGAIN => {
            // It would be asked again with what it has lent already.
            if issue.has_parts() {
                return EIO.to_errno();
            }
            // SAFETY: As above.
            unsafe { (*cmd).flags |= bindings::IORING_URING_CMD_REISSUE };
            ret
        }
        _ => not_started(ret),
    }
}

/// The result of a primary that a driver, or a program of an LSM, has answered with `ret`. That it
/// was interrupted is translated by `io_issue_sqe()`, as for any request.
fn not_started(ret: c_int) -> c_int {
    match ret {
        // It is wrong: nothing was started, and such a code is not its own.
        EIOCBQUEUED | bindings::IOU_REQUEUE | bindings::IOU_FUSED_START => EIO.to_errno(),
        _ => ret,
    }
}

/// The issue of a primary that was accepted is over: issue its secondaries.
///
/// Not part of the issue, so that they do not run with the primary's credentials and audit context.
///
/// # Safety
///
/// `req` is a primary whose issue returned `IOU_FUSED_START`, and `uring_lock` is held.
#[export]
unsafe extern "C" fn io_fused_cmd_issued(req: *mut bindings::io_kiocb) {
    // SAFETY: By the function's requirements.
    unsafe { Group::prepared(req) }.start();
}

/// Can a command that is being issued be given this lease, or one more?
fn may_lease(issue: &Issue, lease: &bindings::io_fused_lease) -> bool {
    issue.wants_buffer()
        && issue.phase() == Phase::Gathered
        && (1..=MAX_LEN).contains(&lease.len)
        && (lease.len as u32).checked_add(lease.skip).is_some()
}

/// Lease a buffer to the next `nr` secondaries of `cmd`.
///
/// Fails with `-EINVAL` as [`io_fused_cmd_start`] does with a lease, and if there are less of them,
/// or one of them is a uring command.
///
/// # Safety
///
/// See `include/linux/io_uring/fused.h`.
#[export]
unsafe extern "C" fn io_fused_cmd_lease_part(
    cmd: *mut bindings::io_uring_cmd,
    part: *mut bindings::io_fused_part,
    lease: *const bindings::io_fused_lease,
    nr: c_uint,
    done: Option<group::PartDone>,
) -> c_int {
    // SAFETY: By the function's requirements the driver is in `->uring_cmd()`.
    let (mut issue, lease) = unsafe { (Issue::of_cmd(cmd), &*lease) };
    let dir = 1u8 << (lease.dir & 1);

    let (Some(part), Some(done), Ok(nr @ 1..)) =
        (NonNull::new(part.cast()), done, u8::try_from(nr))
    else {
        return EINVAL.to_errno();
    };
    // In an SQE group there may be others between those that borrow a buffer.
    if !may_lease(&issue, lease) || issue.state().is_sqe_group {
        return EINVAL.to_errno();
    }
    // It has no way to say this of a part.
    let lease = bindings::io_fused_lease {
        release: None,
        ..*lease
    };
    // SAFETY: By the function's requirements. A part is as large as a group.
    match unsafe { issue.add_part(part, &lease, nr, dir, done) } {
        Ok(()) => 0,
        Err(e) => e.to_errno(),
    }
}

/// As [`io_fused_cmd_start`], of a command with several leases. It completes with `count` plus the
/// number of those that the driver counts when they end.
///
/// # Safety
///
/// See `include/linux/io_uring/fused.h`.
#[export]
unsafe extern "C" fn io_fused_cmd_start_parts(
    cmd: *mut bindings::io_uring_cmd,
    count: c_uint,
    issue_flags: c_uint,
) -> c_int {
    // SAFETY: By the function's requirements the driver is in `->uring_cmd()`.
    let mut issue = unsafe { Issue::of_cmd(cmd) };

    if !issue.has_parts() {
        return EINVAL.to_errno();
    }
    issue.state().bytes = count.into();
    // SAFETY: By the function's requirements.
    unsafe { io_fused_cmd_start(cmd, null(), None, issue_flags) }
}

/// Accept `cmd`, and lend `lease` to its secondaries unless that is null: they are issued when the
/// driver's `->uring_cmd()` is over, or if that runs outside of `uring_lock`, from task work. With
/// `done` the driver gets the command back when it would complete.
///
/// Fails with `-EINVAL` if the application asked for a buffer and there is none, or the other way
/// round, or if a secondary would use the buffer in the wrong direction. Nothing was lent then.
///
/// # Safety
///
/// See `include/linux/io_uring/fused.h`.
#[export]
unsafe extern "C" fn io_fused_cmd_start(
    cmd: *mut bindings::io_uring_cmd,
    lease: *const bindings::io_fused_lease,
    done: Option<unsafe extern "C" fn(*mut bindings::io_uring_cmd, c_int)>,
    issue_flags: c_uint,
) -> c_int {
    // SAFETY: By the function's requirements the driver is in `->uring_cmd()`, and there is a lease
    // or the pointer is null.
    let (mut issue, lease) = unsafe { (Issue::of_cmd(cmd), lease.as_ref()) };
    let dir = lease.map_or(0, |lease| 1u8 << (lease.dir & 1));

    let accepted = issue.state().accepted;
    let unlocked = issue_flags & bindings::io_uring_cmd_flags_IO_URING_F_UNLOCKED as c_uint != 0;

    let suits = match lease {
        Some(lease) => {
            may_lease(&issue, lease) && !issue.has_parts() && issue.state().dirs & !dir == 0
        }
        None => issue.wants_buffer() == issue.is_lent() && issue.phase() == Phase::Gathered,
    };
    // Else these are not the flags that the driver was called with.
    if !suits || unlocked == accepted.is_null() {
        return EINVAL.to_errno();
    }
    // A driver that wants to know how many bytes were moved can not be told; not of an SQE group,
    // whose members may have buffers of their own.
    if done.is_some() && (issue.state().has_cmd || issue.state().is_sqe_group) {
        return EINVAL.to_errno();
    }
    // It can not fail from here on.
    if let Some(lease) = lease {
        issue.set_up_lease(lease, dir, lease_ended);
    }
    issue.state().done = done;
    if !unlocked {
        issue.set_phase(Phase::Accepted);
    } else {
        issue.set_phase(Phase::Queued);
        issue.state().accepted = null_mut();
        let req = issue.primary();
        // SAFETY: The place is a variable of `issue_unlocked()`, which waits for the driver to
        // return. The primary is issued and waits for nothing else. From here on it belongs to the
        // task work.
        unsafe {
            *accepted = true;
            (*req).__bindgen_anon_4.io_task_work.func = Some(start_in_task);
            bindings::io_req_task_work_add(req);
        }
    }
    EIOCBQUEUED
}

/// Has the task issue `cmd` that has submitted it, in place of the worker that does so now. Fails
/// with `-EINVAL` if it is no worker, or if something was lent.
///
/// # Safety
///
/// See `include/linux/io_uring/fused.h`.
#[export]
unsafe extern "C" fn io_fused_cmd_defer(cmd: *mut bindings::io_uring_cmd) -> c_int {
    // SAFETY: By the function's requirements the driver is in `->uring_cmd()`.
    let mut issue = unsafe { Issue::of_cmd(cmd) };
    let accepted = issue.state().accepted;

    if accepted.is_null() || issue.phase() != Phase::Gathered || issue.has_parts() {
        return EINVAL.to_errno();
    }
    // The next issue has the lock.
    issue.state().accepted = null_mut();
    let req = issue.primary();
    // SAFETY: The place is a variable of `issue_unlocked()`, which waits for the driver to return.
    // The primary is issued and waits for nothing else. From here on it belongs to the task work.
    unsafe {
        *accepted = true;
        // Else it would go to a worker again.
        (*req).flags &= !(bindings::REQ_F_FORCE_ASYNC as u64);
        bindings::io_req_task_queue(req);
    }
    EIOCBQUEUED
}

/// # Safety
///
/// Called by io_uring as task work of a primary that [`io_fused_cmd_start`] accepted.
unsafe extern "C" fn start_in_task(tw_req: bindings::io_tw_req, tw: bindings::io_tw_token_t) {
    // SAFETY: The request is a primary, or a leader that is done, and waits for this.
    let flags = unsafe { (*tw_req.req).flags };
    let is_leader = flags & bindings::REQ_F_SQE_GROUP as u64 != 0;

    if is_leader && (tw.cancel || flags & bindings::REQ_F_FAIL as u64 != 0) {
        // SAFETY: As above, and nothing was started. It has its result, and completes here and
        // nowhere else. Task work runs with `uring_lock` held.
        unsafe {
            // Its CQE may not be skipped any more then, nor those of its members.
            bindings::req_set_fail(tw_req.req);
            Group::prepared(tw_req.req).cancel();
            bindings::io_req_task_complete(tw_req, tw);
        }
    } else if tw.cancel {
        // SAFETY: The primary was not started, so it is completed here and nowhere else. Task work
        // runs with `uring_lock` held.
        unsafe { bindings::io_req_defer_failed(tw_req.req, ECANCELED.to_errno()) };
    } else {
        // SAFETY: As above.
        unsafe { Group::prepared(tw_req.req) }.start();
    }
}

/// The primary or leader failed before its secondaries were issued: cancel them and end the lease.
///
/// # Safety
///
/// Called with `uring_lock` held, before the primary's own completion is queued.
#[export]
unsafe extern "C" fn io_fused_cmd_fail(req: *mut bindings::io_kiocb) {
    // SAFETY: By the function's requirements. A group that was started has ended, or its primary
    // can not fail.
    if let Some(group) = unsafe { Group::of(req) } {
        if group.phase() != Phase::Started {
            group.cancel();
        }
    }
}
