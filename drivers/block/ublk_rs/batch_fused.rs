// SPDX-License-Identifier: GPL-2.0

//! `UBLK_U_IO_COMMIT_IO_CMDS` as the primary of a fused command: many requests of a device with
//! `UBLK_F_BATCH_IO`, each with its own secondaries.
//!
//! An element says how many secondaries, in SQE order, move the data of its request. The request is
//! committed with what came of these, as soon as they are done. An element without any says with
//! what result its request ends, as it does in the ordinary command.

use crate::{
    batch_cmd::{
        BatchIo,
        Moved, //
    },
    device::Device,
    queue::Queue,
    slot::shared::Next,
    types::{
        BatchCommands,
        Disk, //
    },
    uapi::{
        UBLK_F_AUTO_BUF_REG,
        UBLK_F_FUSED_CMD, //
    }, //
};
use core::mem::MaybeUninit;
use kernel::{
    block::mq::CompletionBatch,
    io_uring::{
        CmdRef,
        FusedCmd,
        IssueFlags,
        Outcome,
        MAX_SECONDARIES, //
    },
    prelude::*,
    uaccess::{
        UserPtr,
        UserSlice, //
    }, //
};

/// The most elements of a command: each request that is committed with data has a secondary.
const MAX_ELEMENTS: usize = MAX_SECONDARIES as usize;

// They are read to the stack.
static_assert!(MAX_ELEMENTS * Moved::BYTES <= 512);

/// Where the elements of a command are read to.
type Memory = [MaybeUninit<u8>; MAX_ELEMENTS * Moved::BYTES];

/// The elements of a command.
struct Batch<'a> {
    queue: &'a Queue,
    bytes: &'a [u8],
}

impl<'a> Batch<'a> {
    /// Reads and checks all that a command says. Nothing has changed yet.
    ///
    /// - [`EINVAL`]: another queue than there are, flags or sizes that make no sense, no element, a
    ///   tag that there is not, a request that can not be committed so, other secondaries than the
    ///   command has, a result where they give one, or a device that does not lend data.
    /// - [`E2BIG`]: more elements than tags, or than secondaries that a command can have.
    /// - [`EBUSY`]: the server does not have a request with this tag, or the tag is there twice.
    /// - [`EFAULT`].
    ///
    /// Tags that have secondaries are checked by [`Self::lend`].
    fn new(
        dev: &'a Device,
        cmd: &FusedCmd<'_, BatchCommands>,
        memory: &'a mut Memory,
    ) -> Result<Self> {
        let io: BatchIo = zerocopy::transmute!(cmd.payload::<[u64; 2]>());
        // What is registered with the ring could be read and written beside the secondaries.
        if !dev.has(UBLK_F_FUSED_CMD) || dev.has(UBLK_F_AUTO_BUF_REG) || !cmd.wants_buffer() {
            return Err(EINVAL);
        }
        let len = io.moved(dev.batch_rules())?;
        let queue = dev.queue(io.q_id.into()).ok_or(EINVAL)?;
        let memory = memory.get_mut(..len).ok_or(E2BIG)?;
        let user = UserPtr::from_addr(cmd.sqe_addr() as usize);
        let bytes = UserSlice::new(user, len).reader().read_into(memory)?;
        let batch = Self { queue, bytes };

        let mut nr_secondaries = 0;
        for moved in batch.elements() {
            if moved.nr == 0 {
                batch.check_other(moved.tag)?;
            } else if moved.result != 0 {
                return Err(EINVAL);
            }
            nr_secondaries += u32::from(moved.nr);
        }
        if nr_secondaries != cmd.nr_secondaries() {
            return Err(EINVAL);
        }
        Ok(batch)
    }

    fn elements(&self) -> impl Iterator<Item = Moved> + '_ {
        let chunks = self.bytes.chunks_exact(Moved::BYTES);
        chunks.filter_map(Moved::new)
    }

    /// Whether the request with the tag `tag` can be committed without secondaries.
    fn check_other(&self, tag: u16) -> Result {
        // Once it is committed, the tag may name another request. That one is lent twice is seen
        // when it is lent.
        if self.elements().filter(|other| other.tag == tag).count() > 1 {
            return Err(EBUSY);
        }
        let slot = self.queue.slot(tag.into()).ok_or(EINVAL)?;
        slot.check_commit_in_batch()
    }

    /// Lends the data of each request that has secondaries to these. Fails as [`Self::new`] says
    /// of tags, and with [`ENOMEM`].
    fn lend(&self, cmd: &mut FusedCmd<'_, BatchCommands>) -> Result {
        for moved in self.elements().filter(|moved| moved.nr > 0) {
            let slot = self.queue.slot(moved.tag.into()).ok_or(EINVAL)?;
            let (lease, memory) = slot.lend_to_batch()?;
            if let Err((e, memory, lease)) = cmd.lease_part(memory, lease, moved.nr) {
                slot.take_memory_back(memory);
                drop(lease);
                return Err(e);
            }
        }
        Ok(())
    }

    /// Commits the requests that have no secondaries; returns how many these are. One that has gone
    /// away since it was checked does not count.
    fn commit_others(&self, cmd: CmdRef<'_>, flags: IssueFlags<'_>) -> u32 {
        // The server has no buffer, here or there.
        let next = Next {
            addr: 0,
            auto_reg: None,
            appended_at: None,
        };
        // They end when this is dropped.
        let mut ended: CompletionBatch<Disk> = CompletionBatch::default();
        let mut count = 0;
        for moved in self.elements().filter(|moved| moved.nr == 0) {
            if let Some(slot) = self.queue.slot(moved.tag.into()) {
                let done = slot.commit_shared(cmd, flags, next, moved.result, &mut ended);
                count += u32::from(done.is_ok());
            }
        }
        count
    }
}

/// Serves the command. Its result is the number of requests that were committed.
pub(crate) fn commit<'a>(
    dev: &Device,
    mut cmd: FusedCmd<'a, BatchCommands>,
    flags: IssueFlags<'_>,
) -> Outcome<'a> {
    let mut memory: Memory = [MaybeUninit::uninit(); MAX_ELEMENTS * Moved::BYTES];
    let batch = match Batch::new(dev, &cmd, &mut memory) {
        Ok(batch) => batch,
        Err(e) => return cmd.refuse(e),
    };
    // Those that were lent already come back if another one can not be.
    if let Err(e) = batch.lend(&mut cmd) {
        return cmd.refuse(e);
    }
    let count = batch.commit_others(cmd.as_cmd(), flags);
    cmd.start_parts(count)
}
