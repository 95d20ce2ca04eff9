// SPDX-License-Identifier: GPL-2.0

//! Device classes.

use crate::{
    bindings,
    container_of,
    error::to_result,
    prelude::*,
    sync::{
        Arc,
        Completion,
        Refcount, //
    },
    types::Opaque, //
};

/// What a [`Class`] shares with its devices.
///
/// # Invariants
///
/// `class` is registered from before the first device is made until `users` is 0. `users` counts
/// the [`Class`] and each device that is not released yet. `released` is completed when the driver
/// core does not look at `class` any more.
#[pin_data]
pub(super) struct ClassInner {
    #[pin]
    class: Opaque<bindings::class>,
    users: Refcount,
    #[pin]
    unused: Completion,
    #[pin]
    released: Completion,
}

// SAFETY: A class may be unregistered by any thread.
unsafe impl Send for ClassInner {}
// SAFETY: The driver core does its own locking; the other fields are `Sync`.
unsafe impl Sync for ClassInner {}

impl ClassInner {
    pub(super) fn as_raw(&self) -> *const bindings::class {
        self.class.get()
    }

    /// Notes a new device. To be called by someone who has the `Class`.
    pub(super) fn get_user(&self) {
        self.users.inc();
    }

    /// Notes that a device, or the `Class`, is gone.
    pub(super) fn put_user(&self) {
        if self.users.dec_and_test() {
            self.unused.complete_all();
        }
    }
}

/// The release function of a class: the last reference to it is gone, which may be some time after
/// it was unregistered (`CONFIG_DEBUG_KOBJECT_RELEASE`).
///
/// Neither generic nor inlined, so that it is part of the kernel image: the driver's module may be
/// unloaded as soon as this has told.
///
/// # Safety
///
/// Only to be called by the driver core, for the `class` of a [`ClassInner`].
#[inline(never)]
unsafe extern "C" fn release_class(class: *const bindings::class) {
    // SAFETY: By the safety requirement. The drop of the `Class` waits for what is told here before
    // it gives up its reference.
    let inner = unsafe { &*container_of!(Opaque::cast_from(class), ClassInner, class) };

    inner.released.complete_all();
}

/// A class of devices, with a directory in `/sys/class`.
///
/// Dropping it waits until all devices of the class are released, so that none of them outlives the
/// module of its driver. So the registrations of its devices must be dropped before: in a structure
/// that has both, they come first, because fields are dropped in the order of their declaration.
/// And neither the context of a device nor the private data of a file may own the class, or else
/// both wait for each other for ever. A class that is never dropped waits for nothing: a module
/// that forgets both it and a device must not be unloaded.
///
/// Wraps C's `struct class`.
///
/// # Context
///
/// It must be dropped in process context, and sleeps then.
///
/// # Invariants
///
/// `self` is one of `inner.users`.
pub struct Class {
    inner: Arc<ClassInner>,
}

impl Class {
    /// Registers a class. Fails with `ENOMEM`, and with `EEXIST` if the name is taken.
    ///
    /// # Context
    ///
    /// Process context; may sleep. Wraps C's `class_register()`.
    pub fn new(name: &'static CStr) -> Result<Self> {
        let inner = Arc::pin_init(
            try_pin_init!(ClassInner {
                class <- Opaque::try_ffi_init(|slot: *mut bindings::class| {
                    // SAFETY: `slot` can be written, and zeroes are a valid class.
                    unsafe {
                        slot.write_bytes(0, 1);
                        (*slot).name = name.as_char_ptr();
                        (*slot).class_release = Some(release_class);
                    }
                    // SAFETY: The class is initialised and pinned. The drop of the `Class`
                    // unregisters it, and waits for its release, before the memory is freed. The
                    // release function is called after that only, not if this fails.
                    to_result(unsafe { bindings::class_register(slot) })
                }),
                // The `Class` is the first user.
                users: Refcount::new(1),
                unused <- Completion::new(),
                released <- Completion::new(),
            }? Error),
            GFP_KERNEL,
        )?;
        // INVARIANT: `users` started with one.
        Ok(Self { inner })
    }

    pub(super) fn inner(&self) -> &Arc<ClassInner> {
        &self.inner
    }
}

impl Drop for Class {
    fn drop(&mut self) {
        self.inner.put_user();
        self.inner.unused.wait_for_completion();
        // SAFETY: It was registered in `new`. No device of it exists any more, and none can be made
        // without a `Class`.
        unsafe { bindings::class_unregister(self.inner.as_raw()) };
        self.inner.released.wait_for_completion();
    }
}
