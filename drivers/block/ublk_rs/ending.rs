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
        Op,
        OwnedRequest,
        Request, //
    },
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    }, //
};

/// How long to wait before a request is tried again whose data could not be copied.
const RETRY_MSECS: usize = 3;

/// The highest error number; a server may send anything.
const MAX_ERRNO: i32 = 4095;

/// What was decided about a request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Verdict {
    /// It ends, with a number of bytes or an error.
    Result(i32),
    /// The next server gets it.
    Requeue,
}

impl Verdict {
    /// What a server says.
    #[inline]
    pub(crate) fn of_server(result: i32) -> Self {
        Self::Result(result.max(-MAX_ERRNO))
    }

    pub(crate) fn error(e: Error) -> Self {
        Self::Result(e.to_errno())
    }

    /// Any number that is not an `i32` would do.
    const REQUEUE: i64 = i64::MAX;

    #[inline]
    fn to_number(self) -> i64 {
        match self {
            Self::Result(result) => result.into(),
            Self::Requeue => Self::REQUEUE,
        }
    }

    #[inline]
    fn from_number(number: i64) -> Self {
        match i32::try_from(number) {
            Ok(result) => Self::Result(result),
            Err(_) => Self::Requeue,
        }
    }
}

/// How the requests of a tag end.
pub(crate) struct Endings {
    /// The [`Verdict`] on the request that had the tag last. Atomic, as it is read by whoever has
    /// the last reference; giving up references orders it.
    verdict: Atomic<i64>,
    /// Whether data is copied through the server.
    copied: bool,
}

impl Endings {
    pub(crate) fn new(copied: bool) -> Self {
        Self {
            verdict: Atomic::new(0),
            copied,
        }
    }

    /// Gives up the tag's reference to a request, which has `verdict` when it ends.
    #[inline]
    pub(crate) fn finish(&self, rq: RequestRef, verdict: Verdict) {
        self.verdict.store(verdict.to_number(), Relaxed);
        if let Some(rq) = Request::into_unique_or_drop(rq) {
            self.of(&rq).apply(rq);
        }
    }

    /// How this request, which nobody uses any more, is to end.
    #[inline]
    fn of(&self, rq: &OwnedRequest<Disk>) -> Ending {
        // Written before the tag's reference was given up, which `rq` was made after.
        let verdict = Verdict::from_number(self.verdict.load(Relaxed));
        Ending::new(rq.op(), self.copied && rq.has_data(), verdict)
    }
}

/// Finds what is kept for a tag. Implemented by what the block layer keeps for a [`Disk`].
pub(crate) trait FindEndings {
    /// [`None`] if there is no such tag.
    fn endings(&self, hw_queue: u32, tag: u32) -> Option<&Endings>;
}

/// Gives up a reference to a request that a slot has, or had. The last one ends the request.
///
/// Task context; no lock of the driver may be held.
pub(crate) fn finish(rq: RequestRef) {
    let Some(rq) = Request::into_unique_or_drop(rq) else {
        return;
    };
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

/// Has the block layer send a request again, a little later: perhaps there was no memory.
pub(crate) fn retry(rq: RequestRef) {
    if let Some(rq) = Request::into_unique_or_drop(rq) {
        rq.requeue_delayed(RETRY_MSECS);
    }
}

/// How a request ends.
#[derive(Debug, PartialEq)]
enum Ending {
    /// All of it, with this status.
    Whole(Result),
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
            Verdict::Result(result) => result,
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
        Ending::new(op, copied, Verdict::of_server(result))
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
    }

    #[test]
    fn verdicts_are_kept() {
        for verdict in [
            Verdict::Result(0),
            Verdict::Result(i32::MAX),
            Verdict::Result(i32::MIN),
            Verdict::Requeue,
        ] {
            assert_eq!(Verdict::from_number(verdict.to_number()), verdict);
        }
        assert_eq!(Verdict::of_server(i32::MIN), Verdict::Result(-MAX_ERRNO));
    }
}
