// SPDX-License-Identifier: GPL-2.0

//! The interface of ublk, as `include/uapi/linux/ublk_cmd.h` has it.

#![allow(missing_docs)] // The names are those of the header.

/// `_IOC(dir, 'u', nr, size)`.
const fn ioc(dir: u32, nr: u32, size: u32) -> u32 {
    dir << 30 | size << 16 | (b'u' as u32) << 8 | nr
}

/// `_IOWR('u', nr, size)`.
const fn iowr(nr: u32, size: u32) -> u32 {
    ioc(3, nr, size)
}

/// The length of `struct ublksrv_ctrl_cmd`.
pub const CTRL_CMD_LEN: u32 = 32;
/// The length of `struct ublksrv_io_cmd`.
pub const IO_CMD_LEN: u32 = 16;

/// The length of `struct ublk_batch_io`.
pub const BATCH_CMD_LEN: u32 = 16;
/// The length of `struct ublk_elem_header`.
pub const ELEM_LEN: usize = 8;

/// `struct ublk_elem_header`: a slot to prepare, or a request that ends with `result`.
pub fn elem(tag: u16, buffer: u16, result: i32) -> [u8; ELEM_LEN] {
    let ([a, b], [c, d], [e, f, g, h]) = (tag.to_ne_bytes(), buffer.to_ne_bytes(), result.to_ne_bytes());
    [a, b, c, d, e, f, g, h]
}

/// What is asked of `/dev/ublk-control`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum ControlOp {
    GetQueueAffinity = ioc(2, 0x01, CTRL_CMD_LEN),
    GetDevInfo = ioc(2, 0x02, CTRL_CMD_LEN),
    AddDev = iowr(0x04, CTRL_CMD_LEN),
    DelDev = iowr(0x05, CTRL_CMD_LEN),
    StartDev = iowr(0x06, CTRL_CMD_LEN),
    StopDev = iowr(0x07, CTRL_CMD_LEN),
    SetParams = iowr(0x08, CTRL_CMD_LEN),
    GetParams = ioc(2, 0x09, CTRL_CMD_LEN),
    StartRecovery = iowr(0x10, CTRL_CMD_LEN),
    EndRecovery = iowr(0x11, CTRL_CMD_LEN),
    GetDevInfo2 = ioc(2, 0x12, CTRL_CMD_LEN),
    GetFeatures = ioc(2, 0x13, CTRL_CMD_LEN),
    UpdateSize = iowr(0x15, CTRL_CMD_LEN),
    TryStopDev = iowr(0x17, CTRL_CMD_LEN),
}

/// What is asked of `/dev/ublkcN`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum IoOp {
    Fetch = iowr(0x20, IO_CMD_LEN),
    CommitAndFetch = iowr(0x21, IO_CMD_LEN),
    PrepareBatch = iowr(0x25, BATCH_CMD_LEN),
    CommitBatch = iowr(0x26, BATCH_CMD_LEN),
    FetchBatch = iowr(0x27, BATCH_CMD_LEN),
    FusedSubmit = iowr(0x28, IO_CMD_LEN),
}

/// Features of a driver or a device, `UBLK_F_*`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Features(pub u64);

impl Features {
    pub const USER_RECOVERY: Features = Features(1 << 3);
    pub const USER_RECOVERY_REISSUE: Features = Features(1 << 4);
    pub const UNPRIVILEGED_DEV: Features = Features(1 << 5);
    pub const CMD_IOCTL_ENCODE: Features = Features(1 << 6);
    pub const USER_COPY: Features = Features(1 << 7);
    pub const USER_RECOVERY_FAIL_IO: Features = Features(1 << 9);
    pub const UPDATE_SIZE: Features = Features(1 << 10);
    pub const AUTO_BUF_REG: Features = Features(1 << 11);
    pub const BATCH_IO: Features = Features(1 << 15);
    pub const SAFE_STOP: Features = Features(1 << 17);
    pub const FUSED_CMD: Features = Features(1 << 21);

    const NAMES: [&str; 22] = [
        "SUPPORT_ZERO_COPY",
        "URING_CMD_COMP_IN_TASK",
        "NEED_GET_DATA",
        "USER_RECOVERY",
        "USER_RECOVERY_REISSUE",
        "UNPRIVILEGED_DEV",
        "CMD_IOCTL_ENCODE",
        "USER_COPY",
        "ZONED",
        "USER_RECOVERY_FAIL_IO",
        "UPDATE_SIZE",
        "AUTO_BUF_REG",
        "QUIESCE",
        "PER_IO_DAEMON",
        "BUF_REG_OFF_DAEMON",
        "BATCH_IO",
        "INTEGRITY",
        "SAFE_STOP_DEV",
        "NO_AUTO_PART_SCAN",
        "SHMEM_ZC",
        "IO_DESC_SIZE",
        "FUSED_CMD",
    ];

    /// Are all of these there?
    pub fn has(self, wanted: Features) -> bool {
        self.0 & wanted.0 == wanted.0
    }

    /// The names of what is set; a bit without a name is its number.
    pub fn names(self) -> impl Iterator<Item = String> {
        (0..64usize)
            .filter(move |bit| self.0 & 1 << bit != 0)
            .map(|bit| Self::NAMES.get(bit).map_or(bit.to_string(), |name| (*name).to_owned()))
    }
}

impl std::ops::BitOr for Features {
    type Output = Features;
    fn bitor(self, other: Features) -> Features {
        Features(self.0 | other.0)
    }
}

impl std::ops::BitOrAssign for Features {
    fn bitor_assign(&mut self, other: Features) {
        self.0 |= other.0;
    }
}

/// A structure that the kernel reads or writes.
///
/// # Safety
///
/// It is `repr(C)`, has no padding, and any bytes are a value of it.
pub unsafe trait Plain: Default {
    /// Its bytes, for the kernel to read or to write.
    fn bytes_mut(&mut self) -> &mut [u8] {
        let size = size_of::<Self>();
        // SAFETY: there is no padding, so all bytes are initialised, and any
        // bytes that are written make a value.
        unsafe { std::slice::from_raw_parts_mut(std::ptr::from_mut(self).cast(), size) }
    }
}

/// `struct ublksrv_ctrl_dev_info`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct DevInfo {
    pub nr_hw_queues: u16,
    pub queue_depth: u16,
    pub state: u16,
    pub io_desc_size: u16,
    pub max_io_buf_bytes: u32,
    pub dev_id: u32,
    pub ublksrv_pid: i32,
    pub pad1: u32,
    pub flags: u64,
    pub ublksrv_flags: u64,
    pub owner_uid: u32,
    pub owner_gid: u32,
    pub reserved1: u64,
    pub reserved2: u64,
}

// SAFETY: only integers, without padding: 64 bytes.
unsafe impl Plain for DevInfo {}
const _: () = assert!(size_of::<DevInfo>() == 64);

/// The states of a device, `UBLK_S_DEV_*`.
pub const STATES: [&str; 4] = ["dead", "live", "quiesced", "fail-io"];

impl DevInfo {
    /// A server has it.
    pub fn is_live(&self) -> bool {
        self.state == 1
    }

    /// It was made to be there for another server when this one is gone.
    pub fn survives(&self) -> bool {
        Features(self.flags).has(Features::USER_RECOVERY)
    }

    /// Its disk waits for the next server.
    pub fn is_without_server(&self) -> bool {
        self.state == 2 || self.state == 3
    }
}

pub const ATTR_READ_ONLY: u32 = 1 << 0;
pub const ATTR_ROTATIONAL: u32 = 1 << 1;
pub const ATTR_VOLATILE_CACHE: u32 = 1 << 2;
pub const ATTR_FUA: u32 = 1 << 3;

pub const PARAM_BASIC: u32 = 1 << 0;
pub const PARAM_DISCARD: u32 = 1 << 1;
pub const PARAM_DMA_ALIGN: u32 = 1 << 4;

/// `struct ublk_params`, as far as we set it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Params {
    pub len: u32,
    pub types: u32,
    // basic
    pub attrs: u32,
    pub logical_bs_shift: u8,
    pub physical_bs_shift: u8,
    pub io_opt_shift: u8,
    pub io_min_shift: u8,
    pub max_sectors: u32,
    pub chunk_sectors: u32,
    pub dev_sectors: u64,
    pub virt_boundary_mask: u64,
    // discard
    pub discard_alignment: u32,
    pub discard_granularity: u32,
    pub max_discard_sectors: u32,
    pub max_write_zeroes_sectors: u32,
    pub max_discard_segments: u16,
    pub reserved0: u16,
    // devt, zoned
    pub devt: [u32; 4],
    pub zoned: [u32; 8],
    // dma
    pub dma_alignment: u32,
    pub pad: [u8; 4],
    pub end: u32,
}

// SAFETY: only integers, without padding: 120 bytes.
unsafe impl Plain for Params {}
const _: () = assert!(size_of::<Params>() == Params::LEN as usize);

impl Params {
    /// Its length, which it says itself.
    pub const LEN: u32 = 120;
}

/// Operations of the block layer, `UBLK_IO_OP_*`.
pub const OP_READ: u8 = 0;
pub const OP_WRITE: u8 = 1;
pub const OP_FLUSH: u8 = 2;
pub const OP_DISCARD: u8 = 3;
pub const OP_WRITE_ZEROES: u8 = 5;

pub const IO_F_FUA: u32 = 1 << 13;
pub const IO_F_NOUNMAP: u32 = 1 << 15;

/// `struct ublksrv_io_desc`: a request that the block layer has for us.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct IoDesc {
    pub op_flags: u32,
    pub nr_sectors: u32,
    pub start_sector: u64,
    pub addr: u64,
}

impl IoDesc {
    pub fn op(&self) -> u8 {
        (self.op_flags & 0xff) as u8
    }
}

pub const MAX_QUEUE_DEPTH: u16 = 4096;

/// Where the descriptors of a queue are in the memory of `/dev/ublkcN`.
pub fn descriptor_offset(q_id: u16) -> u64 {
    u64::from(q_id) * u64::from(MAX_QUEUE_DEPTH) * size_of::<IoDesc>() as u64
}

/// Where the data of a request are in `/dev/ublkcN`, for `pread()` and `pwrite()`.
pub fn data_offset(q_id: u16, tag: u16) -> u64 {
    0x8000_0000 + (u64::from(q_id) << 41 | u64::from(tag) << 25)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        // As the header's macros make them.
        assert_eq!(ControlOp::AddDev as u32, 0xc020_7504);
        assert_eq!(ControlOp::GetFeatures as u32, 0x8020_7513);
        assert_eq!(IoOp::FusedSubmit as u32, 0xc010_7528);
        assert_eq!(data_offset(1, 2), 0x8000_0000 + (1 << 41) + (2 << 25));
        let names: Vec<_> = (Features::FUSED_CMD | Features(1 << 40)).names().collect();
        assert_eq!(names, ["FUSED_CMD", "40"]);
    }
}
