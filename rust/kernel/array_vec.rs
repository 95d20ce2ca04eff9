// SPDX-License-Identifier: GPL-2.0

//! Vectors that need no memory of their own.

use crate::prelude::*;
use core::{
    mem::MaybeUninit,
    ops::Deref, //
};

/// A vector of at most `N` elements that lies where the variable does, for instance on the stack.
///
/// To make an empty one costs nothing, however large it is: nothing is zeroed. Elements are
/// [`Copy`], so there is nothing to drop.
///
/// Any context.
///
/// # Invariants
///
/// `len` is at most `N`, and the first `len` elements are initialized.
///
/// # Examples
///
/// ```
/// use kernel::array_vec::ArrayVec;
///
/// let mut odd = ArrayVec::<u16, 3>::new();
/// for n in [1, 2, 3] {
///     assert_eq!(odd.push(n), Ok(()));
/// }
/// assert_eq!(odd.push(4), Err(4));
/// odd.retain(|n| n % 2 == 1);
/// assert_eq!(*odd, [1, 3]);
/// ```
pub struct ArrayVec<T: Copy, const N: usize> {
    elements: [MaybeUninit<T>; N],
    len: usize,
}

impl<T: Copy, const N: usize> ArrayVec<T, N> {
    /// Creates an empty vector.
    #[inline(always)]
    pub const fn new() -> Self {
        // INVARIANT: The first 0 elements are initialized.
        Self {
            elements: [const { MaybeUninit::uninit() }; N],
            len: 0,
        }
    }

    /// Removes all elements.
    #[inline(always)]
    pub fn clear(&mut self) {
        // INVARIANT: As in `new()`.
        self.len = 0;
    }

    /// Adds an element behind all others. It is given back if there is no room for it.
    #[inline(always)]
    pub fn push(&mut self, element: T) -> Result<(), T> {
        let Some(place) = self.elements.get_mut(self.len) else {
            return Err(element);
        };
        place.write(element);
        // INVARIANT: There was a place `len`, which is initialized now, as those before it were.
        self.len += 1;
        Ok(())
    }

    /// Keeps the elements of which `keep` says so, in their order.
    #[inline(always)]
    pub fn retain(&mut self, mut keep: impl FnMut(T) -> bool) {
        let mut kept = 0;
        for at in 0..self.len {
            let Some(&element) = self.get(at) else {
                break;
            };
            if keep(element) {
                if let Some(place) = self.elements.get_mut(kept) {
                    place.write(element);
                }
                kept += 1;
            }
        }
        // INVARIANT: At most one was kept for each of the `len` elements, and all of those that
        // come before `len` stay initialized.
        self.len = kept;
    }
}

impl<T: Copy, const N: usize> Default for ArrayVec<T, N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Copy, const N: usize> Deref for ArrayVec<T, N> {
    type Target = [T];

    #[inline(always)]
    fn deref(&self) -> &[T] {
        // SAFETY: By the type invariants, the first `len` elements are there and are initialized.
        // They have the layout of `T`, and are borrowed as `self` is.
        unsafe { core::slice::from_raw_parts(self.elements.as_ptr().cast(), self.len) }
    }
}

#[macros::kunit_tests(rust_array_vec)]
mod tests {
    use super::*;

    #[test]
    fn has_room_for_n() {
        let mut none = ArrayVec::<u16, 0>::new();
        assert_eq!(none.push(1), Err(1));
        assert!(none.is_empty());

        let mut two = ArrayVec::<u16, 2>::default();
        assert_eq!(two.push(1), Ok(()));
        assert_eq!(two.push(2), Ok(()));
        assert_eq!(two.push(3), Err(3));
        assert_eq!(*two, [1, 2]);
        two.clear();
        assert!(two.is_empty());
        assert_eq!(two.push(4), Ok(()));
        assert_eq!(*two, [4]);
    }

    #[test]
    fn retains_in_order() {
        let mut tags = ArrayVec::<u16, 8>::new();
        for tag in 0..8 {
            assert_eq!(tags.push(tag), Ok(()));
        }
        let mut asked = ArrayVec::<u16, 8>::new();
        tags.retain(|tag| {
            assert_eq!(asked.push(tag), Ok(()));
            tag % 3 == 0
        });
        assert_eq!(*asked, [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(*tags, [0, 3, 6]);
        tags.retain(|_| false);
        assert!(tags.is_empty());
        tags.retain(|_| true);
        assert!(tags.is_empty());
    }
}
