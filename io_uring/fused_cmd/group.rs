// SPDX-License-Identifier: GPL-2.0

//! The state of a group, and the three ways to hold it.
//!
//! [`Primary`] is the pointer. [`Issue`] is a primary in the hands of whoever issues it, which
//! needs no lock because nobody else looks at the group yet. [`Group`] is a primary under the
//! ring's `uring_lock`, which is what everything that happens later needs.

use super::chain::Chain;
use core::{
    ops::Deref,
    ptr::{addr_of_mut, null_mut, NonNull}, //
};
use kernel::{bindings, ffi::c_void};

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

/// A primary whose group is initialised.
///
/// # Invariants
///
/// The pointer is to a live request of opcode `IORING_OP_FUSED_CMD` whose async data is a `struct
/// io_async_cmd` with an initialised group.
#[derive(Clone, Copy)]
pub(crate) struct Primary(NonNull<bindings::io_kiocb>);

impl Primary {
    /// Returns the primary `req`, if its preparation came as far as to have a group.
    ///
    /// # Safety
    ///
    /// `req` is a live request of opcode `IORING_OP_FUSED_CMD` as long as the value is used.
    unsafe fn of(req: *mut bindings::io_kiocb) -> Option<Self> {
        // SAFETY: By the safety requirement.
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
    /// `cmd` is the `struct io_uring_cmd` of a primary that was passed to the driver and that is
    /// not freed as long as the value is used.
    unsafe fn of_cmd(cmd: *mut bindings::io_uring_cmd) -> Self {
        // INVARIANT: A driver only sees primaries that `io_fused_cmd_prep()` prepared.
        // SAFETY: `cmd` is the first member of its `struct io_kiocb`, so not null.
        Self(unsafe { NonNull::new_unchecked(cmd.cast()) })
    }

    pub(crate) fn req(self) -> *mut bindings::io_kiocb {
        self.0.as_ptr()
    }

    pub(crate) fn cmd(self) -> *mut bindings::io_uring_cmd {
        self.req().cast()
    }

    pub(crate) fn ctx(self) -> *mut bindings::io_ring_ctx {
        // SAFETY: By the type invariant; `ctx` never changes while the request is live.
        unsafe { (*self.req()).ctx }
    }

    pub(crate) fn wants_buffer(self) -> bool {
        // SAFETY: By the type invariant the command is prepared; its flags do not change.
        unsafe { (*self.cmd()).flags & bindings::IORING_FUSED_CMD_BUF != 0 }
    }

    fn state(self) -> *mut bindings::io_fused_group {
        // SAFETY: By the type invariant the async data is a live `struct io_async_cmd`.
        unsafe { addr_of_mut!((*(*self.req()).async_data.cast::<bindings::io_async_cmd>()).group) }
    }

    fn lease(self) -> *mut bindings::io_lease {
        // SAFETY: As in `state()`.
        unsafe { addr_of_mut!((*(*self.req()).async_data.cast::<bindings::io_async_cmd>()).lease) }
    }
}

/// A primary that is being issued.
///
/// # Invariants
///
/// The current context issues the primary, and nothing was started. So nobody else looks at the
/// group, whether `uring_lock` is held or not.
pub(crate) struct Issue(Primary);

impl Deref for Issue {
    type Target = Primary;

    fn deref(&self) -> &Primary {
        &self.0
    }
}

impl Issue {
    /// # Safety
    ///
    /// The type invariants must hold for the primary whose command is `cmd` as long as the value is
    /// used, and there must be no other reference to its group meanwhile.
    pub(crate) unsafe fn of_cmd(cmd: *mut bindings::io_uring_cmd) -> Self {
        // INVARIANT: By the safety requirement.
        // SAFETY: By the safety requirement.
        Self(unsafe { Primary::of_cmd(cmd) })
    }

    pub(crate) fn state(&mut self) -> &mut bindings::io_fused_group {
        // SAFETY: By the invariants of `Primary` the group is initialised, and by those of `Self`
        // it is ours.
        unsafe { &mut *self.0.state() }
    }

    /// Fills in the command's lease, which nobody uses yet, with one reference. The last put calls
    /// `release` with the request.
    // By itself the compiler does not, though there is one caller.
    #[inline(always)]
    pub(crate) fn set_up_lease(
        &mut self,
        lease: &bindings::io_fused_lease,
        dir: u8,
        release: unsafe extern "C" fn(*mut c_void),
    ) -> *mut bindings::io_rsrc_node {
        let flags = bindings::IO_REGBUF_F_KBUF | bindings::IO_REGBUF_F_LEASE;
        let place = self.lease();

        // SAFETY: By the invariants of `Primary` this is a part of its async data, and by those of
        // `Self` it is ours.
        unsafe {
            place.write(bindings::io_lease {
                node: bindings::io_rsrc_node {
                    type_: bindings::IORING_RSRC_BUFFER as u8,
                    refs: 1,
                    __bindgen_anon_1: bindings::io_rsrc_node__bindgen_ty_1 {
                        buf: addr_of_mut!((*place).imu),
                    },
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
                    priv_: self.req().cast(),
                    bvec: bindings::__IncompleteArrayField::new(),
                },
            });
            addr_of_mut!((*place).node)
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        // SAFETY: As in `state()`.
        phase(unsafe { &*self.0.state() })
    }

    pub(crate) fn set_phase(&mut self, phase: Phase) {
        self.state().phase = phase as u8;
    }
}

fn phase(state: &bindings::io_fused_group) -> Phase {
    match state.phase {
        0 => Phase::Gathered,
        1 => Phase::Accepted,
        2 => Phase::Queued,
        _ => Phase::Started,
    }
}

/// A primary under the lock of its ring.
///
/// # Invariants
///
/// The `uring_lock` of the primary's ring is held.
pub(crate) struct Group(Primary);

impl Deref for Group {
    type Target = Primary;

    fn deref(&self) -> &Primary {
        &self.0
    }
}

impl Group {
    /// Returns the group of `req`, if its preparation came as far as to have one.
    ///
    /// # Safety
    ///
    /// `req` is a live request of opcode `IORING_OP_FUSED_CMD`, `uring_lock` is held as long as the
    /// value is used, and there is no other reference to the group meanwhile.
    pub(crate) unsafe fn of(req: *mut bindings::io_kiocb) -> Option<Self> {
        // INVARIANT: By the safety requirement.
        // SAFETY: By the safety requirement.
        unsafe { Primary::of(req) }.map(Self)
    }

    /// Returns the group of `req`, whose preparation succeeded.
    ///
    /// # Safety
    ///
    /// As for [`of`](Self::of), and `io_fused_cmd_prep()` succeeded for `req`.
    pub(crate) unsafe fn prepared(req: *mut bindings::io_kiocb) -> Self {
        // INVARIANT: By the safety requirement; a preparation that succeeds initialises the group.
        // SAFETY: A live request is not null.
        Self(Primary(unsafe { NonNull::new_unchecked(req) }))
    }

    /// # Safety
    ///
    /// `req` is a primary that was passed to the driver and is not freed as long as the value is
    /// used, and `uring_lock` is held for as long. There is no other reference to the group
    /// meanwhile.
    pub(crate) unsafe fn of_issued(req: *mut bindings::io_kiocb) -> Self {
        // INVARIANT: By the safety requirement.
        // SAFETY: By the safety requirement; the command is the first member of the request.
        Self(unsafe { Primary::of_cmd(req.cast()) })
    }

    pub(crate) fn state(&mut self) -> &mut bindings::io_fused_group {
        // SAFETY: By the invariants of `Primary` the group is initialised, and by those of `Self`
        // it is protected by the lock.
        unsafe { &mut *self.0.state() }
    }

    pub(crate) fn phase(&self) -> Phase {
        // SAFETY: As in `state()`.
        phase(unsafe { &*self.0.state() })
    }

    /// Number of secondaries that wait for the primary.
    pub(crate) fn nr(&self) -> u8 {
        // SAFETY: As in `state()`.
        unsafe { (*self.0.state()).nr }
    }

    /// Let `chain` wait for the primary.
    pub(crate) fn set_gathered(&mut self, chain: Chain, nr: u8) {
        let state = self.state();

        state.gathered = chain.into_raw();
        state.nr = nr;
    }

    /// Take the secondaries that wait for the primary.
    pub(crate) fn take_gathered(&mut self) -> Chain {
        let state = self.state();
        let list = core::mem::replace(&mut state.gathered, Chain::new().into_raw());

        state.nr = 0;
        // SAFETY: The list was stored by `set_gathered()`, or by the initialisation as an empty
        // one, and was just replaced.
        unsafe { Chain::from_raw(list) }
    }

    /// Give up the group's own reference on the leased buffer.
    ///
    /// If that was the last one, the driver has its buffer back when this returns.
    pub(crate) fn put_lease(&mut self) {
        let ctx = self.ctx();
        let node = core::mem::replace(&mut self.state().node, null_mut());

        if !node.is_null() {
            // SAFETY: The reference was the group's; `uring_lock` is held by the type invariant.
            unsafe { bindings::io_put_rsrc_node(ctx, node) };
        }
    }

    /// Issue the secondaries, in SQE order.
    pub(crate) fn start(mut self) {
        let req = self.req();
        let mut flags = bindings::REQ_F_FUSED as u64;
        let nr = self.nr();
        let mut chain = self.take_gathered();
        let state = self.state();
        let node = core::mem::replace(&mut state.node, null_mut());

        state.phase = Phase::Started as u8;
        if !node.is_null() {
            flags |= bindings::REQ_F_BUF_NODE as u64;
            // A reference for each secondary; that of the group is the last one's. A group that is
            // started has at least one, and all of them are in the chain.
            // SAFETY: The node is live as the group holds a reference, and `uring_lock` is held.
            unsafe { (*node).refs += i32::from(nr) - 1 };
        }
        while let Some(secondary) = chain.pop() {
            let secondary = secondary.as_ptr();

            // SAFETY: The secondary is prepared and was not issued, so all of it is ours, and
            // `io_fused_queue_secondary()` may be called for it once, under `uring_lock`. If there
            // is a node, one of its references is for this secondary. No reference to the group is
            // held here.
            unsafe {
                if !node.is_null() {
                    (*secondary).__bindgen_anon_2.buf_node = node;
                }
                (*secondary).flags |= flags;
                (*secondary).fused = req;
                bindings::io_fused_queue_secondary(secondary);
            }
        }
        if self.arrive() {
            // SAFETY: The primary is complete, and nobody else completes it.
            unsafe { bindings::io_req_complete_defer(req) };
        }
    }

    /// One of the things that the primary waits for has happened. Returns `true` for the last of
    /// them, with the result of the primary set: the caller has to complete it, unless the driver
    /// got it back.
    fn arrive(&mut self) -> bool {
        let req = self.req();
        let state = self.state();

        state.pending -= 1;
        if state.pending != 0 {
            return false;
        }

        let res = if state.error != 0 {
            state.error
        } else {
            i32::try_from(state.bytes).unwrap_or(i32::MAX)
        };
        // What breaks a link behind it alone, such as a short read, breaks that of the group.
        let fails = state.error != 0 || state.is_short;

        if let Some(done) = state.done.take() {
            // SAFETY: The driver passed it for this, and nothing of the group is left: the command
            // belongs to the driver. `uring_lock` is held by the type invariant.
            unsafe { done(self.cmd(), res) };
            return false;
        }
        // SAFETY: The primary is live and only we touch it.
        unsafe {
            if fails {
                bindings::req_set_fail(req);
            }
            (*req).cqe.res = res;
            (*req).cqe.__bindgen_anon_1.flags = 0;
        }
        true
    }

    /// As [`Self::arrive`], for events that happen while completed requests are freed: the loop
    /// that frees them posts what is put on `fused_done` next.
    pub(crate) fn arrive_and_post(mut self) {
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
