// SPDX-License-Identifier: GPL-2.0

//! A place for an [`Arc`] that is filled and emptied at run time.

use super::{
    rcu,
    Arc,
    RcuArc, //
};
use crate::prelude::*;

/// A place for an [`Arc`], for use in a `static`.
///
/// Some callbacks of a driver get no pointer to the driver's own data, for example the `open()` of
/// a misc device. With a static [`ArcSlot`] the driver publishes its data when the module is loaded
/// and takes it back when the module goes away, so that nothing outlives the module. A `static`
/// itself is never dropped; the [`ArcSlotGuard`] that [`ArcSlot::fill`] returns is what owns the
/// contents.
///
/// # Examples
///
/// ```
/// use kernel::sync::{
///     Arc,
///     ArcSlot, //
/// };
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
pub struct ArcSlot<T>(RcuArc<T>);

impl<T: 'static> ArcSlot<T> {
    /// Creates an empty slot.
    pub const fn new() -> Self {
        Self(RcuArc::new())
    }

    /// Puts `value` into the slot, until the returned guard is dropped.
    ///
    /// Fails with [`EBUSY`] if the slot is filled already; `value` is dropped then.
    ///
    /// # Context
    ///
    /// Any in which `value` may be dropped.
    pub fn fill(&'static self, value: Arc<T>) -> Result<ArcSlotGuard<T>> {
        self.0.fill(value).map_err(|_| EBUSY)?;
        // INVARIANT: The slot was filled by this call.
        Ok(ArcSlotGuard { slot: self })
    }

    /// Returns a new reference to the contents, or [`None`] if the slot is empty.
    ///
    /// # Context
    ///
    /// Any; never waits. Whoever gets a reference must be able to drop it there, as it may be the
    /// last one.
    pub fn get(&self) -> Option<Arc<T>> {
        self.0.get(&rcu::read_lock()).map(Arc::from)
    }
}

impl<T: 'static> Default for ArcSlot<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// Owns the contents of a filled [`ArcSlot`] and empties it when dropped.
///
/// # Context
///
/// It must be dropped where one may sleep, as that waits for an RCU grace period.
///
/// # Invariants
///
/// `slot` was filled by the call that made this guard, and nobody else empties it.
#[must_use = "the slot is emptied when the guard is dropped"]
pub struct ArcSlotGuard<T: 'static> {
    slot: &'static ArcSlot<T>,
}

impl<T: 'static> Drop for ArcSlotGuard<T> {
    fn drop(&mut self) {
        self.slot.0.replace(None);
    }
}

#[macros::kunit_tests(rust_sync_arc_slot)]
mod tests {
    use super::*;
    use crate::{
        sync::atomic::{
            Atomic,
            Relaxed, //
        },
        task::might_sleep,
        workqueue::OwnedQueue, //
    };

    static SLOT: ArcSlot<Atomic<u32>> = ArcSlot::new();
    static DROPPED: Atomic<u32> = Atomic::new(0);
    static NOTED: ArcSlot<Note> = ArcSlot::new();

    struct Note;

    impl Drop for Note {
        fn drop(&mut self) {
            DROPPED.fetch_add(1, Relaxed);
        }
    }

    #[test]
    fn contents_go_with_their_last_user() -> Result {
        let guard = NOTED.fill(Arc::new(Note, GFP_KERNEL)?)?;
        let user = NOTED.get();
        assert!(NOTED.fill(Arc::new(Note, GFP_KERNEL)?).is_err());
        // That was the value which found no place.
        assert_eq!(DROPPED.load(Relaxed), 1);

        drop(guard);
        assert_eq!(DROPPED.load(Relaxed), 1);
        assert!(user.is_some() && NOTED.get().is_none());
        drop(user);
        assert_eq!(DROPPED.load(Relaxed), 2);
        Ok(())
    }

    #[test]
    fn readers_find_all_or_nothing() -> Result {
        /// What the contents are while they are in the slot.
        const ALIVE: u32 = 0x1357_9bdf;

        let bad = Arc::new(Atomic::new(0u32), GFP_KERNEL)?;
        let stop = Arc::new(Atomic::new(false), GFP_KERNEL)?;
        let queue = OwnedQueue::new(c"arc_slot_kunit")?;

        for _ in 0..2 {
            let (bad, stop) = (bad.clone(), stop.clone());
            queue.try_spawn(GFP_KERNEL, move || {
                while !stop.load(Relaxed) {
                    if SLOT.get().is_some_and(|value| value.load(Relaxed) != ALIVE) {
                        bad.fetch_add(1, Relaxed);
                    }
                    might_sleep();
                }
            })?;
        }
        let filled = (0..50).try_for_each(|_| -> Result {
            let guard = SLOT.fill(Arc::new(Atomic::new(ALIVE), GFP_KERNEL)?)?;
            drop(guard);
            Ok(())
        });
        stop.store(true, Relaxed);
        drop(queue);
        filled?;
        assert_eq!(bad.load(Relaxed), 0);
        Ok(())
    }
}
