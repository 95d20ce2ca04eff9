// SPDX-License-Identifier: GPL-2.0

//! Lines in the log, of which a server that goes mad must not make too many.

use std::{
    fmt::Display,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};
use ublk_server::log;

/// So many lines in so long.
const MOST: u32 = 20;
const PERIOD: Duration = Duration::from_secs(10);

struct Budget {
    begun: Instant,
    lines: u32,
}

impl Budget {
    /// May there be another line? With `Some(n)`, after n that were left out.
    fn spend(&mut self, now: Instant) -> Option<u32> {
        let mut left_out = 0;
        if now.saturating_duration_since(self.begun) >= PERIOD {
            left_out = self.lines.saturating_sub(MOST);
            *self = Budget { begun: now, lines: 0 };
        }
        self.lines = self.lines.saturating_add(1);
        (self.lines <= MOST).then_some(left_out)
    }
}

/// A line about servers.
pub(crate) fn say(what: impl Display) {
    static BUDGET: Mutex<Option<Budget>> = Mutex::new(None);
    let now = Instant::now();
    let mut budget = BUDGET.lock().unwrap_or_else(PoisonError::into_inner);
    match budget.get_or_insert(Budget { begun: now, lines: 0 }).spend(now) {
        Some(0) => log(format_args!("nbd: {what}")),
        Some(left_out) => log(format_args!("nbd: {what} (after {left_out} lines that were left out)")),
        None => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn not_too_many() {
        let begun = Instant::now();
        let mut budget = Budget { begun, lines: 0 };
        for _ in 0..MOST {
            assert_eq!(budget.spend(begun), Some(0));
        }
        for _ in 0..7 {
            assert_eq!(budget.spend(begun + PERIOD / 2), None);
        }
        assert_eq!(budget.spend(begun + PERIOD), Some(7));
        assert_eq!(budget.spend(begun + PERIOD), Some(0));
    }
}
