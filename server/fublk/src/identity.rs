// SPDX-License-Identifier: GPL-2.0

//! Which file or disk it is that has a path now: another one may get the same path.

use serde::{Deserialize, Serialize};
use std::{
    fs, io,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::Path,
    time::UNIX_EPOCH,
};
use ublk_sys::{disk_attribute, disk_number};

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Identity {
    /// Its numbers, which another one may get when it is gone.
    numbers: String,
    /// When it was made, or attached, where that is known.
    since: Option<u64>,
}

impl Identity {
    pub(crate) fn of(path: &Path) -> io::Result<Identity> {
        let data = fs::metadata(path)?;
        if data.file_type().is_block_device() {
            let since = disk_attribute(data.rdev(), "diskseq").and_then(|number| number.parse().ok());
            return Ok(Identity { numbers: format!("disk {}", disk_number(data.rdev())), since });
        }
        let born = data.created().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let since = born.and_then(|born| u64::try_from(born.as_nanos()).ok());
        Ok(Identity { numbers: format!("file {}:{}", data.dev(), data.ino()), since })
    }

    /// Is it the same one, as far as that can be known?
    pub(crate) fn is_same(&self, other: &Identity) -> bool {
        let differ = self.since.zip(other.since).is_some_and(|(one, other)| one != other);
        self.numbers == other.numbers && !differ
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_file_with_the_same_name() {
        let dir = std::env::temp_dir().join(format!("fublk-identity-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let (path, other) = (dir.join("a"), dir.join("b"));
        fs::write(&path, "x").unwrap();
        let was = Identity::of(&path).unwrap();
        let kept = serde_json::to_string(&was).unwrap();
        assert_eq!(serde_json::from_str::<Identity>(&kept).unwrap(), was);
        // What is in it does not matter.
        fs::write(&path, "y").unwrap();
        assert!(Identity::of(&path).unwrap().is_same(&was));
        fs::write(&other, "x").unwrap();
        fs::rename(&other, &path).unwrap();
        assert!(!Identity::of(&path).unwrap().is_same(&was));
        fs::remove_dir_all(&dir).unwrap();
        assert!(Identity::of(&path).is_err());
        // Numbers are used again.
        let later = Identity { since: was.since.map(|since| since + 1), ..was.clone() };
        assert!(was.since.is_none() || !later.is_same(&was));
        assert!(Identity { since: None, ..was.clone() }.is_same(&was), "an old kernel does not say");
    }
}
