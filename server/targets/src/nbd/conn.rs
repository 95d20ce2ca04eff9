// SPDX-License-Identifier: GPL-2.0

//! One connection: requests are sent one after the other, and replies come in any order.
//!
//! Nobody receives but who waits for a reply. The first one takes the [`Role`], receives heads
//! of replies, and tells the others what is theirs. Where data follow a head, the role goes to
//! the one whose data they are, who receives them where they belong.

use super::{
    say::say,
    stream::Stream,
    wire::{Command, Head, REPLY_LEN, Refusal, Reply},
};
use std::{
    collections::VecDeque,
    future::poll_fn,
    io::Write as _,
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};
use ublk_server::{Io, Socket, Write};

/// The connection is over. Nobody knows whether the server has done what it was asked for.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Lost;

/// A connection of a queue.
pub(crate) struct Conn {
    socket: Socket,
    stream: Stream,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    over: bool,
    /// Which request is being sent, and who is next.
    sender: Option<u16>,
    senders: VecDeque<(u16, Waker)>,
    /// Somebody has the role.
    receiving: bool,
    count: u64,
    /// What was sent and not answered, by tag.
    waiting: Vec<Option<Waiting>>,
}

struct Waiting {
    cookie: u64,
    /// Data follow a good reply.
    has_data: bool,
    news: Option<News>,
    waker: Option<Waker>,
}

enum News {
    Result(Result<(), Refusal>),
    /// The data are next, and the role is ours.
    Data,
}

/// What has come of a request.
pub(crate) enum Outcome<'c> {
    Done(Result<(), Refusal>),
    /// Its data are next: receive all of them.
    Data(Role<'c>),
}

enum Next<'c> {
    Outcome(Outcome<'c>),
    /// Nobody receives: do it.
    Lead(Role<'c>),
}

/// The right to send. Who does not send all of a request spoils the connection.
struct Turn<'c>(&'c Conn);

/// The right to receive. Who does not receive all that was begun spoils the connection.
pub(crate) struct Role<'c>(&'c Conn);

impl Conn {
    pub(crate) fn new(socket: Socket, stream: Stream) -> Conn {
        Conn { socket, stream, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn socket(&self) -> Socket {
        self.socket
    }

    pub(crate) fn is_over(&self) -> bool {
        self.state().over
    }

    /// It is over: who waits for anything of it is told.
    pub(crate) fn end(&self) {
        let mut state = self.state();
        state.over = true;
        self.stream.shutdown();
        for (_, waker) in state.senders.drain(..) {
            waker.wake();
        }
        for waiting in state.waiting.iter_mut().flatten() {
            if let Some(waker) = waiting.waker.take() {
                waker.wake();
            }
        }
    }

    /// Wait until nobody else sends.
    async fn turn(&self, tag: u16) -> Result<Turn<'_>, Lost> {
        poll_fn(|context| {
            let mut state = self.state();
            if state.over {
                return Poll::Ready(Err(Lost));
            }
            match state.sender {
                Some(other) if other != tag => {
                    if !state.senders.iter().any(|(queued, _)| *queued == tag) {
                        state.senders.push_back((tag, context.waker().clone()));
                    }
                    Poll::Pending
                }
                _ => {
                    state.sender = Some(tag);
                    Poll::Ready(Ok(Turn(self)))
                }
            }
        })
        .await
    }

    /// A request is about to be sent. Its cookie is one that no other has on this connection.
    fn expect(&self, tag: u16, has_data: bool) -> u64 {
        let mut state = self.state();
        state.count += 1;
        let cookie = state.count << 16 | u64::from(tag);
        let at = usize::from(tag);
        if state.waiting.len() <= at {
            state.waiting.resize_with(at + 1, || None);
        }
        state.waiting[at] = Some(Waiting { cookie, has_data, news: None, waker: None });
        cookie
    }

    /// Send a request, with its data if it has any, and wait for the reply.
    pub(crate) async fn ask(
        &self,
        io: &Io,
        tag: u16,
        head: &Head,
        data: Option<&Write<'_>>,
    ) -> Result<Outcome<'_>, Lost> {
        let turn = self.turn(tag).await?;
        let bytes = head.encode(self.expect(tag, head.command == Command::Read));
        let sent = match data {
            Some(write) => write.send(self.socket, &bytes).await,
            None => io.send(self.socket, &bytes).await,
        };
        sent.map_err(|_| Lost)?;
        turn.next();
        loop {
            match self.next(tag).await? {
                Next::Outcome(outcome) => return Ok(outcome),
                Next::Lead(role) => {
                    if let Some(outcome) = self.lead(io, tag, role).await? {
                        return Ok(outcome);
                    }
                }
            }
        }
    }

    /// Wait for the reply, or for the role.
    async fn next(&self, tag: u16) -> Result<Next<'_>, Lost> {
        poll_fn(|context| self.poll_next(tag, context)).await
    }

    fn poll_next(&self, tag: u16, context: &mut Context<'_>) -> Poll<Result<Next<'_>, Lost>> {
        let mut state = self.state();
        let State { over, receiving, waiting, .. } = &mut *state;
        let Some(slot) = waiting.get_mut(usize::from(tag)) else { return Poll::Ready(Err(Lost)) };
        let Some(mine) = slot else { return Poll::Ready(Err(Lost)) };
        match mine.news.take() {
            Some(News::Result(result)) => {
                *slot = None;
                Poll::Ready(Ok(Next::Outcome(Outcome::Done(result))))
            }
            Some(News::Data) => {
                *slot = None;
                Poll::Ready(Ok(Next::Outcome(Outcome::Data(Role(self)))))
            }
            None if *over => Poll::Ready(Err(Lost)),
            None if !*receiving => {
                *receiving = true;
                Poll::Ready(Ok(Next::Lead(Role(self))))
            }
            None => {
                mine.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Receive heads until there is ours, or until somebody else's data are next: then the role
    /// is theirs.
    async fn lead<'c>(&'c self, io: &Io, tag: u16, role: Role<'c>) -> Result<Option<Outcome<'c>>, Lost> {
        loop {
            let mut bytes = [0; REPLY_LEN];
            io.receive(self.socket, &mut bytes).await.map_err(|_| Lost)?;
            let Some(reply) = Reply::decode(&bytes) else {
                say("the server says nonsense");
                return Err(Lost);
            };
            let (to, has_data) = self.deliver(&reply).inspect_err(|_| {
                say("the server answers what it was not asked for");
            })?;
            let data = has_data && reply.result.is_ok();
            match (to == tag, data) {
                (true, true) => {
                    self.state().waiting[usize::from(tag)] = None;
                    return Ok(Some(Outcome::Data(role)));
                }
                (true, false) => {
                    self.state().waiting[usize::from(tag)] = None;
                    role.release();
                    return Ok(Some(Outcome::Done(reply.result)));
                }
                (false, true) => {
                    role.pass();
                    return Ok(None);
                }
                (false, false) => {}
            }
        }
    }

    /// Whose is it, and does that one want data? It is told.
    fn deliver(&self, reply: &Reply) -> Result<(u16, bool), Lost> {
        let tag = (reply.cookie & 0xffff) as u16;
        let mut state = self.state();
        let waiting = state.waiting.get_mut(usize::from(tag)).and_then(Option::as_mut);
        let waiting = waiting.filter(|waiting| waiting.cookie == reply.cookie && waiting.news.is_none());
        let waiting = waiting.ok_or(Lost)?;
        waiting.news = Some(match reply.result {
            Ok(()) if waiting.has_data => News::Data,
            result => News::Result(result),
        });
        if let Some(waker) = waiting.waker.take() {
            waker.wake();
        }
        Ok((tag, waiting.has_data))
    }
}

impl Drop for Conn {
    /// Tell the server, if it still listens.
    fn drop(&mut self) {
        if !self.is_over() {
            let bye = Head { command: Command::Disconnect, flags: 0, offset: 0, len: 0 };
            let end = Instant::now() + Duration::from_millis(200);
            let _ = self.stream.until(end, |peer| peer.write_all(&bye.encode(0)));
        }
    }
}

impl Turn<'_> {
    /// All was sent: it is the next one's turn.
    fn next(self) {
        {
            let mut state = self.0.state();
            let next = state.senders.pop_front();
            state.sender = next.as_ref().map(|(tag, _)| *tag);
            if let Some((_, waker)) = next {
                waker.wake();
            }
        }
        std::mem::forget(self);
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl Role<'_> {
    /// All was received: somebody else, who waits, may have it.
    pub(crate) fn release(self) {
        {
            let mut state = self.0.state();
            state.receiving = false;
            let mut others = state.waiting.iter_mut().flatten().filter(|waiting| waiting.news.is_none());
            if let Some(waker) = others.find_map(|waiting| waiting.waker.take()) {
                waker.wake();
            }
        }
        std::mem::forget(self);
    }

    /// Somebody has been told that it is theirs.
    fn pass(self) {
        std::mem::forget(self);
    }
}

impl Drop for Role<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}
