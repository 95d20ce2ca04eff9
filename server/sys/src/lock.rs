// SPDX-License-Identifier: GPL-2.0

//! Locks of single bytes of a file, by which programs tell each other how they use it.

use std::{fs::File, io, os::fd::AsRawFd};

fn byte(kind: libc::c_int, at: i64) -> libc::flock {
    // SAFETY: integers only, for which zero is a value.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    // These constants are small, and have another type than the field.
    lock.l_type = i16::try_from(kind).unwrap_or(0);
    lock.l_whence = i16::try_from(libc::SEEK_SET).unwrap_or(0);
    lock.l_start = at;
    lock.l_len = 1;
    lock
}

/// Lock a byte of a file that is open for reading (`F_OFD_SETLK`), as others may as well. The
/// lock stays until the last descriptor of this open file is closed.
pub fn lock_byte(file: &File, at: u32) -> io::Result<()> {
    set(file, libc::F_RDLCK, at)
}

/// Lock a byte of a file that is open for writing, as nobody else may as long as the lock stays. The
/// error is `WouldBlock` if somebody else has locked it.
pub fn lock_byte_alone(file: &File, at: u32) -> io::Result<()> {
    set(file, libc::F_WRLCK, at)
}

fn set(file: &File, kind: libc::c_int, at: u32) -> io::Result<()> {
    let lock = byte(kind, at.into());
    // SAFETY: the kernel reads the structure.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &lock) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Has another open file a lock of this byte?
pub fn byte_is_locked(file: &File, at: u32) -> io::Result<bool> {
    let mut lock = byte(libc::F_WRLCK, at.into());
    // SAFETY: the kernel reads and writes the structure.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &mut lock) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(i32::from(lock.l_type) != libc::F_UNLCK) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_open_file() {
        let file = crate::memory_file(0).unwrap();
        let other = File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap();
        assert!(!byte_is_locked(&other, 7).unwrap());
        lock_byte(&file, 7).unwrap();
        assert!(byte_is_locked(&other, 7).unwrap() && !byte_is_locked(&other, 8).unwrap());
        assert!(!byte_is_locked(&file, 7).unwrap(), "its own");
        lock_byte(&other, 7).unwrap();
        assert!(byte_is_locked(&file, 7).unwrap());
        drop(other);
        assert!(!byte_is_locked(&file, 7).unwrap());
    }

    #[test]
    fn alone() {
        let file = crate::memory_file(0).unwrap();
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let open = || File::options().read(true).write(true).open(&path).unwrap();
        let (one, other) = (open(), open());
        lock_byte_alone(&one, 7).unwrap();
        assert_eq!(lock_byte_alone(&other, 7).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert_eq!(lock_byte(&other, 7).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        lock_byte_alone(&other, u32::MAX).unwrap();
        drop(one);
        lock_byte_alone(&other, 7).unwrap();
    }
}
