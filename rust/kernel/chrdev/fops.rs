// SPDX-License-Identifier: GPL-2.0

//! What a driver implements, and how the VFS calls it.

use super::Object;
use crate::{
    bindings,
    error::VTABLE_DEFAULT_ERROR,
    fs::{
        File,
        Kiocb, //
    },
    io_uring::{
        self,
        CommandHandler, //
    },
    iov::{
        IovIterDest,
        IovIterSource, //
    },
    mm::virt::VmaNew,
    module::this_module,
    prelude::*,
    types::ForeignOwnable, //
};
use core::marker::PhantomData;

/// One kind of character device.
///
/// Implemented by a type that stands for the kind; there need be no value of it. Wraps C's
/// `struct file_operations`.
///
/// # Context
///
/// All methods are called in process context, may sleep, and may be called concurrently.
#[vtable]
pub trait CharDevice: Sized + 'static {
    /// What belongs to the device. Dropped, in process context, when the device was removed and the
    /// last file on it is closed.
    type Context: Send + Sync + 'static;

    /// The private data of an open file.
    type Ptr: ForeignOwnable + Send + Sync;

    /// Serves the io_uring commands on an open file.
    type Cmd: CommandHandler<Ptr = Self::Ptr>;

    /// Called when the device is opened. Returns the private data of the file, or the error that
    /// `open(2)` fails with.
    fn open(ctx: &Self::Context, file: &File) -> Result<Self::Ptr>;

    /// Called when the last reference to an open file is gone.
    fn release(ptr: Self::Ptr, _file: &File) {
        drop(ptr);
    }

    /// Called for `mmap(2)`: maps something into the address space of the current task, whose
    /// `mmap_lock` is held for writing. Without this function it fails with `ENODEV`.
    fn mmap(
        _dev: <Self::Ptr as ForeignOwnable>::Borrowed<'_>,
        _file: &File,
        _vma: &VmaNew,
    ) -> Result {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Called to read from the device. Returns the number of bytes. Without this function, reading
    /// fails with `EINVAL`.
    fn read_iter(_kiocb: Kiocb<'_, Self::Ptr>, _iov: &mut IovIterDest<'_>) -> Result<usize> {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Called to write to the device. Returns the number of bytes. Without this function, writing
    /// fails with `EINVAL`.
    fn write_iter(_kiocb: Kiocb<'_, Self::Ptr>, _iov: &mut IovIterSource<'_>) -> Result<usize> {
        build_error!(VTABLE_DEFAULT_ERROR)
    }
}

/// What the VFS is told of a read or write. Not that it was queued: nobody would complete it, or
/// the VFS stops the machine.
fn moved(result: Result<usize>) -> isize {
    match result {
        Ok(len) => isize::try_from(len).unwrap_or(isize::MAX),
        Err(e) if e == EIOCBQUEUED => EIO.to_errno() as isize,
        Err(e) => e.to_errno() as isize,
    }
}

/// The file operations of `T`.
///
/// The module that implements `T` owns them, so that it can not be unloaded while a file is open.
pub(super) struct VTable<T: CharDevice>(PhantomData<T>);

impl<T: CharDevice> VTable<T> {
    /// # Safety
    ///
    /// `inode` and `raw_file` must be of a file being opened, on a device of
    /// [`CharDeviceRegistration<T>`](super::CharDeviceRegistration).
    unsafe extern "C" fn open(inode: *mut bindings::inode, raw_file: *mut bindings::file) -> c_int {
        // SAFETY: The inode is that of a character device being opened, so `i_cdev` is set, to the
        // `cdev` of an `Object<T>`. `chrdev_open()` holds a reference to it meanwhile, and the
        // `cdev` one on the device, which owns the object.
        let ctx = unsafe { &(*Object::<T>::of_cdev(bindings::inode_cdev(inode))).ctx };
        // SAFETY: The file is valid for the duration of this call, and there is no active
        // fdget_pos region on the file on this thread.
        let file = unsafe { File::from_raw_file(raw_file) };

        match T::open(ctx, file) {
            Ok(ptr) => {
                // SAFETY: The open call of a file may set the private data.
                unsafe { (*raw_file).private_data = ptr.into_foreign() };
                0
            }
            Err(err) => err.to_errno(),
        }
    }

    /// # Safety
    ///
    /// `raw_file` must be a file that `open` succeeded for, and that is being released.
    unsafe extern "C" fn release(
        _inode: *mut bindings::inode,
        raw_file: *mut bindings::file,
    ) -> c_int {
        // SAFETY: The release call of a file owns the private data, which `open` set.
        let ptr = unsafe { <T::Ptr as ForeignOwnable>::from_foreign((*raw_file).private_data) };
        // SAFETY: The file is valid for the duration of this call, and there is no active
        // fdget_pos region on the file on this thread.
        T::release(ptr, unsafe { File::from_raw_file(raw_file) });
        0
    }

    /// # Safety
    ///
    /// `raw_file` must be a file that `open` succeeded for, `vma` a vma being set up for it.
    unsafe extern "C" fn mmap(
        raw_file: *mut bindings::file,
        vma: *mut bindings::vm_area_struct,
    ) -> c_int {
        // SAFETY: `open` set the private data, and `release` takes it only after this call.
        let dev = unsafe { <T::Ptr as ForeignOwnable>::borrow((*raw_file).private_data) };
        // SAFETY: The caller provides a vma that is being set up.
        let vma = unsafe { VmaNew::from_raw(vma) };
        // SAFETY: The file is valid for the duration of this call, and there is no active
        // fdget_pos region on the file on this thread.
        let file = unsafe { File::from_raw_file(raw_file) };

        match T::mmap(dev, file, vma) {
            Ok(()) => 0,
            Err(err) => err.to_errno(),
        }
    }

    /// # Safety
    ///
    /// `kiocb` must be for a file that `open` succeeded for, `iter` a valid iterator to write.
    unsafe extern "C" fn read_iter(
        kiocb: *mut bindings::kiocb,
        iter: *mut bindings::iov_iter,
    ) -> isize {
        // SAFETY: The file has a `T::Ptr` as private data.
        let kiocb = unsafe { Kiocb::from_raw(kiocb) };
        // SAFETY: By the safety requirement.
        let iov = unsafe { IovIterDest::from_raw(iter) };

        moved(T::read_iter(kiocb, iov))
    }

    /// # Safety
    ///
    /// `kiocb` must be for a file that `open` succeeded for, `iter` a valid iterator to read.
    unsafe extern "C" fn write_iter(
        kiocb: *mut bindings::kiocb,
        iter: *mut bindings::iov_iter,
    ) -> isize {
        // SAFETY: The file has a `T::Ptr` as private data.
        let kiocb = unsafe { Kiocb::from_raw(kiocb) };
        // SAFETY: By the safety requirement.
        let iov = unsafe { IovIterSource::from_raw(iter) };

        moved(T::write_iter(kiocb, iov))
    }

    const VTABLE: bindings::file_operations = bindings::file_operations {
        open: Some(Self::open),
        release: Some(Self::release),
        mmap: if T::HAS_MMAP { Some(Self::mmap) } else { None },
        read_iter: if T::HAS_READ_ITER {
            Some(Self::read_iter)
        } else {
            None
        },
        write_iter: if T::HAS_WRITE_ITER {
            Some(Self::write_iter)
        } else {
            None
        },
        uring_cmd: Some(io_uring::uring_cmd::<T::Cmd>),
        fop_flags: io_uring::fop_flags::<T::Cmd>(),
        owner: this_module::<T::OwnerModule>().as_ptr(),
        ..pin_init::zeroed()
    };

    pub(super) const fn build() -> &'static bindings::file_operations {
        &Self::VTABLE
    }
}

#[cfg(CONFIG_RUST_CHRDEV_KUNIT_TEST)]
#[macros::kunit_tests(rust_chrdev_fops)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_queued() {
        assert_eq!(moved(Ok(7)), 7);
        assert_eq!(moved(Err(ENOSPC)), ENOSPC.to_errno() as isize);
        assert_eq!(moved(Err(EIOCBQUEUED)), EIO.to_errno() as isize);
        assert!(moved(Ok(usize::MAX - 528)) > 0);
    }
}
