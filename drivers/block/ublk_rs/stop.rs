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
    recovery::{
        set_gate,
        Gate, //
    },
    uapi::{
        UBLK_F_UNPRIVILEGED_DEV,
        UBLK_IO_RES_ABORT, //
    }, //
};
use kernel::{
    block::mq::{
        gen_disk::GenDisk,
        DiskRef, //
    },
    io_uring::IssueFlags,
    prelude::*,
    sync::Arc,
    workqueue::WorkItem, //
};

/// `STOP_DEV`: deletes the disk and cancels the server's commands.
///
/// Waits until the server has served, or has died with, all requests. Without a server, the disk
/// that may have survived it is deleted.
pub(crate) fn stop(dev: &Device) {
    let _lifecycle = dev.lifecycle.lock();
    let disk = {
        let mut state = dev.state.lock();
        let disk = state.phase.change(Event::Stop);
        dev.ready.notify_all();
        disk
    };
    if let Ok(Some(disk)) = &disk {
        release_held(dev, &disk.disk_ref());
    }
    delete_disk(dev, disk);
    cancel_commands(dev);
}

/// `TRY_STOP_DEV`: as [`stop`], if nobody has the disk open. Else fails with [`EBUSY`], and with
/// [`ENODEV`] if there is no disk.
///
/// From the check on nobody can open it, but for the administrator.
pub(crate) fn try_stop(dev: &Device) -> Result {
    let disk = dev.state.lock().phase.disk().map(|disk| disk.disk_ref());
    // There can be no other disk while somebody has a reference to this one.
    let disk = disk.ok_or(ENODEV)?;
    disk.while_closed(|| dev.set_closing(true))?;
    stop(dev);
    drop(disk);
    Ok(())
}

/// Completes all commands that wait, to tell the server that it is not needed any more. The caller
/// holds [`Device::lifecycle`].
pub(crate) fn cancel_commands(dev: &Device) {
    // The server can not be replaced by another one before we drop the lifecycle lock, so these are
    // its commands. Completing them takes the lock of their ring, and nothing that is held here is
    // taken under that.
    for slot in dev.slots() {
        if let Some(cmd) = slot.cancel() {
            cmd.done(UBLK_IO_RES_ABORT, IssueFlags::UNLOCKED);
        }
    }
}

/// Fails the requests that wait for a server, which none will come for: the block layer would wait
/// for them before it lets go of the disk.
///
/// The device must be Stopping, so that no fetch opens the gate again.
fn release_held(dev: &Device, disk: &DiskRef) {
    if dev.recovery().holds {
        set_gate(dev, disk, Gate::Aborting);
        disk.kick_requeue_list();
    }
}

/// `DEL_DEV`, without waiting for other users: stops the device for good and removes its nodes.
pub(crate) fn delete(control: &Control, dev: &Device) {
    let deleted_before = {
        let mut state = dev.state.lock();
        dev.ready.notify_all();
        core::mem::replace(&mut state.deleted, true)
    };
    if !deleted_before && dev.has(UBLK_F_UNPRIVILEGED_DEV) {
        control.give_unprivileged();
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
        dev.set_leaving(false);
        dev.set_distrusted(false);
        if dev.recovery().possible && orphan(&dev) {
            return;
        }
        let disk = dev.state.lock().phase.change(Event::ServerDied);
        delete_disk(&dev, disk);
        for slot in dev.slots() {
            slot.reset();
        }
        let closed = dev.state.lock().phase.change(Event::Close);
        delete_disk(&dev, closed);
    }
}

/// Keeps the disk, if there is one, for the next server. The caller holds [`Device::lifecycle`].
fn orphan(dev: &Device) -> bool {
    let disk = dev.state.lock().phase.disk().map(|disk| disk.disk_ref());
    let Some(disk) = disk else {
        return false;
    };
    set_gate(dev, &disk, dev.recovery().gate_without_server());
    // No request comes any more, so the slots can be made ready for the next server.
    for slot in dev.slots() {
        slot.reset();
    }
    // There is a disk, so this does not fail.
    dev.state.lock().phase.change(Event::Orphan).is_ok()
}
