// SPDX-License-Identifier: GPL-2.0

//! What to serve: on the command line, and kept for the next server.

use crate::{
    Failure, Size,
    dropped::{Dropped, Legs},
};
use clap::{Parser, Subcommand};
use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::Duration,
};
use ublk_server::{Target, log};
use ublk_sys::is_root;
use ublk_targets::{Access, FileTarget, Mirror, Nbd, Null, Qcow2, Stripe, Uri};

#[derive(Subcommand, Debug, PartialEq, Clone)]
pub(crate) enum Spec {
    /// Zeroes; what is written is forgotten
    Null {
        /// The size of the device. Units are K, M, G and T
        #[arg(long, default_value = "250G")]
        size: Size,
    },
    /// A regular file or a block device
    File {
        /// Its path
        path: PathBuf,
        #[command(flatten)]
        how: How,
    },
    /// Chunks of the device go to one file after the other
    Stripe {
        /// The paths of at least two files
        #[arg(required = true)]
        paths: Vec<PathBuf>,
        /// The size of a chunk: a power of 2, from 4K on
        #[arg(long, default_value = "64K")]
        chunk: Size,
        #[command(flatten)]
        how: How,
    },
    /// Files that all have the data of the device
    ///
    /// They are used past the page cache. A file that fails is dropped, and the others go on. The log tells of it, and
    /// `fublk list` shows what is left. No mirror takes such a file again, also after the device or the machine was
    /// stopped, before all of the device was copied to it and `fublk readmit` has said so.
    ///
    /// When the power fails or the machine crashes, the files may differ where writes were under way, and nothing makes
    /// them the same again: such a place may be read now from one file and later, when that is dropped, from another
    /// one, with other data. Copy the first file to the others before they are used again, if that matters.
    Mirror {
        /// The paths of 1 to 16 files with the same data, the preferred one first
        #[arg(required = true)]
        paths: Vec<PathBuf>,
        /// Nothing can be written to the device
        #[arg(long)]
        read_only: bool,
    },
    /// An export of an NBD server
    ///
    /// Each queue has a connection of its own; more than one where the server allows
    /// several. A lost connection is made again, and what was not answered is sent again.
    /// There is no TLS.
    Nbd {
        /// nbd://HOST:PORT/EXPORT, where the port may be missing, or nbd+unix:///EXPORT?socket=PATH
        uri: Uri,
        /// Nothing can be written to the device
        #[arg(long)]
        read_only: bool,
        /// For how many seconds to try to get a lost connection back, before requests fail.
        /// It is tried after that as well
        #[arg(long, default_value_t = 60, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(..=86400))]
        reconnect: u64,
    },
    /// The disk of a qcow2 image, and of the images that it builds upon
    ///
    /// Versions 2 and 3. What it builds upon, raw or qcow2, is only read. If the server is killed or the power fails,
    /// nothing that was flushed is lost, and the image is good; but some room in it is, which
    /// `qemu-img check -r leaks` gives back.
    Qcow2 {
        /// Its path
        path: PathBuf,
        /// Nothing can be written to the device
        #[arg(long)]
        read_only: bool,
    },
}

/// The number of a device, when it has one.
pub(crate) type Number = Arc<OnceLock<u32>>;

/// How to open files.
#[derive(clap::Args, Debug, PartialEq, Clone, Copy)]
#[group(skip)]
pub(crate) struct How {
    /// Nothing can be written to the device
    #[arg(long)]
    read_only: bool,
    /// Direct I/O: past the page cache
    #[arg(long)]
    direct: bool,
}

impl How {
    fn access(self) -> Access {
        Access { read_only: self.read_only, direct: self.direct, look: false }
    }

    fn args(self) -> impl Iterator<Item = String> {
        let flag = |on: bool, name: &str| on.then(|| name.to_owned());
        [flag(self.read_only, "--read-only"), flag(self.direct, "--direct")].into_iter().flatten()
    }
}

/// What to do with a target, whichever it is.
pub(crate) trait Use {
    type Output;
    fn target<T: Target>(self, target: T) -> Self::Output;
}

#[derive(Parser)]
#[command(no_binary_name = true)]
struct Kept {
    #[command(subcommand)]
    spec: Spec,
}

impl Spec {
    /// Open the target of the device with this number, for this user. A mirror may be `degraded`:
    /// what is not there of it is dropped.
    pub(crate) fn open<U: Use>(&self, number: &Number, degraded: bool, user: U) -> io::Result<U::Output> {
        self.open_it(false, degraded, number, user)
    }

    /// Open it only to look at it.
    pub(crate) fn look<U: Use>(&self, user: U) -> io::Result<U::Output> {
        self.open_it(true, false, &Number::default(), user)
    }

    fn open_it<U: Use>(&self, look: bool, degraded: bool, number: &Number, user: U) -> io::Result<U::Output> {
        let access = |how: &How| Access { look, ..how.access() };
        Ok(match self {
            Spec::Null { size } => user.target(Null::open(size.0)?),
            Spec::File { path, how } => user.target(FileTarget::open(path, access(how))?),
            Spec::Stripe { paths, chunk, how } => {
                let chunk = u32::try_from(chunk.0)
                    .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a chunk is below 4G"))?;
                user.target(Stripe::open(paths, chunk, access(how))?)
            }
            Spec::Mirror { paths, read_only } => {
                // What can not be written has to be known at once: a cache would tell
                // with the next flush, and lose it before that.
                let access = Access { read_only: *read_only, direct: true, look };
                let (dropped, is_written) = (Dropped::kept(), !read_only);
                // Nobody else can serve one.
                if is_written && !look && is_root() {
                    match dropped.prepare() {
                        // Who waits for the device can not wait for that.
                        Err(e) if number.get().is_some() => log(format_args!("fublk: warning: {e}")),
                        result => result?,
                    }
                }
                let legs = Legs::new(number.clone(), dropped, is_written);
                user.target(Mirror::open(paths, access, degraded, Box::new(legs))?)
            }
            Spec::Nbd { uri, read_only, reconnect } => {
                user.target(Nbd::open(uri, *read_only, Duration::from_secs(*reconnect))?)
            }
            Spec::Qcow2 { path, read_only } => {
                user.target(Qcow2::open(path, Access { read_only: *read_only, direct: false, look })?)
            }
        })
    }

    fn files_mut(&mut self) -> &mut [PathBuf] {
        match self {
            Spec::Null { .. } | Spec::Nbd { .. } => &mut [],
            Spec::File { path, .. } | Spec::Qcow2 { path, .. } => std::slice::from_mut(path),
            Spec::Stripe { paths, .. } | Spec::Mirror { paths, .. } => paths,
        }
    }

    /// The paths of what it is made of, as they were given.
    pub(crate) fn files(&self) -> &[PathBuf] {
        match self {
            Spec::Null { .. } | Spec::Nbd { .. } => &[],
            Spec::File { path, .. } | Spec::Qcow2 { path, .. } => std::slice::from_ref(path),
            Spec::Stripe { paths, .. } | Spec::Mirror { paths, .. } => paths,
        }
    }

    /// Of an image: it, and all that it builds upon, in order. That these can not be looked at is told
    /// when they are opened.
    pub(crate) fn layers(&self) -> Vec<PathBuf> {
        match self {
            Spec::Qcow2 { path, .. } => Qcow2::paths(path).unwrap_or_default(),
            _ => Vec::new(),
        }
    }

    /// Is it the same, or a mirror that has lost some of its files since?
    pub(crate) fn is_part_of(&self, spec: &Spec) -> bool {
        match (self, spec) {
            (Spec::Mirror { paths, read_only }, Spec::Mirror { paths: all, read_only: same }) => {
                read_only == same && paths.iter().all(|path| all.contains(path))
            }
            _ => self == spec,
        }
    }

    /// Is this as large as its files?
    pub(crate) fn has_files(&self) -> bool {
        !matches!(self, Spec::Null { .. })
    }

    /// What is left of a mirror without this file.
    pub(crate) fn drop_file(&mut self, dropped: &Path) {
        if let Spec::Mirror { paths, .. } = self {
            paths.retain(|path| path != dropped);
        }
    }

    /// The next server may be started elsewhere.
    pub(crate) fn make_absolute(&mut self) -> Result<(), Failure> {
        if let Spec::Nbd { uri, .. } = self {
            uri.make_absolute()?;
        }
        for path in self.files_mut() {
            *path = std::path::absolute(&path)?;
            if path.to_str().is_none() {
                return Err(Failure::new(format!("{}: the name is no UTF-8", path.display())));
            }
        }
        Ok(())
    }

    /// As on the command line.
    pub(crate) fn args(&self) -> Vec<String> {
        let (mut args, paths, how): (Vec<String>, _, How) = match self {
            Spec::Null { size } => return vec!["null".into(), format!("--size={size}")],
            Spec::Nbd { uri, read_only, reconnect } => {
                let mut args = vec!["nbd".into(), format!("--reconnect={reconnect}")];
                args.extend(read_only.then(|| "--read-only".into()));
                args.extend(["--".into(), uri.to_string()]);
                return args;
            }
            Spec::File { path, how } => (vec!["file".into()], std::slice::from_ref(path), *how),
            Spec::Stripe { paths, chunk, how } => {
                (vec!["stripe".into(), format!("--chunk={chunk}")], paths.as_slice(), *how)
            }
            Spec::Mirror { paths, read_only } => {
                let how = How { read_only: *read_only, direct: false };
                (vec!["mirror".into()], paths.as_slice(), how)
            }
            Spec::Qcow2 { path, read_only } => {
                let how = How { read_only: *read_only, direct: false };
                (vec!["qcow2".into()], std::slice::from_ref(path), how)
            }
        };
        args.extend(how.args());
        args.push("--".into());
        args.extend(paths.iter().map(|path| path.to_string_lossy().into_owned()));
        args
    }

    /// What somebody wrote. An error is one line.
    pub(crate) fn parse(args: &[String]) -> Result<Spec, String> {
        let wrong = |e: clap::Error| {
            let text = e.to_string();
            let mut lines = text.lines().map(str::trim).take_while(|line| !line.starts_with("Usage"));
            let first = lines.next().unwrap_or_default().trim_start_matches("error: ").to_owned();
            let more: Vec<_> = lines.filter(|line| !line.is_empty() && !line.starts_with("tip")).collect();
            if more.is_empty() { first } else { format!("{first} {}", more.join(" ")) }
        };
        if args.is_empty() {
            return Err("it is empty".into());
        }
        Kept::try_parse_from(args).map(|kept| kept.spec).map_err(wrong)
    }

    /// The reverse of [`args()`](Self::args).
    pub(crate) fn from_args(args: &[String]) -> Result<Spec, Failure> {
        let kept = Kept::try_parse_from(args);
        kept.map(|kept| kept.spec).map_err(|e| Failure::new(format!("kept by another version? {e}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_and_read_again() {
        let how = How { read_only: true, direct: true };
        for spec in [
            Spec::Null { size: Size(1 << 20) },
            Spec::File { path: "/a b/--direct".into(), how },
            Spec::File { path: "-x".into(), how: How { read_only: false, direct: false } },
            Spec::Stripe { paths: vec!["/a".into(), "/b".into()], chunk: Size(4096), how },
            Spec::Mirror { paths: vec!["/a".into(), "/b".into()], read_only: true },
            Spec::Nbd { uri: "nbd://[::1]:7/a%20b".parse().unwrap(), read_only: true, reconnect: 7 },
            Spec::Nbd { uri: "nbd+unix:///?socket=/x".parse().unwrap(), read_only: false, reconnect: 0 },
            Spec::Qcow2 { path: "/a".into(), read_only: true },
            Spec::Qcow2 { path: "/a".into(), read_only: false },
        ] {
            assert_eq!(Spec::from_args(&spec.args()).unwrap(), spec);
        }
        assert!(Spec::from_args(&["tape".into()]).is_err());
        let mut mirror = Spec::Mirror { paths: vec!["/a".into(), "/b".into()], read_only: false };
        let whole = Spec::from_args(&mirror.args()).unwrap();
        mirror.drop_file(Path::new("/a"));
        assert!(mirror.is_part_of(&whole) && !whole.is_part_of(&mirror));
        assert!(!mirror.is_part_of(&Spec::Null { size: Size(4096) }));
        assert_eq!(mirror.args().last().map(String::as_str), Some("/b"));
        assert_eq!(mirror.args().len(), 3);
    }
}
