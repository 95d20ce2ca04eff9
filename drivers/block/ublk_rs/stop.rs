// SPDX-License-Identifier: GPL-2.0

//! The end of a disk, of a server, and of a device.
//!
//! A disk ends because somebody asks for it, and then the server is told by completing its
//! commands; or because the server is gone, and then its requests are aborted first, so that the
//! block layer can let go of the disk.

use crate::{
    device::{
        Device,
        Opening, //
    },
    driver::Driver,
    phase::Event,
    policy::Gate,
    slot::When, //
};
use kernel::{
    prelude::*,
    sync::Arc,
    time::{
        delay::fsleep,
        Delta, //
    },
    workqueue::WorkItem, //
};

/// How often is looked whether a disk is closed.
const POLL: Delta = Delta::from_millis(10);

/// `STOP_DEV`: deletes the disk and cancels the server's commands.
///
/// Waits until the server has served, or has died with, all requests: what is dirty is written
/// back. Without a server, the disk that may have survived it is deleted, and its requests fail.
pub(crate) fn stop(dev: &Device) {
    let _lifecycle = dev.lock_to_stop();
    if stop_disk(dev) {
        dev.cancel_commands();
    }
    // Else the parameters could not be changed for a while.
    dev.wait_scanned();
}

/// Stops a device that may have a disk or a server or both. Returns whether there is a server,
/// which has no disk any more. The caller holds [`Device::lifecycle`].
fn stop_disk(dev: &Device) -> bool {
    let (served, disk, has_server, to_scan) = {
        let mut state = dev.state.lock();
        // It may have the disk of another one, which it has not yet been given by
        // `END_USER_RECOVERY`.
        let served = state.phase.is_served();
        // It is neither Starting nor Deleting while we hold the lifecycle lock.
        let disk = state.phase.change(Event::Stop).unwrap_or(None);
        dev.ready.notify_all();
        // One that attaches later is none of our business.
        let has_server = state.phase.server().is_some();
        (served, disk, has_server, state.to_scan.take())
    };
    drop(to_scan);
    if let Some(disk) = disk {
        if dev.recovery().holds {
            // The block layer waits for all requests before it lets go of the disk, so none may
            // wait for a server that does not come. One that is there serves them. Nobody opens the
            // gate meanwhile: that takes a fetch.
            let gate = if served {
                Gate::Draining
            } else {
                Gate::Aborting
            };
            let disk = disk.disk_ref();
            dev.change_gate(&disk, gate);
            disk.kick_requeue_list();
        } else if served || matches!(dev.gate(), Gate::Open) {
            // No request waits for another server anyway. This is for those that are tried again
            // and again, as their data can not be copied: they will see it the next time. The
            // server may be a new one that is not live yet.
            dev.set_gate(Gate::Draining);
        }
        // A dying server may wait for what waits for us.
        dev.give_up_deserted(When::AtOnce);
        drop(disk);
        // There was a disk, so this does not fail.
        let _ = dev.state.lock().phase.change(Event::Deleted);
    }
    has_server
}

/// `TRY_STOP_DEV`: as [`stop`], if nobody has the disk open. Else fails with [`EBUSY`], as while
/// the block layer waits for the server's zones, with [`ENODEV`] if there is no disk, and with
/// [`EINTR`].
///
/// Waits for who is about to open or close the disk.
///
/// From the check on nobody can open it, but for the administrator.
pub(crate) fn try_stop(dev: &Device) -> Result {
    // There can be no other disk while somebody has a reference to this one. One that is just being
    // added can be seen already, and be open.
    let disk = dev.state.lock().visible_disk().ok_or(ENODEV)?;
    loop {
        match disk.while_closed(|| dev.state.lock().opening = Opening::Refused) {
            Ok(()) => break,
            Err(e) if e != EAGAIN => return Err(e),
            Err(_) if dev.is_revalidating() => return Err(EBUSY),
            Err(_) if current!().signal_pending() => return Err(EINTR),
            Err(_) => fsleep(POLL),
        }
    }
    stop(dev);
    Ok(())
}

/// `DEL_DEV`, without waiting for other users: stops the device for good and removes its nodes.
pub(crate) fn delete(driver: &Driver, dev: &Device) {
    {
        let mut state = dev.state.lock();
        state.deleted = true;
        dev.ready.notify_all();
    }
    stop(dev);
    driver.remove(dev);
}

/// Deletes all devices, when the module goes away, and waits until they are gone.
pub(crate) fn delete_all(driver: &Driver) {
    while let Some(dev) = driver.find_any() {
        delete(driver, &dev);
    }
    driver.numbers().wait_empty();
}

/// Aborts the requests of a server that has closed its character device.
impl WorkItem<{ Device::RELEASE }> for Device {
    type Pointer = Arc<Device>;

    fn run(dev: Arc<Device>) {
        // No command is left, as each of them held the file; so no request can get to the server,
        // and new ones are refused. This must not wait for any lock: somebody may hold the
        // lifecycle lock and wait for just these requests.
        dev.close_batches();
        for slot in dev.slots() {
            slot.abort();
        }
        let workers = dev.workers().clone();
        // It is not queued already: it runs before the device can be opened again.
        let _ = workers.clean.enqueue::<_, { Device::CLEAN }>(dev);
    }
}

/// Cleans up after that.
impl WorkItem<{ Device::CLEAN }> for Device {
    type Pointer = Arc<Device>;

    fn run(dev: Arc<Device>) {
        let _lifecycle = dev.lifecycle.lock();
        if dev.recovery().possible && orphan(&dev) {
            return;
        }
        stop_disk(&dev);
        dev.reset_slots();
        // It is Stopping, as there was a server.
        let _ = dev.state.lock().phase.change(Event::Close);
    }
}

/// Keeps the disk, if there is one, for the next server. The caller holds [`Device::lifecycle`].
fn orphan(dev: &Device) -> bool {
    let disk = dev.state.lock().disk_ref();
    let Some(disk) = disk else {
        return false;
    };
    dev.change_gate(&disk, dev.recovery().gate_without_server());
    // No request comes any more, so the slots can be made ready for the next server.
    dev.reset_slots();
    // There is a disk, so this does not fail.
    dev.state.lock().phase.change(Event::Orphan).is_ok()
}
