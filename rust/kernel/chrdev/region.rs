// SPDX-License-Identifier: GPL-2.0

//! Device numbers.

use crate::{
    bindings,
    error::to_result,
    prelude::*, //
};

/// Returns the major and the minor number, as C's `MAJOR()` and `MINOR()`.
pub(super) const fn split(devt: bindings::dev_t) -> (u32, u32) {
    (devt >> bindings::MINORBITS, devt & bindings::MINORMASK)
}

/// A range of device numbers with one major number.
///
/// Dropping it gives the numbers back, and other drivers may get them. So the devices that use them
/// should be dropped before.
///
/// # Context
///
/// It must be dropped in process context, and may sleep then. Its methods can be called in any
/// context, unless they say otherwise.
///
/// # Invariants
///
/// The `count` numbers from `first` are allocated by `alloc_chrdev_region()` for `self`.
pub struct Region {
    first: bindings::dev_t,
    count: u32,
}

impl Region {
    /// Allocates `count` device numbers, which `/proc/devices` shows as `name`.
    ///
    /// Fails with `EBUSY` if there is no free major number, with `EINVAL` if `count` is more than a
    /// major number has, and with `ENOMEM`.
    ///
    /// # Context
    ///
    /// Process context; may sleep. Wraps C's `alloc_chrdev_region()`.
    pub fn new(count: u32, name: &'static CStr) -> Result<Self> {
        let mut first = 0;
        // SAFETY: `first` can be written, and the name is nul-terminated and copied.
        to_result(unsafe {
            bindings::alloc_chrdev_region(&mut first, 0, count, name.as_char_ptr())
        })?;
        // INVARIANT: The numbers were just allocated.
        Ok(Self { first, count })
    }

    /// Returns the major number.
    pub fn major(&self) -> u32 {
        split(self.first).0
    }

    /// Returns the device number of `minor`, counted from the start of the range.
    pub(super) fn devt(&self, minor: u32) -> Option<bindings::dev_t> {
        // This does not overflow: by the type invariant all these are device numbers.
        (minor < self.count).then(|| self.first + minor)
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: By the type invariant, the numbers are ours to give back.
        unsafe { bindings::unregister_chrdev_region(self.first, self.count) };
    }
}

#[cfg(CONFIG_RUST_CHRDEV_KUNIT_TEST)]
#[macros::kunit_tests(rust_chrdev_region)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_in_range() -> Result {
        let region = Region::new(3, c"rust_region")?;
        assert_eq!(region.devt(0), Some(region.first));
        let last = region.devt(2).ok_or(EINVAL)?;
        assert_eq!(split(last), (region.major(), 2));
        assert_eq!(region.devt(3), None);
        Ok(())
    }
}
