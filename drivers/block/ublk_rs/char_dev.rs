// SPDX-License-Identifier: GPL-2.0

//! The character device `/dev/ublkcN`: a server opens it, maps the descriptors of its queues and
//! sends its commands to it. Only one server at a time can have it open.

use crate::{
    descs::descs_len,
    device::{
        Device,
        Server,
        Trust, //
    },
    phase::Event,
    types::IoCommands,
    uapi::*,
    user_copy, //
};
use kernel::{
    chrdev::{
        CharDevice,
        CharDeviceRegistration, //
    },
    fs::{
        File,
        Kiocb, //
    },
    iov::{
        IovIterDest,
        IovIterSource, //
    },
    mm::virt::VmaNew,
    page::PAGE_SIZE,
    prelude::*,
    sync::{
        aref::ARef,
        Arc,
        ArcBorrow, //
    }, //
};

/// A character device that is in `/dev`.
pub(crate) type CharDev = CharDeviceRegistration<ServerDevice>;

/// What a server sees of a device.
pub(crate) struct ServerDevice;

#[vtable]
impl CharDevice for ServerDevice {
    type Context = Arc<Device>;
    type Ptr = Arc<Device>;
    type Cmd = IoCommands;

    fn open(dev: &Arc<Device>, _file: &File) -> Result<Arc<Device>> {
        let server = Server {
            leader: ARef::from(current!().group_leader()),
            mm: None,
            trust: Trust::Trusted,
        };
        let mut state = dev.state.lock();
        if state.deleted {
            return Err(ENODEV);
        }
        state.phase.change(Event::Open(server))?;
        drop(state);
        Ok(dev.clone())
    }

    fn release(dev: Arc<Device>, _file: &File) {
        // In a work item, as this may run while io_uring tears down the server's ring.
        // It is not queued already: it runs before the device can be opened again.
        let workers = dev.workers().clone();
        let _ = workers.release.enqueue::<_, { Device::RELEASE }>(dev);
    }

    fn mmap(dev: ArcBorrow<'_, Device>, _file: &File, vma: &VmaNew) -> Result {
        {
            // All threads of the server share its descriptors, no other process does.
            let mm = vma.mm().as_raw() as usize;
            let mut state = dev.state.lock();
            let server = state.phase.server_mut().ok_or(EINVAL)?;
            if *server.mm.get_or_insert(mm) != mm {
                return Err(EINVAL);
            }
        }
        if vma.writable() {
            return Err(EPERM);
        }
        // The queues lie at equal distances, whatever their depth is.
        let distance =
            descs_len(UBLK_MAX_QUEUE_DEPTH as usize, dev.info().io_desc_size).ok_or(EINVAL)?;
        let offset = vma.pgoff().checked_mul(PAGE_SIZE).ok_or(EINVAL)?;
        let at = offset
            .checked_sub(UBLKSRV_CMD_BUF_OFFSET as usize)
            .ok_or(EINVAL)?;
        let q_id = u32::try_from(at.checked_div(distance).ok_or(EINVAL)?)?;
        dev.queue(q_id).ok_or(EINVAL)?.descs().map(vma)
    }

    fn read_iter(kiocb: Kiocb<'_, Self::Ptr>, iter: &mut IovIterDest<'_>) -> Result<usize> {
        user_copy::read(&kiocb.file(), kiocb.ki_pos(), iter)
    }

    fn write_iter(kiocb: Kiocb<'_, Self::Ptr>, iter: &mut IovIterSource<'_>) -> Result<usize> {
        user_copy::write(&kiocb.file(), kiocb.ki_pos(), iter)
    }
}
