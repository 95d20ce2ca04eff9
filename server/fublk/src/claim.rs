// SPDX-License-Identifier: GPL-2.0

//! Who makes or serves the device with a number. A device that is just being made looks to the
//! driver like one whose server has died.

use crate::{Failure, manage, slow::slow, state};
use std::{
    fs::File,
    io, thread,
    time::{Duration, Instant},
};
use ublk_server::control;
use ublk_sys::lock_byte_alone;

/// How long the last server of a device may take to be gone.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The number is that of this process, as long as it lives.
///
/// It is a lock of the byte with that number of a file that only this user can open. Devices of other
/// users are nobody else's to take over anyhow.
pub(crate) struct Claim {
    _file: File,
}

impl Claim {
    /// `None`: another process has it.
    pub(crate) fn attempt(id: u32) -> io::Result<Option<Claim>> {
        Claim::of(state::lock_file()?, id)
    }

    fn of(file: File, id: u32) -> io::Result<Option<Claim>> {
        match lock_byte_alone(&file, id) {
            Ok(()) => Ok(Some(Claim { _file: file })),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Wait for another process that may be about to end, or to fail. Once it serves the device, say so:
    /// it is `served`.
    pub(crate) fn get(id: u32, served: impl FnOnce() -> Failure) -> Result<Claim, Failure> {
        slow(&format!("waiting for another process that has device {id}"), || {
            let end = Instant::now() + PATIENCE;
            loop {
                if let Some(claim) = Claim::attempt(id)? {
                    return Ok(claim);
                }
                if control::info(id).is_ok_and(|info| info.is_live() && manage::lives(info.ublksrv_pid)) {
                    return Err(served());
                }
                if Instant::now() > end {
                    let why = format!("another process is just making device {id}, or does not end");
                    return Err(Failure::in_use(why));
                }
                thread::sleep(Duration::from_millis(50));
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn one_has_it() {
        let file = ublk_sys::memory_file(0).unwrap();
        let open = || {
            let path = format!("/proc/self/fd/{}", file.as_raw_fd());
            File::options().read(true).write(true).open(path).unwrap()
        };
        let first = Claim::of(open(), 3).unwrap();
        assert!(first.is_some() && Claim::of(open(), 3).unwrap().is_none());
        assert!(Claim::of(open(), 4).unwrap().is_some());
        drop(first);
        assert!(Claim::of(open(), 3).unwrap().is_some());
    }
}
