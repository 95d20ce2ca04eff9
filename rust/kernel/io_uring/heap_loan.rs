// SPDX-License-Identifier: GPL-2.0

//! Memory of `kmalloc()` that is lent to fused commands.

use super::{
    BvecTable,
    Direction,
    Lessor, //
};
use crate::{
    alloc::Flags,
    bindings,
    page::PAGE_SIZE,
    prelude::*, //
};

/// Bytes of a [`KVec`] that are lent, or about to be, in one direction, as file systems have the
/// block layer write copies of metadata that are on the heap.
///
/// The pages of such memory have no references that keep them: it is free when its owner says so,
/// and then there must not be any. Who borrows it must not take some, or give them back before the
/// lease ends. So that this can be tested, the driver is told how many are left.
///
/// The [`Lessor`] is the box with it, which is what [`new`](Self::new) returns.
///
/// # Invariants
///
/// `table` describes all of `bytes`, which are not empty.
pub struct HeapLoan<F: FnOnce(i32) + Send + 'static> {
    bytes: KVec<u8>,
    table: KVec<bindings::bio_vec>,
    dir: Direction,
    /// References on the pages before these are lent.
    references: i32,
    ended: F,
}

// SAFETY: The table only points to pages of memory that the value owns, which is not bound to a
// thread, and `F` is `Send`.
unsafe impl<F: FnOnce(i32) + Send + 'static> Send for HeapLoan<F> {}

impl<F: FnOnce(i32) + Send + 'static> HeapLoan<F> {
    /// Prepares to lend `bytes`. When the last secondary is done with them, `ended` is told how
    /// many references were left on their pages, and they are freed; or they leak, if there were
    /// some. If the lease does not come about, they are freed, and `ended` is not called.
    ///
    /// Fails with `EINVAL` if there are none, and with `ENOMEM`.
    ///
    /// # Context
    ///
    /// May sleep if `flags` allow that. `ended` is called in task context, possibly with the ring's
    /// `uring_lock` held.
    pub fn new(bytes: KVec<u8>, dir: Direction, ended: F, flags: Flags) -> Result<KBox<Self>> {
        let mut table = KVec::new();

        if bytes.is_empty() {
            return Err(EINVAL);
        }
        // An entry for each part of a page, which is more than there need to be.
        let mut left = &bytes[..];
        while !left.is_empty() {
            let offset = left.as_ptr().addr() % PAGE_SIZE;
            let (part, rest) = left.split_at(left.len().min(PAGE_SIZE - offset));
            let entry = bindings::bio_vec {
                // SAFETY: This is memory of `kmalloc()`, which is mapped by all of its pages.
                bv_page: unsafe { bindings::virt_to_page(part.as_ptr().cast()) },
                bv_len: part.len() as u32,
                bv_offset: offset as u32,
            };

            table.push(entry, flags)?;
            left = rest;
        }
        // INVARIANT: The loop has gone over all of the bytes, which do not move with the vector.
        let mut loan = KBox::new(
            Self {
                bytes,
                table,
                dir,
                references: 0,
                ended,
            },
            flags,
        )?;
        loan.references = loan.references_now();
        Ok(loan)
    }

    /// References on all of the pages.
    fn references_now(&self) -> i32 {
        let of = |entry: &bindings::bio_vec| {
            // SAFETY: The memory exists, and so does its page.
            unsafe { bindings::page_ref_count(entry.bv_page) }
        };

        self.table.iter().map(of).sum()
    }
}

// SAFETY: While the loan exists, in its foreign form too, it owns the memory and the table, and
// nobody looks at the memory or changes the table.
unsafe impl<F: FnOnce(i32) + Send + 'static> Lessor for KBox<HeapLoan<F>> {
    fn table(&self) -> BvecTable {
        BvecTable {
            bvec: self.table.as_ptr(),
            nr: self.table.len() as u32,
            skip: 0,
            len: self.bytes.len(),
            dir: self.dir,
        }
    }

    fn ended(self) {
        let left = self.references_now() - self.references;
        let HeapLoan { bytes, ended, .. } = KBox::into_inner(self);

        if left != 0 {
            // Who has them will give them back, and must not meet somebody else's page.
            core::mem::forget(bytes);
        }
        ended(left);
    }
}

#[cfg(CONFIG_RUST_IO_URING_KUNIT_TEST)]
#[macros::kunit_tests(rust_io_uring_heap_loan)]
mod tests {
    use super::*;
    use crate::sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc, //
    };

    fn memory(len: usize) -> Result<KVec<u8>> {
        let mut bytes = KVec::new();
        bytes.resize(len, 7, GFP_KERNEL)?;
        Ok(bytes)
    }

    #[test]
    fn references_that_are_left_are_told() -> Result {
        for len in [1, 1024, PAGE_SIZE + 1, 8 * PAGE_SIZE] {
            for keeps in [false, true] {
                let left = Arc::new(Atomic::new(-1), GFP_KERNEL)?;
                let told = left.clone();
                let ended = move |left| told.store(left, Relaxed);
                let loan = HeapLoan::new(memory(len)?, Direction::Source, ended, GFP_KERNEL)?;
                let table = loan.table();

                assert_eq!(table.len, len);
                // SAFETY: The loan exists, and so does its table.
                let entries = unsafe { core::slice::from_raw_parts(table.bvec, table.nr as usize) };
                let sum: u32 = entries.iter().map(|entry| entry.bv_len).sum();
                assert_eq!(sum as usize, len);
                if keeps {
                    // SAFETY: The page exists. It is not freed any more, as the memory leaks.
                    unsafe { bindings::page_ref_inc(entries[0].bv_page) };
                }
                assert_eq!(left.load(Relaxed), -1);
                loan.ended();
                assert_eq!(left.load(Relaxed), i32::from(keeps));
            }
        }
        let none = HeapLoan::new(KVec::new(), Direction::Dest, |_| (), GFP_KERNEL);
        assert_eq!(none.err(), Some(EINVAL));
        Ok(())
    }
}
