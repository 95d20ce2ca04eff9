// SPDX-License-Identifier: GPL-2.0

//! Writes that were answered, but are not known to be on the medium.
//!
//! A server may be restarted, and lose them, when a connection is lost. So a flush is only about
//! writes that were sent since its connection is there. Where a flush is about all connections
//! (`NBD_FLAG_CAN_MULTI_CONN`), it is also about older ones if another connection, that is there
//! for longer, has answered something that was sent when that of the flush was there: then it is
//! the same server. That the other one only seems to be there is not enough: it may not have
//! noticed yet.

use std::collections::VecDeque;

/// How far it was when a request was about to be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Mark {
    /// Since when its connection is there: the number of connections made again before.
    since: u64,
    /// How many connections had been made again.
    now: u64,
    /// How many writes had been answered.
    answered: u64,
}

/// The connection of a queue.
#[derive(Clone, Copy, Default, Debug)]
struct Conn {
    since: u64,
    /// It has answered something that was sent when so many had been made again.
    good: u64,
}

/// Writes that were answered one after the other, and sent at the same time.
#[derive(Clone, Copy, Debug)]
struct Run {
    sent: u64,
    /// How many writes had been answered with the last one of these.
    answered: u64,
}

#[derive(Debug)]
pub(crate) struct Unflushed {
    /// By queue.
    conns: Vec<Conn>,
    now: u64,
    answered: u64,
    /// So many of these were flushed, or are known to be lost.
    settled: u64,
    /// The others.
    runs: VecDeque<Run>,
    /// Some were not flushed in time.
    lost: bool,
}

impl Unflushed {
    /// What nobody flushes does not take all memory.
    const RUNS: usize = 256;

    /// All connections are there from the beginning.
    pub(crate) fn new(queues: u16) -> Unflushed {
        let conns = vec![Conn::default(); queues.into()];
        Unflushed { conns, now: 0, answered: 0, settled: 0, runs: VecDeque::new(), lost: false }
    }

    pub(crate) fn mark(&self, queue: u16) -> Mark {
        let since = self.conns.get(usize::from(queue)).map_or(self.now, |conn| conn.since);
        Mark { since, now: self.now, answered: self.answered }
    }

    /// The queue has another connection.
    pub(crate) fn next_conn(&mut self, queue: u16) {
        self.now += 1;
        if let Some(conn) = self.conns.get_mut(usize::from(queue)) {
            *conn = Conn { since: self.now, good: self.now };
        }
    }

    /// Something was answered.
    pub(crate) fn answered(&mut self, queue: u16, mark: Mark) {
        if let Some(conn) = self.conns.get_mut(usize::from(queue))
            && conn.since == mark.since
        {
            conn.good = conn.good.max(mark.now);
        }
    }

    /// A write was answered.
    pub(crate) fn wrote(&mut self, mark: Mark) {
        self.answered += 1;
        let run = Run { sent: mark.now, answered: self.answered };
        match self.runs.back_mut() {
            Some(last) if last.sent == run.sent => *last = run,
            _ => self.runs.push_back(run),
        }
        if self.runs.len() > Self::RUNS
            && let Some(oldest) = self.runs.pop_front()
            && let Some(next) = self.runs.front_mut()
        {
            next.sent = next.sent.min(oldest.sent);
        }
    }

    /// Is a flush that was answered about a write that was answered before it was sent?
    pub(crate) fn covers(&self, flush: Mark, write: Mark) -> bool {
        self.covered(flush) <= write.now
    }

    /// It is about what was sent when so many connections had been made again, or more.
    fn covered(&self, flush: Mark) -> u64 {
        let same = self.conns.iter().filter(|conn| conn.good >= flush.since);
        same.map(|conn| conn.since).fold(flush.since, u64::min)
    }

    /// A flush was answered.
    pub(crate) fn flushed(&mut self, flush: Mark) {
        let covered = self.covered(flush);
        while self.settled < flush.answered
            && let Some(run) = self.runs.front()
        {
            self.lost |= run.sent < covered;
            self.settled = run.answered.min(flush.answered);
            if run.answered <= flush.answered {
                self.runs.pop_front();
            }
        }
    }

    /// Were there some that no flush was about? That is told once.
    pub(crate) fn take_lost(&mut self) -> bool {
        std::mem::take(&mut self.lost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A write on the connection of this queue.
    fn write(all: &mut Unflushed, queue: u16) {
        let mark = all.mark(queue);
        all.answered(queue, mark);
        all.wrote(mark);
    }

    /// Has a flush lost something?
    fn flush(all: &mut Unflushed, queue: u16) -> bool {
        let mark = all.mark(queue);
        all.answered(queue, mark);
        all.flushed(mark);
        all.take_lost()
    }

    #[test]
    fn what_was_not_flushed_is_told_once() {
        let mut all = Unflushed::new(1);
        let first = all.mark(0);
        write(&mut all, 0);
        let begun = all.mark(0);
        // This one is answered after the flush was sent.
        write(&mut all, 0);
        all.flushed(begun);
        assert!(!all.take_lost());
        all.next_conn(0);
        assert!(flush(&mut all, 0) && !flush(&mut all, 0));
        // All of it is flushed.
        write(&mut all, 0);
        assert!(!flush(&mut all, 0));
        all.next_conn(0);
        assert!(!flush(&mut all, 0));
        // The answer is looked at when there is another connection already.
        all.wrote(first);
        assert!(flush(&mut all, 0));
        assert!(!all.covers(all.mark(0), first) && all.covers(all.mark(0), all.mark(0)));
    }

    #[test]
    fn a_flush_is_not_about_what_comes_later() {
        let mut all = Unflushed::new(1);
        write(&mut all, 0);
        assert!(!flush(&mut all, 0));
        write(&mut all, 0);
        all.next_conn(0);
        // It was sent before the second one was answered.
        all.flushed(Mark { answered: 1, ..all.mark(0) });
        assert!(!all.take_lost());
        assert!(flush(&mut all, 0));
    }

    #[test]
    fn another_connection_that_stays() {
        // It has answered since, so the server is the same.
        let mut all = Unflushed::new(2);
        write(&mut all, 0);
        write(&mut all, 1);
        all.next_conn(0);
        write(&mut all, 1);
        assert!(!flush(&mut all, 0) && !flush(&mut all, 1));
        // It only seems to be there.
        write(&mut all, 0);
        all.next_conn(0);
        assert!(flush(&mut all, 0) && !flush(&mut all, 0));
        // What it flushes itself, it does.
        write(&mut all, 0);
        all.next_conn(0);
        assert!(!flush(&mut all, 1) && !flush(&mut all, 0));
    }

    #[test]
    fn all_connections_are_lost() {
        for queue in [0, 1] {
            let mut all = Unflushed::new(2);
            write(&mut all, 0);
            write(&mut all, 1);
            all.next_conn(0);
            all.next_conn(1);
            write(&mut all, 0);
            write(&mut all, 1);
            assert!(flush(&mut all, queue), "{queue}");
            assert!(!flush(&mut all, 1 - queue), "told once");
        }
    }

    #[test]
    fn what_nobody_flushes_stays_small() {
        let mut all = Unflushed::new(1);
        for _ in 0..1000 {
            write(&mut all, 0);
            all.next_conn(0);
        }
        assert_eq!(all.runs.len(), Unflushed::RUNS);
        assert!(flush(&mut all, 0) && all.runs.is_empty());
    }
}
