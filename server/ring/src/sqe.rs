// SPDX-License-Identifier: GPL-2.0

//! Entries of the submission queue.

use io_uring::squeue::Entry;
use ublk_sys::uapi::IoOp;

/// A file of a ring, by its position in the table that the ring was made with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FileIndex(pub u32);

/// Which way data go between a block request and files.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// From a file to the request: a block READ.
    Fill,
    /// From the request to a file: a block WRITE.
    Drain,
}

/// A command of a queue's server to `/dev/ublkcN`.
#[derive(Clone, Copy, Debug)]
pub struct IoCmd {
    /// What to do.
    pub op: IoOp,
    /// The queue.
    pub q_id: u16,
    /// The tag.
    pub tag: u16,
    /// With a commit: what the request ends with.
    pub result: i32,
    /// With `UBLK_F_AUTO_BUF_REG`: which entry of the ring's buffer table the next
    /// request's data shall be.
    pub auto_index: Option<u16>,
}

/// A command of a queue's server about many requests.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BatchCmd {
    pub(crate) op: IoOp,
    pub(crate) q_id: u16,
    /// How many elements of how many bytes there are.
    pub(crate) elements: u16,
    pub(crate) bytes: u8,
}

/// One of the requests that move the data of a fused command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Secondary {
    /// The file.
    pub file: FileIndex,
    /// Where in the file.
    pub offset: u64,
    /// Where in the data of the block request.
    pub at: u32,
    /// How much, in bytes.
    pub len: u32,
    /// A write has to be on the medium when it completes.
    pub sync: bool,
    /// What the file is.
    pub kind: Kind,
}

/// What kind of file a [`Secondary`] moves data from or to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// One with offsets.
    File,
    /// A stream socket, of which all is received or sent that was asked for, unless
    /// there is an error, the end or a signal. The offset is 0.
    Socket {
        /// More is sent at once.
        more: bool,
    },
}

const OP_FSYNC: u8 = 3;
const OP_READ_FIXED: u8 = 4;
const OP_WRITE_FIXED: u8 = 5;
const OP_FALLOCATE: u8 = 17;
const OP_READ: u8 = 22;
const OP_WRITE: u8 = 23;
const OP_SEND: u8 = 26;
const OP_RECV: u8 = 27;
const OP_URING_CMD: u8 = 46;
pub(crate) const OP_FUSED_CMD: u8 = 65;

const SQE_FIXED_FILE: u8 = 1 << 0;
const SQE_CQE_SKIP_SUCCESS: u8 = 1 << 6;

const SQE_BUFFER_SELECT: u8 = 1 << 5;

const URING_CMD_MULTISHOT: u32 = 1 << 1;
const FSYNC_DATASYNC: u32 = 1;
const FUSED_CMD_BUF: u32 = 1 << 2;
const RWF_DSYNC: u32 = 2;
const MSG_WAITALL: u32 = 0x100;
const MSG_NOSIGNAL: u32 = 0x4000;
const MSG_MORE: u32 = 0x8000;

/// `struct io_uring_sqe`, with the names of the fields that we use.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub(crate) struct Sqe {
    opcode: u8,
    flags: u8,
    ioprio: u16,
    fd: u32,
    /// `off`, or `cmd_op`.
    off: u64,
    addr: u64,
    len: u32,
    /// `rw_flags`, `fsync_flags`, `uring_cmd_flags`.
    op_flags: u32,
    user_data: u64,
    /// `buf_index`, or `nr_secondary`.
    buf_index: u16,
    personality: u16,
    file_index: u32,
    cmd: [u8; 16],
}

const _: () = assert!(size_of::<Sqe>() == size_of::<Entry>() && align_of::<Sqe>() == align_of::<Entry>());

impl Sqe {
    fn new(opcode: u8, file: FileIndex) -> Sqe {
        Sqe { opcode, flags: SQE_FIXED_FILE, fd: file.0, ..Sqe::default() }
    }

    pub(crate) fn fsync(file: FileIndex) -> Sqe {
        Sqe { op_flags: FSYNC_DATASYNC, ..Sqe::new(OP_FSYNC, file) }
    }

    pub(crate) fn fallocate(file: FileIndex, mode: u32, offset: u64, len: u64) -> Sqe {
        Sqe { off: offset, addr: len, len: mode, ..Sqe::new(OP_FALLOCATE, file) }
    }

    /// A read or write of memory at `addr`.
    pub(crate) fn transfer(direction: Direction, piece: &Secondary, addr: u64) -> Sqe {
        let Kind::Socket { more } = piece.kind else { return Sqe::read_or_write(direction, piece, addr) };
        let (opcode, more) = match direction {
            Direction::Fill => (OP_RECV, 0),
            Direction::Drain => (OP_SEND, if more { MSG_MORE } else { 0 }),
        };
        let op_flags = MSG_WAITALL | MSG_NOSIGNAL | more;
        Sqe { addr, len: piece.len, op_flags, ..Sqe::new(opcode, piece.file) }
    }

    fn read_or_write(direction: Direction, piece: &Secondary, addr: u64) -> Sqe {
        let opcode = if direction == Direction::Fill { OP_READ } else { OP_WRITE };
        let op_flags = if piece.sync && direction == Direction::Drain { RWF_DSYNC } else { 0 };
        Sqe { off: piece.offset, addr, len: piece.len, op_flags, ..Sqe::new(opcode, piece.file) }
    }

    /// A read or write of a buffer in the ring's table, which only drivers fill:
    /// `piece.at` is an offset into that. Sockets can be read and written as well, and
    /// nothing else takes such a buffer there.
    pub(crate) fn fixed(direction: Direction, buffer: u16, piece: &Secondary) -> Sqe {
        let opcode = if direction == Direction::Fill { OP_READ_FIXED } else { OP_WRITE_FIXED };
        let plain = Sqe::read_or_write(direction, piece, piece.at.into());
        Sqe { opcode, buf_index: buffer, ..plain }
    }

    /// A command to the driver. The address of a buffer is never part of it.
    pub(crate) fn command(device: FileIndex, cmd: &IoCmd) -> Sqe {
        let mut sqe = Sqe::new(OP_URING_CMD, device);
        sqe.off = u64::from(cmd.op as u32);
        sqe.addr = cmd.auto_index.unwrap_or(0).into();
        sqe.cmd[0..2].copy_from_slice(&cmd.q_id.to_ne_bytes());
        sqe.cmd[2..4].copy_from_slice(&cmd.tag.to_ne_bytes());
        sqe.cmd[4..8].copy_from_slice(&cmd.result.to_ne_bytes());
        sqe
    }

    fn batch(device: FileIndex, cmd: &BatchCmd) -> Sqe {
        let mut sqe = Sqe::new(OP_URING_CMD, device);
        sqe.off = u64::from(cmd.op as u32);
        // `struct ublk_batch_io`
        sqe.cmd[0..2].copy_from_slice(&cmd.q_id.to_ne_bytes());
        sqe.cmd[4..6].copy_from_slice(&cmd.elements.to_ne_bytes());
        sqe.cmd[6] = cmd.bytes;
        sqe
    }

    /// A command with elements at `addr`.
    pub(crate) fn elements(device: FileIndex, cmd: &BatchCmd, addr: u64, len: u32) -> Sqe {
        Sqe { addr, len, ..Sqe::batch(device, cmd) }
    }

    /// A command that goes on, with buffers of this group.
    pub(crate) fn fetch(device: FileIndex, cmd: &BatchCmd, group: u16) -> Sqe {
        let sqe = Sqe::batch(device, cmd);
        let flags = sqe.flags | SQE_BUFFER_SELECT;
        Sqe { flags, op_flags: URING_CMD_MULTISHOT, buf_index: group, ..sqe }
    }

    /// A fused command. What follows are so many [secondaries](Sqe::secondary).
    pub(crate) fn primary(device: FileIndex, cmd: &IoCmd, secondaries: u16) -> Sqe {
        Sqe {
            opcode: OP_FUSED_CMD,
            op_flags: FUSED_CMD_BUF,
            buf_index: secondaries,
            ..Sqe::command(device, cmd)
        }
    }

    pub(crate) fn secondary(direction: Direction, piece: &Secondary) -> Sqe {
        let mut sqe = Sqe::transfer(direction, piece, piece.at.into());
        sqe.flags |= SQE_CQE_SKIP_SUCCESS;
        sqe
    }

    pub(crate) fn entry(mut self, user_data: u64) -> Entry {
        self.user_data = user_data;
        // SAFETY: both are `struct io_uring_sqe`: the same size, integers only.
        unsafe { std::mem::transmute::<Sqe, Entry>(self) }
    }
}
