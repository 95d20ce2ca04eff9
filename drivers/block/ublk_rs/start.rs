// SPDX-License-Identifier: GPL-2.0

//! Starting a device: the disk appears.

use crate::{
    control::Control,
    device::Device,
    phase::Event,
    queue::{
        Disk,
        DiskData, //
    },
    recovery::Gate,
    uapi::*, //
};
use kernel::{
    block::mq::gen_disk::{
        GenDisk,
        GenDiskBuilder, //
    },
    prelude::*,
    sync::{
        Arc,
        MutexGuard, //
    },
    workqueue::WorkItem, //
};

/// `START_DEV`: waits until the server has fetched all slots, and adds the disk.
///
/// `pid` must be that of the server. Sleeps. Fails with
/// - [`EINVAL`] if `pid` is wrong, or the basic parameters were not set;
/// - [`EINTR`] if a signal comes while it waits, [`ENODEV`] if the device is deleted meanwhile;
/// - [`EEXIST`] if there is a disk, or somebody still has the last one open;
/// - [`EBUSY`] if the server was told to stop and has not closed the character device yet;
/// - what the block layer says about the parameters.
pub(crate) fn start(control: &Control, dev: &Arc<Device>, pid: i32) -> Result {
    if pid <= 0 || !dev.state.lock().params.has(UBLK_PARAM_TYPE_BASIC) {
        return Err(EINVAL);
    }
    let _lifecycle = wait_ready(dev)?;

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

    let disk = add_disk(dev, &params, data)?;
    let disk_ref = disk.disk_ref();
    // Nobody else changes the phase from Ready to anything while we hold the lifecycle lock.
    dev.state.lock().phase.change(Event::Start(disk))?;

    // A scan by a server that need not answer would keep everybody else from opening the disk.
    if dev.is_distrusted() {
        return Ok(());
    }
    if dev.has(UBLK_F_NO_AUTO_PART_SCAN) {
        disk_ref.allow_partition_scan();
    } else {
        // Reading the disk needs the server, so it is not done here. If a scan of the last disk is
        // still queued, it will find this one.
        let _ = control.queue().enqueue::<_, { Device::SCAN }>(dev.clone());
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
pub(crate) fn check_pid(leader: &kernel::task::Task, pid: i32) -> Result {
    if leader.tgid_nr_ns(current!().active_pid_ns()) == pid {
        Ok(())
    } else {
        Err(EINVAL)
    }
}

/// Adds the disk. Its partitions are not looked for.
fn add_disk(dev: &Device, params: &Params, data: KBox<DiskData>) -> Result<GenDisk<Disk>> {
    let disk = GenDiskBuilder::new()
        .limits(params.limits())
        .capacity_sectors(params.basic.dev_sectors)
        .read_only(params.basic.attrs & UBLK_ATTR_READ_ONLY != 0)
        .suppress_partition_scan(true)
        .alloc::<Disk>(fmt!("ublkb{}", dev.id()), dev.tag_set.clone(), data)?;

    dev.set_closing(false);
    // The first requests may come before it is completely added.
    dev.set_gate(Gate::Open);
    dev.set_live(true);
    disk.add().inspect_err(|_| dev.set_live(false))
}

/// Looks for partitions.
impl WorkItem<{ Device::SCAN }> for Device {
    type Pointer = Arc<Device>;

    fn run(dev: Arc<Device>) {
        let disk = dev.state.lock().phase.disk().map(|disk| disk.disk_ref());
        if let Some(disk) = disk {
            // A server that fails its reads has no partitions, that is no error here.
            let _ = disk.scan_partitions();
        }
    }
}
