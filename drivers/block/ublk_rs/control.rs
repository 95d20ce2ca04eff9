// SPDX-License-Identifier: GPL-2.0

//! The control device `/dev/ublk-control`: its commands are decoded, checked and handed on here.

use crate::{
    add,
    device::Device,
    driver::{
        Driver,
        Found,
        DRIVER, //
    },
    info,
    numbers::Holder,
    recovery,
    shmem_ctrl,
    start,
    stop,
    uapi::*, //
};
use kernel::{
    capability::{
        capable,
        Capability, //
    },
    fs::{
        path::{
            Access,
            Path, //
        },
        File, //
    },
    io_uring::{
        IssueFlags,
        IssuedCmd,
        NoQueue,
        Outcome, //
    },
    miscdevice::{
        MiscDevice,
        MiscDeviceRegistration, //
    },
    prelude::*,
    sync::{
        Arc,
        ArcBorrow, //
    },
    uaccess::{
        UserPtr,
        UserSlice, //
    },
    uapi, //
};

/// `_IOC_NR(UBLK_U_CMD_DEL_DEV_ASYNC)`; the header has no name for it.
const DEL_DEV_ASYNC: u32 = 0x14;
/// `_IOC_NR(UBLK_U_CMD_UPDATE_SIZE)`, likewise.
const UPDATE_SIZE: u32 = 0x15;
/// `_IOC_NR(UBLK_U_CMD_QUIESCE_DEV)`, likewise.
const QUIESCE_DEV: u32 = 0x16;
/// `UBLK_U_CMD_GET_FEATURES`. Other opcodes with its number are something else.
const GET_FEATURES: u32 = kernel::ioctl::_IOR::<CtrlCmd>(b'u' as u32, 0x13);
/// `_IOC_NR(UBLK_U_CMD_TRY_STOP_DEV)`, likewise.
const TRY_STOP_DEV: u32 = 0x17;
/// `_IOC_NR(UBLK_U_CMD_REG_BUF)` and its counterpart, likewise.
const REG_BUF: u32 = 0x18;
const UNREG_BUF: u32 = 0x19;
/// Longest path that a command may carry.
const PATH_MAX: u16 = 4096;

/// Serves one command; returns its result.
fn serve(driver: &Driver, op: u32, cmd: &CtrlCmd) -> Result<i32> {
    check_command_type(op)?;
    if op == GET_FEATURES {
        return info::get_features(cmd).map(|()| 0);
    }
    let nr = command_nr(op);
    if nr == uapi::UBLK_CMD_ADD_DEV {
        return add::add(driver, cmd).map(|()| 0);
    }

    let dev = match driver.find(cmd.dev_id) {
        Found::Present(dev) => dev,
        Found::Deleted(holder) if is_delete(nr) => {
            if !is_admin() {
                return Err(EPERM);
            }
            return wait_deleted(driver, nr, holder).map(|()| 0);
        }
        Found::Deleted(_) | Found::Missing => return Err(ENODEV),
    };
    let cmd = &check_permission(driver, &dev, nr, cmd)?;
    let served = match nr {
        REG_BUF => return shmem_ctrl::register(&dev, cmd),
        UNREG_BUF => return shmem_ctrl::unregister(&dev, cmd.data),
        uapi::UBLK_CMD_START_DEV => start::start(&dev, cmd.data as i32),
        uapi::UBLK_CMD_STOP_DEV => {
            stop::stop(&dev);
            Ok(())
        }
        uapi::UBLK_CMD_DEL_DEV | DEL_DEV_ASYNC => {
            stop::delete(driver, &dev);
            let holder = dev.number().holder();
            // Our own reference must not be what we wait for.
            drop(dev);
            wait_deleted(driver, nr, holder)
        }
        uapi::UBLK_CMD_GET_DEV_INFO | uapi::UBLK_CMD_GET_DEV_INFO2 => info::get_dev_info(&dev, cmd),
        uapi::UBLK_CMD_GET_QUEUE_AFFINITY => info::get_queue_affinity(&dev, cmd),
        uapi::UBLK_CMD_SET_PARAMS => info::set_params(&dev, cmd),
        uapi::UBLK_CMD_GET_PARAMS => info::get_params(&dev, driver.region().major(), cmd),
        TRY_STOP_DEV => stop::try_stop(&dev),
        UPDATE_SIZE => info::update_size(&dev, cmd.data),
        uapi::UBLK_CMD_START_USER_RECOVERY => recovery::start(&dev),
        uapi::UBLK_CMD_END_USER_RECOVERY => recovery::end(&dev, cmd.data as i32),
        QUIESCE_DEV => recovery::quiesce(&dev, cmd.data),
        _ => Err(EOPNOTSUPP),
    };
    served.map(|()| 0)
}

/// Whether the current task may send this command. Returns the command without the path of the
/// character device, if that is in front of its buffer.
///
/// Unprivileged devices belong to whoever may access their character device, which the path is
/// to prove. `GET_DEV_INFO2` has it for all devices: who asks may not know which kind it is.
fn check_permission(driver: &Driver, dev: &Device, nr: u32, cmd: &CtrlCmd) -> Result<CtrlCmd> {
    if !dev.has(UBLK_F_UNPRIVILEGED_DEV) {
        if !is_admin() {
            return Err(EPERM);
        }
        if nr != uapi::UBLK_CMD_GET_DEV_INFO2 {
            return Ok(*cmd);
        }
    }
    let len = cmd.dev_path_len;
    if len == 0 || len > PATH_MAX || cmd.len < len {
        return Err(EINVAL);
    }
    let mut name = KVec::with_capacity(usize::from(len) + 1, GFP_KERNEL)?;
    UserSlice::new(UserPtr::from_addr(cmd.addr as usize), len.into())
        .read_all(&mut name, GFP_KERNEL)?;
    name.push(0, GFP_KERNEL)?;
    let access = access_for(nr).ok_or(EINVAL)?;
    let path = Path::lookup(CStr::from_bytes_until_nul(&name).map_err(|_| EINVAL)?)?;
    if path.char_device()? != Some((driver.region().major(), dev.id())) {
        return Err(EPERM);
    }
    path.check_access(access)?;
    Ok(CtrlCmd {
        addr: cmd.addr.wrapping_add(len.into()),
        len: cmd.len - len,
        ..*cmd
    })
}

/// After a deletion: waits until the device does not have its number any more, if it is to. Another
/// one may have got that by then.
fn wait_deleted(driver: &Driver, nr: u32, holder: Holder) -> Result {
    if nr == DEL_DEV_ASYNC {
        return Ok(());
    }
    driver.numbers().wait_gone(holder)
}

fn is_delete(nr: u32) -> bool {
    nr == uapi::UBLK_CMD_DEL_DEV || nr == DEL_DEV_ASYNC
}

/// Whether the current task may control all devices.
fn is_admin() -> bool {
    capable(Capability::SYS_ADMIN)
}

/// What a command does to the device whose path it carries.
fn access_for(nr: u32) -> Option<Access> {
    match nr {
        uapi::UBLK_CMD_GET_DEV_INFO
        | uapi::UBLK_CMD_GET_DEV_INFO2
        | uapi::UBLK_CMD_GET_QUEUE_AFFINITY
        | uapi::UBLK_CMD_GET_PARAMS => Some(Access::Read),
        _ if nr == command_nr(GET_FEATURES) => Some(Access::Read),
        uapi::UBLK_CMD_START_DEV
        | uapi::UBLK_CMD_STOP_DEV
        | uapi::UBLK_CMD_ADD_DEV
        | uapi::UBLK_CMD_DEL_DEV
        | uapi::UBLK_CMD_SET_PARAMS
        | uapi::UBLK_CMD_START_USER_RECOVERY
        | uapi::UBLK_CMD_END_USER_RECOVERY
        | UPDATE_SIZE
        | QUIESCE_DEV
        | TRY_STOP_DEV
        | REG_BUF
        | UNREG_BUF => Some(Access::ReadWrite),
        _ => None,
    }
}

/// Whether a command can be served without sleeping for long.
fn is_quick(nr: u32) -> bool {
    matches!(
        nr,
        uapi::UBLK_CMD_GET_QUEUE_AFFINITY
            | uapi::UBLK_CMD_GET_DEV_INFO
            | uapi::UBLK_CMD_GET_DEV_INFO2
    ) || nr == command_nr(GET_FEATURES)
}

/// The control device.
pub(crate) struct ControlDevice;

#[vtable]
impl MiscDevice for ControlDevice {
    type Ptr = Arc<Driver>;

    fn open(_file: &File, _misc: &MiscDeviceRegistration<Self>) -> Result<Arc<Driver>> {
        // It is not there yet while the module is being loaded.
        DRIVER.get().ok_or(ENODEV)
    }

    fn uring_cmd<'a>(
        driver: ArcBorrow<'a, Driver>,
        cmd: IssuedCmd<'a, NoQueue<Self::Ptr>>,
        flags: IssueFlags<'a>,
    ) -> Outcome<'a> {
        let op = cmd.op();
        if flags.nonblock() && !is_quick(command_nr(op)) {
            return cmd.retry_blocking();
        }
        let served = cmd
            .payload128::<[u64; 4]>()
            .and_then(|payload| serve(&driver, op, &zerocopy::transmute!(payload)));
        cmd.complete(served)
    }
}
