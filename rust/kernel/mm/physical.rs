// SPDX-License-Identifier: GPL-2.0

//! Where something is in physical memory.
//!
//! This tells two pieces of memory from each other, and whether they are adjacent. It gives no
//! access to either, and keeps neither.
//!
//! C header: [`include/asm-generic/memory_model.h`](srctree/include/asm-generic/memory_model.h)

use crate::{
    bindings,
    page::{
        PAGE_SHIFT,
        PAGE_SIZE, //
    }, //
};

/// Which page it is: to be compared, not to be used.
///
/// Pages that are physically adjacent have adjacent numbers: it is the page's frame number.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct PageId(usize);

impl PageId {
    /// The number of a page. Any context. Wraps C's `page_to_pfn()`.
    ///
    /// # Safety
    ///
    /// `page` must be valid.
    // Public, because it depends on the configuration whether this crate has a use for it.
    #[inline]
    pub unsafe fn from_raw(page: *const bindings::page) -> Self {
        // SAFETY: By the safety requirements the page is valid.
        Self(unsafe { bindings::page_to_pfn(page) })
    }

    /// The page `nr` pages further. Any context.
    #[inline]
    pub const fn plus(self, nr: usize) -> Self {
        Self(self.0.wrapping_add(nr))
    }

    /// How many pages it is from `first` to this one, or [`None`] if this one is before. Any
    /// context.
    #[inline]
    pub const fn since(self, first: Self) -> Option<usize> {
        self.0.checked_sub(first.0)
    }
}

/// A piece of physically contiguous memory.
///
/// # Invariants
///
/// `offset` is less than [`PAGE_SIZE`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MemoryRange {
    page: PageId,
    offset: usize,
    len: usize,
}

impl MemoryRange {
    /// `len` bytes, from `offset` bytes behind the start of `page`. Any context.
    #[inline]
    pub const fn new(page: PageId, offset: usize, len: usize) -> Self {
        // INVARIANT: It is the rest of a division by `PAGE_SIZE`.
        Self {
            page: page.plus(offset >> PAGE_SHIFT),
            offset: offset % PAGE_SIZE,
            len,
        }
    }

    /// The first page. Any context.
    #[inline]
    pub const fn page(&self) -> PageId {
        self.page
    }

    /// Where in the first page it starts, in bytes. Any context.
    #[inline]
    pub const fn offset(&self) -> usize {
        self.offset
    }

    /// Its length in bytes. Any context.
    #[inline]
    #[expect(clippy::len_without_is_empty)]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// How many pages it touches. Any context.
    #[inline]
    pub const fn pages(&self) -> usize {
        // No overflow: memory is not that large.
        (self
            .offset
            .wrapping_add(self.len)
            .wrapping_add(PAGE_SIZE - 1))
            >> PAGE_SHIFT
    }
}

#[macros::kunit_tests(rust_mm_physical)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let page = PageId(1000);
        let range = MemoryRange::new(page, PAGE_SIZE + 512, PAGE_SIZE);
        assert_eq!(range.page(), PageId(1001));
        assert_eq!(range.offset(), 512);
        assert_eq!(range.pages(), 2);
        assert_eq!(MemoryRange::new(page, 0, PAGE_SIZE).pages(), 1);
        assert_eq!(MemoryRange::new(page, 0, PAGE_SIZE + 1).pages(), 2);
        assert_eq!(page.plus(3).since(page), Some(3));
        assert_eq!(page.since(page.plus(1)), None);
    }
}
