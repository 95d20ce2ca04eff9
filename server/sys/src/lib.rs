// SPDX-License-Identifier: GPL-2.0

//! What the kernel defines: the interface of ublk, and the system calls that
//! the standard library lacks. All `unsafe` that is not about io_uring is here.

mod call;
mod lock;
mod memory;
mod process;
mod socket;
pub mod uapi;

pub use call::{
    CpuSet, DirectAlign, FUSED_CMD_FEATURE, OpenFlags, Signals, allocate, direct_align, disk_attribute,
    disk_number, io_uring_features, is_root, lock_memory, logical_block, memory_file, new_session,
    on_io_path, open_flags, pin_thread, terminate, try_again,
};
pub use lock::{byte_is_locked, lock_byte, lock_byte_alone};
pub use memory::{Buffer, Descriptors, Shared};
pub use process::Process;
pub use socket::{abort, connect_unix, drop_unsent, notice_silence};

use std::{fmt, io};

/// An error number, never 0 and never negative.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(i32);

macro_rules! errnos {
    ($($name:ident)*) => {
        impl Errno {
            $(
                #[allow(missing_docs)]
                pub const $name: Errno = Errno(libc::$name);
            )*
        }
    };
}

errnos!(EPERM EACCES ENOENT EINTR EIO EAGAIN ENOMEM EBUSY EEXIST ENODEV ENXIO ENOMEDIUM EINVAL ENOSPC EROFS EOPNOTSUPP ECANCELED ETIME EFAULT ENOBUFS ECONNRESET);

impl Errno {
    /// What a negative result of the kernel says; `None` if it is no error.
    pub fn of(result: i32) -> Option<Errno> {
        (result < 0).then(|| Errno(result.checked_neg().unwrap_or(libc::EIO)))
    }

    /// The number, above 0.
    pub fn get(self) -> i32 {
        self.0
    }
}

impl From<&io::Error> for Errno {
    fn from(error: &io::Error) -> Errno {
        Errno(error.raw_os_error().filter(|n| *n > 0).unwrap_or(libc::EIO))
    }
}

impl From<io::Error> for Errno {
    fn from(error: io::Error) -> Errno {
        Errno::from(&error)
    }
}

impl From<Errno> for io::Error {
    fn from(errno: Errno) -> io::Error {
        io::Error::from_raw_os_error(errno.0)
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        io::Error::from(*self).fmt(f)
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Errno {}
