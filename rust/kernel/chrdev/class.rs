// SPDX-License-Identifier: GPL-2.0

//! Device classes.

use crate::{
    bindings,
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
/// the [`Class`] and each device that is not released yet.
#[pin_data]
pub(super) struct ClassInner {
    #[pin]
    class: Opaque<bindings::class>,
    users: Refcount,
    #[pin]
    unused: Completion,
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

/// A class of devices, with a directory in `/sys/class`.
///
/// Dropping it waits until all devices of the class are released, so that none of them outlives the
/// module of its driver. So the registrations of its devices must be dropped before: in a structure
/// that has both, they come first, because fields are dropped in the order of their declaration.
/// And the context of a device must not own the class, or else both wait for each other for ever.
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
                    }
                    // SAFETY: The class is initialised and pinned. It is unregistered in the drop
                    // of the `Class`, before the memory is freed.
                    to_result(unsafe { bindings::class_register(slot) })
                }),
                // The `Class` is the first user.
                users: Refcount::new(1),
                unused <- Completion::new(),
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
    }
}
