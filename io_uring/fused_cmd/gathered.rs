// SPDX-License-Identifier: GPL-2.0

//! The secondaries of a group while they are taken from the ring.
//!
//! Whatever is wrong with one of them, all that belongs to the group is taken: nothing of it may be
//! mistaken for an ordinary request.

use super::{
    chain::Chain,
    group::Group,
    secondary, //
};
use core::ptr::{
    null,
    NonNull, //
};
use kernel::{
    bindings,
    error::from_err_ptr,
    ffi::{
        c_int,
        c_uint, //
    },
    prelude::*, //
};

/// The most members of an SQE group: no SQ ring has more entries.
const MAX_MEMBERS: u16 = 32768;

/// Which secondaries there can be, so that each has code of its own.
pub(super) trait Form {
    /// Whether these are only the secondaries of a fused command that was prepared, each in an SQE
    /// of its own.
    const IS_PLAIN: bool;
}

/// These only.
pub(super) struct Plain;

impl Form for Plain {
    const IS_PLAIN: bool = true;
}

/// An inline one, and members of an SQE group, as well.
pub(super) struct Any;

impl Form for Any {
    const IS_PLAIN: bool = false;
}

/// The secondaries of a primary while they are taken from the ring.
pub(super) struct Gathered {
    /// The primary, which is being initialised.
    req: *mut bindings::io_kiocb,
    /// The number of SQEs of the submission that are left.
    left: *mut c_uint,
    /// The primary's SQE, if its second half is to be taken next; else null.
    pub(super) inline_of: *const bindings::io_uring_sqe,
    /// The number of SQEs of their own that are to be taken, as far as it is known: each member of
    /// an SQE group tells whether there is one more.
    pub(super) nr: u16,
    chain: Chain,
    /// Length of the chain.
    taken: u16,
    /// Bits of `IO_BUF_*`: what they do to the buffer.
    dirs: u8,
    /// Requests that the preparation of secondaries took for them.
    nr_extra: u16,
    /// Secondaries that take their buffer from a lease.
    pub(super) nr_leased: u16,
    /// Whether one of them is a uring command.
    has_cmd: bool,
}

impl Gathered {
    /// Nothing is taken yet of the `nr` SQEs behind that of `req`.
    pub(super) fn new(req: *mut bindings::io_kiocb, left: *mut c_uint, nr: u16) -> Self {
        Gathered {
            req,
            left,
            inline_of: null(),
            nr,
            chain: Chain::new(),
            taken: 0,
            dirs: 0,
            nr_extra: 0,
            nr_leased: 0,
            has_cmd: false,
        }
    }

    /// Leaves what was taken to `group`, whose primary is ready now.
    pub(super) fn hand_to(self, group: &mut Group) {
        let state = group.state();

        state.dirs = self.dirs;
        state.has_cmd = self.has_cmd;
        state.nr = self.taken;
        state.nr_extra = self.nr_extra;
        state.nr_leased = self.nr_leased;
        group.set_gathered(self.chain);
    }

    /// Take and check the secondaries of a fused command, and leave them to its group. Returns
    /// what [`io_fused_cmd_gather`](super::io_fused_cmd_gather) does.
    ///
    /// # Safety
    ///
    /// As for [`take_all`](Self::take_all), and the fused command was prepared.
    // Each form has its own: not inlined otherwise.
    #[inline(always)]
    pub(super) unsafe fn complete<F: Form>(mut self) -> c_int {
        // SAFETY: By the function's requirements.
        if let Err(e) = unsafe { self.take_all::<F>() } {
            // SAFETY: By the function's requirements; `inline_of` is still set only if nothing was
            // taken after the primary.
            return unsafe { self.refuse(e) };
        }
        // SAFETY: `uring_lock` is held, and this is the only reference to the group, which the
        // preparation has set up.
        let mut group = unsafe { Group::prepared(self.req) };
        self.hand_to(&mut group);
        0
    }

    /// Take and check the secondaries, up to the first one that is malformed.
    ///
    /// # Safety
    ///
    /// `uring_lock` is held, `req` is a primary that is being initialised and `left` belongs to its
    /// submission. There are separate secondaries to be taken, or `inline_of` is the primary's SQE
    /// and the last one that was taken. They are of this form.
    // Each form has its own: not inlined otherwise.
    #[inline(always)]
    pub(super) unsafe fn take_all<F: Form>(&mut self) -> Result {
        // For the plug. Of an SQE group it is not known, and an inline secondary is no SQE.
        // SAFETY: By the function's requirements.
        unsafe {
            let ctx = (*self.req).ctx;
            (*ctx).__bindgen_anon_2.submit_state.fused_behind = self.nr.max(1);
        }
        loop {
            // SAFETY: By the function's requirements; there is one at first, and then while the
            // loop goes on.
            let secondary = unsafe { self.take::<F>() }?;

            // SAFETY: Its opcode is valid, and it was prepared unless an error is stored in it. It
            // is ours and not issued.
            unsafe {
                let ret = (*secondary.as_ptr()).cqe.res;
                if ret < 0 {
                    self.add_behind(secondary);
                    return Err(Error::from_errno(ret));
                }
                self.nr_extra += secondary::nr_notifs(secondary.as_ptr());
                if F::IS_PLAIN || !self.of_leader() || secondary::is_leased(secondary.as_ptr()) {
                    secondary::check(secondary.as_ptr())?;
                    self.dirs |= secondary::needed_direction(secondary.as_ptr());
                    self.has_cmd |= secondary::is_command(secondary.as_ptr());
                    self.nr_leased += 1;
                }
            }
            // A group has separate secondaries, or an inline one.
            if self.nr == 0 {
                return Ok(());
            }
        }
    }

    /// Take the second half of the primary's SQE or the next SQE, whether it is malformed or not.
    ///
    /// # Safety
    ///
    /// As for [`take_all`](Self::take_all), and there is one to be taken.
    #[inline(always)]
    unsafe fn take<F: Form>(&mut self) -> Result<NonNull<bindings::io_kiocb>> {
        let inline_of = core::mem::replace(&mut self.inline_of, null());
        if inline_of.is_null() {
            self.nr -= 1;
        }

        let mut more = false;
        // SAFETY: By the function's requirements.
        let taken = unsafe {
            if F::IS_PLAIN {
                bindings::io_fused_take_next(self.req, self.left)
            } else {
                bindings::io_fused_take_secondary(self.req, inline_of, self.left, &raw mut more)
            }
        };
        let index = self.taken;
        self.taken = index.saturating_add(1);
        // Who goes on to add SQEs while they are taken has an end as well.
        let endless = more && self.taken >= MAX_MEMBERS;
        // Unless it is one of those that were counted before, and not the last.
        self.nr += u16::from(more && self.nr == 0);
        let secondary = from_err_ptr(taken).map_err(|e| {
            if endless {
                self.nr = 0;
            }
            // Else it is consumed, but it is not there, or there was no memory for a request.
            if e == ENODATA {
                // There are no more behind a separate one that is missing.
                if inline_of.is_null() {
                    self.nr = 0;
                }
                return EINVAL;
            }
            e
        })?;

        // SAFETY: Neither of them returns null. The secondary is ours, and is not issued.
        unsafe {
            // The number of a fused command that is accepted fits; members need none.
            (*secondary).fused_index = index as u8;
            let secondary = NonNull::new_unchecked(secondary);
            self.chain.push(secondary);
            if endless {
                self.nr = 0;
                return Err(EINVAL);
            }
            Ok(secondary)
        }
    }

    /// As [`take`](Self::take), of a group that has failed: its error is known.
    ///
    /// # Safety
    ///
    /// As for [`take`](Self::take).
    #[cold]
    unsafe fn take_in_vain(&mut self) {
        // SAFETY: By the function's requirements.
        let Ok(secondary) = (unsafe { self.take::<Any>() }) else {
            return;
        };
        // SAFETY: It was just taken, is ours and not issued; a negative result is its error.
        unsafe {
            if (*secondary.as_ptr()).cqe.res < 0 {
                self.add_behind(secondary);
            }
        }
    }

    /// What `secondary` says to have behind it is to be taken, if that is more than the group has,
    /// as far as a group may go.
    ///
    /// # Safety
    ///
    /// It was [taken](Self::take), with an error, and nothing was done with it since.
    #[cold]
    unsafe fn add_behind(&mut self, secondary: NonNull<bindings::io_kiocb>) {
        if self.taken < MAX_MEMBERS {
            // SAFETY: By the function's requirements it is ours, and who took it has stored there
            // what `io_fused_refuse()` says: a number of 16 bits.
            let behind = unsafe { (*secondary.as_ptr()).cqe.__bindgen_anon_1.flags };
            self.nr = self.nr.max(behind as u16);
        }
    }

    /// Whether this is an SQE group.
    fn of_leader(&self) -> bool {
        // SAFETY: The primary is being initialised by whoever owns this value.
        unsafe { (*self.req).flags & bindings::REQ_F_SQE_GROUP as u64 != 0 }
    }

    /// Completes all that belongs to a fused command which fails with `e`, its error then.
    ///
    /// # Safety
    ///
    /// As for [`Self::abandon`].
    #[cold]
    #[inline(never)]
    pub(super) unsafe fn refuse(mut self, e: Error) -> c_int {
        let req = self.req;

        // It says that it leads an SQE group as well, which it may not: what that would have as
        // members must not be mistaken for ordinary requests either. There is one at least.
        if self.of_leader() {
            self.nr = self.nr.max(1);
        }
        // SAFETY: By the safety requirements. The primary is being initialised, and the command is
        // its first member. It leads nothing when this is over.
        unsafe {
            if !self.inline_of.is_null() {
                self.take_in_vain();
                // Those that are left are whole SQEs, whatever else it has said.
                (*req.cast::<bindings::io_uring_cmd>()).flags &= !bindings::IORING_FUSED_CMD_INLINE;
            }
            self.abandon();
            (*req).flags &= !(bindings::REQ_F_SQE_GROUP as u64);
        }
        e.to_errno()
    }

    /// The group failed: take what is left of it, if anything, and cancel all.
    ///
    /// # Safety
    ///
    /// `uring_lock` is held, `req` is a primary that is being initialised and `left` belongs to its
    /// submission. `inline_of` is null, or the primary's SQE and the last one that was taken.
    #[cold]
    #[inline(never)]
    pub(super) unsafe fn abandon(mut self) {
        while self.nr > 0 || !self.inline_of.is_null() {
            // SAFETY: By the function's requirements.
            unsafe { self.take_in_vain() };
        }
        // SAFETY: By the function's requirements `uring_lock` is held.
        unsafe { self.chain.cancel(true) };
    }
}
