// SPDX-License-Identifier: GPL-2.0

//! When a server that has died gets a successor.

use std::time::{Duration, Instant};

/// How often a server may die in a row, each time so soon after its device was there.
const TRIES: u32 = 5;
const SOON: Duration = Duration::from_secs(60);

/// How long to wait before there is another one, at first and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The servers of a device, one after the other.
#[derive(Debug, Default)]
pub(crate) struct Again {
    /// Since when its device is there, by the server that there is.
    ready: Option<Instant>,
    /// Servers that were there, but not for long; or that no device has waited for.
    deaths: u32,
    /// These, and those that did not get so far: what they need may not be there yet.
    failures: u32,
}

impl Again {
    /// Its device is there.
    pub(crate) fn is_ready(&mut self, now: Instant) {
        self.ready = Some(now);
    }

    /// A server has died. After how long is there another one? `None`: there is none any more. A
    /// device that `waits` is never given up: somebody uses it, or has to be told.
    pub(crate) fn died(&mut self, now: Instant, waits: bool) -> Option<Duration> {
        match self.ready.take() {
            Some(ready) if now.duration_since(ready) > SOON => (self.deaths, self.failures) = (1, 0),
            Some(_) => self.deaths += 1,
            None if !waits => self.deaths += 1,
            None => {}
        }
        if !waits && self.deaths > TRIES {
            return None;
        }
        let pause = FIRST_PAUSE * 2u32.pow(self.failures.min(10));
        self.failures += 1;
        Some(pause.min(LONGEST_PAUSE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_never_given_up() {
        let start = Instant::now();
        let mut again = Again::default();
        let pauses: Vec<_> = (0..100).map(|_| again.died(start, true).unwrap()).collect();
        assert_eq!(pauses[..2], [FIRST_PAUSE, 2 * FIRST_PAUSE]);
        assert_eq!(pauses[99], LONGEST_PAUSE);
        assert!(pauses.iter().sum::<Duration>() > Duration::from_secs(600));
        // Those that never got so far are no deaths.
        again.is_ready(start);
        assert!(again.died(start, false).is_some());
    }

    #[test]
    fn who_dies_again_and_again_is_given_up_if_nobody_waits() {
        let start = Instant::now();
        let mut again = Again::default();
        let mut die = |after, waits| {
            again.is_ready(start);
            again.died(start + after, waits)
        };
        for _ in 0..TRIES {
            assert!(die(Duration::ZERO, false).is_some());
        }
        assert_eq!(die(Duration::ZERO, false), None);
        assert!(die(Duration::ZERO, true).is_some());
        // One that has lived counts again from the beginning.
        assert_eq!(die(2 * SOON, false), Some(FIRST_PAUSE));
    }
}
