// SPDX-License-Identifier: GPL-2.0

//! Sockets of a target without a kernel that has ublk. Whoever waits is asked again and
//! again.

use crate::{Attach, Errno, Socket, SocketId, socket::Usage};
use std::{
    cell::{Cell, RefCell},
    fs::File,
    future::poll_fn,
    io::{self, Read, Write},
    os::{
        fd::{BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    task::{Context, Poll},
};

/// The most that is moved at a time.
const PART: usize = 3000;

#[derive(Default)]
struct One {
    usage: Usage,
    file: RefCell<Option<File>>,
}

/// Ask again.
fn again<R>(context: &Context<'_>) -> Poll<R> {
    context.waker().wake_by_ref();
    Poll::Pending
}

/// The sockets of a queue.
pub(crate) struct SimSockets {
    all: Vec<One>,
    /// After so many bytes something fails, though the sockets are good.
    fails_after: Cell<Option<(usize, Errno)>>,
    /// The first one can not be attached.
    refuses: Cell<bool>,
}

impl SimSockets {
    pub(crate) fn new(count: u32) -> SimSockets {
        let all = (0..count).map(|_| One::default()).collect();
        SimSockets { all, fails_after: Cell::new(None), refuses: Cell::new(false) }
    }

    pub(crate) fn attach(&self, id: SocketId, fd: BorrowedFd<'_>) -> Result<Socket, Attach> {
        if self.refuses.get() && id.0 == 0 {
            return Err(Attach::Failed(Errno::ENOMEM.into()));
        }
        // Of any socket, whatever its family is.
        let socket = UnixStream::from(fd.try_clone_to_owned().map_err(Attach::Failed)?);
        socket.set_nonblocking(true).map_err(Attach::Failed)?;
        let one = &self.all[id.0 as usize];
        let attached = one.usage.attach(id)?;
        one.file.replace(Some(File::from(OwnedFd::from(socket))));
        Ok(attached)
    }

    pub(crate) fn detach(&self, socket: Socket) -> Result<(), Errno> {
        let one = &self.all[socket.id.0 as usize];
        if one.usage.detach(socket)? {
            one.file.replace(None);
        }
        Ok(())
    }

    pub(crate) fn refuse(&self, refuses: bool) {
        self.refuses.set(refuses);
    }

    pub(crate) fn fail_after(&self, bytes: usize, errno: Errno) {
        self.fails_after.set(Some((bytes, errno)));
    }

    /// How much of this can be moved before something fails?
    fn most(&self, len: usize) -> Result<usize, Errno> {
        match self.fails_after.get() {
            None => Ok(len),
            Some((0, errno)) => {
                self.fails_after.set(None);
                Err(errno)
            }
            Some((left, _)) => Ok(len.min(left)),
        }
    }

    fn count(&self, moved: usize) {
        let left = self.fails_after.get().map(|(left, errno)| (left.saturating_sub(moved), errno));
        self.fails_after.set(left);
    }

    /// Do a part with the socket, again and again until there is nothing left. Others have
    /// their turn before each part.
    async fn all(
        &self,
        socket: Socket,
        len: usize,
        mut part: impl FnMut(&mut File, usize, usize) -> io::Result<usize>,
    ) -> Result<(), Errno> {
        let one = &self.all[socket.id.0 as usize];
        let _user = one.usage.begin(socket)?;
        let mut done = 0;
        while done < len {
            let mut others = true;
            poll_fn(|context| if std::mem::take(&mut others) { again(context) } else { Poll::Ready(()) })
                .await;
            done += poll_fn(|context| {
                let mut file = one.file.borrow_mut();
                let Some(file) = file.as_mut() else { return Poll::Ready(Err(Errno::ECONNRESET)) };
                let most = match self.most((len - done).min(PART)) {
                    Ok(most) => most,
                    Err(errno) => return Poll::Ready(Err(errno)),
                };
                match part(file, done, done + most) {
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => again(context),
                    Ok(0) => Poll::Ready(Err(Errno::ECONNRESET)),
                    result => Poll::Ready(result.inspect(|moved| self.count(*moved)).map_err(Errno::from)),
                }
            })
            .await?;
        }
        Ok(())
    }

    pub(crate) async fn send(&self, socket: Socket, bytes: &[u8]) -> Result<(), Errno> {
        self.all(socket, bytes.len(), |file, from, to| file.write(&bytes[from..to])).await
    }

    pub(crate) async fn receive(&self, socket: Socket, bytes: &mut [u8]) -> Result<(), Errno> {
        self.all(socket, bytes.len(), |file, from, to| file.read(&mut bytes[from..to])).await
    }
}
