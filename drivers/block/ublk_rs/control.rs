// SPDX-License-Identifier: GPL-2.0

//! The control device `/dev/ublk-control`: its commands are decoded, checked and handed on here.

use crate::{
    add,
    device::Device,
    ids::{
        Found,
        Ids, //
    },
    info,
    module_parameters,
    recovery,
    start,
    stop,
    uapi::*,
    CONTROL, //
};
use kernel::{
    capability::{
        capable,
        Capability, //
    },
    chrdev::{
        Class,
        Region, //
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
        aref::ARef,
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc,
        ArcBorrow, //
    },
    uaccess::{
        UserPtr,
        UserSlice, //
    },
    uapi,
    workqueue::OwnedQueue, //
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
/// `_IOC_NR(UBLK_U_CMD_REG_BUF)` and its counterpart, which are not served.
const REG_BUF: u32 = 0x18;
const UNREG_BUF: u32 = 0x19;
/// Longest path that a command may carry.
const PATH_MAX: u16 = 4096;

/// What all devices share, from the loading of the module until its end.
pub(crate) struct Control {
    /// Runs what must not be done where it is noticed.
    queue: OwnedQueue,
    ids: Arc<Ids>,
    class: Class,
    region: Region,
    /// The control device, of which all character devices are children.
    parent: ARef<kernel::device::Device>,
    /// How many unprivileged devices there are.
    unprivileged: Atomic<u32>,
}

impl Control {
    /// Reserves what all devices need.
    pub(crate) fn new(parent: &kernel::device::Device) -> Result<Arc<Self>> {
        let control = Self {
            queue: OwnedQueue::new(c"ublk_rs")?,
            ids: Ids::new()?,
            class: Class::new(c"ublk-char")?,
            region: Region::new(UBLK_MAX_UBLKS, c"ublk-char")?,
            parent: ARef::from(parent),
            unprivileged: Atomic::new(0),
        };
        Ok(Arc::new(control, GFP_KERNEL)?)
    }

    /// The work queue.
    pub(crate) fn queue(&self) -> &OwnedQueue {
        &self.queue
    }

    /// The table of devices.
    pub(crate) fn ids(&self) -> &Arc<Ids> {
        &self.ids
    }

    /// The class of the character devices.
    pub(crate) fn class(&self) -> &Class {
        &self.class
    }

    /// The device numbers of the character devices.
    pub(crate) fn region(&self) -> &Region {
        &self.region
    }

    /// The parent of the character devices.
    pub(crate) fn parent(&self) -> &kernel::device::Device {
        &self.parent
    }

    /// Notes that there is one more unprivileged device. Fails with [`EACCES`] if there are as many
    /// as the module's parameter allows.
    pub(crate) fn take_unprivileged(&self) -> Result {
        let max = module_parameters::ublks_max.value().min(UBLK_MAX_UBLKS);

        // Only a counter; nothing else depends on it.
        if self.unprivileged.fetch_add(1, Relaxed) >= max {
            self.give_unprivileged();
            return Err(EACCES);
        }
        Ok(())
    }

    /// Notes that there is one unprivileged device less.
    pub(crate) fn give_unprivileged(&self) {
        self.unprivileged.fetch_sub(1, Relaxed);
    }

    /// Deletes all devices, when the module goes away, and waits until they are gone.
    pub(crate) fn shut_down(&self) {
        while let Some(dev) = self.ids.find_any() {
            stop::delete(self, &dev);
        }
        self.ids.wait_empty();
    }

    /// Serves one command.
    fn serve(&self, op: u32, cmd: &CtrlCmd) -> Result {
        check_command_type(op)?;
        if op == GET_FEATURES {
            return info::get_features(cmd);
        }
        let nr = command_nr(op);
        if nr == uapi::UBLK_CMD_ADD_DEV {
            return add::add(self, cmd);
        }

        let dev = match self.ids.find(cmd.dev_id) {
            Found::Present(dev) => dev,
            Found::Deleted if is_delete(nr) => {
                if !is_admin() {
                    return Err(EPERM);
                }
                return self.wait_deleted(nr, cmd.dev_id);
            }
            Found::Deleted | Found::Missing => return Err(ENODEV),
        };
        let cmd = &self.check_permission(&dev, nr, cmd)?;
        match nr {
            uapi::UBLK_CMD_START_DEV => start::start(self, &dev, cmd.data as i32),
            uapi::UBLK_CMD_STOP_DEV => {
                stop::stop(&dev);
                Ok(())
            }
            uapi::UBLK_CMD_DEL_DEV | DEL_DEV_ASYNC => {
                stop::delete(self, &dev);
                // Our own reference must not be what we wait for.
                drop(dev);
                self.wait_deleted(nr, cmd.dev_id)
            }
            uapi::UBLK_CMD_GET_DEV_INFO | uapi::UBLK_CMD_GET_DEV_INFO2 => {
                info::get_dev_info(&dev, cmd)
            }
            uapi::UBLK_CMD_GET_QUEUE_AFFINITY => info::get_queue_affinity(&dev, cmd),
            uapi::UBLK_CMD_SET_PARAMS => info::set_params(&dev, cmd),
            uapi::UBLK_CMD_GET_PARAMS => info::get_params(self, &dev, cmd),
            TRY_STOP_DEV => stop::try_stop(&dev),
            UPDATE_SIZE => info::update_size(&dev, cmd.data),
            uapi::UBLK_CMD_START_USER_RECOVERY => recovery::start(&dev),
            uapi::UBLK_CMD_END_USER_RECOVERY => recovery::end(&dev, cmd.data as i32),
            QUIESCE_DEV => recovery::quiesce(&dev, cmd.data),
            _ => Err(EOPNOTSUPP),
        }
    }

    /// Whether the current task may send this command. Returns the command without the path of the
    /// character device, if that is in front of its buffer.
    ///
    /// Unprivileged devices belong to whoever may access their character device, which the path is
    /// to prove. `GET_DEV_INFO2` has it for all devices: who asks may not know which kind it is.
    fn check_permission(&self, dev: &Device, nr: u32, cmd: &CtrlCmd) -> Result<CtrlCmd> {
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
        if path.char_device()? != Some((self.region.major(), dev.id())) {
            return Err(EPERM);
        }
        path.check_access(access)?;
        Ok(CtrlCmd {
            addr: cmd.addr.wrapping_add(len.into()),
            len: cmd.len - len,
            ..*cmd
        })
    }

    /// After a deletion: waits until the number can be used again, if it is to.
    fn wait_deleted(&self, nr: u32, id: u32) -> Result {
        if nr == DEL_DEV_ASYNC {
            return Ok(());
        }
        self.ids.wait_free(id)
    }
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
    type Ptr = Arc<Control>;

    fn open(_file: &File, _misc: &MiscDeviceRegistration<Self>) -> Result<Arc<Control>> {
        // It is not there yet while the module is being loaded.
        CONTROL.get().ok_or(ENODEV)
    }

    fn uring_cmd<'a>(
        control: ArcBorrow<'a, Control>,
        cmd: IssuedCmd<'a, NoQueue<Self::Ptr>>,
        flags: IssueFlags<'a>,
    ) -> Outcome<'a> {
        let op = cmd.op();
        if flags.nonblock() && !is_quick(command_nr(op)) {
            return cmd.retry_blocking();
        }
        let served = cmd
            .payload128::<[u64; 4]>()
            .and_then(|payload| control.serve(op, &zerocopy::transmute!(payload)));
        cmd.complete(served.map(|()| 0))
    }
}
