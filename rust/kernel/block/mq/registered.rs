// SPDX-License-Identifier: GPL-2.0

//! Registering the pages of a request with io_uring.

use super::{
    driver_request::Answer,
    operations::DriverOps,
    Operations,
    Request, //
};
use crate::{
    bindings,
    error::to_result,
    io_uring::{
        CmdRef,
        IssueFlags, //
    },
    prelude::*,
    sync::{
        aref::ARef,
        Arc, //
    },
    types::ForeignOwnable, //
};

impl<T: Operations> Request<T> {
    /// Registers the pages of a request as the buffer `index` of the ring of `cmd`.
    ///
    /// The reference goes to the table. When the buffer was removed from there, and the last of its
    /// users is done, [`Operations::lease_ended`] gets the reference back.
    ///
    /// If it is a request that the driver has sent to itself, then the table keeps its buffer only,
    /// and [`Operations::lease_ended`] gets the reference back before this returns. So such a
    /// request can end although its buffer is still registered.
    ///
    /// Fails with `EINVAL` if the ring has no such index or the request no data, with `EBUSY` if
    /// the index is taken, and with `ENOMEM`; the reference is returned with the error.
    ///
    /// # Context
    ///
    /// Process context; may sleep. If `flags` do not prove that the ring's lock is held, then this
    /// takes it, and the lock of no other ring may be held.
    ///
    /// Wraps C's `io_buffer_register_request()` and `io_buffer_register_bvec()`.
    // By itself the compiler does not; it spares a request some 20 instructions.
    #[inline(always)]
    pub fn register_buffer(
        this: ARef<Self>,
        cmd: CmdRef<'_>,
        index: u32,
        flags: IssueFlags<'_>,
    ) -> Result<(), (Error, ARef<Self>)> {
        if !this.has_data() {
            return Err((EINVAL, this));
        }
        if let Some(answer) = this.answer() {
            return match this.register_answer(answer, cmd, index, flags) {
                Ok(()) => {
                    T::lease_ended(this);
                    Ok(())
                }
                Err(e) => Err((e, this)),
            };
        }
        let (cmd, bits) = cmd.raw(flags);
        let rq = ARef::into_raw(this);

        // SAFETY: The command is valid, and the flags tell truly whether the lock of its ring is
        // held. The reference that was given up keeps the request in flight, and so its pages,
        // until `release()` takes it.
        let ret = unsafe {
            bindings::io_buffer_register_request(
                cmd,
                rq.as_ptr().cast(),
                Some(release),
                index,
                bits,
            )
        };
        if ret == 0 {
            return Ok(());
        }
        to_result(ret).map_err(|e| {
            // SAFETY: It was given up above. After an error, nobody else takes it.
            (e, unsafe { ARef::from_raw(rq) })
        })
    }

    /// Registers the buffer of a request of the driver's own, which keeps the buffer only.
    fn register_answer(
        &self,
        answer: Arc<Answer>,
        cmd: CmdRef<'_>,
        index: u32,
        flags: IssueFlags<'_>,
    ) -> Result {
        let mut table = KVec::with_capacity(self.bvecs().count(), GFP_NOIO)?;
        for bv in self.bvecs() {
            table.push(bv, GFP_NOIO)?;
        }
        let (cmd, bits) = cmd.raw(flags);

        answer.lend();
        let answer = answer.into_foreign();
        // SAFETY: The command is valid, and the flags tell truly whether the lock of its ring is
        // held. The table is copied. What it describes is the buffer of the answer itself, of which
        // the block layer has made no copy: `execute_in()` refuses a buffer that would need one.
        // The reference that was given up keeps it until `release_answer()` takes it.
        let ret = unsafe {
            bindings::io_buffer_register_bvec(
                cmd,
                table.as_ptr(),
                table.len() as c_uint,
                Some(release_answer),
                answer,
                1 << bindings::READ,
                index,
                bits,
            )
        };
        to_result(ret).inspect_err(|_| {
            // SAFETY: It was given up above. After an error, nobody else takes it.
            unsafe { release_answer(answer) }
        })
    }
}

/// Called by io_uring when the last user of a registered answer is gone.
///
/// # Safety
///
/// `answer` must be a reference that [`Request::register_answer`] gave up.
// Not to be copied into a module, as `release()`.
#[inline(never)]
unsafe extern "C" fn release_answer(answer: *mut c_void) {
    // SAFETY: By the safety requirement.
    let answer = unsafe { <Arc<Answer> as ForeignOwnable>::from_foreign(answer) };

    answer.give_back();
}

/// Called by io_uring when the last user of a registered request is gone.
///
/// Nothing keeps the driver's module for io_uring, which has the buffer in a table, and once the
/// driver has ended the request, nothing keeps the disk. So this is a function of the kernel image,
/// and the queue is in use until the driver's has returned: the removal of the disk waits for that,
/// and the module for the disk.
///
/// # Safety
///
/// `rq` must be a request with a reference that [`Request::register_buffer`] gave up.
// Nor may the compiler make a copy of it for the module.
#[inline(never)]
unsafe extern "C" fn release(rq: *mut c_void) {
    let rq = rq.cast::<bindings::request>();
    // SAFETY: By the safety requirement the request is in flight, and so its queue is there.
    let usage = unsafe { &raw mut (*(*rq).q).q_usage_counter };

    // SAFETY: The counter is not zero: the request holds a reference.
    unsafe { bindings::percpu_ref_get(usage) };
    // SAFETY: By the safety requirement.
    unsafe { DriverOps::lease_ended(rq) };
    // SAFETY: The reference was taken above.
    unsafe { bindings::percpu_ref_put(usage) };
}
