// SPDX-License-Identifier: GPL-2.0

//! Lending the pages of a request to io_uring.

use super::{
    Operations,
    Request,
    RequestView, //
};
use crate::{
    alloc::Flags,
    bindings,
    io_uring::{
        BvecTable,
        Direction,
        Lessor,
        PartLessor,
        PartMemory, //
    },
    prelude::*,
    sync::aref::ARef,
    types::ForeignOwnable, //
};
use core::{
    marker::PhantomData,
    mem::ManuallyDrop,
    ptr::NonNull, //
};

/// A reference to a request whose pages may be lent to the secondaries of a fused command.
///
/// When it is over, [`Operations::lease_ended`] gets the reference back: after the last use of the
/// pages, or when the lease is dropped. It does so exactly once. For as long as it exists, its
/// reference keeps the request in flight, so that the pages and the tables that describe them stay.
///
/// A request of one bio, which most are, is lent as it is: nothing is allocated or copied. Several
/// bios are gathered in one table.
///
/// # Context
///
/// The lease of a request of several bios must be dropped where one may sleep, as that may free
/// memory of `vmalloc()`. Any other can be dropped wherever [`Operations::lease_ended`] may run.
///
/// # Invariants
///
/// The request has data. If it has several bios, it is gathered.
pub struct RequestLease<T: Operations>(Handle<T>);

/// A request of several bios, and the table that was made of theirs.
struct Gathered<T: Operations> {
    rq: ARef<Request<T>>,
    // 16 bytes per bvec: 256 KiB for a request of 64 MiB in which no two pages are adjacent. That
    // would be an allocation of order 6 if it had to be contiguous.
    table: KVVec<bindings::bio_vec>,
}

/// What a lease owns, in one pointer: a lease is given to C as one.
///
/// # Invariants
///
/// With the lowest bit clear, the pointer comes from [`ARef::into_raw`] for a [`Request<T>`]. With
/// that bit set, the rest of it is that of a leaked `KBox<Gathered<T>>`. `self` owns the reference
/// or the box.
struct Handle<T: Operations>(NonNull<c_void>, PhantomData<ARef<Request<T>>>);

/// What a [`Handle`] points to.
enum Pointee<T: Operations> {
    Single(NonNull<Request<T>>),
    Gathered(NonNull<Gathered<T>>),
}

/// Set in the pointer to a [`Gathered`].
const GATHERED: usize = 1;

// Both kinds of pointer leave the lowest bit free.
const _: () = build_assert!(align_of::<bindings::request>() > GATHERED);
const _: () = build_assert!(align_of::<*const ()>() > GATHERED);

impl<T: Operations> Handle<T> {
    #[inline]
    fn single(rq: ARef<Request<T>>) -> Self {
        // INVARIANT: The bit is clear, because requests are aligned.
        Self(ARef::into_raw(rq).cast(), PhantomData)
    }

    fn gathered(gathered: KBox<Gathered<T>>) -> Self {
        let ptr = NonNull::from(Box::leak(gathered)).cast::<c_void>();
        // INVARIANT: The bit is free in a pointer to a `Gathered`.
        Self(ptr.map_addr(|addr| addr | GATHERED), PhantomData)
    }

    #[inline]
    fn pointee(&self) -> Pointee<T> {
        let ptr = self.0.as_ptr();
        if ptr.addr() & GATHERED == 0 {
            return Pointee::Single(self.0.cast());
        }
        let gathered = ptr.map_addr(|addr| addr & !GATHERED).cast();
        // SAFETY: By the type invariants this is a pointer to a leaked box, so it is not null.
        Pointee::Gathered(unsafe { NonNull::new_unchecked(gathered) })
    }

    /// The request, and the table of one that was gathered.
    #[inline]
    fn get(&self) -> (&Request<T>, Option<&[bindings::bio_vec]>) {
        match self.pointee() {
            // SAFETY: By the type invariants this points to a request to which `self` owns a
            // reference.
            Pointee::Single(rq) => (unsafe { rq.as_ref() }, None),
            Pointee::Gathered(gathered) => {
                // SAFETY: By the type invariants this points to a `Gathered` that `self` owns.
                let gathered = unsafe { gathered.as_ref() };
                (&gathered.rq, Some(&gathered.table))
            }
        }
    }

    /// The reference to the request. A table is freed.
    #[inline]
    fn into_request(self) -> ARef<Request<T>> {
        match self.pointee() {
            // SAFETY: By the type invariants this comes from `ARef::into_raw()`, and the reference
            // is ours. `self` is consumed, and has no drop.
            Pointee::Single(rq) => unsafe { ARef::from_raw(rq) },
            Pointee::Gathered(gathered) => {
                // SAFETY: By the type invariants this comes from a leaked box, which is ours.
                // `self` is consumed, and has no drop.
                let gathered = unsafe { KBox::from_raw(gathered.as_ptr()) };
                KBox::into_inner(gathered).rq
            }
        }
    }
}

// SAFETY: A request is not bound to a thread, nor is the table.
unsafe impl<T: Operations> Send for RequestLease<T> {}

// SAFETY: Through a shared reference only the `RequestView`, which is `Sync`, and the table, which
// is not changed, can be reached.
unsafe impl<T: Operations> Sync for RequestLease<T> {}

impl<T: Operations> RequestLease<T> {
    /// Makes a lease of a reference to a request.
    ///
    /// Fails with `EINVAL` for a request without data, and with `ENOMEM`; the reference is returned
    /// with the error.
    ///
    /// # Context
    ///
    /// Any for a request of one bio. Otherwise it may sleep; it starts no I/O.
    #[inline]
    pub fn new(rq: ARef<Request<T>>) -> Result<Self, (Error, ARef<Request<T>>)> {
        if rq.has_single_bio() {
            // INVARIANT: The request has one bio, with data.
            return Ok(Self(Handle::single(rq)));
        }
        Self::gather(rq, GFP_NOIO)
    }

    /// As [`Self::new`] for a request of several bios.
    #[cold]
    #[inline(never)]
    fn gather(rq: ARef<Request<T>>, flags: Flags) -> Result<Self, (Error, ARef<Request<T>>)> {
        let memory =
            Self::bvecs_of(&rq, flags).and_then(|table| Ok((table, KBox::new_uninit(flags)?)));
        let (table, place) = match memory {
            Ok(memory) => memory,
            Err(e) => return Err((e, rq)),
        };
        let gathered = KBox::write(place, Gathered { rq, table });
        // INVARIANT: The request has data, or else there would be no table.
        Ok(Self(Handle::gathered(gathered)))
    }

    /// A table of all bvecs of a request.
    fn bvecs_of(rq: &RequestView, flags: Flags) -> Result<KVVec<bindings::bio_vec>> {
        if !rq.has_data() {
            return Err(EINVAL);
        }

        let mut table = KVVec::with_capacity(rq.bvecs().count(), flags)?;
        for bv in rq.bvecs() {
            table.push(bv, flags)?;
        }
        Ok(table)
    }

    /// The request. Any context.
    #[inline]
    pub fn request(&self) -> &RequestView {
        self.0.get().0
    }

    /// Gives up the lease, without [`Operations::lease_ended`].
    #[inline]
    fn into_request(self) -> ARef<Request<T>> {
        let this = ManuallyDrop::new(self);
        // INVARIANT: `self` is not dropped, so the new value is the only owner.
        Handle(this.0 .0, PhantomData).into_request()
    }
}

impl<T: Operations> Drop for RequestLease<T> {
    #[inline]
    fn drop(&mut self) {
        // INVARIANT: `self` is being dropped, so the new value is the only owner.
        let handle = Handle(self.0 .0, PhantomData);

        T::lease_ended(handle.into_request());
    }
}

// SAFETY: The pointer of a handle is never null.
unsafe impl<T: Operations> ForeignOwnable for RequestLease<T> {
    const FOREIGN_ALIGN: usize = 1;

    type Borrowed<'a>
        = &'a RequestView
    where
        T: 'a;
    type BorrowedMut<'a>
        = &'a RequestView
    where
        T: 'a;

    #[inline]
    fn into_foreign(self) -> *mut c_void {
        ManuallyDrop::new(self).0 .0.as_ptr()
    }

    #[inline]
    unsafe fn from_foreign(ptr: *mut c_void) -> Self {
        // INVARIANT: The pointer comes from `into_foreign()`, which has given up its ownership.
        // SAFETY: As the pointer comes from there, it is not null.
        Self(Handle(unsafe { NonNull::new_unchecked(ptr) }, PhantomData))
    }

    #[inline]
    unsafe fn borrow<'a>(ptr: *mut c_void) -> &'a RequestView
    where
        T: 'a,
    {
        // SAFETY: The pointer comes from `into_foreign()`, and is not taken back during `'a`. This
        // copy of it is not dropped.
        let this = ManuallyDrop::new(unsafe { Self::from_foreign(ptr) });
        let view = core::ptr::from_ref(this.request());
        // SAFETY: What the pointer owns keeps the request during `'a`.
        unsafe { &*view }
    }

    #[inline]
    unsafe fn borrow_mut<'a>(ptr: *mut c_void) -> &'a RequestView
    where
        T: 'a,
    {
        // SAFETY: The requirements are a superset of those of `borrow()`.
        unsafe { Self::borrow(ptr) }
    }
}

// SAFETY: While the lease exists, in whatever form, the request can not end, because a reference to
// it is held: only who has the last one can give it back. So its pages stay, and so does the table:
// either that of its bio, which is not changed while the driver owns the request, or our own.
unsafe impl<T: Operations + 'static> Lessor for RequestLease<T> {
    #[inline]
    fn table(&self) -> BvecTable {
        let (rq, gathered) = self.0.get();
        let dir = if rq.is_write() {
            Direction::Source
        } else {
            Direction::Dest
        };
        let len = rq.bytes() as usize;

        if let Some(table) = gathered {
            return BvecTable {
                bvec: table.as_ptr(),
                nr: table.len() as u32,
                skip: 0,
                len,
                dir,
            };
        }

        // SAFETY: By the type invariants this is a request of one bio, which has data.
        let first = unsafe { rq.first_table() };

        BvecTable {
            bvec: first.bvec,
            nr: first.nr as u32,
            skip: first.skip,
            len,
            dir,
        }
    }

    #[inline]
    fn ended(self) {
        // As the drop, but inlined.
        T::lease_ended(self.into_request());
    }
}

impl<T: Operations + 'static> PartLessor for RequestLease<T> {
    #[inline]
    fn part_ended(self, memory: PartMemory, result: i32) -> bool {
        T::part_ended(self.into_request(), memory, result)
    }
}

#[cfg(CONFIG_RUST_BLOCK_KUNIT_TEST)]
#[macros::kunit_tests(rust_kernel_block_mq_lease)]
mod tests {
    use super::*;
    use crate::{
        block::mq::{
            gen_disk::GenDiskBuilder,
            Op,
            QueueLimits,
            QueueResult,
            TagSet, //
        },
        sync::{
            atomic::{
                Atomic,
                Relaxed, //
            },
            Arc, //
        },
    };

    /// Leases each request, and gives it back in all ways that there are.
    struct Device;

    #[derive(Default)]
    struct Counts {
        queued: u32,
        ended: u32,
        bad: u32,
    }

    static QUEUED: Atomic<u32> = Atomic::new(0);
    static ENDED: Atomic<u32> = Atomic::new(0);
    static BAD: Atomic<u32> = Atomic::new(0);

    fn counts() -> Counts {
        Counts {
            queued: QUEUED.load(Relaxed),
            ended: ENDED.load(Relaxed),
            bad: BAD.load(Relaxed),
        }
    }

    fn check(ok: bool) {
        if !ok {
            BAD.fetch_add(1, Relaxed);
        }
    }

    /// Whether the table describes all of the request.
    fn describes(table: &BvecTable, rq: &RequestView) -> bool {
        let mut sum = 0;
        for i in 0..table.nr as usize {
            // SAFETY: The lease whose table this is exists.
            sum += unsafe { (*table.bvec.add(i)).bv_len } as usize;
        }

        table.len == rq.bytes() as usize && sum >= table.len + table.skip as usize
    }

    #[vtable]
    impl Operations for Device {
        type QueueData = ();

        fn queue_rq((): (), rq: ARef<Request<Self>>, _is_last: bool) -> QueueResult<Self> {
            let queued = QUEUED.fetch_add(1, Relaxed);

            if rq.op() != Op::Read {
                return Err((EOPNOTSUPP, rq));
            }

            // Lease it twice at the same time.
            let gathered = match RequestLease::gather(rq.clone(), GFP_ATOMIC) {
                Ok(gathered) => gathered,
                Err((e, _)) => return Err((e, rq)),
            };
            let lease = RequestLease::new(rq)?;
            check(describes(&gathered.table(), lease.request()));
            check(describes(&lease.table(), lease.request()));
            check(lease.table().dir == Direction::Dest);

            let ptr = gathered.into_foreign();
            // SAFETY: The pointer comes from `into_foreign()`, and is taken back after the borrow.
            let view = unsafe { RequestLease::<Self>::borrow(ptr) };
            check(view.tag() == lease.request().tag());
            // SAFETY: The pointer comes from `into_foreign()`, and is taken back only here.
            let gathered = unsafe { RequestLease::<Self>::from_foreign(ptr) };

            if queued & 1 == 0 {
                gathered.ended();
                drop(lease);
            } else {
                lease.ended();
                drop(gathered);
            }
            Ok(())
        }

        fn lease_ended(rq: ARef<Request<Self>>) {
            let Some(rq) = Request::into_unique_or_drop(rq) else {
                return;
            };

            match ENDED.fetch_add(1, Relaxed) {
                0 => rq.requeue(true),
                1 => rq.requeue_delayed(1),
                2 => rq.end_partial(512),
                3 => drop(rq),
                _ => {
                    let bytes = rq.bytes();
                    rq.end_partial(bytes);
                }
            }
        }

        fn commit_rqs((): ()) {}

        fn complete(_rq: ARef<Request<Self>>) {}
    }

    #[test]
    fn a_table_may_be_larger_than_contiguous_memory() -> Result {
        // 4.6 MiB of table; `kmalloc()` gives 4 at most.
        const NR: usize = 300_000;
        const LEN: u32 = 512;
        let mut table: KVVec<bindings::bio_vec> = KVVec::with_capacity(NR, GFP_KERNEL)?;
        for i in 0..NR {
            let entry = bindings::bio_vec {
                bv_page: core::ptr::null_mut(),
                bv_len: LEN,
                bv_offset: i as u32,
            };
            table.push(entry, GFP_KERNEL)?;
        }
        let mut bio: KBox<bindings::bio> = KBox::init(pin_init::init_zeroed(), GFP_KERNEL)?;
        bio.bi_io_vec = table.as_mut_ptr();
        bio.bi_iter.bi_size = NR as u32 * LEN;
        let mut rq: KBox<bindings::request> = KBox::init(pin_init::init_zeroed(), GFP_KERNEL)?;
        rq.bio = &mut *bio;

        // SAFETY: The request, its bio and the table live until the end of the test, and nobody
        // changes them. The bio's data is not looked at.
        let view = unsafe { RequestView::from_raw(&*rq) };
        let gathered = RequestLease::<Device>::bvecs_of(view, GFP_NOIO)?;
        assert_eq!(gathered.len(), NR);
        assert!(gathered.iter().map(|bv| bv.bv_offset as usize).eq(0..NR));
        Ok(())
    }

    #[test]
    fn leases_bring_the_request_back() -> Result {
        let tagset: Arc<TagSet<Device>> = Arc::pin_init(TagSet::new(1, 4, 1), GFP_KERNEL)?;
        let disk = GenDiskBuilder::new()
            .limits(QueueLimits::new().logical_block_size(512))
            .capacity_sectors(4096)
            .suppress_partition_scan(true)
            .alloc(fmt!("lease-kunit"), tagset, ())?
            .add()?;

        // Reads; the first one comes four times and fails.
        let _ = disk.scan_partitions();
        disk.kick_requeue_list();
        disk.quiesce().unquiesce();
        let counts = counts();

        assert!(counts.queued >= 4);
        assert_eq!(counts.queued, counts.ended);
        assert_eq!(counts.bad, 0);
        Ok(())
    }
}
