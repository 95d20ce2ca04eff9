// SPDX-License-Identifier: GPL-2.0

//! Devices and features, shown.

use crate::{Failure, state};
use serde_json::{Value, json};
use std::{
    fmt::{Display, Write as _},
    fs,
    io::{self, Write as _},
};
use ublk_server::control;
use ublk_sys::uapi::{Features, STATES};

/// The numbers of all devices.
pub(crate) fn ids() -> Result<Vec<u32>, Failure> {
    let mut ids: Vec<u32> = fs::read_dir("/dev")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.strip_prefix("ublkc")?.parse().ok())
        .collect();
    ids.sort_unstable();
    Ok(ids)
}

fn describe(id: u32) -> Result<Value, Failure> {
    let info = control::info(id).map_err(|e| Failure::of_device(id, &e))?;
    // Not set yet, maybe.
    let size = control::params(id).map_or(0, |params| params.dev_sectors * 512);
    let features: Vec<_> = Features(info.flags).names().collect();
    let target = state::get(id).ok().flatten().map(|spec| spec.args());
    Ok(json!({
        "id": id,
        "device": format!("/dev/ublkb{id}"),
        "state": STATES.get(usize::from(info.state)).copied().unwrap_or("unknown"),
        "size": size,
        "queues": info.nr_hw_queues,
        "depth": info.queue_depth,
        "max_io": info.max_io_buf_bytes,
        "pid": info.ublksrv_pid,
        "features": features,
        "target": target,
    }))
}

pub(crate) fn list(id: Option<u32>, as_json: bool) -> Result<(), Failure> {
    let mut all = Vec::new();
    for one in id.map_or_else(ids, |id| Ok(vec![id]))? {
        match describe(one) {
            // It went away meanwhile.
            Err(_) if id.is_none() => {}
            device => all.push(device?),
        }
    }
    if as_json {
        return print(format_args!("{:#}\n", Value::Array(all)));
    }
    let mut table = format!(
        "{:<14} {:<8} {:>15} {:>6} {:>5} {:>7}  TARGET\n",
        "DEVICE", "STATE", "SIZE", "QUEUES", "DEPTH", "PID"
    );
    for device in all {
        let text = |key: &str| device[key].as_str().unwrap_or("?").to_owned();
        let number = |key: &str| device[key].to_string();
        let words = |key: &str| {
            let words = device[key].as_array().into_iter().flatten();
            words.filter_map(Value::as_str).filter(|word| *word != "--").collect::<Vec<_>>().join(" ")
        };
        let _ = writeln!(
            table,
            "{:<14} {:<8} {:>15} {:>6} {:>5} {:>7}  {}",
            text("device"),
            text("state"),
            number("size"),
            number("queues"),
            number("depth"),
            number("pid"),
            words("target"),
        );
    }
    print(table)
}

/// For who reads it; that nobody does any more is no failure.
pub(crate) fn print(what: impl Display) -> Result<(), Failure> {
    match write!(io::stdout(), "{what}") {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(e.into()),
        _ => Ok(()),
    }
}

pub(crate) fn features() -> Result<(), Failure> {
    print(control::features()?.names().map(|name| name + "\n").collect::<String>())
}
