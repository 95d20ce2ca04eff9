// SPDX-License-Identifier: GPL-2.0

//! A queue of a device: its thread, its ring, and a task for each tag.

use crate::{
    Answer, Errno, FileId, Flush, Io, Mode, Range, Read, Request, Target, Write,
    io::{Allocate, Inner},
    logging::{flush_log, log, log_io_error},
    request::{Placed, Slot, What},
    socket::Sockets,
    syncs::{SyncErrors, reopen},
};
use std::{
    cell::RefCell,
    fs::File,
    io,
    marker::PhantomData,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::{FileExt, FileTypeExt},
    },
    sync::Arc,
};
use ublk_ring::{Direction, Done, FileIndex, IoCmd, Kind, Memory, Ring, Secondary, Task};
use ublk_sys::{
    Descriptors, open_flags,
    uapi::{self, IoDesc, IoOp},
};

/// What a queue is to be.
pub(crate) struct Plan {
    /// `/dev/ublkcN`
    pub(crate) device: Arc<File>,
    pub(crate) q_id: u16,
    pub(crate) depth: u16,
    pub(crate) mode: Mode,
    /// The most data of a request, in bytes.
    pub(crate) max_io: u32,
    /// Many requests with a command.
    pub(crate) batch: bool,
}

/// A queue, in its thread.
pub(crate) struct Queue {
    plan: Plan,
    ring: Ring,
    /// How many files the target has.
    count: u32,
    descriptors: Descriptors,
    /// All files are such that the kernel knows where they end.
    ends: bool,
    /// Of each tag, when data have to be copied: memory is not asked for when it is
    /// short.
    buffers: RefCell<Vec<Option<Memory>>>,
    sync_errors: SyncErrors,
    pub(crate) sockets: Sockets,
}

/// `/dev/ublkcN` comes first in a ring's table, then the files of the target, and then these once
/// more, to be synced. The last ones are those that the target has opened: so what they are locked
/// with outlives a server that is killed, until what it has submitted has ended.
const DEVICE: FileIndex = FileIndex(0);

/// Pieces of a fused command.
const MOST: usize = ublk_ring::MAX_SECONDARY as usize;

fn index(file: FileId) -> FileIndex {
    FileIndex(file.0 + 1)
}

impl Queue {
    fn new(plan: Plan, target: &impl Target) -> io::Result<Queue> {
        let own = target.files().fds().map(reopen).collect::<io::Result<Vec<_>>>()?;
        // What is only read is never told anything.
        let again = |file| Ok(if open_flags(file)?.write { Some(reopen(file)?) } else { None });
        let synced = target.files().fds().map(again).collect::<io::Result<Vec<_>>>()?;
        let synced = synced.iter().zip(&own).map(|(synced, own)| synced.as_ref().unwrap_or(own).as_fd());
        let files = [plan.device.as_fd()].into_iter().chain(own.iter().map(AsFd::as_fd)).chain(synced);
        let files: Vec<_> = files.chain(target.files().fds()).collect();
        let count = u32::try_from(own.len()).map_err(io::Error::other)?;
        let buffers = if plan.mode == Mode::Auto { plan.depth } else { 0 };
        let sockets = Sockets::new(files.len(), target.files().sockets())?;
        let ring = Ring::new(2 * u32::from(plan.depth), &files, sockets.count(), buffers)?;
        if plan.batch {
            ring.serve_batches(DEVICE, plan.q_id, plan.depth, plan.mode == Mode::Auto)?;
        }
        let descriptors = Descriptors::map(&plan.device, plan.q_id, plan.depth)?;
        let copied = if plan.mode == Mode::Copy { plan.depth } else { 0 };
        let buffers: io::Result<_> =
            (0..copied).map(|_| Memory::new(plan.max_io as usize).map(Some)).collect();
        let buffers = RefCell::new(buffers?);
        let ends = target.files().fds().all(has_end);
        Ok(Queue {
            plan,
            ring,
            count,
            descriptors,
            ends,
            buffers,
            sync_errors: SyncErrors::default(),
            sockets,
        })
    }

    pub(crate) fn mode(&self) -> Mode {
        self.plan.mode
    }

    pub(crate) fn number(&self) -> u16 {
        self.plan.q_id
    }

    pub(crate) fn ring(&self) -> &Ring {
        &self.ring
    }

    /// What is synced: no write with FUA has been told what it does not say any more.
    fn synced(&self, file: FileId) -> FileIndex {
        let FileIndex(own) = index(file);
        FileIndex(own + self.count)
    }

    pub(crate) async fn sync(&self, file: FileId) -> Result<(), Errno> {
        self.sync_errors.check(file)?;
        let result = self.ring.fsync(self.synced(file)).await.ok().map(drop);
        self.sync_errors.note(file, result)
    }

    pub(crate) async fn allocate(
        &self,
        file: FileId,
        how: Allocate,
        offset: u64,
        len: u64,
    ) -> Result<(), Errno> {
        self.ring.fallocate(index(file), how.mode(), offset, len).await.ok().map(drop)
    }

    fn command(&self, op: IoOp, tag: u16, result: i32) -> IoCmd {
        let auto_index = (self.plan.mode == Mode::Auto && op != IoOp::FusedSubmit).then_some(tag);
        IoCmd { op, q_id: self.plan.q_id, tag, result, auto_index }
    }

    /// Answer a request, and wait for the next one of its tag.
    async fn commit(&self, tag: u16, result: Result<u32, Errno>) -> i32 {
        let result = match result {
            Ok(len) => i32::try_from(len).unwrap_or(i32::MAX),
            Err(errno) => -errno.get(),
        };
        if self.plan.batch {
            self.ring.commit_later(tag, result);
            return self.ring.next_request(tag).await;
        }
        self.ring.command(DEVICE, &self.command(IoOp::CommitAndFetch, tag, result)).await.result
    }

    /// Move pieces of the data of a request, which stays. What became of each?
    pub(crate) async fn lend(
        &self,
        tag: u16,
        fua: bool,
        direction: Direction,
        pieces: &[Placed],
    ) -> Vec<Result<(), Errno>> {
        if let [one] = pieces {
            return vec![self.lend_whole(tag, direction, secondary(one, fua)).await];
        }
        let all: Vec<_> = pieces.iter().map(|placed| secondary(placed, fua)).collect();
        let first = match self.plan.mode {
            Mode::Fused => self.lend_fused(tag, direction, &all).await,
            Mode::Auto => {
                let ops: Vec<_> = all.iter().map(|piece| self.ring.fixed(direction, tag, piece)).collect();
                let mut results = Vec::with_capacity(ops.len());
                for op in ops {
                    results.push(op.await.result);
                }
                results
            }
            Mode::Copy => self.copy_all(tag, direction, &all).await,
        };
        let mut results = Vec::with_capacity(all.len());
        for (result, piece) in first.into_iter().zip(&all) {
            // Copies of several pieces are not taken apart.
            let short = rest(result, piece).filter(|_| self.plan.mode != Mode::Copy);
            results.push(match short {
                Some(rest) => self.lend_whole(tag, direction, rest).await,
                None => whole(result, piece.len),
            });
        }
        results
    }

    /// Move a piece. A busy CPU or a signal may end it early: go on where it was.
    async fn lend_whole(&self, tag: u16, direction: Direction, mut piece: Secondary) -> Result<(), Errno> {
        loop {
            let result = self.lend_one(tag, direction, piece).await;
            match rest(result, &piece) {
                Some(rest) => piece = rest,
                None => return whole(result, piece.len),
            }
        }
    }

    /// Move a piece, or the beginning of it.
    pub(crate) async fn lend_one(&self, tag: u16, direction: Direction, piece: Secondary) -> i32 {
        match self.plan.mode {
            Mode::Fused => {
                let cmd = self.command(IoOp::FusedSubmit, tag, 0);
                let done = self.ring.fused(DEVICE, &cmd, direction, &[piece]).await;
                of_group(&done, &[piece])[0]
            }
            Mode::Auto => self.ring.fixed(direction, tag, &piece).await.result,
            Mode::Copy => self.copy_one(tag, direction, piece).await,
        }
    }

    async fn lend_fused(&self, tag: u16, direction: Direction, pieces: &[Secondary]) -> Vec<i32> {
        let cmd = self.command(IoOp::FusedSubmit, tag, 0);
        let groups: Vec<_> = pieces
            .chunks(MOST)
            .map(|group| (self.ring.fused(DEVICE, &cmd, direction, group), group))
            .collect();
        let mut results = Vec::with_capacity(pieces.len());
        for (op, group) in groups {
            results.extend(of_group(&op.await, group));
        }
        results
    }

    async fn copy_one(&self, tag: u16, direction: Direction, piece: Secondary) -> i32 {
        let end = piece.at + piece.len;
        let memory = match self.begin_copy(tag, direction, end) {
            Ok(memory) => memory,
            Err(errno) => return -errno.get(),
        };
        let (result, memory) = self.ring.transfer(direction, memory, piece).await;
        let is_whole = result.cast_unsigned() == piece.len;
        self.end_copy(tag, direction, memory, end, is_whole).map_or_else(|errno| -errno.get(), |()| result)
    }

    async fn copy_all(&self, tag: u16, direction: Direction, pieces: &[Secondary]) -> Vec<i32> {
        let end = pieces.iter().map(|piece| piece.at + piece.len).max().unwrap_or(0);
        let all = |errno: Errno| vec![-errno.get(); pieces.len()];
        let memory = match self.begin_copy(tag, direction, end) {
            Ok(memory) => memory,
            Err(errno) => return all(errno),
        };
        let (results, memory) = self.ring.transfer_all(direction, memory, pieces).await;
        let is_whole = results.iter().zip(pieces).all(|(result, piece)| result.cast_unsigned() == piece.len);
        self.end_copy(tag, direction, memory, end, is_whole).map_or_else(all, |()| results)
    }

    /// The memory of a tag, with the data of its request up to `end` if those are to be drained. They
    /// are copied at once, which is not worth a request of the ring.
    fn begin_copy(&self, tag: u16, direction: Direction, end: u32) -> Result<Memory, Errno> {
        if end > self.plan.max_io {
            return Err(Errno::EINVAL);
        }
        // Only what goes away in the middle does not bring it back.
        let memory = self.buffers.borrow_mut()[usize::from(tag)].take();
        let mut memory = memory.map_or_else(|| Memory::new(self.plan.max_io as usize), Ok)?;
        let mut copied = Ok(());
        if direction == Direction::Drain {
            let position = uapi::data_offset(self.plan.q_id, tag);
            copied = self.plan.device.read_exact_at(&mut memory[..end as usize], position);
        }
        match copied {
            Ok(()) => Ok(memory),
            Err(e) => {
                self.buffers.borrow_mut()[usize::from(tag)] = Some(memory);
                Err(e.into())
            }
        }
    }

    /// Give the memory of a tag back; before, if it is the whole of what was to be filled up to
    /// `end`, to the request.
    fn end_copy(
        &self,
        tag: u16,
        direction: Direction,
        memory: Memory,
        end: u32,
        is_whole: bool,
    ) -> Result<(), Errno> {
        let mut copied = Ok(());
        if direction == Direction::Fill && is_whole {
            let position = uapi::data_offset(self.plan.q_id, tag);
            copied = self.plan.device.write_all_at(&memory[..end as usize], position);
        }
        self.buffers.borrow_mut()[usize::from(tag)] = Some(memory);
        Ok(copied?)
    }

    /// Answer a request. Returns what its command says when there is the next one.
    async fn finish(&self, tag: u16, fua: bool, answer: Answer<'_>) -> i32 {
        let (direction, pieces) = match answer.what {
            What::Result(result) => {
                if let Err(errno) = result {
                    self.failed(tag, errno);
                }
                return self.commit(tag, result).await;
            }
            What::Move(direction, pieces) => (direction, pieces),
        };
        let placed = pieces.as_slice();
        let commits = (direction == Direction::Drain || self.ends) && !self.plan.batch;
        if self.plan.mode == Mode::Fused && placed.len() <= MOST && commits {
            let cmd = self.command(IoOp::CommitAndFetch, tag, 0);
            let done = match placed {
                [one] => self.ring.fused(DEVICE, &cmd, direction, &[secondary(one, fua)]).await,
                many => {
                    let many: Vec<_> = many.iter().map(|placed| secondary(placed, fua)).collect();
                    self.ring.fused(DEVICE, &cmd, direction, &many).await
                }
            };
            for (i, result) in done.failed {
                // A read that comes short is one that ends with the file.
                if direction == Direction::Fill && result >= 0 {
                    continue;
                }
                if let Err(errno) = whole(result, placed[i].piece.len) {
                    log_io_error(format_args!("queue {}: {direction:?} fails: {errno}", self.plan.q_id));
                }
            }
            match Errno::of(done.result) {
                None | Some(Errno::ENODEV) => return done.result,
                // It has not moved the data: the request is still ours.
                Some(errno) => {
                    self.failed(tag, errno);
                    return self.commit(tag, Err(errno)).await;
                }
            }
        }
        let result = match placed {
            [one] => self.lend_whole(tag, direction, secondary(one, fua)).await,
            many => self.lend(tag, fua, direction, many).await.into_iter().collect(),
        };
        let result = result.map(|()| placed.iter().map(|placed| placed.piece.len).sum());
        if let Err(errno) = result {
            self.failed(tag, errno);
        }
        self.commit(tag, result).await
    }

    /// A request of this tag ends with an error; that something can not be done is none.
    fn failed(&self, tag: u16, errno: Errno) {
        if errno != Errno::EOPNOTSUPP {
            let desc = self.descriptors.get(tag);
            let (op, sector, nr) = (desc.op(), desc.start_sector, desc.nr_sectors);
            let q_id = self.plan.q_id;
            log_io_error(format_args!(
                "queue {q_id}: operation {op} of {nr} sectors at {sector} fails: {errno}"
            ));
        }
    }

    /// Serve a tag until the device is stopped.
    async fn serve(&self, io: &Io, tag: u16, target: &impl Target) {
        let mut told = if self.plan.batch {
            self.ring.next_request(tag).await
        } else {
            self.ring.command(DEVICE, &self.command(IoOp::Fetch, tag, 0)).await.result
        };
        let mut held = false;
        while told == 0 {
            held = true;
            let desc = self.descriptors.get(tag);
            let fua = desc.op_flags & uapi::IO_F_FUA != 0;
            let answer = match request(io, tag, fua, &desc) {
                Ok(request) => target.serve(io, request).await,
                Err(answer) => answer,
            };
            told = self.finish(tag, fua, answer).await;
        }
        if told != -Errno::ENODEV.get() {
            let what = Errno::of(told).map_or_else(|| told.to_string(), |errno| errno.to_string());
            log(format_args!("queue {}, tag {tag}: the driver says: {what}", self.plan.q_id));
            // Its request would wait for ever, and nobody be told. When the process is gone,
            // the driver ends it, or keeps it for the next server.
            if held {
                flush_log();
                std::process::abort();
            }
            // The driver would wait for it before there is a disk.
            self.ring.fail(io::Error::other(format!("the driver refuses tag {tag}: {what}")));
        }
    }
}

fn secondary(placed: &Placed, fua: bool) -> Secondary {
    let piece = &placed.piece;
    let (file, offset, len) = (index(piece.file), piece.offset, piece.len);
    Secondary { file, offset, at: placed.at, len, sync: fua, kind: Kind::File }
}

/// Is a read of it short only at its end? That is for the kernel to know of files and
/// block devices, so that a command that moves the data may commit them as well.
fn has_end(file: BorrowedFd<'_>) -> bool {
    let kind =
        file.try_clone_to_owned().and_then(|fd| File::from(fd).metadata()).map(|data| data.file_type());
    kind.is_ok_and(|kind| kind.is_file() || kind.is_block_device())
}

/// What became of the pieces of a fused command.
fn of_group(done: &Done, group: &[Secondary]) -> Vec<i32> {
    let mut results: Vec<_> = group.iter().map(|piece| piece.len.cast_signed()).collect();
    for (i, result) in &done.failed {
        results[*i] = *result;
    }
    // Without a word of the secondaries, an error is that of all; and if the command was refused,
    // they were canceled, which is no reason.
    let canceled = results.iter().all(|result| *result == -Errno::ECANCELED.get());
    if done.result < 0 && (done.failed.is_empty() || canceled) {
        results.fill(done.result);
    }
    results
}

/// What is left of a piece of which a part was done.
fn rest(result: i32, piece: &Secondary) -> Option<Secondary> {
    let done = u32::try_from(result).ok().filter(|done| *done > 0)?;
    let len = piece.len.checked_sub(done).filter(|rest| *rest > 0)?;
    Some(Secondary { offset: piece.offset + u64::from(done), at: piece.at + done, len, ..*piece })
}

/// Less than all of it is an error: files are as large as devices say.
fn whole(result: i32, len: u32) -> Result<(), Errno> {
    match Errno::of(result) {
        Some(errno) => Err(errno),
        None if result.cast_unsigned() == len => Ok(()),
        None => Err(Errno::EIO),
    }
}

/// What a descriptor asks for; or an answer, if it is nothing that a target knows.
fn request<'r>(io: &'r Io, tag: u16, fua: bool, desc: &IoDesc) -> Result<Request<'r>, Answer<'r>> {
    let slot = |len| Slot { io, tag, offset: desc.start_sector * 512, len, fua, of: PhantomData };
    let Some(len) = desc.nr_sectors.checked_mul(512) else {
        return Err(Flush(slot(0)).fail(Errno::EINVAL));
    };
    let slot = slot(len);
    Ok(match desc.op() {
        uapi::OP_READ => Request::Read(Read(slot)),
        uapi::OP_WRITE => Request::Write(Write(slot)),
        uapi::OP_FLUSH => Request::Flush(Flush(slot)),
        uapi::OP_DISCARD => Request::Discard(Range(slot)),
        uapi::OP_WRITE_ZEROES => Request::WriteZeroes(Range(slot), desc.op_flags & uapi::IO_F_NOUNMAP != 0),
        _ => return Err(Flush(slot).fail(Errno::EOPNOTSUPP)),
    })
}

/// Make a queue and serve it to its end. `ready` is told when the driver can begin.
pub(crate) fn run<T: Target>(plan: Plan, target: &T, ready: impl FnOnce()) -> io::Result<()> {
    let depth = plan.depth;
    let io = Io(Inner::Queue(Box::new(Queue::new(plan, target)?)));
    let Io(Inner::Queue(queue)) = &io else { unreachable!("just made") };
    ready();
    let tasks = (0..depth).map(|tag| Box::pin(queue.serve(&io, tag, target)) as Task<'_>).collect();
    let result = queue.ring.run(tasks);
    if let Err(e) = &result
        && e.raw_os_error().is_some()
    {
        // Requests that were to be answered would wait for ever, and who stops the device would
        // wait for them.
        log(format_args!("queue {}: {e}", queue.plan.q_id));
        flush_log();
        std::process::abort();
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_ends_and_a_device_of_characters_does_not() {
        assert!(has_end(File::open(std::env::current_exe().unwrap()).unwrap().as_fd()));
        assert!(!has_end(File::open("/dev/zero").unwrap().as_fd()));
    }

    #[test]
    fn a_group_that_is_refused_says_why() {
        let piece =
            Secondary { file: FileIndex(1), offset: 0, at: 0, len: 512, sync: false, kind: Kind::File };
        let of =
            |result, failed: &[(usize, i32)]| of_group(&Done { result, failed: failed.into() }, &[piece; 2]);
        let (eio, enospc) = (-Errno::EIO.get(), -Errno::ENOSPC.get());
        let canceled = -Errno::ECANCELED.get();
        assert_eq!(of(1024, &[]), [512, 512]);
        assert_eq!(of(eio, &[]), [eio, eio]);
        assert_eq!(of(enospc, &[(0, canceled), (1, canceled)]), [enospc, enospc]);
        // One has failed, and the other one not.
        assert_eq!(of(enospc, &[(1, enospc)]), [512, enospc]);
        assert_eq!(of(enospc, &[(0, enospc), (1, canceled)]), [enospc, canceled]);
    }

    #[test]
    fn a_short_piece_has_a_rest() {
        let piece =
            Secondary { file: FileIndex(1), offset: 512, at: 0, len: 8192, sync: false, kind: Kind::File };
        let rests = [4096, 0, -5, 8192].map(|result| rest(result, &piece));
        let left = Secondary { offset: 4608, at: 4096, len: 4096, ..piece };
        assert_eq!(rests, [Some(left), None, None, None]);
        let short: Vec<_> = [4096, 0, -5, 8192].map(|result| whole(result, 8192)).into();
        assert_eq!(short, [Err(Errno::EIO), Err(Errno::EIO), Err(Errno::EIO), Ok(())]);
    }
}
