// SPDX-License-Identifier: GPL-2.0

//! Block devices served by a process in user space.
//!
//! A *server* creates a device with control commands on `/dev/ublk-control`, opens its character
//! device `/dev/ublkcN`, and gives the driver one *I/O command* per tag and queue. The driver
//! answers such a command when the block device `/dev/ublkbN` has a *request* with that tag. The
//! server does the work and commits the result with its next command for the same tag.
//!
//! The files are floors of a house: each uses only what lies below it, so that they can be read
//! from the ground up. The life of one request, in the order in which it happens:
//!
//! 1. [`disk`]: the block layer queues the request; the waiting command is sent to its task.
//! 2. [`slot`]: the task describes the request to the server, copies the data of a write and
//!    answers the command. From here the server owns the request.
//! 3. [`user_copy`], [`register`], [`fused`], [`shmem`]: the server reaches the request's data.
//! 4. [`io_cmd`]: the server commits the result and queues its next command.
//! 5. [`ending`]: the request ends when nobody uses its data any more.
//!
//! [`stage`] has the stages of an I/O, and who may change them.
//!
//! A server may also work on many requests with each of its commands: see [`batch`], and
//! [`batch_queue`] for how it gets them.
//!
//! The zones of a zoned disk are known to its server, which is asked for them: [`zone_report`].
//!
//! The life of a device: [`add`], [`params`], [`char_dev`], [`start`], [`recovery`], [`stop`], with
//! its phases in [`phase`] and its number in [`numbers`].
//!
//! # Locks
//!
//! From the outside in:
//!
//! 1. [`Device::lifecycle`](device::Device), a mutex: starting and stopping. Held while disks are
//!    added and deleted and while commands are canceled. Never taken under a ring's lock.
//! 2. The ring's lock of io_uring, the `mmap_lock` of a process, and the `open_mutex` of a disk.
//! 3. [`Device::state`](device::Device), a mutex: the phase and the parameters. Nothing under it
//!    waits for I/O or for anybody else (memory is asked for with `GFP_NOIO`), no user memory is
//!    touched and no command is completed.
//! 4. The lock of an I/O slot, a spin lock: see [`slot`]. That of a [`batch_queue`], likewise;
//!    neither is taken under the other.
//!
//! The devices in [`driver`] and their [`numbers`] have a mutex each, held for a look-up only.

mod add;
mod batch;
mod batch_cmd;
mod batch_fused;
mod batch_queue;
mod char_dev;
mod control;
mod data_mode;
mod debug;
mod descs;
mod device;
mod disk;
mod driver;
mod ending;
mod fused;
mod info;
mod integrity;
mod io_cmd;
mod numbers;
mod params;
mod phase;
mod places;
mod policy;
mod queue;
mod recovery;
mod register;
mod shmem;
mod shmem_ctrl;
mod slot;
mod stage;
mod start;
mod stop;
mod types;
mod uapi;
mod user_copy;
mod workers;
mod zone_report;
mod zoned;

use crate::{
    control::ControlDevice,
    driver::{
        Driver,
        DRIVER, //
    }, //
};
use kernel::{
    miscdevice::{
        MiscDeviceOptions,
        MiscDeviceRegistration, //
    },
    prelude::*,
    sync::{
        Arc,
        ArcSlotGuard, //
    }, //
};

/// As `module!`, with the name only.
macro_rules! ublk_module {
    ($name:tt) => {
        module! {
            type: UblkModule,
            name: $name,
            description: "Userspace block device in Rust",
            license: "GPL v2",
            params: {
                ublks_max: u32 {
                    default: 64,
                    writable: 0..=crate::uapi::UBLK_MAX_UBLKS,
                    description: "max number of unprivileged ublk devices allowed to add",
                },
            },
        }
    };
}

// The C driver's name, if that is not built. See the `Makefile`.
#[cfg(CONFIG_BLK_DEV_UBLK)]
ublk_module!("ublk_rs");
#[cfg(not(CONFIG_BLK_DEV_UBLK))]
ublk_module!("ublk_drv");

/// The loaded module.
#[pin_data(PinnedDrop)]
struct UblkModule {
    driver: Arc<Driver>,
    published: ArcSlotGuard<Driver>,
    #[pin]
    misc: MiscDeviceRegistration<ControlDevice>,
}

impl kernel::InPlaceModule for UblkModule {
    fn init(_module: &'static ThisModule) -> impl PinInit<Self, Error> {
        // A second driver for the same device nodes fails here, before it changed anything else.
        try_pin_init!(Self {
            misc <- MiscDeviceRegistration::register(MiscDeviceOptions {
                name: c"ublk-control",
            }),
            driver: Driver::new(misc.device(), || module_parameters::ublks_max.value())?,
            published: DRIVER.fill(driver.clone())?,
        })
    }
}

#[pinned_drop]
impl PinnedDrop for UblkModule {
    fn drop(self: Pin<&mut Self>) {
        // No file of the driver is open and no disk is in use: each of them holds the module.
        stop::delete_all(&self.driver);
    }
}
