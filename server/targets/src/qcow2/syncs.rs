// SPDX-License-Identifier: GPL-2.0

//! Which changes of tables are on the medium. Syncs are under way side by side, and the kernel
//! tells one of them what was lost: that one only, and it may be the last to be back.

use std::collections::VecDeque;

/// A sync that is under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Begun {
    number: u64,
    /// All changes up to this one were made before.
    change: u64,
}

/// The changes of tables, counted, and the syncs.
#[derive(Default)]
pub(super) struct Syncs {
    change: u64,
    /// Up to which they are on the medium.
    on_medium: u64,
    /// Up to which a sync was begun.
    covered: u64,
    begun: u64,
    under_way: Vec<u64>,
    /// Up to which change, if all syncs are back that have a lower number.
    ended: VecDeque<(u64, u64)>,
}

impl Syncs {
    /// A change begins: count it before anything of it may be on the medium.
    pub(super) fn change(&mut self) -> u64 {
        self.change += 1;
        self.change
    }

    /// Up to which change a sync was begun.
    pub(super) fn covered(&self) -> u64 {
        self.covered
    }

    /// Is there a change that is not on the medium?
    #[cfg(test)]
    pub(super) fn pending(&self) -> bool {
        self.change > self.on_medium
    }

    pub(super) fn begin(&mut self) -> Begun {
        let begun = Begun { number: self.begun, change: self.change };
        self.begun += 1;
        self.covered = self.change;
        self.under_way.push(begun.number);
        begun
    }

    /// It is back. Up to which change are they on the medium, if that is new? `good`: nothing
    /// was lost, ever.
    pub(super) fn end(&mut self, begun: Begun, good: bool) -> Option<u64> {
        self.under_way.retain(|number| *number != begun.number);
        if !good {
            self.ended.clear();
            return None;
        }
        // Those that begin from now on would not be told of what was lost before this one.
        self.ended.push_back((begun.change, self.begun));
        let before = self.on_medium;
        let first = self.under_way.iter().min().copied().unwrap_or(u64::MAX);
        while let Some((change, _)) = self.ended.pop_front_if(|(_, until)| *until <= first) {
            self.on_medium = self.on_medium.max(change);
        }
        (self.on_medium > before).then_some(self.on_medium)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_after_the_other() {
        let mut syncs = Syncs::default();
        let begun = syncs.begin();
        assert_eq!(syncs.end(begun, true), None, "there was no change");
        assert_eq!((syncs.change(), syncs.change()), (1, 2));
        let begun = syncs.begin();
        assert_eq!((syncs.change(), syncs.covered()), (3, 2));
        assert_eq!(syncs.end(begun, true), Some(2));
        assert!(syncs.pending());
        let begun = syncs.begin();
        assert_eq!(syncs.end(begun, true), Some(3));
        assert!(!syncs.pending());
    }

    #[test]
    fn the_last_to_be_back_may_tell() {
        let mut syncs = Syncs::default();
        syncs.change();
        let (a, b) = (syncs.begin(), syncs.begin());
        assert_eq!(syncs.end(b, true), None, "a may have heard of what b has lost");
        // Who comes later is not waited for.
        let later = syncs.begin();
        assert_eq!(syncs.end(a, true), Some(1));
        assert_eq!(syncs.end(later, true), None);
        syncs.change();
        let (a, b) = (syncs.begin(), syncs.begin());
        assert_eq!(syncs.end(b, true), None);
        assert_eq!(syncs.end(a, false), None);
        assert!(syncs.pending());
    }
}
