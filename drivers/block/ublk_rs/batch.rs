// SPDX-License-Identifier: GPL-2.0

//! The commands of a server that works on batches: `UBLK_F_BATCH_IO`. Any task may send them, on
//! any ring.
//!
//! 1. `UBLK_U_IO_PREP_IO_CMDS` gives the slots of a queue, all or none of those that it names.
//! 2. `UBLK_U_IO_FETCH_IO_CMDS` waits. Whenever there are requests, their tags are written to a
//!    buffer that the server has provided, and a CQE is posted: see [`BatchQueue`].
//! 3. `UBLK_U_IO_COMMIT_IO_CMDS` commits the results of many requests, and makes their slots ready
//!    for the next ones.

use crate::{
    batch_cmd::{
        BatchIo,
        Element,
        Layout,
        COMMIT_IO_CMDS,
        FETCH_IO_CMDS,
        PREP_IO_CMDS, //
    },
    batch_fused,
    batch_queue::{
        BatchQueue,
        Tags, //
    },
    device::Device,
    fused,
    queue::Queue,
    register,
    slot::shared::Next,
    types::{
        BatchCommands,
        FetchCommand,
        FetchData, //
    },
    uapi::{
        IoCmd,
        UBLK_IO_RES_ABORT, //
    }, //
};
use core::mem::MaybeUninit;
use kernel::{
    block::mq::CompletionBatch,
    io_uring::{
        CommandHandler,
        FusedCmd,
        IssueFlags,
        IssuedCmd,
        Outcome,
        QueuedCmd,
        TaskContext, //
    },
    prelude::*,
    sync::{
        Arc,
        ArcBorrow, //
    },
    uaccess::{
        UserPtr,
        UserSlice, //
    }, //
};

/// `UBLK_U_IO_REGISTER_IO_BUF` and its counterpart. Legacy opcodes are unknown here.
const REGISTER_IO_BUF: u32 = kernel::ioctl::_IOWR::<IoCmd>(b'u' as u32, 0x23);
const UNREGISTER_IO_BUF: u32 = kernel::ioctl::_IOWR::<IoCmd>(b'u' as u32, 0x24);

/// Most CQEs that are posted before other task work has its turn.
const MAX_SHOTS: usize = 32;
/// Bytes of elements that are read at once: a multiple of 8, 16 and 24, the sizes of an element.
const CHUNK: usize = 480;

impl CommandHandler for BatchCommands {
    type Ptr = Arc<Device>;
    type Data = FetchData;
    const FUSED: bool = true;

    fn issue<'a>(
        dev: ArcBorrow<'a, Device>,
        cmd: IssuedCmd<'a, Self>,
        flags: IssueFlags<'a>,
    ) -> Outcome<'a> {
        // A worker thread of io_uring can not post for a multishot command.
        if flags.unlocked() {
            return cmd.defer_to_task();
        }
        match cmd.op() {
            COMMIT_IO_CMDS => {
                let done = commit(&dev, &cmd, flags);
                cmd.complete(done)
            }
            PREP_IO_CMDS => {
                let done = prepare(&dev, &cmd);
                cmd.complete(done)
            }
            FETCH_IO_CMDS => fetch(&dev, cmd, flags),
            op => {
                let io: IoCmd = zerocopy::transmute!(cmd.payload::<[u64; 2]>());
                match op {
                    UNREGISTER_IO_BUF => register::unregister(&dev, cmd, io, flags),
                    REGISTER_IO_BUF => register::register_shared(&dev, cmd, io, flags),
                    _ => {
                        let slot = dev.slot(io.q_id, io.tag);
                        cmd.complete(Err(slot.map_or(EINVAL, |_| EOPNOTSUPP)))
                    }
                }
            }
        }
    }

    fn cancel(dev: ArcBorrow<'_, Device>, data: &FetchData, flags: IssueFlags<'_>) {
        let Some((queue, batch)) = find(&dev, data.q_id) else {
            return;
        };
        // One that is telling notices by itself.
        if let Some(cmd) = batch.cancel(data.id) {
            cmd.done(UBLK_IO_RES_ABORT, flags);
            queue.give_untold_back();
        }
    }

    fn task_work(dev: ArcBorrow<'_, Device>, cmd: QueuedCmd<Self>, cx: TaskContext<'_>) {
        let q_id = cmd.data().q_id;
        match (find(&dev, q_id), cmd.into_multishot()) {
            (Some((queue, batch)), Ok(cmd)) => tell(&dev, queue, batch, cmd, cx),
            // Only such commands are queued, by queues that there are.
            (_, cmd) => drop(cmd),
        }
    }

    fn fused<'a>(
        dev: ArcBorrow<'a, Device>,
        cmd: FusedCmd<'a, Self>,
        flags: IssueFlags<'a>,
    ) -> Outcome<'a> {
        match cmd.op() {
            COMMIT_IO_CMDS => batch_fused::commit(&dev, cmd, flags),
            _ => fused::submit_shared(&dev, cmd),
        }
    }
}

/// A queue, and what its server is told.
fn find(dev: &Device, q_id: u16) -> Option<(&Queue, &BatchQueue)> {
    let queue = dev.queue(q_id.into())?;
    Some((queue, queue.batch()?))
}

/// Checks a command with elements; returns its queue, how the elements look and where they are.
// By itself the compiler does not, as there are two callers: 40 instructions of a batch.
#[inline(always)]
fn check<'a>(
    dev: &'a Device,
    cmd: &IssuedCmd<'_, BatchCommands>,
) -> Result<(&'a Queue, Layout, UserPtr)> {
    let io: BatchIo = zerocopy::transmute!(cmd.payload::<[u64; 2]>());
    let layout = io.elements(dev.batch_rules())?;
    let queue = dev.queue(io.q_id.into()).ok_or(EINVAL)?;
    Ok((queue, layout, UserPtr::from_addr(cmd.sqe_addr() as usize)))
}

fn next(element: &Element) -> Next {
    Next {
        addr: element.addr,
        auto_reg: element.auto_reg,
        appended_at: element.lba,
    }
}

/// `UBLK_U_IO_PREP_IO_CMDS`. Returns 0. Nothing has changed if it fails:
/// - [`EINVAL`]: a tag that there is not, or twice, or that is prepared; no buffer in copy mode.
/// - [`EBUSY`]: all slots of the device are prepared. [`ENODEV`]: the server is to go away.
/// - [`EFAULT`], [`ENOMEM`], and those of [`BatchIo::elements`].
fn prepare(dev: &Device, cmd: &IssuedCmd<'_, BatchCommands>) -> Result<i32> {
    let (queue, layout, user) = check(dev, cmd)?;
    // Before the device is locked, as reading it may fault. If the disk is being recovered, memory
    // must not be waited for that only this server can give back.
    let mut elements = KVVec::new();
    UserSlice::new(user, layout.total()).read_all(&mut elements, GFP_NOIO)?;

    dev.fetch_many(|left| {
        let mut prepared = 0;
        let done = elements.chunks_exact(layout.bytes).try_for_each(|bytes| {
            let element = layout.element(bytes).ok_or(EINVAL)?;
            let slot = queue.slot(element.tag.into()).ok_or(EINVAL)?;
            if element.auto_reg.is_none() {
                slot.data().check_fetch(element.addr)?;
            }
            if prepared == left? {
                return Err(EBUSY);
            }
            slot.prepare(next(&element))?;
            prepared += 1;
            Ok(())
        });
        if let Err(e) = done {
            // Those before the one that failed were Idle.
            let undo = elements.chunks_exact(layout.bytes).take(prepared as usize);
            for element in undo.filter_map(|bytes| layout.element(bytes)) {
                if let Some(slot) = queue.slot(element.tag.into()) {
                    slot.unprepare();
                }
            }
            return Err(e);
        }
        Ok(prepared)
    })?;
    Ok(0)
}

/// `UBLK_U_IO_COMMIT_IO_CMDS`. Returns the bytes of the elements that were committed. If the first
/// one fails, then this does:
/// - [`EINVAL`]: a tag that there is not; no buffer in copy mode.
/// - [`EBUSY`]: the server does not have a request with this tag.
/// - [`EFAULT`], and those of [`BatchIo::elements`].
fn commit(dev: &Device, cmd: &IssuedCmd<'_, BatchCommands>, flags: IssueFlags<'_>) -> Result<i32> {
    let (queue, layout, user) = check(dev, cmd)?;
    let mut reader = UserSlice::new(user, layout.total()).reader();
    let mut chunk = [MaybeUninit::uninit(); CHUNK];
    // It is dropped, and so the requests end, before the command completes.
    let mut batch = CompletionBatch::default();
    let mut committed = 0;

    let mut commit_all = || {
        while !reader.is_empty() {
            let len = reader.len().min(CHUNK);
            let chunk = chunk.get_mut(..len).ok_or(EINVAL)?;
            for bytes in reader.read_into(chunk)?.chunks_exact(layout.bytes) {
                let element = layout.element(bytes).ok_or(EINVAL)?;
                let slot = queue.slot(element.tag.into()).ok_or(EINVAL)?;
                slot.commit_shared(
                    cmd.as_cmd(),
                    flags,
                    next(&element),
                    element.result,
                    &mut batch,
                )?;
                committed += layout.bytes;
            }
        }
        Ok(())
    };
    match (commit_all(), committed) {
        (Err(e), 0) => Err(e),
        // At most that of `elements()`.
        (_, committed) => Ok(committed as i32),
    }
}

/// `UBLK_U_IO_FETCH_IO_CMDS`. Fails with [`EINVAL`] if it is not a multishot command, for another
/// queue than there are, and for a size or flags that make no sense; with [`ENOMEM`]; and with
/// [`ENODEV`] if the server is to go away, or has stopped fetching from this queue because a ring
/// or a task went away.
fn fetch<'a>(
    dev: &Device,
    cmd: IssuedCmd<'a, BatchCommands>,
    flags: IssueFlags<'_>,
) -> Outcome<'a> {
    let io: BatchIo = zerocopy::transmute!(cmd.payload::<[u64; 2]>());
    let Some((_, batch)) = find(dev, io.q_id) else {
        return cmd.complete(Err(EINVAL));
    };
    let cmd = match cmd.into_multishot() {
        Ok(cmd) => cmd,
        Err(cmd) => return cmd.complete(Err(EINVAL)),
    };
    let room = match io.check_fetch().and_then(|()| BatchQueue::new_room()) {
        Ok(room) => room,
        Err(e) => return cmd.complete(Err(e)),
    };
    let data = FetchData {
        id: batch.new_id(),
        q_id: io.q_id,
        group: cmd.buf_group(),
    };
    let (queued, outcome) = cmd.queue_cancelable(data);
    if let Err(cmd) = batch.attach(data.id, queued, room) {
        cmd.done(UBLK_IO_RES_ABORT, flags);
    }
    outcome
}

/// Tells the server of the requests that there are, in its task, with the command that is telling.
fn tell(
    dev: &Device,
    queue: &Queue,
    batch: &BatchQueue,
    cmd: FetchCommand,
    mut cx: TaskContext<'_>,
) {
    let FetchData { id, group, .. } = *cmd.data();
    let flags = cx.flags();

    // The work of a task that is exiting is done by somebody else, who does not have its memory.
    if cx.cancelled() {
        batch.retire(id, true);
        cmd.done(UBLK_IO_RES_ABORT, flags);
        return queue.give_untold_back();
    }

    let mut cmd = cmd;
    let mut tags = Tags::new();
    for _ in 0..MAX_SHOTS {
        let shot = match cmd.select(group, &mut cx) {
            Ok(shot) => shot,
            Err((e, last)) => {
                batch.retire(id, false);
                last.done(e.to_errno(), flags);
                return queue.give_untold_back();
            }
        };
        let room = shot.room() / size_of::<u16>();
        if room == 0 {
            batch.retire(id, false);
            shot.release().done(ENOBUFS.to_errno(), flags);
            return queue.give_untold_back();
        }
        let more = batch.take(&mut tags, room);
        tags.retain(|tag| {
            let slot = queue.slot(tag.into());
            slot.is_some_and(|slot| {
                slot.start_shared(shot.as_cmd(), flags, queue.descs(), dev.shmem())
            })
        });

        if tags.is_empty() {
            cmd = shot.release();
        } else {
            cmd = match shot.post(zerocopy::IntoBytes::as_bytes(&*tags)) {
                Ok(cmd) => cmd,
                // As in the C driver, whatever the reason is.
                Err((_, last)) => {
                    tags.retain(|tag| {
                        let slot = queue.slot(tag.into());
                        slot.is_some_and(|slot| slot.not_told(last.as_cmd(), flags))
                    });
                    batch.give_back(&tags);
                    batch.retire(id, false);
                    last.done(ENOBUFS.to_errno(), flags);
                    return queue.give_untold_back();
                }
            };
        }
        if !more {
            break;
        }
    }
    if let Err(cmd) = batch.park(id, cmd) {
        cmd.done(UBLK_IO_RES_ABORT, flags);
        queue.give_untold_back();
    }
}
