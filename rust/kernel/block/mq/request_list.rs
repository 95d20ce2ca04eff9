// SPDX-License-Identifier: GPL-2.0

//! Requests that the block layer hands over together.
//!
//! C header: [`include/linux/blk-mq.h`](srctree/include/linux/blk-mq.h)

use super::{
    Operations,
    Request, //
};
use crate::{
    bindings,
    sync::aref::ARef, //
};
use core::marker::PhantomData;

/// New requests of one disk, maybe for several hardware queues, in the order of their submission.
///
/// The iterator starts each request that it returns. From then on the driver has to end it, as if
/// [`Operations::queue_rq`] had accepted it. The block layer passes the requests that are left in
/// the list to `queue_rq()`, one by one.
///
/// Wraps the C `struct rq_list`.
///
/// # Examples
///
/// A driver that takes only as many requests at once as its hardware has room for.
///
/// ```
/// use kernel::block::mq::{
///     Operations,
///     RequestList, //
/// };
///
/// fn submit<T: Operations>(requests: &mut RequestList<'_, T>, room: usize) -> usize {
///     let mut taken = 0;
///     for rq in requests.take(room) {
///         // A real driver tells its hardware.
///         drop(rq);
///         taken += 1;
///     }
///     taken
/// }
/// ```
///
/// The list is lent for the time of the callback, and can not be kept.
///
/// ```ignore,compile_fail
/// # use kernel::block::mq::*;
/// fn keep<T: Operations>(requests: RequestList<'_, T>) -> RequestList<'static, T> {
///     requests
/// }
/// ```
///
/// # Invariants
///
/// `list` is a valid list of requests that satisfy the invariants of [`Request<T>`], have a tag,
/// and are not started. They belong to the list, and nobody else uses it.
pub struct RequestList<'a, T: Operations> {
    list: &'a mut bindings::rq_list,
    _p: PhantomData<ARef<Request<T>>>,
}

impl<T: Operations> RequestList<'_, T> {
    /// Calls `f` with the requests of `list`, and then puts those back in front that it has left.
    ///
    /// Meanwhile `list` is empty. It may be that of the current task's plug: when something is
    /// submitted while `f` runs, requests are added to it that may be of other disks.
    ///
    /// # Safety
    ///
    /// `list` must be valid, and must not be used concurrently. Its requests must satisfy the
    /// invariants of [`Request<T>`], have a tag, and not be started. They belong to the list.
    #[inline]
    pub(super) unsafe fn lend(list: *mut bindings::rq_list, f: impl FnOnce(RequestList<'_, T>)) {
        // SAFETY: By the safety requirement the list is valid. An empty one is a valid one.
        let mut lent = unsafe { list.replace(pin_init::zeroed()) };

        // INVARIANT: By the safety requirement; nobody knows of this list but us.
        f(RequestList {
            list: &mut lent,
            _p: PhantomData,
        });

        if lent.head.is_null() {
            return;
        }
        // SAFETY: The list is still valid. `lent` is not empty, so its last request is valid.
        unsafe {
            (*lent.tail).__bindgen_anon_1.rq_next = (*list).head;
            if (*list).tail.is_null() {
                (*list).tail = lent.tail;
            }
            (*list).head = lent.head;
        }
    }

    /// Takes the first request off the list.
    #[inline]
    fn pop(&mut self) -> Option<*mut bindings::request> {
        let rq = self.list.head;
        if rq.is_null() {
            return None;
        }

        // SAFETY: By the type invariants the request is valid and belongs to the list, so it is
        // linked by this field.
        unsafe {
            self.list.head = (*rq).__bindgen_anon_1.rq_next;
            (*rq).__bindgen_anon_1.rq_next = core::ptr::null_mut();
        }
        if self.list.head.is_null() {
            self.list.tail = core::ptr::null_mut();
        }
        Some(rq)
    }
}

impl<T: Operations> Iterator for RequestList<'_, T> {
    type Item = ARef<Request<T>>;

    #[inline]
    fn next(&mut self) -> Option<ARef<Request<T>>> {
        let rq = self.pop()?;

        // SAFETY: By the type invariants this was a request of the list. It is not any more, so it
        // is ours.
        let rq = unsafe { Request::share_raw(rq) };
        // SAFETY: There is only this reference.
        unsafe { Request::start_unchecked(&rq) };
        Some(rq)
    }
}

#[cfg(CONFIG_RUST_BLOCK_KUNIT_TEST)]
#[macros::kunit_tests(rust_kernel_block_mq_request_list)]
mod tests {
    use super::*;
    use crate::{
        block::mq::QueueResult,
        prelude::*, //
    };

    /// Its requests are only moved from list to list.
    struct Device;

    #[vtable]
    impl Operations for Device {
        type QueueData = ();

        fn queue_rq((): (), rq: ARef<Request<Self>>, _is_last: bool) -> QueueResult<Self> {
            Err((EIO, rq))
        }

        fn commit_rqs((): ()) {}

        fn complete(_rq: ARef<Request<Self>>) {}
    }

    type Requests = KVec<KBox<bindings::request>>;

    /// As many requests that are in no list, with their number as the tag.
    fn requests(nr: i32) -> Result<Requests> {
        let mut requests = KVec::new();
        for tag in 0..nr {
            let mut rq: KBox<bindings::request> = KBox::init(pin_init::init_zeroed(), GFP_KERNEL)?;
            rq.tag = tag;
            requests.push(rq, GFP_KERNEL)?;
        }
        Ok(requests)
    }

    /// As `rq_list_add_tail()`.
    fn add(list: *mut bindings::rq_list, rq: &mut bindings::request) {
        // SAFETY: The tests keep the list and its requests alive.
        unsafe {
            match (*list).tail.as_mut() {
                Some(tail) => tail.__bindgen_anon_1.rq_next = rq,
                None => (*list).head = rq,
            }
            (*list).tail = rq;
        }
    }

    /// The tags of the requests in a list, whose tail must be right.
    fn tags(list: &bindings::rq_list) -> Result<KVec<i32>> {
        let mut tags = KVec::new();
        let (mut rq, mut last) = (list.head, core::ptr::null_mut());
        // SAFETY: The tests keep the requests alive.
        while let Some(this) = unsafe { rq.as_ref() } {
            tags.push(this.tag, GFP_KERNEL)?;
            last = rq;
            // SAFETY: The request is in a list.
            rq = unsafe { this.__bindgen_anon_1.rq_next };
        }
        assert_eq!(last, list.tail);
        Ok(tags)
    }

    /// Lends the list to `f`.
    fn lend(list: *mut bindings::rq_list, f: impl FnOnce(RequestList<'_, Device>)) {
        // SAFETY: The requests are taken off the list only by `pop()`, which looks at the links.
        unsafe { RequestList::lend(list, f) };
    }

    #[test]
    fn what_is_added_meanwhile_is_not_seen() -> Result {
        let mut list: bindings::rq_list = pin_init::zeroed();
        let list: *mut bindings::rq_list = &mut list;
        let mut requests = requests(5)?;
        let mut rest = requests.iter_mut();
        for rq in rest.by_ref().take(3) {
            add(list, rq);
        }

        lend(list, |mut lent| {
            // What submitting a bio to another disk would do.
            for rq in rest {
                add(list, rq);
            }
            for tag in 0..3 {
                // SAFETY: The request was just popped.
                assert_eq!(lent.pop().map(|rq| unsafe { (*rq).tag }), Some(tag));
            }
            assert!(lent.pop().is_none());
        });
        // SAFETY: Nobody changes the list.
        assert_eq!(&tags(unsafe { &*list })?[..], &[3, 4]);
        Ok(())
    }

    #[test]
    fn what_is_left_comes_first() -> Result {
        let mut list: bindings::rq_list = pin_init::zeroed();
        let list: *mut bindings::rq_list = &mut list;
        let mut requests = requests(4)?;
        let mut rest = requests.iter_mut();
        for rq in rest.by_ref().take(2) {
            add(list, rq);
        }

        lend(list, |mut lent| {
            for rq in rest {
                add(list, rq);
            }
            assert!(lent.pop().is_some());
        });
        // SAFETY: Nobody changes the list.
        assert_eq!(&tags(unsafe { &*list })?[..], &[1, 2, 3]);
        Ok(())
    }

    #[test]
    fn what_is_left_is_put_back() -> Result {
        let mut list: bindings::rq_list = pin_init::zeroed();
        let mut requests = requests(2)?;
        for rq in requests.iter_mut() {
            add(&mut list, rq);
        }

        lend(&mut list, |_lent| ());
        assert_eq!(&tags(&list)?[..], &[0, 1]);
        Ok(())
    }
}
