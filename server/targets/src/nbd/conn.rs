// SPDX-License-Identifier: GPL-2.0

//! One connection: requests are sent one after the other, and replies come in any order.
//!
//! Nobody receives but who waits for a reply. The first one takes the [`Role`], receives heads
//! of replies, and tells the others what is theirs. Where data follow a head, the role goes to
//! the one whose data they are, who receives them where they belong.

use super::{
    demux::{Demux, Lost, Next, NoTurn},
    say::say,
    stream::Stream,
    wire::{Command, Head, REPLY_LEN, Refusal, Reply},
};
use std::{
    convert::Infallible,
    future::poll_fn,
    io::{self, Write as _},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};
use ublk_server::{Io, Socket, Write};

/// A connection of a queue.
pub(crate) struct Conn {
    socket: Socket,
    stream: Stream,
    demux: Arc<Mutex<Demux>>,
    /// While this is there, somebody waits for a server that goes away.
    leaving: OnceLock<mpsc::Sender<Infallible>>,
}

/// What has come of a request.
pub(crate) enum Outcome<'c> {
    Done(Result<(), Refusal>),
    /// Its data are next: receive all of them.
    Data(Role<'c>),
    /// It was not sent, and will not be: the server goes away.
    NotSent,
}

/// The right to send. Who does not send all of a request spoils the connection.
struct Turn<'c>(&'c Conn);

/// The right to receive. Who does not receive all that was begun spoils the connection.
pub(crate) struct Role<'c>(&'c Conn);

fn locked(demux: &Mutex<Demux>) -> MutexGuard<'_, Demux> {
    demux.lock().unwrap_or_else(PoisonError::into_inner)
}

/// When this time is over, so is the connection; unless the sender is gone before.
fn watch(stream: Stream, demux: Arc<Mutex<Demux>>, limit: Duration) -> io::Result<mpsc::Sender<Infallible>> {
    let (here, gone) = mpsc::channel();
    thread::Builder::new().name("nbd leaving".into()).spawn(move || {
        if gone.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout) {
            say("the server goes away, but does not answer what it has");
            // The other way round, who is told by the ring would find it as it was.
            locked(&demux).end();
            stream.abort();
        }
    })?;
    Ok(here)
}

impl Conn {
    pub(crate) fn new(socket: Socket, stream: Stream) -> Conn {
        Conn { socket, stream, demux: Arc::default(), leaving: OnceLock::new() }
    }

    fn demux(&self) -> MutexGuard<'_, Demux> {
        locked(&self.demux)
    }

    pub(crate) fn socket(&self) -> Socket {
        self.socket
    }

    fn is_over(&self) -> bool {
        self.demux().is_over()
    }

    /// Is anything new to be sent?
    pub(crate) fn is_open(&self) -> bool {
        self.demux().is_open()
    }

    /// May there still be a reply that somebody waits for?
    pub(crate) fn is_busy(&self) -> bool {
        self.demux().is_busy()
    }

    /// The server goes away, and has refused a request. It may still do others that it has:
    /// their replies are waited for, but not longer than `limit`, and nothing new is sent.
    pub(crate) fn leave(&self, limit: Duration) {
        if !self.demux().leave() {
            return;
        }
        match self.stream.try_clone().and_then(|stream| watch(stream, self.demux.clone(), limit)) {
            Ok(here) => drop(self.leaving.set(here)),
            Err(_) => self.end(),
        }
    }

    /// It is over: who waits for anything of it is told.
    pub(crate) fn end(&self) {
        self.stream.abort();
        self.demux().end();
    }

    /// Wait until nobody else sends.
    async fn turn(&self, tag: u16) -> Result<Turn<'_>, NoTurn> {
        poll_fn(|context| self.demux().poll_turn(tag, context.waker())).await?;
        Ok(Turn(self))
    }

    /// Send a request, with its data if it has any, and wait for the reply.
    pub(crate) async fn ask(
        &self,
        io: &Io,
        tag: u16,
        head: &Head,
        data: Option<&Write<'_>>,
    ) -> Result<Outcome<'_>, Lost> {
        let turn = match self.turn(tag).await {
            Ok(turn) => turn,
            Err(NoTurn::Leaving) => return Ok(Outcome::NotSent),
            Err(NoTurn::Lost) => return Err(Lost),
        };
        let cookie = self.demux().expect(tag, head.command == Command::Read);
        let bytes = head.encode(cookie);
        let sent = match data {
            Some(write) => write.send(self.socket, &bytes).await,
            None => io.send(self.socket, &bytes).await,
        };
        sent.map_err(|_| Lost)?;
        turn.next();
        loop {
            match poll_fn(|context| self.demux().poll_next(tag, context.waker())).await? {
                Next::Result(result) => return Ok(Outcome::Done(result)),
                Next::Data => return Ok(Outcome::Data(Role(self))),
                Next::Lead => {
                    if let Some(outcome) = self.lead(io, tag, Role(self)).await? {
                        return Ok(outcome);
                    }
                }
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
            let delivered = self.demux().deliver(&reply, tag);
            let to = delivered.inspect_err(|_| say("the server answers what it was not asked for"))?;
            match (to.tag == tag, to.data) {
                (true, true) => return Ok(Some(Outcome::Data(role))),
                (true, false) => {
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
}

impl Drop for Conn {
    /// Tell the server, if it still listens.
    fn drop(&mut self) {
        if !self.is_over() {
            let bye = Head { command: Command::Disconnect, flags: 0, offset: 0, len: 0 };
            let end = Instant::now() + Duration::from_millis(200);
            if self.stream.until(end, |peer| peer.write_all(&bye.encode(0))).is_ok() {
                self.stream.part();
            }
        }
    }
}

impl Turn<'_> {
    /// All was sent: it is the next one's turn.
    fn next(self) {
        self.0.demux().next_turn();
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
        self.0.demux().release();
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::{io::Read, os::unix::net::UnixStream, task::Waker};

    #[test]
    fn who_leaves_without_an_answer_is_over() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let demux = Arc::<Mutex<Demux>>::default();
        assert!(locked(&demux).poll_turn(1, Waker::noop()).is_ready());
        assert!(locked(&demux).leave());
        let here = watch(Stream::Unix(ours), demux.clone(), Duration::from_millis(10)).unwrap();
        // The end of the connection is seen, and was known before.
        theirs.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        assert_eq!(theirs.read(&mut [0]).unwrap(), 0);
        assert!(locked(&demux).is_over() && !locked(&demux).is_busy());
        drop(here);
    }
}
