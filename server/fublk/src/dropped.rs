// SPDX-License-Identifier: GPL-2.0

//! Files that a mirror has dropped, and that have missed writes since. That is remembered longer
//! than there is the device, and the machine runs: until somebody says that all data were copied.

use crate::{Failure, identity::Identity, list, spec::Number, state};
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    process,
    sync::{Mutex, MutexGuard, PoisonError},
};
use ublk_targets::Record;

const DIRECTORY: &str = "/var/lib/fublk/dropped";

/// A directory, with a record for each.
pub(crate) struct Dropped(PathBuf);

/// What a file is: its path, where that leads, and its numbers, as far as it is there.
#[derive(Clone, Serialize, Deserialize)]
struct Leg {
    path: PathBuf,
    real: Option<PathBuf>,
    identity: Option<Identity>,
}

impl Leg {
    fn of(path: &Path) -> Leg {
        // A name that is no UTF-8 can not be kept, nor is a file given by it.
        let real = fs::canonicalize(path).ok().filter(|real| real.to_str().is_some());
        Leg { path: path.to_owned(), real, identity: Identity::of(path).ok() }
    }

    /// By any of its names: rather one too many than one that has missed writes.
    fn is(&self, other: &Leg) -> bool {
        let name = |path: &Path| path == self.path || self.real.as_deref() == Some(path);
        let same = self.identity.as_ref().zip(other.identity.as_ref());
        name(&other.path)
            || other.real.as_deref().is_some_and(name)
            || same.is_some_and(|(a, b)| a.is_same(b))
    }

    /// The name of its record: FNV-1a of its path, which may be too long.
    fn name(&self) -> String {
        let mix = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        let hash = self.path.as_os_str().as_encoded_bytes().iter().fold(0xcbf2_9ce4_8422_2325, mix);
        format!("{hash:016x}")
    }
}

impl Dropped {
    pub(crate) fn kept() -> Dropped {
        Dropped(DIRECTORY.into())
    }

    fn sync(path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    /// A mirror is about to be written: it must be possible to remember what it drops.
    pub(crate) fn prepare(&self) -> io::Result<()> {
        let make = || {
            if !self.0.is_dir() {
                fs::create_dir_all(&self.0)?;
                self.0.ancestors().skip(1).take(2).try_for_each(Dropped::sync)?;
            }
            let probe = self.0.join(format!(".{}", process::id()));
            File::create(&probe)?;
            fs::remove_file(&probe)
        };
        make().map_err(|e: io::Error| {
            let why = format!("{}: {e}: a file that fails could not be remembered", self.0.display());
            io::Error::new(e.kind(), why)
        })
    }

    /// On the medium when this returns.
    fn add(&self, leg: &Leg) -> io::Result<()> {
        let new = self.0.join(format!(".{}-{}", leg.name(), process::id()));
        let mut file = File::create(&new)?;
        file.write_all(&serde_json::to_vec(leg)?)?;
        file.sync_all()?;
        fs::rename(&new, self.0.join(leg.name()))?;
        Dropped::sync(&self.0)
    }

    /// The records of a file.
    fn find(&self, leg: &Leg) -> io::Result<Vec<PathBuf>> {
        let entries = match fs::read_dir(&self.0) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry?;
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let known: Leg = serde_json::from_slice(&fs::read(entry.path())?)
                .map_err(|_| io::Error::other(format!("{}: what is that?", entry.path().display())))?;
            if known.is(leg) {
                found.push(entry.path());
            }
        }
        Ok(found)
    }

    /// All data were copied to it.
    fn remove(&self, path: &Path) -> io::Result<bool> {
        let found = self.find(&Leg::of(path))?;
        found.iter().try_for_each(fs::remove_file)?;
        if !found.is_empty() {
            Dropped::sync(&self.0)?;
        }
        Ok(!found.is_empty())
    }
}

/// Somebody says that this file has all data of its mirror.
pub(crate) fn readmit(path: &Path) -> Result<(), Failure> {
    let path = std::path::absolute(path)?;
    let kept = Dropped::kept();
    if kept.find(&Leg::of(&path))?.is_empty() {
        return Err(Failure::new(format!("{}: no mirror has dropped it", path.display())));
    }
    // It would go on missing what is written, and nobody remember that.
    if let Some(id) = state::mirror_of(&path, list::ids()?) {
        let path = path.display();
        return Err(Failure::in_use(format!("device {id} still does without {path}: stop it before")));
    }
    kept.remove(&path)?;
    Ok(())
}

/// What the mirror of a device remembers.
pub(crate) struct Legs {
    number: Number,
    dropped: Dropped,
    /// There are writes to miss.
    is_written: bool,
    /// What they were when they were opened: one that fails may be gone by then.
    opened: Mutex<Vec<Leg>>,
}

impl Legs {
    pub(crate) fn new(number: Number, dropped: Dropped, is_written: bool) -> Legs {
        Legs { number, dropped, is_written, opened: Mutex::default() }
    }

    fn opened(&self) -> MutexGuard<'_, Vec<Leg>> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Record for Legs {
    fn dropped(&self, leg: &Path) -> io::Result<()> {
        let opened = self.opened().iter().find(|opened| opened.path == leg).cloned();
        let known = opened.unwrap_or_else(|| Leg::of(leg));
        // What is known of it since it was dropped first stays.
        if self.is_written && self.dropped.find(&known)?.is_empty() {
            self.dropped.add(&known)?;
        }
        self.number.get().map_or(Ok(()), |id| state::without(*id, leg))
    }

    fn was_dropped(&self, leg: &Path) -> io::Result<bool> {
        let leg = Leg::of(leg);
        let was = !self.dropped.find(&leg)?.is_empty();
        self.opened().push(leg);
        Ok(was)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembered_until_it_is_readmitted() {
        let dir = std::env::temp_dir().join(format!("fublk-dropped-{}", process::id()));
        let dropped = Dropped(dir.join("lib/dropped"));
        fs::create_dir_all(&dir).unwrap();
        let (path, link, other) = (dir.join("a"), dir.join("link"), dir.join("other"));
        for file in [&path, &other] {
            fs::write(file, "x").unwrap();
        }
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let is_dropped = |path: &Path| !dropped.find(&Leg::of(path)).unwrap().is_empty();
        assert!(!is_dropped(&path) && dropped.add(&Leg::of(&path)).is_err());
        dropped.prepare().unwrap();
        dropped.prepare().unwrap();
        dropped.add(&Leg::of(&link)).unwrap();
        dropped.add(&Leg::of(&link)).unwrap();
        assert!(is_dropped(&path) && is_dropped(&link) && !is_dropped(&other));
        // Moved; and another file in its place, which may be a broken copy.
        fs::rename(&path, dir.join("b")).unwrap();
        fs::write(&path, "y").unwrap();
        assert!(is_dropped(&dir.join("b")) && is_dropped(&path));
        // What is not there, or not understood, was not forgotten either.
        dropped.add(&Leg::of(&dir.join("none"))).unwrap();
        assert!(is_dropped(&dir.join("none")));
        assert!(dropped.remove(&path).unwrap() && !dropped.remove(&path).unwrap());
        assert!(!is_dropped(&path) && !is_dropped(&link));
        fs::write(dir.join("lib/dropped/0"), "{").unwrap();
        assert!(dropped.find(&Leg::of(&path)).is_err());
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn what_has_vanished_is_known_when_it_is_back() {
        let dir = std::env::temp_dir().join(format!("fublk-dropped-back-{}", process::id()));
        let dropped = Dropped(dir.join("dropped"));
        dropped.prepare().unwrap();
        let legs = Legs::new(Number::default(), dropped, true);
        let (file, link, kept) = (dir.join("file"), dir.join("link"), dir.join("kept"));
        fs::write(&file, "x").unwrap();
        fs::hard_link(&file, &kept).unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert!(!legs.was_dropped(&link).unwrap());
        fs::remove_file(&file).unwrap();
        fs::remove_file(&link).unwrap();
        legs.dropped(&link).unwrap();
        // By the path that it had, and by its numbers.
        assert!(legs.was_dropped(&file).unwrap() && legs.was_dropped(&kept).unwrap());
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_mirror_that_is_only_read_drops_nothing_for_ever() {
        let dir = std::env::temp_dir().join(format!("fublk-dropped-read-{}", process::id()));
        for is_written in [false, true] {
            let dropped = Dropped(dir.clone());
            dropped.prepare().unwrap();
            let legs = Legs::new(Number::default(), dropped, is_written);
            legs.dropped(&dir.join("leg")).unwrap();
            assert_eq!(legs.was_dropped(&dir.join("leg")).unwrap(), is_written);
        }
        fs::remove_dir_all(&dir).unwrap();
    }
}
