// SPDX-License-Identifier: GPL-2.0

//! The types by which the parts of the driver name each other's objects. Who serves them is above:
//! the operations of a [`Disk`] in `disk.rs`, the [`IoCommands`] in `io_cmd.rs`.

use kernel::{
    block::mq::{
        DriverRequests,
        Request,
        ZoneRange, //
    },
    io_uring::{
        BufGroup,
        MultishotCmd,
        QueuedCmd, //
    },
    sync::aref::ARef, //
};

/// The block device.
pub(crate) struct Disk;

/// A request of the driver itself, which asks the server for zones of the disk.
pub(crate) struct ReportRequest {
    /// Which ones.
    pub(crate) zones: ZoneRange,
    /// Whether it may wait for the next server, as the requests of others do.
    pub(crate) may_wait: bool,
}

impl DriverRequests for Disk {
    type Data = ReportRequest;
}

/// The I/O commands of `/dev/ublkcN`.
pub(crate) struct IoCommands;

/// The I/O commands of `/dev/ublkcN` of a device with `UBLK_F_BATCH_IO`.
pub(crate) struct BatchCommands;

/// A command of the server, waiting for a request.
pub(crate) type Command = QueuedCmd<IoCommands>;

/// A command of the server that tells it the tags of many requests.
pub(crate) type FetchCommand = MultishotCmd<BatchCommands>;

/// A reference to a request.
pub(crate) type RequestRef = ARef<Request<Disk>>;

/// Counts the requests that the server got from a slot. So it tells whether the request that a
/// command was about is still the same.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Generation(u32);

impl Generation {
    /// That of the next request.
    pub(crate) fn next(self) -> Self {
        Self(self.0.wrapping_add(1))
    }

    /// The count, for humans.
    pub(crate) fn count(self) -> u32 {
        self.0
    }
}

/// What a queued command carries: which slot it is for.
#[derive(Clone, Copy)]
pub(crate) struct CmdData {
    pub(crate) q_id: u16,
    pub(crate) tag: u16,
    /// Which of the slot's requests it commits, if it is a primary that does.
    pub(crate) generation: Generation,
}

/// Tells the fetch commands of a queue apart; earlier ones are lower.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FetchId(pub(crate) u64);

/// What a queued fetch command carries.
#[derive(Clone, Copy)]
pub(crate) struct FetchData {
    pub(crate) id: FetchId,
    pub(crate) q_id: u16,
    /// Where the server's buffers come from.
    pub(crate) group: BufGroup,
}
