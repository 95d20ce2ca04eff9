// SPDX-License-Identifier: GPL-2.0

//! Kernel memory that user space can map for reading.
//!
//! C header: [`include/linux/vmalloc.h`](srctree/include/linux/vmalloc.h)

use crate::{
    alloc::NumaNode,
    bindings,
    error::to_result,
    mm::virt::VmaNew,
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
};
use core::ptr::NonNull;

/// A zeroed buffer that the kernel writes, and that user space may map and read.
///
/// The buffer gives out no references to its memory, as user space may look at it at any time. It
/// consists of words of 8 bytes, in the order of bytes of the machine, each of which is read and
/// written as a whole. Several words are not: who reads them while they are written may see some of
/// the old ones and some of the new ones, unless something else orders the two, a CQE, say. On a
/// 32-bit machine user space may even see half a word.
///
/// # Context
///
/// It must be dropped in process context, and may sleep then.
///
/// # Examples
///
/// ```
/// use kernel::mm::shared_buf::SharedBuf;
///
/// let buf = SharedBuf::new(40)?;
/// assert_eq!(buf.len(), 40);
/// buf.write(1, &[0x1122_3344_5566_7788, 2])?;
/// assert_eq!(buf.read::<3>(0)?, [0u64, 0x1122_3344_5566_7788, 2]);
/// assert_eq!(buf.write(4, &[3]), Ok(()));
/// assert_eq!(buf.write(4, &[4, 5]), Err(EINVAL));
/// assert_eq!(buf.read::<2>(3)?, [0u64, 3]);
/// assert_eq!(buf.read::<1>(5), Err(EINVAL));
/// assert_eq!(buf.read::<2>(usize::MAX), Err(EINVAL));
/// assert_eq!(SharedBuf::new(42).err(), Some(EINVAL));
/// # Ok::<(), Error>(())
/// ```
///
/// # Invariants
///
/// `start` points to `nr` words of initialised memory from `vmalloc_user()`, or the same on a
/// certain node, which `self` owns. The kernel accesses this memory only through `start`, and each
/// access is an atomic one of one of these words; user space can not write it.
pub struct SharedBuf {
    start: NonNull<Atomic<u64>>,
    nr: usize,
}

// SAFETY: The memory may be used and freed by any thread.
unsafe impl Send for SharedBuf {}
// SAFETY: By the type invariants all accesses are atomic, and those of the same memory are of the
// same word and so have the same size: they may be concurrent.
unsafe impl Sync for SharedBuf {}

impl SharedBuf {
    /// Allocates a buffer of `len` bytes, all zero. Fails with `ENOMEM`, and with `EINVAL` if `len`
    /// is 0 or not a multiple of 8.
    ///
    /// # Context
    ///
    /// Process context; may sleep. Wraps C's `vmalloc_user()`.
    pub fn new(len: usize) -> Result<Self> {
        Self::new_node(len, NumaNode::NO_NODE)
    }

    /// As [`Self::new`], if possible on the memory node `nid`.
    pub fn new_node(len: usize, nid: NumaNode) -> Result<Self> {
        if len == 0 || len % size_of::<u64>() != 0 {
            return Err(EINVAL);
        }
        // SAFETY: The function has no requirements but a size, and a node or none.
        let start = unsafe { bindings::vmalloc_user_node(len, nid.as_raw()) };
        // INVARIANT: The memory is zeroed, and ours. It is so many words, and aligned to a page.
        // Nobody else has a pointer to it, and `map()` only lets user space read it.
        Ok(Self {
            start: NonNull::new(start.cast()).ok_or(ENOMEM)?,
            nr: len / size_of::<u64>(),
        })
    }

    /// Returns the size of the buffer in bytes. Any context.
    #[expect(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.nr * size_of::<u64>()
    }

    /// Returns the `N` words from the one at `index` on, or `EINVAL` if not all are in the buffer.
    #[inline]
    fn words<const N: usize>(&self, index: usize) -> Result<&[Atomic<u64>; N]> {
        // No buffer has `usize::MAX` words, so this is the only comparison that is needed.
        if index.saturating_add(N) > self.nr {
            return Err(EINVAL);
        }
        // SAFETY: By the type invariants there are `nr` initialised words from `start` on, which
        // stay as long as `self`; they are aligned, and nobody accesses them but as atomic words.
        // It was just checked that these are among them.
        Ok(unsafe { &*self.start.as_ptr().add(index).cast::<[Atomic<u64>; N]>() })
    }

    /// Copies `words` into the buffer, from the word at `index` on. Fails with `EINVAL` if not all
    /// of them fit in, and writes none then.
    ///
    /// Any context. Wraps C's `atomic64_set()`, which orders nothing.
    #[inline]
    pub fn write<const N: usize>(&self, index: usize, words: &[u64; N]) -> Result {
        for (to, word) in self.words::<N>(index)?.iter().zip(words) {
            to.store(*word, Relaxed);
        }
        Ok(())
    }

    /// Returns a copy of `N` words of the buffer, from the one at `index` on. Fails with `EINVAL`
    /// if not all of them are in the buffer.
    ///
    /// Any context. Wraps C's `atomic64_read()`, which orders nothing.
    #[inline]
    pub fn read<const N: usize>(&self, index: usize) -> Result<[u64; N]> {
        let words = self.words::<N>(index)?;

        Ok(words.each_ref().map(|word| word.load(Relaxed)))
    }

    /// Maps the buffer, from its start, into the address space that `vma` is being set up in.
    ///
    /// User space can only ever read the mapping. It may outlive the buffer. Fails with `EPERM` if
    /// write access is asked for, with `EINVAL` if `vma` is larger than the buffer's pages, and
    /// with `ENOMEM`.
    ///
    /// # Context
    ///
    /// Process context, in a callback for `mmap(2)`; may sleep. Wraps C's `remap_vmalloc_range()`.
    pub fn map(&self, vma: &VmaNew) -> Result {
        vma.try_clear_maywrite().map_err(|_| EPERM)?;
        // SAFETY: The vma is being set up. The memory comes from `vmalloc_user()`; the function
        // checks the size, and the mapping holds references to the pages.
        to_result(unsafe {
            bindings::remap_vmalloc_range(vma.as_ptr(), self.start.as_ptr().cast(), 0)
        })
    }
}

impl Drop for SharedBuf {
    fn drop(&mut self) {
        // SAFETY: By the type invariant, the memory is ours.
        unsafe { bindings::vfree(self.start.as_ptr().cast()) };
    }
}
