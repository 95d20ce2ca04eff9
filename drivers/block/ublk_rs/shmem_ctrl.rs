// SPDX-License-Identifier: GPL-2.0

//! The control commands that register shared memory.

use crate::{
    device::Device,
    shmem::Access,
    uapi::*, //
};
use kernel::{
    mm::pinned::{
        PinAccess,
        PinnedPages, //
    },
    page::{
        PAGE_SHIFT,
        PAGE_SIZE, //
    },
    prelude::*,
    uaccess::{
        UserPtr,
        UserSlice, //
    },
    uapi, //
};

/// The most bytes of a buffer: what its offsets have room for.
const MAX_LEN: u64 = 1 << uapi::UBLK_SHMEM_ZC_IDX_OFF;

/// `REG_BUF`: pins memory of the current process and registers it; returns its index.
///
/// Sleeps. Fails with [`EOPNOTSUPP`] on a device without the feature, [`EFAULT`] if the command's
/// buffer can not be read or not all of the memory be pinned, [`EINVAL`], [`EOVERFLOW`] if it is
/// beyond all addresses, with [`ENOMEM`] if the user may not lock so much, with [`EEXIST`] and
/// [`ENOSPC`].
pub(crate) fn register(dev: &Device, cmd: &CtrlCmd) -> Result<i32> {
    let shmem = dev.shmem().ok_or(EOPNOTSUPP)?;
    // What a shorter command does not have is 0.
    let mut bytes = [0u8; size_of::<ShmemBufReg>()];
    let len = bytes.len().min(cmd.len.into());
    UserSlice::new(UserPtr::from_addr(cmd.addr as usize), len)
        .reader()
        .read_slice(&mut bytes[..len])?;
    let reg: ShmemBufReg = zerocopy::transmute!(bytes);

    let access = match reg.flags {
        0 => Access::ReadWrite,
        uapi::UBLK_SHMEM_BUF_READ_ONLY => Access::ReadOnly,
        _ => return Err(EINVAL),
    };
    let page = PAGE_SIZE as u64;
    if reg.reserved != 0
        || reg.len == 0
        || reg.len > MAX_LEN
        || reg.len % page != 0
        || reg.addr % page != 0
    {
        return Err(EINVAL);
    }
    reg.addr.checked_add(reg.len).ok_or(EOVERFLOW)?;
    let pin = match access {
        Access::ReadOnly => PinAccess::Read,
        Access::ReadWrite => PinAccess::Write,
    };
    let start = usize::try_from(reg.addr).map_err(|_| EFAULT)?;
    let nr = usize::try_from(reg.len >> PAGE_SHIFT)?;
    // Before any lock is taken: this may wait for a disk of ours.
    let pages = PinnedPages::new(UserPtr::from_addr(start), nr, pin)?;
    shmem.register(pages, access).map(i32::from)
}

/// `UNREG_BUF`: the buffer with the index `data` is not found by new requests any more.
///
/// Sleeps. Fails with [`EOPNOTSUPP`] on a device without the feature, [`EINVAL`] for what can not
/// be an index, and [`ENOENT`].
pub(crate) fn unregister(dev: &Device, data: u64) -> Result<i32> {
    let shmem = dev.shmem().ok_or(EOPNOTSUPP)?;
    shmem.unregister(u16::try_from(data).map_err(|_| EINVAL)?)?;
    Ok(0)
}
