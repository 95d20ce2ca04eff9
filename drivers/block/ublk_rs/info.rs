// SPDX-License-Identifier: GPL-2.0

//! Control commands that ask about a device, or set its parameters.

use crate::{
    add,
    device::Device,
    phase::Report,
    uapi::*,
    zone_report, //
};
use kernel::{
    cpu::nr_cpu_ids,
    prelude::*,
    uaccess::{
        UserPtr,
        UserSlice, //
    }, //
};

/// Bytes of a word of a CPU mask.
const WORD: usize = size_of::<usize>();

/// The buffer of a command, of which the first `len` bytes are used.
fn buffer(cmd: &CtrlCmd, len: usize) -> UserSlice {
    UserSlice::new(UserPtr::from_addr(cmd.addr as usize), len)
}

/// `GET_FEATURES`: what the driver can do.
pub(crate) fn get_features(cmd: &CtrlCmd) -> Result {
    if cmd.len != UBLK_FEATURES_LEN || cmd.addr == 0 {
        return Err(EINVAL);
    }
    let features = add::FEATURES;
    buffer(cmd, size_of_val(&features))
        .writer()
        .write(&features)
}

/// `GET_DEV_INFO`: what a device is.
pub(crate) fn get_dev_info(dev: &Device, cmd: &CtrlCmd) -> Result {
    if usize::from(cmd.len) < size_of::<DevInfo>() || cmd.addr == 0 {
        return Err(EINVAL);
    }
    let mut info = *dev.info();
    let (state, server) = {
        let state = dev.state.lock();
        match state.phase.report() {
            Report::Dead => (UBLK_S_DEV_DEAD, None),
            // Who hears that it is live may ask for the number of the disk.
            Report::Live(_)
                if state
                    .phase
                    .new_disk()
                    .is_some_and(|disk| disk.devt() == (0, 0)) =>
            {
                (UBLK_S_DEV_DEAD, None)
            }
            Report::Live(server) => (UBLK_S_DEV_LIVE, Some(server.leader.clone())),
            Report::Orphan => (dev.recovery().state_without_server(), None),
        }
    };
    info.state = state as u16;
    // As the current task knows it, if it does.
    info.ublksrv_pid = match server.map(|task| task.tgid_nr_ns(current!().active_pid_ns())) {
        None | Some(0) => -1,
        Some(pid) => pid,
    };
    let bytes: [u64; 8] = zerocopy::transmute!(info);
    buffer(cmd, size_of_val(&bytes)).writer().write(&bytes)
}

/// `GET_QUEUE_AFFINITY`: which CPUs use a queue.
pub(crate) fn get_queue_affinity(dev: &Device, cmd: &CtrlCmd) -> Result {
    let len = usize::from(cmd.len);
    let cpus = nr_cpu_ids();
    if len * 8 < cpus as usize || len % WORD != 0 || cmd.addr == 0 {
        return Err(EINVAL);
    }
    let queue = u32::try_from(cmd.data)?;
    if dev.queue(queue).is_none() {
        return Err(EINVAL);
    }

    let mut mask = KVec::<usize>::from_elem(0, len / WORD, GFP_KERNEL)?;
    for cpu in (0..cpus).filter(|cpu| dev.tag_set.queue_of_cpu(*cpu) == Some(queue)) {
        let (word, bit) = (cpu / usize::BITS, cpu % usize::BITS);
        if let Some(word) = mask.get_mut(word as usize) {
            *word |= 1 << bit;
        }
    }
    let mut writer = buffer(cmd, len).writer();
    mask.iter().try_for_each(|word| writer.write(word))
}

/// Checks the buffer of a parameter command; returns how many bytes of the parameters are meant.
fn params_len(cmd: &CtrlCmd) -> Result<(usize, ParamsHeader)> {
    let len = usize::from(cmd.len);
    if len <= size_of::<ParamsHeader>() || cmd.addr == 0 {
        return Err(EINVAL);
    }
    let header = buffer(cmd, size_of::<ParamsHeader>())
        .reader()
        .read::<u64>()?;
    let header: ParamsHeader = zerocopy::transmute!(header);
    let wanted = header.len as usize;
    if wanted == 0 || wanted > len {
        return Err(EINVAL);
    }
    Ok((wanted.min(size_of::<Params>()), header))
}

/// `SET_PARAMS`: fails with [`EACCES`] once there is a disk.
pub(crate) fn set_params(dev: &Device, cmd: &CtrlCmd) -> Result {
    let (len, header) = params_len(cmd)?;
    if header.types == 0 {
        return Err(EINVAL);
    }
    if dev.disk_exists() {
        return Err(EACCES);
    }
    // Not under the lock: faults take the `mmap_lock`.
    let mut bytes = [0u8; size_of::<Params>()];
    buffer(cmd, len).reader().read_slice(&mut bytes[..len])?;
    // The head was read and checked before, and may be another one by now.
    let head = len.min(size_of::<ParamsHeader>());
    bytes[..head].copy_from_slice(&zerocopy::IntoBytes::as_bytes(&header)[..head]);

    let mut state = dev.state.lock();
    if dev.disk_exists() {
        return Err(EACCES);
    }
    let info = dev.info();
    state
        .params
        .set(&bytes[..len], info.max_io_buf_bytes, info.flags)
}

/// `GET_PARAMS`: what was set, and the device numbers.
pub(crate) fn get_params(dev: &Device, char_major: u32, cmd: &CtrlCmd) -> Result {
    let (len, _) = params_len(cmd)?;
    let params = {
        let mut state = dev.state.lock();
        let (disk_major, disk_minor) = match (state.phase.disk(), state.phase.new_disk()) {
            (Some(disk), _) => disk.disk_ref().devt(),
            (None, Some(disk)) => disk.devt(),
            (None, None) => (0, 0),
        };
        state.params.devt = ParamDevt {
            char_major,
            char_minor: dev.id(),
            disk_major,
            disk_minor,
        };
        state.params.types |= UBLK_PARAM_TYPE_DEVT;
        state.params
    };
    let bytes = zerocopy::IntoBytes::as_bytes(&params);
    buffer(cmd, len).writer().write_slice(&bytes[..len])
}

/// `UPDATE_SIZE`: the disk gets another size, in sectors. Fails with [`ENODEV`] if there is none.
///
/// The server is asked for the zones of a zoned disk. Then it also fails with [`EBUSY`] if somebody
/// has the disk open or if its server is gone, and, with the disk empty, with what the block layer
/// says about the zones.
pub(crate) fn update_size(dev: &Device, sectors: u64) -> Result {
    // The disk stays while this is held.
    let _lifecycle = dev.lifecycle.lock();
    let (disk, limits) = {
        let state = dev.state.lock();
        let disk = state.disk_ref().ok_or(ENODEV)?;
        if dev.has(UBLK_F_ZONED) && !state.phase.is_live() {
            drop(state);
            return Err(EBUSY);
        }
        (disk, state.params.zoned.limits())
    };
    zone_report::while_revalidating(dev, || disk.resize_zoned(sectors, limits))?;
    dev.state.lock().params.basic.dev_sectors = sectors;
    Ok(())
}
