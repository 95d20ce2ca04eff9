// SPDX-License-Identifier: GPL-2.0

//! What is done to devices from outside of their servers.

use crate::{
    Failure, Size,
    list::ids,
    slow::slow,
    spec::{Spec, Use},
    state,
};
use std::{
    thread,
    time::{Duration, Instant},
};
use ublk_server::{Errno, Target, control, log};
use ublk_sys::{Process, uapi::DevInfo};

/// How long a server may take to end when its device is gone.
const PATIENCE: Duration = Duration::from_secs(30);

/// Is this process there? A zombie is not.
pub(crate) fn lives(pid: i32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let state = status.lines().find_map(|line| line.strip_prefix("State:"));
    state.is_some_and(|state| !state.trim_start().starts_with(['Z', 'X']))
}

/// A device as it was: another may get its number at any time.
struct Seen {
    id: u32,
    pid: i32,
    instance: Option<u64>,
}

impl Seen {
    fn of(id: u32, info: &DevInfo) -> Seen {
        Seen { id, pid: info.ublksrv_pid, instance: state::instance(id).ok() }
    }

    /// Is it still there?
    fn is_there(&self) -> bool {
        control::info(self.id).is_ok_and(|info| info.ublksrv_pid == self.pid)
            && state::instance(self.id).ok() == self.instance
    }
}

/// End a device; only if nobody uses it unless by `force`.
pub(crate) fn stop(id: u32, force: bool) -> Result<(), Failure> {
    let failed = |e| Failure::of_device(id, &e);
    let info = control::info(id).map_err(failed)?;
    let seen = Seen::of(id, &info);
    let stopped = if force { control::stop(id) } else { control::try_stop(id) };
    match stopped.as_ref().map_err(Errno::from) {
        Ok(()) => {}
        // It has no disk that somebody could use.
        Err(Errno::ENODEV) => control::stop(id).map_err(failed)?,
        Err(Errno::EOPNOTSUPP) => {
            return Err(Failure::new("this driver does not tell whether a device is in use: use --force"));
        }
        Err(_) => stopped.map_err(failed)?,
    }
    // Its server deletes it then.
    let end = Instant::now() + PATIENCE;
    slow(&format!("waiting for the server of device {id} to end"), || {
        while seen.is_there() {
            if !lives(seen.pid) || Instant::now() > end {
                return delete(vec![id]);
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    })
}

/// The server of a device, if that is one that fublk keeps, and if it ends with that device: one of
/// another program may have others.
fn server(id: u32) -> Option<Process> {
    let pid_of = |id| control::info(id).ok().filter(DevInfo::is_live).map(|info| info.ublksrv_pid);
    let pid = pid_of(id)?;
    state::instance(id).ok().filter(|now| state::kept_instance(id) == Some(*now))?;
    let serves = |other: u32| other != id && pid_of(other) == Some(pid);
    if ids().ok()?.into_iter().any(serves) {
        return None;
    }
    let process = Process::of(pid).ok()?;
    // Before that, another one may have got its number.
    (pid_of(id) == Some(pid)).then_some(process)
}

/// A device is gone, but its server has the files until it ends.
fn wait_for(id: u32, server: &Process) {
    let what = format!("waiting for the server of device {id} to end");
    match slow(&what, || server.wait(PATIENCE)) {
        Ok(true) => {}
        Ok(false) => log(format_args!("fublk: warning: the server of device {id} does not end")),
        Err(e) => log(format_args!("fublk: warning: {what}: {e}")),
    }
}

/// End devices. The first failure is told when all were tried.
pub(crate) fn delete(ids: Vec<u32>) -> Result<(), Failure> {
    let mut result = Ok(());
    for id in ids {
        let (kept, server) = (state::kept_instance(id), server(id));
        // What is dirty is written back meanwhile, and a mirror may still drop files.
        let deleted = slow(&format!("waiting until device {id} is gone"), || control::delete(id));
        if deleted.as_ref().map_or_else(|e| Errno::from(e) == Errno::ENODEV, |()| true) {
            state::forget(id, kept);
            if let Some(server) = &server {
                wait_for(id, server);
            }
        }
        result = result.and(deleted.map_err(|e| Failure::of_device(id, &e)));
    }
    result
}

struct SizeOf;

impl Use for SizeOf {
    type Output = u64;
    fn target<T: Target>(self, target: T) -> u64 {
        target.geometry().size
    }
}

/// How large can this be?
fn most(spec: &Spec) -> Result<u64, Failure> {
    spec.look(SizeOf).map_err(|e| match spec {
        // The device has as many as it has queues, and there may be no more.
        Spec::Nbd { .. } => {
            let why = "to see how large the export is, resize needs one more connection to the server";
            Failure::new(format!("{why} (with a size, --force does not look): {e}"))
        }
        _ => e.into(),
    })
}

/// A device has a new size.
///
/// What becomes smaller loses what is behind: only by `force`. So does what nobody can look at.
pub(crate) fn resize(id: u32, size: Option<Size>, force: bool) -> Result<(), Failure> {
    let failed = |e| Failure::of_device(id, &e);
    let params = control::params(id).map_err(failed)?;
    let block = 1u64 << params.logical_bs_shift;
    let spec = state::get(id)?;
    let spec = spec.ok_or_else(|| Failure::new(format!("device {id} was not made by fublk")))?;
    let size = match (size, spec.has_files()) {
        (Some(size), false) => size.0,
        (Some(size), true) => match most(&spec) {
            Ok(most) if size.0 > most => {
                return Err(Failure::new(format!("its files have {most} bytes only: enlarge them first")));
            }
            Err(failure) if !force => return Err(failure),
            _ => size.0,
        },
        (None, true) => most(&spec)?,
        (None, false) => return Err(Failure::new("it has no files that could tell: give a size")),
    };
    if !size.is_multiple_of(block) {
        return Err(Failure::new(format!("{size} bytes are no multiple of the block, {block} bytes")));
    }
    let has = params.dev_sectors * 512;
    if size < has && !force {
        return Err(Failure::new(format!(
            "the device has {has} bytes, and would lose some: use --force if nobody needs these"
        )));
    }
    control::resize(id, size).map_err(failed)
}
