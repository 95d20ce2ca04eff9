// SPDX-License-Identifier: GPL-2.0

//! What a driver can see of a request, and copying its data.
//!
//! C header: [`include/linux/blk-mq.h`](srctree/include/linux/blk-mq.h)

use super::{
    Op,
    RequestFlags, //
};
use crate::{
    bindings,
    block::SECTOR_SHIFT,
    iov::{
        IovIterDest,
        IovIterSource, //
    },
    page::PAGE_SIZE,
    types::Opaque,
    uaccess::UserPtr, //
};
use core::{
    cmp::min,
    marker::PhantomData,
    mem::MaybeUninit, //
};

/// What a driver can see of a request that it owns.
///
/// Both [`Request`] (shared) and [`OwnedRequest`] (exclusive) dereference to it. It is not
/// reference counted, so no reference to it can outlive the object that it was borrowed from.
///
/// # Context
///
/// All methods can be called in any context, unless they say otherwise. None allocates.
///
/// # Examples
///
/// A driver that serves reads and writes from a buffer of its own would look at this much.
///
/// ```
/// use kernel::block::mq::{
///     Op,
///     RequestView, //
/// };
///
/// /// Where in the device the request starts and ends, in bytes.
/// fn range(rq: &RequestView) -> Result<core::ops::Range<u64>> {
///     if !matches!(rq.op(), Op::Read | Op::Write) {
///         return Err(EOPNOTSUPP);
///     }
///     let start = rq.sector().checked_mul(512).ok_or(EINVAL)?;
///     let end = start.checked_add(rq.bytes().into()).ok_or(EINVAL)?;
///     Ok(start..end)
/// }
/// ```
///
/// # Invariants
///
/// `self.0` is a valid [`struct request`] that was started and is owned by the driver for as long
/// as a shared reference to `self` exists. So its fields that describe the I/O, its list of bios
/// and the bvecs of these do not change meanwhile.
///
/// [`Request`]: super::Request
/// [`OwnedRequest`]: super::OwnedRequest
/// [`struct request`]: srctree/include/linux/blk-mq.h
#[repr(transparent)]
pub struct RequestView(Opaque<bindings::request>);

// SAFETY: All methods take `&self` and only read fields that do not change while a reference
// exists, by the type invariants; they can be called from any thread.
unsafe impl Sync for RequestView {}

impl RequestView {
    /// Makes a view of a request.
    ///
    /// # Safety
    ///
    /// The type invariants must hold for `*rq` for all of `'a`.
    #[inline]
    pub(super) unsafe fn from_raw<'a>(rq: *const bindings::request) -> &'a Self {
        // INVARIANT: By the safety requirements of this function.
        // SAFETY: By the safety requirements of this function `rq` is valid for `'a`; `Self` is
        // transparent over an `Opaque` of it.
        unsafe { &*rq.cast() }
    }

    #[inline]
    pub(super) fn as_raw(&self) -> *mut bindings::request {
        self.0.get()
    }

    /// The operation and the flags, as C has them in one word.
    #[inline]
    fn opf(&self) -> bindings::blk_opf_t {
        // SAFETY: By the type invariants the request is valid and this field does not change.
        unsafe { (*self.as_raw()).cmd_flags }
    }

    /// What the request asks for. Wraps the C function `req_op()`.
    // Compared with one operation, this is one comparison. As a function it is a table of jumps,
    // which the compiler makes of it in big callers: 10 instructions.
    #[inline(always)]
    pub fn op(&self) -> Op {
        Op::from_opf(self.opf())
    }

    /// Whether the request transfers towards the device, as [`Op::is_write`].
    #[inline]
    pub fn is_write(&self) -> bool {
        self.opf() & 1 != 0
    }

    /// The flags of the request.
    #[inline]
    pub fn flags(&self) -> RequestFlags {
        RequestFlags::from_opf(self.opf())
    }

    /// The tag: the number of the request in its hardware queue, below the number of tags that
    /// the tag set was made with.
    #[inline]
    pub fn tag(&self) -> u32 {
        // SAFETY: By the type invariants the request is valid and was started, so it has a tag,
        // which is not negative and does not change.
        unsafe { (*self.as_raw()).tag as u32 }
    }

    /// The number of the hardware queue, below the number of queues that the tag set was made
    /// with.
    #[inline]
    pub fn hw_queue(&self) -> u32 {
        // SAFETY: By the type invariants the request is valid and was started, so `mq_hctx` points
        // to its hardware queue, which lives as long as the request is in flight.
        unsafe { (*(*self.as_raw()).mq_hctx).queue_num }
    }

    /// The first sector. Wraps the C function `blk_rq_pos()`.
    #[inline]
    pub fn sector(&self) -> u64 {
        // SAFETY: By the type invariants the request is valid and this field does not change.
        unsafe { (*self.as_raw()).__sector }
    }

    /// The number of sectors. Wraps the C function `blk_rq_sectors()`.
    #[inline]
    pub fn sectors(&self) -> u32 {
        self.bytes() >> SECTOR_SHIFT
    }

    /// The number of bytes. Wraps the C function `blk_rq_bytes()`.
    #[inline]
    pub fn bytes(&self) -> u32 {
        // SAFETY: By the type invariants the request is valid and this field does not change.
        unsafe { (*self.as_raw()).__data_len }
    }

    /// Whether the request has pages to transfer. Wraps the C function `blk_rq_has_data()`.
    #[inline]
    pub fn has_data(&self) -> bool {
        bio_has_data(self.first_bio())
    }

    #[inline]
    pub(super) fn first_bio(&self) -> *const bindings::bio {
        // SAFETY: By the type invariants the request is valid and this field does not change.
        unsafe { (*self.as_raw()).bio }
    }

    /// Whether the request has exactly one bio, with pages to transfer.
    #[inline]
    pub(super) fn has_single_bio(&self) -> bool {
        let bio = self.first_bio();

        // SAFETY: By the type invariants the bios are valid, and this field does not change for as
        // long as `self` is borrowed; `bio_has_data()` is false for a null pointer.
        bio_has_data(bio) && unsafe { (*bio).bi_next }.is_null()
    }

    /// The part of the first bio's table that has data of the request.
    ///
    /// # Safety
    ///
    /// The first bio must have data.
    #[inline]
    pub(super) unsafe fn first_table(&self) -> FirstTable {
        let bio = self.first_bio();
        // SAFETY: By the safety requirement there is a bio. By the type invariants it is valid, and
        // these fields do not change for as long as `self` is borrowed.
        let (iter, table) = unsafe { ((*bio).bi_iter, (*bio).bi_io_vec) };
        let start = Place {
            idx: iter.bi_idx,
            skip: iter.bi_offset,
            left: iter.bi_size,
        };

        FirstTable {
            // The bio may be a part of a bigger one, so it may start in the middle of the table.
            bvec: table.wrapping_add(iter.bi_idx as usize),
            // SAFETY: By the type invariants the request is live and its bvecs do not change. The
            // table of a bio that has data covers `bi_size` bytes from `bi_idx` and `bi_offset` on.
            nr: unsafe { start.count(table) },
            skip: iter.bi_offset,
        }
    }

    /// The data of the request, as physically contiguous ranges; each may be longer than a page.
    /// As `rq_for_each_bvec()` in C.
    #[inline]
    pub(super) fn bvecs(&self) -> Bvecs<'_> {
        // INVARIANT: The first bio of the request, at the place where it starts.
        Bvecs {
            bio: self.first_bio(),
            at: None,
            _rq: PhantomData,
        }
    }

    /// Copies data of the request to user memory of the current task: at most `len` bytes, from
    /// `offset` bytes into the request on.
    ///
    /// Returns the number of bytes copied: fewer than asked for if the data of the request ends
    /// before, or if the user memory can not be written. Only a request that transfers towards the
    /// device has data to give ([`Op::is_write`]); of any other nothing is copied.
    ///
    /// # Context
    ///
    /// Task context; may sleep on a page fault. Wraps the C functions `import_ubuf()` and
    /// `_copy_to_iter()`.
    pub fn copy_to_user(&self, offset: u32, user: UserPtr, len: usize) -> usize {
        let mut iter = MaybeUninit::uninit();
        match init_user_iter(&mut iter, bindings::ITER_DEST, user, len) {
            // SAFETY: `iter` is a valid destination, by its construction just now.
            Some(iter) => unsafe { self.copy_out(self.bvecs(), offset, iter) },
            None => 0,
        }
    }

    /// Copies user memory of the current task to the pages of the request: at most `len` bytes, to
    /// `offset` bytes into the request.
    ///
    /// Returns the number of bytes copied: fewer than asked for if the pages of the request end
    /// before, or if the user memory can not be read. Only a request that transfers from the device
    /// takes data (the opposite of [`Op::is_write`]); to any other nothing is copied.
    ///
    /// # Context
    ///
    /// Task context; may sleep on a page fault. Wraps the C functions `import_ubuf()` and
    /// `_copy_from_iter()`.
    pub fn copy_from_user(&self, offset: u32, user: UserPtr, len: usize) -> usize {
        let mut iter = MaybeUninit::uninit();
        match init_user_iter(&mut iter, bindings::ITER_SOURCE, user, len) {
            // SAFETY: `iter` is a valid source, by its construction just now.
            Some(iter) => unsafe { self.copy_in(self.bvecs(), offset, iter) },
            None => 0,
        }
    }

    /// Copies data of the request to `iter`, from `offset` bytes into the request on.
    ///
    /// As [`Self::copy_to_user`], for the rest of `iter` or of the request, whichever is shorter.
    pub fn copy_to_iter(&self, offset: u32, iter: &mut IovIterDest<'_>) -> usize {
        // SAFETY: By the type invariants of `IovIterDest` this is a valid destination.
        unsafe { self.copy_out(self.bvecs(), offset, iter.as_raw()) }
    }

    /// Copies data of `iter` to the pages of the request, to `offset` bytes into the request.
    ///
    /// As [`Self::copy_from_user`], for the rest of `iter` or of the request, whichever is shorter.
    pub fn copy_from_iter(&self, offset: u32, iter: &mut IovIterSource<'_>) -> usize {
        // SAFETY: By the type invariants of `IovIterSource` this is a valid source.
        unsafe { self.copy_in(self.bvecs(), offset, iter.as_raw()) }
    }

    /// Copies from `bvecs` to `iter`, from `offset` bytes on; nothing if the request transfers from
    /// the device.
    ///
    /// # Safety
    ///
    /// `iter` must be valid, with the direction `ITER_DEST`. `bvecs` must be of pages of this
    /// request: of its data or of its metadata.
    #[inline]
    pub(super) unsafe fn copy_out(
        &self,
        bvecs: impl Iterator<Item = bindings::bio_vec>,
        offset: u32,
        iter: *mut bindings::iov_iter,
    ) -> usize {
        if !self.is_write() {
            return 0;
        }
        // No usercopy checks: see `for_each_chunk()`.
        let copy = |addr: *mut u8, len| {
            // SAFETY: `iter` is valid by the safety requirements of this function, and `addr` is
            // mapped for `len` bytes by the contract of `for_each_chunk()`.
            unsafe { bindings::_copy_to_iter(addr.cast(), len, iter) }
        };
        // SAFETY: By the type invariants the pages of the request stay allocated while the driver
        // owns it.
        unsafe { for_each_chunk(bvecs, offset, copy) }
    }

    /// Copies from `iter` to `bvecs`, from `offset` bytes on; nothing if the request transfers
    /// towards the device.
    ///
    /// # Safety
    ///
    /// As [`Self::copy_out`], but with the direction `ITER_SOURCE`.
    #[inline]
    pub(super) unsafe fn copy_in(
        &self,
        bvecs: impl Iterator<Item = bindings::bio_vec>,
        offset: u32,
        iter: *mut bindings::iov_iter,
    ) -> usize {
        if self.is_write() {
            return 0;
        }
        // No usercopy checks: see `for_each_chunk()`.
        let copy = |addr: *mut u8, len| {
            // SAFETY: `iter` is valid by the safety requirements of this function, and `addr` is
            // mapped for `len` bytes by the contract of `for_each_chunk()`.
            unsafe { bindings::_copy_from_iter(addr.cast(), len, iter) }
        };
        // SAFETY: By the type invariants the pages of the request stay allocated while the driver
        // owns it.
        unsafe { for_each_chunk(bvecs, offset, copy) }
    }
}

/// Maps `bvecs` from `offset` bytes on, a page or a part of one at a time, and calls `copy` with
/// address and length, until it copies less than that length. Returns how many bytes it copied in
/// all.
///
/// `copy` is not to check the address as a source or destination of user copies, which
/// `copy_to_iter()` does and `_copy_to_iter()` does not: the pages may come from slab caches that
/// are not made for that, and the lengths, which come from the block layer, are right.
///
/// # Safety
///
/// The pages of `bvecs` must stay allocated meanwhile.
#[inline]
unsafe fn for_each_chunk(
    bvecs: impl Iterator<Item = bindings::bio_vec>,
    offset: u32,
    mut copy: impl FnMut(*mut u8, usize) -> usize,
) -> usize {
    let mut skip = offset as usize;
    let mut done = 0;

    for bv in bvecs {
        let len = bv.bv_len as usize;
        if skip >= len {
            skip -= len;
            continue;
        }

        let mut pos = bv.bv_offset as usize + skip;
        let end = bv.bv_offset as usize + len;
        skip = 0;
        while pos < end {
            let chunk = min(end - pos, PAGE_SIZE - pos % PAGE_SIZE);
            // SAFETY: The pages of a bvec are contiguous, also in the memory map, and `pos` is
            // below its end.
            let page = unsafe { bv.bv_page.add(pos / PAGE_SIZE) };
            // SAFETY: By the safety requirement the page stays allocated. The mapping is undone
            // below, in reverse order of any that `copy` might make.
            let addr = unsafe { bindings::kmap_local_page(page) }
                .cast::<u8>()
                .wrapping_add(pos % PAGE_SIZE);
            let copied = copy(addr, chunk);
            // SAFETY: `addr` is inside the page that was mapped just above.
            unsafe { bindings::kunmap_local(addr.cast()) };

            done += copied;
            if copied < chunk {
                return done;
            }
            pos += chunk;
        }
    }

    done
}

/// What [`RequestView::first_table`] returns.
pub(super) struct FirstTable {
    /// The first entry that has data.
    pub(super) bvec: *const bindings::bio_vec,
    /// The number of entries that have data.
    pub(super) nr: usize,
    /// Bytes of the first entry that are not data of the request.
    pub(super) skip: u32,
}

// No references to a `struct bio` are made here: of a bio in flight some fields do change, its
// status and its reference counts for example.

/// As the C function `bio_has_data()`.
#[inline]
fn bio_has_data(bio: *const bindings::bio) -> bool {
    if bio.is_null() {
        return false;
    }
    // SAFETY: Only called for the bios of a request that a `RequestView` is borrowed of: they are
    // valid, and these fields do not change.
    let (size, opf) = unsafe { ((*bio).bi_iter.bi_size, (*bio).bi_opf) };

    size != 0 && Op::from_opf(opf).has_pages()
}

/// Makes `iter` one over `len` bytes of user memory of the current task, or returns [`None`] if the
/// range is not in user space at all.
#[inline]
fn init_user_iter(
    iter: &mut MaybeUninit<bindings::iov_iter>,
    direction: u32,
    user: UserPtr,
    len: usize,
) -> Option<&mut bindings::iov_iter> {
    // SAFETY: `iter` is valid for writes; the address is checked by the function.
    let ret = unsafe {
        bindings::import_ubuf(
            direction as crate::ffi::c_int,
            user.as_mut_ptr(),
            len,
            iter.as_mut_ptr(),
        )
    };
    if ret < 0 {
        return None;
    }
    // SAFETY: `import_ubuf()` succeeded, so it has initialized `iter`.
    Some(unsafe { iter.assume_init_mut() })
}

/// Iterator over the bvecs of a request, over all its bios.
///
/// # Invariants
///
/// `bio` is null or points to a bio of a request that is borrowed for `'a`. `at` is the rest of
/// that bio that was not yet returned; [`None`] stands for all of it.
pub(super) struct Bvecs<'a> {
    bio: *const bindings::bio,
    at: Option<Place>,
    _rq: PhantomData<&'a RequestView>,
}

/// A place in a table of bvecs: the fields of the C `struct bvec_iter` that matter here.
#[derive(Clone, Copy)]
pub(super) struct Place {
    idx: u32,
    skip: u32,
    left: u32,
}

impl From<bindings::bvec_iter> for Place {
    #[inline]
    fn from(iter: bindings::bvec_iter) -> Self {
        Self {
            idx: iter.bi_idx,
            skip: iter.bi_offset,
            left: iter.bi_size,
        }
    }
}

impl Place {
    /// Where the data of a bio starts, with all of it left.
    ///
    /// # Safety
    ///
    /// `bio` must be that of a live request.
    #[inline]
    unsafe fn start_of(bio: *const bindings::bio) -> Self {
        // SAFETY: By the safety requirement the bio is valid, and this field does not change.
        let all = Self::from(unsafe { (*bio).bi_iter });
        if bio_has_data(bio) {
            all
        } else {
            Self { left: 0, ..all }
        }
    }

    /// The bvec at this place, and the place behind it; [`None`] at the end.
    ///
    /// # Safety
    ///
    /// `table` must be that of a bio or an integrity payload of a live request. It must cover
    /// `left` bytes from `idx` and `skip` on, and not change meanwhile.
    #[inline]
    pub(super) unsafe fn take(
        self,
        table: *const bindings::bio_vec,
    ) -> Option<(bindings::bio_vec, Self)> {
        if self.left == 0 {
            return None;
        }
        // SAFETY: By the safety requirement, as `left` is not 0, `idx` is in the table.
        let bv = unsafe { *table.add(self.idx as usize) };
        let len = min(bv.bv_len - self.skip, self.left);
        let taken = bindings::bio_vec {
            bv_page: bv.bv_page,
            bv_len: len,
            bv_offset: bv.bv_offset + self.skip,
        };
        // If anything is left, then this bvec was used up to its end.
        let behind = Self {
            idx: self.idx + 1,
            skip: 0,
            left: self.left - len,
        };
        Some((taken, behind))
    }

    /// The number of entries of a bio's `table` from here on that have data.
    ///
    /// # Safety
    ///
    /// `table` must be that of the bio of a live request. It must cover `left` bytes from `idx` and
    /// `skip` on, and not change meanwhile.
    #[inline]
    unsafe fn count(self, table: *const bindings::bio_vec) -> usize {
        let mut entry = table.wrapping_add(self.idx as usize);
        // From the start of the entry.
        let mut left = match self.left {
            0 => 0,
            left => u64::from(left) + u64::from(self.skip),
        };
        let mut nr = 0;

        while left > 0 {
            // SAFETY: By the safety requirement: `left` bytes from this entry on are still to come.
            left = left.saturating_sub(unsafe { (*entry).bv_len }.into());
            entry = entry.wrapping_add(1);
            nr += 1;
        }
        nr
    }
}

impl Iterator for Bvecs<'_> {
    type Item = bindings::bio_vec;

    /// The same as by walking, but reads only the lengths.
    #[inline]
    fn count(self) -> usize {
        let Self {
            mut bio, mut at, ..
        } = self;
        let mut nr = 0;

        while !bio.is_null() {
            // SAFETY: By the type invariants this is the bio of a live request, as is what follows
            // a bio, and the place is where the rest of its data starts.
            unsafe {
                let place = at.take().unwrap_or_else(|| Place::start_of(bio));
                nr += place.count((*bio).bi_io_vec);
                bio = (*bio).bi_next;
            }
        }
        nr
    }

    #[inline]
    fn next(&mut self) -> Option<bindings::bio_vec> {
        loop {
            let bio = self.bio;
            if bio.is_null() {
                return None;
            }
            let at = match self.at {
                Some(at) => at,
                // SAFETY: By the type invariants this is the bio of a live request.
                None => unsafe { Place::start_of(bio) },
            };

            // SAFETY: By the type invariants the bio is valid. The table of a bio that has data
            // covers `bi_size` bytes from `bi_idx` and `bi_offset` on, and `at.left` of these are
            // still to come. Neither table nor list change.
            unsafe {
                if let Some((bv, behind)) = at.take((*bio).bi_io_vec) {
                    // INVARIANT: What is behind the bvec that is returned is the rest of the bio.
                    self.at = Some(behind);
                    return Some(bv);
                }
                // INVARIANT: The next bio, from its start; or the end of the list.
                self.bio = (*bio).bi_next;
                self.at = None;
            }
        }
    }
}

#[cfg(CONFIG_RUST_BLOCK_KUNIT_TEST)]
#[macros::kunit_tests(rust_kernel_block_mq_data)]
mod tests {
    use super::*;

    fn bvec(len: u32, offset: u32) -> bindings::bio_vec {
        bindings::bio_vec {
            bv_page: core::ptr::null_mut(),
            bv_len: len,
            bv_offset: offset,
        }
    }

    fn bio(table: &mut [bindings::bio_vec], idx: u32, skip: u32, size: u32) -> bindings::bio {
        let mut bio: bindings::bio = pin_init::zeroed();

        bio.bi_opf = bindings::req_op_REQ_OP_WRITE;
        bio.bi_io_vec = table.as_mut_ptr();
        bio.bi_iter.bi_idx = idx;
        bio.bi_iter.bi_offset = skip;
        bio.bi_iter.bi_size = size;
        bio
    }

    fn walk(bio: &bindings::bio, mut check: impl FnMut(usize, u32, u32)) -> usize {
        // INVARIANT: `bio` and what follows it lives in the test function.
        let bvecs = Bvecs {
            bio,
            at: None,
            _rq: PhantomData,
        };
        let mut n = 0;

        for bv in bvecs {
            check(n, bv.bv_len, bv.bv_offset);
            n += 1;
        }
        assert_eq!(count(bio, 0), n);
        n
    }

    /// What is counted after `skip` were taken.
    fn count(bio: &bindings::bio, skip: usize) -> usize {
        // INVARIANT: `bio` and what follows it lives in the test function.
        let mut bvecs = Bvecs {
            bio,
            at: None,
            _rq: PhantomData,
        };

        for _ in 0..skip {
            bvecs.next();
        }
        bvecs.count()
    }

    #[test]
    fn a_bio_is_walked_from_its_middle_to_its_size() {
        let mut table = [bvec(4096, 0), bvec(8192, 512), bvec(4096, 0)];
        let bio = bio(&mut table, 1, 1024, 7168 + 512);
        let expected = [(7168, 1536), (512, 0)];

        let n = walk(&bio, |i, len, offset| {
            assert_eq!((len, offset), expected[i]);
        });
        assert_eq!(n, expected.len());
    }

    #[test]
    fn bvecs_are_counted_up_to_the_one_that_ends_the_data() {
        let mut table = [bvec(4096, 0), bvec(4096, 0), bvec(4096, 0)];

        assert_eq!(count(&bio(&mut table, 0, 0, 512), 0), 1);
        assert_eq!(count(&bio(&mut table, 0, 0, 4096), 0), 1);
        assert_eq!(count(&bio(&mut table, 0, 512, 4096), 0), 2);
        assert_eq!(count(&bio(&mut table, 1, 0, 8192), 0), 2);
        assert_eq!(count(&bio(&mut table, 0, 4095, 4096 + 2), 0), 3);
        // The rest of a bio that was begun, and nothing after its end.
        assert_eq!(count(&bio(&mut table, 0, 4095, 4096 + 2), 1), 2);
        assert_eq!(count(&bio(&mut table, 0, 0, 4096), 2), 0);
    }

    #[test]
    fn all_bios_are_walked_and_empty_ones_skipped() {
        let mut table1 = [bvec(512, 0)];
        let mut table3 = [bvec(1024, 0), bvec(1024, 2048)];
        let mut bio1 = bio(&mut table1, 0, 0, 512);
        let mut bio2 = bio(&mut [], 0, 0, 4096);
        let bio3 = bio(&mut table3, 0, 0, 2048);
        let expected = [(512, 0), (1024, 0), (1024, 2048)];

        bio2.bi_opf = bindings::req_op_REQ_OP_DISCARD;
        bio2.bi_next = core::ptr::from_ref(&bio3).cast_mut();
        bio1.bi_next = core::ptr::from_ref(&bio2).cast_mut();

        let n = walk(&bio1, |i, len, offset| {
            assert_eq!((len, offset), expected[i]);
        });
        assert_eq!(n, expected.len());
    }
}
