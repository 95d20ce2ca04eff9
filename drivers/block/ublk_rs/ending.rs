// SPDX-License-Identifier: GPL-2.0

//! The end of a request.
//!
//! A request has one reference from its slot, one from each lease, and one from each `pread()` or
//! `pwrite()` that is under way. Whoever gives up the last one ends it. What it ends with is kept
//! for its tag: it is written before the slot gives up its reference, and no other request can get
//! the tag before this one has ended.

use crate::types::{
    Disk,
    RequestRef, //
};
use kernel::{
    block::mq::{
        BlkStatus,
        CompletionBatch,
        Op,
        OwnedRequest,
        Request, //
    },
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
    time::Delta, //
};

/// How long to wait before a request is tried again whose data could not be copied.
const RETRY_MSECS: u32 = 3;

/// The highest error number.
const MAX_ERRNO: i32 = 4095;

/// What was decided about a request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Verdict {
    /// It ends, with a number of bytes or an error.
    Result(i32),
    /// The server got no more than these first bytes of a write, and they were written. The block
    /// layer asks for the rest again.
    Part(u32),
    /// The next server gets it.
    Requeue,
}

impl Verdict {
    pub(crate) fn error(e: Error) -> Self {
        Self::Result(e.to_errno())
    }

    /// On a request of whose data secondaries moved `result` bytes, or failed so.
    ///
    /// What a secondary read too little of was zeroed, and what no one was given as well. But what
    /// a write is short of is lost.
    #[inline]
    pub(crate) fn on_moved(rq: &Request<Disk>, result: i32) -> Self {
        if rq.op() == Op::Write && (0..rq.bytes() as i32).contains(&result) {
            Self::error(EIO)
        } else {
            Self::Result(result)
        }
    }
}

/// A place for a [`Verdict`]. Atomic, as it is read by whoever has the last reference to the
/// request; giving up references orders it.
struct VerdictCell(Atomic<i32>);

impl VerdictCell {
    /// No result is below `-MAX_ERRNO` in here, so these are free: this one, and what is above it
    /// by the number of bytes of a part.
    const REQUEUE: i32 = i32::MIN;

    fn new() -> Self {
        Self(Atomic::new(0))
    }

    #[inline]
    fn set(&self, verdict: Verdict) {
        let number = match verdict {
            // A server may send anything.
            Verdict::Result(result) => result.max(-MAX_ERRNO),
            // A request is much smaller than that. What is cut off would be asked for again.
            Verdict::Part(bytes) => Self::REQUEUE
                .saturating_add_unsigned(bytes)
                .min(-MAX_ERRNO - 1),
            Verdict::Requeue => Self::REQUEUE,
        };
        self.0.store(number, Relaxed);
    }

    #[inline]
    fn get(&self) -> Verdict {
        let number = self.0.load(Relaxed);
        if number >= -MAX_ERRNO {
            return Verdict::Result(number);
        }
        match number.wrapping_sub(Self::REQUEUE) as u32 {
            0 => Verdict::Requeue,
            bytes => Verdict::Part(bytes),
        }
    }
}

/// How the requests of a tag end.
pub(crate) struct Endings {
    /// That on the request that had the tag last.
    verdict: VerdictCell,
    /// Where the data of a zone append was written, with its verdict.
    appended_at: Atomic<u64>,
    /// Whether data is copied through the server.
    copied: bool,
}

impl Endings {
    pub(crate) fn new(copied: bool) -> Self {
        Self {
            verdict: VerdictCell::new(),
            appended_at: Atomic::new(0),
            copied,
        }
    }

    /// Says where the data of a zone append was written, before it is given up by
    /// [`Self::finish`].
    pub(crate) fn set_appended_at(&self, sector: u64) {
        self.appended_at.store(sector, Relaxed);
    }

    /// Gives up the tag's reference to a request, which has `verdict` when it ends. The caller has
    /// another reference.
    #[inline]
    pub(crate) fn give_up(&self, rq: RequestRef, verdict: Verdict) {
        self.verdict.set(verdict);
        finish(rq);
    }

    /// As [`Self::give_up`], of a reference that may be the last one.
    // By itself the compiler does not, as there are several callers, of which each request has one.
    #[inline(always)]
    pub(crate) fn finish(&self, rq: RequestRef, verdict: Verdict) {
        self.verdict.set(verdict);
        let Some(rq) = Request::into_unique_or_drop(rq) else {
            return;
        };
        if self.is_simple(&rq, verdict) {
            rq.end(BlkStatus::OK)
        } else {
            self.end_otherwise(rq, verdict)
        }
    }

    /// Whether a request ends as a whole, with success: most do. This says so of some of those of
    /// which [`Ending`] does, which spares them 25 instructions, and 60 if data is copied.
    #[inline(always)]
    fn is_simple(&self, rq: &OwnedRequest<Disk>, verdict: Verdict) -> bool {
        match verdict {
            Verdict::Result(result @ 1..) => {
                (!self.copied || result as u32 == rq.bytes()) && rq.op() != Op::ZoneAppend
            }
            _ => false,
        }
    }

    #[inline(never)]
    fn end_otherwise(&self, rq: OwnedRequest<Disk>, verdict: Verdict) {
        self.with(&rq, verdict).apply(rq)
    }

    /// As [`Self::finish`], but a request that has succeeded ends with `batch`.
    #[inline(always)]
    pub(crate) fn finish_in(
        &self,
        rq: RequestRef,
        verdict: Verdict,
        batch: &mut CompletionBatch<Disk>,
    ) {
        self.verdict.set(verdict);
        let Some(rq) = Request::into_unique_or_drop(rq) else {
            return;
        };
        if self.is_simple(&rq, verdict) {
            batch.add(rq)
        } else {
            self.end_otherwise_in(rq, verdict, batch)
        }
    }

    #[inline(never)]
    fn end_otherwise_in(
        &self,
        rq: OwnedRequest<Disk>,
        verdict: Verdict,
        batch: &mut CompletionBatch<Disk>,
    ) {
        match self.with(&rq, verdict) {
            Ending::Whole(Ok(())) => batch.add(rq),
            Ending::Part(bytes) if bytes >= rq.bytes() => batch.add(rq),
            other => other.apply(rq),
        }
    }

    /// How this request, which nobody uses any more, is to end.
    #[inline]
    fn of(&self, rq: &OwnedRequest<Disk>) -> Ending {
        // Written before the tag's reference was given up, which `rq` was made after.
        self.with(rq, self.verdict.get())
    }

    /// As [`Self::of`], by who has just given the verdict.
    // By itself the compiler does not; it spares a request 20 instructions.
    #[inline(always)]
    fn with(&self, rq: &OwnedRequest<Disk>, verdict: Verdict) -> Ending {
        match Ending::new(rq.op(), self.copied && rq.has_data(), verdict) {
            Ending::Whole(Ok(())) if rq.op() == Op::ZoneAppend => {
                Ending::Appended(self.appended_at.load(Relaxed))
            }
            ending => ending,
        }
    }
}

/// Finds what is kept for a tag. Implemented by what the block layer keeps for a [`Disk`].
pub(crate) trait FindEndings {
    /// [`None`] if there is no such tag.
    fn endings(&self, hw_queue: u32, tag: u32) -> Option<&Endings>;
}

/// What is to be known of a disk when not all of the data of a write could be copied to its server.
/// Implemented by what the block layer keeps for a [`Disk`].
pub(crate) trait CopyRules {
    /// Whether a request of this age, of whose data not all could be copied, may be tried again.
    fn may_retry(&self, age: Option<Delta>) -> bool;

    /// Whether a server may bring a read of this age in pieces.
    fn may_go_on(&self, age: Option<Delta>) -> bool;

    /// The size of a block, of which a part can not be written: 512 at least.
    fn block_bytes(&self) -> u32;
}

/// Gives up a reference to a request that a slot has, or had. The last one ends the request.
///
/// Wherever interrupts are enabled; no lock of the driver may be held.
#[inline]
pub(crate) fn finish(rq: RequestRef) {
    if let Some(rq) = Request::into_unique_or_drop(rq) {
        end(rq);
    }
}

/// As [`finish`], by who has just given up the tag's reference with `verdict`: what most requests
/// end with need not be looked up, which spares them 40 instructions. It was no zone append, and
/// its data was not copied through the server.
#[inline(always)]
pub(crate) fn finish_lent(rq: RequestRef, verdict: Verdict) {
    let Some(rq) = Request::into_unique_or_drop(rq) else {
        return;
    };
    match verdict {
        Verdict::Result(1..) => rq.end(BlkStatus::OK),
        _ => end(rq),
    }
}

/// Ends a request that nobody uses any more, as was said by the verdict.
#[inline(never)]
fn end(rq: OwnedRequest<Disk>) {
    let ending = match rq.queue_data().endings(rq.hw_queue(), rq.tag()) {
        Some(endings) => endings.of(&rq),
        None => Ending::Whole(Err(EIO)),
    };
    ending.apply(rq);
}

/// Has the block layer keep a request until its list is kicked.
pub(crate) fn hold(rq: RequestRef) {
    if let Some(rq) = Request::into_unique_or_drop(rq) {
        rq.requeue(false);
    }
}

/// Ends a request that no server will see with an error.
pub(crate) fn refuse(rq: RequestRef) {
    if let Some(rq) = Request::into_unique_or_drop(rq) {
        rq.end(BlkStatus::IOERR);
    }
}

/// Has the block layer send a request again, a little later, whose data could not be copied:
/// perhaps there was no memory. It ends with an error instead if it has to end at last.
#[cold]
pub(crate) fn retry(rq: RequestRef) {
    let Some(rq) = Request::into_unique_or_drop(rq) else {
        return;
    };
    if rq.queue_data().may_retry(rq.age()) {
        rq.requeue_delayed(RETRY_MSECS);
    } else {
        rq.end(BlkStatus::IOERR);
    }
}

/// How a request ends.
#[derive(Debug, PartialEq)]
enum Ending {
    /// All of it, with this status.
    Whole(Result),
    /// All of it: a zone append, which was written from this sector on.
    Appended(u64),
    /// Only the first bytes; the block layer asks for the rest again.
    Part(u32),
    /// Not at all: the next server gets it.
    Again,
}

impl Ending {
    /// Decides by the operation, whether its data was copied through the server, and the verdict.
    #[inline]
    fn new(op: Op, copied: bool, verdict: Verdict) -> Self {
        let result = match verdict {
            Verdict::Requeue => return Self::Again,
            Verdict::Part(bytes) => return Self::Part(bytes),
            // A server may send anything.
            Verdict::Result(result) => result.max(-MAX_ERRNO),
        };
        match (op, result) {
            (Op::Read, 0) => Self::Whole(Err(EIO)),
            (_, ..0) => Self::Whole(Err(Error::from_errno(result))),
            (Op::Read, 1..) if copied => Self::Part(result as u32),
            (_, 0..) => Self::Whole(Ok(())),
        }
    }

    /// Gives the request back to the block layer.
    // By itself the compiler does not; it spares a request 10 instructions.
    #[inline(always)]
    fn apply(self, rq: OwnedRequest<Disk>) {
        match self {
            Self::Whole(Ok(())) => rq.end(BlkStatus::OK),
            Self::Whole(Err(e)) => rq.end(BlkStatus::from_errno(e)),
            Self::Appended(sector) => rq.end_append(sector),
            Self::Part(bytes) => rq.end_partial(bytes),
            // At once: what is done with it then depends on what has become of the device.
            Self::Again => rq.requeue(true),
        }
    }
}

#[kunit_tests(ublk_rs_ending)]
mod tests {
    use super::*;

    fn ending(op: Op, copied: bool, result: i32) -> Ending {
        Ending::new(op, copied, Verdict::Result(result))
    }

    #[test]
    fn endings() {
        assert_eq!(ending(Op::Read, true, 512), Ending::Part(512));
        assert_eq!(ending(Op::Read, false, 512), Ending::Whole(Ok(())));
        assert_eq!(ending(Op::Read, false, 0), Ending::Whole(Err(EIO)));
        assert_eq!(ending(Op::Write, true, 512), Ending::Whole(Ok(())));
        assert_eq!(ending(Op::Write, true, 0), Ending::Whole(Ok(())));
        assert_eq!(ending(Op::Flush, false, 0), Ending::Whole(Ok(())));
        assert_eq!(
            ending(Op::Write, true, ENOSPC.to_errno()),
            Ending::Whole(Err(ENOSPC))
        );
        let requeue = Ending::new(Op::Write, true, Verdict::Requeue);
        assert_eq!(requeue, Ending::Again);
        let part = Ending::new(Op::Write, true, Verdict::Part(512));
        assert_eq!(part, Ending::Part(512));
    }

    #[test]
    fn verdicts_are_kept() {
        let cell = VerdictCell::new();
        for verdict in [
            Verdict::Result(i32::MAX),
            Verdict::Result(EIO.to_errno()),
            Verdict::Requeue,
            Verdict::Part(512),
            Verdict::Part(i32::MAX as u32 - 4095),
            Verdict::Result(-MAX_ERRNO),
            Verdict::Result(0),
        ] {
            cell.set(verdict);
            assert_eq!(cell.get(), verdict);
        }
        cell.set(Verdict::Result(i32::MIN));
        assert_eq!(cell.get(), Verdict::Result(-MAX_ERRNO));
    }
}
