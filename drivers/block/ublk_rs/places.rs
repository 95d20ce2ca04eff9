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
        let mut taken = self.taken.load(Relaxed);
        loop {
            if taken >= (self.max)() {
                return Err(EACCES);
            }
            // Only a counter; nothing else depends on it. Who is refused is never counted, or
            // somebody else would be refused for it.
            match self.taken.cmpxchg(taken, taken + 1, Relaxed) {
                Ok(_) => return Ok(Place(self.clone())),
                Err(now) => taken = now,
            }
        }
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
