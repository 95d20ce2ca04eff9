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
/// Its items run on any CPU, many at a time. Dropping it waits until all items have run; so the
/// last owner must not be one of them.
///
/// It does not give out a plain [`Queue`], because that takes delayed items: destroying the queue
/// does not wait for an item whose time has not come, which would then be enqueued in a queue that
/// is gone.
///
/// Wraps C's `struct workqueue_struct`.
///
/// # Context
///
/// It must be dropped in process context, and sleeps then. Items may be enqueued in any context.
///
/// # Examples
///
/// ```
/// use kernel::{
///     sync::{
///         Arc,
///         Completion, //
///     },
///     workqueue::OwnedQueue, //
/// };
///
/// let queue = OwnedQueue::new(c"rust_doctest")?;
/// let done = Arc::pin_init(Completion::new(), GFP_KERNEL)?;
/// let signal = done.clone();
/// queue.try_spawn(GFP_KERNEL, move || signal.complete_all())?;
/// drop(queue);
/// done.wait_for_completion();
///
/// // One that memory reclaim may depend on.
/// drop(OwnedQueue::for_reclaim(c"rust_doctest")?);
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
    /// Makes an unbound work queue. Fails with `ENOMEM`.
    ///
    /// # Context
    ///
    /// Process context; may sleep. Wraps C's `alloc_workqueue()` with `WQ_UNBOUND`.
    pub fn new(name: &CStr) -> Result<Self> {
        Self::with_flags(name, bindings::wq_flags_WQ_UNBOUND)
    }

    /// Makes an unbound work queue whose items make progress without memory: at least one of them
    /// at a time, even if no thread can be created for it. For items that the writing back of dirty
    /// memory may wait for. Fails with `ENOMEM`.
    ///
    /// Such an item must not wait for items of a queue that was made without this.
    ///
    /// # Context
    ///
    /// Process context; may sleep. Wraps C's `alloc_workqueue()` with `WQ_UNBOUND` and
    /// `WQ_MEM_RECLAIM`.
    pub fn for_reclaim(name: &CStr) -> Result<Self> {
        let flags = bindings::wq_flags_WQ_UNBOUND | bindings::wq_flags_WQ_MEM_RECLAIM;
        Self::with_flags(name, flags)
    }

    fn with_flags(name: &CStr, flags: bindings::wq_flags) -> Result<Self> {
        // SAFETY: Both strings are nul-terminated, and the format takes one string, which is
        // copied.
        let queue = unsafe {
            bindings::alloc_workqueue_noprof(c"%s".as_char_ptr(), flags, 0, name.as_char_ptr())
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

    /// Runs `func` as a work item, as [`Queue::try_spawn`] does. Fails if there is no memory for
    /// it; may sleep if `flags` allow that.
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
        // SAFETY: By the type invariant, the queue is ours. There are no delayed items for it, and
        // nobody enqueues any more, as that takes a reference to `self`.
        unsafe { bindings::destroy_workqueue(self.queue.as_ptr()) };
    }
}
