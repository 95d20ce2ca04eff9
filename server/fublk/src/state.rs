// SPDX-License-Identifier: GPL-2.0

//! What is kept of a device while it is there, so that another process can show
//! and recover it.

use crate::{Failure, spec::Spec};
use serde_json::{Value, json};
use std::{
    env, fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};
use ublk_sys::is_root;

/// Where that is: an ordinary user has a directory of its own.
fn directory() -> io::Result<PathBuf> {
    if is_root() {
        return Ok("/run/fublk".into());
    }
    let own = env::var_os("XDG_RUNTIME_DIR").filter(|path| Path::new(path).is_absolute());
    let own = own.ok_or_else(|| {
        io::Error::other("XDG_RUNTIME_DIR is not set: there is no place to keep what a device is")
    })?;
    Ok(Path::new(&own).join("fublk"))
}

/// The file of a device with this ending.
pub(crate) fn path(id: u32, what: &str) -> io::Result<PathBuf> {
    Ok(directory()?.join(format!("{id}.{what}")))
}

/// Where logs begin that have no device yet.
pub(crate) fn new_log() -> io::Result<PathBuf> {
    let directory = directory()?;
    fs::create_dir_all(&directory)?;
    Ok(directory.join(format!("new-{}.log", std::process::id())))
}

/// Tells devices apart that have the same number one after the other.
pub(crate) fn instance(id: u32) -> io::Result<u64> {
    let path = format!("/dev/ublkc{id}");
    let node = fs::metadata(&path).map_err(|e| io::Error::new(e.kind(), format!("{path}: {e}")))?;
    Ok(node.ino())
}

/// Keep what a device is.
pub(crate) fn keep(id: u32, spec: &Spec) -> io::Result<()> {
    fs::create_dir_all(directory()?)?;
    let new = path(id, "new")?;
    fs::write(&new, json!({ "instance": instance(id)?, "target": spec.args() }).to_string())?;
    fs::rename(new, path(id, "json")?)
}

fn read(text: &str) -> Option<(u64, Vec<String>)> {
    let mut value: Value = serde_json::from_str(text).ok()?;
    let args = serde_json::from_value(value.get_mut("target")?.take()).ok()?;
    Some((value.get("instance")?.as_u64()?, args))
}

/// What was kept; `None` if that is not one of our devices.
pub(crate) fn get(id: u32) -> Result<Option<Spec>, Failure> {
    let path = path(id, "json")?;
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

/// A device goes away. Before it does, so that what is kept of the next one with its
/// number stays; what this returns brings it back if it did not go.
pub(crate) fn forget(id: u32) -> Forgotten {
    let kept = path(id, "json").and_then(fs::read);
    for what in ["json", "log"] {
        let _ = path(id, what).and_then(fs::remove_file);
    }
    Forgotten { id, kept: kept.ok() }
}

/// The same, if it is still this one.
pub(crate) fn forget_instance(id: u32, was: u64) {
    let text = path(id, "json").and_then(fs::read_to_string);
    if text.is_ok_and(|text| read(&text).is_some_and(|(kept, _)| kept == was)) {
        let _ = forget(id);
    }
}

/// What was kept of a device.
#[must_use = "it may not have gone"]
pub(crate) struct Forgotten {
    id: u32,
    kept: Option<Vec<u8>>,
}

impl Forgotten {
    pub(crate) fn restore(self) {
        if let (Some(kept), Ok(path)) = (self.kept, path(self.id, "json")) {
            let _ = fs::write(path, kept);
        }
    }
}
