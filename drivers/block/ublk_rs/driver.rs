// SPDX-License-Identifier: GPL-2.0

//! What all devices share, from the loading of the module until its end.

use crate::{
    char_dev::CharDev,
    debug::{
        self,
        DebugFile, //
    },
    device::Device,
    numbers::{
        Holder,
        Numbers, //
    },
    places::Places,
    uapi::UBLK_MAX_UBLKS,
    workers::Workers, //
};
use kernel::{
    chrdev::{
        Class,
        Region, //
    },
    debugfs::Dir,
    prelude::*,
    rbtree::{
        RBTree,
        RBTreeNodeReservation, //
    },
    sync::{
        aref::ARef,
        new_mutex,
        Arc,
        ArcSlot,
        Mutex, //
    }, //
};

/// What the control device finds the driver by.
///
/// Filled while the module is loaded. An open file of the driver keeps the module loaded.
pub(crate) static DRIVER: ArcSlot<Driver> = ArcSlot::new();

/// What is known of a device that was added.
struct Added {
    dev: Arc<Device>,
    /// The character device, once it was made; dropping it removes the node.
    node: Option<CharDev>,
    _debug: DebugFile,
}

/// What a look-up found.
pub(crate) enum Found {
    /// There is a device with this number.
    Present(Arc<Device>),
    /// The device with this number was deleted, but still has it.
    Deleted(Holder),
    /// There is no such device.
    Missing,
}

/// What all devices share.
#[pin_data]
pub(crate) struct Driver {
    /// The devices that can be found. Held for a look-up only; the lock of the numbers is taken
    /// under it.
    #[pin]
    devices: Mutex<KBox<RBTree<u32, Added>>>,
    numbers: Arc<Numbers>,
    places: Arc<Places>,
    workers: Arc<Workers>,
    class: Class,
    region: Region,
    debug: Dir,
    /// The control device, of which all character devices are children.
    parent: ARef<kernel::device::Device>,
}

impl Driver {
    /// Reserves what all devices need. There may be as many unprivileged ones as `max` says.
    pub(crate) fn new(parent: &kernel::device::Device, max: fn() -> u32) -> Result<Arc<Self>> {
        let devices = KBox::new(RBTree::new(), GFP_KERNEL)?;
        Arc::pin_init(
            try_pin_init!(Self {
                devices <- new_mutex!(devices, "ublk_rs::Driver::devices"),
                numbers: Numbers::new()?,
                places: Places::new(max)?,
                workers: Workers::new()?,
                class: Class::new(c"ublk-char")?,
                region: Region::new(UBLK_MAX_UBLKS, c"ublk-char")?,
                debug: Dir::new(c"ublk_rs"),
                parent: ARef::from(parent),
            }? Error),
            GFP_KERNEL,
        )
    }

    /// The numbers of the devices.
    pub(crate) fn numbers(&self) -> &Arc<Numbers> {
        &self.numbers
    }

    /// The places for unprivileged devices.
    pub(crate) fn places(&self) -> &Arc<Places> {
        &self.places
    }

    /// The work queues.
    pub(crate) fn workers(&self) -> &Arc<Workers> {
        &self.workers
    }

    /// The device numbers of the character devices.
    pub(crate) fn region(&self) -> &Region {
        &self.region
    }

    /// Makes a device that is complete known to everybody, and then its character device: whoever
    /// is told that the node is there finds the device.
    ///
    /// Sleeps. After an error the device may be known, and has to be deleted.
    pub(crate) fn publish(&self, dev: &Arc<Device>) -> Result {
        // Before the lock is taken: to get memory, the kernel may have to write to a disk of ours,
        // which may need somebody who waits for the lock.
        let reserved = RBTreeNodeReservation::new(GFP_KERNEL)?;
        let added = Added {
            dev: dev.clone(),
            node: None,
            _debug: debug::new_file(&self.debug, dev.clone())?,
        };
        {
            let mut devices = self.devices.lock();
            // The number was free before the device got it, so there is no such entry.
            devices.insert(reserved.into_node(dev.id(), added));
            dev.number().make_known();
        }

        let node = CharDev::new(&self.region, &self.class, &self.parent, dev)?;
        let surplus = match self.devices.lock().get_mut(&dev.id()) {
            // The device has its number, so this is its entry.
            Some(added) => added.node.replace(node),
            // It was deleted meanwhile.
            None => Some(node),
        };
        // Outside of the lock.
        drop(surplus);
        Ok(())
    }

    /// Finds a device by its number.
    pub(crate) fn find(&self, id: u32) -> Found {
        let devices = self.devices.lock();
        match devices.get(&id) {
            Some(added) => Found::Present(added.dev.clone()),
            None => self
                .numbers
                .known(id)
                .map_or(Found::Missing, Found::Deleted),
        }
    }

    /// Finds any device that was not deleted.
    pub(crate) fn find_any(&self) -> Option<Arc<Device>> {
        let devices = self.devices.lock();
        let found = devices.values().next().map(|added| added.dev.clone());
        found
    }

    /// Removes a device from sight and its character device from `/dev`. The number stays taken
    /// until the device is dropped.
    ///
    /// May sleep.
    pub(crate) fn remove(&self, dev: &Device) {
        let removed = self.devices.lock().remove_node(&dev.id());
        // Outside of the lock: the device may be dropped here, which frees its number.
        drop(removed);
    }
}
