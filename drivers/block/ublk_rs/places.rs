// SPDX-License-Identifier: GPL-2.0

//! How many unprivileged devices there may be.

use kernel::{
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc, //
    }, //
};

/// Places for unprivileged devices.
pub(crate) struct Places {
    /// How many there are at this moment.
    max: fn() -> u32,
    taken: Atomic<u32>,
}

impl Places {
    /// As many places as `max` says, when one is asked for.
    pub(crate) fn new(max: fn() -> u32) -> Result<Arc<Self>> {
        let places = Self {
            max,
            taken: Atomic::new(0),
        };
        Ok(Arc::new(places, GFP_KERNEL)?)
    }

    /// Takes a place. Fails with [`EACCES`] if there is none.
    pub(crate) fn take(self: &Arc<Self>) -> Result<Place> {
        // Only a counter; nothing else depends on it.
        let before = self.taken.fetch_add(1, Relaxed);
        let place = Place(self.clone());
        if before >= (self.max)() {
            return Err(EACCES);
        }
        Ok(place)
    }
}

/// A place that is taken; dropping it gives it back.
pub(crate) struct Place(Arc<Places>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Relaxed);
    }
}

#[kunit_tests(ublk_rs_places)]
mod tests {
    use super::*;

    #[test]
    fn limit() -> Result {
        static MAX: Atomic<u32> = Atomic::new(2);

        let places = Places::new(|| MAX.load(Relaxed))?;
        let first = places.take()?;
        let _second = places.take()?;
        assert!(places.take().is_err() && places.take().is_err());
        drop(first);
        assert!(places.take().is_ok());
        // Fewer than are taken.
        MAX.store(0, Relaxed);
        assert!(places.take().is_err());
        MAX.store(3, Relaxed);
        let _third = places.take()?;
        Ok(())
    }
}
