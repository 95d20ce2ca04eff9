// SPDX-License-Identifier: GPL-2.0

//! The way of a queue to its server: one connection after the other.

use super::{
    conn::Conn,
    connector::{Connector, Post},
    unflushed::{Mark, Unflushed},
};
use std::{
    future::poll_fn,
    os::fd::AsFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Poll, Waker},
    time::{Duration, Instant},
};
use ublk_server::{Attach, Errno, Io, Socket, SocketId};

/// Which sockets of a queue are for what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sockets {
    pub(crate) server: SocketId,
    pub(crate) bell: SocketId,
}

pub(crate) struct Link {
    sockets: Sockets,
    connector: Connector,
    queue: u16,
    /// Of all queues.
    unflushed: Arc<Mutex<Unflushed>>,
    limit: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    conn: Option<Arc<Conn>>,
    /// The one before, until nobody uses it.
    last: Option<Arc<Conn>>,
    /// The next connection is one that was there from the beginning.
    is_first: bool,
    /// Connections come, but can not be used.
    unusable: Option<Patience>,
    bell: Option<Socket>,
    /// Somebody waits for the bell, and tells these.
    listening: bool,
    /// There is a connection, but the last one is still used.
    in_use: bool,
    wakers: Vec<Waker>,
}

enum Look {
    Found(Arc<Conn>),
    Wait,
    /// It was waited for too long.
    Late,
}

impl State {
    fn wake_all(&mut self) {
        self.wakers.drain(..).for_each(Waker::wake);
    }
}

impl Link {
    /// That of a queue. It is not waited for a connection that can be used longer than the limit.
    /// `is_first`: the first one was there before anything was written.
    pub(crate) fn new(
        sockets: Sockets,
        connector: Connector,
        queue: u16,
        is_first: bool,
        unflushed: Arc<Mutex<Unflushed>>,
        limit: Duration,
    ) -> Link {
        let state = Mutex::new(State { is_first, ..State::default() });
        Link { sockets, connector, queue, unflushed, limit, state }
    }

    fn unflushed(&self) -> MutexGuard<'_, Unflushed> {
        self.unflushed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection that there is, or will be. `EIO` if it does not come in time.
    pub(crate) async fn conn(&self, io: &Io) -> Result<Arc<Conn>, Errno> {
        loop {
            match self.look(io) {
                Look::Found(conn) => return Ok(conn),
                Look::Late => return Err(Errno::EIO),
                Look::Wait => {}
            }
            let bell = {
                let mut state = self.state();
                // Who listens, or who still uses the last connection, tells.
                if state.listening || state.in_use {
                    None
                } else {
                    let bell = self.bell(io, &mut state)?;
                    state.listening = true;
                    Some(bell)
                }
            };
            let Some(bell) = bell else {
                self.told().await;
                continue;
            };
            let rung = io.receive(bell, &mut [0]).await;
            let mut state = self.state();
            state.listening = false;
            state.wake_all();
            rung.map_err(|_| Errno::EIO)?;
        }
    }

    /// A request has come to an end with a connection, or has lost it.
    pub(crate) fn done(&self, io: &Io) {
        let mut state = self.state();
        self.retire(&mut state);
        // A server may have room for one client only.
        if let Some(last) = &state.last
            && !last.is_busy()
            && io.detach(last.socket()).is_ok()
        {
            state.last = None;
        }
        if std::mem::take(&mut state.in_use) {
            state.wake_all();
        }
    }

    /// How far it is, before a request is sent.
    pub(crate) fn mark(&self) -> Mark {
        self.unflushed().mark(self.queue)
    }

    /// Something was answered.
    pub(crate) fn answered(&self, mark: Mark) {
        self.unflushed().answered(self.queue, mark);
    }

    /// A write was answered.
    pub(crate) fn wrote(&self, mark: Mark) {
        self.unflushed().wrote(mark);
    }

    /// A flush was answered.
    pub(crate) fn flushed(&self, mark: Mark) {
        self.unflushed().flushed(mark);
    }

    /// `EIO`, once, if a write was answered and may be lost.
    pub(crate) fn all_flushed(&self) -> Result<(), Errno> {
        if self.unflushed().take_lost() { Err(Errno::EIO) } else { Ok(()) }
    }

    /// Is a flush also about a write that was answered then?
    pub(crate) fn covers(&self, flush: Mark, write: Mark) -> bool {
        self.unflushed().covers(flush, write)
    }

    /// If nothing can be sent on the connection any more, another one is needed.
    fn retire(&self, state: &mut State) {
        if let Some(conn) = state.conn.take_if(|conn| !conn.is_open()) {
            state.last = Some(conn);
            self.connector.order();
        }
    }

    fn look(&self, io: &Io) -> Look {
        let mut state = self.state();
        self.retire(&mut state);
        if let Some(conn) = &state.conn {
            return Look::Found(conn.clone());
        }
        let stream = match self.connector.take() {
            Post::Trying => return Look::Wait,
            Post::Late => return Look::Late,
            Post::Connected(stream) => stream,
        };
        // What the last one has not answered yet must not be overtaken.
        let attached = if state.last.as_ref().is_some_and(|last| last.is_busy()) {
            Err(Attach::InUse)
        } else {
            io.attach(self.sockets.server, stream.as_fd())
        };
        match attached {
            Ok(socket) => {
                (state.last, state.unusable) = (None, None);
                if !std::mem::take(&mut state.is_first) {
                    self.unflushed().next_conn(self.queue);
                }
                let conn = Arc::new(Conn::new(socket, stream));
                state.conn = Some(conn.clone());
                Look::Found(conn)
            }
            Err(Attach::InUse) => {
                self.connector.give_back(stream);
                state.in_use = true;
                Look::Wait
            }
            Err(Attach::Failed(_)) => {
                state.is_first = false;
                self.connector.order();
                let patience = state.unusable.get_or_insert_with(|| Patience::new(self.limit));
                if patience.lost().is_err() { Look::Late } else { Look::Wait }
            }
        }
    }

    fn bell(&self, io: &Io, state: &mut State) -> Result<Socket, Errno> {
        match state.bell {
            Some(bell) => Ok(bell),
            None => {
                let bell = io.attach(self.sockets.bell, self.connector.bell()).map_err(|_| Errno::EIO)?;
                state.bell = Some(bell);
                Ok(bell)
            }
        }
    }

    /// Wait until who listens has heard something.
    async fn told(&self) {
        let mut first = true;
        poll_fn(|context| {
            let mut state = self.state();
            if !first || !(state.listening || state.in_use) {
                return Poll::Ready(());
            }
            first = false;
            state.wakers.push(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// How long a request may go on without a connection that lasts.
pub(crate) struct Patience {
    limit: Duration,
    first: Option<Instant>,
}

impl Patience {
    pub(crate) fn new(limit: Duration) -> Patience {
        Patience { limit, first: None }
    }

    /// It was lost with its connection. `EIO` if that goes on for too long.
    pub(crate) fn lost(&mut self) -> Result<(), Errno> {
        let first = *self.first.get_or_insert_with(Instant::now);
        if first.elapsed() >= self.limit { Err(Errno::EIO) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_ends() {
        let mut patience = Patience::new(Duration::from_millis(50));
        assert_eq!(patience.lost(), Ok(()));
        std::thread::sleep(Duration::from_millis(60));
        assert_eq!(patience.lost(), Err(Errno::EIO));
        assert_eq!(Patience::new(Duration::ZERO).lost(), Err(Errno::EIO));
    }
}
