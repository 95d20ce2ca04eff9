// SPDX-License-Identifier: GPL-2.0

//! Pages of user space that are pinned for long.
//!
//! C header: [`include/linux/mm.h`](srctree/include/linux/mm.h)

use super::physical::PageId;
use crate::{
    bindings,
    capability::{
        capable,
        Capability, //
    },
    page::{
        PAGE_SHIFT,
        PAGE_SIZE, //
    },
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
    uaccess::UserPtr, //
};
use core::{
    ptr::{
        self,
        NonNull, //
    },
    slice, //
};

/// How many pages are pinned at once: a page full of pointers.
const BATCH: usize = PAGE_SIZE / size_of::<*mut bindings::page>();

/// What pinned pages are used for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum PinAccess {
    /// They are only read. Memory that user space can not write may be pinned.
    Read,
    /// They may be written.
    Write,
}

/// Pages that count against `RLIMIT_MEMLOCK` of a user, together with those that io_uring pins.
/// They are not counted in the process, which may end before they are unpinned.
///
/// # Invariants
///
/// `nr` pages are counted in `user`, to which this has a reference. [`None`] is somebody who may
/// lock any number of pages.
struct LockedPages {
    user: Option<NonNull<bindings::user_struct>>,
    nr: usize,
}

// SAFETY: A `user_struct` has its own reference count and may be given up by any thread.
unsafe impl Send for LockedPages {}
// SAFETY: There are no methods that change anything through a shared reference.
unsafe impl Sync for LockedPages {}

impl LockedPages {
    /// No pages, of the current user.
    fn new() -> Self {
        let user = if capable(Capability::IPC_LOCK) {
            None
        } else {
            // SAFETY: The function has no requirements in task context. It takes a reference.
            NonNull::new(unsafe { bindings::get_current_user() })
        };
        // INVARIANT: Nothing is counted, and the reference is ours.
        Self { user, nr: 0 }
    }

    /// The pages that `user` has locked.
    fn locked_vm(user: &NonNull<bindings::user_struct>) -> &Atomic<isize> {
        // SAFETY: By the type invariants the structure is live, as long as its reference is. The
        // counter is an `atomic_long_t`, which is a `long` that is accessed atomically only.
        unsafe { Atomic::from_ptr((&raw mut (*user.as_ptr()).locked_vm).cast()) }
    }

    /// Counts `more` pages. Fails with [`ENOMEM`] if the limit does not allow that.
    fn add(&mut self, more: usize) -> Result {
        if let Some(user) = &self.user {
            // SAFETY: The function has no requirements in task context.
            let limit = unsafe { bindings::rlimit(bindings::RLIMIT_MEMLOCK) } as usize;
            let limit = isize::try_from(limit >> PAGE_SHIFT).unwrap_or(isize::MAX);
            let more = isize::try_from(more)?;
            let count = Self::locked_vm(user);
            let mut old = count.load(Relaxed);
            loop {
                let new = old.checked_add(more).ok_or(ENOMEM)?;
                if new > limit {
                    return Err(ENOMEM);
                }
                match count.cmpxchg(old, new, Relaxed) {
                    Ok(_) => break,
                    Err(now) => old = now,
                }
            }
        }
        // INVARIANT: They were just counted, if anybody does.
        self.nr += more;
        Ok(())
    }
}

impl Drop for LockedPages {
    fn drop(&mut self) {
        if let Some(user) = self.user {
            // By the type invariants that many were counted, so the count stays positive and `nr`
            // is not larger than `isize::MAX`.
            let _ = Self::locked_vm(&user).fetch_sub(self.nr as isize, Relaxed);
            // SAFETY: By the type invariants the reference is ours.
            unsafe { bindings::free_uid(user.as_ptr()) };
        }
    }
}

/// Physically contiguous pages.
struct Run {
    first: NonNull<bindings::page>,
    id: PageId,
    nr: usize,
}

/// Pages of user space that stay where they are until this is dropped, also when the process is
/// gone.
///
/// They count against `RLIMIT_MEMLOCK` of the user who pinned them, unless that has `CAP_IPC_LOCK`.
/// A page that is part of a larger folio counts as all of the folio, because all of it is kept.
///
/// # Context
///
/// It must be dropped in process context, and may sleep then.
///
/// # Invariants
///
/// Each page of `runs` was pinned once by `pin_user_pages_fast()`, and `self` owns that pin. `nr`
/// is the sum of the pages of `runs`, which are in the order of the addresses of user space; a run
/// is as long as can be. A page that user space has mapped twice was pinned twice, and is in two
/// runs.
pub struct PinnedPages {
    runs: KVVec<Run>,
    nr: usize,
    locked: LockedPages,
}

// SAFETY: The pins may be given up by any thread; nothing else is done with the pages.
unsafe impl Send for PinnedPages {}
// SAFETY: There are no methods that change anything through a shared reference.
unsafe impl Sync for PinnedPages {}

impl PinnedPages {
    /// Pins `nr` pages of the current process, from the address `start` on.
    ///
    /// Fails with [`ESRCH`] if the current task has no address space (any more), with [`EINVAL`] if
    /// `nr` is 0, `start` is not that of a page or the end is beyond the
    /// end of the address space, with [`ENOMEM`] if the user may not lock so many pages, with
    /// [`EFAULT`] if only some could be pinned, and as `pin_user_pages_fast()` if none could.
    ///
    /// # Context
    ///
    /// Task context, with the address space of the process; sleeps. Takes the `mmap_lock`. Wraps
    /// C's `pin_user_pages_fast()` with `FOLL_LONGTERM`.
    pub fn new(start: UserPtr, nr: usize, access: PinAccess) -> Result<Self> {
        let start = start.as_const_ptr().addr();
        let fits = nr
            .checked_mul(PAGE_SIZE)
            .and_then(|len| start.checked_add(len))
            .is_some();
        if nr == 0 || start % PAGE_SIZE != 0 || !fits {
            return Err(EINVAL);
        }
        let flags = bindings::FOLL_LONGTERM
            | match access {
                PinAccess::Read => 0,
                PinAccess::Write => bindings::FOLL_WRITE,
            };

        // In a file's release this may be a task that has given its address space up.
        if current!().mm().is_none() {
            return Err(ESRCH);
        }
        // INVARIANT: There are no pages.
        let mut pinned = Self {
            runs: KVVec::new(),
            nr: 0,
            locked: LockedPages::new(),
        };
        // Before anything is pinned, so that nobody pins more than allowed even for a moment.
        pinned.locked.add(nr)?;
        let mut batch = KVec::from_elem(ptr::null_mut(), BATCH.min(nr), GFP_KERNEL)?;
        // The pages of all folios.
        let mut weight = 0usize;
        let mut last_folio = ptr::null_mut();

        while pinned.nr < nr {
            let want = batch.len().min(nr - pinned.nr);
            let at = start + pinned.nr * PAGE_SIZE;
            // SAFETY: There is room for `want` pointers.
            let got = unsafe {
                bindings::pin_user_pages_fast(at, want as c_int, flags, batch.as_mut_ptr())
            };
            let got = match usize::try_from(got) {
                Ok(1..) => got as usize,
                Err(_) if pinned.nr == 0 => return Err(Error::from_errno(got)),
                Ok(0) | Err(_) => return Err(EFAULT),
            };
            for i in 0..got {
                let page = batch[i];
                // SAFETY: The page was just pinned, so its folio is live.
                unsafe {
                    let folio = bindings::page_folio(page);
                    if folio != last_folio {
                        weight = weight.saturating_add(bindings::folio_nr_pages(folio));
                        last_folio = folio;
                    }
                }
                if let Err(e) = pinned.push(page) {
                    // SAFETY: These are the pages that were pinned and not recorded.
                    unsafe {
                        bindings::unpin_user_pages(batch.as_mut_ptr().add(i), got - i);
                    }
                    return Err(e);
                }
            }
        }
        pinned.locked.add(weight.saturating_sub(nr))?;
        Ok(pinned)
    }

    /// Takes over the pin of a page.
    fn push(&mut self, page: *mut bindings::page) -> Result {
        let page = NonNull::new(page).ok_or(EFAULT)?;
        // SAFETY: It is pinned, so it is valid.
        let id = unsafe { PageId::from_raw(page.as_ptr()) };
        match self.runs.last_mut() {
            // Not on all configurations do adjacent descriptions mean adjacent pages.
            Some(run)
                if run.first.as_ptr().wrapping_add(run.nr) == page.as_ptr()
                    && run.id.plus(run.nr) == id =>
            {
                run.nr += 1
            }
            _ => self.runs.push(
                Run {
                    first: page,
                    id,
                    nr: 1,
                },
                GFP_KERNEL_ACCOUNT,
            )?,
        }
        // INVARIANT: The page is in the runs.
        self.nr += 1;
        Ok(())
    }

    /// The pages as runs of physically contiguous ones, in the order of their addresses in user
    /// space: the first page of each, and how many. Runs may overlap, if user space has mapped a
    /// page twice. Any context.
    pub fn runs(&self) -> Runs<'_> {
        Runs(self.runs.iter())
    }
}

impl Drop for PinnedPages {
    fn drop(&mut self) {
        for run in &self.runs {
            // SAFETY: By the type invariants these pages are contiguous and the pins are ours. User
            // space has marked as dirty what it wrote.
            unsafe {
                bindings::unpin_user_page_range_dirty_lock(run.first.as_ptr(), run.nr, false);
            }
        }
    }
}

/// Iterator over the runs of [`PinnedPages`].
pub struct Runs<'a>(slice::Iter<'a, Run>);

impl Iterator for Runs<'_> {
    type Item = (PageId, usize);

    fn next(&mut self) -> Option<(PageId, usize)> {
        let run = self.0.next()?;
        Some((run.id, run.nr))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

impl ExactSizeIterator for Runs<'_> {}

#[macros::kunit_tests(rust_mm_pinned)]
mod tests {
    use super::*;

    #[test]
    fn bad_ranges() {
        let new = |addr, nr| PinnedPages::new(UserPtr::from_addr(addr), nr, PinAccess::Read).err();
        assert_eq!(new(PAGE_SIZE, 0), Some(EINVAL));
        assert_eq!(new(1, 1), Some(EINVAL));
        assert_eq!(new(PAGE_SIZE, usize::MAX / PAGE_SIZE), Some(EINVAL));
        assert_eq!(new(PAGE_SIZE, usize::MAX), Some(EINVAL));
    }
}
