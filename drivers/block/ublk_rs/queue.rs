// SPDX-License-Identifier: GPL-2.0

//! The queues of a device: the slots of each, the buffer in which requests are described to the
//! server, and what the block layer calls.

use crate::{
    buffer::DataMode,
    device::Device,
    io::{
        self,
        Cmd,
        Rq,
        Slot, //
    },
    recovery::{
        Gate,
        Recovery, //
    },
    uapi::*, //
};
use kernel::{
    block::mq::{
        Op,
        Operations,
        Request,
        RequestFlags,
        RequestList,
        Timeout, //
    },
    capability::{
        capable,
        Capability, //
    },
    cred,
    io_uring::TaskBatch,
    mm::{
        shared_buf::SharedBuf,
        virt::VmaNew, //
    },
    page::page_align,
    prelude::*,
    sync::Arc, //
};

/// One queue of a device.
pub(crate) struct Queue {
    /// One descriptor per tag, `desc_size` bytes each. The server maps it.
    descs: SharedBuf,
    desc_size: usize,
    slots: KVVec<Pin<KBox<Slot>>>,
}

impl Queue {
    /// Creates a queue with `depth` slots.
    pub(crate) fn new(
        depth: u16,
        desc_size: u16,
        data: DataMode,
        recovery: Recovery,
    ) -> Result<Self> {
        let mut slots = KVVec::with_capacity(depth.into(), GFP_KERNEL)?;
        for _ in 0..depth {
            slots.push(
                KBox::pin_init(Slot::new(data, recovery), GFP_KERNEL)?,
                GFP_KERNEL,
            )?;
        }
        Ok(Self {
            descs: SharedBuf::new(descs_len(depth.into(), desc_size).ok_or(EOVERFLOW)?)?,
            desc_size: desc_size.into(),
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

    /// Whether the server can be told something: a command waits, or there is no server any more.
    pub(crate) fn can_tell_server(&self) -> bool {
        self.slots().any(|slot| slot.is_waiting()) || self.slots().all(|slot| slot.is_abandoned())
    }

    /// Describes a request to the server. `addr` is the server's buffer, `bytes` the size of the
    /// request, or how much of the data of a write the server has got, `flags` are more
    /// `UBLK_IO_F_*`.
    pub(crate) fn describe(&self, rq: &Request<Disk>, addr: u64, bytes: u32, flags: u32) {
        let op = match rq.op() {
            Op::Read => UBLK_IO_OP_READ,
            Op::Write => UBLK_IO_OP_WRITE,
            Op::Flush => UBLK_IO_OP_FLUSH,
            Op::Discard => UBLK_IO_OP_DISCARD,
            Op::WriteZeroes => UBLK_IO_OP_WRITE_ZEROES,
            // It was refused.
            Op::Other(_) => return,
        };
        let desc = IoDesc {
            op_flags: op | desc_flags(rq.flags()) | flags,
            nr_sectors: bytes >> 9,
            start_sector: rq.sector(),
            addr,
        };
        let words: [u64; 3] = zerocopy::transmute!(desc);
        // The buffer has room for a descriptor per tag.
        let _ = self.descs.write(rq.tag() as usize * self.desc_size, &words);
    }

    /// Maps the descriptors into a server. `vma` must have exactly their size, in whole pages.
    pub(crate) fn map(&self, vma: &VmaNew) -> Result {
        if vma.end() - vma.start() != self.descs.len() {
            return Err(EINVAL);
        }
        self.descs.map(vma)
    }
}

/// Bytes of the descriptors of a queue, in whole pages.
pub(crate) fn descs_len(depth: usize, desc_size: u16) -> Option<usize> {
    page_align(depth * usize::from(desc_size))
}

/// The flags of a request as the server knows them.
fn desc_flags(flags: RequestFlags) -> u32 {
    [
        (flags.failfast_dev(), UBLK_IO_F_FAILFAST_DEV),
        (flags.failfast_transport(), UBLK_IO_F_FAILFAST_TRANSPORT),
        (flags.failfast_driver(), UBLK_IO_F_FAILFAST_DRIVER),
        (flags.meta(), UBLK_IO_F_META),
        (flags.fua(), UBLK_IO_F_FUA),
        (flags.nounmap(), UBLK_IO_F_NOUNMAP),
        (flags.swap(), UBLK_IO_F_SWAP),
    ]
    .into_iter()
    .filter_map(|(set, bit)| set.then_some(bit))
    .fold(0, |all, bit| all | bit)
}

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
    pub(crate) fn slot(&self, hw_queue: u32, tag: u32) -> Option<&Slot> {
        self.dev.queue(hw_queue)?.slot(tag)
    }

    /// Gives a request to its slot; the command that is returned has to be sent to its task.
    #[inline]
    fn dispatch(&self, rq: Rq) -> Option<Cmd> {
        let slot = match rq.op() {
            Op::Other(_) => None,
            _ => self.slot(rq.hw_queue(), rq.tag()),
        };
        match slot {
            Some(slot) => slot.dispatch(rq),
            None => {
                io::refuse(rq);
                None
            }
        }
    }
}

impl Drop for DiskData {
    fn drop(&mut self) {
        self.dev.set_disk_exists(false);
    }
}

/// The block device.
pub(crate) struct Disk;

#[vtable]
impl Operations for Disk {
    type QueueData = KBox<DiskData>;

    fn queue_rq(data: &DiskData, rq: Rq, _is_last: bool) -> Result {
        match data.dev.gate() {
            Gate::Open => {}
            Gate::Held => {
                io::hold(rq);
                return Ok(());
            }
            Gate::Failing => return Err(EREMOTEIO),
            Gate::Aborting => return Err(EIO),
        }
        if let Some(cmd) = data.dispatch(rq) {
            cmd.complete_in_task();
        }
        Ok(())
    }

    fn queue_rqs(data: &DiskData, requests: RequestList<'_, Self>) {
        // `queue_rq()` knows what else can be done with them.
        if data.dev.gate() != Gate::Open {
            return;
        }
        let mut batch = TaskBatch::default();
        for cmd in requests.filter_map(|rq| data.dispatch(rq)) {
            batch.push(cmd);
        }
    }

    fn commit_rqs(_data: &DiskData) {}

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
        if dev.is_closing() {
            return Err(ENXIO);
        }
        Ok(())
    }

    /// A trusted server may take its time, another one is killed.
    fn timeout(data: &DiskData, hw_queue: u32, tag: u32) -> Timeout {
        if !data.dev.has(UBLK_F_UNPRIVILEGED_DEV) {
            return Timeout::Again;
        }
        match data.slot(hw_queue, tag).and_then(Slot::server) {
            Some(server) if server.kill_group().is_ok() => Timeout::Done,
            // It is gone, or about to be: its requests will be aborted.
            _ => Timeout::Again,
        }
    }

    // Requests are ended where their result is known, this is not used.
    fn complete(rq: Rq) {
        io::finish(rq);
    }

    fn lease_ended(rq: Rq) {
        io::finish(rq);
    }
}

#[kunit_tests(ublk_rs_queue)]
mod tests {
    use super::*;
    use kernel::page::PAGE_SIZE;

    #[test]
    fn descriptor_pages() {
        assert_eq!(descs_len(1, 24), Some(PAGE_SIZE));
        assert_eq!(descs_len(PAGE_SIZE / 32, 32), Some(PAGE_SIZE));
        assert_eq!(descs_len(PAGE_SIZE / 32 + 1, 32), Some(2 * PAGE_SIZE));
    }
}
