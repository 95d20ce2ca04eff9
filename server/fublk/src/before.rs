// SPDX-License-Identifier: GPL-2.0

//! What there was of a device before `fublk run` has begun with it. What it has only taken over
//! may be mounted: it does not end with the file.

use crate::{Failure, config::Entry, manage, state};
use ublk_server::{Errno, control};
use ublk_sys::uapi::DevInfo;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Before {
    /// Nothing, or the number only.
    Nothing,
    /// It waits for a server.
    Waits,
    /// It has one.
    Served,
    /// It is there, but something else than it has to be.
    Other,
}

impl Before {
    pub(crate) fn of(entry: &Entry) -> Result<Before, Failure> {
        let info = match control::info(entry.id) {
            Ok(info) => info,
            Err(e) if e.raw_os_error() == Some(Errno::ENODEV.get()) => return Ok(Before::Nothing),
            // Nor is one that nobody could look at ours to end.
            Err(e) => return Err(Failure::of_device(entry.id, &e)),
        };
        let mut spec = entry.spec.clone();
        spec.make_absolute()?;
        let same = matches!(state::get(entry.id), Ok(Some(kept)) if kept.is_part_of(&spec));
        Ok(Before::judge(&info, manage::lives(info.ublksrv_pid), same))
    }

    fn judge(info: &DevInfo, lives: bool, same: bool) -> Before {
        match (info.is_live(), info.is_without_server()) {
            (false, false) => Before::Nothing,
            _ if !same => Before::Other,
            (true, _) if lives => Before::Served,
            _ => Before::Waits,
        }
    }

    /// Is it not ours to end?
    pub(crate) fn was_there(self) -> bool {
        self != Before::Nothing
    }
}

/// Does a device wait for a server, now?
pub(crate) fn waits(id: u32) -> bool {
    control::info(id).is_ok_and(|info| {
        // The driver may not have noticed yet that its server is gone.
        info.survives() && (info.is_without_server() || info.is_live())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_there_was() {
        let info = |state| DevInfo { state, ..DevInfo::default() };
        assert_eq!(Before::judge(&info(0), true, true), Before::Nothing);
        assert_eq!(Before::judge(&info(1), true, true), Before::Served);
        for state in [1, 2, 3] {
            assert_eq!(Before::judge(&info(state), true, false), Before::Other);
            assert_eq!(Before::judge(&info(state), false, true), Before::Waits);
        }
        // Its last server, or another process with that number.
        assert_eq!(Before::judge(&info(2), true, true), Before::Waits);
        assert!(Before::Waits.was_there() && Before::Served.was_there() && Before::Other.was_there());
        assert!(!Before::Nothing.was_there());
    }
}
