// SPDX-License-Identifier: GPL-2.0

//! A queue of a device: a slot per tag, and where their requests are described to the server.

use crate::{
    data_mode::DataMode,
    descs::Descs,
    policy::Recovery,
    slot::Slot, //
};
use kernel::{
    alloc::NumaNode,
    prelude::*, //
};

/// One queue of a device.
pub(crate) struct Queue {
    descs: Descs,
    slots: KVVec<Pin<KBox<Slot>>>,
}

impl Queue {
    /// Creates a queue with `depth` slots, if possible on the memory node `node`.
    pub(crate) fn new(
        depth: u16,
        desc_size: u16,
        data: DataMode,
        recovery: Recovery,
        node: NumaNode,
    ) -> Result<Self> {
        let mut slots = KVVec::with_capacity_node(depth.into(), GFP_KERNEL, node)?;
        for _ in 0..depth {
            let slot = KBox::new_uninit_node(GFP_KERNEL, node)?
                .write_pin_init(Slot::new(data, recovery))?;
            slots.push(slot, GFP_KERNEL)?;
        }
        Ok(Self {
            descs: Descs::new(depth, desc_size, node)?,
            slots,
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

    /// Whether the server can be told something: a command waits, or there is no server any more.
    pub(crate) fn can_tell_server(&self) -> bool {
        self.slots().any(|slot| slot.is_waiting()) || self.slots().all(|slot| slot.is_abandoned())
    }
}
