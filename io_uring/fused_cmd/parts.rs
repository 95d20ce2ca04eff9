// SPDX-License-Identifier: GPL-2.0

//! A group with several leases.
//!
//! Each lease makes a part of the group: it is lent to a run of secondaries, and ends when these
//! are done, whatever the others do. A part is an `io_fused_group` of its own, in memory that the
//! driver has given for it, whose `whole` is the group of the primary. The whole waits for its
//! parts, as it would wait for its secondaries.

use super::super::{
    chain::Chain,
    coverage::Coverage,
    secondary, //
};
use super::{
    lease_ended,
    set_up_lease,
    Group,
    Issue,
    Phase,
    Raw, //
};
use core::ptr::{
    addr_of_mut,
    null_mut,
    NonNull, //
};
use kernel::{
    bindings,
    ffi::{
        c_int,
        c_void, //
    },
    prelude::*, //
};

/// How the driver gets a part back: `io_fused_group::part_done`.
pub(crate) type PartDone =
    unsafe extern "C" fn(*mut bindings::io_fused_part, *mut c_void, c_int) -> bool;

impl Issue {
    /// Whether there are several leases.
    pub(crate) fn has_parts(&mut self) -> bool {
        !self.state().part.is_null()
    }

    /// Whether there are several leases, and each secondary has one to borrow.
    pub(crate) fn is_lent(&mut self) -> bool {
        let state = self.state();

        !state.part.is_null() && state.behind_parts.is_null()
    }

    /// Adds a lease, which nobody uses yet, for the next `nr` secondaries: `part` becomes a part of
    /// the group. Fails with [`EINVAL`] if there are less, or if they do not go with the lease.
    ///
    /// # Safety
    ///
    /// `part` is memory of this type that nobody uses, and that is left to the group until `done`
    /// is called. That may be called, once, with what `lease` says.
    pub(crate) unsafe fn add_part(
        &mut self,
        part: NonNull<bindings::io_fused_group>,
        lease: &bindings::io_fused_lease,
        nr: u8,
        dir: u8,
        done: PartDone,
    ) -> Result {
        let whole = self.0 .0.as_ptr();
        let state = self.state();
        let mut next = if state.part.is_null() {
            state.gathered.first
        } else {
            state.behind_parts
        };

        for _ in 0..nr {
            let node = NonNull::new(next).ok_or(EINVAL)?;
            // SAFETY: The secondaries that wait are in this list, and nobody changes it while the
            // primary is issued.
            unsafe {
                let req = Chain::request(node).as_ptr();
                if secondary::needed_direction(req) & !dir != 0 || secondary::is_command(req) {
                    return Err(EINVAL);
                }
                next = (*node.as_ptr()).next;
            }
        }

        let ptr = part.as_ptr();
        // SAFETY: By the safety requirement the memory is ours. All of it is written before there
        // is a reference.
        unsafe {
            (*ptr).primary = (*whole).primary;
            (*ptr).whole = whole;
            (*ptr).part = null_mut();
            (*ptr).last_part = null_mut();
            (*ptr).behind_parts = null_mut();
            (*ptr).gathered = Chain::new().into_raw();
            (*ptr).done = None;
            (*ptr).part_done = Some(done);
            (*ptr).accepted = null_mut();
            (*ptr).bytes = 0;
            (*ptr).error = 0;
            (*ptr).pending = 1;
            (*ptr).nr = nr.into();
            (*ptr).nr_leased = nr.into();
            (*ptr).nr_extra = 0;
            (*ptr).error_index = 0;
            (*ptr).dirs = dir;
            (*ptr).phase = Phase::Gathered as u8;
            (*ptr).breaks_link = false;
            (*ptr).has_cmd = false;
            (*ptr).is_sqe_group = false;
            (*ptr).skips_cqe = false;
            (*ptr).filled = false;
            set_up_lease(ptr, lease, dir, lease_ended);
        }
        let state = self.state();
        if state.part.is_null() {
            state.part = ptr;
        } else {
            // SAFETY: The last part belongs to the group, which is ours.
            unsafe { (*state.last_part).part = ptr };
        }
        state.last_part = ptr;
        state.behind_parts = next;
        // The whole waits for each of them.
        state.pending += 1;
        Ok(())
    }
}

impl Group {
    /// Issues the secondaries of a group with several leases, in SQE order.
    pub(super) fn start_parts(mut self) {
        let mut chain = self.take_gathered();
        let state = self.state();
        let mut next = state.part;

        state.phase = Phase::Started as u8;
        // From here on no reference to the group is held, see `start_all()`: neither it nor a part
        // can end before its last secondary was queued. They may end soon after that, so a part is
        // asked for the next one before its secondaries are queued.
        while let Some(part) = NonNull::new(next) {
            let ptr = part.as_ptr();
            // SAFETY: A part belongs to the group until its lease ends. That of this one has not
            // ended, as none of its secondaries was queued. There is no other reference to it.
            let (nr, node, mut coverage) = unsafe {
                next = (*ptr).part;
                (*ptr).phase = Phase::Started as u8;
                // As in `start_all()`.
                (*ptr).lease.node.refs += i32::from((*ptr).nr) - 1;
                (
                    (*ptr).nr,
                    addr_of_mut!((*ptr).lease.node),
                    if (*ptr).nr == 1 {
                        Coverage::of(&(*ptr).lease.imu)
                    } else {
                        // As there; `add_part()` has checked that they go with the lease.
                        Coverage::of_several(&(*ptr).lease.imu, &chain, (*ptr).nr)
                    },
                )
            };
            for left in (0..nr).rev() {
                // The numbers add up: see `Issue::is_lent()`.
                let Some(secondary) = chain.pop() else {
                    return;
                };
                let secondary = secondary.as_ptr();

                // SAFETY: As in `start_all()`, of the part's node and its secondaries.
                unsafe {
                    (*secondary).group = ptr;
                    (*secondary).__bindgen_anon_2.buf_node = node;
                    (*secondary).flags |= bindings::REQ_F_BUF_NODE as u64;
                    if let Some(coverage) = &mut coverage {
                        if nr == 1 && coverage.is_all(secondary) {
                            (*ptr).filled = true;
                        } else if !coverage.add(secondary, left == 0) {
                            let index = (*secondary).fused_index;
                            secondary::fail(&mut *ptr, EIO.to_errno(), index);
                        }
                    }
                    bindings::io_fused_queue_secondary(secondary);
                }
            }
        }
    }

    /// A part is over with `res`: the driver gets it back. Returns the whole, which waited for it.
    pub(super) fn end_part(mut self, res: i32) -> Self {
        let part = self.0 .0;
        let state = self.state();
        let (whole, done, private) = (state.whole, state.part_done, state.priv_);

        // SAFETY: A part ends before its whole does.
        let mut whole = Self(Raw(unsafe { NonNull::new_unchecked(whole) }));
        if let Some(done) = done {
            // SAFETY: It is called once, for what the driver passed with it, and nobody refers to
            // the part any more: its secondaries and its lease are over. `uring_lock` is held.
            let counts = unsafe { done(part.as_ptr().cast(), private, res) };
            whole.state().bytes += u64::from(counts);
        }
        whole
    }
}
