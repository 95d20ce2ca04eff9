// SPDX-License-Identifier: GPL-2.0

//! What is kept of a device while it is there, so that another process can show
//! and recover it.

use crate::{Failure, identity::Identity, spec::Spec};
use serde::{Deserialize, Serialize};
use std::{
    env,
    fs::{self, File},
    io,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
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

/// Whose bytes say which devices have a process. Who can open it can lock them.
pub(crate) fn lock_file() -> io::Result<File> {
    let directory = directory()?;
    fs::create_dir_all(&directory)?;
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(false).mode(0o600).open(directory.join("lock"))
}

/// Tells devices apart that have the same number one after the other.
pub(crate) fn instance(id: u32) -> io::Result<u64> {
    let path = format!("/dev/ublkc{id}");
    let node = fs::metadata(&path).map_err(|e| io::Error::new(e.kind(), format!("{path}: {e}")))?;
    Ok(node.ino())
}

/// What is kept of a device.
#[derive(Serialize, Deserialize)]
struct Kept {
    instance: u64,
    #[serde(rename = "target")]
    args: Vec<String>,
    /// Older versions did not keep it.
    #[serde(default)]
    files: Vec<KeptFile>,
    /// What an image builds upon, and it. Older versions did not keep that either.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    layers: Vec<PathBuf>,
    /// Files that a mirror does without since it is there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    dropped: Vec<PathBuf>,
}

/// Which file it was that had a path.
#[derive(Serialize, Deserialize)]
struct KeptFile {
    path: PathBuf,
    #[serde(flatten)]
    identity: Identity,
}

impl Kept {
    fn write(&self, id: u32) -> io::Result<()> {
        fs::create_dir_all(directory()?)?;
        let new = path(id, "new")?;
        fs::write(&new, serde_json::to_vec(self)?)?;
        fs::rename(new, path(id, "json")?)
    }

    fn read(text: &str) -> Option<Kept> {
        serde_json::from_str(text).ok()
    }

    /// Is it a mirror that the file is a part of, or was?
    fn mirrors(&self, path: &Path) -> bool {
        let now = Identity::of(path).ok();
        let same = |known: &PathBuf| {
            let same_file = |now| Identity::of(known).is_ok_and(|known| known.is_same(now));
            known == path || now.as_ref().is_some_and(same_file)
        };
        let legs = match Spec::from_args(&self.args) {
            Ok(Spec::Mirror { paths, .. }) => paths,
            _ => Vec::new(),
        };
        legs.iter().chain(&self.dropped).any(same)
    }

    /// A file that is another one now.
    fn other_file(&self) -> Option<&Path> {
        let other = self.files.iter().find(|file| {
            // That it can not be looked at is told when it is opened.
            Identity::of(&file.path).is_ok_and(|now| !now.is_same(&file.identity))
        });
        other.map(|file| file.path.as_path())
    }

    /// An image that builds upon other files now, if these are the layers that there are.
    fn other_layers(&self, now: &[PathBuf]) -> Option<&Path> {
        let known = !self.layers.is_empty() && !now.is_empty();
        self.layers.first().filter(|_| known && self.layers != now).map(PathBuf::as_path)
    }
}

/// Keep what a device is, of files that are open.
pub(crate) fn keep(id: u32, spec: &Spec) -> io::Result<()> {
    let layers = spec.layers();
    let files = spec.files().iter().chain(layers.iter().skip(1));
    let files =
        files.filter_map(|path| Some(KeptFile { path: path.clone(), identity: Identity::of(path).ok()? }));
    let files = files.collect();
    let dropped = get_all(id).ok().flatten().map_or_else(Vec::new, |kept| kept.dropped);
    Kept { instance: instance(id)?, args: spec.args(), files, layers, dropped }.write(id)
}

/// Which of these devices is a mirror that the file is a part of, or was when it was made.
pub(crate) fn mirror_of(path: &Path, ids: Vec<u32>) -> Option<u32> {
    ids.into_iter().find(|id| get_all(*id).is_ok_and(|kept| kept.is_some_and(|kept| kept.mirrors(path))))
}

/// What was kept; `None` if that is not one of our devices.
pub(crate) fn get(id: u32) -> Result<Option<Spec>, Failure> {
    get_all(id)?.map(|kept| Spec::from_args(&kept.args)).transpose()
}

/// Is it still made of the same files? Others would have other data.
pub(crate) fn same_files(id: u32) -> Result<(), Failure> {
    let Some(kept) = get_all(id)? else { return Ok(()) };
    let why = if let Some(path) = kept.other_file() {
        format!("{} is not the file that device {id} was made of, but another one", path.display())
    } else if let Some(path) = kept.other_layers(&Spec::from_args(&kept.args)?.layers()) {
        format!("{} builds upon other files than when device {id} was made", path.display())
    } else {
        return Ok(());
    };
    Err(Failure::new(format!("{why}: to serve it nevertheless, `fublk recover --force {id}`")))
}

fn get_all(id: u32) -> Result<Option<Kept>, Failure> {
    let path = path(id, "json")?;
    let text = match fs::read_to_string(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => text?,
    };
    let kept = Kept::read(&text).ok_or_else(|| Failure::new(format!("{}: what is that?", path.display())))?;
    // It may be of a device that is gone, whose server could not clean up.
    Ok((instance(id)? == kept.instance).then_some(kept))
}

/// One of the files of a device is not used any more.
pub(crate) fn without(id: u32, file: &Path) -> io::Result<()> {
    // Queues may do this at the same time.
    static LOCK: Mutex<()> = Mutex::new(());
    let _guard = LOCK.lock().unwrap_or_else(PoisonError::into_inner);
    let other = |failure: Failure| io::Error::other(failure.to_string());
    let Some(mut kept) = get_all(id).map_err(other)? else { return Err(io::ErrorKind::NotFound.into()) };
    let mut spec = Spec::from_args(&kept.args).map_err(other)?;
    spec.drop_file(file);
    kept.args = spec.args();
    kept.files.retain(|kept| kept.path != file);
    kept.dropped.push(file.to_owned());
    kept.write(id)
}

/// Of which instance of a device something is kept.
pub(crate) fn kept_instance(id: u32) -> Option<u64> {
    let text = path(id, "json").and_then(fs::read_to_string).ok()?;
    Kept::read(&text).map(|kept| kept.instance)
}

/// A device is gone. It was written to until then, which may have changed what is kept of it; but
/// what is kept of the next one with its number stays.
pub(crate) fn forget(id: u32, was: Option<u64>) {
    if kept_instance(id) == was {
        for what in ["json", "log"] {
            let _ = path(id, what).and_then(fs::remove_file);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_file_is_noticed() {
        let dir = env::temp_dir().join(format!("fublk-state-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let (path, other) = (dir.join("a"), dir.join("b"));
        fs::write(&path, "x").unwrap();
        fs::write(&other, "x").unwrap();
        let files = vec![KeptFile { path: path.clone(), identity: Identity::of(&path).unwrap() }];
        let kept =
            Kept { instance: 7, args: vec!["file".into()], files, layers: Vec::new(), dropped: Vec::new() };
        assert_eq!(kept.other_file(), None);
        fs::rename(&other, &path).unwrap();
        assert_eq!(kept.other_file(), Some(path.as_path()));
        // One that is not there is told of when it is opened.
        fs::remove_dir_all(&dir).unwrap();
        assert_eq!(kept.other_file(), None);
        let text =
            r#"{"files": [{"numbers": "file 1:2", "path": "/a", "since": 3}], "instance": 7, "target": []}"#;
        let again = serde_json::to_value(Kept::read(text).unwrap()).unwrap();
        assert_eq!(again, serde_json::from_str::<serde_json::Value>(text).unwrap());
        let old = Kept::read(r#"{"instance": 7, "target": ["null"]}"#).unwrap();
        assert_eq!((old.instance, old.files.len(), old.layers.len()), (7, 0, 0));
        assert!(Kept::read(r#"{"target": ["null"]}"#).is_none());
    }

    #[test]
    fn a_mirror_knows_what_it_was_made_of() {
        let dir = env::temp_dir().join(format!("fublk-mirrors-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let (path, link) = (dir.join("a"), dir.join("link"));
        fs::write(&path, "x").unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let kept = |target: serde_json::Value, dropped: &[&Path]| {
            let text = serde_json::json!({"instance": 7, "target": target, "dropped": dropped});
            Kept::read(&text.to_string()).unwrap()
        };
        let gone = Path::new("/gone");
        let mirror = kept(serde_json::json!(["mirror", "/b", path]), &[gone]);
        assert!(mirror.mirrors(&link) && mirror.mirrors(gone) && !mirror.mirrors(Path::new("/c")));
        assert!(kept(serde_json::json!(["mirror", "/b"]), &[&link]).mirrors(&path));
        assert!(!kept(serde_json::json!(["file", path]), &[]).mirrors(&path));
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn another_base_is_noticed() {
        let all = |names: &[&str]| names.iter().map(PathBuf::from).collect::<Vec<_>>();
        let text = r#"{"instance": 7, "layers": ["/top", "/base"], "target": []}"#;
        let kept = Kept::read(text).unwrap();
        assert_eq!(kept.other_layers(&all(&["/top", "/base"])), None);
        for other in [&["/top", "/other"][..], &["/top"], &["/top", "/base", "/more"]] {
            assert_eq!(kept.other_layers(&all(other)), Some(Path::new("/top")), "{other:?}");
        }
        // They can not be looked at.
        assert_eq!(kept.other_layers(&[]), None);
        let old = Kept::read(r#"{"instance": 7, "target": []}"#).unwrap();
        assert_eq!(old.other_layers(&all(&["/top", "/base"])), None);
    }
}
