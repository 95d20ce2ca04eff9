// SPDX-License-Identifier: GPL-2.0

//! Adding a device: what the server asks for, and what it gets.

use crate::{
    device::Device,
    driver::Driver,
    stop,
    uapi::*, //
};
use kernel::{
    capability::{
        capable,
        Capability, //
    },
    cpu::nr_cpu_ids,
    cred,
    page::PAGE_SIZE,
    prelude::*,
    uaccess::{
        UserPtr,
        UserSlice, //
    }, //
};

/// The features that work. Others are not reported, and taken out of what a server asks for.
pub(crate) const FEATURES: u64 = ALWAYS
    | UBLK_F_SUPPORT_ZERO_COPY
    | UBLK_F_NEED_GET_DATA
    | UBLK_F_USER_RECOVERY
    | UBLK_F_USER_RECOVERY_REISSUE
    | UBLK_F_USER_RECOVERY_FAIL_IO
    | UBLK_F_QUIESCE
    | UBLK_F_USER_COPY
    | UBLK_F_UPDATE_SIZE
    | UBLK_F_UNPRIVILEGED_DEV
    | UBLK_F_AUTO_BUF_REG
    | UBLK_F_NO_AUTO_PART_SCAN
    | UBLK_F_BATCH_IO
    | UBLK_F_SHMEM_ZC
    | UBLK_F_IO_DESC_SIZE
    | if cfg!(CONFIG_BLK_DEV_INTEGRITY) {
        UBLK_F_INTEGRITY
    } else {
        0
    }
    | if cfg!(CONFIG_BLK_DEV_ZONED) {
        UBLK_F_ZONED
    } else {
        0
    }
    | if cfg!(CONFIG_IO_URING_FUSED_CMD) {
        UBLK_F_FUSED_CMD
    } else {
        0
    };

/// The features that every device has, but for `UBLK_F_PER_IO_DAEMON` with `UBLK_F_BATCH_IO`.
const ALWAYS: u64 = UBLK_F_CMD_IOCTL_ENCODE
    | UBLK_F_URING_CMD_COMP_IN_TASK
    | UBLK_F_PER_IO_DAEMON
    | UBLK_F_BUF_REG_OFF_DAEMON
    | UBLK_F_SAFE_STOP_DEV;

/// `ADD_DEV`: creates a device and its character device, and tells the server what it got.
///
/// Sleeps. Fails with [`EINVAL`] if the command or the request makes no sense, [`EFAULT`],
/// [`EPERM`] without `CAP_SYS_ADMIN` unless for an unprivileged device, [`EACCES`] if there are too
/// many of these, and [`EEXIST`] if the number is taken.
pub(crate) fn add(driver: &Driver, cmd: &CtrlCmd) -> Result {
    if usize::from(cmd.len) < size_of::<DevInfo>() || cmd.addr == 0 || cmd.queue_id != u16::MAX {
        return Err(EINVAL);
    }
    let user = || UserSlice::new(UserPtr::from_addr(cmd.addr as usize), size_of::<DevInfo>());
    let asked: DevInfo = zerocopy::transmute!(user().reader().read::<[u64; 8]>()?);

    let info = DevInfo {
        owner_uid: cred::current_uid_in_init_ns(),
        owner_gid: cred::current_gid_in_init_ns(),
        ..negotiate(&asked, cmd.dev_id, nr_cpu_ids(), || {
            capable(Capability::SYS_ADMIN)
        })?
    };
    let place = if info.flags & UBLK_F_UNPRIVILEGED_DEV != 0 {
        Some(driver.places().take()?)
    } else {
        None
    };
    let wanted = (cmd.dev_id != u32::MAX).then_some(cmd.dev_id);
    let number = driver.numbers().take(wanted)?;
    let dev = Device::new(info, number, place, driver.workers().clone())?;

    let got: [u64; 8] = zerocopy::transmute!(*dev.info());
    user().writer().write(&got)?;

    driver.publish(&dev).inspect_err(|_| {
        // Somebody may have found it already.
        stop::delete(driver, &dev);
    })
}

/// Decides what a server gets of what it asks for. The rules and their order are those of the C
/// driver, and then those of `UBLK_F_FUSED_CMD`.
fn negotiate(
    asked: &DevInfo,
    dev_id: u32,
    cpus: u32,
    is_admin: impl FnOnce() -> bool,
) -> Result<DevInfo> {
    let mut info = *asked;
    let has = |features| asked.flags & features != 0;

    if info.queue_depth == 0
        || u32::from(info.queue_depth) > UBLK_MAX_QUEUE_DEPTH
        || info.nr_hw_queues == 0
        || info.nr_hw_queues > UBLK_MAX_NR_QUEUES
    {
        return Err(EINVAL);
    }
    // The server would need a buffer.
    if FEATURES & UBLK_F_FUSED_CMD != 0 && has(UBLK_F_FUSED_CMD) && has(UBLK_F_NEED_GET_DATA) {
        return Err(EINVAL);
    }
    if is_admin() {
        info.flags &= !UBLK_F_UNPRIVILEGED_DEV;
    } else if !has(UBLK_F_UNPRIVILEGED_DEV) {
        return Err(EPERM);
    }
    check_recovery(asked.flags)?;
    if info.flags & UBLK_F_UNPRIVILEGED_DEV != 0 {
        // Nobody could be sure that such a server comes back, and all of these would have it fill
        // in the data of a read by itself. With fused commands, the driver has an eye on it.
        info.flags &= !(UBLK_F_USER_RECOVERY | UBLK_F_USER_RECOVERY_REISSUE);
        if has(UBLK_F_USER_COPY | UBLK_F_SUPPORT_ZERO_COPY | UBLK_F_AUTO_BUF_REG) {
            return Err(EINVAL);
        }
        // What a hostile server can do with the commits of batches that move data has not been
        // tested as that with those of single requests has. Data in shared memory is the server's
        // own doing: the driver could not tell whether it has brought any.
        let untried = UBLK_F_BATCH_IO | UBLK_F_SHMEM_ZC;
        if FEATURES & UBLK_F_FUSED_CMD != 0 && has(UBLK_F_FUSED_CMD) && has(untried) {
            return Err(EINVAL);
        }
    }
    // Metadata moves by `pread()` and `pwrite()` only.
    if has(UBLK_F_INTEGRITY) && !has(UBLK_F_USER_COPY) {
        return Err(EINVAL);
    }

    let desc_size = size_of::<IoDesc>() as u16;
    if !has(UBLK_F_IO_DESC_SIZE) {
        info.io_desc_size = desc_size;
    } else if !(desc_size..=UBLK_MAX_IO_DESC_SIZE).contains(&info.io_desc_size)
        || usize::from(info.io_desc_size) % size_of::<u64>() != 0
    {
        return Err(EINVAL);
    }
    if info.dev_id != dev_id || (dev_id != u32::MAX && dev_id >= UBLK_MAX_UBLKS) {
        return Err(EINVAL);
    }

    info.flags = (info.flags & FEATURES) | ALWAYS;
    // Who moves the data of a write himself needs not be asked for a buffer.
    if info.flags & (UBLK_F_USER_COPY | UBLK_F_SUPPORT_ZERO_COPY | UBLK_F_AUTO_BUF_REG) != 0 {
        info.flags &= !UBLK_F_NEED_GET_DATA;
    }
    // Slots belong to no task then, and no command could ask for the buffer of just one request.
    if info.flags & UBLK_F_BATCH_IO != 0 {
        info.flags &= !(UBLK_F_PER_IO_DAEMON | UBLK_F_NEED_GET_DATA);
    }
    // The address of a commit may be the place of a zone append, so it can be no buffer.
    const MOVES_DATA: u64 = UBLK_F_USER_COPY | UBLK_F_SUPPORT_ZERO_COPY;
    if has(UBLK_F_ZONED) && (FEATURES & UBLK_F_ZONED == 0 || info.flags & MOVES_DATA == 0) {
        return Err(EINVAL);
    }
    info.state = UBLK_S_DEV_DEAD as u16;
    info.ublksrv_pid = -1;
    info.nr_hw_queues = info
        .nr_hw_queues
        .min(u16::try_from(cpus).unwrap_or(u16::MAX));
    info.max_io_buf_bytes -= info.max_io_buf_bytes % PAGE_SIZE as u32;
    Ok(info)
}

/// Refuses combinations of the recovery features that make no sense.
fn check_recovery(flags: u64) -> Result {
    const ANY: u64 =
        UBLK_F_USER_RECOVERY | UBLK_F_USER_RECOVERY_REISSUE | UBLK_F_USER_RECOVERY_FAIL_IO;
    const REISSUE: u64 = UBLK_F_USER_RECOVERY | UBLK_F_USER_RECOVERY_REISSUE;
    const FAIL_IO: u64 = UBLK_F_USER_RECOVERY | UBLK_F_USER_RECOVERY_FAIL_IO;

    match flags & ANY {
        0 if flags & UBLK_F_QUIESCE != 0 => Err(EINVAL),
        0 | UBLK_F_USER_RECOVERY | REISSUE | FAIL_IO => Ok(()),
        _ => Err(EINVAL),
    }
}

#[kunit_tests(ublk_rs_add)]
mod tests {
    use super::*;

    fn asked(change: impl FnOnce(&mut DevInfo)) -> DevInfo {
        let mut info: DevInfo = zerocopy::transmute!([0u64; 8]);
        info.nr_hw_queues = 2;
        info.queue_depth = 128;
        info.max_io_buf_bytes = 1 << 19;
        info.dev_id = u32::MAX;
        change(&mut info);
        info
    }

    fn get(change: impl FnOnce(&mut DevInfo)) -> Result<DevInfo> {
        negotiate(&asked(change), u32::MAX, 4, || true)
    }

    fn error(change: impl FnOnce(&mut DevInfo)) -> Option<Error> {
        get(change).err()
    }

    #[test]
    fn features_told_truly() -> Result {
        let info = get(|info| {
            info.flags = !UBLK_F_FUSED_CMD & !UBLK_F_IO_DESC_SIZE & !UBLK_F_USER_RECOVERY_FAIL_IO
        })?;
        assert_eq!(info.flags & !FEATURES, 0);
        assert_eq!(info.flags & UBLK_F_USER_COPY, UBLK_F_USER_COPY);
        assert_eq!(get(|_| ())?.flags, ALWAYS);
        Ok(())
    }

    #[test]
    fn bounds() -> Result {
        assert_eq!(error(|info| info.queue_depth = 0), Some(EINVAL));
        assert_eq!(error(|info| info.queue_depth = 4097), Some(EINVAL));
        assert_eq!(error(|info| info.nr_hw_queues = 0), Some(EINVAL));
        assert_eq!(error(|info| info.nr_hw_queues = 4097), Some(EINVAL));
        assert_eq!(get(|info| info.nr_hw_queues = 4096)?.nr_hw_queues, 4);
        assert_eq!(
            get(|info| info.max_io_buf_bytes = PAGE_SIZE as u32 + 9)?.max_io_buf_bytes,
            PAGE_SIZE as u32
        );
        Ok(())
    }

    #[test]
    fn what_the_driver_owns() -> Result {
        let info = get(|info| {
            info.state = UBLK_S_DEV_LIVE as u16;
            info.ublksrv_pid = 1;
        })?;
        assert_eq!(u32::from(info.state), UBLK_S_DEV_DEAD);
        assert_eq!(info.ublksrv_pid, -1);
        Ok(())
    }

    #[test]
    fn numbers() {
        assert_eq!(error(|info| info.dev_id = 1), Some(EINVAL));
        let big = asked(|info| info.dev_id = UBLK_MAX_UBLKS);
        assert_eq!(
            negotiate(&big, UBLK_MAX_UBLKS, 4, || true).err(),
            Some(EINVAL)
        );
    }

    #[test]
    fn privilege() {
        let info = asked(|_| ());
        assert_eq!(negotiate(&info, u32::MAX, 4, || false).err(), Some(EPERM));
        assert!(get(|info| info.flags = UBLK_F_UNPRIVILEGED_DEV)
            .is_ok_and(|info| info.flags & UBLK_F_UNPRIVILEGED_DEV == 0));

        let user = |flags| {
            let info = asked(|info| info.flags = UBLK_F_UNPRIVILEGED_DEV | flags);
            negotiate(&info, u32::MAX, 4, || false).map(|info| info.flags & !ALWAYS)
        };
        assert_eq!(user(0), Ok(UBLK_F_UNPRIVILEGED_DEV));
        assert_eq!(user(UBLK_F_USER_RECOVERY), Ok(UBLK_F_UNPRIVILEGED_DEV));
        assert_eq!(user(UBLK_F_USER_COPY), Err(EINVAL));
        assert_eq!(user(UBLK_F_SUPPORT_ZERO_COPY), Err(EINVAL));
        assert_eq!(user(UBLK_F_AUTO_BUF_REG), Err(EINVAL));
        if cfg!(CONFIG_IO_URING_FUSED_CMD) {
            let both = UBLK_F_UNPRIVILEGED_DEV | UBLK_F_FUSED_CMD;
            assert_eq!(user(UBLK_F_FUSED_CMD), Ok(both));
        }
    }

    #[test]
    fn combinations() {
        let flags = |flags| error(|info| info.flags = flags);
        if cfg!(CONFIG_IO_URING_FUSED_CMD) {
            assert_eq!(flags(UBLK_F_FUSED_CMD), None);
            assert_eq!(flags(UBLK_F_FUSED_CMD | UBLK_F_USER_COPY), None);
            assert_eq!(flags(UBLK_F_FUSED_CMD | UBLK_F_NEED_GET_DATA), Some(EINVAL));
            assert_eq!(flags(UBLK_F_FUSED_CMD | UBLK_F_UNPRIVILEGED_DEV), None);
        }
        assert_eq!(flags(UBLK_F_USER_RECOVERY_REISSUE), Some(EINVAL));
        assert_eq!(flags(UBLK_F_QUIESCE), Some(EINVAL));
        assert_eq!(flags(UBLK_F_USER_RECOVERY | UBLK_F_QUIESCE), None);
        assert_eq!(flags(UBLK_F_INTEGRITY), Some(EINVAL));
        assert_eq!(flags(UBLK_F_INTEGRITY | UBLK_F_FUSED_CMD), Some(EINVAL));
        assert_eq!(flags(UBLK_F_INTEGRITY | UBLK_F_USER_COPY), None);
    }

    #[test]
    fn integrity_is_as_the_block_layer_has_it() -> Result {
        const BOTH: u64 = UBLK_F_INTEGRITY | UBLK_F_USER_COPY;
        let got = get(|info| info.flags = BOTH)?.flags & BOTH;
        let expected = if cfg!(CONFIG_BLK_DEV_INTEGRITY) {
            BOTH
        } else {
            UBLK_F_USER_COPY
        };
        assert_eq!(got, expected);
        Ok(())
    }

    #[test]
    fn zones() {
        let flags = |flags| error(|info| info.flags = UBLK_F_ZONED | flags);
        let possible = if cfg!(CONFIG_BLK_DEV_ZONED) {
            None
        } else {
            Some(EINVAL)
        };
        assert_eq!(flags(0), Some(EINVAL));
        assert_eq!(flags(UBLK_F_AUTO_BUF_REG), Some(EINVAL));
        assert_eq!(flags(UBLK_F_USER_COPY), possible);
        assert_eq!(flags(UBLK_F_SUPPORT_ZERO_COPY), possible);
        assert_eq!(flags(UBLK_F_USER_COPY | UBLK_F_BATCH_IO), possible);
    }

    #[test]
    fn batches() -> Result {
        let batch = get(|info| info.flags = UBLK_F_BATCH_IO | UBLK_F_NEED_GET_DATA)?;
        assert_eq!(
            batch.flags,
            ALWAYS & !UBLK_F_PER_IO_DAEMON | UBLK_F_BATCH_IO
        );
        if cfg!(CONFIG_IO_URING_FUSED_CMD) {
            let both = UBLK_F_BATCH_IO | UBLK_F_FUSED_CMD;
            assert!(get(|info| info.flags = both).is_ok_and(|info| info.flags & both == both));
            for other in [UBLK_F_BATCH_IO, UBLK_F_SHMEM_ZC] {
                let flags = UBLK_F_UNPRIVILEGED_DEV | UBLK_F_FUSED_CMD | other;
                let user = asked(|info| info.flags = flags);
                assert_eq!(negotiate(&user, u32::MAX, 4, || false).err(), Some(EINVAL));
            }
        }
        let user = asked(|info| info.flags = UBLK_F_UNPRIVILEGED_DEV | UBLK_F_BATCH_IO);
        assert!(negotiate(&user, u32::MAX, 4, || false).is_ok());
        Ok(())
    }

    #[test]
    fn descriptor_size() -> Result {
        let size = |size| {
            get(|info| {
                info.flags = UBLK_F_IO_DESC_SIZE;
                info.io_desc_size = size;
            })
        };
        assert_eq!(get(|info| info.io_desc_size = 77)?.io_desc_size, 24);
        assert_eq!(size(32)?.io_desc_size, 32);
        assert_eq!(size(16).err(), Some(EINVAL));
        assert_eq!(size(28).err(), Some(EINVAL));
        assert_eq!(size(264).err(), Some(EINVAL));
        Ok(())
    }
}
