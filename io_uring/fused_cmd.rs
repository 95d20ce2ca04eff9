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
//!    ([`io_fused_cmd_lease`]) and starts the secondaries ([`io_fused_cmd_start`]), or refuses
//!    ([`io_fused_cmd_fail`] then cancels all of them).
//! 3. Each secondary runs like any request of its opcode, until it is freed after its CQE was
//!    posted ([`io_fused_secondary_done`]).
//! 4. The last put of the lease's node gives the buffer back to the driver ([`lease_ended`]).
//! 5. When all of this happened, [`Group::arrive`] completes the primary.
//!
//! A lease is not needed for any of the other steps: the group only counts it as one more thing
//! that the primary waits for.
//!
//! # Locking
//!
//! All state of a group is protected by the ring's `uring_lock`. Secondaries run in parallel and in
//! any context, but they are prepared, queued and freed under the lock.

use core::ptr::{addr_of, addr_of_mut, NonNull};
use kernel::{
    bindings,
    error::to_result,
    ffi::{
        c_int,
        c_uint,
        c_void, //
    },
    prelude::*, //
};

/// What has become of a group, stored in `io_fused_group::phase`.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Phase {
    /// The secondaries wait for the driver; the primary can still fail as a whole.
    Gathered = 0,
    /// As above, and the driver's `->uring_cmd()` is running under `uring_lock`.
    Issuing = 1,
    /// The driver accepted the command in `->uring_cmd()`, secondaries start when that is over.
    Accepted = 2,
    /// The driver accepted the command outside of `uring_lock`, task work starts the secondaries.
    Queued = 3,
    /// Secondaries were issued, only their completion completes the primary.
    Started = 4,
}

/// `sqe->uring_cmd_flags` of a primary that this kernel knows.
const PRIMARY_FLAGS: u32 = bindings::IORING_FUSED_CMD_BUF;

/// Flags that make no sense on a secondary. They are taken off a malformed one before it is failed,
/// as the completion path would act on them.
const NOT_FOR_SECONDARIES: u64 = bindings::REQ_F_LINK as u64
    | bindings::REQ_F_HARDLINK as u64
    | bindings::REQ_F_IO_DRAIN as u64
    | bindings::REQ_F_BUFFER_SELECT as u64;

const EIOCBQUEUED: c_int = -(bindings::EIOCBQUEUED as c_int);

/// A chain of secondaries through `io_kiocb::comp_list`, which nobody else uses before they are
/// issued.
struct Chain(bindings::io_wq_work_list);

impl Chain {
    const fn new() -> Self {
        Chain(bindings::io_wq_work_list {
            first: core::ptr::null_mut(),
            last: core::ptr::null_mut(),
        })
    }

    /// # Safety
    ///
    /// `req` is a prepared request that is not issued and in no list, and stays so until it is
    /// popped.
    unsafe fn push(&mut self, req: NonNull<bindings::io_kiocb>) {
        // SAFETY: By the function's requirements nobody else uses the list node.
        unsafe {
            bindings::wq_list_add_tail(
                addr_of_mut!((*req.as_ptr()).__bindgen_anon_3.comp_list),
                &mut self.0,
            )
        };
    }

    fn pop(&mut self) -> Option<NonNull<bindings::io_kiocb>> {
        let node = NonNull::new(self.0.first)?;
        // SAFETY: All nodes of the chain were put there by `push()` and are still unused
        // requests.
        self.0.first = unsafe { (*node.as_ptr()).next };
        // SAFETY: As above, the node is the `comp_list` of a request.
        let req = unsafe {
            kernel::container_of!(
                node.as_ptr().cast::<bindings::io_wq_work_node>(),
                bindings::io_kiocb,
                __bindgen_anon_3.comp_list
            )
        };
        NonNull::new(req)
    }

    /// Complete all requests of the chain with `-ECANCELED`, in their order.
    ///
    /// # Safety
    ///
    /// The `uring_lock` of the requests' ring is held.
    unsafe fn cancel(&mut self, post_cqes: bool) {
        while let Some(req) = self.pop() {
            let req = req.as_ptr();
            // SAFETY: The request is ours: it was prepared and never issued. `uring_lock` is held.
            unsafe {
                (*req).flags &= !NOT_FOR_SECONDARIES;
                bindings::io_req_defer_failed(req, ECANCELED.to_errno());
                if !post_cqes {
                    (*req).flags |= bindings::REQ_F_CQE_SKIP as u64;
                }
            }
        }
    }
}

/// A primary whose group is initialised.
///
/// # Invariants
///
/// The pointer is to a live request of opcode `IORING_OP_FUSED_CMD` whose async data is a `struct
/// io_async_cmd` with an initialised group; the `uring_lock` of its ring is held while the value is
/// used, or the request was not yet given to anybody else.
#[derive(Clone, Copy)]
struct Group(NonNull<bindings::io_kiocb>);

impl Group {
    /// Returns the group of `req`, if its preparation came as far as to have one.
    ///
    /// # Safety
    ///
    /// `req` is a live request of opcode `IORING_OP_FUSED_CMD`, and `uring_lock` is held as long as
    /// the returned value is used.
    unsafe fn of(req: *mut bindings::io_kiocb) -> Option<Self> {
        // SAFETY: By the function's requirements.
        let flags = unsafe { (*req).flags };

        // INVARIANT: `io_fused_cmd_prep()` initialises the group right after it allocated the async
        // data, and nothing else sets the flag on a request of this opcode.
        if flags & bindings::REQ_F_ASYNC_DATA as u64 != 0 {
            NonNull::new(req).map(Self)
        } else {
            None
        }
    }

    /// # Safety
    ///
    /// `cmd` is the `struct io_uring_cmd` of a primary that was passed to the driver and has not
    /// completed.
    unsafe fn of_cmd(cmd: *mut bindings::io_uring_cmd) -> Self {
        // INVARIANT: A driver only sees primaries that `io_fused_cmd_prep()` prepared.
        // SAFETY: `cmd` is the first member of its `struct io_kiocb`, so not null.
        Self(unsafe { NonNull::new_unchecked(cmd.cast()) })
    }

    fn req(self) -> *mut bindings::io_kiocb {
        self.0.as_ptr()
    }

    fn cmd(self) -> *mut bindings::io_uring_cmd {
        self.req().cast()
    }

    fn ctx(self) -> *mut bindings::io_ring_ctx {
        // SAFETY: By the type invariant; `ctx` never changes while the request is live.
        unsafe { (*self.req()).ctx }
    }

    fn state(self) -> *mut bindings::io_fused_group {
        // SAFETY: By the type invariant the async data is a live `struct io_async_cmd`.
        unsafe { addr_of_mut!((*(*self.req()).async_data.cast::<bindings::io_async_cmd>()).group) }
    }

    fn phase(self) -> Phase {
        // SAFETY: By the type invariant the group is initialised.
        match unsafe { (*self.state()).phase } {
            0 => Phase::Gathered,
            1 => Phase::Issuing,
            2 => Phase::Accepted,
            3 => Phase::Queued,
            _ => Phase::Started,
        }
    }

    fn set_phase(self, phase: Phase) {
        // SAFETY: By the type invariant the group is ours to write.
        unsafe { (*self.state()).phase = phase as u8 };
    }

    fn wants_buffer(self) -> bool {
        // SAFETY: By the type invariant the command is prepared; its flags do not change.
        unsafe { (*self.cmd()).flags & bindings::IORING_FUSED_CMD_BUF != 0 }
    }

    /// Take the secondaries that wait for the primary.
    fn take_gathered(self) -> Chain {
        // SAFETY: By the type invariant the group is initialised and ours to write.
        let state = unsafe { &mut *self.state() };

        state.nr = 0;
        Chain(core::mem::replace(&mut state.gathered, Chain::new().0))
    }

    /// Give up the group's own reference on the leased buffer.
    fn put_lease(self) {
        // SAFETY: By the type invariant the group is ours to write.
        let node = unsafe { core::mem::replace(&mut (*self.state()).node, core::ptr::null_mut()) };

        if !node.is_null() {
            // SAFETY: The reference was the group's; `uring_lock` is held by the type invariant.
            unsafe { bindings::io_put_rsrc_node(self.ctx(), node) };
        }
    }

    /// Issue the secondaries, in SQE order.
    fn start(self) {
        let mut chain = self.take_gathered();
        // SAFETY: By the type invariant the group is initialised.
        let node = unsafe { (*self.state()).node };

        self.set_phase(Phase::Started);
        while let Some(secondary) = chain.pop() {
            let secondary = secondary.as_ptr();

            // SAFETY: The secondary is prepared and was not issued, so all of it is ours, and
            // `io_fused_queue_secondary()` may be called for it once, under `uring_lock`. The node
            // is live as the group holds a reference.
            unsafe {
                if !node.is_null() {
                    (*node).refs += 1;
                    (*secondary).__bindgen_anon_2.buf_node = node;
                    (*secondary).flags |= bindings::REQ_F_BUF_NODE as u64;
                }
                (*secondary).flags |= bindings::REQ_F_FUSED as u64;
                (*secondary).fused = self.req();
                bindings::io_fused_queue_secondary(secondary);
            }
        }
        self.put_lease();
        if self.arrive() {
            // SAFETY: The primary is complete, and nobody else completes it.
            unsafe { bindings::io_req_complete_defer(self.req()) };
        }
    }

    /// One of the things that the primary waits for has happened. Returns `true` for the last of
    /// them, with the result of the primary set: the caller has to complete it.
    fn arrive(self) -> bool {
        // SAFETY: By the type invariant the group is initialised and ours to write.
        let state = unsafe { &mut *self.state() };

        state.pending -= 1;
        if state.pending != 0 {
            return false;
        }

        let req = self.req();
        let res = if state.error != 0 {
            // SAFETY: The primary is live and only we touch it.
            unsafe { bindings::req_set_fail(req) };
            state.error
        } else {
            i32::try_from(state.bytes).unwrap_or(i32::MAX)
        };
        // SAFETY: As above.
        unsafe {
            (*req).cqe.res = res;
            (*req).cqe.__bindgen_anon_1.flags = 0;
        }
        true
    }

    /// As [`Self::arrive`], for events that happen while completed requests are freed: the loop
    /// that frees them posts what is put on `fused_done` next.
    fn arrive_and_post(self) {
        if self.arrive() {
            let req = self.req();

            // SAFETY: The primary is complete and in no list; `uring_lock` is held.
            unsafe {
                bindings::wq_list_add_tail(
                    addr_of_mut!((*req).__bindgen_anon_3.comp_list),
                    addr_of_mut!((*(*req).ctx).__bindgen_anon_2.submit_state.fused_done),
                )
            };
        }
    }
}

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
    // SAFETY: `req` is being initialised; `io_fused_cmd_gather()` looks at the flags in any case.
    unsafe { (*req.cast::<bindings::io_uring_cmd>()).flags = 0 };

    // SAFETY: `sqe` is valid for reads; user space may write to it, so each field is read once.
    let (pad, flags, cmd_op) = unsafe {
        let op = addr_of!((*sqe).__bindgen_anon_1.__bindgen_anon_1);
        (
            addr_of!((*op).__pad1).read_volatile(),
            addr_of!((*sqe).__bindgen_anon_3.uring_cmd_flags).read_volatile(),
            addr_of!((*op).cmd_op).read_volatile(),
        )
    };

    // SAFETY: `req` is valid by the function's requirements.
    let req_flags = unsafe { (*req).flags };
    if pad != 0
        || flags & !PRIMARY_FLAGS != 0
        || req_flags & bindings::REQ_F_BUFFER_SELECT as u64 != 0
    {
        return EINVAL.to_errno();
    }

    // SAFETY: `req` is being initialised under `uring_lock`, which protects the cache.
    let data = unsafe { bindings::io_uring_alloc_async_cmd(req) }.cast::<bindings::io_async_cmd>();
    if data.is_null() {
        return ENOMEM.to_errno();
    }

    // SAFETY: `data` was just allocated and `cmd` is the command of `req`.
    unsafe {
        addr_of_mut!((*data).group).write(pin_init::zeroed());
        (*req).flags |= bindings::REQ_F_NEED_CLEANUP as u64;

        let cmd = req.cast::<bindings::io_uring_cmd>();
        (*cmd).flags = flags;
        (*cmd).cmd_op = cmd_op;
        (*cmd).sqe = sqe;
    }
    bindings::IOU_FUSED_GATHER as c_int
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
    // SAFETY: As in `io_fused_cmd_prep()`.
    let nr = unsafe { addr_of!((*sqe).__bindgen_anon_4.nr_secondary).read_volatile() };
    let mut dirs = 0;
    let mut chain = Chain::new();
    let mut result = to_result(ret.min(0));

    if nr == 0 || u32::from(nr) > bindings::IORING_FUSED_MAX_SECONDARY {
        result = result.and(Err(EINVAL));
    }

    for index in 0..nr {
        let mut ret = 0;
        // SAFETY: `uring_lock` is held and this is the submission that `left` belongs to.
        let secondary = unsafe { bindings::io_fused_take_secondary(req, left, &mut ret) };
        if ret == ENODATA.to_errno() {
            result = result.and(Err(EINVAL));
            break;
        }
        result = result.and(to_result(ret));

        let Some(secondary) = NonNull::new(secondary) else {
            // This one is consumed. Go on with the rest of the group.
            continue;
        };

        // SAFETY: The secondary is ours; `io_fused_take_secondary()` validated its opcode. The
        // index of a group that is accepted fits, see the check of `nr` above.
        unsafe {
            (*secondary.as_ptr()).fused_index = index as u8;
            dirs |= direction((*secondary.as_ptr()).opcode);
            chain.push(secondary);
        }
    }

    if let Err(e) = result {
        // SAFETY: `uring_lock` is held.
        unsafe { chain.cancel(true) };
        return e.to_errno();
    }

    // SAFETY: `uring_lock` is held.
    if let Some(group) = unsafe { Group::of(req) } {
        // SAFETY: By the invariant of `Group`.
        let state = unsafe { &mut *group.state() };

        state.gathered = chain.0;
        state.nr = nr as u8;
        state.dirs = dirs;
        // The secondaries, and the end of `Group::start()`.
        state.pending = nr + 1;
    }
    0
}

/// What `opcode` does to a leased buffer as a secondary: bits of `IO_BUF_*`.
fn direction(opcode: u8) -> u8 {
    // SAFETY: The table has an entry for every opcode, and requests only have valid opcodes.
    let def = unsafe {
        &*addr_of!(bindings::io_issue_defs)
            .cast::<bindings::io_issue_def>()
            .add(usize::from(opcode))
    };
    def.fused_dir
}

/// Number of secondaries that wait for the primary `req`.
///
/// # Safety
///
/// `req` is a live primary and `uring_lock` is held.
#[export]
unsafe extern "C" fn io_fused_nr_secondaries(req: *mut bindings::io_kiocb) -> c_uint {
    // SAFETY: By the function's requirements.
    match unsafe { Group::of(req) } {
        // SAFETY: By the invariant of `Group`.
        Some(group) => unsafe { (*group.state()).nr.into() },
        None => 0,
    }
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
    if let Some(group) = unsafe { Group::of(req) } {
        defer_secondaries(group, true);
    }
}

/// Keep what the secondaries have from their submission: the SQEs, and with `creds` the
/// credentials, which must not be those of the primary then.
fn defer_secondaries(group: Group, creds: bool) {
    let mut kept = Chain::new();
    // SAFETY: By the invariant of `Group`.
    let nr = unsafe { (*group.state()).nr };
    let mut chain = group.take_gathered();

    while let Some(secondary) = chain.pop() {
        // SAFETY: The secondary is prepared and not issued, and goes from one chain to the other.
        unsafe {
            bindings::io_fused_defer_secondary(secondary.as_ptr(), creds);
            kept.push(secondary);
        }
    }
    // SAFETY: By the invariant of `Group`.
    let state = unsafe { &mut *group.state() };
    state.gathered = kept.0;
    state.nr = nr;
}

/// Issue the primary: hand it to the driver.
///
/// # Safety
///
/// The contract of `io_issue_def::issue`.
#[export]
unsafe extern "C" fn io_fused_cmd(req: *mut bindings::io_kiocb, issue_flags: c_uint) -> c_int {
    // SAFETY: By the contract of `issue` the request is prepared and has its file.
    let (group, fops) = unsafe {
        (
            Group::of_cmd(req.cast()),
            &*(*(*req).__bindgen_anon_1.file).f_op,
        )
    };

    let Some(uring_cmd) = fops.uring_cmd else {
        return EOPNOTSUPP.to_errno();
    };
    if fops.fop_flags & bindings::FOP_URING_CMD_FUSED == 0 {
        return EOPNOTSUPP.to_errno();
    }

    // SAFETY: The command is valid.
    let ret = unsafe { bindings::security_uring_cmd(group.cmd()) };
    if ret != 0 {
        return ret;
    }

    let locked = issue_flags & bindings::io_uring_cmd_flags_IO_URING_F_UNLOCKED as c_uint == 0;
    if locked {
        group.set_phase(Phase::Issuing);
    }

    // SAFETY: A driver that sets `FOP_URING_CMD_FUSED` takes primaries in its `->uring_cmd()`.
    let mut ret = unsafe { uring_cmd(group.cmd(), issue_flags | command_flags(group)) };

    if ret >= 0 {
        // Nothing to lend, and nothing against the secondaries.
        // SAFETY: The driver did not take the command, so it is still ours.
        ret = unsafe { io_fused_cmd_start(group.cmd(), issue_flags) };
    }
    if !locked {
        // In io-wq the group is not ours to look at any more if it was accepted.
        return ret;
    }
    if group.phase() == Phase::Accepted && ret == EIOCBQUEUED {
        return bindings::IOU_FUSED_START;
    }
    if group.phase() == Phase::Issuing {
        group.set_phase(Phase::Gathered);
        // A driver that starts the command later does so after the SQEs are gone.
        if ret == EIOCBQUEUED
            && issue_flags & bindings::io_uring_cmd_flags_IO_URING_F_INLINE as c_uint != 0
        {
            defer_secondaries(group, false);
        }
    }
    if ret == EAGAIN.to_errno() {
        // SAFETY: The driver did not take the command, so it is still ours.
        unsafe { (*group.cmd()).flags |= bindings::IORING_URING_CMD_REISSUE };
    }
    ret
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
    unsafe { Group::of_cmd(req.cast()) }.start();
}

/// The state of the ring that drivers of uring commands are told.
fn command_flags(group: Group) -> c_uint {
    // SAFETY: By the invariant of `Group`; the ring's setup flags do not change.
    let (setup, compat) = unsafe {
        (
            (*group.ctx()).__bindgen_anon_1.flags,
            bindings::io_is_compat(group.ctx()),
        )
    };
    let mut flags = bindings::io_uring_cmd_flags_IO_URING_F_FUSED;

    if setup & bindings::IORING_SETUP_SQE128 != 0 {
        flags |= bindings::io_uring_cmd_flags_IO_URING_F_SQE128;
    }
    if setup & (bindings::IORING_SETUP_CQE32 | bindings::IORING_SETUP_CQE_MIXED) != 0 {
        flags |= bindings::io_uring_cmd_flags_IO_URING_F_CQE32;
    }
    if compat {
        flags |= bindings::io_uring_cmd_flags_IO_URING_F_COMPAT;
    }
    flags as c_uint
}

/// Did the application ask for a leased buffer?
///
/// # Safety
///
/// See `include/linux/io_uring/fused.h`.
#[export]
unsafe extern "C" fn io_fused_cmd_wants_buf(cmd: *mut bindings::io_uring_cmd) -> bool {
    // SAFETY: By the function's requirements.
    unsafe { Group::of_cmd(cmd) }.wants_buffer()
}

/// Lease a buffer to the secondaries of `cmd`.
///
/// Fails with `-EINVAL` if the application did not ask for a buffer, if there is a lease already,
/// or if a secondary would use the buffer in the wrong direction; with `-ENOMEM` if there is no
/// memory for the lease.
///
/// # Safety
///
/// See `include/linux/io_uring/fused.h`.
#[export]
unsafe extern "C" fn io_fused_cmd_lease(
    cmd: *mut bindings::io_uring_cmd,
    lease: *const bindings::io_fused_lease,
    issue_flags: c_uint,
) -> c_int {
    // SAFETY: By the function's requirements.
    let (group, lease) = unsafe { (Group::of_cmd(cmd), &*lease) };
    let dir = 1u8 << (lease.dir & 1);
    let ctx = group.ctx();

    // SAFETY: The flags are those of the current issue, so they tell whether the lock is held.
    unsafe { bindings::io_ring_submit_lock(ctx, issue_flags) };
    // SAFETY: By the invariant of `Group`, and `uring_lock` is held now.
    let state = unsafe { &mut *group.state() };
    let ret = if !group.wants_buffer()
        || !state.node.is_null()
        || state.phase > Phase::Issuing as u8
        || state.dirs & !dir != 0
        || lease.len == 0
    {
        EINVAL.to_errno()
    } else {
        // SAFETY: `uring_lock` is held.
        let node = unsafe { bindings::io_lease_node_alloc(ctx) };
        if node.is_null() {
            ENOMEM.to_errno()
        } else {
            // SAFETY: The node and its buffer are new, and ours to fill in.
            unsafe {
                let buf = (*node).__bindgen_anon_1.buf;
                (*buf).len = lease.len;
                (*buf).dir = dir;
                (*buf).release = Some(lease_ended);
                (*buf).priv_ = group.req().cast();
                bindings::io_imu_lease(buf).write(bindings::io_imu_lease {
                    bvec: lease.bvec,
                    nr_bvecs: lease.nr_bvecs,
                    skip: lease.skip,
                });
            }
            state.node = node;
            state.release = lease.release;
            state.priv_ = lease.priv_;
            state.pending += 1;
            0
        }
    };
    // SAFETY: The counterpart of the lock above.
    unsafe { bindings::io_ring_submit_unlock(ctx, issue_flags) };
    ret
}

/// The last reference on a leased buffer is gone.
///
/// # Safety
///
/// Called by `io_buffer_unmap()` for a buffer that [`io_fused_cmd_lease`] set up, with `uring_lock`
/// held.
unsafe extern "C" fn lease_ended(primary: *mut c_void) {
    // SAFETY: The lease is counted in `pending`, so the primary has not completed.
    let group = unsafe { Group::of_cmd(primary.cast()) };
    // SAFETY: By the invariant of `Group`.
    let state = unsafe { &mut *group.state() };

    if let Some(release) = state.release.take() {
        // SAFETY: It is called once, for what the driver passed with it.
        unsafe { release(state.priv_) };
    }
    if group.phase() == Phase::Started {
        group.arrive_and_post();
    }
}

/// Issue the secondaries of `cmd`: after its issue, or at once if that is over, or, outside of
/// `uring_lock`, from task work.
///
/// # Safety
///
/// See `include/linux/io_uring/fused.h`.
#[export]
unsafe extern "C" fn io_fused_cmd_start(
    cmd: *mut bindings::io_uring_cmd,
    issue_flags: c_uint,
) -> c_int {
    // SAFETY: By the function's requirements.
    let group = unsafe { Group::of_cmd(cmd) };
    // SAFETY: By the invariant of `Group`.
    let leased = unsafe { !(*group.state()).node.is_null() };

    if group.wants_buffer() != leased {
        return EINVAL.to_errno();
    }
    if issue_flags & bindings::io_uring_cmd_flags_IO_URING_F_UNLOCKED as c_uint != 0 {
        group.set_phase(Phase::Queued);
        // SAFETY: The primary is issued and waits for nothing else.
        unsafe {
            (*group.req()).__bindgen_anon_4.io_task_work.func = Some(start_in_task);
            bindings::io_req_task_work_add(group.req());
        }
    } else if group.phase() == Phase::Issuing {
        group.set_phase(Phase::Accepted);
    } else {
        group.start();
    }
    EIOCBQUEUED
}

/// # Safety
///
/// Called by io_uring as task work of a primary that [`io_fused_cmd_start`] accepted.
unsafe extern "C" fn start_in_task(tw_req: bindings::io_tw_req, tw: bindings::io_tw_token_t) {
    // SAFETY: Task work runs with `uring_lock` held, and the request is a primary.
    let group = unsafe { Group::of_cmd(tw_req.req.cast()) };

    if tw.cancel {
        // SAFETY: The primary was not started, so it is completed here and nowhere else.
        unsafe { bindings::io_req_defer_failed(group.req(), ECANCELED.to_errno()) };
    } else {
        group.start();
    }
}

/// The primary failed before its secondaries were issued: cancel them and end the lease.
///
/// # Safety
///
/// Called with `uring_lock` held, before the primary's own completion is queued.
#[export]
unsafe extern "C" fn io_fused_cmd_fail(req: *mut bindings::io_kiocb) {
    // SAFETY: By the function's requirements.
    let Some(group) = (unsafe { Group::of(req) }) else {
        return;
    };

    if group.phase() != Phase::Started {
        // A link that fails without CQEs takes the CQEs of the group with it.
        // SAFETY: `req` is live.
        let post_cqes = unsafe { (*req).flags } & bindings::REQ_F_CQE_SKIP as u64 == 0;

        // SAFETY: `uring_lock` is held.
        unsafe { group.take_gathered().cancel(post_cqes) };
        group.put_lease();
    }
}

/// A secondary is done: its CQE was posted or skipped, and it is about to be freed.
///
/// # Safety
///
/// Called once for a request with `REQ_F_FUSED`, with `uring_lock` held, before what it owns is
/// released.
#[export]
unsafe extern "C" fn io_fused_secondary_done(req: *mut bindings::io_kiocb) {
    // SAFETY: The primary waits for this secondary.
    let (group, res, index) = unsafe {
        (
            Group::of_cmd((*req).fused.cast()),
            (*req).cqe.res,
            (*req).fused_index,
        )
    };
    // SAFETY: By the invariant of `Group`.
    let state = unsafe { &mut *group.state() };

    match u32::try_from(res) {
        Ok(count) => {
            state.bytes += u64::from(count);
            // SAFETY: By the function's requirements, the secondary still holds the lease.
            unsafe { zero_rest(req, count) };
        }
        Err(_) => {
            if state.error == 0 || index < state.error_index {
                state.error = res;
                state.error_index = index;
            }
        }
    }
    group.arrive_and_post();
}

/// Zero what a short read left unwritten of its range, so that no stale memory gets out.
///
/// # Safety
///
/// `req` is a completed secondary that still holds its reference on the leased buffer, if any.
unsafe fn zero_rest(req: *mut bindings::io_kiocb, count: u32) {
    // SAFETY: By the function's requirements.
    let (flags, opcode) = unsafe { ((*req).flags, (*req).opcode) };

    if flags & bindings::REQ_F_BUF_NODE as u64 == 0
        || u32::from(direction(opcode)) != bindings::IO_BUF_DEST
    {
        return;
    }
    // SAFETY: With `REQ_F_BUF_NODE`, the request holds a reference on the node and its buffer.
    let kind = unsafe { (*(*(*req).__bindgen_anon_2.buf_node).__bindgen_anon_1.buf).flags };
    if u32::from(kind) & bindings::IO_REGBUF_F_LEASE == 0 {
        return;
    }

    let (mut offset, mut len) = (0u64, 0u32);
    // SAFETY: All opcodes that write a leased buffer are executed as `IORING_OP_READ_FIXED`.
    unsafe { bindings::io_rw_fixed_range(req, &mut offset, &mut len) };
    if count >= len {
        return;
    }

    let mut iter = core::mem::MaybeUninit::<bindings::iov_iter>::uninit();
    let rest = (len - count) as usize;
    // SAFETY: The request has its buffer node. The range is part of the one that the request was
    // executed with, so that the import succeeds; if not, `iter` is not used.
    unsafe {
        let ret = bindings::io_import_reg_buf(
            req,
            iter.as_mut_ptr(),
            offset + u64::from(count),
            rest,
            bindings::ITER_DEST as c_int,
            0,
        );
        if ret == 0 {
            bindings::iov_iter_zero(rest, iter.as_mut_ptr());
        }
    }
}
