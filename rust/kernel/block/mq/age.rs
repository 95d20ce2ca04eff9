// SPDX-License-Identifier: GPL-2.0

//! How long ago a request was made.
//!
//! C header: [`include/linux/blk-mq.h`](srctree/include/linux/blk-mq.h)

use super::RequestView;
use crate::time::{
    Delta,
    Instant,
    Monotonic, //
};

impl RequestView {
    /// How long ago the block layer made the request; [`None`] if it does not keep statistics for
    /// this disk, and so has not looked at the clock.
    ///
    /// Any context but an NMI. Reads the C field `start_time_ns`.
    pub fn age(&self) -> Option<Delta> {
        // SAFETY: By the type invariants the request is valid. The field is written before it is
        // given to the driver.
        let start = unsafe { (*self.as_raw()).start_time_ns };
        if start == 0 {
            return None;
        }
        let now = Instant::<Monotonic>::now().as_nanos();
        Some(Delta::from_nanos(now.saturating_sub(start as i64).max(0)))
    }
}
