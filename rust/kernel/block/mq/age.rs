// SPDX-License-Identifier: GPL-2.0

//! How long ago a request was made.
//!
//! C header: [`include/linux/blk-mq.h`](srctree/include/linux/blk-mq.h)

use super::RequestView;
use crate::{
    bindings,
    time::{
        Delta,
        Instant,
        Monotonic, //
    }, //
};

impl RequestView {
    /// How long ago the block layer made the request; [`None`] if it does not keep statistics for
    /// this disk, and so has not looked at the clock.
    ///
    /// Any context but an NMI. Reads the C field `start_time_ns`.
    pub fn age(&self) -> Option<Delta> {
        // SAFETY: By the type invariants the request is valid. The fields are written before it is
        // given to the driver; other flags may change.
        let (start, flags) = unsafe {
            let rq = self.as_raw();
            (
                (*rq).start_time_ns,
                (&raw const (*rq).rq_flags).read_volatile(),
            )
        };
        // Else it is that of an earlier request, or none.
        if flags & (1 << bindings::rqf_flags___RQF_IO_STAT) == 0 {
            return None;
        }
        let now = Instant::<Monotonic>::now().as_nanos();
        Some(Delta::from_nanos(now.saturating_sub(start as i64).max(0)))
    }
}
