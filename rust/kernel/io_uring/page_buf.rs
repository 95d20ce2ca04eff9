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
    prelude::*, //
};
use core::ops::Range;

/// A buffer of whole pages.
///
/// Whoever has the value is the only one who can use the memory. To lend it means to give it away,
/// into a [`PageLoan`]; so the driver can not touch it until it comes back.
///
/// # Examples
///
/// ```
/// use kernel::{
///     io_uring::PageBuf,
///     page::PAGE_SIZE, //
/// };
///
/// let buf = PageBuf::new(4, GFP_KERNEL)?;
/// assert_eq!(buf.len(), 4 * PAGE_SIZE);
/// assert_eq!(PageBuf::new(0, GFP_KERNEL).err(), Some(EINVAL));
/// # Ok::<(), Error>(())
/// ```
///
/// # Invariants
///
/// `table` has one entry for each of `pages`, in their order, that describes all of the page.
pub struct PageBuf {
    pages: KVVec<Page>,
    table: KVVec<bindings::bio_vec>,
}

// SAFETY: The table only points to pages that the value owns, which are not bound to a thread.
unsafe impl Send for PageBuf {}
// SAFETY: Through a shared reference the memory is only read.
unsafe impl Sync for PageBuf {}

impl PageBuf {
    /// Allocates a buffer of `nr_pages` pages, filled with zeroes.
    ///
    /// Fails with `ENOMEM`, and with `EINVAL` for a buffer without pages. The number may come from
    /// user space: no value makes the kernel warn.
    ///
    /// # Context
    ///
    /// May sleep if `flags` allow that. The buffer must be dropped where one may sleep.
    pub fn new(nr_pages: usize, flags: Flags) -> Result<Self> {
        if nr_pages == 0 {
            return Err(EINVAL);
        }
        let flags = flags | __GFP_NOWARN;
        let mut pages = KVVec::with_capacity(nr_pages, flags)?;
        let mut table = KVVec::with_capacity(nr_pages, flags)?;

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

    /// Returns the length in bytes. A buffer is never empty. Any context.
    #[expect(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.pages.len() << PAGE_SHIFT
    }

    /// Calls `copy` for each page that has a part of the `len` bytes from `offset` on: with the
    /// page, where in it the part starts, and how long it is. Stops when it copies less than that.
    /// Returns how many bytes were copied in all.
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
    /// room for at the end of the buffer, or if the destination can not be written.
    ///
    /// # Context
    ///
    /// Process context; may sleep. Wraps C's `copy_page_to_iter()`.
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
    /// # Context
    ///
    /// Process context; may sleep. Wraps C's `copy_page_from_iter()`.
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

/// A [`PageBuf`] of which a part is lent, or about to be, in one direction.
///
/// The [`Lessor`] is the box with it, which is what [`new`](Self::new) returns.
///
/// # Invariants
///
/// `buf` and `owner` are there until the value is dropped. `range` is not empty, and inside the
/// buffer.
pub struct PageLoan<O: PageBufOwner> {
    buf: Option<PageBuf>,
    owner: Option<O>,
    range: Range<usize>,
    dir: Direction,
}

impl<O: PageBufOwner> PageLoan<O> {
    /// Prepares to lend the bytes `range` of `buf`, which goes back to `owner` afterwards.
    ///
    /// Fails with `EINVAL` if the range is empty or not inside the buffer, and with `ENOMEM`. The
    /// buffer goes back at once then.
    ///
    /// # Context
    ///
    /// May sleep if `flags` allow that.
    pub fn new(
        buf: PageBuf,
        range: Range<usize>,
        dir: Direction,
        owner: O,
        flags: Flags,
    ) -> Result<KBox<Self>> {
        let fits = range.start < range.end && range.end <= buf.len();
        // INVARIANT: Both are there. A loan whose range does not fit does not leave this function.
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

// SAFETY: While the loan exists, in its foreign form too, it owns the buffer, so the pages and the
// table that describes them stay. The table is not changed after it was made.
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
    fn bad_sizes_are_refused_in_silence() {
        assert_eq!(PageBuf::new(0, GFP_KERNEL).err(), Some(EINVAL));
        for nr_pages in [usize::MAX, usize::MAX / 16, usize::MAX / 64] {
            assert_eq!(PageBuf::new(nr_pages, GFP_KERNEL).err(), Some(ENOMEM));
        }
    }

    #[test]
    fn bad_ranges_give_the_buffer_back() -> Result {
        let place = shelf()?;

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
