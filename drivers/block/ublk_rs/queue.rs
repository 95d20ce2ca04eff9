// SPDX-License-Identifier: GPL-2.0

//! A queue of a device: a slot per tag, and where their requests are described to the server.

use crate::{
    batch_queue::{
        BatchQueue,
        QueuedTag, //
    },
    data_mode::DataMode,
    descs::Descs,
    policy::Recovery,
    slot::Slot,
    uapi::UBLK_IO_RES_ABORT, //
};
use kernel::{
    io_uring::IssueFlags,
    prelude::*,
    sync::Arc, //
};

/// One queue of a device.
pub(crate) struct Queue {
    descs: Descs,
    slots: KVVec<Pin<KBox<Slot>>>,
    /// With `UBLK_F_BATCH_IO`.
    batch: Option<Arc<BatchQueue>>,
}

impl Queue {
    /// Creates a queue with `depth` slots.
    pub(crate) fn new(
        depth: u16,
        desc_size: u16,
        data: DataMode,
        recovery: Recovery,
        batch: bool,
    ) -> Result<Self> {
        let batch = if batch {
            Some(BatchQueue::new(depth)?)
        } else {
            None
        };
        let mut slots = KVVec::with_capacity(depth.into(), GFP_KERNEL)?;
        for tag in 0..depth {
            let shared = batch.clone().map(|queue| QueuedTag::new(queue, tag));
            slots.push(
                KBox::pin_init(Slot::new(data, recovery, shared), GFP_KERNEL)?,
                GFP_KERNEL,
            )?;
        }
        Ok(Self {
            descs: Descs::new(depth, desc_size)?,
            slots,
            batch,
        })
    }

    /// The slot of a tag.
    pub(crate) fn slot(&self, tag: u32) -> Option<&Slot> {
        self.slots.get(tag as usize).map(|slot| &**slot)
    }

    /// All slots.
    pub(crate) fn slots(&self) -> impl Iterator<Item = &Slot> {
        self.slots.iter().map(|slot| &**slot)
    }

    /// Where requests are described to the server.
    pub(crate) fn descs(&self) -> &Descs {
        &self.descs
    }

    /// What the server is told, and with what, with `UBLK_F_BATCH_IO`.
    pub(crate) fn batch(&self) -> Option<&BatchQueue> {
        self.batch.as_deref()
    }

    /// Ends the commands that tell the server of many requests: see
    /// [`Device::close_batches`](crate::device::Device::close_batches).
    pub(crate) fn close_batch(&self, flags: IssueFlags<'_>) {
        let Some(batch) = self.batch() else {
            return;
        };
        batch.close();
        while let Some(cmd) = batch.take_waiting() {
            cmd.done(UBLK_IO_RES_ABORT, flags);
        }
        self.give_untold_back();
    }

    /// Gives the requests back to the block layer of which the server will not be told, because the
    /// queue was closed.
    pub(crate) fn give_untold_back(&self) {
        let Some(batch) = self.batch() else {
            return;
        };
        while let Some(tag) = batch.take_untold() {
            if let Some(slot) = self.slot(tag.into()) {
                slot.withdraw();
            }
        }
    }

    /// Whether the server can be told something: a command waits, or there is no server any more.
    pub(crate) fn can_tell_server(&self) -> bool {
        if self.batch().is_some_and(BatchQueue::can_tell_server) {
            return true;
        }
        self.slots().any(|slot| slot.is_waiting()) || self.slots().all(|slot| slot.is_abandoned())
    }
}
