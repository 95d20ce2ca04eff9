// SPDX-License-Identifier: GPL-2.0

//! The targets of fublk.

#![forbid(unsafe_code)]

mod file;
#[cfg(test)]
#[allow(clippy::cast_possible_truncation, reason = "small numbers")]
mod model;
mod null;
mod open;

pub use file::FileTarget;
pub use null::Null;
pub use open::Access;
