// SPDX-License-Identifier: GPL-2.0

//! A queue with `UBLK_F_BATCH_IO`: one command tells of many requests, and one commits
//! many.
//!
//! A command that goes on ([`Fetch`]) writes the tags of new requests to memory that
//! only the kernel writes. Tasks wait for their tags. What they commit is gathered, and
//! goes to the kernel in one command, before it is entered again.

use crate::{
    ops::TaskId,
    sqe::{BatchCmd, FileIndex, Sqe},
};
use io_uring::{IoUring, squeue::Entry};
use std::{collections::VecDeque, io, mem};
use ublk_sys::{
    Errno, Shared,
    uapi::{ELEM_LEN, IoOp, elem},
};

/// User data of a queue's own commands; those of [`Ops`](crate::ops::Ops) are below.
pub(crate) const FETCH: u64 = 1 << 63;
pub(crate) const COMMIT: u64 = 1 << 62;
const PREPARE: u64 = COMMIT | 1 << 61;

/// So that one is there while the other is renewed.
const FETCHES: usize = 2;
/// `IOU_PBUF_RING_INC`: the kernel goes on in a buffer where it was.
const INCREMENTAL: u16 = 2;
/// The kernel wants to use this CQE's command once more.
const MORE: u32 = 1 << 1;

/// A command that tells of requests.
struct Fetch {
    /// `struct io_uring_buf_ring`, with one entry.
    entries: Shared,
    /// How often there was a buffer.
    tail: u16,
    /// The buffer.
    tags: Shared,
    /// Where the kernel goes on in it.
    at: usize,
}

impl Fetch {
    fn new(uring: &IoUring, group: u16, depth: u16) -> io::Result<Fetch> {
        let entries = Shared::new(1)?;
        let tags = Shared::new(usize::from(depth) * 2)?;
        let submitter = uring.submitter();
        // SAFETY: the entries are mapped as long as this value is, and stay mapped when
        // the ring goes away before the kernel is done with it: see `Batch::leak()`.
        unsafe { submitter.register_buf_ring_with_flags(entries.addr(), 1, group, INCREMENTAL)? };
        Ok(Fetch { entries, tail: 0, tags, at: 0 })
    }

    /// The kernel gets the whole buffer, and a command to use it.
    fn arm(&mut self, device: FileIndex, q_id: u16, group: u16) -> Entry {
        self.at = 0;
        self.tail = self.tail.wrapping_add(1);
        // `struct io_uring_buf`, whose last field in the first entry is the tail.
        let len = u32::try_from(self.tags.len()).unwrap_or(u32::MAX);
        self.entries.put(0, &self.tags.addr().to_ne_bytes());
        self.entries.put(8, &len.to_ne_bytes());
        self.entries.put(12, &0u16.to_ne_bytes());
        self.entries.publish(14, self.tail);
        let cmd = BatchCmd { op: IoOp::FetchBatch, q_id, elements: 0, bytes: 2 };
        Sqe::fetch(device, &cmd, group).entry(FETCH | u64::from(group))
    }
}

/// What a tag's task knows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tag {
    /// There is no request, and nobody waits for one.
    Idle,
    /// A task waits.
    Waiting(TaskId),
    /// There is a request, of which no task has heard.
    Told,
}

pub(crate) struct Batch {
    device: FileIndex,
    q_id: u16,
    auto: bool,
    fetches: Vec<Fetch>,
    /// How many of them the kernel has.
    armed: usize,
    tags: Vec<Tag>,
    /// Commits that wait for the next command, as elements.
    pending: Vec<u8>,
    /// Memory of commits, and how many bytes the kernel has of it.
    memory: Vec<(Shared, usize)>,
    /// Which of these the kernel has not.
    free: Vec<usize>,
    /// No request comes any more: the error.
    over: Option<i32>,
    /// What is to be submitted.
    out: VecDeque<Entry>,
    /// Commits that have not ended.
    commits: usize,
    /// A command failed that must not.
    broken: Option<Errno>,
}

impl Batch {
    pub(crate) fn new(
        uring: &IoUring,
        device: FileIndex,
        q_id: u16,
        depth: u16,
        auto: bool,
    ) -> io::Result<Batch> {
        let groups = (0..FETCHES).map(|n| u16::try_from(n).unwrap_or(u16::MAX));
        let fetches: io::Result<Vec<_>> = groups.map(|n| Fetch::new(uring, n, depth)).collect();
        let len = usize::from(depth) * ELEM_LEN;
        let memory: io::Result<Vec<_>> = (0..4).map(|_| Ok((Shared::new(len)?, 0))).collect();
        let memory = memory?;
        let mut batch = Batch {
            device,
            q_id,
            auto,
            fetches: fetches?,
            armed: 0,
            tags: vec![Tag::Idle; depth.into()],
            pending: Vec::with_capacity(len),
            free: (0..memory.len()).collect(),
            memory,
            over: None,
            out: VecDeque::new(),
            commits: 0,
            broken: None,
        };
        for tag in 0..depth {
            batch.pending.extend(elem(tag, batch.buffer(tag), 0));
        }
        batch.command(IoOp::PrepareBatch, PREPARE);
        Ok(batch)
    }

    fn buffer(&self, tag: u16) -> u16 {
        if self.auto { tag } else { 0 }
    }

    /// A command with all that is pending, if there is memory for it.
    fn command(&mut self, op: IoOp, user_data: u64) {
        let Some(n) = self.free.pop() else { return };
        let (memory, lent) = &mut self.memory[n];
        memory.put(0, &self.pending);
        *lent = self.pending.len();
        let elements = u16::try_from(*lent / ELEM_LEN).unwrap_or(u16::MAX);
        let bytes_each = u8::try_from(ELEM_LEN).unwrap_or(u8::MAX);
        let cmd = BatchCmd { op, q_id: self.q_id, elements, bytes: bytes_each };
        let len = u32::try_from(*lent).unwrap_or(u32::MAX);
        let sqe = Sqe::elements(self.device, &cmd, memory.addr(), len);
        self.out.push_back(sqe.entry(user_data | n as u64));
        self.pending.clear();
        self.commits += 1;
    }

    /// A request has ended with this.
    pub(crate) fn commit(&mut self, tag: u16, result: i32) {
        let element = elem(tag, self.buffer(tag), result);
        self.pending.extend(element);
    }

    /// The next thing for the kernel.
    pub(crate) fn next_entry(&mut self) -> Option<Entry> {
        if !self.pending.is_empty() {
            self.command(IoOp::CommitBatch, COMMIT);
        }
        self.out.pop_front()
    }

    /// Nothing is under way that must have ended.
    pub(crate) fn is_idle(&self) -> bool {
        self.pending.is_empty() && self.commits == 0
    }

    pub(crate) fn broken(&self) -> Option<Errno> {
        self.broken
    }

    /// Is there a request of this tag? Else the task waits.
    pub(crate) fn next(&mut self, tag: u16, task: TaskId) -> Option<i32> {
        let state = &mut self.tags[usize::from(tag)];
        if *state == Tag::Told {
            *state = Tag::Idle;
            return Some(0);
        }
        if self.over.is_none() {
            *state = Tag::Waiting(task);
        }
        self.over
    }

    /// A CQE of ours has come: which tasks can go on?
    pub(crate) fn complete(&mut self, user_data: u64, result: i32, flags: u32, ready: &mut Vec<TaskId>) {
        let n = usize::try_from(user_data & 0xffff).unwrap_or(usize::MAX);
        if user_data & FETCH != 0 {
            self.fetched(n, result, flags & MORE != 0, ready);
        } else {
            self.committed(n, result, user_data & PREPARE == PREPARE, ready);
        }
    }

    fn fetched(&mut self, n: usize, result: i32, more: bool, ready: &mut Vec<TaskId>) {
        let fetch = &mut self.fetches[n];
        if let Ok(bytes) = usize::try_from(result) {
            for at in (fetch.at..fetch.at + bytes).step_by(2) {
                let Some(tag) = self.tags.get_mut(usize::from(fetch.tags.get_u16(at))) else {
                    self.broken = Some(Errno::EINVAL);
                    return;
                };
                match *tag {
                    // It asks once more.
                    Tag::Waiting(task) => ready.push(task),
                    Tag::Idle | Tag::Told => {}
                }
                *tag = Tag::Told;
            }
            fetch.at += bytes;
        }
        if more {
            return;
        }
        self.armed -= 1;
        if self.over.is_none() && (result >= 0 || Errno::of(result) == Some(Errno::ENOBUFS)) {
            self.arm(n);
        } else if self.armed == 0 {
            self.end(if result < 0 { result } else { -Errno::ENODEV.get() }, ready);
        }
    }

    fn arm(&mut self, n: usize) {
        let group = u16::try_from(n).unwrap_or(u16::MAX);
        let entry = self.fetches[n].arm(self.device, self.q_id, group);
        self.out.push_back(entry);
        self.armed += 1;
    }

    /// No request comes any more.
    fn end(&mut self, result: i32, ready: &mut Vec<TaskId>) {
        self.over = Some(result);
        for tag in &mut self.tags {
            if let Tag::Waiting(task) = *tag {
                *tag = Tag::Idle;
                ready.push(task);
            }
        }
    }

    fn committed(&mut self, n: usize, result: i32, prepare: bool, ready: &mut Vec<TaskId>) {
        self.commits -= 1;
        self.free.push(n);
        if prepare {
            if result < 0 {
                self.end(result, ready);
            } else {
                (0..self.fetches.len()).for_each(|n| self.arm(n));
            }
        } else {
            let (memory, len) = &self.memory[n];
            let len = *len;
            match usize::try_from(result) {
                // The rest has to be said again.
                Ok(done) if done > 0 && done < len => {
                    self.pending.extend((done..len).map(|at| memory.get(at)));
                }
                Ok(done) if done == len => {}
                // Requests would wait for ever.
                _ => self.broken = Some(Errno::of(result).unwrap_or(Errno::EIO)),
            }
        }
    }

    /// The ring goes away, but the kernel may not be done with the memory: it must
    /// stay for ever.
    pub(crate) fn leak(&mut self) {
        mem::forget(mem::take(&mut self.fetches));
        mem::forget(mem::take(&mut self.memory));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::tests::there_is;

    /// Without a driver behind it.
    fn batch(depth: u16) -> Option<Batch> {
        let uring = there_is(IoUring::new(8))?;
        let mut batch = Batch::new(&uring, FileIndex(0), 0, depth, false).unwrap();
        // It has to prepare first.
        assert!(batch.next_entry().is_some() && batch.next_entry().is_none());
        batch.complete(PREPARE | 3, 0, 0, &mut Vec::new());
        assert_eq!((0..3).filter(|_| batch.next_entry().is_some()).count(), FETCHES);
        Some(batch)
    }

    fn tell(batch: &mut Batch, n: usize, tags: &[u16], more: bool) -> Vec<TaskId> {
        let at = batch.fetches[n].at;
        for (i, tag) in tags.iter().enumerate() {
            batch.fetches[n].tags.put(at + 2 * i, &tag.to_ne_bytes());
        }
        let mut ready = Vec::new();
        let bytes = i32::try_from(2 * tags.len()).unwrap();
        batch.complete(FETCH | n as u64, bytes, if more { MORE } else { 0 }, &mut ready);
        ready
    }

    #[test]
    fn tags_are_told_once() {
        let Some(mut batch) = batch(8) else { return };
        assert_eq!(batch.next(3, 30), None);
        assert_eq!(tell(&mut batch, 0, &[3, 5], true), [30]);
        assert_eq!((batch.next(3, 30), batch.next(5, 50)), (Some(0), Some(0)));
        assert_eq!((batch.next(3, 30), batch.fetches[0].at), (None, 4));
        // It goes on where it was, in the other as well.
        assert_eq!(tell(&mut batch, 0, &[3], true), [30]);
        assert_eq!(batch.next(3, 30), Some(0));
        assert_eq!(tell(&mut batch, 1, &[3], true), []);
        assert_eq!(batch.next(3, 30), Some(0));
        // A tag that there is not.
        tell(&mut batch, 0, &[8], true);
        assert_eq!(batch.broken(), Some(Errno::EINVAL));
    }

    #[test]
    fn a_fetch_that_ends_is_renewed_until_the_device_ends() {
        let Some(mut batch) = batch(8) else { return };
        assert!(tell(&mut batch, 0, &[1], false).is_empty());
        assert!(batch.next_entry().is_some() && batch.fetches[0].at == 0);
        let mut ready = Vec::new();
        batch.complete(FETCH, -Errno::ENOBUFS.get(), 0, &mut ready);
        assert!(batch.next_entry().is_some() && batch.next_entry().is_none());
        assert_eq!(batch.next(2, 20), None);
        let gone = -Errno::ENODEV.get();
        batch.complete(FETCH, gone, 0, &mut ready);
        assert!(ready.is_empty() && batch.next(4, 40).is_none());
        batch.complete(FETCH | 1, gone, 0, &mut ready);
        assert_eq!(ready, [20, 40]);
        assert_eq!(
            (batch.next(2, 20), batch.next(1, 10), batch.next(1, 10)),
            (Some(gone), Some(0), Some(gone))
        );
    }

    #[test]
    fn commits_go_together_and_none_is_lost() {
        let Some(mut batch) = batch(8) else { return };
        assert!(batch.is_idle());
        for tag in 0..3 {
            batch.commit(tag, 4096);
        }
        assert!(batch.next_entry().is_some() && batch.next_entry().is_none());
        assert!(!batch.is_idle());
        let mut ready = Vec::new();
        let n = 3;
        assert_eq!(batch.memory[n].1, 3 * ELEM_LEN);
        // Only the first: the others are said again.
        batch.complete(COMMIT | n as u64, 8, 0, &mut ready);
        assert_eq!(batch.pending, [elem(1, 0, 4096), elem(2, 0, 4096)].concat());
        assert!(batch.next_entry().is_some());
        batch.complete(COMMIT | n as u64, 16, 0, &mut ready);
        assert!(batch.is_idle() && batch.broken().is_none());
        // As many commands as there is memory; the rest waits.
        for tag in 0..6 {
            batch.commit(tag, 0);
            assert_eq!(batch.next_entry().is_some(), tag < 4);
        }
        assert_eq!(batch.pending.len(), 2 * ELEM_LEN);
        batch.complete(COMMIT, -Errno::EIO.get(), 0, &mut ready);
        assert_eq!(batch.broken(), Some(Errno::EIO));
    }
}
