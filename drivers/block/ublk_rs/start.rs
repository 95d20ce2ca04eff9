// SPDX-License-Identifier: GPL-2.0

//! Starting a device: the disk appears.

use crate::{
    device::{
        Device,
        Opening,
        Trust, //
    },
    disk::DiskData,
    phase::Event,
    policy::Gate,
    types::Disk,
    uapi::*,
    zone_report, //
};
use kernel::{
    block::mq::gen_disk::{
        GenDiskBuilder,
        UnaddedDisk, //
    },
    prelude::*,
    sync::{
        Arc,
        MutexGuard, //
    },
    task::Task,
    workqueue::WorkItem, //
};

/// `START_DEV`: waits until the server has fetched all slots, and adds the disk.
///
/// `pid` must be that of the server. Sleeps. Fails with
/// - [`EINVAL`] if `pid` is wrong, or the basic parameters were not set;
/// - [`EINTR`] if a signal comes while it waits, [`ENODEV`] if the device is deleted meanwhile;
/// - [`EEXIST`] if there is a disk, or somebody still has the last one open;
/// - [`EBUSY`] if the server was told to stop and has not closed the character device yet;
/// - what the block layer says about the parameters, or about the zones of a zoned device, which
///   the server is asked for.
pub(crate) fn start(dev: &Arc<Device>, pid: i32) -> Result {
    if pid <= 0 || !dev.state.lock().params.has(UBLK_PARAM_TYPE_BASIC) {
        return Err(EINVAL);
    }
    let _lifecycle = wait_ready(dev)?;
    // Dropped before the lock: if the disk can not be added, who has that next finds none.
    let disk_ref;

    let data = KBox::new_uninit(GFP_KERNEL)?;
    let (params, data) = {
        let state = dev.state.lock();
        check_pid(&state.phase.server().ok_or(EINVAL)?.leader, pid)?;
        if dev.disk_exists() {
            return Err(EEXIST);
        }
        state.phase.may_start()?;
        // From here on the parameters can not be changed any more.
        (state.params, KBox::write(data, DiskData::new(dev.clone())))
    };

    let disk = alloc_disk(dev, &params, data)?;
    disk_ref = disk.disk_ref();
    {
        let mut state = dev.state.lock();
        state.opening = Opening::Allowed;
        // Nobody else changes the phase from Ready to anything while we hold the lifecycle lock.
        state.phase.change(Event::Start(disk_ref.clone()))?;
    }
    // The first requests may come before it is completely added.
    dev.set_gate(Gate::Open);
    let disk = match zone_report::while_revalidating(dev, || disk.add()) {
        Ok(disk) => disk,
        Err(e) => {
            let _ = dev.state.lock().phase.change(Event::StartFailed);
            return Err(e);
        }
    };
    let scan = {
        let mut state = dev.state.lock();
        let trust = state.phase.server().map(|server| server.trust);
        state.phase.change(Event::Started(disk))?;
        // A scan by a server that need not answer would keep everybody else from opening the disk.
        let may_scan = trust == Some(Trust::Trusted);
        let scan = may_scan && !dev.has(UBLK_F_NO_AUTO_PART_SCAN);
        if may_scan && !scan {
            disk_ref.allow_partition_scan();
        }
        state.to_scan = scan.then(|| disk_ref.clone());
        scan
    };
    if scan {
        // Reading the disk needs the server, so it is not done here. If the item is still queued
        // for the last disk, it will find this one.
        let _ = dev
            .workers()
            .scan
            .enqueue::<_, { Device::SCAN }>(dev.clone());
    }
    Ok(())
}

/// Waits until all slots were fetched, or the server was told to stop.
pub(crate) fn wait_ready(dev: &Device) -> Result<MutexGuard<'_, ()>> {
    loop {
        {
            let mut state = dev.state.lock();
            while !state.phase.fetched_or_stopping() {
                if state.deleted {
                    return Err(ENODEV);
                }
                if dev.ready.wait_interruptible(&mut state) {
                    return Err(EINTR);
                }
            }
        }
        // The server may die before we have the lock.
        let lifecycle = dev.lifecycle.lock();
        if dev.state.lock().phase.fetched_or_stopping() {
            return Ok(lifecycle);
        }
    }
}

/// Whether `pid` means the server in the current task's pid namespace.
pub(crate) fn check_pid(leader: &Task, pid: i32) -> Result {
    match leader.tgid_nr_ns(current!().active_pid_ns()) {
        // It has none there.
        0 => Err(EINVAL),
        server if server == pid => Ok(()),
        _ => Err(EINVAL),
    }
}

/// Makes the disk. Its partitions are not looked for when it is added.
fn alloc_disk(dev: &Device, params: &Params, data: KBox<DiskData>) -> Result<UnaddedDisk<Disk>> {
    GenDiskBuilder::new()
        .limits(params.limits()?)
        .capacity_sectors(params.basic.dev_sectors)
        .read_only(params.basic.attrs & UBLK_ATTR_READ_ONLY != 0)
        .suppress_partition_scan(true)
        .alloc::<Disk>(fmt!("ublkb{}", dev.id()), dev.tag_set.clone(), data)
}

/// Looks for partitions.
impl WorkItem<{ Device::SCAN }> for Device {
    type Pointer = Arc<Device>;

    fn run(dev: Arc<Device>) {
        // A stop takes it out, or waits for us.
        if let Some(disk) = dev.take_scan() {
            // A server that fails its reads has no partitions, that is no error here.
            let _ = disk.scan_partitions();
            drop(disk);
            dev.scan_ended();
        }
    }
}
