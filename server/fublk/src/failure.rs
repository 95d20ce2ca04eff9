// SPDX-License-Identifier: GPL-2.0

//! What has failed, for whoever called, and the exit status for a script.

use std::{fmt, fs::File, io, process::ExitCode};
use ublk_server::Errno;

/// A message, and an exit status.
#[derive(Debug)]
pub(crate) struct Failure {
    message: String,
    code: u8,
}

impl Failure {
    pub(crate) fn new(message: impl Into<String>) -> Failure {
        Failure { message: message.into(), code: 1 }
    }

    /// Somebody else has it.
    pub(crate) fn in_use(message: impl Into<String>) -> Failure {
        Failure { message: message.into(), code: 5 }
    }

    /// A process that has said itself what has failed.
    pub(crate) fn of_child(what: String, code: Option<i32>) -> Failure {
        match code {
            Some(code) => Failure {
                message: format!("{what}: failed with status {code}"),
                code: u8::try_from(code).unwrap_or(1).max(1),
            },
            None => Failure { message: format!("{what}: killed"), code: 1 },
        }
    }

    /// Rights are missing.
    pub(crate) fn denied(message: impl Into<String>) -> Failure {
        Failure { message: message.into(), code: 4 }
    }

    pub(crate) fn code(&self) -> ExitCode {
        self.code.into()
    }

    /// Something that was asked of a device.
    pub(crate) fn of_device(id: u32, error: &io::Error) -> Failure {
        match error.raw_os_error() {
            Some(n) if n == Errno::ENODEV.get() => {
                Failure { message: format!("there is no device {id}"), code: 6 }
            }
            Some(n) if n == Errno::EBUSY.get() => {
                Failure { message: format!("device {id} is in use"), code: 5 }
            }
            Some(n) if [Errno::EPERM, Errno::EACCES].map(Errno::get).contains(&n) => {
                Failure { message: format!("device {id} is not yours: be root, or who made it"), code: 4 }
            }
            _ => Failure { message: format!("device {id}: {error}"), ..Failure::from_ref(error) },
        }
    }

    fn from_ref(error: &io::Error) -> Failure {
        let code = match error.kind() {
            io::ErrorKind::PermissionDenied => 4,
            io::ErrorKind::ResourceBusy => 5,
            _ => 1,
        };
        Failure { message: error.to_string(), code }
    }
}

impl From<&io::Error> for Failure {
    fn from(error: &io::Error) -> Failure {
        Failure::from_ref(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::from_ref(&error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// Nothing works without the driver: say so before anything else does.
pub(crate) fn driver_is_there() -> Result<(), Failure> {
    match File::options().read(true).write(true).open("/dev/ublk-control") {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Err(Failure {
            message: "there is no ublk driver: load ublk_rs or ublk_drv (modprobe ublk_drv)".into(),
            code: 3,
        }),
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Err(Failure {
            message: "/dev/ublk-control is not for you: be root, or have the udev rules of fublk".into(),
            code: 4,
        }),
        Err(e) => Err(Failure::new(format!("/dev/ublk-control: {e}"))),
    }
}
