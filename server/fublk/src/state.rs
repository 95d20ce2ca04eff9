// SPDX-License-Identifier: GPL-2.0

//! What is kept of a device while it is there, so that another process can show
//! and recover it.

use crate::{Failure, spec::Spec};
use serde_json::{Value, json};
use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

const DIRECTORY: &str = "/run/fublk";

/// The file of a device with this ending.
pub(crate) fn path(id: u32, what: &str) -> PathBuf {
    [DIRECTORY, &format!("{id}.{what}")].iter().collect()
}

/// Where logs begin that have no device yet.
pub(crate) fn new_log() -> io::Result<PathBuf> {
    fs::create_dir_all(DIRECTORY)?;
    Ok([DIRECTORY, &format!("new-{}.log", std::process::id())].iter().collect())
}

/// Tells devices apart that have the same number one after the other.
fn instance(id: u32) -> io::Result<u64> {
    Ok(fs::metadata(format!("/dev/ublkc{id}"))?.ino())
}

/// Keep what a device is.
pub(crate) fn keep(id: u32, spec: &Spec) -> io::Result<()> {
    fs::create_dir_all(DIRECTORY)?;
    let new = path(id, "new");
    fs::write(&new, json!({ "instance": instance(id)?, "target": spec.args() }).to_string())?;
    fs::rename(new, path(id, "json"))
}

fn read(text: &str) -> Option<(u64, Vec<String>)> {
    let mut value: Value = serde_json::from_str(text).ok()?;
    let args = serde_json::from_value(value.get_mut("target")?.take()).ok()?;
    Some((value.get("instance")?.as_u64()?, args))
}

/// What was kept; `None` if that is not one of our devices.
pub(crate) fn get(id: u32) -> Result<Option<Spec>, Failure> {
    let path = path(id, "json");
    let text = match fs::read_to_string(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => text?,
    };
    let (was, args) =
        read(&text).ok_or_else(|| Failure::new(format!("{}: what is that?", path.display())))?;
    if instance(id)? != was {
        // Of a device that is gone, whose server could not clean up.
        return Ok(None);
    }
    Spec::from_args(&args).map(Some)
}

/// One of the files of a device is not used any more.
pub(crate) fn without(id: u32, file: &Path) -> io::Result<()> {
    // Queues may do this at the same time.
    static LOCK: Mutex<()> = Mutex::new(());
    let _guard = LOCK.lock().unwrap_or_else(PoisonError::into_inner);
    let mut spec = match get(id) {
        Ok(Some(spec)) => spec,
        Ok(None) => return Err(io::ErrorKind::NotFound.into()),
        Err(failure) => return Err(io::Error::other(failure.to_string())),
    };
    spec.drop_file(file);
    keep(id, &spec)
}

/// The device is gone.
pub(crate) fn forget(id: u32) {
    for what in ["json", "log"] {
        let _ = fs::remove_file(path(id, what));
    }
}
