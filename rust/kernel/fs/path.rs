// SPDX-License-Identifier: GPL-2.0

//! Paths that user space names.
//!
//! C header: [`include/linux/namei.h`](srctree/include/linux/namei.h)

use crate::{
    bindings,
    error::to_result,
    prelude::*,
    task::Task, //
};
use core::mem::MaybeUninit;

/// How somebody wants to access a file. As the C bits `MAY_READ` and `MAY_WRITE`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Read it.
    Read,
    /// Read and write it.
    ReadWrite,
}

impl Access {
    fn as_mask(self) -> c_int {
        (match self {
            Self::Read => bindings::MAY_READ,
            Self::ReadWrite => bindings::MAY_READ | bindings::MAY_WRITE,
        }) as c_int
    }
}

/// A file that was found by its name. Wraps C's `struct path`.
///
/// # Context
///
/// It must be dropped in process context, and may sleep then.
///
/// # Examples
///
/// ```
/// use kernel::fs::path::{
///     Access,
///     Path, //
/// };
///
/// /// The number of a device that the caller may read.
/// fn readable_device(name: &CStr) -> Result<(u32, u32)> {
///     let path = Path::lookup(name)?;
///     path.check_access(Access::Read)?;
///     path.char_device()?.ok_or(ENODEV)
/// }
/// # let _ = readable_device;
/// ```
///
/// # Invariants
///
/// `self` owns a reference to the path, which has a dentry with an inode.
pub struct Path(bindings::path);

impl Path {
    /// Looks `name` up from the current task's root and working directory, and follows symbolic
    /// links. Fails as `open(2)` does, with `ENOENT`, `EACCES`, `ELOOP`, ..., and with `ESRCH` in a
    /// task that exits and has no root any more.
    ///
    /// # Context
    ///
    /// Process context; sleeps. Wraps the C function `kern_path()`.
    pub fn lookup(name: &CStr) -> Result<Self> {
        // SAFETY: The current task is valid, and only it changes this field.
        if unsafe { (*Task::current_raw()).fs.is_null() } {
            return Err(ESRCH);
        }
        let mut path = MaybeUninit::<bindings::path>::zeroed();

        // SAFETY: The name is nul-terminated, and `path` can be written.
        to_result(unsafe {
            bindings::kern_path(
                name.as_char_ptr(),
                bindings::LOOKUP_FOLLOW,
                path.as_mut_ptr(),
            )
        })?;
        // INVARIANT: A look-up that succeeds returns a reference to something that exists.
        // SAFETY: It was zeroed, and then filled in.
        Ok(Self(unsafe { path.assume_init() }))
    }

    /// The major and the minor number, or [`None`] if this is no character device. Fails as
    /// `stat(2)` does.
    ///
    /// # Context
    ///
    /// Process context; may sleep. Wraps the C function `vfs_getattr()`.
    pub fn char_device(&self) -> Result<Option<(u32, u32)>> {
        let mut stat = MaybeUninit::<bindings::kstat>::zeroed();

        // SAFETY: By the type invariants the path is valid; `stat` can be written.
        to_result(unsafe {
            bindings::vfs_getattr(
                &self.0,
                stat.as_mut_ptr(),
                bindings::STATX_TYPE,
                bindings::AT_STATX_SYNC_AS_STAT,
            )
        })?;
        // SAFETY: It was zeroed, which is a valid value, and then filled in.
        let stat = unsafe { stat.assume_init() };
        let is_char = u32::from(stat.mode) & bindings::S_IFMT == bindings::S_IFCHR;

        Ok(is_char.then_some((
            stat.rdev >> bindings::MINORBITS,
            stat.rdev & bindings::MINORMASK,
        )))
    }

    /// Succeeds if the current task may access the file by its mode, its access control list, the
    /// device cgroup and the security modules. The owner of the file is who it is on the mount that
    /// the path was found on, which may be idmapped. Whether the task could open the file depends
    /// on more than that.
    ///
    /// Fails with `EACCES`, with `EPERM` if the device cgroup does not allow it or an immutable
    /// file is to be written, with `EROFS` if a file other than a device, a FIFO or a socket is to
    /// be written on a read-only file system, and with what a security module says.
    ///
    /// # Context
    ///
    /// Process context; may sleep. Wraps the C function `path_permission()`.
    pub fn check_access(&self, access: Access) -> Result {
        // SAFETY: By the type invariants the path is valid and its dentry has an inode; the mount,
        // the dentry and the inode stay while the reference is held.
        to_result(unsafe { bindings::path_permission(&self.0, access.as_mask()) })
    }
}

impl Drop for Path {
    fn drop(&mut self) {
        // SAFETY: By the type invariants the reference is ours to give back.
        unsafe { bindings::path_put(&self.0) };
    }
}
