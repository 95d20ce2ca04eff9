// SPDX-License-Identifier: GPL-2.0

//! A device: what it is made of, and what is known of its server.

use crate::{
    buffer::DataMode,
    ids::Number,
    io::Slot,
    phase::{
        Event,
        Phase, //
    },
    queue::{
        Disk,
        Queue, //
    },
    recovery::{
        Gate,
        Recovery, //
    },
    uapi::*, //
};
use kernel::{
    block::mq::{
        gen_disk::GenDisk,
        TagSet, //
    },
    capability::{
        capable,
        Capability, //
    },
    prelude::*,
    sync::{
        aref::ARef,
        atomic::{
            Acquire,
            Atomic,
            Relaxed,
            Release, //
        },
        new_condvar,
        new_mutex,
        Arc,
        CondVar,
        Mutex, //
    },
    task::Task,
    workqueue::{
        impl_has_work,
        new_work,
        Work, //
    }, //
};

/// What is known of the process that has the character device open.
pub(crate) struct Server {
    /// The leader of its thread group.
    pub(crate) leader: ARef<Task>,
    /// Address of the only address space that may map the descriptors; 0 before the first did.
    pub(crate) mm: usize,
}

/// What the device's mutex guards.
pub(crate) struct State {
    /// What the device is doing.
    pub(crate) phase: Phase<Server, GenDisk<Disk>>,
    /// What the server has set.
    pub(crate) params: Params,
    /// Whether the device was deleted; it lives on until its last user is gone.
    pub(crate) deleted: bool,
}

/// A device, from `ADD_DEV` until its last user is gone.
#[pin_data]
pub(crate) struct Device {
    /// What was agreed on at `ADD_DEV`. State and pid are filled in when somebody asks.
    info: DevInfo,
    queues: KVVec<Queue>,
    pub(crate) tag_set: Arc<TagSet<Disk>>,
    /// Held while the disk is added or deleted and while commands are canceled.
    #[pin]
    pub(crate) lifecycle: Mutex<()>,
    #[pin]
    pub(crate) state: Mutex<State>,
    /// Notified when `START_DEV` may go on.
    #[pin]
    pub(crate) ready: CondVar,
    /// Whether the disk can have requests; what user space knows as the state.
    live: Atomic<bool>,
    /// Whether anybody has a reference to the disk.
    disk_exists: Atomic<bool>,
    /// What is done with requests, a [`Gate`].
    gate: Atomic<u32>,
    /// Whether the server was sent away: it gets no further request.
    leaving: Atomic<bool>,
    /// Whether the disk is being stopped because nobody has it open.
    closing: Atomic<bool>,
    /// Whether a task without privileges serves the disk.
    distrusted: Atomic<bool>,
    /// Cleans up after the server.
    #[pin]
    pub(crate) release_work: Work<Device, { Device::RELEASE }>,
    /// Looks for partitions.
    #[pin]
    pub(crate) scan_work: Work<Device, { Device::SCAN }>,
    /// The last field to be dropped: the number is free when all else is gone.
    number: Number,
}

impl_has_work! {
    impl HasWork<Device, { Device::RELEASE }> for Device { self.release_work }
    impl HasWork<Device, { Device::SCAN }> for Device { self.scan_work }
}

impl Device {
    /// Identifies [`Device::release_work`].
    pub(crate) const RELEASE: u64 = 1;
    /// Identifies [`Device::scan_work`].
    pub(crate) const SCAN: u64 = 2;

    /// Creates a device without a server.
    pub(crate) fn new(info: DevInfo, number: Number) -> Result<Arc<Self>> {
        let data = DataMode::new(info.flags);
        let recovery = Recovery::new(info.flags);
        let mut queues = KVVec::with_capacity(info.nr_hw_queues.into(), GFP_KERNEL)?;
        for _ in 0..info.nr_hw_queues {
            let queue = Queue::new(info.queue_depth, info.io_desc_size, data, recovery)?;
            queues.push(queue, GFP_KERNEL)?;
        }
        let tag_set = Arc::pin_init(
            TagSet::new(info.nr_hw_queues.into(), info.queue_depth.into(), 1),
            GFP_KERNEL,
        )?;
        let info = DevInfo {
            dev_id: number.get(),
            ..info
        };
        let state = State {
            phase: Phase::Closed,
            params: Params::default(),
            deleted: false,
        };
        Arc::pin_init(
            pin_init!(Self {
                info,
                queues,
                tag_set,
                lifecycle <- new_mutex!((), "ublk_rs::Device::lifecycle"),
                state <- new_mutex!(state, "ublk_rs::Device::state"),
                ready <- new_condvar!("ublk_rs::Device::ready"),
                live: Atomic::new(false),
                disk_exists: Atomic::new(false),
                gate: Atomic::new(Gate::Open as u32),
                leaving: Atomic::new(false),
                closing: Atomic::new(false),
                distrusted: Atomic::new(false),
                release_work <- new_work!("ublk_rs::Device::release_work"),
                scan_work <- new_work!("ublk_rs::Device::scan_work"),
                number,
            }),
            GFP_KERNEL,
        )
    }

    /// The number of the device.
    pub(crate) fn id(&self) -> u32 {
        self.number.get()
    }

    /// What was agreed on at `ADD_DEV`.
    pub(crate) fn info(&self) -> &DevInfo {
        &self.info
    }

    /// Whether the device has one of `features`.
    pub(crate) fn has(&self, features: u64) -> bool {
        self.info.flags & features != 0
    }

    /// The queue with this number.
    pub(crate) fn queue(&self, q_id: u32) -> Option<&Queue> {
        self.queues.get(q_id as usize)
    }

    /// The slot of a tag of a queue.
    pub(crate) fn slot(&self, q_id: u16, tag: u16) -> Option<&Slot> {
        self.queue(q_id.into())?.slot(tag.into())
    }

    /// All slots of all queues.
    pub(crate) fn slots(&self) -> impl Iterator<Item = &Slot> {
        self.queues.iter().flat_map(|queue| queue.slots())
    }

    /// Whether the disk can have requests.
    pub(crate) fn is_live(&self) -> bool {
        self.live.load(Acquire)
    }

    /// Sets whether the disk can have requests. The caller holds [`Device::lifecycle`].
    pub(crate) fn set_live(&self, live: bool) {
        self.live.store(live, Release);
    }

    /// Whether anybody has a reference to the disk.
    pub(crate) fn disk_exists(&self) -> bool {
        self.disk_exists.load(Acquire)
    }

    /// Sets whether anybody has a reference to the disk.
    pub(crate) fn set_disk_exists(&self, exists: bool) {
        self.disk_exists.store(exists, Release);
    }

    /// What happens when the server dies.
    pub(crate) fn recovery(&self) -> Recovery {
        Recovery::new(self.info.flags)
    }

    /// What is done with requests.
    pub(crate) fn gate(&self) -> Gate {
        // Who sets it quiesces the queue if the order matters.
        Gate::from_number(self.gate.load(Relaxed))
    }

    /// Sets what is done with requests from now on.
    pub(crate) fn set_gate(&self, gate: Gate) {
        self.gate.store(gate as u32, Relaxed);
    }

    /// Whether the server was sent away.
    pub(crate) fn is_leaving(&self) -> bool {
        // Whoever sets it takes the lock of each slot afterwards, and whoever looks has just had
        // the lock of one; so one of them finds the command that waits there.
        self.leaving.load(Relaxed)
    }

    /// Sets whether the server was sent away. The caller holds [`Device::lifecycle`].
    pub(crate) fn set_leaving(&self, leaving: bool) {
        self.leaving.store(leaving, Relaxed);
    }

    /// Whether the disk is being stopped because nobody has it open.
    pub(crate) fn is_closing(&self) -> bool {
        // Set and read under the disk's `open_mutex`, or while there is no disk.
        self.closing.load(Relaxed)
    }

    /// Sets whether the disk is being stopped because nobody has it open.
    pub(crate) fn set_closing(&self, closing: bool) {
        self.closing.store(closing, Relaxed);
    }

    /// Whether a task without privileges serves the disk: it may never answer.
    pub(crate) fn is_distrusted(&self) -> bool {
        // Set under the lock of the state, which is taken for the last fetch before the disk is
        // added.
        self.distrusted.load(Relaxed)
    }

    /// Sets whether a task without privileges serves the disk.
    pub(crate) fn set_distrusted(&self, distrusted: bool) {
        self.distrusted.store(distrusted, Relaxed);
    }

    /// All queues.
    pub(crate) fn queues(&self) -> impl Iterator<Item = &Queue> {
        self.queues.iter()
    }

    /// Calls `take` with whether a slot may be fetched. It returns its result and whether a slot
    /// took its first command.
    pub(crate) fn fetch<R>(&self, take: impl FnOnce(Result) -> (R, bool)) -> R {
        let mut state = self.state.lock();
        let (result, taken) = take(state.phase.may_fetch());
        if taken {
            if !self.is_distrusted() && !capable(Capability::SYS_ADMIN) {
                self.set_distrusted(true);
            }
            let total = u32::from(self.info.nr_hw_queues) * u32::from(self.info.queue_depth);
            // It may be fetched, and this never gives up a disk.
            let _ = state.phase.change(Event::Fetched { total });
            if state.phase.fetched_or_stopping() {
                self.ready.notify_all();
            }
            // New requests of a disk that is being recovered may come; those that wait do so until
            // the end of the recovery.
            if state.phase.is_ready() {
                self.set_gate(Gate::Open);
            }
        }
        result
    }
}
