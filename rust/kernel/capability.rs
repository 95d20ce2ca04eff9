// SPDX-License-Identifier: GPL-2.0

//! Capabilities of the current task.
//!
//! C header: [`include/linux/capability.h`](srctree/include/linux/capability.h)

use crate::bindings;

/// A privilege that a task may have, C's `CAP_*`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Capability(u32);

impl Capability {
    /// Administration of the system; see `capabilities(7)`.
    pub const SYS_ADMIN: Self = Self(bindings::CAP_SYS_ADMIN);
    /// Locking any amount of memory.
    pub const IPC_LOCK: Self = Self(bindings::CAP_IPC_LOCK);
}

/// Whether the current task has `capability` in the initial user namespace.
///
/// If it has, then the kernel notes that it has used a privilege (`PF_SUPERPRIV`), and the audit
/// log may tell. So ask only where the answer decides something.
///
/// # Context
///
/// Process context. Wraps C's `capable()`.
///
/// # Examples
///
/// ```
/// use kernel::capability::{
///     capable,
///     Capability, //
/// };
///
/// fn admin_only() -> Result {
///     if !capable(Capability::SYS_ADMIN) {
///         return Err(EPERM);
///     }
///     Ok(())
/// }
/// # admin_only()?;
/// # Ok::<(), Error>(())
/// ```
pub fn capable(capability: Capability) -> bool {
    // SAFETY: The argument is a valid capability, as there is no other value of the type.
    unsafe { bindings::capable(capability.0 as ffi::c_int) }
}
