// SPDX-License-Identifier: GPL-2.0

//! Memory that is mapped, not allocated.

use crate::{
    call::page_size,
    uapi::{IoDesc, descriptor_offset},
};
use std::{
    fs::File,
    io,
    ops::{Deref, DerefMut},
    os::{fd::AsRawFd, unix::fs::FileTypeExt},
    ptr::NonNull,
    sync::atomic::{AtomicU16, Ordering},
};

fn map(len: usize, prot: i32, flags: i32, fd: i32, offset: i64) -> io::Result<NonNull<u8>> {
    // SAFETY: a new mapping, at an address of the kernel's choice, touches
    // nothing that is there.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), len, prot, flags, fd, offset) };
    if at == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(at.cast()).ok_or_else(|| io::Error::other("mapped at 0"))
}

fn unmap(at: NonNull<u8>, len: usize) {
    // SAFETY: callers own this mapping, and are dropped.
    unsafe { libc::munmap(at.as_ptr().cast(), len) };
}

/// A buffer for I/O: aligned to pages, at first zero.
///
/// # Invariants
///
/// `at` is a private mapping of `len` bytes that this value owns.
pub struct Buffer {
    at: NonNull<u8>,
    len: usize,
}

// SAFETY: it owns its memory, as a `Box<[u8]>` does.
unsafe impl Send for Buffer {}

impl Buffer {
    /// Memory comes with the first use of a page. `len` is above 0.
    pub fn new(len: usize) -> io::Result<Buffer> {
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        let at = map(len, prot, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)?;
        // INVARIANT: just mapped.
        Ok(Buffer { at, len })
    }

    /// The address of a part of it, for the kernel; `None` if it is not inside. There is no
    /// reference to the memory, which the kernel may be writing.
    pub fn addr_of(&self, at: usize, len: usize) -> Option<u64> {
        at.checked_add(len).filter(|end| *end <= self.len)?;
        Some(self.at.as_ptr().expose_provenance() as u64 + at as u64)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        unmap(self.at, self.len);
    }
}

impl Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: by the invariant of the type; it is borrowed as this value is.
        unsafe { std::slice::from_raw_parts(self.at.as_ptr(), self.len) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: by the invariant of the type; it is borrowed as this value is.
        unsafe { std::slice::from_raw_parts_mut(self.at.as_ptr(), self.len) }
    }
}

/// Memory that the kernel reads or writes at any time, as it was told.
///
/// # Invariants
///
/// `at` is a private mapping of `len` bytes that this value owns. There is never a
/// reference to it.
pub struct Shared {
    at: NonNull<u8>,
    len: usize,
}

impl Shared {
    /// At least so many bytes, above 0: whole pages, zeroes.
    pub fn new(len: usize) -> io::Result<Shared> {
        let len = len.next_multiple_of(page_size());
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE;
        let at = map(len, prot, flags, -1, 0)?;
        // INVARIANT: just mapped.
        Ok(Shared { at, len })
    }

    /// How many bytes.
    #[allow(clippy::len_without_is_empty, reason = "none is empty")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Its address, for the kernel.
    pub fn addr(&self) -> u64 {
        self.at.as_ptr().expose_provenance() as u64
    }

    fn part(&self, at: usize, len: usize) -> *mut u8 {
        assert!(at.checked_add(len).is_some_and(|end| end <= self.len));
        // SAFETY: it is inside of the mapping.
        unsafe { self.at.as_ptr().add(at) }
    }

    /// A byte.
    ///
    /// # Panics
    ///
    /// This and the others: if it is not inside.
    pub fn get(&self, at: usize) -> u8 {
        // SAFETY: mapped, and any byte is a value.
        unsafe { self.part(at, 1).read_volatile() }
    }

    /// Two bytes.
    pub fn get_u16(&self, at: usize) -> u16 {
        u16::from_ne_bytes([self.get(at), self.get(at + 1)])
    }

    /// Write bytes.
    pub fn put(&self, at: usize, bytes: &[u8]) {
        let to = self.part(at, bytes.len());
        // SAFETY: it is mapped, and nobody has a reference to it.
        unsafe { to.copy_from(bytes.as_ptr(), bytes.len()) };
    }

    /// Write two bytes, at an even offset. Who sees them sees all that was put before.
    pub fn publish(&self, at: usize, value: u16) {
        assert!(at.is_multiple_of(2));
        let to = self.part(at, 2).cast::<u16>();
        // SAFETY: mapped and aligned, and only accessed like this as long as it is used.
        let to = unsafe { AtomicU16::from_ptr(to) };
        // Release: as the kernel's tail of a ring of buffers wants it.
        to.store(value, Ordering::Release);
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        unmap(self.at, self.len);
    }
}

/// The descriptors of a queue, which the driver writes.
///
/// # Invariants
///
/// `at` is a mapping of `/dev/ublkcN` of at least `depth` descriptors, that this
/// value owns.
pub struct Descriptors {
    at: NonNull<u8>,
    len: usize,
    depth: u16,
}

impl Descriptors {
    /// Those of queue `q_id`, which has this depth.
    pub fn map(device: &File, q_id: u16, depth: u16) -> io::Result<Descriptors> {
        if !device.metadata()?.file_type().is_char_device() {
            return Err(io::Error::other("no device of characters"));
        }
        // The driver wants whole pages.
        let len = (usize::from(depth) * size_of::<IoDesc>()).next_multiple_of(page_size());
        let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
        let offset = i64::try_from(descriptor_offset(q_id)).map_err(io::Error::other)?;
        let at = map(len, libc::PROT_READ, flags, device.as_raw_fd(), offset)?;
        // INVARIANT: just mapped.
        Ok(Descriptors { at, len, depth })
    }

    /// The descriptor of a tag: of its request, from when the fetch of that has
    /// completed until its commit.
    ///
    /// # Panics
    ///
    /// If there is no such tag.
    pub fn get(&self, tag: u16) -> IoDesc {
        assert!(tag < self.depth);
        let at = self.at.cast::<IoDesc>();
        // SAFETY: the mapping has `depth` of them, by the invariant.
        let at = unsafe { at.add(usize::from(tag)) };
        // SAFETY: it is mapped, pages are aligned, and any bytes are a descriptor.
        // The driver writes it, if at all, while we wait for its command.
        unsafe { at.read_volatile() }
    }
}

impl Drop for Descriptors {
    fn drop(&mut self) {
        unmap(self.at, self.len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_device_has_descriptors() {
        // What ends too early would be a SIGBUS later.
        let file = File::open(std::env::current_exe().unwrap()).unwrap();
        let refused = Descriptors::map(&file, 0, 1).err().map(|e| e.to_string());
        assert_eq!(refused.as_deref(), Some("no device of characters"));
    }
}
