// SPDX-License-Identifier: GPL-2.0

//! What becomes of requests that can not be served: what the device's features say about it, and
//! the gate that every request passes.

use crate::uapi::*;
use kernel::prelude::*;

/// What the recovery features of a device say about requests without a server.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Recovery {
    /// The disk survives its server.
    pub(crate) possible: bool,
    /// Requests wait for the next server; else they fail.
    pub(crate) holds: bool,
    /// So do those that the dead server had; else they fail.
    pub(crate) reissues: bool,
}

impl Recovery {
    /// What the features `flags` say.
    pub(crate) fn new(flags: u64) -> Self {
        let possible = flags & UBLK_F_USER_RECOVERY != 0;

        Self {
            possible,
            holds: possible && flags & UBLK_F_USER_RECOVERY_FAIL_IO == 0,
            reissues: possible && flags & UBLK_F_USER_RECOVERY_REISSUE != 0,
        }
    }

    /// What is done with requests while there is no server.
    pub(crate) fn gate_without_server(self) -> Gate {
        if self.holds {
            Gate::Held
        } else {
            Gate::Failing
        }
    }

    /// The state that user space is told then.
    pub(crate) fn state_without_server(self) -> u32 {
        if self.holds {
            UBLK_S_DEV_QUIESCED
        } else {
            UBLK_S_DEV_FAIL_IO
        }
    }
}

/// What is done with a request of the block layer.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(u32)]
pub(crate) enum Gate {
    /// It goes to the slot.
    Open = 0,
    /// It waits until somebody kicks the block layer's list.
    Held = 1,
    /// It fails with `BLK_STS_TARGET`: there is no server.
    Failing = 2,
    /// It fails: the disk is about to go, or the server is being sent away.
    Aborting = 3,
    /// It goes to the slot, but does not wait for another server: the disk is being deleted while
    /// its server can still write back what is dirty.
    Draining = 4,
}

impl Gate {
    /// The gate with this number.
    #[inline]
    pub(crate) fn from_number(number: u32) -> Self {
        match number {
            0 => Self::Open,
            1 => Self::Held,
            2 => Self::Failing,
            4 => Self::Draining,
            _ => Self::Aborting,
        }
    }
}

#[kunit_tests(ublk_rs_policy)]
mod tests {
    use super::*;

    #[test]
    fn policies() {
        let none = Recovery::new(UBLK_F_USER_RECOVERY_REISSUE);
        assert!(!none.possible && !none.holds && !none.reissues);
        let hold = Recovery::new(UBLK_F_USER_RECOVERY);
        assert!(hold.possible && hold.holds && !hold.reissues);
        assert_eq!(hold.gate_without_server(), Gate::Held);
        assert_eq!(hold.state_without_server(), UBLK_S_DEV_QUIESCED);
        let reissue = Recovery::new(UBLK_F_USER_RECOVERY | UBLK_F_USER_RECOVERY_REISSUE);
        assert!(reissue.holds && reissue.reissues);
        let fail = Recovery::new(UBLK_F_USER_RECOVERY | UBLK_F_USER_RECOVERY_FAIL_IO);
        assert!(fail.possible && !fail.holds && !fail.reissues);
        assert_eq!(fail.gate_without_server(), Gate::Failing);
        assert_eq!(fail.state_without_server(), UBLK_S_DEV_FAIL_IO);
    }

    #[test]
    fn gates() {
        for gate in [
            Gate::Open,
            Gate::Held,
            Gate::Failing,
            Gate::Aborting,
            Gate::Draining,
        ] {
            assert_eq!(Gate::from_number(gate as u32), gate);
        }
    }
}
