// SPDX-License-Identifier: GPL-2.0

//! Files to serve, opened so that nobody else serves them.

use libc::{O_DIRECT, O_EXCL, O_NOATIME};
use std::{
    fmt,
    fs::{File, TryLockError},
    io::{self, Seek, SeekFrom},
    os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};
use ublk_server::{
    Allocate, Buffer, DirectAlign, Errno, FileId, Io, allocate, direct_align, disk_attribute, logical_block,
};

/// How to open the files of a target.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Access {
    /// Nothing is written.
    pub read_only: bool,
    /// Past the page cache.
    pub direct: bool,
    /// Only to look at them, whoever uses them: nothing is served.
    pub look: bool,
}

/// An open regular file or block device.
#[derive(Debug)]
pub(crate) struct Backing {
    pub(crate) file: File,
    pub(crate) size: u64,
    /// The smallest unit of I/O.
    pub(crate) block: u32,
    /// How its memory has to be aligned.
    pub(crate) align: u32,
}

/// What an error is about, for somebody who reads it.
pub(crate) fn about(path: &Path, why: impl std::fmt::Display) -> io::Error {
    io::Error::other(format!("{}: {why}", path.display()))
}

/// An error of the kernel, and the file that it is about.
#[derive(Debug)]
struct OfFile(PathBuf, io::Error);

impl fmt::Display for OfFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.display(), self.1)
    }
}

impl std::error::Error for OfFile {}

fn of_file(path: &Path, e: io::Error) -> io::Error {
    io::Error::new(e.kind(), OfFile(path.to_owned(), e))
}

/// Does an error of [`open()`] say that there is no such file or disk, or that it is broken? One
/// that somebody else uses is there, and so is one that can not be served.
pub(crate) fn is_gone(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<OfFile>());
    let number = inner.and_then(|OfFile(_, e)| e.raw_os_error());
    let gone = [Errno::ENOENT, Errno::ENXIO, Errno::ENODEV, Errno::EIO, Errno::ENOMEDIUM];
    number.is_some_and(|number| gone.map(Errno::get).contains(&number))
}

fn in_use(path: &Path, why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::ResourceBusy, format!("{} is in use: {why}", path.display()))
}

/// What is read and written of it at once, in bytes: of a file, anything is.
pub(crate) fn block_of(file: &File) -> io::Result<u32> {
    if file.metadata()?.file_type().is_block_device() { logical_block(file) } else { Ok(512) }
}

/// Open a file to serve it. An error says which file it is about.
pub(crate) fn open(path: &Path, access: Access) -> io::Result<Backing> {
    let say = |e| of_file(path, e);
    let (file, size) = open_any_size(path, access)?;
    let mut block = block_of(&file).map_err(say)?;
    let mut align = 512;
    if access.direct {
        let direct = direct_block(&file).map_err(say)?;
        if direct.offset == 0 {
            return Err(about(path, "can not be used for direct I/O"));
        }
        block = block.max(direct.offset);
        align = align.max(direct.memory);
    }
    if size == 0 {
        return Err(about(path, "is empty"));
    }
    if !size.is_multiple_of(block.into()) {
        return Err(about(
            path,
            format_args!("its size, {size} bytes, is no multiple of the block, {block} bytes"),
        ));
    }
    Ok(Backing { file, size, block, align })
}

/// The same, but of a file whose size is not that of a disk.
pub(crate) fn open_any_size(path: &Path, access: Access) -> io::Result<(File, u64)> {
    let Access { read_only, direct, look } = access;
    let say = |e| of_file(path, e);
    let neither = || about(path, "is neither a regular file nor a block device");
    let kind = std::fs::metadata(path).map_err(say)?.file_type();
    let is_device = kind.is_block_device();
    if !is_device && !kind.is_file() {
        return Err(neither());
    }
    let open = |flags| File::options().read(true).write(!read_only && !look).custom_flags(flags).open(path);
    // The latter keeps others off a block device.
    let flags = if direct { O_DIRECT } else { 0 } | if is_device && !look { O_EXCL } else { 0 };
    // Nobody asks when it was read, and each read would ask whether that is to be written down. Only
    // its owner may say so.
    let mut file = open(flags | O_NOATIME)
        .or_else(|e| match e.kind() {
            io::ErrorKind::PermissionDenied => open(flags),
            _ => Err(e),
        })
        .map_err(|e| match e.kind() {
            io::ErrorKind::ResourceBusy => in_use(path, "mounted, or served already"),
            io::ErrorKind::InvalidInput if direct => about(path, "can not be opened for direct I/O"),
            _ => say(e),
        })?;
    // It may have been another one before.
    let kind = file.metadata().map_err(say)?.file_type();
    if is_device != kind.is_block_device() || !is_device && !kind.is_file() {
        return Err(neither());
    }
    let lock = || match access {
        Access { look: true, .. } => Ok(()),
        // Nobody else has it anyhow, and with such a lock, udev and who makes partitions tell each
        // other who looks at a disk now: none of them would, as long as it is served.
        _ if is_device => Ok(()),
        Access { read_only: true, .. } => file.try_lock_shared(),
        _ => file.try_lock(),
    };
    let locked = if cfg!(test) { patiently(lock) } else { lock() };
    locked.map_err(|e| match e {
        TryLockError::WouldBlock => in_use(path, "another process has it locked"),
        TryLockError::Error(e) => say(e),
    })?;
    if !look {
        let lock = || crate::qemu_lock::lock(&file, !read_only).map_err(TryLockError::Error);
        let locked = if cfg!(test) { patiently(lock) } else { lock() };
        locked.map_err(|_| in_use(path, "by QEMU, or by one of its tools"))?;
    }
    let size = file.seek(SeekFrom::End(0)).map_err(say)?;
    Ok((file, size))
}

/// Tests of other targets start processes: until these execute their program, they have all
/// files that are open here, with their locks.
fn patiently(mut lock: impl FnMut() -> Result<(), TryLockError>) -> Result<(), TryLockError> {
    for _ in 0..300 {
        match lock() {
            Err(TryLockError::WouldBlock | TryLockError::Error(_)) => {
                std::thread::sleep(std::time::Duration::from_millis(1))
            }
            result => return result,
        }
    }
    lock()
}

/// The same file twice is no redundancy, and no two parts: say which.
pub(crate) fn all_differ<P: AsRef<Path>>(paths: &[P]) -> io::Result<()> {
    let mut seen = Vec::new();
    for path in paths {
        // That it can not be looked at is told when it is opened.
        let Ok(data) = std::fs::metadata(path) else { continue };
        let is_device = data.file_type().is_block_device();
        let this = if is_device { (u64::MAX, data.rdev()) } else { (data.dev(), data.ino()) };
        if seen.contains(&this) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{} is there twice", path.as_ref().display()),
            ));
        }
        seen.push(this);
    }
    Ok(())
}

/// The smallest unit in which a file takes direct I/O.
fn direct_block(file: &File) -> io::Result<DirectAlign> {
    // What can be read now is no measure: a hole is on no disk.
    match direct_align(file)? {
        Some(align) => Ok(align),
        None => Ok(DirectAlign { memory: 512, offset: probe_block(file)? }),
    }
}

/// The same by trying, where the file system does not say.
fn probe_block(file: &File) -> io::Result<u32> {
    let mut buffer = Buffer::new(4096)?;
    for block in [512, 1024, 2048] {
        // At an offset that is no multiple of a larger one.
        match file.read_at(&mut buffer[..block as usize], block.into()) {
            Err(e) if e.kind() == io::ErrorKind::InvalidInput => {}
            Err(e) => return Err(e),
            Ok(_) => return Ok(block),
        }
    }
    Ok(4096)
}

/// Can parts of it be zeroed without writing them?
pub(crate) fn can_zero(backing: &Backing) -> bool {
    let Ok(meta) = backing.file.metadata() else { return false };
    if !meta.file_type().is_block_device() {
        // Beyond its end there is nothing to lose.
        let (punch, keep_size) = (2, 1);
        return allocate(&backing.file, punch | keep_size, backing.size, 4096).is_ok();
    }
    disk_attribute(meta.rdev(), "queue/write_zeroes_max_bytes").is_some_and(|most| most != "0")
}

/// Zero a part of a file. [`can_zero()`] has tried to give its room back; where that is to stay, but
/// the file system can not do so, it goes.
pub(crate) async fn zero(io: &Io, file: FileId, how: Allocate, offset: u64, len: u32) -> Result<(), Errno> {
    match io.allocate(file, how, offset, len.into()).await {
        Err(Errno::EOPNOTSUPP) if how == Allocate::Zero => {
            io.allocate(file, Allocate::Punch, offset, len.into()).await
        }
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_not_be_served() {
        let dir = std::env::temp_dir().join(format!("fublk-open-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("file");
        let why = |path: &Path| open(path, Access::default()).unwrap_err().to_string();
        assert!(why(&path).contains("No such file"), "{}", why(&path));
        let is_gone = |path: &Path| is_gone(&open(path, Access::default()).unwrap_err());
        assert!(is_gone(&path) && !is_gone(&dir));
        assert!(why(&dir).contains("neither"));
        File::create(&path).unwrap();
        assert!(why(&path).contains("is empty"));
        std::fs::write(&path, [0; 700]).unwrap();
        assert!(why(&path).contains("700 bytes, is no multiple"));
        std::fs::write(&path, [0; 1024]).unwrap();
        let reading = Access { read_only: true, ..Access::default() };
        let first = open(&path, Access::default()).unwrap();
        assert_eq!((first.size, first.block), (1024, 512));
        assert!(why(&path).contains("locked"));
        assert!(!is_gone(&path), "somebody has it");
        assert!(open(&path, reading).is_err());
        assert!(open(&path, Access { look: true, ..Access::default() }).is_ok());
        drop(first);
        let reader = open(&path, reading).unwrap();
        assert!(open(&path, reading).is_ok(), "many may read");
        assert!(why(&path).contains("locked"));
        drop(reader);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
