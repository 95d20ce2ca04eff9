// SPDX-License-Identifier: GPL-2.0

//! Asking the server about the zones of its disk.
//!
//! The block layer asks us, and we send a request to the server, whose data are the zones. There
//! are two kinds of questions:
//! - A user of the disk asks. This is as any other request: it waits for the server, or the next
//!   one, and fails when others do.
//! - The block layer looks at all zones inside of `START_DEV` and `UPDATE_SIZE`, which hold
//!   [`Device::lifecycle`] and wait for the server. Nobody cleans up after a server without that
//!   lock, so such a request fails as soon as there is no server. Who waits looks after that
//!   himself, because the server may be one that can not close its files before `START_DEV` has
//!   ended: it is sent by a worker thread of a ring of its own. And it fails when somebody waits
//!   for the lock to stop the device.

use crate::{
    device::Device,
    slot::{
        Slot,
        When, //
    },
    types::{
        Disk,
        ReportRequest, //
    },
    uapi::UBLK_F_ZONED, //
};
use kernel::{
    block::mq::{
        DriverQueue,
        Zone,
        ZoneRange,
        ZoneReporter, //
    },
    prelude::*, //
};

/// Most bytes of zones that are asked for at once: 1024 zones.
const MAX_BUFFER: usize = 64 << 10;
/// Any queue can transfer a buffer of this size.
const MIN_BUFFER: usize = 4096;

/// Calls `f`, which has the block layer look at all zones, if there are any. The caller holds
/// [`Device::lifecycle`].
pub(crate) fn while_revalidating<R>(dev: &Device, f: impl FnOnce() -> R) -> R {
    if !dev.has(UBLK_F_ZONED) {
        return f();
    }
    dev.set_revalidating(true);
    let result = f();
    dev.set_revalidating(false);
    result
}

/// Reports the zones of `range`, or fewer if the server does not know more.
///
/// Process context; sleeps until the server has answered. Fails with the server's error, with
/// [`EIO`] if it has gone away, with [`ENODEV`] if an answer makes no sense or if the device is
/// about to be stopped, with [`EINTR`], and with [`ENOMEM`].
pub(crate) fn report(
    dev: &Device,
    queue: &DriverQueue<'_, Disk>,
    range: ZoneRange,
    report: &mut ZoneReporter<'_>,
) -> Result {
    let revalidates = dev.is_revalidating();
    let mut buf = buffer(queue, range.nr_zones)?;
    let room = u32::try_from(buf.len() / Zone::BYTES)?;

    loop {
        let left = report.left();
        if left.nr_zones == 0 {
            return Ok(());
        }
        let asked = ReportRequest {
            zones: ZoneRange {
                nr_zones: left.nr_zones.min(room),
                ..left
            },
            may_wait: !revalidates,
        };
        // What the server does not write is no zone.
        buf.fill(0);
        queue.execute_in(&asked, &mut buf, || {
            if revalidates {
                look_after(dev)
            } else if current!().signal_pending() {
                Err(EINTR)
            } else {
                Ok(())
            }
        })?;
        if take(&buf, asked.zones.nr_zones, report)? == 0 {
            return Ok(());
        }
    }
}

/// Takes at most `max` zones of an answer; returns how many there were.
fn take(buf: &[u8], max: u32, report: &mut ZoneReporter<'_>) -> Result<usize> {
    let mut taken = 0;
    for bytes in buf.chunks_exact(Zone::BYTES).take(max as usize) {
        let Some(zone) = Zone::from_bytes(bytes.first_chunk().ok_or(EINVAL)?)? else {
            break;
        };
        report.zone(&zone)?;
        taken += 1;
    }
    Ok(taken)
}

/// A buffer for as many zones, or for fewer. There may be little memory.
fn buffer(queue: &DriverQueue<'_, Disk>, nr_zones: u32) -> Result<KVec<u8>> {
    let wanted = (nr_zones as usize)
        .saturating_mul(Zone::BYTES)
        .clamp(MIN_BUFFER, MAX_BUFFER)
        .next_power_of_two();
    let mut size = queue.max_buffer(wanted);
    loop {
        match KVec::from_elem(0, size, GFP_NOIO | __GFP_NOWARN) {
            Ok(buf) => return Ok(buf),
            Err(e) if size <= MIN_BUFFER => return Err(e.into()),
            Err(_) => size /= 2,
        }
    }
}

/// Ends the request for zones if nobody is going to answer it. Fails with [`ENODEV`] if the device
/// is about to be stopped, and with [`EIO`] if its server dies: then nobody waits until the buffer
/// of an answer is not registered any more, as that may be so until the server closes its files.
fn look_after(dev: &Device) -> Result {
    if dev.stop_is_waiting() {
        dev.slots().for_each(Slot::abort_report);
        return Err(ENODEV);
    }
    dev.give_up_deserted(When::AtOnce);
    let has_server = dev.state.lock().phase.server().is_some();
    // Who has opened the device may be another process than who serves it.
    let lives = |slot: &Slot| slot.server().is_some_and(|task| !task.is_group_dying());
    if has_server && dev.slots().any(lives) {
        Ok(())
    } else {
        Err(EIO)
    }
}
