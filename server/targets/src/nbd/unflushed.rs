// SPDX-License-Identifier: GPL-2.0

//! Writes that were answered, but are not known to be on the medium. Where the export does not
//! say that a flush is about all connections (`NBD_FLAG_CAN_MULTI_CONN`), one on the next
//! connection says nothing about these.

/// How far it was with a connection when a request was about to be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Mark {
    /// Which connection.
    pub(crate) conn: u64,
    answered: u64,
}

#[derive(Default, Debug)]
pub(crate) struct Unflushed {
    conn: u64,
    /// So many writes were answered on this connection, and so many of them flushed.
    answered: u64,
    flushed: u64,
    /// Some were not flushed on the connection that answered them.
    lost: bool,
}

impl Unflushed {
    pub(crate) fn mark(&self) -> Mark {
        Mark { conn: self.conn, answered: self.answered }
    }

    /// There is another connection.
    pub(crate) fn next_conn(&mut self) {
        let lost = self.lost || self.answered > self.flushed;
        *self = Unflushed { conn: self.conn + 1, answered: 0, flushed: 0, lost };
    }

    /// A write was answered on this connection.
    pub(crate) fn wrote(&mut self, conn: u64) {
        if conn == self.conn {
            self.answered += 1;
        } else {
            self.lost = true;
        }
    }

    /// A flush that was sent then was answered: so was all that was answered before.
    pub(crate) fn flushed(&mut self, mark: Mark) {
        if mark.conn == self.conn {
            self.flushed = self.flushed.max(mark.answered);
        }
    }

    /// Were there some that no flush is about? That is told once.
    pub(crate) fn take_lost(&mut self) -> bool {
        std::mem::take(&mut self.lost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_flushed_is_told_once() {
        let mut all = Unflushed::default();
        all.next_conn();
        let first = all.mark();
        all.wrote(first.conn);
        let flush = all.mark();
        // This one is answered after the flush was sent.
        all.wrote(first.conn);
        all.flushed(flush);
        assert!(!all.take_lost());
        all.next_conn();
        assert!(all.take_lost() && !all.take_lost());
        // All of it is flushed.
        all.wrote(all.mark().conn);
        all.flushed(all.mark());
        all.next_conn();
        assert!(!all.take_lost());
        // The answer is looked at when there is another connection already.
        all.wrote(first.conn);
        all.flushed(flush);
        assert!(all.take_lost());
    }
}
