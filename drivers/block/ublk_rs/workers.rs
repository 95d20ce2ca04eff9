// SPDX-License-Identifier: GPL-2.0

//! The work queues that all devices share.

use kernel::{
    prelude::*,
    sync::Arc,
    workqueue::OwnedQueue, //
};

/// Runs what must not be done where it is noticed.
pub(crate) struct Workers {
    /// Cleans up after servers. Memory may be short then, and what would give some back may wait
    /// for a disk whose server is gone; so requests are aborted first, which allocates nothing.
    pub(crate) release: OwnedQueue,
    /// Looks for partitions. A queue of its own, as it waits for servers.
    pub(crate) scan: OwnedQueue,
}

impl Workers {
    pub(crate) fn new() -> Result<Arc<Self>> {
        let workers = Self {
            release: OwnedQueue::for_reclaim(c"ublk_rs")?,
            scan: OwnedQueue::new(c"ublk_rs_scan")?,
        };
        Ok(Arc::new(workers, GFP_KERNEL)?)
    }
}
