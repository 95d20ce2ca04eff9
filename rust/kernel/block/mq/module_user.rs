// SPDX-License-Identifier: GPL-2.0

//! Lets the unloading of a module wait for the disks of its driver.
//!
//! The last reference to a disk may go long after the driver has removed the disk: who finds it in
//! `/proc/partitions`, for instance, has one, and none to the module. What is freed then belongs to
//! the driver, and so does the code that frees it. So the kernel image, which calls that code (see
//! `free_object()` in `disk_ref.rs`), counts the disks of each module, and a module that goes waits
//! for its own.

use crate::{
    bindings,
    prelude::*, //
};

/// One of the disks that a module waits for, from [`Self::new`] until this is dropped.
///
/// # Context
///
/// It must be dropped in process context, and may sleep then: by code that is not the module's, or
/// while the module is in use for another reason.
///
/// # Invariants
///
/// Unless the module is null, `self` is counted for it once.
pub(super) struct ModuleUser {
    #[cfg_attr(not(CONFIG_MODULES), expect(dead_code))]
    module: *mut bindings::module,
}

// SAFETY: The pointer is a number to be compared; it is never followed.
unsafe impl Send for ModuleUser {}
// SAFETY: As above.
unsafe impl Sync for ModuleUser {}

impl ModuleUser {
    /// A user of `module`, which is null for code of the kernel image. Fails with `ENOMEM`.
    ///
    /// # Context
    ///
    /// Process context, called by the module; may sleep. The first call registers a notifier of
    /// modules, so it must not come from such a notifier.
    pub(super) fn new(module: *mut bindings::module) -> Result<Self> {
        #[cfg(CONFIG_MODULES)]
        if !module.is_null() {
            modules::add(module)?;
        }
        // INVARIANT: It was just counted, if it has to be.
        Ok(Self { module })
    }
}

impl Drop for ModuleUser {
    fn drop(&mut self) {
        #[cfg(CONFIG_MODULES)]
        if !self.module.is_null() {
            modules::remove(self.module);
        }
    }
}

#[cfg(CONFIG_MODULES)]
mod modules {
    use crate::{
        bindings,
        error::to_result,
        new_condvar,
        new_mutex,
        prelude::*,
        sync::{
            CondVar,
            Mutex,
            SetOnce, //
        },
        time::{
            delay::fsleep,
            Delta, //
        },
        types::Opaque, //
    };

    struct Count {
        module: *mut bindings::module,
        users: usize,
    }

    /// How many users each module has; there is one of it, from the first disk on and for ever.
    ///
    /// # Invariants
    ///
    /// `notifier` is registered.
    #[pin_data(PinnedDrop)]
    struct Users {
        /// Of each module that has had one, until it goes.
        #[pin]
        counts: Mutex<KVec<Count>>,
        /// A module has none any more.
        #[pin]
        gone: CondVar,
        #[pin]
        notifier: Opaque<bindings::notifier_block>,
    }

    // SAFETY: The pointers are numbers to be compared, and the notifier is linked by any thread.
    unsafe impl Send for Users {}
    // SAFETY: As above; nothing here looks at the notifier.
    unsafe impl Sync for Users {}

    #[pinned_drop]
    impl PinnedDrop for Users {
        fn drop(self: Pin<&mut Self>) {
            // SAFETY: By the type invariants it is registered.
            unsafe { bindings::unregister_module_notifier(self.notifier.get()) };
        }
    }

    static USERS: SetOnce<Pin<KBox<Users>>> = SetOnce::new();

    fn users() -> Result<&'static Users> {
        if let Some(users) = USERS.as_ref() {
            return Ok(users);
        }
        let new = KBox::try_pin_init(
            try_pin_init!(Users {
                counts <- new_mutex!(KVec::new()),
                gone <- new_condvar!(),
                // INVARIANT: It is registered, or there is no value.
                notifier <- Opaque::try_ffi_init(|slot: *mut bindings::notifier_block| {
                    // SAFETY: `slot` can be written, and stays where it is until it is
                    // unregistered.
                    to_result(unsafe {
                        slot.write(bindings::notifier_block {
                            notifier_call: Some(module_changes),
                            ..Default::default()
                        });
                        bindings::register_module_notifier(slot)
                    })
                }),
            }? Error),
            GFP_KERNEL,
        )?;
        // If somebody else was faster, this one is dropped.
        let _ = USERS.populate(new);
        loop {
            if let Some(users) = USERS.as_ref() {
                return Ok(users);
            }
            // The other one is about to.
            fsleep(Delta::from_millis(1));
        }
    }

    pub(super) fn add(module: *mut bindings::module) -> Result {
        let mut counts = users()?.counts.lock();

        match counts.iter_mut().find(|c| c.module == module) {
            Some(count) => count.users += 1,
            // Not by writing to a disk whose end may wait for this lock.
            None => counts.push(Count { module, users: 1 }, GFP_NOIO)?,
        }
        Ok(())
    }

    pub(super) fn remove(module: *mut bindings::module) {
        let Some(users) = USERS.as_ref() else {
            return;
        };
        let mut counts = users.counts.lock();
        let Some(count) = counts.iter_mut().find(|c| c.module == module) else {
            return;
        };

        count.users -= 1;
        if count.users == 0 {
            users.gone.notify_all();
        }
    }

    /// Waits until no disk needs the code of `module`, which is going.
    fn wait_for(module: *mut bindings::module) {
        let Some(users) = USERS.as_ref() else {
            return;
        };
        let mut counts = users.counts.lock();

        while counts.iter().any(|c| c.module == module && c.users > 0) {
            users.gone.wait(&mut counts);
        }
        counts.retain(|c| c.module != module);
    }

    /// Called by the module loader. Process context; when a module goes, its exit has returned.
    ///
    /// # Safety
    ///
    /// There are no requirements: `module` is compared only.
    pub(super) unsafe extern "C" fn module_changes(
        _notifier: *mut bindings::notifier_block,
        state: c_ulong,
        module: *mut c_void,
    ) -> c_int {
        if state == bindings::module_state_MODULE_STATE_GOING as c_ulong {
            wait_for(module.cast());
        }
        bindings::NOTIFY_DONE as c_int
    }

    #[cfg(CONFIG_RUST_BLOCK_KUNIT_TEST)]
    pub(super) fn users_of(module: *mut bindings::module) -> usize {
        let counts = USERS.as_ref().map(|users| users.counts.lock());

        counts.map_or(0, |c| {
            c.iter().find(|c| c.module == module).map_or(0, |c| c.users)
        })
    }
}

#[cfg(all(CONFIG_RUST_BLOCK_KUNIT_TEST, CONFIG_MODULES))]
#[macros::kunit_tests(rust_kernel_block_mq_module_user)]
mod tests {
    use super::*;
    use crate::{
        time::{
            delay::fsleep,
            Delta, //
        },
        workqueue, //
    };

    /// Not a module, but another address than any.
    fn module(nr: usize) -> *mut bindings::module {
        core::ptr::without_provenance_mut(nr)
    }

    #[test]
    fn each_is_counted() -> Result {
        let (one, other) = (module(1), module(2));
        let first = ModuleUser::new(one)?;
        let second = ModuleUser::new(one)?;
        let third = ModuleUser::new(other)?;

        assert_eq!(modules::users_of(one), 2);
        drop(first);
        drop(third);
        assert_eq!(modules::users_of(one), 1);
        assert_eq!(modules::users_of(other), 0);
        drop(second);
        assert_eq!(modules::users_of(one), 0);
        Ok(())
    }

    /// Would not end if it waited for others.
    #[test]
    fn a_module_waits_for_its_own_only() -> Result {
        let other = ModuleUser::new(module(2))?;
        let state = bindings::module_state_MODULE_STATE_GOING as c_ulong;

        // SAFETY: The function has no requirements.
        unsafe { modules::module_changes(core::ptr::null_mut(), state, module(1).cast()) };
        assert_eq!(modules::users_of(module(2)), 1);
        drop(other);
        Ok(())
    }

    /// Would not end if nobody woke it.
    #[test]
    fn a_module_waits() -> Result {
        let user = ModuleUser::new(module(3))?;
        let state = bindings::module_state_MODULE_STATE_GOING as c_ulong;

        workqueue::system().try_spawn(GFP_KERNEL, move || {
            fsleep(Delta::from_millis(20));
            drop(user);
        })?;
        // SAFETY: The function has no requirements.
        unsafe { modules::module_changes(core::ptr::null_mut(), state, module(3).cast()) };
        assert_eq!(modules::users_of(module(3)), 0);
        Ok(())
    }
}
