// SPDX-License-Identifier: GPL-2.0

//! Lines in the log, of which a server that goes mad must not make too many.

use std::fmt::Display;
use ublk_server::RareLog;

/// A line about servers.
pub(crate) fn say(what: impl Display) {
    static LOG: RareLog = RareLog::new();
    LOG.log(format_args!("nbd: {what}"));
}
