// SPDX-License-Identifier: GPL-2.0

//! The targets of fublk.

#![forbid(unsafe_code)]

mod file;
mod mirror;
#[cfg(test)]
#[allow(clippy::cast_possible_truncation, reason = "small numbers")]
mod model;
mod nbd;
mod null;
mod open;
mod qcow2;
mod qemu_lock;
mod stripe;

pub use file::FileTarget;
pub use mirror::{Mirror, Record};
pub use nbd::{Nbd, Uri};
pub use null::Null;
pub use open::Access;
pub use qcow2::Qcow2;
pub use stripe::Stripe;
