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
    uapi::{
        DevInfo,
        UBLK_F_BATCH_IO,
        UBLK_IO_RES_ABORT, //
    }, //
};
use kernel::{
    alloc::NumaNode,
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
    /// Creates a queue of the device that `info` describes, if possible on the memory node `node`.
    pub(crate) fn new(
        info: &DevInfo,
        data: DataMode,
        recovery: Recovery,
        node: NumaNode,
    ) -> Result<Self> {
        let depth = info.queue_depth;
        let batch = if info.flags & UBLK_F_BATCH_IO != 0 {
            Some(BatchQueue::new(depth)?)
        } else {
            None
        };
        let mut slots = KVVec::with_capacity_node(depth.into(), GFP_KERNEL, node)?;
        for tag in 0..depth {
            let shared = batch.clone().map(|queue| QueuedTag::new(queue, tag));
            let slot = KBox::new_uninit_node(GFP_KERNEL, node)?
                .write_pin_init(Slot::new(data, recovery, shared))?;
            slots.push(slot, GFP_KERNEL)?;
        }
        Ok(Self {
            descs: Descs::new(depth, info.io_desc_size, node)?,
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
    /// One that works on batches is told by its next command, if none waits.
    pub(crate) fn can_tell_server(&self) -> bool {
        self.batch.is_some()
            || self.slots().any(|slot| slot.is_waiting())
            || self.slots().all(|slot| slot.is_abandoned())
    }
}
