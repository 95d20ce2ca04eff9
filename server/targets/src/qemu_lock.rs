// SPDX-License-Identifier: GPL-2.0

//! The locks by which QEMU and its tools tell each other how they use an image: of the byte
//! 100 + n, who does something, and of 200 + n, who wants nobody else to do it.

use std::{fs::File, io};
use ublk_server::{byte_is_locked, lock_byte};

const USED: u32 = 100;
const UNSHARED: u32 = 200;

const READ: u32 = 0;
const WRITE: u32 = 1;
const RESIZE: u32 = 3;

/// We use this file, and others may only read it, and only if we do. `WouldBlock` is the error if
/// that can not be. Where the file system has no locks, there are none, as with QEMU.
pub(crate) fn lock(file: &File, write: bool) -> io::Result<()> {
    let does: &[u32] = if write { &[READ, WRITE, RESIZE] } else { &[READ] };
    let keeps_off = [WRITE, RESIZE];
    let ours = does.iter().map(|n| USED + n).chain(keeps_off.map(|n| UNSHARED + n));
    let theirs = does.iter().map(|n| UNSHARED + n).chain(keeps_off.map(|n| USED + n));
    // Ours come first, so that of two who begin at the same time, one notices at least.
    for at in ours {
        match lock_byte(file, at) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Err(e),
            Err(_) => return Ok(()),
            Ok(()) => {}
        }
    }
    for at in theirs {
        if byte_is_locked(file, at).unwrap_or(false) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
    }
    Ok(())
}
