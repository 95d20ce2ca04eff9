// SPDX-License-Identifier: GPL-2.0

//! What is done to devices from outside of their servers.

use crate::{
    Failure, Size,
    spec::{Spec, Use},
    state,
};
use std::{
    io, thread,
    time::{Duration, Instant},
};
use ublk_server::{Target, control};

/// Is this process there? A zombie is not.
pub(crate) fn lives(pid: i32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let state = status.lines().find_map(|line| line.strip_prefix("State:"));
    state.is_some_and(|state| !state.trim_start().starts_with(['Z', 'X']))
}

/// End a device; only if nobody uses it unless by `force`.
pub(crate) fn stop(id: u32, force: bool) -> Result<(), Failure> {
    let failed = |e| Failure::of_device(id, &e);
    let info = control::info(id).map_err(failed)?;
    if !info.is_live() || force {
        control::stop(id).map_err(failed)?;
    } else {
        control::try_stop(id).map_err(failed)?;
    }
    // Its server deletes it then.
    let end = Instant::now() + Duration::from_secs(30);
    while control::info(id).is_ok() {
        if !lives(info.ublksrv_pid) || Instant::now() > end {
            return delete(vec![id]);
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// End devices. The first failure is told when all were tried.
pub(crate) fn delete(ids: Vec<u32>) -> Result<(), Failure> {
    let mut result = Ok(());
    for id in ids {
        match control::delete(id) {
            Ok(()) => state::forget(id),
            Err(e) => result = result.and(Err(Failure::of_device(id, &e))),
        }
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
fn most(spec: &Spec) -> io::Result<u64> {
    spec.look(SizeOf)
}

/// A device has a new size.
pub(crate) fn resize(id: u32, size: Option<Size>) -> Result<(), Failure> {
    let failed = |e| Failure::of_device(id, &e);
    let block = 1u64 << control::params(id).map_err(failed)?.logical_bs_shift;
    let spec = state::get(id)?;
    let spec = spec.ok_or_else(|| Failure::new(format!("device {id} was not made by fublk")))?;
    let size = match (size, spec.has_files()) {
        (Some(size), false) => size.0,
        (Some(size), true) => {
            let most = most(&spec)?;
            if size.0 > most {
                return Err(Failure::new(format!("its files have {most} bytes only: enlarge them first")));
            }
            size.0
        }
        (None, true) => most(&spec)?,
        (None, false) => return Err(Failure::new("it has no files that could tell: give a size")),
    };
    if !size.is_multiple_of(block) {
        return Err(Failure::new(format!("{size} bytes are no multiple of the block, {block} bytes")));
    }
    control::resize(id, size).map_err(failed)
}
