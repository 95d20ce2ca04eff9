// SPDX-License-Identifier: GPL-2.0

//! Module parameters that can be read and written in sysfs.

use crate::{
    bindings,
    error::{
        from_result,
        to_result, //
    },
    fmt::Write,
    page::PAGE_SIZE,
    prelude::*,
    str::Formatter,
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
};
use core::ops::RangeInclusive;

/// A number that the module's user may change at any time, within bounds.
///
/// The [`module!`](macros::module) macro makes one of a parameter of type `u32` that says from
/// where to where it is `writable`. It is `/sys/module/<module>/parameters/<name>` then, which
/// everybody may read, and root may write: a number as C has it, in decimal, or with `0x` or `0` in
/// front in hexadecimal or octal. Anything else, and a number out of bounds, is refused with
/// `EINVAL`, one that needs more than 32 bits with `ERANGE`; so is the loading of a module with
/// such a parameter.
///
/// Wraps C's `module_param_cb()`.
///
/// # Invariants
///
/// `value` is in `min..=max`.
pub struct WritableParam {
    value: Atomic<u32>,
    min: u32,
    max: u32,
}

impl WritableParam {
    /// A parameter that was not set yet.
    ///
    /// # Panics
    ///
    /// If the default is out of the bounds. The macro makes a static of the parameter, so that is
    /// an error of the compiler.
    #[doc(hidden)]
    pub const fn new(default: u32, bounds: RangeInclusive<u32>) -> Self {
        let min = *bounds.start();
        let max = *bounds.end();

        assert!(
            min <= default && default <= max,
            "the default of a writable parameter is out of its bounds"
        );
        // INVARIANT: It was just checked.
        Self {
            value: Atomic::new(default),
            min,
            max,
        }
    }

    /// The value at this moment, which is within the bounds. Any context. Wraps C's
    /// `atomic_read()`.
    #[inline]
    pub fn value(&self) -> u32 {
        // Nothing else depends on it.
        self.value.load(Relaxed)
    }

    fn set(&self, value: u32) -> Result {
        if !(self.min..=self.max).contains(&value) {
            return Err(EINVAL);
        }
        // INVARIANT: It was just checked.
        self.value.store(value, Relaxed);
        Ok(())
    }

    /// What `struct kernel_param` holds for this parameter.
    #[doc(hidden)]
    pub const fn as_void_ptr(&self) -> *mut c_void {
        core::ptr::from_ref(self).cast_mut().cast()
    }

    /// The parameter that a `struct kernel_param` stands for.
    ///
    /// # Safety
    ///
    /// `param` must be valid, and made by the macro for a writable parameter.
    unsafe fn from_param<'a>(param: *const bindings::kernel_param) -> &'a Self {
        // SAFETY: By the safety requirement, the argument is what `as_void_ptr()` returned for a
        // static. Sysfs removes the file of the parameter, and waits for who uses it, before the
        // module and its statics go. Shared references are all that exists.
        unsafe { &*(*param).__bindgen_anon_1.arg.cast::<Self>() }
    }
}

/// Sets a parameter from text, when the module is loaded or later.
///
/// # Safety
///
/// `val` must be null or a string that ends with a null byte; `param` as for
/// [`WritableParam::from_param`].
unsafe extern "C" fn set(val: *const c_char, param: *const bindings::kernel_param) -> c_int {
    from_result(|| {
        if val.is_null() {
            return Err(EINVAL);
        }
        let mut value = 0;
        // SAFETY: By the safety requirement this is a string.
        to_result(unsafe { bindings::kstrtouint(val, 0, &mut value) })?;
        // SAFETY: By the safety requirement.
        unsafe { WritableParam::from_param(param) }.set(value)?;
        Ok(0)
    })
}

/// Writes the value of a parameter as text, and returns its length.
///
/// # Safety
///
/// `buf` must have room for a page; `param` as for [`WritableParam::from_param`].
unsafe extern "C" fn get(buf: *mut c_char, param: *const bindings::kernel_param) -> c_int {
    // SAFETY: By the safety requirement.
    let value = unsafe { WritableParam::from_param(param) }.value();
    // SAFETY: By the safety requirement.
    let mut text = unsafe { Formatter::from_buffer(buf.cast(), PAGE_SIZE) };

    // A page has room for it.
    let _ = writeln!(text, "{value}");
    text.bytes_written() as c_int
}

/// How the kernel reads and writes a [`WritableParam`].
#[doc(hidden)]
pub static WRITABLE_PARAM_OPS: bindings::kernel_param_ops = bindings::kernel_param_ops {
    flags: 0,
    set: Some(set),
    get: Some(get),
    free: None,
};

/// Who may do so: everybody may read, root may write.
#[doc(hidden)]
pub const WRITABLE_PARAM_MODE: u16 = 0o644;

#[cfg(CONFIG_RUST_MODULE_PARAM_KUNIT_TEST)]
#[macros::kunit_tests(rust_module_param_writable)]
mod tests {
    use super::*;
    use crate::module_param::KernelParam;

    static PARAM: WritableParam = WritableParam::new(64, 2..=0x100);

    #[test]
    fn text_in_and_out() {
        let mut raw: bindings::kernel_param = pin_init::zeroed();
        raw.__bindgen_anon_1.arg = PARAM.as_void_ptr();
        let raw = KernelParam::new(raw);
        let write = |text: &CStr| {
            // SAFETY: The argument is that of a static parameter.
            to_result(unsafe { set(text.as_char_ptr(), &raw.0) })
        };
        let mut page = [0u8; PAGE_SIZE / 16];
        let mut expect = |text: &[u8]| {
            // SAFETY: The argument is as above. What is written is shorter than the buffer.
            let len = unsafe { get(page.as_mut_ptr().cast(), &raw.0) };
            assert_eq!(&page[..len as usize], text);
        };

        expect(b"64\n");
        assert_eq!(write(c"2\n"), Ok(()));
        expect(b"2\n");
        assert_eq!(write(c"0x100"), Ok(()));
        expect(b"256\n");
        for text in [c"", c"\n", c"x", c"-3", c"1", c"257", c"3 4", c"3\n\n"] {
            assert_eq!(write(text), Err(EINVAL));
        }
        assert_eq!(write(c"4294967299"), Err(ERANGE));
        // SAFETY: The argument is as above; a null pointer is allowed.
        assert_eq!(unsafe { set(core::ptr::null(), &raw.0) }, EINVAL.to_errno());
        assert_eq!(PARAM.value(), 256);
    }
}
