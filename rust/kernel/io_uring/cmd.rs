// SPDX-License-Identifier: GPL-2.0

//! The two states of a command: handed to the driver, and kept by the driver.

use super::{
    handler,
    CommandHandler,
    IssueFlags, //
};
use crate::{
    bindings,
    prelude::*,
    transmute::FromBytes, //
};
use core::{
    marker::PhantomData,
    mem::{
        align_of,
        offset_of,
        size_of,
        ManuallyDrop,
        MaybeUninit, //
    },
    ptr::NonNull, //
};

/// Where `cmd[]` starts in an SQE.
const PAYLOAD_OFFSET: usize = offset_of!(bindings::io_uring_sqe, __bindgen_anon_6);
/// Bytes of `cmd[]` in an SQE of 64 bytes.
pub(super) const PAYLOAD_MAX: usize = size_of::<bindings::io_uring_sqe>() - PAYLOAD_OFFSET;
/// Bytes of `cmd[]` in an SQE of 128 bytes.
const PAYLOAD128_MAX: usize = 2 * size_of::<bindings::io_uring_sqe>() - PAYLOAD_OFFSET;

const PDU_OFFSET: usize = offset_of!(bindings::io_uring_cmd, pdu);
const PDU_ALIGN: usize = align_of::<bindings::io_uring_cmd>();
/// Bytes that the driver may use in a command.
const PDU_SIZE: usize = offset_of!(bindings::io_uring_cmd, unused) - PDU_OFFSET;

const _: () = assert!(PAYLOAD_OFFSET % align_of::<u64>() == 0);
const _: () = assert!(PAYLOAD_MAX == 16 && PAYLOAD128_MAX == 80 && PDU_SIZE == 32);
const _: () = assert!(PDU_OFFSET % PDU_ALIGN == 0);
const _: () = assert!(LINK_OFFSET % align_of::<Link>() == 0 && PDU_ALIGN >= align_of::<Link>());

/// What a handler did with its command, for the handler to return to io_uring.
///
/// The only way to get one is to consume the command, and it is tied to the callback that the
/// command came with. So a handler can neither forget its command nor complete it twice:
///
/// ```ignore,compile_fail
/// # use kernel::io_uring::*;
/// fn keep_and_complete<'a, H>(cmd: IssuedCmd<'a, H>, data: H::Data) -> (QueuedCmd<H>, Outcome<'a>)
/// where
///     H: CommandHandler,
/// {
///     let (queued, _) = cmd.queue(data);
///     (queued, cmd.complete(Ok(0)))
/// }
/// ```
#[must_use = "io_uring has to be told what became of the command"]
pub struct Outcome<'a>(i32, Callback<'a>);

/// Ties a value to one callback: invariant in `'a`, so that it fits no other one.
pub(super) type Callback<'a> = PhantomData<fn(&'a ()) -> &'a ()>;

impl Outcome<'_> {
    const QUEUED: i32 = -(bindings::EIOCBQUEUED as i32);

    /// The command goes back to io_uring, with `res` as its result; `-EAGAIN` has it issued again.
    pub(super) fn finished(res: i32) -> Self {
        // With this result io_uring would believe that the command is still in use.
        if res == Self::QUEUED {
            Self(EIO.to_errno(), PhantomData)
        } else {
            Self(res, PhantomData)
        }
    }

    /// Somebody else owns the command now, and completes it later.
    pub(super) fn queued() -> Self {
        Self(Self::QUEUED, PhantomData)
    }

    pub(crate) fn into_raw(self) -> i32 {
        self.0
    }

    pub(super) fn is_queued(&self) -> bool {
        self.0 == Self::QUEUED
    }
}

/// Returns the ring that `cmd` belongs to, as an opaque value. Wraps C's
/// `io_uring_cmd_ctx_handle()`.
///
/// # Safety
///
/// `cmd` must be part of a valid `struct io_kiocb`.
#[inline]
pub(super) unsafe fn ring_of(cmd: NonNull<bindings::io_uring_cmd>) -> *mut c_void {
    // SAFETY: By the function's safety requirement.
    unsafe { bindings::io_uring_cmd_ctx_handle(cmd.as_ptr()) }
}

/// Returns where the driver's private data is.
///
/// # Safety
///
/// `cmd` must be valid.
pub(super) unsafe fn pdu<T>(cmd: NonNull<bindings::io_uring_cmd>) -> *mut T {
    const_assert!(
        size_of::<T>() <= PDU_SIZE,
        "private data of a command has at most 32 bytes"
    );
    const_assert!(
        align_of::<T>() <= PDU_ALIGN,
        "private data of a command is aligned to at most 8 bytes"
    );
    // SAFETY: By the function's safety requirement.
    unsafe { (&raw mut (*cmd.as_ptr()).pdu).cast() }
}

/// Bytes of private data in front of the link.
const LINK_OFFSET: usize = PDU_SIZE - size_of::<Link>();

/// The command behind this one in a [`TaskBatch`](super::TaskBatch).
pub(super) type Link = Option<NonNull<bindings::io_uring_cmd>>;

/// Returns where a command with data `T` has its [`Link`]: behind the data.
///
/// # Safety
///
/// `cmd` must be valid.
pub(super) unsafe fn link<T>(cmd: NonNull<bindings::io_uring_cmd>) -> *mut Link {
    const_assert!(
        size_of::<T>() <= LINK_OFFSET,
        "private data of a command in a batch has at most 24 bytes"
    );
    // SAFETY: By the function's safety requirement. The offset is within the private data, and
    // aligned as that is.
    unsafe { pdu::<[u8; PDU_SIZE]>(cmd).byte_add(LINK_OFFSET).cast() }
}

/// Reads `addr` of the SQE, which user space may write to at any time.
///
/// # Safety
///
/// `cmd` must be valid and its SQE must be readable.
pub(super) unsafe fn read_sqe_addr(cmd: NonNull<bindings::io_uring_cmd>) -> u64 {
    // SAFETY: By the safety requirement.
    unsafe {
        let sqe = (*cmd.as_ptr()).sqe;
        core::ptr::addr_of!((*sqe).__bindgen_anon_2.addr).read_volatile()
    }
}

/// Copies the first `size_of::<T>()` bytes of the SQE's `cmd[]`.
///
/// # Safety
///
/// `cmd` must be valid, its SQE must be readable, and have enough bytes for a `T` in `cmd[]`.
pub(super) unsafe fn read_payload<T: FromBytes>(cmd: NonNull<bindings::io_uring_cmd>) -> T {
    const WORD: usize = size_of::<u64>();
    let mut value = MaybeUninit::<T>::uninit();
    let dst = value.as_mut_ptr().cast::<u8>();
    // SAFETY: The caller promises a valid command with a readable SQE.
    let src = unsafe { (*cmd.as_ptr()).sqe.byte_add(PAYLOAD_OFFSET) }.cast::<u8>();

    // The SQE may be memory that user space can write at any time. Hence the reads are volatile,
    // and no byte is read twice.
    let mut at = 0;
    while at + WORD <= size_of::<T>() {
        // SAFETY: The caller promises that `size_of::<T>()` bytes can be read. An SQE and the
        // offset of `cmd[]` in it are aligned for a `u64`. `dst` has room for a `T`.
        unsafe {
            let word = src.add(at).cast::<u64>().read_volatile();
            dst.add(at).cast::<u64>().write_unaligned(word);
        }
        at += WORD;
    }
    while at < size_of::<T>() {
        // SAFETY: As above; a byte needs no alignment.
        unsafe { dst.add(at).write(src.add(at).read_volatile()) };
        at += 1;
    }
    // SAFETY: All bytes were written, and any bytes are a valid `T`.
    unsafe { value.assume_init() }
}

/// A command just handed to the driver, for the time of the callback.
///
/// The driver decides what becomes of it by calling one of the methods that consume it. Each gives
/// an [`Outcome`], which the handler has to return.
///
/// Wraps C's `struct io_uring_cmd`.
///
/// # Context
///
/// All methods can be called wherever the callback is, unless they say otherwise.
///
/// # Invariants
///
/// For the duration of `'a`, `cmd` is a valid command that nobody but this value completes or
/// queues, whose file has an `H::Ptr` as private data, and whose SQE can be read: 128 bytes of it
/// if `flags.sqe128()`, else 64. `flags` are those of the current callback for `cmd`. If they are
/// unlocked, the SQE is io_uring's own copy, which lasts as long as the command.
pub struct IssuedCmd<'a, H: CommandHandler> {
    cmd: NonNull<bindings::io_uring_cmd>,
    flags: IssueFlags<'a>,
    _callback: Callback<'a>,
    _handler: PhantomData<H>,
}

impl<'a, H: CommandHandler> IssuedCmd<'a, H> {
    /// # Safety
    ///
    /// The type invariants must hold for `cmd` and `flags`, and no other value may own `cmd`.
    pub(super) unsafe fn new(cmd: NonNull<bindings::io_uring_cmd>, flags: IssueFlags<'a>) -> Self {
        // INVARIANT: By the safety requirement.
        Self {
            cmd,
            flags,
            _callback: PhantomData,
            _handler: PhantomData,
        }
    }

    /// Returns the operation, C's `cmd_op`.
    pub fn op(&self) -> u32 {
        // SAFETY: The command is valid by the type invariant; nobody writes this field after the
        // command was prepared.
        unsafe { (*self.cmd.as_ptr()).cmd_op }
    }

    /// Copies the command's payload out of the SQE. At most 16 bytes.
    ///
    /// User space may change the SQE at any time, so that two calls may return different values:
    /// call it once, and check what it returned. The example of the
    /// [module](crate::io_uring#examples) does.
    pub fn payload<T: FromBytes + Copy>(&self) -> T {
        const_assert!(
            size_of::<T>() <= PAYLOAD_MAX,
            "payload of a 64-byte SQE has at most 16 bytes"
        );
        // SAFETY: By the type invariant the SQE is readable; the size was just checked.
        unsafe { read_payload(self.cmd) }
    }

    /// Copies the command's payload out of a 128-byte SQE. At most 80 bytes.
    ///
    /// As for [`payload`], call it once. Fails with `EINVAL` if the SQE has only 64 bytes.
    ///
    /// [`payload`]: Self::payload
    pub fn payload128<T: FromBytes + Copy>(&self) -> Result<T> {
        const_assert!(
            size_of::<T>() <= PAYLOAD128_MAX,
            "payload of a 128-byte SQE has at most 80 bytes"
        );
        if !self.flags.sqe128() {
            return Err(EINVAL);
        }
        // SAFETY: By the type invariant 128 bytes of the SQE are readable; the size was checked.
        Ok(unsafe { read_payload(self.cmd) })
    }

    /// Reads `addr` of the SQE, which some drivers use beside the payload.
    ///
    /// As for [`payload`](Self::payload), call it once.
    pub fn sqe_addr(&self) -> u64 {
        // SAFETY: By the type invariant the command is valid and its SQE readable.
        unsafe { read_sqe_addr(self.cmd) }
    }

    /// The C command.
    pub(super) fn raw(&self) -> NonNull<bindings::io_uring_cmd> {
        self.cmd
    }

    /// Completes the command with `res` as the result in its CQE.
    ///
    /// `EAGAIN` is no result but means [`retry_blocking`]. `EIOCBQUEUED` becomes `EIO`.
    ///
    /// [`retry_blocking`]: Self::retry_blocking
    pub fn complete(self, res: Result<i32>) -> Outcome<'a> {
        Outcome::finished(res.unwrap_or_else(|e| e.to_errno()))
    }

    /// Asks io_uring to issue the command again from a worker thread, where the handler may sleep.
    ///
    /// If it already may sleep, then the command completes with `EAGAIN` instead.
    pub fn retry_blocking(self) -> Outcome<'a> {
        Outcome::finished(EAGAIN.to_errno())
    }

    /// Keeps the command for later, with `data` in it. Does not allocate.
    ///
    /// Another thread may complete the returned command even before the handler returns.
    pub fn queue(self, data: H::Data) -> (QueuedCmd<H>, Outcome<'a>) {
        // SAFETY: The command is valid by the type invariant. Nobody else looks at its private
        // data: it is neither queued nor cancelable yet.
        unsafe { pdu::<H::Data>(self.cmd).write(data) };
        // INVARIANT: `self`, which was the owner, is consumed. The outcome says that the command is
        // queued, and the handler must return it.
        let queued = QueuedCmd {
            cmd: self.cmd,
            _handler: PhantomData,
        };
        (queued, Outcome::queued())
    }

    /// Like [`queue`], and [`CommandHandler::cancel`] is called when the ring or the task that
    /// issued the command goes away.
    ///
    /// # Context
    ///
    /// If the ring's lock is held, nothing is canceled until the handler returns. If it is not (see
    /// [`IssueFlags::unlocked`]), then this function takes and releases it, so that it may sleep,
    /// and a cancellation may come before it returns. Wraps C's `io_uring_cmd_mark_cancelable()`.
    ///
    /// [`queue`]: Self::queue
    pub fn queue_cancelable(self, data: H::Data) -> (QueuedCmd<H>, Outcome<'a>)
    where
        H::Data: Copy,
    {
        let bits = self.flags.bits();
        let (queued, outcome) = self.queue(data);
        // The private data must be there by now: from here on the cancel callback reads it.
        //
        // SAFETY: `queued` owns the command, so it is valid, and nobody completes it meanwhile.
        // `bits` are those that io_uring passed for this command.
        unsafe { bindings::io_uring_cmd_mark_cancelable(queued.cmd.as_ptr(), bits) };
        (queued, outcome)
    }

    /// Has the command handled by [`CommandHandler::deferred`] in the task that submitted it, with
    /// the ring locked.
    ///
    /// For handlers that depend on that task or lock and find [`IssueFlags::unlocked`]. If the lock
    /// is held, then the command first goes to a worker thread, as by [`retry_blocking`], because
    /// only then does io_uring have a copy of its SQE.
    ///
    /// [`retry_blocking`]: Self::retry_blocking
    pub fn defer_to_task(self) -> Outcome<'a> {
        const_assert!(H::DEFERS, "this kind of command can not be deferred");
        if !self.flags.unlocked() {
            return self.retry_blocking();
        }
        // SAFETY: The command is valid and its private data unused, as in `queue`.
        unsafe { pdu::<u32>(self.cmd).write(self.flags.shape()) };
        // SAFETY: The command is valid. It is given up with `self`, so the callback becomes its
        // only owner, finds the `u32` just written, and the SQE is a copy by the type invariant.
        unsafe {
            bindings::__io_uring_cmd_do_in_task(
                self.cmd.as_ptr(),
                Some(handler::run_deferred::<H>),
                0,
            )
        };
        Outcome::queued()
    }
}

/// A command that the driver keeps, to complete it later.
///
/// The value owns the completion, so there is exactly one: by [`done`], or by dropping the value,
/// which completes the command with `ECANCELED` from task work.
///
/// Wraps C's `struct io_uring_cmd`.
///
/// # Context
///
/// It may be sent to any thread. All methods can be called, and the value be dropped, in any
/// context, unless they say otherwise.
///
/// [`done`]: Self::done
///
/// # Invariants
///
/// - `cmd` is a valid command that io_uring takes for queued: an [`Outcome`] says so, or it is in
///   task work. It is not completed, and only this value may complete it.
/// - The command holds a reference to its file, which has an `H::Ptr` as private data.
/// - Its private data is an initialised `H::Data`, which nobody replaces until the command is
///   completed, and nobody uses the rest of it.
pub struct QueuedCmd<H: CommandHandler> {
    cmd: NonNull<bindings::io_uring_cmd>,
    _handler: PhantomData<H::Data>,
}

// SAFETY: A queued command may be completed by any thread. Its data may be sent by the bound on
// `CommandHandler::Data`.
unsafe impl<H: CommandHandler> Send for QueuedCmd<H> {}
// SAFETY: Through a shared reference one reads `cmd_op`, which does not change, and the data, which
// may be shared by the bound on `CommandHandler::Data`.
unsafe impl<H: CommandHandler> Sync for QueuedCmd<H> {}

impl<H: CommandHandler> QueuedCmd<H> {
    /// Takes over a command that was given up by [`into_raw`](Self::into_raw).
    ///
    /// # Safety
    ///
    /// The type invariants must hold for `cmd`.
    pub(super) unsafe fn from_raw(cmd: NonNull<bindings::io_uring_cmd>) -> Self {
        // INVARIANT: By the safety requirement.
        Self {
            cmd,
            _handler: PhantomData,
        }
    }

    /// The C command.
    pub(super) fn raw(&self) -> NonNull<bindings::io_uring_cmd> {
        self.cmd
    }

    /// Gives the command up without completing it.
    pub(super) fn into_raw(self) -> NonNull<bindings::io_uring_cmd> {
        ManuallyDrop::new(self).cmd
    }

    /// Returns the data that the command was queued with. Any context.
    pub fn data(&self) -> &H::Data {
        // SAFETY: By the type invariants it is initialised and not replaced while `self` exists.
        unsafe { &*pdu::<H::Data>(self.cmd) }
    }

    /// Returns the operation, C's `cmd_op`.
    pub fn op(&self) -> u32 {
        // SAFETY: The command is valid by the type invariant; nobody writes this field after the
        // command was prepared.
        unsafe { (*self.cmd.as_ptr()).cmd_op }
    }

    /// Completes the command with `res` as the result in its CQE, and drops its data.
    ///
    /// `flags` are those of the callback that the caller is in, or [`IssueFlags::UNLOCKED`]. If
    /// they do not prove that the command's own ring is locked, the CQE is posted by task work.
    ///
    /// # Context
    ///
    /// Any, except for a cancelable command if `flags` do not prove that its ring is locked. Then
    /// the function takes that lock: it sleeps, and must not be called with the lock of this or any
    /// other ring held. In such a place, use [`complete_in_task`](Self::complete_in_task) or drop
    /// the command.
    ///
    /// Wraps C's `io_uring_cmd_done()`.
    pub fn done(self, res: i32, flags: IssueFlags<'_>) {
        let cmd = self.into_raw();
        // SAFETY: The command was owned by `self`, thus valid.
        let flags = unsafe { flags.bits_for(ring_of(cmd)) };

        // The data has to be taken before the command is given away. A cancel callback may still
        // read the bits that stay behind: `__io_uring_cmd_done()` takes the command off the list of
        // cancelable ones, under the ring's lock, only before it completes it. The data of such a
        // command is `Copy`, as whoever marks it demands. So the bits may be read twice, and
        // nothing changes them meanwhile.
        //
        // SAFETY: By the type invariant it is initialised, and as `self` is gone nobody else takes
        // it out again.
        let data = unsafe { pdu::<H::Data>(cmd).read() };
        let data = ManuallyDrop::new(data);

        // SAFETY: By the type invariant, the command was queued and not completed, and `self` had
        // the only right to do it. `bits_for` returned flags that are true for its ring.
        unsafe { bindings::__io_uring_cmd_done(cmd.as_ptr(), res, 0, flags, false) };

        drop(ManuallyDrop::into_inner(data));
    }

    /// Has [`CommandHandler::task_work`] called in the task that submitted the command, with its
    /// ring locked.
    ///
    /// # Context
    ///
    /// Any. Wraps C's `io_uring_cmd_complete_in_task()`.
    pub fn complete_in_task(self) {
        // Not with `IOU_F_TWQ_LAZY_WAKE`, which is only for task work that posts one CQE at most: a
        // handler may complete other commands as well.
        self.schedule(handler::run_task_work::<H>);
    }

    fn schedule(self, callback: handler::TaskWorkFn) {
        // From here on the command belongs to the callback, which may run on another CPU at once.
        let cmd = self.into_raw();
        // SAFETY: By the type invariant, the command was valid and owned by `self`, which is gone.
        // Both callbacks that are passed here take over a queued command of `H`.
        unsafe { bindings::__io_uring_cmd_do_in_task(cmd.as_ptr(), Some(callback), 0) };
    }
}

impl<H: CommandHandler> Drop for QueuedCmd<H> {
    fn drop(&mut self) {
        // Completing it here could sleep or take a lock that is already held, so task work does.
        //
        // INVARIANT: `self` is being dropped, so the new value is the only owner.
        let this = Self {
            cmd: self.cmd,
            _handler: PhantomData,
        };
        this.schedule(handler::run_abandoned::<H>);
    }
}

#[cfg(CONFIG_RUST_IO_URING_KUNIT_TEST)]
#[macros::kunit_tests(rust_io_uring_cmd)]
mod tests {
    use super::*;
    use crate::io_uring::NoQueue;

    /// A request as io_uring would hand it to a driver, with an SQE of 128 bytes.
    struct Fake {
        req: KBox<bindings::io_kiocb>,
        sqe: KBox<[u64; 16]>,
    }

    impl Fake {
        fn new() -> Result<Self> {
            let mut sqe = KBox::new([0u64; 16], GFP_KERNEL)?;
            for (i, word) in sqe.iter_mut().enumerate() {
                *word = i as u64;
            }
            Ok(Self {
                req: KBox::init(pin_init::init_zeroed(), GFP_KERNEL)?,
                sqe,
            })
        }

        /// Calls `f` with the command, which it has to consume.
        fn issue(
            &mut self,
            bits: i32,
            f: impl for<'a> FnOnce(IssuedCmd<'a, NoQueue<()>>) -> Outcome<'a>,
        ) -> i32 {
            let cmd = NonNull::from(&mut *self.req).cast::<bindings::io_uring_cmd>();
            // SAFETY: The command is the first part of a request, which is ours.
            unsafe {
                (*cmd.as_ptr()).cmd_op = 0x1234;
                (*cmd.as_ptr()).sqe = self.sqe.as_ptr().cast();
            }
            // SAFETY: No ring is involved: the tests neither queue nor defer the command.
            let flags = unsafe { IssueFlags::from_raw(bits as u32, core::ptr::null_mut()) };
            // SAFETY: The SQE is readable, and `f` is the only user of the command.
            f(unsafe { IssuedCmd::new(cmd, flags) }).into_raw()
        }
    }

    #[test]
    fn payload_is_copied() -> Result {
        let res = Fake::new()?.issue(0, |cmd| {
            assert_eq!(cmd.op(), 0x1234);
            assert_eq!(cmd.payload::<[u64; 2]>(), [6, 7]);
            assert_eq!(cmd.payload::<u8>(), 6u64.to_ne_bytes()[0]);
            assert!(cmd.payload128::<u64>() == Err(EINVAL));
            cmd.complete(Ok(5))
        });
        assert_eq!(res, 5);
        Ok(())
    }

    #[test]
    fn payload128_is_copied() -> Result {
        let sqe128 = bindings::io_uring_cmd_flags_IO_URING_F_SQE128;
        let res = Fake::new()?.issue(sqe128, |cmd| {
            let payload = cmd.payload128::<[u64; 10]>();
            assert!(payload == Ok([6, 7, 8, 9, 10, 11, 12, 13, 14, 15]));
            // An odd size ends in the middle of a word.
            let bytes = cmd.payload128::<[u8; 11]>().unwrap_or([0; 11]);
            assert_eq!(bytes[..8], 6u64.to_ne_bytes());
            assert_eq!(bytes[8..], 7u64.to_ne_bytes()[..3]);
            cmd.complete(Err(ENOENT))
        });
        assert_eq!(res, ENOENT.to_errno());
        Ok(())
    }

    #[test]
    fn outcomes_are_told_apart() -> Result {
        let mut fake = Fake::new()?;
        let res = fake.issue(0, |cmd| cmd.complete(Ok(Outcome::QUEUED)));
        assert_eq!(res, EIO.to_errno());
        let res = fake.issue(0, |cmd| cmd.retry_blocking());
        assert_eq!(res, EAGAIN.to_errno());
        assert!(Outcome::queued().is_queued());
        assert!(!Outcome::finished(0).is_queued());
        Ok(())
    }
}
