// SPDX-License-Identifier: GPL-2.0

//! A buffer of a driver's own that it can lend to fused commands.

use super::{
    BvecTable,
    Direction,
    Lessor, //
};
use crate::{
    alloc::Flags,
    bindings,
    iov::{
        IovIterDest,
        IovIterSource, //
    },
    page::{
        Page,
        PAGE_SHIFT,
        PAGE_SIZE, //
    },
    prelude::*,
};
use core::ops::Range;

/// A buffer of whole pages.
///
/// Who has the value has the memory for himself. To lend it means to give it away, into a
/// [`PageLoan`]; so the driver can not touch it before it came back.
///
/// # Invariants
///
/// `table` has one entry for each of `pages`, in their order, that describes all of the page.
pub struct PageBuf {
    pages: KVec<Page>,
    table: KVec<bindings::bio_vec>,
}

// SAFETY: The table only points to pages that the value owns, which are not bound to a thread.
unsafe impl Send for PageBuf {}
// SAFETY: Through a shared reference the memory is only read.
unsafe impl Sync for PageBuf {}

impl PageBuf {
    /// Allocates a buffer of `nr_pages` pages, filled with zeroes.
    ///
    /// Fails with `ENOMEM`, and with `EINVAL` for a buffer without pages. May sleep if `flags`
    /// allow that.
    pub fn new(nr_pages: usize, flags: Flags) -> Result<Self> {
        if nr_pages == 0 {
            return Err(EINVAL);
        }
        let mut pages = KVec::with_capacity(nr_pages, flags)?;
        let mut table = KVec::with_capacity(nr_pages, flags)?;

        for _ in 0..nr_pages {
            let page = Page::alloc_page(flags | __GFP_ZERO)?;
            let entry = bindings::bio_vec {
                bv_page: page.as_ptr(),
                bv_len: PAGE_SIZE as u32,
                bv_offset: 0,
            };

            table.push(entry, flags)?;
            pages.push(page, flags)?;
        }
        // INVARIANT: One entry was pushed for each page.
        Ok(Self { pages, table })
    }

    /// Returns the length in bytes. A buffer is never empty.
    #[expect(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.pages.len() << PAGE_SHIFT
    }

    /// Calls `copy` with the pages, and the parts of them, that `len` bytes from `offset` on are
    /// in, until it copies less than it was asked to. Returns how many bytes it copied.
    fn for_each_part(
        &self,
        offset: usize,
        len: usize,
        mut copy: impl FnMut(&Page, usize, usize) -> usize,
    ) -> usize {
        let mut done = 0;

        for (index, page) in self.pages.iter().enumerate().skip(offset >> PAGE_SHIFT) {
            let from = (offset + done) - (index << PAGE_SHIFT);
            let part = (PAGE_SIZE - from).min(len - done);
            let copied = copy(page, from, part);

            done += copied;
            if copied < part || done == len {
                break;
            }
        }
        done
    }

    /// Copies from `offset` on to `iter`. Returns how many bytes were copied: fewer than there is
    /// room for at the end of the buffer, or if the destination can not be written. May sleep.
    pub fn copy_to_iter(&self, offset: usize, iter: &mut IovIterDest<'_>) -> usize {
        let len = iter.len().min(self.len().saturating_sub(offset));
        let iter = iter.as_raw();

        self.for_each_part(offset, len, |page, from, part| {
            // SAFETY: The page is owned by `self`, and the part of it is inside. The iterator is
            // valid, as it comes from an exclusive reference.
            unsafe { bindings::copy_page_to_iter(page.as_ptr(), from, part, iter) }
        })
    }

    /// Copies from `iter` to the buffer, from `offset` on. As [`copy_to_iter`] otherwise.
    ///
    /// [`copy_to_iter`]: Self::copy_to_iter
    pub fn copy_from_iter(&mut self, offset: usize, iter: &mut IovIterSource<'_>) -> usize {
        let len = iter.len().min(self.len().saturating_sub(offset));
        let iter = iter.as_raw();

        self.for_each_part(offset, len, |page, from, part| {
            // SAFETY: As above, and nobody else looks at the page: `self` is borrowed exclusively.
            unsafe { bindings::copy_page_from_iter(page.as_ptr(), from, part, iter) }
        })
    }
}

/// Who a [`PageBuf`] goes back to after it was lent.
pub trait PageBufOwner: Send + 'static {
    /// Takes the buffer back.
    ///
    /// Called exactly once for each loan: when the last secondary is done with the buffer, or when
    /// the loan did not come about.
    ///
    /// # Context
    ///
    /// Task context, possibly with the ring's `uring_lock` held, not necessarily in the task that
    /// submitted the command.
    fn returned(self, buf: PageBuf);
}

/// A [`PageBuf`] that is lent, or about to be, in one direction and in part.
///
/// It is a [`Lessor`] when it is in a box, which is how [`new`](Self::new) returns it.
///
/// # Invariants
///
/// `buf` and `owner` are there until the value is dropped. `range` is not empty and inside of the
/// buffer.
pub struct PageLoan<O: PageBufOwner> {
    buf: Option<PageBuf>,
    owner: Option<O>,
    range: Range<usize>,
    dir: Direction,
}

impl<O: PageBufOwner> PageLoan<O> {
    /// Prepares to lend `range` of `buf`, which then goes back to `owner`.
    ///
    /// Fails with `EINVAL` if the range is empty or not inside of the buffer, and with `ENOMEM`.
    /// Then the buffer goes back at once.
    pub fn new(
        buf: PageBuf,
        range: Range<usize>,
        dir: Direction,
        owner: O,
        flags: Flags,
    ) -> Result<KBox<Self>> {
        let fits = range.start < range.end && range.end <= buf.len();
        // INVARIANT: Both are there. A loan with another range does not leave this function.
        let loan = Self {
            buf: Some(buf),
            owner: Some(owner),
            range,
            dir,
        };

        if !fits {
            return Err(EINVAL);
        }
        Ok(KBox::new(loan, flags)?)
    }
}

impl<O: PageBufOwner> Drop for PageLoan<O> {
    fn drop(&mut self) {
        if let (Some(buf), Some(owner)) = (self.buf.take(), self.owner.take()) {
            owner.returned(buf);
        }
    }
}

// SAFETY: While the loan exists, in whatever form, it owns the buffer, so the pages and the table
// that describes them stay. The table is not changed after it was made.
unsafe impl<O: PageBufOwner> Lessor for KBox<PageLoan<O>> {
    fn table(&self) -> BvecTable {
        let first = self.range.start >> PAGE_SHIFT;
        let table = match &self.buf {
            Some(buf) => buf.table.get(first..).unwrap_or(&[]),
            None => &[],
        };

        BvecTable {
            bvec: table.as_ptr(),
            nr: table.len() as u32,
            skip: (self.range.start & (PAGE_SIZE - 1)) as u32,
            len: self.range.end - self.range.start,
            dir: self.dir,
        }
    }

    fn ended(self) {
        // The drop gives the buffer back.
    }
}

#[cfg(CONFIG_RUST_IO_URING_KUNIT_TEST)]
#[macros::kunit_tests(rust_io_uring_page_buf)]
mod tests {
    use super::*;
    use crate::{
        new_mutex,
        sync::{
            Arc,
            Mutex, //
        },
    };

    struct Shelf(Arc<Mutex<Option<PageBuf>>>);

    impl PageBufOwner for Shelf {
        fn returned(self, buf: PageBuf) {
            assert!(self.0.lock().replace(buf).is_none());
        }
    }

    fn shelf() -> Result<Arc<Mutex<Option<PageBuf>>>> {
        Arc::pin_init(new_mutex!(None), GFP_KERNEL)
    }

    #[test]
    fn table_describes_the_range() -> Result {
        let place = shelf()?;
        let buf = PageBuf::new(4, GFP_KERNEL)?;
        assert_eq!(buf.len(), 4 * PAGE_SIZE);
        let range = PAGE_SIZE + 5..3 * PAGE_SIZE;
        let second = buf.pages[1].as_ptr();
        let loan = PageLoan::new(
            buf,
            range,
            Direction::Dest,
            Shelf(place.clone()),
            GFP_KERNEL,
        )?;
        let table = loan.table();

        assert_eq!((table.nr, table.skip), (3, 5));
        assert_eq!(table.len, 2 * PAGE_SIZE - 5);
        // SAFETY: The loan exists, so its table does.
        assert_eq!(unsafe { (*table.bvec).bv_page }, second);
        assert!(place.lock().is_none());
        loan.ended();
        assert!(place.lock().is_some());
        Ok(())
    }

    #[test]
    fn bad_ranges_give_the_buffer_back() -> Result {
        let place = shelf()?;

        assert_eq!(PageBuf::new(0, GFP_KERNEL).err(), Some(EINVAL));
        for range in [0..0, 1..0, 0..PAGE_SIZE + 1, PAGE_SIZE..PAGE_SIZE + 1] {
            let buf = PageBuf::new(1, GFP_KERNEL)?;
            let loan = PageLoan::new(
                buf,
                range,
                Direction::Source,
                Shelf(place.clone()),
                GFP_KERNEL,
            );
            assert_eq!(loan.err(), Some(EINVAL));
            assert!(place.lock().take().is_some());
        }
        Ok(())
    }
}
