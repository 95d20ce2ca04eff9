// SPDX-License-Identifier: GPL-2.0

//! Targets without a kernel that has ublk: requests are made up, and answers are
//! carried out with ordinary reads and writes of the target's files and sockets.

mod socket;

use crate::{
    Answer, Errno, FileId, Flush, Io, Range, Read, Request, Socket, Target, Write,
    io::{Allocate, Inner},
    request::{Placed, Slot, What},
    syncs::SyncErrors,
};
use socket::SimSockets;
use std::{
    cell::{Cell, RefCell},
    fs::File,
    future::Future,
    io,
    marker::PhantomData,
    os::unix::fs::FileExt,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    thread,
    time::{Duration, Instant},
};
use ublk_ring::Direction;

/// A device that only its owner can use.
pub struct Sim<T> {
    target: T,
    io: Io,
}

/// A request that is made up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ask {
    /// Read so many bytes at this offset.
    Read(u64, u32),
    /// Write these bytes at this offset; if `true`, to the medium.
    Write(u64, Vec<u8>, bool),
    /// Flush.
    Flush,
    /// Discard so many bytes at this offset.
    Discard(u64, u32),
    /// Zero so many bytes at this offset; their room stays if `true`.
    WriteZeroes(u64, u32, bool),
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// What is waited for is there after so long, or never.
const PATIENCE: Duration = Duration::from_secs(60);

/// The files, and the data of the requests that are being served, by their tags.
pub(crate) struct SimFiles {
    files: Vec<File>,
    pub(crate) sockets: SimSockets,
    data: RefCell<Vec<Vec<u8>>>,
    /// Which file fails, and with what.
    broken: Cell<Option<(FileId, Errno)>>,
    /// Which file can not be zeroed so that it keeps its room.
    only_punches: Cell<Option<FileId>>,
    /// The next sync fails with this.
    broken_sync: Cell<Option<Errno>>,
    /// A write with FUA has been told this.
    unheard: Cell<Option<Errno>>,
    syncs: Cell<u64>,
    sync_errors: SyncErrors,
}

impl<T: Target> Sim<T> {
    /// Serve this target.
    pub fn new(target: T) -> io::Result<Sim<T>> {
        let mut files = Vec::new();
        for id in 0.. {
            let Some(file) = target.files().get(FileId(id)) else { break };
            files.push(file.try_clone()?);
        }
        let io = Io(Inner::Sim(SimFiles {
            files,
            sockets: SimSockets::new(target.files().sockets()),
            data: RefCell::default(),
            broken: Cell::new(None),
            only_punches: Cell::new(None),
            broken_sync: Cell::new(None),
            unheard: Cell::new(None),
            syncs: Cell::new(0),
            sync_errors: SyncErrors::default(),
        }));
        Ok(Sim { target, io })
    }

    /// The target.
    pub fn target(&self) -> &T {
        &self.target
    }

    fn files(&self) -> &SimFiles {
        match &self.io.0 {
            Inner::Sim(files) => files,
            Inner::Queue(_) => unreachable!("made by new()"),
        }
    }

    /// From now on, what is done with this file fails; `None`: nothing does.
    pub fn break_file(&self, file: Option<FileId>, errno: Errno) {
        self.files().broken.set(file.map(|file| (file, errno)));
    }

    /// From now on, this file is one where room can only be given back.
    pub fn only_punch(&self, file: FileId) {
        self.files().only_punches.set(Some(file));
    }

    /// The next time that something is to be on the medium, it is not, and that is told once.
    pub fn fail_sync(&self, errno: Errno) {
        self.files().broken_sync.set(Some(errno));
    }

    /// When so many bytes more have gone through sockets, whatever moves them fails once.
    /// The other end does not notice.
    pub fn fail_sockets_after(&self, bytes: usize, errno: Errno) {
        self.files().sockets.fail_after(bytes, errno);
    }

    /// Does the first socket of the target fail to be attached from now on?
    pub fn refuse_socket(&self, refuses: bool) {
        self.files().sockets.refuse(refuses);
    }

    /// How often something was made to be on the medium.
    pub fn syncs(&self) -> u64 {
        self.files().syncs.get()
    }

    fn request(&self, tag: usize, ask: &Ask) -> Request<'_> {
        let data = match ask {
            // What nobody fills is seen.
            Ask::Read(_, len) => vec![0xa5; *len as usize],
            Ask::Write(_, data, _) => data.clone(),
            _ => Vec::new(),
        };
        let (offset, len, fua) = match ask {
            Ask::Read(offset, len) | Ask::Discard(offset, len) | Ask::WriteZeroes(offset, len, _) => {
                (*offset, *len, false)
            }
            Ask::Write(offset, data, fua) => (*offset, u32::try_from(data.len()).expect("32 bits"), *fua),
            Ask::Flush => (0, 0, false),
        };
        self.files().data.borrow_mut()[tag] = data;
        let tag = u16::try_from(tag).expect("so many requests a queue does not have");
        let slot = Slot { io: &self.io, tag, offset, len, fua, of: PhantomData };
        match ask {
            Ask::Read(..) => Request::Read(Read(slot)),
            Ask::Write(..) => Request::Write(Write(slot)),
            Ask::Flush => Request::Flush(Flush(slot)),
            Ask::Discard(..) => Request::Discard(Range(slot)),
            Ask::WriteZeroes(_, _, keep) => Request::WriteZeroes(Range(slot), *keep),
        }
    }

    fn finish(&self, tag: usize, ask: &Ask, answer: Answer<'_>) -> Result<Vec<u8>, Errno> {
        match answer.what {
            What::Result(result) => drop(result?),
            What::Move(direction, pieces) => {
                let placed = pieces.as_slice();
                // The documented rules, looked at from the other side.
                let mut end = 0;
                for piece in placed {
                    assert_eq!(piece.at, end, "a gap, or twice the same");
                    end += piece.piece.len;
                }
                assert_eq!(end as usize, self.files().data.borrow()[tag].len(), "not all of it");
                let fua = matches!(ask, Ask::Write(_, _, true));
                let tag = u16::try_from(tag).expect("as before");
                self.files().lend(tag, fua, direction, placed).into_iter().collect::<Result<(), _>>()?;
            }
        }
        Ok(match ask {
            Ask::Read(..) => std::mem::take(&mut self.files().data.borrow_mut()[tag]),
            _ => Vec::new(),
        })
    }

    /// Serve these requests at the same time. What has become of each? Reads bring
    /// data.
    ///
    /// # Panics
    ///
    /// If they wait for something for ever.
    pub fn ask(&self, asks: &[Ask]) -> Vec<Result<Vec<u8>, Errno>> {
        self.files().data.replace(vec![Vec::new(); asks.len()]);
        type Task<'r> = Pin<Box<dyn Future<Output = Answer<'r>> + 'r>>;
        let mut tasks: Vec<Option<(Task<'_>, Arc<Woken>)>> = Vec::new();
        for (tag, ask) in asks.iter().enumerate() {
            let woken = Arc::new(Woken(true.into()));
            tasks.push(Some((Box::pin(self.target.serve(&self.io, self.request(tag, ask))), woken)));
        }
        let mut results: Vec<_> = asks.iter().map(|_| Err(Errno::EIO)).collect();
        let end = Instant::now() + PATIENCE;
        let mut left = tasks.len();
        let mut idle = 0;
        while left > 0 {
            let before = left;
            for (tag, task) in tasks.iter_mut().enumerate() {
                // Who is not woken is not asked, as with a ring.
                let Some((future, woken)) = task else { continue };
                if !woken.0.swap(false, Ordering::SeqCst) {
                    continue;
                }
                let waker = Waker::from(woken.clone());
                if let Poll::Ready(answer) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
                    results[tag] = self.finish(tag, &asks[tag], answer);
                    *task = None;
                    left -= 1;
                }
            }
            idle = if left == before { idle + 1 } else { 0 };
            // What is waited for may be in another thread.
            if idle > 100 {
                assert!(Instant::now() < end, "{left} requests wait for ever");
                thread::sleep(Duration::from_micros(50));
            }
        }
        results
    }

    fn one(&self, ask: Ask) -> Result<Vec<u8>, Errno> {
        self.ask(&[ask]).remove(0)
    }

    /// Read from the device.
    pub fn read(&self, offset: u64, len: u32) -> Result<Vec<u8>, Errno> {
        self.one(Ask::Read(offset, len))
    }

    /// Write to the device; with `fua`, to the medium.
    pub fn write(&self, offset: u64, data: &[u8], fua: bool) -> Result<(), Errno> {
        self.one(Ask::Write(offset, data.to_vec(), fua)).map(drop)
    }

    /// Flush the device.
    pub fn flush(&self) -> Result<(), Errno> {
        self.one(Ask::Flush).map(drop)
    }

    /// Discard a part of the device.
    pub fn discard(&self, offset: u64, len: u32) -> Result<(), Errno> {
        self.one(Ask::Discard(offset, len)).map(drop)
    }

    /// Zero a part of the device; its room stays if `keep`.
    pub fn write_zeroes(&self, offset: u64, len: u32, keep: bool) -> Result<(), Errno> {
        self.one(Ask::WriteZeroes(offset, len, keep)).map(drop)
    }
}

impl SimFiles {
    fn file(&self, id: FileId) -> Result<&File, Errno> {
        match self.broken.get() {
            Some((broken, errno)) if broken == id => Err(errno),
            _ => Ok(&self.files[id.0 as usize]),
        }
    }

    fn synced(&self, file: FileId) -> Result<(), Errno> {
        self.file(file)?.sync_data()?;
        if let Some(errno) = self.broken_sync.take() {
            return Err(errno);
        }
        self.syncs.set(self.syncs.get() + 1);
        Ok(())
    }

    pub(crate) fn sync(&self, file: FileId) -> Result<(), Errno> {
        self.sync_errors.check(file)?;
        let unheard = self.unheard.take().map_or(Ok(()), Err);
        self.sync_errors.note(file, unheard.and(self.synced(file)))
    }

    pub(crate) fn allocate(&self, file: FileId, how: Allocate, offset: u64, len: u64) -> Result<(), Errno> {
        if how == Allocate::Zero && self.only_punches.get() == Some(file) {
            return Err(Errno::EOPNOTSUPP);
        }
        let mode = how.mode().cast_signed();
        Ok(ublk_sys::allocate(self.file(file)?, mode, offset, len)?)
    }

    fn one(&self, tag: u16, fua: bool, direction: Direction, placed: &Placed) -> Result<(), Errno> {
        let piece = &placed.piece;
        let (at, len) = (placed.at as usize, piece.len as usize);
        let file = self.file(piece.file)?;
        match direction {
            Direction::Fill => {
                let mut data = self.data.borrow_mut();
                file.read_exact_at(&mut data[usize::from(tag)][at..at + len], piece.offset)?;
            }
            Direction::Drain => {
                file.write_all_at(&self.data.borrow()[usize::from(tag)][at..at + len], piece.offset)?;
                if fua {
                    // The other open file says it, too, when it is asked.
                    self.synced(piece.file).inspect_err(|errno| self.unheard.set(Some(*errno)))?;
                }
            }
        }
        Ok(())
    }

    /// In no particular order, as io_uring does: backwards is one.
    pub(crate) fn lend(
        &self,
        tag: u16,
        fua: bool,
        direction: Direction,
        pieces: &[Placed],
    ) -> Vec<Result<(), Errno>> {
        let mut results: Vec<_> =
            pieces.iter().rev().map(|placed| self.one(tag, fua, direction, placed)).collect();
        results.reverse();
        results
    }

    /// All of the data of a request, which come and go as the socket has them.
    pub(crate) async fn stream(&self, tag: u16, direction: Direction, socket: Socket) -> Result<(), Errno> {
        let tag = usize::from(tag);
        let mut data = std::mem::take(&mut self.data.borrow_mut()[tag]);
        let result = match direction {
            Direction::Fill => self.sockets.receive(socket, &mut data).await,
            Direction::Drain => self.sockets.send(socket, &data).await,
        };
        self.data.borrow_mut()[tag] = data;
        result
    }
}
