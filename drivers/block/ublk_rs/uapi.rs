// SPDX-License-Identifier: GPL-2.0

//! The structures and numbers of `include/uapi/linux/ublk_cmd.h`, as types that can be read from
//! and written to plain bytes.
//!
//! Padding of the C structures is a field here, so that all bytes are initialized.

use core::mem::offset_of;
use kernel::prelude::*;
use zerocopy_derive::{
    Immutable,
    KnownLayout, //
};

pub(crate) use kernel::uapi::{
    UBLKSRV_CMD_BUF_OFFSET, UBLKSRV_IO_BUF_OFFSET, UBLK_ATTR_FUA, UBLK_ATTR_READ_ONLY,
    UBLK_ATTR_ROTATIONAL, UBLK_ATTR_VOLATILE_CACHE, UBLK_BATCH_F_AUTO_BUF_REG_FALLBACK,
    UBLK_BATCH_F_HAS_BUF_ADDR, UBLK_BATCH_F_HAS_ZONE_LBA, UBLK_IO_F_FAILFAST_DEV,
    UBLK_IO_F_FAILFAST_DRIVER, UBLK_IO_F_FAILFAST_TRANSPORT, UBLK_IO_F_FUA, UBLK_IO_F_INTEGRITY,
    UBLK_IO_F_META, UBLK_IO_F_NEED_REG_BUF, UBLK_IO_F_NOUNMAP, UBLK_IO_F_SHMEM_ZC, UBLK_IO_F_SWAP,
    UBLK_IO_OP_DISCARD, UBLK_IO_OP_FLUSH, UBLK_IO_OP_READ, UBLK_IO_OP_REPORT_ZONES,
    UBLK_IO_OP_WRITE, UBLK_IO_OP_WRITE_ZEROES, UBLK_IO_OP_ZONE_APPEND, UBLK_IO_OP_ZONE_CLOSE,
    UBLK_IO_OP_ZONE_FINISH, UBLK_IO_OP_ZONE_OPEN, UBLK_IO_OP_ZONE_RESET, UBLK_IO_OP_ZONE_RESET_ALL,
    UBLK_IO_RES_NEED_GET_DATA, UBLK_IO_RES_OK, UBLK_MAX_QUEUE_DEPTH, UBLK_MIN_SEGMENT_SIZE,
    UBLK_PARAM_TYPE_BASIC, UBLK_PARAM_TYPE_DEVT, UBLK_PARAM_TYPE_DISCARD,
    UBLK_PARAM_TYPE_DMA_ALIGN, UBLK_PARAM_TYPE_INTEGRITY, UBLK_PARAM_TYPE_SEGMENT,
    UBLK_PARAM_TYPE_ZONED, UBLK_S_DEV_DEAD, UBLK_S_DEV_FAIL_IO, UBLK_S_DEV_LIVE,
    UBLK_S_DEV_QUIESCED,
};

/// Result of a command whose device goes away: do not fetch again.
pub(crate) const UBLK_IO_RES_ABORT: i32 = -(kernel::uapi::ENODEV as i32);

/// Feature flags as `u64`; the generated constants have the type of the C expression.
macro_rules! features {
    ($($name:ident),* $(,)?) => { $(
        pub(crate) const $name: u64 = kernel::uapi::$name as u64;
    )* };
}

features!(
    UBLK_F_SUPPORT_ZERO_COPY,
    UBLK_F_URING_CMD_COMP_IN_TASK,
    UBLK_F_NEED_GET_DATA,
    UBLK_F_USER_RECOVERY,
    UBLK_F_USER_RECOVERY_REISSUE,
    UBLK_F_SAFE_STOP_DEV,
    UBLK_F_UNPRIVILEGED_DEV,
    UBLK_F_CMD_IOCTL_ENCODE,
    UBLK_F_USER_COPY,
    UBLK_F_USER_RECOVERY_FAIL_IO,
    UBLK_F_UPDATE_SIZE,
    UBLK_F_AUTO_BUF_REG,
    UBLK_F_QUIESCE,
    UBLK_F_PER_IO_DAEMON,
    UBLK_F_BUF_REG_OFF_DAEMON,
    UBLK_F_INTEGRITY,
    UBLK_F_NO_AUTO_PART_SCAN,
    UBLK_F_BATCH_IO,
    UBLK_F_ZONED,
    UBLK_F_SHMEM_ZC,
    UBLK_F_IO_DESC_SIZE,
    UBLK_F_FUSED_CMD,
);

/// Length of the answer to `UBLK_U_CMD_GET_FEATURES`.
pub(crate) const UBLK_FEATURES_LEN: u16 = 8;

/// Largest size of one I/O descriptor.
pub(crate) const UBLK_MAX_IO_DESC_SIZE: u16 = 256;

/// Most queues of a device.
pub(crate) const UBLK_MAX_NR_QUEUES: u16 = 1 << 12;

/// Highest number of devices; the minor numbers of one major number.
pub(crate) const UBLK_MAX_UBLKS: u32 = 1 << 20;

/// `struct ublksrv_ctrl_cmd`, the payload of a control command.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub(crate) struct CtrlCmd {
    pub(crate) dev_id: u32,
    pub(crate) queue_id: u16,
    pub(crate) len: u16,
    pub(crate) addr: u64,
    pub(crate) data: u64,
    pub(crate) dev_path_len: u16,
    pub(crate) pad: u16,
    pub(crate) reserved: u32,
}

/// `struct ublksrv_io_cmd`, the payload of an I/O command.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub(crate) struct IoCmd {
    pub(crate) q_id: u16,
    pub(crate) tag: u16,
    pub(crate) result: i32,
    pub(crate) addr: u64,
}

/// `struct ublk_shmem_buf_reg`, what `UBLK_U_CMD_REG_BUF` is to register.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub(crate) struct ShmemBufReg {
    pub(crate) addr: u64,
    pub(crate) len: u64,
    pub(crate) flags: u32,
    pub(crate) reserved: u32,
}

/// `struct ublksrv_io_desc`, how a request is told to the server.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub(crate) struct IoDesc {
    pub(crate) op_flags: u32,
    pub(crate) nr_sectors: u32,
    pub(crate) start_sector: u64,
    pub(crate) addr: u64,
}

/// `struct ublksrv_ctrl_dev_info`, what a device is.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub(crate) struct DevInfo {
    pub(crate) nr_hw_queues: u16,
    pub(crate) queue_depth: u16,
    pub(crate) state: u16,
    pub(crate) io_desc_size: u16,
    pub(crate) max_io_buf_bytes: u32,
    pub(crate) dev_id: u32,
    pub(crate) ublksrv_pid: i32,
    pub(crate) pad1: u32,
    pub(crate) flags: u64,
    pub(crate) ublksrv_flags: u64,
    pub(crate) owner_uid: u32,
    pub(crate) owner_gid: u32,
    pub(crate) reserved1: u64,
    pub(crate) reserved2: u64,
}

/// `struct ublk_param_basic`.
#[repr(C)]
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub(crate) struct ParamBasic {
    pub(crate) attrs: u32,
    pub(crate) logical_bs_shift: u8,
    pub(crate) physical_bs_shift: u8,
    pub(crate) io_opt_shift: u8,
    pub(crate) io_min_shift: u8,
    pub(crate) max_sectors: u32,
    pub(crate) chunk_sectors: u32,
    pub(crate) dev_sectors: u64,
    pub(crate) virt_boundary_mask: u64,
}

/// `struct ublk_param_discard`.
#[repr(C)]
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub(crate) struct ParamDiscard {
    pub(crate) discard_alignment: u32,
    pub(crate) discard_granularity: u32,
    pub(crate) max_discard_sectors: u32,
    pub(crate) max_write_zeroes_sectors: u32,
    pub(crate) max_discard_segments: u16,
    pub(crate) reserved0: u16,
}

/// `struct ublk_param_devt`.
#[repr(C)]
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub(crate) struct ParamDevt {
    pub(crate) char_major: u32,
    pub(crate) char_minor: u32,
    pub(crate) disk_major: u32,
    pub(crate) disk_minor: u32,
}

/// `struct ublk_param_zoned`.
#[repr(C)]
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub(crate) struct ParamZoned {
    pub(crate) max_open_zones: u32,
    pub(crate) max_active_zones: u32,
    pub(crate) max_zone_append_sectors: u32,
    pub(crate) reserved: [u8; 20],
}

/// `struct ublk_param_dma_align`.
#[repr(C)]
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub(crate) struct ParamDmaAlign {
    pub(crate) alignment: u32,
    pub(crate) pad: [u8; 4],
}

/// `struct ublk_param_segment`.
#[repr(C)]
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub(crate) struct ParamSegment {
    pub(crate) seg_boundary_mask: u64,
    pub(crate) max_segment_size: u32,
    pub(crate) max_segments: u16,
    pub(crate) pad: [u8; 2],
}

/// `struct ublk_param_integrity`.
#[repr(C)]
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub(crate) struct ParamIntegrity {
    pub(crate) flags: u32,
    pub(crate) max_integrity_segments: u16,
    pub(crate) interval_exp: u8,
    pub(crate) metadata_size: u8,
    pub(crate) pi_offset: u8,
    pub(crate) csum_type: u8,
    pub(crate) tag_size: u8,
    pub(crate) pad: [u8; 5],
}

/// `struct ublk_params`.
#[repr(C)]
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub(crate) struct Params {
    pub(crate) len: u32,
    pub(crate) types: u32,
    pub(crate) basic: ParamBasic,
    pub(crate) discard: ParamDiscard,
    pub(crate) devt: ParamDevt,
    pub(crate) zoned: ParamZoned,
    pub(crate) dma: ParamDmaAlign,
    pub(crate) pad: u32,
    pub(crate) seg: ParamSegment,
    pub(crate) integrity: ParamIntegrity,
}

/// The head of `struct ublk_params`.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub(crate) struct ParamsHeader {
    pub(crate) len: u32,
    pub(crate) types: u32,
}

// The layouts are those of the C header.
static_assert!(size_of::<CtrlCmd>() == size_of::<kernel::uapi::ublksrv_ctrl_cmd>());
static_assert!(size_of::<IoCmd>() == size_of::<kernel::uapi::ublksrv_io_cmd>());
static_assert!(size_of::<IoDesc>() == size_of::<kernel::uapi::ublksrv_io_desc>());
static_assert!(size_of::<ShmemBufReg>() == size_of::<kernel::uapi::ublk_shmem_buf_reg>());
static_assert!(size_of::<DevInfo>() == size_of::<kernel::uapi::ublksrv_ctrl_dev_info>());
static_assert!(size_of::<Params>() == size_of::<kernel::uapi::ublk_params>());
static_assert!(offset_of!(Params, discard) == offset_of!(kernel::uapi::ublk_params, discard));
static_assert!(offset_of!(Params, devt) == offset_of!(kernel::uapi::ublk_params, devt));
static_assert!(offset_of!(Params, zoned) == offset_of!(kernel::uapi::ublk_params, zoned));
static_assert!(offset_of!(Params, dma) == offset_of!(kernel::uapi::ublk_params, dma));
static_assert!(offset_of!(Params, seg) == offset_of!(kernel::uapi::ublk_params, seg));
static_assert!(offset_of!(Params, integrity) == offset_of!(kernel::uapi::ublk_params, integrity));

/// `UBLK_U_IO_FUSED_SUBMIT_IO`.
pub(crate) const FUSED_SUBMIT_IO: u32 = kernel::ioctl::_IOWR::<IoCmd>(b'u' as u32, 0x28);

/// Number of a command: `_IOC_NR()` of its opcode. Direction and size are not looked at, as in the
/// C driver.
pub(crate) fn command_nr(op: u32) -> u32 {
    kernel::ioctl::_IOC_NR(op)
}

/// Checks the type field of an opcode.
///
/// Opcodes without a type are the legacy ones.
pub(crate) fn check_command_type(op: u32) -> Result {
    match kernel::ioctl::_IOC_TYPE(op) {
        0x75 => Ok(()), // 'u'
        0 if cfg!(CONFIG_BLKDEV_UBLK_LEGACY_OPCODES) => Ok(()),
        _ => Err(EOPNOTSUPP),
    }
}

#[kunit_tests(ublk_rs_uapi)]
mod tests {
    use super::*;

    #[test]
    fn opcode_types() {
        assert!(check_command_type(kernel::ioctl::_IOWR::<IoCmd>(0x75, 0x20)).is_ok());
        assert!(check_command_type(kernel::ioctl::_IOWR::<IoCmd>(0x76, 0x20)).is_err());
        assert_eq!(
            check_command_type(0x20).is_ok(),
            cfg!(CONFIG_BLKDEV_UBLK_LEGACY_OPCODES)
        );
    }
}
