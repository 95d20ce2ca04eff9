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

/// Who has a number, from the time when it is taken until it is free. Numbers are used again,
/// holders are not.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Holder {
    id: u32,
    serial: u64,
}

/// What is known of a number that is taken.
struct Taken {
    /// Tells its holder from the earlier and the later ones.
    serial: u64,
    /// Whether what it stands for was made known; else that is being made, and nobody can know it
    /// yet.
    known: bool,
}

/// What the lock guards.
struct State {
    taken: KBox<RBTree<u32, Taken>>,
    next_serial: u64,
}

/// The numbers that are taken.
#[pin_data]
pub(crate) struct Numbers {
    #[pin]
    state: Mutex<State>,
    /// Notified when a number gets free.
    #[pin]
    freed: CondVar,
}

impl Numbers {
    /// All numbers are free.
    pub(crate) fn new() -> Result<Arc<Self>> {
        let state = State {
            taken: KBox::new(RBTree::new(), GFP_KERNEL)?,
            next_serial: 0,
        };
        Arc::pin_init(
            pin_init!(Self {
                state <- new_mutex!(state, "ublk_rs::Numbers::state"),
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
        let mut state = self.state.lock();
        let id = match wanted {
            Some(id) if state.taken.get(&id).is_some() => return Err(EEXIST),
            Some(id) => id,
            None => lowest_free(state.taken.keys().copied()).ok_or(ENOSPC)?,
        };
        let serial = state.next_serial;
        state.next_serial += 1;
        let taken = Taken {
            serial,
            known: false,
        };
        state.taken.insert(node.into_node(id, taken));
        Ok(Number {
            numbers: self.clone(),
            holder: Holder { id, serial },
        })
    }

    /// Who has a number, if it stands for something that was made known.
    pub(crate) fn known(&self, id: u32) -> Option<Holder> {
        match self.state.lock().taken.get(&id) {
            Some(Taken {
                serial,
                known: true,
            }) => Some(Holder {
                id,
                serial: *serial,
            }),
            _ => None,
        }
    }

    /// Waits until a number is free, or has another holder than this one. Fails with [`EINTR`] if a
    /// signal comes first.
    pub(crate) fn wait_gone(&self, holder: Holder) -> Result {
        let mut state = self.state.lock();
        while state
            .taken
            .get(&holder.id)
            .is_some_and(|taken| taken.serial == holder.serial)
        {
            if self.freed.wait_interruptible(&mut state) {
                return Err(EINTR);
            }
        }
        Ok(())
    }

    /// Waits until no number is taken.
    pub(crate) fn wait_empty(&self) {
        let mut state = self.state.lock();
        while state.taken.keys().next().is_some() {
            self.freed.wait(&mut state);
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
    holder: Holder,
}

impl Number {
    /// The number.
    pub(crate) fn get(&self) -> u32 {
        self.holder.id
    }

    /// Who has the number now.
    pub(crate) fn holder(&self) -> Holder {
        self.holder
    }

    /// Notes that what has the number was made known.
    pub(crate) fn make_known(&self) {
        if let Some(taken) = self.numbers.state.lock().taken.get_mut(&self.holder.id) {
            taken.known = true;
        }
    }
}

impl Drop for Number {
    fn drop(&mut self) {
        let node = self.numbers.state.lock().taken.remove_node(&self.holder.id);
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
        assert_eq!(numbers.known(0), None);
        first.make_known();
        let holder = first.holder();
        assert_eq!(numbers.known(0), Some(holder));
        drop(first);
        numbers.wait_gone(holder)?;
        // The number has another holder, which is not waited for.
        let second = numbers.take(None)?;
        assert_eq!(second.get(), 0);
        assert!(second.holder() != holder);
        numbers.wait_gone(holder)?;
        drop(second);
        numbers.wait_empty();
        Ok(())
    }
}
