// SPDX-License-Identifier: GPL-2.0

//! Who sends on a connection, who receives, and which reply is whose.

use super::wire::{Refusal, Reply};
use std::{
    collections::VecDeque,
    task::{Poll, Waker},
};

/// The connection is over. Nobody knows whether the server has done what it was asked for.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Lost;

/// Why it is not a request's turn to be sent.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum NoTurn {
    Lost,
    /// The server goes away: nothing new is sent to it.
    Leaving,
}

/// What is next for a request that was sent.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Next {
    /// It is answered.
    Result(Result<(), Refusal>),
    /// Its data are next, and the role of the receiver is its own.
    Data,
    /// Nobody receives: the role is its own.
    Lead,
}

/// Whose a reply is, and whether data follow.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Delivered {
    pub(crate) tag: u16,
    pub(crate) data: bool,
}

#[derive(Default)]
pub(crate) struct Demux {
    over: bool,
    leaving: bool,
    /// Which request is being sent, and who is next.
    sender: Option<u16>,
    senders: VecDeque<(u16, Waker)>,
    /// Somebody receives.
    receiving: bool,
    count: u64,
    /// What was sent and not answered, by tag.
    waiting: Vec<Option<Waiting>>,
}

struct Waiting {
    cookie: u64,
    /// Data follow a good reply.
    has_data: bool,
    news: Option<Next>,
    waker: Option<Waker>,
}

impl Demux {
    pub(crate) fn is_over(&self) -> bool {
        self.over
    }

    /// Is anything new to be sent?
    pub(crate) fn is_open(&self) -> bool {
        !self.over && !self.leaving
    }

    /// May there still be a reply that somebody waits for?
    pub(crate) fn is_busy(&self) -> bool {
        !self.over && (self.sender.is_some() || self.receiving || self.waiting.iter().any(Option::is_some))
    }

    /// Nothing new is sent: who waits for that is told. What was sent is answered. Returns
    /// whether that is new.
    pub(crate) fn leave(&mut self) -> bool {
        self.senders.drain(..).for_each(|(_, waker)| waker.wake());
        !std::mem::replace(&mut self.leaving, true)
    }

    /// Who waits for anything is told.
    pub(crate) fn end(&mut self) {
        self.over = true;
        let receivers = self.waiting.iter_mut().flatten().filter_map(|waiting| waiting.waker.take());
        let senders = self.senders.drain(..).map(|(_, waker)| waker);
        receivers.chain(senders).for_each(Waker::wake);
    }

    /// Is it the turn of this request to be sent?
    pub(crate) fn poll_turn(&mut self, tag: u16, waker: &Waker) -> Poll<Result<(), NoTurn>> {
        if self.over {
            return Poll::Ready(Err(NoTurn::Lost));
        }
        if self.leaving {
            // It may have been given the turn, of which it makes no use any more.
            self.sender = self.sender.filter(|sender| *sender != tag);
            return Poll::Ready(Err(NoTurn::Leaving));
        }
        if self.sender.is_none_or(|sender| sender == tag) {
            self.sender = Some(tag);
            return Poll::Ready(Ok(()));
        }
        if !self.senders.iter().any(|(queued, _)| *queued == tag) {
            self.senders.push_back((tag, waker.clone()));
        }
        Poll::Pending
    }

    /// All of a request was sent: it is the next one's turn.
    pub(crate) fn next_turn(&mut self) {
        let next = self.senders.pop_front();
        self.sender = next.as_ref().map(|(tag, _)| *tag);
        if let Some((_, waker)) = next {
            waker.wake();
        }
    }

    /// A request is about to be sent. Its cookie is one that no other has on this connection.
    pub(crate) fn expect(&mut self, tag: u16, has_data: bool) -> u64 {
        self.count += 1;
        let cookie = self.count << 16 | u64::from(tag);
        let at = usize::from(tag);
        if self.waiting.len() <= at {
            self.waiting.resize_with(at + 1, || None);
        }
        self.waiting[at] = Some(Waiting { cookie, has_data, news: None, waker: None });
        cookie
    }

    /// What is next for this request?
    pub(crate) fn poll_next(&mut self, tag: u16, waker: &Waker) -> Poll<Result<Next, Lost>> {
        let Some(slot) = self.waiting.get_mut(usize::from(tag)) else { return Poll::Ready(Err(Lost)) };
        let Some(mine) = slot else { return Poll::Ready(Err(Lost)) };
        if let Some(news) = mine.news.take() {
            *slot = None;
            return Poll::Ready(Ok(news));
        }
        if self.over {
            return Poll::Ready(Err(Lost));
        }
        if !self.receiving {
            self.receiving = true;
            return Poll::Ready(Ok(Next::Lead));
        }
        mine.waker = Some(waker.clone());
        Poll::Pending
    }

    /// A reply was received by `leader`. Who waits for it is told.
    pub(crate) fn deliver(&mut self, reply: &Reply, leader: u16) -> Result<Delivered, Lost> {
        let tag = (reply.cookie & 0xffff) as u16;
        let slot = self.waiting.get_mut(usize::from(tag)).ok_or(Lost)?;
        let waiting = slot.as_mut().filter(|one| one.cookie == reply.cookie && one.news.is_none());
        let waiting = waiting.ok_or(Lost)?;
        let data = waiting.has_data && reply.result.is_ok();
        if tag == leader {
            *slot = None;
        } else {
            waiting.news = Some(if data { Next::Data } else { Next::Result(reply.result) });
            if let Some(waker) = waiting.waker.take() {
                waker.wake();
            }
        }
        Ok(Delivered { tag, data })
    }

    /// Who has received does not any more: somebody else, who waits, may.
    pub(crate) fn release(&mut self) {
        self.receiving = false;
        let mut others = self.waiting.iter_mut().flatten().filter(|waiting| waiting.news.is_none());
        if let Some(waker) = others.find_map(|waiting| waiting.waker.take()) {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        sync::{
            Arc,
            atomic::{AtomicU32, Ordering},
        },
        task::Wake,
    };
    use ublk_server::Errno;

    #[derive(Default)]
    struct Count(AtomicU32);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn waker() -> (Arc<Count>, Waker) {
        let count = Arc::<Count>::default();
        (count.clone(), count.into())
    }

    fn woken(count: &Count) -> u32 {
        count.0.swap(0, Ordering::SeqCst)
    }

    fn good(cookie: u64) -> Reply {
        Reply { cookie, result: Ok(()) }
    }

    #[test]
    fn one_sends_after_the_other() {
        let mut demux = Demux::default();
        let (count, waker) = waker();
        assert_eq!(demux.poll_turn(3, &waker), Poll::Ready(Ok(())));
        assert_eq!(demux.poll_turn(1, &waker), Poll::Pending);
        assert_eq!(demux.poll_turn(1, &waker), Poll::Pending);
        assert_eq!(demux.poll_turn(2, &waker), Poll::Pending);
        demux.next_turn();
        assert_eq!(woken(&count), 1);
        // It is the turn of the first, whoever asks.
        assert_eq!(demux.poll_turn(2, &waker), Poll::Pending);
        assert_eq!(demux.poll_turn(1, &waker), Poll::Ready(Ok(())));
        demux.next_turn();
        assert_eq!(demux.poll_turn(2, &waker), Poll::Ready(Ok(())));
        demux.next_turn();
        assert_eq!(demux.poll_turn(9, &waker), Poll::Ready(Ok(())));
        demux.end();
        assert_eq!(demux.poll_turn(9, &waker), Poll::Ready(Err(NoTurn::Lost)));
    }

    #[test]
    fn who_leaves_answers_what_was_sent() {
        let mut demux = Demux::default();
        let (count, waker) = waker();
        assert_eq!(demux.poll_turn(1, &waker), Poll::Ready(Ok(())));
        let one = demux.expect(1, false);
        demux.next_turn();
        assert_eq!(demux.poll_turn(2, &waker), Poll::Ready(Ok(())));
        let two = demux.expect(2, false);
        assert_eq!(demux.poll_turn(3, &waker), Poll::Pending);
        assert_eq!(demux.poll_next(1, &waker), Poll::Ready(Ok(Next::Lead)));
        assert!(demux.deliver(&Reply { cookie: one, result: Err(Refusal::Leaving) }, 1).is_ok());
        assert!(demux.is_open() && demux.leave() && !demux.leave());
        assert_eq!(woken(&count), 1, "who wanted to send");
        assert_eq!(demux.poll_turn(3, &waker), Poll::Ready(Err(NoTurn::Leaving)));
        // The second is still being sent.
        demux.release();
        demux.next_turn();
        assert!(demux.is_busy() && !demux.is_open() && !demux.is_over());
        assert_eq!(demux.poll_next(2, &waker), Poll::Ready(Ok(Next::Lead)));
        assert_eq!(demux.deliver(&good(two), 2), Ok(Delivered { tag: 2, data: false }));
        demux.release();
        assert!(!demux.is_busy());
    }

    #[test]
    fn a_turn_that_comes_too_late_is_given_back() {
        let mut demux = Demux::default();
        let (_, waker) = waker();
        assert_eq!(demux.poll_turn(1, &waker), Poll::Ready(Ok(())));
        assert_eq!(demux.poll_turn(2, &waker), Poll::Pending);
        let one = demux.expect(1, false);
        demux.next_turn();
        // The server goes away before the second has begun.
        assert!(demux.leave());
        assert_eq!(demux.poll_turn(2, &waker), Poll::Ready(Err(NoTurn::Leaving)));
        assert_eq!(demux.poll_next(1, &waker), Poll::Ready(Ok(Next::Lead)));
        assert!(demux.deliver(&good(one), 1).is_ok());
        demux.release();
        assert!(!demux.is_busy());
    }

    #[test]
    fn replies_find_who_waits() {
        let mut demux = Demux::default();
        let (count, waker) = waker();
        let (one, two, three) = (demux.expect(1, true), demux.expect(2, false), demux.expect(3, true));
        assert_eq!(demux.poll_next(1, &waker), Poll::Ready(Ok(Next::Lead)));
        assert_eq!(demux.poll_next(2, &waker), Poll::Pending);
        assert_eq!(demux.poll_next(3, &waker), Poll::Pending);
        // What was not sent, what has no such cookie, and what has its reply already.
        for wrong in [7, one ^ 1, one ^ 1 << 16, two ^ 1 << 63] {
            assert_eq!(demux.deliver(&good(wrong), 1), Err(Lost), "{wrong:x}");
        }
        assert_eq!(demux.deliver(&good(two), 1), Ok(Delivered { tag: 2, data: false }));
        assert_eq!(demux.deliver(&good(two), 1), Err(Lost));
        assert_eq!(woken(&count), 1);
        assert_eq!(demux.poll_next(2, &waker), Poll::Ready(Ok(Next::Result(Ok(())))));
        assert_eq!(demux.deliver(&good(two), 1), Err(Lost));
        // The data of the third are next: it has the role.
        assert_eq!(demux.deliver(&good(three), 1), Ok(Delivered { tag: 3, data: true }));
        assert_eq!(woken(&count), 1);
        assert_eq!(demux.poll_next(1, &waker), Poll::Pending);
        assert_eq!(demux.poll_next(3, &waker), Poll::Ready(Ok(Next::Data)));
        demux.release();
        assert_eq!(woken(&count), 1);
        assert_eq!(demux.poll_next(1, &waker), Poll::Ready(Ok(Next::Lead)));
        let result = Err(Refusal::Failed(Errno::EIO));
        let reply = Reply { cookie: one, result };
        assert_eq!(demux.deliver(&reply, 1), Ok(Delivered { tag: 1, data: false }));
        assert_eq!(demux.poll_next(1, &waker), Poll::Ready(Err(Lost)), "it has its answer");
    }

    #[test]
    fn the_end_is_told_after_the_news() {
        let mut demux = Demux::default();
        let (count, waker) = waker();
        let (_, two, _) = (demux.expect(1, false), demux.expect(2, false), demux.expect(3, false));
        assert_eq!(demux.poll_next(1, &waker), Poll::Ready(Ok(Next::Lead)));
        assert_eq!(demux.poll_next(2, &waker), Poll::Pending);
        assert_eq!(demux.poll_next(3, &waker), Poll::Pending);
        assert!(demux.deliver(&good(two), 1).is_ok());
        assert_eq!(woken(&count), 1);
        demux.end();
        assert!(demux.is_over());
        assert_eq!(woken(&count), 1);
        assert_eq!(demux.poll_next(2, &waker), Poll::Ready(Ok(Next::Result(Ok(())))));
        assert_eq!(demux.poll_next(3, &waker), Poll::Ready(Err(Lost)));
        assert_eq!(demux.poll_next(1, &waker), Poll::Ready(Err(Lost)));
    }
}
