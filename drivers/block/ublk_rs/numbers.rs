// SPDX-License-Identifier: GPL-2.0

//! The numbers of the devices: which are taken.
//!
//! A number stays taken until the last user of what it stands for is gone, also when that was
//! deleted before.

use crate::uapi::UBLK_MAX_UBLKS;
use kernel::{
    prelude::*,
    rbtree::{
        RBTree,
        RBTreeNodeReservation, //
    },
    sync::{
        new_condvar,
        new_mutex,
        Arc,
        CondVar,
        Mutex, //
    }, //
};

/// What a number that is taken stands for.
enum Taken {
    /// Something that is being made, and that nobody can know yet.
    Unknown,
    /// Something that was made known.
    Known,
}

/// The numbers that are taken.
#[pin_data]
pub(crate) struct Numbers {
    #[pin]
    taken: Mutex<KBox<RBTree<u32, Taken>>>,
    /// Notified when a number gets free.
    #[pin]
    freed: CondVar,
}

impl Numbers {
    /// All numbers are free.
    pub(crate) fn new() -> Result<Arc<Self>> {
        let taken = KBox::new(RBTree::new(), GFP_KERNEL)?;
        Arc::pin_init(
            pin_init!(Self {
                taken <- new_mutex!(taken, "ublk_rs::Numbers::taken"),
                freed <- new_condvar!("ublk_rs::Numbers::freed"),
            }),
            GFP_KERNEL,
        )
    }

    /// Takes the number `wanted`, or the lowest free one.
    ///
    /// Fails with [`EEXIST`] if `wanted` is taken, and with [`ENOSPC`] if all numbers are.
    pub(crate) fn take(self: &Arc<Self>, wanted: Option<u32>) -> Result<Number> {
        // Before the lock is taken: to get memory, the kernel may have to write to a disk of ours,
        // which may need somebody who waits for the lock.
        let node = RBTreeNodeReservation::new(GFP_KERNEL)?;
        let mut taken = self.taken.lock();
        let id = match wanted {
            Some(id) if taken.get(&id).is_some() => return Err(EEXIST),
            Some(id) => id,
            None => lowest_free(taken.keys().copied()).ok_or(ENOSPC)?,
        };
        taken.insert(node.into_node(id, Taken::Unknown));
        Ok(Number {
            numbers: self.clone(),
            id,
        })
    }

    /// Whether a number is taken by what was made known.
    pub(crate) fn is_known(&self, id: u32) -> bool {
        match self.taken.lock().get(&id) {
            Some(Taken::Known) => true,
            Some(Taken::Unknown) | None => false,
        }
    }

    /// Waits until a number is free. Fails with [`EINTR`] if a signal comes first.
    pub(crate) fn wait_free(&self, id: u32) -> Result {
        let mut taken = self.taken.lock();
        while taken.get(&id).is_some() {
            if self.freed.wait_interruptible(&mut taken) {
                return Err(EINTR);
            }
        }
        Ok(())
    }

    /// Waits until no number is taken.
    pub(crate) fn wait_empty(&self) {
        let mut taken = self.taken.lock();
        while taken.keys().next().is_some() {
            self.freed.wait(&mut taken);
        }
    }
}

/// The lowest number that is not in the ascending sequence `taken`.
fn lowest_free(taken: impl Iterator<Item = u32>) -> Option<u32> {
    let mut free = 0;
    for id in taken {
        if id != free {
            break;
        }
        free += 1;
    }
    (free < UBLK_MAX_UBLKS).then_some(free)
}

/// A number that is taken; dropping it makes it free.
pub(crate) struct Number {
    numbers: Arc<Numbers>,
    id: u32,
}

impl Number {
    /// The number.
    pub(crate) fn get(&self) -> u32 {
        self.id
    }

    /// Notes that what has the number was made known.
    pub(crate) fn make_known(&self) {
        if let Some(taken) = self.numbers.taken.lock().get_mut(&self.id) {
            *taken = Taken::Known;
        }
    }
}

impl Drop for Number {
    fn drop(&mut self) {
        let node = self.numbers.taken.lock().remove_node(&self.id);
        self.numbers.freed.notify_all();
        // Outside of the lock.
        drop(node);
    }
}

#[kunit_tests(ublk_rs_numbers)]
mod tests {
    use super::*;

    #[test]
    fn lowest_number() {
        assert_eq!(lowest_free([].into_iter()), Some(0));
        assert_eq!(lowest_free([0, 1, 2].into_iter()), Some(3));
        assert_eq!(lowest_free([0, 2].into_iter()), Some(1));
        assert_eq!(lowest_free([1].into_iter()), Some(0));
        assert_eq!(lowest_free(0..UBLK_MAX_UBLKS), None);
    }

    #[test]
    fn taken_until_dropped() -> Result {
        let numbers = Numbers::new()?;
        let first = numbers.take(None)?;
        assert_eq!(first.get(), 0);
        assert!(numbers.take(Some(0)).is_err());
        assert_eq!(numbers.take(Some(5))?.get(), 5);
        assert!(!numbers.is_known(0));
        first.make_known();
        assert!(numbers.is_known(0));
        drop(first);
        numbers.wait_free(0)?;
        assert_eq!(numbers.take(None)?.get(), 0);
        numbers.wait_empty();
        Ok(())
    }
}
