// SPDX-License-Identifier: GPL-2.0

//! Work queues of a driver's own.

use super::{
    Queue,
    RawWorkItem, //
};
use crate::{
    alloc::{
        AllocError,
        Flags, //
    },
    bindings,
    prelude::*, //
};
use core::ptr::NonNull;

/// A work queue that belongs to its creator.
///
/// Its items run on any CPU, many at a time. Dropping it waits until all items ran; the last owner
/// must not be one of them.
///
/// There is no way to a plain [`Queue`]: a delayed item whose time has not come is not waited for,
/// so it could be enqueued after the queue is gone.
///
/// # Examples
///
/// ```
/// use kernel::{sync::{Arc, Completion}, workqueue::OwnedQueue};
///
/// let queue = OwnedQueue::new(c"rust_doctest")?;
/// let done = Arc::pin_init(Completion::new(), GFP_KERNEL)?;
/// let signal = done.clone();
/// queue.try_spawn(GFP_KERNEL, move || signal.complete_all())?;
/// drop(queue);
/// done.wait_for_completion();
/// # Ok::<(), Error>(())
/// ```
///
/// # Invariants
///
/// `queue` is a valid work queue that `self` owns.
pub struct OwnedQueue {
    queue: NonNull<bindings::workqueue_struct>,
}

// SAFETY: A work queue may be used and destroyed by any thread that may sleep.
unsafe impl Send for OwnedQueue {}
// SAFETY: Items may be enqueued concurrently.
unsafe impl Sync for OwnedQueue {}

impl OwnedQueue {
    /// Makes an unbound work queue.
    ///
    /// Process context; may sleep. Fails with `ENOMEM`.
    ///
    /// Wraps C's `alloc_workqueue()`.
    pub fn new(name: &CStr) -> Result<Self> {
        Self::with_flags(name, 0)
    }

    /// Makes an unbound work queue whose items also run when there is no memory for more worker
    /// threads, one at a time then. For what write-back or a reclaim of memory may wait for; so what
    /// is waited for must not itself wait for memory.
    ///
    /// Otherwise as [`Self::new`]. Sets the C flag `WQ_MEM_RECLAIM`.
    pub fn for_reclaim(name: &CStr) -> Result<Self> {
        Self::with_flags(name, bindings::wq_flags_WQ_MEM_RECLAIM)
    }

    fn with_flags(name: &CStr, flags: bindings::wq_flags) -> Result<Self> {
        // SAFETY: Both strings are nul-terminated, and the format takes one string, which is
        // copied.
        let queue = unsafe {
            bindings::alloc_workqueue_noprof(
                c"%s".as_char_ptr(),
                bindings::wq_flags_WQ_UNBOUND | flags,
                0,
                name.as_char_ptr(),
            )
        };
        // INVARIANT: It is new, so it is ours.
        Ok(Self {
            queue: NonNull::new(queue).ok_or(ENOMEM)?,
        })
    }

    fn as_queue(&self) -> &Queue {
        // SAFETY: By the type invariant, the queue is valid as long as `self`.
        unsafe { Queue::from_raw(self.queue.as_ptr()) }
    }

    /// Enqueues a work item, as [`Queue::enqueue`] does.
    pub fn enqueue<W, const ID: u64>(&self, w: W) -> W::EnqueueOutput
    where
        W: RawWorkItem<ID> + Send + 'static,
    {
        self.as_queue().enqueue(w)
    }

    /// Runs `func` as a work item, as [`Queue::try_spawn`] does.
    pub fn try_spawn<T: 'static + Send + FnOnce()>(
        &self,
        flags: Flags,
        func: T,
    ) -> Result<(), AllocError> {
        self.as_queue().try_spawn(flags, func)
    }
}

impl Drop for OwnedQueue {
    fn drop(&mut self) {
        // SAFETY: By the type invariant, the queue is ours. No delayed item can be on its way to
        // it, and nobody enqueues any more, as that needs a reference to `self`.
        unsafe { bindings::destroy_workqueue(self.queue.as_ptr()) };
    }
}
