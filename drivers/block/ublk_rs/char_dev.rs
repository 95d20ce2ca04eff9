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
    types::{
        BatchCommands,
        IoCommands, //
    },
    uapi::*,
    user_copy, //
};
use core::marker::PhantomData;
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
    io_uring::CommandHandler,
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

/// A character device that is in `/dev`; it goes when this is dropped.
pub(crate) enum CharDev {
    PerIo {
        _node: CharDeviceRegistration<ServerDevice<IoCommands>>,
    },
    /// With `UBLK_F_BATCH_IO`.
    Batch {
        _node: CharDeviceRegistration<ServerDevice<BatchCommands>>,
    },
}

impl CharDev {
    /// Makes the character device of a device.
    pub(crate) fn new(
        region: &Region,
        class: &Class,
        parent: &kernel::device::Device,
        dev: &Arc<Device>,
    ) -> Result<Self> {
        let (id, parent) = (dev.id(), Some(parent));
        let name = fmt!("ublkc{id}");
        if dev.has(UBLK_F_BATCH_IO) {
            CharDeviceRegistration::new(region, class, id, parent, name, dev.clone())
                .map(|_node| Self::Batch { _node })
        } else {
            CharDeviceRegistration::new(region, class, id, parent, name, dev.clone())
                .map(|_node| Self::PerIo { _node })
        }
    }
}

/// What a server sees of a device, which it sends the commands `C`.
pub(crate) struct ServerDevice<C>(PhantomData<C>);

#[vtable]
impl<C: CommandHandler<Ptr = Arc<Device>> + 'static> CharDevice for ServerDevice<C> {
    type Context = Arc<Device>;
    type Ptr = Arc<Device>;
    type Cmd = C;

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
