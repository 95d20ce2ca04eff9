// SPDX-License-Identifier: GPL-2.0

//! The numbers of the devices, and which device has which number.
//!
//! A number stays taken until the last user of its device is gone, also when the device was
//! deleted before.

use crate::{
    char_dev::CharDev,
    device::Device,
    uapi::UBLK_MAX_UBLKS, //
};
use kernel::{
    prelude::*,
    rbtree::RBTree,
    sync::{
        new_condvar,
        new_mutex,
        Arc,
        CondVar,
        Mutex, //
    }, //
};

/// What is known of a number that is taken.
enum Entry {
    /// The device is being added, it can not be used yet.
    Adding,
    /// The device is in use.
    Present {
        dev: Arc<Device>,
        /// The character device; dropping it removes the node.
        _node: CharDev,
    },
    /// The device was deleted but somebody still uses it.
    Deleted,
}

/// What a look-up found.
pub(crate) enum Found {
    /// There is a device with this number.
    Present(Arc<Device>),
    /// The device with this number was deleted, but the number is not free yet.
    Deleted,
    /// There is no such device.
    Missing,
}

/// The table of device numbers.
#[pin_data]
pub(crate) struct Ids {
    #[pin]
    table: Mutex<KBox<RBTree<u32, Entry>>>,
    /// Notified when a number gets free.
    #[pin]
    freed: CondVar,
}

impl Ids {
    /// Creates an empty table.
    pub(crate) fn new() -> Result<Arc<Self>> {
        let table = KBox::new(RBTree::new(), GFP_KERNEL)?;
        Arc::pin_init(
            pin_init!(Self {
                table <- new_mutex!(table, "ublk_rs::Ids::table"),
                freed <- new_condvar!("ublk_rs::Ids::freed"),
            }),
            GFP_KERNEL,
        )
    }

    /// Takes the number `wanted`, or the lowest free one.
    ///
    /// Fails with [`EEXIST`] if `wanted` is taken, and with [`ENOSPC`] if all numbers are.
    pub(crate) fn take_number(self: &Arc<Self>, wanted: Option<u32>) -> Result<Number> {
        let mut table = self.table.lock();
        let id = match wanted {
            Some(id) if table.get(&id).is_some() => return Err(EEXIST),
            Some(id) => id,
            None => lowest_free(table.keys().copied()).ok_or(ENOSPC)?,
        };
        table.try_create_and_insert(id, Entry::Adding, GFP_KERNEL)?;
        Ok(Number {
            ids: self.clone(),
            id,
        })
    }

    /// Makes a device that is complete known to everybody.
    pub(crate) fn publish(&self, dev: Arc<Device>, node: CharDev) {
        let mut table = self.table.lock();
        // The device owns its number, so the entry is there.
        if let Some(entry) = table.get_mut(&dev.id()) {
            *entry = Entry::Present { dev, _node: node };
        }
    }

    /// Finds a device by its number.
    pub(crate) fn find(&self, id: u32) -> Found {
        match self.table.lock().get(&id) {
            Some(Entry::Present { dev, .. }) => Found::Present(dev.clone()),
            Some(Entry::Deleted) => Found::Deleted,
            Some(Entry::Adding) | None => Found::Missing,
        }
    }

    /// Finds any device that was not deleted.
    pub(crate) fn find_any(&self) -> Option<Arc<Device>> {
        self.table.lock().values().find_map(|entry| match entry {
            Entry::Present { dev, .. } => Some(dev.clone()),
            Entry::Adding | Entry::Deleted => None,
        })
    }

    /// Removes a device from the table and its character device from `/dev`. The number stays
    /// taken until the device is dropped.
    ///
    /// May sleep.
    pub(crate) fn remove(&self, id: u32) {
        let removed = {
            let mut table = self.table.lock();
            match table.get_mut(&id) {
                Some(entry @ Entry::Present { .. }) => {
                    Some(core::mem::replace(entry, Entry::Deleted))
                }
                _ => None,
            }
        };
        // Outside of the lock: the device may be dropped here, which frees its number.
        drop(removed);
    }

    /// Waits until a number is free. Fails with [`EINTR`] if a signal comes first.
    pub(crate) fn wait_free(&self, id: u32) -> Result {
        let mut table = self.table.lock();
        while table.get(&id).is_some() {
            if self.freed.wait_interruptible(&mut table) {
                return Err(EINTR);
            }
        }
        Ok(())
    }

    /// Waits until no number is taken.
    pub(crate) fn wait_empty(&self) {
        let mut table = self.table.lock();
        while table.keys().next().is_some() {
            self.freed.wait(&mut table);
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
    ids: Arc<Ids>,
    id: u32,
}

impl Number {
    /// The number.
    pub(crate) fn get(&self) -> u32 {
        self.id
    }
}

impl Drop for Number {
    fn drop(&mut self) {
        let entry = self.ids.table.lock().remove(&self.id);
        self.ids.freed.notify_all();
        drop(entry);
    }
}

#[kunit_tests(ublk_rs_ids)]
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
        let ids = Ids::new()?;
        let first = ids.take_number(None)?;
        assert_eq!(first.get(), 0);
        assert!(ids.take_number(Some(0)).is_err());
        assert_eq!(ids.take_number(Some(5))?.get(), 5);
        assert!(matches!(ids.find(0), Found::Missing));
        drop(first);
        ids.wait_free(0)?;
        assert_eq!(ids.take_number(None)?.get(), 0);
        ids.wait_empty();
        Ok(())
    }
}
