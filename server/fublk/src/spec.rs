// SPDX-License-Identifier: GPL-2.0

//! What to serve: on the command line, and kept for the next server.

use crate::{Failure, Size};
use clap::{Parser, Subcommand};
use std::{
    io,
    path::{Path, PathBuf},
};
use ublk_server::Target;
use ublk_targets::{Access, FileTarget, Null};

#[derive(Subcommand, Debug, PartialEq)]
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
}

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
    /// Open the target, for this user; only to `look` at it maybe.
    pub(crate) fn open<U: Use>(&self, look: bool, user: U) -> io::Result<U::Output> {
        let access = |how: &How| Access { look, ..how.access() };
        Ok(match self {
            Spec::Null { size } => user.target(Null::open(size.0)?),
            Spec::File { path, how } => user.target(FileTarget::open(path, access(how))?),
        })
    }

    fn files(&mut self) -> &mut [PathBuf] {
        match self {
            Spec::Null { .. } => &mut [],
            Spec::File { path, .. } => std::slice::from_mut(path),
        }
    }

    /// Is this as large as its files?
    pub(crate) fn has_files(&self) -> bool {
        !matches!(self, Spec::Null { .. })
    }

    /// The next server may be started elsewhere.
    pub(crate) fn make_absolute(&mut self) -> Result<(), Failure> {
        for path in self.files() {
            *path = std::path::absolute(&path)?;
            if path.to_str().is_none() {
                return Err(Failure::new(format!("{}: the name is no UTF-8", path.display())));
            }
        }
        Ok(())
    }

    /// As on the command line.
    pub(crate) fn args(&self) -> Vec<String> {
        let name = |path: &Path| path.to_string_lossy().into_owned();
        match self {
            Spec::Null { size } => vec!["null".into(), format!("--size={size}")],
            Spec::File { path, how } => {
                ["file".into()].into_iter().chain(how.args()).chain(["--".into(), name(path)]).collect()
            }
        }
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
        ] {
            assert_eq!(Spec::from_args(&spec.args()).unwrap(), spec);
        }
        assert!(Spec::from_args(&["tape".into()]).is_err());
    }
}
