// SPDX-License-Identifier: GPL-2.0

//! Block devices served by a process in user space.
//!
//! A *server* creates a device with control commands on `/dev/ublk-control`, opens its character
//! device `/dev/ublkcN`, and gives the driver one *I/O command* per tag and queue. The driver
//! answers such a command when the block device `/dev/ublkbN` has a *request* with that tag. The
//! server does the work and commits the result with its next command for the same tag.
//!
//! The life of one request, in the order in which it happens:
//!
//! 1. [`queue`]: the block layer queues the request; the waiting command is sent to its task.
//! 2. [`io`]: the task describes the request to the server, copies the data of a write and answers
//!    the command. From here the server owns the request.
//! 3. [`user_copy`], [`register`], [`fused`]: the server reaches the request's data.
//! 4. [`io_cmd`]: the server commits the result and queues its next command.
//! 5. [`io`]: the request ends when nobody uses its data any more.
//!
//! [`state`] has the states of a slot, and who may change them.
//!
//! The life of a device: [`add`], [`params`], [`char_dev`], [`start`], [`recovery`], [`stop`], with
//! its states in [`phase`] and its number in [`ids`].
//!
//! # Locks
//!
//! From the outside in:
//!
//! 1. [`Device::lifecycle`](device::Device), a mutex: starting and stopping. Held while disks are
//!    added and deleted and while commands are canceled. Never taken under a ring's lock.
//! 2. The ring's lock of io_uring, and the `mmap_lock` of a process.
//! 3. [`Device::state`](device::Device), a mutex: the phase and the parameters. Nothing sleeps
//!    under it, no user memory is touched and no command is completed.
//! 4. The lock of an I/O slot, a spin lock: see [`io`].
//!
//! The table of devices in [`ids`] has a mutex of its own, held for a look-up only.

mod add;
mod buffer;
mod char_dev;
mod control;
mod device;
mod fused;
mod ids;
mod info;
mod io;
mod io_cmd;
mod params;
mod phase;
mod queue;
mod recovery;
mod register;
mod start;
mod state;
mod stop;
mod uapi;
mod user_copy;

use crate::control::Control;
use kernel::{
    miscdevice::{
        MiscDeviceOptions,
        MiscDeviceRegistration, //
    },
    prelude::*,
    sync::{
        Arc,
        ArcSlot,
        ArcSlotGuard, //
    }, //
};

module! {
    type: UblkModule,
    name: "ublk_rs",
    authors: ["Rust for Linux Contributors"],
    description: "Userspace block device in Rust",
    license: "GPL v2",
    params: {
        ublks_max: u32 {
            default: 64,
            description: "max number of unprivileged ublk devices allowed to add",
        },
    },
}

/// What the control device and the character devices find the driver by.
///
/// Filled while the module is loaded. An open file of the driver keeps the module loaded.
pub(crate) static CONTROL: ArcSlot<Control> = ArcSlot::new();

/// The loaded module.
#[pin_data(PinnedDrop)]
struct UblkModule {
    control: Arc<Control>,
    published: ArcSlotGuard<Control>,
    #[pin]
    misc: MiscDeviceRegistration<control::ControlDevice>,
}

impl kernel::InPlaceModule for UblkModule {
    fn init(_module: &'static ThisModule) -> impl PinInit<Self, Error> {
        // A second driver for the same device nodes fails here, before it changed anything else.
        try_pin_init!(Self {
            misc <- MiscDeviceRegistration::register(MiscDeviceOptions {
                name: c"ublk-control",
            }),
            control: Control::new(misc.device())?,
            published: CONTROL.fill(control.clone())?,
        })
    }
}

#[pinned_drop]
impl PinnedDrop for UblkModule {
    fn drop(self: Pin<&mut Self>) {
        // No file of the driver is open and no disk is in use: each of them holds the module.
        self.control.shut_down();
    }
}
