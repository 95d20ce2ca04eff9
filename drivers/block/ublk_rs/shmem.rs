// SPDX-License-Identifier: GPL-2.0

//! Shared memory that the server registered: buffers that clients may do direct I/O on, so that
//! the server finds the data of their requests in its own mapping.
//!
//! Each device with `UBLK_F_SHMEM_ZC` has one [`Shmem`]. A request looks its pages up in a table
//! that is never changed, only replaced as a whole; so the look-up takes no lock, and registering
//! does not have to stop the queue. Whoever found a buffer has a reference to it: the pages stay
//! pinned and the index stays taken until the last request that uses them ends, also when the
//! buffer was unregistered before.

use crate::types::Disk;
use kernel::{
    bitmap::BitmapVec,
    block::mq::{
        Op,
        Request, //
    },
    mm::{
        physical::{
            MemoryRange,
            PageId, //
        },
        pinned::PinnedPages, //
    },
    page::PAGE_SHIFT,
    prelude::*,
    sync::{
        new_mutex,
        rcu,
        Arc,
        Mutex,
        RcuArc, //
    },
    uapi, //
};

/// How many buffers a device may have: what the address of a descriptor has room for.
const MAX_BUFFERS: usize = uapi::UBLK_SHMEM_ZC_IDX_MASK as usize + 1;

/// What the server may be told to do with a buffer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Access {
    /// It may be the source of a write.
    ReadOnly,
    /// It may be the destination of a read as well.
    ReadWrite,
}

/// The indexes of the buffers that exist.
#[pin_data]
struct Indexes {
    #[pin]
    taken: Mutex<BitmapVec>,
}

impl Indexes {
    fn new() -> Result<Arc<Self>> {
        let taken = BitmapVec::new(MAX_BUFFERS, GFP_KERNEL)?;
        Arc::pin_init(
            pin_init!(Self {
                taken <- new_mutex!(taken, "ublk_rs::Indexes::taken"),
            }),
            GFP_KERNEL,
        )
    }

    /// Takes the lowest free index. Fails with [`ENOSPC`] if there is none.
    fn take(self: &Arc<Self>) -> Result<Index> {
        let mut taken = self.taken.lock();
        let free = taken.next_zero_bit(0).ok_or(ENOSPC)?;
        taken.set_bit(free);
        Ok(Index {
            indexes: self.clone(),
            number: free as u16,
        })
    }
}

/// An index that is taken until this is dropped.
struct Index {
    indexes: Arc<Indexes>,
    number: u16,
}

impl Drop for Index {
    fn drop(&mut self) {
        self.indexes.taken.lock().clear_bit(self.number.into());
    }
}

/// A registered buffer.
struct Buffer {
    index: Index,
    access: Access,
    pages: PinnedPages,
}

/// Contiguous pages of a buffer.
struct Piece {
    first: PageId,
    nr: usize,
    /// Where in the buffer they are, in pages.
    at: usize,
    /// Which of the table's buffers.
    buffer: usize,
}

/// All buffers.
struct Table {
    buffers: KVVec<Arc<Buffer>>,
    /// In the order of the pages, of which no two pieces have the same.
    pieces: KVVec<Piece>,
}

impl Table {
    /// Fails with [`EEXIST`] if a page is there twice.
    fn new(all: &[Arc<Buffer>]) -> Result<Self> {
        // Not `GFP_KERNEL`: to get memory, the kernel may have to write to a disk whose server
        // waits for this.
        let total = all.iter().map(|buffer| buffer.pages.runs().len()).sum();
        let mut buffers = KVVec::with_capacity(all.len(), GFP_NOIO)?;
        let mut pieces = KVVec::with_capacity(total, GFP_NOIO)?;
        for (i, buffer) in all.iter().enumerate() {
            buffers.push(buffer.clone(), GFP_NOIO)?;
            let mut at = 0;
            for (first, nr) in buffer.pages.runs() {
                let piece = Piece {
                    first,
                    nr,
                    at,
                    buffer: i,
                };
                pieces.push(piece, GFP_NOIO)?;
                at += nr;
            }
        }
        pieces.sort_unstable_by_key(|piece| piece.first);
        let overlap = |pair: &[Piece]| match pair {
            [a, b] => b.first < a.first.plus(a.nr),
            _ => false,
        };
        if pieces.windows(2).any(overlap) {
            return Err(EEXIST);
        }
        Ok(Self { buffers, pieces })
    }

    /// Finds the buffer that has all of `memory`; returns it and the offset in it, in bytes.
    #[inline]
    fn locate(&self, memory: &MemoryRange) -> Option<(&Arc<Buffer>, usize)> {
        let behind = self
            .pieces
            .partition_point(|piece| piece.first <= memory.page());
        let piece = self.pieces.get(behind.checked_sub(1)?)?;
        let skip = memory.page().since(piece.first)?;
        if skip >= piece.nr || memory.pages() > piece.nr - skip {
            return None;
        }
        let offset = ((piece.at + skip) << PAGE_SHIFT) + memory.offset();
        Some((self.buffers.get(piece.buffer)?, offset))
    }

    /// Finds the buffer in which all of the data is, in one piece.
    #[inline]
    fn find(&self, op: Op, mut data: impl Iterator<Item = MemoryRange>) -> Option<Found> {
        let first = data.next()?;
        let (buffer, offset) = self.locate(&first)?;
        // The server would write to it.
        if buffer.access == Access::ReadOnly && op != Op::Write {
            return None;
        }
        let mut end = offset + first.len();
        for memory in data {
            let (other, at) = self.locate(&memory)?;
            if !Arc::ptr_eq(buffer, other) || at != end {
                return None;
            }
            end += memory.len();
        }
        // A buffer has no more than 4 GiB.
        let offset = u32::try_from(offset).ok()?;
        Some(Found {
            buffer: buffer.clone(),
            offset,
        })
    }
}

/// Keeps a buffer: its pages stay pinned and its index taken until this is dropped. Not to be
/// dropped under a spin lock.
pub(crate) struct Hold {
    _buffer: Arc<Buffer>,
}

/// Where the data of a request is in shared memory. Not to be dropped under a spin lock.
pub(crate) struct Found {
    buffer: Arc<Buffer>,
    offset: u32,
}

impl Found {
    /// The buffer is needed for as long as the server works on the request.
    pub(crate) fn keep(self) -> Hold {
        Hold {
            _buffer: self.buffer,
        }
    }

    /// As the server is told: `ublk_shmem_zc_addr()` of the header.
    pub(crate) fn addr(&self) -> u64 {
        u64::from(self.buffer.index.number) << uapi::UBLK_SHMEM_ZC_IDX_OFF | u64::from(self.offset)
    }
}

/// The shared memory of a device.
#[pin_data]
pub(crate) struct Shmem {
    table: RcuArc<Table>,
    /// What the table is made of. Held while that is replaced.
    #[pin]
    buffers: Mutex<KVVec<Arc<Buffer>>>,
    indexes: Arc<Indexes>,
}

impl Shmem {
    /// There are no buffers.
    pub(crate) fn new() -> Result<Pin<KBox<Self>>> {
        let indexes = Indexes::new()?;
        KBox::pin_init(
            pin_init!(Self {
                table: RcuArc::new(),
                buffers <- new_mutex!(KVVec::new(), "ublk_rs::Shmem::buffers"),
                indexes,
            }),
            GFP_KERNEL,
        )
    }

    /// Finds the data of a request. Any context; takes no lock.
    #[inline]
    pub(crate) fn find(&self, rq: &Request<Disk>) -> Option<Found> {
        if !rq.has_data() {
            return None;
        }
        let rcu = rcu::read_lock();
        self.table.get(&rcu)?.find(rq.op(), rq.memory())
    }

    /// Replaces the table by one of `buffers`, which are locked.
    fn publish(&self, buffers: &[Arc<Buffer>]) -> Result {
        let table = match buffers {
            [] => None,
            _ => Some(Arc::new(Table::new(buffers)?, GFP_NOIO)?),
        };
        self.table.replace(table);
        Ok(())
    }

    /// Registers a buffer; returns its index.
    ///
    /// Sleeps. Fails with [`ENOSPC`] if there are too many, and with [`EEXIST`] if one of its pages
    /// is registered already, or twice in this one.
    pub(crate) fn register(&self, pages: PinnedPages, access: Access) -> Result<u16> {
        let index = self.indexes.take()?;
        let number = index.number;
        let buffer = Buffer {
            index,
            access,
            pages,
        };
        let buffer = Arc::new(buffer, GFP_KERNEL)?;
        let mut buffers = self.buffers.lock();
        buffers.push(buffer, GFP_NOIO)?;
        let published = self.publish(&buffers);
        let refused = match published {
            Ok(()) => None,
            Err(_) => buffers.pop(),
        };
        drop(buffers);
        // Outside of the lock.
        drop(refused);
        published.map(|()| number)
    }

    /// Unregisters a buffer. Requests that use it are not disturbed.
    ///
    /// Sleeps. Fails with [`ENOENT`] if there is none with this index.
    pub(crate) fn unregister(&self, number: u16) -> Result {
        let removed = {
            let mut buffers = self.buffers.lock();
            let at = buffers.iter().position(|b| b.index.number == number);
            let removed = buffers.remove(at.ok_or(ENOENT)?).map_err(|_| ENOENT)?;
            if let Err(e) = self.publish(&buffers) {
                // There is room: it was just taken out.
                buffers.push(removed, GFP_NOIO)?;
                return Err(e);
            }
            removed
        };
        // Outside of the lock: this may give up many pages.
        drop(removed);
        Ok(())
    }
}

#[kunit_tests(ublk_rs_shmem)]
mod tests {
    use super::*;

    #[test]
    fn indexes_run_out() -> Result {
        let indexes = Indexes::new()?;
        let mut taken = KVVec::with_capacity(MAX_BUFFERS, GFP_KERNEL)?;
        for number in 0..MAX_BUFFERS {
            let index = indexes.take()?;
            assert_eq!(usize::from(index.number), number);
            taken.push(index, GFP_KERNEL)?;
        }
        assert_eq!(MAX_BUFFERS, 65536);
        assert_eq!(indexes.take().err(), Some(ENOSPC));
        drop(taken.remove(5));
        assert_eq!(indexes.take()?.number, 5);
        assert_eq!(indexes.take()?.number, 5);
        Ok(())
    }
}
