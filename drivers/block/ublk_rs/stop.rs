// SPDX-License-Identifier: GPL-2.0

//! The end of a disk, of a server, and of a device.
//!
//! A disk ends because somebody asks for it, and then the server is told by completing its
//! commands; or because the server is gone, and then its requests are aborted first, so that the
//! block layer can let go of the disk.

use crate::{
    control::Control,
    device::Device,
    phase::Event,
    uapi::UBLK_IO_RES_ABORT, //
};
use kernel::{
    block::mq::gen_disk::GenDisk,
    io_uring::IssueFlags,
    prelude::*,
    sync::Arc,
    workqueue::WorkItem, //
};

/// `STOP_DEV`: deletes the disk and cancels the server's commands.
///
/// Waits until the server has served, or has died with, all requests. Does nothing without a
/// server.
pub(crate) fn stop(dev: &Device) {
    let _lifecycle = dev.lifecycle.lock();
    let disk = {
        let mut state = dev.state.lock();
        let disk = state.phase.change(Event::Stop);
        dev.ready.notify_all();
        disk
    };
    delete_disk(dev, disk);

    // The server can not be replaced by another one before we drop the lifecycle lock, so these are
    // its commands. Completing them takes the lock of their ring, and nothing that is held here is
    // taken under that.
    for slot in dev.slots() {
        if let Some(cmd) = slot.cancel() {
            cmd.done(UBLK_IO_RES_ABORT, IssueFlags::UNLOCKED);
        }
    }
}

/// `DEL_DEV`, without waiting for other users: stops the device for good and removes its nodes.
pub(crate) fn delete(control: &Control, dev: &Device) {
    {
        let mut state = dev.state.lock();
        state.deleted = true;
        dev.ready.notify_all();
    }
    stop(dev);
    control.ids().remove(dev.id());
}

/// Deletes the disk that a change of the phase has returned. The lifecycle lock is held, the state
/// is not locked.
fn delete_disk(dev: &Device, disk: Result<Option<GenDisk<crate::queue::Disk>>>) {
    if let Ok(Some(disk)) = disk {
        drop(disk);
        dev.set_live(false);
    }
}

/// Cleans up after a server that has closed its character device.
impl WorkItem<{ Device::RELEASE }> for Device {
    type Pointer = Arc<Device>;

    fn run(dev: Arc<Device>) {
        // No command is left, as each of them held the file; so no request can get to the server,
        // and new ones are refused. This must not wait for any lock: somebody may hold the
        // lifecycle lock and wait for just these requests.
        for slot in dev.slots() {
            slot.abort();
        }

        let _lifecycle = dev.lifecycle.lock();
        let disk = dev.state.lock().phase.change(Event::ServerDied);
        delete_disk(&dev, disk);
        for slot in dev.slots() {
            slot.reset();
        }
        let closed = dev.state.lock().phase.change(Event::Close);
        delete_disk(&dev, closed);
    }
}
