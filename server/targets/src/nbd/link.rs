// SPDX-License-Identifier: GPL-2.0

//! The way of a queue to its server: one connection after the other.

use super::{
    conn::Conn,
    connector::{Connector, Post},
};
use std::{
    future::poll_fn,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Poll, Waker},
    time::{Duration, Instant},
};
use ublk_server::{Errno, Io, Socket, SocketId};

/// Which sockets of a queue are for what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sockets {
    pub(crate) server: SocketId,
    pub(crate) bell: SocketId,
}

pub(crate) struct Link {
    sockets: Sockets,
    connector: Connector,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    conn: Option<Arc<Conn>>,
    bell: Option<Socket>,
    /// Somebody waits for the bell, and tells these.
    listening: bool,
    wakers: Vec<Waker>,
}

impl State {
    fn wake_all(&mut self) {
        self.wakers.drain(..).for_each(Waker::wake);
    }
}

impl Link {
    pub(crate) fn new(sockets: Sockets, connector: Connector) -> Link {
        Link { sockets, connector, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection that there is, or will be. `EIO` if it does not come in time.
    pub(crate) async fn conn(&self, io: &Io) -> Result<Arc<Conn>, Errno> {
        loop {
            if let Some(found) = self.look(io) {
                return found;
            }
            let bell = {
                let mut state = self.state();
                if state.listening { None } else { Some(self.bell(io, &mut state)?) }
            };
            match bell {
                Some(bell) => {
                    self.state().listening = true;
                    let rung = io.receive(bell, &mut [0]).await;
                    let mut state = self.state();
                    state.listening = false;
                    state.wake_all();
                    rung.map_err(|_| Errno::EIO)?;
                }
                None => self.told().await,
            }
        }
    }

    /// The connection, or that there is none; `None`: wait.
    fn look(&self, io: &Io) -> Option<Result<Arc<Conn>, Errno>> {
        let mut state = self.state();
        if let Some(conn) = &state.conn {
            if !conn.is_over() {
                return Some(Ok(conn.clone()));
            }
            state.conn = None;
            self.connector.order();
        }
        match self.connector.take() {
            Post::Trying => None,
            Post::Late => Some(Err(Errno::EIO)),
            Post::Connected(stream) => {
                use std::os::fd::AsFd;
                let Ok(socket) = io.attach(self.sockets.server, stream.as_fd()) else {
                    self.connector.order();
                    return None;
                };
                let conn = Arc::new(Conn::new(socket, stream));
                state.conn = Some(conn.clone());
                Some(Ok(conn))
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
            if !first || !state.listening {
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
