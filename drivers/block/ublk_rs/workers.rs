// SPDX-License-Identifier: GPL-2.0

//! The work queues that all devices share.

use kernel::{
    prelude::*,
    sync::Arc,
    workqueue::OwnedQueue, //
};

/// Runs what must not be done where it is noticed.
pub(crate) struct Workers {
    /// Aborts the requests of servers that are gone. Memory may be short then, and what would give
    /// some back may wait for such a disk. So that allocates nothing, and waits for no lock that is
    /// held while something is allocated.
    pub(crate) release: OwnedQueue,
    /// Cleans up afterwards, when nothing waits for the disk any more.
    pub(crate) clean: OwnedQueue,
    /// Looks for partitions. A queue of its own, as it waits for servers.
    pub(crate) scan: OwnedQueue,
}

impl Workers {
    pub(crate) fn new() -> Result<Arc<Self>> {
        let workers = Self {
            release: OwnedQueue::for_reclaim(c"ublk_rs")?,
            clean: OwnedQueue::new(c"ublk_rs_clean")?,
            scan: OwnedQueue::new(c"ublk_rs_scan")?,
        };
        Ok(Arc::new(workers, GFP_KERNEL)?)
    }
}
