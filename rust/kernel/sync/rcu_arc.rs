// SPDX-License-Identifier: GPL-2.0

//! An [`Arc`] that is replaced at run time, and looked at under RCU.

use super::{
    atomic::{
        ordering::{
            Acquire,
            Full, //
        },
        Atomic, //
    },
    rcu,
    Arc,
    ArcBorrow, //
};
use core::{
    marker::PhantomData,
    ptr, //
};

/// An optional [`Arc`] that many look at and few replace.
///
/// Who looks at it pays for an RCU read side critical section, and neither waits nor writes to
/// shared memory.
///
/// # Invariants
///
/// - `ptr` is null, or it came from [`Arc::into_raw`] and `self` owns that reference.
/// - A reference that was taken out of `ptr` while `self` was shared is not dropped before an RCU
///   grace period has passed.
///
/// # Examples
///
/// ```
/// use kernel::sync::{
///     rcu,
///     Arc,
///     RcuArc, //
/// };
///
/// let limit = RcuArc::new();
/// assert!(limit.get(&rcu::read_lock()).is_none());
/// limit.replace(Some(Arc::new(42, GFP_KERNEL)?));
/// assert!(limit.get(&rcu::read_lock()).is_some_and(|limit| *limit == 42));
/// assert!(limit.fill(Arc::new(43, GFP_KERNEL)?).is_err());
/// limit.replace(None);
/// assert!(limit.get(&rcu::read_lock()).is_none());
/// # Ok::<(), Error>(())
/// ```
pub struct RcuArc<T> {
    ptr: Atomic<*mut T>,
    _owns: PhantomData<Arc<T>>,
}

// SAFETY: As for `Arc<T>`, of which this is one.
unsafe impl<T> Send for RcuArc<T> where Arc<T>: Send {}
// SAFETY: References to the contents go to any thread, and the contents are dropped on any thread,
// which is what `Arc<T>: Send + Sync` allows.
unsafe impl<T> Sync for RcuArc<T> where Arc<T>: Send + Sync {}

impl<T: 'static> RcuArc<T> {
    /// Creates an empty one.
    pub const fn new() -> Self {
        // INVARIANT: The pointer is null.
        Self {
            ptr: Atomic::<*mut T>::new(ptr::null_mut()),
            _owns: PhantomData,
        }
    }

    /// Returns the contents, for as long as `rcu` is held.
    ///
    /// # Context
    ///
    /// Any; never waits.
    #[inline]
    pub fn get<'a>(&'a self, _rcu: &'a rcu::Guard) -> Option<ArcBorrow<'a, T>> {
        let raw = self.ptr.load(Acquire);
        if raw.is_null() {
            return None;
        }
        // SAFETY: By the type invariants the pointer came from `Arc::into_raw`, and that reference
        // is not dropped before the end of the critical section, unless `self` is not shared any
        // more, which the borrow excludes.
        Some(unsafe { ArcBorrow::from_raw(raw) })
    }

    /// Puts `new` here if it is empty; returns it otherwise.
    ///
    /// # Context
    ///
    /// Any; never waits.
    pub fn fill(&self, new: Arc<T>) -> Result<(), Arc<T>> {
        let raw = Arc::into_raw(new).cast_mut();
        // INVARIANT: The reference that `raw` stands for moves to `self`. The ordering makes the
        // contents visible to whoever loads the pointer.
        match self.ptr.cmpxchg(ptr::null_mut(), raw, Full) {
            Ok(_) => Ok(()),
            // SAFETY: `raw` came from `Arc::into_raw` above and was not stored.
            Err(_) => Err(unsafe { Arc::from_raw(raw) }),
        }
    }

    /// Replaces the contents, and drops the old ones when nobody looks at them any more.
    ///
    /// # Context
    ///
    /// Sleeps, for an RCU grace period. Whoever needs to know what is replaced needs a lock.
    pub fn replace(&self, new: Option<Arc<T>>) {
        let raw = new.map_or(ptr::null_mut(), |new| Arc::into_raw(new).cast_mut());
        // INVARIANT: The reference that `raw` stands for moves to `self`. The ordering makes the
        // contents visible to whoever loads the pointer, and those of `old` to us.
        let old = self.ptr.xchg(raw, Full);
        if !old.is_null() {
            // Asleep, not in a loop: a reader that was preempted on this CPU would never get on.
            rcu::synchronize_rcu();
            // SAFETY: By the type invariants this came from `Arc::into_raw`, and the exchange has
            // taken the reference out. The grace period has passed.
            drop(unsafe { Arc::from_raw(old) });
        }
    }
}

impl<T: 'static> Default for RcuArc<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Drop for RcuArc<T> {
    fn drop(&mut self) {
        let raw = self.ptr.load(Acquire);
        if !raw.is_null() {
            // SAFETY: By the type invariants this came from `Arc::into_raw` and the reference is
            // ours. Nobody looks at it, as who does has borrowed `self`.
            drop(unsafe { Arc::from_raw(raw) });
        }
    }
}
