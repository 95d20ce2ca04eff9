// SPDX-License-Identifier: GPL-2.0

//! A disk that outlives its server: what happens to its requests meanwhile, and the control
//! commands that make and end such a time.
//!
//! A new server opens the character device, fetches all slots, and says `END_USER_RECOVERY`; then
//! the requests that were held are sent to it.

use crate::{
    device::Device,
    phase::Event,
    policy::Gate,
    start,
    uapi::{
        UBLK_F_BATCH_IO,
        UBLK_F_QUIESCE, //
    }, //
};
use kernel::{
    prelude::*,
    time::{
        delay::fsleep,
        Delta, //
    }, //
};

/// How often `QUIESCE_DEV` looks whether the server is idle.
const QUIESCE_POLL_MSECS: u32 = 3;

/// `START_USER_RECOVERY`: asks whether a new server may come. Fails with [`EINVAL`] if the device
/// can not be recovered, and with [`EBUSY`] if it needs not be, or another one is at it.
pub(crate) fn start(dev: &Device) -> Result {
    if !dev.recovery().possible {
        return Err(EINVAL);
    }
    if dev.state.lock().phase.is_orphaned() {
        Ok(())
    } else {
        Err(EBUSY)
    }
}

/// `END_USER_RECOVERY`: the new server has fetched all slots, and gets the disk.
///
/// Waits until it has fetched. Fails with [`EINVAL`] if `pid` is not that of the server or the
/// device can not be recovered, [`EBUSY`] if the server has its disk already, [`EINTR`], and
/// [`ENODEV`] if the device is deleted meanwhile.
pub(crate) fn end(dev: &Device, pid: i32) -> Result {
    let _lifecycle = start::wait_ready(dev)?;
    let disk = {
        let mut state = dev.state.lock();
        start::check_pid(&state.phase.server().ok_or(EINVAL)?.leader, pid)?;
        if !dev.recovery().possible {
            return Err(EINVAL);
        }
        state.phase.change(Event::Recover)?;
        state.disk_ref().ok_or(EINVAL)?
    };
    // The last fetch has opened the gate. What came before that is in the list when this is over.
    disk.quiesce().unquiesce();
    disk.kick_requeue_list();
    Ok(())
}

/// `QUIESCE_DEV`: sends the server away when it is idle, so that another one can recover the disk.
///
/// Waits up to `timeout_ms` milliseconds, 0 is for ever, until each queue has a command to tell the
/// server with. Fails with [`EOPNOTSUPP`] if the device does not have the feature, [`ENODEV`]
/// without a disk, [`EBUSY`] if the time is up or somebody waits to stop the device, and [`EINTR`].
pub(crate) fn quiesce(dev: &Device, timeout_ms: u64) -> Result {
    if !dev.has(UBLK_F_QUIESCE) {
        return Err(EOPNOTSUPP);
    }
    let _lifecycle = dev.lifecycle.lock();
    let disk = {
        let state = dev.state.lock();
        let disk = state.disk_ref().ok_or(ENODEV)?;
        if !state.phase.is_live() {
            return Ok(());
        }
        disk
    };
    let gate = if dev.recovery().holds {
        Gate::Held
    } else {
        Gate::Aborting
    };
    dev.change_gate(&disk, gate);
    if let Err(e) = wait_idle(dev, timeout_ms) {
        dev.change_gate(&disk, Gate::Open);
        disk.kick_requeue_list();
        return Err(e);
    }
    // It was Live, and nobody else changes that while we hold the lifecycle lock.
    dev.state.lock().phase.change(Event::Leave)?;
    dev.cancel_commands();
    Ok(())
}

/// Waits until each queue has a command that waits for a request, or no server any more.
fn wait_idle(dev: &Device, timeout_ms: u64) -> Result {
    let mut left = match timeout_ms {
        0 => u32::MAX,
        // The upper half does not count, and what is left may be no time at all.
        ms => ms as u32,
    };
    // As in the C driver, batches are not waited for then.
    if left == 0 && !dev.has(UBLK_F_BATCH_IO) {
        return Err(EBUSY);
    }
    while !dev.queues().all(|queue| queue.can_tell_server()) {
        // Who wants to stop it needs the lock that we hold, and makes what we wait for pointless.
        if left == 0 || dev.stop_is_waiting() {
            return Err(EBUSY);
        }
        if current!().signal_pending() {
            return Err(EINTR);
        }
        fsleep(Delta::from_millis(QUIESCE_POLL_MSECS.into()));
        left = left.saturating_sub(QUIESCE_POLL_MSECS);
    }
    Ok(())
}
