// SPDX-License-Identifier: GPL-2.0

//! The state of a group, and the two ways to hold it.
//!
//! [`Issue`] is a group in the hands of whoever issues its primary, which needs no lock because
//! nobody else looks at the group yet. [`Group`] is a group under the ring's `uring_lock`, which is
//! what everything that happens later needs.
//!
//! A group is made by the preparation of its primary and ends in [`Group::end`], when the primary
//! is completed or goes back to the driver.

#[path = "parts.rs"]
mod parts;

pub(crate) use parts::PartDone;

use super::{
    chain::Chain,
    coverage::Coverage,
    secondary, //
};
use core::ptr::{
    addr_of_mut,
    null_mut,
    NonNull, //
};
use kernel::{
    bindings,
    ffi::c_void,
    prelude::*, //
};

/// What has become of a group, stored in `io_fused_group::phase`.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Phase {
    /// The secondaries wait for the driver; the primary can still fail as a whole.
    Gathered = 0,
    /// The driver accepted the command under `uring_lock`, the secondaries start when its
    /// `->uring_cmd()` is over.
    Accepted = 1,
    /// The driver accepted the command outside of `uring_lock`, task work starts the secondaries.
    Queued = 2,
    /// Secondaries were issued, only their completion completes the primary.
    Started = 3,
}

/// A group that exists, and its primary.
///
/// # Invariants
///
/// Points to an initialised `struct io_fused_group` whose `primary` is a live request of opcode
/// `IORING_OP_FUSED_CMD`, or a leader. `whole`, if it is not null, is another such group.
#[derive(Clone, Copy)]
struct Raw(NonNull<bindings::io_fused_group>);

impl Raw {
    fn primary(self) -> *mut bindings::io_kiocb {
        // SAFETY: By the type invariant; nobody changes `primary`.
        unsafe { (*self.0.as_ptr()).primary }
    }

    fn cmd(self) -> *mut bindings::io_uring_cmd {
        // The command is the first member of its request.
        self.primary().cast()
    }

    fn ctx(self) -> *mut bindings::io_ring_ctx {
        // SAFETY: By the type invariant; `ctx` never changes while the request is live.
        unsafe { (*self.primary()).ctx }
    }

    fn phase(self) -> Phase {
        // SAFETY: By the type invariant.
        match unsafe { (*self.0.as_ptr()).phase } {
            0 => Phase::Gathered,
            1 => Phase::Accepted,
            2 => Phase::Queued,
            _ => Phase::Started,
        }
    }

    /// The group of the command `cmd`.
    ///
    /// # Safety
    ///
    /// `cmd` is the command of a primary that was passed to the driver and has its group yet.
    unsafe fn of_cmd(cmd: *mut bindings::io_uring_cmd) -> Self {
        // INVARIANT: A driver only sees primaries that `io_fused_cmd_prep()` has prepared, and such
        // a group exists until it ends.
        // SAFETY: `cmd` is the first member of its request, whose group is not null then.
        Self(unsafe { NonNull::new_unchecked((*cmd.cast::<bindings::io_kiocb>()).group) })
    }
}

/// The group of a primary that is being issued.
///
/// # Invariants
///
/// The current context issues the primary, and nothing was started. So nobody else looks at the
/// group, whether `uring_lock` is held or not.
#[must_use]
pub(crate) struct Issue(Raw);

impl Issue {
    /// # Safety
    ///
    /// `cmd` is the command of a primary. As long as the value is used, the type invariants hold
    /// for it, and there is no other reference to its group.
    pub(crate) unsafe fn of_cmd(cmd: *mut bindings::io_uring_cmd) -> Self {
        // INVARIANT: By the safety requirement.
        // SAFETY: By the safety requirement; a group that was not started has not ended.
        Self(unsafe { Raw::of_cmd(cmd) })
    }

    pub(crate) fn state(&mut self) -> &mut bindings::io_fused_group {
        // SAFETY: By the invariants of `Raw` the group is initialised, and by those of `Self` it is
        // ours.
        unsafe { self.0 .0.as_mut() }
    }

    pub(crate) fn primary(&self) -> *mut bindings::io_kiocb {
        self.0.primary()
    }

    pub(crate) fn wants_buffer(&self) -> bool {
        // SAFETY: By the invariants of `Raw` the command is prepared; its flags do not change.
        unsafe { (*self.0.cmd()).flags & bindings::IORING_FUSED_CMD_BUF != 0 }
    }

    pub(crate) fn phase(&self) -> Phase {
        self.0.phase()
    }

    pub(crate) fn set_phase(&mut self, phase: Phase) {
        self.state().phase = phase as u8;
    }

    /// Sets up the lease, which nobody uses yet, with one reference. The last put calls `release`
    /// with the group.
    // There is one caller, but the compiler does not inline it by itself.
    #[inline(always)]
    pub(crate) fn set_up_lease(
        &mut self,
        lease: &bindings::io_fused_lease,
        dir: u8,
        release: unsafe extern "C" fn(*mut c_void),
    ) {
        // SAFETY: The group is initialised, and ours by the type invariant.
        unsafe { set_up_lease(self.0 .0.as_ptr(), lease, dir, release) };
    }
}

/// Sets up the lease of a group or a part, which nobody uses yet, with one reference. The last put
/// calls `release` with the group.
///
/// # Safety
///
/// `state` is memory for a group, and the caller's.
// There are few callers, but the compiler does not inline it by itself.
#[inline(always)]
unsafe fn set_up_lease(
    state: *mut bindings::io_fused_group,
    lease: &bindings::io_fused_lease,
    dir: u8,
    release: unsafe extern "C" fn(*mut c_void),
) {
    let flags = bindings::IO_REGBUF_F_KBUF | bindings::IO_REGBUF_F_LEASE;

    // SAFETY: The lease is a part of the group, which is ours. No value of its fields needs to be
    // dropped.
    unsafe {
        let imu = addr_of_mut!((*state).lease.imu);
        addr_of_mut!((*state).lease).write(bindings::io_lease {
            node: bindings::io_rsrc_node {
                type_: bindings::IORING_RSRC_BUFFER as u8,
                refs: 1,
                __bindgen_anon_1: bindings::io_rsrc_node__bindgen_ty_1 { buf: imu },
                ..pin_init::zeroed()
            },
            bvec: lease.bvec,
            nr_bvecs: lease.nr_bvecs,
            skip: lease.skip,
            imu: bindings::io_mapped_ubuf {
                ubuf: 0,
                len: lease.len,
                nr_bvecs: 0,
                folio_shift: 0,
                refs: pin_init::zeroed(),
                flags: flags as u8,
                dir,
                release: Some(release),
                priv_: state.cast(),
                bvec: bindings::__IncompleteArrayField::new(),
            },
        });
        (*state).release = lease.release;
        (*state).priv_ = lease.priv_;
        (*state).leased = true;
    }
}

/// A group under the lock of its ring.
///
/// # Invariants
///
/// The `uring_lock` of the ring is held.
#[must_use]
pub(crate) struct Group(Raw);

impl Group {
    /// Makes the group of `req`. Returns [`ENOMEM`] if there is no memory.
    ///
    /// # Safety
    ///
    /// `req` is a primary or leader that is being prepared and has no group yet, `uring_lock` is
    /// held and the ring's `group_cache` is initialised.
    pub(crate) unsafe fn create(req: *mut bindings::io_kiocb) -> Result {
        // SAFETY: By the safety requirement.
        let group = unsafe {
            bindings::io_cache_alloc(addr_of_mut!((*(*req).ctx).__bindgen_anon_2.group_cache))
        };
        let group = group.cast::<bindings::io_fused_group>();
        if group.is_null() {
            return Err(ENOMEM);
        }
        // The memory was zeroed when it came to the cache, so it holds a group at any time. Only
        // what another one has left there is written. The lease is set up when there is one, see
        // `Issue::set_up_lease()`, and `filled` is said when those that borrow it are started;
        // parts have memory of their own, so there is no `whole`; and a group ends with nothing
        // `gathered`, and with `accepted` forgotten.
        // SAFETY: The memory was just allocated and has this size.
        unsafe {
            (*group).primary = req;
            (*group).part = null_mut();
            (*group).done = None;
            (*group).bytes = 0;
            (*group).error = 0;
            (*group).pending = 0;
            (*group).nr = 0;
            (*group).nr_extra = 0;
            (*group).nr_leased = 0;
            (*group).error_index = 0;
            (*group).dirs = 0;
            (*group).phase = Phase::Gathered as u8;
            (*group).leased = false;
            (*group).breaks_link = false;
            (*group).has_cmd = false;
            (*group).is_sqe_group = false;
            (*group).skips_cqe = false;
            (*req).group = group;
        }
        Ok(())
    }

    /// Returns the group of `req`, if its preparation came as far as to have one.
    ///
    /// # Safety
    ///
    /// `req` is a live request of opcode `IORING_OP_FUSED_CMD` or a leader, it was not started,
    /// `uring_lock` is held as long as the value is used, and there is no other reference to the
    /// group meanwhile.
    pub(crate) unsafe fn of(req: *mut bindings::io_kiocb) -> Option<Self> {
        // SAFETY: By the safety requirement.
        let flags = unsafe { (*req).flags };

        if flags & (bindings::REQ_F_ASYNC_DATA as u64 | bindings::REQ_F_SQE_GROUP as u64) == 0 {
            return None;
        }
        // INVARIANT: `io_fused_cmd_prep()` makes the group before it allocates the async data, and
        // nothing else sets the flag on a request of this opcode. A leader that was gathered has
        // its group as long as it has its flag. A group that has ended is null.
        // `uring_lock` is held by the safety requirement.
        // SAFETY: By the safety requirement.
        NonNull::new(unsafe { (*req).group }).map(|group| Self(Raw(group)))
    }

    /// Returns the group of `req`, which was prepared.
    ///
    /// # Safety
    ///
    /// `io_fused_cmd_prep()` succeeded for `req`, or `req` is a leader with its group, and the
    /// group has not ended; `uring_lock` is held as long as the value is used, and there is no
    /// other reference to the group meanwhile.
    pub(crate) unsafe fn prepared(req: *mut bindings::io_kiocb) -> Self {
        // INVARIANT: By the safety requirement.
        // SAFETY: By the safety requirement; the command is the first member of the request.
        Self(unsafe { Raw::of_cmd(req.cast()) })
    }

    /// # Safety
    ///
    /// `group` is a group that has not ended; `uring_lock` is held as long as the value is used,
    /// and there is no other reference to the group meanwhile.
    pub(crate) unsafe fn from_raw(group: NonNull<bindings::io_fused_group>) -> Self {
        // INVARIANT: By the safety requirement. The primary completes when its group ends, so it is
        // live.
        Self(Raw(group))
    }

    pub(crate) fn state(&mut self) -> &mut bindings::io_fused_group {
        // SAFETY: By the invariants of `Raw` the group is initialised, and by those of `Self` it is
        // protected by the lock.
        unsafe { self.0 .0.as_mut() }
    }

    pub(crate) fn phase(&self) -> Phase {
        self.0.phase()
    }

    /// Number of requests that wait for the primary: its secondaries, and what these need.
    pub(crate) fn nr_waiting(&self) -> u32 {
        // SAFETY: As in `state()`.
        let state = unsafe { self.0 .0.as_ref() };

        u32::from(state.nr) + u32::from(state.nr_extra)
    }

    /// Lets `chain` wait for the primary.
    pub(crate) fn set_gathered(&mut self, chain: Chain) {
        self.state().gathered = chain.into_raw();
    }

    /// Takes the secondaries that wait for the primary.
    pub(crate) fn take_gathered(&mut self) -> Chain {
        let state = self.state();
        let list = core::mem::replace(&mut state.gathered, Chain::new().into_raw());

        // SAFETY: The list was stored by `set_gathered()`, or by the initialisation as an empty
        // one, and was just replaced.
        unsafe { Chain::from_raw(list) }
    }

    /// Keeps what the SQEs of the secondaries say, and who submitted them, for a later start.
    ///
    /// # Safety
    ///
    /// This is still their submission.
    pub(crate) unsafe fn defer(&mut self) {
        let mut chain = self.take_gathered();
        let mut kept = Chain::new();

        while let Some(secondary) = chain.pop() {
            // SAFETY: By the safety requirement. The secondary is prepared and not issued, and goes
            // from one chain to the other.
            unsafe {
                bindings::io_fused_defer_secondary(secondary.as_ptr());
                kept.push(secondary);
            }
        }
        self.set_gathered(kept);
    }

    /// Issues the secondaries, in SQE order.
    #[inline(always)]
    pub(crate) fn start(mut self) {
        let state = self.state();

        if state.leased && state.nr == 1 {
            self.start_one();
        } else if state.part.is_null() {
            self.start_all();
        } else {
            self.start_parts();
        }
    }

    /// As [`start`](Self::start), of a group that has no parts.
    #[inline(never)]
    fn start_all(mut self) {
        let (nr, nr_leased) = (self.state().nr, self.state().nr_leased);
        let group = self.0 .0.as_ptr();
        let mut chain = self.take_gathered();
        let state = self.state();
        let mut node = null_mut();
        let mut coverage = None;

        state.phase = Phase::Started as u8;
        state.filled = false;
        if state.leased {
            node = addr_of_mut!(state.lease.node);
            // A reference for each secondary; that of the group is the last one's. A group that is
            // started has at least one, and all of them are in the chain. In an SQE group those
            // count that want it, or there would be no lease.
            state.lease.node.refs += i32::from(nr_leased) - 1;
            // The end of the lease is that of all of these.
            state.pending = nr - nr_leased + 1;
            // A driver that keeps the command takes all of the buffer for good data.
            if state.done.is_some() {
                // SAFETY: By the type invariant of the chain they are prepared and not issued. A
                // command that is kept leads no SQE group, see `io_fused_cmd_start()`, so all of
                // them borrow the buffer; if it is to be written then they write it, or the lease
                // would have been refused.
                coverage = unsafe { Coverage::of_several(&state.lease.imu, &chain, nr) };
            }
        } else {
            state.pending = nr;
        }
        // From here on no reference to the group is held. Secondaries that have completed may be
        // freed before all are queued: a multishot request that posts a CQE while it is issued
        // flushes them, see `io_req_post_cqe()`. But each secondary counts, with its reference of
        // the lease or in `pending`, and is not freed before it was queued. So the group can not
        // end before the last one was.
        while let Some(secondary) = chain.pop() {
            let secondary = secondary.as_ptr();

            // SAFETY: The secondary is prepared and was not issued, so all of it is ours, and
            // `io_fused_queue_secondary()` may be called for it once, under `uring_lock`. If there
            // is a node, one of its references is for this secondary, if it leases; and if the
            // buffer is to be written, then all of these write it, or the group would have been
            // refused. The group has not ended, as it waits for this one; and as `uring_lock` is
            // held, nobody else refers to it before this one is queued.
            unsafe {
                if !node.is_null() && secondary::is_leased(secondary) {
                    (*secondary).__bindgen_anon_2.buf_node = node;
                    (*secondary).flags |= bindings::REQ_F_BUF_NODE as u64;
                    if let Some(coverage) = &mut coverage {
                        if !coverage.add(secondary, chain.is_empty()) {
                            let index = (*secondary).fused_index;
                            secondary::fail(&mut *group, EIO.to_errno(), index);
                        }
                    }
                }
                bindings::io_fused_queue_secondary(secondary);
            }
        }
    }

    /// As [`start`](Self::start), of a group whose only secondary borrows the lease, which most
    /// are: that spares them 40 instructions.
    #[inline(never)]
    fn start_one(mut self) {
        let group = self.0 .0.as_ptr();
        let Some(secondary) = self.take_gathered().pop() else {
            // There is one: it was counted.
            return;
        };
        let secondary = secondary.as_ptr();
        let state = self.state();

        state.phase = Phase::Started as u8;
        // The reference of the group is that of the secondary, and the end of the lease is all that
        // the primary waits for.
        state.pending = 1;
        state.filled = false;
        // SAFETY: As in `start_all()`: the secondary is ours, prepared and not issued, and the
        // reference of the node is for it. That keeps the group until it was queued, and nobody
        // else refers to the group before.
        unsafe {
            (*secondary).__bindgen_anon_2.buf_node = addr_of_mut!(state.lease.node);
            (*secondary).flags |= bindings::REQ_F_BUF_NODE as u64;
            if state.done.is_some() {
                if let Some(mut coverage) = Coverage::of(&state.lease.imu) {
                    if coverage.is_all(secondary) {
                        state.filled = true;
                    } else if !coverage.add(secondary, true) {
                        let index = (*secondary).fused_index;
                        secondary::fail(&mut *group, EIO.to_errno(), index);
                    }
                }
            }
            bindings::io_fused_queue_secondary(secondary);
        }
    }

    /// One of the things that the primary waits for has happened: the end of the lease, or of a
    /// secondary without one. The last of them completes the primary, or gives it back to the
    /// driver.
    ///
    /// This happens while completed requests are freed: the loop that frees them posts what is put
    /// on `fused_done` next.
    // What is not needed to give it back has functions of its own: 15 instructions less.
    #[inline(always)]
    pub(crate) fn arrive(mut self) {
        let primary = self.0.primary();
        let state = self.state();

        state.pending -= 1;
        if state.pending != 0 {
            return;
        }
        if !state.whole.is_null() {
            return self.part_arrived();
        }
        let Some(done) = state.done else {
            return self.complete();
        };
        let res = result_of(state);

        self.end();
        // SAFETY: The driver passed it for this, and nothing of the group is left: the command
        // belongs to the driver. `uring_lock` is held, as it was for the group.
        unsafe { done(primary.cast(), res) };
    }

    /// All that a part waits for has happened.
    #[inline(never)]
    fn part_arrived(mut self) {
        let state = self.state();
        let (res, fails) = (result_of(state), breaks_link(state));
        let mut whole = self.end_part(res);

        whole.state().breaks_link |= fails;
        whole.arrive();
    }

    /// All that the primary waits for has happened, and the driver does not want it back.
    #[inline(never)]
    fn complete(mut self) {
        let primary = self.0.primary();
        let state = self.state();
        let (res, fails) = (result_of(state), breaks_link(state));
        // A leader has a result of its own; it has lent its buffer, if it is one that does that.
        let (is_sqe_group, leased) = (state.is_sqe_group, state.leased);

        self.end();
        // SAFETY: The primary is live, complete and in no list, and only we touch it; `uring_lock`
        // is held.
        unsafe {
            if fails {
                bindings::req_set_fail(primary);
            }
            if !is_sqe_group {
                (*primary).cqe.res = res;
                (*primary).cqe.__bindgen_anon_1.flags = 0;
            } else if leased {
                (*primary).cqe.res = 0;
                (*primary).cqe.__bindgen_anon_1.flags = 0;
            }
            bindings::wq_list_add_tail(
                addr_of_mut!((*primary).__bindgen_anon_3.comp_list),
                addr_of_mut!((*(*primary).ctx).__bindgen_anon_2.submit_state.fused_done),
            );
        }
    }

    /// The primary fails before its secondaries were issued: cancels them, ends the lease and the
    /// group. A leader may have been issued.
    pub(crate) fn cancel(mut self) {
        let (ctx, primary) = (self.0.ctx(), self.0.primary());
        // A link that fails without CQEs takes the CQEs of the group with it.
        // SAFETY: The primary is live.
        let post_cqes = unsafe { (*primary).flags } & bindings::REQ_F_CQE_SKIP as u64 == 0;

        // SAFETY: `uring_lock` is held by the type invariant.
        unsafe { self.take_gathered().cancel(post_cqes) };
        let state = self.state();
        let mut next = state.part;
        if state.leased {
            let node = addr_of_mut!(state.lease.node);
            // SAFETY: The reference was the group's. This calls `lease_ended()`, which makes a
            // reference of its own to the group, while none is held here.
            unsafe { bindings::io_put_rsrc_node(ctx, node) };
        }
        while let Some(part) = NonNull::new(next) {
            // SAFETY: The part belongs to the group until its lease ends, which this does. As
            // above.
            unsafe {
                next = (*part.as_ptr()).part;
                bindings::io_put_rsrc_node(ctx, addr_of_mut!((*part.as_ptr()).lease.node));
            }
        }
        self.end();
    }

    /// Frees the group; its primary is an ordinary command now, or about to be completed. Nothing
    /// waits for a leader any more.
    pub(crate) fn end(self) {
        let (group, primary, ctx) = (self.0 .0, self.0.primary(), self.0.ctx());

        // SAFETY: The group came from this cache, and nobody refers to it any more: its secondaries
        // and its lease are over, and the primary forgets it here. `uring_lock` protects the cache.
        unsafe {
            (*primary).group = null_mut();
            (*primary).flags &= !(bindings::REQ_F_SQE_GROUP as u64);
            bindings::io_cache_free(
                addr_of_mut!((*ctx).__bindgen_anon_2.group_cache),
                group.as_ptr().cast(),
            );
        }
    }
}

/// The result of a group or a part that is over: the sum of the bytes, or the first error.
fn result_of(state: &bindings::io_fused_group) -> i32 {
    if state.error != 0 {
        state.error
    } else {
        i32::try_from(state.bytes).unwrap_or(i32::MAX)
    }
}

/// What breaks a link behind a secondary alone, such as a short read, breaks that of the group.
fn breaks_link(state: &bindings::io_fused_group) -> bool {
    state.error != 0 || state.breaks_link
}

/// The last reference on a leased buffer is gone.
///
/// # Safety
///
/// Called for what [`set_up_lease`] set up, by who has put that reference, with `uring_lock`
/// held: by `io_free_rsrc_node()`, or by a secondary that knows that it has the last one.
pub(crate) unsafe extern "C" fn lease_ended(group: *mut c_void) {
    // SAFETY: The group is live: it has not ended before its lease did. It has no other reference
    // now, see `Group::cancel()` and the callers of `io_put_rsrc_node()` elsewhere, which know
    // nothing of groups.
    let mut group = unsafe { Group::from_raw(NonNull::new_unchecked(group.cast())) };
    let state = group.state();
    let private = state.priv_;

    if let Some(release) = state.release.take() {
        // SAFETY: It is called once, for what the driver passed with it.
        unsafe { release(private) };
    }
    if group.phase() == Phase::Started {
        group.arrive();
    } else if !group.state().whole.is_null() {
        // The whole is being canceled, and ends without waiting for it.
        let _ = group.end_part(ECANCELED.to_errno());
    }
}
