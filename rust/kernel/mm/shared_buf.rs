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
    transmute::{
        AsBytes,
        FromBytes, //
    },
};
use core::{
    mem::{
        size_of,
        size_of_val,
        MaybeUninit, //
    },
    ptr::NonNull, //
};

const WORD: usize = size_of::<u64>();

/// A zeroed buffer that the kernel writes, and that user space may map and read.
///
/// The buffer gives out no references to its memory, as user space may look at it at any time. All
/// accesses are volatile, in words of 8 bytes where the alignment allows it. So a reader may see
/// parts of a value that is just being written, unless something else orders the two: a CQE, say.
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
/// let buf = SharedBuf::new(100)?;
/// assert_eq!(buf.len(), 100);
/// buf.write(8, &0x1122_3344_5566_7788u64)?;
/// buf.write(17, &[1u8, 2, 3])?;
/// assert_eq!(buf.read::<u64>(8)?, 0x1122_3344_5566_7788);
/// assert_eq!(buf.read::<[u8; 5]>(16)?, [0, 1, 2, 3, 0]);
/// assert_eq!(buf.write(98, &0u32), Err(EINVAL));
/// assert_eq!(buf.read::<u8>(100), Err(EINVAL));
/// # Ok::<(), Error>(())
/// ```
///
/// # Invariants
///
/// `start` points to `len` bytes of initialised memory from `vmalloc_user()`, or the same on a
/// certain node, which `self` owns.
pub struct SharedBuf {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: The memory may be used and freed by any thread.
unsafe impl Send for SharedBuf {}
// SAFETY: All accesses through a shared reference are volatile and of at most 8 bytes each, which
// the kernel's memory model allows to be concurrent, like `READ_ONCE()` and `WRITE_ONCE()`; on a
// 32-bit machine one of 8 bytes may be seen in halves. Any bytes are a value of what is read.
unsafe impl Sync for SharedBuf {}

impl SharedBuf {
    /// Allocates a buffer of `len` bytes, all zero. Fails with `ENOMEM`, and with `EINVAL` if `len`
    /// is 0.
    ///
    /// # Context
    ///
    /// Process context; may sleep. Wraps C's `vmalloc_user()`.
    pub fn new(len: usize) -> Result<Self> {
        Self::new_node(len, NumaNode::NO_NODE)
    }

    /// As [`Self::new`], if possible on the memory node `nid`.
    pub fn new_node(len: usize, nid: NumaNode) -> Result<Self> {
        if len == 0 {
            return Err(EINVAL);
        }
        // SAFETY: The function has no requirements but a size, and a node or none.
        let start = unsafe { bindings::vmalloc_user_node(len, nid.as_raw()) };
        // INVARIANT: The memory is zeroed, and ours.
        Ok(Self {
            start: NonNull::new(start.cast()).ok_or(ENOMEM)?,
            len,
        })
    }

    /// Returns the size of the buffer in bytes. Any context.
    #[expect(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns a pointer to `len` bytes at `offset`, or `EINVAL` if not all are in the buffer.
    fn at(&self, offset: usize, len: usize) -> Result<*mut u8> {
        let end = offset.checked_add(len).ok_or(EINVAL)?;
        if end > self.len {
            return Err(EINVAL);
        }
        Ok(self.start.as_ptr().wrapping_add(offset))
    }

    /// Copies `value` to `offset`, which is in bytes. Fails with `EINVAL` if it does not fit in.
    /// Any context.
    pub fn write<T: AsBytes>(&self, offset: usize, value: &T) -> Result {
        let len = size_of_val(value);
        let dst = self.at(offset, len)?;
        let src = core::ptr::from_ref(value).cast::<u8>();

        let mut at = 0;
        if dst.addr() % WORD == 0 {
            while at + WORD <= len {
                // SAFETY: `at()` returned a pointer to `len` bytes; this one is aligned. All bytes
                // of `value` are initialised.
                unsafe {
                    let word = src.add(at).cast::<u64>().read_unaligned();
                    dst.add(at).cast::<u64>().write_volatile(word);
                }
                at += WORD;
            }
        }
        while at < len {
            // SAFETY: As above; a byte needs no alignment.
            unsafe { dst.add(at).write_volatile(src.add(at).read()) };
            at += 1;
        }
        Ok(())
    }

    /// Returns a copy of what is at `offset`, which is in bytes. Fails with `EINVAL` if not all of
    /// it is in the buffer. Any context.
    pub fn read<T: FromBytes + Copy>(&self, offset: usize) -> Result<T> {
        let mut value = MaybeUninit::<T>::uninit();
        let len = size_of::<T>();
        let src = self.at(offset, len)?;
        let dst = value.as_mut_ptr().cast::<u8>();

        let mut at = 0;
        if src.addr() % WORD == 0 {
            while at + WORD <= len {
                // SAFETY: `at()` returned a pointer to `len` bytes; this one is aligned. `dst` has
                // room for a `T`.
                unsafe {
                    let word = src.add(at).cast::<u64>().read_volatile();
                    dst.add(at).cast::<u64>().write_unaligned(word);
                }
                at += WORD;
            }
        }
        while at < len {
            // SAFETY: As above; a byte needs no alignment.
            unsafe { dst.add(at).write(src.add(at).read_volatile()) };
            at += 1;
        }
        // SAFETY: All bytes were written, and any bytes are a valid `T`.
        Ok(unsafe { value.assume_init() })
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
