// SPDX-License-Identifier: GPL-2.0

//! A device that lends buffers of its own to fused commands.
//!
//! `/dev/rust_fused_cmd` shows how a driver serves `IORING_OP_FUSED_CMD`. Each open file has some
//! buffers. The primary of a fused command lends a part of one to its secondaries, and read(2) and
//! write(2) on the file reach the buffers one behind the other. Its commands are among those of
//! `io_uring/mock_file.c`, so that the tests in `tools/testing/selftests/io_uring/` can send their
//! groups to either.
//!
//! A buffer is in one place at a time: in [`Buffers`], lent, or being copied. Who finds it gone
//! gets `EBUSY`.

use kernel::{
    chrdev::{
        CharDevice,
        CharDeviceRegistration,
        Class,
        Region, //
    },
    fs::{
        File,
        Kiocb, //
    },
    io_uring::{
        CommandHandler,
        Direction,
        FusedCmd,
        HeapLoan,
        IssueFlags,
        IssuedCmd,
        Outcome,
        PageBuf,
        PageBufOwner,
        PageLoan,
        QueuedCmd, //
    },
    iov::{
        IovIterDest,
        IovIterSource, //
    },
    new_spinlock,
    prelude::*,
    sync::{
        Arc,
        ArcBorrow,
        SpinLock, //
    },
};

module! {
    type: FusedSample,
    name: "rust_fused_cmd",
    description: "Sample of a driver that serves fused io_uring commands",
    license: "GPL v2",
}

/// Lend a part of a buffer.
const OP_LEND: u32 = 1;
/// Start the secondaries without a buffer.
const OP_START: u32 = 2;
/// Refuse the command, with the error number `arg`.
const OP_REFUSE: u32 = 3;
/// An ordinary command, whose result is `arg`.
const OP_RESULT: u32 = 4;

/// Either kind of command; its result is 1 if its SQE has 128 bytes, else 0.
const OP_IS_128: u32 = 5;
/// As [`OP_LEND`], but the command is kept when the buffer is back.
const OP_KEEP: u32 = 6;
/// Complete the command that is kept. The result of this one is what the other would have
/// completed with, and its result is `arg`.
const OP_RELEASE: u32 = 7;

/// As [`OP_LEND`], but `len` bytes that are allocated for it, and freed afterwards: see
/// [`HeapLoan`].
const OP_LEND_MEMORY: u32 = 8;
/// An ordinary command. Its result is how many references there still were on the pages of the last
/// such memory when nobody used it any more: more than 0 is a bug.
const OP_STRAY: u32 = 9;

/// Lend it to be read, else to be written.
const SOURCE: u16 = 1;
/// Act as if the driver had to sleep first.
const BLOCKING: u16 = 2;

/// Buffers of a file, and pages of a buffer.
const NR_BUFFERS: usize = 16;
const PAGES: usize = 16;

/// The 16 bytes of payload of a command.
#[derive(Clone, Copy)]
struct Payload {
    buffer: u16,
    flags: u16,
    offset: u32,
    len: u32,
    arg: u32,
}

impl Payload {
    /// As user space lays it out: two `__u16`, three `__u32`, in native order.
    fn new(words: [u32; 4]) -> Self {
        let [first, offset, len, arg] = words;
        let [a, b, c, d] = first.to_ne_bytes();

        Self {
            buffer: u16::from_ne_bytes([a, b]),
            flags: u16::from_ne_bytes([c, d]),
            offset,
            len,
            arg,
        }
    }

    fn dir(&self) -> Direction {
        if self.flags & SOURCE != 0 {
            Direction::Source
        } else {
            Direction::Dest
        }
    }
}

/// The private data of an open file.
#[pin_data]
struct Buffers {
    /// [`None`] in the place of a buffer that is in use.
    #[pin]
    place: SpinLock<[Option<PageBuf>; NR_BUFFERS]>,
    /// A primary whose group is over, and the result of that.
    #[pin]
    kept: SpinLock<Option<(QueuedCmd<Commands>, i32)>>,
    /// What [`OP_STRAY`] tells.
    #[pin]
    stray: SpinLock<i32>,
}

impl Buffers {
    fn new() -> Result<Arc<Self>> {
        let mut buffers = [const { None }; NR_BUFFERS];

        for buffer in &mut buffers {
            *buffer = Some(PageBuf::new(PAGES, GFP_KERNEL)?);
        }
        Arc::pin_init(
            pin_init!(Self {
                place <- new_spinlock!(buffers),
                kept <- new_spinlock!(None),
                stray <- new_spinlock!(0),
            }),
            GFP_KERNEL,
        )
    }

    fn take(&self, index: usize) -> Result<PageBuf> {
        self.place
            .lock()
            .get_mut(index)
            .ok_or(EINVAL)?
            .take()
            .ok_or(EBUSY)
    }

    fn put(&self, index: usize, buf: PageBuf) {
        if let Some(place) = self.place.lock().get_mut(index) {
            *place = Some(buf);
        }
    }

    /// Calls `copy` with the buffer that is at `pos` of the file, and the place in it.
    fn with_buffer(
        &self,
        pos: i64,
        copy: impl FnOnce(&mut PageBuf, usize) -> usize,
    ) -> Result<usize> {
        let pos = usize::try_from(pos)?;
        let len = PAGES * kernel::page::PAGE_SIZE;
        let index = pos / len;
        let mut buf = self.take(index)?;
        let copied = copy(&mut buf, pos % len);

        self.put(index, buf);
        Ok(copied)
    }
}

/// Where a buffer goes when it comes back.
struct Place {
    file: Arc<Buffers>,
    index: usize,
}

impl PageBufOwner for Place {
    fn returned(self, buf: PageBuf) {
        self.file.put(self.index, buf);
    }
}

/// Prepares to lend `len` bytes of memory of `kmalloc()`, each with its number modulo 251.
fn memory(
    file: Arc<Buffers>,
    len: u32,
    dir: Direction,
) -> Result<KBox<HeapLoan<impl FnOnce(i32) + Send + 'static>>> {
    let mut bytes = KVec::with_capacity(len as usize, GFP_KERNEL | __GFP_NOWARN)?;

    for i in 0..len {
        bytes.push((i % 251) as u8, GFP_KERNEL)?;
    }
    HeapLoan::new(
        bytes,
        dir,
        move |left| *file.stray.lock() = left,
        GFP_KERNEL,
    )
}

/// The commands of the device.
struct Commands;

/// Makes the loan that a command asks for.
fn loan(file: Arc<Buffers>, cmd: Payload) -> Result<KBox<PageLoan<Place>>> {
    let index = usize::from(cmd.buffer);
    let start = cmd.offset as usize;
    let end = start.checked_add(cmd.len as usize).ok_or(EINVAL)?;
    let buf = file.take(index)?;

    PageLoan::new(
        buf,
        start..end,
        cmd.dir(),
        Place { file, index },
        GFP_KERNEL,
    )
}

impl CommandHandler for Commands {
    type Ptr = Arc<Buffers>;
    type Data = ();
    const FUSED: bool = true;

    fn issue<'a>(
        file: ArcBorrow<'a, Buffers>,
        cmd: IssuedCmd<'a, Self>,
        flags: IssueFlags<'a>,
    ) -> Outcome<'a> {
        let payload = Payload::new(cmd.payload());
        let cmd_ring = cmd.as_cmd().ring();

        match cmd.op() {
            OP_RESULT => cmd.complete(Ok(payload.arg as i32)),
            OP_IS_128 => cmd.complete(Ok(flags.sqe128().into())),
            OP_STRAY => {
                let stray = *file.stray.lock();

                cmd.complete(Ok(stray))
            }
            OP_RELEASE if flags.unlocked() => cmd.defer_to_task(),
            OP_RELEASE => {
                let released = file.kept.lock().take().ok_or(ENOENT);

                cmd.complete(released.map(|(kept, result)| {
                    // Completing it takes the lock of its ring; else it is canceled, by its task.
                    if kept.as_cmd().ring() == cmd_ring {
                        kept.done(payload.arg as i32, flags);
                    }
                    result
                }))
            }
            _ => cmd.complete(Err(EINVAL)),
        }
    }

    fn fused<'a>(
        file: ArcBorrow<'a, Buffers>,
        cmd: FusedCmd<'a, Self>,
        flags: IssueFlags<'a>,
    ) -> Outcome<'a> {
        let payload = Payload::new(cmd.payload());

        if payload.flags & !(SOURCE | BLOCKING) != 0 {
            return cmd.refuse(EINVAL);
        }
        if payload.flags & BLOCKING != 0 && flags.nonblock() {
            return cmd.refuse(EAGAIN);
        }
        match cmd.op() {
            OP_LEND => match loan(file.into(), payload) {
                Ok(loan) => cmd.lease(loan),
                Err(e) => cmd.refuse(e),
            },
            OP_KEEP => match loan(file.into(), payload) {
                Ok(loan) => cmd.lease_and_keep(loan, ()),
                Err(e) => cmd.refuse(e),
            },
            OP_LEND_MEMORY => match memory(file.into(), payload.len, payload.dir()) {
                Ok(memory) => cmd.lease(memory),
                Err(e) => cmd.refuse(e),
            },
            OP_START => cmd.start(),
            OP_REFUSE => cmd.refuse(error(payload.arg)),
            // A refusal is the only result of its own that a primary has.
            OP_IS_128 if flags.sqe128() => cmd.refuse(EPERM),
            OP_IS_128 => cmd.start(),
            _ => cmd.refuse(ENOTTY),
        }
    }

    fn group_ended(
        file: ArcBorrow<'_, Buffers>,
        cmd: QueuedCmd<Self>,
        result: i32,
        _flags: IssueFlags<'_>,
    ) {
        // There is one place only; who had it before is canceled.
        let before = file.kept.lock().replace((cmd, result));

        drop(before);
    }

    fn cancel(file: ArcBorrow<'_, Buffers>, _data: &(), _flags: IssueFlags<'_>) {
        // Dropping a command cancels it.
        drop(file.kept.lock().take());
    }
}

/// The error with this number; [`EINVAL`] if it is none.
fn error(number: u32) -> Error {
    match i32::try_from(number) {
        // Among them are codes that only the kernel itself uses, as a driver might by mistake.
        Ok(number @ 1..=4095) => Error::from_errno(-number),
        _ => EINVAL,
    }
}

/// The device.
struct Device;

#[vtable]
impl CharDevice for Device {
    type Context = ();
    type Ptr = Arc<Buffers>;
    type Cmd = Commands;

    fn open(_ctx: &(), _file: &File) -> Result<Arc<Buffers>> {
        Buffers::new()
    }

    fn read_iter(mut kiocb: Kiocb<'_, Self::Ptr>, iov: &mut IovIterDest<'_>) -> Result<usize> {
        let pos = kiocb.ki_pos();
        let copied = kiocb
            .file()
            .with_buffer(pos, |buf, offset| buf.copy_to_iter(offset, iov))?;

        if copied == 0 && !iov.is_empty() {
            return Err(EFAULT);
        }
        *kiocb.ki_pos_mut() += copied as i64;
        Ok(copied)
    }

    fn write_iter(mut kiocb: Kiocb<'_, Self::Ptr>, iov: &mut IovIterSource<'_>) -> Result<usize> {
        let pos = kiocb.ki_pos();
        let copied = kiocb
            .file()
            .with_buffer(pos, |buf, offset| buf.copy_from_iter(offset, iov))?;

        if copied == 0 && !iov.is_empty() {
            return Err(EFAULT);
        }
        *kiocb.ki_pos_mut() += copied as i64;
        Ok(copied)
    }
}

/// The loaded module. The fields are dropped in their order.
struct FusedSample {
    _dev: CharDeviceRegistration<Device>,
    _class: Class,
    _region: Region,
}

impl kernel::Module for FusedSample {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        let region = Region::new(1, c"rust_fused_cmd")?;
        let class = Class::new(c"rust_fused_cmd")?;
        let dev =
            CharDeviceRegistration::new(&region, &class, 0, None, fmt!("rust_fused_cmd"), ())?;

        Ok(Self {
            _dev: dev,
            _class: class,
            _region: region,
        })
    }
}
