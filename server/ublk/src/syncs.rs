// SPDX-License-Identifier: GPL-2.0

//! Errors of writing back, which the kernel tells once per open file.
//!
//! What the page cache could not write is lost, and told to the first who flushes, or
//! writes with FUA, afterwards. A client that flushes next has to hear of it as well.
//! So each queue has open files of its own that are only synced, and remembers what they said.
//! What a write with FUA hears comes of another one: it may be an error of the write itself, of
//! which only its writer has to be told.

use crate::{Errno, FileId, log};
use std::{
    cell::RefCell,
    fs::File,
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::fs::{FileTypeExt, OpenOptionsExt},
    },
};
use ublk_sys::open_flags;

/// Does an error of a sync tell of something that was lost? Others are of this one attempt, and the
/// next may succeed.
pub fn is_loss(errno: Errno) -> bool {
    ![Errno::ENOMEM, Errno::EAGAIN, Errno::EINTR, Errno::ECANCELED, Errno::ENODEV].contains(&errno)
}

/// What the files of a queue said first.
#[derive(Debug, Default)]
pub(crate) struct SyncErrors(RefCell<Vec<(FileId, Errno)>>);

impl SyncErrors {
    /// What the file has said before.
    pub(crate) fn check(&self, file: FileId) -> Result<(), Errno> {
        match self.0.borrow().iter().find(|(known, _)| *known == file) {
            Some((_, errno)) => Err(*errno),
            None => Ok(()),
        }
    }

    /// A sync has ended with this.
    pub(crate) fn note(&self, file: FileId, result: Result<(), Errno>) -> Result<(), Errno> {
        if let Err(errno) = result
            && is_loss(errno)
            && self.check(file).is_ok()
        {
            self.0.borrow_mut().push((file, errno));
            log(format_args!(
                "something that was written to file {} is lost: {errno}. All flushes fail from now on",
                file.0
            ));
        }
        result
    }
}

/// Open the same file once more, in the same way. Sockets and others have no data in
/// the page cache: they are shared.
pub(crate) fn reopen(file: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let same = file.try_clone_to_owned()?;
    let file = File::from(file.try_clone_to_owned()?);
    let kind = file.metadata()?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Ok(same);
    }
    let flags = open_flags(file.as_fd())?;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let mut options = File::options();
    options.read(flags.read).write(flags.write).custom_flags(flags.others);
    let again = options.open(path);
    let again = again.map_err(|e| io::Error::new(e.kind(), format!("a file can not be opened again: {e}")));
    Ok(again?.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Seek};

    #[test]
    fn an_error_stays() {
        let errors = SyncErrors::default();
        let (one, other) = (FileId(0), FileId(1));
        assert_eq!(errors.note(one, Err(Errno::ENOMEM)), Err(Errno::ENOMEM));
        assert_eq!(errors.check(one), Ok(()));
        assert_eq!(errors.note(one, Err(Errno::ENOSPC)), Err(Errno::ENOSPC));
        assert_eq!(errors.note(one, Err(Errno::EIO)), Err(Errno::EIO));
        assert_eq!((errors.check(one), errors.check(other)), (Err(Errno::ENOSPC), Ok(())));
    }

    #[test]
    fn another_open_file() {
        let mut file = File::open(std::env::current_exe().unwrap()).unwrap();
        let mut again = File::from(reopen(file.as_fd()).unwrap());
        file.read_exact(&mut [0; 100]).unwrap();
        // A duplicate would have the position of the first.
        assert_eq!((file.stream_position().unwrap(), again.stream_position().unwrap()), (100, 0));
        assert!(io::Write::write(&mut again, b"x").is_err(), "it was not open for that");
        // Sharing it would hide errors. (O_TMPFILE: it was opened as a directory.)
        let nameless =
            File::options().read(true).write(true).custom_flags(0o20_200_000).open("/dev/shm").unwrap();
        let said = reopen(nameless.as_fd()).unwrap_err().to_string();
        assert!(said.contains("can not be opened again"), "{said}");
        let zero = File::open("/dev/zero").unwrap();
        assert!(reopen(zero.as_fd()).is_ok());
    }
}
