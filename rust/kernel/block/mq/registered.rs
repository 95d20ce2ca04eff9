// SPDX-License-Identifier: GPL-2.0

//! Registering the pages of a request with io_uring.

use super::{
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
    sync::aref::ARef, //
};
use core::ptr::NonNull;

impl<T: Operations> Request<T> {
    /// Registers the pages of a request as the buffer `index` of the ring of `cmd`.
    ///
    /// The reference goes to the table. When the buffer was removed from there, and the last of its
    /// users is done, [`Operations::lease_ended`] gets the reference back.
    ///
    /// Fails with `EINVAL` if the ring has no such index or the request no data, with `EBUSY` if
    /// the index is taken, and with `ENOMEM`; the reference is returned with the error.
    ///
    /// # Context
    ///
    /// Process context; may sleep. If `flags` do not prove that the ring's lock is held, then this
    /// takes it, and the lock of no other ring may be held.
    ///
    /// Wraps C's `io_buffer_register_request()`.
    pub fn register_buffer(
        this: ARef<Self>,
        cmd: CmdRef<'_>,
        index: u32,
        flags: IssueFlags<'_>,
    ) -> Result<(), (Error, ARef<Self>)> {
        if !this.has_data() {
            return Err((EINVAL, this));
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
                Some(release::<T>),
                index,
                bits,
            )
        };
        to_result(ret).map_err(|e| {
            // SAFETY: It was given up above. After an error, nobody else takes it.
            (e, unsafe { ARef::from_raw(rq) })
        })
    }
}

/// Called by io_uring when the last user of a registered request is gone.
///
/// # Safety
///
/// `rq` must be a request with a reference that [`Request::register_buffer`] gave up.
unsafe extern "C" fn release<T: Operations>(rq: *mut c_void) {
    // SAFETY: By the safety requirement; a request is not null.
    let rq = unsafe { ARef::from_raw(NonNull::new_unchecked(rq.cast::<Request<T>>())) };

    T::lease_ended(rq);
}
