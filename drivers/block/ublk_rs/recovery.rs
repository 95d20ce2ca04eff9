// SPDX-License-Identifier: GPL-2.0

//! A disk that outlives its server: what happens to its requests meanwhile, and the control
//! commands that make and end such a time.
//!
//! A new server opens the character device, fetches all slots, and says `END_USER_RECOVERY`; then
//! the requests that were held are sent to it.

use crate::{
    device::Device,
    phase::Event,
    start,
    stop,
    uapi::*, //
};
use kernel::{
    block::mq::DiskRef,
    prelude::*,
    time::{
        delay::fsleep,
        Delta, //
    }, //
};

/// How often `QUIESCE_DEV` looks whether the server is idle.
const QUIESCE_POLL_MSECS: u32 = 3;

/// What the recovery features of a device say about requests without a server.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Recovery {
    /// The disk survives its server.
    pub(crate) possible: bool,
    /// Requests wait for the next server; else they fail.
    pub(crate) holds: bool,
    /// So do those that the dead server had; else they fail.
    pub(crate) reissues: bool,
}

impl Recovery {
    /// What the features `flags` say.
    pub(crate) fn new(flags: u64) -> Self {
        let possible = flags & UBLK_F_USER_RECOVERY != 0;

        Self {
            possible,
            holds: possible && flags & UBLK_F_USER_RECOVERY_FAIL_IO == 0,
            reissues: possible && flags & UBLK_F_USER_RECOVERY_REISSUE != 0,
        }
    }

    /// What is done with requests while there is no server.
    pub(crate) fn gate_without_server(self) -> Gate {
        if self.holds {
            Gate::Held
        } else {
            Gate::Failing
        }
    }

    /// The state that user space is told then.
    pub(crate) fn state_without_server(self) -> u32 {
        if self.holds {
            UBLK_S_DEV_QUIESCED
        } else {
            UBLK_S_DEV_FAIL_IO
        }
    }
}

/// What is done with a request of the block layer.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(u32)]
pub(crate) enum Gate {
    /// It goes to the slot.
    Open = 0,
    /// It waits until somebody kicks the block layer's list.
    Held = 1,
    /// It fails with `BLK_STS_TARGET`: there is no server.
    Failing = 2,
    /// It fails: the disk is about to go, or the server is being sent away.
    Aborting = 3,
}

impl Gate {
    /// The gate with this number.
    pub(crate) fn from_number(number: u32) -> Self {
        match number {
            0 => Self::Open,
            1 => Self::Held,
            2 => Self::Failing,
            _ => Self::Aborting,
        }
    }
}

/// Sets what is done with requests, and sees to it that no request is still treated in the old way.
///
/// Sleeps. The caller holds [`Device::lifecycle`].
pub(crate) fn set_gate(dev: &Device, disk: &DiskRef, gate: Gate) {
    let quiesced = disk.quiesce();
    dev.set_gate(gate);
    quiesced.unquiesce();
}

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
        state.phase.disk().ok_or(EINVAL)?.disk_ref()
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
/// without a disk, [`EBUSY`] if the time is up, and [`EINTR`].
pub(crate) fn quiesce(dev: &Device, timeout_ms: u64) -> Result {
    if !dev.has(UBLK_F_QUIESCE) {
        return Err(EOPNOTSUPP);
    }
    let _lifecycle = dev.lifecycle.lock();
    let disk = {
        let state = dev.state.lock();
        let disk = state.phase.disk().ok_or(ENODEV)?.disk_ref();
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
    set_gate(dev, &disk, gate);
    if let Err(e) = wait_idle(dev, timeout_ms) {
        set_gate(dev, &disk, Gate::Open);
        disk.kick_requeue_list();
        return Err(e);
    }
    dev.set_leaving(true);
    stop::cancel_commands(dev);
    Ok(())
}

/// Waits until each queue has a command that waits for a request, or no server any more.
fn wait_idle(dev: &Device, timeout_ms: u64) -> Result {
    let mut left = match timeout_ms {
        0 => u32::MAX,
        // The upper half does not count, and what is left may be no time at all.
        ms => ms as u32,
    };
    if left == 0 {
        return Err(EBUSY);
    }
    while !dev.queues().all(|queue| queue.can_tell_server()) {
        if left == 0 {
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

#[kunit_tests(ublk_rs_recovery)]
mod tests {
    use super::*;

    #[test]
    fn policies() {
        let none = Recovery::new(UBLK_F_USER_RECOVERY_REISSUE);
        assert!(!none.possible && !none.holds && !none.reissues);
        let hold = Recovery::new(UBLK_F_USER_RECOVERY);
        assert!(hold.possible && hold.holds && !hold.reissues);
        assert_eq!(hold.gate_without_server(), Gate::Held);
        assert_eq!(hold.state_without_server(), UBLK_S_DEV_QUIESCED);
        let reissue = Recovery::new(UBLK_F_USER_RECOVERY | UBLK_F_USER_RECOVERY_REISSUE);
        assert!(reissue.holds && reissue.reissues);
        let fail = Recovery::new(UBLK_F_USER_RECOVERY | UBLK_F_USER_RECOVERY_FAIL_IO);
        assert!(fail.possible && !fail.holds && !fail.reissues);
        assert_eq!(fail.gate_without_server(), Gate::Failing);
        assert_eq!(fail.state_without_server(), UBLK_S_DEV_FAIL_IO);
    }

    #[test]
    fn gates() {
        for gate in [Gate::Open, Gate::Held, Gate::Failing, Gate::Aborting] {
            assert_eq!(Gate::from_number(gate as u32), gate);
        }
    }
}
