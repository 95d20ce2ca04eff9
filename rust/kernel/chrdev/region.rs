// SPDX-License-Identifier: GPL-2.0

//! Device numbers.

use crate::{
    bindings,
    error::to_result,
    new_mutex,
    prelude::*,
    rbtree::{
        RBTree,
        RBTreeNodeReservation, //
    },
    sync::{
        Arc,
        Mutex, //
    }, //
};

/// Returns the major and the minor number, as C's `MAJOR()` and `MINOR()`.
pub(super) const fn split(devt: bindings::dev_t) -> (u32, u32) {
    (devt >> bindings::MINORBITS, devt & bindings::MINORMASK)
}

/// What a [`Region`] shares with the devices that use its numbers.
///
/// # Invariants
///
/// The `count` numbers from `first` are allocated by `alloc_chrdev_region()` for `self`. `taken`
/// has the minor of each [`Number`] of the region.
#[pin_data(PinnedDrop)]
struct RegionInner {
    first: bindings::dev_t,
    count: u32,
    #[pin]
    taken: Mutex<RBTree<u32, ()>>,
}

#[pinned_drop]
impl PinnedDrop for RegionInner {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariant, the numbers are ours to give back.
        unsafe { bindings::unregister_chrdev_region(self.first, self.count) };
    }
}

/// A range of device numbers with one major number.
///
/// When it and all devices that use one of its numbers are gone, other drivers may get them.
///
/// # Context
///
/// It must be dropped in process context, and may sleep then. Its methods can be called in any
/// context, unless they say otherwise.
pub struct Region {
    inner: Arc<RegionInner>,
}

impl Region {
    /// Allocates `count` device numbers, which `/proc/devices` shows as `name`.
    ///
    /// Fails with `EBUSY` if there is no free major number, with `EINVAL` if `count` is 0 or more
    /// than a major number has, and with `ENOMEM`.
    ///
    /// # Context
    ///
    /// Process context; may sleep. Wraps C's `alloc_chrdev_region()`.
    pub fn new(count: u32, name: &'static CStr) -> Result<Self> {
        // C would take one, and never give it back.
        if count == 0 {
            return Err(EINVAL);
        }
        let inner = Arc::pin_init(
            try_pin_init!(RegionInner {
                // INVARIANT: The numbers are allocated, or there is no value.
                first: {
                    let mut first = 0;
                    // SAFETY: `first` can be written, and the name is nul-terminated and copied.
                    to_result(unsafe {
                        bindings::alloc_chrdev_region(&mut first, 0, count, name.as_char_ptr())
                    })?;
                    first
                },
                count,
                taken <- new_mutex!(RBTree::new()),
            }? Error),
            GFP_KERNEL,
        )?;
        Ok(Self { inner })
    }

    /// Returns the major number.
    pub fn major(&self) -> u32 {
        split(self.inner.first).0
    }

    /// Takes the device number of `minor`, counted from the start of the range.
    ///
    /// Two devices with one number would be mistaken for each other when one of them goes:
    /// `cdev_del()` looks for the number, not for the device. Fails with `EINVAL` if it is outside
    /// of the range, with `EEXIST` if it is taken, and with `ENOMEM`. Process context; may sleep.
    pub(super) fn take(&self, minor: u32) -> Result<Number> {
        if minor >= self.inner.count {
            return Err(EINVAL);
        }
        // Before the lock is taken, which the last user of a device needs: to get memory, the
        // kernel may have to write to a disk that depends on that one.
        let node = RBTreeNodeReservation::new(GFP_KERNEL)?;
        let mut taken = self.inner.taken.lock();
        if taken.get(&minor).is_some() {
            return Err(EEXIST);
        }
        let _ = taken.insert(node.into_node(minor, ()));
        // INVARIANT: It was just noted.
        Ok(Number {
            region: self.inner.clone(),
            minor,
        })
    }
}

/// A device number that belongs to one device, until this is dropped. Process context; may sleep.
///
/// # Invariants
///
/// `minor` is less than the region's `count`, and is in its `taken` for `self`.
pub(super) struct Number {
    region: Arc<RegionInner>,
    minor: u32,
}

impl Number {
    pub(super) fn devt(&self) -> bindings::dev_t {
        // This does not overflow: by the type invariants it is a device number.
        self.region.first + self.minor
    }
}

impl Drop for Number {
    fn drop(&mut self) {
        let node = self.region.taken.lock().remove_node(&self.minor);
        // Freed when the lock is not held.
        drop(node);
    }
}

#[cfg(CONFIG_RUST_CHRDEV_KUNIT_TEST)]
#[macros::kunit_tests(rust_chrdev_region)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_in_range() -> Result {
        let region = Region::new(3, c"rust_region")?;
        assert_eq!(region.take(0)?.devt(), region.inner.first);
        assert_eq!(split(region.take(2)?.devt()), (region.major(), 2));
        assert_eq!(region.take(3).err(), Some(EINVAL));
        assert_eq!(Region::new(0, c"rust_region").err(), Some(EINVAL));
        Ok(())
    }

    #[test]
    fn a_number_is_taken_once() -> Result {
        let region = Region::new(2, c"rust_region")?;
        let one = region.take(1)?;

        assert_eq!(region.take(1).err(), Some(EEXIST));
        let zero = region.take(0)?;
        drop(one);
        // The numbers stay as long as one of them is used.
        let one = region.take(1)?;
        drop(region);
        assert_eq!(one.devt(), zero.devt() + 1);
        Ok(())
    }
}
