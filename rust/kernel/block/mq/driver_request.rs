// SPDX-License-Identifier: GPL-2.0

//! Requests that a driver sends to itself.
//!
//! C header: [`include/linux/blk-mq.h`](srctree/include/linux/blk-mq.h)

use super::{
    BlkStatus,
    Op,
    Operations,
    Request, //
};
use crate::{
    bindings,
    block::SECTOR_SHIFT,
    error::{
        from_err_ptr,
        to_result, //
    },
    page::PAGE_SIZE,
    prelude::*,
    sync::{
        atomic::{
            Acquire,
            Atomic,
            Relaxed,
            Release, //
        },
        Arc, //
    },
    time::{
        delay::fsleep,
        msecs_to_jiffies,
        Delta, //
    },
    types::Opaque, //
};
use core::{
    cell::UnsafeCell,
    marker::PhantomData,
    ptr::NonNull, //
};

/// How often who waits is asked whether it still wants to.
const POLL_MSECS: u32 = 20;

/// A driver that sends requests to itself, with data of its own about what they ask for.
pub trait DriverRequests: Operations {
    /// What comes with such a request; [`Request::driver_data`] is how
    /// [`Operations::queue_rq`] gets it. It is borrowed for as long as the request is in flight.
    type Data: Sync;
}

impl<T: DriverRequests> Request<T> {
    /// What the driver gave with a request of its own; [`None`] for a request of anybody else.
    ///
    /// Any context.
    pub fn driver_data(&self) -> Option<&T::Data> {
        let data = self.sent()?.data;
        // SAFETY: `DriverQueue::execute_in()` of a disk with this `T` has set it to data that it
        // has borrowed until the request has ended. That is not before all references to it are
        // gone.
        unsafe { data.cast::<T::Data>().as_ref() }
    }
}

impl<T: Operations> Request<T> {
    /// What came with a request of the driver's own; [`None`] for a request of anybody else.
    // For most requests, it is the operation that says so.
    #[inline]
    fn sent(&self) -> Option<&Sent> {
        if self.op() != Op::DriverIn {
            return None;
        }
        // SAFETY: The pointer only changes while the block layer owns the request, but a reference
        // to it exists.
        let sent = unsafe { *self.wrapper_ref().driver_data() };
        // SAFETY: If it is not null, then `DriverQueue::execute_in()` has set it to something that
        // stays until the request has ended. That is not before all references to it are gone.
        unsafe { sent.cast::<Sent>().as_ref() }
    }

    /// The buffer that is to be filled by a request of the driver's own.
    #[inline]
    pub(super) fn answer(&self) -> Option<Arc<Answer>> {
        self.sent().map(|sent| sent.answer.clone())
    }
}

/// What comes with a request of the driver's own.
struct Sent {
    /// The driver's data, a `T::Data`.
    data: *const c_void,
    answer: Arc<Answer>,
}

/// The buffer that a request of the driver's own is to fill.
///
/// It may be lent without a reference to the request, so that the request can end although it is
/// not given back.
///
/// # Invariants
///
/// While a request is in flight that is to fill the buffer, or `loans` is not 0, the bytes are
/// accessed through the pages only. It is lent by who has a reference to such a request.
pub(super) struct Answer {
    buf: UnsafeCell<KVec<u8>>,
    loans: Atomic<u32>,
}

// SAFETY: By the type invariants nobody but the task that has sent the request uses `buf`, and it
// does so when nobody has the pages.
unsafe impl Sync for Answer {}

impl Answer {
    fn new(buf: KVec<u8>) -> Self {
        Self {
            buf: UnsafeCell::new(buf),
            loans: Atomic::new(0),
        }
    }

    /// To be called with a reference to the request.
    pub(super) fn lend(&self) {
        self.loans.fetch_add(1, Relaxed);
    }

    /// Ends what [`Self::lend`] has begun: the pages are not used any more.
    pub(super) fn give_back(&self) {
        // What was written to the pages is seen by who finds that they are not lent.
        self.loans.fetch_sub(1, Release);
    }

    fn is_lent(&self) -> bool {
        self.loans.load(Acquire) != 0
    }
}

/// The queue of a disk, to which the driver of the disk sends a request of its own.
///
/// # Examples
///
/// A device that is asked for its serial number by a request, because only who serves requests
/// knows it.
///
/// ```
/// use kernel::{
///     block::mq::{
///         DriverQueue,
///         DriverRequests,
///         Operations,
///         QueueResult,
///         Request, //
///     },
///     prelude::*,
///     sync::aref::ARef, //
/// };
///
/// struct Device;
///
/// /// What a request of our own is about.
/// enum Question {
///     SerialNumber,
/// }
///
/// impl DriverRequests for Device {
///     type Data = Question;
/// }
///
/// #[vtable]
/// impl Operations for Device {
///     type QueueData = ();
///
///     fn queue_rq((): (), rq: ARef<Request<Self>>, _is_last: bool) -> QueueResult<Self> {
///         match rq.driver_data() {
///             // Here the device would be asked to fill in the data of the request.
///             Some(Question::SerialNumber) => Err((EOPNOTSUPP, rq)),
///             None => Err((EIO, rq)),
///         }
///     }
///
///     fn commit_rqs((): ()) {}
///
///     fn complete(_rq: ARef<Request<Self>>) {}
/// }
///
/// fn serial_number(queue: &DriverQueue<'_, Device>) -> Result<KVec<u8>> {
///     let mut answer = KVec::from_elem(0, 4096, GFP_NOIO)?;
///     queue.execute_in(&Question::SerialNumber, &mut answer, || Ok(()))?;
///     Ok(answer)
/// }
/// ```
///
/// # Invariants
///
/// The pointer is to the queue of a disk that was made by [`GenDiskBuilder::alloc`] with this `T`,
/// and is valid for `'a`.
///
/// [`GenDiskBuilder::alloc`]: super::gen_disk::GenDiskBuilder::alloc
pub struct DriverQueue<'a, T: Operations> {
    queue: NonNull<bindings::request_queue>,
    _disk: PhantomData<&'a ()>,
    _driver: PhantomData<fn() -> T>,
}

impl<T: Operations> DriverQueue<'_, T> {
    /// # Safety
    ///
    /// The type invariants must hold for the result.
    #[cfg_attr(not(CONFIG_BLK_DEV_ZONED), expect(dead_code))]
    pub(super) unsafe fn from_raw(queue: *mut bindings::request_queue) -> Self {
        // INVARIANT: By the safety requirements of this function.
        Self {
            // SAFETY: The pointer is valid by the safety requirements of this function.
            queue: unsafe { NonNull::new_unchecked(queue) },
            _disk: PhantomData,
            _driver: PhantomData,
        }
    }

    /// The largest buffer, in bytes, that [`Self::execute_in`] can transfer whatever the limits of
    /// the queue are: a power of two, at least 4096 and at most `max`, which is at least 4096. Only
    /// if the queue wants buffers to be aligned to more than that, it is as much as they have to be
    /// aligned to. This holds for buffers whose length is a power of two, as `kmalloc()` aligns
    /// these to their length.
    ///
    /// Any context.
    pub fn max_buffer(&self, max: usize) -> usize {
        // SAFETY: By the type invariants the queue is valid. The limits may be changed meanwhile,
        // to others that are good: each of these reads sees one or the other.
        let (sectors, segment, boundary) = unsafe {
            let limits = &raw const (*self.queue.as_ptr()).limits;
            (
                (&raw const (*limits).max_hw_sectors).read_volatile() as usize,
                (&raw const (*limits).max_segment_size).read_volatile() as usize,
                (&raw const (*limits).seg_boundary_mask).read_volatile(),
            )
        };
        // A buffer of such a length is one segment, as it is aligned to its length.
        let most = max
            .min(sectors.saturating_mul(1 << SECTOR_SHIFT))
            .min(segment)
            .min(boundary.saturating_add(1));

        (1 << most.max(MIN_BUFFER).ilog2()).max((self.copied_unless_zero() + 1).next_power_of_two())
    }

    /// Which bits of the address and length of a buffer must be 0 lest the block layer copies it.
    /// As the C function `blk_lim_dma_alignment_and_pad()`.
    fn copied_unless_zero(&self) -> usize {
        // SAFETY: By the type invariants the queue is valid. The limits may be changed meanwhile:
        // each of these reads sees one or the other.
        let (alignment, pad) = unsafe {
            let limits = &raw const (*self.queue.as_ptr()).limits;
            (
                (&raw const (*limits).dma_alignment).read_volatile(),
                (&raw const (*limits).dma_pad_mask).read_volatile(),
            )
        };

        (alignment | pad) as usize
    }
}

/// No limits of a queue are below: those of a segment and of its boundary.
const MIN_BUFFER: usize = 4096;
static_assert!(MIN_BUFFER <= PAGE_SIZE);

impl<T: DriverRequests> DriverQueue<'_, T> {
    /// Sends a request with [`Op::DriverIn`] and `data` to the driver itself, which is to fill
    /// `buf`, and waits until it has ended.
    ///
    /// `while_waiting` is called again and again meanwhile. If it returns an error while the
    /// request still waits for a tag, then the request is not sent, and this is the error. When it
    /// was sent, then `while_waiting` has to see to it that it ends; what it returns is ignored.
    ///
    /// The driver may have registered the buffer with io_uring, see [`Request::register_buffer`],
    /// which does not keep such a request from ending. If it has succeeded, this waits until the
    /// buffer was given back, or until `while_waiting` returns an error, which is the error then.
    ///
    /// Fails with the error that the request ends with, with `EINVAL` if the length of `buf` is not
    /// a multiple of 4096 or larger than the limits of the queue allow, or if it is not aligned as
    /// they want it, see [`Self::max_buffer`],
    /// with `ENODEV` if the disk is being removed, and with `ENOMEM`. `buf` may be empty then,
    /// because it is freed when nobody uses it any more.
    ///
    /// # Context
    ///
    /// Process context; sleeps, until the driver has ended the request. Wraps the C functions
    /// `blk_mq_alloc_request()`, `blk_rq_map_kern()`, `blk_execute_rq_nowait()` and
    /// `blk_mq_free_request()`.
    pub fn execute_in(
        &self,
        data: &T::Data,
        buf: &mut KVec<u8>,
        mut while_waiting: impl FnMut() -> Result,
    ) -> Result {
        let len = c_uint::try_from(buf.len())?;
        if buf.len() % MIN_BUFFER != 0 {
            return Err(EINVAL);
        }
        pin_init::stack_pin_init!(let end = End::new());

        let answer = Arc::new(Answer::new(KVec::new()), GFP_NOIO)?;
        let sent = Sent {
            data: core::ptr::from_ref(data).cast(),
            answer: answer.clone(),
        };
        let rq = self.alloc(&mut while_waiting)?;
        // The block layer would copy it, to pages that are freed when the request ends, and the
        // driver might have registered these. The limits do not change while there is a request.
        if (buf.as_ptr().addr() | buf.len()) & self.copied_unless_zero() != 0 {
            return Err(EINVAL);
        }
        // SAFETY: The request is ours. The buffer is from `kmalloc()` and has this length, or is
        // empty, which is refused. The answer owns it until the request has ended.
        to_result(unsafe {
            bindings::blk_rq_map_kern(
                rq.as_raw(),
                buf.as_mut_ptr().cast(),
                len,
                bindings::GFP_NOIO,
            )
        })?;
        // SAFETY: Nobody else knows it yet. Moving the vector does not move its bytes.
        unsafe { *answer.buf.get() = core::mem::take(buf) };
        rq.send(&sent, &end);
        while !end.wait() {
            let _ = while_waiting();
        }
        let result = end.status().to_result();
        // It is not lent any more from here on, as all references to the request are gone.
        while answer.is_lent() {
            result?;
            while_waiting()?;
            fsleep(Delta::from_millis(POLL_MSECS.into()));
        }
        // SAFETY: The request has ended, and the buffer is not lent, nor will it be. Others may
        // have a reference to the answer that they are about to drop, and don't use it.
        *buf = unsafe { core::mem::take(&mut *answer.buf.get()) };
        result
    }

    /// Whether the disk is being removed, so that there will be no tag any more.
    fn is_dying(&self) -> bool {
        // SAFETY: By the type invariants the queue is valid. Other bits may be changed meanwhile,
        // but all writers change the whole word at once.
        let flags = unsafe { (&raw const (*self.queue.as_ptr()).queue_flags).read_volatile() };

        flags & (1 << bindings::QUEUE_FLAG_DYING) != 0
    }

    /// Allocates a request.
    fn alloc(&self, while_waiting: &mut impl FnMut() -> Result) -> Result<Idle<T>> {
        loop {
            // SAFETY: By the type invariants the queue is valid.
            let rq = from_err_ptr(unsafe {
                bindings::blk_mq_alloc_request(
                    self.queue.as_ptr(),
                    bindings::req_op_REQ_OP_DRV_IN,
                    bindings::BLK_MQ_REQ_NOWAIT as bindings::blk_mq_req_flags_t,
                )
            });
            match rq {
                // INVARIANT: It was just allocated, and nobody has sent it.
                Ok(rq) => {
                    return Ok(Idle {
                        rq: NonNull::new(rq).ok_or(ENOMEM)?,
                        _p: PhantomData,
                    })
                }
                // Who holds the tags may never give them back, so nobody waits there.
                Err(e) if e == EAGAIN => {
                    if self.is_dying() {
                        return Err(ENODEV);
                    }
                    while_waiting()?;
                    fsleep(Delta::from_millis(POLL_MSECS.into()));
                }
                Err(e) => return Err(e),
            }
        }
    }
}

/// A request that we have allocated; it is freed when this is dropped.
///
/// # Invariants
///
/// `rq` was allocated from a queue of a disk with this `T`, and is in flight neither when this is
/// made nor when it is dropped.
struct Idle<T: DriverRequests> {
    rq: NonNull<bindings::request>,
    _p: PhantomData<fn() -> T>,
}

impl<T: DriverRequests> Idle<T> {
    fn as_raw(&self) -> *mut bindings::request {
        self.rq.as_ptr()
    }

    /// Sends the request. The caller waits for `end` before it drops anything that is given here.
    fn send(&self, sent: &Sent, end: &End) {
        let rq = self.as_raw();
        self.set_data(core::ptr::from_ref(sent).cast());
        // SAFETY: By the type invariants the request is not in flight, so nobody else looks at it.
        unsafe {
            (*rq).end_io = Some(End::callback);
            (*rq).end_io_data = core::ptr::from_ref(end).cast_mut().cast();
        }
        // At the head, so that it does not wait in the plug of the current task.
        //
        // SAFETY: The request was allocated and is not in flight; interrupts are enabled in process
        // context.
        unsafe { bindings::blk_execute_rq_nowait(rq, true) };
    }

    fn set_data(&self, data: *const c_void) {
        // SAFETY: The request was initialized by `init_request_callback()`, as all of this queue.
        let wrapper = unsafe { Request::<T>::wrapper_ptr(self.as_raw().cast()) };
        // SAFETY: By the type invariants the request is not in flight, so nobody looks at this.
        unsafe { *wrapper.as_ref().driver_data() = data };
    }
}

impl<T: DriverRequests> Drop for Idle<T> {
    fn drop(&mut self) {
        self.set_data(core::ptr::null());
        // SAFETY: By the type invariants the request was allocated and is not in flight. If it was
        // sent, then `End::callback()` has left it to us.
        unsafe { bindings::blk_mq_free_request(self.as_raw()) };
    }
}

/// The end of a request that was sent.
#[pin_data]
struct End {
    #[pin]
    done: Opaque<bindings::completion>,
    /// Written before `done` is completed, and read afterwards.
    status: UnsafeCell<bindings::blk_status_t>,
}

impl End {
    fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            done <- Opaque::ffi_init(|slot: *mut bindings::completion| {
                // SAFETY: `slot` is valid and not initialized.
                unsafe { bindings::init_completion(slot) };
            }),
            status: UnsafeCell::new(BlkStatus::IOERR.as_raw()),
        })
    }

    /// Called by the block layer when the request has ended, in any context.
    ///
    /// # Safety
    ///
    /// `end_io_data` of the request must point to an `End` that stays until it is completed.
    unsafe extern "C" fn callback(
        rq: *mut bindings::request,
        status: bindings::blk_status_t,
        _batch: *const bindings::io_comp_batch,
    ) -> bindings::rq_end_io_ret {
        // SAFETY: By the safety requirement of this function.
        let end = unsafe { (*rq).end_io_data.cast::<Self>() };
        // SAFETY: As above. Nobody reads the status before `done` is completed. After that, `end`
        // and the request may be gone.
        unsafe {
            *(*end).status.get() = status;
            bindings::complete((*end).done.get());
        }
        bindings::rq_end_io_ret_RQ_END_IO_NONE
    }

    /// Waits, but not for long. Returns whether the request has ended.
    fn wait(&self) -> bool {
        // SAFETY: The completion is initialized.
        unsafe {
            bindings::wait_for_completion_timeout(self.done.get(), msecs_to_jiffies(POLL_MSECS))
                != 0
        }
    }

    /// To be called when [`Self::wait`] has returned true.
    fn status(&self) -> BlkStatus {
        // SAFETY: `done` is completed, so nobody writes to it any more.
        BlkStatus::from_raw(unsafe { *self.status.get() })
    }
}
