// SPDX-License-Identifier: GPL-2.0

//! Character devices with numbers of their own.
//!
//! This is for a driver that creates devices at run time, each with a `struct device` and a node in
//! `/dev`. For a driver that needs a single node, [`miscdevice`](crate::miscdevice) is simpler.
//!
//! Such a driver implements [`CharDevice`], makes a [`Region`] of device numbers and a [`Class`]
//! when it is loaded, and a [`CharDeviceRegistration`] for each device. Files that are open when
//! the registration is dropped stay usable, and keep the device's context and the module.
//!
//! # Examples
//!
//! ```
//! use kernel::{
//!     chrdev::{
//!         CharDevice,
//!         CharDeviceRegistration,
//!         Class,
//!         Region, //
//!     },
//!     fs::{
//!         File,
//!         Kiocb, //
//!     },
//!     io_uring::NoQueue,
//!     iov::IovIterDest,
//!     sync::Arc, //
//! };
//!
//! struct Answer;
//!
//! #[vtable]
//! impl CharDevice for Answer {
//!     type Context = Arc<[u8; 3]>;
//!     type Ptr = Arc<[u8; 3]>;
//!     type Cmd = NoQueue<Self::Ptr>;
//!
//!     fn open(ctx: &Self::Context, _file: &File) -> Result<Self::Ptr> {
//!         Ok(ctx.clone())
//!     }
//!
//!     fn read_iter(mut kiocb: Kiocb<'_, Self::Ptr>, iov: &mut IovIterDest<'_>) -> Result<usize> {
//!         let text = kiocb.file();
//!         iov.simple_read_from_buffer(kiocb.ki_pos_mut(), &text[..])
//!     }
//! }
//!
//! let region = Region::new(4, c"rust_answer")?;
//! let class = Class::new(c"rust_answer")?;
//! let text = Arc::new(*b"42\n", GFP_KERNEL)?;
//!
//! // `/dev/rust_answer1`
//! let dev = CharDeviceRegistration::<Answer>::new(
//!     &region, &class, 1, None, fmt!("rust_answer{}", 1), text.clone(),
//! )?;
//! assert_eq!(dev.devt(), (region.major(), 1));
//! assert!(Arc::ptr_eq(dev.context(), &text));
//!
//! let add = |minor, text| {
//!     CharDeviceRegistration::<Answer>::new(&region, &class, minor, None, fmt!("no"), text)
//! };
//! assert_eq!(add(4, text.clone()).err(), Some(EINVAL));
//! assert_eq!(add(1, text).err(), Some(EEXIST));
//!
//! // Waits until the context is dropped, so the device goes first.
//! drop(dev);
//! drop(class);
//! # Ok::<(), Error>(())
//! ```
//!
//! C headers: [`include/linux/cdev.h`](srctree/include/linux/cdev.h),
//! [`include/linux/device/class.h`](srctree/include/linux/device/class.h)

mod class;
mod fops;
mod region;

pub use self::{
    class::Class,
    fops::CharDevice,
    region::Region, //
};

use self::{
    class::ClassInner,
    region::Number, //
};
use crate::{
    bindings,
    container_of,
    device::Device,
    error::to_result,
    fmt,
    prelude::*,
    sync::Arc,
    types::{
        Opaque,
        ScopeGuard, //
    }, //
};
use core::{
    marker::PhantomData,
    mem::offset_of,
    ptr::NonNull, //
};

/// The part of a device that does not depend on the driver.
#[repr(C)]
struct Head {
    dev: Opaque<bindings::device>,
    cdev: Opaque<bindings::cdev>,
    class: Arc<ClassInner>,
    /// Given back before the context is dropped, when nobody has the device open any more.
    number: Number,
    /// Drops and frees the `Object` that this is the head of.
    free: unsafe fn(NonNull<Head>),
}

/// A device, in one allocation, which the references to `head.dev` own.
#[repr(C)]
struct Object<T: CharDevice> {
    head: Head,
    ctx: T::Context,
}

impl<T: CharDevice> Object<T> {
    // The casts between an object and its head, in both directions, rely on this.
    const HEAD_IS_FIRST: () = assert!(offset_of!(Self, head) == 0);

    /// # Safety
    ///
    /// `head` must be the head of an `Object<T>` that came from `KBox::into_raw`, and that nobody
    /// uses any more.
    unsafe fn free(head: NonNull<Head>) {
        // SAFETY: By the safety requirement; the head is at the start of the object.
        drop(unsafe { KBox::<Self>::from_raw(head.cast().as_ptr()) });
    }

    /// Returns the object that a `struct cdev` is part of.
    ///
    /// # Safety
    ///
    /// `cdev` must be part of an `Object<T>`.
    unsafe fn of_cdev(cdev: *mut bindings::cdev) -> *mut Self {
        let () = Self::HEAD_IS_FIRST;
        // SAFETY: By the safety requirement.
        let head = unsafe { container_of!(Opaque::cast_from(cdev), Head, cdev) };
        head.cast_mut().cast()
    }
}

/// Release function of the `struct device`: the last reference is gone.
///
/// Neither generic nor inlined, so that it is part of the kernel image: once the class is told, the
/// driver's module may be unloaded, so this must not be code of that module.
///
/// # Safety
///
/// Only to be called by the driver core, for the `dev` of a [`Head`].
#[inline(never)]
unsafe extern "C" fn release_device(dev: *mut bindings::device) {
    // SAFETY: `dev` is part of a `Head`.
    let head = unsafe { container_of!(Opaque::cast_from(dev), Head, dev) }.cast_mut();
    // SAFETY: The object is valid until it is freed below.
    let (class, free) = unsafe { ((*head).class.clone(), (*head).free) };
    // SAFETY: `head` is not null. The last reference to the device is gone, and so is the `cdev`,
    // which holds one. The object came from `KBox::into_raw` in `CharDeviceRegistration::new`.
    unsafe { free(NonNull::new_unchecked(head)) };
    class.put_user();
}

/// A character device that user space can open.
///
/// Dropping it removes the device; files that are open stay usable. Wraps C's `struct cdev` and
/// `struct device`.
///
/// # Context
///
/// It must be dropped in process context, and may sleep then. All other methods can be called in
/// any context, unless they say otherwise.
///
/// # Invariants
///
/// `object` points to a device that was added by `cdev_device_add()`, and to which `self` owns a
/// reference.
pub struct CharDeviceRegistration<T: CharDevice> {
    object: NonNull<Object<T>>,
    _owned: PhantomData<Object<T>>,
}

// SAFETY: A device may be removed by any thread, and its context be dropped by any.
unsafe impl<T: CharDevice> Send for CharDeviceRegistration<T> {}
// SAFETY: Through a shared reference one reaches the context, which is `Sync`, and numbers that do
// not change.
unsafe impl<T: CharDevice> Sync for CharDeviceRegistration<T> {}

impl<T: CharDevice> CharDeviceRegistration<T> {
    /// Makes a device with `ctx` and adds it to the system as `/dev/<name>`.
    ///
    /// It may be opened before this function returns. `minor` is counted from the start of
    /// `region`. Fails with `EINVAL` if it is outside, with `EEXIST` if it is that of another
    /// device that is there or that somebody has open, with `ENOMEM`, and with what the driver core
    /// says, for example `EEXIST` if the name is taken; `ctx` is dropped then.
    ///
    /// # Context
    ///
    /// Process context; may sleep. Wraps C's `cdev_device_add()`.
    pub fn new(
        region: &Region,
        class: &Class,
        minor: u32,
        parent: Option<&Device>,
        name: fmt::Arguments<'_>,
        ctx: T::Context,
    ) -> Result<Self> {
        let number = region.take(minor)?;
        let devt = number.devt();
        let object = KBox::init(
            init!(Object::<T> {
                head: Head {
                    dev: Opaque::zeroed(),
                    cdev: Opaque::zeroed(),
                    class: class.inner().clone(),
                    number,
                    free: Object::<T>::free,
                },
                ctx: ctx,
            }),
            GFP_KERNEL,
        )?;
        let object = KBox::into_raw(object);
        // SAFETY: `object` was just allocated.
        let (dev, cdev) = unsafe { ((*object).head.dev.get(), (*object).head.cdev.get()) };

        class.inner().get_user();
        // SAFETY: `dev` and `cdev` are zeroed memory that nobody else uses yet. The class is
        // registered while it has users. The parent is valid until this function returns; a device
        // that was added has a reference to its parent. The vtable is static.
        unsafe {
            bindings::device_initialize(dev);
            (*dev).devt = devt;
            (*dev).class = class.inner().as_raw();
            (*dev).parent = parent.map_or(core::ptr::null_mut(), Device::as_raw);
            (*dev).release = Some(release_device);
            let fops = fops::VTable::<T>::build();
            bindings::cdev_init(cdev, fops);
            (*cdev).owner = fops.owner;
        }
        // From here on, the device's reference count owns the object.
        //
        // SAFETY: It is initialised, and the reference is ours.
        let put_on_error = ScopeGuard::new(|| unsafe { bindings::put_device(dev) });

        // SAFETY: `dev` is initialised but not added. The format takes a `fmt::Arguments`.
        to_result(unsafe {
            bindings::dev_set_name(
                dev,
                c"%pA".as_char_ptr(),
                core::ptr::from_ref(&name).cast::<c_void>(),
            )
        })?;
        // SAFETY: Both are initialised, and part of one object whose life is that of `dev`.
        to_result(unsafe { bindings::cdev_device_add(cdev, dev) })?;

        put_on_error.dismiss();
        // INVARIANT: It was just added, and the first reference to it is now that of the value.
        Ok(Self {
            // SAFETY: A pointer from `KBox::into_raw` is not null.
            object: unsafe { NonNull::new_unchecked(object) },
            _owned: PhantomData,
        })
    }

    fn head(&self) -> &Head {
        // SAFETY: By the type invariant, the object is valid as long as `self`.
        unsafe { &(*self.object.as_ptr()).head }
    }

    /// Returns the context that the device was made with.
    pub fn context(&self) -> &T::Context {
        // SAFETY: By the type invariant, the object is valid as long as `self`.
        unsafe { &(*self.object.as_ptr()).ctx }
    }

    /// Returns the device's major and minor number.
    pub fn devt(&self) -> (u32, u32) {
        // SAFETY: The device is valid, and its number does not change once it is added.
        region::split(unsafe { (*self.head().dev.get()).devt })
    }
}

impl<T: CharDevice> Drop for CharDeviceRegistration<T> {
    fn drop(&mut self) {
        let head = self.head();
        let (dev, cdev) = (head.dev.get(), head.cdev.get());
        // SAFETY: By the type invariant, the device was added, and `self` owns a reference to it.
        unsafe {
            bindings::cdev_device_del(cdev, dev);
            bindings::put_device(dev);
        }
    }
}
