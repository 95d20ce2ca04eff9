// SPDX-License-Identifier: GPL-2.0

//! The block device `/dev/ublkbN`: what the block layer calls.

use crate::{
    batch_queue::{
        BatchQueue,
        Tell,
        Tells, //
    },
    device::{
        Device,
        Opening, //
    },
    ending::{
        self,
        CopyRules,
        Endings,
        FindEndings, //
    },
    policy::Gate,
    slot::{
        self,
        Overdue,
        Slot,
        ToSend,
        When, //
    },
    types::{
        Disk,
        RequestRef, //
    },
    uapi::UBLK_F_UNPRIVILEGED_DEV,
    zone_report, //
};
use core::ptr;
use kernel::{
    block::mq::{
        DriverQueue,
        Op,
        Operations,
        QueueResult,
        Request,
        RequestList,
        Timeout,
        ZoneRange,
        ZoneReporter, //
    },
    capability::{
        capable,
        Capability, //
    },
    cred,
    io_uring::{
        PartMemory,
        TaskBatch, //
    },
    prelude::*,
    sync::Arc,
    time::Delta, //
};

/// How old a write may be for whose data a server that is not trusted has no room: as old as the
/// block layer by default lets any request become before it calls `timeout()`. It does not call
/// that for such a write, whose time begins anew each time it is tried.
const PATIENCE: Delta = Delta::from_secs(30);

/// What the block layer knows of a device; exists as long as anybody has a reference to the disk.
pub(crate) struct DiskData {
    dev: Arc<Device>,
}

impl DiskData {
    /// Notes that the device has a disk.
    pub(crate) fn new(dev: Arc<Device>) -> Self {
        dev.set_disk_exists(true);
        Self { dev }
    }

    /// The slot of a request.
    fn slot(&self, hw_queue: u32, tag: u32) -> Option<&Slot> {
        self.dev.queue(hw_queue)?.slot(tag)
    }

    /// What `queue_rq()` does if the gate is not open.
    #[inline(never)]
    fn queue_gated(&self, rq: RequestRef) -> QueueResult<Disk> {
        let gate = self.dev.gate();
        match gate {
            Gate::Open | Gate::Draining => {}
            Gate::Held if slot::may_wait(&rq) => {
                ending::hold(rq);
                return Ok(());
            }
            Gate::Failing => return Err((EREMOTEIO, rq)),
            Gate::Held | Gate::Aborting => return Err((EIO, rq)),
        }
        self.dispatch(rq, gate, Tell::Now).send();
        Ok(())
    }

    /// Gives a request, which passed the gate, to its slot. What is returned has to be done.
    // By itself the compiler does not, as there are two callers.
    #[inline(always)]
    fn dispatch(&self, rq: RequestRef, gate: Gate, tell: Tell) -> ToSend<'_> {
        // Most requests are of these, so that is looked at first.
        if matches!(rq.op(), Op::Read | Op::Write) || is_known(&rq) {
            if let Some(slot) = self.slot(rq.hw_queue(), rq.tag()) {
                return slot.dispatch(rq, gate, tell);
            }
        }
        ending::refuse(rq);
        ToSend::Nothing
    }
}

/// Whether a request can be described to the server.
#[inline(never)]
fn is_known(rq: &Request<Disk>) -> bool {
    match rq.op() {
        Op::Other(_) => false,
        Op::DriverIn => rq.driver_data().is_some(),
        _ => true,
    }
}

impl FindEndings for DiskData {
    #[inline]
    fn endings(&self, hw_queue: u32, tag: u32) -> Option<&Endings> {
        self.slot(hw_queue, tag).map(Slot::endings)
    }
}

impl CopyRules for DiskData {
    fn may_retry(&self, age: Option<Delta>) -> bool {
        // The disk is not deleted before all requests have ended.
        if matches!(self.dev.gate(), Gate::Draining | Gate::Aborting) {
            return false;
        }
        self.may_go_on(age)
    }

    fn may_go_on(&self, age: Option<Delta>) -> bool {
        // One that is not trusted could hold it up for long, a block at a time. The age is not
        // known if the disk has no statistics. Then there is no other try.
        !self.dev.has(UBLK_F_UNPRIVILEGED_DEV) || age.is_some_and(|age| age < PATIENCE)
    }

    fn block_bytes(&self) -> u32 {
        // It was checked, and does not change as long as there is a disk.
        let shift = self.dev.state.lock().params.basic.logical_bs_shift;
        1u32 << shift.clamp(9, 31)
    }
}

impl Drop for DiskData {
    fn drop(&mut self) {
        self.dev.set_disk_exists(false);
    }
}

#[vtable]
impl Operations for Disk {
    type QueueData = KBox<DiskData>;

    // With the dispatch, it spares a request 30 instructions.
    #[inline(always)]
    fn queue_rq(data: &DiskData, rq: RequestRef, _is_last: bool) -> QueueResult<Self> {
        if !data.dev.gate_is_open() {
            return data.queue_gated(rq);
        }
        data.dispatch(rq, Gate::Open, Tell::Now).send();
        Ok(())
    }

    fn queue_rqs(data: &DiskData, requests: RequestList<'_, Self>) {
        // `queue_rq()` knows what else can be done with them.
        if !data.dev.gate_is_open() {
            return;
        }
        let mut batch = TaskBatch::default();
        let mut to_kick: Option<&BatchQueue> = None;
        for rq in requests {
            match data.dispatch(rq, Gate::Open, Tell::WhenKicked) {
                ToSend::Command(cmd) => batch.push(cmd),
                ToSend::Telling(cmd) => cmd.send(),
                // Once for all of the requests of a queue.
                ToSend::Kick(queue) => match to_kick.replace(queue) {
                    Some(last) if !ptr::eq(last, queue) => last.kick(),
                    _ => {}
                },
                ToSend::Nothing => {}
            }
        }
        if let Some(queue) = to_kick {
            queue.kick();
        }
    }

    fn commit_rqs(_data: &DiskData) {}

    fn report_zones(
        data: &DiskData,
        queue: DriverQueue<'_, Self>,
        range: ZoneRange,
        report: &mut ZoneReporter<'_>,
    ) -> Result {
        zone_report::report(&data.dev, &queue, range, report)
    }

    /// Only the owner opens an unprivileged device, or else users could be lured to it.
    fn open(data: &DiskData) -> Result {
        let (dev, info) = (&data.dev, data.dev.info());

        if capable(Capability::SYS_ADMIN) {
            return Ok(());
        }
        if dev.has(UBLK_F_UNPRIVILEGED_DEV)
            && (info.owner_uid, info.owner_gid)
                != (
                    cred::current_uid_in_init_ns(),
                    cred::current_gid_in_init_ns(),
                )
        {
            return Err(EPERM);
        }
        match dev.state.lock().opening {
            Opening::Allowed => Ok(()),
            Opening::Refused => Err(ENXIO),
        }
    }

    /// A trusted server may take its time, another one is killed. The requests of one that is dying
    /// are aborted, if that takes so long, and it gets no further ones.
    fn timeout(data: &DiskData, hw_queue: u32, tag: u32) -> Timeout {
        let Some(slot) = data.slot(hw_queue, tag) else {
            return Timeout::Again;
        };
        match slot.overdue() {
            Overdue::Served => {}
            Overdue::Deserted => {
                data.dev.give_up_deserted(When::Overdue);
                // Else it was told or committed just now.
                return if slot.is_abandoned() {
                    Timeout::Done
                } else {
                    Timeout::Again
                };
            }
            // There may be many of them, so this must not look at other slots.
            Overdue::GivenUp => return Timeout::Done,
        }
        if data.dev.has(UBLK_F_UNPRIVILEGED_DEV) {
            // One that is to tell may not be the one that has prepared the slot.
            for process in [slot.server(), slot.telling_process()]
                .into_iter()
                .flatten()
            {
                // If that fails, it is gone.
                let _ = process.kill_group();
            }
        }
        Timeout::Again
    }

    // Requests are ended where their result is known, this is not used.
    fn complete(rq: RequestRef) {
        ending::finish(rq);
    }

    #[inline]
    fn lease_ended(rq: RequestRef) {
        ending::finish(rq);
    }

    fn part_ended(rq: RequestRef, memory: PartMemory, result: i32) -> bool {
        let committed = rq
            .queue_data()
            .slot(rq.hw_queue(), rq.tag())
            .and_then(|slot| slot.commit_lent(&rq, memory, result));

        match committed {
            Some(verdict) => ending::finish_lent(rq, verdict),
            None => ending::finish(rq),
        }
        committed.is_some()
    }
}
