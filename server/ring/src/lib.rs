// SPDX-License-Identifier: GPL-2.0

//! io_uring for a server of ublk: a ring for one thread, with an executor, and
//! the commands of `/dev/ublk-control`. All `unsafe` that is about io_uring is here.
//!
//! What can be asked for is safe whatever the caller does: files are indices of a
//! table that is fixed with the ring, memory is owned by the request until it has
//! completed, and no request takes an address of the caller.

mod batch;
mod control;
mod ops;
mod ring;
mod sqe;

pub use control::{Control, ControlCmd};
pub use ring::{Done, Memory, Op, Ring, Task, has_fused_commands};
pub use sqe::{Direction, FileIndex, IoCmd, Kind, Secondary};

/// How many secondaries a fused command has at most.
pub const MAX_SECONDARY: u16 = 64;
