// SPDX-License-Identifier: GPL-2.0

//! A place for an [`Arc`] that is filled and emptied at run time.

use super::{
    atomic::{
        ordering::{Acquire, Full, Release},
        Atomic,
    },
    Arc,
};
use crate::{prelude::*, processor::cpu_relax};
use core::{marker::PhantomData, ptr};

/// A place for an [`Arc`], for use in a `static`.
///
/// Some callbacks of a driver get no pointer to the driver's own data, for example the `open()` of
/// a misc device. With a static [`ArcSlot`] the driver publishes its data when the module is loaded
/// and takes it back when the module goes away, so that nothing outlives the module. A `static`
/// itself is never dropped; the [`ArcSlotGuard`] that [`ArcSlot::fill`] returns is what owns the
/// contents.
///
/// All methods may be called from any context, and [`ArcSlot::get`] never waits.
///
/// # Invariants
///
/// - `ptr` is null, or it came from [`Arc::into_raw`] and the slot owns that reference.
/// - `readers` is not zero while a thread may use a pointer that it loaded from `ptr` and for which
///   it does not own a reference.
///
/// # Examples
///
/// ```
/// use kernel::sync::{Arc, ArcSlot};
///
/// static LIMIT: ArcSlot<u32> = ArcSlot::new();
///
/// assert!(LIMIT.get().is_none());
/// let guard = LIMIT.fill(Arc::new(42, GFP_KERNEL)?)?;
/// assert_eq!(LIMIT.get().map(|limit| *limit), Some(42));
/// assert!(LIMIT.fill(Arc::new(43, GFP_KERNEL)?).is_err());
/// drop(guard);
/// assert!(LIMIT.get().is_none());
/// # Ok::<(), Error>(())
/// ```
pub struct ArcSlot<T> {
    ptr: Atomic<*mut T>,
    readers: Atomic<u32>,
    _owns: PhantomData<Arc<T>>,
}

// SAFETY: The slot hands out clones of one `Arc<T>` to any thread and drops it on any thread, which
// is what `Arc<T>: Send + Sync` allows.
unsafe impl<T> Sync for ArcSlot<T> where Arc<T>: Send + Sync {}

impl<T: 'static> ArcSlot<T> {
    /// Creates an empty slot.
    pub const fn new() -> Self {
        // INVARIANT: The pointer is null and there are no readers.
        Self {
            ptr: Atomic::<*mut T>::new(ptr::null_mut()),
            readers: Atomic::<u32>::new(0),
            _owns: PhantomData,
        }
    }

    /// Puts `value` into the slot, until the returned guard is dropped.
    ///
    /// Fails with [`EBUSY`] when the slot is filled already; `value` is dropped then.
    pub fn fill(&'static self, value: Arc<T>) -> Result<ArcSlotGuard<T>> {
        let raw = Arc::into_raw(value).cast_mut();

        // INVARIANT: The reference that `raw` stands for moves into the slot. `Release` makes the
        // contents visible to whoever loads the pointer.
        match self.ptr.cmpxchg(ptr::null_mut(), raw, Release) {
            // INVARIANT: The slot was filled by this call.
            Ok(_) => Ok(ArcSlotGuard { slot: self }),
            Err(_) => {
                // SAFETY: `raw` came from `Arc::into_raw` above and was not stored.
                drop(unsafe { Arc::from_raw(raw) });
                Err(EBUSY)
            }
        }
    }

    /// Returns a new reference to the contents, or [`None`] if the slot is empty.
    pub fn get(&self) -> Option<Arc<T>> {
        // `Full` orders this against the load below, and pairs with the exchange in `take()`: if
        // `take()` does not see this reader then this reader sees the null pointer.
        self.readers.fetch_add(1, Full);
        let raw = self.ptr.load(Acquire);
        let value = if raw.is_null() {
            None
        } else {
            // SAFETY: By the type invariant `raw` came from `Arc::into_raw` and the slot owns a
            // reference; `take()` does not give it up while `readers` is not zero. The temporary
            // `Arc` is not dropped, so that the slot keeps its reference.
            let slot_ref = core::mem::ManuallyDrop::new(unsafe { Arc::from_raw(raw) });
            Some(Arc::clone(&slot_ref))
        };
        // The reference count was raised before the end of the use of `raw` is told.
        self.readers.fetch_sub(1, Release);
        value
    }

    /// Empties the slot.
    fn take(&self) -> Option<Arc<T>> {
        let raw = self.ptr.xchg(ptr::null_mut(), Full);
        while self.readers.load(Acquire) != 0 {
            cpu_relax();
        }
        if raw.is_null() {
            return None;
        }
        // SAFETY: By the type invariant the slot owned this reference, and the exchange above took
        // it out. No reader uses the pointer any more without having a reference.
        Some(unsafe { Arc::from_raw(raw) })
    }
}

impl<T: 'static> Default for ArcSlot<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// Owns the contents of a filled [`ArcSlot`] and empties it when dropped.
///
/// # Invariants
///
/// `slot` was filled by the call that made this guard.
#[must_use = "the slot is emptied when the guard is dropped"]
pub struct ArcSlotGuard<T: 'static> {
    slot: &'static ArcSlot<T>,
}

impl<T: 'static> Drop for ArcSlotGuard<T> {
    fn drop(&mut self) {
        drop(self.slot.take());
    }
}
