// SPDX-License-Identifier: GPL-2.0

//! The driver's side of a fused command.
//!
//! A fused command is a primary, which goes to the driver, and secondaries, which are ordinary
//! io_uring requests. The driver may lease a kernel buffer to the secondaries, and starts them. The
//! primary completes, without the driver, when all secondaries did; or the driver gets it back
//! then, as an ordinary command that waits for something else.
//!
//! C header: [`include/linux/io_uring/fused.h`](srctree/include/linux/io_uring/fused.h)

use super::{
    cmd::Callback,
    CmdRef,
    CommandHandler,
    Outcome, //
};
use crate::{
    bindings,
    prelude::*,
    transmute::FromBytes,
    types::ForeignOwnable, //
};
use core::marker::PhantomData;

mod parts;

pub use self::parts::{
    PartLessor,
    PartMemory, //
};

#[cfg(CONFIG_IO_URING_FUSED_CMD)]
use super::{
    cmd,
    handler,
    IssueFlags, //
};
#[cfg(CONFIG_IO_URING_FUSED_CMD)]
use core::{
    mem::size_of,
    ptr::{
        self,
        NonNull, //
    }, //
};

/// The most secondaries of a command.
pub const MAX_SECONDARIES: u32 = bindings::IORING_FUSED_MAX_SECONDARY;

/// Which way data moves through a leased buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// The secondaries write the buffer.
    Dest,
    /// The secondaries read the buffer.
    Source,
}

/// Describes a buffer: what [`Lessor::table`] returns.
#[cfg_attr(not(CONFIG_IO_URING_FUSED_CMD), allow(dead_code))]
pub struct BvecTable {
    pub(crate) bvec: *const bindings::bio_vec,
    pub(crate) nr: u32,
    /// Bytes of the first entry that do not belong to the buffer.
    pub(crate) skip: u32,
    pub(crate) len: usize,
    pub(crate) dir: Direction,
}

#[cfg(CONFIG_IO_URING_FUSED_CMD)]
impl BvecTable {
    /// How C describes a lease of the buffer, which `release` and `private` get back.
    #[inline(always)]
    fn as_lease(
        &self,
        private: *mut c_void,
        release: Option<unsafe extern "C" fn(*mut c_void)>,
    ) -> bindings::io_fused_lease {
        bindings::io_fused_lease {
            bvec: self.bvec,
            nr_bvecs: self.nr,
            skip: self.skip,
            len: self.len,
            dir: match self.dir {
                Direction::Dest => bindings::ITER_DEST as u8,
                Direction::Source => bindings::ITER_SOURCE as u8,
            },
            release,
            priv_: private,
        }
    }
}

/// Something that can lend a buffer to the secondaries of a fused command.
///
/// # Safety
///
/// What [`table`](Self::table) returned must describe memory that stays valid, with a table that
/// stays valid and unchanged, from then on until [`ended`](Self::ended), or
/// [`part_ended`](PartLessor::part_ended), is called or the value is dropped, also while the value
/// is in its foreign form.
pub unsafe trait Lessor: ForeignOwnable + Send + 'static {
    /// Returns the buffer to lend.
    fn table(&self) -> BvecTable;

    /// Gives the buffer back. Called once, when the last user of the lease is gone.
    ///
    /// # Context
    ///
    /// Task context with the ring's `uring_lock` held, possibly in another task than the one that
    /// submitted the command.
    fn ended(self);
}

/// The primary of a fused command, just handed to the driver.
///
/// The driver checks it, and starts the secondaries or refuses. It can not be queued.
///
/// # Invariants
///
/// For the duration of `'a`, `cmd` is a valid primary that was handed to `->uring_cmd()` with
/// `flags`, and whose SQE can be read. It did not start anything yet, and what it leases was lent
/// by [`Self::lease_part`]. Nobody but this value acts on it.
pub struct FusedCmd<'a, H: CommandHandler> {
    #[cfg(CONFIG_IO_URING_FUSED_CMD)]
    cmd: NonNull<bindings::io_uring_cmd>,
    #[cfg(CONFIG_IO_URING_FUSED_CMD)]
    flags: IssueFlags<'a>,
    /// There are no such commands.
    #[cfg(not(CONFIG_IO_URING_FUSED_CMD))]
    never: core::convert::Infallible,
    _callback: Callback<'a>,
    _handler: PhantomData<H>,
}

impl<'a, H: CommandHandler> FusedCmd<'a, H> {
    /// Refuses the command: its CQE carries `e`, and no secondary is issued.
    ///
    /// As for any command, `EAGAIN` means that io_uring should try again where it may sleep. But
    /// not once a buffer was lent by [`Self::lease_part`], which can not be undone: then the CQE
    /// carries `EIO`.
    pub fn refuse(self, e: Error) -> Outcome<'a> {
        Outcome::finished(e.to_errno())
    }
}

#[cfg(CONFIG_IO_URING_FUSED_CMD)]
impl<'a, H: CommandHandler> FusedCmd<'a, H> {
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

    /// The command as a way to its ring. Any context.
    pub fn as_cmd(&self) -> CmdRef<'_> {
        // SAFETY: By the type invariant the command is valid. It does not complete before it is
        // turned into an outcome, which takes this value.
        unsafe { CmdRef::new(self.cmd) }
    }

    /// Copies the primary's payload out of the SQE. At most 16 bytes.
    ///
    /// User space may change the SQE at any time: call it once, and check what it returned.
    pub fn payload<T: FromBytes + Copy>(&self) -> T {
        const_assert!(
            size_of::<T>() <= cmd::PAYLOAD_MAX,
            "payload of a primary has at most 16 bytes"
        );
        // SAFETY: By the type invariant the SQE is readable, and any SQE has 16 bytes of payload.
        unsafe { cmd::read_payload(self.cmd) }
    }

    /// Reads `addr` of the SQE, which some drivers use beside the payload.
    ///
    /// As for [`payload`](Self::payload), call it once.
    pub fn sqe_addr(&self) -> u64 {
        // SAFETY: By the type invariant the SQE is readable.
        unsafe { cmd::read_sqe_addr(self.cmd) }
    }

    /// How many secondaries the command has.
    pub fn nr_secondaries(&self) -> u32 {
        // SAFETY: By the type invariant this is a primary in `->uring_cmd()`, which is the first
        // member of its request and has a group. Its secondaries have been counted.
        unsafe {
            (*(*self.cmd.as_ptr().cast::<bindings::io_kiocb>()).group)
                .nr
                .into()
        }
    }

    /// Whether the secondaries need a buffer from the driver (`IORING_FUSED_CMD_BUF`).
    pub fn wants_buffer(&self) -> bool {
        // SAFETY: By the type invariant the command is a valid primary that only this value acts
        // on: its flags were set before it came to the driver, and nobody writes them meanwhile.
        unsafe { (*self.cmd.as_ptr()).flags & bindings::IORING_FUSED_CMD_BUF != 0 }
    }

    /// Lends the buffer of `lessor` to the secondaries and starts them.
    ///
    /// When the last of them is done with it, [`Lessor::ended`] is called. If io_uring refuses the
    /// buffer, `lessor` is dropped instead, and the primary completes with that error: `EINVAL` if
    /// they need none or move data the other way, or after [`Self::lease_part`].
    ///
    /// # Context
    ///
    /// That of the handler; works for [`IssueFlags::unlocked`] too.
    pub fn lease<L: Lessor>(self, lessor: L) -> Outcome<'a> {
        self.lend(lessor, None)
    }

    /// Like [`lease`](Self::lease), and when the command would complete it goes to
    /// [`CommandHandler::group_ended`] instead, queued with `data`. Refused with `EINVAL` if a
    /// secondary is a uring command, whose result is no number of bytes.
    ///
    /// # Context
    ///
    /// That of the handler; works for [`IssueFlags::unlocked`] too.
    pub fn lease_and_keep<L: Lessor>(self, lessor: L, data: H::Data) -> Outcome<'a>
    where
        H::Data: Copy,
    {
        // SAFETY: The command is valid by the type invariant, and nobody looks at its private data
        // before it is queued.
        unsafe { cmd::pdu::<H::Data>(self.cmd).write(data) };
        self.lend(lessor, Some(handler::run_group_ended::<H>))
    }

    /// Lends the buffer of `lessor` and starts the secondaries; `done` gets the command back. If
    /// there is one, the command has initialised data.
    #[inline(always)]
    fn lend<L: Lessor>(self, lessor: L, done: GroupEndedFn) -> Outcome<'a> {
        let table = lessor.table();
        let private = lessor.into_foreign();
        let lease = table.as_lease(private, Some(end_lease::<L>));

        // SAFETY: By the type invariant this is a primary in `->uring_cmd()` with these flags, and
        // it was not started. It is given up with `self`, to `done` if there is one. By the safety
        // requirements of `Lessor`, the table is valid until the lease ends. `end_lease::<L>` takes
        // `private`, once.
        let ret = unsafe {
            bindings::io_fused_cmd_start(self.cmd.as_ptr(), &lease, done, self.flags.bits())
        };
        if ret != TAKEN {
            // SAFETY: After an error, the callback is not called, so this is the only taker.
            drop(unsafe { L::from_foreign(private) });
        }
        outcome_of(ret)
    }

    /// Has the handler called again by the task that submitted the command, with the lock of its
    /// ring held. Only where the lock is not held ([`IssueFlags::unlocked`]), and nothing was lent
    /// by [`Self::lease_part`], else the command fails with `EINVAL`.
    ///
    /// # Context
    ///
    /// That of the handler.
    pub fn defer_to_task(self) -> Outcome<'a> {
        // SAFETY: By the type invariant this is a primary in `->uring_cmd()`, and it was not
        // started. It is given up with `self`.
        outcome_of(unsafe { bindings::io_fused_cmd_defer(self.cmd.as_ptr()) })
    }

    /// Starts the secondaries without a buffer, or with those that [`Self::lease_part`] has lent
    /// them. The command fails with `EINVAL` if they need one.
    ///
    /// # Context
    ///
    /// That of the handler; works for [`IssueFlags::unlocked`] too.
    pub fn start(self) -> Outcome<'a> {
        // SAFETY: By the type invariant this is a primary in `->uring_cmd()` with these flags, and
        // it was not started. It is given up with `self`.
        outcome_of(unsafe {
            bindings::io_fused_cmd_start(self.cmd.as_ptr(), ptr::null(), None, self.flags.bits())
        })
    }
}

/// What becomes of a command for which `io_fused_cmd_start()` returned `ret`.
#[cfg(CONFIG_IO_URING_FUSED_CMD)]
#[inline(always)]
fn outcome_of<'a>(ret: c_int) -> Outcome<'a> {
    match ret {
        TAKEN => Outcome::queued(),
        refused => Outcome::finished(refused),
    }
}

/// C's callback for a primary that the driver keeps.
#[cfg(CONFIG_IO_URING_FUSED_CMD)]
type GroupEndedFn = Option<unsafe extern "C" fn(*mut bindings::io_uring_cmd, c_int)>;

/// What `io_fused_cmd_start()` returns when the command is not the driver's any more.
#[cfg(CONFIG_IO_URING_FUSED_CMD)]
const TAKEN: c_int = -(bindings::EIOCBQUEUED as c_int);

/// Without the fused command in the kernel there is no value of the type to call these with.
#[cfg(not(CONFIG_IO_URING_FUSED_CMD))]
#[expect(missing_docs)]
impl<'a, H: CommandHandler> FusedCmd<'a, H> {
    pub fn op(&self) -> u32 {
        match self.never {}
    }

    pub fn as_cmd(&self) -> CmdRef<'_> {
        match self.never {}
    }

    pub fn payload<T: FromBytes + Copy>(&self) -> T {
        match self.never {}
    }

    pub fn sqe_addr(&self) -> u64 {
        match self.never {}
    }

    pub fn nr_secondaries(&self) -> u32 {
        match self.never {}
    }

    pub fn wants_buffer(&self) -> bool {
        match self.never {}
    }

    pub fn lease<L: Lessor>(self, _lessor: L) -> Outcome<'a> {
        match self.never {}
    }

    pub fn lease_and_keep<L: Lessor>(self, _lessor: L, _data: H::Data) -> Outcome<'a>
    where
        H::Data: Copy,
    {
        match self.never {}
    }

    pub fn defer_to_task(self) -> Outcome<'a> {
        match self.never {}
    }

    pub fn start(self) -> Outcome<'a> {
        match self.never {}
    }
}

/// Called by io_uring when a lease ends.
///
/// # Safety
///
/// `private` must come from `L::into_foreign` and not be used again.
#[cfg(CONFIG_IO_URING_FUSED_CMD)]
unsafe extern "C" fn end_lease<L: Lessor>(private: *mut c_void) {
    // SAFETY: By the safety requirement.
    unsafe { L::from_foreign(private) }.ended();
}
