// SPDX-License-Identifier: GPL-2.0

//! A device: what it is made of, and what is known of its server.

use crate::{
    batch_cmd::Rules,
    data_mode::DataMode,
    numbers::Number,
    phase::{
        DevicePhase,
        Event, //
    },
    places::Place,
    policy::{
        Gate,
        Recovery, //
    },
    queue::Queue,
    shmem::Shmem,
    slot::{
        Slot,
        When, //
    },
    types::Disk,
    uapi::*,
    workers::Workers, //
};
use kernel::{
    block::mq::{
        gen_disk::GenDisk,
        DiskRef,
        TagSet, //
    },
    capability::{
        capable,
        Capability, //
    },
    io_uring::IssueFlags,
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
        Mutex,
        MutexGuard, //
    },
    task::Task,
    workqueue::{
        impl_has_work,
        new_work,
        Work, //
    }, //
};

/// Whether all tasks that serve a disk may be relied on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Trust {
    Trusted,
    /// One has no privileges: it may never answer.
    Unprivileged,
}

/// What is known of the process that has the character device open.
pub(crate) struct Server {
    /// The leader of its thread group.
    pub(crate) leader: ARef<Task>,
    /// Address of the only address space that may map the descriptors, once one did.
    pub(crate) mm: Option<usize>,
    pub(crate) trust: Trust,
}

/// Who may open the disk.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Opening {
    /// Whoever owns it.
    Allowed,
    /// It is being stopped because nobody has it open: the administrator only.
    Refused,
}

/// The phases of a device with its real server and disk.
pub(crate) type Phase = DevicePhase<Server, GenDisk<Disk>, ARef<DiskRef>>;

/// What the device's mutex guards.
pub(crate) struct DeviceState {
    /// What the device is doing.
    pub(crate) phase: Phase,
    /// What the server has set.
    pub(crate) params: Params,
    /// The disk whose partitions are still to be looked for.
    pub(crate) to_scan: Option<ARef<DiskRef>>,
    /// Whether somebody is looking for the partitions of a disk, and has a reference to it.
    pub(crate) scanning: bool,
    /// Changed with the disk's `open_mutex` held as well, or before the disk is added.
    pub(crate) opening: Opening,
    /// Whether the device was deleted; it lives on until its last user is gone.
    pub(crate) deleted: bool,
}

impl DeviceState {
    /// A reference to the disk, if there is one that is not about to go.
    ///
    /// To be dropped when the state is not locked any more: the last reference frees the disk.
    pub(crate) fn disk_ref(&self) -> Option<ARef<DiskRef>> {
        self.phase.disk().map(|disk| disk.disk_ref())
    }

    /// As [`Self::disk_ref`], or one that is just being added, if it can be seen already.
    pub(crate) fn visible_disk(&self) -> Option<ARef<DiskRef>> {
        let new = || self.phase.new_disk().filter(|disk| disk.devt() != (0, 0));
        self.disk_ref().or_else(|| new().cloned())
    }
}

/// A device, from `ADD_DEV` until its last user is gone.
#[pin_data]
pub(crate) struct Device {
    /// What was agreed on at `ADD_DEV`. State and pid are filled in when somebody asks.
    info: DevInfo,
    queues: KVVec<Queue>,
    batch_rules: Rules,
    pub(crate) tag_set: Arc<TagSet<Disk>>,
    /// The memory that the server registered, with `UBLK_F_SHMEM_ZC`.
    shmem: Option<Pin<KBox<Shmem>>>,
    workers: Arc<Workers>,
    /// Held while the disk is added or deleted and while commands are canceled.
    #[pin]
    pub(crate) lifecycle: Mutex<()>,
    #[pin]
    pub(crate) state: Mutex<DeviceState>,
    /// Notified when `START_DEV` may go on.
    #[pin]
    pub(crate) ready: CondVar,
    /// Notified when nobody is looking for partitions any more.
    #[pin]
    scanned: CondVar,
    /// What is done with requests, a [`Gate`]. Atomic, as each request and each commit looks at it.
    gate: Atomic<u32>,
    /// Whether anybody has a reference to the disk. Atomic, as the last one may be dropped by
    /// anybody, with whatever lock.
    disk_exists: Atomic<bool>,
    /// How many wait for the lifecycle lock to stop the device.
    stops_waiting: Atomic<u32>,
    /// Whether the block layer is looking at all zones. Changed with [`Self::lifecycle`] held.
    revalidating: Atomic<bool>,
    /// Aborts the requests of a server that is gone.
    #[pin]
    release_work: Work<Device, { Device::RELEASE }>,
    /// Cleans up after it.
    #[pin]
    clean_work: Work<Device, { Device::CLEAN }>,
    /// Looks for partitions.
    #[pin]
    scan_work: Work<Device, { Device::SCAN }>,
    /// That of an unprivileged device. Dropped when the last user of the device is gone, so that
    /// there are not more than allowed, whoever keeps them; and before the number, so that it is
    /// free for who has waited for that.
    _place: Option<Place>,
    /// The last field to be dropped: the number is free when all else is gone.
    number: Number,
}

impl_has_work! {
    impl HasWork<Device, { Device::RELEASE }> for Device { self.release_work }
    impl HasWork<Device, { Device::CLEAN }> for Device { self.clean_work }
    impl HasWork<Device, { Device::SCAN }> for Device { self.scan_work }
}

impl Device {
    /// Identifies the work item that aborts the requests of a server that is gone: in `stop.rs`.
    pub(crate) const RELEASE: u64 = 1;
    /// Identifies the work item that cleans up after it: in `stop.rs`.
    pub(crate) const CLEAN: u64 = 2;
    /// Identifies the work item that looks for partitions: in `start.rs`.
    pub(crate) const SCAN: u64 = 3;

    /// Creates a device without a server.
    pub(crate) fn new(
        info: DevInfo,
        number: Number,
        place: Option<Place>,
        workers: Arc<Workers>,
    ) -> Result<Arc<Self>> {
        let data = DataMode::new(info.flags);
        let recovery = Recovery::new(info.flags);
        let tag_set = Arc::pin_init(
            TagSet::new(info.nr_hw_queues.into(), info.queue_depth.into(), 1),
            GFP_KERNEL,
        )?;
        let mut queues = KVVec::with_capacity(info.nr_hw_queues.into(), GFP_KERNEL)?;
        for q_id in 0..info.nr_hw_queues {
            // Where its requests come from, and most probably its server is.
            let node = tag_set.node_of_queue(q_id.into());
            let queue = Queue::new(&info, data, recovery, node)?;
            queues.push(queue, GFP_KERNEL)?;
        }
        let shmem = match info.flags & UBLK_F_SHMEM_ZC {
            0 => None,
            _ => Some(Shmem::new()?),
        };
        let info = DevInfo {
            dev_id: number.get(),
            ..info
        };
        let batch_rules = Rules::new(&info);
        let state = DeviceState {
            phase: Phase::Closed,
            params: Params::default(),
            to_scan: None,
            scanning: false,
            opening: Opening::Allowed,
            deleted: false,
        };
        Arc::pin_init(
            pin_init!(Self {
                info,
                queues,
                batch_rules,
                tag_set,
                shmem,
                workers,
                lifecycle <- new_mutex!((), "ublk_rs::Device::lifecycle"),
                state <- new_mutex!(state, "ublk_rs::Device::state"),
                ready <- new_condvar!("ublk_rs::Device::ready"),
                scanned <- new_condvar!("ublk_rs::Device::scanned"),
                gate: Atomic::new(Gate::Open as u32),
                disk_exists: Atomic::new(false),
                stops_waiting: Atomic::new(0),
                revalidating: Atomic::new(false),
                clean_work <- new_work!("ublk_rs::Device::clean_work"),
                release_work <- new_work!("ublk_rs::Device::release_work"),
                scan_work <- new_work!("ublk_rs::Device::scan_work"),
                _place: place,
                number,
            }),
            GFP_KERNEL,
        )
    }

    /// The number of the device.
    pub(crate) fn number(&self) -> &Number {
        &self.number
    }

    /// The number of the device, as a number.
    pub(crate) fn id(&self) -> u32 {
        self.number.get()
    }

    /// What was agreed on at `ADD_DEV`.
    pub(crate) fn info(&self) -> &DevInfo {
        &self.info
    }

    /// What the commands of a server may say that works on batches.
    pub(crate) fn batch_rules(&self) -> &Rules {
        &self.batch_rules
    }

    /// Whether the device has one of `features`.
    pub(crate) fn has(&self, features: u64) -> bool {
        self.info.flags & features != 0
    }

    /// The memory that the server registered, of a device that has that feature.
    #[inline]
    pub(crate) fn shmem(&self) -> Option<&Shmem> {
        self.shmem.as_deref()
    }

    /// The work queues.
    pub(crate) fn workers(&self) -> &Arc<Workers> {
        &self.workers
    }

    /// The queue with this number.
    pub(crate) fn queue(&self, q_id: u32) -> Option<&Queue> {
        self.queues.get(q_id as usize)
    }

    /// The slot of a tag of a queue.
    pub(crate) fn slot(&self, q_id: u16, tag: u16) -> Option<&Slot> {
        self.queue(q_id.into())?.slot(tag.into())
    }

    /// All queues.
    pub(crate) fn queues(&self) -> impl Iterator<Item = &Queue> {
        self.queues.iter()
    }

    /// All slots of all queues.
    pub(crate) fn slots(&self) -> impl Iterator<Item = &Slot> {
        self.queues.iter().flat_map(|queue| queue.slots())
    }

    /// Whether anybody has a reference to the disk.
    pub(crate) fn disk_exists(&self) -> bool {
        self.disk_exists.load(Acquire)
    }

    /// Sets whether anybody has a reference to the disk.
    pub(crate) fn set_disk_exists(&self, exists: bool) {
        self.disk_exists.store(exists, Release);
    }

    /// Takes [`Self::lifecycle`] to stop the device. Who holds it does not wait for the server's
    /// zones any more.
    pub(crate) fn lock_to_stop(&self) -> MutexGuard<'_, ()> {
        self.stops_waiting.fetch_add(1, Relaxed);
        let lifecycle = self.lifecycle.lock();
        self.stops_waiting.fetch_sub(1, Relaxed);
        lifecycle
    }

    /// Whether somebody waits for the lifecycle lock to stop the device.
    pub(crate) fn stop_is_waiting(&self) -> bool {
        self.stops_waiting.load(Relaxed) != 0
    }

    /// Whether the block layer is looking at all zones.
    pub(crate) fn is_revalidating(&self) -> bool {
        self.revalidating.load(Relaxed)
    }

    /// Says that the block layer is going to look at all zones, or has done so. The caller holds
    /// [`Self::lifecycle`].
    pub(crate) fn set_revalidating(&self, on: bool) {
        self.revalidating.store(on, Relaxed);
    }

    /// Takes the disk whose partitions are to be looked for, if there is one. Then
    /// [`Self::scan_ended`] has to follow.
    pub(crate) fn take_scan(&self) -> Option<ARef<DiskRef>> {
        let mut state = self.state.lock();
        let disk = state.to_scan.take();
        state.scanning = disk.is_some();
        disk
    }

    /// Nobody has a reference to a disk to look for its partitions any more.
    pub(crate) fn scan_ended(&self) {
        self.state.lock().scanning = false;
        self.scanned.notify_all();
    }

    /// Waits until nobody looks for partitions. The caller holds [`Self::lifecycle`], so that no
    /// other disk comes, and has deleted the disk, so that nobody waits for the server to read from
    /// it.
    pub(crate) fn wait_scanned(&self) {
        let mut state = self.state.lock();
        while state.scanning {
            self.scanned.wait(&mut state);
        }
    }

    /// What happens when the server dies.
    pub(crate) fn recovery(&self) -> Recovery {
        Recovery::new(self.info.flags)
    }

    /// What is done with requests.
    #[inline]
    pub(crate) fn gate(&self) -> Gate {
        // See `change_gate()` for the order.
        Gate::from_number(self.gate.load(Relaxed))
    }

    /// Whether requests go to their slots. One comparison, as each request and each commit asks: of
    /// `gate() == Gate::Open` the compiler makes seven instructions.
    #[inline]
    pub(crate) fn gate_is_open(&self) -> bool {
        self.gate.load(Relaxed) == Gate::Open as u32
    }

    /// Sets what is done with requests from now on. Requests that are being queued at this moment
    /// may still be treated in the old way.
    pub(crate) fn set_gate(&self, gate: Gate) {
        self.gate.store(gate as u32, Relaxed);
    }

    /// Sets what is done with requests, and sees to it that no request is still treated in the old
    /// way.
    ///
    /// Sleeps. The caller holds [`Device::lifecycle`].
    pub(crate) fn change_gate(&self, disk: &DiskRef, gate: Gate) {
        // Before the queue is quiesced: that waits for an RCU grace period. A request that is being
        // queued when it begins is waited for; one that is queued later sees the store. The other
        // way round, nothing would order the load of the gate after the one that found that the
        // queue runs again, and a weakly ordered CPU could still see the old gate.
        self.set_gate(gate);
        disk.quiesce().unquiesce();
    }

    /// Completes all commands that wait, to tell the server that it is not needed any more. The
    /// caller holds [`Device::lifecycle`], and there is a server that was stopped or sent away.
    pub(crate) fn cancel_commands(&self) {
        // The server can not be replaced by another one before the lifecycle lock is dropped, so
        // these are its commands. Completing them takes the lock of their ring, and nothing that is
        // held here is taken under that.
        for slot in self.slots() {
            if let Some(cmd) = slot.cancel() {
                cmd.done(UBLK_IO_RES_ABORT, IssueFlags::UNLOCKED);
            }
        }
        self.close_batches();
    }

    /// Gives up all slots whose server is dying, as it may wait for its own disk before it closes
    /// its files: their requests end, and further ones are turned away. Else each of those would
    /// wait for the block layer's timer, one after the other if a file system is unmounted.
    ///
    /// Takes no other locks than those of slots and of queues of batches, so that it can be called
    /// by that timer.
    pub(crate) fn give_up_deserted(&self, when: When) {
        for slot in self.slots() {
            slot.refuse_if_deserted();
        }
        // Who sees his request fail finds no slot that takes the next one.
        for slot in self.slots() {
            slot.abort_if_deserted(when);
        }
    }

    /// With `UBLK_F_BATCH_IO`, ends all fetch commands but those that are just telling the server
    /// something, which end then. No other one is taken, and what the server was not told goes back
    /// to the block layer. As [`Self::cancel_commands`] otherwise.
    pub(crate) fn close_batches(&self) {
        for queue in self.queues() {
            queue.close_batch(IssueFlags::UNLOCKED);
        }
    }

    /// Makes all slots ready for the next server. The last one must have closed its file and its
    /// requests must be aborted, and no request must be on its way to a slot.
    pub(crate) fn reset_slots(&self) {
        for queue in self.queues() {
            queue.slots().for_each(Slot::reset);
            if let Some(batch) = queue.batch() {
                batch.reset();
            }
        }
    }

    /// Whether the server was sent away, and gets no further request.
    ///
    /// To be asked after a command came to wait in a slot. Whoever sends the server away takes the
    /// lock of each slot afterwards, and whoever asks has just had the lock of one; so one of them
    /// finds the command that waits there.
    #[inline]
    pub(crate) fn is_leaving(&self) -> bool {
        // Each commit asks, so the state is locked only if it may be so: the gate is closed before
        // a server is sent away, and opened only for the next one.
        !self.gate_is_open() && self.is_leaving_now()
    }

    #[cold]
    fn is_leaving_now(&self) -> bool {
        self.state.lock().phase.is_leaving()
    }

    /// Calls `take` with whether a slot may be fetched. It returns its result and whether a slot
    /// took its first command.
    pub(crate) fn fetch<R>(&self, take: impl FnOnce(Result) -> (R, bool)) -> R {
        let mut state = self.state.lock();
        let (result, taken) = take(state.phase.may_fetch());
        if taken {
            self.note_fetched(&mut state, 1);
        }
        result
    }

    /// Calls `prepare` with how many slots may still be prepared, if any may. It returns how many
    /// it has prepared.
    pub(crate) fn fetch_many(&self, prepare: impl FnOnce(Result<u32>) -> Result<u32>) -> Result {
        let mut state = self.state.lock();
        let prepared = prepare(state.phase.left_to_fetch(self.nr_slots()))?;
        self.note_fetched(&mut state, prepared);
        Ok(())
    }

    /// How many slots there are.
    fn nr_slots(&self) -> u32 {
        u32::from(self.info.nr_hw_queues) * u32::from(self.info.queue_depth)
    }

    /// So many slots took their first command.
    fn note_fetched(&self, state: &mut DeviceState, slots: u32) {
        if slots == 0 {
            return;
        }
        if let Some(server) = state.phase.server_mut() {
            if server.trust == Trust::Trusted && !capable(Capability::SYS_ADMIN) {
                server.trust = Trust::Unprivileged;
            }
        }
        let total = self.nr_slots();
        for _ in 0..slots {
            // It may be fetched, and this never gives up a disk.
            let _ = state.phase.change(Event::Fetched { total });
        }
        if state.phase.fetched_or_stopping() {
            self.ready.notify_all();
        }
        // New requests of a disk that is being recovered may come; those that wait do so until the
        // end of the recovery.
        if state.phase.is_ready() {
            self.set_gate(Gate::Open);
        }
    }
}
